"""The engine of a machine without Slurm: the same verbs, one task after another, under a lock for each device that they measure.

A process of its own runs the tasks, so that ``submit`` returns at once; it outlives the terminal and ends with the last task. Its progress
is in the fleet's directory, and it is known by process id and start time, so that an id that was given to another process is not taken
for it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from pytest_physics.clock import utc_now
from pytest_physics.config import load_settings
from pytest_physics.devices.discover import choose_devices
from pytest_physics.devices.lock import DeviceLock
from pytest_physics.errors import ConfigurationError, DeviceBusyError, PhysicsError
from pytest_physics.fleet.executor import TaskState, TaskStatus
from pytest_physics.fleet.folder import FleetFolder, Jobs
from pytest_physics.fleet.job import run_task
from pytest_physics.fleet.markers import DoneRecord, StartRecord
from pytest_physics.fleet.plan import FleetPlan, Point

DEFAULT_LIMIT_S = 24 * 3600.0
"""Limit of a task where none was given."""
LOCK_WAIT_S = 3600.0
"""Longest wait for a device that another fleet measures."""
LOOK_S = 0.5
NOT_STARTED = 4
"""Exit status of a task for which pytest was not started: as of a usage error."""
ARRAY = "local"
_SAME_START_S = 1.0


class LocalExecutor:
    """The four verbs in a process of this machine."""

    name = "local"

    def submit(self, folder: FleetFolder) -> None:
        """Start the runner."""
        plan = folder.plan
        for value, option in ((plan.gres, "--gres"), (plan.partition, "--partition"), (plan.at_once, "--at-once")):
            if value:
                raise ConfigurationError(f"'{option}' needs Slurm; the local engine runs one task after another on the whole machine.")
        strangers = [point.node for point in plan.points if point.node not in {"", platform.node()}]
        if strangers:
            raise ConfigurationError(f"node '{strangers[0]}' is not this machine ({platform.node()}); the local engine runs only here.")
        with (folder.path / "logs" / "local.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 -- our own module
                [plan.python, "-m", "pytest_physics.fleet.local", str(folder.path.resolve())],
                cwd=plan.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        jobs = {task: str(process.pid) for task in range(len(plan.points))}
        started = repr(psutil.Process(process.pid).create_time())
        folder.write_jobs(Jobs(engine=self.name, jobs=jobs, merge=str(process.pid), details={"pid": str(process.pid), "started": started}))

    def poll(self, folder: FleetFolder) -> Mapping[int, TaskStatus]:
        """From the folder, and whether the runner lives."""
        alive, finished = runner_alive(folder), folder.finished_tasks()
        return {task: _status(folder, task, alive=alive, ended=task in finished) for task in range(len(folder.plan.points))}

    def cancel(self, folder: FleetFolder, tasks: Sequence[int]) -> None:
        """Mark tasks as cancelled; the one in progress is told to end."""
        folder.mark_cancelled(tasks)
        for task in tasks:
            started = folder.started(task)
            if started and task not in folder.finished_tasks() and runner_alive(folder):
                os.kill(started.pid, signal.SIGTERM)

    def collect(self, folder: FleetFolder, statuses: Mapping[int, TaskStatus]) -> Mapping[int, Path]:  # noqa: ARG002 -- the protocol's
        """Folders with their markers; this machine sees its own files at once."""
        return folder.finished_tasks()


def runner_alive(folder: FleetFolder) -> bool:
    """Whether the process that runs the tasks still is the one that was started."""
    details = folder.jobs.details
    try:
        process = psutil.Process(int(details["pid"]))
        same = abs(process.create_time() - float(details["started"])) < _SAME_START_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, ValueError):
        return False


def _status(folder: FleetFolder, task: int, *, alive: bool, ended: bool) -> TaskStatus:
    node, started = platform.node(), folder.started(task) is not None
    if ended:
        return TaskStatus(state=TaskState.ENDED, node=node)
    if folder.was_cancelled(task) and not (started and alive):
        return TaskStatus(state=TaskState.CANCELLED, node=node)
    if not alive:
        return TaskStatus(state=TaskState.ENDED, node=node, reason="the local runner has died; its log is logs/local.log")
    return TaskStatus(state=TaskState.RUNNING if started else TaskState.WAITING, node=node)


# --- the runner ---------------------------------------------------------------------------------------------------------------


def run_all(folder: FleetFolder) -> None:
    """Run every task that is not cancelled, one after another."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # between tasks there is nothing to end; ignored signals would stay ignored in pytest
    limit_s = folder.plan.time_s or DEFAULT_LIMIT_S
    for task, point in enumerate(folder.plan.points):
        if folder.was_cancelled(task):
            continue
        try:
            with device_locks(folder.plan, point):
                run_task(folder.path, task, array=ARRAY, limit_s=limit_s)
        except PhysicsError as error:
            _not_started(folder, task, str(error))


@contextlib.contextmanager
def device_locks(plan: FleetPlan, point: Point, *, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold a lock for each real device that the point will measure; waits its turn, and no longer than ``wait_s``."""
    deadline_s = time.monotonic() + wait_s
    with contextlib.ExitStack() as held:
        for name in real_devices(plan, point):
            lock = DeviceLock(f"fleet {platform.node()} {name}", run_id=plan.id)
            while True:
                try:
                    held.enter_context(lock)
                    break
                except DeviceBusyError:
                    if time.monotonic() >= deadline_s:
                        raise
                    time.sleep(LOOK_S)
        yield


def real_devices(plan: FleetPlan, point: Point) -> list[str]:
    """Devices that the point's options and the project's settings name, simulated ones apart; sorted, so that no two fleets deadlock."""
    arguments = [*plan.pytest_args, *point.args]
    chosen = {name: _option(arguments, f"--physics-{name}") for name in ("device", "config")}
    file = Path(plan.directory, chosen["config"]) if chosen["config"] else None
    settings = load_settings(Path(plan.directory), file=file, overrides={"device": chosen["device"]})
    return sorted(str(spec) for spec in choose_devices(settings.device).specs if spec.kind in {"nvml", "cpu"})


def _option(arguments: Sequence[str], name: str) -> str | None:
    """Value of an option as pytest reads it: the last one, ``--name value`` or ``--name=value``."""
    found = None
    for position, argument in enumerate(arguments):
        if argument == name and position + 1 < len(arguments):
            found = arguments[position + 1]
        elif argument.startswith(f"{name}="):
            found = argument.partition("=")[2]
    return found


def _not_started(folder: FleetFolder, task: int, problem: str) -> None:
    """A marker that says why a task did not run."""
    identity, now = f"{ARRAY}_{task}@{platform.node()}", utc_now()
    start = StartRecord(task=task, identity=identity, node=platform.node(), pid=os.getpid(), started_utc=now)
    aside = folder.runs / f".tmp-{identity}"
    if not aside.exists():
        aside = folder.begin(start)
    record = DoneRecord(
        fleet=folder.plan.id, task=task, identity=identity, node=platform.node(), exit_status=NOT_STARTED, problem=problem,
        started_utc=now, ended_utc=now,
    )  # fmt: skip
    folder.finish(aside, record)


def main(arguments: Sequence[str]) -> int:
    """Entry point of the runner: run everything, then merge."""
    folder = FleetFolder(Path(arguments[0]))
    run_all(folder)
    merge = [folder.plan.python, "-m", "pytest_physics.fleet.merge", str(folder.path)]
    return subprocess.run(merge, check=False, timeout=DEFAULT_LIMIT_S).returncode  # noqa: S603 -- our own module


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
