"""Rules that only a browser can check; skipped where there is none."""

from __future__ import annotations

import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no program 'chromium' on PATH: install it to check the page in a browser")


def browse(tmp_path, page, *flags):
    """Run Chromium on a file with a new profile; its standard output."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def with_probe(page, target, script):
    """A copy of ``page`` that runs ``script`` when loaded; it writes into the title."""
    target.write_text(page.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return target


def test_the_page_loads_without_errors_and_without_requests(runs, tmp_path):
    """Its own script runs, nothing is requested, nothing violates the policy, and nothing is wider than the window."""
    probe = with_probe(
        runs["full"] / "report.html",
        tmp_path / "probe.html",
        "document.title = JSON.stringify([performance.getEntriesByType('resource').length,"
        " document.documentElement.scrollWidth <= innerWidth, document.querySelectorAll('svg.figure').length])",
    )
    dom = browse(tmp_path, probe, "--window-size=1280,900", "--dump-dom")
    assert "<title>[0,true,8]</title>" in dom


def test_a_link_to_a_claim_opens_its_details(runs, tmp_path):
    """What a table row points to is visible."""
    probe = with_probe(
        runs["full"] / "report.html",
        tmp_path / "probe.html",
        "const a = document.querySelector('a.statement'); location.hash = a.hash; setTimeout(() => {"
        " document.title = 'open ' + document.getElementById(a.hash.slice(1)).checkVisibility() }, 50)",
    )
    assert "<title>open true</title>" in browse(tmp_path, probe, "--virtual-time-budget=2000", "--dump-dom")


@pytest.mark.parametrize(("scheme", "background"), [("0", "rgb(18, 20, 22)"), ("1", "rgb(246, 246, 243)")])
def test_the_page_follows_the_colour_scheme(runs, tmp_path, scheme, background):
    """Dark where the reader prefers dark (0), light where light (1); figures take the page's ink."""
    probe = with_probe(
        runs["full"] / "report.html",
        tmp_path / "probe.html",
        "const s = e => getComputedStyle(e); document.title = s(document.body).backgroundColor + '|' +"
        " (s(document.querySelector('svg.figure text')).fill !== 'rgb(0, 0, 0)')",
    )
    dom = browse(tmp_path, probe, f"--blink-settings=preferredColorScheme={scheme}", "--dump-dom")
    assert f"<title>{background}|true</title>" in dom


def test_the_hostile_page_runs_no_foreign_script(runs, tmp_path):
    """Names that try to run code are text, also for a browser."""
    probe = with_probe(
        runs["hostile"] / "report.html",
        tmp_path / "probe.html",
        "document.title = document.scripts.length + ' scripts'",
    )
    assert "<title>3 scripts</title>" in browse(tmp_path, probe, "--dump-dom")


def test_printing_shows_what_is_folded(runs, tmp_path):
    """A PDF is made, and it is longer than one of the claims table alone."""
    target = tmp_path / "report.pdf"
    browse(tmp_path, runs["full"] / "report.html", "--no-pdf-header-footer", f"--print-to-pdf={target}")
    assert target.read_bytes().count(b"/Type /Page\n") >= 8
