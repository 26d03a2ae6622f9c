"""How broken up a memory was while patterns of blocks came and went: fragmentation along each pattern.

Drawn from ``allocations.jsonl`` alone. One line is one torture of an allocator, looked at evenly from before its first step to after its
last, with its holes still open. Allocators that do not tell their free blocks have no line, and the caption says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pytest_physics.metrology.memory import inactive_split_share
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.leaves.memory import state_of
from pytest_physics.record.schema import AllocationRecord, ResultRecord
from pytest_physics.report import svg
from pytest_physics.report.figures import RAW, Drawing
from pytest_physics.report.format import number, plural
from pytest_physics.report.tables import Table

MIN_STATES = 6
"""Fewer looks are a watch over some code, and no course."""
CLEAN, PLANTED = 0.02, 0.2
"""Below the first a pattern counts as clean; a planted bad one must lie above the second."""

UNDERSTANDING = (
    "An allocator keeps freed blocks for later. A free block that is a part of a larger segment can neither be returned to the device nor "
    "serve a larger request: its bytes over all reserved bytes are drawn here, along each pattern, while the holes exist. Looking after "
    "everything was freed would show 0 always. A request that is refused although as many bytes were free is what fragmentation costs."
)


def drawings(run: RecordedRun, _results: Sequence[ResultRecord]) -> Sequence[Drawing]:
    """Fragmentation along each pattern; nothing where no pattern was run."""
    courses = [(record, course) for record in run.reader.allocations if (course := _course(record))]
    if not courses:
        return []
    key = "fig-fragmentation"
    with svg.drawing(key):
        figure = svg.new_figure(10, 3.0)
        ax = figure.subplots()
        for i, (record, course) in enumerate(courses):
            style = ("-", (0, (4, 2)))[i // len(svg.SERIES) % 2]
            at = np.linspace(0, 100, len(course))
            ax.plot(at, [100 * y for y in course], color=svg.SERIES[i % len(svg.SERIES)], linestyle=style, label=record.name)
        for level in (CLEAN, PLANTED):
            ax.axhline(100 * level, color=svg.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_xlabel("Share of the pattern in %")
        ax.set_title("Inactive split bytes over reserved bytes, in %")
        ax.set_xlim(0, 100)
        ax.set_ylim(bottom=0)
        svg.horizontal_grid(ax)
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        drawn = svg.inline(figure, prefix=key, label="Fragmentation along each pattern")
    caption = (
        f"{plural(len(courses), 'pattern')} on {', '.join(sorted({record.source for record, _ in courses}))}; dashed: below "
        f"{100 * CLEAN:g} % a pattern is clean, above {100 * PLANTED:g} % the planted bad one must lie. {RAW}"
    )
    return [Drawing(id=key, svg=drawn, caption=caption)]


def tables(run: RecordedRun, _results: Sequence[ResultRecord]) -> Sequence[Table]:
    """Each pattern with its worst moment and its refusals."""
    rows = [
        [
            record.name, f"{number(100 * max(course), digits=3)} %", f"{number(100 * course[-1], digits=3)} %",
            number(record.peak_bytes / 2**20), str(len(record.refused)),
            str(sum(refused.requested_bytes <= refused.free_bytes for refused in record.refused)), record.source,
        ]
        for record in run.reader.allocations
        if (course := _course(record))
    ]  # fmt: skip
    columns = ("pattern", "worst", "at the end", "peak in MiB", "refused", "of these, as many bytes were free", "allocator")
    return [Table(caption="Patterns and what they cost", columns=columns, rows=rows, numeric=frozenset(range(1, 6)))] if rows else []


def _course(record: AllocationRecord) -> list[float]:
    """Fragmentation at every look of a torture; empty for a short watch, or where the allocator does not tell."""
    course = [inactive_split_share(state_of(state)) for state in record.states]
    return [] if len(course) < MIN_STATES or any(map(math.isnan, course)) else course
