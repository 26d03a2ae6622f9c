"""Recipes of windows: duration, work, time per work, energy, repetitions; and of numbers that were not measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import ChannelUnavailableError, RecordError
from pytest_physics.metrology.baseline import drift_gate
from pytest_physics.metrology.host import HOST_LIMITS, canary_gate, host_gates
from pytest_physics.metrology.quality import Provenance, Quality
from pytest_physics.metrology.uncertainty import Component, Estimate, Gate, coverage_factor
from pytest_physics.metrology.updates import distinct_updates
from pytest_physics.record.data import RunData
from pytest_physics.record.leaves.baseline import assess_baseline
from pytest_physics.record.registry import Parameters, exactly, leaf, provenance_of
from pytest_physics.record.repetition_energy import latency_estimate, phase_average, repetitions_of
from pytest_physics.record.schema import BaselineRecord, WindowRecord
from pytest_physics.record.window_energy import RULES, energy_estimate, true_energy


def _value(parameters: Parameters) -> float:
    """A number that was given; one that JSON cannot write came back as nothing."""
    value = parameters["value"]
    return math.nan if value is None else float(value)


def _constant_truth(parameters: Parameters, _data: RunData) -> Estimate:
    return Estimate.exact(_value(parameters), parameters["unit"])


@leaf("constant", truth=_constant_truth)
def _constant(parameters: Parameters, _data: RunData) -> Estimate:
    return Estimate.exact(_value(parameters), parameters["unit"])


@leaf("given")
def _given(parameters: Parameters, _data: RunData) -> Estimate:
    dof = parameters.get("dof")
    return Estimate.given(
        _value(parameters),
        parameters["unit"],
        u=parameters["u"],
        dof=math.inf if dof is None else dof,
        label=parameters["label"],
        provenance=Provenance(parameters["provenance"]),
        source=parameters["source"],
    )


def _duration_truth(parameters: Parameters, data: RunData) -> Estimate:
    window = data.window(parameters["window"])
    return Estimate.exact((window.t1_ns - window.t0_ns) / NS_PER_S, "s")


@leaf("window.duration", truth=_duration_truth)
def window_duration(parameters: Parameters, data: RunData) -> Estimate:
    """Length of one window in seconds; both ends carry the clock's resolution."""
    window = data.window(parameters["window"])
    resolution_s = data.instrument(window.instrument).clock_resolution_ns / NS_PER_S
    overhead_s = 0.0 if data.truth_table(window.instrument) is not None else WINDOW_OVERHEAD_S
    clock = Component(
        label="clock and window overhead",
        source=f"clock|{window.id}",
        contribution=math.hypot(resolution_s / math.sqrt(6), overhead_s / math.sqrt(12)),
    )
    return Estimate(
        value=(window.t1_ns - window.t0_ns) / NS_PER_S,
        unit="s",
        components=(clock,),
        quality=Quality.ESTIMATE,  # one duration says nothing of its scatter
        provenance=provenance_of(data, window.instrument),
        estimator="clock",
        gates=(*_clock_runs(window), *host_gates_of(data, window.t0_ns, window.t1_ns, window.instrument, window.id)),
    )


WINDOW_OVERHEAD_S = 20e-6
"""Most that entering and leaving a window adds to a duration on a real clock (benchmarks/window.py: p50 7 µs, p99 25 µs)."""


def _clock_runs(window: WindowRecord) -> tuple[Gate, ...]:
    passed = window.t1_ns > window.t0_ns
    return (
        Gate(
            name="window has a duration", scope=window.id, measured=(window.t1_ns - window.t0_ns) / NS_PER_S, limit=0.0, unit="s",
            passed=passed, reason=f"window '{window.name}' lasts {(window.t1_ns - window.t0_ns) / NS_PER_S:g} s (must be > 0)",
            remedy="" if passed else "a twin's clock moves only when a twin's workload runs: use a workload made for the rig's device",
        ),
    )  # fmt: skip


def _work(parameters: Parameters, data: RunData) -> Estimate:
    name = str(parameters["work"])
    return Estimate.exact(data.window(parameters["window"]).work[name], name.removesuffix("s"))


@leaf("window.work", truth=_work)
def window_work(parameters: Parameters, data: RunData) -> Estimate:
    """Counted work of one window; exact."""
    return _work(parameters, data)


def _time_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    """On a virtual clock durations are exact; on a real one nobody knows better."""
    instrument = data.window(parameters["windows"][0]).instrument
    if data.truth_table(instrument) is None:
        return None
    return Estimate.exact(float(np.median(_times_per_work(parameters, data))), f"s/{str(parameters['work']).removesuffix('s')}")


@leaf("windows.time_per_work", truth=_time_truth)
def windows_time_per_work(parameters: Parameters, data: RunData) -> Estimate:
    """Median over windows of duration per counted work, with the distribution-free interval of the median (order statistics).

    The host must have been quiet over the phase ``span``, or from the first window to the last.
    """
    windows = [data.window(name) for name in parameters["windows"]]
    times = _times_per_work(parameters, data)
    instrument = windows[0].instrument
    low, high = median_interval(times)
    k = coverage_factor(max(1, len(times) - 1))
    spread = Component(
        label="between windows", source="spread|" + "|".join(parameters["windows"]), contribution=(high - low) / 2 / k,
        dof=max(1, len(times) - 1), evaluation="A",
    )  # fmt: skip
    phase = data.phase(parameters["span"]) if "span" in parameters else None
    t0 = phase.t0_ns if phase else min(w.t0_ns for w in windows)
    t1 = int(phase.t1_ns or t0) if phase else max(w.t1_ns for w in windows)
    scope = phase.id if phase else f"{windows[0].id} to {windows[-1].id}"
    canaries = [[data.window(name) for name in parameters.get(key, ())] for key in ("canaries_before", "canaries_after")]
    return Estimate(
        value=float(np.median(times)),
        unit=f"s/{str(parameters['work']).removesuffix('s')}",
        components=(spread,),
        quality=Quality.GOOD if len(times) >= 3 else Quality.NO_DATA,
        provenance=provenance_of(data, instrument),
        estimator="median of windows",
        gates=(*host_gates_of(data, t0, t1, instrument, scope), *_canary_gates(data, *canaries, scope=scope)),
    )


def _times_per_work(parameters: Parameters, data: RunData) -> list[float]:
    windows = [data.window(name) for name in parameters["windows"]]
    return [(w.t1_ns - w.t0_ns) / NS_PER_S / w.work[parameters["work"]] for w in windows]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Distribution-free 95 % interval of the median; the extremes where there are fewer than six values."""
    ordered = sorted(values)
    n = len(ordered)
    below = int(stats.binom.ppf(0.025, n, 0.5))
    return ordered[max(0, below - 1)], ordered[min(n - 1, n - below)]


def host_gates_of(data: RunData, t0_ns: int, t1_ns: int, instrument: str, scope: str) -> tuple[Gate, ...]:
    """CPU-side gates of a real-time span; nothing on a virtual clock or for an instrument without these channels."""
    trace = data.trace(instrument)
    if not any(trace.has(name) for name in ("own_wait_ns", "pressure_cpu_ns", "steal_ns")):
        return ()
    span = trace.between(t0_ns, t1_ns, margin=2)
    host = data.settings.host
    chosen = {
        "own_wait_ns": host.max_own_wait, "pressure_cpu_ns": host.max_cpu_pressure, "steal_ns": host.max_steal,
        "foreign_cpu_ns": host.max_foreign_cpu,
    }  # fmt: skip
    return host_gates(
        t_ns=span.t_ns,
        counters={limit.channel: np.asarray(span.values(limit.channel)) for limit in HOST_LIMITS if span.has(limit.channel)},
        t0_ns=t0_ns,
        t1_ns=t1_ns,
        cpu_count=int(data.instrument(instrument).fingerprint.details["logical_cpus"]),
        scope=scope,
        limits=[replace(limit, limit=chosen.get(limit.channel, limit.limit)) for limit in HOST_LIMITS],
    )


def _canary_gates(data: RunData, before: Sequence[WindowRecord], after: Sequence[WindowRecord], *, scope: str) -> tuple[Gate, ...]:
    if not before or not after:
        return ()
    first, last = (min((w.t1_ns - w.t0_ns) / NS_PER_S for w in group) for group in (before, after))
    return (canary_gate(first, last, data.settings.host.max_canary_drift, scope=scope),)


def _rules(parameters: Parameters) -> int:
    """Version of the rules that a recipe names; the first where it names none."""
    rules: int = parameters.get("rules", 1)
    if rules not in range(1, RULES + 1):
        raise RecordError(f"unknown rules {rules!r} of an energy; use the pytest-physics version that wrote this run.")
    return rules


@leaf("window.energy", truth=lambda parameters, data: exactly(true_energy(parameters, data), "J"))
def window_energy(parameters: Parameters, data: RunData) -> Estimate:
    """Gross or net energy of one window, from its counter or its power readings."""
    window = data.window(parameters["window"])
    baselines = [data.baseline(name) for name in parameters["baselines"]]
    estimate = energy_estimate(
        data,
        window,
        kind=parameters["kind"],
        baselines=baselines,
        sensor=data.sensor(parameters["sensor"]),
        estimator=parameters.get("estimator"),
        rules=_rules(parameters),
    )
    return replace(
        estimate,
        provenance=provenance_of(data, window.instrument),
        gates=(*_clock_runs(window), *estimate.gates, *_baseline_gates(data, baselines)),
    )


def _baseline_gates(data: RunData, baselines: Sequence[BaselineRecord]) -> tuple[Gate, ...]:
    found = [assess_baseline(data, data.phase(baseline.phase), baseline.id, baseline.sensor) for baseline in baselines]
    gates = [gate for assessment in found for gate in assessment.gates]
    if len(baselines) == 2 and all(baseline.mean_w is not None for baseline in baselines):
        before, after = found
        scope = f"{baselines[0].id} to {baselines[1].id}"
        gates.append(drift_gate(before, after, data.settings.baseline.max_drift_w, scope=scope))
    return tuple(gates)


def _phase_average_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    """Mean over the batches of the true energy per repetition."""
    windows = [data.window(name) for name in parameters["windows"]]
    energies = [true_energy({**parameters, "window": window.id}, data) for window in windows]
    if any(energy is None for energy in energies):
        return None
    per_event = [float(energy or 0.0) / repetitions_of(window) for energy, window in zip(energies, windows, strict=True)]
    return Estimate.exact(math.fsum(per_event) / len(per_event), "J")


@leaf("repetition.phase_average", truth=_phase_average_truth)
def repetition_phase_average(parameters: Parameters, data: RunData) -> Estimate:
    """Gross or net energy per repetition of an event, from batches at phases of a sensor that looks only part of the time."""
    windows = [data.window(name) for name in parameters["windows"]]
    baselines = [data.baseline(name) for name in parameters["baselines"]]
    sensor = data.sensor(parameters["sensor"])
    if sensor is None:
        raise ChannelUnavailableError(f"instrument '{windows[0].instrument}' has no power channel.", channel="power_w")
    estimate = phase_average(
        data, windows, kind=parameters["kind"], baselines=baselines, sensor=sensor, looks=parameters["looks"],
        rules=_rules(parameters),
    )  # fmt: skip
    return replace(
        estimate,
        provenance=provenance_of(data, windows[0].instrument),
        gates=(*(gate for window in windows for gate in _clock_runs(window)), *estimate.gates, *_baseline_gates(data, baselines)),
    )


@leaf("repetition.latency")
def repetition_latency(parameters: Parameters, data: RunData) -> Estimate:
    """A quantile of the latency of the calls in some windows."""
    windows = [data.window(name) for name in parameters["windows"]]
    instrument = windows[0].instrument
    resolution_s = data.instrument(instrument).clock_resolution_ns / NS_PER_S
    first = data.window(parameters["first"]) if "first" in parameters else None
    estimate = latency_estimate(windows, parameters["probability"], resolution_s=resolution_s, first=first)
    host = host_gates_of(data, windows[0].t0_ns, windows[-1].t1_ns, instrument, f"{windows[0].id} to {windows[-1].id}")
    return replace(estimate, provenance=provenance_of(data, instrument), gates=(*estimate.gates, *host))


@leaf("window.updates")
def window_updates(parameters: Parameters, data: RunData) -> Estimate:
    """Distinct sensor updates inside one window; a count."""
    window = data.window(parameters["window"])
    sensor = data.sensor(parameters["sensor"])
    if sensor is None:
        raise ChannelUnavailableError(f"instrument '{window.instrument}' has no power channel.", channel="power_w")
    trace = data.trace(window.instrument)
    around = trace.between(window.t0_ns - COUNT_MARGIN * trace.period_ns, window.t1_ns)
    index = distinct_updates(around.t_ns, np.asarray(around.values("power_w")), sensor.update_period_s)
    inside = (around.t_ns[index] >= window.t0_ns) & (around.t_ns[index] <= window.t1_ns)
    return Estimate(
        value=float(np.count_nonzero(inside)),
        unit="update",
        provenance=provenance_of(data, window.instrument),
        estimator="count of updates",
    )


@leaf("window.read_error_fraction")
def window_read_errors(parameters: Parameters, data: RunData) -> Estimate:
    """Share of the reads of one channel that failed inside one window."""
    window = data.window(parameters["window"])
    values = data.trace(window.instrument).between(window.t0_ns, window.t1_ns).values(parameters["channel"])
    return Estimate(
        value=float(np.mean(~np.isfinite(values))) if len(values) else math.nan, unit="1",
        quality=Quality.GOOD if len(values) >= 3 else Quality.NO_DATA, provenance=provenance_of(data, window.instrument),
        estimator="count of reads",
    )  # fmt: skip


COUNT_MARGIN = 20
"""Samples before a window that tell where the sensor's updates lie."""
