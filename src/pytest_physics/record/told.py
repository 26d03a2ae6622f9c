"""What a fleet tells the run that it starts: one environment variable that holds JSON.

Apart from the rest because the process that waits beside a measurement loads it, and that one should be small and quick.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pytest_physics.errors import RecordError

JOB_VARIABLE = "PYTEST_PHYSICS_JOB"
"""Name of the variable."""
TOLD = ("identity", "fleet", "task", "point", "node")
"""Keys that a run takes from it."""


def told(environment: Mapping[str, str]) -> dict[str, Any]:
    """What the fleet said; empty where there is none, ``RecordError`` for what no fleet says."""
    text = environment.get(JOB_VARIABLE, "")
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found.keys() <= set(TOLD):
        raise RecordError(f"the environment variable {JOB_VARIABLE} is set by 'pytest-physics fleet' alone (got {text!r}); unset it.")
    return found
