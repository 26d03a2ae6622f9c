"""``pytest-physics`` from the outside: exit codes, one line per error, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_physics import doctor
from pytest_physics.config import load_settings
from pytest_physics.devices.base import CHANNELS
from pytest_physics.report.build import build_report
from pytest_physics.session import Session
from pytest_physics.workloads.twin import TwinKernel

PROGRAM = Path(sys.executable).with_name("pytest-physics")


def command(*arguments, **options):
    """Exit code and everything printed."""
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, env=environment, **options
    )  # fmt: skip
    assert "Traceback" not in done.stderr + done.stdout
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short published run."""
    directory = tmp_path_factory.mktemp("cli")
    session = Session.start(load_settings(directory, overrides={"device": "twin:ideal"}), directory=directory)
    with session.rig.gpu.window("work", tokens=10) as window:
        TwinKernel(session.rig.gpu.device).run_for(2.0)
    session.result("x", "duration", window.duration)
    session.finish(publish=build_report)
    return session.path


def test_verify_says_what_it_checked_and_that_it_holds(run):
    """Exit code 0, a count per kind of record."""
    code, out, _ = command("verify", run)
    assert code == 0
    assert "windows    1 checked\n" in out
    assert out.endswith("every number and verdict follows from the raw artifacts.\n")


def test_report_builds_the_page_again(run):
    """The same bytes from the same directory; the run still verifies."""
    pages = []
    for _ in range(2):
        (run / "report.html").write_text("")
        code, out, _ = command("report", run)
        assert code == 0
        assert out.strip() == str(run / "report.html")
        pages.append((run / "report.html").read_bytes())
    assert pages[0] == pages[1]
    assert command("verify", run)[0] == 0


def test_export_names_the_files_it_wrote(run, tmp_path):
    """Both formats in one call."""
    pytest.importorskip("pyarrow")
    code, out, _ = command("export", run, "--output", tmp_path / "out", "--format", "tr122, parquet")
    assert code == 0
    written = [Path(line) for line in out.splitlines()]
    assert sorted(path.name for path in written) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(written) == 3 + 4  # no claim was judged, and yet its table is there, empty


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("verify", "nowhere"),
            2,
            "error: nowhere is not a run directory: it has no run.json. Give the directory that a report line names.",
        ),
        (("report", "nowhere"), 2, "error: nowhere is not a run directory"),
        (("export", "nowhere", "-o", "out"), 2, "error: nowhere is not a run directory"),
        (("verify",), 2, "Missing argument 'RUN'"),
        (("export", "{run}"), 2, "Missing option '--output'"),
        (("export", "{run}", "-o", "out", "--format", "tr123"), 2, "unknown export format 'tr123' (did you mean 'tr122'?)"),
        (("export", "{run}", "-o", "{run}/run.json"), 2, "error: cannot write into"),
        (("verfy", "{run}"), 2, "No such command 'verfy'"),
    ],
)
def test_wrong_use_is_one_message_and_exit_code_2(run, tmp_path, arguments, code, message):
    """What was wrong and what would be right."""
    found, _, error = command(*(argument.format(run=run) for argument in arguments), cwd=tmp_path)
    assert found == code
    assert message in " ".join(error.split())


def test_without_a_command_the_commands_are_listed():
    """And nothing is done."""
    _, out, error = command()
    for name in ("doctor", "verify", "report", "export"):
        assert name in out + error


def test_doctor_says_what_can_be_measured_and_why_not_the_rest():
    """Every channel of the CPU with its value or its reason; the GPU or why there is none; the scheduling that samplers get."""
    code, out, _ = command("doctor")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("clock       perf_counter, resolution ")
    assert lines[1].startswith("scheduling  real-time priority ")
    assert lines[2].startswith("GPU         ")
    shown = {line.split()[1]: line for line in lines if line.startswith(("  yes  ", "  no   "))}
    assert set(shown) <= set(CHANNELS)
    assert {"utilisation_cpu_ratio", "energy_j"} <= set(shown)
    assert all(len(line.split()) > 3 for line in shown.values())


def test_doctor_names_a_device_that_cannot_be_opened(monkeypatch):
    """The device's own message; the rest is still described."""
    from pytest_physics.errors import DeviceUnavailableError

    def refuse(spec):
        raise DeviceUnavailableError(f"{spec} does not answer.")

    monkeypatch.setattr(doctor, "open_device", refuse)
    assert "cpu: cannot be opened: cpu does not answer." in list(doctor.doctor_lines())
