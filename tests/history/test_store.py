"""The index: what goes in, what is refused, and that nothing is lost."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_physics.errors import RecordError
from pytest_physics.history import build, store
from pytest_physics.history.build import add_runs, rebuild
from pytest_physics.history.entries import milliseconds, read_entry
from pytest_physics.history.store import FORMAT, HistoryIndex, IndexUnusableError

METRIC = "toy: energy"


def outcomes(added) -> list[str]:
    return [item.outcome for item in added]


def values(index) -> list[float | None]:
    with HistoryIndex.open(index) as history:
        return [point.value for series in history.series(METRIC) for point in series.points]


def test_series_is_in_the_order_of_time_whatever_the_order_of_adding(nights):
    """Runs are ordered by their start, not by when they came into the index."""
    paths = [nights.run(value) for value in (1.0, 2.0, 3.0)]
    add_runs(nights.index, [paths[2], paths[0], paths[1]])
    assert values(nights.index) == [1.0, 2.0, 3.0]


def test_adding_a_run_twice_changes_nothing(nights):
    """The same run is known by its id and its contents."""
    path = nights.run(5.0)
    assert outcomes(add_runs(nights.index, [path])) == ["added"]
    assert outcomes(add_runs(nights.index, [path, path])) == ["known", "known"]
    assert values(nights.index) == [5.0]


def test_directory_of_runs_is_searched(nights):
    """A place that is no run is searched below."""
    for value in (1.0, 2.0):
        nights.run(value)
    assert outcomes(add_runs(nights.index, [nights.root])) == ["added", "added"]


def test_moved_run_keeps_its_place_in_the_series(nights):
    """A run whose directory was renamed on disk is the same run."""
    path = nights.run(5.0)
    add_runs(nights.index, [path])
    moved = path.rename(nights.root / path.name)
    (item,) = add_runs(nights.index, [moved])
    assert (item.outcome, values(nights.index)) == ("moved", [5.0])
    assert str(path) in item.note
    with HistoryIndex.open(nights.index) as history:
        assert history.paths() == [moved]


def test_copy_of_a_run_beside_it_is_named_and_not_counted(nights):
    """Two directories with one id are one run."""
    path = nights.run(5.0)
    add_runs(nights.index, [path])
    copy = nights.root / "elsewhere" / path.name
    shutil.copytree(path, copy)
    (item,) = add_runs(nights.index, [copy])
    assert item.outcome == "copy"
    assert str(path) in item.note
    assert values(nights.index) == [5.0]


def test_edited_results_are_refused_and_the_others_are_added(nights):
    """A corrupt run in the set is reported and skipped; it stays in the index with its reason."""
    paths = [nights.run(value) for value in (1.0, 2.0, 3.0)]
    results = paths[1] / "results.jsonl"
    results.write_text(results.read_text().replace('"value":2.0', '"value":1.5'))
    added = add_runs(nights.index, paths)
    assert outcomes(added) == ["added", "refused", "added"]
    assert "is not what the manifest says" in added[1].note
    assert values(nights.index) == [1.0, 3.0]
    with HistoryIndex.open(nights.index) as history:
        ((where, state, reason),) = history.set_aside()
    assert (where, state) == (str(paths[1]), "refused")
    assert "results.jsonl" in reason


@pytest.mark.parametrize("broken", ["{", '{"schema_version": 1}', "[]", "\x00"])
def test_unreadable_run_is_refused_in_words(nights, broken):
    """Whatever stands in ``run.json`` costs that run only."""
    good, bad = nights.run(1.0), nights.run(2.0)
    (bad / "run.json").write_text(broken)
    assert outcomes(add_runs(nights.index, [bad, good])) == ["refused", "added"]


def test_other_schema_version_is_refused(nights):
    """A run of another format is named with both versions."""
    path = nights.run(1.0)
    run = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**run, "schema_version": 99}))
    entry = read_entry(path)
    assert entry.state == "refused"
    assert "99" in entry.reason


def test_run_that_becomes_corrupt_loses_its_numbers_and_not_its_row(nights):
    """Adding again looks again."""
    path = nights.run(5.0)
    add_runs(nights.index, [path])
    (path / "MANIFEST.sha256").unlink()
    assert outcomes(add_runs(nights.index, [path])) == ["refused"]
    assert values(nights.index) == []
    with HistoryIndex.open(nights.index) as history:
        assert history.counts() == {"refused": 1}


def test_repaired_run_is_used_again(nights):
    """A refusal is not for ever."""
    path = nights.run(5.0)
    manifest = (path / "MANIFEST.sha256").read_text()
    (path / "MANIFEST.sha256").unlink()
    add_runs(nights.index, [path])
    (path / "MANIFEST.sha256").write_text(manifest)
    assert outcomes(add_runs(nights.index, [path])) == ["changed"]
    assert values(nights.index) == [5.0]


def test_incomplete_run_is_listed_and_not_used(nights):
    """What a run measured before it was interrupted does not count."""
    path = nights.run(5.0, end="interrupted")
    (item,) = add_runs(nights.index, [path])
    assert (item.outcome, item.note) == ("incomplete", "interrupted")
    assert values(nights.index) == []


def test_incomplete_run_that_completed_later_is_used(nights):
    """A run that was still running when it was added."""
    path = nights.run(5.0)
    complete = {name: (path / name).read_text() for name in ("run.json", "MANIFEST.sha256")}
    (path / "run.json").write_text(complete["run.json"].replace('"completed"', '"running"'))
    assert outcomes(add_runs(nights.index, [path])) == ["incomplete"]
    (path / "run.json").write_text(complete["run.json"])
    assert outcomes(add_runs(nights.index, [path])) == ["changed"]


def test_result_with_a_refusing_gate_stands_in_the_series_unused(nights):
    """A number that its own gates refuse is kept with the reason."""
    from dataclasses import replace

    from pytest_physics.metrology.quality import Quality
    from pytest_physics.record import registry

    def leaf(parameters, data):
        from pytest_physics.metrology.uncertainty import Estimate, Gate

        gate = Gate(name="idle", scope="gpu", measured=2.0, limit=1.0, unit="W", passed=False, reason="it was not idle")
        return replace(Estimate.exact(7.0, "J"), gates=(gate,), quality=Quality.GOOD)

    def record(session):
        from pytest_physics.metrology.uncertainty import Estimate, Recipe

        session.result("toy", "energy", Estimate(value=0.0, unit="J", recipe=Recipe(op="test.refused")))

    nights.monkeypatch.setitem(registry.LEAVES, "test.refused", leaf)
    (item,) = add_runs(nights.index, [nights.run(record=record)])
    (value,) = item.entry.values
    assert value.value == 7.0
    assert value.reason == "gate 'idle' refuses: it was not idle"


def test_verify_at_adding_refuses_what_does_not_follow(nights):
    """With a manifest that was renewed after the edit only recomputing finds it."""
    from pytest_physics.record.writer import RunWriter

    path = nights.run(5.0)
    results = path / "results.jsonl"
    results.write_text(results.read_text().replace('"value":5.0', '"value":4.0', 1))
    writer = RunWriter(path)
    writer.manifest()
    writer.close()
    assert outcomes(add_runs(nights.index, [path])) == ["added"]
    assert outcomes(add_runs(nights.index, [path], verify=True)) == ["refused"]


# --- the file -----------------------------------------------------------------------------------------------------------------


def test_absent_index_names_the_command(tmp_path):
    """Asking does not make an index."""
    with pytest.raises(RecordError, match="history add"):
        HistoryIndex.open(tmp_path / "none.sqlite3")
    assert not (tmp_path / "none.sqlite3").exists()


def test_other_format_is_refused_and_rebuild_heals_it(nights):
    """An index of another version is never guessed at; it is made anew from the runs that it names."""
    paths = nights.history([1.0, 2.0])
    database = sqlite3.connect(nights.index)
    database.execute(f"PRAGMA user_version={FORMAT + 1}")
    database.execute("DROP TABLE points")
    database.close()
    for action in (lambda: HistoryIndex.open(nights.index), lambda: add_runs(nights.index, paths)):
        with pytest.raises(
            IndexUnusableError, match=rf"format {FORMAT + 1}, this version reads {FORMAT}; run 'pytest-physics history rebuild'"
        ):
            action()
    added, gone, _ = rebuild(nights.index, [])
    assert (outcomes(added), gone) == (["added", "added"], [])
    assert values(nights.index) == [1.0, 2.0]


@pytest.mark.parametrize("action", [HistoryIndex.open, lambda path: rebuild(path, [path.parent])])
def test_file_that_is_no_database_is_refused_and_kept(tmp_path, action):
    """A wrong ``--index`` costs nothing, and nothing is set aside where there is no run to make an index from."""
    path = tmp_path / "results.csv"
    path.write_text("a,b\n" * 1000)
    with pytest.raises(RecordError, match=r"damaged, (or no index|and there is no run directory)"):
        action(path)
    assert path.read_text() == "a,b\n" * 1000


@pytest.mark.parametrize("action", [HistoryIndex.open, lambda path: rebuild(path, [path.parent])])
def test_database_of_others_is_refused_and_kept(nights, action):
    """Other people's tables are not dropped."""
    nights.run(1.0)
    path = nights.root / "other.sqlite3"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE precious (x)")
    database.close()
    with pytest.raises(IndexUnusableError, match="no index of this package"):
        action(path)
    assert sqlite3.connect(path).execute("SELECT name FROM sqlite_master").fetchall() == [("precious",)]


DAMAGE = {
    "truncated": lambda raw: raw[: len(raw) // 2 + 7],
    "short": lambda raw: raw[:50],
    "text": lambda raw: b"a,b\n" * 1000,
    "middle": lambda raw: raw[:8192] + b"\xa5" * 4096 + raw[12288:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_rebuild_sets_a_damaged_index_aside_and_makes_it_anew(nights, kind):
    """Nothing of the damaged file is lost or overwritten, an earlier one neither, and the new index knows nothing of its log."""
    nights.history([1.0, 2.0])
    broken = DAMAGE[kind](nights.index.read_bytes())
    for name in (nights.index, f"{nights.index}.damaged", f"{nights.index}-wal"):
        Path(name).write_bytes(broken)
    added, gone, aside = rebuild(nights.index, [nights.root])
    assert (outcomes(added), gone, aside) == (["added", "added"], [], Path(f"{nights.index}.damaged1"))
    assert aside.read_bytes() == Path(f"{nights.index}.damaged").read_bytes() == broken
    assert values(nights.index) == [1.0, 2.0]


def test_damaged_database_of_others_is_kept(nights):
    """Its header says whose it is."""
    nights.run(1.0)
    path = nights.root / "other.sqlite3"
    database = sqlite3.connect(path)
    database.execute("PRAGMA application_id=77")
    database.execute("CREATE TABLE precious (x)")
    database.close()
    path.write_bytes(broken := path.read_bytes()[:4096] + b"\xa5" * 4096)
    with pytest.raises(IndexUnusableError, match="damaged, or no index"):
        rebuild(path, [nights.root])
    assert path.read_bytes() == broken


@pytest.mark.parametrize("beside", ["-wal", ""])
def test_index_that_may_only_be_read_is_read(nights, beside):
    """One on a read-only mount answers; adding to it is refused in words. Another process may have it open meanwhile, or not."""
    path = nights.run(3.0)
    nights.history([1.0, 2.0])
    writer = HistoryIndex.open(nights.index) if beside else None
    nights.monkeypatch.setattr(store.os, "access", lambda *_: False)
    assert values(nights.index) == [1.0, 2.0]
    with HistoryIndex.open(nights.index) as history, pytest.raises(RecordError, match=r"readonly.*is its directory writable"):
        history.add([read_entry(path)])
    if writer is not None:
        writer.close()


def test_damage_in_the_middle_is_found_by_an_export_too(nights, tmp_path):
    """Whatever reads it says the same."""
    nights.history([1.0, 2.0])
    content = bytearray(nights.index.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    nights.index.write_bytes(content)
    with pytest.raises(IndexUnusableError, match="damaged"), HistoryIndex.open(nights.index) as history:
        list(history.rows("results")[1])


@pytest.mark.parametrize("label", ["2026-03-29T02:30:00Z", "2026-03-29T02:30:00", "2026-03-29T04:30:00+02:00"])
def test_time_is_the_same_on_every_machine(monkeypatch, label):
    """An hour that summer time leaves out, read where it does: labels are UTC."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert milliseconds(label) == 1774751400000
    finally:
        monkeypatch.undo()
        time.tzset()


def test_runs_of_one_moment_are_all_kept(nights):
    """Equal start times: each run is a point, in the order of adding; the same in every reading."""
    paths = []
    for value in (3.0, 1.0, 2.0):
        nights.night = 5
        paths.append(nights.run(value))
    add_runs(nights.index, paths)
    assert values(nights.index) == values(nights.index) == [3.0, 1.0, 2.0]


def test_rebuild_names_runs_that_are_gone(nights):
    """The directories are the truth: what is not there is not in a new index, and is said."""
    first, second = nights.history([1.0, 2.0])
    shutil.rmtree(first)
    added, gone, _ = rebuild(nights.index, [nights.root])
    assert (outcomes(added), gone) == (["added"], [first])
    assert second.name == added[0].entry.run_id


def test_rebuild_without_any_run_keeps_the_index(nights):
    """Nothing to make it from is an error, not an empty index."""
    (path,) = nights.history([1.0])
    shutil.rmtree(path)
    with pytest.raises(RecordError, match="no run directory"):
        rebuild(nights.index, [nights.root])
    assert values(nights.index) == [1.0]


def test_failure_on_the_way_leaves_the_index_as_it_was(nights):
    """Rebuilding is one transaction."""
    nights.history([1.0])

    def broken():
        yield [read_entry(nights.root / "runs" / "none")]
        raise MemoryError

    history = HistoryIndex(nights.index)
    with pytest.raises(MemoryError):
        history.make_anew(broken())
    history.close()
    assert values(nights.index) == [1.0]


ADDER = """
import sys
from pathlib import Path
from pytest_physics.history.build import add_runs
for path in map(Path, sys.argv[2:]):
    add_runs(Path(sys.argv[1]), [path])
"""


def test_two_writers_at_once_lose_nothing(nights):
    """Two processes make one index and add to it run by run at the same time."""
    paths = [nights.run(float(i)) for i in range(24)]
    command = [sys.executable, "-c", ADDER, str(nights.index)]
    writers = [
        subprocess.Popen([*command, *map(str, half)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for half in (paths[::2], paths[1::2])
    ]
    said = [writer.communicate(timeout=120)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], said
    assert values(nights.index) == [float(i) for i in range(24)]


def test_writer_that_keeps_the_lock_is_named_after_a_while(nights):
    """Nobody waits without end; the message says that the runs can be added again."""
    path = nights.run(2.0)
    nights.history([1.0])
    nights.monkeypatch.setattr(store, "BUSY_S", 0.1)
    other = sqlite3.connect(nights.index, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RecordError, match="locked by another process"):
        add_runs(nights.index, [path])
    other.execute("ROLLBACK")
    other.close()
    assert outcomes(add_runs(nights.index, [path])) == ["added"]


def test_many_runs_are_read_by_several_processes_in_order(nights):
    """From some number of runs on reading is spread; the order stays."""
    nights.monkeypatch.setattr(build, "MANY", 4)
    nights.monkeypatch.setattr(build, "BATCH", 2)
    paths = [nights.run(float(i)) for i in range(7)]
    entries = [entry for batch in build.batches(paths, processes=2) for entry in batch]
    assert [entry.run_id for entry in entries] == [path.name for path in paths]
