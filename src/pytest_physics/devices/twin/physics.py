"""What happens on the card: load → clocks and P-state → power → heat, event by event, in closed form between events.

A *segment* begins when something changes: the load, the memory, an edge of a fault, or the driver's look at temperature and idle
time every control period (on a grid fixed at the start). Inside a segment clocks and target power are constant; the true power
goes to its target with one electrical time constant, the temperatures follow exactly. How time is cut into steps does not matter.

Rules, in the order in which they act on the clock of a busy card:

1. boost, unless limited;
2. power cap: the highest step of the clock whose settled power stays below the limit (reason 0x4);
3. driver slowdown: from ``slowdown_c`` on one clock step down per control period, up again below by :data:`HYSTERESIS_K` (0x20);
4. hardware slowdown: from ``hardware_slowdown_c`` on half the clock (0x40 and 0x8), until cooler by :data:`HYSTERESIS_K`.

An idle card (reason 0x1) stays in P0 for the hold time, then goes to P8 where it has it. Leakage is linear in die temperature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pytest_physics.devices.twin.draws import uniform
from pytest_physics.devices.twin.faults import Fault
from pytest_physics.devices.twin.presets import Card
from pytest_physics.devices.twin.truth import THROTTLE_COUNTERS, History

GPU_IDLE = 0x01
SOFTWARE_POWER_CAP = 0x04
HARDWARE_SLOWDOWN = 0x08
SOFTWARE_THERMAL = 0x20
HARDWARE_THERMAL = 0x40

HYSTERESIS_K = 2.0
BIMODAL_SLOT_S = 3.0
"""A bimodal idle draws its level anew in every slot."""
BIMODAL_HIGH_SHARE = 0.7
"""Share of slots with the higher level."""
P0, P8 = 0, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinLoad:
    """What the card has to do."""

    utilisation_ratio: float = 1.0
    """Share of time with work on the card."""
    intensity: float = 1.0
    """Mean dynamic power, as a share of the card's at the reference clock."""
    memory_utilisation_ratio: float = 0.0
    """Share of time the memory is read or written."""
    clock_sensitivity: float = 1.0
    """How much of the time scales with the clock: 1 for arithmetic, 0 for waiting on memory."""

    def __post_init__(self) -> None:
        """All are shares."""
        for name in ("utilisation_ratio", "intensity", "memory_utilisation_ratio", "clock_sensitivity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"'{name}' must be within 0 and 1 (got {getattr(self, name)}).")

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return self.utilisation_ratio > 0 or self.intensity > 0


IDLE = TwinLoad(utilisation_ratio=0.0, intensity=0.0, clock_sensitivity=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Regime:
    """What clocks and targets apply during a segment."""

    base_w: float
    """Power to which the card settles."""
    performance_state: int
    sm_clock_hz: float
    memory_clock_hz: float
    event_reasons: int
    utilisation_ratio: float = 0.0
    memory_utilisation_ratio: float = 0.0
    foreign_processes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What accumulates or decays, at one instant."""

    t_ns: int
    excess_w: float
    """Power above ``base_w``."""
    energy_j: float
    node_c: tuple[float, ...]
    busy_s: float = 0.0
    memory_busy_s: float = 0.0
    counters_ns: dict[str, int] = field(default_factory=lambda: dict.fromkeys(THROTTLE_COUNTERS, 0))


_REGIME_COLUMNS = tuple(column.name for column in fields(_Regime))
_STATE_COLUMNS = ("t_ns", "excess_w", "energy_j", "busy_s", "memory_busy_s")


class Physics:
    """The state of one card and its history, from a long rest at ``start_ns`` on."""

    def __init__(self, card: Card, *, start_ns: int, seed: int, faults: Sequence[Fault] = ()) -> None:
        self.card = card
        self.load = IDLE
        self.allocated_bytes = 0
        self.polled = True
        self.history = History(len(card.thermal.capacities_j_per_k))
        self._resistance_k_per_w = card.thermal.settled_c(1.0)[0] - card.thermal.ambient_c
        self._start_ns, self._seed = start_ns, seed
        self._faults = [fault for fault in faults if fault.kind in {"bimodal_idle", "foreign_process", "polling", "thermal_slowdown"}]
        self._edges_ns = sorted({edge for fault in self._faults for edge in fault.span_ns(start_ns)})
        self._control_ns = round(card.control_period_s * 1e9)
        self._thermal_limit_hz = card.boost_clock_hz
        self._hardware_slow = False
        self._idle_since_ns: int | None = start_ns - round(card.deep_idle_hold_s * 1e9)
        self._regime, self._state = self._rest()
        self.history.append(self._columns(self._state))
        self._begin(start_ns)

    # --- time --------------------------------------------------------------------------------------------------------

    def advance(self, t_ns: int) -> None:
        """Let time pass until ``t_ns``."""
        while self._next_ns <= t_ns:
            self._begin(self._next_ns)

    def set_load(self, t_ns: int, load: TwinLoad) -> None:
        """Change the load at ``t_ns``."""
        self.advance(t_ns)
        if load != self.load:
            self.load = load
            self._begin(t_ns, looks=False)

    def set_polled(self, t_ns: int, *, polled: bool) -> None:
        """Begin or end being polled at ``t_ns``; on a card that does not mind, nothing happens."""
        self.advance(t_ns)
        changed, self.polled = self.polled != polled, polled
        if changed and any(fault.kind == "polling" for fault in self._faults):
            self._begin(t_ns, looks=False)

    def set_allocated(self, t_ns: int, allocated_bytes: int) -> None:
        """Change the memory in use at ``t_ns``."""
        self.advance(t_ns)
        self.allocated_bytes = allocated_bytes
        self._begin(t_ns, looks=False)

    def end_of_work_ns(self, t_ns: int, work_s: float) -> int:
        """When ``work_s`` seconds of work at the reference clock, begun at ``t_ns`` with the load in force, will be done."""
        self.advance(t_ns)
        while True:
            end_ns = t_ns + math.ceil(max(work_s, 0.0) / self.speed * 1e9)
            if end_ns <= self._next_ns:
                return end_ns
            work_s -= (self._next_ns - t_ns) * 1e-9 * self.speed
            t_ns = self._next_ns
            self._begin(t_ns)

    @property
    def speed(self) -> float:
        """Pace of the work relative to the reference clock, now."""
        sensitivity = self.load.clock_sensitivity
        slower = sensitivity * self.card.reference_clock_hz / self._regime.sm_clock_hz + 1.0 - sensitivity
        return 1.0 / (slower * (self.card.host_spill_slowdown if self.spilled_bytes else 1.0))

    @property
    def spilled_bytes(self) -> int:
        """Memory that did not fit onto the card and lies in the host's."""
        return max(0, self.card.memory_reserved_bytes + self.allocated_bytes - self.card.memory_bytes)

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def idle_power_w(self) -> float:
        """Settled power without load, in the idle state (P8, or P0 at its temperature) of the open segment."""
        if self._regime.performance_state == P8 and self.card.deep_idle_w is not None:
            return self.card.deep_idle_w
        return self._static_w(self._state.node_c[0])

    def segment_at(self, t_ns: int) -> dict[str, Any]:
        """The open segment as if it began at ``t_ns``, by column; ``t_ns`` must not lie before its begin."""
        return self._columns(self._carried(t_ns))

    def _rest(self) -> tuple[_Regime, _State]:
        """A card that has been idle for ever, in its deepest state."""
        card = self.card
        deep = card.deep_idle_w is not None
        power_w = self._settled_idle_w() if card.deep_idle_w is None else card.deep_idle_w
        node_c = tuple(card.thermal.settled_c(power_w))
        regime = replace(self._idle_regime(node_c[0], deep=deep), base_w=power_w)
        return regime, _State(t_ns=self._start_ns, excess_w=0.0, energy_j=0.0, node_c=node_c)

    def _settled_idle_w(self) -> float:
        """Fixed point of active idle power and its own leakage."""
        cold_w = self._static_w(self.card.thermal.ambient_c)
        return cold_w / (1.0 - self.card.leakage_w_per_k * self._resistance_k_per_w)

    def _static_w(self, die_c: float) -> float:
        return self.card.active_idle_w + self.card.leakage_w_per_k * (die_c - self.card.leakage_reference_c)

    # --- segments ----------------------------------------------------------------------------------------------------

    def _begin(self, t_ns: int, *, looks: bool = True) -> None:
        """Close the open segment at ``t_ns`` and open the next; the driver ``looks`` only where its own grid says so."""
        state = self._carried(t_ns)
        power_w = self._regime.base_w + state.excess_w
        if looks and (t_ns - self._start_ns) % self._control_ns == 0:
            self._look_at_temperature(state.node_c[0])
        self._regime = self._regime_at(t_ns, state.node_c[0])
        self._state = replace(state, excess_w=power_w - self._regime.base_w)
        self.history.append(self._columns(self._state))
        self._next_ns = self._next_event_ns(t_ns)

    def _next_event_ns(self, t_ns: int) -> int:
        grid_ns = self._start_ns + ((t_ns - self._start_ns) // self._control_ns + 1) * self._control_ns
        return min(grid_ns, next((edge for edge in self._edges_ns if edge > t_ns), grid_ns))

    def _carried(self, t_ns: int) -> _State:
        """The state at ``t_ns`` under the present regime."""
        old, regime, tau_s = self._state, self._regime, self.card.electrical_s
        dt_ns = t_ns - old.t_ns
        if not dt_ns:
            return old
        dt_s = dt_ns * 1e-9
        nodes = self.card.thermal.after(old.node_c, base_w=regime.base_w, excess_w=old.excess_w, tau_s=tau_s, dt_s=dt_s)
        runs = {name: bool(regime.event_reasons & mask) for name, mask in THROTTLE_COUNTERS.items()}
        return _State(
            t_ns=t_ns,
            excess_w=old.excess_w * math.exp(-dt_s / tau_s),
            energy_j=old.energy_j + regime.base_w * dt_s - old.excess_w * tau_s * math.expm1(-dt_s / tau_s),
            node_c=tuple(map(float, nodes)),
            busy_s=old.busy_s + regime.utilisation_ratio * dt_s,
            memory_busy_s=old.memory_busy_s + regime.memory_utilisation_ratio * dt_s,
            counters_ns={name: counted + runs[name] * dt_ns for name, counted in old.counters_ns.items()},
        )

    def _columns(self, state: _State) -> dict[str, Any]:
        row: dict[str, Any] = {name: getattr(self._regime, name) for name in _REGIME_COLUMNS}
        row |= {name: getattr(state, name) for name in _STATE_COLUMNS} | state.counters_ns
        row["settled_c"] = self.card.thermal.ambient_c + self._resistance_k_per_w * self._regime.base_w
        row |= zip(self.history.node_columns, state.node_c, strict=True)
        used_bytes = min(self.card.memory_bytes, self.card.memory_reserved_bytes + self.allocated_bytes)
        return row | {"tau_s": self.card.electrical_s, "memory_used_bytes": used_bytes}

    # --- the driver --------------------------------------------------------------------------------------------------

    def _look_at_temperature(self, die_c: float) -> None:
        card = self.card
        if die_c >= card.slowdown_c:
            self._thermal_limit_hz = max(card.minimum_clock_hz, self._thermal_limit_hz - card.clock_step_hz)
        elif die_c < card.slowdown_c - HYSTERESIS_K:
            self._thermal_limit_hz = min(card.boost_clock_hz, self._thermal_limit_hz + card.clock_step_hz)
        self._hardware_slow = die_c >= card.hardware_slowdown_c - (HYSTERESIS_K if self._hardware_slow else 0.0)

    def _in_force(self, kind: str, t_ns: int) -> list[Fault]:
        return [fault for fault in self._faults if fault.kind == kind and fault.covers(t_ns, self._start_ns)]

    def _regime_at(self, t_ns: int, die_c: float) -> _Regime:
        foreign = self._in_force("foreign_process", t_ns)
        if self.load.busy or foreign:
            self._idle_since_ns = None
            return self._busy_regime(t_ns, die_c, foreign)
        if self._idle_since_ns is None:
            self._idle_since_ns = t_ns
        rested_s = (t_ns - self._idle_since_ns) * 1e-9
        regime = self._idle_regime(die_c, deep=self.card.deep_idle_w is not None and rested_s >= self.card.deep_idle_hold_s)
        extra_w = sum(fault.number for fault in self._in_force("bimodal_idle", t_ns) if self._slot_is_high(t_ns))
        extra_w += sum(fault.number for fault in self._in_force("polling", t_ns) if self.polled)
        return replace(regime, base_w=regime.base_w + extra_w) if extra_w else regime

    def _idle_regime(self, die_c: float, *, deep: bool) -> _Regime:
        card = self.card
        return _Regime(
            base_w=card.deep_idle_w if deep and card.deep_idle_w is not None else self._static_w(die_c),
            performance_state=P8 if deep else P0,
            sm_clock_hz=card.idle_clock_hz if deep else card.boost_clock_hz,
            memory_clock_hz=card.idle_memory_clock_hz if deep else card.memory_clock_hz,
            event_reasons=GPU_IDLE,
        )

    def _slot_is_high(self, t_ns: int) -> bool:
        slot = (t_ns - self._start_ns) // round(BIMODAL_SLOT_S * 1e9)
        return bool(uniform(self._seed, "bimodal", slot)[0] < BIMODAL_HIGH_SHARE)

    def _busy_regime(self, t_ns: int, die_c: float, foreign: Sequence[Fault]) -> _Regime:
        card = self.card
        share = sum(fault.number for fault in foreign)
        full_w = card.dynamic_w * min(1.0, self.load.intensity + share)
        clock_hz, reasons = self._clock(t_ns, full_w=full_w, static_w=self._static_w(die_c))
        return _Regime(
            performance_state=P0,
            sm_clock_hz=clock_hz,
            memory_clock_hz=card.memory_clock_hz,
            event_reasons=reasons,
            base_w=self._static_w(die_c) + full_w * (clock_hz / card.reference_clock_hz) ** card.clock_exponent,
            utilisation_ratio=min(1.0, self.load.utilisation_ratio + share),
            memory_utilisation_ratio=self.load.memory_utilisation_ratio,
            foreign_processes=len(foreign),
        )

    def _clock(self, t_ns: int, *, full_w: float, static_w: float) -> tuple[float, int]:
        """Clock of a busy card, and why it is not higher."""
        card = self.card
        forced_hz = [fault.number * card.boost_clock_hz for fault in self._in_force("thermal_slowdown", t_ns)]
        thermal_hz = min([self._thermal_limit_hz, *forced_hz])
        cap_hz = self._power_cap_hz(full_w, static_w)
        reasons = SOFTWARE_THERMAL if thermal_hz < card.boost_clock_hz or forced_hz else 0
        if cap_hz < card.boost_clock_hz and cap_hz <= thermal_hz:
            reasons |= SOFTWARE_POWER_CAP
        clock_hz = min(card.boost_clock_hz, thermal_hz, cap_hz)
        if self._hardware_slow:
            return max(card.minimum_clock_hz, clock_hz / 2), reasons | HARDWARE_SLOWDOWN | HARDWARE_THERMAL
        return max(card.minimum_clock_hz, clock_hz), reasons

    def _power_cap_hz(self, full_w: float, static_w: float) -> float:
        card = self.card
        room_w = max(card.power_limit_w - static_w, 0.0)
        if full_w * (card.boost_clock_hz / card.reference_clock_hz) ** card.clock_exponent <= room_w:
            return card.boost_clock_hz
        steps: int = math.floor(card.reference_clock_hz * (room_w / full_w) ** (1.0 / card.clock_exponent) / card.clock_step_hz)
        return steps * card.clock_step_hz
