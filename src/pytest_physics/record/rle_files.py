"""Read the session CSVs and training logs of the RLE monitors, with their quirks: good rows stay, each other row is named.

Formats: session CSV of monitor v1 (16 to 19 columns and more; rows of a GPU are two fields short) and v2 (42 columns, naive UTC); training
log as a JSON list of records with ``step``, ``loss``, ``grad_norm``, ``learning_rate`` and ``timestamp_shared`` (Unix seconds) or a naive
local time.

What is not usable is left out with file, line and remedy: torn lines, rows of another writer's width, duplicate timestamps. Where two
writers interleaved, rows cannot be attributed any more, so only the stretch before the first of them stays. Times without a zone are read
as UTC where the monitor is known to write UTC; otherwise the caller states the offset, and nobody guesses it. A line of a session is a row
of its own, whatever is quoted in it: the monitors never wrote a line break into a field, so an open quote is a tear, not a longer row.

Raises ``UnusableFile`` only where nothing of a file can be used.

Reference: RLE study §3, §4.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
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
CPU_COLUMNS = ("cpu_freq_ghz", "cycles_per_joule")
"""Columns of monitor v1 that the rows of other devices lack; what it wrote after them moves to the left there."""
V1_COLUMNS = frozenset({"timestamp", "device", "rle_smoothed", "rle_raw", "temp_c", "power_w", "util_pct", "a_load"})
V2_ONLY = frozenset({"workload_state", "cpu_cores_active"})
TEXTS = frozenset({"timestamp", "device", "alerts", "workload_state"})
LOG_COLUMNS = ("loss", "grad_norm", "learning_rate")
FEWEST_ROWS = 2
LARGEST = 1e18
"""No reading of a monitor is larger; beyond, squares and differences would overflow."""
INTEGERS = range(-(2**63), 2**63)
DEVICE_NAME = re.compile(r"\w[\w .-]{0,39}")
"""A device's name becomes part of file names."""

STAY = "the other rows stay; "
"""Said before a remedy where it is so."""
REMEDIES: Mapping[str, str] = {
    "torn": STAY + "the writer was cut off or two wrote at once: mend these lines, or leave them out",
    "another width": STAY + "another version of the monitor wrote into this file: import its rows from a file with their own header",
    "header again": STAY + "the monitor was started again; nothing to do",
    "time": STAY + "a row is placed by its time: write ISO 8601 (a log: or Unix seconds in 'timestamp_shared')",
    "naive": STAY + "this writer uses local time: say what it was with --utc-offset HOURS (such as -5); it is never guessed",
    "duplicate time": "the first of equal times stays; look for a second writer",
    "another writer": "rows from there on cannot be attributed to a writer: separate the files; where the clock was set back, import what "
    "follows as a file of its own",
    "no device": STAY + "write letters and digits into the column 'device', such as gpu or cpu",
    "empty device": "the device was listed and never read: import another file, or leave it out",
    "short device": "nothing can be said of so few rows: record for longer, or mend what is named here",
    "no zone": "monitor v2 writes UTC, and they were read as UTC; pass --utc-offset FILE=HOURS where this one is different",
    "no step": STAY + "without a step index a row belongs to no step: log 'step' as a whole number, or use pytest_physics.marks.mark_step",
    "no loss": STAY + "a training's summary is no step; nothing to do where that is what it is, else log 'loss' or 'grad_norm'",
    "duplicate step": "the first of equal steps stays; number the steps of a resumed training on",
    "step back": STAY + "number the steps of a second training on, or give it a log of its own",
    "time back": STAY + "log from one process, with a clock that is never set back",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something about a file that a reader must know."""

    file: str
    lines: tuple[int, ...]
    """Lines concerned, all of them."""
    records: tuple[int, ...] = ()
    """Of a training log: which records stand there, from 1, for a log may be one line."""
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = f", {_listed('line', self.lines)}" if self.lines else ""
        records = f" ({_listed('record', self.records)})" if self.records else ""
        return f"{self.file}{where}{records}: {self.problem}; {self.remedy}."


def _listed(word: str, numbers: Sequence[int]) -> str:
    found = list(dict.fromkeys(numbers))
    more = f" and {len(found) - SHOWN_LINES} more" if len(found) > SHOWN_LINES else ""
    return f"{word}{'s' if len(found) > 1 else ''} {', '.join(map(str, found[:SHOWN_LINES]))}{more}"


class UnusableFile(RecordError):  # noqa: N818 -- what it says is about a file
    """Nothing of a file can be used."""

    def __init__(self, *notes: Note) -> None:
        super().__init__(" ".join(map(str, notes)))
        self.notes = notes


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
    lines: IntArray
    """Line of the file on which each step begins, shape (N,)."""
    notes: tuple[Note, ...]


@dataclass(slots=True)
class _Notes:
    """Lines by kind of problem, in the order in which the kinds were met."""

    file: str
    found: dict[tuple[str, str], tuple[str, list[int], list[int]]] = field(default_factory=dict)
    """Example, lines and records of each."""

    def add(self, kind: str, problem: str, *lines: int, such_as: object = None, record: int | None = None) -> None:
        example = "" if such_as is None else f" (such as {str(such_as)[:40]!r})"
        _, known, records = self.found.setdefault((kind, problem), (example, [], []))
        known.extend(lines)
        records.extend([] if record is None else [record])

    def told(self, *, usable: bool) -> tuple[Note, ...]:
        """A note for each kind; nothing stays of a file that is not usable."""
        return tuple(
            Note(
                file=self.file, lines=tuple(lines), records=tuple(records), problem=problem + example,
                remedy=REMEDIES[kind] if usable else REMEDIES[kind].removeprefix(STAY),
            )
            for (kind, problem), (example, lines, records) in self.found.items()
        )  # fmt: skip


def read_recording(path: Path, *, utc_offset_h: float | None = None, usual_offset_h: float | None = None) -> SessionFile | TrainingLog:
    """A session CSV or a training log: by what the file begins with, and by its name where that says nothing.

    ``utc_offset_h`` is said of this file; ``usual_offset_h`` of all files whose writer is not known to write UTC.
    """
    begin = _text(path).lstrip()[:9]
    is_log = begin[:1] in {"[", "{"} or (path.suffix.lower() in {".json", ".jsonl"} and begin != "timestamp")
    if is_log:
        return read_training_log(path, utc_offset_h=usual_offset_h if utc_offset_h is None else utc_offset_h)
    return read_session(path, utc_offset_h=utc_offset_h, usual_offset_h=usual_offset_h)


# --- session CSV ------------------------------------------------------------------------------------------------------


def read_session(path: Path, *, utc_offset_h: float | None = None, usual_offset_h: float | None = None) -> SessionFile:
    """Rows of each device of a session CSV, with a note for everything that was left out or assumed; see :func:`read_recording`."""
    lines = io.StringIO(_text(path), newline=None)
    header = [name.strip() for name in _fields(next(lines, "")) or ()]
    monitor = _monitor(path, header)
    offset_h = usual_offset_h if utc_offset_h is None and monitor != "rle/v2" else utc_offset_h
    reading = _Session(monitor=monitor, header=header, zone=_Zone(monitor, offset_h), notes=_Notes(path.name))
    for number, line in enumerate(lines, start=2):
        reading.take(number, line)
    devices = {name: found for name in reading.rows if (found := reading.device(name)) is not None}
    if not devices:
        if not reading.notes.found:
            _refuse(path, (1,), "the header is all there is", "the monitor wrote no row: record again, or leave the file out")
        _refuse_rows(path, f"no device has {FEWEST_ROWS} good rows with a reading", reading.notes)
    return SessionFile(path=path, monitor=monitor, devices=devices, notes=reading.notes.told(usable=True))


def _text(path: Path) -> str:
    """Text of a file; what PowerShell wrote is UTF-16."""
    if path.exists() and not path.is_file():
        _refuse(path, (), "is a directory or no regular file", "give the files in it, or a copy of what it delivers")
    try:
        data = path.read_bytes()
    except OSError as error:
        _refuse(path, (), f"cannot be read ({error.strerror})", "check the path and its permissions")
    if data.startswith(b"\x1f\x8b"):
        _refuse(path, (1,), "the file is compressed", f"unpack it (gunzip < {path.name} > unpacked.csv) and give the result")
    return data.decode("utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig", errors="replace")


def _refuse(path: Path, lines: Sequence[int], problem: str, remedy: str, *more: Note) -> NoReturn:
    raise UnusableFile(Note(file=path.name, lines=tuple(lines), problem=problem, remedy=remedy), *more)


def _refuse_rows(path: Path, problem: str, notes: _Notes) -> NoReturn:
    told = notes.told(usable=False)
    _refuse(path, sorted({line for note in told for line in note.lines}), problem, "mend them as said next, or leave the file out", *told)


def _fields(line: str) -> list[str] | None:
    """Fields of a line; None where a quote stays open or a field has no end."""
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return None


def _monitor(path: Path, header: Sequence[str]) -> Monitor:
    """Which monitor wrote a file, by its header."""
    missing, twice = V1_COLUMNS - set(header), sorted({name for name in header if header.count(name) > 1})
    if not any(header):
        _refuse(path, (1,), "there is no header; the file or its first line is empty", "record again, or leave the file out")
    if missing:
        _refuse(
            path, (1,), f"this is no header of an RLE session (no column {', '.join(sorted(missing))})",
            "give a session CSV of monitor v1 or v2, with commas and its header, or a training log that is JSON",
        )  # fmt: skip
    if twice:
        _refuse(path, (1,), f"the header names {', '.join(twice)} twice", "which of them was meant is not known: rename or remove one")
    return "rle/v2" if set(header) >= V2_ONLY else "rle/v1"


class _NaiveTimeError(ValueError):
    """A time without a zone, of a writer that uses local time."""


@dataclass(slots=True)
class _Zone:
    """How times without a zone are read."""

    monitor: Monitor | None
    offset_h: float | None

    def unix_ns(self, text: str) -> tuple[int, bool]:
        """Unix nanoseconds, and whether UTC was assumed; ``ValueError`` for what is no time that 64 bits hold."""
        moment = dt.datetime.fromisoformat(text.strip())
        assumed = moment.tzinfo is None and self.offset_h is None
        if assumed and self.monitor != "rle/v2":
            raise _NaiveTimeError(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.timezone(dt.timedelta(hours=self.offset_h or 0.0)))
        since = moment - dt.datetime.fromtimestamp(0, dt.UTC)
        return _placed((since.days * 86_400 + since.seconds) * NS_PER_S + since.microseconds * 1000), assumed


def _placed(t_ns: int) -> int:
    """A time after 1970 that 64 bits of nanoseconds hold; ``ValueError`` for others, such as milliseconds taken for seconds."""
    if t_ns not in INTEGERS or t_ns < 0:
        raise ValueError(t_ns)
    return t_ns


@dataclass(slots=True)
class _Session:
    """Rows as they come."""

    monitor: Monitor
    header: list[str]
    zone: _Zone
    notes: _Notes
    rows: dict[str, list[tuple[int, int, list[float]]]] = field(default_factory=dict)
    """Line, time and values by device."""
    numeric: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.numeric = [name for name in self.header if name not in TEXTS]

    def take(self, line: int, text: str) -> None:
        row = _fields(text)
        if row is None:
            self.notes.add("torn", "a quote stays open, or a field has no end", line)
        elif not any(row):
            return
        elif [name.strip() for name in row] == self.header:
            self.notes.add("header again", "the header stands here again", line)
        elif len(row) > len(self.header):
            self.notes.add("another width", f"has more fields than the header's {len(self.header)}", line)
        elif len(whole := self._widened(row)) < len(self.header):
            self.notes.add("torn", f"is torn: fewer fields than the header's {len(self.header)}", line)
        else:
            self._keep(line, dict(zip(self.header, whole, strict=True)))

    def _widened(self, row: list[str]) -> list[str]:
        """A row of monitor v1 that leaves out the CPU's columns, with them empty."""
        short = len(row) == len(self.header) - len(CPU_COLUMNS) and set(CPU_COLUMNS) <= set(self.header)
        if not short or row[self.header.index("device")].strip().lower() == "cpu":
            return row
        at = self.header.index(CPU_COLUMNS[0])
        return [*row[:at], *[""] * len(CPU_COLUMNS), *row[at:]]

    def _keep(self, line: int, row: dict[str, str]) -> None:
        name = row["device"].strip().lower()
        if not DEVICE_NAME.fullmatch(name):
            self.notes.add("no device", "names no device that could name a file", line, such_as=row["device"])
            return
        try:
            t_ns, assumed = self.zone.unix_ns(row["timestamp"])
        except _NaiveTimeError:
            self.notes.add("naive", "has a time without a zone", line, such_as=row["timestamp"])
            return
        except (ValueError, OverflowError):
            self.notes.add("time", "has no readable time", line, such_as=row["timestamp"])
            return
        values = [_number(row[column]) for column in self.numeric]
        if None in values:
            column = self.numeric[values.index(None)]
            self.notes.add("torn", f"is torn: column '{column}' holds no number", line, such_as=row[column])
            return
        if assumed:
            self.notes.add("no zone", "its times have no zone", line)
        self.rows.setdefault(name, []).append((line, t_ns, [value for value in values if value is not None]))

    def device(self, name: str) -> DeviceRows | None:
        """Rows of one device in the order of time; None where there are too few."""
        rows = self._ordered(name)
        columns = np.array([values for _, _, values in rows], dtype=np.float64).reshape(len(rows), -1)
        known = {column: columns[:, k] for k, column in enumerate(self.numeric) if np.isfinite(columns[:, k]).any()}
        lines = [line for line, _, _ in rows]
        if len(rows) < FEWEST_ROWS:
            self.notes.add("short device", f"device '{name}' has {len(rows)} good rows (at least {FEWEST_ROWS})", *lines)
            return None
        if not known.keys() & {"temp_c", "power_w", "util_pct"}:
            self.notes.add("empty device", f"device '{name}' has no temperature, power or utilisation in any row", *lines)
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
            problem = f"{late.sum()} of {len(rows)} times of '{name}' repeat or run backwards, as where two writers meet"
            self.notes.add("another writer", problem, *lines)
            return rows[:first]
        if late.any():
            repeated = [rows[k][0] for k in np.flatnonzero(late).tolist()]
            self.notes.add("duplicate time", f"repeats a time of '{name}'", *repeated)
        return [row for row, repeats in zip(rows, late.tolist(), strict=True) if not repeats]


def _number(text: str) -> float | None:
    """A reading, NaN where there is none; None for what is no number, or none that a sensor could give."""
    try:
        value = float(text) if text.strip() else math.nan
    except ValueError:
        return None
    return None if abs(value) > LARGEST or "_" in text else value


# --- training log -----------------------------------------------------------------------------------------------------

_LOG_WORDS = {
    "torn": "is torn or no record",
    "time": "has no readable time",
    "naive": "has a time without a zone",
    "no step": "has no step index",
    "no loss": "has neither loss nor gradient norm",
    "duplicate step": "repeats a step",
    "step back": "has a step that goes back",
    "time back": "has a time that does not increase",
}
_TORN = object()
"""Stands for what is no JSON."""
_Row = tuple[int, int, list[float]]
"""Time, step and values."""


def read_training_log(path: Path, *, utc_offset_h: float | None = None) -> TrainingLog:
    """Steps of a training log, with a note for every record that was left out."""
    notes, zone = _Notes(path.name), _Zone(None, utc_offset_h)
    kept: list[_Row] = []
    lines: list[int] = []
    steps: set[int] = set()
    records = list(_records(_text(path)))
    for number, (line, record) in enumerate(records, start=1):
        found = _step(record, zone)
        kind = found if isinstance(found, str) else _contradiction(found, kept, steps)
        if kind:
            notes.add(kind, _LOG_WORDS[kind], line, record=number, such_as=_said_time(record) if kind in {"time", "naive"} else None)
        elif not isinstance(found, str):
            kept.append(found)
            lines.append(line)
            steps.add(found[1])
    if not records:
        _refuse(path, (1,), "the log holds no record", "give a training log: a JSON list, or lines, of one record per step")
    if len(kept) < FEWEST_ROWS:
        _refuse_rows(path, f"{len(kept)} of {len(records)} records are steps with a time (at least {FEWEST_ROWS})", notes)
    return TrainingLog(
        path=path, t_ns=np.array([t for t, _, _ in kept], dtype=np.int64), step=np.array([step for _, step, _ in kept], dtype=np.int64),
        columns={name: np.array([values[k] for _, _, values in kept]) for k, name in enumerate(LOG_COLUMNS)},
        lines=np.array(lines, dtype=np.int64), notes=notes.told(usable=True),
    )  # fmt: skip


def _records(text: str) -> Iterator[tuple[int, Any]]:
    """Line and value of each record of a JSON list or of JSON lines; after a tear it goes on with the next line that begins one."""
    decoder, between, next_record = json.JSONDecoder(), re.compile(r"[\s,\]]*"), re.compile(r"\n\s*\{")
    start = re.compile(r"\s*\[?[\s,\]]*").match(text)
    position, line, counted = start.end() if start else 0, 1, 0
    while position < len(text):
        line, counted = line + text.count("\n", counted, position), position
        try:
            record, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            following = next_record.search(text, position)
            record, end = _TORN, following.end() - 1 if following else len(text)
        yield line, record
        gap = between.match(text, end)
        position = gap.end() if gap else end


def _step(record: Any, zone: _Zone) -> _Row | str:  # noqa: ANN401 -- any JSON value
    """Time, step and values of a record, or the kind of problem it has."""
    if not isinstance(record, dict):
        return "torn"
    values = [_value(record.get(name)) for name in LOG_COLUMNS]
    if all(math.isnan(value) for value in values[:2]):
        return "no loss"
    step = record.get("step")
    if isinstance(step, float) and step.is_integer():
        step = int(step)
    if not isinstance(step, int) or isinstance(step, bool) or step not in INTEGERS:
        return "no step"
    try:
        return _time(record, zone), step, values
    except _NaiveTimeError:
        return "naive"
    except (ValueError, OverflowError):
        return "time"


def _time(record: Mapping[str, Any], zone: _Zone) -> int:
    said = _said_time(record)
    if isinstance(said, int | float) and not isinstance(said, bool):
        return _placed(round(said * 1e6) * 1000)
    return zone.unix_ns(str(said))[0]


def _said_time(record: Mapping[str, Any]) -> Any:  # noqa: ANN401 -- any JSON value
    """The time of a record as it stands there."""
    return next((record[name] for name in ("timestamp_shared", "timestamp_iso", "timestamp") if record.get(name)), None)


def _contradiction(found: _Row, kept: Sequence[_Row], steps: set[int]) -> str:
    if found[1] in steps:
        return "duplicate step"
    if kept and found[0] <= kept[-1][0]:
        return "time back"
    return "step back" if kept and found[1] < kept[-1][1] else ""


def _value(value: Any) -> float:  # noqa: ANN401 -- any JSON value
    """A number as 64 bits hold it, else NaN."""
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.nan
