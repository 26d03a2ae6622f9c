"""Recipes of thermal signatures: features over replicates, and whether signatures tell workloads apart.

A replicate is a pair of windows, ``signature idle`` and ``signature load``, with the labels ``workload`` and ``replicate``; the durations
of the steps under load stand in the load's window. All windows of one device, in their order, are the parameter ``windows``.
On a twin the truth is the same computation on its true power and temperature. Reference: RLE study §5, §7.3;
:mod:`~pytest_physics.metrology.signature`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.devices.twin.truth import power_at
from pytest_physics.metrology.autocorrelation import FloatArray
from pytest_physics.metrology.instability import reported
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.signature import (
    MIN_REPLICATES,
    UNITS,
    Replicate,
    Span,
    classify,
    order_gate,
    replicate,
    signature,
    start_gate,
)
from pytest_physics.metrology.uncertainty import Component, Estimate, Gate, coverage_factor
from pytest_physics.record.data import RunData
from pytest_physics.record.joined import power_of
from pytest_physics.record.leaves.window import host_gates_of
from pytest_physics.record.registry import Parameters, exactly, leaf, provenance_of
from pytest_physics.record.schema import WindowRecord
from pytest_physics.record.sensor_checks import no_value, not_tested, part

GRID_S = 0.5
"""Rows of a span; the spectrum reaches to half its inverse."""
SHAPED_BY_SENSOR = frozenset(
    {"steady_rise_c", "resistance_k_per_w", "time_constant_s", "energy_per_step_cv", "utilisation_spread", "spectrum_peak_hz"}
)  # fmt: skip
"""Features without a true value of their own: one exponential fitted to several, and spreads that hold the sensor's noise."""
UTILISATIONS = frozenset({"utilisation_ratio", "memory_utilisation_ratio"})
UTILISATION_STEP = 0.01
"""Drivers state utilisation in whole percent."""
SHORTEST_STEP_S = 1.0
"""Steps are joined to blocks of at least this length before their energy is taken: a sensor cannot tell shorter ones apart."""


def replicates_of(parameters: Parameters, data: RunData, *, true: bool = False) -> list[Replicate]:
    """All replicates of a device in the order in which they ran, once per run."""
    key = f"replicates|{true}|{'|'.join(parameters['windows'])}"
    if key not in data.memory:
        windows = [data.window(name) for name in parameters["windows"]]
        pairs = zip(windows[::2], windows[1::2], strict=True)
        data.memory[key] = [_replicate(data, idle, load, true=true) for idle, load in pairs]
    found: list[Replicate] = data.memory[key]
    return found


def _replicate(data: RunData, idle: WindowRecord, load: WindowRecord, *, true: bool) -> Replicate:
    instrument = data.instrument(idle.instrument)
    step_c = next((c.resolution for c in instrument.channels if c.name == "temperature_c"), 0.0) or 1.0
    spans = [(_true_span if true else _span)(data, window) for window in (idle, load)]
    idle_w = float(np.nanmean(spans[0].power_w)) if spans[0].power_w is not None else math.nan
    return replicate(
        spans[0], spans[1], workload=str(load.labels["workload"]), device=idle.instrument,
        step_energy_j=_step_energies(load, spans[1], idle_w), resolution_c=1e-3 if true else step_c,
    )  # fmt: skip


def _grid(window: WindowRecord) -> FloatArray:
    length_s = (window.t1_ns - window.t0_ns) / NS_PER_S
    return np.linspace(0.0, length_s, max(8, round(length_s / GRID_S)) + 1)[1:]


def _span(data: RunData, window: WindowRecord) -> Span:
    """Channels on a grid of half seconds: means of power and utilisation, the last reading of everything else."""
    trace = data.trace(window.instrument).between(window.t0_ns, window.t1_ns, margin=1)
    at_s = np.asarray((trace.t_ns - window.t0_ns) / NS_PER_S, dtype=np.float64)
    grid = _grid(window)
    last = np.clip(np.searchsorted(at_s, grid, side="right") - 1, 0, max(0, at_s.size - 1))

    def readings(*names: str) -> FloatArray | None:
        return next((np.asarray(trace.values(name))[last] for name in names if at_s.size and trace.has(name)), None)

    power, reasons = power_of(trace), readings("event_reasons")
    return Span(
        t_s=grid, power_w=None if power is None else _means(power[0] - window.t0_ns / NS_PER_S, power[1], grid),
        temperature_c=readings("temperature_c"), utilisation_ratio=readings("utilisation_ratio", "utilisation_cpu_ratio"),
        memory_utilisation_ratio=readings("memory_utilisation_ratio"), throttled=None if reasons is None else reported(reasons),
    )  # fmt: skip


def _means(at_s: FloatArray, values: FloatArray, grid: FloatArray) -> FloatArray:
    known = np.isfinite(values)
    at, values = at_s[known], values[known]
    if at.size < 2:
        return np.full(grid.size, np.nan)
    total = np.concatenate([[0.0], np.cumsum(np.diff(at) * (values[1:] + values[:-1]) / 2)])
    edges = np.concatenate([[0.0], grid])
    return np.asarray(np.diff(np.interp(edges, at, total)) / np.diff(edges), dtype=np.float64)


def _true_span(data: RunData, window: WindowRecord) -> Span:
    table = data.truth_table(window.instrument)
    assert table is not None  # noqa: S101 -- asked for on twins only
    grid = _grid(window)
    at_ns = window.t0_ns + np.round(grid * NS_PER_S).astype(np.int64) - 1  # the load has gone at the window's end
    segment = np.maximum(np.searchsorted(table["t_ns"], at_ns, side="right") - 1, 0)
    fine_s = np.linspace(0.0, float(grid[-1]), 20 * grid.size + 1)
    power_w = power_at(table, window.t0_ns + np.round(fine_s * NS_PER_S).astype(np.int64))
    return Span(
        t_s=grid, power_w=_means(fine_s, power_w, grid), temperature_c=np.interp(at_ns, table["t_ns"], table["node_0_c"]),
        utilisation_ratio=table["utilisation_ratio"][segment], memory_utilisation_ratio=table["memory_utilisation_ratio"][segment],
        throttled=reported(table["event_reasons"][segment].astype(np.float64)),
    )  # fmt: skip


def _step_energies(load: WindowRecord, span: Span, idle_w: float) -> list[float]:
    """Net energy per step, from blocks of steps that a sensor can tell apart."""
    if span.power_w is None or len(load.calls_ns) < 3 or not np.isfinite(span.power_w).all():
        return []
    calls_s = np.asarray(load.calls_ns, dtype=np.float64) / NS_PER_S
    per_block = max(1, math.ceil(SHORTEST_STEP_S / float(np.median(calls_s))))
    ends_s = np.concatenate([[0.0], np.cumsum(calls_s)])[::per_block]
    edges = np.concatenate([[0.0], span.t_s])
    total = np.concatenate([[0.0], np.cumsum((span.power_w - idle_w) * np.diff(edges))])
    return [float(value) for value in np.diff(np.interp(ends_s, edges, total)) / per_block]


def _gates(parameters: Parameters, data: RunData) -> tuple[Gate, ...]:
    """Starts at one temperature, order mixed, host quiet."""
    windows = [data.window(name) for name in parameters["windows"]]
    found = replicates_of(parameters, data)
    instrument = windows[0].instrument
    scope = f"thermal signatures of {instrument}"
    host = host_gates_of(data, windows[0].t0_ns, windows[-1].t1_ns, instrument, scope)
    return (start_gate(found, scope=scope), order_gate([r.workload for r in found], scope=scope), *host)


def _instrument(parameters: Parameters, data: RunData) -> str:
    return data.window(parameters["windows"][0]).instrument


@leaf("signature.feature", truth=lambda parameters, data: _feature_truth(parameters, data))  # noqa: PLW0108 -- defined below
def feature(parameters: Parameters, data: RunData) -> Estimate:
    """One feature of one workload: mean over its replicates with Student's interval."""
    own = [r for r in replicates_of(parameters, data) if r.workload == parameters["workload"]]
    name, instrument = str(parameters["feature"]), _instrument(parameters, data)
    unit = UNITS[name]
    try:
        found = signature(own).features.get(name)
    except RefusedError as refusal:
        return no_value(unit, refusal.gate, "refused")
    if found is None:
        reason = f"not every one of {len(own)} replicates shows it: the channel is missing, or the load was too short for it"
        return replace(
            not_tested(name, f"{parameters['workload']} on {instrument}", unit, reason), provenance=provenance_of(data, instrument)
        )
    source = f"{name}|{parameters['workload']}|{instrument}"
    u = found.spread / math.sqrt(found.n)
    components = [part("between replicates", source, u, dof=float(found.n - 1), evaluation="A")]
    components += _scale(parameters, data, name, found.mean)
    return Estimate(
        value=found.mean, unit=unit, components=tuple(components), quality=Quality.GOOD, provenance=provenance_of(data, instrument),
        estimator=f"mean of {found.n} replicates", gates=_gates(parameters, data),
    )  # fmt: skip


def _scale(parameters: Parameters, data: RunData, name: str, value: float) -> list[Component]:
    """What replicates share: the scale of the power sensor, and the step of the thermometer."""
    instrument = _instrument(parameters, data)
    sensor = data.sensor(str(parameters.get("sensor", "")))
    parts: list[Component] = []
    if sensor is not None and name in {"power_above_idle_w", "energy_per_step_j", "resistance_k_per_w"}:
        parts.append(
            part("gain", f"gain|{instrument}", sensor.u_gain * value * (-1 if name == "resistance_k_per_w" else 1), common_scale=True)
        )
    if name == "spectrum_peak_hz":
        shortest_s = min(w.t1_ns - w.t0_ns for w in (data.window(window) for window in parameters["windows"][1::2])) / NS_PER_S
        parts.append(part("width of a line", f"{name}|{instrument}", 1 / shortest_s / math.sqrt(12)))
    if name in UTILISATIONS:
        parts.append(part("whole percent, and the reading's own window", f"{name}|{instrument}", UTILISATION_STEP / math.sqrt(3)))
    if name in {"steady_rise_c", "resistance_k_per_w"}:
        step_c = next((c.resolution for c in data.instrument(instrument).channels if c.name == "temperature_c"), 0.0)
        rise = _mean_of(parameters, data, "steady_rise_c")
        per_k = 1.0 if name == "steady_rise_c" else 1 / _mean_of(parameters, data, "power_above_idle_w")
        u = abs(value / rise if rise else per_k) * step_c / math.sqrt(6)  # a rise of 0 is less than a step, and no exact 0
        parts.append(part("step of the thermometer", f"thermometer|{instrument}|{parameters['workload']}", u))
    return parts


def _mean_of(parameters: Parameters, data: RunData, name: str, *, true: bool = False) -> float:
    own = [r.features[name] for r in replicates_of(parameters, data, true=true) if r.workload == parameters["workload"]]
    return float(np.mean(own)) if own else math.nan


def _feature_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    name = str(parameters["feature"])
    if name in SHAPED_BY_SENSOR or data.truth_table(_instrument(parameters, data)) is None:
        return None
    value = _mean_of(parameters, data, name, true=True)
    return exactly(value if math.isfinite(value) else None, UNITS[name])


@leaf("signature.accuracy")
def accuracy(parameters: Parameters, data: RunData) -> Estimate:
    """Share of replicates that leave-one-out names right, less the share that always naming the largest workload would reach."""
    try:
        found = classify(replicates_of(parameters, data))
    except RefusedError as refusal:
        return no_value("1", refusal.gate, "refused")
    u = max(found.high - found.accuracy, found.accuracy - found.low) / coverage_factor(math.inf)
    instrument = _instrument(parameters, data)
    return Estimate(
        value=found.accuracy - found.chance, unit="1", components=(part("replicates", f"accuracy|{instrument}", u, evaluation="A"),),
        quality=Quality.GOOD, provenance=provenance_of(data, instrument),
        estimator=f"{found.right} of {found.n} right, chance {found.chance:.3g}", gates=_gates(parameters, data),
    )  # fmt: skip


@leaf("signature.p")
def shuffled(parameters: Parameters, data: RunData) -> Estimate:
    """Share of shuffled labels that do as well as the true ones."""
    try:
        found = classify(replicates_of(parameters, data))
    except RefusedError as refusal:
        return no_value("1", refusal.gate, "refused")
    instrument = _instrument(parameters, data)
    return Estimate(
        value=found.p, unit="1", quality=Quality.GOOD, provenance=provenance_of(data, instrument), estimator="shuffled labels",
        gates=_gates(parameters, data),
    )  # fmt: skip


def workloads_of(replicates: Sequence[Replicate]) -> list[str]:
    """Workloads with enough replicates for a signature, in the order of their names."""
    names = [r.workload for r in replicates]
    return sorted({name for name in names if names.count(name) >= MIN_REPLICATES})
