"""The study of the Joule curve: how a figure is judged, and one sweep through all of it."""

from __future__ import annotations

import pytest
from benchmark_scripts import script

study = script("joule_study")


@pytest.mark.parametrize(
    ("inside", "n", "verdict"), [(190, 200, "met"), (196, 200, "within scatter"), (200, 200, "**missed**"), (170, 200, "**missed**")]
)
def test_coverage_is_judged_with_its_own_scatter(inside, n, verdict):
    """93 to 97 %, and what lies outside by no more than its scatter is told apart from a miss."""
    assert str(study.coverage_row("x", [True] * inside + [False] * (n - inside), [0.01])).endswith(f"| {verdict} |")


@pytest.mark.parametrize(("hits", "verdict"), [(95, "met"), (94, "**missed**")])
def test_power_is_judged_at_its_limit(hits, verdict):
    """Boundary pair at 95 %."""
    assert str(study.share_row("x", [True] * hits + [False] * (100 - hits), "≥ 95 %", least=0.95)).endswith(f"| {verdict} |")


@pytest.mark.parametrize(("hits", "verdict"), [(10, "met"), (16, "within scatter"), (17, "**missed**")])
def test_a_rate_of_false_alarms_is_judged_with_its_scatter(hits, verdict):
    """A test of 5 % calls 5 % of equal arms different, more or less: of 200, up to 8.0 %."""
    assert str(study.share_row("x", [True] * hits + [False] * (200 - hits), "≤ 5 %", most=0.05)).endswith(f"| {verdict} |")


def test_one_sweep_through_the_whole_study(tmp_path):
    """A fixed seed: the intervals hold, 5 % are found, equal is equal, another clock is refused, an upturn too."""
    found = study.Findings()
    study.study_sweep(found, 1, tmp_path)
    study.study_upturn(found, 1, tmp_path)
    assert all(values == [True] for values in found.covered.values())
    assert len(found.covered) == 4
    assert (found.planted_found, found.null_differs, found.mismatch_refused, found.upturn_found) == ([True], [False], [True], [True])
    assert found.sound_refused == []


def test_the_page_names_its_command():
    """Generated, and says by what."""
    row = study.Row(what="x", target="y", reached="z", met=True)
    text = study.page("", "python benchmarks/joule_study.py --sweeps 7", study.introduction(7), [row])
    assert "`python benchmarks/joule_study.py --sweeps 7`; nobody typed" in text
    assert "| x | y | z | met |" in text
