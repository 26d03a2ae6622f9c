"""Attached series: cadence, constants shown as measurements, channels computed from others, stale values, two writers, no noise at all.

False alarms, measured on simulated clean series (see ``docs/audit.md``): cadence fires where the median period is off by more than 5 % or
more than 5 % of the ticks are missing; a constant needs ten equal values of a quantity declared to vary; a computed channel must follow
the other one to half a step over at least 100 steps; smoothness needs third differences below 1e-4 of the spread, which no digital sensor
reaches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding

CADENCE = Check(name="cadence", needs="times of the samples, nominal period", proves="that samples are missing or came at another period")
CONSTANT = Check(name="constant channel", needs="values said to be measured", proves="that a constant is shown as a measurement")
AFFINE = Check(name="computed channel", needs="two channels said to be measured", proves="that one is computed from the other")
STALE = Check(name="stale values", needs="values in the order of time", proves="that the sensor updates less often than it is read")
WRITERS = Check(name="two writers", needs="times in the order of the rows", proves="that two processes wrote into one file")
SMOOTH = Check(
    name="implausible smoothness", needs="values in the order of time", proves="that values are computed, not read from a sensor"
)

Floats = NDArray[np.float64]
PERIOD_TOLERANCE = 0.05
MISSING_SHARE = 0.05
STALE_SHARE = 0.25
MIN_VALUES = 10
ROUNDING = 0.51
"""Half a step of each channel, and a little for the arithmetic."""
MIN_STEPS = 100
"""A channel with fewer steps over its range follows any other by rounding alone."""


def cadence(times_s: ArrayLike, nominal_s: float) -> Finding:
    """Median interval, longest gap and missing ticks."""
    gaps = np.diff(np.asarray(times_s, float))
    median, longest = float(np.median(gaps)), float(gaps.max())
    span = float(np.sum(gaps))
    missing = max(0.0, 1 - gaps.size / (span / nominal_s))
    steps = (
        f"{gaps.size + 1} samples over {span:.4g} s: median interval {median:.4g} s (nominal {nominal_s:g} s), longest {longest:.4g} s",
        f"missing: 1 − {gaps.size} / ({span:.4g} / {nominal_s:g}) = {missing:.1%}",
    )
    if abs(median - nominal_s) > PERIOD_TOLERANCE * nominal_s or missing > MISSING_SHARE:
        return CADENCE.finding(
            Effect.CONTRADICTS,
            f"{missing:.0%} of the ticks of {nominal_s:g} s are missing (median interval {median:.3g} s, longest {longest:.3g} s)",
            *steps,
        )
    return CADENCE.finding(Effect.CONFIRMS, f"the period is {median:.4g} s, and {missing:.1%} of the ticks are missing", *steps)


def constant(values: ArrayLike, *, name: str) -> Finding:
    """A channel that never changes."""
    series = _finite(values)
    if series.size < MIN_VALUES:
        return CONSTANT.lacks(f"at least {MIN_VALUES} values of '{name}'")
    distinct = np.unique(series)
    step = f"{series.size} values of '{name}', {distinct.size} distinct"
    if distinct.size == 1:
        return CONSTANT.finding(
            Effect.INVALIDATES, f"'{name}' is {distinct[0]:g} in all {series.size} rows: a constant, not a measurement", step
        )
    return CONSTANT.finding(Effect.CONSISTENT, f"'{name}' varies", step)


def affine(x: ArrayLike, y: ArrayLike, *, names: tuple[str, str]) -> Finding:
    """Whether y = a + b·x to rounding."""
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    keep = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[keep], ys[keep]
    if xs.size < MIN_VALUES or np.ptp(xs) == 0 or np.ptp(ys) == 0:
        return AFFINE.lacks(f"at least {MIN_VALUES} varying values of '{names[0]}' and '{names[1]}'")
    slope, offset = np.polyfit(xs, ys, 1)
    residual = float(np.max(np.abs(ys - offset - slope * xs)))
    rounding = ROUNDING * (_step(ys) + abs(float(slope)) * _step(xs))
    step = f"'{names[1]}' = {offset:.6g} + {slope:.6g} × '{names[0]}': largest residual {residual:.3g}, steps explain {rounding:.3g}"
    fine = min(np.ptp(xs) / _step(xs), np.ptp(ys) / _step(ys)) >= MIN_STEPS
    if residual <= max(rounding, 1e-9 * float(np.ptp(ys))) and fine:
        return AFFINE.finding(
            Effect.INVALIDATES, f"'{names[1]}' is {slope:.6g} × '{names[0]}' {offset:+.3g} to the last digit: computed, not measured", step
        )
    return AFFINE.finding(Effect.CONSISTENT, f"'{names[1]}' is not computed from '{names[0]}'", step)


def _step(values: Floats) -> float:
    """Smallest difference between two distinct values."""
    return float(np.min(np.diff(np.unique(values))))


def staleness(values: ArrayLike, *, name: str) -> Finding:
    """Share of readings that repeat the one before although the quantity moves."""
    series = _finite(values)
    if series.size < MIN_VALUES:
        return STALE.lacks(f"at least {MIN_VALUES} values of '{name}'")
    repeats = float(np.mean(np.diff(series) == 0))
    step = f"{repeats:.1%} of {series.size} values of '{name}' repeat the one before; {np.unique(series).size} distinct values"
    coarse = np.unique(series).size < series.size / 10  # a coarse step repeats values without being stale
    if repeats > STALE_SHARE and not coarse:
        return STALE.finding(
            Effect.INVALIDATES, f"{repeats:.0%} of the values of '{name}' repeat the one before: fewer updates than rows", step
        )
    return STALE.finding(Effect.CONSISTENT, f"{repeats:.1%} of the values of '{name}' repeat the one before", step)


def writers(times_s: ArrayLike) -> Finding:
    """Times that run backwards or repeat: rows of two writers interleaved."""
    gaps = np.diff(np.asarray(times_s, float))
    back, equal = int(np.sum(gaps < 0)), int(np.sum(gaps == 0))
    step = f"of {gaps.size} intervals {back} run backwards and {equal} are zero"
    if back or equal > MISSING_SHARE * gaps.size:
        return WRITERS.finding(
            Effect.INVALIDATES, f"time runs backwards {back} times and repeats {equal} times: more than one writer", step
        )
    return WRITERS.finding(Effect.CONSISTENT, "time runs forward", step)


def smoothness(values: ArrayLike, *, name: str) -> Finding:
    """Third differences of a sensor's readings are noise and steps; those of a formula vanish."""
    series = _finite(values)
    if series.size < MIN_VALUES or np.ptp(series) == 0:
        return SMOOTH.lacks(f"at least {MIN_VALUES} varying values of '{name}'")
    ratio = float(np.std(np.diff(series, 3)) / np.ptp(series))
    step = f"standard deviation of the third differences over the range: {ratio:.2g}"
    if ratio < 1e-4 and np.unique(series).size > series.size / 2:
        return SMOOTH.finding(Effect.INVALIDATES, f"'{name}' has neither noise nor steps: values of a formula, not of a sensor", step)
    return SMOOTH.finding(Effect.CONSISTENT, f"'{name}' has the noise or steps of a sensor", step)


def _finite(values: ArrayLike) -> Floats:
    series: Floats = np.asarray(values, float)
    finite: Floats = series[np.isfinite(series)]
    return finite
