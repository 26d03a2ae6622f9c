"""Training of a small causal language model: ramp up, steady zone, ramp down, on seeded text with a tokeniser made on the spot.

Shapes: ``tiny`` (seconds on a laptop), ``distilgpt2`` (DistilGPT-2's six layers of width 768), ``llama-lora`` (a Llama shape whose weights
stay as they are while adapters of rank 8 learn: LoRA through ``peft``). All from configuration with seeded random weights, so nothing is
downloaded. The text is sentences of a small seeded grammar, the tokeniser a byte-pair encoding trained on it.

Learning rate and batch rise over the first tenth of the steps, stay for eight tenths, and fall over the last: load and optimiser both have
a zone in which nothing is changed on purpose. The same seed on the same machine with the same library versions gives the same losses and
gradient norms to the last bit: a repeated training is a replicate, and the null of any coupling with telemetry.

It fails with :class:`ConfigurationError` for a shape that does not exist, or without torch, transformers or peft.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_physics.errors import ConfigurationError, nearest
from pytest_physics.workloads.libraries import (
    chosen_threads,
    import_peft,
    import_torch,
    import_transformers,
    same_bits,
    torch_device,
    torch_threads,
    wait_for,
)

if TYPE_CHECKING:
    import torch

Mark = Callable[[int, float, float, float], object]
"""Called at the end of each step with its index, loss, gradient norm and learning rate."""

RAMP_SHARE = 0.1
"""Share of the steps of either ramp."""
VOCABULARY = 512
SHAPES: Mapping[str, Mapping[str, int]] = {
    "tiny": {"layers": 2, "width": 64, "heads": 2, "length": 32, "batch": 4},
    "distilgpt2": {"layers": 6, "width": 768, "heads": 12, "length": 16, "batch": 4},
    "llama-lora": {"layers": 4, "width": 256, "heads": 8, "length": 64, "batch": 8},
}
"""Sizes of the shapes: layers, width, attention heads, tokens of a sequence, sequences of a batch in the steady zone."""
LORA_RANK = 8
LOSS = "ForCausalLM"
NOUNS = ("card", "fan", "sensor", "clock", "cable", "board", "rack", "core", "fuse", "probe")
VERBS = ("heats", "cools", "reads", "slows", "feeds", "holds", "wakes", "meets", "drives", "loses")
ADJECTIVES = ("warm", "idle", "old", "quiet", "busy", "small", "slow", "late", "dim", "cold")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetting:
    """What is trained, and for how long."""

    shape: str = "tiny"
    steps: int = 100
    """Optimiser steps; where ``seconds`` is given, an upper bound."""
    seconds: float | None = None
    """Length aimed at; the number of steps then follows from some passes before the first."""
    learning_rate: float = 1e-3
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.shape not in SHAPES:
            raise ConfigurationError(
                f"there is no training shape '{self.shape}'{nearest(self.shape, SHAPES)}; shapes are {', '.join(SHAPES)}."
            )
        if self.steps < 3:
            raise ConfigurationError(f"'steps' must be >= 3, one for each zone (got {self.steps}).")
        if self.seconds is not None and not self.seconds > 0:
            raise ConfigurationError(f"'seconds' must be > 0 (got {self.seconds}).")


class Training:
    """One training, built and ready to run; building takes seconds and belongs outside of what is measured."""

    def __init__(self, setting: TrainingSetting) -> None:
        self.setting = setting
        self._torch = import_torch()
        self.device = torch_device(setting.device)
        self.threads = chosen_threads(setting.threads, self.device)
        self.size = SHAPES[setting.shape]
        self.tokens = encoded_text(setting.seed)
        with torch_threads(self.threads), self._torch.random.fork_rng(devices=[]):
            self._torch.manual_seed(setting.seed)
            self.model: Any = _model(setting.shape).to(self.device)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]

    def describe(self) -> Mapping[str, str]:
        """What is trained, as it is."""
        return {
            "workload": "training of a causal language model on seeded text",
            "shape": self.setting.shape,
            "architecture": f"{self.model.config.model_type}: {self.size['layers']} layers, {self.size['width']} wide",
            "parameters": str(sum(p.numel() for p in self.model.parameters())),
            "trained parameters": str(sum(p.numel() for p in self.trained)),
            "batch": str(self.size["batch"]),
            "length": str(self.size["length"]),
            "seed": str(self.setting.seed),
            "device": str(self.device),
            "threads": str(self.threads),
            "torch": str(self._torch.__version__),
        }

    def run(self, mark: Mark, *, until: int | None = None) -> int:
        """Train; ``mark`` is called at the end of every step, which is when the device is done. Returns the steps taken.

        ``until`` ends it after so many steps, with the schedule of the whole.
        """
        setting, torch = self.setting, self._torch
        optimiser = torch.optim.AdamW(self.trained, lr=setting.learning_rate)
        batches = self._batches()
        total, step = self._steps(), 0
        self.model.train()
        with torch_threads(self.threads), torch.random.fork_rng(devices=[]), same_bits(self.device):
            torch.manual_seed(setting.seed)
            while step < min(total, until or total):
                level = ramp(step, total)
                loss, norm, rate = self._step(optimiser, next(batches), level)
                step += 1
                mark(step, loss, norm, rate)
        return step

    def _steps(self) -> int:
        """Steps of the whole: as set, or as many as fit into the time; no weight changes."""
        if self.setting.seconds is None:
            return self.setting.steps
        lasted = []
        with torch_threads(self.threads), same_bits(self.device):
            for batch in itertools.islice(self._batches(), PILOT_STEPS):
                started_s = time.perf_counter()
                self.model(input_ids=batch, labels=batch).loss.backward()
                wait_for(self.device)
                lasted.append(time.perf_counter() - started_s)
        self.model.zero_grad()
        return int(np.clip(round(self.setting.seconds / min(lasted[1:])), MIN_STEPS, max(MIN_STEPS, self.setting.steps)))

    def _step(self, optimiser: Any, batch: torch.Tensor, level: float) -> tuple[float, float, float]:  # noqa: ANN401 -- torch has no types
        """One step at a share ``level`` of batch and learning rate."""
        rows = max(1, round(level * len(batch)))
        for group in optimiser.param_groups:
            group["lr"] = level * self.setting.learning_rate
        chosen = batch[:rows]
        loss = self.model(input_ids=chosen, labels=chosen).loss
        optimiser.zero_grad()
        loss.backward()
        norm = self._torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        optimiser.step()
        wait_for(self.device)
        return float(loss.detach()), float(norm.detach()), level * self.setting.learning_rate

    def _batches(self) -> Iterator[torch.Tensor]:
        """Endless seeded batches of tokens."""
        rng = np.random.default_rng([self.setting.seed, 1])
        length = self.size["length"]
        while True:
            starts = rng.integers(len(self.tokens) - length, size=self.size["batch"])
            yield self._torch.tensor(np.stack([self.tokens[at : at + length] for at in starts]), device=self.device)


PILOT_STEPS = 4
"""Passes over a full batch, without a step, from which a training of given seconds knows its length; the first warms up."""
MIN_STEPS = 50
"""A training of given seconds has at least this many steps, however long they take."""


def ramp(step: int, steps: int) -> float:
    """Share of full batch and learning rate of step 0 … steps − 1: rising, 1, falling; never 0."""
    edge = max(1, round(RAMP_SHARE * steps))
    return min(1.0, (step + 1) / (edge + 1), (steps - step) / (edge + 1))


def sentences(seed: int, count: int = 4000) -> str:
    """Seeded sentences of a small grammar, in which a noun prefers some verbs."""
    rng = np.random.default_rng([seed, 0])
    liking = rng.dirichlet(np.full(len(VERBS), 0.3), len(NOUNS)).cumsum(axis=1)
    words = []
    for _ in range(count):
        subject, other, first, second = (int(rng.integers(10)) for _ in range(4))
        verb = min(len(VERBS) - 1, int(np.searchsorted(liking[subject], rng.random())))
        words.append(f"the {ADJECTIVES[first]} {NOUNS[subject]} {VERBS[verb]} the {ADJECTIVES[second]} {NOUNS[other]}.")
    return " ".join(words)


def encoded_text(seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The text as tokens of a byte-pair encoding that was trained on it."""
    import_transformers()  # says how to install it; tokenizers comes with it
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    text = sentences(seed)
    tokeniser = Tokenizer(BPE())
    tokeniser.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(vocab_size=VOCABULARY, show_progress=False, initial_alphabet=ByteLevel.alphabet())
    tokeniser.train_from_iterator([text], trainer)
    return np.asarray(tokeniser.encode(text).ids, dtype=np.int64)


def _model(shape: str) -> Any:  # noqa: ANN401 -- a model of transformers
    """The model of a shape with random weights."""
    transformers, size = import_transformers(), SHAPES[shape]
    if shape != "llama-lora":
        config = transformers.GPT2Config(
            n_layer=size["layers"], n_embd=size["width"], n_head=size["heads"], n_positions=size["length"], vocab_size=VOCABULARY,
            bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
        )  # fmt: skip
        model = transformers.GPT2LMHeadModel(config)
        model.loss_type = LOSS  # transformers looks for it in the class's name, finds none, and says so
        return model
    config = transformers.LlamaConfig(
        num_hidden_layers=size["layers"], hidden_size=size["width"], num_attention_heads=size["heads"], num_key_value_heads=size["heads"],
        intermediate_size=4 * size["width"], max_position_embeddings=size["length"], vocab_size=VOCABULARY, use_cache=False,
    )  # fmt: skip
    peft = import_peft()
    lora = peft.LoraConfig(
        r=LORA_RANK, lora_alpha=2 * LORA_RANK, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # peft asks transformers in a way that transformers 5 deprecates
        return peft.get_peft_model(transformers.LlamaForCausalLM(config), lora)
