"""Whose compute processes run on the card: this run's, or somebody else's.

Ours are the processes named as roots and their descendants, and the ancestors of this process (but not what else they started).
Listing processes is dear, so the answer is refreshed once per period and held in between.

Limits. A process that is listed but not visible here (another container, another user under hidepid) cannot be told from our
own: the count is then NaN with NO_PERMISSION, unless a foreign process was seen anyway. Some containers hide other containers'
processes from NVML altogether: zero means that none was seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import psutil

from pytest_physics.clock import NS_PER_S, Clock
from pytest_physics.devices.base import READ_OK
from pytest_physics.devices.nvml.library import NO_DATA, NO_PERMISSION


class ForeignProcesses:
    """Counts compute processes that are not this run's, at most once per period.

    Parameters
    ----------
    listing
        Gives NVML's list of processes, and a code.
    roots
        Process ids whose descendants are ours.
    period_s
        How long a count is held, in seconds.
    clock
        Tells when to count again.
    """

    def __init__(self, listing: Callable[[], tuple[Any, int]], *, roots: Iterable[int], period_s: float, clock: Clock) -> None:
        self._listing = listing
        self._roots = frozenset(roots)
        self._own = self._roots | {ancestor.pid for ancestor in psutil.Process().parents()}
        self._period_ns = round(period_s * NS_PER_S)
        self._clock = clock
        self._held = (math.nan, NO_DATA)
        self._due_ns = clock.now_ns()

    def read(self) -> tuple[float, int]:
        """Count and error code, at most one period old."""
        now_ns = self._clock.now_ns()
        if now_ns >= self._due_ns:
            self._held = self._count()
            self._due_ns = now_ns + self._period_ns
        return self._held

    def _count(self) -> tuple[float, int]:
        processes, code = self._listing()
        if code != READ_OK:
            return math.nan, code
        ours = {process.pid: self._is_own(process.pid) for process in processes}
        foreign = sum(own is False for own in ours.values())
        if foreign or None not in ours.values():
            return float(foreign), READ_OK
        # one that ended since it was listed is no riddle
        again, code = self._listing()
        if code != READ_OK:
            return math.nan, code
        riddles = {process.pid for process in again} & {pid for pid, own in ours.items() if own is None}
        return (math.nan, NO_PERMISSION) if riddles else (0.0, READ_OK)

    def _is_own(self, pid: int) -> bool | None:
        """None where the process cannot be seen from here."""
        if pid in self._own:
            return True
        try:
            return any(ancestor.pid in self._roots for ancestor in psutil.Process(pid).parents())
        except psutil.Error:
            return None
