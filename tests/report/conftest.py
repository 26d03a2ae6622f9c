"""Runs that several tests read, built once; and the way to the helper module beside them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_physics.report.build import build_report

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Every synthetic run with its report built: name to directory."""
    import synthetic

    parent = tmp_path_factory.mktemp("runs")
    writers = {
        "full": synthetic.write_full_run,
        "crashed": synthetic.write_crashed_run,
        "hostile": synthetic.write_hostile_run,
        "cpu": synthetic.write_cpu_run,
    }
    found = {name: write(parent / name) for name, write in writers.items()}
    for path in found.values():
        build_report(path)
    return found


@pytest.fixture(scope="session", params=["cpu", "crashed", "full", "hostile"])
def any_run(request, runs):
    """Each run directory in turn."""
    return runs[request.param]


@pytest.fixture(scope="session")
def any_page(any_run):
    """The page of each run in turn."""
    return (any_run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def full_page(runs):
    """The page of the complete run."""
    return (runs["full"] / "report.html").read_text(encoding="utf-8")
