"""The routing sweep: what each router pays, in diversity and in score, for the energy that it saves, against the exact limit.

Protocol: every router at every λ on the same seeded gates and the same data, batch after batch in a seeded order, on a thermal field of
experts; λ = 0 of each router is its paired control. Raw counts and energies of blocks of batches are recorded; every number follows from
them (:mod:`pytest_physics.record.leaves.routing`). Then two short sweeps with whole and half batches where temperature does nothing: a
price per slot must not depend on the batch. The published router is one of the arms, and its published counts are recomputed beside it.

Energy and temperature are simulated and say so. Choices, gradients and training are real. Where ``routing.points`` names some points, only
these run: one job of an array, whose runs are merged afterwards; claims about points that are not there are NOT_TESTED.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_physics.config import RoutingSettings
from pytest_physics.errors import ConfigurationError, nearest_name
from pytest_physics.metrology.routing_published import RUN, RUN_USAGE, SWEEP_USAGE, simulate_published
from pytest_physics.metrology.thermal_field import FIELDS, FieldOfPoints, ThermalField
from pytest_physics.metrology.uncertainty import Estimate, Recipe
from pytest_physics.record.leaves.routing import QUANTITIES
from pytest_physics.session import Session
from pytest_physics.workloads.moe import ROUTERS, TestTimeTraining
from pytest_physics.workloads.moe_training import TRAINED, MarkovText, ModelSetting, train_models
from pytest_physics.workloads.routing_simulation import Point, Setting, simulate, stable_steps

EXPERIMENT = "routing sweep"
MODELS = "routing in a language model"
RECORDED = (
    "energy per slot", "saving", "diversity", "score regret", "max load violation", "capacity factor", "distance to the frontier",
)  # fmt: skip
"""Quantities of each point that are results of the run; all others can be asked for."""
MODEL_RECORDED = ("validation loss", "change of loss", "energy per slot", "saving", "diversity", "distance to the frontier")
"""The same for language models."""
SIZE_LAMBDA = 0.2
"""λ at which batches of two sizes are compared."""
SIZE_BATCHES = 32
PUBLISHED_SEEDS = 40
"""Seeds of the published router at the reported setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingSweep:
    """A recorded sweep: the tables of its points."""

    session: Session
    tables: Mapping[str, str]
    """``points`` and ``experts`` of the sweep, ``whole``, ``half`` and their experts for the two sizes of batches, to table ids."""

    def of(self, router: str, per_joule: float, quantity: str) -> Estimate:
        """One quantity of one router at one λ: see :data:`~pytest_physics.record.leaves.routing.QUANTITIES`."""
        known_quantity(quantity)
        return self._evaluate("routing.point", router=router, per_joule=per_joule, quantity=quantity, **self._main())

    def at_saving(self, router: str, saving: float, quantity: str) -> Estimate:
        """What the router gives up where it saves that share of its own λ = 0."""
        return self._evaluate("routing.at_saving", router=router, saving=saving, quantity=quantity, **self._main())

    def lowest_gap(self) -> Estimate:
        """Smallest distance to the frontier of any point."""
        return self._evaluate("routing.lowest_gap", points=self.tables["points"], experts=self.tables["experts"])

    def batch_size(self, router: str) -> Estimate:
        """Relative change of the energy per slot with half the batch."""
        return self._evaluate("routing.batch_size", router=router, **self._sizes())

    def step(self) -> Estimate:
        """Step of test-time training over the largest stable one."""
        return self._evaluate("routing.step", experts=self.tables["experts"])

    def _main(self) -> dict[str, str]:
        return {"points": self.tables["points"], "experts": self.tables["experts"], **self._sizes()}

    def _sizes(self) -> dict[str, str]:
        return {name: self.tables[name] for name in ("half", "half_experts", "whole", "whole_experts") if name in self.tables}

    def _evaluate(self, op: str, **parameters: Any) -> Estimate:  # noqa: ANN401 -- JSON values
        return self.session.evaluate(Recipe(op=op, parameters=parameters))


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedUsage:
    """The published counts, and the published router simulated anew, as a table."""

    session: Session
    table: str

    def of(self, quantity: str, *, study: str = "run", per_joule: float = 0.1) -> Estimate:
        """One figure of the reported ``run`` or of the batch job's ``sweep`` at one of its λ."""
        parameters = {"table": self.table, "study": study, "lambda": per_joule, "quantity": quantity}
        return self.session.evaluate(Recipe(op="routing.published", parameters=parameters))

    def spread(self) -> Estimate:
        """Distance of the published hot share from that of the router simulated anew, in standard deviations of its seeds."""
        return self.session.evaluate(Recipe(op="routing.published_spread", parameters={"table": self.table}))


def run_routing_sweep(session: Session) -> RoutingSweep:
    """Simulate the sweep of the settings, or those of its points that they name, and record it."""
    settings = session.settings.routing
    setting = sweep_setting(settings, session.settings.seed)
    points = chosen_points(settings)
    tables = _simulated(session, "routing", points, setting, field_named(settings.field))
    if not settings.points:
        for name, size in _two_sizes(setting).items():
            found = _simulated(session, f"routing-{name}", size_points(settings), size, FIELDS["published"])
            tables |= {name: found["points"], f"{name}_experts": found["experts"]}
    sweep = RoutingSweep(session=session, tables=tables)
    record_points(sweep, points)
    return sweep


def run_routing_models(session: Session) -> RoutingSweep:
    """Train small language models under several routers, and record loss, loads and energy of their validation."""
    settings = session.settings.routing
    setting, field = ModelSetting(steps=settings.model_steps), field_named(settings.field)
    points = [
        Point(router=router.name, per_joule=per_joule, gate=seed)
        for router in TRAINED
        for per_joule in settings.model_lambdas_per_j
        for seed in range(settings.model_seeds)
    ]
    columns = train_models(points, setting, lambda count: FieldOfPoints(field, count))
    experts = expert_columns(setting.routing, field) | model_columns(setting, settings.model_seeds)
    tables = {
        "points": session.tabulate("routing-models-points", columns),
        "experts": session.tabulate("routing-models-experts", experts),
    }
    models = RoutingSweep(session=session, tables=tables)
    record_points(models, points, MODELS, MODEL_RECORDED)
    return models


def record_published(session: Session) -> PublishedUsage:
    """Record the published counts, and as many simulations of the published router as tell its spread."""
    seeds = range(PUBLISHED_SEEDS)
    usages = [RUN_USAGE, *SWEEP_USAGE.values(), *(simulate_published(RUN, seed).usage.sum(axis=0) for seed in seeds)]
    columns: dict[str, Any] = {
        "study": ["run", *["sweep"] * len(SWEEP_USAGE), *["simulated"] * len(seeds)],
        "lambda": [RUN.lambda_, *SWEEP_USAGE, *[RUN.lambda_] * len(seeds)],
        "seed": [-1] * (1 + len(SWEEP_USAGE)) + list(seeds),
    }
    columns |= {f"slots_{e}": [int(usage[e]) for usage in usages] for e in range(len(RUN_USAGE))}
    return PublishedUsage(session=session, table=session.tabulate("routing-published", columns))


# --- parts --------------------------------------------------------------------------------------------------------------------


def sweep_setting(settings: RoutingSettings, seed: int) -> Setting:
    """Size of the sweep."""
    return Setting(sequences=settings.sequences, features=settings.features, batches=settings.batches, block=settings.block, seed=seed)


def chosen_points(settings: RoutingSettings) -> list[Point]:
    """All points of the settings' grid, or those that they name; a named point may lie outside of the grid."""
    if settings.points:
        return [Point.parse(text) for text in settings.points]
    return [
        Point(router=router.name, per_joule=per_joule, gate=gate)
        for router in ROUTERS
        for per_joule in (settings.lambdas_per_j if router.steered else (0.0,))
        for gate in range(settings.gates)
    ]


def size_points(settings: RoutingSettings) -> list[Point]:
    """Every router at one λ, for batches of two sizes; λ = 0 comes along as its control."""
    return [
        Point(router=router.name, per_joule=per_joule, gate=gate)
        for router in ROUTERS
        if router.steered
        for per_joule in (0.0, SIZE_LAMBDA)
        for gate in range(settings.gates)
    ]


def _two_sizes(setting: Setting) -> dict[str, Setting]:
    """Whole batches and half ones, as long as the routers need to settle."""
    sequences = max(2, setting.sequences)
    return {
        name: Setting(sequences=n, features=setting.features, batches=SIZE_BATCHES, block=2, seed=setting.seed)
        for name, n in (("whole", sequences), ("half", sequences // 2))
    }


def field_named(name: str) -> ThermalField:
    """A preset of the thermal field."""
    if name not in FIELDS:
        near = nearest_name(name, FIELDS)
        raise ConfigurationError(f"no thermal field is named {name!r} (nearest: {near!r}); choose one of {', '.join(FIELDS)}.")
    return FIELDS[name]


def known_quantity(quantity: str) -> None:
    """Raise ``ConfigurationError`` for a quantity that a sweep does not have."""
    if quantity not in QUANTITIES:
        raise ConfigurationError(f"a sweep has no quantity {quantity!r} (nearest: {nearest_name(quantity, QUANTITIES)!r}).")


def _simulated(session: Session, name: str, points: Sequence[Point], setting: Setting, field: ThermalField) -> dict[str, str]:
    columns = simulate(points, setting, lambda count: FieldOfPoints(field, count))
    experts = expert_columns(setting, field) | step_columns(setting, sorted({point.gate for point in points}))
    return {"points": session.tabulate(f"{name}-points", columns), "experts": session.tabulate(f"{name}-experts", experts)}


def expert_columns(setting: Setting, field: ThermalField) -> dict[str, Any]:
    """The experts, and what all points share."""
    n = len(field.energy_j)
    if n != setting.experts:
        raise ConfigurationError(f"the field has {n} devices, the gates have {setting.experts} experts; each needs a device of its own.")
    shared = {
        "top_k": setting.k, "tokens": setting.tokens_per_batch, "block": setting.block, "seed": setting.seed,
        "features": setting.features, "reference_c": field.reference_c, "throttle_c": field.throttle_c,
    }  # fmt: skip
    return {
        "expert": np.arange(n), "energy_j": field.energy_j, "coefficient_per_k": field.coefficient_per_k,
        **{name: [value] * n for name, value in shared.items()},
    }  # fmt: skip


def step_columns(setting: Setting, gates: Sequence[int]) -> dict[str, Any]:
    """Step of test-time training, and the largest stable one on the inputs of any gate."""
    step, stable = TestTimeTraining(k=setting.k).learning_rate, float(stable_steps(setting, gates).min())
    return {"step": [step] * setting.experts, "stable_step": [stable] * setting.experts}


def model_columns(setting: ModelSetting, seeds: int) -> dict[str, Any]:
    """How long the models were trained, and the least loss that their text allows, in nats per token."""
    floor = float(np.mean([MarkovText(setting, seed).entropy_rate_nats for seed in range(seeds)]))
    return {"steps": [setting.steps] * setting.experts, "entropy_rate": [floor] * setting.experts}


def record_points(sweep: RoutingSweep, points: Sequence[Point], experiment: str = EXPERIMENT, quantities: Sequence[str] = RECORDED) -> None:
    """Write every point that has its gates and its control as results; fewer gates have no interval, and wait for the merge."""
    arms: dict[tuple[str, float], set[int]] = {}
    for point in points:
        arms.setdefault((point.router, point.per_joule), set()).add(point.gate)
    for (router, per_joule), gates in arms.items():
        if len(gates) < 2 or arms.get((router, 0.0)) != gates:
            continue
        for quantity in quantities:
            estimate = sweep.of(router, per_joule, quantity)
            sweep.session.result(experiment, quantity, estimate, router=router, lambda_per_j=per_joule)
