"""All claims of a run judged together: what Holm's step-down changes, and where that shows."""

from __future__ import annotations

import json

import pytest

from pytest_physics.record.reader import RunReader
from pytest_physics.record.verify import verify_run

from .conftest import cases

SURE = "def test_sure(judge):\n    judge(joules(1.0) <= HIGH)\n"
BARELY = "def test_barely(judge):\n    judge(joules(1.0) <= 1.2)\n"
"""Two standard uncertainties: p = 4.6 %, decided by itself and not among three."""
BARELY_NOT = "def test_barely_not(judge):\n    judge(joules(1.0) <= 0.8)\n"
UNDECIDED = "def test_undecided(judge):\n    judge(joules(1.0) <= NEAR)\n"
UNMEASURED = "def test_unmeasured(judge):\n    judge(joules(1.0) <= HIGH, needs=[BROKEN])\n"
HOLM = ("--physics-correction", "holm")


def final(project):
    (run,) = project.runs
    return {claim.id: claim.verdict.value for claim in RunReader(run).claims}


def test_without_the_option_each_claim_is_judged_by_itself(project):
    """The default stays: no correction, and no file of one."""
    result = project.run_test(SURE + BARELY + UNDECIDED)
    assert result.parseoutcomes() == {"passed": 2, "inconclusive": 1}
    assert not (project.runs[0] / "correction.json").exists()
    result.stdout.no_fnmatch_line("*Holm*")


def test_a_claim_that_only_its_own_interval_decides_becomes_inconclusive(project):
    """Counts, letter, exit code and table all show the verdict that stands; the claim of smaller p keeps its own."""
    result = project.run_test(SURE + BARELY + UNDECIDED, *HOLM)
    assert result.ret == 10
    assert result.parseoutcomes() == {"passed": 1, "inconclusive": 2}
    assert final(project) == {"it.sure": "VALIDATED", "it.barely": "INCONCLUSIVE", "it.undecided": "INCONCLUSIVE"}
    result.stdout.fnmatch_lines(["*judged together*", "*Correction: Holm over 3 claims*"])


def test_the_claim_alone_keeps_its_verdict(project):
    """Holm over one claim is the claim by itself: one whole share of 5 %."""
    result = project.run_test(BARELY, *HOLM)
    assert result.ret == 0
    assert final(project) == {"it.barely": "VALIDATED"}


def test_a_refutation_that_does_not_stand_is_exit_code_10(project):
    """A refuted claim that is inconclusive among all is no failure of the subject."""
    result = project.run_test(SURE + BARELY_NOT + UNDECIDED, *HOLM)
    assert result.ret == 10
    assert result.parseoutcomes() == {"passed": 1, "inconclusive": 2}


def test_a_refutation_that_stands_is_exit_code_1(project):
    """Far outside of its limit is refuted among any number."""
    refuted = "def test_refuted(judge):\n    judge(joules(1.0) <= 0.1)\n"
    result = project.run_test(SURE + refuted + UNDECIDED, *HOLM)
    assert result.ret == 1
    assert result.parseoutcomes() == {"passed": 1, "failed": 1, "inconclusive": 1}


def test_what_was_not_measured_takes_no_share(project):
    """INVALID claims are no members of the family: two claims share 5 %, and the smaller p leaves all of it to the other."""
    project.run_test(SURE + BARELY + UNMEASURED, *HOLM)
    assert final(project) == {"it.sure": "VALIDATED", "it.barely": "VALIDATED", "it.unmeasured": "INVALID"}


def test_a_claim_falls_with_the_one_it_rests_on(project):
    """What a claim required was VALIDATED when it was judged; where that does not stand, neither does the claim."""
    first = "@pytest.mark.claim(id='first')\n" + BARELY
    second = "@pytest.mark.claim(id='second', requires=['first'])\ndef test_second(judge):\n    judge(joules(1.0) <= HIGH)\n"
    result = project.run_test(first + second + UNDECIDED, *HOLM)
    assert final(project)["first"] == "INCONCLUSIVE"
    assert final(project)["second"] == "INVALID"
    assert result.parseoutcomes() == {"invalid": 1, "inconclusive": 2}


def test_an_ordinary_failure_beside_it_stays_one(project):
    """Only reports that a verdict made are replaced."""
    result = project.run_test(SURE + BARELY + UNDECIDED + "def test_broken():\n    assert 1 == 2\n", *HOLM)
    assert result.ret == 1
    assert result.parseoutcomes() == {"passed": 1, "inconclusive": 2, "failed": 1}


def test_lf_and_junit_know_the_verdict_that_stands(project):
    """``--lf`` runs a claim again that fell at the end, and JUnit holds its failure."""
    project.run_test(SURE + BARELY + UNDECIDED, *HOLM, "--junit-xml", "junit.xml")
    assert cases(project.path / "junit.xml")["test_barely"].find("failure") is not None
    assert project.run("--lf").parseoutcomes()["passed"] == 1  # by itself it is validated


def test_ids_and_verdicts_as_judged_stay_in_the_claims_file(project):
    """``claims.jsonl`` holds what was judged at the time, ``correction.json`` what came of it, with p and guard band."""
    project.run_test(SURE + BARELY + UNDECIDED, *HOLM)
    assert project.verdicts["it.barely"] == "VALIDATED"
    correction = json.loads((project.runs[0] / "correction.json").read_text())
    assert correction["family"] == 3
    entry = next(claim for claim in correction["claims"] if claim["id"] == "it.barely")
    assert (entry["judged"], entry["verdict"], entry["rank"]) == ("VALIDATED", "INCONCLUSIVE", 2)
    assert entry["p"] == pytest.approx(0.0455, abs=1e-4)
    assert entry["p_adjusted"] == pytest.approx(2 * 0.0455, abs=2e-4)
    assert entry["guard_band"] == pytest.approx(0.2241, abs=1e-4)  # 2.2414 u, the normal quantile of 1 - 0.025/2


def test_the_setting_does_the_same_as_the_option(project):
    """``[claims] correction = "holm"`` in the configuration file; the command line wins over it."""
    (project.path / "physics.toml").write_text((project.path / "physics.toml").read_text() + '[claims]\ncorrection = "holm"\n')
    assert project.run_test(SURE + BARELY + UNDECIDED).parseoutcomes()["inconclusive"] == 2
    assert project.run("--physics-correction", "none").parseoutcomes()["inconclusive"] == 1


def test_an_unknown_method_is_a_usage_error(project):
    """A misspelt method is refused with what there is."""
    result = project.run_test(SURE, "--physics-correction", "bonferroni")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*claims.correction*none*holm*"])


def test_a_corrected_run_verifies_and_its_report_says_so(project, real_report):
    """Every verdict that stands follows from the claims; the page names the method, the family and what changed."""
    project.run_test(SURE + BARELY + UNDECIDED, *HOLM)
    assert verify_run(project.runs[0]).findings == ()
    page = (project.runs[0] / "report.html").read_text(encoding="utf-8")
    assert "Holm over 3 claims" in page
    assert "It changed 1 verdict." in page
    assert "Holm: U = 0.22" in page


@pytest.mark.parametrize("edit", ["verdict", "p", "remove", "plant"])
def test_an_edited_correction_is_found(project, edit):
    """A verdict or a number changed, the file taken away, or one put where none was asked for."""
    project.run_test(SURE + BARELY + UNDECIDED, *(() if edit == "plant" else HOLM))
    path = project.runs[0] / "correction.json"
    if edit == "plant":
        path.write_text(json.dumps({"method": "holm", "family": 0, "claims": []}))
    elif edit == "remove":
        path.unlink()
    else:
        record = json.loads(path.read_text())
        record["claims"][1][edit] = {"verdict": "VALIDATED", "p": 0.001}[edit]
        path.write_text(json.dumps(record))
    found = [finding.where for finding in verify_run(project.runs[0]).findings if finding.where.startswith("correction.json")]
    assert found
