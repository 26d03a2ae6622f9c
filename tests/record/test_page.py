"""The report page itself: whatever a reader sees must be what the artifacts give."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from pytest_physics.cli import app
from pytest_physics.record import page
from pytest_physics.record.verify import verify_run
from pytest_physics.record.writer import renew_manifest
from pytest_physics.report.build import built_with, render

EDITS = {
    "a word of the page": ("<h1>", "<h1>Not "),
    "a number in a table": (r"ν [^<]*", "ν = 3"),
    "a figure": (r' d="M 0 ', ' d="M 1 '),
    "an attribute": ('class="num"', 'class="no"'),
    "the version that built it": ("pytest-physics 0", "pytest-physics 1"),
}


def problems(run, **options) -> list[str]:
    return [finding.problem for finding in verify_run(run, **options).findings if finding.where == "report.html"]


def edited(run, pattern: str, replacement: str, *, seal: bool) -> None:
    """Edit the page once; the manifest is renewed, and the page's own digest where ``seal``."""
    path = run / "report.html"
    text, count = re.subn(pattern, replacement, page.read(path), count=1)
    assert count == 1
    path.write_text(page.sealed(text) if seal else text)
    renew_manifest(run, "report.html")


def test_the_page_of_a_run_is_the_one_that_is_built_again(finished):
    """Built while the run ended, and built now: the same bytes."""
    assert verify_run(finished, render=render).passed


@pytest.mark.parametrize("where", EDITS)
def test_an_edit_of_the_page_is_found(run_copy, where):
    """Any character, although the manifest was renewed."""
    edited(run_copy, *EDITS[where], seal=False)
    assert problems(run_copy) == ["was edited: its text has another digest than it says"]


@pytest.mark.parametrize("where", ["a word of the page", "a number in a table", "a figure", "an attribute"])
def test_an_edit_with_a_new_digest_is_found_by_building_the_page_again(run_copy, where):
    """The digest was renewed too; what the artifacts give was not."""
    edited(run_copy, *EDITS[where], seal=True)
    assert problems(run_copy) == []
    (problem,) = problems(run_copy, render=render)
    assert "where the page built from the artifacts shows" in problem


def test_a_page_of_another_version_is_compared_by_its_digest(run_copy):
    """Another version may draw it otherwise; the command line says which one built it."""
    edited(run_copy, "pytest-physics 0", "pytest-physics 9", seal=True)
    assert verify_run(run_copy, render=render).passed
    said = CliRunner().invoke(app, ["verify", str(run_copy)]).output
    assert f"here is {built_with()}, so its text was compared by its digest alone" in said


def test_a_page_without_a_digest_is_named(run_copy):
    """Taking the digest away hides nothing."""
    edited(run_copy, page.SEAL.pattern, "", seal=False)
    assert problems(run_copy) == ["carries no digest of its own text; build it again with 'pytest-physics report'"]


def test_files_that_are_not_here_are_named_first(run_copy):
    """Nothing contradicts anything: it cannot be checked."""
    (run_copy / "trace-gpu.npy").unlink()
    done = CliRunner().invoke(app, ["verify", str(run_copy)])
    assert done.exit_code == 1
    assert "lacks trace-gpu.npy: what rests on them cannot be checked" in done.output
    assert "do not use its numbers" not in done.output
