"""Estimates from a recorded usage: energy, saving, diversity, effective λ, each with the standard uncertainty of its sampling.

``counts`` has the shape (B, N), slots per batch and expert, or (N,) where only the total was kept. The uncertainty says how far another
recording of the same router on other data of the same kind would lie:

* one total: multinomial, slots independent. Too small where tokens of a sequence resemble each other, and says so in ``basis``;
* B ≥ 2 batches: clusters. With the influence g_i of a slot in expert i (Σ p_i·g_i = 0) and r_b = Σ_i n_bi·g_i, the variance is
  ``B/(B−1)·Σ r_b²/n²``, B − 1 degrees of freedom; its ratio to the multinomial is the design effect. Usage of rare experts is skewed, and
  a Student interval then errs on one side: the uncertainty is widened by Edgeworth's term for the skewness of the r_b, on both.

Diversity has no first-order variance near uniform; there its second order, ``√((N−1)/2)/n`` slots times the design effect, is what remains
and is added in quadrature. λ_eff is the β of the Gibbs usage with the same energy: the maximum-likelihood estimate of the family, and
``ln(((1−h)/h)·(n_h/n_c))/ΔE`` for two classes. It falls with energy, so its interval is that of the energy, mapped.

References: Cochran, *Sampling techniques*, 3rd ed., §9A; Johnson, JASA 73 (1978) 536; Rao & Scott, JASA 76 (1981) 221; Paninski, Neural
Computation 15 (2003) 1191.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pytest_physics.metrology.routing import (
    FloatArray,
    checked_costs,
    checked_counts,
    energy_excess,
    energy_per_slot,
    energy_range,
    entropy,
    frontier_at_energy,
    frontier_gap,
    maximum_violation,
    miller_madow,
    shares_of,
    uniform_energy,
)
from pytest_physics.metrology.uncertainty import coverage_factor

Basis = Literal["multinomial", "batches"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """A number with its standard uncertainty."""

    value: float
    u: float
    """Standard uncertainty, in ``unit``."""
    dof: float
    """Degrees of freedom of ``u``; infinite where it follows from a law."""
    unit: str
    bounds: tuple[float, float] | None = None
    """95 % interval where it is not symmetric; may be infinite on one side."""

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval, in ``unit``."""
        reach = coverage_factor(self.dof) * self.u if self.u else 0.0
        return self.bounds or (self.value - reach, self.value + reach)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEstimates:
    """What one recorded usage says, with costs taken as exact."""

    n_slots: float
    n_batches: int
    basis: Basis
    """Where the uncertainties come from."""
    design_effect: float
    """Variance of the energy over that of as many independent slots."""
    energy_j: Statistic
    """Energy per slot."""
    saving: Statistic
    """Share saved against uniform routing."""
    entropy_nats: Statistic
    """Pooled diversity, Miller–Madow corrected."""
    plain_entropy_nats: float
    """Pooled diversity as it stands: this one obeys the bound."""
    batch_entropy_nats: float
    """Diversity within a batch, averaged over batches, as some reports print it; low by (N − 1)/(2·slots of a batch)."""
    effective_lambda_per_j: Statistic
    """β of the Gibbs usage with the same energy; negative where energy is sought."""
    gap_nats: float
    """Distance to the frontier at equal energy, as it stands."""
    gap_floor_nats: float
    """What a usage drawn from the frontier itself shows on average: (N − 2)/(2n), times the design effect beside the cost (Rao–Scott)."""
    frontier_p: float
    """Probability of so large a gap on the frontier (G test, N − 2 degrees of freedom, that design effect taken out)."""
    energy_excess: float
    """Energy over the least energy at equal diversity, minus 1."""
    maximum_violation: float
    """Busiest expert's load over the mean, minus 1, pooled."""
    batch_violation: float
    """The same within the worst batch: what a capacity factor must hold."""


def estimate_usage(counts: ArrayLike, costs: ArrayLike) -> UsageEstimates:
    """All estimates of one recorded usage.

    Parameters
    ----------
    counts
        Slots per batch and expert, shape (B, N), or per expert, shape (N,).
    costs
        Energy per slot, in joules, shape (N,).
    """
    values, pooled, batches = checked_costs(costs), checked_counts(counts), np.atleast_2d(np.asarray(counts, float))
    n, energy, mean = float(pooled.sum()), energy_per_slot(pooled, values), uniform_energy(values)
    u_energy, dof = _sampling(batches, values - energy)
    beside = _design_effect(batches, _complement(pooled / n, values))
    floor = (len(values) - 2) / (2 * n) * beside
    gap = frontier_gap(pooled, values)
    return UsageEstimates(
        n_slots=n,
        n_batches=len(batches),
        basis="batches" if len(batches) > 1 else "multinomial",
        design_effect=_design_effect(batches, (values - energy)[:, None]),
        energy_j=Statistic(value=energy, u=u_energy, dof=dof, unit="J"),
        saving=Statistic(value=1 - energy / mean, u=u_energy / mean, dof=dof, unit="1"),
        entropy_nats=_entropy(batches, beside),
        plain_entropy_nats=entropy(pooled),
        batch_entropy_nats=float(np.mean([entropy(row) for row in batches if row.sum()])),
        effective_lambda_per_j=effective_lambda(values, energy, u_energy, dof),
        gap_nats=gap,
        gap_floor_nats=floor,
        frontier_p=float(stats.chi2.sf(2 * n * max(gap, 0.0) / beside, len(values) - 2)) if len(values) > 2 else 1.0,
        energy_excess=energy_excess(pooled, values),
        maximum_violation=maximum_violation(pooled),
        batch_violation=max(maximum_violation(row) for row in batches if row.sum()),
    )


def effective_lambda(costs: ArrayLike, energy_j: float, u_energy_j: float, dof: float = math.inf) -> Statistic:
    """λ_eff in 1/J of a usage of ``energy_j`` ± ``u_energy_j`` per slot; its interval is infinite where energy may be at an end."""
    values = checked_costs(costs)
    reach = coverage_factor(dof) * u_energy_j if u_energy_j else 0.0
    best, variance = _beta(values, energy_j)
    bounds = (_beta(values, energy_j + reach)[0], _beta(values, energy_j - reach)[0])
    # at an end of the range, where the family has no variance left, the interval says everything that is known
    u = u_energy_j / variance if variance > 0 and math.isfinite(best) else math.inf
    return Statistic(value=best, u=u, dof=dof, unit="1/J", bounds=bounds)


def paired_difference(treated: ArrayLike, control: ArrayLike, *, unit: str = "J") -> Statistic:
    """Mean of treated − control over pairs that share gate and data, with the scatter between the pairs; n − 1 degrees of freedom."""
    a, b = np.asarray(treated, float), np.asarray(control, float)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(f"pairs need as many treated as control values, and two of each (got {a.shape} and {b.shape}).")
    return mean_statistic(a - b, unit=unit)


def mean_statistic(values: ArrayLike, *, unit: str) -> Statistic:
    """Mean of independent repetitions (gates) with its standard error; n − 1 degrees of freedom."""
    x = np.asarray(values, float)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"a mean with its scatter needs at least two finite values (got {x.tolist()}).")
    return Statistic(value=float(x.mean()), u=float(x.std(ddof=1)) / math.sqrt(len(x)), dof=len(x) - 1, unit=unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTrend:
    """A quantity in the first, second and last third of a run."""

    early: float
    middle: float
    late: float
    change: Statistic
    """Late minus early; the units of its scatter are gates where there are several, else blocks of batches."""
    p: float
    """Probability of so large a change without any trend."""


def phase_trend(per_batch: ArrayLike, *, unit: str = "J") -> PhaseTrend:
    """Early, middle and late thirds of one run (B,) or of several gates (G, B), with a t test of late − early.

    For a single run the two thirds are compared in four blocks each (Welch), so that neighbouring batches may resemble each other.
    """
    series = np.atleast_2d(np.asarray(per_batch, float))
    if series.shape[1] < 6 or not np.isfinite(series).all():
        raise ValueError(f"a trend over phases needs at least 6 batches of finite values (got {series.shape[1]}); record more batches.")
    third = series.shape[1] // 3
    early, late = series[:, :third], series[:, -third:]
    change = (
        paired_difference(late.mean(axis=1), early.mean(axis=1), unit=unit) if len(series) > 1 else _block_change(early[0], late[0], unit)
    )
    p = _two_sided(change)
    return PhaseTrend(
        early=float(early.mean()), middle=float(series[:, third:-third].mean()), late=float(late.mean()), change=change, p=p,
    )  # fmt: skip


# --- inside ----------------------------------------------------------------------------------------------------------


def _two_sided(change: Statistic) -> float:
    if change.u == 0:
        return float(change.value == 0)
    return float(2 * stats.t.sf(abs(change.value) / change.u, change.dof))


def _block_change(early: FloatArray, late: FloatArray, unit: str) -> Statistic:
    a, b = (np.array([block.mean() for block in np.array_split(part, min(4, len(part)))]) for part in (early, late))
    va, vb = (float(np.var(x, ddof=1)) / len(x) for x in (a, b))
    total = va + vb
    dof = total**2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)) if total else math.inf
    return Statistic(value=float(b.mean() - a.mean()), u=math.sqrt(total), dof=dof, unit=unit)


SKEW_ALLOWANCE = (2 * 1.96**2 + 1) / (6 * 1.96)
"""Edgeworth's one-sided error of a Student interval, in units of skewness/√B, relative to the interval."""


def _sampling(batches: FloatArray, influence: FloatArray) -> tuple[float, float]:
    """Standard uncertainty and degrees of freedom of a ratio estimate whose slots have these influences."""
    if len(batches) < 2:
        return _multinomial(batches, influence), math.inf
    count, residual = len(batches), batches @ influence
    skew = abs(float(stats.skew(residual, bias=False))) if count > 2 and np.ptp(residual) > 0 else 0.0
    # an interval of an estimate is symmetric: both sides get what the worse one needs
    return _clustered(batches, influence) * (1 + SKEW_ALLOWANCE * skew / math.sqrt(count)), count - 1


def _clustered(batches: FloatArray, influence: FloatArray) -> float:
    count, residual = len(batches), batches @ influence
    return math.sqrt(count / (count - 1) * float(residual @ residual)) / float(batches.sum())


def _multinomial(batches: FloatArray, influence: FloatArray) -> float:
    pooled = batches.sum(axis=0)
    return math.sqrt(float(pooled @ influence**2)) / float(pooled.sum())


def _design_effect(batches: FloatArray, influences: FloatArray) -> float:
    """Cluster variance over multinomial variance, averaged over influences (N, M); at least 1, as a few batches may look too even."""
    if len(batches) < 2:
        return 1.0
    pairs = [(_clustered(batches, influence), _multinomial(batches, influence)) for influence in influences.T]
    ratios = [(clustered / independent) ** 2 for clustered, independent in pairs if independent > 0]
    return max(1.0, float(np.mean(ratios))) if ratios else 1.0


def _complement(shares: FloatArray, costs: FloatArray) -> FloatArray:
    """Influences in which a usage can leave the frontier: orthonormal under ``shares``, and orthogonal to 1 and to cost, shape (N, M)."""
    used = shares > 0
    root = np.sqrt(shares[used])
    basis, triangle = np.linalg.qr(np.column_stack([root, root * costs[used], np.diag(root)]))
    first = 2 if len(root) > 1 and abs(triangle[1, 1]) > 1e-9 * float(costs.max()) else 1
    out = np.zeros((len(shares), max(0, int(used.sum()) - first)))
    out[used] = basis[:, first:] / root[:, None]
    return out


def _entropy(batches: FloatArray, effect: float) -> Statistic:
    shares = shares_of(batches)
    surprise = np.zeros_like(shares)
    used = shares > 0
    surprise[used] = -np.log(shares[used]) - entropy(shares)
    linear, dof = _sampling(batches, surprise)
    second = math.sqrt((len(shares) - 1) / 2) / float(batches.sum()) * effect
    return Statistic(value=miller_madow(batches), u=math.hypot(linear, second), dof=dof, unit="nat")


def _beta(costs: FloatArray, energy_j: float) -> tuple[float, float]:
    """β of the Gibbs usage with this energy, and its dE/dβ with the sign turned (the variance of costs in it)."""
    low, high = energy_range(costs)
    if low == high:
        return 0.0, 0.0
    if not low <= energy_j <= high:
        return (math.inf if energy_j < low else -math.inf), 0.0
    point = frontier_at_energy(costs, energy_j)
    shares = np.asarray(point.shares)
    return point.beta_per_j, float(shares @ (costs - energy_j) ** 2)
