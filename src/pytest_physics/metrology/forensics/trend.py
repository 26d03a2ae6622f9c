"""Rates of change: a mean rate is bounded by the range over the duration.

``|mean dx/dt| = |x_end − x_start| / T ≤ (max − min) / T``. A larger "mean rate" is a mean of absolute differences, which measures noise
and grows with the sampling rate.

False alarms: none by construction; rounding of all inputs is allowed for.
"""

from __future__ import annotations

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding, half_unit

MEAN_RATE = Check(
    name="mean rate",
    needs="a stated mean rate of change, the range of the quantity and the duration",
    proves="that the stated mean rate is no mean rate",
)


def mean_rate(stated: float, minimum: float, maximum: float, duration_s: float, *, unit: str = "1/s") -> Finding:
    """Compare a stated mean rate with range over duration."""
    most = (maximum - minimum) / duration_s
    slack = half_unit(stated) + (half_unit(maximum) + half_unit(minimum)) / duration_s
    step = f"({maximum:g} − {minimum:g}) / {duration_s:g} s = {most:.3g} {unit} at most; stated {stated:g} {unit}"
    if abs(stated) > most + slack:
        return MEAN_RATE.finding(
            Effect.CONTRADICTS,
            f"the mean rate is at most {most:.2g} {unit}; the stated {stated:.2g} is {abs(stated) / most:.1f} times that",
            step,
        )
    return MEAN_RATE.finding(Effect.CONSISTENT, f"the stated mean rate is possible (at most {most:.2g} {unit})", step)
