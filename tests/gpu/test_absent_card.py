"""Machines on which there is nothing to measure: named, a usage error with the next action; with ``auto``, the twin and its banner."""

from __future__ import annotations

import ctypes

import pytest

CASES = {
    "no library": (None, "NVML's library libnvidia-ml.so.1 was not found", "Install the driver"),
    "no driver": ("init_return 9\n{card}", "the NVIDIA kernel driver is not loaded", "modprobe nvidia"),
    "MIG": ("{card}mig 1\n", "MIG mode", "Switch MIG off"),
}


def has_library() -> bool:
    """Whether this machine has NVML of its own."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


@pytest.fixture(scope="session", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="session")
def script(case, card):
    text = CASES[case][0]
    if text is None and has_library():
        pytest.skip("this machine has a real NVML library, which cannot be taken away")
    return None if text is None else text.format(card=card())


def test_naming_the_card_is_a_usage_error(runs, case, script):
    """Exit code 4, the cause and what to do; nothing is simulated in its place."""
    run = runs.quick(f"nvml, {case}", "smoke", script)
    _, cause, action = CASES[case]
    assert run.exit_code == 4
    assert f"ERROR: {'' if 'library' in cause or 'kernel' in cause else 'NVIDIA H100 PCIe'}" in run.output
    assert cause in run.output
    assert action in run.output
    assert "SIMULATED" not in run.output
    assert "Traceback" not in run.output


def test_auto_takes_the_twin_and_says_so(runs, case, script):
    """The run goes on, every number is called simulated, and the banner says why."""
    run = runs.quick(f"auto, {case}", "smoke", script, device="auto")
    _, cause, action = CASES[case]
    assert run.exit_code == 0, run.output
    assert "GPU numbers are SIMULATED" in run.output
    assert cause in run.reader.run.banner[0]
    assert action in run.reader.run.banner[0]
    assert run.claims["duration"].estimate.provenance == "simulated"
    assert run.findings() == []
