"""Energy of one recorded window: which samples, which idle level, which estimator, which gates.

The idle level that fills the sensor's tail is taken from readings beside the window, just before it and just after its tail, because
there the card is in the very state that the readings around the window show. The calibrated baseline is what net energy subtracts.
Power sensor and energy counter have scales and zeros of their own: energy by the counter is referred to idle power by the counter.
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
from pytest_physics.devices.base import READ_OK, describe_error
from pytest_physics.devices.twin.truth import energy_between, locate, power_at
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.metrology.beside import SAME_CLOCK, DeviceState, IdleReference, Side, busy_beside, lowest_level, quiet_gate, steady
from pytest_physics.metrology.counter import MIN_TICKS, CounterSeries, counter_energy, preferred
from pytest_physics.metrology.energy import (
    Estimator,
    IdlePower,
    PowerSeries,
    Term,
    WindowEnergies,
    centroid_s,
    net_of_baseline,
    window_energy,
    window_estimates,
)
from pytest_physics.metrology.foreign import foreign_work_gate, unseen_work
from pytest_physics.metrology.foreign_channels import FOREIGN_WORK
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.response import FULL_COVERAGE, SensorModel
from pytest_physics.metrology.staleness import stale_gate
from pytest_physics.metrology.throttle import stall_gate, throttle_gates
from pytest_physics.metrology.uncertainty import Component, Estimate, Gate
from pytest_physics.metrology.updates import distinct_updates
from pytest_physics.record.data import RunData
from pytest_physics.record.scale import baseline_on_scale, on_true_scale
from pytest_physics.record.schema import BaselineRecord, WindowRecord
from pytest_physics.sampling.trace import BoolArray, FloatArray, IntArray, Trace

HEAD_UPDATES = 20
"""Sensor updates looked at before a window, beyond the sensor's tail."""
BESIDE_UPDATES = 4
"""Updates after the tail that show the idle level there."""
MIN_SPLIT = 3 * BESIDE_UPDATES
"""Fewer updates are not searched for a change of level."""
LEVEL_CHANGE = 5.0
"""A change of idle level is larger than this many typical differences of neighbours."""
Level = tuple[float, float, int]
"""Mean power in watts, its standard uncertainty, and the number of updates behind it."""
WITHOUT_POWER = SensorModel(update_period_s=0.1)
"""Stands for the readings of a device that has only a counter."""
CONTEXT_S = 2.0
"""Samples kept around all that is used, so that the comb of updates is well known."""
IMPLAUSIBLE_POWER = 2.0
"""Readings above this many times the enforced power limit; excursions of real cards stay below it."""
BUSY_THROUGHOUT = 0.95
"""Median utilisation from which a load counts as constant."""
MIN_UPDATES = 2
"""Ticks of the counter inside a window, at least."""
AGREEMENT_FACTOR = 3.0
"""Counter and integral may differ by this many standard uncertainties."""
BY_COUNTER = "counter|"
"""Begins the identity of idle power that the energy counter measured."""
MAX_FAILED_READS = 0.01
"""Above this share of failed reads a warning is shown."""
CALIBRATED = "calibrated scale"
"""Stands in the estimator's name where readings were corrected for a reference meter's gain and offset."""
HABIT_NS = 60 * NS_PER_S
"""How far back the sensor's habit of changing its value is looked at, and idle power in other states."""
OWN_FALL_NS = NS_PER_S // 50
"""A card's own power falls within this time after its work: a faster sensor shows that fall, and the level after it last."""
RULES = 2
"""Version of an energy's rules, as its recipe names it: 2 brought the gate of quiet beside the window, and the level after the *last* of
several changes there. Runs of before name none, and are computed by the first rules."""


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
    rules: int = RULES

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
    rules: int = RULES,
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
    rules
        Version of the rules, see :data:`RULES`.

    Raises
    ------
    ChannelUnavailableError
        Without the channel the estimator needs.
    """
    if window.t1_ns <= window.t0_ns:
        return Estimate(value=math.nan, unit="J", quality=Quality.NO_DATA, estimator="none")
    around = _surroundings(data, window, sensor or WITHOUT_POWER, rules=rules)
    baselines = [baseline_on_scale(baseline, data.sensor(baseline.sensor), sensor) for baseline in baselines]
    energies, other = _energies(data, around, baselines, estimator)
    by_counter = energies.estimator[0] >= Estimator.COUNTER_BRACKETED
    baseline = (counter_idle_of(data, baselines) if by_counter else None) or idle_of(baselines)
    referred = net_of_baseline(energies, baseline) if baseline is not None else energies
    if by_counter and baseline is not None:
        referred = _with_zero(referred, around.sensor, baseline)
    gain = "gain of the counter" if by_counter else "gain"
    made = window_estimates(
        referred,
        instrument=window.instrument,
        gain_source=f"{gain}|{window.instrument}",
        max_gap_s=data.settings.sampling.max_gap_s,
    )
    estimate = made.gross if kind == "gross" else made.net
    if not by_counter:
        estimate = _with_aliasing(around, estimate)
    if around.sensor.calibrated and not by_counter:
        estimate = replace(estimate, estimator=f"{estimate.estimator}, {CALIBRATED}")
    if baseline is None and kind == "net":
        estimate = replace(estimate, value=math.nan, quality=Quality.NO_DATA, gates=(no_baseline_gate(data, window),))
    gates = (
        *_state_gates(around, baseline),
        *_foreign_gates(data, around),
        *_stale_gates(data, around),
        *(() if by_counter else _coverage_gates(around, energies)),
    )
    if rules >= RULES:
        gates += _quiet_gates(data, around, baselines, window_w=float(energies.gross_j[0] / energies.duration_s[0]))
    if not any(gate.refuses for gate in gates):  # what explains a difference is said already
        gates += _agreement_gates(around, energies, other, insisted=estimator is not None)
    return replace(estimate, gates=(*estimate.gates, *gates))


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


def counter_idle_of(data: RunData, baselines: Sequence[BaselineRecord]) -> IdlePower | None:
    """Idle power of the baselines on the scale of the energy counter; None where the counter did not tick often enough in one of them."""
    levels = [_counter_level(data, baseline) for baseline in baselines]
    if not levels or any(level is None for level in levels):
        return None
    known = [level for level in levels if level is not None]
    return IdlePower(
        t_ns=tuple((b.t0_ns + b.t1_ns) // 2 for b in baselines),
        power_w=tuple(power_w for power_w, _ in known),
        u_w=max(math.hypot(u_w, float(b.u_w or 0.0)) for (_, u_w), b in zip(known, baselines, strict=True)),
        dof=min(float(b.dof) if b.dof is not None else math.inf for b in baselines),
        identity=BY_COUNTER + "+".join(b.id for b in baselines),
    )


def _counter_level(data: RunData, baseline: BaselineRecord) -> tuple[float, float] | None:
    """Mean power by the counter over a baseline, and its standard uncertainty; None where it did not tick often enough."""
    key = f"counter level|{baseline.id}"  # a baseline is over when it is recorded, and every window asks for it
    if key not in data.memory:
        data.memory[key] = _counter_levels(data.trace(baseline.instrument).between(baseline.t0_ns, baseline.t1_ns))
    found: Level | None = data.memory[key]
    return None if baseline.mean_w is None or found is None or found[2] <= MIN_TICKS else found[:2]


def _with_zero(energies: WindowEnergies, sensor: SensorModel, baseline: IdlePower) -> WindowEnergies:
    """Net energy by the counter has gross energy's error of the zero; where the power sensor measured the baseline, also that sensor's."""
    own = baseline.identity.startswith(BY_COUNTER)
    u_w = 0.0 if own else math.hypot(sensor.u_offset_w, sensor.u_gain * max(map(abs, baseline.power_w)))
    gross_j = energies.terms["offset"].gross_j
    zero = Term(gross_j=gross_j, net_j=-np.hypot(gross_j, u_w * energies.duration_s))
    return replace(energies, terms={**energies.terms, "offset": zero})


def true_energy(parameters: Mapping[str, Any], data: RunData) -> float | None:
    """The twin's true energy of a ``window.energy`` recipe; net subtracts the true mean power over the baselines.

    What the card still draws while its power falls after the window belongs to the window's work, and what it still draws at the window's
    begin to the work before: no instrument outside the card can tell that fall from its own lag. Power follows its target P∞ as
    τ·dP/dt = P∞ − P, so ∫ P∞ = ∫ P + τ·(P(t1) − P(t0)).
    """
    window = data.window(parameters["window"])
    gross = _true_work(data, window)
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


def _true_work(data: RunData, window: WindowRecord) -> float | None:
    """True energy of a window with its own electrical fall, less that of the work before."""
    table = data.truth_table(window.instrument)
    if table is None:
        return None
    edges = np.array([window.t0_ns, window.t1_ns])
    before_w, after_w = power_at(table, edges - np.array([0, 1]))  # at the end, before the load is taken off
    tau_s = float(table["tau_s"][locate(table, edges[:1])[0][0]])
    return float(energy_between(table, window.t0_ns, window.t1_ns)) + tau_s * float(after_w - before_w)


def _surroundings(data: RunData, window: WindowRecord, sensor: SensorModel, *, rules: int = RULES) -> _Surroundings:
    reach_ns = round((sensor.tail_s + HEAD_UPDATES * sensor.update_period_s + CONTEXT_S) * NS_PER_S)
    last_ns = energy_reach_ns(sensor)
    trace = on_true_scale(data.trace(window.instrument).between(window.t0_ns - reach_ns, window.t1_ns + last_ns, margin=1), sensor)
    starts, ends = data.window_edges(window.instrument)
    ended, starting = bisect_right(ends, window.t0_ns), bisect_left(starts, window.t1_ns)
    return _Surroundings(
        trace=trace,
        window=window,
        sensor=sensor,
        head_limit_ns=ends[ended - 1] if ended else window.t0_ns - 10 * reach_ns,
        tail_limit_ns=starts[starting] if starting < len(starts) else window.t1_ns + 10 * last_ns,
        rules=rules,
    )


def _energies(
    data: RunData, around: _Surroundings, baselines: Sequence[BaselineRecord], estimator: str | None
) -> tuple[WindowEnergies, WindowEnergies | None]:
    """The energies asked for, or the better ones; and those by the other channel, where there is one."""
    trace, window = around.trace, around.window
    integral = _integral(data, around) if trace.has("power_w") else None
    counter = _counter(data, around, baselines) if trace.has("energy_j") else None
    by_counter = estimator == "counter" or integral is None or (
        estimator is None and counter is not None and _counter_is_better(counter, integral)
    )  # fmt: skip
    chosen, other = (counter, integral) if by_counter else (integral, counter)
    if chosen is None or (by_counter and estimator == "power"):
        wanted = {"counter": "energy_j", "power": "power_w"}.get(estimator or "", "power_w")
        reason = data.instrument(window.instrument).absent.get(wanted, "the device has no such channel")
        raise ChannelUnavailableError(f"instrument '{window.instrument}' cannot read '{wanted}': {reason}", channel=wanted)
    return chosen, other


def _counter_is_better(counter: WindowEnergies, integral: WindowEnergies) -> bool:
    """Enough ticks, or at least a smaller uncertainty than that of a sensor that looks only part of the time."""
    partial = integral.coverage < 1 and math.isfinite(counter.net_j[0]) and counter.n_updates[0] >= MIN_UPDATES
    return bool(preferred(counter, integral)[0]) or (partial and not counter.u_net_j()[0] > integral.u_net_j()[0])


def _integral(data: RunData, around: _Surroundings) -> WindowEnergies:
    trace, window = around.trace, around.window
    series = PowerSeries.of(
        trace.t_ns,
        np.asarray(trace.values("power_w")),
        sensor=around.sensor,
        gap_threshold_s=data.settings.sampling.gap_threshold_s,
    )
    idle = _idle_beside(around)
    return window_energy(
        series, window.t0_ns, window.t1_ns, idle=idle, beside=_both(_sides(around), idle, 0.0), head_limit_ns=around.head_limit_ns,
        tail_limit_ns=around.tail_limit_ns,
    )  # fmt: skip


def _counter(data: RunData, around: _Surroundings, baselines: Sequence[BaselineRecord]) -> WindowEnergies:
    trace, window = around.trace, around.window
    idle, beside, u_zero_w = _idle_beside_by_counter(data, around, baselines)
    series = CounterSeries.of(trace.t_ns, np.asarray(trace.values("energy_j")), gap_threshold_s=data.settings.sampling.gap_threshold_s)
    energies = counter_energy(
        series, window.t0_ns, window.t1_ns, idle=idle, beside=beside, head_limit_ns=around.head_limit_ns,
        tail_limit_ns=around.tail_limit_ns, settle_s=around.sensor.tail_s,
    )  # fmt: skip
    # the counter is read from tick to tick around the window; idle energy is taken off over that surplus, with this error
    surplus_s = np.abs(energies.terms["baseline"].gross_j) / idle.u_w if idle.u_w else np.zeros(len(energies))
    zero = Term(gross_j=-u_zero_w * surplus_s, net_j=-u_zero_w * surplus_s)
    return replace(energies, terms={**energies.terms, "offset": zero})


def _idle_beside_by_counter(
    data: RunData, around: _Surroundings, baselines: Sequence[BaselineRecord]
) -> tuple[IdlePower, tuple[IdlePower, IdlePower] | None, float]:
    """Idle level around the window on the counter's scale, that before and that after it, and what stays unknown of the scale in watts.

    Over the baselines counter and power sensor saw the same: what they differ by there is taken off the readings beside the window.
    """
    idle, sensor = _idle_beside(around), around.sensor
    power, counter = idle_of(baselines), counter_idle_of(data, baselines)
    level_w = idle.power_w[0]
    sides = _sides(around)
    if power is None or counter is None or not around.trace.has("power_w"):
        u_zero_w = math.hypot(sensor.u_offset_w, sensor.u_gain * level_w) if around.trace.has("power_w") else 0.0
        return idle, _both(sides, idle, 0.0), u_zero_w
    known_w, shift_w = float(np.mean(power.power_w)), float(np.mean(counter.power_w) - np.mean(power.power_w))
    shifted = replace(idle, power_w=(level_w + shift_w,), u_w=math.hypot(idle.u_w, counter.u_w))
    return shifted, _both(sides, shifted, shift_w), sensor.u_gain * abs(level_w - known_w)


def _both(sides: tuple[Level | None, Level | None], idle: IdlePower, shift_w: float) -> tuple[IdlePower, IdlePower] | None:
    """The levels before and after the window, moved by ``shift_w``; None where one of them is not known."""
    before, after = sides
    if before is None or after is None:
        return None
    return replace(idle, power_w=(before[0] + shift_w,)), replace(idle, power_w=(after[0] + shift_w,))


def _idle_beside(around: _Surroundings) -> IdlePower:
    """Idle level around the window: readings before it and after its tail, weighted as the extended window weighs them.

    A device with a counter alone has the counter's mean power there, weighted alike on both sides.
    """
    window, sensor = around.window, around.sensor
    before, after = _sides(around)
    sides = [side for side in (before, after) if side is not None]
    if not sides:
        return _lowest_level(around)
    if before is None or after is None:
        (mean, u, n) = sides[0]
        return IdlePower.constant(mean, u_w=u, dof=max(1.0, n - 1.0), identity=f"beside|{window.id}")
    powered = around.trace.has("power_w")
    # what is integrated from t0 to t1 + tail stands for what was drawn from the centroid of the response before t0 on
    head_share = min(1.0, centroid_s(sensor) / sensor.tail_s) if powered else 0.5
    mean = head_share * before[0] + (1 - head_share) * after[0]
    u = math.hypot(head_share * before[1], (1 - head_share) * after[1])
    return IdlePower.constant(mean, u_w=u, dof=max(1.0, before[2] + after[2] - 2.0), identity=f"beside|{window.id}")


def _sides(around: _Surroundings) -> tuple[Level | None, Level | None]:
    """Levels before the window and after its tail."""
    head, tail = _side_spans(around)
    beyond = 1 + 2 * around.tail_ns / max(tail[1] - tail[0], around.update_ns)  # from the middle of the span back to the window's end
    return _levels(around, *head), _levels(around, *tail, beyond=beyond)


def _side_spans(around: _Surroundings) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the level before the window, and that after its tail, are read."""
    window = around.window
    head_from = max(around.head_limit_ns + around.tail_ns, window.t0_ns - HEAD_UPDATES * around.update_ns)
    tail_from = window.t1_ns + around.tail_ns
    after_until = min(around.tail_limit_ns, tail_from + around.tail_ns + BESIDE_UPDATES * around.update_ns)
    return (head_from, window.t0_ns), (tail_from, after_until)


def _levels(around: _Surroundings, t0_ns: int, t1_ns: int, *, beyond: float = 1.0) -> Level | None:
    """The distinct updates in a span, from the last change of level on; None with fewer than two.

    A card that cools leaks less and less: a trend that is more than noise, carried on to where the level is used (``beyond`` times half
    of the span), is part of the uncertainty.
    """
    span = around.trace.between(t0_ns, t1_ns)
    if not span.has("power_w"):
        return _counter_levels(span)
    power: FloatArray = np.asarray(span.values("power_w"))
    index = distinct_updates(span.t_ns, power, around.sensor.update_period_s)
    if len(index) < 2:
        return None
    chosen = power[index][_last_step(power[index], around.sensor.resolution_w) :]
    while around.rules >= RULES and (further := _last_step(chosen, around.sensor.resolution_w)):
        chosen = chosen[further:]  # work that came and went changed the level twice
    spread = max(float(np.std(chosen, ddof=1)), around.sensor.resolution_w / math.sqrt(12))
    u_w = math.hypot(spread / math.sqrt(len(chosen)), beyond * _trend_w(chosen) / math.sqrt(3))
    return float(np.mean(chosen)), u_w, len(chosen)


def _trend_w(values: FloatArray) -> float:
    """How far the second half of readings lies from the first, less what noise explains; 0 for fewer than four."""
    half = len(values) // 2
    if half < MIN_UPDATES:
        return 0.0
    noise_w = float(np.sqrt(np.mean(np.diff(values) ** 2) / 2))
    return max(0.0, abs(float(values[-half:].mean() - values[:half].mean())) - 2 * noise_w * math.sqrt(2 / half))


def _last_step(values: FloatArray, resolution_w: float) -> int:
    """Where the level of readings last changed for good: a card may fall into deep idle just before a window. 0 where it did not.

    Noise is taken from differences of neighbours, which one change of level does not move.
    """
    if len(values) < MIN_SPLIT:
        return 0
    noise_w = max(float(np.median(np.abs(np.diff(values)))), resolution_w)
    splits = np.arange(BESIDE_UPDATES, len(values) - BESIDE_UPDATES + 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    steps = np.abs((sums[-1] - sums[splits]) / (len(values) - splits) - sums[splits] / splits)
    best = int(np.argmax(steps))
    return int(splits[best]) if steps[best] > LEVEL_CHANGE * noise_w else 0


def _counter_levels(span: Trace) -> tuple[float, float, int] | None:
    """Mean power from the first to the last tick of a span, its standard uncertainty from when these ticks were, and their number."""
    series = CounterSeries.of(span.t_ns, np.asarray(span.values("energy_j"))) if span.has("energy_j") else None
    if series is None or len(series.tick_s) < 2 or len(series.reset_s):
        return None
    span_s = float(series.tick_s[-1] - series.tick_s[0])
    power_w = float(series.tick_j[-1] - series.tick_j[0]) / span_s
    u_j = math.hypot(power_w * math.sqrt(2) * series.tick_jitter_s, series.resolution_j / math.sqrt(6))
    return power_w, u_j / span_s, len(series.tick_s)


def _lowest_level(around: _Surroundings) -> IdlePower:
    """Without room beside the window: the lowest reading around, with an uncertainty that says how little is known."""
    power = np.asarray(around.trace.values("power_w")) if around.trace.has("power_w") else np.zeros(0)
    known = power[np.isfinite(power)]
    if not len(known):
        return IdlePower.constant(0.0, u_w=0.0, identity=f"none|{around.window.id}")
    low, high = float(np.min(known)), float(np.max(known))
    return IdlePower.constant(low, u_w=(high - low) / math.sqrt(12), identity=f"beside|{around.window.id}")


def quiet_gates(data: RunData, window: WindowRecord, sensor: SensorModel, baselines: Sequence[BaselineRecord]) -> tuple[Gate, ...]:
    """Whether the card rested beside a window; ``baselines`` on the scale of ``sensor``."""
    return _quiet_gates(data, _surroundings(data, window, sensor), baselines, window_w=math.nan)


def state_gates(data: RunData, window: WindowRecord, sensor: SensorModel, baseline: IdlePower | None) -> tuple[Gate, ...]:
    """What the card did during a window, and whether its sensor followed."""
    around = _surroundings(data, window, sensor)
    return (*_state_gates(around, baseline), *_foreign_gates(data, around), *_stale_gates(data, around))


def _state_gates(around: _Surroundings, baseline: IdlePower | None) -> tuple[Gate, ...]:
    """What the card did during the window: throttling, and whether it did the work at all."""
    trace, window = around.trace, around.window
    counters = {name: np.asarray(trace.values(name)) for name in trace.channels if name.endswith("_ns")}
    reasons = np.asarray(trace.values("event_reasons")) if trace.has("event_reasons") else None
    inside = trace.between(window.t0_ns, window.t1_ns)
    gates = [*_read_gates(inside, window.id), *_plausible_gates(inside, window.id), *_company_gates(inside, window.id)]
    gates += throttle_gates(trace.t_ns, reasons, counters, window.t0_ns, window.t1_ns, scope=window.id)
    if trace.has("utilisation_ratio") and trace.has("power_w") and baseline is not None:
        busy, power = (np.asarray(inside.values(name)) for name in ("utilisation_ratio", "power_w"))
        idle_w = float(baseline.at(np.array([window.t0_ns]))[0])
        gates.append(stall_gate(busy, power, idle_w, u_idle_w=baseline.u_w, scope=window.id))
    return tuple(gates)


def _with_aliasing(around: _Surroundings, estimate: Estimate) -> Estimate:
    """A load that comes and goes in step with the updates shows them always the same part of it.

    The sensor's own window damps that by |H(1/T)|, its transfer at the update frequency, and nothing in the readings tells what is left:
    only utilisation shows that the load was not steady. Swing ≈ mean power above idle / utilisation, first harmonic at most 2/π of it,
    phase unknown.
    """
    share = _typical_utilisation(around)
    if share is None or share >= BUSY_THROUGHOUT or not math.isfinite(estimate.value):
        return estimate
    sensor = around.sensor
    turns = 2 * math.pi * sensor.lag_s / sensor.update_period_s
    transfer = abs(float(np.sinc(sensor.window_s / sensor.update_period_s))) / math.hypot(1.0, turns)
    transfer = max(transfer, sensor.u_window_s / sensor.update_period_s)  # a window is not known well enough to cancel exactly
    swing_j = abs(estimate.value) / max(share, 1 - BUSY_THROUGHOUT)
    missed = Component(
        label="load in step with the sensor",
        source=f"aliasing|{around.window.id}",
        contribution=transfer * 2 / math.pi / math.sqrt(2) * swing_j,
    )
    return replace(estimate, components=(*estimate.components, missed))


def _typical_utilisation(around: _Surroundings) -> float | None:
    """Median utilisation inside the window; None without that channel, 0 where no read succeeded."""
    inside = around.trace.between(around.window.t0_ns, around.window.t1_ns)
    if not inside.has("utilisation_ratio"):
        return None
    busy = np.asarray(inside.values("utilisation_ratio"))
    known = busy[np.isfinite(busy)]
    return float(np.median(known)) if len(known) else 0.0  # the first readings still show what was before the window


def _coverage_gates(around: _Surroundings, energies: WindowEnergies) -> tuple[Gate, ...]:
    """A sensor that looks away part of the time sees a constant load as it is; of one that comes and goes in step with it, anything."""
    window, share, typical = around.window, energies.coverage, _typical_utilisation(around)
    if share >= FULL_COVERAGE or typical is None:
        return ()
    passed = typical >= BUSY_THROUGHOUT
    return (
        Gate(
            name="sensor coverage", scope=window.id, measured=typical, limit=BUSY_THROUGHOUT, unit="1", passed=passed,
            reason=f"the power sensor looks at {share:.0%} of the time, and the device was typically {typical:.0%} busy in the window "
            f"(limit: at least {BUSY_THROUGHOUT:.0%})" + ("" if passed else ": a load in step with the sensor would hide from it"),
            remedy="" if passed else "use the energy counter (a longer window has more of its ticks), or keep the device busy throughout",
        ),
    )  # fmt: skip


def _plausible_gates(inside: Trace, scope: str) -> tuple[Gate, ...]:
    """No card draws twice its enforced power limit: such a reading is a fault of the sensor or of the driver."""
    if not (inside.has("power_w") and inside.has("power_limit_w")) or not len(inside):
        return ()
    power, limit = (np.asarray(inside.values(name)) for name in ("power_w", "power_limit_w"))
    known = np.isfinite(power) & np.isfinite(limit) & (limit > 0)
    if not known.any():
        return ()
    highest = float(np.max(power[known] / limit[known]))
    passed = highest <= IMPLAUSIBLE_POWER
    return (
        Gate(
            name="plausible power", scope=scope, measured=highest, limit=IMPLAUSIBLE_POWER, unit="1", passed=passed,
            reason=f"the highest reading is {highest:.3g} times the power limit (limit {IMPLAUSIBLE_POWER:g} times)"
            + ("" if passed else ": it is no power that this card can draw"),
            remedy="" if passed else "measure again; if it comes back, update the driver, or use the energy counter",
        ),
    )  # fmt: skip


def _company_gates(inside: Trace, scope: str) -> tuple[Gate, ...]:
    """Other processes on the device: its energy is right, and not all of it is the window's work; a warning."""
    if not inside.has("foreign_processes"):
        return ()
    seen = np.asarray(inside.values("foreign_processes"))
    known = seen[np.isfinite(seen)]
    if not len(known):
        why = "who else used the device could not be told in the window: no read of its processes succeeded"
        gate = Gate(
            name="alone on the device", scope=scope, measured=None, limit=0.0, unit="processes", passed=False, warning=True,
            reason=f"not checked: {why}", remedy="make sure by other means that nothing else used the device",
        )  # fmt: skip
        return (gate,) if len(seen) else ()
    most = float(np.max(known))
    return (
        Gate(
            name="alone on the device", scope=scope, measured=most, limit=0.0, unit="processes", passed=most <= 0, warning=True,
            reason=f"up to {most:.0f} foreign compute processes were on the device in the window (limit 0)",
            remedy="" if most <= 0 else "stop them: the device's energy includes their work",
        ),
    )  # fmt: skip


def _foreign_gates(data: RunData, around: _Surroundings) -> tuple[Gate, ...]:
    """Whether other processes worked in the window, as the driver's samples by process tell, or the memory that they hold changed."""
    window, trace = around.window, around.trace.between(around.window.t0_ns, around.window.t1_ns + energy_reach_ns(around.sensor))
    if not trace.has("foreign_sm_ratio"):
        absent = data.instrument(window.instrument).absent.get("foreign_sm_ratio")  # runs of before, and twins, name no reason
        return (unseen_work(absent, scope=window.id),) if absent else ()
    columns = {name: np.asarray(trace.values(name)) for name in FOREIGN_WORK}
    inside = trace.between(window.t0_ns, window.t1_ns)
    held = np.asarray(inside.values("foreign_memory_bytes")) if inside.has("foreign_memory_bytes") else np.zeros(0)
    return (foreign_work_gate(trace.t_ns, columns, held, window.t0_ns, window.t1_ns, scope=window.id),)


def _read_gates(inside: Trace, scope: str) -> tuple[Gate, ...]:
    """Which share of the reads that energy rests on failed, and why; a warning, because what matters are the gaps they leave."""
    failed = {name: inside.errors(name) for name in ("power_w", "energy_j") if inside.has(name)}
    if not len(inside) or not failed:
        return ()
    name, codes = max(failed.items(), key=lambda channel: int(np.count_nonzero(channel[1])))
    n = int(np.count_nonzero(codes))
    why = f", most often with {describe_error(int(np.bincount(codes[codes != READ_OK]).argmax()))}" if n else ""
    passed = n <= MAX_FAILED_READS * len(codes)
    return (
        Gate(
            name="failed reads", scope=scope, measured=n / len(codes), limit=MAX_FAILED_READS, unit="1", passed=passed, warning=True,
            reason=f"{n} of {len(codes)} reads of '{name}' in the window failed (limit {MAX_FAILED_READS:.0%}){why}",
            remedy="" if passed else "see the system's log for the device's errors; the gaps that failed reads leave are judged apart",
        ),
    )  # fmt: skip


def _agreement_gates(around: _Surroundings, energies: WindowEnergies, other: WindowEnergies | None, *, insisted: bool) -> tuple[Gate, ...]:
    """Counter and power sensor look at one energy; where they differ by more than both uncertainties allow, one of them is broken."""
    if other is None or not (math.isfinite(energies.gross_j[0]) and math.isfinite(other.gross_j[0])):
        return ()
    integral = min(energies, other, key=lambda either: either.coverage)
    seen = _coverage_gates(around, integral)
    if integral.coverage < FULL_COVERAGE and not (seen and seen[0].passed):  # what it misses is no fault of the counter
        return ()
    apart_j = abs(float(energies.gross_j[0] - other.gross_j[0]))
    limit_j = AGREEMENT_FACTOR * math.hypot(*(float(t.gross_j[0]) for e in (energies, other) for t in e.terms.values()))
    passed = apart_j <= limit_j
    return (
        Gate(
            name="counter against power", scope=around.window.id, measured=apart_j, limit=limit_j, unit="J", passed=passed,
            warning=insisted,
            reason=f"energy counter and integrated power differ by {apart_j:.3g} J (limit {limit_j:.3g} J, {AGREEMENT_FACTOR:g} standard "
            "uncertainties of both)" + ("" if passed else ": one of the two is broken"),
            remedy="" if passed else "see the experiment on sampling integrity; update the driver, or insist on one of them",
        ),
    )  # fmt: skip


def _quiet_gates(data: RunData, around: _Surroundings, baselines: Sequence[BaselineRecord], *, window_w: float) -> tuple[Gate, ...]:
    """Whether the device rested beside the window, where other windows leave room to see it."""
    window, trace = around.window, around.trace
    if not (trace.has("power_w") or trace.has("utilisation_ratio")):
        return ()
    past = on_true_scale(
        data.trace(window.instrument).between(window.t0_ns - HABIT_NS, window.t1_ns + energy_reach_ns(around.sensor)), around.sensor
    )
    busy = _busy_sides(around, past)
    spans = _side_spans(around)
    sides, references = [], []
    for where, span, level, share in zip(("before", "after"), spans, _sides(around), busy, strict=True):
        if level is None or _inside_another(data, around, where):
            continue
        side = _side(around, where, span, level, share)
        sides.append(side)
        references.append([*_baseline_references(data, baselines), *_other_reference(data, around, past, side, span)])
    return (quiet_gate(sides, references, window_w=window_w, scope=window.id),) if sides else ()


def _inside_another(data: RunData, around: _Surroundings, where: str) -> bool:
    """Whether a window was open there that reaches over this end: what ran there is known."""
    window = around.window
    starts, ends = data.window_edges(window.instrument)
    if where == "before":
        return bisect_left(starts, window.t0_ns) > bisect_left(ends, window.t0_ns)
    return bisect_right(starts, window.t1_ns) > bisect_right(ends, window.t1_ns)


def _busy_sides(around: _Surroundings, past: Trace) -> tuple[float, float]:
    if not past.has("utilisation_ratio"):
        return math.nan, math.nan
    return busy_beside(
        past.t_ns, np.asarray(past.values("utilisation_ratio")), t0_ns=around.window.t0_ns, t1_ns=around.window.t1_ns,
        head_limit_ns=around.head_limit_ns, tail_limit_ns=around.tail_limit_ns,
    )  # fmt: skip


def _side(around: _Surroundings, where: str, span: tuple[int, int], level: Level, busy: float) -> Side:
    """One side by the median of its readings, or by those nearest to the window where these are higher.

    Before a window one high reading is a blip; after it, the end of work that was booked to the window.
    """
    there = around.trace.between(*span)
    level_w, u_w, n = level
    fell = False
    if there.has("power_w"):
        power: FloatArray = np.asarray(there.values("power_w"))
        index = distinct_updates(there.t_ns, power, around.sensor.update_period_s)
        updates, late = power[index], power[index[there.t_ns[index] >= span[0] + _unknown_tail_ns(around.sensor)]]
        fell = len(updates) > n and float(np.mean(updates[:-n])) > level_w
        falling = where == "after" and (around.tail_ns < OWN_FALL_NS or not len(late))
        nearest = late[:BESIDE_UPDATES] if where == "after" and not falling else updates[-BESIDE_UPDATES:]
        near_w = float(np.median(nearest) if where == "before" else np.mean(nearest))
        level_w = near_w if falling else max(near_w, float(np.median(updates[-n:])))
        # noise from differences of neighbours, which one change of level does not move: scatter would excuse the load that makes it
        u_w = max(float(np.median(np.abs(np.diff(updates)))), around.sensor.resolution_w) / math.sqrt(len(nearest))
    nearby_ns = max(around.tail_ns, BESIDE_UPDATES * around.update_ns)
    state = _state_of(around.trace.between(span[1] - nearby_ns, span[1]))
    return Side(where=where, level_w=level_w, u_w=u_w, state=state, busy=busy, fell=fell)


def _unknown_tail_ns(sensor: SensorModel) -> int:
    """How much longer than stated the sensor's tail may be, at two standard uncertainties."""
    u_s = math.hypot(sensor.u_window_s, 7 * sensor.u_lag_s, sensor.u_delay_s, sensor.u_update_period_s)
    return round(2 * u_s * NS_PER_S)


def _state_of(span: Trace) -> DeviceState:
    """Typical state of the device in a span."""

    def typical(channel: str) -> float:
        values = np.asarray(span.values(channel)) if span.has(channel) else np.zeros(0)
        known = values[np.isfinite(values)]
        return float(np.median(known)) if len(known) else math.nan

    return DeviceState(
        performance_state=typical("performance_state"), clock_hz=typical("sm_clock_hz"), temperature_c=typical("temperature_c")
    )  # fmt: skip


def _baseline_references(data: RunData, baselines: Sequence[BaselineRecord]) -> list[IdleReference]:
    """Idle power of the baselines, each in the state in which it was measured; the scatter of its readings is what idle does."""
    found = []
    for baseline in baselines:
        if baseline.mean_w is None:
            continue
        key = f"state|{baseline.id}"  # a baseline is over when it is recorded, and every window asks for it
        if key not in data.memory:
            data.memory[key] = _state_of(data.trace(baseline.instrument).between(baseline.t0_ns, baseline.t1_ns))
        u_w = math.hypot(baseline.u_w or 0.0, baseline.standard_deviation_w or 0.0)
        found.append(IdleReference(power_w=baseline.mean_w, u_w=u_w, state=data.memory[key], source="the idle baseline", certain=True))
    return found


def _other_reference(
    data: RunData, around: _Surroundings, past: Trace, side: Side, span: tuple[int, int]
) -> list[IdleReference]:  # fmt: skip
    """The lowest power elsewhere in the last minute, outside of all windows, in a state no lower than on ``side``."""
    if not (past.has("power_w") and side.state.known):
        return []
    columns = {name: np.asarray(past.values(name)) for name in ("performance_state", "sm_clock_hz", "temperature_c") if past.has(name)}
    t_ns, none = past.t_ns, np.full(len(past), math.nan)
    stands = steady([columns[name] for name in ("performance_state", "sm_clock_hz") if name in columns][:1], t_ns, around.tail_ns)
    power: FloatArray = np.asarray(past.values("power_w"))
    usable = stands & _outside_windows(data, around, t_ns) & np.isfinite(power) & ~((t_ns >= span[0]) & (t_ns <= span[1]))
    if "performance_state" in columns:
        usable &= columns["performance_state"] <= side.state.performance_state
    if "sm_clock_hz" in columns:
        usable &= columns["sm_clock_hz"] >= SAME_CLOCK * side.state.clock_hz
    level_w, u_w, warm_c = lowest_level(power[usable], columns.get("temperature_c", none)[usable])
    if not math.isfinite(level_w):
        return []
    state = replace(side.state, temperature_c=warm_c)
    return [IdleReference(power_w=level_w, u_w=u_w, state=state, source="the lowest readings in this state", certain=False)]


def _outside_windows(data: RunData, around: _Surroundings, t_ns: IntArray) -> BoolArray:
    """Which samples lie outside of all windows and of the sensor's tails after them."""
    starts, ends = (np.asarray(edges, np.int64) for edges in data.window_edges(around.window.instrument))
    begun = np.searchsorted(starts, t_ns, side="right")
    ended = np.searchsorted(ends, t_ns - around.tail_ns, side="right")
    outside: BoolArray = begun == ended
    return outside


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


def no_baseline_gate(data: RunData, window: WindowRecord) -> Gate:
    """Net energy needs to know what idle is."""
    absent = data.instrument(window.instrument).absent.get("power_w", "")
    return Gate(
        name="idle baseline", scope=window.id, measured=0.0, limit=1.0, unit="baselines", passed=False,
        reason="no idle baseline was measured for this window, so idle energy cannot be subtracted"
        + (f"; idle power cannot be measured here: {absent}" if absent else ""),
        remedy="use gross energy" if absent else "request the 'idle_baseline' fixture, or use gross energy",
    )  # fmt: skip
