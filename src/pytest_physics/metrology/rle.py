"""Legacy thermal indices by id, and beside them an efficiency and a headroom that mean something.

``rle/v1`` and ``rle/v2`` are computed exactly as their monitors computed them, constants, literal time steps and initialisation row
included. Both are *indices*: ``utilisation × stability / (load × (1 + 1/T))`` adds a number to 1/s, rises when a device idles or
throttles, and at least nine quantities have carried the name. So each value carries the id, version and parameter hash of its formula, and
two series are compared only where all three agree.

What they were meant to say is said by :func:`efficiency`: work per net joule relative to a calibrated reference, times the share of time
without thermal or power events. Both factors are of declared unit and shown with their own intervals; they say which side failed.

Headroom and time to the limit come from a slope over a window in seconds with the interval that the sensor's step allows; where that
interval contains 0 the time is infinite.

Assumes that readings of a legacy series come in the order of their ticks, one restart-free stretch at a time. Fails (refuses) where two
different formulas are compared, and where a window holds fewer than three readings.

Reference: RLE study §1.1, §1.2, §2, §8; heat-soak study §3.5 for the slope.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pytest_physics.metrology.autocorrelation import FloatArray, series_mean
from pytest_physics.metrology.forensics.proportions import Share, wilson
from pytest_physics.metrology.refusal import refuse
from pytest_physics.metrology.thermal import SECONDS_PER_MINUTE, Slope, slope_interval
from pytest_physics.metrology.uncertainty import Component, Estimate, coverage_factor

BoolArray = NDArray[np.bool_]

INDEX_LABEL = "index, not an efficiency; not comparable across ids"
V1_COMMON: Mapping[str, float] = {
    "tick_s": 1.0, "stability_samples": 10, "stability_min_samples": 5, "smooth_samples": 5, "min_load_ratio": 1e-3,
    "min_slope_c_per_s": 1e-3, "min_sustain_s": 1.0, "max_sustain_s": 600.0, "absent_temperature_c": 40.0, "peak_decay": 0.998,
}  # fmt: skip
"""Constants of the v1 monitor that are the same for every device."""
V1_DEVICES: Mapping[str, Mapping[str, float]] = {
    "gpu": {"rated_w": 200.0, "limit_c": 83.0, "norm_base": 0.1, "norm_optimum": 3.0, "norm_peak_pct": 60.0},
    "cpu": {"rated_w": 125.0, "limit_c": 80.0, "norm_base": 0.3, "norm_optimum": 5.0, "norm_peak_pct": 67.0},
}
V2_COMMON: Mapping[str, float] = {
    "load_ratio": 0.8, "tick_s": 1.0, "recent_samples": 5, "peak_decay": 0.998, "drop_fraction": 0.65, "min_recent_sustain_s": 1.0,
    "max_sustain_s": 600.0,
}  # fmt: skip
"""Constants of the v2 monitor. The load is the literal 0.8, the time step the literal 1 s."""
V2_LIMITS_C: Mapping[str, float] = {"gpu": 83.0, "cpu": 80.0}
MIN_READINGS = 3
"""A slope needs at least these."""
EVENT_MEMORY_S = 30.0
"""Without any event its correlation in time is unknown: exposure then counts as one independent look per this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """Which formula computed a number."""

    id: str
    """``rle/v1``, ``rle/v2``: never the bare name."""
    version: int
    """Version of this implementation of the formula."""
    parameters: Mapping[str, float]
    """Every constant in it."""
    label: str = INDEX_LABEL

    @property
    def parameter_hash(self) -> str:
        """First twelve hexadecimal digits of the SHA-256 of the parameters."""
        text = json.dumps({name: float(value) for name, value in self.parameters.items()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def identity(self) -> str:
        """Id, version and parameter hash: equal identities may be compared."""
        return f"{self.id} version {self.version} #{self.parameter_hash}"

    def __str__(self) -> str:
        return f"{self.identity} ({self.label})"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSeries:
    """A legacy index over one device's ticks; all arrays of shape (N,)."""

    metric: Metric
    smoothed: FloatArray
    """Mean of the last five ticks, as the monitor logged it."""
    raw: FloatArray
    thermal_factor: FloatArray
    """E_th; raw = E_th × E_pw."""
    power_factor: FloatArray
    """E_pw."""
    sustain_s: FloatArray
    """T_sustain, seconds."""
    rolling_peak: FloatArray
    normalised: FloatArray | None = None
    """rle_norm of v1; None for v2, which has none."""
    collapse: BoolArray | None = None
    """The flag that v2 derives from its index alone; None for v1, whose rule needs more (see ``instability``)."""
    initialisation_rows: int = 0
    """Rows at the start that the monitor filled with zeros: no values."""

    @property
    def values(self) -> FloatArray:
        """Smoothed index without the initialisation rows."""
        return self.smoothed[self.initialisation_rows :]


def metric_v1(device: str, **changed: float) -> Metric:
    """``rle/v1`` for ``gpu`` or ``cpu`` with the monitor's constants, of which ``changed`` differ."""
    return _metric("rle/v1", {**V1_COMMON, **V1_DEVICES[device]}, changed)


def metric_v2(device: str, **changed: float) -> Metric:
    """``rle/v2`` for ``gpu`` or ``cpu`` with the monitor's constants, of which ``changed`` differ."""
    return _metric("rle/v2", {**V2_COMMON, "limit_c": V2_LIMITS_C[device]}, changed)


def _metric(name: str, parameters: Mapping[str, float], changed: Mapping[str, float]) -> Metric:
    unknown = changed.keys() - parameters.keys()
    if unknown:
        raise ValueError(f"{name} has no parameter {', '.join(sorted(unknown))}; it has {', '.join(sorted(parameters))}.")
    return Metric(id=name, version=1, parameters={**parameters, **changed})


# --- rle/v1 -----------------------------------------------------------------------------------------------------------


def rle_v1(utilisation_pct: ArrayLike, temperature_c: ArrayLike, power_w: ArrayLike, *, metric: Metric) -> IndexSeries:
    """``rle/v1`` of one device, inputs of shape (N,) as the monitor logged them; NaN where it had none.

    Without a temperature the monitor assumed a constant 40 °C, without a power rated power × utilisation.
    """
    p = metric.parameters
    util_pct, temp_c, power = (np.asarray(series, dtype=np.float64) for series in (utilisation_pct, temperature_c, power_w))
    util = util_pct / 100
    load = np.where(np.isfinite(power), power / p["rated_w"], util)
    sustain = _sustain_v1(np.where(np.isfinite(temp_c), temp_c, p["absent_temperature_c"]), p)
    thermal = _stability(util_pct, p) / (1 + 1 / sustain)
    power_factor = util / np.maximum(load, p["min_load_ratio"])
    raw = thermal * power_factor
    smoothed = _trailing(raw, int(p["smooth_samples"])).mean_of_known()
    return IndexSeries(
        metric=metric, smoothed=smoothed, raw=raw, thermal_factor=thermal, power_factor=power_factor, sustain_s=sustain,
        rolling_peak=decaying_peak(smoothed, p["peak_decay"]), normalised=_normalised(smoothed, util_pct, p),
    )  # fmt: skip


def _stability(util_pct: FloatArray, p: Mapping[str, float]) -> FloatArray:
    """1 / (1 + s) with the population deviation s of the last utilisations in percentage points; s = 0 while there are too few."""
    trailing = _trailing(util_pct, int(p["stability_samples"]))
    few = np.arange(1, util_pct.size + 1) < p["stability_min_samples"]
    return np.asarray(1 / (1 + np.where(few, 0.0, trailing.deviation_of_known())), dtype=np.float64)


def _sustain_v1(temp_c: FloatArray, p: Mapping[str, float]) -> FloatArray:
    """Seconds to the limit from one difference; the longest for the first tick."""
    rate = np.maximum(np.diff(temp_c) / p["tick_s"], p["min_slope_c_per_s"])
    sustain = np.clip((p["limit_c"] - temp_c[1:]) / rate, p["min_sustain_s"], p["max_sustain_s"])
    return np.concatenate([[p["max_sustain_s"]], sustain])[: temp_c.size]


def _normalised(smoothed: FloatArray, util_pct: FloatArray, p: Mapping[str, float]) -> FloatArray:
    """rle_norm: share of an expected index that is piecewise linear in utilisation, clipped to 0 … 1."""
    base, optimum, peak = p["norm_base"], p["norm_optimum"], p["norm_peak_pct"]
    rising = base + (optimum - base) * util_pct / peak
    falling = optimum - (optimum - base / 2) * (util_pct - peak) / (100 - peak)
    return np.asarray(np.clip(smoothed / np.where(util_pct <= peak, rising, falling), 0, 1), dtype=np.float64)


def decaying_peak(values: FloatArray, decay: float) -> FloatArray:
    """``peak = max(value, decay × peak)``, tick by tick."""
    peaks = np.empty_like(values)
    peak = 0.0
    for index, value in enumerate(values.tolist()):
        peak = max(value, decay * peak) if value == value else decay * peak  # noqa: PLR0124 -- a missing value holds nothing up
        peaks[index] = peak
    return peaks


@dataclass(frozen=True, slots=True)
class _Trailing:
    """Windows of the last k values, shape (N, k), NaN before the first."""

    windows: FloatArray

    def mean_of_known(self) -> FloatArray:
        return np.asarray(np.nanmean(self.windows, axis=1), dtype=np.float64)

    def deviation_of_known(self) -> FloatArray:
        return np.asarray(np.nanstd(self.windows, axis=1), dtype=np.float64)

    def max_of_known(self) -> FloatArray:
        return np.asarray(np.nanmax(self.windows, axis=1), dtype=np.float64)


def _trailing(values: FloatArray, k: int) -> _Trailing:
    padded = np.concatenate([np.full(k - 1, np.nan), values])
    return _Trailing(np.lib.stride_tricks.sliding_window_view(padded, k))


# --- rle/v2 -----------------------------------------------------------------------------------------------------------


def rle_v2(utilisation_pct: ArrayLike, temperature_c: ArrayLike, *, metric: Metric) -> IndexSeries:
    """``rle/v2`` of one device and one session, inputs of shape (N,); without power. Row 0 is the zero-filled initialisation."""
    p = metric.parameters
    util, temp_c = np.asarray(utilisation_pct, dtype=np.float64) / 100, np.asarray(temperature_c, dtype=np.float64)
    stability = np.maximum(0.0, (p["limit_c"] - temp_c) / p["limit_c"])
    sustain = _sustain_v2(temp_c, p)
    with np.errstate(divide="ignore"):
        thermal = np.where(sustain > 0, stability / (1 + 1 / sustain), 0.0)
        raw = np.where(sustain > 0, util * stability / (p["load_ratio"] * (1 + 1 / sustain)), 0.0)
    recent = util * stability / (p["load_ratio"] * (1 + 1 / np.maximum(sustain, p["min_recent_sustain_s"])))
    trailing = _trailing(recent, int(p["recent_samples"]))
    early = np.arange(util.size) < p["recent_samples"] - 1
    peak = np.where(early, raw, p["peak_decay"] * trailing.max_of_known())
    series = IndexSeries(
        metric=metric, smoothed=np.where(early, raw, trailing.mean_of_known()), raw=raw, thermal_factor=thermal,
        power_factor=util / p["load_ratio"], sustain_s=sustain, rolling_peak=peak, collapse=raw < p["drop_fraction"] * peak,
        initialisation_rows=min(1, util.size),
    )  # fmt: skip
    return _with_initialisation_row(series)


def _sustain_v2(temp_c: FloatArray, p: Mapping[str, float]) -> FloatArray:
    """Seconds to the limit from the difference over two ticks of one literal second."""
    sustain = np.full(temp_c.size, p["max_sustain_s"])
    rate = (temp_c[2:] - temp_c[:-2]) / (2 * p["tick_s"])
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.clip((p["limit_c"] - temp_c[2:]) / rate, 0.0, p["max_sustain_s"])
    sustain[2:] = np.where(rate > 0, reach, p["max_sustain_s"])
    sustain[1:][temp_c[1:] >= p["limit_c"]] = 0.0
    return sustain


def _with_initialisation_row(series: IndexSeries) -> IndexSeries:
    """The first tick of a session: every output is 0."""
    for column in (
        series.smoothed, series.raw, series.thermal_factor, series.power_factor, series.sustain_s, series.rolling_peak, series.collapse,
    ):  # fmt: skip
        if column is not None:
            column[:1] = 0
    return series


# --- comparison -------------------------------------------------------------------------------------------------------


def require_same_metric(a: Metric, b: Metric, *, scope: str = "comparison of indices") -> None:
    """Refuse to compare two numbers of different formulas: a contrast would be one of formulas, not of devices or workloads."""
    if a.identity != b.identity:
        refuse(
            "one metric",
            scope=scope,
            measured=2.0,
            limit=1.0,
            unit="metrics",
            reason=f"{a.identity} and {b.identity} are different quantities ({INDEX_LABEL})",
            remedy="compute both sides with one id, version and set of parameters, or compare work per joule",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDifference:
    """Difference of two mean indices of one metric."""

    metric: Metric
    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float


def index_difference(a: IndexSeries, b: IndexSeries) -> IndexDifference:
    """Mean of ``a`` minus mean of ``b`` with a 95 % interval from N_eff; refused for different metrics."""
    require_same_metric(a.metric, b.metric)
    first, second = series_mean(_known(a.values)), series_mean(_known(b.values))
    variances = (first.u**2, second.u**2)
    total = sum(variances)
    dof = total**2 / (variances[0] ** 2 / first.dof + variances[1] ** 2 / second.dof) if total else math.inf
    reach = coverage_factor(dof) * math.sqrt(total)
    value = first.mean - second.mean
    return IndexDifference(metric=a.metric, value=value, low=value - reach, high=value + reach)


def _known(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]


# --- efficiency -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeShare:
    """Share of time in a state, with a 95 % interval that knows that states come in runs."""

    value: float
    low: float
    high: float
    exposure_s: float
    n: int
    """Readings."""
    n_eff: float
    """Effective number of independent readings."""

    @property
    def u(self) -> float:
        """Standard uncertainty: the interval as if it were normal."""
        return (self.high - self.low) / (2 * coverage_factor(math.inf))


def event_free_share(t_s: ArrayLike, in_event: ArrayLike) -> TimeShare:
    """Share of the time of ``t_s``, shape (N,), in which ``in_event`` was false; each reading stands until the next one."""
    t, flagged = np.asarray(t_s, dtype=np.float64), np.asarray(in_event, dtype=bool)
    if t.size < MIN_READINGS:
        refuse(
            "event exposure", scope="share of time without events", measured=float(t.size), limit=float(MIN_READINGS), unit="readings",
            reason=f"there are {t.size} readings (needed: at least {MIN_READINGS})", remedy="measure longer",
        )  # fmt: skip
    spans = np.append(np.diff(t), 0.0)
    exposure_s = float(spans.sum())
    value = float(spans[~flagged].sum()) / exposure_s
    if flagged.any() and not flagged.all():
        n_eff = series_mean(flagged.astype(np.float64)).n_eff
    else:
        n_eff = min(float(t.size), max(1.0, exposure_s / EVENT_MEMORY_S))
    counted = Share(successes=int(np.count_nonzero(~flagged)), trials=t.size)
    low, high = wilson(counted, design_effect=t.size / n_eff)
    return TimeShare(value=value, low=min(low, value), high=max(high, value), exposure_s=exposure_s, n=t.size, n_eff=n_eff)


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Work per joule relative to a reference × share of time without events; the factors say which side failed."""

    relative_work_per_joule: Estimate
    """Work per net joule over the reference's, 1 = as good as the reference."""
    event_free: Estimate
    """Share of time without thermal or power events."""
    value: Estimate
    """Their product."""
    reference: str
    """What the reference is: the calibrated run, workload and machine."""


def efficiency(work_per_joule: Estimate, reference: Estimate, event_free: Estimate, *, reference_name: str) -> Efficiency:
    """Efficiency from work per *net* joule, the same of a calibrated reference, and the event-free share; all as estimates."""
    if work_per_joule.unit != reference.unit:
        refuse(
            "one unit of work", scope="efficiency", measured=None, limit=None, unit=work_per_joule.unit,
            reason=f"work per joule is in {work_per_joule.unit}, its reference '{reference_name}' in {reference.unit}",
            remedy="measure the reference with the same kind of work",
        )  # fmt: skip
    relative = work_per_joule / reference
    return Efficiency(relative_work_per_joule=relative, event_free=event_free, value=relative * event_free, reference=reference_name)


def share_components(share: TimeShare, *, source: str) -> tuple[Component, ...]:
    """Budget line of a time share, for the estimate that a recipe makes of it."""
    dof = max(1.0, share.n_eff - 1)
    return (Component(label="time in events", source=source, contribution=share.u, dof=dof, evaluation="A"),)


# --- headroom ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """How far a temperature is below its limit, and when it gets there."""

    headroom_c: float
    """Limit minus the present temperature, °C."""
    u_c: float
    """Standard uncertainty: half a step of the sensor, as a rectangle."""
    slope: Slope
    """°C per minute, with the interval that the sensor's step allows."""
    time_to_limit_s: float
    """Infinite where the slope's interval contains 0 or the temperature falls; 0 at the limit."""
    low_s: float
    """Earliest time within the 95 % interval of the slope; infinite where even its upper end does not rise."""
    high_s: float


def headroom(t_s: ArrayLike, temperature_c: ArrayLike, *, limit_c: float, resolution_c: float, window_s: float = 180.0) -> Headroom:
    """Headroom and time to ``limit_c`` from the last ``window_s`` seconds of readings, shapes (N,), NaN where a read failed.

    A median over three readings takes out lone outliers; steps of the sensor pass it unchanged. Nobody says whether a sensor rounds or
    floors: the present temperature may lie half a step below the reading, or a whole one above.
    """
    t, temp = _window(t_s, temperature_c, window_s, what="temperature")
    robust = np.asarray(ndimage.median_filter(temp, size=3, mode="nearest"), dtype=np.float64)
    slope = slope_interval(t, robust, resolution_c=resolution_c)
    left = limit_c - float(robust[-1])
    return Headroom(
        headroom_c=left, u_c=resolution_c / math.sqrt(12), slope=slope,
        time_to_limit_s=_time(left, slope.value if slope.low > 0 else 0.0),
        low_s=_time(left - resolution_c, slope.high), high_s=_time(left + resolution_c / 2, slope.low),
    )  # fmt: skip


def _time(left_c: float, slope_c_per_min: float) -> float:
    if left_c <= 0:
        return 0.0
    return left_c / slope_c_per_min * SECONDS_PER_MINUTE if slope_c_per_min > 0 else math.inf


def _window(t_s: ArrayLike, values: ArrayLike, window_s: float, *, what: str) -> tuple[FloatArray, FloatArray]:
    """The last ``window_s`` seconds of finite readings; refused where there are too few."""
    t, y = np.asarray(t_s, dtype=np.float64), np.asarray(values, dtype=np.float64)
    kept = np.isfinite(y) & (t >= (t[-1] - window_s if t.size else 0.0))
    if np.count_nonzero(kept) < MIN_READINGS:
        refuse(
            "readings in the window", scope=what, measured=float(np.count_nonzero(kept)), limit=float(MIN_READINGS), unit="readings",
            reason=f"the last {window_s:g} s hold {np.count_nonzero(kept)} readings (needed: at least {MIN_READINGS})",
            remedy="lengthen the window, or sample faster",
        )  # fmt: skip
    return t[kept], y[kept]
