"""The numbers of the cards at a glance: for each a drawing of hosts by model of card, with means, spreads and outliers.

Everything drawn stands in the tables of the page, and comes from the same records; nothing is computed from a drawing. A model with more
hosts than can be told apart by eye is drawn as quantiles. What its own gates refuse is left out, and the caption says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from pytest_physics.fleet.compare import GroupModel
from pytest_physics.fleet.evidence import METRICS, HostRun, Metric, refused
from pytest_physics.report import svg
from pytest_physics.report.figures import Drawing
from pytest_physics.report.format import Scale, number, plural, printable, scale_for

MOST_DOTS = 40
"""Hosts of one model that are drawn each for itself; of more the quantiles are drawn."""
MOST_MODELS = 20
"""Models in one drawing, those with the most hosts; the tables have all."""
MOST_NAMED = 5
LOGARITHMIC = 6.0
"""Where the largest number is so many times the smallest, the axis is logarithmic."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LINE_IN, ROW_IN = 0.085, 0.3
"""Height of a host's line, and the least of a model's row, in inches."""
SPREADS = 2.0
"""Half-width of the band of a group, in standard deviations of its hosts."""
READING = (
    "In brackets behind a model: how many hosts have the number. Dot and bar: a host's value and its 95 % interval, which holds the "
    f"error of the card's scale. Upright line: the mean of hosts that are equal but for the specimen; band: ± {SPREADS:g} τ around it, "
    "where about 95 % of such cards are expected; no band where they differ by no more than their own noise (τ = 0). A model with more "
    f"than {MOST_DOTS} hosts is drawn as quantiles: a line from 5 % to 95 % of them, thick for the middle half, a dot for the median; "
    "outliers are marked all the same. Nothing is computed from a drawing: the numbers stand in the tables below."
)
"""How to read the drawings, once for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One model of card in a drawing."""

    model: str
    hosts: Sequence[HostRun]
    """Those with a number, hosts of one group beside each other."""
    groups: Sequence[GroupModel]
    """Groups of equal hosts among them."""

    @property
    def lines(self) -> bool:
        """Whether each host has a line of its own."""
        return len(self.hosts) <= MOST_DOTS

    @property
    def height_in(self) -> float:
        """Inches of the row."""
        return max(ROW_IN, LINE_IN * len(self.hosts) + 0.12 if self.lines else 0.0)


def hardware_drawings(hosts: Sequence[HostRun], groups: Sequence[GroupModel]) -> list[Drawing]:
    """A drawing for each number that a host has."""
    return [_drawing(metric, hosts, groups) for metric in METRICS if any(metric.key in host.numbers for host in hosts)]


def _drawing(metric: Metric, hosts: Sequence[HostRun], groups: Sequence[GroupModel]) -> Drawing:
    key = f"fig-fleet-{metric.key}"
    having = [host for host in hosts if metric.key in host.numbers]
    usable = [host for host in having if not refused(host.numbers[metric.key])]
    left = _left_out([host.name for host in having if refused(host.numbers[metric.key])])
    rows = _rows(usable, [group for group in groups if group.metric is metric])
    if not rows:
        return Drawing(id=key, svg="", caption=f"{metric.title}: no host has a number that its gates let pass. {left}")
    shown = rows[:MOST_MODELS]
    values = [value for row in shown for value in _values(metric, row.hosts)]
    scale = scale_for(max(map(abs, values)), shown[0].hosts[0].numbers[metric.key].estimate.unit)
    lowest = min(value - half for row in shown for value, half in (_interval(host, metric) for host in row.hosts))
    logarithmic = lowest > 0 and max(values) >= LOGARITHMIC * min(values)
    with svg.drawing(key):
        figure = svg.new_figure(10, 0.65 + sum(row.height_in for row in shown))
        ax = figure.add_subplot()
        _draw(ax, metric, shown, scale, logarithmic=logarithmic)
        drawn = svg.inline(figure, prefix=key, label=f"{metric.title} of the hosts by model of card")
    more = (
        f" Of {plural(len(rows), 'model')} the {MOST_MODELS} with the most hosts are drawn; the table has all."
        if len(rows) > MOST_MODELS
        else ""
    )
    return Drawing(id=key, svg=drawn, caption=f"{_caption(metric, shown, logarithmic=logarithmic)}{more} {left}")


def _rows(hosts: Sequence[HostRun], groups: Sequence[GroupModel]) -> list[ModelRow]:
    """Models, those with the most hosts first; a group's hosts together."""
    place = {id(host): i for i, group in enumerate(groups) for host in group.members}
    models: dict[str, list[HostRun]] = {}
    for host in sorted(hosts, key=lambda host: place.get(id(host), len(groups))):
        models.setdefault(host.model, []).append(host)
    found = [ModelRow(model=m, hosts=of, groups=[g for g in groups if g.model == m]) for m, of in models.items()]
    return sorted(found, key=lambda row: (-len(row.hosts), row.model))


def _values(metric: Metric, hosts: Sequence[HostRun]) -> list[float]:
    return [_interval(host, metric)[0] for host in hosts]


def _draw(ax: Axes, metric: Metric, rows: Sequence[ModelRow], scale: Scale, *, logarithmic: bool) -> None:
    ax.set_xscale("log" if logarithmic else "linear")
    top, middles = 0.0, []
    for row in rows:
        _draw_row(ax, metric, row, top, scale.factor)
        middles.append(top + row.height_in / 2)
        top += row.height_in
        ax.axhline(top, color=svg.GRID, linewidth=0.6)
    ax.set_ylim(top, 0)
    ax.set_yticks(middles, [f"{printable(row.model, 38)} ({len(row.hosts)})" for row in rows])
    ax.grid(visible=False, axis="y")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if logarithmic else MaxNLocator(8))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, digits=4)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(f"{metric.title}{f' in {scale.unit}' if scale.unit else ''}{', logarithmic' if logarithmic else ''}")


def _draw_row(ax: Axes, metric: Metric, row: ModelRow, top: float, factor: float) -> None:
    step = (row.height_in - 0.12) / len(row.hosts)
    y_of = {id(host): top + 0.06 + step * (i + 0.5) if row.lines else top + row.height_in / 2 for i, host in enumerate(row.hosts)}
    for group in row.groups:
        places = [y_of[id(host)] for host in group.members]
        half = step / 2 if row.lines else row.height_in / 2 - 0.06
        _draw_mean(ax, group, (min(places) - half, max(places) + half), factor)
    bad = {id(host) for group in row.groups for host, _ in group.outliers}
    if not row.lines:
        _draw_quantiles(ax, np.quantile(_values(metric, row.hosts), QUANTILES) * factor, top + row.height_in / 2)
    _draw_hosts(ax, [_mark(host, metric, factor, y_of) for host in row.hosts if row.lines and id(host) not in bad], svg.SERIES[0])
    marks = {host.name: _mark(host, metric, factor, y_of) for host in row.hosts if id(host) in bad}
    _draw_hosts(ax, list(marks.values()), svg.ALERT)
    for name, (value, half, y) in marks.items():
        ax.annotate(f"✗ {printable(name, 30)}", (value + half, y), (5, 0), textcoords="offset points", va="center", color=svg.ALERT, size=8)


def _draw_mean(ax: Axes, group: GroupModel, between: tuple[float, float], factor: float) -> None:
    low, high = between
    mean, half = group.between.mean * factor, SPREADS * group.between.tau * factor
    if half:
        ax.fill(
            [mean - half, mean + half, mean + half, mean - half],
            [low, low, high, high],
            facecolor=svg.BAND,
            edgecolor=svg.GRID,
            linewidth=0.6,
        )
    ax.plot([mean, mean], [low, high], color=svg.MUTED, linewidth=1.2)


def _interval(host: HostRun, metric: Metric) -> tuple[float, float]:
    """Value and half-width of its interval."""
    estimate = host.numbers[metric.key].estimate
    return estimate.value or 0.0, estimate.expanded or 0.0


def _mark(host: HostRun, metric: Metric, factor: float, y_of: Mapping[int, float]) -> tuple[float, float, float]:
    value, half = _interval(host, metric)
    return value * factor, half * factor, y_of[id(host)]


def _draw_hosts(ax: Axes, marks: Sequence[tuple[float, float, float]], color: str) -> None:
    """Values as dots, intervals as one broken line: hundreds of lines of their own would be most of the page."""
    if marks:
        ax.plot(
            [x for v, half, _ in marks for x in (v - half, v + half, math.nan)],
            [y for *_, at in marks for y in (at, at, math.nan)],
            color=color,
        )
        ax.plot([v for v, *_ in marks], [y for *_, y in marks], "o", color=color, markersize=3.8)


def _draw_quantiles(ax: Axes, found: np.ndarray, y: float) -> None:
    lowest, low, middle, high, highest = found.tolist()
    ax.plot([lowest, highest], [y, y], color=svg.SERIES[0], linewidth=1.3)
    ax.plot([low, high], [y, y], color=svg.SERIES[0], linewidth=6, solid_capstyle="butt")
    ax.plot([middle], [y], "o", markerfacecolor=svg.SURFACE, markeredgecolor=svg.SERIES[0], markersize=4.2)


# --- words --------------------------------------------------------------------------------------------------------------------


def _caption(metric: Metric, rows: Sequence[ModelRow], *, logarithmic: bool) -> str:
    of = sorted({str(at) for row in rows for host in row.hosts if (at := host.numbers[metric.key].coordinates.get("model"))})
    text = f"{metric.title}{f' of {_named(of)}' if of else ''} by model of card; the axis "
    text += "is logarithmic." if logarithmic else "need not begin at zero."
    many = [row.model for row in rows if not row.lines]
    text += f" Drawn as quantiles: {_named(many)}." if many else ""
    bad = [host.name for row in rows for group in row.groups for host, _ in group.outliers]
    return text + (f" Red, ✗: {plural(len(bad), 'outlier')} ({_named(bad)})." if bad else "")


def _left_out(names: Sequence[str]) -> str:
    return f"Left out, refused by their own gates: {_named(names)}." if names else ""


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(printable(name, 40) for name in names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
