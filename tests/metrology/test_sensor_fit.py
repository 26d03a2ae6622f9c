"""Window, lag and delay of a sensor from a known load: right, with intervals that hold, or refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import recordings
from grid_sensor import Card, polled, readings, true_power
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.sensor_fit import Load, ModelFit, Shape, fit_sensor, modulation, notch_gate, response, telegraph
from pytest_physics.metrology.update_period import Readings, fit_update_period, readings_between_polls, readings_on_comb

SENSORS = {
    "100/25": Card(period_s=0.1, window_s=0.025),
    "100/100": Card(period_s=0.1, window_s=0.1),
    "20/10": Card(period_s=0.02, window_s=0.01),
    "100/1000": Card(period_s=0.1, window_s=1.0),
    "100 lag 15": Card(period_s=0.1, lag_s=0.015),
    "15 lag 50": Card(period_s=0.015, lag_s=0.05),
    "15 lag 840": Card(period_s=0.015, lag_s=0.84),
}


def identified(card, load, *, seed, seconds, trim_s=0.0, ran=True, **options):
    """The whole chain from true power to a fitted sensor."""
    rng = np.random.default_rng(seed)
    t, power = true_power(card, load.edge_s, load.level if ran else np.zeros(len(load.level)), seconds)
    ticks, y = readings(card, t, power, rng)
    fast = card.period_s < 0.05
    at, values = polled(ticks, y, rng, until_s=seconds, poll_s=0.004 if fast else 0.01, spread_s=0.0008 if fast else 0.002)
    own = (at > trim_s * 1e9) & (at < (seconds - trim_s) * 1e9)
    at, values = at[own], values[own]
    period = fit_update_period(at, at, values)
    found = readings_on_comb(at, at, values, period)
    shifted = Load(edge_s=load.edge_s - found.origin_ns / 1e9, level=load.level)
    return fit_sensor(found, shifted, update_period_s=period.period_s, **options), period


def random_load(card, seed, *, seconds=30.0):
    return telegraph(
        seed, duration_s=seconds - 3, update_period_s=card.period_s, suspected_lag_s=max(card.window_s, card.lag_s), start_s=2.0
    )  # fmt: skip


@pytest.mark.parametrize("name", SENSORS)
def test_telegraph_identifies_every_kind_of_sensor(name):
    """30 s of telegraph: the right shape, the width to 1.5 % or 0.3 ms, the delay to 1.5 ms, inside the stated intervals."""
    card = SENSORS[name]
    fit, _ = identified(card, random_load(card, 1), seed=1, seconds=30.0)
    best, width = fit.best, card.window_s or card.lag_s
    assert best.shape is (Shape.BOX if card.window_s else Shape.LAG)
    assert not fit.ambiguous
    assert abs(best.width_s - width) <= max(0.015 * width, 3e-4)
    assert abs(best.delay_s - card.delay_s) <= 1.5e-3
    assert abs(best.width_s - width) <= 3 * max(best.u_window_s, best.u_lag_s)
    assert abs(best.delay_s - card.delay_s) <= 3 * best.u_delay_s
    assert best.gain == pytest.approx(card.swing_w, rel=0.01)
    assert best.offset_w == pytest.approx(card.idle_w, rel=0.01)


def test_intervals_cover():
    """The 95 % intervals of a 25 ms window and its delay hold in at least 14 of 15 sensors, with 10 s of load each."""
    card = SENSORS["100/25"]
    fits = [identified(card, random_load(card, seed, seconds=13.0), seed=seed, seconds=13.0)[0].best for seed in range(15)]
    assert sum(abs(fit.window_s - card.window_s) <= 1.96 * fit.u_window_s for fit in fits) >= 14
    assert sum(abs(fit.delay_s - card.delay_s) <= 1.96 * fit.u_delay_s for fit in fits) >= 13


@pytest.mark.parametrize("name", ["100/25", "100 lag 15"])
def test_a_cards_electrical_rise_does_not_rename_its_sensor(name):
    """A rise of 2 ms makes the true kernel box ∗ lag (or lag ∗ lag); the shape is still named after the sensor."""
    card = SENSORS[name]
    risen = Card(period_s=card.period_s, window_s=card.window_s, lag_s=card.lag_s, edge_s=0.002)
    best = identified(risen, random_load(card, 2), seed=2, seconds=30.0, u_edge_s=0.002)[0].best
    assert best.named_shape is (Shape.BOX if card.window_s else Shape.LAG)
    width = best.window_s if card.window_s else best.lag_s
    assert width == pytest.approx(card.window_s or card.lag_s, abs=3e-4)


def test_box_and_lag_together_are_found():
    """A 12 ms lag behind a 30 ms box is neither a box nor a lag."""
    card = Card(period_s=0.1, window_s=0.03, lag_s=0.012)
    fit, _ = identified(card, random_load(card, 3), seed=3, seconds=30.0)
    assert fit.best.named_shape is Shape.BOX_LAG
    assert fit.best.window_s == pytest.approx(0.03, abs=0.001)
    assert fit.best.lag_s == pytest.approx(0.012, abs=0.0005)


def test_few_noisy_readings_leave_the_shape_open():
    """Three seconds with noise of 20 W do not tell a box from a lag: both are reported."""
    card = Card(period_s=0.1, window_s=0.025, noise_w=20.0)
    fit, _ = identified(card, random_load(card, 0, seconds=6.0), seed=0, seconds=6.0)
    assert fit.ambiguous
    assert {Shape.BOX, Shape.LAG} <= {model.shape for model in fit.fits}


def refusal(*args, **options):
    with pytest.raises(RefusedError) as caught:
        identified(*args, **options)
    assert caught.value.gate.refuses
    assert caught.value.gate.remedy
    return caught.value.gate


def square(period_s, *, duty=0.5, count=200, start_s=2.0):
    rising = start_s + np.arange(count) * period_s
    edges = np.column_stack([rising, rising + duty * period_s]).ravel()
    return Load(edge_s=edges, level=np.resize([0.0, 1.0], len(edges) + 1))


@pytest.mark.parametrize("duty", [0.5, 0.3])
def test_a_periodic_load_with_free_gain_is_refused(duty):
    """W, P − W (half duty) and W + P are the same data with another gain: no fit may choose among them."""
    gate = refusal(SENSORS["100/25"], square(0.1043, duty=duty), seed=0, seconds=22.0, trim_s=4.0)
    assert gate.name == "sensor fit: unique"
    assert gate.measured <= gate.limit


def test_the_mirror_is_real():
    """The refusal above is mathematics: at half duty a box of P − W, moved and rescaled, gives the response of W everywhere."""
    load, period, window = square(0.1, count=60), 0.1, 0.03
    t = np.linspace(4.0, 6.0, 500)
    ours = response(load, t, window_s=window, lag_s=0.0)
    mirror = response(load, t + (period - window) - period / 2, window_s=period - window, lag_s=0.0)
    scaled = 0.5 + (mirror - 0.5) * (period - window) / window
    assert np.allclose(ours, scaled, atol=1e-9)


def test_a_known_gain_and_a_short_range_of_delays_break_the_mirror():
    """With gain from the plateaus and delays of less than half a load period, the periodic load does identify W."""
    fit, _ = identified(
        SENSORS["100/25"], square(0.1043), seed=0, seconds=22.0, trim_s=4.0, gain=150.0, delay_bounds_s=(-0.02, 0.04)
    )  # fmt: skip
    assert fit.best.window_s == pytest.approx(0.025, rel=0.015)
    assert fit.best.u_gain == 0


def test_a_load_in_step_with_the_sensor_is_refused():
    """A load of exactly the update period shows the same two phases for ever."""
    gate = refusal(SENSORS["100/25"], square(0.1), seed=0, seconds=22.0, trim_s=4.0)
    assert gate.name == "sensor fit: load in step"


@pytest.mark.parametrize(
    ("card", "ran"), [(SENSORS["100/25"], False), (Card(period_s=0.1, window_s=0.025, swing_w=0.2), True)], ids=["load", "sensor"]
)
def test_a_load_that_never_ran_and_a_sensor_that_does_not_answer_are_refused(card, ran):
    """Noise alone is not explained by the load, whatever the fit tries."""
    gate = refusal(card, random_load(card, 0, seconds=15.0), seed=0, seconds=15.0, ran=ran)
    assert gate.name == "sensor fit: answer"
    assert gate.measured < gate.limit


@pytest.mark.parametrize("count", [19, 20])
def test_twenty_readings_are_the_least(count):
    """The boundary of too few readings; 20 perfect ones are fitted."""
    load = telegraph(3, duration_s=2.5, update_period_s=0.1)
    t = 0.05 + np.arange(count) * 0.1
    perfect = Readings(origin_ns=0, t_s=t, power_w=100 + 150 * response(load, t, window_s=0.06, lag_s=0.0), u_t_s=0.0)
    if count < 20:
        with pytest.raises(RefusedError, match="too few"):
            fit_sensor(perfect, load, update_period_s=0.1)
    else:
        assert fit_sensor(perfect, load, update_period_s=0.1).best.window_s == pytest.approx(0.06, rel=0.01)


@given(
    window_s=st.floats(0.001, 0.5), lag_s=st.one_of(st.just(0.0), st.floats(0.002, 0.3)), seed=st.integers(0, 1000), at=st.floats(0.0, 6.0)
)
@settings(max_examples=40, deadline=None)
def test_response_is_the_convolution(window_s, lag_s, seed, at):
    """The exact response equals numerical integration of kernel × load at any instant."""
    load = telegraph(seed, duration_s=4.0, update_period_s=0.3, start_s=0.5)
    exact = float(response(load, np.array([at]), window_s=window_s, lag_s=lag_s)[0])

    def u(t):
        return load.level[np.searchsorted(load.edge_s, t, side="right")]

    if lag_s == 0:
        t = np.linspace(at - window_s, at, 20001)
        assert exact == pytest.approx(float(np.mean(u((t[1:] + t[:-1]) / 2))), abs=2e-3)
        return
    reach = window_s + 25 * lag_s
    s = np.linspace(0.0, reach, 40001)
    kernel = (np.exp(-np.maximum(s - window_s, 0) / lag_s) - np.exp(-s / lag_s)) / window_s
    assert exact == pytest.approx(float(integrate.trapezoid(kernel * u(at - s), s)), abs=5e-3)


@given(seed=st.integers(0, 10_000), period_s=st.sampled_from([0.015, 0.02, 0.1]), lag_s=st.sampled_from([0.0, 0.05, 1.0]))
@settings(max_examples=30, deadline=None)
def test_telegraph_schedule(seed, period_s, lag_s):
    """Edges increase, dwells are at least 3 ms, the load begins and ends off, and long dwells come only where a lag is suspected."""
    load = telegraph(seed, duration_s=20.0, update_period_s=period_s, suspected_lag_s=lag_s, start_s=1.0)
    dwell = np.diff(load.edge_s)
    assert load.edge_s[0] == 1.0
    assert load.edge_s[-1] <= 21.0
    assert dwell.min() >= 0.003 - 1e-9
    assert load.level[0] == load.level[-1] == 0
    assert np.all(np.abs(np.diff(load.level)) == 1)
    assert dwell.max() <= max(1.1 * period_s, 3 * lag_s if lag_s > period_s else 0) + 1e-9
    assert np.array_equal(
        load.edge_s, telegraph(seed, duration_s=20.0, update_period_s=period_s, suspected_lag_s=lag_s, start_s=1.0).edge_s
    )


def test_a_load_must_be_a_load():
    """Levels and edges must fit, and edges increase."""
    with pytest.raises(ValueError, match="one value more"):
        Load(edge_s=np.array([1.0]), level=np.array([0.0]))
    with pytest.raises(ValueError, match="must increase"):
        Load(edge_s=np.array([1.0, 1.0]), level=np.array([0.0, 1.0, 0.0]))


def box_fit(window_s=0.1, u_window_s=0.001, gain=150.0):
    return ModelFit(
        shape=Shape.BOX, window_s=window_s, lag_s=0.0, delay_s=-0.004, gain=gain, offset_w=60.0, u_window_s=u_window_s, u_lag_s=0.0,
        u_delay_s=0.001, u_gain=0.1, residual_w=0.3, explained=0.999, bic=0.0, n_readings=300, effective_readings=100.0,
    )  # fmt: skip


def test_a_box_is_blind_at_its_notches():
    """A load of period W or W/2 vanishes; one of 2 W swings fully; a lag of τ follows tanh(P/4τ)."""
    assert modulation(box_fit(), 0.1) == pytest.approx(0, abs=1e-9)
    assert modulation(box_fit(), 0.05) == pytest.approx(0, abs=1e-9)
    assert modulation(box_fit(), 0.2) == pytest.approx(1, abs=1e-3)
    lag = ModelFit(**{name: getattr(box_fit(), name) for name in ModelFit.__slots__} | {"shape": Shape.LAG, "window_s": 0.0, "lag_s": 0.03})
    assert modulation(lag, 0.1) == pytest.approx(math.tanh(0.1 / (4 * 0.03)), rel=1e-3)


def test_notch_check():
    """The predicted modulation passes; the one of a window 20 % longer fails."""
    assert notch_gate(box_fit(), 0.8, noise_w=0.5, load_period_s=0.1).passed
    other = 150.0 * modulation(box_fit(window_s=0.12), 0.1)
    gate = notch_gate(box_fit(), other, noise_w=0.5, load_period_s=0.1)
    assert gate.refuses
    assert gate.measured == pytest.approx(other, rel=1e-3)


def test_the_fit_becomes_a_sensor_model():
    """All identified quantities arrive, and a negative delay (clock offset) becomes uncertainty."""
    card = SENSORS["100/25"]
    fit, period = identified(card, random_load(card, 4, seconds=15.0), seed=4, seconds=15.0)
    model = fit.to_sensor_model(period, resolution_w=0.01)
    assert isinstance(model, SensorModel)
    assert model.origin == "identified"
    assert (model.update_period_s, model.window_s, model.lag_s) == (period.period_s, fit.best.window_s, fit.best.lag_s)
    negative = type(fit)(best=box_fit(), fits=(box_fit(),), ambiguous=False).to_sensor_model(period, resolution_w=0.01)
    assert negative.delay_s == 0
    assert negative.u_delay_s == pytest.approx(math.hypot(0.004, 0.001))


def recorded(name, column, *, poll_period_s=None):
    """Readings of a recording under its own meter as the load, with the clock offset between -0.15 and 0.25 s left free."""
    t, y = recordings.polls(name, column)
    if poll_period_s is None:
        period = fit_update_period(t, t, y)
        found, period_s = readings_on_comb(t, t, y, period), period.period_s
    else:
        found, period_s = readings_between_polls(t, t, y), poll_period_s
    load = recordings.meter(name, t, origin_ns=found.origin_ns)
    inside = (found.t_s > load.edge_s[0] + 0.2) & (found.t_s < load.edge_s[-1] - 0.3)
    found = Readings(
        origin_ns=found.origin_ns, t_s=found.t_s[inside], power_w=found.power_w[inside], u_t_s=found.u_t_s, u_each_s=found.u_each_s
    )  # fmt: skip
    return fit_sensor(found, load, update_period_s=period_s, delay_bounds_s=(-0.15, 0.25))


def test_rtx3090_recording_is_a_box_of_100_ms():
    """Square-wave recording of an RTX 3090, against its meter: W = 100 ± 2 ms, gain 0.95, clocks within 10 ms of each other."""
    fit = recorded("rtx3090-50-50", "power.draw.instant [W]")
    assert fit.best.named_shape is Shape.BOX
    assert fit.best.window_s == pytest.approx(0.100, abs=0.002)
    assert fit.best.gain == pytest.approx(0.948, abs=0.01)
    assert -0.010 <= fit.best.delay_s <= 0.005
    assert fit.best.residual_w < 0.6


def test_k40m_recording_is_a_lag_of_50_ms():
    """Step recording of a K40m, polled too coarsely for a comb: a first-order lag of about 50 ms, no box."""
    fit = recorded("k40m-step", "power.draw [W]", poll_period_s=0.015)
    assert fit.best.named_shape is Shape.LAG
    assert fit.best.lag_s == pytest.approx(0.050, abs=0.005)
    assert next(model for model in fit.fits if model.shape is Shape.BOX).residual_w > 3 * fit.best.residual_w


def test_rtx3090_step_admits_that_it_knows_little():
    """A single step has one or two readings on each edge: the window is right within an interval that says so."""
    best = recorded("rtx3090-step", "power.draw.instant [W]").best
    assert best.effective_readings < 6
    assert best.u_window_s > 0.003
    assert abs(best.window_s - 0.100) <= 2 * best.u_window_s


def test_load_marks_and_meter_agree():
    """The recording machine's local time was one hour from UTC, and the load's marks lie where the meter rises."""
    t, _ = recordings.polls("rtx3090-50-50", "power.draw.instant [W]")
    edges, hours = recordings.load_edges_ns("rtx3090-50-50", t)
    load = recordings.meter("rtx3090-50-50", t, origin_ns=int(t[0]))
    first = float(edges[0] - t[0]) / 1e9
    rises = load.edge_s[np.flatnonzero(load.level[1:] > 250)[0]]
    assert hours == 1
    assert rises - first == pytest.approx(0, abs=0.01)
