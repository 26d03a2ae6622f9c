"""The routing sweep as a job array: the published script on a real Slurm, a point a task, merged by a job that waits for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fleet.fleets import until

from pytest_physics.record.reader import RunReader
from pytest_physics.record.verify import verify_run

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "routing_sweep.sbatch"
PLAN = ("--routers", "published", "--lambdas", "0,0.5", "--gates", "2", "--batches", "20")
"""The grid of the script, made small: four tasks."""


@pytest.fixture
def shell(cluster, tmp_path):
    """A function that runs a command in a scratch directory on the cluster's login node."""
    path = os.pathsep.join([str(Path(sys.executable).parent), cluster.environment["PATH"]])
    environment = {**cluster.environment, "PATH": path, "OMP_NUM_THREADS": "1"}

    def run(*command: object) -> str:
        done = subprocess.run([*map(str, command)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    return run


def test_the_array_is_merged_into_one_verified_run(shell, tmp_path):
    """The three lines of the script's own head, with a smaller grid: every point is a run, the merge is one, with the sweep's results."""
    shell("pytest-physics", "routing", "plan", "routing-points.json", *PLAN)
    job = shell("sbatch", "--parsable", "--array=0-3", SCRIPT)
    merge = "pytest-physics routing merge runs/routing-sweep/*/ --runs runs"
    shell("sbatch", "--parsable", f"--dependency=afterok:{job}", "--output=merge.out", "--wrap", merge)
    outputs = lambda: "\n".join(path.read_text() for path in [*tmp_path.glob("*.out")])  # noqa: E731
    until(lambda: "report:" in outputs() or "rror" in outputs() or list((tmp_path / "runs").glob("*/report.html")), 100)
    merged = [path.parent for path in (tmp_path / "runs").glob("*/report.html")]
    assert len(merged) == 1, outputs()
    assert len(list((tmp_path / "runs" / "routing-sweep").glob("*/run.json"))) == 4
    until(lambda: verify_run(merged[0]).passed, 30, 0.5)
    reader = RunReader(merged[0])
    assert {result.experiment for result in reader.results} == {"routing sweep"}
    assert {result.coordinates["lambda_per_j"] for result in reader.results if "lambda_per_j" in result.coordinates} >= {0.0, 0.5}
