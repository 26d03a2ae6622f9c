"""The strict grid: when a sampler reads.

Tick k is due at ``t_k = t_0 + k·T``. A tick that is late by at most one period is still taken; later than that, the sampler
skips to the next grid point in the future and the ticks between are dropped. So a stall never causes a burst: at most ``⌊d/T⌋
+ 2`` ticks start within any time d, and the index of each row says which ticks are missing.

Pure integer arithmetic in nanoseconds; no clock, no numpy.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Absolute sampling times of one instrument."""

    origin_ns: int
    """t_0: time of tick 0 on the instrument's clock. Instruments of one run share it."""
    period_ns: int
    """T in nanoseconds."""

    def __post_init__(self) -> None:
        """Refuse a period that is no period."""
        if not self.period_ns > 0:
            raise ValueError(f"'period_ns' must be > 0 (got {self.period_ns}).")

    def time_ns(self, tick: int) -> int:
        """Time at which ``tick`` is due."""
        return self.origin_ns + tick * self.period_ns

    def tick_at_or_after(self, t_ns: int) -> int:
        """First tick that is due at or after ``t_ns``; never before tick 0."""
        return max(0, -((self.origin_ns - t_ns) // self.period_ns))

    def tick_at_or_before(self, t_ns: int) -> int:
        """Last tick that is due at or before ``t_ns``; −1 and less before the origin."""
        return (t_ns - self.origin_ns) // self.period_ns

    def following(self, tick: int, now_ns: int) -> int:
        """Tick to take after ``tick`` when it is ``now_ns``; what lies between the two is dropped."""
        if now_ns - self.time_ns(tick + 1) <= self.period_ns:
            return tick + 1
        return self.tick_at_or_after(now_ns)
