"""An energy counter beside the power readings of one run: tick, increment, where it gets its numbers from, and where both agree.

The mean readings lag: a reading at t is the mean over ``[t − d − W, t − d]`` and stands for one update period. Integrals of readings are
therefore taken over spans shifted by ``d + W/2 + τ + T/2``; the counter is interpolated between its ticks. What is left at the two ends of
a span makes short spans scatter, not err. Mismatches are relative to the mean energy of a span of their length: a ratio to each span's own
energy would blow up at idle, and its mean would be too large.

The scales of both are uncalibrated. A mismatch is that of the numbers as they are read, and its interval that of the scatter; what the
scales allow is in the limit of its gate. :func:`_scale` compares both after one line through steady levels. Reference: TR122.B; zeus#181
(187 J against 327 J); :mod:`pytest_physics.metrology.counter_checks`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.metrology.counter import CounterSeries
from pytest_physics.metrology.counter_checks import (
    LONG_WINDOW_S,
    CounterTick,
    consistency_gate,
    counter_tick,
    dead_time_test,
    feed_test,
    mismatch_by_duration,
)
from pytest_physics.metrology.power_series import PowerSeries
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.refusal import refuse
from pytest_physics.metrology.response import UNCALIBRATED_GAIN, SensorModel
from pytest_physics.metrology.uncertainty import Estimate, Gate, coverage_factor
from pytest_physics.metrology.update_period import changes_of
from pytest_physics.record.data import RunData
from pytest_physics.record.identification import TIMING_DOF
from pytest_physics.record.schema import PhaseRecord
from pytest_physics.record.sensor_checks import (
    LEVEL,
    Burst,
    Leaf,
    Parameters,
    Truth,
    bursts,
    identified,
    model_of,
    no_bursts,
    not_tested,
    part,
    phase_samples,
    power_of,
    readings_in,
    refusing,
    true_sensor,
    windows_named,
)
from pytest_physics.record.window_energy import true_energy_between
from pytest_physics.sampling.trace import FloatArray, Trace

SPANS_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""TR122.B: lengths at which counter and integral are compared."""
MIN_TICKS = 8
MIN_LEVELS = 3
MIN_LEVEL_STEP_W = 1.0
"""Levels closer than this are one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Energies of consecutive spans of one length, by both."""

    duration_s: float
    counter_j: FloatArray
    integral_j: FloatArray


def counter_of(trace: Trace) -> FloatArray:
    """Counter readings of a trace, shape (N,)."""
    return np.asarray(trace.values("energy_j"))


def reading_shift_s(sensor: SensorModel) -> float:
    """How far held readings lie behind the power they tell of, in the mean."""
    return sensor.delay_s + sensor.window_s / 2 + sensor.lag_s + sensor.update_period_s / 2


# --- tick, increment, feed -------------------------------------------------------------------------------------------


def _tick(data: RunData, phase: PhaseRecord) -> CounterTick:
    trace = phase_samples(data, phase)
    before_ns, after_ns = np.asarray(trace.rows["t_before_ns"]), np.asarray(trace.rows["t_after_ns"])
    return counter_tick(before_ns, after_ns, counter_of(trace), scope=phase.id)


def _tick_estimate(parameters: Parameters, data: RunData) -> Estimate:
    """Interval between two advances of the counter."""
    phase = data.phase(parameters["phase"])
    tick = _tick(data, phase).tick
    spread = part("fit", f"counter tick|{phase.id}", tick.u_period_s, dof=TIMING_DOF, evaluation="A")
    return Estimate(value=tick.period_s, unit="s", components=(spread,), quality=Quality.GOOD, estimator="comb fit")


def _tick_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    true = true_sensor(data, data.phase(parameters["phase"]).instrument)
    return None if true is None or "counter_tick_s" not in true else Estimate.exact(true["counter_tick_s"], "s")


def _increment(parameters: Parameters, data: RunData) -> Estimate:
    """Smallest step in which the counter counts."""
    phase = data.phase(parameters["phase"])
    found = _tick(data, phase)
    resolution = part("reported step", f"counter step|{phase.id}", 0.001 / math.sqrt(12))
    return Estimate(
        value=found.step_j, unit="J", components=(resolution,), quality=Quality.GOOD,
        estimator=f"common divisor; median increment {found.increment_j:.4g} J",
    )  # fmt: skip


def _increment_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    instrument = data.phase(parameters["phase"]).instrument
    if data.truth_table(instrument) is None:
        return None
    return Estimate.exact(next(c.resolution for c in data.instrument(instrument).channels if c.name == "energy_j"), "J")


def _feed(parameters: Parameters, data: RunData) -> Estimate:
    """Residual of the counter's increments against reading × tick: within its step, the counter is the summed readings."""
    phase = data.phase(parameters["phase"])
    trace, found = phase_samples(data, phase), _tick(data, phase)
    before_ns, after_ns = np.asarray(trace.rows["t_before_ns"]), np.asarray(trace.rows["t_after_ns"])
    changes = changes_of(before_ns, after_ns, counter_of(trace))
    series = PowerSeries.of(trace.t_ns, power_of(trace), sensor=model_of(data, parameters))
    single = np.abs(np.diff(changes.middle_s) - found.tick.period_s) < found.tick.period_s / 2  # no tick in between was missed
    origin_s = (changes.origin_ns - series.origin_ns) / NS_PER_S
    increment_j = np.diff(changes.value)[single]
    if len(increment_j) < MIN_TICKS:
        refuse(
            "counter feed: ticks", scope=phase.id, measured=len(increment_j), limit=MIN_TICKS, unit="1",
            reason=f"{len(increment_j)} single ticks of the counter do not show where it gets its numbers (needed: {MIN_TICKS})",
            remedy="Sample faster, or drive the load for longer.",
        )  # fmt: skip
    # the reading that enters a tick is the one that stood when the tick began, or the one that stood just before it ended
    begin_s, end_s = changes.after_s[:-1][single] + origin_s, changes.before_s[1:][single] + origin_s
    tests = [
        feed_test(increment_j, series.level_at_w(t_s), tick_s=found.tick.period_s, step_j=found.step_j)
        for t_s in (begin_s, (begin_s + end_s) / 2, end_s)
    ]
    best = min(tests, key=lambda test: test.residual_j)
    verdict = "sums the readings" if best.sums_readings else "has a source of its own"
    spread = part(
        "residuals", f"feed|{phase.id}", best.residual_j / math.sqrt(2 * len(increment_j)), evaluation="A", dof=len(increment_j) - 2
    )
    return Estimate(
        value=best.residual_j, unit="J", components=(spread,), quality=Quality.GOOD,
        estimator=f"counter {verdict} (its step: {found.step_j:.3g} J)",
    )  # fmt: skip


# --- dead time -------------------------------------------------------------------------------------------------------


def _burst_power_w(trace: Trace) -> float:
    """Mean power by the counter from the first to the last tick of a trace; NaN with too few ticks."""
    series = CounterSeries.of(trace.t_ns, counter_of(trace))
    if len(series.tick_s) < 3 or len(series.reset_s):
        return math.nan
    return float((series.tick_j[-1] - series.tick_j[0]) / (series.tick_s[-1] - series.tick_s[0]))


def _dead_time(parameters: Parameters, data: RunData) -> Estimate:
    """Whether the counter's mean power follows the start phase of a load in step with the sensor, as the readings do: 1, or 0."""
    phase, sensor, found = data.phase(parameters["phase"]), model_of(data, parameters), identified(parameters, data)
    if why := no_bursts("phase lock", found, found.period.period_s):
        return not_tested("counter dead time", phase.id, "1", why)
    groups = bursts(data, phase, sensor)
    readings_w = np.array([b.power_w.mean() for b in groups])
    swing_w = found.fit.best.gain
    if float(np.ptp(readings_w)) < swing_w / 4:
        reason = "the readings do not follow the start phase: the sensor looks all the time, and has no dead time to inherit"
        return not_tested("counter dead time", phase.id, "1", reason)
    counted_w = np.array([_burst_power_w(_within(data, b)) for b in groups])
    shortest_s = min((b.window.t1_ns - b.from_ns) / NS_PER_S for b in groups)
    u_w = swing_w * sensor.update_period_s / math.sqrt(6) / shortest_s
    test = dead_time_test(readings_w, counted_w, u_counter_w=u_w)
    spread = part("ticks", f"dead time|{phase.id}", test.u_slope, evaluation="A", dof=len(groups) - 2)
    known = math.isfinite(test.slope)
    return Estimate(
        value=test.slope, unit="1", components=(spread,) if known else (), quality=Quality.GOOD if known else Quality.NO_DATA,
        estimator=f"counter {test.verdict.value}" if known else "the counter ticked too rarely",
    )  # fmt: skip


def _within(data: RunData, burst: Burst) -> Trace:
    return data.trace(burst.window.instrument).between(burst.from_ns, burst.window.t1_ns)


def _dead_time_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    """A twin's counter integrates its true energy; of a sensor that looks all the time nothing is asked."""
    true = true_sensor(data, data.phase(parameters["phase"]).instrument)
    looks = true is None or max(true["window_s"], 2 * true["lag_s"]) >= true["update_period_s"] / 2
    return None if looks else Estimate.exact(0.0, "1")


# --- agreement -------------------------------------------------------------------------------------------------------


def spans_of(data: RunData, phase: PhaseRecord, sensor: SensorModel, duration_s: float) -> Spans:
    """Energies of as many consecutive spans as the phase holds, by counter and by readings; empty where it holds none."""
    shift_s = reading_shift_s(sensor)
    reach_ns = round((shift_s + sensor.update_period_s) * NS_PER_S)
    start_ns, stop_ns = phase.t0_ns, int(phase.t1_ns or phase.t0_ns)
    trace = data.trace(phase.instrument).between(start_ns - reach_ns, stop_ns)
    series = PowerSeries.of(trace.t_ns, power_of(trace), sensor=sensor)
    counter = CounterSeries.of(trace.t_ns, counter_of(trace))
    if len(counter.reset_s):
        refuse(
            "counter: resets", scope=phase.id, measured=len(counter.reset_s), limit=0, unit="1",
            reason=f"the counter went backwards {len(counter.reset_s)} times while it was compared",
            remedy="Look for a reload of the driver, and measure again; do not use this counter if it comes back.",
        )  # fmt: skip
    if len(counter.tick_s) < 2 or not math.isfinite(series.last_s):
        return Spans(duration_s=duration_s, counter_j=np.zeros(0), integral_j=np.zeros(0))
    first_s = max((start_ns - counter.origin_ns) / NS_PER_S, float(counter.tick_s[0]))
    last_s = min((stop_ns - counter.origin_ns) / NS_PER_S - shift_s, float(counter.tick_s[-1]))
    count = max(0, int((last_s - first_s) / duration_s)) + 1
    edge_s = first_s + duration_s * np.arange(count, dtype=np.float64)
    from_counter_s = (counter.origin_ns - series.origin_ns) / NS_PER_S
    return Spans(
        duration_s=duration_s,
        counter_j=np.diff(np.interp(edge_s, counter.tick_s, counter.tick_j)),
        integral_j=np.diff(series.integral_j(edge_s + from_counter_s + shift_s)),
    )


def _mismatch(parameters: Parameters, data: RunData) -> Estimate:
    """Counter less integral over spans of one length, relative to their mean energy; from 10 s on, both must agree within 3 u."""
    phase, sensor, duration_s = data.phase(parameters["phase"]), model_of(data, parameters), float(parameters["duration_s"])
    spans = spans_of(data, phase, sensor, duration_s)
    if not len(spans.counter_j):
        reason = f"phase '{phase.id}' holds no span of {duration_s:g} s"
        return not_tested("counter agrees with integral", phase.id, "1", f"{reason}; it is longer in the profiles 'standard' and 'publish'")
    mean_j = float(spans.integral_j.mean())
    like = np.full(len(spans.counter_j), mean_j)
    (found,) = mismatch_by_duration(np.full(len(like), duration_s), like + spans.counter_j - spans.integral_j, like)
    k = coverage_factor(max(1, found.n - 1))
    u = (found.high - found.relative) / k if found.n > 1 else _one_span(data, phase, sensor, mean_j)
    spread = part("between spans", f"mismatch|{duration_s}|{phase.id}", u, dof=max(1, found.n - 1), evaluation="A")
    gates: tuple[Gate, ...] = ()
    if duration_s >= LONG_WINDOW_S:
        # what scale and zero of uncalibrated readings, and the scale of the counter, may differ by
        offset = sensor.u_offset_w * duration_s / mean_j
        u_j = mean_j * math.hypot(u, sensor.u_gain, UNCALIBRATED_GAIN, offset)
        gates = (consistency_gate(float(spans.counter_j.mean()), mean_j, u_j=u_j, duration_s=duration_s, scope=phase.id),)
    return Estimate(
        value=found.relative, unit="1", components=(spread,), quality=Quality.GOOD if found.n > 1 else Quality.ESTIMATE,
        estimator=f"{found.n} spans of {duration_s:g} s", gates=gates,
    )  # fmt: skip


def _one_span(data: RunData, phase: PhaseRecord, sensor: SensorModel, mean_j: float) -> float:
    """Relative uncertainty of a single span: what its two ends leave, from the scatter of shorter spans."""
    for shorter_s in SPANS_S[::-1]:
        spans = spans_of(data, phase, sensor, shorter_s)
        if len(spans.counter_j) > MIN_LEVELS:
            return float(np.std(spans.counter_j - spans.integral_j, ddof=1)) / mean_j
    return math.inf


def _mismatch_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    """What the true scales of a twin make of its true energy."""
    phase = data.phase(parameters["phase"])
    true, energy_j = true_sensor(data, phase.instrument), true_energy_between(data, phase.instrument, phase.t0_ns, int(phase.t1_ns or 0))
    if true is None or energy_j is None or "counter_gain" not in true:
        return None
    read_j = true["gain"] * energy_j + true["offset_w"] * (int(phase.t1_ns or 0) - phase.t0_ns) / NS_PER_S
    return Estimate.exact(true["counter_gain"] * energy_j / read_j - 1, "1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Mean powers of steady levels, all of shape (L,)."""

    share: FloatArray
    """Share of the full load."""
    reading_w: FloatArray
    u_reading_w: FloatArray
    """Standard uncertainty of the mean reading: scatter and drift of the distinct readings."""
    counter_w: FloatArray
    """NaN without a counter."""


def levels_of(data: RunData, phase: PhaseRecord, sensor: SensorModel) -> Levels:
    """The steady levels of a phase, each from where the sensor has settled; levels without two readings are left out."""
    rows = []
    for window in windows_named(data, phase, LEVEL):
        from_ns = window.t0_ns + round(sensor.tail_s * NS_PER_S)
        _, power_w = readings_in(data, phase.instrument, from_ns, window.t1_ns, sensor.update_period_s)
        settled = data.trace(phase.instrument).between(from_ns, window.t1_ns)
        if len(power_w) > 1:
            u_w = math.hypot(float(power_w.std(ddof=1)), sensor.resolution_w / math.sqrt(12)) / math.sqrt(len(power_w))
            counter_w = _burst_power_w(settled) if settled.has("energy_j") else math.nan
            rows.append((float(window.labels["share"]), float(power_w.mean()), u_w, counter_w))
    columns = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    return Levels(share=columns[0], reading_w=columns[1], u_reading_w=columns[2], counter_w=columns[3])


def _scale(parameters: Parameters, data: RunData) -> Estimate:
    """Joules counted per joule read, or what is left after this line: least squares over steady levels."""
    phase, sensor = data.phase(parameters["phase"]), model_of(data, parameters)
    levels = levels_of(data, phase, sensor)
    known = np.isfinite(levels.counter_w)
    x, y, u_x = levels.reading_w[known], levels.counter_w[known], levels.u_reading_w[known]
    different = len(np.unique(np.round(x / MIN_LEVEL_STEP_W)))
    if different < MIN_LEVELS:
        refuse(
            "counter scale: levels", scope=phase.id, measured=different, limit=MIN_LEVELS, unit="1",
            reason=f"counter and readings stand side by side at {different} different levels only (needed: {MIN_LEVELS})",
            remedy="Lengthen 'sensor.levels_s' beyond several ticks of the counter, and check that the load runs.",
        )  # fmt: skip
    dx = x - x.mean()
    power = float(dx @ dx)
    slope = float(dx @ y / power)
    residual_w = math.sqrt(float(((y - y.mean() - slope * dx) ** 2).sum()) / (len(x) - 2))
    source = f"{parameters['quantity']}|{phase.id}"
    if parameters["quantity"] == "scale":
        value = slope
        terms = (residual_w / math.sqrt(power), math.sqrt(float((dx * u_x) @ (dx * u_x))) / power)
    else:
        value = residual_w / float(y.max())
        terms = (value / math.sqrt(2 * (len(x) - 2)), float(np.sqrt(np.mean(u_x**2))) / float(y.max()))
    components = (
        part("residuals of the line", f"residuals|{source}", terms[0], dof=len(x) - 2, evaluation="A"),
        part("noise and drift of the levels", f"levels|{source}", terms[1], evaluation="A"),
    )
    estimator = f"line through {len(x)} levels" if parameters["quantity"] == "scale" else f"residuals of a line through {len(x)} levels"
    return Estimate(value=value, unit="1", components=components, quality=Quality.GOOD, estimator=estimator)


def _scale_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    true = true_sensor(data, data.phase(parameters["phase"]).instrument)
    if true is None or "counter_gain" not in true or parameters["quantity"] != "scale":
        return None
    return Estimate.exact(true["counter_gain"] / true["gain"], "1")


COUNTER_LEAVES: dict[str, tuple[Leaf, Truth | None]] = {
    "counter.tick": (refusing("s", _tick_estimate), _tick_truth),
    "counter.increment": (refusing("J", _increment), _increment_truth),
    "counter.feed": (refusing("J", _feed), None),
    "counter.dead_time": (refusing("1", _dead_time), _dead_time_truth),
    "counter.mismatch": (refusing("1", _mismatch), _mismatch_truth),
    "counter.scale": (refusing("1", _scale), _scale_truth),
}
"""Operation to its evaluation, and the way to its true value on a twin."""
