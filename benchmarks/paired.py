"""The verdict on what something costs, from interleaved rounds: a ratio of paired times against a limit.

Each round holds every arm once, side by side, so that whatever the machine does meanwhile meets all of them. The result is the median of
the ratios within a round, with a distribution-free interval of at least 95 % (order statistics, binomial). A second, equal arm is the A/A
control: where its median leaves :data:`CONTROL_RANGE` the machine is too restless to see an effect of this size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONTROL_RANGE = (0.99, 1.01)
EXIT_CODES = {"VALIDATED": 0, "REFUTED": 1, "INCONCLUSIVE": 10, "INVALID": 10}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Median of paired ratios with its interval."""

    median: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{self.median:.4f} [{self.lower:.4f}, {self.upper:.4f}]"


def paired_ratio(times_s: Sequence[float], reference_s: Sequence[float]) -> Ratio:
    """Median over rounds of ``times_s / reference_s``, each of length N; below 9 rounds the interval reaches from smallest to largest."""
    ratios = np.sort(np.asarray(times_s) / np.asarray(reference_s))
    outer = max(1, int(stats.binom.ppf(0.025, len(ratios), 0.5)))
    return Ratio(median=float(np.median(ratios)), lower=float(ratios[outer - 1]), upper=float(ratios[-outer]))


def verdict_on(ratio: Ratio, control: Ratio, limit: float, *, rounds: str) -> tuple[str, str]:
    """Verdict and its reason: all of the interval at or below ``limit``, above it, or across; ``rounds`` is the option that narrows it."""
    low, high = CONTROL_RANGE
    if not low <= control.median <= high:
        return "INVALID", f"two equal arms have the ratio {control} (its median must be within {low} to {high}); run on a quiet machine"
    if ratio.upper <= limit:
        return "VALIDATED", f"the interval lies at or below {limit}"
    if ratio.lower > limit:
        return "REFUTED", f"the interval lies above {limit}"
    return "INCONCLUSIVE", f"the interval straddles {limit}; more {rounds} narrow it"
