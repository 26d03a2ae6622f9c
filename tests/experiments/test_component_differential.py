"""Component differential: a hot control is found, an equal one is not, and what is no contrast is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.experiments.component_differential import record_rules, rule_number, run_contrast, run_twin_contrast
from pytest_physics.metrology.instability import RULES
from pytest_physics.metrology.uncertainty import Recipe
from pytest_physics.record.verify import verify_run
from pytest_physics.report.build import build_report
from pytest_physics.session import Plan, Session


@pytest.fixture(scope="module")
def contrasted(tmp_path_factory):
    """A twin against a hot and an equal control."""
    directory = tmp_path_factory.mktemp("differential")
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters={"preset": "rtx4080-laptop", "seed": 0})})
    session = Session.start(load_settings(directory, virtual_time=True), plan, directory=directory)
    found = {hot: run_twin_contrast(session.rig.gpu, session, hot=hot) for hot in (True, False)}
    record_rules(session)
    live = {hot: (c.share, c.onset, c.efficiency, c.needed_ticks, c.rate) for hot, c in found.items()}
    session.finish(publish=build_report)
    return session, found, live


def test_the_card_that_slows_down_early_is_found(contrasted):
    """It has more events; when the other would have its first one is not known; its efficiency is better: a lower clock costs less."""
    share, onset, efficiency, needed, rate = contrasted[2][True]
    assert share.interval[0] > 0
    assert rate.interval[0] > 0
    assert math.isnan(onset.value)
    assert any("had none: its first event is later than" in gate.reason for gate in onset.gates)
    assert efficiency.interval[0] > 0
    assert math.isfinite(needed.value)


def test_between_equal_cards_nothing_is_found(contrasted):
    """The interval of the share holds 0, so does that of the efficiency; neither had an event."""
    share, onset, efficiency, _, rate = contrasted[2][False]
    assert share.interval[0] <= 0 <= share.interval[1]
    assert rate.value == 0
    assert rate.interval[0] < 0 < rate.interval[1]
    assert efficiency.interval[0] <= 0 <= efficiency.interval[1]
    assert math.isnan(onset.value)


def test_the_run_verifies_and_has_its_page(contrasted):
    """Differences, rules and figures follow from the artifacts."""
    session, _, _ = contrasted
    found = verify_run(session.path)
    assert found.passed, found.findings
    page = (session.path / "report.html").read_text()
    for words in ("What every event rule can and cannot do", "fig-contrast-", "fig-differences", *RULES):
        assert words in page


def test_every_rule_ships_with_its_numbers(contrasted):
    """The legacy rules by id: one fires on idle, one cannot fire at all."""
    session, _, _ = contrasted
    numbers = {(rule, q): rule_number(session, rule, q).value for rule in RULES for q in ("idle", "noise", "detection", "reach")}
    assert numbers["instability/1", "detection"] == 1
    assert numbers["rle/collapse-v2", "idle"] > 0.5
    assert numbers["rle/collapse-v0.3", "reach"] == 0


def test_the_truth_is_that_of_the_rule_on_the_true_card(contrasted):
    """Within the interval for the rule of this package; legacy rules, defined on rounded readings, have none."""
    session, _, _ = contrasted
    rates = [r for r in session.results if r.quantity == "share of ticks flagged"]
    assert {r.coordinates["rule"] for r in rates if r.truth is not None} == {"instability/1"}
    assert all(abs(r.estimate.value - r.truth) <= r.estimate.expanded for r in rates if r.truth is not None)


def test_a_simulated_and_a_real_device_are_no_pair(tmp_path):
    """Two clocks: not tested, with the reason."""
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters={"preset": "ideal", "seed": 0}), "cpu": DeviceSpec(kind="cpu")})
    with (
        Session.start(load_settings(tmp_path), plan, directory=tmp_path) as session,
        pytest.raises(ChannelUnavailableError, match="simulated"),
    ):
        run_contrast(session.rig.gpu, session.rig.cpu, session)


def test_a_device_that_was_never_loaded_is_refused(contrasted, tmp_path):
    """An idle card has no events, and that is no finding."""
    plan = Plan.using({name: DeviceSpec(kind="twin", parameters={"preset": "ideal", "seed": 0}) for name in ("one", "two")})
    with Session.start(load_settings(tmp_path, virtual_time=True), plan, directory=tmp_path) as session:
        phases = []
        for name in ("one", "two"):
            with session.rig[name].phase("idle") as phase:
                session.rig[name].sleep(60.0)
            phases.append(phase.id)
        parameters = {"phase": phases[0], "span": phases[1], "rule": "instability/1", "tick_s": 1.0}
        estimate = session.evaluate(Recipe(op="differential.share", parameters=parameters))
        rate = session.evaluate(Recipe(op="events.rate", parameters=parameters))
        free = session.evaluate(Recipe(op="events.free_share", parameters=parameters))
        legacy = {**parameters, "rule": "rle/collapse-v2"}
        onset, v2 = (session.evaluate(Recipe(op=f"differential.{of}", parameters=legacy)) for of in ("onset", "share"))
    assert np.isnan(estimate.value)
    assert any(gate.name == "device under load" and gate.refuses for gate in estimate.gates)
    assert any("never under load" in gate.reason for gate in rate.gates)
    assert np.isnan(free.value)
    assert any("never under load" in gate.reason for gate in free.gates)
    for contrast in (onset, v2):  # a legacy rule that fires whatever the load is no exception
        assert np.isnan(contrast.value)
        assert any(gate.name == "device under load" and gate.refuses for gate in contrast.gates)
