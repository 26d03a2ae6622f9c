"""What every sampler is: one per instrument, alive from the start of the run to its end, writing one trace.

Two kinds: :class:`~pytest_physics.sampling.process.ProcessSampler` for real hardware, in its own process, and
:class:`~pytest_physics.sampling.inline.InlineSampler` for devices on a virtual clock. No numpy here: the sampler process
imports this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # numpy stays out of the sampler process
    from pytest_physics.sampling.statistics import SamplerStatistics
    from pytest_physics.sampling.trace import Trace


AFTER_A_FAILED_WRITE = "what was sampled before stays in the trace. Make room or repair the cause, and run again."


class SamplerState(StrEnum):
    """Where a sampler is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThermalSafety:
    """Temperatures at which work must pause and may resume; two of them, so that it does not flutter."""

    trip_c: float = 83.0
    """At or above: the sampler says ``tripped``."""
    resume_c: float = 80.0
    """At or below: no longer."""

    def __post_init__(self) -> None:
        """Refuse a hysteresis that is none."""
        if not self.resume_c < self.trip_c:
            raise ValueError(f"'resume_c' must be below 'trip_c' (got {self.resume_c} and {self.trip_c}).")

    def tripped(self, temperature_c: float, *, before: bool) -> bool:
        """State after a reading; a missing temperature (NaN) and one between the limits change nothing."""
        if temperature_c >= self.trip_c:
            return True
        return before and not temperature_c <= self.resume_c


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerStatus:
    """A sampler's account of itself."""

    state: SamplerState
    rows: int
    """Rows in the trace."""
    last_tick: int
    """Index of the last tick taken; −1 before the first."""
    dropped: int
    """Ticks dropped so far."""
    read_errors: int
    """Values that could not be read, over all channels."""
    thermal_trips: int
    """How often the temperature reached the trip limit."""
    scheduling: str
    """Scheduling class the sampler was granted: ``SCHED_FIFO 1``, ``nice -5``, ``default``, ``virtual time``."""
    error: str = ""
    """Why the sampler failed, where it did."""


class Sampler(Protocol):
    """One instrument's sampler."""

    instrument: str
    trace_path: Path
    period_ns: int
    origin_ns: int
    """t_0 of the grid; set when the sampler starts, where it was not given."""

    def start(self) -> None:
        """Begin to sample; returns when samples are taken, or raises ``SamplerError``."""

    def stop(self) -> SamplerStatus:
        """Stop and close the trace; doing it again returns the same status."""

    def pause(self) -> None:
        """Read nothing from now on; the sampler lives on, and the ticks that pass are no dropped ones."""

    def resume(self) -> None:
        """Read again, on the same grid."""

    @property
    def status(self) -> SamplerStatus:
        """The sampler's account of itself, now or at its end."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names in the order of the trace; empty before the start."""

    @property
    def tripped(self) -> bool:
        """Whether the temperature reached the trip limit and has not yet fallen to the resume limit."""

    def is_alive(self) -> bool:
        """Whether samples are being taken."""

    def heartbeat_age_s(self) -> float:
        """Time since the sampler last showed that it runs; infinite where it does not."""

    def latest(self) -> Mapping[str, float]:
        """Last value of each channel, NaN where its read failed; empty before the first sample."""

    def wait_until_sampled(self, t_ns: int, timeout_s: float) -> bool:
        """Whether a sample that began at or after ``t_ns`` is in the trace; False at once where none can come any more."""

    def trace(self) -> Trace:
        """The samples so far."""

    def statistics(self, t0_ns: int | None = None, t1_ns: int | None = None) -> SamplerStatistics:
        """How well the grid was kept."""
