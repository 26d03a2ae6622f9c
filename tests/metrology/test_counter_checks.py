"""What an energy counter counts: tick, source, dead time, agreement with the readings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from exact_sensor import Power, counted
from grid_sensor import polled

from pytest_physics.metrology.counter_checks import (
    DeadTime,
    consistency_gate,
    counter_tick,
    dead_time_test,
    feed_test,
    mismatch_by_duration,
)
from pytest_physics.metrology.refusal import RefusedError

STEADY = Power(np.array([-1000.0, 1e6]), np.array([80.0, 80.0]))


def test_tick_and_increment():
    """80 W counted every 101.3 ms in steps of 100 mJ: tick to 0.2 %, increment 8.1 J, and the step."""
    rng = np.random.default_rng(0)
    t, energy = counted(STEADY, rng, until_s=30.0, tick_s=0.1013, step_j=0.1)
    found = counter_tick(t, t, np.round(energy, 3))
    assert found.tick.period_s == pytest.approx(0.1013, rel=0.002)
    assert found.increment_j == pytest.approx(80 * 0.1013, abs=0.1)
    assert found.step_j == pytest.approx(0.1)


def test_a_counter_that_does_not_advance_is_refused():
    """A constant counter has no tick."""
    t = (np.arange(500) * 10_000_000).astype(np.int64)
    with pytest.raises(RefusedError, match="changed 0 times"):
        counter_tick(t, t, np.full(500, 1234.5))


def readings_and_increments(*, summed, seed=0, n=200):
    rng = np.random.default_rng(seed)
    true = np.where(rng.random(n) < 0.5, 80.0, 250.0)
    reading = true + rng.normal(0, 1.0, n)
    increment = (reading if summed else true) * 0.1
    return np.floor(increment / 0.001) * 0.001, reading


def test_a_counter_that_sums_the_readings_is_recognised():
    """Increments are reading × tick to the millijoule."""
    found = feed_test(*readings_and_increments(summed=True), tick_s=0.1, step_j=0.001)
    assert found.sums_readings
    assert found.slope == pytest.approx(1.0, abs=1e-4)


def test_a_counter_with_its_own_source_is_recognised():
    """The readings' noise of 1 W is 100 mJ per tick that the counter does not have."""
    found = feed_test(*readings_and_increments(summed=False), tick_s=0.1, step_j=0.001)
    assert not found.sums_readings
    assert found.residual_j == pytest.approx(0.1, rel=0.2)
    assert abs(found.slope - 1) < 4 * found.u_slope + 0.001


def test_the_feed_test_needs_varying_power():
    """Constant readings, or few ticks, cannot tell."""
    with pytest.raises(ValueError, match="varying power"):
        feed_test(np.ones(20), np.full(20, 10.0), tick_s=0.1, step_j=0.001)
    with pytest.raises(ValueError, match="8 ticks"):
        feed_test(np.ones(7), np.arange(7.0), tick_s=0.1, step_j=0.001)


@pytest.mark.parametrize(("follows", "verdict"), [(1.0, DeadTime.INHERITED), (0.0, DeadTime.INTEGRATES), (0.5, DeadTime.UNDECIDED)])
def test_dead_time(follows, verdict):
    """Readings swing 100 W with the phase; the counter follows fully, not at all, or in between."""
    phase = np.cos(np.arange(8) * np.pi / 4)
    noise = np.random.default_rng(0).normal(0, 0.3, 8)
    found = dead_time_test(150 + 50 * phase, 150 + 50 * follows * phase + noise, u_counter_w=0.3)
    assert found.verdict is verdict
    assert found.slope == pytest.approx(follows, abs=0.02)


def test_a_sensor_without_dead_time_decides_nothing():
    """Readings that do not depend on the phase leave the question open; seven phases are an error."""
    flat = dead_time_test(np.full(8, 150.0), np.full(8, 150.0), u_counter_w=0.3)
    assert flat.verdict is DeadTime.UNDECIDED
    assert math.isinf(flat.u_slope)
    with pytest.raises(ValueError, match="start phases"):
        dead_time_test(np.arange(7.0), np.arange(7.0), u_counter_w=0.3)


def test_mismatch_by_window_length():
    """2 % too much at all lengths, with tick errors that shrink: the intervals hold and narrow; a failed window is left out."""
    rng = np.random.default_rng(0)
    durations = np.repeat([0.1, 1.0, 10.0, 30.0], 12)
    integral = 100 * durations
    counter = 1.02 * integral + rng.normal(0, 4.0, len(durations))
    counter[0] = np.nan
    points = mismatch_by_duration(durations, counter, integral)
    assert [p.duration_s for p in points] == [0.1, 1.0, 10.0, 30.0]
    assert points[0].n == 11
    assert all(p.low <= 0.02 <= p.high for p in points)
    widths = [p.high - p.low for p in points]
    assert widths == sorted(widths, reverse=True)
    assert points[-1].relative == pytest.approx(0.02, abs=0.003)


def test_a_single_window_has_no_interval():
    """One window bounds nothing."""
    (point,) = mismatch_by_duration(np.array([1.0]), np.array([110.0]), np.array([100.0]))
    assert point.relative == pytest.approx(0.1)
    assert math.isinf(point.low)
    assert math.isinf(point.high)


def test_a_counter_that_disagrees_is_refused():
    """187 J against 327 J over 5 s of idle were reported of one machine; here over 30 s."""
    gate = consistency_gate(6 * 187.0, 6 * 327.0, u_j=20.0, duration_s=30.0)
    assert gate.refuses
    assert "-42.81%" in gate.reason
    assert "do not use this counter" in gate.remedy


@pytest.mark.parametrize(("counter_j", "passes"), [(1029.9, True), (1030.1, False), (969.9, False)])
def test_consistency_boundary(counter_j, passes):
    """Three standard uncertainties, on both sides."""
    assert consistency_gate(counter_j, 1000.0, u_j=10.0, duration_s=30.0).passed is passes


def test_short_windows_are_not_judged():
    """Below 10 s ticks decide, not the counter."""
    with pytest.raises(ValueError, match="at least 10"):
        consistency_gate(1.0, 1.0, u_j=1.0, duration_s=9.9)


def test_a_polled_counter_of_a_toggling_load_keeps_its_tick():
    """The tick does not depend on how much each increment is."""
    rng = np.random.default_rng(1)
    ticks = 0.04 + np.arange(400) * 0.0201
    t, energy = polled(ticks, np.cumsum(rng.choice([1.6, 5.0], 400)), rng, until_s=7.5, poll_s=0.004, spread_s=0.001)
    assert counter_tick(t, t, energy).tick.period_s == pytest.approx(0.0201, rel=0.002)
