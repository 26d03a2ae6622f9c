"""Mixture-of-experts layers and a small language model as torch modules.

The one place that derives from torch's classes, and so imports torch when it is loaded: import it inside a function, after
:func:`~pytest_physics.workloads.libraries.import_torch` has said what to do where torch is missing.

:class:`MoELayer` runs each expert on its own tokens only, whatever router it is given; :class:`MoELanguageModel` is a decoder of one
block (attention, then the layer), small enough to train within seconds on a CPU and large enough that its experts matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from pytest_physics.errors import ConfigurationError
from pytest_physics.workloads.moe import Router, Routing, within_capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What the last batch of a layer did."""

    inputs: torch.Tensor
    """Inputs of the gate, (tokens, features), without gradient."""
    logits: torch.Tensor
    routing: Routing
    dropped: int
    """Slots without room in their expert."""


class MoELayer(nn.Module):
    """Top-k experts behind a linear gate: y = Σ w_e·expert_e(x) over the chosen experts.

    Parameters
    ----------
    features, hidden, experts
        Width of the input, of each expert's hidden layer, and their number.
    router
        Who chooses; its state belongs to this layer.
    energies_j
        Energy per slot of each expert, in joules, as the router is told it; :meth:`tell` changes it.
    capacity_factor
        Slots of an expert per mean load; what does not fit is dropped and counted. None drops nothing.
    """

    energies_j: torch.Tensor

    def __init__(
        self, features: int, hidden: int, experts: int, *, router: Router, energies_j: torch.Tensor, capacity_factor: float | None = None
    ) -> None:
        super().__init__()
        if router.k > experts:
            raise ConfigurationError(f"k = {router.k} distinct experts per token need at least as many experts (got {experts}).")
        if capacity_factor is not None and not capacity_factor >= 1:
            raise ConfigurationError(f"'capacity_factor' must be >= 1 (got {capacity_factor}): below 1 even balanced experts drop tokens.")
        self.gate = nn.Linear(features, experts)
        self.into = nn.Parameter(torch.randn(experts, features, hidden) * features**-0.5)
        self.out = nn.Parameter(torch.randn(experts, hidden, features) * hidden**-0.5)
        self.router = router
        self.capacity_factor = capacity_factor
        self.register_buffer("energies_j", energies_j.clone())
        self.traffic: Traffic | None = None

    def tell(self, energies_j: torch.Tensor) -> None:
        """New energies per slot, in joules, as measured."""
        self.energies_j.copy_(energies_j)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Answer for (…, features)."""
        flat = x.reshape(-1, x.shape[-1])
        logits = self.gate(flat)
        routing = self.router.route(logits, self.energies_j)
        kept = routing.chosen
        if self.capacity_factor is not None:
            kept = within_capacity(kept, logits.detach(), k=self.router.k, capacity_factor=self.capacity_factor)
        answer = torch.zeros_like(flat)
        for expert in range(kept.shape[-1]):
            tokens = kept[:, expert].nonzero()[:, 0]
            if len(tokens):
                hidden = functional.gelu(flat[tokens] @ self.into[expert])
                answer = answer.index_add(0, tokens, routing.weights[tokens, expert, None] * (hidden @ self.out[expert]))
        dropped = int(routing.chosen.sum() - kept.sum())
        self.traffic = Traffic(inputs=flat.detach(), logits=logits, routing=Routing(chosen=kept, weights=routing.weights), dropped=dropped)
        return answer.reshape(x.shape)

    def auxiliary_loss(self) -> torch.Tensor:
        """The router's own loss on the last batch; 0 where it has none."""
        if self.traffic is None:
            raise ConfigurationError("a layer has a loss only after a batch: call it first.")
        logits = self.traffic.logits
        loss = self.router.loss(logits, self.traffic.routing, self.energies_j, logits.detach())
        return logits.new_zeros(()) if loss is None else loss


class MoELanguageModel(nn.Module):
    """Next-token logits from one block: causal attention with one head, then a mixture of experts, both with residuals."""

    def __init__(self, *, symbols: int, features: int, context: int, layer: MoELayer) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, features)
        self.position = nn.Parameter(torch.randn(context, features) * 0.02)
        self.query_key_value = nn.Linear(features, 3 * features)
        self.mixed = nn.Linear(features, features)
        self.before, self.between, self.after = (nn.LayerNorm(features) for _ in range(3))
        self.layer = layer
        self.head = nn.Linear(features, symbols)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (sequences, length, symbols) for tokens (sequences, length)."""
        x = self.embedding(tokens) + self.position[: tokens.shape[1]]
        query, key, value = self.query_key_value(self.before(x)).chunk(3, dim=-1)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        x = x + self.mixed(scores.masked_fill(future, -math.inf).softmax(-1) @ value)
        x = x + self.layer(self.between(x))
        logits: torch.Tensor = self.head(self.after(x))
        return logits

    def loss(self, tokens: torch.Tensor) -> torch.Tensor:
        """Mean negative log-likelihood of each next token, in nats."""
        logits = self(tokens[:, :-1])
        return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1))
