"""Repeating an event that is too short for the sensor: with which phases, for how long, and whether repetitions agree.

*Phases.* A sensor that looks W of every T sees a free-running repetition for ever at the same phases where the event's period is
commensurate with T (27 % median error after 32, 128 and 512 repetitions). Batches that start at ``(φ_0 + j·0.618…·T) mod T`` fill the
circle evenly: the error is bounded by the total variation of what the sensor sees times the star discrepancy D* of the phases
(Koksma–Hlawka), about 1 to 2 over the number of batches m; m ≥ 8·⌈T/W⌉ and ≥ 32 keeps 25/100 sensors below 1 %.
:func:`commensurability_gate` computes it of planned or achieved phases, on the circle: it costs nothing.

*Average over phases.* :func:`phase_mean` integrates over the phases that were achieved, by the trapezoid rule round the circle: the value
of one batch depends on its phase, its mean over all phases is the true one.

*When to stop.* Looking at an interval until it is narrow selects the moments when it is too narrow by luck: with quantiles of the
normal distribution at every step, 95 % intervals cover 31 % (AR(1), ρ = 0.9). Here the looks are fixed in advance (:class:`LookSchedule`),
and the quantile is Student's t at 95 % shared over all looks (Bonferroni).

*First versus rest.* The first repetition is often another one (clocks, caches): :func:`first_versus_rest` says so.

Assumes that repetitions are stationary apart from the first, and that start instants are known (measured, not planned: host jitter
above T/20 destroys the plan, and the achieved phases tell). References: Niederreiter, "Random Number Generation and Quasi-Monte Carlo
Methods" (1992); TR122 for the rule this replaces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from pytest_physics.metrology.uncertainty import COVERAGE, Gate

FloatArray = NDArray[np.float64]

GOLDEN = (math.sqrt(5) - 1) / 2
"""0.6180339887…: multiples of it are spread over the circle as evenly as any sequence's."""
BATCHES_PER_SLICE = 8
MIN_BATCHES = 32
MAX_DISCREPANCY = 0.1
"""Largest discrepancy of phases that an average over repetitions tolerates."""
MIN_PHASES = 4
"""Fewer phases are no circle."""
FIRST_VERSUS_REST_P = 0.01


def batches_needed(update_period_s: float, window_s: float) -> int:
    """Batches that stratify the phases of a sensor with a window W: 8 per W-wide slice of T, at least 32."""
    if not window_s > 0:
        raise ValueError(f"'window_s' must be > 0 (got {window_s}); identify the sensor first.")
    return max(MIN_BATCHES, BATCHES_PER_SLICE * math.ceil(update_period_s / window_s - 1e-9))


def circular_discrepancy(phases: FloatArray) -> float:
    """Discrepancy on a circle, wherever its origin is (Kuiper): largest gap between share and length of any arc. 1 for no points."""
    x = np.sort(np.asarray(phases, dtype=np.float64) % 1.0)
    n = len(x)
    if n == 0:
        return 1.0
    rank = np.arange(n)
    return float(((rank + 1) / n - x).max() + (x - rank / n).max())


def commensurability_gate(
    start_s: FloatArray, update_period_s: float, *, scope: str = "repetitions", limit: float = MAX_DISCREPANCY
) -> Gate:
    """Whether repetitions that start at ``start_s`` meet all phases of the sensor.

    The discrepancy is taken on the circle and halved, so that it does not depend on where the comb begins; evenly spread phases
    have 1/(2N).

    Parameters
    ----------
    start_s
        Planned or measured starts, shape (N,).
    update_period_s
        T.
    limit
        Largest discrepancy allowed.
    """
    phases = np.asarray(start_s) / update_period_s % 1.0
    discrepancy = circular_discrepancy(phases) / 2
    passed = discrepancy <= limit
    return Gate(
        name="commensurability", scope=scope, measured=discrepancy, limit=limit, unit="1", passed=passed,
        reason=f"{len(phases)} repetitions meet the phases of the sensor's {update_period_s * 1e3:.4g} ms period with discrepancy "
        f"{discrepancy:.3f} (limit {limit})" + ("" if passed else ": phase-locked, the average does not converge"),
        remedy="" if passed else "start batches at golden-ratio phases of the sensor's period, or run more repetitions",
    )  # fmt: skip


def periodic_starts(event_period_s: float, count: int) -> FloatArray:
    """Starts of ``count`` events back to back, for :func:`commensurability_gate`: the pre-flight check of a free-running repetition."""
    starts: FloatArray = np.arange(count, dtype=np.float64) * event_period_s
    return starts


def locked_within(event_period_s: float, u_event_period_s: float, update_period_s: float, count: int) -> float:
    """Worst discrepancy of ``count`` free-running events over event periods within ±2u: what the pre-flight check must assume."""
    periods = event_period_s + np.linspace(-2, 2, 21) * u_event_period_s
    return max(circular_discrepancy(periodic_starts(float(p), count) / update_period_s) / 2 for p in periods)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PhaseMean:
    """Mean of a function of phase over one period, from values at scattered phases."""

    mean: float
    """In the unit of the values, as ``u`` and ``residual``."""
    u: float
    dof: float
    residual: FloatArray
    """Each value less the line between its neighbours in phase, in the order of the values, shape (N,)."""


def phase_mean(values: FloatArray, phases: FloatArray) -> PhaseMean:
    """Trapezoid rule round the circle, with the scatter about the line between neighbours in phase as its uncertainty.

    That scatter holds noise, differences between repetitions, and jumps of the function between two phases, of which it makes more than
    they cost. A straight drift in time (a card that warms up) is no error of the mean over these very repetitions, and is taken out of
    the scatter; not of the mean, for phases that creep would look like a drift. Each second difference uses three values, so that N of
    them have about N/2 degrees of freedom (18/35·N for evenly spaced normal values).

    Parameters
    ----------
    values
        One per repetition or batch, in order of time, shape (N,).
    phases
        Where in the period each began, in periods; only the fraction counts.
    """
    x = np.asarray(phases, dtype=np.float64) % 1.0
    n = len(x)
    if n < MIN_PHASES or not np.isfinite(values).all():
        return PhaseMean(mean=math.nan, u=math.nan, dof=1.0, residual=np.full(n, np.nan))
    order = np.argsort(x, kind="stable")
    raw = np.asarray(values, dtype=np.float64)
    x, y, steady = x[order], raw[order], without_drift(raw)[order]
    before, after = np.diff(x, prepend=x[-1] - 1), np.diff(x, append=x[0] + 1)
    share = np.where(before + after > 0, before / np.where(before + after > 0, before + after, 1.0), 0.5)
    difference = steady - ((1 - share) * np.roll(steady, 1) + share * np.roll(steady, -1))
    scale = 1 + np.square(share) + np.square(1 - share)
    weight = (before + after) / 2
    variance = float(np.mean(np.square(difference) / scale))
    residual = np.empty(n)
    residual[order] = difference
    u = math.sqrt(variance * float(weight @ weight))
    return PhaseMean(mean=float(weight @ y), u=u, dof=max(1.0, 18 / 35 * n - 1), residual=residual)


def scatter_of_mean(values: FloatArray) -> tuple[float, float]:
    """Standard uncertainty of the mean of independent measurements from their successive differences, and its degrees of freedom.

    Von Neumann's mean square successive difference: slow changes of the device (temperature) are part of what was averaged and cancel
    in it; it has about 2/3 of the degrees of freedom of the sample variance.

    Parameters
    ----------
    values
        In order of time, shape (N,), N ≥ 2.
    """
    n = len(values)
    variance = float(np.mean(np.square(np.diff(values)))) / 2
    return math.sqrt(variance / n), max(1.0, 2 / 3 * (n - 1))


def without_drift(values: FloatArray) -> FloatArray:
    """Values less their straight drift in order; the mean stays."""
    order = np.arange(len(values)) - (len(values) - 1) / 2
    return values - order * float(order @ values) / max(1.0, float(order @ order))


@dataclass(frozen=True, slots=True, kw_only=True)
class LookSchedule:
    """The numbers of values at which a repetition may be looked at, fixed in advance."""

    looks: tuple[int, ...]

    def __post_init__(self) -> None:
        """Looks increase and begin with enough values for an uncertainty."""
        if not self.looks or self.looks[0] < 4 or any(b <= a for a, b in zip(self.looks, self.looks[1:], strict=False)):
            raise ValueError(f"'looks' must increase from at least 4 (got {self.looks}).")

    @classmethod
    def doubling(cls, most: int, *, first: int) -> LookSchedule:
        """``first``, twice as many, four times, … and ``most`` last."""
        if most < first:
            return cls(looks=(most,))
        doubled = [first * 2**k for k in range(int(math.log2(most / first)) + 1)]
        return cls(looks=tuple(doubled if doubled[-1] == most else [*doubled, most]))

    def coverage_factor(self, dof: float) -> float:
        """Two-sided quantile of Student's t with the 5 % shared by all looks."""
        upper = 1 - (1 - COVERAGE) / (2 * len(self.looks))
        return float(special.ndtri(upper) if math.isinf(dof) else special.stdtrit(dof, upper))


def first_versus_rest(values: FloatArray, *, scope: str = "repetitions", unit: str = "J") -> Gate:
    """Whether the first repetition agrees with the others: prediction interval of Student's t, at the 1 % level; a warning.

    Fewer than four values cannot tell, and pass saying so.
    """
    first, rest = float(values[0]) if len(values) else math.nan, np.asarray(values[1:], dtype=np.float64)
    name, remedy = "first repetition like the rest", "leave the first repetition out, or warm up before the first"
    if len(rest) < 3:
        return Gate(
            name=name, scope=scope, measured=None, limit=None, unit=unit, passed=True, warning=True,
            reason=f"{len(values)} repetitions are too few to compare the first with the rest",
        )  # fmt: skip
    mean, spread = float(rest.mean()), float(rest.std(ddof=1))
    limit = float(special.stdtrit(len(rest) - 1, 1 - FIRST_VERSUS_REST_P / 2)) * spread * math.sqrt(1 + 1 / len(rest))
    difference = abs(first - mean)
    passed = difference <= limit
    return Gate(
        name=name, scope=scope, measured=difference, limit=limit, unit=unit, passed=passed, warning=True,
        reason=f"the first repetition differs by {difference:.3g} {unit} from the mean of {len(rest)} others, {mean:.4g} {unit} "
        f"(limit {limit:.3g} {unit})",
        remedy="" if passed else remedy,
    )  # fmt: skip
