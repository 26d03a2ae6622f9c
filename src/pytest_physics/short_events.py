"""Events shorter than the sensor can see: how often to repeat them, when in the sensor's period, and when to stop.

``instrument.repeat(fn)`` ends in one of these, and says in which:

* *one event*: the device's sensor looks all the time (or it has an energy counter), and the energy of one event between idle stretches
  is known well enough already;
* *batches*: the event is repeated back to back for ten sensor updates or more, idle in between, and each batch begins at another phase
  of the sensor's period, in steps of the golden ratio. The energy is that of the counter, the mean of the batches where the sensor looks
  all the time, or the average over phases where it looks only part of it (:mod:`pytest_physics.record.repetition_energy`); of those a
  device offers, the one with the smaller uncertainty at the first look.

Whatever the period of the event, batches at all phases of the sensor's period cannot be in step with it; a gate measures from the
windows whether the phases were met. It stops at the first look, of a schedule fixed in advance, at which the 95 % interval (Student's t,
the 5 % shared by all looks) is inside the target, or when the next batches do not fit the budget. Single calls are timed on the way; so
is an empty call, the harness's own overhead, which is stated and not subtracted.

Assumes that ``fn`` does the same work each time and leaves the device idle when it returns (on CUDA it is waited for). Reference: Yang,
Adamek, Armour (arXiv 2312.02741) for repetition with shifted phases, Lang and Rünger (2013) for equivalent-time sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import ConfigurationError
from pytest_physics.instrument import Energy, Instrument, Window
from pytest_physics.metrology.latency import LatencySummary, latency_summary
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.repetition import GOLDEN, LookSchedule, batches_needed
from pytest_physics.metrology.uncertainty import Estimate, Gate, Recipe
from pytest_physics.metrology.update_period import fit_update_period
from pytest_physics.record.repetition_energy import REPETITIONS
from pytest_physics.record.window_energy import RULES
from pytest_physics.workloads.synchronise import synchronise

EXPERIMENT = "repetition"
BATCH_UPDATES = 10
"""Sensor updates in one batch, at least: what its edges lose is then a tenth of it."""
FIRST_LOOK = 8
"""Batches before the first look where their phase does not matter."""
FEWEST_BATCHES = 4
QUIET_UPDATES = 6
"""Updates of idle between the tail of one batch and the next one."""
COUNTER_QUIET_S = 0.3
"""The same for an energy counter, whose ticks are 20 to 100 ms apart."""
EMPTY_CALLS = 1000
CALLS_KEPT = 1000
"""Calls of one batch that are timed one by one, at most."""
COMB_LOOK_S = 10.0
"""Samples that show the sensor's comb before anything runs."""

Stop = Literal["one event", "target", "budget"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long single calls take; the harness's own overhead is in all of them."""

    median: Estimate
    p95: Estimate
    p99: Estimate
    overhead: Estimate
    """Median of an empty call in the same harness: stated, not subtracted."""
    summary: LatencySummary
    """The same with the distribution-free intervals, which are not symmetric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """Energy and latency of an event that was repeated."""

    name: str
    energy: Energy
    """Of one event."""
    latency: Latency
    method: str
    """Estimator of the energy, in words."""
    stopped: Stop
    reason: str
    """Why it stopped, with the numbers."""
    batches: int
    repetitions: int
    """Events behind the energy."""
    windows: tuple[str, ...]
    """Their windows."""
    work: Mapping[str, float] = field(default_factory=dict)
    """Of one event."""

    @property
    def gates(self) -> tuple[Gate, ...]:
        """Gates of the net energy."""
        return self.energy.net.gates

    def per(self, unit: str) -> Energy:
        """Energy per unit of work: ``per("token")`` with ``work={"tokens": 128}``."""
        key = unit if unit in self.work else f"{unit}s"
        if not self.work.get(key, 0) > 0:
            counted = ", ".join(f"{name}={amount:g}" for name, amount in self.work.items()) or "nothing"
            raise ValueError(f"repetition '{self.name}' counted {counted}; pass work={{'{key}': <positive count>}} for energy per {unit}.")
        return self.energy / Estimate.exact(self.work[key], key.removesuffix("s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is decided before the first batch."""

    repetitions: int
    """In each batch."""
    schedule: LookSchedule
    most: int
    """Batches that fit the budget."""
    period_s: float
    """T, whose golden part separates the phases; 0 where phases do not matter."""
    quiet_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    """What is repeated."""

    instrument: Instrument
    fn: Callable[[], object]
    name: str
    work: Mapping[str, float]
    target: float
    estimator: str | None

    def run(self, repetitions: int, *, batch: int) -> Window:
        """One window of back-to-back calls."""
        amounts = {REPETITIONS: float(repetitions), **{name: amount * repetitions for name, amount in self.work.items()}}
        with self.instrument.window(self.name, labels={"batch": batch}, synchronise=True, **amounts) as window:
            window.calls_ns = timed_calls(self.instrument, self.fn, repetitions)
        return window


def repeat(
    instrument: Instrument, fn: Callable[[], object], *, work: Mapping[str, float], target: float, budget_s: float, name: str = "",
    estimator: str | None = None,
) -> Repetition:  # fmt: skip
    """See :meth:`pytest_physics.instrument.Instrument.repeat`.

    Raises
    ------
    ChannelUnavailableError
        Where the device measures no energy.
    ConfigurationError
        For a target, budget or estimator that cannot be.
    """
    _check(target, budget_s, estimator, work)
    instrument.require_metered()
    if instrument.has("power_w") and not instrument.baselines:
        instrument.baseline()
    shown = name or getattr(fn, "__name__", "event")
    event = _Event(instrument=instrument, fn=fn, name=shown, work=work, target=target, estimator=estimator)
    end_ns = instrument.clock.now_ns() + round(budget_s * NS_PER_S)
    with instrument.phase(f"repeat {shown}"):
        return _repeat(event, end_ns, budget_s)


def _repeat(event: _Event, end_ns: int, budget_s: float) -> Repetition:
    instrument = event.instrument
    with instrument.window("empty calls", synchronise=False, calls=EMPTY_CALLS) as empty:
        empty.calls_ns = timed_calls(instrument, _nothing, EMPTY_CALLS)
    quiet_s = _quiet_s(instrument)
    instrument.sleep(quiet_s)
    first = event.run(1, batch=0)
    instrument.sleep(quiet_s)
    single = event.run(1, batch=1)
    instrument.sleep(quiet_s)
    alone = _one_event(event, single)
    if alone is not None:
        reached = _relative(alone)
        reason = f"one event is enough: U = {reached:.2%} of its energy (target {event.target:.2%}); how events differ was not looked at"
        return _result(event, alone, [single], "one event", reason, first=first, empty=empty)
    plan = _plan(event, single, end_ns)
    energy, windows, stopped, reason = _batches(event, plan, end_ns, budget_s)
    return _result(event, energy, windows, stopped, reason, first=first, empty=empty)


def timed_calls(instrument: Instrument, fn: Callable[[], object], count: int) -> list[int]:
    """Call ``fn`` ``count`` times, waiting for the device after each; durations of the first ones in nanoseconds."""
    now_ns, wait = instrument.clock.now_ns, (_nothing if instrument.simulated else synchronise)
    durations = []
    for _ in range(min(count, CALLS_KEPT)):
        start_ns = now_ns()
        fn()
        wait()
        durations.append(now_ns() - start_ns)
    for _ in range(count - CALLS_KEPT):
        fn()
    return durations


def _nothing() -> None:
    """The empty call that the harness is timed with."""


def _check(target: float, budget_s: float, estimator: str | None, work: Mapping[str, float]) -> None:
    if not 0 < target < math.inf or not 0 < budget_s < math.inf:
        raise ConfigurationError(f"'target' and 'budget_s' must be > 0 and finite (got {target!r} and {budget_s!r}).")
    if estimator not in {None, "counter", "power"}:
        raise ConfigurationError(f"'estimator' must be None, 'counter' or 'power' (got {estimator!r}).")
    if REPETITIONS in work:
        raise ConfigurationError(f"'{REPETITIONS}' counts the events themselves; call the work of one event something else.")


# --- before the batches ----------------------------------------------------------------------------------------------


def _quiet_s(instrument: Instrument) -> float:
    """Idle time between batches: the sensor's tail, and what shows the idle level."""
    sensor = instrument.sensor
    if sensor is None:
        return 1.0 + COUNTER_QUIET_S
    look_s = QUIET_UPDATES * sensor.update_period_s
    return 2 * sensor.tail_s + (max(look_s, COUNTER_QUIET_S) if instrument.has("energy_j") else look_s)


def _looks_away(instrument: Instrument) -> bool:
    """Whether the power sensor misses part of the time."""
    return instrument.sensor is not None and instrument.sensor.looks_away


def _one_event(event: _Event, window: Window) -> Energy | None:
    """Energy of the single event, if it is known well enough; never from a sensor that may have looked away."""
    energy = event.instrument.energy(window, estimator=event.estimator)
    deciding = _deciding(energy)
    by_counter = deciding.estimator.startswith("counter")
    enough = deciding.quality >= Quality.ESTIMATE and _relative(energy) <= event.target
    usable = not any(gate.refuses for gate in deciding.gates)
    return energy if enough and usable and (by_counter or not _looks_away(event.instrument)) else None


def _deciding(energy: Energy) -> Estimate:
    """Net energy where there is one."""
    return energy.net if math.isfinite(energy.net.value) else energy.gross


def _relative(energy: Energy) -> float:
    return _deciding(energy).relative_without_scale


def _plan(event: _Event, single: Window, end_ns: int) -> _Plan:
    instrument, sensor = event.instrument, event.instrument.sensor
    event_s = (single.t1_ns - single.t0_ns) / NS_PER_S
    if event_s <= 0:
        raise ValueError(
            f"'{single.name}' took no time on the clock of '{instrument.name}', so it cannot be repeated: a twin's clock moves only when a "
            "twin's workload runs (pytest_physics.workloads.select.steady_load_for(rig.gpu.device) makes one)."
        )
    quiet_s = _quiet_s(instrument)
    slowest_s = max(sensor.update_period_s, sensor.effective_window_s) if sensor else 0.1
    fewest = batches_needed(sensor.update_period_s, sensor.effective_window_s) if sensor and _looks_away(instrument) else FIRST_LOOK
    left_s = max(0.0, (end_ns - instrument.clock.now_ns()) / NS_PER_S)
    affordable_s = left_s / fewest - quiet_s
    repetitions = max(1, math.ceil(min(BATCH_UPDATES * slowest_s, max(affordable_s, event_s)) / event_s - 1e-9))
    most = max(FEWEST_BATCHES, int(left_s / (repetitions * event_s + quiet_s)))
    return _Plan(
        repetitions=repetitions, schedule=LookSchedule.doubling(most, first=min(fewest, most)), most=most,
        period_s=_period_s(instrument) if sensor else 0.0, quiet_s=quiet_s,
    )  # fmt: skip


def _period_s(instrument: Instrument) -> float:
    """T in the last samples; where they do not show it, what is known of the sensor."""
    now_ns = instrument.clock.now_ns()
    trace = instrument.trace.between(now_ns - round(COMB_LOOK_S * NS_PER_S), now_ns)
    known_s = instrument.sensor.update_period_s if instrument.sensor else 0.0
    try:
        found = fit_update_period(
            np.asarray(trace.rows["t_before_ns"]), np.asarray(trace.rows["t_after_ns"]), np.asarray(trace.values("power_w")),
            scope=instrument.name,
        )  # fmt: skip
    except RefusedError:
        return known_s
    return found.period_s if abs(found.period_s / known_s - 1) < 0.1 else known_s


# --- batches ---------------------------------------------------------------------------------------------------------


def _batches(event: _Event, plan: _Plan, end_ns: int, budget_s: float) -> tuple[Energy, list[Window], Stop, str]:
    """Run batches until a look is inside the target, or no further look fits the budget."""
    instrument, windows = event.instrument, list[Window]()
    origin_ns = instrument.clock.now_ns()
    method: str | None = None
    for number, look in enumerate(plan.schedule.looks, start=1):
        while len(windows) < look and (len(windows) < FEWEST_BATCHES or instrument.clock.now_ns() < end_ns):
            instrument.clock.sleep_until_ns(_start_ns(instrument.clock.now_ns(), origin_ns, plan, len(windows)))
            windows.append(event.run(plan.repetitions, batch=len(windows) + 1))
            instrument.sleep(plan.quiet_s)
        method = method or _better(event, windows, plan)
        energy = _energy(event, windows, method, plan)
        reached = f"U = {_relative(energy):.2%} of the energy (target {event.target:.2%})"
        count = f"{len(windows)} batches of {plan.repetitions}"
        if _relative(energy) <= event.target:
            return energy, windows, "target", f"{reached} after {count}, look {number} of {len(plan.schedule.looks)}"
        if len(windows) < look:
            break
    return energy, windows, "budget", f"the budget of {budget_s:g} s was spent at {reached} after {count}"


def _start_ns(now_ns: int, origin_ns: int, plan: _Plan, batch: int) -> int:
    """Next instant at the phase of this batch; now where phases do not matter."""
    if not plan.period_s:
        return now_ns
    wanted_s = (batch * GOLDEN * plan.period_s) % plan.period_s
    ahead_s = (wanted_s - (now_ns - origin_ns) / NS_PER_S) % plan.period_s
    return now_ns + round(ahead_s * NS_PER_S)


def _better(event: _Event, windows: Sequence[Window], plan: _Plan) -> str:
    """``counter``, or ``power``: the one asked for, the only one, or the one with the smaller uncertainty now."""
    instrument = event.instrument
    offered = [name for name, channel in (("power", "power_w"), ("counter", "energy_j")) if instrument.has(channel)]
    if event.estimator is not None:
        instrument.require({"power": "power_w", "counter": "energy_j"}[event.estimator])
        return event.estimator
    known = {name: _relative(_energy(event, windows, name, plan)) for name in offered}
    return min(known, key=lambda name: known[name] if math.isfinite(known[name]) else math.inf)


def _energy(event: _Event, windows: Sequence[Window], method: str, plan: _Plan) -> Energy:
    """Energy per event from the batches so far; where the device offers both methods, checked by the other one."""
    instrument = event.instrument
    both = event.estimator is None and instrument.has("power_w") and instrument.has("energy_j")
    other = {"counter": "power", "power": "counter"}[method]

    def recipe(kind: str) -> Recipe:
        chosen = _recipe(event, windows, method, kind, plan)
        return Recipe(op="cross_checked", inputs=(chosen, _recipe(event, windows, other, kind, plan))) if both else chosen

    return Energy(gross=instrument.evaluate(recipe("gross")), net=instrument.evaluate(recipe("net")))


def _recipe(event: _Event, windows: Sequence[Window], method: str, kind: str, plan: _Plan) -> Recipe:
    """The phase average where a sensor looks away; else the mean of the batches."""
    instrument = event.instrument
    looks = list(plan.schedule.looks)
    shared: dict[str, Any] = {
        "kind": kind, "baselines": [b.id for b in instrument.nearest_baselines(windows[0])], "sensor": instrument.sensor_id,
        "rules": RULES,
    }  # fmt: skip
    if method == "power" and _looks_away(instrument):
        return Recipe(op="repetition.phase_average", parameters={**shared, "windows": [w.id for w in windows], "looks": looks})
    energies = [Recipe(op="window.energy", parameters={**shared, "window": w.id, "estimator": method}) for w in windows]
    count = Recipe(op="constant", parameters={"value": float(plan.repetitions), "unit": "1"})
    per_event = tuple(Recipe(op="divide", inputs=(energy, count)) for energy in energies)
    return Recipe(op="batches", inputs=per_event, parameters={"looks": looks})


# --- what is handed back ---------------------------------------------------------------------------------------------


def _result(
    event: _Event, energy: Energy, windows: Sequence[Window], stopped: Stop, reason: str, *, first: Window, empty: Window
) -> Repetition:
    instrument, record = event.instrument, event.instrument.journal.result
    repetitions = sum(round(window.work[REPETITIONS]) for window in windows)
    latency = _latency(event, windows, first=first, empty=empty)
    for quantity, estimate in (("gross energy per event", energy.gross), ("net energy per event", energy.net)):
        record(EXPERIMENT, quantity, estimate, event=event.name, stopped=stopped, reason=reason)
    for quantity in ("median", "p95", "p99"):
        record(EXPERIMENT, f"{quantity} latency", getattr(latency, quantity), event=event.name)
    record(EXPERIMENT, "overhead of an empty call", latency.overhead, event=event.name, instrument=instrument.name)
    return Repetition(
        name=event.name, energy=energy, latency=latency, method=_deciding(energy).estimator, stopped=stopped, reason=reason,
        batches=len(windows), repetitions=repetitions, windows=tuple(window.id for window in windows), work=dict(event.work),
    )  # fmt: skip


def _latency(event: _Event, windows: Sequence[Window], *, first: Window, empty: Window) -> Latency:
    def quantile(probability: float) -> Estimate:
        parameters = {"windows": [w.id for w in windows], "probability": probability, "first": first.id}
        return event.instrument.evaluate(Recipe(op="repetition.latency", parameters=parameters))

    overhead = Recipe(op="repetition.latency", parameters={"windows": [empty.id], "probability": 0.5})
    calls, nothing = ([call for w in group for call in w.calls_ns] for group in (windows, [empty]))
    return Latency(
        median=quantile(0.5), p95=quantile(0.95), p99=quantile(0.99), overhead=event.instrument.evaluate(overhead),
        summary=latency_summary(np.array(calls) / NS_PER_S, np.array(nothing) / NS_PER_S),
    )  # fmt: skip
