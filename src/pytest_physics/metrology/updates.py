"""Sensor updates in a polled series: which samples are new readings, and when the sensor changed its value.

A poll repeats what the sensor last said. Two questions follow, with two answers:

* *How many readings were there?* :func:`distinct_updates` counts a sample as a new update where its value differs from the one
  before, or where it stayed equal for a whole update period (constant power is still measured: a tool that keeps only changes
  reports 0 J for it).
* *When did the value change?* Polling sees a change only between two polls. :func:`change_instants` finds the sensor's comb
  (updates come at t_0 + k·T) from many such intervals and puts each change on it. The energy of a short event is a sum of
  readings times T; with raw poll times in place of the comb, jitter of ±p/2 on steps of hundreds of watts costs several percent.

Failed reads are NaN and belong to no answer. A sensor that keeps no comb costs nothing: every instant stays inside its two polls.
Reference: the comb fit of "Part-time Power Measurements" (arXiv 2312.02741) data, pooled least squares over unbroken stretches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

PERIOD_SLACK = 0.02
"""A value must stay equal for this much longer than a period to count again: stated periods are short by up to 1–2 %."""
SLOW_POLL_RATIO = 0.75
"""Polled slower than this share of the period, polls and updates alternate, and a quarter of a period of jitter is forgiven."""
COMB_POLL_RATIO = 0.4
"""A comb is looked for only where polls are at most this share of the period apart."""
MAX_SKIPPED_TICKS = 50
"""A longer stretch without a change starts a new comb: the period is not known well enough to count across it."""
SMOOTHING_CHANGES = 16
"""Changes on each side that share their knowledge of the comb's phase."""
REFINING_CHANGES = 100_000
"""Changes from which the period is refined, at most."""
MAX_PERIOD_CORRECTION = 0.05
"""The period is refined from the data by at most this share."""


def seconds_since(t_ns: IntArray, origin_ns: int) -> FloatArray:
    """Instants in seconds from an origin near them: exact to a nanosecond over a hundred days."""
    since: FloatArray = (t_ns - origin_ns) / 1e9
    return since


def distinct_updates(t_ns: IntArray, power_w: FloatArray, update_period_s: float) -> IntArray:
    """Indexes of the samples that are new sensor updates, shape (K,).

    Parameters
    ----------
    t_ns
        Sample instants, shape (N,), not decreasing.
    power_w
        Readings, shape (N,), NaN where the read failed.
    update_period_s
        The sensor's update period T.
    """
    valid = np.flatnonzero(np.isfinite(power_w))
    if not len(valid):
        return valid
    whole = len(valid) == len(t_ns)
    t, y = (t_ns, power_w) if whole else (t_ns[valid], power_w[valid])
    chosen = updates_in_runs(t, run_starts(y), update_period_s)
    return chosen if whole else valid[chosen]


def run_starts(values: FloatArray) -> IntArray:
    """Index of the first sample of each run of equal values, shape (R,); the first is 0."""
    return np.concatenate([np.zeros(1, np.int64), np.flatnonzero(values[1:] != values[:-1]) + 1])


def updates_in_runs(t_ns: IntArray, starts: IntArray, update_period_s: float) -> IntArray:
    """Indexes of new updates among valid samples whose runs of equal values begin at ``starts``."""
    period_ns, tolerance_ns = _counting_period(t_ns, update_period_s)
    stops = np.append(starts[1:], len(t_ns))
    long = np.flatnonzero(t_ns[stops - 1] - t_ns[starts] + tolerance_ns >= period_ns)
    if not len(long):
        return starts
    counts = stops[long] - starts[long]
    offsets = np.cumsum(counts) - counts
    inside = np.arange(int(counts.sum())) + np.repeat(starts[long] - offsets, counts)
    elapsed = t_ns[inside] - np.repeat(t_ns[starts[long]], counts) + tolerance_ns
    tick = elapsed // period_ns
    repeats = inside[1:][tick[1:] > tick[:-1]]  # a run starts at tick 0, so no step crosses from one run into the next
    return np.sort(np.concatenate([starts, repeats]))


def _counting_period(t_ns: IntArray, update_period_s: float) -> tuple[int, int]:
    """Period and tolerance (ns) with which equal readings are counted."""
    period_ns = update_period_s * 1e9
    if typical_interval_s(t_ns) > SLOW_POLL_RATIO * update_period_s:
        return max(1, round(period_ns)), round(period_ns / 4)
    return max(1, round(period_ns * (1 + PERIOD_SLACK))), 0


def typical_interval_s(t_ns: IntArray) -> float:
    """Median interval between samples, from up to 10⁵ of them; 0 for fewer than two."""
    if len(t_ns) < 2:
        return 0.0
    stride = max(1, (len(t_ns) - 1) // 100_000)
    first = np.arange(0, len(t_ns) - 1, stride)
    return float(np.median(t_ns[first + 1] - t_ns[first])) * 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedTicks:
    """Changes numbered along the sensor's ticks; a segment is a stretch in which the numbering is certain."""

    segment: IntArray
    tick: FloatArray
    """Tick number from the segment's mean, shape (M,)."""
    time_s: FloatArray
    """Instant from the segment's mean, shape (M,)."""
    centre_s: FloatArray
    """Mean instant of each change's segment, shape (M,)."""


def change_instants(before_s: FloatArray, after_s: FloatArray, update_period_s: float) -> FloatArray:
    """When the sensor's value changed, shape (M,), each inside ``[before, after]``.

    Parameters
    ----------
    before_s, after_s
        Last poll with the old value and first poll with the new one, shape (M,), in order of time.
    update_period_s
        The sensor's update period T; refined from the data.

    Notes
    -----
    Where several updates were missed between the two polls, the old value is held for half of the unknown stretch and the new one
    for the other half, which is the trapezoid rule on updates. Polled too slowly for a comb, a change lies in the middle.
    """
    middle = (before_s + after_s) / 2
    width = after_s - before_s
    if len(middle) < 2 or not comb_is_visible(float(np.median(width)), update_period_s):
        return middle
    sharp = width <= 1.5 * float(np.median(width))
    on_comb, period_s = _on_comb(middle[sharp], update_period_s)
    anchor = on_comb[np.maximum(np.cumsum(sharp) - 1, 0)]
    first = anchor + np.ceil((before_s - anchor) / period_s) * period_s
    last = anchor + np.floor((after_s - anchor) / period_s) * period_s
    missed = (first + last) / 2
    missed[sharp] = on_comb
    inside: FloatArray = np.clip(missed, before_s, after_s)
    return inside


def comb_is_visible(interval_s: float, update_period_s: float) -> bool:
    """Whether polls ``interval_s`` apart can see updates ``update_period_s`` apart one by one."""
    return interval_s <= COMB_POLL_RATIO * update_period_s


def _on_comb(t_s: FloatArray, period_s: float) -> tuple[FloatArray, float]:
    """Instants ``t_s`` moved onto their comb, and the refined period."""
    comb = number_ticks(t_s[:REFINING_CHANGES], period_s)
    weight = float(comb.tick @ comb.tick)
    refined_s = float(comb.tick @ comb.time_s) / weight if weight > 0 else period_s
    if abs(refined_s / period_s - 1) > MAX_PERIOD_CORRECTION:
        refined_s = period_s
    comb = number_ticks(t_s, refined_s)
    residual_s = comb.time_s - refined_s * comb.tick
    return t_s - residual_s + _local_mean(residual_s, comb.segment), refined_s


def number_ticks(t_s: FloatArray, period_s: float, *, slack_s: float = 0.0) -> NumberedTicks:
    """Number the ticks; a step that is no multiple of the period (to 0.3 of it, plus slack), or too long, starts a new segment."""
    step_s = np.diff(t_s)
    ticks = np.rint(step_s / period_s)
    broken = (np.abs(step_s - ticks * period_s) > 0.3 * period_s + slack_s) | (ticks < 1) | (ticks > MAX_SKIPPED_TICKS)
    ticks[broken] = 0.0
    zero = np.zeros(1)
    segment = np.concatenate([zero.astype(np.int64), np.cumsum(broken)])
    tick = np.concatenate([zero, np.cumsum(ticks)])
    size = np.bincount(segment)
    centre_tick = (np.bincount(segment, tick) / size)[segment]
    centre_s = (np.bincount(segment, t_s) / size)[segment]
    return NumberedTicks(segment=segment, tick=tick - centre_tick, time_s=t_s - centre_s, centre_s=centre_s)


def _local_mean(values: FloatArray, segment: IntArray) -> FloatArray:
    """Mean over the neighbours of each value in its own segment."""
    position = np.arange(len(values))
    stops = np.cumsum(np.bincount(segment))
    starts = np.append(0, stops[:-1])
    low = np.maximum(position - SMOOTHING_CHANGES, starts[segment])
    high = np.minimum(position + SMOOTHING_CHANGES + 1, stops[segment])
    total = np.concatenate([np.zeros(1), np.cumsum(values)])
    mean: FloatArray = (total[high] - total[low]) / (high - low)
    return mean
