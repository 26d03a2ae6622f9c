"""Recipes of the stress study: drift of latency, shares of throttling, power at the cap, stalls, and the loop of clock and temperature.

A sustained load is one window; the durations of the calls inside it stand in ``windows.jsonl``, everything else is in the trace. Every
number of such a window carries the gates that say whether the metered device did the work. A ramp is a pair of windows for each cycle,
labelled with ``cycle`` and ``branch``.

What a rig cannot show (no thermometer, no counter, no throttling for heat) is an estimate without a value and a passed gate whose reason
begins with "not tested", never a zero. References: TR122.A and E; :mod:`~pytest_physics.metrology.sustained`,
:mod:`~pytest_physics.metrology.hysteresis`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.devices.twin.truth import energy_between
from pytest_physics.metrology.hysteresis import Branch, Cycle, over_cycles
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.sustained import (
    MIN_CALLS,
    Share,
    drift_of_thirds,
    longest_run_s,
    own_processor_gate,
    power_rise_gate,
    settled_flags,
    share_by_counter,
    share_by_flags,
    stalled_samples,
)
from pytest_physics.metrology.throttle import EVENT_CLASSES, KNOWN_BITS, EventClass
from pytest_physics.metrology.uncertainty import Estimate, Gate
from pytest_physics.metrology.updates import distinct_updates
from pytest_physics.record.data import RunData
from pytest_physics.record.leaves.window import host_gates_of
from pytest_physics.record.registry import Leaf, Parameters, exactly, leaf, provenance_of
from pytest_physics.record.scale import on_true_scale
from pytest_physics.record.schema import WindowRecord
from pytest_physics.record.sensor_checks import no_value, not_tested, part
from pytest_physics.record.window_energy import idle_of
from pytest_physics.sampling.trace import Trace

CLASSES = (EventClass.THERMAL, EventClass.POWER, EventClass.EXTERNAL, EventClass.CONFIGURATION, EventClass.REFUSE_UNKNOWN)
"""Classes of reasons, as the matrix shows them; benign ones (idle) hold no clock back."""
COUNTERS = {EventClass.THERMAL: "thermal_ns", EventClass.POWER: "power_cap_ns", EventClass.EXTERNAL: "power_brake_ns"}
"""Cumulative counter of a class."""
MIN_CAPPED_UPDATES = 5
"""Readings at the cap, at least."""
BRANCHES = ("up", "down")


def class_bits(event_class: EventClass) -> int:
    """Mask of a class; unknown bits are refused."""
    known = sum(int(reason) for reason, of in EVENT_CLASSES.items() if of is event_class)
    return known | (~KNOWN_BITS if event_class is EventClass.REFUSE_UNKNOWN else 0)


# --- did the device work? --------------------------------------------------------------------------------------------


def ran_gates(data: RunData, window: WindowRecord, baselines: Sequence[str]) -> tuple[Gate, ...]:
    """Whether the metered device did the work of a window, and whether the host left it alone."""
    inside = data.trace(window.instrument).between(window.t0_ns, window.t1_ns)
    host = host_gates_of(data, window.t0_ns, window.t1_ns, window.instrument, window.id)
    if inside.has("power_w"):
        idle = idle_of([data.baseline(name) for name in baselines])
        power = np.asarray(inside.values("power_w"))
        if idle is None or not np.isfinite(power).any():
            return host
        idle_w = float(idle.at(np.array([window.t0_ns]))[0])
        return (*host, power_rise_gate(float(np.nanmean(power)), idle_w, idle.u_w, scope=window.id))
    if inside.has("utilisation_cpu_ratio") and inside.has("foreign_cpu_ns") and len(inside) > 1:
        return (*host, own_processor_gate(_own_cpus(data, inside, window.instrument), scope=window.id))
    return host


def _own_cpus(data: RunData, inside: Trace, instrument: str) -> float:
    """Processors that were busy, less those that others kept busy; and what the run was ready for and did not get."""
    cpus = int(data.instrument(instrument).fingerprint.details["logical_cpus"])
    busy = float(np.nanmean(inside.values("utilisation_cpu_ratio"))) * cpus
    span_ns = float(inside.t_ns[-1] - inside.t_ns[0])
    waited_ns = _increase(inside, "own_wait_ns") if inside.has("own_wait_ns") else 0.0
    return busy + (waited_ns - _increase(inside, "foreign_cpu_ns")) / span_ns


def _increase(inside: Trace, counter: str) -> float:
    values = np.asarray(inside.values(counter))
    return float(np.nanmax(values) - np.nanmin(values)) if np.isfinite(values).any() else 0.0


def _sustained(evaluated: Leaf) -> Leaf:
    """A number of one window under load, with its provenance and the gates of the work."""

    def measured(parameters: Parameters, data: RunData) -> Estimate:
        window = data.window(parameters["window"])
        estimate = evaluated(parameters, data)
        gates = (*estimate.gates, *ran_gates(data, window, parameters.get("baselines", ())))
        return replace(estimate, provenance=provenance_of(data, window.instrument), gates=gates)

    return measured


# --- drift -----------------------------------------------------------------------------------------------------------


def _drift(parameters: Parameters, data: RunData) -> Estimate:
    """Mean latency of the last third of the calls over that of the first, minus 1."""
    window = data.window(parameters["window"])
    if len(window.calls_ns) < MIN_CALLS:
        gate = Gate(
            name="calls under load", scope=window.id, measured=float(len(window.calls_ns)), limit=float(MIN_CALLS), unit="calls",
            passed=False, reason=f"{len(window.calls_ns)} calls were timed under load (needed: {MIN_CALLS}, four in each third)",
            remedy="lengthen 'stress.sustain_s' (a longer profile does), or shorten the calls",
        )  # fmt: skip
        return no_value("1", gate, "none")
    found = drift_of_thirds(np.asarray(window.calls_ns, dtype=np.float64))
    resolution = data.instrument(window.instrument).clock_resolution_ns / float(np.mean(window.calls_ns))
    components = (
        part("between calls", f"drift|{window.id}", found.u, dof=found.dof, evaluation="A"),
        part("clock", f"clock|{window.id}", resolution * math.sqrt(2 / found.n)),
    )
    return Estimate(value=found.value, unit="1", components=components, quality=Quality.GOOD, estimator=f"thirds of {found.n} calls")


def _drift_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    """On a virtual clock durations are exact."""
    window = data.window(parameters["window"])
    if data.truth_table(window.instrument) is None or len(window.calls_ns) < MIN_CALLS:
        return None
    return Estimate.exact(drift_of_thirds(np.asarray(window.calls_ns, dtype=np.float64)).value)


# --- shares of throttling --------------------------------------------------------------------------------------------


def _throttle_share(parameters: Parameters, data: RunData) -> Estimate:
    """Share of a window during which a class of reasons held the clock back: the counter where there is one, else the mask."""
    window, event_class = data.window(parameters["window"]), EventClass(parameters["class"])
    trace = data.trace(window.instrument).between(window.t0_ns, window.t1_ns, margin=2)
    share = _share(trace, window, event_class)
    if share is None:
        reason = data.instrument(window.instrument).absent.get("event_reasons", "the device reports no event reasons")
        return not_tested(f"throttling: {event_class.value}", window.id, "1", reason)
    known = math.isfinite(share.value)
    edges = part("edges", f"share {event_class.value}|{window.id}", share.bound / math.sqrt(3)) if known and share.bound else None
    return Estimate(
        value=share.value, unit="1", components=(edges,) if edges else (), quality=Quality.GOOD if known else Quality.NO_DATA,
        estimator=share.source,
    )  # fmt: skip


def _share(trace: Trace, window: WindowRecord, event_class: EventClass) -> Share | None:
    """The larger of what counter and mask say: a counter may stand still for lack of support."""
    found = []
    counter = COUNTERS.get(event_class, "")
    if trace.has(counter):
        found.append(share_by_counter(trace.t_ns, np.asarray(trace.values(counter)), window.t0_ns, window.t1_ns))
    if trace.has("event_reasons"):
        reasons = np.asarray(trace.values("event_reasons"))
        known = np.isfinite(reasons)
        flags = (reasons[known].astype(np.int64) & class_bits(event_class)) != 0
        found.append(share_by_flags(trace.t_ns[known], flags, window.t0_ns, window.t1_ns))
    told = [share for share in found if math.isfinite(share.value)]
    if not told:
        return found[0] if found else None
    return told[0] if told[0].value > 0 else max(told, key=lambda share: share.value)


def _share_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    """From the twin's own record of its reasons."""
    window = data.window(parameters["window"])
    table = data.truth_table(window.instrument)
    if table is None:
        return None
    flags = (table["event_reasons"].astype(np.int64) & class_bits(EventClass(parameters["class"]))) != 0
    return Estimate.exact(float(_lengths_ns(table, window)[flags].sum()) / (window.t1_ns - window.t0_ns))


def _lengths_ns(table: Any, window: WindowRecord) -> Any:  # noqa: ANN401 -- structured array, float array
    """How much of each segment of a truth table lies inside a window."""
    starts = np.clip(table["t_ns"], window.t0_ns, window.t1_ns)
    stops = np.clip(np.append(table["t_ns"][1:], np.iinfo(np.int64).max), window.t0_ns, window.t1_ns)
    return (stops - starts).astype(np.float64)


# --- power at the cap ------------------------------------------------------------------------------------------------


def _power_at_cap(parameters: Parameters, data: RunData) -> Estimate:
    """Mean power while the power cap held the clock, over the enforced limit."""
    window, sensor = data.window(parameters["window"]), data.sensor(parameters["sensor"])
    trace = data.trace(window.instrument).between(window.t0_ns, window.t1_ns)
    missing = [name for name in ("power_w", "event_reasons", "power_limit_w") if not trace.has(name)]
    if missing or sensor is None:
        absent = data.instrument(window.instrument).absent
        return not_tested("power at the cap", window.id, "1", absent.get((missing or ["power_w"])[0], "the device has no such channel"))
    trace = on_true_scale(trace, sensor)
    power, reasons, limit = (np.asarray(trace.values(name)) for name in ("power_w", "event_reasons", "power_limit_w"))
    known = np.isfinite(power) & np.isfinite(reasons) & np.isfinite(limit)
    t_ns, power, limit = trace.t_ns[known], power[known], limit[known]
    capped = (reasons[known].astype(np.int64) & class_bits(EventClass.POWER)) != 0
    at_cap = settled_flags(t_ns, capped, round(sensor.tail_s * NS_PER_S))
    index = distinct_updates(t_ns, power, sensor.update_period_s) if len(power) else np.zeros(0, int)
    used = index[at_cap[index]] if len(index) else index
    if len(used) < MIN_CAPPED_UPDATES:
        reason = f"the power cap held the clock during {len(used)} readings (needed: {MIN_CAPPED_UPDATES}): this load does not reach it"
        return not_tested("power at the cap", window.id, "1", reason)
    return _capped_estimate(window, sensor, power[used] / limit[used], float(np.mean(limit[used])))


def _capped_estimate(window: WindowRecord, sensor: Any, ratio: Any, limit_w: float) -> Estimate:  # noqa: ANN401 -- SensorModel, float array
    mean = float(ratio.mean())
    noise = float(np.sqrt(np.mean(np.diff(ratio) ** 2) / 2 / len(ratio)))
    components = (
        part("noise", f"cap|{window.id}", max(noise, sensor.resolution_w / limit_w / math.sqrt(12)), dof=len(ratio) - 1, evaluation="A"),
        part("offset", f"offset|{window.instrument}", sensor.u_offset_w / limit_w),
        part("gain", f"gain|{window.instrument}", sensor.u_gain * mean, common_scale=True),
    )
    return Estimate(value=mean, unit="1", components=components, quality=Quality.GOOD, estimator=f"{len(ratio)} readings at the cap")


def _cap_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    """True energy of the segments at the cap, over their time and the limit."""
    window = data.window(parameters["window"])
    table = data.truth_table(window.instrument)
    limit_w = float(data.instrument(window.instrument).fingerprint.details.get("power_limit_w", "nan"))
    if table is None or not math.isfinite(limit_w):
        return None
    lengths_ns = _lengths_ns(table, window)
    capped = ((table["event_reasons"].astype(np.int64) & class_bits(EventClass.POWER)) != 0) & (lengths_ns > 0)
    starts = np.clip(table["t_ns"], window.t0_ns, window.t1_ns)[capped]
    if not len(starts):
        return None
    energy_j = float(np.sum(energy_between(table, starts, starts + lengths_ns[capped].astype(np.int64))))
    return Estimate.exact(energy_j / (float(lengths_ns[capped].sum()) / NS_PER_S) / limit_w)


# --- stalls ----------------------------------------------------------------------------------------------------------


def _longest_stall(parameters: Parameters, data: RunData) -> Estimate:
    """Longest stretch of a window in which the device said "busy" at idle power."""
    window = data.window(parameters["window"])
    trace = data.trace(window.instrument).between(window.t0_ns, window.t1_ns)
    idle = idle_of([data.baseline(name) for name in parameters["baselines"]])
    missing = [name for name in ("utilisation_ratio", "power_w") if not trace.has(name)]
    if missing or idle is None:
        absent = data.instrument(window.instrument).absent
        reason = absent.get(missing[0], f"the device has no '{missing[0]}'") if missing else "no idle baseline says what idle power is"
        return not_tested("stall watchdog", window.id, "s", reason)
    busy, power = (np.asarray(trace.values(name)) for name in ("utilisation_ratio", "power_w"))
    known = np.isfinite(busy) & np.isfinite(power)
    idle_w = float(idle.at(np.array([window.t0_ns]))[0])
    found_s = longest_run_s(trace.t_ns[known], stalled_samples(busy[known], power[known], idle_w, idle.u_w))
    ends = part("ends between samples", f"stall|{window.id}", trace.period_ns / NS_PER_S / math.sqrt(3))
    return Estimate(value=found_s, unit="s", components=(ends,), quality=Quality.GOOD, estimator="unbroken samples at idle power")


leaf("stress.latency_drift", truth=_drift_truth)(_sustained(_drift))
leaf("stress.throttle_share", truth=_share_truth)(_sustained(_throttle_share))
leaf("stress.power_at_cap", truth=_cap_truth)(_sustained(_power_at_cap))
leaf("stress.longest_stall")(_sustained(_longest_stall))


# --- the loop of clock and temperature -------------------------------------------------------------------------------


def cycles_of(parameters: Parameters, data: RunData) -> list[Cycle]:
    """The cycles of a ramp, as they were read."""
    return _remembered("read", parameters, data, _read_branch)


def true_cycles_of(parameters: Parameters, data: RunData) -> list[Cycle]:
    """The same as the twin went through them; on the readings' own instants, its temperature not rounded."""
    return _remembered("true", parameters, data, _true_branch)


def _remembered(which: str, parameters: Parameters, data: RunData, branch: Callable[[RunData, WindowRecord], Branch]) -> list[Cycle]:
    """Closed windows do not change, and three numbers rest on the same cycles."""
    key = f"{which} cycles|{'|'.join(parameters['windows'])}"
    if key not in data.memory:
        data.memory[key] = _cycles(parameters, data, branch)
    found: list[Cycle] = data.memory[key]
    return found


def _cycles(parameters: Parameters, data: RunData, branch: Callable[[RunData, WindowRecord], Branch]) -> list[Cycle]:
    halves: dict[int, dict[str, Branch]] = {}
    for window in map(data.window, parameters["windows"]):
        halves.setdefault(int(window.labels["cycle"]), {})[str(window.labels["branch"])] = branch(data, window)
    return [Cycle(**both) for _, both in sorted(halves.items()) if set(both) == set(BRANCHES)]


def _read_branch(data: RunData, window: WindowRecord) -> Branch:
    trace = data.trace(window.instrument).between(window.t0_ns, window.t1_ns)
    columns = [np.asarray(trace.values(name)) for name in ("temperature_c", "sm_clock_hz", "event_reasons")]
    known = np.all([np.isfinite(column) for column in columns], axis=0)
    temperature_c, clock_hz, reasons = (column[known] for column in columns)
    return Branch(temperature_c=temperature_c, clock_hz=clock_hz, reasons=reasons.astype(np.int64))


def _true_branch(data: RunData, window: WindowRecord) -> Branch:
    table = data.truth_table(window.instrument)
    assert table is not None  # noqa: S101 -- asked for on twins only
    t_ns = data.trace(window.instrument).between(window.t0_ns, window.t1_ns).t_ns
    start, stop = np.searchsorted(table["t_ns"], [window.t0_ns, window.t1_ns])
    table = table[max(0, int(start) - 1) : int(stop) + 1]
    segment = np.maximum(np.searchsorted(table["t_ns"], t_ns, side="right") - 1, 0)
    return Branch(
        temperature_c=np.interp(t_ns, table["t_ns"], table["node_0_c"]),
        clock_hz=table["sm_clock_hz"][segment],
        reasons=table["event_reasons"][segment].astype(np.int64),
    )


def _step_c(data: RunData, parameters: Parameters) -> float:
    instrument = data.window(parameters["windows"][0]).instrument
    return next((c.resolution for c in data.instrument(instrument).channels if c.name == "temperature_c"), 0.0) or 1.0


def _loop(
    name: str, unit: str, number: Callable[[Cycle, float], float], *, limited_by_thermometer: bool
) -> tuple[Leaf, Callable[..., Any]]:
    """Leaf and truth of one number of the loop: its mean over the cycles."""

    def measured(parameters: Parameters, data: RunData) -> Estimate:
        windows = [data.window(name) for name in parameters["windows"]]
        scope, step_c = f"{windows[0].id} to {windows[-1].id}", _step_c(data, parameters)
        cycles = cycles_of(parameters, data)
        if not any(cycle.throttles for cycle in cycles):
            hottest = max((float(b.temperature_c.max()) for c in cycles for b in (c.up, c.down) if len(b.temperature_c)), default=math.nan)
            reason = f"no opportunity arose: in {len(cycles)} cycles up to {hottest:g} °C the device was never slowed for heat"
            return replace(not_tested(name, scope, unit, reason), provenance=provenance_of(data, windows[0].instrument))
        found = over_cycles(np.array([number(cycle, step_c) for cycle in cycles]))
        known = found.n > 1
        parts = [part("between cycles", f"{name}|{scope}", found.u, dof=max(1, found.n - 1), evaluation="A")] if known else []
        if limited_by_thermometer:
            parts.append(part("step of the thermometer", f"thermometer|{scope}", step_c / math.sqrt(3)))
        return Estimate(
            value=found.mean, unit=unit, components=tuple(parts), quality=Quality.GOOD if known else Quality.NO_DATA,
            provenance=provenance_of(data, windows[0].instrument), estimator=f"mean of {found.n} cycles",
        )  # fmt: skip

    def truth(parameters: Parameters, data: RunData) -> Estimate | None:
        if data.truth_table(data.window(parameters["windows"][0]).instrument) is None:
            return None
        step_c, cycles = _step_c(data, parameters), true_cycles_of(parameters, data)
        if not any(cycle.throttles for cycle in cycles):
            return None
        value = over_cycles(np.array([number(cycle, step_c) for cycle in cycles])).mean
        return exactly(value if math.isfinite(value) else None, unit)

    return measured, truth


LOOP: dict[str, tuple[str, Callable[[Cycle, float], float], bool]] = {
    "stress.loop_width": ("°C", lambda cycle, _step_c: cycle.width_c(), True),
    "stress.loop_height": ("Hz", lambda cycle, step_c: cycle.height_hz(step_c), False),
    "stress.loop_area": ("Hz·°C", lambda cycle, step_c: cycle.area_hz_c(step_c), False),
}
"""Numbers of the loop: unit, computation, and whether the thermometer's step limits them."""

for _op, (_unit, _number, _limited) in LOOP.items():
    _measured, _truth = _loop(_op.removeprefix("stress.").replace("_", " "), _unit, _number, limited_by_thermometer=_limited)
    leaf(_op, truth=_truth)(_measured)
