"""Energy of windows from polled power readings, with the uncertainty budget of each.

Readings are integrated as :mod:`~pytest_physics.metrology.power_series` describes, through one cumulative sum per series; each
window then costs a few binary searches, O(log N).

**Estimators**, by name in every result:

* ``extended window``: above-idle energy = ∫ (y − P_idle) from t0 to t1 + W + 7τ + d + T; net is that, gross adds
  P_idle·(t1 − t0). A sensor with W an integer multiple of T weighs every instant exactly once (Σ_k T·h(t − kT) = 1), so a single
  event far shorter than its window is exact up to noise. It needs an idle device before and after: ``head_limit_ns`` and
  ``tail_limit_ns`` say where other work ends and begins, and readings above idle at both ends go into the budget.
* ``in-window, shifted``: ∫ y from t0 + c to t1 + c, where c = d + W/2 + τ + T/2 is the centroid of the sensor's response,
  corrected for what steps at the window's edges lose to its width, with that correction as an edge term. For windows inside
  continuous work.

Of the two the one with the smaller uncertainty is taken. Nothing is clamped, and the bare in-window trapezoid is not offered: it
is low by T over the length of the window.

**What it cannot see.** A sensor that looks only a share of the time (W < T) reports whatever its phase shows it. The term
``under-sampling`` covers edges at unknown phase and the scatter of the readings, but no scatter betrays a load in step with the
sensor: only phase-stratified repetition, or a counter, does. Gain and offset are not applied, only their uncertainties.

**Fails as** NaN with ``bracketed`` false where no valid sample lies on both sides (a dead sampler); gaps are measured, put into
the budget and lower the tier.

Reference: GUM (JCGM 100:2008); sensor timing after Yang, Adamek, Armour (arXiv 2312.02741).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pytest_physics.metrology.power_series import PowerSeries
from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.updates import FloatArray, IntArray, comb_is_visible, seconds_since
from pytest_physics.metrology.window_energies import (
    EnergyEstimates,
    Estimator,
    IdlePower,
    Term,
    WindowEnergies,
    limit_s,
    mismatch,
    net_of_baseline,
    root_sum_square,
    window_bounds,
    window_estimates,
)

__all__ = [
    "EnergyEstimates",
    "Estimator",
    "IdlePower",
    "PowerSeries",
    "Term",
    "WindowEnergies",
    "edge_ripple_s",
    "mismatch",
    "net_of_baseline",
    "window_energy",
    "window_estimates",
]

NOISE_FLOOR_FACTOR = 3.0
"""A reading this many standard deviations above idle is taken as work, not as noise."""
OWN_JITTER = 0.25
"""Share of the jitter of changes on the comb that is each change's own: the rest is the comb's, common to neighbours."""
LAG_REST = math.exp(-7)
"""Part of a first-order response that lies beyond seven time constants."""
HALF_MEAN_DEVIATION = 0.41
"""E|X|/2 over the standard deviation: 0.43 for a box, 0.41 for a triangle, 0.40 for a normal, 0.37 for an exponential."""


def edge_ripple_s(sensor: SensorModel, step_s: float) -> float:
    """Standard deviation, over the unknown phase of the comb, of the time by which one power step is misplaced, in seconds.

    A sum over updates weighs the instant t with ρ(t) = Σ_k S·h(t − kS), which has mean 1 and period S. A step of ΔP costs ΔP·R, R
    the antiderivative of ρ − 1; by Parseval Var R = 2·Σ_m |H(m/S)|²·(S/2πm)². Zero for a box with W an integer multiple of S,
    S/√12 for a sensor that looks at points. Averaged over the uncertainty of W, τ and T (Gauss–Hermite, three points).
    """
    m = np.arange(1, 401)
    variance = 0.0
    u_ratio = math.hypot(sensor.u_window_s, sensor.window_s * sensor.u_update_period_s / sensor.update_period_s)
    for node, weight in ((-math.sqrt(3), 1 / 6), (0.0, 2 / 3), (math.sqrt(3), 1 / 6)):
        window = max(0.0, sensor.window_s + node * u_ratio)
        lag = max(0.0, sensor.lag_s + node * sensor.u_lag_s)
        transfer = np.square(np.sinc(m * window / step_s)) / (1 + np.square(2 * np.pi * m * lag / step_s))
        variance += weight * 2 * float(np.sum(transfer * np.square(step_s / (2 * np.pi * m))))
    return math.sqrt(variance)


# --- windows ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Windows:
    """Windows in seconds from the series' origin, with what both estimators need."""

    t0_s: FloatArray
    t1_s: FloatArray
    head_limit_s: FloatArray
    tail_limit_s: FloatArray
    idle_w: FloatArray
    beside_w: tuple[FloatArray, FloatArray]
    """Idle power before and after each window."""
    u_idle_w: float
    idle_dof: float
    u_clock_s: float
    n_updates: IntArray
    above_j: FloatArray
    """∫ (y − P_idle) from t0 to t1 + tail."""
    centred_j: FloatArray
    """∫ y over the window moved by the response's centroid."""
    dispersion_w: FloatArray
    """Standard deviation of the readings there."""
    level_w: tuple[FloatArray, ...]
    """Readings at t0, t0 + tail, t1 and t1 + tail."""
    step_w: FloatArray
    """Scale of the power steps in the window, ΔP: the larger of mean above-idle power and rms reading."""
    interior_j: FloatArray
    """Under-sampling by scatter inside the window."""

    @property
    def length_s(self) -> FloatArray:
        return self.t1_s - self.t0_s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """Energies by one estimator; NaN where it cannot speak."""

    gross_j: FloatArray
    net_j: FloatArray
    end_s: FloatArray
    """Up to where readings were used."""
    terms: dict[str, Term]

    def u_j(self) -> FloatArray:
        """Uncertainty of net energy, infinite where there is no value."""
        u = root_sum_square(*(term.net_j for term in self.terms.values()))
        return np.where(np.isfinite(self.net_j), u, np.inf)


def window_energy(
    series: PowerSeries,
    t0_ns: ArrayLike,
    t1_ns: ArrayLike,
    *,
    idle: IdlePower,
    beside: tuple[IdlePower, IdlePower] | None = None,
    head_limit_ns: ArrayLike | None = None,
    tail_limit_ns: ArrayLike | None = None,
    u_clock_s: float = 0.0,
) -> WindowEnergies:
    """Gross and net energy of M windows.

    Parameters
    ----------
    series
        The trace.
    t0_ns, t1_ns
        Windows, shape (M,), each t1 > t0.
    idle
        Idle power in the same state of the device.
    beside
        Idle power just before and just after the windows, where they differ and ``idle`` weighs them as the readings do; None where they
        are the same. Readings at the ends that are as they are need no allowance.
    head_limit_ns
        Latest end of other work before each window, shape (M,); None where the device was idle before all of them.
    tail_limit_ns
        Earliest start of other work after each window, shape (M,); None where there was none.
    u_clock_s
        Standard uncertainty between the host's stamps and the work on the device.
    """
    t0, t1 = window_bounds(t0_ns, t1_ns)
    head_s = limit_s(head_limit_ns, series.origin_ns, len(t0), -math.inf)
    tail_s = limit_s(tail_limit_ns, series.origin_ns, len(t0), math.inf)
    order = np.argsort(t0, kind="stable")  # searches in order of time stay in the cache: twice as fast
    limits = head_s[order], tail_s[order]
    energies = _energies(series, t0[order], t1[order], idle=idle, beside=beside or (idle, idle), limits_s=limits, u_clock_s=u_clock_s)
    return energies.take(np.argsort(order, kind="stable"))


def _energies(
    series: PowerSeries,
    t0: IntArray,
    t1: IntArray,
    *,
    idle: IdlePower,
    beside: tuple[IdlePower, IdlePower],
    limits_s: tuple[FloatArray, FloatArray],
    u_clock_s: float,
) -> WindowEnergies:
    """Both estimators for every window, the better one chosen."""
    windows = _prepare(series, t0, t1, idle=idle, beside=beside, limits_s=limits_s, u_clock_s=u_clock_s)
    extended, shifted = _extended(series, windows), _shifted(series, windows)
    wins = extended.u_j() <= shifted.u_j()
    net = np.where(wins, extended.net_j, shifted.net_j)
    gross = np.where(wins, extended.gross_j, shifted.gross_j)
    end_s = np.where(wins, extended.end_s, shifted.end_s)
    terms = {label: term.where(wins, shifted.terms[label]) for label, term in extended.terms.items()}
    gap_s = series.gaps.covered_s(windows.t0_s, windows.t1_s)
    span_gap_s = series.gaps.covered_s(windows.t0_s, end_s)
    gap_j = windows.step_w * span_gap_s / math.sqrt(3)
    terms["gaps"] = Term(gross_j=gap_j, net_j=gap_j)
    terms["gain"] = Term(gross_j=series.sensor.u_gain * gross, net_j=series.sensor.u_gain * net)
    terms["offset"] = Term(gross_j=series.sensor.u_offset_w * windows.length_s, net_j=np.zeros(len(t0)))
    bracketed = np.isfinite(net)
    return WindowEnergies(
        t0_ns=t0,
        t1_ns=t1,
        gross_j=gross,
        net_j=net,
        terms=terms,
        estimator=np.where(bracketed, np.where(wins, Estimator.EXTENDED, Estimator.SHIFTED), Estimator.NONE).astype(np.int8),
        n_updates=windows.n_updates,
        gap_fraction=np.maximum(gap_s / windows.length_s, span_gap_s / (end_s - windows.t0_s)),
        longest_gap_s=series.gaps.longest_in_s(windows.t0_s, end_s),
        bracketed=bracketed,
        interrupted=np.zeros(len(t0), bool),
        dispersion_w=windows.dispersion_w,
        coverage=series.coverage,
        idle=idle,
    )


def _prepare(
    series: PowerSeries,
    t0_ns: IntArray,
    t1_ns: IntArray,
    *,
    idle: IdlePower,
    beside: tuple[IdlePower, IdlePower],
    limits_s: tuple[FloatArray, FloatArray],
    u_clock_s: float,
) -> _Windows:
    t0, t1 = seconds_since(t0_ns, series.origin_ns), seconds_since(t1_ns, series.origin_ns)
    n_updates = np.searchsorted(series.update_s, t1, side="right") - np.searchsorted(series.update_s, t0, side="left")
    idle_w = idle.at((t0_ns + t1_ns) // 2)
    tail_s = series.sensor.tail_s
    above_j = series.integral_j(t1 + tail_s) - series.integral_j(t0) - idle_w * (t1 + tail_s - t0)
    shift_s = centroid_s(series.sensor)
    mean, deviation = series.moments(t0 + shift_s, t1 + shift_s)
    step = np.maximum(np.abs(above_j) / (t1 - t0), np.hypot(mean - idle_w, deviation))
    return _Windows(
        t0_s=t0,
        t1_s=t1,
        head_limit_s=limits_s[0],
        tail_limit_s=limits_s[1],
        idle_w=idle_w,
        beside_w=(beside[0].at(t0_ns), beside[1].at(t1_ns)),
        u_idle_w=idle.u_with_drift_w,
        idle_dof=idle.dof,
        u_clock_s=u_clock_s,
        n_updates=n_updates,
        above_j=above_j,
        centred_j=mean * (t1 - t0),
        dispersion_w=deviation,
        level_w=tuple(series.level_at_w(t) for t in (t0, t0 + tail_s, t1, t1 + tail_s)),
        step_w=np.maximum(step, _possibly_missed_w(series, n_updates, idle_w)),
        interior_j=_interior_scatter(series, t0, t1),
    )


def centroid_s(sensor: SensorModel) -> float:
    """How much later than the power its readings stand, on average: c = d + W/2 + τ + T/2."""
    return sensor.delay_s + sensor.window_s / 2 + sensor.lag_s + sensor.update_period_s / 2


def _possibly_missed_w(series: PowerSeries, n_updates: IntArray, idle_w: FloatArray) -> FloatArray:
    """Where a sensor that looks away may have missed the event altogether: the largest step it ever showed."""
    if series.coverage >= 1:
        return np.zeros(len(n_updates))
    return np.where(n_updates < 2, float(np.max(series.level_w)) - idle_w, 0.0)


def _interior_scatter(series: PowerSeries, t0_s: FloatArray, t1_s: FloatArray) -> FloatArray:
    """√(1 − coverage)·sd·√(S·t): readings wholly inside the window, taken as a sample of what was not looked at."""
    if series.coverage >= 1:
        return np.zeros(len(t0_s))
    sensor = series.sensor
    from_s, to_s = t0_s + sensor.delay_s + sensor.window_s + 7 * sensor.lag_s, t1_s + sensor.delay_s
    _, deviation = series.moments(from_s, to_s)
    enough = to_s - from_s > 2 * series.step_s
    return np.where(enough, deviation * np.sqrt((1 - series.coverage) * series.step_s * (t1_s - t0_s)), 0.0)


def _extended(series: PowerSeries, w: _Windows) -> _Candidate:
    """Above-idle energy from t0 to t1 + tail, where nothing else ran in reach."""
    sensor = series.sensor
    end_s = w.t1_s + sensor.tail_s
    length_s = end_s - w.t0_s
    clear = (w.head_limit_s + sensor.tail_s <= w.t0_s) & (end_s <= w.tail_limit_s + sensor.delay_s)
    seen = (w.t0_s >= series.first_s) & (end_s <= series.last_s)
    net = np.where(clear & seen, w.above_j, np.nan)
    timing_s = math.sqrt(2 * min(1.0, series.step_s / max(sensor.effective_window_s, 1e-9))) * series.change_jitter_s
    if comb_is_visible(series.poll_s, sensor.update_period_s):  # a comb that is late as a whole costs nothing between idle stretches
        timing_s *= OWN_JITTER
    edges = root_sum_square(
        w.step_w * timing_s,
        w.step_w * sensor.u_update_period_s,
        w.step_w * sensor.lag_s * LAG_REST,
        _rest_above_idle_j(series, w),
    )
    ripple = math.sqrt(2) * edge_ripple_s(sensor, series.step_s) * w.step_w
    zero = np.zeros(len(net))
    terms = _sampling_terms(series, length_s, edges, ripple, w.interior_j)
    terms["baseline"] = Term(gross_j=-w.u_idle_w * (length_s - w.length_s), net_j=-w.u_idle_w * length_s, dof=w.idle_dof)
    terms["clock sync"] = Term(gross_j=math.sqrt(2) * w.u_clock_s * np.abs(w.idle_w), net_j=zero)
    return _Candidate(gross_j=net + w.idle_w * w.length_s, net_j=net, end_s=end_s, terms=terms)


def _rest_above_idle_j(series: PowerSeries, w: _Windows) -> FloatArray:
    """Energy that is not the window's, if readings above idle at the ends stood for as long as they can; rectangular."""
    floor = NOISE_FLOOR_FACTOR * math.hypot(series.noise_w, w.u_idle_w, series.sensor.resolution_w)
    before = np.abs(w.level_w[0] - w.beside_w[0])
    after = np.abs(w.level_w[3] - w.beside_w[1])
    head_s = series.sensor.tail_s - series.sensor.update_period_s
    total = np.where(before > floor, before, 0.0) * head_s + np.where(after > floor, after, 0.0) * series.sensor.tail_s
    rest: FloatArray = total / math.sqrt(3)
    return rest


def _shifted(series: PowerSeries, w: _Windows) -> _Candidate:
    """Readings over the window moved by the response's centroid, with what steps at the edges lose to its width."""
    sensor = series.sensor
    end_s = w.t1_s + centroid_s(sensor)
    width_s = math.sqrt((sensor.window_s**2 + series.step_s**2) / 12 + sensor.lag_s**2)
    loss_s = HALF_MEAN_DEVIATION * width_s
    long = w.length_s >= sensor.tail_s
    rise, fall = w.level_w[1] - w.level_w[0], w.level_w[2] - w.level_w[3]
    gross = w.centred_j + np.where(long, (rise + fall) * loss_s, 0.0)
    seen = (w.t0_s >= series.first_s) & (end_s <= series.last_s)
    gross = np.where(seen, gross, np.nan)
    # shorter than the response, nothing tells steps from one another: the whole event may lie outside the shifted window
    steps = np.where(long, np.abs(rise) + np.abs(fall), 2 * np.maximum(w.step_w, np.maximum(np.abs(rise), np.abs(fall))))
    ripple_s = edge_ripple_s(sensor, series.step_s)
    own_s = np.where(long, math.hypot(loss_s / math.sqrt(3), series.change_jitter_s), loss_s)
    u_shift_s = math.hypot(sensor.u_delay_s, sensor.u_window_s / 2, sensor.u_lag_s, sensor.u_update_period_s / 2, w.u_clock_s)
    terms = _sampling_terms(series, w.length_s, steps * own_s, steps * ripple_s, w.interior_j)
    zero = np.zeros(len(gross))
    sync = np.maximum(np.abs(rise), np.abs(fall)) * math.sqrt(2) * u_shift_s
    terms["baseline"] = Term(gross_j=zero, net_j=-w.u_idle_w * w.length_s, dof=w.idle_dof)
    terms["clock sync"] = Term(gross_j=sync, net_j=sync)
    return _Candidate(gross_j=gross, net_j=gross - w.idle_w * w.length_s, end_s=end_s, terms=terms)


def _sampling_terms(
    series: PowerSeries, length_s: FloatArray, edges_j: FloatArray, ripple_j: FloatArray, interior_j: FloatArray
) -> dict[str, Term]:
    """Terms that enter gross and net alike; ripple belongs to the edges where the sensor looks all the time."""
    step, noise_w = series.step_s, series.noise_w
    dithered = noise_w >= series.sensor.resolution_w / 2
    u_level = series.sensor.resolution_w / math.sqrt(12)
    whole = series.coverage >= 1
    values = {
        "noise": noise_w * np.sqrt(step * length_s),
        "quantisation": u_level * (np.sqrt(step * length_s) if dithered else length_s),
        "edges": np.hypot(edges_j, ripple_j) if whole else edges_j,
        "under-sampling": np.zeros(len(length_s)) if whole else np.hypot(ripple_j, interior_j),
    }
    return {label: Term(gross_j=value, net_j=value) for label, value in values.items()}
