"""The workload that fits a device: a twin gets simulated work in its own virtual time, hardware gets torch."""

from __future__ import annotations

import os

from pytest_physics.devices.base import Device
from pytest_physics.errors import ArmNotTestedError, ChannelUnavailableError
from pytest_physics.workloads.base import Kernel, Workload, is_out_of_memory

SOAK_MATRIX = 8192
"""Side of the matrices of the heat-soak load on a GPU: large enough to fill any of them."""

EXPERT_MATRIX = 1024
"""Side of the matrices that stand for the work of one expert on a GPU."""
EXPERT_INTENSITY = 0.4
"""Intensity of the same on a twin."""


def language_model_for(device: Device, shape: str = "small") -> Workload:
    """A language model on ``device``; ``shape`` is a name or a local path, and does not apply to a twin, which models GPT-2 124M.

    Raises ``ChannelUnavailableError`` for a recording, on which nothing can be run; ``ArmNotTestedError`` for a model that does not fit.
    """
    try:
        return _language_model(device, shape)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ArmNotTestedError(
            f"the model '{shape}' does not fit on {device.fingerprint.name}: {str(error).splitlines()[0]} Choose a smaller one with "
            "'experiment.model', or a device with more memory."
        ) from None


def _language_model(device: Device, shape: str) -> Workload:
    kind = device.spec.kind
    if kind == "twin":
        from pytest_physics.devices.twin import TwinDevice
        from pytest_physics.workloads.twin import TwinLanguageModel

        assert isinstance(device, TwinDevice)  # noqa: S101 -- the kind says so
        return TwinLanguageModel(device)
    from pytest_physics.workloads.language_model import LanguageModel

    if kind == "cpu":
        return LanguageModel(shape)
    return LanguageModel(shape, device=torch_name(device), dtype="float16")


def steady_load_for(device: Device) -> Kernel:
    """A constant load for heat soaks and response tests; raises ``ChannelUnavailableError`` for a recording."""
    kind = device.spec.kind
    if kind == "twin":
        from pytest_physics.devices.twin import TwinDevice
        from pytest_physics.workloads.twin import TwinKernel

        assert isinstance(device, TwinDevice)  # noqa: S101 -- the kind says so
        return TwinKernel(device)
    from pytest_physics.workloads.matmul import MatmulLoad

    if kind == "cpu":
        return MatmulLoad()
    return MatmulLoad(SOAK_MATRIX, device=torch_name(device), dtype="float16")


def expert_load_for(device: Device) -> Kernel:
    """A constant load well below the power limit, as one expert's small products are: a capped device tells nothing about tokens."""
    kind = device.spec.kind
    if kind == "twin":
        from pytest_physics.devices.twin import TwinDevice, TwinLoad
        from pytest_physics.workloads.twin import TwinKernel

        assert isinstance(device, TwinDevice)  # noqa: S101 -- the kind says so
        return TwinKernel(device, load=TwinLoad(intensity=EXPERT_INTENSITY))
    from pytest_physics.workloads.matmul import MatmulLoad

    if kind == "cpu":
        return MatmulLoad()
    return MatmulLoad(EXPERT_MATRIX, device=torch_name(device), dtype="float16")


def torch_name(device: Device) -> str:
    """Torch's name of an NVML device, matched by UUID: the two number their cards differently."""
    if device.spec.kind != "nvml":
        raise ChannelUnavailableError(f"nothing can be run on a '{device.spec.kind}' device; use it to analyse what it recorded.")
    from pytest_physics.workloads.libraries import import_torch, why_not_cuda

    torch = import_torch()
    card = f"the GPU {device.fingerprint.name} ({device.fingerprint.identity})"
    try:
        found = [_bare(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]
    except AttributeError:
        raise ChannelUnavailableError(
            f"torch {torch.__version__} does not tell which of its devices is {card}; install torch 2.5 or newer."
        ) from None
    except (RuntimeError, Warning) as error:  # a test suite may have made errors of warnings
        raise ChannelUnavailableError(f"torch {torch.__version__} cannot start CUDA on {card}: {why_not_cuda(error)}") from None
    if _bare(device.fingerprint.identity) in found:
        return f"cuda:{found.index(_bare(device.fingerprint.identity))}"
    driver = device.fingerprint.details
    fits = (
        f"that fits driver {driver.get('driver')} (CUDA {driver.get('cuda_driver')} or older; see https://pytorch.org/get-started/locally)"
    )
    built = torch.version.cuda
    if built is None:
        raise ChannelUnavailableError(
            f"torch cannot use {card}: torch {torch.__version__} is built without CUDA. Install a CUDA build of torch {fits}."
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    raise ChannelUnavailableError(
        f"torch cannot use {card}: it sees {len(found)} CUDA devices, and this is none of them. "
        + (f"CUDA_VISIBLE_DEVICES is '{visible}': name the card there. " if visible is not None else "")
        + f"Install a CUDA build of torch {fits}; this one is for CUDA {built}."
    )


def _bare(uuid: object) -> str:
    """NVML writes "GPU-…", torch the digits alone."""
    return str(uuid).removeprefix("GPU-").lower()
