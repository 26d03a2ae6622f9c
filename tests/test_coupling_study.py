"""The coupling study's page and a small, seeded part of it."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark_scripts import script

from pytest_physics.metrology.coupling import lag_table
from pytest_physics.metrology.instability import INSTABILITY, detection

study = script("coupling_study")


@pytest.mark.parametrize("lag", [-2, 0, 3])
def test_a_known_lag_on_the_twin_is_found_within_a_sample(lag):
    """Step marks lead (lag > 0) or follow the twin's power by whole steps."""
    found, _ = study.twin_session(lag, seed=5, steps=120)
    assert abs(lag_table(found.columns["work"], found.columns["power"], max_lag=6).peak_lag - lag) <= 1


def test_slowdowns_injected_into_the_twin_are_events():
    """Five slowdowns of the twin: at least four found, and nothing flagged before the first."""
    telemetry, spans = study.twin_telemetry(seed=7)
    outcome = INSTABILITY(telemetry)
    assert detection(telemetry, outcome, spans).found >= 4
    assert not outcome.flags[telemetry.t_s < spans[0][0] - 3].any()


@pytest.mark.parametrize(("hits", "met", "verdict"), [(50, True, ""), (71, False, "within scatter"), (100, False, ""), (15, False, "")])
def test_a_share_of_false_positives_is_judged_with_its_scatter(hits, met, verdict):
    """3 to 7 % of 1000."""
    assert study._within(hits, 1000, 0.03, 0.07) == (met, verdict)


def test_the_page_names_its_command_and_holds_the_guide(capsys, tmp_path, monkeypatch):
    """Generated, with the design guide and every rule's numbers."""
    monkeypatch.setattr(study, "run", lambda runs, seed: [study.Row(what=f"{runs} {seed}", target="b", reached="c", met=True)])
    assert study.main(["--runs", "3", "--seed", "4", "--output", str(tmp_path / "page.md")]) == 0
    text = (tmp_path / "page.md").read_text()
    assert "`python benchmarks/coupling_study.py --runs 3 --seed 4`" in text
    assert "| 3 4 | b | c | met |" in text
    assert "| r = 0.3 | 113 | 0.9 |" in text
    assert "rle/collapse-v0.3 | 1 s, 1 °C" in text
    assert "cannot fire at 1 s per row" in text
    assert capsys.readouterr().out


def test_the_study_rows_are_judged():
    """A run of ten: every row has a verdict; powers and coverages are shares."""
    rows = study.coverage(np.random.default_rng(1), 20)
    assert len(rows) == 3
    assert all("%" in row.reached for row in rows)
