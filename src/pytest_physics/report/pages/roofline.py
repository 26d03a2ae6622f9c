"""The roofline in the report: every arm under the roofs that its device reaches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from pytest_physics.record.data import RecordedRun
from pytest_physics.record.schema import ResultRecord
from pytest_physics.report import svg
from pytest_physics.report.figures import RAW, Drawing
from pytest_physics.report.format import number, plural, slug
from pytest_physics.report.pages.stress_answers import named, shown_percent, side
from pytest_physics.report.tables import Table

UNDERSTANDING = (
    "The sloping line is what memory allows at so many operations per byte, the flat one what arithmetic allows; both were measured on "
    "this device, by copies and by matrix products, and their bands are 95 % intervals. They meet at the ridge. A point left of the ridge "
    "waits for memory, so that a smaller format, a larger batch or a smaller cache make it faster, and more arithmetic costs nothing; "
    "right of it the clock counts. How far a point lies below its roof is what launches, small batches and the library leave unused. "
    "Operations and bytes are counted from the model's sizes, weights once for each pass and cache once for each token; what a cache of "
    "the processor serves from nearby is counted as traffic too, so a point above the sloping line says that it did not all go to memory."
)
_MARKERS = {"prefill": "s", "decode": "o"}


def drawings(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Drawing]:  # noqa: ARG001 -- the shape of every page
    """One roofline for each device."""
    names = dict.fromkeys(str(r.coordinates["instrument"]) for r in named(results, "ridge"))
    return [_roofline(name, [r for r in results if r.coordinates.get("instrument") == name]) for name in names]


def _one(results: Sequence[ResultRecord], quantity: str) -> tuple[float, float]:
    """Value and half-width of a quantity; NaN where the run has none."""
    found = named(results, quantity)
    return (float(found[0].estimate.value or math.nan), float(found[0].estimate.expanded or 0.0)) if found else (math.nan, 0.0)


def _roofline(name: str, results: Sequence[ResultRecord]) -> Drawing:
    key = f"fig-roofline-{slug(name)}"
    (bandwidth, u_bandwidth), (rate, u_rate) = (_one(results, f"roof of {what}") for what in ("memory", "arithmetic"))
    points = _points(results)
    if not points or not (math.isfinite(bandwidth) and math.isfinite(rate)):
        return Drawing(id=key, svg="", caption=f"{name}: a roof or every point is missing, so nothing is drawn.")
    intensities = [x for _, x, _, _ in points]
    x = np.geomspace(min(*intensities, rate / bandwidth) / 3, max(*intensities, rate / bandwidth) * 3, 200)
    low = np.minimum((rate - u_rate), x * (bandwidth - u_bandwidth))
    high = np.minimum((rate + u_rate), x * (bandwidth + u_bandwidth))
    with svg.drawing(key):
        figure = svg.new_figure(10, 3.4)
        ax: Axes = figure.subplots()
        ax.fill_between(x, low, high, color=svg.MUTED, alpha=0.25, linewidth=0)
        ax.plot(x, np.minimum(rate, x * bandwidth), color=svg.INK, linewidth=1.2, label="roofs, measured")
        for i, phase in enumerate(_MARKERS):
            own = [(x, y, u) for of, x, y, u in points if of == phase]
            if own:
                xs, ys, us = zip(*own, strict=True)
                ax.errorbar(xs, ys, yerr=us, fmt=_MARKERS[phase], color=svg.SERIES[i], capsize=2, linewidth=0.9, zorder=3, label=phase)
        ax.axvline(rate / bandwidth, color=svg.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_xscale("log")
        ax.set_yscale("log")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(lambda v, _: number(v))
            axis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("Operations per byte, logarithmic")
        ax.set_title("Operations per second, logarithmic")
        ax.legend(loc="lower right")
        drawn = svg.inline(figure, prefix=key, label=f"Roofline of {name}")
    caption = (
        f"{name}: {plural(len(points), 'point')} under the measured roofs, {number(bandwidth / 1e9)} GB/s and {number(rate / 1e12)} "
        f"Tflop/s; the dashed line is the ridge, {number(rate / bandwidth)} operations per byte. {RAW}"
    )
    return Drawing(id=key, svg=drawn, caption=caption)


def _points(results: Sequence[ResultRecord]) -> list[tuple[str, float, float, float]]:
    """Phase, operations per byte, operations per second and its half-width, of each arm."""
    rates = {_arm(r): r for r in named(results, "operations per second")}
    return [
        (str(r.coordinates["phase"]), float(r.estimate.value or 0), float(found.estimate.value or 0), float(found.estimate.expanded or 0))
        for r in named(results, "operations per byte")
        if (found := rates.get(_arm(r))) is not None
    ]  # fmt: skip


def _arm(r: ResultRecord) -> tuple[str, ...]:
    return tuple(str(r.coordinates.get(name, "")) for name in ("instrument", "phase", "context", "batch"))


_COLUMNS: Mapping[str, tuple[str, Callable[[ResultRecord], str]]] = {
    "Operations per byte": ("operations per byte", lambda r: number(r.estimate.value)),
    "Over the ridge": ("operations per byte over the ridge", lambda r: number(r.estimate.value, digits=3)),
    "Of the roof of memory": ("share of the roof of memory", shown_percent),
    "Of the roof of arithmetic": ("share of the roof of arithmetic", shown_percent),
    "Bound by": ("operations per byte over the ridge", side),
}


def tables(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Table]:  # noqa: ARG001 -- the shape of every page
    """Every point with its place."""
    by_arm: dict[tuple[str, ...], list[ResultRecord]] = {}
    for r in results:
        if "phase" in r.coordinates:
            by_arm.setdefault(_arm(r), []).append(r)
    rows = [(*arm, *(next((show(r) for r in named(own, q)), "–") for q, show in _COLUMNS.values())) for arm, own in by_arm.items()]
    columns = ("Rig", "Phase", "Context", "Batch", *_COLUMNS)
    return [Table(caption="Every phase under the roofs", columns=columns, rows=rows, numeric=frozenset(range(2, len(columns) - 1)))]
