"""Recipes of idle baselines: one settled phase, its distinct updates, its gates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.metrology.baseline import MIN_UPDATES, IdleAssessment, IdleLimits, IdleSamples, assess_idle, no_idle
from pytest_physics.metrology.quality import Quality, allowed
from pytest_physics.metrology.uncertainty import Component, Estimate
from pytest_physics.metrology.updates import distinct_updates
from pytest_physics.record.data import RunData
from pytest_physics.record.registry import Parameters, exactly, leaf, phase_trace, provenance_of
from pytest_physics.record.scale import on_true_scale
from pytest_physics.record.schema import BaselineRecord, GateRecord, PhaseRecord, finite_or_none
from pytest_physics.record.window_energy import CALIBRATED, true_energy_between


def assess_baseline(data: RunData, phase: PhaseRecord, baseline_id: str, sensor_id: str) -> IdleAssessment:
    """Idle power and its gates from the samples of a phase; computed once per run."""
    key = f"baseline|{phase.id}|{baseline_id}|{sensor_id}"
    if key not in data.memory:
        data.memory[key] = _assess_baseline(data, phase, baseline_id, sensor_id)
    found: IdleAssessment = data.memory[key]
    return found


def _assess_baseline(data: RunData, phase: PhaseRecord, baseline_id: str, sensor_id: str) -> IdleAssessment:
    trace = phase_trace(data, phase)
    sensor = data.sensor(sensor_id)
    if sensor is None:
        raise ChannelUnavailableError(f"instrument '{phase.instrument}' has no power channel, so it has no idle power.", channel="power_w")
    trace = on_true_scale(trace, sensor)
    power = trace.values("power_w")
    index = distinct_updates(trace.t_ns, power, sensor.update_period_s)
    if len(index) < MIN_UPDATES:  # a dead sampler, or a card that was lost: no number, and a gate that says so
        return no_idle(len(index), scope=baseline_id)
    columns = {
        "utilisation_ratio": "utilisation_ratio", "sm_clock_hz": "sm_clock_hz", "performance_state": "performance_state",
        "foreign_processes": "foreign_processes", "temperature_c": "temperature_c",
    }  # fmt: skip
    samples = IdleSamples(
        t_s=trace.t_ns / NS_PER_S,
        **{field: np.asarray(trace.values(name)) for field, name in columns.items() if trace.has(name)},
    )
    return assess_idle(
        trace.t_ns[index] / NS_PER_S,
        np.asarray(power[index]),
        correlation_time_s=sensor.effective_window_s + sensor.update_period_s,
        samples=samples,
        resolution_w=sensor.resolution_w,
        limits=IdleLimits(max_utilisation_ratio=data.settings.baseline.max_utilisation_ratio, min_duration_s=MIN_BASELINE_S),
        scope=baseline_id,
    )


MIN_BASELINE_S = 10.0
"""Shortest baseline of any device, in seconds; slow sensors need more, and their gate says how much."""


def baseline_record(data: RunData, phase: PhaseRecord, *, baseline_id: str, sensor_id: str) -> BaselineRecord:
    """A baseline with the updates it was computed from."""
    found = assess_baseline(data, phase, baseline_id, sensor_id)
    sensor = data.sensor(sensor_id)
    trace = on_true_scale(phase_trace(data, phase), sensor)
    power = trace.values("power_w")
    index = distinct_updates(trace.t_ns, power, sensor.update_period_s if sensor else 0.1)
    return BaselineRecord(
        id=baseline_id, instrument=phase.instrument, phase=phase.id, sensor=sensor_id,
        t0_ns=phase.t0_ns, t1_ns=int(phase.t1_ns or phase.t0_ns),
        mean_w=finite_or_none(found.mean_w), u_w=finite_or_none(found.u_w), dof=finite_or_none(found.dof), n=found.n,
        n_eff=finite_or_none(found.n_eff), ddof=found.ddof, standard_deviation_w=finite_or_none(found.standard_deviation_w),
        minimum_w=finite_or_none(found.minimum_w), maximum_w=finite_or_none(found.maximum_w), median_w=finite_or_none(found.median_w),
        gates=[GateRecord.of(gate) for gate in found.gates],
        t_ns=[int(t) for t in trace.t_ns[index]], power_w=[float(p) for p in power[index]],
        truth_w=finite_or_none(_true_mean_power(data, phase)),
    )  # fmt: skip


def _true_mean_power(data: RunData, phase: PhaseRecord) -> float | None:
    t1_ns = int(phase.t1_ns or phase.t0_ns)
    energy = true_energy_between(data, phase.instrument, phase.t0_ns, t1_ns)
    return energy / ((t1_ns - phase.t0_ns) / NS_PER_S) if energy is not None and t1_ns > phase.t0_ns else None


def _baseline_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    return exactly(_true_mean_power(data, data.phase(data.baseline(parameters["baseline"]).phase)), "W")


@leaf("baseline.power", truth=_baseline_truth)
def baseline_power(parameters: Parameters, data: RunData) -> Estimate:
    """Idle power of one baseline in watts."""
    record = data.baseline(parameters["baseline"])
    sensor = data.sensor(record.sensor)
    found = assess_baseline(data, data.phase(record.phase), record.id, record.sensor)
    noise = Component(label="idle noise", source=f"baseline|{record.id}", contribution=found.u_w, dof=found.dof, evaluation="A")
    scale = () if sensor is None else (
        Component(label="gain", source=f"gain|{record.instrument}", contribution=found.mean_w * sensor.u_gain, common_scale=True),
        Component(label="offset", source=f"offset|{record.instrument}", contribution=sensor.u_offset_w),
    )  # fmt: skip
    power = Estimate(
        value=found.mean_w, unit="W", components=(noise, *scale), quality=Quality.GOOD if found.n >= 3 else Quality.NO_DATA,
        provenance=provenance_of(data, record.instrument), gates=found.gates,
        estimator="mean of distinct updates" + (f", {CALIBRATED}" if sensor is not None and sensor.calibrated else ""),
    )  # fmt: skip
    return replace(power, quality=min(power.quality, allowed(power.relative_without_scale)))
