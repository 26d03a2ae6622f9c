"""The whole instrument-response experiment through the unmodified nvidia-ml-py, in real time, on a card whose sensor is known."""

from __future__ import annotations

import pytest

SETTINGS = "[sensor]\ntelegraph_s = 12.0\nsquare_s = 1.5\nlevels_s = 1.0\npolling_s = 1.2\n"


@pytest.fixture(scope="module")
def response_run(runs, card, tmp_path_factory):
    """An H100: updates every 100 ms, window 25 ms, no delay, noise 0.4 W, a counter that integrates."""
    cache = tmp_path_factory.mktemp("sensors")
    return runs.quick("response_run", "response", card(), settings=SETTINGS, PYTEST_PHYSICS_CACHE=str(cache))


def estimates(run):
    return {record.quantity: record.estimate for record in run.reader.results}


def test_every_claim_is_validated(response_run):
    """A healthy sensor passes, in real time too."""
    assert response_run.exit_code == 0, response_run.output
    assert set(response_run.verdicts.values()) == {"VALIDATED"}


def test_sensor_of_the_card_is_identified(response_run):
    """Period, window and delay are those of the simulated library, within what real time and a busy machine allow."""
    found = estimates(response_run)
    assert found["update period"].value == pytest.approx(0.1, rel=0.002)
    assert found["averaging window"].value == pytest.approx(0.025, abs=0.003)
    assert found["delay"].value == pytest.approx(0.0, abs=0.004)
    assert found["share of the time not looked at"].value == pytest.approx(0.75, abs=0.03)
    assert found["counter: tick"].value == pytest.approx(0.1, rel=0.002)


def test_driver_timestamps_give_the_update_period(response_run):
    """The library's ring holds every update: its timestamps are used, and the result says so."""
    assert estimates(response_run)["update period"].estimator.startswith("driver's timestamps")
    assert response_run.reader.tables == ["driver-samples-gpu-p1-1"]


def test_reads_have_a_latency(response_run):
    """On a real clock a read takes time, and its quantiles have intervals."""
    median = estimates(response_run)["read latency, median"]
    assert 0 < median.value < 0.05
    assert median.quality == "GOOD"


def test_the_sampler_process_pauses_for_polling(response_run):
    """Three pauses of its own process: nothing is read in them, nothing counts as dropped for them, first reads after them are fresh."""
    statistics = response_run.reader.run.instruments["gpu"].statistics
    assert statistics["paused"] == pytest.approx(3 * 1.2 / 0.0191, abs=6)
    assert estimates(response_run)["first reads after a pause that are old"].value == 0
    polling = estimates(response_run)["polling perturbation"]
    assert abs(polling.value) <= 2 * polling.expanded


def test_run_verifies(response_run):
    """Every number follows from the recorded samples."""
    assert response_run.findings() == []


def test_identified_sensor_is_in_force(response_run):
    """The model in force was identified, with its phase as evidence, and not the prior."""
    last = response_run.reader.sensors[-1]
    assert last.model["origin"] == "identified"
    assert "identified in phase" in last.evidence
