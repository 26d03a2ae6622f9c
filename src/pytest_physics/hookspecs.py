"""Hooks that conftest files and other plugins may implement.

They are called only in runs with ``--physics``. Example, in ``conftest.py``::

    def pytest_physics_claim_judged(config, claim):
        print(claim.id, claim.verdict)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_physics.record.schema import ClaimRecord


@pytest.hookspec
def pytest_physics_claim_judged(config: pytest.Config, claim: ClaimRecord) -> None:
    """A claim was judged and recorded; called once per attempt."""


@pytest.hookspec
def pytest_physics_run_finished(config: pytest.Config, run: Path, report: Path | None) -> None:
    """The run directory is complete; ``report`` is None where it could not be built."""
