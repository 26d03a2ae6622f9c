"""Spread between machines, and which of them does not belong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_physics.metrology.between_hosts import FEWEST_HOSTS, between_hosts, host_deviations

finite = st.floats(-1e3, 1e3)


def test_paule_and_mandels_equation_holds():
    """Its defining equation: with τ² the weighted sum of squares is k − 1; mean and uncertainty are those of the same weights."""
    values, u = [29.39, 29.15, 28.9, 30.4, 31.1, 29.8], [0.3, 0.2, 0.4, 0.35, 0.5, 0.25]
    found = between_hosts(values, u)
    weights = 1 / (np.square(u) + found.tau**2)
    mean = np.sum(weights * values) / np.sum(weights)
    assert np.sum(weights * (np.asarray(values) - mean) ** 2) == pytest.approx(len(values) - 1, rel=1e-9)
    assert found.mean == pytest.approx(mean)
    assert found.u_mean == pytest.approx(1 / math.sqrt(np.sum(weights)))


def test_without_errors_of_their_own_it_is_the_mean_and_the_standard_deviation():
    """With u = 0: the textbook's mean, s and s/√k."""
    values = [1.0, 2.0, 4.0, 7.0]
    found = between_hosts(values, [0.0] * 4)
    assert (found.mean, found.tau) == pytest.approx((np.mean(values), np.std(values, ddof=1)), rel=1e-6)
    assert found.u_mean == pytest.approx(np.std(values, ddof=1) / 2, rel=1e-6)


def test_scatter_that_errors_explain_leaves_no_spread():
    """Below k − 1 the weighted sum of squares says nothing of τ."""
    assert between_hosts([1.0, 1.1, 0.9], [1.0, 1.0, 1.0]).tau == 0.0


@given(st.lists(st.tuples(finite, st.floats(1e-3, 10)), min_size=2, max_size=12), st.floats(0.1, 10), finite)
@settings(max_examples=60, deadline=None)
def test_units_and_origins_do_not_matter(pairs, factor, shift):
    """Mean and spread move with the scale; the spread does not move with the origin."""
    y, u = np.array(pairs).T
    one, other = between_hosts(y, u), between_hosts(factor * y + shift, factor * u)
    assert other.tau == pytest.approx(factor * one.tau, rel=1e-3, abs=1e-5 * factor * (1 + np.ptp(y)))
    assert y.min() - 1e-9 <= one.mean <= y.max() + 1e-9


@pytest.mark.parametrize(("offset", "found"), [(0.0, []), (40.0, [2])])
def test_a_planted_outlier_is_found_and_clean_hosts_are_not(offset, found):
    """Eight hosts of spread 1: one that is 40 off is named, alone."""
    y = np.random.default_rng(1).normal(100, 1, 8)
    y[2] += offset
    assert [i for i, host in enumerate(host_deviations(y, np.full(8, 0.3))) if host.outlier] == found


@pytest.mark.parametrize("tau_over_u", [0.0, 1.0, 10.0])
def test_false_alarms_stay_below_their_share(tau_over_u):
    """At most 5 % of clean fleets have an outlier (200 seeded fleets of six; the full study is in docs/fleet-study.md)."""
    rng = np.random.default_rng(7)
    fleets, alarms = 200, 0
    for _ in range(fleets):
        y = rng.normal(0, math.hypot(1.0, tau_over_u), 6)
        alarms += any(host.outlier for host in host_deviations(y, np.ones(6)))
    assert alarms / fleets <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / fleets)


@pytest.mark.parametrize(
    ("values", "u", "message"),
    [([1.0], [0.1], "length >= 2"), ([1.0, 2.0], [0.1], "shapes"), ([1.0, math.nan], [1, 1], "finite"), ([1.0, 2.0], [1, -1], ">= 0")],
)
def test_what_is_no_series_is_refused(values, u, message):
    """With what was wrong."""
    with pytest.raises(ValueError, match=message):
        between_hosts(values, u)


def test_three_hosts_cannot_judge_one_another():
    """The limit is named."""
    with pytest.raises(ValueError, match=f"at least {FEWEST_HOSTS} hosts"):
        host_deviations([1.0, 2.0, 3.0], [0.1] * 3)


def test_exact_numbers_that_agree_and_one_that_does_not():
    """Contexts in whole tokens have no uncertainty: equal ones agree, another one is infinitely far."""
    clean = host_deviations([5.0] * 5, [0.0] * 5)
    assert not any(host.outlier for host in clean)
    off = host_deviations([5.0] * 5 + [6.0], [0.0] * 6)
    assert [host.outlier for host in off] == [False] * 5 + [True]
