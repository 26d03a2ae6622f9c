"""The instrument-response experiment on twins: healthy ones pass, planted faults are found with the right reason."""

from __future__ import annotations

import json
import math
import shutil

import pytest

from pytest_physics.devices.twin.presets import PRESETS
from pytest_physics.metrology.quality import Quality
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.verify import verify_run

REAL_CARDS = sorted(set(PRESETS) - {"ideal"})


def refusing(estimate):
    return [gate.name for gate in estimate.gates if gate.refuses]


@pytest.mark.parametrize("preset", REAL_CARDS)
def test_healthy_twin_passes_every_gate(characterise, preset):
    """No gate refuses and no warning fails on a healthy card, whatever its sensor: dead time is a fact, not a failure."""
    run = characterise(preset)
    estimates = {**run.found.estimates, **run.found.mismatch}
    failed = [gate.reason for estimate in estimates.values() for gate in estimate.gates if not gate.passed]
    assert (run.found.response.refusal, failed) == (None, [])


@pytest.mark.parametrize("preset", REAL_CARDS)
def test_claims_of_the_bench_come_out_right(characterise, preset):
    """The claims in bench/ hold on every healthy card, with at least ten degrees of freedom where these are estimated."""
    found = characterise(preset).found.estimates
    assert found["update_period_s"].expanded <= 0.002 * found["update_period_s"].value
    assert found["delay_s"].interval[1] <= found["update_period_s"].value
    assert found["step_w"].interval[0] >= 10
    if preset != "k40":
        low, high = found["counter_scale"].interval
        assert 0.89 <= low <= high <= 1.11
        assert found["counter_scale"].dof >= 10
        assert found["counter_disagreement"].interval[1] <= 0.01


@pytest.mark.parametrize("preset", REAL_CARDS)
def test_intervals_hold_the_twins_truth(characterise, preset):
    """Every estimate with a known truth lies within three standard uncertainties of it."""
    known = [r for r in characterise(preset).results if r.truth is not None and r.estimate.value is not None]
    assert len(known) >= 8
    for record in known:
        assert abs(record.estimate.value - record.truth) <= 3 * record.estimate.u + 1e-9, record.quantity


def test_phase_lock_tells_a_partial_sensor_from_a_whole_one(characterise):
    """In step with the load a sensor of 25 % misreads by the whole swing, one of 100 % hardly at all; the counter integrates."""
    partial, whole = characterise("a100").found.estimates, characterise("rtx3090").found.estimates
    assert partial["phase_lock"].value == pytest.approx(1.0, abs=0.05)
    assert whole["phase_lock"].value == pytest.approx(0.0, abs=0.05)
    assert partial["counter_dead_time"].estimator == "counter integrates"
    assert whole["counter_dead_time"].quality is Quality.NO_DATA


def test_what_cannot_be_shown_says_why(characterise):
    """Questions that do not apply end without a value and with a reason, never as a failure."""
    k40, laptop = characterise("k40").found.estimates, characterise("rtx4080-laptop").found.estimates
    reasons = {
        "notch_w": (k40, "a first-order lag has no notch"),
        "latency_s": (laptop, "virtual clock"),
        "first_read": (laptop, "reads throughout"),
        "polling_w": (laptop, "Hz throughout"),
    }
    for name, (found, words) in reasons.items():
        (gate,) = found[name].gates
        assert math.isnan(found[name].value)
        assert gate.passed
        assert gate.reason.startswith("not tested: ")
        assert words in gate.reason


def test_resolution_that_was_seen_is_used_from_then_on(characterise):
    """A sensor said to step by 1 mW that steps by 0.5 W has 0.5 W in later budgets."""
    run = characterise("rtx4080-laptop", overrides={"power.resolution_w": 0.5})
    assert run.found.estimates["resolution_w"].value == pytest.approx(0.5, abs=0.001)
    assert run.model.resolution_w == pytest.approx(0.5, abs=0.001)


def test_mismatch_is_the_difference_of_scales_at_every_length(characterise):
    """TR122.B: from 0.1 s to 30 s the mismatch is that of the twin's scales; short spans have wider intervals, and no bias."""
    run = characterise("rtx3090")
    truth = next(r.truth for r in run.results if r.quantity == "counter less integral")
    assert set(run.found.mismatch) == {0.1, 0.3, 1.0, 3.0, 10.0, 30.0}
    for estimate in run.found.mismatch.values():
        assert abs(estimate.value - truth) <= estimate.expanded


def test_long_profile_compares_on_a_load_of_its_own(characterise):
    """With 'sensor.counter_s' the comparison has its own phase, and 30 s windows by the dozen."""
    run = characterise("rtx3090", sensor={"counter_s": 65.0})
    assert "counter" in run.found.phases
    assert run.found.mismatch[30.0].estimator == "2 spans of 30 s"


def test_load_without_shares_is_switched(characterise, switched_only):
    """A load that knows only on and off still gives levels, and the same scale within its interval."""
    run = characterise("rtx3090", load=switched_only)
    truth = next(r.truth for r in run.results if "per joule read" in r.quantity)
    scale = run.found.estimates["counter_scale"]
    assert abs(scale.value - truth) <= max(scale.expanded, 0.005)
    assert scale.quality is Quality.GOOD


FAULTS = {
    "reads nothing new from 5 s on": ({"kind": "stale", "start_s": 5.0}, "update_period_s", "staleness"),
    "publishes nothing new from 8 s on": ({"kind": "sensor_stall", "start_s": 8.0}, "window_s", "staleness"),
    "is stale all along": ({"kind": "stale"}, "window_s", "update period: changes"),
    "fails a third of its reads": ({"kind": "read_error", "value": 0.33}, "update_period_s", "update period: polls"),
    "jumps during the telegraph": ({"kind": "spike", "start_s": 10.0, "stop_s": 10.4, "value": 600.0}, "window_s", "telegraph: outliers"),
    "stands at one value during the telegraph": ({"kind": "spike", "start_s": 10.0, "stop_s": 12.0, "value": 1.2}, "window_s", "staleness"),
    "jumps during the square wave": ({"kind": "spike", "start_s": 34.0, "stop_s": 34.3, "value": 600.0}, "step_w", "square wave: outliers"),
    "is lost after the telegraph": ({"kind": "lost", "start_s": 50.0}, "phase_lock", "bursts: readings"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_planted_fault_is_refused_with_its_reason(characterise, what):
    """Each fault makes the quantities that it touches refuse, by the gate that names it."""
    fault, quantity, gate = FAULTS[what]
    run = characterise(faults=(fault,))
    assert gate in run.gates(quantity), refusing(run.found.estimates[quantity])
    assert run.gates(quantity)[gate].remedy


@pytest.mark.parametrize("name", ["update_period_s", "window_s", "phase_lock"])
def test_refused_sensor_has_no_value_and_stays_the_prior(characterise, name):
    """After a refusal the model in force is what the device said before, and no number is made up."""
    run = characterise(faults=({"kind": "stale", "start_s": 5.0},))
    assert run.found.response.refusal.name == "staleness"
    assert run.model.origin == "preset"
    assert math.isnan(run.found.estimates[name].value)


def test_counter_at_half_rate_disagrees(characterise):
    """A counter that counts half is refused by the consistency gate, and its scale is far from one."""
    run = characterise(faults=({"kind": "counter_half_rate"},))
    assert refusing(run.found.mismatch[10.0]) == ["counter agrees with integral"]
    assert run.found.estimates["counter_scale"].interval[1] < 0.6


def test_counter_that_is_reset_is_not_compared(characterise):
    """A counter that goes backwards has no mismatch."""
    run = characterise(faults=({"kind": "counter_reset", "start_s": 20.0},))
    assert refusing(run.found.mismatch[1.0]) == ["counter: resets"]


def test_few_failed_reads_cost_nothing(characterise):
    """Five percent of failed reads leave every number, and no gate refuses."""
    run = characterise(faults=({"kind": "read_error", "value": 0.05},))
    assert [name for name, e in run.found.estimates.items() if refusing(e)] == []


def test_load_that_never_ran_is_refused(characterise, silent_load):
    """A silent load identifies nothing: the sensor did not answer, and the square wave has no step."""
    run = characterise(load=silent_load)
    assert run.found.response.refusal is not None
    assert "never ran" in run.found.response.refusal.reason or "changed" in run.found.response.refusal.reason
    assert "square wave: step" in run.gates("step_w")
    assert run.gates("counter_scale")["counter scale: levels"].measured == 1


@pytest.mark.parametrize("preset", ["h100", "k40"])
def test_run_verifies(characterise, preset):
    """Every number of the experiment follows from the recorded artifacts."""
    found = verify_run(characterise(preset).path)
    assert {finding.where for finding in found.findings} <= {"report.html"}  # which this test does not build
    assert found.checked["results"] > 15


def edit_lines(path, change):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(line) or line) + "\n" for line in lines))


EDITS = {
    "burst cut short": ("windows.jsonl", lambda w: w.update(t1_ns=w["t1_ns"] - 300_000_000) if w["name"] == "burst" else None),
    "level moved": ("windows.jsonl", lambda w: w.update(t0_ns=w["t0_ns"] + 400_000_000) if w["name"] == "level" else None),
    "edge of the telegraph moved": ("windows.jsonl", lambda w: w.update(t1_ns=w["t1_ns"] + 3_000_000) if w["id"] == "gpu-w5" else None),
    "result polished": ("results.jsonl", lambda r: r["estimate"].update(u=0.0) if r["quantity"] == "update period" else None),
}


@pytest.mark.parametrize("what", EDITS)
def test_verify_finds_an_edit(characterise, tmp_path, what):
    """A changed window or result of the experiment no longer agrees with the rest."""
    source = characterise("h100").path
    copy = shutil.copytree(source, tmp_path / source.name)
    file, change = EDITS[what]
    edit_lines(copy / file, change)
    found = {finding.where.partition(":")[0] for finding in verify_run(copy).findings}
    assert found & {"results.jsonl"}


def test_recorded_phases_name_what_was_driven(characterise):
    """Each driven phase is in the record under its name, so that a reader can find it."""
    run = characterise("h100")
    names = [phase.name for phase in RecordedRun(run.path).reader.run.phases]
    assert names == ["telegraph", "square wave", "phase lock", "notch", "levels"]
