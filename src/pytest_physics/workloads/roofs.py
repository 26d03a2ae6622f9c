"""The two roofs of a device, as it reaches them: copies for the memory's bandwidth, matrix products for the arithmetic rate.

A kernel runs a counted number of iterations and returns when the device has finished them. What the maker states is never used: a point is
compared with what this device, with this library, this driver and these clocks, can do. Arrays are far larger than any cache, so that a
copy goes to memory. A copy of n bytes reads n and writes n: 2·n bytes of traffic.

Reference: Williams, Waterman, Patterson, "Roofline" (CACM 52(4), 2009); McCalpin, STREAM; TR122.F.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pytest_physics.devices.base import Device
from pytest_physics.devices.twin import TwinDevice, TwinLoad
from pytest_physics.errors import ChannelUnavailableError, ConfigurationError
from pytest_physics.workloads.libraries import chosen_threads, describe_device, import_torch, torch_device, torch_threads, wait_for
from pytest_physics.workloads.select import torch_name

COPY_BYTES = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}
"""Size of a copied array: beyond the last cache of servers (32 MiB) and of data-centre GPUs (60 MiB), and small enough to fit anywhere."""
MATRIX_SIZE = {"cpu": 768, "cuda": 8192}
WARM_UP_ITERATIONS = 3


class CountedKernel(Protocol):
    """One roof."""

    @property
    def flop_per_iteration(self) -> int:
        """Floating-point operations of an iteration; 0 for a copy."""

    @property
    def bytes_per_iteration(self) -> int:
        """Traffic of an iteration that is counted; 0 for a product, whose traffic depends on caches."""

    def describe(self) -> Mapping[str, str]:
        """What runs: for the record of a run."""

    def warm_up(self) -> None:
        """Do once what the first run would do besides its work."""

    def run_iterations(self, iterations: int) -> object:
        """Run exactly ``iterations`` of them and wait until they are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofs:
    """Kernels of both roofs of one device."""

    memory: CountedKernel
    arithmetic: CountedKernel


def roofs_of(device: Device) -> Roofs:
    """The kernels that fit a device; raises ``ChannelUnavailableError`` for a recording, on which nothing can be run."""
    kind = device.spec.kind
    if isinstance(device, TwinDevice):
        return Roofs(memory=twin_copy(device), arithmetic=twin_matmul(device))
    if kind not in {"cpu", "nvml"}:
        raise ChannelUnavailableError(f"nothing can be run on a '{kind}' device; use it to analyse what it recorded.")
    where, dtype = ("cpu", "float32") if kind == "cpu" else (torch_name(device), "float16")
    return Roofs(memory=CopyLoad(device=where), arithmetic=_Products(MATRIX_SIZE[where.partition(":")[0]], device=where, dtype=dtype))


# --- torch -----------------------------------------------------------------------------------------------------------


class CopyLoad:
    """Copies of one array into another on a CPU or a CUDA device.

    Parameters
    ----------
    size_bytes
        Size of the array; default by the kind of device.
    device
        ``"cpu"`` or ``"cuda:0"``.
    threads
        Intra-op threads while it runs; default as for the other workloads.
    """

    def __init__(self, size_bytes: int | None = None, *, device: str = "cpu", threads: int | None = None) -> None:
        self._torch = import_torch()
        self.device = torch_device(device)
        self.size_bytes = COPY_BYTES[self.device.type] if size_bytes is None else size_bytes
        if self.size_bytes < 1:
            raise ConfigurationError(f"'size_bytes' must be >= 1 (got {self.size_bytes}).")
        self.threads = chosen_threads(threads, self.device)
        self._source = self._torch.ones(self.size_bytes, dtype=self._torch.uint8, device=self.device)
        self._target = self._torch.zeros_like(self._source)  # written once: its pages exist

    @property
    def flop_per_iteration(self) -> int:
        """A copy does no arithmetic."""
        return 0

    @property
    def bytes_per_iteration(self) -> int:
        """Read once, written once."""
        return 2 * self.size_bytes

    def describe(self) -> Mapping[str, str]:
        """What runs."""
        return {
            "workload": "copy",
            "bytes_per_iteration": str(self.bytes_per_iteration),
            "device": describe_device(self.device),
            "threads": str(self.threads),
            "torch": str(self._torch.__version__),
        }

    def warm_up(self) -> None:
        """Touch both arrays."""
        self.run_iterations(WARM_UP_ITERATIONS)

    def run_iterations(self, iterations: int) -> None:
        """Copy ``iterations`` times."""
        if iterations < 1:
            raise ConfigurationError(f"'iterations' must be >= 1 (got {iterations}).")
        with torch_threads(self.threads), self._torch.inference_mode():
            for _ in range(iterations):
                self._target.copy_(self._source)
            wait_for(self.device)


class _Products:
    """Matrix products as a roof: :class:`~pytest_physics.workloads.matmul.MatmulLoad`."""

    def __init__(self, size: int, *, device: str, dtype: str) -> None:
        from pytest_physics.workloads.matmul import MatmulLoad

        self._load = MatmulLoad(size, device=device, dtype=dtype)

    @property
    def flop_per_iteration(self) -> int:
        return self._load.flop_per_iteration

    @property
    def bytes_per_iteration(self) -> int:
        return 0

    def describe(self) -> Mapping[str, str]:
        return self._load.describe()

    def warm_up(self) -> None:
        self._load.warm_up()

    def run_iterations(self, iterations: int) -> None:
        self._load.run_iterations(iterations)


# --- twin ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCosts:
    """How near the maker's roofs a plain kernel comes, and what that costs in power: assumed, in the range of published kernels."""

    copy_efficiency: float = 0.92
    """Share of the peak bandwidth that a copy reaches."""
    matmul_efficiency: float = 0.85
    """Share of the peak arithmetic rate that a large product reaches."""
    compute_intensity: float = 1.1
    """Share of the card's dynamic power per share of peak arithmetic."""
    memory_intensity: float = 0.45
    """Share of the card's dynamic power per share of peak bandwidth."""


TWIN_COPY_BYTES = 256 * 2**20
TWIN_MATRIX_SIZE = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinRoof:
    """A kernel of known cost on a twin."""

    device: TwinDevice
    name: str
    flop_per_iteration: int
    bytes_per_iteration: int
    seconds: float
    """Of an iteration at the reference clock."""
    load: TwinLoad

    def describe(self) -> Mapping[str, str]:
        """Kernel and device."""
        return {"workload": f"{self.name} on a twin", "simulated": "true", "device": str(self.device.spec)}

    def warm_up(self) -> None:
        """A twin has nothing to load; this wakes it from deep idle."""
        self.run_iterations(1)

    def run_iterations(self, iterations: int) -> None:
        """Let the card do them."""
        if iterations < 1:
            raise ConfigurationError(f"'iterations' must be >= 1 (got {iterations}).")
        self.device.execute(self.load, iterations * self.seconds)


def twin_copy(device: TwinDevice, costs: KernelCosts | None = None) -> TwinRoof:
    """Copies at ``costs.copy_efficiency`` of the card's bandwidth; they wait for memory, whatever the clock."""
    costs = costs or KernelCosts()
    traffic = 2 * TWIN_COPY_BYTES
    load = TwinLoad(
        intensity=min(1.0, costs.memory_intensity * costs.copy_efficiency), memory_utilisation_ratio=1.0, clock_sensitivity=0.0
    )  # fmt: skip
    seconds = traffic / (costs.copy_efficiency * device.preset.card.memory_bytes_per_s)
    return TwinRoof(device=device, name="copy", flop_per_iteration=0, bytes_per_iteration=traffic, seconds=seconds, load=load)


def twin_matmul(device: TwinDevice, costs: KernelCosts | None = None) -> TwinRoof:
    """Products at ``costs.matmul_efficiency`` of the card's arithmetic rate at the reference clock; they follow the clock."""
    costs = costs or KernelCosts()
    flop = 2 * TWIN_MATRIX_SIZE**3
    load = TwinLoad(intensity=min(1.0, costs.compute_intensity * costs.matmul_efficiency), clock_sensitivity=1.0)
    seconds = flop / (costs.matmul_efficiency * device.preset.card.peak_flop_per_s)
    return TwinRoof(device=device, name="matmul", flop_per_iteration=flop, bytes_per_iteration=0, seconds=seconds, load=load)
