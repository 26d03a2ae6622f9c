"""Legacy indices to the last digit, and beside them an efficiency, a headroom and a drift that mean something."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rle_recordings import JOINT, columns, session_columns

from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.rle import (
    INDEX_LABEL,
    efficiency,
    event_free_share,
    headroom,
    index_difference,
    metric_v1,
    metric_v2,
    rle_v1,
    rle_v2,
    share_components,
)
from pytest_physics.metrology.uncertainty import Estimate

V2_COLUMNS = {
    "rle_smoothed": "smoothed", "rle_raw": "raw", "E_th": "thermal_factor", "E_pw": "power_factor", "t_sustain_s": "sustain_s",
    "rolling_peak": "rolling_peak", "collapse": "collapse",
}  # fmt: skip


def v2_of(session, device):
    logged = session_columns(session, device)
    return rle_v2(logged["util_pct"], logged["temp_c"], metric=metric_v2(device)), logged


@pytest.mark.parametrize("session", JOINT)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_v2_reproduces_every_row_of_seven_columns(session, device):
    """RLE study §1.2: the formula, its literals and its initialisation row give what the monitor logged, to 1e-12."""
    series, logged = v2_of(session, device)
    for column, name in V2_COLUMNS.items():
        assert np.abs(getattr(series, name).astype(float) - logged[column]).max() <= 1e-12, column


def test_v2_is_a_function_of_utilisation_where_the_temperature_is_a_literal():
    """CPU rows have the constant 50 °C: the index is 0.46797 × utilisation, its published ceiling."""
    series, logged = v2_of(JOINT[0], "cpu")
    flat = series.raw[1:] / (logged["util_pct"][1:] / 100 + 1e-300)
    loaded = logged["util_pct"][1:] > 0
    assert flat[loaded] == pytest.approx(0.46797, abs=1e-5)


def test_v1_reproduces_the_gaming_session_away_from_its_restart():
    """RLE study §1.1: median relative difference below 1e-4; the columns are rounded, and row 1202 restarts the buffers."""
    logged = columns("sessions/rle_20251028_08.csv", "gpu")
    series = rle_v1(logged["util_pct"], logged["temp_c"], logged["power_w"], metric=metric_v1("gpu"))
    away = np.ones(len(series.raw), dtype=bool)
    away[:15] = away[1195:1230] = False
    for name, column in (("raw", "rle_raw"), ("smoothed", "rle_smoothed"), ("normalised", "rle_norm"), ("thermal_factor", "E_th")):
        difference = np.abs(getattr(series, name)[away] / logged[column][away] - 1)
        assert np.median(difference) <= 1e-4, name
        assert difference.max() < 1e-3, name


@given(
    util=st.lists(st.floats(0, 100), min_size=6, max_size=40),
    temp=st.floats(20, 79),
    power=st.floats(1, 190),
)
def test_the_index_is_the_product_of_its_factors(util, temp, power):
    """E_th × E_pw, exactly, in both versions."""
    n = len(util)
    one = rle_v1(util, np.full(n, temp), np.full(n, power), metric=metric_v1("gpu"))
    assert one.raw == pytest.approx(one.thermal_factor * one.power_factor, rel=1e-12, abs=1e-15)
    two = rle_v2(util, np.full(n, temp), metric=metric_v2("gpu"))
    assert two.raw == pytest.approx(two.thermal_factor * two.power_factor, rel=1e-12, abs=1e-15)


def test_an_index_rises_when_the_device_is_throttled_and_so_is_no_efficiency():
    """Power falls with the clock, utilisation stays full: v1 calls the slower device better."""
    util, temp = np.full(60, 99.0), np.full(60, 75.0)
    free = rle_v1(util, temp, np.full(60, 190.0), metric=metric_v1("gpu"))
    throttled = rle_v1(util, temp, np.full(60, 130.0), metric=metric_v1("gpu"))
    assert throttled.raw[-1] > 1.3 * free.raw[-1]
    assert free.metric.label == INDEX_LABEL


def test_a_comparison_across_ids_is_refused():
    """v1 of one device minus v2 of another is a contrast of formulas."""
    util, temp = np.linspace(10, 90, 40), np.full(40, 60.0)
    one = rle_v1(util, temp, np.full(40, 100.0), metric=metric_v1("gpu"))
    with pytest.raises(RefusedError, match="different quantities"):
        index_difference(one, rle_v2(util, temp, metric=metric_v2("gpu")))


def test_a_comparison_across_parameters_is_refused_and_within_one_metric_allowed():
    """The same formula with another rated power is another metric; equal metrics have an interval."""
    rng = np.random.default_rng(1)
    util, temp = rng.uniform(10, 90, 200), np.full(200, 60.0)
    one, other = metric_v1("gpu"), metric_v1("gpu", rated_w=250.0)
    assert one.parameter_hash != other.parameter_hash
    a = rle_v1(util, temp, np.full(200, 100.0), metric=one)
    with pytest.raises(RefusedError, match="index, not an efficiency"):
        index_difference(a, rle_v1(util, temp, np.full(200, 100.0), metric=other))
    same = index_difference(a, rle_v1(util[::-1], temp, np.full(200, 100.0), metric=one))
    assert same.low < 0 < same.high


def test_a_parameter_that_does_not_exist_is_an_error():
    """Parameters are never parsed and ignored."""
    with pytest.raises(ValueError, match="no parameter rated_watts"):
        metric_v1("gpu", rated_watts=3.0)


# --- efficiency -------------------------------------------------------------------------------------------------------


def test_efficiency_shows_which_factor_failed():
    """Work per joule at 90 % of the reference, 80 % of the time free of events: 0.72, with both factors beside it."""
    work = Estimate.given(9.0, "token/J", u=0.1)
    reference = Estimate.given(10.0, "token/J", u=0.1)
    found = efficiency(work, reference, Estimate.given(0.8, "1", u=0.02), reference_name="calibrated run")
    assert found.value.value == pytest.approx(0.72)
    assert found.relative_work_per_joule.interval[0] < 0.9 < found.relative_work_per_joule.interval[1]
    assert found.event_free.u == 0.02


def test_a_reference_of_other_work_is_refused():
    """Tokens per joule over images per joule is nothing."""
    with pytest.raises(RefusedError, match="same kind of work"):
        efficiency(
            Estimate.given(9.0, "token/J", u=0.1), Estimate.given(10.0, "step/J", u=0.1), Estimate.exact(1.0), reference_name="r"
        )  # fmt: skip


def test_the_share_of_time_counts_real_time_not_rows():
    """Half of the rows in events, but those stand for a tenth of the time."""
    t_s = np.cumsum(np.where(np.arange(200) % 2 == 0, 0.1, 0.9))
    share = event_free_share(t_s, np.arange(200) % 2 == 1)  # each flagged row is followed by a short interval
    assert share.value == pytest.approx(0.9, abs=0.01)


def test_no_event_at_all_is_no_proof_of_none():
    """300 s without an event are ten independent looks: the lower end is far from 1."""
    share = event_free_share(np.arange(301.0), np.zeros(301, dtype=bool))
    assert share.value == 1.0
    assert share.low < 0.8


def test_events_in_runs_widen_the_interval():
    """Twenty flagged rows in one run say less than twenty scattered ones."""
    t_s = np.arange(400.0)
    run, scattered = np.zeros(400, dtype=bool), np.zeros(400, dtype=bool)
    run[100:140] = True
    scattered[::10] = True
    assert event_free_share(t_s, run).low < event_free_share(t_s, scattered).low - 0.03


def test_a_share_of_time_becomes_a_budget_line():
    """Its interval as a standard uncertainty, with the degrees of freedom of the effective number of rows."""
    share = event_free_share(np.arange(400.0), np.arange(400) % 10 == 0)
    (line,) = share_components(share, source="events|gpu")
    assert line.contribution == pytest.approx((share.high - share.low) / 3.92, rel=1e-3)
    assert line.dof == pytest.approx(share.n_eff - 1)


# --- headroom, drift, noise -------------------------------------------------------------------------------------------


def test_the_time_to_limit_of_a_steady_rise():
    """3 °C per minute, 10.05 °C below the limit: 201 s, inside of its interval, on a sensor of 1 °C."""
    t_s = np.arange(0, 240.0)
    found = headroom(t_s, np.floor(61 + 3 / 60 * t_s), limit_c=83.0, resolution_c=1.0, window_s=240.0)
    assert found.headroom_c == pytest.approx(11.0, abs=1.0)
    assert found.low_s <= 201 < found.high_s
    assert found.time_to_limit_s == pytest.approx(found.headroom_c / 3 * 60, rel=0.1)


def test_a_slope_that_may_be_zero_never_reaches_the_limit():
    """Flat readings of 1 °C: infinite, with a finite earliest time."""
    found = headroom(np.arange(180.0), np.full(180, 70.0), limit_c=83.0, resolution_c=1.0)
    assert math.isinf(found.time_to_limit_s)
    assert math.isinf(found.high_s)
    assert 0 < found.low_s < 13 / 0.3 * 60


def test_a_lone_outlier_does_not_move_the_time_to_limit():
    """A sensor that says 255 °C once is no fire."""
    t_s = np.arange(0, 240.0)
    clean = np.floor(61 + 3 / 60 * t_s)
    spoiled = clean.copy()
    spoiled[200] = 255.0
    honest = headroom(t_s, clean, limit_c=83.0, resolution_c=1.0)
    assert headroom(t_s, spoiled, limit_c=83.0, resolution_c=1.0).slope.value == pytest.approx(honest.slope.value, abs=0.2)


def test_the_window_is_seconds_of_real_time():
    """The same rise sampled unevenly: the slope is per second of time, not per row."""
    rng = np.random.default_rng(2)
    t_s = np.cumsum(rng.uniform(0.2, 3.0, 300))
    found = headroom(t_s, 40 + 0.05 * t_s, limit_c=83.0, resolution_c=0.01, window_s=120.0)
    assert found.slope.value == pytest.approx(3.0, abs=0.05)
    assert found.slope.window_s < 125


def test_too_few_readings_are_refused():
    """Two readings have no slope."""
    with pytest.raises(RefusedError, match="hold 2 readings"):
        headroom(np.array([0.0, 1.0]), np.array([50.0, 51.0]), limit_c=83.0, resolution_c=1.0)
