"""The stress study: a matrix of decodes that last, and minutes under load, with what the device did meanwhile.

*Matrix* (TR122.A): for each context and batch the number of new tokens is chosen so that one decode lasts at least :data:`DECODE_S`, long
enough for ten updates of a sensor; it is repeated, and the prefill that prepares it is timed too. An arm that does not fit into memory, or
whose decode cannot last that long, is left out with its reason, and the matrix goes on.

*Sustained load*: one phase of the model again and again for minutes, as one window that holds the duration of every call. From it: drift of
latency, shares of throttling by class, power at the cap, longest stall, and counter against readings. A trip of the thermal safety pauses
the load. A watchdog ends it where the device has said "busy" at idle power for :data:`WATCH_S`: hours of a hung device are no measurement.

Reference: TR122.A and B (never run); TR128–TR130 (drift); TR164 (hung for hours at 99 % utilisation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import ChannelUnavailableError, ConfigurationError, InvalidMeasurement
from pytest_physics.instrument import Instrument, Label, Window
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.sustained import stalled_samples
from pytest_physics.metrology.throttle import EventClass
from pytest_physics.metrology.uncertainty import Estimate, Recipe, mean
from pytest_physics.record.leaves.stress import CLASSES
from pytest_physics.record.schema import BaselineRecord
from pytest_physics.record.window_energy import idle_of
from pytest_physics.session import Session
from pytest_physics.workloads.base import Workload
from pytest_physics.workloads.stress_models import Traffic, traffic_of

EXPERIMENT = "stress"
DECODE_S = 1.0
"""Shortest decode of the matrix: ten updates of a sensor that updates ten times a second."""
MARGIN = 1.1
"""How much longer a decode is aimed at."""
TRIES = 3
LOOK_TOKENS = 4
"""New tokens of the look that tells how many are needed."""
FULL = 0.99
"""Share of the device's memory from which an arm counts as not fitting: what is more lies in the host's."""
WATCH_S = 10.0
"""How long a stall lasts before the load is ended."""
CALLS = 60
"""Calls that a sustained load is cut into, where they need not be longer than :data:`LONGEST_CALL_S`."""
LONGEST_CALL_S = 1.0
MOST_TIME = 2.0
"""A sustained load goes on for at most this many times its length until it has enough calls."""
COOL_STEP_S = 1.0
MISMATCH_SPANS_S = (10.0, 30.0)
NOT_TESTED = "stress-not-tested"
"""Table of what a rig could not answer: part of TR122, instrument, reason."""
LEFT_OUT = "stress-left-out"
"""Table of the arms that were not measured."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Arm:
    """One cell of the matrix."""

    context: int
    batch: int


@dataclass(slots=True, kw_only=True)
class StressMatrix:
    """What the matrix measured."""

    session: Session
    instrument: Instrument
    phase: str = ""
    """Phase that holds all windows."""
    decodes: dict[Arm, list[Window]] = field(default_factory=dict)
    prefills: dict[Arm, list[Window]] = field(default_factory=dict)
    left_out: dict[Arm, str] = field(default_factory=dict)
    """Arms that were not measured, and why."""
    baselines: tuple[BaselineRecord, ...] = ()

    @property
    def arms(self) -> list[Arm]:
        """Measured arms, in order."""
        return sorted(arm for arm, windows in self.decodes.items() if windows)

    def windows(self, phase: str, arm: Arm) -> list[Window]:
        """Windows of one arm; raises ``ConfigurationError`` with the reason where there are none."""
        found = (self.decodes if phase == "decode" else self.prefills).get(arm)
        if not found:
            reason = self.left_out.get(arm, f"the matrix has {', '.join(f'{a.context} x {a.batch}' for a in self.arms) or 'no arm'}")
            raise ConfigurationError(f"{phase} at context {arm.context} and batch {arm.batch} was not measured: {reason}.")
        return found

    @property
    def shortest_decode(self) -> Estimate:
        """Duration of the shortest decode of all measured arms; raises ``InvalidMeasurement`` where no arm was measured."""
        windows = [window for arm in self.arms for window in self.decodes[arm]]
        if not windows:
            raise InvalidMeasurement(f"no arm of the matrix was measured: {'; '.join(self.left_out.values())}")
        return min(windows, key=lambda window: window.t1_ns - window.t0_ns).duration

    def time_per(self, unit: str, phase: str, arm: Arm) -> Estimate:
        """Median time per ``token``, ``byte`` or ``flop`` of an arm, in seconds."""
        parameters: dict[str, Any] = {"windows": [w.id for w in self.windows(phase, arm)], "work": f"{unit}s", "span": self.phase}
        return self.session.evaluate(Recipe(op="windows.time_per_work", parameters=parameters))

    def energy_per_token(self, arm: Arm, *, kind: str = "net") -> Estimate:
        """Energy of a decoded token, ``net`` or ``gross``: mean over the repetitions; NOT_TESTED where energy is not metered."""
        self.instrument.require_metered()
        windows = self.windows("decode", arm)
        energies = [self.instrument.energy(window, baselines=self.baselines) for window in windows]
        return mean([getattr(e, kind) / window.count("token") for e, window in zip(energies, windows, strict=True)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sustained:
    """What a load of some minutes showed; every number is an estimate with its recipe."""

    session: Session
    instrument: Instrument
    window: Window
    phase: str
    baselines: tuple[BaselineRecord, ...]
    ended_early: str
    """Why it was ended before its time; empty where it was not."""

    def _of(self, op: str, **parameters: object) -> Estimate:
        named = {"window": self.window.id, "baselines": [b.id for b in self.baselines], **parameters}
        return self.session.evaluate(Recipe(op=f"stress.{op}", parameters=named))

    @property
    def latency_drift(self) -> Estimate:
        """Mean latency of the last third of the calls over that of the first, minus 1."""
        return self._of("latency_drift")

    def throttle_share(self, event_class: EventClass) -> Estimate:
        """Share of the time in which reasons of a class held the clock back."""
        return tested(self._of("throttle_share", **{"class": event_class.value}))

    @property
    def power_at_cap(self) -> Estimate:
        """Mean power over the enforced limit while the power cap held the clock; NOT_TESTED where it never did."""
        return tested(self._of("power_at_cap", sensor=self.instrument.sensor_id))

    @property
    def longest_stall(self) -> Estimate:
        """Longest stretch in which the device said "busy" at idle power, in seconds."""
        return tested(self._of("longest_stall"))

    def mismatch(self, span_s: float) -> Estimate:
        """Energy counter less integrated readings over spans of one length, relative; NOT_TESTED without both, or without such a span."""
        for channel in ("energy_j", "power_w"):
            self.instrument.require(channel)
        parameters = {"phase": self.phase, "duration_s": span_s, "sensor": self.instrument.sensor_id}
        return tested(self.session.evaluate(Recipe(op="counter.mismatch", parameters=parameters)))

    @property
    def disagreement(self) -> Estimate:
        """Energy of the whole window by the counter over that by the readings, minus 1; both scales are in its interval."""
        for channel in ("energy_j", "power_w"):
            self.instrument.require(channel)
        by = {
            name: self.instrument.energy(self.window, baselines=self.baselines, estimator=name).gross for name in ("counter", "power")
        }  # fmt: skip
        return by["counter"] / by["power"] - 1.0

    @property
    def mean_power(self) -> Estimate:
        """Energy of the window over its length, in watts."""
        return self.instrument.energy(self.window, baselines=self.baselines).gross / self.window.duration


def tested(estimate: Estimate) -> Estimate:
    """``estimate``; one that this rig could not make raises ``ChannelUnavailableError`` with its reason: a claim on it is NOT_TESTED."""
    reason = next((gate.reason for gate in estimate.gates if gate.reason.startswith("not tested: ")), "")
    if reason and estimate.quality is Quality.NO_DATA:
        raise ChannelUnavailableError(reason.removeprefix("not tested: "))
    return estimate


@contextmanager
def answering(session: Session, part: str, instrument: str) -> Iterator[None]:
    """Record why a part of TR122 was not answered on a rig, where the body says so; the error goes on."""
    try:
        yield
    except (ChannelUnavailableError, InvalidMeasurement) as error:
        session.tabulate(NOT_TESTED, {"part": [part], "instrument": [instrument], "reason": [str(error)]})
        raise


# --- matrix ----------------------------------------------------------------------------------------------------------


def run_stress_matrix(
    instrument: Instrument,
    session: Session,
    workload: Workload,
    *,
    contexts: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
) -> StressMatrix:
    """Measure the matrix and record it; sizes default to the settings'."""
    settings, host = session.settings.stress, instrument.device.spec.kind == "cpu"
    repetitions = settings.host_repetitions if host else settings.repetitions
    contexts = contexts or (settings.host_contexts if host else settings.contexts)
    batches = batches or (settings.host_batches if host else settings.batches)
    matrix = StressMatrix(session=session, instrument=instrument)
    matrix.baselines = _baselines(instrument)
    workload.warm_up()
    with instrument.phase("stress matrix") as phase:
        matrix.phase = phase.id
        for arm in [Arm(context=context, batch=batch) for context in contexts for batch in batches]:
            _measure_arm(matrix, workload, arm, repetitions)
    if matrix.left_out:
        session.tabulate(LEFT_OUT, {
            "instrument": [instrument.name] * len(matrix.left_out), "context": [arm.context for arm in matrix.left_out],
            "batch": [arm.batch for arm in matrix.left_out], "reason": list(matrix.left_out.values()),
        })  # fmt: skip
    _record_matrix(matrix)
    return matrix


def _measure_arm(matrix: StressMatrix, workload: Workload, arm: Arm, repetitions: int) -> None:
    """All repetitions of one arm, or the reason why there are none."""
    try:
        _rest(matrix.instrument)  # what is looked up lies outside of windows, and readings of it would be booked to the last one before
        new_tokens = _looked_up(matrix.instrument, workload, arm)
        tries = 0
        while len(matrix.decodes.get(arm, ())) < repetitions:
            prefill, decode = _once(matrix, workload, arm, new_tokens)
            lasted_s = (decode.t1_ns - decode.t0_ns) / NS_PER_S
            if lasted_s < DECODE_S:
                tries += 1
                _require_tries_left(tries, lasted_s, new_tokens)
                new_tokens = math.ceil(MARGIN * new_tokens * DECODE_S / max(lasted_s, 1e-6))
                continue
            matrix.prefills.setdefault(arm, []).append(prefill)
            matrix.decodes.setdefault(arm, []).append(decode)
    except Exception as error:
        if not _is_a_limit(error):
            raise
        matrix.left_out[arm] = str(error)
        matrix.decodes.pop(arm, None)
        matrix.prefills.pop(arm, None)


def _require_tries_left(tries: int, lasted_s: float, new_tokens: int) -> None:
    if tries >= TRIES:
        raise ConfigurationError(
            f"decode too short: it lasted {lasted_s:.3g} s with {new_tokens} new tokens (needed: {DECODE_S:g} s), {tries} times in a row; "
            "its time does not grow with its tokens. See that the workload waits for the device"
        )


def _is_a_limit(error: Exception) -> bool:
    """Whether an error says that an arm does not fit, and nothing worse; torch has error classes of its own for memory."""
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return memory or isinstance(error, ConfigurationError)


def _looked_up(instrument: Instrument, workload: Workload, arm: Arm) -> int:
    """New tokens with which one decode of the arm should last long enough; raises where the arm does not fit."""
    workload.prepare(arm.batch, arm.context)
    _require_room(instrument, arm)
    workload.decode(arm.batch, LOOK_TOKENS)
    t0_ns = instrument.clock.now_ns()
    workload.decode(arm.batch, LOOK_TOKENS)
    step_s = max(1e-9, (instrument.clock.now_ns() - t0_ns) / NS_PER_S / LOOK_TOKENS)
    return max(1, math.ceil(MARGIN * DECODE_S / step_s))


def _require_room(instrument: Instrument, arm: Arm) -> None:
    """Some drivers go on in the host's memory without a word; what then runs is not the device."""
    total = instrument.device.fingerprint.details.get("memory_bytes")
    if total is None or not instrument.has("memory_used_bytes"):
        return
    instrument.wait_until_sampled(instrument.clock.now_ns())
    used = np.asarray(instrument.trace.values("memory_used_bytes"))
    last = float(used[np.isfinite(used)][-1]) if np.isfinite(used).any() else 0.0
    if last > FULL * float(total):
        raise MemoryError(
            f"context {arm.context} at batch {arm.batch} does not fit: {last / 2**30:.2f} of {float(total) / 2**30:.2f} GiB of the device "
            "are used before the first token, so the rest lies in the host's memory. Use a smaller batch or context, or a smaller model"
        )


def _once(matrix: StressMatrix, workload: Workload, arm: Arm, new_tokens: int) -> tuple[Window, Window]:
    """A prefill and the decode after it, each in its window."""
    repetition = len(matrix.decodes.get(arm, ()))
    found = []
    for phase, tokens in (("prefill", arm.context), ("decode", new_tokens)):
        labels: dict[str, Label] = {"batch": arm.batch, "context": arm.context, "phase": phase, "repetition": repetition}
        work = _work(workload, phase, arm, tokens)
        _rest(matrix.instrument)
        with matrix.instrument.window(phase, labels=labels, synchronise=True, **work) as window:
            if phase == "prefill":
                workload.prefill(arm.batch, arm.context)
            else:
                workload.decode(arm.batch, new_tokens)
        found.append(window)
    return found[0], found[1]


def _work(workload: Workload, phase: str, arm: Arm, tokens: int) -> dict[str, float]:
    """Counted work of a window; operations and bytes only where they are known."""
    counted: dict[str, float] = {"tokens": arm.batch * tokens, "steps": 1 if phase == "prefill" else tokens}
    try:
        traffic: Traffic = traffic_of(workload, phase, batch=arm.batch, context=arm.context, tokens=tokens)
    except ChannelUnavailableError:
        return counted
    return {**counted, "flops": traffic.flop, "bytes": traffic.memory_bytes}


def _rest(instrument: Instrument) -> None:
    """Idle time between windows, so that readings of one do not reach into the next."""
    if instrument.has("power_w"):
        instrument.sleep(instrument.tail_ns / NS_PER_S)


def _record_matrix(matrix: StressMatrix) -> None:
    result = matrix.session.result
    for arm in matrix.arms:
        at: dict[str, Label] = {"context": arm.context, "batch": arm.batch, "instrument": matrix.instrument.name}
        for phase in ("prefill", "decode"):
            result(EXPERIMENT, "time per token", matrix.time_per("token", phase, arm), phase=phase, **at)
        for kind in ("net", "gross") if matrix.instrument.metered else ():
            result(EXPERIMENT, f"energy per token ({kind})", matrix.energy_per_token(arm, kind=kind), phase="decode", **at)
    if matrix.arms:
        result(EXPERIMENT, "shortest decode", matrix.shortest_decode, instrument=matrix.instrument.name)


# --- sustained load --------------------------------------------------------------------------------------------------


def run_sustained(instrument: Instrument, session: Session, workload: Workload, matrix: StressMatrix, phase: str) -> Sustained:
    """Keep the device at one phase of the model for the settings' time, and record what it showed.

    The arm is the one of the matrix whose calls are nearest to the length aimed at, decode with as many new tokens as that takes. Raises
    ``InvalidMeasurement`` where the matrix has no arm.
    """
    settings = session.settings.stress
    length_s = settings.host_sustain_s if instrument.device.spec.kind == "cpu" else settings.sustain_s
    aimed_s = min(LONGEST_CALL_S, length_s / CALLS)
    arm, tokens = _arm_for(matrix, phase, aimed_s)
    workload.prepare(arm.batch, arm.context)

    def call() -> None:
        if phase == "prefill":
            workload.prefill(arm.batch, arm.context)
        else:
            workload.decode(arm.batch, tokens)

    labels: dict[str, Label] = {"context": arm.context, "batch": arm.batch, "phase": phase}
    return sustain(instrument, session, call, length_s=length_s, name=f"sustained {phase}", labels=labels, tokens=arm.batch * tokens)


def _arm_for(matrix: StressMatrix, phase: str, aimed_s: float) -> tuple[Arm, int]:
    """Arm and tokens per sequence of one call."""
    if not matrix.arms:
        raise InvalidMeasurement(f"no arm of the matrix was measured, so nothing can be sustained: {'; '.join(matrix.left_out.values())}")
    if phase == "decode":
        arm = max(matrix.arms, key=lambda a: (a.context * a.batch, a.context))
        window = matrix.decodes[arm][0]
        step_s = (window.t1_ns - window.t0_ns) / NS_PER_S / window.work["steps"]
        return arm, max(1, min(int(window.work["steps"]), round(aimed_s / step_s)))
    arm = min(matrix.arms, key=lambda a: abs(math.log(_seconds(matrix.prefills[a]) / aimed_s)))
    return arm, arm.context


def _seconds(windows: Sequence[Window]) -> float:
    return float(np.median([max(1, w.t1_ns - w.t0_ns) / NS_PER_S for w in windows]))


def sustain(
    instrument: Instrument, session: Session, call: Callable[[], object], *, length_s: float, name: str,
    labels: dict[str, Label] | None = None, tokens: float = 0.0,
) -> Sustained:  # fmt: skip
    """Call ``call`` again and again for ``length_s`` seconds of the instrument's clock, in one window, and record what the device did.

    ``call`` must return when the device is done. ``tokens`` is the work of one call.
    """
    if not length_s > 0:
        raise ConfigurationError(f"'length_s' must be > 0 (got {length_s}).")
    baselines = _baselines(instrument)
    call()
    _rest(instrument)
    with instrument.phase(name) as phase, instrument.window(name, labels=labels or {}) as window:
        ended = _loop(instrument, call, window, round(length_s * NS_PER_S), baselines)
        window.work = {"calls": float(len(window.calls_ns)), "tokens": tokens * len(window.calls_ns)}
        window.labels = {**window.labels, **({"ended": ended} if ended else {})}
    if window.t1_ns <= window.t0_ns:
        raise InvalidMeasurement(
            f"'{name}' took no time on the clock of '{instrument.name}': its calls do not run on that device. A twin's clock moves only "
            "when a twin's workload runs; use one made for the rig's device."
        )
    _rest(instrument)
    found = Sustained(
        session=session, instrument=instrument, window=window, phase=phase.id, baselines=baselines, ended_early=ended
    )  # fmt: skip
    _record_sustained(found, {**(labels or {}), "load": name, "instrument": instrument.name})
    return found


def _baselines(instrument: Instrument) -> tuple[BaselineRecord, ...]:
    """The last idle baseline, or one measured now, where power is read."""
    if not instrument.has("power_w"):
        return ()
    return tuple(instrument.baselines[-1:]) or (instrument.baseline(),)


def _loop(instrument: Instrument, call: Callable[[], object], window: Window, length_ns: int, baselines: Sequence[BaselineRecord]) -> str:
    """The calls; why they ended early, or nothing."""
    clock = instrument.clock
    start_ns = watched_ns = clock.now_ns()
    while True:
        t0_ns = clock.now_ns()
        call()
        t1_ns = clock.now_ns()
        window.calls_ns.append(t1_ns - t0_ns)
        since_ns = t1_ns - start_ns
        if since_ns >= length_ns and (len(window.calls_ns) >= CALLS or since_ns >= MOST_TIME * length_ns):
            return ""
        if t1_ns == start_ns:
            return "the clock stands still"
        if not instrument.sampler.is_alive():
            return "the sampler died"
        while instrument.sampler.tripped and clock.now_ns() - start_ns < length_ns:
            instrument.sleep(COOL_STEP_S)
        if t1_ns - watched_ns >= WATCH_S * NS_PER_S:
            watched_ns = t1_ns
            if _stalls(instrument, t1_ns, baselines):
                return f"stall watchdog: busy at idle power for {WATCH_S:g} s"


def _stalls(instrument: Instrument, now_ns: int, baselines: Sequence[BaselineRecord]) -> bool:
    """Whether every sample of the last :data:`WATCH_S` said "busy" at idle power."""
    idle = idle_of(baselines)
    if idle is None or not (instrument.has("utilisation_ratio") and instrument.has("power_w")):
        return False
    recent = instrument.trace.between(now_ns - round(WATCH_S * NS_PER_S), now_ns)
    busy, power = (np.asarray(recent.values(name)) for name in ("utilisation_ratio", "power_w"))
    known = np.isfinite(busy) & np.isfinite(power)
    idle_w = float(idle.at(np.array([now_ns]))[0])
    return bool(known.any() and stalled_samples(busy[known], power[known], idle_w, idle.u_w).all())


def _record_sustained(found: Sustained, at: dict[str, Label]) -> None:
    """Everything that a reader of the run should see; what the rig cannot show has its reason in the results."""
    for quantity, measure in _quantities(found).items():
        try:
            estimate = measure()
        except ChannelUnavailableError:
            continue
        found.session.result(EXPERIMENT, quantity, estimate, **at)
    for span_s in MISMATCH_SPANS_S:
        try:
            with answering(found.session, "B", found.instrument.name):
                estimate = found.mismatch(span_s)
        except ChannelUnavailableError:
            continue
        found.session.result(EXPERIMENT, "counter less integral", estimate, window_s=span_s, **at)


def _quantities(found: Sustained) -> dict[str, Callable[[], Estimate]]:
    shares = {f"throttle share: {c.value}": (lambda c=c: found.throttle_share(c)) for c in CLASSES}
    return {
        "latency drift, last third over first": lambda: found.latency_drift,
        **shares,
        "power at the cap over the limit": lambda: found.power_at_cap,
        "longest stall": lambda: found.longest_stall,
        "mean power": lambda: found.mean_power,
        "counter over readings, minus 1": lambda: found.disagreement,
    }
