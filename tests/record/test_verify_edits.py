"""``verify`` finds any single edited value.

Three forgers, each with more means than the one before: one changes bytes; one makes the manifest anew; one also builds the report anew,
so that nothing is left but recomputation. What the third one can change unseen is listed in ``LABELS``, with the reason.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_physics.record import verify
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.verify import CHECKS, verify_run
from pytest_physics.record.writer import digests, manifest_text, renew_manifest
from pytest_physics.report.build import build_report

from .edits import FILES, changes, leaves, sampled

LABELS = {
    "run.json": {
        "command.*": "what was typed",
        "started_utc": "wall time, to the minute (which the run's id says)",
        "ended_utc": "wall time",
        "banner.*": "a sentence; that it says SIMULATED is checked",
        "git.*": "the checkout is not part of the run",
        "environment.*": "the machine is not part of the run",
        "instruments.gpu.started.utc": "wall time",
        "instruments.gpu.ended.utc": "wall time",
        "phases.*.name": "a name",
        "phases.*.t0_ns": "of a phase that no estimate uses, within its instrument's life",
        "phases.*.t1_ns": "of a phase that no estimate uses, within its instrument's life",
    },
    "sensor.json": {"*.evidence": "a sentence"},
    "windows.jsonl": {
        "*.name": "a name",
        "*.labels.*": "a name, where no result states the same coordinate",
        "*.test": "a name",
        "*.t0_ns": "of a window that no estimate uses, within its instrument's life",
        "*.t1_ns": "of a window that no estimate uses, within its phase",
    },
    "results.jsonl": {
        "*.experiment": "a name",
        "*.quantity": "a name",
        "*.test": "a name",
        "*.recipe.parameters.unit": "unit of the work in a law of which only the intercept is reported",
        "*.coordinates.note": "a coordinate that no window carries as a label",
    },
    "claims.jsonl": {
        "*.id": "a name, where no other claim requires it",
        "*.statement": "the claim in words; the report repeats it",
        "*.test": "a name; the report repeats it",
        "*.source": "a place; the report repeats it",
        "*.reason": "of a claim that was never judged: why it was not",
        "*.limit": "of an INVALID claim, from which nothing was computed; the report repeats it",
        "*.operator": "as above",
    },
}
"""What nothing in a run can contradict, with its reason. All of it is under the manifest, and under the digests that the report names."""

RECOMPUTED = [name for name in CHECKS if name not in {"files", "report"}]
OWN_CHECK = {"claims.jsonl": ["claims"], "results.jsonl": ["results"]}
"""Nothing else looks into these files."""


def forge_manifest(run: Path) -> None:
    """What ``sha256sum * > MANIFEST.sha256`` does."""
    (run / "MANIFEST.sha256").write_text(manifest_text(digests(run)))


def found_by_recomputation(run: Path, names=RECOMPUTED, memory=None) -> bool:
    """Whether any check but the manifest's and the report's finds something; an unreadable record counts."""
    try:
        recorded = RecordedRun(run)
        recorded.memory.update(memory or {})
        return any(next((p for p in CHECKS[name](recorded) if p is not None), None) for name in names)
    except Exception:  # noqa: BLE001 -- verify_run turns whatever a check raises into a finding; tested below
        return True


def test_an_untouched_run_passes(finished):
    """The silent half of everything below: every check ran, on something, and found nothing."""
    found = verify_run(finished)
    assert found.findings == ()
    assert found.passed
    unused = {"tables", "marks", "job", "correction"}  # what this run has none of has tests of its own
    assert {name for name, count in found.checked.items() if not count} <= unused


# --- the first forger: one byte ---------------------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_found_by_the_manifest(finished, tmp_path_factory, data):
    """In any artifact, at any place, by any amount; also a byte more or less at the end."""
    name = data.draw(st.sampled_from(sorted(path.name for path in finished.iterdir())))
    content = (finished / name).read_bytes()
    position = data.draw(st.integers(0, len(content)))
    change = data.draw(st.integers(1, 255))
    if position == len(content):
        edited = data.draw(st.sampled_from([content + bytes([change]), content[:-1]]))
    else:
        edited = content[:position] + bytes([content[position] ^ change]) + content[position + 1 :]
    run = tmp_path_factory.mktemp("byte") / finished.name
    run.mkdir()
    for path in finished.iterdir():
        (run / path.name).hardlink_to(path)
    (run / name).unlink()
    (run / name).write_bytes(edited)
    try:
        problems = [problem for problem in CHECKS["files"](RecordedRun(run)) if problem is not None]
    finally:
        shutil.rmtree(run.parent)
    assert any(name in {"MANIFEST.sha256", problem.where} for problem in problems), (name, position, change)


def test_a_missing_and_a_foreign_file_are_found(run_copy):
    """The manifest lists what is there, no more and no less."""
    (run_copy / "sensor.json").rename(run_copy / "notes.txt")
    found = {finding.where for finding in verify_run(run_copy).findings}
    assert {"sensor.json", "notes.txt"} <= found


# --- the second forger: the manifest too ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FILES, "trace-gpu.npy", "truth-gpu.npy", "report.html"])
def test_a_forged_manifest_does_not_help(run_copy, name):
    """The report names the digest of every artifact it was built from, and repeats every claim."""
    if name in FILES:
        whole = FILES[name].read(run_copy)
        leaf = next(leaf for leaf in leaves(name, whole) if isinstance(leaf.value, str))
        FILES[name].write(run_copy, leaf.edited(whole, f"{leaf.value}x"))
    else:
        content = (run_copy / name).read_bytes()
        changed = (
            content.replace(b"Claim validated", b"Claim valuated!") if name == "report.html" else content[:-3] + b"\x07" + content[-2:]
        )
        assert changed != content
        (run_copy / name).write_bytes(changed)
    forge_manifest(run_copy)
    assert [problem for problem in CHECKS["files"](RecordedRun(run_copy)) if problem is not None] == []
    assert not verify_run(run_copy).passed


def test_even_a_label_is_found_while_the_report_stands(run_copy):
    """The commit in ``run.json`` follows from nothing, but the report was built from another file."""
    record = FILES["run.json"].read(run_copy)
    FILES["run.json"].write(run_copy, {**record, "environment": {**record["environment"], "python": "CPython 4.0"}})
    forge_manifest(run_copy)
    assert [finding.where for finding in verify_run(run_copy).findings] == ["run.json"]


def embedded_leaves(run: Path):
    page = (run / "report.html").read_text()
    data = json.loads(verify.EMBEDDED.search(page).group(1))
    return page, data, sampled(list(leaves("report.html", data)), 2)


def test_every_value_in_the_reports_data_is_checked(run_copy):
    """Each leaf of the JSON in ``report.html``, the manifest forged."""
    page, data, found = embedded_leaves(run_copy)
    missed = []
    for leaf in found:
        for value in changes(leaf.value):
            text = json.dumps(leaf.edited(data, value))
            edited = verify.EMBEDDED.sub(lambda match, text=text: match.group(0).replace(match.group(1), text), page)
            (run_copy / "report.html").write_text(edited)
            forge_manifest(run_copy)
            run = RecordedRun(run_copy)
            if not any(problem for problem in CHECKS["report"](run) if problem is not None):
                missed.append((leaf.shape, leaf.value, value))
    assert missed == []


# --- the third forger: recomputation alone ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forgery(finished, tmp_path_factory):
    """A copy whose manifest and report are left out of the check."""
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("forged") / finished.name))


@pytest.fixture
def remembered(monkeypatch):
    """Recompute each recipe once: editing results and claims changes nothing that they are computed from."""
    for name in ("evaluate", "true_value", "gates_of"):
        original, known = getattr(verify, name), {}

        def once(recipe, run, original=original, known=known):
            key = json.dumps(recipe.to_json(), sort_keys=True)
            if key not in known:
                known[key] = original(recipe, run)
            return known[key]

        monkeypatch.setattr(verify, name, once)


@pytest.mark.parametrize("name", FILES)
def test_recomputation_finds_every_value_but_the_labels(forgery, request, name):
    """Each kind of leaf, at several places; numbers by a millionth, words by another word of their kind."""
    if name in OWN_CHECK:
        request.getfixturevalue("remembered")
    file = FILES[name]
    whole = file.read(forgery)
    missed, unseen = [], set()
    try:
        for leaf in sampled(list(leaves(name, whole)), 4 if name == "claims.jsonl" else 2):
            for value in changes(leaf.value):
                file.write(forgery, leaf.edited(whole, value))
                if not found_by_recomputation(forgery, OWN_CHECK.get(name, RECOMPUTED)):
                    patterns = [pattern for pattern in LABELS.get(name, {}) if fnmatch.fnmatchcase(leaf.shape, pattern)]
                    unseen.update(patterns)
                    if not patterns:
                        missed.append((leaf.shape, leaf.path, leaf.value, value))
    finally:
        file.write(forgery, whole)
    assert missed == []
    shapes = {leaf.shape for leaf in leaves(name, whole)}
    listed = {pattern for pattern in LABELS.get(name, {}) if fnmatch.filter(shapes, pattern)}
    assert unseen == listed, "an entry of the list stands for nothing: take it out"


def rows_behind(finished, place):
    """Rows of the trace that some estimate is computed from."""
    run = RecordedRun(finished)
    rows = run.trace("gpu").rows
    if place == "baseline":
        span = run.reader.baselines[0].t0_ns, run.reader.baselines[0].t1_ns
    elif place == "soak":
        phase = next(phase for phase in run.reader.run.phases if phase.name == "soak")
        span = phase.t1_ns - 150 * 10**9, phase.t1_ns  # the window that slope and drift are judged in
    else:
        span = run.reader.windows[3].t0_ns, run.reader.windows[3].t1_ns
    return np.flatnonzero((rows["t_before_ns"] > span[0]) & (rows["t_before_ns"] < span[1]))


@pytest.mark.parametrize(
    ("place", "channel", "change"),
    [
        ("baseline", "power_w", 0.01), ("baseline", "foreign_processes", 1.0), ("soak", "temperature_c", 7.0),
        ("window", "energy_j", -1e4), ("window", "event_reasons", 0x40), ("window", "thermal_ns", 1e7), ("window", "tick", 1),
        ("window", "t_before_ns", -1), ("window", "t_after_ns", -1), ("window", "errors", 999),
    ],
)  # fmt: skip
def test_a_changed_sample_is_found(forgery, finished, place, channel, change):
    """Any sample that a number follows from, in a span that was used; what a percentile leaves out changes nothing, and is not found."""
    path = forgery / "trace-gpu.npy"
    original = path.read_bytes()
    chosen = np.random.default_rng(7).choice(rows_behind(finished, place), 6, replace=False)
    missed = []
    try:
        for row in chosen:
            rows = np.load(finished / "trace-gpu.npy", allow_pickle=False).copy()
            rows[channel][row] += np.asarray(change).astype(rows[channel].dtype)
            path.write_bytes(original[:4096] + rows.tobytes())
            if not found_by_recomputation(forgery):
                missed.append(int(row))
    finally:
        path.write_bytes(original)
    assert missed == []


# --- repairs that are not forgeries -----------------------------------------------------------------------------------


def test_a_rebuilt_report_still_verifies(run_copy):
    """``pytest-physics report`` renews one line of the manifest, and the run passes as before."""
    build_report(run_copy)
    renew_manifest(run_copy, "report.html")
    assert verify_run(run_copy).passed


def test_rebuilding_the_report_launders_nothing(run_copy):
    """An edited artifact is found after the report was built from it, because its line in the manifest stays."""
    record = FILES["run.json"].read(run_copy)
    FILES["run.json"].write(run_copy, {**record, "command": ["other"]})
    build_report(run_copy)
    renew_manifest(run_copy, "report.html")
    assert [finding.where for finding in verify_run(run_copy).findings] == ["run.json"]


def test_a_check_that_cannot_compute_is_a_finding(run_copy):
    """Edited values may break arithmetic anywhere; verify says where and goes on."""
    record = FILES["baseline.json"].read(run_copy)
    record[0]["phase"] = "gpu-p999"
    FILES["baseline.json"].write(run_copy, record)
    found = verify_run(run_copy)
    assert any(re.search("no entry 'gpu-p999'", finding.problem) for finding in found.findings)
    assert found.checked["windows"] > 0
