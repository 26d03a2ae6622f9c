"""Recipe of thermal headroom: degrees below a limit at the end of a phase, and the time until they are used up.

Both come from a slope over a window in seconds with the interval that the thermometer's step allows
(:func:`~pytest_physics.metrology.rle.headroom`); too few readings in the window are a failed gate.
"""

from __future__ import annotations

import math
from dataclasses import replace

from pytest_physics.clock import NS_PER_S
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.rle import Headroom, headroom
from pytest_physics.metrology.uncertainty import Estimate, coverage_factor
from pytest_physics.record.data import RunData
from pytest_physics.record.registry import Parameters, leaf, phase_trace, provenance_of
from pytest_physics.record.schema import PhaseRecord
from pytest_physics.record.sensor_checks import no_value, not_tested, part


@leaf("thermal.headroom")
def thermal_headroom(parameters: Parameters, data: RunData) -> Estimate:
    """Limit less temperature at the end of a phase, in °C, or the time until it is used up, in seconds.

    ``quantity`` is ``headroom`` or ``time``; the time is "not tested" where the slope's interval contains 0: the limit is then never
    reached as far as anybody can see.
    """
    phase, wanted = data.phase(parameters["phase"]), parameters["quantity"]
    unit = "°C" if wanted == "headroom" else "s"
    trace = phase_trace(data, phase)
    if not trace.has("temperature_c"):
        reason = data.instrument(phase.instrument).absent.get("temperature_c", "the device has no thermometer")
        return not_tested(wanted, phase.id, unit, reason)
    step_c = next((c.resolution for c in data.instrument(phase.instrument).channels if c.name == "temperature_c"), 0.0) or 1.0
    try:
        found = headroom(
            (trace.t_ns - phase.t0_ns) / NS_PER_S, trace.values("temperature_c"), limit_c=float(parameters["limit_c"]), resolution_c=step_c,
            window_s=float(parameters["window_s"]),
        )  # fmt: skip
    except RefusedError as refusal:
        return no_value(unit, refusal.gate, "refused")
    estimate = _degrees_left(found, parameters, phase) if wanted == "headroom" else _time_left(found, parameters, phase)
    return replace(estimate, provenance=provenance_of(data, phase.instrument))


def _degrees_left(found: Headroom, parameters: Parameters, phase: PhaseRecord) -> Estimate:
    step = part("step of the thermometer", f"thermometer|{phase.instrument}", found.u_c)
    estimator = f"limit {float(parameters['limit_c']):g} °C"
    return Estimate(value=found.headroom_c, unit="°C", components=(step,), quality=Quality.GOOD, estimator=estimator)


def _time_left(found: Headroom, parameters: Parameters, phase: PhaseRecord) -> Estimate:
    if not math.isfinite(found.time_to_limit_s) or not math.isfinite(found.high_s):
        slope = f"{found.slope.value:+.3g} °C/min ({found.slope.low:+.3g} to {found.slope.high:+.3g})"
        reason = f"infinite: the slope of {slope} may be 0; earliest in {found.low_s:.3g} s"
        return not_tested("time to the limit", phase.id, "s", reason)
    u = max(found.high_s - found.time_to_limit_s, found.time_to_limit_s - found.low_s) / coverage_factor(math.inf)
    return Estimate(
        value=found.time_to_limit_s, unit="s", components=(part("slope", f"slope|{phase.id}", u, evaluation="A"),), quality=Quality.GOOD,
        estimator=f"slope of the last {parameters['window_s']:g} s",
    )  # fmt: skip
