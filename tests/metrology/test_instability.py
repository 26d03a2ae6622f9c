"""Event rules: what fires, what does not, what cannot; the legacy rules with their published numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rle_recordings import JOINT, columns, session_columns

from pytest_physics.metrology.instability import (
    COLLAPSE_V02,
    COLLAPSE_V03,
    COLLAPSE_V2,
    INSTABILITY,
    RULES,
    Telemetry,
    decaying_reference,
    event_rate,
    events,
    exposure_s,
    flag_share,
    hysteresis,
    reach,
    reported,
)
from pytest_physics.metrology.instability_controls import controls, rule_numbers


def recorded(logged):
    return Telemetry(
        t_s=logged["t_s"], utilisation_ratio=logged["util_pct"] / 100, temperature_c=logged["temp_c"], power_w=logged["power_w"]
    )


def loaded(n=600, **channels):
    """Full load at one row per second, everything else steady."""
    steady = {"clock_hz": np.full(n, 1.8e9), "reasons": np.zeros(n)}
    return Telemetry(t_s=np.arange(n) * 1.0, utilisation_ratio=np.full(n, 0.98), **{**steady, **channels})


def lowered(n=600, *, share=0.8, start=300, stop=360):
    values = np.ones(n)
    values[start:stop] = share
    return values


# --- the recordings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session", JOINT)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_v2_rule_is_a_function_of_utilisation_alone(session, device):
    """In every row: the flag equals U_t < 0.6487 × max(U of the last five), whatever temperature and power were."""
    logged = session_columns(session, device)
    util = logged["util_pct"]
    recent = np.array([util[max(0, k - 4) : k + 1].max() for k in range(util.size)])
    flags = (util < 0.65 * 0.998 * recent) & (np.arange(util.size) >= 4)
    assert np.array_equal(flags, logged["collapse"] == 1)
    other = Telemetry(t_s=logged["t_s"], utilisation_ratio=util / 100, temperature_c=np.full(util.size, 30.0))
    assert np.array_equal(COLLAPSE_V2(other).flags[4:], flags[4:])


def test_the_v2_rule_fires_on_an_idle_cpu_and_hardly_on_a_training_one():
    """About half of the idle rows (54 % over five sessions), 3 % of the training rows: the reverse of its purpose."""
    idle, training = [], []
    for name in JOINT:
        logged = session_columns(name, "cpu")
        busy = np.convolve(logged["util_pct"], np.ones(15) / 15, mode="same") > 40
        far = np.convolve(busy, np.ones(21), mode="same")
        idle.append(logged["collapse"][4:][(far == 0)[4:]])
        training.append(logged["collapse"][(far == 21)])
    found = flag_share(np.concatenate(idle) == 1)
    assert found.value == pytest.approx(0.54, abs=0.05)
    assert found.low <= 0.541 <= found.high
    assert np.mean(np.concatenate(training)) < 0.06


def test_three_rules_on_one_recording_disagree_as_published():
    """RLE study §2: gaming GPU, 2160 rows: v0.2 40.6 %, v0.3 0 %, v2 3.8 %."""
    telemetry = recorded(columns("sessions/rle_20251028_08.csv", "gpu"))
    shares = {rule.id: flag_share(rule(telemetry).flags).value for rule in (COLLAPSE_V02, COLLAPSE_V03, COLLAPSE_V2)}
    assert shares == {
        "rle/collapse-v0.2": pytest.approx(0.406, abs=5e-4), "rle/collapse-v0.3": 0.0, "rle/collapse-v2": pytest.approx(0.038, abs=5e-4)
    }  # fmt: skip


def test_the_v1_rule_is_out_of_reach_at_one_hertz_on_one_degree():
    """244 rows satisfied gate and drop; it needs seven warmer than the last in a row, which a sensor of 1 °C at 1 Hz never gives."""
    telemetry = recorded(columns("sessions/rle_20251028_08.csv", "gpu"))
    outcome = COLLAPSE_V03(telemetry)
    found = reach(COLLAPSE_V03, telemetry, outcome)
    assert outcome.qualifying.sum() == 244
    assert not found.reachable
    assert found.longest_run < found.needed_rows == 7
    assert found.reason.startswith("cannot fire at 1 s per row")


# --- the rule ---------------------------------------------------------------------------------------------------------


def test_a_slowdown_that_the_driver_reports_is_one_event():
    """One minute at 80 % of the clock with a reason: one event, with start, duration and evidence."""
    dip = lowered()
    telemetry = loaded(clock_hz=1.8e9 * dip, reasons=np.where(dip < 1, 0x20, 0.0))
    found = events(telemetry, INSTABILITY(telemetry))
    assert len(found) == 1
    assert found[0].start_s == pytest.approx(300, abs=3)
    assert found[0].duration_s == pytest.approx(60, abs=6)
    assert found[0].evidence == ("driver reports a slowdown",)


def test_counters_of_throttled_time_are_evidence():
    """Where the mask misses it, the counter does not."""
    dip = lowered()
    telemetry = loaded(clock_hz=1.8e9 * dip, throttled_ns={"thermal_ns": np.cumsum(np.where(dip < 1, 1e8, 0.0))})
    assert events(telemetry, INSTABILITY(telemetry))[0].evidence == ("thermal_ns grows",)


def test_a_work_rate_that_falls_with_the_clock_is_an_event_without_any_driver():
    """The clock is the evidence of the work rate; a work rate alone is none (another input may have changed)."""
    dip = lowered()
    with_clock = loaded(work_rate=50 * dip, clock_hz=1.8e9 * dip, reasons=None)
    assert events(with_clock, INSTABILITY(with_clock))[0].evidence == ("clock fell",)
    without = loaded(work_rate=50 * dip, reasons=None)
    assert not INSTABILITY(without).flags.any()


def test_rows_in_a_gap_are_judged_by_no_rule():
    """They are neither flagged nor exposure nor counted; what was flagged on both sides of a gap is one event."""
    dip = lowered()
    seen = np.ones(600, dtype=bool)
    seen[320:340] = seen[500:550] = False
    telemetry = loaded(clock_hz=1.8e9 * dip, reasons=np.where(dip < 1, 0x20, 0.0), seen=seen)
    outcome = INSTABILITY(telemetry)
    assert not (outcome.flags | outcome.loaded)[~seen].any()
    assert outcome.judged.size == 530
    assert flag_share(outcome.judged).flagged == pytest.approx(40, abs=4)
    assert exposure_s(telemetry, outcome) == 529
    assert len(events(telemetry, outcome)) == 1


def test_a_slower_clock_without_evidence_is_no_event():
    """Somebody lowered the clock, or the work changed: not what this rule is about."""
    telemetry = loaded(clock_hz=1.8e9 * lowered())
    assert not INSTABILITY(telemetry).flags.any()


def test_an_idle_device_has_no_events_and_no_exposure():
    """A clock that falls because the work ended is no instability: "not testable", not 0."""
    n = 600
    telemetry = Telemetry(
        t_s=np.arange(n) * 1.0, utilisation_ratio=np.full(n, 0.05), clock_hz=1.8e9 * lowered(n, share=0.3), reasons=np.full(n, 0x20)
    )
    outcome = INSTABILITY(telemetry)
    assert not outcome.flags.any()
    rate = event_rate(0, exposure_s(telemetry, outcome))
    assert rate.per_hour is None
    assert str(rate) == "not testable: the device was never loaded"


@pytest.mark.parametrize(("share", "fires"), [(0.935, False), (0.905, True)])
def test_the_drop_fraction_on_both_sides(share, fires):
    """0.92 of the reference, less what it decayed meanwhile."""
    dip = lowered(share=share)
    telemetry = loaded(clock_hz=1.8e9 * dip, reasons=np.where(dip < 1, 0x20, 0.0))
    assert INSTABILITY(telemetry).flags.any() == fires


def test_a_level_between_drop_and_recovery_keeps_an_event_open():
    """Hysteresis: 0.94 begins none and ends none."""
    dip = lowered(stop=330)
    dip[330:400] = 0.94
    telemetry = loaded(clock_hz=1.8e9 * dip, reasons=np.where(dip < 1, 0x20, 0.0))
    found = events(telemetry, INSTABILITY(telemetry))
    assert len(found) == 1
    assert found[0].duration_s > 90


def test_a_lasting_slowdown_does_not_become_the_new_normal():
    """An hour at 80 %: one event that lasts the hour, because the reference does not fade while the driver reports it."""
    dip = lowered(4500, stop=3900)
    telemetry = loaded(4500, clock_hz=1.8e9 * dip, reasons=np.where(dip < 1, 0x20, 0.0))
    found = events(telemetry, INSTABILITY(telemetry))
    assert len(found) == 1
    assert found[0].duration_s > 3500


def test_an_event_ends_with_its_evidence():
    """The clock stays low and the driver says that all is well: somebody set it."""
    dip = lowered(stop=600)
    reasons = np.where((dip < 1) & (np.arange(600) < 400), 0x20, 0.0)
    telemetry = loaded(clock_hz=1.8e9 * dip, reasons=reasons)
    assert events(telemetry, INSTABILITY(telemetry))[0].duration_s == pytest.approx(100, abs=6)


@pytest.mark.parametrize(("seconds", "fires"), [(2, False), (8, True)])
def test_a_blip_is_shorter_than_the_hold(seconds, fires):
    """Three seconds must hold, whatever the sampling period."""
    for period_s in (0.1, 1.0):
        n = round(600 / period_s)
        dip = lowered(n, start=round(300 / period_s), stop=round((300 + seconds) / period_s))
        telemetry = Telemetry(
            t_s=np.arange(n) * period_s, utilisation_ratio=np.full(n, 0.98), clock_hz=1.8e9 * dip, reasons=np.where(dip < 1, 0x20, 0.0)
        )
        assert INSTABILITY(telemetry).flags.any() == fires, period_s


def test_only_slowdowns_count_as_reported():
    """Idle, application clocks and nothing are no slowdown; thermal, power cap and power brake are; a failed read is nothing."""
    assert reported([0x0, 0x1, 0x2, 0x20, 0x4, 0x80, np.nan]).tolist() == [False, False, False, True, True, True, False]


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.lists(st.booleans(), min_size=60, max_size=60))
def test_an_event_begins_and_ends_only_by_its_conditions(begins, ends):
    """Without begin no row is flagged; each flagged run starts at a row that begins."""
    n = len(begins)
    flags = hysteresis(np.arange(n) * 1.0, np.array(begins), np.array(ends[:n]), hold_s=0.0)
    starts = np.flatnonzero(flags & ~np.concatenate([[False], flags[:-1]]))
    assert all(begins[k] for k in starts)
    assert flags.any() == any(begins)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=50))
def test_the_reference_is_never_below_the_level(level):
    """And never above the highest so far."""
    values = np.array(level)
    reference = decaying_reference(np.arange(values.size) * 1.0, values, 900.0)
    assert np.all(reference >= values)
    assert np.all(reference <= np.maximum.accumulate(values))


# --- rates and numbers ------------------------------------------------------------------------------------------------


def test_a_rate_has_its_exact_interval():
    """Garwood: 0 events in an hour 0 to 3.69; 3 events 0.62 to 8.77."""
    assert event_rate(0, 3600).high == pytest.approx(3.689, abs=1e-3)
    three = event_rate(3, 3600)
    assert (three.low, three.high) == (pytest.approx(0.6187, abs=1e-3), pytest.approx(8.767, abs=1e-3))
    assert math.isinf(event_rate(0, 0.0).high)


def test_every_rule_ships_with_its_numbers():
    """At 1 Hz on 1 °C: ours is quiet on idle and noise and finds throttling; the legacy rules are blind, deaf or out of reach."""
    numbers = rule_numbers(seed=3)
    assert set(numbers) == set(RULES)
    ours = numbers["instability/1"]
    assert ours.idle.flagged == 0
    assert ours.noise.value < 0.01
    assert ours.throttling.rate >= 0.85
    assert ours.reach.reachable
    assert numbers["rle/collapse-v2"].idle.value == pytest.approx(0.54, abs=0.04)
    assert numbers["rle/collapse-v2"].throttling.found == 0
    assert not numbers["rle/collapse-v0.3"].reach.reachable
    assert numbers["rle/collapse-v0.2"].noise.value > 0.5


def test_controls_are_deterministic_and_throttle_only_where_they_say():
    """Seeded; utilisation shows nothing of the throttling."""
    one, two = controls(seed=5), controls(seed=5)
    assert np.array_equal(one.throttled.clock_hz, two.throttled.clock_hz)
    inside = np.any([(one.throttled.t_s >= a) & (one.throttled.t_s < b) for a, b in one.episodes_s], axis=0)
    assert np.array_equal(reported(one.throttled.reasons), inside)
    assert abs(one.throttled.utilisation_ratio[inside].mean() - one.throttled.utilisation_ratio[~inside].mean()) < 0.005
