"""Could this sensor have seen this event? Updates inside a window, energy recovered, and how fast a reading can rise.

A reading that averages over W (a box) rises from 10 % to 90 % of a step in 0.8·W, whatever the device does. Summing readings only inside an
event of length T recovers 1 − W/(2T) of its energy above idle for T ≥ W, and T/(2W) for shorter ones. And an event needs two distinct
updates inside to have any energy at all.

Assumes a box average; a first-order lag τ counts as W = 2τ. False alarms: none by construction.
References: ``nvml.h`` (1 s average on Ampere and later, except GA100); Yang et al., arXiv 2312.02741; ``metrology/response.py``.
"""

from __future__ import annotations

import math

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding

RISE = Check(
    name="sensor rise time",
    needs="what the reading averages over, and the stated or required rise time",
    proves="that a rise-time limit cannot be met by any device through this reading",
)
VISIBILITY = Check(
    name="sensor feasibility",
    needs="length of an event, update period and averaging window of the reading",
    proves="that the sensor could not have seen the event, or how much of its energy in-window readings miss",
)
RISE_SHARE = 0.8
"""10–90 % rise time of a box average over its width."""
MIN_RECOVERED = 0.95


def rise_time(window_s: float, limit_s: float) -> Finding:
    """A rise-time limit against what an average over ``window_s`` can do."""
    fastest = RISE_SHARE * window_s
    step = f"10–90 % rise of an average over {window_s:g} s: 0.8 × {window_s:g} = {fastest:.3g} s; limit {limit_s:g} s"
    if fastest >= limit_s:
        return RISE.finding(
            Effect.INVALIDATES,
            f"a reading averaged over {window_s:g} s takes {fastest:.2g} s to rise: within {limit_s:g} s is impossible",
            step,
        )
    return RISE.finding(Effect.CONSISTENT, f"the reading can rise within {limit_s:g} s", step)


def recovered_share(duration_s: float, window_s: float) -> float:
    """Share of the energy above idle that readings inside the event carry, for a box average."""
    if window_s <= 0:
        return 1.0
    return 1 - window_s / (2 * duration_s) if duration_s >= window_s else duration_s / (2 * window_s)


def visibility(duration_s: float, update_period_s: float, window_s: float, *, corrected: bool = False) -> Finding:
    """Whether an event of ``duration_s`` can be seen; ``corrected`` says that the analysis allows for the averaging."""
    updates = math.floor(duration_s / update_period_s * (1 + 1e-9)) + 1
    share = recovered_share(duration_s, window_s)
    steps = (
        f"at most ⌊{duration_s:g} / {update_period_s:g}⌋ + 1 = {updates} updates inside",
        f"readings average over {window_s:g} s: those inside {duration_s:g} s carry {share:.1%} of the energy above idle",
    )
    if updates < 2:
        return VISIBILITY.finding(
            Effect.INVALIDATES, f"at most {updates} update falls inside {duration_s:g} s: the sensor cannot see the event", *steps
        )
    if share < MIN_RECOVERED and not corrected:
        return VISIBILITY.finding(
            Effect.INVALIDATES, f"readings inside {duration_s:g} s carry only {share:.0%} of the event's energy", *steps
        )
    return VISIBILITY.finding(Effect.CONFIRMS, f"up to {updates} updates fall inside {duration_s:g} s", *steps)
