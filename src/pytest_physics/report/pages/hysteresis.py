"""Thermal hysteresis in the report: clock against temperature, on the way up and on the way down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from pytest_physics.metrology.hysteresis import Branch, Cycle
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.leaves.stress import cycles_of
from pytest_physics.record.schema import ResultRecord
from pytest_physics.report import svg
from pytest_physics.report.figures import RAW, Drawing
from pytest_physics.report.format import count, plural, slug
from pytest_physics.report.tables import Table

UNDERSTANDING = (
    "The load is ramped slowly up and down, and the clock is drawn over the temperature: mean clock at each temperature, way up and way "
    "down apart, the band from the least to the largest cycle. A card that slows down for heat at one temperature and recovers only at a "
    "lower one is slower on the way down: its two lines enclose a loop. Readings whose clock is held by the power cap alone are left "
    "out, because there the clock follows the load, and temperature lags behind the load. Where heat never held the clock back there is "
    "no loop to be seen; that is 'not tested', and no proof that the card has none. The width is no better known than the thermometer's "
    "step."
)


def drawings(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Drawing]:
    """One figure for each device."""
    return [_loop(run, r) for r in results if r.quantity == "loop height"]


def tables(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Table]:  # noqa: ARG001 -- the shape of every page
    """The results' own table says it all."""
    return []


def _loop(run: RecordedRun, result: ResultRecord) -> Drawing:
    name = str(result.coordinates["instrument"])
    key = f"fig-hysteresis-{slug(name)}-{slug(result.id)}"
    cycles = cycles_of(result.recipe["parameters"], run)
    lines = {branch: _line([getattr(cycle, branch) for cycle in cycles]) for branch in ("up", "down")}
    n = sum(int(branch.counted.sum()) for cycle in cycles for branch in (cycle.up, cycle.down))
    if not n:
        return Drawing(id=key, svg="", caption=f"{name}: no sample whose clock speaks of heat ({plural(len(cycles), 'cycle')}).")
    with svg.drawing(key):
        figure = svg.new_figure(10, 3.2)
        ax: Axes = figure.subplots()
        for (branch, (t, low, middle, high)), color in zip(lines.items(), svg.SERIES, strict=False):
            ax.fill_between(t, low, high, color=color, alpha=0.18, linewidth=0)
            ax.plot(t, middle, "o-", color=color, markersize=3, label=f"way {branch}")
        ax.set_title("Clock in MHz")
        ax.set_xlabel("Temperature in °C")
        ax.legend(loc="best")
        svg.horizontal_grid(ax)
        drawn = svg.inline(figure, prefix=key, label=f"Clock of {name} over its temperature, on the way up and on the way down")
    return Drawing(id=key, svg=drawn, caption=f"{_words(name, cycles)} {count(n)} samples, power cap and idle left out. {RAW}")


def _words(name: str, cycles: Sequence[Cycle]) -> str:
    slowed = sum(cycle.throttles for cycle in cycles)
    return f"{name}: {plural(len(cycles), 'cycle')} after one that warms up; heat held the clock back in {slowed} of them."


def _line(branches: Sequence[Branch]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Temperatures, and the least, mean and largest of the cycles' mean clocks there, in MHz."""
    found: dict[int, list[float]] = {}
    for branch in branches:
        kept = branch.counted
        temperatures = np.floor(branch.temperature_c[kept]).astype(int)
        for t in np.unique(temperatures):
            found.setdefault(int(t), []).append(float(branch.clock_hz[kept][temperatures == t].mean()) * 1e-6)
    ordered = sorted(found)
    columns = [[reduce(found[t]) for t in ordered] for reduce in (min, lambda v: sum(v) / len(v), max)]
    return np.array(ordered, dtype=np.float64), *(np.array(column) for column in columns)  # type: ignore[return-value]
