"""Is the idle baseline idle, and is it the same before and after?"""

from __future__ import annotations

import pytest

from pytest_physics import Recipe


@pytest.fixture(scope="module")
def idle_power(rig, idle_baseline):
    recipe = Recipe(op="baseline.power", parameters={"baseline": idle_baseline.id})
    return rig.session.result("idle baseline", "idle power", rig.session.evaluate(recipe))


@pytest.mark.claim("The idle GPU draws less than a quarter of its power limit")
def test_idle_is_idle(rig, idle_power, judge):
    rig.gpu.require("power_limit_w")
    judge(idle_power <= 0.25 * rig.gpu.sampler.latest()["power_limit_w"])


@pytest.mark.claim("The idle power of two baselines agrees within 1 W")
def test_idle_is_stable(rig, idle_power, judge):
    again = rig.gpu.baseline()
    recipe = Recipe(op="baseline.power", parameters={"baseline": again.id})
    change = rig.session.evaluate(recipe) - idle_power
    rig.session.result("idle baseline", "change of idle power", change)
    judge(change <= 1.0)
    judge(change >= -1.0)
