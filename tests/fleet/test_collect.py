"""Collecting: what is used, what is not and why, and that nothing is lost on the way."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import asdict, replace

import pytest
from fleet.fleets import Engine, made_run, new_fleet, publish

from pytest_physics.errors import RecordError
from pytest_physics.fleet import collect as collecting
from pytest_physics.fleet.collect import Outcome, collect, import_source
from pytest_physics.fleet.executor import TaskState, TaskStatus
from pytest_physics.fleet.folder import FleetFolder
from pytest_physics.fleet.page import build_page


def ended(*tasks, reason=""):
    return {task: TaskStatus(state=TaskState.ENDED, reason=reason) for task in tasks}


def outcomes(found):
    return [row.outcome for row in found.rows]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A fleet of two tasks that have ended well; tests copy it."""
    folder = new_fleet(tmp_path_factory.mktemp("pristine"), 2)
    publish(folder, 0, node="n1")
    publish(folder, 1, node="n2", seed=1)
    return folder.path


@pytest.fixture
def fleet(pristine, tmp_path):
    return FleetFolder(shutil.copytree(pristine, tmp_path / "fleet"))


def run_of(fleet, task):
    (run,) = (path for path in fleet.finished_tasks()[task].iterdir() if path.is_dir())
    return run


def test_good_runs_are_merged_again_and_again(fleet):
    """Collecting twice gives the same rows; the second time nothing is verified again."""
    first = collect(fleet, Engine(ended(0, 1)))
    assert outcomes(first) == [Outcome.MERGED, Outcome.MERGED]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "verify_run", lambda _: pytest.fail("verified again"))
        assert collect(fleet, Engine(ended(0, 1))).rows == first.rows


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        (TaskState.WAITING, Outcome.WAITING), (TaskState.RUNNING, Outcome.RUNNING), (TaskState.CANCELLED, Outcome.CANCELLED),
        (TaskState.UNKNOWN, Outcome.UNKNOWN), (TaskState.NOT_SUBMITTED, Outcome.NOT_SUBMITTED), (TaskState.ENDED, Outcome.LOST),
    ],
)  # fmt: skip
def test_without_a_marker_the_engine_is_believed(made_fleet, state, outcome):
    """Gone from the queue without an end marker is LOST, never passed."""
    folder = made_fleet()
    found = collect(folder, Engine({0: TaskStatus(state=state, node="n1", reason="why")}))
    assert outcomes(found) == [outcome]
    assert build_page(folder).is_file()


def test_a_marker_outweighs_the_engine(fleet):
    """A result that is there is a result, whatever the engine has forgotten."""
    found = collect(fleet, Engine({task: TaskStatus(state=TaskState.UNKNOWN) for task in (0, 1)}))
    assert outcomes(found) == [Outcome.MERGED, Outcome.MERGED]


def test_a_job_that_left_no_trace_may_not_share_the_file_system(made_fleet):
    """The message names the node and what to do."""
    (row,) = collect(made_fleet(), Engine({0: TaskStatus(state=TaskState.ENDED, node="n3", reason="FAILED")})).rows
    assert "node 'n3' may not share this file system" in row.reason
    assert "by hand" in row.reason


def test_a_lost_task_is_merged_when_its_marker_shows_up(fleet, tmp_path):
    """LOST is what was known then; a file system may be late."""
    folder = fleet.finished_tasks()[1]
    away = shutil.move(folder, tmp_path / "late")
    assert outcomes(collect(fleet, Engine(ended(0, 1)))) == [Outcome.MERGED, Outcome.LOST]
    shutil.move(away, folder)
    assert outcomes(collect(fleet, Engine(ended(0, 1)))) == [Outcome.MERGED, Outcome.MERGED]


def test_a_changed_byte_makes_a_run_corrupt_and_no_other(fleet):
    """Checksums of the end marker; the others are merged."""
    path = run_of(fleet, 0) / "windows.jsonl"
    path.write_bytes(path.read_bytes().replace(b"decode", b"dec0de", 1))
    found = collect(fleet, Engine(ended(0, 1)))
    assert outcomes(found) == [Outcome.CORRUPT, Outcome.MERGED]
    assert "windows.jsonl is not what the end marker says" in found.rows[0].reason


def test_a_number_that_does_not_follow_is_corrupt_whatever_the_checksums_say(fleet):
    """An edited result with new checksums is found by ``verify``."""
    from pytest_physics.fleet.folder import done_of
    from pytest_physics.fleet.markers import DONE, checksums
    from pytest_physics.record.writer import digests, manifest_text

    folder, run = fleet.finished_tasks()[0], run_of(fleet, 0)
    lines = (run / "results.jsonl").read_text().splitlines()
    edited = json.loads(lines[0])
    edited["estimate"]["value"] *= 0.5
    (run / "results.jsonl").write_text("\n".join([json.dumps(edited), *lines[1:]]) + "\n")
    (run / "MANIFEST.sha256").write_text(manifest_text(digests(run)))
    (folder / DONE).write_text(json.dumps(asdict(replace(done_of(folder), files=checksums(folder)))))
    found = collect(fleet, Engine(ended(0, 1)))
    assert outcomes(found) == [Outcome.CORRUPT, Outcome.MERGED]
    assert "results.jsonl" in found.rows[0].reason


def test_an_unreadable_run_costs_only_itself(fleet):
    """Half a ``run.json`` is CORRUPT; collecting goes on."""
    (run_of(fleet, 1) / "run.json").write_text('{"schema_ver')
    found = collect(fleet, Engine(ended(0, 1)))
    assert outcomes(found) == [Outcome.MERGED, Outcome.CORRUPT]


def test_a_run_that_changes_after_collecting_is_not_used(fleet):
    """The page reads only what was verified."""
    collect(fleet, Engine(ended(0, 1)))
    claims = run_of(fleet, 0) / "claims.jsonl"
    claims.write_text(claims.read_text().replace("VALIDATED", "REFUTED"))
    page = build_page(fleet).read_text()
    assert "claims.jsonl was changed after it was verified" in page
    assert "1 of 2 runs merged; 1 corrupt" in page


def test_differing_suites_are_not_merged(made_fleet):
    """A node with another checkout is FOREIGN, with the file that differs; so is a run without any file of the fleet."""
    folder = made_fleet(3)
    publish(folder, 0)
    publish(folder, 1, suite={"bench/test_point.py": "another"})
    publish(folder, 2, suite={"elsewhere/test_x.py": "0123456789abcdef"})
    found = collect(folder, Engine(ended(0, 1, 2)))
    assert outcomes(found) == [Outcome.MERGED, Outcome.FOREIGN, Outcome.FOREIGN]
    assert "bench/test_point.py" in found.rows[1].reason
    assert "none of its test files" in found.rows[2].reason


def test_runs_copied_by_hand_come_in_from_tar_and_directory(fleet, made_fleet, tmp_path):
    """A task's folder in a tar file, a bare run directory: both are merged, once, and the sources stay."""
    (tmp_path / "second").mkdir()
    away = shutil.move(fleet.finished_tasks()[1], tmp_path / "second" / fleet.finished_tasks()[1].name)
    with tarfile.open(tmp_path / "n2.tar.gz", "w:gz") as archive:
        archive.add(away, arcname=away.name)
    (tmp_path / "hand").mkdir()
    bare = made_run(tmp_path / "hand", seed=2)
    for _ in range(2):
        found = collect(fleet, Engine(ended(0, 1)), sources=[tmp_path / "n2.tar.gz", bare])
        assert [(row.task, row.outcome) for row in found.rows] == [(0, "MERGED"), (1, "MERGED"), (None, "MERGED")]
    assert bare.is_dir()
    assert not list(fleet.asides())


def _tar(path, name, content=b"x"):
    import io

    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: _tar(p / "a.tar", "../../escaped"), "leads out of its directory"),
        (lambda p: _tar(p / "a.tar", "/etc/escaped"), "leads out of its directory"),
        (lambda p: _tar(p / "a.tar", "plain.txt"), "holds no run"),
        (lambda p: (p / "a.tar").write_bytes(b"no tar") and p / "a.tar", "is no readable tar file"),
        (lambda p: p / "absent.tar", "there is no"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_message(made_fleet, tmp_path, make, message):
    """Nothing is written outside of the fleet, and nothing is left inside."""
    folder = made_fleet()
    with pytest.raises(RecordError, match=message):
        import_source(folder, make(tmp_path))
    assert list(folder.runs.iterdir()) == []
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    ("started", "ended_at", "words"),
    [
        (-1.9, 10, ""),
        (-2.1, 10, "2 s behind the submitting host's"),
        (0, 101.9, ""),
        (0, 102.1, "2 s ahead of this host's"),
    ],
)
def test_clocks_apart_are_said_and_refuse_nothing(made_fleet, monkeypatch, started, ended_at, words):
    """A run that began before it was submitted, or ends in the future, by more than two seconds."""
    from datetime import UTC, datetime, timedelta

    zero = datetime(2030, 1, 1, tzinfo=UTC)

    def at(seconds):
        return (zero + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    folder = made_fleet(submitted_utc=at(0))
    job = type("Job", (), {"fleet": "toy"})()
    record = type("Run", (), {"started_utc": at(started), "ended_utc": at(ended_at), "job": job})()
    monkeypatch.setattr(collecting.clock, "utc_now", lambda: at(100))
    note = collecting.clock_note(record, folder)
    assert (words in note) if words else note == ""


def test_a_folder_that_is_no_fleet_is_refused(tmp_path):
    """And so is a second fleet in one directory."""
    with pytest.raises(RecordError, match="no fleet's directory"):
        _ = FleetFolder(tmp_path).plan
