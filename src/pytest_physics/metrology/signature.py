"""Thermal signature of a workload: what one device does under it, per replicate, with the spread between replicates.

A replicate is one idle span and one span under load on one device. Its features have units: power above idle, steady temperature above
ambient, thermal resistance and time constant from the step, energy per step and its coefficient of variation, share of time throttled,
utilisation and its spread, memory utilisation, and the frequency of the strongest line of the power spectrum. A signature needs at least
three replicates; one alone is refused, because its spread is unknown, and so is a comparison of cells that started at different
temperatures.

Whether signatures tell workloads apart is a classification: each replicate in turn is left out and given to the nearest centroid of the
others (features in units of the spread within cells). The share that comes out right has Wilson's interval, and is compared with the same
on shuffled labels, because leave-one-out is not independent and can be below chance by construction.

Assumes one device per signature (rows of two devices are never pooled), matched ambient, randomised order. Fails (feature is NaN, and
left out for all) where a channel is missing.

Reference: RLE study §5, §7.3 (what a signature from single runs of two monitors is worth), §8.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from pytest_physics.metrology.autocorrelation import FloatArray
from pytest_physics.metrology.forensics.proportions import Share, wilson
from pytest_physics.metrology.refusal import refuse
from pytest_physics.metrology.thermal import fit_plateau
from pytest_physics.metrology.uncertainty import Gate, coverage_factor

BoolArray = NDArray[np.bool_]

MIN_REPLICATES = 3
MAX_START_SPREAD_C = 2.0
"""Start temperatures of the replicates that are compared may differ by this much."""
STEADY_SHARE = 0.25
"""The last quarter of the load is its steady part."""
NEAR_PLATEAU_C = 0.5
MIN_SPECTRUM = 32
"""Fewer rows have no spectrum."""
PERMUTATIONS = 499
UNITS: Mapping[str, str] = {
    "power_above_idle_w": "W", "steady_rise_c": "K", "resistance_k_per_w": "K/W", "time_constant_s": "s", "energy_per_step_j": "J",
    "energy_per_step_cv": "1", "throttle_share": "1", "utilisation_ratio": "1", "utilisation_spread": "1", "memory_utilisation_ratio": "1",
    "spectrum_peak_hz": "Hz",
}  # fmt: skip
"""Features and their units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Rows of one device in one span; arrays of shape (N,), NaN where a read failed, None where there is no such channel."""

    t_s: FloatArray
    power_w: FloatArray | None = None
    temperature_c: FloatArray | None = None
    utilisation_ratio: FloatArray | None = None
    memory_utilisation_ratio: FloatArray | None = None
    throttled: BoolArray | None = None
    """Rows in which the driver reported a thermal, power or external slowdown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicate:
    """Features of one repetition of one workload on one device."""

    workload: str
    device: str
    features: Mapping[str, float]
    """By the names of :data:`UNITS`; NaN where the channel is missing."""
    start_c: float
    """Temperature when the load began; NaN where it was not read."""


def replicate(
    idle: Span, load: Span, *, workload: str, device: str, ambient_c: float | None = None, step_energy_j: Sequence[float] = (),
    resolution_c: float = 1.0,
) -> Replicate:  # fmt: skip
    """Features of one repetition.

    Parameters
    ----------
    ambient_c
        Ambient temperature; without it the idle temperature stands in, and the rise is one above idle.
    step_energy_j
        Net energy of each step or batch of equal work, joules.
    """
    power_above = _mean(_steady(load, load.power_w)) - _mean(idle.power_w)
    thermal = _step_response(idle, load, power_above, ambient_c, resolution_c)
    energies = np.asarray(step_energy_j, dtype=np.float64)
    energy = float(energies.mean()) if energies.size else math.nan
    return Replicate(
        workload=workload,
        device=device,
        start_c=_mean(None if idle.temperature_c is None else idle.temperature_c[-5:]),
        features={
            "power_above_idle_w": power_above,
            **thermal,
            "energy_per_step_j": energy,
            "energy_per_step_cv": float(energies.std(ddof=1)) / energy if energies.size > 2 and energy else math.nan,
            "throttle_share": math.nan if load.throttled is None else float(load.throttled.mean()),
            "utilisation_ratio": _mean(load.utilisation_ratio),
            "utilisation_spread": math.nan if load.utilisation_ratio is None else float(np.nanstd(load.utilisation_ratio)),
            "memory_utilisation_ratio": _mean(load.memory_utilisation_ratio),
            "spectrum_peak_hz": spectrum_peak_hz(load.t_s, load.power_w),
        },
    )


def _step_response(idle: Span, load: Span, power_above_w: float, ambient_c: float | None, resolution_c: float) -> dict[str, float]:
    """Steady rise, thermal resistance and time constant from the step at the beginning of the load."""
    found = {"steady_rise_c": math.nan, "resistance_k_per_w": math.nan, "time_constant_s": math.nan}
    if load.temperature_c is None or idle.temperature_c is None:
        return found
    known = np.isfinite(load.temperature_c)
    if np.count_nonzero(known) < 4:
        return found
    plateau = fit_plateau(load.t_s[known], load.temperature_c[known], resolution_c=resolution_c, near_plateau_c=NEAR_PLATEAU_C)
    idle_c = _mean(idle.temperature_c) + resolution_c / 2  # the sensor floors, and the plateau is corrected for it
    found["steady_rise_c"] = plateau.temperature_c - (idle_c if ambient_c is None else ambient_c)
    if power_above_w > 0:
        found["resistance_k_per_w"] = (plateau.temperature_c - idle_c) / power_above_w
    found["time_constant_s"] = math.nan if plateau.tau_s is None else plateau.tau_s
    return found


def spectrum_peak_hz(t_s: FloatArray, power_w: FloatArray | None) -> float:
    """Frequency of the strongest line of the detrended power; NaN for too few or unevenly spaced rows, or constant power."""
    if power_w is None or t_s.size < MIN_SPECTRUM:
        return math.nan
    known = np.isfinite(power_w)
    if np.count_nonzero(known) < MIN_SPECTRUM or np.ptp(power_w[known]) == 0:
        return math.nan
    period_s = float(np.median(np.diff(t_s)))
    grid = np.arange(t_s[0], t_s[-1], period_s)
    values = signal.detrend(np.interp(grid, t_s[known], power_w[known]))
    frequencies, density = signal.periodogram(values, fs=1 / period_s, window="hann")
    return float(frequencies[1:][np.argmax(density[1:])])


def _steady(span: Span, values: FloatArray | None) -> FloatArray | None:
    """The last quarter of a span."""
    return None if values is None else values[span.t_s >= span.t_s[-1] - STEADY_SHARE * (span.t_s[-1] - span.t_s[0])]


def _mean(values: FloatArray | None) -> float:
    if values is None or not np.isfinite(values).any():
        return math.nan
    return float(np.nanmean(values))


# --- signatures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One feature over the replicates of a cell."""

    mean: float
    low: float
    """95 % interval of the mean, from the spread between replicates (Student's t)."""
    high: float
    spread: float
    """Standard deviation between replicates."""
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Features of one workload on one device."""

    workload: str
    device: str
    n: int
    """Replicates."""
    features: Mapping[str, Feature]


def signature(replicates: Sequence[Replicate]) -> Signature:
    """Signature of one cell, from at least three replicates of one workload on one device."""
    _require_cell(replicates)
    names = [name for name in UNITS if all(math.isfinite(r.features.get(name, math.nan)) for r in replicates)]
    features = {name: _feature(np.array([r.features[name] for r in replicates])) for name in names}
    return Signature(workload=replicates[0].workload, device=replicates[0].device, n=len(replicates), features=features)


def _feature(values: FloatArray) -> Feature:
    spread, n = float(values.std(ddof=1)), values.size
    mean, reach = float(values.mean()), coverage_factor(n - 1) * spread / math.sqrt(n)
    return Feature(mean=mean, low=mean - reach, high=mean + reach, spread=spread, n=n)


def _require_cell(replicates: Sequence[Replicate]) -> None:
    cells = sorted({f"{r.workload} on {r.device}" for r in replicates})
    if len(cells) > 1:
        refuse(
            "one cell", scope="signature", measured=float(len(cells)), limit=1.0, unit="cells",
            reason=f"the replicates are of {', '.join(cells)}: pooled they are no signature",
            remedy="make one signature per workload and device",
        )  # fmt: skip
    if len(replicates) < MIN_REPLICATES:
        refuse(
            "replicates", scope=cells[0] if cells else "signature", measured=float(len(replicates)), limit=float(MIN_REPLICATES),
            unit="replicates", reason=f"{len(replicates)} replicates (needed: at least {MIN_REPLICATES}) do not show their spread",
            remedy="repeat the workload, in random order with the others",
        )  # fmt: skip


def start_gate(replicates: Sequence[Replicate], *, scope: str = "thermal signatures") -> Gate:
    """Replicates that are compared began at one temperature."""
    starts = np.array([r.start_c for r in replicates if math.isfinite(r.start_c)])
    known = starts.size == len(replicates) and starts.size > 0
    spread = float(np.ptp(starts)) if starts.size else math.nan
    passed = known and spread <= MAX_START_SPREAD_C
    said = f"start temperatures differ by {spread:.3g} °C (limit {MAX_START_SPREAD_C:g} °C)"
    return Gate(
        name="start temperature", scope=scope, measured=spread if starts.size else None, limit=MAX_START_SPREAD_C, unit="°C", passed=passed,
        reason=said if known else f"{len(replicates) - starts.size} of {len(replicates)} replicates have no start temperature",
        remedy="" if passed else "let the device cool to one temperature before each replicate",
    )  # fmt: skip


def order_gate(order: Sequence[str], *, scope: str = "thermal signatures") -> Gate:
    """Workloads were interleaved: where all replicates of one follow one another, drift and workload cannot be told apart."""
    blocks = 1 + sum(a != b for a, b in itertools.pairwise(order))
    kinds = len(set(order))
    passed = kinds < 2 or blocks > kinds
    return Gate(
        name="randomised order", scope=scope, measured=float(blocks), limit=float(kinds + 1), unit="blocks", passed=passed,
        reason=f"{len(order)} replicates of {kinds} workloads ran in {blocks} blocks (needed: at least {kinds + 1})",
        remedy="" if passed else "shuffle the order of the replicates over all workloads",
    )  # fmt: skip


# --- classification ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """How well signatures tell workloads apart."""

    workloads: tuple[str, ...]
    confusion: NDArray[np.int64]
    """Replicates by true workload (row) and nearest centroid (column)."""
    right: int
    n: int
    accuracy: float
    low: float
    """Wilson's 95 % interval."""
    high: float
    chance: float
    """Share of the largest workload: what always naming it would reach."""
    p: float
    """Share of shuffled labels that come out as right or better."""
    features: tuple[str, ...]
    """Features that every replicate has and that vary."""

    @property
    def tells_apart(self) -> bool:
        """Whether the interval lies above chance and shuffled labels hardly reach it."""
        return self.low > self.chance and self.p <= 0.05


def classify(replicates: Sequence[Replicate], *, seed: int = 0) -> Classification:
    """Leave one replicate out, name it by the nearest centroid of the others; refused below two workloads or three replicates in any."""
    labels = np.array([r.workload for r in replicates])
    workloads, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    devices = {r.device for r in replicates}
    if len(workloads) < 2 or counts.min() < MIN_REPLICATES or len(devices) > 1:
        refuse(
            "replicates per workload", scope="classification", measured=float(counts.min()) if counts.size else 0.0,
            limit=float(MIN_REPLICATES), unit="replicates",
            reason=f"{len(workloads)} workloads with {', '.join(map(str, counts.tolist()))} replicates on {len(devices)} devices "
            f"(needed: at least 2 workloads, {MIN_REPLICATES} replicates each, one device)",
            remedy="repeat each workload at least three times on one device",
        )  # fmt: skip
    names, matrix = _feature_matrix(replicates)
    named = _nearest(matrix, codes)
    confusion = np.zeros((workloads.size, workloads.size), dtype=np.int64)
    np.add.at(confusion, (codes, named), 1)
    right, n = int(np.sum(named == codes)), codes.size
    low, high = wilson(Share(successes=right, trials=n))
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(codes) for _ in range(PERMUTATIONS)]
    as_good = sum(int(np.sum(_nearest(matrix, other) == other)) >= right for other in shuffled)
    return Classification(
        workloads=tuple(workloads.tolist()), confusion=confusion, right=right, n=n, accuracy=right / n, low=low, high=high,
        chance=float(counts.max()) / n, p=(1 + as_good) / (1 + PERMUTATIONS), features=names,
    )  # fmt: skip


def _feature_matrix(replicates: Sequence[Replicate]) -> tuple[tuple[str, ...], FloatArray]:
    """Features that all replicates have and that vary, shape (replicates, features)."""
    columns = {name: np.array([r.features.get(name, math.nan) for r in replicates]) for name in UNITS}
    kept = {name: values for name, values in columns.items() if np.isfinite(values).all() and np.ptp(values) > 0}
    if not kept:
        refuse(
            "features", scope="classification", measured=0.0, limit=1.0, unit="features",
            reason="no feature is known for every replicate and varies",
            remedy="record power, temperature or utilisation in every replicate",
        )  # fmt: skip
    return tuple(kept), np.column_stack(list(kept.values()))


def _nearest(matrix: FloatArray, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Code of the nearest centroid of the others, for each row; distances in units of the spread within cells."""
    n, kinds = codes.size, int(codes.max()) + 1
    member = (codes[:, np.newaxis] == np.arange(kinds)).astype(np.float64)
    named = np.empty(n, dtype=np.int64)
    for left_out in range(n):
        others = np.arange(n) != left_out
        weights = member[others] / np.maximum(member[others].sum(axis=0), 1)
        centroids = weights.T @ matrix[others]
        within = matrix[others] - centroids[codes[others]]
        spread = np.sqrt((within**2).sum(axis=0) / max(1, n - 1 - kinds))
        scale = np.where(spread > 0, spread, np.maximum(np.ptp(matrix, axis=0) * 1e-6, 1e-300))
        named[left_out] = int(np.argmin((((matrix[left_out] - centroids) / scale) ** 2).sum(axis=1)))
    return named
