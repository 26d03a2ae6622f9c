"""What is the power channel really: how often does it update, over how long does it average, how late is it, and is the counter right?"""

from __future__ import annotations

import pytest

from pytest_physics import relative_uncertainty
from pytest_physics.experiments.sensor_characterisation import SensorCharacterisation, characterise_sensor
from pytest_physics.workloads.select import steady_load_for

SCALES_APART = 0.11
"""Three times the standard uncertainty of an uncalibrated scale: counter and readings may differ by this much and both be healthy."""


@pytest.fixture(scope="module")
def sensor_checks(rig, sensor) -> SensorCharacterisation:
    """Square wave, phase lock, notch, levels, counter: everything a driven load shows of the power sensor."""
    return characterise_sensor(rig.gpu, rig.session, steady_load_for(rig.gpu.device), known=sensor)


@pytest.mark.claim("The update period of the power sensor is known to 0.2 %")
def test_update_period_is_known(sensor_checks, judge):
    judge(relative_uncertainty(sensor_checks.estimates["update_period_s"]) <= 0.002)


@pytest.mark.claim("A reading is never later than one update period")
def test_sensor_is_prompt(sensor_checks, judge):
    judge(sensor_checks.estimates["delay_s"] <= sensor_checks.estimates["update_period_s"])


@pytest.mark.claim("A square wave of load shows in the readings, and rises as fast as the identified sensor allows")
def test_square_wave_passes(sensor_checks, judge):
    judge(sensor_checks.estimates["step_w"] >= 10.0)


@pytest.mark.claim("The energy counter agrees with the integral of the readings, within what uncalibrated scales may differ")
def test_counter_agrees_with_the_integral(rig, sensor_checks, judge):
    rig.gpu.require("energy_j")
    judge(sensor_checks.estimates["counter_scale"] <= 1 + SCALES_APART)
    judge(sensor_checks.estimates["counter_scale"] >= 1 - SCALES_APART)
    judge(sensor_checks.estimates["counter_disagreement"] <= 0.01)
