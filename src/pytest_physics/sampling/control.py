"""The control block: one page of shared memory between a sampler process and the process that started it.

The sampler writes what it does; the parent writes only what it asks for, to stop or to pause. The page is anonymous memory
handed over as a file descriptor, so a crash leaves nothing behind and a full disk cannot touch it. A sequence number that is
odd during an update tells a reader to look again.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_physics.sampling.base import SamplerState

MAX_CHANNELS = 64
_STOP = struct.Struct("<Q")
_STOP_OFFSET = 0
_PAUSE_OFFSET = 7
"""The last byte of the stop request's word, which is a small number."""
_SEQUENCE = struct.Struct("<Q")
_SEQUENCE_OFFSET = 8
_PROGRESS = struct.Struct("<9q")
_PROGRESS_OFFSET = 16
_SCHEDULING = (128, 64)
_ERROR = (256, 1024)
_CHANNELS = (1280, 2304)
_VALUES_OFFSET = 3584
_SIZE = 4096
_STATES = tuple(SamplerState)


@dataclass(slots=True)
class Progress:
    """Numbers the sampler publishes at every tick; times are on its clock."""

    state: SamplerState = SamplerState.STARTING
    heartbeat_ns: int = 0
    last_tick: int = -1
    last_sample_ns: int = -1
    """Start of the last read whose row is in the file; −1 before the first."""
    rows: int = 0
    dropped: int = 0
    read_errors: int = 0
    tripped: bool = False
    thermal_trips: int = 0


def create() -> int:
    """Descriptor of a new, empty control block."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pytest-physics-sampler")
    else:  # pragma: no cover -- not on Linux
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, _SIZE)
    return descriptor


class ControlBlock:
    """Typed access to the page."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _SIZE)

    def close(self) -> None:
        """Unmap the page."""
        self._memory.close()

    # --- what the parent asks -------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """Ask the sampler to stop at its next look."""
        _STOP.pack_into(self._memory, _STOP_OFFSET, 1)

    def request_pause(self, *, paused: bool) -> None:
        """Ask the sampler to read nothing, or to read again, from its next tick on; one byte, written at once."""
        self._memory[_PAUSE_OFFSET] = int(paused)

    @property
    def pause_requested(self) -> bool:
        """Whether the parent asked for a pause."""
        return self._memory[_PAUSE_OFFSET] != 0

    @property
    def stop_requested(self) -> bool:
        """Whether the parent asked to stop."""
        return self._memory[_STOP_OFFSET] != 0

    # --- what the sampler says ------------------------------------------------------------------------------------------

    def describe(self, *, channels: Sequence[str], scheduling: str) -> None:
        """Publish what does not change while sampling."""
        if len(channels) > MAX_CHANNELS:
            raise ValueError(f"a control block holds {MAX_CHANNELS} channels (got {len(channels)}).")
        self._put(_CHANNELS, json.dumps(list(channels)))
        self._put(_SCHEDULING, scheduling)

    def fail(self, message: str) -> None:
        """Publish why the sampler failed; the state follows with :meth:`publish`."""
        self._put(_ERROR, message)

    def beat(self, now_ns: int) -> None:
        """Show that the sampler runs; one aligned word, written at once."""
        struct.pack_into("<q", self._memory, _PROGRESS_OFFSET + 8, now_ns)

    def publish(self, progress: Progress, values: Sequence[float] = ()) -> None:
        """Publish progress and the latest values, unless there are none."""
        (sequence,) = _SEQUENCE.unpack_from(self._memory, _SEQUENCE_OFFSET)
        _SEQUENCE.pack_into(self._memory, _SEQUENCE_OFFSET, sequence + 1)
        _PROGRESS.pack_into(
            self._memory, _PROGRESS_OFFSET, _STATES.index(progress.state), progress.heartbeat_ns, progress.last_tick,
            progress.last_sample_ns, progress.rows, progress.dropped, progress.read_errors, progress.tripped,
            progress.thermal_trips,
        )  # fmt: skip
        if values:
            struct.pack_into(f"<{len(values)}d", self._memory, _VALUES_OFFSET, *values)
        _SEQUENCE.pack_into(self._memory, _SEQUENCE_OFFSET, sequence + 2)

    # --- what the parent reads ------------------------------------------------------------------------------------------

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names; empty before the sampler has opened its device."""
        text = self._get(_CHANNELS)
        return tuple(json.loads(text)) if text else ()

    @property
    def scheduling(self) -> str:
        """Scheduling class the sampler got."""
        return self._get(_SCHEDULING)

    @property
    def error(self) -> str:
        """Why the sampler failed."""
        return self._get(_ERROR)

    def snapshot(self, n_values: int = 0) -> tuple[Progress, tuple[float, ...]]:
        """Progress and the first ``n_values`` latest values, which belong together."""
        for _ in range(1000):  # an update takes a microsecond; a sampler killed inside one leaves the number odd for ever
            before = self._memory[_SEQUENCE_OFFSET : _SEQUENCE_OFFSET + 8]
            numbers = _PROGRESS.unpack_from(self._memory, _PROGRESS_OFFSET)
            values = struct.unpack_from(f"<{n_values}d", self._memory, _VALUES_OFFSET)
            if before == self._memory[_SEQUENCE_OFFSET : _SEQUENCE_OFFSET + 8] and before[0] % 2 == 0:
                break
        return _progress(numbers), values

    def _put(self, place: tuple[int, int], text: str) -> None:
        offset, size = place
        encoded = text.encode()
        if len(encoded) >= size:
            encoded = encoded[: size - 4].decode(errors="ignore").encode() + "…".encode()
        self._memory[offset : offset + size] = encoded.ljust(size, b"\0")

    def _get(self, place: tuple[int, int]) -> str:
        offset, size = place
        return self._memory[offset : offset + size].rstrip(b"\0").decode()


def _progress(numbers: tuple[int, ...]) -> Progress:
    state, heartbeat_ns, last_tick, last_sample_ns, rows, dropped, read_errors, tripped, thermal_trips = numbers
    return Progress(
        state=_STATES[state], heartbeat_ns=heartbeat_ns, last_tick=last_tick, last_sample_ns=last_sample_ns, rows=rows,
        dropped=dropped, read_errors=read_errors, tripped=bool(tripped), thermal_trips=thermal_trips,
    )  # fmt: skip
