"""Proportions: their intervals, their difference, and how many trials would have been needed.

Wilson's interval for one; Newcombe's hybrid interval and Fisher's exact test for two; McNemar's exact test where the same instants were
flagged twice. A design effect (flags that come in runs) divides the numbers of trials.

Assumes independent trials unless a design effect or the discordant pairs are given. False alarms: a printed percentage is refused only
beyond its rounding (none by construction); of pairs with equal true rates at most 5 % are confirmed as different.
References: Newcombe, Statist. Med. 17 (1998) 873; Wilson, JASA 22 (1927).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding, half_unit

PERCENTAGE = Check(
    name="percentage", needs="successes, trials and the printed share", proves="that the printed share is not successes over trials"
)
DIFFERENCE = Check(
    name="difference of proportions",
    needs="successes and trials of both; better the discordant pairs, or a design effect",
    proves="whether a difference between two shares is more than chance",
)
ALPHA = 0.05
POWER = 0.80


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Successes among trials."""

    successes: int
    trials: int

    def __post_init__(self) -> None:
        """Refuse more successes than trials."""
        if not 0 <= self.successes <= self.trials or self.trials < 1:
            raise ValueError(f"'successes' must be between 0 and 'trials' ≥ 1 (got {self.successes} of {self.trials}).")

    @property
    def value(self) -> float:
        """Observed share."""
        return self.successes / self.trials

    def __str__(self) -> str:
        return f"{self.successes}/{self.trials}"


def wilson(share: Share, *, design_effect: float = 1.0) -> tuple[float, float]:
    """Wilson's 95 % interval."""
    n, p, z = share.trials / design_effect, share.value, float(stats.norm.ppf(1 - ALPHA / 2))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def newcombe(a: Share, b: Share, *, design_effect: float = 1.0) -> tuple[float, float]:
    """Newcombe's hybrid 95 % interval of a − b (method 10)."""
    (la, ua), (lb, ub) = wilson(a, design_effect=design_effect), wilson(b, design_effect=design_effect)
    d = a.value - b.value
    return d - math.hypot(a.value - la, ub - b.value), d + math.hypot(ua - a.value, b.value - lb)


def needed_trials(a: float, b: float) -> float:
    """Trials per arm for 80 % power at a two-sided 5 % level."""
    if a == b:
        return math.inf
    z_alpha, z_beta = float(stats.norm.ppf(1 - ALPHA / 2)), float(stats.norm.ppf(POWER))
    mean = (a + b) / 2
    root = z_alpha * math.sqrt(2 * mean * (1 - mean)) + z_beta * math.sqrt(a * (1 - a) + b * (1 - b))
    return (root / (a - b)) ** 2


def percentage(share: Share, printed_percent: float) -> Finding:
    """The printed percentage against successes over trials."""
    low, high = wilson(share)
    step = (
        f"{share} = {100 * share.value:.3f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f} % (Wilson); printed {printed_percent:g} %"
    )
    if abs(100 * share.value - printed_percent) > half_unit(printed_percent) * (1 + 1e-9):
        return PERCENTAGE.finding(Effect.CONTRADICTS, f"{share} is {100 * share.value:.2f} %, printed is {printed_percent:g} %", step)
    return PERCENTAGE.finding(Effect.CONFIRMS, f"{share} is the printed {printed_percent:g} %", step)


def difference(a: Share, b: Share, *, discordant: tuple[int, int] | None = None, design_effect: float = 1.0) -> Finding:
    """Whether two shares differ; ``discordant`` counts the instants flagged only in a, and only in b."""
    low, high = newcombe(a, b, design_effect=design_effect)
    if discordant is not None:
        name, p = "McNemar, exact", float(stats.binomtest(discordant[0], max(1, sum(discordant))).pvalue)
    elif design_effect > 1:
        name, p = f"z test with design effect {design_effect:g}", _z_test(a, b, design_effect)
    else:
        table = np.array([[a.successes, a.trials - a.successes], [b.successes, b.trials - b.successes]])
        name, p = "Fisher, two-sided", float(stats.fisher_exact(table).pvalue)
    needed = needed_trials(a.value, b.value)
    steps = [
        f"{a} = {a.value:.1%}, {b} = {b.value:.1%}; difference {a.value - b.value:+.1%}",
        f"95 % interval of the difference {low:+.3f} to {high:+.3f} (Newcombe); p = {p:.3g} ({name})",
        f"for 80 % power: {needed:.0f} trials per arm; there were {a.trials} and {b.trials}",
    ]
    if p <= ALPHA:
        return DIFFERENCE.finding(Effect.CONFIRMS, f"{a} and {b} differ (p = {p:.2g})", *steps)
    return DIFFERENCE.finding(
        Effect.UNDECIDED,
        f"{a} and {b} may be equal: the difference lies between {low:+.0%} and {high:+.0%} (p = {p:.2g})",
        *steps,
        needs=f"about {needed:.0f} independent trials per arm" if math.isfinite(needed) else "a difference at all",
    )


def _z_test(a: Share, b: Share, design_effect: float) -> float:
    na, nb = a.trials / design_effect, b.trials / design_effect
    pooled = (a.successes + b.successes) / (a.trials + b.trials)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / na + 1 / nb))
    return float(2 * stats.norm.sf(abs(a.value - b.value) / spread)) if spread else 1.0
