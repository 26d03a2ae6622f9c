"""The soak ends at equilibrium, early where it is hopeless, and in any case; its gates are computed again from the trace."""

from __future__ import annotations

import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.twin import TwinLoad
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.experiments.heat_soak import progress_line, run_heat_soak
from pytest_physics.metrology.thermal import SoakState
from pytest_physics.record.verify import verify_run
from pytest_physics.session import Plan, Session
from pytest_physics.workloads.twin import TwinKernel


def soaked(tmp_path, budget_s, *, preset="rtx4080-laptop", intensity=0.6, faults=(), soak=None, progress=None):
    """A soak on a twin; session and result."""
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters={"preset": preset, "seed": 1, "faults": list(faults)})})
    settings = load_settings(tmp_path, overrides={"soak": {"budget_s": budget_s, **(soak or {})}})
    with Session.start(settings, plan, directory=tmp_path) as session:
        device = session.rig.gpu.device
        found = run_heat_soak(session.rig.gpu, session, TwinKernel(device, load=TwinLoad(intensity=intensity)), progress=progress)
    assert verify_run(session.path).findings == ()
    return session, found


def test_it_ends_at_equilibrium(tmp_path):
    """Before the budget is used up; the plateau holds the truth that the twin's thermal network knows."""
    lines = []
    session, found = soaked(tmp_path, 3600.0, progress=lines.append)
    assert found.assessment.state is SoakState.EQUILIBRIUM
    assert session.rig.gpu.clock.now_ns() < 3000e9
    assert not any(gate.refuses for gate in session.gates_of(found.requirement))
    assert abs(found.slope.value) <= 0.5
    assert "equilibrium" in lines[-1].lower()
    assert lines[-1] == progress_line(found.assessment)


def test_work_just_before_the_soak_is_not_its_idle_power(tmp_path):
    """Another experiment may have loaded the card a moment ago: the load is compared with the end of the idle look."""
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters={"preset": "rtx4080-laptop", "seed": 1})})
    with Session.start(load_settings(tmp_path, overrides={"soak": {"budget_s": 3600.0}}), plan, directory=tmp_path) as session:
        load = TwinKernel(session.rig.gpu.device, load=TwinLoad(intensity=0.6))
        load.run_for(60.0)
        found = run_heat_soak(session.rig.gpu, session, load)
        gate = next(gate for gate in session.gates_of(found.requirement) if gate.name == "soak load")
        assert gate.passed, gate.reason


def test_a_budget_that_is_too_short_is_refused_with_what_it_would_take(tmp_path):
    """Never a verdict on less data than the thermometer's step allows; the gate says how long it takes."""
    session, found = soaked(tmp_path, 40.0)
    refusing = [gate for gate in session.gates_of(found.requirement) if gate.refuses]
    assert refusing
    assert all(gate.remedy for gate in refusing)
    assert 40 <= session.rig.gpu.clock.now_ns() / 1e9 <= 60


def test_a_card_that_would_run_into_its_limit_is_refused_early(tmp_path):
    """The fitted plateau lies above the limit: the soak ends as hopeless long before the budget, and the card stays below the limit."""
    session, found = soaked(tmp_path, 900.0, intensity=1.0, soak={"trip_c": 60.0, "resume_c": 55.0})
    temperature = session.rig.gpu.trace.values("temperature_c")
    assert temperature.max() <= 64
    assert found.assessment.state is SoakState.HOPELESS
    assert any(gate.refuses for gate in session.gates_of(found.requirement))
    assert session.rig.gpu.clock.now_ns() / 1e9 <= 300


def test_a_card_that_never_cools_does_not_hang_the_soak(tmp_path):
    """The temperature reading is stuck above the limit: waiting ends with the budget."""
    fault = {"kind": "stale", "start_s": 100.0}
    session, found = soaked(tmp_path, 300.0, intensity=1.0, faults=[fault], soak={"trip_c": 45.0, "resume_c": 30.0})
    assert session.rig.gpu.clock.now_ns() / 1e9 <= 330
    assert any(gate.refuses for gate in session.gates_of(found.requirement))


def test_without_a_thermometer_it_is_not_tested(tmp_path):
    """The device's own reason."""
    with pytest.raises(ChannelUnavailableError, match="cannot read 'temperature_c': NVML_ERROR_NOT_SUPPORTED"):
        soaked(tmp_path, 30.0, faults=[{"kind": "channel_absent", "value": "temperature_c"}])
