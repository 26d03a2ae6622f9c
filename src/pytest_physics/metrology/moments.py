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

GRID_POINTS = 1201
"""Atoms offered to the linear programme; shares are then right to about 0.1 percentage point."""
ROUNDING = 1e-9
"""Relative slack for numbers that were printed and read back."""


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
