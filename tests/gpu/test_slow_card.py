"""A whole run on a card whose driver answers slowly, as in a sandbox: 23 ms for all channels, with 19.1 ms between two samples."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="module")
def run(runs, card):
    return runs.quick("slow card", "smoke", "driver_version 580.159.04\nlatency_us 1900\n" + card())


def test_the_run_is_measured_and_recomputed(run):
    """Not an error that the period is too short: the claim has its verdict, and verify agrees."""
    assert run.exit_code == 0, run.output
    assert run.verdicts["duration"] == "VALIDATED"
    assert run.findings() == []


def test_power_is_read_at_every_tick(run):
    """The rhythm is kept, and the report's reader finds in the sources which channels are held."""
    gpu = run.reader.run.instruments["gpu"]
    assert 19_100_000 <= gpu.period_ns < 30_000_000
    assert gpu.statistics["dt"]["median_s"] == pytest.approx(gpu.period_ns / 1e9, rel=0.1)
    rows = np.load(run.path / "trace-gpu.npy")
    assert np.isfinite(rows["power_w"]).all()
    held = {channel.name for channel in gpu.channels if "in turn with others" in channel.source}
    assert "temperature_c" in held
    assert not held & {"power_w", "energy_j"}
