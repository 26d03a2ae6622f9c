"""Many machines, one quantity: their mean, how much they really differ, and which of them does not belong.

*Model.* ``y_i = μ + b_i + e_i``: a machine's own difference ``b_i`` ~ N(0, τ²) and its measurement's error ``e_i`` ~ N(0, u_i²). τ² is
Paule and Mandel's: the value at which the weighted sum of squares equals its k − 1 degrees of freedom; 0 where the errors alone explain the
scatter. The mean's uncertainty has k − 1 degrees of freedom.

*Outliers.* Each machine is compared with what the *others* predict for it (leave-one-out, so that an outlier cannot hide in the τ² that it
makes), by Student's t with k − 2 degrees of freedom, two-sided at 5 % shared over all k machines (Holm). Needs four machines: with fewer
the others say nothing of τ². Where τ² is 0 the test is conservative.

Assumes independent machines and errors; what is common to all (one workload, one estimator) is no part of u_i. Two outliers alike mask each
other where there are few machines.

Reference: Paule and Mandel, J. Res. NBS 87 (1982) 377; Rukhin, Metrologia 46 (2009) 323; Holm, Scand. J. Statist. 6 (1979) 65.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from pytest_physics.metrology.decision import holm

FloatArray = NDArray[np.float64]

FEWEST_HOSTS = 4
"""Below this the others of a host are too few to predict it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BetweenHosts:
    """What a group of machines has in common."""

    mean: float
    u_mean: float
    """Standard uncertainty of the mean, with the machines' differences."""
    tau: float
    """Standard deviation of the machines' own differences."""
    dof: float
    """Degrees of freedom: machines less one."""
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDeviation:
    """One machine against the others."""

    predicted: float
    """What the others predict for it."""
    u_predicted: float
    """Standard uncertainty of the difference from that."""
    t: float
    """Difference over its uncertainty."""
    p: float
    """Two-sided, of this machine alone."""
    outlier: bool
    """Whether it is one at 5 % over all machines together."""


def between_hosts(values: Sequence[float] | FloatArray, u: Sequence[float] | FloatArray) -> BetweenHosts:
    """Mean and between-host standard deviation of ``values`` with standard uncertainties ``u``, each of shape (k,), k ≥ 2, in one unit."""
    y, variance = _checked(values, u)
    tau2 = _paule_mandel(y, variance)
    mean, u_mean = _weighted(y, variance + tau2)
    return BetweenHosts(mean=mean, u_mean=u_mean, tau=math.sqrt(tau2), dof=len(y) - 1.0, n=len(y))


def host_deviations(values: Sequence[float] | FloatArray, u: Sequence[float] | FloatArray) -> tuple[HostDeviation, ...]:
    """Each machine against the others, in the order of ``values``; needs at least :data:`FEWEST_HOSTS`."""
    y, variance = _checked(values, u)
    if len(y) < FEWEST_HOSTS:
        raise ValueError(f"outliers need at least {FEWEST_HOSTS} hosts (got {len(y)}).")
    found = [_against_others(y, variance, i) for i in range(len(y))]
    rejected = [step.decided for step in holm([p for *_, p in found])]
    return tuple(
        HostDeviation(predicted=mean, u_predicted=spread, t=t, p=p, outlier=out)
        for (mean, spread, t, p), out in zip(found, rejected, strict=True)
    )


def _against_others(y: FloatArray, variance: FloatArray, i: int) -> tuple[float, float, float, float]:
    """Predicted value, uncertainty of the difference, t and p of machine ``i``."""
    others = between_hosts(np.delete(y, i), np.sqrt(np.delete(variance, i)))
    spread = math.sqrt(variance[i] + others.tau**2 + others.u_mean**2)
    difference = float(y[i] - others.mean)
    t = difference / spread if spread else math.copysign(math.inf, difference) if difference else 0.0
    return others.mean, spread, t, float(2 * special.stdtr(len(y) - 2, -abs(t)))


def _checked(values: Sequence[float] | FloatArray, u: Sequence[float] | FloatArray) -> tuple[FloatArray, FloatArray]:
    y, s = np.asarray(values, dtype=np.float64), np.asarray(u, dtype=np.float64)
    if y.ndim != 1 or y.shape != s.shape or len(y) < 2:
        raise ValueError(f"values and uncertainties must be two series of one length >= 2 (got shapes {y.shape} and {s.shape}).")
    if not (np.isfinite(y).all() and np.isfinite(s).all() and (s >= 0).all()):
        raise ValueError("values must be finite and uncertainties finite and >= 0; leave hosts without a number out.")
    return y, s**2


def _paule_mandel(y: FloatArray, variance: FloatArray) -> float:
    """τ² at which the weighted sum of squares equals k − 1; 0 where it is below that already."""
    spread = float(np.var(y, ddof=1))
    if spread == 0:
        return 0.0
    floor = spread * 1e-12  # hosts without an uncertainty have a finite weight at τ² = 0
    if _excess(0.0, y, np.maximum(variance, floor)) <= 0:
        return 0.0
    found = optimize.brentq(_excess, 0.0, 2 * spread * len(y), args=(y, np.maximum(variance, floor)), xtol=spread * 1e-12)
    return float(found)


def _excess(tau2: float, y: FloatArray, variance: FloatArray) -> float:
    weights = 1 / (variance + tau2)
    mean = float(np.sum(weights * y) / np.sum(weights))
    return float(np.sum(weights * (y - mean) ** 2)) - (len(y) - 1)


def _weighted(y: FloatArray, variance: FloatArray) -> tuple[float, float]:
    if not variance.all():  # exact numbers that agree
        return float(np.mean(y[variance == 0])), 0.0
    weights = 1 / variance
    total = float(np.sum(weights))
    return float(np.sum(weights * y)) / total, math.sqrt(1 / total)
