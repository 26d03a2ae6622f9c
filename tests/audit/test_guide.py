"""The guide's example is a real file, and its output is the real output."""

from __future__ import annotations

import re
from pathlib import Path

from sound_report import judged

from pytest_physics.audit.statements import Statements
from pytest_physics.audit.terminal import audit_lines

GUIDE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    """The code block after ``marker``."""
    return re.search(r"```\w+\n(.*?)```", GUIDE.partition(marker)[2], re.DOTALL).group(1)


def test_the_example_gives_the_output_shown():
    """Line by line, at 80 columns."""
    found = judged(block("<!-- example: report.yaml -->"))
    assert "\n".join(audit_lines(found)) + "\n" == block("<!-- output -->")


def test_every_section_of_the_format_is_described():
    """The table of sections names each one, and no other."""
    table = GUIDE.partition("## The format")[2].partition("## Our own runs")[0]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    sections = set(Statements.model_fields) - {"format", "title", "about", "source", "claims"}
    assert named == sections
