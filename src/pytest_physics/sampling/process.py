"""A sampler in its own process, so that a busy interpreter cannot stop it.

A C call that keeps the interpreter lock for 200 ms costs a sampling thread half of its ticks at 10 Hz and 95 % at 100 Hz; a
process does not notice. The process is started with ``subprocess`` (nothing of the parent is copied into it) and tells what
it does through a :mod:`control block <pytest_physics.sampling.control>`.

How it fails: a sampler that dies, is stopped or cannot write is ``FAILED`` or no longer alive at once, and no later window
has samples; one that is suspended has an old heartbeat and leaves a gap. Nothing is filled in.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

from pytest_physics.clock import NS_PER_S
from pytest_physics.devices.base import BENCHMARK_PID_VARIABLE, DeviceSpec
from pytest_physics.errors import SamplerError
from pytest_physics.sampling import control
from pytest_physics.sampling.base import SamplerState, SamplerStatus, ThermalSafety
from pytest_physics.sampling.control import ControlBlock, Progress
from pytest_physics.sampling.statistics import SamplerStatistics, sampler_statistics
from pytest_physics.sampling.trace import Trace
from pytest_physics.sampling.worker import Order
from pytest_physics.sampling.writer import repair

SHORTEST_PERIOD_S = 0.001
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
_POLL_S = 0.002


class ProcessSampler:
    """Samples the device named by ``spec`` into ``trace_path`` every ``period_s``, in a process of its own."""

    def __init__(
        self,
        spec: DeviceSpec,
        trace_path: Path,
        period_s: float,
        *,
        instrument: str,
        origin_ns: int | None = None,
        thermal: ThermalSafety | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        if not period_s >= SHORTEST_PERIOD_S:
            raise ValueError(f"'period_s' must be >= {SHORTEST_PERIOD_S} (got {period_s}): no process keeps a shorter grid.")
        self.spec = spec
        self.instrument = instrument
        self.trace_path = Path(trace_path)
        self.period_ns = round(period_s * NS_PER_S)
        self.origin_ns = time.perf_counter_ns() if origin_ns is None else origin_ns
        self._thermal = thermal
        self._start_timeout_s = start_timeout_s
        self._block: ControlBlock | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._channels: tuple[str, ...] = ()
        self._final: tuple[SamplerStatus, Progress, tuple[float, ...]] | None = None

    # --- life -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process and wait until it samples; raises ``SamplerError`` with its message where it cannot."""
        if self._process is not None:
            raise SamplerError(f"the sampler of '{self.instrument}' was started already; a sampler runs once.")
        self._launch()
        try:
            self._await_running()
        except BaseException:  # also Ctrl-C: nothing may be left running
            self.stop()
            raise

    def _launch(self) -> None:
        descriptor = control.create()
        try:
            self._block = ControlBlock(descriptor)
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the process
            # the parent's search path, in its order: what it can import, the sampler can
            environment = os.environ | {
                "PYTHONPATH": os.pathsep.join(sys.path),
                "OPENBLAS_NUM_THREADS": "1",  # a device library that imports numpy must not start threads
                BENCHMARK_PID_VARIABLE: str(os.getpid()),
            }
            self._process = subprocess.Popen(  # noqa: S603 -- our own interpreter and module
                [sys.executable, "-P", "-m", "pytest_physics.sampling.worker", json.dumps(asdict(self._order(descriptor)))],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._stderr, pass_fds=(descriptor,), env=environment,
                start_new_session=True,  # Ctrl-C and hang-ups of the terminal are the parent's
            )  # fmt: skip
        finally:
            os.close(descriptor)
        self._finalizer = weakref.finalize(self, _kill_forgotten, self._process, os.getpid())

    def _order(self, descriptor: int) -> Order:
        thermal = self._thermal
        return Order(
            kind=self.spec.kind, parameters=dict(self.spec.parameters), trace_path=str(self.trace_path),
            origin_ns=self.origin_ns, period_ns=self.period_ns, control=descriptor, parent_pid=os.getpid(),
            # the kernel's notice comes when the starting *thread* ends, so only the main thread may ask for it
            die_with_parent_thread=threading.current_thread() is threading.main_thread(),
            trip_c=thermal.trip_c if thermal else None, resume_c=thermal.resume_c if thermal else None,
        )  # fmt: skip

    def _await_running(self) -> None:
        deadline_s = time.monotonic() + self._start_timeout_s
        while self._progress().state is SamplerState.STARTING and self._exit_code() is None:
            if time.monotonic() > deadline_s:
                raise SamplerError(
                    f"the sampler of '{self.instrument}' ({self.spec}) did not start within {self._start_timeout_s:g} s: the "
                    "device does not answer. Check its driver, or raise the time-out."
                )
            time.sleep(_POLL_S)
        block = self._require_block()
        if self._progress().state is SamplerState.STARTING or self._progress().state is SamplerState.FAILED:
            self._wait_for_exit(1.0)
            raise SamplerError(f"the sampler of '{self.instrument}' ({self.spec}) could not start: {self._reason()}")
        self._channels = block.channels

    def pause(self) -> None:
        """Read nothing from the next tick on."""
        self._require_block().request_pause(paused=True)

    def resume(self) -> None:
        """Read again from the next tick on."""
        self._require_block().request_pause(paused=False)

    def stop(self) -> SamplerStatus:
        """Stop the process, close the trace and return the final status; doing it again changes nothing."""
        if self._final is not None:
            return self._final[0]
        if self._process is None:
            self._final = (_NEVER_STARTED, Progress(), ())
            return _NEVER_STARTED
        hung = self._end_process()
        progress, values = self._require_block().snapshot(len(self._channels))
        status = self._status_of(progress)
        if hung and status.state is not SamplerState.STOPPED:
            error = f"it did not stop within {STOP_TIMEOUT_S:g} s and was killed."
            status = replace(status, state=SamplerState.FAILED, error=error)
        if status.state is SamplerState.FAILED and self._channels:
            status = replace(status, rows=self._repaired_rows(progress))
        self._final = (status, progress, values)
        self._release()
        return status

    def _end_process(self) -> bool:
        """Ask, then insist; True where it had to be killed."""
        process, block = self._process, self._require_block()
        assert process is not None  # noqa: S101 -- for the type checker; callers looked
        block.request_stop()
        process.send_signal(signal.SIGCONT)  # it may be suspended; nothing happens where it is not, or is gone
        if self._wait_for_exit(STOP_TIMEOUT_S):
            return False
        process.kill()
        process.wait()
        return True

    def _repaired_rows(self, progress: Progress) -> int:
        """Rows of a trace whose writer died; its header is put right, so that ``numpy.load`` sees all of them."""
        with contextlib.suppress(OSError):
            return repair(self.trace_path, self._channels)
        return progress.rows

    def _release(self) -> None:
        self._finalizer.detach()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        if self._stderr is not None:
            self._stderr.close()
        if self._block is not None:
            self._block.close()
            self._block = None

    # --- what it says ---------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Process id of the sampler; None before the start."""
        return None if self._process is None else self._process.pid

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names in the order of the trace; empty before the start."""
        return self._channels

    @property
    def status(self) -> SamplerStatus:
        """The sampler's account of itself, now or at its end."""
        if self._final is not None:
            return self._final[0]
        if self._process is None:
            return replace(_NEVER_STARTED, state=SamplerState.STARTING, error="")
        return self._status_of(self._progress())

    @property
    def tripped(self) -> bool:
        """Whether the temperature reached the trip limit and has not yet fallen to the resume limit."""
        return self._progress().tripped

    def is_alive(self) -> bool:
        """Whether the process runs and samples; a suspended one is alive, with an old heartbeat."""
        if self._final is not None or self._process is None:
            return False
        return self._exit_code() is None and self._progress().state is SamplerState.RUNNING

    def heartbeat_age_s(self) -> float:
        """Time since the sampler last showed that it runs: normally below 0.2 s; infinite before its first sign."""
        heartbeat_ns = self._progress().heartbeat_ns
        return (time.perf_counter_ns() - heartbeat_ns) / NS_PER_S if heartbeat_ns else math.inf

    def latest(self) -> Mapping[str, float]:
        """Last value of each channel, NaN where its read failed; empty before the first sample."""
        progress, values = self._final[1:] if self._final else self._snapshot()
        return dict(zip(self._channels, values, strict=True)) if progress.last_tick >= 0 else {}

    def wait_until_sampled(self, t_ns: int, timeout_s: float) -> bool:
        """Whether a sample that began at or after ``t_ns`` is in the trace; False at the time-out, or once none can come."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            alive = self.is_alive()  # before the look at the samples: the last one may arrive in between
            if self._progress().last_sample_ns >= t_ns:
                return True
            if not alive or time.monotonic() >= deadline_s:
                return False
            time.sleep(_POLL_S)

    def trace(self) -> Trace:
        """The samples so far."""
        return Trace.load(self.trace_path, instrument=self.instrument, period_ns=self.period_ns)

    def statistics(self, t0_ns: int | None = None, t1_ns: int | None = None) -> SamplerStatistics:
        """How well the grid was kept within ``[t0_ns, t1_ns]``."""
        return sampler_statistics(self.trace(), self.origin_ns, t0_ns, t1_ns)

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _require_block(self) -> ControlBlock:
        if self._block is None:
            raise SamplerError(f"the sampler of '{self.instrument}' does not run; start it first.")
        return self._block

    def _snapshot(self) -> tuple[Progress, tuple[float, ...]]:
        return (Progress(), ()) if self._block is None else self._block.snapshot(len(self._channels))

    def _progress(self) -> Progress:
        return self._final[1] if self._final else self._snapshot()[0]

    def _exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def _wait_for_exit(self, timeout_s: float) -> bool:
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _status_of(self, progress: Progress) -> SamplerStatus:
        state = progress.state
        if self._exit_code() is not None and state in {SamplerState.STARTING, SamplerState.RUNNING}:
            state = SamplerState.FAILED  # it died without a word
        return SamplerStatus(
            state=state, rows=progress.rows, last_tick=progress.last_tick, dropped=progress.dropped,
            read_errors=progress.read_errors, thermal_trips=progress.thermal_trips, scheduling=self._require_block().scheduling,
            error=self._reason() if state is SamplerState.FAILED else "",
        )  # fmt: skip

    def _reason(self) -> str:
        """Why it failed: its own words, else how the process ended and the end of its error output."""
        told = self._require_block().error
        if told:
            return told
        code = self._exit_code()
        how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit status {code}"
        return f"the process ended without a word ({how}). {self._error_output()}".strip()

    def _error_output(self) -> str:
        if self._stderr is None:
            return ""
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")[-800:].strip()


_NEVER_STARTED = SamplerStatus(
    state=SamplerState.STOPPED,
    rows=0,
    last_tick=-1,
    dropped=0,
    read_errors=0,
    thermal_trips=0,
    scheduling="",
    error="never started",
)


def _kill_forgotten(process: subprocess.Popen[bytes], owner_pid: int) -> None:
    """Last resort when a sampler is forgotten or the interpreter exits; a forked copy of the parent must not do it."""
    if os.getpid() != owner_pid:
        return
    if process.stdin is not None:
        process.stdin.close()
    process.kill()
    process.wait()
