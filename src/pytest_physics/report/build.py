"""Build ``report.html`` of a run from its directory alone: one self-contained file.

The page needs no network, no JavaScript and no other file; it prints; it follows the reader's colour scheme. The same run directory
gives the same bytes. Records that cannot be read raise :class:`~pytest_physics.errors.RecordError`; a trace that cannot be read costs
its figures only.
"""

from __future__ import annotations

import hashlib
import math
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import RecordError
from pytest_physics.metrology.decision import Verdict
from pytest_physics.record.page import sealed
from pytest_physics.record.reader import MANIFEST, REPORT, RunReader
from pytest_physics.record.schema import ClaimRecord, InstrumentRecord
from pytest_physics.record.writer import digests
from pytest_physics.report import format as fmt
from pytest_physics.report.caveats import caveats, scale_sentence
from pytest_physics.report.figures import interval_glyph
from pytest_physics.report.rows import (
    BudgetRow,
    EstimateCell,
    GateRow,
    LimitCell,
    budget_rows,
    claim_scale,
    estimate_cell,
    gate_row,
    gate_rows,
    limit_cell,
    recipe_text,
    short_reason,
)
from pytest_physics.report.sections import readable_traces, sections
from pytest_physics.report.summary import (
    GLYPHS,
    all_gates,
    claim_gates,
    correction_sentence,
    coverage,
    is_complete,
    last_attempts,
    overall,
    sentence,
    state_words,
    verdict_counts,
)

MAX_GATES = 300
"""Gates listed one by one beside those that refused or warned."""

_FAVICON_COLOURS = {
    Verdict.REFUTED: "#b3261e",
    Verdict.INVALID: "#7b3fa0",
    Verdict.INCONCLUSIVE: "#8a5a00",
    Verdict.VALIDATED: "#1a7340",
    Verdict.NOT_TESTED: "#5a626b",
}
_ORIGINS = {
    "prior": "Not identified: typical values with wide uncertainties.",
    "preset": "Preset of the simulated device: the values it was built with.",
    "identified": "Identified from a random load, by this run or an earlier one on the same device.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimView:
    """A claim with everything its row and its details show."""

    record: ClaimRecord
    anchor: str
    css: str
    glyph: str
    estimate: EstimateCell | None
    limit: LimitCell
    interval: Markup
    gates: Sequence[GateRow]
    budget: Sequence[BudgetRow]
    recipe: str
    evidence: Sequence[tuple[str, str]]
    """Text and address; the address is empty for what is not a file of this run."""
    attempts: Sequence[ClaimRecord]
    """Every attempt, first to last."""
    place: str
    """Which of several comparisons of one statement this is; empty where there is one."""


def build_report(run_dir: Path) -> Path:
    """Write ``report.html`` into ``run_dir`` in one step, and return its path."""
    path = run_dir / REPORT
    page = render(RunReader(run_dir))
    aside = run_dir / f".{REPORT}.new"
    try:
        aside.write_text(page, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}; free space, or make the directory writable, and build again.") from error
    return path


def render(reader: RunReader) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=fmt.count, percent=fmt.percent, quantity=fmt.quantity, plural=fmt.plural, short=short_reason, svg=Markup
    )
    page = environment.get_template("report.html.j2").render(context(reader))
    page = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", page)  # control characters are not HTML
    return sealed(page.encode(errors="replace").decode())


def context(reader: RunReader) -> dict[str, Any]:
    """Everything the template needs."""
    run, claims = reader.run, last_attempts(reader.claims)
    verdict = overall(claims)
    return {
        "run": run, "complete": is_complete(run), "verdict": verdict.value, "sentence": sentence(claims), "css": _css(verdict),
        "state_words": state_words(run), "counts": [(v.value, _css(v), GLYPHS[v], n) for v, n in verdict_counts(claims).items()],
        "favicon": _favicon(verdict), "devices": [_device(i) for i in run.instruments.values()], "durations": _durations(reader),
        "commit": _commit(run.git), "claims": [_claim_view(reader, claim) for claim in claims],
        "correction": correction_sentence(claims, _correction(run.config)),
        "coverage": coverage(reader.results).sentence, **_gate_context(reader),
        "sections": sections(reader), "sensors": [(s, s.sensor, _ORIGINS[s.sensor.origin]) for s in reader.sensors],
        "scale_sentences": [scale_sentence(s) for s in {s.instrument: s for s in reader.sensors}.values()],
        "caveats": caveats(reader, claims),
        "instruments": list(run.instruments.values()), "config": list(_flat(run.config)), "statistics": _statistics(run.instruments),
        "phases": _phases(reader), "artifacts": _artifacts(reader.path), "manifest": MANIFEST if run.state != "running" else "",
        "data": _data(reader, claims), "built_with": built_with(),
    }  # fmt: skip


@cache
def built_with() -> str:
    """What a page's bytes depend on besides the run: our own sources, and the libraries that compute and draw."""
    sources = hashlib.sha256()
    root = Path(__file__).parents[1]
    for file in sorted(path for suffix in ("py", "j2", "css", "js") for path in root.rglob(f"*.{suffix}")):
        sources.update(f"{file.relative_to(root)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "scipy", "matplotlib", "jinja2"))
    return (
        f"pytest-physics {metadata.version('pytest-physics')} ({sources.hexdigest()[:16]}), {libraries}, Python {platform.python_version()}"
    )


def _correction(config: Mapping[str, Any]) -> str:
    """The setting ``claims.correction``; runs from before there was one judged each claim by itself."""
    found = config.get("claims")
    return str(found.get("correction", "none")) if isinstance(found, Mapping) else "none"


# --- claims and gates ---------------------------------------------------------------------------------------------------------


def _claim_view(reader: RunReader, claim: ClaimRecord) -> ClaimView:
    estimate = claim.estimate
    glyph = ""
    if estimate is not None and claim.operator is not None and claim.limit is not None:
        glyph = interval_glyph(estimate, claim.operator, claim.limit, claim.truth)
    return ClaimView(
        record=claim,
        anchor=f"claim-{fmt.slug(claim.id)}",
        css=_css(claim.verdict),
        glyph=GLYPHS[claim.verdict],
        estimate=estimate_cell(estimate, claim.truth, claim_scale(claim)) if estimate else None,
        limit=limit_cell(claim),
        interval=Markup(glyph),  # noqa: S704 -- it holds nothing but numbers
        gates=gate_rows(claim_gates(claim)),
        budget=budget_rows(estimate) if estimate else [],
        recipe=recipe_text(claim.recipe),
        evidence=[(text, _link(reader.path, text)) for text in claim.evidence],
        attempts=sorted((c for c in reader.claims if c.id == claim.id), key=lambda c: c.attempt),
        place=_place(claim, reader.claims),
    )


def _place(claim: ClaimRecord, claims: Sequence[ClaimRecord]) -> str:
    """Which of the comparisons of one claim this is; their ids are ``id``, ``id#2`` and so on."""
    name = claim.id.partition("#")[0]
    ids = list(dict.fromkeys(other.id for other in claims if other.id.partition("#")[0] == name))
    return f"comparison {ids.index(claim.id) + 1} of {len(ids)}" if len(ids) > 1 else ""


def _gate_context(reader: RunReader) -> dict[str, Any]:
    """Every distinct gate of the run: what refused or warned, then the others one by one, with their counts."""
    gates = all_gates(reader)
    bad = [gate for gate in gates if not gate.passed]
    refused = [gate for gate in bad if not gate.warning]
    of_claims = {gate.model_dump_json() for claim in last_attempts(reader.claims) for gate in claim_gates(claim)}
    listed = gate_rows(bad)
    # warnings that share a row above are listed one by one below, with what passed
    rest = [gate for gate in gates if gate.passed or (gate.warning and gate_row(gate) not in listed)]
    return {
        "gates_bad": listed,
        "gates_listed": [gate_row(gate) for gate in rest[:MAX_GATES]],
        "n_gates": len(gates),
        "n_gates_passed": len(gates) - len(bad),
        "n_gates_warned": len(bad) - len(refused),
        "n_gates_beside": sum(gate.model_dump_json() not in of_claims for gate in refused),
        "n_gates_listed": len(rest),
    }


def _css(verdict: Verdict) -> str:
    return verdict.value.lower().replace("_", "-")


def _link(run_dir: Path, text: str) -> str:
    """Relative address of a file of this run, with its fragment; empty for anything else."""
    name, _, fragment = text.partition("#")
    inside = name and not name.startswith("/") and ".." not in Path(name).parts and (run_dir / name).is_file()
    if not inside:
        return ""
    return f"./{quote(name)}" + (f"#{quote(fragment, safe='/=,&')}" if fragment else "")


# --- facts about the run ------------------------------------------------------------------------------------------------------


def _device(instrument: InstrumentRecord) -> str:
    simulated = " (simulated)" if any(c.provenance == "simulated" for c in instrument.channels) else ""
    return f"{instrument.name}: {instrument.fingerprint.name}{simulated}"


def _durations(reader: RunReader) -> list[str]:
    """How long each instrument was sampled, on its own clock; from the trace where the end was not recorded."""
    traces, _ = readable_traces(reader)
    out = []
    for name, instrument in reader.run.instruments.items():
        end_ns, at_least = instrument.ended.t_ns if instrument.ended else None, ""
        if end_ns is None and name in traces and len(traces[name]):
            end_ns, at_least = int(traces[name].t_ns[-1]), "at least "
        if end_ns is not None:
            out.append(f"{name}: {at_least}{fmt.duration((end_ns - instrument.started.t_ns) / NS_PER_S)} (clock: {instrument.clock})")
    return out


def _commit(git: Mapping[str, str]) -> str:
    if not git.get("commit"):
        return "not in a git repository"
    dirty = git.get("dirty", "").lower() in {"yes", "true", "1", "dirty"}
    return git["commit"][:12] + (" with uncommitted changes" if dirty else "")


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted keys."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _setting(value)


def _setting(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping | list) and not value:
        return "empty"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _statistics(instruments: Mapping[str, InstrumentRecord]) -> list[tuple[str, list[str]]]:
    """Sampler statistics, one row per figure and one column per instrument; histograms are drawn elsewhere."""
    columns = [{key: _statistic(key, value) for key, value in _numbers(i.statistics)} for i in instruments.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    return [(_words(name), [column.get(name, fmt.ABSENT) for column in columns]) for name in names]


def _numbers(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif not isinstance(value, list | tuple):
            yield f"{prefix}{key}", value


def _statistic(key: str, value: object) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return fmt.ABSENT if value is None else str(value)
    if key.endswith("_s"):
        return fmt.duration(float(value))
    return fmt.count(value) if isinstance(value, int) else fmt.number(value)


def _words(key: str) -> str:
    return re.sub(r"_s$", "", key).replace("_", " ").replace(".", ", ")


def _phases(reader: RunReader) -> list[dict[str, Any]]:
    windows = [(w.instrument, w.t0_ns) for w in reader.windows]
    out = []
    for phase in reader.run.phases:
        instrument = reader.run.instruments.get(phase.instrument)
        start_ns = instrument.started.t_ns if instrument else 0
        inside = sum(name == phase.instrument and phase.t0_ns <= t0 and (phase.t1_ns is None or t0 < phase.t1_ns) for name, t0 in windows)
        ended = phase.t1_ns is not None
        length_s = ((phase.t1_ns or 0) - phase.t0_ns) / NS_PER_S
        out.append({
            "name": phase.name, "instrument": phase.instrument, "start": fmt.duration((phase.t0_ns - start_ns) / NS_PER_S),
            "length": fmt.duration(length_s) if ended else "not ended", "windows": fmt.count(inside),
        })  # fmt: skip
    return out


def _artifacts(run_dir: Path) -> list[tuple[str, str, str, str]]:
    """Name, address, size and SHA-256 of every file beside the report."""
    found = digests(run_dir)
    return [
        (name, f"./{quote(name)}", fmt.size((run_dir / name).stat().st_size), digest) for name, digest in found.items() if name != REPORT
    ]


def _data(reader: RunReader, claims: Sequence[ClaimRecord]) -> dict[str, Any]:
    """The machine-readable part of the page: what is in its claim table."""
    run = reader.run
    data = {
        "schema_version": run.schema_version, "run_id": run.run_id, "state": run.state, "profile": run.profile,
        "config_sha256": run.config_sha256, "verdict": overall(claims).value,
        "verdict_counts": {verdict.value: n for verdict, n in verdict_counts(claims).items()},
        "claims": [claim.model_dump(mode="json", exclude={"recipe", "gates", "own_gates"}) | _failed(claim) for claim in claims],
    }  # fmt: skip
    return {key: _finite(value) for key, value in data.items()}


def _failed(claim: ClaimRecord) -> dict[str, Any]:
    return {"gates_failed": [gate.model_dump(mode="json") for gate in claim_gates(claim) if not gate.passed]}


def _finite(value: object) -> object:
    """JSON has no NaN: whatever is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _favicon(verdict: Verdict) -> str:
    """A disc in the verdict's colour."""
    disc = f'<circle cx="8" cy="8" r="7" fill="{_FAVICON_COLOURS[verdict]}"/>'
    image = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{disc}</svg>'
    return f"data:image/svg+xml,{quote(image, safe='')}"
