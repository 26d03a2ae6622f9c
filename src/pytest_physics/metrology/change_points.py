"""Change points of a series of runs: where its level moved, and by how much.

Pettitt's test, a rank test for one shift at an unknown place: K = max |Σ_{i≤t} Σ_{j>t} sign(y_j − y_i)|, p ≈ 2·exp(−6K²/(n³ + n²)). Ranks
make it blind to outliers and to the shape of the scatter. Each part is searched again (binary segmentation) until nothing is significant at
1 % or a part has fewer than two times :data:`SHORTEST` runs; places are then refined between their neighbours, because a first split is
pulled by the others. The size of a shift is the difference of the medians of its two sides.

Assumes independent runs: a series that wanders has change points. Approximate p is conservative for short series, so a step needs about
seven runs on each side; what happened in the latest run is the regression check's to say, not this one's.

Reference: Pettitt, "A non-parametric approach to the change-point problem", Appl. Statist. 28 (1979) 126. docs/decisions/0014.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

SIGNIFICANT = 0.01
SHORTEST = 5
"""Fewest runs of one level."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePoint:
    """One shift of the level."""

    index: int
    """First run of the new level."""
    before: float
    """Median of the level before."""
    after: float
    """Median of the level from there on."""
    p: float


def change_points(values: Sequence[float] | FloatArray) -> tuple[ChangePoint, ...]:
    """Shifts of ``values``, shape (n,), finite, in the order in which the runs ran."""
    y = np.asarray(values, dtype=np.float64)
    if y.ndim != 1 or not np.isfinite(y).all():
        raise ValueError(f"change points need one series of finite values (got shape {y.shape}).")
    return _described(y, _refined(y, _split(y, 0)))


def _split(y: FloatArray, offset: int) -> list[int]:
    place, p = pettitt(y)
    if p > SIGNIFICANT:
        return []
    return [*_split(y[:place], offset), offset + place, *_split(y[place:], offset + place)]


def pettitt(y: FloatArray) -> tuple[int, float]:
    """First index of the second part, and p; ``(0, 1.0)`` for fewer than two times :data:`SHORTEST` values."""
    n = len(y)
    if n < 2 * SHORTEST:
        return 0, 1.0
    ranks = stats.rankdata(y)
    t = np.arange(1, n)
    statistic = np.abs(2 * np.cumsum(ranks)[:-1] - t * (n + 1))
    allowed = statistic[SHORTEST - 1 : n - SHORTEST]
    place = SHORTEST + int(np.argmax(allowed))
    k = float(allowed.max())
    return place, min(1.0, 2 * math.exp(-6 * k**2 / (n**3 + n**2)))


def _refined(y: FloatArray, places: Sequence[int]) -> list[tuple[int, float]]:
    """Each place once more, between its neighbours; those that are not significant there are dropped."""
    out = list(places)
    for i in range(len(out)):
        low, high = out[i - 1] if i else 0, out[i + 1] if i + 1 < len(out) else len(y)
        out[i] = low + pettitt(y[low:high])[0] or out[i]
    edges = [0, *out, len(y)]
    tested = [(place, pettitt(y[edges[i] : edges[i + 2]])[1]) for i, place in enumerate(out)]
    return [(place, p) for place, p in tested if p <= SIGNIFICANT]


def _described(y: FloatArray, places: Sequence[tuple[int, float]]) -> tuple[ChangePoint, ...]:
    edges = [0, *(place for place, _ in places), len(y)]
    return tuple(
        ChangePoint(
            index=place, before=float(np.median(y[edges[i] : place])), after=float(np.median(y[place : edges[i + 2]])), p=p
        )
        for i, (place, p) in enumerate(places)
    )  # fmt: skip
