"""The job that a run runs in: who placed it where, and whether the machine is its own.

Slurm is asked at the start of the run, from inside the job: ``scontrol show job`` says whether the allocation is exclusive
(``OverSubscribe=NO``), ``squeue`` which other jobs run on the node. Two jobs on one node heat, throttle and time each other, so a shared
allocation refuses every claim of the run; where the controller does not answer nothing shows that the node was not shared, and that refuses
too. The local engine takes its devices' locks instead. Outside of jobs there is nothing to ask, and nothing is added.

How it fails: the commands have time-outs, and what they do not say is recorded as not known, with the reason.
Reference: scontrol(1), squeue(1); sbatch(1), ``--exclusive``.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from typing import Any

from pytest_physics.metrology.uncertainty import Gate, Recipe
from pytest_physics.record.data import RecordedRun, RunData
from pytest_physics.record.finding import Finding, Items
from pytest_physics.record.schema import JobRecord
from pytest_physics.record.told import told

EXCLUSIVE = "job.exclusive"
"""Requirement of every claim that is judged inside a job."""
ANSWER_S = 10.0
"""How long a command of the engine may take."""
ATTEMPTS = 2

_FIELDS = re.compile(r"(\S+?)=(\S*)")


def current_job(environment: Mapping[str, str] = os.environ) -> JobRecord | None:
    """The job of this process; None outside of jobs."""
    said = told(environment)
    if "SLURM_JOB_ID" in environment:
        return _slurm_job(environment, said)
    if said:
        return JobRecord(engine="local", node=said.get("node") or platform.node(), visible_devices=_visible(environment), **_identity(said))
    return None


def _identity(said: Mapping[str, Any]) -> dict[str, Any]:
    return {key: said[key] for key in ("identity", "fleet", "task", "point") if key in said}


def _visible(environment: Mapping[str, str]) -> str | None:
    return environment.get("CUDA_VISIBLE_DEVICES")


def _slurm_job(environment: Mapping[str, str], said: Mapping[str, Any]) -> JobRecord:
    job_id = environment["SLURM_JOB_ID"]
    node = environment.get("SLURMD_NODENAME") or platform.node()
    shown, problem = _answer("scontrol", "-o", "show", "job", job_id)
    fields = dict(_FIELDS.findall(shown))
    running, silence = _answer("squeue", "-h", "-w", node, "-t", "R,S,CG", "-o", "%A %u")
    version, _ = _answer("squeue", "--version")
    others = None if silence else [line for line in running.splitlines() if line.split()[:1] not in ([], [job_id])]
    array, task = environment.get("SLURM_ARRAY_JOB_ID", ""), environment.get("SLURM_ARRAY_TASK_ID", "")
    made = {"identity": f"{array or job_id}_{task or 0}@{node}", **_identity(said)}
    return JobRecord(
        engine="slurm", job_id=job_id, array_job_id=array, array_task_id=task, node=node,
        partition=environment.get("SLURM_JOB_PARTITION", ""), gres=fields.get("TresPerNode", ""),
        oversubscribe=fields.get("OverSubscribe", ""), other_jobs=others, visible_devices=_visible(environment),
        device_uuids=_cards(), engine_version=version.strip(), problem=problem or silence, **made,
    )  # fmt: skip


def _answer(*command: str) -> tuple[str, str]:
    """What a command printed, and why it did not where it did not."""
    problem = ""
    for _ in range(ATTEMPTS):
        try:
            done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=ANSWER_S, check=False)  # noqa: S603 -- fixed commands
        except FileNotFoundError:
            return "", f"'{command[0]}' is not installed inside the job"
        except (OSError, subprocess.TimeoutExpired):
            problem = f"'{' '.join(command)}' did not answer within {ANSWER_S:g} s"
            continue
        if done.returncode == 0:
            return done.stdout, ""
        problem = f"'{' '.join(command)}' failed: {done.stderr.strip() or f'exit status {done.returncode}'}"
    return "", problem


def _cards() -> list[str]:
    """Cards with their UUIDs, as NVML shows them inside the job."""
    from pytest_physics.devices.discover import probe_nvml  # noqa: PLC0415 -- only jobs ask

    return list(probe_nvml().names)


# --- the gate ---------------------------------------------------------------------------------------------------------------


def requirement() -> Recipe:
    """What every claim of a job requires."""
    return Recipe(op=EXCLUSIVE)


def exclusive_gates(data: RunData) -> tuple[Gate, ...]:
    """The gate that refuses shared allocations; none outside of jobs."""
    return () if data.job is None else (exclusive_gate(data.job),)


def exclusive_gate(job: JobRecord) -> Gate:
    """Whether the run had its node alone when it began."""
    others = len(job.other_jobs or ())
    if job.engine == "local":
        passed, reason = True, "runs of this machine follow one another under its device locks"
    elif job.problem:
        passed, reason = False, f"nothing shows that node '{job.node}' was not shared: {job.problem}"
    elif job.oversubscribe != "NO":
        passed, reason = False, f"the allocation is shared: Slurm says OverSubscribe={job.oversubscribe or 'nothing'} (needed: NO)"
    elif others:
        passed, reason = (
            False,
            f"{others} other jobs ran on node '{job.node}' at the start (allowed: 0): {', '.join((job.other_jobs or [])[:3])}",
        )
    else:
        passed, reason = True, f"node '{job.node}' is allocated to this job alone (OverSubscribe=NO, 0 other jobs)"
    return Gate(
        name="exclusive allocation", scope=job.identity, measured=None if job.other_jobs is None else float(others), limit=0.0, unit="job",
        passed=passed, reason=reason,
        remedy="submit with --exclusive ('pytest-physics fleet submit' does) to a partition that allows it, while the controller answers",
    )  # fmt: skip


def required(run: RecordedRun) -> Items:
    """Each claim that was judged inside a job carries the requirement, and none that was judged elsewhere."""
    inside = run.job is not None
    for claim in run.reader.claims:
        asked = any(item.get("op") == EXCLUSIVE for item in claim.requirements)
        where = f"claims.jsonl: {claim.id}.requirements"
        if claim.recipe is not None and inside and not asked:
            yield Finding(where=where, problem=f"lacks '{EXCLUSIVE}', which every claim inside a job requires")
        if asked and not inside:
            yield Finding(where=where, problem=f"has '{EXCLUSIVE}', but run.json names no job")
        yield None
