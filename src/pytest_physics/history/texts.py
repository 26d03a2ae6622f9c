"""What the history says: lines for the terminal, Markdown for a step summary, JUnit XML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from pytest_physics.history.check import Checked, Judged
from pytest_physics.history.store import Point, Series
from pytest_physics.metrology.change_points import change_points
from pytest_physics.metrology.decision import Verdict
from pytest_physics.metrology.uncertainty import coverage_factor
from pytest_physics.report.format import plural, printable, quantity, scale_for

BARS = "▁▂▃▄▅▆▇█"
MOST_BARS = 60
MOST_NAMED = 5
ORDER = (Verdict.REFUTED, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.VALIDATED, Verdict.NOT_TESTED)
"""Worst first: what a reader must act on stands on top."""
SIGNS = {Verdict.REFUTED: "❌", Verdict.INVALID: "🚫", Verdict.INCONCLUSIVE: "❔", Verdict.VALIDATED: "✅", Verdict.NOT_TESTED: "➖"}


def sparkline(values: Sequence[float | None]) -> str:
    """The latest values as bars between their least and their greatest; a dot where there is no value.

    >>> sparkline([1.0, 2.0, None, 3.0])
    '▁▅·█'
    """
    shown = list(values)[-MOST_BARS:]
    known = [v for v in shown if v is not None and math.isfinite(v)]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    top = len(BARS) - 1
    return "".join(
        "·" if v is None or not math.isfinite(v) else BARS[top // 2 if not span else math.floor((v - low) / span * top + 0.5)]
        for v in shown
    )


def when(t_ms: int) -> str:
    """Wall-clock label of a run's start."""
    return f"{datetime.fromtimestamp(t_ms / 1000, UTC):%Y-%m-%d %H:%M}"


# --- a series -----------------------------------------------------------------------------------------------------------------


def series_lines(series: Series, *, last: int) -> Iterator[str]:
    """One series: where, its line of bars, its latest values, its change points."""
    usable = [point for point in series.points if point.usable and point.value is not None]
    yield printable(series.metric, 500)
    yield f"  on {', '.join(machines(series)) or 'no device'}; {plural(len(usable), 'valid run')} of {len(series.points)}"
    yield f"  {sparkline([p.value if p.usable else None for p in series.points])}"
    moved = {usable[found.index].run_id: found for found in change_points([float(p.value or 0.0) for p in usable])}
    for point in series.points[-last:]:
        found = moved.get(point.run_id)
        mark = "" if found is None else f"  ← level moves from here: {_shift(found.before, found.after)}"
        yield f"  {when(point.t_ms)}  {point.run_id}  {_value(point, series.unit)}{mark}"


def machines(series: Series) -> list[str]:
    """Names of the devices of a series."""
    flat = series.conditions.flat()
    return [
        f"{key.rpartition('.')[0]} = {flat[key]} ({flat[key.removesuffix('name') + 'identity']})" for key in flat if key.endswith(".name")
    ]


def _value(point: Point, unit: str) -> str:
    shown = quantity(point.value, coverage_factor(point.dof or math.inf) * point.u, unit)
    return f"{shown}" + ("" if point.usable else f"  not used: {printable(point.reason, 160)}")


def _shift(before: float, after: float) -> str:
    return f"{(after - before) / abs(before):+.1%}" if before else f"{after - before:+.3g}"


# --- a check ------------------------------------------------------------------------------------------------------------------


def sentence(found: Checked) -> str:
    """How many metrics ended how."""
    counts = found.counts
    parts = [f"{counts[verdict]} {verdict.value}" for verdict in ORDER if counts[verdict]]
    claim = f"no worse than earlier runs by more than {100 * found.delta:g} %"
    return f"{plural(len(found.judged), 'metric')}, {claim}: {', '.join(parts) or 'nothing to judge'}."


def in_order(found: Checked) -> list[Judged]:
    """What needs action first."""
    return sorted(found.judged, key=lambda item: (ORDER.index(item.verdict), item.metric))


def check_lines(found: Checked) -> Iterator[str]:
    """A line or two for each metric, worst first, then the counts; metrics that cannot be judged for one reason share it."""
    for (verdict, because), items in _grouped(found).items():
        if verdict is Verdict.INVALID and len(items) > 1:
            yield f"{verdict.value:<13} {plural(len(items), 'metric')}: {printable(because, 600)}"
            yield from (f"{'':13} {printable(item.metric, 500)}" for item in items[:MOST_NAMED])
            if len(items) > MOST_NAMED:
                yield f"{'':13} … and {len(items) - MOST_NAMED} more"
        else:
            yield from (line for item in items for line in _lines_of(item))
    yield sentence(found)
    if found.left_out:
        yield f"{plural(found.left_out, 'metric')} of the run not compared: skipped by the settings, or not known which way is worse."
    if found.set_aside:
        yield f"{plural(found.set_aside, 'run')} in the index cannot be used: 'pytest-physics history show' names them."


def _grouped(found: Checked) -> dict[tuple[Verdict, str], list[Judged]]:
    groups: dict[tuple[Verdict, str], list[Judged]] = {}
    for item in in_order(found):
        groups.setdefault((item.verdict, item.because), []).append(item)
    return groups


def _lines_of(item: Judged) -> Iterator[str]:
    yield f"{item.verdict.value:<13} {printable(item.metric, 500)}"
    yield f"{'':13} {numbers(item)}  {sparkline([p.value for p in item.points])}".rstrip()
    if item.verdict is not Verdict.VALIDATED:
        yield f"{'':13} {printable(item.because, 600)}"
    yield from (f"{'':13} note: {note}" for note in item.notes)


def numbers(item: Judged) -> str:
    """``10.4 mJ/token, earlier 10.0 mJ/token (12 runs), worse by 4.0 % ± 2.3 %``."""
    unit = item.unit
    scale = scale_for(abs(item.value) if item.value is not None else None, unit)
    now = str(quantity(item.value, None, unit, scale))
    if not item.points or not math.isfinite(item.change.value):
        return now
    earlier = quantity(item.prior.value, None, unit, scale)
    return f"{now}, earlier {earlier} ({plural(len(item.points), 'run')}), {direction(item)}"


def direction(item: Judged) -> str:
    """The change in words, with its interval."""
    change, expanded = item.change.value, item.change.expanded
    word = "worse" if change > 0 else "better" if change < 0 else "no change"
    told = "" if abs(change) > expanded else ", not told apart"
    return f"{word} by {_share(abs(change))} ± {_share(expanded)}{told}" if change or expanded else word


def _share(value: float) -> str:
    return f"{100 * value:.2g} %" if value < 0.0995 else f"{100 * value:.0f} %"


def markdown(found: Checked) -> str:
    """A table for GitHub's step summary."""
    rows = [
        f"| {SIGNS[i.verdict]} {i.verdict.value} | {_cell(i.metric)} | {_cell(numbers(i))} | {sparkline([p.value for p in i.points])} | "
        f"{_cell('' if i.verdict is Verdict.VALIDATED else printable(i.because, 500))} |"
        for i in in_order(found)
    ]
    head = ["| verdict | metric | this run against earlier ones | earlier runs | because |", "|---|---|---|---|---|"]
    title = f"### History of {', '.join(f'`{run}`' for run in found.runs)}"
    return "\n".join([title, "", sentence(found), "", *head, *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def junit(found: Checked) -> str:
    """One test case for each metric: REFUTED, INVALID and INCONCLUSIVE are failures of that type, as in a run."""
    counts = found.counts
    failures = sum(counts[v] for v in (Verdict.REFUTED, Verdict.INVALID, Verdict.INCONCLUSIVE))
    root = ET.Element("testsuites")
    attributes = {
        "name": "pytest-physics history check", "tests": str(len(found.judged)), "failures": str(failures), "errors": "0",
        "skipped": str(counts[Verdict.NOT_TESTED]),
    }  # fmt: skip
    suite = ET.SubElement(root, "testsuite", attributes)
    for item in in_order(found):
        experiment, _, rest = printable(item.metric, 500).partition(": ")
        case = ET.SubElement(suite, "testcase", {"classname": f"history.{experiment}", "name": rest})
        properties = ET.SubElement(case, "properties")
        ET.SubElement(properties, "property", {"name": "physics_verdict", "value": item.verdict.value})
        reason = printable(f"{numbers(item)}; {item.because}", 2000)
        if item.verdict in {Verdict.REFUTED, Verdict.INVALID, Verdict.INCONCLUSIVE}:
            ET.SubElement(case, "failure", {"type": item.verdict.value, "message": reason}).text = reason
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
