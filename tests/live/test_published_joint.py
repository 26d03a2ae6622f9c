"""``examples/training/publish.py``: what it publishes may name no place of the machine it ran on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_physics.record.reader import RunReader

TRAINING = Path(__file__).parents[2] / "examples/training"


@pytest.fixture
def publish(tmp_path):
    """The script in a repository of its own; returns its exit code and output."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    if not TRAINING.is_dir():
        pytest.skip("the examples are not beside the tests")
    shutil.copytree(TRAINING, tmp_path / "examples/training")

    def publish(*options):
        command = [sys.executable, tmp_path / "examples/training/publish.py", tmp_path / "published", "--shapes", "tiny", *options]
        around = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=False, cwd="/", env=around, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr

    return publish


def test_a_published_session_names_no_place_of_the_machine(publish, tmp_path):
    """Commands, settings and the report hold relative paths; the run verifies, and its scratch folder is gone."""
    code, said = publish("--seconds", "1")
    assert code == 0, said
    run = tmp_path / "published/tiny"
    assert RunReader(run).run.command == [
        "pytest-physics", "joint", "--devices", "cpu", "--runs", "runs/joint/tiny", "--margin", "5", "--", "python",
        "examples/training/train.py", "--shape", "tiny", "--seconds", "1", "--threads", "1",
    ]  # fmt: skip
    for name in ("run.json", "results.jsonl", "windows.jsonl", "report.html"):
        text = (run / name).read_text()
        assert str(tmp_path) not in text
        assert str(Path(sys.executable).parent) not in text
    assert not (tmp_path / "runs/joint/tiny").exists()


def test_a_run_that_was_left_is_not_overwritten(publish, tmp_path):
    """One line, exit code 2, and the folder as it was."""
    (tmp_path / "runs/joint/tiny").mkdir(parents=True)
    code, said = publish()
    assert (code, said) == (2, "error: runs/joint/tiny is there already; remove it, for it may hold a run that was never published.\n")
