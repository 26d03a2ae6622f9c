"""A driver that does not know field 186: no power, but a counter."""

from __future__ import annotations

import time

import pytest


@pytest.mark.needs("gpu.power_w")
@pytest.mark.claim("The peak power stays below the limit")
def test_power(rig, judge):
    judge(rig.session.evaluate(None) <= 350)


@pytest.mark.claim("The card has an idle power")
def test_baseline(idle_baseline, judge):
    judge(idle_baseline.mean_w <= 100)


@pytest.mark.claim("The sensor is known")
def test_sensor(sensor):
    assert sensor.update_period_s > 0


@pytest.mark.claim("A step costs at most 600 J")
def test_gross(step, report, judge):
    with step("step") as window:
        time.sleep(1.3)
    report(window, estimators=("counter",))
    judge(window.energy.gross <= 600)


@pytest.mark.claim("A step costs at most 500 J above idle")
def test_net(rig, judge):
    judge(rig.gpu.windows["gpu-w1"].energy.net <= 500)
