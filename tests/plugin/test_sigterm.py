"""SIGTERM ends a run as a readable one: a scheduler's limit must not cost what was measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

TESTS = """
import os, signal, time

def test_measures(rig, judge):
    with rig.gpu.window("work", tokens=1) as window:
        rig.gpu.sleep(1.0)
    judge(window.duration <= 10.0)

def test_is_ended():
    open("reached", "w").close()
    time.sleep(60)

def test_never():
    raise AssertionError("pytest went on")
"""


def _run(directory, *, before=(), tests=TESTS):
    (directory / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_physics.plugin", "--physics"]
    return subprocess.Popen(
        [*before, *command, "--physics-device", "twin:rtx4080-laptop"], cwd=directory, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _reach(directory, process):
    deadline_s = time.monotonic() + 60
    while not (directory / "reached").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_the_run_is_finalised(tmp_path):
    """State, reason, claims, report and manifest are there; the second signal, as Slurm sends it, disturbs nothing."""
    process = _run(tmp_path)
    _reach(tmp_path, process)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    (run,) = (tmp_path / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert (record["state"], record["end_reason"]) == ("incomplete", "ended by SIGTERM")
    assert json.loads((run / "claims.jsonl").read_text())["verdict"] == "VALIDATED"
    assert (run / "report.html").is_file()
    assert (run / "MANIFEST.sha256").is_file()
    assert "went on" not in output


SLOW_END = """
import time
import pytest_physics.report.build as build
built = build.build_report

def slowly(path):
    open("reached", "w").close()
    time.sleep(1.5)
    return built(path)

build.build_report = slowly
"""


def test_a_signal_while_the_run_is_finalised_costs_nothing(tmp_path):
    """All tests have passed, the page is being built: the run ends as a whole one."""
    (tmp_path / "conftest.py").write_text(SLOW_END)
    process = _run(tmp_path, tests=TESTS[: TESTS.index("def test_is_ended")])
    _reach(tmp_path, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.OK, output
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "run.json").read_text())["state"] == "completed"
    assert (run / "MANIFEST.sha256").is_file()


def test_somebody_elses_choice_is_kept(tmp_path):
    """Where the signal is ignored, it stays ignored."""
    process = _run(tmp_path, before=("env", "--ignore-signal=TERM"))
    try:
        _reach(tmp_path, process)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate(timeout=60)
