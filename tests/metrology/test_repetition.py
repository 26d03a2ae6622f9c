"""Phases of repeated events, and when to stop repeating."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.metrology.repetition import (
    GOLDEN,
    LookSchedule,
    batches_needed,
    circular_discrepancy,
    commensurability_gate,
    first_versus_rest,
    locked_within,
    periodic_starts,
    scatter_of_mean,
)

phases_lists = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=40)


@given(phases_lists, st.floats(0, 1))
def test_circular_discrepancy_does_not_know_where_the_circle_begins(phases, turn):
    """Rotation leaves it as it is."""
    x = np.array(phases)
    assert circular_discrepancy((x + turn) % 1) == pytest.approx(circular_discrepancy(x), abs=1e-9)


def test_known_discrepancies():
    """Evenly spread points have 1/N on the circle; one point, and none, have 1."""
    assert circular_discrepancy((np.arange(10) + 0.3) / 10) == pytest.approx(0.1)
    assert circular_discrepancy(np.array([0.4])) == pytest.approx(1.0)
    assert circular_discrepancy(np.zeros(0)) == 1.0


@pytest.mark.parametrize("count", [8, 32, 64, 200])
def test_golden_phases_are_spread_better_than_random_ones(count):
    """Discrepancy at most 3/m, against about 1/√m for random phases."""
    golden = circular_discrepancy(np.arange(count) * GOLDEN)
    random = np.median([circular_discrepancy(np.random.default_rng(seed).random(count)) for seed in range(20)])
    assert golden <= 3 / count
    assert golden < random


@pytest.mark.parametrize(("window_s", "expected"), [(0.025, 32), (0.1, 32), (0.01, 80), (0.009, 96), (1.0, 32)])
def test_batches_for_a_window(window_s, expected):
    """Eight per slice of T, at least 32."""
    assert batches_needed(0.1, window_s) == expected


def test_batches_need_a_window():
    """Without an identified window there is no number of batches."""
    with pytest.raises(ValueError, match="identify the sensor"):
        batches_needed(0.1, 0.0)


@pytest.mark.parametrize("period_s", [0.1, 0.05, 0.2, 1 / 30, 0.025])
def test_commensurate_repetition_is_refused(period_s):
    """Event periods of T, T/2, 2T, T/3, T/4 are phase-locked however often they repeat."""
    gate = commensurability_gate(periodic_starts(period_s, 512), 0.1)
    assert gate.refuses
    assert "phase-locked" in gate.reason
    assert "golden" in gate.remedy


def test_golden_batches_pass_at_once():
    """32 batches at golden phases, and an event period that is no simple fraction, meet all phases."""
    assert commensurability_gate(periodic_starts(0.1 * GOLDEN, 32), 0.1).passed
    assert commensurability_gate(periodic_starts(0.0618, 64), 0.1).passed


def test_nearly_commensurate_repetitions_need_enough_of_them():
    """At 1 % off, 20 repetitions cover a fifth of the circle and are refused; 400 go around it four times and pass."""
    assert commensurability_gate(periodic_starts(0.101, 20), 0.1).refuses
    assert commensurability_gate(periodic_starts(0.101, 400), 0.1).passed


def test_an_uncertain_event_period_is_judged_by_its_worst_case():
    """103 ms would do, but known to ±2 ms only, it may be 100 ms."""
    assert locked_within(0.103, 0.0, 0.1, 100) < 0.1
    assert locked_within(0.103, 0.0015, 0.1, 100) > 0.4


@pytest.mark.parametrize(("most", "looks"), [(16, (16,)), (100, (16, 32, 64, 100)), (128, (16, 32, 64, 128)), (10, (10,))])
def test_looks_double(most, looks):
    """The schedule is fixed by the largest number alone."""
    assert LookSchedule.doubling(most, first=16).looks == looks


@pytest.mark.parametrize("looks", [(), (3, 8), (8, 8), (16, 8)])
def test_impossible_schedules_are_errors(looks):
    """Looks increase from at least four."""
    with pytest.raises(ValueError, match="must increase"):
        LookSchedule(looks=looks)


def test_stopping_at_scheduled_looks_keeps_the_promised_coverage():
    """The interval at the first look inside the target holds in at least 95 % of 400 series; plain t at every value would not."""
    schedule = LookSchedule.doubling(512, first=16)
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        values = rng.normal(100, 5, 512)
        for n in schedule.looks:
            u, dof = scatter_of_mean(values[:n])
            half = schedule.coverage_factor(dof) * u
            if half <= 0.02 * 100:
                break
        inside += abs(values[:n].mean() - 100) <= half
    assert inside >= 0.95 * 400


def test_a_different_first_repetition_is_reported():
    """Ten standard deviations off is a warning that names both values, and no refusal."""
    values = np.random.default_rng(0).normal(10, 0.1, 20)
    values[0] = 11.0
    gate = first_versus_rest(values)
    assert not gate.passed
    assert not gate.refuses
    assert "leave the first" in gate.remedy


def test_a_first_repetition_like_the_rest_passes():
    """At most 3 % of 500 clean series are reported at the 1 % level; three values cannot tell."""
    rng = np.random.default_rng(3)
    assert sum(not first_versus_rest(rng.normal(10, 0.1, 12)).passed for _ in range(500)) <= 15
    few = first_versus_rest(np.array([1.0, 100.0, 100.0]))
    assert few.passed
    assert "too few" in few.reason
