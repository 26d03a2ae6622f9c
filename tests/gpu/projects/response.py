"""The whole instrument-response experiment on a card whose power follows a load as a kernel's would."""

from __future__ import annotations

import time

import pytest
from conftest import BUSY_W, IDLE_W

from pytest_physics import relative_uncertainty
from pytest_physics.experiments.sensor_characterisation import characterise_sensor


class DrawnLoad:
    """A load that moves the card's true power for a time."""

    def __init__(self, draw, share=1.0):
        self.draw, self.share = draw, share

    def warm_up(self):
        """Nothing to warm."""

    def at(self, share):
        """The same at a share of the swing."""
        return DrawnLoad(self.draw, share)

    def run_for(self, duration_s):
        """Draw, wait to the microsecond, and stop drawing."""
        end = time.perf_counter() + duration_s
        self.draw(IDLE_W + self.share * (BUSY_W - IDLE_W))
        while (left_s := end - time.perf_counter()) > 0:
            time.sleep(max(0.0, left_s - 0.001))
        self.draw(IDLE_W)


@pytest.fixture(scope="module")
def found(rig):
    from conftest import LIVE

    return characterise_sensor(rig.gpu, rig.session, DrawnLoad(LIVE.power_w))


@pytest.mark.claim("The update period is known to 0.2 %")
def test_period(found, judge):
    judge(relative_uncertainty(found.estimates["update_period_s"]) <= 0.002)


@pytest.mark.claim("The square wave shows")
def test_square_wave(found, judge):
    judge(found.estimates["step_w"] >= 10)


@pytest.mark.claim("The counter agrees with the readings")
def test_counter(found, judge):
    judge(found.estimates["counter_scale"] <= 1.11)
    judge(found.estimates["counter_scale"] >= 0.89)
    judge(found.estimates["counter_disagreement"] <= 0.02)


@pytest.mark.claim("A load in step with the sensor is misread by most of its swing")
def test_phase_lock(found, judge):
    judge(found.estimates["phase_lock"] >= 0.5)
