"""One fact, one value: what several places or reports say of the same thing.

Words must be equal (after case and spaces); numbers within a declared relative tolerance, or equal after rounding to the coarser one.
This finds run ids that differ between files, a quality called strict here and bursty there, a bandwidth with four values, a setting that
the code reads differently.

Assumes that the places speak of the same thing; that is the transcriber's responsibility. False alarms: none by construction.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding, half_unit

AGREEMENT = Check(
    name="agreement",
    needs="what two or more places say of one thing",
    proves="that they cannot all be right",
)


def agreement(values: Mapping[str, float | str], *, tolerance: float = 0.0, unit: str = "") -> Finding:
    """Compare what each place says."""
    steps = [f"{place}: {value if isinstance(value, str) else f'{value:g} {unit}'.strip()}" for place, value in values.items()]
    if len(values) < 2:
        return AGREEMENT.lacks("a second place that says it")
    numbers = [v for v in values.values() if not isinstance(v, str)]
    words = {" ".join(v.lower().split()) for v in values.values() if isinstance(v, str)}
    if not words:
        slack = tolerance * max(map(abs, numbers)) + max(half_unit(v) for v in numbers) * (1 + 1e-9)
        differ = max(numbers) - min(numbers) > slack
    else:
        differ = bool(numbers) or len(words) > 1
    if differ:
        return AGREEMENT.finding(Effect.CONTRADICTS, "they disagree: " + "; ".join(steps), *steps)
    return AGREEMENT.finding(Effect.CONFIRMS, f"{len(values)} places agree", *steps)
