"""Slurm as the engine, through its own commands.

One job array for a sweep, one pinned array of one task per node for a fleet over nodes; every task exclusive, never requeued (a killed
measurement must not silently run again), told to end a minute before its limit. A job that collects depends on all of them with
``afterany``, so that refused and lost ones are merged too. Polling asks ``squeue`` with a time-out; what ``squeue`` has forgotten
``sacct`` is asked for, and where that does not answer the end markers speak alone.

Reference: sbatch(1), squeue(1), scancel(1), scontrol(1); sacct(1) answers only with an accounting database.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_physics.errors import ConfigurationError, nearest
from pytest_physics.fleet.command import EngineError, EngineSilentError, answer
from pytest_physics.fleet.executor import TaskState, TaskStatus
from pytest_physics.fleet.folder import FleetFolder, Jobs
from pytest_physics.fleet.plan import FleetPlan, Point, slurm_time

ASK_S = 10.0
"""Time-out of one question."""
SUBMIT_S = 30.0
SETTLE_S = 2.0
"""How long to look for the marker of a job that has ended: a shared file system may show it late."""
LOOK_S = 0.1
LEAD_S = 60
"""SIGTERM comes this long before the limit."""
USUAL_ARRAY = 1001
"""``MaxArraySize`` of a cluster that does not say."""
NOT_SHARED = 72
"""Exit status of a batch script that does not see the fleet's directory."""

_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
_UNUSABLE = ("down", "drain", "fail", "maint", "unknown", "inval", "no_respond", "powered_down", "power")

TASK_SCRIPT = """#!/bin/bash
if [ ! -f {folder}/fleet.json ]; then
  echo "error: node ${{SLURMD_NODENAME:-$HOSTNAME}} does not see {folder}: put the fleet on a file system that all nodes share" >&2
  exit {not_shared}
fi
cd {directory} || exit {not_shared}
exec {command}
"""


class SlurmExecutor:
    """The four verbs over Slurm's commands."""

    name = "slurm"

    def submit(self, folder: FleetFolder) -> None:
        """Submit every task and the merge job; what was submitted before something failed stays noted."""
        plan = folder.plan
        refuse_forced_sharing(plan.partition)
        jobs = Jobs(engine=self.name)
        folder.write_jobs(jobs)
        try:
            for array in arrays_of(plan.points, max_array_size()):
                job = self._submit_array(folder, array)
                named = {task: f"{job}_{task - array.offset}" for task in array.tasks}
                jobs = jobs.model_copy(update={"jobs": {**jobs.jobs, **named}})
                folder.write_jobs(jobs)
            merge = self._submit_merge(folder, sorted({name.partition("_")[0] for name in jobs.jobs.values()}))
        except EngineError as error:
            if not jobs.jobs:
                raise
            sent = f"{len(jobs.jobs)} of {len(plan.points)} tasks were submitted"
            raise type(error)(
                f"{error} {sent}: 'pytest-physics fleet status {folder.path}' shows them, 'fleet cancel' ends them."
            ) from None
        folder.write_jobs(jobs.model_copy(update={"merge": merge}))

    def poll(self, folder: FleetFolder) -> Mapping[int, TaskStatus]:
        """What ``squeue`` says, then ``sacct``; UNKNOWN for everything where the controller does not answer."""
        jobs = folder.jobs.jobs
        tasks = range(len(folder.plan.points))
        try:
            seen = _queue(folder.plan)
        except EngineError as error:
            return {task: _silent(jobs, task, str(error)) for task in tasks}
        forgotten = [name for name in jobs.values() if name not in seen]
        told = {**_accounting(forgotten), **seen}
        return {task: told.get(jobs[task]) or _forgotten(folder, task) if task in jobs else _NOT_SUBMITTED for task in tasks}

    def cancel(self, folder: FleetFolder, tasks: Sequence[int]) -> None:
        """``scancel``: SIGTERM now, SIGKILL after the cluster's ``KillWait``."""
        names = [name for task, name in folder.jobs.jobs.items() if task in tasks]
        if names:
            answer(["scancel", *names], timeout_s=SUBMIT_S)
            folder.mark_cancelled(tasks)

    def collect(self, folder: FleetFolder, statuses: Mapping[int, TaskStatus]) -> Mapping[int, Path]:
        """Folders with their markers; a job that has just ended gets ``SETTLE_S`` for its marker to be seen."""
        ended = {task for task, status in statuses.items() if status.state is TaskState.ENDED}
        deadline_s = time.monotonic() + SETTLE_S
        while ended - (found := folder.finished_tasks()).keys() and time.monotonic() < deadline_s:
            time.sleep(LOOK_S)
        return found

    def _submit_array(self, folder: FleetFolder, array: TaskArray) -> str:
        plan, node = folder.plan, folder.plan.points[array.tasks[0]].node
        limit = f"%{plan.at_once}" if plan.at_once and len(array.tasks) > 1 else ""
        first, last = array.tasks[0] - array.offset, array.tasks[-1] - array.offset
        options = [f"--array={first}-{last}{limit}", "--exclusive", f"--signal=B:TERM@{LEAD_S}", f"--output={folder.path}/logs/%A_%a.log"]
        options += [f"--gres={plan.gres}"] if plan.gres else []
        options += [f"--time={slurm_time(plan.time_s)}"] if plan.time_s else []
        options += [f"--nodelist={node}"] if node else []
        return _sbatch(folder, "task", options, [plan.python, "-m", "pytest_physics.fleet.job", str(folder.path), str(array.offset)])

    def _submit_merge(self, folder: FleetFolder, after: Sequence[str]) -> str:
        options = [f"--dependency=afterany:{':'.join(after)}", f"--output={folder.path}/logs/merge.log"]
        return _sbatch(folder, "merge", options, [folder.plan.python, "-m", "pytest_physics.fleet.merge", str(folder.path)])


# --- submitting ---------------------------------------------------------------------------------------------------------------


def _sbatch(folder: FleetFolder, kind: str, options: Sequence[str], command: Sequence[str]) -> str:
    """Submit a batch script that becomes ``command``; the script stays beside the plan for whoever wants to read it."""
    plan = folder.plan
    script = folder.path / f"{kind}.sh"
    script.write_text(
        TASK_SCRIPT.format(
            folder=shlex.quote(str(folder.path)), directory=shlex.quote(plan.directory), command=shlex.join(command), not_shared=NOT_SHARED
        )
    )
    fixed = ["--parsable", "--nodes=1", "--ntasks=1", "--no-requeue", "--open-mode=append", f"--chdir={plan.directory}"]
    partition = [f"--partition={plan.partition}"] if plan.partition else []
    name = _name(plan) if kind == "task" else f"{_name(plan)}-{kind}"
    said = answer(["sbatch", *fixed, f"--job-name={name}", *partition, *options, str(script)], timeout_s=SUBMIT_S)
    return said.strip().splitlines()[-1].partition(";")[0]


def _name(plan: FleetPlan) -> str:
    return f"physics-{plan.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskArray:
    """Tasks that are submitted together."""

    tasks: Sequence[int]
    offset: int
    """Task less array index: indices are limited, and are the task's number itself where they can."""


def arrays_of(points: Sequence[Point], largest: int) -> list[TaskArray]:
    """A pinned task alone, the others together, in arrays of at most ``largest``.

    >>> [array.tasks for array in arrays_of([Point(name=str(i), node="n1" if i == 1 else "") for i in range(5)], 2)]
    [[0], [1], [2, 3], [4]]
    """
    groups: list[list[int]] = []
    for task, point in enumerate(points):
        if groups and not point.node and not points[groups[-1][-1]].node and len(groups[-1]) < largest:
            groups[-1].append(task)
        else:
            groups.append([task])
    return [TaskArray(tasks=tasks, offset=0 if tasks[-1] < largest else tasks[0]) for tasks in groups]


def max_array_size() -> int:
    """Most tasks of one array on this cluster."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer(["scontrol", "show", "config"], timeout_s=ASK_S), re.MULTILINE)
    return max(1, int(match[1])) if match else USUAL_ARRAY


def refuse_forced_sharing(partition: str) -> None:
    """A partition that shares its nodes whatever a job asks for can give no valid measurement; neither can one that is not there."""
    shown = answer(["scontrol", "-o", "show", "partition"], timeout_s=ASK_S)
    known = {fields["PartitionName"]: fields for line in shown.splitlines() if (fields := dict(re.findall(r"(\S+?)=(\S*)", line)))}
    chosen = partition or next((name for name, fields in known.items() if fields.get("Default") == "YES"), "")
    if chosen not in known:
        raise ConfigurationError(
            f"partition '{chosen}' does not exist{nearest(chosen, known)}; there are {', '.join(known) or 'none'}. "
            "Name one with --partition."
        )
    sharing = known[chosen].get("OverSubscribe", "")
    if sharing.startswith("FORCE"):
        raise ConfigurationError(
            f"partition '{chosen}' forbids exclusive use (OverSubscribe={sharing}): every claim would be INVALID. "
            "Name another with --partition."
        )


def nodes_named(text: str, partition: str) -> tuple[list[str], list[str]]:
    """Nodes for ``--nodes``: usable ones, and a sentence for each that is left out; ``all`` or a list such as ``n1,n[3-5]``."""
    options = ["-p", partition] if partition else []
    shown = answer(["sinfo", "-h", "-N", *options, "-o", "%N|%T"], timeout_s=ASK_S)
    states = {name: state for name, _, state in (line.partition("|") for line in shown.split())}
    if text == "all":
        wanted = list(states)
    else:
        wanted = answer(["scontrol", "show", "hostnames", text], timeout_s=ASK_S).split()
        unknown = [name for name in wanted if name not in states]
        if unknown:
            raise ConfigurationError(
                f"'--nodes {text}': there is no node '{unknown[0]}' in this partition{nearest(unknown[0], states)}; 'sinfo -N' lists them."
            )
    left_out = [name for name in wanted if any(word in states[name] for word in _UNUSABLE) or states[name].endswith("*")]
    usable = [name for name in dict.fromkeys(wanted) if name not in left_out]
    return usable, [f"node {name} is left out: it is {states[name]}" for name in left_out]


# --- asking -------------------------------------------------------------------------------------------------------------------

_NOT_SUBMITTED = TaskStatus(state=TaskState.NOT_SUBMITTED)


def _forgotten(folder: FleetFolder, task: int) -> TaskStatus:
    """A task that nobody knows: cancelled while it waited, which even the database forgets of one among several, or ended."""
    if folder.was_cancelled(task) and folder.started(task) is None:
        return TaskStatus(state=TaskState.CANCELLED, reason="'fleet cancel' ended it before it began")
    return TaskStatus(state=TaskState.ENDED)


def _silent(jobs: Mapping[int, str], task: int, why: str) -> TaskStatus:
    return TaskStatus(state=TaskState.UNKNOWN, reason=why) if task in jobs else _NOT_SUBMITTED


def _queue(plan: FleetPlan) -> dict[str, TaskStatus]:
    """Status by the engine's name of a task, of what ``squeue`` still knows."""
    shown = answer(["squeue", "-h", "-r", "-t", "all", f"--name={_name(plan)}", "-o", "%i|%T|%r|%N"], timeout_s=ASK_S)
    lines = [line.split("|", 3) for line in shown.splitlines() if line.count("|") >= 3]
    completing = {node for _, state, _, node in lines if state == "COMPLETING"}
    dead = _dead_nodes() if completing else set()
    return {name.strip(): _status(state, reason, node.strip(), node.strip() in dead) for name, state, reason, node in lines}


def _status(state: str, reason: str, node: str, dead: bool) -> TaskStatus:
    """Slurm's state in our words; a job that completes for ever on a node that is down has ended."""
    why = "" if reason in {"", "None"} else f": {reason}"
    if state == "COMPLETING" and dead:
        return TaskStatus(state=TaskState.ENDED, node=node, reason=f"node {node} is down")
    if state in _WAITING:
        return TaskStatus(state=TaskState.WAITING, node=node, reason=f"{state}{why}")
    if state in _RUNNING:
        return TaskStatus(state=TaskState.RUNNING, node=node, reason="" if state == "RUNNING" else state)
    if state.startswith("CANCELLED"):
        return TaskStatus(state=TaskState.CANCELLED, node=node, reason=state)
    return TaskStatus(state=TaskState.ENDED, node=node, reason=f"{state}{why}")


def _dead_nodes() -> set[str]:
    shown = answer(["sinfo", "-h", "-N", "-o", "%N|%T"], timeout_s=ASK_S)
    return {name for name, _, state in (line.partition("|") for line in shown.split()) if "down" in state or state.endswith("*")}


def _accounting(names: Sequence[str]) -> dict[str, TaskStatus]:
    """What the accounting database remembers of ``names``; nothing where there is none."""
    if not names:
        return {}
    arrays = ",".join(sorted({name.partition("_")[0] for name in names}))
    try:
        shown = answer(["sacct", "-n", "-X", "-P", "-j", arrays, "-o", "JobID,State,NodeList"], timeout_s=ASK_S)
    except (EngineError, EngineSilentError):
        return {}
    lines = [line.split("|") for line in shown.splitlines() if line.count("|") == 2]
    nodes = {line[0]: "" if line[2] == "None assigned" else line[2] for line in lines}
    return {
        name: _status(state.split()[0], "", nodes[listed], dead=False) for listed, state, _ in lines if state for name in task_names(listed)
    }


def task_names(listed: str) -> list[str]:
    """Names of the tasks that ``sacct`` puts into one line, as it does with those that ended before they began.

    >>> task_names("12_3"), task_names("12_[0,2-4%2]"), task_names("12_[0-8:4,9,...]")
    (['12_3'], ['12_0', '12_2', '12_3', '12_4'], ['12_0', '12_4', '12_8', '12_9'])
    """
    array, bracket, inside = listed.partition("_[")
    if not bracket:
        return [listed]
    spans = re.findall(r"(\d+)(?:-(\d+)(?::(\d+))?)?", inside.partition("%")[0])
    return [f"{array}_{task}" for first, last, step in spans for task in range(int(first), int(last or first) + 1, int(step or 1))]
