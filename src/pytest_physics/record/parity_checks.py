"""Whether arms that are compared were measured in the same state of the card: clocks and temperatures, from the recorded samples.

A quotient, a difference or a law of energies of different windows of one device compares arms. Energies that share a window do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.metrology.parity import temperature_parity
from pytest_physics.metrology.throttle import clock_parity
from pytest_physics.metrology.uncertainty import Gate, Recipe
from pytest_physics.record.data import RunData

COMPARING = frozenset({"divide", "subtract", "law.fixed", "law.per_work"})
"""Operations that compare arms."""
ENERGIES = frozenset({"window.energy", "arm.energy_per_work"})
"""Leaves that are energies of windows."""
NOT_OF_THE_ARM = frozenset({"repetition", "phase"})
"""Labels that do not tell arms apart: windows are named after their phase."""
START_S = 0.5
"""The temperature at which a window starts is the mean of the readings of this many seconds before it."""


def parity_gates(recipe: Recipe, data: RunData) -> tuple[Gate, ...]:
    """Gates of one comparison; none where nothing is compared, or the device has neither clocks nor thermometer."""
    if recipe.op not in COMPARING:
        return ()
    groups = [_energy_windows(part) for part in recipe.inputs]
    if any(not group for group in groups) or _overlap(groups):
        return ()
    instruments = {data.window(name).instrument for group in groups for name in group}
    if len(instruments) > 1:
        return ()
    names = _arm_names(groups, data)
    trace, scope = data.trace(next(iter(instruments))), " against ".join(names) if len(names) == 2 else f"{len(names)} arms of a law"
    gates: list[Gate] = []
    if trace.has("sm_clock_hz"):
        gates.append(clock_parity({name: median_clock(group, data) for name, group in zip(names, groups, strict=True)}, scope=scope))
    if trace.has("temperature_c"):
        start_c = {
            name: float(np.mean([start_temperature(w, data) for w in sorted(group)])) for name, group in zip(names, groups, strict=True)
        }
        gates.append(temperature_parity(start_c, data.settings.experiment.max_temperature_apart_c, scope=scope))
    return tuple(gates)


def start_temperature(window_id: str, data: RunData) -> float:
    """Mean temperature just before a window, in °C; NaN without a reading."""
    key = f"start_c|{window_id}"
    if key not in data.memory:
        window = data.window(window_id)
        before = data.trace(window.instrument).between(window.t0_ns - round(START_S * NS_PER_S), window.t0_ns).values("temperature_c")
        known = before[np.isfinite(before)]
        data.memory[key] = float(np.mean(known)) if len(known) else math.nan
    return float(data.memory[key])


def median_clock(windows: frozenset[str], data: RunData) -> float:
    """Median clock inside some windows, in Hz; NaN without a reading."""
    parts = []
    for name in sorted(windows):
        window = data.window(name)
        parts.append(data.trace(window.instrument).between(window.t0_ns, window.t1_ns).values("sm_clock_hz"))
    clocks = np.concatenate(parts)
    known = clocks[np.isfinite(clocks)]
    return float(np.median(known)) if len(known) else math.nan


def _energy_windows(recipe: Recipe) -> frozenset[str]:
    leaves = [part.parameters for part in recipe.leaves() if part.op in ENERGIES]
    return frozenset(str(name) for found in leaves for name in found.get("windows", [found.get("window")]))


def _overlap(groups: Sequence[frozenset[str]]) -> bool:
    return len(frozenset().union(*groups)) < sum(map(len, groups))


def _arm_names(groups: Sequence[frozenset[str]], data: RunData) -> list[str]:
    """Name and labels of the windows of each arm; numbered where two have the same."""
    plain = []
    for group in groups:
        window = data.window(min(group))
        labels = ", ".join(f"{key} {value}" for key, value in window.labels.items() if key not in NOT_OF_THE_ARM)
        plain.append(f"{window.name} {labels}".strip())
    return [name if plain.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(plain)]
