"""The training experiments of ``bench/`` on a card and the processor beside it, measured in one time.

torch has no CUDA here, so the card's work is a stand-in: it draws power for as long as work would take. The processor's work is
real. The card says that it is busy, and its temperature does not move.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import fakenvml

sys.path.insert(0, str(Path(fakenvml.__file__).parents[2] / "bench"))

import test_thermal_signature
import test_training_coupling
from conftest import BUSY_W, IDLE_W, LIVE
from test_component_differential import *  # noqa: F403 -- collected here, with the stand-ins
from test_thermal_signature import *  # noqa: F403
from test_training_coupling import *  # noqa: F403

from pytest_physics.experiments import component_differential
from pytest_physics.workloads.signature_loads import ARITHMETIC, MEMORY, TRAINING, Pulsed

SCHEDULE = f"live {LIVE.path}\nat 0 utilisation_percent 90\n"


@dataclass(frozen=True)
class Drawn:
    """Work of the card: power, and nothing else."""

    watt: float = BUSY_W

    def warm_up(self) -> None:
        """Nothing to load."""

    def run_for(self, duration_s: float) -> None:
        """Draw power for so long."""
        LIVE.power_w(self.watt)
        time.sleep(duration_s)
        LIVE.power_w(IDLE_W)

    def __call__(self) -> None:
        """A step of a signature."""
        self.run_for(0.02)


def stand_in(real, card):
    """``real`` of every device but the card."""
    return lambda device, *rest: card if device.spec.kind == "nvml" else real(device, *rest)


del test_rule_can_do_what_it_says  # noqa: F821 -- of simulated devices alone
arithmetic, memory = Drawn(), Drawn(watt=150.0)
component_differential.steady_load_for = stand_in(component_differential.steady_load_for, Drawn())
test_training_coupling.torch_device = lambda instrument: "cpu"  # the card's training too, beside which the card is sampled
test_thermal_signature.signature_loads = stand_in(
    test_thermal_signature.signature_loads, {ARITHMETIC: arithmetic, MEMORY: memory, TRAINING: Pulsed(arithmetic, memory)}
)
