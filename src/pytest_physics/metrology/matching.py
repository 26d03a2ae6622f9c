"""Which rows of two recordings belong together: the faster one averaged onto the rows of the slower one.

Never the other way round: a row used twice is no second observation. Rows without a partner within the tolerance are counted, and below
90 % the match is refused, with the time-zone offset named where one explains it.

Assumes times on one clock, in order. Fails (refuses) for two clocks, times that run backwards, and recordings too short to compare.
Reference: RLE study §4, where recordings five hours apart were compared row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_physics.metrology.autocorrelation import FloatArray
from pytest_physics.metrology.forensics.alignment import MIN_MATCHED, clock_offset
from pytest_physics.metrology.refusal import refuse

IntArray = NDArray[np.int64]

MIN_PAIRS = 8
"""Fewer pairs carry no correlation worth an interval."""
TOLERANCE_PERIODS = 0.75
"""Default tolerance of a match, in periods of the slower series: rows on a grid are at most half a period away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """Two recordings on the rows of the slower one."""

    t_s: FloatArray
    """Times of the pairs, shape (N,), seconds."""
    columns: Mapping[str, FloatArray]
    """Values of every column of both, each of shape (N,); of the faster recording means over the rows nearest to the pair."""
    rows: int
    """Rows of the first recording."""
    matched: int
    """Of them, rows with a partner within the tolerance."""
    distinct: int
    """Distinct pairs: rows of the slower recording with at least one partner. This is n; a row used twice is one observation."""
    tolerance_s: float
    period_s: float
    """Median spacing of the pairs."""

    @property
    def matched_share(self) -> float:
        """Share of the first recording's rows that were matched."""
        return self.matched / self.rows


def align(
    a_s: ArrayLike, a: Mapping[str, ArrayLike], b_s: ArrayLike, b: Mapping[str, ArrayLike], *,
    tolerance_s: float | None = None, clocks: tuple[str, str] | None = None, scope: str = "alignment",
) -> Aligned:  # fmt: skip
    """Recording ``a`` (the one whose rows must be matched: training steps) and recording ``b`` (telemetry) on one time base.

    Parameters
    ----------
    a_s, b_s
        Times on one clock, seconds, shapes (N,) and (M,), increasing.
    a, b
        Columns by name, of shapes (N,) and (M,); NaN where a value is missing. Names are distinct.
    clocks
        Names of the two clocks; refused where they differ.
    """
    ta, tb = np.asarray(a_s, dtype=np.float64), np.asarray(b_s, dtype=np.float64)
    _require_one_clock(clocks, scope)
    _require_rows(ta, tb, scope)
    periods = (float(np.median(np.diff(ta))), float(np.median(np.diff(tb))))
    tolerance = tolerance_s if tolerance_s is not None else TOLERANCE_PERIODS * max(periods)
    partner = nearest(ta, tb, tolerance_s=tolerance)
    matched = int(np.count_nonzero(partner >= 0))
    if matched < MIN_MATCHED * ta.size:
        _refuse_unmatched(ta, tb, tolerance, matched, scope)
    if periods[0] > periods[1]:
        base, fast, slow, index = ta, b, a, nearest(tb, ta, tolerance_s=tolerance)
    else:
        base, fast, slow, index = tb, a, b, partner
    kept = np.unique(index[index >= 0])
    columns = {name: np.asarray(values, dtype=np.float64)[kept] for name, values in slow.items()}
    columns |= {name: _means(np.asarray(values, dtype=np.float64), index, base.size)[kept] for name, values in fast.items()}
    period = float(np.median(np.diff(base[kept]))) if kept.size > 1 else max(periods)
    return Aligned(
        t_s=base[kept], columns=columns, rows=ta.size, matched=matched, distinct=kept.size, tolerance_s=tolerance, period_s=period
    )  # fmt: skip


def nearest(a_s: ArrayLike, b_s: ArrayLike, *, tolerance_s: float) -> IntArray:
    """Index of the instant of ``b_s`` nearest to each of ``a_s``; −1 where it is further than the tolerance."""
    a, b = np.asarray(a_s, dtype=np.float64), np.asarray(b_s, dtype=np.float64)
    right = np.clip(np.searchsorted(b, a), 0, b.size - 1)
    left = np.maximum(right - 1, 0)
    index = np.where(np.abs(b[left] - a) <= np.abs(b[right] - a), left, right)
    return np.where(np.abs(b[index] - a) <= tolerance_s, index, -1).astype(np.int64)


def _means(values: FloatArray, index: IntArray, n: int) -> FloatArray:
    """Mean of the finite ``values`` per index; NaN where there is none."""
    known = (index >= 0) & np.isfinite(values)
    counts = np.bincount(index[known], minlength=n)
    sums = np.bincount(index[known], weights=values[known], minlength=n)
    return np.asarray(np.divide(sums, counts, out=np.full(n, np.nan), where=counts > 0), dtype=np.float64)


def _require_one_clock(clocks: tuple[str, str] | None, scope: str) -> None:
    if clocks is not None and clocks[0] != clocks[1]:
        refuse(
            "one clock", scope=scope, measured=None, limit=None, unit="",
            reason=f"the recordings have different clocks ('{clocks[0]}' and '{clocks[1]}'): their instants cannot be compared",
            remedy="stamp both on the run's own clock",
        )  # fmt: skip


def _require_rows(ta: FloatArray, tb: FloatArray, scope: str) -> None:
    short = min(ta.size, tb.size)
    if short < MIN_PAIRS:
        refuse(
            "pairs", scope=scope, measured=float(short), limit=float(MIN_PAIRS), unit="rows",
            reason=f"one of the recordings has {short} rows (needed: at least {MIN_PAIRS})", remedy="record longer, or sample faster",
        )  # fmt: skip
    if np.any(np.diff(ta) < 0) or np.any(np.diff(tb) < 0):
        refuse(
            "order of time", scope=scope, measured=None, limit=None, unit="", reason="times run backwards",
            remedy="sort the rows, and look for a second writer",
        )  # fmt: skip


def _refuse_unmatched(ta: FloatArray, tb: FloatArray, tolerance_s: float, matched: int, scope: str) -> None:
    found = clock_offset(ta, tb, tolerance_s=tolerance_s)
    refuse(
        "matched rows", scope=scope, measured=matched / ta.size, limit=MIN_MATCHED, unit="1",
        reason=f"{matched} of {ta.size} rows have a partner within {tolerance_s:g} s ({matched / ta.size:.0%}, limit {MIN_MATCHED:.0%}); "
        f"{found.sentence}",
        remedy="read both clocks with their time zone, or record both on the run's clock; never shift one until it fits",
    )  # fmt: skip
