"""A step of load as a sensor shows it: rise and delay in the paper's definitions, and TR122's square-wave test with a limit it can meet.

Definitions kept for comparison with published tables (Yang et al.), on distinct readings around a step at ``on``:

* lower level p0: the last reading before two consecutive rises of more than 1 W;
* upper level p100: the first reading after it that is followed by two changes below 1 W, or where none settles so, the median of the
  last half of the load;
* rise: from the last reading below 10 % to the first above 90 %; delay: from the step to the last reading at or below 50 %;
* steady level: mean of the load's last 3 s.

They are quantised by the update period and are no model of the sensor; the identified kernel (:mod:`~pytest_physics.metrology.sensor_fit`)
is the primary result. TR122 asked for a rise below 300 ms of every card: an average over 1 s rises in 800 ms, so that no healthy card with
such a channel could pass. Here the limit follows from the identified kernel: its own 10–90 % rise, two update periods (one at each end of
the measured rise), the load's own ramp, and twice the uncertainty of both.

Assumes one clean step per edge and settled phases of at least W + 7τ. Fails closed: a phase without three readings, a step that never
rises, or a rise that is never completed is a failed gate with its reason.

References: Yang, Adamek, Armour (arXiv 2312.02741) and its repository for the definitions; TR122, instrument response test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.uncertainty import Gate

FloatArray = NDArray[np.float64]

CHANGE_W = 1.0
"""Changes below this are noise, in the paper's definitions."""
STEADY_S = 3.0
MIN_STEP_W = 10.0
"""TR122: the load must raise the reading by more than this."""
MIN_READINGS = 3
LOAD_RAMP_S = 0.05
"""Time a card may take to reach its power after a kernel starts: clocks ramp up in steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResponse:
    """One rising step of the readings."""

    lower_w: float
    """p0: level before."""
    upper_w: float
    """p100: level after."""
    steady_w: float
    """Mean of the last 3 s of the load, or of its last half where it is shorter than 6 s."""
    rise_s: float
    """From the last reading below 10 % to the first above 90 %; NaN where it never completes."""
    delay_s: float
    """From the step to the last reading at or below 50 %; NaN where the step never rises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SquareWave:
    """TR122's idle / load / idle test of one channel."""

    idle_before_w: float
    """A: mean of the settled part of the first idle."""
    load_w: float
    """B: mean of the settled part of the load."""
    idle_after_w: float
    """C: mean of the settled part of the second idle."""
    step: StepResponse
    rise_limit_s: float
    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        """Whether no gate refuses."""
        return not any(gate.refuses for gate in self.gates)


def model_rise_s(sensor: SensorModel) -> float:
    """10–90 % rise of the sensor's kernel: 0.8 W for a box, τ·ln 9 for a lag, by root finding for both."""
    window_s, lag_s = sensor.window_s, sensor.lag_s
    if not window_s or not lag_s:
        return 0.8 * window_s + math.log(9) * lag_s
    span_s = window_s + 20 * lag_s

    def crossing(level: float) -> float:
        return float(optimize.brentq(lambda t: _step_share(t, window_s, lag_s) - level, 0.0, span_s))

    return crossing(0.9) - crossing(0.1)


def rise_limit_s(sensor: SensorModel, *, load_ramp_s: float = LOAD_RAMP_S) -> float:
    """Longest rise that readings of a healthy sensor can show: kernel, two updates, the load's ramp, and twice their uncertainty."""
    u_s = math.hypot(0.8 * sensor.u_window_s, math.log(9) * sensor.u_lag_s, 2 * sensor.u_update_period_s)
    return model_rise_s(sensor) + 2 * sensor.update_period_s + load_ramp_s + 2 * u_s


def delay_limit_s(sensor: SensorModel, *, load_ramp_s: float = LOAD_RAMP_S) -> float:
    """Latest half-way reading of a healthy sensor: half of the kernel, delay, one update, the load's ramp, and twice their uncertainty."""
    u_s = math.hypot(0.5 * sensor.u_window_s, math.log(2) * sensor.u_lag_s, sensor.u_delay_s, sensor.u_update_period_s)
    half_s = 0.5 * sensor.window_s + sensor.lag_s  # the mean of a lag lies behind its median
    return half_s + sensor.delay_s + sensor.update_period_s + load_ramp_s + 2 * u_s


def step_response(t_s: FloatArray, power_w: FloatArray, *, on_s: float, off_s: float) -> StepResponse:
    """Rise and delay of the readings, shape (N,), under a load from ``on_s`` to ``off_s``.

    Times are update instants of distinct readings; the last idle before the load must be among them.
    """
    upto = np.searchsorted(t_s, off_s, side="right")
    t, y = t_s[:upto], power_w[:upto]
    first = int(np.searchsorted(t, on_s))
    if first == 0 or len(t) - first < MIN_READINGS:
        return StepResponse(lower_w=math.nan, upper_w=math.nan, steady_w=math.nan, rise_s=math.nan, delay_s=math.nan)
    steady_from = max(off_s - STEADY_S, (on_s + off_s) / 2)
    steady = float(y[t >= steady_from].mean()) if np.any(t >= steady_from) else float(y[-1])
    start = _last_low(y, first, steady)
    lower, upper = float(y[start]), _first_high(y, start, steady)
    low, half, high = (lower + share * (upper - lower) for share in (0.1, 0.5, 0.9))
    above = np.flatnonzero((y > high) & (np.arange(len(y)) > start))
    if upper - lower <= CHANGE_W or not len(above):
        return StepResponse(lower_w=lower, upper_w=upper, steady_w=steady, rise_s=math.nan, delay_s=math.nan)
    end = int(above[0])
    rising = np.arange(len(y)) < end
    last_below = int(np.flatnonzero((y < low) & rising)[-1]) if np.any((y < low) & rising) else start
    last_half = int(np.flatnonzero((y <= half) & rising)[-1]) if np.any((y <= half) & rising) else start
    return StepResponse(
        lower_w=lower, upper_w=upper, steady_w=steady, rise_s=float(t[end] - t[last_below]), delay_s=float(t[last_half] - on_s)
    )  # fmt: skip


def square_wave(
    t_s: FloatArray,
    power_w: FloatArray,
    *,
    on_s: float,
    off_s: float,
    sensor: SensorModel,
    load_ramp_s: float = LOAD_RAMP_S,
    scope: str = "power channel",
) -> SquareWave:
    """TR122's square wave on distinct readings, shape (N,): idle until ``on_s``, load until ``off_s``, idle again.

    Passes on every healthy sensor, whatever its window: the step exceeds 10 W, it rises and begins within what the identified kernel
    allows, the second idle returns below half of the step, and every phase has readings.
    """
    phases = _settled_phases(t_s, power_w, on_s=on_s, off_s=off_s, sensor=sensor)
    a, b, c = (float(phase.mean()) if len(phase) else math.nan for phase in phases)
    step = step_response(t_s, power_w, on_s=on_s, off_s=off_s)
    limit_s = rise_limit_s(sensor, load_ramp_s=load_ramp_s)
    gates = (
        _readings_gate(min(len(phase) for phase in phases), scope),
        _step_gate(b - a, scope),
        _rise_gate(step.rise_s, limit_s, scope),
        _delay_gate(step.delay_s, delay_limit_s(sensor, load_ramp_s=load_ramp_s), scope),
        _return_gate(c - a, (b - a) / 2, scope),
    )
    return SquareWave(idle_before_w=a, load_w=b, idle_after_w=c, step=step, rise_limit_s=limit_s, gates=gates)


def _settled_phases(
    t_s: FloatArray, power_w: FloatArray, *, on_s: float, off_s: float, sensor: SensorModel
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Readings of the first idle, and those of load and second idle that the sensor's tail has left; at least the last quarter of each."""
    settled_s = sensor.window_s + 7 * sensor.lag_s + sensor.delay_s + sensor.update_period_s
    end_s = float(t_s[-1]) if len(t_s) else off_s
    load_from_s = min(on_s + settled_s, off_s - 0.25 * (off_s - on_s))
    idle_from_s = min(off_s + settled_s, end_s - 0.25 * (end_s - off_s))
    return power_w[t_s < on_s], power_w[(t_s >= load_from_s) & (t_s < off_s)], power_w[(t_s > off_s) & (t_s >= idle_from_s)]


def _readings_gate(fewest: int, scope: str) -> Gate:
    return _gate(
        "square wave: readings", scope, fewest, MIN_READINGS, "1", passed=fewest >= MIN_READINGS,
        reason=f"the sparsest of the three phases has {fewest} distinct readings (needed: {MIN_READINGS})",
        remedy="lengthen the phases beyond the sensor's tail, and check for failed reads",
    )  # fmt: skip


def _step_gate(step_w: float, scope: str) -> Gate:
    return _gate(
        "square wave: step", scope, step_w, MIN_STEP_W, "W", passed=step_w > MIN_STEP_W,
        reason=f"load raises the reading by {step_w:.4g} W (needed: more than {MIN_STEP_W:.0f} W)",
        remedy="check that the load runs on this device and that its power channel answers",
    )  # fmt: skip


def _rise_gate(rise_s: float, limit_s: float, scope: str) -> Gate:
    return _gate(
        "square wave: rise", scope, rise_s, limit_s, "s", passed=rise_s <= limit_s,
        reason=f"10–90 % rise {rise_s * 1e3:.4g} ms (limit {limit_s * 1e3:.4g} ms from the identified sensor)",
        remedy="identify the sensor again: its window or lag is not what was identified, or its updates stall",
    )  # fmt: skip


def _delay_gate(delay_s: float, limit_s: float, scope: str) -> Gate:
    return _gate(
        "square wave: delay", scope, delay_s, limit_s, "s", passed=delay_s <= limit_s,
        reason=f"readings pass half of the step {delay_s * 1e3:.4g} ms after it (limit {limit_s * 1e3:.4g} ms from the identified sensor)",
        remedy="check the clocks of load and sampler, and for a stale value after the pause",
    )  # fmt: skip


def _return_gate(left_w: float, limit_w: float, scope: str) -> Gate:
    return _gate(
        "square wave: return", scope, left_w, limit_w, "W", passed=left_w <= limit_w,
        reason=f"after the load the reading stays {left_w:.4g} W above idle (limit {limit_w:.4g} W, half of the step)",
        remedy="check that the load ended, or give the card longer to leave its boost state",
    )  # fmt: skip


def _step_share(t_s: float, window_s: float, lag_s: float) -> float:
    """Step response of box ∗ lag at ``t_s`` ≥ 0."""

    def ramp(t: float) -> float:
        return t - lag_s * (1 - math.exp(-t / lag_s)) if t > 0 else 0.0

    return (ramp(t_s) - ramp(t_s - window_s)) / window_s


def _last_low(y: FloatArray, first: int, steady_w: float) -> int:
    """Index of p0: the last low reading before two consecutive rises of more than 1 W; else the last before the step."""
    rises = np.diff(y) > CHANGE_W
    pairs = np.flatnonzero(rises[:-1] & rises[1:])
    low = y[pairs] < (float(np.median(y[:first])) + steady_w) / 2  # two rises of noise on the plateau are no step
    near = pairs[(pairs >= first - 1) & low]
    return int(near[0]) if len(near) else first - 1


def _first_high(y: FloatArray, start: int, steady_w: float) -> float:
    """p100: first reading after p0, above half of the way, followed by two changes below 1 W; else the steady level."""
    quiet = np.abs(np.diff(y)) < CHANGE_W
    pairs = np.flatnonzero(quiet[:-1] & quiet[1:])
    half = (y[start] + steady_w) / 2
    settled = pairs[(pairs > start) & (y[pairs] > half)]
    return float(y[settled[0]]) if len(settled) else steady_w


def _gate(name: str, scope: str, measured: float, limit: float, unit: str, *, passed: bool, reason: str, remedy: str) -> Gate:
    value = float(measured) if math.isfinite(measured) else None
    return Gate(
        name=name, scope=scope, measured=value, limit=limit, unit=unit, passed=passed, reason=reason, remedy="" if passed else remedy
    )  # fmt: skip
