"""Recipes of arms: one leaf for all windows of an arm of a sweep, with the gates that a whole arm must pass.

Energies of single windows are those of ``window.energy``. What is added here is what one window cannot say: that each has enough updates,
that power rose with the work, and that the sweep around it had come to rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.metrology.decision import condensed
from pytest_physics.metrology.parity import enough_updates, power_rise, temperature_drift
from pytest_physics.metrology.uncertainty import Component, Estimate, Gate, mean
from pytest_physics.metrology.updates import distinct_updates
from pytest_physics.record.data import RunData
from pytest_physics.record.leaves.window import window_energy
from pytest_physics.record.parity_checks import START_S, start_temperature
from pytest_physics.record.registry import Parameters, leaf, provenance_of
from pytest_physics.record.schema import WindowRecord
from pytest_physics.record.window_energy import true_energy
from pytest_physics.sampling.trace import FloatArray, Trace

DECLARED_COLD = ", declared cold"
"""Ends the name of a sweep's phase that does not claim to have come to rest."""
BEFORE_UPDATES = 4
"""Updates before a window that show the level from which power rises."""
COMB_UPDATES = 20
"""Updates looked at before a window so that those inside are told apart."""


def _truth(parameters: Parameters, data: RunData) -> Estimate | None:
    """Mean over the windows of the true energy per work."""
    windows = [data.window(name) for name in parameters["windows"]]
    energies = [true_energy({**parameters, "window": window.id}, data) for window in windows]
    if any(energy is None for energy in energies):
        return None
    unit = f"J/{str(parameters['work']).removesuffix('s')}"
    work = [window.work[parameters["work"]] for window in windows]
    return Estimate.exact(float(np.mean([float(e or 0.0) / w for e, w in zip(energies, work, strict=True)])), unit)


@leaf("arm.energy_per_work", truth=_truth)
def arm_energy_per_work(parameters: Parameters, data: RunData) -> Estimate:
    """Gross or net energy per counted work: the mean over the windows of one arm.

    ``windows``, ``baselines``, ``sensor``, ``kind`` and ``estimator`` as for ``window.energy``; ``work`` names the count, and ``span``
    is the phase of the sweep, whose name says whether it was declared cold.
    """
    windows = [data.window(name) for name in parameters["windows"]]
    unit = str(parameters["work"]).removesuffix("s")
    counts = [Estimate.exact(window.work[parameters["work"]], unit) for window in windows]
    each = [window_energy({**parameters, "window": window.id}, data) / count for window, count in zip(windows, counts, strict=True)]
    estimate = mean(each)
    return replace(estimate, gates=(*condensed(estimate.gates), *_arm_gates(parameters, windows, data)))


def _arm_gates(parameters: Parameters, windows: Sequence[WindowRecord], data: RunData) -> tuple[Gate, ...]:
    scope = f"{windows[0].name}, {len(windows)} windows from {windows[0].id}"
    trace = data.trace(windows[0].instrument)
    gates = [_updates_gate(parameters, windows, data, trace, scope)]
    if trace.has("power_w"):
        gates.append(_rise_gate(parameters, windows, data, trace, scope))
    if trace.has("temperature_c") and not data.phase(str(parameters["span"])).name.endswith(DECLARED_COLD):
        gates.append(_drift_gate(parameters, data))
    return tuple(gates)


def _updates_gate(parameters: Parameters, windows: Sequence[WindowRecord], data: RunData, trace: Trace, scope: str) -> Gate:
    """Updates of the channel that the energies were taken from."""
    sensor = data.sensor(parameters["sensor"])
    counter = parameters["estimator"] == "counter"
    channel = "energy_j" if counter else "power_w"
    period_s = 0.0 if counter or sensor is None else sensor.update_period_s
    fewest = min(_updates(trace, window, channel, period_s) for window in windows)
    return enough_updates(fewest, scope=scope, what="counter ticks" if counter else "sensor updates")


def _updates(trace: Trace, window: WindowRecord, channel: str, period_s: float) -> int:
    around = trace.between(window.t0_ns - COMB_UPDATES * trace.period_ns, window.t1_ns)
    values: FloatArray = np.asarray(around.values(channel))
    index = distinct_updates(around.t_ns, values, period_s) if period_s else 1 + np.flatnonzero(np.diff(values) > 0)
    inside = (around.t_ns[index] >= window.t0_ns) & (around.t_ns[index] <= window.t1_ns)
    return int(np.count_nonzero(inside))


def _rise_gate(parameters: Parameters, windows: Sequence[WindowRecord], data: RunData, trace: Trace, scope: str) -> Gate:
    """Median power in the windows, once the sensor has followed, against that of the last updates before them."""
    sensor = data.sensor(parameters["sensor"])
    tail_s, update_s = (sensor.tail_s, sensor.update_period_s) if sensor else (0.0, 0.1)
    before = [_power(trace, w.t0_ns - round(BEFORE_UPDATES * update_s * NS_PER_S), w.t0_ns) for w in windows]
    during = [_power(trace, min(w.t0_ns + round(tail_s * NS_PER_S), w.t1_ns), w.t1_ns + round(update_s * NS_PER_S)) for w in windows]
    quiet, busy = np.concatenate(before), np.concatenate(during)
    if not len(quiet) or not len(busy):
        return power_rise(float("nan"), float("nan"), u_w=0.0, scope=scope)
    spread = float(np.std(quiet)) / len(windows) ** 0.5
    return power_rise(float(np.median(quiet)), float(np.median(busy)), u_w=spread, scope=scope)


def _power(trace: Trace, t0_ns: int, t1_ns: int) -> FloatArray:
    values: FloatArray = np.asarray(trace.between(t0_ns, t1_ns).values("power_w"))
    return values[np.isfinite(values)]


def _drift_gate(parameters: Parameters, data: RunData) -> Gate:
    first, last = drift_ends(str(parameters["span"]), data)
    return temperature_drift(first, last, data.settings.experiment.max_temperature_drift_c, scope=str(parameters["span"]))


def drift_ends(span: str, data: RunData) -> tuple[float, float]:
    """Mean temperature at the starts of the first and of the last third of the arms' windows of a sweep, in °C."""
    starts = [start_temperature(window.id, data) for window in data.windows_in(span) if "repetition" in window.labels]
    third = max(1, len(starts) // 3)
    return float(np.mean(starts[:third])), float(np.mean(starts[-third:]))


@leaf("arm.start_temperature")
def arm_start_temperature(parameters: Parameters, data: RunData) -> Estimate:
    """Mean temperature of the device just before the windows of an arm, in °C: the state that it found."""
    windows = [data.window(name) for name in parameters["windows"]]
    starts = np.array([start_temperature(window.id, data) for window in windows])
    resolution_c = next((c.resolution for c in data.instrument(windows[0].instrument).channels if c.name == "temperature_c"), 1.0)
    n = len(starts)
    u = float(np.hypot(np.std(starts, ddof=1) / n**0.5 if n > 1 else 0.0, (resolution_c or 0.0) / 12**0.5 / n**0.5))
    scatter = Component(label="scatter and step", source=f"start|{windows[0].id}|{n}", contribution=u, dof=max(1, n - 1), evaluation="A")
    return Estimate(
        value=float(np.mean(starts)), unit="°C", components=(scatter,), provenance=provenance_of(data, windows[0].instrument),
        estimator=f"mean of {START_S:g} s before",
    )  # fmt: skip
