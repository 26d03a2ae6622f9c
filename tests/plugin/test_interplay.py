"""Together with the plugins that people use: xdist, pytest-html, Allure, rerunfailures."""

from __future__ import annotations

import json

import pytest

OK = "def test_ok(judge):\n    judge(joules(1.0) <= HIGH)\n"
INVALID = "def test_invalid(judge):\n    judge(joules(1.0) <= HIGH, needs=[BROKEN])\n"
INCONCLUSIVE = "def test_inconclusive(judge):\n    judge(joules(1.0) <= NEAR)\n"
REFUTED = "def test_refuted(judge):\n    judge(joules(1.0) <= LOW)\n"
NOT_TESTED = "@pytest.mark.needs('cpu')\ndef test_not_tested(judge):\n    pass\n"
ALL = OK + INVALID + INCONCLUSIVE + REFUTED + NOT_TESTED

# --- xdist -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [["-n2"], ["-n1"], ["-nauto"], ["-n2", "--dist=loadfile"], ["--dist=load", "--tx=popen"]])
def test_xdist_with_physics_is_a_usage_error_with_its_reason(project, options):
    """Parallel tests heat, throttle and time each other."""
    pytest.importorskip("xdist")
    project.write(test_it=OK)
    result = project.run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --physics needs the machine to itself: parallel tests heat*Run it with -n0*"])
    assert project.runs == []


def test_xdist_with_no_workers_measures(project):
    """``-n0`` overrides a project's ``-n4`` in ``addopts``."""
    pytest.importorskip("xdist")
    (project.path / "pytest.ini").write_text("[pytest]\naddopts = -n4\n", encoding="utf-8")
    assert project.run_test(OK, "-n0").ret == 0
    assert project.verdicts == {"it.ok": "VALIDATED"}


def test_xdist_without_physics_works_with_the_plugin_installed(project):
    """The workers load the plugin too; it stays inactive there."""
    pytest.importorskip("xdist")
    project.write(test_it=OK + "def test_plain():\n    assert 1 == 1\n")
    result = project.run("-n2", physics=False)
    assert result.parseoutcomes() == {"passed": 1, "skipped": 1}
    assert result.ret == 0


# --- pytest-html -------------------------------------------------------------------------------------------------------


def test_pytest_html_shows_every_verdict(project):
    """Written without an internal error; INVALID and INCONCLUSIVE are failed rows with their explanation."""
    pytest.importorskip("pytest_html")
    result = project.run_test(ALL, "--html=out.html", "--self-contained-html")
    assert result.ret == 1
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    page = (project.path / "out.html").read_text(encoding="utf-8")
    for name in ("test_ok", "test_invalid", "test_inconclusive", "test_refuted", "test_not_tested"):
        assert name in page
    assert "planted fault" in page
    assert "VALIDATED: ok" in page  # the section that explains a claim that holds


# --- Allure ------------------------------------------------------------------------------------------------------------


def test_allure_says_broken_for_what_could_not_be_measured(project):
    """Failed is for what was refuted; "broken" is Allure's word for a test that did not work."""
    pytest.importorskip("allure_pytest")
    assert project.run_test(ALL, "--alluredir=allure").ret == 1
    results = [json.loads(path.read_text(encoding="utf-8")) for path in project.path.glob("allure/*-result.json")]
    assert {result["name"]: result["status"] for result in results} == {
        "test_ok": "passed", "test_invalid": "broken", "test_inconclusive": "broken",
        "test_refuted": "failed", "test_not_tested": "skipped",
    }  # fmt: skip


def test_allure_sees_a_verdict_that_its_test_caught(project):
    """The error is raised again after the test, so that no plugin takes it for a pass."""
    pytest.importorskip("allure_pytest")
    text = "def test_x(judge):\n    try:\n        judge(joules(1.0) <= NEAR)\n    except Exception:\n        pass\n"
    assert project.run_test(text, "--alluredir=allure").ret == 10
    (path,) = project.path.glob("allure/*-result.json")
    assert json.loads(path.read_text(encoding="utf-8"))["status"] == "broken"


# --- rerunfailures -----------------------------------------------------------------------------------------------------

COUNTED = """
attempts = []
def test_counted(judge):
    attempts.append(1)
    {}
"""
GOOD_AT_THIRD = "judge(joules(1.0) <= HIGH, needs=[BROKEN] if len(attempts) < 3 else [])"
REFUTED_AT_SECOND = "judge(joules(1.0) <= (HIGH if len(attempts) != 2 else LOW), needs=[BROKEN] if len(attempts) == 1 else [])"
ONLY_INVALID = ["--reruns", "2", "--only-rerun", "InvalidMeasurement"]


def _attempts(project) -> list[tuple[int, str]]:
    return [(claim["attempt"], claim["verdict"]) for claim in project.claims]


@pytest.mark.parametrize(
    "options",
    [
        ["--reruns", "2"],
        ["--force-reruns", "2"],
        ["--reruns", "2", "--only-rerun", "RefutedClaim"],
        ["--reruns", "2", "--only-rerun", "InvalidMeasurement", "--only-rerun", "RefutedClaim"],
        ["--reruns", "2", "--only-rerun", ".*"],
        ["-o", "reruns=2"],
    ],
)
def test_reruns_of_anything_but_invalid_are_refused(project, options):
    """Measuring until it holds is not measuring."""
    pytest.importorskip("pytest_rerunfailures")
    project.write(test_it=OK)
    result = project.run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*add --only-rerun InvalidMeasurement. Every attempt is recorded."])
    assert project.runs == []


@pytest.mark.parametrize("options", [["--reruns", "0"], ["-o", "reruns=0"], []])
def test_no_reruns_need_no_permission(project, options):
    """The other side of the boundary."""
    pytest.importorskip("pytest_rerunfailures")
    assert project.run_test(OK, *options).ret == 0


def test_reruns_work_as_ever_without_physics(project):
    """The plugin has no say in other people's runs."""
    pytest.importorskip("pytest_rerunfailures")
    project.write(test_it="n = []\ndef test_x():\n    n.append(1)\n    assert len(n) == 3\n")
    assert project.run("--reruns", "2", physics=False).ret == 0


@pytest.mark.parametrize("options", [ONLY_INVALID, ["-o", "reruns=2", "-o", "only_rerun=InvalidMeasurement"]])
def test_an_invalid_claim_is_measured_again_and_every_attempt_is_on_record(project, options):
    """Third time lucky: the last attempt decides, the others stay visible."""
    pytest.importorskip("pytest_rerunfailures")
    result = project.run_test(COUNTED.format(GOOD_AT_THIRD), *options)
    assert result.ret == 0
    assert result.parseoutcomes() == {"passed": 1, "rerun": 2}
    assert _attempts(project) == [(1, "INVALID"), (2, "INVALID"), (3, "VALIDATED")]


def test_an_invalid_claim_that_stays_invalid_ends_with_exit_code_10(project):
    """Re-run attempts do not count as failures."""
    pytest.importorskip("pytest_rerunfailures")
    result = project.run_test(INVALID + OK, *ONLY_INVALID)
    assert result.ret == 10
    assert result.parseoutcomes() == {"passed": 1, "invalid": 1, "rerun": 2}
    assert [attempt for attempt, verdict in _attempts(project) if verdict == "INVALID"] == [1, 2, 3]


@pytest.mark.parametrize(("text", "code"), [(REFUTED, 1), (INCONCLUSIVE, 10)])
def test_a_refuted_or_inconclusive_claim_is_not_run_again(project, text, code):
    """It was measured; that is the answer."""
    pytest.importorskip("pytest_rerunfailures")
    result = project.run_test(text, *ONLY_INVALID)
    assert result.ret == code
    assert "rerun" not in result.parseoutcomes()
    assert len(project.claims) == 1


def test_a_claim_refuted_at_its_second_attempt_stays_refuted(project):
    """The third attempt, which would hold, does not happen."""
    pytest.importorskip("pytest_rerunfailures")
    assert project.run_test(COUNTED.format(REFUTED_AT_SECOND), *ONLY_INVALID).ret == 1
    assert _attempts(project) == [(1, "INVALID"), (2, "REFUTED")]


@pytest.mark.parametrize("arguments", ["", "3", "reruns=2", "reruns=2, only_rerun='RefutedClaim'", "reruns=2, only_rerun=['x', 'y']"])
def test_a_flaky_claim_is_refused_before_anything_is_measured(project, arguments):
    """As ``--reruns``: in one line, with what to write instead."""
    pytest.importorskip("pytest_rerunfailures")
    result = project.run_test(f"@pytest.mark.flaky({arguments})\n{REFUTED}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: test_it.py::test_refuted: the marker 'flaky' *; add only_rerun='InvalidMeasurement' to it*"])
    assert project.runs == []


@pytest.mark.parametrize("only", ["'InvalidMeasurement'", "['InvalidMeasurement']", "InvalidMeasurement"])
def test_a_flaky_claim_may_be_measured_again_where_it_was_invalid(project, only):
    """The other side of the boundary; as is a marker that runs nothing again, and a flaky test that claims nothing."""
    pytest.importorskip("pytest_rerunfailures")
    result = project.run_test(
        "from pytest_physics.errors import InvalidMeasurement\nattempts = []\n"
        f"@pytest.mark.flaky(reruns=2, only_rerun={only})\ndef test_counted(judge):\n    attempts.append(1)\n    {GOOD_AT_THIRD}\n"
        f"@pytest.mark.flaky(reruns=0)\n{OK}@pytest.mark.flaky(reruns=2)\ndef test_plain():\n    assert len(attempts) == 3\n"
    )
    assert result.ret == 0
    assert set(project.verdicts.values()) == {"VALIDATED"}


@pytest.mark.parametrize("mark", ["@pytest.mark.flaky(reruns=2)", "@pytest.mark.flaky(reruns=2, only_rerun='RefutedClaim')"])
def test_a_flaky_marker_does_not_measure_a_refuted_claim_again(project, mark):
    """A test that turns out to claim something when it runs: the verdict of the first attempt is repeated, not measured anew."""
    pytest.importorskip("pytest_rerunfailures")
    first_refuted = f"{mark}\ndef test_x():\n    attempts.append(1)\n    assert joules(1.0) <= (LOW if len(attempts) == 1 else HIGH)\n"
    result = project.run_test("attempts = []\n" + first_refuted)
    assert result.ret == 1
    assert _attempts(project) == [(1, "REFUTED")]
    assert "RefutedClaim" in result.stdout.str()


def test_a_statement_that_names_the_invalid_error_does_not_unlock_reruns(project):
    """Its regular expression is searched in the whole message; the verdict still stands."""
    pytest.importorskip("pytest_rerunfailures")
    project.run_test("@pytest.mark.claim('InvalidMeasurement is rare', id='x')\n" + REFUTED, *ONLY_INVALID)
    assert _attempts(project) == [(1, "REFUTED")]
