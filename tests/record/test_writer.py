"""Writing a run: whole lines, whole files, one directory per run."""

from __future__ import annotations

import errno
import os

import pytest

from pytest_physics.errors import RecordError
from pytest_physics.record import writer
from pytest_physics.record.schema import RunRecord, state_after
from pytest_physics.record.writer import RunWriter, digests, manifest_digests, new_run_directory, renew_manifest, replace_text


@pytest.fixture
def open_writer(tmp_path):
    made = RunWriter(tmp_path)
    yield made
    made.close()


def test_a_line_that_the_disk_cuts_short_is_taken_back(open_writer, tmp_path, monkeypatch):
    """The file ends at a whole line, the error says where and why, and the next line is whole again."""
    open_writer.window_line(b'{"id":"a"}\n')
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:4]))
    with pytest.raises(RecordError, match=r"cannot write .*windows.jsonl: No space left on device; what was written before stays readable"):
        open_writer.window_line(b'{"id":"b"}\n')
    monkeypatch.undo()
    open_writer.window_line(b'{"id":"c"}\n')
    assert (tmp_path / "windows.jsonl").read_bytes() == b'{"id":"a"}\n{"id":"c"}\n'


def test_a_file_that_cannot_be_replaced_stays_the_old_one(tmp_path, monkeypatch):
    """And nothing is left beside it."""
    replace_text(tmp_path / "run.json", "old")

    def refuse(*_arguments, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(tmp_path), "write_text", refuse)
    with pytest.raises(RecordError, match=r"cannot write .*run.json: No space left on device"):
        replace_text(tmp_path / "run.json", "new")
    monkeypatch.undo()
    assert (tmp_path / "run.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_two_runs_never_share_a_directory(tmp_path, monkeypatch):
    """Equal times and equal random digits: the second one is refused, not mixed in."""
    monkeypatch.setattr(writer.secrets, "token_hex", lambda _n: "abc123")
    monkeypatch.setattr(writer, "datetime", type("T", (), {"now": staticmethod(lambda _zone: writer.UTC and _Fixed())}))
    new_run_directory(tmp_path)
    with pytest.raises(RecordError, match="File exists"):
        new_run_directory(tmp_path)


class _Fixed:
    def __format__(self, _spec):
        return "20260101T000000Z"


def test_the_manifest_covers_all_but_itself_and_files_aside(open_writer, tmp_path):
    """In the order of names; what is being written is no artifact yet."""
    for name in ("b.json", "a.json", ".c.json.new"):
        (tmp_path / name).write_text(name)
    open_writer.manifest()
    assert list(manifest_digests(tmp_path)) == ["a.json", "b.json", "windows.jsonl"]
    assert manifest_digests(tmp_path) == digests(tmp_path)


def test_renewing_one_line_leaves_the_others(open_writer, tmp_path):
    """An edited artifact is still found; a run without a manifest gets none this way."""
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "run.json").write_text("old")
    renew_manifest(tmp_path, "report.html")
    assert not (tmp_path / "MANIFEST.sha256").exists()
    open_writer.manifest()
    before = manifest_digests(tmp_path)
    (tmp_path / "report.html").write_text("new")
    (tmp_path / "run.json").write_text("edited")
    renew_manifest(tmp_path, "report.html")
    after = manifest_digests(tmp_path)
    assert after["report.html"] == digests(tmp_path)["report.html"] != before["report.html"]
    assert after["run.json"] == before["run.json"] != digests(tmp_path)["run.json"]


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("running", "running"), ("finished", "completed"), ("stopped: stopping after 1 failures", "completed"),
        ("interrupted", "incomplete"), ("stoppedX", "incomplete"), ("", "incomplete"), ("not all was recorded: x", "incomplete"),
    ],
)  # fmt: skip
def test_states_by_reason(reason, state):
    """One function says it, for the run and for verify."""
    assert state_after(reason) == state
    assert state in RunRecord.model_fields["state"].annotation.__args__
