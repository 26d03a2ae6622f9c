"""What a stored summary can and cannot have been: mean, standard deviation, minimum and maximum bound every distribution behind them.

Bhatia–Davis: a variance is at most (maximum − mean)(mean − minimum). And for any interval, the largest and smallest share of readings
that the four numbers allow is a linear programme over distributions on [minimum, maximum] with two given moments.

So a baseline published without its samples can still be refused: TR122's (mean 20.71 W, standard deviation 9.97 W, 1.2 W to 26.42 W) has at
most 12.6 % of its readings within 1 W of its mean. Assumes that the summary is of one set of numbers; says nothing about their order.

Reference: Bhatia, Davis, "A better bound on the variance", Am. Math. Monthly 107 (2000); TR122 baseline, proof P2 of the study.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize

from pytest_physics.metrology.uncertainty import Gate

GRID_POINTS = 1201
"""Atoms offered to the linear programme; shares are then right to about 0.1 percentage point."""
ROUNDING = 1e-9
"""Relative slack for numbers that were printed and read back."""
NEAR_MEAN = 0.10
"""An idle state is a level: readings within ±10 % of the mean are near it."""
MIN_SHARE_NEAR_MEAN = 0.50
"""A mean that cannot have been near at least half of the readings describes no state."""


def variance_share(mean: float, sd: float, minimum: float, maximum: float) -> float:
    """Variance as a share of the largest possible, (maximum − mean)(mean − minimum); above 1 is impossible."""
    largest = (maximum - mean) * (mean - minimum)
    if largest <= 0:
        return 0.0 if sd == 0 and minimum <= mean <= maximum else math.inf
    return sd**2 / largest


def moment_feasible(mean: float, sd: float, minimum: float, maximum: float) -> bool:
    """Whether any numbers at all have these four; ``sd`` is of the population (ddof = 0)."""
    ordered = minimum <= mean <= maximum and sd >= 0
    return ordered and variance_share(mean, sd, minimum, maximum) <= 1 + ROUNDING


def share_bounds(
    mean: float, sd: float, minimum: float, maximum: float, *, below: float = math.inf, above: float = -math.inf
) -> tuple[float, float]:
    """Smallest and largest share of readings x with above ≤ x < below that the four numbers allow.

    Give one bound for a tail, both for an interval. Whether an endpoint itself counts makes no difference to the bounds (they are limits
    over distributions). Raises ``ValueError`` for an empty interval, or numbers that no distribution has.
    """
    if not above < below:
        raise ValueError(f"'above' must lie below 'below' (got {above} and {below}).")
    if not moment_feasible(mean, sd, minimum, maximum):
        raise ValueError(f"no readings have mean {mean}, standard deviation {sd}, minimum {minimum} and maximum {maximum}.")
    if sd == 0:
        share = float(above <= mean < below)
        return share, share
    atoms = _atoms(mean, sd, minimum, maximum, (above, below))
    return _extreme_share(atoms, (atoms > above) & (atoms < below), mean, sd, 1.0), _extreme_share(
        atoms, (atoms >= above) & (atoms <= below), mean, sd, -1.0
    )


def _atoms(
    mean: float, sd: float, minimum: float, maximum: float, edges: tuple[float, float]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Grid on [minimum, maximum] with the edges and their two-point partners, where extreme distributions have their atoms."""
    special = [minimum, maximum]
    special += [edge for edge in edges if minimum < edge < maximum]
    special += [mean + sd**2 / (mean - point) for point in special if point != mean]
    kept = [point for point in special if minimum <= point <= maximum]
    return np.unique(np.concatenate([np.linspace(minimum, maximum, GRID_POINTS), kept]))


def _extreme_share(
    atoms: np.ndarray[tuple[int], np.dtype[np.float64]],
    inside: np.ndarray[tuple[int], np.dtype[np.bool_]],
    mean: float,
    sd: float,
    sign: float,
) -> float:
    """Extreme probability of ``inside``: the smallest for ``sign`` 1, the largest for −1."""
    scaled = (atoms - mean) / sd
    result = optimize.linprog(
        sign * inside.astype(np.float64),
        A_eq=np.vstack([np.ones_like(scaled), scaled, scaled**2]),
        b_eq=np.array([1.0, 0.0, 1.0]),
        bounds=(0, None),
        method="highs",
    )
    if not result.success:
        raise ValueError(f"no share could be computed for mean {mean} and standard deviation {sd}: {result.message}")
    share: float = result.fun if result.fun is not None else math.nan
    return min(1.0, max(0.0, sign * share))


def summary_gates(
    mean_w: float, sd_w: float, minimum_w: float, maximum_w: float, *, n: int, ddof: int = 1, scope: str = "baseline"
) -> tuple[Gate, ...]:
    """Gates for an idle power of which only the summary was stored: it must be possible, and may be one level.

    ``n`` is the number of readings and ``ddof`` the one used for ``sd_w``; raises ``ValueError`` unless n > ddof and n > 0.
    """
    if not n > max(ddof, 0):
        raise ValueError(f"'n' must be > 'ddof' and > 0 (got n={n}, ddof={ddof}).")
    population_sd = sd_w * math.sqrt((n - ddof) / n)
    feasible = _feasibility_gate(mean_w, population_sd, minimum_w, maximum_w, scope)
    if not feasible.passed:
        return (feasible,)
    return feasible, _concentration_gate(mean_w, population_sd, minimum_w, maximum_w, scope)


def _feasibility_gate(mean_w: float, sd_w: float, minimum_w: float, maximum_w: float, scope: str) -> Gate:
    share = variance_share(mean_w, sd_w, minimum_w, maximum_w)
    summary = f"mean {mean_w:.6g} W, standard deviation {sd_w:.6g} W, minimum {minimum_w:.6g} W and maximum {maximum_w:.6g} W"
    passed = moment_feasible(mean_w, sd_w, minimum_w, maximum_w)
    return Gate(
        name="summary moments",
        scope=scope,
        measured=share if math.isfinite(share) else None,
        limit=1.0,
        unit="1",
        passed=passed,
        reason=f"{summary} {'can' if passed else 'cannot'} belong to one set of readings "
        + (
            f"(variance {share:.1%} of the largest possible, limit 100 %)"
            if math.isfinite(share)
            else "(the mean must lie between minimum and maximum)"
        ),
        remedy="" if passed else "compute the summary again from the stored samples; these four numbers are not of one data set",
    )


def _concentration_gate(mean_w: float, sd_w: float, minimum_w: float, maximum_w: float, scope: str) -> Gate:
    reach_w = NEAR_MEAN * abs(mean_w)
    _, share = share_bounds(mean_w, sd_w, minimum_w, maximum_w, above=mean_w - reach_w, below=mean_w + reach_w) if reach_w else (0.0, 1.0)
    passed = share >= MIN_SHARE_NEAR_MEAN
    return Gate(
        name="summary concentration",
        scope=scope,
        measured=share,
        limit=MIN_SHARE_NEAR_MEAN,
        unit="1",
        passed=passed,
        reason=f"at most {share:.1%} of the readings can lie within {NEAR_MEAN:.0%} of the mean {mean_w:.4g} W "
        f"(limit: at least {MIN_SHARE_NEAR_MEAN:.0%})" + ("" if passed else ": the mean describes almost no instant of this idle"),
        remedy="" if passed else "measure idle again after the device has settled into one state, and keep the samples",
    )
