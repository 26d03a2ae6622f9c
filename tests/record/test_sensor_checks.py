"""Each check of a power sensor, from recorded artifacts: it fires on a planted fault and is silent on clean data.

The faults of single readings (stale, spiked, failed) are in ``tests/experiments/test_instrument_response.py``; here are those of what the
checks themselves compare.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.experiments.instrument_response import identify_sensor
from pytest_physics.experiments.sensor_characterisation import characterise_sensor, paused_in_turns
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.uncertainty import Recipe
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.recipes import evaluate
from pytest_physics.record.verify import verify_run
from pytest_physics.session import Plan, Session
from pytest_physics.workloads.select import steady_load_for


def session_of(directory, preset="h100", *, seed=3, faults=(), overrides=None, sensor=None):
    """A run on a twin."""
    parameters = {"preset": preset, "seed": seed, "faults": list(faults), "overrides": overrides or {}}
    settings = load_settings(directory, overrides={"sensor": sensor or {}, "seed": seed})
    return Session.start(settings, Plan.using({"gpu": DeviceSpec(kind="twin", parameters=parameters)}), directory=directory)


@pytest.fixture(scope="module")
def identified(tmp_path_factory):
    """``identified(preset, …)``: path, response and estimates of a run that identified its sensor."""
    known = {}

    def run(preset="h100", **changes):
        key = json.dumps([preset, changes], sort_keys=True)
        if key not in known:
            directory = tmp_path_factory.mktemp("identified")
            with session_of(directory, preset, **changes) as session:
                gpu = session.rig.gpu
                response = identify_sensor(gpu, session, steady_load_for(gpu.device))
                known[key] = session.path, response, {name: session.truth(e.recipe) for name, e in response.estimates.items()}
        return known[key]

    return run


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """``checked(preset, …)``: everything a driven load shows."""
    known = {}

    def run(preset="h100", **changes):
        key = json.dumps([preset, changes], sort_keys=True)
        if key not in known:
            directory = tmp_path_factory.mktemp("checked")
            with session_of(directory, preset, **changes) as session:
                known[key] = characterise_sensor(session.rig.gpu, session, steady_load_for(session.rig.gpu.device))
        return known[key]

    return run


def refusing(estimate):
    return {gate.name for gate in estimate.gates if gate.refuses}


# --- the window ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window_s", [0.025, 0.06, 0.1])
def test_the_window_of_the_device_is_found_whatever_it_is(identified, window_s):
    """A card whose sensor averages over another time than its family's is identified to 1.5 % or 0.3 ms."""
    _, response, truth = identified("rtx4080-laptop", overrides={"power.window_s": window_s})
    assert response.estimates["window_s"].value == pytest.approx(truth["window_s"], abs=max(0.015 * window_s, 0.0003))


def test_a_channel_that_averages_over_a_second_is_not_taken_for_what_its_family_says(identified):
    """The driver gave the channel another meaning: prior 100 ms, truth 1 s. The model in force is what was found."""
    _, response, _ = identified("rtx4080-laptop", faults=[{"kind": "averaging", "value": 1.0}])
    assert response.refusal is None
    assert response.estimates["window_s"].value == pytest.approx(1.0, rel=0.015)
    assert response.model.window_s == pytest.approx(1.0, rel=0.015)


def test_square_wave_fails_where_the_sensor_is_slower_than_was_identified(checked):
    """The rise limit follows from the identified window: 100 ms allow no rise of 0.8 s."""
    found = checked("rtx4080-laptop", faults=[{"kind": "averaging", "start_s": 33.5, "value": 1.0}]).estimates
    assert "square wave: rise" in refusing(found["step_w"])


@pytest.mark.parametrize("preset", ["rtx3090", "h100"])
def test_square_wave_passes_on_every_healthy_sensor(checked, preset):
    """TR122's 300 ms would fail half of them."""
    assert refusing(checked(preset).estimates["step_w"]) == set()


def test_square_wave_passes_on_a_healthy_average_of_one_second(checked):
    """A slow sensor is no fault where its slowness is known."""
    found = checked("rtx3090", overrides={"power.window_s": 1.0, "power.noise_w": 0.1}).estimates
    assert refusing(found["step_w"]) == set()
    assert found["rise_s"].value > 0.5


def test_phase_lock_and_notch_fire_where_the_window_changed_after_identification(checked):
    """Both predict from the identified kernel what a periodic load shows; another kernel shows something else."""
    found = checked("h100", faults=[{"kind": "averaging", "start_s": 40.2, "value": 0.1}]).estimates
    assert {gate.name for name in ("phase_lock", "notch_w") for gate in found[name].gates if not gate.passed} == {
        "phase lock",
        "notch check",
    }


@pytest.mark.parametrize("preset", ["h100", "rtx3090"])
def test_phase_lock_and_notch_are_silent_on_clean_data(checked, preset):
    """A healthy sensor shows what its kernel predicts."""
    found = checked(preset).estimates
    assert all(gate.passed for name in ("phase_lock", "notch_w") for gate in found[name].gates)


# --- the driver's own samples ----------------------------------------------------------------------------------------


def test_driver_timestamps_are_used_where_their_rate_is_that_of_the_updates(identified):
    """A ring that holds every update gives the period, and the estimate says so; the comb fit stands beside it."""
    path, response, truth = identified("a100", overrides={"buffer_updates": 1.0})
    period = response.estimates["update_period_s"]
    assert period.estimator.startswith("driver's timestamps")
    assert period.value == pytest.approx(truth["update_period_s"], rel=2e-4)
    (gate,) = period.gates
    assert gate.passed
    assert "the driver's is used" in gate.reason
    assert response.model.update_period_s == period.value
    assert len(RecordedRun(path).reader.tables) == 1


@pytest.mark.parametrize(("updates", "word"), [(9.9, "slower"), (0.5, "faster")])
def test_a_ring_at_another_rate_leaves_the_polls(identified, updates, word):
    """Newer cards keep about one sample a second: that is no disagreement about the updates."""
    _, response, truth = identified("a100", overrides={"buffer_updates": updates})
    period = response.estimates["update_period_s"]
    assert period.estimator == "comb fit of the polls"
    assert period.value == pytest.approx(truth["update_period_s"], rel=2e-4)
    assert word in period.gates[0].reason
    assert period.gates[0].passed


def test_a_card_without_a_ring_says_so(identified):
    """What was not compared is not called a cross-check."""
    _, response, _ = identified("h100")
    assert "without a cross-check" in response.estimates["update_period_s"].gates[0].reason


def test_driver_and_polls_that_disagree_about_the_same_updates_are_refused(identified):
    """One percent apart: the message has both values, and the prior stays in force."""
    _, response, _ = identified("h100", overrides={"buffer_updates": 1.01})
    assert response.refusal is not None
    assert response.refusal.name == "update period: driver against polls"
    assert "101.04" in response.refusal.reason
    assert "100.04" in response.refusal.reason
    assert response.model.origin == "preset"
    assert response.estimates["update_period_s"].quality is Quality.NO_DATA


def test_verify_uses_the_recorded_ring(identified, tmp_path):
    """A timestamp changed in the table no longer gives the recorded period; a table that is gone gives another."""
    path, _, _ = identified("a100", overrides={"buffer_updates": 1.0})
    assert verify_run(path).findings == ()
    copy = shutil.copytree(path, tmp_path / path.name)
    (table,) = copy.glob("table-driver-samples-*.npy")
    rows = np.load(table)
    rows["timestamp_us"] = rows["timestamp_us"][0] + ((rows["timestamp_us"] - rows["timestamp_us"][0]) * 1.001).astype(np.int64)
    np.save(table, rows)
    assert any(finding.where.startswith("results.jsonl: r1") for finding in verify_run(copy).findings)
    table.unlink()
    assert any(finding.where.startswith("results.jsonl: r1") for finding in verify_run(copy).findings)


# --- the counter -----------------------------------------------------------------------------------------------------


def test_counter_checks_fire_on_a_counter_that_counts_half_of_the_time(checked):
    """From 60 s on half of the energy: one scale does not fit all levels."""
    found = checked("rtx3090", faults=[{"kind": "counter_half_rate", "start_s": 60.0, "stop_s": 70.0}])
    assert found.estimates["counter_disagreement"].interval[1] > 0.01


def test_counter_checks_are_silent_on_a_clean_counter(checked):
    """A healthy counter integrates, ticks regularly, and agrees with the readings after one scale."""
    found = checked("rtx3090")
    counter = {name: estimate for name, estimate in found.estimates.items() if name.startswith("counter")}
    assert {name for name, estimate in counter.items() if refusing(estimate)} == set()
    assert found.estimates["counter_disagreement"].interval[1] <= 0.01


# --- what polling does -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def polled(tmp_path_factory):
    """``polled(preset, …)``: a run that is idle with the sampler paused and polling in turns; its path, and the two estimates."""
    known = {}

    def run(preset="h100", **changes):
        key = json.dumps([preset, changes], sort_keys=True)
        if key not in known:
            with session_of(tmp_path_factory.mktemp("polled"), preset, **changes) as session:
                gpu = session.rig.gpu
                phase = paused_in_turns(gpu, 20.0)
                parameters = {"phase": phase, "sensor": gpu.sensor_id}
                recipes = {name: Recipe(op=f"sensor.{name}", parameters=parameters) for name in ("polling", "first_read")}
                known[key] = session.path, {name: session.result("test", name, session.evaluate(r)) for name, r in recipes.items()}
        return known[key]

    return run


@pytest.mark.parametrize(("preset", "added_w"), [("rtx4080-laptop", 0.5), ("h100", 2.0)])
def test_polling_that_costs_idle_power_is_found(polled, preset, added_w):
    """A card that draws more while it is read: the difference by its counter, and the gate refuses."""
    _, found = polled(preset, faults=[{"kind": "polling", "value": added_w}])
    assert abs(found["polling"].value - added_w) <= found["polling"].expanded + 0.05 * added_w
    assert refusing(found["polling"]) == {"polling perturbation"}


@pytest.mark.parametrize("preset", ["rtx4080-laptop", "h100"])
def test_polling_that_costs_nothing_passes(polled, preset):
    """On a card that does not mind, idle power is the same with and without; first reads after a pause are fresh."""
    _, found = polled(preset)
    assert abs(found["polling"].value) <= found["polling"].expanded
    assert refusing(found["polling"]) == set()
    assert found["first_read"].value == 0
    assert all(gate.passed for gate in found["first_read"].gates)


def test_a_device_without_counter_cannot_be_tested_for_it(polled):
    """Without polling nothing else measures: no number is made up."""
    (gate,) = polled("k40")[1]["polling"].gates
    assert gate.reason.startswith("not tested: without polling only an energy counter")


def test_pauses_are_in_the_record_and_the_run_verifies(polled):
    """Paused ticks are counted apart from dropped ones, and every number follows from the artifacts."""
    path, _ = polled("h100")
    run = RecordedRun(path)
    statistics = run.reader.run.instruments["gpu"].statistics
    assert statistics["dropped"] == 0
    assert statistics["paused"] == pytest.approx(3 * 20.0 / 0.0191, rel=0.01)
    assert [phase.name for phase in run.reader.run.phases].count("sampler paused") == 3
    assert verify_run(path).findings == ()


def test_old_values_on_first_reads_are_found(polled, tmp_path):
    """A driver that answers the first read after each pause from its cache: the warning names the remedy."""
    path, _ = polled("h100")
    copy = shutil.copytree(path, tmp_path / path.name)
    rows = np.load(copy / "trace-gpu.npy", mmap_mode="r+")
    first = np.flatnonzero(np.diff(rows["t_before_ns"]) > 1e9) + 1
    assert len(first) == 3
    rows["power_w"][first] = rows["power_w"][first - 1]
    rows.flush()
    run = RecordedRun(copy)
    record = next(result for result in run.reader.results if result.quantity == "first_read")
    (gate,) = evaluate(Recipe.from_json(record.recipe), run).gates
    assert not gate.passed
    assert "discard the first update" in gate.remedy
