"""The pages of the stress study: what they show is in the run, and what the run has not is said."""

from __future__ import annotations

import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.experiments.roofline import run_roofline
from pytest_physics.experiments.stress import run_stress_matrix, run_sustained
from pytest_physics.experiments.thermal_hysteresis import run_thermal_hysteresis
from pytest_physics.record.data import RecordedRun
from pytest_physics.report.pages import hysteresis as hysteresis_page
from pytest_physics.report.pages import roofline as roofline_page
from pytest_physics.report.pages import stress as stress_page
from pytest_physics.report.sections import PAGES, sections
from pytest_physics.session import Plan, Session
from pytest_physics.workloads.roofs import roofs_of
from pytest_physics.workloads.select import steady_load_for
from pytest_physics.workloads.stress_models import stress_model_for

HOT = {"preset": "rtx4080-laptop", "seed": 2, "overrides": {"card.slowdown_c": 65.0}}
STRESS = {"contexts": (128,), "batches": (1, 1000), "sustain_s": 40.0, "ramp_s": 120.0, "ramp_cycles": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short study on a card that slows early."""
    path = tmp_path_factory.mktemp("pages")
    settings = load_settings(path, overrides={"baseline": {"settle_s": 20.0, "duration_s": 40.0}, "stress": STRESS})
    with Session.start(settings, Plan.using({"gpu": DeviceSpec(kind="twin", parameters=HOT)}), directory=path) as session:
        gpu = session.rig.gpu
        model = stress_model_for(gpu.device)
        matrix = run_stress_matrix(gpu, session, model)
        run_sustained(gpu, session, model, matrix, "prefill")
        run_thermal_hysteresis(gpu, session, steady_load_for(gpu.device))
        run_roofline(gpu, session, roofs_of(gpu.device), matrix)
    return RecordedRun(session.path)


def of(run, experiment):
    """Results of one experiment."""
    return [r for r in run.reader.results if r.experiment == experiment]


@pytest.mark.parametrize(
    ("page", "experiment"), [(stress_page, "stress"), (hysteresis_page, "thermal hysteresis"), (roofline_page, "roofline")]
)
def test_every_page_draws_its_figure_from_the_run(run, page, experiment):
    """One figure of each, the same twice over, without ids that clash; and it is registered."""
    (drawing,) = page.drawings(run, of(run, experiment))
    assert drawing.svg.startswith("<svg")
    assert "mathdefault" not in drawing.svg
    assert page.drawings(run, of(run, experiment))[0].svg == drawing.svg
    assert PAGES[experiment] is page
    titles = [section.title for section in sections(run.reader)]
    assert experiment[:1].upper() + experiment[1:] in titles


def test_the_matrix_shows_what_was_left_out(run):
    """An arm without a number has its reason in its row."""
    _, matrix, loads = stress_page.tables(run, of(run, "stress"))
    assert [row[2] for row in matrix.rows] == ["1", "1000"]
    assert matrix.rows[0][-1] == "measured"
    assert matrix.rows[1][-1].startswith("not tested: twin 'rtx4080-laptop' is out of memory")
    (load,) = loads.rows
    assert load[:2] == ("gpu", "sustained prefill")
    assert "10 s: " in load[-1]


def test_heat_and_cap_stand_in_the_answers(run):
    """The card that slows early: every part is answered."""
    answered, *_ = stress_page.tables(run, of(run, "stress"))
    assert [(row[0][0], row[2]) for row in answered.rows] == [(part, "answered") for part in "ABEF"]
    assert "simulated" in answered.rows[0][1]
    assert "slower at the same temperature" in answered.rows[2][3]


def test_every_point_has_a_side(run):
    """Decode waits for memory, a prefill of 128 tokens lies near the ridge."""
    (table,) = roofline_page.tables(run, of(run, "roofline"))
    assert {(row[1], row[-1]) for row in table.rows} >= {("decode", "memory")}


def test_a_loop_that_was_not_tested_says_so(tmp_path):
    """A cool card: its branches are drawn, and the caption says that heat never held the clock."""
    cool = DeviceSpec(kind="twin", parameters={"preset": "rtx4080-laptop"})
    settings = load_settings(tmp_path, overrides={"stress": STRESS})
    with Session.start(settings, Plan.using({"gpu": cool}), directory=tmp_path) as session:
        found = run_thermal_hysteresis(session.rig.gpu, session, steady_load_for(session.rig.gpu.device))
        with pytest.raises(ChannelUnavailableError, match="no opportunity arose"):
            _ = found.area
    run = RecordedRun(session.path)
    (drawing,) = hysteresis_page.drawings(run, run.reader.results)
    assert "heat held the clock back in 0 of them" in drawing.caption
    (row,) = [row for row in stress_page.answers(run).rows if row[0].startswith("E")]
    assert row[2:] == ("not tested", row[3])
    assert "no opportunity arose" in row[3]
