"""Component differential: which of two devices has more events, or works less efficiently, and whether that is more than chance.

Two devices sampled on one grid are *paired*: each tick flags one, both or neither, and what decides is McNemar's test on the ticks that
flag one only. Flags come in runs, so ticks are not trials: the variance of the difference d_t = a_t − b_t is taken from its effective
number of ticks (max of three estimators, as for any mean here), and Newcombe's interval for paired shares is widened by the same design
effect. Sizes for 80 % power are given in independent trials and in ticks.

A contrast is refused where a device was never loaded, where a channel behind a flag is a constant, and where the ticks are not paired.
Pooling devices is no comparison; nothing here pools.

Assumes one clock and one rule for both devices (a contrast of two rules is one of rules). Fails softly below about ten effective ticks.

References: Newcombe, Statist. Med. 17 (1998) 2635, method 10 for paired shares; McNemar, Psychometrika 12 (1947); RLE study §7.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from pytest_physics.metrology.autocorrelation import FloatArray, series_mean
from pytest_physics.metrology.forensics.proportions import Share, wilson
from pytest_physics.metrology.instability import EventRate
from pytest_physics.metrology.refusal import refuse
from pytest_physics.metrology.uncertainty import coverage_factor

BoolArray = NDArray[np.bool_]
MIN_TICKS = 20
"""Fewer paired ticks carry no contrast."""
MIN_LOADED_SHARE = 0.05
"""A device that was loaded in a smaller share of the ticks was not part of the experiment."""
MIN_VALUES = 10
CONSTANT_RELATIVE = 1e-9
"""A channel that varies by less is a constant: means of a constant differ by the rounding of their arithmetic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One device's part of a contrast; arrays of shape (N,), one entry per tick."""

    name: str
    flags: BoolArray
    """In an event, by one and the same rule for both devices."""
    loaded: BoolArray
    """Under load, so that an event was possible."""
    channels: Mapping[str, FloatArray]
    """The channels behind the flags, to find out whether they were measured at all."""
    rule: str
    """Id of the rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateDifference:
    """Difference of two shares of paired ticks, a − b."""

    names: tuple[str, str]
    share_a: float
    share_b: float
    value: float
    low: float
    """95 % interval: Newcombe's for paired shares, with the design effect."""
    high: float
    n: int
    """Paired ticks."""
    n_eff: float
    """Effective number of independent pairs of ticks."""
    only_a: int
    """Ticks that flag a only; McNemar's b."""
    only_b: int
    p_ticks: float
    """McNemar's exact p as if ticks were independent: too small where flags come in runs."""
    p: float
    """Two-sided p of the difference from n_eff (cluster-aware)."""
    needed_trials: float
    """Independent ticks per device for 80 % power on a difference of this size; infinite where there is none."""
    needed_ticks: float
    """The same in ticks, with the design effect of these data."""

    @property
    def design_effect(self) -> float:
        """Ticks per independent trial."""
        return self.n / self.n_eff

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        a, b = self.names
        return (
            f"{a} {self.share_a:.1%}, {b} {self.share_b:.1%} of {self.n} paired ticks ({self.n_eff:.3g} effective): difference "
            f"{self.value:+.1%} ({self.low:+.1%} to {self.high:+.1%}), p = {self.p:.3g}; 80 % power needs {self.needed_ticks:.3g} ticks"
        )


def rate_difference(a: Component, b: Component) -> RateDifference:
    """Contrast of two devices, tick by tick; refused where it would be one of something else."""
    require_contrast(a, b)
    return paired_difference(a.flags, b.flags, names=(a.name, b.name))


def paired_difference(a: ArrayLike, b: ArrayLike, *, names: tuple[str, str] = ("a", "b")) -> RateDifference:
    """Difference of the shares of two flags over the same ticks, shapes (N,)."""
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    n = first.size
    only_a, only_b = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    difference = series_mean(first.astype(np.float64) - second)
    if difference.standard_deviation == 0:  # no tick tells the two apart; the runs are those of the flags themselves
        n_eff = min(series_mean(flags.astype(np.float64)).n_eff for flags in (first, second))
    else:
        n_eff = difference.n_eff
    low, high = newcombe_paired(first, second, design_effect=n / n_eff)
    share_a, share_b = float(first.mean()), float(second.mean())
    needed = paired_trials(only_a / n, only_b / n)
    return RateDifference(
        names=names, share_a=share_a, share_b=share_b, value=share_a - share_b, low=low, high=high, n=n, n_eff=n_eff,
        only_a=only_a, only_b=only_b, p_ticks=mcnemar(only_a, only_b),
        p=float(2 * stats.t.sf(abs(difference.mean) / difference.u, difference.dof)) if difference.u else 1.0,
        needed_trials=needed, needed_ticks=needed * n / n_eff,
    )  # fmt: skip


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p of McNemar's test; 1 where no tick tells the two apart."""
    total = only_a + only_b
    return float(stats.binomtest(only_a, total).pvalue) if total else 1.0


def newcombe_paired(a: BoolArray, b: BoolArray, *, design_effect: float = 1.0) -> tuple[float, float]:
    """Newcombe's 95 % interval (method 10) of the difference of two shares of the same trials."""
    first, second = (Share(successes=int(flags.sum()), trials=flags.size) for flags in (a, b))
    (low_a, high_a), (low_b, high_b) = wilson(first, design_effect=design_effect), wilson(second, design_effect=design_effect)
    phi = _phi(a, b)
    down_a, up_a, down_b, up_b = first.value - low_a, high_a - first.value, second.value - low_b, high_b - second.value
    value = first.value - second.value
    below = math.sqrt(max(0.0, down_a**2 - 2 * phi * down_a * up_b + up_b**2))
    above = math.sqrt(max(0.0, up_a**2 - 2 * phi * up_a * down_b + down_b**2))
    return value - below, value + above


def _phi(a: BoolArray, b: BoolArray) -> float:
    """Correlation of two flags, with Newcombe's continuity correction where it is positive; 0 where one never changes."""
    both, neither = float(np.sum(a & b)), float(np.sum(~a & ~b))
    only_a, only_b = float(np.sum(a & ~b)), float(np.sum(~a & b))
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    raw = both * neither - only_a * only_b
    corrected = max(raw - a.size / 2, 0.0) if raw > 0 else raw
    return corrected / math.sqrt(margins)


def paired_trials(only_a: float, only_b: float) -> float:
    """Independent pairs for 80 % power of McNemar's test at 5 %, from the shares that flag one only (Connor 1987)."""
    discordant, difference = only_a + only_b, only_a - only_b
    if difference == 0:
        return math.inf
    z_alpha, z_beta = float(stats.norm.ppf(0.975)), float(stats.norm.ppf(0.80))
    return (z_alpha * math.sqrt(discordant) + z_beta * math.sqrt(discordant - difference**2)) ** 2 / difference**2


# --- independent shares, event rates, efficiency ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference a − b with a 95 % interval."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided."""
    needed: float
    """What 80 % power needs for a difference of this size: trials per arm, or hours of exposure each; infinite where there is none."""

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def event_rate_difference(a: EventRate, b: EventRate) -> Difference:
    """Difference of two event rates per hour of exposure: the interval from both exact intervals (MOVER), the p conditional and exact."""
    if a.per_hour is None or b.per_hour is None:
        refuse(
            "exposure", scope="difference of event rates", measured=min(a.exposure_s, b.exposure_s), limit=0.0, unit="s",
            reason="one of the devices was never under load, so no event was possible",
            remedy="load both devices, or claim nothing about it",
        )  # fmt: skip
    value = a.per_hour - b.per_hour
    low = value - math.hypot(a.per_hour - a.low, b.high - b.per_hour)
    high = value + math.hypot(a.high - a.per_hour, b.per_hour - b.low)
    total = a.events + b.events
    p = float(stats.binomtest(a.events, total, a.exposure_s / (a.exposure_s + b.exposure_s)).pvalue) if total else 1.0
    z = float(stats.norm.ppf(0.975) + stats.norm.ppf(0.80))
    needed = z**2 * (a.per_hour + b.per_hour) / value**2 if value else math.inf
    return Difference(value=value, low=low, high=high, p=p, needed=needed)


def efficiency_difference(a: ArrayLike, b: ArrayLike) -> Difference:
    """Mean of ``a`` − ``b``, paired per tick or window, shapes (N,), with N_eff; for work per joule relative to each device's reference."""
    paired = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    paired = paired[np.isfinite(paired)]
    _require_ticks(paired.size, "difference of efficiencies")
    found = series_mean(paired)
    reach = coverage_factor(found.dof) * found.u
    p = float(2 * stats.t.sf(abs(found.mean) / found.u, found.dof)) if found.u else float(found.mean == 0)
    z = float(stats.norm.ppf(0.975) + stats.norm.ppf(0.80))
    needed = (z * found.standard_deviation / found.mean) ** 2 * found.n / found.n_eff if found.mean else math.inf
    return Difference(value=found.mean, low=found.mean - reach, high=found.mean + reach, p=p, needed=needed)


# --- refusals ---------------------------------------------------------------------------------------------------------


def require_contrast(a: Component, b: Component) -> None:
    """Refuse two rules, unpaired ticks, a device that was never under load and a channel that is a constant."""
    if a.rule != b.rule:
        refuse(
            "one rule", scope=f"{a.name} and {b.name}", measured=2.0, limit=1.0, unit="rules",
            reason=f"{a.name} was judged by '{a.rule}', {b.name} by '{b.rule}': the difference would be one of rules",
            remedy="judge both by one rule",
        )  # fmt: skip
    if not a.flags.shape == b.flags.shape == a.loaded.shape == b.loaded.shape:
        refuse(
            "paired ticks", scope=f"{a.name} and {b.name}", measured=float(b.flags.size), limit=float(a.flags.size), unit="ticks",
            reason=f"{a.name} has {a.flags.size} ticks, {b.name} has {b.flags.size}", remedy="align both on one grid first",
        )  # fmt: skip
    _require_ticks(a.flags.size, f"{a.name} and {b.name}")
    for component in (a, b):
        _require_loaded(component)
        _require_measured(component)


def _require_ticks(n: int, scope: str) -> None:
    if n < MIN_TICKS:
        refuse(
            "ticks", scope=scope, measured=float(n), limit=float(MIN_TICKS), unit="ticks",
            reason=f"there are {n} paired ticks (needed: at least {MIN_TICKS})", remedy="measure longer, or sample faster",
        )  # fmt: skip


def _require_loaded(component: Component) -> None:
    share = float(component.loaded.mean())
    if share < MIN_LOADED_SHARE:
        refuse(
            "device under load", scope=component.name, measured=share, limit=MIN_LOADED_SHARE, unit="1",
            reason=f"{component.name} was under load in {share:.1%} of the ticks (needed: {MIN_LOADED_SHARE:.0%})",
            remedy="load it, and check with power above idle that it did the work",
        )  # fmt: skip


def _require_measured(component: Component) -> None:
    for name, values in component.channels.items():
        known = values[np.isfinite(values)]
        if known.size >= MIN_VALUES and np.ptp(known) <= CONSTANT_RELATIVE * np.abs(known).max():
            refuse(
                "varying channel", scope=component.name, measured=0.0, limit=None, unit="",
                reason=f"'{name}' of {component.name} is {known[0]:g} in all {known.size} ticks: a constant, not a measurement",
                remedy="measure it, or leave the device out of the comparison",
            )  # fmt: skip
