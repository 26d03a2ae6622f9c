"""What runs when all tasks have ended: collect, and build the page. Also the body of ``fleet collect`` and ``fleet report``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_physics.errors import PhysicsError
from pytest_physics.fleet.collect import Collected, Outcome, collect
from pytest_physics.fleet.executor import Executor
from pytest_physics.fleet.folder import FleetFolder
from pytest_physics.fleet.local import LocalExecutor
from pytest_physics.fleet.page import build_page
from pytest_physics.fleet.slurm import SlurmExecutor

ENGINES: dict[str, type[SlurmExecutor | LocalExecutor]] = {"slurm": SlurmExecutor, "local": LocalExecutor}
"""Engine's name in ``jobs.json`` to its executor."""


def executor_of(folder: FleetFolder) -> Executor:
    """The engine that the fleet was submitted to."""
    return ENGINES[folder.jobs.engine]()


def refusals(found: Collected) -> int:
    """How many rows are not merged, and never will be by waiting."""
    return sum(row.outcome is not Outcome.MERGED for row in found.rows)


def main(arguments: Sequence[str]) -> int:
    """Entry point of the merge job."""
    try:
        folder = FleetFolder(Path(arguments[0]))
        found = collect(folder, executor_of(folder))
        sys.stdout.write(f"{build_page(folder)}\n")
    except PhysicsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 1 if refusals(found) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
