"""The figures of the routing sweep: time, frontier, bound, and silence of its gates on sound routers.

Run ``python benchmarks/routing_sweep_study.py [--gates N] [--seed S] [--output docs/routing-sweep-study.md]``. The sweep at the size of
the profile ``standard`` (5 λ, all routers, batches of 8 × 64 tokens, 256 features, 120 batches) on one thread, in a field where temperature
does nothing and in one where it acts; then the published router at the published setting. Exit code 1 where a figure misses its target.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from study_page import Row, page, publish

from pytest_physics.config import PROFILE_DEFAULTS, RoutingSettings
from pytest_physics.experiments.routing_sweep import chosen_points, expert_columns, step_columns, sweep_setting
from pytest_physics.metrology.routing_published import RUN, RUN_USAGE
from pytest_physics.metrology.thermal_field import FIELDS, FieldOfPoints
from pytest_physics.record.leaves.routing import QUANTITIES, Sweep, Usage, common_gates, response_gates
from pytest_physics.session import structured
from pytest_physics.workloads.routing_simulation import Point, Setting, simulate

WITH_TARGET = ("auxiliary loss", "loss-free bias", "bias to Gibbs", "expert choice", "Sinkhorn")
SOUND = (*WITH_TARGET, "penalised", "test-time training")
PUBLISHED_GATES = 40


@dataclass(frozen=True, kw_only=True)
class Swept:
    """One sweep and what it took."""

    sweep: Sweep
    wall_s: float
    cpu_s: float
    points: int


def swept(field: str, settings: RoutingSettings, seed: int) -> Swept:
    """The whole sweep in one field."""
    setting, points = sweep_setting(settings, seed), chosen_points(settings)
    wall, cpu = time.perf_counter(), time.process_time()
    columns = simulate(points, setting, lambda count: FieldOfPoints(FIELDS[field], count))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    experts = expert_columns(setting, FIELDS[field]) | step_columns(setting, range(settings.gates))
    return Swept(sweep=Sweep(structured("points", columns), structured("experts", experts)), wall_s=wall, cpu_s=cpu, points=len(points))


def time_row(name: str, found: Swept) -> Row:
    """Wall and processor time of the simulation, on one thread."""
    return Row(
        what=f"time of {found.points} points, {name}", target="≤ 60 s", met=found.cpu_s <= 60,
        reached=f"{found.cpu_s:.0f} s of one core ({found.wall_s:.0f} s by the clock of a shared machine)",
    )  # fmt: skip


def frontier_row(name: str, sweep: Sweep, per_joule: float) -> Row:
    """Largest distance of any gate, bias to Gibbs."""
    gap = sweep.usage("bias to Gibbs", per_joule).gap
    return Row(
        what=f"bias to Gibbs at b = {per_joule:g} /J, distance to the frontier, {name}", target="≤ 10⁻³ nats", met=gap.max() <= 1e-3,
        reached=f"largest {gap.max():.2g}, mean {gap.mean():.2g} nats (n = {len(gap)})",
    )  # fmt: skip


def bound_row(name: str, found: Swept) -> Row:
    """No point below the bound."""
    lowest = found.sweep.lowest_gap()
    return Row(
        what=f"smallest distance of any point, {name}", target="≥ −10⁻⁹ nats", reached=f"{lowest:.2g} nats (n = {found.points})",
        met=lowest >= -1e-9,
    )  # fmt: skip


def gates_row(name: str, sweep: Sweep) -> Row:
    """Gates that fire on sound routers, and on the published one."""
    fired = [gate.name for router in SOUND for x in sweep.lambdas(router) for gate in _gates(sweep, sweep.usage(router, x)) if gate.refuses]
    caught = {gate.name for gate in _gates(sweep, sweep.usage("published", max(sweep.lambdas("published")))) if gate.refuses}
    named = f" ({', '.join(sorted(set(fired)))})" if fired else ""
    reached = f"{len(fired)} fired on sound routers{named}; on the published: {', '.join(sorted(caught))}"
    met = not fired and {"sign of the response", "monotonicity in λ"} <= caught
    return Row(what=f"gates, {name}", target="0 on sound routers, sign and monotonicity on the published", reached=reached, met=met)


def _gates(sweep: Sweep, usage: Usage) -> tuple:
    gates = common_gates(sweep, usage)
    return gates + (response_gates(sweep, usage, {}, None) if usage.per_joule > 0 else ())


def published_row(seed: int) -> Row:
    """The published router in torch at the published setting: hot share against the published counts'."""
    setting = Setting(sequences=RUN.sequences, tokens=RUN.tokens, features=RUN.features, batches=RUN.batches, block=1, seed=seed)
    points = [Point(router="published", per_joule=RUN.lambda_, gate=gate) for gate in range(PUBLISHED_GATES)]
    columns = simulate(points, setting, lambda count: FieldOfPoints(FIELDS["published"], count))
    slots = np.stack([columns[f"slots_{e}"] for e in range(8)], -1).reshape(PUBLISHED_GATES, -1, 8).sum(axis=1)
    shares = slots[:, 6:].sum(axis=1) / slots.sum(axis=1)
    stated = sum(RUN_USAGE[6:]) / sum(RUN_USAGE)
    distance = (stated - shares.mean()) / shares.std(ddof=1)
    return Row(
        what=f"published router at the published setting, {PUBLISHED_GATES} gates: hot share", target=f"{stated:.3f} within 2 σ",
        reached=f"{shares.mean():.3f} ± {shares.std(ddof=1):.3f} (distance {distance:+.1f} σ)", met=abs(distance) <= 2,
    )  # fmt: skip


def spread_row(sweep: Sweep) -> Row:
    """How far gates differ in energy, with a target for the loads and without."""
    usages = [sweep.usage(router, 0.5) for router in ("penalised", "bias to Gibbs")]
    price, bias = (usage.energy_per_slot.std(ddof=1) for usage in usages)
    first, second = (QUANTITIES["score regret"][0](usage, sweep).mean() for usage in usages)
    reached = f"price {price:.4f}, bias to Gibbs {bias:.4f} J per slot; regret {first:.3f} and {second:.3f} nats per token"
    return Row(what="spread between gates at λ = 0.5 /J", target="–", reached=reached, met=True, verdict="–")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; 0 where all figures meet their targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gates", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the page here")
    chosen = parser.parse_args(arguments)
    settings = RoutingSettings.model_validate({**PROFILE_DEFAULTS["standard"]["routing"], "gates": chosen.gates})
    rows: list[Row] = []
    for name, field in (("temperature does nothing", "published"), ("temperature acts", "published-warming")):
        found = swept(field, settings, chosen.seed)
        rows.append(time_row(name, found))
        rows += [frontier_row(name, found.sweep, per_joule) for per_joule in (0.2, 0.5, 1.0)]
        rows += [bound_row(name, found), gates_row(name, found.sweep)]
        if field == "published":
            rows.append(spread_row(found.sweep))
    rows.append(published_row(chosen.seed))
    introduction = [
        "All routers of `bench/test_routing_sweep.py` over 5 λ on seeded gates, batches of 8 × 64 tokens, 256 features, 120 batches, on",
        "one thread; judged on the second half of the batches. Energies are simulated on the thermal field; the bound is exact.",
    ]
    command = f"python benchmarks/routing_sweep_study.py --gates {chosen.gates} --seed {chosen.seed}"
    return publish(page("Does the routing sweep reach its figures?", command, introduction, rows), chosen.output, rows)


if __name__ == "__main__":
    sys.exit(main())
