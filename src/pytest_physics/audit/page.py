"""An audit as one self-contained HTML page, in the look of the run report: verdicts first, then every exhibit with its arithmetic.

No network, no script, no other file; the same audit gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pytest_physics.audit.judge import ORDER, Audit, Examined, Ground, Ruling
from pytest_physics.audit.machine import as_json
from pytest_physics.audit.terminal import sentence
from pytest_physics.metrology.decision import Verdict
from pytest_physics.metrology.forensics.catalogue import CATALOGUE
from pytest_physics.metrology.forensics.finding import Effect, Finding
from pytest_physics.report import build as run_report
from pytest_physics.report.format import plural
from pytest_physics.report.summary import GLYPHS

EFFECT_STYLES = {
    Effect.CONTRADICTS: ("refuted", "✗"),
    Effect.INVALIDATES: ("invalid", "⊘"),
    Effect.UNDECIDED: ("inconclusive", "≈"),
    Effect.CONFIRMS: ("validated", "✓"),
    Effect.CONSISTENT: ("not-tested", "○"),
    Effect.LACKS: ("not-tested", "?"),
}
"""Colour class and sign of each effect; the word always stands beside them."""
MAX_GROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingView:
    """A finding as it is shown."""

    finding: Finding
    css: str
    glyph: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExhibitView:
    """An exhibit as it is shown."""

    part: Examined
    title: str
    css: str
    glyph: str
    word: str
    findings: Sequence[FindingView]
    claims: Sequence[str]
    """Ids of the claims that name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RulingView:
    """A claim as it is shown."""

    ruling: Ruling
    css: str
    glyph: str
    grounds: Sequence[Ground]
    """The first few."""
    more: int
    """How many are left out here; their exhibits list them."""
    exhibits: Sequence[str]
    """Ids of the exhibits behind the verdict, linked."""


def render(audit: Audit) -> str:
    """The page as text."""
    folders = [Path(__file__).parent / "templates", Path(run_report.__file__).parent / "templates"]
    environment = Environment(
        loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plural"] = plural
    page = environment.get_template("audit.html.j2").render(context(audit))
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", page)  # control characters are not HTML


def context(audit: Audit) -> dict[str, Any]:
    """Everything the template needs."""
    ordered = sorted(audit.rulings, key=lambda ruling: ORDER.index(ruling.verdict))
    worst = ordered[0].verdict if ordered else Verdict.NOT_TESTED
    used = {finding.check for part in audit.examined for finding in part.findings}
    used |= {ground.finding.check for ruling in audit.rulings for ground in ruling.grounds}
    return {
        "audit": audit,
        "sentence": sentence(audit),
        "verdict": worst.value,
        "css": _css(worst),
        "counts": [(v.value, _css(v), GLYPHS[v], sum(r.verdict is v for r in audit.rulings)) for v in ORDER],
        "claims": [_ruling_view(ruling, audit.examined) for ruling in ordered],
        "exhibits": [_exhibit_view(part, audit.rulings) for part in audit.examined],
        "checks": [check for name, check in CATALOGUE.items() if name in used],
        "data": as_json(audit),
    }


def _css(verdict: Verdict) -> str:
    return verdict.value.lower().replace("_", "-")


def _ruling_view(ruling: Ruling, examined: Sequence[Examined]) -> RulingView:
    known = {part.id for part in examined}
    return RulingView(
        ruling=ruling,
        css=_css(ruling.verdict),
        glyph=GLYPHS[ruling.verdict],
        grounds=ruling.grounds[:MAX_GROUNDS],
        more=max(0, len(ruling.grounds) - MAX_GROUNDS),
        exhibits=list(dict.fromkeys(ground.id for ground in ruling.grounds if ground.id in known)),
    )


def _exhibit_view(part: Examined, rulings: Sequence[Ruling]) -> ExhibitView:
    worst = part.worst
    css, glyph = EFFECT_STYLES[worst.effect] if worst else ("not-tested", "○")
    return ExhibitView(
        part=part,
        title=part.exhibit.title or part.id,
        css=css,
        glyph=glyph,
        word=worst.effect.value if worst else "no check applies",
        findings=[FindingView(finding=f, css=EFFECT_STYLES[f.effect][0], glyph=EFFECT_STYLES[f.effect][1]) for f in part.findings],
        claims=[r.claim.id for r in rulings if part.id in (*r.claim.asserts, *r.claim.rests_on)],
    )
