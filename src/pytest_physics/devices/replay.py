"""A recorded trace as a device, so that every analysis runs again on old data.

Its clock is virtual and starts at the first recorded sample, so times of the recording keep their meaning. At any instant it
shows the last row recorded at or before; rows that came late by less than a tenth of the period count as on time, so that
replaying on the recorded grid gives the recorded rows back, one for one. Before the first row, and where the last one is
older than the gap threshold, it shows nothing: a gap stays a gap.

Kinds, provenance, fingerprint and sensor come from the run's ``run.json`` and ``sensor.json`` where they lie beside the
trace. Without them the provenance is ``assumed``: nobody says whether a card or a simulation wrote the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_physics.clock import NS_PER_S, VirtualClock
from pytest_physics.devices.base import ERROR_OTHER, Channel, DeviceSpec, Fingerprint, ReadingKind
from pytest_physics.errors import ConfigurationError, DeviceUnavailableError, RecordError
from pytest_physics.metrology.quality import Provenance
from pytest_physics.metrology.response import SensorModel
from pytest_physics.sampling.trace import FloatArray, IntArray, Trace

GAP_PERIODS = 2.5
"""A row older than this many periods is no longer shown."""
_ON_TIME_PERIODS = 0.1
_PARAMETERS = {"path", "instrument", "gap_periods"}
_COUNTERS = ("_ns", "_j", "_faults")
_STATES = ("performance_state", "event_reasons")


class ReplayDevice:
    """Shows what a trace recorded, on a virtual clock."""

    def __init__(self, path: Path, *, instrument: str | None = None, gap_periods: float = GAP_PERIODS) -> None:
        if not gap_periods >= 1:
            raise ConfigurationError(f"'gap_periods' must be >= 1 (got {gap_periods}): a row must live until the next one.")
        trace_path = _trace_path(Path(path), instrument)
        self._recorded = _instrument_record(trace_path)
        self.trace = _load(trace_path, self._recorded)
        """The recording itself, for analyses that need no replay."""
        self._starts: IntArray = np.asarray(self.trace.rows["t_before_ns"])
        self._gap_ns = round(gap_periods * self.trace.period_ns)
        self._channels = tuple(_channel(name, self._recorded, trace_path.name) for name in self.trace.channels)
        self._sensor = _sensor(trace_path, self.trace)
        self.clock = VirtualClock(name=f"replay of {self._recorded.get('clock', 'a recording')}", start_ns=int(self._starts[0]))
        parameters = {"path": str(path), "instrument": self.trace.instrument, "gap_periods": gap_periods}
        self.spec = DeviceSpec(kind="replay", parameters=parameters)

    @property
    def channels(self) -> Sequence[Channel]:
        """The recorded channels."""
        return self._channels

    @property
    def absent(self) -> Mapping[str, str]:
        """What the recorded device had not."""
        return {name: f"not recorded: {reason}" for name, reason in self._recorded.get("absent", {}).items()}

    @property
    def fingerprint(self) -> Fingerprint:
        """Kind ``replay``; the recorded device's own fingerprint is in the details."""
        original = self._recorded.get("fingerprint", {})
        details = {f"recorded_{name}": str(value) for name, value in original.get("details", {}).items()}
        details["recorded_kind"] = str(original.get("kind", "unknown"))
        return Fingerprint(
            kind="replay",
            name=f"replay of {original.get('name', self.trace.instrument)}",
            identity=str(original.get("identity", "unknown")),
            details=details,
        )

    @property
    def sensor(self) -> SensorModel | None:
        """The recorded sensor model; else a prior from how often the readings change; None without ``power_w``."""
        return self._sensor

    @property
    def sampling_period_s(self) -> float:
        """Period of the recording."""
        return self.trace.period_ns / NS_PER_S

    @property
    def end_ns(self) -> int:
        """Start of the last recorded read; beyond it there is nothing."""
        return int(self._starts[-1])

    def sample(self, t_ns: ArrayLike) -> tuple[FloatArray, NDArray[np.uint16]]:
        """Rows shown at the instants ``t_ns``: values and error codes, both of shape (N, C)."""
        t = np.asarray(t_ns, dtype=np.int64)
        on_time_ns = round(_ON_TIME_PERIODS * self.trace.period_ns)
        row = np.searchsorted(self._starts, t + on_time_ns, side="right") - 1
        shown = (row >= 0) & (t - self._starts[row] <= self._gap_ns)
        rows = self.trace.rows[np.maximum(row, 0)]
        values = np.column_stack([rows[name] for name in self.trace.channels])
        values[~shown] = np.nan
        errors: NDArray[np.uint16] = np.where(shown[:, np.newaxis], rows["errors"], np.uint16(ERROR_OTHER))
        return values, errors

    def read(self) -> tuple[list[float], list[int]]:
        """What is shown now."""
        values, errors = self.sample([self.clock.now_ns()])
        return values[0].tolist(), errors[0].tolist()

    def close(self) -> None:
        """Nothing is open: the file is mapped."""


def open_device(spec: DeviceSpec) -> ReplayDevice:
    """Open a recording; parameters ``path`` (trace or run directory), ``instrument``, ``gap_periods``."""
    unknown = set(spec.parameters) - _PARAMETERS
    if unknown or "path" not in spec.parameters:
        wrong = f"has no parameter {', '.join(sorted(unknown))}" if unknown else "needs the parameter 'path'"
        raise ConfigurationError(f"the replay device {wrong}; it has {', '.join(sorted(_PARAMETERS))}.")
    parameters = dict(spec.parameters)
    return ReplayDevice(Path(parameters.pop("path")), **parameters)


def recorded_specs(spec: DeviceSpec) -> tuple[DeviceSpec, ...]:
    """One specification per instrument of the run directory that ``spec`` names, CPUs last; ``spec`` itself where there is one, or none."""
    path = Path(spec.parameters["path"])
    found = [trace.stem.removeprefix("trace-") for trace in sorted(path.glob("trace-*.npy"))] if path.is_dir() else []
    if "instrument" in spec.parameters or (len(found) < 2 and found != ["cpu"]):
        return (spec,)
    ordered = sorted(found, key=lambda name: name == "cpu")
    return tuple(DeviceSpec(kind="replay", parameters={**spec.parameters, "instrument": name}) for name in ordered)


def _trace_path(path: Path, instrument: str | None) -> Path:
    """The trace file that ``path`` and ``instrument`` mean."""
    if path.is_file():
        return path
    if not path.exists():
        raise DeviceUnavailableError(f"there is no recording at {path}; give a trace-<instrument>.npy or a run directory.")
    traces = {trace.stem.removeprefix("trace-"): trace for trace in sorted(path.glob("trace-*.npy"))}
    if not traces and any(path.glob("trace-*.npy.xz")):
        raise DeviceUnavailableError(f"the traces of {path} are packed; unpack a copy of it with 'xz -d *.xz' and replay that.")
    if not traces:
        raise DeviceUnavailableError(f"{path} holds no trace-<instrument>.npy; give a run directory or a trace file.")
    if instrument is None and len(traces) == 1:
        return next(iter(traces.values()))
    if instrument not in traces:
        asked = "say which one to replay" if instrument is None else f"there is no '{instrument}'"
        raise DeviceUnavailableError(f"{path} holds the instruments {', '.join(traces)}: {asked} (parameter 'instrument').")
    return traces[instrument]


def _json(path: Path) -> Any:  # noqa: ANN401 -- any JSON value
    """Content of a JSON file; None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be read ({error}); restore it, or replay a copy of the trace alone.") from error


def _instrument_record(trace_path: Path) -> Mapping[str, Any]:
    """What ``run.json`` beside the trace says of its instrument; empty where there is none."""
    run = _json(trace_path.with_name("run.json")) or {}
    record: Mapping[str, Any] = run.get("instruments", {}).get(trace_path.stem.removeprefix("trace-"), {})
    return record


def _load(trace_path: Path, recorded: Mapping[str, Any]) -> Trace:
    instrument = trace_path.stem.removeprefix("trace-")
    trace = Trace.load(trace_path, instrument=instrument, period_ns=int(recorded.get("period_ns", 1)))
    if not len(trace):
        raise DeviceUnavailableError(f"{trace_path} holds no samples: its run ended before the first one. Replay another run.")
    if np.any(np.diff(trace.rows["t_before_ns"]) <= 0):
        raise RecordError(f"{trace_path} is damaged: its times do not increase. Restore it, or run the measurement again.")
    return trace if "period_ns" in recorded else Trace(instrument=instrument, rows=trace.rows, period_ns=_period_ns(trace))


def _period_ns(trace: Trace) -> int:
    """Grid period from the rows alone: time over ticks."""
    ticks = int(trace.tick[-1] - trace.tick[0])
    if ticks < 1:
        raise DeviceUnavailableError(
            f"the trace of '{trace.instrument}' has one sample and no run.json beside it: its period is unknown. Replay another run."
        )
    starts = trace.rows["t_before_ns"]
    return max(1, round(int(starts[-1] - starts[0]) / ticks))


def _channel(name: str, recorded: Mapping[str, Any], file_name: str) -> Channel:
    known = next((entry for entry in recorded.get("channels", ()) if entry["name"] == name), None)
    if known is None:
        return Channel(
            name=name, kind=_likely_kind(name), resolution=0.0, provenance=Provenance.ASSUMED, source=f"replay of {file_name}"
        )  # fmt: skip
    return Channel(
        name=name,
        kind=ReadingKind(known["kind"]),
        resolution=float(known["resolution"]),
        provenance=Provenance(known["provenance"]),
        source=f"replay of {known['source']}",
    )


def _likely_kind(name: str) -> ReadingKind:
    """Kind of a channel nobody described, from its name."""
    if name.endswith(_COUNTERS):
        return ReadingKind.COUNTER
    if name in _STATES or name.startswith("foreign_"):
        return ReadingKind.STATE
    return ReadingKind.AVERAGE if "average" in name or name.endswith("_ratio") else ReadingKind.INSTANT


def _sensor(trace_path: Path, trace: Trace) -> SensorModel | None:
    if not trace.has("power_w"):
        return None
    for record in _json(trace_path.with_name("sensor.json")) or ():
        if record["instrument"] == trace.instrument and record["channel"] == "power_w":
            return SensorModel(**record["model"])
    return SensorModel(update_period_s=_update_period_ns(trace) / NS_PER_S)


def _update_period_ns(trace: Trace) -> float:
    """Median time between changes of the reading; the sampling period where it changes at each sample or never."""
    power = trace.values("power_w")
    changed = np.flatnonzero(np.isfinite(power[1:]) & (np.diff(power) != 0)) + 1
    between = np.diff(trace.rows["t_before_ns"][changed])
    return max(float(trace.period_ns), float(np.median(between)) if len(between) else 0.0)
