"""Train small mixture-of-experts language models under several routers, and measure loss, loads and energy on held-out text.

The text has a known law: each sequence follows one of several Markov chains, drawn at random, with seeded transition matrices; its first
symbol says which. So the next token depends on the last one and on the first, experts have something to divide among them, and the entropy
rate of the chains is a lower bound of any loss.

Models of one seed share their initial parameters and their text, so they are paired: only router and λ differ. Test-time training needs no
training run of its own: it starts from the model without control and moves the gate while it serves the held-out text. Expert choice is
left out, because it looks at later tokens, which a language model must not.

Energies are the thermal field's; losses are measured.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_physics.errors import ConfigurationError
from pytest_physics.workloads.libraries import import_torch, torch_threads
from pytest_physics.workloads.moe import (
    AuxiliaryLoss,
    BiasToGibbs,
    PenalisedTopK,
    Router,
    TestTimeTraining,
    largest_stable_step,
    router_named,
)
from pytest_physics.workloads.routing_simulation import Blocks, Field, Point, Setting, score_regret

if TYPE_CHECKING:
    import torch

    from pytest_physics.workloads.moe_modules import MoELanguageModel

TRAINED: tuple[type[Router], ...] = (PenalisedTopK, AuxiliaryLoss, BiasToGibbs, TestTimeTraining)
"""Routers of the language model."""
AUXILIARY_ALPHA = 0.02
"""Weight of the auxiliary loss beside the loss of the text; 0.01 is usual, at many more steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSetting:
    """Size of the models, of their text, and of their training."""

    symbols: int = 24
    chains: int = 6
    sequences: int = 4
    length: int = 32
    """Tokens of a sequence that are predicted."""
    features: int = 32
    hidden: int = 48
    experts: int = 8
    k: int = 2
    steps: int = 40
    learning_rate: float = 5e-3
    validation_batches: int = 12
    block: int = 1
    """Validation batches that share a row of the record."""

    @property
    def routing(self) -> Setting:
        """The same as a setting of a sweep."""
        return Setting(
            sequences=self.sequences, tokens=self.length, features=self.features, experts=self.experts, k=self.k,
            batches=self.validation_batches, block=self.block,
        )  # fmt: skip


class MarkovText:
    """Seeded text from a mixture of Markov chains."""

    def __init__(self, setting: ModelSetting, seed: int) -> None:
        self.setting = setting
        rng = np.random.default_rng([seed, 7])
        self.chains: NDArray[np.float64] = rng.dirichlet(np.full(setting.symbols, 0.08), (setting.chains, setting.symbols)) * 0.98
        self.chains += 0.02 / setting.symbols  # every symbol stays possible: no loss is infinite
        self.cumulative = self.chains.cumsum(axis=-1)

    def batches(self, rng: np.random.Generator) -> Iterator[torch.Tensor]:
        """Endless batches of tokens (sequences, length + 1)."""
        torch, s = import_torch(), self.setting
        while True:
            chain = rng.integers(s.chains, size=s.sequences)
            tokens = np.zeros((s.sequences, s.length + 1), np.int64)
            tokens[:, 0] = chain
            draws = rng.random((s.sequences, s.length))
            for t in range(s.length):
                rows = self.cumulative[chain, tokens[:, t]]
                tokens[:, t + 1] = np.minimum((draws[:, t, None] > rows).sum(axis=1), s.symbols - 1)
            yield torch.from_numpy(tokens)

    @property
    def entropy_rate_nats(self) -> float:
        """Mean entropy of the next token where the chain is known, in nats: no model's loss can be lower in the long run."""
        rates = []
        for chain in self.chains:
            stationary = np.linalg.matrix_power(chain, 512)[0]  # every symbol is possible, so there is one
            rates.append(float(-(stationary[:, None] * chain * np.log(chain)).sum()))
        return float(np.mean(rates))


def train_models(points: Sequence[Point], setting: ModelSetting, field_of: Callable[[int], Field]) -> dict[str, NDArray[np.generic]]:
    """Train and validate the model of every point (a router, a λ, a seed); returns columns as a sweep has, with ``loss`` in nats per token.

    Seed by seed, all points of a seed in a drawn order. ``field_of`` makes the thermal field of so many points; each model has its own, at
    rest when its validation begins.
    """
    known = {router.name for router in TRAINED}
    if wrong := sorted({point.router for point in points} - known):
        raise ConfigurationError(f"no language model is trained with {wrong}: choose from {sorted(known)}.")
    parts: list[dict[str, NDArray[np.generic]]] = []
    with torch_threads(1):
        for seed in sorted({point.gate for point in points}):
            study = _Seed(setting, seed)
            own = [point for point in points if point.gate == seed]
            random.Random(seed).shuffle(own)  # noqa: S311 -- an order, not a secret
            parts += [study.columns(point, field_of(1), order=len(parts) + turn) for turn, point in enumerate(own)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class _Seed:
    """All models of one seed: one text, one set of initial parameters."""

    def __init__(self, setting: ModelSetting, seed: int) -> None:
        self.setting, self.seed = setting, seed
        self.text = MarkovText(setting, seed)
        self._uncontrolled: MoELanguageModel | None = None

    def columns(self, point: Point, field: Field, *, order: int) -> dict[str, NDArray[np.generic]]:
        """Train, or take the model without control, then validate; one row for each block of validation batches."""
        model = self._served(point, field) if point.router == TestTimeTraining.name else self._trained(point, field)
        return self._validated(model, point, field, order=order)

    def _served(self, point: Point, field: Field) -> MoELanguageModel:
        """The model without control, behind a router that trains its gate while it serves."""
        if self._uncontrolled is None:
            self._uncontrolled = self._trained(Point(router=PenalisedTopK.name, per_joule=0.0, gate=self.seed), field)
        model = copy.deepcopy(self._uncontrolled)
        model.layer.router = TestTimeTraining(k=self.setting.k, per_joule=point.per_joule)
        return model

    def _trained(self, point: Point, field: Field) -> MoELanguageModel:
        torch, s = import_torch(), self.setting
        model = self._initial(point, field)
        optimiser = torch.optim.AdamW(model.parameters(), lr=s.learning_rate)
        texts = self.text.batches(np.random.default_rng([self.seed, 1]))
        for _ in range(s.steps):
            loss = model.loss(next(texts))
            optimiser.zero_grad()
            (loss + model.layer.auxiliary_loss()).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            _observe(model)
        model.layer.traffic = None  # its graph belongs to the training, and cannot be copied
        return model

    def _initial(self, point: Point, field: Field) -> MoELanguageModel:
        from pytest_physics.workloads.moe_modules import MoELanguageModel, MoELayer

        torch, s = import_torch(), self.setting
        router = router_named(point.router)(k=s.k, per_joule=point.per_joule)
        if isinstance(router, AuxiliaryLoss):
            router.alpha = AUXILIARY_ALPHA
        energies = torch.tensor(field.energies_j()[0], dtype=torch.float32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            layer = MoELayer(s.features, s.hidden, s.experts, router=router, energies_j=energies)
            return MoELanguageModel(symbols=s.symbols, features=s.features, context=s.length, layer=layer)

    def _validated(self, model: MoELanguageModel, point: Point, field: Field, *, order: int) -> dict[str, NDArray[np.generic]]:
        torch, s = import_torch(), self.setting
        record, losses = Blocks(1, s.routing), np.zeros(s.routing.blocks)
        texts = self.text.batches(np.random.default_rng([self.seed, 2]))
        before = copy.deepcopy(model.layer.gate)
        for batch in range(s.validation_batches):
            told_j, temperatures_c = field.energies_j(), field.temperatures_c()
            model.layer.tell(torch.tensor(told_j[0], dtype=torch.float32))
            with torch.no_grad():
                losses[batch // s.block] += float(model.loss(next(texts))) / s.block
            traffic = model.layer.traffic
            assert traffic is not None  # noqa: S101 -- the line above has run the layer
            slots = traffic.routing.loads.numpy()[None]
            billed_j = field.advance(slots.astype(float))
            measured = np.where(slots > 0, billed_j / np.maximum(slots, 1), told_j)
            regret = score_regret(traffic.logits[None], traffic.routing.chosen[None], s.k)
            record.add(
                batch, order=order, slots=slots, energy_j=billed_j, told_j=told_j, temperature_c=temperatures_c, regret=regret,
                change=np.array([_change(before, model.layer.gate)]),
            )  # fmt: skip
            _observe(model, torch.tensor(measured[0], dtype=torch.float32))
            _train_gate(model, before)
        rows = s.routing.blocks
        return {
            "router": np.repeat([point.router], rows), "per_joule": np.repeat([point.per_joule], rows),
            "gate": np.repeat(np.array([point.gate], np.int32), rows), **record.columns(), "loss": losses,
        }  # fmt: skip


def _observe(model: MoELanguageModel, energies_j: torch.Tensor | None = None) -> None:
    """Let the router see what the last batch did; a measurement replaces what it was told before."""
    layer = model.layer
    if energies_j is not None:
        layer.tell(energies_j)
    if layer.traffic is not None:
        layer.router.observe(layer.traffic.routing.loads, layer.energies_j)


def _train_gate(model: MoELanguageModel, before: torch.nn.Linear) -> None:
    """One step of test-time training on the last batch; nothing for routers that do not train while they serve."""
    torch, layer = import_torch(), model.layer
    traffic = layer.traffic
    if traffic is None or not isinstance(layer.router, TestTimeTraining):
        return
    logits = layer.gate(traffic.inputs)
    with torch.no_grad():
        reference = before(traffic.inputs)
    loss = layer.router.loss(logits, traffic.routing, layer.energies_j, reference)
    parameters = list(layer.gate.parameters())
    step = min(layer.router.learning_rate, 0.5 * float(largest_stable_step(traffic.inputs)))
    with torch.no_grad():
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.sub_(step * gradient)


def _change(before: torch.nn.Linear, after: torch.nn.Linear) -> float:
    """How far the gate's parameters have moved, as a share of their norm."""
    torch = import_torch()
    first, last = (torch.cat([gate.weight.flatten(), gate.bias]) for gate in (before, after))
    return float((last - first).detach().norm() / first.detach().norm())
