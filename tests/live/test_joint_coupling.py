"""The end of a joint session: the coupling analysis, shown and recorded."""

from __future__ import annotations

import sys

import pytest

from pytest_physics.record.reader import RunReader

TRAINING = """
import time
import numpy as np
from pytest_physics.marks import mark_step

rng = np.random.default_rng(0)
for step in range(1, 81):
    end = time.perf_counter() + 0.02
    while time.perf_counter() < end:
        pass
    norm, rate = rng.random() if {norm} else None, 1e-3 * min(1, step / 8, (81 - step) / 8)
    mark_step(step, loss=5 / step + rng.random(), grad_norm=norm, learning_rate=rate)
"""


@pytest.mark.parametrize("norm", [True, False])
def test_a_joint_session_ends_with_its_coupling(program, norm):
    """A line for each pair that there is, the same numbers in the run and on its page, and all of it verifies."""
    (program.path / "train.py").write_text(TRAINING.format(norm=norm))
    code, _, error = program.inside(
        "joint", "--devices", "cpu", "--margin", "0.2", "--hz", "50", "--", sys.executable, program.path / "train.py"
    )
    assert code == 0
    assert "coupling over" in error
    run = program.verified()
    series = {r.coordinates["series"] for r in RunReader(run).results if r.experiment == "training coupling" and "series" in r.coordinates}
    assert any(pair.startswith("grad_norm") for pair in series) is norm
    assert "Training coupling" in (run / "report.html").read_text()
    ids = ["joint.not-strongly-coupled-cpu", "joint.not-strongly-coupled-cpu#2"] if norm else []
    assert [claim.id for claim in RunReader(run).claims] == ids
