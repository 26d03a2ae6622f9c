"""No verdict before the sensor can give one, none before equilibrium, and an early end where there will be none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from pytest_physics.metrology.thermal import (
    SoakLimits,
    SoakState,
    assess_soak,
    fit_plateau,
    slope_interval,
)

RATE_HZ = 2


def wander(rng, n, sigma, correlation_s=2.0):
    share = math.exp(-1 / RATE_HZ / correlation_s)
    return sigma * lfilter([1.0], [1.0, -share], rng.normal(size=n + 200) * math.sqrt(1 - share**2))[200:]


def heating(duration_s, *, tau_s=100.0, start_c=40.0, final_c=70.4, sigma_c=0.0, resolution_c=1.0, die_c=8.0, seed=1):
    """A die on a heat sink under constant power, read by a flooring sensor: times, readings, power."""
    rng = np.random.default_rng(seed)
    t_s = np.arange(-20 * RATE_HZ, duration_s * RATE_HZ + 1) / RATE_HZ
    loaded = np.maximum(t_s, 0)
    theta = final_c - (final_c - start_c - die_c) * np.exp(-loaded / tau_s) - die_c * np.exp(-loaded / 4.0)
    theta = np.where(t_s < 0, start_c, theta) + wander(rng, t_s.size, sigma_c)
    power_w = np.where(t_s < 0, 30.0, 250.0 + 0.3 * (theta - start_c)) + rng.normal(size=t_s.size)
    return t_s, np.floor(theta / resolution_c) * resolution_c, power_w


def ramp(duration_s, slope_c_per_min, *, sigma_c=0.0, phase_c=0.0, seed=1):
    rng = np.random.default_rng(seed)
    t_s = np.arange(-20 * RATE_HZ, duration_s * RATE_HZ + 1) / RATE_HZ
    theta = np.where(t_s < 0, 40.0, 50.0 + phase_c + slope_c_per_min / 60 * t_s) + wander(rng, t_s.size, sigma_c)
    return t_s, np.floor(theta), np.where(t_s < 0, 30.0, 250.0) + rng.normal(size=t_s.size)


def assess_until(series, end_s=math.inf, **options):
    t_s, temperature_c, power_w = series
    seen = t_s <= end_s
    options = {"resolution_c": 1.0, "load_started_s": 0.0} | options
    return assess_soak(t_s[seen], temperature_c[seen], None if power_w is None else power_w[seen], **options)


def gate(assessment, name):
    (found,) = [gate for gate in assessment.gates if gate.name == name]
    return found


def refused(assessment):
    return {gate.name for gate in assessment.gates if gate.refuses}


# --- the normal course -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma_c", [0.0, 0.3])
@pytest.mark.parametrize("tau_s", [60.0, 150.0])
def test_a_soak_runs_from_too_short_over_heating_to_equilibrium(tau_s, sigma_c):
    """First-order heating; equilibrium comes within 1.5 °C of the plateau and well before 1000 s."""
    series = heating(1000, tau_s=tau_s, sigma_c=sigma_c)
    states = [assess_until(series, end_s).state for end_s in range(20, 1000, 20)]
    first = states.index(SoakState.EQUILIBRIUM)
    assert SoakState.HOPELESS not in states
    assert states[0] is SoakState.TOO_SHORT
    assert SoakState.HEATING in states[:first]
    end_s = range(20, 1000, 20)[first]
    assert abs(30.4 - 8) * math.exp(-end_s / tau_s) < 1.5


def test_equilibrium_passes_every_gate():
    """Silent on clean data."""
    result = assess_until(heating(1000))
    assert result.state is SoakState.EQUILIBRIUM
    assert result.reached
    assert all(gate.passed for gate in result.gates)
    assert result.plateau.temperature_c == pytest.approx(70.4, abs=0.6)
    assert result.plateau.tau_s == pytest.approx(100, rel=0.1)


# --- never too early -------------------------------------------------------------------------------------------------


def test_never_a_verdict_below_120_s_of_data():
    """A 1 °C sensor cannot show 0.5 °C/min sooner, not even where nothing moves; nor a finer clock help."""
    flat = ramp(400, 0.0)
    states = [assess_until(flat, end_s).state for end_s in range(10, 160, 5)]
    assert set(states) == {SoakState.TOO_SHORT}
    assert assess_until(flat, 161).state is not SoakState.TOO_SHORT
    short = gate(assess_until(flat, 130), "soak window")
    assert short.refuses
    assert (short.measured, short.limit) == (90.0, 120.0)
    assert short.remedy == "keep the load on for another 30 s"


@pytest.mark.parametrize(("resolution_c", "limit", "tau_s", "expected"), [
    (1.0, 0.5, None, 120.0), (1.0, 0.25, None, 240.0), (0.125, 0.5, None, 60.0), (0.0, 0.5, None, 60.0), (0.1, 0.5, 150.0, 225.0),
])  # fmt: skip
def test_the_shortest_window(resolution_c, limit, tau_s, expected):
    """Known answers: max(q / limit, 1.5 τ, 60 s)."""
    limits = SoakLimits(slope_c_per_min=limit, confident_slope_c_per_min=limit)
    assert limits.min_window_s(resolution_c, tau_s) == expected


@pytest.mark.parametrize("sigma_c", [0.0, 0.15, 0.3, 0.6])
def test_a_slow_ramp_is_never_called_equilibrium(sigma_c):
    """0.6 °C/min, looked at every 45 s for a quarter of an hour, at four phases of the sensor's step."""
    for seed in range(4):
        series = ramp(900, 0.6, sigma_c=sigma_c, phase_c=seed / 4, seed=seed)
        states = {assess_until(series, end_s).state for end_s in range(160, 900, 45)}
        assert SoakState.EQUILIBRIUM not in states


def test_a_single_step_in_the_middle_of_the_window():
    """Known worst case: least squares reads 1.5 q/w from one step; the truth is anywhere between 0 and 2 q/w."""
    t_s = np.arange(0, 120, 0.5)
    slope = slope_interval(t_s, np.where(t_s < 60, 60.0, 61.0), resolution_c=1.0)
    assert slope.value == pytest.approx(0.75, rel=0.01)
    assert (slope.low, slope.high) == (pytest.approx(0.0), pytest.approx(1.0))
    assert slope.method == "steps"


def test_a_step_in_the_last_window_delays_equilibrium():
    """One step in 180 s cannot be told from 0.67 °C/min; without it the same soak is done."""
    t_s, temperature_c, power_w = heating(1000)
    assert assess_until((t_s, temperature_c, power_w)).reached
    stepped = temperature_c + (t_s > 910)
    result = assess_until((t_s, stepped, power_w))
    assert result.state is SoakState.HEATING
    assert refused(result) == {"soak slope"}
    assert "by steps" in gate(result, "soak slope").reason


def test_no_step_bounds_the_slope_by_the_resolution():
    """Zero steps, n = 0, in w: |s| < q/w."""
    slope = slope_interval(np.arange(0, 180, 0.5), np.full(360, 65.0), resolution_c=1.0)
    assert slope.bound == pytest.approx(1 / 3, rel=1e-6)


def test_two_windows_or_a_margin():
    """In one window the bound must be below 0.4 °C/min, with a second one before it 0.5 suffices."""
    limits = SoakLimits(window_s=140.0)  # one window without steps bounds the slope by 0.43 °C/min
    flat = ramp(1000, 0.0)
    assert gate(assess_until(flat, 200, limits=limits), "soak slope").limit == 0.4
    assert not gate(assess_until(flat, 200, limits=limits), "soak slope").passed
    confirmed = gate(assess_until(flat, 330, limits=limits), "soak slope")
    assert confirmed.passed
    assert confirmed.limit == 0.5
    assert "confirmed by the window before" in confirmed.reason


@pytest.mark.parametrize("sigma_c", [0.0, 0.05, 0.15, 0.3, 0.6])
def test_the_slope_interval_covers(sigma_c):
    """From noise-free to dithered: at least 92 % of 150 random slopes, window 180 s."""
    rng = np.random.default_rng(31)
    t_s = np.arange(360) / RATE_HZ
    covered = 0
    for _ in range(150):
        truth = rng.uniform(-1.5, 1.5)
        reading = np.floor(60 + rng.random() + truth / 60 * t_s + wander(rng, t_s.size, sigma_c))
        slope = slope_interval(t_s, reading, resolution_c=1.0)
        covered += slope.low <= truth <= slope.high
    assert covered / 150 >= 0.92


def test_flicker_at_one_step_bounds_the_slope():
    """A plateau on the edge of a step flickers; the first and the last crossing are at the same temperature."""
    rng = np.random.default_rng(3)
    t_s = np.arange(360) / RATE_HZ
    slope = slope_interval(t_s, np.where(rng.random(360) < 0.03, 69.0, 70.0), resolution_c=1.0)
    assert slope.method == "flicker"
    assert slope.bound < 0.4


# --- the load must be on ---------------------------------------------------------------------------------------------


def test_a_flat_start_is_not_a_plateau():
    """Temperature has not moved yet: not equilibrium, until a device that was warm before is believed after ten minutes."""
    t_s, _, power_w = ramp(700, 0.0)
    warm = (t_s, np.full(t_s.size, 66.0), power_w)
    early = assess_until(warm, 300)
    assert early.state is SoakState.HEATING
    assert refused(early) == {"soak change"}
    assert assess_until(warm, 601).state is SoakState.EQUILIBRIUM


def test_a_load_that_never_came_is_refused():
    """Power stays at idle: whatever the temperature does is not a soak."""
    t_s, temperature_c, power_w = heating(1000)
    result = assess_until((t_s, temperature_c, np.full(t_s.size, 30.0) + 0.01 * (power_w - power_w.mean())))
    fired = gate(result, "soak load")
    assert fired.refuses
    assert "the load did not raise power at all" in fired.reason
    assert result.state is SoakState.HEATING


def test_a_load_that_stopped_is_refused():
    """Idle in the second half of the window, while the package is still warm."""
    t_s, temperature_c, power_w = heating(1000)
    result = assess_until((t_s, temperature_c, np.where(t_s > 900, 30.0, power_w)))
    assert "soak load" in refused(result)


def test_power_that_still_drifts_is_refused():
    """Leakage follows temperature and is read more finely: 2 % in the window with a flat reading is not equilibrium."""
    t_s, temperature_c, power_w = heating(1000)
    drifting = power_w * np.where(t_s > 820, 1 + 0.02 * (t_s - 820) / 180, 1.0)
    result = assess_until((t_s, temperature_c, drifting))
    assert refused(result) == {"soak power drift"}


def test_without_a_power_channel_the_load_is_a_warning():
    """What the rig cannot see it says."""
    t_s, temperature_c, _ = heating(1000)
    result = assess_until((t_s, temperature_c, None))
    assert result.state is SoakState.EQUILIBRIUM
    fired = gate(result, "soak load")
    assert (fired.passed, fired.warning, fired.measured) == (False, True, None)


# --- fail fast -------------------------------------------------------------------------------------------------------


def test_a_plateau_that_is_too_hot_ends_the_soak_early():
    """A plateau of 84 °C is foreseen minutes before the device reaches 80 °C."""
    series = heating(1000, tau_s=150.0, final_c=84.0)
    hopeless_s = next(end_s for end_s in range(50, 1000, 10) if assess_until(series, end_s).state is SoakState.HOPELESS)
    result = assess_until(series, hopeless_s)
    fired = gate(result, "soak temperature")
    assert fired.refuses
    assert series[1][series[0] <= hopeless_s].max() < 80
    assert hopeless_s < 350
    assert "3 °C below 83 °C" in fired.reason


def test_a_plateau_just_cool_enough_is_allowed():
    """Boundary partner: 77 °C is three degrees and the fit's uncertainty below the limit."""
    series = heating(1200, tau_s=150.0, final_c=77.0)
    assert assess_until(series).state is SoakState.EQUILIBRIUM


def test_a_soak_that_cannot_end_in_its_budget_stops_early():
    """τ = 200 s needs some 800 s; with 500 s that is known after 1.5 τ."""
    limits = SoakLimits(budget_s=500.0)
    series = heating(1000, tau_s=200.0)
    stopped_s = next(end_s for end_s in range(50, 1000, 10) if assess_until(series, end_s, limits=limits).state is SoakState.HOPELESS)
    assert stopped_s < 450
    assert gate(assess_until(series, stopped_s, limits=limits), "soak budget").refuses
    assert assess_until(series, stopped_s).state is SoakState.HEATING


def test_an_exhausted_budget_ends_the_soak():
    """Boundary pair: a ramp has no plateau to predict, and ends with its budget."""
    limits = SoakLimits(budget_s=400.0)
    series = ramp(500, 1.5)
    assert assess_until(series, 399, limits=limits).state is SoakState.HEATING
    assert assess_until(series, 400, limits=limits).state is SoakState.HOPELESS


def test_equilibrium_after_the_budget_is_still_equilibrium():
    """A soak that is done is not hopeless."""
    assert assess_until(heating(1000), limits=SoakLimits(budget_s=700.0)).state is SoakState.EQUILIBRIUM


# --- plateau ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma_c", [0.0, 0.3])
@pytest.mark.parametrize(("tau_s", "spans"), [(60.0, 2.0), (150.0, 1.5), (150.0, 3.0)])
def test_the_plateau_is_covered(tau_s, spans, sigma_c):
    """The 95 % interval holds the true plateau, and the median error is below 0.6 °C."""
    errors, covered = [], 0
    for seed in range(25):
        final_c = 60 + 0.37 * seed
        t_s, temperature_c, _ = heating(40 + spans * tau_s, tau_s=tau_s, final_c=final_c, sigma_c=sigma_c, seed=seed)
        after = t_s > 40
        plateau = fit_plateau(t_s[after], temperature_c[after], resolution_c=1.0, near_plateau_c=0.5)
        low, high = plateau.interval_c
        covered += low <= final_c <= high
        errors.append(abs(plateau.temperature_c - final_c))
    assert covered >= 22
    assert np.median(errors) < 0.6


def test_the_prediction_of_the_rest_comes_true():
    """At 1.5 τ the true remaining time to 0.5 °C of the plateau lies in the predicted interval."""
    tau_s, rise = 150.0, 70.4 - 48.0
    end_s = 40 + 1.5 * tau_s
    plateau = assess_until(heating(1000, tau_s=tau_s), end_s).plateau
    truth_s = tau_s * math.log(rise / 0.5) - end_s
    assert plateau.remaining_low_s <= truth_s <= plateau.remaining_high_s
    assert plateau.remaining_s == pytest.approx(truth_s, rel=0.25)
    assert plateau.residual_c == pytest.approx(rise * math.exp(-end_s / tau_s), abs=0.8)


def test_the_die_would_bias_the_plateau():
    """Why 40 s are discarded: with them the plateau comes out far too low."""
    t_s, temperature_c, _ = heating(140, tau_s=100.0, die_c=15.0)
    everything = fit_plateau(t_s[t_s > 0], temperature_c[t_s > 0], resolution_c=1.0, near_plateau_c=0.5)
    later = fit_plateau(t_s[t_s > 40], temperature_c[t_s > 40], resolution_c=1.0, near_plateau_c=0.5)
    assert everything.temperature_c < 70.4 - 2.5
    assert abs(later.temperature_c - 70.4) < abs(everything.temperature_c - 70.4)


def test_a_flat_reading_has_no_time_constant():
    """Nothing to fit: the plateau is the reading, half a step up, and as uncertain as the step."""
    plateau = fit_plateau(np.arange(100.0), np.full(100, 65.0), resolution_c=1.0, near_plateau_c=0.5)
    assert (plateau.temperature_c, plateau.tau_s) == (65.5, None)
    assert plateau.u_temperature_c == pytest.approx(1 / math.sqrt(12))


# --- odd inputs ------------------------------------------------------------------------------------------------------


def test_failed_reads_are_left_out():
    """Every seventh read missing changes no verdict."""
    t_s, temperature_c, power_w = heating(1000)
    temperature_c[::7], power_w[3::7] = np.nan, np.nan
    assert assess_until((t_s, temperature_c, power_w)).state is SoakState.EQUILIBRIUM


def test_a_sensor_that_went_silent_gives_no_verdict():
    """The last readings are old: the window is not covered."""
    t_s, temperature_c, power_w = heating(1000)
    temperature_c[t_s > 900] = np.nan
    assert assess_until((t_s, temperature_c, power_w)).state is SoakState.TOO_SHORT


def test_before_the_first_sample():
    """Nothing yet: too short, without an error."""
    empty = np.zeros(0)
    assert assess_until((empty, empty, empty)).state is SoakState.TOO_SHORT


@given(st.integers(0, 10**6), st.integers(0, 500), st.floats(0.0, 3.0), st.sampled_from([0.0, 0.1, 1.0]))
@settings(max_examples=40, deadline=None)
def test_any_series_can_be_assessed(seed, n, sigma_c, resolution_c):
    """Whatever the sensor says, there is a state, every gate has its sentence, and no equilibrium without a bounded slope."""
    rng = np.random.default_rng(seed)
    theta = 60 + wander(rng, n, sigma_c) if n else np.zeros(0)
    reading = np.floor(theta / resolution_c) * resolution_c if resolution_c else theta
    result = assess_until((np.arange(n) * 1.0, reading, None), resolution_c=resolution_c)
    assert all(gate.reason for gate in result.gates)
    assert not result.reached or result.slope.bound < 0.5


@pytest.mark.parametrize("limits", [{"window_s": 0.0}, {"budget_s": -1.0}, {"confident_slope_c_per_min": 0.6}])
def test_limits_without_meaning_are_refused(limits):
    """Zero lengths, and a margin that is none."""
    with pytest.raises(ValueError, match=next(iter(limits))):
        SoakLimits(**limits)
