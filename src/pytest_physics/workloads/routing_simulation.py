"""A sweep of routers over seeded gates on a thermal field of experts, all points of a router at once.

A *point* is a router, a λ and a gate. Each gate has a seed of its own, from which its parameters and all its batches follow: every point
of a gate sees the same data whatever else is simulated, so points are paired, and any subset can be run alone. Batch after batch, the
routers take their turn in a seeded order, each on that batch: whatever drifts does so for all of them.

Inputs and gate are those of the published experiment: x ~ N(0, 1) with an offset per sequence of 0.5·N(0, 1) on the first quarter of the
features and 0.3·N(0, 1) on the second; a linear gate with torch's default initialisation. The energy per slot that a router is told is the
field's present one, E_i(T): the same vector that the accountant uses.

It is a simulation of energy and temperature; the routers, their gradients and their choices are real.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pytest_physics.errors import ConfigurationError
from pytest_physics.workloads.libraries import import_torch, torch_threads
from pytest_physics.workloads.moe import PenalisedTopK, Router, Routing, largest_stable_step, router_named

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float64]


class Field(Protocol):
    """The experts' energy and temperature, for many independent points side by side; arrays have the shape (points, experts)."""

    def energies_j(self) -> FloatArray:
        """Present energy per slot, in joules."""

    def temperatures_c(self) -> FloatArray:
        """Present temperatures, in degrees Celsius."""

    def advance(self, slots: FloatArray) -> FloatArray:
        """Serve a batch of that many slots and return the energy that each expert took, in joules; temperatures follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One independent part of a sweep."""

    router: str
    per_joule: float
    """λ in 1/J per slot."""
    gate: int
    """Seed of the gate and of its data."""

    def __str__(self) -> str:
        return f"{self.router}@{self.per_joule:g}#{self.gate}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"bias to Gibbs@0.5#3"``."""
        router, at, rest = text.partition("@")
        per_joule, number, gate = rest.partition("#")
        try:
            if not (at and number):
                raise ValueError(text)  # noqa: TRY301 -- one message for every way to write it wrongly
            point = cls(router=router.strip(), per_joule=float(per_joule), gate=int(gate))
        except ValueError:
            raise ConfigurationError(f"a point is written as 'router@λ#gate', such as 'bias to Gibbs@0.5#3' (got {text!r}).") from None
        router_named(point.router)
        return point


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all points of a sweep share."""

    sequences: int = 8
    tokens: int = 64
    """Tokens per sequence."""
    features: int = 256
    experts: int = 8
    k: int = 2
    batches: int = 120
    block: int = 5
    """Batches that are summed into one row of the record."""
    seed: int = 0
    """Seed of the gates, together with each gate's own number."""

    def __post_init__(self) -> None:
        """Refuse what no router could serve, and blocks that would be cut."""
        if self.batches % self.block:
            raise ConfigurationError(f"'batches' must be a multiple of 'block' (got {self.batches} and {self.block}).")
        if not 1 <= self.k <= self.experts:
            raise ConfigurationError(f"k = {self.k} distinct experts per token need at least as many experts (got {self.experts}).")

    @property
    def blocks(self) -> int:
        """Rows of the record per point."""
        return self.batches // self.block

    @property
    def tokens_per_batch(self) -> int:
        """Tokens of one batch."""
        return self.sequences * self.tokens


class GateStream:
    """A seeded gate and its endless data."""

    def __init__(self, setting: Setting, gate: int) -> None:
        torch = import_torch()
        self.setting = setting
        self.generator = torch.Generator().manual_seed(1_000_003 * setting.seed + gate)
        bound = setting.features**-0.5
        self.weight = (2 * torch.rand(setting.experts, setting.features, generator=self.generator) - 1) * bound
        self.bias = (2 * torch.rand(setting.experts, generator=self.generator) - 1) * bound

    def next_batch(self) -> torch.Tensor:
        """Inputs of the shape (tokens, features)."""
        randn, s = import_torch().randn, self.setting
        quarter = s.features // 4
        x: torch.Tensor = randn(s.sequences, s.tokens, s.features, generator=self.generator)
        for position, scale in enumerate((0.5, 0.3)):
            offset = randn(s.sequences, 1, quarter, generator=self.generator)
            x[..., position * quarter : (position + 1) * quarter] += scale * offset
        return x.reshape(s.tokens_per_batch, s.features)


class Arm:
    """All points of one router: routed, trained, billed and recorded together."""

    def __init__(
        self, points: Sequence[Point], streams: Sequence[GateStream], setting: Setting, field: Field, *, gates: Sequence[int]
    ) -> None:
        torch = import_torch()
        self.points, self.setting, self.field = points, setting, field
        self.router: Router = router_named(points[0].router)(k=setting.k, per_joule=torch.tensor([p.per_joule for p in points]))
        self.index = torch.tensor([gates.index(p.gate) for p in points])
        self.weight = torch.stack([s.weight for s in streams])[self.index]
        self.bias = torch.stack([s.bias for s in streams])[self.index]
        self.initial = self._parameters()
        self.record = Blocks(len(points), setting)

    def step(self, batch: int, inputs: torch.Tensor, opinion: torch.Tensor, *, order: int) -> None:
        """Route one batch (gates, tokens, features), on which the untrained gates' logits are ``opinion``."""
        torch = import_torch()
        told_j, temperatures_c = self.field.energies_j(), self.field.temperatures_c()
        told = torch.tensor(told_j, dtype=torch.float32)
        reference = opinion[self.index]
        routing = self._trained(inputs, reference, told) if self.router.learning_rate else self.router.route(reference, told)
        slots = routing.loads.numpy()
        billed_j = self.field.advance(slots.astype(float))
        measured = torch.tensor(billed_j / np.maximum(slots, 1), dtype=torch.float32)
        self.router.observe(routing.loads, torch.where(routing.loads > 0, measured, told))
        self.record.add(
            batch, order=order, slots=slots, energy_j=billed_j, told_j=told_j, temperature_c=temperatures_c,
            regret=score_regret(reference, routing.chosen, self.setting.k), change=self._change(),
        )  # fmt: skip

    def _parameters(self) -> torch.Tensor:
        parameters: torch.Tensor = import_torch().cat([self.weight.flatten(1), self.bias], dim=1)
        return parameters

    def _change(self) -> FloatArray:
        """How far training has moved each gate's parameters, as a share of their norm."""
        found: FloatArray = ((self._parameters() - self.initial).norm(dim=1) / self.initial.norm(dim=1)).double().numpy()
        return found

    def _trained(self, inputs: torch.Tensor, reference: torch.Tensor, energies_j: torch.Tensor) -> Routing:
        """Route by the gate as it is now, then take one step of gradient descent on its parameters."""
        torch = import_torch()
        x = inputs[self.index]
        weight, bias = self.weight.requires_grad_(), self.bias.requires_grad_()
        logits = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
        routing = self.router.route(logits, energies_j)
        loss = self.router.loss(logits, routing, energies_j, reference)
        if loss is not None:
            gradients = torch.autograd.grad(loss.sum(), (weight, bias))  # points share nothing: the sum's gradient is each one's own
            self.weight, self.bias = ((p - self.router.learning_rate * g).detach() for p, g in zip((weight, bias), gradients, strict=True))
        return Routing(chosen=routing.chosen, weights=routing.weights.detach())

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """One row for each point and block of batches, points first."""
        blocks = self.setting.blocks
        return {
            "router": np.repeat([p.router for p in self.points], blocks),
            "per_joule": np.repeat([p.per_joule for p in self.points], blocks),
            "gate": np.repeat(np.array([p.gate for p in self.points], np.int32), blocks),
            **self.record.columns(),
        }


class Blocks:
    """What the points of an arm did, summed over blocks of batches."""

    def __init__(self, points: int, setting: Setting) -> None:
        self.setting = setting
        self.points = points
        shape = (points, setting.blocks)
        self.order = np.zeros(shape, np.int32)
        self.regret, self.total_j, self.largest_load = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int32)
        self.change = np.zeros(shape)
        self.slots = np.zeros((*shape, setting.experts), np.int32)
        self.energy_j, self.told_j, self.temperature_c = (np.zeros((*shape, setting.experts)) for _ in range(3))

    def add(
        self, batch: int, *, order: int, slots: NDArray[np.int64], energy_j: FloatArray, told_j: FloatArray, temperature_c: FloatArray,
        regret: FloatArray, change: FloatArray,
    ) -> None:  # fmt: skip
        """Add one batch."""
        block, first = divmod(batch, self.setting.block)
        if first == 0:
            self.order[:, block] = order
            self.temperature_c[:, block] = temperature_c
        self.slots[:, block] += slots.astype(np.int32)
        self.energy_j[:, block] += energy_j
        self.total_j[:, block] += energy_j.sum(-1)
        self.told_j[:, block] += told_j / self.setting.block
        self.regret[:, block] += regret / self.setting.block
        self.change[:, block] = change
        self.largest_load[:, block] = np.maximum(self.largest_load[:, block], slots.max(-1))

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """One row for each point and block, points first."""
        rows = self.points * self.setting.blocks
        columns: dict[str, NDArray[np.generic]] = {
            "block": np.tile(np.arange(self.setting.blocks, dtype=np.int32), self.points),
            "order": self.order.reshape(rows),
            "regret": self.regret.reshape(rows),
            "total_j": self.total_j.reshape(rows),
            "largest_load": self.largest_load.reshape(rows),
            "parameter_change": self.change.reshape(rows),
        }
        for e in range(self.setting.experts):
            columns[f"slots_{e}"] = self.slots[..., e].reshape(rows)
            columns[f"energy_j_{e}"] = self.energy_j[..., e].reshape(rows)
            columns[f"told_j_{e}"] = self.told_j[..., e].reshape(rows).astype(np.float32)
            columns[f"temperature_c_{e}"] = self.temperature_c[..., e].reshape(rows).astype(np.float32)
        return columns


def score_regret(opinion: torch.Tensor, chosen: torch.Tensor, k: int) -> FloatArray:
    """Sum of a token's k best logits minus that of its chosen ones, in nats per token: mean over tokens, shape (points,)."""
    best = opinion.topk(k, dim=-1).values.sum((-2, -1))
    found: FloatArray = ((best - (opinion * chosen).sum((-2, -1))) / opinion.shape[-2]).detach().double().numpy()
    return found


def simulate(points: Sequence[Point], setting: Setting, field_of: Callable[[int], Field]) -> dict[str, NDArray[np.generic]]:
    """Run every point through all batches; returns the columns of a table, a row for each point and block of batches.

    Parameters
    ----------
    points
        In any order; each at most once.
    setting
        What they share.
    field_of
        Makes the thermal field of so many points side by side.
    """
    if not points or len(set(points)) != len(points):
        raise ConfigurationError(f"a sweep needs points, each once (got {len(points)}, {len(set(points))} of them different).")
    gates = sorted({point.gate for point in points})
    with torch_threads(1):
        streams = [GateStream(setting, gate) for gate in gates]
        arms = []
        for name in dict.fromkeys(point.router for point in points):
            own = sorted((p for p in points if p.router == name), key=lambda p: (p.per_joule, p.gate))
            arms.append(Arm(own, streams, setting, field_of(len(own)), gates=gates))
        _interleaved(arms, streams, setting)
    parts = [arm.columns() for arm in arms]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _interleaved(arms: Sequence[Arm], streams: Sequence[GateStream], setting: Setting) -> None:
    torch = import_torch()
    turns = random.Random(setting.seed)  # noqa: S311 -- an order, not a secret
    weight, bias = torch.stack([s.weight for s in streams]), torch.stack([s.bias for s in streams])
    number = 0
    for batch in range(setting.batches):
        inputs = torch.stack([stream.next_batch() for stream in streams])
        opinion = torch.baddbmm(bias[:, None], inputs, weight.transpose(1, 2))
        for arm in turns.sample(list(arms), len(arms)):
            arm.step(batch, inputs, opinion, order=number)
            number += 1


def stable_steps(setting: Setting, gates: Sequence[int]) -> FloatArray:
    """Step below which test-time training is stable, for the first batch of each gate."""
    found = [float(largest_stable_step(GateStream(setting, gate).next_batch())) for gate in gates]
    return np.array(found)


def priced_slots(setting: Setting, *, gate: int, batch: int, per_joule: float, energies_j: Sequence[float]) -> list[int]:
    """Slots of each expert in one batch of a seeded gate, routed by a price on these energies per slot; the same tokens for every λ."""
    torch = import_torch()
    with torch_threads(1):
        stream = GateStream(setting, gate)
        inputs = [stream.next_batch() for _ in range(batch + 1)][-1]
        logits = inputs @ stream.weight.T + stream.bias
        routing = PenalisedTopK(k=setting.k, per_joule=per_joule).route(logits, torch.tensor(energies_j, dtype=torch.float32))
    return [int(n) for n in routing.loads]
