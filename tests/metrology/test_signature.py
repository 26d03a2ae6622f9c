"""Thermal signatures: features of a known plant, three replicates or none, classification against chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.signature import Replicate, Span, classify, order_gate, replicate, signature, spectrum_peak_hz, start_gate

AMBIENT_C, IDLE_W, R, TAU_S = 25.0, 20.0, 0.3, 60.0


def plant(seed, *, load_w=120.0, line_hz=0.2, workload="decode", steps=True):
    """One replicate of a first-order plant under a load with one line in its power."""
    rng = np.random.default_rng(seed)
    idle_t, t = np.arange(60.0), np.arange(60.0, 660.0)
    power = load_w + 5 * np.sin(2 * np.pi * line_hz * t) + rng.normal(0, 1, t.size)
    start = AMBIENT_C + R * IDLE_W
    temperature = start + R * (load_w - IDLE_W) * (1 - np.exp(-(t - 60) / TAU_S))
    idle = Span(t_s=idle_t, power_w=IDLE_W + rng.normal(0, 0.3, 60), temperature_c=np.floor(np.full(60, start)))
    load = Span(
        t_s=t, power_w=power, temperature_c=np.floor(temperature + rng.normal(0, 0.2, t.size)),
        utilisation_ratio=np.clip(rng.normal(0.9, 0.03, t.size), 0, 1), throttled=np.arange(t.size) < 60,
    )  # fmt: skip
    energies = rng.normal(30.0, 0.6, 200) if steps else ()
    return replicate(idle, load, workload=workload, device="gpu", ambient_c=AMBIENT_C, step_energy_j=energies)


def test_the_features_of_a_known_plant():
    """Power above idle, rise above ambient, R, τ, J per step with its CV, throttled share, utilisation and the line: as planted."""
    found = plant(1).features
    assert found["power_above_idle_w"] == pytest.approx(100, abs=1)
    assert found["steady_rise_c"] == pytest.approx(R * 120, abs=0.5)
    assert found["resistance_k_per_w"] == pytest.approx(R, rel=0.03)
    assert found["time_constant_s"] == pytest.approx(TAU_S, rel=0.1)
    assert found["energy_per_step_j"] == pytest.approx(30, rel=0.01)
    assert found["energy_per_step_cv"] == pytest.approx(0.02, rel=0.2)
    assert found["throttle_share"] == pytest.approx(0.1)
    assert found["utilisation_ratio"] == pytest.approx(0.9, abs=0.01)
    assert found["spectrum_peak_hz"] == pytest.approx(0.2, abs=0.005)


def test_a_missing_channel_is_a_missing_feature():
    """No temperature, no steps: NaN, and the signature leaves the feature out for all."""
    idle, load = Span(t_s=np.arange(60.0), power_w=np.full(60, 20.0)), Span(t_s=np.arange(60.0), power_w=np.full(60, 90.0))
    bare = replicate(idle, load, workload="w", device="gpu")
    assert math.isnan(bare.features["resistance_k_per_w"])
    assert math.isnan(bare.features["energy_per_step_j"])
    assert math.isnan(bare.features["spectrum_peak_hz"])  # constant power has no line
    cell = signature([plant(k, steps=False) for k in range(3)])
    assert "energy_per_step_j" not in cell.features
    assert "resistance_k_per_w" in cell.features


def test_too_short_a_series_has_no_spectrum():
    """Boundary: 31 rows have none, 40 have one."""
    t = np.arange(40.0)
    power = np.sin(2 * np.pi * 0.2 * t)
    assert math.isnan(spectrum_peak_hz(t[:31], power[:31]))
    assert spectrum_peak_hz(t, power) == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(("n", "refused"), [(1, True), (2, True), (3, False)])
def test_a_signature_needs_three_replicates(n, refused):
    """A single run has no spread: n = 1 per cell was the published comparison."""
    replicates = [plant(k) for k in range(n)]
    if refused:
        with pytest.raises(RefusedError, match=f"{n} replicates \\(needed: at least 3\\)"):
            signature(replicates)
    else:
        found = signature(replicates).features["power_above_idle_w"]
        assert found.low < 100 < found.high
        assert found.n == 3


def test_pooled_devices_are_no_signature():
    """The first 42 rows of two devices were published as one workload's profile."""
    other = Replicate(workload="decode", device="cpu", features=plant(3).features, start_c=31.0)
    with pytest.raises(RefusedError, match="decode on cpu, decode on gpu: pooled they are no signature"):
        signature([plant(1), plant(2), other])


@pytest.mark.parametrize(("spread_c", "passed"), [(1.9, True), (2.1, False), (math.nan, False)])
def test_replicates_start_at_one_temperature(spread_c, passed):
    """Boundary pair at 2 °C; an unknown start is no match."""
    starts = (40.0, 40.5, 40.0 + spread_c)
    replicates = [Replicate(workload="w", device="gpu", features={}, start_c=start) for start in starts]
    assert start_gate(replicates).passed is passed


@pytest.mark.parametrize(("order", "passed"), [("aaabbb", False), ("abbaab", True), ("aaa", True), ("aabbcc", False), ("abcabc", True)])
def test_replicates_are_interleaved(order, passed):
    """All of one after all of the other: workload and drift cannot be told apart."""
    assert order_gate(list(order)).passed is passed


def test_workloads_that_differ_are_told_apart():
    """Two loads 20 W apart, four replicates each: all right, above chance with interval and shuffles."""
    replicates = [plant(k, load_w=120.0, workload="prefill") for k in range(5)] + [plant(9 + k, load_w=100.0) for k in range(5)]
    found = classify(replicates)
    assert found.accuracy == 1.0
    assert found.tells_apart
    assert found.confusion.tolist() == [[5, 0], [0, 5]]


def test_one_workload_under_two_names_is_not_told_apart():
    """The five identical trainings: at most one in twenty of such labels may pass."""
    rng = np.random.default_rng(5)
    passed = 0
    for _ in range(12):
        replicates = [
            Replicate(
                workload=name, device="gpu", features={"power_above_idle_w": rng.normal(), "steady_rise_c": rng.normal()}, start_c=40.0
            )
            for name in "aaaabbbb"
        ]
        passed += classify(replicates).tells_apart
    assert passed <= 3


@pytest.mark.parametrize("names", ["aab", "aaa", "aaabb"])
def test_too_few_replicates_or_workloads_are_refused(names):
    """Classification needs two workloads with three replicates each."""
    replicates = [
        Replicate(workload=name, device="gpu", features={"power_above_idle_w": float(k)}, start_c=40.0) for k, name in enumerate(names)
    ]
    with pytest.raises(RefusedError, match="needed: at least 2 workloads"):
        classify(replicates)
