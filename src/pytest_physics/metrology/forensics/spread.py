"""What mean, standard deviation, minimum and maximum allow: Bhatia–Davis, bounds on shares, and the widest spread of a histogram.

``s² ≤ (max − mean)(mean − min)``, and for any interval the smallest and largest share of readings is a linear programme over all
distributions with these four numbers (``metrology/moments.py``). The other way round: a published histogram (shares per interval) with a
mean has a largest possible deviation, because a convex function is largest at the ends of each interval; a printed deviation above it is
impossible.

Assumes one set of readings. With an unknown number of readings the deviation may be of sample or population: feasibility is then judged
with the most lenient factor, shares with the population's. False alarms: none by construction; shares must be missed by half a percentage
point, which is more than the rounding of four printed numbers moves a bound.

Reference: Bhatia, Davis, Am. Math. Monthly 107 (2000).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding, half_unit
from pytest_physics.metrology.moments import moment_feasible, share_bounds, variance_share

MOMENTS = Check(
    name="moment feasibility",
    needs="mean, standard deviation, minimum, maximum",
    proves="that no readings at all have these four numbers",
)
SHARES = Check(
    name="share bounds",
    needs="mean, standard deviation, minimum, maximum; an interval, or a level that is said to be one",
    proves="that the share of readings said to lie in an interval is impossible",
)
HISTOGRAM = Check(
    name="histogram spread",
    needs="shares of readings per interval, mean, standard deviation",
    proves="that the histogram is too narrow for the printed deviation",
)
SLACK = 0.005
"""Shares must be missed by half a percentage point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FourNumbers:
    """Mean, deviation and range of one set of readings."""

    mean: float
    sd: float
    minimum: float
    maximum: float
    n: int | None = None
    ddof: int = 1

    @property
    def population_sd(self) -> float:
        """Deviation with ddof 0; as printed where the number of readings is unknown."""
        return self.sd if self.n is None else self.sd * math.sqrt((self.n - self.ddof) / self.n)


def moment_feasibility(four: FourNumbers) -> Finding:
    """Bhatia–Davis, with every number moved by its rounding to the lenient side."""
    low, high = four.minimum - half_unit(four.minimum), four.maximum + half_unit(four.maximum)
    factor = math.sqrt((four.n - four.ddof) / four.n) if four.n else math.sqrt(0.5)
    lenient = (four.sd - half_unit(four.sd)) * factor
    largest = (four.maximum - four.mean) * (four.mean - four.minimum)
    share = variance_share(four.mean, four.population_sd, four.minimum, four.maximum)
    steps = (
        f"(max − mean)(mean − min) = ({four.maximum:g} − {four.mean:.6g})({four.mean:.6g} − {four.minimum:g}) = {largest:.6g}",
        f"s² = {four.population_sd**2:.6g}, {share:.1%} of it",
    )
    if moment_feasible(four.mean, max(lenient, 0.0), low, high):
        return MOMENTS.finding(Effect.CONSISTENT, f"the variance is {share:.0%} of the largest possible", *steps)
    return MOMENTS.finding(
        Effect.CONTRADICTS,
        f"no readings have mean {four.mean:.6g}, standard deviation {four.sd:.6g}, minimum {four.minimum:g} and maximum {four.maximum:g}",
        *steps,
    )


def share_claim(
    four: FourNumbers,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Finding:
    """Share of readings in an interval against what is said of it; without a statement the bounds are reported."""
    if not moment_feasible(four.mean, four.population_sd, four.minimum, four.maximum):
        return SHARES.lacks("a set of mean, deviation, minimum and maximum that is possible at all")
    low, high = share_bounds(four.mean, four.population_sd, four.minimum, four.maximum, above=above, below=below)
    where = _interval(above, below)
    bounds = f"{_range(low, high)} of the readings lie {where}"
    given = f"mean {four.mean:.6g}, deviation {four.population_sd:.6g} on [{four.minimum:g}, {four.maximum:g}]"
    steps = (f"linear programme over all distributions with {given}: {low:.4f} ≤ share {where} ≤ {high:.4f}",)
    if at_least is not None and high < at_least - SLACK:
        return SHARES.finding(Effect.CONTRADICTS, f"{bounds}; said are at least {at_least:.0%}", *steps)
    if at_most is not None and low > at_most + SLACK:
        return SHARES.finding(Effect.CONTRADICTS, f"{bounds}; said are at most {at_most:.0%}", *steps)
    proved = (at_least is None or low >= at_least) and (at_most is None or high <= at_most)
    said = at_least is not None or at_most is not None
    return SHARES.finding(Effect.CONFIRMS if said and proved else Effect.CONSISTENT, bounds, *steps)


def widest_deviation(bins: Sequence[tuple[float, float, float]], mean: float, *, slack: float = 0.0) -> float:
    """Largest population deviation of a histogram of (low, high, share) with this mean; NaN where it cannot have it.

    ``slack`` lets each share move by so much.
    """
    edges = np.array([[low, high] for low, high, _ in bins], dtype=np.float64).ravel()
    membership = np.kron(np.eye(len(bins)), np.ones(2))
    shares = np.array([share for _, _, share in bins])
    result = optimize.linprog(
        -((edges - mean) ** 2),
        A_eq=np.vstack([np.ones_like(edges), edges - mean]),
        b_eq=np.array([1.0, 0.0]),
        A_ub=np.vstack([membership, -membership]),
        b_ub=np.concatenate([shares + slack, -(shares - slack)]),
        bounds=(0, None),
        method="highs",
    )
    return math.sqrt(-result.fun) if result.success and result.fun is not None else math.nan


def histogram_spread(bins: Sequence[tuple[float, float, float]], four: FourNumbers, *, slack: float = SLACK) -> Finding:
    """Whether a histogram can have the printed mean and deviation; ``slack`` is what rounding or "about" lets each share move."""
    clipped = [(max(low, four.minimum), min(high, four.maximum), share) for low, high, share in bins]
    widest = widest_deviation(clipped, four.mean, slack=slack)
    text = ", ".join(f"{low:g}–{high:g}: {share:.0%}" for low, high, share in bins)
    if math.isnan(widest):
        return HISTOGRAM.finding(
            Effect.CONTRADICTS, f"the histogram ({text}) cannot have the mean {four.mean:.6g}", f"shares ± {slack:.1%}"
        )
    step = f"largest deviation of ({text}), shares ± {slack:.1%}, with mean {four.mean:.6g}: {widest:.4g}; printed {four.sd:.4g}"
    if widest < four.population_sd - half_unit(four.sd):
        return HISTOGRAM.finding(
            Effect.CONTRADICTS, f"the histogram allows a deviation of at most {widest:.3g}, printed is {four.sd:.3g}", step
        )
    return HISTOGRAM.finding(Effect.CONSISTENT, f"the histogram allows a deviation up to {widest:.3g}", step)


def _range(low: float, high: float) -> str:
    if low < SLACK / 10:
        return f"at most {high:.1%}"
    return f"at least {low:.1%}" if high > 1 - SLACK / 10 else f"between {low:.1%} and {high:.1%}"


def _interval(above: float, below: float) -> str:
    if math.isinf(above):
        return f"below {below:g}"
    return f"at or above {above:g}" if math.isinf(below) else f"from {above:g} to {below:g}"
