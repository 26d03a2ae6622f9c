"""Quality tiers and provenance: how much a number may be trusted, and where it comes from.

The tiers are exhaustive and exclusive: every window falls into exactly one. One definition serves power integrals and hardware
counters (n is then the number of counter ticks). The relative expanded uncertainty leaves the card's common scale (gain) apart,
because the scale is one fact about the run, stated once, and not a property of a window.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

GAPPY_FRACTION = 0.10
"""A window with a larger share of gaps is GAPPY."""
BILLABLE_GAP_FRACTION = 0.05
BILLABLE_MIN_UPDATES = 8
BILLABLE_MIN_DURATION_S = 1.0
GOOD_MIN_UPDATES = 3
GOOD_RELATIVE_UNCERTAINTY = 0.10
BILLABLE_RELATIVE_UNCERTAINTY = 0.05


class Quality(IntEnum):
    """Tier of a measured number; ordered: a combination has the worst of its inputs', and none better than its own uncertainty allows."""

    NO_DATA = 0
    GAPPY = 1
    ESTIMATE = 2
    GOOD = 3
    BILLABLE = 4


class Provenance(StrEnum):
    """Where a number comes from, strongest first; a claim is only as good as its weakest input."""

    MEASURED = "measured"
    DERIVED = "derived"
    STALE = "stale"
    ASSUMED = "assumed"
    SIMULATED = "simulated"

    @staticmethod
    def weakest(*parts: Provenance) -> Provenance:
        """The weakest of ``parts``; ``MEASURED`` for none."""
        order = list(Provenance)
        return max(parts, key=order.index, default=Provenance.MEASURED)


def allowed(relative_uncertainty: float) -> Quality:
    """Best tier that a relative expanded uncertainty allows, common scale apart; NaN counts as infinite.

    >>> allowed(0.05), allowed(0.1), allowed(0.2)
    (<Quality.BILLABLE: 4>, <Quality.GOOD: 3>, <Quality.ESTIMATE: 2>)
    """
    if relative_uncertainty <= BILLABLE_RELATIVE_UNCERTAINTY:
        return Quality.BILLABLE
    return Quality.GOOD if relative_uncertainty <= GOOD_RELATIVE_UNCERTAINTY else Quality.ESTIMATE


def tier(
    *,
    n_updates: int,
    gap_fraction: float,
    longest_gap_s: float,
    max_gap_s: float,
    bracketed: bool,
    duration_s: float,
    relative_uncertainty: float,
    interrupted: bool = False,
) -> Quality:
    """Tier of one window.

    Parameters
    ----------
    n_updates
        Distinct valid sensor updates (or counter ticks) inside the window.
    gap_fraction
        Share of the window covered by valid-sample intervals longer than the gap threshold, bracketing intervals included.
    longest_gap_s, max_gap_s
        Longest such interval, and the longest allowed.
    bracketed
        Whether a valid sample lies on each side of the window.
    duration_s
        Length of the window.
    relative_uncertainty
        Expanded uncertainty over value, common scale apart; NaN counts as infinite.
    interrupted
        The sampler died, or a counter was reset, inside the window.
    """
    if interrupted or not bracketed or n_updates < 2:
        return Quality.NO_DATA
    # written as "not (good)" so that a NaN falls to the worse side
    if not gap_fraction <= GAPPY_FRACTION or not longest_gap_s <= max_gap_s:
        return Quality.GAPPY
    billable = (
        duration_s > BILLABLE_MIN_DURATION_S
        and n_updates > BILLABLE_MIN_UPDATES
        and gap_fraction < BILLABLE_GAP_FRACTION
        and relative_uncertainty <= BILLABLE_RELATIVE_UNCERTAINTY
    )
    if billable:
        return Quality.BILLABLE
    if n_updates >= GOOD_MIN_UPDATES and relative_uncertainty <= GOOD_RELATIVE_UNCERTAINTY:
        return Quality.GOOD
    return Quality.ESTIMATE
