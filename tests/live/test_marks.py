"""Step marks: whole lines from the training, good rows and named problems for the reader."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics import marks
from pytest_physics.errors import RecordError
from pytest_physics.record.step_marks import read_step_marks


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Where ``joint`` wants the marks."""
    path = tmp_path / "step-marks.jsonl"
    monkeypatch.setenv(marks.VARIABLE, str(path))
    return path


def line(t_ns, step, **values):
    """A mark as it stands in the file."""
    return json.dumps({"t_ns": t_ns, "step": step, "loss": None, "grad_norm": None, "learning_rate": None} | values)


# --- writing --------------------------------------------------------------------------------------------------------------


def test_marks_are_read_as_they_were_written(file):
    """Times are of this machine's ``perf_counter``; what was not said is NaN; ``lr`` is short for ``learning_rate``."""
    before_ns = time.perf_counter_ns()
    assert marks.mark_step(1, loss=2.5, grad_norm=1.25, learning_rate=5e-5)
    assert marks.mark_step(2, loss=math.nan)
    assert marks.mark_step(3, lr=3e-5)
    assert marks.mark_step(4, lr=3e-5, learning_rate=4e-5)
    found = read_step_marks(file)
    assert found.problems == ()
    assert found.columns["step"].tolist() == [1, 2, 3, 4]
    assert before_ns < found.columns["t_ns"][0] < found.columns["t_ns"][1] < time.perf_counter_ns()
    np.testing.assert_array_equal(found.columns["loss"], [2.5, math.nan, math.nan, math.nan])
    np.testing.assert_array_equal(found.columns["grad_norm"], [1.25, math.nan, math.nan, math.nan])
    np.testing.assert_array_equal(found.columns["learning_rate"], [5e-5, math.nan, 3e-5, 4e-5])


@given(
    st.lists(
        st.tuples(
            st.integers(1, 10**6), st.integers(1, 5), *[st.none() | st.floats(allow_nan=False)] * 3,
        ), max_size=20,
    )
)  # fmt: skip
def test_any_increasing_series_survives(tmp_path_factory, rows):
    """Values of any size, infinite ones too, come back to the last bit."""
    path = tmp_path_factory.mktemp("marks") / "m.jsonl"
    t_ns, steps = np.cumsum([row[0] for row in rows]), np.cumsum([row[1] for row in rows])
    before = os.environ.get(marks.VARIABLE)
    os.environ[marks.VARIABLE] = str(path)
    try:
        for t, step, row in zip(t_ns.tolist(), steps.tolist(), rows, strict=True):
            assert marks.mark_step(step, loss=row[2], grad_norm=row[3], learning_rate=row[4], t_ns=t)
    finally:
        os.environ.pop(marks.VARIABLE)
        if before is not None:
            os.environ[marks.VARIABLE] = before
    found = read_step_marks(path)
    assert found.problems == ()
    assert found.columns["t_ns"].tolist() == t_ns.tolist()
    assert found.columns["loss"].tolist() == pytest.approx([math.nan if row[2] is None else row[2] for row in rows], rel=0, nan_ok=True)


def test_without_joint_nothing_is_written(tmp_path, monkeypatch):
    """The same script runs anywhere."""
    monkeypatch.delenv(marks.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert not marks.mark_step(1, loss=1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_said_once_and_ends_nothing(tmp_path, monkeypatch, caplog):
    """A full or missing disk must not cost a training."""
    monkeypatch.setenv(marks.VARIABLE, str(tmp_path / "nowhere" / "m.jsonl"))
    with caplog.at_level(logging.WARNING, "pytest_physics.marks"):
        assert [marks.mark_step(step) for step in range(3)] == [False] * 3
    assert len(caplog.records) == 1
    assert "step marks cannot be written to" in caplog.text


def test_marking_loads_the_standard_library_only(tmp_path):
    """A training must not pay for numpy or pydantic to mark a step."""
    code = (
        "import sys, pytest_physics.marks; print(sorted(m for m in sys.modules if m.partition('.')[0] in {'numpy', 'pydantic', 'pytest'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n"


# --- reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "where", "problem"),
    [
        ('{"t_ns": 25, "st', "line 3", "the line is torn"),
        ("loss: 0.5", "line 3", "the line is torn"),
        ('{"t_ns": 25}', "line 3", "the line is no step mark"),
        ("[25, 2]", "line 3", "the line is no step mark"),
        (line(25, 2.5), "line 3", "the line is no step mark"),
        (line(25, True), "line 3", "the line is no step mark"),
        (line(-1, 7), "line 3", "the line is no step mark"),
        (line(25, 7, loss="low"), "line 3", "the line is no step mark"),
        (line(25, 7, loss=True), "line 3", "the line is no step mark"),
        (line(25, 2), "line 3", "the step was marked before"),
        (line(25, 0), "line 3", "the step goes back"),
        (line(20, 7), "line 3", "the time does not increase"),
        (line(19, 7), "line 3", "the time does not increase"),
    ],
)
def test_a_bad_line_is_left_out_and_named(tmp_path, bad, where, problem):
    """File, line and remedy; the rows around it stay."""
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join([line(10, 1), line(20, 2), bad, line(30, 8)]) + "\n")
    found = read_step_marks(path)
    assert found.columns["step"].tolist() == [1, 2, 8]
    (sentence,) = found.problems
    assert sentence.startswith(f"{path}, {where}: {problem}, and was left out: ")
    assert len(sentence.partition("left out: ")[2]) > 20


def test_a_last_line_that_was_cut_off_is_torn(tmp_path):
    """Also where what is there reads as JSON: its end is not known."""
    path = tmp_path / "m.jsonl"
    path.write_text(line(10, 1) + "\n" + line(20, 2))
    found = read_step_marks(path)
    assert found.columns["step"].tolist() == [1]
    assert f"{path}, line 2: the line is torn" in found.problems[0]


def test_many_lines_of_a_kind_are_one_sentence(tmp_path):
    """The first few are given by number."""
    path = tmp_path / "m.jsonl"
    path.write_text("".join(line(t, 1) + "\n" for t in range(1, 11)))
    (sentence,) = read_step_marks(path).problems
    assert f"{path}, lines 2, 3, 4 and 6 more: the step was marked before" in sentence


def test_times_of_another_clock_are_left_out(tmp_path):
    """At the edges of the training they are in, beyond them out."""
    path = tmp_path / "m.jsonl"
    path.write_text("".join(line(t, t) + "\n" for t in (9, 10, 20, 21)))
    found = read_step_marks(path, span_ns=(10, 20))
    assert found.columns["step"].tolist() == [10, 20]
    assert "lines 1, 4: its time is not within the training" in found.problems[0]


def test_no_file_is_no_marks(tmp_path):
    """A training that marked nothing is no error here."""
    found = read_step_marks(tmp_path / "m.jsonl")
    assert (len(found), found.problems) == (0, ())
    assert {name: column.dtype.kind for name, column in found.columns.items()}["t_ns"] == "i"


def test_an_unreadable_file_is_one_message(tmp_path):
    """A directory in its place, for instance."""
    with pytest.raises(RecordError, match="cannot read the step marks"):
        read_step_marks(tmp_path)


# --- the callback -----------------------------------------------------------------------------------------------------------


def test_the_callback_joins_times_and_logs(file):
    """Logged steps have values, the others times only; evaluation logs and other ranks write nothing."""
    pytest.importorskip("transformers")
    from pytest_physics import StepMarksCallback

    callback = StepMarksCallback()
    for step in range(1, 6):
        state = SimpleNamespace(global_step=step, is_world_process_zero=True)
        callback.on_step_end(None, state, None)
        if step % 2 == 0:
            callback.on_log(None, state, None, logs={"loss": 1.0 / step, "grad_norm": 2.0, "learning_rate": 0.1})
            callback.on_log(None, state, None, logs={"eval_loss": 9.0})
    callback.on_log(None, state, None, logs={"train_runtime": 1.0})
    callback.on_train_end(None, state, None)
    callback.on_step_end(None, SimpleNamespace(global_step=6, is_world_process_zero=False), None)
    callback.on_train_end(None, state, None)
    found = read_step_marks(file)
    assert found.columns["step"].tolist() == [1, 2, 3, 4, 5]
    assert np.isfinite(found.columns["loss"]).tolist() == [False, True, False, True, False]
    assert np.isfinite(found.columns["learning_rate"]).tolist() == [False, True, False, True, False]
