"""Training and devices on one clock: ``pytest-physics joint -- python train.py``.

The samplers start, the training runs as a child process with the terminal to itself, and the step marks it writes
(:mod:`pytest_physics.marks`) become a table of the same run: ``training-steps-1``. Both sides use ``perf_counter``, which all processes of
a machine share, so nothing has to be aligned afterwards.

The marks go to ``step-marks.jsonl`` in the run directory as they come; whatever ends the training or this process, they stay. The child's
exit code is passed on. A training that marks no step leaves a run of samples alone, and that is said.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pytest_physics.errors import ConfigurationError
from pytest_physics.live.monitor import Monitoring, Stopped, finish, named_devices, recorded, stopping_signals
from pytest_physics.marks import VARIABLE
from pytest_physics.record.step_marks import MARKS_FILE, PHASE, TABLE, StepMarks, read_step_marks, training_span_ns
from pytest_physics.session import Session

GRACE_S = 10.0
"""How long a training that was asked to stop may take, before it is told and at last killed."""
EXIT_BY_SIGNAL = 128
"""A shell's exit code of a process that a signal ended, less its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """What came of a joint session."""

    path: Path
    """Run directory."""
    exit_code: int
    """The training's."""
    marks: StepMarks


def run_joint(
    monitoring: Monitoring, training: Sequence[str], console: Console, *, root: Path, command: Sequence[str], margin_s: float = 2.0
) -> Joint:
    """Run ``training`` while the devices are sampled, ``margin_s`` seconds before and after it included."""
    _require_program(training)
    if not margin_s >= 0:
        raise ConfigurationError(f"--margin must be >= 0 s (got {margin_s:g}).")
    _refuse_virtual(monitoring)
    code, reason = 1, "finished"
    with stopping_signals():
        session = monitoring.start(root, command)
        try:
            console.print(f"joint: sampling {', '.join(session.instruments)} into {session.path}", soft_wrap=True, highlight=False)
            code = _recorded_training(session, training, margin_s)
            reason = "finished" if code == 0 else f"stopped: the training {_ended(code)}"
            marks = _merge(session, console, code)
            _show_coupling(session, marks, console)
            console.print(f"joint: the training {_ended(code)}", highlight=False)
        except BaseException as error:
            session.finish(f"{type(error).__name__}: {error}")
            raise
        finish(session, reason, console)
    return Joint(path=session.path, exit_code=code, marks=marks)


def _require_program(training: Sequence[str]) -> None:
    """What cannot be run is said before anything is opened."""
    if not training:
        raise ConfigurationError("joint needs the training's command: pytest-physics joint -- python train.py")
    if shutil.which(training[0]) is None:
        raise ConfigurationError(f"cannot run '{training[0]}': there is no such program, or it may not be executed.")


def _refuse_virtual(monitoring: Monitoring) -> None:
    for spec in named_devices(monitoring.devices)[0].values():
        if spec.kind in {"twin", "replay"}:
            raise ConfigurationError(
                f"'{spec}' has a clock of its own, on which a real training's steps do not lie: joint needs real devices, such as "
                "--devices cpu."
            )


def _recorded_training(session: Session, training: Sequence[str], margin_s: float) -> int:
    """Run the training inside of a phase; its exit code as a shell has it."""
    time.sleep(margin_s)
    with recorded(session, PHASE):
        environment = os.environ | {VARIABLE: str(session.path / MARKS_FILE)}
        try:
            child = subprocess.Popen(training, env=environment)  # noqa: S603 -- the user's own command
        except OSError as error:  # its interpreter may be missing, or it is no program: only starting it tells
            raise ConfigurationError(
                f"cannot run '{training[0]}': {error.strerror}; is its first line '#!' with an interpreter that exists?"
            ) from None
        code = _wait_for(child)
    with contextlib.suppress(KeyboardInterrupt):  # the training is over, and its marks are still to be joined
        time.sleep(margin_s)
    return code if code >= 0 else EXIT_BY_SIGNAL - code


def _ended(code: int) -> str:
    """How the training ended, with the signal's name where one ended it."""
    by_signal = {EXIT_BY_SIGNAL + number: number.name for number in signal.Signals}
    return f"was ended by {by_signal[code]} (exit code {code})" if code in by_signal else f"ended with exit code {code}"


def _wait_for(child: subprocess.Popen[bytes]) -> int:
    """Wait for the training; a request to stop reaches it first, from the terminal or from here."""
    try:
        return child.wait()
    except KeyboardInterrupt as stop:
        return _stopped(child, told=not isinstance(stop, Stopped))
    finally:
        if child.poll() is None:  # whoever asked twice does not want to wait
            child.kill()


def _stopped(child: subprocess.Popen[bytes], *, told: bool) -> int:
    """Give it time, where the terminal has ``told`` it already; then tell it; then kill it. A signal reaches this process alone."""
    for tell in (child.poll, child.terminate) if told else (child.terminate,):
        tell()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(GRACE_S)
    child.kill()
    return child.wait()


def _merge(session: Session, console: Console, code: int) -> StepMarks:
    """The marks as a table of the run, and a sentence for everything that was left out."""
    phases = [phase for instrument in session.instruments.values() for phase in instrument.phases]
    marks = read_step_marks(session.path / MARKS_FILE, span_ns=training_span_ns(phases))
    for problem in marks.problems:
        console.print(f"joint: {problem}", style="yellow", soft_wrap=True, highlight=False)
    if len(marks):
        table_id = session.tabulate(TABLE, marks.columns)
        first, last = marks.columns["step"][[0, -1]]
        console.print(f"joint: {len(marks)} step marks, {first} to {last}, as table '{table_id}'", highlight=False)
    elif code:
        console.print("joint: the training failed before it marked a step; the samples are kept", style="yellow", highlight=False)
    else:
        console.print(
            "joint: the training marked no step, so nothing can be laid over the samples: add pytest_physics.StepMarksCallback() to its "
            "Trainer, or call pytest_physics.marks.mark_step(step, loss=…) after each step",
            style="yellow", soft_wrap=True, highlight=False,
        )  # fmt: skip
    return marks


def _show_coupling(session: Session, marks: StepMarks, console: Console) -> None:
    """Whether the training shows in the devices: a line for each pair; what cannot be analysed says why, and the run goes on."""
    from pytest_physics.experiments.joint_coupling import coupling_lines  # noqa: PLC0415 -- scipy loads when the training is over

    for line in coupling_lines(session, f"{TABLE}-1", PHASE) if len(marks) else ():
        console.print(f"joint: {line}", soft_wrap=True, highlight=False)
