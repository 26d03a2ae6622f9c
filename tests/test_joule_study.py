"""The study of the Joule curve: how a figure is judged, and one sweep through all of it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "joule_study.py"


@pytest.fixture(scope="module")
def study():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("joule_study", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["joule_study"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["joule_study"]


@pytest.mark.parametrize(
    ("inside", "n", "verdict"), [(190, 200, "met"), (196, 200, "within scatter"), (200, 200, "**missed**"), (170, 200, "**missed**")]
)
def test_coverage_is_judged_with_its_own_scatter(study, inside, n, verdict):
    """93 to 97 %, and what lies outside by no more than its scatter is told apart from a miss."""
    assert study.coverage_row("x", [True] * inside + [False] * (n - inside), [0.01]).verdict == verdict


@pytest.mark.parametrize(("hits", "verdict"), [(95, "met"), (94, "**missed**")])
def test_power_is_judged_at_its_limit(study, hits, verdict):
    """Boundary pair at 95 %."""
    assert study.share_row("x", [True] * hits + [False] * (100 - hits), "≥ 95 %", least=0.95).verdict == verdict


@pytest.mark.parametrize(("hits", "verdict"), [(10, "met"), (16, "within scatter"), (17, "**missed**")])
def test_a_rate_of_false_alarms_is_judged_with_its_scatter(study, hits, verdict):
    """A test of 5 % calls 5 % of equal arms different, more or less: of 200, up to 8.0 %."""
    assert study.share_row("x", [True] * hits + [False] * (200 - hits), "≤ 5 %", most=0.05).verdict == verdict


def test_one_sweep_through_the_whole_study(study, tmp_path):
    """A fixed seed: the intervals hold, 5 % are found, equal is equal, another clock is refused, an upturn too."""
    found = study.Findings()
    study.study_sweep(found, 1, tmp_path)
    study.study_upturn(found, 1, tmp_path)
    assert all(values == [True] for values in found.covered.values())
    assert len(found.covered) == 4
    assert (found.planted_found, found.null_differs, found.mismatch_refused, found.upturn_found) == ([True], [False], [True], [True])
    assert found.sound_refused == []


def test_the_page_names_its_command(study):
    """Generated, and says by what."""
    row = study.Row(what="x", target="y", reached="z", verdict="met")
    text = study.page([row], "python benchmarks/joule_study.py --sweeps 7", 7)
    assert "`python benchmarks/joule_study.py --sweeps 7`; nobody typed" in text
    assert "| x | y | z | met |" in text
