"""What a task leaves in the fleet's directory: that it began, its files, and its end marker.

Apart from the rest because the process that waits beside a measurement loads it, once for every task and before pytest may start: standard
library alone. Whoever reads markers validates them, see :mod:`pytest_physics.fleet.folder`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from pytest_physics.errors import RecordError

PLAN, JOBS, DONE, OUTPUT, COLLECTED, PAGE = "fleet.json", "jobs.json", "DONE.json", "output.log", "collected.json", "report.html"
PARTS = ("runs", "logs", "started")
ASIDE = ".tmp-"
PLAN_VERSION = 1
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRecord:
    """``started/<task>.json``: a task has begun."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    task: int
    identity: str
    node: str
    pid: int
    started_utc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneRecord:
    """``DONE.json``: a task has ended, whatever came out of it."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    fleet: str
    task: int
    identity: str
    node: str
    exit_status: int
    """pytest's exit code; 128 + n where signal n ended it."""
    problem: str = ""
    """Why there is no run, or why pytest was not started."""
    run: str = ""
    """Name of the run directory beside the marker; empty where pytest wrote none."""
    started_utc: str
    ended_utc: str
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every other file of the task's folder, by its path there."""


def begin(fleet: Path, record: StartRecord) -> Path:
    """Note that a task begins and return its working folder; ``RecordError`` where it began before."""
    aside = fleet / "runs" / f"{ASIDE}{record.identity}"
    try:
        aside.mkdir(exist_ok=False)
    except OSError as error:
        raise RecordError(f"cannot begin in {aside}: {error.strerror}; a task runs once, submit it again in a fleet of its own.") from None
    replace_text(fleet / "started" / f"{record.task}.json", json.dumps(asdict(record)))
    return aside


def finish(fleet: Path, aside: Path, record: DoneRecord) -> Path:
    """Publish a task's working folder: rename it, then write its end marker with the checksums."""
    done = replace(record, files=checksums(aside))
    final = fleet / "runs" / record.identity
    try:
        aside.rename(final)
    except OSError as error:
        raise RecordError(f"cannot rename {aside} to {final}: {error.strerror}; the results stay in the former.") from None
    replace_text(final / DONE, json.dumps(asdict(done), indent=1))
    return final


def read_object(path: Path, absent: str) -> dict[str, Any]:
    """A file that holds a JSON object; ``RecordError`` with ``absent`` where there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path.parent} has no {path.name}: {absent}.") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} is not readable JSON ({error}); restore it from a copy.") from None
    if not isinstance(data, dict):
        raise RecordError(f"{path} must hold an object; restore it from a copy.")
    return data


def read_plan(fleet: Path) -> dict[str, Any]:
    """The plan as it was written; ``RecordError`` where this is no fleet, or one of another version."""
    data = read_object(fleet / PLAN, "it is no fleet's directory, or it is not on a file system that this machine shares")
    if data.get("version") != PLAN_VERSION:
        raise RecordError(
            f"{fleet / PLAN} has version {data.get('version')!r}; this version reads {PLAN_VERSION}. Use the one that wrote it."
        )
    return data


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below ``folder`` but the end marker, by its path there."""
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in _files(folder)}


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / DONE)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in pieces: traces are large."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def replace_text(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old one or the new one."""
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}; free space, or make the directory writable.") from None


def run_in(folder: Path) -> Path | None:
    """The run directory of a task's folder; None where pytest wrote none."""
    found = sorted(path.parent for path in folder.glob("*/run.json"))
    return found[-1] if found else None
