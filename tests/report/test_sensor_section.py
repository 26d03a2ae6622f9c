"""The section "Sensor" of a report: figures from the recorded phases, and what a phase that cannot be drawn leaves."""

from __future__ import annotations

import shutil

import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.experiments.sensor_characterisation import characterise_sensor
from pytest_physics.record.reader import RunReader
from pytest_physics.report.build import render
from pytest_physics.report.sections import sections
from pytest_physics.session import Plan, Session
from pytest_physics.workloads.select import steady_load_for


def run_of(directory, *, preset="v100", faults=()):
    settings = load_settings(directory, overrides={"sensor": {"square_s": 1.0, "levels_s": 0.5}})
    parameters = {"preset": preset, "seed": 1, "faults": list(faults)}
    with Session.start(settings, Plan.using({"gpu": DeviceSpec(kind="twin", parameters=parameters)}), directory=directory) as session:
        characterise_sensor(session.rig.gpu, session, steady_load_for(session.rig.gpu.device))
    return session.path


@pytest.fixture(scope="module")
def characterised(tmp_path_factory):
    """A run with the whole experiment."""
    return run_of(tmp_path_factory.mktemp("characterised"))


def sensor_of(path):
    return next(section for section in sections(RunReader(path)) if section.id == "sensor")


def test_section_shows_fit_square_wave_and_mismatch(characterised):
    """Three figures drawn, a table with the truth beside, and words that explain them."""
    section = sensor_of(characterised)
    assert [drawing.svg != "" for drawing in section.drawings] == [True, True, True]
    assert "telegraph" in section.drawings[0].caption
    assert "square wave" in section.drawings[1].caption
    assert "spans of 0.1 s" in section.drawings[2].caption
    shown = {row.quantity for row in section.results}
    assert shown >= {"update period", "averaging window", "delay", "resolution", "counter: tick", "counter less integral"}
    assert section.coverage.endswith("hold the truth")
    assert "Understanding this" in render(RunReader(characterised))


def test_same_run_gives_the_same_bytes(characterised):
    """The figures do not depend on when they are drawn."""
    assert render(RunReader(characterised)) == render(RunReader(characterised))


def test_refused_sensor_has_a_sentence_in_place_of_the_fit(tmp_path):
    """Where identification is refused, the figure's place says why; the square wave is drawn all the same."""
    section = sensor_of(run_of(tmp_path, faults=[{"kind": "sensor_stall", "start_s": 3.0}]))
    assert section.drawings[0].svg == ""
    assert "not identified" in section.drawings[0].caption
    assert "stood for up to" in section.drawings[0].caption
    assert section.drawings[1].svg != ""


def test_lost_windows_cost_the_figures_only(characterised, tmp_path):
    """A run whose windows were lost still has its page, and says what cannot be drawn."""
    copy = shutil.copytree(characterised, tmp_path / characterised.name)
    (copy / "windows.jsonl").write_text("")
    section = sensor_of(copy)
    assert [drawing.svg != "" for drawing in section.drawings] == [False, False, True]
    assert all("cannot be drawn" in drawing.caption for drawing in section.drawings[:2])
