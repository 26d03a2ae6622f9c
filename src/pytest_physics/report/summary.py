"""What a run says in one sentence: the last attempt of each claim, its verdicts counted, and how often a twin's truth was hit.

The terminal, the page's title and its banner all speak through these functions, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_physics.metrology.decision import Verdict
from pytest_physics.record.reader import RunReader
from pytest_physics.record.schema import BaselineRecord, ClaimRecord, EstimateRecord, GateRecord, ResultRecord, RunRecord
from pytest_physics.report.format import plural

ORDER = (Verdict.REFUTED, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.VALIDATED, Verdict.NOT_TESTED)
"""How claims are sorted: what needs a reader's attention first."""
GLYPHS = {
    Verdict.REFUTED: "✗",
    Verdict.INVALID: "⊘",
    Verdict.INCONCLUSIVE: "≈",
    Verdict.VALIDATED: "✓",
    Verdict.NOT_TESTED: "○",
}
"""One sign per verdict, always beside its word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How many 95 % intervals hold the truth, where a twin knows it."""

    held: int
    known: int

    @property
    def sentence(self) -> str:
        """``"11 of 12 intervals hold the truth"``; empty where no truth is known."""
        verb = "holds" if self.known == 1 else "hold"
        return f"{self.held} of {plural(self.known, 'interval')} {verb} the truth" if self.known else ""


def last_attempts(claims: Iterable[ClaimRecord]) -> list[ClaimRecord]:
    """The attempt that counts for each claim (the last one), in the order of verdicts, then as judged."""
    last: dict[str, ClaimRecord] = {}
    for claim in claims:
        if claim.id not in last or claim.attempt >= last[claim.id].attempt:
            last[claim.id] = claim
    return sorted(last.values(), key=lambda claim: ORDER.index(claim.verdict))


def verdict_counts(claims: Sequence[ClaimRecord]) -> dict[Verdict, int]:
    """Number of claims per verdict, zeros included, in the order of :data:`ORDER`."""
    return {verdict: sum(claim.verdict is verdict for claim in claims) for verdict in ORDER}


def overall(claims: Sequence[ClaimRecord]) -> Verdict:
    """The worst verdict among ``claims``; NOT_TESTED for none."""
    return min((claim.verdict for claim in claims), key=ORDER.index, default=Verdict.NOT_TESTED)


def sentence(claims: Sequence[ClaimRecord]) -> str:
    """The verdict of a run as one sentence, such as "1 of 9 claims is refuted; 2 invalid, 6 validated"."""
    if not claims:
        return "No claim was judged in this run."
    words = [(n, verdict.value.lower().replace("_", " ")) for verdict, n in verdict_counts(claims).items() if n]
    (n, word), *rest = words
    head = f"{n} of {plural(len(claims), 'claim')} {'is' if n == 1 else 'are'} {word}"
    if not rest:
        return f"{'The only claim is' if n == 1 else f'All {n} claims are'} {word}."
    return head + "; " + ", ".join(f"{n} {word}" for n, word in rest) + "."


def correction_sentence(claims: Sequence[ClaimRecord], method: str) -> str:
    """How the number of claims was taken into account; ``method`` is the setting ``claims.correction``."""
    if method == "none":
        return f"None: each of {plural(len(claims), 'claim')} is judged by itself, wrong in at most 5 % of runs." if len(claims) > 1 else ""
    m = sum(claim.correction is not None and claim.correction.rank is not None for claim in claims)
    if claims and all(claim.correction is None for claim in claims):
        return "Holm's was asked for, but the run did not come to its end: each verdict here is that of a claim by itself."
    changed = sum(claim.correction is not None and claim.correction.verdict is not claim.correction.judged for claim in claims)
    promise = "that any verdict is wrong happens in at most 5 % of runs"
    return f"Holm over {plural(m, 'claim')}: {promise}. It changed {plural(changed, 'verdict')}."


def holds_truth(estimate: EstimateRecord | None, truth: float | None) -> bool | None:
    """Whether the 95 % interval holds the truth; None where there is no truth or no interval."""
    if truth is None or estimate is None or estimate.value is None or estimate.expanded is None:
        return None
    return abs(estimate.value - truth) <= estimate.expanded


def coverage(results: Iterable[ResultRecord]) -> Coverage:
    """Count of intervals that hold the truth among ``results`` with a known truth."""
    known = [held for held in (holds_truth(r.estimate, r.truth) for r in results) if held is not None]
    return Coverage(held=sum(known), known=len(known))


def all_gates(reader: RunReader) -> list[GateRecord]:
    """Every distinct gate of a run: of its claims (all attempts), its results and its baselines."""
    sources: list[ResultRecord | BaselineRecord] = [*reader.results, *reader.baselines]
    own = [gate for claim in reader.claims for gate in claim_gates(claim)]
    return distinct([*own, *(gate for source in sources for gate in source.gates)])


def is_complete(run: RunRecord) -> bool:
    """Whether the run ended by itself and was finalised."""
    return run.state == "completed"


def state_words(run: RunRecord) -> str:
    """How a run ended, as a clause."""
    if run.state == "running":
        return "it was never finalised, so it was killed, crashed, or still runs"
    return "it finished" if is_complete(run) else f"it stopped early ({run.end_reason})"


def claim_gates(claim: ClaimRecord) -> list[GateRecord]:
    """Every gate of a claim, once."""
    return distinct([*claim.gates, *claim.own_gates])


def distinct(gates: Iterable[GateRecord]) -> list[GateRecord]:
    """``gates`` without repeats: refusals first, then warnings, then what passed, each in the order of appearance."""
    unique = {gate.model_dump_json(): gate for gate in gates}
    return sorted(unique.values(), key=lambda gate: (gate.passed, gate.warning and not gate.passed))
