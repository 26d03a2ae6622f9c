"""Does the sampler keep its grid while the benchmark keeps the interpreter busy?"""

from __future__ import annotations

import ctypes
import time

import pytest

from pytest_physics import Recipe

PHASE_S = 2.5


def rest():
    """Leave the interpreter alone."""
    time.sleep(PHASE_S)


def spin():
    """Pure Python, which hands the interpreter over every 5 ms at best."""
    deadline = time.perf_counter() + PHASE_S
    while time.perf_counter() < deadline:
        pass


def hold_the_interpreter():
    """A C call that keeps the interpreter's lock for 200 ms, again and again."""
    sleep_in_c = ctypes.PyDLL(None).usleep
    deadline = time.perf_counter() + PHASE_S
    while time.perf_counter() < deadline:
        sleep_in_c(200_000)


@pytest.mark.claim("The sampler drops no tick while the interpreter is busy")
@pytest.mark.parametrize("load", [rest, spin, hold_the_interpreter])
def test_no_tick_is_dropped(rig, judge, load):
    with rig.cpu.phase(f"sampler under {load.__name__}") as phase:
        load()
    rig.cpu.wait_until_sampled(rig.cpu.clock.now_ns())
    for quantity, op in {"longest gap": "sampler.longest_gap", "lateness (p95)": "sampler.lateness_p95"}.items():
        estimate = rig.session.evaluate(Recipe(op=op, parameters={"phase": phase.id}))
        rig.session.result("sampler under load", quantity, estimate, load=load.__name__)
    judge(rig.session.evaluate(Recipe(op="sampler.dropped", parameters={"phase": phase.id})) <= 0)
