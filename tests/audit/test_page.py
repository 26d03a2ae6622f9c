"""The page: self-contained, complete, safe against what a file may hold; and the terminal says the same."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from sound_report import AUDITS, judged

from pytest_physics.audit.judge import audit
from pytest_physics.audit.loader import load
from pytest_physics.audit.page import EFFECT_STYLES, render
from pytest_physics.audit.terminal import audit_lines, sentence
from pytest_physics.metrology.forensics.finding import Effect

HOSTILE = """
title: "<script>alert(1)</script> & \\u0007"
source: {document: "<b>bold</b>"}
facts:
  "a\\"><img src=x>": {title: "</title><script>", values: {"<i>here</i>": 1, there: 2}}
claims:
  - {id: c, statement: "<img src=x onerror=alert(1)>", asserts: ["a\\"><img src=x>"]}
"""


class Page(HTMLParser):
    """Tags, ids and links of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []


@pytest.fixture(scope="module")
def tr122():
    return audit(load(AUDITS / "tr122.yaml"))


@pytest.fixture(scope="module")
def page(tr122):
    return render(tr122)


def test_the_page_is_one_file_without_network(page):
    """No address of another place, no image, no frame, a policy that forbids them; under 1 MB."""
    tags = Page(page).tags
    assert not [tag for tag, _ in tags if tag in {"img", "iframe", "object", "embed"}]
    assert not [found for tag, found in tags if tag in {"script", "link"} and (found.get("src") or found.get("href", "data:,") != "data:,")]
    assert "default-src 'none'" in page
    assert len(page.encode()) < 1_000_000


def test_every_link_leads_somewhere_and_every_id_is_unique(page):
    """Fragments exist; no id is used twice."""
    found = Page(page)
    assert len(found.ids) == len(set(found.ids))
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)


def test_the_page_shows_every_claim_exhibit_and_step(tr122, page):
    """Statement, verdict, sentence and arithmetic; and the same numbers in its machine-readable part."""
    from markupsafe import escape

    for ruling in tr122.rulings:
        assert str(escape(ruling.claim.statement)) in page
    for part in tr122.examined:
        for finding in part.findings:
            assert str(escape(finding.sentence)) in page
            assert all(str(escape(step)) in page for step in finding.steps)
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(embedded.group(1))["verdict_counts"]["REFUTED"] == 8
    assert sentence(tr122) in page


def test_the_page_has_one_heading_and_a_language(page):
    """One h1, a title with the verdict, a language, a skip link."""
    tags = Page(page).tags
    assert [tag for tag, _ in tags].count("h1") == 1
    assert ("html", {"lang": "en"}) in tags
    assert "<title>REFUTED: TR122" in page
    assert 'class="skip"' in page


def test_what_a_file_holds_is_text(page):
    """Markup and control characters in titles, ids and statements do not become part of the page."""
    text = render(judged(HOSTILE))
    tags = [tag for tag, _ in Page(text).tags]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert "\x07" not in text


def test_the_same_audit_gives_the_same_page(tr122, page):
    """No time of day, no random id."""
    assert render(tr122) == page


def test_every_effect_has_a_look():
    """A new effect without colour and sign does not pass."""
    assert set(EFFECT_STYLES) == set(Effect)


@pytest.mark.parametrize("width", [20, 60, 200])
def test_the_terminal_shows_every_claim_within_its_width(tr122, width):
    """Verdict first, reason below, counts last."""
    lines = audit_lines(tr122, width=width)
    assert max(map(len, lines)) <= max(width, 40)
    words = {"REFUTED", "INVALID", "INCONCLUSIVE", "VALIDATED", "NOT"}
    assert sum(line.split(" ")[0] in words for line in lines) == len(tr122.rulings)
    assert "8 of 19 claims are refuted" in " ".join(lines).replace("  ", " ")


def test_an_audit_without_claims_says_so():
    """Exhibits alone are examined too."""
    found = judged("title: T\nsource: {document: D}\ntotals:\n  t: {total: 3, parts: {a: 1}}\n")
    assert sentence(found) == "No claim was judged; 1 finding in 1 exhibit."
    assert "No claim was judged" in render(found)
