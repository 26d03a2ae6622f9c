"""Export a run in the schemas other tools read: TR122's CSV and JSONL, and Parquet.

TR122's files are written per instrument with a power channel: ``power_trace-<name>.csv``, ``generation_events-<name>.jsonl``, and
``run_metadata.json``. Missing values stay empty, never zero. Its quality words are derived from our tiers, because one definition must
serve both; tokens that were not counted are null.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import ChannelUnavailableError, ConfigurationError, RecordError, nearest
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.uncertainty import Estimate
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.reader import SENSORS
from pytest_physics.record.schema import BaselineRecord, Record, WindowRecord, finite_or_none
from pytest_physics.record.window_energy import energy_estimate
from pytest_physics.sampling.trace import Trace

BYTES_PER_MIB = 1 << 20
TR122_COLUMNS: Mapping[str, tuple[str, float]] = {
    "power_w": ("power_w", 1.0),
    "temp_c": ("temperature_c", 1.0),
    "sm_clock_mhz": ("sm_clock_hz", 1e-6),
    "mem_clock_mhz": ("memory_clock_hz", 1e-6),
    "util_gpu": ("utilisation_ratio", 100.0),
    "util_mem": ("memory_utilisation_ratio", 100.0),
    "vram_used_mb": ("memory_used_bytes", 1 / BYTES_PER_MIB),
}
"""TR122's column to our channel and the factor between them."""
TR122_QUALITY = {Quality.NO_DATA: "no_data", Quality.GAPPY: "gappy"}


def export_run(path: Path, output: Path, *, formats: Sequence[str] = ("tr122",)) -> list[Path]:
    """Write the run at ``path`` into the directory ``output``; returns the files written.

    Raises
    ------
    ConfigurationError
        For an unknown format, naming the nearest, or where Parquet is asked for without pyarrow.
    RecordError
        Where the run cannot be read or the output cannot be written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        name = unknown[0] if unknown else ""
        raise ConfigurationError(f"unknown export format '{name}'{nearest(name, list(FORMATS))}; formats are {', '.join(FORMATS)}.")
    run = RecordedRun(path)
    try:
        output.mkdir(parents=True, exist_ok=True)
        return [written for name in formats for written in FORMATS[name](run, output)]
    except OSError as error:
        raise RecordError(f"cannot write into {output}: {error.strerror}; choose another directory with --output.") from None


def _tr122(run: RecordedRun, output: Path) -> Iterator[Path]:
    for name in run.reader.run.instruments:
        trace = run.trace(name)
        if trace.has("power_w"):
            yield _power_trace(trace, output / f"power_trace-{name}.csv")
            yield _events(run, name, output / f"generation_events-{name}.jsonl")
    yield _metadata(run, output / "run_metadata.json")


def _power_trace(trace: Trace, path: Path) -> Path:
    t_ns = trace.t_ns
    columns = {ours: trace.values(ours) * factor for ours, factor in TR122_COLUMNS.values() if trace.has(ours)}
    power = trace.values("power_w")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["t_ns", *TR122_COLUMNS, "read_ok", "dt_s"])
        for row in range(len(trace)):
            values = [_cell(columns[ours][row]) if ours in columns else "" for ours, _ in TR122_COLUMNS.values()]
            dt_s = (t_ns[row] - t_ns[row - 1]) / NS_PER_S if row else math.nan
            writer.writerow([int(t_ns[row]), *values, bool(np.isfinite(power[row])), _cell(dt_s)])
    return path


def _cell(value: float) -> float | str:
    return float(value) if math.isfinite(value) else ""


def _events(run: RecordedRun, name: str, path: Path) -> Path:
    baselines = [baseline for baseline in run.reader.baselines if baseline.instrument == name]
    with path.open("w", encoding="utf-8") as file:
        for window in run.reader.windows:
            if window.instrument == name:
                file.write(json.dumps(_event(run, window, baselines)) + "\n")
    return path


def _event(run: RecordedRun, window: WindowRecord, baselines: Sequence[BaselineRecord]) -> dict[str, Any]:
    chosen = [b for b in baselines if b.t1_ns <= window.t0_ns][-1:] + [b for b in baselines if b.t0_ns >= window.t1_ns][:1]
    gross, net = (_energy(run, window, kind, chosen) for kind in ("gross", "net"))
    duration_s = (window.t1_ns - window.t0_ns) / NS_PER_S
    tokens = window.work.get("tokens")
    decode = window.name == "decode"
    return {
        "event_id": window.id,
        "phase": window.name,
        "t_start_ns": window.t0_ns,
        "t_end_ns": window.t1_ns,
        "input_tokens": None if decode else tokens,
        "output_tokens": tokens if decode else None,
        "batch_size": window.labels.get("batch"),
        "tokens_per_second": tokens / duration_s if tokens and duration_s > 0 else None,
        "energy_joules": _stated(gross),
        "operational_joules": _stated(net) if chosen else None,
        "energy_quality": TR122_QUALITY.get(gross.quality, "good") if gross is not None else "no_data",
        "uncertainty_joules": finite_or_none(gross.expanded) if gross is not None and _stated(gross) is not None else None,
    }


def _stated(energy: Estimate | None) -> float | None:
    """The value of an energy that has data behind it; an estimate without data is no number."""
    return finite_or_none(energy.value) if energy is not None and energy.quality > Quality.NO_DATA else None


def _energy(run: RecordedRun, window: WindowRecord, kind: str, baselines: Sequence[BaselineRecord]) -> Estimate | None:
    try:
        return energy_estimate(run, window, kind=kind, baselines=baselines, sensor=_last_sensor(run, window.instrument))
    except ChannelUnavailableError:
        return None


def _last_sensor(run: RecordedRun, instrument: str) -> SensorModel:
    """What was known of the power channel at the end of the run."""
    found = next((record.sensor for record in reversed(run.reader.sensors) if record.instrument == instrument), None)
    if found is None:
        raise RecordError(f"{run.reader.path / SENSORS} does not know the power sensor of '{instrument}'; restore it from a copy.")
    return found


def _metadata(run: RecordedRun, path: Path) -> Path:
    record = run.reader.run
    metadata = {
        "schema_version": 2,
        "run_id": record.run_id,
        "run_state": record.state,
        "end_reason": record.end_reason,
        "git": record.git,
        "hardware": {name: instrument.fingerprint.model_dump() for name, instrument in record.instruments.items()},
        "poller": {name: instrument.statistics for name, instrument in record.instruments.items()},
        "baseline": [b.model_dump(mode="json", exclude={"t_ns", "power_w"}) for b in run.reader.baselines],
        "config": record.config,
        "checks": [{"claim": claim.id, "verdict": claim.verdict.value, "reason": claim.reason} for claim in run.reader.claims],
    }
    path.write_text(json.dumps(metadata, indent=1), encoding="utf-8")
    return path


def _parquet(run: RecordedRun, output: Path) -> Iterator[Path]:
    try:
        import pyarrow as pa  # noqa: PLC0415 -- an optional extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError("Parquet needs pyarrow: pip install 'pytest-physics[parquet]'.") from None
    tables: dict[str, dict[str, Any]] = {}
    for name in run.reader.run.instruments:
        trace = run.trace(name)
        rows = trace.rows
        columns = {column: np.ascontiguousarray(rows[column]) for column in (rows.dtype.names or ()) if column != "errors"}
        errors = {f"{channel}_error": np.ascontiguousarray(trace.errors(channel)) for channel in trace.channels}
        tables[f"trace-{name}"] = {**columns, **errors}
    recorded: dict[str, Sequence[Record]] = {"windows": run.reader.windows, "results": run.reader.results, "claims": run.reader.claims}
    for name, records in recorded.items():
        dumped = [record.model_dump(mode="json") for record in records]
        keys = list(dumped[0]) if dumped else ["id"]
        tables[name] = {key: [_flat(item[key]) for item in dumped] for key in keys}
    for name, table in tables.items():
        path = output / f"{name}.parquet"
        parquet.write_table(pa.table(table), path)
        yield path


def _flat(value: object) -> object:
    """Nested values as JSON text: a Parquet column has one type."""
    return json.dumps(value) if isinstance(value, dict | list) else value


FORMATS: Mapping[str, Callable[[RecordedRun, Path], Iterator[Path]]] = {"tr122": _tr122, "parquet": _parquet}
