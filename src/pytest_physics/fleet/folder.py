"""The directory of a fleet, on a file system that its nodes share: plan, jobs, and results that appear in one step.

``fleet.json`` is the plan, ``jobs.json`` what the engine made of it, ``started/<task>.json`` says where a task began. A task works in
``runs/.tmp-<identity>`` and is renamed to ``runs/<identity>`` when it has ended; ``DONE.json`` in it, written last, is its end marker: the
exit status and the SHA-256 of every file. A folder without one is no result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from pytest_physics.errors import RecordError
from pytest_physics.fleet.plan import PLAN_VERSION, FleetPlan, Record

PLAN, JOBS, DONE, OUTPUT, COLLECTED, PAGE = "fleet.json", "jobs.json", "DONE.json", "output.log", "collected.json", "report.html"
ASIDE = ".tmp-"
CHUNK = 1 << 20

RecordT = TypeVar("RecordT", bound=Record)


class StartRecord(Record):
    """``started/<task>.json``: a task has begun."""

    task: int
    identity: str
    node: str
    pid: int
    started_utc: str


class DoneRecord(Record):
    """``DONE.json``: a task has ended, whatever came out of it."""

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
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of every other file of the task's folder, by its path there."""


class Jobs(Record):
    """``jobs.json``: what the engine was given."""

    engine: str
    jobs: dict[int, str] = Field(default_factory=dict)
    """Task to the engine's name for it: ``12_3``, or a process id."""
    merge: str = ""
    """Job that collects when all have ended."""
    details: dict[str, str] = Field(default_factory=dict)


class FleetFolder:
    """One fleet's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, plan: FleetPlan) -> FleetFolder:
        """A new folder with its plan; refuses one that is there already, so that no results are mixed."""
        if (path / PLAN).exists():
            raise RecordError(f"{path} holds a fleet already; name another directory with --fleet, or collect that one.")
        try:
            for part in ("runs", "logs", "started"):
                (path / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(f"cannot create {path}: {error.strerror}; name a writable directory with --fleet.") from None
        replace_text(path / PLAN, plan.model_dump_json(indent=1))
        return cls(path)

    @cached_property
    def plan(self) -> FleetPlan:
        """The plan; ``RecordError`` where this is no fleet, or one of another version."""
        data = self._json(PLAN, "it is no fleet's directory, or it is not on a file system that this machine shares")
        if data.get("version") != PLAN_VERSION:
            raise RecordError(
                f"{self.path / PLAN} has version {data.get('version')!r}; this version reads {PLAN_VERSION}. Use the one that wrote it."
            )
        return self._validated(FleetPlan, data, self.path / PLAN)

    @property
    def jobs(self) -> Jobs:
        """What was submitted, read anew each time."""
        return self._validated(Jobs, self._json(JOBS, "nothing was submitted"), self.path / JOBS)

    def write_jobs(self, jobs: Jobs) -> None:
        """Replace ``jobs.json``; after every submission, so that none is forgotten."""
        replace_text(self.path / JOBS, jobs.model_dump_json(indent=1))

    def begin(self, record: StartRecord) -> Path:
        """Note that a task begins and return its working folder; ``RecordError`` where it began before."""
        aside = self.runs / f"{ASIDE}{record.identity}"
        try:
            aside.mkdir(exist_ok=False)
        except OSError as error:
            raise RecordError(
                f"cannot begin in {aside}: {error.strerror}; a task runs once, submit it again in a fleet of its own."
            ) from None
        replace_text(self.path / "started" / f"{record.task}.json", record.model_dump_json())
        return aside

    def finish(self, aside: Path, record: DoneRecord) -> Path:
        """Publish a task's working folder: rename it, then write its end marker with the checksums."""
        done = record.model_copy(update={"files": checksums(aside)})
        final = self.runs / record.identity
        try:
            aside.rename(final)
        except OSError as error:
            raise RecordError(f"cannot rename {aside} to {final}: {error.strerror}; the results stay in the former.") from None
        replace_text(final / DONE, done.model_dump_json(indent=1))
        return final

    @property
    def runs(self) -> Path:
        """Folder of the results."""
        return self.path / "runs"

    def started(self, task: int) -> StartRecord | None:
        """Where a task began; None where it has not, as far as this machine can see."""
        path = self.path / "started" / f"{task}.json"
        return self._validated(StartRecord, self._json(f"started/{task}.json", "unreadable"), path) if path.is_file() else None

    def result_folders(self) -> list[Path]:
        """Every folder below ``runs`` that is not being written, sorted."""
        try:
            return sorted(path for path in self.runs.iterdir() if path.is_dir() and not path.name.startswith("."))
        except OSError:
            return []

    def asides(self) -> Iterator[Path]:
        """Working folders: of tasks that run, and of those that were killed."""
        yield from sorted(path for path in self.runs.glob(f"{ASIDE}*") if path.is_dir())

    def finished_tasks(self) -> dict[int, Path]:
        """Folder of each task whose end marker is there; of a task that was run twice, the last by name."""
        found = {}
        for folder in self.result_folders():
            marker = done_of(folder)
            if marker is not None and marker.fleet == self.plan.id:
                found[marker.task] = folder
        return found

    def _json(self, name: str, otherwise: str) -> dict[str, Any]:
        path = self.path / name
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RecordError(f"{self.path} has no {name}: {otherwise}.") from None
        except (OSError, ValueError) as error:
            raise RecordError(f"{path} is not readable JSON ({error}); restore it from a copy.") from None
        if not isinstance(data, dict):
            raise RecordError(f"{path} must hold an object; restore it from a copy.")
        return data

    def _validated(self, kind: type[RecordT], data: Mapping[str, Any], path: Path) -> RecordT:
        try:
            return kind.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            raise RecordError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; restore it from a copy.") from None


def done_of(folder: Path) -> DoneRecord | None:
    """End marker of a task's folder; None where there is none, or half of one."""
    try:
        return DoneRecord.model_validate_json((folder / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a ValidationError is a ValueError
        return None


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below ``folder`` but the end marker, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / DONE)
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


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
