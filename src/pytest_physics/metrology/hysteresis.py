"""Thermal hysteresis: the clock at a temperature depends on whether the card is heating up or cooling down.

A driver that slows a hot card down at one temperature, and lets it recover only at a lower one, draws a loop in the plane of clock and
temperature. Two numbers describe it for each cycle of a slow ramp of load, up and down:

* its *width*: mean temperature at which the clock was stepped down for heat, less that at which it was let up again, in °C;
* its *area*: clock of the branch upwards less that of the branch downwards, summed over the temperatures that both visited, in Hz·°C,
  and its *height*, the same as a mean, in Hz.

Only samples count whose clock speaks of heat: a clock held by the power cap alone follows the load, and at one temperature the load of
the two branches differs, because temperature lags; that would be a loop of the ramp and not of the card. Idle samples do not count either.
A card that never slows for heat has no loop to show: that is "not tested", not zero. The first cycle starts cold and is left out by the
caller. It fails where the thermometer's step is as large as the width: its full step is in the uncertainty. Reference: TR122.E.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_physics.metrology.throttle import EventReason

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

THERMAL = int(EventReason.SOFTWARE_THERMAL_SLOWDOWN | EventReason.HARDWARE_THERMAL_SLOWDOWN)
POWER_CAP = int(EventReason.SOFTWARE_POWER_CAP)
IDLE = int(EventReason.GPU_IDLE)
MIN_IN_BIN = 3
"""Samples that a temperature needs on each branch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Samples of one branch of one cycle, all of shape (N,)."""

    temperature_c: FloatArray
    clock_hz: FloatArray
    reasons: IntArray

    @property
    def counted(self) -> BoolArray:
        """Samples whose clock speaks of heat, or of nothing that holds it back."""
        thermal = (self.reasons & THERMAL) != 0
        capped = (self.reasons & POWER_CAP) != 0
        idle = (self.reasons & IDLE) != 0
        found: BoolArray = np.isfinite(self.temperature_c) & np.isfinite(self.clock_hz) & ~idle & (thermal | ~capped)
        return found

    @property
    def throttles(self) -> bool:
        """Whether heat ever held the clock back."""
        return bool((self.reasons & THERMAL).any())

    def steps(self) -> tuple[FloatArray, FloatArray]:
        """Temperatures at which the clock was stepped down and up for heat; idle samples are skipped, the power cap's steps left out."""
        busy = (self.reasons & IDLE) == 0
        reasons, clock_hz, temperature_c = self.reasons[busy], self.clock_hz[busy], self.temperature_c[busy]
        held, free = ((reasons & THERMAL) != 0) & ((reasons & POWER_CAP) == 0), (reasons & POWER_CAP) == 0
        change = np.diff(clock_hz)
        # a step down begins with the first held sample, a step up may end with the first free one
        down = (change < 0) & held[1:] & free[:-1]
        up = (change > 0) & held[:-1] & free[1:]
        return temperature_c[1:][down], temperature_c[1:][up]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """One ramp up and down."""

    up: Branch
    down: Branch

    @property
    def throttles(self) -> bool:
        """Whether heat held the clock back in it."""
        return self.up.throttles or self.down.throttles

    def width_c(self) -> float:
        """Temperature of slowing down less that of recovering; NaN where one of them did not happen."""
        down_c, up_c = (np.concatenate(both) for both in zip(self.up.steps(), self.down.steps(), strict=True))
        return float(down_c.mean() - up_c.mean()) if len(down_c) and len(up_c) else math.nan

    def differences(self, step_c: float) -> tuple[FloatArray, FloatArray]:
        """Temperatures that both branches visited, on a grid of ``step_c``, and the clock upwards less the clock downwards there."""
        up, down = (_means(branch, step_c) for branch in (self.up, self.down))
        common = sorted(up.keys() & down.keys())
        return np.array(common) * step_c, np.array([up[b] - down[b] for b in common])

    def height_hz(self, step_c: float) -> float:
        """Mean difference of the clocks; NaN without a common temperature."""
        _, difference_hz = self.differences(step_c)
        return float(difference_hz.mean()) if len(difference_hz) else math.nan

    def area_hz_c(self, step_c: float) -> float:
        """Area of the loop in Hz·°C; positive where the branch downwards is the slower one."""
        _, difference_hz = self.differences(step_c)
        return float(difference_hz.sum()) * step_c if len(difference_hz) else math.nan


def _means(branch: Branch, step_c: float) -> dict[int, float]:
    """Mean clock by number of the temperature bin, of bins with enough samples."""
    counted = branch.counted
    bins = np.floor(branch.temperature_c[counted] / step_c).astype(int)
    clocks = branch.clock_hz[counted]
    numbers, counts = np.unique(bins, return_counts=True)
    return {int(b): float(clocks[bins == b].mean()) for b, n in zip(numbers, counts, strict=True) if n >= MIN_IN_BIN}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """A number over cycles."""

    mean: float
    u: float
    """Standard error between the cycles; infinite for a single one."""
    n: int


def over_cycles(values: FloatArray) -> Repeated:
    """Mean and standard error of the cycles that have a value."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Repeated(mean=math.nan, u=math.inf, n=0)
    u = float(known.std(ddof=1)) / math.sqrt(len(known)) if len(known) > 1 else math.inf
    return Repeated(mean=float(known.mean()), u=u, n=len(known))
