"""Heat soak: whether a device under load is in thermal equilibrium, will be in time, and will stay cool enough.

A sensor of resolution q cannot say much about a slope in a short window, whatever the sample rate: a ramp s crosses n steps in a window w
with (n − 1) q/w < |s| < (n + 1) q/w, and a least-squares line through one step in mid-window reads 1.5 q/w. To certify 0.5 °C/min with a
1 °C sensor needs 120 s without any step. So the slope has an *interval*, the verdict needs all of it below the limit, and below the
minimum window there is no verdict at all.

The plateau comes from one exponential, θ∞ − A exp(−t/τ), fitted to what follows the first 40 s under load (die and package settle in
seconds and would pull the fit by −2.5 to −7 °C), on readings + q/2 because the sensor floors, with residual autocorrelation in the errors.

Assumes constant power and fans that do not hunt. Fails (plateau biased) where the fan speed or the load changes during the fit; the gate
on power drift and the slope of the last window then keep equilibrium from being called.

References: heat-soak study §3.5; TR122 §8 and its contradictions I-05, I-06, I-24, I-25, I-26.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from pytest_physics.metrology.autocorrelation import FloatArray, series_mean
from pytest_physics.metrology.uncertainty import Gate, coverage_factor

SECONDS_PER_MINUTE = 60.0
TRIP_C = 83.0

SLOPE_BLOCKS = 60
"""Blocks in which the residuals of a slope are averaged before their correlation is estimated."""

SlopeMethod = Literal["steps", "flicker", "least squares"]


class SoakState(StrEnum):
    """Where a heat soak stands."""

    TOO_SHORT = "too short"
    """Not enough data under load for any verdict."""
    HEATING = "heating"
    """Equilibrium is not shown yet; keep the load on."""
    EQUILIBRIUM = "equilibrium"
    """The slope is below the limit with its interval, confirmed."""
    HOPELESS = "hopeless"
    """Equilibrium will not come within the budget, or only too hot: stop now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakLimits:
    """Limits of the heat soak."""

    slope_c_per_min: float = 0.5
    """Equilibrium: |dθ/dt| below this in two windows that do not overlap, °C per minute."""
    confident_slope_c_per_min: float = 0.4
    """Or below this in one; a first crossing of the limit always lands just under it."""
    window_s: float = 180.0
    """Length of the window of the slope, seconds."""
    window_floor_s: float = 60.0
    """No window is shorter, however fine the sensor, seconds."""
    time_constants: float = 1.5
    """Nor shorter than this many time constants τ; a plateau fitted earlier is not trusted."""
    discard_s: float = 40.0
    """Left out after the load came on: die and package settle."""
    budget_s: float = 1800.0
    """Longest soak, seconds under load."""
    near_plateau_c: float = 0.5
    """Distance from the plateau at which the soak is predicted to end, °C."""
    max_temperature_c: float = TRIP_C
    """Slowdown or trip temperature, °C."""
    margin_c: float = 3.0
    """The plateau stays this far below it, °C."""
    min_change_c: float = 2.0
    """Temperature must have moved this much since the load came on, °C: a flat start is not a plateau."""
    no_change_after_s: float = 600.0
    """A device that was warm already shows no change; after this long under load it is believed, seconds."""
    min_load_share: float = 0.5
    """Power in the window, as share of the way from power before the load to the highest level under it."""
    min_power_rise_ratio: float = 0.1
    """A load raises power by at least this share of the power before it."""
    max_power_drift_ratio: float = 0.003
    """Power proven to move by more than this share within the window shows that the device still warms."""

    def __post_init__(self) -> None:
        """Refuse limits without meaning."""
        for name in (
            "slope_c_per_min",
            "confident_slope_c_per_min",
            "window_s",
            "window_floor_s",
            "time_constants",
            "budget_s",
            "near_plateau_c",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"'{name}' must be > 0 (got {getattr(self, name)}).")
        if self.confident_slope_c_per_min > self.slope_c_per_min:
            raise ValueError(
                f"'confident_slope_c_per_min' must be <= 'slope_c_per_min' "
                f"(got {self.confident_slope_c_per_min} and {self.slope_c_per_min})."
            )

    def min_window_s(self, resolution_c: float, tau_s: float | None = None) -> float:
        """Shortest window that can give a verdict: max(q / limit, 1.5 τ, floor); 120 s for 0.5 °C/min at 1 °C."""
        resolvable = resolution_c / self.slope_c_per_min * SECONDS_PER_MINUTE
        return max(resolvable, self.time_constants * (tau_s or 0.0), self.window_floor_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """Slope of a temperature series with a 95 % interval, °C per minute."""

    value: float
    """Least-squares line."""
    low: float
    high: float
    method: SlopeMethod
    """Where the interval comes from: counted steps of the sensor, its flicker at one step, or the least-squares line with N_eff."""
    window_s: float

    @property
    def bound(self) -> float:
        """Largest |slope| in the interval."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plateau:
    """Fitted exponential approach θ∞ − A exp(−t/τ)."""

    temperature_c: float
    """θ∞."""
    u_temperature_c: float
    """Standard uncertainty, quantisation included."""
    tau_s: float | None
    """Time constant; None where the series is too flat to show one."""
    u_tau_s: float | None
    residual_c: float
    """Distance from the present temperature to the plateau, signed."""
    remaining_s: float
    """Predicted time until ``near_plateau_c`` from the plateau; 0 if there already."""
    remaining_low_s: float
    """Lower end of its 95 % interval."""
    remaining_high_s: float
    """Upper end; infinite where the fit does not bound it."""

    @property
    def interval_c(self) -> tuple[float, float]:
        """95 % interval of the plateau."""
        return self.temperature_c - 2 * self.u_temperature_c, self.temperature_c + 2 * self.u_temperature_c


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakAssessment:
    """State of a heat soak, with the numbers behind it."""

    state: SoakState
    elapsed_s: float
    """Time under load so far."""
    observed_s: float
    """Of it, the time after the discarded start."""
    min_window_s: float
    """Shortest window that can give a verdict here."""
    slope: Slope | None
    """Of the last window; None where too short."""
    previous_slope: Slope | None
    """Of the window before it, without overlap; None where there is none yet."""
    plateau: Plateau | None
    """None before there is enough to fit."""
    gates: tuple[Gate, ...] = field(default=(), repr=False)

    @property
    def reached(self) -> bool:
        """Whether the device is in equilibrium."""
        return self.state is SoakState.EQUILIBRIUM


# --- slope -----------------------------------------------------------------------------------------------------------


def slope_interval(t_s: FloatArray, temperature_c: FloatArray, *, resolution_c: float) -> Slope:
    """Slope of ``temperature_c`` at ``t_s``, both shape (N,), with the interval that this resolution allows.

    Where the reading only ever steps one way the steps are counted: (n ± 1) q/w. Where it flickers, noise dithers it and the
    least-squares line is right up to what is left of the quantisation, 1.5 q/w · exp(−2π²σ²/q²) for noise σ. Flicker between two steps
    over a time d also bounds it: the temperature is at the same step at both ends, |s| < q/d.
    """
    window_s = float(t_s[-1] - t_s[0]) * t_s.size / (t_s.size - 1)
    per_minute = SECONDS_PER_MINUTE / window_s
    value, half, noise = _least_squares_slope(t_s, temperature_c)
    steps = np.diff(temperature_c)
    one_way = not ((steps > 0).any() and (steps < 0).any())
    if one_way and resolution_c > 0:
        change = float(temperature_c[-1] - temperature_c[0])
        reach = resolution_c * per_minute
        low, high = change * per_minute - reach, change * per_minute + reach
        # on a curve that bends, the line through all readings may leave what its ends allow: the interval holds both
        return Slope(value=value, low=min(low, value), high=max(high, value), method="steps", window_s=window_s)
    if resolution_c > 0:
        half += 1.5 * resolution_c * per_minute * math.exp(-2 * (math.pi * noise / resolution_c) ** 2)
    by_flicker = _flicker_bound(t_s, temperature_c, resolution_c)
    if by_flicker < abs(value) + half:
        low, high = max(value - half, -by_flicker), min(value + half, by_flicker)
        return Slope(value=value, low=min(low, by_flicker), high=max(high, -by_flicker), method="flicker", window_s=window_s)
    return Slope(value=value, low=value - half, high=value + half, method="least squares", window_s=window_s)


def _flicker_bound(t_s: FloatArray, temperature_c: FloatArray, resolution_c: float) -> float:
    """Largest |slope| per minute of a reading that flickers between two neighbouring steps; infinite for any other.

    At its first and last crossing the temperature is the same but for the noise, which stays below one step or a third step would show.
    """
    levels = np.unique(temperature_c)
    crossings = np.flatnonzero(np.diff(temperature_c))
    if levels.size != 2 or crossings.size < 2 or levels[1] - levels[0] > 1.5 * resolution_c:
        return math.inf
    between_s = float(t_s[crossings[-1]] - t_s[crossings[0]])
    return resolution_c / between_s * SECONDS_PER_MINUTE


def _least_squares_slope(t_s: FloatArray, values: FloatArray) -> tuple[float, float, float]:
    """Slope per minute, half width of its 95 % interval, and the standard deviation of the residuals less its quantisation."""
    centred = t_s - t_s.mean()
    slope = float(centred @ values / (centred @ centred))
    residuals = values - values.mean() - slope * centred
    # averages over blocks: flicker between two steps is white noise, and would hide the slow wander that moves a slope
    _, blocks = _binned(t_s, residuals, SLOPE_BLOCKS)
    scatter = series_mean(blocks)
    # the slope of N_eff independent residuals: √12 · u(mean) over the window; two parameters were fitted
    half = coverage_factor(max(1.0, scatter.dof - 1)) * scatter.u / math.sqrt(float(np.mean(centred**2)))
    levels = np.diff(np.unique(values))
    step = float(levels.min()) if levels.size else 0.0
    noise = math.sqrt(max(0.0, float(residuals.var()) - step**2 / 12))
    return slope * SECONDS_PER_MINUTE, half * SECONDS_PER_MINUTE, noise


# --- plateau ---------------------------------------------------------------------------------------------------------

FIT_BINS = 600
"""Longer series are averaged in bins first: the exponential has minutes, and the fit then costs milliseconds."""
TAU_BOUNDS_S = (3.0, 7200.0)
TAU_STARTS_S = (30.0, 100.0, 300.0)


def fit_plateau(t_s: FloatArray, temperature_c: FloatArray, *, resolution_c: float, near_plateau_c: float) -> Plateau:
    """Fit θ∞ − A exp(−t/τ) by soft-L1 least squares to readings that are floored to ``resolution_c``; shapes (N,), N ≥ 4."""
    t, y = _binned(t_s - t_s[0], temperature_c + resolution_c / 2, FIT_BINS)
    u_quantisation = resolution_c / math.sqrt(12)
    if np.ptp(temperature_c) <= resolution_c:
        return _flat_plateau(y, u_quantisation)
    fits = [_fit(t, y, tau, max(resolution_c, 1e-3)) for tau in TAU_STARTS_S]
    best = min(fits, key=lambda fit: float(fit.cost))
    final, amplitude, log_tau = (float(x) for x in best.x)
    tau = math.exp(log_tau)
    covariance = _covariance(best.jac, y - _approach(best.x, t))
    remaining, u_remaining = _remaining(amplitude, tau, covariance, near_plateau_c, float(t[-1]))
    return Plateau(
        temperature_c=final,
        u_temperature_c=math.hypot(math.sqrt(covariance[0, 0]), u_quantisation),
        tau_s=tau,
        u_tau_s=tau * math.sqrt(covariance[2, 2]),
        residual_c=amplitude * math.exp(-float(t[-1]) / tau),
        remaining_s=max(0.0, remaining),
        remaining_low_s=max(0.0, remaining - 2 * u_remaining),
        remaining_high_s=max(0.0, remaining + 2 * u_remaining),
    )


def _flat_plateau(y: FloatArray, u_quantisation: float) -> Plateau:
    mean = series_mean(y)
    return Plateau(
        temperature_c=mean.mean, u_temperature_c=math.hypot(mean.u, u_quantisation), tau_s=None, u_tau_s=None,
        residual_c=0.0, remaining_s=0.0, remaining_low_s=0.0, remaining_high_s=math.inf,
    )  # fmt: skip


def _binned(t: FloatArray, y: FloatArray, bins: int) -> tuple[FloatArray, FloatArray]:
    size = math.ceil(t.size / bins)
    if size == 1:
        return t, y
    kept = t.size // size * size  # a last, partial bin would weigh as much as a full one
    return t[-kept:].reshape(-1, size).mean(axis=1), y[-kept:].reshape(-1, size).mean(axis=1)


def _approach(parameters: FloatArray, t: FloatArray) -> FloatArray:
    final, amplitude, log_tau = parameters.tolist()
    return np.asarray(final - amplitude * np.exp(-t / math.exp(log_tau)), dtype=np.float64)


def _fit(t: FloatArray, y: FloatArray, tau_s: float, scale_c: float) -> optimize.OptimizeResult:
    def residuals(parameters: FloatArray) -> FloatArray:
        return _approach(parameters, t) - y

    lower, upper = (math.log(bound) for bound in TAU_BOUNDS_S)
    return optimize.least_squares(
        residuals,
        [float(y[-1]), float(y[-1] - y[0]), math.log(tau_s)],
        bounds=([-np.inf, -np.inf, lower], [np.inf, np.inf, upper]),
        loss="soft_l1",
        f_scale=scale_c,
        x_scale=[1.0, 1.0, 0.1],
    )


def _covariance(jacobian: FloatArray, residuals: FloatArray) -> FloatArray:
    """Covariance of the parameters, with the residuals' autocorrelation (1 + ρ) / (1 − ρ)."""
    n = residuals.size
    scatter = series_mean(residuals) if np.ptp(residuals) > 0 else None
    inflation = n / scatter.n_eff if scatter else 1.0
    variance = float(residuals @ residuals) / max(1, n - 3) * inflation
    return np.asarray(np.linalg.pinv(jacobian.T @ jacobian) * variance, dtype=np.float64)


def _remaining(amplitude: float, tau: float, covariance: FloatArray, near_c: float, now_s: float) -> tuple[float, float]:
    """Time until the distance to the plateau is ``near_c``: τ ln(|A| / ε) − t, with first-order uncertainty."""
    if abs(amplitude) <= near_c:
        return 0.0, 0.0
    until = tau * math.log(abs(amplitude) / near_c)
    gradient = np.array([0.0, tau / amplitude, until])
    return until - now_s, math.sqrt(max(0.0, float(gradient @ covariance @ gradient)))


# --- assessment ------------------------------------------------------------------------------------------------------


def assess_soak(
    t_s: FloatArray,
    temperature_c: FloatArray,
    power_w: FloatArray | None,
    *,
    resolution_c: float,
    load_started_s: float,
    limits: SoakLimits | None = None,
    scope: str = "heat soak",
) -> SoakAssessment:
    """Where the heat soak stands, from everything recorded so far.

    Parameters
    ----------
    t_s, temperature_c, power_w
        Samples in the order of time, shape (N,); NaN where a read failed, None for a rig without power. Samples from before the load
        are welcome: they show the power and temperature it started from.
    resolution_c
        Step of the temperature reading, 1 for NVML; 0 for none.
    load_started_s
        When the load came on, on the clock of ``t_s``.
    """
    soak = _Soak(
        t_s=t_s,
        temperature_c=temperature_c,
        power_w=power_w,
        resolution_c=resolution_c,
        load_started_s=load_started_s,
        limits=limits or SoakLimits(),
        scope=scope,
    )
    gates = tuple(_gates(soak))
    return SoakAssessment(
        state=_state(gates, soak.slope),
        elapsed_s=soak.elapsed_s,
        observed_s=soak.observed_s,
        min_window_s=soak.min_window_s,
        slope=soak.slope,
        previous_slope=soak.previous_slope,
        plateau=soak.plateau,
        gates=gates,
    )


def _state(gates: tuple[Gate, ...], slope: Slope | None) -> SoakState:
    failed = {gate.name for gate in gates if gate.refuses}
    if failed & {"soak budget", "soak temperature"}:
        return SoakState.HOPELESS
    if slope is None:
        return SoakState.TOO_SHORT
    return SoakState.HEATING if failed else SoakState.EQUILIBRIUM


@dataclass(frozen=True, kw_only=True)
class _Soak:
    """A soak's samples and what is computed from them once; private to this module."""

    t_s: FloatArray
    temperature_c: FloatArray
    power_w: FloatArray | None
    resolution_c: float
    load_started_s: float
    limits: SoakLimits
    scope: str

    @cached_property
    def elapsed_s(self) -> float:
        return max(0.0, float(self.t_s[-1]) - self.load_started_s) if self.t_s.size else 0.0

    @cached_property
    def observed_s(self) -> float:
        return max(0.0, self.elapsed_s - self.limits.discard_s)

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        return np.isfinite(self.temperature_c)

    def between(self, start_s: float, end_s: float) -> tuple[FloatArray, FloatArray]:
        """Times and temperatures read in (start, end]."""
        inside = self.valid & (self.t_s > start_s) & (self.t_s <= end_s)
        return self.t_s[inside], self.temperature_c[inside]

    @cached_property
    def plateau(self) -> Plateau | None:
        t, theta = self.between(self.load_started_s + self.limits.discard_s, math.inf)
        if t.size < MIN_FIT_POINTS:
            return None
        return fit_plateau(t, theta, resolution_c=self.resolution_c, near_plateau_c=self.limits.near_plateau_c)

    @cached_property
    def tau_s(self) -> float | None:
        """Time constant where the fit determines it; otherwise the slope alone decides."""
        fit = self.plateau
        if fit is None or fit.tau_s is None or fit.u_tau_s is None or fit.u_tau_s > MAX_RELATIVE_U_TAU * fit.tau_s:
            return None
        return fit.tau_s

    @cached_property
    def trusted_plateau(self) -> Plateau | None:
        """The plateau once 1.5 τ of its approach were seen; before, extrapolation is a guess."""
        fit = self.plateau
        flat = fit is not None and fit.tau_s is None
        long_enough = self.observed_s >= self.min_window_s
        return fit if long_enough and (flat or self.tau_s is not None) else None

    @cached_property
    def min_window_s(self) -> float:
        return self.limits.min_window_s(self.resolution_c, self.tau_s)

    @cached_property
    def window_s(self) -> float:
        return min(self.observed_s, max(self.limits.window_s, self.min_window_s))

    @cached_property
    def slope(self) -> Slope | None:
        if self.observed_s < self.limits.min_window_s(self.resolution_c):
            return None
        return self._slope(float(self.t_s[-1]) - self.window_s, float(self.t_s[-1]))

    @cached_property
    def previous_slope(self) -> Slope | None:
        end_s = float(self.t_s[-1]) - self.window_s if self.t_s.size else 0.0
        if self.slope is None or self.observed_s < 2 * self.window_s:
            return None
        return self._slope(end_s - self.window_s, end_s)

    def _slope(self, start_s: float, end_s: float) -> Slope | None:
        t, theta = self.between(start_s, end_s)
        covers = t.size >= MIN_FIT_POINTS and t[-1] - t[0] >= (1 - MAX_MISSING_SHARE) * (end_s - start_s)
        return slope_interval(t, theta, resolution_c=self.resolution_c) if covers else None

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


MIN_FIT_POINTS = 8
MAX_RELATIVE_U_TAU = 0.3
"""A time constant less certain than this is not used."""
MAX_MISSING_SHARE = 0.1
"""A window whose readings do not span the rest of it is not a window."""
START_S = 10.0
"""Temperature and power before the load are those of this many seconds."""


def _gates(soak: _Soak) -> Iterable[Gate]:
    settled = [_window_gate(soak), _slope_gate(soak), _change_gate(soak), *_power_gates(soak)]
    yield from settled
    yield _temperature_gate(soak)
    yield _budget_gate(soak, settled=all(not gate.refuses for gate in settled))


def _window_gate(soak: _Soak) -> Gate:
    passed = soak.observed_s >= soak.min_window_s
    because = f"{soak.limits.time_constants:g} time constants of {soak.tau_s:.0f} s" if soak.tau_s else "the sensor's resolution"
    return soak.gate(
        "soak window", soak.observed_s, soak.min_window_s, "s", passed=passed,
        reason=f"{soak.observed_s:.0f} s were observed under load after the first {soak.limits.discard_s:g} s (limit: at least "
        f"{soak.min_window_s:.0f} s, from {because}; steps of {soak.resolution_c:g} °C cannot show {soak.limits.slope_c_per_min:g} "
        f"°C/min in less than {soak.limits.min_window_s(soak.resolution_c):.0f} s)",
        remedy=f"keep the load on for another {math.ceil(max(0.0, soak.min_window_s - soak.observed_s))} s",
    )  # fmt: skip


def _slope_gate(soak: _Soak) -> Gate:
    slope, previous, limits = soak.slope, soak.previous_slope, soak.limits
    confirmed = previous is not None and previous.bound < limits.slope_c_per_min
    limit = limits.slope_c_per_min if confirmed else limits.confident_slope_c_per_min
    remedy = "keep the load on, and do not change it"
    if slope is None:
        return soak.gate(
            "soak slope", None, limit, "°C/min", passed=False, remedy=remedy,
            reason="no slope: the window is too short for this sensor, or readings are missing from it",
        )  # fmt: skip
    passed = slope.bound < limit
    return soak.gate(
        "soak slope", slope.bound, limit, "°C/min", passed=passed,
        reason=f"temperature changes by {slope.low:+.2f} to {slope.high:+.2f} °C/min in the last {slope.window_s:.0f} s (95 % interval by "
        f"{slope.method}; limit ±{limit:g} °C/min" + (", confirmed by the window before)" if confirmed else ", in a single window)"),
        remedy=remedy,
    )  # fmt: skip


def _change_gate(soak: _Soak) -> Gate:
    """A flat start under load (thermal lag) looks like a plateau: temperature must have moved first."""
    _, before = soak.between(soak.load_started_s - START_S, soak.load_started_s)
    _, under_load = soak.between(soak.load_started_s, math.inf)
    limit = soak.limits.min_change_c
    remedy = "check that the load really runs; a device that was warm already is believed later"
    if not under_load.size:
        return soak.gate("soak change", None, limit, "°C", passed=False, reason="no temperature was read under load", remedy=remedy)
    start = float(np.median(before)) if before.size else float(under_load[0])
    change = float(np.abs(under_load - start).max())
    waited = soak.elapsed_s >= soak.limits.no_change_after_s
    return soak.gate(
        "soak change", change, limit, "°C", passed=change >= limit or waited,
        reason=f"temperature moved {change:.1f} °C from the {start:.1f} °C at which the load came on (limit: at least {limit:g} °C, or "
        f"{soak.limits.no_change_after_s:.0f} s under load; {soak.elapsed_s:.0f} s so far)",
        remedy=remedy,
    )  # fmt: skip


def _power_gates(soak: _Soak) -> Iterable[Gate]:
    if soak.power_w is None:
        yield soak.gate(
            "soak load", None, soak.limits.min_load_share, "1", passed=False, warning=True,
            reason="not checked: this rig has no power channel", remedy="make sure by other means that the load ran throughout",
        )  # fmt: skip
        return
    yield _load_gate(soak, soak.power_w)
    yield _power_drift_gate(soak, soak.power_w)


def _load_gate(soak: _Soak, power_w: FloatArray) -> Gate:
    """Both halves of the window must be at the level of the load."""
    valid = np.isfinite(power_w)
    before = power_w[valid & (soak.t_s <= soak.load_started_s)]
    under_load = power_w[valid & (soak.t_s > soak.load_started_s)]
    end_s = float(soak.t_s[-1]) if soak.t_s.size else 0.0
    window = power_w[valid & (soak.t_s > end_s - soak.window_s)]
    limit = soak.limits.min_load_share
    remedy = "check that the workload runs and keeps the device busy for the whole soak"
    if window.size < 2:
        return soak.gate("soak load", None, limit, "1", passed=False, reason="no power was read in the window", remedy=remedy)
    idle = float(np.median(before)) if before.size else 0.0
    full = float(np.percentile(under_load, 95))
    level = min(float(np.median(half)) for half in np.array_split(window, 2))
    rose = full - idle > soak.limits.min_power_rise_ratio * idle
    share = (level - idle) / (full - idle) if rose else 0.0
    return soak.gate(
        "soak load", share, limit, "1", passed=share >= limit,
        reason=f"power in the window was {level:.4g} W: {share:.0%} of the way from {idle:.4g} W before the load to {full:.4g} W under it "
        f"(limit: at least {limit:.0%})" + ("" if rose else ": the load did not raise power at all"),
        remedy=remedy,
    )  # fmt: skip


def _power_drift_gate(soak: _Soak, power_w: FloatArray) -> Gate:
    """Power follows temperature by leakage and is read more finely: a proven drift contradicts equilibrium."""
    end_s = float(soak.t_s[-1]) if soak.t_s.size else 0.0
    inside = np.isfinite(power_w) & (soak.t_s > end_s - soak.window_s)
    limit = soak.limits.max_power_drift_ratio
    if soak.slope is None or np.count_nonzero(inside) < MIN_FIT_POINTS or power_w[inside].mean() <= 0:
        return soak.gate(
            "soak power drift", None, limit, "1", passed=False, reason="no power drift: the window is too short", remedy="keep the load on"
        )  # fmt: skip
    slope, half, _ = _least_squares_slope(soak.t_s[inside], power_w[inside])
    scale = soak.window_s / SECONDS_PER_MINUTE / float(power_w[inside].mean())
    proven = max(0.0, abs(slope) - half) * scale
    return soak.gate(
        "soak power drift", proven, limit, "1", passed=proven <= limit,
        reason=f"power moved by {slope * scale:+.2%} ± {half * scale:.2%} in the last {soak.window_s:.0f} s, at least {proven:.2%} beyond "
        f"noise (limit {limit:.1%})",
        remedy="keep the load on and constant until power has settled too",
    )  # fmt: skip


def _temperature_gate(soak: _Soak) -> Gate:
    limit = soak.limits.max_temperature_c - soak.limits.margin_c
    _, under_load = soak.between(soak.load_started_s, math.inf)
    now = float(under_load.max()) if under_load.size else None
    fit = soak.trusted_plateau
    expected = fit.interval_c[1] if fit else None
    measured = max((value for value in (now, expected) if value is not None), default=None)
    text = f"the hottest reading is {now:.0f} °C" if now is not None else "no temperature was read under load"
    text += f", the plateau at most {expected:.1f} °C" if expected is not None else ", the plateau is not known yet"
    return soak.gate(
        "soak temperature", measured, limit, "°C", passed=measured is not None and measured <= limit, warning=measured is None,
        reason=f"{text} (limit {limit:g} °C, {soak.limits.margin_c:g} °C below {soak.limits.max_temperature_c:g} °C)",
        remedy="stop: the device will slow itself down. Improve cooling, lower the power limit, or choose a lighter load",
    )  # fmt: skip


def _budget_gate(soak: _Soak, *, settled: bool) -> Gate:
    fit, budget_s = soak.trusted_plateau, soak.limits.budget_s
    least_s = soak.elapsed_s + (fit.remaining_low_s if fit and not settled else 0.0)
    exhausted = soak.elapsed_s >= budget_s
    text = (
        f"{fit.remaining_s:.0f} s more expected (95 % interval {fit.remaining_low_s:.0f} to {fit.remaining_high_s:.0f} s)"
        if fit and fit.tau_s is not None
        else "no prediction of the rest"
    )
    return soak.gate(
        "soak budget", least_s, budget_s, "s", passed=settled or not (exhausted or least_s > budget_s),
        reason=f"{soak.elapsed_s:.0f} s under load, {text}: at least {least_s:.0f} s in all (limit {budget_s:.0f} s)"
        + (", in equilibrium" if settled else ""),
        remedy="stop, or raise the soak budget; a device that cools worse than expected needs cleaning or faster fans",
    )  # fmt: skip
