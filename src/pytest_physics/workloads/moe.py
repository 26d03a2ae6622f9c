"""Routers for mixtures of experts: which experts a token visits, and what that choice knows about energy.

All routers share one contract and work on logits of the shape (…, tokens, experts): the leading axes are independent points, such as the
gates of a sweep, and are routed together. A router is told the energy per slot of each expert, in joules; a slot is one pair of token and
expert. Where it steers, it steers by ``per_joule``, λ in 1/J *per slot*: no router but the published one depends on the size of a batch.

============================  ==================================================================================  ====================
router                        rule                                                                                reference
============================  ==================================================================================  ====================
:class:`Uniform`              in turn, whatever the gate says                                                     the null
:class:`TopK`                 top-k of the logits z                                                               —
:class:`PenalisedTopK`        top-k of z − λE: the optimum of score against energy, stateless                     routing study, §5.2
:class:`AuxiliaryLoss`        the gate is trained on α·Σ f_i·P_i/p*_i; Switch's and GShard's loss for uniform p*  2101.03961, 2006.16668
:class:`LossFreeBias`         top-k of z + b, b moved towards the target loads after each batch                   2408.15664
:class:`ExpertChoice`         expert e takes its C_e = k·T·p*_e best tokens                                       2202.09368
:class:`Sinkhorn`             entropic transport with loads p* and at most one slot per pair, then top-k          2103.16716, 2202.01169
:class:`TestTimeTraining`     the gate is trained on measured energy: λ·E_P[E] + KL(P ‖ P_0), by gradient         routing study, §5.2
:class:`PublishedRouter`      the published experiment's rule, kept exactly: no gradient, costs of its own        routing study, §4.1
============================  ==================================================================================  ====================

Target loads p* are Gibbs loads of the present energies at λ: for λ = 0 each steered router is its uniform original.

It fails with :class:`ConfigurationError` for k above the number of experts, a capacity factor below 1, a λ that is no number in 1/J or
shapes that do not fit, and with :class:`ValueError` for logits, energies or loads that are not finite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pytest_physics.errors import ConfigurationError
from pytest_physics.workloads.libraries import import_torch

if TYPE_CHECKING:
    import torch

LARGEST_EXPONENT = 50.0
"""λ·(E_max − E_min) beyond this is no trade-off any more: weights of e⁻⁵⁰ say that λ is in the wrong unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Where the tokens of one batch go."""

    chosen: torch.Tensor
    """Whether a token visits an expert: booleans of the shape (…, tokens, experts)."""
    weights: torch.Tensor
    """Weight of each expert's answer: the gate's own probabilities, renormalised over the chosen experts; 0 elsewhere."""

    @property
    def loads(self) -> torch.Tensor:
        """Slots per expert, whole numbers of the shape (…, experts)."""
        return self.chosen.sum(-2)


class Router:
    """Base of all routers: plain bookkeeping, and nothing learned."""

    name: ClassVar[str]
    steered: ClassVar[bool] = True
    """Whether λ does anything."""
    learning_rate: float = 0.0
    """Step size in the gate's parameters; 0 where the gate is left as it is."""

    def __init__(self, *, k: int, per_joule: float | torch.Tensor = 0.0) -> None:
        if k < 1:
            raise ConfigurationError(f"'k' must be >= 1 expert per token (got {k}).")
        self.k = k
        self.per_joule = _per_joule(per_joule)

    def route(self, logits: torch.Tensor, energies_j: torch.Tensor) -> Routing:
        """Choose experts for logits (…, tokens, experts), given the energy per slot (…, experts) in joules."""
        check_logits(logits, self.k)
        self._check_energies(logits, energies_j)
        chosen = self.choose(logits.detach(), energies_j)
        return Routing(chosen=chosen, weights=renormalised(logits, chosen))

    def choose(self, logits: torch.Tensor, energies_j: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 -- part of the contract
        """The rule."""
        return top_k(logits, self.k)

    def observe(self, loads: torch.Tensor, energies_j: torch.Tensor) -> None:
        """Learn from a finished batch: its slots per expert, and the *measured* energy per slot of each expert, in joules."""

    def loss(self, logits: torch.Tensor, routing: Routing, energies_j: torch.Tensor, reference: torch.Tensor) -> torch.Tensor | None:  # noqa: ARG002
        """What gradient descent on the gate's parameters shall lower, one number per point; None where nothing is trained.

        ``reference`` are the logits of the gate as it was before any of this training.
        """
        return None

    def target(self, energies_j: torch.Tensor) -> torch.Tensor:
        """Loads that a steered router aims at: Gibbs loads at λ, uniform for λ = 0."""
        return gibbs_loads(energies_j, self.per_joule, k=self.k)

    def _check_energies(self, logits: torch.Tensor, energies_j: torch.Tensor) -> None:
        if energies_j.shape[-1] != logits.shape[-1]:
            raise ConfigurationError(
                f"{energies_j.shape[-1]} energies were given for {logits.shape[-1]} experts; give each expert its own, in joules per slot."
            )
        if not bool((energies_j.isfinite() & (energies_j >= 0)).all()):
            raise ValueError("energies per slot must be finite and >= 0 J; a missing or negative cost would steer towards its expert.")
        spread = float((self.per_joule * (energies_j.amax(-1) - energies_j.amin(-1))).max())
        if spread > LARGEST_EXPONENT:
            raise ConfigurationError(
                f"λ times the spread of the energies is {spread:.4g} (limit {LARGEST_EXPONENT:g}): λ is in 1/J per slot. A λ for "
                "millijoules is a thousand times too large here."
            )


class TopK(Router):
    """No control: the k largest logits."""

    name = "no control"
    steered = False


class Uniform(Router):
    """In turn, whatever the gate says: the null, against which a saving is counted."""

    name = "uniform"
    steered = False

    def choose(self, logits: torch.Tensor, energies_j: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Token t visits the experts t·k, t·k + 1, …, modulo their number."""
        torch = import_torch()
        tokens, experts = logits.shape[-2:]
        turn = (self.k * torch.arange(tokens)[:, None] + torch.arange(self.k)[None, :]) % experts
        chosen = logits.new_zeros((tokens, experts), dtype=torch.bool).scatter_(-1, turn.to(logits.device), True)
        return chosen.expand(logits.shape).clone()


class PenalisedTopK(Router):
    """Top-k of z − λE: no state, no training, every point on the convex hull of score regret and energy."""

    name = "penalised"

    def choose(self, logits: torch.Tensor, energies_j: torch.Tensor) -> torch.Tensor:
        """The k largest z − λE."""
        return top_k(logits - (self.per_joule[..., None] * energies_j)[..., None, :], self.k)


class AuxiliaryLoss(Router):
    """Top-k of a gate that is trained on α·Σ f_i·P_i/p*_i, stationary where the shares f are the target p*.

    f is the share of slots, without gradient; P the mean probability. For uniform p* this is Switch's and GShard's loss α·N·Σ f_i·P_i.
    """

    name = "auxiliary loss"

    def __init__(self, *, k: int, per_joule: float | torch.Tensor = 0.0, alpha: float = 1.0, learning_rate: float = 0.3) -> None:
        super().__init__(k=k, per_joule=per_joule)
        if not (alpha > 0 and learning_rate >= 0):
            raise ConfigurationError(f"'alpha' must be > 0 and 'learning_rate' >= 0 (got {alpha} and {learning_rate}).")
        self.alpha = alpha
        self.learning_rate = learning_rate

    def loss(self, logits: torch.Tensor, routing: Routing, energies_j: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """α·Σ f_i·P_i/p*_i for each point."""
        shares = routing.loads / routing.loads.sum(-1, keepdim=True)
        probabilities = logits.softmax(-1).mean(-2)
        return self.alpha * (shares * probabilities / self.target(energies_j)).sum(-1)


class LossFreeBias(Router):
    """Top-k of z + b with a bias per expert that follows the loads and leaves the gate alone; weights come from z.

    After each batch b_i moves by ``gain``·sign(p*_i − f_i). The name in the literature has uniform p*; here p* are Gibbs loads.
    """

    name = "loss-free bias"

    def __init__(self, *, k: int, per_joule: float | torch.Tensor = 0.0, gain: float = 0.01) -> None:
        super().__init__(k=k, per_joule=per_joule)
        if not gain > 0:
            raise ConfigurationError(f"'gain' must be > 0 (got {gain}).")
        self.gain = gain
        self.bias: torch.Tensor | None = None
        self.batches = 0

    def choose(self, logits: torch.Tensor, energies_j: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The k largest z + b."""
        return top_k(logits if self.bias is None else logits + self.bias[..., None, :].to(logits.dtype), self.k)

    def observe(self, loads: torch.Tensor, energies_j: torch.Tensor) -> None:
        """Move the bias towards the target loads."""
        shares = (loads / loads.sum(-1, keepdim=True)).to(energies_j.dtype)
        self.batches += 1
        moved = self.step(shares, self.target(energies_j))
        self.bias = moved if self.bias is None else self.bias + moved

    def step(self, shares: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Change of the bias after one batch."""
        return self.gain * (target - shares).sign()


class BiasToGibbs(LossFreeBias):
    """The same bias moved by gain·ln(p*_i/f_i), with a gain that falls as 1/batch: stochastic approximation, so its noise averages away.

    The gain stops falling at ``floor``, so that the bias follows energies that drift with temperature.
    """

    name = "bias to Gibbs"

    def __init__(
        self, *, k: int, per_joule: float | torch.Tensor = 0.0, gain: float = 0.6, settle: float = 12.0, floor: float = 0.02
    ) -> None:
        super().__init__(k=k, per_joule=per_joule, gain=gain)
        self.settle = settle
        self.floor = floor

    def step(self, shares: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """gain·ln(p*/f), bounded; an expert without a token counts as one with a thousandth of its target."""
        gain = max(self.floor, self.gain / (1 + self.batches / self.settle))
        return gain * (target / shares.clamp_min(1e-3 * float(target.min()))).log().clamp(-2.0, 2.0)


class ExpertChoice(Router):
    """Each expert takes its C_e most probable tokens: the loads are exact; a token gets any number of experts, and sees the whole batch."""

    name = "expert choice"

    def choose(self, logits: torch.Tensor, energies_j: torch.Tensor) -> torch.Tensor:
        """The C_e = k·T·p*_e best tokens of each expert, by the gate's probability; the C_e add up to k·T."""
        scores = logits.log_softmax(-1).transpose(-1, -2).contiguous()
        counts = whole_loads(self.target(energies_j), slots=self.k * logits.shape[-2], tokens=logits.shape[-2])
        order = scores.argsort(dim=-1, descending=True, stable=True)
        positions = import_torch().arange(scores.shape[-1], device=logits.device).expand_as(order)
        ranks = order.new_empty(order.shape).scatter_(-1, order, positions)
        chosen: torch.Tensor = (ranks < counts.expand(ranks.shape[:-1])[..., None]).transpose(-1, -2)
        return chosen


class Sinkhorn(Router):
    """Entropic transport of k·T slots onto loads p*, at most one slot for each pair, then top-k of z plus the transport's prices.

    x = σ((z + v − u)/τ): u_t gives each token k slots, v_e each expert its load. As τ → 0 it becomes BASE's linear programme, whose dual
    prices are v. Prices are kept from batch to batch: a few iterations follow what changed.
    """

    name = "Sinkhorn"

    def __init__(self, *, k: int, per_joule: float | torch.Tensor = 0.0, temperature: float = 0.1, iterations: int = 4) -> None:
        super().__init__(k=k, per_joule=per_joule)
        if not temperature > 0 or iterations < 1:
            raise ConfigurationError(f"'temperature' must be > 0 and 'iterations' >= 1 (got {temperature} and {iterations}).")
        self.temperature = temperature
        self.iterations = iterations
        self.prices: torch.Tensor | None = None

    def choose(self, logits: torch.Tensor, energies_j: torch.Tensor) -> torch.Tensor:
        """The k largest z + v."""
        target = self.target(energies_j).to(logits.dtype)
        prices = logits.new_zeros((*logits.shape[:-2], logits.shape[-1])) if self.prices is None else self.prices
        for _ in range(self.iterations if self.prices is not None else 10 * self.iterations):
            prices = prices + self._correction(logits + prices[..., None, :], target)
        self.prices = prices
        return top_k(logits + prices[..., None, :], self.k)

    def _correction(self, priced: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Change of the prices that moves the entropic loads towards their targets, with every token's k slots kept."""
        plan = ((priced - self._token_prices(priced)) / self.temperature).sigmoid()
        shares = plan.mean(-2) / self.k
        slope = (plan * (1 - plan)).mean(-2) / self.k / self.temperature  # d share / d price, its own expert's
        return ((target - shares) / slope.clamp_min(1e-6)).clamp(-0.5, 0.5)

    def _token_prices(self, priced: torch.Tensor) -> torch.Tensor:
        """U for which each token has k slots: Newton's method from the middle between the k-th and the next logit."""
        best = priced.topk(min(self.k + 1, priced.shape[-1]), dim=-1).values
        u = (best[..., self.k - 1 : self.k] + best[..., -1:]) / 2
        for _ in range(2):
            plan = ((priced - u) / self.temperature).sigmoid()
            slope = (plan * (1 - plan)).sum(-1, keepdim=True) / self.temperature
            u = u + ((plan.sum(-1, keepdim=True) - self.k) / slope.clamp_min(1e-3)).clamp(-1.0, 1.0)
        return u


class TestTimeTraining(Router):
    """Top-k of a gate whose parameters are trained while it serves, by gradient, on the energy that was measured per expert.

    The objective is λ·E_P[E] + KL(P ‖ P_0) = KL(P ‖ P*) + a constant, with P* ∝ P_0·exp(−λE), the price's own probabilities; at λ = 0
    nothing moves. Near P* its curvature in the logits is the covariance of P*, at most ½, so in the parameters it is at most L = ½·λ_max
    of the inputs' second moments (a constant 1 for the bias included): there gradient descent is stable for steps below 2/L, see
    :func:`largest_stable_step`. Far from P* no such bound holds, and the record shows what happened.
    """

    name = "test-time training"
    __test__ = False  # not a class of tests, whatever its name says

    def __init__(self, *, k: int, per_joule: float | torch.Tensor = 0.0, learning_rate: float = 0.4) -> None:
        super().__init__(k=k, per_joule=per_joule)
        if not learning_rate > 0:
            raise ConfigurationError(f"'learning_rate' must be > 0 (got {learning_rate}).")
        self.learning_rate = learning_rate

    def loss(self, logits: torch.Tensor, routing: Routing, energies_j: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """λ·E_P[E] + KL(P ‖ P_0) per token, for each point."""
        log_p = logits.log_softmax(-1)
        cost = (self.per_joule[..., None] * energies_j)[..., None, :].to(logits.dtype)
        per_token = (log_p.exp() * (cost + log_p - reference.log_softmax(-1))).sum(-1)
        return per_token.mean(-1)


class PublishedRouter(Router):
    """The published router, exactly: z − λ·0.001·(energy of the last batch in J)·c with c = 10 for experts 0–3 and 1 for the others.

    Its penalty grows with the size of a batch, its costs are not the experts' energies, and nothing is trained. A control, not a proposal.
    """

    name = "published"
    ENERGY_SCALE: ClassVar[float] = 0.001
    COSTS: ClassVar[tuple[float, ...]] = (10.0, 10.0, 10.0, 10.0, 1.0, 1.0, 1.0, 1.0)

    def __init__(self, *, k: int, per_joule: float | torch.Tensor = 0.0) -> None:
        super().__init__(k=k, per_joule=per_joule)
        self.last_energy_j: torch.Tensor | None = None

    def choose(self, logits: torch.Tensor, energies_j: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The rule of the published code."""
        if logits.shape[-1] != len(self.COSTS):
            raise ConfigurationError(f"the published router has costs for {len(self.COSTS)} experts, not for {logits.shape[-1]}.")
        if self.last_energy_j is None:
            return top_k(logits, self.k)
        base = self.per_joule * self.ENERGY_SCALE * self.last_energy_j
        return top_k(logits - (base[..., None] * logits.new_tensor(self.COSTS))[..., None, :], self.k)

    def observe(self, loads: torch.Tensor, energies_j: torch.Tensor) -> None:
        """What the published code calls its update: the total energy of the batch is kept."""
        self.last_energy_j = (loads * energies_j).sum(-1)


ROUTERS: tuple[type[Router], ...] = (
    Uniform, TopK, PenalisedTopK, AuxiliaryLoss, LossFreeBias, BiasToGibbs, ExpertChoice, Sinkhorn, TestTimeTraining, PublishedRouter,
)  # fmt: skip
"""All routers of a sweep; the null and the control first."""


def router_named(name: str) -> type[Router]:
    """The router of that name; raises :class:`ConfigurationError` with all names."""
    for router in ROUTERS:
        if router.name == name:
            return router
    raise ConfigurationError(f"no router is named {name!r}; choose one of {', '.join(repr(router.name) for router in ROUTERS)}.")


# --- parts --------------------------------------------------------------------------------------------------------------------


def top_k(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Mask of the k largest of the last axis."""
    chosen: torch.Tensor = import_torch().zeros_like(scores, dtype=import_torch().bool).scatter_(-1, scores.topk(k, dim=-1).indices, True)
    return chosen


def renormalised(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The gate's probabilities, renormalised over the chosen experts; a token that no expert took has weight 0 everywhere."""
    probabilities = logits.softmax(-1) * chosen
    return probabilities / probabilities.sum(-1, keepdim=True).clamp_min(1e-20)


def within_capacity(chosen: torch.Tensor, scores: torch.Tensor, *, k: int, capacity_factor: float) -> torch.Tensor:
    """``chosen`` with each expert cut to its ⌈CF·k·T/N⌉ tokens of the highest score; what does not fit is dropped."""
    if not capacity_factor >= 1:
        raise ConfigurationError(
            f"'capacity_factor' must be >= 1 (got {capacity_factor}): below 1 even balanced experts must drop tokens. Use 1.25, or None."
        )
    tokens, experts = chosen.shape[-2:]
    capacity = min(tokens, math.ceil(capacity_factor * k * tokens / experts))
    masked = scores.masked_fill(~chosen, -math.inf).transpose(-1, -2)
    kept = top_k(masked, capacity).transpose(-1, -2)
    return kept & chosen


def gibbs_loads(energies_j: torch.Tensor, per_joule: torch.Tensor, *, k: int) -> torch.Tensor:
    """Loads min(1/k, c·exp(−λE)), which add up to 1: the least energy at their entropy, where a token visits an expert at most once."""
    if energies_j.shape[-1] < k:
        raise ConfigurationError(f"k = {k} distinct experts per token need at least {k} experts (got {energies_j.shape[-1]}).")
    weights = (-per_joule[..., None] * energies_j).softmax(-1)
    loads, capped = weights, weights.new_zeros(weights.shape, dtype=import_torch().bool)
    for _ in range(k):  # each round caps at least one expert more, and at most k can be at the cap
        capped = capped | (loads > 1 / k)
        free = (weights * ~capped).sum(-1, keepdim=True)
        left = 1 - capped.to(weights.dtype).sum(-1, keepdim=True) / k
        loads = (weights * (left / free.clamp_min(1e-30))).masked_fill(capped, 1 / k)
    return loads


def whole_loads(shares: torch.Tensor, *, slots: int, tokens: int) -> torch.Tensor:
    """``shares`` of ``slots`` as whole numbers that add up to it: the largest remainders are rounded up; no expert exceeds ``tokens``."""
    exact = (shares.double() * slots).clamp(max=float(tokens))
    whole = exact.floor()
    missing = (slots - whole.sum(-1, keepdim=True)).round()
    order = (exact - whole).masked_fill(whole >= tokens, -1.0).argsort(dim=-1, descending=True, stable=True)
    ranks = order.argsort(dim=-1)
    counts: torch.Tensor = (whole + (ranks < missing)).long()
    return counts


def largest_stable_step(inputs: torch.Tensor) -> torch.Tensor:
    """Step size 2/L below which test-time training on ``inputs`` (…, tokens, features) is stable, L = ½·λ_max of their second moments."""
    library = import_torch()
    extended = library.cat([inputs, inputs.new_ones((*inputs.shape[:-1], 1))], dim=-1)
    moments = extended.transpose(-1, -2) @ extended / extended.shape[-2]
    step: torch.Tensor = 4.0 / library.linalg.eigvalsh(moments)[..., -1]
    return step


def check_logits(logits: torch.Tensor, k: int) -> None:
    """Raise where logits cannot be routed."""
    if logits.dim() < 2:
        raise ConfigurationError(f"logits have the shape (…, tokens, experts) (got {tuple(logits.shape)}).")
    if logits.shape[-1] < k:
        raise ConfigurationError(f"k = {k} distinct experts per token need at least {k} experts (got {logits.shape[-1]}).")
    if not bool(logits.isfinite().all()):
        bad = int((~logits.isfinite()).any(-1).sum())
        raise ValueError(
            f"{bad} tokens have logits that are not finite: top-k would send them anywhere. Look for a division by zero, an overflow in "
            "half precision, or a learning rate that diverged."
        )


def _per_joule(value: float | torch.Tensor) -> torch.Tensor:
    library = import_torch()
    if not isinstance(value, int | float | library.Tensor) or isinstance(value, bool):
        raise ConfigurationError(f"λ is a number in 1/J per slot, or a tensor of them (got {value!r}).")
    found: torch.Tensor = library.as_tensor(value, dtype=library.float32)
    if not bool((found.isfinite() & (found >= 0)).all()):
        raise ConfigurationError(f"λ must be finite and >= 0 1/J (got {value}): a negative one seeks the costly experts.")
    return found
