"""The training experiments on a card and the processor beside it, which are measured in one time."""

from __future__ import annotations

import pytest

HOST = {"run-queue wait", "CPU pressure", "steal", "memory pressure", "CPU quota"}
"""Gates that a busy machine fails, whatever is tested."""


@pytest.fixture(scope="module")
def pair_run(runs, card):
    """An H100 and this machine's processor, chosen by ``auto``."""
    settings = "[training]\nsteps = 100\ncontrast_s = 2.0\n"
    return runs.quick("pair_run", "pair", card(), device="auto", settings=settings)


def estimates(run, op, **coordinates):
    """Recorded estimates of a recipe by quantity and series, at given coordinates."""
    return {
        (record.quantity, record.coordinates.get("series", "")): record
        for record in run.reader.results
        if record.recipe["op"].startswith(op) and coordinates.items() <= record.coordinates.items()
    }


def test_both_are_measured_and_everything_verifies(pair_run):
    """Two real instruments on one clock, nothing simulated among them, and every number follows from the samples."""
    instruments = pair_run.reader.run.instruments
    assert {name: i.clock for name, i in instruments.items()} == {"gpu": "perf_counter", "cpu": "perf_counter"}, pair_run.output
    assert pair_run.findings() == []
    assert "is simulated" not in pair_run.output


def test_the_contrast_pairs_their_ticks(pair_run):
    """Card and processor are loaded over one and the same time, each works, and only a busy host may refuse the difference."""
    phases = [phase for phase in pair_run.reader.run.phases if phase.name == "contrast"]
    assert [phase.instrument for phase in phases] == ["gpu", "cpu"]
    assert max(phase.t0_ns for phase in phases) < min(phase.t1_ns for phase in phases) - 1_900_000_000
    (share,) = estimates(pair_run, "differential.share", contrast="gpu − cpu").values()
    refused = {gate.name: gate.reason for gate in share.gates if not gate.passed and not gate.warning}
    idle = [reason for name, reason in refused.items() if name not in HOST]  # one thread of two cores is not yet load
    assert all(reason.startswith("cpu was under load in") for reason in idle), refused
    assert idle or share.estimate.value == pytest.approx(0.0, abs=1.0)
    for name in ("gpu", "cpu"):
        assert pair_run.reader.table(f"work-{name}-1")["work"].min() > 0


def test_trainings_are_laid_over_each_instrument(pair_run):
    """The card shows power, the processor the time of a step, and the replicates are the same to the last bit on both."""
    verdicts = {name: verdict for name, verdict in pair_run.verdicts.items() if name.startswith("replicates")}
    assert verdicts == {"replicates_are_identical[gpu]": "VALIDATED", "replicates_are_identical[cpu]": "VALIDATED"}
    words = {name: {series for _, series in estimates(pair_run, "coupling.word", instrument=name)} for name in ("gpu", "cpu")}
    assert "grad_norm ~ power_w" in words["gpu"]
    assert "grad_norm ~ step_time_s" in words["cpu"]


def test_a_thermometer_that_stands_still_refutes_nothing(pair_run):
    """A rise of 0 K is less than a step of the thermometer, and no exact 0: whether arithmetic warms more is not known."""
    assert pair_run.verdicts["arithmetic_warms_more[gpu]"] in {"INCONCLUSIVE", "INVALID"}
    rises = [record.estimate for (quantity, _), record in estimates(pair_run, "signature.feature").items() if "steady" in quantity.lower()]
    assert all(rise.expanded > 0.8 for rise in rises if rise.value is not None)


def test_the_report_shows_both(pair_run):
    """The contrast and both trainings have their figures."""
    page = (pair_run.path / "report.html").read_text()
    for figure in ("fig-differences", "fig-coupling-training-steps-1-gpu", "fig-coupling-training-steps-4-cpu"):
        assert f'id="{figure}"' in page
