"""Can the readings be trusted: do counter and integral agree, and is an event that is too short refused?"""

from __future__ import annotations

import pytest

from pytest_physics import Recipe
from pytest_physics.workloads.select import steady_load_for


@pytest.fixture(scope="module")
def loaded_window(rig, idle_baseline):
    """Five seconds of constant load."""
    load = steady_load_for(rig.gpu.device)
    load.warm_up()
    rig.gpu.sleep(rig.gpu.tail_ns / 1e9)
    with rig.gpu.window("constant load") as window:
        load.run_for(5.0)
    rig.gpu.wait_until_sampled(window.t1_ns + rig.gpu.tail_ns)
    return window


@pytest.mark.claim("Energy counter and integrated power agree within 25 % over five seconds of load")
@pytest.mark.needs("gpu.power_w", "gpu.energy_j")
def test_counter_agrees_with_integral(rig, loaded_window, judge):
    counter = rig.gpu.energy(loaded_window, estimator="counter").gross
    integral = rig.gpu.energy(loaded_window, estimator="power").gross
    for name, energy in {"counter": counter, "integral": integral}.items():
        rig.session.result("sampling integrity", f"energy by {name}", energy)
    ratio = counter / integral
    rig.session.result("sampling integrity", "counter over integral", ratio)
    judge(ratio <= 1.25)
    judge(ratio >= 0.75)


@pytest.mark.claim("At most 1 % of the power readings fail under load")
def test_reads_succeed(rig, loaded_window, judge):
    recipe = Recipe(op="window.read_error_fraction", parameters={"window": loaded_window.id, "channel": "power_w"})
    judge(rig.session.evaluate(recipe) <= 0.01)


@pytest.mark.claim("An event of 5 ms is refused, because the sensor updates at most once in it")
def test_short_event_is_refused(rig, idle_baseline, judge):
    load = steady_load_for(rig.gpu.device)
    rig.gpu.sleep(rig.gpu.tail_ns / 1e9)
    with rig.gpu.window("short event") as window:
        load.run_for(0.005)
    assert window.energy.net.quality.name == "NO_DATA"
    judge(rig.session.evaluate(Recipe(op="window.updates", parameters={"window": window.id, "sensor": rig.gpu.sensor_id})) <= 1)
