"""Gain and offset against a reference meter: York's line, its published example, and the refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_physics.metrology.calibration import calibrate, york
from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.response import SensorModel

PEARSON_X = [0.0, 0.9, 1.8, 2.6, 3.3, 4.4, 5.2, 6.1, 6.5, 7.4]
PEARSON_Y = [5.9, 5.4, 4.4, 4.6, 3.5, 3.7, 2.8, 2.8, 2.4, 1.5]
YORK_X_WEIGHTS = np.array([1000, 1000, 500, 800, 200, 80, 60, 20, 1.8, 1.0])
YORK_Y_WEIGHTS = np.array([1, 1.8, 4, 8, 20, 20, 70, 70, 100, 500])


def test_pearsons_data_with_yorks_weights():
    """York et al. (2004): slope −0.480533407, intercept 5.47991022, u 0.0579850 and 0.294970735, S/(n−2) 1.483294149."""
    line = york(PEARSON_X, PEARSON_Y, YORK_X_WEIGHTS**-0.5, YORK_Y_WEIGHTS**-0.5)
    assert line.slope == pytest.approx(-0.480533407, abs=1e-9)
    assert line.intercept == pytest.approx(5.47991022, abs=1e-8)
    assert line.u_slope == pytest.approx(0.0579850090, abs=1e-9)
    assert line.u_intercept == pytest.approx(0.294970735, abs=1e-9)
    assert line.reduced_chi_square == pytest.approx(1.483294149, abs=1e-9)


@given(slope=st.floats(0.5, 2), intercept=st.floats(-20, 20), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_swapping_the_axes_gives_the_same_line(slope, intercept, seed):
    """Errors on both axes make x and y equals: the line of (y, x) is the inverse of the line of (x, y). Least squares fails this."""
    rng = np.random.default_rng(seed)
    x = np.linspace(50, 300, 8) + rng.normal(0, 3, 8)
    y = intercept + slope * np.linspace(50, 300, 8) + rng.normal(0, 3, 8)
    line, back = york(x, y, 3.0, 3.0), york(y, x, 3.0, 3.0)
    assert back.slope == pytest.approx(1 / line.slope, rel=1e-6)
    assert back.intercept == pytest.approx(-line.intercept / line.slope, rel=1e-5, abs=1e-5)


def test_without_errors_in_x_it_is_weighted_least_squares():
    """The limit u_x = 0."""
    rng = np.random.default_rng(0)
    x, u = np.linspace(0, 10, 12), rng.uniform(0.5, 2, 12)
    y = 3 + 2 * x + u * rng.standard_normal(12)
    expected, covariance = np.polyfit(x, y, 1, w=1 / u, cov="unscaled")
    line = york(x, y, 0.0, u)
    assert [line.slope, line.intercept] == pytest.approx(expected.tolist())
    # York's adjusted points lie on the line; the variances agree to the order of the residuals
    assert line.u_slope == pytest.approx(np.sqrt(covariance[0, 0]), rel=1e-6)


@pytest.mark.parametrize(("x", "u_x", "u_y"), [([1, 1, 1], 1.0, 1.0), ([1, 2], 1.0, 1.0), ([1, 2, 3], 0.0, 0.0), ([1, 2, 3], -1.0, 1.0)])
def test_impossible_lines_are_errors(x, u_x, u_y):
    """Fewer than three points, one x only, or points without any uncertainty."""
    with pytest.raises(ValueError):  # noqa: PT011 -- two messages, both about the arguments
        york(x, [1.0] * len(x), u_x, u_y)


def levels(count=7, *, noise_w=0.5, gain=0.95, offset_w=2.0, seed=0, bend=0.0):
    rng = np.random.default_rng(seed)
    truth = np.linspace(60, 350, count)
    curve = bend * (truth - truth.mean()) ** 2 / 145
    return truth + rng.normal(0, noise_w, count), offset_w + gain * truth + curve + rng.normal(0, noise_w, count)


def test_gain_and_offset_are_found_with_intervals_that_hold():
    """Over 300 seeds the 95 % intervals of gain, offset and of a corrected reading cover 93 to 97 %."""
    inside = np.zeros(3)
    for seed in range(300):
        calibration = calibrate(*levels(seed=seed), u_reference_w=0.5, u_reading_w=0.5)
        power, u = calibration.true_power(2.0 + 0.95 * 200.0)
        pairs = ((calibration.gain, 0.95, calibration.u_gain), (calibration.offset_w, 2.0, calibration.u_offset_w), (power, 200.0, u))
        inside += [abs(value - truth) <= 1.96 * spread for value, truth, spread in pairs]
    assert np.all(inside >= 0.92 * 300)
    assert np.all(inside <= 0.98 * 300)


def test_a_calibrated_sensor_has_the_calibrations_uncertainty():
    """The Type-B terms of an uncalibrated card are replaced."""
    calibration = calibrate(*levels(), u_reference_w=0.5, u_reading_w=0.5)
    sensor = calibration.calibrated(SensorModel(update_period_s=0.1))
    assert sensor.u_gain == pytest.approx(calibration.u_gain / calibration.gain)
    assert sensor.u_gain < 0.01
    assert sensor.u_offset_w < 2.0
    assert (calibration.lowest_w, calibration.highest_w) == pytest.approx((60, 350), abs=3)


def refusal(reference, reading, u_w=0.5):
    with pytest.raises(RefusedError) as caught:
        calibrate(reference, reading, u_reference_w=u_w, u_reading_w=u_w)
    return caught.value.gate


@pytest.mark.parametrize("count", [5, 6])
def test_six_levels_are_the_least(count):
    """The boundary; repeating a level does not add one."""
    x, y = levels(count)
    if count < 6:
        assert refusal(np.append(x, x[-1]), np.append(y, y[-1])).name == "calibration: levels"
    else:
        assert calibrate(x, y, u_reference_w=0.5, u_reading_w=0.5).levels == 6


def test_a_channel_that_does_not_follow_the_meter_is_refused():
    """R² below 0.99, as for a card whose reading is an estimate."""
    gate = refusal(*levels(noise_w=25.0), u_w=25.0)
    assert gate.name == "calibration: linearity"
    assert gate.measured < gate.limit


def test_a_bent_scale_is_refused_by_its_residual():
    """R² is fine and the residual is not: 3 W of curvature where the noise is 0.5 W."""
    gate = refusal(*levels(12, bend=0.05))
    assert gate.name == "calibration: residual"
    assert gate.measured > gate.limit
    assert calibrate(*levels(12, bend=0.0), u_reference_w=0.5, u_reading_w=0.5).reduced_chi_square < 3
