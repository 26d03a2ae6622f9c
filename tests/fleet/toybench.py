"""What the toy fleets run: one claim on the twin, and what a point is told to do to itself."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pytest_physics.workloads.twin import TwinKernel


@pytest.mark.claim("A second of work costs at most 400 J", id="toy.energy")
def test_energy(rig, judge):
    with rig.gpu.window("work", tokens=10) as window:
        TwinKernel(rig.gpu.device).run_for(1.0)
    judge(window.energy.gross <= 400.0)


def test_what_the_point_is_told():
    told = os.environ.get("TOY", "")
    if told == "kill the job":
        os.kill(os.getppid(), signal.SIGKILL)
    if told.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if told == "wait":
        time.sleep(120)
