"""What really happened: segments of true power, with energies between any two instants in closed form.

Inside a segment that begins at ``t_ns`` the true power is ``base_w + excess_w·exp(−(t − t_ns)/tau_s)``; ``energy_j`` is the energy from
the start of the record to the segment's beginning; ``settled_c`` is the die temperature if the steady power lasted for ever. A segment
lasts until the next one begins. The functions work on a :class:`History` that still grows, and on the structured array that
:meth:`History.table` gives and a run stores as ``truth-<instrument>.npy``.

Before the first segment its steady power is continued backwards (its ``excess_w`` is 0), so that a sensor's window may reach there.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

THROTTLE_COUNTERS = {
    "power_cap_ns": 0x04,
    "thermal_ns": 0x20 | 0x40,
    "software_thermal_ns": 0x20,
    "hardware_thermal_ns": 0x40,
    "power_brake_ns": 0x80,
}
"""Cumulative counter to the event reasons (NVML bits) during which it runs."""

FLOAT_COLUMNS = (
    "base_w", "excess_w", "tau_s", "energy_j", "utilisation_ratio", "memory_utilisation_ratio", "busy_s", "memory_busy_s",
    "sm_clock_hz", "memory_clock_hz", "settled_c",
)  # fmt: skip
INTEGER_COLUMNS = (
    "t_ns", "performance_state", "event_reasons", "memory_used_bytes", "foreign_processes", *THROTTLE_COUNTERS,
)  # fmt: skip


class Segments(Protocol):
    """Columns by name: a :class:`History` or a structured array."""

    def __getitem__(self, name: str, /) -> NDArray[Any]:
        """Column ``name``, one value per segment."""


class History:
    """Columnar segments, appended in the order of time."""

    def __init__(self, n_nodes: int) -> None:
        self.node_columns = tuple(f"node_{index}_c" for index in range(n_nodes))
        self._columns: dict[str, NDArray[Any]] = {name: np.zeros(256, np.int64) for name in INTEGER_COLUMNS}
        self._columns |= {name: np.zeros(256) for name in (*FLOAT_COLUMNS, *self.node_columns)}
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, name: str, /) -> NDArray[Any]:
        return self._columns[name][: self._n]

    def append(self, segment: dict[str, Any]) -> None:
        """Add a segment. One that begins where the last began replaces it, save the first, which holds the steady past."""
        if self._n > 1 and self._columns["t_ns"][self._n - 1] == segment["t_ns"]:
            self._n -= 1
        if self._n == len(self._columns["t_ns"]):
            self._columns = {name: np.concatenate([column, np.zeros_like(column)]) for name, column in self._columns.items()}
        for name, value in segment.items():
            self._columns[name][self._n] = value
        self._n += 1

    def table(self, closing: dict[str, Any]) -> NDArray[np.void]:
        """All segments and a ``closing`` one, whose begin is the end of the record, as a structured array."""
        dtype = np.dtype([(name, column.dtype) for name, column in self._columns.items()])
        rows = np.zeros(self._n + 1, dtype)
        for name in self._columns:
            rows[name][:-1] = self[name]
            rows[name][-1] = closing[name]
        return rows


def locate(segments: Segments, t_ns: ArrayLike) -> tuple[IntArray, FloatArray]:
    """Index of the segment that holds each instant, and the time since it began in seconds."""
    t = np.asarray(t_ns)
    starts = segments["t_ns"]
    index = np.maximum(np.searchsorted(starts, t, side="right") - 1, 0)
    return index, (t - starts[index]) * 1e-9


def power_at(segments: Segments, t_ns: ArrayLike) -> FloatArray:
    """True power at each instant, in watts."""
    index, dt_s = locate(segments, t_ns)
    decay = np.exp(-np.maximum(dt_s, 0.0) / segments["tau_s"][index])
    power: FloatArray = segments["base_w"][index] + segments["excess_w"][index] * decay
    return power


def energy_at(segments: Segments, t_ns: ArrayLike) -> FloatArray:
    """True energy from the start of the record to each instant, in joules."""
    index, dt_s = locate(segments, t_ns)
    tau_s = segments["tau_s"][index]
    settled = segments["energy_j"][index] + segments["base_w"][index] * dt_s
    energy: FloatArray = settled - segments["excess_w"][index] * tau_s * np.expm1(-np.maximum(dt_s, 0.0) / tau_s)
    return energy


def energy_between(table: Segments, t0_ns: ArrayLike, t1_ns: ArrayLike) -> FloatArray:
    """True energy of the windows [t0, t1] from a stored truth table, in joules; elementwise.

    Raises ``ValueError`` where a window is reversed or leaves the record.
    """
    t0, t1 = np.asarray(t0_ns), np.asarray(t1_ns)
    first, last = int(table["t_ns"][0]), int(table["t_ns"][-1])
    if np.any(t0 > t1):
        raise ValueError(f"'t0_ns' must not lie after 't1_ns' (got {t0}, {t1}).")
    if np.any(t0 < first) or np.any(t1 > last):
        raise ValueError(f"the true energy is known from {first} ns to {last} ns only (asked for {t0} to {t1}); choose a window inside.")
    return energy_at(table, t1) - energy_at(table, t0)
