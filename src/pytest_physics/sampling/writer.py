"""Writing a trace file: its format, and one writer for every sampler.

Format: a ``.npy`` header padded to :data:`HEADER_BYTES`, then packed rows (:func:`row_format`). Rows are appended; the row
count in the header follows about once a second and at the end, so that ``numpy.load`` reads the file too. A crash between the
two leaves a header that counts too few rows: ``Trace.load`` goes by the size of the file, and :func:`repair` puts the header
right.

No numpy here: a sampler process stays small and starts at once. A failed write raises ``OSError`` after cutting off a row
written in part.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_physics.errors import RecordError

HEADER_BYTES = 4096
"""Length of the padded ``.npy`` header."""
HEADER_INTERVAL_S = 1.0
"""The row count in the header is at most this old while rows arrive."""
_MAGIC = b"\x93NUMPY\x02\x00"


def row_format(n_channels: int) -> str:
    """``struct`` format of one row: tick, time before and after the reads, values, error codes."""
    return f"<qqq{n_channels}d{n_channels}H"


def header(channels: Sequence[str], rows: int) -> bytes:
    """Header of a trace file with ``rows`` rows; always :data:`HEADER_BYTES` long."""
    columns = [("tick", "<i8"), ("t_before_ns", "<i8"), ("t_after_ns", "<i8"), *((name, "<f8") for name in channels)]
    columns.append(("errors", "<u2", (len(channels),)))  # type: ignore[arg-type]
    text = repr({"descr": columns, "fortran_order": False, "shape": (rows,)})
    body_bytes = HEADER_BYTES - len(_MAGIC) - 4
    if len(text) >= body_bytes:
        raise RecordError(f"{len(channels)} channels do not fit into a trace header of {HEADER_BYTES} bytes.")
    return _MAGIC + struct.pack("<I", body_bytes) + text.ljust(body_bytes - 1).encode() + b"\n"


class TraceWriter:
    """Appends rows to a new trace file; an existing file is never overwritten."""

    def __init__(self, path: Path, channels: Sequence[str]) -> None:
        self._channels = tuple(channels)
        self._row_bytes = struct.calcsize(row_format(len(self._channels)))
        self._pack = struct.Struct(row_format(len(self._channels))).pack
        self._pending: list[bytes] = []
        self._header_due_s = time.monotonic() + HEADER_INTERVAL_S
        self.rows = 0
        """Rows in the file; those that wait for :meth:`flush` are not counted."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        os.write(self._descriptor, header(self._channels, 0))

    def add(self, tick: int, t_before_ns: int, t_after_ns: int, values: Sequence[float], errors: Sequence[int]) -> None:
        """Keep one row for the next :meth:`flush`."""
        self._pending.append(self._pack(tick, t_before_ns, t_after_ns, *values, *errors))

    def flush(self) -> None:
        """Write the rows kept so far in one call, and the header when it is due."""
        if self._pending:
            packed, self._pending = b"".join(self._pending), []
            self.write(packed)

    def write(self, packed_rows: bytes) -> None:
        """Append whole rows that are packed already."""
        try:
            self._write_all(packed_rows)
        except OSError:
            # ends at a whole row again: cutting off needs no space, so it works on a full disk too
            os.ftruncate(self._descriptor, HEADER_BYTES + self.rows * self._row_bytes)
            raise
        now_s = time.monotonic()
        if now_s >= self._header_due_s:
            self._header_due_s = now_s + HEADER_INTERVAL_S
            self._write_header()

    def _write_all(self, packed_rows: bytes) -> None:
        view, rows_before, written = memoryview(packed_rows), self.rows, 0
        while written < len(view):  # a write is cut short where space runs out, and fails at the next attempt
            written += os.write(self._descriptor, view[written:])
            self.rows = rows_before + written // self._row_bytes

    def _write_header(self) -> None:
        os.pwrite(self._descriptor, header(self._channels, self.rows), 0)

    def close(self) -> None:
        """Write what is kept, the final row count, and wait for the disk; doing it twice is fine."""
        if self._descriptor < 0:
            return
        descriptor = self._descriptor
        try:
            self.flush()
            self._write_header()
            os.fsync(descriptor)
        finally:
            self._descriptor = -1
            os.close(descriptor)


def repair(path: Path, channels: Sequence[str]) -> int:
    """Make the header count all whole rows of a file whose writer died, drop a row written in part; returns the row count."""
    row_bytes = struct.calcsize(row_format(len(channels)))
    rows = (path.stat().st_size - HEADER_BYTES) // row_bytes
    if rows < 0:
        raise RecordError(f"{path} ends inside its header ({path.stat().st_size} bytes of {HEADER_BYTES}); it holds no samples.")
    os.truncate(path, HEADER_BYTES + rows * row_bytes)
    with path.open("r+b") as file:
        file.write(header(channels, rows))
    return rows
