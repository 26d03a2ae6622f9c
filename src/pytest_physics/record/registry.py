"""The registry of leaf recipes: operation name to the function that computes it, and to its true value on a twin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pytest_physics.devices.base import ReadingKind
from pytest_physics.metrology.quality import Provenance
from pytest_physics.metrology.uncertainty import Estimate
from pytest_physics.record.data import RunData
from pytest_physics.record.schema import PhaseRecord
from pytest_physics.sampling.trace import Trace

Parameters = Mapping[str, Any]
Leaf = Callable[[Parameters, RunData], Estimate]
Truth = Callable[[Parameters, RunData], Estimate | None]

LEAVES: dict[str, Leaf] = {}
TRUTHS: dict[str, Truth] = {}


def leaf(op: str, *, truth: Truth | None = None) -> Callable[[Leaf], Leaf]:
    """Register a leaf recipe under ``op``, with the way to its true value on a twin."""

    def register(function: Leaf) -> Leaf:
        LEAVES[op] = function
        if truth is not None:
            TRUTHS[op] = truth
        return function

    return register


def exactly(value: float | None, unit: str) -> Estimate | None:
    """A true value, where it is known."""
    return None if value is None else Estimate.exact(value, unit)


def phase_trace(data: RunData, phase: PhaseRecord) -> Trace:
    """Samples of a phase."""
    return data.trace(phase.instrument).between(phase.t0_ns, int(phase.t1_ns or phase.t0_ns))


def provenance_of(data: RunData, instrument: str) -> Provenance:
    """Weakest provenance among the instrument's channels."""
    record = data.instrument(instrument)
    parts = {Provenance(channel.provenance) for channel in record.channels if channel.kind != ReadingKind.STATE.value}
    return Provenance.weakest(*parts)
