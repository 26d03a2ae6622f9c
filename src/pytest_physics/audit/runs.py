"""Audit one of our own runs: transcribe its records into the format of published reports, and apply the same checks.

``verify`` recomputes everything with the code that computed it; this does not. It looks at the recorded numbers as a stranger would: can
the summary of a baseline be that of its readings, do counts fill the duration, does a budget add up, has a number the unit that its recipe
implies, could the sensor have seen each window, does a verdict follow from estimate, limit and gates? A bug in the measuring code can
agree with itself in ``verify``, and not here.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pytest_physics.audit import statements as said
from pytest_physics.audit.attached import Attached
from pytest_physics.audit.examine import findings_of
from pytest_physics.audit.judge import Audit, Examined, rulings
from pytest_physics.clock import NS_PER_S
from pytest_physics.metrology.decision import MIN_DOF, Verdict
from pytest_physics.metrology.forensics import series
from pytest_physics.metrology.forensics.finding import Printed
from pytest_physics.metrology.quality import BILLABLE_RELATIVE_UNCERTAINTY, GOOD_RELATIVE_UNCERTAINTY, Quality
from pytest_physics.record.consistency import id_in_name
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.reader import RUN, RunReader
from pytest_physics.record.schema import BaselineRecord, ClaimRecord, EstimateRecord, ResultRecord, pauses_of
from pytest_physics.sampling.trace import IntArray
from pytest_physics.units import Unit

POWER = "power_w"
SAME = 1e-9
"""Numbers that were computed twice may differ by this much, relatively."""
TIERS = {"BILLABLE": BILLABLE_RELATIVE_UNCERTAINTY, "GOOD": GOOD_RELATIVE_UNCERTAINTY}
UNITS = {"window.energy": "J", "window.duration": "s", "baseline.power": "W"}
SUMS = {"add", "subtract", "mean"}

Found = tuple[str, str, said.Exhibit]
"""Section, id and exhibit."""


def audit_run(path: Path) -> Audit:
    """Examine the records of the run directory at ``path``."""
    run = RecordedRun(path)
    families = {
        "baselines": ("Each idle baseline has the summary of its stored readings", list(_baselines(run))),
        "durations": ("Each sampler ran as long as its samples and dropped ticks say", list(_durations(run))),
        "windows": ("The sensor could have seen every window whose energy is reported", list(_windows(run))),
        "budgets": ("Each stated uncertainty is the sum of its budget, and fits its quality", list(_budgets(run.reader))),
        "units": ("Each estimate has the unit that its recipe implies", list(_units(run.reader))),
        "verdicts": ("Each verdict follows from estimate, limit, gates and required claims", list(_verdicts(run.reader))),
        "identity": ("All files are of one run", list(_identity(run))),
    }
    examined = [
        Examined(id=name, section=section, exhibit=exhibit, findings=tuple(findings_of(exhibit, Attached(None))))
        for _, found in families.values()
        for section, name, exhibit in found
    ]
    traces = list(_traces(run))
    claims = [
        said.Claim(id=name, statement=statement, asserts=[part for _, part, _ in found], needs="such records in the run")
        for name, (statement, found) in families.items()
    ]
    claims.append(
        said.Claim(
            id="traces", statement="Each trace has one writer and keeps its period", asserts=[part.id for part in traces], needs="a trace"
        )
    )
    examined += traces
    return Audit(
        title=f"Our own run {run.reader.run.run_id}",
        about="The records of one run, transcribed by the program and examined like anybody's report.",
        source=said.Source(document=f"run {run.reader.run.run_id}", date=run.reader.run.started_utc),
        name=path.name,
        sha256=hashlib.sha256((path / RUN).read_bytes()).hexdigest(),
        rulings=rulings(claims, examined),
        examined=tuple(examined),
    )


def _baselines(run: RecordedRun) -> Iterator[Found]:
    for record in run.reader.baselines:
        if record.mean_w is None or record.standard_deviation_w is None or not record.power_w:
            continue
        yield "samples", f"{record.id}-summary", _summary(run, record)
        yield from _recomputed(record)


def _summary(run: RecordedRun, record: BaselineRecord) -> said.Sample:
    channels = {channel.name: channel for channel in run.reader.run.instruments[record.instrument].channels}
    resolution = channels[POWER].resolution if POWER in channels else 0.0
    readings = np.asarray(record.power_w)
    stepped = resolution > 0 and bool(np.all(np.abs(readings / resolution - np.rint(readings / resolution)) < 1e-6))
    quantity = said.Quantity(
        unit="W", mean=_number(record.mean_w), sd=_number(record.standard_deviation_w), min=_number(record.minimum_w),
        max=_number(record.maximum_w), step=resolution if stepped else None,
    )  # fmt: skip
    return said.Sample(
        title=f"Idle baseline {record.id}",
        where="baseline.json",
        quantities={"power": quantity},
        n_known=record.n if record.n > 1 else None,
        ddof=1 if record.ddof else 0,
    )


def _recomputed(record: BaselineRecord) -> Iterator[Found]:
    """Stored summary against stored readings, by Python's own statistics."""
    readings = record.power_w
    expected = {
        "mean": (record.mean_w, statistics.fmean(readings)),
        "deviation": (record.standard_deviation_w, math.sqrt(_squares(readings) / max(1, len(readings) - record.ddof))),
        "minimum": (record.minimum_w, min(readings)),
        "maximum": (record.maximum_w, max(readings)),
        "median": (record.median_w, statistics.median(readings)),
        "count": (record.n, len(readings)),
    }
    for name, (stored, found) in expected.items():
        if stored is not None:
            values: dict[str, Printed | str] = {"stored": _number(stored), "from the stored readings": _number(found)}
            yield "facts", f"{record.id}-{name}", _fact(f"{name.capitalize()} of {record.id}", "baseline.json", values)


def _squares(readings: Sequence[float]) -> float:
    mean = statistics.fmean(readings)
    return math.fsum((value - mean) ** 2 for value in readings)


def _durations(run: RecordedRun) -> Iterator[Found]:
    for name, record in run.reader.run.instruments.items():
        taken, dropped = record.statistics.get("taken"), record.statistics.get("dropped")
        paused = record.statistics.get("paused")
        if not isinstance(taken, int) or not isinstance(dropped, int):
            continue
        if record.ended is not None and record.sampler_state != "failed":
            yield "durations", f"{name}-duration", said.Duration(
                title=f"Sampling of {name}",
                where="run.json",
                counts={"samples": taken, "dropped ticks": dropped, **({"ticks of pauses": paused} if isinstance(paused, int) else {})},
                period_s=record.period_ns / NS_PER_S,
                stated_s=_number((record.ended.t_ns - record.started.t_ns) / NS_PER_S),
            )  # fmt: skip
        rows = len(run.trace(name))
        yield "totals", f"{name}-rows", said.Total(
            title=f"Samples of {name}, as counted and as stored",
            where="run.json, trace",
            total=_number(taken),
            parts={"rows of the trace": _number(rows)},
            unit="samples",
        )  # fmt: skip


def _windows(run: RecordedRun) -> Iterator[Found]:
    """Windows whose energy is part of an estimate that claims to have seen data, by sensor."""
    spans: dict[str, dict[str, float]] = defaultdict(dict)
    for _, estimate, recipe in _estimates(run.reader):
        if Quality[estimate.quality] < Quality.ESTIMATE:
            continue
        for leaf in _leaves(recipe):
            parameters = leaf.get("parameters", {})
            if leaf.get("op") == "window.energy" and parameters.get("sensor"):
                window = run.window(parameters["window"])
                spans[parameters["sensor"]][window.id] = (window.t1_ns - window.t0_ns) / NS_PER_S
    for sensor_id, durations in spans.items():
        model = run.sensor(sensor_id)
        if model is not None:
            shortest = dict(sorted(durations.items(), key=lambda item: item[1])[:5])
            yield "sensors", f"{sensor_id}-windows", said.Sensor(
                title=f"The five shortest of {len(durations)} windows seen through {sensor_id}",
                where="windows.jsonl, sensor.json",
                averages_s=model.effective_window_s,
                update_period_s=model.update_period_s,
                events_s=shortest,
                corrected=True,
            )  # fmt: skip


def _budgets(reader: RunReader) -> Iterator[Found]:
    for name, estimate, recipe in _estimates(reader):
        if estimate.u is None or not estimate.budget:
            continue
        values: dict[str, Printed | str] = {"stated": _number(estimate.u), "from its budget": _number(_combined(estimate, scale=True))}
        yield "facts", f"{name}-budget", _fact(f"Standard uncertainty of {name}", "results.jsonl, claims.jsonl", values, estimate.unit)
        if recipe.get("op") == "window.energy" and estimate.quality in TIERS and estimate.value and estimate.expanded and estimate.u:
            relative = _combined(estimate, scale=False) * estimate.expanded / estimate.u / abs(estimate.value)
            yield "limits", f"{name}-tier", said.Limit(
                title=f"Quality of {name}",
                value=Printed(relative, 12),
                unit="1",
                most=TIERS[estimate.quality],
                why=f"relative expanded uncertainty of a {estimate.quality} estimate, scale apart",
            )  # fmt: skip


def _combined(estimate: EstimateRecord, *, scale: bool) -> float:
    """Root sum of squares over sources; contributions of one source add up first."""
    sources: dict[str, float] = defaultdict(float)
    for part in estimate.budget:
        if scale or not part.common_scale:
            sources[part.source] += part.contribution if part.contribution is not None else math.inf
    return math.sqrt(math.fsum(value**2 for value in sources.values()))


def _units(reader: RunReader) -> Iterator[Found]:
    for name, estimate, recipe in _estimates(reader):
        implied = unit_of(recipe)
        if implied is not None:
            yield "formulas", f"{name}-unit", said.Formula(
                title=f"Unit of {name}", where="results.jsonl, claims.jsonl", unit=str(implied), terms={"recorded": estimate.unit}
            )  # fmt: skip


def unit_of(recipe: Mapping[str, Any]) -> Unit | None:
    """Unit that a recipe implies; None where an operation's unit is its own affair."""
    op, parameters = str(recipe.get("op")), recipe.get("parameters", {})
    if (text := _leaf_unit(op, parameters)) is not None:
        return Unit.parse(text)
    inputs = [unit_of(part) for part in recipe.get("inputs", ())]
    known = [unit for unit in inputs if unit is not None]
    if not known or len(known) < len(inputs):
        return None
    if op in SUMS and len(set(known)) == 1:
        return known[0]
    if op == "divide":
        return known[0] / known[1]
    return known[0] * known[1] if op == "multiply" else None


def _leaf_unit(op: str, parameters: Mapping[str, Any]) -> str | None:
    if op == "window.work":
        return str(parameters["work"]).removesuffix("s")
    return str(parameters["unit"]) if op in {"constant", "given"} else UNITS.get(op)


def _verdicts(reader: RunReader) -> Iterator[Found]:
    latest: dict[str, Verdict] = {}
    for record in reader.judged:
        if record.verdict is not Verdict.NOT_TESTED and record.estimate is not None:
            values: dict[str, Printed | str] = {
                "recorded": record.verdict.value,
                "from estimate, limit and gates": expected_verdict(record, latest).value,
            }
            yield "facts", f"{record.id}-{record.attempt}-verdict", _fact(f"Verdict of {record.id}", "claims.jsonl", values)
        latest[record.id] = record.verdict


def expected_verdict(record: ClaimRecord, judged: Mapping[str, Verdict]) -> Verdict:
    """The verdict that the recorded numbers imply, by the rule of the documentation and none of its code."""
    estimate = record.estimate
    if estimate is None or estimate.value is None or record.limit is None or Quality[estimate.quality] < Quality.ESTIMATE:
        return Verdict.INVALID
    refused = any(not gate.passed and not gate.warning for gate in (*record.gates, *record.own_gates))
    if refused or any(judged.get(name) is not Verdict.VALIDATED for name in record.requires):
        return Verdict.INVALID
    margin = record.limit - estimate.value if record.operator in {"<", "<="} else estimate.value - record.limit
    expanded = estimate.expanded if estimate.expanded is not None else math.inf
    strict = record.operator in {"<", ">"}
    if margin > expanded or (margin == expanded and not strict):
        return Verdict.VALIDATED if (estimate.dof is None or estimate.dof >= MIN_DOF) else Verdict.INCONCLUSIVE
    return Verdict.REFUTED if -margin > expanded or expanded == 0 else Verdict.INCONCLUSIVE


def _identity(run: RecordedRun) -> Iterator[Found]:
    if carried := id_in_name(run.reader.path):
        yield "facts", "run-id", _fact("Id of the run", "run.json", {"run.json": run.reader.run.run_id, "directory": carried})


def _traces(run: RecordedRun) -> Iterator[Examined]:
    for name, record in run.reader.run.instruments.items():
        times = _without_pauses(run.trace(name).t_ns, pauses_of(run.reader.run.phases, name), record.period_ns) / NS_PER_S
        if times.size > 2:
            found = (series.writers(times), series.cadence(times, record.period_ns / NS_PER_S))
            yield Examined(id=f"{name}-trace", section="series", exhibit=said.Exhibit(title=f"Trace of {name}"), findings=found)


def _without_pauses(t_ns: IntArray, pauses_ns: Sequence[tuple[int, int]], period_ns: int) -> IntArray:
    """Sample times with each pause of the sampler taken out, so that one period lies between the samples around it."""
    steps = np.diff(t_ns)
    for begin_ns, end_ns in pauses_ns:
        steps[(t_ns[:-1] < end_ns) & (t_ns[1:] > begin_ns) & (steps > period_ns)] = period_ns
    return np.concatenate([t_ns[:1], t_ns[0] + np.cumsum(steps)]) if len(t_ns) else t_ns


def _estimates(reader: RunReader) -> Iterator[tuple[str, EstimateRecord, Mapping[str, Any]]]:
    """Every recorded estimate with a name and its recipe."""
    records: Sequence[ResultRecord | ClaimRecord] = [*reader.results, *reader.claims]
    for record in records:
        if record.estimate is not None and record.recipe is not None:
            attempt = f"-{record.attempt}" if isinstance(record, ClaimRecord) else ""
            yield f"{record.id}{attempt}", record.estimate, record.recipe


def _leaves(recipe: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    inputs = recipe.get("inputs", ())
    if not inputs:
        yield recipe
    for part in inputs:
        yield from _leaves(part)


def _fact(title: str, where: str, values: Mapping[str, Printed | str], unit: str = "") -> said.Fact:
    return said.Fact(title=title, where=where, values=dict(values), tolerance=SAME, unit="" if unit == "1" else unit)


def _number(value: float | None) -> Printed:
    return Printed(float(value) if value is not None else math.nan)
