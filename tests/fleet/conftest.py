"""Fleets on the toy cluster, on this machine, and of runs that were made in this process."""

from __future__ import annotations

import os
from functools import partial

import pytest
from fleet.fleets import Project, new_fleet
from fleet.toy_cluster import ToyCluster, missing


@pytest.fixture(scope="session")
def cluster():
    """Three nodes with two fake GPUs each; skipped, saying so, where Slurm is not installed."""
    if absent := missing():
        pytest.skip(f"needs Slurm and munge (Debian: slurm-wlm, munge); missing: {', '.join(absent)}")
    toy = ToyCluster()
    try:
        toy.up()
        yield toy
    finally:
        toy.down()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project without a cluster."""
    return Project(tmp_path_factory.mktemp("project"), dict(os.environ))


@pytest.fixture
def made_fleet(tmp_path):
    """A function that makes a fleet of ``n`` tasks that nobody runs."""
    return partial(new_fleet, tmp_path)
