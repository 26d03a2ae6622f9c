"""Fixtures that several files share, and the way to the helper module beside them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def clean():
    """The audit of the sound report."""
    from sound_report import CLEAN, judged

    return judged(CLEAN)


@pytest.fixture(scope="session")
def published_data() -> Path:
    """The published data that two audits attach; the test is skipped where they are not there."""
    path = Path(os.environ.get("PYTEST_PHYSICS_PUBLISHED_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (path / "rle").is_dir():
        pytest.skip(f"the published RLE sessions are not in {path}: set PYTEST_PHYSICS_PUBLISHED_DATA to the directory that holds 'rle'")
    return path
