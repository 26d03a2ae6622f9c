"""Heat soak: keep a device under constant load until its temperature is at rest, or until it is clear that it will not be in time.

Protocol: idle look, load on, every ``STEP_S`` an assessment of the samples since the load came on
(:func:`pytest_physics.metrology.thermal.assess_soak`); stop at EQUILIBRIUM, HOPELESS or the end of the budget. A thermal trip
(83 °C) pauses the load until 80 °C. The gates are computed from the recorded trace, so ``verify`` computes them again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pytest_physics.clock import NS_PER_S
from pytest_physics.instrument import Instrument
from pytest_physics.metrology.thermal import SoakAssessment, SoakState
from pytest_physics.metrology.uncertainty import Estimate, Recipe
from pytest_physics.record.leaves.phase import soak_assessment
from pytest_physics.session import Session

STEP_S = 5.0
"""Time under load between two looks."""
IDLE_LOOK_S = 5.0
"""Idle time before the load, which shows the power the load is compared with."""
COOL_STEP_S = 1.0
DONE = frozenset({SoakState.EQUILIBRIUM, SoakState.HOPELESS})


class SteadyLoad(Protocol):
    """Something that loads the device constantly for a given time."""

    def warm_up(self) -> object:
        """Load kernels and compile, outside of the measurement."""

    def run_for(self, duration_s: float) -> object:
        """Load the device for about ``duration_s`` seconds of its clock; returns when it is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatSoak:
    """What a heat soak found."""

    phase: str
    """Id of the phase under load."""
    assessment: SoakAssessment
    slope: Estimate
    """Temperature slope over the last window, °C per minute."""
    plateau: Estimate
    """Fitted final temperature, °C."""
    requirement: Recipe
    """Gates for whatever is measured on the soaked device."""


def run_heat_soak(instrument: Instrument, session: Session, load: SteadyLoad, *, progress: Callable[[str], None] | None = None) -> HeatSoak:
    """Soak ``instrument`` with ``load``; raises ``ChannelUnavailableError`` without a thermometer."""
    instrument.require("temperature_c")
    load.warm_up()
    with instrument.phase("idle look"):
        instrument.sleep(IDLE_LOOK_S)
    with instrument.phase("soak") as phase:
        _soak(instrument, session, load, phase.t0_ns, progress)
    t1_ns = instrument.clock.now_ns()
    instrument.wait_until_sampled(t1_ns)
    assessment = soak_assessment(session, instrument.name, phase.t0_ns, session.phase(phase.id).t1_ns or t1_ns)
    slope = Recipe(op="soak.slope", parameters={"phase": phase.id})
    plateau = Recipe(op="soak.plateau", parameters={"phase": phase.id})
    return HeatSoak(
        phase=phase.id,
        assessment=assessment,
        slope=session.result("heat soak", "temperature slope", session.evaluate(slope)),
        plateau=session.result("heat soak", "plateau temperature", session.evaluate(plateau)),
        requirement=Recipe(op="soak", parameters={"phase": phase.id}),
    )


def _soak(instrument: Instrument, session: Session, load: SteadyLoad, t0_ns: int, progress: Callable[[str], None] | None) -> None:
    budget_ns = t0_ns + round(session.settings.soak.budget_s * NS_PER_S)
    while True:
        load.run_for(STEP_S)
        # a sampler that died or hangs says "tripped" for ever: wait only while it samples, and no longer than the soak may last
        while instrument.sampler.tripped and instrument.clock.now_ns() < budget_ns and _still_samples(instrument):
            instrument.sleep(COOL_STEP_S)
        # no waiting for samples here: a pause of the load would show in the temperature
        assessment = soak_assessment(session, instrument.name, t0_ns, instrument.clock.now_ns())
        if progress:
            progress(progress_line(assessment))
        if assessment.state in DONE or instrument.clock.now_ns() >= budget_ns or not instrument.sampler.is_alive():
            return


def _still_samples(instrument: Instrument) -> bool:
    return instrument.wait_until_sampled(instrument.clock.now_ns())


def progress_line(assessment: SoakAssessment) -> str:
    """One line for a terminal: state, time, temperature slope, predicted plateau and time left."""
    parts = [f"heat soak: {assessment.state.value}, {assessment.elapsed_s:.0f} s"]
    if assessment.slope:
        parts.append(f"slope {assessment.slope.value:+.2f} °C/min")
    if assessment.plateau:
        parts.append(f"plateau {assessment.plateau.temperature_c:.1f} °C, about {assessment.plateau.remaining_s:.0f} s left")
    return ", ".join(parts)
