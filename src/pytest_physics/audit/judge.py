"""Verdicts from findings: the same five words as for our own measurements.

A claim's own exhibits (``asserts``) and its evidence (``rests_on``) were examined; then, in this order:

1. REFUTED: an asserted exhibit contradicts itself. This needs no gate: it is arithmetic on the report's own numbers.
2. INVALID: the evidence contradicts itself, a measurement could not have shown what it is said to show, the report's own test failed, or a
   required claim is not VALIDATED.
3. INCONCLUSIVE: the numbers allow the claim and its opposite.
4. VALIDATED: an asserted exhibit follows from the other numbers, and nothing above applies.
5. NOT_TESTED: nothing here decides it; the datum that would is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pytest_physics.audit.attached import Attached
from pytest_physics.audit.examine import findings_of
from pytest_physics.audit.loader import Loaded
from pytest_physics.audit.statements import Claim, Exhibit, Source
from pytest_physics.errors import ConfigurationError
from pytest_physics.metrology.decision import Verdict
from pytest_physics.metrology.forensics.catalogue import OWN_OUTCOME, PREREQUISITE
from pytest_physics.metrology.forensics.finding import Effect, Finding

EXIT_CODES = {Verdict.REFUTED: 1, Verdict.INVALID: 10, Verdict.INCONCLUSIVE: 10}
ORDER = (Verdict.REFUTED, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.VALIDATED, Verdict.NOT_TESTED)
RAW_DATA = "the raw data behind its numbers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """An exhibit with everything that was found in it."""

    id: str
    section: str
    exhibit: Exhibit
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Finding | None:
        """The finding that weighs most; None where there is none."""
        order = list(Effect)
        return max(self.findings, key=lambda f: order.index(f.effect), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A finding behind a verdict."""

    id: str
    """Of the exhibit, or of the required claim."""
    title: str
    finding: Finding

    def __str__(self) -> str:
        return f"{self.title}: {self.finding.sentence}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """A claim and its verdict."""

    claim: Claim
    verdict: Verdict
    reason: str
    needs: str
    """The datum that would decide a claim that is not decided."""
    grounds: tuple[Ground, ...]
    """What the verdict rests on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The result of an audit."""

    title: str
    about: str
    source: Source
    name: str
    """What was audited: a file, or a run directory."""
    sha256: str
    rulings: tuple[Ruling, ...]
    examined: tuple[Examined, ...]

    @property
    def exit_code(self) -> int:
        """0; 1 where a claim is refuted; 10 where none is, but one is invalid or inconclusive."""
        codes = {EXIT_CODES.get(ruling.verdict, 0) for ruling in self.rulings}
        return 1 if 1 in codes else max(codes, default=0)

    @property
    def accusations(self) -> list[tuple[str, Finding]]:
        """Every contradiction and invalidation, with its exhibit."""
        return [(part.id, finding) for part in self.examined for finding in part.findings if finding.effect.accuses]


def audit(loaded: Loaded, directory: Path | None = None) -> Audit:
    """Examine every exhibit of a statements file and judge its claims."""
    attached = Attached(directory)
    examined = tuple(_examined(section, name, exhibit, attached, loaded.path) for section, name, exhibit in loaded.statements.exhibits())
    return Audit(
        title=loaded.statements.title,
        about=loaded.statements.about,
        source=loaded.statements.source,
        name=loaded.path.name,
        sha256=loaded.sha256,
        rulings=rulings(loaded.statements.claims, examined),
        examined=examined,
    )


def _examined(section: str, name: str, exhibit: Exhibit, attached: Attached, path: Path) -> Examined:
    try:
        with np.errstate(divide="raise", invalid="raise"):
            found = tuple(findings_of(exhibit, attached))
    except (ValueError, ArithmeticError) as error:
        raise ConfigurationError(f"{path}: {section}.{name} cannot be examined ({error}); correct its numbers.") from error
    return Examined(id=name, section=section, exhibit=exhibit, findings=found)


def rulings(claims: Sequence[Claim], examined: Sequence[Examined]) -> tuple[Ruling, ...]:
    """Judge claims in their order; a required claim stands before the one that requires it."""
    exhibits = {part.id: part for part in examined}
    judged: dict[str, Ruling] = {}
    for claim in claims:
        judged[claim.id] = rule(claim, exhibits, judged)
    return tuple(judged.values())


def rule(claim: Claim, exhibits: Mapping[str, Examined], judged: Mapping[str, Ruling]) -> Ruling:
    """The verdict of one claim."""
    asserted = [ground for name in claim.asserts for ground in _grounds(exhibits[name])]
    evidence = [ground for name in claim.rests_on for ground in _grounds(exhibits[name])]
    contradicted = _with(asserted, Effect.CONTRADICTS)
    if contradicted:
        return _ruling(claim, Verdict.REFUTED, contradicted)
    speechless = [
        *_own_outcome(claim),
        *_with(evidence, Effect.CONTRADICTS),
        *_with([*asserted, *evidence], Effect.INVALIDATES),
        *_prerequisites(claim, judged),
    ]
    if speechless:
        return _ruling(claim, Verdict.INVALID, speechless)
    undecided = _with([*asserted, *evidence], Effect.UNDECIDED)
    if undecided:
        return _ruling(claim, Verdict.INCONCLUSIVE, undecided)
    confirmed = _with(asserted, Effect.CONFIRMS)
    if confirmed and not _with(asserted, Effect.LACKS):
        return _ruling(claim, Verdict.VALIDATED, confirmed)
    return _not_tested(claim, [*asserted, *evidence])


def _grounds(part: Examined) -> list[Ground]:
    return [Ground(id=part.id, title=part.exhibit.title or part.id, finding=finding) for finding in part.findings]


def _with(found: Sequence[Ground], effect: Effect) -> list[Ground]:
    return [ground for ground in found if ground.finding.effect is effect]


def _own_outcome(claim: Claim) -> list[Ground]:
    if claim.outcome in {None, "passed"}:
        return []
    words = "failed" if claim.outcome == "failed" else "was not run"
    return [Ground(id=claim.id, title="Own record", finding=OWN_OUTCOME.finding(Effect.INVALIDATES, f"the test behind it {words}"))]


def _prerequisites(claim: Claim, judged: Mapping[str, Ruling]) -> list[Ground]:
    broken = [judged[name] for name in claim.requires if judged[name].verdict is not Verdict.VALIDATED]
    return [Ground(id=ruling.claim.id, title="Prerequisite", finding=_broken(ruling)) for ruling in broken]


def _broken(ruling: Ruling) -> Finding:
    word = ruling.verdict.value.replace("_", " ")
    return PREREQUISITE.finding(Effect.INVALIDATES, f"claim '{ruling.claim.id}', which it requires, is {word}")


def _ruling(claim: Claim, verdict: Verdict, grounds: Sequence[Ground]) -> Ruling:
    reason = "; ".join(dict.fromkeys(str(ground) for ground in grounds))
    needs = "" if verdict in {Verdict.REFUTED, Verdict.VALIDATED} else _needed(claim, grounds)
    return Ruling(claim=claim, verdict=verdict, reason=reason, needs=needs, grounds=tuple(grounds))


def _needed(claim: Claim, grounds: Sequence[Ground]) -> str:
    return claim.needs or "; ".join(dict.fromkeys(ground.finding.needs for ground in grounds if ground.finding.needs))


def _not_tested(claim: Claim, found: Sequence[Ground]) -> Ruling:
    lacking = _with(found, Effect.LACKS)
    needs = _needed(claim, lacking) or RAW_DATA
    known = "its numbers are consistent, which does not make them true" if found else "no numbers of it are given"
    reason = "; ".join(map(str, lacking)) or f"{known}; what would decide it: {needs}"
    return Ruling(claim=claim, verdict=Verdict.NOT_TESTED, reason=reason, needs=needs, grounds=tuple(found))
