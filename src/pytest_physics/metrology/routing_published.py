"""The published thermal-aware router, exactly, as a control; and what its own numbers say.

Gate: ``z = W·x + b`` with W and b uniform in ±1/√d, never trained. Input: x ~ N(0, 1), plus per sequence an offset 0.5·N(0, 1) on the
first quarter of the features and 0.3·N(0, 1) on the second. Penalty from the second batch on: ``z − λ·0.001·E_last·c`` with the energy of
the last batch in joules and c = 10 for experts 0 to 3, 1 for experts 4 to 7, so that the hot experts 6 and 7 pass as cheap and the penalty
grows with the batch. Choice: top 2. Energy: 0.5 J per slot in experts 0 to 5, 2 J in 6 and 7. Temperature: 0 °C, or N(60, 5²) for the hot
ones; it enters nothing. The "update" stores the batch energy; no parameter changes. Savings were counted from 1.5 J per token.

z is Gaussian, so it is drawn from its own law, ``N(b, W·Wᵀ)`` and two offsets per sequence, in N instead of d dimensions; the law of usages
is that of the original code, whose random numbers were not seeded.

Source: repository Nectar, commit a90325c; the routing study, §4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_physics.metrology.routing import FloatArray, entropy, imbalance_as_published, shares_of, top_k, uniform_energy
from pytest_physics.metrology.routing_estimates import Statistic, estimate_usage
from pytest_physics.metrology.routing_gates import (
    adaptation_gate,
    baseline_gate,
    batch_size_gate,
    cost_agreement_gate,
    monotonicity_gate,
    sign_gate,
    temperature_gate,
)
from pytest_physics.metrology.thermal_field import PUBLISHED_COSTS_J
from pytest_physics.metrology.uncertainty import Gate

ROUTER_COSTS = (10.0,) * 4 + (1.0,) * 4
"""What the router subtracts, in units of its penalty: it punishes four cold experts."""
ENERGY_SCALE = 0.001
"""1/J: makes the penalty of a batch energy."""
BASELINE_J_PER_TOKEN = 1.5
"""From which savings were counted; uniform routing takes 1.75 J per token."""
HOT_J = 2.0
"""Cost of a hot slot."""
HOT_C, HOT_SD_C = 60.0, 5.0
"""Temperatures drawn for the hot experts."""

RUN_LAMBDA = 0.1
RUN_USAGE = (268, 281, 261, 209, 400, 311, 402, 428)
"""Slots per expert of the reported run."""
RUN_FIGURES: Mapping[str, float] = MappingProxyType(
    {
        "total_energy_j": 2525.0,
        "savings_percent": -31.510416666666668,
        "thermal_imbalance": 0.352,
        "diversity_nats": 2.03,
        "cold_energy_j": 865.0,
        "hot_energy_j": 1660.0,
        "energy_ratio": 0.52,
    }
)
"""What was printed about it."""
SWEEP_USAGE: Mapping[float, tuple[int, ...]] = MappingProxyType(
    {
        0.0: (12808, 12310, 12388, 13176, 11341, 13437, 12772, 14168),
        0.01: (11810, 11059, 11252, 12289, 14964, 13574, 13815, 13637),
        0.1: (1411, 1953, 1616, 2018, 24541, 22953, 23048, 24860),
        0.5: (146, 131, 134, 105, 25364, 25330, 25987, 25203),
        1.0: (134, 124, 108, 134, 25388, 26009, 24975, 25528),
    }
)
"""λ to slots per expert of the batch job's own sweep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSetting:
    """Size and penalty of a run."""

    lambda_: float = RUN_LAMBDA
    """The published λ: a factor of ``ENERGY_SCALE`` and of the last batch's energy, no price in 1/J."""
    batches: int = 10
    sequences: int = 4
    tokens: int = 32
    """Tokens per sequence."""
    features: int = 256
    k: int = 2
    router_costs: tuple[float, ...] = ROUTER_COSTS
    costs_j: tuple[float, ...] = PUBLISHED_COSTS_J

    @property
    def slots_per_batch(self) -> int:
        """(token, expert) pairs of one batch."""
        return self.sequences * self.tokens * self.k


RUN = PublishedSetting()
"""Setting of the reported run."""
SWEEP = PublishedSetting(batches=100, sequences=8, tokens=64, features=768)
"""Setting of the batch job; its λ is varied."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PublishedRun:
    """A simulated run of the published router."""

    usage: NDArray[np.int64]
    """Slots per batch and expert, shape (B, N)."""
    regret: FloatArray
    """Mean score given up per token, by batch, shape (B,)."""
    temperature_c: FloatArray
    """Drawn temperatures, shape (B, N); they enter nothing."""
    gate_before: FloatArray
    gate_after: FloatArray
    """Parameters before and after all updates, W beside b, shape (N, d + 1)."""

    @property
    def energy_j(self) -> FloatArray:
        """Energy of each batch, shape (B,)."""
        energy: FloatArray = self.usage @ np.asarray(PUBLISHED_COSTS_J)
        return energy

    @property
    def hot_share(self) -> float:
        """Share of the slots in the two hot experts."""
        return float(shares_of(self.usage)[6:].sum())


def simulate_published(setting: PublishedSetting, seed: int) -> PublishedRun:
    """One run of the published router; equal seeds share gate and data whatever λ and batch count are."""
    gates, data, warmth = (np.random.default_rng([seed, part]) for part in range(3))
    n, bound = len(setting.costs_j), setting.features**-0.5
    gate = gates.uniform(-bound, bound, (n, setting.features + 1))
    costs, penalty = np.asarray(setting.costs_j), np.asarray(setting.router_costs)
    usage, regret = np.zeros((setting.batches, n), np.int64), np.zeros(setting.batches)
    last_energy = 0.0
    for batch in range(setting.batches):
        scores = _scores(gate, setting, data)
        base = setting.lambda_ * ENERGY_SCALE * last_energy
        chosen = top_k(scores - base * penalty, setting.k)
        usage[batch] = chosen.sum(axis=0)
        regret[batch] = np.where(top_k(scores, setting.k), scores, 0).sum() - np.where(chosen, scores, 0).sum()
        last_energy = float(usage[batch] @ costs)
    drawn = np.where(costs >= HOT_J, warmth.normal(HOT_C, HOT_SD_C, usage.shape), 0.0)
    return PublishedRun(
        usage=usage, regret=regret / (setting.sequences * setting.tokens), temperature_c=drawn, gate_before=gate, gate_after=gate.copy(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFigures:
    """The published figures, computed anew from a usage."""

    total_energy_j: float
    baseline_j: float
    """Of the published kind: 1.5 J per token."""
    savings_percent: float
    """On that baseline."""
    saving_percent_of_uniform: float
    """On the baseline against which uniform routing saves nothing."""
    thermal_imbalance: float
    cold_energy_j: float
    hot_energy_j: float
    energy_ratio: float
    """Cold over hot totals, as printed; per slot it is the ratio of the costs."""
    diversity_nats: float
    """Pooled; the printed mean over batches can only be lower (entropy is concave)."""


def reproduce(usage: ArrayLike, *, k: int = 2) -> PublishedFigures:
    """The published figures of a usage, shape (N,) or (B, N)."""
    pooled = np.atleast_2d(np.asarray(usage, float)).sum(axis=0)
    costs, slots = np.asarray(PUBLISHED_COSTS_J), float(pooled.sum())
    energy, baseline = float(pooled @ costs), slots / k * BASELINE_J_PER_TOKEN
    cold, hot = (float(pooled[mask] @ costs[mask]) for mask in (costs < HOT_J, costs >= HOT_J))
    return PublishedFigures(
        total_energy_j=energy, baseline_j=baseline, savings_percent=100 * (1 - energy / baseline),
        saving_percent_of_uniform=100 * (1 - energy / (slots * uniform_energy(costs))),
        thermal_imbalance=imbalance_as_published(pooled, costs, HOT_J), cold_energy_j=cold, hot_energy_j=hot,
        energy_ratio=cold / hot if hot else math.inf, diversity_nats=entropy(pooled),
    )  # fmt: skip


def large_lambda_limit_j(router_costs: ArrayLike = ROUTER_COSTS, costs_j: ArrayLike = PUBLISHED_COSTS_J) -> float:
    """Energy per slot to which a growing λ drives the router: the mean cost of the experts that *it* takes for the cheapest."""
    router = np.asarray(router_costs, float)
    return float(np.asarray(costs_j, float)[router == router.min()].mean())


def refutations(
    usage: ArrayLike = RUN_USAGE, sweep: Mapping[float, ArrayLike] = SWEEP_USAGE, *, seed: int = 0
) -> tuple[Gate, ...]:  # fmt: skip
    """Why the published claims do not hold, each a gate that does not pass, with its numbers.

    What the published counts cannot say (does the penalty depend on the batch, do parameters change, does temperature act) comes from the
    router itself, simulated with ``seed``.
    """
    costs = np.asarray(PUBLISHED_COSTS_J)
    found = reproduce(usage)
    return (
        _saving(usage, costs),
        _preference(usage, costs),
        baseline_gate(costs, float(np.sum(usage)), found.baseline_j),
        cost_agreement_gate(ROUTER_COSTS, costs),
        *_of_the_sweep(sweep, costs),
        _limit(),
        _batch_size(seed),
        *_of_the_router(seed),
        _ratio(found, costs),
        _diversity(costs),
    )


# --- inside ----------------------------------------------------------------------------------------------------------


def _scores(gate: FloatArray, setting: PublishedSetting, rng: np.random.Generator) -> FloatArray:
    """Logits of one batch, shape (sequences × tokens, N), from their own law."""
    weight, bias, quarter = gate[:, :-1], gate[:, -1], setting.features // 4
    root = np.linalg.cholesky(weight @ weight.T)
    noise = rng.standard_normal((setting.sequences, setting.tokens, len(weight))) @ root.T
    first, second = weight[:, :quarter].sum(axis=1), weight[:, quarter : 2 * quarter].sum(axis=1)
    offset = rng.standard_normal((setting.sequences, 2)) * (0.5, 0.3)
    scores: FloatArray = bias + noise + (offset @ np.stack([first, second]))[:, None, :]
    return scores.reshape(-1, len(weight))


def _plain(name: str, *, measured: float, limit: float, unit: str, passed: bool, reason: str) -> Gate:
    return Gate(name=name, scope="routing, as published", measured=measured, limit=limit, unit=unit, passed=passed, reason=reason)


def _saving(usage: ArrayLike, costs: FloatArray) -> Gate:
    found = estimate_usage(usage, costs)
    low, high = found.saving.interval
    return _plain(
        "saves energy", measured=found.saving.value, limit=0.0, unit="1", passed=low > 0,
        reason=f"it takes {found.energy_j.value:.4f} J per slot, uniform routing {costs.mean():.4f}: a saving of {found.saving.value:+.2%} "
        f"({low:+.2%} to {high:+.2%}), with λ_eff = {found.effective_lambda_per_j.value:+.3f} /J",
    )  # fmt: skip


def _preference(usage: ArrayLike, costs: FloatArray) -> Gate:
    cold = costs < HOT_J
    share, fair = float(shares_of(usage)[cold].sum()), float(cold.mean())
    return _plain(
        "prefers the cold experts", measured=share, limit=fair, unit="1", passed=share > fair,
        reason=f"cold experts get {share:.1%} of the slots; uniform routing gives them {fair:.1%}",
    )  # fmt: skip


def _of_the_sweep(sweep: Mapping[float, ArrayLike], costs: FloatArray) -> tuple[Gate, Gate]:
    strengths = list(sweep)
    energies = [estimate_usage(sweep[strength], costs).energy_j for strength in strengths]
    return monotonicity_gate(strengths, energies), sign_gate(strengths, list(sweep.values()), costs)


def _limit() -> Gate:
    limit, floor = large_lambda_limit_j(), min(PUBLISHED_COSTS_J)
    return _plain(
        "limit of large λ", measured=limit, limit=floor, unit="J", passed=limit <= floor,
        reason=f"a growing λ leads to {limit:.4g} J per slot, the mean of what the router calls cheap; the cheapest cost {floor:.4g} J",
    )  # fmt: skip


def _batch_size(seed: int) -> Gate:
    sizes = (4, 64)
    energies: list[Statistic] = []
    for sequences in sizes:
        run = simulate_published(replace(RUN, batches=12, sequences=sequences), seed)
        energies.append(estimate_usage(run.usage[1:], PUBLISHED_COSTS_J).energy_j)
    return batch_size_gate(energies[0], energies[1], sizes)


def _of_the_router(seed: int) -> tuple[Gate, Gate]:
    run = simulate_published(RUN, seed)
    hottest, coldest = (run.temperature_c[int(pick(run.temperature_c.sum(axis=1)))] for pick in (np.argmax, np.argmin))
    costs = PUBLISHED_COSTS_J  # whatever the temperatures are: no formula of the experiment contains them
    return adaptation_gate(run.gate_before, run.gate_after), temperature_gate(costs, costs, hottest, coldest)


def _ratio(found: PublishedFigures, costs: FloatArray) -> Gate:
    per_slot = float(costs.min() / costs.max())
    passed = math.isclose(found.energy_ratio, per_slot, rel_tol=0.01)
    return _plain(
        "energy ratio", measured=found.energy_ratio, limit=per_slot, unit="1", passed=passed,
        reason=f"{found.cold_energy_j:g}/{found.hot_energy_j:g} J = {found.energy_ratio:.2f} compares totals of unequal numbers of slots; "
        f"per slot it is {per_slot:.2f}",
    )  # fmt: skip


def _diversity(costs: FloatArray) -> Gate:
    uniform, all_cold = math.log(len(costs)), math.log(int((costs < HOT_J).sum()))
    return _plain(
        "diversity rises with learning", measured=all_cold - uniform, limit=0.0, unit="nat", passed=all_cold > uniform,
        reason=f"from uniform to all cold, diversity falls from {uniform:.4f} to {all_cold:.4f} nats: a saving costs diversity",
    )  # fmt: skip
