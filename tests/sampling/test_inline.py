"""The sampler on a virtual clock."""

from __future__ import annotations

import errno
import math

import numpy as np
import pytest

from pytest_physics.clock import NS_PER_S, VirtualClock
from pytest_physics.devices.base import Channel, DeviceSpec, ReadingKind
from pytest_physics.errors import SamplerError
from pytest_physics.metrology.quality import Provenance
from pytest_physics.sampling import inline as inline_module
from pytest_physics.sampling.base import SamplerState, ThermalSafety
from pytest_physics.sampling.inline import InlineSampler


def channel(name):
    return Channel(name=name, kind=ReadingKind.INSTANT, resolution=0, provenance=Provenance.SIMULATED, source="test")


class Ramp:
    """Shows the time in seconds as power, and a temperature given as a function of it."""

    def __init__(self, temperature=lambda s: 40 + 0 * s, start_ns=0):
        self.clock = VirtualClock(start_ns=start_ns)
        self.spec = DeviceSpec(kind="twin")
        self.channels = (channel("power_w"), channel("temperature_c"))
        self._temperature = temperature
        self.asked = []

    def sample(self, t_ns):
        assert t_ns[-1] <= self.clock.now_ns(), "a device cannot be read in its future"
        self.asked.append(len(t_ns))
        s = t_ns / NS_PER_S
        values = np.column_stack([s, self._temperature(s)])
        return values, np.where(np.isnan(values), 7, 0).astype(np.uint16)


def sampler_of(device, tmp_path, period_s=0.1, **options):
    return InlineSampler(device, tmp_path / "trace-gpu.npy", period_s, instrument="gpu", **options)


def test_every_grid_point_of_a_move_is_sampled_once(tmp_path):
    """Moves of any length take the points in (before, after]; together they give the whole grid without repeats."""
    device = Ramp(start_ns=5)
    sampler = sampler_of(device, tmp_path)
    sampler.start()
    for seconds in (0.05, 0.05, 0.31, 1.0, 0.001):
        device.clock.sleep_until_ns(device.clock.now_ns() + round(seconds * NS_PER_S))
    trace = sampler.trace()
    assert trace.tick.tolist() == list(range(15))
    assert trace.rows["t_before_ns"].tolist() == [5 + k * NS_PER_S // 10 for k in range(15)]
    assert trace.values("power_w") == pytest.approx(trace.t_ns / NS_PER_S)
    assert sampler.statistics().dropped == 0


def test_long_moves_are_sampled_in_pieces(tmp_path, monkeypatch):
    """Memory does not grow with the length of a move, and no point is lost between pieces."""
    monkeypatch.setattr(inline_module, "ROWS_AT_ONCE", 1000)
    device = Ramp()
    sampler = sampler_of(device, tmp_path, 0.001)
    sampler.start()
    device.clock.advance_to_ns(3 * NS_PER_S + 500_000_000)
    assert max(device.asked) == 1000
    assert sampler.trace().tick.tolist() == list(range(3501))


def test_latest_and_wait_follow_the_clock(tmp_path):
    """Waiting does not move virtual time: it says whether the sample is there."""
    device = Ramp()
    sampler = sampler_of(device, tmp_path)
    assert sampler.latest() == {}
    sampler.start()
    assert not sampler.wait_until_sampled(1, timeout_s=10)
    device.clock.advance_to_ns(NS_PER_S)
    assert sampler.wait_until_sampled(NS_PER_S)
    assert not sampler.wait_until_sampled(NS_PER_S + 1)
    assert sampler.latest() == {"power_w": 1.0, "temperature_c": 40.0}


def test_after_stop_nothing_is_sampled(tmp_path):
    """A stopped sampler is not alive, its file is complete, and later windows stay empty."""
    device = Ramp()
    sampler = sampler_of(device, tmp_path)
    sampler.start()
    device.clock.advance_to_ns(NS_PER_S)
    status = sampler.stop()
    device.clock.advance_to_ns(2 * NS_PER_S)
    assert status.state is SamplerState.STOPPED
    assert sampler.stop() == status
    assert not sampler.is_alive()
    assert math.isinf(sampler.heartbeat_age_s())
    assert len(np.load(sampler.trace_path)) == status.rows == 11


def test_a_shared_origin_puts_two_instruments_on_one_grid(tmp_path):
    """With a given origin the first tick is the first grid point at or after the start."""
    device = Ramp(start_ns=250_000_000)
    sampler = sampler_of(device, tmp_path, origin_ns=0)
    sampler.start()
    device.clock.advance_to_ns(450_000_000)
    assert sampler.trace().tick.tolist() == [3, 4]


def test_a_missing_value_is_counted_and_kept_missing(tmp_path):
    """NaN with its error code reaches the trace; nothing is filled in."""
    device = Ramp(temperature=lambda s: np.where(s > 0.25, np.nan, 40.0))
    sampler = sampler_of(device, tmp_path)
    sampler.start()
    device.clock.advance_to_ns(NS_PER_S // 2)
    assert sampler.status.read_errors == 3
    assert sampler.trace().errors("temperature_c").tolist() == [0, 0, 0, 7, 7, 7]


@pytest.mark.parametrize(
    ("temperatures", "tripped", "trips"),
    [
        ([70, 82.9], False, 0),
        ([70, 83.0], True, 1),
        ([83, 80.1], True, 1),
        ([83, 80.0], False, 1),
        ([83, math.nan], True, 1),
        ([79, 81, 82], False, 0),
        ([83, 79, 84, 85], True, 2),
    ],
)
def test_the_thermal_trip_has_hysteresis_however_the_clock_moves(tmp_path, temperatures, tripped, trips):
    """Trips at 83, resumes at 80, in between it stays as it was; one long move or many short ones make no difference."""
    series = np.array([60.0, *temperatures])
    for steps in (1, len(temperatures)):
        device = Ramp(temperature=lambda s: series[np.rint(s * 10).astype(int)])
        sampler = InlineSampler(device, tmp_path / f"{steps}.npy", 0.1, instrument="gpu", thermal=ThermalSafety())
        sampler.start()
        for step in range(1, steps + 1):
            device.clock.advance_to_ns(step * len(temperatures) * 100_000_000 // steps)
        assert (sampler.tripped, sampler.status.thermal_trips) == (tripped, trips)


def test_a_trace_that_cannot_be_written_fails_the_sampler_and_not_the_clock(tmp_path, monkeypatch):
    """The state says why; the device goes on; what was written is readable."""
    device = Ramp()
    sampler = sampler_of(device, tmp_path)
    sampler.start()
    device.clock.advance_to_ns(NS_PER_S)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pytest_physics.sampling.writer.os.write", full)
        device.clock.advance_to_ns(2 * NS_PER_S)
    assert sampler.status.state is SamplerState.FAILED
    assert "No space left" in sampler.status.error
    assert not sampler.wait_until_sampled(2 * NS_PER_S)
    assert sampler.stop().rows == 11
    assert len(np.load(sampler.trace_path)) == 11


def test_it_starts_once(tmp_path):
    """A second start is an error, as is one into an existing file."""
    sampler = sampler_of(Ramp(), tmp_path)
    sampler.start()
    with pytest.raises(SamplerError, match="started already"):
        sampler.start()
    with pytest.raises(SamplerError, match="could not start: FileExistsError"):
        sampler_of(Ramp(), tmp_path).start()


def test_hysteresis_limits_are_checked():
    """A resume limit at the trip limit would flutter."""
    with pytest.raises(ValueError, match="'resume_c' must be below 'trip_c'"):
        ThermalSafety(trip_c=80, resume_c=80)


def test_a_pause_takes_no_samples_and_the_grid_goes_on(tmp_path):
    """Ticks of a pause are absent from the trace; those after it are where they would have been."""
    device = Ramp()
    sampler = sampler_of(device, tmp_path)
    sampler.start()
    device.clock.advance_to_ns(NS_PER_S)
    sampler.pause()
    device.clock.advance_to_ns(3 * NS_PER_S)
    sampler.resume()
    device.clock.advance_to_ns(4 * NS_PER_S)
    assert sampler.trace().tick.tolist() == [*range(11), *range(31, 41)]


def test_a_device_that_minds_is_told(tmp_path):
    """A simulated card whose power depends on being read learns of the pause and of its end."""
    device = Ramp()
    told = []
    device.set_polled = told.append
    sampler = sampler_of(device, tmp_path)
    sampler.start()
    sampler.pause()
    sampler.resume()
    assert told == [False, True]
