"""An NVIDIA GPU, read through ``nvidia-ml-py`` (NVML): never through the ``nvidia-smi`` program.

``library`` starts NVML, explains its failures and finds the card; ``quantities`` is the table of what is read and how;
``priors`` what a power reading probably is on each chip family; ``processes`` tells this run's compute processes from others;
``device`` puts them together.
"""

from pytest_physics.devices.nvml.device import NvmlDevice, open_device

__all__ = ["NvmlDevice", "open_device"]
