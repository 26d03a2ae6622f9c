"""A node that does not share the fleet's directory: a slurmd in a mount namespace of its own, with an empty file system there."""

from __future__ import annotations

import subprocess
import tarfile

import pytest
from fleet.fleets import Project, made_run, until
from fleet.toy_cluster import ToyCluster, missing

from pytest_physics.fleet.folder import FleetFolder


def _may_mount() -> bool:
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "toy", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """A fleet over two nodes, the second of which sees nothing of it; merged."""
    if absent := missing():
        pytest.skip(f"needs Slurm and munge (Debian: slurm-wlm, munge); missing: {', '.join(absent)}")
    if not _may_mount():
        pytest.skip("needs the right to mount in a namespace of its own ('unshare --mount', as root)")
    toy = ToyCluster(2)
    try:
        toy.up()
        project = Project(tmp_path_factory.mktemp("apart"), toy.environment)
        (project.path / "fleets").mkdir()
        toy.hide("n2", project.path / "fleets")
        until(lambda: toy.states() == ["idle", "idle"], 20)
        project.run("submit", "bench/", "--nodes", "all", "--physics-device", "twin:rtx4080-laptop", "--fleet", "fleets/apart")
        until((project.path / "fleets" / "apart" / "report.html").is_file, 60)
        yield project
    finally:
        toy.down()


def test_the_others_are_merged_and_the_apart_one_is_lost_with_the_reason(apart):
    """Slurm says that the job failed; the fleet says why that may be, and what to do."""
    rows = apart.rows("fleets/apart")
    assert {point: row["outcome"] for point, row in rows.items()} == {"n1": "MERGED", "n2": "LOST"}
    assert "node 'n2' may not share this file system. Submit from a directory that all nodes share" in rows["n2"]["reason"]


def test_a_run_that_was_copied_by_hand_is_merged(apart, tmp_path):
    """A run that was made on that node by hand, in a tar file; what Slurm lost stays LOST, and the exit code says so."""
    run = made_run(tmp_path, suite=FleetFolder(apart.path / "fleets" / "apart").plan.suite)
    with tarfile.open(tmp_path / "n2.tar.gz", "w:gz") as archive:
        archive.add(run, run.name)
    apart.run("collect", "fleets/apart", tmp_path / "n2.tar.gz", code=1)
    outcomes = {point: row["outcome"] for point, row in apart.rows("fleets/apart").items()}
    assert outcomes == {"n1": "MERGED", "n2": "LOST", run.name: "MERGED"}
