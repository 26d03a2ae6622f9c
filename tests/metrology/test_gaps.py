"""Gaps between valid samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.metrology.gaps import Gaps


@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=60),
    st.floats(-1, 30),
    st.floats(0.001, 30),
)
def test_coverage_and_longest_agree_with_a_direct_count(steps_ms, start_s, length_s):
    """Prefix sums and range maxima give what a loop over all intervals gives."""
    t = np.concatenate([[0], np.cumsum(steps_ms)]).astype(np.int64) * 1_000_000
    gaps = Gaps.of(t, 0, 0.25)
    from_s, to_s = start_s, start_s + length_s
    pairs = [(a / 1e9, b / 1e9) for a, b in itertools.pairwise(t) if b - a > 250_000_000]
    covered = sum(max(0.0, min(b, to_s) - max(a, from_s)) for a, b in pairs)
    longest = max((b - a for a, b in pairs if b > from_s and a < to_s), default=0.0)
    assert gaps.covered_s(np.array([from_s]), np.array([to_s]))[0] == pytest.approx(covered, abs=1e-9)
    assert gaps.longest_in_s(np.array([from_s]), np.array([to_s]))[0] == pytest.approx(longest, abs=1e-12)


def test_the_threshold_itself_is_no_gap():
    """Exactly 0.25 s is allowed, one nanosecond more is a gap."""
    at, above = np.array([0, 250_000_000]), np.array([0, 250_000_001])
    assert len(Gaps.of(at, 0, 0.25).start_s) == 0
    assert len(Gaps.of(above, 0, 0.25).start_s) == 1
