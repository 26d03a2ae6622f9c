"""A sound recorded usage, on disk and changed at will; the helper module beside this file can be imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

from recorded_usage import COSTS, sound


@pytest.fixture
def files(tmp_path):
    """Write usage and costs, with changes, and return their paths; a change to None removes a key."""

    def write(costs=None, **changes):
        data = {key: value for key, value in (sound() | changes).items() if value is not None}
        usage_file, costs_file = tmp_path / "usage.json", tmp_path / "costs.json"
        usage_file.write_text(json.dumps(data), encoding="utf-8")
        costs_file.write_text(json.dumps(costs if costs is not None else {"costs": COSTS}), encoding="utf-8")
        return usage_file, costs_file

    return write


@pytest.fixture
def command():
    """The command in this process: exit code and output."""
    from pytest_physics.cli import app

    return lambda *arguments: CliRunner().invoke(app, ["routing", *map(str, arguments)])
