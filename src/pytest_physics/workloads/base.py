"""What experiments ask of a workload, real or simulated.

A call of a phase runs the whole phase and returns when the device has finished it: launch and synchronisation are inside, so
that a window around the call holds the phase and nothing else. Decode continues from the context that the last prefill left,
and every call starts from that same context, so repetitions do equal work. What does not fit raises an error, and never runs
smaller than asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Workload(Protocol):
    """A language model with its two phases apart."""

    def describe(self) -> Mapping[str, str]:
        """What runs: for the record of a run."""

    def prefill(self, batch: int, tokens: int) -> None:
        """Run prompts of ``tokens`` tokens in ``batch`` sequences, and keep their context."""

    def prepare(self, batch: int, context: int) -> None:
        """Have that context ready for :meth:`decode`, outside of any window; one that is there is kept."""

    def decode(self, batch: int, tokens: int) -> None:
        """Generate ``tokens`` tokens in each of ``batch`` sequences, from the context of the last prefill."""

    def warm_up(self) -> None:
        """Do once what the first run would do besides its work."""

    def close(self) -> None:
        """Give the device's memory back; the workload cannot be used afterwards."""


@runtime_checkable
class Repeating(Protocol):
    """A workload that does many equal calls as one: on a virtual clock it comes to the same, and is simulated in one step."""

    def repeat(self, phase: str, *, batch: int, tokens: int, calls: int) -> None:
        """Call :meth:`Workload.prefill` or :meth:`Workload.decode`, as ``phase`` says, ``calls`` times."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory was too small, on the host or on the device; torch has a type of its own for it."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


@runtime_checkable
class Kernel(Protocol):
    """A constant load: heat soak, and steps for the sensor's response."""

    def describe(self) -> Mapping[str, str]:
        """What runs: for the record of a run."""

    def warm_up(self) -> None:
        """Do once what the first run would do besides its work."""

    def run_for(self, duration_s: float) -> Any:  # noqa: ANN401 -- an account of the work, each kernel's own
        """Keep the device busy for ``duration_s`` seconds and wait until it is done."""
