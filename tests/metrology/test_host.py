"""Host gates: each fires on a planted disturbance and is silent on a quiet host."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.metrology.host import HOST_LIMITS, bracketed_growth, canary_gate, gap_gate, host_gates

MS = 1_000_000
PERIOD = 100 * MS
N = 101
T = np.arange(N, dtype=np.int64) * PERIOD
WINDOW = (20 * PERIOD + 50 * MS, 70 * PERIOD + 50 * MS)
SPAN_NS = 51 * PERIOD
"""The window lies between samples 20 and 71."""


def quiet() -> dict[str, np.ndarray]:
    return {limit.channel: np.full(N, 1e9) for limit in HOST_LIMITS}


def gates(counters, *, window=WINDOW, cpu_count=2):
    found = host_gates(t_ns=T, counters=counters, t0_ns=window[0], t1_ns=window[1], cpu_count=cpu_count, scope="decode")
    return {gate.name: gate for gate in found}


def disturbed(channel, growth, *, after_sample=40):
    counters = quiet()
    counters[channel][after_sample:] += growth
    return counters


def test_a_quiet_host_passes_every_gate():
    """No growth, no refusal, no warning; the numbers are there all the same."""
    found = gates(quiet())
    assert len(found) == len(HOST_LIMITS) == 6
    assert all(gate.passed and gate.measured == 0 and gate.scope == "decode" and gate.remedy == "" for gate in found.values())


@pytest.mark.parametrize(
    ("channel", "name", "allowed_ns"),
    [
        ("own_wait_ns", "run-queue wait", 0.02 * SPAN_NS),
        ("pressure_cpu_ns", "CPU pressure", 0.02 * SPAN_NS),
        ("foreign_cpu_ns", "foreign CPU", 0.05 * SPAN_NS),
        ("steal_ns", "steal", 0.01 * SPAN_NS * 2),
    ],
)
def test_a_share_fires_above_its_limit_and_not_at_it(channel, name, allowed_ns):
    """Boundary pair on each side; only foreign CPU is a warning, the rest refuse."""
    assert gates(disturbed(channel, allowed_ns * 0.9999))[name].passed
    fired = gates(disturbed(channel, allowed_ns * 1.0001))[name]
    assert not fired.passed
    assert fired.refuses is (name != "foreign CPU")
    assert fired.remedy
    assert "limit" in fired.reason


@pytest.mark.parametrize(("channel", "name"), [("cgroup_throttled_ns", "CPU quota"), ("major_faults", "major page faults")])
def test_quota_and_faults_refuse_at_the_first_event(channel, name):
    """Zero passes, one does not."""
    assert gates(disturbed(channel, 0))[name].passed
    assert gates(disturbed(channel, 1))[name].refuses


def test_the_reason_says_what_happened_how_much_and_the_limit():
    """One sentence with value, limit and unit, in words."""
    found = gates(disturbed("own_wait_ns", 0.711 * SPAN_NS))
    assert found["run-queue wait"].reason == "own threads were ready but had no CPU for 71.10% of the time (limit 2%)"
    assert gates(disturbed("major_faults", 3))["major page faults"].reason == "memory had to come from disk 3 times (limit 0)"
    throttled = gates(disturbed("cgroup_throttled_ns", 5e6))["CPU quota"]
    assert throttled.reason == "the CPU quota stopped this container for 5 ms (limit 0 ms)"
    assert throttled.measured == pytest.approx(0.005)


@pytest.mark.parametrize("after_sample", [20, 72, 100])
def test_what_happened_outside_the_brackets_does_not_count(after_sample):
    """Growth before the sample at or before the window, or after the one behind it, is not the window's."""
    assert gates(disturbed("own_wait_ns", 1e9, after_sample=after_sample))["run-queue wait"].passed


@pytest.mark.parametrize("after_sample", [21, 71])
def test_what_happened_between_bracket_and_window_counts(after_sample):
    """The bracketing samples belong to the window: it is not known on which side of its edge the disturbance was."""
    assert gates(disturbed("own_wait_ns", 1e9, after_sample=after_sample))["run-queue wait"].refuses


@pytest.mark.parametrize("window", [(-1, 5 * PERIOD), (95 * PERIOD, 100 * PERIOD + 1)])
def test_a_window_without_a_sample_on_each_side_is_refused(window):
    """No evidence is not quiet; and a warning stays a warning."""
    found = gates(quiet(), window=window)
    assert not any(gate.passed for gate in found.values())
    assert found["run-queue wait"].refuses
    assert not found["foreign CPU"].refuses
    assert "no valid sample on each side" in found["steal"].reason


def test_a_counter_that_runs_back_is_refused():
    """A reset counter says nothing about its window."""
    found = gates(disturbed("pressure_cpu_ns", -5e8))["CPU pressure"]
    assert found.refuses
    assert "ran back" in found.reason


def test_missing_reads_are_bridged_by_their_neighbours():
    """A failed read beside the window moves the bracket outwards, where the counter is known."""
    counters = disturbed("own_wait_ns", 1e9, after_sample=19)
    assert gates(counters)["run-queue wait"].passed
    counters["own_wait_ns"][19:21] = np.nan
    assert gates(counters)["run-queue wait"].refuses


def test_a_channel_the_host_has_not_is_a_visible_warning():
    """What cannot be checked neither passes nor refuses."""
    counters = quiet()
    del counters["pressure_cpu_ns"]
    gate = gates(counters)["CPU pressure"]
    assert not gate.passed
    assert not gate.refuses
    assert "no channel 'pressure_cpu_ns'" in gate.reason


def test_a_window_must_not_end_before_it_begins():
    """The caller's mistake is named."""
    with pytest.raises(ValueError, match="'t1_ns' must not lie before 't0_ns'"):
        gates(quiet(), window=(5, 4))


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.one_of(st.just(np.nan), st.floats(0, 1e9))), min_size=1, max_size=40),
    st.integers(-100, 5000),
    st.integers(0, 5000),
)
def test_growth_is_between_valid_samples_that_enclose_the_window(steps, t0, length):
    """The result equals a plain search, and its span is never shorter than the window."""
    t = np.cumsum([step for step, _ in steps])
    counter = np.array([value for _, value in steps])
    valid = [(int(a), float(v)) for a, v in zip(t, counter, strict=True) if np.isfinite(v)]
    before = [pair for pair in valid if pair[0] <= t0]
    after = [pair for pair in valid if pair[0] >= t0 + length]
    expected = None
    if before and after and before[-1][0] != after[0][0]:
        expected = (after[0][1] - before[-1][1], after[0][0] - before[-1][0])
        assert expected[1] >= length
    assert bracketed_growth(t, counter, t0, t0 + length) == expected


@pytest.mark.parametrize(("before_s", "after_s"), [(0.010, 0.0104), (0.0104, 0.010), (0.010, 0.010)])
def test_a_steady_canary_is_silent(before_s, after_s):
    """A change of 4 % passes in both directions."""
    assert canary_gate(before_s, after_s).passed


@pytest.mark.parametrize(("before_s", "after_s", "word"), [(0.010, 0.0106, "slower"), (0.0106, 0.010, "faster")])
def test_a_canary_that_changed_speed_refuses(before_s, after_s, word):
    """A change of 6 % refuses in both directions, and says which."""
    gate = canary_gate(before_s, after_s)
    assert gate.refuses
    assert gate.measured == pytest.approx(0.06)
    assert word in gate.reason
    assert gate.remedy


def test_a_canary_without_duration_is_a_mistake():
    """Zero is not a duration."""
    with pytest.raises(ValueError, match="must be > 0"):
        canary_gate(0.0, 0.01)


def test_a_gap_fires_beyond_two_and_a_half_periods():
    """Boundary pair, and a gap elsewhere is not the window's."""

    def late(periods):
        t = T.copy()
        t[50:] += round((periods - 1) * PERIOD)
        return t

    assert gap_gate(late(2.5), period_ns=PERIOD, t0_ns=WINDOW[0], t1_ns=WINDOW[1], scope="w").passed
    fired = gap_gate(late(2.51), period_ns=PERIOD, t0_ns=WINDOW[0], t1_ns=WINDOW[1], scope="w")
    assert fired.refuses
    assert "2.51 periods of 100 ms (limit 2.5)" in fired.reason
    assert gap_gate(late(9), period_ns=PERIOD, t0_ns=PERIOD, t1_ns=40 * PERIOD, scope="w").passed


@pytest.mark.parametrize(("t0_ns", "t1_ns"), [(-5, PERIOD), (99 * PERIOD, 101 * PERIOD)])
def test_a_gap_gate_needs_samples_on_both_sides(t0_ns, t1_ns):
    """A window the sampler did not enclose fails."""
    gate = gap_gate(T, period_ns=PERIOD, t0_ns=t0_ns, t1_ns=t1_ns, scope="w")
    assert gate.refuses
    assert gate.measured is None
