"""Gaps in a series of samples: stretches in which nothing valid was read for longer than a threshold.

Gaps are between *valid* samples: a poller that is alive and fails is as silent as a dead one. Time before the first and after the
last sample is no gap but the lack of a bracket, which is judged apart. Queries cost O(log G) per window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_physics.metrology.updates import FloatArray, IntArray, seconds_since

GAP_THRESHOLD_S = 0.25
"""Valid samples further apart than this leave a gap (TR122, 2.4)."""
MAX_GAP_S = 1.0
"""A window with a longer gap is GAPPY, however long it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """The gaps of one series, in seconds from the series' origin."""

    start_s: FloatArray
    stop_s: FloatArray
    total_s: FloatArray
    """Gap time before each gap, shape (G + 1,)."""
    longest_s: tuple[FloatArray, ...]
    """Level j holds the maximum over 2ʲ neighbouring gaps: any range is the larger of two of them."""

    @classmethod
    def of(cls, t_ns: IntArray, origin_ns: int, threshold_s: float) -> Gaps:
        """Gaps between neighbours of ``t_ns``, the instants of valid samples."""
        index = np.flatnonzero(np.diff(t_ns) > round(threshold_s * 1e9))
        start, stop = seconds_since(t_ns[index], origin_ns), seconds_since(t_ns[index + 1], origin_ns)
        total = np.concatenate([np.zeros(1), np.cumsum(stop - start)])
        return cls(start_s=start, stop_s=stop, total_s=total, longest_s=_range_maxima(stop - start))

    def covered_s(self, from_s: FloatArray, to_s: FloatArray) -> FloatArray:
        """Gap time inside each ``[from, to]``, shape (M,)."""
        return self._before(to_s) - self._before(from_s)

    def _before(self, t_s: FloatArray) -> FloatArray:
        if not len(self.start_s):
            return np.zeros(np.shape(t_s))
        begun = np.searchsorted(self.start_s, t_s, side="right")
        unfinished = np.maximum(self.stop_s[np.maximum(begun - 1, 0)] - t_s, 0.0)
        before: FloatArray = self.total_s[begun] - np.where(begun > 0, unfinished, 0.0)
        return before

    def longest_in_s(self, from_s: FloatArray, to_s: FloatArray) -> FloatArray:
        """Full length of the longest gap that overlaps each ``[from, to]``, shape (M,); 0 for none."""
        if not len(self.start_s):
            return np.zeros(np.shape(from_s))
        first = np.searchsorted(self.stop_s, from_s, side="right")
        count = np.searchsorted(self.start_s, to_s, side="left") - first
        level = np.frexp(np.maximum(count, 1))[1] - 1
        longest = np.zeros(np.shape(from_s))
        for j, maxima in enumerate(self.longest_s):
            here = (level == j) & (count > 0)
            low = first[here]
            longest[here] = np.maximum(maxima[low], maxima[low + count[here] - (1 << j)])
        return longest


def _range_maxima(lengths_s: FloatArray) -> tuple[FloatArray, ...]:
    levels = [lengths_s]
    while len(levels[-1]) > 1 << (len(levels) - 1):
        half = 1 << (len(levels) - 1)
        levels.append(np.maximum(levels[-1][:-half], levels[-1][half:]))
    return tuple(levels)
