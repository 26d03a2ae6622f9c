"""The study of the routing estimates runs, meets its targets at a fixed seed, and says so where it does not."""

from __future__ import annotations

from pathlib import Path

from benchmark_scripts import script

study = script("routing_study")


ROOT = Path(__file__).parents[1]


def test_a_small_study_meets_its_targets(tmp_path, capsys):
    """The whole script with a fraction of the draws."""
    page = tmp_path / "page.md"
    assert study.main(["--quick", "--seed", "1", "--output", str(page)]) == 0
    assert "missed" not in capsys.readouterr().out
    assert "`python benchmarks/routing_study.py --quick --seed 1`" in page.read_text(encoding="utf-8")


def test_a_missed_target_is_an_exit_code(monkeypatch):
    """One missed row is enough."""
    missed = study.Row(what="a", target="b", reached="c", met=False)
    monkeypatch.setattr(study, "table", lambda *_, **__: [missed])
    assert study.main([]) == 1
    assert str(missed).endswith("| **missed** |")


def test_a_share_is_judged_with_its_own_scatter():
    """90 % of 400 misses a target of 93 %, of 20 it does not."""
    few, many = ([True] * (9 * n) + [False] * n for n in (2, 40))
    assert study.share_row("x", few, 0.93, 0.97, "").met
    assert not study.share_row("x", many, 0.93, 0.97, "").met


def test_the_published_page_is_of_this_study():
    """Every row of the page has a row of the same name today, and none is missed."""
    text = (ROOT / "docs" / "routing-study.md").read_text(encoding="utf-8")
    assert "missed" not in text
    names = {line.split(" | ")[0].strip("| ") for line in text.splitlines() if line.startswith("| ") and " | – |" not in line} - {"what"}
    assert len(names) > 25
    assert any(name.startswith("gate 'sign of the response'") for name in names)
