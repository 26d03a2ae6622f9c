"""The index of the documentation is complete and leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INDEX = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", ["docs/*.md", "benchmarks/*.py"])
def test_the_index_names_every_page_and_script(folder):
    """A page that nobody finds was not written; helpers of the scripts are no scripts."""
    names = {path.name for path in ROOT.glob(folder)} - {"README.md", "study_page.py", "paired.py"}
    assert {name for name in names if name not in INDEX} == set()


@pytest.mark.parametrize("page", ["README.md", "docs/README.md", "reports/README.md"])
def test_links_lead_to_files(page):
    """Links inside the repository are never dead."""
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not ((ROOT / page).parent / link).exists()] == []


def test_decisions_are_numbered_without_a_gap_and_say_their_status():
    """0001, 0002, …: the title begins with the number of the file, and the status stands under it."""
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        lines = page.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith(f"# {page.name[:4]}: ")
        assert lines[2].startswith("**Status:** ")
