"""Does the GPU reach thermal equilibrium under constant load, and does it stay cool enough?"""

from __future__ import annotations

import pytest


@pytest.mark.claim("Under constant load the temperature settles to within 0.5 °C per minute", id="thermal-equilibrium")
def test_temperature_settles(heat_soaked, judge):
    judge(heat_soaked.slope <= 0.5)
    judge(heat_soaked.slope >= -0.5)


@pytest.mark.claim("The temperature settles below the slowdown limit of 83 °C")
def test_temperature_stays_below_the_limit(heat_soaked, judge):
    judge(heat_soaked.plateau <= 83.0)
