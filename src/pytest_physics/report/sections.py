"""The experiments of a run as sections of the page: figures, tables, and a paragraph that explains how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import PhysicsError, RecordError
from pytest_physics.metrology.uncertainty import coverage_factor
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.reader import RunReader
from pytest_physics.record.schema import BaselineRecord, InstrumentRecord, ResultRecord
from pytest_physics.report import figures
from pytest_physics.report import format as fmt
from pytest_physics.report.figures import Drawing
from pytest_physics.report.pages import coupling as coupling_page
from pytest_physics.report.pages import differential as differential_page
from pytest_physics.report.pages import fragmentation as fragmentation_page
from pytest_physics.report.pages import history as history_page
from pytest_physics.report.pages import hysteresis as hysteresis_page
from pytest_physics.report.pages import joule as joule_page
from pytest_physics.report.pages import memory
from pytest_physics.report.pages import roofline as roofline_page
from pytest_physics.report.pages import routing as routing_page
from pytest_physics.report.pages import routing_models as routing_models_page
from pytest_physics.report.pages import sensor as sensor_section
from pytest_physics.report.pages import signature as signature_page
from pytest_physics.report.pages import stress as stress_page
from pytest_physics.report.rows import GateRow, ResultRow, common_coordinates, gate_rows, in_order, result_rows
from pytest_physics.report.summary import all_gates, coverage
from pytest_physics.report.tables import Table
from pytest_physics.sampling.trace import Trace

MAX_RESULTS = 300
"""Results of one experiment shown in its table."""
MAX_BASELINE_FIGURES = 2
"""The first and the last baseline are drawn; all stand in the table."""

_BASELINE = "idle baseline"
_SOAK = "heat soak"
_MEMORY = "VRAM cliff"
_SENSOR = "instrument response"


class Pages(Protocol):
    """A module that draws one experiment."""

    UNDERSTANDING: str
    """How to read the section."""

    def drawings(self, run: RecordedRun, results: Sequence[ResultRecord]) -> Sequence[Drawing]:
        """Its figures; what cannot be drawn is a drawing whose caption says why."""

    def tables(self, run: RecordedRun, results: Sequence[ResultRecord]) -> Sequence[Table]:
        """Its tables."""


PAGES: Mapping[str, Pages] = {
    "history": history_page,
    "joule curve": joule_page,
    "stress": stress_page,
    "thermal hysteresis": hysteresis_page,
    "roofline": roofline_page,
    "routing sweep": routing_page,
    "routing in a language model": routing_models_page,
    "training coupling": coupling_page,
    "component differential": differential_page,
    "thermal signature": signature_page,
    "VRAM fragmentation": fragmentation_page,
}
"""Experiment to the module that draws it; experiments that are not here have the curves and the table of their results."""

UNDERSTANDING = {
    "imported recording": (
        "Rows that another monitor wrote, laid open again. Nothing here was measured by this package, so every number is stale at best. "
        "A refused gate beside a mean says what is wrong with the channel behind it: it is a constant, is computed from another channel, "
        "repeats itself, or is too smooth for a sensor. Where the monitor logged an index, it is recomputed from the rows; a difference "
        "near 0 says that the formula is the one that was used, and nothing about what it means."
    ),
    "run": (
        "One line is one channel of one instrument, sampled without interruption from the first phase to the last; bands are phases. "
        "A quiet line at the start and the end, at the same height, is what idle-subtracted energies rest on. Where a red mark "
        "stands, the sampler or the device said nothing for a while: windows that touch it have a lower quality or no data."
    ),
    _BASELINE: (
        "The idle power that is subtracted from every net energy. Readings of a power sensor resemble their neighbours, so n "
        "readings are worth fewer independent ones; U is the noise of the mean and counts only those. The errors of the sensor's "
        "scale and offset are not in it: they are added where an energy is computed, so the truth may lie outside this band. A "
        "histogram with two humps, or a line that climbs, means that the machine was not idle or not settled, and the gates say so."
    ),
    _SOAK: (
        "A warm device draws more power than a cold one at the same work, so measurements start when the temperature has settled. "
        "The thick line is the reported slope of the temperature near the end; together with its uncertainty it must lie between "
        "the dashed limits. A slope that is small because the fan has just sped up does not count as settled, which is why it is "
        "confirmed on fresh data."
    ),
    "sampler": (
        "A sampler reads its device at the ticks of a fixed grid. Spacings pile up at one period; a bar at two means one tick was "
        "dropped. Lateness is how long after its tick a read began. Late reads are time-stamped when they happen, so lateness by "
        "itself does not falsify an energy; missing reads may, and the gates on gaps judge that."
    ),
    "training": (
        "One row is the steps between two logs of a training, from the begin of the first to the end of the last; evaluation and "
        "saving are outside. Neighbouring windows touch, so a sensor that is slow beside a step books part of one to the other: the "
        "interval says how much. The energy of the training is that of the whole, evaluations between the steps included."
    ),
    "monitor": (
        "Energy and mean power of each device over the whole watch, whatever ran on it. No idle power is taken off, because nobody "
        "said when the device was idle."
    ),
    "": (
        "Each row is one estimate with its 95 % interval, the tier of its data and where it comes from. Where a simulated device "
        "knows the truth it stands beside the estimate: over many rows about 95 % of the intervals should hold it."
    ),
}
"""How to read each section; the empty key is for experiments without words of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRow:
    """One baseline as a line of a table."""

    id: str
    instrument: str
    mean: fmt.Shown
    n: str
    n_eff: str
    deviation: str
    extremes: str
    truth: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One experiment of the page."""

    id: str
    title: str
    understanding: str
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    baselines: Sequence[BaselineRow] = ()
    results: Sequence[ResultRow] = ()
    results_left_out: int = 0
    common: str = ""
    """Coordinates that all results share."""
    coverage: str = ""
    """``"11 of 12 intervals hold the truth"``; empty where no truth is known."""
    gates: Sequence[GateRow] = ()
    notes: Sequence[str] = ()
    """Artifacts that could not be read, and why."""


def sections(reader: RunReader) -> list[Section]:
    """All sections, in the order of the page."""
    traces, notes = readable_traces(reader)
    instruments = reader.run.instruments
    by_experiment: dict[str, list[ResultRecord]] = {}
    for record in reader.results:
        by_experiment.setdefault(record.experiment, []).append(record)
    overviews = [figures.overview(t, instruments[n], reader.run.phases, gap_s=_gap_s(reader, instruments[n])) for n, t in traces.items()]
    whole = Section(id="run", title="The whole run", understanding=UNDERSTANDING["run"], notes=notes, drawings=overviews)
    jitters = [figures.jitter(trace, instruments[name]) for name, trace in traces.items()]
    sampler = Section(id="sampler", title="Sampler", understanding=UNDERSTANDING["sampler"], drawings=jitters)
    sensor = _sensor(reader, traces, by_experiment.pop(_SENSOR, []))
    named = [sensor, _baselines(reader, by_experiment.pop(_BASELINE, [])), _soak(reader, traces, by_experiment.pop(_SOAK, []))]
    named.append(_memory(reader, by_experiment.pop(_MEMORY, [])))
    rest = [_experiment(reader, name, results) for name, results in by_experiment.items()]
    found = [whole, *(section for section in named if section is not None), *rest]
    return [*found, sampler] if jitters else found


def _gap_s(reader: RunReader, instrument: InstrumentRecord) -> float:
    """What this run calls a gap; three periods where it does not say, or samples more slowly than that."""
    period_s = instrument.period_ns / NS_PER_S
    settings = reader.run.config.get("sampling")
    stated = settings.get("gap_threshold_s") if isinstance(settings, dict) else None
    return float(stated) if isinstance(stated, int | float) and stated > 1.5 * period_s else 3 * period_s


def readable_traces(reader: RunReader) -> tuple[dict[str, Trace], list[str]]:
    """Traces by instrument, and a sentence for each that cannot be read: a report must not fail for want of one figure."""
    traces, notes = {}, []
    for name in reader.run.instruments:
        try:
            traces[name] = reader.trace(name)
        except RecordError as error:
            notes.append(f"No figures of '{name}': {str(error).replace(str(reader.path) + '/', '')}")
    return traces, notes


def _experiment(reader: RunReader, name: str, results: Sequence[ResultRecord]) -> Section:
    if name in PAGES:
        return _page(reader, name, results)
    drawing = figures.curves(name, results)
    section = Section(
        id=f"experiment-{fmt.slug(name)}",
        title=name[:1].upper() + name[1:],
        understanding=UNDERSTANDING.get(name, UNDERSTANDING[""]),
        drawings=[] if drawing is None else [drawing],
    )
    return _with_results(section, results)


def _page(reader: RunReader, name: str, results: Sequence[ResultRecord]) -> Section:
    page, run = PAGES[name], RecordedRun(reader.path)
    section = Section(id=f"experiment-{fmt.slug(name)}", title=name[:1].upper() + name[1:], understanding=page.UNDERSTANDING)
    try:
        section = replace(section, drawings=page.drawings(run, results), tables=page.tables(run, results))
    except (PhysicsError, ArithmeticError, LookupError, TypeError, ValueError) as error:  # edited or missing records break anything
        why = str(error).replace(f"{reader.path}/", "")
        section = replace(section, notes=[f"Figures and tables of '{name}' cannot be made: {why}"])
    return _with_results(section, results)


def _with_results(section: Section, results: Sequence[ResultRecord], baselines: Sequence[BaselineRecord] = ()) -> Section:
    """``section`` with the table of its results, equal quantities together, and the gates of all records."""
    ordered = in_order(results)
    gates = [gate for b in baselines for gate in b.gates] + [gate for r in results for gate in r.gates]
    return replace(
        section,
        baselines=[_baseline_row(b) for b in baselines],
        results=result_rows(ordered[:MAX_RESULTS]),
        common=", ".join(f"{name} {value}" for name, value in common_coordinates(results).items()),
        results_left_out=max(0, len(results) - MAX_RESULTS),
        coverage=coverage(results).sentence,
        gates=gate_rows(gates),
    )


def _sensor(reader: RunReader, traces: dict[str, Trace], results: Sequence[ResultRecord]) -> Section | None:
    if not results:
        return None
    drawings = sensor_section.drawings(RecordedRun(reader.path), results) if traces else []
    section = Section(id="sensor", title="Sensor", understanding=sensor_section.UNDERSTANDING, drawings=drawings)
    return _with_results(section, results)


def _memory(reader: RunReader, results: Sequence[ResultRecord]) -> Section | None:
    drawings = memory.maps_of(reader)
    if not drawings and not results:
        return None
    tables = memory.accounts_of(reader)
    section = Section(id="memory", title="VRAM cliff", understanding=memory.UNDERSTANDING, drawings=drawings, tables=tables)
    return _with_results(section, results)


def _baselines(reader: RunReader, results: Sequence[ResultRecord]) -> Section | None:
    records = reader.baselines
    if not records and not results:
        return None
    drawn = records if len(records) <= MAX_BASELINE_FIGURES else [records[0], records[-1]]
    drawings = [figures.baseline(b, reader.run.instruments.get(b.instrument)) for b in drawn]
    left_out = len(records) - len(drawn)
    section = Section(
        id="baseline",
        title="Idle baseline",
        understanding=UNDERSTANDING[_BASELINE],
        drawings=drawings,
        notes=[f"Without a figure of their own: {fmt.plural(left_out, 'more baseline')}."] if left_out else [],
    )
    return _with_results(section, results, records)


def _baseline_row(record: BaselineRecord) -> BaselineRow:
    expanded = None if record.u_w is None else coverage_factor(record.dof or float("inf")) * record.u_w
    return BaselineRow(
        id=record.id, instrument=record.instrument, mean=fmt.quantity(record.mean_w, expanded, "W", fmt.Scale(factor=1.0, unit="W")),
        n=fmt.count(record.n), n_eff=fmt.number(record.n_eff, digits=3), deviation=fmt.number(record.standard_deviation_w, digits=3),
        extremes=f"{fmt.number(record.minimum_w)} … {fmt.number(record.maximum_w)}",
        truth="" if record.truth_w is None else f"{fmt.number(record.truth_w)} W",
    )  # fmt: skip


def _soak(reader: RunReader, traces: dict[str, Trace], results: Sequence[ResultRecord]) -> Section | None:
    phases = [p for p in reader.run.phases if p.name == "soak" and p.instrument in traces]
    slope = next((r for r in results if "slope" in r.quantity), None)
    plateau = next((r for r in results if "plateau" in r.quantity and r.estimate.unit in {"C", "degC", "°C"}), None)
    limit = _slope_limit(reader, slope)
    drawings = [
        figures.soak(
            traces[p.instrument],
            reader.run.instruments[p.instrument],
            p,
            slope=slope,
            plateau=plateau,
            limit=limit,
            gap_s=_gap_s(reader, reader.run.instruments[p.instrument]),
        )
        for p in phases
        if traces[p.instrument].has("temperature_c")
    ]
    if not drawings and not results:
        return None
    return _with_results(Section(id="soak", title="Heat soak", understanding=UNDERSTANDING[_SOAK], drawings=drawings), results)


def _slope_limit(reader: RunReader, slope: ResultRecord | None) -> float | None:
    """Limit of the gate on the slope, where it is in the slope's own unit; the result's own gate before another's."""
    if slope is None:
        return None
    gates = [*slope.gates, *all_gates(reader)]
    return next((g.limit for g in gates if "slope" in g.name and g.unit == slope.estimate.unit and g.limit is not None), None)
