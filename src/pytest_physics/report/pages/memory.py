"""The memory map of a search: where the bytes are over context or batch, where they end, and what time does there.

Drawn from ``probes.jsonl`` alone. Left: stacked bytes by part (weights and cache by formula, the rest by the fit), the peaks of the
probes, the capacity, the predicted cliff with its interval and the found one with its bracket. Right: time per token over the same axis,
with the trend before the cliff and the limit from which a probe counts as spilled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from pytest_physics.errors import ChannelUnavailableError, PhysicsError
from pytest_physics.metrology.memory import SPILL_FACTOR, Outcome, place
from pytest_physics.metrology.uncertainty import Estimate
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.leaves.memory import HELD, MEMORY_LEAVES, PARTS, Search, size_of
from pytest_physics.record.reader import RunReader
from pytest_physics.report import svg
from pytest_physics.report.figures import RAW, Drawing
from pytest_physics.report.format import number, plural, quantity, slug
from pytest_physics.report.tables import Table

GIB = 2**30
MIB = 2**20
POINTS = 200
"""Along the axis."""
BEYOND = 1.35
"""How far beyond the cliff the map goes, as a multiple of it."""
MARKS = {
    Outcome.FITS: ("o", "fits"),
    Outcome.OUT_OF_MEMORY: ("X", "out of memory"),
    Outcome.SPILL: ("^", "spilled"),
    Outcome.KILLED: ("v", "killed"),
    Outcome.ARCHITECTURE_LIMIT: ("s", "no position in the model"),
}
"""Marker and words of each outcome."""

UNDERSTANDING = (
    "How much memory a pass takes, piece by piece, and where it meets what the device has. Weights and key-value cache are exact by "
    "formula; activations and workspace are fitted to probes well below the limit, so the place where the stack crosses the capacity is "
    "a prediction: its 95 % interval is the shaded band. The solid line is where the search found the end. A limit of the architecture "
    "has no memory behind it: the stack stops below the capacity. On the right, a cliff of time: a driver that pages to the host reports "
    "no error, and only the time per token shows it. What other processes hold lies above the capacity: it was never there to be used. "
    "A probe that did not end by itself showed no peak: it is drawn where the fit expects it. The tables account for the bytes at the "
    "largest size that fitted in every pass: what a pass takes, part by part, what is held beside it, and what is left."
)


def memory_maps(reader: RunReader) -> list[Drawing]:
    """One figure for each search of the run; a search that cannot be read says so in place of its figure."""
    run = RecordedRun(reader.path)
    ids = dict.fromkeys(probe.search for probe in reader.probes)
    return [memory_map(run, search_id) for search_id in ids]


def memory_map(run: RecordedRun, search_id: str) -> Drawing:
    """Stacked bytes and the time curve of one search."""
    key = f"fig-memory-{slug(search_id)}"
    try:
        search = Search.of(run, search_id)
        search.fit()
    except (PhysicsError, ValueError) as error:
        return Drawing(id=key, svg="", caption=f"No memory map of search {search_id}: {error}")
    with svg.drawing(key):
        figure = svg.new_figure(10, 3.4)
        left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
        end = _end(search)
        _stack(left, search, end)
        words = _cliffs(left, run, search, end)
        _probes(left, search)
        _times(right, search, end)
        for ax in (left, right):
            ax.set_xlabel("Context in tokens" if search.axis == "context" else "Batch in sequences")
            ax.set_xlim(0, end)
            svg.horizontal_grid(ax)
        left.legend(loc="upper left", ncols=2)
        drawn = svg.inline(figure, prefix=key, label=f"Memory map of {search.probes[0].subject.name} over {search.axis}")
    return Drawing(id=key, svg=drawn, caption=_caption(search, words))


def _caption(search: Search, words: str) -> str:
    subject, first = search.probes[0].subject, search.probes[0]
    fixed = f"batch {first.batch}" if search.axis == "context" else f"context {first.context}"
    used = "well below the limit"
    return (
        f"{search.id}: {subject.name}, {subject.dtype}, attention {subject.attention}, {fixed}, limited by {first.limited_by}. "
        f"n = {plural(len(search.probes), 'probe')}, {len(search.predicting)} of them for the prediction, {used}. {words}{RAW}"
    )


def _end(search: Search) -> float:
    limit = search.fit().limit(search.capacity_bytes, axis=search.axis, other=search.other)
    ends = search.ends
    found = float(ends[1]) if ends else 0.0
    architecture = search.reason is Outcome.ARCHITECTURE_LIMIT
    return BEYOND * max(found, limit if math.isfinite(limit) and not architecture else 0.0, 1.0)


def _scale(search: Search) -> tuple[float, str]:
    return (GIB, "GiB") if search.capacity_bytes >= GIB else (MIB, "MiB")


def _stack(ax: Axes, search: Search, end: float) -> None:
    x = np.linspace(0.0, end, POINTS)
    fit, (scale, unit) = search.fit(), _scale(search)
    weights = np.full(POINTS, float(search.sizes.weight_bytes))
    at = [place(float(value), axis=search.axis, other=search.other) for value in x]
    cache = np.array([search.sizes.kv_bytes_per_token * p["batch"] * p["context"] for p in at])
    total = np.array([fit.at(**p) for p in at])
    workspace = np.full(POINTS, max(0.0, fit.constant_bytes - float(search.sizes.weight_bytes)))
    rest = np.maximum(total - weights - cache - workspace, 0.0)
    layers: list[NDArray[np.float64]] = [weights / scale, workspace / scale, cache / scale, rest / scale]
    ax.stackplot(x, *layers, labels=["weights", "workspace", "key-value cache", "activations"], colors=list(svg.SERIES[:4]), alpha=0.55)
    ax.axhline(search.capacity_bytes / scale, color=svg.ALERT, linewidth=1.0, linestyle=(0, (4, 3)), label="capacity")
    others = max(sum(probe.foreign.values()) for probe in search.probes)
    if others:
        ends = search.capacity_bytes / scale, (search.capacity_bytes + others) / scale
        ax.axhspan(*ends, facecolor="none", edgecolor=svg.MUTED, linewidth=0.0, hatch="///", label="other processes")
    ax.set_title(f"Peak memory in {unit}")
    top = max(search.capacity_bytes + others, float(total[-1])) / scale
    ax.set_ylim(0, 1.55 * top)  # room for the legend


def _cliffs(ax: Axes, run: RecordedRun, search: Search, end: float) -> str:
    """Lines of the predicted and the found cliff; what they say in words."""
    leaf = MEMORY_LEAVES["memory.predicted_cliff"][0]
    predicted = leaf({"search": search.id}, run)
    words = ""
    if math.isfinite(predicted.value):
        low, high = predicted.interval
        inside = predicted.value <= end
        if inside:
            ax.axvspan(low, high, facecolor=svg.MUTED, alpha=0.2, edgecolor="none")
            ax.axvline(predicted.value, color=svg.MUTED, linewidth=1.1, linestyle=(0, (4, 3)), label="predicted")
        shown = quantity(predicted.value, predicted.expanded, predicted.unit)
        words = f"Predicted {shown}{'' if inside else ' for memory alone, beyond what is drawn'}. "
    ends, reason = search.ends, search.reason
    if ends is None:
        return f"{words}No end was found. "
    ax.axvline(sum(ends) / 2, color=svg.INK, linewidth=1.4, label="found")
    fits, fails = (number(end, digits=8) for end in (ends[0], ends[1] + 1))
    return f"{words}Found between {fits} and {fails}: {reason.value if reason else 'reasons differ'}. "


def _probes(ax: Axes, search: Search) -> None:
    (scale, _), fit = _scale(search), search.fit()
    seen: set[Outcome] = set()
    for probe, outcome in search.outcomes():
        marker, words = MARKS[outcome]
        expected = fit.at(batch=probe.batch, context=probe.context)  # where it ended early, nobody saw its peak
        height = (probe.peak_bytes if probe.peak_bytes is not None else expected) / scale
        label = None if outcome in seen else words
        seen.add(outcome)
        color, front = (svg.INK, 2.1) if outcome is Outcome.FITS else (svg.ALERT, 2.2)
        ax.plot([size_of(probe)], [height], marker, color=color, markersize=3.5, zorder=front, label=label)


def _times(ax: Axes, search: Search, end: float) -> None:
    timed = [(size_of(p), 1e3 * p.seconds / (p.batch * p.context), outcome) for p, outcome in search.outcomes() if p.seconds]
    for outcome in dict.fromkeys(outcome for *_, outcome in timed):
        points = sorted((x, y) for x, y, found in timed if found is outcome)
        color = svg.SERIES[0] if outcome is Outcome.FITS else svg.ALERT
        ax.plot(*zip(*points, strict=True), MARKS[outcome][0], color=color, markersize=4, label=MARKS[outcome][1])
    trend = search.trend()
    if trend is not None:
        x = np.linspace(max(1.0, end / POINTS), end, POINTS)
        at = [place(float(value), axis=search.axis, other=search.other) for value in x]
        per_token = np.array([1e3 * trend.at(**p) / (p["batch"] * p["context"]) for p in at])
        ax.plot(x, per_token, color=svg.SERIES[1], label="trend before the cliff")
        ax.plot(x, SPILL_FACTOR * per_token, color=svg.ALERT, linewidth=1.0, linestyle=(0, (4, 3)), label=f"{SPILL_FACTOR:g} × the trend")
    ax.set_yscale("log")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda value, _: number(value))
    ax.set_title("Time per token in ms, logarithmic")
    if timed or trend is not None:
        ax.legend(loc="best")


def maps_of(reader: RunReader) -> Sequence[Drawing]:
    """:func:`memory_maps`; nothing where no memory was probed."""
    return memory_maps(reader) if reader.probes else []


# --- the account --------------------------------------------------------------------------------------------------------

NAMES = {"weights": "weights", "cache": "key-value cache", "activations": "activations, logits, scores", "workspace": "workspace, rounding"}
"""Parts of a pass in words."""


def accounts_of(reader: RunReader) -> list[Table]:
    """Where the bytes are at the cliff, one table for each search that found one and whose bytes could be fitted."""
    run = RecordedRun(reader.path)
    tables = (account(run, search_id) for search_id in dict.fromkeys(probe.search for probe in reader.probes))
    return [table for table in tables if table is not None]


def account(run: RecordedRun, search_id: str) -> Table | None:
    """Bytes at the largest size that fitted in every pass of one search; None where there is none, or no fit."""
    try:
        search = Search.of(run, search_id)
        search.fit()
    except (PhysicsError, ValueError):
        return None
    if search.ends is None:
        return None
    at = {name: int(value) for name, value in place(search.ends[0], axis=search.axis, other=search.other).items()}
    passed = {part: _leaf("bytes", run, search, part=part, **at) for part in (*PARTS, "all")}
    held = {part: _held(run, search, part) for part in HELD}
    slack = held["allocator slack"]
    left = search.capacity_bytes - passed["all"].value - (0.0 if slack is None else slack.value)
    rows = [
        *(_row(search, NAMES[part], passed[part]) for part in PARTS),
        _row(search, "all of the pass", passed["all"]),
        _row(search, "allocator slack", held["allocator slack"], "no caching allocator took part"),
        _row(search, "left of the capacity", replace(passed["all"], value=left, estimator="capacity less the rows above")),
        _row(search, "other processes, beyond the capacity", held["other processes"]),
    ]
    subject = search.probes[0].subject
    size, unit = number(search.capacity_bytes / _scale(search)[0]), _scale(search)[1]
    return Table(
        caption=f"Where the bytes are: {search.id}, {subject.name} at batch {at['batch']}, context {at['context']}; capacity {size} {unit}",
        columns=("part", f"bytes in {unit}", "of the capacity", "from"), rows=rows, numeric=frozenset({1, 2}),
    )  # fmt: skip


def _leaf(op: str, run: RecordedRun, search: Search, **parameters: str | int) -> Estimate:
    return MEMORY_LEAVES[f"memory.{op}"][0]({"search": search.id, **parameters}, run)


def _held(run: RecordedRun, search: Search, part: str) -> Estimate | None:
    try:
        return _leaf("held", run, search, part=part)
    except ChannelUnavailableError:
        return None


def _row(search: Search, name: str, estimate: Estimate | None, why_not: str = "") -> list[str]:
    if estimate is None:
        return [name, "–", "–", why_not]
    scale, _ = _scale(search)
    share = f"{number(100 * estimate.value / search.capacity_bytes, digits=3)} %"
    value = estimate.value / scale
    shown = str(quantity(value, estimate.expanded / scale, "")).strip() if estimate.expanded else number(value)
    return [name, shown, share, estimate.estimator]
