"""Coupling: honest pairs, lags with a sign, chance from circular shifts, words that are earned, and the design."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rle_recordings import JOINT, published, session_columns, training
from scipy import signal

from pytest_physics.metrology.coupling import (
    circular_shift_test,
    correlation,
    couple,
    effective_n,
    identical,
    lag_table,
    needed_pairs,
    replicate_null,
    steady_zone_s,
    strength,
    symmetry_gate,
)
from pytest_physics.metrology.matching import Aligned, align, nearest
from pytest_physics.metrology.refusal import RefusedError


def ar(rng, n, rho):
    """AR(1) noise of unit variance."""
    return signal.lfilter([1], [1, -rho], rng.standard_normal(n + 200))[200:] * np.sqrt(1 - rho**2)


def aligned(**columns):
    n = len(next(iter(columns.values())))
    return Aligned(t_s=np.arange(n) * 1.0, columns=columns, rows=n, matched=n, distinct=n, tolerance_s=1.0, period_s=1.0)


# --- the recordings ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=JOINT)
def joint(request):
    """A joint session: log, GPU telemetry, and what was published of it."""
    return training(request.param), session_columns(request.param, "gpu"), published(request.param)


def test_published_correlations_are_recomputed(joint):
    """Every step against its nearest row, a row used two or three times: the published r to 1e-4."""
    log, gpu, said = joint
    index = nearest(log["t_s"], gpu["t_s"], tolerance_s=2.0)
    pairs = {
        "gpu_grad_rle": ("grad_norm", "rle_smoothed"),
        "gpu_temp_grad": ("grad_norm", "temp_c"),
        "gpu_loss_rle": ("loss", "rle_smoothed"),
    }
    for name, (step, row) in pairs.items():
        known = np.isfinite(log[step])
        r = np.corrcoef(log[step][known], gpu[row][index][known])[0, 1]
        assert r == pytest.approx(said["correlations"][name], abs=1e-4), name
    assert len(np.unique(index)) in range(80, 83)


def test_no_published_correlation_is_supported(joint):
    """With each row once, effective n and circular shifts: the verdict is "not supported" for all three, at lag 0 and over lags."""
    log, gpu, _ = joint
    found = align(
        log["t_s"], {"grad": log["grad_norm"], "loss": log["loss"]}, gpu["t_s"], {"rle": gpu["rle_smoothed"], "temp": gpu["temp_c"]}
    )
    for a, b in (("grad", "rle"), ("temp", "grad"), ("loss", "rle")):
        for max_lag_s in (0.0, 3.0):
            verdict = couple(found, a, b, max_lag_s=max_lag_s)
            assert verdict.word == "not supported", verdict.reason
            assert not verdict.supported


@pytest.mark.parametrize(("session", "n_eff", "interval", "p"), [
    (JOINT[0], 39, (-0.05, 0.54), 0.12), (JOINT[1], 21, (-0.24, 0.59), 0.81), (JOINT[2], 53, (-0.49, 0.02), 0.08),
])  # fmt: skip
def test_effective_n_of_the_published_sessions(session, n_eff, interval, p):
    """RLE study §4: 200 rows are 80 distinct ones, worth 39, 21 and 53 pairs; intervals and shift probabilities follow."""
    log, gpu = training(session), session_columns(session, "gpu")
    found = couple(align(log["t_s"], {"grad": log["grad_norm"]}, gpu["t_s"], {"rle": gpu["rle_smoothed"]}), "grad", "rle")
    raw = found.analyses["as measured"]
    assert raw.pearson.n == pytest.approx(80, abs=1)
    assert raw.pearson.n_eff == pytest.approx(n_eff, abs=0.6)
    assert (raw.pearson.low, raw.pearson.high) == pytest.approx(interval, abs=0.011)
    assert raw.surrogates.p == pytest.approx(p, abs=0.011)


def test_two_trends_are_judged_without_them(joint):
    """The published temp ~ grad_norm of −0.49 to −0.75: both drift, and the primary analyses are the detrended and the differences."""
    log, gpu, _ = joint
    found = couple(align(log["t_s"], {"grad": log["grad_norm"]}, gpu["t_s"], {"temp": gpu["temp_c"]}), "temp", "grad")
    assert found.analyses["as measured"].pearson.r < -0.45
    assert found.analyses["as measured"].pearson.n_eff < 10
    assert set(found.primary) == {"detrended", "first differences"}
    assert not found.supported


def test_the_published_lag_table_is_symmetric_and_refused(joint):
    """Both sides of zero shift the same way: k and −k compare the same pairs, so nobody leads."""
    log, gpu, said = joint
    y = gpu["rle_smoothed"][nearest(log["t_s"], gpu["t_s"], tolerance_s=2.0)]
    known = np.isfinite(log["grad_norm"])
    x, y = log["grad_norm"][known], y[known]
    n, lags = x.size, np.arange(-3, 4)
    legacy = [np.corrcoef(x[abs(k) :], y[: n - abs(k)])[0, 1] for k in lags]
    assert max(np.abs(legacy)) == pytest.approx(abs(said["peak_correlation"]), abs=1e-4)
    gate = symmetry_gate(lags, legacy)
    assert not gate.passed
    assert "cannot say who leads" in gate.reason
    honest = lag_table(x, y, max_lag=3)
    assert symmetry_gate(honest.lags, honest.r).passed


def test_the_naive_local_log_is_refused_with_its_offset(joint):
    """0 of 201 rows matched: refused, five hours named and not applied."""
    log, gpu, _ = joint
    with pytest.raises(RefusedError, match=r"0 of 201 rows .*-5 h apart"):
        align(log["iso_s"], {"grad": log["grad_norm"]}, gpu["t_s"], {"rle": gpu["rle_smoothed"]})


def test_the_identical_training_logs_are_replicates():
    """Loss and gradient norm equal to the last bit in every session, the "inference" one included."""
    logs = {name: np.column_stack([training(name)[key] for key in ("step", "loss", "grad_norm")]) for name in JOINT}
    assert identical(logs) == (JOINT,)


def test_the_noise_floor_of_identical_runs():
    """Values of r from −0.26 to +0.24 of one and the same training: replicates show it as noise."""
    responses = []
    for name in JOINT:
        log, gpu = training(name), session_columns(name, "gpu")
        responses.append(gpu["rle_smoothed"][nearest(log["t_s"], gpu["t_s"], tolerance_s=2.0)])
    found = replicate_null(training(JOINT[0])["grad_norm"], responses)
    assert found.low < 0 < found.high
    assert not found.supported
    assert found.noise_floor > 0.1


# --- alignment --------------------------------------------------------------------------------------------------------


def test_the_faster_series_is_averaged_and_rows_are_counted_once():
    """Ten steps a second against one row a second: 50 pairs, each a mean of about ten steps."""
    t = np.arange(0, 49.5, 0.1)
    found = align(t, {"step": t}, np.arange(50.0), {"row": np.arange(50.0)})
    assert (found.rows, found.matched, found.distinct) == (495, 495, 50)
    assert found.columns["step"][10] == pytest.approx(10.0, abs=0.06)


def test_the_slower_steps_are_the_base_of_fast_telemetry():
    """Steps of 5 s, telemetry at 2 Hz: one pair per step."""
    t = np.arange(0, 100, 0.5)
    found = align(np.arange(2.5, 98, 5.0), {"step": np.arange(20.0)[: len(np.arange(2.5, 98, 5.0))]}, t, {"row": t})
    assert found.distinct == found.rows
    assert found.columns["row"] == pytest.approx(found.t_s, abs=0.3)


@pytest.mark.parametrize(("lost", "refused"), [(9, False), (11, True)])
def test_fewer_than_nine_in_ten_matched_is_refused(lost, refused):
    """Boundary pair on 100 rows."""
    steps, rows = np.arange(100.0), np.arange(100.0 - lost)
    columns = {"row": rows}
    if refused:
        with pytest.raises(RefusedError, match="limit 90%"):
            align(steps, {"step": steps}, rows, columns)
    else:
        assert align(steps, {"step": steps}, rows, columns).matched == 100 - lost


def test_different_clocks_are_refused():
    """Instants of two clocks cannot be compared, whatever their values."""
    t = np.arange(20.0)
    with pytest.raises(RefusedError, match="different clocks"):
        align(t, {"a": t}, t, {"b": t}, clocks=("perf_counter", "virtual"))


def test_times_that_run_backwards_are_refused():
    """Sorting hides a second writer."""
    t = np.arange(20.0)
    with pytest.raises(RefusedError, match="backwards"):
        align(t[::-1], {"a": t}, t, {"b": t})


def test_a_step_without_value_costs_its_pair_only():
    """A missing value in one column is left out of the pairs that need it."""
    t, rng = np.arange(60.0), np.random.default_rng(0)
    a = rng.normal(size=60)
    a[5] = np.nan
    found = couple(align(t, {"a": a}, t, {"b": rng.normal(size=60)}), "a", "b")
    assert found.analyses["as measured"].pearson.n == 59


# --- lags -------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(lag=st.integers(-6, 6), seed=st.integers(0, 10_000))
def test_a_known_lag_is_found_with_its_sign(lag, seed):
    """At lag > 0 a leads: b(t + lag) = a(t) + noise."""
    rng = np.random.default_rng(seed)
    base = ar(rng, 420, 0.6)
    a, b = base[10:410], base[10 - lag : 410 - lag] + 0.3 * rng.normal(size=400)
    assert abs(lag_table(a, b, max_lag=8).peak_lag - lag) <= 1
    assert lag_table(a, b, max_lag=8, period_s=0.5).peak_lag_s == pytest.approx(lag * 0.5, abs=0.5)


def test_more_lags_than_pairs_are_refused():
    """A table of lags needs pairs at every lag."""
    with pytest.raises(RefusedError, match="search fewer lags"):
        lag_table(np.arange(20.0), np.arange(20.0) ** 2, max_lag=15)


# --- chance -----------------------------------------------------------------------------------------------------------


def test_effective_n_of_white_and_of_slow_series():
    """White: all pairs; AR(1) with ρ = 0.9 twice: about a tenth (1 − 0.81) / (1 + 0.81)."""
    rng = np.random.default_rng(7)
    white = np.median([effective_n(rng.normal(size=400), rng.normal(size=400)) for _ in range(50)])
    slow = np.median([effective_n(ar(rng, 2000, 0.9), ar(rng, 2000, 0.9)) for _ in range(50)])
    assert white > 330
    assert slow == pytest.approx(2000 * 0.19 / 1.81, rel=0.2)


def test_no_shift_can_go_below_the_floor():
    """Eighty pairs and seven lags: 7/80 whatever the data, and the gate says so."""
    x = np.random.default_rng(1).normal(size=80)
    found = circular_shift_test(x, x, max_lag=3)
    assert found.p == pytest.approx(7 / 80)
    assert found.smallest_p == pytest.approx(7 / 80)
    verdict = couple(aligned(a=x, b=x + 0.01 * np.random.default_rng(2).normal(size=80)), "a", "b", max_lag_s=3.0)
    gate = next(gate for gate in verdict.gates if gate.name == "room for surrogates")
    assert not gate.passed
    assert "at least 140 pairs" in gate.remedy
    assert not verdict.supported


def test_surrogates_of_autocorrelated_noise_find_nothing_too_often():
    """A small version of the study: AR(1) with ρ = 0.9, false positives well below a tenth where the naive test has a half."""
    rng = np.random.default_rng(11)
    pairs = [(ar(rng, 300, 0.9), ar(rng, 300, 0.9)) for _ in range(300)]
    assert 0.01 < np.mean([circular_shift_test(a, b).p <= 0.05 for a, b in pairs]) < 0.09
    naive = np.mean([abs(np.corrcoef(a, b)[0, 1]) > 1.96 / np.sqrt(300) for a, b in pairs])
    assert naive > 0.4


def test_a_planted_coupling_is_found_at_the_recommended_length():
    """A small version of the study: r = 0.5 between AR(1) series of 0.9."""
    rng = np.random.default_rng(12)
    n = round(steady_zone_s(0.5, period_s=1.0, lag1=(0.9, 0.9)))
    found = []
    for _ in range(60):
        a = ar(rng, n, 0.9)
        found.append(couple(aligned(a=a, b=0.5 * a + np.sqrt(0.75) * ar(rng, n, 0.9)), "a", "b").supported)
    assert np.mean(found) >= 0.85


# --- load, words, replicates ------------------------------------------------------------------------------------------


def test_a_correlation_through_the_load_belongs_to_the_load():
    """Two series that both follow the load are coupled, until the load is given."""
    rng = np.random.default_rng(13)
    load = ar(rng, 600, 0.8)
    series = aligned(a=load + 0.5 * rng.normal(size=600), b=load + 0.5 * rng.normal(size=600), load=load)
    assert couple(series, "a", "b").word in {"moderate", "strong"}
    given_load = couple(series, "a", "b", given=["load"])
    assert not given_load.supported
    assert given_load.reason.startswith("not supported: given load, r = ")


def test_a_coupling_beyond_the_load_survives_it():
    """The load explains a part only."""
    rng = np.random.default_rng(14)
    load, common = ar(rng, 600, 0.8), rng.normal(size=600)
    series = aligned(a=load + common + 0.5 * rng.normal(size=600), b=load + common + 0.5 * rng.normal(size=600), load=load)
    assert couple(series, "a", "b", given=["load"]).supported


@pytest.mark.parametrize(("low", "high", "word"), [
    (-0.01, 0.9, "not supported"), (0.01, 0.9, "weak"), (0.29, 0.95, "weak"), (0.31, 0.95, "moderate"), (-0.95, -0.31, "moderate"),
    (0.71, 0.95, "strong"), (-0.9, -0.71, "strong"), (0.69, 0.95, "moderate"),
])  # fmt: skip
def test_a_word_needs_an_interval_beyond_the_band_below(low, high, word):
    """Boundaries of the words."""
    assert strength(low, high) == word


def test_trends_alone_are_no_coupling():
    """A warming device and a falling loss: r below −0.9, not supported."""
    rng = np.random.default_rng(15)
    t = np.arange(300.0)
    found = couple(
        aligned(temp=50 + 0.03 * t + rng.normal(0, 0.5, 300), loss=3 * np.exp(-t / 120) + rng.normal(0, 0.05, 300)), "temp", "loss"
    )
    assert found.analyses["as measured"].pearson.r < -0.85
    assert not found.supported


def test_a_constant_correlates_with_nothing():
    """It is refused, not given r = 0 or NaN."""
    with pytest.raises(RefusedError, match="constant"):
        correlation(np.full(50, 50.0), np.arange(50.0))


def test_ranks_withstand_an_outlier():
    """Spearman beside Pearson: one wild value makes the one, not the other."""
    rng = np.random.default_rng(16)
    a, b = rng.normal(size=200), rng.normal(size=200)
    a[0] = b[0] = 100.0
    assert correlation(a, b).r > 0.9
    assert abs(correlation(a, b, method="Spearman").r) < 0.2


def test_replicates_show_a_real_coupling_and_hide_none():
    """Four replicates of one driver, with coupling and without."""
    rng = np.random.default_rng(17)
    x = ar(rng, 300, 0.5)
    assert replicate_null(x, [0.6 * x + rng.normal(size=300) for _ in range(4)]).supported
    assert not replicate_null(x, [ar(rng, 300, 0.5) for _ in range(4)]).supported
    with pytest.raises(RefusedError, match="at least three times"):
        replicate_null(x, [x, x])


# --- design -----------------------------------------------------------------------------------------------------------


def test_the_guide_knows_the_published_sizes():
    """To see r = 0.3 with 80 % power needs 84 or 85 independent pairs (standard tables)."""
    assert needed_pairs(0.3, power=0.8) == pytest.approx(84.9, abs=1.0)
    assert needed_pairs(0.3, power=0.8, lags=7) > needed_pairs(0.3, power=0.8)


def test_the_steady_zone_grows_with_correlation_and_lags():
    """ρ = 0.9 in both costs (1 + 0.81) / (1 − 0.81) times the length; a 7.4 s session is far below any of it."""
    white, slow = (steady_zone_s(0.3, period_s=1.0, lag1=(rho, rho)) for rho in (0.0, 0.9))
    assert slow / white == pytest.approx(1.81 / 0.19)
    assert steady_zone_s(0.3, period_s=1.0, max_lag_s=5) > white > 7.4
    with pytest.raises(ValueError, match="between 0 and 1"):
        needed_pairs(0.0)
