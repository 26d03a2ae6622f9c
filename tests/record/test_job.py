"""The job of a run: what it is told, what Slurm says, and the gate that refuses shared nodes."""

from __future__ import annotations

import json
import os
import stat

import pytest
from fleet.fleets import made_run

from pytest_physics.errors import RecordError
from pytest_physics.record import job as jobs
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.job import EXCLUSIVE, current_job, exclusive_gate
from pytest_physics.record.schema import JobRecord
from pytest_physics.record.told import JOB_VARIABLE
from pytest_physics.record.verify import verify_run

SHOWN = "JobId=12 ArrayJobId=10 OverSubscribe={sharing} TresPerNode=gres:gpu:1 Partition=bench"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands of Slurm that say what a test tells them to."""

    def commands(*, sharing="NO", queue="12 me", scontrol=""):
        scripts = {
            "scontrol": scontrol or f"echo '{SHOWN.format(sharing=sharing)}'",
            "squeue": f'[ "$1" = --version ] && echo slurm 22.05 || printf "%s\\n" "{queue}"',
        }
        for name, text in scripts.items():
            path = tmp_path / name
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
        return {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "3", "SLURMD_NODENAME": "n2"}

    return commands


def test_outside_of_jobs_there_is_none():
    """Nothing is asked and nothing is added."""
    assert current_job({}) is None


def test_identity_and_allocation_come_from_slurm(slurm):
    """``<array>_<task>@<node>``; one's own job is not one of the others."""
    job = current_job(slurm() | {"CUDA_VISIBLE_DEVICES": "0,1"})
    assert (job.identity, job.gres, job.visible_devices) == ("10_3@n2", "gres:gpu:1", "0,1")
    assert (job.oversubscribe, job.other_jobs, job.problem) == ("NO", [], "")
    assert exclusive_gate(job).passed


@pytest.mark.parametrize("sharing", ["OK", "YES", "USER", ""])
def test_a_shared_allocation_is_refused(slurm, sharing):
    """Whatever Slurm's word for it, and whoever is there now."""
    gate = exclusive_gate(current_job(slurm(sharing=sharing)))
    assert gate.refuses
    assert "needed: NO" in gate.reason


def test_another_job_on_the_node_is_refused(slurm):
    """It is counted and named."""
    gate = exclusive_gate(current_job(slurm(queue="12 me\n99 somebody")))
    assert gate.refuses
    assert (gate.measured, gate.limit) == (1.0, 0.0)
    assert "99 somebody" in gate.reason


@pytest.mark.parametrize(
    ("answer", "words"), [("echo no controller >&2; exit 1", "no controller"), ("exec sleep 5", "did not answer within 0.2 s")]
)
def test_a_controller_that_does_not_answer_proves_nothing(slurm, monkeypatch, answer, words):
    """Within the time-out, and the reason says so."""
    monkeypatch.setattr(jobs, "ANSWER_S", 0.2)
    gate = exclusive_gate(current_job(slurm(scontrol=answer)))
    assert gate.refuses
    assert words in gate.reason


def test_a_fleets_word_wins_over_the_environment(slurm):
    """The task's number in its fleet, which is not the array's where the cluster limits indices."""
    told = {"identity": "10_1003@n2", "fleet": "f", "task": 1003, "point": "b8"}
    job = current_job(slurm() | {JOB_VARIABLE: json.dumps(told)})
    assert (job.identity, job.task, job.point, job.array_task_id) == ("10_1003@n2", 1003, "b8", "3")


def test_a_strange_word_is_refused():
    """The variable is set by fleets alone."""
    with pytest.raises(RecordError, match=JOB_VARIABLE):
        current_job({JOB_VARIABLE: "[1]"})


def test_a_local_job_rests_on_locks():
    """No Slurm to ask; the gate passes and says why."""
    gate = exclusive_gate(JobRecord(engine="local", identity="local_0@h", node="h"))
    assert gate.passed
    assert "locks" in gate.reason


def test_verify_misses_the_requirement(tmp_path):
    """A claim judged inside a job without the gate is found."""
    run = made_run(tmp_path, told={"identity": "local_0@h", "fleet": "f", "task": 0, "point": "p", "node": "h"})
    assert verify_run(run).passed
    claims = run / "claims.jsonl"
    record = json.loads(claims.read_text())
    assert record["requirements"] == [{"op": EXCLUSIVE}]
    claims.write_text(json.dumps({**record, "requirements": []}) + "\n")
    assert [finding.problem.split()[0] for finding in jobs.required(RecordedRun(run)) if finding] == ["lacks"]
    claims.write_text(json.dumps(record) + "\n")
    header = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**header, "job": None}))
    assert [finding.problem.split()[0] for finding in jobs.required(RecordedRun(run)) if finding] == ["has"]
