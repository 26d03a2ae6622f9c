"""The twin as a device: protocol, spec, presets, determinism."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from pytest_physics.clock import VirtualClock
from pytest_physics.devices.base import CHANNELS, SAMPLING_SHARE, Device, DeviceSpec
from pytest_physics.devices.twin import PRESETS, Fault, SensorDesign, TwinDevice, TwinLoad, open_device
from pytest_physics.errors import ConfigurationError, DeviceUnavailableError
from pytest_physics.metrology.quality import Provenance

S = 1_000_000_000
MS = 1_000_000


def worked(device: TwinDevice) -> TwinDevice:
    device.clock.advance_to_ns(S)
    device.execute(TwinLoad(), 1.0)
    device.clock.advance_to_ns(5 * S)
    return device


@pytest.mark.parametrize("preset", sorted(PRESETS))
class TestEveryPreset:
    def test_is_a_device_with_simulated_known_channels(self, preset):
        """Protocol, channel names of the one list, provenance, and nothing both present and absent."""
        device = worked(TwinDevice(preset))
        assert isinstance(device, Device)
        names = [channel.name for channel in device.channels]
        assert set(names) <= set(CHANNELS)
        assert set(device.absent) <= set(CHANNELS)
        assert not set(names) & set(device.absent)
        assert {channel.provenance for channel in device.channels} == {Provenance.SIMULATED}
        values, errors = device.read()
        assert len(values) == len(names)
        assert np.all(np.isfinite(values))
        assert not any(errors)

    def test_work_shows_in_power_and_the_card_stays_within_its_limits(self, preset):
        """Power rises with load, below the limit; five minutes of full load do not overheat a healthy card."""
        device = TwinDevice(preset)
        device.clock.advance_to_ns(S)
        device.set_load(TwinLoad())
        device.clock.advance_to_ns(300 * S)
        table = device.truth_table()
        card = device.preset.card
        assert table["base_w"][0] < 0.5 * table["base_w"][-1] <= 0.5 * card.power_limit_w
        assert table["node_0_c"].max() < card.slowdown_c
        assert table["thermal_ns"][-1] == 0

    def test_sensor_is_the_presets_and_sampling_follows_it(self, preset):
        """The stated model is nominal and says so; sampling is five times per update."""
        device = TwinDevice(preset, seed=3)
        assert device.sensor is not None
        assert device.sensor.origin == "preset"
        assert device.sensor.update_period_s == PRESETS[preset].power.update_period_s
        assert device.sampling_period_s == SAMPLING_SHARE * device.sensor.update_period_s


class TestGenerations:
    def test_absent_channels_say_why(self):
        """As on the real cards: no average on GA100 and Volta, no counters on Kepler; Ada and Hopper have both."""
        for preset in ("a100", "v100", "k40"):
            assert "not supported" in TwinDevice(preset).absent["power_average_w"]
        assert "no energy counter" in TwinDevice("k40").absent["energy_j"]
        assert "power_cap_ns" in TwinDevice("k40").absent
        for preset in ("rtx4080-laptop", "h100"):
            assert {"power_average_w", "energy_j"} <= {channel.name for channel in TwinDevice(preset).channels}

    def test_published_sensor_parameters(self):
        """Known answers from Yang et al.: update period and window or lag, in milliseconds."""
        got = {name: (p.power.update_period_s * 1e3, p.power.window_s * 1e3, p.power.lag_s * 1e3) for name, p in PRESETS.items()}
        assert got == {
            "rtx4080-laptop": pytest.approx((100, 100, 0)),
            "a100": pytest.approx((101.148, 25.2, 0)),
            "h100": pytest.approx((100, 23, 0)),
            "v100": pytest.approx((20, 10.6, 0)),
            "rtx3090": pytest.approx((99.97, 99.9, 0)),
            "k40": pytest.approx((15, 0, 50)),
            "ideal": pytest.approx((1, 1, 0)),
        }

    def test_default_is_the_laptop_of_tr122(self):
        """Deep idle 1.2–3.5 W, active idle 20–26 W, limit 150–175 W, 12 GB."""
        device = TwinDevice()
        assert device.preset.name == "rtx4080-laptop"
        card = device.preset.card
        assert card.deep_idle_w is not None
        assert 1.2 <= card.deep_idle_w <= 3.5
        assert 20 <= card.active_idle_w <= 26
        assert 150 <= card.power_limit_w <= 175
        assert card.memory_bytes == 12 * 2**30


class TestSpec:
    SPEC = DeviceSpec(
        kind="twin",
        parameters={
            "preset": "a100",
            "seed": 7,
            "faults": [{"kind": "read_error", "start_s": 1.0, "stop_s": 2.0, "value": 0.3}, {"kind": "lost", "start_s": 4.0}],
            "overrides": {"card.slowdown_c": 70.0, "card.thermal.ambient_c": 30.0, "power.noise_w": 0.1},
        },
    )

    def test_round_trips_through_json(self):
        """The spec of an opened device opens an equal device, also from JSON."""
        device = open_device(self.SPEC)
        assert device.spec == self.SPEC
        again = open_device(DeviceSpec(kind="twin", parameters=json.loads(json.dumps(device.spec.parameters))))
        assert again.fingerprint == device.fingerprint
        assert np.array_equal(worked(again).truth_table(), worked(device).truth_table())
        grid = np.arange(0, 5 * S, 20 * MS)
        assert np.array_equal(device.sample(grid)[0], again.sample(grid)[0], equal_nan=True)

    def test_empty_parameters_are_the_default(self):
        """Nothing needs to be given."""
        assert open_device(DeviceSpec(kind="twin")).spec == TwinDevice().spec

    def test_overrides_reach_the_part_they_name(self):
        """Dotted names replace one parameter, and leave the preset itself alone."""
        device = open_device(self.SPEC)
        assert device.preset.card.slowdown_c == 70.0
        assert device.preset.card.thermal.ambient_c == 30.0
        assert device.preset.power.noise_w == 0.1
        assert PRESETS["a100"].card.slowdown_c == 85.0

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"preset": "a10"}, "unknown twin preset 'a10' (did you mean 'a100'"),
            ({"presets": "a100"}, "unknown parameter of a twin 'presets' (did you mean 'preset'"),
            ({"overrides": {"card.slowdown": 60.0}}, "did you mean 'slowdown_c'"),
            ({"overrides": {"card.slowdown_c.x": 60.0}}, "unknown twin parameter"),
            ({"overrides": {"card.slowdown_c": 99.0}}, "must be below 'hardware_slowdown_c'"),
            ({"overrides": {"card.thermal.ambient_c": 30.0, "card.power_limit_w": 0.0}}, "'power_limit_w' must be > 0"),
            ({"faults": [{"kind": "spikes"}]}, "did you mean 'spike'"),
        ],
    )
    def test_what_cannot_be_is_refused(self, parameters, message):
        """Unknown names get the nearest known one; impossible values their reason."""
        with pytest.raises(ConfigurationError, match=re.escape(message)):
            open_device(DeviceSpec(kind="twin", parameters=parameters))

    def test_fingerprint_tells_twins_apart(self):
        """Seed, faults, preset and parameters each change the digest; the same spec has the same one."""
        devices = [
            TwinDevice(),
            TwinDevice(seed=1),
            TwinDevice("a100"),
            TwinDevice(faults=[Fault(kind="stale", start_s=1.0)]),
            TwinDevice(overrides={"card.slowdown_c": 80.0}),
        ]
        assert len({device.fingerprint.digest for device in devices}) == len(devices)
        assert TwinDevice().fingerprint == devices[0].fingerprint
        assert devices[0].fingerprint.details["simulated"] == "true"


class TestReading:
    def test_same_seed_same_readings_other_seed_others(self):
        """Deterministic for a seed."""
        grid = np.arange(0, 5 * S, 20 * MS)
        first, same, other = (worked(TwinDevice(seed=seed)).sample(grid)[0] for seed in (1, 1, 2))
        assert np.array_equal(first, same)
        assert not np.array_equal(first[:, 0], other[:, 0])

    def test_read_is_the_sample_of_now(self):
        """One reading now equals the last row of a sampled grid."""
        device = worked(TwinDevice())
        values, errors = device.sample(np.arange(0, 5 * S + 1, 20 * MS))
        assert device.read() == (values[-1].tolist(), errors[-1].tolist())

    def test_sampler_subscribed_later_sees_what_happened(self):
        """A subscriber of the same clock is told after the device, and can read up to now."""
        device = TwinDevice()
        seen = []
        device.clock.subscribe(lambda before, after: seen.append(device.sample(np.array([before, after]))[0][:, 0]))
        device.execute(TwinLoad(intensity=0.5), 2.0)
        assert len(seen) == 1
        assert seen[0][1] > seen[0][0] + 50

    def test_device_may_join_a_clock_that_runs(self):
        """Opened late, it counts its own time from there: rest before, faults and truth from then on."""
        clock = VirtualClock(start_ns=100 * S)
        device = open_device(DeviceSpec(kind="twin", parameters={"faults": [{"kind": "lost", "start_s": 1.0}]}), clock=clock)
        assert device.clock is clock
        clock.advance_to_ns(102 * S)
        errors = device.sample([100 * S, 101 * S - 1, 101 * S])[1]
        assert np.any(errors, axis=1).tolist() == [False, False, True]
        with pytest.raises(ValueError, match="knows 100000000000 ns"):
            device.sample([99 * S])

    def test_closed_device_refuses_reads_and_keeps_its_truth(self):
        """Reading after close is an error; the truth table can still be stored."""
        device = worked(TwinDevice())
        device.close()
        with pytest.raises(DeviceUnavailableError, match="closed"):
            device.read()
        assert device.truth_table()["t_ns"][-1] == 5 * S


def test_sensor_design_keeps_updates_in_order():
    """Jitter of a tenth of the period is allowed, more is not; a delay must cover its own spread."""
    SensorDesign(update_period_s=0.1, jitter_s=0.01)
    with pytest.raises(ValueError, match="'jitter_s'"):
        SensorDesign(update_period_s=0.1, jitter_s=0.011)
    with pytest.raises(ValueError, match="'delay_s'"):
        SensorDesign(update_period_s=0.1, delay_s=0.0019)


def test_driver_ring_holds_the_sensors_own_updates():
    """A ring of every update: at most 119, one update period apart up to the jitter, with the values that were read then."""
    device = TwinDevice("v100", seed=2)
    device.clock.advance_to_ns(device.clock.now_ns() + 10 * S)
    (kept,) = device.driver_samples()
    assert len(kept.values) == 119
    period_us = 1e6 * device.true_sensor["update_period_s"]
    assert np.mean(np.diff(kept.timestamp_us)) == pytest.approx(period_us, rel=1e-3)
    values, _ = device.sample(device.clock.now_ns())
    names = [channel.name for channel in device.channels]
    assert kept.values[-1] == values[0][names.index("power_w")]


def test_driver_ring_begins_with_the_device_and_is_only_where_it_is_known():
    """After a second a ring of 20 ms holds some fifty samples; a preset of which nothing is known has none."""
    device = TwinDevice("v100", seed=2)
    device.clock.advance_to_ns(device.clock.now_ns() + S)
    assert 45 <= len(device.driver_samples()[0].values) <= 55
    assert TwinDevice("a100").driver_samples() == ()


def test_averaging_fault_changes_what_the_channel_means():
    """From its begin on the reading is a plain average over its value; from the start, that is what the sensor truly is."""
    device = TwinDevice("ideal", faults=(Fault(kind="averaging", start_s=2.0, value=1.0),))
    device.clock.advance_to_ns(device.clock.now_ns() + S)
    device.set_load(TwinLoad(intensity=0.5))
    device.clock.advance_to_ns(device.clock.now_ns() + round(1.25 * S))
    names = [channel.name for channel in device.channels]
    before = device.sample(device.clock.now_ns() - 300 * MS)[0][0][names.index("power_w")]
    full = float(device.true_power_w(device.clock.now_ns()))
    assert before == pytest.approx(full, rel=0.01)
    device.idle()
    device.clock.advance_to_ns(device.clock.now_ns() + S // 2)
    half = device.sample(device.clock.now_ns())[0][0][names.index("power_w")]
    assert half == pytest.approx((full + 30) / 2, rel=0.02)
    assert TwinDevice("ideal", faults=(Fault(kind="averaging", value=1.0),)).true_sensor["window_s"] == 1.0
