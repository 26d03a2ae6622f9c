"""Claims: from a comparison and its gates to a verdict on record.

A claim is a statement, a comparison of an estimate with a limit, and the gates it needs. Nobody types a verdict: ``Judge`` computes it,
writes it into the run with everything needed to compute it again, and raises the error that ends the test accordingly.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pytest_physics.errors import InconclusiveMeasurement, InvalidMeasurement, RefutedClaim, excerpt
from pytest_physics.metrology.decision import Verdict, all_gates, decide
from pytest_physics.metrology.uncertainty import UNRECORDED, Comparison, Estimate, Gate, Recipe
from pytest_physics.record.schema import ClaimRecord, EstimateRecord, GateRecord, decision_fields, finite_or_none
from pytest_physics.units import quantity_text

ERRORS: dict[Verdict, type[Exception]] = {
    Verdict.REFUTED: RefutedClaim,
    Verdict.INVALID: InvalidMeasurement,
    Verdict.INCONCLUSIVE: InconclusiveMeasurement,
}
"""How a verdict ends a test; VALIDATED lets it go on."""

SEVERITY = (Verdict.VALIDATED, Verdict.NOT_TESTED, Verdict.INCONCLUSIVE, Verdict.INVALID, Verdict.REFUTED)
"""From best to worst; several comparisons in one test end as the worst."""

PREREQUISITE = "prerequisite claim"
"""Name of the gate of a required claim."""

MAX_SLUG = 80
"""Longest id made from a node id, in characters; of longer ones the end is kept, after a digest."""


class ClaimBook(Protocol):
    """What judging needs of the run."""

    def record_claim(self, record: ClaimRecord) -> None:
        """Persist one claim."""

    def attempts(self, claim_id: str) -> int:
        """How often this claim was judged before, in this run."""

    def verdict_of(self, claim_id: str) -> Verdict | None:
        """Latest verdict of a claim, or None where it was not judged."""

    def truth(self, recipe: Recipe) -> float | None:
        """The twin's true value of an estimate; None on real devices."""

    def evaluate(self, recipe: Recipe) -> Estimate:
        """Compute an estimate from the run's artifacts."""

    def gates_of(self, requirement: Recipe) -> Sequence[Gate]:
        """Gates of a requirement, such as a heat soak, from the run's artifacts."""

    def evidence(self, recipe: Recipe) -> Sequence[str]:
        """Artifacts behind an estimate, as paths inside the run directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimStatement:
    """What a test claims."""

    id: str
    statement: str
    test: str
    """Node id."""
    source: str
    """File and line."""
    requires: tuple[str, ...] = ()
    """Claims that must be VALIDATED before this one can speak."""


@dataclass
class Judge:
    """Judges the comparisons of one test."""

    book: ClaimBook = field(repr=False)
    claim: ClaimStatement
    requirements: Callable[[], Sequence[Recipe]] = field(default=lambda: (), repr=False)
    """What the fixtures of the test require, asked for at the time of judging: recipes of gates."""
    records: list[ClaimRecord] = field(default_factory=list, repr=False)
    _told: int = field(default=0, init=False, repr=False)
    """How many of the records :meth:`news` has handed out."""

    def __call__(self, comparison: Comparison, *, needs: Sequence[Gate] = ()) -> ClaimRecord:
        """Judge ``comparison``; returns the record if VALIDATED, else raises the error of its verdict.

        Parameters
        ----------
        comparison
            An estimate compared with a limit: ``energy <= 5.0``.
        needs
            Further gates of the user's own.
        """
        __tracebackhide__ = True  # a failure is shown at the user's line
        if not isinstance(comparison, Comparison):
            raise TypeError(
                f"judge() takes a comparison of an estimate, such as 'window.duration <= 1.0' (got {excerpt(comparison)} of type "
                f"{type(comparison).__name__}). {_instead_of(comparison)}"
            )
        comparison = self._recomputed(comparison)
        required = self.requirements()
        own = (*needs, *(gate for name in self.claim.requires for gate in self._prerequisites(name)))
        gates = (*own, *(gate for requirement in required for gate in self.book.gates_of(requirement)))
        decision = decide(comparison, gates)
        record = self._base(
            estimate=EstimateRecord.of(comparison.estimate),
            operator=comparison.operator,
            limit=comparison.limit,
            gates=[GateRecord.of(gate) for gate in all_gates(comparison, gates)],
            own_gates=[GateRecord.of(gate) for gate in own],
            requirements=[requirement.to_json() for requirement in required],
            recipe=comparison.estimate.recipe.to_json(),
            truth=finite_or_none(self.book.truth(comparison.estimate.recipe)),
            evidence=list(self.book.evidence(comparison.estimate.recipe)),
            **decision_fields(decision),
        )
        self._keep(record)
        error = verdict_error(record)
        if error is not None:
            raise error
        return record

    def _recomputed(self, comparison: Comparison) -> Comparison:
        """The comparison with its estimate computed anew from its recipe: the judge trusts the artifacts, not the number it is handed."""
        if any(part.op == UNRECORDED for part in comparison.estimate.recipe.leaves()):
            raise TypeError(
                f"'{comparison}' cannot be recomputed, so it cannot be judged: build numbers from the rig's windows and phases, or wrap "
                "one from elsewhere in Estimate.given(value, unit, u=…)."
            )
        return replace(comparison, estimate=self.book.evaluate(comparison.estimate.recipe))

    def not_tested(self, reason: str) -> ClaimRecord:
        """Record that this rig could not test the claim, and why."""
        return self._keep(self._base(verdict=Verdict.NOT_TESTED, reason=reason))

    def invalid(self, reason: str) -> ClaimRecord:
        """Record that the measurement ended before it could be judged."""
        return self._keep(self._base(verdict=Verdict.INVALID, reason=reason))

    def settle(self) -> None:
        """Raise the error of the worst verdict, in case the test caught it."""
        __tracebackhide__ = True
        worst = worst_of(self.records)
        error = verdict_error(worst) if worst else None
        if error is not None:
            raise error

    def news(self) -> list[ClaimRecord]:
        """Records since the last call."""
        fresh = self.records[self._told :]
        self._told = len(self.records)
        return fresh

    def _prerequisites(self, claim_id: str) -> list[Gate]:
        """One gate for each comparison of that claim: ``x``, ``x#2`` and so on."""
        gates = [self._prerequisite(claim_id)]
        while self.book.verdict_of(further := f"{claim_id}#{len(gates) + 1}") is not None:
            gates.append(self._prerequisite(further))
        return gates

    def _prerequisite(self, claim_id: str) -> Gate:
        return prerequisite_gate(claim_id, self.book.verdict_of(claim_id))

    def _base(self, **fields: Any) -> ClaimRecord:  # noqa: ANN401 -- fields of the record, checked by it
        number = len(self.records) + 1
        claim_id = self.claim.id if number == 1 else f"{self.claim.id}#{number}"
        return ClaimRecord(
            id=claim_id,
            statement=self.claim.statement,
            test=self.claim.test,
            source=self.claim.source,
            attempt=self.book.attempts(claim_id) + 1,
            requires=list(self.claim.requires),
            **fields,
        )

    def _keep(self, record: ClaimRecord) -> ClaimRecord:
        self.records.append(record)
        self.book.record_claim(record)
        return record


def _instead_of(found: object) -> str:
    """What to do instead of judging what is no comparison."""
    if isinstance(found, bool):
        return "An estimate is never exactly equal to a limit: '==' and '!=' give True or False. Compare with <= or >=."
    if isinstance(found, Estimate):
        return "Compare it with a limit, by <= or >=."
    if isinstance(found, tuple):
        return "Judge each comparison by itself, and put a text into the claim's statement: @pytest.mark.claim('…')."
    return "A bare number has no uncertainty: wrap it in Estimate.exact(...) or Estimate.given(...)."


def prerequisite_gate(claim_id: str, verdict: Verdict | None) -> Gate:
    """Gate of a claim that another one requires, by its verdict so far; None where it was not judged."""
    shown = verdict.value if verdict else "not judged in this run"
    return Gate(
        name=PREREQUISITE,
        scope=claim_id,
        measured=None,
        limit=None,
        unit="",
        passed=verdict is Verdict.VALIDATED,
        reason=f"claim '{claim_id}' is {shown} (needed: VALIDATED)",
        remedy=f"run and mend '{claim_id}' first, in the same session",
    )


def worst_of(records: Sequence[ClaimRecord]) -> ClaimRecord | None:
    """The record with the worst verdict; None of none."""
    return max(records, key=lambda record: SEVERITY.index(record.verdict), default=None)


def verdict_error(record: ClaimRecord) -> Exception | None:
    """The error that ends a test with this verdict; None where the test goes on."""
    error = ERRORS.get(record.verdict)
    return error(explain(record)) if error else None


def explain(record: ClaimRecord) -> str:
    """The claim, its estimate against its limit, the reason, and every failed gate with its remedy."""
    lines = [f"{record.verdict.value}: {record.statement}"]
    if record.estimate is not None:
        shown = quantity_text(record.estimate.value, record.estimate.expanded, record.estimate.unit)
        lines.append(f"  estimate  {shown}  (quality {record.estimate.quality}, {record.estimate.provenance})")
        unit = "" if record.estimate.unit == "1" else f" {record.estimate.unit}"
        lines.append(f"  claimed   {record.operator} {record.limit:g}{unit}" if record.limit is not None else "  claimed   nothing")
    failed = [gate for gate in record.gates if not gate.passed]
    if record.verdict is not Verdict.INVALID or not failed:
        lines.append(f"  because   {record.reason}")
    for gate in failed:
        word = "warning" if gate.warning else "gate"
        lines.append(f"  {word:<9} {gate.name} ({gate.scope}): {gate.reason}")
        if gate.remedy:
            lines.append(f"  {'':<9} → {gate.remedy}")
    return "\n".join(lines)


def slug(node_id: str) -> str:
    """A claim id from a node id: file, class and name in letters and digits of any script, joined by dots; at most :data:`MAX_SLUG` long.

    Folders are left out, so that an id does not change with the place from which pytest was started.

    >>> slug("bench/test_gain.py::test_gain[8-fp16]"), slug("test_a.py::TestPower::test_größe")
    ('gain.gain-8-fp16', 'a.TestPower.größe')
    """
    file, *names = node_id.split("::")
    parts = [part.removeprefix("test_") for part in (file.rpartition("/")[2].removesuffix(".py"), *names)]
    name = ".".join(filter(None, (re.sub(r"[^\w.]+|_+", "-", part).strip("-") for part in parts))) or "claim"
    digest = hashlib.sha256(node_id.encode()).hexdigest()[:8]
    return name if len(name) <= MAX_SLUG else f"{digest}-{name[9 - MAX_SLUG :]}"
