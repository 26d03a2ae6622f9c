"""Records as rows of the page's tables: formatted, shortened where a table would drown its reader, and never changed.

Rows say when they stand for more than they show ("6 places", "12 smaller terms"); the complete records are linked as raw artifacts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_physics.metrology.quality import Quality
from pytest_physics.record.schema import ClaimRecord, ComponentRecord, EstimateRecord, GateRecord, ResultRecord
from pytest_physics.report import format as fmt
from pytest_physics.report.summary import distinct, holds_truth

MAX_PLACES = 3
"""Gates that warned, or passed, under one name and limit share a row where there are more of them."""
MAX_TERMS = 12
"""Terms of an uncertainty budget shown one by one."""
CANCELLED_SHARE = 1e-18
"""Below this share of the variance a term is the rounding that is left of an error common to numerator and denominator."""
MAX_INPUTS = 6
"""Inputs of one recipe step shown one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRow:
    """One line of a table of gates."""

    result: str
    """``passed``, ``warning`` or ``failed``."""
    name: str
    scope: str
    measured: str
    limit: str
    reason: str
    remedy: str


def gate_rows(gates: Iterable[GateRecord]) -> list[GateRow]:
    """Refusals one by one, first; then warnings and what passed, grouped by name and limit where there are many places."""
    groups: dict[tuple[object, ...], list[GateRecord]] = {}
    for i, gate in enumerate(distinct(gates)):
        key = (gate.name, gate.limit, gate.unit, gate.passed) if gate.passed or gate.warning else (i,)
        groups.setdefault(key, []).append(gate)
    return [row for group in groups.values() for row in ([gate_row(g) for g in group] if len(group) <= MAX_PLACES else [_grouped(group)])]


def gate_row(gate: GateRecord) -> GateRow:
    """One gate."""
    measured, limit = _gate_numbers([gate.measured, gate.limit], gate.unit)
    return GateRow(
        result="passed" if gate.passed else "warning" if gate.warning else "failed",
        name=gate.name, scope=gate.scope, reason=gate.reason, remedy="" if gate.passed else gate.remedy,
        measured=measured, limit=limit,
    )  # fmt: skip


def _grouped(gates: Sequence[GateRecord]) -> GateRow:
    values = [gate.measured for gate in gates if gate.measured is not None]
    low, high, limit = _gate_numbers([min(values, default=None), max(values, default=None), gates[0].limit], gates[0].unit)
    shown = gates[0] if gates[0].passed else max(gates, key=lambda g: abs((g.measured or 0.0) - (g.limit or 0.0)))
    one = gate_row(shown)
    which = "for example" if shown.passed else "the furthest from the limit"
    return replace(
        one,
        scope=f"{fmt.count(len(gates))} places",
        measured=low if low == high else f"{low} … {high}",
        limit=limit,
        reason=f"{which}, {shown.scope}: {shown.reason}",
    )


def _gate_numbers(values: Sequence[float | None], unit: str) -> list[str]:
    """Numbers of one gate under one prefix; tiers by their names."""
    known = [abs(v) for v in values if v is not None]
    scale = fmt.scale_for(max(known, default=None), unit)
    return [_gate_number(value, unit, scale) for value in values]


def _gate_number(value: float | None, unit: str, scale: fmt.Scale) -> str:
    if value is None:
        return fmt.ABSENT
    if unit == "tier" and value in list(Quality):
        return Quality(int(value)).name
    return " ".join(part for part in (fmt.number(value * scale.factor), scale.unit) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRow:
    """One line of an uncertainty budget."""

    label: str
    source: str
    contribution: str
    share: str
    """Share of the variance."""
    dof: str
    evaluation: str
    distribution: str
    common_scale: bool


def budget_rows(estimate: EstimateRecord) -> list[BudgetRow]:
    """Terms of an estimate's budget, largest first; the smallest ones together where there are many."""
    terms = sorted(estimate.budget, key=lambda c: -abs(c.contribution or 0.0))
    variance = sum((c.contribution or 0.0) ** 2 for c in terms)
    scale = fmt.scale_for(max((abs(c.contribution or 0.0) for c in terms), default=0.0), estimate.unit)
    rows = [_budget_row(c, variance, scale) for c in terms[:MAX_TERMS]]
    if rest := terms[MAX_TERMS:]:
        together = sum((c.contribution or 0.0) ** 2 for c in rest) ** 0.5
        left = ComponentRecord(
            label=f"{fmt.plural(len(rest), 'smaller term')}, together", source="", contribution=together, dof=None, evaluation=fmt.ABSENT,
            distribution=fmt.ABSENT, common_scale=False,
        )  # fmt: skip
        rows.append(_budget_row(left, variance, scale))
    return rows


def _budget_row(term: ComponentRecord, variance: float, scale: fmt.Scale) -> BudgetRow:
    share = None if term.contribution is None or not variance else term.contribution**2 / variance
    value = fmt.number(None if term.contribution is None else abs(term.contribution) * scale.factor, digits=3)
    cancels = share is not None and share < CANCELLED_SHARE
    return BudgetRow(
        label=term.label, source=term.source, share="0 %" if cancels else fmt.percent(share),
        contribution="cancels" if cancels else f"{value} {scale.unit}".strip(),
        dof="∞" if term.dof is None else fmt.number(term.dof, digits=3), evaluation=term.evaluation, distribution=term.distribution,
        common_scale=term.common_scale,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateCell:
    """An estimate, its coverage and the truth beside it."""

    shown: fmt.Shown
    coverage: str
    """``k = 2.02, ν = 41``; empty where there is no uncertainty."""
    truth: str
    """The twin's truth in the same unit; empty where it is not known."""
    holds: bool | None
    """Whether the interval holds the truth."""
    quality: str
    provenance: str
    simulated: bool
    estimator: str


def estimate_cell(estimate: EstimateRecord, truth: float | None, scale: fmt.Scale | None = None) -> EstimateCell:
    """Estimate and truth, rounded alike."""
    used = scale or estimate_scale(estimate)
    expanded = estimate.expanded
    shown = fmt.quantity(estimate.value, expanded, estimate.unit, used)
    decimals = fmt.decimals_for(expanded * used.factor) + 1 if expanded else None
    return EstimateCell(
        shown=shown, coverage=_coverage(estimate), holds=holds_truth(estimate, truth), quality=estimate.quality,
        truth="" if truth is None else _like(truth, used, decimals), provenance=estimate.provenance,
        simulated=estimate.provenance == "simulated", estimator=estimate.estimator,
    )  # fmt: skip


def estimate_scale(estimate: EstimateRecord) -> fmt.Scale:
    """Unit in which an estimate, its limit and its truth are shown."""
    return fmt.scale_for(max(abs(estimate.value or 0.0), estimate.expanded or 0.0), estimate.unit)


def claim_scale(claim: ClaimRecord) -> fmt.Scale:
    """Unit in which a claim's estimate, limit, margin and truth are shown: the limit's where that is the larger, by up to a thousand."""
    if claim.estimate is None:
        return fmt.Scale(factor=1.0, unit="")
    own = max(abs(claim.estimate.value or 0.0), claim.estimate.expanded or 0.0)
    limit = abs(claim.limit or 0.0)
    return fmt.scale_for(limit if own < limit <= 1000 * own else own, claim.estimate.unit)


def _like(value: float, scale: fmt.Scale, decimals: int | None) -> str:
    text = fmt.number(value * scale.factor) if decimals is None else fmt.fixed(value * scale.factor, decimals)
    return f"{text} {scale.unit}".strip()


def _coverage(estimate: EstimateRecord) -> str:
    if not estimate.u or estimate.expanded is None:
        return ""
    dof = "∞" if estimate.dof is None else "> 10⁵" if estimate.dof > 1e5 else fmt.number(estimate.dof, digits=3)
    return f"k = {estimate.expanded / estimate.u:.2f}, ν {dof if dof.startswith('>') else f'= {dof}'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One reported estimate."""

    quantity: str
    coordinates: str
    estimate: EstimateCell
    refusals: int
    """Gates of this result that failed, warnings apart."""


def in_order(results: Sequence[ResultRecord]) -> list[ResultRecord]:
    """Equal quantities together in the order in which they were first reported; within each, words before numbers, both ascending."""
    quantities = list(dict.fromkeys(r.quantity for r in results))
    return sorted(results, key=lambda r: (quantities.index(r.quantity), *_position(r)))


def _position(record: ResultRecord) -> tuple[list[str], list[float]]:
    values = record.coordinates.values()
    return [v for v in values if isinstance(v, str)], [float(v) for v in values if not isinstance(v, str)]


def common_coordinates(results: Sequence[ResultRecord]) -> dict[str, str | int | float]:
    """Coordinates with one and the same value in all of several results."""
    if len(results) < 2:
        return {}
    first = results[0].coordinates
    return {name: value for name, value in first.items() if all(r.coordinates.get(name) == value for r in results)}


def result_rows(results: Sequence[ResultRecord]) -> list[ResultRow]:
    """Results in the given order, without the coordinates they share; equal quantities have one prefix, so a column can be read down."""
    scales = _shared_scales(results)
    common = common_coordinates(results)
    return [
        ResultRow(
            quantity=r.quantity,
            coordinates=", ".join(f"{name} {value}" for name, value in r.coordinates.items() if name not in common),
            estimate=estimate_cell(r.estimate, r.truth, scales[r.quantity, r.estimate.unit]),
            refusals=sum(not gate.passed and not gate.warning for gate in r.gates),
        )
        for r in results
    ]


def _shared_scales(results: Sequence[ResultRecord]) -> dict[tuple[str, str], fmt.Scale]:
    values: dict[tuple[str, str], list[float]] = {}
    for r in results:
        values.setdefault((r.quantity, r.estimate.unit), []).append(abs(r.estimate.value or 0.0))
    return {key: fmt.scale_for(sorted(found)[len(found) // 2], key[1]) for key, found in values.items()}


def recipe_text(recipe: Mapping[str, Any] | None) -> str:
    """A recipe as nested calls, one step per line; long lists of inputs are cut, and say so."""
    return "\n".join(_recipe_lines(recipe)) if recipe else ""


def _recipe_lines(recipe: Mapping[str, Any], width: int = 96) -> list[str]:
    op, inputs, parameters = recipe.get("op", "?"), list(recipe.get("inputs", ())), dict(recipe.get("parameters", {}))
    if op == "constant":
        return [f"{_parameter(parameters.get('value'))} {fmt.shown_unit(str(parameters.get('unit', '')))}".strip()]
    parts = [_recipe_lines(part, width - 2) for part in inputs[:MAX_INPUTS]]
    if len(inputs) > MAX_INPUTS:
        parts.append([f"… {len(inputs) - MAX_INPUTS} more inputs"])
    parts += [[f"{name} = {_parameter(value)}"] for name, value in parameters.items()]
    line = f"{op}({', '.join(part[0] for part in parts)})"
    if len(line) <= width and all(len(part) == 1 for part in parts):
        return [line]
    return [f"{op}(", *(f"  {text}" for part in parts for text in _with_comma(part)), ")"]


def _with_comma(lines: list[str]) -> list[str]:
    return [*lines[:-1], f"{lines[-1]},"]


def _parameter(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_parameter, value))}]"
    return fmt.number(value, digits=6) if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitCell:
    """A claim's limit, margin and probability, in the estimate's unit."""

    limit: str
    margin: str
    unit: str
    """Unit of the margin."""
    conformance: str
    guard: str = ""
    """Uncertainty that the margin had to exceed, where all claims were judged together."""


def limit_cell(claim: ClaimRecord) -> LimitCell:
    """Limit and margin of a claim; dashes where it was not judged on an interval."""
    if claim.estimate is None:
        return LimitCell(limit=fmt.ABSENT, margin=fmt.ABSENT, unit="", conformance=fmt.ABSENT)
    scale = claim_scale(claim)
    decimals = fmt.decimals_for(claim.estimate.expanded * scale.factor) if claim.estimate.expanded else None
    return LimitCell(
        limit=fmt.limit(claim.operator, claim.limit, claim.estimate.unit, scale),
        margin=fmt.signed(claim.margin, scale, decimals),
        unit="" if claim.margin is None else scale.unit,
        conformance=_probability(claim),
        guard=_like(guard, scale, decimals) if claim.correction and (guard := claim.correction.guard_band) is not None else "",
    )


def _probability(claim: ClaimRecord) -> str:
    """Probability that the claim holds; certain only for a number without uncertainty."""
    certain = claim.estimate is None or not claim.estimate.expanded
    if claim.conformance is None or certain:
        return fmt.percent(claim.conformance)
    return fmt.percent(min(max(claim.conformance, 1e-9), 1 - 1e-9))


def short_reason(reason: str) -> str:
    """The reason of a verdict without the numbers that stand in the next columns."""
    return re.split(r"[:;] margin ", reason, maxsplit=1)[0]
