"""Durations from counts, sums from parts, rates from counts and times.

A sampler on a grid of period T that took and dropped n ticks ran for n·T; a total is the sum of its parts; a rate is a count over a time.
None of these can be typed differently.

Assumes that the counts are of one span and the period is the achieved one (a cadence check says whether it was). False alarms: none by
construction beyond the tolerance: 5 % for durations (a grid may lose a tick at each end), rounding for sums and rates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding, Printed, half_unit

DURATION = Check(
    name="duration from counts",
    needs="counts of samples, rows or ticks, their period, and a stated duration",
    proves="that something did not last as long as stated",
)
CONSERVATION = Check(name="conservation", needs="a total and its parts", proves="that parts were lost, doubled, or belong to another total")
RATE = Check(name="rate", needs="a count, a time and a stated rate", proves="that a stated rate does not follow from its count and time")
PLAUSIBILITY = Check(
    name="plausibility",
    needs="a value and the most (or least) that the declared hardware allows, or a sibling measurement",
    proves="that a value is beyond what its hardware can do",
)

Relation = Literal["equals", "at most", "at least"]
DURATION_TOLERANCE = 0.05


def duration(counts: Mapping[str, float], period_s: float, stated_s: float, *, relation: Relation = "equals") -> Finding:
    """Compare counted time with a stated duration: it ``equals`` it, or is stated to be ``at most`` or ``at least`` so long."""
    total = sum(counts.values())
    found = total * period_s
    parts = " + ".join(f"{n:g} {name}" for name, n in counts.items())
    steps = (f"({parts}) × {period_s:g} s = {found:.4g} s; stated {_words(relation)} {stated_s:g} s",)
    slack = DURATION_TOLERANCE * max(found, stated_s) + 2 * period_s
    off = found - stated_s
    wrong = {"equals": abs(off) > slack, "at most": off > slack, "at least": -off > slack}[relation]
    if wrong:
        return DURATION.finding(Effect.CONTRADICTS, f"the counts cover {found:.4g} s, stated {_words(relation)} {stated_s:g} s", *steps)
    return DURATION.finding(Effect.CONFIRMS, f"the counts cover {found:.4g} s, as stated", *steps)


def conservation(total: float, parts: Mapping[str, float], *, tolerance: float = 0.0, unit: str = "") -> Finding:
    """Parts must add up to their total within their rounding; a count, written without decimals, is exact."""
    found = math.fsum(parts.values())
    slack = tolerance + sum(_rounding(v) for v in (total, *parts.values()))
    step = " + ".join(f"{v:g} ({name})" for name, v in parts.items()) + f" = {found:.10g} {unit}; total {total:.10g} {unit}"
    if abs(found - total) > slack:
        return CONSERVATION.finding(Effect.CONTRADICTS, f"the parts give {found:.10g} {unit}, the total is {total:.10g} {unit}", step)
    return CONSERVATION.finding(Effect.CONFIRMS, f"the parts add up to {total:.10g} {unit}", step)


def _rounding(value: float) -> float:
    exact = isinstance(value, Printed) and value.decimals <= 0
    return 16 * math.ulp(abs(value)) if exact else half_unit(value)


def rate(count: float, time_s: float, stated: float, *, unit: str = "1/s", tolerance: float = 0.05) -> Finding:
    """Compare ``stated`` with count over time; ``tolerance`` is relative."""
    found = count / time_s
    step = f"{count:g} / {time_s:g} s = {found:.4g} {unit}; stated {stated:.4g} {unit}"
    if abs(found - stated) > tolerance * max(abs(found), abs(stated)):
        return RATE.finding(Effect.CONTRADICTS, f"count and time give {found:.4g} {unit}, stated is {stated:.4g} {unit}", step)
    return RATE.finding(Effect.CONFIRMS, f"count and time give the stated {stated:.4g} {unit}", step)


def plausibility(value: float, *, most: float | None = None, least: float | None = None, why: str = "", unit: str = "") -> Finding:
    """A value against what the declared hardware allows."""
    because = f" ({why})" if why else ""
    if most is not None and value - half_unit(value) > most:
        return PLAUSIBILITY.finding(
            Effect.CONTRADICTS, f"{value:g} {unit} is more than {most:g} {unit} allow{because}", f"{value:g} > {most:g} {unit}"
        )
    if least is not None and value + half_unit(value) < least:
        return PLAUSIBILITY.finding(
            Effect.CONTRADICTS,
            f"{value:g} {unit} is less than the least possible {least:g} {unit}{because}",
            f"{value:g} < {least:g} {unit}",
        )
    return PLAUSIBILITY.finding(Effect.CONSISTENT, f"{value:g} {unit} is within what is possible{because}")


def _words(relation: Relation) -> str:
    return "" if relation == "equals" else relation
