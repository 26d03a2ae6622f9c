"""Whether a device was quiet just before and just after a window: work there is booked to the window, or taken for idle.

A power reading goes on showing an event after its end, so the readings right after a window belong to it, and those beside show the idle
level that is taken off. Work that nobody booked, asynchronous kernels that outlast the window or a load in the background, spoils both.
Power speaks first, against idle power in the same state of the device: a card draws no less in a higher state (lower P-state, higher
clock), so idle power measured there bounds it. Where the device was never seen idle in such a state, utilisation speaks, with its lag:
a reading is an average over up to one of its periods, and up to one period old.

Fails (sees nothing) where the work ended within the sensor's tail after the window and utilisation had not risen or tells too late, and
where a load was there all the time, the idle baseline included. Where neither power nor utilisation can tell, the gate warns.

Reference: NVML header, ``nvmlUtilization_t`` ("the sample period may be between 1 second and 1/6 second"); decision 0009.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_physics.metrology.uncertainty import Gate
from pytest_physics.metrology.updates import BoolArray, FloatArray, IntArray, run_starts

NAME = "quiet beside the window"
SIGMAS = 3.0
"""Standard uncertainties by which a level may lie above idle …"""
IDLE_WANDER = 0.10
"""… this share of idle power, by which idle wanders …"""
LEAKAGE_PER_K = 0.01
"""… this share for each kelvin that the device is warmer (cards leak 0.2 to 0.8 % more per kelvin) …"""
UNKNOWN_WARMER_K = 30.0
"""… as if it were this much warmer, where it has no thermometer …"""
MATERIAL = 0.02
"""… and this share of the power in the window, which would not matter."""
MAX_BUSY = 0.10
"""Utilisation beside a window that is not yet work: a desktop is redrawn."""
SAME_CLOCK = 0.95
"""A clock of at least this share of another is not lower."""
UTILISATION_PERIODS_S = (1 / 6, 1.0)
"""Shortest and longest period of a utilisation reading, by the driver's own documentation."""
FEWEST_CHANGES = 3
"""Changes from which a utilisation reading shows its period."""
LOW_SHARE = 0.1
"""The level below which this share of quiet readings lies stands for idle power in a state."""
FEWEST_READINGS = 4
"""Readings that make a level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """In which state the device was; NaN where it does not tell."""

    performance_state: float = math.nan
    clock_hz: float = math.nan
    temperature_c: float = math.nan

    @property
    def known(self) -> bool:
        """Whether states can be told apart."""
        return math.isfinite(self.performance_state) or math.isfinite(self.clock_hz)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleReference:
    """Idle power that was seen in a state of the device."""

    power_w: float
    u_w: float
    state: DeviceState
    source: str
    """Completes "… W of …"."""
    certain: bool
    """Whether somebody made sure that the device was idle: an idle baseline."""

    def bounds(self, state: DeviceState) -> bool:
        """Whether the device draws at most this much when idle in ``state``: this one is no lower."""
        if not (self.state.known and state.known):
            return False
        slower = self.state.performance_state > state.performance_state or self.state.clock_hz < SAME_CLOCK * state.clock_hz
        return not slower

    def limit_w(self, state: DeviceState, u_w: float, window_w: float) -> float:
        """Highest level beside a window that may still be idle."""
        warmer_k = state.temperature_c - self.state.temperature_c
        warmer_k = max(0.0, warmer_k) if math.isfinite(warmer_k) else UNKNOWN_WARMER_K
        idle_w = abs(self.power_w)
        allowed_w = (IDLE_WANDER + LEAKAGE_PER_K * warmer_k) * idle_w + MATERIAL * max(0.0, window_w if math.isfinite(window_w) else 0.0)
        return self.power_w + SIGMAS * math.hypot(self.u_w, u_w) + allowed_w


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What was read on one side of a window, outside of the sensor's tail and of other windows."""

    where: str
    """``before`` or ``after``."""
    level_w: float
    """Power there, in watts."""
    u_w: float
    state: DeviceState
    busy: float = math.nan
    """Utilisation, 0 to 1, that tells of this side only; NaN where none does."""
    fell: bool = False
    """Work had ended there: power fell to ``level_w``, and utilisation may still show it."""


def quiet_gate(sides: Sequence[Side], references: Sequence[Sequence[IdleReference]], *, window_w: float, scope: str) -> Gate:
    """The side of a window that looks least like idle.

    Parameters
    ----------
    sides
        Those of which readings are known, at least one.
    references
        For each side idle powers of the device, the ones that somebody made sure of first.
    window_w
        Mean power in the window.
    """
    gates = [_side_gate(side, known, window_w=window_w, scope=scope) for side, known in zip(sides, references, strict=True)]
    return min(gates, key=lambda gate: (gate.passed, gate.warning, -(gate.measured or 0.0) / (gate.limit or 1.0)))


def _side_gate(side: Side, references: Sequence[IdleReference], *, window_w: float, scope: str) -> Gate:
    reference = next((known for known in references if known.bounds(side.state)), None)
    seen = math.isfinite(side.busy)
    # power has told when the work ended, and utilisation lags behind it
    trusted = side.where == "after" or not (side.fell or (reference is not None and reference.certain))
    if reference is not None and not side.level_w <= (limit_w := reference.limit_w(side.state, side.u_w, window_w)):
        return _power_gate(side, reference, limit_w, scope)
    if seen and trusted and side.busy > MAX_BUSY:
        return _busy_gate(side, scope)
    if reference is not None:
        return _power_gate(side, reference, reference.limit_w(side.state, side.u_w, window_w), scope)
    return _busy_gate(side, scope) if seen and not side.busy > MAX_BUSY else _unchecked(side, scope)


REMEDY = (
    "wait for the device inside the window (torch.cuda.synchronize), stop other work on it, and leave it idle for about a second on both "
    "sides; or open a window around that work too"
)


def _power_gate(side: Side, reference: IdleReference, limit_w: float, scope: str) -> Gate:
    passed = side.level_w <= limit_w
    return Gate(
        name=NAME, scope=scope, measured=side.level_w, limit=limit_w, unit="W", passed=passed,
        reason=f"{side.where} the window the device drew {side.level_w:.4g} W (limit {limit_w:.4g} W, from the {reference.power_w:.4g} W "
        f"of {reference.source})" + ("" if passed else ": it worked outside of any window, which is booked to this one or taken for idle"),
        remedy="" if passed else REMEDY,
    )  # fmt: skip


def _busy_gate(side: Side, scope: str) -> Gate:
    passed = not side.busy > MAX_BUSY
    return Gate(
        name=NAME, scope=scope, measured=side.busy, limit=MAX_BUSY, unit="1", passed=passed,
        reason=f"{side.where} the window the device was {side.busy:.0%} busy (limit {MAX_BUSY:.0%})"
        + ("" if passed else ": it worked outside of any window, which is booked to this one or taken for idle"),
        remedy="" if passed else REMEDY,
    )  # fmt: skip


def _unchecked(side: Side, scope: str) -> Gate:
    return Gate(
        name=NAME, scope=scope, measured=None, limit=None, unit="W", passed=False, warning=True,
        reason=f"not checked: {side.where} the window the device drew {side.level_w:.4g} W in a state in which it was never seen idle, "
        "and no utilisation reading tells whether it worked",
        remedy="take an idle baseline while the device is awake, or leave it idle for a second between windows",
    )  # fmt: skip


# --- utilisation -----------------------------------------------------------------------------------------------------


def utilisation_period_s(t_ns: IntArray, busy: FloatArray) -> float:
    """Period of a utilisation reading: the shortest time for which values stood, within what the driver states.

    The longest that is possible where fewer than three changes are seen. Values that repeat make it longer and never shorter.
    """
    changes = t_ns[run_starts(busy)][1:]
    shortest, longest = UTILISATION_PERIODS_S
    if len(changes) <= FEWEST_CHANGES:
        return longest
    return float(np.clip(np.quantile(np.diff(changes) * 1e-9, LOW_SHARE), shortest, longest))


def busy_beside(t_ns: IntArray, busy: FloatArray, *, t0_ns: int, t1_ns: int, head_limit_ns: int, tail_limit_ns: int) -> tuple[float, float]:
    """Utilisation that tells of the time before a window and of the time after it only, 0 to 1; NaN where none does.

    Parameters
    ----------
    t_ns, busy
        Samples from a minute before the window on, shape (N,), NaN where a read failed.
    head_limit_ns, tail_limit_ns
        Latest end of another window before this one, and earliest start of one after it.
    """
    known = np.isfinite(busy)
    t, y = t_ns[known], busy[known]
    if not len(y) or np.all(y == y[0]):  # a reading that never moves tells nothing
        return math.nan, math.nan
    lag_ns = round(2e9 * utilisation_period_s(t, y))
    around = y[(t >= t0_ns - lag_ns) & (t <= tail_limit_ns)]
    moved = bool(len(around)) and bool(np.any(around != around[0]))
    before = y[(t <= t0_ns) & (t - lag_ns >= head_limit_ns)][-1:]
    after = y[(t > t1_ns + lag_ns) & (t < tail_limit_ns)]

    def told(values: FloatArray) -> float:
        highest = float(np.max(values)) if len(values) else math.nan
        return highest if moved or highest > MAX_BUSY else math.nan  # one that hangs at rest would hide all work

    return told(before), told(after)


# --- power -----------------------------------------------------------------------------------------------------------


def lowest_level(power_w: FloatArray, temperature_c: FloatArray) -> tuple[float, float, float]:
    """Level, its standard uncertainty, and temperature of the lowest tenth of readings: (NaN, NaN, NaN) for too few of them."""
    if len(power_w) < FEWEST_READINGS:
        return math.nan, math.nan, math.nan
    edge = np.quantile(power_w, LOW_SHARE)
    low = power_w <= edge
    spread = float(np.std(power_w[power_w <= np.quantile(power_w, 2 * LOW_SHARE)]))
    warm = temperature_c[low]
    return float(edge), spread, float(np.median(warm[np.isfinite(warm)])) if np.isfinite(warm).any() else math.nan


def steady(states: Sequence[FloatArray], t_ns: IntArray, tail_ns: int) -> BoolArray:
    """Which samples come later than the sensor's tail after any state last changed, shape (N,)."""
    if not states or not len(t_ns):
        return np.zeros(len(t_ns), bool)
    starts = np.unique(np.concatenate([run_starts(np.nan_to_num(state, nan=-1.0)) for state in states]))
    since: IntArray = t_ns - np.repeat(t_ns[starts], np.diff(np.append(starts, len(t_ns))))
    return since >= tail_ns
