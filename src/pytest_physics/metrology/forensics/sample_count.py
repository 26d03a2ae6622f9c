"""How many readings stand behind a mean and a standard deviation: GRIM and GRIMMER.

Readings of a digital sensor are whole multiples of its step q. So N·mean/q is a whole number K (GRIM), and with Q = Σ(x/q)² also
Q = (N − ddof)·s²/q² + K²/N is one, of the same parity as K, because x² ≡ x modulo 2 (GRIMMER). A mean printed to many digits leaves very
few N. Quantities that were read together share their N.

Assumes that the summary is of raw readings (not of averages), and that the step is known. Loses its power where N·q-steps are finer than
the printed digits: then every N passes, and nothing is said. False alarms: none by construction; rounding and summation errors of 16 ulp
are allowed for.

References: Brown, Heathers, "The GRIM test", Soc. Psychol. Personal. Sci. 8 (2017); Allard, "Analytic-GRIMMER" (2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding, half_unit

SAMPLE_COUNT = Check(
    name="sample count",
    needs="a mean, the step of its readings; better with the standard deviation",
    proves="which numbers of readings can have this mean and deviation; a stated number that is not among them is wrong",
)
SEARCHED = 3000
"""Numbers of readings tried where none is stated."""
TELLING_SHARE = 0.05
"""Where more of the numbers tried are possible, the printed digits do not tell."""
MAX_SUMS = 50
"""More possible sums K for one N: the mean is too coarse for the deviation to add anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Mean of readings in steps, with its deviation where it is known."""

    mean: float
    step: float
    sd: float | None = None


def possible_counts(summaries: Sequence[Summary], *, also: Sequence[int] = ()) -> dict[int, tuple[int, ...]]:
    """Numbers of readings, up to 3000 or among ``also``, that all ``summaries`` can share, each with the ddof that its deviations allow."""
    counts = np.union1d(np.arange(1, SEARCHED + 1), np.array([n for n in also if n > 0], dtype=np.int64))
    for summary in summaries:
        counts = counts[_has_sum(summary, counts)]
    found = {int(n): tuple(d for d in (0, 1) if all(_has_squares(s, int(n), d) for s in summaries)) for n in counts}
    return {n: ddofs for n, ddofs in found.items() if ddofs}


def sample_count(summaries: Sequence[Summary], *, stated: Sequence[int] = ()) -> Finding:
    """Compare the stated numbers of readings with the possible ones."""
    possible = possible_counts(summaries, also=stated)
    steps = [_sum_step(summary, n) for n in list(possible)[:2] for summary in summaries]
    few = len(possible) <= TELLING_SHARE * SEARCHED
    which = _which(possible) if few else f"the printed digits allow {len(possible)} of {SEARCHED} numbers of readings"
    wrong = [n for n in stated if n not in possible]
    if wrong:
        said = ", ".join(map(str, wrong))
        sentence = f"{which}; stated: {said}" if few else f"no {said} readings have these summaries; {which}"
        return SAMPLE_COUNT.finding(Effect.CONTRADICTS, sentence, *(_miss(s, n) for n in wrong for s in summaries), *steps)
    return SAMPLE_COUNT.finding(Effect.CONSISTENT, f"{which}{'; as stated' if stated else ''}", *steps)


def _which(possible: dict[int, tuple[int, ...]]) -> str:
    if not possible:
        return f"no number of readings up to {SEARCHED} has these summaries"
    shown = [f"{n}{f' (ddof {ddofs[0]})' if len(ddofs) == 1 else ''}" for n, ddofs in list(possible.items())[:5]]
    return f"only N = {', '.join(shown)}{' …' if len(possible) > 5 else ''} of 1 to {SEARCHED} is possible"


def _has_sum(summary: Summary, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    sums = np.rint(counts * (summary.mean / summary.step))
    possible: NDArray[np.bool_] = np.abs(sums * summary.step / counts - summary.mean) <= half_unit(summary.mean)
    return possible


def _has_squares(summary: Summary, n: int, ddof: int) -> bool:
    if summary.sd is None or n <= ddof:
        return n > ddof
    if 4 * (n - ddof) * summary.sd * half_unit(summary.sd) >= 3 * summary.step**2:
        return True  # the rounded deviation leaves room for more than two whole numbers: one of them has the right parity
    step, half = Fraction(repr(summary.step)), Fraction(half_unit(summary.mean))
    mean = Fraction(repr(float(summary.mean)))
    low, high = math.ceil(n * (mean - half) / step), math.floor(n * (mean + half) / step)
    if high - low > MAX_SUMS:
        return True
    # a deviation comes from differences to the mean, and inherits what the mean lost
    half_sd = Fraction(half_unit(summary.sd) + 16 * math.ulp(abs(float(summary.mean))))
    return any(_whole_squares(summary.sd, half_sd, step, n=n, ddof=ddof, total=total) for total in range(low, high + 1))


def _whole_squares(sd: float, half: Fraction, step: Fraction, *, n: int, ddof: int, total: int) -> bool:
    """Whether some whole Q of the parity of ``total`` lies where the printed deviation, ± ``half``, puts it."""
    exact = Fraction(repr(float(sd)))
    base = Fraction(total * total, n)
    low = (n - ddof) * (max(exact - half, Fraction(0)) / step) ** 2 + base
    high = (n - ddof) * ((exact + half) / step) ** 2 + base
    first = math.ceil(low)
    first += (first - total) % 2
    return first <= high


def _sum_step(summary: Summary, n: int) -> str:
    exact = n * summary.mean / summary.step
    text = f"N = {n}: {n} × {summary.mean!r} / {summary.step:g} = {exact:.6f}"
    if summary.sd is None:
        return text
    squares = [(n - ddof) * (summary.sd / summary.step) ** 2 + round(exact) ** 2 / n for ddof in (0, 1)]
    return f"{text}; Σ(x/q)² = {squares[0]:.3f} (ddof 0) or {squares[1]:.3f} (ddof 1)"


def _miss(summary: Summary, n: int) -> str:
    nearest = round(n * summary.mean / summary.step) * summary.step / n
    return f"N = {n}: the nearest possible mean is {nearest:.10g}, printed is {float(summary.mean)!r}"
