"""Each fault fires where it was ordered, and nowhere else."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytest_physics.devices.twin import FAULT_KINDS, IDLE, Fault, TwinDevice, TwinLoad
from pytest_physics.errors import ConfigurationError

S = 1_000_000_000
MS = 1_000_000
GRID = np.arange(0, 30 * S, 20 * MS)
INSIDE = (GRID >= 10 * S) & (GRID < 20 * S)
AFTER = GRID >= 21 * S
LOADED = TwinLoad(intensity=0.3)


def played(*faults: Fault, load: TwinLoad = LOADED, preset: str = "rtx4080-laptop") -> TwinDevice:
    """Thirty seconds under one load."""
    device = TwinDevice(preset, seed=1, faults=faults)
    device.set_load(load)
    device.clock.advance_to_ns(30 * S)
    return device


def read(device: TwinDevice, name: str) -> np.ndarray:
    return device.sample(GRID)[0][:, [known.name for known in device.channels].index(name)]


def spanned(kind: str, value: float | None = None) -> Fault:
    return Fault(kind=kind, start_s=10.0, stop_s=20.0, value=value)


class TestFaultsThatSpoilReadings:
    def test_read_error_fails_its_share_of_reads_in_its_span(self):
        """About the ordered share of values is missing, each with its error code, in every channel apart; none outside."""
        values, errors = played(spanned("read_error", 0.2)).sample(GRID)
        assert np.array_equal(np.isnan(values), errors != 0)
        assert set(np.unique(errors)) == {0, 999}
        assert np.mean(errors[INSIDE] != 0) == pytest.approx(0.2, abs=0.02)
        assert not np.any(errors[~INSIDE])
        assert abs(np.corrcoef((errors[INSIDE] != 0).T[:2])[0, 1]) < 0.2

    def test_lost_device_answers_nothing_from_then_on(self):
        """Every read fails with NVML's code 15, to the end."""
        values, errors = played(Fault(kind="lost", start_s=10.0)).sample(GRID)
        assert np.all(errors[GRID >= 10 * S] == 15)
        assert np.all(np.isnan(values[GRID >= 10 * S]))
        assert not np.any(errors[GRID < 10 * S])

    def test_stale_device_repeats_every_reading(self):
        """All channels keep their value of the start; the truth goes on; afterwards readings are right again."""
        clean, device = played(), played(spanned("stale"))
        values, right = device.sample(GRID)[0], clean.sample(GRID)[0]
        assert np.all(values[INSIDE] == values[INSIDE][0])
        assert np.array_equal(values[~INSIDE], right[~INSIDE])
        assert device.true_energy_j(0, 30 * S) == clean.true_energy_j(0, 30 * S)

    def test_stalled_sensor_repeats_power_only(self):
        """Both power channels hold their last value before the stall; the energy counter goes on."""
        clean, device = played(), played(spanned("sensor_stall"))
        for name in ("power_w", "power_average_w"):
            assert len(np.unique(read(device, name)[INSIDE])) == 1
            assert np.array_equal(read(device, name)[AFTER], read(clean, name)[AFTER])
            assert len(np.unique(read(clean, name)[INSIDE])) > 50
        assert np.array_equal(read(device, "energy_j"), read(clean, "energy_j"))

    def test_overlapping_stalls_hold_the_value_before_the_first(self):
        """An update that a stall falls back to is not taken from within another stall."""
        device = played(Fault(kind="sensor_stall", start_s=10.0, stop_s=15.0), Fault(kind="sensor_stall", start_s=14.0, stop_s=20.0))
        assert np.array_equal(read(device, "power_w"), read(played(spanned("sensor_stall")), "power_w"))

    def test_spike_replaces_power(self):
        """Power reads 1.2 W in the span; nothing else changes."""
        clean, device = played(), played(spanned("spike", 1.2))
        power_w = read(device, "power_w")
        assert np.all(power_w[INSIDE] == 1.2)
        assert np.array_equal(power_w[~INSIDE], read(clean, "power_w")[~INSIDE])
        assert np.array_equal(read(device, "temperature_c"), read(clean, "temperature_c"))

    def test_counter_reset_begins_at_zero(self):
        """The counter falls once, to about nothing, and counts on at the right rate."""
        clean, device = played(), played(Fault(kind="counter_reset", start_s=10.0))
        energy_j, right_j = read(device, "energy_j"), read(clean, "energy_j")
        falls = np.flatnonzero(np.diff(energy_j) < 0)
        assert len(falls) == 1
        assert 10 * S <= GRID[falls[0] + 1] < 10.2 * S
        assert energy_j[falls[0] + 1] < 20
        assert energy_j[-1] - energy_j[falls[0] + 1] == pytest.approx(right_j[-1] - right_j[falls[0] + 1], abs=0.01)
        assert not np.any(np.diff(right_j) < 0)

    def test_counter_at_half_rate_misses_half(self):
        """In the span the counter counts half of what happens, before and after all of it."""
        energy_j, right_j = read(played(spanned("counter_half_rate")), "energy_j"), read(played(), "energy_j")
        for part, share in ((slice(50, 490), 1.0), (slice(520, 980), 0.5), (slice(1020, 1490), 1.0)):
            assert np.ptp(energy_j[part]) == pytest.approx(share * np.ptp(right_j[part]), rel=1e-4)

    def test_absent_channel_is_not_listed_and_says_why(self):
        """No such channel, a reason, and every other channel unchanged; without power there is no sensor model."""
        device = played(Fault(kind="channel_absent", value="energy_j"))
        names = [known.name for known in device.channels]
        assert "energy_j" not in names
        assert "NOT_SUPPORTED" in device.absent["energy_j"]
        assert np.array_equal(read(device, "power_w"), read(played(), "power_w"))
        assert device.sensor is not None
        assert TwinDevice(faults=[Fault(kind="channel_absent", value="power_w")]).sensor is None


class TestFaultsThatHappen:
    def test_foreign_process_draws_power_and_is_counted(self):
        """Power, utilisation and the count of foreign processes rise in the span, also on a card that is otherwise idle."""
        device = played(spanned("foreign_process", 0.25), load=IDLE)
        assert np.array_equal(read(device, "foreign_processes"), INSIDE.astype(float))
        assert read(device, "utilisation_ratio")[INSIDE][50] == 0.25
        assert read(device, "power_w")[INSIDE][50] > read(device, "power_w")[0] + 30
        clean = played(load=IDLE)
        assert not np.any(read(clean, "foreign_processes"))
        assert not np.any(read(clean, "utilisation_ratio"))

    def test_forced_slowdown_lowers_clocks_and_counts(self):
        """Reason 0x20, the ordered share of boost and exact counters in the span; none of it elsewhere."""
        device = played(spanned("thermal_slowdown", 0.5))
        slowed = read(device, "event_reasons").astype(int) & 0x20 != 0
        assert np.array_equal(slowed, INSIDE)
        assert np.all(read(device, "sm_clock_hz")[INSIDE] == 1140e6)
        assert np.all(read(device, "sm_clock_hz")[~INSIDE] == 2280e6)
        for name in ("software_thermal_ns", "thermal_ns"):
            assert read(device, name)[-1] == 10 * S
            assert read(played(), name)[-1] == 0

    def test_spans_are_exact_between_the_driver_s_looks(self):
        """A span that begins and ends off the driver's 100 ms grid is kept to the nanosecond."""
        device = played(Fault(kind="thermal_slowdown", start_s=10.033, stop_s=12.071, value=0.5))
        assert read(device, "software_thermal_ns")[-1] == 2_038 * MS

    @pytest.mark.parametrize("preset", ["rtx4080-laptop", "a100"])
    def test_bimodal_idle_has_two_levels_that_nothing_explains(self, preset):
        """True power has two levels in the span, with P-state, clocks and utilisation unchanged; one level without the fault."""
        device, clean = played(spanned("bimodal_idle", 20.0), load=IDLE, preset=preset), played(load=IDLE, preset=preset)
        extra_w = device.true_power_w(GRID) - clean.true_power_w(GRID)
        assert {0, 20} == set(np.unique(np.round(extra_w[INSIDE][25::5])))
        assert np.allclose(extra_w[AFTER], 0, atol=0.5)
        for name in ("performance_state", "sm_clock_hz", "utilisation_ratio"):
            assert len(np.unique(read(device, name))) == 1

    def test_bimodal_idle_is_silent_under_load(self):
        """It is a property of idle."""
        device = played(spanned("bimodal_idle", 20.0))
        assert device.true_energy_j(0, 30 * S) == pytest.approx(float(played().true_energy_j(0, 30 * S)), rel=1e-9)


class TestConfiguration:
    def test_unknown_kind_names_the_nearest(self):
        """A typing error is answered with the kind that was meant."""
        with pytest.raises(ConfigurationError, match=r"unknown kind of fault 'read_eror' \(did you mean 'read_error'"):
            Fault(kind="read_eror")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"kind": "stale", "start_s": 2.0, "stop_s": 2.0}, "0 <= start_s < stop_s"),
            ({"kind": "stale", "start_s": -1.0}, "0 <= start_s < stop_s"),
            ({"kind": "stale", "start_s": math.nan}, "0 <= start_s < stop_s"),
            ({"kind": "stale", "value": 1.0}, "takes no value"),
            ({"kind": "lost", "stop_s": 5.0}, "does not end"),
            ({"kind": "counter_reset", "stop_s": 5.0}, "does not end"),
            ({"kind": "channel_absent", "start_s": 5.0}, "from the beginning"),
            ({"kind": "channel_absent", "value": "power"}, "did you mean 'power_w'"),
            ({"kind": "read_error", "value": 1.1}, "within"),
            ({"kind": "read_error", "value": "often"}, "within"),
        ],
    )
    def test_what_would_be_ignored_is_refused(self, arguments, message):
        """No span or value is parsed and not used."""
        with pytest.raises(ConfigurationError, match=message):
            Fault(**arguments)

    @pytest.mark.parametrize("kind", sorted(FAULT_KINDS))
    def test_defaults_are_valid_and_survive_json(self, kind):
        """Every kind works with its defaults, on a device, and is the same after a round through JSON."""
        fault = Fault(kind=kind)
        assert Fault.from_json(fault.to_json()) == fault
        device = TwinDevice(faults=[fault])
        device.clock.advance_to_ns(S)
        assert len(device.read()[0]) == len(device.channels)

    def test_json_refuses_unknown_keys(self):
        """A key that would be ignored is refused with the nearest; a fault needs its kind."""
        with pytest.raises(ConfigurationError, match="did you mean 'start_s'"):
            Fault.from_json({"kind": "stale", "start": 1.0})
        with pytest.raises(ConfigurationError, match="needs a 'kind'"):
            Fault.from_json({"start_s": 1.0})
