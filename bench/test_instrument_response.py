"""What is the power channel really: how often does it update, over how long does it average, how late is it?"""

from __future__ import annotations

import pytest

from pytest_physics import relative_uncertainty


@pytest.mark.claim("The update period of the power sensor is known to 0.2 %")
def test_update_period_is_known(sensor, judge):
    judge(relative_uncertainty(sensor.estimates["update_period_s"]) <= 0.002)


@pytest.mark.claim("A reading is never later than one update period")
def test_sensor_is_prompt(sensor, judge):
    judge(sensor.estimates["delay_s"] <= sensor.estimates["update_period_s"])
