"""Verify a run: recompute every number and every verdict from the raw artifacts, and compare.

Two independent checks. The manifest finds any changed byte. The recomputation finds a changed value even where the manifest was made
anew, because results, claims, baselines, statistics and verdicts must follow from trace, windows and settings by the same code that
computed them in the run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_physics.errors import PhysicsError, RecordError
from pytest_physics.metrology.decision import Verdict, all_gates, condensed, decide
from pytest_physics.metrology.uncertainty import Comparison, Gate, Recipe
from pytest_physics.record import reader
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.recipes import baseline_record, evaluate, evidence, gates_of, true_value
from pytest_physics.record.schema import (
    ClaimRecord,
    EstimateRecord,
    GateRecord,
    ResultRecord,
    decision_fields,
    finite_or_none,
    numbers_or_none,
)
from pytest_physics.record.writer import digests
from pytest_physics.sampling.statistics import sampler_statistics

RELATIVE_TOLERANCE = 1e-9
"""Numbers may differ by this much between machines and library versions."""
EMBEDDED = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One difference between what is recorded and what follows from the raw artifacts."""

    where: str
    """File and entry."""
    problem: str
    """Recorded and recomputed value, or what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Outcome of :func:`verify_run`."""

    checked: dict[str, int]
    """How many items of each kind were checked."""
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def verify_run(path: Path) -> Verification:
    """Check the run directory at ``path``; raises ``RecordError`` only where it is no run directory at all."""
    run = RecordedRun(path)
    checked: dict[str, int] = {}
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        count = 0
        try:
            for problem in check(run):
                if problem is None:
                    count += 1
                else:
                    findings.append(problem)
        except PhysicsError as error:
            findings.append(Finding(where=name, problem=str(error)))
        except (ArithmeticError, KeyError, LookupError, TypeError, ValueError) as error:  # edited values break arithmetic anywhere
            findings.append(Finding(where=name, problem=f"cannot be recomputed: {type(error).__name__}: {error}"))
        checked[name] = count
    return Verification(checked=checked, findings=tuple(findings))


Items = Iterator[Finding | None]


def _manifest(run: RecordedRun) -> Items:
    path = run.reader.path / reader.MANIFEST
    if not path.is_file():
        if run.reader.run.state == "completed":
            yield Finding(where=reader.MANIFEST, problem="is missing although the run completed")
        return
    listed: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    present = digests(run.reader.path)
    for name in sorted(listed.keys() | present.keys()):
        if name not in present:
            yield Finding(where=name, problem="is listed in the manifest and missing")
        elif name not in listed:
            yield Finding(where=name, problem="is not listed in the manifest")
        elif listed[name] != present[name]:
            yield Finding(where=name, problem=f"has SHA-256 {present[name][:12]}…, the manifest says {listed[name][:12]}…")
        yield None


def _settings(run: RecordedRun) -> Items:
    recorded = run.reader.run.config_sha256
    computed = run.settings.digest()
    if recorded != computed:
        yield Finding(where="run.json: config_sha256", problem=f"recorded {recorded[:12]}…, settings give {computed[:12]}…")
    if run.reader.run.run_id != run.reader.path.name:
        yield Finding(where="run.json: run_id", problem=f"recorded '{run.reader.run.run_id}', the directory is '{run.reader.path.name}'")
    yield None


def _samplers(run: RecordedRun) -> Items:
    for name, record in run.reader.run.instruments.items():
        trace = run.trace(name)
        if record.ended is not None and record.sampler_state != "failed":
            found = numbers_or_none(asdict(sampler_statistics(trace, record.origin_ns)))
            yield from _differences(f"run.json: instruments.{name}.statistics", record.statistics, found)
        yield None


def _windows(run: RecordedRun) -> Items:
    phases = {phase.id for phase in run.reader.run.phases}
    seen: set[str] = set()
    for window in run.reader.windows:
        where = f"windows.jsonl: {window.id}"
        if window.id in seen:
            yield Finding(where=where, problem="is listed twice")
        if window.t1_ns < window.t0_ns:
            yield Finding(where=where, problem="ends before it begins")
        if window.phase and window.phase not in phases:
            yield Finding(where=where, problem=f"names phase '{window.phase}', which run.json does not have")
        seen.add(window.id)
        yield None


def _baselines(run: RecordedRun) -> Items:
    for record in run.reader.baselines:
        found = baseline_record(run, run.phase(record.phase), baseline_id=record.id, sensor_id=record.sensor)
        yield from _differences(f"baseline.json: {record.id}", record.model_dump(mode="json"), found.model_dump(mode="json"))
        yield None


def _results(run: RecordedRun) -> Items:
    for record in run.reader.results:
        yield from _recomputed_result(run, record)
        yield None


def _recomputed_result(run: RecordedRun, record: ResultRecord) -> Iterator[Finding]:
    where = f"results.jsonl: {record.id}"
    recipe = Recipe.from_json(record.recipe)
    estimate = evaluate(recipe, run)
    recorded = record.estimate.model_dump(mode="json")
    yield from _differences(f"{where}.estimate", recorded, EstimateRecord.of(estimate).model_dump(mode="json"))
    gates = [GateRecord.of(gate).model_dump(mode="json") for gate in condensed(estimate.gates)]
    yield from _differences(f"{where}.gates", [gate.model_dump(mode="json") for gate in record.gates], gates)
    yield from _differences(f"{where}.truth", record.truth, finite_or_none(true_value(recipe, run)))


def _claims(run: RecordedRun) -> Items:
    attempts: dict[str, int] = {}
    judged: dict[str, Verdict] = {}
    for record in run.reader.claims:
        where = f"claims.jsonl: {record.id}"
        attempts[record.id] = attempts.get(record.id, 0) + 1
        if record.attempt != attempts[record.id]:
            yield Finding(where=where, problem=f"is attempt {record.attempt}, but the {attempts[record.id]}. on record")
        if record.recipe is not None:
            yield from _recomputed_claim(run, record, where)
        elif record.verdict not in {Verdict.NOT_TESTED, Verdict.INVALID}:
            yield Finding(where=where, problem=f"is {record.verdict.value} without a recipe")
        yield from _prerequisites(record, judged, where)
        judged[record.id] = record.verdict
        yield None


def _recomputed_claim(run: RecordedRun, record: ClaimRecord, where: str) -> Iterator[Finding]:
    recipe = Recipe.from_json(record.recipe or {})
    estimate = evaluate(recipe, run)
    recorded = record.estimate.model_dump(mode="json") if record.estimate else None
    yield from _differences(f"{where}.estimate", recorded, EstimateRecord.of(estimate).model_dump(mode="json"))
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
        yield from _differences(f"{where}.{key}", shown[key], value.value if isinstance(value, Verdict) else value)


def _prerequisites(record: ClaimRecord, judged: dict[str, Verdict], where: str) -> Iterator[Finding]:
    for gate in record.own_gates:
        if gate.name == "prerequisite claim" and gate.passed != (judged.get(gate.scope) is Verdict.VALIDATED):
            yield Finding(where=where, problem=f"prerequisite '{gate.scope}' is recorded as passed={gate.passed}")


def _report(run: RecordedRun) -> Items:
    path = run.reader.path / reader.REPORT
    if not path.is_file():
        if run.reader.run.state == "completed":
            yield Finding(where=reader.REPORT, problem="is missing although the run completed")
        return
    found = EMBEDDED.search(path.read_text(encoding="utf-8"))
    if not found:
        yield Finding(where=reader.REPORT, problem="carries no machine-readable data")
        return
    try:
        embedded = json.loads(found.group(1))
    except ValueError as error:
        raise RecordError(f"{path}: its data are not JSON ({error})") from error
    shown = {(claim.get("id"), claim.get("attempt")): claim for claim in embedded.get("claims", ())}
    recorded = {(claim.id, claim.attempt): claim.model_dump(mode="json") for claim in run.reader.claims}
    for missing in recorded.keys() ^ shown.keys():
        yield Finding(where=reader.REPORT, problem=f"shows other claims than claims.jsonl: {missing[0]}, attempt {missing[1]}")
    for key in recorded.keys() & shown.keys():
        yield from _shown_as_recorded(f"report.html: {key[0]}", recorded[key], shown[key])
        yield None


def _shown_as_recorded(where: str, recorded: dict[str, Any], shown: dict[str, Any]) -> Iterator[Finding]:
    """The report carries a part of each claim; that part must be the recorded one."""
    for key in recorded.keys() & shown.keys():
        if isinstance(recorded[key], dict) and isinstance(shown[key], dict):
            yield from _shown_as_recorded(f"{where}.{key}", recorded[key], shown[key])
        else:
            yield from _differences(f"{where}.{key}", recorded[key], shown[key])


CHECKS = {
    "files": _manifest,
    "settings": _settings,
    "samplers": _samplers,
    "windows": _windows,
    "baselines": _baselines,
    "results": _results,
    "claims": _claims,
    "report": _report,
}
"""Name of each check, in order."""


def _differences(where: str, recorded: Any, computed: Any) -> Iterator[Finding]:  # noqa: ANN401 -- any JSON value
    """Where two JSON values differ, by path; numbers within the tolerance are equal."""
    if isinstance(recorded, dict) and isinstance(computed, dict):
        for key in recorded.keys() | computed.keys():
            yield from _differences(f"{where}.{key}", recorded.get(key), computed.get(key))
    elif isinstance(recorded, list) and isinstance(computed, list):
        if len(recorded) != len(computed):
            yield Finding(where=where, problem=f"has {len(recorded)} entries, recomputed {len(computed)}")
        for index, pair in enumerate(zip(recorded, computed, strict=False)):
            yield from _differences(f"{where}[{index}]", *pair)
    elif not _same(recorded, computed):
        yield Finding(where=where, problem=f"is {recorded!r}, recomputed {computed!r}")


def _same(recorded: object, computed: object) -> bool:
    if isinstance(recorded, bool) or isinstance(computed, bool):
        return recorded is computed
    if isinstance(recorded, int | float) and isinstance(computed, int | float):
        return math.isclose(recorded, computed, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-12)
    return recorded == computed
