"""The published routing experiment: reproduced from its usage, re-simulated, and refuted by name."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pytest_physics.metrology.routing import energy_per_slot
from pytest_physics.metrology.routing_estimates import estimate_usage
from pytest_physics.metrology.routing_published import (
    RUN,
    RUN_FIGURES,
    RUN_USAGE,
    SWEEP,
    SWEEP_USAGE,
    _scores,
    large_lambda_limit_j,
    refutations,
    reproduce,
    simulate_published,
)
from pytest_physics.metrology.thermal_field import PUBLISHED_COSTS_J

DATA = Path(os.environ.get("PYTEST_PHYSICS_PUBLISHED_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


@pytest.fixture(scope="module")
def runs():
    return [simulate_published(RUN, seed) for seed in range(40)]


def test_the_usage_reproduces_every_published_figure():
    """2525 J, −31.51 % on its own baseline, 0.352, 865 J over 1660 J; −12.7 % on the baseline that scores uniform at zero."""
    found = reproduce(RUN_USAGE)
    assert found.total_energy_j == RUN_FIGURES["total_energy_j"]
    assert found.savings_percent == pytest.approx(RUN_FIGURES["savings_percent"], abs=1e-9)
    assert found.thermal_imbalance == pytest.approx(RUN_FIGURES["thermal_imbalance"], abs=5e-4)
    assert (found.cold_energy_j, found.hot_energy_j) == (RUN_FIGURES["cold_energy_j"], RUN_FIGURES["hot_energy_j"])
    assert found.energy_ratio == pytest.approx(RUN_FIGURES["energy_ratio"], abs=5e-3)
    assert found.saving_percent_of_uniform == pytest.approx(-12.72, abs=5e-3)


def test_the_printed_diversity_is_a_mean_over_batches(runs):
    """2.030 is below the pooled 2.052, as entropy's concavity demands, and where re-simulated batch means lie."""
    assert RUN_FIGURES["diversity_nats"] < reproduce(RUN_USAGE).diversity_nats
    means = [estimate_usage(run.usage, PUBLISHED_COSTS_J).batch_entropy_nats for run in runs]
    assert abs(np.mean(means) - RUN_FIGURES["diversity_nats"]) < 2 * np.std(means)


@pytest.mark.parametrize(
    ("strength", "energy", "saving"),
    [(0.0, 0.8946, -19.28), (0.01, 0.9021, -20.28), (0.1, 1.2018, -60.24), (0.5, 1.2499, -66.65), (1.0, 1.2398, -65.31)],
)
def test_the_sweep_reproduces_its_energies(strength, energy, saving):
    """Energy per slot, and the saving on the published baseline."""
    assert energy_per_slot(SWEEP_USAGE[strength], PUBLISHED_COSTS_J) == pytest.approx(energy, abs=1e-4)
    assert reproduce(SWEEP_USAGE[strength]).savings_percent == pytest.approx(saving, abs=0.01)


def test_the_simulated_router_lands_inside_its_seeds_spread(runs):
    """Hot share 0.302 ± 0.024 and savings −27.0 ± 4.8 % over 40 gate initialisations; the published 0.324 is one of them."""
    hot = np.array([run.hot_share for run in runs])
    savings = np.array([reproduce(run.usage).savings_percent for run in runs])
    assert hot.mean() == pytest.approx(0.302, abs=2 * 0.024 / np.sqrt(40))
    assert 0.7 * 0.024 < hot.std(ddof=1) < 1.4 * 0.024
    assert savings.mean() == pytest.approx(-27.0, abs=2 * 4.8 / np.sqrt(40))
    assert hot.min() < 830 / 2560 < hot.max()


def test_a_large_lambda_leads_to_1_25_joules():
    """Uniform over the four experts that the router calls cheap, half of which are hot: 128 000 J of 102 400 slots."""
    assert large_lambda_limit_j() == 1.25
    for strength in (0.5, 1.0):
        assert energy_per_slot(SWEEP_USAGE[strength], PUBLISHED_COSTS_J) == pytest.approx(1.25, abs=0.011)
        run = simulate_published(replace(SWEEP, lambda_=strength, batches=20), 3)
        assert energy_per_slot(run.usage[1:], PUBLISHED_COSTS_J) == pytest.approx(1.25, abs=0.02)


def test_with_the_right_costs_the_same_loop_saves_where_lambda_is_large():
    """The formula was right, its costs were not: at λ = 5 it saves about a third."""
    setting = replace(RUN, lambda_=5.0, batches=40, router_costs=PUBLISHED_COSTS_J)
    saved = [reproduce(simulate_published(setting, seed).usage[1:]).saving_percent_of_uniform for seed in range(8)]
    assert 25 < np.mean(saved) < 42.86


def test_scores_follow_the_law_of_the_original_input():
    """Drawn in eight dimensions or through the inputs: the same mean and covariance within and between tokens of a sequence."""
    setting = replace(RUN, sequences=3000, tokens=2, features=32)
    rng = np.random.default_rng(5)
    gate = rng.uniform(-1, 1, (8, 33)) / np.sqrt(32)
    fast = _scores(gate, setting, rng).reshape(3000, 2, 8)
    x = rng.standard_normal((3000, 2, 32))
    x[..., :8] += 0.5 * rng.standard_normal((3000, 1, 1))
    x[..., 8:16] += 0.3 * rng.standard_normal((3000, 1, 1))
    slow = x @ gate[:, :-1].T + gate[:, -1]
    for a, b in ((fast[:, 0], slow[:, 0]), (fast.sum(axis=1), slow.sum(axis=1))):
        assert a.mean(axis=0) == pytest.approx(b.mean(axis=0), abs=0.08)
        assert np.cov(a.T) == pytest.approx(np.cov(b.T), abs=0.12)


def test_equal_seeds_share_gate_and_data():
    """Whatever λ is, the first batch has no penalty and is the same; λ = 0 gives nothing up."""
    plain, steered = (simulate_published(replace(RUN, lambda_=strength), 7) for strength in (0.0, 0.1))
    assert (plain.usage[0] == steered.usage[0]).all()
    assert (plain.gate_before == steered.gate_before).all()
    assert not plain.regret.any()
    assert steered.regret[1:].min() > 0
    assert steered.usage.sum() == RUN.batches * RUN.slots_per_batch


REASONS = {
    "saves energy": "-12.72%",
    "prefers the cold experts": "67.6%",
    "null test of the baseline": "-16.67%",
    "one cost vector": "-0.58",
    "monotonicity in λ": "0.8946 to 1.2499",
    "sign of the response": "must be < 0",
    "limit of large λ": "1.25 J",
    "batch-size invariance": "batches of 4 and 64",
    "parameters change": "by 0",
    "temperature acts": "by up to 0 J",
    "energy ratio": "0.52",
    "diversity rises with learning": "2.0794 to 1.7918",
}


def test_every_published_claim_is_refuted_by_name():
    """Each reason with its number, computed."""
    found = {gate.name: gate for gate in refutations()}
    assert found.keys() == REASONS.keys()
    for name, words in REASONS.items():
        assert not found[name].passed
        assert words in found[name].reason, found[name].reason


def test_a_sound_usage_is_not_refuted_by_the_same_checks():
    """What the counts can show passes for a usage that saves and a sweep that falls."""
    from pytest_physics.metrology.routing import frontier

    def usage(beta):
        return np.round(20_000 * np.asarray(frontier(PUBLISHED_COSTS_J, beta).shares))

    sound = {gate.name: gate.passed for gate in refutations(usage(0.3), {b: usage(b) for b in (0.0, 0.1, 0.5)})}
    for name in ("saves energy", "prefers the cold experts", "monotonicity in λ", "sign of the response"):
        assert sound[name]


def test_the_constants_are_the_published_ones():
    """Usage vectors and figures are those of the published data file."""
    path = DATA / "routing" / "published_usage.json"
    if not path.is_file():
        pytest.skip(f"no published usage at {path}; set PYTEST_PHYSICS_PUBLISHED_DATA to the folder of the published data")
    data = json.loads(path.read_text(encoding="utf-8"))
    run = data["seed_run"]
    assert (tuple(run["usage"]), run["lambda"]) == (RUN_USAGE, RUN.lambda_)
    assert (run["batches"], run["batch_size"], run["seq_length"], run["d_model"]) == (RUN.batches, RUN.sequences, RUN.tokens, RUN.features)
    assert {point["lambda"]: tuple(point["usage"]) for point in data["slurm_sweep"]} == dict(SWEEP_USAGE)
    for name in RUN_FIGURES.keys() & run["published"].keys():
        assert run["published"][name] == RUN_FIGURES[name]
    assert sum(run["batch_energy_j"]) == reproduce(RUN_USAGE).total_energy_j
