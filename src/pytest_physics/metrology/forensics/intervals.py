"""Standard errors and energy uncertainties, computed again, with autocorrelation where it is known.

``SEM = s/√N_eff`` with ``N_eff = N(1 − ρ)/(1 + ρ)`` for a lag-1 correlation ρ. Energy over a window T above an idle power measured for
T_b: ``σ² = s²·dt·(1+ρ)/(1−ρ)·T·(1 + T/T_b)``; without the last factor the error of the idle mean itself is missing, which dominates
beyond T_b. A standard deviation printed after ± is the scatter of readings, not the uncertainty of their mean.

Assumes a stationary series; for anything else no formula with √N holds. False alarms: none by construction beyond rounding (2 %).
References: GUM (JCGM 100:2008) 4.2.3; Zhang, Metrologia 43 (2006) S276.
"""

from __future__ import annotations

import math

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding, half_unit

STANDARD_ERROR = Check(
    name="standard error",
    needs="standard deviation, number of readings, the stated standard error or ±; better with the lag-1 correlation",
    proves="that the stated uncertainty does not follow from deviation, number and correlation",
)
ENERGY_UNCERTAINTY = Check(
    name="energy uncertainty",
    needs="standard deviation and interval of the idle readings, window length, stated uncertainty; better with the idle's length",
    proves="that a stated energy uncertainty does not follow from its own formula, or leaves the idle mean's error out",
)
TOLERANCE = 0.02
"""Relative difference that rounding of the inputs explains."""


def effective_count(n: float, lag1: float) -> float:
    """Effective number of independent readings for a lag-1 correlation in (−1, 1)."""
    return n * (1 - lag1) / (1 + lag1)


def standard_error(
    sd: float, n: int, stated: float, *, lag1: float | None = None, independence_denied: bool = False, unit: str = ""
) -> Finding:
    """Compare a stated standard error with deviation and number."""
    n_eff = n if lag1 is None else effective_count(n, lag1)
    found = sd / math.sqrt(n_eff)
    steps = [f"{sd:.6g} / √{n_eff:.6g} = {found:.4g} {unit}; stated {stated:.4g} {unit}"]
    if lag1 is not None:
        steps.insert(0, f"N_eff = {n} × (1 − {lag1:g}) / (1 + {lag1:g}) = {n_eff:.4g}")
    slack = TOLERANCE * found + half_unit(stated) + half_unit(sd) / math.sqrt(n_eff)
    if abs(stated - sd) <= half_unit(stated) + half_unit(sd) and n_eff > 2:
        return STANDARD_ERROR.finding(
            Effect.CONTRADICTS,
            f"what stands behind ± ({stated:.4g} {unit}) is the deviation of readings, not the uncertainty of a mean",
            *steps,
        )
    if abs(found - stated) > slack:
        return STANDARD_ERROR.finding(Effect.CONTRADICTS, f"{n} readings give {found:.3g} {unit}, stated is {stated:.3g} {unit}", *steps)
    if independence_denied and lag1 is None:
        return STANDARD_ERROR.finding(
            Effect.INVALIDATES,
            "it divides by √N although the report says that its readings are correlated: it is a lower bound, not an uncertainty",
            *steps,
            needs="the effective number of readings, or the readings themselves",
        )
    return STANDARD_ERROR.finding(Effect.CONFIRMS, f"recomputed {found:.3g} {unit} equals the stated {stated:.3g} {unit}", *steps)


def energy_uncertainty(
    sd_w: float, dt_s: float, duration_s: float, stated_j: float, *, idle_s: float | None = None, actual_dt_s: float | None = None
) -> Finding:
    """Compare a stated uncertainty of idle energy over ``duration_s`` with its formula; ``actual_dt_s`` is the interval that really was."""
    formula = sd_w * math.sqrt(duration_s * dt_s)
    steps = [f"{sd_w:.4g} W × √({duration_s:g} s × {dt_s:g} s) = {formula:.4g} J; stated {stated_j:.4g} J"]
    if abs(formula - stated_j) > TOLERANCE * formula + half_unit(stated_j):
        return ENERGY_UNCERTAINTY.finding(Effect.CONTRADICTS, f"its own formula gives {formula:.3g} J, stated are {stated_j:.3g} J", *steps)
    full = sd_w * math.sqrt(duration_s * (actual_dt_s or dt_s) * (1 + (duration_s / idle_s if idle_s else 0.0)))
    if actual_dt_s or idle_s:
        steps.append(
            f"with dt = {actual_dt_s or dt_s:.4g} s and the idle mean's own error: {full:.4g} J, {full / stated_j:.2f} times as much"
        )
    if full > (1 + 5 * TOLERANCE) * stated_j:
        return ENERGY_UNCERTAINTY.finding(Effect.CONTRADICTS, f"it is {full / stated_j - 1:.0%} larger than stated ({full:.3g} J)", *steps)
    return ENERGY_UNCERTAINTY.finding(Effect.CONFIRMS, f"recomputed {full:.3g} J equals the stated {stated_j:.3g} J", *steps)
