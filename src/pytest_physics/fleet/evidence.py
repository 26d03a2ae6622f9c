"""What the merged runs of a fleet say: verdicts by claim, and a few numbers of each card.

Every number is read from a run that was verified when it was collected; a run whose files have changed since is not read, and says so. A
number that its own gates refuse is shown as refused, never as a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from pytest_physics.claims import SEVERITY
from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import PhysicsError
from pytest_physics.fleet.collect import READ_BY_PAGE, Outcome, Row
from pytest_physics.fleet.markers import file_digest
from pytest_physics.metrology.decision import Verdict
from pytest_physics.metrology.quality import Quality
from pytest_physics.record.reader import CLAIMS, RESULTS, RunReader
from pytest_physics.record.schema import CorrectionRecord, InstrumentRecord, ResultRecord, RunRecord, SensorRecord

DEVICE = "gpu"
"""Instrument whose numbers the page compares; of a run without one, the only instrument."""
SPECIMEN = frozenset({"seed", "parameters", "serial", "pci_bus_id", "minor_number", "board_id"})
"""Details of a fingerprint that tell specimens of one model apart, and change nothing about how they are run."""
TRUTH = "true_"
"""Details that only a simulated device has: what it was built with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The verdict of one claim on one host."""

    verdict: Verdict
    anchor: str
    """Claim of the run's own report that it comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRun:
    """One merged run."""

    row: Row
    run: RunRecord
    name: str
    """``point@node``; the point alone where it is the node."""
    device: InstrumentRecord | None
    sensor: SensorRecord | None
    verdicts: Mapping[str, Cell]
    """Worst verdict of each claim with all its comparisons, by the claim's id."""
    numbers: Mapping[str, ResultRecord] = field(default_factory=dict)
    """One result for each metric that the run has, by the metric's key."""
    soak_s: float | None = None
    """Length of the last heat soak, on the device's clock."""

    @property
    def model(self) -> str:
        """Marketing name of the card; ``no device`` without one."""
        return self.device.fingerprint.name if self.device else "no device"

    @property
    def group(self) -> tuple[str, ...]:
        """Runs of equal group ran the same card model in the same way: name, driver, VBIOS, limits, not the specimen."""
        if self.device is None:
            return (self.row.identity,)
        details = self.device.fingerprint.details
        return (self.device.fingerprint.kind, self.model, *(f"{key}={value}" for key, value in conditions(details)))


def conditions(details: Mapping[str, str]) -> list[tuple[str, str]]:
    """Details of a fingerprint under which a card ran, without what tells specimens apart."""
    return sorted((key, value) for key, value in details.items() if key not in SPECIMEN and not key.startswith(TRUTH))


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number of a card."""

    key: str
    title: str
    pick: Callable[[Sequence[ResultRecord]], ResultRecord | None]


# --- picking ------------------------------------------------------------------------------------------------------------------


def refused(result: ResultRecord) -> str:
    """Why a number must not be used; empty where it may."""
    gate = next((gate for gate in result.gates if not gate.passed and not gate.warning), None)
    if gate is not None:
        return f"gate '{gate.name}' refuses: {gate.reason}"
    if result.estimate.value is None or Quality[result.estimate.quality] < Quality.ESTIMATE:
        return f"its data are {result.estimate.quality}"
    return ""


def _only(experiment: str, quantity: str) -> Callable[[Sequence[ResultRecord]], ResultRecord | None]:
    """The last result of one quantity of the device."""

    def pick(results: Sequence[ResultRecord]) -> ResultRecord | None:
        found = [r for r in results if (r.experiment, r.quantity) == (experiment, quantity) and _of_device(r)]
        return found[-1] if found else None

    return pick


def _of_device(result: ResultRecord) -> bool:
    """Whether a result is the device's and not the host's processor's."""
    search = str(result.coordinates.get("search", DEVICE)).partition("-")[0]
    return result.coordinates.get("instrument", DEVICE) == DEVICE and search == DEVICE


def _largest_context(results: Sequence[ResultRecord]) -> ResultRecord | None:
    """Of the contexts that were found, that of the model searched first; the others stand in the run's own report."""
    found = [r for r in results if (r.experiment, r.quantity) == ("VRAM cliff", "largest context, found") and _of_device(r)]
    return found[0] if found else None


def best_batch(results: Sequence[ResultRecord]) -> ResultRecord | None:
    """Lowest net energy per decoded token over the batches of one sweep: the sweep with the most batches, refused ones left out."""
    sweeps: dict[tuple[tuple[str, object], ...], list[ResultRecord]] = {}
    for result in results:
        at = result.coordinates
        if (result.experiment, result.quantity, at.get("phase")) == ("joule curve", "energy per token (net)", "decode") and _of_device(
            result
        ):
            sweeps.setdefault(arm_of(result), []).append(result)
    sweep = max(sweeps.values(), key=len, default=[])
    usable = [result for result in sweep if not refused(result)]
    return min(usable, key=lambda r: r.estimate.value or 0.0, default=sweep[0] if sweep else None)


def arm_of(result: ResultRecord) -> tuple[tuple[str, object], ...]:
    """Coordinates that must agree before two results are compared: all but the batch that was best and the number of the search."""
    return tuple(sorted((key, value) for key, value in result.coordinates.items() if key not in {"batch", "search"}))


METRICS = (
    Metric(key="idle", title="Idle power", pick=_only("idle baseline", "idle power")),
    Metric(key="plateau", title="Plateau temperature", pick=_only("heat soak", "plateau temperature")),
    Metric(key="context", title="Largest context", pick=_largest_context),
    Metric(key="token", title="Energy per token at the best batch", pick=best_batch),
)
"""What is shown and compared, in the order of the page."""
PICKED = re.compile(rb'"quantity": ?"(?:idle power|plateau temperature|largest context, found|energy per token \(net\))"')
"""Quantities that the metrics pick from, as they stand in ``results.jsonl``."""


# --- reading ------------------------------------------------------------------------------------------------------------------


def read_hosts(folder: Path, rows: Sequence[Row]) -> tuple[list[HostRun], list[Row]]:
    """The merged runs, and every row as it stands now: a run that changed after it was collected is CORRUPT."""
    hosts, now = [], []
    for row in rows:
        if row.outcome is not Outcome.MERGED:
            now.append(row)
            continue
        try:
            changed = _changed(folder / row.run, row)
            host = None if changed else _host(folder / row.run, row)
        except (PhysicsError, OSError, ValueError) as error:
            changed, host = str(error), None
        if host is None:
            now.append(row.model_copy(update={"outcome": Outcome.CORRUPT, "reason": f"{changed}; collect it again"}))
        else:
            hosts.append(host)
            now.append(row)
    return hosts, now


def _changed(run: Path, row: Row) -> str:
    for name in READ_BY_PAGE:
        if name in row.digests and (not (run / name).is_file() or file_digest(run / name) != row.digests[name]):
            return f"{name} was changed after it was verified"
    return ""


def _host(path: Path, row: Row) -> HostRun:
    reader = RunReader(path)
    run = reader.run
    name = next((name for name in (DEVICE, *run.instruments) if name in run.instruments), None)
    device = run.instruments[name] if name else None
    results = _results(path)
    picked = {metric.key: metric.pick(results) for metric in METRICS}
    return HostRun(
        row=row, run=run, device=device, name=_name(row),
        sensor=next((s for s in reversed(reader.sensors) if s.instrument == name), None), verdicts=_verdicts(path, reader.correction),
        numbers={key: result for key, result in picked.items() if result is not None}, soak_s=_soak_s(run, name),
    )  # fmt: skip


def _results(path: Path) -> list[ResultRecord]:
    """Results of the quantities that the page picks; the others, most of the file, are not even parsed. The run was verified."""
    return [ResultRecord.model_validate_json(line) for line in _lines(path / RESULTS) if PICKED.search(line)]


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def _name(row: Row) -> str:
    plain = not row.node or row.point in {row.node, row.identity}
    return row.point if plain else f"{row.point}@{row.node}"


class _Judged(BaseModel):
    """What is read of one line of ``claims.jsonl``: a fiftieth of it."""

    id: str
    attempt: int = 1
    verdict: Verdict


def _verdicts(path: Path, correction: CorrectionRecord | None) -> dict[str, Cell]:
    """Worst verdict of each claim, as it stands at the end of the run."""
    corrected = {(entry.id, entry.attempt): entry.verdict for entry in correction.claims} if correction else {}
    found: dict[str, Cell] = {}
    judged = [_Judged.model_validate_json(line) for line in _lines(path / CLAIMS)]
    for claim in {claim.id: claim for claim in judged}.values():  # the last attempt counts
        key, verdict = claim.id.partition("#")[0], corrected.get((claim.id, claim.attempt), claim.verdict)
        if key not in found or SEVERITY.index(verdict) > SEVERITY.index(found[key].verdict):
            found[key] = Cell(verdict=verdict, anchor=claim.id)
    return found


def _soak_s(run: RunRecord, name: str | None) -> float | None:
    ended = [p for p in run.phases if p.name == "soak" and p.instrument == name and p.t1_ns is not None]
    return ((ended[-1].t1_ns or 0) - ended[-1].t0_ns) / NS_PER_S if ended else None
