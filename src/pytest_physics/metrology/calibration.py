"""A power channel against a reference meter: gain and offset by York regression, with their covariance, or a refusal.

Model: ``reading = offset + gain · reference`` at six or more steady levels, with standard uncertainties on both axes. Ordinary least
squares would flatten the slope by the meter's noise; York's iteration weights each level by ``W = 1 / (u_y² + gain²·u_x²)``.
Standard uncertainties come from the adjusted points, and are not divided by the goodness of fit: a bad fit is refused, not averaged away.

Refuses (:class:`~pytest_physics.metrology.refusal.RefusedError`) fewer than six levels, R² < 0.99 (cards exist whose readings are an
estimate from clocks and voltages and do not follow a meter), and residuals above three times the stated noise. Without a meter the
absolute scale cannot be known: :data:`~pytest_physics.metrology.response.UNCALIBRATED_GAIN` and ``UNCALIBRATED_OFFSET_W`` are the terms.

References: York, Evensen, López Martínez, De Basabe Delgado, "Unified equations for the slope, intercept, and standard errors of the
best straight line", Am. J. Phys. 72 (2004) 367; its example (Pearson's data with York's weights) is a test here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_physics.metrology.refusal import refuse
from pytest_physics.metrology.response import SensorModel

FloatArray = NDArray[np.float64]

MIN_LEVELS = 6
MIN_R_SQUARED = 0.99
MAX_RESIDUAL_RATIO = 3.0
"""Largest root mean square of residuals, in units of their stated standard uncertainties."""
CONVERGED = 1e-14
MAX_ITERATIONS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A straight line through points with uncertainties on both axes."""

    slope: float
    intercept: float
    u_slope: float
    u_intercept: float
    covariance: float
    """Of slope and intercept."""
    reduced_chi_square: float
    """S / (n − 2): about 1 where the stated uncertainties are right."""
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Scale of a power channel: ``reading = offset + gain · true power``."""

    gain: float
    u_gain: float
    """Absolute (the gain is near 1)."""
    offset_w: float
    u_offset_w: float
    covariance_w: float
    """Of gain and offset, in watts."""
    r_squared: float
    residual_w: float
    """Root mean square of the vertical residuals."""
    reduced_chi_square: float
    levels: int
    lowest_w: float
    """Range of the reference in which the calibration holds."""
    highest_w: float

    def true_power(self, reading_w: float) -> tuple[float, float]:
        """Power behind a reading, and the standard uncertainty that the calibration leaves on it."""
        power_w = (reading_w - self.offset_w) / self.gain
        variance = self.u_offset_w**2 + (power_w * self.u_gain) ** 2 + 2 * power_w * self.covariance_w
        return power_w, math.sqrt(max(variance, 0.0)) / self.gain

    def calibrated(self, sensor: SensorModel) -> SensorModel:
        """The sensor with this scale: its readings are corrected, and have these uncertainties.

        The covariance of gain and offset, which is negative, is left out: energies carry both as independent, a little too wide.
        """
        return replace(
            sensor, gain=self.gain, offset_w=self.offset_w, u_gain=self.u_gain / self.gain, u_offset_w=self.u_offset_w / self.gain
        )  # fmt: skip


def york(x: ArrayLike, y: ArrayLike, u_x: ArrayLike, u_y: ArrayLike) -> Line:
    """York's best line through points, shape (N,), N ≥ 3, with independent errors u_x, u_y (scalars, or shape (N,); not both zero)."""
    x, y, u_x, u_y = (np.asarray(a, dtype=np.float64) for a in np.broadcast_arrays(x, y, u_x, u_y))
    n = len(x)
    if n < 3 or np.ptp(x) == 0:
        raise ValueError(f"a line needs at least 3 points at different x (got {n} points).")
    if np.any(u_x < 0) or np.any(u_y < 0) or np.any((u_x == 0) & (u_y == 0)):
        raise ValueError("standard uncertainties must be >= 0, and one of each point's two must be > 0.")
    slope = float(np.polyfit(x, y, 1)[0])
    for _ in range(MAX_ITERATIONS):
        weight, beta, _, _ = _york_step(x, y, u_x, u_y, slope)
        dx, dy = x - np.average(x, weights=weight), y - np.average(y, weights=weight)
        previous, slope = slope, float((weight * beta) @ dy / ((weight * beta) @ dx))
        if abs(slope - previous) <= CONVERGED * abs(slope):
            break
    weight, beta, mean_x, mean_y = _york_step(x, y, u_x, u_y, slope)
    intercept = mean_y - slope * mean_x
    adjusted = mean_x + beta
    centre = float(np.average(adjusted, weights=weight))
    variance = 1 / float(weight @ (adjusted - centre) ** 2)
    chi_square = float(weight @ (y - slope * x - intercept) ** 2)
    return Line(
        slope=slope,
        intercept=intercept,
        u_slope=math.sqrt(variance),
        u_intercept=math.sqrt(1 / float(weight.sum()) + centre**2 * variance),
        covariance=-centre * variance,
        reduced_chi_square=chi_square / (n - 2),
        n=n,
    )


def _york_step(x: FloatArray, y: FloatArray, u_x: FloatArray, u_y: FloatArray, slope: float) -> tuple[FloatArray, FloatArray, float, float]:
    """Weights, adjusted deviations β and weighted means for a slope (York's equations without correlation of the errors)."""
    weight = 1 / (u_y**2 + slope**2 * u_x**2)
    mean_x, mean_y = float(np.average(x, weights=weight)), float(np.average(y, weights=weight))
    beta = weight * ((x - mean_x) * u_y**2 + slope * (y - mean_y) * u_x**2)
    return weight, beta, mean_x, mean_y


def calibrate(
    reference_w: FloatArray, reading_w: FloatArray, *, u_reference_w: ArrayLike, u_reading_w: ArrayLike, scope: str = "power channel"
) -> Calibration:
    """Gain and offset from mean powers at steady levels, shape (N,), of a reference meter and of the channel, time-aligned.

    ``u_reference_w`` and ``u_reading_w`` are standard uncertainties of the means (noise, not the meter's own scale: add that apart).
    """
    reference_w, reading_w = np.asarray(reference_w, dtype=np.float64), np.asarray(reading_w, dtype=np.float64)
    levels = _require_levels(reference_w, scope)
    line = york(reference_w, reading_w, u_reference_w, u_reading_w)
    residual = reading_w - line.intercept - line.slope * reference_w
    r_squared = 1 - float(residual @ residual) / float(((reading_w - reading_w.mean()) ** 2).sum() or math.nan)
    residual_w = math.sqrt(float(residual @ residual) / len(residual))
    _require_line(line, r_squared, residual_w, scope)
    return Calibration(
        gain=line.slope,
        u_gain=line.u_slope,
        offset_w=line.intercept,
        u_offset_w=line.u_intercept,
        covariance_w=line.covariance,
        r_squared=r_squared,
        residual_w=residual_w,
        reduced_chi_square=line.reduced_chi_square,
        levels=levels,
        lowest_w=float(reference_w.min()),
        highest_w=float(reference_w.max()),
    )


def _require_levels(reference_w: FloatArray, scope: str) -> int:
    levels = len(np.unique(reference_w))
    if levels < MIN_LEVELS:
        refuse(
            "calibration: levels", scope=scope, measured=levels, limit=MIN_LEVELS, unit="1",
            reason=f"{levels} levels of power do not calibrate a scale (needed: {MIN_LEVELS})",
            remedy="Record more steady levels between idle and full load, for example 0, 20, … 100 % of the multiprocessors.",
        )  # fmt: skip
    return levels


def _require_line(line: Line, r_squared: float, residual_w: float, scope: str) -> None:
    if not r_squared >= MIN_R_SQUARED:
        refuse(
            "calibration: linearity", scope=scope, measured=r_squared, limit=MIN_R_SQUARED, unit="1",
            reason=f"the channel follows the meter with R² = {r_squared:.4f} only (needed: {MIN_R_SQUARED})",
            remedy="Check that both recordings are aligned in time and levels are steady; a channel that estimates power has no scale.",
        )  # fmt: skip
    ratio = math.sqrt(line.reduced_chi_square)
    if ratio > MAX_RESIDUAL_RATIO:
        refuse(
            "calibration: residual", scope=scope, measured=ratio, limit=MAX_RESIDUAL_RATIO, unit="1",
            reason=f"readings scatter by {residual_w:.3g} W about the line, {ratio:.1f} times their stated noise "
            f"(limit {MAX_RESIDUAL_RATIO:.0f} times)",
            remedy="Align both recordings in time, wait for steady levels, or state the noise of the level means honestly.",
        )  # fmt: skip
