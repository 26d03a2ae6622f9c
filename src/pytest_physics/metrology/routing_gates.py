"""Gates of a routing experiment: what must hold before an energy saved by a router means anything.

Every function takes what was recorded and gives one :class:`Gate`. A gate compares beyond chance only: noise enters as standard
uncertainties, and a gate with a limit of k σ is wrong on clean data as seldom as that.

Rules: the routing study, §5.4. Each rule exists because a published experiment broke it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pytest_physics.metrology.routing import (
    FloatArray,
    checked_costs,
    checked_counts,
    energy_per_slot,
    entropy,
    maximum_entropy,
    share_cap,
    shares_of,
    uniform_energy,
)
from pytest_physics.metrology.routing_estimates import PhaseTrend, Statistic
from pytest_physics.metrology.uncertainty import Gate

NULL_TOLERANCE = 1e-3
"""A baseline may be off by the rounding of a printed number, not by more: uniform routing must score 0 within this share."""
CONSERVATION_TOLERANCE = 1e-6
"""Relative mismatch of an energy and of the sum that it must be."""
BOUND_TOLERANCE_NATS = 1e-9
"""Rounding of the bound."""
SIGMAS = 4.0
"""Differences beyond this many standard uncertainties are not chance; a clean sweep of a hundred comparisons fires once in 150."""
MIN_GATES = 12
"""Fewest paired gate initialisations: their scatter is the largest noise of such an experiment."""
TREND_ALPHA = 0.001
"""A drift between phases as unlikely as this is no chance."""


def baseline_gate(costs: ArrayLike, n_slots: float, baseline_j: float) -> Gate:
    """Null test: uniform routing, which adapts to nothing, must score a saving of 0 % against the baseline."""
    uniform = uniform_energy(costs) * n_slots
    score = 1 - uniform / baseline_j if baseline_j > 0 else -math.inf
    return _gate(
        "null test of the baseline", measured=score, limit=NULL_TOLERANCE, unit="1", passed=abs(score) <= NULL_TOLERANCE,
        reason=f"uniform routing takes {uniform:.6g} J and scores {score:+.2%} against the baseline of {baseline_j:.6g} J; must be 0",
        remedy=f"count savings from uniform routing, {uniform:.6g} J, or from a paired control with λ = 0",
    )  # fmt: skip


def slots_gate(counts: ArrayLike, n_tokens: float, top_k: int) -> Gate:
    """Conservation: as many slots as tokens times k, or some were dropped or counted twice."""
    found, due = float(checked_counts(counts).sum()), n_tokens * top_k
    return _gate(
        "conservation of slots", measured=found, limit=due, unit="slot", passed=found == due,
        reason=f"the usage sums to {found:.10g} slots; {n_tokens:.10g} tokens × {top_k} make {due:.10g}",
        remedy="record every slot once, dropped ones apart",
    )  # fmt: skip


def energy_gate(counts: ArrayLike, costs: ArrayLike, reported_j: float) -> Gate:
    """Conservation: the reported energy is the usage times the costs."""
    found = energy_per_slot(counts, costs) * float(checked_counts(counts).sum())
    mismatch = abs(reported_j / found - 1)
    return _gate(
        "conservation of energy", measured=mismatch, limit=CONSERVATION_TOLERANCE, unit="1", passed=mismatch <= CONSERVATION_TOLERANCE,
        reason=f"usage times costs is {found:.8g} J; {reported_j:.8g} J is reported",
        remedy="let router and accountant use one cost vector",
    )  # fmt: skip


def bound_gate(
    counts: ArrayLike, costs: ArrayLike, *, energy_j: float | None = None, entropy_nats: float | None = None,
) -> Gate:  # fmt: skip
    """E ≥ E_min(H), as H ≤ H_max(E): holds for every usage, so reported numbers that break it are not of this usage or these costs.

    Parameters
    ----------
    counts, costs
        The usage and the energies per slot.
    energy_j, entropy_nats
        Reported energy per slot and reported diversity; what is not given is computed from the usage.
    """
    energy = energy_per_slot(counts, costs) if energy_j is None else energy_j
    diversity = entropy(counts) if entropy_nats is None else entropy_nats
    values = checked_costs(costs)
    inside = values.min() * (1 - 1e-12) <= energy <= values.max() * (1 + 1e-12)
    gap = maximum_entropy(values, energy) - diversity if inside else -math.inf
    return _gate(
        "energy–diversity bound", measured=gap, limit=-BOUND_TOLERANCE_NATS, unit="nat", passed=gap >= -BOUND_TOLERANCE_NATS,
        reason=f"{energy:.6g} J per slot at {diversity:.6g} nats lies {gap:.3g} nats inside the frontier; below 0 is impossible",
        remedy="energy, diversity, usage and costs are not of one run, or one of them is computed wrongly",
    )  # fmt: skip


def capacity_gate(counts: ArrayLike, *, top_k: int, capacity_factor: float | None = None) -> Gate:
    """No expert has more slots in a batch than there are tokens, or than its capacity; ``counts`` (B, N) is judged batch by batch."""
    rows = np.atleast_2d(np.asarray(counts, float))
    cap = share_cap(rows.shape[1], top_k=top_k, capacity_factor=capacity_factor)
    worst = max(float(shares_of(row).max()) for row in rows if row.sum())
    slots = float(rows.sum(axis=1).min())
    # a capacity is a whole number of slots, rounded up
    passed = worst <= cap + (1 / slots if capacity_factor is not None and slots else 0) + 1e-12
    named = f"capacity factor {capacity_factor:g}" if capacity_factor is not None else f"{top_k} distinct experts per token"
    return _gate(
        "capacity", measured=worst, limit=cap, unit="1", passed=passed,
        reason=f"the busiest expert has {worst:.2%} of a batch; {named} allows {cap:.2%}",
        remedy="count dropped slots apart, or state the capacity factor that was used",
    )  # fmt: skip


def cost_agreement_gate(router_costs: ArrayLike, costs: ArrayLike) -> Gate:
    """One cost vector: the costs that the router subtracts and those that are paid must rank alike."""
    a, b = np.asarray(router_costs, float), checked_costs(costs)
    correlation = _correlation(a, b, np.ones(len(b)))
    return _gate(
        "one cost vector", measured=correlation, limit=1.0, unit="1", passed=correlation >= 1 - 1e-9,
        reason=f"costs in the router and costs paid correlate with {correlation:+.2f}; they must be proportional (1)",
        remedy="give router and accountant the same costs",
    )  # fmt: skip


def sign_gate(lambdas_per_j: Sequence[float], counts: Sequence[ArrayLike], costs: ArrayLike) -> Gate:
    """Sign test: the usage must fall where costs are high as λ rises, from the smallest λ to the largest.

    The response is the slope of ``ln p(largest λ) − ln p(smallest λ)`` on cost, weighted by usage, in 1/J; minus the change of λ_eff.
    """
    values = checked_costs(costs)
    order = np.argsort(np.asarray(lambdas_per_j, float), kind="stable")
    if len(order) < 2 or lambdas_per_j[order[0]] == lambdas_per_j[order[-1]]:
        raise ValueError("a sign test needs usages at two different λ, better λ = 0 and one that acts.")
    slope, u = _response(checked_counts(counts[order[0]]), checked_counts(counts[order[-1]]), values)
    bottom, top = lambdas_per_j[order[0]], lambdas_per_j[order[-1]]
    return _gate(
        "sign of the response", measured=slope, limit=0.0, unit="1/J", passed=slope + 2 * u < 0,
        reason=f"from λ = {bottom:g} to {top:g} /J, ln(usage) changes by {slope:+.3g} ± {2 * u:.2g} per joule of cost; must be < 0",
        remedy="check that the router penalises the experts that cost more; a positive sign means that it punishes the cheap",
    )  # fmt: skip


def monotonicity_gate(lambdas_per_j: Sequence[float], energies: Sequence[Statistic]) -> Gate:
    """Energy must not rise with λ beyond chance: the worst rise between any two λ, in standard uncertainties."""
    order = np.argsort(np.asarray(lambdas_per_j, float), kind="stable")
    steps = [(order[i], order[j]) for j in range(len(order)) for i in range(j)]
    if not steps:
        raise ValueError("monotonicity in λ needs at least two different λ.")
    scored = [(_z(energies[j].value - energies[i].value, math.hypot(energies[i].u, energies[j].u)), i, j) for i, j in steps]
    worst, i, j = max(scored)
    return _gate(
        "monotonicity in λ", measured=worst, limit=SIGMAS, unit="σ", passed=worst <= SIGMAS,
        reason=f"from λ = {lambdas_per_j[i]:g} to {lambdas_per_j[j]:g} /J energy goes from {energies[i].value:.4f} to "
        f"{energies[j].value:.4f} J per slot ({worst:+.1f} σ, limit {SIGMAS:g})",
        remedy="a router whose energy rises with λ penalises the wrong experts",
    )  # fmt: skip


def batch_size_gate(small: Statistic, large: Statistic, sizes: tuple[int, int]) -> Gate:
    """Energy per slot must not depend on the batch size at one λ: a penalty that grows with the batch is no price."""
    z = abs(_z(large.value - small.value, math.hypot(small.u, large.u)))
    return _gate(
        "batch-size invariance", measured=z, limit=SIGMAS, unit="σ", passed=z <= SIGMAS,
        reason=f"batches of {sizes[0]} and {sizes[1]} sequences take {small.value:.4f} and {large.value:.4f} J per slot "
        f"({z:.1f} σ, limit {SIGMAS:g})",
        remedy="give the penalty per slot, λ in 1/J, and not times the energy of a batch",
    )  # fmt: skip


def pairing_gate(treated_seeds: Sequence[int], control_seeds: Sequence[int], *, min_gates: int = MIN_GATES) -> Gate:
    """Every arm has its control with λ = 0 on the same gate initialisations and data, and there are enough of them."""
    common = set(treated_seeds) & set(control_seeds)
    unpaired = set(treated_seeds) ^ set(control_seeds)
    passed = len(common) >= min_gates and not unpaired
    extra = f", {len(unpaired)} without a partner" if unpaired else ""
    return _gate(
        "paired control", measured=float(len(common)), limit=float(min_gates), unit="gate", passed=passed,
        reason=f"{len(common)} gate initialisations have a control with λ = 0 (needed: {min_gates}){extra}",
        remedy="run every arm and its control on the same seeds",
    )  # fmt: skip


def steadiness_gate(trend: PhaseTrend) -> Gate:
    """A router without state must not drift from the first third to the last."""
    return _gate(
        "trend over phases", measured=trend.p, limit=TREND_ALPHA, unit="1", passed=trend.p >= TREND_ALPHA,
        reason=f"early {trend.early:.4f}, middle {trend.middle:.4f}, late {trend.late:.4f} {trend.change.unit} "
        f"(p = {trend.p:.2g}, limit {TREND_ALPHA:g})",
        remedy="leave the settling out, or state the router as one that learns",
    )  # fmt: skip


def adaptation_gate(parameters_before: ArrayLike, parameters_after: ArrayLike) -> Gate:
    """A router that is said to be trained must have other parameters afterwards."""
    before, after = np.asarray(parameters_before, float), np.asarray(parameters_after, float)
    change = float(np.linalg.norm(after - before) / max(float(np.linalg.norm(before)), 1e-300))
    return _gate(
        "parameters change", measured=change, limit=0.0, unit="1", passed=change > 0,
        reason=f"the gate's parameters changed by {change:.3g} of their norm",
        remedy="an update that changes no parameter is no training",
    )  # fmt: skip


def temperature_gate(energies_a_j: ArrayLike, energies_b_j: ArrayLike, temperatures_a_c: ArrayLike, temperatures_b_c: ArrayLike) -> Gate:
    """Temperature must act before it may be printed: energies per slot at two states of the field must differ where temperatures do."""
    energy = float(np.max(np.abs(np.asarray(energies_a_j, float) - np.asarray(energies_b_j, float))))
    warmth = float(np.max(np.abs(np.asarray(temperatures_a_c, float) - np.asarray(temperatures_b_c, float))))
    return _gate(
        "temperature acts", measured=energy, limit=0.0, unit="J", passed=energy > 0 and warmth > 0,
        reason=f"temperatures {warmth:.3g} K apart change the energy per slot by up to {energy:.3g} J",
        remedy="give energies a temperature coefficient, or do not print temperatures",
    )  # fmt: skip


# --- inside ----------------------------------------------------------------------------------------------------------


def _gate(name: str, *, measured: float, limit: float, unit: str, passed: bool, reason: str, remedy: str) -> Gate:
    return Gate(
        name=name, scope="routing", measured=float(measured), limit=limit, unit=unit, passed=bool(passed), reason=reason,
        remedy="" if passed else remedy,
    )  # fmt: skip


def _z(difference: float, u: float) -> float:
    if u > 0:
        return difference / u
    return 0.0 if abs(difference) <= 1e-12 else math.copysign(math.inf, difference)


def _correlation(a: FloatArray, b: FloatArray, weights: FloatArray) -> float:
    if a.shape != b.shape or not np.isfinite(a).all():
        raise ValueError(f"costs of router and accountant must be finite and of one shape (got {a.shape} and {b.shape}).")
    a, b = a - np.average(a, weights=weights), b - np.average(b, weights=weights)
    norm = math.sqrt(float(np.sum(weights * a * a) * np.sum(weights * b * b)))
    return float(np.sum(weights * a * b)) / norm if norm > 0 else 0.0


def _response(first: FloatArray, last: FloatArray, costs: FloatArray) -> tuple[float, float]:
    """Weighted slope of ln(p_last/p_first) on cost, with its multinomial standard uncertainty; half a slot is added to each count."""
    a, b = first + 0.5, last + 0.5
    weights = a / a.sum() + b / b.sum()
    centred = costs - np.average(costs, weights=weights)
    spread = float(np.sum(weights * centred**2))
    if spread == 0:
        raise ValueError("all experts cost the same: there is nothing to respond to.")
    slope = float(np.sum(weights * centred * (np.log(b / b.sum()) - np.log(a / a.sum())))) / spread
    return slope, math.sqrt(float(np.sum((weights * centred) ** 2 * (1 / a + 1 / b)))) / spread
