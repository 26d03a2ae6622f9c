"""A constant load: the same matrix product again and again.

For heat soak and for loads of known work on real hardware. The operands are fixed, seeded normal numbers: the power of a matrix
product depends on its data, and zeros would draw less. Each product of two n×n matrices is counted as 2·n³ floating-point
operations (n³ multiplications and as many additions), whatever the library does inside.

On CUDA, products are queued in chunks of 20 to 40 ms with at most two chunks in flight: the device never waits for the host, and
the load stops within a few chunks of its deadline. Only finished products are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_physics.clock import NS_PER_S, RealClock
from pytest_physics.errors import ConfigurationError
from pytest_physics.workloads.libraries import (
    chosen_threads,
    describe_device,
    import_torch,
    torch_device,
    torch_dtype,
    torch_threads,
    wait_for,
)

if TYPE_CHECKING:
    import torch

CHUNK_S = 0.02
"""A chunk, the products between two looks at the clock, lasts at least this long and less than twice as long; seconds."""
WARM_UP_ITERATIONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MatmulWork:
    """What a load did."""

    iterations: int
    """Finished matrix products."""
    flop: int
    """Floating-point operations, 2·n³ per product, exact."""
    duration_s: float
    """From the first launch until the device was idle again; seconds."""

    @property
    def flop_per_s(self) -> float:
        """Mean rate in FLOP/s."""
        return self.flop / self.duration_s


class MatmulLoad:
    """Products of two fixed ``size``×``size`` matrices on one device."""

    def __init__(
        self,
        size: int = 1024,
        *,
        device: str = "cpu",
        dtype: str | torch.dtype = "float32",
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        if size < 1:
            raise ConfigurationError(f"'size' must be >= 1 (got {size}).")
        self._torch = import_torch()
        self._clock = RealClock()
        self.size = size
        self.seed = seed
        self.device = torch_device(device)
        self.dtype = torch_dtype(dtype)
        self.threads = chosen_threads(threads, self.device)
        self._left, self._right = self._operand(0), self._operand(1)
        self._product = self._torch.empty_like(self._left)

    @property
    def flop_per_iteration(self) -> int:
        """2·n³."""
        return 2 * self.size**3

    def describe(self) -> Mapping[str, str]:
        """What runs: for the record of a run."""
        return {
            "workload": "matmul",
            "size": f"{self.size}x{self.size}",
            "flop_per_iteration": str(self.flop_per_iteration),
            "dtype": str(self.dtype).removeprefix("torch."),
            "float32_precision": str(self._torch.get_float32_matmul_precision()),
            "device": describe_device(self.device),
            "threads": str(self.threads),
            "seed": str(self.seed),
            "torch": str(self._torch.__version__),
        }

    def warm_up(self) -> None:
        """Load the libraries' kernels and wake the thread pool."""
        self.run_iterations(WARM_UP_ITERATIONS)

    def run_iterations(self, iterations: int) -> MatmulWork:
        """Run exactly ``iterations`` products."""
        if iterations < 1:
            raise ConfigurationError(f"'iterations' must be >= 1 (got {iterations}).")
        return self._counted(lambda: self._launch(iterations))

    def run_for(self, duration_s: float) -> MatmulWork:
        """Run products for at least ``duration_s`` seconds, and at most a few chunks longer."""
        if not duration_s > 0:
            raise ConfigurationError(f"'duration_s' must be > 0 (got {duration_s}).")
        return self._counted(lambda: self._launch_until(self._clock.now_ns() + round(duration_s * NS_PER_S)))

    def _operand(self, which: int) -> torch.Tensor:
        generator = self._torch.Generator().manual_seed(2 * self.seed + which)
        values = self._torch.randn(self.size, self.size, generator=generator)
        operand: torch.Tensor = (values / self.size**0.5).to(self.device, self.dtype)
        return operand

    def _counted(self, launch: Callable[[], int]) -> MatmulWork:
        wait_for(self.device)
        with torch_threads(self.threads), self._torch.inference_mode():
            t0_ns = self._clock.now_ns()
            iterations = launch()
            wait_for(self.device)
            t1_ns = self._clock.now_ns()
        duration_s = max(t1_ns - t0_ns, 1) / NS_PER_S
        return MatmulWork(iterations=iterations, flop=iterations * self.flop_per_iteration, duration_s=duration_s)

    def _launch(self, iterations: int) -> int:
        for _ in range(iterations):
            self._torch.mm(self._left, self._right, out=self._product)
        return iterations

    def _launch_until(self, deadline_ns: int) -> int:
        done, chunk = self._calibrate(deadline_ns)
        in_flight = None
        while self._clock.now_ns() < deadline_ns:
            done += self._launch(chunk)
            in_flight = self._wait_for_previous(in_flight)
        return done

    def _calibrate(self, deadline_ns: int) -> tuple[int, int]:
        """Double the chunk until it lasts :data:`CHUNK_S`; products done on the way count too."""
        done, chunk = 0, 1
        while True:
            before_ns = self._clock.now_ns()
            done += self._launch(chunk)
            wait_for(self.device)
            after_ns = self._clock.now_ns()
            if after_ns - before_ns >= CHUNK_S * NS_PER_S or after_ns >= deadline_ns:
                return done, chunk
            chunk *= 2

    def _wait_for_previous(self, previous: torch.cuda.Event | None) -> torch.cuda.Event | None:
        """Mark the end of this chunk and wait for the one before it; a CPU has already finished both."""
        if self.device.type != "cuda":
            return None
        mark: torch.cuda.Event = self._torch.cuda.Event()
        mark.record(self._torch.cuda.current_stream(self.device))
        if previous is not None:
            previous.synchronize()
        return mark
