"""Parity of arms: what must be equal between measurements that are compared, and what each of them must show by itself.

A comparison says something of the arms only where the card was in the same state for both. Its clock is compared in
:func:`~pytest_physics.metrology.throttle.clock_parity`, its temperature here: a warm card leaks more. What counts is the temperature
that an arm *found*, at the starts of its windows; the heat that it makes itself is part of what it costs. Further: a card that cools
all along has no state of its own, a window with few readings has no energy, and power that does not rise was drawn by another device.

Assumes leakage of at most 0.3 % of the power per °C (twin: 0.1 to 0.2 W/°C; recordings: 0.3 to 1 W/°C at 300 W). Where a device has
no thermometer nothing is compared, and the caller leaves the gate out. References: TR129 ("warm-GPU effect"), TR123 (the GPU's idle
watts were booked to work of the CPU).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pytest_physics.metrology.uncertainty import Gate

MIN_UPDATES = 5
"""Sensor updates (or counter ticks) that every window of a sweep must have."""
MIN_RISE = 0.10
"""A device that works draws at least this share more than just before the work."""


def temperature_parity(start_c: Mapping[str, float], limit_c: float, *, scope: str = "comparison") -> Gate:
    """Arms that are compared must have started equally warm: highest less lowest of their mean temperatures at the starts of windows."""
    missing = [arm for arm, value in start_c.items() if not math.isfinite(value)]
    if missing or len(start_c) < 2:
        return Gate(
            name="temperature parity", scope=scope, measured=None, limit=limit_c, unit="°C", passed=False,
            reason=f"the temperatures of the arms cannot be compared ({', '.join(missing) or 'fewer than two arms given'})",
            remedy="see the read errors of the temperature channel",
        )  # fmt: skip
    cold, warm = min(start_c, key=start_c.__getitem__), max(start_c, key=start_c.__getitem__)
    apart = start_c[warm] - start_c[cold]
    passed = apart <= limit_c
    return Gate(
        name="temperature parity", scope=scope, measured=apart, limit=limit_c, unit="°C", passed=passed,
        reason=f"windows began at {start_c[cold]:.1f} °C on average in '{cold}' and at {start_c[warm]:.1f} °C in '{warm}', {apart:.1f} °C "
        f"apart (limit {limit_c:g} °C)" + ("" if passed else ": the warmer one leaks more, whatever it does"),
        remedy="" if passed else "interleave the arms in blocks, forwards and backwards, and soak the device first",
    )  # fmt: skip


def temperature_drift(first_c: float, last_c: float, limit_c: float, *, scope: str) -> Gate:
    """A sweep that calls itself soaked must begin and end equally warm: mean at the starts of its first and of its last windows."""
    known = math.isfinite(first_c) and math.isfinite(last_c)
    change = last_c - first_c if known else math.nan
    passed = known and abs(change) <= limit_c
    said = f"went from {first_c:.1f} °C to {last_c:.1f} °C" if known else "is not known"
    return Gate(
        name="soaked in its rhythm", scope=scope, measured=change if known else None, limit=limit_c, unit="°C", passed=passed,
        reason=f"temperature at the starts of windows {said} from the first to the last third of the sweep (limit ± {limit_c:g} °C)"
        + ("" if passed else ": the device was still on its way"),
        remedy="" if passed else "raise 'soak.rhythm_s', or declare the sweep cold: start='cold'",
    )  # fmt: skip


def power_rise(before_w: float, during_w: float, *, u_w: float, scope: str, min_rise: float = MIN_RISE) -> Gate:
    """The metered device must draw more while it works than just before: the larger of ``min_rise`` and 3 ``u_w``."""
    rise, limit = during_w - before_w, max(min_rise * abs(before_w), 3 * u_w)
    passed = rise >= limit
    return Gate(
        name="power rose with the work", scope=scope, measured=rise, limit=limit, unit="W", passed=passed,
        reason=f"power rose from {before_w:.4g} W just before the work to {during_w:.4g} W in it (needed: at least {limit:.3g} W more)"
        + ("" if passed else ": another device did the work"),
        remedy="" if passed else "run the workload on the metered device, or meter the device that runs it",
    )  # fmt: skip


def enough_updates(fewest: float, *, scope: str, what: str = "sensor updates", limit: int = MIN_UPDATES) -> Gate:
    """Every window of an arm must have ``limit`` updates, or the arm is too short to be measured window by window."""
    passed = fewest >= limit
    return Gate(
        name="updates in a window", scope=scope, measured=fewest, limit=float(limit), unit="updates", passed=passed,
        reason=f"the poorest window has {fewest:.0f} {what} (needed: at least {limit})",
        remedy="" if passed else "raise 'experiment.window_s', or measure the event with rig.gpu.repeat(...)",
    )  # fmt: skip
