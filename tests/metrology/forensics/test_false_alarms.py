"""The false-alarm study itself: small here, 10,000 draws per check in the documentation."""

from __future__ import annotations

from pathlib import Path

from benchmark_scripts import script

from pytest_physics.metrology.forensics.catalogue import CATALOGUE

study = script("audit_false_alarms")

ROOT = Path(__file__).parents[3]
DRAWS = 60


def test_no_check_accuses_consistent_summaries():
    """No alarm in a seeded sample of every check; chance confirms at most what a 5 % level allows (4 σ above it)."""
    for rate in study.rates(DRAWS):
        assert rate.alarms == 0, rate
        assert rate.confirmed <= 0.05 * DRAWS + 4 * (0.05 * 0.95 * DRAWS) ** 0.5, rate


def test_every_check_is_simulated_or_declared():
    """A new check without a simulation does not pass."""
    assert set(study.GENERATORS) | study.DECLARED == set(CATALOGUE)


def test_the_documentation_shows_ten_thousand_draws_per_check():
    """The table in the guide lists every check, from a full run, and at most 1 % of alarms."""
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.partition(study.BEGIN)[2].partition(study.END)[0].splitlines() if line.startswith("| ")][1:]
    shown = {row[0].removeprefix("| "): row[-1].removesuffix(" |") for row in rows}
    assert set(shown) == set(CATALOGUE)
    for name in study.GENERATORS:
        alarms, _, draws = shown[name].partition(";")[0].partition(" of ")
        assert int(draws.replace(" ", "")) == 10_000
        assert int(alarms) <= 100


def test_the_table_is_replaced_between_its_markers(tmp_path):
    """Text around the markers stays."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{study.BEGIN}\nold\n{study.END}\nafter\n", encoding="utf-8")
    study.write(page, "new")
    assert page.read_text(encoding="utf-8") == f"before\n{study.BEGIN}\nnew\n{study.END}\nafter\n"
