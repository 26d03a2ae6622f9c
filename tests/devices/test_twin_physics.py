"""The twin's physics: exact heat, exact energy, clocks and limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, linalg

from pytest_physics.devices.twin import IDLE, PRESETS, ThermalNetwork, TwinDevice, TwinLoad, energy_between

S = 1_000_000_000
LADDER = ThermalNetwork(capacities_j_per_k=(40.0, 60.0, 380.0), resistances_k_per_w=(0.06, 0.04, 0.18), ambient_c=35.0)


def run(device: TwinDevice, *steps: tuple[TwinLoad, float]) -> None:
    for load, seconds in steps:
        device.set_load(load)
        device.clock.advance_to_ns(device.clock.now_ns() + round(seconds * S))


def matrix(network: ThermalNetwork) -> np.ndarray:
    """dθ/dt = A θ + P/C_0 on the die, written down node by node."""
    capacities, resistances = network.capacities_j_per_k, network.resistances_k_per_w
    n = len(capacities)
    a = np.zeros((n, n))
    for i in range(n):
        a[i, i] -= 1 / resistances[i] / capacities[i]
        if i + 1 < n:
            a[i, i + 1] += 1 / resistances[i] / capacities[i]
            a[i + 1, i] += 1 / resistances[i] / capacities[i + 1]
            a[i + 1, i + 1] -= 1 / resistances[i] / capacities[i + 1]
    return a


class TestThermalNetwork:
    @pytest.mark.parametrize("dt_s", [1e-4, 0.1, 7.0, 400.0])
    def test_follows_the_matrix_exponential(self, dt_s):
        """One step of any length equals expm of the system, with the exponential part of the power as one more state."""
        start = np.array([50.0, 44.0, 41.0])
        base_w, excess_w, tau_s = 90.0, -40.0, 0.002
        n = len(start)
        system = np.zeros((n + 2, n + 2))  # temperatures above ambient, decaying power, constant 1
        system[:n, :n] = matrix(LADDER)
        system[0, n:] = 1 / LADDER.capacities_j_per_k[0]
        system[0, n + 1] *= base_w
        system[n, n] = -1 / tau_s
        state = np.concatenate([start - LADDER.ambient_c, [excess_w, 1.0]])
        expected = (linalg.expm(system * dt_s) @ state)[:n] + LADDER.ambient_c
        got = LADDER.after(start.tolist(), base_w=base_w, excess_w=excess_w, tau_s=tau_s, dt_s=dt_s)
        assert np.allclose(got, expected, rtol=1e-10)

    def test_single_node_is_the_textbook_exponential(self):
        """One node: θ = θ_a + P·R·(1 − exp(−t/RC))."""
        network = ThermalNetwork(capacities_j_per_k=(100.0,), resistances_k_per_w=(0.5,), ambient_c=20.0)
        (end,) = network.after([20.0], base_w=80.0, excess_w=0.0, tau_s=0.001, dt_s=50.0)
        assert end == pytest.approx(20 + 40 * (1 - np.exp(-1)), rel=1e-12)

    def test_settled_is_a_fixed_point(self):
        """Settled temperatures stay."""
        settled = LADDER.settled_c(100.0)
        assert settled[0] == pytest.approx(35 + 100 * 0.28)
        assert LADDER.after(settled, base_w=100.0, excess_w=0.0, tau_s=0.002, dt_s=123.0) == pytest.approx(settled)

    def test_refuses_a_slow_electrical_constant(self):
        """The electrical constant must lie below half the fastest thermal one; just below is accepted."""
        network = ThermalNetwork(capacities_j_per_k=(10.0,), resistances_k_per_w=(0.1,), ambient_c=20.0)
        network.check(0.49)
        with pytest.raises(ValueError, match="below half the fastest"):
            network.check(0.51)

    def test_refuses_what_is_no_network(self):
        """One positive value per node."""
        with pytest.raises(ValueError, match="one value per node"):
            ThermalNetwork(capacities_j_per_k=(1.0,), resistances_k_per_w=(1.0, 2.0), ambient_c=20.0)
        with pytest.raises(ValueError, match="must be > 0"):
            ThermalNetwork(capacities_j_per_k=(0.0,), resistances_k_per_w=(1.0,), ambient_c=20.0)


class TestEnergy:
    def test_heat_balance_closes(self):
        """Electrical energy = heat given to the ambient (by quadrature) + heat stored, to 1e-9."""
        device = TwinDevice(seed=3)
        run(device, (TwinLoad(), 20.0), (TwinLoad(intensity=0.3), 5.003), (IDLE, 10.0))
        end_ns = device.clock.now_ns()
        network = device.preset.card.thermal
        nodes, weights = np.polynomial.legendre.leggauss(12)
        edges = np.unique(np.concatenate([device.truth_table()["t_ns"], np.arange(0, end_ns, 2_000_000)]))
        t_ns = edges[:-1, None] + np.diff(edges)[:, None] * (nodes + 1) / 2
        last_c = device.true_temperatures_c(np.clip(t_ns, 0, end_ns).ravel())[:, -1].reshape(t_ns.shape)
        to_ambient_w = (last_c - network.ambient_c) / network.resistances_k_per_w[-1]
        to_ambient_j = float(np.sum(weights * to_ambient_w * np.diff(edges)[:, None]) * 1e-9 / 2)
        before, after = device.true_temperatures_c([0, end_ns])
        stored_j = float(np.dot(network.capacities_j_per_k, after - before))
        electrical_j = float(device.true_energy_j(0, end_ns))
        assert electrical_j > 2000
        assert to_ambient_j + stored_j == pytest.approx(electrical_j, rel=1e-9)

    def test_energy_is_the_integral_of_power(self):
        """The closed form agrees with numerical integration across a step of load."""
        device = TwinDevice("ideal")
        run(device, (IDLE, 1.0), (TwinLoad(intensity=0.5), 1.0))
        integral, _ = integrate.quad(lambda s: float(device.true_power_w(s * S)), 0.99, 1.08, points=[1.0], epsabs=1e-9)
        assert device.true_energy_j(0.99 * S, 1.08 * S) == pytest.approx(integral, rel=1e-9)

    def test_power_rises_with_the_electrical_constant(self):
        """After one time constant 1 − 1/e of the step is there; power is continuous."""
        device = TwinDevice("ideal")
        run(device, (IDLE, 1.0), (TwinLoad(intensity=0.5), 0.05))
        before, at, after, settled = device.true_power_w([S - 1, S, S + 2_000_000, S + 50_000_000])
        assert before == pytest.approx(30.0)
        assert at == pytest.approx(30.0, abs=1e-3)
        assert after == pytest.approx(30 + 75 * (1 - np.exp(-1)), rel=1e-6)
        assert settled == pytest.approx(105.0, rel=1e-6)

    def test_table_gives_the_same_energy(self):
        """A stored truth table answers as the device does, also after a round through a file."""
        device = TwinDevice(seed=5)
        run(device, (TwinLoad(), 3.3), (IDLE, 1.7))
        table = device.truth_table()
        t0, t1 = np.array([0, 123_456_789, 3 * S]), np.array([5 * S, 3_400_000_000, 3 * S])
        assert np.array_equal(energy_between(table, t0, t1), device.true_energy_j(t0, t1))
        assert energy_between(table, t0, t1)[2] == 0

    def test_table_refuses_what_it_does_not_know(self):
        """A window that leaves the record, or is reversed, is refused; the whole record is not."""
        device = TwinDevice()
        run(device, (TwinLoad(), 1.0))
        table = device.truth_table()
        assert energy_between(table, 0, S) > 0
        with pytest.raises(ValueError, match="is known from 0 ns to 1000000000 ns only"):
            energy_between(table, 0, S + 1)
        with pytest.raises(ValueError, match="must not lie after"):
            energy_between(table, 2, 1)

    def test_future_is_unknown(self):
        """The device does not tell what has not happened."""
        device = TwinDevice()
        with pytest.raises(ValueError, match="advance its clock first"):
            device.true_power_w(1)
        with pytest.raises(ValueError, match="advance its clock first"):
            device.sample([1])


class TestClocks:
    def test_idle_card_falls_into_deep_idle_after_the_hold_time(self):
        """After a load: P0 at active idle until the hold time has passed, then P8."""
        device = TwinDevice()
        assert device.true_idle_power_w() == 2.2
        run(device, (TwinLoad(), 1.0), (IDLE, 14.9))
        active_w = float(device.true_power_w(device.clock.now_ns()))
        assert 20 <= active_w <= 26
        assert device.true_idle_power_w() == pytest.approx(active_w, abs=0.01)
        run(device, (IDLE, 0.3))
        assert device.true_power_w(device.clock.now_ns()) == pytest.approx(2.2, abs=1e-6)
        table = device.truth_table()
        assert table["performance_state"][-1] == 8
        assert table["sm_clock_hz"][-1] == 210e6
        assert set(table["event_reasons"][table["utilisation_ratio"] == 0]) == {1}

    def test_power_cap_lowers_the_clock_and_counts(self):
        """A load above the limit runs below boost, within the limit, with reason and an exact counter; a light one does not."""
        device = TwinDevice()
        run(device, (TwinLoad(intensity=0.3), 2.0), (TwinLoad(), 3.25), (IDLE, 1.0))
        table = device.truth_table()
        assert set(table["event_reasons"][table["utilisation_ratio"] > 0]) == {0, 4}
        assert table["power_cap_ns"][-1] == 3.25 * S
        capped = table["event_reasons"] == 4
        assert table["sm_clock_hz"][capped].max() < 2280e6
        assert 140 < table["base_w"][capped].max() <= 150
        assert table["thermal_ns"][-1] == 0

    def test_driver_slows_a_hot_card_and_holds_the_temperature(self):
        """Above the slowdown temperature the clock falls until the die stays near it; reason 0x20; exact counters."""
        device = TwinDevice(overrides={"card.slowdown_c": 60.0})
        run(device, (TwinLoad(), 600.0))
        table = device.truth_table()
        slowed = (table["event_reasons"] & 0x20) != 0
        assert 57 < table["node_0_c"][-1] < 61
        assert slowed[-1]
        exact_ns = int(np.sum(np.diff(table["t_ns"])[slowed[:-1]]))
        assert table["software_thermal_ns"][-1] == table["thermal_ns"][-1] == exact_ns > 0
        assert table["hardware_thermal_ns"][-1] == 0

    def test_driver_looks_on_its_own_grid_only(self):
        """However often the memory changes, also exactly when the driver looks, the clock falls one step per control period."""
        quiet, restless = (TwinDevice(overrides={"card.slowdown_c": 50.0}) for _ in range(2))
        for device in (quiet, restless):
            device.set_load(TwinLoad())
        for tick in range(1, 300):
            restless.clock.advance_to_ns(tick * S // 10)
            restless.allocate(0)
            restless.allocate(0)
        quiet.clock.advance_to_ns(299 * S // 10)
        for column in ("sm_clock_hz", "software_thermal_ns"):
            assert quiet.truth_table()[column][-1] == restless.truth_table()[column][-1] > 0

    def test_hardware_halves_the_clock_of_an_overheating_card(self):
        """Above the hardware limit: half the clock, reasons 0x40 and 0x8, its own counter."""
        device = TwinDevice(overrides={"card.slowdown_c": 50.0, "card.hardware_slowdown_c": 51.0})
        run(device, (TwinLoad(), 120.0))
        table = device.truth_table()
        hot = (table["event_reasons"] & 0x48) == 0x48
        assert hot.any()
        assert table["sm_clock_hz"][hot].max() <= 2280e6 / 2
        assert table["hardware_thermal_ns"][-1] == int(np.sum(np.diff(table["t_ns"])[hot[:-1]]))

    def test_leakage_raises_power_with_temperature(self):
        """At constant clock the power rises by leakage × temperature, and nothing else."""
        device = TwinDevice("a100")
        run(device, (TwinLoad(intensity=0.2), 300.0))
        table = device.truth_table()
        early, late = table[2], table[-1]
        assert late["sm_clock_hz"] == early["sm_clock_hz"]
        rise_k = table["node_0_c"][-2] - early["node_0_c"]
        assert rise_k > 5
        assert late["base_w"] - early["base_w"] == pytest.approx(0.1 * rise_k, rel=0.01)


class TestWork:
    def test_boost_is_faster_and_slowdown_slower(self):
        """Work at the reference clock takes reference/clock of its time where it waits for arithmetic."""
        light = TwinLoad(intensity=0.1)
        device = TwinDevice()
        assert device.execute(light, 2.0) == pytest.approx(2.0 * 1860 / 2280, abs=1e-8)
        capped = TwinDevice()
        seconds = capped.execute(TwinLoad(), 2.0)
        assert seconds == pytest.approx(2.0 * 1860e6 / capped.truth_table()["sm_clock_hz"][2], rel=0.02)

    def test_waiting_on_memory_does_not_depend_on_the_clock(self):
        """Clock sensitivity 0: the time is the time."""
        assert TwinDevice().execute(TwinLoad(clock_sensitivity=0.0), 2.0) == pytest.approx(2.0, abs=1e-8)

    def test_load_before_is_put_back(self):
        """Execute leaves the load as it was, also a background one."""
        device = TwinDevice()
        background = TwinLoad(intensity=0.1)
        device.set_load(background)
        device.execute(TwinLoad(), 0.5)
        assert device.load == background

    def test_no_work_takes_no_time(self):
        """Zero seconds of work are allowed; negative and infinite ones are not."""
        device = TwinDevice()
        assert device.execute(TwinLoad(), 0.0) == 0
        for wrong in (-1.0, np.inf, np.nan):
            with pytest.raises(ValueError, match="finite"):
                device.execute(TwinLoad(), wrong)

    @pytest.mark.parametrize("name", ["utilisation_ratio", "intensity", "memory_utilisation_ratio", "clock_sensitivity"])
    def test_load_refuses_what_is_no_share(self, name):
        """0 and 1 are shares, beyond is not."""
        TwinLoad(**{name: 0.0})
        TwinLoad(**{name: 1.0})
        for wrong in (-0.01, 1.01, np.nan):
            with pytest.raises(ValueError, match=name):
                TwinLoad(**{name: wrong})


class TestMemory:
    def test_use_is_visible_and_limited(self):
        """What is allocated is read, on top of the reserve; the last byte fits, one more does not."""
        device = TwinDevice("a100")
        card = device.preset.card
        free = card.memory_bytes - card.memory_reserved_bytes
        device.allocate(free)
        column = [channel.name for channel in device.channels].index("memory_used_bytes")
        assert device.read()[0][column] == card.memory_bytes
        with pytest.raises(MemoryError, match="out of memory: 1 bytes asked for, 0 free"):
            device.allocate(1)
        device.free(free)
        assert device.read()[0][column] == card.memory_reserved_bytes
        with pytest.raises(ValueError, match="allocated"):
            device.free(1)

    def test_spilled_memory_slows_work(self):
        """On the laptop, memory beyond the card spills to the host: allowed up to a limit, and work is slower by the factor."""
        load = TwinLoad(intensity=0.1, clock_sensitivity=0.0)
        device = TwinDevice()
        card = device.preset.card
        device.allocate(card.memory_bytes - card.memory_reserved_bytes)
        assert device.spilled_bytes == 0
        assert device.execute(load, 1.0) == pytest.approx(1.0, abs=1e-8)
        device.allocate(1)
        assert device.spilled_bytes == 1
        assert device.execute(load, 1.0) == pytest.approx(25.0, abs=1e-7)
        with pytest.raises(MemoryError):
            device.allocate(card.host_spill_bytes)

    def test_negative_amounts_are_refused(self):
        """Neither allocation nor freeing takes a negative amount."""
        device = TwinDevice()
        for change in (device.allocate, device.free):
            with pytest.raises(ValueError, match="'n_bytes' must be >= 0"):
                change(-1)


LOADS = st.sampled_from([IDLE, TwinLoad(), TwinLoad(intensity=0.4, utilisation_ratio=0.7, memory_utilisation_ratio=0.2)])
PLAN = st.lists(st.tuples(LOADS, st.integers(1, 8 * S)), min_size=1, max_size=4)


@settings(max_examples=30, deadline=None)
@given(plan=PLAN, cuts=st.lists(st.integers(1, 8 * S - 1), max_size=12), preset=st.sampled_from(sorted(PRESETS)))
def test_truth_and_readings_do_not_depend_on_how_the_clock_was_moved(plan, cuts, preset):
    """Many small steps, with reads between them, and one big step give the same truth and the same readings, bit for bit."""
    whole, cut = (TwinDevice(preset, seed=11, overrides={"card.slowdown_c": 45.0}) for _ in range(2))
    for load, duration_ns in plan:
        end_ns = whole.clock.now_ns() + duration_ns
        whole.set_load(load)
        whole.clock.advance_to_ns(end_ns)
        cut.set_load(load)
        for offset_ns in sorted(cuts):
            if offset_ns < duration_ns:
                cut.clock.advance_to_ns(max(cut.clock.now_ns(), end_ns - duration_ns + offset_ns))
                cut.read()
        cut.clock.advance_to_ns(end_ns)
    assert np.array_equal(whole.truth_table(), cut.truth_table())
    grid_ns = np.arange(0, whole.clock.now_ns(), 37_000_000)
    assert np.array_equal(whole.sample(grid_ns)[0], cut.sample(grid_ns)[0], equal_nan=True)


@settings(max_examples=20, deadline=None)
@given(parts=st.lists(st.floats(0.01, 3.0), min_size=1, max_size=5))
def test_work_in_one_piece_takes_the_time_of_its_parts(parts):
    """Work split into pieces, without rest between, takes as long as in one piece (to the rounding of each end)."""
    whole, split = TwinDevice(), TwinDevice()
    for device in (whole, split):
        device.set_load(TwinLoad())
    in_one = whole.execute(TwinLoad(), sum(parts))
    in_parts = sum(split.execute(TwinLoad(), part) for part in parts)
    assert in_parts == pytest.approx(in_one, abs=1e-7)
