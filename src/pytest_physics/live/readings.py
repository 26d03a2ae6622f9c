"""What an instrument says now: its latest values, and what the last minutes say of its temperature.

Shares of time (throttled, waiting) come from cumulative counters over the last :data:`SHARE_S` seconds; headroom, slope and time to limit
from the readings of a longer window, with the interval that the thermometer's step allows. The limit is the device's own slowdown
temperature where it states one, else the setting ``soak.trip_c``.

Assumes that the sampler runs; what it has not read for a while is shown with its age, and never as current.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.config import Settings
from pytest_physics.instrument import Instrument
from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.rle import Headroom, headroom
from pytest_physics.metrology.throttle import EventReason
from pytest_physics.sampling.trace import Trace

if TYPE_CHECKING:
    from pytest_physics.devices.twin import TwinDevice

SHARE_S = 10.0
"""Span of the shares of time."""
SLOPE_S = 60.0
"""Span of the slope: a thermometer of 1 °C cannot tell slopes below 1 °C/min from 0 in it; a longer one would show a slope of the past."""
MIN_SLOPE_S = 10.0
"""Below this no slope is given: one step of the thermometer would be all there is."""

SHARES = {
    "power_cap_ns": "power cap",
    "thermal_ns": "thermal",
    "power_brake_ns": "power brake",
    "cgroup_throttled_ns": "CPU quota",
    "steal_ns": "stolen",
    "pressure_cpu_ns": "waiting for CPU",
}
"""Counters of time, and what they are a share of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One instrument at one moment."""

    instrument: str
    device: str
    simulated: bool
    problem: str
    """Why the sampler does not run; empty while it does."""
    samples: int
    age_s: float
    """Age of the last sample; infinite before the first."""
    values: Mapping[str, float]
    """Latest value of each channel, NaN where its read failed."""
    power_w: float | None
    """Power: the channel's, or that of the energy counter over the last seconds; None where there is neither."""
    reasons: tuple[str, ...] | None
    """Why the clock is not higher, idleness apart; None where the device does not say."""
    shares: Mapping[str, float]
    """Share of the last seconds by cause, 0 to 1."""
    limit_c: float
    limit_source: str
    headroom: Headroom | None
    """None where there is no temperature, or too little of it."""

    def value(self, *channels: str) -> float | None:
        """The first of ``channels`` that the device has; NaN where its read failed."""
        return next((self.values[name] for name in channels if name in self.values), None)


def reading_of(instrument: Instrument, settings: Settings) -> Reading:
    """What ``instrument`` says now."""
    trace = instrument.trace
    now_ns = instrument.clock.now_ns()
    limit_c, source = temperature_limit(instrument, settings)
    values = dict(instrument.sampler.latest())
    recent = trace.between(now_ns - round(SHARE_S * NS_PER_S), now_ns)
    return Reading(
        instrument=instrument.name,
        device=instrument.device.fingerprint.name,
        simulated=instrument.simulated,
        problem="" if instrument.sampler.is_alive() else instrument.sampler.status.error or "the sampler does not run",
        samples=len(trace),
        age_s=(now_ns - int(trace.t_ns[-1])) / NS_PER_S if len(trace) else math.inf,
        values=values,
        power_w=values.get("power_w", _counted_power(recent)),
        reasons=reason_names(values["event_reasons"]) if "event_reasons" in values else None,
        shares={name: share for channel, name in SHARES.items() if (share := share_of_time(recent, channel)) is not None},
        limit_c=limit_c,
        limit_source=source,
        headroom=headroom_of(trace, now_ns, limit_c, _resolution(instrument)),
    )


def reason_names(mask: float) -> tuple[str, ...]:
    """Names of the reasons in ``mask``, idleness apart; a failed read has none."""
    if not math.isfinite(mask):
        return ()
    bits = int(mask) & ~int(EventReason.GPU_IDLE)
    known = [reason for reason in EventReason if bits & reason]
    rest = bits & ~sum(int(reason) for reason in known)
    return (*((reason.name or "").lower().replace("_", " ") for reason in known), *((f"unknown {rest:#x}",) if rest else ()))


def share_of_time(trace: Trace, channel: str) -> float | None:
    """Increase of a counter of nanoseconds over the trace, per time; None where the device has none, or fewer than two readings."""
    rate = _rate(trace, channel)
    return None if rate is None else rate / NS_PER_S


def _counted_power(trace: Trace) -> float | None:
    """Mean power by the energy counter over the trace."""
    return _rate(trace, "energy_j") if trace.has("energy_j") else None


def _rate(trace: Trace, channel: str) -> float | None:
    """Increase per second between the first and the last valid reading; NaN where there are not two."""
    if not trace.has(channel):
        return None
    values = np.asarray(trace.values(channel))
    known = np.flatnonzero(np.isfinite(values))
    if known.size < 2:
        return math.nan
    first, last = int(known[0]), int(known[-1])
    return float(values[last] - values[first]) / (int(trace.t_ns[last] - trace.t_ns[first]) / NS_PER_S)


def headroom_of(trace: Trace, now_ns: int, limit_c: float, resolution_c: float) -> Headroom | None:
    """Headroom from the last minutes of a trace; None without a thermometer, or while there is too little to say."""
    if not trace.has("temperature_c"):
        return None
    window = trace.between(now_ns - round(SLOPE_S * NS_PER_S), now_ns)
    t_s = (window.t_ns - now_ns) / NS_PER_S
    if t_s.size < 2 or t_s[-1] - t_s[0] < MIN_SLOPE_S:
        return None
    readings = np.asarray(window.values("temperature_c"))
    try:
        return headroom(t_s, readings, limit_c=limit_c, resolution_c=resolution_c, window_s=SLOPE_S)
    except RefusedError:
        return None


def temperature_limit(instrument: Instrument, settings: Settings) -> tuple[float, str]:
    """The temperature at which the device slows itself down, in °C, and who says so."""
    if instrument.simulated:
        return cast("TwinDevice", instrument.device).preset.card.slowdown_c, "the preset's slowdown temperature"
    stated = re.match(r"(\d+(?:\.\d+)?) °C", instrument.device.fingerprint.details.get("slowdown_threshold", ""))
    if stated:
        return float(stated[1]), "the device's slowdown threshold"
    return settings.soak.trip_c, "the setting 'soak.trip_c'"


def _resolution(instrument: Instrument) -> float:
    return next((channel.resolution for channel in instrument.device.channels if channel.name == "temperature_c"), 0.0)
