"""The one place where power readings are put on the scale that a reference meter gave them: ``true power = (reading − offset) / gain``.

Everything that turns readings into watts or joules takes its samples through :func:`on_true_scale`; all of it is linear in the readings, so
that correcting them is correcting the result. Recorded traces stay as they were read. Without a calibration nothing changes.
"""

from __future__ import annotations

from pytest_physics.metrology.response import SensorModel
from pytest_physics.record.schema import BaselineRecord
from pytest_physics.sampling.trace import Trace


def on_true_scale(trace: Trace, sensor: SensorModel | None) -> Trace:
    """``trace`` with ``power_w`` corrected for the calibrated gain and offset of ``sensor``."""
    if sensor is None or not sensor.calibrated or not trace.has("power_w"):
        return trace
    rows = trace.rows.copy()
    rows["power_w"] = (rows["power_w"] - sensor.offset_w) / sensor.gain
    return Trace(instrument=trace.instrument, rows=rows, period_ns=trace.period_ns)


def baseline_on_scale(record: BaselineRecord, measured_with: SensorModel | None, now: SensorModel | None) -> BaselineRecord:
    """An idle baseline on the scale of the model ``now``, where it was measured with another one: before a calibration became known."""
    if measured_with is None or now is None or record.mean_w is None:
        return record
    if (measured_with.gain, measured_with.offset_w) == (now.gain, now.offset_w):
        return record
    as_read_w = record.mean_w * measured_with.gain + measured_with.offset_w
    u_w = None if record.u_w is None else record.u_w * measured_with.gain / now.gain
    return record.model_copy(update={"mean_w": (as_read_w - now.offset_w) / now.gain, "u_w": u_w})
