"""Throttling is found by counter or mask, and nothing unknown is benign."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.metrology.throttle import (
    EVENT_CLASSES,
    KNOWN_BITS,
    EventClass,
    EventReason,
    classify,
    clock_parity,
    stall_gate,
    throttle_gates,
)

MS = 1_000_000
T_NS = np.arange(0, 4001, 100, dtype=np.int64) * MS
"""41 samples every 100 ms."""
WINDOW = (1000 * MS, 3000 * MS)
COUNTERS = ("power_cap_ns", "thermal_ns", "software_thermal_ns", "hardware_thermal_ns", "power_brake_ns")
CAUSE_OF_COUNTER = {
    "power_cap_ns": "power cap",
    "thermal_ns": "thermal throttling",
    "software_thermal_ns": "thermal throttling",
    "hardware_thermal_ns": "thermal throttling",
    "power_brake_ns": "power brake",
}


def quiet_mask(bits=0, start=0, stop=0):
    mask = np.zeros(T_NS.size)
    mask[start:stop] = bits
    return mask


def counters(**changed):
    return {name: np.full(T_NS.size, 5e9) for name in COUNTERS} | changed


def counted(start, stop, per_sample_ns):
    """A counter that rises between samples ``start`` and ``stop``."""
    rise = np.zeros(T_NS.size)
    rise[start + 1 : stop + 1] = per_sample_ns
    return 5e9 + np.cumsum(rise)


def gates(reasons=None, counter_columns=None, *, t_ns=T_NS, window=WINDOW, **options):
    found = throttle_gates(t_ns, reasons, counters() if counter_columns is None else counter_columns, *window, "decode", **options)
    return {gate.name: gate for gate in found}


def not_passed(found):
    return {name for name, gate in found.items() if not gate.passed}


# --- bits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "classes"),
    [
        (0x000, set()),
        (0x001, {EventClass.BENIGN}),
        (0x002, {EventClass.CONFIGURATION}),
        (0x004, {EventClass.POWER}),
        (0x008, {EventClass.THERMAL}),
        (0x010, {EventClass.CONFIGURATION}),
        (0x020, {EventClass.THERMAL}),
        (0x040, {EventClass.THERMAL}),
        (0x080, {EventClass.EXTERNAL}),
        (0x100, {EventClass.CONFIGURATION}),
        (0x200, {EventClass.REFUSE_UNKNOWN}),
        (0x400, {EventClass.REFUSE_UNKNOWN}),
        (0x800, {EventClass.REFUSE_UNKNOWN}),
        (0x024, {EventClass.POWER, EventClass.THERMAL}),
    ],
)
def test_the_class_of_each_bit(mask, classes):
    """NVML's bits by value, not by position in a list."""
    assert classify(mask) == classes


@given(st.integers(0, 2**40))
def test_every_unknown_bit_is_unknown(mask):
    """No mask with a bit outside the table escapes."""
    assert (EventClass.REFUSE_UNKNOWN in classify(mask)) == bool(mask & ~(KNOWN_BITS & ~0x600))
    assert set(EVENT_CLASSES) == set(EventReason)


# --- clean data ------------------------------------------------------------------------------------------------------


def test_a_quiet_window_passes_every_gate():
    """Silent on clean data, idle bit included."""
    assert not_passed(gates(quiet_mask(0x001, 0, 41))) == set()


def test_throttling_outside_the_window_is_not_the_windows():
    """Before and after, in counter and mask."""
    columns = counters(thermal_ns=counted(0, 5, 20 * MS), power_brake_ns=counted(35, 40, 20 * MS))
    assert not_passed(gates(quiet_mask(0x40, 0, 10), columns)) == set()


# --- counters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", COUNTERS)
def test_a_counter_gives_the_exact_share(channel):
    """100 ms in a window of 2 s are 5 %; power cap warns, all others refuse."""
    found = gates(quiet_mask(), counters(**{channel: counted(15, 20, 20 * MS)}))
    assert not_passed(found) == {CAUSE_OF_COUNTER[channel]}
    fired = found[CAUSE_OF_COUNTER[channel]]
    assert fired.measured == pytest.approx(0.05)
    assert fired.refuses == (channel != "power_cap_ns")
    assert f"'{channel}' rose by 100.000 ms in 2.000 s" in fired.reason
    assert fired.remedy


def test_an_episode_between_two_reads_is_counted():
    """One millisecond, which no mask saw: the counter did."""
    fired = gates(quiet_mask(), counters(thermal_ns=counted(15, 16, MS)))["thermal throttling"]
    assert fired.refuses
    assert fired.measured == pytest.approx(0.0005)


def test_a_window_between_two_samples_is_bracketed():
    """Shorter than the polling period: the samples on each side speak."""
    found = gates(quiet_mask(), counters(thermal_ns=counted(15, 16, 50 * MS)), window=(1520 * MS, 1580 * MS))
    assert found["thermal throttling"].measured == pytest.approx(0.5)


@pytest.mark.parametrize("window", [(-10 * MS, 1000 * MS), (3000 * MS, 4010 * MS)])
def test_a_window_without_a_sample_on_each_side_is_refused(window):
    """The counter cannot speak of time that nobody bracketed."""
    found = gates(quiet_mask(), window=window)
    assert found["thermal throttling"].refuses
    assert "no valid sample on each side" in found["thermal throttling"].reason


def test_a_counter_that_went_back_is_refused():
    """A driver reset inside the window."""
    reset = np.where(np.arange(T_NS.size) < 20, 5e9, 0.0)
    fired = gates(quiet_mask(), counters(thermal_ns=reset))["thermal throttling"]
    assert fired.refuses
    assert "went back" in fired.reason


def test_failed_reads_of_a_counter_are_bridged():
    """The nearest valid samples bracket."""
    column = counted(15, 20, 20 * MS)
    column[9:12] = np.nan
    fired = gates(quiet_mask(), counters(thermal_ns=column))["thermal throttling"]
    assert fired.measured == pytest.approx(0.1 / 2.2)


# --- mask ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bit", "name", "refuses"),
    [
        (0x002, "clock setting", False),
        (0x004, "power cap", False),
        (0x010, "synchronised boost", True),
        (0x020, "thermal throttling", True),
        (0x040, "thermal throttling", True),
        (0x080, "power brake", True),
        (0x100, "clock setting", False),
        (0x200, "unknown event reasons", True),
        (0x400, "unknown event reasons", True),
        (0x1000, "unknown event reasons", True),
    ],
)
def test_a_single_read_of_a_bit_fires_its_gate(bit, name, refuses):
    """One of 21 reads inside the window."""
    found = gates(quiet_mask(bit, 20, 21), {})
    assert not_passed(found) == {name}
    assert found[name].refuses is refuses
    assert found[name].measured == pytest.approx(1 / 21)


def test_a_hardware_slowdown_needs_two_reads_in_a_row():
    """Boundary pair: the bit may blip on a change of P-state, once or twice apart, but not twice running."""
    blips = quiet_mask(0x008, 15, 16) + quiet_mask(0x008, 20, 21)
    assert gates(blips)["hardware slowdown"].passed
    fired = gates(quiet_mask(0x008, 15, 17))["hardware slowdown"]
    assert fired.refuses
    assert fired.measured == pytest.approx(2 / 21)


def test_the_share_is_the_counters_where_it_rose():
    """Five of 21 reads show the bit, but the counter knows the exact 5 %."""
    fired = gates(quiet_mask(0x40, 15, 20), counters(thermal_ns=counted(15, 20, 20 * MS)))["thermal throttling"]
    assert fired.measured == pytest.approx(0.05)
    assert fired.reason.startswith("the device was slowed for thermal reasons for 5.00% of the time (limit 0 %): ")


def test_mask_and_counter_may_disagree_and_either_refuses():
    """A counter that stands still does not excuse a thermal bit."""
    fired = gates(quiet_mask(0x40, 20, 22))["thermal throttling"]
    assert fired.refuses
    assert "HARDWARE_THERMAL_SLOWDOWN" in fired.reason


def test_without_counters_the_gate_says_what_it_cannot_see():
    """A polled mask misses short episodes."""
    assert "episodes between two reads are not seen" in gates(quiet_mask(), {})["thermal throttling"].reason
    assert "episodes between two reads" not in gates(quiet_mask())["thermal throttling"].reason


def test_unknown_bits_are_named():
    """So that they can be looked up."""
    assert "unknown 0x1800" in gates(quiet_mask(0x1800, 20, 21))["unknown event reasons"].reason


def test_a_mask_that_never_answered_is_refused():
    """Failed reads are not silence of the device."""
    found = gates(np.full(T_NS.size, np.nan), {})
    assert found["thermal throttling"].refuses
    assert "no valid read" in found["thermal throttling"].reason


def test_a_rig_with_neither_is_a_warning():
    """Nothing was checked, and nobody says that it was."""
    found = gates(None, {})
    assert not_passed(found) == set(found)
    assert not any(gate.refuses for gate in found.values())
    assert all(gate.measured is None and "not checked" in gate.reason for gate in found.values())


# --- declared reasons ------------------------------------------------------------------------------------------------


def test_a_declared_reason_passes_and_is_shown():
    """A power cap that is part of the experiment, in counter and mask."""
    columns = counters(power_cap_ns=counted(15, 20, 20 * MS))
    found = gates(quiet_mask(0x004, 15, 20), columns, declared=EventReason.SOFTWARE_POWER_CAP)
    assert not_passed(found) == set()
    assert "declared" in found["power cap"].reason
    assert found["power cap"].measured > 0


def test_declaring_one_reason_excuses_no_other():
    """Locked application clocks are declared; display clocks of the same gate are not."""
    declared = EventReason.APPLICATION_CLOCKS
    assert gates(quiet_mask(0x002, 15, 20), declared=declared)["clock setting"].passed
    assert not gates(quiet_mask(0x102, 15, 20), declared=declared)["clock setting"].passed


def test_an_empty_window_is_refused():
    """It has no time to be a share of."""
    with pytest.raises(ValueError, match="'t1_ns' must lie after"):
        gates(quiet_mask(), window=(5, 5))


@given(st.integers(0, 39), st.integers(1, 100))
def test_a_counted_episode_is_refused_wherever_it_is(start, per_sample_ms):
    """Any increase between the bracketing samples fires; outside none does."""
    found = gates(quiet_mask(), counters(thermal_ns=counted(start, start + 1, per_sample_ms * MS)))
    assert found["thermal throttling"].passed == (start < 10 or start >= 30)


# --- clock parity ----------------------------------------------------------------------------------------------------


def test_arms_at_different_clocks_are_refused():
    """Known case: 795 against 2550 MHz, published as a difference between the arms."""
    fired = clock_parity({"a": 795e6, "b": 2550e6})
    assert fired.refuses
    assert fired.measured == pytest.approx(0.688, abs=0.001)
    assert "795 MHz in 'a' and 2550 MHz in 'b'" in fired.reason


@pytest.mark.parametrize(("slow_hz", "passed"), [(1471e6, True), (1469e6, False), (1500e6, True)])
def test_the_limit_of_clock_parity(slow_hz, passed):
    """Boundary pair at 2 %."""
    assert clock_parity({"fast": 1500e6, "slow": slow_hz}).passed is passed


@pytest.mark.parametrize("clocks", [{}, {"a": 1e9}, {"a": 1e9, "b": float("nan")}, {"a": 1e9, "b": 0.0}])
def test_clocks_that_are_missing_are_refused(clocks):
    """Parity is shown, not assumed."""
    fired = clock_parity(clocks)
    assert fired.refuses
    assert fired.measured is None


# --- stall -----------------------------------------------------------------------------------------------------------


def test_a_busy_device_at_idle_power_is_refused():
    """Utilisation 99 % at 27 W over an idle of 26 W: somebody else did the work."""
    fired = stall_gate(np.full(40, 0.99), np.full(40, 27.0), 26.0)
    assert fired.refuses
    assert fired.measured == 1.0
    assert "the metered device did not do the work" in fired.reason


def test_a_busy_device_that_draws_power_passes():
    """Silent on clean data."""
    assert stall_gate(np.full(40, 0.99), np.full(40, 140.0), 26.0).passed


def test_a_device_that_is_not_busy_is_not_doubted():
    """Low utilisation at idle power is consistent."""
    assert stall_gate(np.full(40, 0.05), np.full(40, 26.0), 26.0).passed


@pytest.mark.parametrize(("n_stalled", "passed"), [(8, True), (9, False)])
def test_the_share_of_stalled_samples(n_stalled, passed):
    """Boundary pair at 20 % of 40 samples: utilisation lags behind power at the edges."""
    power_w = np.where(np.arange(40) < n_stalled, 26.5, 140.0)
    assert stall_gate(np.full(40, 0.9), power_w, 26.0).passed is passed


@pytest.mark.parametrize(("u_idle_w", "passed"), [(0.5, True), (2.0, False)])
def test_an_uncertain_idle_raises_the_bar(u_idle_w, passed):
    """Boundary pair: 4 W above an idle of 26 W is a rise for u = 0.5 W, not for 2 W."""
    assert stall_gate(np.full(40, 0.9), np.full(40, 30.0), 26.0, u_idle_w=u_idle_w).passed is passed


def test_failed_reads_are_not_stalls():
    """Missing power or utilisation says nothing."""
    power_w, utilisation = np.full(40, 140.0), np.full(40, 0.9)
    power_w[:20], utilisation[20:30] = np.nan, np.nan
    assert stall_gate(utilisation, power_w, 26.0).passed


def test_columns_of_different_lengths_are_refused():
    """They must be of the same samples."""
    with pytest.raises(ValueError, match="of the same samples"):
        stall_gate(np.zeros(3), np.zeros(4), 26.0)
