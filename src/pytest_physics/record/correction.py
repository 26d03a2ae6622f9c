"""The claims of a run together: the verdicts as they stand when the run ends.

A claim is judged when its test runs, by itself. With ``claims.correction = "holm"`` all of them are looked at once more at the end: each
claim that its interval decided (gates green) is a member of the family, and its VALIDATED or REFUTED stands only where Holm's step-down
lets it; else it is INCONCLUSIVE. A claim that required one which no longer is VALIDATED is INVALID. No verdict ever becomes stronger.

``claims.jsonl`` keeps what was judged at the time; ``correction.json`` holds what came out at the end, and why. ``verify`` computes it
again from the claims.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pytest_physics.claims import PREREQUISITE
from pytest_physics.config import Settings
from pytest_physics.metrology.decision import HolmStep, Verdict, error_probability, holm
from pytest_physics.metrology.uncertainty import Component, expanded_uncertainty
from pytest_physics.record.schema import ClaimRecord, ComponentRecord, CorrectedClaimRecord, CorrectionRecord, finite_or_none


def correction_of(claims: Sequence[ClaimRecord], settings: Settings) -> CorrectionRecord | None:
    """What the correction that ``settings`` ask for makes of all claims of a run; None where each is judged by itself."""
    if settings.claims.correction == "none":
        return None
    last = last_attempts(claims)
    family = [claim for claim in last if claim.conformance is not None]
    probabilities = [error_probability(claim.conformance or 0.0) for claim in family]
    steps = {claim.id: (p, step) for claim, p, step in zip(family, probabilities, holm(probabilities), strict=True)}
    corrected: dict[str, CorrectedClaimRecord] = {}
    for claim in last:  # in the order of judging: a claim is judged after those it requires
        corrected[claim.id] = _after_prerequisites(claim, _corrected(claim, len(family), *steps.get(claim.id, (None, None))), corrected)
    return CorrectionRecord(method="holm", family=len(family), claims=list(corrected.values()))


def last_attempts(claims: Sequence[ClaimRecord]) -> list[ClaimRecord]:
    """The attempt that counts for each claim, in the order in which claims were first judged."""
    return list({claim.id: claim for claim in claims}.values())


def final_claims(claims: Sequence[ClaimRecord], correction: CorrectionRecord | None) -> list[ClaimRecord]:
    """``claims`` with the verdicts that stand at the end; earlier attempts are as they were."""
    found = {} if correction is None else {(entry.id, entry.attempt): entry for entry in correction.claims}
    return [_final(claim, found[claim.id, claim.attempt]) if (claim.id, claim.attempt) in found else claim for claim in claims]


def _final(claim: ClaimRecord, entry: CorrectedClaimRecord) -> ClaimRecord:
    return claim.model_copy(update={"verdict": entry.verdict, "reason": entry.reason, "correction": entry})


def _corrected(claim: ClaimRecord, m: int, p: float | None, step: HolmStep | None) -> CorrectedClaimRecord:
    """One claim after the step-down, prerequisites apart."""
    unchanged = CorrectedClaimRecord(
        id=claim.id, attempt=claim.attempt, judged=claim.verdict, judged_reason=claim.reason, verdict=claim.verdict, reason=claim.reason
    )  # fmt: skip
    if p is None or step is None or claim.estimate is None:
        return unchanged
    guard = expanded_uncertainty(map(_component, claim.estimate.budget), 1 - step.level)
    member = unchanged.model_copy(
        update={"p": p, "p_adjusted": step.p_adjusted, "rank": step.rank, "level": step.level, "guard_band": finite_or_none(guard)}
    )
    if claim.verdict not in {Verdict.VALIDATED, Verdict.REFUTED}:
        return member
    unit = "" if claim.estimate.unit == "1" else f" {claim.estimate.unit}"
    numbers = f"margin {claim.margin:+.4g}{unit}, U {guard:.4g}{unit} at {1 - step.level:.2%}; p {p:.2g}, corrected {step.p_adjusted:.2g}"
    if step.decided:
        return member.model_copy(update={"reason": f"{claim.reason}; it stands among {m} claims (Holm): {numbers}"})
    reason = f"by itself {claim.verdict.value}, but not among {m} claims (Holm, rank {step.rank}): {numbers} (limit 0.05)"
    return member.model_copy(update={"verdict": Verdict.INCONCLUSIVE, "reason": reason})


def _after_prerequisites(
    claim: ClaimRecord, entry: CorrectedClaimRecord, before: Mapping[str, CorrectedClaimRecord]
) -> CorrectedClaimRecord:
    """INVALID where a claim that this one rests on was VALIDATED when it was judged, and is no longer."""
    needed = [gate.scope for gate in claim.own_gates if gate.name == PREREQUISITE and gate.passed]
    fallen = [name for name in needed if name in before and before[name].verdict is not Verdict.VALIDATED]
    if not fallen or entry.verdict is Verdict.INVALID:
        return entry
    why = "; ".join(f"claim '{name}' is {before[name].verdict.value} after the correction (needed: VALIDATED)" for name in fallen)
    return entry.model_copy(update={"verdict": Verdict.INVALID, "reason": f"{PREREQUISITE}: {why}"})


def _component(record: ComponentRecord) -> Component:
    """What of a budget's line shapes the interval."""
    return Component(
        label=record.label, source=record.source, contribution=math.nan if record.contribution is None else record.contribution,
        dof=math.inf if record.dof is None else record.dof,
        distribution="rectangular" if record.distribution == "rectangular" else "normal",
    )  # fmt: skip
