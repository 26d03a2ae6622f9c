"""Rules of the reduction before drawing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pytest_physics.report.envelope import drawn_line, envelope, gaps

series = arrays(np.float64, st.integers(0, 400), elements=st.floats(-1e6, 1e6))


@given(values=series, buckets=st.integers(1, 30))
def test_an_envelope_keeps_extremes_and_ends(values, buckets):
    """Ascending indices of real samples, at most 2·buckets + 2 of them, with the minimum, the maximum, the first and the last."""
    chosen = envelope(values, buckets)
    assert len(chosen) <= 2 * buckets + 2
    assert np.all(np.diff(chosen) > 0)
    if len(values):
        assert {0, len(values) - 1} <= set(chosen.tolist())
        assert values[chosen].min() == values.min()
        assert values[chosen].max() == values.max()


def test_a_notch_of_one_sample_survives():
    """Taking every N-th sample would lose it."""
    values = np.full(1_000_000, 250.0)
    notches = [123_457, 500_001, 900_003]
    values[notches] = 80.0
    assert set(notches) <= set(envelope(values, 1000).tolist())


def test_short_series_are_drawn_whole():
    """2·buckets samples are all kept, one more is reduced."""
    rng = np.random.default_rng(1)
    assert len(envelope(rng.normal(size=20), 10)) == 20
    assert len(envelope(rng.normal(size=100), 10)) <= 22


def test_an_envelope_needs_a_bucket():
    """Zero parts are refused."""
    with pytest.raises(ValueError, match="'buckets' must be >= 1"):
        envelope(np.zeros(3), 0)


def test_a_line_is_interrupted_at_a_gap_and_only_there():
    """A step of exactly the threshold is drawn through; a longer one, and a run of NaNs, break the line."""
    t = np.array([0.0, 1.0, 3.0, 5.5, 6.5, 7.5, 8.5, 9.5])
    y = np.array([1.0, 1.0, 1.0, 1.0, np.nan, np.nan, 1.0, 1.0])
    x, drawn = drawn_line(t, y, buckets=100, max_step=2.0)
    assert np.isnan(x).tolist() == np.isnan(drawn).tolist() == [False, False, False, True, False, True, False, False]
    assert gaps(t, y, max_step=2.0).tolist() == [[3.0, 5.5], [5.5, 8.5]]


@given(values=series)
def test_without_gaps_no_line_is_interrupted(values):
    """Evenly spaced, valid samples make one line."""
    x, y = drawn_line(np.arange(len(values), dtype=float), values, buckets=10, max_step=1.5)
    assert not np.isnan(x).any()
    assert not np.isnan(y).any()


def test_nothing_gives_nothing():
    """A series of NaNs has no line and no gap."""
    t, y = np.arange(3.0), np.full(3, np.nan)
    assert len(drawn_line(t, y, buckets=5, max_step=1.0)[0]) == 0
    assert gaps(t, y, max_step=1.0).shape == (0, 2)
