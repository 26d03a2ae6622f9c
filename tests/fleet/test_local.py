"""The local engine: the same verbs without Slurm, one task after another."""

from __future__ import annotations

import json
import os
import platform
import signal
from itertools import pairwise

import pytest
from fleet.fleets import until
from typer.testing import CliRunner

from pytest_physics.devices.lock import DeviceLock
from pytest_physics.errors import ConfigurationError, DeviceBusyError, PhysicsError
from pytest_physics.fleet.commands import app
from pytest_physics.fleet.folder import FleetFolder
from pytest_physics.fleet.local import device_locks, real_devices


@pytest.fixture(scope="module")
def ran(project):
    """Four points: a good one, one that is cancelled while it runs, one cancelled before, one without tests."""
    points = project.points(
        {"name": "good"}, {"name": "cancelled", "env": {"TOY": "wait"}}, {"name": "never"}, {"name": "none", "args": ["-k", "absent"]}
    )  # fmt: skip
    project.run("submit", "bench/", "--array", points, "--executor", "local", "--fleet", "ran")
    project.run("cancel", "ran", "--tasks", "2")
    folder = project.path / "ran"
    until(lambda: list(folder.glob("runs/.tmp-local_1@*/*/claims.jsonl")))
    project.busy = project.run("status", "ran", code=1).stdout
    project.run("cancel", "ran", "--tasks", "1")
    until((folder / "report.html").is_file)
    return project


def test_tasks_run_one_after_another_to_their_own_outcomes(ran):
    """Merged, finalised on SIGTERM, never begun, and without a run."""
    outcomes = {point: row["outcome"] for point, row in ran.rows("ran").items()}
    assert outcomes == {"good": "MERGED", "cancelled": "INCOMPLETE", "never": "CANCELLED", "none": "EMPTY"}
    assert ran.rows("ran")["cancelled"]["reason"] == "ended by SIGTERM"
    done = [json.loads(path.read_text()) for path in sorted((ran.path / "ran").glob("runs/*/DONE.json"))]
    spans = sorted((record["started_utc"], record["ended_utc"]) for record in done)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


def test_status_says_where_every_task_stands(ran):
    """While one runs the exit code is 1; in the end it is 0, and a cancelled one is no longer waited for."""
    words = {line.split()[1]: line.split()[2] for line in ran.busy.splitlines()}
    assert words == {"good": "finished", "cancelled": "running", "never": "cancelled", "none": "waiting"}
    said = ran.run("status", "ran").stdout
    assert said.count("finished") == 3
    assert "pytest wrote no run directory" in next(line for line in said.splitlines() if " none " in line)


def test_a_local_run_knows_its_place(ran):
    """Its identity and the claim's gate; paths of the run stay relative to where pytest is started."""
    row = ran.rows("ran")["good"]
    run = ran.path / "ran" / row["run"]
    record = json.loads((run / "run.json").read_text())
    assert record["job"]["identity"] == f"local_0@{platform.node()}"
    assert record["job"]["engine"] == "local"
    assert not any(part.startswith("/") for part in record["command"])
    gates = json.loads((run / "claims.jsonl").read_text())["gates"]
    assert [gate["passed"] for gate in gates if gate["name"] == "exclusive allocation"] == [True]


def test_a_runner_that_was_killed_leaves_lost_tasks(project):
    """Neither passed nor running for ever."""
    points = project.points({"name": "a", "env": {"TOY": "wait"}}, {"name": "b"})
    project.run("submit", "bench/", "--array", points, "--executor", "local", "--fleet", "killed")
    folder = FleetFolder(project.path / "killed")
    started = until(lambda: folder.started(0))
    os.killpg(started.pid, signal.SIGKILL)
    until(lambda: project.run("status", "killed", code=None).returncode == 0)
    project.run("collect", "killed", code=1)
    assert {row["outcome"] for row in project.rows("killed").values()} == {"LOST"}
    assert "the local runner has died" in project.rows("killed")["b"]["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench/", "--executor", "slrm"), "there is no executor 'slrm' (did you mean 'slurm'?)"),
        (("bench/", "--executor", "slurm"), "'sbatch' is not installed here"),
        (("bench/", "--executor", "local", "--gres", "gpu:1"), "'--gres' needs Slurm"),
        (("bench/", "--executor", "local", "--nodes", "n1"), "'--nodes n1' needs Slurm"),
        (("bench/", "--executor", "local", "--time", "soon"), "'--time soon' is no limit"),
        (("bench/", "--executor", "local", "--time", "2"), "at least 180 s"),
        (("bench/", "--executor", "local", "--physics-runs", "x"), "--physics-runs is set by the fleet itself"),
        (("bench/", "--executor", "local", "--at-once", "-1"), "'--at-once -1' must be at least 1"),
        (("--executor", "local"), "say what to run"),
        (("nowhere/", "--executor", "local"), "no Python file is below"),
        (("bench/", "--executor", "local", "--array", "absent.json"), "cannot read absent.json"),
    ],
)
def test_wrong_use_is_one_message_and_submits_nothing(project, arguments, message, tmp_path, monkeypatch):
    """An error of ours, which the command line prints as one line, and no job."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.chdir(project.path)
    found = CliRunner().invoke(app, ["submit", *arguments, "--fleet", str(tmp_path / "none")])
    assert isinstance(found.exception, PhysicsError)
    assert message in str(found.exception)
    assert not (tmp_path / "none").exists()


def test_a_fleet_is_not_overwritten(ran):
    """Results of two fleets are never mixed."""
    done = ran.run("submit", "bench/", "--executor", "local", "--fleet", "ran", code=2)
    assert "holds a fleet already" in done.stderr
    done = ran.run("submit", "bench/", "--executor", "local", "--fleet", "bench", code=2)
    assert "holds other files already" in done.stderr
    assert [path.name for path in (ran.path / "bench").glob("*.*")] == ["test_point.py"]


def test_a_fleet_that_has_ended_cannot_be_cancelled(ran):
    """Nothing is told to end that has ended, and the command says so; a task that never began stays cancelled."""
    assert "1 task was told to end; 3 had ended already" in ran.run("cancel", "ran").stdout
    assert ran.run("status", "ran").stdout.count("finished") == 3


def _plan(made_fleet, tmp_path, *arguments):
    return made_fleet(pytest_args=["bench/", *arguments], directory=str(tmp_path)).plan


@pytest.mark.parametrize(
    ("arguments", "devices"),
    [(("--physics-device", "cpu"), ["cpu"]), (("--physics-device=cpu",), ["cpu"]), (("--physics-device", "twin:a100"), [])],
)
def test_locks_are_for_real_devices(made_fleet, tmp_path, arguments, devices):
    """A simulated device needs none; the option is read as pytest reads it."""
    plan = _plan(made_fleet, tmp_path, *arguments)
    assert real_devices(plan, plan.points[0]) == devices


def test_a_busy_device_is_waited_for_and_not_for_ever(made_fleet, tmp_path):
    """The second fleet gets the device when it is free; within the time-out it gives up with the holder's name."""
    plan = _plan(made_fleet, tmp_path, "--physics-device", "cpu")
    held = DeviceLock(f"fleet {platform.node()} cpu", run_id="another fleet")
    with held, pytest.raises(DeviceBusyError, match="another fleet"), device_locks(plan, plan.points[0], wait_s=0.0):
        pass
    with device_locks(plan, plan.points[0], wait_s=0.0):
        pass


def test_points_are_checked_where_they_are_read(tmp_path):
    """Unknown keys, repeated names, wrong shapes: the entry is named."""
    from pytest_physics.fleet.plan import load_points

    path = tmp_path / "points.json"
    wrong = {
        "{}": "must hold a list", "[]": "must hold a list", "[1]": "point 0", '[{"nam": "a"}]': "'nam'", '[{"name": "a b"}]': "'name'",
        '[{"name": "a"}, {"name": "a"}]': "more than once",
        '[{"args": ["--physics"]}]': "--physics is set by the fleet", "[": "not valid JSON",
    }  # fmt: skip
    for text, message in wrong.items():
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=message):
            load_points(path)
