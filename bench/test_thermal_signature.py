"""Has a workload a thermal signature, and does it tell workloads apart?"""

from __future__ import annotations

import pytest

from pytest_physics.experiments.thermal_signature import ThermalSignatures, run_thermal_signature
from pytest_physics.workloads.signature_loads import ARITHMETIC, MEMORY, signature_loads


@pytest.fixture(scope="module", params=["gpu", "cpu"])
def signatures(rig, request) -> ThermalSignatures:
    """Signatures of three workloads on one device."""
    instrument = rig[request.param]
    instrument.require("temperature_c")
    return run_thermal_signature(instrument, rig.session, signature_loads(instrument.device))


@pytest.mark.claim("Thermal signatures name workloads better than chance")
def test_signatures_tell_workloads_apart(signatures, judge):
    judge(signatures.accuracy_above_chance > 0.0)
    judge(signatures.p <= 0.05)


@pytest.mark.claim("Arithmetic warms the device more than copying does")
def test_arithmetic_warms_more(signatures, judge):
    rise = {name: signatures.feature(name, "steady_rise_c") for name in (ARITHMETIC, MEMORY)}
    judge(rise[ARITHMETIC] > rise[MEMORY])
