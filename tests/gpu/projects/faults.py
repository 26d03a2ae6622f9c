"""One window per fault, at its scheduled time: 1.27 s of work in 1.5 s, and 1.5 s of rest. No baseline, so gross energy only."""

from __future__ import annotations

import os

import pytest

from pytest_physics import Recipe

CLEAN, RESET, ERRORS, SILENT, STALE, THERMAL_BIT, THERMAL_COUNTER, POWER_CAP = 3.0, 6.0, 9.0, 12.0, 16.0, 19.0, 22.0, 25.0
FOREIGN, LOST = 28.0, 32.0
LENGTH_S = 1.5
BUDGET_J = 600.0
STARTS = (CLEAN, RESET, ERRORS, SILENT, STALE, THERMAL_BIT, THERMAL_COUNTER, POWER_CAP, LOST)


def spans(name: str, value: float, rest: float, *starts: float) -> str:
    """The profile ``name`` at ``value`` inside windows that begin at ``starts``, and at ``rest`` between them."""
    return "".join(f"at {t + 0.1:.3f} {name} {value}\nat {t + 1.37:.3f} {name} {rest}\n" for t in starts)


def read_errors(t0: float, t1: float) -> str:
    """One poll of 20 ms in five fails, at all phases of the sensor's updates."""
    starts = (t0 + 0.1 * k + 0.037 * k % 0.08 for k in range(round((t1 - t0) / 0.1)))
    return "".join(f"fault nvmlDeviceGetFieldValues 999 between {t:.3f} {t + 0.02:.3f}\n" for t in starts)


SCHEDULE = (
    spans("power_w", 300, 80, *STARTS)
    + spans("utilisation_percent", 100, 0, *STARTS)
    + f"counter_reset {RESET + 0.75}\n"
    + read_errors(ERRORS - 0.5, ERRORS + 2.0)
    + f"fault * 999 between {SILENT + 0.2} {SILENT + 2.2}\n"
    + f"stale {STALE - 0.3} {STALE + LENGTH_S}\n"
    + f"at {THERMAL_BIT + 0.5} event_reasons 32\nat {THERMAL_BIT + 0.8} event_reasons 0\n"
    + f"at {POWER_CAP} event_reasons 4\nat {POWER_CAP + LENGTH_S} event_reasons 0\n"
    + f"at 0 share_75 0\nat {THERMAL_COUNTER + 0.5} share_75 0.3\nat {THERMAL_COUNTER + 0.7} share_75 0\n"
    + f"at 0 share_74 0\nat {POWER_CAP} share_74 1\nat {POWER_CAP + LENGTH_S} share_74 0\n"
    + f"process {os.environ['FOREIGN_PID']} 1024 {FOREIGN - 0.5} {LOST - 1}\n"
    + f"lost {LOST + 0.75}\n"
)


@pytest.fixture
def gross(rig):
    """Gross energy without a baseline, by the better estimator."""
    return lambda window: rig.gpu.energy(window, baselines=()).gross


def test_clean(scheduled, report, gross, judge):
    """A window without fault is valid."""
    window = scheduled("clean", CLEAN, CLEAN + LENGTH_S)
    report(window)
    judge(gross(window) <= BUDGET_J)


def test_counter_reset(scheduled, report, gross, judge):
    """A counter that starts again in the window is not used: the power readings are."""
    window = scheduled("counter reset", RESET, RESET + LENGTH_S)
    report(window)
    judge(gross(window) <= BUDGET_J)


@pytest.mark.claim("The counter alone gives the energy")
def test_counter_reset_insisted(rig, judge):
    window = next(w for w in rig.gpu.windows.values() if w.name == "counter reset")
    judge(rig.gpu.energy(window, baselines=(), estimator="counter").gross <= BUDGET_J)


def test_read_errors(rig, scheduled, report, gross, judge):
    """One failed read in five neither biases the energy nor forbids it."""
    window = scheduled("read errors", ERRORS, ERRORS + LENGTH_S)
    report(window)
    recipe = Recipe(op="window.read_error_fraction", parameters={"window": window.id, "channel": "power_w"})
    rig.session.result("gpu", "failed reads", rig.session.evaluate(recipe))
    judge(gross(window) <= BUDGET_J)


def test_silence(scheduled, report, gross, judge):
    """Two seconds in which every read fails are a gap."""
    window = scheduled("silence", SILENT, SILENT + 2.5)
    report(window)
    judge(gross(window) <= BUDGET_J)


def test_stale(scheduled, report, gross, judge):
    """A power reading that stands still under load is refused, although every read succeeds."""
    window = scheduled("stale", STALE, STALE + LENGTH_S)
    report(window)
    judge(gross(window) <= BUDGET_J)


def test_thermal_bit(scheduled, report, gross, judge):
    """A thermal slowdown seen in the event reasons is refused."""
    window = scheduled("thermal bit", THERMAL_BIT, THERMAL_BIT + LENGTH_S)
    report(window)
    judge(gross(window) <= BUDGET_J)


def test_thermal_counter(scheduled, report, gross, judge):
    """So is one that only the cumulative counter saw."""
    window = scheduled("thermal counter", THERMAL_COUNTER, THERMAL_COUNTER + LENGTH_S)
    report(window)
    judge(gross(window) <= BUDGET_J)


def test_power_cap(scheduled, report, gross, judge):
    """A power cap is shown and allowed."""
    window = scheduled("power cap", POWER_CAP, POWER_CAP + LENGTH_S)
    report(window)
    judge(gross(window) <= BUDGET_J)


@pytest.mark.claim("The idle is idle while somebody else computes")
def test_foreign_process(rig, scheduled, judge):
    window = scheduled("foreign", FOREIGN - 0.5, FOREIGN + 0.8)
    baseline = rig.gpu.baseline()
    judge(rig.gpu.energy(window, baselines=(baseline,)).gross <= BUDGET_J)


def test_lost(scheduled, report, gross, judge):
    """A GPU that is lost in the window leaves no data."""
    window = scheduled("lost", LOST, LOST + LENGTH_S)
    report(window)
    judge(gross(window) <= BUDGET_J)


def test_after_the_loss(rig, gross, judge):
    """Nor is there any afterwards."""
    with rig.gpu.window("after") as window:
        rig.gpu.sleep(0.3)
    judge(gross(window) <= BUDGET_J)


@pytest.mark.claim("A baseline can be measured on a lost GPU")
def test_baseline_after_the_loss(rig, judge):
    baseline = rig.gpu.baseline()
    judge(rig.gpu.energy(rig.gpu.windows["gpu-w1"], baselines=(baseline,)).net <= BUDGET_J)


@pytest.mark.claim("The first window keeps its energy")
def test_the_first_window_is_still_valid(rig, gross, judge):
    judge(gross(rig.gpu.windows["gpu-w1"]) <= BUDGET_J)
