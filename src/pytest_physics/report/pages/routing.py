"""The routing sweep in the report: points against the exact frontier, use and temperature over time, what a saving costs.

Everything is drawn from the recorded tables through :mod:`~pytest_physics.record.leaves.routing`, the same code that computed the results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from pytest_physics.errors import PhysicsError
from pytest_physics.metrology import routing
from pytest_physics.metrology.routing_estimates import Statistic, mean_statistic
from pytest_physics.metrology.routing_published import refutations
from pytest_physics.metrology.uncertainty import Recipe
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.leaves.routing import CURVES, QUANTITIES, Sweep, Usage
from pytest_physics.record.recipes import evaluate
from pytest_physics.record.schema import ResultRecord
from pytest_physics.report import svg
from pytest_physics.report.figures import RAW, Drawing
from pytest_physics.report.format import number, percent, quantity, slug
from pytest_physics.report.tables import Table

FloatArray = NDArray[np.float64]

UNDERSTANDING = (
    "A router sends each token to some of the experts, and experts differ in what a slot, one token in one expert, costs. Saving energy "
    "means to use the cheap ones more, and that costs diversity: the solid line is the least energy that any usage of that diversity can "
    "have at the reference temperature, exact and without statistics, so no point may lie below it. Its left end is uniform routing. A "
    "router loses twice: the distance to the line is diversity given up for nothing, and the score regret is what the gate's own opinion "
    "loses. Points are means over gates with 95 % intervals; savings are paired with λ = 0 of the same router on the same gates and data. "
    "Energies and temperatures are simulated on a thermal field in which a warm expert may cost more, so a saving also keeps experts cool. "
    "The published router is drawn as a control: its energy rises with λ, because it penalises four of the cheap experts."
)
SHOWN_SAVING = 0.10
"""Saving at which routers are compared in the table."""
SHOWN_LAMBDA = 0.5
"""What happens over time is shown at the largest λ up to this one, in 1/J."""
CURVE = 200
"""Points of the frontier."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
DASHES = ("solid", "dashed", "dotted")
"""Colours repeat, so lines of one colour differ in their dashes."""


def drawings(run: RecordedRun, results: Sequence[ResultRecord]) -> Sequence[Drawing]:
    """All figures; one that cannot be drawn says why."""
    sweep = sweep_of(run, results)
    if isinstance(sweep, str):
        return [Drawing(id="fig-routing", svg="", caption=sweep)]
    steered = max((x for name in sweep.routers for x in sweep.lambdas(name) if x <= SHOWN_LAMBDA), default=0.0)
    figures = (frontier_figure, lambda s: time_figure(s, steered), lambda s: use_figure(s, steered), saving_figure)
    names = ("frontier", "use over time", "temperature and use", "savings")
    return [_drawn(sweep, figure, name) for figure, name in zip(figures, names, strict=True)]


def _drawn(sweep: Sweep, figure: object, name: str) -> Drawing:
    try:
        return figure(sweep)  # type: ignore[operator,no-any-return]
    except (PhysicsError, ValueError) as error:
        return Drawing(id=f"fig-routing-{slug(name)}", svg="", caption=f"No figure of {name}: {error}")


def sweep_of(run: RecordedRun, results: Sequence[ResultRecord]) -> Sweep | str:
    """The sweep behind the results, or why there is none."""
    for record in results:
        for part in Recipe.from_json(record.recipe).leaves():
            if {"points", "experts"} <= part.parameters.keys():
                return Sweep.of(run, str(part.parameters["points"]), str(part.parameters["experts"]))
    return "No result names a table of points."


def usages(sweep: Sweep, router: str) -> list[Usage]:
    """A router's points, λ ascending."""
    return [sweep.usage(router, per_joule) for per_joule in sweep.lambdas(router)]


def look(sweep: Sweep, router: str) -> dict[str, object]:
    """Colour, marker and dashes by which a router is known in every figure."""
    i = sweep.routers.index(router)
    color = svg.ALERT if router == "published" else svg.MUTED if router in {"uniform", "no control"} else svg.SERIES[i % len(svg.SERIES)]
    return {
        "color": color, "marker": MARKERS[i % len(MARKERS)], "markersize": 3.6, "linewidth": 0.9,
        "linestyle": DASHES[i // len(svg.SERIES) % len(DASHES)],
    }  # fmt: skip


def statistic(usage: Usage, sweep: Sweep, name: str) -> Statistic:
    """Mean of a quantity over gates."""
    values, unit = QUANTITIES[name]
    return mean_statistic(values(usage, sweep), unit=unit)


def curve(ax: Axes, sweep: Sweep, router: str, x: str, y: str) -> None:
    """One router through its λ, with 95 % intervals in both directions."""
    found = [(statistic(u, sweep, x), statistic(u, sweep, y)) for u in usages(sweep, router)]
    xs, ys = ([pair[i].value for pair in found] for i in (0, 1))
    spans = [[pair[i].interval[1] - pair[i].value for pair in found] for i in (0, 1)]
    ax.errorbar(xs, ys, xerr=spans[0], yerr=spans[1], elinewidth=0.7, label=router, **look(sweep, router))  # type: ignore[arg-type]


# --- the frontier -------------------------------------------------------------------------------------------------------------


def frontier_figure(sweep: Sweep) -> Drawing:
    """Energy per slot over diversity with the exact bound, and the distance to each point's own bound over the saving."""
    key = "fig-routing-frontier"
    with svg.drawing(key):
        figure = svg.new_figure(10, 4.0)
        left, right = figure.subplots(1, 2, width_ratios=[1.35, 1])
        betas = np.concatenate([[0.0], np.geomspace(1e-2, 60.0, CURVE)])
        bound = [routing.frontier(sweep.reference_costs, float(beta)) for beta in betas]
        left.plot([p.entropy_nats for p in bound], [p.energy_j for p in bound], color=svg.INK, linewidth=1.6, label="bound (Gibbs)")
        for router in (name for name in sweep.routers if name != "published"):
            curve(left, sweep, router, "diversity", "energy per slot")
        left.invert_xaxis()
        left.set_xlabel("Diversity in nats, uniform on the left")
        left.set_title("Energy in J per slot")
        for router in sweep.routers:
            if router not in {"uniform", "published", "no control"}:
                _distance(right, sweep, router)
        right.set_yscale("log")
        right.yaxis.set_minor_locator(NullLocator())
        right.yaxis.set_major_formatter(lambda value, _: number(value))
        right.set_xlabel("Energy saved against λ = 0 of the same router")
        right.xaxis.set_major_formatter(lambda value, _: percent(value))
        right.set_title("Distance to the frontier at own costs, in nats")
        left.legend(loc="upper right", ncols=2)
        for ax in (left, right):
            svg.horizontal_grid(ax)
        drawn = svg.inline(figure, prefix=key, label="Energy per slot over diversity for every router, with the exact frontier")
    n = len(sweep.points) // max(1, len(np.unique(sweep.points["block"])))
    caption = (
        f"n = {number(n)} points of {len(sweep.routers)} routers. Bound for the energies at "
        f"{number(float(sweep.experts['reference_c'][0]))} °C: {', '.join(number(float(e)) for e in sweep.reference_costs)} J per slot. "
        f"Smallest distance of any point to the bound at its own, realised costs: {number(sweep.lowest_gap())} nats; distances below "
        f"10⁻⁷ are drawn there. The published router lies far above, outside of the figure. {RAW}"
    )
    return Drawing(id=key, svg=drawn, caption=caption)


def _distance(ax: Axes, sweep: Sweep, router: str) -> None:
    found = [(statistic(u, sweep, "saving"), statistic(u, sweep, "distance to the frontier")) for u in usages(sweep, router)]
    shown = [(s.value, max(g.value, 1e-7)) for s, g in found]
    ax.plot(*zip(*shown, strict=True), **look(sweep, router))  # type: ignore[arg-type]


# --- over time ----------------------------------------------------------------------------------------------------------------


def time_figure(sweep: Sweep, per_joule: float) -> Drawing:
    """Share of the costly experts, pooled diversity and energy over the batches, at one λ."""
    key = "fig-routing-time"
    hot = sweep.reference_costs > sweep.reference_costs.mean() * (1 + 1e-9)
    with svg.drawing(key):
        figure = svg.new_figure(10, 3.4)
        axes = figure.subplots(1, 3)
        for router in sweep.routers:
            usage = sweep.usage(router, per_joule if per_joule in sweep.lambdas(router) else 0.0)
            shares = usage.slots.sum(axis=0) / usage.slots.sum(axis=(0, 2))[:, None]
            series = (shares[:, hot].sum(axis=1), _growth(usage), usage.energy_j.sum(axis=(0, 2)) / usage.slots.sum(axis=(0, 2)))
            x = (np.arange(len(shares)) + 1) * float(sweep.experts["block"][0])
            for ax, y in zip(axes, series, strict=True):
                ax.plot(x, y, label=router, **{**look(sweep, router), "marker": ""})
        axes[0].axhline(float(hot.mean()), color=svg.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        axes[1].axhline(math.log(sweep.n_experts), color=svg.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        titles = ("Share of the costly experts", "Diversity of all batches so far, nats", "Energy in J per slot")
        for ax, title in zip(axes, titles, strict=True):
            ax.set_title(title)
            ax.set_xlabel("Batch")
            svg.horizontal_grid(ax)
        axes[1].legend(loc="lower right", bbox_to_anchor=(1.0, 0.12), fontsize=6.5)
        drawn = svg.inline(figure, prefix=key, label="Use of the costly experts, diversity and energy over the batches")
    caption = (
        f"All gates together, λ = {number(per_joule)} /J (routers without λ as they are); dashed: uniform routing. Trained and balancing "
        f"routers settle in the first half, which no result uses. {'Energy rises with temperature. ' if sweep.acts else ''}{RAW}"
    )
    return Drawing(id=key, svg=drawn, caption=caption)


def _growth(usage: Usage) -> FloatArray:
    """Diversity of all batches up to each block, mean over gates."""
    so_far = usage.slots.cumsum(axis=1)
    return np.array([np.mean([routing.miller_madow(row) for row in so_far[:, block]]) for block in range(so_far.shape[1])])


# --- use, temperature, load ---------------------------------------------------------------------------------------------------


def use_figure(sweep: Sweep, per_joule: float) -> Drawing:
    """Temperature over use of each expert, and energy over the load factors of cold and hot experts."""
    key = "fig-routing-use"
    with svg.drawing(key):
        figure = svg.new_figure(10, 3.4)
        left, middle, right = figure.subplots(1, 3)
        for router in sweep.routers:
            usage = sweep.usage(router, per_joule if per_joule in sweep.lambdas(router) else 0.0)
            if sweep.acts:
                _temperatures(left, sweep, router, usage)
            curve(middle, sweep, router, "load factor of hot experts", "energy per slot")
            curve(right, sweep, router, "load factor of cold experts", "load factor of hot experts")
        left.set_title("Temperature of each expert in °C" if sweep.acts else "Temperature does not act in this field")
        left.set_xlabel("Share of the slots")
        middle.set_title("Energy in J per slot")
        middle.set_xlabel("Load factor of the costly experts")
        right.set_title("Load factor of the costly experts")
        right.set_xlabel("Load factor of the cheap experts")
        for ax in (middle, right):
            ax.axvline(1.0, color=svg.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        right.axhline(1.0, color=svg.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        right.legend(loc="best", fontsize=6.5)
        drawn = svg.inline(figure, prefix=key, label="Temperature over use, and energy over load factors")
    caption = (
        f"Left: λ = {number(per_joule)} /J, each expert's mean over gates and late batches; devices differ in cost and neighbours. A load "
        f"factor is an expert's share over its fair share: 1 (dashed) is uniform routing, for cold and hot experts alike. {RAW}"
    )
    return Drawing(id=key, svg=drawn, caption=caption)


def _temperatures(ax: Axes, sweep: Sweep, router: str, usage: Usage) -> None:
    shares = usage.pooled.sum(axis=0) / usage.pooled.sum()
    warm = usage.temperature_c[:, usage.late].mean(axis=(0, 1))
    ax.plot(shares, warm, **{**look(sweep, router), "linestyle": "none"})  # type: ignore[arg-type]


# --- savings ------------------------------------------------------------------------------------------------------------------


def saving_figure(sweep: Sweep) -> Drawing:
    """Saving over λ with its ceiling, and score regret over saving."""
    key = "fig-routing-saving"
    names = [router for router in sweep.routers if router not in {"uniform", "no control"}]
    ceiling = routing.saving_ceiling(sweep.reference_costs)
    with svg.drawing(key):
        figure = svg.new_figure(10, 3.4)
        left, right = figure.subplots(1, 2)
        for router in names:
            found = [statistic(u, sweep, "saving against uniform") for u in usages(sweep, router)]
            spans = [s.interval[1] - s.value for s in found]
            x, y = sweep.lambdas(router), [s.value for s in found]
            left.errorbar(x, y, yerr=spans, elinewidth=0.7, label=router, **look(sweep, router))
            if router != "published":
                curve(right, sweep, router, "saving", "score regret")
        left.axhline(ceiling, color=svg.INK, linewidth=1.0, linestyle=(0, (4, 3)))
        left.axhline(0.0, color=svg.MUTED, linewidth=0.8)
        left.set_title("Energy saved against uniform routing")
        left.set_xlabel("λ in 1/J per slot")
        left.yaxis.set_major_formatter(lambda value, _: percent(value))
        right.set_title("Score regret in nats per token")
        right.set_xlabel("Energy saved against λ = 0 of the same router")
        right.xaxis.set_major_formatter(lambda value, _: percent(value))
        left.legend(loc="best", ncols=2)
        for ax in (left, right):
            svg.horizontal_grid(ax)
        drawn = svg.inline(figure, prefix=key, label="Saving over λ with its ceiling, and score regret over saving")
    caption = (
        f"Dashed: {percent(ceiling)}, the ceiling at the reference temperature, when only the cheapest experts are used; a field that "
        f"stays cooler than under uniform routing saves a little more. λ of the published router is its own and no price in 1/J. {RAW}"
    )
    return Drawing(id=key, svg=drawn, caption=caption)


# --- tables -------------------------------------------------------------------------------------------------------------------


def tables(run: RecordedRun, results: Sequence[ResultRecord]) -> Sequence[Table]:
    """What a saving costs with each router; energy early, middle and late; the published claims and why they do not hold."""
    published = [_published_table(run, table) for table in run.reader.tables if table.startswith("routing-published-")]
    sweep = sweep_of(run, results)
    if isinstance(sweep, str):
        return published
    parameters = next(p.parameters for r in results for p in Recipe.from_json(r.recipe).leaves() if "points" in p.parameters)
    shared = {key: parameters[key] for key in ("points", "experts", "half", "half_experts", "whole", "whole_experts") if key in parameters}
    return [_price_table(run, sweep, shared), _phase_table(sweep), *published]


def _published_table(run: RecordedRun, table_id: str) -> Table:
    """Each published claim with what the recorded counts say of it."""
    rows = run.table(table_id)
    experts = sorted((name for name in rows.dtype.names or () if name.startswith("slots_")), key=lambda name: int(name.partition("_")[2]))
    counts = np.stack([rows[name] for name in experts], axis=1)
    sweep = {float(row["lambda"]): counts[i] for i, row in enumerate(rows) if row["study"] == "sweep"}
    gates = refutations(counts[list(rows["study"]).index("run")], sweep)
    return Table(
        caption="The published experiment: what it claims or rests on, and what its own counts and its own router say",
        columns=("Published claim", "Verdict", "Reason"),
        rows=[(gate.name, "VALIDATED" if gate.passed else "REFUTED", gate.reason) for gate in gates],
    )


def _price_table(run: RecordedRun, sweep: Sweep, shared: dict[str, object]) -> Table:
    rows = []
    for router in sweep.routers:
        if len(sweep.lambdas(router)) < 2 or router == "published":
            continue
        cells = [router]
        for name in CURVES:
            recipe = Recipe(op="routing.at_saving", parameters={**shared, "router": router, "saving": SHOWN_SAVING, "quantity": name})
            found = evaluate(recipe, run)
            cells.append(str(quantity(found.value, found.expanded, found.unit)))
        last = statistic(usages(sweep, router)[-1], sweep, "capacity factor")
        cells.append(str(quantity(last.value, last.interval[1] - last.value, "")))
        rows.append(cells)
    columns = ("Router", "Diversity given up", "Score regret", "Distance to the frontier", "Capacity factor at the largest λ")
    caption = (
        f"At {percent(SHOWN_SAVING)} energy saved against λ = 0 of the same router; the capacity factor is what no late batch of any gate "
        "exceeds, mean over gates: perfect balance (1) and a saving exclude each other."
    )
    return Table(caption=caption, columns=columns, rows=rows, numeric=frozenset({1, 2, 3, 4}))


def _phase_table(sweep: Sweep) -> Table:
    rows = []
    for router in sweep.routers:
        usage = usages(sweep, router)[-1]
        trend = usage.trend()
        parts = [number(value) for value in (trend.early, trend.middle, trend.late)]
        change = str(quantity(trend.change.value, trend.change.interval[1] - trend.change.value, "J/slot"))
        rows.append([router, number(usage.per_joule), *parts, change, number(trend.p, digits=2)])
    columns = ("Router", "λ in 1/J", "Early J/slot", "Middle", "Late", "Late minus early", "p without trend")
    caption = "Energy in thirds of the batches, all gates; warming raises it, training and balancing change it."
    return Table(caption=caption, columns=columns, rows=rows, numeric=frozenset({1, 2, 3, 4, 5, 6}))
