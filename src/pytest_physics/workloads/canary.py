"""Canary: a fixed amount of native work, timed, to see what no sensor shows.

Clock changes, a neighbour on the same core and stalls of the hypervisor change how long the same work takes. SHA-256 of 8 MB
is steadier than a Python loop (p95 over median 1.03 against 1.12 on a quiet machine), and the least of three runs is steadier
still. Run it before, between and after timed work and compare with :func:`~pytest_physics.metrology.host.canary_gate`.
"""

from __future__ import annotations

import hashlib
import time
from functools import cache

CANARY_BYTES = 8 * 1000 * 1000


@cache
def _data() -> bytes:
    # written once and only read: safe to share between threads
    return bytes(range(256)) * (CANARY_BYTES // 256)


def canary_s(repeats: int = 3) -> float:
    """Shortest of ``repeats`` timings of the same work, in seconds: 5 to 40 ms each."""
    if repeats < 1:
        raise ValueError(f"'repeats' must be >= 1 (got {repeats}).")
    data = _data()
    timings = []
    for _ in range(repeats):
        started_ns = time.perf_counter_ns()
        hashlib.sha256(data, usedforsecurity=False).digest()
        timings.append(time.perf_counter_ns() - started_ns)
    return min(timings) / 1e9
