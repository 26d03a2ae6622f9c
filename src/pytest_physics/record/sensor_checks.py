"""What the instrument-response experiment recorded, evaluated: each check of a power sensor as an estimate with its gates.

A check looks at one phase, found by the names of its windows, and at the telegraph phase that identified the sensor:

* *square wave*: one window :data:`~pytest_physics.record.identification.LOAD_ON` between two idle spans;
* *phase lock* and *notch*: windows :data:`BURST`, each a periodic load, labelled with their ``start`` phase and ``load_period_s``;
* *polling*: idle, with the sampler paused and polling in turns: phases :data:`~pytest_physics.record.schema.PAUSE` inside;
* *levels*: windows :data:`LEVEL`, each a steady load, labelled with its ``share`` of the full one;
* everything else comes from the telegraph itself.

A check that cannot speak gives an estimate without a value: with the refusal as its gate where the data refuse, or, where the question
does not apply (a lag has no notch), with a passed gate that begins with "not tested". Reference: TR122 §5; Yang, Adamek, Armour (arXiv
2312.02741).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.metrology.counter import CounterSeries
from pytest_physics.metrology.latency import quantile_interval
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.refusal import RefusedError, refuse
from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.sensor_faults import (
    PAUSE_S,
    counter_mean_power,
    first_after_pause,
    first_after_pause_gate,
    latency_modes_gate,
    phase_lock_gate,
    polling_gate,
    quantisation,
)
from pytest_physics.metrology.sensor_fit import ModelFit, Shape, modulation, notch_gate
from pytest_physics.metrology.step_response import SquareWave, square_wave
from pytest_physics.metrology.uncertainty import Component, Estimate, Gate, coverage_factor
from pytest_physics.metrology.updates import distinct_updates
from pytest_physics.record.data import RunData
from pytest_physics.record.identification import LOAD_ON, Identification, identify, telegraph_staleness
from pytest_physics.record.schema import PAUSE, PhaseRecord, WindowRecord
from pytest_physics.record.window_energy import true_energy_between
from pytest_physics.sampling.trace import FloatArray, IntArray, Trace

Parameters = Mapping[str, Any]
Leaf = Callable[[Parameters, RunData], Estimate]
Truth = Callable[[Parameters, RunData], Estimate | None]

BURST = "burst"
"""Name of the windows of a periodic load."""
LEVEL = "level"
"""Name of the windows of a steady load."""
SHORTEST_HALF_S = 0.003
"""Shorter kernels are not started and stopped reliably."""
REPORTED_STEP_W = 0.001
"""Drivers hand out whole milliwatts."""
START_PHASES = 8
MIN_BURST_READINGS = 2
OUTLIER_SHARE = 0.25
"""A settled reading further from its level than this share of the step is an outlier."""
MAX_OUTLIERS = 0.01
NOT_TESTED = "not tested: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """The settled readings under a periodic load that began at one phase."""

    window: WindowRecord
    from_ns: int
    """Where the sensor has settled."""
    t_ns: IntArray
    """Instants of distinct readings, shape (K,)."""
    power_w: FloatArray
    """The readings, shape (K,)."""


# --- shared with other evaluations -----------------------------------------------------------------------------------


def phase_samples(data: RunData, phase: PhaseRecord) -> Trace:
    """Samples of a phase."""
    return data.trace(phase.instrument).between(phase.t0_ns, int(phase.t1_ns or phase.t0_ns))


def power_of(trace: Trace) -> FloatArray:
    """Readings of a trace as they were polled, shape (N,)."""
    return np.asarray(trace.values("power_w"))


def model_of(data: RunData, parameters: Parameters) -> SensorModel:
    """The sensor model that a check uses."""
    model = data.sensor(parameters["sensor"])
    assert model is not None  # noqa: S101 -- an instrument with readings has a model
    return model


def windows_named(data: RunData, phase: PhaseRecord, name: str) -> list[WindowRecord]:
    """Windows of a phase with one name, in order of time."""
    return [window for window in data.windows_in(phase.id) if window.name == name]


def readings_in(data: RunData, instrument: str, t0_ns: int, t1_ns: int, update_period_s: float) -> tuple[IntArray, FloatArray]:
    """Instants and values of the distinct readings in a span."""
    trace = data.trace(instrument).between(t0_ns, t1_ns)
    power = power_of(trace)
    index = distinct_updates(trace.t_ns, power, update_period_s)
    return trace.t_ns[index], power[index]


def bursts(data: RunData, phase: PhaseRecord, sensor: SensorModel) -> list[Burst]:
    """The bursts of a phase, each from where the sensor has settled, ordered by their start phase."""
    found = []
    for window in sorted(windows_named(data, phase, BURST), key=lambda w: float(w.labels["start"])):
        from_ns = window.t0_ns + round(sensor.tail_s * NS_PER_S)
        t_ns, power_w = readings_in(data, phase.instrument, from_ns, window.t1_ns, sensor.update_period_s)
        found.append(Burst(window=window, from_ns=from_ns, t_ns=t_ns, power_w=power_w))
    fewest = min((len(burst.power_w) for burst in found), default=0)
    if len(found) < START_PHASES or fewest < MIN_BURST_READINGS:
        refuse(
            "bursts: readings", scope=phase.id, measured=fewest, limit=MIN_BURST_READINGS, unit="1",
            reason=f"{len(found)} bursts (needed: {START_PHASES}) have {fewest} or more readings each (needed: {MIN_BURST_READINGS})",
            remedy="Find out why reads failed or the sampler stopped, and measure again.",
        )  # fmt: skip
    return found


def no_value(unit: str, gate: Gate, estimator: str) -> Estimate:
    """An estimate that does not exist, with the gate that says why."""
    return Estimate(value=math.nan, unit=unit, quality=Quality.NO_DATA, estimator=estimator, gates=(gate,))


def not_tested(name: str, scope: str, unit: str, reason: str) -> Estimate:
    """An estimate of something that this rig, or this sensor, cannot show; no failure."""
    gate = Gate(
        name=name, scope=scope, measured=None, limit=None, unit=unit, passed=True, warning=True, reason=f"{NOT_TESTED}{reason}"
    )  # fmt: skip
    return no_value(unit, gate, "not tested")


def refusing(unit: str, check: Leaf) -> Leaf:
    """``check`` with a refusal as an estimate without a value."""

    def checked(parameters: Parameters, data: RunData) -> Estimate:
        try:
            return check(parameters, data)
        except RefusedError as refusal:
            return no_value(unit, refusal.gate, "refused")

    return checked


def part(label: str, source: str, u: float, *, dof: float = math.inf, evaluation: str = "B", common_scale: bool = False) -> Component:
    """One line of a budget."""
    kind: Any = evaluation
    return Component(label=label, source=source, contribution=u, dof=dof, evaluation=kind, common_scale=common_scale)


def true_sensor(data: RunData, instrument: str) -> dict[str, float] | None:
    """What a twin's sensor really is, from its fingerprint; None for a real device."""
    details = data.instrument(instrument).fingerprint.details
    found = {name.removeprefix("true_"): float(value) for name, value in details.items() if name.startswith("true_")}
    return found or None


# --- the square wave -------------------------------------------------------------------------------------------------


def _square(parameters: Parameters, data: RunData) -> SquareWave:
    phase, sensor = data.phase(parameters["phase"]), model_of(data, parameters)
    (load,) = windows_named(data, phase, LOAD_ON)
    t_ns, power_w = readings_in(data, phase.instrument, phase.t0_ns, int(phase.t1_ns or phase.t0_ns), sensor.update_period_s)
    on_s, off_s = ((t - phase.t0_ns) / NS_PER_S for t in (load.t0_ns, load.t1_ns))
    return square_wave((t_ns - phase.t0_ns) / NS_PER_S, power_w, on_s=on_s, off_s=off_s, sensor=sensor, scope=phase.id)


def _square_estimate(parameters: Parameters, data: RunData) -> Estimate:
    """Step, rise or delay of the square wave; all of its gates go with each."""
    wave, sensor, quantity = _square(parameters, data), model_of(data, parameters), str(parameters["quantity"])
    step_w = wave.load_w - wave.idle_before_w
    poll_s = data.instrument(data.phase(parameters["phase"]).instrument).period_ns / NS_PER_S
    period_s = math.hypot(sensor.update_period_s, poll_s)
    value, unit, components = {
        # a mean over seconds: what is left is the drift of a warming card, and the scale
        "step_w": (step_w, "W", (part("drift", f"drift|{parameters['phase']}", 0.01 * abs(step_w)), _gain(parameters, data, step_w))),
        # either end lies up to one update late
        "rise_s": (wave.step.rise_s, "s", (part("two updates", f"rise|{parameters['phase']}", period_s / math.sqrt(6)),)),
        "delay_s": (wave.step.delay_s, "s", (part("one update", f"step delay|{parameters['phase']}", period_s / math.sqrt(12)),)),
    }[quantity]
    return Estimate(
        value=value, unit=unit, components=components, quality=Quality.GOOD if math.isfinite(value) else Quality.NO_DATA,
        estimator="square wave", gates=(*wave.gates, _square_outliers(parameters, data, abs(step_w))),
    )  # fmt: skip


def _square_outliers(parameters: Parameters, data: RunData, step_w: float) -> Gate:
    """Whether the settled readings of each part keep to its level: a spike would move a mean, and no other gate would see it."""
    phase, sensor = data.phase(parameters["phase"]), model_of(data, parameters)
    (load,) = windows_named(data, phase, LOAD_ON)
    tail_ns = round(sensor.tail_s * NS_PER_S)
    spans = ((phase.t0_ns, load.t0_ns), (load.t0_ns + tail_ns, load.t1_ns), (load.t1_ns + tail_ns, int(phase.t1_ns or 0)))
    parts = [readings_in(data, phase.instrument, *span, sensor.update_period_s)[1] for span in spans]
    off_w = np.concatenate([np.abs(values - np.median(values)) for values in parts if len(values)] or [np.zeros(1)])
    limit_w = max(OUTLIER_SHARE * step_w, sensor.resolution_w)
    share = float(np.mean(off_w > limit_w))
    passed = share <= MAX_OUTLIERS
    return Gate(
        name="square wave: outliers", scope=phase.id, measured=share, limit=MAX_OUTLIERS, unit="1", passed=passed,
        reason=f"{share:.1%} of {len(off_w)} settled readings lie more than {limit_w:.3g} W from the level of their part "
        f"(limit {MAX_OUTLIERS:.0%}), the furthest {float(off_w.max()):.4g} W",
        remedy="" if passed else "look for other work on the device, and for readings that jump; then measure again",
    )  # fmt: skip


def _gain(parameters: Parameters, data: RunData, value: float) -> Component:
    sensor, instrument = model_of(data, parameters), data.phase(parameters["phase"]).instrument
    return part("gain", f"gain|{instrument}", value * sensor.u_gain, common_scale=True)


def _square_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    """The twin's true step of power; rise and delay in the paper's definitions are quantised by the updates and have no truth."""
    phase, sensor = data.phase(parameters["phase"]), model_of(data, parameters)
    if parameters["quantity"] != "step_w" or data.truth_table(phase.instrument) is None:
        return None
    (load,) = windows_named(data, phase, LOAD_ON)
    from_ns = min(load.t0_ns + round(sensor.tail_s * NS_PER_S), load.t1_ns - (load.t1_ns - load.t0_ns) // 4)
    spans = ((from_ns, load.t1_ns), (phase.t0_ns, load.t0_ns))
    load_w, idle_w = (float(true_energy_between(data, phase.instrument, *span) or 0.0) / (span[1] - span[0]) * NS_PER_S for span in spans)
    return Estimate.exact(load_w - idle_w, "W")


# --- checks under the telegraph --------------------------------------------------------------------------------------


def _staleness(parameters: Parameters, data: RunData) -> Estimate:
    """Longest stand of one value under the telegraph, beyond which the sensor counts as stale."""
    phase, sensor = data.phase(parameters["phase"]), model_of(data, parameters)
    gate = telegraph_staleness(data, phase, sensor.update_period_s)
    poll_s = data.instrument(phase.instrument).period_ns / NS_PER_S
    resolution = part("poll interval", f"poll|{phase.id}", poll_s / math.sqrt(6))
    value = math.nan if gate.measured is None else gate.measured
    return Estimate(
        value=value, unit="s", components=(resolution,), quality=Quality.GOOD if math.isfinite(value) else Quality.NO_DATA,
        estimator="longest stand under the telegraph", gates=(gate,),
    )  # fmt: skip


def _resolution(parameters: Parameters, data: RunData) -> Estimate:
    """Step of the readings."""
    phase, sensor = data.phase(parameters["phase"]), model_of(data, parameters)
    _, power_w = readings_in(data, phase.instrument, phase.t0_ns, int(phase.t1_ns or phase.t0_ns), sensor.update_period_s)
    found = quantisation(power_w, reported_step=REPORTED_STEP_W, scope=phase.id)
    return Estimate(
        value=found.step_w, unit="W", quality=Quality.GOOD,
        components=(part("reported step", f"reported step|{phase.id}", REPORTED_STEP_W / math.sqrt(12)),),
        estimator=f"common step of {found.levels} levels, {'averages down' if found.dithered else 'does not average down'}",
    )  # fmt: skip


def _resolution_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    instrument = data.phase(parameters["phase"]).instrument
    if data.truth_table(instrument) is None:
        return None
    channel = next(c for c in data.instrument(instrument).channels if c.name == "power_w")
    return Estimate.exact(channel.resolution, "W")


def _latency(parameters: Parameters, data: RunData) -> Estimate:
    """A quantile of how long it takes to read all channels once."""
    phase = data.phase(parameters["phase"])
    rows = phase_samples(data, phase).rows
    latency_s = (rows["t_after_ns"] - rows["t_before_ns"]) / NS_PER_S
    if not np.any(latency_s > 0):
        return not_tested("call latency", phase.id, "s", "reads take no time on a virtual clock")
    found = quantile_interval(latency_s[latency_s > 0], float(parameters["probability"]))
    half_s = max(found.high - found.value, found.value - found.low)
    spread = part("order statistics", f"latency|{parameters['probability']}|{phase.id}", half_s / coverage_factor(math.inf), evaluation="A")
    return Estimate(
        value=found.value, unit="s", components=(spread,), quality=Quality.GOOD if math.isfinite(half_s) else Quality.ESTIMATE,
        estimator=f"order statistics of {found.n} reads", gates=(latency_modes_gate(latency_s[latency_s > 0], scope=phase.id),),
    )  # fmt: skip


def _first_read(parameters: Parameters, data: RunData) -> Estimate:
    """How often the first read after a pause repeats the value from before it."""
    phase, sensor = data.phase(parameters["phase"]), model_of(data, parameters)
    trace = phase_samples(data, phase)
    pauses = int(np.count_nonzero(first_after_pause(trace.t_ns)))
    if pauses < 2:
        reason = (
            f"the sampler reads throughout and made {pauses} pauses of more than {PAUSE_S:g} s, so that no value can be a leftover; "
            "'sensor.polling_s' (set in the profiles 'standard' and 'publish') makes it pause"
        )
        return not_tested("first read after a pause", phase.id, "1", reason)
    gate = first_after_pause_gate(trace.t_ns, power_of(trace), update_period_s=sensor.update_period_s, scope=phase.id)
    return Estimate(value=float(gate.measured or 0.0), unit="1", quality=Quality.GOOD, estimator="count of first reads", gates=(gate,))


def _polling(parameters: Parameters, data: RunData) -> Estimate:
    """What polling does to idle power: mean power by the energy counter, with the sampler polling and paused in turns."""
    phase = data.phase(parameters["phase"])
    trace, rate_hz = phase_samples(data, phase), NS_PER_S / data.instrument(phase.instrument).period_ns
    if not trace.has("energy_j"):
        return not_tested(
            "polling perturbation", phase.id, "W", "without polling only an energy counter measures, and this device has none"
        )
    spans = _polling_spans(data, phase, trace)
    if spans is None:
        reason = (
            f"the sampler polls at {rate_hz:.4g} Hz throughout; 'sensor.polling_s' (set in the profiles 'standard' and 'publish') pauses it"
        )
        return not_tested("polling perturbation", phase.id, "W", reason)
    quiet, polled = (series_of_spans([power for power, _ in side], [u for _, u in side]) for side in spans)
    gate = polling_gate(quiet[0], polled[0], u_quiet_w=quiet[1], u_polled_w=polled[1], poll_rate_hz=rate_hz, scope=phase.id)
    parts = [part(f"idle {name}", f"polling|{name}|{phase.id}", u) for name, (_, u) in {"polled": polled, "paused": quiet}.items()]
    return Estimate(
        value=polled[0] - quiet[0], unit="W", components=tuple(parts), quality=Quality.GOOD,
        estimator=f"energy counter over {len(spans[1])} polled and {len(spans[0])} paused idle spans", gates=(gate,),
    )  # fmt: skip


def series_of_spans(power_w: list[float], u_w: list[float]) -> tuple[float, float]:
    """Mean of equal spans, and its standard uncertainty: the larger of what each states and what they scatter."""
    n = len(power_w)
    stated = math.sqrt(sum(u * u for u in u_w)) / n
    scatter = float(np.std(power_w, ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return float(np.mean(power_w)), max(stated, scatter)


Span = tuple[float, float]
"""Mean power in watts, and its standard uncertainty."""


def _polling_spans(data: RunData, phase: PhaseRecord, trace: Trace) -> tuple[list[Span], list[Span]] | None:
    """Idle power of the spans with the sampler paused and of those around them; None without a pause.

    A pause goes from the last read before it to the first one after it that is fresh: two ticks of the counter later.
    """
    own = [
        p
        for p in data.phases_of(phase.instrument)
        if p.name == PAUSE and phase.t0_ns <= p.t0_ns and (p.t1_ns or 0) <= int(phase.t1_ns or 0)
    ]
    t_ns, energy_j = trace.t_ns, np.asarray(trace.values("energy_j"))
    known = np.isfinite(energy_j)
    t_ns, energy_j = t_ns[known], energy_j[known]
    tick_s = CounterSeries.of(t_ns, energy_j).tick_period_s
    if not own or not math.isfinite(tick_s):
        return None
    fresh_ns = round(2 * tick_s * NS_PER_S)
    begins = np.searchsorted(t_ns, [p.t0_ns for p in own], side="right") - 1
    ends = np.minimum(np.searchsorted(t_ns, [int(p.t1_ns or 0) + fresh_ns for p in own]), len(t_ns) - 1)

    def power(first: int, last: int) -> Span:
        duration_s = (t_ns[last] - t_ns[first]) / NS_PER_S
        return counter_mean_power(float(energy_j[first]), float(energy_j[last]), float(duration_s), tick_s=tick_s)

    paused = [power(int(a), int(b)) for a, b in zip(begins, ends, strict=True)]
    polled = [power(int(a), int(b)) for a, b in zip([0, *ends], [*begins, len(t_ns) - 1], strict=True)]
    return paused, polled


def _polling_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    """The twin's true difference of idle power between the polled and the paused spans."""
    phase = data.phase(parameters["phase"])
    own = [
        p
        for p in data.phases_of(phase.instrument)
        if p.name == PAUSE and phase.t0_ns <= p.t0_ns and (p.t1_ns or 0) <= int(phase.t1_ns or 0)
    ]
    if not own or data.truth_table(phase.instrument) is None or not phase_samples(data, phase).has("energy_j"):
        return None
    edges = [phase.t0_ns, *(t for p in own for t in (p.t0_ns, int(p.t1_ns or 0))), int(phase.t1_ns or 0)]
    power = [float(true_energy_between(data, phase.instrument, a, b) or 0.0) / (b - a) * NS_PER_S for a, b in pairwise(edges)]
    return Estimate.exact(float(np.mean(power[::2]) - np.mean(power[1::2])), "W")


# --- periodic loads --------------------------------------------------------------------------------------------------


def identified(parameters: Parameters, data: RunData) -> Identification:
    """The identification behind a check; raises ``RefusedError``."""
    return identify(data, data.phase(parameters["telegraph"]))


def no_bursts(what: str, found: Identification, load_period_s: float) -> str:
    """Why a periodic load of this period shows nothing; empty where it does."""
    if what == "notch" and found.fit.best.named_shape is Shape.LAG:
        return "a first-order lag has no notch: it answers to every period"
    if load_period_s / 2 < SHORTEST_HALF_S:
        return (
            f"half of its period, {load_period_s / 2 * 1e3:.3g} ms, is shorter than kernels can be switched ({SHORTEST_HALF_S * 1e3:g} ms)"
        )
    return ""


def burst_period_s(what: str, found: Identification) -> float:
    """Load period of a check: the update period for the phase lock, the window for the notch."""
    return found.period.period_s if what == "phase lock" else found.fit.best.window_s


def _noise_w(groups: list[Burst]) -> float:
    """Standard deviation of readings about the mean of their own burst."""
    squares = sum(float(((b.power_w - b.power_w.mean()) ** 2).sum()) for b in groups)
    return math.sqrt(squares / max(1, sum(len(b.power_w) - 1 for b in groups)))


def _phase_lock(parameters: Parameters, data: RunData) -> Estimate:
    """How far a load of exactly the update period moves the mean reading with its start phase, as a share of the swing."""
    phase, sensor, found = data.phase(parameters["phase"]), model_of(data, parameters), identified(parameters, data)
    if why := no_bursts("phase lock", found, burst_period_s("phase lock", found)):
        return not_tested("phase lock", phase.id, "1", why)
    groups, swing_w = bursts(data, phase, sensor), found.fit.best.gain
    means, noise_w = np.array([b.power_w.mean() for b in groups]), _noise_w(groups)
    u_mean_w = noise_w / math.sqrt(min(len(b.power_w) for b in groups))
    predicted = modulation(found.fit.best, found.period.period_s)
    gate = phase_lock_gate(means, swing_w=swing_w, predicted_share=predicted, u_mean_w=u_mean_w, scope=phase.id)
    components = (
        part("noise", f"lock noise|{phase.id}", 2 * u_mean_w / swing_w, dof=len(groups), evaluation="A"),
        part("start phases missed", f"lock phases|{phase.id}", 1 / len(groups) / math.sqrt(3)),
    )
    return Estimate(
        value=float(np.ptp(means)) / swing_w, unit="1", components=components, quality=Quality.GOOD,
        estimator=f"range over {len(groups)} start phases, predicted {predicted:.3f}", gates=(gate,),
    )  # fmt: skip


def _notch(parameters: Parameters, data: RunData) -> Estimate:
    """Modulation of the readings under a load whose period is the identified window: a box is blind to it."""
    phase, sensor, found = data.phase(parameters["phase"]), model_of(data, parameters), identified(parameters, data)
    best = found.fit.best
    if why := no_bursts("notch", found, burst_period_s("notch", found)):
        return not_tested("notch check", phase.id, "W", why)
    groups = bursts(data, phase, sensor)
    power_w, t_s = np.concatenate([b.power_w for b in groups]), np.concatenate([b.t_ns - phase.t0_ns for b in groups]) / NS_PER_S
    # the card warms up; bursts come in an order in which a trend is no phase
    level_w = np.polynomial.Polynomial.fit(t_s, power_w, 1)(t_s)
    variance, noise = float(np.var(power_w - level_w, ddof=2)), max(best.residual_w, sensor.resolution_w / math.sqrt(12)) ** 2
    modulation_w = math.sqrt(8 * max(0.0, variance - noise))  # peak to peak of a sine of that variance
    noise_w = math.sqrt(8 * noise) * (2 / (len(power_w) - 2)) ** 0.25
    load_period_s = float(np.median([float(b.window.labels["load_period_s"]) for b in groups]))
    gate = notch_gate(best, modulation_w, noise_w=noise_w, load_period_s=load_period_s, scope=phase.id)
    spread = part("noise", f"notch noise|{phase.id}", noise_w, evaluation="A")
    shape = part("window", f"notch window|{phase.id}", (gate.limit or 0.0) / 3)
    return Estimate(
        value=modulation_w, unit="W", components=(spread, shape), quality=Quality.GOOD, estimator="spread of the readings", gates=(gate,)
    )  # fmt: skip


def _true_fit(parameters: Parameters, data: RunData) -> ModelFit | None:
    """The fitted kernel with the twin's true window; the card's electrical rise stays as it was fitted."""
    true = true_sensor(data, data.phase(parameters["phase"]).instrument)
    if true is None:
        return None
    try:
        best = identified(parameters, data).fit.best
    except RefusedError:
        return None
    return replace(best, window_s=true["window_s"] or best.window_s, lag_s=true["lag_s"] or true["rise_s"])


def _lock_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    fit = _true_fit(parameters, data)
    if fit is None or no_bursts("phase lock", found := identified(parameters, data), found.period.period_s):
        return None
    return Estimate.exact(modulation(fit, found.period.period_s), "1")


def _notch_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    fit = _true_fit(parameters, data)
    if fit is None or no_bursts("notch", found := identified(parameters, data), burst_period_s("notch", found)):
        return None
    return Estimate.exact(fit.gain * modulation(fit, burst_period_s("notch", found)), "W")


SENSOR_LEAVES: dict[str, tuple[Leaf, Truth | None]] = {
    "sensor.square_wave": (_square_estimate, _square_truth),
    "sensor.staleness": (_staleness, None),
    "sensor.resolution": (refusing("W", _resolution), _resolution_truth),
    "sensor.latency": (_latency, None),
    "sensor.first_read": (_first_read, None),
    "sensor.polling": (_polling, _polling_truth),
    "sensor.phase_lock": (refusing("1", _phase_lock), _lock_truth),
    "sensor.notch": (refusing("W", _notch), _notch_truth),
}
"""Operation to its evaluation, and the way to its true value on a twin."""
