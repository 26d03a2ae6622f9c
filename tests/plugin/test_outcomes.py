"""How verdicts show in pytest: outcome, letter, exit code, table, JUnit, ``-x`` and ``--lf``."""

from __future__ import annotations

import json

import pytest

from .conftest import cases, properties

VALIDATED = "def test_validated(judge):\n    judge(joules(1.0) <= HIGH)\n"
REFUTED = "def test_refuted(judge):\n    judge(joules(1.0) <= LOW)\n"
INCONCLUSIVE = "def test_inconclusive(judge):\n    judge(joules(1.0) <= NEAR)\n"
INVALID = "def test_invalid(judge):\n    judge(joules(1.0) <= HIGH, needs=[BROKEN])\n"
NOT_TESTED = "@pytest.mark.needs('cpu.energy_j')\ndef test_not_tested(judge):\n    judge(joules(1.0) <= HIGH)\n"
FAILED = "def test_failed():\n    assert 1 == 2\n"
PASSED = "def test_passed():\n    assert 1 == 1\n"


@pytest.mark.parametrize(
    ("text", "code", "letter", "outcomes"),
    [
        (VALIDATED, 0, ".", {"passed": 1}),
        (REFUTED, 1, "F", {"failed": 1}),
        (INVALID, 10, "I", {"invalid": 1}),
        (INCONCLUSIVE, 10, "?", {"inconclusive": 1}),
        (NOT_TESTED, 0, "s", {"skipped": 1}),
    ],
)
def test_each_verdict_has_its_outcome_letter_and_exit_code(project, text, code, letter, outcomes):
    """REFUTED fails; INVALID and INCONCLUSIVE are categories of their own with exit code 10; NOT_TESTED is skipped."""
    result = project.run_test(text)
    assert result.ret == code
    assert result.parseoutcomes() == outcomes
    result.stdout.fnmatch_lines([f"test_it.py {letter} *"])
    name = text.partition("def test_")[2].partition("(")[0]
    assert project.verdicts == {f"it.{name.replace('_', '-')}": name.upper()}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (VALIDATED + PASSED + NOT_TESTED, 0),
        (VALIDATED + INVALID, 10),
        (NOT_TESTED + INCONCLUSIVE + INVALID, 10),
        (INVALID + REFUTED, 1),
        (REFUTED + INCONCLUSIVE + VALIDATED, 1),
        (INVALID + FAILED, 1),
        (FAILED + VALIDATED, 1),
    ],
)
def test_a_mixture_ends_as_its_worst(project, text, code):
    """1 where anything failed or was refuted; 10 where nothing did, but something could not be measured."""
    assert project.run_test(text).ret == code


def test_an_invalid_claim_beside_an_error_in_a_fixture_is_exit_code_1(project):
    """10 promises that nothing failed; a broken fixture is a failure."""
    broken = "@pytest.fixture\ndef broken():\n    raise ValueError('no')\ndef test_broken(broken):\n    pass\n"
    assert project.run_test(INVALID + broken).ret == 1


def test_x_stops_at_an_invalid_claim(project):
    """An unmeasurable claim is a reason to stop; the run says why it stopped."""
    result = project.run_test(INVALID + VALIDATED, "-x")
    assert result.ret == 10
    assert result.parseoutcomes() == {"invalid": 1}
    assert project.run_record["state"] == "completed"
    assert project.run_record["end_reason"].startswith("stopped")


def test_lf_selects_what_was_not_validated(project):
    """``--lf`` runs INVALID, INCONCLUSIVE and REFUTED again, and nothing else."""
    text = VALIDATED + INVALID + INCONCLUSIVE + REFUTED + NOT_TESTED
    project.run_test(text)
    result = project.run("--lf")
    assert result.parseoutcomes() == {"invalid": 1, "inconclusive": 1, "failed": 1}


def test_junit_shows_verdicts_as_failures_with_plain_properties(project):
    """Each verdict is visible to CI: failure elements with the explanation, and properties that parse as numbers and words."""
    project.run_test(VALIDATED + REFUTED + INVALID + INCONCLUSIVE + NOT_TESTED, "--junitxml=out.xml")
    found = cases(project.path / "out.xml")
    texts = {name: [item.get("message") for item in case.iter("failure")] for name, case in found.items()}
    assert texts["test_validated"] == []
    assert "RefutedClaim: REFUTED" in texts["test_refuted"][0]
    assert "InvalidMeasurement: INVALID" in texts["test_invalid"][0]
    assert "power is 2 W (limit 1 W)" in texts["test_invalid"][0]
    assert "InconclusiveMeasurement: INCONCLUSIVE" in texts["test_inconclusive"][0]
    (skipped,) = found["test_not_tested"].iter("skipped")
    assert "NOT_TESTED: this rig has no 'cpu'" in skipped.get("message")
    for name, verdict in [("test_validated", "VALIDATED"), ("test_invalid", "INVALID"), ("test_not_tested", "NOT_TESTED")]:
        shown = dict(properties(found[name]))
        assert shown["physics_verdict"] == verdict
        assert shown["physics_attempt"] == "1"
        assert shown["physics_reason"]
    shown = dict(properties(found["test_validated"]))
    assert (float(shown["physics_estimate"]), float(shown["physics_limit"]), shown["physics_unit"]) == (1.0, 2.0, "J")
    assert float(shown["physics_expanded_uncertainty"]) == pytest.approx(0.196, abs=1e-3)


def test_properties_are_plain_python_values(project):
    """A numpy scalar in a property kills xdist's session and pytest-html's JSON: numbers from numpy become floats."""
    project.write(
        conftest="""
        import json
        def pytest_runtest_logreport(report):
            if report.when == "call":
                with open("types.jsonl", "a") as file:
                    file.write(json.dumps([[type(v).__module__, type(v).__name__] for _, v in report.user_properties]) + "\\n")
        """
    )
    result = project.run_test(
        """
import numpy as np
def test_numpy(rig, judge):
    with rig.gpu.window("work", tokens=np.int64(8)) as window:
        rig.gpu.sleep(np.float64(1.0))
    judge(window.duration <= np.float64(2.0))
    judge(Estimate.given(np.float32(1.0), "J", u=np.float64(0.1)) * np.float64(2) <= np.int32(5))
"""
    )
    assert result.ret == 0
    (line,) = (project.path / "types.jsonl").read_text(encoding="utf-8").splitlines()
    types = {tuple(item) for item in json.loads(line)}
    assert types
    assert types <= {("builtins", "str"), ("builtins", "int"), ("builtins", "float"), ("builtins", "bool")}


def test_the_table_shows_every_claim_and_the_summary_why_it_could_not_be_measured(project, real_report):
    """Statement, numbers, verdict; the failed gate with its remedy; what is simulated; where the run is."""
    result = project.run_test(VALIDATED + REFUTED + INVALID + INCONCLUSIVE + NOT_TESTED)
    assert result.ret == 1
    out = result.stdout
    out.fnmatch_lines(
        [
            "GPU numbers are SIMULATED: 'twin:rtx4080-laptop' was asked for.",
            "test_it.py::test_invalid",
            "*gate * planted fault (this test): power is 2 W (limit 1 W)",
            "*mend it",
            "run: *runs*",
            "report: *report.html",
        ]
    )
    out.fnmatch_lines_random(["VALIDATED *validated", "REFUTED *refuted", "INVALID *invalid", "INCONCLUSIVE *", "NOT TESTED *"])
    out.fnmatch_lines(["1 of 5 claims is refuted; 1 invalid, 1 inconclusive, 1 validated, 1 not tested."])


def test_a_refuted_claim_is_shown_at_the_users_line(project):
    """The traceback ends in the test, not in the judge."""
    result = project.run_test(REFUTED + "\ndef test_bare(judge):\n    assert joules(1.0) <= LOW\n")
    result.stdout.fnmatch_lines(["*test_it.py:*: RefutedClaim", "*test_it.py:*: RefutedClaim"])
    result.stdout.no_fnmatch_line("*claims.py:*: RefutedClaim")
    result.stdout.no_fnmatch_line("*uncertainty.py:*: RefutedClaim")


def test_a_channel_that_is_missing_is_reported_at_the_test(project):
    """The short summary names the test's file and the reason, not a line of the plugin."""
    result = project.run_test(NOT_TESTED, "-rs")
    result.stdout.fnmatch_lines(["SKIPPED [[]1[]] *test_it.py:*: NOT_TESTED: this rig has no 'cpu' (it has gpu)*"])


def test_the_header_names_devices_and_what_is_simulated(project):
    """One line about the rig, then the banner, before any test runs."""
    result = project.run_test(VALIDATED)
    result.stdout.fnmatch_lines(["physics: profile quick; gpu = twin:rtx4080-laptop*", "GPU numbers are SIMULATED*", "collected*"])


def test_inactive_runs_have_no_header_and_no_section(project):
    """Without ``--physics`` the plugin is silent."""
    project.write(test_it=PASSED)
    result = project.run(physics=False)
    result.stdout.no_fnmatch_line("*physics:*")
    result.stdout.no_fnmatch_line("*= physics =*")
    result.stdout.no_fnmatch_line("*SIMULATED*")


@pytest.mark.parametrize(
    "options", ["-q", "-qq", "-v", "-vv", "--tb=short", "--tb=no", "--tb=native", "--tb=line", "-s", "--no-summary", "-rA"]
)
def test_output_options_change_nothing_but_the_output(project, options):
    """Every way of printing works, and the exit code stays."""
    result = project.run_test(VALIDATED + INVALID + NOT_TESTED, options)
    assert result.ret == 10
    result.stderr.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    assert project.run_record["state"] == "completed"


def test_verbose_output_spells_the_words(project):
    """``-v`` prints INVALID and INCONCLUSIVE instead of letters."""
    result = project.run_test(INVALID + INCONCLUSIVE, "-v")
    result.stdout.fnmatch_lines(["*::test_invalid INVALID*", "*::test_inconclusive INCONCLUSIVE*"])


def test_a_report_carries_the_explanation_of_each_claim(project):
    """What was judged stands in the report's sections, also for a claim that holds, and no explanation stands twice."""
    project.write(
        conftest="""
        def pytest_runtest_logreport(report):
            if report.when == "call":
                texts = [text for name, text in report.sections if name == "physics"]
                print(f"<{report.nodeid.partition('::')[2]}: {len(texts)} {' '.join(texts)[:20]}>")
        """
    )
    result = project.run_test(VALIDATED + REFUTED, "-s")
    result.stdout.fnmatch_lines(["*<test_validated: 1 VALIDATED: validated*", "*<test_refuted: 0 >*"])
