"""The loop of clock and temperature: found where it is, absent where it is not, and not mistaken for the lag of a ramp."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.metrology.hysteresis import IDLE, POWER_CAP, THERMAL, Branch, Cycle, over_cycles

GHZ = 1e9


def branch(temperature_c, clock_hz, reasons=0):
    """A branch from lists."""
    t = np.asarray(temperature_c, dtype=float)
    return Branch(
        temperature_c=t, clock_hz=np.broadcast_to(clock_hz, t.shape).astype(float), reasons=np.broadcast_to(reasons, t.shape).astype(int)
    )


def driver(temperature_c, engage_c=80.0, release_c=75.0, boost=2 * GHZ, step=0.1 * GHZ):
    """Clock and reasons of a driver with two thresholds, a step for each sample."""
    limit, clocks, reasons = boost, [], []
    for t in temperature_c:
        if t >= engage_c:
            limit = max(step, limit - step)
        elif t < release_c:
            limit = min(boost, limit + step)
        clocks.append(limit)
        reasons.append(THERMAL if limit < boost else 0)
    return np.array(clocks), np.array(reasons)


def cycle(engage_c=80.0, release_c=75.0, step_c=0.01):
    """One triangle of temperature through such a driver; it hovers at the top."""
    up = np.arange(60.0, engage_c + 0.05, step_c)
    down = np.arange(engage_c + 0.04, 60.0, -step_c)
    clocks, reasons = driver(np.concatenate([up, down]), engage_c, release_c)
    return Cycle(
        up=Branch(temperature_c=up, clock_hz=clocks[: len(up)], reasons=reasons[: len(up)]),
        down=Branch(temperature_c=down, clock_hz=clocks[len(up) :], reasons=reasons[len(up) :]),
    )


@given(st.floats(1.0, 12.0))
def test_the_width_is_the_distance_of_the_thresholds(width_c):
    """Known answer: the driver's own two temperatures, to a few steps of the ramp."""
    found = cycle(engage_c=80.0, release_c=80.0 - width_c)
    assert found.throttles
    assert found.width_c() == pytest.approx(width_c, abs=0.15)


def test_the_height_is_the_clock_lost_on_the_way_down():
    """Between the thresholds the clock upwards is the boost, downwards what was left at the top."""
    found = cycle()
    temperatures, difference_hz = found.differences(1.0)
    between = (temperatures >= 75) & (temperatures < 80)
    bottom = found.up.clock_hz[-1] - 4 * 0.1 * GHZ
    assert difference_hz[between] == pytest.approx(2 * GHZ - found.down.clock_hz[200], abs=0.1 * GHZ)
    assert found.area_hz_c(1.0) == pytest.approx(difference_hz.sum())
    assert found.height_hz(1.0) > 0
    assert bottom < 2 * GHZ


def test_a_card_that_never_slows_has_no_loop():
    """No thermal bit: it does not throttle, its branches agree, and there is no width."""
    t = np.repeat(np.arange(60.0, 70.0), 5)
    quiet = Cycle(up=branch(t, 2 * GHZ), down=branch(t[::-1], 2 * GHZ))
    assert not quiet.throttles
    assert quiet.height_hz(1.0) == 0
    assert np.isnan(quiet.width_c())


def test_the_power_cap_makes_no_loop():
    """At one temperature the load is higher on the way up, so a capped clock is lower there: that is the ramp, not the card."""
    t = np.repeat(np.arange(60.0, 70.0), 5)
    capped = Cycle(up=branch(t, 1.5 * GHZ, POWER_CAP), down=branch(t[::-1], 1.8 * GHZ, POWER_CAP))
    assert not capped.up.counted.any()
    assert np.isnan(capped.height_hz(1.0))
    assert Branch(temperature_c=t, clock_hz=t, reasons=np.full(t.shape, POWER_CAP | THERMAL)).counted.all()


def test_idle_and_failed_samples_do_not_count():
    """A clock of an idle card is no answer to its temperature."""
    reasons = np.array([IDLE, 0, 0])
    found = Branch(temperature_c=np.array([60.0, np.nan, 60.0]), clock_hz=np.full(3, GHZ), reasons=reasons)
    assert found.counted.tolist() == [False, False, True]


def test_cycles_without_a_value_are_left_out_and_one_has_no_uncertainty():
    """Standard error over those that have one; infinite for a single one, NaN for none."""
    found = over_cycles(np.array([1.0, np.nan, 3.0]))
    assert (found.mean, found.n) == (2.0, 2)
    assert found.u == pytest.approx(1.0)
    assert over_cycles(np.array([1.0])).u == np.inf
    assert np.isnan(over_cycles(np.array([np.nan])).mean)
