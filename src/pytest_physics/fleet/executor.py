"""The engine behind a fleet: four verbs, two implementations (``slurm``, ``local``).

Every verb returns within a stated time. What an engine says of a task is a hint; what counts as a result is the end marker in the task's
folder alone, because an engine forgets (Slurm after ``MinJobAge``) and a node can die without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from pytest_physics.errors import RecordError
from pytest_physics.fleet.folder import FleetFolder
from pytest_physics.fleet.markers import JOBS


class TaskState(StrEnum):
    """What the engine says of a task."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    ENDED = "ENDED"
    """The engine has ended it, or has forgotten it."""
    CANCELLED = "CANCELLED"
    """Ended because somebody asked for it."""
    UNKNOWN = "UNKNOWN"
    """The engine does not answer."""
    NOT_SUBMITTED = "NOT_SUBMITTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """One task, as the engine sees it now."""

    state: TaskState
    node: str = ""
    reason: str = ""
    """The engine's own words: "PENDING: Resources", "NODE_FAIL", "TIMEOUT"."""


class Executor(Protocol):
    """What distributes tasks over machines."""

    name: str

    def submit(self, folder: FleetFolder) -> None:
        """Hand every task of the plan to the engine, and a merge after them; writes ``jobs.json`` as it goes."""

    def poll(self, folder: FleetFolder) -> Mapping[int, TaskStatus]:
        """Status of every task of the plan; never raises for an engine that does not answer."""

    def cancel(self, folder: FleetFolder, tasks: Sequence[int]) -> None:
        """Ask the engine to end ``tasks``; runs in progress are finalised."""

    def collect(self, folder: FleetFolder, statuses: Mapping[int, TaskStatus]) -> Mapping[int, Path]:
        """Folder of each task that has ended with its marker, after the file system had time to show those that ``poll`` found ended."""


def executor_of(folder: FleetFolder) -> Executor:
    """The engine that the fleet was submitted to; loads that one alone."""
    engine = folder.jobs.engine
    if engine == "slurm":
        from pytest_physics.fleet.slurm import SlurmExecutor  # noqa: PLC0415

        return SlurmExecutor()
    if engine == "local":
        from pytest_physics.fleet.local import LocalExecutor  # noqa: PLC0415

        return LocalExecutor()
    raise RecordError(f"{folder.path / JOBS} names the engine '{engine}'; there are slurm and local. Restore it from a copy.")
