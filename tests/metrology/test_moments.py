"""A summary bounds what its samples can have been."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_physics.metrology.moments import moment_feasible, share_bounds, variance_share

TR122 = (20.70964675767918, 9.965016251128894, 1.2, 26.424)
"""Mean, standard deviation, minimum and maximum of TR122's published idle baseline, in watts."""


def test_tr122_lies_at_89_percent_of_the_largest_variance():
    """Known answer: Bhatia–Davis."""
    assert variance_share(*TR122) == pytest.approx(0.89, abs=0.005)
    assert moment_feasible(*TR122)


@pytest.mark.parametrize(
    ("interval", "smallest", "largest"),
    [
        ({"below": 5.0}, 0.099, 0.249),
        ({"above": 24.0}, 0.574, None),
        ({"above": 25.0}, 0.435, None),
        ({"above": 15.0, "below": 25.0}, None, 0.359),
        ({"above": 19.7, "below": 21.7}, None, 0.126),
    ],
)
def test_tr122_known_shares(interval, smallest, largest):
    """Known answers of proof P2, to their printed digits."""
    low, high = share_bounds(*TR122, **interval)
    assert smallest is None or low == pytest.approx(smallest, abs=0.0015)
    assert largest is None or high == pytest.approx(largest, abs=0.0015)


def test_cantelli_is_met_where_the_extremes_are_far():
    """Known answer: with no extremes nearby, P(x ≤ μ − kσ) is at most 1/(1 + k²)."""
    _, high = share_bounds(0.0, 1.0, -1000.0, 1000.0, below=-2.0)
    assert high == pytest.approx(1 / 5, abs=1e-6)


def test_a_deviation_just_possible_and_just_impossible():
    """Boundary pair: half the readings at each end is the largest deviation there is."""
    assert moment_feasible(5.0, 5.0, 0.0, 10.0)
    assert not moment_feasible(5.0, 5.001, 0.0, 10.0)


def test_impossible_moments_have_no_shares():
    """Bounds over no distribution would be an invention."""
    with pytest.raises(ValueError, match="no readings have mean"):
        share_bounds(5.0, 6.0, 0.0, 10.0, below=2.0)


def test_an_empty_interval_is_refused():
    """The bounds must be in order."""
    with pytest.raises(ValueError, match="must lie below"):
        share_bounds(*TR122, above=5.0, below=5.0)


@given(st.lists(st.floats(0.0, 100.0), min_size=3, max_size=40), st.floats(0.0, 100.0))
@settings(max_examples=40, deadline=None)
def test_the_bounds_hold_for_any_readings(values, threshold):
    """Whatever the readings were, their share lies within the bounds of their summary."""
    readings = np.round(np.array(values), 2)
    summary = float(readings.mean()), float(readings.std()), float(readings.min()), float(readings.max())
    if summary[1] < 1e-3:
        return
    assert moment_feasible(*summary)
    low, high = share_bounds(*summary, below=threshold)
    assert low - 5e-3 <= np.mean(readings < threshold)
    assert np.mean(readings <= threshold - 1e-9) <= high + 5e-3
