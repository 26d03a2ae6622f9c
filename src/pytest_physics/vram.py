"""Watch device memory over some code: peak, fragmentation, growth, and whether something will fit.

``VRAMMonitor`` works with any allocator that gives an account (:class:`~pytest_physics.workloads.allocator.Allocator`): PyTorch's on
CUDA, a twin's, or this process's. Inside a run (the ``vram`` fixture) every watch is recorded and its numbers are estimates; outside of
one they are plain.

On CUDA the peak is torch's own high-water mark, reset when the watch begins. A twin's and a process's allocator are looked at when the
watch begins, at every :meth:`Watch.look`, and when it ends; what rose and fell between two looks is not in their peak.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from pytest_physics.clock import RealClock
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.metrology.memory import AllocatorState, ModelSizes, growth_per_repeat
from pytest_physics.metrology.uncertainty import Estimate, Recipe
from pytest_physics.record.schema import AllocationRecord, RefusedRequestRecord, StateRecord
from pytest_physics.workloads.allocator import Allocator, CudaAllocator, Torture, TwinAllocator

if TYPE_CHECKING:
    from pytest_physics.instrument import Instrument
    from pytest_physics.session import Session

GROWTH_TOLERANCE_BYTES = 1024
"""A repetition that leaves less than this behind has not grown."""
MIN_REPEATS = 5


class MemoryForecast(Protocol):
    """Something that knows what a pass needs, such as :class:`~pytest_physics.experiments.vram_cliff.VramCliff`."""

    @property
    def sizes(self) -> ModelSizes:
        """Of its model."""

    def needed(self, *, batch: int, context: int) -> Estimate:
        """Bytes, with their interval."""


class Fit(StrEnum):
    """Whether something will fit."""

    YES = "yes"
    NO = "no"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitForecast:
    """An answer with its reason."""

    answer: Fit
    reason: str

    def __bool__(self) -> bool:
        """Only a plain yes is true."""
        return self.answer is Fit.YES


class ProcessMemory:
    """Resident memory of this process, as an allocator that cannot be asked to allocate: for code without a device."""

    source = "process"

    def __init__(self) -> None:
        self._process = psutil.Process()

    def state(self) -> AllocatorState:
        """Resident bytes; a process does not tell its holes."""
        resident = int(self._process.memory_info().rss)
        return AllocatorState(
            allocated_bytes=resident, reserved_bytes=resident, active_bytes=resident, inactive_split_bytes=0, largest_free_bytes=None
        )

    def available_bytes(self) -> int:
        """What the system calls available."""
        return int(psutil.virtual_memory().available)


@dataclass(slots=True)
class Watch:
    """Device memory while some code ran."""

    name: str
    monitor: VRAMMonitor = field(repr=False)
    states: list[AllocatorState] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)
    high_water_bytes: int = 0
    """Largest allocation seen."""
    id: str = ""
    """Of its record, once it has closed inside a run."""

    def look(self) -> AllocatorState:
        """Look at the allocator now."""
        state = self.monitor.state()
        self.states.append(state)
        self.stamps_ns.append(self.monitor.now_ns())
        self.high_water_bytes = max(self.high_water_bytes, state.allocated_bytes)
        return state

    @property
    def peak_bytes(self) -> int:
        """Largest allocation above what was there when the watch began."""
        return self.high_water_bytes - self.states[0].allocated_bytes

    @property
    def peak(self) -> Estimate:
        """:attr:`peak_bytes` as an estimate; only inside a run, after the watch has closed."""
        return self._estimate("peak")

    @property
    def fragmentation(self) -> Estimate:
        """Bytes of split free blocks over reserved bytes, at its worst among the looks; only inside a run, after the watch has closed."""
        return self.fragmentation_by("inactive split")

    def fragmentation_by(self, definition: str, *, when: str = "worst") -> Estimate:
        """Fragmentation by another definition (see :mod:`pytest_physics.metrology.memory`), ``"worst"`` or at the ``"end"``."""
        return self._estimate("fragmentation", definition=definition, when=when)

    def _estimate(self, quantity: str, **parameters: str) -> Estimate:
        if not self.id or self.monitor.session is None:
            raise RuntimeError(f"watch '{self.name}' has no {quantity} yet: leave its 'with' block first, inside a run with --physics.")
        return self.monitor.session.evaluate(Recipe(op=f"memory.{quantity}", parameters={"allocation": self.id, **parameters}))


class VRAMMonitor:
    """Watches one allocator.

    Parameters
    ----------
    allocator
        Whose memory; default: torch's on CUDA where this process uses it, else this process's.
    session, instrument
        The run and the instrument it belongs to; without them nothing is recorded.
    """

    def __init__(
        self, allocator: Allocator | ProcessMemory | None = None, *, session: Session | None = None, instrument: Instrument | None = None
    ) -> None:
        self.allocator = allocator or ProcessMemory()
        self.session = session
        self.instrument = instrument
        self._clock = instrument.clock if instrument else RealClock()

    def now_ns(self) -> int:
        """Time on the instrument's clock."""
        return self._clock.now_ns()

    def state(self) -> AllocatorState:
        """The allocator's account now."""
        return self.allocator.state()

    @contextmanager
    def watch(self, name: str = "watch") -> Iterator[Watch]:
        """Watch the memory over a block; ``m.peak`` and ``m.fragmentation`` afterwards."""
        watch = Watch(name, self)
        watch.look()
        self._reset_peak()
        try:
            yield watch
        finally:
            watch.look()
            watch.high_water_bytes = max(watch.high_water_bytes, self._device_peak())
            self._keep(watch)

    def assert_no_growth(self, fn: Callable[[], object], repeats: int = 20, *, tolerance_bytes: float = GROWTH_TOLERANCE_BYTES) -> Watch:
        """Run ``fn`` again and again; ``AssertionError`` where each run leaves more than ``tolerance_bytes`` behind.

        The first run fills caches and does not count; growth is the mean rise of the others without the largest, so one late cache is no
        leak.
        """
        if repeats < MIN_REPEATS:
            raise ValueError(f"'repeats' must be >= {MIN_REPEATS} (got {repeats}).")
        with self.watch(f"growth of {getattr(fn, '__name__', 'the code')}") as watch:
            for _ in range(repeats):
                fn()
                watch.look()
        grown = growth_per_repeat([state.allocated_bytes for state in watch.states[1:-1]])
        if grown > tolerance_bytes:
            raise AssertionError(
                f"each run of {getattr(fn, '__name__', 'the code')} left {grown:.0f} bytes behind (limit {tolerance_bytes:g}, mean rise "
                f"over {repeats - 1} runs, {self.allocator.source}): it leaks. Look for what stays referenced: lists, caches, graphs."
            )
        return watch

    def torture(self, name: str, found: Torture) -> Watch:
        """Record what a torture pattern did (:func:`pytest_physics.workloads.allocator.torture`), as a watch."""
        stamps = [self.now_ns()] * len(found.states)
        watch = Watch(name, self, states=list(found.states), stamps_ns=stamps, high_water_bytes=found.peak_bytes)
        self._keep(watch, refused=[RefusedRequestRecord(**asdict(refusal)) for refusal in found.refused])
        return watch

    def will_fit(
        self, model: MemoryForecast | ModelSizes, *, batch: int = 1, context: int, capacity_bytes: int | None = None
    ) -> FitForecast:
        """Whether a batch and a context will fit, before they are run.

        Parameters
        ----------
        model
            A searched or predicted cliff, whose fit gives bytes with an interval; or bare sizes, which give weights and cache, a lower
            bound: with them the answer is no or uncertain, never yes.
        batch, context
            What is to run.
        capacity_bytes
            Memory there is; default: what the allocator could still hand out.
        """
        free = self.allocator.available_bytes() if capacity_bytes is None else capacity_bytes
        sizes, low, high = _needed(model, batch, context)
        if sizes is not None and sizes.max_positions is not None and context > sizes.max_positions:
            return FitForecast(answer=Fit.NO, reason=f"the model has {sizes.max_positions} positions, fewer than the {context} asked for")
        span = f"{low / 2**30:.2f} to {high / 2**30:.2f}" if high < float("inf") else f"at least {low / 2**30:.2f}"
        answer = Fit.NO if low > free else Fit.YES if high <= free else Fit.UNCERTAIN
        return FitForecast(answer=answer, reason=f"batch {batch} and context {context} need {span} GiB, {free / 2**30:.2f} GiB are free")

    # --- inside ------------------------------------------------------------------------------------------------------

    def _reset_peak(self) -> None:
        if isinstance(self.allocator, CudaAllocator):
            self.allocator.reset_peak()

    def _device_peak(self) -> int:
        return self.allocator.peak_bytes() if isinstance(self.allocator, CudaAllocator) else 0

    def _keep(self, watch: Watch, *, refused: Sequence[RefusedRequestRecord] = ()) -> None:
        if self.session is None or self.instrument is None:
            return
        number = 1 + sum(a.instrument == self.instrument.name for a in self.session.allocations)
        watch.id = f"{self.instrument.name}-a{number}"
        states = [StateRecord(t_ns=t_ns, **asdict(state)) for t_ns, state in zip(watch.stamps_ns, watch.states, strict=True)]
        self.session.record_allocation(
            AllocationRecord(
                id=watch.id, instrument=self.instrument.name, name=watch.name, source=self.allocator.source, states=states,
                peak_bytes=watch.high_water_bytes, refused=list(refused), test=self.session.test,
            )
        )  # fmt: skip


def _needed(model: MemoryForecast | ModelSizes, batch: int, context: int) -> tuple[ModelSizes | None, float, float]:
    """Sizes where known, and the interval of bytes."""
    if isinstance(model, ModelSizes):
        return model, float(model.weight_bytes + model.kv_bytes(batch=batch, context=context)), float("inf")
    needed = model.needed(batch=batch, context=context)
    return model.sizes, *needed.interval


def monitor_for(instrument: Instrument, session: Session) -> VRAMMonitor:
    """The monitor that fits an instrument."""
    return VRAMMonitor(_allocator_of(instrument), session=session, instrument=instrument)


def _allocator_of(instrument: Instrument) -> Allocator | ProcessMemory:
    device: Any = instrument.device
    if device.spec.kind == "twin":
        return TwinAllocator(device)
    if device.spec.kind == "cpu":
        return ProcessMemory()
    if device.spec.kind == "nvml":
        from pytest_physics.workloads.select import torch_name  # noqa: PLC0415 -- torch loads only where there is a card

        return CudaAllocator(torch_name(device))
    raise ChannelUnavailableError(f"a '{device.spec.kind}' device has no allocator to watch; use one that can run something.")


__all__ = ["Fit", "FitForecast", "ProcessMemory", "VRAMMonitor", "Watch", "monitor_for"]
