"""The study's table: how a figure is judged, and that the page has what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark_scripts import script

study = script("sensor_study")


@pytest.mark.parametrize(("error", "met"), [(0.0099, True), (0.0101, False)])
def test_an_error_is_judged_by_its_95th_percentile(error, met):
    """Boundary pair at 1 %."""
    row = study.error_row("x", [error] * 50, 0.01)
    assert row.met is met
    assert ("missed" in str(row)) is not met


@pytest.mark.parametrize(
    ("inside", "n", "verdict"),
    [(950, 1000, "met"), (980, 1000, "within scatter"), (995, 1000, "**missed**"), (900, 1000, "**missed**"), (40, 40, "within scatter")],
)
def test_coverage_is_judged_with_its_own_scatter(inside, n, verdict):
    """93 to 97 %; outside of it by no more than 1.96 standard deviations of such a share is told apart from a miss."""
    row = study.coverage_row("x", [True] * inside + [False] * (n - inside))
    assert str(row).endswith(f"| {verdict} |")


def test_one_specimen_through_the_whole_study(tmp_path):
    """One a100: identified, its windows and repeated events inside the figures, everything noted."""
    found = study.Findings()
    study.study_energies(found, "a100", 0, tmp_path, 3)
    assert found.shape_right == [True]
    assert found.timing_share[0] < 1
    assert len(found.long_window) == 3
    assert max(found.long_window) < 0.005
    assert max(found.repeated + found.commensurate) < 0.01
    assert found.commensurate_seen == [True]
    assert found.silently_wrong == 0
    assert len(found.covered["a100"]) == 5
    assert len(found.accepted_at_limit) == 10


def test_the_page_names_its_command():
    """Generated, and says by what."""
    row = study.Row(what="a", target="b", reached="c", met=True)
    text = study.page("", "python benchmarks/sensor_study.py --seed 3", study.introduction(7), [row])
    assert "`python benchmarks/sensor_study.py --seed 3`" in text
    assert "| a | b | c | met |" in text


def test_autoregressive_intervals_cover():
    """The baseline's estimator, ρ = 0 and 0.9: never below 90 % with 200 runs each."""
    covered = study.autoregressive_coverage(1, 200)
    assert min(covered.values()) > 0.9
    assert np.mean(list(covered.values())) > 0.93
