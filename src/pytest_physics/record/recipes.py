"""Recipes: how each estimate is computed from a run's raw artifacts.

Every estimate carries its recipe. While the run goes on the session evaluates it; ``verify`` evaluates the same recipe on the recorded
artifacts with this same code, and the two must agree. A recipe is a leaf, registered below by name, or arithmetic on other recipes.

Leaves may depend only on their parameters and on :class:`~pytest_physics.record.data.RunData`, and on samples only in a span of time
that was complete when the estimate was first computed: otherwise a later sample would change a recorded number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from pytest_physics.clock import NS_PER_S
from pytest_physics.devices.base import ReadingKind
from pytest_physics.errors import ChannelUnavailableError, RecordError
from pytest_physics.metrology.baseline import MIN_UPDATES, IdleAssessment, IdleLimits, IdleSamples, assess_idle, drift_gate, no_idle
from pytest_physics.metrology.curves import LINEAR_LAW
from pytest_physics.metrology.host import HOST_LIMITS, canary_gate, host_gates
from pytest_physics.metrology.quality import Provenance, Quality
from pytest_physics.metrology.thermal import SECONDS_PER_MINUTE, SoakAssessment, SoakLimits, assess_soak
from pytest_physics.metrology.throttle import clock_parity
from pytest_physics.metrology.uncertainty import ARITHMETIC, Component, Estimate, Gate, Recipe, coverage_factor
from pytest_physics.metrology.updates import distinct_updates
from pytest_physics.record.counter_evaluation import COUNTER_LEAVES
from pytest_physics.record.data import RunData
from pytest_physics.record.identification import timing_estimate
from pytest_physics.record.memory_recipes import MEMORY_LEAVES
from pytest_physics.record.repetition_energy import batch_mean, cross_checked, latency_estimate, phase_average, repetitions_of
from pytest_physics.record.scale import on_true_scale
from pytest_physics.record.schema import BaselineRecord, GateRecord, PhaseRecord, WindowRecord, finite_or_none
from pytest_physics.record.sensor_checks import SENSOR_LEAVES
from pytest_physics.record.window_energy import CALIBRATED, energy_estimate, energy_reach_ns, true_energy, true_energy_between
from pytest_physics.sampling.statistics import sampler_statistics
from pytest_physics.sampling.trace import Trace

Parameters = Mapping[str, Any]
Leaf = Callable[[Parameters, RunData], Estimate]
Truth = Callable[[Parameters, RunData], Estimate | None]

LEAVES: dict[str, Leaf] = {}
TRUTHS: dict[str, Truth] = {}
SENSED = frozenset({"window.energy", "repetition.phase_average"})
"""Leaves that need the readings of the sensor's tail after their windows."""
MEMORY_FILES = {"c": "probes.jsonl", "a": "allocations.jsonl"}
"""Files of the records that memory's leaves name, by the letter of their ids."""
MOST_REMEMBERED = 1000
"""Estimates kept in memory, at most."""
COMPOSITES: Mapping[str, Callable[..., Estimate]] = {**ARITHMETIC, **LINEAR_LAW, "batches": batch_mean, "cross_checked": cross_checked}


def evaluate(recipe: Recipe, data: RunData) -> Estimate:
    """Compute ``recipe`` from ``data``; raises ``RecordError`` for an operation this version does not know."""
    if recipe.op in COMPOSITES:
        estimate = COMPOSITES[recipe.op]([evaluate(part, data) for part in recipe.inputs], **recipe.parameters)
        return replace(estimate, recipe=recipe, gates=(*estimate.gates, *_parity_gates(recipe, data)))
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
    if recipe.op in TRUTHS:
        return TRUTHS[recipe.op](recipe.parameters, data)
    parts = [part for part in (_truth(part, data) for part in recipe.inputs) if part is not None]
    if recipe.op not in COMPOSITES or len(parts) != len(recipe.inputs):
        return None
    return COMPOSITES[recipe.op](parts, **recipe.parameters)


def _exactly(value: float | None, unit: str) -> Estimate | None:
    return None if value is None else Estimate.exact(value, unit)


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


def _parity_gates(recipe: Recipe, data: RunData) -> tuple[Gate, ...]:
    """Where energies of different windows of one device are compared, they must have run at the same clock."""
    if recipe.op not in {"divide", "subtract"}:
        return ()
    first, second = (_energy_windows(part) for part in recipe.inputs)
    if not first or not second or first & second:
        return ()
    instruments = {data.window(name).instrument for name in first | second}
    if len(instruments) > 1 or not data.trace(next(iter(instruments))).has("sm_clock_hz"):
        return ()
    arms = {_arm_name(group, data): _median_clock(group, data) for group in (first, second)}
    return (clock_parity(arms, scope=" against ".join(arms)),) if len(arms) == 2 else ()


def _energy_windows(recipe: Recipe) -> frozenset[str]:
    return frozenset(str(part.parameters["window"]) for part in recipe.leaves() if part.op == "window.energy")


def _arm_name(windows: frozenset[str], data: RunData) -> str:
    """Name and labels of the windows of one arm, repetitions apart."""
    window = data.window(min(windows))
    labels = ", ".join(f"{key} {value}" for key, value in window.labels.items() if key not in {"repetition", "phase"})
    return f"{window.name} {labels}".strip()


def _median_clock(windows: frozenset[str], data: RunData) -> float:
    parts = []
    for name in sorted(windows):
        window = data.window(name)
        parts.append(data.trace(window.instrument).between(window.t0_ns, window.t1_ns).values("sm_clock_hz"))
    clocks = np.concatenate(parts)
    known = clocks[np.isfinite(clocks)]
    return float(np.median(known)) if len(known) else math.nan


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
        return _soak_of(requirement.parameters, data).gates
    raise RecordError(f"unknown requirement '{requirement.op}'; use the pytest-physics version that wrote this run.")


def leaf(op: str, *, truth: Truth | None = None) -> Callable[[Leaf], Leaf]:
    """Register a leaf recipe under ``op``, with the way to its true value on a twin."""

    def register(function: Leaf) -> Leaf:
        LEAVES[op] = function
        if truth is not None:
            TRUTHS[op] = truth
        return function

    return register


# --- numbers that are not measured -----------------------------------------------------------------------------------


def _constant_truth(parameters: Parameters, _data: RunData) -> Estimate:
    return Estimate.exact(parameters["value"], parameters["unit"])


@leaf("constant", truth=_constant_truth)
def _constant(parameters: Parameters, _data: RunData) -> Estimate:
    return Estimate.exact(parameters["value"], parameters["unit"])


@leaf("given")
def _given(parameters: Parameters, _data: RunData) -> Estimate:
    dof = parameters.get("dof")
    return Estimate.given(
        parameters["value"],
        parameters["unit"],
        u=parameters["u"],
        dof=math.inf if dof is None else dof,
        label=parameters["label"],
        provenance=Provenance(parameters["provenance"]),
    )


# --- windows ---------------------------------------------------------------------------------------------------------


def _duration_truth(parameters: Parameters, data: RunData) -> Estimate:
    window = data.window(parameters["window"])
    return Estimate.exact((window.t1_ns - window.t0_ns) / NS_PER_S, "s")


@leaf("window.duration", truth=_duration_truth)
def window_duration(parameters: Parameters, data: RunData) -> Estimate:
    """Length of one window in seconds; both ends carry the clock's resolution."""
    window = data.window(parameters["window"])
    resolution_s = data.instrument(window.instrument).clock_resolution_ns / NS_PER_S
    clock = Component(
        label="clock resolution",
        source=f"clock|{window.id}",
        contribution=resolution_s / math.sqrt(6),  # of two ends: triangular, near enough to normal
    )
    return Estimate(
        value=(window.t1_ns - window.t0_ns) / NS_PER_S,
        unit="s",
        components=(clock,),
        provenance=_provenance(data, window.instrument),
        estimator="clock",
        gates=(*_clock_runs(window), *_host_gates(data, window.t0_ns, window.t1_ns, window.instrument, window.id)),
    )


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
        provenance=_provenance(data, instrument),
        estimator="median of windows",
        gates=(*_host_gates(data, t0, t1, instrument, scope), *_canary_gates(data, *canaries, scope=scope)),
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


def _host_gates(data: RunData, t0_ns: int, t1_ns: int, instrument: str, scope: str) -> tuple[Gate, ...]:
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


# --- energy ----------------------------------------------------------------------------------------------------------


@leaf("window.energy", truth=lambda parameters, data: _exactly(true_energy(parameters, data), "J"))
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
    )
    return replace(
        estimate,
        provenance=_provenance(data, window.instrument),
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
    estimate = phase_average(data, windows, kind=parameters["kind"], baselines=baselines, sensor=sensor, looks=parameters["looks"])
    return replace(
        estimate,
        provenance=_provenance(data, windows[0].instrument),
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
    host = _host_gates(data, windows[0].t0_ns, windows[-1].t1_ns, instrument, f"{windows[0].id} to {windows[-1].id}")
    return replace(estimate, provenance=_provenance(data, instrument), gates=(*estimate.gates, *host))


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
        value=float(np.count_nonzero(inside)), unit="update", provenance=_provenance(data, window.instrument), estimator="count of updates"
    )


@leaf("window.read_error_fraction")
def window_read_errors(parameters: Parameters, data: RunData) -> Estimate:
    """Share of the reads of one channel that failed inside one window."""
    window = data.window(parameters["window"])
    values = data.trace(window.instrument).between(window.t0_ns, window.t1_ns).values(parameters["channel"])
    return Estimate(
        value=float(np.mean(~np.isfinite(values))) if len(values) else math.nan, unit="1",
        quality=Quality.GOOD if len(values) >= 3 else Quality.NO_DATA, provenance=_provenance(data, window.instrument),
        estimator="count of reads",
    )  # fmt: skip


COUNT_MARGIN = 20
"""Samples before a window that tell where the sensor's updates lie."""


# --- baselines -------------------------------------------------------------------------------------------------------


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
    return _exactly(_true_mean_power(data, data.phase(data.baseline(parameters["baseline"]).phase)), "W")


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
    return Estimate(
        value=found.mean_w, unit="W", components=(noise, *scale), quality=Quality.GOOD if found.n >= 3 else Quality.NO_DATA,
        provenance=_provenance(data, record.instrument), gates=found.gates,
        estimator="mean of distinct updates" + (f", {CALIBRATED}" if sensor is not None and sensor.calibrated else ""),
    )  # fmt: skip


# --- the sensor ------------------------------------------------------------------------------------------------------


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
    return replace(estimate, provenance=_provenance(data, phase.instrument))


def _of_its_phase(evaluated: Leaf) -> Leaf:
    """An evaluation of recorded phases, with the provenance of the instrument."""

    def measured(parameters: Parameters, data: RunData) -> Estimate:
        return replace(evaluated(parameters, data), provenance=_provenance(data, data.phase(parameters["phase"]).instrument))

    return measured


for _op, (_evaluated, _truth_of) in {**SENSOR_LEAVES, **COUNTER_LEAVES}.items():
    leaf(_op, truth=_truth_of)(_of_its_phase(_evaluated))


for _op, (_evaluated, _truth_of) in MEMORY_LEAVES.items():
    leaf(_op, truth=_truth_of)(_evaluated)


# --- heat soak -------------------------------------------------------------------------------------------------------


def soak_assessment(data: RunData, instrument: str, t0_ns: int, t1_ns: int) -> SoakAssessment:
    """State of a heat soak whose load came on at ``t0_ns``, from the samples up to ``t1_ns``."""
    before_ns = 10 * NS_PER_S
    trace = data.trace(instrument).between(t0_ns - before_ns, t1_ns)
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


def _soak_of(parameters: Parameters, data: RunData) -> SoakAssessment:
    phase = data.phase(parameters["phase"])
    return soak_assessment(data, phase.instrument, phase.t0_ns, int(phase.t1_ns or phase.t0_ns))


def _slope_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    """Least-squares slope of the twin's true die temperature over the same window."""
    phase = data.phase(parameters["phase"])
    table, found = data.truth_table(phase.instrument), _soak_of(parameters, data)
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
    found = _soak_of(parameters, data)
    half = (found.slope.high - found.slope.low) / 2 if found.slope else math.inf
    value = (found.slope.high + found.slope.low) / 2 if found.slope else math.nan
    estimator = found.slope.method if found.slope else "none"
    return _thermal_estimate(parameters, data, found, value=value, half=half, unit="°C/min", estimator=estimator)


@leaf("soak.plateau", truth=_plateau_truth)
def soak_plateau(parameters: Parameters, data: RunData) -> Estimate:
    """Fitted final temperature of a soak, °C."""
    found = _soak_of(parameters, data)
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
        provenance=_provenance(data, phase.instrument), estimator=estimator, gates=found.gates,
    )  # fmt: skip


# --- sampler ---------------------------------------------------------------------------------------------------------


def phase_trace(data: RunData, phase: PhaseRecord) -> Trace:
    """Samples of a phase."""
    return data.trace(phase.instrument).between(phase.t0_ns, int(phase.t1_ns or phase.t0_ns))


def _sampler_leaf(name: str, unit: str, value: Callable[[Any], float]) -> None:
    @leaf(name)
    def measured(parameters: Parameters, data: RunData) -> Estimate:
        phase = data.phase(parameters["phase"])
        record = data.instrument(phase.instrument)
        found = sampler_statistics(data.trace(phase.instrument), record.origin_ns, phase.t0_ns, phase.t1_ns)
        return Estimate(
            value=value(found), unit=unit, quality=Quality.GOOD if found.taken >= 3 else Quality.NO_DATA,
            provenance=_provenance(data, phase.instrument), estimator="count of ticks",
        )  # fmt: skip


_sampler_leaf("sampler.dropped", "tick", lambda found: float(found.dropped))
_sampler_leaf("sampler.drop_fraction", "1", lambda found: float(found.drop_fraction))
_sampler_leaf("sampler.longest_gap", "period", lambda found: float(found.longest_gap_periods))
_sampler_leaf("sampler.lateness_p95", "s", lambda found: float(found.lateness.p95_s))
_sampler_leaf(
    "sampler.read_error_fraction", "1", lambda found: max(found.read_errors.values(), default=0) / found.taken if found.taken else math.nan
)


def _provenance(data: RunData, instrument: str) -> Provenance:
    """Weakest provenance among the instrument's channels."""
    record = data.instrument(instrument)
    parts = {Provenance(channel.provenance) for channel in record.channels if channel.kind != ReadingKind.STATE.value}
    return Provenance.weakest(*parts)
