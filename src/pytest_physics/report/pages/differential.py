"""Component differential in the report: two devices under one load, contrasts with intervals, and what every event rule can do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from pytest_physics.errors import PhysicsError
from pytest_physics.metrology.instability import RULES
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.leaves.event import watched
from pytest_physics.record.schema import ResultRecord
from pytest_physics.report import svg
from pytest_physics.report.figures import RAW, Drawing
from pytest_physics.report.format import ABSENT, number, percent, plural, quantity, slug
from pytest_physics.report.tables import Table

UNDERSTANDING = (
    "Two devices run for the same time and are judged by the same rule, second by second. An event is a stretch in which a loaded "
    "device falls below its own recent speed, with evidence that does not come from the speed itself: a reason that the driver "
    "reports, or a clock. Flags come in runs, so one long event is one observation, however many seconds it lasts: the interval of a "
    "difference is as wide as the effective number of ticks makes it, and the table says how many ticks 80 % power would need. A "
    "difference whose interval holds 0 is no finding. The second table is what every rule can and cannot do on simulated devices with "
    "known truth: how often it cries wolf on an idle device and under a noisy load, how much injected throttling it finds, and "
    "whether it can fire at all on a sensor of that step and period. The legacy rules stand in it by name: a rule that never fires "
    "finds nothing, and one that fires on idle finds everything."
)
SHARE = "differential.share"
LINES = (("clock_hz", "Clock in MHz", 1e-6), ("temperature_c", "Temperature in °C", 1.0))


def drawings(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Drawing]:
    """One figure for each contrast, and one of all differences."""
    contrasts = [r for r in results if r.recipe["op"] == SHARE]
    found = [_contrast(run, r) for r in contrasts]
    return [*found, _differences(contrasts)] if contrasts else found


def _contrast(run: RecordedRun, r: ResultRecord) -> Drawing:
    """Clock and temperature of both devices, events shaded."""
    key = f"fig-contrast-{slug(r.id)}"
    try:
        both = [watched(r.recipe["parameters"], run, phase) for phase in ("phase", "span")]
    except PhysicsError as error:
        return Drawing(id=key, svg="", caption=f"{r.coordinates['contrast']}: {error}")
    panels = [panel for panel in LINES if any(getattr(w.telemetry, panel[0]) is not None for w in both)]
    with svg.drawing(key):
        figure = svg.new_figure(10, 0.8 + 1.3 * max(1, len(panels)))
        axes: list[Axes] = list(figure.subplots(max(1, len(panels)), 1, sharex=True, squeeze=False)[:, 0])
        for ax, (name, title, factor) in zip(axes, panels, strict=False):
            for device, color in zip(both, svg.SERIES, strict=False):
                ax.plot(device.telemetry.t_s, device.telemetry.column(name) * factor, color=color, linewidth=0.9, label=device.name)
            ax.set_title(title)
            svg.horizontal_grid(ax)
        for device, color, (low, high) in zip(both, svg.SERIES, ((0.0, 0.06), (0.07, 0.13)), strict=False):
            axes[0].fill_between(
                device.telemetry.t_s,
                low,
                high,
                where=device.outcome.flags.tolist(),
                transform=axes[0].get_xaxis_transform(),
                color=color,
                alpha=0.6,
                linewidth=0,
            )
        axes[0].legend(loc="best", ncols=2)
        axes[-1].set_xlabel("Time since the load began in s")
        drawn = svg.inline(figure, prefix=key, label=f"Clock and temperature of {both[0].name} and {both[1].name} under one load")
    shares = ", ".join(f"{w.name} {percent(float(np.mean(w.outcome.judged)))}" for w in both)
    caption = (
        f"{r.coordinates['contrast']}: bars at the foot are ticks in events ({shares}); {plural(both[0].telemetry.t_s.size, 'tick')}. {RAW}"
    )
    return Drawing(id=key, svg=drawn, caption=caption)


def _differences(contrasts: Sequence[ResultRecord]) -> Drawing:
    key = "fig-differences"
    known = [r for r in contrasts if r.estimate.value is not None]
    if not known:
        return Drawing(
            id=key, svg="", caption="No contrast could be drawn: " + "; ".join(g.reason for r in contrasts for g in r.gates if not g.passed)
        )
    with svg.drawing(key):
        figure = svg.new_figure(10, 0.9 + 0.4 * len(known))
        ax: Axes = figure.subplots()
        for row, r in enumerate(known):
            value, expanded = 100 * float(r.estimate.value or 0.0), 100 * float(r.estimate.expanded or 0.0)
            ax.errorbar(value, row, xerr=expanded, fmt="o", color=svg.SERIES[0], capsize=3)
            if r.truth is not None:
                ax.plot(100 * r.truth, row, "D", color=svg.SERIES[1], markersize=4)
        ax.axvline(0.0, color=svg.MUTED, linewidth=0.8)
        ax.set_yticks(range(len(known)), [str(r.coordinates["contrast"]) for r in known])
        ax.set_ylim(len(known) - 0.5, -0.5)
        ax.set_xlabel("Difference of the share of time in events, percentage points")
        drawn = svg.inline(figure, prefix=key, label="Differences of event shares with their 95 % intervals")
    return Drawing(id=key, svg=drawn, caption=f"Bars: 95 % intervals by effective ticks; diamonds: the truth of simulated devices. {RAW}")


def tables(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Table]:  # noqa: ARG001 -- the shape of every page
    """Contrasts, and the numbers of every rule."""
    found = [_contrasts(results), _rules(results)]
    return [table for table in found if table.rows]


def _contrasts(results: Sequence[ResultRecord]) -> Table:
    named = [r for r in results if r.recipe["op"].startswith("differential.")]
    rows = []
    for r in named:
        why = "; ".join(gate.reason for gate in r.gates if not gate.passed or gate.reason.startswith("not tested"))
        truth = ABSENT if r.truth is None else number(r.truth, digits=3)
        shown = ABSENT if r.estimate.value is None else str(quantity(r.estimate.value, r.estimate.expanded, r.estimate.unit))
        rows.append((str(r.coordinates["contrast"]), r.quantity, shown, truth, why or r.estimate.estimator))
    columns = ("Contrast", "Quantity", "Estimate", "Truth", "How")
    return Table(caption="Contrasts", columns=columns, rows=rows, numeric=frozenset({2, 3}))


def _rules(results: Sequence[ResultRecord]) -> Table:
    found: dict[tuple[str, str], dict[str, ResultRecord]] = {}
    for r in results:
        if r.recipe["op"] == "rule.number":
            key = (str(r.coordinates["rule"]), str(r.coordinates["sensor"]))
            found.setdefault(key, {})[str(r.recipe["parameters"]["quantity"])] = r
    rows = []
    for (rule, sensor), own in found.items():
        cells = [f"{percent(own[name].estimate.value)} ± {percent(own[name].estimate.expanded)}" for name in ("idle", "noise", "detection")]
        rows.append((rule, sensor, *cells, own["reach"].estimate.estimator, RULES[rule].describes))
    columns = ("Rule", "Sensor", "False alarms, idle", "False alarms, noisy load", "Throttling found", "Reach", "What it says")
    return Table(caption="What every event rule can and cannot do", columns=columns, rows=rows, numeric=frozenset({2, 3, 4}))
