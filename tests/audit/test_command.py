"""The command: exit codes, files, and errors of one line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from sound_report import CLEAN

PLANTED = CLEAN.replace("failed: 86}", "failed: 68}")
OPEN = CLEAN.replace("290, trials: 550, percent: 52.7", "29, trials: 55").replace("200, trials: 550, percent: 36.4", "20, trials: 55")


@pytest.fixture
def command():
    """The command's own function in this process: exit code and output."""
    from typer.testing import CliRunner

    from pytest_physics.cli import app

    return lambda *arguments: CliRunner().invoke(app, ["audit", *map(str, arguments)])


@pytest.mark.parametrize(("text", "code", "words"), [(CLEAN, 0, "3 of 4"), (PLANTED, 1, "REFUTED"), (OPEN, 10, "INCONCLUSIVE")])
def test_exit_codes(command, tmp_path, text, code, words):
    """0, 1 and 10, as everywhere."""
    path = tmp_path / "report.yaml"
    path.write_text(text, encoding="utf-8")
    done = command(path)
    assert done.exit_code == code
    assert words in done.output


def test_json_and_page_are_written(command, tmp_path):
    """Both files, in directories that did not exist."""
    path = tmp_path / "report.yaml"
    path.write_text(CLEAN, encoding="utf-8")
    done = command(path, "--json", tmp_path / "a" / "out.json", "--html", tmp_path / "b" / "out.html")
    assert done.exit_code == 0
    assert json.loads((tmp_path / "a" / "out.json").read_text(encoding="utf-8"))["title"] == "A sound report"
    assert "A sound report" in (tmp_path / "b" / "out.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "either a statements file or --run"),
        (["x.yaml", "--run", "y"], "not both"),
        (["absent.yaml"], "cannot read"),
        (["--run", "absent"], "is not a run directory"),
    ],
)
def test_wrong_use_is_an_error_of_this_package(command, arguments, words):
    """What ``main`` prints as one line with exit code 2."""
    from pytest_physics.errors import PhysicsError

    found = command(*arguments).exception
    assert isinstance(found, PhysicsError)
    assert words in str(found)


def test_a_data_directory_must_be_one(command, tmp_path):
    """A file is no directory."""
    path = tmp_path / "report.yaml"
    path.write_text(CLEAN, encoding="utf-8")
    assert "is not a directory" in str(command(path, "--data", path).exception)


def test_the_plugin_does_not_load_the_audit():
    """A plain pytest run imports neither the audit nor its YAML reader."""
    code = "import pytest_physics.plugin, sys; print([m for m in sys.modules if m == 'yaml' or m.startswith('pytest_physics.audit')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
