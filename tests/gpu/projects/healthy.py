"""A card that works, with a torch that has no CUDA: what can be measured is, and what needs torch says why it is not."""

from __future__ import annotations

import time

import pytest

from pytest_physics import Recipe
from pytest_physics.experiments.joule_curve import run_joule_curve
from pytest_physics.workloads.select import language_model_for


@pytest.fixture(scope="module")
def joule_curve(rig, idle_baseline, heat_soaked):
    return run_joule_curve(rig.gpu, rig.session, language_model_for(rig.gpu.device, "small"))


@pytest.mark.claim("The idle card draws 80 W, give or take half a watt")
def test_idle(rig, idle_baseline, judge):
    power = rig.session.evaluate(Recipe(op="baseline.power", parameters={"baseline": idle_baseline.id}))
    rig.session.result("gpu", "idle power", power)
    assert abs(power.value - 80) < 0.5
    judge(power <= 110)


@pytest.mark.parametrize("repetition", range(3))
def test_step(repetition, step, report, idle_baseline, judge):
    """A step of power costs between 300 and 600 J."""
    with step("step", tokens=100) as window:
        time.sleep(1.2 + 0.11 * repetition)  # at several phases of the sensor
    report(window, baselines=(idle_baseline,), kinds=("gross", "net"))
    judge(window.energy.gross <= 600)
    judge(window.per("token").net >= 1.5)


@pytest.mark.energy_budget(joules=600)
def test_budget(draw):
    """One second of work stays within its budget."""
    draw(300)
    time.sleep(1.0)
    draw(80)


def test_sensor(rig, sensor):
    """Without a load to identify the sensor with, its prior is what is known."""
    assert rig.gpu.sensor.origin == "prior"


@pytest.mark.claim("The soaked card stays below 83 °C")
def test_soak(heat_soaked, judge):
    judge(heat_soaked.plateau <= 83)


@pytest.mark.claim("Batching halves the energy per token")
def test_curve(joule_curve, judge):
    judge(joule_curve.per_token(8) / joule_curve.per_token(1) <= 0.5)


@pytest.mark.claim("A model can be built on the card")
def test_model(rig):
    language_model_for(rig.gpu.device, "small")
