"""Gates of a routing experiment: each fires on a planted fault and is silent on clean data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytest_physics.metrology.routing import energy_per_slot, frontier, share_cap
from pytest_physics.metrology.routing_estimates import Statistic, estimate_usage, phase_trend
from pytest_physics.metrology.routing_gates import (
    adaptation_gate,
    baseline_gate,
    batch_size_gate,
    bound_gate,
    capacity_gate,
    cost_agreement_gate,
    energy_gate,
    monotonicity_gate,
    pairing_gate,
    sign_gate,
    slots_gate,
    steadiness_gate,
    temperature_gate,
)
from pytest_physics.metrology.thermal_field import FIELDS

COSTS = (0.5,) * 6 + (2.0,) * 2
RUN = (268, 281, 261, 209, 400, 311, 402, 428)
LAMBDAS = (0.0, 0.05, 0.2, 0.5)


def drawn(beta, slots=20_000, seed=0):
    return np.random.default_rng([seed, round(1000 * abs(beta))]).multinomial(slots, frontier(COSTS, beta).shares)


def energy(beta, seed=0):
    return estimate_usage(drawn(beta, seed=seed), COSTS).energy_j


def steady(seed, drift=0.0):
    rng = np.random.default_rng(seed)
    return phase_trend(rng.normal(0.8, 0.02, (12, 60)) + drift * np.linspace(0, 1, 60))


CASES = {
    "baseline: uniform": (lambda: baseline_gate(COSTS, 2560, 2240.0), True),
    "baseline: rounded as printed": (lambda: baseline_gate(COSTS, 2560, 2241.0), True),
    "baseline: the published 1.5 J per token": (lambda: baseline_gate(COSTS, 2560, 1920.0), False),
    "baseline: mean of the two levels": (lambda: baseline_gate(COSTS, 2560, 3200.0), False),
    "baseline: nothing": (lambda: baseline_gate(COSTS, 2560, 0.0), False),
    "slots: all there": (lambda: slots_gate(RUN, 1280, 2), True),
    "slots: one lost": (lambda: slots_gate([*RUN[:7], 427], 1280, 2), False),
    "slots: tokens taken for slots": (lambda: slots_gate(RUN, 2560, 2), False),
    "energy: usage times costs": (lambda: energy_gate(RUN, COSTS, 2525.0), True),
    "energy: one slot at the wrong price": (lambda: energy_gate(RUN, COSTS, 2526.5), False),
    "bound: as recorded": (lambda: bound_gate(RUN, COSTS), True),
    "bound: on the frontier": (lambda: bound_gate(frontier(COSTS, 0.7).shares, COSTS), True),
    "bound: a diversity too great": (lambda: bound_gate(RUN, COSTS, entropy_nats=2.07), False),
    "bound: an energy too small": (lambda: bound_gate(RUN, COSTS, energy_j=0.7), False),
    "bound: below the cheapest": (lambda: bound_gate(RUN, COSTS, energy_j=0.4), False),
    "capacity: half is the most that top 2 allows": (lambda: capacity_gate([50, 30, 20, 0], top_k=2), True),
    "capacity: an expert twice per token": (lambda: capacity_gate([51, 29, 20, 0], top_k=2), False),
    "capacity: within its factor": (lambda: capacity_gate([31, 31, 31, 7], top_k=2, capacity_factor=1.24), True),
    "capacity: hidden by pooling": (lambda: capacity_gate([[60, 20, 10, 10], [0, 40, 30, 30]], top_k=2), False),
    "capacity: beyond its factor": (lambda: capacity_gate([40, 30, 20, 10], top_k=2, capacity_factor=1.25), False),
    "one cost vector: scaled": (lambda: cost_agreement_gate(10 * np.asarray(COSTS), COSTS), True),
    "one cost vector: the published list": (lambda: cost_agreement_gate([10] * 4 + [1] * 4, COSTS), False),
    "one cost vector: nearly": (lambda: cost_agreement_gate([*COSTS[:7], 1.9], COSTS), False),
    "sign: saves": (lambda: sign_gate(LAMBDAS, [drawn(b) for b in LAMBDAS], COSTS), True),
    "sign: in any order": (lambda: sign_gate(LAMBDAS[::-1], [drawn(b) for b in LAMBDAS[::-1]], COSTS), True),
    "sign: punishes the cheap": (lambda: sign_gate(LAMBDAS, [drawn(-b) for b in LAMBDAS], COSTS), False),
    "sign: does nothing": (lambda: sign_gate(LAMBDAS, [drawn(0.0, seed=i) for i in range(4)], COSTS), False),
    "monotone: falls": (lambda: monotonicity_gate(LAMBDAS, [energy(b) for b in LAMBDAS]), True),
    "monotone: flat within chance": (lambda: monotonicity_gate(LAMBDAS, [energy(0.0, seed=i) for i in range(4)]), True),
    "monotone: rises at the end": (lambda: monotonicity_gate(LAMBDAS, [energy(b) for b in (0.0, 0.2, 0.5, 0.1)]), False),
    "monotone: rises": (lambda: monotonicity_gate(LAMBDAS, [energy(-b) for b in LAMBDAS]), False),
    "batch size: the same": (lambda: batch_size_gate(energy(0.2, seed=1), energy(0.2, seed=2), (4, 64)), True),
    "batch size: a penalty that grows": (lambda: batch_size_gate(energy(0.1), energy(0.4), (4, 64)), False),
    "pairs: twelve": (lambda: pairing_gate(range(12), range(12)), True),
    "pairs: eleven": (lambda: pairing_gate(range(11), range(11)), False),
    "pairs: other gates": (lambda: pairing_gate(range(12), range(1, 13)), False),
    "steady: flat": (lambda: steadiness_gate(steady(1)), True),
    "steady: drifts": (lambda: steadiness_gate(steady(1, drift=0.03)), False),
    "parameters: moved": (lambda: adaptation_gate([1.0, 2.0], [1.0, 2.0001]), True),
    "parameters: as they were": (lambda: adaptation_gate([1.0, 2.0], [1.0, 2.0]), False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_gate_fires_on_a_planted_fault_and_only_there(case):
    """Boundary pairs: what is right passes, what is wrong does not, and the reason has numbers."""
    call, clean = CASES[case]
    gate = call()
    assert gate.passed is clean, gate.reason
    assert any(c.isdigit() for c in gate.reason)
    assert bool(gate.remedy) is not clean


def test_temperature_must_act():
    """The published field's does not; a warming one's does; equal states show nothing."""
    for name, acts in (("published", False), ("published-warming", True)):
        field = FIELDS[name]
        rest = field.at_rest()
        later, _ = field.step(rest, np.full(8, 2000.0))
        gate = temperature_gate(field.slot_energy_j(rest), field.slot_energy_j(later), rest.temperature_c, later.temperature_c)
        assert gate.passed is acts
    assert not temperature_gate([1.0], [1.0], [30.0], [30.0]).passed


def test_a_clean_sweep_rarely_fires():
    """60 sweeps without any effect of λ: monotonicity refuses at most one, batch size at most one."""
    monotone = [monotonicity_gate(LAMBDAS, [energy(0.0, seed=10 * s + i) for i in range(4)]).passed for s in range(60)]
    sizes = [batch_size_gate(energy(0.1, seed=s), energy(0.1, seed=1000 + s), (4, 8)).passed for s in range(60)]
    assert monotone.count(False) <= 1
    assert sizes.count(False) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_every_draw_under_a_capacity_factor_obeys_it(seed):
    """A capacity is a whole number of slots, rounded up: such a batch is not refused."""
    rng = np.random.default_rng(seed)
    capacity = math.ceil(1.1 * 100 / 8)
    counts = np.full(8, 100 // 8)
    counts[rng.permutation(8)[: 100 % 8]] += 1
    counts[0], counts[1] = capacity, counts[0] + counts[1] - capacity
    assert capacity_gate(counts, top_k=2, capacity_factor=1.1).passed


def test_exact_numbers_compare_exactly():
    """Without scatter a difference is a difference."""
    exact = [Statistic(value=v, u=0.0, dof=math.inf, unit="J") for v in (0.8, 0.7, 0.7)]
    assert monotonicity_gate([0, 1, 2], exact).passed
    assert not monotonicity_gate([0, 1, 2], exact[::-1]).passed


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sign_gate([0.1, 0.1], [RUN, RUN], COSTS), "two different λ"),
        (lambda: sign_gate([0.0, 0.1], [RUN, RUN], [1.0] * 8), "nothing to respond to"),
        (lambda: monotonicity_gate([0.1], [energy(0.1)]), "two different λ"),
        (lambda: cost_agreement_gate([1.0, 2.0], COSTS), "one shape"),
        (lambda: cost_agreement_gate([math.nan] * 8, COSTS), "finite"),
    ],
)
def test_too_little_is_refused(call, words):
    """A gate that cannot speak does not pass silently."""
    with pytest.raises(ValueError, match=words):
        call()


def test_reported_numbers_are_checked_against_the_cap_too():
    """A saving beyond the ceiling of its own capacity factor cannot have happened."""
    floor = frontier(COSTS, math.inf, cap=share_cap(8, top_k=2, capacity_factor=1.1))
    counts = np.round(1000 * np.asarray(frontier(COSTS, math.inf).shares))
    assert energy_per_slot(counts, COSTS) < floor.energy_j
    assert not capacity_gate(counts, top_k=2, capacity_factor=1.1).passed
