"""The figures of a report: each takes records or a trace and gives an inline SVG with its caption.

Traces are reduced to their min–max envelope before they are drawn; every caption says how many samples there were and how many parts the
envelope has. No number of a report comes out of a drawing. A figure that cannot be drawn says why in place of the drawing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from pytest_physics.clock import NS_PER_S
from pytest_physics.metrology.uncertainty import coverage_factor
from pytest_physics.record.schema import BaselineRecord, EstimateRecord, InstrumentRecord, PhaseRecord, ResultRecord
from pytest_physics.report import svg
from pytest_physics.report.envelope import drawn_line, gaps
from pytest_physics.report.format import count, duration, number, plural, printable, quantity, scale_for, shown_unit, slug
from pytest_physics.sampling.trace import Trace

BUCKETS = 800
"""Parts of an envelope: about one per pixel of a page."""
MAX_GAPS_DRAWN = 200
RAW = "Numbers are computed from raw data, not from the drawing."

FloatArray = NDArray[np.float64]

_MARKERS = ("o", "s", "^", "D", "v")
_PANELS = (
    ("power_w", "Power in W", 1.0),
    ("temperature_c", "Temperature in °C", 1.0),
    ("utilisation_cpu_ratio", "CPU utilisation in %", 100.0),
    ("sm_clock_hz", "Clock in MHz", 1e-6),
    ("frequency_hz", "CPU clock in MHz", 1e-6),
)
"""Channels of the overview, in order, with title and factor."""
_MAX_PANELS = 3
_SLOWDOWNS = {"power_cap_ns": "power cap", "thermal_ns": "heat", "power_brake_ns": "power brake"}
"""Cumulative counters that grow while the clock is held back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A figure ready for the page."""

    id: str
    """Fragment of the page that leads here."""
    svg: str
    """The ``<svg>`` element; empty where nothing could be drawn."""
    caption: str
    """What is drawn, from how many samples, reduced how; or why nothing is."""


# --- a whole run --------------------------------------------------------------------------------------------------------------


def overview(trace: Trace, instrument: InstrumentRecord, phases: Sequence[PhaseRecord], *, gap_s: float) -> Drawing:
    """Power (or the nearest there is) over the whole run, with phases shaded and gaps (longer than ``gap_s`` seconds) marked."""
    key = f"fig-run-{slug(instrument.name)}"
    panels = [(name, title, factor) for name, title, factor in _PANELS if trace.has(name) and np.isfinite(trace.values(name)).any()]
    panels = panels[:_MAX_PANELS]
    if not panels:
        return Drawing(id=key, svg="", caption=f"No valid sample of a channel that is drawn over time ({count(len(trace))} ticks taken).")
    t = _seconds(trace.t_ns, instrument)
    with svg.drawing(key):
        figure = svg.new_figure(10, 0.75 + 1.45 * len(panels))
        axes: list[Axes] = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
        notes = [
            _overview_panel(ax, t, trace.values(name) * factor, title, gap_s)
            for ax, (name, title, factor) in zip(axes, panels, strict=True)
        ]
        _shade_phases(axes, phases, instrument, float(t[-1]))
        slowed = _mark_slowdowns(axes[0], trace, t)
        axes[0].set_xlim(min(0.0, float(t[0])), max(float(t[-1]), float(t[0]) + 1e-9))
        axes[-1].set_xlabel("Time since the start of the run in s")
        drawn = svg.inline(figure, prefix=key, label=f"{panels[0][1]} of {instrument.name} over the whole run, phases shaded")
    valid, n_gaps = notes[0]
    silent = [name for name, _, _ in _PANELS if trace.has(name) and not np.isfinite(trace.values(name)).any()]
    missing = f"Without a single valid sample: {', '.join(silent)}. " if silent else ""
    caption = (
        f"{instrument.name}: {count(valid)} valid of {plural(len(trace), 'sample')} ({panels[0][0]}), {_reduced(valid)}. "
        f"{_gap_words(n_gaps, gap_s)} {slowed}{missing}{RAW}"
    )
    return Drawing(id=key, svg=drawn, caption=caption)


def _overview_panel(ax: Axes, t: FloatArray, y: FloatArray, title: str, max_step: float) -> tuple[int, int]:
    """Draw one channel; number of valid samples and of gaps."""
    ax.plot(*drawn_line(t, y, buckets=BUCKETS, max_step=max_step), color=svg.SERIES[0], linewidth=0.8)
    found = gaps(t, y, max_step=max_step)
    longest = found[np.argsort(found[:, 0] - found[:, 1], kind="stable")][:MAX_GAPS_DRAWN]
    for t0, t1 in longest:
        ax.axvspan(t0, t1, facecolor=svg.ALERT, edgecolor=svg.ALERT, alpha=0.35, linewidth=0.8)
    ax.set_title(title)
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.margins(y=0.08)
    svg.horizontal_grid(ax)
    return int(np.isfinite(y).sum()), len(found)


def _shade_phases(axes: Sequence[Axes], phases: Sequence[PhaseRecord], instrument: InstrumentRecord, end_s: float) -> None:
    spans = [
        (
            p.name,
            (p.t0_ns - instrument.started.t_ns) / NS_PER_S,
            end_s if p.t1_ns is None else (p.t1_ns - instrument.started.t_ns) / NS_PER_S,
        )
        for p in phases
        if p.instrument == instrument.name
    ]
    if not spans:
        return
    axes[0].set_title(axes[0].get_title(loc="left"), pad=19.0)
    for _, t0, t1 in spans[::2]:
        for ax in axes:
            ax.axvspan(t0, t1, facecolor=svg.BAND, edgecolor="none", zorder=0)
    for name, middle in _labels_without_overlap(spans, width=max(end_s, 1e-9)):
        axes[0].annotate(
            name, (middle, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 4), textcoords="offset points",
            ha="center", va="bottom", color=svg.MUTED, fontsize=8,
        )  # fmt: skip


def _labels_without_overlap(spans: Sequence[tuple[str, float, float]], *, width: float) -> list[tuple[str, float]]:
    """Label and middle of the longest spans whose labels have room beside those already placed; all are in the table of phases."""
    placed: list[tuple[str, float, float]] = []
    for name, t0, t1 in sorted(spans, key=lambda span: span[1] - span[2]):
        label, middle = printable(name, 28), (t0 + t1) / 2
        half = (4.1 * len(label) + 4) / 650 * width / 2  # about 4.1 points per letter, on axes of 650
        if all(abs(middle - other) >= half + other_half for _, other, other_half in placed):
            placed.append((label, middle, half))
    return [(label, middle) for label, middle, _ in placed]


def _mark_slowdowns(ax: Axes, trace: Trace, t: FloatArray) -> str:
    """Ticks where a slowdown counter grew; a sentence for the caption."""
    words = []
    for i, (name, word) in enumerate(_SLOWDOWNS.items()):
        grew = np.flatnonzero(np.diff(trace.values(name)) > 0) + 1 if trace.has(name) else np.zeros(0, int)
        if len(grew):
            _, first = np.unique(np.round(t[grew] / max(float(t[-1]), 1e-9) * BUCKETS), return_index=True)
            height = 0.03 + 0.05 * i
            ax.plot(
                t[grew][first], np.full(len(first), height), "|", transform=ax.get_xaxis_transform(), color=svg.SERIES[1 + i], markersize=5
            )
            words.append(f"{word} ({plural(len(grew), 'sample')})")
    return f"Ticks at the bottom: clock held back by {', '.join(words)}. " if words else ""


# --- idle baseline ------------------------------------------------------------------------------------------------------------


def baseline(record: BaselineRecord, instrument: InstrumentRecord | None) -> Drawing:
    """Readings over time and their histogram, with mean ± U."""
    key = f"fig-baseline-{slug(record.id)}"
    y = np.asarray(record.power_w, dtype=float)
    if not np.isfinite(y).any():
        return Drawing(id=key, svg="", caption=f"Baseline {record.id} has no valid reading.")
    start_ns = instrument.started.t_ns if instrument else record.t0_ns
    t = (np.asarray(record.t_ns) - start_ns) / NS_PER_S
    with svg.drawing(key):
        figure = svg.new_figure(10, 2.5)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3.4, 1])
        left.plot(*drawn_line(t, y, buckets=BUCKETS, max_step=math.inf), color=svg.SERIES[0], linewidth=0.8)
        left.set_title("Idle power in W")
        left.set_xlabel("Time since the start of the run in s")
        right.hist(y[np.isfinite(y)], bins=_bins(y), orientation="horizontal", color=svg.SERIES[0], alpha=0.55)
        right.set_xlabel("Updates")
        right.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        for ax in (left, right):
            _mean_band(ax, record.mean_w, _expanded(record.u_w, record.dof))
            if record.truth_w is not None:
                ax.axhline(record.truth_w, color=svg.SERIES[2], linewidth=1.0, linestyle=(0, (5, 3)), label="truth (twin)")
            svg.horizontal_grid(ax)
        left.legend(loc="upper right", ncols=3, bbox_to_anchor=(1.0, 1.16), borderaxespad=0.0)
        drawn = svg.inline(figure, prefix=key, label=f"Baseline {record.id}: idle power over time and its histogram")
    shown = quantity(record.mean_w, _expanded(record.u_w, record.dof), "W")
    caption = (
        f"Baseline {record.id}: n = {count(record.n)} distinct sensor updates, worth {number(record.n_eff, digits=3)} independent ones; "
        f"mean {shown} (95 %, noise alone), {_reduced(len(y))}. {RAW}"
    )
    return Drawing(id=key, svg=drawn, caption=caption)


def _mean_band(ax: Axes, mean_w: float | None, expanded_w: float | None) -> None:
    if mean_w is None:
        return
    ax.axhline(mean_w, color=svg.SERIES[1], linewidth=1.2, label="mean ± U of the noise")
    if expanded_w:
        ax.axhspan(mean_w - expanded_w, mean_w + expanded_w, facecolor=svg.SERIES[1], alpha=0.22, edgecolor="none")


# --- heat soak ----------------------------------------------------------------------------------------------------------------


def soak(
    trace: Trace,
    instrument: InstrumentRecord,
    phase: PhaseRecord,
    *,
    slope: ResultRecord | None,
    plateau: ResultRecord | None,
    limit: float | None,
    gap_s: float,
) -> Drawing:
    """Temperature during a soak, with the reported slope, the limits on it, and the reported plateau.

    ``slope`` is drawn over the last third of the phase through the mean temperature there; ``limit`` is in the slope's unit.
    """
    key = f"fig-soak-{slug(phase.id)}-{slug(instrument.name)}"
    part = trace.between(phase.t0_ns, phase.t1_ns if phase.t1_ns is not None else int(trace.t_ns[-1]) if len(trace) else phase.t0_ns)
    y = part.values("temperature_c")
    if not np.isfinite(y).any():
        return Drawing(id=key, svg="", caption=f"The soak of {instrument.name} has no valid temperature.")
    t = _seconds(part.t_ns, instrument)
    with svg.drawing(key):
        figure = svg.new_figure(10, 2.7)
        whole, end = figure.subplots(1, 2, width_ratios=[1.7, 1])
        for ax in (whole, end):
            ax.plot(*drawn_line(t, y, buckets=BUCKETS, max_step=gap_s), color=svg.SERIES[0], label="temperature")
            ax.set_xlabel("Time since the start of the run in s")
            svg.horizontal_grid(ax)
        words = _plateau_line(whole, plateau)
        words += _slope_lines(end, t, y, slope, limit)
        whole.set_title("Temperature in °C")
        end.set_title("Last third, in °C")
        whole.legend(loc="lower right")
        end.legend(loc="lower right")
        _zoom_to_end(whole, end, t, y)
        drawn = svg.inline(figure, prefix=key, label=f"Temperature of {instrument.name} during the soak")
    valid = int(np.isfinite(y).sum())
    return Drawing(id=key, svg=drawn, caption=f"{instrument.name}: n = {count(valid)} samples, {_reduced(valid)}. {words}{RAW}")


def _zoom_to_end(whole: Axes, end: Axes, t: FloatArray, y: FloatArray) -> None:
    """All of the soak on the left, its last third on the right."""
    start, stop = float(t[0]), max(float(t[-1]), float(t[0]) + 1e-9)
    whole.set_xlim(start, stop)
    end.set_xlim(start + (stop - start) * 2 / 3, stop)
    if np.isfinite(tail := y[t >= start + (stop - start) * 2 / 3]).any():
        middle = (float(np.nanmax(tail)) + float(np.nanmin(tail))) / 2
        half = max(1.5, 0.75 * float(np.nanmax(tail) - np.nanmin(tail)))
        end.set_ylim(middle - half, middle + half)


def _slope_lines(ax: Axes, t: FloatArray, y: FloatArray, slope: ResultRecord | None, limit: float | None) -> str:
    seconds = {"min": 60.0, "s": 1.0, "h": 3600.0}.get(slope.estimate.unit.rpartition("/")[2]) if slope else None
    if slope is None or slope.estimate.value is None or seconds is None:
        return ""
    tail = t >= t[0] + (t[-1] - t[0]) * 2 / 3
    t0, t1 = float(t[tail][0]), float(t[-1])
    middle, level = (t0 + t1) / 2, float(np.nanmean(y[tail])) if np.isfinite(y[tail]).any() else math.nan
    ends = np.array([t0, t1])
    ax.plot(ends, level + slope.estimate.value / seconds * (ends - middle), color=svg.SERIES[1], linewidth=2.0, label="reported slope")
    shown = quantity(slope.estimate.value, slope.estimate.expanded, slope.estimate.unit)
    words = f"Reported slope {shown}, drawn through the mean of the last third. "
    if limit is None:
        return words
    for sign, label in ((1, "limit on the slope"), (-1, None)):
        ax.plot(ends, level + sign * limit / seconds * (ends - middle), color=svg.ALERT, linewidth=1.0, linestyle=(0, (4, 3)), label=label)
    return f"{words[:-2]}; limits ± {number(limit)} {shown_unit(slope.estimate.unit)} through the same point. "


def _plateau_line(ax: Axes, plateau: ResultRecord | None) -> str:
    if plateau is None or plateau.estimate.value is None:
        return ""
    value, expanded = plateau.estimate.value, plateau.estimate.expanded or 0.0
    ax.axhspan(value - expanded, value + expanded, facecolor=svg.SERIES[2], alpha=0.18, edgecolor="none")
    ax.axhline(value, color=svg.SERIES[2], linewidth=1.0, label="plateau ± U")
    return f"Plateau {quantity(value, expanded, plateau.estimate.unit)}. "


# --- sampler ------------------------------------------------------------------------------------------------------------------


def jitter(trace: Trace, instrument: InstrumentRecord) -> Drawing:
    """Histograms of the spacing between reads and of their lateness on the grid."""
    key = f"fig-jitter-{slug(instrument.name)}"
    before = trace.rows["t_before_ns"]
    if len(before) < 2:
        return Drawing(id=key, svg="", caption=f"{instrument.name}: {plural(len(before), 'sample')}, so there is no spacing to show.")
    spacing = np.diff(before) / instrument.period_ns
    late_ms = (before - (instrument.origin_ns + trace.tick * instrument.period_ns)) / 1e6
    words = f"{instrument.name}: n = {count(len(spacing))} spacings, nominal period {number(instrument.period_ns / 1e6)} ms"
    if np.ptp(spacing) < 1e-6 and np.ptp(late_ms) < 1e-6:
        return Drawing(
            id=key, svg="", caption=f"{words}; every spacing equals the period and no read was late ({instrument.clock} clock). {RAW}"
        )
    with svg.drawing(key):
        figure = svg.new_figure(10, 2.2)
        left, right = figure.subplots(1, 2)
        _histogram(left, spacing, "Spacing between reads in periods")
        _histogram(right, late_ms, "Lateness of a read in ms")
        drawn = svg.inline(figure, prefix=key, label=f"Histograms of spacing and lateness of the sampler of {instrument.name}")
    caption = f"{words}. All reads, none left out; logarithmic count. {RAW}"
    return Drawing(id=key, svg=drawn, caption=caption)


def _histogram(ax: Axes, values: FloatArray, title: str) -> None:
    counts, _, _ = ax.hist(values, bins=60, color=svg.SERIES[0], alpha=0.75, log=True)
    ax.set_ylim(0.6, 2.0 * float(np.max(counts)))
    ax.set_title("Reads")
    ax.set_xlabel(title)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda n, _: count(round(n)) if n >= 1 else "")
    svg.horizontal_grid(ax)


# --- results over a coordinate ------------------------------------------------------------------------------------------------


def swept_coordinate(results: Sequence[ResultRecord]) -> str | None:
    """Name of the first numeric coordinate with at least two values; repetitions are no coordinate to draw over."""
    for name in dict.fromkeys(name for r in results for name in r.coordinates):
        values = {r.coordinates.get(name) for r in results}
        if name != "repetition" and len(values) > 1 and all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            return name
    return None


def curves(experiment: str, results: Sequence[ResultRecord]) -> Drawing | None:
    """Each quantity over the coordinate that was swept: estimates with error bars, truths as open markers; None without a sweep."""
    panels: dict[tuple[str, str], list[ResultRecord]] = {}
    for record in results:
        if record.estimate.value is not None:
            panels.setdefault((record.quantity, record.estimate.unit), []).append(record)
    drawable = {key: (x, rows) for key, rows in panels.items() if (x := swept_coordinate(rows)) is not None}
    if not drawable:
        return None
    key = f"fig-curve-{slug(experiment)}"
    columns = 3 if len(drawable) in {3, 5, 6} else min(2, len(drawable))
    rows_needed = -(-len(drawable) // columns)
    with svg.drawing(key):
        figure = svg.new_figure(10, 0.3 + 2.7 * rows_needed)
        axes = figure.subplots(rows_needed, columns, squeeze=False).ravel()
        for ax, ((name, unit), (x, rows)) in zip(axes, drawable.items(), strict=False):
            _curve_panel(ax, name, unit, x, rows)
        for ax in axes[len(drawable) :]:
            ax.set_axis_off()
        drawn = svg.inline(figure, prefix=key, label=f"Results of {experiment} over what was swept")
    n = sum(len(rows) for _, rows in drawable.values())
    truths = " Open markers: the twin's truth." if any(r.truth is not None for _, rows in drawable.values() for r in rows) else ""
    caption = f"n = {plural(n, 'estimate')}, none left out; bars are 95 % intervals (± U).{truths} {RAW}"
    return Drawing(id=key, svg=drawn, caption=caption)


def _curve_panel(ax: Axes, name: str, unit: str, x: str, rows: Sequence[ResultRecord]) -> None:
    scale = scale_for(float(np.median([abs(r.estimate.value or 0.0) for r in rows])), unit)
    for i, (label, line) in enumerate(_lines(rows, x).items()):
        color, marker = svg.SERIES[i % len(svg.SERIES)], _MARKERS[i % len(_MARKERS)]
        at = [float(r.coordinates[x]) for r in line]
        value = [(r.estimate.value or 0.0) * scale.factor for r in line]
        bars = [(r.estimate.expanded or 0.0) * scale.factor for r in line]
        ax.errorbar(at, value, yerr=bars, color=color, marker=marker, capsize=3, linewidth=1.0, label=label or None, zorder=3)
        known = [(a, r.truth * scale.factor) for a, r in zip(at, line, strict=True) if r.truth is not None]
        if known:
            ax.plot(
                *zip(*known, strict=True),
                marker,
                markersize=9,
                markerfacecolor="none",
                markeredgecolor=color,
                markeredgewidth=0.9,
                zorder=2,
            )
    _swept_axis(ax, [float(r.coordinates[x]) for r in rows], x)
    title = printable(name[:1].upper() + name[1:])
    title = f"{title} in {scale.unit}" if scale.unit else title
    ax.set_title(f"{title}, logarithmic" if _logarithmic(ax, rows) else title)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="best")
    svg.horizontal_grid(ax)


def _logarithmic(ax: Axes, rows: Sequence[ResultRecord]) -> bool:
    """A logarithmic axis where the values span a factor of 20 and every interval is above 0; else an axis from 0."""
    values = [r.estimate.value or 0.0 for r in rows]
    lowest = min((r.estimate.value or 0.0) - (r.estimate.expanded or 0.0) for r in rows)
    if lowest <= 0 or max(values) < 20 * min(values):
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
        return False
    ax.set_yscale("log")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda v, _: number(v))
    return True


def _lines(rows: Sequence[ResultRecord], x: str) -> Mapping[str, list[ResultRecord]]:
    """One line per combination of the other coordinates that differ, sorted along ``x``."""
    lines: dict[str, list[ResultRecord]] = {}
    telling = {name for r in rows for name in r.coordinates if len({s.coordinates.get(name) for s in rows}) > 1} - {x, "repetition"}
    for record in sorted(rows, key=lambda r: float(r.coordinates[x])):
        others = [str(v) if isinstance(v, str) else f"{k} {v}" for k, v in record.coordinates.items() if k in telling]
        lines.setdefault(printable(", ".join(others), 40), []).append(record)
    return dict(sorted(lines.items()))


def _swept_axis(ax: Axes, values: Sequence[float], name: str) -> None:
    """Logarithmic where the values span a factor of eight; a tick at each value where there are few."""
    ticks = sorted(set(values))
    ax.set_xlabel(printable(name.replace("_", " ")).capitalize())
    if ticks[0] > 0 and ticks[-1] / ticks[0] >= 8:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_minor_locator(NullLocator())
    if len(ticks) <= 12:
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_major_formatter(lambda v, _: number(v))
    else:
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))


# --- an interval against its limit --------------------------------------------------------------------------------------------


def interval_glyph(estimate: EstimateRecord, operator: str, limit: float, truth: float | None) -> str:
    """Small picture of an interval against its limit: the side where the claim holds is shaded. The numbers stand beside it."""
    if estimate.value is None or estimate.expanded is None:
        return ""
    low, high = estimate.value - estimate.expanded, estimate.value + estimate.expanded
    marks = [low, high, limit, *([] if truth is None else [truth])]
    if not (span := max(marks) - min(marks)) > 0:
        return ""
    left, right, start = 6.0, 124.0, min(marks)

    def at(x: float) -> float:
        return left + (x - start) / span * (right - left)

    edge = at(limit)
    x, width = (0.0, edge) if operator in {"<=", "<"} else (edge, 130.0 - edge)
    truth_mark = "" if truth is None else f'<circle class="truth" cx="{at(truth):.1f}" cy="11" r="5"/>'
    return (
        '<svg class="interval" aria-hidden="true" viewBox="0 0 130 22">'
        f'<rect class="holds" x="{x:.1f}" y="2" width="{max(width, 0):.1f}" height="18"/>'
        f'<line class="limit" x1="{edge:.1f}" x2="{edge:.1f}" y1="2" y2="20"/>'
        f'<line class="bar" x1="{at(low):.1f}" x2="{at(high):.1f}" y1="11" y2="11"/>'
        f'<circle class="dot" cx="{at(estimate.value):.1f}" cy="11" r="3"/>{truth_mark}</svg>'
    )


# --- shared -------------------------------------------------------------------------------------------------------------------


def _seconds(t_ns: NDArray[np.int64], instrument: InstrumentRecord) -> FloatArray:
    return (t_ns - instrument.started.t_ns) / NS_PER_S


def _expanded(u: float | None, dof: float | None) -> float | None:
    return None if u is None else coverage_factor(dof or math.inf) * u


def _bins(y: FloatArray) -> int:
    return int(min(40, max(5, math.sqrt(len(y)))))


def _reduced(n: int) -> str:
    return f"drawn as the min–max envelope of {BUCKETS} parts" if n > 2 * BUCKETS else "every one drawn"


def _gap_words(n: int, gap_s: float) -> str:
    if not n:
        return f"No gap longer than {duration(gap_s)}."
    verb = "is" if n == 1 else "are"
    longest = f" (the longest {MAX_GAPS_DRAWN})" if n > MAX_GAPS_DRAWN else ""
    return f"{plural(n, 'gap')} longer than {duration(gap_s)} {verb} marked in red{longest}."
