"""Do the routing estimates hold what they say? A seeded study of the frontier, the intervals, the gates and the published router.

Run ``python benchmarks/routing_study.py [--quick] [--seed S] [--output docs/routing-study.md]``. The table that it prints, and writes with
``--output``, is generated: nobody types its numbers. Exit code 1 where a figure misses its target.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, special
from study_page import Row, page, publish

from pytest_physics.metrology.decision import Verdict, decide
from pytest_physics.metrology.routing import (
    energy_range,
    entropy,
    frontier,
    frontier_gap,
    gibbs,
    maximum_entropy,
    share_cap,
)
from pytest_physics.metrology.routing_estimates import Statistic, estimate_usage, mean_statistic, paired_difference, phase_trend
from pytest_physics.metrology.routing_gates import (
    baseline_gate,
    batch_size_gate,
    bound_gate,
    capacity_gate,
    energy_gate,
    monotonicity_gate,
    sign_gate,
    slots_gate,
    steadiness_gate,
)
from pytest_physics.metrology.routing_published import RUN, RUN_USAGE, SWEEP, reproduce, simulate_published
from pytest_physics.metrology.thermal_field import FIELDS, PUBLISHED_COSTS_J, ThermalField
from pytest_physics.metrology.uncertainty import Comparison, Estimate

COSTS = np.asarray(PUBLISHED_COSTS_J)
COVERAGE = (0.93, 0.97)
CLUSTERS: dict[str, float | None] = {"independent slots": None, "weakly clustered": 400.0, "strongly clustered": 60.0}
"""Concentration of each batch's own shares; None draws every slot alone."""
BATCHES = (12, 30, 100)
BETAS = (0.0, 0.3, 1.0)
LAMBDAS = (0.0, 0.1, 0.3)
KNOWN = {0.05: 0.8543, 0.1: 0.8344, 0.2: 0.7971, 0.5: 0.7041, 1.0: 0.6038, 2.0: 0.5245}
"""β to energy per slot, from the closed form of two levels, to four decimals."""


def scatter(share: float, n: int) -> float:
    """1.96 standard deviations of a share of n trials."""
    return 1.96 * math.sqrt(max(share * (1 - share), 1e-12) / n)


def share_row(what: str, hits: Sequence[bool], low: float, high: float, target: str) -> Row:
    """A share within its range, or outside of it by no more than its own scatter."""
    share, n = float(np.mean(hits)), len(hits)
    reach = scatter(min(max(share, 1 / n), 1 - 1 / n), n)
    return Row(what=what, target=target, reached=f"{share:.2%} (n = {n})", met=low - reach <= share <= high + reach)


# --- parts -----------------------------------------------------------------------------------------------------------


def limit_rows(rng: np.random.Generator, n: int) -> Iterator[Row]:
    """The frontier: known values, an identity, and an optimiser that knows nothing of Gibbs."""
    off = max(abs(frontier(COSTS, beta).energy_j - energy) for beta, energy in KNOWN.items())
    yield Row(what="frontier of two levels against its closed form", target="≤ 1e-4 J", reached=f"{off:.1e} J", met=off <= 1e-4)
    lowest = math.inf
    for _ in range(n):
        count = int(rng.integers(2, 65))
        shares = rng.dirichlet(np.full(count, rng.choice([0.05, 1.0, 1000.0])))
        lowest = min(lowest, frontier_gap(shares, rng.lognormal(0, 1, count)))
    yield Row(
        what=f"lowest H_max(E) − H of {n} random usages, 2 to 64 experts", target="≥ −1e-9 nats", reached=f"{lowest:.1e} nats",
        met=lowest >= -1e-9,
    )  # fmt: skip
    excess = max(_against_optimiser(rng) for _ in range(max(10, n // 100)))
    yield Row(
        what="capped frontier: diversity that a general optimiser finds beyond it", target="≤ 1e-6 nats", reached=f"{excess:.1e} nats",
        met=excess <= 1e-6,
    )  # fmt: skip


def _against_optimiser(rng: np.random.Generator) -> float:
    """SLSQP on the entropy, at one energy, under one cap."""
    count = int(rng.integers(3, 9))
    costs = rng.uniform(0.5, 3.0, count)
    cap = share_cap(count, capacity_factor=float(rng.uniform(1.1, 2.0)))
    low, high = energy_range(costs, cap=cap)
    energy = float(rng.uniform(low + 0.1 * (high - low), high - 0.1 * (high - low)))
    found = optimize.minimize(
        lambda p: -float(special.entr(p).sum()), gibbs(costs, 0.0), method="SLSQP", bounds=[(1e-9, cap)] * count,
        constraints=[{"type": "eq", "fun": lambda p: p.sum() - 1}, {"type": "eq", "fun": lambda p: p @ costs - energy}],
        options={"maxiter": 300, "ftol": 1e-14},
    )  # fmt: skip
    feasible = found.success and abs(found.x.sum() - 1) < 1e-9 and abs(found.x @ costs - energy) < 1e-9
    return -float(found.fun) - maximum_entropy(costs, energy, cap=cap) if feasible else -math.inf


def draw(rng: np.random.Generator, beta: float, batches: int, concentration: float | None, slots: int = 256) -> NDArray[np.int64]:
    """Slots per batch and expert around the Gibbs shares."""
    shares = np.asarray(frontier(COSTS, beta).shares)
    if concentration is None:
        return np.asarray(rng.multinomial(slots, shares, batches), np.int64)
    return np.stack([rng.multinomial(slots, rng.dirichlet(shares * concentration)) for _ in range(batches)])


def interval_rows(rng: np.random.Generator, n: int) -> Iterator[Row]:
    """Coverage by cluster strength, pooled over batches and β; the frontier test; claims at their limit."""
    names = ("energy per slot", "effective λ", "diversity, β ≥ 0.3")
    for name, concentration in CLUSTERS.items():
        inside: dict[str, list[bool]] = {key: [] for key in names}
        rejected, accepted = [], []
        for beta in BETAS:
            truth = frontier(COSTS, beta)
            for batches in BATCHES:
                for _ in range(n):
                    found = estimate_usage(draw(rng, beta, batches, concentration), COSTS)
                    inside[names[0]].append(_holds(found.energy_j, truth.energy_j))
                    inside[names[1]].append(_holds(found.effective_lambda_per_j, beta))
                    if beta:
                        inside[names[2]].append(_holds(found.entropy_nats, truth.entropy_nats))
                    rejected.append(found.frontier_p < 0.05)
                    accepted.append(_accepted(found.saving, truth.saving))
        for key, hits in inside.items():
            yield share_row(f"95 % intervals of {key}, {name}", hits, *COVERAGE, "93 to 97 %")
        yield share_row(f"usages on the frontier that are called off it at 5 %, {name}", rejected, 0.0, 0.06, "≤ 6 %")
        yield share_row(f"savings accepted that are true exactly at their limit, {name}", accepted, 0.0, 0.025, "≤ 2.5 %")


def _holds(statistic: Statistic, truth: float) -> bool:
    low, high = statistic.interval
    return low <= truth <= high


def _accepted(saving: Statistic, limit: float) -> bool:
    estimate = Estimate.given(saving.value, "1", u=saving.u, dof=saving.dof)
    return decide(Comparison.of(estimate, ">=", limit)).verdict is Verdict.VALIDATED


def gate_rows(rng: np.random.Generator, n: int) -> Iterator[Row]:
    """Gates on clean sweeps, and on the same sweeps with a fault."""
    clean: dict[str, list[bool]] = {}
    faulty: dict[str, list[bool]] = {}
    for _ in range(n):
        usages = [draw(rng, x, 60, 400.0) for x in LAMBDAS]
        wrong = [draw(rng, -x, 60, 400.0) for x in LAMBDAS]
        for into, arms in ((clean, usages), (faulty, wrong)):
            energies = [estimate_usage(arm, COSTS).energy_j for arm in arms]
            into.setdefault("monotonicity in λ", []).append(monotonicity_gate(LAMBDAS, energies).passed)
            into.setdefault("sign of the response", []).append(sign_gate(LAMBDAS, arms, COSTS).passed)
        one = usages[1]
        total, slots = float((one @ COSTS).sum()), float(one.sum())
        clean.setdefault("conservation, bound, capacity, baseline", []).append(
            slots_gate(one, slots / 2, 2).passed and energy_gate(one, COSTS, total).passed and bound_gate(one, COSTS).passed
            and capacity_gate(one, top_k=2).passed and baseline_gate(COSTS, slots, slots * 0.875).passed
        )  # fmt: skip
        faulty.setdefault("conservation, bound, capacity, baseline", []).append(
            slots_gate(one, slots / 2 - 1, 2).passed or energy_gate(one, COSTS, total + 1.5).passed
            or bound_gate(one, COSTS, entropy_nats=entropy(one) + 0.05).passed or baseline_gate(COSTS, slots, slots * 0.75).passed
        )  # fmt: skip
        sizes = [estimate_usage(draw(rng, x, 60, 400.0), COSTS).energy_j for x in (0.2, 0.2, 0.6)]
        clean.setdefault("batch-size invariance", []).append(batch_size_gate(sizes[0], sizes[1], (4, 8)).passed)
        faulty.setdefault("batch-size invariance", []).append(batch_size_gate(sizes[0], sizes[2], (4, 64)).passed)
        series = rng.normal(0.8, 0.02, (12, 60))
        clean.setdefault("trend over phases", []).append(steadiness_gate(phase_trend(series)).passed)
        faulty.setdefault("trend over phases", []).append(steadiness_gate(phase_trend(series + np.linspace(0, 0.03, 60))).passed)
    for name, passed in clean.items():
        yield share_row(f"gate '{name}' fires on clean sweeps", [not x for x in passed], 0.0, 0.005, "≤ 0.5 %")
        yield share_row(f"gate '{name}' fires on its planted fault", [not x for x in faulty[name]], 0.99, 1.0, "≥ 99 %")


def published_rows(seed: int, n: int) -> Iterator[Row]:
    """The published router simulated anew, and what pairing gains."""
    runs = [simulate_published(RUN, 100_000 * seed + number) for number in range(n)]
    hot = np.array([run.hot_share for run in runs])
    rank = float(np.mean(hot <= np.sum(RUN_USAGE[6:]) / np.sum(RUN_USAGE)))
    savings = np.array([reproduce(run.usage).savings_percent for run in runs])
    mean = float(hot.mean())
    near = abs(mean - 0.302) <= 2 * 0.024 / math.sqrt(40) + 2 * float(hot.std()) / math.sqrt(n)
    yield Row(
        what="hot share of the published router, simulated anew",
        target="0.302 ± 0.024",
        reached=f"{mean:.3f} ± {hot.std(ddof=1):.3f} (n = {n})",
        met=near,
    )
    yield Row(
        what="rank of the published hot share among its seeds", target="2.5 to 97.5 %", reached=f"{rank:.1%}", met=0.025 <= rank <= 0.975
    )
    yield Row(
        what="its saving on its own baseline", target="−27.0 ± 4.8 %", reached=f"{savings.mean():.1f} ± {savings.std(ddof=1):.1f} %",
        met=abs(savings.mean() + 27.0) < 2,
    )  # fmt: skip
    setting = replace(RUN, batches=40, sequences=8, tokens=64)
    pairs = [
        [
            float(simulate_published(replace(setting, lambda_=x), number).usage[1:].mean(axis=0) @ COSTS) / setting.slots_per_batch
            for x in (0.0, 0.02)
        ]
        for number in range(12)
    ]
    control, treated = np.array(pairs).T
    gain = math.hypot(mean_statistic(treated, unit="J").u, mean_statistic(control, unit="J").u) / paired_difference(treated, control).u
    yield Row(what="interval of an effect without pairing over that with it, 12 gates", target="> 1", reached=f"{gain:.1f}", met=gain > 1)
    limit = float(
        np.mean([simulate_published(replace(SWEEP, lambda_=1.0, batches=20), number).usage[1:].sum(axis=0) @ COSTS for number in range(6)])
    )
    limit /= 19 * SWEEP.slots_per_batch
    yield Row(
        what="energy per slot of the published router at λ = 1",
        target="1.25 ± 0.02 J",
        reached=f"{limit:.4f} J",
        met=abs(limit - 1.25) < 0.02,
    )


def field_rows(rng: np.random.Generator, n: int) -> Iterator[Row]:
    """Steps of the thermal field against one large matrix exponential."""
    worst = 0.0
    for name in FIELDS:
        field, state = FIELDS[name], FIELDS[name].at_rest()
        field = replace(field, throttle_c=math.inf, resume_c=math.inf)
        for _ in range(max(5, n // 10)):
            slots = rng.uniform(0, 2000, 8)
            expected = _expm(field, state.temperature_c, slots)
            state, _ = field.step(state, slots)
            worst = max(worst, float(np.max(np.abs(state.temperature_c - expected))))
    yield Row(
        what="thermal field: temperatures against a matrix exponential", target="≤ 1e-9 K", reached=f"{worst:.1e} K", met=worst <= 1e-9
    )


def _expm(field: ThermalField, temperature: NDArray[np.float64], slots: NDArray[np.float64]) -> NDArray[np.float64]:
    n, duration = len(slots), float(np.max(slots * field.slot_s))
    base, a = slots / duration * np.asarray(field.energy_j), np.asarray(field.coefficient_per_k)
    coupling = np.asarray(field.coupling_w_per_k)
    system = coupling - np.diag(np.asarray(field.conductance_w_per_k) + coupling.sum(axis=1)) + np.diag(base * a)
    drive = base * (1 + a * (field.ambient_c - field.reference_c)) + np.asarray(field.idle_w)
    flow = np.zeros((n + 1, n + 1))
    flow[:n, :n], flow[:n, -1] = system / np.asarray(field.capacity_j_per_k)[:, None], drive / np.asarray(field.capacity_j_per_k)
    out: NDArray[np.float64] = (linalg.expm(flow * duration) @ np.append(temperature - field.ambient_c, 1.0))[:n] + field.ambient_c
    return out


# --- page ------------------------------------------------------------------------------------------------------------


def table(seed: int, say: Callable[[str], None], *, quick: bool) -> list[Row]:
    """All rows."""
    rng, n = np.random.default_rng(seed), 12 if quick else 400
    rows: list[Row] = []
    for name, part in {
        "limit": limit_rows(rng, 5 * n), "intervals": interval_rows(rng, n), "gates": gate_rows(rng, n),
        "published": published_rows(seed, n), "field": field_rows(rng, n),
    }.items():  # fmt: skip
        rows += part
        say(f"{name} done")
    return rows


INTRODUCTION = (
    "Usages are drawn from the frontier of six experts of 0.5 J and two of 2 J, 256 slots to a batch, in 12, 30 and 100 batches and at",
    "β = 0, 0.3 and 1 /J; clustered batches have shares of their own (Dirichlet of concentration 400 or 60). A share counts as met",
    "within its own scatter (1.96 standard deviations).",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; 0 where all figures meet their targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a fraction of the draws: shows that it runs, not how good it is")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the page here")
    chosen = parser.parse_args(arguments)
    rows = table(chosen.seed, lambda line: print(line, file=sys.stderr), quick=chosen.quick)
    command = f"python benchmarks/routing_study.py{' --quick' if chosen.quick else ''} --seed {chosen.seed}"
    return publish(page("Do the routing estimates hold what they say?", command, INTRODUCTION, rows), chosen.output, rows)


if __name__ == "__main__":
    sys.exit(main())
