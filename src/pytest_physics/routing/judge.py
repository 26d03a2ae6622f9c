"""Judge a recorded usage: its estimates, its distance to the limit, and one verdict for each thing that it is said to show.

"The usage saves energy against uniform routing" is judged always. What a file also reports (an energy, a baseline, a diversity, a control,
a sweep, the router's own costs) is judged too, each as a claim of its own: reports go wrong in each of these places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_physics.metrology.decision import Verdict, decide
from pytest_physics.metrology.quality import Provenance
from pytest_physics.metrology.routing import (
    FloatArray,
    class_load_factors,
    diversity_cost,
    minimum_energy,
    saving_ceiling,
    share_cap,
    uniform_energy,
)
from pytest_physics.metrology.routing_estimates import (
    Statistic,
    UsageEstimates,
    estimate_usage,
    paired_difference,
    phase_trend,
)
from pytest_physics.metrology.routing_gates import (
    baseline_gate,
    bound_gate,
    capacity_gate,
    cost_agreement_gate,
    energy_gate,
    monotonicity_gate,
    sign_gate,
    slots_gate,
    steadiness_gate,
)
from pytest_physics.metrology.uncertainty import Comparison, Estimate, Gate
from pytest_physics.routing.files import Recorded, table


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """One claim with its verdict."""

    claim: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Everything that is said about one recorded usage."""

    recorded: Recorded
    estimates: UsageEstimates
    cap: float
    """Largest share that one expert could have."""
    ceiling: float
    """Largest saving under that cap."""
    least_diversity_cost_nats: float | None
    """What the saving must cost at least; None where nothing is saved."""
    least_energy_j: float
    """E_min(H), per slot."""
    load_factors: dict[float, float]
    """Cost in joules to the class's share over its fair share."""
    gates: tuple[Gate, ...]
    rulings: tuple[Ruling, ...]

    @property
    def exit_code(self) -> int:
        """1 where a claim is refuted, 10 where none is and one is invalid or inconclusive, else 0."""
        verdicts = {ruling.verdict for ruling in self.rulings}
        if Verdict.REFUTED in verdicts:
            return 1
        return 10 if verdicts & {Verdict.INVALID, Verdict.INCONCLUSIVE} else 0


def judge(recorded: Recorded) -> Judgement:
    """All estimates, gates and verdicts of one recorded usage."""
    counts, costs = recorded.usage.counts, np.asarray(recorded.costs.costs)
    found = estimate_usage(counts, costs)
    cap = share_cap(len(costs), top_k=recorded.top_k, capacity_factor=recorded.usage.capacity_factor)
    ceiling = saving_ceiling(costs, cap=cap)
    gates = _gates(recorded, counts, costs)
    saved = found.saving.value
    return Judgement(
        recorded=recorded, estimates=found, cap=cap, ceiling=ceiling,
        least_diversity_cost_nats=diversity_cost(costs, min(saved, ceiling), cap=cap) if saved > 0 else None,
        least_energy_j=minimum_energy(costs, found.plain_entropy_nats),
        load_factors=class_load_factors(counts, costs), gates=gates,
        rulings=(_saves(found.saving, gates, costs), *_reported(recorded, counts, costs), *_control(recorded), *_sweep(recorded, costs)),
    )  # fmt: skip


def _gates(recorded: Recorded, counts: FloatArray, costs: FloatArray) -> tuple[Gate, ...]:
    trend = (steadiness_gate(phase_trend(_per_slot(counts, costs))),) if len(counts) >= 12 else ()
    return (
        slots_gate(counts, recorded.tokens, recorded.top_k),
        capacity_gate(counts, top_k=recorded.top_k, capacity_factor=recorded.usage.capacity_factor),
        bound_gate(counts, costs),
        *trend,
    )


def _saves(saving: Statistic, gates: Sequence[Gate], costs: FloatArray) -> Ruling:
    claim = "The usage saves energy against uniform routing"
    if np.ptp(costs) == 0:
        return Ruling(claim=claim, verdict=Verdict.REFUTED, reason="all experts cost the same: no routing saves anything")
    estimate = Estimate.given(saving.value, "1", u=saving.u, dof=saving.dof, label="sampling", provenance=Provenance.DERIVED)
    # a drift is shown, and leaves what was recorded as it is
    decision = decide(Comparison.of(estimate, ">", 0.0), [gate for gate in gates if gate.name != "trend over phases"])
    return Ruling(claim=claim, verdict=decision.verdict, reason=decision.reason)


def _reported(recorded: Recorded, counts: FloatArray, costs: FloatArray) -> list[Ruling]:
    usage, slots = recorded.usage, float(counts.sum())
    out = []
    if usage.total_energy_j is not None:
        out.append(_arithmetic("The reported energy is the usage times the costs", energy_gate(counts, costs, usage.total_energy_j)))
    if usage.baseline_j is not None:
        out.append(_arithmetic("Against the baseline, uniform routing saves nothing", baseline_gate(costs, slots, usage.baseline_j)))
    if usage.saving_percent is not None:
        out.append(_arithmetic("The reported saving is counted from uniform routing", _saving_gate(usage.saving_percent, counts, costs)))
    if usage.diversity_nats is not None:
        gate = bound_gate(counts, costs, entropy_nats=usage.diversity_nats)
        out.append(_arithmetic("The reported diversity is possible at this energy", gate))
    if recorded.costs.router_costs is not None:
        out.append(_arithmetic("Router and accountant use one cost vector", cost_agreement_gate(recorded.costs.router_costs, costs)))
    return out


def _saving_gate(stated_percent: float, counts: FloatArray, costs: FloatArray) -> Gate:
    found = 100 * (1 - float(counts.sum(axis=0) @ costs) / (float(counts.sum()) * uniform_energy(costs)))
    return Gate(
        name="reported saving", scope="routing", measured=stated_percent, limit=found, unit="%", passed=abs(found - stated_percent) <= 0.1,
        reason=f"reported are {stated_percent:+.2f} %, against uniform routing it is {found:+.2f} %",
    )  # fmt: skip


def _control(recorded: Recorded) -> list[Ruling]:
    """Against the same gate on the same data with λ = 0: batch by batch where both have batches."""
    if recorded.usage.control is None:
        return []
    claim = "The usage takes less energy than its own control with λ = 0"
    costs, counts, control = np.asarray(recorded.costs.costs), recorded.usage.counts, table(recorded.usage.control)
    if counts.shape != control.shape or len(counts) < 2:
        treated, plain = (estimate_usage(part, costs).energy_j for part in (counts, control))
        # drawn from the same tokens they are not independent; without batches their covariance is not known, so it is taken as none
        difference = Statistic(
            value=treated.value - plain.value, u=math.hypot(treated.u, plain.u), dof=min(treated.dof, plain.dof), unit="J"
        )
    else:
        difference = paired_difference(_per_slot(counts, costs), _per_slot(control, costs))
    estimate = Estimate.given(difference.value, "J", u=difference.u, dof=difference.dof, label="pairs", provenance=Provenance.DERIVED)
    decision = decide(Comparison.of(estimate, "<", 0.0))
    return [Ruling(claim=claim, verdict=decision.verdict, reason=f"{estimate} per slot; {decision.reason}")]


def _sweep(recorded: Recorded, costs: FloatArray) -> list[Ruling]:
    points = recorded.usage.sweep
    if points is None or np.ptp(costs) == 0:
        return []
    strengths, counts = [point.lambda_per_j for point in points], [table(point.usage) for point in points]
    energies = [estimate_usage(part, costs).energy_j for part in counts]
    return [
        _arithmetic("Energy does not rise with λ", monotonicity_gate(strengths, energies)),
        _arithmetic("As λ rises, usage falls where costs are high", sign_gate(strengths, counts, costs)),
    ]


def _arithmetic(claim: str, gate: Gate) -> Ruling:
    return Ruling(claim=claim, verdict=Verdict.VALIDATED if gate.passed else Verdict.REFUTED, reason=gate.reason)


def _per_slot(counts: FloatArray, costs: FloatArray) -> FloatArray:
    energies: FloatArray = counts @ costs / counts.sum(axis=1)
    return energies
