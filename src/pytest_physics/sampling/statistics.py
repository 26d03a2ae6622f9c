"""How well a sampler kept its grid, from the trace alone.

Lateness is the start of a read minus the time its tick was due; the spacing dt lies between the starts of consecutive reads.
Within a window ``[t0, t1]`` every tick that was due counts: a sampler that died shows as dropped ticks and as a long gap,
never as fewer ticks asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_physics.clock import NS_PER_S
from pytest_physics.sampling.schedule import Grid
from pytest_physics.sampling.trace import FloatArray, IntArray, Trace

DT_EDGES_PERIODS = (0.0, 0.5, 0.9, 0.99, 1.01, 1.1, 1.5, 2.5, 5.0, 10.0, math.inf)
"""Edges of the spacing histogram in periods; a bucket holds ``edge[i] <= dt < edge[i + 1]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Median, tail and maximum of a series in seconds; NaN where it is empty."""

    median_s: float
    p95_s: float
    p99_s: float
    max_s: float

    @classmethod
    def of_ns(cls, series_ns: IntArray) -> Quantiles:
        """Quantiles of nanoseconds, shape (N,)."""
        if not len(series_ns):
            return cls(median_s=math.nan, p95_s=math.nan, p99_s=math.nan, max_s=math.nan)
        median, p95, p99, top = (float(q) for q in np.quantile(series_ns / NS_PER_S, [0.5, 0.95, 0.99, 1.0]))
        return cls(median_s=median, p95_s=p95, p99_s=p99, max_s=top)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerStatistics:
    """What a sampler did within a window, or over its whole trace."""

    period_s: float
    """Nominal period T."""
    taken: int
    """Ticks that were taken."""
    dropped: int
    """Ticks that were due and not taken."""
    paused: int
    """Ticks that were not due because the sampler was told to pause."""
    lateness: Quantiles
    """Start of the read minus the time it was due."""
    dt: Quantiles
    """Spacing between the starts of consecutive reads."""
    dt_edges_periods: tuple[float, ...]
    """Edges of the spacing histogram, in periods."""
    dt_counts: tuple[int, ...]
    """Spacings per bucket."""
    read_errors: Mapping[str, int]
    """Failed reads per channel, channels without any left out."""
    longest_gap_periods: float
    """Longest time without a start of a read, in periods; the window's ends count where no read lies beyond them.
    NaN where nothing can be said."""

    @property
    def drop_fraction(self) -> float:
        """Share of the due ticks that were not taken; NaN where none was due."""
        due = self.taken + self.dropped
        return self.dropped / due if due else math.nan


def sampler_statistics(
    trace: Trace, origin_ns: int, t0_ns: int | None = None, t1_ns: int | None = None, *, pauses_ns: Sequence[tuple[int, int]] = ()
) -> SamplerStatistics:
    """Statistics of the ticks due within ``[t0_ns, t1_ns]``; each end defaults to the trace's own.

    Parameters
    ----------
    trace
        Samples of one instrument.
    origin_ns
        t_0 of its grid.
    t0_ns, t1_ns
        Window on the trace's clock.
    pauses_ns
        Spans in which the sampler was told to pause: their ticks count as paused, and the spacing across them as nothing. A tick may be
        taken or missed within one period of either end.
    """
    grid = Grid(origin_ns=origin_ns, period_ns=trace.period_ns)
    first, last = _due_ticks(trace, grid, t0_ns, t1_ns)
    start, stop = (int(i) for i in np.searchsorted(trace.tick, [first, last + 1]))
    rows = trace.rows[start:stop]
    starts: IntArray = rows["t_before_ns"]
    paused = _paused_ticks(grid, pauses_ns, trace.tick[start:stop], first, last)
    dt_ns = np.diff(starts)[~_across(starts, pauses_ns)]
    counts, _ = np.histogram(dt_ns / trace.period_ns, bins=np.asarray(DT_EDGES_PERIODS))
    failed = np.count_nonzero(rows["errors"], axis=0)
    return SamplerStatistics(
        period_s=trace.period_ns / NS_PER_S,
        taken=len(rows),
        dropped=max(0, last + 1 - first) - len(rows) - paused,
        paused=paused,
        lateness=Quantiles.of_ns(starts - (origin_ns + rows["tick"] * trace.period_ns)),
        dt=Quantiles.of_ns(dt_ns),
        dt_edges_periods=DT_EDGES_PERIODS,
        dt_counts=tuple(int(n) for n in counts),
        read_errors={name: int(n) for name, n in zip(trace.channels, failed, strict=True) if n},
        longest_gap_periods=_longest_gap(trace, (start, stop), t0_ns, t1_ns, pauses_ns),
    )


def _due_ticks(trace: Trace, grid: Grid, t0_ns: int | None, t1_ns: int | None) -> tuple[int, int]:
    """First and last tick due within the window; last < first where none is."""
    ticks = trace.tick
    own_first, own_last = (int(ticks[0]), int(ticks[-1])) if len(ticks) else (0, -1)
    first = own_first if t0_ns is None else grid.tick_at_or_after(t0_ns)
    last = own_last if t1_ns is None else grid.tick_at_or_before(t1_ns)
    return first, max(last, first - 1)


def _paused_ticks(grid: Grid, pauses_ns: Sequence[tuple[int, int]], taken: IntArray, first: int, last: int) -> int:
    """Ticks within ``first`` to ``last`` that fell into a pause and were not taken; the sampler may know of it one period before."""
    count = 0
    for begin_ns, end_ns in pauses_ns:
        low, high = max(first, grid.tick_at_or_before(begin_ns)), min(last, grid.tick_at_or_after(end_ns))
        count += max(0, high - low + 1) - int(np.count_nonzero((taken >= low) & (taken <= high)))
    return count


def _across(starts: FloatArray | IntArray, pauses_ns: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """For each pair of neighbouring reads, whether some part of a pause lies between them."""
    across = np.zeros(max(0, len(starts) - 1), np.bool_)
    for begin_ns, end_ns in pauses_ns:
        across |= (starts[:-1] < end_ns) & (starts[1:] > begin_ns)
    return across


def _longest_gap(trace: Trace, own: tuple[int, int], t0_ns: int | None, t1_ns: int | None, pauses_ns: Sequence[tuple[int, int]]) -> float:
    """Longest spacing that touches the rows from ``own[0]`` to before ``own[1]``, the neighbours on each side included; in periods."""
    start, stop = own
    marks: FloatArray = trace.rows["t_before_ns"][max(0, start - 1) if t0_ns is not None else start : stop + (t1_ns is not None)]
    if t0_ns is not None and start == 0:
        marks = np.append(t0_ns, marks)
    if t1_ns is not None and stop == len(trace):
        marks = np.append(marks, t1_ns)
    gaps = np.diff(marks)[~_across(marks, pauses_ns)] if len(marks) > 1 else np.zeros(0)
    return float(np.max(gaps)) / trace.period_ns if len(gaps) else math.nan
