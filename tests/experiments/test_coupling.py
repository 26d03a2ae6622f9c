"""The training coupling end to end: planted on a twin, absent on a twin, on recordings, and after a joint session."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import rle_recordings

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.experiments.coupling import PLANTED_LAG, affordable_lags, record_step_samples, run_simulated_training
from pytest_physics.experiments.joint_coupling import coupling_lines
from pytest_physics.metrology.uncertainty import Recipe
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.recipes import evaluate
from pytest_physics.record.rle_import import import_rle
from pytest_physics.record.verify import verify_run
from pytest_physics.report.build import build_report
from pytest_physics.session import Plan, Session

PAIR = ("grad_norm", "power_w")


def twin_session(directory, seed=0, **overrides):
    """A session on a simulated laptop card."""
    settings = load_settings(directory, virtual_time=True, overrides=overrides)
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters={"preset": "rtx4080-laptop", "seed": seed})})
    return Session.start(settings, plan, directory=directory)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A twin with a planted training and one without, finished."""
    session = twin_session(tmp_path_factory.mktemp("coupling"))
    found = {r: run_simulated_training(session.rig.gpu, session, planted_r=r, seed=3) for r in (0.5, 0.0)}
    live = {r: {q: training.number(q, *PAIR) for q in ("r", "word", "lag", "p", "n_eff")} for r, training in found.items()}
    session.finish(publish=build_report)
    return session, found, live


def test_a_planted_coupling_is_found_with_its_lag_and_its_size(trained):
    """The planted value lies in the interval, the lag is exact, and a word is earned."""
    _, _, live = trained
    low, high = live[0.5]["r"].interval
    assert low < 0.5 < high
    assert live[0.5]["lag"].value == PLANTED_LAG
    assert live[0.5]["word"].value >= 1


def test_where_nothing_was_planted_nothing_is_claimed(trained):
    """The same gradient norms, another load."""
    _, _, live = trained
    assert live[0.0]["word"].value == 0
    assert live[0.0]["p"].value > 0.05


def test_a_series_that_explains_nothing_leaves_the_coefficient(trained):
    """Partial correlation with the loss given: the planted value stays in the interval; with nothing given there is none."""
    _, found, _ = trained
    low, high = found[0.5].number("partial", *PAIR, given=["loss"]).interval
    assert low < 0.5 < high
    refused = found[0.5].number("partial", *PAIR)
    assert math.isnan(refused.value)
    assert "no load was given" in refused.gates[0].reason


def test_the_planted_value_stands_beside_the_estimate(trained):
    """As truth of r and lag of the planted pair, and of no other."""
    session, _, _ = trained
    truths = {(r.coordinates.get("training"), r.coordinates.get("series"), r.quantity): r.truth for r in session.results}
    assert truths["planted r = 0.5", "grad_norm ~ power_w", "r"] == pytest.approx(0.5, abs=0.01)
    assert truths["planted r = 0.5", "grad_norm ~ power_w", "lag in rows"] == PLANTED_LAG
    assert truths["planted r = 0.5", "grad_norm ~ steps_per_joule", "r"] is None
    assert truths["nothing planted", "grad_norm ~ power_w", "r"] is None


def test_the_recorded_run_gives_the_same_numbers(trained):
    """Every leaf is computed from table and trace alone."""
    session, _, _ = trained
    found = verify_run(session.path)
    assert found.passed, found.findings


def test_another_gradient_norm_in_the_table_is_found(trained, tmp_path):
    """A number of the record that no longer follows from its table is named."""
    import shutil

    session, found, _ = trained
    copy = tmp_path / session.path.name
    shutil.copytree(session.path, copy)
    path = copy / f"table-{found[0.5].table}.npy"
    rows = np.load(path)
    rows["grad_norm"] = rows["grad_norm"][::-1]
    np.save(path, rows)
    problems = [finding.where + finding.problem for finding in verify_run(copy).findings]
    assert any("results.jsonl" in problem for problem in problems)


def test_the_step_index_stands_on_both_sides(trained):
    """Every sample between two marks belongs to the later one's step, and to no other."""
    session, found, _ = trained
    rows = session.table("step-samples-gpu-1")
    steps = found[0.5].steps
    np.testing.assert_array_equal(rows["step"], steps.step)
    trace = session.trace("gpu")
    inside = (trace.t_ns > steps.begin_ns[0]) & (trace.t_ns <= steps.end_ns[-1])
    assert rows["samples"].sum() == inside.sum()
    assert (rows["first_tick"][1:] > rows["last_tick"][:-1]).all()


def test_the_page_has_the_figures_and_the_table(trained):
    """Step axis, scatter plots, lags, coefficients."""
    session, _, _ = trained
    page = (session.path / "report.html").read_text()
    for words in (
        "Gradient norm",
        "Steps per joule",
        "fig-scatter-training-steps-1",
        "fig-lags-training-steps-1",
        "How long must the steady zone be?",
    ):
        assert words in page


def test_a_short_steady_zone_searches_fewer_lags():
    """With n pairs and L lags either way the smallest possible p is (2 L + 1) / n: never above 5 %, where there is a choice."""
    for rows in (20, 25, 70, 230, 10_000):
        lags = affordable_lags(rows)
        assert lags <= 5
        assert lags == 0 or (2 * lags + 1) / rows <= 0.05
    assert affordable_lags(10_000) == 5


def test_telemetry_that_ends_too_soon_is_refused(tmp_path):
    """Below 90 % matched steps there is no coefficient, and the gate says how many were matched."""
    session = twin_session(tmp_path)
    gpu = session.rig.gpu
    with gpu.phase("training") as phase:
        gpu.sleep(30.0)
    t_ns = phase.t0_ns + np.arange(1, 61) * 1_000_000_000
    rng = np.random.default_rng(0)
    columns = {
        "t_ns": t_ns,
        "step": np.arange(60),
        "loss": rng.random(60),
        "grad_norm": rng.random(60),
        "learning_rate": np.full(60, np.nan),
    }
    table = session.tabulate("training-steps", columns)
    recipe = Recipe(
        op="coupling.word", parameters={"table": table, "instrument": "gpu", "a": "grad_norm", "b": "power_w", "max_lag_s": 0.0}
    )
    estimate = session.evaluate(recipe)
    session.finish()
    assert math.isnan(estimate.value)
    gate = next(gate for gate in estimate.gates if gate.name == "matched rows")
    assert gate.refuses
    assert "%" in gate.reason


def test_a_joint_session_of_few_steps_says_so(tmp_path):
    """No analysis, one sentence."""
    session = twin_session(tmp_path)
    table = session.tabulate("training-steps", {"t_ns": np.arange(5), "step": np.arange(5)})
    lines = list(coupling_lines(session, table, "training"))
    session.finish()
    assert lines == ["5 steps are too few for a coupling analysis (needed: 10)"]


def test_a_channel_that_the_device_has_not_is_not_tested(tmp_path):
    """With the device's own reason."""
    session = twin_session(tmp_path)
    gpu = session.rig.gpu
    with gpu.phase("training") as phase:
        gpu.sleep(30.0)
    t_ns = phase.t0_ns + np.arange(1, 31) * 1_000_000_000
    table = session.tabulate("training-steps", {"t_ns": t_ns, "step": np.arange(30), "grad_norm": np.random.default_rng(0).random(30)})
    record_step_samples(session, gpu, table)
    parameters = {"table": table, "instrument": "gpu", "a": "grad_norm", "b": "memory_temperature_c", "max_lag_s": 0.0}
    estimate = session.evaluate(Recipe(op="coupling.r", parameters=parameters))
    session.finish()
    assert math.isnan(estimate.value)
    assert any(gate.reason.startswith("not tested") for gate in estimate.gates)


@pytest.mark.parametrize("name", rle_recordings.JOINT)
def test_an_imported_session_has_the_coupling_with_the_verdict_not_supported(tmp_path, name):
    """The published pairs, over distinct rows and effective pairs; constants are refused by name."""
    files = [
        rle_recordings.file(f"joint_sessions/{name}/rle_data_*.csv"),
        rle_recordings.file(f"joint_sessions/{name}/training_log_*.json"),
    ]
    run = import_rle(files, tmp_path, settings=load_settings(tmp_path)).runs[0]
    recorded = RecordedRun(run.path)
    own = [r for r in recorded.reader.results if r.experiment == "training coupling"]
    words = {(r.coordinates["instrument"], r.coordinates["series"]): r for r in own if r.quantity.startswith("verdict")}
    index = words["gpu", "grad_norm ~ logged_rle_smoothed"]
    assert index.estimate.value == 0
    assert evaluate(Recipe.from_json(index.recipe), recorded).estimator == "not supported"
    assert words["cpu", "grad_norm ~ temperature_c"].estimate.value is None
    assert any("constant" in gate.name for gate in words["cpu", "grad_norm ~ temperature_c"].gates)
    page = build_report(run.path).read_text()
    assert "Logged index (rle_smoothed)" in page
    assert json.loads((run.path / "run.json").read_text())["state"] == "completed"
