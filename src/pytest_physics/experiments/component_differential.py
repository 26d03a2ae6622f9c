"""Component differential: of two devices under one load, which loses speed first, and is that more than chance.

Both devices are loaded for the same time and judged by one rule, tick by tick. Two real devices (GPU and CPU) run at the same time on one
clock. A twin is compared with a *control*: the same card that slows down for heat earlier, whose answer is known, or an equal card of
another seed, between which there is nothing to find; both run the same load, each in its own virtual time.

Recorded are the difference of the event shares (paired ticks), of the first event, of efficiency (work per net joule, each relative to its
own beginning), the ticks that 80 % power needs, rates by every rule, and what every rule can and cannot do on such a sensor.
Reference: RLE study §7.1 (seed 000).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.instrument import Instrument
from pytest_physics.metrology.instability import INSTABILITY, RULES
from pytest_physics.metrology.uncertainty import Estimate, Recipe
from pytest_physics.record.schema import BaselineRecord
from pytest_physics.session import Session
from pytest_physics.workloads.select import steady_load_for

EXPERIMENT = "component differential"
PHASE = "contrast"
WORK_TABLE = "work"
TICK_S = 1.0
SHORT_TICK_S = 0.1
"""Tick of a contrast that lasts seconds."""
LOAD_S, REST_S = 40.0, 20.0
"""Of a cycle of load and rest of a twin."""
SLICE_S = 1.0
"""Length of one slice of the load, whose work is counted."""
HOT_SLOWDOWN_C = 55.0
"""The hot control slows down from here on, in reach of its load."""
INTENSITY = 0.8
"""Of the load of two twins: warm enough for the hot control, and not for the card."""
RULE_NUMBERS = {
    "idle": "false alarms on idle", "noise": "false alarms on a noisy load", "detection": "injected throttling found",
    "reach": "can fire on this sensor",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """One device under its load."""

    instrument: Instrument
    phase: str
    work: str
    """Table of the work done."""
    baselines: tuple[BaselineRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentDifferential:
    """A contrast a − b; every number is an estimate with its recipe."""

    session: Session
    a: Loaded
    b: Loaded
    tick_s: float

    def _of(self, quantity: str, rule: str = INSTABILITY.id) -> Estimate:
        parameters: dict[str, Any] = {"phase": self.a.phase, "span": self.b.phase, "rule": rule, "tick_s": self.tick_s}
        if quantity == "efficiency":
            parameters |= {
                "work_phase": self.a.work, "work_span": self.b.work, "baselines_phase": [b.id for b in self.a.baselines],
                "baselines_span": [b.id for b in self.b.baselines],
            }  # fmt: skip
        return self.session.evaluate(Recipe(op=f"differential.{quantity}", parameters=parameters))

    @property
    def share(self) -> Estimate:
        """Share of ticks in events of a less that of b."""
        return self._of("share")

    @property
    def rate(self) -> Estimate:
        """Events per hour under load of a less those of b."""
        return self._of("rate")

    @property
    def onset(self) -> Estimate:
        """First event of a less first event of b, in seconds; without a value where one of them had none."""
        return self._of("onset")

    @property
    def efficiency(self) -> Estimate:
        """Relative work per net joule of a less that of b."""
        return self._of("efficiency")

    @property
    def needed_ticks(self) -> Estimate:
        """Ticks for 80 % power on a difference of this size."""
        return self._of("needed_ticks")

    def events(self, of: Loaded, quantity: str, rule: str = INSTABILITY.id) -> Estimate:
        """``rate``, ``free_share``, ``flag_share`` or ``onset`` of one device by a rule."""
        return self.session.evaluate(Recipe(op=f"events.{quantity}", parameters={"phase": of.phase, "rule": rule, "tick_s": self.tick_s}))


def rule_number(session: Session, rule: str, quantity: str, *, period_s: float = TICK_S, resolution_c: float = 1.0) -> Estimate:
    """What a rule can and cannot do on a sensor of this period and step: see ``rule.number``."""
    parameters = {"rule": rule, "quantity": quantity, "period_s": period_s, "resolution_c": resolution_c}
    return session.evaluate(Recipe(op="rule.number", parameters=parameters))


# --- contrasts --------------------------------------------------------------------------------------------------------


def run_twin_contrast(instrument: Instrument, session: Session, *, hot: bool) -> ComponentDifferential:
    """A twin against its control: ``hot`` slows down earlier, otherwise the control is an equal card of another seed."""
    spec = instrument.device.spec
    overrides = {**spec.parameters.get("overrides", {}), **({"card.slowdown_c": HOT_SLOWDOWN_C} if hot else {})}
    seed = int(spec.parameters.get("seed", 0)) + (0 if hot else 1)
    name = "hot_control" if hot else "equal_control"
    control = session.add_instrument(name, replace(spec, parameters={**spec.parameters, "overrides": overrides, "seed": seed}))
    key = f"{EXPERIMENT}|{instrument.name}"
    if key not in session.memory:  # one and the same load of the card is compared with every control
        session.memory[key] = _load_twin(instrument, session)
    return _recorded(session, _load_twin(control, session), session.memory[key], TICK_S)


def _load_twin(instrument: Instrument, session: Session) -> Loaded:
    """A rested card under cycles of load and rest, slice by slice: an event that lasts is one event, however many ticks it spans."""
    from pytest_physics.devices.twin import TwinDevice, TwinLoad  # noqa: PLC0415 -- only where a twin is the device

    assert isinstance(instrument.device, TwinDevice)  # noqa: S101 -- asked for on twins only
    device = instrument.device
    baseline = instrument.baselines[-1] if instrument.baselines else instrument.baseline()
    session.settle(instrument)
    ends: list[int] = []
    with instrument.phase(PHASE) as phase:
        for cycle in range(session.settings.training.twin_contrast_cycles):
            begin_ns = phase.t0_ns + round(cycle * (LOAD_S + REST_S) * NS_PER_S)
            instrument.clock.sleep_until_ns(begin_ns)
            while instrument.clock.now_ns() < begin_ns + round(LOAD_S * NS_PER_S):
                device.execute(TwinLoad(intensity=INTENSITY), SLICE_S)
                ends.append(instrument.clock.now_ns())
    instrument.wait_until_sampled(instrument.clock.now_ns())
    work = session.tabulate(f"{WORK_TABLE}-{instrument.name.replace('_', '-')}", {"t_ns": np.asarray(ends), "work": np.ones(len(ends))})
    return Loaded(instrument=instrument, phase=phase.id, work=work, baselines=(baseline,))


def run_contrast(first: Instrument, second: Instrument, session: Session) -> ComponentDifferential:
    """Two real devices under steady loads of their own at the same time; raises ``ChannelUnavailableError`` where one is simulated."""
    for instrument in (first, second):
        if instrument.simulated:
            raise ChannelUnavailableError(
                f"'{instrument.name}' is simulated, in a time of its own: a real device cannot be compared with it tick by tick."
            )
    baselines = [_baseline(instrument) for instrument in (first, second)]
    loads = [steady_load_for(instrument.device) for instrument in (first, second)]
    for load in loads:
        load.warm_up()
    length_s = session.settings.training.contrast_s
    works: list[list[tuple[int, float]]] = [[], []]
    with first.phase(PHASE) as phase_a, second.phase(PHASE) as phase_b:
        deadline_ns = first.clock.now_ns() + round(length_s * NS_PER_S)
        threads = [
            threading.Thread(target=_keep_busy, args=(load.run_for, instrument, deadline_ns, work))
            for load, instrument, work in zip(loads, (first, second), works, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    parts = [
        Loaded(
            instrument=instrument,
            phase=phase.id,
            baselines=baseline,
            work=session.tabulate(
                f"{WORK_TABLE}-{instrument.name}", {"t_ns": np.array([t for t, _ in work]), "work": np.array([w for _, w in work])}
            ),
        )
        for instrument, phase, baseline, work in zip((first, second), (phase_a, phase_b), baselines, works, strict=True)
    ]
    for instrument in (first, second):
        instrument.wait_until_sampled(instrument.clock.now_ns(), timeout_s=session.settings.sampling.max_wait_s)
    return _recorded(session, parts[0], parts[1], TICK_S if length_s >= 60 * TICK_S else SHORT_TICK_S)


def _keep_busy(run_for: Callable[[float], Any], instrument: Instrument, deadline_ns: int, work: list[tuple[int, float]]) -> None:
    """Slices of a load until the deadline, with the work of each: operations where the load counts them, else slices."""
    while instrument.clock.now_ns() < deadline_ns:
        left_s = (deadline_ns - instrument.clock.now_ns()) / NS_PER_S
        done = run_for(min(0.25 * SLICE_S, max(0.01, left_s)))
        work.append((instrument.clock.now_ns(), float(getattr(done, "flop", 1.0))))


def _baseline(instrument: Instrument) -> tuple[BaselineRecord, ...]:
    if not instrument.has("power_w"):
        return ()
    return tuple(instrument.baselines[-1:]) or (instrument.baseline(),)


# --- record -----------------------------------------------------------------------------------------------------------


def _recorded(session: Session, a: Loaded, b: Loaded, tick_s: float) -> ComponentDifferential:
    found = ComponentDifferential(session=session, a=a, b=b, tick_s=tick_s)
    at = {"contrast": f"{a.instrument.name} − {b.instrument.name}"}
    named = {
        "share of time in events": found.share, "event rate": found.rate, "first event": found.onset,
        "relative work per net joule": found.efficiency,
        "ticks for 80 % power": found.needed_ticks,
    }  # fmt: skip
    for quantity, estimate in named.items():
        session.result(EXPERIMENT, f"difference: {quantity}" if "power" not in quantity else quantity, estimate, **at)
    for loaded in (a, b):
        for rule in RULES:
            where = {"instrument": loaded.instrument.name, "rule": rule, **at}
            session.result(EXPERIMENT, "event rate", found.events(loaded, "rate", rule), **where)
            session.result(EXPERIMENT, "share of ticks flagged", found.events(loaded, "flag_share", rule), **where)
    return found


def record_rules(session: Session, *, period_s: float = TICK_S, resolution_c: float = 1.0) -> None:
    """The numbers that every rule ships with."""
    for rule in RULES:
        for quantity, shown in RULE_NUMBERS.items():
            estimate = rule_number(session, rule, quantity, period_s=period_s, resolution_c=resolution_c)
            session.result(EXPERIMENT, shown, estimate, rule=rule, sensor=f"{period_s:g} s, {resolution_c:g} °C")
