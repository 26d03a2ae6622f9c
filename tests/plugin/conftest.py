"""A project of somebody else's, on a twin that needs no time, and what its runs leave behind."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

import pytest_physics.active
import pytest_physics.experiments.heat_soak
import pytest_physics.report.build  # noqa: F401 -- loaded once here; pytester forgets what is first loaded inside a test

HELPERS = """
import pytest
from pytest_physics import Estimate, Gate

def joules(value, u=0.1):
    return Estimate.given(value, "J", u=u)

LOW, NEAR, HIGH = 0.5, 1.05, 2.0  # below, inside and above the interval of joules(1.0), 0.8 to 1.2 J
BROKEN = Gate(
    name="planted fault", scope="this test", measured=2.0, limit=1.0, unit="W", passed=False,
    reason="power is 2 W (limit 1 W)", remedy="mend it",
)
"""
"""Begins the test files of a project: estimates without hardware."""

CONFIG = """
device = "twin:rtx4080-laptop"
[baseline]
settle_s = 1.0
duration_s = 12.0
"""
"""``physics.toml`` of a project: the twin of a card whose sensor updates ten times a second."""


class Project:
    """A directory with a configuration, in which pytest runs with ``--physics``."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path: Path = pytester.path
        (self.path / "physics.toml").write_text(CONFIG, encoding="utf-8")

    def write(self, **files: str) -> None:
        """Test files by name, each after the helpers; ``conftest`` stands alone."""
        for name, text in files.items():
            self.pytester.makepyfile(**{name: text if name == "conftest" else HELPERS + text})

    def run(self, *options: str, physics: bool = True) -> pytest.RunResult:
        """Run pytest in this process, with ``--physics``."""
        switches = ["--physics"] if physics else []
        # Hypothesis imports itself at the end of every session, a second each time
        return self.pytester.runpytest_inprocess("-p", "no:hypothesispytest", *switches, *options)

    def run_test(self, text: str, *options: str) -> pytest.RunResult:
        """One test file."""
        self.write(test_it=text)
        return self.run(*options)

    @property
    def runs(self) -> list[Path]:
        """Run directories, in the order of their ids."""
        return sorted(path.parent for path in self.path.glob("runs/*/run.json"))

    @property
    def run_record(self) -> dict[str, Any]:
        """``run.json`` of the only run."""
        (run,) = self.runs
        return json.loads((run / "run.json").read_text(encoding="utf-8"))

    @property
    def claims(self) -> list[dict[str, Any]]:
        """``claims.jsonl`` of the only run."""
        (run,) = self.runs
        path = run / "claims.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    @property
    def verdicts(self) -> dict[str, str]:
        """Latest verdict by claim id."""
        return {claim["id"]: claim["verdict"] for claim in self.claims}


@pytest.fixture
def project(pytester, request, monkeypatch) -> Project:
    """A project whose reports are one line long; the page has its own tests, and 0.2 s each time would be most of ours."""
    if "real_report" not in request.fixturenames:
        monkeypatch.setattr("pytest_physics.report.build.build_report", _one_line)
    return Project(pytester)


@pytest.fixture
def real_report() -> None:
    """Asked for by tests that want the whole page."""


def _one_line(run: Path) -> Path:
    path = run / "report.html"
    path.write_text("<!doctype html>", encoding="utf-8")
    return path


def cases(path: Path) -> dict[str, ET.Element]:
    """Test cases of a JUnit file by name."""
    return {case.get("name", ""): case for case in ET.parse(path).iter("testcase")}


def properties(case: ET.Element) -> list[tuple[str, str]]:
    """Properties of a JUnit test case."""
    return [(item.get("name", ""), item.get("value", "")) for item in case.iter("property")]
