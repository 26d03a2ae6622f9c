"""The stress study in the report: latency, power and temperature under load, the matrix, the loads, and what of TR122 was answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from pytest_physics.clock import NS_PER_S
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.schema import ResultRecord, WindowRecord
from pytest_physics.report import svg
from pytest_physics.report.envelope import drawn_line
from pytest_physics.report.figures import BUCKETS, RAW, Drawing
from pytest_physics.report.format import ABSENT, count, duration, number, percent, plural, slug
from pytest_physics.report.pages.stress_answers import answers, named, shown, shown_percent
from pytest_physics.report.tables import Table

LEFT_OUT = "stress-left-out"
MATRIX = "stress matrix"
PANELS = (("power_w", "Power in W", 1.0), ("temperature_c", "Temperature in °C", 1.0), ("sm_clock_hz", "Clock in MHz", 1e-6))
UNDERSTANDING = (
    "First short work, then minutes of it. Each cell of the matrix decodes for at least a second, because an event of milliseconds says "
    "nothing of its energy; a cell that does not fit says why. Then one phase runs for minutes. If the latency of the calls climbs while "
    "the clock falls, the device is slowing itself down, and the table says for which reason and for which share of the time: heat, the "
    "power cap, an external brake. Being held at the power cap is a property of the setting, being slowed by heat one of the cooling. The "
    "drift compares the last third of the calls with the first; its interval rests on the differences of neighbouring calls, so a slow "
    "change does not hide in it. A stall is a device that says it is busy and draws no more than idle. Counter and readings are two "
    "instruments with scales of their own: a constant mismatch is a difference of scales."
)


def drawings(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Drawing]:
    """One figure for each sustained load."""
    loads = {str(r.coordinates["load"]) for r in results if "load" in r.coordinates}
    return [_load(run, window) for window in run.reader.windows if window.name in loads and window.calls_ns]


def _load(run: RecordedRun, window: WindowRecord) -> Drawing:
    """Latency of the calls over the time under load, and what the device did meanwhile."""
    key = f"fig-stress-{slug(window.id)}"
    trace = run.trace(window.instrument).between(window.t0_ns, window.t1_ns)
    panels = [(name, title, factor) for name, title, factor in PANELS if trace.has(name) and np.isfinite(trace.values(name)).any()]
    calls_s = np.asarray(window.calls_ns, dtype=np.float64) / NS_PER_S
    ends_s = np.cumsum(calls_s)
    with svg.drawing(key):
        figure = svg.new_figure(10, 1.7 + 1.05 * len(panels))
        axes: list[Axes] = list(figure.subplots(1 + len(panels), 1, sharex=True, squeeze=False)[:, 0])
        axes[0].plot(*drawn_line(ends_s, 1e3 * calls_s, buckets=BUCKETS, max_step=np.inf), color=svg.SERIES[0], linewidth=0.9)
        axes[0].set_title("Latency of a call in ms")
        third = len(calls_s) // 3
        for part, at in ((calls_s[:third], ends_s[:third]), (calls_s[-third:], ends_s[-third:])):
            if len(part):
                axes[0].plot([at[0], at[-1]], [1e3 * part.mean()] * 2, color=svg.SERIES[1], linewidth=2.0)
        t_s = (trace.t_ns - window.t0_ns) / NS_PER_S
        for ax, (name, title, factor) in zip(axes[1:], panels, strict=True):
            ax.plot(*drawn_line(t_s, trace.values(name) * factor, buckets=BUCKETS, max_step=np.inf), color=svg.SERIES[0], linewidth=0.8)
            ax.set_title(title)
        for ax in axes:
            svg.horizontal_grid(ax)
            ax.margins(y=0.1)
        axes[-1].set_xlabel("Time under load in s")
        drawn = svg.inline(
            figure, prefix=key, label=f"Latency under {window.name} on {window.instrument}, with power, temperature and clock"
        )
    ended = f" It was ended early: {window.labels['ended']}." if "ended" in window.labels else ""
    caption = (
        f"{window.instrument}, {window.name} ({window.id}): {plural(len(calls_s), 'call')} in {duration(float(ends_s[-1]))}; thick lines: "
        f"means of the first and the last third. {count(len(trace))} samples.{ended} {RAW}"
    )
    return Drawing(id=key, svg=drawn, caption=caption)


def tables(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Table]:
    """Answers, matrix, loads."""
    return [answers(run), _matrix(run, results), _loads(run, results)]


def _matrix(run: RecordedRun, results: Sequence[ResultRecord]) -> Table:
    """Every arm, measured or not."""
    phases = {phase.id for phase in run.reader.run.phases if phase.name == MATRIX}
    decodes: dict[tuple[str, int, int], list[WindowRecord]] = {}
    for window in run.reader.windows:
        if window.phase in phases and window.name == "decode":
            key = (window.instrument, int(window.labels["context"]), int(window.labels["batch"]))
            decodes.setdefault(key, []).append(window)
    rows: list[tuple[str, ...]] = []
    for r in named(results, "time per token"):
        if r.coordinates["phase"] != "decode":
            continue
        key = (str(r.coordinates["instrument"]), int(r.coordinates["context"]), int(r.coordinates["batch"]))
        last = decodes[key][-1]
        lasted = duration((last.t1_ns - last.t0_ns) / NS_PER_S)
        energy = next((shown(e) for e in named(results, "energy per token (net)") if _same_arm(e, r)), ABSENT)
        rows.append((key[0], str(key[1]), str(key[2]), number(last.work["steps"]), lasted, shown(r), energy, "measured"))
    for table_id in run.reader.tables:
        if table_id.startswith(LEFT_OUT):
            for row in run.table(table_id):
                arm = (str(row["instrument"]), str(row["context"]), str(row["batch"]))
                rows.append((*arm, ABSENT, ABSENT, ABSENT, ABSENT, f"not tested: {row['reason']}"))
    columns = ("Rig", "Context", "Batch", "New tokens", "One decode", "Time per token", "Net energy per token", "State")
    return Table(caption="Stress matrix", columns=columns, rows=rows, numeric=frozenset(range(1, 7)))


def _same_arm(one: ResultRecord, other: ResultRecord) -> bool:
    return all(one.coordinates.get(name) == other.coordinates.get(name) for name in ("instrument", "context", "batch"))


_LOAD_COLUMNS: Mapping[str, tuple[str, Callable[[ResultRecord], str]]] = {
    "Drift": ("latency drift, last third over first", shown_percent),
    "Heat": ("throttle share: thermal", lambda r: percent(r.estimate.value)),
    "Power cap": ("throttle share: power", lambda r: percent(r.estimate.value)),
    "Brake": ("throttle share: external", lambda r: percent(r.estimate.value)),
    "Power at the cap": ("power at the cap over the limit", shown_percent),
    "Longest stall": ("longest stall", shown),
    "Mean power": ("mean power", shown),
}


def _loads(run: RecordedRun, results: Sequence[ResultRecord]) -> Table:
    """One row for each sustained load; a dash where the rig cannot tell."""
    windows = {window.id: window for window in run.reader.windows}
    found: dict[tuple[str, str], list[ResultRecord]] = {}
    for r in results:
        if "load" in r.coordinates:
            found.setdefault((str(r.coordinates["instrument"]), str(r.coordinates["load"])), []).append(r)
    rows = []
    for (instrument, load), own in found.items():
        window = next((windows[str(r.recipe["parameters"]["window"])] for r in own if "window" in r.recipe.get("parameters", {})), None)
        length = ABSENT if window is None else duration((window.t1_ns - window.t0_ns) / NS_PER_S)
        cells = [next((show(r) for r in named(own, name)), ABSENT) for name, show in _LOAD_COLUMNS.values()]
        mismatch = [f"{number(float(r.coordinates['window_s']))} s: {shown_percent(r)}" for r in named(own, "counter less integral")]
        rows.append((instrument, load, length, *cells, "; ".join(mismatch) or ABSENT))
    columns = ("Rig", "Load", "Length", *_LOAD_COLUMNS, "Counter less integral")
    return Table(caption="Sustained load", columns=columns, rows=rows, numeric=frozenset(range(2, len(columns))))
