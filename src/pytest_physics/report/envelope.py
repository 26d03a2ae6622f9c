"""Fewer points for a drawing: the minimum and the maximum of every bucket, each at its own instant.

A true envelope: a notch of one sample survives, where every N-th sample loses half of the 50 ms throttle notches of a long trace. Every
point drawn is a sample that was taken. Line integrals of the drawing are off by up to 0.3 %, so no number may be taken from it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def envelope(values: NDArray[np.float64], buckets: int) -> NDArray[np.intp]:
    """Indices into ``values`` (finite, shape (N,)), ascending: first, last, and both extremes of ``buckets`` equal parts.

    All N indices where N ≤ 2·buckets, else at most 2·buckets + 2.
    """
    if buckets < 1:
        raise ValueError(f"'buckets' must be >= 1 (got {buckets}).")
    n = len(values)
    if n <= 2 * buckets:
        return np.arange(n)
    per_bucket = -(-n // buckets)
    whole = n // per_bucket * per_bucket
    parts = values[:whole].reshape(-1, per_bucket)
    starts = np.arange(len(parts)) * per_bucket
    chosen = [starts + parts.argmin(axis=1), starts + parts.argmax(axis=1), np.array([0, n - 1])]
    if whole < n:
        rest = values[whole:]
        chosen.append(whole + np.array([rest.argmin(), rest.argmax()]))
    return np.unique(np.concatenate(chosen))


def drawn_line(
    x: NDArray[np.float64], y: NDArray[np.float64], *, buckets: int, max_step: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Envelope of a series with NaNs, interrupted (by a NaN) where neighbours in ``x`` are more than ``max_step`` apart.

    Missing values are dropped first, so a long run of them opens a gap as missing samples do.
    """
    valid = np.isfinite(x) & np.isfinite(y)
    x, y = x[valid], y[valid]
    chosen = envelope(y, buckets)
    segment = np.concatenate([[0], np.cumsum(np.diff(x) > max_step)]) if len(x) else np.zeros(0, int)
    broken = np.flatnonzero(np.diff(segment[chosen])) + 1
    return np.insert(x[chosen], broken, np.nan), np.insert(y[chosen], broken, np.nan)


def gaps(x: NDArray[np.float64], y: NDArray[np.float64], *, max_step: float) -> NDArray[np.float64]:
    """Intervals between neighbouring valid samples that are longer than ``max_step``, shape (G, 2), in the order of ``x``."""
    valid = np.isfinite(x) & np.isfinite(y)
    x = x[valid]
    wide = np.flatnonzero(np.diff(x) > max_step)
    return np.column_stack([x[wide], x[wide + 1]])
