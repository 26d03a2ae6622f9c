"""Collect a fleet: what became of every task, and which of the runs may be used.

Any subset, again and again: whatever has its end marker is checked (checksums, the same test suite, ``verify``) and listed; the rest is
waiting, running, cancelled or LOST. A LOST task whose marker shows up later is merged then. Runs that were copied by hand come in
from directories and tar files. Nothing is ever deleted, and what cannot be used says why.

A verification is kept under the digests of the run's files: a run that did not change is not verified again.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path, PurePosixPath

from pydantic import Field

from pytest_physics import clock
from pytest_physics.errors import PhysicsError, RecordError
from pytest_physics.fleet.executor import Executor, TaskState, TaskStatus
from pytest_physics.fleet.folder import FleetFolder, done_of
from pytest_physics.fleet.markers import ASIDE, COLLECTED, DONE, DoneRecord, checksums, replace_text, run_in
from pytest_physics.record import reader
from pytest_physics.record.reader import RunReader
from pytest_physics.record.schema import ENDED_UNSAID, Record, RunRecord
from pytest_physics.record.suite import conflicts
from pytest_physics.record.verify import verify_run
from pytest_physics.record.writer import digests

MAX_FINDINGS = 3
MAX_CLOCK_APART_S = 2.0
"""Clocks of hosts that agree within this are not worth a word."""
MAX_TAR_BYTES = 1 << 36
"""A tar file of more than 64 GiB is not one of ours."""


class Outcome(StrEnum):
    """What became of a task."""

    MERGED = "MERGED"
    """Its run is complete, verified, and of the fleet's suite: its numbers are used."""
    INCOMPLETE = "INCOMPLETE"
    """Its run ended before its time, by a signal or a crash of the tests."""
    CORRUPT = "CORRUPT"
    """A file differs from its checksum, or a number does not follow from the raw artifacts."""
    FOREIGN = "FOREIGN"
    """Its test files are not those of the fleet."""
    EMPTY = "EMPTY"
    """pytest ended without a run directory."""
    LOST = "LOST"
    """No end marker, and gone from the queue."""
    CANCELLED = "CANCELLED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    UNKNOWN = "UNKNOWN"
    """No end marker, and the engine does not answer."""
    NOT_SUBMITTED = "NOT_SUBMITTED"


PENDING = (Outcome.RUNNING, Outcome.WAITING, Outcome.UNKNOWN)
"""Outcomes that a later look may change for the better."""

_UNFINISHED = {
    TaskState.WAITING: Outcome.WAITING,
    TaskState.RUNNING: Outcome.RUNNING,
    TaskState.CANCELLED: Outcome.CANCELLED,
    TaskState.UNKNOWN: Outcome.UNKNOWN,
    TaskState.NOT_SUBMITTED: Outcome.NOT_SUBMITTED,
    TaskState.ENDED: Outcome.LOST,
}


class Row(Record):
    """One task, or one run that came from elsewhere."""

    task: int | None
    """None for a run that no task of this fleet wrote."""
    point: str
    identity: str
    node: str
    outcome: Outcome
    reason: str = ""
    run: str = ""
    """Run directory, relative to the fleet's."""
    exit_status: int | None = None
    digests: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the run's files as they were when it was verified."""
    clock_note: str = ""
    """That the host's clock differs from this one's; empty where nothing shows it."""


class Collected(Record):
    """``collected.json``: the state of a fleet when it was last collected."""

    fleet: str
    engine: str
    collected_utc: str
    rows: list[Row]


READ_BY_PAGE = (reader.RUN, reader.CLAIMS, reader.CORRECTION, reader.RESULTS, reader.SENSORS)


def collect(folder: FleetFolder, executor: Executor, *, sources: Sequence[Path] = ()) -> Collected:
    """Import ``sources``, look at every task and every run, write ``collected.json`` and return it."""
    for source in sources:
        import_source(folder, source)
    statuses = executor.poll(folder)
    finished = executor.collect(folder, statuses)
    known = {row.run: row for row in last_collected(folder).rows} if (folder.path / COLLECTED).exists() else {}
    rows = [_task_row(folder, task, statuses.get(task), finished.get(task), known) for task in range(len(folder.plan.points))]
    rows += [_guest_row(folder, path, known) for path in folder.result_folders() if path not in set(finished.values())]
    found = Collected(fleet=folder.plan.id, engine=executor.name, collected_utc=clock.utc_now(), rows=rows)
    replace_text(folder.path / COLLECTED, found.model_dump_json(indent=1))
    return found


def last_collected(folder: FleetFolder) -> Collected:
    """What the last collection found; ``RecordError`` where there was none."""
    try:
        return Collected.model_validate_json((folder.path / COLLECTED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{folder.path} was not collected yet; run 'pytest-physics fleet collect {folder.path}'.") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{folder.path / COLLECTED} is not readable ({error}); remove it, and collect again.") from None


# --- rows ---------------------------------------------------------------------------------------------------------------------


def _task_row(folder: FleetFolder, task: int, status: TaskStatus | None, done: Path | None, known: Mapping[str, Row]) -> Row:
    if done is not None:
        return _run_row(folder, done, folder.plan.points[task].name, known)
    seen = status or TaskStatus(state=TaskState.UNKNOWN)
    started = folder.started(task)
    outcome = _UNFINISHED[seen.state]
    aside = folder.runs / f"{ASIDE}{started.identity}" if started else None
    left = run_in(aside) if aside is not None else None
    reason = seen.reason
    if outcome is Outcome.LOST:
        where = f"{aside.relative_to(folder.path)}/" if aside is not None and aside.exists() else ""
        reason = _lost(seen, started is not None, where)
    return Row(
        task=task, point=folder.plan.points[task].name, identity=started.identity if started else "",
        node=seen.node or (started.node if started else ""), outcome=outcome, reason=reason,
        run=str(left.relative_to(folder.path)) if left else "",
    )  # fmt: skip


def _lost(status: TaskStatus, began: bool, left: str) -> str:
    engine = f" ({status.reason})" if status.reason else ""
    if began:
        return f"it began and is gone without an end marker{engine}" + (f"; what it wrote is in {left}" if left else "")
    return (
        f"it is gone from the queue without having begun here{engine}: node '{status.node or 'unknown'}' may not share this file system. "
        "Submit from a directory that all nodes share, or run pytest there by hand and collect its run directory."
    )


def _run_row(folder: FleetFolder, path: Path, point: str, known: Mapping[str, Row]) -> Row:
    """A finished task: its marker, its run, and whether the numbers may be used."""
    done = done_of(path)
    assert done is not None  # noqa: S101 -- callers found it
    run = path / done.run if done.run else None
    row = Row(
        task=done.task if done.fleet == folder.plan.id else None, point=point, identity=done.identity, node=done.node,
        outcome=Outcome.EMPTY,
        reason=f"{done.problem} ({path.name}/output.log)", run=str(run.relative_to(folder.path)) if run else "",
        exit_status=done.exit_status,
    )  # fmt: skip
    if run is None or not run.is_dir():
        return (
            row
            if run is None
            else row.model_copy(update={"outcome": Outcome.CORRUPT, "reason": f"the run directory {run.name} is missing"})
        )
    return _judged(folder, row, run, known, _changed_files(path, done))


def _guest_row(folder: FleetFolder, path: Path, known: Mapping[str, Row]) -> Row:
    """A run that was brought in by hand, or that an earlier attempt left."""
    done = done_of(path)
    if done is not None:
        return _run_row(folder, path, path.name, known)
    run = run_in(path)
    row = Row(task=None, point=path.name, identity=path.name, node="", outcome=Outcome.EMPTY, reason="it holds no run directory")
    if run is None:
        return row
    return _judged(folder, row.model_copy(update={"run": str(run.relative_to(folder.path))}), run, known, "")


def _judged(folder: FleetFolder, row: Row, run: Path, known: Mapping[str, Row], changed: str) -> Row:
    """``row`` with its outcome, from the run itself."""
    try:
        record = RunReader(run).run
    except PhysicsError as error:
        return row.model_copy(update={"outcome": Outcome.CORRUPT, "reason": changed or str(error)})
    named = row.model_copy(update={"node": row.node or (record.job.node if record.job else ""), "clock_note": clock_note(record, folder)})
    seen, before = digests(run), known.get(row.run)
    if not changed and before is not None and before.outcome is Outcome.MERGED and before.digests == seen:
        return named.model_copy(update={"outcome": Outcome.MERGED, "reason": "", "digests": seen})
    outcome, reason = (Outcome.CORRUPT, changed) if changed else _usable(folder, run, record)
    return named.model_copy(update={"outcome": outcome, "reason": reason, "digests": seen})


def _usable(folder: FleetFolder, run: Path, record: RunRecord) -> tuple[Outcome, str]:
    if apart := conflicts(folder.plan.suite, record.suite):
        return (
            Outcome.FOREIGN,
            f"its test files are not the fleet's: {', '.join(apart[:MAX_FINDINGS])} differ; run it with the same checkout",
        )
    if not folder.plan.suite.keys() & record.suite.keys():
        return Outcome.FOREIGN, "none of its test files is one of the fleet's; collect it in a fleet of its own"
    if record.state != "completed":
        why = ENDED_UNSAID if record.state == "running" else record.end_reason
        return Outcome.INCOMPLETE, why
    found = verify_run(run)
    if found.findings:
        more = f"; and {len(found.findings) - MAX_FINDINGS} more" if len(found.findings) > MAX_FINDINGS else ""
        return Outcome.CORRUPT, "; ".join(f"{item.where} {item.problem}" for item in found.findings[:MAX_FINDINGS]) + more
    return Outcome.MERGED, ""


def _changed_files(path: Path, done: DoneRecord) -> str:
    """What differs from the end marker's checksums; empty where nothing does. A report may be built anew."""
    present = checksums(path)
    rebuilt = {f"{done.run}/{name}" for name in (reader.REPORT, reader.MANIFEST)}
    for name in sorted(done.files.keys() | present.keys()):
        if name not in present:
            return f"{name} is missing; the end marker names it"
        if name not in rebuilt and done.files.get(name) != present[name]:
            return f"{name} is not what the end marker says: it was changed, or cut short on the way"
    return ""


def clock_note(record: RunRecord, folder: FleetFolder) -> str:
    """Whether the run's wall times can be true by this machine's clock; they are labels, so nothing is refused for it."""
    submitted, now = datetime.fromisoformat(folder.plan.submitted_utc), datetime.fromisoformat(clock.utc_now())
    started = datetime.fromisoformat(record.started_utc)
    ended = datetime.fromisoformat(record.ended_utc or record.started_utc)
    behind_s, ahead_s = (submitted - started).total_seconds(), (ended - now).total_seconds()
    if record.job is not None and record.job.fleet == folder.plan.id and behind_s > MAX_CLOCK_APART_S:
        return f"its clock is at least {behind_s:.0f} s behind the submitting host's: it began before it was submitted"
    if ahead_s > MAX_CLOCK_APART_S:
        return f"its clock is at least {ahead_s:.0f} s ahead of this host's: it ends in the future"
    return ""


# --- runs from elsewhere ------------------------------------------------------------------------------------------------------


def import_source(folder: FleetFolder, source: Path) -> list[Path]:
    """Copy runs from a directory or a tar file into the fleet; what is there already under the same name is left as it is."""
    if source.is_dir():
        return _adopt_all(folder, source)
    if not source.is_file():
        raise RecordError(f"there is no {source}: name a task's folder, a run directory, another fleet, or a tar file of one of them.")
    with tempfile.TemporaryDirectory(prefix=ASIDE, dir=folder.runs) as aside:
        unpack(source, Path(aside))
        return _adopt_all(folder, Path(aside))


def unpack(source: Path, target: Path) -> None:
    """Extract plain files of a tar file below ``target``; refuses names that lead out of it."""
    try:
        with tarfile.open(source) as archive:
            members = archive.getmembers()
            if sum(member.size for member in members) > MAX_TAR_BYTES:
                raise RecordError(f"{source} unpacks to more than {MAX_TAR_BYTES >> 30} GiB; it is no tar file of runs.")
            for member in members:
                if member.isfile():
                    _extract(archive, member, _inside(target, member.name, source))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise RecordError(f"{source} is no readable tar file ({error}); copy it again.") from None


def _inside(target: Path, name: str, source: Path) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise RecordError(f"{source} holds '{name}', which leads out of its directory; pack the runs again with relative names.")
    return target / path


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = archive.extractfile(member)
    if content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with content, path.open("wb") as file:
            shutil.copyfileobj(content, file)


def _adopt_all(folder: FleetFolder, source: Path) -> list[Path]:
    """Every task's folder and every bare run directory below ``source``."""
    markers = [path.parent for path in sorted(source.rglob(DONE))]
    bare = [path.parent for path in sorted(source.rglob(reader.RUN)) if path.parent.parent not in markers]
    if not markers and not bare:
        raise RecordError(f"{source} holds no run: neither {DONE} nor {reader.RUN} is in it.")
    found = [_adopt(folder, path, path.name if (done := done_of(path)) is None else done.identity, whole=True) for path in markers]
    return [*found, *(_adopt(folder, path, path.name, whole=False) for path in bare)]


def _adopt(folder: FleetFolder, path: Path, name: str, *, whole: bool) -> Path:
    """Copy aside, then rename, so that a collection beside this one never sees half of it."""
    final = folder.runs / PurePosixPath(name).name
    if final.exists() or final.resolve() == path.resolve():
        return final
    aside = folder.runs / f"{ASIDE}import-{final.name}"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        shutil.copytree(path, aside if whole else aside / path.name)
        aside.rename(final)
    except OSError as error:
        raise RecordError(f"cannot copy {path} to {final}: {error.strerror or error}; free space, and collect again.") from None
    return final


def refusals(found: Collected) -> int:
    """How many rows are not merged, and never will be by waiting."""
    return sum(row.outcome is not Outcome.MERGED for row in found.rows)


def counted(rows: Iterable[Row]) -> dict[Outcome, int]:
    """How many rows have each outcome, in the order of the enum, without zeros."""
    outcomes = [row.outcome for row in rows]
    return {outcome: outcomes.count(outcome) for outcome in Outcome if outcome in outcomes}
