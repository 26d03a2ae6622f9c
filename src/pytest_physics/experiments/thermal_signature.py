"""Thermal signature of workloads: what a device does under each, with the spread between replicates, and whether that tells them apart.

Each replicate waits until the device is back at its first temperature, records idle time, then a load of equal steps. Replicates of all
workloads run in shuffled order; at least three of each, because one alone shows no spread. Recorded are all features of every workload and
the share of replicates that the others name right. Needs a thermometer. Reference: RLE study §5, §7.3 (seed 002).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.instrument import Instrument, Label
from pytest_physics.metrology.signature import UNITS
from pytest_physics.metrology.uncertainty import Estimate, Recipe
from pytest_physics.session import Session
from pytest_physics.workloads.signature_loads import Step

EXPERIMENT = "thermal signature"
IDLE, LOAD = "signature idle", "signature load"
COOL_STEP_S = 5.0
COOLED_C = 1.0
"""A device is back when it is this near to the temperature at which the first replicate began."""
COOL_BUDGET = 20.0
"""It is not waited for longer than this many times the length of a load: the gate on start temperatures judges what came of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThermalSignatures:
    """Signatures of some workloads on one device; every number is an estimate with its recipe."""

    session: Session
    instrument: Instrument
    windows: tuple[str, ...]
    """Idle and load window of each replicate, in the order in which they ran."""
    workloads: tuple[str, ...]

    def _of(self, quantity: str, **more: object) -> Estimate:
        parameters = {"windows": list(self.windows), "sensor": self.instrument.sensor_id, **more}
        return self.session.evaluate(Recipe(op=f"signature.{quantity}", parameters=parameters))

    def feature(self, workload: str, name: str) -> Estimate:
        """One feature of one workload; see :data:`~pytest_physics.metrology.signature.UNITS`."""
        return self._of("feature", workload=workload, feature=name)

    @property
    def accuracy_above_chance(self) -> Estimate:
        """Share of replicates that the others name right, less chance."""
        return self._of("accuracy")

    @property
    def p(self) -> Estimate:
        """Share of shuffled labels that do as well."""
        return self._of("p")


def run_thermal_signature(instrument: Instrument, session: Session, loads: Mapping[str, Step]) -> ThermalSignatures:
    """Measure and record the signatures of ``loads``; raises ``ChannelUnavailableError`` without a thermometer."""
    instrument.require("temperature_c")
    settings = session.settings.training
    order = [name for name in loads for _ in range(settings.signature_replicates)]
    np.random.default_rng(session.settings.seed).shuffle(order)
    windows: list[str] = []
    with instrument.phase("settle"):
        session.settle(instrument)
    with instrument.phase("thermal signatures"):
        start_c = _temperature(instrument)
        for number, name in enumerate(order):
            _cool(instrument, start_c, COOL_BUDGET * _load_s(instrument, session))
            windows += _replicate(instrument, session, loads[name], {"workload": name, "replicate": number})
    instrument.wait_until_sampled(instrument.clock.now_ns() + instrument.tail_ns)
    found = ThermalSignatures(session=session, instrument=instrument, windows=tuple(windows), workloads=tuple(loads))
    for workload in loads:
        for feature in UNITS:
            session.result(EXPERIMENT, feature, found.feature(workload, feature), workload=workload, instrument=instrument.name)
    session.result(EXPERIMENT, "named right, less chance", found.accuracy_above_chance, instrument=instrument.name)
    session.result(EXPERIMENT, "shuffled labels that do as well", found.p, instrument=instrument.name)
    return found


def _load_s(instrument: Instrument, session: Session) -> float:
    settings = session.settings.training
    return settings.twin_signature_load_s if instrument.simulated else settings.signature_load_s


def _replicate(instrument: Instrument, session: Session, step: Step, labels: Mapping[str, Label]) -> list[str]:
    """Idle, then load."""
    settings, simulated = session.settings.training, instrument.simulated
    load_s = _load_s(instrument, session)
    with instrument.window(IDLE, labels=labels, synchronise=False) as idle:
        instrument.sleep(settings.twin_signature_idle_s if simulated else settings.signature_idle_s)
    with instrument.window(LOAD, labels=labels, synchronise=False) as load:
        end_ns = load.t0_ns + round(load_s * NS_PER_S)
        while instrument.clock.now_ns() < end_ns:
            t0_ns = instrument.clock.now_ns()
            step()
            load.calls_ns.append(instrument.clock.now_ns() - t0_ns)
        load.work = {"steps": float(len(load.calls_ns))}
    return [idle.closed_id, load.closed_id]


def _cool(instrument: Instrument, start_c: float, budget_s: float) -> None:
    deadline_ns = instrument.clock.now_ns() + round(budget_s * NS_PER_S)
    while _temperature(instrument) > start_c + COOLED_C and instrument.clock.now_ns() < deadline_ns:
        instrument.sleep(min(COOL_STEP_S, max(0.1, budget_s / 10)))


def _temperature(instrument: Instrument) -> float:
    instrument.wait_until_sampled(instrument.clock.now_ns())
    return float(instrument.sampler.latest()["temperature_c"])
