"""Thermal hysteresis: ramp the load slowly up and down, and see whether the clock at a temperature depends on the way there (TR122.E).

Protocol: one ramp to warm up, then as many as the settings say, each a staircase of :data:`STEPS` shares of the load up and as many down.
The shares run from :data:`LOWEST` to 1. A load that can run at a share of its power gives the stairs; any other is switched on and off in
slices. A trip of the thermal safety pauses the load. The numbers (:mod:`pytest_physics.metrology.hysteresis`) follow from the trace.

A card that is never slowed for heat has no loop that could be seen: its numbers are "not tested", because no opportunity arose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.experiments.sensor_characterisation import AdjustableLoad
from pytest_physics.experiments.stress import answering, tested
from pytest_physics.instrument import Instrument
from pytest_physics.metrology.uncertainty import Estimate, Recipe
from pytest_physics.record.leaves.stress import BRANCHES, LOOP
from pytest_physics.session import Session
from pytest_physics.workloads.base import Kernel

EXPERIMENT = "thermal hysteresis"
STEPS = 12
"""Stairs of each branch."""
LOWEST = 0.1
"""Share of the load at the bottom of the ramp: the card must cool below where it recovers."""
SLICE_S = 0.1
"""Time on, of a load that is switched for a share of its power: short beside the seconds in which a die warms up."""
COOL_STEP_S = 1.0
CHANNELS = ("temperature_c", "sm_clock_hz", "event_reasons")
QUANTITIES = {"stress.loop_width": "loop width", "stress.loop_height": "loop height", "stress.loop_area": "loop area"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ThermalHysteresis:
    """What the ramps showed; every number is an estimate with its recipe, and raises where no opportunity arose."""

    session: Session
    instrument: Instrument
    windows: tuple[str, ...]
    """Windows of the ramps that count."""

    def _of(self, op: str) -> Estimate:
        recipe = Recipe(op=op, parameters={"windows": list(self.windows)})
        return tested(self.session.evaluate(recipe))

    @property
    def width(self) -> Estimate:
        """Temperature at which the clock is stepped down less that at which it recovers, in °C."""
        return self._of("stress.loop_width")

    @property
    def height(self) -> Estimate:
        """Clock on the way up less clock on the way down, at the same temperatures, in Hz."""
        return self._of("stress.loop_height")

    @property
    def area(self) -> Estimate:
        """Area of the loop in Hz·°C."""
        return self._of("stress.loop_area")


def run_thermal_hysteresis(instrument: Instrument, session: Session, load: Kernel) -> ThermalHysteresis:
    """Ramp, and record the loop; raises ``ChannelUnavailableError`` without thermometer, clock or event reasons."""
    with answering(session, "E", instrument.name):
        instrument.require(*CHANNELS)
    settings = session.settings.stress
    load.warm_up()
    windows: list[str] = []
    with instrument.phase("thermal ramps"):
        for cycle in range(settings.ramp_cycles + 1):
            halves = [_half(instrument, load, cycle, branch, settings.ramp_s / 2) for branch in BRANCHES]
            windows += halves if cycle else []
    instrument.wait_until_sampled(instrument.clock.now_ns())
    found = ThermalHysteresis(session=session, instrument=instrument, windows=tuple(windows))
    for op in LOOP:
        session.result(
            EXPERIMENT, QUANTITIES[op], session.evaluate(Recipe(op=op, parameters={"windows": windows})), instrument=instrument.name
        )  # fmt: skip
    return found


def _half(instrument: Instrument, load: Kernel, cycle: int, branch: str, length_s: float) -> str:
    """One branch of one ramp, in its window."""
    shares = np.linspace(LOWEST, 1.0, STEPS)
    with instrument.window("ramp", labels={"cycle": cycle, "branch": branch}) as window:
        for share in shares if branch == "up" else shares[::-1]:
            _at(instrument, load, float(share), length_s / STEPS)
    return window.closed_id


def _at(instrument: Instrument, load: Kernel, share: float, length_s: float) -> None:
    """The load at a share of its power; nothing while the thermal safety says so."""
    if instrument.sampler.tripped and instrument.sampler.is_alive():
        instrument.sleep(max(COOL_STEP_S, length_s))
    elif isinstance(load, AdjustableLoad):
        load.at(share).run_for(length_s)
    else:
        end_ns = instrument.clock.now_ns() + round(length_s * NS_PER_S)
        while instrument.clock.now_ns() < end_ns:
            load.run_for(SLICE_S)
            instrument.sleep(SLICE_S * (1 / share - 1))
