"""Estimates from recorded usage: coverage, known answers, degenerate cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytest_physics.metrology.routing import frontier
from pytest_physics.metrology.routing_estimates import (
    effective_lambda,
    estimate_usage,
    mean_statistic,
    paired_difference,
    phase_trend,
)

COSTS = (0.5,) * 6 + (2.0,) * 2
RUN = (268, 281, 261, 209, 400, 311, 402, 428)
HOT = [False] * 6 + [True] * 2

PUBLISHED_LAMBDAS = [
    ((12808, 12310, 12388, 13176, 11341, 13437, 12772, 14168), -0.046, 2.0775),
    ((11810, 11059, 11252, 12289, 14964, 13574, 13815, 13637), -0.063, 2.0742),
    ((1411, 1953, 1616, 2018, 24541, 22953, 23048, 24860), -0.647, 1.6343),
    ((146, 131, 134, 105, 25364, 25330, 25987, 25203), -0.732, 1.4179),
    ((134, 124, 108, 134, 25388, 26009, 24975, 25528), -0.714, 1.4170),
    (RUN, -0.243, 2.0520),
]


@pytest.mark.parametrize(("usage", "strength", "diversity"), PUBLISHED_LAMBDAS)
def test_effective_lambda_of_the_published_usages(usage, strength, diversity):
    """All negative: each of them seeks energy."""
    found = estimate_usage(usage, COSTS)
    assert found.effective_lambda_per_j.value == pytest.approx(strength, abs=1e-3)
    assert found.plain_entropy_nats == pytest.approx(diversity, abs=1e-4)
    assert found.effective_lambda_per_j.interval[1] < 0


def batches(rng, n_batches, *, clustered):
    """Usages of 256 slots per batch around β = 0.3; where clustered, each batch has shares of its own."""
    shares = np.asarray(frontier(COSTS, 0.3).shares)
    if not clustered:
        return rng.multinomial(256, shares, n_batches)
    return np.stack([rng.multinomial(256, rng.dirichlet(shares * 60)) for _ in range(n_batches)])


def inside(statistic, true):
    low, high = statistic.interval
    return low <= true <= high


@pytest.mark.parametrize("clustered", [False, True])
def test_intervals_hold_the_truth(clustered):
    """95 % intervals of energy, λ_eff and diversity over 200 recordings; a share of 0.95 of 200 scatters by 0.015."""
    rng = np.random.default_rng(7)
    truth = frontier(COSTS, 0.3)
    found = [estimate_usage(batches(rng, 30, clustered=clustered), COSTS) for _ in range(200)]
    assert 0.90 <= np.mean([inside(f.energy_j, truth.energy_j) for f in found]) <= 0.99
    assert 0.90 <= np.mean([inside(f.effective_lambda_per_j, 0.3) for f in found]) <= 0.99
    assert np.mean([inside(f.entropy_nats, truth.entropy_nats) for f in found]) >= 0.90


def test_one_total_of_clustered_slots_is_too_sure():
    """Why batches are kept: the multinomial interval of the same slots misses often, and the design effect says by how much."""
    rng = np.random.default_rng(8)
    truth = frontier(COSTS, 0.3).energy_j
    tables = [batches(rng, 30, clustered=True) for _ in range(150)]
    pooled = [estimate_usage(table.sum(axis=0), COSTS) for table in tables]
    assert np.mean([inside(f.energy_j, truth) for f in pooled]) < 0.75
    assert np.median([estimate_usage(table, COSTS).design_effect for table in tables]) > 3


@pytest.mark.parametrize("clustered", [False, True])
def test_a_usage_on_the_frontier_is_not_taken_for_one_off_it(clustered):
    """The G test with its design effect rejects at about its level."""
    rng = np.random.default_rng(9)
    p = [estimate_usage(batches(rng, 30, clustered=clustered), COSTS).frontier_p for _ in range(150)]
    assert np.mean(np.array(p) < 0.05) < 0.11


def test_a_usage_off_the_frontier_is_seen():
    """Skew within a class costs diversity and saves nothing."""
    skewed = [1200, 100, 100, 100, 100, 100, 150, 150]
    found = estimate_usage(skewed, COSTS)
    assert found.frontier_p < 1e-6
    assert found.gap_nats > 20 * found.gap_floor_nats


def test_one_total_says_that_slots_were_taken_as_independent():
    """Multinomial, infinite degrees of freedom; batches have B − 1."""
    assert estimate_usage(RUN, COSTS).basis == "multinomial"
    assert estimate_usage(RUN, COSTS).energy_j.dof == math.inf
    split = estimate_usage([[134, 140, 130, 105, 200, 155, 201, 214], [134, 141, 131, 104, 200, 156, 201, 214]], COSTS)
    assert (split.basis, split.n_batches, split.energy_j.dof) == ("batches", 2, 1)


def test_at_the_floor_lambda_has_one_side_only():
    """All slots in the cheapest: β is infinite, and how large it is at least is not known without scatter."""
    found = effective_lambda(COSTS, 0.5, 0.01)
    assert found.value == math.inf
    assert found.interval[1] == math.inf
    assert 1 < found.interval[0] < math.inf


def test_equal_costs_have_no_lambda():
    """Nothing to respond to."""
    assert effective_lambda([1.0] * 4, 1.0, 0.0).value == 0


def test_the_worst_batch_decides_what_capacity_is_needed():
    """Pooled loads hide it."""
    found = estimate_usage([[10, 0], [0, 10]], [1.0, 2.0])
    assert found.maximum_violation == 0
    assert found.batch_violation == 1


def test_pairing_takes_the_common_part_out():
    """Gates differ by more than the effect; differences on the same gate do not."""
    rng = np.random.default_rng(2)
    gates = rng.normal(0.88, 0.03, 12)
    treated = gates - 0.02 + rng.normal(0, 0.003, 12)
    paired = paired_difference(treated, gates)
    assert paired.dof == 11
    assert paired.interval[1] < 0
    assert paired.u < mean_statistic(treated, unit="J").u / 3


def test_a_trend_is_seen_and_noise_is_not():
    """Late minus early over gates, and over blocks of a single run."""
    rng = np.random.default_rng(4)
    flat = rng.normal(1.0, 0.02, (12, 90))
    falling = flat - np.linspace(0, 0.05, 90)
    assert phase_trend(flat).p > 0.01
    assert phase_trend(falling).p < 1e-4
    assert phase_trend(flat[0] - np.linspace(0, 0.12, 90)).p < 0.005
    assert phase_trend(falling).early > phase_trend(falling).middle > phase_trend(falling).late


def test_a_single_flat_run_rarely_shows_a_trend():
    """At a level of 1 % about one in a hundred."""
    rng = np.random.default_rng(5)
    assert sum(phase_trend(rng.normal(1, 0.02, 60)).p < 0.01 for _ in range(300)) <= 10


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: paired_difference([1.0], [1.0]), "two of each"),
        (lambda: paired_difference([1.0, 2.0], [1.0]), "as many treated"),
        (lambda: mean_statistic([1.0, math.nan], unit="J"), "finite"),
        (lambda: phase_trend([1.0] * 5), "at least 6 batches"),
    ],
)
def test_too_little_is_refused(call, words):
    """With what was given."""
    with pytest.raises(ValueError, match=words):
        call()
