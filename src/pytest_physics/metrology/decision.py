"""Verdicts: the one place where a comparison, its gates and its interval become one of five words.

Guard-banded acceptance (ILAC-G8:09/2019 with w = U; JCGM 106): a claim is accepted only if the whole 95 % interval lies on the right
side of its limit, so a claim that is true exactly at its limit is accepted in at most 2.5 % of runs. Student's t, never z: with five
effective samples z would accept 6.1 % (`power-sensors` study, §3.4).

Each claim is judged by itself. A run with many claims may ask for Holm's step-down over all of them (:func:`holm`): then the chance that
*any* of its VALIDATED or REFUTED is wrong is at most 5 %, whatever the claims have in common.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.uncertainty import COVERAGE, Comparison, Estimate, Gate

MIN_DOF = 10.0
"""A claim is not accepted on fewer effective degrees of freedom: an uncertainty from a handful of values is a guess itself."""


MANY_DOF = 1e6
"""From here on Student's t is the normal distribution."""


class Verdict(StrEnum):
    """How a claim ended."""

    VALIDATED = "VALIDATED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"
    NOT_TESTED = "NOT_TESTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict and the numbers behind it."""

    verdict: Verdict
    reason: str
    margin: float | None
    """Distance from estimate to limit on the side of the claim (positive: the estimate fulfils it), in the estimate's unit."""
    guard_band: float | None
    """Expanded uncertainty U, in the estimate's unit."""
    conformance: float | None
    """Probability that the claim holds, from the distribution of the estimate's error."""


EARLIER_RUNS = "earlier runs"
"""Gate of a comparison with earlier runs: where they are too few it says why there is no number, and what helps; no window does."""


def quality_gate(comparison: Comparison) -> Gate:
    """The estimate must be a number, and have seen data without large gaps."""
    quality, value = comparison.estimate.quality, comparison.estimate.value
    if quality >= Quality.ESTIMATE and not math.isfinite(value):
        return Gate(
            name="data quality", scope="estimate", measured=None, limit=None, unit="", passed=False,
            reason="the estimate is not a finite number",  # JSON has no word for which
            remedy="it divides by zero, or something that it is made of has no value: look at each of its parts",
        )  # fmt: skip
    return Gate(
        name="data quality",
        scope="estimate",
        measured=float(quality),
        limit=float(Quality.ESTIMATE),
        unit="tier",
        passed=quality >= Quality.ESTIMATE,
        reason=f"quality of the estimate is {quality.name} (needed: at least {Quality.ESTIMATE.name})",
        remedy="lengthen the window, or repeat the event, until the sensor updates at least twice without a gap",
    )


def decide(comparison: Comparison, gates: Sequence[Gate] = ()) -> Decision:
    """Judge ``comparison`` under ``gates``, its estimate's own gates and the quality gate."""
    failed = [gate for gate in all_gates(comparison, gates) if gate.refuses]
    if failed:
        reason = "; ".join(f"{gate.name} ({gate.scope}): {gate.reason}" for gate in failed)
        return Decision(verdict=Verdict.INVALID, reason=reason, margin=None, guard_band=None, conformance=None)
    return _decide_interval(comparison)


def all_gates(comparison: Comparison, gates: Sequence[Gate] = ()) -> tuple[Gate, ...]:
    """Every gate that ``decide`` looks at, without repeats; many of one kind and result stand as one, the worst of them."""
    own = comparison.estimate.gates
    said = any(gate.name == EARLIER_RUNS and gate.refuses for gate in own)
    return condensed(dict.fromkeys([*own, *gates, *(() if said else (quality_gate(comparison),))]))


def condensed(gates: Iterable[Gate]) -> tuple[Gate, ...]:
    """Gates of equal name and result as one: the worst, with the number it stands for. In the order of first appearance."""
    groups: dict[tuple[str, bool, bool], list[Gate]] = {}
    for gate in gates:
        groups.setdefault((gate.name, gate.passed, gate.warning), []).append(gate)
    return tuple(_worst(group) for group in groups.values())


def _worst(group: Sequence[Gate]) -> Gate:
    if len(group) == 1:
        return group[0]
    worst = max(group, key=_severity)
    return replace(worst, scope=f"{worst.scope}, the worst of {len(group)}")


def _severity(gate: Gate) -> float:
    """How near to its limit, or how far beyond, on a scale on which more is worse; what was not measured is worst."""
    if gate.measured is None or gate.limit is None or math.isnan(gate.measured):
        return math.inf
    above = gate.measured > gate.limit
    larger_is_worse = above != gate.passed or gate.measured == gate.limit
    return (gate.measured - gate.limit) * (1.0 if larger_is_worse else -1.0)


def _decide_interval(comparison: Comparison) -> Decision:
    estimate = comparison.estimate
    below = comparison.operator in {"<=", "<"}
    margin = (comparison.limit - estimate.value) * (1.0 if below else -1.0)
    guard, dof = estimate.expanded, estimate.dof
    strict = comparison.operator in {"<", ">"}
    conformance = _conformance(estimate, margin, strict=strict)
    unit = "" if estimate.unit == "1" else f" {estimate.unit}"
    numbers = f"margin {margin:+.4g}{unit}, U {guard:.4g}{unit} (k from ν = {f'{dof:.3g}' if dof < MANY_DOF else '∞'})"
    holds = margin > guard or (margin == guard and not strict)
    fails = -margin > guard or (guard == 0 and not holds)
    if holds and dof < MIN_DOF:
        verdict, why = (
            Verdict.INCONCLUSIVE,
            f"too few degrees of freedom to accept ({dof:.3g} < {MIN_DOF:g}); {numbers}",
        )
    elif holds:
        verdict, why = Verdict.VALIDATED, f"the interval lies inside the limit: {numbers}"
    elif fails:
        verdict, why = Verdict.REFUTED, f"the interval lies outside the limit: {numbers}"
    else:
        verdict, why = Verdict.INCONCLUSIVE, f"the interval straddles the limit: {numbers}"
    return Decision(verdict=verdict, reason=why, margin=margin, guard_band=guard, conformance=conformance)


def _conformance(estimate: Estimate, margin: float, *, strict: bool) -> float:
    if estimate.u == 0:
        return float(margin > 0 or (margin == 0 and not strict))
    return estimate.probability_below(margin)


# --- many claims of one run ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class HolmStep:
    """One claim in Holm's step-down."""

    rank: int
    """1 for the smallest probability of error."""
    level: float
    """The share of 5 % at which this claim is judged: 5 % / (m − rank + 1), and from the first failure on the share of that failure."""
    p_adjusted: float
    """Probability of error after the correction; decided where it is at most 5 %."""
    decided: bool
    """Whether VALIDATED or REFUTED stands."""


def error_probability(conformance: float) -> float:
    """Two-sided probability of error of a verdict, from the probability that the claim holds: at most 5 % where the interval decides."""
    return 2 * min(conformance, 1 - conformance)


def holm(p: Sequence[float]) -> tuple[HolmStep, ...]:
    """Holm's step-down over the probabilities of error ``p`` of all claims that were judged, in their order.

    The claim of rank j stands if it and all of smaller rank have p ≤ 5 % / (m − j + 1). It needs no independence. Reference: Holm, "A
    simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979) 65.

    >>> [step.decided for step in holm([0.01, 0.04, 0.03])]
    [True, False, False]
    """
    for value in p:
        if not 0 <= value <= 1:
            raise ValueError(f"a probability lies within 0 and 1 (got {value}).")
    alpha, steps = 1 - COVERAGE, dict[int, HolmStep]()
    p_adjusted, decided, level = 0.0, True, alpha
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i]), start=1):
        left = len(p) - rank + 1
        p_adjusted = min(1.0, max(p_adjusted, left * p[index]))
        level = alpha / left if decided else level
        decided = decided and p[index] <= level
        steps[index] = HolmStep(rank=rank, level=level, p_adjusted=p_adjusted, decided=decided)
    return tuple(steps[index] for index in range(len(p)))
