"""A power sensor that repeats itself while the device works: a latched reading, which no error code betrays.

A driver whose cache hangs answers every read with success and the last value. The trace then has no gap, the updates are counted
(constant power is measured too), and an integral over it is wrong by any factor. What gives it away is the sensor's own habit: where
nearly every update elsewhere in the trace differs from the one before, a long run of equal ones under load is no reading.

Assumes that the habit is seen elsewhere in the same trace. Silent where the sensor repeats itself anyway (coarse steps, no noise),
where too little else was read, and where utilisation is latched as well, so that the device seems idle.

Energy from a counter is judged alike: a counter may be the sum of the same readings.

Reference: TR122's stale-sample rule; the probability of a false alarm is below :data:`FALSE_ALARM` at each update.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pytest_physics.metrology.throttle import STALL_MIN_UTILISATION
from pytest_physics.metrology.uncertainty import Gate
from pytest_physics.metrology.updates import FloatArray, IntArray, distinct_updates, run_starts

MAX_REPEATS = 10
"""A longer run of equal updates in a busy window is doubted; a shorter one too, where the sensor's habit makes it as unlikely …"""
FEWEST_REPEATS = 3
FALSE_ALARM = 1e-7
"""Chance of a run that long in a sensor with this habit."""
MIN_CHANGE_SHARE = 0.8
"""… where elsewhere at least this share of updates differ from the one before …"""
MIN_ELSEWHERE = 20
"""… of at least this many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """The longest run of equal updates in the busy part of a window."""

    start: int
    """Index of its first update."""
    length: int
    power_w: float


def stale_gate(
    t_ns: IntArray,
    power_w: FloatArray,
    utilisation_ratio: FloatArray,
    t0_ns: int,
    t1_ns: int,
    *,
    update_period_s: float,
    scope: str = "window",
) -> Gate:
    """Longest run of equal sensor updates that reaches into the busy part of [t0, t1], against the sensor's habit elsewhere.

    Parameters
    ----------
    t_ns
        Sample instants, shape (N,), increasing, from well before the window to its tail: the habit is taken from there.
    power_w, utilisation_ratio
        Of the same samples, shape (N,), NaN where a read failed. Busy is a utilisation of at least half.
    update_period_s
        The sensor's update period.
    """
    if not t_ns.shape == power_w.shape == utilisation_ratio.shape:
        raise ValueError(
            f"times, powers and utilisations must be of the same samples (got shapes {t_ns.shape}, {power_w.shape} and "
            f"{utilisation_ratio.shape})."
        )
    index = distinct_updates(t_ns, power_w, update_period_s)
    values = power_w[index]
    busy_ns = t_ns[(t_ns >= t0_ns) & (t_ns <= t1_ns) & (utilisation_ratio >= STALL_MIN_UTILISATION)]
    run = _longest_run(t_ns[index], values, busy_ns)
    n, share = _habit(values, run)
    known = n >= MIN_ELSEWHERE and share >= MIN_CHANGE_SHARE
    limit = _limit(n, share) if known else MAX_REPEATS
    passed = run.length <= limit or not known
    return Gate(
        name="stale sensor",
        scope=scope,
        measured=float(run.length),
        limit=float(limit),
        unit="updates",
        passed=passed,
        reason=_reason(run, limit, busy=len(busy_ns) > 0, habit=f"{share:.0%} of {n} updates elsewhere changed the value", passed=passed),
        remedy=""
        if passed
        else "measure again; if it comes back, look for other programs that poll the driver, restart its persistence daemon, or update it",
    )


def _limit(n: int, share: float) -> int:
    """Longest run of equal updates that chance explains in a sensor of which ``share`` of ``n`` updates change the value."""
    repeats = 1 - share * n / (n + 1)  # never certain: the next one may be the first to repeat
    return min(MAX_REPEATS, max(FEWEST_REPEATS, math.ceil(math.log(FALSE_ALARM) / math.log(repeats))))


def _reason(run: _Run, limit: int, *, busy: bool, habit: str, passed: bool) -> str:
    if not busy:
        return f"the device was not busy in the window, so a reading that repeats itself proves nothing ({habit})"
    repeats = f"under load the power reading was {run.power_w:.4g} W for {run.length} updates in a row (limit {limit}; {habit})"
    if not passed:
        return f"{repeats}: the sensor or the driver's cache hung, and energy in this window is not known"
    return repeats if run.length <= limit else f"{repeats}: this sensor repeats itself anyway, or too little else was read"


def _longest_run(update_ns: IntArray, values: FloatArray, busy_ns: IntArray) -> _Run:
    """Longest run of equal updates that stood at some busy instant."""
    if not len(values) or not len(busy_ns):
        return _Run(start=0, length=0, power_w=float("nan"))
    starts = run_starts(values)
    lengths = np.diff(np.append(starts, len(values)))
    standing = np.unique(np.maximum(np.searchsorted(update_ns[starts], busy_ns, side="right") - 1, 0))
    longest = int(standing[np.argmax(lengths[standing])])
    return _Run(start=int(starts[longest]), length=int(lengths[longest]), power_w=float(values[starts[longest]]))


def _habit(values: FloatArray, run: _Run) -> tuple[int, float]:
    """Number of updates outside ``run``, and the share of them that differ from the one before."""
    changed = values[1:] != values[:-1]
    # neither the repeats of the run itself nor the step into it; what follows it is habit again
    outside = np.delete(changed, np.arange(max(run.start - 1, 0), max(run.start + run.length - 1, 0)))
    return len(outside), float(np.mean(outside)) if len(outside) else 0.0
