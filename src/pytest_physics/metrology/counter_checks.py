"""What a hardware energy counter really counts: its tick, its step, whether it sums the sensor's readings, and where it agrees with them.

* *Tick and increment*: the comb fit of :mod:`~pytest_physics.metrology.update_period` on the counter's own changes.
* *Feed test*: regress the counter's increments on reading × tick. Residuals within the counter's step mean that it is the summed
  readings, with their dead time; larger ones that it has a source of its own.
* *Dead-time test*: under a load in step with the sensor, at 8 start phases, a counter that inherits dead time follows the phase as the
  readings do (slope 1), one that integrates does not (slope 0).
* *Consistency*: counter against the integral of readings over windows from 0.1 s to 30 s, as mismatch in percent with its interval; a
  window of 10 s or more whose mismatch exceeds 3 u refuses the counter (a machine is known where 187 J stood against 327 J).

No vendor documents the tick, nor whether dead time is inherited. References: power integration issues zeus#181 and kokkos-tools#295;
Hähnel et al., "Measuring energy consumption for short code paths using RAPL" (2012) for ticks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import special

from pytest_physics.metrology.uncertainty import COVERAGE, Gate
from pytest_physics.metrology.update_period import UpdatePeriod, changes_of, fit_update_period
from pytest_physics.metrology.updates import FloatArray, IntArray

MIN_TICKS = 8
LONG_WINDOW_S = 10.0
"""From this length counter and integral must agree."""
AGREEMENT_SIGMAS = 3.0
INHERITS_FROM = 0.75
INTEGRATES_BELOW = 0.25


class DeadTime(StrEnum):
    """Whether a counter shares its sensor's dead time."""

    INHERITED = "inherits the sensor's dead time"
    INTEGRATES = "integrates"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterTick:
    """Tick of a counter."""

    tick: UpdatePeriod
    increment_j: float
    """Median increment."""
    step_j: float
    """Largest step that divides the increments, from their greatest common divisor; the reported step where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedTest:
    """Increments of a counter against reading × tick."""

    slope: float
    """Joules counted per joule read: the counter's relative gain."""
    u_slope: float
    residual_j: float
    """Root mean square of the residuals."""
    sums_readings: bool
    """Whether the residuals stay within the counter's step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadTimeTest:
    """Counter power against reading over the start phases of a load in step with the sensor."""

    slope: float
    """1: the counter follows the phase as the readings do; 0: it does not."""
    u_slope: float
    verdict: DeadTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Counter minus integral over windows of one length."""

    duration_s: float
    n: int
    relative: float
    """Mean of (counter − integral) / integral."""
    low: float
    """95 % interval of the mean; infinite for a single window."""
    high: float


def counter_tick(
    before_ns: IntArray, after_ns: IntArray, energy_j: FloatArray, *, reported_step_j: float = 0.001, scope: str = "energy counter"
) -> CounterTick:
    """Tick of a polled counter, shape (N,), under any steady power; refused as :func:`fit_update_period` refuses."""
    tick = fit_update_period(before_ns, after_ns, energy_j, scope=scope)
    increments = np.diff(changes_of(before_ns, after_ns, energy_j).value)
    whole = np.rint(increments / reported_step_j).astype(np.int64)
    divisor = int(np.gcd.reduce(whole)) if len(whole) else 1
    return CounterTick(tick=tick, increment_j=float(np.median(increments)), step_j=max(1, divisor) * reported_step_j)


def feed_test(increment_j: FloatArray, reading_w: FloatArray, *, tick_s: float, step_j: float) -> FeedTest:
    """Regress increments on the readings in force over each tick, both of shape (K,), under varying power."""
    if len(increment_j) < MIN_TICKS or np.ptp(reading_w) == 0:
        raise ValueError(f"the feed test needs at least {MIN_TICKS} ticks under varying power (got {len(increment_j)}).")
    x = np.asarray(reading_w) * tick_s
    dx, dy = x - x.mean(), increment_j - np.mean(increment_j)
    slope = float(dx @ dy / (dx @ dx))
    residual = dy - slope * dx
    rms = math.sqrt(float(residual @ residual) / (len(x) - 2))
    # rounding of both ends of an increment alone leaves step/√6
    return FeedTest(slope=slope, u_slope=rms / math.sqrt(float(dx @ dx)), residual_j=rms, sums_readings=rms <= step_j)


def dead_time_test(reading_w: FloatArray, counter_w: FloatArray, *, u_counter_w: float) -> DeadTimeTest:
    """Whether the counter's mean power follows the start phase as the readings' does; both per phase, shape (K,), K ≥ 8.

    Undecided where the readings do not depend on the phase (a sensor with full coverage has no dead time), or between the limits.
    """
    if len(reading_w) < MIN_TICKS:
        raise ValueError(f"the dead-time test needs at least {MIN_TICKS} start phases (got {len(reading_w)}).")
    dx = reading_w - np.mean(reading_w)
    power = float(dx @ dx)
    slope = float(dx @ (counter_w - np.mean(counter_w))) / power if power > 0 else math.nan
    u_slope = u_counter_w / math.sqrt(power) if power > 0 else math.inf
    verdict = DeadTime.UNDECIDED
    if slope - 2 * u_slope > INHERITS_FROM:
        verdict = DeadTime.INHERITED
    elif slope + 2 * u_slope < INTEGRATES_BELOW:
        verdict = DeadTime.INTEGRATES
    return DeadTimeTest(slope=slope, u_slope=u_slope, verdict=verdict)


def mismatch_by_duration(duration_s: FloatArray, counter_j: FloatArray, integral_j: FloatArray) -> tuple[Mismatch, ...]:
    """Mean relative mismatch for each window length, with Student's t interval; windows, shape (M,), grouped by equal length."""
    out = []
    for length in np.unique(duration_s):
        own = (duration_s == length) & np.isfinite(counter_j) & np.isfinite(integral_j) & (integral_j > 0)
        relative = counter_j[own] / integral_j[own] - 1
        n = len(relative)
        if not n:
            continue
        mean = float(relative.mean())
        half = float(special.stdtrit(n - 1, 0.5 + COVERAGE / 2) * relative.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
        out.append(Mismatch(duration_s=float(length), n=n, relative=mean, low=mean - half, high=mean + half))
    return tuple(out)


def consistency_gate(counter_j: float, integral_j: float, *, u_j: float, duration_s: float, scope: str = "energy counter") -> Gate:
    """Whether counter and integral of a long window (30 s idle, 30 s load) agree within 3 u.

    ``u_j`` is the standard uncertainty of their difference, the card's common scale left apart, a relative scale between both included.
    """
    if duration_s < LONG_WINDOW_S:
        raise ValueError(f"consistency is judged over at least {LONG_WINDOW_S} s (got {duration_s} s); ticks dominate shorter windows.")
    difference_j, limit_j = counter_j - integral_j, AGREEMENT_SIGMAS * u_j
    passed = abs(difference_j) <= limit_j
    return Gate(
        name="counter agrees with integral", scope=scope, measured=difference_j, limit=limit_j, unit="J", passed=passed,
        reason=f"over {duration_s:.3g} s the counter says {counter_j:.5g} J, the integral of readings {integral_j:.5g} J "
        f"({difference_j / integral_j:+.2%}; difference {difference_j:.4g} J, limit ±{limit_j:.3g} J)",
        remedy="" if passed else "do not use this counter for energies; use the integral, and report card and driver",
    )  # fmt: skip
