"""The fleet as one self-contained HTML page, in the look of the run report.

What became of every task, verdicts of every host, their cards side by side, comparisons and outliers.
No network, no script; the same collection of the same runs gives the same bytes. What a row links to lies beside the page, and so does
``comparisons.csv`` with every pair that was compared, of which the page shows so many as can be read.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pytest_physics import report as run_report
from pytest_physics.errors import RecordError
from pytest_physics.fleet.collect import PENDING, Collected, Outcome, Row, counted, last_collected
from pytest_physics.fleet.compare import MOST_PAIRS, Comparisons, GroupModel, Pair, comparisons, group_models
from pytest_physics.fleet.evidence import METRICS, HostRun, read_hosts, refused
from pytest_physics.fleet.folder import FleetFolder
from pytest_physics.fleet.markers import PAGE
from pytest_physics.metrology.between_hosts import FEWEST_HOSTS
from pytest_physics.metrology.decision import Verdict
from pytest_physics.metrology.uncertainty import COVERAGE, coverage_factor
from pytest_physics.record.reader import REPORT
from pytest_physics.record.schema import ResultRecord
from pytest_physics.report import format as fmt
from pytest_physics.report.summary import GLYPHS, ORDER

OUTCOME_STYLES = {
    Outcome.MERGED: ("validated", "✓"), Outcome.INCOMPLETE: ("inconclusive", "≈"), Outcome.CORRUPT: ("refuted", "✗"),
    Outcome.FOREIGN: ("invalid", "⊘"), Outcome.EMPTY: ("invalid", "⊘"), Outcome.LOST: ("refuted", "✗"),
    Outcome.CANCELLED: ("not-tested", "○"), Outcome.RUNNING: ("not-tested", "…"), Outcome.WAITING: ("not-tested", "…"),
    Outcome.UNKNOWN: ("inconclusive", "?"), Outcome.NOT_SUBMITTED: ("not-tested", "○"),
}  # fmt: skip
"""Colour class and sign of each outcome; the word always stands beside them."""
LETTERS = {Verdict.VALIDATED: "V", Verdict.REFUTED: "R", Verdict.INVALID: "I", Verdict.INCONCLUSIVE: "U", Verdict.NOT_TESTED: "N"}
"""Class of a cell of the matrix, and what stands for it in the data: of 200 hosts there are tens of thousands."""
NOT_JUDGED = "."
COMPARISONS = "comparisons.csv"
MOST_LEFT_OUT = 5
LEVELS = 2.0
"""Coverage factor of what a sensor model states as standard uncertainties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task as a line of the page."""

    row: Row
    css: str
    glyph: str
    report: str
    """Address of the run's own report; empty where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """A merged run as a line of the matrix and of the hardware table."""

    host: HostRun
    report: str
    cells: Markup
    """A cell for each claim; empty where the run did not judge it."""
    numbers: Sequence[tuple[str, str]]
    """Text and small print for each metric."""
    soak: str
    sensor: Sequence[str]


def build_page(folder: FleetFolder) -> Path:
    """Write ``report.html`` and ``comparisons.csv`` of a fleet from what was collected last, each in one step; return the page's path."""
    page, compared = render(folder)
    _write(folder.path / COMPARISONS, compared)
    return _write(folder.path / PAGE, page)


def _write(path: Path, text: str) -> Path:
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_text(text, encoding="utf-8", errors="replace")
        aside.replace(path)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}; free space, or make the directory writable, and build again.") from error
    return path


def render(folder: FleetFolder) -> tuple[str, str]:
    """The page, and its comparisons, as text."""
    folders = [Path(__file__).parent / "templates", Path(str(run_report.__file__)).parent / "templates"]
    environment = Environment(
        loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(plural=fmt.plural, svg=Markup)
    collected = last_collected(folder)
    hosts, rows = read_hosts(folder.path, collected.rows)
    compared = comparisons(hosts)
    page = environment.get_template("fleet.html.j2").render(context(folder, collected, hosts, rows, compared))
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", page), _csv(compared)  # control characters are not HTML


def context(
    folder: FleetFolder, collected: Collected, hosts: Sequence[HostRun], rows: Sequence[Row], compared: Sequence[Comparisons]
) -> dict[str, Any]:
    """Everything the template needs."""
    claims = list(dict.fromkeys(claim for host in hosts for claim in host.verdicts))
    groups = group_models(hosts)
    counts = counted(rows)
    css = _headline(rows)
    return {
        "fleet": collected, "plan": folder.plan, "css": css, "sentence": _sentence(rows, hosts),
        "tasks": [_task(folder, row) for row in rows],
        "counts": [(outcome.value, *OUTCOME_STYLES[outcome], n) for outcome, n in counts.items()],
        "pending": sum(counts.get(outcome, 0) for outcome in PENDING),
        "banner": list(dict.fromkeys(b for h in hosts for b in h.run.banner)),
        "claims": list(enumerate(claims, start=1)), "hosts": [_host(folder, host, claims) for host in hosts], "metrics": METRICS,
        "tallies": [_tally(hosts, claim) for claim in claims], "legend": [(v.value, _css(v), GLYPHS[v]) for v in ORDER],
        "compared": [_compared_view(item) for item in compared], "groups": [_group_view(group) for group in groups],
        **_drawn(hosts, groups), "csv": COMPARISONS,
        "letters": [(LETTERS[v], _css(v)) for v in ORDER],
        "lone": _lone(hosts, groups), "fewest": FEWEST_HOSTS, "clocks": [row for row in rows if row.clock_note],
        "data": _data(folder, rows, hosts, claims),
    }  # fmt: skip


def _drawn(hosts: Sequence[HostRun], groups: Sequence[GroupModel]) -> dict[str, Any]:
    """The drawings, and how to read them; matplotlib is slow to load, and is loaded only where there is something to draw."""
    if not any(host.numbers for host in hosts):
        return {"figures": (), "reading": ""}
    from pytest_physics.fleet.figures import READING, hardware_drawings  # noqa: PLC0415

    return {"figures": hardware_drawings(hosts, groups), "reading": READING}


# --- the whole ----------------------------------------------------------------------------------------------------------------


def _headline(rows: Sequence[Row]) -> str:
    outcomes = {row.outcome for row in rows}
    if outcomes & {Outcome.LOST, Outcome.CORRUPT, Outcome.FOREIGN, Outcome.EMPTY}:
        return "refuted"
    return "validated" if outcomes == {Outcome.MERGED} else "inconclusive"


def _sentence(rows: Sequence[Row], hosts: Sequence[HostRun]) -> str:
    merged = sum(row.outcome is Outcome.MERGED for row in rows)
    rest = ", ".join(
        f"{n} {outcome.value.lower().replace('_', ' ')}" for outcome, n in counted(rows).items() if outcome is not Outcome.MERGED
    )
    models = len({host.model for host in hosts})
    head = (
        f"All {fmt.plural(len(rows), 'run')} are merged"
        if merged == len(rows)
        else f"{merged} of {fmt.plural(len(rows), 'run')} merged; {rest}"
    )
    return f"{head}: {fmt.plural(models, 'model')} of card" if models else head


def _css(verdict: Verdict) -> str:
    return verdict.value.lower().replace("_", "-")


def _report(folder: FleetFolder, run: str) -> str:
    return f"./{quote(run)}/{REPORT}" if run and (folder.path / run / REPORT).is_file() else ""


def _task(folder: FleetFolder, row: Row) -> TaskView:
    css, glyph = OUTCOME_STYLES[row.outcome]
    return TaskView(row=row, css=css, glyph=glyph, report=_report(folder, row.run))


def _tally(hosts: Sequence[HostRun], claim: str) -> str:
    """How often a claim was validated, of how many hosts that tested it."""
    found = [host.verdicts[claim].verdict for host in hosts if claim in host.verdicts]
    tested = [verdict for verdict in found if verdict is not Verdict.NOT_TESTED]
    return f"{sum(verdict is Verdict.VALIDATED for verdict in tested)} of {len(tested)}"


# --- hosts --------------------------------------------------------------------------------------------------------------------


def _host(folder: FleetFolder, host: HostRun, claims: Sequence[str]) -> HostView:
    report = _report(folder, host.row.run)
    return HostView(
        host=host, report=report, cells=Markup("").join(_cell(host, claim, report) for claim in claims),
        numbers=[_number(host.numbers.get(metric.key)) for metric in METRICS], soak=fmt.duration(host.soak_s), sensor=_sensor(host),
    )  # fmt: skip


def _cell(host: HostRun, claim: str, report: str) -> Markup:
    """``<td>``, whose end HTML does not need; what was not validated says so in words, and leads to its details."""
    found = host.verdicts.get(claim)
    if found is None:
        return Markup("<td>")
    sign, word = GLYPHS[found.verdict], found.verdict.value.replace("_", " ")
    if found.verdict is Verdict.VALIDATED:
        return Markup(f"<td>{sign}")  # noqa: S704 -- our own sign
    if found.verdict is Verdict.NOT_TESTED or not report:
        return Markup(f'<td class={LETTERS[found.verdict]} title="{word}">{sign}')  # noqa: S704 -- our own words
    address = escape(f"{report}#claim-{fmt.slug(found.anchor)}")
    return Markup(f'<td class={LETTERS[found.verdict]}><a href="{address}" aria-label="{word}">{sign}</a>')  # noqa: S704 -- escaped


def _number(result: ResultRecord | None) -> tuple[str, str]:
    """A number with its interval, or why it is refused; and what it is of."""
    if result is None:
        return fmt.ABSENT, ""
    why = refused(result)
    if why:
        return "refused", why.partition(":")[0]  # the whole sentence stands with the comparisons
    estimate = result.estimate
    at = ", ".join(f"{key} {value}" for key, value in result.coordinates.items() if key in {"batch", "model"})
    return str(fmt.quantity(estimate.value, estimate.expanded, estimate.unit)), at


def _sensor(host: HostRun) -> list[str]:
    """Update period, window, lag, delay, relative scale error and origin of the power channel."""
    if host.sensor is None:
        return [fmt.ABSENT] * 6
    model = host.sensor.sensor
    times = [(model.update_period_s, model.u_update_period_s), (model.window_s, model.u_window_s), (model.lag_s, model.u_lag_s)]
    times.append((model.delay_s, model.u_delay_s))
    return [*(_time(value, u) for value, u in times), fmt.percent(LEVELS * model.u_gain), model.origin]


def _time(value: float, u: float) -> str:
    return str(fmt.quantity(value, LEVELS * u, "s")) if value or u else "none"


# --- comparisons --------------------------------------------------------------------------------------------------------------


def _compared_view(item: Comparisons) -> dict[str, Any]:
    """What the page shows of a metric: all pairs, or of many those that are furthest apart, and what refused the others."""
    many = len(item.pairs) > MOST_PAIRS
    compared = [pair for pair in item.pairs if pair.finding != "refused"]
    shown = sorted(compared, key=_nearness)[:MOST_PAIRS] if many else item.pairs
    largest = max((abs(pair.difference or 0.0) + (pair.expanded or 0.0) for pair in shown), default=0.0)
    scale = fmt.scale_for(largest, next((pair.unit for pair in item.pairs), "1"))
    reasons = Counter(pair.reason.partition(":")[0] for pair in item.pairs if pair.reason) if many else Counter()
    reasons += Counter({"workload, settings or software differ": item.apart})
    more = len(item.left_out) - MOST_LEFT_OUT
    others = [f"and {fmt.plural(more, 'other')}; the data of this page name them"] if more > 0 else []
    return {
        "title": item.metric.title, "grouped": item.grouped, "coverage": fmt.percent(item.coverage), "pairs": len(item.pairs) + item.apart,
        "rows": [
            (pair, "" if pair.difference is None else str(fmt.quantity(pair.difference, pair.expanded, pair.unit, scale))) for pair in shown
        ],
        "hidden": len(compared) - len(shown) if many else 0, "reasons": reasons.most_common(),
        "left_out": [*item.left_out[:MOST_LEFT_OUT], *others],
        "told": sum(pair.finding in {"lower", "higher"} for pair in item.pairs),
        "forbidden": len(item.pairs) + item.apart - len(compared),
    }  # fmt: skip


def _nearness(pair: Pair) -> float:
    """Smaller for pairs that are told apart more clearly."""
    return (pair.expanded or 0.0) / abs(pair.difference) if pair.difference else float("inf")


def _csv(compared: Sequence[Comparisons]) -> str:
    """Every pair that was compared, unrounded, and the reason of each that was not."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["metric", "first", "second", "first_less_second", "expanded_uncertainty", "coverage", "unit", "finding", "reason"])
    for item in compared:
        for pair in item.pairs:
            numbers = [pair.difference, pair.expanded, item.coverage]
            writer.writerow([item.metric.title, pair.first, pair.second, *numbers, pair.unit, pair.finding, pair.reason])
    return out.getvalue()


def _group_view(group: GroupModel) -> dict[str, Any]:
    between = group.between
    scale = fmt.scale_for(max(abs(between.mean), group.expanded_mean), group.unit)
    return {
        "metric": group.metric.title, "model": group.model, "n": between.n,
        "mean": str(fmt.quantity(between.mean, group.expanded_mean, group.unit, scale)),
        "tau": f"{fmt.number(between.tau * scale.factor, digits=2)} {scale.unit}",
        "share": fmt.percent(between.tau / abs(between.mean)) if between.mean else fmt.ABSENT,
        "judged": bool(group.hosts), "outliers": [_outlier(host, found, group.unit, scale) for host, found in group.outliers],
    }  # fmt: skip


def _outlier(host: HostRun, found: Any, unit: str, scale: fmt.Scale) -> str:  # noqa: ANN401 -- a HostDeviation
    off = found.t * found.u_predicted
    shown = fmt.quantity(off, coverage_factor(float("inf")) * found.u_predicted, unit, scale)
    return f"{host.name}: {shown} from what the others predict (t = {fmt.number(found.t, digits=3)}, p = {fmt.number(found.p, digits=2)})"


def _lone(hosts: Sequence[HostRun], groups: Sequence[GroupModel]) -> list[str]:
    """Models of which no two hosts ran under equal conditions."""
    grouped = {group.model for group in groups}
    return sorted({host.model for host in hosts if host.model not in grouped})


# --- for machines -------------------------------------------------------------------------------------------------------------


def _data(folder: FleetFolder, rows: Sequence[Row], hosts: Sequence[HostRun], claims: Sequence[str]) -> dict[str, Any]:
    """What the page shows, as data: outcome of each task, verdicts (a letter for each claim) and numbers of each host."""
    return {
        "fleet": folder.plan.id, "coverage": COVERAGE,
        "tasks": [row.model_dump(mode="json", exclude={"digests"}, exclude_defaults=True) for row in rows],
        "claims": list(claims), "letters": {LETTERS[v]: v.value for v in ORDER} | {NOT_JUDGED: "not judged"},
        "hosts": [_host_data(host, claims) for host in hosts],
    }  # fmt: skip


def _host_data(host: HostRun, claims: Sequence[str]) -> Mapping[str, Any]:
    numbers = {
        key: {
            "value": None if refused(r) else r.estimate.value, "expanded": None if refused(r) else r.estimate.expanded,
            "unit": r.estimate.unit,
            "result": r.id, "refused": refused(r),
        }
        for key, r in host.numbers.items()
    }  # fmt: skip
    return {
        "identity": host.row.identity, "name": host.name, "run_id": host.run.run_id, "device": host.model, "soak_s": host.soak_s,
        "verdicts": "".join(LETTERS[host.verdicts[c].verdict] if c in host.verdicts else NOT_JUDGED for c in claims), "numbers": numbers,
    }  # fmt: skip
