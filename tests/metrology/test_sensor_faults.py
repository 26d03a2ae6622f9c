"""Dead time, staleness, caches, resolution and polling: each check fires on its fault and is silent on a clean sensor."""

from __future__ import annotations

import math

import numpy as np
import pytest
from grid_sensor import polled
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.sensor_faults import (
    counter_mean_power,
    first_after_pause_gate,
    latency_modes_gate,
    phase_lock_gate,
    polling_gate,
    quantisation,
    staleness_gate,
)

MS = 1_000_000


@pytest.mark.parametrize(("share", "predicted", "passes"), [(1.0, 1.0, True), (0.0, 0.0, True), (1.0, 0.0, False), (0.3, 1.0, False)])
def test_phase_lock(share, predicted, passes):
    """A sensor with dead time follows the phase as its kernel predicts; another window than fitted does not."""
    means = 150 + 100 * share * (0.5 + 0.5 * np.cos(np.arange(8) * np.pi / 4)) + np.random.default_rng(0).normal(0, 0.3, 8)
    assert phase_lock_gate(means, swing_w=100.0, predicted_share=predicted, u_mean_w=0.3).passed is passes


def test_phase_lock_needs_eight_phases():
    """Seven phases, or no swing, are an error of the caller."""
    with pytest.raises(ValueError, match="8 start phases"):
        phase_lock_gate(np.zeros(7), swing_w=100.0, predicted_share=1.0, u_mean_w=0.1)


def toggling(*, seconds=20.0, stall=(0.0, 0.0), seed=0):
    """Polls of a 100 ms sensor under a toggling load, whose value stands during ``stall``."""
    rng = np.random.default_rng(seed)
    ticks = rng.uniform(0, 0.1) + np.arange(int(seconds * 10) + 5) * 0.1
    y = np.where(rng.random(len(ticks)) < 0.5, 100.0, 250.0) + rng.normal(0, 0.5, len(ticks))
    alive = (ticks < stall[0]) | (ticks >= stall[1])
    return polled(ticks[alive], y[alive], rng, until_s=seconds)


def test_a_living_sensor_is_not_stale():
    """Values change every update."""
    gate = staleness_gate(*toggling(), update_period_s=0.1)
    assert gate.passed
    assert gate.measured < 0.2


@pytest.mark.parametrize(("stood_s", "passes"), [(0.38, True), (0.8, False)])
def test_a_value_that_stands_for_more_than_five_updates_is_stale(stood_s, passes):
    """The boundary is 0.5 s for T = 100 ms; a stall adds its own update to the stretch."""
    gate = staleness_gate(*toggling(stall=(8.0, 8.0 + stood_s)), update_period_s=0.1)
    assert gate.passed is passes
    assert gate.remedy == "" or not passes


def test_a_gap_of_the_polls_is_not_the_sensors_fault():
    """No polls for 3 s: one value stands across the gap, and the sensor is not blamed."""
    t, y = toggling()
    own = (t < 5e9) | (t > 8e9)
    y[((t > 4.95e9) & (t < 5e9)) | ((t > 8e9) & (t < 8.05e9))] = 123.0
    assert staleness_gate(t[own], y[own], update_period_s=0.1).passed


def test_no_read_at_all_is_stale():
    """Failed reads only: a failed gate without a number."""
    gate = staleness_gate(np.arange(10) * MS, np.full(10, np.nan), update_period_s=0.1)
    assert gate.refuses
    assert gate.measured is None


def test_cached_calls_have_two_latencies():
    """A tenth of the calls reach the device (2 ms), the others a cache (50 µs)."""
    rng = np.random.default_rng(0)
    latency = np.where(rng.random(500) < 0.1, 2e-3, 5e-5) * rng.lognormal(0, 0.1, 500)
    gate = latency_modes_gate(latency)
    assert not gate.passed
    assert not gate.refuses
    assert gate.measured == pytest.approx(40, rel=0.2)


@pytest.mark.parametrize("spread", [0.05, 0.3, 0.6])
def test_calls_with_one_latency_pass(spread):
    """Skewed noise of the machine is one mode, however wide, in each of 20 seeds."""
    for seed in range(20):
        assert latency_modes_gate(np.random.default_rng(seed).lognormal(-8, spread, 300)).passed


def test_latencies_must_be_latencies():
    """Too few of them, or one that is not positive."""
    with pytest.raises(ValueError, match="call latencies"):
        latency_modes_gate(np.full(10, 1e-3))
    with pytest.raises(ValueError, match="call latencies"):
        latency_modes_gate(np.append(np.full(60, 1e-3), 0.0))


def paused(*, stale, pauses=6, seed=0):
    """Ten polls, a pause of 2 s, ten polls …; a stale driver answers the first poll after a pause from its cache."""
    rng = np.random.default_rng(seed)
    t, y = [], []
    for pause in range(pauses + 1):
        for poll in range(40):
            t.append(pause * 2.5e9 + poll * 10e6)
            fresh = rng.normal(100, 1) if poll % 10 == 0 else y[-1]
            y.append(y[-1] if stale and poll < 5 and pause and y else fresh)
    return np.array(t, dtype=np.int64), np.array(y)


def test_a_cached_first_read_after_a_pause_is_reported():
    """All of six first reads repeat the value from before the pause."""
    gate = first_after_pause_gate(*paused(stale=True), update_period_s=0.1)
    assert not gate.passed
    assert gate.measured == 1.0
    assert "discard" in gate.remedy


def test_fresh_first_reads_pass():
    """No first read repeats; and with one pause nothing can be said."""
    assert first_after_pause_gate(*paused(stale=False), update_period_s=0.1).measured == 0
    few = first_after_pause_gate(*paused(stale=True, pauses=1), update_period_s=0.1)
    assert few.passed
    assert "too few" in few.reason


def test_repeats_of_a_coarse_idle_sensor_are_chance():
    """A sensor with three levels at idle repeats a third of its values without any cache."""
    t, y = paused(stale=False, pauses=8, seed=1)
    assert first_after_pause_gate(t, np.round((y - 100) / 3) * 3, update_period_s=0.1).passed


@pytest.mark.parametrize("step_w", [0.01, 0.1, 0.39, 0.49, 1.0])
@pytest.mark.parametrize("noise_w", [0.0, 0.5])
def test_the_step_of_the_readings_is_found(step_w, noise_w):
    """Readings rounded to the converter's step, then to the milliwatt in which the driver hands them out."""
    rng = np.random.default_rng(0)
    true = np.repeat(rng.uniform(60, 90, 30), 20) + noise_w * rng.standard_normal(600)
    readings = np.round(np.round(true / step_w) * step_w / 0.001) * 0.001
    found = quantisation(readings)
    assert found.step_w == pytest.approx(step_w, rel=0.02, abs=0.0005)
    assert found.dithered is (noise_w >= step_w / 2)
    assert found.u_w == pytest.approx(found.step_w / math.sqrt(12))


@given(seed=st.integers(0, 1000), offset_w=st.floats(0, 5))
@settings(max_examples=20, deadline=None)
def test_unrounded_readings_have_the_reported_step(seed, offset_w):
    """White readings with no step but the milliwatt: nothing coarser is invented."""
    readings = np.round(offset_w + np.random.default_rng(seed).normal(100, 2, 400), 3)
    assert quantisation(readings).step_w <= 0.003


@pytest.mark.parametrize("count", [199, 200])
def test_the_step_needs_two_hundred_readings(count):
    """The boundary of the refusal."""
    readings = np.round(np.random.default_rng(0).normal(100, 5, count), 1)
    if count < 200:
        with pytest.raises(RefusedError, match="199 distinct readings"):
            quantisation(readings)
    else:
        assert quantisation(readings).step_w == pytest.approx(0.1)


def test_power_between_two_reads_of_a_counter():
    """20 s at 60 W with a tick of 100 ms: u = P·T_E/(√6 t) = 0.12 W, and it holds in simulation."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        phase = rng.uniform(0, 0.1)
        reads = [math.floor((t - phase) / 0.1) * 0.1 * 60.0 for t in (5.0, 25.03)]
        power, u = counter_mean_power(*reads, 20.03, tick_s=0.1)
        inside += abs(power - 60) <= 2 * u
    assert u == pytest.approx(60 * 0.1 / math.sqrt(6) / 20.03, rel=0.01)
    assert inside >= 285


def test_reads_within_a_tick_are_an_error():
    """A counter says nothing between ticks."""
    with pytest.raises(ValueError, match="further apart"):
        counter_mean_power(0.0, 1.0, 0.1, tick_s=0.1)


@pytest.mark.parametrize(("polled_w", "passes"), [(60.3, True), (60.9, False), (59.1, False)])
def test_polling_must_not_change_idle(polled_w, passes):
    """The limit is 2u of the difference, on both sides."""
    gate = polling_gate(60.0, polled_w, u_quiet_w=0.2, u_polled_w=0.2, poll_rate_hz=100.0)
    assert gate.passed is passes
    assert "100 Hz" in gate.reason
