"""Which polled samples are new sensor updates, and when the sensor changed its value."""

from __future__ import annotations

import numpy as np
import pytest
from exact_sensor import Power, polled
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.updates import change_instants, distinct_updates

MS = 1_000_000


def grid(count, period_ms):
    return (np.arange(count) * period_ms * MS).astype(np.int64)


def test_constant_power_still_updates_once_per_period():
    """Equal consecutive readings must not make updates vanish: 5 s at T = 100 ms are 50 updates, within one."""
    index = distinct_updates(grid(501, 10), np.full(501, 250.0), 0.1)
    assert 48 <= len(index) <= 51


def test_constant_power_polled_as_fast_as_it_updates_counts_every_poll():
    """Polls that jitter by 10 % around the update period are each a new reading."""
    rng = np.random.default_rng(1)
    t = grid(200, 100) + rng.integers(-10 * MS, 10 * MS, 200)
    assert len(distinct_updates(t, np.full(200, 80.0), 0.1)) >= 195


def test_polls_slower_than_the_sensor_are_all_new():
    """A reading 300 ms later from a 100 ms sensor is a new one although its value is equal."""
    assert len(distinct_updates(grid(20, 300), np.full(20, 80.0), 0.1)) == 20


@pytest.mark.parametrize("poll_ms", [2, 10, 25])
def test_fast_polls_do_not_multiply_updates(poll_ms):
    """A value that is read many times is one update, also where the stated period is 1 % short."""
    t = grid(20_000 // poll_ms, poll_ms)
    tick = (t / (101.148 * MS)).astype(np.int64)
    values = np.random.default_rng(2).normal(100, 5, tick[-1] + 1)[tick]
    assert len(distinct_updates(t, values, 0.1)) == tick[-1] + 1


def test_failed_reads_are_never_updates():
    """NaN and infinite readings are excluded, and equal values around them are one reading."""
    t = grid(6, 10)
    values = np.array([np.nan, 5.0, np.nan, 5.0, np.inf, 6.0])
    assert distinct_updates(t, values, 0.1).tolist() == [1, 5]


def test_nothing_valid_is_no_update():
    """An empty or all-failed series has no update."""
    assert len(distinct_updates(grid(3, 10), np.full(3, np.nan), 0.1)) == 0
    assert len(distinct_updates(np.zeros(0, np.int64), np.zeros(0), 0.1)) == 0


@given(
    st.lists(st.sampled_from([1.0, 2.0, np.nan]), min_size=1, max_size=80),
    st.lists(st.integers(1, 250), min_size=80, max_size=80),
)
def test_updates_are_ordered_valid_and_contain_every_change(values, steps):
    """Indexes ascend, are valid samples, contain every change of value, and equal readings count at most once per period."""
    y = np.array(values)
    t = np.cumsum(np.array(steps[: len(y)])).astype(np.int64) * MS
    index = distinct_updates(t, y, 0.1)
    assert np.all(np.diff(index) > 0)
    assert np.all(np.isfinite(y[index]))
    valid = np.flatnonzero(np.isfinite(y))
    changes = valid[1:][y[valid[1:]] != y[valid[:-1]]]
    assert set(changes) <= set(index)
    if len(valid):
        assert len(index) <= len(changes) + 1 + (t[valid[-1]] - t[valid[0]]) / (0.1e9) + 0.25


def test_changes_are_put_on_the_comb():
    """Update instants are found to a fraction of the poll interval, although each is only seen between two polls."""
    rng = np.random.default_rng(3)
    ticks = 0.0123 + np.arange(400) * 0.101148
    polls = np.arange(4200) * 0.01 + rng.uniform(-0.001, 0.001, 4200)
    after = np.searchsorted(polls, ticks)
    kept = (after > 0) & (after < len(polls))
    found = change_instants(polls[after[kept] - 1], polls[after[kept]], 0.1)
    error = found - ticks[kept]
    assert np.std(error) < 0.0007
    assert np.std((polls[after[kept] - 1] + polls[after[kept]]) / 2 - ticks[kept]) > 0.0025


def test_a_sensor_without_a_comb_loses_nothing():
    """Irregular changes stay between the polls that saw them."""
    rng = np.random.default_rng(4)
    before = np.cumsum(rng.exponential(0.07, 500) + 0.011)
    after = before + 0.01
    found = change_instants(before, after, 0.1)
    assert np.all((found >= before) & (found <= after))


def test_missed_updates_are_shared_between_neighbours():
    """Across several missed updates the old value holds for half of the unknown stretch (trapezoid on updates)."""
    ticks = np.arange(1, 60) * 0.1
    before, after = ticks - 0.004, ticks + 0.006
    keep = np.r_[0:30, 33:59]  # updates 31 to 33 were not seen
    before, after = before[keep], after[keep]
    before[30] = 3.096
    found = change_instants(before, after, 0.1)
    assert found[30] == pytest.approx((3.1 + 3.4) / 2, abs=0.056)


def test_equal_readings_of_a_real_comb_do_not_disturb_it():
    """Half of the updates repeat the value before (coarse resolution): changes still fall on ticks."""
    sensor = SensorModel(update_period_s=0.1, window_s=0.1, resolution_w=1.0)
    t, y = polled(Power(np.array([0.0, 1e4]), np.array([100.0, 100.0])), sensor, np.random.default_rng(5), until_s=60, noise_w=0.4)
    change = np.flatnonzero(y[1:] != y[:-1])
    found = change_instants(t[change] * 1e-9, t[change + 1] * 1e-9, 0.1)
    phase = np.angle(np.exp(2j * np.pi * found / 0.1)) * 0.1 / (2 * np.pi)
    centred = np.angle(np.exp(1j * (phase - phase[len(phase) // 2]) * 2 * np.pi / 0.1)) * 0.1 / (2 * np.pi)
    assert np.percentile(np.abs(centred), 95) < 0.003
