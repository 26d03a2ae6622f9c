"""Laws fitted to energies: E(batch) = E_fixed + E_work · work, so E/work = E_fixed/work + E_work; and the choice of a batch.

Weighted least squares with weights 1/E² (windows of one length have one relative uncertainty). Both coefficients are linear in the
energies, so their uncertainty propagates exactly through the budgets, source by source: the card's common gain scales both, cancels in
their ratio, and does not pretend to average away.

Whether a line is the right law is tested. The residuals are linear in the energies too, so their expected sum of squares Q₀ follows from
the same budgets (what the points share and the line takes up is not in it), with Satterthwaite's degrees of freedom; Q/Q₀ is judged by F.
A misfit that is proven *and* larger than :data:`MAX_MISFIT` refuses the law: an upturn at large batch (power cap, heat, memory) is found,
not averaged away. What scatters more than the budgets say, without being that large, widens the intervals with n − 2 degrees of
freedom.

Reference: Draper & Smith, Applied Regression Analysis, §2.1 (lack of fit); Satterthwaite 1946; JCGM 100, 5.2 (correlated inputs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.uncertainty import Component, Estimate, Gate, Recipe

FloatArray = NDArray[np.float64]

MISFIT_PROBABILITY = 0.01
"""A misfit is proven where chance alone would make one as large this rarely."""
WIDENING_PROBABILITY = 0.05
"""A misfit less likely than this by chance widens the intervals; to widen them at every one would make them cover 98 % of true lines."""
MAX_MISFIT = 0.01
"""Largest proven distance of a point from the line, as a share of the point."""


def law_fixed(energies: Sequence[Estimate], *, work: Sequence[float], unit: str = "token") -> Estimate:  # noqa: ARG001
    """E_fixed in joules: what a batch costs before its first ``unit`` of work.

    Parameters
    ----------
    energies
        Energies of n ≥ 3 batches, in joules.
    work
        Counted work of each, n values, at least two of them different.
    unit
        Unit of the work.
    """
    return _coefficient(energies, work, 0, "law.fixed", "")


def law_per_work(energies: Sequence[Estimate], *, work: Sequence[float], unit: str = "token") -> Estimate:
    """E_work in joules per ``unit``: the plateau, the cost that remains in a large batch."""
    return _coefficient(energies, work, 1, "law.per_work", f"/{unit}")


def best_under_limit(inputs: Sequence[Estimate], *, sizes: Sequence[float], limit: float, unit: str = "sequence") -> Estimate:
    """The size with the lowest energy among those whose latency surely keeps ``limit``; exact, with gates that say how sure the choice is.

    Parameters
    ----------
    inputs
        Energies per token of n sizes, then latencies of the same n sizes.
    sizes
        The n sizes.
    limit
        Largest latency, in the latencies' unit.
    """
    n = len(sizes)
    if len(inputs) != 2 * n or not n:
        raise ValueError(f"as many energies and latencies as sizes are needed (got {len(inputs)} estimates for {n} sizes).")
    energies, latencies = inputs[:n], inputs[n:]
    allowed = [i for i in range(n) if latencies[i].value + latencies[i].expanded <= limit]
    best = min(allowed, key=lambda i: energies[i].value, default=None)
    gates = (_any_allowed(latencies, limit, best is not None), *(_clear_winner(energies, sizes, allowed, best) if best is not None else ()))
    return Estimate(
        value=math.nan if best is None else float(sizes[best]),
        unit=unit,
        quality=Quality.NO_DATA if best is None else min(e.quality for e in inputs),
        provenance=max((e.provenance for e in inputs), key=list(type(inputs[0].provenance)).index),
        estimator="lowest energy under the limit",
        gates=(*dict.fromkeys(gate for e in inputs for gate in e.gates), *gates),
        recipe=Recipe(
            op="curve.best_under_limit",
            inputs=tuple(e.recipe for e in inputs),
            parameters={"sizes": list(sizes), "limit": limit, "unit": unit},
        ),
    )


LINEAR_LAW: Mapping[str, Callable[..., Estimate]] = {
    "law.fixed": law_fixed,
    "law.per_work": law_per_work,
    "curve.best_under_limit": best_under_limit,
}
"""Composite recipes of this module."""


def pareto_front(latency: Sequence[float], energy: Sequence[float]) -> list[bool]:
    """Which points no other one beats: none is at least as good in both and better in one."""
    points = list(zip(latency, energy, strict=True))
    return [not any(x <= a and y <= b and (x, y) != (a, b) for x, y in points) for a, b in points]


@dataclass(frozen=True, slots=True, kw_only=True)
class LackOfFit:
    """How far points lie from their line, against how far their budgets allow."""

    statistic: float
    """Q/Q₀: 1 on average where the line is right; NaN for points without any uncertainty."""
    probability: float
    """Probability of a larger one by chance."""
    worst: float
    """Largest residual as a share of its point, signed."""
    worst_at: float
    """Work of that point."""
    excess: float
    """Relative variance of the points beyond their budgets; 0 where chance may have made it."""


def lack_of_fit(energies: Sequence[Estimate], work: Sequence[float]) -> LackOfFit:
    """Test of the line through ``energies`` over ``work``; see the head of this module."""
    values, design = _line(energies, work)
    weights = 1 / np.maximum(np.abs(values), 1e-300)
    relative = weights * (values - design @ (_linear_weights(design, values) @ values))
    spread, dof = _expected(energies, weights[:, None] * (np.eye(len(values)) - design @ _linear_weights(design, values)))
    worst = int(np.argmax(np.abs(relative)))
    q, q0 = float(relative @ relative), float(np.trace(spread))
    if not (q0 > 0 and math.isfinite(q)):
        return LackOfFit(statistic=math.nan, probability=math.nan, worst=float(relative[worst]), worst_at=float(work[worst]), excess=0.0)
    numerator = q0**2 / float(np.sum(spread**2))
    law = stats.chi2(numerator) if math.isinf(dof) else stats.f(numerator, dof)
    scale = numerator if math.isinf(dof) else 1.0
    probability = float(law.sf(scale * q / q0))
    return LackOfFit(
        statistic=q / q0, probability=probability, worst=float(relative[worst]), worst_at=float(work[worst]),
        excess=max(0.0, q - q0) / (len(values) - 2) if probability < WIDENING_PROBABILITY else 0.0,
    )  # fmt: skip


def _expected(energies: Sequence[Estimate], residual_of: FloatArray) -> tuple[FloatArray, float]:
    """Covariance of the weighted residuals by the budgets, and the degrees of freedom of its trace."""
    sources = dict.fromkeys(c.source for e in energies for c in e.components)
    rows = {source: i for i, source in enumerate(sources)}
    parts, dof = np.zeros((len(rows), len(energies))), np.full(len(rows), math.inf)
    for column, estimate in enumerate(energies):
        for component in estimate.components:
            parts[rows[component.source], column] += component.contribution
            dof[rows[component.source]] = component.dof
    seen = parts @ residual_of.T
    shares = np.sum(seen**2, axis=1)
    weighted = float(np.sum(shares**2 / dof))
    return seen.T @ seen, float(np.sum(shares)) ** 2 / weighted if weighted > 0 else math.inf


def lack_of_fit_gate(found: LackOfFit, *, limit: float = MAX_MISFIT, unit: str = "token") -> Gate:
    """Refuses a line that points prove wrong by more than ``limit``."""
    proven = found.probability < MISFIT_PROBABILITY
    passed = not (proven and abs(found.worst) > limit)
    side = "above" if found.worst > 0 else "below"
    return Gate(
        name="lack of fit", scope="law", measured=abs(found.worst), limit=limit, unit="1", passed=passed,
        reason=f"the point at {found.worst_at:g} {unit}s lies {abs(found.worst):.2%} {side} the line (limit {limit:.0%} where the misfit "
        f"is proven); chance alone makes such a misfit with probability {found.probability:.2g}"
        + ("" if passed else ": one line through all batches is not the law"),
        remedy="" if passed else "see clocks, power cap and memory where batches leave the line; fit fewer batches, or use the points",
    )  # fmt: skip


def _any_allowed(latencies: Sequence[Estimate], limit: float, passed: bool) -> Gate:
    quickest = min(latency.value for latency in latencies)
    unit = latencies[0].unit
    return Gate(
        name="latency limit", scope="choice", measured=quickest, limit=limit, unit=unit, passed=passed,
        reason=f"the quickest size takes {quickest:.4g} {unit} (limit {limit:g})",
        remedy="" if passed else "raise the limit, or measure smaller sizes",
    )  # fmt: skip


def _clear_winner(energies: Sequence[Estimate], sizes: Sequence[float], allowed: Sequence[int], best: int) -> tuple[Gate, ...]:
    """Whether the second best is surely worse; a warning, because either choice is good where it is not."""
    others = [i for i in allowed if i != best]
    if not others:
        return ()
    second = min(others, key=lambda i: energies[i].value)
    gap = energies[second] - energies[best]
    passed = gap.value > gap.expanded
    return (
        Gate(
            name="clear winner", scope="choice", measured=gap.value, limit=gap.expanded, unit=gap.unit, passed=passed, warning=True,
            reason=f"size {sizes[best]:g} beats size {sizes[second]:g} by {gap.value:.3g} {gap.unit} (uncertainty {gap.expanded:.3g})",
            remedy="" if passed else "the two are equally good as far as this measurement sees; measure longer to tell them apart",
        ),
    )  # fmt: skip


def _line(energies: Sequence[Estimate], work: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    if len(energies) != len(work) or len(energies) < 3 or len(set(work)) < 2:
        raise ValueError(
            f"a line needs at least 3 energies, as many amounts of work, and two different ones (got {len(energies)} and {list(work)})."
        )
    values = np.array([e.value for e in energies])
    return values, np.column_stack([np.ones(len(work)), np.asarray(work, float)])


def _coefficient(energies: Sequence[Estimate], work: Sequence[float], which: int, op: str, per: str) -> Estimate:
    values, design = _line(energies, work)
    gains = _linear_weights(design, values)[which]
    total = energies[0] * float(gains[0])
    for energy, gain in zip(energies[1:], gains[1:], strict=True):
        total = total + energy * float(gain)
    unit = per[1:] or "token"
    found = lack_of_fit(energies, work)
    gates = () if math.isnan(found.statistic) else (lack_of_fit_gate(found, unit=unit),)
    recipe = Recipe(op=op, inputs=tuple(e.recipe for e in energies), parameters={"work": list(work), "unit": unit})
    return replace(
        total, unit=f"J{per}", components=(*total.components, *_excess(found, values, gains)), estimator="weighted line", recipe=recipe,
        gates=(*total.gates, *gates),
    )  # fmt: skip


def _linear_weights(design: FloatArray, values: FloatArray) -> FloatArray:
    """Rows of coefficients g with fit = g · energies, shape (2, n)."""
    weights = 1 / np.maximum(np.abs(values), 1e-300) if np.isfinite(values).all() else np.ones(len(values))
    pseudo: FloatArray = np.linalg.pinv(design * weights[:, None]) * weights
    return pseudo


def _excess(found: LackOfFit, values: FloatArray, gains: FloatArray) -> tuple[Component, ...]:
    """What the points scatter about the line beyond their budgets; one error of its own for all coefficients of one fit would be wrong."""
    u = math.sqrt(found.excess) * math.sqrt(float(np.sum((gains * values) ** 2)))
    if not (math.isfinite(u) and u > 0):
        return ()
    source = f"misfit|{gains.tolist()!r}|{values.tolist()!r}"
    return (Component(label="misfit of the line", source=source, contribution=u, dof=len(values) - 2, evaluation="A"),)
