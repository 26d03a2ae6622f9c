"""What compared arms must have in common, and what each must show: boundary pairs, and planted faults."""

from __future__ import annotations

import math

import pytest

from pytest_physics.metrology.parity import MIN_UPDATES, enough_updates, power_rise, temperature_drift, temperature_parity


@pytest.mark.parametrize(("warm", "passed"), [(58.0, True), (58.01, False)])
def test_arms_must_start_equally_warm(warm, passed):
    """At most the limit apart, whatever the order."""
    gate = temperature_parity({"b": warm, "a": 55.0}, 3.0)
    assert gate.passed is passed
    assert gate.measured == pytest.approx(warm - 55.0)
    assert bool(gate.remedy) is not passed


@pytest.mark.parametrize("start_c", [{"a": 50.0}, {"a": 50.0, "b": math.nan}])
def test_a_temperature_that_is_not_known_refuses(start_c):
    """Nothing is compared with nothing."""
    gate = temperature_parity(start_c, 3.0)
    assert gate.refuses
    assert gate.measured is None


@pytest.mark.parametrize(
    ("first", "last", "passed"), [(55.0, 50.0, True), (50.0, 55.0, True), (55.0, 49.9, False), (math.nan, 50.0, False)]
)
def test_a_sweep_at_rest_does_not_drift(first, last, passed):
    """In either direction; and not known is not at rest."""
    gate = temperature_drift(first, last, 5.0, scope="gpu-p1")
    assert gate.passed is passed
    assert ("start='cold'" in gate.remedy) is not passed


@pytest.mark.parametrize(
    ("before", "during", "u", "passed"),
    [(20.0, 22.0, 0.1, True), (20.0, 21.9, 0.1, False), (20.0, 22.9, 1.0, False), (20.0, 23.0, 1.0, True)],
)
def test_power_must_rise_with_the_work(before, during, u, passed):
    """By a tenth, and by three standard uncertainties."""
    assert power_rise(before, during, u_w=u, scope="x").passed is passed


def test_a_rise_that_is_not_known_refuses():
    """NaN is no rise."""
    assert power_rise(math.nan, math.nan, u_w=0.0, scope="x").refuses


@pytest.mark.parametrize(("fewest", "passed"), [(MIN_UPDATES, True), (MIN_UPDATES - 1, False)])
def test_every_window_needs_updates(fewest, passed):
    """Five, or the event must be repeated."""
    gate = enough_updates(fewest, scope="x")
    assert gate.passed is passed
    assert ("repeat" in gate.remedy) is not passed
