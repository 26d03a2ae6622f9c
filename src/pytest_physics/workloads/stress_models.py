"""Models for the stress study, and how many operations and bytes their phases take.

The study needs a decode of at least a second and weights that no cache holds, so its models are larger than those of a quick sweep:
GPT-2 XL on a twin (1.6 billion parameters, 3.1 GB), a GPT-2 Large with 4,096 positions on a GPU, and on a CPU four layers of width 512
(17 million parameters in products, 67 MB in single precision). Weights are seeded and not trained: time and traffic are those of
trained ones.

Counts, for a pass over new tokens: ``2·N`` operations per token for N weights that take part in a product, ``4·L·d`` per token of context
for attention; weights once per pass, key-value cache once per token of context and sequence. Activations are not counted: they are small
beside both, and stay in caches. Embedded positions take part in no product and are left out of N on a real model.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_physics.devices.base import Device
from pytest_physics.devices.twin import TwinDevice
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.workloads.base import Workload
from pytest_physics.workloads.language_model import LanguageModel
from pytest_physics.workloads.libraries import import_transformers
from pytest_physics.workloads.select import torch_name
from pytest_physics.workloads.twin import ModelShape, TwinLanguageModel

TWIN_SHAPE = ModelShape(parameters=1_557_611_200, layers=48, width=1600)
"""GPT-2 XL."""
CONFIGURATIONS = {
    "cpu": {"n_layer": 4, "n_embd": 512, "n_head": 8, "vocab_size": 8192, "n_positions": 4096},
    "nvml": {"n_layer": 36, "n_embd": 1280, "n_head": 20, "n_positions": 4096},
}
"""Arguments of ``GPT2Config``, by kind of device."""


def stress_model_for(device: Device) -> Workload:
    """The model of the study on ``device``; raises ``ChannelUnavailableError`` for a recording, on which nothing can be run."""
    kind = device.spec.kind
    if isinstance(device, TwinDevice):
        return TwinLanguageModel(device, shape=TWIN_SHAPE)
    if kind not in CONFIGURATIONS:
        raise ChannelUnavailableError(f"nothing can be run on a '{kind}' device; use it to analyse what it recorded.")
    arguments = CONFIGURATIONS[kind] | {"bos_token_id": 0, "eos_token_id": 0}
    configuration = import_transformers().GPT2Config(**arguments)
    return LanguageModel(configuration) if kind == "cpu" else LanguageModel(configuration, device=torch_name(device), dtype="float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What one call of a phase takes."""

    flop: float
    memory_bytes: float


def traffic_of(workload: Workload, phase: str, *, batch: int, context: int, tokens: int) -> Traffic:
    """Operations and bytes of ``prefill`` (of ``context`` tokens) or ``decode`` (of ``tokens`` after ``context``).

    Raises ``ChannelUnavailableError`` for a workload whose sizes are not known here.
    """
    shape = _shape_of(workload)
    passes, new = (1, context) if phase == "prefill" else (tokens, tokens)
    before = 0 if phase == "prefill" else context
    seen = batch * (new * before + new * (new + 1) / 2)
    # a prefill writes its cache once; attention inside one pass reads it from where it was made
    cached_tokens = batch * context if phase == "prefill" else seen
    return Traffic(
        flop=2.0 * shape.parameters * batch * new + 4.0 * shape.layers * shape.width * seen,
        memory_bytes=passes * shape.weight_bytes + cached_tokens * shape.cache_bytes_per_token,
    )


def _shape_of(workload: Workload) -> ModelShape:
    if isinstance(workload, TwinLanguageModel):
        return workload.shape
    if isinstance(workload, LanguageModel) and workload.model.config.model_type == "gpt2":
        config = workload.model.config
        positions = config.n_positions * config.n_embd
        return ModelShape(
            parameters=workload.parameters - positions, layers=config.n_layer, width=config.n_embd,
            context_limit=config.n_positions, bytes_per_number=workload.dtype.itemsize,
        )  # fmt: skip
    raise ChannelUnavailableError(f"operations and bytes of a {type(workload).__name__} are not known; use a GPT-2 shape.")
