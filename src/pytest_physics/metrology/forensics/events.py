"""Times of events: what must not overlap, and what must contain what.

An idle average must not contain the settling; a slope over a window of five minutes cannot be judged on data that are all transient; work
must lie inside the trace that measured it.

Assumes one clock. False alarms: none by construction.
"""

from __future__ import annotations

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding

OVERLAP = Check(
    name="overlap of spans",
    needs="start and end of two spans, and whether they must be apart or one inside the other",
    proves="that a measurement covers what it must leave out, or does not cover what it must",
)

Span = tuple[float, float]


def apart(a: Span, b: Span, *, names: tuple[str, str], unit: str = "s") -> Finding:
    """Two spans that must not overlap."""
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    steps = (*_steps(a, b, names, unit), f"shared: {shared:g} {unit}, {shared / (a[1] - a[0]):.0%} of {names[0]}")
    if shared > 0:
        return OVERLAP.finding(Effect.INVALIDATES, f"{names[0]} contains {shared:g} {unit} of {names[1]}, which it must leave out", *steps)
    return OVERLAP.finding(Effect.CONSISTENT, f"{names[0]} and {names[1]} are apart", *steps)


def inside(inner: Span, outer: Span, *, names: tuple[str, str], unit: str = "s") -> Finding:
    """A span that must lie inside another."""
    missing = max(0.0, outer[0] - inner[0]) + max(0.0, inner[1] - outer[1])
    steps = _steps(inner, outer, names, unit)
    if missing > 0:
        return OVERLAP.finding(Effect.CONTRADICTS, f"{missing:g} {unit} of {names[0]} lie outside {names[1]}", *steps)
    return OVERLAP.finding(Effect.CONSISTENT, f"{names[0]} lies inside {names[1]}", *steps)


def _steps(a: Span, b: Span, names: tuple[str, str], unit: str) -> tuple[str, ...]:
    return tuple(f"{name}: {low:g} to {high:g} {unit}" for name, (low, high) in zip(names, (a, b), strict=True))
