"""Quiet beside a window: which reference bounds which state, when utilisation speaks, and what lies at the limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytest_physics.metrology.beside import (
    MAX_BUSY,
    DeviceState,
    IdleReference,
    Side,
    busy_beside,
    lowest_level,
    quiet_gate,
    steady,
    utilisation_period_s,
)

AWAKE = DeviceState(performance_state=0.0, clock_hz=1.5e9, temperature_c=40.0)
ASLEEP = DeviceState(performance_state=8.0, clock_hz=2e8, temperature_c=35.0)


def idle(power_w=50.0, *, state=AWAKE, u_w=0.5, certain=True):
    return IdleReference(power_w=power_w, u_w=u_w, state=state, source="the idle baseline", certain=certain)


def side(level_w, *, state=AWAKE, where="before", busy=math.nan, fell=False):
    return Side(where=where, level_w=level_w, u_w=0.1, state=state, busy=busy, fell=fell)


def judged(one, *references, window_w=200.0):
    return quiet_gate([one], [references], window_w=window_w, scope="w1")


def test_the_limit_is_a_boundary():
    """At the limit the side is quiet, just above it is not."""
    limit_w = idle().limit_w(AWAKE, 0.1, 200.0)
    assert limit_w == pytest.approx(50 + 3 * math.hypot(0.5, 0.1) + 5 + 4)
    assert judged(side(limit_w), idle()).passed
    assert judged(side(limit_w + 1e-6), idle()).refuses


def test_a_warmer_card_may_leak_and_an_unknown_one_more():
    """1 % of idle power for each kelvin; without a thermometer 30 of them; a cooler card has no bonus."""
    plain = idle().limit_w(AWAKE, 0.1, 0.0)
    warm, cool, blind = (DeviceState(performance_state=0.0, temperature_c=t) for t in (60.0, 20.0, math.nan))
    assert idle().limit_w(warm, 0.1, 0.0) - plain == pytest.approx(10.0)
    assert idle().limit_w(cool, 0.1, 0.0) == pytest.approx(plain)
    assert idle().limit_w(blind, 0.1, 0.0) - plain == pytest.approx(15.0)


@pytest.mark.parametrize(
    ("reference", "here", "bounds"),
    [
        (AWAKE, AWAKE, True),
        (AWAKE, ASLEEP, True),  # a sleeping card draws less
        (ASLEEP, AWAKE, False),
        (AWAKE, DeviceState(performance_state=0.0, clock_hz=1.0e9), True),  # slowed by a load
        (DeviceState(performance_state=0.0, clock_hz=1.0e9), AWAKE, False),
        (AWAKE, DeviceState(), False),
        (DeviceState(performance_state=0.0), DeviceState(performance_state=0.0), True),
    ],
)
def test_idle_power_bounds_states_that_are_no_higher(reference, here, bounds):
    """Deep idle says nothing of a card that is awake; a card that tells no state is bounded by nothing."""
    assert idle(state=reference).bounds(here) is bounds


def test_without_a_reference_utilisation_decides():
    """Busy refuses, idle passes, and where nothing tells the gate warns."""
    assert judged(side(100.0, busy=MAX_BUSY), idle(5.0, state=ASLEEP)).passed
    assert judged(side(100.0, busy=MAX_BUSY + 0.01), idle(5.0, state=ASLEEP)).refuses
    unknown = judged(side(100.0), idle(5.0, state=ASLEEP))
    assert (unknown.passed, unknown.warning) == (False, True)


def test_utilisation_that_lags_does_not_overrule_power_before_a_window():
    """Power saw the work end; or a baseline says that it is idle. After a window utilisation tells of work in the sensor's tail."""
    assert judged(side(50.0, busy=0.5), idle()).passed
    assert judged(side(50.0, busy=0.5, fell=True), idle(certain=False)).passed
    assert judged(side(50.0, busy=0.5), idle(certain=False)).refuses
    assert judged(side(50.0, busy=0.5, where="after"), idle()).refuses


def test_the_worse_side_is_told():
    """A refusal before a warning before a pass."""
    sides = [side(50.0), side(90.0, where="after"), side(70.0, state=DeviceState())]
    assert quiet_gate(sides, [[idle()]] * 3, window_w=0.0, scope="w1").reason.startswith("after the window the device drew 90 W")
    assert quiet_gate(sides[::2], [[idle()]] * 2, window_w=0.0, scope="w1").warning


T_NS = np.arange(0, 10_000_000_000, 20_000_000)


def box(busy_s, period_s):
    """A utilisation reading: the mean over its last period, renewed every period."""
    end_s = np.floor(T_NS * 1e-9 / period_s) * period_s
    shares = [np.clip((np.minimum(end_s, b) - np.maximum(end_s - period_s, a)) / period_s, 0, 1) for a, b in busy_s]
    return np.round(np.sum(shares, axis=0), 2)


def beside(busy, **limits):
    return busy_beside(T_NS, busy, t0_ns=4_000_000_000, t1_ns=6_000_000_000, **{"head_limit_ns": 0, "tail_limit_ns": 10**10, **limits})


@pytest.mark.parametrize("period_s", [1 / 6, 0.5, 1.0])
def test_the_windows_own_work_is_not_beside_it(period_s):
    """Whatever the period, readings that still average over the window tell of nothing else."""
    before, after = beside(box([(1.0, 1.5), (4.0, 6.0), (8.95, 9.0)], period_s), tail_limit_ns=8_900_000_000)
    assert before == 0
    assert after == 0


def test_work_beside_is_told_and_another_windows_is_not():
    """Work until the begin, and after the end; the former not where another window ended less than two periods before."""
    busy = box([(1.0, 1.3), (2.0, 7.5)], 1 / 6)
    assert beside(busy) == (1.0, 1.0)
    assert math.isnan(beside(busy, head_limit_ns=3_800_000_000)[0])
    assert math.isnan(beside(busy, tail_limit_ns=6_300_000_000)[1])


@pytest.mark.parametrize("hung", [0.0, 1.0])
def test_a_reading_that_hangs_tells_nothing(hung):
    """It never moves, whatever the device does; or hangs at rest since before the window."""
    assert all(map(math.isnan, beside(np.full(len(T_NS), hung))))
    late = np.where(T_NS < 1_000_000_000, 0.7, 0.0)
    assert all(map(math.isnan, beside(late)))


def test_the_period_is_never_taken_too_short():
    """Between what the driver states as shortest and longest; the longest for a reading that hardly changed."""
    assert utilisation_period_s(T_NS, box([(1.0, 1.5)], 1 / 6)) == 1.0
    rng = np.random.default_rng(1)
    for period_s in (1 / 6, 0.4, 1.0):
        edges = np.cumsum(rng.uniform(0.1, 1.5, 8))
        found = utilisation_period_s(T_NS, box(list(zip(edges[::2], edges[1::2], strict=True)), period_s))
        assert found >= period_s - 0.021


def test_readings_after_a_change_of_state_are_left_out():
    """The sensor still averages over the state before."""
    state = np.where(T_NS < 5_000_000_000, 8.0, 0.0)
    stands = steady([state], T_NS, 200_000_000)
    assert not stands[(T_NS >= 5_000_000_000) & (T_NS < 5_200_000_000)].any()
    assert stands[T_NS >= 5_200_000_000].all()
    assert not steady([], T_NS, 1).any()


def test_the_lowest_level_needs_a_few_readings():
    """Three are none; of more, the tenth part from below, and the temperature there."""
    nothing = np.full(3, math.nan)
    assert math.isnan(lowest_level(np.arange(3.0), nothing)[0])
    level_w, u_w, warm_c = lowest_level(np.r_[np.full(30, 50.0), np.full(70, 150.0)], np.r_[np.full(30, 40.0), np.full(70, 60.0)])
    assert (level_w, u_w, warm_c) == (50.0, 0.0, 40.0)
