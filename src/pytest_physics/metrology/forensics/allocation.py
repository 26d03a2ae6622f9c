"""Allocations with costs (tokens to experts, requests to servers): totals, savings, and whether doing nothing scores zero.

Counts times costs is the total. A saving is relative to a baseline; the baseline is valid only where uniform allocation, which adapts to
nothing, scores zero (null test). Against the uniform total one sees whether the allocation prefers what is cheap. Along a sweep of a
strength, cost must not rise if the strength is to save.

False alarms: none by construction beyond rounding; along a sweep a rise must exceed the scatter of multinomial counts (4 σ).
Reference: arithmetic; the energy–diversity bound of the routing study for the limits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding, half_unit

ALLOCATION = Check(
    name="allocation total", needs="counts, costs, the printed total", proves="that the printed total is not counts times costs"
)
SAVING = Check(name="saving", needs="total, baseline, printed saving", proves="that the printed saving is not that of total and baseline")
NULL_TEST = Check(
    name="baseline null test",
    needs="counts, costs and the baseline from which a saving is counted",
    proves="that doing nothing (uniform allocation) does not score zero, so that the baseline is not one",
)
PREFERENCE = Check(
    name="preference for the cheap", needs="counts and costs", proves="that the allocation costs more than one that adapts to nothing"
)
SWEEP = Check(name="sweep direction", needs="strengths with counts and costs", proves="that more strength costs more")
SIGMAS = 4.0


def total_cost(counts: ArrayLike, costs: ArrayLike) -> float:
    """Σ n_i·c_i."""
    return float(np.dot(np.asarray(counts, float), np.asarray(costs, float)))


def uniform_cost(counts: ArrayLike, costs: ArrayLike) -> float:
    """Cost of as many items spread evenly."""
    return float(np.sum(np.asarray(counts, float)) * np.mean(np.asarray(costs, float)))


def allocation_total(counts: ArrayLike, costs: ArrayLike, printed: float, *, unit: str = "J") -> Finding:
    """The printed total against counts times costs."""
    found = total_cost(counts, costs)
    step = f"Σ n·c = {found:.8g} {unit}; printed {printed:.8g} {unit}"
    if abs(found - printed) > half_unit(printed) + 1e-9 * found:
        return ALLOCATION.finding(Effect.CONTRADICTS, f"counts times costs is {found:.6g} {unit}, printed is {printed:.6g} {unit}", step)
    return ALLOCATION.finding(Effect.CONFIRMS, f"counts times costs is the printed {printed:.6g} {unit}", step)


def saving(total: float, baseline: float, printed_percent: float) -> Finding:
    """The printed saving against total and baseline."""
    found = 100 * (1 - total / baseline)
    step = f"1 − {total:g} / {baseline:g} = {found:.4f} %; printed {printed_percent:g} %"
    if abs(found - printed_percent) > half_unit(printed_percent) * (1 + 1e-9):
        return SAVING.finding(Effect.CONTRADICTS, f"total and baseline give {found:.2f} %, printed is {printed_percent:g} %", step)
    return SAVING.finding(Effect.CONFIRMS, f"total and baseline give the printed {printed_percent:g} %", step)


def null_test(counts: ArrayLike, costs: ArrayLike, baseline: float, *, unit: str = "J", tolerance: float = 0.005) -> Finding:
    """Uniform allocation must score 0 % within ``tolerance``."""
    uniform = uniform_cost(counts, costs)
    score = 1 - uniform / baseline
    n = float(np.sum(np.asarray(counts, float)))
    steps = (
        f"uniform: {n:g} × {np.mean(np.asarray(costs, float)):.6g} {unit} = {uniform:.6g} {unit}",
        f"score of uniform against the baseline: 1 − {uniform:.6g} / {baseline:.6g} = {score:+.2%}; must be 0",
    )
    if abs(score) > tolerance:
        return NULL_TEST.finding(
            Effect.INVALIDATES, f"an allocation that adapts to nothing scores {score:+.1%} against this baseline", *steps
        )
    return NULL_TEST.finding(Effect.CONFIRMS, "an allocation that adapts to nothing scores zero", *steps)


def preference(counts: ArrayLike, costs: ArrayLike, *, unit: str = "J") -> Finding:
    """Cost against uniform, and the share of items that went to the cheapest class."""
    n, c = np.asarray(counts, float), np.asarray(costs, float)
    found, uniform = total_cost(n, c), uniform_cost(n, c)
    cheap = c == c.min()
    share, fair = float(n[cheap].sum() / n.sum()), float(cheap.mean())
    excess = found / uniform - 1
    noise = SIGMAS * float(np.std(c)) / math.sqrt(n.sum()) / float(np.mean(c))
    steps = (
        f"cheapest class: {n[cheap].sum():g} of {n.sum():g} = {share:.1%}; uniform would be {fair:.1%}",
        f"cost {found:.6g} {unit}, uniform {uniform:.6g} {unit}: {excess:+.1%} (4 σ of chance: {noise:.1%})",
    )
    if excess > noise:
        return PREFERENCE.finding(
            Effect.CONTRADICTS, f"it costs {excess:.1%} more than uniform, and the cheapest get {share:.1%} instead of {fair:.1%}", *steps
        )
    if excess < -noise:
        return PREFERENCE.finding(Effect.CONFIRMS, f"it costs {-excess:.1%} less than uniform", *steps)
    return PREFERENCE.finding(Effect.UNDECIDED, f"its cost is that of uniform within chance ({excess:+.1%})", *steps, needs="more items")


def sweep_direction(strengths: Sequence[float], counts: Sequence[ArrayLike], costs: ArrayLike, *, unit: str = "J") -> Finding:
    """Cost per item along rising strength: any rise above chance contradicts "more strength saves more"."""
    order = np.argsort(strengths)
    c = np.asarray(costs, float)
    sums = [float(np.sum(np.asarray(counts[i], float))) for i in order]
    per_item = [total_cost(counts[i], c) / n for i, n in zip(order, sums, strict=True)]
    noise = SIGMAS * float(np.std(c)) * math.sqrt(1 / min(sums) + 1 / sums[0])
    steps = [f"strength {strengths[i]:g}: {cost:.4f} {unit} per item" for i, cost in zip(order, per_item, strict=True)]
    rise = max(per_item) - per_item[0]
    if rise > noise:
        return SWEEP.finding(
            Effect.CONTRADICTS, f"cost rises with strength, from {per_item[0]:.3f} to {max(per_item):.3f} {unit} per item", *steps
        )
    if per_item[0] - per_item[-1] > noise:
        return SWEEP.finding(
            Effect.CONFIRMS, f"cost falls with strength, from {per_item[0]:.3f} to {per_item[-1]:.3f} {unit} per item", *steps
        )
    return SWEEP.finding(Effect.UNDECIDED, "cost does not change with strength beyond chance", *steps, needs="more items, or paired runs")
