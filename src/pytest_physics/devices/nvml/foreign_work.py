"""What other processes did on the card: the driver's own samples of utilisation by process, with its timestamps.

``nvmlDeviceGetProcessUtilization`` gives what was sampled since a timestamp; it is asked a few times per second, and what it tells of
processes that are not this run's is handed on one sample per reading, in order of time.

Limits. A sample speaks of up to a second before its timestamp, and the driver may be late with it. A process that cannot be seen from here
cannot be told from our own: the reading is then NaN with NO_PERMISSION. Names are cut after twelve bytes.

How it fails: a driver that does not answer (NOT_SUPPORTED, no permission) leaves the channels absent, with its reason.
Reference: NVML API reference, ``nvmlProcessUtilizationSample_t``.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import psutil

from pytest_physics.clock import NS_PER_S, Clock
from pytest_physics.devices.base import READ_OK
from pytest_physics.devices.nvml.library import NO_DATA, NO_PERMISSION, NOT_FOUND
from pytest_physics.metrology.foreign_channels import FOREIGN_WORK, packed_name

FUNCTION = "nvmlDeviceGetProcessUtilization"
PERIOD_S = 0.2
"""How often the driver is asked."""
MOST_KEPT = 1000
"""Samples that wait for a reading, at most."""
MAX_PERCENT = 100
"""Slots that were never filled hold any number."""
LONGEST_AGE_S = 10.0
"""An older sample has a timestamp of another clock; it is of a while ago."""
CHANNELS = FOREIGN_WORK

Reading = tuple[float, ...]
_NOBODY: Reading = (0.0,) * len(CHANNELS)
_UNKNOWN: Reading = (math.nan,) * len(CHANNELS)


class ForeignWork:
    """Samples of the work of processes that are not this run's, one per reading.

    Parameters
    ----------
    ask
        Gives the driver's samples since a timestamp in microseconds, and a code.
    owns
        Whether a process is this run's; None where it cannot be seen.
    clock
        Tells when to ask again.
    wall_us
        The clock of the driver's timestamps.
    """

    def __init__(
        self, ask: Callable[[int], tuple[Any, int]], *, owns: Callable[[int], bool | None], clock: Clock,
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:  # fmt: skip
        self._ask, self._owns, self._clock, self._wall_us = ask, owns, clock, wall_us
        self._since_us = wall_us()
        self._waiting: deque[tuple[int, float, int]] = deque(maxlen=MOST_KEPT)
        self._code = NO_DATA
        self._due_ns = clock.now_ns()

    def read(self) -> tuple[Reading, int]:
        """Utilisation, process, age and name of the next sample, zeros where nobody worked; and an error code."""
        now_ns = self._clock.now_ns()
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + round(PERIOD_S * NS_PER_S)
            self._look()
        if self._waiting:
            stamp_us, ratio, pid = self._waiting.popleft()
            age_s = min(max(0.0, (self._wall_us() - stamp_us) / 1e6), LONGEST_AGE_S)
            return (ratio, float(pid), age_s, *packed_name(_name(pid))), READ_OK
        return (_NOBODY if self._code == READ_OK else _UNKNOWN), self._code

    def _look(self) -> None:
        samples, code = self._ask(self._since_us)
        self._code = READ_OK if code == NOT_FOUND else code  # nothing is newer
        found = sorted((int(s.timeStamp), s.smUtil / MAX_PERCENT, int(s.pid)) for s in samples or () if s.timeStamp > self._since_us)
        if found:
            self._since_us = found[-1][0]
        worked = [sample for sample in found if sample[2] and 0 < sample[1] <= 1]
        ours = {pid: self._owns(pid) for pid in {pid for *_, pid in worked}}
        self._waiting.extend(sample for sample in worked if ours[sample[2]] is False)
        if self._code == READ_OK and None in ours.values():
            self._code = NO_PERMISSION


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return ""
