"""A recorded trace as a device."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from pytest_physics.clock import NS_PER_S
from pytest_physics.devices.base import ERROR_OTHER, Device, DeviceSpec, ReadingKind
from pytest_physics.devices.replay import ReplayDevice, open_device
from pytest_physics.errors import ConfigurationError, DeviceUnavailableError, RecordError
from pytest_physics.metrology.quality import Provenance
from pytest_physics.sampling.inline import InlineSampler, VirtualDevice
from pytest_physics.sampling.writer import TraceWriter

CHANNELS = ("power_w", "energy_j", "temperature_c")
ORIGIN = 7 * NS_PER_S
PERIOD = 100_000_000
RUN = {
    "instruments": {
        "gpu": {
            "clock": "perf_counter",
            "period_ns": PERIOD,
            "fingerprint": {"kind": "nvml", "name": "H100", "identity": "GPU-1", "details": {"driver": "550"}},
            "absent": {"memory_temperature_c": "no sensor."},
            "channels": [
                {"name": "power_w", "kind": "instant", "resolution": 0.001, "provenance": "measured", "source": "NVML field 186"},
                {"name": "energy_j", "kind": "counter", "resolution": 0.001, "provenance": "measured", "source": "NVML"},
                {"name": "temperature_c", "kind": "instant", "resolution": 1, "provenance": "measured", "source": "NVML"},
            ],
        }
    }
}


def record(path, ticks, *, late_ns=lambda k: 90_000 + 1000 * (k % 7)):
    writer = TraceWriter(path, CHANNELS)
    for k in ticks:
        t = ORIGIN + k * PERIOD + late_ns(k)
        failed = k == 5
        writer.add(k, t, t + 1000, [100.0 + k, 10.0 * k, float("nan") if failed else 40.0], [0, 0, 15 if failed else 0])
    writer.close()
    return path


@pytest.fixture
def run(tmp_path):
    """A run directory with one instrument of 20 samples."""
    record(tmp_path / "trace-gpu.npy", range(20))
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    return tmp_path


def test_it_is_a_device(run):
    """Both protocols hold: it can be read now, and at many past instants."""
    device = ReplayDevice(run)
    assert isinstance(device, Device)
    assert isinstance(device, VirtualDevice)


def test_the_clock_starts_at_the_first_recorded_time(run):
    """Times of the recording keep their meaning."""
    device = ReplayDevice(run)
    assert device.clock.now_ns() == ORIGIN + 90_000
    assert device.read()[0] == [100.0, 0.0, 40.0]
    assert device.sampling_period_s == 0.1


def test_it_shows_the_last_row_at_or_before(run):
    """Between two rows the older one stands."""
    device = ReplayDevice(run)
    start = device.clock.now_ns()
    values, errors = device.sample([start, start + PERIOD // 2, start + 3 * PERIOD + PERIOD // 2])
    assert values[:, 0].tolist() == [100, 100, 103]
    assert errors.shape == (3, 3)
    assert not errors.any()


def test_nothing_is_shown_before_the_first_row_or_long_after_the_last(run):
    """Outside the recording values are missing, with an error code; never extrapolated."""
    device = ReplayDevice(run)
    values, errors = device.sample([ORIGIN - PERIOD, device.end_ns + round(2.5 * PERIOD), device.end_ns + round(2.5 * PERIOD) + 1])
    assert np.isnan(values).all(axis=1).tolist() == [True, False, True]
    assert (errors == ERROR_OTHER).all(axis=1).tolist() == [True, False, True]


def test_a_gap_stays_a_gap(tmp_path):
    """Where the sampler was stopped, the replay shows nothing once the last row is too old."""
    device = ReplayDevice(record(tmp_path / "trace-gpu.npy", [*range(5), *range(30, 40)]))
    values, _ = device.sample(device.clock.now_ns() + PERIOD * np.arange(40))
    assert np.flatnonzero(np.isnan(values[:, 0])).tolist() == list(range(7, 30))


def test_replaying_on_the_recorded_grid_gives_the_rows_back(run, tmp_path_factory):
    """Record, replay, record: values and error codes of all rows are the same, one for one."""
    device = ReplayDevice(run)
    sampler = InlineSampler(device, tmp_path_factory.mktemp("again") / "trace-gpu.npy", device.sampling_period_s, instrument="gpu")
    sampler.start()
    device.clock.advance_to_ns(device.end_ns + PERIOD // 2)
    again = sampler.trace()
    assert len(again) == 20
    for name in CHANNELS:
        assert np.array_equal(again.values(name), device.trace.values(name), equal_nan=True)
        assert np.array_equal(again.errors(name), device.trace.errors(name))


def test_channels_keep_their_provenance_and_say_replay(run):
    """Kind, resolution and provenance as recorded; the source tells that this is a replay."""
    power, energy, _ = ReplayDevice(run).channels
    assert (power.source, power.provenance, power.resolution) == ("replay of NVML field 186", Provenance.MEASURED, 0.001)
    assert energy.kind is ReadingKind.COUNTER


def test_without_run_json_the_provenance_is_assumed(tmp_path):
    """Nobody says who wrote the numbers; kinds and period follow from names and rows."""
    device = ReplayDevice(record(tmp_path / "trace-gpu.npy", range(20)))
    assert {channel.provenance for channel in device.channels} == {Provenance.ASSUMED}
    assert [channel.kind for channel in device.channels] == [ReadingKind.INSTANT, ReadingKind.COUNTER, ReadingKind.INSTANT]
    assert device.sampling_period_s == pytest.approx(0.1, rel=1e-4)
    assert device.channels[0].source == "replay of trace-gpu.npy"


def test_the_fingerprint_carries_the_original(run):
    """Kind replay, with the recorded device's name, identity and details."""
    fingerprint = ReplayDevice(run).fingerprint
    assert (fingerprint.kind, fingerprint.name, fingerprint.identity) == ("replay", "replay of H100", "GPU-1")
    assert fingerprint.details == {"recorded_driver": "550", "recorded_kind": "nvml"}
    assert ReplayDevice(run).absent == {"memory_temperature_c": "not recorded: no sensor."}


def test_the_sensor_is_the_recorded_one_or_a_prior(run):
    """sensor.json wins; else the update period is how often the reading changes."""
    prior = ReplayDevice(run).sensor
    assert (prior.origin, prior.update_period_s) == ("prior", pytest.approx(0.1, rel=1e-3))
    model = {"update_period_s": 0.02, "window_s": 0.01, "origin": "identified"}
    (run / "sensor.json").write_text(json.dumps([{"instrument": "gpu", "channel": "power_w", "model": model}]))
    recorded = ReplayDevice(run).sensor
    assert (recorded.origin, recorded.update_period_s, recorded.window_s) == ("identified", 0.02, 0.01)


def test_the_specification_opens_it_again(run):
    """What ``spec`` says is enough to open the same replay elsewhere."""
    device = ReplayDevice(run, instrument="gpu", gap_periods=4)
    spec = DeviceSpec(kind="replay", parameters=json.loads(json.dumps(dict(device.spec.parameters))))
    assert open_device(spec).spec == device.spec


def test_an_instrument_must_be_named_where_there_are_several(run):
    """The message lists them."""
    record(run / "trace-cpu.npy", range(3))
    assert ReplayDevice(run, instrument="gpu").trace.instrument == "gpu"
    with pytest.raises(DeviceUnavailableError, match="holds the instruments cpu, gpu: say which one to replay"):
        ReplayDevice(run)
    with pytest.raises(DeviceUnavailableError, match="there is no 'tpu'"):
        ReplayDevice(run, instrument="tpu")


def test_what_is_missing_is_named(tmp_path):
    """No path, no trace, no rows: three messages that say what to give instead."""
    with pytest.raises(DeviceUnavailableError, match="there is no recording at"):
        ReplayDevice(tmp_path / "nowhere")
    with pytest.raises(DeviceUnavailableError, match=r"holds no trace-<instrument>\.npy"):
        ReplayDevice(tmp_path)
    with pytest.raises(DeviceUnavailableError, match="holds no samples"):
        ReplayDevice(record(tmp_path / "trace-gpu.npy", []))


def test_one_sample_without_a_period_cannot_be_replayed(tmp_path):
    """The period must come from somewhere."""
    with pytest.raises(DeviceUnavailableError, match="its period is unknown"):
        ReplayDevice(record(tmp_path / "trace-gpu.npy", [3]))


def test_a_trace_cut_by_a_crash_replays_its_whole_rows(run):
    """A file that ends inside a row is a recording up to that row."""
    path = run / "trace-gpu.npy"
    os.truncate(path, path.stat().st_size - 5)
    assert len(ReplayDevice(run).trace) == 19


def test_a_file_that_is_no_trace_is_refused(run):
    """Cut inside the header, or another format: the message names the file."""
    os.truncate(run / "trace-gpu.npy", 100)
    with pytest.raises(RecordError, match=r"trace-gpu.npy is not a readable trace"):
        ReplayDevice(run)


def test_times_that_do_not_increase_are_damage(tmp_path):
    """Rows out of order are refused, not sorted."""
    with pytest.raises(RecordError, match="its times do not increase"):
        ReplayDevice(record(tmp_path / "trace-gpu.npy", [1, 3, 2]))


def test_a_damaged_run_json_is_refused(run):
    """Half a description is no description."""
    (run / "run.json").write_text("{")
    with pytest.raises(RecordError, match=r"run.json cannot be read"):
        ReplayDevice(run)


@pytest.mark.parametrize(("parameters", "match"), [({}, "needs the parameter 'path'"), ({"path": "x", "speed": 2}, "no parameter speed")])
def test_parameters_are_checked(parameters, match):
    """Unknown and missing parameters are configuration errors."""
    with pytest.raises(ConfigurationError, match=match):
        open_device(DeviceSpec(kind="replay", parameters=parameters))


def test_a_gap_threshold_below_one_period_is_refused(run):
    """A row must live until the next one."""
    with pytest.raises(ConfigurationError, match="'gap_periods' must be >= 1"):
        ReplayDevice(run, gap_periods=0.5)
