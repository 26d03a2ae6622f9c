"""Traces: the columnar series of samples of one instrument, as ``trace-<instrument>.npy``.

One row per sampler tick that happened: the tick's index k on the grid t_k = t_0 + k·T, the time before and after the reads,
one float64 per channel (NaN where the read failed) and one error code per channel. Ticks that were dropped are absent, so the
index says which.

The file is a standard ``.npy`` (readable by ``numpy.load``) whose header has a fixed length: the sampler appends rows and
rewrites the row count, so a crash leaves a readable file up to the last row written. Counters and masks fit exactly into a
float64 below 2⁵³.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_physics.errors import ChannelUnavailableError, RecordError
from pytest_physics.sampling.writer import HEADER_BYTES, header, row_format

__all__ = ["HEADER_BYTES", "BoolArray", "FloatArray", "IntArray", "Trace", "header", "row_dtype", "row_format"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def row_dtype(channels: Sequence[str]) -> np.dtype[np.void]:
    """The rows of a trace file as a structured type; packed exactly as :func:`row_format`."""
    times = [("tick", "<i8"), ("t_before_ns", "<i8"), ("t_after_ns", "<i8")]
    return np.dtype([*times, *((name, "<f8") for name in channels), ("errors", "<u2", (len(channels),))])


@dataclass(frozen=True)
class Trace:
    """A read-only view of samples, in the order of time. ``rows`` is a structured array as described above."""

    instrument: str
    rows: NDArray[np.void]
    period_ns: int
    """Nominal grid period T."""

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Channel names, in order."""
        names = self.rows.dtype.names or ()
        return tuple(name for name in names if name not in {"tick", "t_before_ns", "t_after_ns", "errors"})

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def t_ns(self) -> IntArray:
        """Midpoint of each read, shape (N,), in nanoseconds of the instrument's clock."""
        before: IntArray = self.rows["t_before_ns"]
        return before + (self.rows["t_after_ns"] - before) // 2

    @property
    def tick(self) -> IntArray:
        """Grid index of each row, shape (N,)."""
        ticks: IntArray = self.rows["tick"]
        return ticks

    def has(self, channel: str) -> bool:
        """Whether the trace has this channel."""
        return channel in self.channels

    def values(self, channel: str) -> FloatArray:
        """Values of ``channel``, shape (N,), NaN where the read failed; raises ``ChannelUnavailableError``."""
        if channel not in self.channels:
            raise ChannelUnavailableError(
                f"instrument '{self.instrument}' has no channel '{channel}'; it has {', '.join(self.channels) or 'none'}.",
                channel=channel,
            )
        column: FloatArray = self.rows[channel]
        return column

    def errors(self, channel: str) -> NDArray[np.uint16]:
        """Error codes of ``channel``, shape (N,); 0 where the read succeeded."""
        index = self.channels.index(channel)
        codes: NDArray[np.uint16] = self.rows["errors"][:, index]
        return codes

    def between(self, t0_ns: int, t1_ns: int, *, margin: int = 0) -> Trace:
        """Rows with t0 ≤ t ≤ t1, and ``margin`` rows more on each side where there are."""
        before = np.asarray(self.rows["t_before_ns"])
        # bisect reads 17 of 100,000 rows; searchsorted would copy the column first, which does not lie in one piece
        start = max(0, bisect_left(before, t0_ns) - margin)
        stop = min(len(self.rows), bisect_right(before, t1_ns) + margin)
        return Trace(instrument=self.instrument, rows=self.rows[start:stop], period_ns=self.period_ns)

    @classmethod
    def load(cls, path: Path, *, instrument: str, period_ns: int) -> Trace:
        """Map a trace file, also one that is still written or was cut short by a crash (whole rows only)."""
        try:
            dtype = _read_dtype(path)
            n_rows = (path.stat().st_size - HEADER_BYTES) // dtype.itemsize
            rows: Any = np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=(n_rows,)) if n_rows > 0 else None
        except (OSError, ValueError, SyntaxError, TypeError) as error:
            raise RecordError(f"{path} is not a readable trace ({error}); restore it, or run the measurement again.") from error
        return cls(instrument=instrument, rows=np.zeros(0, dtype) if rows is None else rows, period_ns=period_ns)


def _read_dtype(path: Path) -> np.dtype[np.void]:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version != (2, 0):
            raise ValueError(f"npy version {version}, expected (2, 0)")
        _, _, dtype = np.lib.format.read_array_header_2_0(file)
        if file.tell() != HEADER_BYTES:
            raise ValueError(f"header ends at byte {file.tell()}, expected {HEADER_BYTES}")
    return dtype
