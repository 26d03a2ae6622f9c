"""How often a sensor makes a new reading, from polls alone: the comb fit, and when it must be refused.

A poll sees that the value changed, not when: each change lies between two polls. Updates that come at ``phase + k·T`` make the
differences D of change instants multiples of T, up to the polls' jitter. Three steps:

1. ``S(T) = mean cos(2π D / T)`` over differences at lags 1 … 6 (immune to a slow wander of the sensor's clock), on a logarithmic grid.
   The fundamental is the *longest* local maximum with S ≥ 0.85 of the highest: T/2, T/3 … fit as well.
2. Changes are numbered along the comb, broken into segments where the numbering is not certain, and T is the pooled least-squares slope
   over segments, five times. ``u(T) = sqrt(mean r² / Σ n²)`` with n the tick number from its segment's mean.
3. Accepted only if polls are closer than T/2.5 (95th percentile of the gaps) and the residuals' standard deviation is below T/5.

The shortest interval between changes, which other tools take for T, errs by 3 to 70 % on real recordings and gets worse with more data.

Assumes that values change: an idle sensor that repeats itself shows no comb (drive a toggling load). Refuses (:class:`RefusedError`)
too few changes, polls too coarse, no comb, two caches that answer in turn. What a driver's cache hands out is what is found: its period
is the one that matters to a reader.

Reference: data of Yang, Adamek, Armour, "Part-time Power Measurements" (arXiv 2312.02741). On its recordings: 99.97 ms for the RTX 3090.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
from scipy import special

from pytest_physics.metrology.refusal import refuse
from pytest_physics.metrology.uncertainty import Gate
from pytest_physics.metrology.updates import BoolArray, FloatArray, IntArray, NumberedTicks, number_ticks, seconds_since

MIN_CHANGES = 10
"""Fewer changes of value say nothing certain about a comb."""
STALLED_POLL = 2.5
"""A change between two polls further apart than this many typical gaps is left out: a poll stalled."""
LAGS = 6
GRID_STEP = 0.002
"""Relative step of the periods tried."""
SCORED_CHANGES = 1000
"""Changes used for finding the comb, at most; all are used for refining it."""
FUNDAMENTAL_SHARE = 0.85
MIN_SCORE = 0.5
"""Below this mean cosine there is no comb."""
POLL_RATIO = 2.5
"""Polls must be at least this many times as dense as updates."""
MAX_RESIDUAL_RATIO = 0.2
"""Largest standard deviation of changes about their comb, in periods."""
SAME_UPDATES = 0.1
"""A driver's buffer whose rate is this near to that of the polled updates holds those updates, and must agree with them."""
CACHE_REVISITS = 0.3
"""Share of changes, within little more than a poll, back to the value before last, from which two caches are recognised."""
CENSORED_CHANGES = 500
"""Changes of one segment, evenly chosen, used for its line; more add little and cost time."""
MAX_SEGMENTS = 20
"""Segments used, largest first."""
IN_STEP_SHARE = 0.3
"""Changes that scatter by less than this share of what polls at random instants give are polled in step."""
JITTER_SHARES = (0.02, 0.1, 0.3)
"""Jitters of the sensor that are considered, in typical poll gaps."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Changes:
    """Every change of value that polling saw. Built by :func:`changes_of`."""

    origin_ns: int
    """Clock of the instants below: seconds since this."""
    before_s: FloatArray
    """Last poll with the old value, shape (M,)."""
    after_s: FloatArray
    """First poll with the new value, shape (M,)."""
    value: FloatArray
    """The new value, shape (M,)."""
    gap_p95_s: float
    """95th percentile of the gaps between polls; 0 for fewer than two polls."""
    duration_s: float
    """From the first valid poll to the last."""

    @property
    def middle_s(self) -> FloatArray:
        """Midpoints of the intervals in which the changes lie."""
        middle: FloatArray = (self.before_s + self.after_s) / 2
        return middle


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePeriod:
    """The comb on which a sensor updates: ``t_k = origin + phase + k·T``."""

    period_s: float
    """T: interval between updates."""
    u_period_s: float
    origin_ns: int
    phase_s: float
    """An update instant in the middle of the longest segment, in seconds from the origin."""
    u_phase_s: float
    """Standard uncertainty of the comb's instants."""
    segments: int
    """Unbroken stretches; more than one means pauses, or slips of the sensor's clock."""
    n_changes: int
    """Changes on the comb."""
    residual_s: float
    """Standard deviation of the changes about the comb: polling and sensor jitter."""
    gap_p95_s: float
    """95th percentile of the gaps between polls."""
    score: float
    """Mean cosine at the comb, 1 for a perfect one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Readings:
    """Distinct readings of a sensor with the instants at which it made them."""

    origin_ns: int
    t_s: FloatArray
    """Update instants, seconds from the origin, shape (K,)."""
    power_w: FloatArray
    """Readings, shape (K,)."""
    u_t_s: float
    """Standard uncertainty common to all instants."""
    u_each_s: float = 0.0
    """Standard uncertainty of each instant by itself."""


def changes_of(before_ns: IntArray, after_ns: IntArray, values: FloatArray) -> Changes:
    """Changes of value between consecutive valid polls.

    Parameters
    ----------
    before_ns, after_ns
        Clock before and after each read, shape (N,); the same array twice where only one instant is known.
    values
        What was read, NaN where the read failed.
    """
    valid = np.flatnonzero(np.isfinite(values))
    origin_ns = int(before_ns[valid[0]]) if len(valid) else 0
    t_s = seconds_since(before_ns[valid], origin_ns) / 2 + seconds_since(after_ns[valid], origin_ns) / 2
    if np.any(np.diff(t_s) < 0):
        raise ValueError("poll instants must not decrease; sort the samples, or check that they come from one clock.")
    y = values[valid]
    new = np.flatnonzero(y[1:] != y[:-1]) + 1
    return Changes(
        origin_ns=origin_ns,
        before_s=t_s[new - 1],
        after_s=t_s[new],
        value=y[new],
        gap_p95_s=float(np.percentile(np.diff(t_s), 95)) if len(t_s) > 1 else 0.0,
        duration_s=float(t_s[-1] - t_s[0]) if len(t_s) else 0.0,
    )


def fit_update_period(before_ns: IntArray, after_ns: IntArray, values: FloatArray, *, scope: str = "power channel") -> UpdatePeriod:
    """Fit the comb to polls (see :func:`changes_of`), or raise :class:`~pytest_physics.metrology.refusal.RefusedError`."""
    changes = changes_of(before_ns, after_ns, values)
    if len(changes.value) < MIN_CHANGES:
        refuse(
            "update period: changes",
            scope=scope,
            measured=len(changes.value),
            limit=MIN_CHANGES,
            unit="1",
            reason=f"the value changed {len(changes.value)} times in {changes.duration_s:.3g} s (needed: {MIN_CHANGES})",
            remedy="Poll under a load that toggles; an idle sensor repeats equal readings.",
        )
    sharp = _sharp(changes)
    middle_s = changes.middle_s[sharp]
    start_s, score = _search(middle_s, changes, scope)
    return _refined(middle_s, start_s, score, changes, scope)


def readings_on_comb(before_ns: IntArray, after_ns: IntArray, values: FloatArray, period: UpdatePeriod) -> Readings:
    """The distinct readings of polls at their comb instants; changes in doubt (stalled polls, off the comb) are left out."""
    changes = changes_of(before_ns, after_ns, values)
    sharp = _sharp(changes)
    ticks = number_ticks(changes.middle_s[sharp], period.period_s, slack_s=period.gap_p95_s / 2)
    t_s = _comb_times(changes.before_s[sharp], changes.after_s[sharp], ticks, period.period_s)
    size = np.bincount(ticks.segment)[ticks.segment]
    kept = (np.abs(changes.middle_s[sharp] - t_s) < 0.5 * period.period_s) & (size >= 3)
    return Readings(
        origin_ns=changes.origin_ns, t_s=t_s[kept], power_w=changes.value[sharp][kept], u_t_s=period.u_phase_s
    )  # fmt: skip


def readings_between_polls(before_ns: IntArray, after_ns: IntArray, values: FloatArray) -> Readings:
    """The distinct readings in the middle of the polls around each change: all that is known where the comb was refused."""
    changes = changes_of(before_ns, after_ns, values)
    sharp = _sharp(changes)
    width_s = (changes.after_s - changes.before_s)[sharp]
    u_each = float(np.sqrt(np.mean(width_s**2) / 12)) if len(width_s) else math.inf
    u_common = u_each / math.sqrt(max(1, len(width_s)))
    return Readings(
        origin_ns=changes.origin_ns, t_s=changes.middle_s[sharp], power_w=changes.value[sharp], u_t_s=u_common, u_each_s=u_each
    )  # fmt: skip


def driver_period(timestamp_us: IntArray, *, scope: str = "driver sample buffer") -> UpdatePeriod:
    """Update period of a driver's own sample buffer (``nvmlDeviceGetSamples``), from its timestamps in µs, shape (N,).

    The buffer is not the polled channel: newer cards slow it to about 1 Hz at idle. Compare with :func:`compare_periods`.
    """
    stamps = np.unique(np.asarray(timestamp_us, dtype=np.int64))
    if len(stamps) < MIN_CHANGES:
        refuse(
            "driver buffer: samples",
            scope=scope,
            measured=len(stamps),
            limit=MIN_CHANGES,
            unit="1",
            reason=f"the driver's buffer holds {len(stamps)} distinct timestamps (needed: {MIN_CHANGES})",
            remedy="Read the buffer again after a few seconds, or use polls.",
        )
    t_s = seconds_since(stamps * 1000, int(stamps[0]) * 1000)
    start_s = float(np.median(np.diff(t_s)))
    changes = Changes(
        origin_ns=int(stamps[0]) * 1000, before_s=t_s, after_s=t_s, value=t_s, gap_p95_s=0.0, duration_s=float(t_s[-1])
    )  # fmt: skip
    return _refined(t_s, start_s, 1.0, changes, scope)


def compare_periods(polled: UpdatePeriod, driver: UpdatePeriod, *, scope: str = "power channel") -> Gate:
    """Whether the driver's buffer and the polls tell of the same updates: ratio within 0.2 %, or within both uncertainties.

    A warning only: a buffer at another rate is common, and then the polls are right about what a reader gets.
    """
    ratio = driver.period_s / polled.period_s
    u_ratio = math.hypot(driver.u_period_s / driver.period_s, polled.u_period_s / polled.period_s)
    limit = max(0.002, 3 * u_ratio)
    agree = abs(ratio - 1) <= limit
    which = "" if agree else (", it runs slower than what is read" if ratio > 1 else ", it runs faster than what is read")
    return Gate(
        name="driver buffer agrees with polls",
        scope=scope,
        measured=abs(ratio - 1),
        limit=limit,
        unit="1",
        passed=agree,
        reason=f"driver buffer updates every {driver.period_s * 1e3:.3f} ms, polls see {polled.period_s * 1e3:.3f} ms{which}",
        remedy="" if agree else "use the polled period for what is polled; the buffer's rate holds for the buffer only",
        warning=True,
    )


def cross_checked(polled: UpdatePeriod, driver: UpdatePeriod, *, scope: str = "power channel") -> tuple[UpdatePeriod, Gate]:
    """The update period to state, from polls and from the driver's own timestamps, and a gate that says whose it is.

    A buffer that runs at the rate of the polled updates holds those updates: its timestamps need no comb, so they are used, and the comb
    is their cross-check. What is left between the two, up to the limit of :func:`compare_periods`, is in the uncertainty. A buffer at
    another rate (newer cards keep about one sample a second) tells nothing of what a reader gets: the polls are used. The instants of the
    comb stay those of the polls, whose clock is the run's.

    Raises
    ------
    RefusedError
        Where the two are within a tenth of each other, so that they are about the same updates, and disagree.
    """
    agreement = compare_periods(polled, driver, scope=scope)
    both = f"the driver's buffer updates every {driver.period_s * 1e3:.4f} ms, the polls see {polled.period_s * 1e3:.4f} ms"
    if agreement.passed:
        u_period_s = math.hypot(driver.u_period_s, (driver.period_s - polled.period_s) / math.sqrt(3))
        used = replace(polled, period_s=driver.period_s, u_period_s=u_period_s)
        return used, replace(agreement, name="update period: driver against polls", reason=f"{both}: the driver's is used", warning=False)
    measured, limit = agreement.measured or 0.0, agreement.limit or 0.0
    if measured <= SAME_UPDATES:
        refuse(
            "update period: driver against polls",
            scope=scope,
            measured=measured,
            limit=limit,
            unit="1",
            reason=f"{both}: {measured:.2%} apart (limit {limit:.2%}), so one of them is wrong about the same updates",
            remedy="Look for a clock that was set during the measurement, and for other readers of this device; then identify again.",
        )
    slower = "slower" if driver.period_s > polled.period_s else "faster"
    reason = f"{both}: the buffer runs {slower} than what is read, so the polls are used"
    return polled, replace(
        agreement, name="update period: driver against polls", limit=None, passed=True, reason=reason, remedy="", warning=True
    )  # fmt: skip


def _sharp(changes: Changes) -> BoolArray:
    """Changes that no stalled poll blurs."""
    width_s = changes.after_s - changes.before_s
    return np.asarray(width_s <= STALLED_POLL * np.median(width_s)) if len(width_s) else np.zeros(0, np.bool_)


def _search(middle_s: FloatArray, changes: Changes, scope: str) -> tuple[float, float]:
    """Period and score of the comb's fundamental."""
    interval_s = np.diff(middle_s)
    gap_s = changes.gap_p95_s
    low_s = max(2 * gap_s, 1e-6)
    high_s = 1.25 * float(np.percentile(interval_s, 10)) + gap_s if len(interval_s) else 0.0
    if high_s <= low_s:
        _refuse_search(changes, interval_s, scope)
    grid_s = np.exp(np.arange(math.log(low_s), math.log(high_s), GRID_STEP))
    score = _scores(middle_s[:SCORED_CHANGES], grid_s)
    best = float(score.max())
    if best < MIN_SCORE:
        _refuse_search(changes, interval_s, scope, best)
    inner = (score[1:-1] >= score[:-2]) & (score[1:-1] >= score[2:]) & (score[1:-1] >= FUNDAMENTAL_SHARE * best)
    peaks = np.flatnonzero(inner) + 1
    chosen = int(peaks[-1]) if len(peaks) else int(score.argmax())
    return float(grid_s[chosen]), float(score[chosen])


def _scores(t_s: FloatArray, grid_s: FloatArray) -> FloatArray:
    """Mean cosine of 2πD/T for each T of the grid."""
    differences = np.concatenate([t_s[lag:] - t_s[:-lag] for lag in range(1, min(LAGS, len(t_s) - 1) + 1)])
    return np.array([np.cos(2 * np.pi / period * differences).mean() for period in grid_s])


def _refined(middle_s: FloatArray, start_s: float, score: float, changes: Changes, scope: str) -> UpdatePeriod:
    """Pooled least squares over segments, and acceptance."""
    period_s = start_s
    for _ in range(5):
        ticks = number_ticks(middle_s, period_s, slack_s=changes.gap_p95_s / 2)
        weight = float(ticks.tick @ ticks.tick)
        if weight == 0:
            _refuse_search(changes, np.diff(middle_s), scope, score)
        period_s = float(ticks.tick @ ticks.time_s) / weight
    residual = ticks.time_s - period_s * ticks.tick
    segments = int(ticks.segment[-1]) + 1
    variance = float(residual @ residual) / max(1, len(residual) - segments - 1)
    _accept(period_s, math.sqrt(variance), changes, scope)
    sharp = _sharp(changes)
    before_s, after_s = changes.before_s[sharp], changes.after_s[sharp]
    on_comb_s = ticks.centre_s + period_s * ticks.tick
    lines = [
        (_line(before_s[own] - on_comb_s[own], after_s[own] - on_comb_s[own], ticks.tick[own]), own)
        for own in (ticks.segment == segment for segment in _largest(ticks))
    ]
    weights = np.array([line.u_slope_s**-2 for line, _ in lines])
    line, own = lines[0]
    middle = int(np.flatnonzero(own)[np.abs(ticks.tick[own]).argmin()])
    tick_s = float(on_comb_s[middle]) + line.shift_s + line.slope_s * float(ticks.tick[middle])
    period_s += float(weights @ [line.slope_s for line, _ in lines]) / float(weights.sum())
    return UpdatePeriod(
        period_s=period_s,
        u_period_s=1 / math.sqrt(float(weights.sum())),
        origin_ns=changes.origin_ns,
        phase_s=tick_s,
        u_phase_s=line.u_shift_s,
        segments=segments,
        n_changes=len(residual),
        residual_s=math.sqrt(variance),
        gap_p95_s=changes.gap_p95_s,
        score=score,
    )


def _largest(ticks: NumberedTicks) -> list[int]:
    """The largest segments with enough changes for a line, largest first; the largest of all in any case."""
    size = np.bincount(ticks.segment)
    order = np.argsort(-size, kind="stable")[:MAX_SEGMENTS]
    return [int(segment) for segment in order if size[segment] >= MIN_CHANGES or segment == order[0]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """``shift + slope · tick``: what the changes of one segment add to an assumed comb."""

    shift_s: float
    u_shift_s: float
    slope_s: float
    u_slope_s: float


def _line(low_s: FloatArray, high_s: FloatArray, tick: FloatArray) -> _Line:
    """Line through intervals [low, high] in which the changes are known to lie, up to the sensor's jitter.

    Least squares on the middles is not enough: polls on a grid that beats slowly with the updates see every change late for a while,
    then early. Here each interval has the likelihood ``Φ((high − x)/σ) − Φ((low − x)/σ)``; the jitter σ is a nuisance, the posterior
    is summed on a grid that zooms in.
    """
    width_s = float(np.median(high_s - low_s))
    if width_s <= 0:
        return _exact_line(low_s, tick)
    reach = max(1.0, float(np.abs(tick).max()))
    stride = max(1, len(tick) // CENSORED_CHANGES)
    low_s, high_s, tick = low_s[::stride], high_s[::stride], tick[::stride] / reach
    centre, half = np.zeros(2), np.full(2, width_s)
    for _ in range(3):
        axes = centre[:, None] + half[:, None] * np.linspace(-1, 1, 31)
        weight = _posterior(low_s, high_s, tick, axes, width_s)
        marginals = (weight.sum(axis=1), weight.sum(axis=0))
        centre = np.array([m @ axis for m, axis in zip(marginals, axes, strict=True)])
        variance = np.array([m @ (axis - mean) ** 2 for m, axis, mean in zip(marginals, axes, centre, strict=True)])
        u = np.sqrt(variance + (half / 15) ** 2 / 12)  # the grid's own step counts too
        half = np.minimum(half, 4 * u)
    from_line_s = (low_s + high_s) / 2 - centre[0] - centre[1] * tick
    if float(from_line_s.std()) < IN_STEP_SHARE * width_s / math.sqrt(12):
        u[0] = max(u[0], width_s / math.sqrt(12))  # polls in step with updates: all lie at the same place between two polls
    return _Line(shift_s=float(centre[0]), u_shift_s=float(u[0]), slope_s=float(centre[1]) / reach, u_slope_s=float(u[1]) / reach)


def _exact_line(time_s: FloatArray, tick: FloatArray) -> _Line:
    """Least squares, for instants known exactly, as from a driver's buffer; tick numbers are centred."""
    weight = max(1.0, float(tick @ tick))
    slope_s = float(tick @ time_s) / weight
    spread_s = max(float(np.std(time_s - slope_s * tick)), 1e-9)
    return _Line(
        shift_s=float(time_s.mean()), u_shift_s=spread_s / math.sqrt(len(time_s)), slope_s=slope_s, u_slope_s=spread_s / math.sqrt(weight)
    )  # fmt: skip


def _posterior(low_s: FloatArray, high_s: FloatArray, tick: FloatArray, axes: FloatArray, width_s: float) -> FloatArray:
    """Weights of a grid of shifts and slopes, summing to 1, shape (shifts, slopes)."""
    x = axes[0][:, None, None] + axes[1][None, :, None] * tick
    log_posterior = []
    for share in JITTER_SHARES:
        inside = special.ndtr((high_s - x) / (share * width_s)) - special.ndtr((low_s - x) / (share * width_s))
        log_posterior.append(np.log(np.maximum(inside, 1e-6)).sum(axis=-1))  # a floor, because some changes are outliers
    stacked = np.array(log_posterior)
    weight = np.exp(stacked - stacked.max()).sum(axis=0)
    out: FloatArray = weight / weight.sum()
    return out


def _comb_times(before_s: FloatArray, after_s: FloatArray, ticks: NumberedTicks, period_s: float) -> FloatArray:
    """Comb instants of changes between ``before`` and ``after``, each segment with its own phase."""
    t_s = ticks.centre_s + period_s * ticks.tick
    for segment in _largest(ticks) if len(t_s) else ():
        own = ticks.segment == segment
        t_s[own] += _line(before_s[own] - t_s[own], after_s[own] - t_s[own], ticks.tick[own]).shift_s
    return t_s


def _accept(period_s: float, residual_s: float, changes: Changes, scope: str) -> None:
    """Refuse a comb that polls cannot resolve, or that its own changes do not keep."""
    if changes.gap_p95_s >= period_s / POLL_RATIO:
        _refuse_coarse(changes, period_s, scope)
    limit_s = MAX_RESIDUAL_RATIO * period_s
    if residual_s >= limit_s:
        refuse(
            "update period: comb",
            scope=scope,
            measured=residual_s,
            limit=limit_s,
            unit="s",
            reason=f"changes scatter by {residual_s * 1e3:.2g} ms about a comb of {period_s * 1e3:.4g} ms (limit {limit_s * 1e3:.2g} ms)",
            remedy="Poll faster from a process of its own, and end other readers of this device.",
        )


def _refuse_search(changes: Changes, interval_s: FloatArray, scope: str, score: float = 0.0) -> NoReturn:
    """Refuse with the most likely cause."""
    quick = changes.value.size > 2 and float(np.mean(_revisits(changes)))
    if quick and quick > CACHE_REVISITS:
        refuse(
            "update period: caches",
            scope=scope,
            measured=quick,
            limit=CACHE_REVISITS,
            unit="1",
            reason=f"{quick:.0%} of the changes go straight back to the value before (limit {CACHE_REVISITS:.0%}): two caches answer",
            remedy="Read through one handle in one process, and end other monitors of this device.",
        )
    typical_s = float(np.percentile(interval_s, 25)) if len(interval_s) else 0.0
    if typical_s < POLL_RATIO * changes.gap_p95_s:
        _refuse_coarse(changes, typical_s, scope)
    refuse(
        "update period: comb",
        scope=scope,
        measured=score,
        limit=MIN_SCORE,
        unit="1",
        reason=f"the changes keep no comb: best mean cosine {score:.2f} (needed: {MIN_SCORE}) over {len(changes.value)} changes",
        remedy="Poll for longer under a load that toggles, and end other readers of this device.",
    )


def _revisits(changes: Changes) -> BoolArray:
    """For each change from the third: back to the value before last, sooner than three polls."""
    middle_s = changes.middle_s
    soon = middle_s[2:] - middle_s[1:-1] < 3 * changes.gap_p95_s
    return np.asarray(soon & (changes.value[2:] == changes.value[:-2]))


def _refuse_coarse(changes: Changes, period_s: float, scope: str) -> NoReturn:
    limit_s = period_s / POLL_RATIO
    refuse(
        "update period: polls",
        scope=scope,
        measured=changes.gap_p95_s,
        limit=limit_s,
        unit="s",
        reason=f"polls are {changes.gap_p95_s * 1e3:.3g} ms apart (95th percentile), too coarse for updates "
        f"about {period_s * 1e3:.3g} ms apart (limit {limit_s * 1e3:.3g} ms)",
        remedy=f"Poll at least every {limit_s * 1e3:.2g} ms, or use the driver's sample buffer.",
    )
