"""Identified sensors, kept between runs: one file per device and channel, found by everything that could change the sensor.

The key is the device's fingerprint (UUID, driver, VBIOS, limits, modes) and the channel, so a new driver identifies anew. Entries expire.
A file that cannot be read is ignored: identifying again costs half a minute, trusting a broken file costs the results.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from pytest_physics.clock import utc_now
from pytest_physics.devices.base import Fingerprint
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
    except (OSError, ValueError, ValidationError):
        return None
    fresh = timedelta(0) <= age <= timedelta(days=max_age_days)
    return cached if fresh and cached.fingerprint == fingerprint.digest else None


def remember(fingerprint: Fingerprint, channel: str, model: SensorModel, *, run_id: str, evidence: str) -> Path | None:
    """Keep an identified sensor; None where the cache cannot be written, which costs only the next run's time."""
    record = SensorRecord.of(model, record_id="cached", instrument="", channel=channel, evidence=evidence)
    cached = CachedSensor(identified_utc=utc_now(), run_id=run_id, fingerprint=fingerprint.digest, record=record)
    path = _path(fingerprint, channel)
    aside = path.with_suffix(f".{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(cached.model_dump_json(indent=1), encoding="utf-8")
        aside.replace(path)
    except OSError:
        return None
    return path


def _path(fingerprint: Fingerprint, channel: str) -> Path:
    digest = hashlib.sha256(f"{fingerprint.identity}|{channel}".encode()).hexdigest()[:16]
    return cache_directory() / f"{digest}.json"
