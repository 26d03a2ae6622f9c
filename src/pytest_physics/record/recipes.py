"""Recipes: how each estimate is computed from a run's raw artifacts.

Every estimate carries its recipe. While the run goes on the session evaluates it; ``verify`` evaluates the same recipe on the recorded
artifacts with this same code, and the two must agree. A recipe is a leaf, registered by name in :mod:`pytest_physics.record.leaves`,
or arithmetic on other recipes.

Leaves may depend only on their parameters and on :class:`~pytest_physics.record.data.RunData`, and on samples only in a span of time
that was complete when the estimate was first computed: otherwise a later sample would change a recorded number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

from pytest_physics.errors import RecordError
from pytest_physics.metrology.curves import LINEAR_LAW
from pytest_physics.metrology.uncertainty import ARITHMETIC, Estimate, Gate, Recipe
from pytest_physics.record.data import RunData
from pytest_physics.record.job import EXCLUSIVE, exclusive_gates
from pytest_physics.record.leaves.history import COMPARISONS
from pytest_physics.record.leaves.phase import soak_of
from pytest_physics.record.parity_checks import parity_gates
from pytest_physics.record.registry import LEAVES, TRUTHS
from pytest_physics.record.repetition_energy import batch_mean, cross_checked
from pytest_physics.record.window_energy import energy_reach_ns

SENSED = frozenset({"window.energy", "repetition.phase_average", "arm.energy_per_work"})
"""Leaves that need the readings of the sensor's tail after their windows."""
MEMORY_FILES = {"c": "probes.jsonl", "a": "allocations.jsonl"}
"""Files of the records that memory's leaves name, by the letter of their ids."""
TABLES = ("table", "work_phase", "work_span", "points", "experts", "half", "half_experts", "whole", "whole_experts")
"""Parameters of leaves that name a table."""
MOST_REMEMBERED = 1000
"""Estimates kept in memory, at most."""
COMPOSITES: Mapping[str, Callable[..., Estimate]] = {
    **ARITHMETIC,
    **LINEAR_LAW,
    **COMPARISONS,
    "batches": batch_mean,
    "cross_checked": cross_checked,
}


def evaluate(recipe: Recipe, data: RunData) -> Estimate:
    """Compute ``recipe`` from ``data``; raises ``RecordError`` for an operation this version does not know."""
    if recipe.op in COMPOSITES:
        estimate = COMPOSITES[recipe.op]([evaluate(part, data) for part in recipe.inputs], **recipe.parameters)
        return replace(estimate, recipe=recipe, gates=(*estimate.gates, *parity_gates(recipe, data)))
    if recipe.op not in LEAVES:
        raise RecordError(f"unknown recipe '{recipe.op}'; use the pytest-physics version that wrote this run.")
    return replace(_leaf_value(recipe, data), recipe=recipe)


def _leaf_value(recipe: Recipe, data: RunData) -> Estimate:
    """One leaf; what rests on the sensor's readings is computed once, for gross, net, their means and the judge ask for it again."""
    if recipe.op not in SENSED:
        return LEAVES[recipe.op](recipe.parameters, data)
    known: dict[str, Estimate] = data.memory.setdefault("sensed", {})
    key = json.dumps(recipe.to_json(), sort_keys=True)
    if key not in known:
        if len(known) >= MOST_REMEMBERED:
            known.clear()
        known[key] = LEAVES[recipe.op](recipe.parameters, data)
    return known[key]


def true_value(recipe: Recipe, data: RunData) -> float | None:
    """The twin's true value of ``recipe``; None where some input has no known truth."""
    truth = _truth(recipe, data)
    return None if truth is None else truth.value


def _truth(recipe: Recipe, data: RunData) -> Estimate | None:
    if recipe.op == "relative_uncertainty":
        return None  # how well something is known has no truth of its own
    if recipe.op in TRUTHS:
        return TRUTHS[recipe.op](recipe.parameters, data)
    parts = [part for part in (_truth(part, data) for part in recipe.inputs) if part is not None]
    if recipe.op not in COMPOSITES or len(parts) != len(recipe.inputs):
        return None
    return COMPOSITES[recipe.op](parts, **recipe.parameters)


def evidence(recipe: Recipe) -> tuple[str, ...]:
    """Artifacts behind a recipe, as paths inside the run directory."""
    paths: list[str] = []
    for leaf in recipe.leaves():
        named = [
            str(value)
            for key, value in leaf.parameters.items()
            if key in {"window", "phase", "span", "telegraph", "baseline", "instrument", "search", "allocation"}
        ]
        named += [str(name) for key in ("windows", "baselines") for name in leaf.parameters.get(key, ())]
        paths += [f"table-{leaf.parameters[key]}.npy" for key in TABLES if key in leaf.parameters]
        for name in named:
            kind = name.rpartition("-")[2][:1]
            if "-" in name and kind in MEMORY_FILES:
                paths.append(f"{MEMORY_FILES[kind]}#{name}")
                continue
            paths.append(f"trace-{name.partition('-')[0]}.npy")
            paths += {"w": [f"windows.jsonl#{name}"], "b": [f"baseline.json#{name}"], "p": [f"run.json#{name}"]}.get(kind, [])
    return tuple(dict.fromkeys(paths))


def labels_behind(recipe: Recipe, data: RunData) -> dict[str, str | int | float]:
    """Instrument and labels that all windows behind a recipe have in common; empty without windows."""
    names = [name for part in recipe.leaves() for name in _window_names(part)]
    found = [{**window.labels, "instrument": window.instrument} for window in map(data.window, dict.fromkeys(names))]
    return {key: value for key, value in found[0].items() if all(labels.get(key) == value for labels in found)} if found else {}


def _window_names(part: Recipe) -> list[str]:
    one = part.parameters.get("window")
    return [*([str(one)] if one is not None else []), *map(str, part.parameters.get("windows", ()))]


def latest_needed(recipe: Recipe, data: RunData) -> dict[str, int]:
    """Instant up to which each instrument must have been sampled before ``recipe`` can be computed for good."""
    needed: dict[str, int] = {}
    for part in recipe.leaves():
        names = [*part.parameters.get("windows", ()), *(part.parameters[key] for key in ("window",) if key in part.parameters)]
        spans = [(w.instrument, w.t1_ns) for w in map(data.window, names)]
        phases = [data.phase(part.parameters[key]) for key in ("phase", "span") if key in part.parameters]
        spans += [(phase.instrument, phase.t1_ns or phase.t0_ns) for phase in phases]
        for instrument, t1_ns in spans:
            reach_ns = energy_reach_ns(data.sensor(part.parameters["sensor"])) if part.op in SENSED else 0
            needed[instrument] = max(needed.get(instrument, 0), t1_ns + reach_ns)
    return needed


def gates_of(requirement: Recipe, data: RunData) -> tuple[Gate, ...]:
    """Gates of a requirement: what a fixture stands for, without an estimate."""
    if requirement.op == "soak":
        return soak_of(requirement.parameters, data).gates
    if requirement.op == EXCLUSIVE:
        return exclusive_gates(data)
    raise RecordError(f"unknown requirement '{requirement.op}'; use the pytest-physics version that wrote this run.")
