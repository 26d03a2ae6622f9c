"""Run directories made by hand: what a report is built from, without a device, a sampler or a session.

Every artifact goes through the record schema and the trace format, so that these runs are as valid as real ones.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pytest_physics.metrology.decision import Verdict, all_gates, decide
from pytest_physics.metrology.quality import Provenance, Quality
from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.uncertainty import Comparison, Component, Estimate, Gate, Recipe, mean
from pytest_physics.record.reader import trace_name
from pytest_physics.record.schema import (
    AnchorRecord,
    BaselineRecord,
    ChannelRecord,
    ClaimRecord,
    EstimateRecord,
    FingerprintRecord,
    GateRecord,
    InstrumentRecord,
    PhaseRecord,
    ResultRecord,
    RunRecord,
    SensorRecord,
    WindowRecord,
    decision_fields,
)
from pytest_physics.record.writer import RunWriter
from pytest_physics.sampling.trace import header, row_format

NS = 1_000_000_000
HOSTILE = "<script>alert(1)</script>\"'&$x^{ \x07</"
"""A name that attacks HTML, attributes, XML and mathematical text."""


def write_trace(path: Path, instrument: str, t_ns: Sequence[int], columns: Mapping[str, np.ndarray], *, period_ns: int) -> None:
    """A trace in the sampler's own format; NaN becomes a failed read."""
    names = list(columns)
    values = np.column_stack([columns[name] for name in names])
    row = struct.Struct(row_format(len(names)))
    parts = [header(names, len(t_ns))]
    for t, line in zip(t_ns, values.tolist(), strict=True):
        errors = [999 if math.isnan(v) else 0 for v in line]
        parts.append(row.pack(round((t - t_ns[0]) / period_ns), t, t + 90_000, *line, *errors))
    (path / trace_name(instrument)).write_bytes(b"".join(parts))


def instrument(name: str, *, kind: str, channels: Mapping[str, str], period_ns: int, end_ns: int | None, **more: Any) -> InstrumentRecord:
    """An instrument record; ``channels`` maps names to kinds."""
    provenance = "simulated" if kind == "twin" else "measured"
    source = {"twin": "twin", "cpu": "/proc/stat"}.get(kind, "NVML")
    return InstrumentRecord(
        name=name,
        spec=f"{kind}:a100",
        clock="virtual" if kind == "twin" else "perf_counter",
        clock_resolution_ns=1,
        fingerprint=FingerprintRecord(
            kind=kind,
            name=f"{kind} of a test",
            identity="GPU-0000",
            digest="0123456789ab",
            details={"driver": "570.86.10", "power limit": "400 W"},
        ),
        period_ns=period_ns,
        origin_ns=0,
        channels=[ChannelRecord(name=n, kind=k, resolution=0.1, provenance=provenance, source=source) for n, k in channels.items()],
        scheduling="virtual time" if kind == "twin" else "nice -5",
        started=AnchorRecord(utc="2026-11-20T08:00:00.000Z", t_ns=0),
        ended=None if end_ns is None else AnchorRecord(utc="2026-11-20T08:11:40.000Z", t_ns=end_ns),
        sampler_state="running" if end_ns is None else "stopped",
        **{"absent": {}, **more},
    )


def run_record(instruments: Sequence[InstrumentRecord], phases: Sequence[PhaseRecord] = (), **more: Any) -> RunRecord:
    """``run.json`` of a completed run, unless told otherwise."""
    fields: dict[str, Any] = {
        "run_id": "20261120T080000Z-c0ffee",
        "state": "completed",
        "end_reason": "finished",
        "started_utc": "2026-11-20T08:00:00.000Z",
        "ended_utc": "2026-11-20T08:11:41.000Z",
        "command": ["pytest", "bench/", "--physics", "--physics-profile=quick"],
        "profile": "quick",
        "config": {
            "sampling": {"gap_threshold_s": 0.25},
            "baseline": {"duration_s": 60.0, "max_drift_w": 1.0},
            "soak": {"max_slope_c_per_min": 0.5},
            "seed": 1,
        },
        "config_sha256": "5f" * 32,
        "instruments": {i.name: i for i in instruments},
        "phases": list(phases),
        "git": {"commit": "3daa27f0c4b1e6d2a9f8b7c6d5e4f3a2b1c0d9e8", "dirty": "no", "branch": "main"},
        "environment": {"python": "3.12.3", "numpy": "2.4.6", "kernel": "6.8.0", "cpu": "2 cores"},
    }
    return RunRecord(**{**fields, **more})


def energy(value: float, unit: str, *, scatter: float = 0.02, dof: float = 18.0, key: str = "w", gates: Sequence[Gate] = ()) -> Estimate:
    """A simulated energy-like estimate with a plausible budget and recipe."""
    components = (
        Component(label="gain", source="gain|gpu", contribution=value * 0.037, common_scale=True, distribution="normal"),
        Component(label="noise", source=f"noise|{key}", contribution=value * scatter, dof=dof, evaluation="A"),
        Component(label="idle baseline", source="baseline|b1", contribution=value * 0.006, dof=42.0, evaluation="A"),
        Component(label="window edges", source=f"edges|{key}", contribution=value * 0.004, distribution="rectangular"),
    )
    recipe = Recipe(
        op="divide",
        inputs=(
            Recipe(op="energy", parameters={"window": f"decode-{key}", "instrument": "gpu", "net": True, "baselines": ["b1", "b2"]}),
            Recipe(op="constant", parameters={"value": 512.0, "unit": "token"}),
        ),
    )
    return Estimate(
        value=value,
        unit=unit,
        components=components,
        quality=Quality.BILLABLE,
        provenance=Provenance.SIMULATED,
        estimator="extended window",
        gates=tuple(gates),
        recipe=recipe,
    )


def gate(name: str, scope: str, measured: float | None, limit: float | None, unit: str, *, passed: bool = True, **more: Any) -> Gate:
    """A gate with the sentence that real ones carry."""
    reason = more.pop("reason", f"{name} in {scope} was {measured} {unit} (limit {limit} {unit})")
    return Gate(name=name, scope=scope, measured=measured, limit=limit, unit=unit, passed=passed, reason=reason, **more)


def claim(
    name: str, statement: str, comparison: Comparison | None, *, gates: Sequence[Gate] = (), truth: float | None = None, **more: Any
) -> ClaimRecord:
    """A claim judged by the product's own decision rule; without a comparison it is NOT_TESTED."""
    fields: dict[str, Any] = {"verdict": Verdict.NOT_TESTED, "reason": "this rig has no such channel"}
    if comparison is not None:
        fields = {
            **decision_fields(decide(comparison, gates)),
            "operator": comparison.operator,
            "limit": comparison.limit,
            "estimate": EstimateRecord.of(comparison.estimate),
            "gates": [GateRecord.of(g) for g in all_gates(comparison, gates)],
            "own_gates": [GateRecord.of(g) for g in gates],
            "recipe": comparison.estimate.recipe.to_json(),
            "evidence": ["windows.jsonl", "trace-gpu.npy"],
        }
    fields.update(more)
    return ClaimRecord(
        id=name, statement=statement, test=f"bench/test_demo.py::test_{name}", source="bench/test_demo.py:42", truth=truth, **fields
    )


def result(experiment: str, what: str, estimate: Estimate, *, truth: float | None = None, **coordinates: str | float) -> ResultRecord:
    """A reported estimate."""
    key = "-".join(str(v) for v in coordinates.values())
    return ResultRecord(
        id=f"{experiment}/{what}/{key}",
        experiment=experiment,
        quantity=what,
        coordinates=coordinates,
        truth=truth,
        estimate=EstimateRecord.of(estimate),
        gates=[GateRecord.of(g) for g in estimate.gates],
        recipe=estimate.recipe.to_json(),
    )


# --- the complete run ---------------------------------------------------------------------------------------------------------

_BATCHES = (1, 2, 4, 8, 16)


def write_full_run(path: Path, *, seed: int = 7) -> Path:
    """A completed run on a twin and a real CPU, with every experiment and every verdict."""
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    spans = _phase_spans()
    end_ns = round(spans[-1][3] * NS)
    twin = instrument(
        "gpu",
        kind="twin",
        period_ns=25_000_000,
        end_ns=end_ns,
        channels={"power_w": "average", "energy_j": "counter", "temperature_c": "instant", "sm_clock_hz": "instant"},
        absent={"memory_temperature_c": "this preset has no memory sensor"},
        statistics={
            "period_s": 0.025,
            "taken": 27952,
            "dropped": 48,
            "lateness": {"median_s": 0.0, "p99_s": 0.0, "max_s": 1.2},
            "read_errors": {},
        },
    )
    cpu = instrument(
        "cpu",
        kind="cpu",
        period_ns=100_000_000,
        end_ns=end_ns,
        channels={"utilisation_cpu_ratio": "average", "own_wait_ns": "counter"},
        absent={
            "energy_j": "no powercap interface under /sys/class/powercap; a virtual machine does not pass RAPL on",
            "steal_ns": "/proc/stat has no steal column here",
        },
        statistics={
            "period_s": 0.1,
            "taken": 6990,
            "dropped": 10,
            "lateness": {"median_s": 8.1e-5, "p99_s": 1.9e-3, "max_s": 0.0141},
            "read_errors": {"own_wait_ns": 3},
        },
    )
    phases = [
        PhaseRecord(id=f"{name}-{i}", instrument=where, name=name, t0_ns=round(t0 * NS), t1_ns=round(t1 * NS))
        for where in ("gpu", "cpu")
        for i, (name, _, t0, t1) in enumerate(spans)
    ]
    writer = RunWriter(path)
    banner = (
        "GPU numbers are simulated (twin preset 'a100'): NVML is not installed (libnvidia-ml.so.1 not found). "
        "They show what the analysis does with known physics, not what any GPU does."
    )
    writer.run(run_record([twin, cpu], phases, banner=[banner]))
    power_t, power = _write_gpu_trace(path, spans, rng)
    _write_cpu_trace(path, spans[-1][3], rng)
    writer.baselines(
        [_baseline(f"b{i}", power_t, power, span, 0.08 * i) for i, span in enumerate((s for s in spans if s[0] == "baseline"), 1)]
    )
    writer.sensors(
        [
            SensorRecord.of(
                SensorModel(
                    update_period_s=0.1,
                    u_update_period_s=0.0004,
                    window_s=0.025,
                    u_window_s=0.002,
                    delay_s=0.011,
                    u_delay_s=0.003,
                    origin="identified",
                ),
                record_id="gpu-s0",
                instrument="gpu",
                channel="power_w",
                evidence="phase gpu-p1",
            )
        ]
    )
    results = _results(rng)
    for record in results:
        writer.result(record)
    for record in _claims():
        writer.claim(record)
    for batch in _BATCHES:
        line = WindowRecord(
            id=f"w{batch}", instrument="gpu", name="decode", phase="joule curve-4", t0_ns=410 * NS, t1_ns=412 * NS, work={"token": 512.0}
        )
        writer.window_line(line.model_dump_json().encode() + b"\n")
    writer.close()
    return path


def _phase_spans() -> list[tuple[str, float, float, float]]:
    """Name, load in watts, start and end in seconds."""
    shape = [
        ("baseline", 0, 60),
        ("response", 120, 30),
        ("cool down", 0, 15),
        ("soak", 210, 300),
        ("joule curve", 150, 235),
        ("baseline", 0, 60),
    ]
    edges = [0.0, *itertools.accumulate(float(length) for _, _, length in shape)]
    return [(name, float(load), t0, t1) for (name, load, _), t0, t1 in zip(shape, edges, edges[1:], strict=False)]


def _write_gpu_trace(
    path: Path, spans: Sequence[tuple[str, float, float, float]], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    t = np.arange(0, spans[-1][3], 0.025)
    load = np.zeros_like(t)
    for name, watts, t0, t1 in spans:
        inside = (t >= t0) & (t < t1)
        swing = (
            np.where((t % 15) < 11, 1.0, 0.12) if name == "joule curve" else np.where((t % 4) < 2, 1.0, 0.0) if name == "response" else 1.0
        )
        load += inside * watts * swing
    temperature = np.empty_like(t)
    theta = 34.0
    for i, watts in enumerate(load):
        theta += 0.025 / 55.0 * (31.0 + 0.19 * watts - theta)
        temperature[i] = theta
    held = np.repeat(np.arange(0, len(t), 4), 4)[: len(t)]  # the sensor updates every fourth sample
    power = (62.0 + load + 0.15 * (temperature - 34) + rng.normal(0, 0.9, len(t)))[held]
    kept = (t < 505.0) | (t > 506.2)
    power[(t > 300) & (t < 300.3)] = np.nan
    clock = np.where(load > 20, 1410e6, 210e6)
    energy_j = np.cumsum(np.nan_to_num(power, nan=272.0)) * 0.025
    columns = {"power_w": power, "energy_j": energy_j, "temperature_c": np.round(temperature), "sm_clock_hz": clock}
    t_ns = [round(x * NS) for x in t[kept]]
    write_trace(path, "gpu", t_ns, {k: v[kept] for k, v in columns.items()}, period_ns=25_000_000)
    return t[kept], power[kept]


def _write_cpu_trace(path: Path, end_s: float, rng: np.random.Generator) -> None:
    ticks = np.arange(0, end_s, 0.1)
    ticks = np.delete(ticks, [1200, 1201, 3000, 3001, 3002, 4400, 5000, 5001, 5200, 6000])
    late = rng.lognormal(-9.4, 0.55, len(ticks)) + (rng.random(len(ticks)) < 0.004) * rng.exponential(0.004, len(ticks))
    utilisation = np.clip(0.25 + 0.3 * ((ticks % 15) < 11) + rng.normal(0, 0.05, len(ticks)), 0, 1)
    wait = np.cumsum(rng.exponential(2e5, len(ticks)))
    t_ns = [round(x * NS) for x in ticks + late]
    write_trace(path, "cpu", t_ns, {"utilisation_cpu_ratio": utilisation, "own_wait_ns": wait}, period_ns=100_000_000)


def _baseline(name: str, t: np.ndarray, power: np.ndarray, span: tuple[str, float, float, float], drift: float) -> BaselineRecord:
    inside = np.flatnonzero((t > span[2] + 5) & (t < span[3]))[::4]
    y = power[inside] + drift
    gates = [gate("idle stationarity", f"baseline {name}", 0.4, 1.0, "W"), gate("autocorrelation", f"baseline {name}", 41.0, 10.0, "1")]
    return BaselineRecord(
        id=name,
        instrument="gpu",
        phase=f"baseline-{name}",
        sensor="gpu-s0",
        t0_ns=round(span[2] * NS),
        t1_ns=round(span[3] * NS),
        mean_w=float(y.mean()),
        u_w=float(y.std(ddof=1) / math.sqrt(42)),
        dof=41.0,
        n=len(y),
        n_eff=42.0,
        ddof=1,
        standard_deviation_w=float(y.std(ddof=1)),
        minimum_w=float(y.min()),
        maximum_w=float(y.max()),
        median_w=float(np.median(y)),
        gates=[GateRecord.of(g) for g in gates],
        t_ns=[round(x * NS) for x in t[inside]],
        power_w=[float(v) for v in y],
        truth_w=62.1,
    )


def _per_token(phase: str, batch: int) -> float:
    return {"prefill": 0.004, "decode": 0.021}[phase] * (0.18 + 0.82 / batch)


def _results(rng: np.random.Generator) -> list[ResultRecord]:
    out = []
    for phase, batch in itertools.product(("prefill", "decode"), _BATCHES):
        truth = _per_token(phase, batch)
        energy_estimate = energy(truth * (1 + rng.normal(0, 0.035)), "J/token", key=f"{phase}{batch}")
        out.append(result("joule curve", "energy per token (net)", energy_estimate, truth=truth, batch=batch, phase=phase))
        latency = truth / 90.0
        out.append(
            result("joule curve", "latency per token", energy(latency, "s/token", scatter=0.004), truth=latency, batch=batch, phase=phase)
        )
    slope = energy(0.11, "°C/min", scatter=0.3, gates=[gate("soak slope", "soak", 0.11, 0.5, "°C/min")])
    out.append(result("heat soak", "plateau temperature", energy(71.2, "°C", scatter=0.003), truth=71.0, device="gpu"))
    out.append(result("heat soak", "temperature slope", slope, truth=0.08, device="gpu"))
    out.append(result("instrument response", "update period", energy(0.1, "s", scatter=0.004), truth=0.1, channel="power_w"))
    return out


def _claims() -> list[ClaimRecord]:
    one, eight = (mean([energy(_per_token("decode", b) * f, "J/token", key=f"{b}/{f}") for f in (0.99, 1.0, 1.012)]) for b in (1, 8))
    ratio = eight / one
    good = [gate("throttling", f"decode batch {b} repetition {r}", 0.0, 0.0, "s") for b in (1, 8) for r in (1, 2, 3)]
    good.append(gate("sampler gaps", "joule curve", 0.021, 0.1, "1"))
    drift = gate(
        "idle drift",
        "joule curve",
        4.1,
        1.0,
        "W",
        passed=False,
        reason="idle power drifted 4.1 W (limit 1.0 W) between the baselines at 0 s and 640 s",
        remedy="Let the machine settle, or raise 'baseline.max_drift_w'.",
    )
    foreign = gate(
        "foreign load",
        "latency",
        0.07,
        0.05,
        "1",
        passed=False,
        warning=True,
        reason="other processes used 7 % of the CPUs (limit 5 %) during 'latency'",
        remedy="Close what else runs here.",
    )
    return [
        claim(
            "batching_halves_the_energy",
            "Decoding at batch 8 costs at most half the energy per token of batch 1",
            ratio <= 0.5,
            gates=good,
            truth=_per_token("decode", 8) / _per_token("decode", 1),
        ),
        claim("idle_is_low", "The idle card draws at most 70 W", energy(62.3, "W", scatter=0.002) <= 70.0, truth=62.1),
        claim(
            "soak_is_flat",
            "After the soak the temperature rises by at most 0.5 °C per minute",
            energy(0.11, "°C/min", scatter=0.3) <= 0.5,
            truth=0.08,
        ),
        claim("prefill_is_cheap", "Prefill costs at most 2 mJ per token at batch 1", energy(0.00391, "J/token") <= 0.002, truth=0.004),
        claim(
            "decode_energy_is_stable",
            "Energy per token of batch 4 lies below 8.2 mJ",
            energy(0.0081, "J/token", key="x") <= 0.0082,
            truth=0.0081,
        ),
        claim(
            "long_context_costs_more",
            "A context of 1024 tokens costs at least 10 % more energy per token than 128",
            (energy(0.0231, "J/token", key="l") / energy(0.0205, "J/token", key="s")) >= 1.1,
            gates=[drift],
            truth=1.12,
        ),
        claim(
            "decode_is_fast",
            "Decoding takes at most 5 ms per token",
            energy(0.0031, "s/token", scatter=0.01) <= 0.005,
            gates=[foreign],
            attempt=1,
            verdict=Verdict.INVALID,
            reason="sampler gaps (latency): 31 % of the window (limit 10 %)",
        ),
        claim(
            "decode_is_fast",
            "Decoding takes at most 5 ms per token",
            energy(0.0031, "s/token", scatter=0.01) <= 0.005,
            gates=[foreign],
            attempt=2,
        ),
        claim(
            "memory_stays_cool",
            "The memory stays below 95 °C",
            None,
            reason="the device has no channel 'memory_temperature_c': this preset has no memory sensor",
        ),
        claim(
            "host_energy",
            "Host energy per token is at most a tenth of the card's",
            None,
            reason="the device 'cpu' has no channel 'energy_j': no powercap interface under /sys/class/powercap",
        ),
    ]


# --- ugly runs ----------------------------------------------------------------------------------------------------------------


def write_crashed_run(path: Path) -> Path:
    """A run that died in its soak: no end fields, an open phase, no claims, a torn last line."""
    path.mkdir(parents=True, exist_ok=True)
    gpu = instrument("gpu", kind="nvml", period_ns=50_000_000, end_ns=None, channels={"power_w": "instant", "temperature_c": "instant"})
    phases = [PhaseRecord(id="p1", instrument="gpu", name="soak", t0_ns=2 * NS)]
    writer = RunWriter(path)
    writer.run(run_record([gpu], phases, state="running", end_reason="running", ended_utc=None, git={}, environment={}))
    writer.window_line(b'{"id": "w1", "instr')
    writer.close()
    t = np.arange(0, 20, 0.05)
    columns = {"power_w": np.full(len(t), np.nan), "temperature_c": 40 + 10 * (1 - np.exp(-t / 8))}
    write_trace(path, "gpu", [round(x * NS) for x in t], columns, period_ns=50_000_000)
    return path


def write_hostile_run(path: Path) -> Path:
    """Names that attack the page, numbers that do not exist, and a trace of 10⁵ samples with NaNs."""
    path.mkdir(parents=True, exist_ok=True)
    gpu = instrument("gpu", kind="nvml", period_ns=10_000_000, end_ns=1000 * NS, channels={"power_w": "instant"}, absent={HOSTILE: HOSTILE})
    phases = [PhaseRecord(id=HOSTILE, instrument="gpu", name=HOSTILE, t0_ns=0, t1_ns=500 * NS)]
    writer = RunWriter(path)
    config = {HOSTILE: {"nested": [1, None, HOSTILE]}, "nothing": {}}
    writer.run(
        run_record([gpu], phases, banner=[HOSTILE], config=config, git={HOSTILE: HOSTILE}, command=["pytest", HOSTILE], end_reason=HOSTILE)
    )
    rng = np.random.default_rng(3)
    power = rng.normal(100, 3, 100_000)
    power[rng.random(100_000) < 0.02] = np.nan
    write_trace(path, "gpu", [i * 10_000_000 for i in range(100_000)], {"power_w": power}, period_ns=10_000_000)
    nothing = Estimate(value=math.nan, unit="J/token", quality=Quality.NO_DATA)
    bad = gate(HOSTILE, HOSTILE, None, None, HOSTILE, passed=False, reason=HOSTILE, remedy=HOSTILE)
    writer.claim(claim(HOSTILE, HOSTILE, nothing <= 1.0, gates=[bad], evidence=["javascript:alert(1)", HOSTILE]))
    writer.claim(claim("zero", "An estimate without uncertainty", Estimate.exact(0.0) <= 0.0))
    writer.result(result(HOSTILE, HOSTILE, nothing, truth=None, **{HOSTILE: HOSTILE}))
    writer.result(result("joule curve", "energy per token (net)", nothing, truth=1.0, batch=1, phase=HOSTILE))
    empty = BaselineRecord(
        id="b",
        instrument="gpu",
        phase="p",
        sensor="gpu-s0",
        t0_ns=0,
        t1_ns=1,
        mean_w=None,
        u_w=None,
        dof=None,
        n=0,
        n_eff=None,
        ddof=1,
        standard_deviation_w=None,
        minimum_w=None,
        maximum_w=None,
        median_w=None,
        gates=[],
        t_ns=[],
        power_w=[],
    )
    writer.baselines([empty])
    writer.close()
    (path / "a file & <name>.txt").write_text("x")
    return path


def write_cpu_run(path: Path) -> Path:
    """A run without a GPU, a twin or a claim."""
    path.mkdir(parents=True, exist_ok=True)
    cpu = instrument("cpu", kind="cpu", period_ns=100_000_000, end_ns=10 * NS, channels={"utilisation_cpu_ratio": "average"})
    writer = RunWriter(path)
    writer.run(run_record([cpu], banner=["There is no GPU here: NVML does not answer."], profile="publish"))
    writer.close()
    t = np.arange(0, 10, 0.1)
    write_trace(path, "cpu", [round(x * NS) for x in t], {"utilisation_cpu_ratio": np.full(len(t), 0.5)}, period_ns=100_000_000)
    return path


def embedded_data(html: str) -> Any:
    """The machine-readable block of a report."""
    start = html.index(">", html.index('id="data"')) + 1
    return json.loads(html[start : html.index("</script>", start)])
