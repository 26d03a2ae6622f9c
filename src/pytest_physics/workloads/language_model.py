"""A GPT-2 of transformers as a workload, with prefill and decode strictly apart.

Prefill runs the prompt through the model once and keeps the key-value cache: bound by arithmetic. Decode runs single-token
steps from that cache: bound by memory bandwidth. Their energies per token differ by far, so neither phase may contain a part of
the other.

The model is built from its configuration with seeded random weights: no download, and the same operations and memory traffic as
trained weights of that shape. What it writes is meaningless. Decoding is greedy (the most likely token), so the same seed gives
the same tokens on the same machine with the same library versions.

Assumptions: prompts are seeded random tokens of equal length, so nothing is padded; logits are computed for the last position
only, as serving systems do. It fails with :class:`ConfigurationError` where a context does not fit or a cache was not prepared;
an out-of-memory error passes through, with the cache dropped.
"""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from pytest_physics.errors import ConfigurationError
from pytest_physics.workloads.libraries import (
    chosen_threads,
    describe_device,
    import_torch,
    import_transformers,
    torch_device,
    torch_dtype,
    torch_threads,
    wait_for,
)

if TYPE_CHECKING:
    import torch
    from transformers import Cache, GPT2Config, PreTrainedModel

Attention = Literal["sdpa", "eager"]

SHAPES: Mapping[str, Mapping[str, int]] = {
    # token ids 0 mark begin and end: the defaults lie outside this vocabulary
    "small": {"n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 256, "bos_token_id": 0, "eos_token_id": 0},
    "gpt2": {},
}
"""Named shapes as arguments of ``GPT2Config``; "gpt2" is its default, 124 million parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseWork:
    """Exact work of one finished phase."""

    phase: Literal["prefill", "decode"]
    batch: int
    """Sequences run side by side."""
    context_tokens: int
    """Tokens per sequence in the cache when the phase began."""
    tokens: int
    """Tokens per sequence that the phase ran through the model."""
    forward_passes: int
    """1 for prefill, ``tokens`` for decode."""

    @property
    def total_tokens(self) -> int:
        """``batch × tokens``."""
        return self.batch * self.tokens


@dataclass(slots=True)
class _Context:
    """A prompt that has run: where decode starts."""

    batch: int
    tokens: int
    cache: Cache
    next_token: torch.Tensor


class LanguageModel:
    """A GPT-2 on one device.

    Parameters
    ----------
    shape
        ``"small"`` (2 layers, 64 wide, vocabulary 256), ``"gpt2"`` (124 million parameters), a ``GPT2Config``, or a directory
        with a causal language model that ``save_pretrained`` wrote.
    device
        ``"cpu"`` or ``"cuda:0"``.
    dtype
        Floating-point type of weights and cache.
    seed
        Of the weights and the prompts.
    attention
        Attention implementation asked for; :meth:`describe` states the one in use.
    threads
        Intra-op threads while a phase runs, put back afterwards. Default: on a CPU the cores less one (see
        :func:`~pytest_physics.workloads.libraries.default_threads`), on CUDA what torch has.
    """

    def __init__(
        self,
        shape: str | Path | GPT2Config = "small",
        *,
        device: str = "cpu",
        dtype: str | torch.dtype = "float32",
        seed: int = 0,
        attention: Attention = "sdpa",
        threads: int | None = None,
    ) -> None:
        self._torch = import_torch()
        self._transformers = import_transformers()
        self.device = torch_device(device)
        self.dtype = torch_dtype(dtype)
        self.threads = chosen_threads(threads, self.device)
        self.seed = seed
        self._weights = "random"
        self.model = self._build(shape, attention)
        self._shape = shape if isinstance(shape, str) else type(shape).__name__
        self._prompts: dict[tuple[int, int], torch.Tensor] = {}
        self._context: _Context | None = None
        self._generated: torch.Tensor | None = None
        self._work: PhaseWork | None = None

    # --- description -------------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> int:
        """Number of weights; tied ones count once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def context_limit(self) -> int:
        """Most tokens, prompt and generated, that one sequence can have."""
        return int(self.model.config.max_position_embeddings)

    def describe(self) -> Mapping[str, str]:
        """What runs, as it is and not as it was asked for: for the record of a run."""
        config = self.model.config
        return {
            "workload": "language model, greedy decoding with key-value cache",
            "shape": self._shape,
            "architecture": (
                f"{config.model_type}: {config.num_hidden_layers} layers, {config.hidden_size} wide, "
                f"{config.num_attention_heads} heads, vocabulary {config.vocab_size}, {self.context_limit} positions"
            ),
            "parameters": str(self.parameters),
            "weights": self._weights,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "attention": str(config._attn_implementation),  # noqa: SLF001 -- the only place that names the one in use
            "device": describe_device(self.device),
            "threads": str(self.threads),
            "seed": str(self.seed),
            "torch": str(self._torch.__version__),
            "transformers": importlib.metadata.version("transformers"),
        }

    # --- phases ------------------------------------------------------------------------------------------------------

    def prefill(self, batch: int, tokens: int) -> None:
        """Run a prompt of ``tokens`` tokens in ``batch`` sequences and keep its cache; one forward pass."""
        prompt = self._prompt(batch, tokens)
        self._context = None  # the old cache must not occupy memory beside the new one
        with torch_threads(self.threads), self._torch.inference_mode():
            cache = self._transformers.DynamicCache()
            next_token = self._forward(prompt, cache)
            wait_for(self.device)
        self._require_length(cache, tokens)
        self._context = _Context(batch=batch, tokens=tokens, cache=cache, next_token=next_token)
        self._work = PhaseWork(phase="prefill", batch=batch, context_tokens=0, tokens=tokens, forward_passes=1)

    def prepare(self, batch: int, context: int) -> None:
        """Have a cache of ``batch`` sequences and ``context`` tokens ready for :meth:`decode`; call it outside of a window.

        A cache that is there already is kept.
        """
        kept = self._context
        if kept is None or (kept.batch, kept.tokens) != (batch, context):
            self.prefill(batch, context)

    def decode(self, batch: int, tokens: int) -> None:
        """Run exactly ``tokens`` single-token steps in each of ``batch`` sequences.

        Every call starts from the kept context, so that repetitions do the same work: what an earlier decode appended is cut off
        first (a view, microseconds). :meth:`prefill` or :meth:`prepare` must have run with this ``batch`` before: a prefill
        hidden in a decode window would be booked as decoding.
        """
        context = self._context_for(batch, tokens)
        generated = self._torch.empty((batch, tokens), dtype=self._torch.long, device=self.device)
        with torch_threads(self.threads), self._torch.inference_mode():
            _rewind(context)
            token = context.next_token
            for step in range(tokens):
                token = self._forward(token, context.cache)
                generated[:, step] = token[:, 0]
            wait_for(self.device)
        self._require_length(context.cache, context.tokens + tokens)
        self._generated = generated
        self._work = PhaseWork(phase="decode", batch=batch, context_tokens=context.tokens, tokens=tokens, forward_passes=tokens)

    def warm_up(self, batch: int = 1, context: int = 16, tokens: int = 4) -> None:
        """Run both phases twice, so that kernels, workspaces and thread pools exist; drops the kept cache.

        The first run of a new batch size may still pick new kernels: warm up with the batch that will be measured.
        """
        for _ in range(2):
            self.prefill(batch, context)
            self.decode(batch, tokens)
        self._context, self._generated, self._work = None, None, None

    def close(self) -> None:
        """Drop the model and its cache, and give the device's memory back."""
        self._context, self._generated = None, None
        self._prompts.clear()
        del self.model
        if self.device.type == "cuda":
            self._torch.cuda.empty_cache()

    # --- results -----------------------------------------------------------------------------------------------------

    @property
    def work(self) -> PhaseWork | None:
        """Work of the last finished phase, counted and checked against the length of the cache; None before the first."""
        return self._work

    @property
    def generated(self) -> tuple[tuple[int, ...], ...]:
        """Tokens of the last decode, one tuple per sequence; empty before the first. Copies from the device: not in a window."""
        return () if self._generated is None else tuple(tuple(row) for row in self._generated.tolist())

    # --- inside ------------------------------------------------------------------------------------------------------

    def _build(self, shape: str | Path | GPT2Config, attention: Attention) -> PreTrainedModel:
        with self._torch.random.fork_rng(devices=[]):  # the user's random numbers go on as if nothing had been drawn
            self._torch.manual_seed(self.seed)
            model = self._load(shape, attention)
        module = self._torch.nn.Module  # transformers' own methods of these names are untyped wrappers
        module.to(model, device=self.device, dtype=self.dtype)
        module.eval(model)
        return model

    def _load(self, shape: str | Path | GPT2Config, attention: Attention) -> PreTrainedModel:
        if isinstance(shape, str | Path) and shape not in SHAPES:
            return self._load_directory(Path(shape), attention)
        config = self._transformers.GPT2Config(**SHAPES[shape]) if isinstance(shape, str) else copy.deepcopy(shape)
        if not isinstance(config, self._transformers.GPT2Config):
            raise ConfigurationError(f"'shape' must be a name, a directory or a GPT2Config (got {type(shape).__name__}).")
        auto = self._transformers.AutoModelForCausalLM
        model: PreTrainedModel = auto.from_config(config, attn_implementation=attention)
        return model

    def _load_directory(self, path: Path, attention: Attention) -> PreTrainedModel:
        if not (path / "config.json").is_file():
            raise ConfigurationError(
                f"'shape' must be one of {', '.join(SHAPES)}, a GPT2Config, or a directory with a saved model (got '{path}', "
                "which has no config.json). Save the model there with save_pretrained()."
            )
        self._weights = "from the directory"
        auto = self._transformers.AutoModelForCausalLM
        model: PreTrainedModel = auto.from_pretrained(path, local_files_only=True, attn_implementation=attention)
        return model

    def _prompt(self, batch: int, tokens: int) -> torch.Tensor:
        """Seeded prompt, shape (batch, tokens), made once; a sequence's prompt does not depend on how many run beside it."""
        self._require_fits(batch, tokens)
        known = self._prompts.get((batch, tokens))
        if known is None:
            vocabulary = self.model.config.vocab_size
            rows = [np.random.default_rng([self.seed, row]).integers(vocabulary, size=tokens) for row in range(batch)]
            known = self._torch.from_numpy(np.stack(rows)).to(self.device)
            self._prompts[batch, tokens] = known
        return known

    def _forward(self, tokens: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Append ``tokens`` to ``cache``; the most likely next token, shape (batch, 1)."""
        output = self.model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        most_likely: torch.Tensor = output.logits[:, -1:].argmax(dim=-1)
        return most_likely

    def _context_for(self, batch: int, tokens: int) -> _Context:
        kept = self._context
        if kept is None or kept.batch != batch:
            found = "none is kept" if kept is None else f"the kept one has batch {kept.batch}, {kept.tokens} tokens"
            raise ConfigurationError(
                f"decode needs the key-value cache of a prompt with batch {batch}, and {found}: nothing was run. Call "
                f"prefill({batch}, tokens) first, or prepare({batch}, context) before the window opens."
            )
        self._require_fits(batch, tokens, context=kept.tokens)
        return kept

    def _require_fits(self, batch: int, tokens: int, *, context: int = 0) -> None:
        if batch < 1 or tokens < 1:
            raise ConfigurationError(f"'batch' and 'tokens' must be >= 1 (got {batch} and {tokens}).")
        if context + tokens > self.context_limit:
            raise ConfigurationError(
                f"{context} + {tokens} tokens do not fit into the model's {self.context_limit} positions. Use fewer tokens, or a "
                "GPT2Config with a larger 'n_positions'."
            )

    def _require_length(self, cache: Cache, expected: int) -> None:
        """The cache is the witness of how many tokens ran."""
        length = int(cache.get_seq_length())
        if length != expected:
            self._context = None
            raise RuntimeError(f"the key-value cache holds {length} tokens per sequence after the phase, expected {expected}.")


def _rewind(context: _Context) -> None:
    """Cut what an earlier decode appended."""
    surplus = int(context.cache.get_seq_length()) - context.tokens
    if surplus > 0:
        context.cache.crop(-surplus)
