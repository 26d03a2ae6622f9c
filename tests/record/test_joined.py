"""Steps and telemetry on one time base: which steps count, and what stands beside them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.record.joined import MIN_ZONE_STEPS, steady_zone, steps_of


def table(t_s, rate=None):
    """A step table at these times."""
    n = len(t_s)
    rows = np.empty(n, dtype=[("t_ns", "<i8"), ("step", "<i8"), ("loss", "<f8"), ("grad_norm", "<f8"), ("learning_rate", "<f8")])
    rows["t_ns"], rows["step"] = np.round(np.asarray(t_s) * 1e9), np.arange(1, n + 1)
    rows["loss"], rows["grad_norm"] = 1.0, 2.0
    rows["learning_rate"] = np.nan if rate is None else rate
    return rows


def schedule(up, flat, down):
    """A learning rate that rises, stays and falls."""
    return np.concatenate([np.arange(1, up + 1) / (up + 1), np.ones(flat), np.arange(down, 0, -1) / (down + 1)])


def test_the_steady_zone_is_the_plateau_of_the_learning_rate():
    """Warm-up and decay are no part of it."""
    zone = steady_zone(schedule(10, 80, 10))
    assert zone is not None
    np.testing.assert_array_equal(np.flatnonzero(zone)[[0, -1]], [10, 89])


@pytest.mark.parametrize(("flat", "known"), [(MIN_ZONE_STEPS, True), (MIN_ZONE_STEPS - 1, False)])
def test_a_zone_has_at_least_twenty_steps(flat, known):
    """One fewer is none."""
    assert (steady_zone(schedule(5, flat, 5)) is not None) is known


@pytest.mark.parametrize("rate", [np.linspace(1, 0, 200), np.full(200, np.nan)])
def test_a_rate_that_never_stays_has_no_zone(rate):
    """A linear decay, and a rate that nobody recorded: all steps stand in."""
    steps = steps_of(table(np.arange(200.0), rate))
    assert not steps.has_zone
    assert steps.usable.all()


def test_the_first_step_has_no_length_and_is_left_out():
    """A step lasts from the mark before."""
    steps = steps_of(table([1.0, 1.5, 2.5]))
    np.testing.assert_array_equal(steps.step, [2, 3])
    np.testing.assert_allclose(steps.columns["step_time_s"], [0.5, 1.0])


def test_a_step_with_a_pause_is_not_used():
    """Evaluation and saving belong to no step; a step of three medians does not hold one yet."""
    lengths = np.ones(40)
    lengths[[10, 20]] = [3.0, 3.1]
    steps = steps_of(table(np.concatenate([[0.0], np.cumsum(lengths)])))
    np.testing.assert_array_equal(np.flatnonzero(steps.paused), [20])


def test_one_mark_makes_no_step():
    """The message says why."""
    with pytest.raises(ValueError, match="1 step marks make no step"):
        steps_of(table([1.0]))


@given(st.integers(1, 30), st.integers(20, 60), st.integers(1, 30))
def test_the_zone_never_holds_a_step_below_the_top(up, flat, down):
    """Whatever the schedule."""
    rate = schedule(up, flat, down)
    zone = steady_zone(rate)
    assert zone is None or (rate[zone] == 1.0).all()
