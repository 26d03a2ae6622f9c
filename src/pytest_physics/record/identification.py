"""Identify a power sensor from the recorded samples and windows of one phase.

The phase holds a random-telegraph load: each of its windows named :data:`LOAD_ON` is one stretch with the load on, stamped by the host
after synchronisation. Everything else follows from the trace. Where an analysis refuses, the estimate has no value and carries the
refusal as its gate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.devices.base import READ_OK, describe_error
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.sensor_faults import STALE_PERIODS, staleness_gate
from pytest_physics.metrology.sensor_fit import Load, SensorFit, Shape, fit_sensor, response
from pytest_physics.metrology.uncertainty import Component, Estimate, Gate
from pytest_physics.metrology.update_period import (
    Readings,
    UpdatePeriod,
    cross_checked,
    driver_period,
    fit_update_period,
    readings_on_comb,
)
from pytest_physics.metrology.updates import seconds_since
from pytest_physics.record.data import RunData
from pytest_physics.record.schema import PhaseRecord

LOAD_ON = "load on"
"""Name of the windows of a telegraph phase."""
OUTLIER_SIGMAS = 10.0
"""A reading further from the model than this many robust standard deviations …"""
OUTLIER_SHARE = 0.25
"""… and than this share of the swing is an outlier."""
MAX_OUTLIERS = 0.005
TIMING_DOF = 50.0
"""Degrees of freedom of fitted times: hundreds of readings, a handful of parameters, and a systematic floor known to 10 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identification:
    """What a telegraph phase tells of the sensor."""

    period: UpdatePeriod
    """The update period as it is stated: the driver's own where its buffer runs at the rate of the updates, else that of the polls."""
    comb: UpdatePeriod
    """The comb of the polls, on the run's clock: the instants of the readings."""
    driver: Gate
    """What the driver's buffer says, and whether it is used."""
    fit: SensorFit
    resolution_w: float

    @property
    def model(self) -> SensorModel:
        """The identified sensor."""
        return self.fit.to_sensor_model(self.period, resolution_w=self.resolution_w)


def identify(data: RunData, phase: PhaseRecord) -> Identification:
    """Update period, window, lag and delay from one telegraph phase; raises ``RefusedError`` where the data cannot tell."""
    key = f"identification|{phase.id}"
    if key not in data.memory:
        data.memory[key] = _identified(data, phase)
    found: Identification | RefusedError = data.memory[key]
    if isinstance(found, RefusedError):
        raise found
    return found


def _identified(data: RunData, phase: PhaseRecord) -> Identification | RefusedError:
    trace = data.trace(phase.instrument).between(phase.t0_ns, int(phase.t1_ns or phase.t0_ns))
    before, after = np.asarray(trace.rows["t_before_ns"]), np.asarray(trace.rows["t_after_ns"])
    power = np.asarray(trace.values("power_w"))
    channel = next(c for c in data.instrument(phase.instrument).channels if c.name == "power_w")
    try:
        comb = fit_update_period(before, after, power, scope=phase.instrument)
        period, driver = period_with_driver(data, phase, comb)
        readings = readings_on_comb(before, after, power, comb)
        load = load_of(data, phase, readings.origin_ns)
        fit = fit_sensor(readings, load, update_period_s=period.period_s, scope=phase.instrument)
        for gate in (telegraph_staleness(data, phase, period.period_s), outliers_gate(readings, load, fit, phase.id)):
            if gate.refuses:
                raise RefusedError(gate)  # noqa: TRY301 -- a refusal like those of the fits
    except RefusedError as refusal:
        return refusal
    return Identification(period=period, comb=comb, driver=driver, fit=fit, resolution_w=channel.resolution)


def buffer_table(phase_id: str) -> str:
    """Name of the table that holds what the driver's buffers had at the end of a telegraph phase."""
    return f"driver-samples-{phase_id}"


def period_with_driver(data: RunData, phase: PhaseRecord, comb: UpdatePeriod) -> tuple[UpdatePeriod, Gate]:
    """The update period by the driver's own timestamps, where there are any at this rate; else by the polls. And what the driver says.

    Raises ``RefusedError`` where driver and polls disagree about the same updates.
    """
    name = f"{buffer_table(phase.id)}-1"
    if not data.has_table(name):
        return comb, _without_driver(phase.id, "the device offers no buffer of the driver's")
    rows = data.table(name)
    codes = [int(code) for code in np.unique(rows["code"]) if code != READ_OK]
    if codes:
        return comb, _without_driver(phase.id, f"the driver's buffer answers with {describe_error(codes[0])}")
    try:
        driver = driver_period(rows["timestamp_us"], scope=phase.instrument)
    except RefusedError as refusal:
        return comb, _without_driver(phase.id, refusal.gate.reason)
    return cross_checked(comb, driver, scope=phase.instrument)


def _without_driver(scope: str, why: str) -> Gate:
    return Gate(
        name="update period: driver against polls", scope=scope, measured=None, limit=None, unit="1", passed=True, warning=True,
        reason=f"{why}: the polls are used, without a cross-check",
    )  # fmt: skip


def telegraph_staleness(data: RunData, phase: PhaseRecord, update_period_s: float) -> Gate:
    """Whether the readings kept changing under the telegraph; at constant load a quiet sensor may repeat itself."""
    edges_ns = [t for w in data.windows_in(phase.id) if w.name == LOAD_ON for t in (w.t0_ns, w.t1_ns)]
    trace = data.trace(phase.instrument).between(edges_ns[0], edges_ns[-1])
    limit_s = STALE_PERIODS * update_period_s + float(np.diff(edges_ns).max()) / NS_PER_S
    power = np.asarray(trace.values("power_w"))
    gate = staleness_gate(trace.t_ns, power, update_period_s=limit_s / STALE_PERIODS, scope=phase.id)
    return replace(gate, reason=gate.reason.replace("5 updates", "5 updates beyond the longest stretch of constant load"))


def outliers_gate(readings: Readings, load: Load, fit: SensorFit, scope: str) -> Gate:
    """Whether the readings follow the fitted model, all of them: a few that do not would bend every parameter."""
    best = fit.best
    model = best.offset_w + best.gain * response(load, readings.t_s - best.delay_s, window_s=best.window_s, lag_s=best.lag_s)
    off_w = np.abs(readings.power_w - model)
    limit_w = max(OUTLIER_SIGMAS * 1.4826 * float(np.median(off_w)), OUTLIER_SHARE * best.gain)
    share = float(np.mean(off_w > limit_w))
    passed = share <= MAX_OUTLIERS
    return Gate(
        name="telegraph: outliers", scope=scope, measured=share, limit=MAX_OUTLIERS, unit="1", passed=passed,
        reason=f"{share:.1%} of {len(off_w)} readings lie more than {limit_w:.3g} W from the fitted model (limit {MAX_OUTLIERS:.1%}), the "
        f"furthest {float(off_w.max()):.4g} W",
        remedy="" if passed else "look for other work on the device during the telegraph, and for readings that jump; then identify again",
    )  # fmt: skip


def load_of(data: RunData, phase: PhaseRecord, origin_ns: int) -> Load:
    """The load that a telegraph phase drove, from its windows, in seconds from ``origin_ns``."""
    edges = [t for w in data.windows_in(phase.id) if w.name == LOAD_ON for t in (w.t0_ns, w.t1_ns)]
    if len(edges) < 2:
        raise ValueError(f"phase '{phase.id}' has no windows named '{LOAD_ON}'; it does not hold a telegraph load.")
    edge_s = seconds_since(np.array(edges, np.int64), origin_ns)
    return Load(edge_s=edge_s, level=np.resize([0.0, 1.0], len(edges) + 1))


def timing_estimate(data: RunData, phase: PhaseRecord, quantity: str) -> Estimate:
    """One property of the sensor as an estimate: ``update_period_s``, ``window_s``, ``lag_s``, ``delay_s`` or ``dead_fraction``."""
    try:
        found = identify(data, phase)
    except RefusedError as refusal:
        return Estimate(
            value=math.nan, unit=_UNITS[quantity], quality=Quality.NO_DATA, estimator="refused", gates=(refusal.gate,)
        )  # fmt: skip
    value, u, unit = QUANTITIES[quantity](found)
    spread = Component(label="fit", source=f"{quantity}|{phase.id}", contribution=u, dof=TIMING_DOF, evaluation="A")
    if quantity == "update_period_s":
        by_driver = found.period is not found.comb
        estimator = "driver's timestamps, comb fit of the polls as cross-check" if by_driver else "comb fit of the polls"
        return Estimate(
            value=value, unit=unit, components=(spread,), quality=Quality.GOOD, estimator=estimator, gates=(found.driver,)
        )  # fmt: skip
    estimator = f"telegraph fit, {found.fit.best.named_shape.value}"
    return Estimate(value=value, unit=unit, components=(spread,), quality=Quality.GOOD, estimator=estimator)


def _dead_fraction(found: Identification) -> tuple[float, float, str]:
    """1 − W_eff / T, with the uncertainty of both; 0 for a sensor that looks all the time."""
    model = found.model
    width_s, u_width = max((model.window_s, model.u_window_s), (2 * model.lag_s, 2 * model.u_lag_s))
    ratio = width_s / model.update_period_s
    u = math.hypot(u_width / model.update_period_s, ratio * model.u_update_period_s / model.update_period_s)
    return max(0.0, 1 - ratio), u if ratio < 1 else 0.0, "1"


def _window(found: Identification) -> tuple[float, float, str]:
    """W; a box that only stands for the card's own electrical rise is none of the sensor's."""
    best = found.fit.best
    return (0.0 if best.named_shape is Shape.LAG else best.window_s), best.u_window_s, "s"


def _delay(found: Identification) -> tuple[float, float, str]:
    """The delay with the card's own electrical rise: the fit sees both, as a small lag, a small box, or not apart from the delay at all."""
    best = found.fit.best
    rise_s = {Shape.LAG: best.window_s / 2, Shape.BOX: best.lag_s, Shape.BOX_LAG: 0.0}[best.named_shape]
    return best.delay_s + rise_s, best.u_delay_s, "s"


QUANTITIES: dict[str, Callable[[Identification], tuple[float, float, str]]] = {
    "update_period_s": lambda found: (found.period.period_s, found.period.u_period_s, "s"),
    "window_s": _window,
    "lag_s": lambda found: (found.fit.best.lag_s, found.fit.best.u_lag_s, "s"),
    "delay_s": _delay,
    "dead_fraction": _dead_fraction,
}
"""Value, standard uncertainty and unit of each property."""
_UNITS = dict.fromkeys(QUANTITIES, "s") | {"dead_fraction": "1"}
