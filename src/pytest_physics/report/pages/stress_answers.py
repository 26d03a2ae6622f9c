"""What of TR122's follow-ups A, B, E and F a run answered, on which rig: a row for each part and device, from the run's own results.

A part that was measured says what was found; one that the rig cannot show, or that found no opportunity, is "not tested" with the reason
that was recorded; one whose experiment was not part of the run says so. No sentence here holds a number that is not in ``results.jsonl``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_physics.record.data import RecordedRun
from pytest_physics.record.schema import InstrumentRecord, ResultRecord
from pytest_physics.report.format import duration, number, percent, plural, quantity
from pytest_physics.report.tables import Table

PARTS = {
    "A": "A: stress, throttling, drift",
    "B": "B: energy counter against polling",
    "E": "E: thermal hysteresis",
    "F": "F: bandwidth saturation",
}
NOT_TESTED = "stress-not-tested"
NO_EXPERIMENT = "not part of this run"
SMALLEST_PERCENT = 1e-6
Results = Sequence[ResultRecord]


def answers(run: RecordedRun) -> Table:
    """The table; one row for each part and instrument."""
    reasons = _reasons(run)
    rows = []
    for part, title in PARTS.items():
        for name, record in run.reader.run.instruments.items():
            own = [r for r in run.reader.results if r.coordinates.get("instrument") == name]
            found = ANSWERS[part](own)
            state = "answered" if found else "not tested"
            reason = "; ".join(dict.fromkeys([*_not_tested(part, own), *reasons.get((part, name), ())]))
            if not (found or reason) and not any(r.experiment in {"stress", "roofline"} for r in own):
                continue  # a control card that another test made
            rows.append((title, _rig(name, record), state, found or reason or NO_EXPERIMENT))
    return Table(caption="What this run answered of TR122's follow-ups", columns=("TR122", "Rig", "State", "Answer, or why not"), rows=rows)


def _rig(name: str, record: InstrumentRecord) -> str:
    simulated = ", simulated" if record.spec.startswith("twin") else ""
    return f"{name}: {record.fingerprint.name}{simulated}"


def _reasons(run: RecordedRun) -> dict[tuple[str, str], list[str]]:
    """Recorded reasons by part and instrument."""
    found: dict[tuple[str, str], list[str]] = {}
    for table_id in run.reader.tables:
        if table_id.startswith(NOT_TESTED):
            for row in run.table(table_id):
                found.setdefault((str(row["part"]), str(row["instrument"])), []).append(str(row["reason"]))
    return found


def _not_tested(part: str, results: Results) -> list[str]:
    """Reasons that results without a value carry."""
    experiments = {"A": "stress", "E": "thermal hysteresis", "F": "roofline"}
    own = [r for r in results if r.experiment == experiments.get(part) and r.estimate.value is None]
    return [gate.reason.removeprefix("not tested: ") for r in own for gate in r.gates if gate.reason.startswith("not tested: ")]


def shown(record: ResultRecord) -> str:
    """A result's value with its interval."""
    return str(quantity(record.estimate.value, record.estimate.expanded, record.estimate.unit))


def shown_percent(record: ResultRecord) -> str:
    """A result's ratio and interval in percent; an interval below a millionth of a percent is shown as none."""
    value, expanded = record.estimate.value, record.estimate.expanded
    if value is None:
        return str(quantity(None, None, "%"))
    told = 100 * expanded if expanded is not None and 100 * expanded > SMALLEST_PERCENT else None
    return str(quantity(100 * value, told, "%"))


def named(results: Results, quantity_name: str) -> list[ResultRecord]:
    """Results of one quantity that have a value."""
    return [r for r in results if r.quantity == quantity_name and r.estimate.value is not None]


def _stress(results: Results) -> str:
    own = [r for r in results if r.experiment == "stress"]
    shortest = named(own, "shortest decode")
    if not shortest:
        return ""
    arms = {(r.coordinates.get("context"), r.coordinates.get("batch")) for r in named(own, "time per token")}
    text = f"{plural(len(arms), 'arm')} of context × batch, every decode at least {duration(shortest[0].estimate.value)} long"
    for drift in named(own, "latency drift, last third over first"):
        load = str(drift.coordinates.get("load", ""))
        same = [r for r in own if r.coordinates.get("load") == load]
        text += f"; {load}: drift {shown_percent(drift)}"
        shares = {"heat": "throttle share: thermal", "power cap": "throttle share: power"}
        for word, name in shares.items():
            text += "".join(f", {word} {percent(r.estimate.value)} of the time" for r in named(same, name))
    return text


def _counter(results: Results) -> str:
    compared = [r for r in named(results, "counter less integral") if "window_s" in r.coordinates]
    told = {
        (r.experiment, str(r.coordinates.get("load", "identification")), r.coordinates["window_s"]): r for r in compared
    }  # fmt: skip
    return "; ".join(f"{load}, spans of {number(float(span))} s: {shown_percent(r)}" for (_, load, span), r in told.items())


def _hysteresis(results: Results) -> str:
    widths, heights = named(results, "loop width"), named(results, "loop height")
    if not widths or not heights:
        return ""
    return f"slows down {shown(widths[0])} above where it recovers; on the way down {shown(heights[0])} slower at the same temperature"


def side(record: ResultRecord) -> str:
    """What bounds a point, by its place against the ridge; undecided where the interval holds the ridge."""
    value, expanded = record.estimate.value, record.estimate.expanded or 0.0
    if value is None:
        return "no value"
    if value + expanded < 1:
        return "memory"
    return "arithmetic" if value - expanded > 1 else "undecided"


def _roofline(results: Results) -> str:
    ridges, placed = named(results, "ridge"), named(results, "operations per byte over the ridge")
    if not ridges or not placed:
        return ""
    sides = [side(r) for r in placed]
    counts = ", ".join(f"{sides.count(s)} {w}" for s, w in _SIDES.items() if s in sides)
    return f"ridge at {shown(ridges[0])}; of {plural(len(placed), 'point')} {counts}"


_SIDES = {"memory": "bound by memory", "arithmetic": "bound by arithmetic", "undecided": "undecided"}
ANSWERS: dict[str, Callable[[Results], str]] = {"A": _stress, "B": _counter, "E": _hysteresis, "F": _roofline}
