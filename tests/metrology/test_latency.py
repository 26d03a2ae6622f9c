"""Latency quantiles with intervals that assume no distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.metrology.latency import latency_summary, quantile_interval


@pytest.mark.parametrize(("probability", "n"), [(0.5, 15), (0.5, 100), (0.95, 200), (0.99, 1000)])
def test_intervals_cover_for_a_heavy_tail(probability, n):
    """At least 93.5 % of 1000 log-normal samples: the promise is 95 % for any distribution."""
    rng = np.random.default_rng(0)
    truth = math.exp(1.5 * {0.5: 0.0, 0.95: 1.6448536, 0.99: 2.3263479}[probability])
    found = [quantile_interval(rng.lognormal(0, 1.5, n), probability) for _ in range(1000)]
    assert sum(q.low <= truth <= q.high for q in found) >= 935


@pytest.mark.parametrize(("n", "bounded"), [(5, False), (6, True)])
def test_a_median_needs_six_values(n, bounded):
    """2 · 0.5^6 = 3.1 % < 5 % < 2 · 0.5^5 = 6.2 %: five values bound nothing."""
    interval = quantile_interval(np.arange(n, dtype=float), 0.5)
    assert (math.isfinite(interval.low) and math.isfinite(interval.high)) is bounded


@pytest.mark.parametrize(("n", "bounded"), [(367, False), (369, True)])
def test_a_p99_needs_hundreds_of_values_for_an_upper_bound(n, bounded):
    """0.99^n ≤ 2.5 % from n = 368 on (two-sided): below that the upper bound is infinite, and said so."""
    interval = quantile_interval(np.arange(n, dtype=float), 0.99)
    assert math.isfinite(interval.high) is bounded


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=80), st.sampled_from([0.5, 0.95, 0.99]))
def test_the_interval_holds_the_value(values, probability):
    """Bounds are ordered around the sample quantile, and are values of the sample or infinite."""
    interval = quantile_interval(np.array(values), probability)
    assert interval.low <= interval.value <= interval.high
    assert all(math.isinf(bound) or bound in values for bound in (interval.low, interval.high))


@pytest.mark.parametrize(("values", "probability"), [([], 0.5), ([1.0, math.nan], 0.5), ([1.0], 0.0), ([1.0], 1.0)])
def test_impossible_quantiles_are_errors(values, probability):
    """No values, values that are not finite, or a probability that is no quantile."""
    with pytest.raises(ValueError, match=r"quantile|probability"):
        quantile_interval(np.array(values), probability)


def test_overhead_stands_beside_the_latency_and_is_not_subtracted():
    """1 ms calls with 20 µs of harness: the median is 1.02 ms, and the overhead stands beside it."""
    rng = np.random.default_rng(0)
    summary = latency_summary(1.02e-3 + rng.exponential(1e-6, 500), 20e-6 + rng.exponential(1e-7, 500))
    assert summary.median_s.value == pytest.approx(1.02e-3, rel=0.002)
    assert summary.overhead_s.value == pytest.approx(20e-6, rel=0.02)
    assert summary.median_s.value <= summary.p95_s.value <= summary.p99_s.value
    assert latency_summary(np.array([1.0, 2.0])).overhead_s is None
