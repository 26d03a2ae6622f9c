"""Correlations with the number of values that were independent, and the number of lags that were searched.

Two autocorrelated series have ``n_eff = n(1 − ρ_a·ρ_b)/(1 + ρ_a·ρ_b)`` independent pairs (Bretherton); values that were used several times
count once. The largest of m lags is judged at 1 − (1 − p)^m. A correlation is called strong only where its interval excludes what is below.

Assumes roughly normal values; trends must be removed first, or ρ near 1 does it. False alarms: of independent white series about 5 % are
confirmed as correlated.
References: Bretherton et al., J. Climate 12 (1999); Fisher, z transformation.
"""

from __future__ import annotations

import math

from scipy import stats

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding

CORRELATION = Check(
    name="correlation",
    needs="r, the number of distinct pairs, lag-1 correlations of both series, the number of lags searched",
    proves="whether a correlation is more than chance",
)
DETECTABLE = Check(
    name="detectable correlation",
    needs="planned number of pairs, the number of lags, and the smallest correlation that would be called one",
    proves="that the design could not have shown the effect, so that its absence says nothing",
)
ALPHA = 0.05


def effective_pairs(n: float, lag1_a: float, lag1_b: float) -> float:
    """Bretherton's effective number of pairs."""
    product = lag1_a * lag1_b
    return n * (1 - product) / (1 + product)


def p_value(r: float, n: float) -> float:
    """Two-sided p of r from ``n`` > 2 independent pairs."""
    if abs(r) >= 1:
        return 0.0
    t = r * math.sqrt((n - 2) / (1 - r * r))
    return float(2 * stats.t.sf(abs(t), n - 2))


def interval(r: float, n: float) -> tuple[float, float]:
    """Fisher's 95 % interval for ``n`` > 3."""
    centre, reach = math.atanh(r), float(stats.norm.ppf(1 - ALPHA / 2)) / math.sqrt(n - 3)
    return math.tanh(centre - reach), math.tanh(centre + reach)


def critical(n: float, *, lags: int = 1) -> float:
    """Smallest |r| that ``n`` pairs can tell from 0 at 5 %, corrected for the lags searched."""
    t = float(stats.t.isf((1 - (1 - ALPHA) ** (1 / lags)) / 2, n - 2))
    return t / math.sqrt(n - 2 + t * t)


def correlation(
    r: float, n: int, *, n_distinct: int | None = None, n_eff: float | None = None,
    lag1: tuple[float, float] | None = None, lags: int = 1, at_least: float | None = None,
) -> Finding:  # fmt: skip
    """Whether ``r`` is a correlation; ``at_least`` is the strength that it is said to have."""
    pairs = float(n_distinct or n)
    if n_eff is None and lag1 is not None:
        n_eff = effective_pairs(pairs, *lag1)
    used = min(pairs, n_eff) if n_eff is not None else pairs
    steps = [f"pairs: {n} rows, {pairs:g} distinct, {used:.3g} effective; lags searched: {lags}"]
    if used <= 3:
        return CORRELATION.finding(Effect.INVALIDATES, f"{used:.2g} effective pairs carry no correlation", *steps)
    single, (low, high) = p_value(r, used), interval(r, used)
    p = 1 - (1 - single) ** lags
    steps.append(f"r = {r:+.3f}, 95 % interval {low:+.2f} to {high:+.2f} (Fisher z); p = {single:.3g}, over {lags} lags {p:.3g}")
    steps.append(f"smallest |r| that {used:.3g} pairs can tell from 0: {critical(used, lags=lags):.2f}")
    if p > ALPHA:
        return CORRELATION.finding(
            Effect.UNDECIDED, f"r = {r:+.2f} from {used:.3g} effective pairs may be 0 (p = {p:.2g})", *steps, needs="more independent pairs"
        )
    if at_least is not None and min(abs(low), abs(high)) < at_least:
        return CORRELATION.finding(
            Effect.UNDECIDED, f"r = {r:+.2f} is not shown to reach {at_least:g}", *steps, needs="more independent pairs"
        )
    return CORRELATION.finding(Effect.CONFIRMS, f"r = {r:+.2f} from {used:.3g} effective pairs is not chance (p = {p:.2g})", *steps)


def detectable(n: float, smallest: float, *, lags: int = 1) -> Finding:
    """Whether ``n`` pairs could show a correlation of ``smallest``."""
    if n <= 3:
        return DETECTABLE.finding(Effect.INVALIDATES, f"{n:g} pairs show no correlation at all")
    limit = critical(n, lags=lags)
    steps = (f"smallest |r| that {n:g} pairs and {lags} lags can tell from 0: {limit:.2f}; wanted {smallest:g}",)
    if limit > smallest:
        return DETECTABLE.finding(
            Effect.INVALIDATES,
            f"{n:g} pairs can only show |r| above {limit:.2f}: a correlation of {smallest:g}, or its absence, cannot be seen",
            *steps,
        )
    return DETECTABLE.finding(Effect.CONSISTENT, f"{n:g} pairs can show |r| above {limit:.2f}", *steps)
