"""The strict grid and the statistics computed from a trace."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.sampling.schedule import Grid
from pytest_physics.sampling.statistics import DT_EDGES_PERIODS, sampler_statistics
from pytest_physics.sampling.trace import Trace, row_dtype

MS = 1_000_000
grids = st.builds(
    lambda origin, period: Grid(origin_ns=origin, period_ns=period),
    st.integers(-(10**15), 10**15),
    st.integers(1, 10**10),
)


def trace_of(ticks, *, period_ns=100 * MS, origin_ns=0, late_ns=0, channels=("power_w",)) -> Trace:
    rows = np.zeros(len(ticks), row_dtype(channels))
    rows["tick"] = ticks
    rows["t_before_ns"] = origin_ns + np.asarray(ticks, dtype=np.int64) * period_ns + late_ns
    rows["t_after_ns"] = rows["t_before_ns"] + 1000
    return Trace(instrument="gpu", rows=rows, period_ns=period_ns)


def simulate(grid: Grid, durations: list[int], start_ns: int) -> tuple[list[int], list[int]]:
    """Ticks taken and their start times, for reads that last ``durations``."""
    now, tick = start_ns, grid.tick_at_or_after(start_ns)
    ticks, starts = [], []
    for duration in durations:
        now = max(now, grid.time_ns(tick))
        ticks.append(tick)
        starts.append(now)
        now += duration
        tick = grid.following(tick, now)
    return ticks, starts


def test_a_period_must_be_positive():
    """A grid without a period is refused with the value."""
    with pytest.raises(ValueError, match=r"'period_ns' must be > 0 \(got 0\)"):
        Grid(origin_ns=0, period_ns=0)


@given(grids, st.integers(0, 10**16))
def test_tick_at_or_after_is_the_first_one_due(grid, offset_ns):
    """t_k >= t > t_{k-1}."""
    t_ns = grid.origin_ns + offset_ns
    tick = grid.tick_at_or_after(t_ns)
    assert grid.time_ns(tick) >= t_ns > grid.time_ns(tick - 1)


@given(grids, st.integers(-(10**16), 10**16))
def test_tick_at_or_before_is_the_last_one_due(grid, offset_ns):
    """t_k <= t < t_{k+1}."""
    t_ns = grid.origin_ns + offset_ns
    tick = grid.tick_at_or_before(t_ns)
    assert grid.time_ns(tick) <= t_ns < grid.time_ns(tick + 1)


def test_no_tick_before_the_origin():
    """A sampler that starts before the grid's origin waits for tick 0."""
    assert Grid(origin_ns=1000, period_ns=10).tick_at_or_after(0) == 0


@pytest.mark.parametrize(("late_ns", "expected"), [(0, 1), (10, 1), (11, 3), (19, 3), (20, 3), (21, 4)])
def test_late_by_at_most_a_period_is_taken_and_later_is_skipped_to_the_future(late_ns, expected):
    """Lateness of exactly one period still takes the tick; beyond it, the next grid point not yet past is taken."""
    grid = Grid(origin_ns=0, period_ns=10)
    assert grid.following(0, grid.time_ns(1) + late_ns) == expected


@given(grids, st.lists(st.floats(0, 8), min_size=1, max_size=60), st.floats(0, 5))
def test_stalls_of_any_length_never_cause_a_burst(grid, stalls, start):
    """At most floor(d / T) + 2 ticks start within any time d; ticks increase; none is early or late by more than a period."""
    durations = [round(stall * grid.period_ns) for stall in stalls]
    ticks, starts = simulate(grid, durations, grid.origin_ns + round(start * grid.period_ns))
    assert all(b > a for a, b in pairwise(ticks))
    for tick, begun in zip(ticks, starts, strict=True):
        assert 0 <= begun - grid.time_ns(tick) <= grid.period_ns
    for i, first in enumerate(starts):
        for j in range(i, len(starts)):
            assert j - i + 1 <= (starts[j] - first) // grid.period_ns + 2


@given(grids, st.lists(st.floats(0, 0.99), min_size=1, max_size=60))
def test_reads_shorter_than_the_period_drop_nothing(grid, stalls):
    """As long as each read ends within its period, every tick is taken."""
    ticks, _ = simulate(grid, [int(stall * grid.period_ns) for stall in stalls], grid.origin_ns)
    assert ticks == list(range(len(ticks)))


def test_a_perfect_trace_has_no_drops_and_no_lateness():
    """Ten ticks on the grid: dt is the period, nothing dropped."""
    seen = sampler_statistics(trace_of(range(10)), 0)
    assert (seen.taken, seen.dropped, seen.drop_fraction) == (10, 0, 0.0)
    assert seen.lateness.max_s == 0.0
    assert seen.dt.median_s == pytest.approx(0.1)
    assert seen.longest_gap_periods == 1.0
    assert sum(seen.dt_counts) == 9
    assert seen.dt_counts[DT_EDGES_PERIODS.index(0.99)] == 9


def test_dropped_ticks_come_from_the_indices():
    """Ticks 3, 4 and 5 are missing: three of ten dropped, a gap of four periods."""
    seen = sampler_statistics(trace_of([0, 1, 2, 6, 7, 8, 9]), 0)
    assert (seen.taken, seen.dropped) == (7, 3)
    assert seen.drop_fraction == pytest.approx(0.3)
    assert seen.longest_gap_periods == 4.0


def test_lateness_is_measured_from_the_grid():
    """Reads that begin 2 ms after they were due are 2 ms late, in each quantile."""
    lateness = sampler_statistics(trace_of(range(5), origin_ns=77, late_ns=2 * MS), 77).lateness
    assert (lateness.median_s, lateness.p95_s, lateness.p99_s, lateness.max_s) == pytest.approx((0.002,) * 4)


def test_a_sampler_that_died_shows_as_dropped_ticks_and_a_gap():
    """In a window that outlasts the trace every tick that was due counts, and the gap runs to the window's end."""
    seen = sampler_statistics(trace_of(range(10)), 0, 0, 1_900 * MS)
    assert (seen.taken, seen.dropped) == (10, 10)
    assert seen.longest_gap_periods == pytest.approx(10.0)


def test_a_window_after_the_death_has_no_ticks_at_all():
    """All due ticks are dropped, and quantiles of nothing are missing, not zero."""
    seen = sampler_statistics(trace_of(range(10)), 0, 2_000 * MS, 2_900 * MS)
    assert (seen.taken, seen.dropped) == (0, 10)
    assert math.isnan(seen.dt.median_s)
    assert seen.longest_gap_periods == pytest.approx(20.0)


def test_the_gap_at_a_window_edge_counts_its_outer_neighbour():
    """A gap that begins before the window belongs to it as soon as they overlap."""
    seen = sampler_statistics(trace_of([0, 1, 8, 9]), 0, 750 * MS, 900 * MS)
    assert seen.longest_gap_periods == pytest.approx(7.0)


def test_an_empty_trace_says_nothing_and_does_not_fail():
    """No rows, no window: zero of zero, and missing numbers."""
    seen = sampler_statistics(trace_of([]), 0)
    assert (seen.taken, seen.dropped) == (0, 0)
    assert math.isnan(seen.drop_fraction)
    assert math.isnan(seen.longest_gap_periods)


def test_read_errors_are_counted_per_channel():
    """Only channels with failed reads are named."""
    trace = trace_of(range(4), channels=("power_w", "temperature_c"))
    trace.rows["errors"][1:3, 1] = 15
    assert dict(sampler_statistics(trace, 0).read_errors) == {"temperature_c": 2}


@given(st.sets(st.integers(0, 200), min_size=1, max_size=100), st.integers(0, 200), st.integers(0, 200))
def test_taken_plus_dropped_is_what_was_due(ticks, first, last):
    """Within any window, due ticks split into taken and dropped without rest."""
    period = 100 * MS
    seen = sampler_statistics(trace_of(sorted(ticks)), 0, first * period, last * period)
    assert seen.taken + seen.dropped == max(0, last - first + 1)
    assert seen.taken == len([t for t in ticks if first <= t <= last])


def test_ticks_of_a_pause_are_paused_and_not_dropped():
    """Spacing across a pause is no gap; a tick that is missing elsewhere is dropped as ever."""
    ticks = [*range(10), *range(30, 35), *range(36, 41)]
    found = sampler_statistics(trace_of(ticks), 0, pauses_ns=[(950 * MS, 2950 * MS)])
    assert (found.taken, found.paused, found.dropped) == (20, 20, 1)
    assert found.longest_gap_periods == 2
    assert found.dt.max_s == pytest.approx(0.2)
    without = sampler_statistics(trace_of(ticks), 0)
    assert (without.dropped, without.paused, without.longest_gap_periods) == (21, 0, 21)


@pytest.mark.parametrize(("first_missing", "dropped"), [(9, 0), (8, 1)])
def test_a_pause_excuses_one_tick_before_it_and_no_more(first_missing, dropped):
    """A sampler may see the request just before it was stamped, by at most one period."""
    ticks = [*range(first_missing), *range(30, 41)]
    assert sampler_statistics(trace_of(ticks), 0, pauses_ns=[(950 * MS, 2950 * MS)]).dropped == dropped


def test_a_window_counts_the_pauses_inside_it_only():
    """Ticks of a pause outside of the window are not its own."""
    ticks = [*range(10), *range(30, 41)]
    found = sampler_statistics(trace_of(ticks), 0, 3100 * MS, 4000 * MS, pauses_ns=[(950 * MS, 2950 * MS)])
    assert (found.taken, found.paused, found.dropped) == (10, 0, 0)
