"""Instrument response: identify what the power channel really is, and use it from then on.

Protocol: a random-telegraph load (dwells between 0.15 and 1.1 update periods, longer ones mixed in for slow sensors), every edge stamped
by the host; update period, window or lag, and delay follow from the samples alone; the driver's own timestamps of its sample buffer,
where its rate is that of the updates, give the update period more directly, and the two must agree. The identified model replaces the
prior for all energies that come after. A sensor identified before is taken from the cache where nothing changed that could change it.

Reference: TR122 §5 asked for a rise below 300 ms from a channel that averages over a second; see docs for why that cannot pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.devices.base import READ_OK, BufferedDevice
from pytest_physics.instrument import Instrument
from pytest_physics.metrology.quality import Provenance
from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.response import UNCALIBRATED_GAIN, UNCALIBRATED_OFFSET_W, SensorModel
from pytest_physics.metrology.sensor_fit import telegraph
from pytest_physics.metrology.uncertainty import Estimate, Gate, Recipe
from pytest_physics.record.identification import LOAD_ON, QUANTITIES, buffer_table, identify
from pytest_physics.record.sensor_cache import recall, remember
from pytest_physics.session import Session

EXPERIMENT = "instrument response"
SLOWEST_AVERAGE_S = 1.0
"""Dwells long enough for a one-second average are mixed in until the channel is known to be faster."""


ENOUGH_UPDATES = 600
"""More updates of a fast sensor cost time and tell nothing new."""


class SwitchedLoad(Protocol):
    """Something that loads the device for a given short time."""

    def warm_up(self) -> object:
        """Load kernels and compile, outside of the measurement."""

    def run_for(self, duration_s: float) -> object:
        """Load the device for about ``duration_s`` seconds; returns when it is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentResponse:
    """What is known of a power sensor, and from where."""

    model: SensorModel
    """The model in force: identified here or by an earlier run, else the device's prior."""
    estimates: dict[str, Estimate]
    """By quantity: ``update_period_s``, ``window_s``, ``lag_s``, ``delay_s``, ``dead_fraction``."""
    phase: str = ""
    """Id of the telegraph phase; empty where an earlier run identified the sensor."""
    refusal: Gate | None = None
    """Why it was not identified; None where it was."""


def known_sensor(instrument: Instrument, session: Session, load: SwitchedLoad | None) -> InstrumentResponse:
    """Use what an earlier run identified on this very device, or identify now; without a ``load``, use the device's prior.

    Raises ``ChannelUnavailableError`` without a power channel.
    """
    instrument.require("power_w")
    cached = recall(instrument.device.fingerprint, "power_w", max_age_days=session.settings.sensor.max_age_days)
    if cached is None or instrument.simulated:
        return identify_sensor(instrument, session, load) if load is not None else _prior(instrument)
    if load is not None:
        load.warm_up()  # what follows, the idle baseline first of all, belongs to a device with its context open
    model = cached.record.sensor
    evidence = f"identified {cached.identified_utc} in run {cached.run_id}, {cached.record.evidence}"
    session.use_identified(instrument, model, evidence=evidence)
    return InstrumentResponse(model=instrument.sensor or model, estimates=_known_estimates(model))


def identify_sensor(instrument: Instrument, session: Session, load: SwitchedLoad) -> InstrumentResponse:
    """Drive the telegraph, identify the sensor, record the result, and use it where it was not refused.

    Raises ``ChannelUnavailableError`` without a power channel.
    """
    instrument.require("power_w")
    phase = _drive_telegraph(instrument, session, load)
    recipes = {name: Recipe(op="sensor.timing", parameters={"phase": phase, "quantity": name}) for name in QUANTITIES}
    estimates = {name: session.result(EXPERIMENT, _TITLES[name], session.evaluate(recipe)) for name, recipe in recipes.items()}
    try:
        model = identify(session, session.phase(phase)).model
    except RefusedError as refusal:
        return replace(_prior(instrument), estimates=estimates, phase=phase, refusal=refusal.gate)
    store_sensor(instrument, session, model, evidence=f"identified in phase {phase}")
    return InstrumentResponse(model=instrument.sensor or model, estimates=estimates, phase=phase)


def store_sensor(instrument: Instrument, session: Session, model: SensorModel, *, evidence: str) -> None:
    """Use ``model`` from now on, and keep it for later runs on the same device; a twin is identified by every run."""
    session.use_identified(instrument, model, evidence=evidence)
    if not instrument.simulated:
        remember(instrument.device.fingerprint, "power_w", uncalibrated(model), run_id=session.path.name, evidence=evidence)


def uncalibrated(model: SensorModel) -> SensorModel:
    """The model without a meter's scale: that is kept apart, and has its own age."""
    if not model.calibrated:
        return model
    return replace(model, gain=1.0, offset_w=0.0, u_gain=UNCALIBRATED_GAIN, u_offset_w=UNCALIBRATED_OFFSET_W)


def _prior(instrument: Instrument) -> InstrumentResponse:
    model = instrument.sensor
    assert model is not None  # noqa: S101 -- a device with power_w declares its sensor
    return InstrumentResponse(model=model, estimates=_known_estimates(model, Provenance.ASSUMED))


def _drive_telegraph(instrument: Instrument, session: Session, load: SwitchedLoad) -> str:
    """Run the random load; returns the id of its phase."""
    prior = instrument.sensor
    period_s = prior.update_period_s if prior else 0.1
    slowest_s = max(prior.window_s, prior.lag_s) if prior and prior.origin == "preset" else SLOWEST_AVERAGE_S
    duration_s = min(session.settings.sensor.telegraph_s, max(ENOUGH_UPDATES * period_s, 6 * slowest_s))
    schedule = telegraph(session.settings.seed, duration_s=duration_s, update_period_s=period_s, suspected_lag_s=slowest_s)
    load.warm_up()
    instrument.sleep(instrument.tail_ns / NS_PER_S)
    with instrument.phase("telegraph") as phase:
        drive(instrument, load, schedule.edge_s)
        _record_driver_samples(instrument, session, phase.id)  # now, while its buffer holds the load's own updates
        instrument.sleep(2 * slowest_s + 2 * period_s)
    instrument.wait_until_sampled(instrument.clock.now_ns())
    return phase.id


def _record_driver_samples(instrument: Instrument, session: Session, phase_id: str) -> None:
    """Keep the driver's own samples of the power channel, where it has a buffer; its refusal too."""
    if not isinstance(instrument.device, BufferedDevice):
        return
    for kept in instrument.device.driver_samples():
        if kept.channel == "power_w":
            refused = kept.code != READ_OK
            columns = {
                "code": [kept.code] if refused else np.zeros(len(kept.timestamp_us), np.int64),
                "timestamp_us": [0] if refused else np.array(kept.timestamp_us, np.int64),
                "power_w": [math.nan] if refused else np.array(kept.values, np.float64),
            }
            session.tabulate(buffer_table(phase_id), columns)


def _known_estimates(model: SensorModel, provenance: Provenance = Provenance.MEASURED) -> dict[str, Estimate]:
    """The quantities of a model that this run did not identify, as it states them."""
    stated = {
        "update_period_s": (model.update_period_s, model.u_update_period_s),
        "window_s": (model.window_s, model.u_window_s),
        "lag_s": (model.lag_s, model.u_lag_s),
        "delay_s": (model.delay_s, model.u_delay_s),
    }
    estimates = {name: Estimate.given(value, "s", u=u, label=_TITLES[name], provenance=provenance) for name, (value, u) in stated.items()}
    u_dead = (1 - model.coverage) * model.u_window_s / max(model.window_s, 1e-9) if model.coverage < 1 else 0.0
    dead = Estimate.given(1 - model.coverage, "1", u=u_dead, label=_TITLES["dead_fraction"], provenance=provenance)
    return {**estimates, "dead_fraction": dead}


def drive(instrument: Instrument, load: SwitchedLoad, edge_s: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    """Follow a schedule of on/off edges (seconds from now, the first one on); each stretch with load is a window."""
    start_ns = instrument.clock.now_ns()
    for on_s, off_s in zip(edge_s[::2], edge_s[1::2], strict=True):
        instrument.clock.sleep_until_ns(start_ns + round(float(on_s) * NS_PER_S))
        with instrument.window(LOAD_ON):
            load.run_for(float(off_s - on_s))


_TITLES = {
    "update_period_s": "update period",
    "window_s": "averaging window",
    "lag_s": "lag",
    "delay_s": "delay",
    "dead_fraction": "share of the time not looked at",
}
