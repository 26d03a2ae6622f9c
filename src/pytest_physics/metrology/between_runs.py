"""A new run against earlier ones of the same machine: its relative change, with the scatter between runs in the interval.

*Model.* ``y_i = μ + b_i + e_i``: what makes one run differ from the next, ``b_i`` ~ N(0, σ_b²), and each run's own error,
``e_i`` ~ N(0, u_i²). With the sample variance s² of n earlier runs and the mean ū² of their own, σ_b² is estimated as max(0, s² − ū²), and
the mean of the earlier runs is known to max(s², ū²)/n: what scatters more than the budgets say must not be hidden by them, and what
scatters less (an error common to all runs) is not taken for knowledge. The mean of k new runs with own uncertainty u differs from that
mean by chance with

    u² + σ_b²/k + max(s², ū²)/n,    Student's t with n − 1 (+ k − 1) degrees of freedom.

Errors of the device's common scale belong to neither u nor u_i: they are the same in all runs of one device.

Assumes independent, normal runs. Heavy tails and a history that wanders make it optimistic, by how much says docs/regression-study.md.
One new run cannot do better than ``Φ(c/σ/√(1 + 1/n) − 1.96)`` for a change c, whatever the test.

How many new runs would decide is planned from the same model, as if the change were what it looks like: a plan, and no claim.

Reference: JCGM 100:2008, 4.2 and G.4.1; Hahn and Meeker, "Statistical Intervals", 1991, 4.8 (prediction intervals).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.uncertainty import Component, Estimate, Gate

FEWEST_RUNS = 3
"""With fewer runs the scatter between them is hardly known: at least this many, whatever the settings say."""
MAX_RELATIVE_SPREAD = 0.25
"""A relative change is defined where the earlier runs tell their mean apart from 0 at least this well."""

POWER = 0.90
"""Share of cases in which the planned number of runs decides."""
MOST_NEW_RUNS = 20
"""Nobody makes more."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What earlier runs say about the next one."""

    mean: float
    """Mean of the earlier runs, in their unit."""
    u: float
    """Standard uncertainty of the mean of the new runs around it, their own errors apart."""
    spread: float
    """Standard deviation of the earlier runs, as observed."""
    dof: float
    n: int


def predict(values: Sequence[float] | FloatArray, u: Sequence[float] | FloatArray, *, new: Sequence[float] = ()) -> Prediction:
    """What ``n`` runs with own standard uncertainties ``u`` predict for the mean of ``new`` ones.

    Parameters
    ----------
    values, u
        Both of shape (n,), n ≥ 2, in one unit; the common scale is not in ``u``.
    new
        Values of the new runs where there are several: their scatter is one more estimate of the same variance. Default: one new run.

    Raises
    ------
    ValueError
        For fewer than two runs, different lengths, or numbers that are not finite.
    """
    y, own = np.asarray(values, dtype=np.float64), np.asarray(u, dtype=np.float64)
    if y.ndim != 1 or y.shape != own.shape or len(y) < 2:
        raise ValueError(f"earlier values and uncertainties are two series of one length >= 2 (got shapes {y.shape} and {own.shape}).")
    if not (np.isfinite(y).all() and np.isfinite(own).all() and (own >= 0).all() and np.isfinite(new).all()):
        raise ValueError("values must be finite and uncertainties finite and >= 0; leave runs without a number out.")
    n, k = len(y), max(1, len(new))
    squares = float(np.sum((y - y.mean()) ** 2)) + (float(np.sum((np.asarray(new) - np.mean(new)) ** 2)) if k > 1 else 0.0)
    within, total = float(np.mean(own**2)), squares / (n + k - 2)
    between = max(0.0, total - within)
    return Prediction(
        mean=float(y.mean()), u=math.sqrt(between / k + max(total, within) / n), spread=float(np.std(y, ddof=1)), dof=n + k - 2.0, n=n
    )  # fmt: skip


def runs_to_decide(
    values: Sequence[float] | FloatArray, u: Sequence[float] | FloatArray, *, own: float, gap: float, min_dof: float = 1.0
) -> int | None:
    """Fewest new runs whose mean is told apart from a limit ``gap`` away (same unit) in nine of ten cases; None beyond twenty.

    Parameters
    ----------
    values, u
        Of the earlier runs, as in :func:`predict`.
    own
        Standard uncertainty of each new run's own.
    min_dof
        Degrees of freedom that a decision needs.
    """
    n, single = len(values), predict(values, u)
    total = max(single.spread**2, float(np.mean(np.square(u))))
    between = max(0.0, single.u**2 - total / n)
    for k in range(1, MOST_NEW_RUNS + 1):
        dof, spread = n + k - 2.0, math.sqrt((own**2 + between) / k + total / n)
        if dof >= min_dof and (not spread or 1 - special.nctdtr(dof, gap / spread, special.stdtrit(dof, 0.975)) >= POWER):
            return k
    return None


def relative_change(now: Estimate, prior: Estimate, *, lower_is_better: bool) -> Estimate:
    """Change of ``now`` against what ``prior`` predicts, over ``prior``; positive is worse.

    ``prior`` is a :class:`Prediction` as an estimate: its uncertainty is that of the new value around it. The degrees of freedom are never
    more than its own: the scatter between runs is estimated from the earlier runs alone.
    """
    sign = 1.0 if lower_is_better else -1.0
    own = own_components(now)
    u_own = math.hypot(*(c.contribution for c in own)) if own else 0.0
    known = math.isfinite(prior.value) and prior.value != 0
    scale = abs(prior.value) if known else math.nan
    component = Component(
        label="between runs, and this run's own", source=f"between runs|{now.recipe.to_json()}",
        contribution=math.hypot(u_own, prior.u) / scale, dof=_dof(own, u_own, prior), evaluation="A",
    )  # fmt: skip
    gates = (_defined(known, component.contribution),) if prior.quality > Quality.NO_DATA else ()
    return replace(
        now, value=sign * (now.value - prior.value) / scale, unit="1", components=(component,) if component.contribution else (),
        quality=min(now.quality, prior.quality), estimator="relative change", gates=(*now.gates, *prior.gates, *gates),
    )  # fmt: skip


def own_error(lines: Sequence[tuple[str, float, float]]) -> tuple[float, float]:
    """Standard uncertainty and effective degrees of freedom of budget lines ``(source, contribution, dof)``; equal sources are one error.

    The same numbers as of an estimate with these lines (:class:`~pytest_physics.metrology.uncertainty.Estimate`), in a tenth of the time:
    an index of ten thousand runs asks half a million times.
    """
    merged: dict[str, tuple[float, float]] = {}
    for source, contribution, dof in lines:
        known = merged.get(source)
        merged[source] = (contribution + known[0], known[1]) if known else (contribution, dof)
    variance = sum(contribution**2 for contribution, _ in merged.values())
    if not variance > 0:
        return 0.0, math.inf
    weighted = sum((contribution**2 / variance) ** 2 / dof for contribution, dof in merged.values())
    return math.sqrt(variance), 1 / weighted if weighted else math.inf


def own_components(estimate: Estimate) -> tuple[Component, ...]:
    """Lines of the budget that are not the device's common scale."""
    return tuple(c for c in estimate.budget if not c.common_scale)


def _dof(own: Sequence[Component], u_own: float, prior: Estimate) -> float:
    """Welch and Satterthwaite, at most those of the earlier runs."""
    if not u_own:
        return prior.dof
    if not prior.u:
        return Estimate(value=0.0, unit="1", components=tuple(own)).dof
    together = Estimate(value=0.0, unit="1", components=(*own, *prior.components)).dof
    return min(prior.dof, together)


def _defined(known: bool, share: float) -> Gate:
    """A relative change needs a mean that is told apart from 0: ``share`` of it is what a new run scatters by, its own error included."""
    passed = known and share <= MAX_RELATIVE_SPREAD
    reason = f"a new run scatters by {share:.1%} of the mean of the earlier ones (limit {MAX_RELATIVE_SPREAD:.0%})"
    return Gate(
        name="relative change", scope="earlier runs", measured=share if known else None, limit=MAX_RELATIVE_SPREAD, unit="1", passed=passed,
        reason=reason if known else "the earlier runs have no mean apart from 0",
        remedy="" if passed else "leave this metric out with 'history.skip', or measure it longer so that runs agree",
    )  # fmt: skip
