"""What a report page says of itself: which version built it, and the digest of its own text.

The digest makes a single edit of the page visible to everybody, whatever version they have. Who has the version that built it can build
it again, and compare every byte.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_physics.record.finding import Finding
from pytest_physics.record.reader import REPORT, RunReader

SEAL = re.compile(r'(<meta name="sha256-without-this-value" content=")([0-9a-f]*)(">)')
GENERATOR = re.compile(r'<meta name="generator" content="([^"]*)">')

Render = Callable[[RunReader], str]
"""Builds the page of a run."""


def read(path: Path) -> str:
    """A page, every character as it stands in the file."""
    return path.read_bytes().decode(errors="replace")


def sealed(page: str) -> str:
    """The page with its digest in it; the template leaves the place empty."""
    return SEAL.sub(rf"\g<1>{_digest(page)}\g<3>", page, count=1)


def edits(page: str) -> Iterator[Finding]:
    """Whether the page's text is not the one that was built."""
    found = SEAL.search(page)
    if found is None:
        yield Finding(where=REPORT, problem="carries no digest of its own text; build it again with 'pytest-physics report'")
    elif found[2] != _digest(page):
        yield Finding(where=REPORT, problem="was edited: its text has another digest than it says")


def rebuilt(run: RunReader, page: str, render: Render) -> Iterator[Finding]:
    """Whether building the page again gives another one, where the same version can."""
    again = render(run)
    if builder(again) == builder(page) and again != page:
        at = next((i for i, (one, other) in enumerate(zip(again, page, strict=False)) if one != other), min(len(again), len(page)))
        yield Finding(
            where=REPORT, problem=f"shows {_around(page, at)!r} where the page built from the artifacts shows {_around(again, at)!r}"
        )


def builder(page: str) -> str:
    """Version and libraries that built a page; empty for a page that does not say."""
    found = GENERATOR.search(page)
    return found[1] if found else ""


def _digest(page: str) -> str:
    return hashlib.sha256(SEAL.sub(r"\g<1>\g<3>", page, count=1).encode()).hexdigest()


def _around(text: str, at: int) -> str:
    return text[max(0, at - 30) : at + 30]
