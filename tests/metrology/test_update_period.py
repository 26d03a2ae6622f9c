"""The update period from polls: right, with an honest interval, or refused with the reason."""

from __future__ import annotations

import math

import numpy as np
import pytest
import recordings
from grid_sensor import polled

from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.update_period import (
    changes_of,
    compare_periods,
    cross_checked,
    driver_period,
    fit_update_period,
    readings_between_polls,
    readings_on_comb,
)


def sensor_polls(seed, *, period_s=0.1, seconds=5.0, poll_s=0.01, spread_s=0.002, equal=0.0, jitter_s=0.0, grid=False):
    """Polls of a sensor with white readings, a share of which repeat; and its true ticks and period."""
    rng = np.random.default_rng(seed)
    period_s *= 1 + rng.normal(0, 0.003)
    ticks = rng.uniform(0, period_s) + np.arange(int(seconds / period_s) + 5) * period_s
    y = rng.normal(100, 1, len(ticks))
    for i in np.flatnonzero(rng.random(len(y)) < equal):
        y[i] = y[i - 1]
    published = ticks + jitter_s * rng.standard_normal(len(ticks))
    t, values = polled(published, y, rng, until_s=seconds, poll_s=poll_s, spread_s=spread_s, grid=grid)
    return t, values, ticks, period_s


def errors(count, **how):
    """Relative errors, and how many lie within 1.96 u."""
    out, inside = [], 0
    for seed in range(count):
        t, y, _, period_s = sensor_polls(seed, **how)
        fit = fit_update_period(t, t, y)
        out.append(abs(fit.period_s / period_s - 1))
        inside += abs(fit.period_s - period_s) < 1.96 * fit.u_period_s
    return np.array(out), inside


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"poll_s": 0.025, "spread_s": 0.005},
        {"equal": 0.5},
        {"jitter_s": 0.001},
        {"grid": True},
        {"period_s": 0.02, "poll_s": 0.004, "spread_s": 0.0008},
    ],
    ids=["plain", "coarse polls", "half of the readings equal", "sensor jitter", "polls on a grid", "20 ms"],
)
def test_five_seconds_give_the_period_to_a_fifth_of_a_percent(how):
    """p95 of the error is at most 0.2 %, and the 95 % interval holds in at least 21 of 25 seeds."""
    relative, inside = errors(25, **how)
    assert np.percentile(relative, 95) <= 0.002
    assert inside >= 21


def test_polls_in_step_with_the_updates_admit_what_they_cannot_know():
    """Polls on an exact grid of T/10 see a perfect comb whose phase could be anywhere inside one poll: u says so."""
    ticks = 0.0503 + np.arange(80) * 0.1
    t = (np.arange(700) * 10_000_000).astype(np.int64)
    y = np.random.default_rng(0).normal(0, 1, 80)[np.maximum(np.searchsorted(ticks, t / 1e9, side="right") - 1, 0)]
    fit = fit_update_period(t, t, y)
    assert fit.u_phase_s > 0.001
    assert abs((fit.phase_s + 0.05 - ticks[0]) % 0.1 - 0.05) < 2 * fit.u_phase_s


def test_readings_stand_at_the_sensors_own_instants():
    """Comb instants are right to a fraction of a millisecond where polls are 10 ms apart, and raw poll middles are not."""
    t, y, ticks, _ = sensor_polls(3, seconds=30.0)
    readings = readings_on_comb(t, t, y, fit_update_period(t, t, y))
    raw = readings_between_polls(t, t, y)

    def error(found):
        at = found.t_s + found.origin_ns / 1e9
        return float(np.sqrt(np.mean((at - ticks[np.rint((at - ticks[0]) / np.diff(ticks)[0]).astype(int)]) ** 2)))

    assert error(readings) < 3e-4
    assert error(raw) > 2e-3
    assert raw.u_each_s == pytest.approx(error(raw), rel=0.3)


def test_failed_reads_and_stalled_polls_do_not_move_the_period():
    """Failed reads are NaN, and changes seen across a stall of the polls are left out."""
    t, y, _, period_s = sensor_polls(5, seconds=20.0)
    keep = np.ones(len(t), bool)
    keep[700:760] = False
    y = np.where(np.random.default_rng(0).random(len(y)) < 0.1, np.nan, y)
    assert fit_update_period(t[keep], t[keep], y[keep]).period_s == pytest.approx(period_s, rel=5e-4)


def test_a_slip_of_the_sensors_clock_is_a_new_segment():
    """A comb that jumps by a third of a period is fitted as two segments with one period."""
    ticks = np.arange(200) * 0.1 + 0.03
    ticks[100:] += 0.045
    rng = np.random.default_rng(1)
    t, y = polled(ticks, rng.normal(0, 1, 200), rng, until_s=19.0)
    fit = fit_update_period(t, t, y)
    assert fit.segments == 2
    assert fit.period_s == pytest.approx(0.1, rel=5e-4)


def refusal(t, y):
    with pytest.raises(RefusedError) as caught:
        fit_update_period(t, t, y)
    gate = caught.value.gate
    assert gate.refuses
    assert gate.remedy
    return gate


def test_idle_with_equal_readings_is_refused():
    """A sensor that repeats one value shows no comb, and the remedy is a load that toggles."""
    t = (np.arange(500) * 10_000_000).astype(np.int64)
    gate = refusal(t, np.full(500, 60.0))
    assert gate.name == "update period: changes"
    assert gate.measured == 0
    assert "toggles" in gate.remedy


def test_changes_are_enough_from_ten_on():
    """The boundary: 10 changes are fitted, 9 refused."""
    t = (np.arange(400) * 2_500_000).astype(np.int64)
    level = (t - 1) // 90_000_000
    assert changes_of(t, t, level.astype(float)).value.size == 12
    fit_update_period(t, t, np.minimum(level, 9).astype(float))
    assert refusal(t, np.minimum(level, 8).astype(float)).name == "update period: changes"


@pytest.mark.parametrize(("poll_s", "fits"), [(0.006, True), (0.009, False), (0.016, False), (0.03, False)])
def test_polls_coarser_than_period_over_two_and_a_half_are_refused(poll_s, fits):
    """A 20 ms comb needs polls at most 8 ms apart; the refusal says how fast to poll."""
    t, y, _, period_s = sensor_polls(7, period_s=0.02, poll_s=poll_s, spread_s=0.0002)
    if fits:
        assert fit_update_period(t, t, y).period_s == pytest.approx(period_s, rel=1e-3)
    else:
        gate = refusal(t, y)
        assert gate.name == "update period: polls"
        assert gate.measured == pytest.approx(poll_s, rel=0.1)
        assert gate.limit < gate.measured


def test_changes_without_a_comb_are_refused():
    """Values that change at random times are no sensor with a period."""
    rng = np.random.default_rng(2)
    ticks = np.cumsum(rng.uniform(0.03, 0.3, 200))
    t, y = polled(ticks, rng.normal(0, 1, 200), rng, until_s=25.0, poll_s=0.004, spread_s=0.001)
    gate = refusal(t, y)
    assert gate.name == "update period: comb"
    assert gate.measured < gate.limit


def test_two_caches_that_answer_in_turn_are_refused():
    """Reads that meet one or the other of two caches jump back to the value before last; the refusal says so."""
    rng = np.random.default_rng(4)
    t = (np.cumsum(rng.uniform(0.008, 0.012, 2000)) * 1e9).astype(np.int64)
    y = rng.normal(0, 1, (2, 400))
    which = rng.integers(0, 2, len(t))
    tick = np.stack([(t / 1e8).astype(int), ((t + 37_000_000) / 1e8).astype(int)])
    gate = refusal(t, y[which, tick[which, np.arange(len(t))]])
    assert gate.name == "update period: caches"
    assert "two caches" in gate.reason


def test_polls_out_of_order_are_an_error():
    """Decreasing instants come from two clocks, and are not sorted in silence."""
    with pytest.raises(ValueError, match="must not decrease"):
        changes_of(np.array([2, 1]), np.array([2, 1]), np.array([1.0, 2.0]))


def test_driver_timestamps_give_the_period():
    """119 driver timestamps at 20.06 ms with a microsecond of jitter, one sample missing."""
    rng = np.random.default_rng(0)
    stamps = (1_700_000_000_000_000 + np.arange(120) * 20_060 + rng.normal(0, 1, 120)).astype(np.int64)
    fit = driver_period(np.delete(stamps, 50))
    assert fit.period_s == pytest.approx(0.02006, abs=3 * fit.u_period_s)
    assert fit.u_period_s < 1e-7


def test_a_short_driver_buffer_is_refused():
    """Nine timestamps are too few; equal ones do not count."""
    with pytest.raises(RefusedError, match="9 distinct timestamps"):
        driver_period(np.repeat(np.arange(9) * 20_000, 5))


def test_driver_and_polls_are_compared():
    """Equal periods pass; a buffer slowed to 1 Hz at idle is a warning that names the direction."""
    t, y, _, period_s = sensor_polls(11, seconds=20.0)
    polled_fit = fit_update_period(t, t, y)
    stamps = np.rint(np.arange(119) * period_s * 1e6).astype(np.int64)
    assert compare_periods(polled_fit, driver_period(stamps)).passed
    slow = compare_periods(polled_fit, driver_period(np.arange(119) * 1_000_000))
    assert not slow.passed
    assert not slow.refuses
    assert "slower" in slow.reason


@pytest.mark.parametrize(("seconds", "limit"), [(5.0, 0.002), (200.0, 0.0001)])
def test_rtx3090_recording(seconds, limit):
    """200 s of polls of a real RTX 3090 have T = 99.97 ms; every 5 s stretch of them agrees to 0.2 %."""
    t, y = recordings.polls("rtx3090-idle-polls", "power.draw.instant [W]")
    starts = np.arange(t[0], t[-1] - seconds * 1e9, seconds * 1e9)[:12]
    for start in starts:
        own = (t >= start) & (t < start + seconds * 1e9)
        assert fit_update_period(t[own], t[own], y[own]).period_s == pytest.approx(0.09997, rel=limit)


def test_k40m_recording_is_refused():
    """The K40m updates every 15 ms and was polled every 9 to 10 ms: too coarse for a comb, and refused as such."""
    t, y = recordings.polls("k40m-step", "power.draw [W]")
    gate = refusal(t, y)
    assert gate.name == "update period: polls"
    assert gate.measured == pytest.approx(0.010, abs=0.001)
    assert gate.limit == pytest.approx(0.006, abs=0.001)


def polled_and_driver(ratio):
    """A comb of the polls, and one of the driver's timestamps that is longer by ``ratio``."""
    t, y, _, _ = sensor_polls(11, seconds=20.0)
    polled = fit_update_period(t, t, y)
    stamps = np.rint(np.arange(119) * polled.period_s * ratio * 1e6).astype(np.int64)
    return polled, driver_period(stamps)


def test_driver_timestamps_come_first_where_their_rate_is_that_of_the_updates():
    """Equal periods: the driver's is stated, the instants of the comb stay, and what is left between the two is in the uncertainty."""
    polled, driver = polled_and_driver(1.0005)
    used, gate = cross_checked(polled, driver)
    assert used.period_s == driver.period_s
    assert (used.phase_s, used.origin_ns) == (polled.phase_s, polled.origin_ns)
    assert used.u_period_s == pytest.approx(0.0005 * polled.period_s / math.sqrt(3), rel=0.05)
    assert gate.passed
    assert not gate.warning


@pytest.mark.parametrize(("ratio", "agrees"), [(1.0019, True), (1.0021, False), (0.9981, True), (0.9979, False)])
def test_driver_and_polls_may_differ_by_two_per_mille(ratio, agrees):
    """Both sides of the limit; beyond it the two claim the same updates and one of them is wrong: refused with both values."""
    polled, driver = polled_and_driver(ratio)
    if agrees:
        assert cross_checked(polled, driver)[0].period_s == driver.period_s
        return
    with pytest.raises(RefusedError) as refused:
        cross_checked(polled, driver)
    for value in (polled.period_s, driver.period_s):
        assert f"{value * 1e3:.4f} ms" in refused.value.gate.reason


@pytest.mark.parametrize(("ratio", "other"), [(1.09, False), (1.11, True), (0.91, False), (0.89, True), (10.0, True)])
def test_a_buffer_at_another_rate_is_no_disagreement(ratio, other):
    """More than a tenth apart the buffer does not hold the polled updates: the polls are used, and the gate says why."""
    polled, driver = polled_and_driver(ratio)
    if not other:
        with pytest.raises(RefusedError):
            cross_checked(polled, driver)
        return
    used, gate = cross_checked(polled, driver)
    assert used is polled
    assert gate.passed
    assert ("slower" if ratio > 1 else "faster") in gate.reason
