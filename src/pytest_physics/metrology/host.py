"""Gates for timing claims: whether the host was quiet enough, by the counters around the window.

Each counter is read at the last valid sample at or before the window and at the first at or after it; its growth is divided
by the time between those two. So a disturbance just outside the window counts too, and one inside a window much shorter than
the sampling period is diluted: sample faster or measure longer. Without such samples a gate refuses. A counter the host does
not have cannot refuse; its gate is a failed warning, which the report shows.

Limits are those that told a disturbed machine from a quiet one: one busy neighbour on two cores cost a two-thread workload 48
to 74 % of its speed, at a run-queue wait of 71 % and a pressure of 50 % (quiet: at most 1.2 % and 0.9 %).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_physics.metrology.uncertainty import Gate

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CANARY_LIMIT = 0.05
GAP_LIMIT_PERIODS = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimit:
    """What one counter may do around a timed window."""

    channel: str
    """Counter's channel name."""
    name: str
    """Gate's name."""
    limit: float
    """Largest allowed growth: share of the time where the counter is in nanoseconds, else a count."""
    measures: str
    """What the number is, in words."""
    remedy: str
    per_cpu: bool = False
    """Divide by the number of CPUs: the share is one of all CPUs' time, not of one CPU's."""
    warning: bool = False

    @property
    def is_share(self) -> bool:
        """Whether growth is divided by time."""
        return self.channel.endswith("_ns") and self.limit > 0


HOST_LIMITS: Sequence[HostLimit] = (
    HostLimit(
        channel="own_wait_ns", name="run-queue wait", limit=0.02, measures="own threads were ready but had no CPU",
        remedy="stop other programs, use fewer threads than cores, or pin the work to free cores",
    ),
    HostLimit(
        channel="pressure_cpu_ns", name="CPU pressure", limit=0.02, measures="some task of the host waited for a CPU",
        remedy="stop other programs, or use fewer threads than cores",
    ),
    HostLimit(
        channel="foreign_cpu_ns", name="foreign CPU", limit=0.05, measures="other programs used a CPU", warning=True,
        remedy="stop other programs: even on free cores they share cache, memory bandwidth and clock budget",
    ),
    HostLimit(
        channel="steal_ns", name="steal", limit=0.01, measures="the hypervisor kept the CPUs for others", per_cpu=True,
        remedy="run on a dedicated host, or repeat when the neighbours are quiet",
    ),
    HostLimit(
        channel="cgroup_throttled_ns", name="CPU quota", limit=0.0, measures="the CPU quota stopped this container",
        remedy="raise or remove the container's CPU limit",
    ),
    HostLimit(
        channel="major_faults", name="major page faults", limit=0.0, measures="memory had to come from disk",
        remedy="warm up first, and free memory so that nothing is swapped out",
    ),
)  # fmt: skip
"""The counters a timing claim needs quiet, in the order in which they tell most."""


def host_gates(
    *,
    t_ns: IntArray,
    counters: Mapping[str, FloatArray],
    t0_ns: int,
    t1_ns: int,
    cpu_count: int,
    scope: str,
    limits: Sequence[HostLimit] = HOST_LIMITS,
) -> tuple[Gate, ...]:
    """One gate per limit for the window ``[t0_ns, t1_ns]``.

    Parameters
    ----------
    t_ns
        Times of the samples, increasing, shape (N,).
    counters
        Cumulative counters by channel name, each of shape (N,), NaN where a read failed; those the host lacks are left out.
    t0_ns, t1_ns
        The window, on the clock of ``t_ns``.
    cpu_count
        Logical CPUs of the host.
    scope
        Where, for the reader: the window's name.
    """
    if not t1_ns >= t0_ns:
        raise ValueError(f"'t1_ns' must not lie before 't0_ns' (got {t0_ns} and {t1_ns}).")
    return tuple(
        _host_gate(limit, bracketed_growth(t_ns, counters[limit.channel], t0_ns, t1_ns), cpu_count=cpu_count, scope=scope)
        if limit.channel in counters
        else _absent_gate(limit, scope)
        for limit in limits
    )


def _host_gate(limit: HostLimit, grown: tuple[float, int] | None, *, cpu_count: int, scope: str) -> Gate:
    if grown is None:
        return _failed(limit, scope, "cannot be told: no valid sample on each side of the window", "keep the sampler running")
    growth, span_ns = grown
    if growth < 0:
        return _failed(limit, scope, f"cannot be told: the counter ran back by {-growth:g}", "measure again")
    if not limit.is_share:
        return _count_gate(limit, growth, scope)
    share = growth / span_ns / (cpu_count if limit.per_cpu else 1)
    of_what = "of all CPU time" if limit.per_cpu else "of the time"
    reason = f"{limit.measures} for {share:.2%} {of_what} (limit {limit.limit:.0%})"
    return _gate(limit, scope, measured=share, unit="1", reason=reason)


def _count_gate(limit: HostLimit, growth: float, scope: str) -> Gate:
    if limit.channel.endswith("_ns"):
        reason = f"{limit.measures} for {growth / 1e6:.3g} ms (limit {limit.limit * 1e3:g} ms)"
        return _gate(limit, scope, measured=growth / 1e9, unit="s", reason=reason)
    reason = f"{limit.measures} {growth:.0f} times (limit {limit.limit:g})"
    return _gate(limit, scope, measured=growth, unit="1", reason=reason)


def bracketed_growth(t_ns: IntArray, counter: FloatArray, t0_ns: int, t1_ns: int) -> tuple[float, int] | None:
    """Growth of a counter between the valid samples that bracket a window, and the nanoseconds between them.

    They are the last at or before ``t0_ns`` and the first at or after ``t1_ns``. None where one is missing, or both are the same.
    """
    valid = np.flatnonzero(np.isfinite(counter))
    before = int(np.searchsorted(t_ns[valid], t0_ns, side="right")) - 1
    after = int(np.searchsorted(t_ns[valid], t1_ns, side="left"))
    if before < 0 or after >= len(valid) or before == after:
        return None
    first, last = valid[before], valid[after]
    return float(counter[last] - counter[first]), int(t_ns[last] - t_ns[first])


def _gate(limit: HostLimit, scope: str, *, measured: float, unit: str, reason: str) -> Gate:
    passed = measured <= limit.limit
    return Gate(
        name=limit.name, scope=scope, measured=measured, limit=limit.limit, unit=unit, passed=passed, reason=reason,
        remedy="" if passed else limit.remedy, warning=limit.warning,
    )  # fmt: skip


def _failed(limit: HostLimit, scope: str, why: str, remedy: str) -> Gate:
    return Gate(
        name=limit.name, scope=scope, measured=None, limit=limit.limit, unit="1", passed=False,
        reason=f"whether {limit.measures} {why}", remedy=remedy, warning=limit.warning,
    )  # fmt: skip


def _absent_gate(limit: HostLimit, scope: str) -> Gate:
    return Gate(
        name=limit.name, scope=scope, measured=None, limit=limit.limit, unit="1", passed=False, warning=True,
        reason=f"whether {limit.measures} is unknown: this host has no channel '{limit.channel}'",
        remedy="see why the channel is absent in the device's description; the canary still bounds the speed",
    )  # fmt: skip


def canary_gate(before_s: float, after_s: float, limit: float = CANARY_LIMIT, *, scope: str = "timed work") -> Gate:
    """The same fixed work must take as long after the measurement as before it.

    Parameters
    ----------
    before_s, after_s
        Durations of the canary on each side of the measurement, > 0.
    limit
        Largest allowed difference, relative to the shorter.
    """
    if not (before_s > 0 and after_s > 0):
        raise ValueError(f"canary durations must be > 0 (got {before_s} and {after_s}).")
    change = abs(after_s - before_s) / min(before_s, after_s)
    passed = change <= limit
    direction = "slower" if after_s > before_s else "faster"
    return Gate(
        name="canary", scope=scope, measured=change, limit=limit, unit="1", passed=passed,
        reason=f"the same work took {before_s * 1e3:.3g} ms before and {after_s * 1e3:.3g} ms after: "
        f"{change:.1%} {direction} (limit {limit:.0%})",
        remedy="" if passed else "the speed changed: let clocks and temperature settle, stop other programs, and repeat",
    )  # fmt: skip


def gap_gate(t_ns: IntArray, *, period_ns: int, t0_ns: int, t1_ns: int, scope: str, limit: float = GAP_LIMIT_PERIODS) -> Gate:
    """No two neighbouring samples that touch the window may lie more than ``limit`` periods apart.

    The sampler's own lateness is often the only witness of a stalled host. A window that samples do not bracket fails.
    """
    start = int(np.searchsorted(t_ns, t0_ns, side="right")) - 1
    stop = int(np.searchsorted(t_ns, t1_ns, side="left")) + 1
    bracketed = start >= 0 and stop <= len(t_ns) and stop - start > 1
    gap = float(np.max(np.diff(t_ns[start:stop]))) / period_ns if bracketed else None
    passed = gap is not None and gap <= limit
    if gap is None:
        reason = "the sampler took no sample on each side of the window"
    else:
        reason = f"the longest gap between samples is {gap:.2f} periods of {period_ns / 1e6:g} ms (limit {limit:g})"
    return Gate(
        name="sampler gaps", scope=scope, measured=gap, limit=limit, unit="period", passed=passed, reason=reason,
        remedy="" if passed else "the host stalled or the sampler stopped: repeat, on a host with a free core",
    )  # fmt: skip
