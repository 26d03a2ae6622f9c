"""Tables against themselves: derived columns, slopes, the physics of heating, and where a stop rule would have fired.

A derived column follows from its base column; a slope follows from the rows (least squares); at constant power a first-order body, and
any chain of them, warms along a concave curve: it never accelerates. A temperature in steps of q over a window W hides a slope of up to
1.5·q/W, so a limit nearer than that is not resolved. And a stop rule "|slope| below limit" that already held in an early row would have
stopped there.

Assumes equal conditions over the rows (constant power for the physical law). False alarms: none by construction; each printed number may
be off by half a unit of its last place, and the tolerance is the worst case of that.
Reference: least squares with bounded errors; Incropera, "Fundamentals of Heat and Mass Transfer", lumped capacitance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding, half_unit

DERIVED = Check(
    name="derived column",
    needs="a base column, a time column and the printed rate column",
    proves="which printed rates do not follow from the rows",
)
SLOPE = Check(name="slope from a table", needs="two columns and a stated slope", proves="that the table does not have the stated slope")
HEATING = Check(
    name="first-order heating",
    needs="times and temperatures at constant power",
    proves="that heating accelerates, which no thermal network does at constant power",
)
RESOLUTION = Check(
    name="slope resolution",
    needs="a slope, its limit, the step of the readings and the window's length",
    proves="that the readings cannot tell the slope from its limit",
)
EARLY_STOP = Check(
    name="early stop",
    needs="times, values and a stop rule on the slope",
    proves="that the rule already held before the state it should detect",
)
STOPPING = Check(
    name="optional stopping",
    needs="a value, the limit at which the run was stopped, and whether it was the first crossing",
    proves="that the value lies just under its limit because the run stopped there",
)
EXTREME = Check(name="extreme of a column", needs="a column and its stated maximum", proves="that the stated extreme is not the column's")

Floats = NDArray[np.float64]


def halves(values: ArrayLike) -> Floats:
    """Half a unit of the last place of each value."""
    return np.array([half_unit(v) for v in np.asarray(values, dtype=object)], dtype=np.float64)


def derived_rates(times: ArrayLike, base: ArrayLike, printed: list[float | None], *, unit: str = "") -> Finding:
    """Row by row (base_i − base_{i−1}) / (t_i − t_{i−1}); ``printed`` has None where nothing is printed."""
    t, y = np.asarray(times, float), np.asarray(base, float)
    dt, rates, half = np.diff(t), np.diff(y) / np.diff(t), halves(base)
    wrong, steps = [], []
    for i, rate in enumerate(rates, start=1):
        said = printed[i]
        if said is None:
            continue
        slack = (half[i] + half[i - 1]) / dt[i - 1] + half_unit(said)
        off = abs(rate - said) > slack * (1 + 1e-9)
        steps.append(
            f"row {i}: ({y[i]:g} − {y[i - 1]:g}) / {dt[i - 1]:g} = {rate:+.3g} ± {slack:.2g} {unit}; printed {said:+g}{' ✗' if off else ''}"
        )
        wrong += [i] if off else []
    if wrong:
        return DERIVED.finding(
            Effect.CONTRADICTS,
            f"{len(wrong)} of {len(steps)} printed rates do not follow from the rows (row {', '.join(map(str, wrong))})",
            *steps,
        )
    return DERIVED.finding(Effect.CONFIRMS, "the printed rates follow from the rows", *steps)


def slope_of(x: ArrayLike, y: ArrayLike) -> tuple[float, float]:
    """Least-squares slope of ``y`` on ``x``, and how far the rounding of ``y`` can move it."""
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    centred = xs - xs.mean()
    weights = centred / np.sum(centred**2)
    return float(weights @ ys), float(np.abs(weights) @ halves(y))


def table_slope(x: ArrayLike, y: ArrayLike, stated: float, *, unit: str = "") -> Finding:
    """Compare a stated slope with the least-squares slope of the rows."""
    slope, slack = slope_of(x, y)
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    ends = (ys[-1] - ys[0]) / (xs[-1] - xs[0])
    steps = (
        f"least squares through {xs.size} rows: {slope:.3g} {unit} (rounding moves it by at most {slack:.2g})",
        f"end to end: ({ys[-1]:g} − {ys[0]:g}) / {xs[-1] - xs[0]:g} = {ends:.3g} {unit}; stated {stated:g} {unit}",
    )
    if abs(slope - stated) > slack + half_unit(stated):
        return SLOPE.finding(Effect.CONTRADICTS, f"the table rises by {slope:.3g} {unit}, stated is {stated:g} {unit}", *steps)
    return SLOPE.finding(Effect.CONFIRMS, f"the table has the stated slope of {stated:g} {unit}", *steps)


def heating_law(times: ArrayLike, temperatures: ArrayLike) -> Finding:
    """Slopes between neighbouring rows must not increase while a body warms at constant power."""
    t, y, half = np.asarray(times, float), np.asarray(temperatures, float), halves(temperatures)
    dt, rates = np.diff(t), np.diff(y) / np.diff(t)
    steps = [f"from {t[i]:g} to {t[i + 1]:g}: {rates[i]:+.3g}" for i in range(rates.size)]
    slack = half[2:] / dt[1:] + half[1:-1] * (1 / dt[1:] + 1 / dt[:-1]) + half[:-2] / dt[:-1]
    faster = np.flatnonzero(np.diff(rates) > slack * (1 + 1e-9))
    if faster.size and y[-1] > y[0]:
        i = int(faster[0])
        return HEATING.finding(
            Effect.CONTRADICTS,
            f"heating accelerates from {rates[i]:+.2g} to {rates[i + 1]:+.2g} per unit of time: no body does so at constant power",
            *steps,
        )
    return HEATING.finding(Effect.CONSISTENT, "heating never accelerates", *steps)


def slope_resolution(slope: float, limit: float, *, step: float, window: float, unit: str = "") -> Finding:
    """|slope| + 1.5·q/W < limit is what a sensor with step q can show over a window W (in the slope's time unit)."""
    hidden = 1.5 * step / window
    line = f"|{slope:g}| + 1.5 × {step:g} / {window:g} = {abs(slope) + hidden:.3g} {unit}; limit {limit:g} {unit}"
    if hidden >= limit:
        return RESOLUTION.finding(
            Effect.INVALIDATES,
            f"steps of {step:g} over {window:g} hide slopes up to {hidden:.2g} {unit}: the limit {limit:g} is out of reach",
            line,
        )
    if abs(slope) + hidden < limit:
        return RESOLUTION.finding(
            Effect.CONFIRMS, f"the slope is below its limit also with the {hidden:.2g} {unit} that steps can hide", line
        )
    if abs(slope) - hidden > limit:
        return RESOLUTION.finding(
            Effect.CONTRADICTS, f"the slope is above its limit also less the {hidden:.2g} {unit} that steps can hide", line
        )
    return RESOLUTION.finding(
        Effect.UNDECIDED, f"steps can hide {hidden:.2g} {unit}, more than the distance to the limit", line, needs="a longer window"
    )


def early_stop(times: ArrayLike, values: ArrayLike, *, limit: float, stopped_at: float) -> Finding:
    """Whether "|slope| < limit" already held between rows clearly before the run is said to have stopped."""
    t, y, half = np.asarray(times, float), np.asarray(values, float), halves(values)
    rates, slack = np.diff(y) / np.diff(t), (half[1:] + half[:-1]) / np.diff(t)
    held = [i for i in range(rates.size) if abs(rates[i]) + slack[i] < limit and t[i + 1] < stopped_at]
    later = [i for i in held if np.any(np.abs(rates[i + 1 :]) - slack[i + 1 :] >= limit)]
    steps = [
        f"from {t[i]:g} to {t[i + 1]:g}: |{rates[i]:.3g}| {'<' if abs(rates[i]) < limit else '≥'} {limit:g}" for i in range(rates.size)
    ]
    if later:
        i = later[0]
        return EARLY_STOP.finding(
            Effect.INVALIDATES,
            f"the rule already held from {t[i]:g} to {t[i + 1]:g}, before the values moved: it cannot tell the end from the start",
            *steps,
        )
    return EARLY_STOP.finding(Effect.CONSISTENT, "the rule did not hold before the values settled", *steps)


def optional_stopping(value: float, limit: float, *, first_crossing: bool | None, stricter: float | None = None) -> Finding:
    """A run that stops at the first crossing of its limit always ends just under it."""
    margin = (limit - value) / limit
    steps = [f"margin ({limit:g} − {value:g}) / {limit:g} = {margin:.1%}"]
    if stricter is not None:
        steps.append(f"the report's own stricter limit {stricter:g}: {'met' if value < stricter else 'not met'}")
    if first_crossing:
        return STOPPING.finding(
            Effect.INVALIDATES,
            f"the run stopped at its first crossing of {limit:g}, so {value:g} says where it stopped, not where it settled",
            *steps,
        )
    if stricter is not None and value >= stricter:
        return STOPPING.finding(Effect.CONTRADICTS, f"{value:g} does not meet the report's own limit {stricter:g}", *steps)
    if first_crossing is None:
        return STOPPING.lacks("whether the run stopped at the first crossing of its limit")
    return STOPPING.finding(Effect.CONSISTENT, f"the value was confirmed after crossing its limit, with a margin of {margin:.0%}", *steps)


def column_maximum(values: ArrayLike, stated: float, *, unit: str = "") -> Finding:
    """The stated maximum of a column against the column."""
    largest = max(np.asarray(values, dtype=object))
    step = f"largest entry {largest:g} {unit}; stated maximum {stated:g} {unit}"
    if abs(largest - stated) > half_unit(largest) + half_unit(stated):
        return EXTREME.finding(Effect.CONTRADICTS, f"the column reaches {largest:g} {unit}, stated is a maximum of {stated:g} {unit}", step)
    return EXTREME.finding(Effect.CONFIRMS, f"the column's maximum is {stated:g} {unit}", step)
