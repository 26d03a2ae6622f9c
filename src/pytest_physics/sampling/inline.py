"""A sampler for devices on a virtual clock: it samples when the clock moves, and needs no process.

For each move of the clock it takes every grid point in ``(before, after]`` at once, so an hour of samples costs a moment and
is the same every time. It subscribes to the clock when it starts, after the device did: the device first computes what
happened, then it is read. Virtual reads take no time and are never late.

How it fails: as a sampler process does. A trace that cannot be written makes it ``FAILED``, never an exception inside the
clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pytest_physics.clock import NS_PER_S, VirtualClock
from pytest_physics.devices.base import Channel, DeviceSpec
from pytest_physics.errors import SamplerError
from pytest_physics.sampling.base import AFTER_A_FAILED_WRITE, SamplerState, SamplerStatus, ThermalSafety
from pytest_physics.sampling.schedule import Grid
from pytest_physics.sampling.statistics import SamplerStatistics, sampler_statistics
from pytest_physics.sampling.trace import FloatArray, IntArray, Trace, row_dtype
from pytest_physics.sampling.writer import TraceWriter

ROWS_AT_ONCE = 1 << 16
"""Longer moves are sampled in pieces, so that memory does not grow with them."""


@runtime_checkable
class VirtualDevice(Protocol):
    """A device whose clock is virtual, and which can be read at many past instants in one call."""

    clock: VirtualClock
    spec: DeviceSpec

    @property
    def channels(self) -> Sequence[Channel]:
        """The channels, in the order of :meth:`sample`'s columns."""

    def sample(self, t_ns: IntArray) -> tuple[FloatArray, NDArray[np.uint16]]:
        """Read all C channels at N increasing instants up to now: values and error codes, both of shape (N, C)."""


@runtime_checkable
class PolledDevice(Protocol):
    """A simulated device on which being read has an effect."""

    def set_polled(self, polled: bool) -> None:
        """Whether somebody reads the device from now on."""


class InlineSampler:
    """Samples ``device`` into ``trace_path`` every ``period_s`` of its virtual clock."""

    def __init__(
        self,
        device: VirtualDevice,
        trace_path: Path,
        period_s: float,
        *,
        instrument: str,
        origin_ns: int | None = None,
        thermal: ThermalSafety | None = None,
    ) -> None:
        if not period_s * NS_PER_S >= 1:
            raise ValueError(f"'period_s' must be at least a nanosecond (got {period_s}).")
        self.instrument = instrument
        self.trace_path = Path(trace_path)
        self.period_ns = round(period_s * NS_PER_S)
        self.origin_ns = device.clock.now_ns() if origin_ns is None else origin_ns
        self._device = device
        self._grid = Grid(origin_ns=self.origin_ns, period_ns=self.period_ns)
        self._thermal = thermal
        self._channels = tuple(channel.name for channel in device.channels)
        self._dtype = row_dtype(self._channels)
        self._writer: TraceWriter | None = None
        self._paused = False
        self._state = SamplerState.STARTING
        self._error = ""
        self._latest: FloatArray = np.zeros(0)
        self._last_tick = -1
        self._last_sample_ns: int | None = None
        self._read_errors = 0
        self._tripped = False
        self._thermal_trips = 0
        self._mapped: tuple[int, Trace] | None = None
        """The trace as it was last mapped, and its rows then."""

    # --- life -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take the sample due now, where one is, and all later ones as the clock moves."""
        if self._state is not SamplerState.STARTING:
            raise SamplerError(f"the sampler of '{self.instrument}' was started already; a sampler runs once.")
        try:
            self._writer = TraceWriter(self.trace_path, self._channels)
        except OSError as error:
            self._fail(error)
            raise SamplerError(f"the sampler of '{self.instrument}' could not start: {self._error}") from error
        self._state = SamplerState.RUNNING
        now_ns = self._device.clock.now_ns()
        self._clock_moved(now_ns - 1, now_ns)
        self._device.clock.subscribe(self._clock_moved)

    def pause(self) -> None:
        """Read nothing from now on."""
        self._set_paused(paused=True)

    def resume(self) -> None:
        """Read again from the next tick on."""
        self._set_paused(paused=False)

    def _set_paused(self, *, paused: bool) -> None:
        self._paused = paused
        if isinstance(self._device, PolledDevice):
            self._device.set_polled(not paused)

    def stop(self) -> SamplerStatus:
        """Close the trace and return the final status; doing it again changes nothing."""
        if self._state is SamplerState.STARTING:
            self._state, self._error = SamplerState.STOPPED, "never started"
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._fail(error)
        if self._state is SamplerState.RUNNING:
            self._state = SamplerState.STOPPED
        return self.status

    def _clock_moved(self, before_ns: int, after_ns: int) -> None:
        if self._state is not SamplerState.RUNNING or self._paused:
            return
        first, last = self._grid.tick_at_or_after(before_ns + 1), self._grid.tick_at_or_before(after_ns)
        for start in range(first, last + 1, ROWS_AT_ONCE):
            ticks = np.arange(start, min(start + ROWS_AT_ONCE, last + 1))
            try:
                self._take(ticks)
            except OSError as error:
                self._fail(error)
                return

    def _take(self, ticks: IntArray) -> None:
        assert self._writer is not None  # noqa: S101 -- for the type checker; running means started
        t_ns = self.origin_ns + ticks * self.period_ns
        values, errors = self._device.sample(t_ns)
        rows = np.zeros(len(ticks), self._dtype)
        rows["tick"], rows["t_before_ns"], rows["t_after_ns"], rows["errors"] = ticks, t_ns, t_ns, errors
        for column, name in enumerate(self._channels):
            rows[name] = values[:, column]
        self._writer.write(rows.tobytes())
        self._latest, self._last_tick, self._last_sample_ns = values[-1].copy(), int(ticks[-1]), int(t_ns[-1])
        self._read_errors += int(np.count_nonzero(errors))
        self._watch_temperature(values)

    def _watch_temperature(self, values: FloatArray) -> None:
        if self._thermal is None or "temperature_c" not in self._channels:
            return
        temperature_c = values[:, self._channels.index("temperature_c")]
        # only readings beyond a limit can change the state
        decisive = temperature_c[(temperature_c >= self._thermal.trip_c) | (temperature_c <= self._thermal.resume_c)]
        hot = decisive >= self._thermal.trip_c
        before = np.append(self._tripped, hot[:-1]) if len(hot) else hot
        self._thermal_trips += int(np.count_nonzero(hot & ~before))
        self._tripped = bool(hot[-1]) if len(hot) else self._tripped

    def _fail(self, error: OSError) -> None:
        self._state = SamplerState.FAILED
        self._error = f"{type(error).__name__}: {error}; {AFTER_A_FAILED_WRITE}"

    # --- what it says ---------------------------------------------------------------------------------------------------

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names in the order of the trace."""
        return self._channels

    @property
    def status(self) -> SamplerStatus:
        """The sampler's account of itself."""
        return SamplerStatus(
            state=self._state, rows=self._writer.rows if self._writer else 0, last_tick=self._last_tick, dropped=0,
            read_errors=self._read_errors, thermal_trips=self._thermal_trips, scheduling="virtual time", error=self._error,
        )  # fmt: skip

    @property
    def tripped(self) -> bool:
        """Whether the temperature reached the trip limit and has not yet fallen to the resume limit."""
        return self._tripped

    def is_alive(self) -> bool:
        """Whether it samples at the next move of the clock."""
        return self._state is SamplerState.RUNNING

    def heartbeat_age_s(self) -> float:
        """Zero while it runs, for it runs whenever the clock does; infinite otherwise."""
        return 0.0 if self.is_alive() else math.inf

    def latest(self) -> Mapping[str, float]:
        """Last value of each channel, NaN where its read failed; empty before the first sample."""
        return dict(zip(self._channels, self._latest.tolist(), strict=True)) if len(self._latest) else {}

    def wait_until_sampled(self, t_ns: int, timeout_s: float = 0.0) -> bool:  # noqa: ARG002 -- virtual time does not pass by waiting
        """Whether a sample taken at or after ``t_ns`` is in the trace; does not move the clock."""
        return self._last_sample_ns is not None and self._last_sample_ns >= t_ns

    def trace(self) -> Trace:
        """The samples so far; the file is mapped anew only where it has grown."""
        rows = self._writer.rows if self._writer else 0
        if self._mapped is None or self._mapped[0] != rows:
            self._mapped = rows, Trace.load(self.trace_path, instrument=self.instrument, period_ns=self.period_ns)
        return self._mapped[1]

    def statistics(self, t0_ns: int | None = None, t1_ns: int | None = None) -> SamplerStatistics:
        """How well the grid was kept; on a virtual clock, perfectly while it ran."""
        return sampler_statistics(self.trace(), self.origin_ns, t0_ns, t1_ns)
