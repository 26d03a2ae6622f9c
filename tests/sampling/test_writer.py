"""The trace file: what is written can be read, also after a crash."""

from __future__ import annotations

import errno
import os
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.errors import RecordError
from pytest_physics.sampling import writer as writer_module
from pytest_physics.sampling.trace import HEADER_BYTES, Trace, header, row_dtype, row_format
from pytest_physics.sampling.writer import TraceWriter, repair

CHANNELS = ("power_w", "energy_j")


def write_rows(path, n):
    writer = TraceWriter(path, CHANNELS)
    for k in range(n):
        writer.add(k, 10 * k, 10 * k + 1, [1.5 * k, float("nan")], [0, 999])
    writer.flush()
    return writer


@given(st.lists(st.from_regex(r"[a-z_]{1,30}", fullmatch=True), min_size=1, max_size=25, unique=True))
def test_packed_rows_and_the_structured_type_have_one_layout(channels):
    """``struct`` in the sampler and numpy in the reader agree on every byte."""
    assert struct.calcsize(row_format(len(channels))) == row_dtype(channels).itemsize
    assert len(header(channels, 2**62)) == HEADER_BYTES


def test_numpy_and_trace_read_what_was_written(tmp_path):
    """After closing, ``numpy.load`` sees every row with values, missing values and error codes."""
    path = tmp_path / "trace-gpu.npy"
    write_rows(path, 7).close()
    rows = np.load(path)
    assert rows["tick"].tolist() == list(range(7))
    assert rows["power_w"][6] == 9.0
    assert np.isnan(rows["energy_j"]).all()
    assert rows["errors"].tolist() == [[0, 999]] * 7
    assert len(Trace.load(path, instrument="gpu", period_ns=10)) == 7


def test_an_existing_trace_is_never_overwritten(tmp_path):
    """Data are not replaced by a second run."""
    path = tmp_path / "trace-gpu.npy"
    write_rows(path, 1).close()
    with pytest.raises(FileExistsError):
        TraceWriter(path, CHANNELS)


def test_rows_are_readable_before_the_file_is_closed(tmp_path):
    """``Trace.load`` goes by the size of the file, so live rows are seen although the header lags."""
    path = tmp_path / "trace-gpu.npy"
    writer = write_rows(path, 3)
    assert len(Trace.load(path, instrument="gpu", period_ns=10)) == 3
    assert len(np.load(path)) == 0
    writer.close()


def test_the_header_follows_while_rows_arrive(tmp_path, monkeypatch):
    """Once the interval has passed, the next write brings the header up to date."""
    monkeypatch.setattr(writer_module, "HEADER_INTERVAL_S", 0.0)
    path = tmp_path / "trace-gpu.npy"
    writer = write_rows(path, 3)
    assert len(np.load(path)) == 3
    writer.close()


def test_repair_recovers_whole_rows_after_a_crash(tmp_path):
    """A file cut inside a row, with a stale header, is put right: whole rows count, the rest goes."""
    path = tmp_path / "trace-gpu.npy"
    write_rows(path, 5)  # never closed
    os.truncate(path, path.stat().st_size - 3)
    assert len(Trace.load(path, instrument="gpu", period_ns=10)) == 4
    assert repair(path, CHANNELS) == 4
    assert np.load(path)["tick"].tolist() == [0, 1, 2, 3]


def test_repair_refuses_a_file_without_its_header(tmp_path):
    """What ends inside the header holds no samples, and says so."""
    path = tmp_path / "trace-gpu.npy"
    path.write_bytes(b"\x93NUMPY")
    with pytest.raises(RecordError, match="ends inside its header"):
        repair(path, CHANNELS)


def test_a_write_cut_short_by_a_full_disk_leaves_whole_rows(tmp_path, monkeypatch):
    """A partial row is cut off, the error is raised, and what came before stays readable."""
    path = tmp_path / "trace-gpu.npy"
    writer = write_rows(path, 3)
    real_write, written = os.write, []

    def nearly_full(descriptor, data):
        if written:
            raise OSError(errno.ENOSPC, "full")
        written.append(real_write(descriptor, data[:70]))
        return written[0]

    monkeypatch.setattr(writer_module.os, "write", nearly_full)
    for k in (3, 4):
        writer.add(k, 0, 0, [0.0, 0.0], [0, 0])
    with pytest.raises(OSError, match="full"):
        writer.flush()
    monkeypatch.undo()
    row = struct.calcsize(row_format(2))
    assert 70 // row == 1
    assert writer.rows == 4
    writer.close()
    assert np.load(path)["tick"].tolist() == [0, 1, 2, 3]
    assert path.stat().st_size == HEADER_BYTES + 4 * row


def test_closing_twice_is_fine(tmp_path):
    """The second close does nothing."""
    writer = write_rows(tmp_path / "trace-gpu.npy", 1)
    writer.close()
    writer.close()


def test_too_many_channels_are_refused():
    """A header that would not fit is an error, never a truncated type."""
    with pytest.raises(RecordError, match="do not fit into a trace header"):
        header([f"channel_{i:03d}_with_a_long_name" for i in range(200)], 0)
