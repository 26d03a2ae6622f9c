"""Read the session CSVs and training logs of the RLE monitors, with their quirks: good rows stay, each other row is named.

Formats: session CSV of monitor v1 (16 to 19 columns and more; rows of a GPU are two fields short) and v2 (42 columns, naive UTC); training
log as a JSON list of records with ``step``, ``loss``, ``grad_norm``, ``learning_rate`` and ``timestamp_shared`` (Unix seconds) or a naive
local time.

What is not usable is left out with file, line and remedy: torn lines, rows of another writer's width, duplicate timestamps. Where two
writers interleaved, rows cannot be attributed any more, so only the stretch before the first of them stays. Times without a zone are read
as UTC where the monitor is known to write UTC; otherwise the caller states the offset, and nobody guesses it.

Raises ``RecordError`` only where nothing of a file can be used.

Reference: RLE study §3, §4.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import RecordError
from pytest_physics.metrology.forensics.series import MISSING_SHARE

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Monitor = Literal["rle/v1", "rle/v2"]

SHOWN_LINES = 3
"""Line numbers given for each kind of problem."""
SHORT_BY = 2
"""GPU rows of monitor v1 lack the two CPU columns at the end."""
V1_COLUMNS = frozenset({"timestamp", "device", "rle_smoothed", "rle_raw", "temp_c", "power_w", "util_pct", "a_load"})
V2_ONLY = frozenset({"workload_state", "cpu_cores_active"})
LOG_COLUMNS = ("loss", "grad_norm", "learning_rate")
FEWEST_ROWS = 2

REMEDIES: Mapping[str, str] = {
    "torn": "the writer was cut off or two wrote at once; the other rows stay",
    "another width": "another version of the monitor wrote into this file; import its rows from a file with their own header",
    "time": "a row without a readable time cannot be placed; the other rows stay",
    "duplicate time": "the first of equal times stays; look for a second writer",
    "another writer": "rows from there on cannot be attributed to a writer; separate the files, or record again with one monitor",
    "empty device": "the device was listed and never read; import another file, or leave it out",
    "no zone": "monitor v2 writes UTC, and it was read as UTC; pass --utc-offset where this file is different",
    "no step": "without a step index a row belongs to no step; log 'step', or use pytest_physics.marks.mark_step",
    "no loss": "a training's summary is no step; nothing to do",
    "duplicate step": "the first of equal steps stays; number the steps of a resumed training on",
    "time back": "log from one process; the rows before it stay",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something about a file that a reader must know."""

    file: str
    lines: tuple[int, ...]
    """Lines (of a log: records) concerned, all of them."""
    problem: str
    remedy: str

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.lines[:SHOWN_LINES])) + (
            f" and {len(self.lines) - SHOWN_LINES} more" if len(self.lines) > SHOWN_LINES else ""
        )
        where = f"{self.file}, line {shown}" if self.lines else self.file
        return f"{where}: {self.problem}; {self.remedy}."


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRows:
    """Rows of one device of a session."""

    t_ns: IntArray
    """Unix time in nanoseconds, increasing, shape (N,)."""
    columns: Mapping[str, FloatArray]
    """Numeric columns of the file by their own names, NaN where empty, each of shape (N,); columns without any value are absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFile:
    """What a session CSV holds."""

    path: Path
    monitor: Monitor
    devices: Mapping[str, DeviceRows]
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLog:
    """What a training log holds."""

    path: Path
    t_ns: IntArray
    """Unix time in nanoseconds, shape (N,)."""
    step: IntArray
    columns: Mapping[str, FloatArray]
    """``loss``, ``grad_norm`` and ``learning_rate``, NaN where absent."""
    notes: tuple[Note, ...]


@dataclass(slots=True)
class _Notes:
    """Lines by kind of problem, in the order in which the kinds were met."""

    file: str
    lines: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def add(self, kind: str, problem: str, *lines: int) -> None:
        self.lines.setdefault((kind, problem), []).extend(lines)

    def __iter__(self) -> Iterator[Note]:
        for (kind, problem), lines in self.lines.items():
            yield Note(file=self.file, lines=tuple(lines), problem=problem, remedy=REMEDIES[kind])


# --- session CSV ------------------------------------------------------------------------------------------------------


def read_session(path: Path, *, utc_offset_h: float | None = None) -> SessionFile:
    """Rows of each device of a session CSV, with a note for everything that was left out or assumed."""
    rows = csv.reader(_text(path).splitlines())
    header = next(rows, [])
    monitor = _monitor(path, header)
    reading = _Session(path=path, monitor=monitor, header=header, zone=_Zone(path, monitor, utc_offset_h), notes=_Notes(path.name))
    for row in rows:
        reading.take(rows.line_num, row)
    devices = {name: found for name in reading.rows if (found := reading.device(name)) is not None}
    if not devices:
        _refuse(path, "no device has two good rows", *(str(note) for note in reading.notes))
    return SessionFile(path=path, monitor=monitor, devices=devices, notes=tuple(reading.notes))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}; check the path and its permissions.") from None


def _refuse(path: Path, problem: str, *more: str) -> NoReturn:
    raise RecordError(" ".join([f"{path}: {problem}.", *more]))


def _monitor(path: Path, header: Sequence[str]) -> Monitor:
    missing = V1_COLUMNS - set(header)
    if missing:
        _refuse(
            path, f"line 1 is no header of an RLE session (no column {', '.join(sorted(missing))})",
            "Give a session CSV of monitor v1 or v2 with its header, or a training log that ends in .json.",
        )  # fmt: skip
    return "rle/v2" if set(header) >= V2_ONLY else "rle/v1"


@dataclass(slots=True)
class _Zone:
    """How times without a zone are read."""

    path: Path
    monitor: Monitor | None
    offset_h: float | None
    assumed: bool = False
    """Whether a naive time was read as UTC."""

    def unix_ns(self, text: str) -> int:
        """Unix nanoseconds; ``ValueError`` for what is no time."""
        moment = dt.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=self._zone())
        since = moment - dt.datetime.fromtimestamp(0, dt.UTC)
        return (since.days * 86_400 + since.seconds) * NS_PER_S + since.microseconds * 1000

    def _zone(self) -> dt.tzinfo:
        if self.offset_h is not None:
            return dt.timezone(dt.timedelta(hours=self.offset_h))
        if self.monitor != "rle/v2":
            _refuse(
                self.path, "its times have no zone, and this writer uses local time",
                "Say what it was with --utc-offset HOURS (such as -5); it is never guessed from what would fit.",
            )  # fmt: skip
        self.assumed = True
        return dt.UTC


@dataclass(slots=True)
class _Session:
    """Rows as they come."""

    path: Path
    monitor: Monitor
    header: list[str]
    zone: _Zone
    notes: _Notes
    rows: dict[str, list[tuple[int, int, list[float]]]] = field(default_factory=dict)
    """Line, time and values by device."""

    def take(self, line: int, row: list[str]) -> None:
        if not any(row):
            return
        width = len(row)
        if width == len(self.header) - SHORT_BY and self.monitor == "rle/v1":
            row = [*row, *[""] * SHORT_BY]
        elif width > len(self.header):
            self.notes.add("another width", f"has more fields than the header's {len(self.header)}", line)
            return
        elif width < len(self.header):
            self.notes.add("torn", f"is torn: fewer fields than the header's {len(self.header)}", line)
            return
        self._keep(line, dict(zip(self.header, row, strict=True)))

    def _keep(self, line: int, row: dict[str, str]) -> None:
        try:
            t_ns = self.zone.unix_ns(row["timestamp"])
        except ValueError:
            self.notes.add("time", "has no readable time", line)
            return
        try:
            values = [_number(row[name]) for name in self._numeric]
        except ValueError:
            self.notes.add("torn", "is torn: a number cannot be read", line)
            return
        if self.zone.assumed:
            self.notes.lines.setdefault(("no zone", "its times have no zone"), [])
        self.rows.setdefault(row["device"], []).append((line, t_ns, values))

    @property
    def _numeric(self) -> list[str]:
        return [name for name in self.header if name not in {"timestamp", "device", "alerts", "workload_state"}]

    def device(self, name: str) -> DeviceRows | None:
        """Rows of one device in the order of time; None where there are too few."""
        rows = self._ordered(name)
        columns = np.array([values for _, _, values in rows], dtype=np.float64).reshape(len(rows), -1)
        known = {column: columns[:, k] for k, column in enumerate(self._numeric) if np.isfinite(columns[:, k]).any()}
        if len(rows) < FEWEST_ROWS or not known.keys() & {"temp_c", "power_w", "util_pct"}:
            self.notes.add("empty device", f"device '{name}' has {len(rows)} good rows with a reading", *(line for line, _, _ in rows))
            return None
        return DeviceRows(t_ns=np.array([t_ns for _, t_ns, _ in rows], dtype=np.int64), columns=known)

    def _ordered(self, name: str) -> list[tuple[int, int, list[float]]]:
        rows = self.rows[name]
        t_ns = np.array([t for _, t, _ in rows], dtype=np.int64)
        late = np.concatenate([[False], t_ns[1:] <= np.maximum.accumulate(t_ns)[:-1]])
        back = np.concatenate([[False], t_ns[1:] < np.maximum.accumulate(t_ns)[:-1]])
        if back.any() or late.sum() > MISSING_SHARE * len(rows):
            first = int(np.flatnonzero(late)[0])
            lines = [line for line, _, _ in rows[first:]]
            problem = f"rows of '{name}' from two writers: {late.sum()} times repeat or run backwards"
            self.notes.add("another writer", problem, *lines)
            return rows[:first]
        if late.any():
            repeated = [rows[k][0] for k in np.flatnonzero(late).tolist()]
            self.notes.add("duplicate time", f"repeats a time of '{name}'", *repeated)
        return [row for row, repeats in zip(rows, late.tolist(), strict=True) if not repeats]


def _number(text: str) -> float:
    return float(text) if text.strip() else math.nan


# --- training log -----------------------------------------------------------------------------------------------------


def read_training_log(path: Path, *, utc_offset_h: float | None = None) -> TrainingLog:
    """Steps of a training log, with a note for every record that was left out; lines of a note are numbers of records, from 1."""
    notes = _Notes(path.name)
    records = _records(path, notes)
    zone = _Zone(path, None, utc_offset_h)
    kept: list[tuple[int, int, list[float]]] = []
    steps: set[int] = set()
    for number, record in enumerate(records, start=1):
        found = _step(record, zone)
        kind = found if isinstance(found, str) else _contradiction(found, kept, steps)
        if kind:
            notes.add(kind, _LOG_WORDS[kind], number)
        elif not isinstance(found, str):
            kept.append(found)
            steps.add(found[1])
    if len(kept) < FEWEST_ROWS:
        _refuse(path, f"{len(kept)} of {len(records)} records are steps with a time", *(str(note) for note in notes))
    return TrainingLog(
        path=path, t_ns=np.array([t for t, _, _ in kept], dtype=np.int64), step=np.array([step for _, step, _ in kept], dtype=np.int64),
        columns={name: np.array([values[k] for _, _, values in kept]) for k, name in enumerate(LOG_COLUMNS)}, notes=tuple(notes),
    )  # fmt: skip


_LOG_WORDS = {
    "torn": "is torn or no record",
    "time": "has no readable time",
    "no step": "has no step index",
    "no loss": "has neither loss nor gradient norm",
    "duplicate step": "repeats a step",
    "time back": "has a time that does not increase",
}


def _records(path: Path, notes: _Notes) -> list[Any]:
    """Records of a JSON list; those before the tear where the file was cut off."""
    text = _text(path)
    try:
        whole = json.loads(text)
    except ValueError:
        whole = _salvaged(text)
        notes.add("torn", "is torn: the JSON ends or breaks here", len(whole) + 1)
    if not isinstance(whole, list):
        _refuse(path, "it holds no list of records", "Give a training log with one record per step.")
    return whole


def _salvaged(text: str) -> list[Any]:
    """Whole records before the first that cannot be read."""
    decoder, records = json.JSONDecoder(), []
    position = text.find("{")
    while position >= 0:
        try:
            record, end = decoder.raw_decode(text, position)
        except ValueError:
            break
        records.append(record)
        position = text.find("{", end)
    return records


def _step(record: Any, zone: _Zone) -> tuple[int, int, list[float]] | str:  # noqa: ANN401 -- any JSON value
    """Time, step and values of a record, or the kind of problem it has."""
    if not isinstance(record, dict):
        return "torn"
    values = [_value(record.get(name)) for name in LOG_COLUMNS]
    if all(math.isnan(value) for value in values[:2]):
        return "no loss"
    step = record.get("step")
    if not isinstance(step, int) or isinstance(step, bool):
        return "no step"
    t_ns = _time(record, zone)
    return "time" if t_ns is None else (t_ns, step, values)


def _time(record: Mapping[str, Any], zone: _Zone) -> int | None:
    shared = record.get("timestamp_shared")
    if isinstance(shared, int | float) and math.isfinite(shared):
        return round(shared * 1e6) * 1000
    text = record.get("timestamp_iso") or record.get("timestamp")
    try:
        return zone.unix_ns(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _contradiction(found: tuple[int, int, list[float]], kept: Sequence[tuple[int, int, list[float]]], steps: set[int]) -> str:
    if found[1] in steps:
        return "duplicate step"
    return "time back" if kept and found[0] <= kept[-1][0] else ""


def _value(value: Any) -> float:  # noqa: ANN401 -- any JSON value
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


READERS: Mapping[str, Callable[..., SessionFile | TrainingLog]] = {".csv": read_session, ".json": read_training_log}
"""By the end of the file's name."""
