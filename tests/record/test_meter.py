"""Calibration with a reference meter: the twin's own true power plays the meter."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from pytest_physics.cli import main
from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.twin.truth import energy_between
from pytest_physics.errors import RecordError
from pytest_physics.experiments.instrument_response import identify_sensor
from pytest_physics.experiments.sensor_characterisation import characterise_sensor
from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.uncertainty import Recipe
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.meter import calibrate_run, read_meter
from pytest_physics.record.sensor_cache import CACHE_VARIABLE
from pytest_physics.record.verify import verify_run
from pytest_physics.session import Plan, Session
from pytest_physics.workloads.select import steady_load_for

CELL_S = 0.01
TWIN = {"preset": "rtx3090", "seed": 5}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache for this file; nothing is written into the user's."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("cache")
        patch.setenv(CACHE_VARIABLE, str(directory))
        yield directory


@pytest.fixture(scope="module")
def driven(cache, tmp_path_factory):
    """A finished run with levels."""
    directory = tmp_path_factory.mktemp("driven")
    with session_of(directory) as session:
        characterise_sensor(session.rig.gpu, session, steady_load_for(session.rig.gpu.device))
    return session.path


def session_of(directory, **twin):
    return Session.start(
        load_settings(directory), Plan.using({"gpu": DeviceSpec(kind="twin", parameters={**TWIN, **twin})}), directory=directory
    )


def true_power(run):
    """Instants (s of the run's clock) and mean true power of cells."""
    table = RecordedRun(run).truth_table("gpu")
    edge_ns = np.arange(table["t_ns"][0], table["t_ns"][-1], round(CELL_S * 1e9))
    return edge_ns[:-1] / 1e9 + CELL_S / 2, np.diff(energy_between(table, edge_ns[0], edge_ns)) / CELL_S


def write_meter(path, t_s, power_w, *, header="t,w", time=lambda t: f"{t:.6f}"):
    path.write_text("\n".join([header, *(f"{time(t)},{p:.4f}" for t, p in zip(t_s, power_w, strict=True))]) + "\n")
    return path


@pytest.fixture(scope="module")
def meter(driven, tmp_path_factory):
    """The twin's true power as a meter 12.345 s ahead would have recorded it, with 0.2 W of noise."""
    t_s, power_w = true_power(driven)
    noise = np.random.default_rng(0).normal(0, 0.2, len(power_w))
    return write_meter(tmp_path_factory.mktemp("meter") / "meter.csv", t_s + 12.345, power_w + noise)


def true_scale(run):
    details = RecordedRun(run).instrument("gpu").fingerprint.details
    return float(details["true_gain"]), float(details["true_offset_w"])


def test_gain_and_offset_of_the_twin_are_found(driven, meter):
    """The true gain and offset lie inside the stated intervals, which are far narrower than an uncalibrated scale's."""
    found = calibrate_run(driven, meter).calibration
    gain, offset_w = true_scale(driven)
    assert abs(found.gain - gain) <= 3 * found.u_gain < 0.01
    assert abs(found.offset_w - offset_w) <= 3 * found.u_offset_w < 1.0
    assert found.r_squared > 0.9999


def test_offset_between_the_clocks_is_found_on_the_load(driven, meter):
    """Seconds apart, the recording is aligned to a few milliseconds."""
    found = calibrate_run(driven, meter)
    assert found.alignment.correlation > 0.9
    driven_ns = next(p for p in RecordedRun(driven).reader.run.phases if p.name == "telegraph").t0_ns
    assert found.alignment.offset_s - driven_ns / 1e9 == pytest.approx(12.345, abs=0.006)


def test_uncertainty_of_the_meter_enters(driven, meter):
    """A meter of 0.5 % leaves at least 0.5 % on the gain."""
    assert calibrate_run(driven, meter, u_meter=0.005).calibration.u_gain >= 0.005 * 0.9


def test_later_runs_are_corrected_and_say_so(driven, meter, tmp_path):
    """After a calibration energies and idle power of the same device are on the true scale, with the small uncertainty, and verify."""
    calibrate_run(driven, meter)
    with session_of(tmp_path) as session:
        gpu = session.rig.gpu
        load = steady_load_for(gpu.device)
        identify_sensor(gpu, session, load)
        idle = gpu.baseline()
        with gpu.window("work") as window:
            load.run_for(3.0)
        energy = gpu.energy(window, estimator="power")
        idle_w = session.result("idle", "idle power", session.evaluate(Recipe(op="baseline.power", parameters={"baseline": idle.id})))
        for kind, estimate in (("gross", energy.gross), ("net", energy.net)):
            session.result("work", kind, estimate)
    true = {record.quantity: record.truth for record in session.results}
    assert "calibrated scale" in energy.gross.estimator
    assert "calibrated scale" in idle_w.estimator
    for name, estimate in {"gross": energy.gross, "net": energy.net, "idle power": idle_w}.items():
        assert abs(estimate.value - true[name]) <= 1.5 * estimate.expanded
        assert estimate.expanded < 0.02 * estimate.value
    assert {finding.where for finding in verify_run(session.path).findings} <= {"report.html"}
    records = RecordedRun(session.path).reader.sensors
    assert "meter.csv" in records[-1].evidence


def test_without_a_calibration_the_scale_stays_as_read(driven, meter, tmp_path):
    """Another specimen is not corrected: its energy carries the uncalibrated scale, and is off by its gain."""
    calibrate_run(driven, meter)
    with session_of(tmp_path, seed=6) as session:
        identify_sensor(session.rig.gpu, session, steady_load_for(session.rig.gpu.device))
        assert not session.rig.gpu.sensor.calibrated


@pytest.mark.parametrize("form", ["unix", "unix ms", "iso", "iso with zone"])
def test_wall_times_are_read(driven, meter, tmp_path, form):
    """Unix seconds, milliseconds and ISO 8601 align as relative seconds do, and tell how far the meter's clock is off."""
    recording = read_meter(meter, time_column="t", power_column="w")
    run = RecordedRun(driven).instrument("gpu")
    to_unix = dt.datetime.fromisoformat(run.started.utc).timestamp() - run.started.t_ns / 1e9 + 2.0 - 12.345
    forms = {
        "unix": lambda t: f"{t + to_unix:.6f}",
        "unix ms": lambda t: f"{(t + to_unix) * 1e3:.3f}",
        "iso": lambda t: dt.datetime.fromtimestamp(t + to_unix, dt.UTC).replace(tzinfo=None).isoformat(),
        "iso with zone": lambda t: dt.datetime.fromtimestamp(t + to_unix, dt.timezone(dt.timedelta(hours=2))).isoformat(),
    }
    path = write_meter(tmp_path / "wall.csv", recording.t_s, recording.power_w, time=forms[form])
    found = calibrate_run(driven, path)
    assert found.clock_difference_s == pytest.approx(2.0, abs=0.006)
    assert found.calibration.gain == pytest.approx(true_scale(driven)[0], abs=0.005)


def test_columns_by_name_and_other_separators(driven, meter, tmp_path):
    """A semicolon and columns of any name are read; what stands beside them is left alone."""
    recording = read_meter(meter, time_column="t", power_column="w")
    rows = [f"x;{p};{t}" for t, p in zip(recording.t_s, recording.power_w, strict=True)]
    path = tmp_path / "other.csv"
    path.write_text("\n".join(["note;Power [W];Time", *rows, ""]))
    again = read_meter(path, time_column="Time", power_column="Power [W]")
    np.testing.assert_array_equal(again.power_w, recording.power_w)


BROKEN = {
    "no such column": ("time,w\n0,1\n1,2\n", "has no column 't' .it has time, w."),
    "no number": ("t,w\n0,1\n1,many\n", "line 3"),
    "row too short": ("t,w\n0,1\n1\n", "line 3"),
    "not finite": ("t,w\n0,1\n1,nan\n", "line 3"),
    "time goes back": ("t,w\n0,1\n2,1\n1,1\n", "must increase"),
    "empty": ("", "has no column"),
    "one row": ("t,w\n0,1\n", "must increase"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_recording_names_file_and_line(driven, tmp_path, what):
    """A recording that cannot be read is an error with its place and the way out."""
    content, words = BROKEN[what]
    path = tmp_path / "broken.csv"
    path.write_text(content)
    with pytest.raises(RecordError, match=words):
        calibrate_run(driven, path)


def test_recording_of_something_else_is_refused(driven, tmp_path):
    """A meter that does not show this run's load calibrates nothing."""
    t_s, power_w = true_power(driven)
    path = write_meter(tmp_path / "other.csv", t_s, np.random.default_rng(1).permutation(power_w))
    with pytest.raises(RefusedError, match="correlation"):
        calibrate_run(driven, path)


def test_recording_that_ends_early_is_refused(driven, tmp_path):
    """The meter must see the load that aligns it, and every level."""
    t_s, power_w = true_power(driven)
    telegraph_only = t_s < t_s[0] + 36
    with pytest.raises(RefusedError, match="has 0 values in the level"):
        calibrate_run(driven, write_meter(tmp_path / "a.csv", t_s[telegraph_only], power_w[telegraph_only]))
    first = t_s < t_s[0] + 10
    with pytest.raises(RefusedError, match="the recording lasts"):
        calibrate_run(driven, write_meter(tmp_path / "b.csv", t_s[first], power_w[first]))


def test_channel_that_does_not_follow_the_meter_is_refused(driven, tmp_path):
    """A meter that sees another power at the levels than the readings do: no line, no calibration."""
    t_s, power_w = true_power(driven)
    bent = np.where(t_s > t_s[0] + 50, 100 + 40 * np.sin(t_s / 3), power_w)
    with pytest.raises(RefusedError, match=r"R²|scatter"):
        calibrate_run(driven, write_meter(tmp_path / "bent.csv", t_s, bent))


def test_run_without_levels_says_what_to_run(cache, tmp_path, meter):
    """A run that was not characterised has nothing to calibrate."""
    with session_of(tmp_path) as session:
        session.rig.gpu.sleep(1.0)
    with pytest.raises(RecordError, match=r"no phase .telegraph. of .gpu.*bench/test_instrument_response"):
        calibrate_run(session.path, meter)


def test_command_prints_what_was_found(driven, meter, capsys, monkeypatch):
    """``pytest-physics calibrate`` names gain, offset, alignment, range, and where it is kept."""
    monkeypatch.setattr("sys.argv", ["pytest-physics", "calibrate", str(driven), str(meter), "--meter-uncertainty", "0.002"])
    with pytest.raises(SystemExit) as ended:
        main()
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["aligned", "gain", "offset", "line", "holds"]
