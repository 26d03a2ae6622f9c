"""The limit of energy-aware routing: known answers, identities, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_physics.metrology.routing import (
    class_load_factors,
    diversity_cost,
    energy_excess,
    energy_per_slot,
    energy_range,
    entropy,
    frontier,
    frontier_at_energy,
    frontier_at_entropy,
    frontier_gap,
    gibbs,
    imbalance_as_published,
    load_factors,
    maximum_entropy,
    maximum_violation,
    miller_madow,
    minimum_energy,
    saving_ceiling,
    score_regret,
    share_cap,
    top_k,
    uniform_energy,
)

COSTS = (0.5,) * 6 + (2.0,) * 2
RUN = (268, 281, 261, 209, 400, 311, 402, 428)

TABLE = [
    (0.0, 0.2500, 0.8750, 2.0794, 0.0),
    (0.05, 0.2362, 0.8543, 2.0789, 0.0237),
    (0.1, 0.2229, 0.8344, 2.0774, 0.0464),
    (0.2, 0.1980, 0.7971, 2.0719, 0.0891),
    (0.5, 0.1360, 0.7041, 2.0400, 0.1954),
    (1.0, 0.0692, 0.6038, 1.9673, 0.3099),
    (2.0, 0.0163, 0.5245, 1.8572, 0.4006),
    (math.inf, 0.0, 0.5000, 1.7918, 0.4286),
]

costs_st = st.lists(st.floats(0.05, 20), min_size=2, max_size=9)


def a_usage(seed, n):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(n, rng.choice([0.05, 1.0, 1000.0])))


# --- known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beta", "hot", "energy", "diversity", "saving"), TABLE)
def test_the_frontier_has_the_known_values(beta, hot, energy, diversity, saving):
    """The table of the routing study for six experts of 0.5 J and two of 2 J, to 1e-4."""
    point = frontier(COSTS, beta)
    assert point.shares[6] + point.shares[7] == pytest.approx(hot, abs=1e-4)
    assert (point.energy_j, point.entropy_nats, point.saving) == pytest.approx((energy, diversity, saving), abs=1e-4)


@pytest.mark.parametrize(("saving", "cost"), [(0.05, 0.0023), (0.10, 0.0096), (0.20, 0.0415), (0.30, 0.1037), (0.40, 0.2212)])
def test_a_saving_costs_diversity(saving, cost):
    """First savings are nearly free, the last are not."""
    assert diversity_cost(COSTS, saving) == pytest.approx(cost, abs=1e-4)


@pytest.mark.parametrize(("factor", "ceiling"), [(1.0, 0.0), (1.05, 0.0643), (1.1, 0.1286), (1.25, 0.3214), (4 / 3, 0.4286), (8, 0.4286)])
def test_a_capacity_factor_limits_the_saving(factor, ceiling):
    """Perfect balance and saving exclude one another."""
    assert saving_ceiling(COSTS, cap=share_cap(8, top_k=2, capacity_factor=factor)) == pytest.approx(ceiling, abs=1e-4)


def test_the_published_usage_against_the_frontier():
    """Its skew within classes is small; it takes 35 % more than the least energy at its own diversity."""
    assert frontier_gap(RUN, COSTS) == pytest.approx(0.0136, abs=1e-4)
    assert energy_excess(RUN, COSTS) == pytest.approx(0.350, abs=1e-3)
    assert minimum_energy(COSTS, 2.0296) * 2560 == pytest.approx(1753, abs=1)
    assert minimum_energy(COSTS, entropy(RUN)) * 2560 == pytest.approx(1870, abs=1)
    assert class_load_factors(RUN, COSTS) == pytest.approx({0.5: 0.90, 2.0: 1.30}, abs=5e-3)


def test_two_levels_in_closed_form():
    """h(β) = 1/(1 + 3·exp(1.5·β)) and H = h·ln 2 + (1 − h)·ln 6 + Hb(h)."""
    for beta in (-1.0, -0.2, 0.3, 1.7):
        h = 1 / (1 + 3 * math.exp(1.5 * beta))
        diversity = h * math.log(2) + (1 - h) * math.log(6) - h * math.log(h) - (1 - h) * math.log(1 - h)
        point = frontier(COSTS, beta)
        assert (point.energy_j, point.entropy_nats) == pytest.approx((0.5 + 1.5 * h, diversity), abs=1e-12)


# --- the bound -------------------------------------------------------------------------------------------------------


@given(costs=costs_st, seed=st.integers(0, 10_000))
def test_no_usage_lies_beyond_the_frontier(costs, seed):
    """E ≥ E_min(H) and H ≤ H_max(E) for every usage: an identity."""
    shares = a_usage(seed, len(costs))
    assert frontier_gap(shares, costs) >= -1e-9
    assert energy_per_slot(shares, costs) >= minimum_energy(costs, entropy(shares)) - 1e-7 * max(costs)


@given(costs=costs_st, beta=st.floats(0.01, 8))
def test_energy_and_entropy_lead_back_to_the_same_point(costs, beta):
    """Both inversions agree with β where the frontier still slopes."""
    assume(max(costs) - min(costs) > 0.05)
    point = frontier(costs, beta)
    assert frontier_at_energy(costs, point.energy_j).entropy_nats == pytest.approx(point.entropy_nats, abs=1e-9)
    assert frontier_at_entropy(costs, point.entropy_nats).energy_j == pytest.approx(point.energy_j, abs=1e-6)


@given(costs=costs_st, k=st.integers(1, 3), factor=st.one_of(st.none(), st.floats(1.0, 3.0)), beta=st.floats(0, 50))
def test_a_cap_holds(costs, k, factor, beta):
    """No share exceeds the cap, all sum to 1, and dearer experts never get more."""
    assume(k <= len(costs))
    cap = share_cap(len(costs), top_k=k, capacity_factor=factor)
    shares = gibbs(costs, beta, cap=cap)
    assert shares.max() <= cap + 1e-12
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares[np.argsort(costs)]) <= 1e-12).all()


@given(costs=costs_st, factor=st.floats(1.0, 2.0), seed=st.integers(0, 10_000))
def test_a_capped_usage_lies_on_or_above_the_capped_frontier(costs, factor, seed):
    """The cap makes the bound tighter: any usage under the cap obeys it."""
    cap = share_cap(len(costs), capacity_factor=factor)
    shares = a_usage(seed, len(costs))
    mixed = shares * min(1.0, (cap - 1 / len(costs)) / max(shares.max() - 1 / len(costs), 1e-12))
    mixed += (1 - mixed.sum()) / len(costs)
    assume(mixed.max() <= cap)
    energy = float(mixed @ np.asarray(costs))
    assert maximum_entropy(costs, energy, cap=cap) >= entropy(mixed) - 1e-9
    assert maximum_entropy(costs, energy, cap=cap) <= maximum_entropy(costs, energy) + 1e-9


@given(costs=costs_st)
def test_energy_and_diversity_fall_with_beta(costs):
    """Strictly where costs differ."""
    assume(max(costs) - min(costs) > 0.1)
    points = [frontier(costs, beta) for beta in (-1.0, 0.0, 0.5, 2.0)]
    assert (np.diff([point.energy_j for point in points]) < 0).all()
    assert points[1].entropy_nats == pytest.approx(math.log(len(costs)))
    assert points[1].entropy_nats > points[2].entropy_nats > points[3].entropy_nats


def test_beyond_uniform_beta_is_negative():
    """An energy-seeking usage has a frontier too, on the other side."""
    point = frontier_at_energy(COSTS, 1.2)
    assert point.beta_per_j < 0
    assert point.energy_j == pytest.approx(1.2)


def test_the_ends_of_the_range():
    """At the floor β is infinite and what diversity remains is that of the cheapest; the cap raises the floor."""
    assert frontier_at_energy(COSTS, 0.5).beta_per_j == math.inf
    assert maximum_entropy(COSTS, 0.5) == pytest.approx(math.log(6))
    assert minimum_energy(COSTS, 1.0) == pytest.approx(0.5)
    assert energy_range(COSTS) == pytest.approx((0.5, 2.0))
    assert energy_range(COSTS, cap=share_cap(8, capacity_factor=1.25))[0] == pytest.approx(0.875 * (1 - 0.3214), abs=1e-4)


def test_a_prior_tilts_the_family():
    """The shares are p ∝ p0·exp(−β·E): the optimum of β·E + KL(p‖p0), which a soft gate with z − λE reaches."""
    prior = np.arange(1.0, 9.0)
    expected = prior * np.exp(-0.4 * np.asarray(COSTS))
    assert gibbs(COSTS, 0.4, prior=prior) == pytest.approx(expected / expected.sum())
    assert gibbs(COSTS, math.inf, prior=prior)[:6] == pytest.approx(prior[:6] / prior[:6].sum())


def test_equal_costs_leave_nothing_to_save():
    """Then every usage takes the same."""
    assert saving_ceiling([1.5] * 4) == 0
    assert maximum_entropy([1.5] * 4, 1.5) == pytest.approx(math.log(4))


def test_nearly_equal_costs_do_not_break_the_inversion():
    """Steps of a millionth beside a large one: β becomes huge, not wrong."""
    costs = [1.0, 1.0 + 1e-6, 3.0]
    low = energy_range(costs)[0]
    assert maximum_entropy(costs, low + 1e-9) < math.log(2)
    assert maximum_entropy(costs, low + 1e-5) > 0.69


# --- measures --------------------------------------------------------------------------------------------------------


def test_miller_madow_takes_the_bias_out():
    """The plug-in entropy of 256 slots on 8 experts is low by 7/512 on average; the corrected one by a tenth of that at most."""
    rng = np.random.default_rng(1)
    shares = frontier(COSTS, 0.3).shares
    draws = rng.multinomial(256, shares, 2000)
    true = entropy(shares)
    assert np.mean([entropy(row) for row in draws]) - true == pytest.approx(-7 / 512, abs=1.5e-3)
    assert abs(np.mean([miller_madow(row) for row in draws]) - true) < 1.5e-3


def test_loads_and_violation():
    """1 is fair; the busiest decides the violation."""
    assert load_factors([10, 30, 20, 20]) == pytest.approx([0.5, 1.5, 1, 1])
    assert maximum_violation([10, 30, 20, 20]) == pytest.approx(0.5)
    assert maximum_violation([5, 5]) == 0


def test_the_published_imbalance_points_the_wrong_way():
    """0.5 for uniform, 1 for perfect avoidance: a better number for a worse router."""
    assert imbalance_as_published(RUN, COSTS, 2.0) == pytest.approx(0.3516, abs=1e-4)
    assert imbalance_as_published([1] * 8, COSTS, 2.0) == pytest.approx(0.5)
    assert imbalance_as_published([1] * 6 + [0] * 2, COSTS, 2.0) == pytest.approx(1.0)


def test_regret_is_what_the_gate_wanted_minus_what_it_got():
    """Per token, in units of the scores; zero where nothing was overruled."""
    scores = np.array([[3.0, 2.0, 1.0], [0.0, 5.0, 4.0]])
    assert score_regret(scores, top_k(scores, 2), k=2) == pytest.approx([0, 0])
    assert score_regret(scores, [[True, False, True], [True, True, False]], k=2) == pytest.approx([1.0, 4.0])


@given(seed=st.integers(0, 1000), strength=st.floats(0, 5))
def test_regret_is_never_negative_for_k_experts_per_token(seed, strength):
    """No choice of k beats the k best."""
    scores = np.random.default_rng(seed).normal(size=(20, 8))
    assert (score_regret(scores, top_k(scores - strength * np.asarray(COSTS), 2), k=2) >= -1e-12).all()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: uniform_energy([0.5, -1]), "expert 1 must be a finite energy > 0"),
        (lambda: uniform_energy([0.5, math.nan]), "expert 1"),
        (lambda: uniform_energy([0.5]), "at least two"),
        (lambda: entropy([0, 0]), "no slot"),
        (lambda: entropy([1, -1]), r"≥ 0 \(got -1"),
        (lambda: energy_per_slot([1, 2, 3], [1, 2]), "3 experts and 'costs' of 2"),
        (lambda: share_cap(8, top_k=9), "between 1 and the number of experts, 8"),
        (lambda: share_cap(8, capacity_factor=0.99), "capacity_factor' must be ≥ 1"),
        (lambda: gibbs(COSTS, 1.0, cap=0.1), "at least 1/N"),
        (lambda: gibbs(COSTS, math.nan), "must be a number"),
        (lambda: gibbs(COSTS, 1.0, prior=[1, 2]), "8 shares"),
        (lambda: frontier_at_energy(COSTS, 2.1), "allow 0.5 to 2 J"),
        (lambda: frontier_at_entropy(COSTS, 2.2), "between 0 and ln N"),
        (lambda: diversity_cost(COSTS, 0.5), "ceiling"),
        (lambda: top_k([[1.0, math.nan]], 1), "NaN"),
        (lambda: top_k([[1.0, 2.0]], 3), "number of experts, 2"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    """With the value and the limit."""
    with pytest.raises(ValueError, match=words):
        call()


def test_a_capacity_factor_of_one_is_allowed():
    """The boundary: every share is 1/N then."""
    assert gibbs(COSTS, 5.0, cap=share_cap(8, capacity_factor=1.0)) == pytest.approx([1 / 8] * 8)
