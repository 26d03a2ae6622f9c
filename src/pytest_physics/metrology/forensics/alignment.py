"""Two series on one time axis: clock offsets, and lag tables that cannot tell who leads.

Series that were recorded together must overlap. Where they do not, and shifting one by a multiple of 15 minutes makes them overlap, one
clock was read in another time zone. A lag table computed by shifting the wrong series on one side is symmetric to the last digit, and then
"who leads" is decided by the order of a list.

False alarms, simulated: none for series that overlap; a lag table of two noisy series is symmetric to 1e-9 with probability zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding

CLOCK_OFFSET = Check(
    name="clock offset",
    needs="times of both series as they are compared, and the tolerance of the match",
    proves="that the series were matched across a clock offset, so that nothing was compared",
)
LAG_TABLE = Check(
    name="symmetric lags",
    needs="a table of lags and correlations",
    proves="that the table is symmetric by construction and cannot say who leads",
)
ZONE_S = 900.0
"""Time zones differ by multiples of 15 minutes."""
MIN_MATCHED = 0.90


def matched_share(a_s: ArrayLike, b_s: ArrayLike, tolerance_s: float) -> float:
    """Share of the instants of ``a_s`` with one of ``b_s`` within the tolerance."""
    a, b = np.asarray(a_s, float), np.sort(np.asarray(b_s, float))
    right = np.clip(np.searchsorted(b, a), 0, b.size - 1)
    nearest = np.minimum(np.abs(b[right] - a), np.abs(b[np.maximum(right - 1, 0)] - a))
    return float(np.mean(nearest <= tolerance_s))


def clock_offset(a_s: ArrayLike, b_s: ArrayLike, *, tolerance_s: float) -> Finding:
    """How much of ``a_s`` is matched as it stands, and after removing whole quarters of an hour."""
    a, b = np.asarray(a_s, float), np.asarray(b_s, float)
    share = matched_share(a, b, tolerance_s)
    middle = (a.min() + a.max() - b.min() - b.max()) / 2
    offset = ZONE_S * round(middle / ZONE_S)
    shifted = matched_share(a - offset, b, tolerance_s)
    steps = (
        f"matched within {tolerance_s:g} s: {share:.1%} of {a.size}",
        f"middles differ by {middle:+.1f} s, nearest zone offset {offset / 3600:+g} h; matched after removing it: {shifted:.1%}",
    )
    if share >= MIN_MATCHED:
        return CLOCK_OFFSET.finding(Effect.CONSISTENT, f"{share:.0%} of the instants are matched", *steps)
    if offset and shifted >= MIN_MATCHED:
        return CLOCK_OFFSET.finding(
            Effect.INVALIDATES,
            f"the clocks are {offset / 3600:+g} h apart: {share:.0%} of {a.size} instants are matched as they stand",
            *steps,
        )
    return CLOCK_OFFSET.finding(Effect.INVALIDATES, f"only {share:.0%} of {a.size} instants are matched", *steps)


def lag_symmetry(lags: ArrayLike, values: ArrayLike) -> Finding:
    """Whether r(−k) equals r(k) for every lag."""
    table = dict(zip(np.asarray(lags, float).tolist(), np.asarray(values, float).tolist(), strict=True))
    pairs = [(k, v, table[-k]) for k, v in table.items() if k > 0 and -k in table]
    steps = [f"lag ±{k:g}: {plus:+.6f} and {minus:+.6f}" for k, plus, minus in pairs]
    if len(pairs) < 2:
        return LAG_TABLE.lacks("correlations at two or more lags on both sides")
    if all(abs(plus - minus) <= 1e-9 for _, plus, minus in pairs):
        return LAG_TABLE.finding(Effect.INVALIDATES, "the lag table is symmetric to the last digit: it cannot say who leads", *steps)
    return LAG_TABLE.finding(Effect.CONSISTENT, "the lag table tells the two directions apart", *steps)
