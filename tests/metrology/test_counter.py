"""Energy of windows from a hardware counter against exactly known energy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from exact_sensor import Power, counted, events, polled

from pytest_physics.metrology.counter import MIN_TICKS, CounterSeries, counter_energy, preferred
from pytest_physics.metrology.energy import Estimator, IdlePower, PowerSeries, window_energy, window_estimates
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.response import SensorModel

IDLE_W = 50.0
IDLE = IdlePower.constant(IDLE_W, u_w=0.1)


def ns(seconds):
    return np.round(np.asarray(seconds) * 1e9).astype(np.int64)


def neighbours(t0, t1):
    return {"head_limit_ns": np.r_[-(10**15), t1[:-1]], "tail_limit_ns": np.r_[t0[1:], 10**15]}


def measured(lengths_s, pauses_s, seed, *, tick_s=0.1):
    rng = np.random.default_rng(seed)
    starts = 2 + np.cumsum(np.add(lengths_s, pauses_s)) - lengths_s
    power = events(starts, lengths_s, rng.uniform(50, 350, len(lengths_s)), IDLE_W)
    t, energy = counted(power, rng, until_s=starts[-1] + lengths_s[-1] + 2, tick_s=tick_s)
    t0, t1 = ns(starts), ns(starts + lengths_s)
    result = counter_energy(CounterSeries.of(t, energy), t0, t1, idle=IDLE, **neighbours(t0, t1))
    return result, power.between(starts, starts + lengths_s)


@pytest.mark.parametrize(("length_s", "limit"), [(0.05, 0.01), (0.1, 0.005), (1.0, 0.0006), (10.0, 0.0001)])
@pytest.mark.parametrize("tick_s", [0.02, 0.1])
def test_isolated_work_is_exact_beyond_the_tick(length_s, limit, tick_s):
    """Between idle stretches even half a tick of work has its energy: two naive reads would err by 40 % of P·T_E."""
    rng = np.random.default_rng(1)
    result, truth = measured(length_s + rng.uniform(0, 0.1 * length_s, 100), rng.uniform(0.5, 0.7, 100), 2, tick_s=tick_s)
    error = result.gross_j / truth - 1
    assert set(result.estimator.tolist()) == {Estimator.COUNTER_BRACKETED}
    assert np.percentile(np.abs(error), 95) < limit
    assert np.mean(np.abs(result.gross_j - truth) <= 1.96 * result.u_gross_j()) >= 0.95


@pytest.mark.parametrize("length_s", [0.3, 1.0, 5.0])
def test_work_without_idle_between_is_interpolated(length_s):
    """Back-to-back phases: interpolated between ticks, within P·T_E/√6."""
    rng = np.random.default_rng(3)
    edges = 3 + np.concatenate([[0.0], np.cumsum(length_s + rng.uniform(0, 0.1, 100))])
    power = Power(np.concatenate([[-100.0], edges]), np.concatenate([[IDLE_W], rng.uniform(100, 400, 100), [IDLE_W]]))
    t, energy = counted(power, rng, until_s=edges[-1] + 2)
    t0, t1 = ns(edges[:-1]), ns(edges[1:])
    result = counter_energy(CounterSeries.of(t, energy), t0, t1, idle=IDLE, **neighbours(t0, t1))
    error = result.gross_j - power.between(edges[:-1], edges[1:])
    assert set(result.estimator.tolist()) == {Estimator.COUNTER_INTERPOLATED}
    assert np.mean(np.abs(error) <= 1.96 * result.u_gross_j()) >= 0.95
    assert np.sqrt(np.mean(error**2)) < 400 * 0.1 / np.sqrt(6)


def test_unannounced_work_beside_the_window_is_noticed():
    """Constant 250 W with idle at 50 W and no limits given: the counter is interpolated, not bracketed with idle."""
    t, energy = counted(Power(np.array([-9.0, 99.0]), np.array([250.0, 250.0])), np.random.default_rng(4), until_s=20)
    result = counter_energy(CounterSeries.of(t, energy), ns([5.0]), ns([10.0]), idle=IDLE)
    assert result.gross_j[0] == pytest.approx(1250.0, rel=0.002)
    assert abs(result.gross_j[0] - 1250.0) <= 2 * result.u_gross_j()[0]
    assert Estimator(result.estimator[0]).title == "counter, interpolated"


def reset_at(reset_s, t0_s=5.0, t1_s=15.0):
    t, energy = counted(events(np.array([5.0]), np.array([10.0]), 250.0, IDLE_W), np.random.default_rng(5), until_s=20)
    energy = np.where(t > reset_s * 1e9, energy - energy[t > reset_s * 1e9][0], energy)
    return counter_energy(CounterSeries.of(t, energy), ns([t0_s]), ns([t1_s]), idle=IDLE)


def test_a_counter_that_goes_backwards_is_no_data():
    """A reset inside the window: no number, NO_DATA, and the reason says that the counter went backwards."""
    energies = reset_at(9.0)
    estimates = window_estimates(energies, instrument="gpu")
    assert np.isnan(energies.gross_j[0])
    assert estimates.gross.quality is Quality.NO_DATA
    assert "backwards" in estimates.net.gates[0].reason


def test_a_reset_elsewhere_does_not_matter():
    """A reset long before the window leaves it alone."""
    energies = reset_at(2.0)
    assert energies.gross_j[0] == pytest.approx(3000.0, rel=0.001)
    assert window_estimates(energies, instrument="gpu").gross.quality is Quality.BILLABLE


def test_a_counter_that_never_moves_is_no_data():
    """A stuck counter has no ticks: NO_DATA instead of 0 J."""
    t = ns(np.arange(0, 20, 0.01))
    energies = counter_energy(CounterSeries.of(t, np.full(len(t), 5.0)), ns([5.0]), ns([10.0]), idle=IDLE)
    assert np.isnan(energies.gross_j[0])
    assert window_estimates(energies, instrument="gpu").gross.quality is Quality.NO_DATA


def test_no_samples_are_no_data():
    """An empty counter series answers NaN."""
    energies = counter_energy(CounterSeries.of(np.zeros(0, np.int64), np.zeros(0)), ns([5.0]), ns([10.0]), idle=IDLE)
    assert np.isnan(energies.net_j[0])
    assert not energies.bracketed[0]


def test_a_counter_sampler_that_died_is_no_data():
    """Samples end before the window does."""
    t, energy = counted(events(np.array([5.0]), np.array([10.0]), 250.0, IDLE_W), np.random.default_rng(6), until_s=12)
    energies = counter_energy(CounterSeries.of(t, energy), ns([5.0]), ns([15.0]), idle=IDLE)
    assert window_estimates(energies, instrument="gpu").gross.quality is Quality.NO_DATA


def test_failed_reads_of_the_counter_lose_no_energy():
    """A counter integrates by itself: failed reads inside the window cost nothing but the gap that they are."""
    t, energy = counted(events(np.array([5.0]), np.array([10.0]), 250.0, IDLE_W), np.random.default_rng(7), until_s=20)
    energy[(t > 8e9) & (t < 8.2e9)] = np.nan
    energy[::5] = np.nan
    energies = counter_energy(CounterSeries.of(t, energy), ns([5.0]), ns([15.0]), idle=IDLE)
    assert energies.gross_j[0] == pytest.approx(3000.0, rel=0.0005)
    assert window_estimates(energies, instrument="gpu").gross.quality is Quality.BILLABLE


def both(sensor, length_s):
    rng = np.random.default_rng(8)
    power = events(np.array([5.0]), np.array([length_s]), 250.0, IDLE_W)
    t, y = polled(power, sensor, rng, until_s=length_s + 12)
    tc, energy = counted(power, rng, until_s=length_s + 12)
    window = ns([5.0]), ns([5.0 + length_s])
    integral = window_energy(PowerSeries.of(t, y, sensor=sensor), *window, idle=IDLE)
    return counter_energy(CounterSeries.of(tc, energy), *window, idle=IDLE), integral


def test_the_counter_needs_ticks_to_be_preferred():
    """Below ten ticks the power integral stays, from ten ticks on the smaller uncertainty wins."""
    sensor = SensorModel(update_period_s=0.1, window_s=0.1, resolution_w=0.01)
    short, long = both(sensor, 0.5), both(sensor, 3.0)
    assert short[0].n_updates[0] < MIN_TICKS <= long[0].n_updates[0]
    assert not preferred(*short)[0]
    assert preferred(*long)[0] == (long[0].u_net_j()[0] < long[1].u_net_j()[0])
    noisy = replace(long[0], terms={**long[0].terms, "edges": replace(long[0].terms["edges"], net_j=np.array([50.0]))})
    assert not preferred(noisy, long[1])[0]


def test_the_counter_is_preferred_to_a_sensor_that_looks_away():
    """Where the sensor sees a quarter of the time no integral's uncertainty covers a load in step with it."""
    partial = SensorModel(update_period_s=0.1, window_s=0.025, resolution_w=0.01)
    counter, integral = both(partial, 3.0)
    worse = replace(counter, terms={**counter.terms, "edges": replace(counter.terms["edges"], net_j=np.array([50.0]))})
    assert preferred(worse, integral)[0]
    assert not preferred(replace(counter, net_j=np.array([np.nan])), integral)[0]


def test_a_load_in_step_with_the_sensor_shows_as_mismatch():
    """10 Hz on a 100 ms sensor with a 25 ms window: the integral is wrong by tens of percent and says nothing; the counter tells."""
    sensor = SensorModel(update_period_s=0.1, window_s=0.025, resolution_w=0.01)
    starts = 5 + np.arange(50) * 0.1
    power = events(starts, np.full(50, 0.05), 250.0, IDLE_W)
    rng = np.random.default_rng(9)
    t, y = polled(power, sensor, rng, until_s=15)
    tc, energy = counted(power, rng, until_s=15)
    window = ns([5.0]), ns([10.0])
    integral = window_energy(PowerSeries.of(t, y, sensor=sensor), *window, idle=IDLE)
    counter = counter_energy(CounterSeries.of(tc, energy), *window, idle=IDLE)
    assert counter.net_j[0] == pytest.approx(625.0, rel=0.005)
    assert abs(integral.net_j[0] / 625.0 - 1) > 0.2
    assert preferred(counter, integral)[0]


def test_sources_may_be_shared_or_not():
    """Counter and power of one card carry the same gain only where the caller says so."""
    counter, integral = both(SensorModel(update_period_s=0.1, window_s=0.1), 3.0)
    power = window_estimates(integral, instrument="gpu").net
    same = window_estimates(counter, instrument="gpu").net
    own = window_estimates(counter, instrument="gpu", gain_source="gain of the counter|gpu").net
    assert (same / power).u < 0.004
    assert (own / power).u == pytest.approx(0.0369 * np.sqrt(2), rel=0.02)


def after_deep_idle(series_of, count=60):
    """Events that begin in deep idle at 20 W and end in active idle at 120 W: one energy each, with what the card truly drew."""
    rng = np.random.default_rng(8)
    for _ in range(count):
        begin, length = 5 + rng.uniform(0, 0.1), rng.uniform(0.15, 0.25)
        power = Power(np.array([-100.0, begin, begin + length]), np.array([20.0, 350.0, 120.0]))
        yield series_of(power, rng), ns([begin]), ns([begin + length]), float(power.between(begin, begin + length))


LEVELS = IdlePower.constant(20.0, u_w=0.1), IdlePower.constant(120.0, u_w=0.1)


def test_idle_that_differs_before_and_after_is_taken_off_at_its_own_end():
    """A card leaves deep idle for an event and stays out of it: each end of the bracket has its own level, and no bias is left."""
    found = [
        (counter_energy(series, t0, t1, idle=LEVELS[1], beside=LEVELS, settle_s=0.2).gross_j[0], truth)
        for series, t0, t1, truth in after_deep_idle(lambda power, rng: CounterSeries.of(*counted(power, rng, until_s=8)))
    ]
    error = np.array([gross / truth - 1 for gross, truth in found])
    assert np.percentile(np.abs(error), 95) < 0.02
    assert abs(error.mean()) < 0.005
