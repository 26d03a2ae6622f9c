"""The end of a joint session: the training coupling of every instrument, recorded, in words, and as a claim.

What a joint session claims of each instrument is that the gradient norm is not strongly coupled with its first telemetry: the whole
interval of r must lie within the bounds from which a correlation is called strong.

A training that is too short for an analysis is no error: the sentence says what was too short.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress

from pytest_physics.claims import ClaimStatement, Judge
from pytest_physics.errors import InconclusiveMeasurement, InvalidMeasurement, PhysicsError, RefutedClaim
from pytest_physics.experiments.coupling import TrainingCoupling, analyse
from pytest_physics.instrument import Instrument
from pytest_physics.metrology.coupling import STRONG, WORDS
from pytest_physics.metrology.uncertainty import Estimate
from pytest_physics.session import Session

MIN_MARKS = 10
"""Fewer steps are not analysed."""
SHOWN_GATES = 2


def coupling_lines(session: Session, table: str, phase_name: str) -> Iterator[str]:
    """Analyse the steps of ``table`` beside every instrument, and say in a line what came of each pair."""
    marks = len(session.table(table))
    if marks < MIN_MARKS:
        yield f"{marks} steps are too few for a coupling analysis (needed: {MIN_MARKS})"
        return
    for instrument in session.instruments.values():
        phase = next((p for p in instrument.phases if p.name == phase_name), None)
        if phase is None:
            continue
        try:
            found = analyse(session, instrument, table, phase)
        except (PhysicsError, ValueError) as error:
            yield f"{instrument.name}: the coupling could not be analysed: {error}"
            continue
        yield from _lines(instrument, found)
        if ("grad_norm", found.first_telemetry) in found.pairs:
            _judge(session, instrument, found)


def _judge(session: Session, instrument: Instrument, found: TrainingCoupling) -> None:
    """One claim with two comparisons; its verdict stands in the run, whatever it is."""
    shown = found.first_telemetry
    claim = ClaimStatement(
        id=f"joint.not-strongly-coupled-{instrument.name}",
        statement=f"The gradient norm is not strongly coupled with {shown} of '{instrument.name}' (|r| ≤ {STRONG:g})",
        test=f"joint::{instrument.name}", source="pytest-physics joint",
    )  # fmt: skip
    judge, r = Judge(book=session, claim=claim), found.r("grad_norm", shown)
    for comparison in (r <= STRONG, r >= -STRONG):
        with suppress(RefutedClaim, InvalidMeasurement, InconclusiveMeasurement):
            judge(comparison)


def _lines(instrument: Instrument, found: TrainingCoupling) -> Iterator[str]:
    steps = found.steps
    zone = "the steady zone" if steps.has_zone else "the whole training, which has no steady zone"
    yield f"{instrument.name}: coupling over {int(steps.usable.sum())} steps of {zone}, {found.zone_length_s:.3g} s"
    for a, b in found.pairs:
        yield f"  {a} ~ {b}: {_said(found.word(a, b), found.r(a, b))}"


def _said(word: Estimate, r: Estimate) -> str:
    failed = [gate.reason for gate in word.gates if gate.refuses]
    if math.isnan(word.value):
        return f"refused: {'; '.join(failed[:SHOWN_GATES])}"
    low, high = r.interval
    said = f"{WORDS[int(word.value)]}, r = {r.value:+.2f} ({max(-1.0, low):+.2f} to {min(1.0, high):+.2f})"
    return f"{said}; but {'; '.join(failed[:SHOWN_GATES])}" if failed else said
