"""``pytest-physics joint``: a training, the samples beside it, and its step marks in one run."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
import pytest

from pytest_physics.errors import RecordError
from pytest_physics.live.joint import GRACE_S
from pytest_physics.marks import VARIABLE
from pytest_physics.record.reader import RunReader
from pytest_physics.session import Session

TRAINING = """
import sys, time
from pytest_physics.marks import mark_step
for step in range(1, 11):
    time.sleep(0.02)
    mark_step(step, loss=1 / step, grad_norm=step % 3, learning_rate=1e-3)
print("trained")
sys.exit({code})
"""

TRAINER = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from pytest_physics import StepMarksCallback

torch.set_num_threads(1)
torch.manual_seed(0)
rows = [torch.randint(0, 64, (16,)) for _ in range(32)]
arguments = TrainingArguments(
    output_dir="out", max_steps=15, logging_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True,
    save_strategy="no", dataloader_pin_memory=False,
)
model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64, bos_token_id=0, eos_token_id=0))
data = [{"input_ids": row, "labels": row} for row in rows]
Trainer(model=model, args=arguments, train_dataset=data, callbacks=[StepMarksCallback()]).train()
"""


@pytest.fixture
def script(program):
    """Write a training script; returns the command that runs it."""

    def script(text):
        path = program.path / "train.py"
        path.write_text(text)
        return sys.executable, path

    return script


JOINT = ("joint", "--devices", "cpu", "--margin", "0.1", "--hz", "20", "--")


def test_marks_become_a_table_of_the_run(program, script):
    """Rows lie within the phase of the training, between its samples; the child's output and exit code are its own; all verifies."""
    code, out, error = program.run(*JOINT, *script(TRAINING.format(code=3)))
    assert code == 3
    assert out == "trained\n"
    assert "joint: 10 step marks, 1 to 10, as table 'training-steps-1'\n" in error
    assert "joint: the training ended with exit code 3\n" in error
    reader = RunReader(program.verified())
    table = reader.table("training-steps-1")
    assert table.dtype.names == ("t_ns", "step", "loss", "grad_norm", "learning_rate")
    assert table["step"].tolist() == list(range(1, 11))
    np.testing.assert_array_equal(table["loss"], 1 / np.arange(1.0, 11.0))
    (phase,) = reader.run.phases
    assert phase.name == "training"
    assert phase.t0_ns < table["t_ns"][0] < table["t_ns"][-1] < phase.t1_ns
    samples = reader.trace("cpu").t_ns
    assert samples[0] < table["t_ns"][0]
    assert samples[-1] > table["t_ns"][-1]
    assert reader.run.end_reason == "stopped: the training ended with exit code 3"


def test_a_real_trainer_marks_its_steps(program, script):
    """Loss, gradient norm and learning rate of every step of ``transformers.Trainer``."""
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    code, _, error = program.run(*JOINT, *script(TRAINER))
    assert code == 0, error
    reader = RunReader(program.verified())
    table = reader.table("training-steps-1")
    assert table["step"].tolist() == list(range(1, 16))
    assert (np.diff(table["t_ns"]) > 0).all()
    for name in ("loss", "grad_norm", "learning_rate"):
        assert np.isfinite(table[name]).all()
    assert reader.run.state == "completed"


def test_bad_marks_are_named_and_good_ones_stay(program, script):
    """File, line and remedy on the terminal."""
    text = TRAINING.replace(
        'print("trained")', f'import os\nopen(os.environ["{VARIABLE}"], "a").write("oops\\n")\nmark_step(4)\nmark_step(99, t_ns=1)'
    )
    code, _, error = program.inside(*JOINT, *script(text.format(code=0)))
    assert code == 0
    file = program.verified() / "step-marks.jsonl"
    for where, problem in ((11, "the line is torn"), (12, "the step was marked before"), (13, "its time is not within the training")):
        assert f"joint: {file.relative_to(program.path)}, line {where}: {problem}" in error or f"{file}, line {where}: {problem}" in error
    assert "joint: 10 step marks, 1 to 10" in error


def test_a_changed_table_is_found(program, script):
    """Also where the manifest was made anew: the table must follow from the marks."""
    from pytest_physics.record.verify import verify_run
    from pytest_physics.record.writer import digests, manifest_text

    program.inside(*JOINT, *script(TRAINING.format(code=0)))
    run = program.verified()
    table = np.load(run / "table-training-steps-1.npy")
    table["loss"][3] += 0.01
    np.save(run / "table-training-steps-1.npy", table)
    (run / "MANIFEST.sha256").write_text(manifest_text(digests(run)))
    findings = [str(finding.where) + " " + finding.problem for finding in verify_run(run).findings]
    assert "table-training-steps-1.npy column 'loss' is not what step-marks.jsonl says" in findings


def test_a_training_without_marks_says_so(program, script):
    """The samples are still worth having; the message names both ways to mark."""
    code, _, error = program.inside(*JOINT, *script("print(1)"))
    assert code == 0
    assert "the training marked no step" in error
    assert "StepMarksCallback()" in error
    assert "mark_step(step, loss=…)" in error
    assert RunReader(program.verified()).tables == []


def test_a_crashed_training_keeps_its_marks(program, script):
    """A signal's exit code is the shell's; the marks until then are in the table."""
    text = TRAINING.replace("sys.exit({code})", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    code, _, error = program.inside(*JOINT, *script(text))
    assert code == 128 + signal.SIGKILL
    assert "10 step marks" in error
    assert "joint: the training was ended by SIGKILL (exit code 137)" in error


def test_a_training_that_fails_at_once_says_so(program, script):
    """How to mark steps is no help to it; the samples are kept, and its exit code is passed on."""
    code, _, error = program.inside(*JOINT, *script("raise SystemExit(3)"))
    assert code == 3
    assert "joint: the training failed before it marked a step; the samples are kept\n" in error
    assert "StepMarksCallback" not in error
    assert RunReader(program.verified()).run.end_reason == "stopped: the training ended with exit code 3"


def test_a_program_without_an_interpreter_is_one_line(program):
    """Only starting it tells; the run says why it is incomplete."""
    train = program.path / "train"
    train.write_text("#!/no/such/interpreter\n")
    train.chmod(0o755)
    code, _, error = program.inside(*JOINT, train)
    assert code == 2
    assert f"error: cannot run '{train}': No such file or directory; is its first line '#!' with an interpreter that exists?\n" in error
    (run,) = program.runs
    assert "is incomplete: ConfigurationError: cannot run" in program.inside("verify", run)[1]


def test_a_request_to_stop_stops_the_training_and_completes_the_run(program, script):
    """The terminal tells both; the training ends as it likes, and the run is complete."""
    text = """
import time
from pytest_physics.marks import mark_step
try:
    for step in range(1000):
        mark_step(step)
        time.sleep(0.02)
except KeyboardInterrupt:
    raise SystemExit(7)
"""
    process = program.start(*JOINT, *script(text), start_new_session=True)
    deadline_s = time.monotonic() + 20
    while not list(program.path.glob("runs/*/step-marks.jsonl")) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=40)
    assert process.returncode == 7
    assert "as table 'training-steps-1'" in error
    program.verified()


def test_a_signal_to_joint_alone_is_passed_on_at_once(program, script):
    """No terminal has told the training: it is told within a second or two, not after the time of grace."""
    process = program.start(*JOINT, *script("import time\nprint('begun', flush=True)\ntime.sleep(60)"))
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "the training was ended by SIGTERM (exit code 143)" in error
    (phase,) = RunReader(program.verified()).run.phases
    assert phase.t1_ns - phase.t0_ns < GRACE_S * 1e9


def test_a_full_disk_after_the_training_ends_the_run_with_its_reason(program, script, monkeypatch):
    """One line; the samples stay, and the sampler is stopped."""

    def full(*_, **__):
        raise RecordError("cannot write table-training-steps-1.npy: No space left on device.")

    monkeypatch.setattr(Session, "tabulate", full)
    code, _, error = program.inside(*JOINT, *script(TRAINING.format(code=0)))
    assert code == 2
    assert error.endswith("error: cannot write table-training-steps-1.npy: No space left on device.\n")
    (run,) = program.runs
    assert RunReader(run).run.end_reason.startswith("RecordError: cannot write table-training-steps-1.npy")
    assert len(RunReader(run).trace("cpu")) > 0


def test_a_killed_joint_leaves_samples_and_marks(program, script):
    """The run is readable as incomplete, and the marks are in its directory."""
    process = program.start(*JOINT, *script(TRAINING.replace("0.02", "0.1").format(code=0)))
    deadline_s = time.monotonic() + 20
    while not list(program.path.glob("runs/*/step-marks.jsonl")) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    (run,) = program.runs
    assert "is incomplete" in program.inside("verify", run)[1]
    assert (run / "step-marks.jsonl").stat().st_size > 0
    assert len(RunReader(run).trace("cpu")) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("joint", "--", "no-such-program"), "error: cannot run 'no-such-program': there is no such program"),
        (("joint", "--margin", "-1", "--", "true"), "error: --margin must be >= 0 s (got -1)."),
        (("joint", "--devices", "twin", "--", "true"), "error: 'twin:rtx4080-laptop' has a clock of its own"),
        (("joint", "--hz", "0", "--", "true"), "error: --hz must be between 0.1 and 1000"),
        (("joint",), "Missing argument '-- COMMAND…'"),
    ],
)
def test_what_cannot_be_joined_is_said_before_anything_runs(program, arguments, message):
    """Exit code 2, one message, no run directory."""
    code, _, error = program.inside(*arguments)
    assert code == 2
    assert message in " ".join(error.split())
    assert program.runs == []
