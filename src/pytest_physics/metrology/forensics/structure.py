"""The structure of a document: section numbers used twice, left out, or referred to and absent; sections without text.

Works on Markdown text, or on a list of section numbers and references. Assumes numbered headings ("4.1 Motivation"), with or without
hashes. False alarms: none on documents whose numbering is whole (simulated); a reference is only what follows the word "Section" or "§".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding

STRUCTURE = Check(
    name="document structure",
    needs="the document, or its section numbers and references",
    proves="that section numbers repeat or are missing, or that a reference leads nowhere",
)
HEADING = re.compile(r"^#*\s*((?:\d+|[A-Z])(?:\.\d+)+)\.?\s+\S", re.MULTILINE)
REFERENCE = re.compile(r"(?:Sections?|§)\s*((?:\d+|[A-Z])(?:\.\d+)+)")


def sections_of(text: str) -> list[str]:
    """Section numbers of two or more parts, in order; fenced code is left out."""
    return HEADING.findall(_without_code(text))


def references_of(text: str) -> list[str]:
    """Section numbers referred to."""
    return REFERENCE.findall(_without_code(text))


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def structure(sections: Sequence[str], references: Sequence[str] = ()) -> Finding:
    """Check section numbers and references."""
    twice = [name for name, n in Counter(sections).items() if n > 1]
    known = set(sections) | {name.rpartition(".")[0] for name in sections}
    dangling = sorted(set(references) - known)
    missing = _missing(sections)
    steps = [
        *(f"section {name} occurs {sections.count(name)} times" for name in twice),
        *(f"section {name} is missing between its neighbours" for name in missing),
        *(f"section {name} is referred to and does not exist" for name in dangling),
    ]
    if steps:
        return STRUCTURE.finding(
            Effect.CONTRADICTS,
            f"{len(twice)} section numbers repeat, {len(missing)} are missing, {len(dangling)} references lead nowhere",
            *steps,
        )
    return STRUCTURE.finding(Effect.CONSISTENT, f"{len(sections)} section numbers are whole, {len(references)} references lead somewhere")


def _missing(sections: Sequence[str]) -> list[str]:
    """Numbers left out among siblings."""
    siblings: dict[str, set[int]] = {}
    for name in sections:
        parent, _, last = name.rpartition(".")
        siblings.setdefault(parent, set()).add(int(last))
    return [f"{parent}.{i}" for parent, found in siblings.items() for i in range(1, max(found)) if i not in found]
