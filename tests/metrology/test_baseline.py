"""Every way in which idle can be wrong fires its gate; clean idle fires none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from pytest_physics.metrology.baseline import (
    IdleLimits,
    IdleSamples,
    assess_idle,
    drift_gate,
)

PERIOD_S = 0.1
N = 800
"""80 s of updates at 100 ms: longer than the shortest idle, and than 50 correlation times of 1 s."""


def noise(seed=1, n=N, correlation=0.5, sigma=0.2):
    rng = np.random.default_rng(seed)
    white = rng.normal(size=n + 200) * np.sqrt(1 - correlation**2)
    return sigma * lfilter([1.0], [1.0, -correlation], white)[200:]


def clean_power(seed=1, n=N, **options):
    return np.round(26.0 + noise(seed, n, **options), 3)


def clean_samples(n=N, **columns):
    """What the rig sees of an undisturbed device, with ``columns`` replaced."""
    still = {
        "utilisation_ratio": np.zeros(n),
        "sm_clock_hz": np.full(n, 210e6),
        "performance_state": np.full(n, 8.0),
        "foreign_processes": np.zeros(n),
        "temperature_c": np.full(n, 39.0),
    }
    return IdleSamples(t_s=np.arange(n) * PERIOD_S, **(still | columns))


def assess(power_w, samples=None, *, correlation_time_s=0.5, resolution_w=0.001, **options):
    t_s = np.arange(power_w.size) * PERIOD_S
    samples = samples or clean_samples(power_w.size)
    return assess_idle(t_s, power_w, correlation_time_s=correlation_time_s, samples=samples, resolution_w=resolution_w, **options)


def failed(assessment):
    return {gate.name for gate in assessment.gates if not gate.passed}


def gate(assessment, name):
    (found,) = [gate for gate in assessment.gates if gate.name == name]
    return found


# --- clean data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_clean_idle_passes_every_gate(correlation):
    """Silent on clean data: over 40 seeds at most one gate in all fires (0.3 % each by design)."""
    fired = [failed(assess(clean_power(seed, correlation=correlation))) for seed in range(40)]
    assert sum(len(names) for names in fired) <= 1


def test_a_reading_that_never_moves_passes():
    """A coarse sensor on a quiet device: constant, and as uncertain as its step."""
    result = assess(np.full(N, 26.4), resolution_w=0.1)
    assert failed(result) == set()
    assert result.u_w == pytest.approx(0.1 / math.sqrt(12))
    assert math.isinf(result.dof)


def test_the_assessment_stores_what_tr122_did_not():
    """N, ddof, resolution and extremes are kept, so that the summary can be checked."""
    power_w = clean_power()
    result = assess(power_w)
    assert (result.n, result.ddof, result.resolution_w) == (N, 1, 0.001)
    assert result.mean_w == pytest.approx(power_w.mean())
    assert result.standard_deviation_w == pytest.approx(power_w.std(ddof=1))
    assert (result.minimum_w, result.maximum_w) == (power_w.min(), power_w.max())
    assert result.median_w == np.median(power_w)
    assert result.duration_s == pytest.approx(N * PERIOD_S)
    assert result.temperature_c == 39.0
    assert result.usable


# --- one planted fault for each gate ---------------------------------------------------------------------------------


def with_burst_of_clocks():
    clocks = np.full(N, 210e6)
    clocks[100:130], clocks[300:330] = 1410e6, 1800e6
    return clean_samples(sm_clock_hz=clocks)


FAULTY_SAMPLES = {
    "idle utilisation": clean_samples(utilisation_ratio=np.where(np.arange(N) % 10 == 0, 0.4, 0.0)),
    "idle foreign processes": clean_samples(foreign_processes=np.where(np.arange(N) > 700, 1.0, 0.0)),
    "idle clock states": with_burst_of_clocks(),
    "idle P-states": clean_samples(performance_state=np.where(np.arange(N) < 60, 0.0, 8.0)),
}


@pytest.mark.parametrize("name", FAULTY_SAMPLES)
def test_a_disturbance_beside_the_power_is_refused(name):
    """Each channel's fault fires its own gate and no other."""
    result = assess(clean_power(), FAULTY_SAMPLES[name])
    assert failed(result) == {name}
    fired = gate(result, name)
    assert fired.refuses
    assert fired.measured > fired.limit
    assert fired.remedy


def test_too_short_an_idle_is_refused():
    """Boundary pair at 50 correlation times: 80 s suffice for 1.6 s, not for 1.7 s."""
    assert gate(assess(clean_power(), correlation_time_s=1.6), "idle duration").passed
    short = gate(assess(clean_power(), correlation_time_s=1.7), "idle duration")
    assert short.refuses
    assert "80.0 s (limit: at least 85.0 s" in short.reason
    assert short.remedy == "observe idle for at least 85 s"


def test_an_idle_below_the_shortest_duration_is_refused():
    """Boundary pair at 60 s, whatever the correlation time."""
    assert gate(assess(clean_power(n=600), correlation_time_s=0.01), "idle duration").passed
    assert not gate(assess(clean_power(n=599), correlation_time_s=0.01), "idle duration").passed


@pytest.mark.parametrize(("correlation", "warns", "refuses"), [(0.8, False, False), (0.98, True, False), (0.9999, False, True)])
def test_a_longer_correlation_than_planned(correlation, warns, refuses):
    """A little longer asks for more time (never for less); a series that hangs together from end to end is no idle."""
    fired = gate(assess(clean_power(seed=2, correlation=correlation)), "idle correlation")
    assert (not fired.passed and fired.warning, fired.refuses) == (warns, refuses)


@pytest.mark.parametrize("tau_s", [10.0, 20.0, 60.0])
def test_idle_that_still_settles_is_refused(tau_s):
    """An exponential decay of 1 W after work, fast or slow against the 80 s of idle."""
    decay = np.exp(-np.arange(N) * PERIOD_S / tau_s)
    assert not assess(clean_power() + decay).usable


def test_a_share_of_outliers_is_refused():
    """Boundary pair around 5 %: bursts of 10 W in 3 % of the updates pass, in 8 % they do not."""
    few, many = clean_power(), clean_power()
    few[::33] += 10
    many[::12] += 10
    assert gate(assess(few), "idle outliers").passed
    assert gate(assess(many), "idle outliers").refuses


def test_outliers_are_seen_on_a_sensor_that_repeats_itself():
    """A median absolute deviation of 0 must neither hide outliers nor make every step one."""
    power_w = np.full(N, 26.0)
    power_w[::7] = 26.1
    assert gate(assess(power_w, resolution_w=0.1), "idle outliers").passed
    power_w[::7] = 31.0
    assert gate(assess(power_w, resolution_w=0.1), "idle outliers").refuses


def two_levels(seed=3, low_w=21.0, high_w=26.0, upper_share=0.6):
    upper = np.random.default_rng(seed).random(N) < upper_share
    return np.where(upper, high_w, low_w) + noise(seed), upper


def test_two_unexplained_levels_are_refused():
    """Nothing tells the levels apart: the message says so."""
    power_w, _ = two_levels()
    fired = gate(assess(power_w), "idle bimodality")
    assert fired.refuses
    assert "which neither P-state nor clock explains" in fired.reason


@pytest.mark.parametrize(("channel", "name"), [("performance_state", "P-state"), ("sm_clock_hz", "SM clock")])
def test_two_levels_that_follow_a_state_are_refused_by_that_name(channel, name):
    """Explained is not excused: the mean describes neither state, and the remedy names the state."""
    power_w, upper = two_levels()
    fired = gate(assess(power_w, clean_samples(**{channel: np.where(upper, 2.0, 8.0)})), "idle bimodality")
    assert fired.refuses
    assert f"which follow the {name}" in fired.reason
    assert "state the workload runs in" in fired.remedy


def test_two_levels_too_near_to_matter_pass():
    """Boundary pair at 2 % of the median: levels 0.4 W apart at 26 W do not matter, 0.8 W do."""
    for distance_w, passed in ((0.4, True), (0.8, False)):
        power_w, _ = two_levels(low_w=26.0 - distance_w)
        power_w = power_w + 0 * noise()
        quiet = np.where(power_w > 26.0 - distance_w / 2, 26.0, 26.0 - distance_w) + 0.02 * noise()
        assert gate(assess(quiet), "idle bimodality").passed is passed


def test_a_step_between_the_halves_is_refused():
    """Stationarity: 1 W more in the second half."""
    power_w = clean_power() + np.where(np.arange(N) < N // 2, 0.0, 1.0)
    fired = gate(assess(power_w), "idle halves")
    assert fired.refuses
    assert fired.measured == pytest.approx(1.0, abs=0.1)


def test_a_slow_drift_is_refused():
    """Idle that still cools: 1 W along the whole span, far less than the eye would see in 0.2 W of noise per update."""
    fired = gate(assess(clean_power() - np.linspace(0, 1, N)), "idle drift")
    assert fired.refuses
    assert "it has not settled" in fired.reason


def test_a_drift_without_noise_is_refused():
    """A drift must not excuse itself by the scatter that it makes."""
    assert gate(assess(26.0 + np.linspace(0, 1, N)), "idle drift").refuses


def test_a_drift_too_small_to_matter_passes():
    """Boundary pair at 0.3 % of the mean (0.078 W), without noise."""
    assert gate(assess(26.0 + np.linspace(0, 0.075, N), resolution_w=1e-6), "idle drift").passed
    assert not gate(assess(26.0 + np.linspace(0, 0.085, N), resolution_w=1e-6), "idle drift").passed


def test_the_drift_limit_is_not_two_u():
    """Noise alone gives a line √12 u of standard deviation: a limit of 2 u would refuse every second clean idle."""
    results = [gate(assess(clean_power(seed, correlation=0.0)), "idle drift") for seed in range(60)]
    assert all(result.passed for result in results)
    beyond_two_u = [result.measured > 2 * assess(clean_power(seed, correlation=0.0)).u_w for seed, result in enumerate(results)]
    assert np.mean(beyond_two_u) > 0.3


def test_a_skewed_idle_is_a_warning():
    """Mean and median apart: the mean stays, the reader is told."""
    power_w = clean_power()
    power_w[::25] += 8
    fired = gate(assess(power_w), "idle mean and median")
    assert not fired.passed
    assert fired.warning
    assert not fired.refuses


def test_a_device_that_still_cools_is_a_warning():
    """Temperature falls by 6 °C over the span."""
    fired = gate(assess(clean_power(), clean_samples(temperature_c=np.floor(np.linspace(48, 39, N)))), "idle temperature")
    assert not fired.passed
    assert fired.warning


# --- absent and silent channels --------------------------------------------------------------------------------------


def test_a_rig_with_power_alone_is_told_what_was_not_checked():
    """Absent channels are warnings without a measured value: neither a pass nor a refusal."""
    result = assess(clean_power(), IdleSamples(t_s=np.zeros(0)))
    unchecked = [gate for gate in result.gates if gate.measured is None]
    assert {gate.name for gate in unchecked} == failed(result)
    assert len(unchecked) == 5
    assert all("this rig has no" in gate.reason for gate in unchecked)
    assert result.usable
    assert result.states == ()


@pytest.mark.parametrize("channel", ["utilisation_ratio", "foreign_processes", "sm_clock_hz", "performance_state", "temperature_c"])
def test_a_channel_that_never_answers_is_refused(channel):
    """A channel the rig has must speak: failed reads are not evidence of idleness."""
    result = assess(clean_power(), clean_samples(**{channel: np.full(N, np.nan)}))
    assert len(failed(result)) == 1
    assert not result.usable


def test_single_failed_reads_change_nothing():
    """Missing values are left out."""
    utilisation = np.zeros(N)
    utilisation[::9] = np.nan
    assert failed(assess(clean_power(), clean_samples(utilisation_ratio=utilisation))) == set()


# --- TR122 -----------------------------------------------------------------------------------------------------------

TR122_N = 586
TR122_PERIOD_S = 0.2048


def tr122_like(*, order):
    """A mixture of a 26 W and a few-watt state with TR122's mean, deviation and extremes."""
    rng = np.random.default_rng(122)
    high = order < 0.757
    power_w = np.where(high, rng.normal(26.1, 0.12, TR122_N), rng.normal(3.5, 1.2, TR122_N))
    power_w = np.clip(np.round(power_w, 3), 1.2, 26.424)
    samples = clean_samples(TR122_N, sm_clock_hz=np.where(high, 1410e6, 210e6))
    samples = replace(samples, t_s=np.arange(TR122_N) * TR122_PERIOD_S)
    t_s = np.arange(TR122_N) * TR122_PERIOD_S
    return assess_idle(t_s, power_w, correlation_time_s=1.0, samples=samples, resolution_w=0.001), power_w


@pytest.mark.parametrize(
    ("order", "detectors"),
    [
        (np.random.default_rng(4).permutation(TR122_N) / TR122_N, {"idle outliers", "idle bimodality"}),
        (np.arange(TR122_N) / TR122_N, {"idle outliers", "idle bimodality", "idle correlation"}),
    ],
    ids=["switching", "settling"],
)
def test_tr122s_baseline_is_refused(order, detectors):
    """Utilisation 0 and two clock states, as TR122 allowed; median and MAD, the modes and stationarity see what it is.

    TR122's own detector, readings above mean + 2σ, cannot fire: that threshold lies above the maximum.
    """
    result, power_w = tr122_like(order=order)
    assert result.mean_w == pytest.approx(20.71, abs=0.6)
    assert result.standard_deviation_w == pytest.approx(9.97, abs=0.5)
    assert result.mean_w + 2 * result.standard_deviation_w > result.maximum_w
    assert not (power_w > result.mean_w + 2 * result.standard_deviation_w).any()
    assert gate(result, "idle utilisation").passed
    assert gate(result, "idle clock states").passed
    assert not result.usable
    assert detectors <= {fired.name for fired in result.gates if fired.refuses}
    assert "which follow the SM clock" in gate(result, "idle bimodality").reason


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_means_per_state():
    """Power is tagged with the P-state at the nearest sample."""
    state = np.where(np.arange(N) < 200, 0.0, 8.0)
    power_w = np.where(state == 0.0, 40.0, 10.0) + noise()
    fast, slow = assess(power_w, clean_samples(performance_state=state)).states
    assert (fast.performance_state, fast.n, slow.performance_state, slow.n) == (0, 200, 8, 600)
    assert fast.mean_w == pytest.approx(40.0, abs=0.1)
    assert slow.mean_w == pytest.approx(10.0, abs=0.1)


def test_samples_on_another_grid_are_matched_in_time():
    """Samples need not be taken at the updates."""
    coarse = np.arange(0, N * PERIOD_S, 0.37)
    samples = IdleSamples(t_s=coarse, performance_state=np.where(coarse < 20.0, 0.0, 8.0))
    fast, slow = assess(clean_power(), samples).states
    assert fast.n == pytest.approx(200, abs=3)
    assert fast.n + slow.n == N


def test_quantisation_stays_below_half_a_step_and_averages_out_above():
    """Noise of 0.3 steps leaves q/√12; noise of 1 step dithers it away."""
    quiet = assess(np.round(26.02 + noise(sigma=0.002), 1), resolution_w=0.1)
    dithered = assess(np.round(26.02 + noise(sigma=0.1), 1), resolution_w=0.1)
    assert quiet.u_w >= 0.1 / math.sqrt(12)
    assert dithered.u_w < 0.1 / math.sqrt(12)


@pytest.mark.parametrize("sigma", [0.005, 0.03, 0.1, 0.3])
def test_the_mean_of_a_quantised_idle_is_covered(sigma):
    """The stated interval holds the true mean in at least 93 % of 200 runs, from undithered to dithered."""
    covered = 0
    rng = np.random.default_rng(8)
    for seed in range(200):
        truth = 26 + rng.random()
        power_w = np.round((truth + noise(seed, 300, sigma=sigma)) / 0.1) * 0.1
        result = assess(power_w, IdleSamples(t_s=np.zeros(0)), resolution_w=0.1, limits=IdleLimits(min_duration_s=1.0))
        covered += abs(result.mean_w - truth) <= 2 * result.u_w
    assert covered / 200 >= 0.93


def test_an_unknown_resolution_is_read_from_the_data():
    """The smallest step seen."""
    assert assess(np.round(clean_power() * 4) / 4, resolution_w=0.0).resolution_w == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("t_s", "power_w", "message"),
    [
        (np.arange(7.0), np.ones(7), "at least 8 updates"),
        (np.arange(9.0), np.ones(8), "at least 8 updates"),
        (np.zeros(8), np.ones(8), "must increase"),
        (np.arange(8.0), np.array([np.nan, *np.ones(7)]), "must be finite"),
    ],
)
def test_what_is_not_a_series_of_updates_is_refused(t_s, power_w, message):
    """Held polls, failed reads and handfuls are the caller's to resolve."""
    with pytest.raises(ValueError, match=message):
        assess_idle(t_s, power_w, correlation_time_s=1.0)


def test_columns_of_different_lengths_are_refused():
    """A column belongs to its times."""
    with pytest.raises(ValueError, match="'utilisation_ratio' must have the shape"):
        IdleSamples(t_s=np.arange(5.0), utilisation_ratio=np.zeros(4))


@pytest.mark.parametrize("limits", [{"min_duration_s": 0.0}, {"max_outlier_share": 1.0}, {"max_clock_states": 0}])
def test_limits_without_meaning_are_refused(limits):
    """A limit that nothing or everything meets is a mistake."""
    with pytest.raises(ValueError, match=next(iter(limits))):
        IdleLimits(**limits)


# --- two baselines ---------------------------------------------------------------------------------------------------


def pair(before_w=26.0, after_w=26.5):
    first = assess(np.full(N, before_w), resolution_w=0.1)
    second = replace(assess(np.full(N, after_w), resolution_w=0.1), start_s=1000.0, end_s=1000.0 + first.end_s)
    return first, second


def test_drift_between_baselines():
    """Boundary pair around the limit; the message has value, limit, times and consequence."""
    before, after = pair()
    assert drift_gate(before, after, 0.51).passed
    fired = drift_gate(before, after, 0.49)
    assert fired.refuses
    assert "drifted +0.5 W" in fired.reason
    assert "INVALID" in fired.reason


@given(seed=st.integers(0, 10**6), sigma=st.floats(1e-4, 5.0), level=st.floats(0.5, 400.0), step=st.sampled_from([0.001, 0.1, 1.0]))
@settings(max_examples=40, deadline=None)
def test_any_idle_can_be_assessed(seed, sigma, level, step):
    """No input of updates breaks the assessment; its numbers are consistent and each gate has its sentence."""
    power_w = np.round((level + noise(seed, 64, sigma=sigma)) / step) * step
    result = assess(power_w, clean_samples(64), resolution_w=step)
    assert result.minimum_w <= result.mean_w + 1e-9
    assert result.mean_w <= result.maximum_w + 1e-9
    assert result.u_w > 0
    assert result.dof >= 1
    for each in result.gates:
        assert each.reason
        assert each.passed or each.remedy
