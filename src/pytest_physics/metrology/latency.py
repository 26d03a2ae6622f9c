"""How long a call takes: quantiles with intervals that assume no distribution.

The interval of a quantile p lies between two order statistics: with K ~ Binomial(n, p) values below it, ``[x_(l), x_(u)]`` covers with
probability ``P(l ≤ K < u)`` whatever the distribution. Latencies are skewed and have tails, so that mean ± k·u would say little.
Where n is too small for a bound (a p99 needs 299 values for an upper one), the bound is infinite: that is what is known.

The harness's own time per call is measured with an empty call and *stated*; it is not subtracted in silence.

Assumes independent calls; slow drift makes the intervals too narrow. Reference: David and Nagaraja, "Order Statistics" (2003), §7.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pytest_physics.metrology.uncertainty import COVERAGE

FloatArray = NDArray[np.float64]

QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileInterval:
    """A quantile of a sample with its distribution-free 95 % interval."""

    probability: float
    """Which quantile: 0.5 for the median."""
    value: float
    """In the unit of the sample: the smallest value with at least this share of the sample at or below it."""
    low: float
    """Lower bound; −inf where the sample is too small for one."""
    high: float
    """Upper bound; +inf where the sample is too small for one."""
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySummary:
    """Latency of a repeated call."""

    median_s: QuantileInterval
    p95_s: QuantileInterval
    p99_s: QuantileInterval
    overhead_s: QuantileInterval | None
    """Median time of an empty call in the same harness, contained in every latency; None where it was not measured."""


def quantile_interval(values: FloatArray, probability: float) -> QuantileInterval:
    """Quantile ``probability`` of ``values``, shape (N,), N ≥ 1, with an interval that covers at least 95 %."""
    x = np.sort(np.asarray(values, dtype=np.float64))
    n = len(x)
    if n == 0 or not np.isfinite(x).all():
        raise ValueError(f"a quantile needs at least one value, all finite (got {n} values).")
    if not 0 < probability < 1:
        raise ValueError(f"'probability' must lie in (0, 1) (got {probability}).")
    tail = (1 - COVERAGE) / 2
    # P(K < l) ≤ tail below, P(K ≥ u) ≤ tail above, with K values at or below the quantile
    low = int(stats.binom.ppf(tail, n, probability))
    high = int(stats.binom.ppf(1 - tail, n, probability)) + 1
    return QuantileInterval(
        probability=probability,
        value=float(np.quantile(x, probability, method="inverted_cdf")),
        low=float(x[low - 1]) if low >= 1 else -math.inf,
        high=float(x[high - 1]) if high <= n else math.inf,
        n=n,
    )


def latency_summary(latency_s: FloatArray, empty_s: FloatArray | None = None) -> LatencySummary:
    """Median, 95th and 99th percentile of calls, with the harness's overhead from empty calls beside them."""
    median, p95, p99 = (quantile_interval(latency_s, p) for p in QUANTILES)
    overhead = None if empty_s is None else quantile_interval(empty_s, 0.5)
    return LatencySummary(median_s=median, p95_s=p95, p99_s=p99, overhead_s=overhead)
