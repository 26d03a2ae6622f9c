"""What a transformer takes of a twin's memory, and how long its pass lasts: laws that the twin obeys exactly.

Peak of a prefill of ``B`` sequences of ``T`` tokens, each piece rounded up to the 2 MiB in which PyTorch's caching allocator takes large
blocks: weights; key and value of each layer; activations and logits, ``B·T·(16·width·b + vocabulary·(b + 4))`` (logits once in the
model's type and once in single precision, which is what makes TR127's 0.75–1.16 MB per token); with eager attention scores and their
softmax in single precision, ``B·heads·T²·(b + 4)``; and a workspace of 32 MiB. Time is a roofline (see
:mod:`pytest_physics.workloads.twin`).

The factors are *assumed*: they make plausible memory and are no statement about a library. Rounding makes the true bytes a staircase,
which no smooth fit follows exactly, as on a real card.
"""

from __future__ import annotations

from pytest_physics.devices.twin.presets import Card
from pytest_physics.metrology.memory import LARGEST_CONTEXT, ModelSizes, place

BLOCK = 2 * 2**20
WORKSPACE_BYTES = 32 * 2**20
ACTIVATION_COPIES = 16
"""Buffers of the model's width alive at once."""
COMPUTE_EFFICIENCY = 0.45
MEMORY_EFFICIENCY = 0.75


def rounded(n_bytes: int) -> int:
    """``n_bytes`` in whole blocks."""
    return -(-n_bytes // BLOCK) * BLOCK


def true_peak_bytes(sizes: ModelSizes, *, batch: int, context: int, eager: bool) -> int:
    """Peak of one prefill on a twin."""
    tokens, b = batch * context, sizes.bytes_per_number
    cache = 2 * sizes.layers * rounded(tokens * sizes.kv_heads * sizes.head_dim * b)
    activations = rounded(tokens * (ACTIVATION_COPIES * sizes.width * b + sizes.vocabulary * (b + 4)))
    scores = rounded(batch * sizes.heads * context**2 * (b + 4)) if eager else 0
    return rounded(sizes.weight_bytes) + cache + activations + scores + WORKSPACE_BYTES


def rounding_bytes(sizes: ModelSizes) -> int:
    """Step of the staircase: key and value of all layers grow by a block at the same time."""
    return (2 * sizes.layers + 2) * BLOCK


def true_seconds(sizes: ModelSizes, card: Card, *, batch: int, context: int) -> float:
    """Time of one prefill at the reference clock, all memory on the card."""
    tokens = batch * context
    flop = 2.0 * sizes.parameters * tokens + 2.0 * sizes.layers * sizes.width * tokens * (context + 1)
    moved = sizes.weight_bytes + sizes.kv_bytes(batch=batch, context=context)
    return max(flop / (COMPUTE_EFFICIENCY * card.peak_flop_per_s), moved / (MEMORY_EFFICIENCY * card.memory_bytes_per_s))


def true_limit(sizes: ModelSizes, capacity_bytes: int, *, axis: str, other: int, eager: bool) -> int:
    """Largest context (or batch) that fits the capacity and the architecture; 0 where none does."""

    def fits(x: int) -> bool:
        at = {name: int(value) for name, value in place(x, axis=axis, other=other).items()}
        positions = sizes.max_positions is None or at["context"] <= sizes.max_positions
        return positions and true_peak_bytes(sizes, batch=at["batch"], context=at["context"], eager=eager) <= capacity_bytes

    low, high = 0, LARGEST_CONTEXT
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
