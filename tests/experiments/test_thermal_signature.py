"""Thermal signatures: told apart on a twin, refused from single replicates and from different starts."""

from __future__ import annotations

import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.experiments.thermal_signature import run_thermal_signature
from pytest_physics.metrology.uncertainty import Recipe
from pytest_physics.record.verify import verify_run
from pytest_physics.report.build import build_report
from pytest_physics.session import Plan, Session
from pytest_physics.workloads.signature_loads import ARITHMETIC, MEMORY, TRAINING, signature_loads


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """Signatures of three workloads on a twin."""
    directory = tmp_path_factory.mktemp("signature")
    settings = load_settings(directory, virtual_time=True, overrides={"training": {"twin_signature_load_s": 40.0}})
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters={"preset": "rtx4080-laptop", "seed": 0})})
    session = Session.start(settings, plan, directory=directory)
    found = run_thermal_signature(session.rig.gpu, session, signature_loads(session.rig.gpu.device))
    live = found.accuracy_above_chance, found.p
    session.finish(publish=build_report)
    return session, found, live


def test_three_workloads_are_told_apart(signed):
    """Above chance with its interval, and hardly ever by shuffled labels; every gate is green."""
    accuracy, p = signed[2]
    assert accuracy.interval[0] > 0
    assert p.value <= 0.05
    assert not [gate for gate in accuracy.gates if gate.refuses]


def test_features_hold_the_truth(signed):
    """Power, energy and shares of every workload, beside what the simulated card really did."""
    session, _, _ = signed
    known = [r for r in session.results if r.truth is not None and r.estimate.value is not None]
    inside = [abs(r.estimate.value - r.truth) <= r.estimate.expanded + 1e-9 for r in known]
    assert len(known) >= 12
    assert sum(inside) >= 0.9 * len(known)


def test_the_pulsed_training_has_a_line_at_its_period(signed):
    """Three steps of each kind: a sixth of a hertz, less what boost makes of a step."""
    _, found, _ = signed
    assert found.feature(TRAINING, "spectrum_peak_hz").value == pytest.approx(1 / 6, abs=0.04)


def test_the_run_verifies_and_has_its_page(signed):
    """Small multiples, the table, and who was named what."""
    session, _, _ = signed
    verified = verify_run(session.path)
    assert verified.passed, verified.findings
    page = (session.path / "report.html").read_text()
    for words in ("Signatures on gpu", "fig-signature-gpu", f"named {MEMORY}", ARITHMETIC):
        assert words in page


def test_a_single_replicate_is_no_signature(signed):
    """Its spread is unknown."""
    session, found, _ = signed
    first = [w for w in found.windows if session.instruments["gpu"].windows[w].labels["workload"] == ARITHMETIC][:2]
    recipe = Recipe(
        op="signature.feature", parameters={"windows": first, "sensor": "", "workload": ARITHMETIC, "feature": "power_above_idle_w"}
    )
    estimate = session.evaluate(recipe)
    assert any(gate.name == "replicates" and gate.refuses for gate in estimate.gates)


def test_different_starts_are_refused(signed):
    """Without cooling in between the replicates are not comparable, and the gate says by how much."""
    session, found, _ = signed
    pairs = list(zip(found.windows[::2], found.windows[1::2], strict=True))
    hot = [name for idle, load in pairs for name in (load, load)]  # a load in place of its idle time: as hot as the work before it
    estimate = session.evaluate(Recipe(op="signature.accuracy", parameters={"windows": hot}))
    assert any(gate.name == "start temperature" and gate.refuses for gate in estimate.gates)


def test_without_a_thermometer_nothing_is_claimed(tmp_path):
    """Not tested, in the device's own words."""
    with Session.start(
        load_settings(tmp_path), Plan.using({"cpu": DeviceSpec(kind="cpu", parameters={"root": str(tmp_path)})}), directory=tmp_path
    ) as session:
        cpu = session.rig.cpu
        with pytest.raises(ChannelUnavailableError):
            run_thermal_signature(cpu, session, {})
