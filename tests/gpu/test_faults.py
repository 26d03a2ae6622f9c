"""Faults of card and driver in mid-run: each spoils the window it is in, with a gate that names it, and no other."""

from __future__ import annotations

import pytest

from pytest_physics.devices.nvml.processes import process_ids_are_apart

VALID = ("clean", "counter_reset", "read_errors", "power_cap", "the_first_window_is_still_valid")
SPOILT = {
    "counter_reset_insisted": {"data quality", "energy counter"},
    "silence": {"data quality", "sampling gaps"},
    "stale": {"stale sensor"},
    "thermal_bit": {"thermal throttling"},
    "thermal_counter": {"thermal throttling"},
    "foreign_process": {"idle foreign processes", "idle duration", "foreign work"},
    "lost": {"data quality", "sampler", "thermal throttling", "power brake"},
    "baseline_after_the_loss": {"data quality", "idle baseline", "idle updates"},
}


APART = pytest.mark.skipif(
    process_ids_are_apart(), reason="in a container with process ids of its own nobody can tell whose a process is, and no channel says so"
)


@pytest.fixture
def run(faults_run):
    return faults_run


def test_the_run_finishes_and_says_that_something_was_not_measured(run):
    """Exit code 10, not 1: nothing is refuted, much is invalid. A lost GPU does not end the run."""
    assert run.exit_code == 10, run.output
    assert run.reader.run.state == "completed"


def test_verify_recomputes_the_same(run):
    """Also with failed reads, gaps and a lost card every verdict follows from the raw artifacts."""
    assert run.findings() == []


@pytest.mark.parametrize("claim", VALID)
def test_windows_without_harm_are_validated(run, claim):
    """A fault outside the window, or one that can be measured around, changes no verdict."""
    assert run.verdicts[claim] == "VALIDATED", run.claims[claim].reason


@pytest.mark.parametrize("claim", [pytest.param(claim, marks=APART if claim == "foreign_process" else ()) for claim in SPOILT])
def test_spoilt_windows_are_invalid_for_the_right_reason(run, claim):
    """INVALID, by exactly the gates that the fault concerns."""
    assert run.verdicts[claim] == "INVALID"
    assert set(run.failed_gates(claim)) == SPOILT[claim]


@pytest.mark.parametrize("name", ["clean", "counter reset", "read errors", "thermal bit", "thermal counter", "power cap"])
def test_integrals_are_right_where_the_sensor_works(run, name, expanded_without_scale):
    """The power integral is within three standard uncertainties of the truth, with one read in five failing as without."""
    estimate = run.energy(name, "power")
    assert estimate.value == pytest.approx(run.true_energy_j(run.windows[name]), abs=1.6 * expanded_without_scale(estimate))


@pytest.mark.parametrize("name", ["clean", "read errors", "stale", "thermal bit", "thermal counter", "power cap"])
def test_counters_are_right_where_they_were_not_reset(run, name, expanded_without_scale):
    """So is the counter's energy."""
    estimate = run.energy(name, "counter")
    assert estimate.value == pytest.approx(run.true_energy_j(run.windows[name]), abs=1.6 * expanded_without_scale(estimate))


def test_a_counter_that_was_reset_gives_no_energy(run):
    """Nor a negative one: the counter's estimate has no value, its gate says why, and the integral is used in its place."""
    assert run.energy("counter reset", "counter").value is None
    assert "went backwards" in run.failed_gates("counter_reset_insisted")["energy counter"]
    assert not run.claims["counter_reset"].estimate.estimator.startswith("counter")
    assert all((result.estimate.value or 0) >= 0 for result in run.reader.results)


def test_one_failed_read_in_five_is_shown(run):
    """The share that failed is measured, and a warning tells it with the driver's error."""
    (failed,) = (result.estimate.value for result in run.reader.results if result.quantity == "failed reads")
    assert 0.1 < failed < 0.35
    assert "an unknown error (code 999)" in run.failed_gates("read_errors", warnings=True)["failed reads"]


def test_two_seconds_without_a_read_are_a_gap(run):
    """GAPPY for counter and integral, with the gap's length."""
    assert {run.energy("silence", estimator).quality for estimator in ("counter", "power")} == {"GAPPY"}
    assert "the longest 2.0" in run.failed_gates("silence")["sampling gaps"]


def test_a_latched_sensor_would_have_lied_without_its_gate(run):
    """Every read succeeded and the integral is a third of the truth: nothing but the repetition tells."""
    assert run.energy("stale", "power").value < 0.5 * run.true_energy_j(run.windows["stale"])
    assert "updates in a row" in run.failed_gates("stale")["stale sensor"]


def test_the_stale_gate_is_silent_elsewhere(run):
    """In the valid windows of the same run the gate was there, and passed."""
    for claim in VALID:
        (gate,) = (gate for gate in run.claims[claim].gates if gate.name == "stale sensor")
        assert gate.passed
        assert gate.measured < 5


def test_thermal_slowdown_is_named(run):
    """By its bit where the mask showed it, by its counter where only that did."""
    assert "SOFTWARE_THERMAL_SLOWDOWN" in run.failed_gates("thermal_bit")["thermal throttling"]
    assert "'thermal_ns' rose by 60" in run.failed_gates("thermal_counter")["thermal throttling"]


def test_a_power_cap_is_a_warning(run):
    """The result stands, with the cap beside it."""
    assert run.failed_gates("power_cap") == {}
    assert "SOFTWARE_POWER_CAP" in run.failed_gates("power_cap", warnings=True)["power cap"]


@APART
def test_a_foreign_process_is_counted(run):
    """The baseline's gate has the number of processes."""
    (gate,) = (gate for gate in run.claims["foreign_process"].gates if gate.name == "idle foreign processes")
    assert gate.measured == 1
    assert "1 foreign" in gate.reason


def test_a_lost_gpu_leaves_no_data(run):
    """Neither in the window in which it was lost nor afterwards, and the error has its name."""
    assert run.energy("lost", "counter").value is None
    assert run.energy("lost", "power").value is None
    assert run.verdicts["after_the_loss"] == "INVALID"
    assert "the GPU is lost (code 15)" in run.failed_gates("lost", warnings=True)["failed reads"]


def test_a_baseline_without_updates_has_no_mean(run):
    """It is on record all the same, and refuses whatever wants to subtract it."""
    baseline = run.reader.baselines[-1]
    assert (baseline.n, baseline.mean_w) == (0, None)
    assert "0 updates" in run.failed_gates("baseline_after_the_loss")["idle updates"]


def test_a_card_in_use_is_a_usage_error_that_names_the_holder(faults_run, second_run):
    """Two runs on one card would measure each other: the second ends at once, with process and run of the first."""
    assert second_run.exit_code == 4
    assert f"process {faults_run.process.pid} (run {faults_run.path.name})" in second_run.output
    assert "Wait until that run has ended" in second_run.output


def test_the_first_run_is_not_disturbed_by_the_second(faults_run, second_run):
    """The lock is the holder's until its end."""
    assert second_run.exit_code == 4
    assert faults_run.reader.run.state == "completed"
