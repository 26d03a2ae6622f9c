"""Three loads whose thermal signatures differ: arithmetic, memory, and a training that pulses between the two.

A load does equal steps; a step returns when the device has done it. On a twin a step is a second of simulated time, on hardware some
milliseconds of torch. Fails with :class:`ConfigurationError` without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pytest_physics.devices.base import Device
from pytest_physics.workloads.libraries import chosen_threads, import_torch, torch_device, torch_threads, wait_for
from pytest_physics.workloads.select import torch_name

Step = Callable[[], object]

ARITHMETIC, MEMORY, TRAINING = "arithmetic", "memory", "pulsed training"
TWIN_STEP_S = 1.0
PULSE_STEPS = 3
"""Steps of arithmetic, then as many of memory, in the pulsed training: a period of six steps."""
SIDE = {"cpu": 384, "cuda": 8192}
"""Side of the matrices that are multiplied."""
COPIED = {"cpu": 4_000_000, "cuda": 500_000_000}
"""Numbers that are copied in a step."""


def signature_loads(device: Device) -> Mapping[str, Step]:
    """Name to step for ``device``; raises ``ChannelUnavailableError`` for a recording."""
    arithmetic, memory = _twin_steps(device) if device.spec.kind == "twin" else _torch_steps(device)
    return {ARITHMETIC: arithmetic, MEMORY: memory, TRAINING: Pulsed(arithmetic, memory)}


class Pulsed:
    """Some steps of one kind, then as many of the other."""

    def __init__(self, *steps: Step) -> None:
        self.steps = steps
        self.done = 0

    def __call__(self) -> None:
        """The next step."""
        self.steps[self.done // PULSE_STEPS % len(self.steps)]()
        self.done += 1


def _twin_steps(device: Device) -> tuple[Step, Step]:
    from pytest_physics.devices.twin import TwinDevice, TwinLoad

    assert isinstance(device, TwinDevice)  # noqa: S101 -- the kind says so
    twin = device
    arithmetic = TwinLoad(intensity=0.55, memory_utilisation_ratio=0.2)
    memory = TwinLoad(intensity=0.3, memory_utilisation_ratio=1.0, clock_sensitivity=0.0)
    return lambda: twin.execute(arithmetic, TWIN_STEP_S), lambda: twin.execute(memory, TWIN_STEP_S)


def _torch_steps(device: Device) -> tuple[Step, Step]:
    torch = import_torch()
    place = torch_device("cpu" if device.spec.kind == "cpu" else torch_name(device))
    generator = torch.Generator(device=place).manual_seed(0)
    dtype = torch.float16 if place.type == "cuda" else torch.float32
    side, copied, threads = SIDE[place.type], COPIED[place.type], chosen_threads(None, place)
    a, b = (torch.randn(side, side, device=place, generator=generator).to(dtype) for _ in range(2))
    source, target, product = (
        torch.zeros(copied, device=place, dtype=dtype),
        torch.empty(copied, device=place, dtype=dtype),
        torch.empty_like(a),
    )

    def multiply() -> None:
        with torch_threads(threads):
            torch.matmul(a, b, out=product)
            wait_for(place)

    def copy() -> None:
        with torch_threads(threads):
            target.copy_(source)
            wait_for(place)

    return multiply, copy
