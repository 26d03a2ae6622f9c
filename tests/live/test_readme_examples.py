"""The README's examples of watching and training run as they stand."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from pytest_physics.record.reader import RunReader

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PRELUDE = """
batches = [[1.0], [2.0], [3.0]]
def train_on(batch):
    return 1.0 / batch[0], batch[0]
"""


def blocks(heading, language):
    """Code blocks of a section."""
    section = README.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)


def test_the_monitor_example_runs(program):
    """With a shorter time, and on what it names as a simulation."""
    (line,) = blocks("Watch a machine", "sh")
    _, *arguments = shlex.split(line)
    arguments[arguments.index("--duration") + 1] = "2"
    simulated = shlex.split(re.search(r"`(--devices twin:\S+ --fast)`", README)[1])
    assert program.inside(*arguments, *simulated)[0] == 0
    program.verified()


def test_the_training_example_runs(program, monkeypatch):
    """The marks of the example become the table it names."""
    (script,) = blocks("Measure a training", "python")
    (line,) = blocks("Measure a training", "sh")
    (program.path / "train.py").write_text(PRELUDE + script)
    _, *arguments = shlex.split(line.replace("python", sys.executable))
    arguments[1:1] = ["--devices", "cpu", "--margin", "0.1"]
    code, _, error = program.inside(*arguments)
    assert code == 0, error
    table = RunReader(program.verified()).table("training-steps-1")
    assert table["step"].tolist() == [1, 2, 3]
    assert table["grad_norm"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("name", ["PhysicsTrainerCallback", "StepMarksCallback"])
def test_the_names_it_promises_are_there(name):
    """At the public door."""
    pytest.importorskip("transformers")
    import pytest_physics

    assert f"pytest_physics.{name}()" in README
    assert callable(getattr(pytest_physics, name))
