"""Identified sensors, kept between runs: one file per device and channel, found by everything that could change the sensor.

Beside them lie calibrations: the scale of a channel from a recording of a reference meter (:mod:`pytest_physics.record.meter`). They
belong to the device, not to an identification, and are applied to whatever model is in force.

The key is the device's fingerprint (UUID, driver, VBIOS, limits, modes) and the channel, so a new driver identifies anew. Entries expire.
A file that cannot be read is ignored: identifying again costs half a minute, trusting a broken file costs the results.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from pytest_physics.clock import utc_now
from pytest_physics.devices.base import Fingerprint
from pytest_physics.errors import RecordError
from pytest_physics.metrology.calibration import Calibration
from pytest_physics.metrology.response import SensorModel
from pytest_physics.record.schema import Record, SensorRecord

CACHE_VARIABLE = "PYTEST_PHYSICS_CACHE"
"""Environment variable that names another directory for the cache."""


class CachedSensor(Record):
    """One file of the cache."""

    identified_utc: str
    run_id: str
    """Run whose telegraph phase identified it."""
    fingerprint: str
    """Digest of the device's fingerprint."""
    record: SensorRecord


class CachedCalibration(Record):
    """Scale of one channel of one device, from a reference meter."""

    calibrated_utc: str
    run_id: str
    """Run that drove the levels."""
    meter: str
    """Name of the meter's recording."""
    fingerprint: str
    """Digest of the device's fingerprint."""
    channel: str
    gain: float
    u_gain: float
    """Of fit and meter together."""
    offset_w: float
    u_offset_w: float
    covariance_w: float
    r_squared: float
    residual_w: float
    reduced_chi_square: float
    levels: int
    lowest_w: float
    """Range of the meter's powers in which it holds."""
    highest_w: float

    @property
    def calibration(self) -> Calibration:
        """As the scale that corrects readings."""
        return Calibration(**{name: getattr(self, name) for name in Calibration.__dataclass_fields__})

    @property
    def evidence(self) -> str:
        """Where the scale comes from, in a phrase."""
        return f"scale of {self.calibrated_utc} against {self.meter}, run {self.run_id}"


class Fingerprinted(Protocol):
    """A device's fingerprint, live or recorded."""

    @property
    def identity(self) -> str:
        """Which device."""

    @property
    def digest(self) -> str:
        """Over everything that could change a sensor."""


def cache_directory() -> Path:
    """``$PYTEST_PHYSICS_CACHE``, or ``pytest-physics/sensors`` in the user's cache directory."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pytest-physics" / "sensors"


def recall(fingerprint: Fingerprint, channel: str, *, max_age_days: float) -> CachedSensor | None:
    """The identified sensor of this very device, if one is known and not too old."""
    try:
        cached = CachedSensor.model_validate_json(_path(fingerprint, channel).read_text(encoding="utf-8"))
        age = datetime.now(UTC) - datetime.fromisoformat(cached.identified_utc)
        _ = cached.record.sensor  # building the model checks its numbers
    except (OSError, TypeError, ValueError, ValidationError):
        return None
    fresh = timedelta(0) <= age <= timedelta(days=max_age_days)
    return cached if fresh and cached.fingerprint == fingerprint.digest else None


def remember(fingerprint: Fingerprint, channel: str, model: SensorModel, *, run_id: str, evidence: str) -> Path | None:
    """Keep an identified sensor; None where the cache cannot be written, which costs only the next run's time."""
    record = SensorRecord.of(model, record_id="cached", instrument="", channel=channel, evidence=evidence)
    cached = CachedSensor(identified_utc=utc_now(), run_id=run_id, fingerprint=fingerprint.digest, record=record)
    return _write(_path(fingerprint, channel), cached)


def recall_calibration(fingerprint: Fingerprinted, channel: str, *, max_age_days: float) -> CachedCalibration | None:
    """The scale of this very device, if a meter told it and not too long ago."""
    path = _path(fingerprint, channel, "-scale")
    try:
        cached = CachedCalibration.model_validate_json(path.read_text(encoding="utf-8"))
        age = datetime.now(UTC) - datetime.fromisoformat(cached.calibrated_utc)
        _ = cached.calibration
    except (OSError, ValueError, ValidationError):
        return None
    fresh = timedelta(0) <= age <= timedelta(days=max_age_days)
    return cached if fresh and cached.fingerprint == fingerprint.digest else None


def remember_calibration(fingerprint: Fingerprinted, cached: CachedCalibration) -> Path:
    """Keep a scale; raises ``RecordError`` where the cache cannot be written, because a calibration that is lost was for nothing."""
    path = _path(fingerprint, cached.channel, "-scale")
    if _write(path, cached) is None:
        raise RecordError(f"cannot write the calibration to {path}; make the directory writable, or name another with {CACHE_VARIABLE}.")
    return path


def _write(path: Path, cached: Record) -> Path | None:
    aside = path.with_suffix(f".{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(cached.model_dump_json(indent=1), encoding="utf-8")
        aside.replace(path)
    except OSError:
        return None
    return path


def _path(fingerprint: Fingerprinted, channel: str, suffix: str = "") -> Path:
    digest = hashlib.sha256(f"{fingerprint.identity}|{channel}".encode()).hexdigest()[:16]
    return cache_directory() / f"{digest}{suffix}.json"
