"""What the twin's sensors read of the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_physics.devices.twin import IDLE, PRESETS, TwinDevice, TwinLoad
from pytest_physics.devices.twin.draws import normal, truncated_normal, uniform
from pytest_physics.devices.twin.sensor import Comb

S = 1_000_000_000
MS = 1_000_000
QUIET = {"power.noise_w": 0.0, "power.resolution_w": 1e-9, "u_gain": 0.0, "offset_limit_w": 0.0}


def channel(device: TwinDevice, name: str, t_ns) -> np.ndarray:
    names = [known.name for known in device.channels]
    return device.sample(np.asarray(t_ns))[0][:, names.index(name)]


def toggled(device: TwinDevice, seconds: float = 10.0, seed: int = 0) -> TwinDevice:
    """A random telegraph load."""
    rng = np.random.default_rng(seed)
    while device.clock.now_ns() < seconds * S:
        device.set_load(IDLE if device.load.busy else TwinLoad(intensity=0.5))
        device.clock.advance_to_ns(device.clock.now_ns() + int(rng.integers(20 * MS, 130 * MS)))
    return device


class TestPowerSensor:
    @pytest.mark.parametrize("preset", ["rtx4080-laptop", "a100", "v100"])
    def test_box_reading_is_the_exact_mean_of_its_window(self, preset):
        """Without noise and scale error a reading is the true energy of [t_k − d − W, t_k − d], over W."""
        device = toggled(TwinDevice(preset, seed=4, overrides=QUIET))
        sensor = device._power
        t_ns = np.arange(2 * S, 9 * S, 13 * MS)
        end_ns = sensor.comb.latest(t_ns)[1] - sensor.delay_s * 1e9
        expected_w = device.true_energy_j(end_ns - sensor.window_s * 1e9, end_ns) / sensor.window_s
        assert np.allclose(channel(device, "power_w", t_ns), expected_w, rtol=0, atol=2e-6)
        assert np.ptp(expected_w) > 20

    def test_lag_reading_is_the_analytic_step_response(self):
        """A step behind the electrical constant τe and the lag τ: 1 − (τ·exp(−t/τ) − τe·exp(−t/τe))/(τ − τe)."""
        device = TwinDevice("k40", seed=2, overrides={**QUIET, "card.leakage_w_per_k": 0.0, "card.deep_idle_w": 62.0})
        device.clock.advance_to_ns(S)
        device.set_load(TwinLoad(intensity=0.25))
        device.clock.advance_to_ns(2 * S)
        sensor, tau_e = device._power, device.preset.card.electrical_s
        t_ns = np.arange(S, 2 * S, 7 * MS)
        since_s = (sensor.comb.latest(t_ns)[1] - S) * 1e-9 - sensor.delay_s
        lag = sensor.lag_s
        rise = 1 - (lag * np.exp(-since_s / lag) - tau_e * np.exp(-since_s / tau_e)) / (lag - tau_e)
        idle_w, load_w = device.true_power_w([0, 2 * S])
        expected_w = idle_w + (load_w - idle_w) * np.where(since_s > 0, rise, 0.0)
        assert load_w - idle_w > 50
        assert np.allclose(channel(device, "power_w", t_ns), expected_w, rtol=0, atol=1e-6)

    def test_box_of_lag_is_the_mean_of_the_lagged_power(self):
        """Box and lag together: the closed form equals a numerical mean of the lag's response."""
        device = toggled(TwinDevice("a100", seed=1, overrides={**QUIET, "power.lag_s": 0.015}), seconds=4.0)
        sensor = device._power
        assert sensor._lag is not None
        t_ns = np.array([1.5, 2.3, 3.1]) * S
        end_ns = t_ns - sensor.delay_s * 1e9
        grid = np.linspace(0, 1, 200_001)
        numeric = [np.trapezoid(sensor._lag.value(end - (1 - grid) * sensor.window_s * 1e9), grid) for end in end_ns]
        assert np.allclose(sensor.response_w(t_ns), numeric, rtol=1e-7)

    def test_value_is_held_between_updates(self):
        """As many distinct values as updates: the reading changes only at its comb."""
        device = toggled(TwinDevice("a100", seed=9))
        t_ns = np.arange(0, 10 * S, MS)
        power_w = channel(device, "power_w", t_ns)
        changes = t_ns[1:][np.diff(power_w) != 0]
        assert 97 <= len(changes) <= 99
        assert np.median(np.diff(changes)) == pytest.approx(101.148 * MS, abs=2 * MS)

    def test_average_channel_lags_behind_the_instant_one(self):
        """The average needs a second for a step that the instant channel shows after its window."""
        device = TwinDevice("h100", seed=1, overrides={"u_gain": 0.0, "offset_limit_w": 0.0})
        device.clock.advance_to_ns(2 * S)
        device.set_load(TwinLoad(intensity=0.5))
        device.clock.advance_to_ns(4 * S)
        idle_w, load_w = device.true_power_w([S, 2 * S + 500 * MS])
        half_w = (idle_w + load_w) / 2
        at_400_ms = 2 * S + 400 * MS
        assert channel(device, "power_w", [at_400_ms])[0] == pytest.approx(load_w, rel=0.02)
        assert channel(device, "power_average_w", [at_400_ms])[0] < half_w
        assert channel(device, "power_average_w", [3 * S + 300 * MS])[0] == pytest.approx(load_w, rel=0.02)

    def test_readings_sit_on_the_resolution(self):
        """Values are whole multiples of the preset's step, and not of a coarser one."""
        device = toggled(TwinDevice("v100"))
        steps = channel(device, "power_w", np.arange(0, 10 * S, 5 * MS)) / 0.1
        assert np.allclose(steps, np.round(steps), atol=1e-9)
        assert len(np.unique(np.round(steps) % 10)) == 10

    def test_noise_has_the_stated_spread(self):
        """Readings at constant power scatter by the preset's noise."""
        device = TwinDevice("a100", seed=8, overrides={"card.leakage_w_per_k": 0.0})
        device.clock.advance_to_ns(300 * S)
        per_update = channel(device, "power_w", np.arange(0, 300 * S, 102 * MS))
        assert np.std(per_update) == pytest.approx(0.5, rel=0.06)

    def test_specimens_stay_within_two_standard_uncertainties_of_the_stated_model(self):
        """The sensor model a device states covers what the specimen is, in every parameter, for any seed; specimens differ."""
        for preset in PRESETS:
            gains = set()
            for seed in range(40):
                device = TwinDevice(preset, seed=seed)
                stated, own = device.sensor, device._power
                assert stated is not None
                for value, nominal, u in (
                    (own.comb.period_ns * 1e-9, stated.update_period_s, stated.u_update_period_s),
                    (own.window_s, stated.window_s, stated.u_window_s),
                    (own.lag_s, stated.lag_s, stated.u_lag_s),
                    (own.delay_s, stated.delay_s, stated.u_delay_s),
                    (own.gain, 1.0, stated.u_gain),
                    (own.offset_w, 0.0, stated.u_offset_w),
                ):
                    assert abs(value - nominal) <= 2 * u * (1 + 1e-9) + 1e-12
                gains.add(own.gain)
            assert len(gains) == (1 if preset == "ideal" else 40)

    def test_scale_and_offset_are_drawn_apart(self):
        """Gain and offset of a specimen are uncorrelated over seeds."""
        pairs = np.array([(own.gain, own.offset_w) for own in (TwinDevice("a100", seed=seed)._power for seed in range(200))])
        assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.2

    def test_idle_reading_of_the_coolest_card_stays_positive(self):
        """The offset is scaled to small idle powers: deep idle of 2 W never reads 0."""
        for seed in range(40):
            device = TwinDevice(seed=seed, overrides={"power.noise_w": 0.0})
            device.clock.advance_to_ns(S)
            assert device.read()[0][0] > 0


class TestComb:
    @pytest.mark.parametrize("jitter_ns", [0.0, 10.0 * MS])
    def test_latest_is_the_last_update_that_has_happened(self, jitter_ns):
        """At every instant: the update found has happened and the next has not, with the largest jitter allowed and without."""
        comb = Comb(period_ns=100.0 * MS, phase_ns=33.0 * MS, jitter_ns=jitter_ns, seed=1, stream="x")
        t_ns = np.sort(np.random.default_rng(0).integers(0, 100 * S, 20_000))
        k, t_k = comb.latest(t_ns)
        assert np.all(t_k <= t_ns)
        assert np.all(comb.time(k + 1) > t_ns)
        assert np.array_equal(t_k, comb.time(k))
        at_update = np.ceil(comb.time(np.arange(1, 100))).astype(np.int64)
        assert np.array_equal(comb.latest(at_update)[0], np.arange(1, 100))


class TestCounter:
    def test_counts_whole_millijoules_only_once_complete(self):
        """Rounded down: what is read never exceeds what was used, and misses less than a millijoule."""
        device = TwinDevice("ideal", seed=6)
        assert device._counter is not None
        device.set_load(TwinLoad(intensity=0.5))
        device.clock.advance_to_ns(S)
        t_ns = np.arange(100 * MS, S, 7 * MS)
        missing_j = (
            device._counter._start_j + device.true_energy_j(0, device._counter.comb.latest(t_ns)[1]) - channel(device, "energy_j", t_ns)
        )
        assert missing_j.min() > -1e-9
        assert 0.0005 < missing_j.max() < 0.001 + 1e-9

    def test_counts_millijoules_at_its_tick(self):
        """Increments come once per tick, in whole millijoules, and add up to the true energy times the counter's own gain."""
        device = TwinDevice("a100", seed=6)
        device.set_load(TwinLoad(intensity=0.5))
        device.clock.advance_to_ns(20 * S)
        assert device._counter is not None
        t_ns = np.arange(0, 20 * S, MS)
        energy_j = channel(device, "energy_j", t_ns)
        changes = t_ns[1:][np.diff(energy_j) > 0]
        assert np.all(np.abs(np.diff(changes) - 100 * MS) <= MS)
        assert np.allclose(energy_j * 1000, np.round(energy_j * 1000), atol=1e-5)
        ticks_ns = device._counter.comb.latest(t_ns[[500, -1]])[1]
        expected_j = device._counter.gain * device.true_energy_j(*ticks_ns)
        assert energy_j[-1] - energy_j[500] == pytest.approx(expected_j, abs=0.0011)

    def test_gain_is_independent_of_the_power_sensor(self):
        """Two scales, drawn apart: uncorrelated over seeds, and the counter's is the smaller."""
        pairs = np.array([(d._power.gain, d._counter.gain) for d in (TwinDevice(seed=s) for s in range(200))])
        assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.2
        assert np.std(pairs[:, 1]) < 0.2 * np.std(pairs[:, 0])


class TestOtherChannels:
    def test_temperature_is_whole_degrees_rounded_down(self):
        """Floor, not round."""
        device = TwinDevice(seed=1)
        device.set_load(TwinLoad())
        device.clock.advance_to_ns(60 * S)
        t_ns = np.arange(0, 60 * S, 250 * MS)
        assert np.array_equal(channel(device, "temperature_c", t_ns), np.floor(device.true_temperatures_c(t_ns)[:, 0]))

    def test_utilisation_is_the_mean_over_its_own_window(self):
        """A half-second burst in a long rest shows up for its length, as the share of the meter's window, in whole percent."""
        device = TwinDevice(seed=1)
        device.clock.advance_to_ns(2 * S)
        device.set_load(TwinLoad(utilisation_ratio=0.8, memory_utilisation_ratio=0.3))
        device.clock.advance_to_ns(2 * S + 500 * MS)
        device.idle()
        device.clock.advance_to_ns(4 * S)
        t_ns = np.arange(0, 4 * S, MS)
        busy = channel(device, "utilisation_ratio", t_ns)
        assert busy.max() == pytest.approx(0.8)
        assert busy[t_ns < 2 * S].max() == busy[-1] == 0
        assert np.sum(busy) * 1e-3 == pytest.approx(0.8 * 0.5, rel=0.05)
        assert channel(device, "memory_utilisation_ratio", t_ns).max() == pytest.approx(0.3)

    def test_throttle_counters_read_as_the_truth(self):
        """At any instant, also inside a segment, the counters are the exact time under their reason."""
        device = TwinDevice(overrides={"card.slowdown_c": 50.0})
        device.set_load(TwinLoad())
        device.clock.advance_to_ns(60 * S)
        table = device.truth_table()
        t_ns = np.arange(0, 60 * S, 33_333_333)
        grid_ns = np.unique(np.concatenate([table["t_ns"], t_ns]))
        reasons = table["event_reasons"][np.searchsorted(table["t_ns"], grid_ns, side="right") - 1]
        for name, mask in (("power_cap_ns", 4), ("software_thermal_ns", 0x20), ("thermal_ns", 0x60), ("power_brake_ns", 0x80)):
            cumulative = np.concatenate([[0], np.cumsum(np.diff(grid_ns) * ((reasons[:-1] & mask) != 0))])
            assert np.array_equal(channel(device, name, t_ns), cumulative[np.searchsorted(grid_ns, t_ns)])


class TestDraws:
    @settings(max_examples=50, deadline=None)
    @given(seed=st.integers(0, 2**40), index=st.integers(-(2**40), 2**40))
    def test_a_draw_depends_on_its_index_alone(self, seed, index):
        """Alone or in a row, the draw of an index is the same, and inside (0, 1)."""
        alone = uniform(seed, "x", index)[0]
        assert alone == uniform(seed, "x", np.arange(index - 3, index + 3))[3]
        assert 0 < alone < 1

    def test_draws_have_their_distributions(self):
        """Moments of uniform, normal and truncated normal; streams and neighbours are uncorrelated."""
        index = np.arange(200_000)
        u, z, cut = (draw(7, "a", index) for draw in (uniform, normal, truncated_normal))
        assert np.mean(u) == pytest.approx(0.5, abs=0.003)
        assert np.var(u) == pytest.approx(1 / 12, rel=0.01)
        assert np.mean(z) == pytest.approx(0, abs=0.01)
        assert np.std(z) == pytest.approx(1, abs=0.01)
        assert np.abs(cut).max() <= 2
        assert np.std(cut) == pytest.approx(0.8796, abs=0.01)
        assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.01
        assert abs(np.corrcoef(u, uniform(7, "b", index))[0, 1]) < 0.01
        assert abs(np.corrcoef(u, uniform(8, "a", index))[0, 1]) < 0.01
