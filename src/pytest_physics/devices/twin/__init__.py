"""A GPU that obeys known physics, in virtual time, and knows its own truth.

``draws``: random numbers by index; ``thermal``: exact RC network; ``presets``: the cards; ``physics``: load to power, clocks
and heat; ``truth``: the record of what happened; ``sensor``: what is read of it; ``faults``: what goes wrong; ``device``: all
together.
"""

from pytest_physics.devices.twin.device import TwinDevice, open_device
from pytest_physics.devices.twin.faults import FAULT_KINDS, Fault
from pytest_physics.devices.twin.physics import IDLE, TwinLoad
from pytest_physics.devices.twin.presets import DEFAULT_PRESET, PRESETS, Card, SensorDesign, TwinPreset
from pytest_physics.devices.twin.thermal import ThermalNetwork
from pytest_physics.devices.twin.truth import energy_between

__all__ = [
    "DEFAULT_PRESET",
    "FAULT_KINDS",
    "IDLE",
    "PRESETS",
    "Card",
    "Fault",
    "SensorDesign",
    "ThermalNetwork",
    "TwinDevice",
    "TwinLoad",
    "TwinPreset",
    "energy_between",
    "open_device",
]
