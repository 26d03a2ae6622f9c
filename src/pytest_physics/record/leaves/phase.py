"""Recipes of phases: what the sensor is, how a heat soak stands, how the sampler kept its grid; and of the memory records."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.thermal import SECONDS_PER_MINUTE, SoakAssessment, SoakLimits, assess_soak
from pytest_physics.metrology.uncertainty import Component, Estimate, coverage_factor
from pytest_physics.record.counter_evaluation import COUNTER_LEAVES
from pytest_physics.record.data import RunData
from pytest_physics.record.identification import timing_estimate
from pytest_physics.record.leaves.memory import MEMORY_LEAVES
from pytest_physics.record.registry import Leaf, Parameters, leaf, provenance_of
from pytest_physics.record.schema import pauses_of
from pytest_physics.record.sensor_checks import SENSOR_LEAVES
from pytest_physics.sampling.statistics import sampler_statistics


def _timing_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    """What the twin's sensor really is; the twin tells it in its fingerprint."""
    details = data.instrument(data.phase(parameters["phase"]).instrument).fingerprint.details
    if "true_update_period_s" not in details:
        return None
    true = {name.removeprefix("true_"): float(value) for name, value in details.items() if name.startswith("true_")}
    # the load reaches the sensor through the card's electrical rise: no telegraph can tell it from a lag of the sensor
    lag_s = true["lag_s"] or true["rise_s"]
    delay_s = true["delay_s"] + true["rise_s"]
    dead = max(0.0, 1 - max(true["window_s"], 2 * lag_s) / true["update_period_s"])
    known = {**true, "lag_s": lag_s, "delay_s": delay_s, "dead_fraction": dead}
    return Estimate.exact(known[parameters["quantity"]], "1" if parameters["quantity"] == "dead_fraction" else "s")


@leaf("sensor.timing", truth=_timing_truth)
def sensor_timing(parameters: Parameters, data: RunData) -> Estimate:
    """One property of the power sensor, from a telegraph phase."""
    phase = data.phase(parameters["phase"])
    estimate = timing_estimate(data, phase, parameters["quantity"])
    return replace(estimate, provenance=provenance_of(data, phase.instrument))


def _of_its_phase(evaluated: Leaf) -> Leaf:
    """An evaluation of recorded phases, with the provenance of the instrument."""

    def measured(parameters: Parameters, data: RunData) -> Estimate:
        return replace(evaluated(parameters, data), provenance=provenance_of(data, data.phase(parameters["phase"]).instrument))

    return measured


for _op, (_evaluated, _truth_of) in {**SENSOR_LEAVES, **COUNTER_LEAVES}.items():
    leaf(_op, truth=_truth_of)(_of_its_phase(_evaluated))


for _op, (_evaluated, _truth_of) in MEMORY_LEAVES.items():
    leaf(_op, truth=_truth_of)(_evaluated)


BEFORE_LOAD_NS = 3 * NS_PER_S
"""Idle time before the load that shows the power to compare with: the end of the soak's idle look, beyond the tail of earlier work."""


def soak_assessment(data: RunData, instrument: str, t0_ns: int, t1_ns: int) -> SoakAssessment:
    """State of a heat soak whose load came on at ``t0_ns``, from the samples up to ``t1_ns``."""
    trace = data.trace(instrument).between(t0_ns - BEFORE_LOAD_NS, t1_ns)
    settings = data.settings.soak
    channel = next(c for c in data.instrument(instrument).channels if c.name == "temperature_c")
    power = np.asarray(trace.values("power_w")) if trace.has("power_w") else None
    limits = SoakLimits(
        slope_c_per_min=settings.max_slope_c_per_min, confident_slope_c_per_min=0.8 * settings.max_slope_c_per_min,
        window_s=settings.window_s, budget_s=max(settings.budget_s, 1.0), max_temperature_c=settings.trip_c,
    )  # fmt: skip
    return assess_soak(
        trace.t_ns / NS_PER_S, np.asarray(trace.values("temperature_c")), power, resolution_c=channel.resolution,
        load_started_s=t0_ns / NS_PER_S, limits=limits, scope=f"{instrument} heat soak",
    )  # fmt: skip


def soak_of(parameters: Parameters, data: RunData) -> SoakAssessment:
    """State of the heat soak of one phase."""
    phase = data.phase(parameters["phase"])
    return soak_assessment(data, phase.instrument, phase.t0_ns, int(phase.t1_ns or phase.t0_ns))


def _slope_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    """Least-squares slope of the twin's true die temperature over the same window."""
    phase = data.phase(parameters["phase"])
    table, found = data.truth_table(phase.instrument), soak_of(parameters, data)
    if table is None or found.slope is None:
        return None
    end_s = int(phase.t1_ns or phase.t0_ns) / NS_PER_S
    t_s = np.linspace(end_s - found.slope.window_s, end_s, TRUTH_POINTS)
    true_c = np.interp(t_s, table["t_ns"] / NS_PER_S, table["node_0_c"])
    return Estimate.exact(float(np.polyfit(t_s - end_s, true_c, 1)[0]) * SECONDS_PER_MINUTE, "°C/min")


def _plateau_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    """Die temperature of the twin if the power at the end of the soak lasted for ever."""
    phase = data.phase(parameters["phase"])
    table = data.truth_table(phase.instrument)
    if table is None:
        return None
    last = int(np.searchsorted(table["t_ns"], int(phase.t1_ns or phase.t0_ns), side="left")) - 1
    return Estimate.exact(float(table["settled_c"][last]), "°C")


TRUTH_POINTS = 1000


@leaf("soak.slope", truth=_slope_truth)
def soak_slope(parameters: Parameters, data: RunData) -> Estimate:
    """Temperature slope over the last window of a soak, °C per minute; its interval is the resolution-aware one."""
    found = soak_of(parameters, data)
    half = (found.slope.high - found.slope.low) / 2 if found.slope else math.inf
    value = (found.slope.high + found.slope.low) / 2 if found.slope else math.nan
    estimator = found.slope.method if found.slope else "none"
    return _thermal_estimate(parameters, data, found, value=value, half=half, unit="°C/min", estimator=estimator)


@leaf("soak.plateau", truth=_plateau_truth)
def soak_plateau(parameters: Parameters, data: RunData) -> Estimate:
    """Fitted final temperature of a soak, °C."""
    found = soak_of(parameters, data)
    value = found.plateau.temperature_c if found.plateau else math.nan
    half = 2 * found.plateau.u_temperature_c if found.plateau else math.inf
    return _thermal_estimate(parameters, data, found, value=value, half=half, unit="°C", estimator="exponential fit")


def _thermal_estimate(
    parameters: Parameters, data: RunData, found: SoakAssessment, *, value: float, half: float, unit: str, estimator: str
) -> Estimate:
    phase = data.phase(parameters["phase"])
    known = math.isfinite(half)
    spread = Component(
        label="slope and resolution" if unit != "°C" else "fit and resolution", source=f"{estimator}|{phase.id}",
        contribution=half / coverage_factor(math.inf) if known else 0.0,
    )  # fmt: skip
    return Estimate(
        value=value, unit=unit, components=(spread,), quality=Quality.GOOD if known else Quality.NO_DATA,
        provenance=provenance_of(data, phase.instrument), estimator=estimator, gates=found.gates,
    )  # fmt: skip


def _sampler_leaf(name: str, unit: str, value: Callable[[Any], float]) -> None:
    @leaf(name)
    def measured(parameters: Parameters, data: RunData) -> Estimate:
        phase = data.phase(parameters["phase"])
        record = data.instrument(phase.instrument)
        pauses_ns = pauses_of(data.phases_of(phase.instrument), phase.instrument)
        found = sampler_statistics(data.trace(phase.instrument), record.origin_ns, phase.t0_ns, phase.t1_ns, pauses_ns=pauses_ns)
        return Estimate(
            value=value(found), unit=unit, quality=Quality.GOOD if found.taken >= 3 else Quality.NO_DATA,
            provenance=provenance_of(data, phase.instrument), estimator="count of ticks",
        )  # fmt: skip


_sampler_leaf("sampler.dropped", "tick", lambda found: float(found.dropped))
_sampler_leaf("sampler.drop_fraction", "1", lambda found: float(found.drop_fraction))
_sampler_leaf("sampler.longest_gap", "period", lambda found: float(found.longest_gap_periods))
_sampler_leaf("sampler.lateness_p95", "s", lambda found: float(found.lateness.p95_s))
_sampler_leaf(
    "sampler.read_error_fraction", "1", lambda found: max(found.read_errors.values(), default=0) / found.taken if found.taken else math.nan
)
