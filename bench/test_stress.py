"""What does a device do under load for minutes: does it slow down, does it hang, and what bounds it?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_physics.experiments.roofline import Roofline, run_roofline
from pytest_physics.experiments.stress import StressMatrix, Sustained, run_stress_matrix, run_sustained
from pytest_physics.experiments.thermal_hysteresis import ThermalHysteresis, run_thermal_hysteresis
from pytest_physics.metrology.throttle import EventClass
from pytest_physics.workloads.roofs import roofs_of
from pytest_physics.workloads.select import steady_load_for
from pytest_physics.workloads.stress_models import stress_model_for

INSTRUMENTS = ("gpu", "cpu")
HOT_SLOWDOWN_C = 65.0
"""The control card slows down from here on, in reach of its load."""

LONG_ENOUGH_S = 30.0
"""A drift of latency on a host that others use shows in less than this who else is there."""


class Stressed:
    """The study of one instrument: its model, its matrix, and what was sustained on it, measured when first asked for."""

    def __init__(self, rig, name):
        self.instrument, self.session = rig[name], rig.session
        self.model = stress_model_for(self.instrument.device)
        self.matrix: StressMatrix = run_stress_matrix(self.instrument, self.session, self.model)
        self.loads: dict[str, Sustained] = {}

    def sustained(self, phase) -> Sustained:
        """Minutes of one phase, once."""
        if phase not in self.loads:
            self.loads[phase] = run_sustained(self.instrument, self.session, self.model, self.matrix, phase)
        return self.loads[phase]

    def roofline(self) -> Roofline:
        """Roofs, and the matrix under them."""
        return run_roofline(self.instrument, self.session, roofs_of(self.instrument.device), self.matrix)


@pytest.fixture(scope="module", params=INSTRUMENTS)
def stressed(rig, request):
    """The study of the GPU, its sensor identified and its idle power known, then of the CPU."""
    if request.param == "gpu":
        request.getfixturevalue("sensor")
        request.getfixturevalue("idle_baseline")
    study = Stressed(rig, request.param)
    yield study
    study.model.close()


@pytest.fixture(scope="module")
def roofline(stressed):
    """Points of the matrix under the measured roofs."""
    return stressed.roofline()


@pytest.fixture(scope="module", params=["this card", "hot control"])
def loop(rig, request) -> ThermalHysteresis:
    """Ramps of temperature on the rig's card; and on a twin of it that slows down earlier, where the rig's card is a twin."""
    if request.param == "this card":
        device = rig.gpu
    elif rig.gpu.simulated:
        spec = rig.gpu.device.spec
        overrides = {**spec.parameters.get("overrides", {}), "card.slowdown_c": HOT_SLOWDOWN_C}
        device = rig.session.add_instrument("hot", replace(spec, parameters={**spec.parameters, "overrides": overrides}))
    else:
        pytest.skip("a card in hardware has no control with a known answer")
    return run_thermal_hysteresis(device, rig.session, steady_load_for(device.device))


@pytest.mark.claim("Every decode of the stress matrix lasts at least a second")
def test_decodes_last(stressed, judge):
    judge(stressed.matrix.shortest_decode >= 1.0)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.claim("Under sustained load the last third of the calls takes at most 5 % longer than the first")
def test_latency_does_not_drift(rig, stressed, phase, judge):
    load_s = rig.settings.stress.host_sustain_s
    if stressed.instrument.name == "cpu" and load_s < LONG_ENOUGH_S:
        pytest.skip(f"{load_s:g} s of load show the host's other work, not heat: at least {LONG_ENOUGH_S:g} s, --physics-profile standard")
    judge(stressed.sustained(phase).latency_drift <= 0.05)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.claim("Under sustained load heat holds the clock back for at most 1 % of the time")
def test_heat_does_not_throttle(stressed, phase, judge):
    judge(stressed.sustained(phase).throttle_share(EventClass.THERMAL) <= 0.01)


@pytest.mark.claim("At its power cap the card draws at most 15 % more than the enforced limit")
def test_power_stays_at_the_cap(stressed, judge):
    judge(stressed.sustained("prefill").power_at_cap <= 1.15)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.claim("The device never says that it is busy at idle power for 10 s")
def test_nothing_stalls(stressed, phase, judge):
    judge(stressed.sustained(phase).longest_stall <= 10.0)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.claim("Energy counter and polled power agree within 15 % over 10 s of load, their scales uncalibrated")
def test_counter_and_polling_agree(stressed, phase, judge):
    mismatch = stressed.sustained(phase).mismatch(10.0)
    judge(mismatch <= 0.15)
    judge(mismatch >= -0.15)


@pytest.mark.claim("A card that slows down for heat recovers only at a lower temperature, and is slower on the way down")
def test_heat_leaves_a_loop(loop, judge):
    judge(loop.width >= 1.0)
    judge(loop.height > 0.0)


@pytest.mark.claim("Decoding with the smallest batch is bound by memory")
def test_decode_is_bound_by_memory(stressed, roofline, judge):
    judge(roofline.position("decode", stressed.matrix.arms[0]) <= 1.0)


@pytest.mark.claim("Prefill of the longest prompts is bound by arithmetic")
def test_prefill_is_bound_by_arithmetic(stressed, roofline, judge):
    judge(roofline.position("prefill", stressed.matrix.arms[-1]) >= 1.0)
