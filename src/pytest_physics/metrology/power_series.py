"""A power trace made ready for any number of windows: the sensor's levels, their prefix sums, its updates, gaps and noise.

Readings become a step function: the sensor's value y_k stands from its update instant t_k to the next one. Its integral is
Σ y_k·(t_{k+1} − t_k) = Σ y_k·T, the sum over updates, because changes are put on the sensor's comb
(:func:`~pytest_physics.metrology.updates.change_instants`); equal neighbours need not be told apart. Across missed updates half
of the stretch takes the old and half the new value (trapezoid on updates), and where polls are slower than updates each reading
stands for the polls' own interval, half before and half after (midpoint rule).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pytest_physics.metrology.gaps import GAP_THRESHOLD_S, Gaps
from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.updates import (
    FloatArray,
    IntArray,
    change_instants,
    comb_is_visible,
    run_starts,
    seconds_since,
    typical_interval_s,
    updates_in_runs,
)

COMB_JITTER = 0.2
"""Share of the poll interval's jitter that is left where changes were put on the comb."""
NOISE_SAMPLE = 100_000
"""Readings from which noise is estimated, at most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PowerSeries:
    """A power trace made ready for any number of windows: prefix sums over the sensor's levels. Built by :meth:`of`."""

    sensor: SensorModel
    origin_ns: int
    """Instant of the first valid sample; the arrays below are in seconds from it."""
    first_s: float
    last_s: float
    """First and last valid sample; +inf and −inf without any."""
    edge_s: FloatArray
    """Where one level ends and the next begins, shape (R + 1,)."""
    level_w: FloatArray
    """Readings, equal neighbours merged, shape (R,)."""
    energy_j: FloatArray
    """∫ y from the origin to each edge, shape (R + 1,)."""
    square_j: FloatArray
    """∫ (y − mean)² from the origin to each edge in W²·s, shape (R + 1,)."""
    mean_w: float
    update_s: FloatArray
    """Instants of distinct updates, shape (K,)."""
    gaps: Gaps
    noise_w: float
    """Standard deviation of one reading at constant power."""
    poll_s: float
    """Median interval between valid samples."""

    @classmethod
    def of(
        cls,
        t_ns: IntArray,
        power_w: FloatArray,
        *,
        sensor: SensorModel,
        gap_threshold_s: float = GAP_THRESHOLD_S,
        noise_w: float | None = None,
    ) -> PowerSeries:
        """Build from samples.

        Parameters
        ----------
        t_ns
            Sample instants, shape (N,), not decreasing.
        power_w
            Readings, shape (N,), NaN where the read failed.
        sensor
            Identified or prior model of the channel.
        gap_threshold_s
            Valid samples further apart leave a gap.
        noise_w
            Standard deviation of one reading at constant power, where known; otherwise the median of second differences says.
        """
        t, y = valid_samples(t_ns, power_w)
        if not len(t):
            return cls._empty(sensor)
        starts = run_starts(y)
        origin_ns = int(t[0])
        level, edge_s = y[starts], _edges(t, starts, sensor.update_period_s)
        span = np.diff(edge_s)
        mean_w = float(level @ span / span.sum()) if span.sum() > 0 else float(level[0])
        return cls(
            sensor=sensor,
            origin_ns=origin_ns,
            first_s=0.0,
            last_s=float(edge_s[-1]),
            edge_s=edge_s,
            level_w=level,
            energy_j=_cumulative(level * span),
            square_j=_cumulative(np.square(level - mean_w) * span),
            mean_w=mean_w,
            update_s=seconds_since(t[updates_in_runs(t, starts, sensor.update_period_s)], origin_ns),
            gaps=Gaps.of(t, origin_ns, gap_threshold_s),
            noise_w=_noise(level) if noise_w is None else noise_w,
            poll_s=typical_interval_s(t),
        )

    @classmethod
    def _empty(cls, sensor: SensorModel) -> PowerSeries:
        nothing, pair = np.zeros(0), np.zeros(2)
        return cls(
            sensor=sensor, origin_ns=0, first_s=math.inf, last_s=-math.inf, edge_s=pair, level_w=np.full(1, np.nan),
            energy_j=pair, square_j=pair, mean_w=math.nan, update_s=nothing, gaps=Gaps.of(np.zeros(0, np.int64), 0, 1.0),
            noise_w=math.nan, poll_s=0.0,
        )  # fmt: skip

    @property
    def step_s(self) -> float:
        """Interval between independent looks: the update period, or the polls' where they are slower."""
        return max(self.sensor.update_period_s, self.poll_s)

    @property
    def coverage(self) -> float:
        """Share of the time that is looked at, at most 1."""
        return min(1.0, self.sensor.effective_window_s / self.step_s)

    @property
    def change_jitter_s(self) -> float:
        """Standard uncertainty of the instant of a change."""
        on_comb = comb_is_visible(self.poll_s, self.sensor.update_period_s)
        return self.poll_s / math.sqrt(12) * (COMB_JITTER if on_comb else 1.0)

    def integral_j(self, t_s: FloatArray) -> FloatArray:
        """∫ y from the origin to ``t_s``."""
        index, since_s = self._place(t_s)
        total: FloatArray = self.energy_j[index] + self.level_w[index] * since_s
        return total

    def _place(self, t_s: FloatArray) -> tuple[IntArray, FloatArray]:
        """Level at ``t_s``, and the time since it began; what lies outside the series is moved to its ends."""
        inside = np.clip(t_s, self.edge_s[0], self.edge_s[-1])
        index = np.clip(np.searchsorted(self.edge_s, inside, side="right") - 1, 0, len(self.level_w) - 1)
        return index, inside - self.edge_s[index]

    def level_at_w(self, t_s: FloatArray) -> FloatArray:
        """Reading that stands at ``t_s``."""
        levels: FloatArray = self.level_w[self._place(t_s)[0]]
        return levels

    def moments(self, from_s: FloatArray, to_s: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Time-weighted mean and standard deviation of the readings over ``[from, to]``; NaN where that is empty."""
        length = np.where(to_s > from_s, to_s - from_s, np.nan)
        (first, first_s), (last, last_s) = self._place(from_s), self._place(to_s)
        energy_j = self.energy_j[last] + self.level_w[last] * last_s - self.energy_j[first] - self.level_w[first] * first_s
        begun = self.square_j[first] + np.square(self.level_w[first] - self.mean_w) * first_s
        ended = self.square_j[last] + np.square(self.level_w[last] - self.mean_w) * last_s
        mean = energy_j / length
        return mean, np.sqrt(np.maximum((ended - begun) / length - np.square(mean - self.mean_w), 0.0))


def valid_samples(t_ns: IntArray, values: FloatArray) -> tuple[IntArray, FloatArray]:
    """Samples that were read; raises ``ValueError`` for shapes that do not pair or time that runs backwards."""
    if t_ns.ndim != 1 or t_ns.shape != values.shape:
        raise ValueError(f"sample instants and values must be one-dimensional and of equal length (got {t_ns.shape}, {values.shape}).")
    if len(t_ns) > 1 and not np.all(t_ns[1:] >= t_ns[:-1]):
        raise ValueError("sample instants must not decrease; sort the samples, or check that they come from one clock.")
    valid = np.isfinite(values)
    return (t_ns, values) if valid.all() else (t_ns[valid], values[valid])


def _edges(t_ns: IntArray, starts: IntArray, period_s: float) -> FloatArray:
    """Boundaries of the levels: first sample, changes, last sample."""
    origin_ns = int(t_ns[0])
    changes = change_instants(seconds_since(t_ns[starts[1:] - 1], origin_ns), seconds_since(t_ns[starts[1:]], origin_ns), period_s)
    return np.concatenate([np.zeros(1), changes, seconds_since(t_ns[-1:], origin_ns)])


def _cumulative(parts: FloatArray) -> FloatArray:
    return np.concatenate([np.zeros(1), np.cumsum(parts)])


def _noise(level_w: FloatArray) -> float:
    """Robust standard deviation of one reading at constant power, from second differences.

    Slow changes of power cancel in them; steps do not, so the median is repeated on what lies within four deviations until it
    rests.
    """
    if len(level_w) < 8:
        return 0.0
    middle = np.arange(1, len(level_w) - 1, 1 + len(level_w) // NOISE_SAMPLE)
    size = np.abs(level_w[middle] - (level_w[middle - 1] + level_w[middle + 1]) / 2)
    deviation = np.inf
    for _ in range(20):
        kept = size[size <= 4 * deviation]
        now = float(np.median(kept)) / 0.6745
        if now >= deviation:
            break
        deviation = now
    return deviation / math.sqrt(1.5)
