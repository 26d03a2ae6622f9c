"""The full instrument response: identification, and every check of sensor and counter that a driven load allows.

Protocol, each part a phase: the random telegraph that identifies the sensor; TR122's square wave with a rise limit derived from what was
identified; periodic loads of the update period (phase lock) and of the window (notch) at eight start phases each; steady levels, up and
down; and, in the longer profiles, a slow random load for comparing the energy counter with the readings over up to 30 s, and idle
stretches with the sampler paused and polling in turns. In ``quick`` all
of it takes about 85 s on a card that updates ten times a second. What a load or a sensor cannot show is recorded as not tested, with the
reason.

A load that can run at a share of its power (``at(share)``) gives the levels; any other is switched on and off at random, a few
milliseconds at a time. Reference: TR122 §5 and TR122.B; Yang, Adamek, Armour (arXiv 2312.02741).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Protocol, runtime_checkable

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.experiments.instrument_response import (
    EXPERIMENT,
    InstrumentResponse,
    SwitchedLoad,
    drive,
    identify_sensor,
    store_sensor,
)
from pytest_physics.instrument import Instrument
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.sensor_fit import telegraph
from pytest_physics.metrology.uncertainty import Estimate, Recipe
from pytest_physics.record.counter_evaluation import SPANS_S
from pytest_physics.record.identification import LOAD_ON, Identification, identify
from pytest_physics.record.sensor_checks import BURST, LEVEL, burst_period_s, no_bursts
from pytest_physics.session import Session

START_ORDER = (0, 4, 2, 6, 1, 5, 3, 7)
"""Start phases in eighths of the load period, in an order in which a slow trend looks like no phase."""
LEVELS = (0.0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)
"""Shares of the full load; driven up and down again, so that a card that warms up does not bend the line."""
MIN_BURST_READINGS = 8
MIN_BURST_S = 0.3
"""Length of the evaluated part of a burst, at least."""
PAUSES = 3
"""Idle stretches without polling."""
SLICE_S = 0.006
"""Mean time on, of a load that is switched for a share of its power."""
SLOW_DWELL_S = 0.5
"""Mean stretch of the slow random load."""


@runtime_checkable
class AdjustableLoad(Protocol):
    """A load that can run at a share of its power."""

    def at(self, share: float) -> SwitchedLoad:
        """The same load at ``share`` of its power, greater than 0 and at most 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorCharacterisation:
    """All that a run found of a power sensor and its energy counter."""

    response: InstrumentResponse
    """Update period, window or lag, delay, dead fraction, and the model in force."""
    estimates: Mapping[str, Estimate]
    """By quantity: :data:`CHECKS` and, with a counter, :data:`COUNTER_CHECKS`; those of ``response`` too."""
    mismatch: Mapping[float, Estimate]
    """Counter less integral, relative, by length of span in seconds; empty without a counter."""
    phases: Mapping[str, str]
    """Name of each driven phase to its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One quantity to report."""

    title: str
    op: str
    phase: str
    """Name of the phase it is read from; the telegraph stands in for one that was not driven."""
    parameters: Mapping[str, str | float]


def _check(title: str, op: str, phase: str, **parameters: str | float) -> Check:
    return Check(title=title, op=op, phase=phase, parameters=parameters)


CHECKS: Mapping[str, Check] = {
    "resolution_w": _check("resolution", "sensor.resolution", "telegraph"),
    "staleness_s": _check("longest stand of one value", "sensor.staleness", "telegraph"),
    "step_w": _check("square wave: step", "sensor.square_wave", "square wave", quantity="step_w"),
    "rise_s": _check("square wave: rise 10–90 %", "sensor.square_wave", "square wave", quantity="rise_s"),
    "step_delay_s": _check("square wave: delay to 50 %", "sensor.square_wave", "square wave", quantity="delay_s"),
    "phase_lock": _check("phase lock: share of the swing", "sensor.phase_lock", "phase lock"),
    "notch_w": _check("notch: modulation left", "sensor.notch", "notch"),
    "latency_s": _check("read latency, median", "sensor.latency", "telegraph", probability=0.5),
    "latency_p95_s": _check("read latency, 95 %", "sensor.latency", "telegraph", probability=0.95),
    "first_read": _check("first reads after a pause that are old", "sensor.first_read", "polling"),
    "polling_w": _check("polling perturbation", "sensor.polling", "polling"),
}
"""Checks of the power readings."""
COUNTER_CHECKS: Mapping[str, Check] = {
    "counter_tick_s": _check("counter: tick", "counter.tick", "telegraph"),
    "counter_increment_j": _check("counter: increment", "counter.increment", "telegraph"),
    "counter_feed_j": _check("counter: residual against summed readings", "counter.feed", "telegraph"),
    "counter_dead_time": _check("counter: follows the sensor's dead time", "counter.dead_time", "phase lock"),
    "counter_scale": _check("counter: joules counted per joule read", "counter.scale", "levels", quantity="scale"),
    "counter_disagreement": _check("counter: disagreement after one scale", "counter.scale", "levels", quantity="disagreement"),
}
"""Checks of the energy counter against the power readings."""
MISMATCH = "counter less integral"


def characterise_sensor(
    instrument: Instrument, session: Session, load: SwitchedLoad, *, known: InstrumentResponse | None = None
) -> SensorCharacterisation:
    """Identify the sensor, unless ``known`` was identified in this run; then drive, record and report every check.

    Raises ``ChannelUnavailableError`` without a power channel.
    """
    response = known if known is not None and known.phase else identify_sensor(instrument, session, load)
    phases = {"telegraph": response.phase, **_drive_all(instrument, session, load, response.phase)}
    checks = {**CHECKS, **(COUNTER_CHECKS if instrument.has("energy_j") else {})}
    estimates = {name: _report(instrument, session, phases, check) for name, check in checks.items()}
    compared = "counter" if "counter" in phases else "telegraph"
    mismatch = {
        s: _report(instrument, session, phases, _check(MISMATCH, "counter.mismatch", compared, duration_s=s))
        for s in (SPANS_S if instrument.has("energy_j") else ())
    }
    _use_resolution(instrument, session, estimates["resolution_w"], response)
    return SensorCharacterisation(
        response=response, estimates={**response.estimates, **estimates}, mismatch=mismatch, phases=phases
    )  # fmt: skip


def _report(instrument: Instrument, session: Session, phases: Mapping[str, str], check: Check) -> Estimate:
    """Evaluate one check and record it as a result."""
    phase = phases.get(check.phase, phases["telegraph"])
    parameters = {"phase": phase, "telegraph": phases["telegraph"], "sensor": instrument.sensor_id, **check.parameters}
    estimate = session.evaluate(Recipe(op=check.op, parameters=parameters))
    spans = {"window_s": float(check.parameters["duration_s"])} if "duration_s" in check.parameters else {}
    return session.result(EXPERIMENT, check.title, estimate, **spans)


def _use_resolution(instrument: Instrument, session: Session, resolution: Estimate, response: InstrumentResponse) -> None:
    """From now on budgets have the resolution that was seen."""
    model = instrument.sensor
    if resolution.quality is Quality.NO_DATA or model is None or response.refusal or resolution.value == model.resolution_w:
        return
    evidence = f"identified in phase {response.phase}; resolution as seen there"
    store_sensor(instrument, session, changed(model, resolution_w=resolution.value), evidence=evidence)


# --- driving ---------------------------------------------------------------------------------------------------------


def _drive_all(instrument: Instrument, session: Session, load: SwitchedLoad, telegraph_phase: str) -> dict[str, str]:
    """Drive every further phase; names to ids."""
    settings, sensor = session.settings.sensor, instrument.sensor
    assert sensor is not None  # noqa: S101 -- a device with power_w declares its sensor
    phases = {"square wave": _square_wave(instrument, load, max(settings.square_s, 2.5 * sensor.tail_s), sensor)}
    try:
        found: Identification | None = identify(session, session.phase(telegraph_phase))
    except RefusedError:
        found = None  # without a kernel there is nothing to predict, and the checks say so
    if found is not None:
        driven = {what: burst_period_s(what, found) for what in ("phase lock", "notch")}
        phases |= {
            what: _bursts(instrument, load, what, period_s, sensor)
            for what, period_s in driven.items()
            if not no_bursts(what, found, period_s)
        }
    phases["levels"] = _levels(instrument, load, settings.levels_s + sensor.tail_s, session.settings.seed)
    if settings.counter_s and instrument.has("energy_j"):
        phases["counter"] = _slow_random(instrument, load, settings.counter_s, session.settings.seed, sensor)
    if settings.polling_s:
        session.settle(instrument)
        phases["polling"] = paused_in_turns(instrument, settings.polling_s)
    return phases


def paused_in_turns(instrument: Instrument, length_s: float) -> str:
    """Idle, with the sampler polling and paused in turns; it polls before the first pause and after the last, so that a drift is halved."""
    with instrument.phase("polling") as phase:
        for _ in range(PAUSES):
            instrument.sleep(length_s)
            with instrument.unsampled():
                instrument.sleep(length_s)
        instrument.sleep(length_s)
    return phase.id


def _square_wave(instrument: Instrument, load: SwitchedLoad, length_s: float, sensor: SensorModel) -> str:
    instrument.sleep(sensor.tail_s)
    with instrument.phase("square wave") as phase:
        instrument.sleep(length_s)
        with instrument.window(LOAD_ON):
            load.run_for(length_s)
        instrument.sleep(length_s)
    return phase.id


def _bursts(instrument: Instrument, load: SwitchedLoad, name: str, load_period_s: float, sensor: SensorModel) -> str:
    """A periodic load of 50 % duty at eight start phases; all of them on one grid of the sensor's updates."""
    update_s = sensor.update_period_s
    evaluated_s = max(MIN_BURST_READINGS * update_s, MIN_BURST_S)
    periods = math.ceil((sensor.tail_s + evaluated_s) / load_period_s)
    with instrument.phase(name) as phase:
        origin_ns = instrument.clock.now_ns()
        for start in START_ORDER:
            since_s = (instrument.clock.now_ns() - origin_ns) / NS_PER_S + sensor.tail_s
            begin_s = math.ceil(since_s / update_s) * update_s + start / len(START_ORDER) * load_period_s
            begin_ns = origin_ns + round(begin_s * NS_PER_S)
            instrument.clock.sleep_until_ns(begin_ns)
            with instrument.window(BURST, labels={"start": start, "load_period_s": load_period_s}):
                for k in range(periods):
                    instrument.clock.sleep_until_ns(begin_ns + round(k * load_period_s * NS_PER_S))
                    load.run_for(load_period_s / 2)
        instrument.sleep(sensor.tail_s)
    return phase.id


def _levels(instrument: Instrument, load: SwitchedLoad, length_s: float, seed: int) -> str:
    """Steady levels from idle to full load."""
    rng = np.random.default_rng(seed)
    with instrument.phase("levels") as phase:
        for share in (*LEVELS, *reversed(LEVELS)):
            with instrument.window(LEVEL, labels={"share": share}):
                if share == 0:
                    instrument.sleep(length_s)
                elif isinstance(load, AdjustableLoad):
                    load.at(share).run_for(length_s)
                else:
                    _switched(instrument, load, share, length_s, rng)
    return phase.id


def _switched(instrument: Instrument, load: SwitchedLoad, share: float, length_s: float, rng: np.random.Generator) -> None:
    """A load on for ``share`` of the time, in random slices so that it is in step with nothing."""
    end_ns = instrument.clock.now_ns() + round(length_s * NS_PER_S)
    while (now_ns := instrument.clock.now_ns()) < end_ns:
        left_s = (end_ns - now_ns) / NS_PER_S
        on_s = min(left_s, SLICE_S * rng.uniform(0.5, 1.5))
        load.run_for(on_s if share < 1 else left_s)
        instrument.sleep(min(on_s * (1 / share - 1), left_s))


def _slow_random(instrument: Instrument, load: SwitchedLoad, length_s: float, seed: int, sensor: SensorModel) -> str:
    """Stretches of about half a second with and without load, for comparing counter and readings."""
    schedule = telegraph(seed + 1, duration_s=length_s, update_period_s=SLOW_DWELL_S / 0.6)
    with instrument.phase("counter") as phase:
        drive(instrument, load, schedule.edge_s)
        instrument.sleep(2 * sensor.tail_s)
    return phase.id
