"""Clocks: every instrument has exactly one, and stamps samples and windows with it.

The real clock is ``time.perf_counter_ns``: monotonic, and comparable between processes on Linux, Windows and macOS.
The virtual clock moves only when told to, so that a simulated hour takes a moment and is the same every time.
Wall time is a label, never used in arithmetic: :func:`utc_now` gives it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

NS_PER_S = 1_000_000_000


def utc_now() -> str:
    """Wall-clock label in ISO 8601, UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Clock(Protocol):
    """What an instrument needs of time."""

    @property
    def name(self) -> str:
        """Identity of the clock; two series are comparable only if their clocks' names are equal."""

    @property
    def resolution_ns(self) -> int:
        """Smallest step of the clock in nanoseconds, at least 1."""

    def now_ns(self) -> int:
        """Time since the clock's arbitrary origin, in nanoseconds."""

    def sleep_until_ns(self, deadline_ns: int) -> None:
        """Return at or after ``deadline_ns``; at once if it has passed."""


@dataclass(frozen=True, slots=True)
class RealClock:
    """``time.perf_counter_ns`` and ``time.sleep``."""

    name: str = "perf_counter"

    @property
    def resolution_ns(self) -> int:
        """Resolution the platform states for ``perf_counter``."""
        return max(1, round(time.get_clock_info("perf_counter").resolution * NS_PER_S))

    def now_ns(self) -> int:
        """``time.perf_counter_ns()``."""
        return time.perf_counter_ns()

    def sleep_until_ns(self, deadline_ns: int) -> None:
        """Sleep to an absolute deadline."""
        remaining_ns = deadline_ns - time.perf_counter_ns()
        if remaining_ns > 0:
            time.sleep(remaining_ns / NS_PER_S)


class VirtualClock:
    """A clock that stands still until :meth:`advance_to_ns` or :meth:`sleep_until_ns` moves it.

    Subscribers are told of every move, in the order in which they subscribed, with the times before and after: a simulated device
    first computes what happened in between, then a sampler reads it.
    """

    __slots__ = ("_now_ns", "_subscribers", "name")

    def __init__(self, name: str = "virtual", start_ns: int = 0) -> None:
        self.name = name
        self._now_ns = start_ns
        self._subscribers: list[Callable[[int, int], None]] = []

    @property
    def resolution_ns(self) -> int:
        """One nanosecond, by definition."""
        return 1

    def now_ns(self) -> int:
        """Current virtual time."""
        return self._now_ns

    def subscribe(self, moved: Callable[[int, int], None]) -> None:
        """Call ``moved(before_ns, after_ns)`` after every move."""
        self._subscribers.append(moved)

    def advance_to_ns(self, t_ns: int) -> None:
        """Move to ``t_ns``; a clock never goes back, so an earlier time raises ``ValueError``."""
        if t_ns < self._now_ns:
            raise ValueError(f"'t_ns' must not lie before now (got {t_ns}, now {self._now_ns}).")
        before_ns, self._now_ns = self._now_ns, t_ns
        if t_ns > before_ns:
            for moved in self._subscribers:
                moved(before_ns, t_ns)

    def sleep_until_ns(self, deadline_ns: int) -> None:
        """Jump to ``deadline_ns``, or stay where that has passed."""
        self.advance_to_ns(max(self._now_ns, deadline_ns))
