"""The sampler's process is suspended and killed in the middle of windows on a real device."""

from __future__ import annotations


def test_the_run_finishes(sampler_run):
    """Exit code 10: a dead sampler spoils numbers, not the run; and what is left can be verified."""
    assert sampler_run.exit_code == 10, sampler_run.output
    assert sampler_run.reader.run.state == "completed"
    assert sampler_run.findings() == []


def test_before_and_between_everything_is_valid(sampler_run):
    """Windows that the sampler saw keep their energies, also after it was suspended twice."""
    assert sampler_run.verdicts["before"] == "VALIDATED"
    assert sampler_run.verdicts["continued"] == "VALIDATED"


def test_a_suspension_is_a_gap(sampler_run):
    """GAPPY, with the second that is missing."""
    assert sampler_run.verdicts["suspended_for_a_second"] == "INVALID"
    assert sampler_run.energy("suspended", "counter").quality == "GAPPY"
    assert "the longest 1" in sampler_run.failed_gates("suspended_for_a_second")["sampling gaps"]


def test_numbers_wait_for_a_suspended_sampler_and_then_refuse(sampler_run):
    """What the next sample would change is not put on record: the claim is INVALID without an estimate."""
    claim = sampler_run.claims["suspended_and_not_continued"]
    assert claim.verdict == "INVALID"
    assert claim.estimate is None
    assert "has given no sample for 1 s (limit 'sampling.max_wait_s'" in claim.reason


def test_a_killed_sampler_leaves_no_data(sampler_run):
    """In the window in which it died and in all later ones, by both estimators."""
    for name, claim in {"killed": "killed", "after": "after"}.items():
        assert sampler_run.verdicts[claim] == "INVALID"
        assert {sampler_run.energy(name, estimator).quality for estimator in ("counter", "power")} == {"NO_DATA"}
        assert {sampler_run.energy(name, estimator).value for estimator in ("counter", "power")} == {None}
        assert "sampler" in sampler_run.failed_gates(claim)


def test_the_record_says_how_the_sampler_ended(sampler_run):
    """State and signal stand in run.json."""
    gpu = sampler_run.reader.run.instruments["gpu"]
    assert gpu.sampler_state == "failed"
    assert "SIGKILL" in gpu.sampler_error


def test_no_baseline_comes_from_a_dead_sampler(sampler_run):
    """Asking for one gives a refusal, not an exception."""
    assert sampler_run.verdicts["no_baseline_without_a_sampler"] == "INVALID"
    assert "0 updates" in sampler_run.failed_gates("no_baseline_without_a_sampler")["idle updates"]
