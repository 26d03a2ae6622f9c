"""Detectors that cannot fire: a "no" from them is no evidence.

Self-masking: a threshold at mean + k·s of the same readings lies above their maximum, so the fraction of outliers is zero by construction.
(For any data at most 1/k² of the readings are beyond; with a broad second state none are.) Fed constants: a rule whose inputs do not vary
says the same whatever happens. No opportunity: "0 of 0" is not "0 of n". Out of reach: a rule that needs more consecutive events than the
sensor's step and period ever give.

False alarms: none by construction; everything follows from the declared numbers.
Reference: Davies, Gather, "The identification of multiple outliers", JASA 88 (1993), for masking.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding, half_unit

SELF_MASKING = Check(
    name="self-masking detector",
    needs="mean, standard deviation and maximum of the readings, and the detector's k",
    proves="that the detector's zero was certain before the first reading",
)
REACH = Check(
    name="detector reach",
    needs="what the detector was fed, how often it could have fired, or how long a run it needs and how long the longest was",
    proves="that the detector could not have fired",
)


def self_masking(mean: float, sd: float, maximum: float, k: float) -> Finding:
    """An outlier rule "above mean + k·s" on the readings that made mean and s."""
    threshold = mean + k * sd
    slack = half_unit(mean) + k * half_unit(sd) + half_unit(maximum)
    step = f"threshold {mean:.4g} + {k:g} × {sd:.4g} = {threshold:.4g}; largest reading {maximum:.4g}"
    if threshold > maximum + slack:
        return SELF_MASKING.finding(
            Effect.INVALIDATES, f"the threshold {threshold:.4g} lies above the largest reading {maximum:.4g}: no outlier is possible", step
        )
    return SELF_MASKING.finding(Effect.CONSISTENT, f"readings beyond the threshold {threshold:.4g} are possible", step)


def reach(
    *,
    constant_inputs: Sequence[str] = (),
    opportunities: int | None = None,
    needed_run: int | None = None,
    longest_run: int | None = None,
) -> Finding:
    """Whether a detector could have fired at all, from what is declared of it."""
    if constant_inputs:
        return REACH.finding(
            Effect.INVALIDATES, f"it is fed constants ({', '.join(constant_inputs)}), so its answer cannot depend on events"
        )
    if opportunities == 0:
        return REACH.finding(Effect.INVALIDATES, "there was no opportunity to fire: 0 of 0 is no result")
    if needed_run is None or longest_run is None:
        if opportunities is not None:
            return REACH.finding(Effect.CONSISTENT, f"it had {opportunities} opportunities")
        return REACH.lacks("the detector's inputs, its opportunities, or the run it needs and the longest that occurred")
    step = f"needed in a row: {needed_run}; longest run that occurred: {longest_run}"
    if longest_run < needed_run:
        return REACH.finding(
            Effect.INVALIDATES, f"it needs {needed_run} in a row, and at most {longest_run} ever occurred: it could not fire", step
        )
    return REACH.finding(Effect.CONSISTENT, "runs long enough for it occurred", step)
