"""The verbs on the command line: what they say, write and end with."""

from __future__ import annotations

import json
import sqlite3
from xml.etree import ElementTree as ET

import pytest
from history.history_runs import STEADY
from typer.testing import CliRunner

from pytest_physics import cli
from pytest_physics.errors import ConfigurationError, RecordError
from pytest_physics.history import export as exports
from pytest_physics.history.command import SUMMARY_VARIABLE
from pytest_physics.history.names import matching, metric_name
from pytest_physics.history.store import HistoryIndex
from pytest_physics.history.texts import sparkline
from pytest_physics.metrology.uncertainty import Estimate


@pytest.fixture
def call(nights):
    """``pytest-physics history …`` in the project's directory."""
    nights.monkeypatch.chdir(nights.root)
    nights.monkeypatch.delenv(SUMMARY_VARIABLE, raising=False)

    def run(verb, *arguments, code=0):
        index = [] if "--index" in arguments else ["--index", str(nights.index)]
        found = CliRunner().invoke(cli.app, ["history", verb, *map(str, arguments), *index], catch_exceptions=False)
        assert found.exit_code == code, found.output
        return found.output

    return run


def test_default_index_lies_beside_the_runs(nights, call):
    """Without ``--index`` the settings say where it is."""
    path = nights.run(1.0)
    (nights.root / "physics.toml").write_text('[history]\nindex = "runs/mine.sqlite3"\n')
    found = CliRunner().invoke(cli.app, ["history", "add", str(path)])
    assert found.exit_code == 0, found.output
    assert (nights.root / "runs" / "mine.sqlite3").exists()


def test_add_says_what_cannot_be_used_and_ends_with_1(nights, call):
    """The others are added."""
    good, bad = nights.run(1.0), nights.run(2.0)
    (bad / "results.jsonl").write_text("{}\n")
    said = call("add", good, bad, code=1)
    assert f"refused    {bad}" in said
    assert "1 added, 1 refused" in said
    assert f"refused    {bad}" in call("show")


def test_show_draws_a_series_and_names_its_change_point(nights, call):
    """One metric: its line, its runs, where its level moved."""
    paths = nights.history(STEADY + [1.1 * value for value in STEADY])
    said = call("show", "toy: energy", "--last", 24)
    assert sparkline([*STEADY, *(1.1 * v for v in STEADY)]) in said
    assert f"{paths[12].name}  110.33 J  ← level moves from here: +10.0%" in said or f"{paths[12].name}" in said
    assert said.count("level moves from here") == 1


def test_words_of_a_name_are_enough(nights, call):
    """Of several that fit, a line each."""

    def record(session):
        for batch in (1, 8):
            session.result("toy", "energy per token (net)", Estimate.given(1.0, "J/token", u=0.0), batch=batch)

    call("add", nights.run(record=record))
    assert call("show", "net token").count("toy: energy per token (net) [batch") == 2
    assert "2026-03-02" in call("show", "net 8")


def test_unknown_metric_names_the_nearest(nights, call):
    """Misspelt, or of another suite."""
    nights.history([1.0])
    with pytest.raises(RecordError, match=r"no metric 'toy: enrgy'.*the nearest of 1 is 'toy: energy'"):
        call("show", "toy: enrgy")


def test_empty_history_says_what_to_do():
    """Nothing was added yet."""
    with pytest.raises(RecordError, match="history add"):
        matching("energy", [])


def test_names_of_any_characters_stay_on_their_line(nights, call):
    """Signs of patterns, quotes, other scripts, a line break: found by a word, shown on one line."""
    call("add", nights.run(record=lambda session: session.result("toy [x]*?", "énergie 'q'\n|", Estimate.given(1.0, "J", u=0.0))))
    assert "toy [x]*?: énergie" in call("show")
    first, second, *_ = call("show", "énergie").splitlines()
    assert first.startswith("toy [x]*?: énergie 'q'")
    assert second == "  on no device; 1 valid run of 1"


def test_brackets_of_a_name_are_no_pattern():
    """A metric's own name finds itself, among others that a pattern would."""
    names = [metric_name("a", "b", {"batch": n}) for n in (1, 12)]
    assert matching(names[0], names) == names[:1]
    assert matching("a: b*", names) == names


@pytest.mark.parametrize(("value", "code", "word"), [(100.0, 0, "VALIDATED"), (105.0, 10, "INCONCLUSIVE"), (120.0, 1, "REFUTED")])
def test_check_ends_with_the_verdict_and_writes_junit_and_summary(steady, call, value, code, word):
    """Terminal, JUnit and Markdown say the same."""
    path = steady.run(value)
    said = call("check", path, "--junit", "out/junit.xml", "--summary", "out/summary.md", code=code)
    assert said.startswith(word)
    suite = ET.parse(steady.root / "out" / "junit.xml").getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("1", "0" if code == 0 else "1")
    (case,) = suite
    assert (case.get("classname"), case.get("name")) == ("history.toy", "energy")
    failure = case.find("failure")
    assert (failure is None) == (code == 0)
    assert failure is None or failure.get("type") == word
    summary = (steady.root / "out" / "summary.md").read_text()
    assert f"{word} | toy: energy |" in summary
    assert path.name in summary


def test_the_number_of_runs_that_would_settle_it_stands_everywhere(steady, call):
    """Terminal, JUnit and summary: a CI user is led to what works."""
    said = call("check", steady.run(101.8), "--delta", 0, "--junit", "junit.xml", "--summary", "summary.md", code=10)
    for text in (said, (steady.root / "junit.xml").read_text(), (steady.root / "summary.md").read_text()):
        assert "3 more new runs would settle it nine times in ten" in " ".join(text.split())


def test_step_summary_of_github_is_appended_to(steady, call):
    """Other steps have written there before."""
    file = steady.root / "step.md"
    file.write_text("before\n")
    steady.monkeypatch.setenv(SUMMARY_VARIABLE, str(file))
    call("check", steady.run(100.0))
    assert file.read_text().startswith("before\n### History of")


def test_delta_and_last_are_taken(steady, call):
    """Options win over the settings."""
    path = steady.run(110.0)
    call("check", path, code=1)
    assert "earlier 100 J" in call("check", path, "--delta", 0.2)
    assert "(3 runs)" in call("check", path, "--last", 3, "--delta", 0.5, code=10)


@pytest.mark.parametrize("option", [["--correction", "bonferroni"], ["--since", "yesterday"]])
def test_unknown_words_are_refused(steady, call, option):
    """With what is known."""
    with pytest.raises(ConfigurationError, match=option[1]):
        call("check", steady.run(100.0), *option)


def test_changed_software_is_named(steady, call):
    """What a history is kept for: which version it changed with."""
    path = steady.run(100.0)
    database = sqlite3.connect(steady.index)
    ((software,),) = set(database.execute("SELECT DISTINCT software FROM runs"))
    database.execute("UPDATE runs SET software = ?", (json.dumps({**json.loads(software), "numpy": "1.0"}),))
    database.commit()
    database.close()
    assert "software since the latest of them: numpy: 1.0 →" in call("check", path)


def test_rebuild_from_the_command_line(nights, call):
    """A damaged index is removed and made anew."""
    nights.history(STEADY)
    nights.index.unlink()
    assert "12 added" in call("rebuild", nights.root / "runs")


def test_damaged_index_is_made_anew_from_the_runs_of_the_settings(nights, call):
    """It lies elsewhere and tells no directory, and none is given: one line says where the file went."""
    nights.history([1.0, 2.0])
    elsewhere = nights.root / "elsewhere" / "h.sqlite3"
    elsewhere.parent.mkdir()
    elsewhere.write_text("no index\n" * 1000)
    said = call("rebuild", "--index", elsewhere).splitlines()
    assert said[0] == f"damaged    {elsewhere}: set aside as {elsewhere}.damaged, made anew from the runs"
    assert "2 added" in said[-1]
    assert call("show", "--index", elsewhere).startswith("toy: energy")


def test_run_moved_away_is_no_baseline_after_rebuild(steady, call):
    """A bad run that nobody accepts: its directory is moved, the index made anew; a run that was REFUTED stays until then."""
    bad = steady.run(150.0)
    call("check", bad, code=1)
    call("add", bad)
    new = steady.run(100.0)
    assert "(13 runs)" in call("check", new, code=10)
    bad.rename(steady.root.parent / f"{steady.root.name}-{bad.name}")
    assert f"gone       {bad}" in call("rebuild")
    assert "(12 runs)" in call("check", new)


# --- export -------------------------------------------------------------------------------------------------------------------


def test_parquet_holds_what_the_index_holds(nights, call):
    """Every value, in one folder per month, with its conditions beside."""
    dataset = pytest.importorskip("pyarrow.dataset", reason="needs pyarrow")
    nights.night = 20
    nights.history(STEADY)
    said = call("export", "out/tables")
    found = dataset.dataset(nights.root / "out" / "tables" / "results", partitioning="hive").to_table().to_pylist()
    assert [row["value"] for row in sorted(found, key=lambda row: row["t_ms"])] == STEADY
    assert {row["month"] for row in found} == {"2026-03", "2026-04"}
    assert said.count("results") == 2
    with pytest.raises(RecordError, match="exists already"):
        call("export", "out/tables")


def test_parquet_of_many_pieces_reads_as_one(nights, call, monkeypatch):
    """Written a few rows at a time, grouped over all of them."""
    dataset = pytest.importorskip("pyarrow.dataset", reason="needs pyarrow")
    monkeypatch.setattr(exports, "ROWS", 5)
    nights.history(STEADY)
    call("export", "tables")
    table = dataset.dataset(nights.root / "tables" / "results", partitioning="hive").to_table()
    (row,) = table.group_by("metric").aggregate([("value", "count")]).to_pylist()
    assert row == {"metric": "toy: energy", "value_count": len(STEADY)}


def test_duckdb_answers_in_sql(nights, call):
    """One file with the same tables."""
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    duckdb = pytest.importorskip("duckdb", reason="needs duckdb")
    nights.history(STEADY)
    call("export", "history.duckdb", "--format", "duckdb")
    with duckdb.connect(str(nights.root / "history.duckdb"), read_only=True) as database:
        assert database.execute("SELECT count(*), avg(value) FROM results JOIN runs USING (run_id)").fetchall() == [
            (len(STEADY), pytest.approx(100.0))
        ]


@pytest.mark.parametrize(("kind", "library", "extra"), [("parquet", "pyarrow", "parquet"), ("duckdb", "duckdb", "history")])
def test_missing_library_is_one_line(steady, call, kind, library, extra):
    """With the extra that brings it, before anything is written."""

    def absent(name):
        if name == library:
            raise ImportError
        return object()

    steady.monkeypatch.setattr(exports, "import_module", absent)
    with pytest.raises(ConfigurationError, match=rf"needs '{library}'.*pip install 'pytest-physics\[{extra}\]'"):
        call("export", "out", "--format", kind)
    assert not (steady.root / "out").exists()


def test_unknown_export_format_names_the_nearest(steady):
    """Misspelt formats write nothing."""
    with HistoryIndex.open(steady.index) as history, pytest.raises(ConfigurationError, match="did you mean 'parquet'"):
        exports.export(history, steady.root / "out", kind="parket")


def test_sparkline_of_equal_and_of_missing_values():
    """A level line in the middle; a dot for what is missing; nothing for nothing."""
    assert (sparkline([2.0, 2.0]), sparkline([1.0, None, 2.0]), sparkline([])) == ("▄▄", "▁·█", "")
