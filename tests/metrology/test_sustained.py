"""Minutes under load: the drift and its interval, shares of the time, stalls, and whether the device worked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pytest_physics.metrology.sustained import (
    MIN_CALLS,
    drift_of_thirds,
    longest_run_s,
    own_processor_gate,
    power_rise_gate,
    settled_flags,
    share_by_counter,
    share_by_flags,
    stalled_samples,
)

S = 1_000_000_000


def test_a_known_drift_is_found():
    """Known answer: 90 calls of 1 s, then 90, then 90 of 1.1 s."""
    found = drift_of_thirds(np.repeat([1.0, 1.05, 1.1], 90))
    assert found.value == pytest.approx(0.1)
    assert found.n == 90
    assert found.u == 0


@pytest.mark.parametrize(("n", "fits"), [(MIN_CALLS, True), (MIN_CALLS - 1, False)])
def test_a_drift_needs_four_calls_in_each_third(n, fits):
    """Boundary pair of the number of calls."""
    if fits:
        assert drift_of_thirds(np.ones(n)).value == 0
    else:
        with pytest.raises(ValueError, match="needs at least 12 positive durations"):
            drift_of_thirds(np.ones(n))


def covered(rng, series_of, runs=400, drift=0.02):
    """Share of runs whose 95 % interval holds the drift of the process."""
    hits = 0
    for _ in range(runs):
        n = 180
        level = np.concatenate([np.ones(n // 3), np.linspace(1, 1 + drift, n // 3), np.full(n // 3, 1 + drift)])
        found = drift_of_thirds(level * (1 + series_of(rng, n)))
        hits += abs(found.value - drift) <= stats.t.ppf(0.975, found.dof) * found.u
    return hits / runs


def white(rng, n):
    """Independent noise of 1 %."""
    return 0.01 * rng.standard_normal(n)


def correlated(rng, n):
    """AR(1) with ρ = 0.5."""
    noise = np.zeros(n)
    steps = 0.01 * rng.standard_normal(n)
    for i in range(1, n):
        noise[i] = 0.5 * noise[i - 1] + steps[i]
    return noise


@pytest.mark.parametrize(("noise", "low", "high"), [(white, 0.93, 0.995), (correlated, 0.88, 0.99)])
def test_the_interval_of_a_drift_holds_it(noise, low, high):
    """White noise is covered as promised; a correlation shorter than a batch costs a little."""
    assert low <= covered(np.random.default_rng(5), noise) <= high


def test_a_slow_warm_up_is_drift_and_not_noise():
    """A smooth change of 3 % within the run leaves an interval a hundred times smaller than itself."""
    t = np.linspace(0, 1, 600)
    found = drift_of_thirds(1 - 0.03 * np.exp(-5 * t))
    assert 0.005 < found.value < 0.03
    assert found.u < found.value / 10


@given(st.lists(st.floats(1e-3, 1e3), min_size=MIN_CALLS, max_size=200), st.floats(1e-3, 1e3))
def test_a_drift_has_no_scale(durations, factor):
    """Seconds or milliseconds: the ratio is the same."""
    one, other = drift_of_thirds(np.array(durations)), drift_of_thirds(factor * np.array(durations))
    assert other.value == pytest.approx(one.value, rel=1e-9, abs=1e-9)
    assert other.u == pytest.approx(one.u, rel=1e-6, abs=1e-9)


# --- shares ----------------------------------------------------------------------------------------------------------


def test_a_counter_tells_the_share_exactly():
    """Known answer: 3 s of 10 s, counted at samples every 0.1 s."""
    t = np.arange(0, 12 * S, S // 10)
    counted = np.clip(t - 4 * S, 0, 3 * S).astype(float)
    found = share_by_counter(t, counted, S, 11 * S)
    assert found.value == pytest.approx(0.3)
    assert found.bound == 0


@given(st.integers(0, 9 * S), st.integers(1, 3 * S), st.integers(0, S), st.integers(5 * S, 9 * S))
def test_the_share_by_counter_stays_within_its_bound(begin, length, t0, span):
    """Wherever an episode lies, the true share is within the bound."""
    t = np.arange(0, 12 * S, S // 7)
    counted = np.clip(t - begin, 0, length).astype(float)
    found = share_by_counter(t, counted, t0, t0 + span)
    true = max(0, min(begin + length, t0 + span) - max(begin, t0)) / span
    assert abs(found.value - true) <= found.bound + 1e-9


@pytest.mark.parametrize("counted", [[0, 5, 3, 4.0], [np.nan, np.nan, 3, 4.0]])
def test_a_counter_that_goes_back_or_is_not_read_tells_nothing(counted):
    """NaN, not zero."""
    assert np.isnan(share_by_counter(np.arange(4) * S, np.array(counted), S, 2 * S).value)


def test_flags_tell_the_share_to_a_sample():
    """Known answer: 30 of 100 samples; silent flags give 0 with no bound."""
    t = np.arange(100) * (S // 10)
    flags = (np.arange(100) >= 20) & (np.arange(100) < 50)
    found = share_by_flags(t, flags, 0, 10 * S)
    assert found.value == pytest.approx(0.3)
    assert 0 < found.bound < 0.02
    clean = share_by_flags(t, np.zeros(100, bool), 0, 10 * S)
    assert (clean.value, clean.bound) == (0.0, 0.0)
    assert np.isnan(share_by_flags(t[:1], flags[:1], 0, S).value)


def test_what_a_sensor_reads_belongs_to_a_flag_only_after_its_tail():
    """Half a second after each rise."""
    t = np.arange(10) * (S // 5)
    flags = np.array([False, True, True, True, True, False, True, True, True, True])
    assert settled_flags(t, flags, S // 2).tolist() == [False] * 3 + [True, True] + [False] * 3 + [True, True]


# --- work ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("power_w", "stalled"), [(21.9, True), (22.1, False)])
def test_a_stall_is_busy_at_idle_power(power_w, stalled):
    """A tenth above idle of 20 W, on both sides; and a device that does not say busy does not stall."""
    power = np.array([power_w])
    assert stalled_samples(np.array([0.99]), power, 20.0, 0.1).tolist() == [stalled]
    assert stalled_samples(np.array([0.49]), power, 20.0, 0.1).tolist() == [False]


def test_the_longest_stall_is_unbroken():
    """Known answer: 4 samples in a row span 3 s."""
    flags = np.array([True, True, False, True, True, True, True, False])
    assert longest_run_s(np.arange(8) * S, flags) == 3.0
    assert longest_run_s(np.arange(8) * S, np.zeros(8, bool)) == 0.0


@pytest.mark.parametrize(("mean_w", "passed"), [(22.0, True), (21.99, False)])
def test_work_elsewhere_is_refused(mean_w, passed):
    """Boundary pair: power must rise by a tenth of idle."""
    gate = power_rise_gate(mean_w, 20.0, 0.01, scope="w")
    assert gate.passed is passed
    assert passed or "another device did the work" in gate.reason


@pytest.mark.parametrize(("cpus", "passed"), [(0.5, True), (0.49, False)])
def test_a_host_that_did_nothing_is_refused(cpus, passed):
    """Boundary pair: half a processor."""
    gate = own_processor_gate(cpus, scope="w")
    assert gate.passed is passed
    assert gate.refuses is not passed
