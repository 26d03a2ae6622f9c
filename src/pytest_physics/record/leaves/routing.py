"""Estimates about a sweep of routers, from the tables that it recorded.

``routing-points-N``
    A row for each point (``router``, ``per_joule``, ``gate``) and block of batches (``block``). For each expert e its ``slots_e``, the
    energy they took ``energy_j_e``, the energy per slot that the router was told ``told_j_e`` (mean of the block), and the temperature
    ``temperature_c_e`` when the block began. ``total_j``, what the field billed for all of them; ``regret`` in nats per token;
    ``largest_load`` of any expert in any batch of the block; ``parameter_change`` of the gate as a share of its norm; ``order``, the turn
    in which the block began.
``routing-experts-N``
    A row for each expert, with its energy per slot at the reference temperature and its coefficient; in every row what the whole sweep
    shares: ``top_k``, ``tokens`` per batch, ``block`` batches, ``seed`` and ``features`` of the gates, ``step`` of test-time training and
    the largest stable one.
``routing-models-points-N``, ``routing-models-experts-N``
    The same for trained language models: ``gate`` is the seed of model and text, blocks are those of the validation, with ``loss`` in nats
    per token; ``steps`` of training and the text's ``entropy_rate``.
``routing-published-N``
    A row for each published usage (``seed`` −1) and for each seed of the published router simulated anew.

A point is judged on the second half of its batches: the first half is for settling. Gates are the repetitions: an estimate is the mean over
gates, with their scatter and n − 1 degrees of freedom; savings and differences are paired within a gate, against λ = 0 of the same router
on the same data. Energies are realised costs, energy over slots of each expert, so ``H ≤ H_max(E)`` holds for every point exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import interpolate

from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.metrology import routing, routing_gates
from pytest_physics.metrology.quality import Provenance, Quality
from pytest_physics.metrology.routing_estimates import PhaseTrend, Statistic, effective_lambda, mean_statistic, phase_trend
from pytest_physics.metrology.routing_published import reproduce
from pytest_physics.metrology.thermal_field import PUBLISHED_COSTS_J
from pytest_physics.metrology.uncertainty import Component, Estimate, Gate
from pytest_physics.record.data import RunData
from pytest_physics.record.registry import leaf

FloatArray = NDArray[np.float64]
Parameters = Mapping[str, Any]

BATCH_SIZE_SLACK = 0.005
"""Share of the energy by which batches of two sizes may differ for other reasons than the penalty: whole slots, and bias that settles."""
ROUNDING = 1e-12
"""Scatter between gates below this share of the value is that of sums in another order."""
MOST_WARMING = 0.05
"""Largest share by which the energy billed may differ from what the router was told: experts warm within a batch."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Usage:
    """All gates of one router at one λ; arrays have the shape (gates, blocks, experts) or (gates, blocks)."""

    router: str
    per_joule: float
    gates: tuple[int, ...]
    slots: FloatArray
    energy_j: FloatArray
    told_j: FloatArray
    temperature_c: FloatArray
    regret: FloatArray
    largest_load: FloatArray
    parameter_change: FloatArray
    loss: FloatArray | None
    """Validation loss in nats per token, where a language model was trained."""
    total_j: float
    """All energy billed, in all blocks and gates."""
    tokens_per_block: float
    top_k: int
    slots_per_batch: float

    @property
    def late(self) -> slice:
        """Blocks that count: the second half."""
        return slice(self.slots.shape[1] // 2, None)

    @cached_property
    def pooled(self) -> FloatArray:
        """Slots of the late blocks, shape (gates, experts)."""
        return np.asarray(self.slots[:, self.late].sum(axis=1))

    @cached_property
    def costs(self) -> FloatArray:
        """Realised energy per slot of each gate and expert in the late blocks; what it was told where an expert had no slot."""
        energy, told = self.energy_j[:, self.late].sum(axis=1), self.told_j[:, self.late].mean(axis=1)
        return np.asarray(np.where(self.pooled > 0, energy / np.maximum(self.pooled, 1), told))

    @cached_property
    def energy_per_slot(self) -> FloatArray:
        """J/slot of each gate."""
        return np.asarray(self.energy_j[:, self.late].sum(axis=(1, 2)) / self.pooled.sum(axis=1))

    @cached_property
    def entropy(self) -> FloatArray:
        """Plain diversity of each gate in nats: the one that obeys the bound."""
        return np.array([routing.entropy(row) for row in self.pooled])

    @cached_property
    def gap(self) -> FloatArray:
        """H_max(E) − H of each gate, at its own realised costs."""
        return np.array([routing.frontier_gap(row, costs) for row, costs in zip(self.pooled, self.costs, strict=True)])

    def violation(self) -> FloatArray:
        """MaxVio of the pooled load of each gate."""
        return np.array([routing.maximum_violation(row) for row in self.pooled])

    def capacity_factor(self) -> FloatArray:
        """Capacity factor with which no batch would have dropped a slot, for each gate."""
        return np.asarray(self.largest_load[:, self.late].max(axis=1) / (self.slots_per_batch / self.slots.shape[2]))

    def trend(self) -> PhaseTrend:
        """Energy per slot, early, middle and late."""
        return phase_trend(self.energy_j.sum(axis=2) / self.slots.sum(axis=2), unit="J/slot")


class Sweep:
    """A recorded sweep."""

    def __init__(self, points: NDArray[np.void], experts: NDArray[np.void]) -> None:
        self.points, self.experts = points, experts
        self.n_experts = len(experts)
        self._known: dict[tuple[str, float], Usage] = {}

    @classmethod
    def of(cls, data: RunData, points: str, experts: str) -> Sweep:
        """The sweep in two tables of a run."""
        key = f"routing|{points}|{experts}"
        if key not in data.memory:
            data.memory[key] = cls(data.table(points), data.table(experts))
        found: Sweep = data.memory[key]
        return found

    @property
    def routers(self) -> list[str]:
        """Names, in order of the record."""
        return list(dict.fromkeys(map(str, self.points["router"])))

    def lambdas(self, router: str) -> list[float]:
        """λ of a router, ascending."""
        return sorted(map(float, np.unique(self.points["per_joule"][self.points["router"] == router])))

    @property
    def reference_costs(self) -> FloatArray:
        """Energy per slot at the reference temperature."""
        return np.asarray(self.experts["energy_j"], float)

    @property
    def acts(self) -> bool:
        """Whether temperature changes an energy in this field."""
        return bool((self.experts["coefficient_per_k"] > 0).any() or np.isfinite(self.experts["throttle_c"]).any())

    def usage(self, router: str, per_joule: float) -> Usage:
        """One router at one λ; ``ChannelUnavailableError`` where this run has no such points."""
        key = router, float(per_joule)
        if key not in self._known:
            self._known[key] = self._read(*key)
        return self._known[key]

    def _read(self, router: str, per_joule: float) -> Usage:
        rows = self.points[(self.points["router"] == router) & (self.points["per_joule"] == per_joule)]
        if not len(rows):
            raise ChannelUnavailableError(f"this run has no points of the router '{router}' at λ = {per_joule:g} /J; see 'routing.points'.")
        rows = rows[np.lexsort((rows["block"], rows["gate"]))]
        gates = tuple(map(int, np.unique(rows["gate"])))
        shape = (len(gates), len(rows) // len(gates))

        def experts(name: str) -> FloatArray:
            return np.stack([rows[f"{name}_{e}"] for e in range(self.n_experts)], axis=-1).astype(float).reshape(*shape, self.n_experts)

        one = self.experts[0]
        return Usage(
            router=router, per_joule=per_joule, gates=gates, slots=experts("slots"), energy_j=experts("energy_j"), told_j=experts("told_j"),
            temperature_c=experts("temperature_c"), regret=rows["regret"].astype(float).reshape(shape),
            largest_load=rows["largest_load"].astype(float).reshape(shape), total_j=float(rows["total_j"].sum()),
            parameter_change=rows["parameter_change"].astype(float).reshape(shape),
            loss=rows["loss"].astype(float).reshape(shape) if "loss" in (rows.dtype.names or ()) else None, top_k=int(one["top_k"]),
            tokens_per_block=float(one["tokens"] * one["block"]), slots_per_batch=float(one["tokens"] * one["top_k"]),
        )  # fmt: skip

    def control(self, usage: Usage) -> Usage:
        """λ = 0 of the same router."""
        return self.usage(usage.router, 0.0)

    def lowest_gap(self) -> float:
        """Smallest H_max(E) − H of all points and gates."""
        return min(float(self.usage(name, per_joule).gap.min()) for name in self.routers for per_joule in self.lambdas(name))


# --- quantities: one number for each gate -------------------------------------------------------------------------------------


def _effective(usage: Usage, _sweep: Sweep) -> FloatArray:
    pairs = zip(usage.costs, usage.energy_per_slot, strict=True)
    return np.array([effective_lambda(costs, float(energy), 0.0).value for costs, energy in pairs])


def _hot_load(usage: Usage, sweep: Sweep) -> FloatArray:
    return _class_load(usage, sweep, hot=True)


def _cold_load(usage: Usage, sweep: Sweep) -> FloatArray:
    return _class_load(usage, sweep, hot=False)


def _class_load(usage: Usage, sweep: Sweep, *, hot: bool) -> FloatArray:
    """Load factor of the experts of more, or of not more, than the mean cost: 1 is uniform."""
    costs = sweep.reference_costs
    chosen = (costs > costs.mean() * (1 + 1e-9)) == hot
    if not chosen.any():
        raise ChannelUnavailableError("all experts of this field cost the same at the reference temperature: none is hot and none is cold.")
    shares = usage.pooled[:, chosen].sum(axis=1) / usage.pooled.sum(axis=1)
    return np.asarray(shares / chosen.mean())


def _hot_share(usage: Usage, sweep: Sweep) -> FloatArray:
    costs = sweep.reference_costs
    hot = costs > costs.mean() * (1 + 1e-9)
    slots = usage.slots.sum(axis=1)  # all batches: the published numbers leave none out
    return np.asarray(slots[:, hot].sum(axis=1) / slots.sum(axis=1))


def _warmest(usage: Usage, _sweep: Sweep) -> FloatArray:
    return np.asarray(usage.temperature_c[:, usage.late].mean(axis=1).max(axis=1))


def _against_uniform(usage: Usage, sweep: Sweep) -> FloatArray:
    return 1 - usage.energy_per_slot / float(sweep.usage("uniform", 0.0).energy_per_slot.mean())


def _against_no_control(usage: Usage, sweep: Sweep) -> FloatArray:
    return 1 - usage.energy_per_slot / _same_gates(sweep.usage("no control", 0.0), usage).energy_per_slot


def _saving(usage: Usage, sweep: Sweep) -> FloatArray:
    return 1 - usage.energy_per_slot / _same_gates(sweep.control(usage), usage).energy_per_slot


def _energy_change(usage: Usage, sweep: Sweep) -> FloatArray:
    return usage.energy_per_slot - _same_gates(sweep.control(usage), usage).energy_per_slot


def _drift(usage: Usage, _sweep: Sweep) -> FloatArray:
    series = usage.energy_j.sum(axis=2) / usage.slots.sum(axis=2)
    third = series.shape[1] // 3
    return np.asarray(series[:, -third:].mean(axis=1) - series[:, :third].mean(axis=1))


def _loss(usage: Usage, _sweep: Sweep) -> FloatArray:
    if usage.loss is None:
        raise ChannelUnavailableError("a sweep of gates has no validation loss: its gates belong to no language model.")
    return np.asarray(usage.loss[:, usage.late].mean(axis=1))


def _loss_change(usage: Usage, sweep: Sweep) -> FloatArray:
    return _loss(usage, sweep) - _loss(_same_gates(sweep.control(usage), usage), sweep)


def _require_gates(usage: Usage) -> None:
    if len(usage.gates) < 2:
        raise ChannelUnavailableError(
            f"'{usage.router}' at λ = {usage.per_joule:g} /J has one gate, which has no interval; merge it with the runs of other gates."
        )


def _same_gates(control: Usage, treated: Usage) -> Usage:
    if control.gates != treated.gates:
        raise ChannelUnavailableError(
            f"'{treated.router}' at λ = {treated.per_joule:g} has the gates {treated.gates}, its control {control.gates}: not paired."
        )
    return control


QUANTITIES: Mapping[str, tuple[Callable[[Usage, Sweep], FloatArray], str]] = {
    "energy per slot": (lambda u, _: u.energy_per_slot, "J/slot"),
    "diversity": (lambda u, _: np.array([routing.miller_madow(row) for row in u.pooled]), "nat"),
    "score regret": (lambda u, _: u.regret[:, u.late].mean(axis=1), "nat/token"),
    "max load violation": (lambda u, _: u.violation(), "1"),
    "capacity factor": (lambda u, _: u.capacity_factor(), "1"),
    "distance to the frontier": (lambda u, _: u.gap, "nat"),
    "effective λ": (_effective, "1/J"),
    "load factor of hot experts": (_hot_load, "1"),
    "load factor of cold experts": (_cold_load, "1"),
    "hot share": (_hot_share, "1"),
    "warmest expert": (_warmest, "°C"),
    "saving against uniform": (_against_uniform, "1"),
    "saving against no control": (_against_no_control, "1"),
    "saving": (_saving, "1"),
    "change of energy": (_energy_change, "J/slot"),
    "late minus early": (_drift, "J/slot"),
    "validation loss": (_loss, "nat/token"),
    "change of loss": (_loss_change, "nat/token"),
    "change of parameters": (lambda u, _: u.parameter_change[:, -1], "1"),
}
"""Quantity of a point to its value for each gate, and its unit."""
SAVINGS = frozenset({"saving", "saving against uniform", "saving against no control"})
"""Quantities that only a router which answers to cost in the right way may have."""


@leaf("routing.point")
def point(parameters: Parameters, data: RunData) -> Estimate:
    """One quantity of one router at one λ: mean over gates."""
    sweep, usage = _point_of(parameters, data)
    _require_gates(usage)
    values, unit = QUANTITIES[parameters["quantity"]]
    statistic = mean_statistic(values(usage, sweep), unit=unit)
    gates = common_gates(sweep, usage)
    if parameters["quantity"] in SAVINGS and usage.per_joule > 0:
        gates += response_gates(sweep, usage, parameters, data)
    if parameters["quantity"] == "saving against uniform":
        gates += (_null_gate(sweep),)
    return _estimate(statistic, parameters, gates, estimator=f"mean over {len(usage.gates)} gates")


@leaf("routing.at_saving")
def at_saving(parameters: Parameters, data: RunData) -> Estimate:
    """A quantity where a router saves a given share of its own λ = 0: each gate's curve over λ, interpolated without overshoot."""
    sweep = Sweep.of(data, parameters["points"], parameters["experts"])
    name, share = str(parameters["router"]), float(parameters["saving"])
    if len(sweep.lambdas(name)) < 2:
        raise ChannelUnavailableError(f"this run has fewer than two λ of the router '{name}': no curve to read a saving from.")
    usages = [sweep.usage(name, per_joule) for per_joule in sweep.lambdas(name)]
    _require_gates(usages[0])
    savings = np.array([_saving(usage, sweep) for usage in usages])
    values, unit = CURVES[parameters["quantity"]]
    curves = np.array([values(usage, sweep) for usage in usages])
    found = [_where(savings[:, g], curves[:, g], share) for g in range(savings.shape[1])]
    reach = _reach_gate(name, share, savings)
    if not reach.passed:
        return Estimate(value=math.nan, unit=unit, quality=Quality.NO_DATA, provenance=Provenance.SIMULATED, gates=(reach,))
    gates = (*common_gates(sweep, usages[-1]), *response_gates(sweep, usages[-1], parameters, data), reach)
    return _estimate(mean_statistic(found, unit=unit), parameters, gates, estimator=f"interpolated between {len(usages)} λ")


CURVES: Mapping[str, tuple[Callable[[Usage, Sweep], FloatArray], str]] = {
    "diversity given up": (lambda u, s: s.control(u).entropy - u.entropy, "nat"),
    "score regret": (lambda u, _: u.regret[:, u.late].mean(axis=1), "nat/token"),
    "distance to the frontier": (lambda u, _: u.gap, "nat"),
}
"""Quantities that are read off where a router reaches a saving."""


def _where(savings: FloatArray, values: FloatArray, share: float) -> float:
    """``values`` where ``savings`` reaches ``share``; NaN where it does not."""
    order = np.argsort(savings)
    x, y = savings[order], values[order]
    kept = np.concatenate([[True], np.diff(x) > 1e-12])
    if kept.sum() < 2 or not x[0] <= share <= x[-1]:
        return math.nan
    return float(interpolate.PchipInterpolator(x[kept], y[kept])(share))


def _reach_gate(name: str, share: float, savings: FloatArray) -> Gate:
    least = float(savings.max(axis=0).min())
    return Gate(
        name="saving reached", scope=f"router '{name}'", measured=least, limit=share, unit="1", passed=least >= share,
        reason=f"every gate saves at least {least:.1%} at the largest λ ({share:.0%} is asked for)",
        remedy="" if least >= share else "sweep to a larger λ",
    )  # fmt: skip


@leaf("routing.lowest_gap")
def lowest_gap(parameters: Parameters, data: RunData) -> Estimate:
    """The smallest distance to the frontier of any point and gate: exact, an identity of recorded counts and energies."""
    sweep = Sweep.of(data, parameters["points"], parameters["experts"])
    count = len({(str(r["router"]), float(r["per_joule"]), int(r["gate"])) for r in sweep.points[["router", "per_joule", "gate"]]})
    return Estimate(
        value=sweep.lowest_gap(), unit="nat", quality=Quality.GOOD, provenance=Provenance.SIMULATED,
        estimator=f"least of H_max(E) − H over {count} points",
    )  # fmt: skip


@leaf("routing.step")
def step_of_training(parameters: Parameters, data: RunData) -> Estimate:
    """Step of test-time training over the largest stable one of any gate; below 1 gradient descent cannot diverge."""
    experts = data.table(parameters["experts"])
    value = float(experts["step"][0] / experts["stable_step"][0])
    return Estimate(
        value=value, unit="1", quality=Quality.GOOD, provenance=Provenance.DERIVED, estimator="2/L from the inputs' second moments"
    )


@leaf("routing.published")
def published(parameters: Parameters, data: RunData) -> Estimate:
    """One figure of a published usage, computed anew; counts are exact, so is what follows from them by arithmetic."""
    rows = data.table(parameters["table"])
    row = rows[(rows["seed"] == -1) & (rows["study"] == parameters["study"]) & (rows["lambda"] == parameters["lambda"])]
    if len(row) != 1:
        raise ChannelUnavailableError(f"no published usage '{parameters['study']}' at λ = {parameters['lambda']:g} is on record.")
    value, unit = PUBLISHED[parameters["quantity"]](_usage_in(row)[0])
    return Estimate(value=value, unit=unit, quality=Quality.GOOD, provenance=Provenance.DERIVED, estimator="published counts, recomputed")


def _usage_in(rows: NDArray[np.void]) -> FloatArray:
    return np.stack([rows[f"slots_{e}"] for e in range(8)], axis=-1).astype(float)


PUBLISHED: Mapping[str, Callable[[FloatArray], tuple[float, str]]] = {
    "energy": lambda n: (reproduce(n).total_energy_j, "J"),
    "energy per slot": lambda n: (reproduce(n).total_energy_j / float(n.sum()), "J/slot"),
    "saving on its own baseline": lambda n: (reproduce(n).savings_percent / 100, "1"),
    "saving against uniform": lambda n: (reproduce(n).saving_percent_of_uniform / 100, "1"),
    "saving of uniform routing on its own baseline": lambda n: (
        1 - routing.uniform_energy(PUBLISHED_COSTS_J) * float(n.sum()) / reproduce(n).baseline_j, "1",
    ),
    "thermal imbalance": lambda n: (reproduce(n).thermal_imbalance, "1"),
    "diversity": lambda n: (reproduce(n).diversity_nats, "nat"),
    "cold share": lambda n: (float(n[:6].sum() / n.sum()), "1"),
    "hot share": lambda n: (float(n[6:].sum() / n.sum()), "1"),
    "effective λ": lambda n: (effective_lambda(PUBLISHED_COSTS_J, routing.energy_per_slot(n, PUBLISHED_COSTS_J), 0.0).value, "1/J"),
    "energy excess": lambda n: (routing.energy_excess(n, PUBLISHED_COSTS_J), "1"),
}  # fmt: skip
"""Figure of a published usage to its value and unit."""


@leaf("routing.published_spread")
def published_spread(parameters: Parameters, data: RunData) -> Estimate:
    """Distance of the published hot share from the mean of the router simulated anew, in standard deviations between its seeds."""
    rows = data.table(parameters["table"])
    stated = _usage_in(rows[(rows["seed"] == -1) & (rows["study"] == "run")])
    simulated = _usage_in(rows[rows["seed"] >= 0])
    shares = simulated[:, 6:].sum(axis=1) / simulated.sum(axis=1)
    value = float(stated[0, 6:].sum() / stated[0].sum() - shares.mean()) / float(shares.std(ddof=1))
    return Estimate(
        value=value, unit="1", quality=Quality.GOOD, provenance=Provenance.SIMULATED,
        estimator=f"hot share {shares.mean():.3f} ± {shares.std(ddof=1):.3f} of {len(shares)} seeds",
    )  # fmt: skip


@leaf("routing.batch_size")
def batch_size(parameters: Parameters, data: RunData) -> Estimate:
    """Relative change of the energy per slot when batches are half as large, same gates, same λ, paired; no temperature acts here."""
    small, large = _two_sizes(parameters, data)
    ratios = small.energy_per_slot / _same_gates(large, small).energy_per_slot - 1
    gates = (*common_gates(Sweep.of(data, parameters["half"], parameters["half_experts"]), small),)
    return _estimate(mean_statistic(ratios, unit="1"), parameters, gates, estimator="paired, half against whole batches")


def _two_sizes(parameters: Parameters, data: RunData) -> tuple[Usage, Usage]:
    name = str(parameters["router"])
    if "half" not in parameters:
        raise ChannelUnavailableError("this run compared no batches of two sizes: a run of named points leaves that out.")
    half = Sweep.of(data, parameters["half"], parameters["half_experts"])
    whole = Sweep.of(data, parameters["whole"], parameters["whole_experts"])
    return half.usage(name, max(half.lambdas(name))), whole.usage(name, max(whole.lambdas(name)))


# --- gates --------------------------------------------------------------------------------------------------------------------


def _point_of(parameters: Parameters, data: RunData) -> tuple[Sweep, Usage]:
    sweep = Sweep.of(data, parameters["points"], parameters["experts"])
    return sweep, sweep.usage(str(parameters["router"]), float(parameters["per_joule"]))


def common_gates(sweep: Sweep, usage: Usage) -> tuple[Gate, ...]:
    """What every number of a point rests on: nothing lost, nothing below the bound, one cost vector, its control."""
    slots, energy = usage.slots.sum(axis=(0, 1)), usage.energy_j.sum(axis=(0, 1))
    tokens = usage.tokens_per_block * usage.slots.shape[0] * usage.slots.shape[1]
    worst = int(np.argmin(usage.gap))
    control = sweep.usage(usage.router, 0.0).gates if 0.0 in sweep.lambdas(usage.router) else ()
    return (
        routing_gates.slots_gate(slots, tokens, usage.top_k),
        _billing_gate(usage),
        routing_gates.energy_gate(slots, np.where(slots > 0, energy / np.maximum(slots, 1), usage.told_j.mean(axis=(0, 1))), usage.total_j),
        routing_gates.bound_gate(usage.pooled[worst], usage.costs[worst]),
        routing_gates.capacity_gate(usage.pooled, top_k=1 if usage.router == "expert choice" else usage.top_k),
        routing_gates.pairing_gate(usage.gates, control),
    )  # fmt: skip


def _billing_gate(usage: Usage) -> Gate:
    """The energies that the router was told are those that it paid, but for the warming within a block."""
    used = usage.slots > 0
    paid = usage.energy_j[used] / usage.slots[used]
    off = float(np.max(np.abs(np.mean(paid / usage.told_j[used]) - 1))) if used.any() else math.inf
    return Gate(
        name="one cost vector", scope="routing", measured=off, limit=MOST_WARMING, unit="1", passed=off <= MOST_WARMING,
        reason=f"energy paid per slot differs from what the router was told by {off:.2%} on average (limit {MOST_WARMING:.0%})",
        remedy="" if off <= MOST_WARMING else "let router and accountant use one cost vector, or use shorter batches",
    )  # fmt: skip


def response_gates(sweep: Sweep, usage: Usage, parameters: Parameters, data: RunData | None) -> tuple[Gate, ...]:
    """What a saving rests on: the right sign, energy that falls with λ, a penalty that does not depend on the batch."""
    lambdas = sweep.lambdas(usage.router)
    usages = [sweep.usage(usage.router, per_joule) for per_joule in lambdas]
    costs = usage.costs.mean(axis=0)
    gates = (
        routing_gates.sign_gate(lambdas, [u.pooled.sum(axis=0) for u in usages], costs),
        routing_gates.monotonicity_gate(lambdas, [_paired(u, usages[0]) for u in usages]),
    )
    return (*gates, _batch_size_gate(parameters, data)) if data is not None and "half" in parameters else gates


def _paired(usage: Usage, control: Usage) -> Statistic:
    """Energy per slot with the uncertainty of its paired difference from λ = 0: gates differ more than λ does."""
    change = usage.energy_per_slot - _same_gates(control, usage).energy_per_slot
    u = float(change.std(ddof=1)) / math.sqrt(len(change))
    return Statistic(value=float(usage.energy_per_slot.mean()), u=u, dof=len(change) - 1, unit="J/slot")


def _batch_size_gate(parameters: Parameters, data: RunData) -> Gate:
    small, large = _two_sizes(parameters, data)
    change = small.energy_per_slot - _same_gates(large, small).energy_per_slot
    mean = float(large.energy_per_slot.mean())
    u = math.hypot(float(change.std(ddof=1)) / math.sqrt(len(change)), BATCH_SIZE_SLACK * mean)
    first = Statistic(value=mean + float(change.mean()), u=u, dof=len(change) - 1, unit="J/slot")
    second = Statistic(value=mean, u=0.0, dof=math.inf, unit="J/slot")
    sizes = tuple(round(usage.slots_per_batch / usage.top_k) for usage in (small, large))
    return routing_gates.batch_size_gate(first, second, (sizes[0], sizes[1]))


def _null_gate(sweep: Sweep) -> Gate:
    """Uniform routing must cost what the baseline says, at its own temperatures."""
    uniform = sweep.usage("uniform", 0.0)
    costs, slots = uniform.costs.mean(axis=0), float(uniform.pooled.sum())
    return routing_gates.baseline_gate(costs, slots, float(uniform.energy_j[:, uniform.late].sum()))


def _estimate(statistic: Statistic, parameters: Parameters, gates: tuple[Gate, ...], *, estimator: str) -> Estimate:
    source = "routing|" + "|".join(f"{key}={parameters[key]}" for key in sorted(parameters))
    scatter = Component(label="between gates", source=source, contribution=statistic.u, dof=statistic.dof, evaluation="A")
    return Estimate(
        value=statistic.value, unit=statistic.unit, components=(scatter,) if statistic.u > ROUNDING * abs(statistic.value) else (),
        quality=Quality.GOOD, provenance=Provenance.SIMULATED, estimator=estimator, gates=gates,
    )  # fmt: skip
