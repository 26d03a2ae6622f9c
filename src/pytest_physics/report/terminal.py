"""The claim table for the terminal: the same words and the same rounding as the page, in plain lines.

Pure: it returns lines, and whoever prints them may colour the verdict word at their start.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence

from pytest_physics.metrology.decision import Verdict
from pytest_physics.record.schema import ClaimRecord, ResultRecord
from pytest_physics.report.format import limit, printable, quantity
from pytest_physics.report.rows import claim_scale, short_reason
from pytest_physics.report.summary import correction_sentence, coverage, last_attempts, sentence

_INDENT = max(len(verdict.value) for verdict in Verdict) + 2
_MIN_WIDTH = 40


def claim_lines(
    claims: Sequence[ClaimRecord], *, results: Sequence[ResultRecord] = (), width: int = 80, correction: str = "none"
) -> list[str]:
    """Lines of at most ``width`` (at least 40) characters: each claim with its numbers, then the counts, then how often the truth was hit.

    Each claim begins with its verdict word and statement; below stand estimate ± U, operator and limit, ``sim`` where it rests on a
    simulated device, and the claim's id in brackets; what is not VALIDATED says why.
    """
    columns = max(width, _MIN_WIDTH)
    counted = last_attempts(claims)
    comparisons = Counter(_without_number(claim) for claim in counted)
    lines = [line for claim in counted for line in _one_claim(claim, columns, comparisons[_without_number(claim)])]
    lines += _wrapped(sentence(counted), "", columns)
    if correction != "none":
        lines += _wrapped(f"Correction: {correction_sentence(counted, correction)}", "", columns)
    found = coverage(results)
    return [*lines, *_wrapped(f"{found.sentence} of the simulated device.", "", columns)] if found.known else lines


def _without_number(claim: ClaimRecord) -> str:
    """The id that all comparisons of one claim share: ``x`` of ``x``, ``x#2``, ``x#3``."""
    return claim.id.partition("#")[0]


def _one_claim(claim: ClaimRecord, columns: int, comparisons: int) -> list[str]:
    head = f"{claim.verdict.value.replace('_', ' '):<{_INDENT}}"
    which = f" ({claim.id.partition('#')[2] or 1} of {comparisons})" if comparisons > 1 else ""
    lines = _wrapped(claim.statement + which, head, columns)
    lines += _wrapped(
        "  ".join(part for part in (_numbers(claim), "sim" if claim.simulated else "", f"[{claim.id}]") if part), " " * _INDENT, columns
    )
    if claim.attempt > 1:
        lines += _wrapped(f"attempt {claim.attempt}", " " * _INDENT, columns)
    if claim.verdict is not Verdict.VALIDATED:
        lines += _wrapped(short_reason(claim.reason), " " * _INDENT, columns)
    return lines


def _numbers(claim: ClaimRecord) -> str:
    if claim.estimate is None:
        return ""
    scale = claim_scale(claim)
    shown = quantity(claim.estimate.value, claim.estimate.expanded, claim.estimate.unit, scale)
    return f"{shown} {limit(claim.operator, claim.limit, claim.estimate.unit, scale)}" if claim.operator else str(shown)


def _wrapped(text: str, first: str, columns: int) -> list[str]:
    """``text`` after ``first``, further lines under it."""
    clean = printable(text, 2000)
    indent = " " * len(first)
    return textwrap.wrap(clean, columns, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False) or [first.rstrip()]
