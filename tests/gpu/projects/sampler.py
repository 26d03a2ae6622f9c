"""What happens to the numbers when the sampler's process is suspended or killed."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pytest_physics.errors import InvalidMeasurement


def signalled(rig, name: str) -> None:
    os.kill(rig.gpu.sampler.pid, getattr(signal, name))


def test_before(step, report, idle_baseline, judge):
    """Before anything happens a window is valid."""
    with step("before") as window:
        time.sleep(1.3)
    report(window, baselines=(idle_baseline,), kinds=("gross", "net"))
    judge(window.energy.net <= 600)


def test_suspended_for_a_second(rig, step, report, judge):
    """A sampler suspended in mid-window leaves a gap."""
    with step("suspended") as window:
        time.sleep(0.3)
        signalled(rig, "SIGSTOP")
        time.sleep(1.0)
        signalled(rig, "SIGCONT")
        time.sleep(0.3)
    report(window)
    judge(window.energy.gross <= 600)


def test_suspended_and_not_continued(rig, step, judge):
    """A number that the next sample would change is not given."""
    with step("hanging") as window:
        time.sleep(0.3)
        signalled(rig, "SIGSTOP")
        time.sleep(0.3)
    try:
        with pytest.raises(InvalidMeasurement, match=r"has given no sample for 1 s"):
            window.energy  # noqa: B018 -- asking is the test
        judge(window.energy.gross <= 600)
    finally:
        signalled(rig, "SIGCONT")
        time.sleep(0.5)


def test_continued(step, report, judge):
    """Once it goes on, later windows are valid again."""
    with step("continued") as window:
        time.sleep(1.3)
    report(window)
    judge(window.energy.gross <= 600)


def test_killed(rig, step, report, judge):
    """A sampler killed in mid-window ends it as NO_DATA, at once."""
    with step("killed") as window:
        time.sleep(0.5)
        signalled(rig, "SIGKILL")
        time.sleep(0.5)
    started = time.monotonic()
    report(window)
    assert time.monotonic() - started < 2
    judge(window.energy.gross <= 600)


def test_after(step, report, judge):
    """So do all later windows."""
    with step("after") as window:
        time.sleep(0.3)
    report(window)
    judge(window.energy.gross <= 600)


@pytest.mark.claim("The idle is the same at the end")
def test_no_baseline_without_a_sampler(rig, judge):
    again = rig.gpu.baseline()
    judge(rig.gpu.energy(next(iter(rig.gpu.windows.values())), baselines=(again,)).net <= 600)
