"""Calibrate a power channel: the steady levels of a finished run against the recording of a reference meter.

The meter's CSV has one column of times and one of watts. Times are seconds, Unix time (seconds to nanoseconds), or ISO 8601; they only have
to increase, because the recording is aligned on the run's own load (:mod:`~pytest_physics.metrology.meter_alignment`). Each level gives a
mean reading and a mean of the meter over the same settled span; York's line through them is gain and offset.

The result goes to the sensor cache, never into the finished run: from the next run on the same device every reading is corrected.
Refuses (``RefusedError``) what the alignment or the regression refuse; raises ``RecordError`` for files that cannot be read.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import numpy as np

from pytest_physics.clock import NS_PER_S, utc_now
from pytest_physics.errors import RecordError
from pytest_physics.metrology.calibration import Calibration, calibrate
from pytest_physics.metrology.meter_alignment import Alignment, align
from pytest_physics.metrology.refusal import refuse
from pytest_physics.metrology.response import SensorModel
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.identification import LOAD_ON, load_of
from pytest_physics.record.schema import PhaseRecord, SensorRecord, WindowRecord
from pytest_physics.record.sensor_cache import CachedCalibration, remember_calibration
from pytest_physics.record.sensor_checks import LEVEL, readings_in, windows_named
from pytest_physics.sampling.trace import FloatArray

UNIX_UNITS = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3), (1e8, 1.0))
"""Times from here on are Unix time in this unit; smaller ones are seconds from anywhere."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeterRecording:
    """What a reference meter recorded."""

    name: str
    t_s: FloatArray
    """Seconds, increasing, shape (N,); Unix time where ``absolute``."""
    power_w: FloatArray
    absolute: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterCalibration:
    """A calibration, how it was aligned, and where it was kept."""

    calibration: Calibration
    """With the meter's own uncertainty in that of the gain."""
    alignment: Alignment
    clock_difference_s: float | None
    """Clock of the meter less clock of the run's host; None for a meter without wall time."""
    stored: Path


def calibrate_run(
    run_dir: Path,
    meter_file: Path,
    *,
    time_column: str = "t",
    power_column: str = "w",
    instrument: str = "gpu",
    u_meter: float = 0.0,
) -> MeterCalibration:
    """Calibrate ``power_w`` of ``instrument`` and keep the result for later runs on the same device.

    Parameters
    ----------
    run_dir
        A finished run of ``bench/test_instrument_response.py``: it has the levels.
    meter_file
        The meter's recording.
    u_meter
        Relative standard uncertainty of the meter's own scale.
    """
    if not u_meter >= 0:
        raise RecordError(f"the meter's uncertainty must be >= 0 (got {u_meter}); give it relative: 0.005 for 0.5 %.")
    run = RecordedRun(run_dir)
    meter = read_meter(meter_file, time_column=time_column, power_column=power_column)
    driven = _phase(run, "telegraph", instrument)
    found = align(meter.t_s, meter.power_w, load_of(run, driven, driven.t0_ns), scope=meter.name)
    fitted = _regress(run, meter, driven, found.offset_s)
    known = replace(fitted, u_gain=math.hypot(fitted.u_gain, u_meter * fitted.gain))
    fingerprint = run.instrument(instrument).fingerprint
    cached = CachedCalibration(
        calibrated_utc=utc_now(), run_id=run.reader.run.run_id, meter=meter.name, fingerprint=fingerprint.digest, channel="power_w",
        **{name: getattr(known, name) for name in Calibration.__dataclass_fields__},
    )  # fmt: skip
    return MeterCalibration(
        calibration=known, alignment=found, clock_difference_s=_clock_difference(run, meter, driven, found.offset_s),
        stored=remember_calibration(fingerprint, cached),
    )  # fmt: skip


def _phase(run: RecordedRun, name: str, instrument: str) -> PhaseRecord:
    phases = [p for p in run.reader.run.phases if p.name == name and p.instrument == instrument and p.t1_ns is not None]
    if not phases or (name == "telegraph" and not windows_named(run, phases[-1], LOAD_ON)):
        raise RecordError(
            f"{run.reader.path} has no phase '{name}' of '{instrument}', so there is nothing to calibrate. "
            "Run 'pytest bench/test_instrument_response.py --physics' while the meter records, and give that run."
        )
    return phases[-1]


def _regress(run: RecordedRun, meter: MeterRecording, driven: PhaseRecord, offset_s: float) -> Calibration:
    """York's line through the levels of the run."""
    phase = _phase(run, "levels", driven.instrument)
    sensor = _model(run, driven.instrument)
    rows = [_level(run, window, sensor, meter, offset_s - driven.t0_ns / NS_PER_S) for window in windows_named(run, phase, LEVEL)]
    levels = np.array([row for row in rows if row is not None], dtype=np.float64).reshape(-1, 4).T
    return calibrate(levels[2], levels[0], u_reference_w=levels[3], u_reading_w=levels[1], scope=driven.instrument)


def _model(run: RecordedRun, instrument: str) -> SensorModel:
    records: list[SensorRecord] = [record for record in run.reader.sensors if record.instrument == instrument]
    return records[-1].sensor


def _level(
    run: RecordedRun, window: WindowRecord, sensor: SensorModel, meter: MeterRecording, offset_s: float
) -> tuple[float, float, float, float] | None:
    """Mean reading and mean of the meter over the settled part of a level, each with its standard uncertainty; None without readings."""
    from_ns = window.t0_ns + round(sensor.tail_s * NS_PER_S)
    _, power_w = readings_in(run, window.instrument, from_ns, window.t1_ns, sensor.update_period_s)
    inside = (meter.t_s >= from_ns / NS_PER_S + offset_s) & (meter.t_s <= window.t1_ns / NS_PER_S + offset_s)
    if len(power_w) < 2:
        return None
    if np.count_nonzero(inside) < 2:
        refuse(
            "meter: levels", scope=meter.name, measured=int(np.count_nonzero(inside)), limit=2, unit="1",
            reason=f"the recording has {np.count_nonzero(inside)} values in the level '{window.id}' (needed: 2)",
            remedy="Let the meter record the whole run, faster than the levels last, or lengthen 'sensor.levels_s'.",
        )  # fmt: skip
    reading, reference = (_mean(values, sensor.resolution_w) for values in (power_w, meter.power_w[inside]))
    return *reading, *reference


def _mean(values: FloatArray, resolution_w: float) -> tuple[float, float]:
    spread_w = math.hypot(float(values.std(ddof=1)), resolution_w / math.sqrt(12))
    return float(values.mean()), spread_w / math.sqrt(len(values))


def _clock_difference(run: RecordedRun, meter: MeterRecording, driven: PhaseRecord, offset_s: float) -> float | None:
    """How far the meter's wall clock is ahead of the host's."""
    if not meter.absolute:
        return None
    anchor = run.instrument(driven.instrument).started
    host_s = datetime.fromisoformat(anchor.utc).timestamp() + (driven.t0_ns - anchor.t_ns) / NS_PER_S
    return offset_s - host_s


# --- the recording ---------------------------------------------------------------------------------------------------


def read_meter(path: Path, *, time_column: str, power_column: str) -> MeterRecording:
    """Read a meter's CSV (separated by comma, semicolon or tab, with one line of names); raises ``RecordError`` with the line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            t_s, power_w, absolute = _columns(file, path, time_column, power_column)
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"cannot read the meter's recording {path}: {error}") from error
    if len(t_s) < 2 or np.any(np.diff(t_s) <= 0):
        raise RecordError(
            f"{path}: the times of column '{time_column}' must increase from row to row ({len(t_s)} rows); sort the recording."
        )
    return MeterRecording(name=path.name, t_s=t_s, power_w=power_w, absolute=absolute)


def _columns(file: TextIO, path: Path, time_column: str, power_column: str) -> tuple[FloatArray, FloatArray, bool]:
    first = file.readline()
    delimiter = next((mark for mark in (";", "\t") if mark in first), ",")
    names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
    for wanted in (time_column, power_column):
        if wanted not in names:
            raise RecordError(
                f"{path} has no column '{wanted}' (it has {', '.join(names) or 'none'}); name it with --time-column and --power-column."
            )
    where = names.index(time_column), names.index(power_column)
    times: list[float] = []
    powers: list[float] = []
    for number, row in enumerate(csv.reader(file, delimiter=delimiter), start=2):
        if not any(cell.strip() for cell in row):
            continue
        try:
            times.append(_seconds(row[where[0]].strip()))
            powers.append(float(row[where[1]]))
        except (IndexError, ValueError) as error:
            raise RecordError(f"{path}, line {number}: {error}; every row needs a time and a power in watts.") from error
        if not (math.isfinite(times[-1]) and math.isfinite(powers[-1])):
            raise RecordError(f"{path}, line {number}: time and power must be finite numbers.")
    t = np.array(times)
    unit = next((unit for least, unit in UNIX_UNITS if len(t) and t[0] >= least), None)
    return t * (unit or 1.0), np.array(powers), unit is not None


def _seconds(text: str) -> float:
    """A number as it is, or an ISO 8601 time as Unix seconds; without a zone it counts as UTC."""
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
