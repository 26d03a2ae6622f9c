"""Who answers whether a batch and a context fit: a fresh process on real hardware, or a twin.

A prober knows its subject (which model, in which number format, with which attention), its capacity and what sets it, and runs one probe
at a time. Nothing is learned from one probe to the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pytest_physics.clock import NS_PER_S
from pytest_physics.devices.base import Device
from pytest_physics.devices.twin import TwinDevice, TwinLoad
from pytest_physics.devices.twin import memory as twin_memory
from pytest_physics.errors import ChannelUnavailableError, ConfigurationError, nearest
from pytest_physics.metrology.memory import ModelSizes, Outcome
from pytest_physics.workloads.allocator import Step, Torture, TwinAllocator, as_request, torture, torture_from
from pytest_physics.workloads.memory_probe import ModelSpec

MIB = 2**20
START_S = 120.0
"""Longest start of the probing process: importing torch and transformers takes 3 to 30 s."""
TORTURE_LIMIT_S = 300.0
GRACE_S = 20.0
"""How much longer than its own time limit a probe may take to answer before its process is given up."""
PAGE_BYTES = 4096
CPU_CAPACITY_BYTES = 256 * MIB
"""Capacity that stands for a device's memory on a CPU: a cliff at a few thousand tokens, found in a fraction of a second per probe. The
matrix library does without its 3 MiB of packing buffers where it gets none, so much smaller capacities end later than bytes say."""
TWIN_FOREIGN = "4242 foreign process of the twin"
TWIN_FOREIGN_BYTES = 2**30
TWIN_OWN = "0 this run, outside of its probes"
ENVIRONMENT: Mapping[str, str] = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
"""Of the probing process: one arena and one thread, and every larger block returned to the system when it is freed. Libraries that ask
whether there is CUDA must not initialise its driver: a forked child could not use it then."""
EXPANDABLE = "expandable_segments:True"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is probed."""

    name: str
    """Of the model."""
    dtype: str
    attention: str
    """"eager" keeps the score matrix; anything else does not."""
    sizes: ModelSizes

    @property
    def quadratic(self) -> bool:
        """Whether memory grows with the square of the context."""
        return self.attention == "eager"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One answer."""

    batch: int
    context: int
    outcome: Outcome
    """FITS also where memory spilled: that shows only beside other probes."""
    message: str = ""
    """Why it did not fit, in the words of whoever refused."""
    peak_bytes: int | None = None
    seconds: float | None = None
    capacity_bytes: int = 0
    foreign: Mapping[str, int] = field(default_factory=dict)
    """Device memory of others (this run's own process too), before or after, by "pid name", in bytes."""
    reserved_bytes: int | None = None
    """Most that a caching allocator held from the device; None without one."""


class Prober(Protocol):
    """Runs probes."""

    subject: Subject
    limited_by: str
    """What sets the capacity: "the card", "RLIMIT_AS of a fresh process", "the twin's card"."""
    capacity_bytes: int
    rounding_bytes: int
    """Step in which memory is handed out."""

    def probe(self, batch: int, context: int) -> Probe:
        """Try one size."""

    def close(self) -> None:
        """End what was started."""


# --- models by name -----------------------------------------------------------------------------------------------------

_KNOWN: Mapping[str, ModelSizes] = {
    "gpt2": ModelSizes(
        layers=12, heads=12, kv_heads=12, head_dim=64, width=768, vocabulary=50257, parameters=124_439_808, bytes_per_number=2,
        max_positions=1024,
    ),
    "gpt2-xl": ModelSizes(
        layers=48, heads=25, kv_heads=25, head_dim=64, width=1600, vocabulary=50257, parameters=1_557_611_200, bytes_per_number=2,
        max_positions=1024,
    ),
    "llama-3.2-1b": ModelSizes(
        layers=16, heads=32, kv_heads=8, head_dim=64, width=2048, vocabulary=128256, parameters=1_235_814_400, bytes_per_number=2,
        max_positions=131072,
    ),
    "llama-3-8b": ModelSizes(
        layers=32, heads=32, kv_heads=8, head_dim=128, width=4096, vocabulary=128256, parameters=8_030_261_248, bytes_per_number=2,
        max_positions=8192,
    ),
    "qwen2.5-1.5b": ModelSizes(
        layers=28, heads=12, kv_heads=2, head_dim=128, width=1536, vocabulary=151936, parameters=1_543_714_304, bytes_per_number=2,
        max_positions=32768,
    ),
}  # fmt: skip
"""Published shapes, from their configurations on the Hub."""
BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
SMALL = ModelSpec(
    name="small-gpt2", model_type="gpt2",
    arguments={
        "n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 16384, "n_positions": 8192, "bos_token_id": 0, "eos_token_id": 0,
    },
)  # fmt: skip
"""A GPT-2 whose cliff on a CPU lies at a few thousand tokens."""


def known_sizes(name: str, dtype: str = "float16") -> ModelSizes:
    """Sizes of a published model; ``ConfigurationError`` names the nearest for an unknown one."""
    if name not in _KNOWN:
        raise ConfigurationError(f"no sizes of '{name}' are known{nearest(name, _KNOWN)}; known: {', '.join(_KNOWN)}.")
    if dtype not in BYTES:
        raise ConfigurationError(f"'dtype' must be one of {', '.join(BYTES)} (got {dtype!r}).")
    return replace(_KNOWN[name], bytes_per_number=BYTES[dtype])


# --- a twin -------------------------------------------------------------------------------------------------------------


class TwinProber:
    """Probes on a twin: its memory law, its capacity, its clock, its driver that pages or refuses."""

    def __init__(
        self, device: TwinDevice, model: str | Subject = "llama-3.2-1b", *, dtype: str = "float16", attention: str = "sdpa",
        limit_s: float = 600.0,
    ) -> None:  # fmt: skip
        named = Subject(name=model, dtype=dtype, attention=attention, sizes=known_sizes(model, dtype)) if isinstance(model, str) else model
        self.subject = named
        self.limit_s = limit_s
        card = device.preset.card
        self.capacity_bytes = card.memory_bytes - card.memory_reserved_bytes
        self.rounding_bytes = twin_memory.rounding_bytes(named.sizes)
        self.limited_by = "the twin's card, host memory beyond it" if card.host_spill_bytes else "the twin's card"
        self._device = device

    def probe(self, batch: int, context: int) -> Probe:
        """Allocate, run for as long as it takes, give everything back."""
        sizes = self.subject.sizes
        foreign = self._foreign()
        room = self.capacity_bytes - sum(foreign.values())
        answer = Probe(batch=batch, context=context, outcome=Outcome.FITS, capacity_bytes=room, foreign=foreign)
        if sizes.max_positions is not None and context > sizes.max_positions:
            return replace(answer, outcome=Outcome.ARCHITECTURE_LIMIT, message=_no_position(sizes.max_positions, context))
        wanted = twin_memory.true_peak_bytes(sizes, batch=batch, context=context, eager=self.subject.quadratic)
        held = wanted + foreign.get(TWIN_FOREIGN, 0)  # what this run holds is allocated already
        try:
            self._device.allocate(held)
        except MemoryError as error:
            return replace(answer, outcome=Outcome.OUT_OF_MEMORY, message=str(error))
        try:
            return self._timed(replace(answer, peak_bytes=wanted), batch, context)
        finally:
            self._device.free(held)

    def close(self) -> None:
        """A twin has nothing to end."""

    def _timed(self, answer: Probe, batch: int, context: int) -> Probe:
        card = self._device.preset.card
        work_s = twin_memory.true_seconds(self.subject.sizes, card, batch=batch, context=context)
        slower = card.host_spill_slowdown if self._device.spilled_bytes else 1.0
        done = min(1.0, self.limit_s / (work_s * slower))
        seconds = self._device.execute(TwinLoad(), work_s * done)
        if done < 1.0:
            message = f"it was still running after its time limit of {self.limit_s:g} s"
            return replace(answer, outcome=Outcome.KILLED, message=message, peak_bytes=None)
        return replace(answer, seconds=seconds)

    def _foreign(self) -> dict[str, int]:
        now_s = self._device.clock.now_ns() / NS_PER_S
        there = any(fault.kind == "foreign_process" and fault.start_s <= now_s < fault.stop_s for fault in self._device.faults)
        own = {TWIN_OWN: self._device.allocated_bytes} if self._device.allocated_bytes else {}
        return {**own, **({TWIN_FOREIGN: TWIN_FOREIGN_BYTES} if there else {})}


def _no_position(positions: int, context: int) -> str:
    return f"the model has {positions} positions, so a context of {context} tokens does not exist for it, however much memory there is"


# --- a fresh process ----------------------------------------------------------------------------------------------------


class ProbeProcess:
    """The process that answers requests; see :mod:`pytest_physics.workloads.memory_probe`. Started at the first request."""

    def __init__(self, model: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._model = model
        self._environment = {**ENVIRONMENT, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process else None

    def ask(self, request: Mapping[str, Any], *, limit_s: float) -> dict[str, Any]:
        """Answer to one request; KILLED where none comes in time."""
        self._start()
        answer = self._exchange({**request, "limit_s": limit_s}, limit_s + GRACE_S)
        if answer is None:
            self.close()
            return {"outcome": "KILLED", "message": f"its process gave no answer within {limit_s + GRACE_S:g} s, or ended"}
        return answer

    def close(self) -> None:
        """End the process and everything that it started; idempotent."""
        process, self._process, self._pending = self._process, None, b""
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session: the group is its pid
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _start(self) -> None:
        if self._process is not None:
            return
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest_physics.workloads.memory_probe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env={**os.environ, **self._environment}, start_new_session=True,
        )  # fmt: skip
        ready = self._exchange({"model": self._model}, START_S)
        if not ready or not ready.get("ready"):
            self.close()
            why = ready.get("message", "") if ready else f"no answer within {START_S:g} s"
            raise ChannelUnavailableError(f"the probing process does not start: {why or 'it ended at once'}")

    def _exchange(self, message: Mapping[str, Any], limit_s: float) -> dict[str, Any] | None:
        process = self._process
        assert process is not None  # noqa: S101 -- started by the caller
        assert process.stdin is not None  # noqa: S101 -- a pipe was asked for
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            return None
        return self._line(limit_s)

    def _line(self, limit_s: float) -> dict[str, Any] | None:
        process, deadline_s = self._process, time.monotonic() + limit_s
        assert process is not None  # noqa: S101 -- started by the caller
        assert process.stdout is not None  # noqa: S101 -- a pipe was asked for
        while b"\n" not in self._pending:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline_s - time.monotonic()))
            part = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            if not part:
                return None
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


class ProcessProber:
    """Probes a model of transformers, each in a fresh process.

    Parameters
    ----------
    model
        What to run.
    device
        ``"cpu"`` or torch's name of a card.
    capacity_bytes
        On a CPU: address space each probe may take beyond libraries and a first tiny pass. On CUDA the card tells what it has free.
    limit_s
        Time limit of one probe.
    foreign
        Tells the device memory of others, by "pid name"; default: nobody can take address space away, so none.
    process
        A probing process to share with other probers; default: one of its own.
    """

    def __init__(
        self, model: ModelSpec = SMALL, *, device: str = "cpu", capacity_bytes: int = CPU_CAPACITY_BYTES, limit_s: float = 60.0,
        foreign: Callable[[int], Mapping[str, int]] | None = None, process: ProbeProcess | None = None,
    ) -> None:  # fmt: skip
        if device == "cpu":
            require_address_space_limit(capacity_bytes)
        self.model = model
        self.device = device
        self.limit_s = limit_s
        self.capacity_bytes = capacity_bytes
        self.limited_by = "RLIMIT_AS of a fresh process" if device == "cpu" else "the card"
        self._foreign = foreign or (lambda _pid: {})
        self._process = process or ProbeProcess(model.to_json())
        self.subject = self._described()
        # on a CPU pieces are whole pages; on CUDA the caching allocator takes blocks of 2 MiB, as the twin does
        pieces = 2 * self.subject.sizes.layers + 2
        self.rounding_bytes = pieces * PAGE_BYTES if device == "cpu" else twin_memory.rounding_bytes(self.subject.sizes)

    def probe(self, batch: int, context: int) -> Probe:
        """One pass in a fresh process."""
        positions = self.subject.sizes.max_positions
        answer = Probe(batch=batch, context=context, outcome=Outcome.FITS, capacity_bytes=self.capacity_bytes)
        if positions is not None and context > positions:
            return replace(answer, outcome=Outcome.ARCHITECTURE_LIMIT, message=_no_position(positions, context))
        before = dict(self._foreign(self._process.pid or 0))
        request = {
            "action": "probe", "model": self.model.to_json(), "device": self.device, "batch": batch, "context": context,
            "capacity_bytes": self.capacity_bytes,
        }  # fmt: skip
        found = self._checked(self._process.ask(request, limit_s=self.limit_s))
        self.capacity_bytes = int(found.get("capacity_bytes") or self.capacity_bytes)
        fits = found["outcome"] == Outcome.FITS
        return replace(
            answer, outcome=Outcome(found["outcome"]), message=str(found.get("message", "")),
            peak_bytes=int(found["peak_bytes"]) if fits else None, seconds=float(found["seconds"]) if fits else None,
            capacity_bytes=self.capacity_bytes, foreign={**before, **self._foreign(self._process.pid or 0)},
            reserved_bytes=int(found["reserved_bytes"]) if fits and "reserved_bytes" in found else None,
        )  # fmt: skip

    def close(self) -> None:
        """End the probing process."""
        self._process.close()

    def _described(self) -> Subject:
        try:
            request = {"action": "describe", "model": self.model.to_json(), "device": self.device}
            found = self._checked(self._process.ask(request, limit_s=self.limit_s))
            self.capacity_bytes = int(found.get("capacity_bytes") or self.capacity_bytes)
            sizes = ModelSizes(**found["sizes"])
        except BaseException:
            self._process.close()
            raise
        return Subject(name=self.model.name, dtype=self.model.dtype, attention=self.model.attention, sizes=sizes)

    def _checked(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """An answer, or the error that it reports: what is wrong with a model or a card is no finding about memory."""
        if answer.get("not_tested"):
            raise ChannelUnavailableError(f"model '{self.model.name}' cannot be probed: {answer['message']}")
        if answer.get("outcome") == "ERROR" or ("sizes" not in answer and "outcome" not in answer):
            raise ConfigurationError(f"model '{self.model.name}' cannot be probed: {answer.get('message', answer)}")
        if answer.get("outcome") == "KILLED" and "sizes" not in answer and not hasattr(self, "subject"):
            raise ConfigurationError(f"model '{self.model.name}' cannot be described: {answer['message']}")
        return answer


def require_address_space_limit(capacity_bytes: int) -> None:
    """Raise ``ChannelUnavailableError`` where no address-space limit of that size can be set, and say why."""
    try:
        import resource
    except ImportError:
        raise ChannelUnavailableError(
            f"no memory limit can be set on '{sys.platform}': it has no RLIMIT_AS. Run this on Linux, or on a GPU.", channel="memory limit"
        ) from None
    if not sys.platform.startswith("linux"):
        raise ChannelUnavailableError(
            f"'{sys.platform}' does not enforce RLIMIT_AS on what was mapped: no memory limit can be set. Run this on Linux, or on a GPU.",
            channel="memory limit",
        )
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY and hard < capacity_bytes:
        raise ChannelUnavailableError(
            f"the address space is limited to {hard} bytes already (RLIMIT_AS, hard), less than the {capacity_bytes} bytes to be probed. "
            "Raise the limit ('ulimit -Hv'), or choose a smaller capacity.",
            channel="memory limit",
        )


def prober_for(device: Device, model: str = "") -> Prober:
    """The prober that fits a device; ``ChannelUnavailableError`` for a recording, on which nothing can be run."""
    kind = device.spec.kind
    if kind == "twin":
        assert isinstance(device, TwinDevice)  # noqa: S101 -- the kind says so
        return TwinProber(device, model or "llama-3.2-1b")
    if kind == "cpu":
        return ProcessProber()
    from pytest_physics.devices.nvml.memory import foreign_memory
    from pytest_physics.workloads.select import torch_name

    name, selector = torch_name(device), {"uuid": device.fingerprint.identity}
    # this process is another one than the probe's: what it holds is not there for the probe either
    return ProcessProber(cuda_model(model), device=name, foreign=lambda pid: foreign_memory(selector, {pid}), limit_s=300.0)


def cuda_model(name: str) -> ModelSpec:
    """A model to probe on a card: a directory, or a small shape whose limit is memory on every card, and reached within seconds.

    Attention takes operations with the square of the context. A vocabulary as large as Gemma's makes a token cost half a MiB, most of it
    logits, so that 140 GiB end near 250,000 tokens and not beyond a million; rotary positions need no table.
    """
    if name and os.path.isdir(name):  # noqa: PTH112 -- a name that may be a path
        return ModelSpec(name=os.path.basename(name.rstrip("/")), path=name, dtype="float16")  # noqa: PTH119 -- as above
    arguments = {
        "num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_key_value_heads": 12,
        "vocab_size": 2**18, "max_position_embeddings": 2**22, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    return ModelSpec(name="llama, 12 layers of width 768", model_type="llama", arguments=arguments, dtype="float16")


def tortured(device: Device, steps: Sequence[Step], *, expandable_segments: bool = False) -> Torture:
    """Run a pattern on an allocator that nothing else has used: a twin's, torch's on a card, or ``malloc``, in a fresh process.

    ``expandable_segments`` is torch's setting, in the process's environment or the twin's allocator; ``malloc`` has no such thing, and
    raises ``ChannelUnavailableError``.
    """
    kind = device.spec.kind
    if kind == "twin":
        assert isinstance(device, TwinDevice)  # noqa: S101 -- the kind says so
        allocator = TwinAllocator(device, expandable_segments=expandable_segments)
        try:
            return torture(allocator, steps)
        finally:
            allocator.empty_cache()
    if kind == "cpu" and expandable_segments:
        raise ChannelUnavailableError("a process's 'malloc' has no expandable segments; that is a setting of torch on CUDA.")
    setting = {"PYTORCH_ALLOC_CONF": EXPANDABLE, "PYTORCH_CUDA_ALLOC_CONF": EXPANDABLE} if expandable_segments else {}
    process = ProbeProcess(environment=setting)
    try:
        from pytest_physics.workloads.select import torch_name

        request = as_request(steps, device="cpu" if kind == "cpu" else torch_name(device))
        return torture_from(process.ask(request, limit_s=TORTURE_LIMIT_S))
    finally:
        process.close()
