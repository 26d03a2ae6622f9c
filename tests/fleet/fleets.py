"""What the tests of fleets share: a project with its command line, an engine that says what it is told, and fleets that nobody ran."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_physics.claims import ClaimStatement, Judge
from pytest_physics.clock import utc_now
from pytest_physics.config import load_settings
from pytest_physics.errors import RefutedClaim
from pytest_physics.fleet.folder import FleetFolder, Jobs
from pytest_physics.fleet.markers import DoneRecord, StartRecord
from pytest_physics.fleet.plan import FleetPlan, Point
from pytest_physics.metrology.uncertainty import Recipe
from pytest_physics.record.job import requirement
from pytest_physics.record.told import JOB_VARIABLE
from pytest_physics.session import Session
from pytest_physics.workloads.twin import TwinKernel

HERE = Path(__file__).parent
PROGRAM = Path(sys.executable).with_name("pytest-physics")
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""Plugins of the test environment take longer to load than a toy task takes."""
SUITE = {"bench/test_point.py": "0123456789abcdef"}


class Project:
    """A project whose bench the fleets run, and its command line."""

    def __init__(self, path: Path, environment: dict[str, str]) -> None:
        self.path = path
        self.environment = {**environment, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200", **ALONE}
        (path / "bench").mkdir(parents=True)
        shutil.copy(HERE / "toybench.py", path / "bench" / "test_point.py")
        (path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider -p pytest_physics.plugin -q\n")

    def run(self, *arguments: object, code: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """``pytest-physics fleet …`` in the project."""
        done = subprocess.run(
            [PROGRAM, "fleet", *map(str, arguments)], cwd=self.path, env={**self.environment, **environment},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr + done.stdout
        assert code in {None, done.returncode}, done.stdout + done.stderr
        return done

    def points(self, *points: dict[str, object]) -> Path:
        """``points.json``; every point on a twin."""
        path = self.path / "points.json"
        path.write_text(json.dumps([{"args": ["--physics-device", "twin:rtx4080-laptop"], **point} for point in points]))
        return path

    def rows(self, fleet: str) -> dict[str, dict[str, object]]:
        """What was collected, by point."""
        collected = json.loads((self.path / fleet / "collected.json").read_text())
        return {row["point"]: row for row in collected["rows"]}


def until(condition, timeout_s=60.0, step_s=0.05):
    """Wait for a condition, not for a time."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s"
        time.sleep(step_s)
    return found


class Engine:
    """An engine that says what a test tells it to."""

    name = "local"

    def __init__(self, statuses=None):
        self.statuses = statuses or {}

    def submit(self, folder):
        raise NotImplementedError

    def poll(self, folder):
        return self.statuses

    def cancel(self, folder, tasks):
        raise NotImplementedError

    def collect(self, folder, statuses):
        return folder.finished_tasks()


def new_fleet(root: Path, n: int = 1, **changes) -> FleetFolder:
    """A fleet of ``n`` tasks that nobody runs."""
    plan = FleetPlan(
        id="toy", directory=str(root), pytest_args=["bench/"], python=sys.executable, suite=SUITE, submitted_utc=utc_now(),
        points=[Point(name=f"p{i}") for i in range(n)],
    ).model_copy(update=changes)  # fmt: skip
    folder = FleetFolder.create(root / "fleet", plan)
    folder.write_jobs(Jobs(engine="local", details={"pid": "1", "started": "0"}))
    return folder


def made_run(directory: Path, *, device="twin:rtx4080-laptop", seed=0, suite=SUITE, joules=400.0, told=None, report=None) -> Path:
    """A short complete run with numbers that the page shows, and a claim."""
    overrides = {"device": device, "seed": seed, "runs": "."}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(JOB_VARIABLE, json.dumps(told or {}))
        session = Session.start(load_settings(directory, overrides=overrides), directory=directory, suite=suite)
    gpu = session.rig.gpu
    baseline = gpu.baseline()
    session.result("idle baseline", "idle power", session.evaluate(Recipe(op="baseline.power", parameters={"baseline": baseline.id})))
    for batch in (1, 2):
        with gpu.window("decode", tokens=1000 * batch, labels={"batch": batch, "phase": "decode"}) as window:
            TwinKernel(gpu.device).run_for(2.0)
        session.result("joule curve", "energy per token (net)", window.per("token").net, batch=batch, phase="decode", instrument="gpu")
        session.result("joule curve", "latency", window.duration, batch=batch, phase="decode", instrument="gpu")
    statement = ClaimStatement(
        id="toy.energy", statement="It is cheap", test="bench/test_point.py::test_energy", source="bench/test_point.py:1"
    )
    requirements = (requirement(),) if session.job else ()
    judge = Judge(book=session, claim=statement, requirements=lambda: requirements)
    with contextlib.suppress(RefutedClaim):  # it is recorded
        judge(window.energy.gross <= joules)
    session.finish(publish=report)
    return session.path


def publish(folder: FleetFolder, task: int, *, node="n1", **options) -> Path:
    """Do as the task does on its node."""
    identity = f"7_{task}@{node}"
    aside = folder.begin(StartRecord(task=task, identity=identity, node=node, pid=1, started_utc=utc_now()))
    told = {"identity": identity, "fleet": folder.plan.id, "task": task, "point": folder.plan.points[task].name, "node": node}
    run = made_run(aside, told=told, **options)
    record = DoneRecord(
        fleet=folder.plan.id, task=task, identity=identity, node=node, exit_status=0, run=run.name,
        started_utc=utc_now(), ended_utc=utc_now(),
    )  # fmt: skip
    return folder.finish(aside, record)
