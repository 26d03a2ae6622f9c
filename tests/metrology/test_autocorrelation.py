"""The uncertainty of a mean covers what it promises, also where readings depend on each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from pytest_physics.metrology.autocorrelation import autocovariance, series_mean
from pytest_physics.metrology.uncertainty import coverage_factor

REPLICATES = 400


def autoregressive(rng, correlation, n):
    """AR(1) of unit variance, started in its stationary state."""
    noise = rng.normal(size=n + 300) * np.sqrt(1 - correlation**2)
    return lfilter([1.0], [1.0, -correlation], noise)[300:]


def coverage(correlation, n, *, naive=False):
    """Share of replicates whose 95 % interval holds the true mean 0."""
    rng = np.random.default_rng(20240601)
    covered = 0
    for _ in range(REPLICATES):
        result = series_mean(autoregressive(rng, correlation, n))
        u, dof = (result.standard_deviation / np.sqrt(n), n - 1) if naive else (result.u, result.dof)
        covered += abs(result.mean) <= coverage_factor(dof) * u
    return covered / REPLICATES


@pytest.mark.parametrize(
    ("correlation", "n", "floor"),
    [(0.0, 60, 0.94), (0.0, 300, 0.93), (0.5, 300, 0.93), (0.9, 300, 0.91), (0.9, 60, 0.89)],
)
def test_the_interval_covers(correlation, n, floor):
    """Nominal 95 %; floors three binomial standard deviations below what a study of 1000 replicates measured."""
    assert coverage(correlation, n) >= floor


@pytest.mark.parametrize("correlation", [0.5, 0.9])
def test_the_naive_interval_would_fail_the_same_floor(correlation):
    """The floors are worth something: sigma over root N stays far below them."""
    assert coverage(correlation, 300, naive=True) < 0.82


def test_the_interval_is_not_wasteful_for_independent_readings():
    """Taking the largest of three estimates costs at most a fifth of the width on average where there is nothing to find."""
    rng = np.random.default_rng(5)
    ratios = [series_mean(rng.normal(size=300)).u * np.sqrt(300) for _ in range(200)]
    assert 1.0 <= np.mean(ratios) <= 1.2


def test_the_effective_size_of_a_known_process():
    """AR(1) with ρ has N_eff = N (1 − ρ) / (1 + ρ); the largest of three errs on the low side."""
    rng = np.random.default_rng(11)
    sizes = [series_mean(autoregressive(rng, 0.8, 4000)).n_eff for _ in range(20)]
    assert 0.6 * 4000 / 9 < np.median(sizes) < 1.05 * 4000 / 9


def test_a_constant_series_has_no_scatter():
    """The caller adds the quantisation."""
    result = series_mean(np.full(50, 26.4))
    assert (result.mean, result.u, result.n_eff, result.dof, result.method) == (26.4, 0.0, 50, 49, "constant")


def test_a_negative_correlation_is_not_used():
    """Alternating readings never claim less than s over root N."""
    series = np.tile([1.0, -1.0], 100) + 0.01 * np.arange(200) / 200
    result = series_mean(series)
    assert result.u >= result.standard_deviation / np.sqrt(200) * (1 - 1e-12)


def test_a_ramp_has_few_effective_values():
    """A drifting series must not claim the precision of a still one."""
    assert series_mean(np.linspace(20.0, 21.0, 500)).n_eff < 8


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_values_are_refused(values):
    """One value has no scatter."""
    with pytest.raises(ValueError, match="at least 2 values"):
        series_mean(np.array(values))


def test_two_values_suffice():
    """Boundary partner: two values have one degree of freedom."""
    result = series_mean(np.array([1.0, 3.0]))
    assert (result.mean, result.dof) == (2.0, 1.0)
    assert result.u == pytest.approx(1.0)


def test_a_failed_read_is_refused():
    """NaN is a missing value, and must be dropped by the caller who knows why."""
    with pytest.raises(ValueError, match="1 of 3 values are not finite"):
        series_mean(np.array([1.0, np.nan, 2.0]))


def test_the_fast_autocovariance_is_the_sum():
    """FFT and definition agree."""
    x = np.random.default_rng(2).normal(size=37)
    centred = x - x.mean()
    direct = [centred[: 37 - k] @ centred[k:] / 37 for k in range(37)]
    assert autocovariance(x) == pytest.approx(direct, abs=1e-12)


finite_series = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=120)


@given(finite_series)
def test_invariants_for_any_series(values):
    """1 ≤ N_eff ≤ N, ν ≥ 1, and s/√N ≤ u ≤ s."""
    result = series_mean(np.array(values))
    assert 1 <= result.n_eff <= result.n
    assert result.dof >= 1
    assert result.standard_deviation / np.sqrt(result.n) <= result.u * (1 + 1e-9) or result.u == 0
    assert result.u <= result.standard_deviation * (1 + 1e-9)


@given(finite_series, st.floats(0.01, 100.0), st.floats(-1000, 1000))
def test_a_change_of_unit_changes_nothing_else(values, factor, shift):
    """Scaling and shifting the series scales and shifts mean and u."""
    series = np.round(np.array(values), 3)
    before, after = series_mean(series), series_mean(series * factor + shift)
    assert after.mean == pytest.approx(before.mean * factor + shift, rel=1e-6, abs=1e-5)
    assert after.u == pytest.approx(before.u * factor, rel=1e-4, abs=1e-5)
