"""Idle power: its mean with uncertainty, and everything that can show that it was not idle, or not one idle.

The estimand is the **mean**, because energy is additive; median, extremes and modes are diagnostics and never replace it. Input is one
value per *distinct sensor update* (held polls removed), and what else the rig saw in the same span.

Every detector is a gate with its measured value and limit, and every one can fire: outliers are counted from median and MAD, because a
limit of mean + 2σ lies above the maximum of a two-state idle and is silent by construction (TR122: 40.6 W against 26.4 W). A channel
that the rig does not have gives a warning "not checked", never a pass.

Fails (sees nothing) where the device is disturbed as steadily in the measured windows as in the idle, and where a component is slower
than the whole idle: the duration is therefore set from a known correlation time, and idle is measured before *and* after.

References: GUM (JCGM 100:2008) §4.3.7 for the quantisation, :mod:`~pytest_physics.metrology.autocorrelation` for the mean; TR122 §4
(fake idle) and the study's proofs P1 and P2 for what these gates must catch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy import special

from pytest_physics.metrology.autocorrelation import FloatArray, series_mean
from pytest_physics.metrology.modality import TwoModes, fit_two_modes
from pytest_physics.metrology.uncertainty import Gate

CORRELATION_TIMES = 50.0
"""An idle lasts at least this many correlation times: then N_eff ≥ 25 and the interval covers what it promises."""
MIN_UPDATES = 8
"""Fewer updates are no idle at all."""
MIN_INDEPENDENT = 5.0
"""Fewer effectively independent updates than this, of hundreds, are one movement and not an idle."""
THREE_SIGMA = float(special.ndtr(3.0))
"""One-sided probability of the detectors' limits; each fires on clean data in about 0.3 % of runs."""
MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
TAG_PURITY = 0.95
"""Two modes are explained by a state where the state tells the mode of this share of readings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleLimits:
    """Limits of the idle check; each is the limit of one gate."""

    min_duration_s: float = 60.0
    """Shortest idle, in seconds; a longer one follows from the correlation time."""
    max_utilisation_ratio: float = 0.05
    """95th percentile of the utilisation, 0 to 1 (TR122 allowed 0.10)."""
    max_foreign_processes: float = 0.0
    """Compute processes of others on the device."""
    max_clock_states: int = 2
    """Distinct SM clocks that each hold at least ``min_state_share`` of the samples."""
    max_performance_states: int = 1
    """Distinct P-states that each hold at least ``min_state_share`` of the samples."""
    min_state_share: float = 0.01
    """A state seen less often is a blip, not a state."""
    outlier_sigmas: float = 3.5
    """A reading further than this many robust standard deviations from the median is an outlier (Iglewicz and Hoaglin, 1993)."""
    max_outlier_share: float = 0.05
    """Share of outliers, 0 to 1; a normal distribution has 0.0005."""
    min_delta_bic: float = 10.0
    """Evidence from which two modes are called (very strong by Kass and Raftery, 1995)."""
    min_mode_weight: float = 0.05
    """Smallest share of a mode."""
    min_ashman_d: float = 2.0
    """Separation of modes in units of their width."""
    min_mode_separation_ratio: float = 0.02
    """Modes nearer than this share of the median do not matter; nor do modes within two steps of the sensor."""
    immaterial_drift_ratio: float = 0.003
    """Changes below this share of the mean do not matter, however significant; the uncertainty of the mean contains them."""
    max_temperature_change_c: float = 3.0
    """Change of temperature between first and last third, in °C, above which the device is probably still settling (warning)."""

    def __post_init__(self) -> None:
        """Refuse limits that no idle could meet, or that every idle meets."""
        for name in ("min_duration_s", "outlier_sigmas", "min_ashman_d", "max_clock_states", "max_performance_states"):
            if not getattr(self, name) > 0:
                raise ValueError(f"'{name}' must be > 0 (got {getattr(self, name)}).")
        for name in ("max_utilisation_ratio", "max_outlier_share", "min_mode_weight", "min_state_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"'{name}' must lie in [0, 1) (got {getattr(self, name)}).")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleSamples:
    """What the rig saw besides power, one value per sampler tick; None where the rig has no such channel, NaN where a read failed."""

    t_s: FloatArray
    """Times of the samples, shape (M,), in seconds on the clock of the updates."""
    utilisation_ratio: FloatArray | None = None
    """0 to 1, shape (M,), as all others."""
    sm_clock_hz: FloatArray | None = None
    performance_state: FloatArray | None = None
    """0 fastest."""
    foreign_processes: FloatArray | None = None
    temperature_c: FloatArray | None = None

    def __post_init__(self) -> None:
        """Refuse columns of different lengths."""
        for name in ("utilisation_ratio", "sm_clock_hz", "performance_state", "foreign_processes", "temperature_c"):
            column = getattr(self, name)
            if column is not None and column.shape != self.t_s.shape:
                raise ValueError(f"'{name}' must have the shape of 't_s' {self.t_s.shape} (got {column.shape}).")


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMean:
    """Idle power in one P-state."""

    performance_state: int
    n: int
    """Updates in this state."""
    mean_w: float
    u_w: float | None
    """Standard uncertainty in watts; None for a single update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleAssessment:
    """Idle power of one span, with its gates."""

    mean_w: float
    u_w: float
    """Standard uncertainty of the mean in watts: scatter with N_eff, and quantisation."""
    dof: float
    n: int
    """Distinct sensor updates."""
    n_eff: float
    """Effective number of independent updates."""
    standard_deviation_w: float
    """Of the readings, with ``ddof``; it is not the uncertainty of the mean."""
    minimum_w: float
    maximum_w: float
    median_w: float
    resolution_w: float
    """Step of the reading in watts: as given, or the smallest step in the data."""
    start_s: float
    """Time of the first update."""
    end_s: float
    """Time of the last update."""
    duration_s: float
    """Span the updates stand for: N mean intervals."""
    temperature_c: float | None
    """Mean temperature; None without that channel."""
    states: tuple[StateMean, ...] = ()
    """Mean per P-state; empty without that channel."""
    gates: tuple[Gate, ...] = field(default=(), repr=False)
    ddof: int = 1

    @property
    def usable(self) -> bool:
        """Whether no gate refuses."""
        return not any(gate.refuses for gate in self.gates)

    @property
    def middle_s(self) -> float:
        """Time the mean belongs to."""
        return (self.start_s + self.end_s) / 2


@dataclass(frozen=True, kw_only=True)
class _Series:
    """The updates and what is computed from them once; private to this module."""

    t_s: FloatArray
    power_w: FloatArray
    given_resolution_w: float
    samples: IdleSamples
    limits: IdleLimits
    correlation_time_s: float
    scope: str

    @cached_property
    def resolution_w(self) -> float:
        steps = np.diff(np.unique(self.power_w))
        return self.given_resolution_w or (float(steps.min()) if steps.size else 0.0)

    @cached_property
    def duration_s(self) -> float:
        n = self.t_s.size
        return float(self.t_s[-1] - self.t_s[0]) * n / (n - 1)

    @cached_property
    def u_w(self) -> float:
        return _with_quantisation(self.power_w, self.resolution_w)[0]

    @cached_property
    def mean_w(self) -> float:
        return float(self.power_w.mean())

    @cached_property
    def median_w(self) -> float:
        return float(np.median(self.power_w))

    @cached_property
    def immaterial_w(self) -> float:
        return self.limits.immaterial_drift_ratio * abs(self.mean_w)

    def at_updates(self, column: FloatArray) -> FloatArray:
        """Value of the sample nearest to each update, NaN where no read succeeded."""
        valid = np.flatnonzero(np.isfinite(column))
        if not valid.size:
            return np.full(self.t_s.size, np.nan)
        times = self.samples.t_s[valid]
        after = np.clip(np.searchsorted(times, self.t_s), 1, max(1, valid.size - 1))
        before = after - 1
        after = np.minimum(after, valid.size - 1)
        nearer_after = times[after] - self.t_s < self.t_s - times[before]
        nearest: FloatArray = column[valid[np.where(nearer_after, after, before)]]
        return nearest

    def gate(
        self,
        name: str,
        measured: float | None,
        limit: float | None,
        unit: str,
        *,
        passed: bool,
        reason: str,
        remedy: str,
        warning: bool = False,
    ) -> Gate:
        return Gate(
            name=name, scope=self.scope, measured=measured, limit=limit, unit=unit, passed=passed, reason=reason,
            remedy="" if passed else remedy, warning=warning,
        )  # fmt: skip


def assess_idle(
    t_s: FloatArray,
    power_w: FloatArray,
    *,
    correlation_time_s: float,
    samples: IdleSamples | None = None,
    resolution_w: float = 0.0,
    limits: IdleLimits | None = None,
    scope: str = "baseline",
) -> IdleAssessment:
    """Mean idle power of the updates ``power_w`` at ``t_s``, both shape (N,), with every gate.

    Parameters
    ----------
    t_s, power_w
        Distinct sensor updates in the order of time; seconds and watts.
    correlation_time_s
        Longest known correlation time τ of the idle: sensor window and lag, and the slowest loop that was identified. Sets the duration.
    samples
        Other channels in the same span; None for a rig with power alone.
    resolution_w
        Step of the reading; 0 where unknown, then the smallest step in the data is taken.
    limits
        Limits of the gates; None for the defaults.
    scope
        Where, for the gates: "baseline before", "baseline after".

    Raises ``ValueError`` for fewer than 8 updates, values that are not finite, or times that do not increase.
    """
    _require_updates(t_s, power_w)
    series = _Series(
        t_s=t_s,
        power_w=power_w,
        given_resolution_w=resolution_w,
        samples=samples or IdleSamples(t_s=np.zeros(0)),
        limits=limits or IdleLimits(),
        correlation_time_s=correlation_time_s,
        scope=scope,
    )
    scatter = series_mean(power_w)
    u_w, dof = _with_quantisation(power_w, series.resolution_w)
    return IdleAssessment(
        mean_w=scatter.mean,
        u_w=u_w,
        dof=dof,
        n=scatter.n,
        n_eff=scatter.n_eff,
        standard_deviation_w=scatter.standard_deviation,
        minimum_w=float(power_w.min()),
        maximum_w=float(power_w.max()),
        median_w=series.median_w,
        resolution_w=series.resolution_w,
        start_s=float(t_s[0]),
        end_s=float(t_s[-1]),
        duration_s=series.duration_s,
        temperature_c=_finite_mean(series.samples.temperature_c),
        states=_state_means(series),
        gates=tuple(_gates(series, scatter.n_eff)),
    )


def no_idle(n: int, *, scope: str = "baseline") -> IdleAssessment:
    """The assessment of a span with too few updates for any number: everything NaN, and the gate that says so."""
    gate = Gate(
        name="idle updates", scope=scope, measured=float(n), limit=float(MIN_UPDATES), unit="updates", passed=False,
        reason=f"the power sensor gave {n} updates while idle was measured (limit: at least {MIN_UPDATES}): the sampler was not running, "
        "the reads failed, or the idle was much too short",
        remedy="see the sampler's state and the read errors of 'power_w', then measure idle again",
    )  # fmt: skip
    nan = math.nan
    return IdleAssessment(
        mean_w=nan, u_w=nan, dof=1.0, n=n, n_eff=0.0, standard_deviation_w=nan, minimum_w=nan, maximum_w=nan, median_w=nan,
        resolution_w=nan, start_s=nan, end_s=nan, duration_s=0.0, temperature_c=None, gates=(gate,),
    )  # fmt: skip


def _require_updates(t_s: FloatArray, power_w: FloatArray) -> None:
    if t_s.shape != power_w.shape or t_s.ndim != 1 or t_s.size < MIN_UPDATES:
        raise ValueError(f"an idle needs at least {MIN_UPDATES} updates with a time each (got shapes {t_s.shape} and {power_w.shape}).")
    if not (np.isfinite(t_s).all() and np.isfinite(power_w).all()):
        raise ValueError("times and powers of updates must be finite; a failed read is not an update.")
    if not (np.diff(t_s) > 0).all():
        raise ValueError("times of updates must increase; reduce held polls to distinct updates first.")


def _with_quantisation(power_w: FloatArray, resolution_w: float) -> tuple[float, float]:
    """Standard uncertainty of the mean and its degrees of freedom, quantisation included.

    Noise above half a step dithers the reading and the error averages out; below, it is the same for every reading and stays.
    """
    scatter = series_mean(power_w)
    quantisation = resolution_w / math.sqrt(12)
    if scatter.standard_deviation >= resolution_w / 2:
        quantisation /= math.sqrt(scatter.n_eff)
    u = math.hypot(scatter.u, quantisation)
    return u, scatter.dof * (u / scatter.u) ** 4 if scatter.u else math.inf


def _finite_mean(column: FloatArray | None) -> float | None:
    if column is None or not np.isfinite(column).any():
        return None
    return float(column[np.isfinite(column)].mean())


def _state_means(series: _Series) -> tuple[StateMean, ...]:
    if series.samples.performance_state is None:
        return ()
    states = series.at_updates(series.samples.performance_state)
    return tuple(_state_mean(int(state), series.power_w[states == state], series.resolution_w) for state in _values(states))


def _state_mean(state: int, power_w: FloatArray, resolution_w: float) -> StateMean:
    u_w = _with_quantisation(power_w, resolution_w)[0] if power_w.size > 1 else None
    return StateMean(performance_state=state, n=power_w.size, mean_w=float(power_w.mean()), u_w=u_w)


def _values(column: FloatArray) -> FloatArray:
    return np.unique(column[np.isfinite(column)])


# --- gates -----------------------------------------------------------------------------------------------------------


def _gates(series: _Series, n_eff: float) -> Iterable[Gate]:
    yield _duration_gate(series)
    yield _correlation_gate(series, n_eff)
    yield _utilisation_gate(series)
    yield _foreign_gate(series)
    yield _states_gate(series, "idle clock states", "SM clock", series.samples.sm_clock_hz, series.limits.max_clock_states, "Hz")
    yield _states_gate(
        series, "idle P-states", "P-state", series.samples.performance_state, series.limits.max_performance_states, ""
    )  # fmt: skip
    yield _outlier_gate(series)
    yield _bimodality_gate(series)
    yield _split_gate(series)
    yield _drift_gate(series)
    yield _median_gate(series)
    yield _temperature_gate(series)


def _duration_gate(series: _Series) -> Gate:
    needed = max(series.limits.min_duration_s, CORRELATION_TIMES * series.correlation_time_s)
    return series.gate(
        "idle duration", series.duration_s, needed, "s",
        passed=series.duration_s >= needed * (1 - 1e-6),  # a grid that ends one rounding error early is not short
        reason=f"idle was observed for {series.duration_s:.1f} s (limit: at least {needed:.1f} s, the larger of "
        f"{series.limits.min_duration_s:g} s and {CORRELATION_TIMES:g} correlation times of {series.correlation_time_s:.3g} s)",
        remedy=f"observe idle for at least {math.ceil(needed)} s",
    )  # fmt: skip


def _correlation_gate(series: _Series, n_eff: float) -> Gate:
    """The series itself must not contradict the correlation time that its duration was planned for.

    A little longer costs precision only, and the uncertainty knows. A series that hangs together from end to end is not stationary:
    it settles, wanders or changed level, and then no test of its own scatter can say how far it would have gone.
    """
    stationary = n_eff >= MIN_INDEPENDENT
    seen = series.duration_s / (2 * n_eff)
    # as a warning twice the planned share, because the estimate of N_eff errs on the low side
    limit = series.duration_s * (2 / CORRELATION_TIMES if stationary else 1 / (2 * MIN_INDEPENDENT))
    passed = seen <= limit
    consequence = "" if passed else "; the uncertainty allows for it" if stationary else "; this idle is not stationary"
    return series.gate(
        "idle correlation", seen, limit, "s", passed=passed, warning=stationary,
        reason=f"readings stay correlated for about {seen:.3g} s of {series.duration_s:.0f} s (limit {limit:.3g} s): {n_eff:.1f} of "
        f"{series.t_s.size} updates are effectively independent{consequence}",
        remedy=f"observe idle for at least {math.ceil(CORRELATION_TIMES * seen)} s"
        if stationary
        else "let the device settle after work before the idle begins, then observe it for longer",
    )  # fmt: skip


def _unchecked(series: _Series, name: str, channel: str, unit: str, *, read: bool) -> Gate:
    """A gate for which the rig has no channel (a warning), or whose channel never answered (a refusal)."""
    why = f"the {channel} channel gave no valid value during idle" if read else f"this rig has no {channel} channel"
    return series.gate(
        name, None, None, unit, passed=False, warning=not read,
        reason=f"not checked: {why}",
        remedy="see the read errors of this channel" if read else "make sure by other means that nothing else used the device",
    )  # fmt: skip


def _utilisation_gate(series: _Series) -> Gate:
    column = series.samples.utilisation_ratio
    if column is None or not np.isfinite(column).any():
        return _unchecked(series, "idle utilisation", "utilisation", "1", read=column is not None)
    high, limit = float(np.percentile(column[np.isfinite(column)], 95)), series.limits.max_utilisation_ratio
    return series.gate(
        "idle utilisation", high, limit, "1", passed=high <= limit,
        reason=f"the 95th percentile of utilisation was {high:.0%} (limit {limit:.0%})"
        + ("" if high <= limit else ": the device was working, this is not idle power"),
        remedy="stop what else uses the device (see its process list), wait, and measure idle again",
    )  # fmt: skip


def _foreign_gate(series: _Series) -> Gate:
    column = series.samples.foreign_processes
    if column is None or not np.isfinite(column).any():
        return _unchecked(series, "idle foreign processes", "foreign-process", "processes", read=column is not None)
    most, limit = float(np.nanmax(column)), series.limits.max_foreign_processes
    share = float((column[np.isfinite(column)] > limit).mean())
    return series.gate(
        "idle foreign processes", most, limit, "processes", passed=most <= limit,
        reason=f"up to {most:.0f} foreign compute processes were on the device (limit {limit:.0f})"
        + ("" if most <= limit else f", in {share:.0%} of the samples: their power is in this idle"),
        remedy="end them, or take the device for this run alone",
    )  # fmt: skip


def _states_gate(  # noqa: PLR0917 -- private, one table of calls
    series: _Series, name: str, what: str, column: FloatArray | None, limit: int, unit: str
) -> Gate:
    if column is None or not np.isfinite(column).any():
        return _unchecked(series, name, what, "states", read=column is not None)
    values, counts = np.unique(column[np.isfinite(column)], return_counts=True)
    shares = counts / counts.sum()
    kept = shares >= series.limits.min_state_share
    listed = ", ".join(f"{_state_name(value, unit)} ({share:.0%})" for value, share in zip(values[kept][:6], shares[kept][:6], strict=True))
    n_states = int(kept.sum())
    return series.gate(
        name, float(n_states), float(limit), "states", passed=n_states <= limit,
        reason=f"{n_states} {what}{'s' if n_states != 1 else ''} held at least {series.limits.min_state_share:.0%} of the "
        f"samples (limit {limit}): {listed}" + (", …" if n_states > 6 else ""),
        remedy="let the device settle first (the state after work lasts seconds to minutes), or pin its clocks",
    )  # fmt: skip


def _state_name(value: float, unit: str) -> str:
    return f"{value / 1e6:.0f} MHz" if unit == "Hz" else f"P{value:.0f}"


def _outlier_gate(series: _Series) -> Gate:
    distance = np.abs(series.power_w - series.median_w)
    # a sensor that mostly repeats one value has a MAD of 0; its step is then the scale
    sigma = max(MAD_TO_SIGMA * float(np.median(distance)), series.resolution_w)
    reach = series.limits.outlier_sigmas * sigma
    share, limit = float((distance > reach).mean()), series.limits.max_outlier_share
    return series.gate(
        "idle outliers", share, limit, "1", passed=share <= limit,
        reason=f"{share:.1%} of the readings lie further than {reach:.3g} W ({series.limits.outlier_sigmas:g} robust standard "
        f"deviations) from the median {series.median_w:.4g} W (limit {limit:.0%})",
        remedy="look at the idle trace for bursts or a second level; remove their cause and measure idle again",
    )  # fmt: skip


def _bimodality_gate(series: _Series) -> Gate:
    modes = fit_two_modes(series.power_w, resolution=series.resolution_w)
    limit = series.limits.min_delta_bic
    if modes is None or not _are_two(modes, series):
        evidence = None if modes is None else modes.delta_bic
        return series.gate(
            "idle bimodality", evidence, limit, "1", passed=True, reason=f"one level: {_one_level(modes, series)}", remedy=""
        )  # fmt: skip
    low, high = modes.means
    levels = f"{low:.4g} W ({modes.weights[0]:.0%} of the readings) and {high:.4g} W ({modes.weights[1]:.0%})"
    evidence_text = f"ΔBIC {modes.delta_bic:.0f}, limit {limit:g}; Ashman's D {modes.ashman_d:.1f}, limit {series.limits.min_ashman_d:g}"
    explanation = _explanation(modes, series)
    return series.gate(
        "idle bimodality", modes.delta_bic, limit, "1", passed=False,
        reason=f"idle has two levels, {levels}, "
        + (f"which follow the {explanation}" if explanation else "which neither P-state nor clock explains")
        + f" ({evidence_text}): their mean {series.mean_w:.4g} W describes neither",
        remedy="bring the device into the state the workload runs in (an open context, pinned clocks) and measure idle there; the means "
        "per state are in the assessment"
        if explanation
        else "look for periodic background work, fans or a second client of the device; remove it and measure idle again",
    )  # fmt: skip


def _are_two(modes: TwoModes, series: _Series) -> bool:
    limits = series.limits
    apart_w = max(2 * series.resolution_w, limits.min_mode_separation_ratio * abs(series.median_w))
    return (
        modes.delta_bic > limits.min_delta_bic
        and min(modes.weights) >= limits.min_mode_weight
        and modes.ashman_d > limits.min_ashman_d
        and modes.separation > apart_w
    )


def _one_level(modes: TwoModes | None, series: _Series) -> str:
    if modes is None:
        return f"every reading is {series.median_w:.4g} W"
    return (
        f"two would lie {modes.separation:.3g} W apart with ΔBIC {modes.delta_bic:.1f} (limit {series.limits.min_delta_bic:g}), "
        f"Ashman's D {modes.ashman_d:.1f} (limit {series.limits.min_ashman_d:g}) and at least {min(modes.weights):.1%} each "
        f"(limit {series.limits.min_mode_weight:.0%})"
    )


def _explanation(modes: TwoModes, series: _Series) -> str:
    """Name of the state that tells the modes apart; empty where none does."""
    upper = np.array(modes.upper)
    candidates = (("P-state", series.samples.performance_state), ("SM clock", series.samples.sm_clock_hz))
    for name, column in candidates:
        if column is not None and _purity(series.at_updates(column), upper) >= TAG_PURITY:
            return name
    return ""


def _purity(tags: FloatArray, upper: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    """Share of readings whose mode is told by the majority mode of their tag; 0 where all tags tell the same mode."""
    majorities = [(bool(upper[tags == tag].mean() > 0.5), upper[tags == tag]) for tag in _values(tags)]
    if len({majority for majority, _ in majorities}) < 2:
        return 0.0
    return float(sum((modes == majority).sum() for majority, modes in majorities) / upper.size)


def _split_gate(series: _Series) -> Gate:
    half = series.power_w.size // 2
    first, second = series_mean(series.power_w[:half]), series_mean(series.power_w[half:])
    variances = [first.u**2, second.u**2]
    u = math.sqrt(sum(variances) + series.resolution_w**2 / 6 * (series_mean(series.power_w).standard_deviation < series.resolution_w / 2))
    weighted = variances[0] ** 2 / first.dof + variances[1] ** 2 / second.dof
    dof = u**4 / weighted if weighted else math.inf
    difference = abs(second.mean - first.mean)
    limit = max(_three_sigma(dof) * u, series.immaterial_w)
    return series.gate(
        "idle halves", difference, limit, "W", passed=difference <= limit,
        reason=f"the means of first and second half, {first.mean:.4g} W and {second.mean:.4g} W, differ by {difference:.3g} W "
        f"(limit {limit:.3g} W, what scatter explains)",
        remedy="let the device settle for a minute or two after work, then measure idle",
    )  # fmt: skip


def _three_sigma(dof: float) -> float:
    return 3.0 if math.isinf(dof) else float(special.stdtrit(max(dof, 1.0), THREE_SIGMA))


def _drift_gate(series: _Series) -> Gate:
    """Change along a straight line over the whole idle.

    Noise alone gives the line a standard deviation of √12 u, so 2 u would refuse every second clean idle; the limit is three of those,
    with u from the residuals (a drift must not excuse itself), and never below 2 u of the mean.
    """
    slope, intercept = np.polyfit(series.t_s - series.t_s[0], series.power_w, 1)
    change = abs(float(slope)) * series.duration_s
    residual = series_mean(series.power_w - (intercept + slope * (series.t_s - series.t_s[0])))
    noise = _three_sigma(residual.dof) * math.sqrt(12) * residual.u
    limit = max(2 * series.u_w, noise, series.immaterial_w)
    return series.gate(
        "idle drift", change, limit, "W", passed=change <= limit,
        reason=f"idle power moved by {float(slope) * series.duration_s:+.3g} W along a line over {series.duration_s:.0f} s "
        f"(limit {limit:.3g} W)" + ("" if change <= limit else ": it has not settled"),
        remedy="wait until power and temperature have settled, then measure idle again",
    )  # fmt: skip


def _median_gate(series: _Series) -> Gate:
    distance = abs(series.mean_w - series.median_w)
    limit = 2 * series.u_w + series.resolution_w / 2  # a median sits on a step of the sensor
    return series.gate(
        "idle mean and median", distance, limit, "W", passed=distance <= limit, warning=True,
        reason=f"mean {series.mean_w:.4g} W and median {series.median_w:.4g} W differ by {distance:.3g} W "
        f"(limit {limit:.3g} W: 2 u and half a step)"
        + ("" if distance <= limit else ": readings are skewed; the mean stays the estimate, because energy is additive"),
        remedy="look at the idle trace for bursts",
    )  # fmt: skip


def _temperature_gate(series: _Series) -> Gate:
    column = series.samples.temperature_c
    valid = np.zeros(0) if column is None else column[np.isfinite(column)]
    if valid.size < 3:
        return _unchecked(series, "idle temperature", "temperature", "°C", read=column is not None)
    third = valid.size // 3
    change, limit = float(valid[-third:].mean() - valid[:third].mean()), series.limits.max_temperature_change_c
    return series.gate(
        "idle temperature", abs(change), limit, "°C", passed=abs(change) <= limit, warning=True,
        reason=f"temperature changed by {change:+.1f} °C between first and last third (limit {limit:g} °C)",
        remedy="let the device cool down further before the idle: leakage power follows temperature",
    )  # fmt: skip


# --- two baselines ---------------------------------------------------------------------------------------------------


def drift_gate(before: IdleAssessment, after: IdleAssessment, limit_w: float, *, scope: str = "run") -> Gate:
    """Idle power must be the same before and after, within ``limit_w`` watts."""
    change = after.mean_w - before.mean_w
    passed = abs(change) <= limit_w
    return Gate(
        name="baseline drift",
        scope=scope,
        measured=abs(change),
        limit=limit_w,
        unit="W",
        passed=passed,
        reason=f"idle power drifted {change:+.3g} W (u {math.hypot(before.u_w, after.u_w):.2g} W, limit {limit_w:.3g} W) between the "
        f"baselines at {before.middle_s:.0f} s and {after.middle_s:.0f} s"
        + ("" if passed else ": net energies between them are INVALID"),
        remedy="" if passed else "let the machine settle before both baselines, shorten the run, or raise 'baseline.max_drift_w'",
    )  # fmt: skip
