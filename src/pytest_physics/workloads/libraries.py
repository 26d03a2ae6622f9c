"""torch and transformers, loaded when a workload is built and not before.

Importing torch takes about a second and transformers two more; a run that measures something else must not pay them. Both are the
extra ``bench``; where they are missing, the error says how to get them.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

from pytest_physics.errors import ChannelUnavailableError, ConfigurationError, DeviceUnavailableError
from pytest_physics.workloads.base import is_out_of_memory

if TYPE_CHECKING:
    import torch


def import_torch() -> ModuleType:
    """``torch``, or a :class:`ConfigurationError` that says how to install it."""
    return _import("torch")


def import_transformers() -> ModuleType:
    """``transformers``, without network.

    ``HF_HUB_OFFLINE=1`` is set for this process unless the variable is set already. It is read once, at import. Models are built
    from configuration or from local files, so nothing needs the network; with it, files could be looked up on the Hub and a
    download could run beside the measurement.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return _import("transformers")


def import_peft() -> ModuleType:
    """``peft``, without network, as :func:`import_transformers`."""
    import_transformers()
    return _import("peft")


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"this workload needs {name}, which cannot be imported ({error}): nothing was measured. "
            "Install it with: pip install 'pytest-physics[bench]'"
        ) from error


_CUDA_TROUBLE = {
    "system not yet initialized": (
        "On a machine with NVSwitch, start the fabric manager of the driver's version ('systemctl start nvidia-fabricmanager'), or ask "
        "whoever runs the host."
    ),
    "busy or unavailable": (
        "The card is in exclusive or prohibited compute mode: end the other process, or have the mode set to default ('nvidia-smi -c 0')."
    ),
    "driver on your system is too old": "Update the driver, or install a build of torch for an older CUDA.",
    "unsupported display driver": (
        "The container's CUDA compatibility libraries and the driver do not fit: update the driver, or use an older image."
    ),
    "no kernel image": "This build of torch has no kernels for this card; install another (https://pytorch.org/get-started/locally).",
    "forked subprocess": (
        "A library that transformers imports has started CUDA before the probe (flash-attn, cutlass and deepspeed are known for it): "
        "update or uninstall it."
    ),
    "initialization error": "Something may have started CUDA in the parent process: a library that transformers imports.",
}
"""How CUDA's failures are worded, and what to do."""


def why_not_cuda(error: BaseException) -> str:
    """First line of what torch says, and what to do about it where that is known."""
    said = (str(error).splitlines() or [type(error).__name__])[0][:300]
    known = next((remedy for words, remedy in _CUDA_TROUBLE.items() if words in str(error)), "See whether 'nvidia-smi' works.")
    return f"{said.rstrip('.')}. {known}"


def torch_device(name: str) -> torch.device:
    """``"cpu"`` or ``"cuda:0"`` as a device on which kernels run; errors of :func:`visible_device`, or ``ChannelUnavailableError``."""
    device = visible_device(name)
    if device.type == "cuda":
        _require_kernels(import_torch(), device)
    return device


def visible_device(name: str) -> torch.device:
    """``"cpu"`` or ``"cuda:0"`` as a device that is really there, or :class:`DeviceUnavailableError`; nothing runs on it."""
    library = import_torch()
    try:
        device: torch.device = library.device(name)
    except RuntimeError as error:
        raise ConfigurationError(f"'device' must be like 'cpu' or 'cuda:0' (got {name!r}).") from error
    count = library.cuda.device_count() if device.type == "cuda" else 1
    if device.type not in {"cpu", "cuda"} or (device.index or 0) >= count:
        raise DeviceUnavailableError(
            f"torch {library.__version__} cannot run on '{name}' here ({library.cuda.device_count()} CUDA devices found). "
            "Use device='cpu', or install a CUDA build of torch and its driver."
        )
    return device


def _require_kernels(library: ModuleType, device: torch.device) -> None:
    """One small kernel, so that a card on which none runs is told here, and not by an experiment half done."""
    try:
        library.zeros(1, device=device).add_(1).item()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ChannelUnavailableError(f"torch {library.__version__} cannot run on '{device}': {why_not_cuda(error)}") from None


def torch_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """``"float32"``, ``"bfloat16"``, … or a ``torch.dtype``; only floating-point types."""
    library = import_torch()
    found = getattr(library, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, library.dtype) or not found.is_floating_point:
        raise ConfigurationError(f"'dtype' must be a floating-point type such as 'float32' or 'bfloat16' (got {dtype!r}).")
    chosen: torch.dtype = found
    return chosen


def default_threads() -> int:
    """Cores of this process minus one, at least one.

    With as many threads as cores, one foreign process on one core makes every parallel region wait for the preempted partner: the
    same loop was measured at 16 s instead of 0.9 s. The core left free also serves the sampler.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores - 1)


def chosen_threads(threads: int | None, device: torch.device) -> int:
    """Threads asked for; else :func:`default_threads` on a CPU, and what torch has where the CPU only launches kernels."""
    if threads is None:
        return default_threads() if device.type == "cpu" else int(import_torch().get_num_threads())
    if threads < 1:
        raise ConfigurationError(f"'threads' must be >= 1 (got {threads}).")
    return threads


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Run the body with ``threads`` intra-op threads, then put the process's setting back.

    The setting is global to the process. Restoring it after each phase means that a workload neither changes what the user's
    other code does nor depends on what that code set meanwhile.
    """
    torch = import_torch()
    before = torch.get_num_threads()
    if before == threads:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def same_bits(device: torch.device) -> Iterator[None]:
    """Run the body so that equal work gives equal bits; on a CPU it does anyway.

    On CUDA the backward pass of fused attention adds in whatever order its blocks end, so plain attention is taken, and of every other
    operation the deterministic kernel where there is one. What the process had set comes back afterwards, but for the variable by which
    cuBLAS has a fixed workspace: it is read once. Reference: torch's note on reproducibility.
    """
    torch = import_torch()
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    attention = importlib.import_module("torch.nn.attention")
    try:
        with warnings.catch_warnings(), attention.sdpa_kernel(attention.SDPBackend.MATH):
            warnings.filterwarnings("ignore", message=".*deterministic")  # an operation that has no such kernel is no error
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


def wait_for(device: torch.device) -> None:
    """Return when all work queued on ``device`` has ended; a CPU has no queue."""
    if device.type == "cuda":
        import_torch().cuda.synchronize(device)


def describe_device(device: torch.device) -> str:
    """Device name with what it is: ``cuda:0 (NVIDIA …)``."""
    if device.type == "cuda":
        return f"{device} ({import_torch().cuda.get_device_name(device)})"
    return str(device)
