"""A language model and a kernel on the twin: time and power from a roofline.

A forward pass over ``n`` new tokens in each of ``B`` sequences, of a model with ``N`` parameters, ``L`` layers of width ``d``
and ``b`` bytes per number, takes

* arithmetic: ``2·N·B·n + 4·L·d·B·Σ(context of each token)`` floating-point operations (the second term is attention),
* traffic: ``N·b`` bytes of weights, once per pass, and ``2·L·d·b`` bytes of key-value cache per token of context and sequence,
* the longest of operations ÷ (efficiency × peak rate), bytes ÷ (efficiency × bandwidth) and the host's time to launch it.

So prefill is bound by arithmetic and decode by memory: one pass serves the whole batch, and its time is nearly flat while the
cache is small beside the weights. Dynamic power is a share for arithmetic plus a share for traffic, each times the achieved
rate; a phase runs at its mean power. Reference: Williams, Waterman, Patterson, "Roofline" (CACM 52(4), 2009).

Assumes the efficiencies and power shares below. It fails with ``MemoryError`` where weights or cache do not fit, and with
:class:`ConfigurationError` where decode has no context to continue from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pytest_physics.clock import NS_PER_S
from pytest_physics.devices.twin import TwinDevice, TwinLoad
from pytest_physics.errors import ConfigurationError

WARM_UP_CONTEXT, WARM_UP_TOKENS = 16, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a decoder-only transformer; the defaults are GPT-2's, 124 million parameters."""

    parameters: int = 124_439_808
    layers: int = 12
    width: int = 768
    context_limit: int = 1024
    """Most tokens, prompt and generated, that one sequence can have."""
    bytes_per_number: int = 2
    """Of weights and cache: 2 in half precision."""

    @property
    def weight_bytes(self) -> int:
        """All weights."""
        return self.parameters * self.bytes_per_number

    @property
    def cache_bytes_per_token(self) -> int:
        """Key and value of one token in all layers."""
        return 2 * self.layers * self.width * self.bytes_per_number


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineCosts:
    """How near the roofs a phase comes, and what that costs in power: assumed, in the range of published kernels."""

    compute_efficiency: float = 0.45
    """Share of the peak arithmetic rate reached by matrix products."""
    memory_efficiency: float = 0.75
    """Share of the peak bandwidth reached."""
    compute_intensity: float = 1.6
    """Share of the card's dynamic power per share of peak arithmetic: at the efficiency above, 0.72."""
    memory_intensity: float = 0.45
    """Share of the card's dynamic power per share of peak bandwidth."""
    host_step_s: float = 0.0
    """Host time to launch one forward pass, overlapping with the pass: 0 for captured graphs; 0.005 makes the 198 tokens/s that
    TR123 measured for GPT-2 in eager mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCost:
    """A phase on the roofline."""

    flop: float
    memory_bytes: float
    seconds: float
    """At the reference clock."""
    load: TwinLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    batch: int
    tokens: int


class TwinLanguageModel:
    """A GPT-2 on a twin: :class:`~pytest_physics.workloads.base.Workload` in virtual time."""

    def __init__(self, device: TwinDevice, *, shape: ModelShape | None = None, costs: RooflineCosts | None = None) -> None:
        self.device = device
        self.shape = shape or ModelShape()
        self.costs = costs or RooflineCosts()
        self._context: _Context | None = None
        self._cache_bytes = 0
        self._calls = 1
        self.spilled_bytes = 0
        """Memory that lay in the host's during the last run: such work is many times slower."""
        device.allocate(self.shape.weight_bytes)

    def describe(self) -> Mapping[str, str]:
        """Model and device."""
        shape = self.shape
        return {
            "workload": "language model, roofline on a twin",
            "simulated": "true",
            "architecture": f"{shape.layers} layers, {shape.width} wide, {shape.context_limit} positions",
            "parameters": str(shape.parameters),
            "dtype": f"{8 * shape.bytes_per_number} bit",
            "host_step_s": str(self.costs.host_step_s),
            "device": str(self.device.spec),
        }

    def prefill(self, batch: int, tokens: int) -> None:
        """One pass over prompts of ``tokens`` tokens in ``batch`` sequences; their cache replaces the one before."""
        self._require_fits(batch, tokens)
        self._context = None
        self._hold_cache(batch * tokens)
        self._run(self.prefill_cost(batch, tokens))
        self._context = _Context(batch=batch, tokens=tokens)

    def prepare(self, batch: int, context: int) -> None:
        """Have a cache of ``batch`` sequences and ``context`` tokens ready for :meth:`decode`; one that is there is kept."""
        if self._context != _Context(batch=batch, tokens=context):
            self.prefill(batch, context)

    def decode(self, batch: int, tokens: int) -> None:
        """``tokens`` single-token passes over ``batch`` sequences, always from the context of the last prefill."""
        context = self._context
        if context is None or context.batch != batch:
            found = "none is kept" if context is None else f"the kept one has batch {context.batch}"
            raise ConfigurationError(
                f"decode needs the context of a prompt with batch {batch}, and {found}: nothing was run. Call "
                f"prefill({batch}, tokens) first, or prepare({batch}, context) before the window opens."
            )
        self._require_fits(batch, tokens, context=context.tokens)
        self._hold_cache(batch * (context.tokens + tokens))
        self._run(self.decode_cost(batch, tokens, context=context.tokens))
        self._hold_cache(batch * context.tokens)

    def repeat(self, phase: str, *, batch: int, tokens: int, calls: int) -> None:
        """``calls`` calls of ``prefill`` or ``decode`` in a row, as one load: between two of them no time passes here."""
        if calls < 1:
            raise ConfigurationError(f"'calls' must be >= 1 (got {calls}).")
        self._calls = calls
        try:
            (self.prefill if phase == "prefill" else self.decode)(batch, tokens)
        finally:
            self._calls = 1

    def warm_up(self) -> None:
        """Run both phases once; leaves no context."""
        self.prefill(1, WARM_UP_CONTEXT)
        self.decode(1, WARM_UP_TOKENS)
        self._context = None
        self._hold_cache(0)

    def close(self) -> None:
        """Give the device memory back."""
        self._context = None
        self._hold_cache(0)
        self.device.free(self.shape.weight_bytes)

    # --- the roofline ------------------------------------------------------------------------------------------------

    def prefill_cost(self, batch: int, tokens: int) -> PhaseCost:
        """Cost of :meth:`prefill`: one pass."""
        seen = batch * tokens * (tokens + 1) / 2
        written = batch * tokens * self.shape.cache_bytes_per_token
        return self._cost(passes=1, new_tokens=batch * tokens, seen=seen, cache_bytes=written)

    def decode_cost(self, batch: int, tokens: int, *, context: int) -> PhaseCost:
        """Cost of :meth:`decode` after a context of ``context`` tokens: ``tokens`` passes."""
        seen = batch * (tokens * context + tokens * (tokens + 1) / 2)
        return self._cost(passes=tokens, new_tokens=batch * tokens, seen=seen, cache_bytes=seen * self.shape.cache_bytes_per_token)

    def _cost(self, *, passes: int, new_tokens: int, seen: float, cache_bytes: float) -> PhaseCost:
        shape, costs, card = self.shape, self.costs, self.device.preset.card
        flop = 2.0 * shape.parameters * new_tokens + 4.0 * shape.layers * shape.width * seen
        memory_bytes = passes * shape.weight_bytes + cache_bytes
        compute_s = flop / (costs.compute_efficiency * card.peak_flop_per_s)
        memory_s = memory_bytes / (costs.memory_efficiency * card.memory_bytes_per_s)
        seconds = max(compute_s, memory_s, passes * costs.host_step_s)
        arithmetic = costs.compute_intensity * costs.compute_efficiency * compute_s / seconds
        traffic = costs.memory_intensity * costs.memory_efficiency * memory_s / seconds
        load = TwinLoad(
            utilisation_ratio=max(compute_s, memory_s) / seconds,
            intensity=min(1.0, arithmetic + traffic),
            memory_utilisation_ratio=memory_s / seconds,
            clock_sensitivity=1.0 if compute_s >= seconds else 0.0,
        )
        return PhaseCost(flop=flop, memory_bytes=memory_bytes, seconds=seconds, load=load)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _run(self, cost: PhaseCost) -> None:
        self.spilled_bytes = self.device.spilled_bytes
        self.device.execute(cost.load, self._calls * cost.seconds)

    def _hold_cache(self, tokens: int) -> None:
        """Make the cache as large as ``tokens`` tokens, all sequences together."""
        wanted = tokens * self.shape.cache_bytes_per_token
        if wanted > self._cache_bytes:
            self.device.allocate(wanted - self._cache_bytes)
        elif wanted < self._cache_bytes:
            self.device.free(self._cache_bytes - wanted)
        self._cache_bytes = wanted

    def _require_fits(self, batch: int, tokens: int, *, context: int = 0) -> None:
        if batch < 1 or tokens < 1:
            raise ConfigurationError(f"'batch' and 'tokens' must be >= 1 (got {batch} and {tokens}).")
        if context + tokens > self.shape.context_limit:
            raise ConfigurationError(
                f"{context} + {tokens} tokens do not fit into the model's {self.shape.context_limit} positions. Use fewer "
                "tokens, or a ModelShape with a larger 'context_limit'."
            )


class TwinKernel:
    """A constant load on a twin: heat soak, and steps for the sensor's response."""

    def __init__(self, device: TwinDevice, *, load: TwinLoad | None = None) -> None:
        self.device = device
        self.load = load or TwinLoad()

    def describe(self) -> Mapping[str, str]:
        """Load and device."""
        return {
            "workload": "constant load on a twin",
            "simulated": "true",
            "intensity": str(self.load.intensity),
            "utilisation_ratio": str(self.load.utilisation_ratio),
            "device": str(self.device.spec),
        }

    def warm_up(self) -> None:
        """A twin has nothing to load; this wakes it from deep idle."""
        self.run_for(0.01)

    def at(self, share: float) -> TwinKernel:
        """The same load at a share of its intensity, greater than 0 and at most 1."""
        return TwinKernel(self.device, load=replace(self.load, intensity=share * self.load.intensity))

    def run_for(self, duration_s: float) -> float:
        """Hold the load for ``duration_s`` seconds of the device's clock, then restore the one before; the seconds held."""
        if not duration_s > 0:
            raise ConfigurationError(f"'duration_s' must be > 0 (got {duration_s}).")
        clock, before = self.device.clock, self.device.load
        start_ns = clock.now_ns()
        self.device.set_load(self.load)
        try:
            clock.advance_to_ns(start_ns + round(duration_s * NS_PER_S))
        finally:
            self.device.set_load(before)
        return (clock.now_ns() - start_ns) / NS_PER_S
