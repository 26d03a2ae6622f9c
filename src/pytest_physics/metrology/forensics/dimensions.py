"""Units: terms that are added or compared must have the unit of the whole.

Assumes units written as products and quotients of symbols (``J/token``). False alarms: none by construction.
Reference: ``units.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding
from pytest_physics.units import Unit

DIMENSION = Check(
    name="dimension",
    needs="a unit, and the units of the terms that make it",
    proves="that a formula adds unlike things, or a number carries the unit of another quantity",
)


def dimension(unit: str, terms: Mapping[str, str]) -> Finding:
    """Whether every term has ``unit``."""
    whole = Unit.parse(unit)
    parsed = {name: Unit.parse(text) for name, text in terms.items()}
    steps = [f"{name}: {term}{'' if term == whole else f' ≠ {whole}'}" for name, term in parsed.items()]
    wrong = [name for name, term in parsed.items() if term != whole]
    if wrong:
        return DIMENSION.finding(
            Effect.CONTRADICTS, f"{', '.join(wrong)} has unit {', '.join(str(parsed[n]) for n in wrong)} where {whole} is needed", *steps
        )
    return DIMENSION.finding(Effect.CONFIRMS, f"every term is in {whole}", *steps)
