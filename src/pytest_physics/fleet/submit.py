"""From a command line to a fleet: resolve nodes or points, write the plan, hand it to the engine."""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pytest_physics.clock import utc_now
from pytest_physics.errors import ConfigurationError, PhysicsError, nearest
from pytest_physics.fleet.command import EngineError
from pytest_physics.fleet.executor import Executor
from pytest_physics.fleet.folder import FleetFolder
from pytest_physics.fleet.markers import JOBS
from pytest_physics.fleet.plan import FleetPlan, Point, load_points, refuse_own_options, submitted_suite, time_limit_s
from pytest_physics.fleet.slurm import SlurmExecutor, nodes_named, refuse_forced_sharing

ENGINES = ("auto", "slurm", "local")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a user asked for."""

    pytest_args: Sequence[str]
    nodes: str = ""
    array: Path | None = None
    executor: str = "auto"
    fleet: Path | None = None
    partition: str = ""
    gres: str = ""
    limit: str = ""
    at_once: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A fleet that was handed to its engine."""

    folder: FleetFolder
    engine: str
    notes: Sequence[str]
    """What the user should know: nodes that were left out, which engine was chosen and why."""
    shown: str
    """The directory as a user would type it."""


def submit_fleet(request: Request, directory: Path) -> Sent:
    """Plan and submit; raises ``ConfigurationError`` or ``EngineError`` before anything is written where the request cannot work."""
    if not any(not argument.startswith("-") for argument in request.pytest_args):
        raise ConfigurationError("say what to run: 'pytest-physics fleet submit bench/ [pytest options]'.")
    refuse_own_options(request.pytest_args, "pytest's arguments")
    if request.at_once < 0:
        raise ConfigurationError(f"'--at-once {request.at_once}' must be at least 1, or 0 for as many as there are nodes.")
    executor, notes = _executor(request.executor)
    points, left_out = _points(request, executor)
    suite = submitted_suite(request.pytest_args, directory)
    if not suite:
        raise ConfigurationError(
            f"no Python file is below {' '.join(request.pytest_args)} in {directory}; start it where pytest is started."
        )
    fleet_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    path = request.fleet or Path("fleets") / fleet_id
    plan = FleetPlan(
        id=fleet_id, directory=str(directory.resolve()), pytest_args=list(request.pytest_args), points=points, python=sys.executable,
        partition=request.partition, gres=request.gres, time_s=time_limit_s(request.limit) if request.limit else None,
        at_once=request.at_once or None, suite=suite, submitted_utc=utc_now(),
    )  # fmt: skip
    folder = FleetFolder.create((directory / path).resolve(), plan)
    try:
        executor.submit(folder)
    except PhysicsError:
        if not (folder.path / JOBS).exists() or not folder.jobs.jobs:  # it was created a moment ago, and nothing will report to it
            shutil.rmtree(folder.path, ignore_errors=True)
        raise
    return Sent(folder=folder, engine=executor.name, notes=[*notes, *left_out], shown=str(path))


def _executor(name: str) -> tuple[Executor, list[str]]:
    if name not in ENGINES:
        raise ConfigurationError(f"there is no executor '{name}'{nearest(name, ENGINES)}; there are {', '.join(ENGINES)}.")
    installed = shutil.which("sbatch") is not None
    if name == "slurm" and not installed:
        raise EngineError("'sbatch' is not installed here: submit where Slurm's commands are, or with --executor local.")
    if name == "slurm" or (name == "auto" and installed):
        return SlurmExecutor(), []
    note = ["Slurm is not installed here: the tasks run on this machine, one after another"] if name == "auto" else []
    from pytest_physics.fleet.local import LocalExecutor  # noqa: PLC0415 -- it loads devices and settings, which Slurm's users need not

    return LocalExecutor(), note


def _points(request: Request, executor: Executor) -> tuple[list[Point], list[str]]:
    """Points, and what was left out."""
    if request.array is not None:
        if request.nodes:
            raise ConfigurationError("--nodes and --array exclude one another: a point of the array may name its own 'node'.")
        return load_points(request.array), []
    if executor.name == "local":
        if request.nodes not in {"", "all"}:
            raise ConfigurationError(f"'--nodes {request.nodes}' needs Slurm; the local engine has this machine alone.")
        return [Point(name="here")], []
    refuse_forced_sharing(request.partition)
    names, left_out = nodes_named(request.nodes or "all", request.partition)
    if not names:
        raise EngineError(f"no node can be used: {'; '.join(left_out) or 'the partition has none'}.")
    return [Point(name=name, node=name) for name in names], left_out
