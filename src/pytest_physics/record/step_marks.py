"""Read the step marks that a training process wrote: the good rows as columns, and a sentence for each kind of bad one.

Assumes one writer (rank 0 of a distributed training) whose steps and times increase. What cannot be a row of such a series is left out and
named with file, line and remedy: a torn or foreign line, a step that was marked before, a step or a time that goes back. The first of two
equal steps stays, because the samples beside it belong to it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_physics.errors import RecordError
from pytest_physics.marks import COLUMNS
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.finding import Finding, Items
from pytest_physics.record.schema import PhaseRecord

MARKS_FILE = "step-marks.jsonl"
"""The marks as they were written, in the run directory of a joint session."""
TABLE = "training-steps"
"""Name of their table."""
PHASE = "training"
"""Name of the phases within which they lie."""
LARGEST_INTEGER = 2**63 - 1
SHOWN_LINES = 3
"""Line numbers given for each kind of problem."""

_REMEDIES = {
    "torn": "the training was cut off while it wrote; nothing to do, or run it again",
    "foreign": "only pytest_physics.marks.mark_step may write to this file; give other output a file of its own",
    "duplicate": "the first stays; mark a step once, in rank 0 only, and number the steps of a resumed training on",
    "step back": "mark increasing steps; number the steps of a second training on",
    "outside": "t_ns must be of time.perf_counter_ns on this machine; leave it out to mark now",
    "time back": "the marks of two processes are mixed, or t_ns is of another clock; mark from one process with time.perf_counter_ns",
}
_WORDS = {
    "torn": "the line is torn",
    "foreign": "the line is no step mark",
    "duplicate": "the step was marked before",
    "step back": "the step goes back",
    "outside": "its time is not within the training",
    "time back": "the time does not increase",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMarks:
    """Step marks of one training."""

    columns: Mapping[str, NDArray[np.int64 | np.float64]]
    """``t_ns`` and ``step`` as integers, ``loss``, ``grad_norm`` and ``learning_rate`` as numbers, NaN where absent; each of shape (N,)."""
    problems: tuple[str, ...]
    """One sentence for each kind of line that was left out: file, lines, remedy."""

    def __len__(self) -> int:
        return len(self.columns["t_ns"])


@dataclass(slots=True)
class _Reading:
    rows: list[tuple[int, int, float, float, float]] = field(default_factory=list)
    steps: set[int] = field(default_factory=set)
    left_out: dict[str, list[int]] = field(default_factory=dict)
    """Line numbers by kind of problem."""
    span_ns: tuple[int, int] | None = None

    def take(self, number: int, line: bytes) -> None:
        row = _row(line)
        kind = row if isinstance(row, str) else self._contradiction(row)
        if kind:
            self.left_out.setdefault(kind, []).append(number)
        elif not isinstance(row, str):
            self.rows.append(row)
            self.steps.add(row[1])

    def _contradiction(self, row: tuple[int, int, float, float, float]) -> str:
        if self.span_ns and not self.span_ns[0] <= row[0] <= self.span_ns[1]:
            return "outside"
        if row[1] in self.steps:
            return "duplicate"
        if self.rows and row[0] <= self.rows[-1][0]:
            return "time back"
        return "step back" if self.rows and row[1] < self.rows[-1][1] else ""


def read_step_marks(path: Path, *, span_ns: tuple[int, int] | None = None) -> StepMarks:
    """Step marks of the file at ``path`` within ``span_ns``; none where it does not exist.

    Raises ``RecordError`` where it cannot be read.
    """
    reading = _Reading(span_ns=span_ns)
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise RecordError(f"cannot read the step marks {path}: {error.strerror}; check the path and its permissions.") from None
    *lines, rest = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            reading.take(number, line)
    if rest:
        reading.left_out.setdefault("torn", []).append(len(lines) + 1)
    return StepMarks(columns=_columns(reading.rows), problems=tuple(_sentences(path, reading.left_out)))


def training_span_ns(phases: Iterable[PhaseRecord]) -> tuple[int, int] | None:
    """From the first begin to the last end of the training's phases; None where none has ended."""
    spans = [(phase.t0_ns, phase.t1_ns) for phase in phases if phase.name == PHASE and phase.t1_ns is not None]
    return (min(t0 for t0, _ in spans), max(t1 for _, t1 in spans)) if spans else None


def step_marks(run: RecordedRun) -> Items:
    """The table of a joint session holds what its step marks say; nothing for other runs, and for one that ended before the table."""
    path, table_id = run.reader.path / MARKS_FILE, f"{TABLE}-1"
    if not path.exists() or (table_id not in run.reader.tables and run.reader.run.state != "completed"):
        return
    marks = read_step_marks(path, span_ns=training_span_ns(run.reader.run.phases))
    if not len(marks) and table_id not in run.reader.tables:
        return
    table = run.table(table_id)
    for name, column in marks.columns.items():
        if name not in (table.dtype.names or ()) or not np.array_equal(table[name], column, equal_nan=True):
            yield Finding(where=f"table-{table_id}.npy", problem=f"column '{name}' is not what {MARKS_FILE} says")
    yield None


def _row(line: bytes) -> tuple[int, int, float, float, float] | str:
    """Values of a line, or the kind of problem it has."""
    try:
        found = json.loads(line)
    except ValueError:
        return "torn"
    if not isinstance(found, dict) or set(found) != set(COLUMNS):
        return "foreign"
    t_ns, step, *numbers = (found[name] for name in COLUMNS)
    if not all(type(value) is int and 0 <= value <= LARGEST_INTEGER for value in (t_ns, step)):
        return "foreign"
    if not all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in numbers):
        return "foreign"
    loss, grad_norm, learning_rate = (math.nan if value is None else float(value) for value in numbers)
    return t_ns, step, loss, grad_norm, learning_rate


def _columns(rows: list[tuple[int, int, float, float, float]]) -> dict[str, NDArray[np.int64 | np.float64]]:
    values = list(zip(*rows, strict=True)) if rows else [()] * len(COLUMNS)
    return {
        name: np.array(column, dtype=np.int64 if name in {"t_ns", "step"} else np.float64)
        for name, column in zip(COLUMNS, values, strict=True)
    }


def _sentences(path: Path, left_out: Mapping[str, list[int]]) -> Iterator[str]:
    for kind, numbers in left_out.items():
        more = f" and {len(numbers) - SHOWN_LINES} more" if len(numbers) > SHOWN_LINES else ""
        where = f"line{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:SHOWN_LINES]))}{more}"
        yield f"{path}, {where}: {_WORDS[kind]}, and was left out: {_REMEDIES[kind]}."
