"""One forward pass of a causal language model in a process of its own, under a memory limit: whether it fits, and what it takes.

``python -m pytest_physics.workloads.memory_probe`` reads one JSON request per line and answers one JSON line. torch, transformers and the
model's own module are imported once; each request then runs in a *forked* child that has run no operation before, so every probe starts
from the same address space and a failed allocation poisons nobody. In one long-lived process the same limit was found 3 to 45 % lower, and
never twice at the same place.

On a CPU the limit is ``RLIMIT_AS``: the address space after libraries and a first tiny pass, plus the capacity. The child learns of it as
torch's "can't allocate memory". Peak is ``VmPeak`` above that base; glibc is told to map every block of 64 KiB and more by itself
(``MALLOC_MMAP_THRESHOLD_``), so that freed blocks leave the address space and the peak is that of the tensors. On CUDA the limit is the
card: capacity is what the driver calls free once the context exists, peak is torch's ``max_memory_allocated``.

A child that outlives its time limit is killed, with its process group; so is one whose parent is gone (``PR_SET_PDEATHSIG``). One that the
system kills for its memory (a cgroup's limit) is reported as KILLED too, with its signal.
Reference: `fleet` study, §4.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_physics.errors import ChannelUnavailableError, ConfigurationError, PhysicsError
from pytest_physics.workloads.libraries import import_torch, import_transformers, torch_device, torch_dtype, wait_for

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

OUT_OF_MEMORY_WORDS = (
    "can't allocate memory", "out of memory", "Cannot allocate memory", "bad_alloc", "could not create a primitive", "STATUS_ALLOC_FAILED",
)  # fmt: skip
"""How torch, CUDA, the C library, libstdc++, oneDNN, and CUDA's libraries (cuBLAS, cuDNN) say that an allocation failed."""
WARM_UP_TOKENS = 16
SMALLEST: Mapping[str, int] = {"num_hidden_layers": 1, "max_position_embeddings": 64, "vocab_size": 256}
"""What a model is cut down to for the first pass, which loads kernels and their tables."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A causal language model of transformers: a configuration, or a directory that ``save_pretrained`` wrote."""

    name: str
    model_type: str = ""
    """As transformers calls it: "gpt2", "llama", "qwen2"; empty with a path."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of its configuration."""
    path: str = ""
    dtype: str = "float32"
    attention: str = "sdpa"
    """Attention implementation: "sdpa" or "eager"."""

    def __post_init__(self) -> None:
        """One source of the shape, not two."""
        if bool(self.model_type) == bool(self.path):
            raise ConfigurationError(f"model '{self.name}' needs a 'model_type' or a 'path', and not both.")

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return {
            "name": self.name, "model_type": self.model_type, "arguments": dict(self.arguments), "path": self.path,
            "dtype": self.dtype, "attention": self.attention,
        }  # fmt: skip

    def config(self) -> PreTrainedConfig:
        """Configuration, from its arguments or its directory; never from the network."""
        transformers = import_transformers()
        if self.path and not Path(self.path).is_dir():
            raise ConfigurationError(
                f"model '{self.name}': there is no directory '{self.path}'; save the model there with save_pretrained."
            )
        try:
            if self.path:
                found: PreTrainedConfig = transformers.AutoConfig.from_pretrained(self.path, local_files_only=True)
            else:
                found = transformers.AutoConfig.for_model(self.model_type, **self.arguments)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(f"model '{self.name}' has no usable configuration: {error}") from None
        return found


def sizes_of(config: PreTrainedConfig, parameters: int, bytes_per_number: int) -> dict[str, int | None]:
    """Fields of :class:`~pytest_physics.metrology.memory.ModelSizes` of a configuration."""
    heads = int(config.num_attention_heads)
    positions = getattr(config, "max_position_embeddings", None)
    return {
        "layers": int(config.num_hidden_layers), "heads": heads, "kv_heads": int(getattr(config, "num_key_value_heads", None) or heads),
        "head_dim": int(getattr(config, "head_dim", None) or config.hidden_size // heads), "width": int(config.hidden_size),
        "vocabulary": int(config.vocab_size), "parameters": parameters, "bytes_per_number": bytes_per_number,
        "max_positions": int(positions) if positions else None,
    }  # fmt: skip


# --- inside the child ---------------------------------------------------------------------------------------------------


def describe(request: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of a model, from weights that are never made (torch's ``meta`` device)."""
    torch = import_torch()
    spec = ModelSpec(**request["model"])
    config, dtype = spec.config(), torch_dtype(spec.dtype)
    with torch.device("meta"):
        model = _build(spec, config, dtype, from_weights=False)
    parameters = sum(p.numel() for p in model.parameters())
    found: dict[str, Any] = {"sizes": sizes_of(config, parameters, dtype.itemsize), "torch": str(torch.__version__)}
    if torch.device(request.get("device", "cpu")).type == "cuda":
        found["capacity_bytes"] = int(torch.cuda.mem_get_info(torch_device(request["device"]))[0])
    return found


def probe(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run one pass and say how it ended: ``outcome``, ``message``, and ``peak_bytes``, ``seconds``, ``capacity_bytes`` where known."""
    torch = import_torch()
    spec, device = ModelSpec(**request["model"]), torch.device(request["device"])
    torch.set_num_threads(1)
    config = spec.config()
    meter: CudaMeter | AddressSpaceMeter | None = None
    try:
        _first_pass(spec, device)
        meter = CudaMeter(device) if device.type == "cuda" else AddressSpaceMeter(request["capacity_bytes"])
        seconds = _pass(spec, config, device, request["batch"], request["context"])
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY_WORDS):
            raise
        message = (str(error).splitlines() or ["MemoryError"])[0][:300]
        return {"outcome": "OUT_OF_MEMORY", "message": message, **(meter.read() if meter else {})}
    return {"outcome": "FITS", "message": "", "seconds": seconds, **meter.read()}


def hang(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Never answer: what a time limit is tested with."""
    while True:
        time.sleep(1.0)


def fill(request: Mapping[str, Any]) -> dict[str, Any]:
    """Touch ``fill_bytes`` of memory: what a cgroup's limit is tested with."""
    block = bytearray(request["fill_bytes"])
    block[::4096] = b"x" * len(block[::4096])
    return {"outcome": "FITS", "message": f"{len(block)} bytes"}


def _torture(request: Mapping[str, Any]) -> dict[str, Any]:
    from pytest_physics.workloads.allocator import torture_in_process

    return torture_in_process(request)


ACTIONS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "probe": probe,
    "describe": describe,
    "hang": hang,
    "fill": fill,
    "torture": _torture,
}
"""What a request may ask for."""


class AddressSpaceMeter:
    """Address space above what was there at the start, limited to a capacity."""

    def __init__(self, capacity_bytes: int) -> None:
        import resource

        self.base_bytes = status_bytes("VmSize")
        self.capacity_bytes = capacity_bytes
        limit = self.base_bytes + capacity_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def read(self) -> dict[str, int]:
        """Peak and capacity."""
        return {"peak_bytes": status_bytes("VmPeak") - self.base_bytes, "capacity_bytes": self.capacity_bytes}


class CudaMeter:
    """What torch takes of a card that has ``capacity_bytes`` to give once its context exists.

    The first pass leaves torch a few MiB that it does not give back (workspaces of cuBLAS): they are a part of every peak that torch tells,
    so they are a part of the capacity too.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = import_torch().cuda
        self._device = device
        self._cuda.empty_cache()
        self.capacity_bytes = int(self._cuda.mem_get_info(device)[0]) + int(self._cuda.memory_reserved(device))
        self._cuda.reset_peak_memory_stats(device)

    def read(self) -> dict[str, int]:
        """Peak (allocated, and reserved for comparison) and capacity."""
        return {
            "peak_bytes": int(self._cuda.max_memory_allocated(self._device)),
            "reserved_bytes": int(self._cuda.max_memory_reserved(self._device)),
            "capacity_bytes": self.capacity_bytes,
        }


def status_bytes(name: str) -> int:
    """A size of this process from ``/proc/self/status``, in bytes."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 -- hot and tiny
        for line in status:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    raise ConfigurationError(f"/proc/self/status has no '{name}': the address space cannot be measured on this system.")


def _build(
    spec: ModelSpec, config: PreTrainedConfig, dtype: torch.dtype, *, from_weights: bool, on: torch.device | None = None
) -> PreTrainedModel:
    """The model; random weights are drawn on the card itself, which takes no time: a host core would need some seconds for each probe."""
    auto = import_transformers().AutoModelForCausalLM
    if from_weights and spec.path:
        model: PreTrainedModel = auto.from_pretrained(spec.path, local_files_only=True, dtype=dtype, attn_implementation=spec.attention)
    else:
        with on if on is not None and on.type == "cuda" else contextlib.nullcontext():
            model = auto.from_config(config, dtype=dtype, attn_implementation=spec.attention)
    import_torch().nn.Module.eval(model)
    return model


def _first_pass(spec: ModelSpec, device: torch.device) -> None:
    """A tiny model of the same kind, once: kernels and their tables are no part of what is measured."""
    config = spec.config()
    for name, value in SMALLEST.items():
        with contextlib.suppress(AttributeError):
            setattr(config, name, min(value, getattr(config, name) or value))
    _reset_tokens(config)
    _run(_build(spec, config, torch_dtype(spec.dtype), from_weights=False, on=device), device, 1, WARM_UP_TOKENS)


def _reset_tokens(config: PreTrainedConfig) -> None:
    """Special tokens must lie inside a smaller vocabulary."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(config, name, None) is not None:
            setattr(config, name, 0)


def _pass(spec: ModelSpec, config: PreTrainedConfig, device: torch.device, batch: int, context: int) -> float:
    torch = import_torch()
    torch.manual_seed(0)
    return _run(_build(spec, config, torch_dtype(spec.dtype), from_weights=True, on=device), device, batch, context)


def _run(model: PreTrainedModel, device: torch.device, batch: int, context: int) -> float:
    torch = import_torch()
    torch.nn.Module.to(model, device=device)
    tokens = torch.zeros((batch, context), dtype=torch.long, device=device)
    wait_for(device)  # the weights' way to the card is no part of the pass
    started_ns = time.perf_counter_ns()
    with torch.inference_mode():
        model(input_ids=tokens, use_cache=True)
        wait_for(device)
    return (time.perf_counter_ns() - started_ns) / 1e9


# --- the server ---------------------------------------------------------------------------------------------------------


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run one request in a forked child, for at most ``limit_s`` seconds."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _child(request, write_end)
    os.close(write_end)
    try:
        text, timed_out = _read_until(read_end, time.monotonic() + float(request.get("limit_s", 60.0)))
    finally:
        os.close(read_end)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return _ending(request, text, timed_out=timed_out, status=status)


def _ending(request: Mapping[str, Any], text: bytes, *, timed_out: bool, status: int) -> dict[str, Any]:
    if text and not timed_out:
        with contextlib.suppress(ValueError):
            out: dict[str, Any] = json.loads(text)
            return out
    if timed_out:
        return {"outcome": "KILLED", "message": f"it was still running after its time limit of {request.get('limit_s', 60.0):g} s"}
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    word = f"signal {number} ({signal.Signals(number).name})" if number else f"exit status {os.waitstatus_to_exitcode(status)}"
    why = "; the system kills like this where a memory limit that cannot be caught is reached" if number == signal.SIGKILL else ""
    return {"outcome": "KILLED", "message": f"it ended by {word} without an answer{why}", "signal": number}


def _child(request: Mapping[str, Any], write_end: int) -> None:
    """Answer through the pipe and leave, whatever happens: nothing of the server may run in the child."""
    os.setpgid(0, 0)
    die_with_parent()
    try:
        reply = ACTIONS[request["action"]](request)
    except PhysicsError as error:
        reply = {"outcome": "ERROR", "message": str(error), "not_tested": isinstance(error, ChannelUnavailableError)}
    except BaseException as error:  # noqa: BLE001 -- it must reach the caller, and this process must end here
        reply = {"outcome": "ERROR", "message": f"{type(error).__name__}: {error}"[:500]}
    try:
        os.write(write_end, json.dumps(reply).encode())
    finally:
        os._exit(0)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends (Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _read_until(descriptor: int, deadline_s: float) -> tuple[bytes, bool]:
    """Everything written until the other end closed; whether the deadline came first."""
    parts: list[bytes] = []
    while True:
        remaining_s = deadline_s - time.monotonic()
        ready, _, _ = select.select([descriptor], [], [], max(0.0, remaining_s))
        if not ready:
            return b"".join(parts), True
        part = os.read(descriptor, 1 << 16)
        if not part:
            return b"".join(parts), False
        parts.append(part)


def preload(model: Mapping[str, Any] | None) -> None:
    """Import what every probe of a model needs, and run nothing; without a model, nothing is needed."""
    if model:
        import_torch().set_num_threads(1)
        transformers, spec = import_transformers(), ModelSpec(**model)
        with contextlib.suppress(PhysicsError, KeyError):  # what is wrong with a model is said by its first probe
            transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING[type(spec.config())]


def main() -> None:
    """Serve requests until standard input ends."""
    die_with_parent()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    first = sys.stdin.readline()
    if not first:
        return
    try:
        preload(json.loads(first).get("model"))
        ready: dict[str, Any] = {"ready": True}
    except PhysicsError as error:
        ready = {"ready": False, "message": str(error)}
    replies.write(json.dumps(ready) + "\n")
    replies.flush()
    for line in sys.stdin:
        replies.write(json.dumps(answer(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
