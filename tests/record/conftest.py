"""One small finished run on a twin, made once and copied by whoever edits it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from pytest_physics.claims import ClaimStatement, Judge
from pytest_physics.config import load_settings
from pytest_physics.errors import InconclusiveMeasurement, InvalidMeasurement, RefutedClaim
from pytest_physics.experiments.heat_soak import run_heat_soak
from pytest_physics.experiments.joule_curve import run_joule_curve
from pytest_physics.metrology.uncertainty import Gate, Recipe
from pytest_physics.report.build import build_report
from pytest_physics.session import Session
from pytest_physics.workloads.select import language_model_for, steady_load_for

SHORT = {
    "device": "twin:rtx4080-laptop",
    "baseline": {"settle_s": 1.0, "duration_s": 15.0},
    "soak": {"budget_s": 130.0},
    "experiment": {"batches": (1, 2, 4), "repetitions": 3, "window_s": 1.2},
}


def judge(session, name, comparison, *, requires=(), requirements=(), needs=()):
    """Judge one comparison as the test ``name`` would."""
    statement = ClaimStatement(id=name, statement=f"Claim {name}", test=f"test_x.py::{name}", source="test_x.py:1", requires=requires)
    with contextlib.suppress(RefutedClaim, InvalidMeasurement, InconclusiveMeasurement):
        Judge(book=session, claim=statement, requirements=lambda: requirements)(comparison, needs=needs)


def measure(session):
    """Baseline, soak, sweep, and claims that end in each of the verdicts."""
    session.test = "test_x.py::measure"
    gpu = session.rig.gpu
    idle = gpu.baseline()
    soak = run_heat_soak(gpu, session, steady_load_for(gpu.device))
    curve = run_joule_curve(gpu, session, language_model_for(gpu.device))
    with contextlib.suppress(KeyError), gpu.phase("outer"), gpu.phase("inner"), gpu.window("cut short", labels={"why": "test"}):
        steady_load_for(gpu.device).run_for(0.7)
        raise KeyError
    power = session.evaluate(Recipe(op="baseline.power", parameters={"baseline": idle.id}))
    session.result("idle", "idle power", power, note="first")
    session.result("idle", "dropped ticks", session.evaluate(Recipe(op="sampler.dropped", parameters={"phase": soak.phase})))
    window = next(iter(gpu.windows.values()))
    judge(session, "validated", power <= 100.0)
    judge(session, "refuted", power <= 0.1)
    judge(session, "inconclusive", window.energy.gross <= window.energy.gross.value)
    judge(session, "wants-refuted", power <= 100.0, requires=("refuted", "validated"))
    judge(session, "wants-soak", curve.per_token(4) / curve.per_token(1) <= 0.9, requirements=(soak.requirement,))
    own = Gate(name="own", scope="me", measured=1.0, limit=2.0, unit="1", passed=True, reason="1 of 2")
    judge(session, "own-gate", window.duration >= 0.1, needs=(own,))
    again = ClaimStatement(id="absent", statement="Claim absent", test="test_x.py::absent", source="test_x.py:9")
    Judge(book=session, claim=again).not_tested("this rig has no 'cpu'")


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The run; do not write into it."""
    directory = tmp_path_factory.mktemp("finished")
    with contextlib.ExitStack() as stack:
        session = Session.start(load_settings(directory, overrides=SHORT), directory=directory, command=["pytest", "bench"])
        stack.callback(session.finish, publish=build_report)
        measure(session)
    return session.path


@pytest.fixture
def run_copy(finished, tmp_path) -> Path:
    """A copy of the run under its own name, to be edited."""
    return Path(shutil.copytree(finished, tmp_path / finished.name))
