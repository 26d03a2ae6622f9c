"""Whose compute processes run on the card: this run's, or somebody else's.

Ours are the processes named as roots and their descendants, and the ancestors of this process (but not what else they started).
Listing processes is dear, so the answer is refreshed once per period and held in between.

Limits. A process that is listed but not visible here (another user's, under hidepid) cannot be told from our own: the count is
then NaN with NO_PERMISSION, unless a foreign process was seen anyway. In a container with process ids of its own nothing can be
told at all: by driver, NVML lists the host's ids, which here are nobody's or somebody else's, or leaves out what runs outside, so
that an empty list says nothing. There the channel is absent.

Reference: NVIDIA/nvidia-docker issues 179 and 1483; pid_namespaces(7).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from pytest_physics.clock import NS_PER_S, Clock
from pytest_physics.devices.base import READ_OK
from pytest_physics.devices.nvml.library import NO_DATA, NO_PERMISSION

_INITIAL_NAMESPACE = "pid:[4026531836]"
"""The system's own, on every Linux: PROC_PID_INIT_INO of ``proc_ns.h``."""
APART = (
    "this process runs in a container with process ids of its own, and NVML lists those of the host, or none: who else uses the card "
    "cannot be seen from here. Start the container with '--pid=host' (Kubernetes: hostPID), or make sure by other means that the card is "
    "this run's alone."
)


def process_ids_are_apart() -> bool:
    """Whether process ids mean something else here than to the driver: in a Linux PID namespace, as of most containers."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) != _INITIAL_NAMESPACE
    except OSError:  # no Linux, or no such namespaces
        return False


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
        self.memory_bytes = 0.0
        """What the driver told of the memory of foreign processes when they were last listed; 0 for those of which it tells none."""
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
        ours = {process.pid: self.owns(process.pid) for process in processes}
        self.memory_bytes = float(sum(int(p.usedGpuMemory or 0) for p in processes if ours[p.pid] is False))
        foreign = sum(own is False for own in ours.values())
        if foreign or None not in ours.values():
            return float(foreign), READ_OK
        # one that ended since it was listed is no riddle
        again, code = self._listing()
        if code != READ_OK:
            return math.nan, code
        riddles = {process.pid for process in again} & {pid for pid, own in ours.items() if own is None}
        return (math.nan, NO_PERMISSION) if riddles else (0.0, READ_OK)

    def owns(self, pid: int) -> bool | None:
        """Whether a process is this run's; None where the process cannot be seen from here."""
        if pid in self._own:
            return True
        try:
            return any(ancestor.pid in self._roots for ancestor in psutil.Process(pid).parents())
        except psutil.Error:
            return None
