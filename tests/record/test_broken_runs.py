"""Run directories that are cut short, incomplete, foreign or of another time: one clear message, from every command."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from pytest_physics import cli
from pytest_physics.record.reader import RunReader
from pytest_physics.record.verify import verify_run
from pytest_physics.sampling.writer import HEADER_BYTES

from .edits import FILES

COMMANDS = {"verify": [], "report": [], "export": ["--output"]}


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run ``pytest-physics`` in this process: exit code and everything it printed."""

    def run(name, *arguments):
        extra = ["--output", str(tmp_path / "out")] if name == "export" else []
        monkeypatch.setattr(sys, "argv", ["pytest-physics", name, *map(str, arguments), *extra])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        captured = capsys.readouterr()
        return raised.value.code, captured.out + captured.err

    return run


def cut(path, keep):
    """Cut a file short."""
    path.write_bytes(path.read_bytes()[: keep if keep >= 0 else path.stat().st_size + keep])


BROKEN = {
    "a torn line at the end": (lambda run: cut(run / "windows.jsonl", -7), "windows.jsonl ends in an incomplete line"),
    "a torn line in the middle": (
        lambda run: (run / "claims.jsonl").write_text((run / "claims.jsonl").read_text().replace("}\n", "\n", 1)),
        "claims.jsonl, line 1",
    ),
    "half a json": (lambda run: cut(run / "run.json", 900), "run.json is not readable JSON"),
    "an empty json": (lambda run: cut(run / "run.json", 0), "run.json is not readable JSON"),
    "half a list": (lambda run: cut(run / "baseline.json", 900), "baseline.json is not readable JSON"),
    "not a list": (lambda run: (run / "sensor.json").write_text("{}"), "sensor.json must hold a list"),
    "a trace without its header": (lambda run: cut(run / "trace-gpu.npy", 60), "trace-gpu.npy is not a readable trace"),
    "a trace of nothing": (lambda run: cut(run / "trace-gpu.npy", 0), "trace-gpu.npy is not a readable trace"),
    "no trace": (lambda run: (run / "trace-gpu.npy").unlink(), "trace-gpu.npy"),
    "no sensor": (lambda run: (run / "sensor.json").unlink(), "sensor.json"),
    "no baselines": (lambda run: (run / "baseline.json").unlink(), "baseline.json"),
    "no windows": (lambda run: (run / "windows.jsonl").unlink(), "windows.jsonl"),
    "half a truth": (lambda run: cut(run / "truth-gpu.npy", 5000), "truth-gpu.npy is not readable"),
    "not text": (lambda run: (run / "claims.jsonl").write_bytes(b"\xff\xfe\n"), "claims.jsonl, line 1"),
}


READABLE_STILL = {
    *(("export", case) for case in ("no baselines", "half a truth")),
    *(("report", case) for case in ("no sensor", "no baselines", "half a truth")),
    *(("report", case) for case in ("a trace without its header", "a trace of nothing", "no trace")),
}
"""What a command can do without that artifact: the report says that the figures of an unreadable trace are missing."""


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_artifact_ends_in_one_message(run_copy, command, name, case):
    """Exit code 1 or 2 and the file's name; never a traceback. The report may leave out what it cannot read, if it says so."""
    damage, message = BROKEN[case]
    damage(run_copy)
    code, text = command(name, run_copy)
    assert "Traceback" not in text
    if name == "verify":
        assert code in {1, 2}
        assert message in " ".join(text.split())
    elif code != 0:
        assert code == 2
        assert text.startswith("error: ") or "\nerror: " in text
    else:
        assert (name, case) in READABLE_STILL


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("version", "shown"), [(2, "2"), (0, "0"), (None, "None"), ("1", "'1'")])
def test_another_schema_version_is_refused(run_copy, command, name, version, shown):
    """The version found, the version read, and what to do."""
    record = FILES["run.json"].read(run_copy)
    FILES["run.json"].write(run_copy, {**record, "schema_version": version})
    code, text = command(name, run_copy)
    assert code == 2
    assert f"has schema version {shown}; this version reads 1. Use the pytest-physics version that wrote it." in " ".join(text.split())


@pytest.mark.parametrize("file", FILES)
def test_a_foreign_key_is_refused(run_copy, command, file):
    """A key that no record has is misspelt or edited: the message names it, and the line or entry."""
    whole = FILES[file].read(run_copy)
    (whole if isinstance(whole, dict) else whole[0])["colour"] = "blue"
    FILES[file].write(run_copy, whole)
    code, text = command("verify", run_copy)
    assert code in {1, 2}
    assert "colour: Extra inputs are not permitted" in " ".join(text.split())
    assert file in text


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("case", ["a directory", "a file", "nothing", "another run's parent"])
def test_what_is_no_run_is_refused(finished, tmp_path, command, name, case):
    """The path, and what to give instead."""
    paths = {
        "a directory": tmp_path,
        "a file": finished / "run.json",
        "nothing": tmp_path / "none",
        "another run's parent": finished.parent,
    }
    code, text = command(name, paths[case])
    assert code == 2
    assert "is not a run directory: it has no run.json. Give the directory that a report line names." in " ".join(text.split())


def test_a_torn_last_line_of_a_killed_run_is_left_out(run_copy):
    """In a run that was killed the last line may be half written; the whole ones before it are read."""
    whole = len(RunReader(run_copy).windows)
    record = FILES["run.json"].read(run_copy)
    FILES["run.json"].write(run_copy, {**record, "state": "running", "end_reason": "running", "ended_utc": None})
    cut(run_copy / "windows.jsonl", -7)
    assert len(RunReader(run_copy).windows) == whole - 1


def test_a_torn_row_of_a_trace_is_left_out(run_copy):
    """A sampler killed in a write leaves part of a row: whole rows are read, as many as there are."""
    rows = len(RunReader(run_copy).trace("gpu"))
    cut(run_copy / "trace-gpu.npy", -5)
    trace = RunReader(run_copy).trace("gpu")
    assert len(trace) == rows - 1
    assert np.all(np.diff(trace.tick) == 1)


def test_a_trace_cut_to_its_header_has_no_samples(run_copy):
    """No row is not an error of the file; what needed the rows cannot be recomputed, and verify says so."""
    cut(run_copy / "trace-gpu.npy", HEADER_BYTES)
    assert len(RunReader(run_copy).trace("gpu")) == 0
    assert not verify_run(run_copy).passed


def test_a_run_that_was_killed_is_incomplete_not_wrong(run_copy, command):
    """Verify says that it is incomplete, why, and what is readable; what was recorded still follows from the samples."""
    record = FILES["run.json"].read(run_copy)
    instrument = record["instruments"]["gpu"] | {"ended": None, "sampler_state": "running", "statistics": {}}
    killed = {**record, "state": "running", "end_reason": "running", "ended_utc": None, "instruments": {"gpu": instrument}}
    FILES["run.json"].write(run_copy, killed)
    for name in ("MANIFEST.sha256", "report.html"):
        (run_copy / name).unlink()
    code, text = command("verify", run_copy)
    assert code == 1
    shown = " ".join(text.split())
    assert "is incomplete: it was killed, its disk was full, or it still runs. Readable: " in shown
    assert "samples of 'gpu', 19 windows, 2 baselines, 40 results, 7 claims" in shown


def test_why_a_run_is_incomplete_ends_with_one_stop(run_copy, command):
    """An error's message has its own."""
    record = FILES["run.json"].read(run_copy)
    FILES["run.json"].write(run_copy, {**record, "state": "incomplete", "end_reason": "RecordError: no space; free some."})
    code, text = command("verify", run_copy)
    assert code == 1
    assert "is incomplete: RecordError: no space; free some. Readable: " in " ".join(text.split())


def test_json_without_a_newline_at_the_end_is_torn(run_copy, command):
    """A file of lines ends with a line's end, or something is missing."""
    text = (run_copy / "results.jsonl").read_text()
    (run_copy / "results.jsonl").write_text(text.rstrip("\n"))
    assert json.loads(text.splitlines()[-1])
    code, shown = command("verify", run_copy)
    assert code == 1
    assert "results.jsonl ends in an incomplete line; it was cut short. Restore it from a copy." in " ".join(shown.split())
