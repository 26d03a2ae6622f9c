"""Energy of one recorded window: which samples, which idle level, which estimator, which gates.

The idle level that fills the sensor's tail is taken from readings beside the window, just before it and just after its tail, because
there the card is in the very state that the readings around the window show. The calibrated baseline is what net energy subtracts.
Readings between the window and the nearest other window only: other work on the device would be taken for idle.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.devices.twin.truth import energy_between
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.metrology.counter import CounterSeries, counter_energy, preferred
from pytest_physics.metrology.energy import IdlePower, PowerSeries, WindowEnergies, net_of_baseline, window_energy, window_estimates
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.staleness import stale_gate
from pytest_physics.metrology.throttle import stall_gate, throttle_gates
from pytest_physics.metrology.uncertainty import Estimate, Gate
from pytest_physics.metrology.updates import distinct_updates
from pytest_physics.record.data import RunData
from pytest_physics.record.schema import BaselineRecord, WindowRecord
from pytest_physics.sampling.trace import FloatArray, Trace

HEAD_UPDATES = 20
"""Sensor updates looked at before a window, beyond the sensor's tail."""
BESIDE_UPDATES = 4
"""Updates after the tail that show the idle level there."""
WITHOUT_POWER = SensorModel(update_period_s=0.1)
"""Stands for the readings of a device that has only a counter."""
CONTEXT_S = 2.0
"""Samples kept around all that is used, so that the comb of updates is well known."""
HABIT_NS = 60 * NS_PER_S
"""How far back the sensor's habit of changing its value is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Surroundings:
    """One window in its trace."""

    trace: Trace
    window: WindowRecord
    sensor: SensorModel
    head_limit_ns: int
    """Latest end of another window before this one."""
    tail_limit_ns: int
    """Earliest start of another window after this one."""

    @property
    def tail_ns(self) -> int:
        return round(self.sensor.tail_s * NS_PER_S)

    @property
    def update_ns(self) -> int:
        return round(self.sensor.update_period_s * NS_PER_S)


def energy_estimate(
    data: RunData,
    window: WindowRecord,
    *,
    kind: str,
    baselines: Sequence[BaselineRecord],
    sensor: SensorModel | None,
    estimator: str | None = None,
) -> Estimate:
    """Gross or net energy of ``window``.

    Parameters
    ----------
    kind
        ``gross`` or ``net``.
    baselines
        Idle baselines in order of time; net energy subtracts their power, interpolated linearly.
    sensor
        What is known of the power channel; None where there is none, only a counter.
    estimator
        ``counter`` or ``power`` to insist on one; None takes the counter where the window spans enough ticks and it is the better one.

    Raises
    ------
    ChannelUnavailableError
        Without the channel the estimator needs.
    """
    if window.t1_ns <= window.t0_ns:
        return Estimate(value=math.nan, unit="J", quality=Quality.NO_DATA, estimator="none")
    around = _surroundings(data, window, sensor or WITHOUT_POWER)
    energies = _energies(data, around, estimator)
    baseline = idle_of(baselines)
    referred = net_of_baseline(energies, baseline) if baseline is not None else energies
    gain = "gain" if referred.coverage < 1 or "offset" in referred.terms else "gain of the counter"
    made = window_estimates(
        referred,
        instrument=window.instrument,
        gain_source=f"{gain}|{window.instrument}",
        max_gap_s=data.settings.sampling.max_gap_s,
    )
    estimate = made.gross if kind == "gross" else made.net
    if baseline is None and kind == "net":
        estimate = replace(estimate, value=math.nan, quality=Quality.NO_DATA, gates=(no_baseline_gate(window),))
    return replace(estimate, gates=(*estimate.gates, *_state_gates(around, baseline), *_stale_gates(data, around)))


def energy_reach_ns(sensor: SensorModel | None) -> int:
    """How long after a window samples are still used: two tails of the sensor, and what shows the idle level there."""
    return NS_PER_S if sensor is None else round((2 * sensor.tail_s + BESIDE_UPDATES * sensor.update_period_s) * NS_PER_S)


def idle_of(baselines: Sequence[BaselineRecord]) -> IdlePower | None:
    """Idle power of the baselines; None without a usable one."""
    known = [b for b in baselines if b.mean_w is not None and b.u_w is not None]
    if not known:
        return None
    return IdlePower(
        t_ns=tuple((b.t0_ns + b.t1_ns) // 2 for b in known),
        power_w=tuple(float(b.mean_w or 0.0) for b in known),
        u_w=max(float(b.u_w or 0.0) for b in known),
        dof=min(float(b.dof) if b.dof is not None else math.inf for b in known),
        identity="+".join(b.id for b in known),
    )


def true_energy(parameters: Mapping[str, Any], data: RunData) -> float | None:
    """The twin's true energy of a ``window.energy`` recipe; net subtracts the true mean power over the baselines."""
    window = data.window(parameters["window"])
    gross = true_energy_between(data, window.instrument, window.t0_ns, window.t1_ns)
    if gross is None or parameters["kind"] == "gross":
        return gross
    baselines = [data.baseline(name) for name in parameters["baselines"]]
    if not baselines or any(b.truth_w is None for b in baselines):
        return None
    middle_s = [((b.t0_ns + b.t1_ns) // 2) / NS_PER_S for b in baselines]
    idle_w = float(np.interp((window.t0_ns + window.t1_ns) / 2 / NS_PER_S, middle_s, [float(b.truth_w or 0.0) for b in baselines]))
    return gross - idle_w * (window.t1_ns - window.t0_ns) / NS_PER_S


def true_energy_between(data: RunData, instrument: str, t0_ns: int, t1_ns: int) -> float | None:
    """The twin's true energy between two instants; None for a real device."""
    table = data.truth_table(instrument)
    return None if table is None else float(energy_between(table, t0_ns, t1_ns))


def _surroundings(data: RunData, window: WindowRecord, sensor: SensorModel) -> _Surroundings:
    reach_ns = round((sensor.tail_s + HEAD_UPDATES * sensor.update_period_s + CONTEXT_S) * NS_PER_S)
    last_ns = energy_reach_ns(sensor)
    trace = data.trace(window.instrument).between(window.t0_ns - reach_ns, window.t1_ns + last_ns, margin=1)
    starts, ends = data.window_edges(window.instrument)
    ended, starting = bisect_right(ends, window.t0_ns), bisect_left(starts, window.t1_ns)
    return _Surroundings(
        trace=trace,
        window=window,
        sensor=sensor,
        head_limit_ns=ends[ended - 1] if ended else window.t0_ns - 10 * reach_ns,
        tail_limit_ns=starts[starting] if starting < len(starts) else window.t1_ns + 10 * last_ns,
    )


def _energies(data: RunData, around: _Surroundings, estimator: str | None) -> WindowEnergies:
    trace, window = around.trace, around.window
    integral = _integral(data, around) if trace.has("power_w") and estimator != "counter" else None
    counter = _counter(data, around) if trace.has("energy_j") and estimator != "power" else None
    if integral is None and counter is None:
        wanted = {"counter": "energy_j", "power": "power_w"}.get(estimator or "", "power_w")
        reason = data.instrument(window.instrument).absent.get(wanted, "the device has no such channel")
        raise ChannelUnavailableError(f"instrument '{window.instrument}' cannot read '{wanted}': {reason}", channel=wanted)
    if integral is None:
        return counter  # type: ignore[return-value]
    return counter if counter is not None and bool(preferred(counter, integral)[0]) else integral


def _integral(data: RunData, around: _Surroundings) -> WindowEnergies:
    trace, window = around.trace, around.window
    series = PowerSeries.of(
        trace.t_ns,
        np.asarray(trace.values("power_w")),
        sensor=around.sensor,
        gap_threshold_s=data.settings.sampling.gap_threshold_s,
    )
    return window_energy(
        series, window.t0_ns, window.t1_ns, idle=_idle_beside(around), head_limit_ns=around.head_limit_ns,
        tail_limit_ns=around.tail_limit_ns,
    )  # fmt: skip


def _counter(data: RunData, around: _Surroundings) -> WindowEnergies:
    trace, window = around.trace, around.window
    series = CounterSeries.of(
        trace.t_ns, np.asarray(trace.values("energy_j")), gap_threshold_s=data.settings.sampling.gap_threshold_s
    )
    return counter_energy(
        series, window.t0_ns, window.t1_ns, idle=_idle_beside(around), head_limit_ns=around.head_limit_ns,
        tail_limit_ns=around.tail_limit_ns, settle_s=around.sensor.tail_s,
    )  # fmt: skip


def _idle_beside(around: _Surroundings) -> IdlePower:
    """Idle level around the window: readings before it and after its tail, weighted as the extended window weighs them."""
    if not around.trace.has("power_w"):
        return IdlePower.constant(0.0, u_w=0.0, identity=f"none|{around.window.id}")
    window, sensor = around.window, around.sensor
    head_from = max(around.head_limit_ns + around.tail_ns, window.t0_ns - HEAD_UPDATES * around.update_ns)
    before = _levels(around, head_from, window.t0_ns)
    tail_from = window.t1_ns + around.tail_ns
    after = _levels(around, tail_from, min(around.tail_limit_ns, tail_from + around.tail_ns + BESIDE_UPDATES * around.update_ns))
    sides = [side for side in (before, after) if side is not None]
    if not sides:
        return _lowest_level(around)
    if before is None or after is None:
        (mean, u, n) = sides[0]
        return IdlePower.constant(mean, u_w=u, dof=max(1.0, n - 1.0), identity=f"beside|{window.id}")
    head_share = (sensor.delay_s + sensor.window_s / 2 + sensor.lag_s) / sensor.tail_s
    mean = head_share * before[0] + (1 - head_share) * after[0]
    u = math.hypot(head_share * before[1], (1 - head_share) * after[1])
    return IdlePower.constant(mean, u_w=u, dof=max(1.0, before[2] + after[2] - 2.0), identity=f"beside|{window.id}")


def _levels(around: _Surroundings, t0_ns: int, t1_ns: int) -> tuple[float, float, int] | None:
    """Mean, standard uncertainty and number of the distinct updates in a span; None with fewer than two."""
    span = around.trace.between(t0_ns, t1_ns)
    power: FloatArray = np.asarray(span.values("power_w"))
    index = distinct_updates(span.t_ns, power, around.sensor.update_period_s)
    if len(index) < 2:
        return None
    chosen = power[index]
    spread = max(float(np.std(chosen, ddof=1)), around.sensor.resolution_w / math.sqrt(12))
    return float(np.mean(chosen)), spread / math.sqrt(len(chosen)), len(chosen)


def _lowest_level(around: _Surroundings) -> IdlePower:
    """Without room beside the window: the lowest reading around, with an uncertainty that says how little is known."""
    power = np.asarray(around.trace.values("power_w"))
    known = power[np.isfinite(power)]
    if not len(known):
        return IdlePower.constant(0.0, u_w=0.0, identity=f"none|{around.window.id}")
    low, high = float(np.min(known)), float(np.max(known))
    return IdlePower.constant(low, u_w=(high - low) / math.sqrt(12), identity=f"beside|{around.window.id}")


def _state_gates(around: _Surroundings, baseline: IdlePower | None) -> tuple[Gate, ...]:
    """What the card did during the window: throttling, and whether it did the work at all."""
    trace, window = around.trace, around.window
    counters = {name: np.asarray(trace.values(name)) for name in trace.channels if name.endswith("_ns")}
    reasons = np.asarray(trace.values("event_reasons")) if trace.has("event_reasons") else None
    gates = list(throttle_gates(trace.t_ns, reasons, counters, window.t0_ns, window.t1_ns, scope=window.id))
    inside = trace.between(window.t0_ns, window.t1_ns)
    if trace.has("utilisation_ratio") and trace.has("power_w") and baseline is not None:
        busy, power = (np.asarray(inside.values(name)) for name in ("utilisation_ratio", "power_w"))
        idle_w = float(baseline.at(np.array([window.t0_ns]))[0])
        gates.append(stall_gate(busy, power, idle_w, u_idle_w=baseline.u_w, scope=window.id))
    return tuple(gates)


def _stale_gates(data: RunData, around: _Surroundings) -> tuple[Gate, ...]:
    """Whether the sensor hung while the card worked; its habit is taken from the minute before the window, and from the tail."""
    window = around.window
    reach_ns = energy_reach_ns(around.sensor)
    trace = data.trace(window.instrument).between(window.t0_ns - HABIT_NS, window.t1_ns + reach_ns)
    if not (trace.has("power_w") and trace.has("utilisation_ratio")):
        return ()
    power, busy = (np.asarray(trace.values(name)) for name in ("power_w", "utilisation_ratio"))
    update_s = around.sensor.update_period_s
    return (stale_gate(trace.t_ns, power, busy, window.t0_ns, window.t1_ns, update_period_s=update_s, scope=window.id),)


def no_baseline_gate(window: WindowRecord) -> Gate:
    """Net energy needs to know what idle is."""
    return Gate(
        name="idle baseline", scope=window.id, measured=0.0, limit=1.0, unit="baselines", passed=False,
        reason="no idle baseline was measured for this window, so idle energy cannot be subtracted",
        remedy="request the 'idle_baseline' fixture, or use gross energy",
    )  # fmt: skip
