"""Publishing a run: small, whole, verifiable by whoever gets it, and never what does not follow from its artifacts."""

from __future__ import annotations

import hashlib
import lzma
import shutil
import subprocess

import numpy as np
import pytest
from typer.testing import CliRunner

from pytest_physics.audit.command import run_audit
from pytest_physics.cli import app
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.replay import open_device
from pytest_physics.errors import DeviceUnavailableError, RecordError
from pytest_physics.record.packed import pack, unpacked
from pytest_physics.record.publish import publish_run
from pytest_physics.record.verify import verify_run
from pytest_physics.record.writer import manifest_digests
from pytest_physics.report.build import render


@pytest.fixture(scope="module")
def published(finished, tmp_path_factory):
    """The finished run, published; do not write into it."""
    return publish_run(finished, tmp_path_factory.mktemp("site") / "reports" / "our-run", render=render)


def test_a_published_run_is_small_and_verifies(published, finished):
    """Every number is recomputed from the packed arrays, under any name of the directory."""
    before = sum(path.stat().st_size for path in finished.glob("*.npy"))
    packed = sum(path.stat().st_size for path in published.glob("*.npy.xz"))
    assert packed < before / 5
    found = verify_run(published)
    assert found.passed
    assert found.checked == verify_run(finished).checked
    assert not list(published.glob("*.npy"))


def test_a_published_array_is_the_one_that_the_manifest_names(published):
    """Standard tools unpack it to the same bytes."""
    listed = manifest_digests(published)
    for path in published.glob("*.xz"):
        assert hashlib.sha256(lzma.decompress(path.read_bytes())).hexdigest() == listed[path.name.removesuffix(".xz")]


@pytest.mark.skipif(shutil.which("xz") is None, reason="no xz on this machine")
def test_xz_unpacks_it(published, finished, tmp_path):
    """No tool of ours is needed."""
    copy = shutil.copytree(published, tmp_path / "copy")
    subprocess.run(["xz", "-d", *map(str, copy.glob("*.xz"))], check=True)
    assert (copy / "trace-gpu.npy").read_bytes() == (finished / "trace-gpu.npy").read_bytes()


def test_an_edit_in_a_packed_array_is_found(published, tmp_path):
    """Packing hides nothing."""
    copy = shutil.copytree(published, tmp_path / "copy")
    with unpacked(copy) as whole:
        data = bytearray((whole / "trace-gpu.npy").read_bytes())
    data[-100] ^= 1
    (copy / "trace-gpu.npy.xz").write_bytes(lzma.compress(bytes(data)))
    assert {finding.where for finding in verify_run(copy).findings if "SHA-256" in finding.problem} == {"trace-gpu.npy"}


def test_a_damaged_packed_array_is_named(published, tmp_path):
    """Cut short: one sentence with the file and the remedy."""
    copy = shutil.copytree(published, tmp_path / "copy")
    path = copy / "trace-gpu.npy.xz"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(RecordError, match=r"trace-gpu\.npy\.xz is damaged .*restore it from a copy"):
        verify_run(copy)


def test_an_array_beside_its_packed_form_is_found(published, tmp_path):
    """Which of the two counted would depend on the reader."""
    copy = shutil.copytree(published, tmp_path / "copy")
    (copy / "trace-gpu.npy").write_bytes(lzma.decompress((copy / "trace-gpu.npy.xz").read_bytes()))
    assert {finding.where for finding in verify_run(copy).findings} == {"trace-gpu.npy.xz"}


def test_what_does_not_follow_is_not_published(run_copy, tmp_path):
    """An edited number: nothing stands at the target, not even a part."""
    path = run_copy / "results.jsonl"
    path.write_text(path.read_text().replace('"note":"first"', '"note":"other"'))
    with pytest.raises(RecordError, match=r"does not follow from its raw artifacts \([23] differences, the first: results.jsonl"):
        publish_run(run_copy, tmp_path / "site" / "run", render=render)
    assert list((tmp_path / "site").iterdir()) == []


def test_the_report_of_a_published_run_is_built_again_in_place(run_copy, tmp_path):
    """The same page as from the unpacked run, with the manifest brought up to date."""
    target = tmp_path / "copy"
    for command in (["publish", str(run_copy), str(target)], ["report", str(run_copy)], ["report", str(target)]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    assert (target / "report.html").read_bytes() == (run_copy / "report.html").read_bytes()
    assert verify_run(target).passed


def test_an_incomplete_run_is_not_published(run_copy, tmp_path):
    """Its report would not say that it goes on."""
    path = run_copy / "run.json"
    path.write_text(path.read_text().replace('"state": "completed"', '"state": "running"'))
    with pytest.raises(RecordError, match="is 'running', not completed"):
        publish_run(run_copy, tmp_path / "target", render=render)


def test_nothing_is_replaced(finished, tmp_path):
    """The target may hold what somebody measured."""
    (tmp_path / "notes.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(RecordError, match="exists already; name a new or empty directory"):
            publish_run(finished, target, render=render)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_published_run_is_audited_like_its_original(published, finished):
    """The audit reads traces too."""
    assert run_audit(None, run=published).exit_code == run_audit(None, run=finished).exit_code


def test_a_packed_trace_cannot_be_replayed_and_says_how(published):
    """Replay maps the file."""
    with pytest.raises(DeviceUnavailableError, match=r"are packed; unpack a copy of it with 'xz -d"):
        open_device(DeviceSpec(kind="replay", parameters={"path": str(published)}))


def test_rows_longer_than_the_delta_filter_reaches_are_packed_without_it(tmp_path):
    """The filter's distance ends at 256 bytes."""
    array = np.zeros(10, dtype=[("wide", "<f8", (40,))])
    np.save(tmp_path / "table-x.npy", array)
    pack(tmp_path / "table-x.npy", tmp_path)
    assert lzma.decompress((tmp_path / "table-x.npy.xz").read_bytes()) == (tmp_path / "table-x.npy").read_bytes()
