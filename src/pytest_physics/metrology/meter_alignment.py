"""When a reference meter's recording lies on the clock of a run: the load's own edges, found in the meter's power.

Model: the meter shows ``base + swing · u(t − offset)`` with u the known load, averaged over the cells of a common grid. The offset is where
the correlation with the load is largest, refined by a parabola. A random load makes that place unique.

Assumes that both clocks run at the same rate over the stretch (100 ppm of a minute is 6 ms). Refuses a recording that is too short, that
does not show this load (correlation below 0.6), or that shows it at two places alike. Clocks of hosts and meters commonly differ by
milliseconds to hours, so nothing is taken from wall time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from pytest_physics.metrology.refusal import refuse
from pytest_physics.metrology.sensor_fit import Load

FloatArray = NDArray[np.float64]

FINEST_S = 0.002
"""Finest grid: finer than this no level mean cares."""
MIN_CORRELATION = 0.6
MAX_RUNNER_UP = 0.9
"""Largest correlation elsewhere, as a share of the best."""
ELSEWHERE_S = 1.0
"""A place further away than this is elsewhere."""
MARGIN_S = 0.2
"""Idle time looked at before and after the load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Where a recording lies on the load's clock."""

    offset_s: float
    """Time of the meter less time of the load."""
    u_offset_s: float
    correlation: float
    """Of meter and load at that place."""


def align(meter_s: FloatArray, meter_w: FloatArray, load: Load, *, scope: str = "meter") -> Alignment:
    """Find ``load`` in a meter's recording, times increasing, both of shape (N,), or refuse."""
    step_s = max(FINEST_S, float(np.median(np.diff(meter_s))) if len(meter_s) > 1 else math.inf)
    start_s, stop_s = float(load.edge_s[0]) - MARGIN_S, float(load.edge_s[-1]) + MARGIN_S
    span_s = float(meter_s[-1] - meter_s[0]) if len(meter_s) > 1 else 0.0
    if not span_s >= stop_s - start_s:
        refuse(
            "meter: length", scope=scope, measured=span_s, limit=stop_s - start_s, unit="s",
            reason=f"the recording lasts {span_s:.4g} s, the load that aligns it {stop_s - start_s:.4g} s",
            remedy="Start the meter before the run and stop it afterwards.",
        )  # fmt: skip
    shape = _cells(np.arange(start_s, stop_s, step_s), load.integral)
    origin_s = float(meter_s[0])
    knots = np.concatenate([[0.0], np.cumsum((meter_w[1:] + meter_w[:-1]) / 2 * np.diff(meter_s))])
    seen = _cells(np.arange(origin_s, float(meter_s[-1]), step_s), lambda t: np.interp(t, meter_s, knots))
    score = _correlation(seen, shape)
    best = int(np.argmax(score))
    _check(score, best, step_s, scope)
    return Alignment(
        offset_s=origin_s + (best + _vertex(score, best)) * step_s - start_s,
        u_offset_s=step_s / math.sqrt(12),
        correlation=float(score[best]),
    )


def _cells(edge_s: FloatArray, integral: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Means over the cells between neighbouring edges."""
    means: FloatArray = np.diff(integral(edge_s)) / np.diff(edge_s)
    return means


def _correlation(seen: FloatArray, shape: FloatArray) -> FloatArray:
    """Correlation coefficient of ``shape`` with every stretch of ``seen`` of its length; 0 where a stretch is constant."""
    n = len(shape)
    centred = shape - shape.mean()
    seen = seen - seen.mean()
    covariance = signal.correlate(seen, centred, mode="valid", method="fft")
    total, squares = (np.concatenate([[0.0], np.cumsum(a)]) for a in (seen, seen**2))
    variance = (squares[n:] - squares[:-n]) - (total[n:] - total[:-n]) ** 2 / n
    scale = np.sqrt(np.maximum(variance, 0.0) * float(centred @ centred))
    known = scale > 1e-9 * max(float(scale.max()), 1e-300)
    out: FloatArray = np.where(known, covariance / np.where(known, scale, 1.0), 0.0)
    return out


def _vertex(score: FloatArray, best: int) -> float:
    """Where between the cells the maximum lies, by a parabola through three scores."""
    if not 0 < best < len(score) - 1:
        return 0.0
    left, middle, right = (float(s) for s in score[best - 1 : best + 2])
    curvature = left - 2 * middle + right
    return 0.5 * (left - right) / curvature if curvature < 0 else 0.0


def _check(score: FloatArray, best: int, step_s: float, scope: str) -> None:
    correlation = float(score[best])
    if not correlation >= MIN_CORRELATION:
        refuse(
            "meter: shows the load", scope=scope, measured=correlation, limit=MIN_CORRELATION, unit="1",
            reason=f"the recording follows the run's load with a correlation of {correlation:.2f} at best (needed: {MIN_CORRELATION})",
            remedy="Give the recording of this very run, check the columns, and that the meter is on this device's supply.",
        )  # fmt: skip
    away = np.abs(np.arange(len(score)) - best) * step_s > ELSEWHERE_S
    runner_up = float(score[away].max()) if away.any() else 0.0
    if runner_up > MAX_RUNNER_UP * correlation:
        refuse(
            "meter: one place", scope=scope, measured=runner_up, limit=MAX_RUNNER_UP * correlation, unit="1",
            reason=f"the load fits the recording at two places alike (correlations {correlation:.3f} and {runner_up:.3f})",
            remedy="Cut the recording to the run.",
        )  # fmt: skip
