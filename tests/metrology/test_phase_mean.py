"""Mean over the phases of a period from values at scattered phases, and the scatter of successive batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.metrology.repetition import GOLDEN, phase_mean, scatter_of_mean
from pytest_physics.metrology.uncertainty import coverage_factor


def golden(count, start=0.0):
    """Phases as batches are started at."""
    return (start + np.arange(count) * GOLDEN) % 1.0


def seen(phases, *, width=0.25):
    """What a sensor that looks a quarter of the time makes of one event shorter than its window: 4 where it looks, 0 elsewhere."""
    return np.where((phases % 1.0) < width, 1 / width, 0.0)


def smooth(phases):
    """Mean 1 over a period."""
    return 1 + 0.5 * np.sin(2 * np.pi * phases) + 0.2 * np.cos(6 * np.pi * phases)


def test_a_smooth_function_is_averaged_to_its_mean():
    """Golden phases, 40 of them: the trapezoid rule round the circle is right to a thousandth, a plain mean is not better."""
    phases = golden(40)
    assert phase_mean(smooth(phases), phases).mean == pytest.approx(1.0, abs=2e-3)


def test_uneven_phases_do_no_harm():
    """Phases crowded into one half, which pull a plain mean away by a quarter."""
    rng = np.random.default_rng(1)
    phases = np.concatenate([rng.uniform(0, 0.5, 90), rng.uniform(0.5, 1.0, 30)])
    values = smooth(phases)
    assert abs(values.mean() - 1) > 0.1
    assert phase_mean(values, phases).mean == pytest.approx(1.0, abs=0.01)


def test_jumps_are_inside_the_interval():
    """A box with two jumps, 300 random origins: the interval holds the mean in 95 % and more."""
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(300):
        phases = golden(40, rng.uniform())
        found = phase_mean(seen(phases + rng.uniform()), phases)
        inside += abs(found.mean - 1) <= coverage_factor(found.dof) * found.u
    assert inside / 300 >= 0.95


@pytest.mark.parametrize("n", [32, 40, 80])
def test_interval_covers_with_noise(n):
    """Noise on a smooth function, 2,000 sets: 93 to 97 % of the intervals hold the mean."""
    rng = np.random.default_rng(n)
    inside = 0
    for _ in range(2000):
        phases = golden(n, rng.uniform())
        found = phase_mean(1 + 0.01 * np.sin(2 * np.pi * phases) + 0.1 * rng.standard_normal(n), phases)
        inside += abs(found.mean - 1) <= coverage_factor(found.dof) * found.u
    assert 0.93 <= inside / 2000 <= 0.97


@given(shift=st.floats(-5, 5), scale=st.floats(0.1, 100), seed=st.integers(0, 99))
def test_origin_and_order_do_not_matter(shift, scale, seed):
    """The circle has no begin; the mean scales with the values."""
    rng = np.random.default_rng(seed)
    phases = rng.uniform(0, 1, 20)
    values = rng.standard_normal(20) + 5
    here, there = phase_mean(values, phases), phase_mean(scale * values, phases + shift)
    assert there.mean == pytest.approx(scale * here.mean, rel=1e-6)
    assert there.u == pytest.approx(scale * here.u, rel=1e-4)


def test_a_straight_drift_is_no_error():
    """A card that warms up: the mean stays, and the interval does not grow."""
    phases = golden(40)
    drift = 0.2 * np.linspace(-1, 1, 40)
    drifting, steady = phase_mean(smooth(phases) + drift, phases), phase_mean(smooth(phases), phases)
    assert drifting.mean == pytest.approx(steady.mean, abs=0.005)  # a fortieth of the drift: weights are not quite equal
    assert drifting.u == pytest.approx(steady.u, rel=1e-6)


@pytest.mark.parametrize(("n", "known"), [(3, False), (4, True)])
def test_fewer_than_four_phases_are_no_circle(n, known):
    """Boundary pair."""
    assert math.isfinite(phase_mean(np.ones(n), golden(n)).mean) == known


def test_a_value_that_is_missing_leaves_nothing():
    """A batch without samples is not left out in silence."""
    values = np.ones(40)
    values[3] = np.nan
    assert math.isnan(phase_mean(values, golden(40)).mean)


def test_successive_differences_forget_slow_changes():
    """Independent values under a wave 20 times as large: the scatter is that of the values; without the wave both agree."""
    rng = np.random.default_rng(4)
    noise = rng.standard_normal(400)
    u, dof = scatter_of_mean(noise + 20 * np.sin(np.linspace(0, np.pi, 400)))
    assert u == pytest.approx(1 / math.sqrt(400), rel=0.1)
    assert dof == pytest.approx(266)


def test_scatter_covers():
    """Means of 8 independent values, 4,000 sets: 93 to 97 %."""
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(4000):
        values = rng.standard_normal(8)
        u, dof = scatter_of_mean(values)
        inside += abs(values.mean()) <= coverage_factor(dof) * u
    assert 0.93 <= inside / 4000 <= 0.97
