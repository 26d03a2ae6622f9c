"""The Joule curve on the page: points with their law, the Pareto front, the units that people use, and the order in which all was measured.

Numbers are those of ``results.jsonl``; what the run did not record as a result (units, prices, the best batch) is computed here from the
recipes of its results, by the code that ``verify`` uses. What cannot be said stands there as NOT_TESTED, with what to add.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from pytest_physics.config import Settings
from pytest_physics.errors import PhysicsError, RecordError
from pytest_physics.experiments.joule_curve import TABLE
from pytest_physics.metrology import token_units
from pytest_physics.metrology.curves import best_under_limit, pareto_front
from pytest_physics.metrology.uncertainty import Estimate, Recipe
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.leaves.price import TO_ADD, source_of
from pytest_physics.record.recipes import evaluate
from pytest_physics.record.schema import ResultRecord
from pytest_physics.report import svg
from pytest_physics.report.figures import RAW, Drawing
from pytest_physics.report.format import ABSENT, number, printable, quantity, scale_for, slug
from pytest_physics.report.tables import Table

UNDERSTANDING = (
    "What a token costs, over the batch. A call costs a fixed part (reading the model's weights, mostly) and a part for every token: "
    "E = E_fixed + E_token · tokens. So a token costs E_fixed / tokens + E_token: the line through the points, which falls towards "
    "the plateau E_token (the band is its 95 % interval). Whether one line is the law at all is tested: where a batch meets the power "
    "cap, other clocks or other bounds, the law is refused, drawn dashed, and its numbers are not to be used; the points stand. All "
    "points of one device share the error of its scale, which cancels in ratios: the shape is known better than the height. The "
    "second figure weighs energy against the time a user waits; no other batch beats those on the line in both. Arms that are "
    "compared began equally warm and ran at equal clocks, or their comparison is refused. Lines marked 'simulated' are of a twin, "
    "'measured' of real hardware."
)

NET, GROSS = "energy per token (net)", "energy per token (gross)"
FIXED, PLATEAU, BREAK_EVEN = "fixed energy per call", "energy per token in a large batch", "break-even batch"
UNREADABLE = (PhysicsError, LookupError, TypeError, ValueError)
"""What recomputing from a damaged run may raise: it costs the cell, and not the page."""
CURVE_POINTS = 100
BEYOND = 4.0
"""How far beyond the largest batch the law is drawn, as a multiple of it."""


@dataclass(frozen=True, slots=True)
class Series:
    """Arms of one law."""

    instrument: str
    phase: str
    rest: tuple[tuple[str, str], ...]
    """Context, new tokens and variant, as they stand in the results."""

    @property
    def name(self) -> str:
        """In words."""
        return printable(
            ", ".join([f"{self.instrument}: {self.phase}", *(f"{key.replace('_', ' ')} {value}" for key, value in self.rest)]), 70
        )

    @property
    def tokens_of_a_sequence(self) -> float:
        """Tokens of one sequence in one call."""
        return float(dict(self.rest).get("context" if self.phase == "prefill" else "new_tokens", "nan"))


def series_of(record: ResultRecord) -> Series:
    """Which law a result belongs to."""
    rest = tuple((key, str(record.coordinates[key])) for key in ("context", "new_tokens", "variant") if key in record.coordinates)
    return Series(str(record.coordinates.get("instrument", "")), str(record.coordinates.get("phase", "")), rest)


def _groups(results: Sequence[ResultRecord]) -> dict[Series, list[ResultRecord]]:
    groups: dict[Series, list[ResultRecord]] = {}
    for record in results:
        groups.setdefault(series_of(record), []).append(record)
    return dict(sorted(groups.items(), key=lambda item: (item[0].instrument != "gpu", item[0].phase, item[0].rest)))


def _of(records: Sequence[ResultRecord], name: str) -> list[ResultRecord]:
    """Results of one quantity that have a value, by batch."""
    found = [r for r in records if r.quantity == name and r.estimate.value is not None]
    return sorted(found, key=lambda r: float(r.coordinates.get("batch", 0)))


def _pairs(records: Sequence[ResultRecord]) -> list[tuple[ResultRecord, ResultRecord]]:
    """Latency and net energy of each batch that has both."""
    energy = {r.coordinates["batch"]: r for r in _of(records, NET)}
    return [(r, energy[r.coordinates["batch"]]) for r in _of(records, "latency") if r.coordinates["batch"] in energy]


def _refusals(record: ResultRecord) -> list[str]:
    return sorted({gate.name for gate in record.gates if not gate.passed and not gate.warning})


# --- figures ---------------------------------------------------------------------------------------------------------


def drawings(run: RecordedRun, results: Sequence[ResultRecord]) -> Sequence[Drawing]:
    """Curves with their laws, and the Pareto fronts; times alone where nothing measured energy."""
    groups = _groups(results)
    energetic = {series: records for series, records in groups.items() if _of(records, NET)}
    timed = {series: records for series, records in groups.items() if series not in energetic and _of(records, "time per token")}
    found = []
    placed = {series: records for series, records in energetic.items() if _pairs(records)}
    if energetic:
        found = [
            _drawing("fig-joule-curve", energetic, _curve_panel, _curve_caption(energetic), "Energy per token over batch, with its law")
        ]
    if placed:
        limit_s = _settings(run).experiment.max_latency_s
        caption = (
            f"Latency against net energy per token; the line joins the batches that none beats in both. Limit {limit_s * 1e3:g} ms. {RAW}"
        )
        label = "Latency against energy per token"
        found.append(_drawing("fig-joule-pareto", placed, lambda *a: _pareto_panel(*a, limit_s=limit_s), caption, label))
    if timed:
        caption = f"Time per token over batch, where no channel measures energy. Bars are 95 % intervals. {RAW}"
        found.append(_drawing("fig-joule-time", timed, _time_panel, caption, "Time per token over batch"))
    return found


Panel = Callable[[Axes, Series, Sequence[ResultRecord]], None]


def _drawing(key: str, groups: dict[Series, list[ResultRecord]], panel: Panel, caption: str, label: str) -> Drawing:
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    with svg.drawing(key):
        figure = svg.new_figure(10, 0.3 + 3.0 * rows)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, (series, records) in zip(axes, groups.items(), strict=False):
            panel(ax, series, records)
        for ax in axes[len(groups) :]:
            ax.set_axis_off()
        return Drawing(id=key, svg=svg.inline(figure, prefix=key, label=label), caption=caption)


def _curve_caption(groups: dict[Series, list[ResultRecord]]) -> str:
    n = sum(len(_of(records, NET)) for records in groups.values())
    refused = [series.name for series, records in groups.items() for law in _of(records, PLATEAU) if _refusals(law)]
    words = f" Refused as a law (dashed): {'; '.join(refused)}." if refused else ""
    truths = " Small crosses: the twin's truth." if any(r.truth is not None for records in groups.values() for r in records) else ""
    return f"n = {n} batches, net and gross; bars are 95 % intervals.{truths}{words} {RAW}"


def _curve_panel(ax: Axes, series: Series, records: Sequence[ResultRecord]) -> None:
    net = _of(records, NET)
    scale = scale_for(float(np.median([abs(r.estimate.value or 0.0) for r in net])), "J/token")
    for i, (name, word) in enumerate(((NET, "net"), (GROSS, "gross"))):
        points = _of(records, name)
        if points:
            _points(ax, points, scale.factor, color=svg.SERIES[i], marker="os"[i], label=f"{word}, {points[0].estimate.provenance}")
    known = [(float(r.coordinates["batch"]), r.truth * scale.factor) for r in net if r.truth is not None]
    if known:
        ax.plot(*zip(*known, strict=True), "x", color=svg.INK, markersize=4, label="truth (net)", zorder=5)
    _law(ax, series, records, scale.factor)
    _batches(ax, [float(r.coordinates["batch"]) for r in net])
    _logarithmic(ax)
    ax.set_title(f"{series.name}\n{scale.unit}, logarithmic")
    ax.legend(loc="best")


def _points(ax: Axes, rows: Sequence[ResultRecord], factor: float, *, color: str, marker: str, label: str) -> None:
    at = [float(r.coordinates["batch"]) for r in rows]
    value = [(r.estimate.value or 0.0) * factor for r in rows]
    bars = [min((r.estimate.expanded or 0.0) * factor, 0.95 * v) for r, v in zip(rows, value, strict=True)]
    ax.errorbar(at, value, yerr=bars, color=color, marker=marker, linestyle="none", capsize=3, label=label, zorder=3)


def _law(ax: Axes, series: Series, records: Sequence[ResultRecord], factor: float) -> None:
    fixed, plateau = _of(records, FIXED), _of(records, PLATEAU)
    if not fixed or not plateau:
        return
    largest = max(float(r.coordinates["batch"]) for r in _of(records, NET))
    batch = np.geomspace(1.0, BEYOND * largest, CURVE_POINTS)
    e_fixed, e_token = fixed[0].estimate.value or 0.0, plateau[0].estimate.value or 0.0
    curve = (e_fixed / (batch * series.tokens_of_a_sequence) + e_token) * factor
    refused = bool(_refusals(plateau[0]))
    style = (0, (4, 3)) if refused else "-"
    ax.plot(batch[curve > 0], curve[curve > 0], color=svg.SERIES[2], linestyle=style, label="law, refused" if refused else "law", zorder=2)
    half = plateau[0].estimate.expanded or 0.0
    if not refused and e_token > half:
        ax.axhspan(
            (e_token - half) * factor, (e_token + half) * factor, facecolor=svg.SERIES[2], alpha=0.25, edgecolor="none", label="plateau ± U"
        )


def _pareto_panel(ax: Axes, series: Series, records: Sequence[ResultRecord], *, limit_s: float) -> None:
    pairs = _pairs(records)
    scale = scale_for(float(np.median([abs(e.estimate.value or 0.0) for _, e in pairs])), "J/token")
    x = [1e3 * (latency.estimate.value or 0.0) for latency, _ in pairs]
    y = [scale.factor * (e.estimate.value or 0.0) for _, e in pairs]
    bars = [scale.factor * (e.estimate.expanded or 0.0) for _, e in pairs]
    ax.errorbar(
        x, y, yerr=bars, color=svg.SERIES[0], marker="o", linestyle="none", capsize=3, label=f"batches, {pairs[0][0].estimate.provenance}"
    )
    for (latency, _), a, b in zip(pairs, x, y, strict=True):
        ax.annotate(f"{latency.coordinates['batch']}", (a, b), xytext=(5, 4), textcoords="offset points", fontsize=8, color=svg.MUTED)
    front = sorted((a, b) for a, b, best in zip(x, y, pareto_front(x, y), strict=True) if best)
    ax.plot(*zip(*front, strict=True), color=svg.SERIES[1], linewidth=1.0, zorder=1, label="Pareto front")
    if series.phase == "decode" and 1e3 * limit_s <= 4 * max(x):
        ax.axvline(1e3 * limit_s, color=svg.ALERT, linestyle=(0, (4, 3)), label="latency limit")
    ax.set_xlabel("ms until the first token" if series.phase == "prefill" else "ms per step")
    _logarithmic(ax)
    ax.set_title(f"{series.name}\n{scale.unit}, logarithmic; numbers are batches")
    ax.legend(loc="best")


def _time_panel(ax: Axes, series: Series, records: Sequence[ResultRecord]) -> None:
    rows = _of(records, "time per token")
    scale = scale_for(float(np.median([abs(r.estimate.value or 0.0) for r in rows])), "s/token")
    _points(ax, rows, scale.factor, color=svg.SERIES[0], marker="o", label=f"time, {rows[0].estimate.provenance}")
    _batches(ax, [float(r.coordinates["batch"]) for r in rows])
    _logarithmic(ax)
    ax.set_title(f"{series.name}\n{scale.unit}, logarithmic")
    ax.legend(loc="best")


def _batches(ax: Axes, batches: Sequence[float]) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(sorted(set(batches))))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlabel("Batch in sequences")
    svg.horizontal_grid(ax)


def _logarithmic(ax: Axes) -> None:
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda value, _: number(value))
    svg.horizontal_grid(ax)


# --- tables ----------------------------------------------------------------------------------------------------------


def tables(run: RecordedRun, results: Sequence[ResultRecord]) -> Sequence[Table]:
    """Laws, units, arms left out, and the order of all windows."""
    groups = _groups(results)
    laws = _laws(run, groups)
    return [*([laws] if laws else []), *_units(run, groups), *_orders(run)]


def _laws(run: RecordedRun, groups: dict[Series, list[ResultRecord]]) -> Table | None:
    rows = []
    for series, records in groups.items():
        cells = [_shown(_of(records, name)) for name in (FIXED, PLATEAU, BREAK_EVEN)]
        if cells[0] == ABSENT:
            continue
        refused = _refusals(_of(records, PLATEAU)[0])
        rows.append((series.name, *cells, f"refused: {', '.join(refused)}" if refused else "one line fits", _best(run, series, records)))
    limit = f"{_settings(run).experiment.max_latency_s * 1e3:g} ms"
    columns = ("Arms", "E_fixed per call", "E_token, the plateau", "Break-even batch", "Law", f"Best batch within {limit}")
    caption = "The law of each series: E = E_fixed + E_token · tokens, net, over its batches. Numbers of a refused law are not to be used."
    return Table(caption=caption, columns=columns, rows=rows, numeric=frozenset({1, 2, 3, 5})) if rows else None


def _shown(records: Sequence[ResultRecord]) -> str:
    if not records:
        return ABSENT
    estimate = records[0].estimate
    return str(quantity(estimate.value, estimate.expanded, estimate.unit))


def _best(run: RecordedRun, series: Series, records: Sequence[ResultRecord]) -> str:
    """Of decode: the batch of lowest energy among those that keep the limit."""
    latencies = {r.coordinates["batch"]: r for r in _of(records, "latency")}
    energies = [r for r in _of(records, NET) if r.coordinates["batch"] in latencies]
    if series.phase != "decode" or not energies:
        return ABSENT
    try:
        inputs = [_estimate(run, r) for r in energies] + [_estimate(run, latencies[r.coordinates["batch"]]) for r in energies]
    except UNREADABLE:
        return ABSENT
    sizes = [float(r.coordinates["batch"]) for r in energies]
    best = best_under_limit(inputs, sizes=sizes, limit=_settings(run).experiment.max_latency_s)
    refused = [gate for gate in best.gates if gate.refuses]
    tie = any(gate.name == "clear winner" and not gate.passed for gate in best.gates)
    return f"none: {refused[0].name}" if refused else f"{best.value:g}{' (no clear winner)' if tie else ''}"


def _settings(run: RecordedRun) -> Settings:
    """Settings of the run; the defaults where they cannot be read, which the page says on its top."""
    try:
        return run.settings
    except RecordError:
        return Settings()


def _estimate(run: RecordedRun, record: ResultRecord) -> Estimate:
    return evaluate(Recipe.from_json(record.recipe), run)


def _units(run: RecordedRun, groups: dict[Series, list[ResultRecord]]) -> Iterator[Table]:
    """One table for each series that has energies."""
    prices = _settings(run).prices
    currency = prices.electricity.currency if prices.electricity else "Cost"
    texts = [
        source_of(kind, prices) or f"{TO_ADD[kind].partition(':')[0]} (to add it: {TO_ADD[kind].partition('add ')[2]})" for kind in TO_ADD
    ]
    columns = (
        "Batch", "J/token", "Tokens/J", "Million tokens/kWh", "Wh per 1,000 requests", f"{currency} per million tokens",
        "gCO2e per million tokens",
    )  # fmt: skip
    for series, records in groups.items():
        rows = [_unit_row(run, groups, series, record) for record in _of(records, GROSS)]
        if rows:
            caption = (
                f"{series.name}: the same energies in the units that people use, gross, because idle power is paid for too. Each cell says "
                "where its number comes from; with a stated price it is no better than that price ('assumed'). A request is the prompt and "
                f"the new tokens of one sequence. Stated: {'; '.join(texts)}."
            )
            yield Table(caption=caption, columns=columns, rows=rows, numeric=frozenset(range(1, 7)))


def _unit_row(run: RecordedRun, groups: dict[Series, list[ResultRecord]], series: Series, record: ResultRecord) -> tuple[str, ...]:
    rest = dict(series.rest)
    try:
        energy = _estimate(run, record)
    except UNREADABLE as error:
        return (str(record.coordinates.get("batch")), printable(f"not recomputed: {error}", 80), *[ABSENT] * 5)
    prefill = _prefill_of(groups, series, record)
    return (
        str(record.coordinates["batch"]),
        _cell(lambda: energy, word=str(energy.provenance)),
        _cell(lambda: token_units.tokens_per_joule(energy)),
        _cell(lambda: token_units.tokens_per_kwh(energy) * Estimate.exact(1e-6)),
        ABSENT if prefill is None else _cell(lambda: _requests(run, energy, prefill, rest)),
        _cell(lambda: token_units.cost_per_million_tokens(energy, _price(run, "electricity")), word="assumed"),
        _cell(lambda: token_units.carbon_per_million_tokens(energy, _price(run, "carbon")), word="assumed"),
    )


def _prefill_of(groups: dict[Series, list[ResultRecord]], series: Series, record: ResultRecord) -> ResultRecord | None:
    """The prefill of the same requests as a decode; None for a prefill, or without one."""
    if series.phase != "decode":
        return None
    wanted = Series(series.instrument, "prefill", tuple((key, value) for key, value in series.rest if key != "new_tokens"))
    found = _of(groups.get(wanted, []), GROSS)
    return next((r for r in found if r.coordinates["batch"] == record.coordinates["batch"]), None)


def _requests(run: RecordedRun, decode: Estimate, prefill: ResultRecord, rest: dict[str, str]) -> Estimate:
    tokens = {"prompt_tokens": int(rest["context"]), "new_tokens": int(rest["new_tokens"])}
    return token_units.wh_per_thousand_requests(token_units.per_request(_estimate(run, prefill), decode, **tokens))


def _price(run: RecordedRun, kind: str) -> Estimate:
    return evaluate(Recipe(op="price", parameters={"kind": kind}), run)


def _cell(compute: Callable[[], Estimate], *, word: str = "derived") -> str:
    """Value ± U and where it comes from; NOT_TESTED with what to add, or what refuses it."""
    try:
        estimate = compute()
    except PhysicsError:  # the caption says what to add
        return "NOT_TESTED"
    refusing = sorted({gate.name for gate in estimate.gates if gate.refuses})
    if refusing:
        return f"INVALID: {', '.join(refusing)}"
    shown = quantity(estimate.value, estimate.expanded, "1")
    return f"{shown} · {word}"


def _orders(run: RecordedRun) -> Iterator[Table]:
    """What ran when, block by block; and what did not run, and why."""
    for table_id in run.reader.tables:
        if table_id.rpartition("-")[0] != TABLE:
            continue
        try:
            rows = run.table(table_id)
        except PhysicsError as error:
            yield Table(caption=f"Order of arms: {error}", columns=("Block", "Order"), rows=[])
            continue
        start = "had come to rest in its rhythm, or tried to" if rows["start"][0] == "rhythm" else "was declared cold"
        blocks = {
            int(block): [_arm(row) for row in rows[(rows["block"] == block) & (rows["window"] != "")]] for block in np.unique(rows["block"])
        }
        yield Table(
            caption=f"Order of arms of '{rows['instrument'][0]}' ({slug(table_id)}): blocks in pairs, forwards, then backwards; {start}.",
            columns=("Block", "Order"),
            rows=[(str(block + 1), " → ".join(arms)) for block, arms in blocks.items() if arms],
        )
        left = [(_arm(row), str(row["reason"])) for row in rows[rows["reason"] != ""]]
        if left:
            yield Table(caption="Arms that were not measured; the sweep went on without them.", columns=("Arm", "Why"), rows=left)


def _arm(row: np.void) -> str:
    """``decode 8 (32+16)``: phase, batch, context and new tokens; the variant where there are several."""
    tokens = f"{row['context']}+{row['new_tokens']}" if row["new_tokens"] else f"{row['context']}"
    return " ".join(filter(None, (f"{row['phase']} {row['batch']} ({tokens})", str(row["variant"]))))
