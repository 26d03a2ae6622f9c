"""How a run ends: hooks, faults of fixtures, reports that cannot be built, Ctrl-C; what was measured stays readable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import matplotlib as mpl
import pytest

from pytest_physics.errors import RecordError

OK = "def test_ok(judge):\n    judge(joules(1.0) <= HIGH)\n"
INVALID = "def test_invalid(judge):\n    judge(joules(1.0) <= HIGH, needs=[BROKEN])\n"


def test_a_conftest_hears_of_every_claim_and_of_the_end(project, real_report):
    """Once per record, whichever phase judged it; the run directory is complete when its end is announced."""
    project.write(
        conftest="""
        def pytest_physics_claim_judged(config, claim):
            print("CLAIM", claim.id, claim.verdict.value, claim.attempt)
        def pytest_physics_run_finished(config, run, report):
            print("END", (run / "MANIFEST.sha256").is_file(), report.name, report.parent == run)
        """
    )
    text = (
        OK
        + "def test_two(judge):\n    judge(joules(1.0) <= HIGH)\n    judge(joules(1.0) <= LOW)\n"
        + "@pytest.mark.needs('cpu')\ndef test_missing(judge):\n    pass\n"
        + "@pytest.fixture\ndef broken():\n    raise ValueError\ndef test_broken(broken, judge):\n    pass\n"
        + "@pytest.fixture\ndef late(judge):\n    yield\n    judge(joules(1.0) <= HIGH)\n"
        + "def test_late(late, judge):\n    judge(joules(1.0) <= HIGH)\n"
    )
    result = project.run_test(text, "-s")
    lines = [line[line.index("CLAIM") :] for line in result.stdout.lines if "CLAIM" in line]
    assert lines == [
        "CLAIM it.ok VALIDATED 1", "CLAIM it.two VALIDATED 1", "CLAIM it.two#2 REFUTED 1", "CLAIM it.missing NOT_TESTED 1",
        "CLAIM it.broken INVALID 1", "CLAIM it.late VALIDATED 1", "CLAIM it.late#2 VALIDATED 1",
    ]  # fmt: skip
    result.stdout.fnmatch_lines(["*END True report.html True"])


def test_hooks_of_a_conftest_in_a_folder_hear_of_its_tests_only(project):
    """As with pytest's own per-test hooks."""
    for folder in ("a", "b"):
        (project.path / folder).mkdir()
        text = f"def pytest_physics_claim_judged(claim):\n    print('HEARD {folder}', claim.id)\n"
        (project.path / folder / "conftest.py").write_text(text, encoding="utf-8")
        test = "from pytest_physics import Estimate\ndef test_x(judge):\n    judge(Estimate.exact(1.0) <= 2.0)\n"
        (project.path / folder / f"test_{folder}.py").write_text(test, encoding="utf-8")
    result = project.run("-s")
    assert result.stdout.str().count("HEARD") == 2
    result.stdout.fnmatch_lines(["*HEARD a a.x", "*HEARD b b.x"])


def test_a_hook_of_ours_that_is_misspelt_is_an_error(project):
    """Names are checked because they are declared."""
    project.write(conftest="def pytest_physics_claim_jugded(claim):\n    pass\n", test_it=OK)
    result = project.run()
    assert result.ret != 0
    assert "pytest_physics_claim_jugded" in result.stdout.str() + result.stderr.str()


def test_an_error_in_a_fixture_makes_the_claim_invalid_and_fails(project):
    """The user's error is shown; the table says that nothing was judged."""
    result = project.run_test("@pytest.fixture\ndef broken():\n    raise ValueError('no load')\ndef test_x(broken, judge):\n    pass\n")
    assert result.ret == 1
    assert result.parseoutcomes() == {"errors": 1}
    result.stdout.fnmatch_lines(["E*ValueError: no load"])
    assert project.verdicts == {"it.x": "INVALID"}
    assert project.run_record["state"] == "completed"


def test_an_unmeasurable_fixture_makes_all_its_claims_invalid(project):
    """A fixture that raises InvalidMeasurement speaks for every test that needs it."""
    text = """
from pytest_physics.errors import InvalidMeasurement
@pytest.fixture(scope="module")
def curve():
    raise InvalidMeasurement("the curve could not be measured: 3 W of drift (limit 1 W)")
def test_a(curve, judge):
    pass
def test_b(curve, judge):
    pass
"""
    result = project.run_test(text)
    assert result.ret == 10
    assert result.parseoutcomes() == {"invalid": 2}
    assert project.verdicts == {"it.a": "INVALID", "it.b": "INVALID"}
    result.stdout.fnmatch_lines(["*the curve could not be measured: 3 W of drift (limit 1 W)"])


@pytest.mark.parametrize(
    "error", [RecordError("cannot write report.html: No space left on device"), ZeroDivisionError("a fault in a figure")]
)
def test_a_report_that_cannot_be_built_leaves_the_run_readable_and_is_said(project, monkeypatch, error):
    """The measurement is worth more than its page: manifest and records are complete, and the exit code is not 0."""

    def refuse(_):
        raise error

    monkeypatch.setattr("pytest_physics.report.build.build_report", refuse)
    result = project.run_test(OK)
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"problem: *{error}*", "report: not written"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    assert project.run_record["state"] == "completed"
    assert project.verdicts == {"it.ok": "VALIDATED"}
    (run,) = project.runs
    assert (run / "MANIFEST.sha256").is_file()


def test_a_missing_report_is_not_excused_by_an_invalid_claim(project, monkeypatch):
    """Exit code 10 promises that all that is wrong is a measurement."""

    def refuse(_):
        raise RecordError("full")

    monkeypatch.setattr("pytest_physics.report.build.build_report", refuse)
    assert project.run_test(INVALID).ret == 1


def test_pytest_exit_leaves_an_incomplete_run(project):
    """What ends the session ends the run, with its reason."""
    result = project.run_test(OK + "def test_exit(judge):\n    pytest.exit('enough', returncode=7)\n")
    assert result.ret == 7
    assert (project.run_record["state"], project.run_record["end_reason"]) == ("incomplete", "Exit: enough")
    assert project.verdicts == {"it.ok": "VALIDATED", "it.exit": "INVALID"}


def test_two_sessions_in_one_process_do_not_mix(project):
    """Nothing is kept between them: each has its run and its claims."""
    project.run_test(OK)
    assert project.run("-k", "nothing").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert project.run().ret == 0
    first, second = project.runs
    assert (first / "claims.jsonl").read_bytes().count(b"\n") == (second / "claims.jsonl").read_bytes().count(b"\n") == 1


def test_the_death_of_a_sampler_is_said_before_what_came_of_it(project):
    """The cause stands first and once, whatever the claims then say of missing samples."""
    result = project.run_test(
        """
import os, signal, time
def test_x(rig, judge):
    os.kill(rig.cpu.sampler.pid, signal.SIGKILL)
    time.sleep(0.2)
    with rig.cpu.window("after") as window:
        time.sleep(0.2)
    judge(window.duration <= 60.0)
""",
        "--physics-device", "cpu",
    )  # fmt: skip
    assert result.ret == 10
    out = result.stdout.str()
    told = "the sampler of 'cpu' failed: the process ended without a word (killed by SIGKILL). What came after it was not seen."
    assert out.count(told) == 1
    assert out.index(told) < out.index("INVALID: x")


def test_claims_on_undefined_numbers_are_invalid_and_verify(project, real_report):
    """JSON has no NaN and no infinity: what was given so is computed again as what it was, no number."""
    result = project.run_test(
        """
def test_divided(judge):
    judge(joules(1.0) / (Estimate.exact(0.0, "s") + 0.0) <= HIGH)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_given(judge, value):
    judge(joules(value) <= HIGH)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_exact(judge, value):
    judge(Estimate.exact(value) <= HIGH)
"""
    )
    assert result.ret == 10
    assert {claim["reason"] for claim in project.claims} == {"data quality (estimate): the estimate is not a finite number"}

    from pytest_physics.record.verify import verify_run

    (run,) = project.runs
    assert verify_run(run).findings == ()


def test_a_run_needs_no_default_encoding(project):
    """What is read and written, and what other programs say, has its encoding: a locale must not decide."""
    project.write(test_it=OK)
    subprocess.run(["git", "init", "-q"], cwd=project.path, check=True, timeout=30)
    command = [
        sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning",
        "-W", "ignore::EncodingWarning:matplotlib.font_manager",
        "-m", "pytest", "-p", "no:hypothesispytest", "--physics", "--physics-device",
    ]  # fmt: skip
    for device in ("cpu", "twin:ideal"):
        done = subprocess.run(
            [*command, device], cwd=project.path, capture_output=True, encoding="utf-8", timeout=120, check=False,
            env=os.environ | {"MPLCONFIGDIR": mpl.get_cachedir()},  # else it looks for all fonts of the machine
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "EncodingWarning" not in done.stdout + done.stderr


INTERRUPTED = """
import os, signal, time
def test_ok(judge):
    judge(joules(1.0) <= HIGH)
def test_long(judge, rig):
    with rig[next(iter(rig.session.instruments))].window("long"):
        open("started", "w").close()
        time.sleep(60)
"""


def _interrupted(project, device: str) -> tuple[int, str]:
    """Exit code and output of a run that got SIGINT, as Ctrl-C sends it, to the whole process group."""
    project.write(test_it=INTERRUPTED)
    command = [sys.executable, "-m", "pytest", "-p", "no:hypothesispytest", "--physics", "--physics-device", device]
    process = subprocess.Popen(
        command, cwd=project.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not (project.path / "started").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        os.killpg(process.pid, 0)
    return process.returncode, output


@pytest.mark.parametrize("device", ["cpu", "twin:rtx4080-laptop"])
def test_ctrl_c_leaves_a_readable_incomplete_run(project, device):
    """Exit code 2; the claims before it, the cut window, the trace and a report are there; no process is left."""
    code, output = _interrupted(project, device)
    assert code == pytest.ExitCode.INTERRUPTED, output
    assert (project.run_record["state"], project.run_record["end_reason"]) == ("incomplete", "interrupted")
    assert project.verdicts == {"it.ok": "VALIDATED"}
    (run,) = project.runs
    (window,) = [json.loads(line) for line in (run / "windows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert window["labels"] == {"interrupted": "KeyboardInterrupt"}
    assert (run / "report.html").is_file(), output

    from pytest_physics.record.verify import verify_run

    assert verify_run(run).findings == ()
