"""Estimates about imported recordings: what a channel says with the problems found in it as gates, and what a legacy index recomputes to.

Nothing here is measured by this package: provenance is at best *stale*. Constants, computed channels, repeats, formulas, gaps and cadence
are looked for again each time, from the trace, so ``verify`` finds them too.
"""

from __future__ import annotations

import math

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.metrology.autocorrelation import FloatArray, series_mean
from pytest_physics.metrology.channel_checks import GAP_PERIODS, ChannelChecks, check_channels
from pytest_physics.metrology.quality import Provenance, tier
from pytest_physics.metrology.rle import IndexSeries, metric_v1, metric_v2, rle_v1, rle_v2
from pytest_physics.metrology.uncertainty import Component, Estimate, coverage_factor
from pytest_physics.record.data import RunData
from pytest_physics.record.registry import Parameters, leaf, phase_trace
from pytest_physics.sampling.trace import Trace

NOMINAL_S = 1.0
"""Period that both monitors state."""
HOLDING = frozenset({"frequency_hz", "sm_clock_hz", "memory_used_bytes"})
"""Channels that hold their value by nature."""
UNITS = {"_w": "W", "_c": "°C", "_hz": "Hz", "_bytes": "B", "_ratio": "1"}
MAX_GAP_PERIODS = 10.0
V1_RESTART_ROWS = 10
"""Rows after a restart of monitor v1 whose buffers began anew; nothing in the file says so but the gap."""
LOGGED = ("rle_smoothed", "rle_raw", "E_th", "E_pw", "t_sustain_s", "rolling_peak", "collapse")
"""Columns that the monitors computed; kept as a table beside the trace."""


def unit_of(channel: str) -> str:
    """Unit of a channel, from its name."""
    return next((unit for ending, unit in UNITS.items() if channel.endswith(ending)), "1")


def seconds(trace: Trace) -> FloatArray:
    """Times of a trace in seconds from its first sample."""
    return np.asarray((trace.t_ns - trace.t_ns[0]) / NS_PER_S, dtype=np.float64)


def imported_checks(data: RunData, instrument: str) -> ChannelChecks:
    """The checks over all channels of an imported instrument, once per run."""
    key = f"imported|{instrument}"
    if key not in data.memory:
        trace = data.trace(instrument)
        channels = {name: trace.values(name) for name in trace.channels}
        data.memory[key] = check_channels(seconds(trace), channels, nominal_s=NOMINAL_S, holding=HOLDING, scope=instrument)
    found: ChannelChecks = data.memory[key]
    return found


@leaf("imported.channel_mean")
def channel_mean(parameters: Parameters, data: RunData) -> Estimate:
    """Mean of a channel over a phase, with every problem of its recording as a gate."""
    name, phase = str(parameters["channel"]), data.phase(str(parameters["phase"]))
    trace = phase_trace(data, phase)
    checks = imported_checks(data, phase.instrument)
    values = trace.values(name)
    known = np.isfinite(values)
    found = series_mean(values[known])
    t_s = seconds(trace)[known]
    intervals = np.diff(t_s)
    period_s = float(np.median(intervals))
    gaps = intervals[intervals > GAP_PERIODS * period_s]
    quality = tier(
        n_updates=int(np.count_nonzero(np.diff(values[known]))) + 1 if found.standard_deviation else 1,
        gap_fraction=float(gaps.sum() / intervals.sum()), longest_gap_s=float(intervals.max()), max_gap_s=MAX_GAP_PERIODS * period_s,
        bracketed=True, duration_s=float(t_s[-1] - t_s[0]),
        relative_uncertainty=coverage_factor(found.dof) * found.u / abs(found.mean) if found.mean else math.inf,
    )  # fmt: skip
    source = f"imported|{phase.instrument}|{name}"
    component = Component(label="scatter", source=source, contribution=found.u, dof=found.dof, evaluation="A")
    gates = tuple(gate for gate in checks.gates if gate.scope in {phase.instrument, f"{phase.instrument}: {name}"})
    return Estimate(
        value=found.mean, unit=unit_of(name), components=(component,) if found.u else (), quality=quality,
        provenance=Provenance.weakest(Provenance.STALE, checks.provenance[name]), estimator="mean of imported rows", gates=gates,
    )  # fmt: skip


@leaf("imported.index_difference")
def index_difference(parameters: Parameters, data: RunData) -> Estimate:
    """How far a legacy index, recomputed from the trace, is from what its monitor logged.

    ``rle/v2``: largest difference over all rows and columns. ``rle/v1``: median relative difference of the raw index away from restarts,
    for its columns are rounded.
    """
    instrument, metric = str(parameters["instrument"]), str(parameters["metric"])
    logged = data.table(str(parameters["table"]))
    computed = legacy_index(data.trace(instrument), instrument, metric)
    if metric == "rle/v2":
        columns = {
            "rle_smoothed": computed.smoothed, "rle_raw": computed.raw, "E_th": computed.thermal_factor, "E_pw": computed.power_factor,
            "t_sustain_s": computed.sustain_s, "rolling_peak": computed.rolling_peak, "collapse": computed.collapse,
        }  # fmt: skip
        value = max(float(np.nanmax(np.abs(np.asarray(column, dtype=np.float64) - logged[name]))) for name, column in columns.items())
    else:
        value = _median_relative(computed.raw, logged["rle_raw"], seconds(data.trace(instrument)))
    return Estimate(value=value, unit="1", provenance=Provenance.STALE, estimator=f"recomputed {computed.metric.identity}")


def _median_relative(computed: FloatArray, logged: FloatArray, t_s: FloatArray) -> float:
    """Median relative difference without the rows in which the monitor's buffers were young."""
    intervals = np.diff(t_s)
    restarts = np.append(0, np.flatnonzero(intervals > GAP_PERIODS * float(np.median(intervals))) + 1)
    old = np.ones(t_s.size, dtype=bool)
    for start in restarts.tolist():
        old[start : start + V1_RESTART_ROWS] = False
    kept = old & np.isfinite(logged) & (logged != 0)
    return float(np.median(np.abs(computed[kept] / logged[kept] - 1))) if kept.any() else math.nan


def legacy_index(trace: Trace, device: str, metric: str) -> IndexSeries:
    """``rle/v1`` or ``rle/v2`` of a trace of ``gpu`` or ``cpu``, with the monitors' constants."""
    kind = device if device in {"gpu", "cpu"} else "gpu"
    utilisation_pct = 100 * trace.values("utilisation_cpu_ratio" if trace.has("utilisation_cpu_ratio") else "utilisation_ratio")
    absent = np.full(len(trace), np.nan)
    temperature_c = np.asarray(trace.values("temperature_c")) if trace.has("temperature_c") else absent
    power_w = np.asarray(trace.values("power_w")) if trace.has("power_w") else absent
    if metric == "rle/v2":
        return rle_v2(utilisation_pct, temperature_c, metric=metric_v2(kind))
    return rle_v1(utilisation_pct, temperature_c, power_w, metric=metric_v1(kind))
