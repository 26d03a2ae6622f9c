"""Allocators to look at and to torture: PyTorch's on CUDA, glibc's in a process, and a twin's.

All three give the same account (:class:`~pytest_physics.metrology.memory.AllocatorState`), taken while the holes exist. The patterns are
data: a list of steps, "allocate so much under this name" and "free that name", so that the same torture runs on each.

* CUDA: bytes from ``memory_stats`` (``inactive_split_bytes``, never the *count* ``inactive_split``) and the largest free block from
  ``memory_snapshot``'s segments.
* Twin: the rules of PyTorch's caching allocator (best fit; requests to 512 B; segments of 2 MiB for small, 20 MiB for middle and whole
  2 MiB for large requests; remainders are split off and coalesce with free neighbours), on the twin's own capacity.
* glibc: ``mallinfo2`` of a fresh process. What a block leaves in the heap below its top counts as split; blocks beyond the mmap threshold
  go back to the system at once, so only smaller ones can fragment.

Reference: PyTorch ``c10/cuda/CUDACachingAllocator.cpp``; TR122 §5 part A (100 blocks of 4 MiB, every other freed).
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from pytest_physics.devices.twin import TwinDevice
from pytest_physics.errors import ChannelUnavailableError, ConfigurationError, InvalidMeasurement
from pytest_physics.metrology.memory import AllocatorState
from pytest_physics.workloads.libraries import import_torch, visible_device

KIB, MIB = 2**10, 2**20
LOOKS = 24
"""How often a torture is looked at on its way, evenly; and at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Allocate ``n_bytes`` under ``name``; free that name where ``n_bytes`` is None."""

    name: int
    n_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An allocation that failed."""

    requested_bytes: int
    free_bytes: int
    """Free inside the allocator plus what its device still had."""


@dataclass(slots=True, kw_only=True)
class Torture:
    """What a pattern did to an allocator."""

    states: list[AllocatorState] = field(default_factory=list)
    """Before, on the way, and after the last step with everything still in place."""
    refused: list[Refusal] = field(default_factory=list)
    peak_bytes: int = 0
    """Largest allocation among the states, or asked for between them."""
    source: str = ""
    """Whose figures these are."""


class Allocator(Protocol):
    """Hands out memory, and says how its memory lies."""

    source: str

    def allocate(self, n_bytes: int) -> object:
        """A block; ``MemoryError`` where there is none."""

    def free(self, block: object) -> None:
        """Give a block back."""

    def state(self) -> AllocatorState:
        """Its account now."""

    def available_bytes(self) -> int:
        """Bytes it could still hand out if they lay in one piece: free inside, and what its device has."""


# --- patterns -----------------------------------------------------------------------------------------------------------


def alternate_frees(*, count: int = 100, n_bytes: int = 4 * MIB) -> list[Step]:
    """Equal blocks, of which every other is freed, then one request of twice the size: TR122's part A, with the holes left open."""
    steps = [Step(name=i, n_bytes=n_bytes) for i in range(count)]
    return [*steps, *(Step(name=i, n_bytes=None) for i in range(0, count, 2)), Step(name=count, n_bytes=2 * n_bytes)]


def stack_order(*, count: int = 100, n_bytes: int = 20 * MIB) -> list[Step]:
    """Whole segments; half of them are freed from the end, and asked for again: every hole is used. The clean pattern."""
    steps = [Step(name=i, n_bytes=n_bytes) for i in range(count)]
    return [*steps, *(Step(name=i, n_bytes=None) for i in range(count - 1, count // 2 - 1, -1)), *steps[count // 2 :]]


def mixed_sizes(
    capacity_bytes: int, *, fill: float = 0.85, rounds: int = 400, low: int = 2 * MIB, high: int = 64 * MIB, seed: int = 0
) -> list[Step]:
    """Blocks of ``low`` to ``high`` (log-uniform) near capacity: fill up to ``fill``, then replace random ones by others, for long."""
    if not 0 < fill < 1:
        raise ConfigurationError(f"'fill' must be within 0 and 1 (got {fill}).")
    random_numbers = random.Random(seed)  # noqa: S311 -- a pattern, not a secret
    return list(_churn(capacity_bytes * fill, rounds, lambda: int(low * (high / low) ** random_numbers.random()), random_numbers))


def sequence_lengths(
    capacity_bytes: int, *, bytes_per_token: int, fill: float = 0.85, rounds: int = 400, longest: int = 2048, seed: int = 0
) -> list[Step]:
    """Caches of requests of 16 to ``longest`` tokens that come and go: what a server without paging does to its allocator."""
    random_numbers = random.Random(seed)  # noqa: S311 -- as above
    return list(_churn(capacity_bytes * fill, rounds, lambda: bytes_per_token * random_numbers.randint(16, longest), random_numbers))


def _churn(wanted: float, rounds: int, size: Callable[[], int], random_numbers: random.Random) -> Iterable[Step]:
    alive: dict[int, int] = {}
    name = replaced = 0
    while replaced < rounds:
        n_bytes = size()
        full = bool(alive) and sum(alive.values()) + n_bytes > wanted
        while alive and sum(alive.values()) + n_bytes > wanted:
            out = random_numbers.choice(list(alive))
            del alive[out]
            yield Step(name=out, n_bytes=None)
        alive[name] = n_bytes
        yield Step(name=name, n_bytes=n_bytes)
        name, replaced = name + 1, replaced + full


def torture(allocator: Allocator, steps: Sequence[Step], *, looks: int = LOOKS) -> Torture:
    """Run a pattern, look on the way, and free everything afterwards. A refused allocation is noted, and the pattern goes on."""
    out = Torture(states=[allocator.state()], source=allocator.source)
    blocks: dict[int, object] = {}
    held: dict[int, int] = {}
    highest = 0
    every = max(1, len(steps) // looks)
    try:
        for number, step in enumerate(steps, start=1):
            _take(allocator, step, blocks, out)
            held[step.name] = step.n_bytes or 0 if step.name in blocks else 0
            highest = max(highest, sum(held.values())) if step.n_bytes else highest
            if number % every == 0 or number == len(steps):
                out.states.append(allocator.state())
    finally:
        for block in blocks.values():
            allocator.free(block)
    out.peak_bytes = max(out.states[0].allocated_bytes + highest, *(state.allocated_bytes for state in out.states))
    return out


def _take(allocator: Allocator, step: Step, blocks: dict[int, object], out: Torture) -> None:
    if step.n_bytes is None:
        if step.name in blocks:  # it may have been refused
            allocator.free(blocks.pop(step.name))
        return
    try:
        blocks[step.name] = allocator.allocate(step.n_bytes)
    except MemoryError:
        out.refused.append(Refusal(requested_bytes=step.n_bytes, free_bytes=allocator.available_bytes()))


# --- a twin's -----------------------------------------------------------------------------------------------------------

SMALL_LIMIT, SMALL_SEGMENT = MIB, 2 * MIB
MIDDLE_LIMIT, MIDDLE_SEGMENT = 10 * MIB, 20 * MIB
LARGE_STEP = 2 * MIB
GRAIN = 512


@dataclass(slots=True)
class Block:
    """A piece of a segment."""

    segment: int
    offset: int
    size: int
    free: bool = True
    requested: int = 0


class TwinAllocator:
    """PyTorch's caching allocator on a twin.

    Parameters
    ----------
    device
        Whose memory it takes.
    expandable_segments
        One growing segment per pool instead of many, as ``PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True``.
    """

    source = "twin's caching allocator"

    def __init__(self, device: TwinDevice, *, expandable_segments: bool = False) -> None:
        self._device = device
        self._expandable = expandable_segments
        self._segments: dict[int, list[Block]] = {}
        self._pools: dict[int, bool] = {}
        """Whether a segment is of the small pool."""
        self._next = 0
        self._handed_out = self._peak = 0

    def allocate(self, n_bytes: int) -> Block:
        """Best fit among the free blocks of its pool, else a new segment; ``MemoryError`` after the cache was given back in vain."""
        size, small = max(GRAIN, -(-n_bytes // GRAIN) * GRAIN), n_bytes <= SMALL_LIMIT
        block = self._best(size, small=small) or self._grown(size, small=small)
        self._split(block, size, small=small)
        block.free, block.requested = False, n_bytes
        self._handed_out += block.size
        self._peak = max(self._peak, self._handed_out)
        return block

    def free(self, block: object) -> None:
        """Give a block back to the cache; free neighbours coalesce."""
        if not isinstance(block, Block) or block.free:
            raise ValueError(f"this allocator did not hand out {block!r}, or has it back already.")
        block.free, block.requested = True, 0
        self._handed_out -= block.size
        self._coalesce(block.segment)

    def empty_cache(self) -> None:
        """Return segments that are free as a whole to the device."""
        for segment in [s for s, blocks in self._segments.items() if all(b.free for b in blocks)]:
            self._device.free(sum(b.size for b in self._segments.pop(segment)))
            del self._pools[segment]

    def reset_peak(self) -> None:
        """Begin the high-water mark anew."""
        self._peak = self._handed_out

    def peak_bytes(self) -> int:
        """High-water mark."""
        return self._peak

    def state(self) -> AllocatorState:
        """Bytes from the blocks themselves."""
        blocks = [b for segment in self._segments.values() for b in segment]
        used = sum(b.size for b in blocks if not b.free)
        split = sum(b.size for segment in self._segments.values() if len(segment) > 1 for b in segment if b.free)
        return AllocatorState(
            allocated_bytes=used, reserved_bytes=sum(b.size for b in blocks), active_bytes=used, inactive_split_bytes=split,
            largest_free_bytes=max((b.size for b in blocks if b.free), default=0), segments=len(self._segments),
        )  # fmt: skip

    def available_bytes(self) -> int:
        """Free in the cache and on the card."""
        card = self._device.preset.card
        return self.state().free_bytes + card.memory_bytes - card.memory_reserved_bytes - self._device.allocated_bytes

    def _best(self, size: int, *, small: bool) -> Block | None:
        pools = (blocks for segment, blocks in self._segments.items() if self._pools[segment] is small)
        return min((b for blocks in pools for b in blocks if b.free and b.size >= size), key=lambda b: b.size, default=None)

    def _grown(self, size: int, *, small: bool) -> Block:
        wanted = SMALL_SEGMENT if small else MIDDLE_SEGMENT if size < MIDDLE_LIMIT else -(-size // LARGE_STEP) * LARGE_STEP
        if self._expandable:
            wanted = -(-size // LARGE_STEP) * LARGE_STEP
        try:
            self._reserve(wanted)
        except MemoryError:
            self.empty_cache()
            self._reserve(wanted)
        return self._appended(wanted, small=small)

    def _reserve(self, n_bytes: int) -> None:
        card = self._device.preset.card
        if self._device.allocated_bytes + n_bytes > card.memory_bytes - card.memory_reserved_bytes:
            raise MemoryError(f"twin '{self._device.preset.name}' has no {n_bytes} bytes left on its card")
        self._device.allocate(n_bytes)

    def _appended(self, size: int, *, small: bool) -> Block:
        known = next((s for s in self._segments if self._pools[s] is small), None) if self._expandable else None
        if known is None:
            known, self._next = self._next, self._next + 1
            self._segments[known], self._pools[known] = [], small
        blocks = self._segments[known]
        blocks.append(Block(known, sum(b.size for b in blocks), size))
        self._coalesce(known)
        return next(b for b in reversed(self._segments[known]) if b.free and b.size >= size)

    def _split(self, block: Block, size: int, *, small: bool) -> None:
        rest = block.size - size
        if rest >= (GRAIN if small or self._expandable else SMALL_LIMIT + 1):
            blocks = self._segments[block.segment]
            blocks.insert(blocks.index(block) + 1, Block(block.segment, block.offset + size, rest))
            block.size = size

    def _coalesce(self, segment: int) -> None:
        merged: list[Block] = []
        for block in self._segments[segment]:
            if merged and merged[-1].free and block.free:
                merged[-1].size += block.size
            else:
                merged.append(block)
        self._segments[segment] = merged


# --- CUDA ---------------------------------------------------------------------------------------------------------------


class CudaAllocator:
    """PyTorch's caching allocator on a card; ``DeviceUnavailableError`` where torch has no such card.

    CUDA is initialised here: its statistics cannot be asked for, nor its high-water mark begun anew, before. Where torch leaves memory to
    the driver (``backend:cudaMallocAsync``) its statistics of blocks are always zero, and are not told.
    """

    source = "torch CUDA caching allocator"

    def __init__(self, device: str = "cuda:0") -> None:
        self._torch = import_torch()
        if visible_device(device).type != "cuda":
            raise ConfigurationError(f"'device' must be a CUDA device such as 'cuda:0' (got {device!r}).")
        self._torch.cuda.init()
        self.device = device
        self._tells_blocks = self._torch.cuda.get_allocator_backend() == "native"

    def allocate(self, n_bytes: int) -> object:
        """A tensor of bytes; torch's out-of-memory error becomes a ``MemoryError``."""
        try:
            return self._torch.empty(n_bytes, dtype=self._torch.uint8, device=self.device)
        except self._torch.cuda.OutOfMemoryError as error:
            raise MemoryError(str(error)) from None

    def free(self, block: object) -> None:
        """Let the tensor's storage go."""
        block.untyped_storage().resize_(0)  # type: ignore[attr-defined]

    def state(self) -> AllocatorState:
        """From ``memory_stats`` and the segments of ``memory_snapshot``."""
        stats = self._torch.cuda.memory_stats(self.device)
        if not self._tells_blocks:
            return replace(cuda_state(stats, ()), inactive_split_bytes=None, largest_free_bytes=None)
        return cuda_state(stats, self._torch.cuda.memory_snapshot(), device=self.index)

    def empty_cache(self) -> None:
        """Return segments that are free as a whole to the device."""
        self._torch.cuda.empty_cache()

    def reset_peak(self) -> None:
        """Begin torch's high-water mark anew."""
        self._torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int:
        """Torch's high-water mark."""
        return int(self._torch.cuda.max_memory_allocated(self.device))

    @property
    def index(self) -> int:
        """Number of the card."""
        index = self._torch.device(self.device).index
        return int(self._torch.cuda.current_device() if index is None else index)

    def available_bytes(self) -> int:
        """Free in the cache and on the card."""
        return self.state().free_bytes + int(self._torch.cuda.mem_get_info(self.device)[0])


def cuda_state(stats: Mapping[str, int], segments: Sequence[Mapping[str, Any]], *, device: int = 0) -> AllocatorState:
    """An account from what torch tells.

    Parameters
    ----------
    stats
        ``torch.cuda.memory_stats()``; keys that count *bytes* are used, never those that count blocks.
    segments
        ``torch.cuda.memory_snapshot()``, for the largest free block.
    device
        Segments of other cards are left out.
    """
    own = [segment for segment in segments if int(segment.get("device", 0)) == device]
    free = [int(block["size"]) for segment in own for block in segment["blocks"] if block["state"] == "inactive"]
    return AllocatorState(
        allocated_bytes=int(stats.get("allocated_bytes.all.current", 0)), reserved_bytes=int(stats.get("reserved_bytes.all.current", 0)),
        active_bytes=int(stats.get("active_bytes.all.current", 0)),
        inactive_split_bytes=int(stats.get("inactive_split_bytes.all.current", 0)),
        largest_free_bytes=max(free, default=0), segments=len(own),
    )  # fmt: skip


# --- glibc --------------------------------------------------------------------------------------------------------------


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2``."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    )


class GlibcAllocator:
    """``malloc`` of this process."""

    source = "glibc"

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        if not hasattr(self._library, "mallinfo2"):
            raise ChannelUnavailableError("this C library has no mallinfo2 (glibc 2.33 and newer have): its heap cannot be looked at.")
        self._library.mallinfo2.restype = _MallocInfo
        self._library.malloc.restype = ctypes.c_void_p
        self._library.malloc.argtypes = [ctypes.c_size_t]
        self._library.free.argtypes = [ctypes.c_void_p]
        self._library.free.restype = None

    def allocate(self, n_bytes: int) -> object:
        """A block, or ``MemoryError``."""
        address: int | None = self._library.malloc(n_bytes)
        if address is None:
            raise MemoryError(f"malloc gives no {n_bytes} bytes")
        return address

    def free(self, block: object) -> None:
        """``free``."""
        self._library.free(block)

    def state(self) -> AllocatorState:
        """Heap and mapped blocks; free bytes below the top of the heap are split."""
        info = self._library.mallinfo2()
        reserved = int(info.arena + info.hblkhd)
        split = max(0, int(info.fordblks - info.keepcost))
        return AllocatorState(
            allocated_bytes=int(info.uordblks + info.hblkhd), reserved_bytes=reserved, active_bytes=int(info.uordblks + info.hblkhd),
            inactive_split_bytes=split, largest_free_bytes=None, segments=1 + int(info.hblks),
        )  # fmt: skip

    def available_bytes(self) -> int:
        """Free in the heap: a process does not know what its system has."""
        return self.state().free_bytes


def torture_in_process(request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer to a ``torture`` request of :mod:`pytest_physics.workloads.memory_probe`: a pattern on ``malloc``, or on a card."""
    steps = [Step(name=int(name), n_bytes=None if n_bytes is None else int(n_bytes)) for name, n_bytes in request["steps"]]
    allocator: Allocator = CudaAllocator(request["device"]) if request.get("device", "cpu") != "cpu" else GlibcAllocator()
    found = torture(allocator, steps)
    return {
        "outcome": "FITS", "source": found.source, "states": [asdict(state) for state in found.states],
        "refused": [asdict(refusal) for refusal in found.refused], "peak_bytes": found.peak_bytes,
    }  # fmt: skip


def torture_from(answer: Mapping[str, Any]) -> Torture:
    """What a probing process answered, as values again."""
    if answer.get("outcome") != "FITS":
        raise InvalidMeasurement(f"the torture of an allocator in a fresh process did not end: {answer.get('message', answer)}")
    return Torture(
        states=[AllocatorState(**state) for state in answer["states"]],
        refused=[Refusal(**refusal) for refusal in answer["refused"]],
        peak_bytes=int(answer["peak_bytes"]), source=str(answer["source"]),
    )  # fmt: skip


def as_request(steps: Sequence[Step], *, device: str = "cpu") -> dict[str, Any]:
    """A pattern as a request for a probing process: on its ``malloc``, or on a card."""
    return {"action": "torture", "device": device, "steps": [[step.name, step.n_bytes] for step in steps]}
