"""The directory of a fleet, on a file system that its nodes share: plan, jobs, and results that appear in one step.

``fleet.json`` is the plan, ``jobs.json`` what the engine made of it, ``started/<task>.json`` says where a task began. A task works in
``runs/.tmp-<identity>`` and is renamed to ``runs/<identity>`` when it has ended; ``DONE.json`` in it, written last, is its end marker: the
exit status and the SHA-256 of every file. A folder without one is no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from pytest_physics.errors import RecordError
from pytest_physics.fleet import markers
from pytest_physics.fleet.markers import ASIDE, DONE, JOBS, PARTS, PLAN, DoneRecord, StartRecord, read_object, read_plan, replace_text
from pytest_physics.fleet.plan import FleetPlan, Record

ValueT = TypeVar("ValueT")


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
        """A new folder with its plan; refuses one that holds anything already, so that no results are mixed."""
        another = "name another directory with --fleet"
        if (path / PLAN).exists():
            raise RecordError(f"{path} holds a fleet already; {another}, or collect that one.")
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise RecordError(f"{path} holds other files already; {another}, a new or an empty one.")
            for part in PARTS:
                (path / part).mkdir()  # of two that submit at once one alone gets it
        except OSError as error:
            raise RecordError(f"cannot create {path}: {error.strerror}; {another}, a writable one.") from None
        replace_text(path / PLAN, plan.model_dump_json(indent=1))
        return cls(path)

    @cached_property
    def plan(self) -> FleetPlan:
        """The plan; ``RecordError`` where this is no fleet, or one of another version."""
        return _validated(FleetPlan.model_validate, read_plan(self.path), self.path / PLAN)

    @property
    def jobs(self) -> Jobs:
        """What was submitted, read anew each time."""
        return _validated(Jobs.model_validate, read_object(self.path / JOBS, "nothing was submitted"), self.path / JOBS)

    def write_jobs(self, jobs: Jobs) -> None:
        """Replace ``jobs.json``; after every submission, so that none is forgotten."""
        replace_text(self.path / JOBS, jobs.model_dump_json(indent=1))

    def begin(self, record: StartRecord) -> Path:
        """Note that a task begins and return its working folder; ``RecordError`` where it began before."""
        return markers.begin(self.path, record)

    def finish(self, aside: Path, record: DoneRecord) -> Path:
        """Publish a task's working folder: rename it, then write its end marker with the checksums."""
        return markers.finish(self.path, aside, record)

    @property
    def runs(self) -> Path:
        """Folder of the results."""
        return self.path / "runs"

    def started(self, task: int) -> StartRecord | None:
        """Where a task began; None where it has not, as far as this machine can see."""
        path = self.path / "started" / f"{task}.json"
        return _validated(_reader(StartRecord).validate_python, read_object(path, "unreadable"), path) if path.is_file() else None

    def mark_cancelled(self, tasks: Iterable[int]) -> None:
        """Note that somebody asked for the end of ``tasks``: an engine forgets that."""
        marks = self.path / "cancelled"
        marks.mkdir(exist_ok=True)
        for task in tasks:
            (marks / str(task)).touch()

    def was_cancelled(self, task: int) -> bool:
        """Whether :meth:`mark_cancelled` was told so."""
        return (self.path / "cancelled" / str(task)).exists()

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


@cache
def _reader(kind: type[ValueT]) -> TypeAdapter[ValueT]:
    return TypeAdapter(kind)


def _validated(validate: Callable[[Any], ValueT], data: dict[str, Any], path: Path) -> ValueT:
    try:
        return validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecordError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; restore it from a copy.") from None


def done_of(folder: Path) -> DoneRecord | None:
    """End marker of a task's folder; None where there is none, or half of one."""
    try:
        done: DoneRecord = _reader(DoneRecord).validate_json((folder / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a ValidationError is a ValueError
        return None
    return done
