"""Watch device memory over some code: peak, fragmentation, growth, and whether something will fit.

``VRAMMonitor`` works with any allocator that gives an account (:class:`~pytest_physics.workloads.allocator.Allocator`): PyTorch's on
CUDA, a twin's, or this process's. Inside a run (the ``vram`` fixture) every watch is recorded and its numbers are estimates; outside of
one they are plain.

The peak is the allocator's own high-water mark, begun anew with each watch: torch's on CUDA, a twin allocator's, and the kernel's
``VmHWM`` for a process. Watches may be nested, also over several monitors: what an outer one has seen is taken down before an inner one
begins the mark anew. Where a kernel does not let a process begin its mark anew (outside Linux), a process is only looked at when the watch
begins, at every :meth:`Watch.look`, and when it ends: what rose and fell in between is not in its peak, and the record's source says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import psutil

from pytest_physics.clock import RealClock
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.metrology.memory import FRAGMENTATIONS, AllocatorState, ModelSizes, growth_per_repeat
from pytest_physics.metrology.uncertainty import Estimate, Recipe
from pytest_physics.record.leaves.memory import untouched
from pytest_physics.record.schema import AllocationRecord, RefusedRequestRecord, StateRecord
from pytest_physics.workloads.allocator import Allocator, CudaAllocator, Torture, TwinAllocator
from pytest_physics.workloads.memory_probe import status_bytes

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


@runtime_checkable
class HighWater(Protocol):
    """An allocator that remembers the most it had handed out."""

    def reset_peak(self) -> None:
        """Begin the mark anew at what is handed out now."""

    def peak_bytes(self) -> int:
        """The mark; 0 where there is none."""


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

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._has_mark = self._begin_mark()

    @property
    def source(self) -> str:
        """Whose figures these are."""
        return "process" if self._has_mark else "process, seen only where it was looked at"

    def state(self) -> AllocatorState:
        """Resident bytes; a process does not tell its holes."""
        resident = int(self._process.memory_info().rss)
        return AllocatorState(
            allocated_bytes=resident, reserved_bytes=resident, active_bytes=resident, inactive_split_bytes=None, largest_free_bytes=None
        )

    def reset_peak(self) -> None:
        """Begin the kernel's mark of resident memory anew."""
        self._has_mark = self._begin_mark()

    def peak_bytes(self) -> int:
        """The kernel's mark of resident memory; 0 where it cannot be begun anew."""
        return status_bytes("VmHWM") if self._has_mark else 0

    @staticmethod
    def _begin_mark() -> bool:
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # 5: VmHWM, and nothing else (proc(5))
        except OSError:
            return False
        return True

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

    def take_peak(self) -> None:
        """Take down the allocator's mark."""
        if isinstance(self.monitor.allocator, HighWater):
            self.high_water_bytes = max(self.high_water_bytes, self.monitor.allocator.peak_bytes())

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
        if definition not in FRAGMENTATIONS or when not in {"worst", "end"}:
            raise ValueError(
                f"there is no fragmentation by '{definition}', '{when}'; definitions: {', '.join(FRAGMENTATIONS)}; when: worst, end."
            )
        return self._estimate("fragmentation", definition=definition, when=when)

    @property
    def refused(self) -> Estimate:
        """Requests of a torture that were refused although as many bytes were free, in pieces; only inside a run."""
        return self._estimate("refused_requests")

    def _estimate(self, quantity: str, **parameters: str) -> Estimate:
        if not self.id or self.monitor.session is None:
            raise RuntimeError(f"watch '{self.name}' has no {quantity} yet: leave its 'with' block first, inside a run with --physics.")
        return self.monitor.session.evaluate(Recipe(op=f"memory.{quantity}", parameters={"allocation": self.id, **parameters}))


class VRAMMonitor:
    """Watches one allocator.

    Parameters
    ----------
    allocator
        Whose memory; default: torch's on the current CUDA device where this process uses one already, else this process's.
    session, instrument
        The run and the instrument it belongs to; without them nothing is recorded.
    """

    def __init__(
        self, allocator: Allocator | ProcessMemory | None = None, *, session: Session | None = None, instrument: Instrument | None = None
    ) -> None:
        self.allocator = allocator or _allocator_in_use()
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
        self._begin_peak()
        _OPEN.append(watch)
        try:
            yield watch
        finally:
            watch.look()
            watch.take_peak()
            _OPEN.remove(watch)
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
        if isinstance(self.allocator, TwinAllocator) and watch.peak_bytes == 0:
            raise ChannelUnavailableError(untouched(watch.name))
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
        self._keep(watch, refused=[RefusedRequestRecord(**asdict(refusal)) for refusal in found.refused], source=found.source)
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
        if batch < 1 or context < 1 or (capacity_bytes is not None and capacity_bytes < 0):
            raise ValueError(f"'batch' and 'context' must be >= 1, 'capacity_bytes' >= 0 (got {batch}, {context}, {capacity_bytes}).")
        free = self.allocator.available_bytes() if capacity_bytes is None else capacity_bytes
        sizes, low, high = _needed(model, batch, context)
        if sizes is not None and sizes.max_positions is not None and context > sizes.max_positions:
            return FitForecast(answer=Fit.NO, reason=f"the model has {sizes.max_positions} positions, fewer than the {context} asked for")
        span = f"{low / 2**30:.2f} to {high / 2**30:.2f}" if high < float("inf") else f"at least {low / 2**30:.2f}"
        answer = Fit.NO if low > free else Fit.YES if high <= free else Fit.UNCERTAIN
        return FitForecast(answer=answer, reason=f"batch {batch} and context {context} need {span} GiB, {free / 2**30:.2f} GiB are free")

    # --- inside ------------------------------------------------------------------------------------------------------

    def _begin_peak(self) -> None:
        """The mark is one for all watches: those that are open take what it shows before it begins anew."""
        for watch in _OPEN:
            watch.take_peak()
        if isinstance(self.allocator, HighWater):
            self.allocator.reset_peak()

    def _keep(self, watch: Watch, *, refused: Sequence[RefusedRequestRecord] = (), source: str = "") -> None:
        if self.session is None or self.instrument is None:
            return
        number = 1 + sum(a.instrument == self.instrument.name for a in self.session.allocations)
        watch.id = f"{self.instrument.name}-a{number}"
        states = [StateRecord(t_ns=t_ns, **asdict(state)) for t_ns, state in zip(watch.stamps_ns, watch.states, strict=True)]
        self.session.record_allocation(
            AllocationRecord(
                id=watch.id, instrument=self.instrument.name, name=watch.name, source=source or self.allocator.source,
                states=states,
                peak_bytes=watch.high_water_bytes, refused=list(refused), test=self.session.test,
            )
        )  # fmt: skip


def _needed(model: MemoryForecast | ModelSizes, batch: int, context: int) -> tuple[ModelSizes | None, float, float]:
    """Sizes where known, and the interval of bytes."""
    if isinstance(model, ModelSizes):
        return model, float(model.weight_bytes + model.kv_bytes(batch=batch, context=context)), float("inf")
    needed = model.needed(batch=batch, context=context)
    return model.sizes, *needed.interval


_OPEN: list[Watch] = []
"""Watches that have begun and not ended, of all monitors: an allocator has one high-water mark."""


def _allocator_in_use() -> Allocator | ProcessMemory:
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return CudaAllocator(f"cuda:{torch.cuda.current_device()}")
    return ProcessMemory()


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
