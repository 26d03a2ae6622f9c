"""The extended window on a real recording: the 6 s step of an RTX 3090, against the external meter on its supply rails."""

from __future__ import annotations

import numpy as np
import recordings

from pytest_physics.metrology.energy import Estimator, IdlePower, PowerSeries, window_energy
from pytest_physics.metrology.response import UNCALIBRATED_GAIN, SensorModel

KNOWN_GAIN = 0.954
"""Of this card's readings over the meter, from the published study's fit to this very step (0.953 to 0.955)."""
SENSOR = SensorModel(
    update_period_s=0.09997, u_update_period_s=2e-5, window_s=0.1, u_window_s=0.001, delay_s=0.0, u_delay_s=0.01, resolution_w=0.01,
    u_gain=UNCALIBRATED_GAIN, origin="identified",
)  # fmt: skip


def test_energy_of_the_step_is_the_meters_within_the_gain():
    """Energy over that of the meter is the card's known gain to 1 %: the window loses and adds nothing at its ends."""
    t_ns, power_w = recordings.polls("rtx3090-step", "power.draw.instant [W]")
    edges_ns, _ = recordings.load_edges_ns("rtx3090-step", t_ns)
    on_ns, off_ns = (int(edge) for edge in edges_ns[:2])
    quiet = (t_ns < on_ns - 1e8) | (t_ns > off_ns + 5e8)
    idle_w = float(power_w[quiet].mean())
    series = PowerSeries.of(t_ns, power_w, sensor=SENSOR)
    found = window_energy(series, on_ns, off_ns, idle=IdlePower.constant(idle_w, u_w=0.02, dof=20, identity="before the step"))
    meter = recordings.meter("rtx3090-step", t_ns, origin_ns=int(t_ns[0]))
    on_s, off_s = (on_ns - t_ns[0]) / 1e9, (off_ns - t_ns[0]) / 1e9
    # gross energy: the idle level drifts by 6 % over the step, and what is taken off matters to net energy only
    true_j = float(np.diff(meter.integral(np.array([on_s, off_s])))[0])
    assert found.estimator[0] == Estimator.EXTENDED
    assert abs(found.gross_j[0] / true_j / KNOWN_GAIN - 1) <= 0.01
