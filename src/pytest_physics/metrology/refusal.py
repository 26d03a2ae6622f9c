"""A refusal: an analysis that cannot speak says what it measured, what it needed, and what to do.

A refusal is an exception, because there is no value to go on with, and carries the failed :class:`Gate`, because a run records it
beside the gates that passed.
"""

from __future__ import annotations

from typing import NoReturn

from pytest_physics.errors import PhysicsError
from pytest_physics.metrology.uncertainty import Gate


class RefusedError(PhysicsError):
    """The data cannot answer; ``gate`` has the measured quantity, its limit and the remedy."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(f"{gate.scope}: {gate.reason}. {gate.remedy}")
        self.gate = gate


def refuse(name: str, *, scope: str, measured: float | None, limit: float | None, unit: str, reason: str, remedy: str) -> NoReturn:
    """Raise :class:`RefusedError` for the condition ``name``."""
    raise RefusedError(Gate(name=name, scope=scope, measured=measured, limit=limit, unit=unit, passed=False, reason=reason, remedy=remedy))
