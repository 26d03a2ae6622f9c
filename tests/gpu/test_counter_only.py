"""A driver that answers NOT_SUPPORTED for field 186: no power channel, but an energy counter."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def run(runs, card):
    return runs.quick("counter only", "counter_only", card(more="fault field:186 3\n"))


def test_what_needs_power_is_not_tested(run):
    """By marker, by fixture and by sensor: NOT_TESTED, with NVML's words and why the average is not put in its place."""
    for claim in ("power", "baseline", "sensor"):
        assert run.verdicts[claim] == "NOT_TESTED"
        assert "NVML field 186 answers Not Supported" in run.claims[claim].reason
        assert "'power_average_w', is another quantity" in run.claims[claim].reason


def test_the_counter_still_gives_gross_energy(run, expanded_without_scale):
    """Idle beside the window is then the counter's own, and the energy right."""
    assert run.verdicts["gross"] == "VALIDATED", run.output
    estimate = run.energy("step", "counter")
    assert estimate.value == pytest.approx(run.true_energy_j(run.windows["step"]), abs=1.6 * expanded_without_scale(estimate))
    assert expanded_without_scale(estimate) < 0.02 * estimate.value


def test_net_energy_is_invalid_and_says_that_idle_cannot_be_measured(run):
    """The remedy does not send anybody to a fixture that this card cannot serve."""
    assert run.verdicts["net"] == "INVALID"
    (gate,) = (gate for gate in run.claims["net"].gates if gate.name == "idle baseline")
    assert "NVML field 186 answers Not Supported" in gate.reason
    assert gate.remedy == "use gross energy"


def test_the_run_is_sound(run):
    """Exit code 10 for the one invalid claim; verify finds nothing."""
    assert run.exit_code == 10
    assert run.findings() == []
