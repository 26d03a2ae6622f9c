"""``--physics-compare``: verdicts of the history inside a pytest run."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from scipy import stats

from pytest_physics.history.build import add_runs
from pytest_physics.record.reader import RunReader
from pytest_physics.record.verify import verify_run
from pytest_physics.record.writer import digests, manifest_text
from pytest_physics.report.format import number

BENCH = """
import os
from pytest_physics import Estimate

def test_energy(rig):
    value = float(os.environ["TOY_VALUE"])
    rig.session.result("toy", "energy", Estimate.given(value, "J", u=0.1, source="toy"))
    rig.session.result("toy", "temperature", Estimate.given(50.0, "°C", u=0.1))
"""
VALUES = [100.3, 99.1, 100.9, 99.8, 101.2, 98.7, 100.1, 99.5, 100.6, 99.9, 101.0, 98.9]


@pytest.fixture
def toy(pytester, monkeypatch):
    """A project whose run reports ``TOY_VALUE`` joules on a twin."""
    pytester.makepyfile(test_toy=BENCH)

    def run(value, *arguments, process=False):
        monkeypatch.setenv("TOY_VALUE", str(value))
        start = pytester.runpytest_subprocess if process else pytester.runpytest
        return start("--physics", "--physics-device", "twin", "-p", "no:cacheprovider", *arguments)

    return run


@pytest.fixture
def history(pytester, toy):
    """Twelve such runs in the index of the settings: one, and copies of it under other ids, nights and values."""
    assert toy(VALUES[0]).ret == 0
    runs = pytester.path / "runs"
    first = latest(pytester)
    for night, value in enumerate(VALUES[1:], start=1):
        copied(first, runs / f"202601{night:02}T020000Z-{night:06x}", value)
    add_runs(runs / "history.sqlite3", [runs])
    return runs / "history.sqlite3"


def copied(run, target, value):
    """The same run on another night with another value; the index reads no more of it."""
    target.mkdir()
    record = json.loads((run / "run.json").read_text())
    record |= {"run_id": target.name, "started_utc": f"2026-01-{target.name[6:8]}T02:00:00.000Z"}
    (target / "run.json").write_text(json.dumps(record))
    results = (run / "results.jsonl").read_text()
    (target / "results.jsonl").write_text(results.replace(f'"value":{VALUES[0]}', f'"value":{value}'))
    (target / "MANIFEST.sha256").write_text(manifest_text(digests(target)))


def latest(pytester):
    return max((path for path in (pytester.path / "runs").iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime_ns)


def test_verdicts_decide_the_exit_code_and_the_run_verifies_without_the_index(history, toy, pytester):
    """No worse: 0; unknown: 10; worse: 1. Table, change and claim are recomputed from the run alone."""
    for value, code, word in ((100.0, 0, "VALIDATED"), (105.0, 10, "INCONCLUSIVE"), (120.0, 1, "REFUTED")):
        result = toy(value, "--physics-compare", "--junitxml=junit.xml")
        assert result.ret == code
        result.stdout.fnmatch_lines([f"{word}*toy: energy: no worse than earlier runs by more than 5 %"])
        case = next(c for c in ET.parse(pytester.path / "junit.xml").iter("testcase") if c.get("classname") == "history")
        assert (case.get("name"), case.find("failure") is None) == ("toy: energy", code == 0)
    history.unlink()
    run = latest(pytester)
    assert verify_run(run).findings == ()
    (claim,) = RunReader(run).claims
    assert (claim.id, claim.test) == ("history.toy-energy", "history::toy: energy")
    page = (run / "report.html").read_text()
    assert "fig-history" in page
    band = 100 * stats.t.ppf(0.975, 11) * np.std(VALUES, ddof=1) * math.sqrt(1 + 1 / 12) / np.mean(VALUES)
    assert f"± {number(band, digits=2)} %" in page


def test_inconclusive_comparison_says_how_many_runs_would_settle_it(history, toy, pytester):
    """In the terminal and in JUnit, as a warning that refuses nothing; the run verifies with it."""
    result = toy(103.5, "--physics-compare", "--junitxml=junit.xml")
    assert result.ret == 10
    wanted = "more new runs? would settle it nine times in ten"
    assert re.search(wanted, " ".join(result.stdout.str().split()))
    assert re.search(wanted, (pytester.path / "junit.xml").read_text())
    assert verify_run(latest(pytester)).findings == ()


def test_edited_snapshot_is_found_by_verify(history, toy, pytester):
    """The earlier values are artifacts like any other."""
    toy(120.0, "--physics-compare")
    run = latest(pytester)
    table = np.load(run / "table-history-1.npy")
    table["value"] *= 1.3
    np.save(run / "table-history-1.npy", table)
    assert any(finding.where.startswith("claims.jsonl") for finding in verify_run(run).findings)


def test_comparisons_are_no_metrics_themselves(history, toy, pytester):
    """A compared run joins the history with what it measured, not with what was made of it."""
    toy(100.0, "--physics-compare")
    (item,) = add_runs(history, [latest(pytester)])
    assert [value.metric for value in item.entry.values] == ["toy: energy", "toy: temperature"]


def test_without_an_index_every_comparison_is_invalid(toy):
    """The first night: nothing to compare with, and said so."""
    result = toy(100.0, "--physics-compare")
    assert result.ret == 10
    result.stdout.fnmatch_lines(["*0 valid earlier runs under equal conditions (needed: 5)*", "note: there is no history in *"])
    result.stdout.fnmatch_lines(["*→ add runs made under these conditions: *"])
    result.stdout.no_fnmatch_line("*data quality*")
    result.stdout.no_fnmatch_line("*lengthen the window*")


def test_unusable_index_is_refused_before_anything_is_measured(history, toy, pytester):
    """Hours of measuring must not end in a message about a file."""
    database = sqlite3.connect(history)
    database.execute("PRAGMA user_version=99")
    database.close()
    before = len(list((pytester.path / "runs").iterdir()))
    result = toy(100.0, "--physics-compare")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*has format 99*history rebuild*"])
    assert len(list((pytester.path / "runs").iterdir())) == before


def test_index_that_breaks_during_the_run_costs_no_measurement(history, toy, pytester):
    """The run is complete; what could not be compared is a problem on the last lines."""
    pytester.makeconftest(f"import pathlib\ndef pytest_sessionstart(session): pathlib.Path({str(history)!r}).write_text('x' * 5000)\n")
    pytester.makeini("[pytest]\n")
    result = toy(100.0, "--physics-compare")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["problem: not compared with earlier runs: *damaged*"])
    assert RunReader(latest(pytester)).run.state == "completed"


def test_interrupted_run_is_not_compared(history, toy, pytester):
    """What was measured before an interruption is not the run."""
    pytester.makepyfile(test_zz="def test_stop(rig):\n    raise KeyboardInterrupt\n")
    result = toy(120.0, "--physics-compare", process=True)
    result.stdout.fnmatch_lines(["note: not compared with earlier runs: the run did not end by itself (interrupted)"])
    assert not RunReader(latest(pytester)).claims


def test_without_the_option_nothing_is_compared(history, toy, pytester):
    """An index beside the runs changes nothing by itself."""
    assert toy(120.0).ret == 0
    assert RunReader(latest(pytester)).tables == []
