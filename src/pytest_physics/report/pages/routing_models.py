"""Routed language models in the report: energy against validation loss and diversity."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_physics.errors import PhysicsError
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.leaves.routing import Sweep
from pytest_physics.record.schema import ResultRecord
from pytest_physics.report import svg
from pytest_physics.report.figures import RAW, Drawing
from pytest_physics.report.format import number, percent, quantity
from pytest_physics.report.pages.routing import curve, statistic, sweep_of, usages
from pytest_physics.report.tables import Table

UNDERSTANDING = (
    "Small language models with a mixture of experts, trained under different routers on text whose law is known, so the least possible "
    "loss is known too. Models of one seed share text and initial parameters; a change of loss is paired with λ = 0 of the same router. "
    "Losses are measured on held-out text, energies are those of the simulated experts that the tokens visited. Test-time training starts "
    "from the model without control and moves its gate while it serves. Expert choice is absent because it looks at later tokens."
)
KEY = "fig-routing-models"


def drawings(run: RecordedRun, results: Sequence[ResultRecord]) -> Sequence[Drawing]:
    """Loss over energy, and diversity over energy."""
    sweep = sweep_of(run, results)
    try:
        return [Drawing(id=KEY, svg="", caption=sweep) if isinstance(sweep, str) else _figure(sweep)]
    except (PhysicsError, ValueError) as error:
        return [Drawing(id=KEY, svg="", caption=f"No figure of the language models: {error}")]


def _figure(sweep: Sweep) -> Drawing:
    floor = float(sweep.experts["entropy_rate"][0])
    with svg.drawing(KEY):
        figure = svg.new_figure(10, 3.4)
        left, right = figure.subplots(1, 2)
        for router in sweep.routers:
            curve(left, sweep, router, "energy per slot", "validation loss")
            curve(right, sweep, router, "energy per slot", "diversity")
        left.set_title("Validation loss in nats per token")
        right.set_title("Diversity in nats")
        for ax in (left, right):
            ax.set_xlabel("Energy in J per slot")
            svg.horizontal_grid(ax)
        right.legend(loc="best")
        drawn = svg.inline(figure, prefix=KEY, label="Validation loss and diversity over energy per slot of routed language models")
    seeds = len(usages(sweep, sweep.routers[0])[0].gates)
    caption = (
        f"n = {seeds} seeds, {number(float(sweep.experts['steps'][0]))} steps of training; 95 % intervals over seeds, unpaired here: the "
        f"table has the paired changes. Entropy rate of the text, which no loss can undercut: {number(floor)} nats per token. {RAW}"
    )
    return Drawing(id=KEY, svg=drawn, caption=caption)


def tables(run: RecordedRun, results: Sequence[ResultRecord]) -> Sequence[Table]:
    """What a saving costs in loss, paired."""
    sweep = sweep_of(run, results)
    if isinstance(sweep, str):
        return []
    rows = []
    for router in sweep.routers:
        for usage in usages(sweep, router):
            saved, loss = statistic(usage, sweep, "saving"), statistic(usage, sweep, "change of loss")
            rows.append(
                [
                    router, number(usage.per_joule), str(quantity(100 * saved.value, 100 * (saved.interval[1] - saved.value), "%")),
                    str(quantity(loss.value, loss.interval[1] - loss.value, "nat/token")),
                    percent(float((usage.slots.sum(axis=(0, 1)) / usage.slots.sum()).max())),
                ]
            )  # fmt: skip
    columns = ("Router", "λ in 1/J", "Energy saved", "Change of validation loss", "Busiest expert")
    caption = "Paired with λ = 0 of the same router and seed; 95 % intervals over seeds."
    return [Table(caption=caption, columns=columns, rows=rows, numeric=frozenset({1, 2, 3, 4}))]
