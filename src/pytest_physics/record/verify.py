"""Verify a run: recompute every number and every verdict from the raw artifacts, and compare.

Two independent checks. The manifest finds any changed byte. The recomputation finds a changed value even where the manifest was made
anew, because results, claims, baselines, statistics and verdicts must follow from trace, windows and settings by the same code that
computed them in the run.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pytest_physics.claims import PREREQUISITE, prerequisite_gate
from pytest_physics.errors import PhysicsError, RecordError
from pytest_physics.metrology.decision import Verdict, all_gates, condensed, decide
from pytest_physics.metrology.uncertainty import Comparison, Gate, Recipe
from pytest_physics.record import consistency, job, memory_checks, page, reader
from pytest_physics.record.correction import correction_of
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.finding import Finding, Items, differences
from pytest_physics.record.leaves.baseline import baseline_record
from pytest_physics.record.packed import unpacked
from pytest_physics.record.recipes import SENSED, evaluate, evidence, gates_of, labels_behind, true_value
from pytest_physics.record.schema import (
    ENDED_UNSAID,
    ClaimRecord,
    EstimateRecord,
    GateRecord,
    ResultRecord,
    decision_fields,
    finite_or_none,
)
from pytest_physics.record.step_marks import step_marks
from pytest_physics.record.writer import digests, manifest_digests

EMBEDDED = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


MISSING = "is listed in the manifest and missing"
HEADLINE = (Verdict.REFUTED, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.VALIDATED, Verdict.NOT_TESTED)
"""Which verdict a report leads with: the first that any claim has."""
JUDGED = (
    "operator", "limit", "margin", "guard_band", "conformance", "estimate", "gates", "recipe", "own_gates", "requirements", "truth",
    "evidence",
)  # fmt: skip
"""Fields of a claim that only judging fills."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Outcome of :func:`verify_run`."""

    checked: dict[str, int]
    """How many items of each kind were checked."""
    findings: tuple[Finding, ...]
    incomplete: str = ""
    """What is readable of a run that did not complete, and why it did not; empty for a completed run."""

    @property
    def passed(self) -> bool:
        """Whether the run is complete and nothing was found."""
        return not self.findings and not self.incomplete


def verify_run(path: Path, *, render: page.Render | None = None) -> Verification:
    """Check the run directory at ``path``, packed or not; raises ``RecordError`` only where its ``run.json`` cannot be read.

    With ``render`` the report is built again and every byte compared, where the same versions built it; without, its own digest speaks.
    """
    with unpacked(path) as whole:
        return _verified(RecordedRun(whole), render)


def _verified(run: RecordedRun, render: page.Render | None) -> Verification:
    incomplete = _incomplete(run)
    checked: dict[str, int] = {}
    findings: list[Finding] = []
    checks: dict[str, Callable[[RecordedRun], Items]] = {**CHECKS, "page": partial(_page, render=render)}
    for name, check in checks.items():
        count = 0
        try:
            for problem in check(run):
                if problem is None:
                    count += 1
                else:
                    findings.append(problem)
        except PhysicsError as error:
            if not any(finding.problem == str(error) for finding in findings):  # several checks read one file
                findings.append(Finding(where=name, problem=str(error)))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # edited values break arithmetic anywhere
            findings.append(Finding(where=name, problem=f"cannot be recomputed: {type(error).__name__}: {error}"))
        checked[name] = count
    return Verification(checked=checked, findings=tuple(findings), incomplete=incomplete)


def _incomplete(run: RecordedRun) -> str:
    record = run.reader.run
    if record.state == "completed":
        return ""
    why = ENDED_UNSAID if record.state == "running" else record.end_reason
    parts = [f"{_count(partial(run.trace, name))} samples of '{name}'" for name in record.instruments]
    parts += [f"{_count(partial(getattr, run.reader, kind))} {kind}" for kind in ("windows", "baselines", "results", "claims")]
    return f"{why.rstrip('.')}. Readable: {', '.join(parts)}"


def _count(read: Callable[[], Sized]) -> int:
    try:
        return len(read())
    except RecordError:
        return 0


def _manifest(run: RecordedRun) -> Items:
    path = run.reader.path / reader.MANIFEST
    if not path.is_file():
        if run.reader.run.state == "completed":
            yield Finding(where=reader.MANIFEST, problem="is missing although the run completed")
        return
    listed, present = manifest_digests(run.reader.path), digests(run.reader.path)
    for name in sorted(listed.keys() | present.keys()):
        if name not in present:
            yield Finding(where=name, problem=MISSING)
        elif name not in listed:
            yield Finding(where=name, problem="is not listed in the manifest")
        elif listed[name] != present[name]:
            yield Finding(where=name, problem=f"has SHA-256 {present[name][:12]}…, the manifest says {listed[name][:12]}…")
        yield None


def _baselines(run: RecordedRun) -> Items:
    for record in run.reader.baselines:
        found = baseline_record(run, run.phase(record.phase), baseline_id=record.id, sensor_id=record.sensor)
        yield from differences(f"baseline.json: {record.id}", record.model_dump(mode="json"), found.model_dump(mode="json"))
        yield None


def _results(run: RecordedRun) -> Items:
    yield from _one_version_of_rules(run)
    for number, record in enumerate(run.reader.results, start=1):
        yield from differences(f"results.jsonl: {record.id}.id", record.id, f"r{number}")
        yield from _recomputed_result(run, record)
        yield from _coordinates(run, record)
        yield None


def _one_version_of_rules(run: RecordedRun) -> Iterator[Finding]:
    """One version computes all energies of a run: a recipe edited to name older rules asks for fewer gates."""
    parts = [part for record in run.reader.results for part in Recipe.from_json(record.recipe).leaves() if part.op in SENSED]
    versions = sorted({str(part.parameters.get("rules", 1)) for part in parts})
    if len(versions) > 1:
        yield Finding(
            where="results.jsonl", problem=f"names energies by different rules ({', '.join(versions)}); one version wrote them all"
        )


def _coordinates(run: RecordedRun, record: ResultRecord) -> Iterator[Finding]:
    for key, label in labels_behind(Recipe.from_json(record.recipe), run).items():
        yield from differences(f"results.jsonl: {record.id}.coordinates.{key}", record.coordinates.get(key, label), label)


def _recomputed_result(run: RecordedRun, record: ResultRecord) -> Iterator[Finding]:
    where = f"results.jsonl: {record.id}"
    recipe = Recipe.from_json(record.recipe)
    estimate = evaluate(recipe, run)
    recorded = record.estimate.model_dump(mode="json")
    yield from differences(f"{where}.estimate", recorded, EstimateRecord.of(estimate).model_dump(mode="json"))
    gates = [GateRecord.of(gate).model_dump(mode="json") for gate in condensed(estimate.gates)]
    yield from differences(f"{where}.gates", [gate.model_dump(mode="json") for gate in record.gates], gates)
    yield from differences(f"{where}.truth", record.truth, finite_or_none(true_value(recipe, run)))


def _claims(run: RecordedRun) -> Items:
    attempts: dict[str, int] = {}
    judged: dict[str, Verdict] = {}
    for record in run.reader.judged:
        where = f"claims.jsonl: {record.id}"
        if record.correction is not None:
            yield Finding(where=where, problem="carries a correction, which stands in correction.json")
        attempts[record.id] = attempts.get(record.id, 0) + 1
        if record.attempt != attempts[record.id]:
            yield Finding(where=where, problem=f"is attempt {record.attempt}, but the {attempts[record.id]}. on record")
        if record.recipe is not None:
            yield from _recomputed_claim(run, record, where)
        else:
            yield from _unjudged(record, where)
        yield from _prerequisites(record, judged, where)
        judged[record.id] = record.verdict
        yield None


def _correction(run: RecordedRun) -> Items:
    """All claims judged together: the verdicts that stand follow from the claims, and are there exactly where the settings ask for them."""
    where, found = reader.CORRECTION, run.reader.correction
    if found is None and run.reader.run.state != "completed":
        return
    expected = correction_of(run.reader.judged, run.settings)
    if (found is None) != (expected is None):
        asked = f"'claims.correction' is '{run.settings.claims.correction}'"
        yield Finding(where=where, problem=f"{'is missing' if found is None else 'is there'} although {asked}")
        return
    if found is not None and expected is not None:
        yield from differences(where, found.model_dump(mode="json"), expected.model_dump(mode="json"))
        yield None


def _unjudged(record: ClaimRecord, where: str) -> Iterator[Finding]:
    """A claim that was never judged carries a reason and no number."""
    if record.verdict not in {Verdict.NOT_TESTED, Verdict.INVALID}:
        yield Finding(where=where, problem=f"is {record.verdict.value} without a recipe")
    numbers = record.model_dump(mode="json", include=set(JUDGED))
    yield from differences(where, numbers, {key: [] if isinstance(value, list) else None for key, value in numbers.items()})


def _recomputed_claim(run: RecordedRun, record: ClaimRecord, where: str) -> Iterator[Finding]:
    recipe = Recipe.from_json(record.recipe or {})
    estimate = evaluate(recipe, run)
    recorded = record.estimate.model_dump(mode="json") if record.estimate else None
    yield from differences(f"{where}.estimate", recorded, EstimateRecord.of(estimate).model_dump(mode="json"))
    if record.operator is None or record.limit is None:
        yield Finding(where=where, problem=f"has no comparison (operator {record.operator!r}, limit {record.limit!r})")
        return
    comparison = Comparison(estimate=estimate, operator=record.operator, limit=record.limit)
    required = (gate for item in record.requirements for gate in gates_of(Recipe.from_json(item), run))
    gates = (*(Gate(**gate.model_dump()) for gate in record.own_gates), *required)
    expected: dict[str, Any] = {
        **decision_fields(decide(comparison, gates)),
        "gates": [GateRecord.of(gate).model_dump(mode="json") for gate in all_gates(comparison, gates)],
        "truth": finite_or_none(true_value(recipe, run)),
        "evidence": list(evidence(recipe)),
    }
    shown = record.model_dump(mode="json")
    for key, value in expected.items():
        yield from differences(f"{where}.{key}", shown[key], value.value if isinstance(value, Verdict) else value)


def _prerequisites(record: ClaimRecord, judged: dict[str, Verdict], where: str) -> Iterator[Finding]:
    """Each required claim, with all its comparisons, has its gate; the gate says what was judged before."""
    gates = [gate for gate in record.own_gates if gate.name == PREREQUISITE]
    for gate in gates:
        expected = GateRecord.of(prerequisite_gate(gate.scope, judged.get(gate.scope)))
        yield from differences(f"{where}.own_gates", gate.model_dump(mode="json"), expected.model_dump(mode="json"))
    if record.recipe is not None:
        needed = [name for claim in record.requires for name in (claim, *(n for n in judged if n.rpartition("#")[0] == claim))]
        yield from differences(f"{where}.requires", needed, [gate.scope for gate in gates])


def _report(run: RecordedRun) -> Items:
    path = run.reader.path / reader.REPORT
    if not path.is_file():  # a run that nobody published has none; one that was taken away is missed by the manifest
        return
    text = page.read(path)
    yield from _built_from(run, text)
    found = EMBEDDED.search(text)
    if not found:
        yield Finding(where=reader.REPORT, problem="carries no machine-readable data")
        return
    try:
        embedded = json.loads(found.group(1))
    except ValueError as error:
        raise RecordError(f"{path}: its data are not JSON ({error})") from error
    yield from _embedded_header(run, embedded)
    shown = {(claim.get("id"), claim.get("attempt")): claim for claim in embedded.get("claims", ())}
    last = {claim.id: claim for claim in run.reader.claims}
    recorded = {(claim.id, claim.attempt): _shown_part(claim) for claim in last.values()}
    for missing in recorded.keys() ^ shown.keys():
        yield Finding(where=reader.REPORT, problem=f"shows other claims than claims.jsonl: {missing[0]}, attempt {missing[1]}")
    for key in recorded.keys() & shown.keys():
        yield from differences(f"report.html: {key[0]}", shown[key], recorded[key])
        yield None


def _page(run: RecordedRun, *, render: page.Render | None) -> Items:
    """Text, figures and tables of the report."""
    path = run.reader.path / reader.REPORT
    if path.is_file():
        text = page.read(path)
        yield from page.edits(text)
        if render is not None:
            yield from page.rebuilt(run.reader, text, render)
        yield None


def _embedded_header(run: RecordedRun, embedded: dict[str, Any]) -> Iterator[Finding]:
    """The report's summary of the run, and the digests it names of the artifacts it was built from."""
    record = run.reader.run
    last = {claim.id: claim for claim in run.reader.claims}
    counted = Counter(claim.verdict for claim in last.values())
    expected = {
        **record.model_dump(mode="json", include={"schema_version", "run_id", "state", "profile", "config_sha256"}),
        "verdict": next((verdict for verdict in HEADLINE if counted[verdict]), Verdict.NOT_TESTED).value,
        "verdict_counts": {verdict.value: counted[verdict] for verdict in Verdict},
    }
    yield from differences(reader.REPORT, {key: value for key, value in embedded.items() if key in expected}, expected)


def _built_from(run: RecordedRun, page: str) -> Iterator[Finding]:
    """The report names the SHA-256 of every artifact beside it."""
    for name, digest in digests(run.reader.path).items():
        if name != reader.REPORT and digest not in page:
            yield Finding(where=name, problem=f"has SHA-256 {digest[:12]}…, which {reader.REPORT} does not name: one of them was changed")


def _shown_part(claim: ClaimRecord) -> dict[str, Any]:
    """What the report's data hold of a claim: all but its recipe, and of its gates those that failed."""
    failed = {gate.model_dump_json(): gate.model_dump(mode="json") for gate in [*claim.gates, *claim.own_gates] if not gate.passed}
    gates = sorted(failed.values(), key=lambda gate: bool(gate["warning"]))
    return claim.model_dump(mode="json", exclude={"recipe", "gates", "own_gates"}) | {"gates_failed": gates}


CHECKS = {
    "files": _manifest,
    "header": consistency.header,
    "samplers": consistency.instruments,
    "sensors": consistency.sensors,
    "phases": consistency.phases,
    "windows": consistency.windows,
    "baselines": _baselines,
    "memory": memory_checks.memory,
    "tables": consistency.tables,
    "marks": step_marks,
    "results": _results,
    "claims": _claims,
    "job": job.required,
    "correction": _correction,
    "report": _report,
}
"""Name of each check, in order."""
