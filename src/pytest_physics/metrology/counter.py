"""Energy of windows from a hardware energy counter.

A counter advances in ticks (about 100 ms on current GPUs) and is polled; the instant of a tick lies between two polls. Between
ticks it says nothing, so two naive reads err by P·T_E/√6. Two estimators, by name in every result:

* ``counter, idle-bracketed``: from the last tick before the window to the first tick after it, less idle power over the surplus.
  Exact for work between idle stretches, up to the counter's step. Needs idle before and after, as the extended window does.
* ``counter, interpolated``: linear between the ticks around each edge, with P·T_E/√6 for both edges together.

A decrease of the counter inside what was used makes the window NO_DATA: subtracting a reset counter has produced energies of
billions of joules elsewhere. Whether a card's counter inherits its sensor's dead time is documented nowhere: compare with
:func:`~pytest_physics.metrology.energy.mismatch` before trusting either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike

from pytest_physics.metrology.gaps import GAP_THRESHOLD_S, Gaps
from pytest_physics.metrology.power_series import valid_samples
from pytest_physics.metrology.response import UNCALIBRATED_GAIN
from pytest_physics.metrology.updates import BoolArray, FloatArray, IntArray, seconds_since, typical_interval_s
from pytest_physics.metrology.window_energies import Estimator, IdlePower, Term, WindowEnergies, limit_s, window_bounds

MIN_TICKS = 10
"""A counter is preferred to the power integral from this many ticks inside the window."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CounterSeries:
    """A counter's trace made ready for any number of windows. Built by :meth:`of`."""

    origin_ns: int
    first_s: float
    last_s: float
    """First and last valid sample, in seconds from the origin; +inf and −inf without any."""
    tick_s: FloatArray
    """Instants of the ticks, shape (K,)."""
    tick_j: FloatArray
    """Counter after each tick, less its first value, shape (K,)."""
    reset_s: FloatArray
    """Samples at which the counter was lower than before."""
    gaps: Gaps
    tick_period_s: float
    """Median interval between ticks; infinite with fewer than two."""
    poll_s: float
    resolution_j: float
    u_gain: float

    @classmethod
    def of(
        cls,
        t_ns: IntArray,
        energy_j: FloatArray,
        *,
        resolution_j: float = 0.001,
        u_gain: float = UNCALIBRATED_GAIN,
        gap_threshold_s: float = GAP_THRESHOLD_S,
    ) -> CounterSeries:
        """Build from samples, shape (N,), NaN where the read failed."""
        t, energy = valid_samples(t_ns, energy_j)
        origin_ns = int(t[0]) if len(t) else 0
        s = seconds_since(t, origin_ns)
        moved = np.flatnonzero(energy[1:] != energy[:-1]) + 1
        tick_s = (s[moved] + s[moved - 1]) / 2
        return cls(
            origin_ns=origin_ns,
            first_s=float(s[0]) if len(s) else math.inf,
            last_s=float(s[-1]) if len(s) else -math.inf,
            tick_s=tick_s,
            tick_j=energy[moved] - energy[0] if len(s) else energy,
            reset_s=s[moved[energy[moved] < energy[moved - 1]]],
            gaps=Gaps.of(t, origin_ns, gap_threshold_s),
            tick_period_s=float(np.median(np.diff(tick_s))) if len(tick_s) > 1 else math.inf,
            poll_s=typical_interval_s(t),
            resolution_j=resolution_j,
            u_gain=u_gain,
        )

    @property
    def tick_jitter_s(self) -> float:
        """Standard uncertainty of the instant of a tick."""
        return self.poll_s / math.sqrt(12)

    def was_reset(self, start_s: FloatArray, end_s: FloatArray) -> BoolArray:
        """Whether the counter fell between two instants, shape (M,)."""
        fell: BoolArray = np.searchsorted(self.reset_s, end_s, side="right") > np.searchsorted(self.reset_s, start_s, side="right")
        return fell


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ticks:
    """The ticks around each window: indexes, and whether both exist."""

    before: IntArray
    after: IntArray
    exist: BoolArray


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """Net energy by one estimator, NaN where it cannot speak, with edge and baseline terms."""

    net_j: FloatArray
    edges_j: FloatArray
    baseline_net_j: FloatArray
    baseline_gross_j: FloatArray
    start_s: FloatArray
    end_s: FloatArray

    def u_j(self) -> FloatArray:
        """Uncertainty of net energy, infinite where there is no value."""
        return np.where(np.isfinite(self.net_j), np.hypot(self.edges_j, self.baseline_net_j), np.inf)


def counter_energy(
    series: CounterSeries,
    t0_ns: ArrayLike,
    t1_ns: ArrayLike,
    *,
    idle: IdlePower,
    beside: tuple[IdlePower, IdlePower] | None = None,
    head_limit_ns: ArrayLike | None = None,
    tail_limit_ns: ArrayLike | None = None,
    settle_s: float = 0.0,
) -> WindowEnergies:
    """Gross and net energy of M windows from the counter.

    Parameters
    ----------
    series
        The counter's trace.
    t0_ns, t1_ns
        Windows, shape (M,), each t1 > t0.
    idle
        Idle power in the same state of the device.
    beside
        Idle power just before and just after the windows, where they differ: a card that was in deep idle before an event stays in its
        working state for seconds after it. Taken off the surplus at that end; None takes ``idle`` for both.
    head_limit_ns, tail_limit_ns
        Latest end of other work before, earliest start of other work after each window; None where there was none.
    settle_s
        How long after its end an event may still enter the counter: the sensor's tail where the counter sums its readings.
    """
    t0, t1 = window_bounds(t0_ns, t1_ns)
    t0_s, t1_s = seconds_since(t0, series.origin_ns), seconds_since(t1, series.origin_ns)
    length_s, idle_w = t1_s - t0_s, idle.at((t0 + t1) // 2)
    inside = np.searchsorted(series.tick_s, t1_s, side="right") - np.searchsorted(series.tick_s, t0_s, side="left")
    limits = (
        limit_s(head_limit_ns, series.origin_ns, len(t0), -math.inf),
        limit_s(tail_limit_ns, series.origin_ns, len(t0), math.inf),
    )
    beside_w = tuple(level.at((t0 + t1) // 2) for level in beside or (idle, idle))
    bracket = _bracketed(series, t0_s, t1_s, idle_w=idle_w, beside_w=beside_w, idle=idle, limits_s=limits, settle_s=settle_s)
    inner = _interpolated(series, t0_s, t1_s, idle_w, idle)
    wins = bracket.u_j() <= inner.u_j()
    chosen = _either(wins, bracket, inner)
    resets = series.was_reset(chosen.start_s, chosen.end_s) | series.was_reset(t0_s, t1_s)
    net = np.where(resets, np.nan, chosen.net_j)
    gross = net + idle_w * length_s
    within = (t0_s >= series.first_s) & (chosen.end_s <= series.last_s)
    known = np.isfinite(net) & within
    step = np.full(len(t0), series.resolution_j / math.sqrt(6))
    gap_s, span_s = series.gaps.covered_s(t0_s, t1_s), series.gaps.covered_s(chosen.start_s, chosen.end_s)
    return WindowEnergies(
        t0_ns=t0,
        t1_ns=t1,
        gross_j=np.where(known, gross, np.nan),
        net_j=np.where(known, net, np.nan),
        terms={
            "gain": Term(gross_j=series.u_gain * gross, net_j=series.u_gain * net),
            "quantisation": Term(gross_j=step, net_j=step),
            "edges": Term(gross_j=chosen.edges_j, net_j=chosen.edges_j),
            "baseline": Term(gross_j=chosen.baseline_gross_j, net_j=chosen.baseline_net_j, dof=idle.dof),
        },
        estimator=np.where(wins, Estimator.COUNTER_BRACKETED, Estimator.COUNTER_INTERPOLATED).astype(np.int8),
        n_updates=inside,
        gap_fraction=np.maximum(gap_s / length_s, span_s / np.maximum(chosen.end_s - chosen.start_s, length_s)),
        longest_gap_s=series.gaps.longest_in_s(np.minimum(chosen.start_s, t0_s), np.maximum(chosen.end_s, t1_s)),
        bracketed=within & (known | resets),
        interrupted=resets,
        dispersion_w=np.full(len(t0), np.nan),
        coverage=1.0,
        idle=idle,
    )


def _either(wins: BoolArray, first: _Candidate, second: _Candidate) -> _Candidate:
    """``first`` where it wins, window by window, else ``second``."""
    return _Candidate(
        **{field.name: np.where(wins, getattr(first, field.name), getattr(second, field.name)) for field in fields(_Candidate)}
    )


def preferred(counter: WindowEnergies, integral: WindowEnergies) -> BoolArray:
    """Where the counter is to be preferred: enough ticks, and the smaller uncertainty of net energy, common scale apart.

    With enough ticks it is always preferred to a sensor that looks only part of the time: no uncertainty of that integral covers
    a load in step with the sensor.
    """
    enough = (counter.n_updates >= MIN_TICKS) & np.isfinite(counter.net_j)
    partial = np.full(len(integral), integral.coverage < 1)
    return enough & (partial | ~np.isfinite(integral.net_j) | (counter.u_net_j() < integral.u_net_j()))


def _ticks(series: CounterSeries, from_s: FloatArray, to_s: FloatArray) -> _Ticks:
    """Last tick at or before ``from``, first at or after ``to``."""
    before = np.searchsorted(series.tick_s, from_s, side="right") - 1
    after = np.searchsorted(series.tick_s, to_s, side="left")
    count = len(series.tick_s)
    top = max(count - 1, 0)
    return _Ticks(before=np.clip(before, 0, top), after=np.clip(after, 0, top), exist=(before >= 0) & (after < count))


def _power_before(series: CounterSeries, tick: IntArray) -> FloatArray:
    """Mean power over the tick that ends at index ``tick``."""
    earlier = np.maximum(tick - 1, 0)
    length = series.tick_s[tick] - series.tick_s[earlier]
    power: FloatArray = (series.tick_j[tick] - series.tick_j[earlier]) / np.where(length > 0, length, np.nan)
    return power


def _bracketed(
    series: CounterSeries,
    t0_s: FloatArray,
    t1_s: FloatArray,
    *,
    idle_w: FloatArray,
    beside_w: tuple[FloatArray, ...],
    idle: IdlePower,
    limits_s: tuple[FloatArray, FloatArray],
    settle_s: float,
) -> _Candidate:
    """From tick to tick around the window, less idle over the surplus, at each end that which was there."""
    if len(series.tick_s) < 3:
        return _nothing(t0_s, t1_s)
    jitter_s = series.tick_jitter_s
    # a tick's instant is known to one poll interval: keep that distance from the window
    ticks = _ticks(series, t0_s - series.poll_s, t1_s + settle_s + series.poll_s)
    start_s, end_s = series.tick_s[ticks.before], series.tick_s[ticks.after]
    surplus_s = (end_s - start_s) - (t1_s - t0_s)
    idle_j = beside_w[0] * (t0_s - start_s) + idle_w * (t1_s - t0_s) + beside_w[1] * (end_s - t1_s)
    net = series.tick_j[ticks.after] - series.tick_j[ticks.before] - idle_j
    clear = ticks.exist & (limits_s[0] + settle_s <= start_s) & (end_s <= limits_s[1])
    last = len(series.tick_s) - 1
    before_w = np.abs(_power_before(series, ticks.before) - beside_w[0])
    after_w = np.abs(_power_before(series, np.minimum(ticks.after + 1, last)) - beside_w[1])
    # power beside the bracket that differs from idle by more than tick timing explains may also lie inside it
    u_beside_w = np.hypot(idle.u_with_drift_w, (2 * np.abs(idle_w) * jitter_s + series.resolution_j) / series.tick_period_s)
    head_j = np.where(before_w > 3 * u_beside_w, before_w, 0.0) * (t0_s - start_s)
    tail_j = np.where(after_w > 3 * u_beside_w, after_w, 0.0) * (end_s - t1_s)
    return _Candidate(
        net_j=np.where(clear & np.isfinite(before_w) & np.isfinite(after_w), net, np.nan),
        edges_j=np.hypot(math.sqrt(2) * jitter_s * np.abs(idle_w), (head_j + tail_j) / math.sqrt(3)),
        baseline_net_j=-idle.u_with_drift_w * (end_s - start_s),
        baseline_gross_j=-idle.u_with_drift_w * surplus_s,
        start_s=start_s,
        end_s=end_s,
    )


def _interpolated(series: CounterSeries, t0_s: FloatArray, t1_s: FloatArray, idle_w: FloatArray, idle: IdlePower) -> _Candidate:
    """Counter interpolated at both edges."""
    if len(series.tick_s) < 2:
        return _nothing(t0_s, t1_s)
    ticks = _ticks(series, t0_s, t1_s)
    net = np.interp(t1_s, series.tick_s, series.tick_j) - np.interp(t0_s, series.tick_s, series.tick_j) - idle_w * (t1_s - t0_s)
    count = len(series.tick_s)
    # the largest mean power near either edge stands for the step there
    near = [ticks.before + 1, ticks.before + 2, ticks.after, ticks.after - 1]
    peak = np.zeros(len(t0_s))
    for tick in near:
        power = np.abs(_power_before(series, np.clip(tick, 1, count - 1)) - idle_w)
        peak = np.maximum(peak, np.where(np.isfinite(power), power, 0.0))
    period_s = max(series.tick_period_s, series.poll_s)
    zero = np.zeros(len(t0_s))
    return _Candidate(
        net_j=np.where(ticks.exist, net, np.nan),
        edges_j=np.hypot(peak * period_s / math.sqrt(6), (peak + np.abs(idle_w)) * math.sqrt(2) * series.tick_jitter_s),
        baseline_net_j=-idle.u_with_drift_w * (t1_s - t0_s),
        baseline_gross_j=zero,
        start_s=t0_s,
        end_s=np.where(ticks.exist, series.tick_s[ticks.after], t1_s),
    )


def _nothing(t0_s: FloatArray, t1_s: FloatArray) -> _Candidate:
    """A counter that hardly ticked has nothing to say."""
    nan = np.full(len(t0_s), np.nan)
    return _Candidate(net_j=nan, edges_j=nan, baseline_net_j=nan, baseline_gross_j=nan, start_s=t0_s, end_s=t1_s)
