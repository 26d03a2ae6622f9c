"""Readings as a table for a terminal, and as plain lines for everything else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

from pytest_physics.live.readings import Reading
from pytest_physics.metrology.rle import Headroom

STALE_S = 2.0
"""A sample older than this is not current."""
MIN_SHARE = 0.0005
"""Shares below this are not shown."""
ABSENT = "–"
"""The device has no such channel."""
MISSING = "?"
"""It has, and the read failed."""


def table(readings: Sequence[Reading], *, elapsed_s: float, duration_s: float) -> Table:
    """One column an instrument, one row a quantity."""
    found = Table(box=box.SIMPLE_HEAD, title=f"{span(elapsed_s)} of {span(duration_s)}; Ctrl-C ends it", title_justify="left")
    found.add_column("")
    for reading in readings:
        found.add_column(f"{reading.instrument}: {reading.device}" + (" (SIMULATED)" if reading.simulated else ""))
    columns = [dict(rows(reading)) for reading in readings]
    for name in dict.fromkeys(name for column in columns for name in column):
        found.add_row(name, *(column.get(name, ABSENT) for column in columns))
    return found


def line(reading: Reading, *, elapsed_s: float) -> str:
    """The same on one line; what the device has no channel for is left out."""
    shown = [f"{name} {text}" for name, text in rows(reading) if text != ABSENT]
    mark = " SIMULATED" if reading.simulated else ""
    return f"{elapsed_s:8.1f} s  {reading.instrument}{mark}  " + "; ".join(shown)


def rows(reading: Reading) -> Iterator[tuple[str, str]]:
    """Name and text of each quantity, in the order of the view."""
    room = reading.headroom
    yield "temperature", number(reading.value("temperature_c"), 1.0, "°C")
    if reading.value("memory_temperature_c") is not None:
        yield "memory temperature", number(reading.value("memory_temperature_c"), 1.0, "°C")
    yield "power", number(reading.power_w, 1.0, "W")
    yield "clock", number(reading.value("sm_clock_hz", "frequency_hz"), 1e-6, "MHz")
    yield "memory clock", number(reading.value("memory_clock_hz"), 1e-6, "MHz")
    yield "utilisation", number(reading.value("utilisation_ratio", "utilisation_cpu_ratio"), 100.0, "%")
    yield "throttle reasons", ABSENT if reading.reasons is None else ", ".join(reading.reasons) or "none"
    yield "shares of time", shares(reading)
    if reading.value("temperature_c") is not None:
        yield "slope", slope(room)
        yield "headroom", ABSENT if room is None else f"{room.headroom_c:.1f} °C to {reading.limit_c:g} °C"
        yield "time to limit", time_to_limit(room)
    yield "sampler", sampler(reading)


def number(value: float | None, factor: float, unit: str) -> str:
    """A value in ``unit``; a dash where there is no such channel, a question mark where it could not be read."""
    if value is None:
        return ABSENT
    return f"{value * factor:.4g} {unit}" if math.isfinite(value) else f"{MISSING} {unit}"


def shares(reading: Reading) -> str:
    """Causes with more than a trace of time."""
    if not reading.shares:
        return ABSENT
    shown = [f"{name} {share:.1%}" for name, share in reading.shares.items() if share > MIN_SHARE]
    return ", ".join(shown) or "none lost"


def slope(room: Headroom | None) -> str:
    """The slope's 95 % interval."""
    return "too early" if room is None else f"{room.slope.low:+.2f} to {room.slope.high:+.2f} °C/min"


def time_to_limit(room: Headroom | None) -> str:
    """Time to the limit and its 95 % interval."""
    if room is None:
        return "too early"
    if math.isinf(room.low_s):
        return "∞ (not rising)"
    return f"{span(room.time_to_limit_s)} ({span(room.low_s)} to {span(room.high_s)})"


def sampler(reading: Reading) -> str:
    """How many samples there are, and whether they are current."""
    if reading.problem:
        return f"FAILED: {reading.problem}"
    if math.isinf(reading.age_s):
        return "no sample yet"
    late = f", the last {reading.age_s:.0f} s ago" if reading.age_s > STALE_S else ""
    return f"{reading.samples} samples{late}"


def span(seconds: float) -> str:
    """A length of time in the unit that suits it.

    >>> span(12.3), span(600.0), span(7200.0), span(float("inf"))
    ('12 s', '10 min', '2 h', '∞')
    """
    if math.isinf(seconds):
        return "∞"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"
