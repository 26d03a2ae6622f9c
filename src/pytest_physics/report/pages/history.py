"""Earlier runs in the report: each compared metric as a small line of its own, with the band in which this run was to be expected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from pytest_physics.metrology.uncertainty import Estimate, Recipe, coverage_factor
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.leaves.history import rows_of
from pytest_physics.record.recipes import evaluate
from pytest_physics.record.schema import ResultRecord
from pytest_physics.report import svg
from pytest_physics.report.figures import RAW, Drawing
from pytest_physics.report.format import ABSENT, number, plural, printable, quantity, scale_for
from pytest_physics.report.tables import Table

UNDERSTANDING = (
    "Each small line is one quantity over earlier valid runs of this machine under equal conditions, oldest first; the last point is this "
    "run. The band is where a new run lies in 95 of 100 cases where nothing has changed: it holds the scatter between runs, this run's own "
    "error, and how well their mean is known. A point above the band, of a quantity of which less is better, is a change that scatter does "
    "not explain. Whether it is more than what is allowed is the claims' to say. The earlier values are a snapshot of the history "
    "that this run carries; each names its run."
)
MOST_DRAWN = 24
COLUMNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One metric as it is drawn."""

    metric: str
    unit: str
    rows: NDArray[np.void]
    now: Estimate
    prior: Estimate
    result: ResultRecord

    @property
    def band(self) -> float:
        """Half of the interval in which one new run lies in 95 of 100 cases: that of the change, for both ask the same."""
        return (self.result.estimate.expanded or 0.0) * abs(self.prior.value)

    @property
    def worse(self) -> float:
        """Change over its interval: what is drawn first."""
        e = self.result.estimate
        return -math.inf if e.value is None else e.value - (e.expanded or 0.0)


def drawings(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Drawing]:
    """Small multiples, those first that changed for the worse."""
    found = sorted((item for item in _compared(run, results) if len(item.rows)), key=lambda item: -item.worse)
    if not found:
        return [Drawing(id="fig-history", svg="", caption="No earlier valid run under equal conditions: nothing to draw.")]
    drawn = found[:MOST_DRAWN]
    lines = math.ceil(len(drawn) / COLUMNS)
    with svg.drawing("fig-history"):
        figure = svg.new_figure(10, 0.3 + 0.95 * lines)
        axes: list[Axes] = list(figure.subplots(lines, COLUMNS, squeeze=False).flat)
        for ax, item in zip(axes, drawn, strict=False):
            _panel(ax, item)
        for ax in axes[len(drawn) :]:
            ax.set_axis_off()
        shown = svg.inline(figure, prefix="fig-history", label="Compared metrics over earlier runs")
    left = f" {plural(len(found) - len(drawn), 'more metric')} in the table." if len(found) > len(drawn) else ""
    caption = (
        f"{plural(len(drawn), 'metric')} over earlier runs, in percent of their mean; grey: 95 % of new runs without a change.{left} {RAW}"
    )
    return [Drawing(id="fig-history", svg=shown, caption=caption)]


def _panel(ax: Axes, item: Compared) -> None:
    mean = item.prior.value if math.isfinite(item.prior.value) else float(np.mean(item.rows["value"]))
    scale = 100 / abs(mean) if mean else 1.0
    y = (item.rows["value"] - mean) * scale
    band = item.band * scale
    if math.isfinite(band):
        ax.axhspan(-band, band, facecolor=svg.BAND, edgecolor="none")
    ax.plot(range(len(y)), y, color=svg.SERIES[0], linewidth=0.9, marker=".", markersize=3)
    own = (coverage_factor(item.now.dof) if item.now.dof > 0 else 0.0) * _own_u(item)
    ax.errorbar([len(y)], [(item.now.value - mean) * scale], yerr=[own * scale], fmt="o", color=svg.SERIES[1], capsize=2, markersize=4)
    ax.set_title(printable(item.metric, 52), fontsize=6.5, pad=3)
    ax.tick_params(labelbottom=False, bottom=False, labelsize=6.5)
    ax.margins(x=0.04, y=0.25)
    svg.horizontal_grid(ax)


def _own_u(item: Compared) -> float:
    return math.hypot(*(c.contribution for c in item.now.budget if not c.common_scale))


def tables(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Table]:
    """Every comparison in numbers."""
    columns = ("Metric", "Earlier runs", "From", "To", "Their mean", "95 % of new runs", "This run", "Worse by")
    rows = [_row(item) for item in _compared(run, results)]
    return [Table(caption="This run against earlier ones", columns=columns, rows=rows, numeric=frozenset(range(1, len(columns))))]


def _row(item: Compared) -> tuple[str, ...]:
    scale = scale_for(abs(item.now.value), item.unit)
    change = item.result.estimate
    band = f"± {number(100 * item.band / abs(item.prior.value), digits=2)} %" if item.prior.value else ABSENT
    return (
        item.metric, str(len(item.rows)), *(_day(item.rows, place) for place in (0, -1)),
        str(quantity(item.prior.value, None, item.unit, scale)), band, str(quantity(item.now.value, None, item.unit, scale)),
        ABSENT if change.value is None else f"{100 * change.value:+.2g} ± {number(100 * (change.expanded or 0.0), digits=2)} %",
    )  # fmt: skip


def _day(rows: NDArray[np.void], place: int) -> str:
    return f"{datetime.fromtimestamp(int(rows['started_unix_ms'][place]) / 1000, UTC):%Y-%m-%d}" if len(rows) else ABSENT


def _compared(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Compared]:
    found = []
    for record in results:
        now, prior = Recipe.from_json(record.recipe).inputs
        metric, unit = str(prior.parameters["metric"]), str(prior.parameters["unit"])
        rows = rows_of(run.table(str(prior.parameters["table"])), metric)
        item = Compared(metric=metric, unit=unit, rows=rows, now=evaluate(now, run), prior=evaluate(prior, run), result=record)
        found.append(item)
    return found
