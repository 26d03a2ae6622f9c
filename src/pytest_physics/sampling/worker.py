"""The sampler process: opens one device, reads it on the strict grid, appends rows to the trace.

Run as ``python -m pytest_physics.sampling.worker '<json>'`` by :class:`~pytest_physics.sampling.process.ProcessSampler`. It
sleeps with ``time.sleep`` to absolute deadlines on ``perf_counter_ns``, keeps the garbage collector off, and imports no
numpy, so that it starts at once and stays small.

It never outlives the run: the kernel kills it when the parent's thread ends (Linux), and it looks for another parent and for
the end of its standard input at least ten times a second. It ignores Ctrl-C, which is meant for the parent. A read that fails
becomes a row of missing values; a write that fails ends the sampler, and what was written stays readable.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_physics.clock import NS_PER_S
from pytest_physics.devices.base import ERROR_OTHER, OS_ERROR_BASE, READ_OK, Device, DeviceSpec
from pytest_physics.errors import DeviceUnavailableError, PhysicsError
from pytest_physics.sampling.base import AFTER_A_FAILED_WRITE, SamplerState, ThermalSafety
from pytest_physics.sampling.control import ControlBlock, Progress
from pytest_physics.sampling.schedule import Grid
from pytest_physics.sampling.writer import TraceWriter

LONGEST_SLEEP_NS = NS_PER_S // 10
"""The worker looks for a stop request and for its parent at least this often."""
BATCH_NS = 10_000_000
"""Rows of a short grid wait at most this long for the others of their batch."""
BATCH_BELOW_NS = 5_000_000
"""Grids shorter than this write in batches."""
_PR_SET_PDEATHSIG = 1
_ERROR_CODES = range(1, 1 << 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the parent asks for; travels as JSON."""

    kind: str
    parameters: dict[str, Any]
    trace_path: str
    origin_ns: int
    period_ns: int
    control: int
    """File descriptor of the control block."""
    parent_pid: int
    die_with_parent_thread: bool
    """Ask the kernel for SIGKILL when the thread that started this process ends; only right for the main thread."""
    trip_c: float | None
    resume_c: float | None

    @property
    def thermal(self) -> ThermalSafety | None:
        """The temperature limits, where there are any."""
        if self.trip_c is None or self.resume_c is None:
            return None
        return ThermalSafety(trip_c=self.trip_c, resume_c=self.resume_c)


class Worker:
    """The sampling loop and everything it touches."""

    def __init__(self, order: Order, block: ControlBlock) -> None:
        self._order = order
        self._block = block
        self._grid = Grid(origin_ns=order.origin_ns, period_ns=order.period_ns)
        self._thermal = order.thermal
        self._progress = Progress()
        self._batch_ns = BATCH_NS if order.period_ns < BATCH_BELOW_NS else 0
        self._last_before_ns = -1
        self._terminated = False

    def run(self) -> int:
        """Sample until told to stop; exit status 0 unless it failed."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminate)
        device: Device | None = None
        try:
            device = self._open()
            self._sample(device)
        except Exception as error:  # noqa: BLE001 -- whatever ends the sampler is told to the parent
            return self._end(SamplerState.FAILED, _message(error))
        finally:
            if device is not None:
                with contextlib.suppress(Exception):
                    device.close()
        if self._terminated:
            return self._end(SamplerState.FAILED, "it was ended by SIGTERM.")
        return self._end(SamplerState.STOPPED)

    def _open(self) -> Device:
        from pytest_physics.devices.discover import open_device  # noqa: PLC0415 -- the device's libraries load only here

        device = open_device(DeviceSpec(kind=self._order.kind, parameters=self._order.parameters))
        self._channels = tuple(channel.name for channel in device.channels)
        self._temperature = self._channels.index("temperature_c") if "temperature_c" in self._channels else -1
        _require_quick(device, self._order.period_ns)
        return device

    def _sample(self, device: Device) -> None:
        writer = TraceWriter(Path(self._order.trace_path), self._channels)
        try:
            self._block.describe(channels=self._channels, scheduling=_raise_priority())
            gc.collect()
            gc.freeze()
            gc.disable()
            self._loop(device, writer)
        finally:
            try:
                writer.close()
                self._progress.last_sample_ns = self._last_before_ns
            finally:
                self._progress.rows = writer.rows

    def _loop(self, device: Device, writer: TraceWriter) -> None:
        progress, grid, now_ns = self._progress, self._grid, time.perf_counter_ns
        tick = grid.tick_at_or_after(now_ns())
        batch_since_ns = 0
        progress.state = SamplerState.RUNNING
        self._publish(now_ns())
        while self._sleep_until(grid.time_ns(tick)):
            if self._block.pause_requested:
                self._flush_batch(writer)
                batch_since_ns = 0
                tick = grid.following(tick, now_ns())
                continue
            before_ns = now_ns()
            values, errors = _read(device, len(self._channels))
            after_ns = now_ns()
            writer.add(tick, before_ns, after_ns, values, errors)
            self._last_before_ns = before_ns
            batch_since_ns = batch_since_ns or before_ns
            if before_ns - batch_since_ns >= self._batch_ns:
                writer.flush()
                progress.rows, progress.last_sample_ns, batch_since_ns = writer.rows, before_ns, 0
            progress.last_tick = tick
            progress.read_errors += len(errors) - errors.count(READ_OK)
            self._watch_temperature(values)
            following = grid.following(tick, now_ns())
            progress.dropped += following - tick - 1
            tick = following
            self._publish(after_ns, values)

    def _flush_batch(self, writer: TraceWriter) -> None:
        """Write what waits for the others of its batch: in a pause none will come."""
        writer.flush()
        if self._progress.last_sample_ns != self._last_before_ns:
            self._progress.rows, self._progress.last_sample_ns = writer.rows, self._last_before_ns
            self._publish(time.perf_counter_ns())

    def _watch_temperature(self, values: Sequence[float]) -> None:
        if self._thermal is None or self._temperature < 0:
            return
        before = self._progress.tripped
        self._progress.tripped = self._thermal.tripped(values[self._temperature], before=before)
        self._progress.thermal_trips += self._progress.tripped and not before

    def _sleep_until(self, deadline_ns: int) -> bool:
        """Sleep to ``deadline_ns`` in pieces; False as soon as the sampler has to end."""
        while True:
            if self._must_end():
                return False
            now_ns = time.perf_counter_ns()
            remaining_ns = deadline_ns - now_ns
            if remaining_ns <= 0:
                return True
            self._block.beat(now_ns)
            time.sleep(min(remaining_ns, LONGEST_SLEEP_NS) / NS_PER_S)

    def _must_end(self) -> bool:
        return self._terminated or self._block.stop_requested or os.getppid() != self._order.parent_pid or _input_ended()

    def _terminate(self, signal_number: int, frame: object) -> None:  # noqa: ARG002 -- the shape of a signal handler
        self._terminated = True

    def _publish(self, now_ns: int, values: Sequence[float] = ()) -> None:
        self._progress.heartbeat_ns = now_ns
        self._block.publish(self._progress, values)

    def _end(self, state: SamplerState, message: str = "") -> int:
        if message:
            self._block.fail(message)
        self._progress.state = state
        self._publish(time.perf_counter_ns())
        return int(state is SamplerState.FAILED)


def _read(device: Device, n_channels: int) -> tuple[Sequence[float], Sequence[int]]:
    """Read the device; a read that raises is missing in every channel."""
    try:
        values, errors = device.read()
    except Exception as error:  # noqa: BLE001 -- one failed read must not end hours of sampling; its code is in the row
        return [math.nan] * n_channels, [_error_code(error)] * n_channels
    if max(errors, default=0) not in _ERROR_CODES and any(errors):  # a code that does not fit into 16 bits
        errors = [code if code == READ_OK or code in _ERROR_CODES else ERROR_OTHER for code in errors]
    return values, errors


def _error_code(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno is not None:
        return OS_ERROR_BASE + error.errno
    return ERROR_OTHER


def _require_quick(device: Device, period_ns: int) -> None:
    """Refuse a period that the reads would fill: the sampler would take a core, and that is what it must never do."""
    took_ns = []
    for _ in range(10):  # the first reads open things, and a busy host delays some; the quickest counts
        started_ns = time.perf_counter_ns()
        device.read()
        took_ns.append(time.perf_counter_ns() - started_ns)
    if min(took_ns) * 2 > period_ns:
        raise DeviceUnavailableError(
            f"one read of {device.spec} takes {min(took_ns) / 1e6:.2f} ms, more than half of the sampling period of "
            f"{period_ns / 1e6:g} ms: raise the period to at least {min(took_ns) * 4 / 1e6:.2g} ms."
        )


def _raise_priority() -> str:
    """Ask for a scheduling class that foreign load cannot push aside; says which one was granted."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except (OSError, AttributeError):
        pass
    else:
        return "SCHED_FIFO 1"
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -5)
    except (OSError, AttributeError):
        return "default"
    return "nice -5"


def _input_ended() -> bool:
    """Whether the parent has closed its end of the pipe, or is gone."""
    try:
        return os.read(0, 1) == b""
    except BlockingIOError:
        return False


def _message(error: Exception) -> str:
    text = str(error) if isinstance(error, PhysicsError) else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        text += f"; {AFTER_A_FAILED_WRITE}"
    return text


def _die_with(parent_pid: int) -> None:
    """Let the kernel end this process together with the thread that started it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before we asked
        os._exit(1)


def main(arguments: Sequence[str] = ()) -> int:
    """Entry point of the process."""
    order = Order(**json.loads((arguments or sys.argv[1:])[0]))
    if order.die_with_parent_thread:
        _die_with(order.parent_pid)
    os.set_blocking(0, False)
    return Worker(order, ControlBlock(order.control)).run()


if __name__ == "__main__":
    raise SystemExit(main())
