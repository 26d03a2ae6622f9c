"""A judged usage as lines for the terminal, and as JSON."""

from __future__ import annotations

import math
import textwrap
from dataclasses import asdict
from typing import Any

from pytest_physics.metrology.decision import Verdict
from pytest_physics.metrology.routing_estimates import Statistic
from pytest_physics.report.format import printable
from pytest_physics.routing.judge import Judgement
from pytest_physics.units import quantity_text

_INDENT = max(len(verdict.value) for verdict in Verdict) + 2
_MIN_WIDTH = 40


def lines(judged: Judgement, *, width: int = 80) -> list[str]:
    """The report in at most ``width`` (at least 40) columns: what was recorded, what it took, how far from the limit; then the verdicts."""
    title = [judged.recorded.usage.title] if judged.recorded.usage.title else []
    rows = [*_facts(judged), *(("note", f"{gate.name}: {gate.reason}") for gate in judged.gates if not gate.passed)]
    rows += [(ruling.verdict.value, f"{ruling.claim}: {ruling.reason}") for ruling in judged.rulings]
    columns = max(width, _MIN_WIDTH)
    named = [line for word, text in rows for line in _wrapped(text, f"{word:<{_INDENT}}", columns)]
    return [*(line for text in title for line in _wrapped(text, "", columns)), *named]


def _wrapped(text: str, first: str, columns: int) -> list[str]:
    clean = printable(text, 2000)
    return textwrap.wrap(clean, columns, initial_indent=first, subsequent_indent=" " * len(first)) or [first.rstrip()]


def _facts(judged: Judgement) -> list[tuple[str, str]]:
    found, recorded = judged.estimates, judged.recorded
    costs = recorded.costs.costs
    strength = f", λ = {recorded.lambda_per_j:g} /J" if recorded.lambda_per_j is not None else ""
    basis = f"{found.n_batches} batches" if found.basis == "batches" else "one total, slots taken as independent"
    tokens = f"{found.n_slots:.0f} slots of {recorded.tokens} tokens, top {recorded.top_k} of {len(costs)} experts{strength}"
    total = f"{found.energy_j.value * found.n_slots:.6g} J in all; uniform routing {sum(costs) / len(costs):.6g} J per slot"
    plain = f"Miller–Madow; {found.plain_entropy_nats:.4f} as it stands"
    return [
        ("usage", f"{tokens}; {basis}"),
        ("energy", f"{_quantity(found.energy_j)} per slot, {total}"),
        ("saving", f"{_percent(found.saving)} of uniform routing; at most {judged.ceiling:.2%} can be saved{_cap(judged)}"),
        ("λ_eff", _lambda(found.effective_lambda_per_j)),
        ("diversity", f"{_quantity(found.entropy_nats)} of {math.log(len(costs)):.4f} ({plain})"),
        ("frontier", _frontier(judged)),
        ("loads", _loads(judged)),
    ]


def _quantity(found: Statistic) -> str:
    low, high = found.interval
    return quantity_text(found.value, (high - low) / 2, found.unit)


def _percent(found: Statistic) -> str:
    low, high = found.interval
    return f"{found.value:+.2%} ({low:+.2%} to {high:+.2%})"


def _cap(judged: Judgement) -> str:
    factor = judged.recorded.usage.capacity_factor
    return f" at capacity factor {factor:g}" if factor is not None else ""


def _lambda(found: Statistic) -> str:
    low, high = found.interval
    meaning = "energy is saved" if low > 0 else "energy is sought, not saved" if high < 0 else "neither saved nor sought beyond chance"
    return f"{found.value:+.4g} /J ({low:+.4g} to {high:+.4g}): {meaning}"


def _frontier(judged: Judgement) -> str:
    found = judged.estimates
    cost = judged.least_diversity_cost_nats
    price = f"; this saving costs at least {cost:.4f} nats" if cost is not None else ""
    chance = f"on the frontier, chance makes {found.gap_floor_nats:.4f}; p = {found.frontier_p:.2g}"
    least = f"{found.energy_excess:+.1%} over the least energy at this diversity, {judged.least_energy_j * found.n_slots:.6g} J"
    return f"{max(found.gap_nats, 0.0):.4f} nats below the greatest diversity at this energy ({chance}); {least}{price}"


def _loads(judged: Judgement) -> str:
    found = judged.estimates
    classes = ", ".join(f"{cost:g} J: {factor:.2f}" for cost, factor in list(judged.load_factors.items())[:8])
    more = ", …" if len(judged.load_factors) > 8 else ""
    return f"of the fair share, by cost: {classes}{more}; the busiest expert needs a capacity factor of {1 + found.batch_violation:.2f}"


def as_json(judged: Judgement) -> dict[str, Any]:
    """Everything as JSON values; what is infinite is null."""
    found = asdict(judged.estimates)
    for name, value in found.items():
        if isinstance(value, dict):
            found[name] = value | {"interval": list(getattr(judged.estimates, name).interval)}
    data = {
        "format": 1,
        "title": judged.recorded.usage.title,
        "tokens": judged.recorded.tokens,
        "top_k": judged.recorded.top_k,
        "lambda_per_j": judged.recorded.lambda_per_j,
        "costs_j": judged.recorded.costs.costs,
        "estimates": found,
        "saving_ceiling": judged.ceiling,
        "least_energy_j": judged.least_energy_j,
        "least_diversity_cost_nats": judged.least_diversity_cost_nats,
        "load_factors": [{"cost_j": cost, "factor": factor} for cost, factor in judged.load_factors.items()],
        "gates": [asdict(gate) for gate in judged.gates],
        "claims": [{"claim": r.claim, "verdict": r.verdict.value, "reason": r.reason} for r in judged.rulings],
        "exit_code": judged.exit_code,
    }
    finite: dict[str, Any] = _finite(data)
    return finite


def _finite(value: Any) -> Any:  # noqa: ANN401 -- any JSON value
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
