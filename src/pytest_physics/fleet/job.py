"""One task of a fleet, on its node: start pytest, let signals through, publish the run with its end marker.

Slurm's batch script replaces itself by this process (``exec``), so that signals arrive here; they are handed on to pytest, which finalises
its run. While pytest measures this process waits for it and does nothing. A killed task leaves no marker, and is LOST.

Assumes that the fleet's directory is the same on the node and where it was submitted.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_physics.clock import utc_now
from pytest_physics.errors import PhysicsError, RecordError
from pytest_physics.fleet.markers import OUTPUT, PLAN, DoneRecord, StartRecord, begin, finish, read_plan, run_in
from pytest_physics.record.told import JOB_VARIABLE

FINALISE_S = 60.0
"""Time that pytest has between SIGTERM and SIGKILL to finalise its run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a node needs to know of the plan to run one task; ``fleet submit`` has validated it."""

    fleet: str
    number: int
    point: str
    directory: str
    """Where pytest is started."""
    arguments: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How pytest ended."""

    status: int
    problem: str = ""


def read_task(fleet: Path, number: int) -> Task:
    """Task ``number`` of the plan in ``fleet``."""
    plan = read_plan(fleet)
    try:
        point = plan["points"][number]
        return Task(
            fleet=plan["id"], number=number, point=point["name"], directory=plan["directory"],
            arguments=[*plan["pytest_args"], *point["args"]], environment=point["env"],
        )  # fmt: skip
    except (LookupError, TypeError) as error:
        raise RecordError(f"{fleet / PLAN} says nothing of task {number} ({error!r}); restore it from a copy.") from None


def run_task(fleet: Path, number: int, *, array: str, limit_s: float | None = None) -> tuple[Path, int]:
    """Run one task to its end marker; its folder, and pytest's exit status. ``limit_s`` is for engines that set no limit of their own."""
    task, node = read_task(fleet, number), os.environ.get("SLURMD_NODENAME") or platform.node()
    identity = f"{array}_{number}@{node}"
    start = StartRecord(task=number, identity=identity, node=node, pid=os.getpid(), started_utc=utc_now())
    aside = begin(fleet, start)
    told = {"identity": identity, "fleet": task.fleet, "task": number, "point": task.point, "node": node}
    ended = _pytest(task, aside, told, limit_s)
    run = run_in(aside)
    record = DoneRecord(
        fleet=task.fleet, task=number, identity=identity, node=node, exit_status=ended.status, run=run.name if run else "",
        problem=ended.problem or ("" if run else "pytest wrote no run directory; its output says why"),
        started_utc=start.started_utc, ended_utc=utc_now(),
    )  # fmt: skip
    return finish(fleet, aside, record), ended.status


def _pytest(task: Task, aside: Path, told: Mapping[str, object], limit_s: float | None) -> Ended:
    command = [sys.executable, "-m", "pytest", *task.arguments, "--physics", "--physics-runs", _runs(aside, task.directory)]
    environment = {**os.environ, **task.environment, JOB_VARIABLE: json.dumps(told)}
    with (aside / OUTPUT).open("wb") as output:
        try:
            child = subprocess.Popen(  # noqa: S603 -- arguments, no shell
                command, cwd=task.directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )  # fmt: skip
        except OSError as error:
            return Ended(status=127, problem=f"pytest cannot start in {task.directory}: {error.strerror}; is it shared with this node?")
        with _handing_on(child):
            return _wait(child, limit_s)


def _runs(aside: Path, directory: str) -> str:
    """Relative where it can be: what a run records of its command then says nothing of the machine's directories."""
    path, start = aside.resolve(), Path(directory).resolve()
    return str(path.relative_to(start)) if path.is_relative_to(start) else str(path)


class _handing_on:  # noqa: N801 -- used like a function
    """While pytest runs, SIGTERM and SIGINT are its own to act on, once; Slurm may have sent them to it already."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._hand_on)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _hand_on(self, number: int, frame: object) -> None:  # noqa: ARG002 -- the shape of a signal handler
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)


def _wait(child: subprocess.Popen[bytes], limit_s: float | None) -> Ended:
    """Wait for pytest, at most ``limit_s``; without a limit here the engine ends it."""
    try:
        return _ended(child.wait(limit_s))
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGTERM)
    over = f"the limit of {limit_s:g} s was reached"
    try:
        return Ended(status=_ended(child.wait(FINALISE_S)).status, problem=over)
    except subprocess.TimeoutExpired:
        child.kill()
        return Ended(status=_ended(child.wait()).status, problem=f"{over}, and pytest did not end within {FINALISE_S:g} s more")


def _ended(code: int) -> Ended:
    return Ended(status=code) if code >= 0 else Ended(status=128 - code, problem=f"pytest was ended by {signal.Signals(-code).name}")


def main(arguments: Sequence[str]) -> int:
    """Entry point of a Slurm task: directory of the fleet, and the first task of this array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ["SLURM_JOB_ID"]
    try:
        number = int(arguments[1]) + int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
        return run_task(Path(arguments[0]), number, array=array)[1]
    except PhysicsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
