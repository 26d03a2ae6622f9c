"""Training coupling in the report: what a training said of its steps and what the device did, on one step axis, and pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import PhysicsError
from pytest_physics.metrology.autocorrelation import FloatArray
from pytest_physics.metrology.coupling import WORDS, Correlation
from pytest_physics.metrology.instability import INSTABILITY, events
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.joined import EFFICIENCY, LOGGED, POWER, STEP_TIME, Steps, joined, steps_of, telemetry_columns
from pytest_physics.record.leaves.coupling import coupling_of
from pytest_physics.record.leaves.event import watched
from pytest_physics.record.schema import ResultRecord
from pytest_physics.report import svg
from pytest_physics.report.envelope import drawn_line
from pytest_physics.report.figures import BUCKETS, RAW, Drawing
from pytest_physics.report.format import ABSENT, count, duration, number, plural, slug
from pytest_physics.report.tables import Table

UNDERSTANDING = (
    "The figure with the step axis puts both sides of a training over one another: loss and gradient norm as the optimiser saw them, "
    "work per joule, temperature and power as the device did, on one clock. Shaded steps are not used: warm-up and decay of the "
    "learning rate, where everything moves on purpose, and steps that hold a pause. Lines across the gradient norm are events in "
    "which the device lost speed. A correlation is easily found: two slow series always have one, and the best of many lags is larger "
    "still. So the table gives, beside r, how many independent pairs the series are worth, an interval that pays for every lag "
    "searched, and the share of shifted copies that do as well (p). 'Weak', 'moderate' and 'strong' are said only where the interval "
    "excludes everything below 0, 0.3 and 0.7; where both series drift, the detrended series and the first differences must both show "
    "it. Each pair is judged by itself: of twenty pairs without a coupling one is called supported by chance. r is that of the lag with "
    "the largest |r|, Spearman's rho that of lag 0. 'Not supported' is no proof that there is nothing: the table below it says how long a "
    "training must be for a coupling to be seen. Where a simulated coupling was planted, the planted value stands beside the "
    "estimate. Where a device has no power channel, the rate of the work stands under its own name: steps per second, and per second of "
    "CPU time that the run got. It is no efficiency."
)
STEP_RATE, CPU_RATE = "steps_per_s", "steps_per_cpu_s"
WAITING, STOLEN = "waiting_ratio", "stolen_ratio"
PANELS = (
    ("loss", "Loss", 1.0),
    ("grad_norm", "Gradient norm", 1.0),
    (EFFICIENCY, "Steps per joule", 1.0),
    (LOGGED + "rle_smoothed", "Logged index (rle_smoothed)", 1.0),
    ("temperature_c", "Temperature in °C", 1.0),
    (POWER, "Power in W", 1.0),
    ("utilisation_ratio", "Utilisation in %", 100.0),
    ("utilisation_cpu_ratio", "CPU utilisation in %", 100.0),
    (STEP_RATE, "Steps per second", 1.0),
    (CPU_RATE, "Steps per CPU-second of this run", 1.0),
    (WAITING, "Time in which some task waited for a CPU, in %", 100.0),
    (STOLEN, "CPU time that the hypervisor gave to others, in %", 100.0),
)
"""Panels on the step axis, in order; what a run has not is left out."""
MAX_PANELS = 8
BLOCK_S = 2.0
"""Length of the blocks of CPU time, waiting and stolen time: the kernel counts CPU time in ticks of 10 ms."""
MIN_BLOCKS = 5
SCATTERS = (("grad_norm", EFFICIENCY), ("loss", EFFICIENCY), ("temperature_c", "grad_norm"))
"""Horizontal and vertical series of the scatter plots."""
INDEX = LOGGED + "rle_smoothed"
SHOWN = {name: title for name, title, _ in PANELS}
MOST_POINTS = 400
"""Pairs drawn of a scatter plot, evenly spaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Studied:
    """One training beside one instrument, as the results name it."""

    table: str
    instrument: str
    name: str
    phase: str
    baselines: tuple[str, ...]


def studied(results: Sequence[ResultRecord]) -> list[Studied]:
    """Trainings of a run, in the order in which they were recorded."""
    found: dict[tuple[str, str], Studied] = {}
    for r in results:
        parameters = r.recipe.get("parameters", {})
        if not r.recipe["op"].startswith("coupling.") or "table" not in parameters:
            continue
        key = (str(parameters["table"]), str(parameters["instrument"]))
        baselines = tuple(map(str, parameters.get("baselines", ())))
        known = found.get(key)
        if known is None or (baselines and not known.baselines):
            found[key] = Studied(
                table=key[0],
                instrument=key[1],
                name=str(r.coordinates.get("training", key[0])),
                phase=str(parameters.get("phase", "")),
                baselines=baselines,
            )
    return list(found.values())


def drawings(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Drawing]:
    """The step axis, the scatter plots and the lags of every training."""
    found: list[Drawing] = []
    for study in studied(results):
        found += [_step_axis(run, study), _scatters(run, study), _lags(run, study, results)]
    return [drawing for drawing in found if drawing.svg or drawing.caption]


# --- step axis --------------------------------------------------------------------------------------------------------


def step_series(run: RecordedRun, study: Studied) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Step index and values of every panel over the whole training, ramps included."""
    steps = steps_of(run.table(study.table))
    axis = steps.step.astype(np.float64)
    found = {name: (axis, values) for name, values in steps.columns.items() if np.isfinite(values).any()}
    span = (int(steps.begin_ns[0]), int(steps.end_ns[-1]))
    names = [name for name, _, _ in PANELS if name not in steps.columns and name != EFFICIENCY]
    edges = np.concatenate([steps.begin_ns[:1], steps.end_ns]) / NS_PER_S
    for name, (t_s, values) in telemetry_columns(run, study.instrument, names, span).items():
        found[name] = np.interp(t_s, edges, np.concatenate([[axis[0] - 1], axis])), values
    efficiency = _efficiency(run, study, steps, span)
    if efficiency is not None:
        found[EFFICIENCY] = axis, efficiency
    found[STEP_RATE] = axis, _per_second(steps.columns[STEP_TIME])
    at_s, rates = _host_rates(run, study.instrument, steps)
    return found | {name: (np.interp(at_s, edges, np.concatenate([[axis[0] - 1], axis])), values) for name, values in rates.items()}


def _per_second(step_s: FloatArray) -> FloatArray:
    """Steps per second; NaN for a step of no length, as in logs of whole seconds."""
    return np.asarray(np.where(step_s > 0, 1 / np.where(step_s > 0, step_s, 1.0), np.nan), dtype=np.float64)


def _host_rates(run: RecordedRun, instrument: str, steps: Steps) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Middles of blocks in seconds; in each the steps per CPU-second of the run, and the shares of time waited and stolen."""
    trace = run.trace(instrument).between(int(steps.begin_ns[0]), int(steps.end_ns[-1]))
    t_s = np.asarray(trace.t_ns / NS_PER_S, dtype=np.float64)
    blocks = int((t_s[-1] - t_s[0]) // BLOCK_S) if t_s.size else 0
    if blocks < MIN_BLOCKS:
        return np.empty(0), {}
    edges = np.linspace(t_s[0], t_s[-1], blocks + 1)
    length_s = np.diff(edges)

    def rate(channel: str) -> FloatArray | None:
        values = np.asarray(trace.values(channel)) if trace.has(channel) else np.empty(0)
        known = np.isfinite(values)
        return np.diff(np.interp(edges, t_s[known], values[known])) / NS_PER_S / length_s if np.count_nonzero(known) > 1 else None

    cpus = int(run.instrument(instrument).fingerprint.details.get("logical_cpus", "0") or 0)
    waited, stolen, foreign = (rate(name) for name in ("pressure_cpu_ns", "steal_ns", "foreign_cpu_ns"))
    found = {} if waited is None else {WAITING: waited}
    if stolen is not None and cpus:
        found[STOLEN] = stolen / cpus
    if foreign is not None and cpus and trace.has("utilisation_cpu_ratio"):
        busy = np.nan_to_num(np.asarray(trace.values("utilisation_cpu_ratio"))) * cpus
        total_s = np.concatenate([[0.0], np.cumsum(busy[1:] * np.diff(t_s))])  # each reading is of the time since the one before
        own_s = np.diff(np.interp(edges, t_s, total_s)) - foreign * length_s
        done = np.diff(np.interp(edges, steps.end_ns / NS_PER_S, np.arange(steps.step.size)))
        found[CPU_RATE] = np.where(own_s > 0, done / np.where(own_s > 0, own_s, 1.0), np.nan)
    return (edges[:-1] + edges[1:]) / 2, found


def _efficiency(run: RecordedRun, study: Studied, steps: Steps, span: tuple[int, int]) -> FloatArray | None:
    """Steps per joule of every step, power interpolated at its middle, idle power of the baselines taken off."""
    power = telemetry_columns(run, study.instrument, [POWER], span).get(POWER)
    if power is None or not _varies(power[1]):
        return None  # per joule of a constant it would be the step time once more
    means = [run.baseline(name).mean_w for name in study.baselines]
    idle_w = float(np.mean([mean for mean in means if mean is not None])) if any(mean is not None for mean in means) else 0.0
    known = np.isfinite(power[1])
    at_s = (steps.begin_ns + steps.end_ns) / 2 / NS_PER_S
    energy_j = (np.interp(at_s, power[0][known], power[1][known]) - idle_w) * steps.columns[STEP_TIME]
    return np.asarray(np.where(energy_j > 0, 1 / np.where(energy_j > 0, energy_j, 1.0), np.nan), dtype=np.float64)


def _step_axis(run: RecordedRun, study: Studied) -> Drawing:
    key = f"fig-coupling-{slug(study.table)}-{slug(study.instrument)}"
    steps = steps_of(run.table(study.table))
    series = step_series(run, study)
    panels = [(name, title, factor) for name, title, factor in PANELS if name in series and _varies(series[name][1])][:MAX_PANELS]
    if not panels:
        return Drawing(id=key, svg="", caption=f"{study.name}, {study.instrument}: nothing of the training or the device varies.")
    started = _event_steps(run, study, steps)
    with svg.drawing(key):
        figure = svg.new_figure(10, 0.8 + 1.05 * len(panels))
        axes: list[Axes] = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
        for ax, (name, title, factor) in zip(axes, panels, strict=True):
            x, y = series[name]
            ax.plot(*drawn_line(x, y * factor, buckets=BUCKETS // 2, max_step=np.inf), color=svg.SERIES[0], linewidth=0.8)
            ax.set_title(title)
            svg.horizontal_grid(ax)
            ax.margins(y=0.1)
            for begin, end in _unused(steps):
                ax.axvspan(begin, end, facecolor=svg.BAND, edgecolor="none", zorder=0)
            for at in (started or ()) if name == "grad_norm" else ():
                ax.axvline(at, color=svg.ALERT, linewidth=1.0)
        axes[-1].set_xlim(float(steps.step[0]) - 1, float(steps.step[-1]))
        axes[-1].set_xlabel("Step")
        drawn = svg.inline(figure, prefix=key, label=f"{', '.join(title for _, title, _ in panels)} over the steps of {study.name}")
    used = int(steps.usable.sum())
    zone = f"{count(used)} of {plural(steps.step.size, 'step')} lie in the steady zone; the others are shaded and not used"
    if not steps.has_zone:
        paused = count(int(steps.paused.sum()))
        zone = f"the training has no steady zone, so all {plural(steps.step.size, 'step')} but {paused} with a pause are used"
    caption = " ".join(filter(None, (f"{study.name}, {study.instrument}: {zone}.", _event_words(started), _missing(run, study), RAW)))
    return Drawing(id=key, svg=drawn, caption=caption)


def _missing(run: RecordedRun, study: Studied) -> str:
    """What the device has no channel for, why, and what stands in its place; empty where it has all."""
    device = run.instrument(study.instrument)
    has, why = {channel.name for channel in device.channels}, []
    if not has & {POWER, "energy_j"}:
        reason = device.absent.get("energy_j") or device.absent.get(POWER, "the device has no such channel")
        why.append(f"no power, and so no efficiency ({reason.rstrip('.')})")
    if "temperature_c" not in has:
        why.append(f"no temperature ({device.absent.get('temperature_c', 'the device has no such channel').rstrip('.')})")
    if not why:
        return ""
    needed = "a processor with RAPL and a thermal sensor that the system shows" if device.spec == "cpu" else "a device with these sensors"
    instead = " The rate of the work is drawn instead, and it is no efficiency." if POWER not in has and "energy_j" not in has else ""
    return f"{study.instrument} has {', and '.join(why)}; it would need {needed}.{instead}"


def _varies(values: FloatArray) -> bool:
    """Whether there is anything to draw: a constant is a sentence, not a figure."""
    known = values[np.isfinite(values)]
    return known.size > 1 and bool(np.ptp(known) > 0)


def _unused(steps: Steps) -> list[tuple[float, float]]:
    """Spans of steps that are not used."""
    unused = ~steps.usable
    edges = np.flatnonzero(np.diff(np.concatenate([[0], unused.astype(np.int8), [0]])))
    return [(float(steps.step[start]) - 1, float(steps.step[stop - 1])) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _event_steps(run: RecordedRun, study: Studied, steps: Steps) -> list[float] | None:
    """Steps at which events begin; None where the rule could not look."""
    if not study.phase:
        return None
    try:
        found = watched({"phase": study.phase, "rule": INSTABILITY.id, "tick_s": 1.0}, run)
    except PhysicsError:
        return None
    t0_ns = run.phase(study.phase).t0_ns
    at_ns = [t0_ns + event.start_s * NS_PER_S for event in events(found.telemetry, found.outcome)]
    return [float(np.interp(at, steps.end_ns, steps.step)) for at in at_ns]


def _event_words(started: Sequence[float] | None) -> str:
    if started is None:
        return "The training is too short for events to be told."
    return f"{plural(len(started), 'event')} by {INSTABILITY.id}."


# --- pairs ------------------------------------------------------------------------------------------------------------


def _scatters(run: RecordedRun, study: Studied) -> Drawing:
    key = f"fig-scatter-{slug(study.table)}-{slug(study.instrument)}"
    try:
        columns = joined(
            run, study.table, study.instrument, ["grad_norm", "loss", EFFICIENCY, "temperature_c", INDEX], baselines=study.baselines
        ).columns  # fmt: skip
    except PhysicsError as error:
        return Drawing(id=key, svg="", caption=f"{study.name}, {study.instrument}: no pairs are drawn: {error}")
    columns = {**columns, STEP_RATE: _per_second(columns[STEP_TIME])}
    no_power = POWER not in columns or not _varies(columns[POWER])
    efficiency = INDEX if INDEX in columns else STEP_RATE if no_power else EFFICIENCY
    pairs = [tuple(efficiency if name == EFFICIENCY else name for name in pair) for pair in SCATTERS]
    drawn_pairs = [(a, b) for a, b in pairs if a in columns and b in columns and _varies(columns[a]) and _varies(columns[b])]
    if not drawn_pairs:
        return Drawing(
            id=key,
            svg="",
            caption=f"{study.name}, {study.instrument}: neither work rate nor temperature varies, so no pairs are drawn.",
        )
    n = 0
    with svg.drawing(key):
        figure = svg.new_figure(10, 3.0)
        for ax, (a, b) in zip(figure.subplots(1, len(drawn_pairs), squeeze=False)[0], drawn_pairs, strict=True):
            known = np.flatnonzero(np.isfinite(columns[a]) & np.isfinite(columns[b]))
            n = max(n, known.size)
            chosen = known[:: max(1, -(-known.size // MOST_POINTS))]
            ax.plot(columns[a][chosen], columns[b][chosen], "o", color=svg.SERIES[0], markersize=2.2, alpha=0.6)
            ax.set_xlabel(SHOWN[a])
            ax.set_title(SHOWN[b])
        drawn = svg.inline(
            figure, prefix=key, label=f"Pairs of {study.name}: {', '.join(f'{SHOWN[b]} over {SHOWN[a]}' for a, b in drawn_pairs)}"
        )
    left = f", of which at most {MOST_POINTS} are drawn" if n > MOST_POINTS else ""
    return Drawing(id=key, svg=drawn, caption=f"{study.name}, {study.instrument}: {count(n)} pairs of the steady zone{left}. {RAW}")


def _lags(run: RecordedRun, study: Studied, results: Sequence[ResultRecord]) -> Drawing:
    """Correlation over the lag for every pair of a training."""
    key = f"fig-lags-{slug(study.table)}-{slug(study.instrument)}"
    curves = []
    for r in _of(results, study, "coupling.r"):
        try:
            curves.append((str(r.coordinates["series"]), coupling_of(r.recipe["parameters"], run)))
        except (PhysicsError, LookupError):
            continue
    curves = [(name, found) for name, found in curves if found.decisive.lags.lags.size > 1][:5]
    if not curves:
        return Drawing(id=key, svg="", caption="")
    with svg.drawing(key):
        figure = svg.new_figure(10, 2.6)
        ax: Axes = figure.subplots()
        for (name, found), color in zip(curves, svg.SERIES, strict=False):
            ax.plot(found.decisive.lags.lags, found.decisive.lags.r, "o-", color=color, markersize=3, label=name)
        ax.set_title("r of the analysis that decides")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("Lag in rows; to the right of 0 the training leads")
        ax.legend(loc="best", ncols=2)
        svg.horizontal_grid(ax)
        drawn = svg.inline(figure, prefix=key, label=f"Correlation over the lag, {study.name}")
    return Drawing(
        id=key, svg=drawn, caption=f"{study.name}, {study.instrument}: {plural(len(curves), 'pair')}, every lag that was searched. {RAW}"
    )


def _of(results: Sequence[ResultRecord], study: Studied, op: str) -> list[ResultRecord]:
    wanted = (study.table, study.instrument)
    return [
        r
        for r in results
        if r.recipe["op"] == op and (r.recipe["parameters"].get("table"), r.recipe["parameters"].get("instrument")) == wanted
    ]


# --- tables -----------------------------------------------------------------------------------------------------------

COLUMNS = (
    "Training", "Series", "Verdict", "r", "r given load", "planted", "lag", "p", "pairs", "effective", "Spearman", "r as measured", "Why",
)  # fmt: skip


def tables(run: RecordedRun, results: Sequence[ResultRecord]) -> list[Table]:
    """Coefficients of every pair, and how long a training has to be."""
    rows = [row for study in studied(results) for row in _rows(run, study, results)]
    found = [Table(caption="Coefficients", columns=COLUMNS, rows=rows, numeric=frozenset(range(3, 12)))] if rows else []
    needed = [_needed(run, r) for r in results if r.recipe["op"] == "coupling.needed_zone" and r.estimate.value is not None]
    if needed:
        columns = ("Training", "Series", "Steady zone", "To see r of", "Needed", "At")
        found.append(Table(caption="How long must the steady zone be?", columns=columns, rows=needed, numeric=frozenset({2, 3, 4})))
    return found


def _rows(run: RecordedRun, study: Studied, results: Sequence[ResultRecord]) -> list[tuple[str, ...]]:
    own: dict[str, dict[str, ResultRecord]] = {}
    for quantity in ("word", "r", "partial", "lag", "p", "n", "n_eff", "rho", "r_raw"):
        for r in _of(results, study, f"coupling.{quantity}"):
            own.setdefault(str(r.coordinates["series"]), {})[quantity] = r
    return [_row(run, study, series, found) for series, found in own.items() if "word" in found]


def _row(run: RecordedRun, study: Studied, series: str, found: Mapping[str, ResultRecord]) -> tuple[str, ...]:
    word = found["word"].estimate.value
    refusals = "; ".join(gate.reason for gate in found["word"].gates if not gate.passed and not gate.warning)
    try:
        pair = coupling_of(found["word"].recipe["parameters"], run)
    except (PhysicsError, LookupError):
        reason, intervals = "", [ABSENT] * 3
    else:
        reason = pair.reason
        shown = (pair.decisive.peak, pair.decisive.spearman, pair.analyses["as measured"].pearson)
        intervals = [_interval(one) for one in shown]
    try:
        given = coupling_of(found["partial"].recipe["parameters"], run).decisive.partial if "partial" in found else None
    except (PhysicsError, LookupError):
        given = None
    said = "refused" if word is None else WORDS[int(word)]
    planted = found["r"].truth if "r" in found else None
    cells = [intervals[0], _interval(given), number(planted, digits=3), *(_cell(found.get(name)) for name in ("lag", "p", "n", "n_eff"))]
    cells += intervals[1:]
    return (
        f"{study.name}, {study.instrument}",
        series,
        f"{said} (gates refuse)" if word is not None and refusals else said,
        *cells,
        refusals or reason,
    )


def _interval(found: Correlation | None) -> str:
    return ABSENT if found is None else f"{found.r:+.3f} ({found.low:+.2f} to {found.high:+.2f})"


def _cell(r: ResultRecord | None) -> str:
    return ABSENT if r is None else number(r.estimate.value, digits=3)


def _needed(run: RecordedRun, r: ResultRecord) -> tuple[str, ...]:
    begin_ns, end_ns = steps_of(run.table(str(r.recipe["parameters"]["table"]))).zone_ns
    return (
        str(r.coordinates["training"]), str(r.coordinates["series"]), duration((end_ns - begin_ns) / NS_PER_S),
        number(float(r.recipe["parameters"]["r"])), duration(r.estimate.value),
        r.estimate.estimator,
    )  # fmt: skip
