"""The stale-sensor gate: fires on a latched reading under load, silent on everything that only looks like one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_physics.metrology.staleness import MAX_REPEATS, MIN_ELSEWHERE, stale_gate

POLL_S, UPDATE_S = 0.02, 0.1
S = 1_000_000_000


def polled(update_w, *, poll_s=POLL_S):
    """Polls of a sensor with these readings, one every 0.1 s: times and powers."""
    t_ns = np.arange(0, round(len(update_w) * UPDATE_S / poll_s)) * round(poll_s * S)
    return t_ns, np.asarray(update_w, float)[np.minimum((t_ns / S / UPDATE_S + 1e-9).astype(int), len(update_w) - 1)]


def noisy(n, level_w=80.0, *, seed=1, lsb_w=0.001):
    """Readings with 0.5 W of noise."""
    return np.rint((level_w + 0.5 * np.random.default_rng(seed).standard_normal(n)) / lsb_w) * lsb_w


def latched(n_latched, *, before=60, during=20, after=20):
    """Idle, a busy window of ``during`` updates at 300 W whose first ``n_latched`` repeat the last idle reading, idle."""
    update_w = np.concatenate([noisy(before), noisy(during, 300, seed=2), noisy(after, seed=3)])
    update_w[before : before + n_latched] = update_w[before - 1]
    t_ns, power_w = polled(update_w)
    window = (round(before * UPDATE_S * S), round((before + during) * UPDATE_S * S))
    busy = np.where((t_ns >= window[0]) & (t_ns <= window[1]), 0.95, 0.0)
    return t_ns, power_w, busy, *window


def judged(*samples):
    return stale_gate(*samples, update_period_s=UPDATE_S, scope="w1")


def test_a_latched_reading_under_load_is_refused():
    """Twenty equal readings under load, where every other one differs from its neighbour, are no readings."""
    gate = judged(*latched(20))
    assert gate.refuses
    assert gate.measured == 21  # the reading of the last idle update stands for the whole window
    assert "W for 21 updates in a row (limit 4; 100% of" in gate.reason
    assert "measure again" in gate.remedy


@pytest.mark.parametrize(("n_latched", "passed"), [(3, True), (4, False)])
def test_the_limit_follows_the_habit(n_latched, passed):
    """A sensor that never repeated itself in 78 updates may do so for four, the reading itself and three repeats; not for five."""
    assert judged(*latched(n_latched)).passed is passed


def test_a_healthy_window_passes():
    """Nothing repeats itself: one update in a row."""
    gate = judged(*latched(0))
    assert gate.passed
    assert gate.measured == 1


def test_a_latch_in_the_middle_of_the_window_is_found():
    """The rest of the window may be healthy."""
    t_ns, power_w, busy, t0, t1 = latched(0, during=40)
    held = (t_ns >= t0 + S) & (t_ns < t0 + 3 * S)
    power_w[held] = power_w[held][0]
    assert judged(t_ns, power_w, busy, t0, t1).refuses


def test_an_idle_window_proves_nothing():
    """Without load constant power is what a sensor may well report."""
    t_ns, power_w, busy, t0, t1 = latched(20)
    gate = judged(t_ns, power_w, np.zeros_like(busy), t0, t1)
    assert gate.passed
    assert "not busy" in gate.reason


def test_a_latch_outside_the_window_is_another_windows_affair():
    """Only what stood during the window counts."""
    t_ns, power_w, busy, t0, _ = latched(20, during=60)
    assert judged(t_ns, power_w, busy, t0 + 30 * S // 10, t0 + 55 * S // 10).passed


def test_a_sensor_that_repeats_itself_anyway_passes():
    """With steps of 25 W nearly every update of an idle card equals the one before, and so may those under load."""
    update_w = np.concatenate([noisy(60, lsb_w=25), noisy(20, 300, lsb_w=25), noisy(20, lsb_w=25)])
    t_ns, power_w = polled(update_w)
    busy = np.where((t_ns >= 6 * S) & (t_ns <= 8 * S), 1.0, 0.0)
    gate = judged(t_ns, power_w, busy, 6 * S, 8 * S)
    assert gate.measured > MAX_REPEATS
    assert gate.passed
    assert "repeats itself anyway" in gate.reason


@pytest.mark.parametrize(("before", "passed"), [(1, True), (MIN_ELSEWHERE + 2, False)])
def test_the_habit_must_be_known(before, passed):
    """With fewer than twenty updates elsewhere nobody knows what this sensor usually does."""
    assert judged(*latched(30, before=before, during=30, after=0)).passed is passed


def test_failed_reads_are_no_repeats():
    """Two seconds without a valid read are a gap, which another gate judges."""
    t_ns, power_w, busy, t0, t1 = latched(0, during=40)
    power_w[(t_ns >= t0 + S) & (t_ns < t0 + 3 * S)] = np.nan
    assert judged(t_ns, power_w, busy, t0, t1).passed


def test_without_a_single_reading_it_says_nothing():
    """A dead sensor is no stale one."""
    t_ns, power_w, busy, t0, t1 = latched(0)
    gate = judged(t_ns, np.full_like(power_w, np.nan), busy, t0, t1)
    assert gate.passed
    assert gate.measured == 0


def test_columns_must_belong_together():
    """Channels of different lengths are not of the same samples."""
    t_ns, power_w, busy, t0, t1 = latched(0)
    with pytest.raises(ValueError, match="same samples"):
        judged(t_ns, power_w[1:], busy, t0, t1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), level_w=st.floats(5, 700), poll_s=st.sampled_from([0.01, 0.02, 0.025, 0.05]))
def test_noise_of_two_steps_never_fires(seed, level_w, poll_s):
    """A working sensor with noise of only two of its steps passes, whatever its level and however densely it is polled."""
    update_w = noisy(120, level_w, seed=seed, lsb_w=0.25)
    t_ns, power_w = polled(update_w, poll_s=poll_s)
    assert judged(t_ns, power_w, np.ones(len(t_ns)), 4 * S, 9 * S).passed
