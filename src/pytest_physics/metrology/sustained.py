"""Minutes under load: how the latency drifts, for which share of the time the clock is held back, whether the device worked at all.

Durations of calls are known to nanoseconds, and yet the mean of a third of them is uncertain: another run would give other durations.
That noise is taken from the differences of neighbours (von Neumann), singly and in batches, so that the drift itself is not counted as
noise and a correlation shorter than a batch is not missed. The larger of the two uncertainties is used. It fails (too small an interval)
where the noise is correlated over more than a sixteenth of a third.

References: von Neumann, "Distribution of the ratio of the mean square successive difference to the variance", Ann. Math. Statist. 12
(1941); TR128–TR130 (drift: first third against last third); TR164 (stalls: 99 % utilisation at idle power); TR122.A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_physics.metrology.throttle import STALL_MIN_RISE, STALL_MIN_UTILISATION
from pytest_physics.metrology.uncertainty import Gate

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

BATCHES = 16
"""Batches of a third whose neighbours are compared: ten degrees of freedom each."""
MIN_CALLS = 12
"""Calls that a drift needs: four in each third."""
MIN_RISE = STALL_MIN_RISE
"""A device that did the work drew at least this share more than idle."""
MIN_OWN_CPUS = 0.5
"""A host that did the work gave the run at least half a processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Mean of a part of a drifting series."""

    mean: float
    u: float
    dof: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Relative change from the first third of a series to the last."""

    value: float
    u: float
    dof: float
    n: int
    """Values in each third."""


def drift_of_thirds(durations: FloatArray) -> Drift:
    """Mean of the last third over mean of the first, minus 1; ``durations`` > 0, shape (N,), N ≥ :data:`MIN_CALLS`.

    The third is rounded down; what is left over belongs to the middle.
    """
    series = np.asarray(durations, dtype=np.float64)
    if series.ndim != 1 or len(series) < MIN_CALLS or not (np.isfinite(series) & (series > 0)).all():
        raise ValueError(f"a drift needs at least {MIN_CALLS} positive durations (got shape {series.shape}).")
    third = len(series) // 3
    first, last = level_of(series[:third]), level_of(series[-third:])
    ratio = last.mean / first.mean
    parts = np.array([last.u / last.mean, first.u / first.mean])
    u = ratio * float(np.hypot(*parts))
    dof = float(np.sum(parts**2) ** 2 / np.sum(parts**4 / np.array([last.dof, first.dof]))) if u > 0 else math.inf
    return Drift(value=ratio - 1, u=u, dof=dof, n=third)


def level_of(series: FloatArray) -> Level:
    """Mean of a series that may drift, with the noise of its mean from differences of neighbours."""
    candidates = [_from_neighbours(series)]
    if len(series) >= 2 * BATCHES:
        batched = series[len(series) % BATCHES :].reshape(BATCHES, -1).mean(axis=1)
        candidates.append(_from_neighbours(batched))
    u, dof = max(candidates)
    return Level(mean=float(series.mean()), u=u, dof=dof)


def _from_neighbours(series: FloatArray) -> tuple[float, float]:
    """Standard uncertainty of the mean, δ²/2 over n, and its degrees of freedom, 2(n − 1)²/(3n − 4) for white noise."""
    n = len(series)
    variance = float(np.mean(np.diff(series) ** 2)) / 2
    return math.sqrt(variance / n), 2 * (n - 1) ** 2 / (3 * n - 4)


# --- shares of the time ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Share of a window's time."""

    value: float
    """NaN where it cannot be told."""
    bound: float
    """Half-width: how far the ends of its episodes may lie from what was read."""
    source: str
    """In words: which readings it rests on."""


def share_by_counter(t_ns: IntArray, counted_ns: FloatArray, t0_ns: int, t1_ns: int) -> Share:
    """From a cumulative counter: its increase between the samples that bracket the window, over the window.

    What was counted beyond the window, at most one sample on each side, is the bound.
    """
    known = np.isfinite(counted_ns)
    t, values = t_ns[known], counted_ns[known]
    start, stop = int(np.searchsorted(t, t0_ns, side="right")) - 1, int(np.searchsorted(t, t1_ns, side="left"))
    if start < 0 or stop >= len(t) or (np.diff(values[start : stop + 1]) < 0).any():
        return Share(value=math.nan, bound=math.inf, source="counter without a valid sample on each side, or one that went back")
    span_ns = t1_ns - t0_ns
    increase_ns = float(values[stop] - values[start])
    outside_ns = min(float(t[stop] - t[start]) - span_ns, increase_ns)
    share = min(1.0, max(0.0, increase_ns - outside_ns / 2) / span_ns)
    return Share(value=share, bound=outside_ns / 2 / span_ns, source="cumulative counter")


def share_by_flags(t_ns: IntArray, flags: BoolArray, t0_ns: int, t1_ns: int) -> Share:
    """From polled flags, held from each sample to the next; every change may lie anywhere between its two samples.

    Episodes between two samples are not seen.
    """
    inside = (t_ns >= t0_ns) & (t_ns <= t1_ns)
    t, held = t_ns[inside], flags[inside]
    if len(t) < 2:
        return Share(value=math.nan, bound=math.inf, source="fewer than two reads")
    edges = np.concatenate([t, [t1_ns]])
    span_ns = float(t1_ns - t[0])
    step_ns = float(np.max(np.diff(t)))
    changes = int(np.count_nonzero(held[1:] != held[:-1]))
    bound = math.sqrt(changes) * step_ns / span_ns
    return Share(value=float(np.diff(edges)[held].sum()) / span_ns, bound=bound, source=f"{len(t)} reads of the event reasons")


def settled_flags(t_ns: IntArray, flags: BoolArray, settle_ns: int) -> BoolArray:
    """Samples at which ``flags`` has been true for ``settle_ns``: what a sensor with a tail reads there belongs to the flag."""
    false_at = np.where(~flags, t_ns, np.iinfo(np.int64).min // 2)
    since: BoolArray = flags & (t_ns - np.maximum.accumulate(false_at) > settle_ns)
    return since


# --- did it work? ----------------------------------------------------------------------------------------------------


def stalled_samples(utilisation_ratio: FloatArray, power_w: FloatArray, idle_w: float, u_idle_w: float) -> BoolArray:
    """Samples that say "busy" at idle power; the rule of :func:`~pytest_physics.metrology.throttle.stall_gate`."""
    rise_w = max(STALL_MIN_RISE * abs(idle_w), 3 * u_idle_w)
    stalled: BoolArray = (utilisation_ratio >= STALL_MIN_UTILISATION) & (power_w < idle_w + rise_w)
    return stalled


def longest_run_s(t_ns: IntArray, flags: BoolArray) -> float:
    """Longest time from the first to the last sample of an unbroken row of true ``flags``, in seconds; 0 for none."""
    edges = np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))
    starts, stops = np.flatnonzero(edges > 0), np.flatnonzero(edges < 0) - 1
    return float(np.max(t_ns[stops] - t_ns[starts])) * 1e-9 if len(starts) else 0.0


def power_rise_gate(mean_w: float, idle_w: float, u_idle_w: float, *, scope: str) -> Gate:
    """The metered device must have done the work: its mean power rose above idle."""
    limit_w = max(MIN_RISE * abs(idle_w), 3 * u_idle_w)
    passed = mean_w - idle_w >= limit_w
    return Gate(
        name="the metered device worked", scope=scope, measured=mean_w - idle_w, limit=limit_w, unit="W", passed=passed,
        reason=f"mean power was {mean_w:.4g} W under load against {idle_w:.4g} W idle, a rise of {mean_w - idle_w:.3g} W "
        f"(needed: {limit_w:.3g} W)" + ("" if passed else ": another device did the work, or nothing ran"),
        remedy="" if passed else "put the model on the metered device (its name and index are in the report), and measure again",
    )  # fmt: skip


def own_processor_gate(own_cpus: float, *, scope: str) -> Gate:
    """On a host the run itself must have kept a processor busy."""
    passed = own_cpus >= MIN_OWN_CPUS
    return Gate(
        name="the metered device worked", scope=scope, measured=own_cpus, limit=MIN_OWN_CPUS, unit="processors", passed=passed,
        reason=f"this run kept {own_cpus:.2f} processors busy under load, or waited for them (needed: {MIN_OWN_CPUS:g})"
        + ("" if passed else ": the work ran elsewhere, or nothing ran"),
        remedy="" if passed else "run the model on the CPU, not on an accelerator, and look for what it waits for",
    )  # fmt: skip
