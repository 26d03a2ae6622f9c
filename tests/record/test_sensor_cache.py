"""What is kept of a sensor between runs: found again on the same device, ignored where anything could have changed it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec, Fingerprint
from pytest_physics.devices.twin import TwinDevice
from pytest_physics.errors import RecordError
from pytest_physics.metrology.response import SensorModel
from pytest_physics.record.sensor_cache import (
    CACHE_VARIABLE,
    CachedCalibration,
    cache_directory,
    recall,
    recall_calibration,
    remember,
    remember_calibration,
)
from pytest_physics.session import Plan, Session

MODEL = SensorModel(update_period_s=0.1, window_s=0.025, u_window_s=1e-4, delay_s=0.011, origin="identified")


def card(*, driver="570.1", identity="GPU-1"):
    return Fingerprint(kind="nvml", name="card", identity=identity, details={"driver": driver})


def scale(fingerprint, *, utc="2999-01-01T00:00:00Z"):
    return CachedCalibration(
        calibrated_utc=utc, run_id="run", meter="meter.csv", fingerprint=fingerprint.digest, channel="power_w", gain=0.95, u_gain=0.002,
        offset_w=1.5, u_offset_w=0.2, covariance_w=-0.0003, r_squared=0.9999, residual_w=0.1, reduced_chi_square=1.0, levels=7,
        lowest_w=20.0, highest_w=140.0,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test's own."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def age(path, key, utc):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, key: utc}))


def test_identified_sensor_is_found_again():
    """What one run kept, the next one on the same device has, to the last digit, with where it comes from."""
    remember(card(), "power_w", MODEL, run_id="run-1", evidence="phase gpu-p1")
    found = recall(card(), "power_w", max_age_days=90)
    assert found.record.sensor == MODEL
    assert (found.run_id, found.record.evidence) == ("run-1", "phase gpu-p1")


@pytest.mark.parametrize(
    ("fingerprint", "channel"),
    [(card(driver="571.0"), "power_w"), (card(identity="GPU-2"), "power_w"), (card(), "power_average_w")],
    ids=["other driver", "other card", "other channel"],
)
def test_anything_that_could_change_the_sensor_makes_it_unknown(fingerprint, channel):
    """Another driver, card or channel is identified anew."""
    remember(card(), "power_w", MODEL, run_id="run-1", evidence="phase gpu-p1")
    assert recall(fingerprint, channel, max_age_days=90) is None


@pytest.mark.parametrize(("utc", "known"), [("2000-01-01T00:00:00Z", False), ("2999-01-01T00:00:00Z", False)], ids=["too old", "future"])
def test_entries_expire(utc, known):
    """An old entry, and one from a clock that ran ahead, are not used."""
    path = remember(card(), "power_w", MODEL, run_id="run-1", evidence="phase gpu-p1")
    age(path, "identified_utc", utc)
    assert (recall(card(), "power_w", max_age_days=90) is not None) is known


def test_age_of_zero_always_identifies_anew():
    """``max_age_days = 0`` knows nothing."""
    remember(card(), "power_w", MODEL, run_id="run-1", evidence="phase gpu-p1")
    assert recall(card(), "power_w", max_age_days=0) is None


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '{"identified_utc": "yesterday"}', "\x00"])
def test_broken_file_is_ignored(content):
    """A file that cannot be read costs an identification, never a wrong sensor."""
    path = remember(card(), "power_w", MODEL, run_id="run-1", evidence="phase gpu-p1")
    path.write_text(content)
    assert recall(card(), "power_w", max_age_days=90) is None


def test_impossible_model_is_ignored():
    """An edited window below zero is no sensor."""
    path = remember(card(), "power_w", MODEL, run_id="run-1", evidence="phase gpu-p1")
    content = json.loads(path.read_text())
    content["record"]["model"]["window_s"] = -1.0
    path.write_text(json.dumps(content))
    assert recall(card(), "power_w", max_age_days=90) is None


def test_unwritable_cache_costs_only_the_next_identification(cache):
    """Where the directory cannot be made, nothing is kept and nothing is raised; a calibration that cannot be kept is an error."""
    cache.write_text("a file is in the way")
    assert remember(card(), "power_w", MODEL, run_id="run-1", evidence="phase gpu-p1") is None
    with pytest.raises(RecordError, match=f"make the directory writable, or name another with {CACHE_VARIABLE}"):
        remember_calibration(card(), scale(card()))


def test_scale_is_kept_apart_from_the_identification(cache):
    """A calibration survives another identification, and has its own age."""
    path = remember_calibration(card(), scale(card()))
    age(path, "calibrated_utc", json.loads(remember(card(), "power_w", MODEL, run_id="r", evidence="e").read_text())["identified_utc"])
    found = recall_calibration(card(), "power_w", max_age_days=1)
    assert found.calibration.gain == 0.95
    assert recall(card(), "power_w", max_age_days=1).record.sensor == MODEL
    assert len(list(cache.iterdir())) == 2


def test_scale_of_another_driver_is_not_applied():
    """A driver may change what it hands out: its readings are calibrated anew."""
    path = remember_calibration(card(), scale(card()))
    age(path, "calibrated_utc", "2026-01-01T00:00:00Z")
    assert recall_calibration(card(driver="571.0"), "power_w", max_age_days=1e6) is None
    assert recall_calibration(card(), "power_w", max_age_days=1e6) is not None


def test_cache_directory_follows_the_environment(monkeypatch):
    """The variable wins; then XDG; then the user's home."""
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(cache_directory()).replace("\\", "/") == "/x/pytest-physics/sensors"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory().parts[-3:] == (".cache", "pytest-physics", "sensors")


def opened(monkeypatch, directory, kind):
    """A session on a card that says that it is of this kind."""
    device = TwinDevice("rtx3090", seed=1)
    device.spec = DeviceSpec(kind=kind)
    monkeypatch.setattr("pytest_physics.session.open_device", lambda spec: device)
    return device, Session.start(load_settings(directory), Plan.using({"gpu": DeviceSpec(kind=kind)}), directory=directory)


@pytest.mark.parametrize(("kind", "used"), [("nvml", True), ("twin", False), ("replay", False)])
def test_a_run_knows_from_the_start_what_an_earlier_one_identified(monkeypatch, tmp_path, kind, used):
    """Budgets and windows use the identified sensor without asking for it; simulated and replayed cards are identified by every run."""
    known = replace(TwinDevice("rtx3090", seed=1).sensor, window_s=0.0777, origin="identified")
    remember(TwinDevice("rtx3090", seed=1).fingerprint, "power_w", known, run_id="earlier", evidence="identified in phase gpu-p1")
    _, session = opened(monkeypatch, tmp_path, kind)
    with session:
        records = session.rig.gpu.sensors
    assert (records[-1].sensor.window_s == 0.0777) is used
    assert len(records) == 1 + used
    if used:
        assert "in run earlier" in records[-1].evidence
