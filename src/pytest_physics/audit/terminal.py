"""The claim table of an audit for the terminal: plain lines, the verdict word first."""

from __future__ import annotations

import textwrap

from pytest_physics.audit.judge import ORDER, Audit, Ruling
from pytest_physics.metrology.decision import Verdict
from pytest_physics.report.format import plural, printable

_INDENT = max(len(verdict.value) for verdict in Verdict) + 2
_MIN_WIDTH = 40


def audit_lines(audit: Audit, *, width: int = 80) -> list[str]:
    """Lines of at most ``width`` (at least 40) characters: each claim with verdict, place, reason; then the counts."""
    columns = max(width, _MIN_WIDTH)
    ordered = sorted(audit.rulings, key=lambda ruling: ORDER.index(ruling.verdict))
    lines = [line for ruling in ordered for line in _claim(ruling, columns)]
    return [*lines, *_wrapped(sentence(audit), "", columns)]


def sentence(audit: Audit) -> str:
    """The audit in one sentence: "5 of 12 claims are refuted; 4 invalid, 3 validated; 17 findings in 21 exhibits"."""
    found = f"{plural(len(audit.accusations), 'finding')} in {plural(len(audit.examined), 'exhibit')}"
    if not audit.rulings:
        return f"No claim was judged; {found}."
    words = [(sum(r.verdict is v for r in audit.rulings), v.value.lower().replace("_", " ")) for v in ORDER]
    (n, word), *rest = [(n, word) for n, word in words if n]
    verb = "is" if n == 1 else "are"
    more = f"; {', '.join(f'{m} {w}' for m, w in rest)}" if rest else ""
    return f"{n} of {plural(len(audit.rulings), 'claim')} {verb} {word}{more}; {found}."


def _claim(ruling: Ruling, columns: int) -> list[str]:
    head = f"{ruling.verdict.value.replace('_', ' '):<{_INDENT}}"
    indent = " " * _INDENT
    claim = ruling.claim
    stated = f"; stated: {claim.stated}" if claim.stated else ""
    lines = _wrapped(f"{claim.statement} [{claim.id}{', ' + claim.where if claim.where else ''}{stated}]", head, columns)
    if ruling.verdict is not Verdict.VALIDATED:
        lines += _wrapped(ruling.reason, indent, columns)
    return lines


def _wrapped(text: str, first: str, columns: int) -> list[str]:
    clean = printable(text, 2000)
    return textwrap.wrap(clean, columns, initial_indent=first, subsequent_indent=" " * len(first)) or [first.rstrip()]
