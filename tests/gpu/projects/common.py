"""What every project here needs (its conftest): the card's script, written at the last moment, and the fixtures that play it.

``card.txt`` is the card. A module may add statements in ``SCHEDULE``, whose times count from the start of its run; otherwise its tests
move the card's true power themselves, with ``draw``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakenvml import SCRIPT_VARIABLE, Live

IDLE_W, BUSY_W = 80.0, 300.0
HERE = Path(__file__).parent
LIVE = Live(HERE / "live.bin")
EPOCH_NS = [0]


def write_script(statements: str) -> None:
    """The card as it will be found when NVML is first initialised, with now as its time 0."""
    EPOCH_NS[0] = time.perf_counter_ns()
    card = (HERE / "card.txt").read_text()
    Path(os.environ[SCRIPT_VARIABLE]).write_text(f"epoch_ns {EPOCH_NS[0]}\n{card}{statements}")


write_script(f"live {LIVE.path}\n")  # "auto" looks for a card before any test is collected


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session):
    """A schedule starts with the run, not with the import of this file: nothing is late on a slow machine."""
    schedule = getattr(session.items[0].module, "SCHEDULE", None)
    if schedule is not None:
        write_script(schedule)
    return (yield)


@pytest.fixture
def draw() -> Callable[[float], None]:
    """From now on the card draws so many watts."""
    return LIVE.power_w


def until(t_s: float) -> None:
    """Sleep until ``t_s`` of the schedule."""
    left_s = t_s - (time.perf_counter_ns() - EPOCH_NS[0]) / 1e9
    assert left_s > -0.1, f"LATE: the schedule's time {t_s:g} s was {-left_s:.2f} s ago; this machine is too busy"
    time.sleep(max(0.0, left_s))


@pytest.fixture
def scheduled(rig):
    """A window from ``t0`` to ``t1`` of the schedule."""

    def window(name: str, t0: float, t1: float):
        until(t0)
        with rig.gpu.window(name) as opened:
            until(t1)
        return opened

    return window


@pytest.fixture
def step(rig, draw):
    """A context in which the card works for as long as the body lasts, with 0.1 s of idle at both ends of the window."""

    @contextmanager
    def stepped(name: str, **work: float):
        with rig.gpu.window(name, **work) as window:
            time.sleep(0.1)
            draw(BUSY_W)
            try:
                yield window
            finally:
                draw(IDLE_W)
            time.sleep(0.1)
        rig.gpu.sleep(1.0)

    return stepped


@pytest.fixture
def report(rig):
    """Record gross energy by each estimator, for comparison with the script's truth."""

    def reported(window, *, baselines=(), kinds=("gross",), estimators=("counter", "power")) -> None:
        for estimator in estimators:
            energy = rig.gpu.energy(window, baselines=baselines, estimator=estimator)
            for kind in kinds:
                rig.session.result("gpu", kind, getattr(energy, kind), window=window.id, name=window.name, estimator=estimator)

    return reported
