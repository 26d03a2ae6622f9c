"""The limit of energy-aware expert routing, and the measures of a recorded usage.

A router sends each token to k of N experts; a *slot* is one (token, expert) pair, ``costs[i]`` the energy of a slot in expert i in joules.
Energy per slot ``E = Σ p_i·E_i`` and diversity ``H = −Σ p_i·ln p_i`` (nats) of the usage shares p cannot be chosen freely: the least energy
for a diversity, and the greatest diversity for an energy, lie on the Gibbs family ``p_i ∝ exp(−β·E_i)`` with β in 1/J (Jaynes, Phys. Rev.
106 (1957) 620). So *every* usage obeys ``E ≥ minimum_energy(H)`` and ``H ≤ maximum_entropy(E)``, without any statistics.

With distinct experts per token no share exceeds 1/k, and with capacity factor CF none exceeds CF/N; then the optimum is capped:
``p_i = min(cap, c·exp(−β·E_i))``. :func:`share_cap` makes the cap; every function takes it.

Slope along the frontier: dE/dH = 1/β. Near uniform ``ln N − H ≈ (ΔE)²/(2·Var E)``: there an energy is a poor judge of distance to the
frontier and the entropy gap a good one; :func:`frontier_gap` is the latter everywhere. Near uniform ``minimum_energy`` is good to about
1e-8 of the costs' range (a square root of rounding), ``maximum_entropy`` to rounding.

Arguments that cannot be (negative costs, energies outside of the range, entropies above ln N) are ``ValueError``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

FloatArray = NDArray[np.float64]

ROUNDING = 1e-12
"""Relative slack for arguments that are themselves results of arithmetic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPoint:
    """One point of the energy–diversity frontier."""

    beta_per_j: float
    """Inverse slope dH/dE of the frontier, in 1/J; infinite at the floor, negative where energy is sought instead of saved."""
    shares: tuple[float, ...]
    """Usage share of each expert; sums to 1."""
    energy_j: float
    """Energy per slot, in joules."""
    entropy_nats: float
    """Diversity, in nats; at most ln N."""
    saving: float
    """Share of the energy of uniform routing that is saved."""


# --- what is allowed -------------------------------------------------------------------------------------------------


def checked_costs(costs: ArrayLike) -> FloatArray:
    """``costs`` as floats, shape (N,): joules per slot, N ≥ 2, each finite and > 0."""
    values = np.asarray(costs, float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"'costs' must be a list of at least two energies per slot (got the shape {values.shape}).")
    wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(wrong):
        raise ValueError(f"the cost of expert {wrong[0]} must be a finite energy > 0 J per slot (got {values[wrong[0]]}).")
    return values


def checked_counts(counts: ArrayLike) -> FloatArray:
    """Slots per expert, pooled over batches where ``counts`` has the shape (B, N); finite, ≥ 0, not all zero."""
    values = np.asarray(counts, float)
    if values.ndim not in {1, 2} or values.shape[-1] < 2:
        raise ValueError(f"'counts' must have one value per expert, or batches × experts (got the shape {values.shape}).")
    if not np.isfinite(values).all() or (values < 0).any():
        worst = values[~np.isfinite(values)] if not np.isfinite(values).all() else values[values < 0]
        raise ValueError(f"'counts' must be finite and ≥ 0 (got {worst[0]}).")
    pooled: FloatArray = values.sum(axis=0) if values.ndim == 2 else values
    if not pooled.sum() > 0:
        raise ValueError("'counts' holds no slot at all; record a usage first.")
    return pooled


def share_cap(n_experts: int, *, top_k: int = 1, capacity_factor: float | None = None) -> float:
    """Largest share that one expert can have: min(1/k, CF/N).

    >>> share_cap(8, top_k=2), share_cap(8, top_k=2, capacity_factor=1.25)
    (0.5, 0.15625)
    """
    if not 1 <= top_k <= n_experts:
        raise ValueError(f"'top_k' must be between 1 and the number of experts, {n_experts} (got {top_k}).")
    if capacity_factor is None:
        return 1.0 / top_k
    if not capacity_factor >= 1:
        raise ValueError(f"'capacity_factor' must be ≥ 1, or slots have no place (got {capacity_factor}).")
    return min(1.0 / top_k, capacity_factor / n_experts)


# --- the frontier ----------------------------------------------------------------------------------------------------


def gibbs(costs: ArrayLike, beta_per_j: float, *, cap: float = 1.0, prior: ArrayLike | None = None) -> FloatArray:
    """Usage shares of least ``β·E(p) − H(p)`` with every share ≤ ``cap``, shape (N,).

    Parameters
    ----------
    costs
        Energy per slot of each expert, in joules, shape (N,).
    beta_per_j
        β in 1/J; ±infinity gives the cheapest, or dearest, shares that the cap allows.
    cap
        Largest share of one expert, from :func:`share_cap`.
    prior
        Shares p0 without energy: then ``β·E(p) + KL(p‖p0)`` is minimised, and p ∝ p0·exp(−β·E). None is uniform.
    """
    values = checked_costs(costs)
    if math.isnan(beta_per_j):
        raise ValueError("'beta_per_j' must be a number (got nan).")
    if not cap * len(values) >= 1 - ROUNDING:
        raise ValueError(f"'cap' must be at least 1/N = {1 / len(values):.6g}, or the shares cannot sum to 1 (got {cap}).")
    return _family(values, beta_per_j, cap, None if prior is None else _log_prior(prior, len(values)))


def frontier(costs: ArrayLike, beta_per_j: float, *, cap: float = 1.0) -> FrontierPoint:
    """The frontier's point at β."""
    values = checked_costs(costs)
    shares = gibbs(values, beta_per_j, cap=cap)
    energy = float(shares @ values)
    return FrontierPoint(
        beta_per_j=beta_per_j, shares=tuple(map(float, shares)), energy_j=energy, entropy_nats=entropy(shares),
        saving=1 - energy / uniform_energy(values),
    )  # fmt: skip


def frontier_at_energy(costs: ArrayLike, energy_j: float, *, cap: float = 1.0) -> FrontierPoint:
    """The point of greatest diversity among all usages of ``energy_j`` per slot; β < 0 where that is above uniform."""
    values = checked_costs(costs)
    low, high = energy_range(values, cap=cap)
    slack = ROUNDING * float(values.max())
    if not low - slack <= energy_j <= high + slack:
        raise ValueError(f"no usage has {energy_j:.6g} J per slot; these costs and the cap {cap:.6g} allow {low:.6g} to {high:.6g} J.")
    if energy_j >= uniform_energy(values):
        return frontier(values, -_root(lambda b: energy_j - float(_family(values, -b, cap) @ values), values, slack), cap=cap)
    return frontier(values, _root(lambda b: float(_family(values, b, cap) @ values) - energy_j, values, slack), cap=cap)


def frontier_at_entropy(costs: ArrayLike, entropy_nats: float, *, cap: float = 1.0) -> FrontierPoint:
    """The point of least energy among all usages of at least this diversity."""
    values = checked_costs(costs)
    most = math.log(len(values))
    if not -ROUNDING <= entropy_nats <= most * (1 + ROUNDING):
        raise ValueError(f"a diversity of {len(values)} experts lies between 0 and ln N = {most:.6g} nats (got {entropy_nats:.6g}).")
    target = min(entropy_nats, most)
    beta = _root(lambda b: float(special.entr(_family(values, b, cap)).sum()) - target, values, ROUNDING)
    return frontier(values, beta, cap=cap)


def minimum_energy(costs: ArrayLike, entropy_nats: float, *, cap: float = 1.0) -> float:
    """E_min(H): least energy per slot, in joules, of a usage with at least this diversity."""
    return frontier_at_entropy(costs, entropy_nats, cap=cap).energy_j


def maximum_entropy(costs: ArrayLike, energy_j: float, *, cap: float = 1.0) -> float:
    """H_max(E): greatest diversity, in nats, of a usage of ``energy_j`` per slot."""
    return frontier_at_energy(costs, energy_j, cap=cap).entropy_nats


def energy_range(costs: ArrayLike, *, cap: float = 1.0) -> tuple[float, float]:
    """Least and greatest energy per slot that any usage can have, in joules."""
    values = checked_costs(costs)
    return float(gibbs(values, math.inf, cap=cap) @ values), float(gibbs(values, -math.inf, cap=cap) @ values)


def saving_ceiling(costs: ArrayLike, *, cap: float = 1.0) -> float:
    """Largest share of uniform routing's energy that any usage can save."""
    return 1 - energy_range(costs, cap=cap)[0] / uniform_energy(costs)


def diversity_cost(costs: ArrayLike, saving: float, *, cap: float = 1.0) -> float:
    """Least diversity, in nats below ln N, that a saving against uniform routing costs."""
    values = checked_costs(costs)
    ceiling = saving_ceiling(values, cap=cap)
    if not 0 <= saving <= ceiling + ROUNDING:
        raise ValueError(f"a saving lies between 0 and the ceiling of these costs, {ceiling:.4%} (got {saving:.4%}).")
    return math.log(len(values)) - maximum_entropy(values, uniform_energy(values) * (1 - saving), cap=cap)


def uniform_energy(costs: ArrayLike) -> float:
    """Energy per slot of uniform routing, in joules: the only baseline against which uniform routing saves nothing."""
    return float(checked_costs(costs).mean())


# --- measures of a usage ---------------------------------------------------------------------------------------------


def shares_of(counts: ArrayLike) -> FloatArray:
    """Usage shares, shape (N,), of slots per expert (N,) or per batch and expert (B, N)."""
    pooled = checked_counts(counts)
    shares: FloatArray = pooled / pooled.sum()
    return shares


def energy_per_slot(counts: ArrayLike, costs: ArrayLike) -> float:
    """Energy per slot in joules."""
    values, shares = checked_costs(costs), shares_of(counts)
    if len(values) != len(shares):
        raise ValueError(f"'counts' speaks of {len(shares)} experts and 'costs' of {len(values)}; they must be the same experts.")
    return float(shares @ values)


def entropy(counts: ArrayLike) -> float:
    """Diversity of shares or counts in nats, as it stands: the one that obeys the bound."""
    return float(special.entr(shares_of(counts)).sum())


def miller_madow(counts: ArrayLike) -> float:
    """Diversity in nats of what the counts were drawn from: the plug-in entropy is low by (K − 1)/(2n) for n slots in K used experts.

    An estimate, so it may exceed ln N by chance; the bound is about :func:`entropy`. Miller, in *Information theory in psychology* (1955).
    """
    pooled = checked_counts(counts)
    return entropy(pooled) + (int(np.count_nonzero(pooled)) - 1) / (2 * float(pooled.sum()))


def frontier_gap(counts: ArrayLike, costs: ArrayLike) -> float:
    """H_max(E) − H in nats at the usage's own energy: 0 on the frontier, never negative beyond rounding."""
    return maximum_entropy(costs, energy_per_slot(counts, costs)) - entropy(counts)


def energy_excess(counts: ArrayLike, costs: ArrayLike) -> float:
    """E/E_min(H) − 1: what the usage takes beyond the least energy for its own diversity."""
    return energy_per_slot(counts, costs) / minimum_energy(costs, entropy(counts)) - 1


def load_factors(counts: ArrayLike) -> FloatArray:
    """Share of each expert over its fair share 1/N, shape (N,): 1 is uniform."""
    shares = shares_of(counts)
    return shares * len(shares)


def class_load_factors(counts: ArrayLike, costs: ArrayLike) -> dict[float, float]:
    """Load factor of each class of equal cost, cheapest first: cost in joules to share over the class's fair share."""
    values, factors = checked_costs(costs), load_factors(counts)
    return {float(cost): float(factors[values == cost].mean()) for cost in np.unique(values)}


def maximum_violation(counts: ArrayLike) -> float:
    """MaxVio: load of the busiest expert over the mean load, minus 1; the usage needs a capacity factor of one more than this."""
    return float(load_factors(counts).max()) - 1


def imbalance_as_published(counts: ArrayLike, costs: ArrayLike, hot_j: float) -> float:
    """|cold − hot| over all slots, where hot experts cost ``hot_j`` or more.

    Uniform routing of six cold and two hot experts scores 0.5 and perfect avoidance of the hot ones 1.0: kept only to reproduce a
    published number. :func:`class_load_factors` says the same thing so that 1 is fair.
    """
    shares = shares_of(counts)
    hot = checked_costs(costs) >= hot_j
    return abs(float(shares[~hot].sum() - shares[hot].sum()))


def top_k(scores: ArrayLike, k: int) -> NDArray[np.bool_]:
    """The k best experts of each token as a mask, shape (T, N) as ``scores``."""
    values = np.asarray(scores, float)
    if values.ndim != 2 or np.isnan(values).any():
        raise ValueError("'scores' must be tokens × experts without NaN; a gate that gives NaN has diverged.")
    if not 1 <= k <= values.shape[1]:
        raise ValueError(f"'k' must be between 1 and the number of experts, {values.shape[1]} (got {k}).")
    chosen = np.zeros(values.shape, bool)
    np.put_along_axis(chosen, np.argpartition(-values, k - 1, axis=1)[:, :k], values=True, axis=1)
    return chosen


def score_regret(scores: ArrayLike, chosen: ArrayLike, *, k: int) -> FloatArray:
    """Per token: the sum of its k best scores minus the sum of the chosen ones, shape (T,).

    Parameters
    ----------
    scores
        The gate's own scores, before any penalty or bias, shape (T, N).
    chosen
        Mask of the chosen experts, shape (T, N). Where a router gives tokens unequal numbers of experts only the mean means something.
    k
        Slots per token on average.
    """
    values, mask = np.asarray(scores, float), np.asarray(chosen, bool)
    best = np.where(top_k(values, k), values, 0.0).sum(axis=1)
    regret: FloatArray = best - np.where(mask, values, 0.0).sum(axis=1)
    return regret


# --- inside ----------------------------------------------------------------------------------------------------------


def _family(costs: FloatArray, beta_per_j: float, cap: float, log_prior: FloatArray | None = None) -> FloatArray:
    """:func:`gibbs` for arguments that were checked."""
    start = np.zeros(len(costs)) if log_prior is None else log_prior
    if math.isinf(beta_per_j):
        return _cheapest_first(costs * math.copysign(1.0, beta_per_j), cap, start)
    exponents = start - beta_per_j * costs
    weights = np.exp(exponents - exponents.max())
    shares: FloatArray = weights / weights.sum()
    return shares if shares.max() <= cap else _capped(exponents, cap)


def _log_prior(prior: ArrayLike, n: int) -> FloatArray:
    shares = np.asarray(prior, float)
    if shares.shape != (n,) or not np.isfinite(shares).all() or (shares < 0).any() or not shares.sum() > 0:
        raise ValueError(f"'prior' must hold {n} shares ≥ 0 that are not all zero (got {shares.tolist()}).")
    with np.errstate(divide="ignore"):
        logarithms: FloatArray = np.log(shares / shares.sum())
    return logarithms


def _capped(log_weights: FloatArray, cap: float) -> FloatArray:
    """Shares ∝ exp(log_weights), none above ``cap``: what is cut off is given to the rest in proportion, until all fit."""
    order = np.argsort(-log_weights, kind="stable")
    shares = np.full(len(order), cap)
    for full in range(len(order)):
        rest = order[full:]
        shares[rest] = (1 - full * cap) * special.softmax(log_weights[rest])
        if shares[rest[0]] <= cap:
            return shares
        shares[rest[0]] = cap
    return shares


def _cheapest_first(costs: FloatArray, cap: float, log_prior: FloatArray) -> FloatArray:
    """Shares of least energy: each class of equal cost is filled up to the cap, by the prior within the class, before the next."""
    shares = np.zeros(len(costs))
    left = 1.0
    for cost in np.unique(costs):
        members = np.flatnonzero((costs == cost) & np.isfinite(log_prior))
        part = min(left, len(members) * cap)
        if part > 0:
            shares[members] = part * _capped(log_prior[members], max(cap / part, 1 / len(members)))
        left -= part
    return shares


def _root(function: Callable[[float], float], costs: FloatArray, slack: float) -> float:
    """β ≥ 0 with ``function(β) = 0`` for a function that falls with β; infinite where it does not fall below zero by ``slack``."""
    if function(0.0) <= 0:
        return 0.0
    if function(math.inf) >= -slack:
        return math.inf
    steps = np.diff(np.unique(costs))
    high, last = 1 / float(steps.sum()), 800 / float(steps.min())  # beyond the last one exp(−β·ΔE) is zero in double precision
    while function(high) > 0:
        if high > last:
            return math.inf
        high *= 2
    return float(optimize.brentq(function, 0.0, high, xtol=1e-15 * high, rtol=8.9e-16, maxiter=200))
