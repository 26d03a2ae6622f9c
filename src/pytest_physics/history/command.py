"""The ``history`` commands: read, judge, write what was asked for, and return what is said in the terminal."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pytest_physics.clock import utc_now
from pytest_physics.config import HistorySettings, load_settings
from pytest_physics.errors import ConfigurationError, RecordError
from pytest_physics.history.build import add_runs, rebuild
from pytest_physics.history.check import check, software_notes
from pytest_physics.history.entries import find_runs, read_entry
from pytest_physics.history.export import export
from pytest_physics.history.names import matching
from pytest_physics.history.store import Added, HistoryIndex
from pytest_physics.history.texts import check_lines, junit, markdown, series_lines, sparkline
from pytest_physics.report.format import plural, printable

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
"""Environment variable by which GitHub Actions names the file of a step's summary."""
MOST_SERIES = 40
MOST_LISTED = 20
EXIT_FAILED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command says."""

    lines: tuple[str, ...]
    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """Options of ``history check``; None takes what the settings say."""

    runs: Sequence[Path]
    delta: float | None = None
    last: int | None = None
    since: str = ""
    correction: str = ""
    summary: Path | None = None
    junit: Path | None = None


def settings_of(root: Path) -> tuple[HistorySettings, str]:
    """The project's settings of the history, and how its claims are corrected."""
    settings = load_settings(root)
    return settings.history, settings.claims.correction


def run_add(index: Path, places: Sequence[Path], *, verify: bool) -> Outcome:
    """Add runs; exit code 1 where one of them cannot be used."""
    return _told(index, add_runs(index, places, verify=verify))


def _told(index: Path, added: Sequence[Added], gone: Sequence[Path] = ()) -> Outcome:
    counts = Counter(item.outcome for item in added)
    noted = [f"{item.outcome:<10} {item.entry.path}: {item.note}" for item in added if item.note]
    lines = [*noted[:MOST_LISTED], *([f"… and {len(noted) - MOST_LISTED} more"] if len(noted) > MOST_LISTED else [])]
    lines += [f"gone       {path}: its directory is not there, so it is not in the index any more" for path in gone[:MOST_LISTED]]
    said = ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items()))
    values = sum(len(item.entry.values) for item in added)
    lines.append(f"{index}: {plural(len(added), 'run')} looked at ({said or 'none'}), {plural(values, 'value')}")
    return Outcome(lines=tuple(lines), exit_code=EXIT_FAILED if counts["refused"] else 0)


def run_rebuild(index: Path, places: Sequence[Path]) -> Outcome:
    """Make the index anew."""
    otherwise = None if places else Path(load_settings(Path.cwd()).runs)
    added, gone, aside = rebuild(index, places or [index.parent], otherwise=otherwise)
    told = _told(index, added, gone)
    said = () if aside is None else (f"damaged    {index}: set aside as {aside}, made anew from the runs",)
    return replace(told, lines=(*said, *told.lines))


def run_show(index: Path, metric: str, *, last: int) -> Outcome:
    """Series of one metric; of several that a word means, a line each; without one, what the index holds."""
    with HistoryIndex.open(index) as history:
        if not metric:
            return Outcome(lines=tuple(_contents(history)))
        names = matching(metric, history.metrics())
        if len(names) > 1:
            return Outcome(lines=tuple(_several(history, names)))
        return Outcome(lines=tuple(line for series in history.series(names[0]) for line in series_lines(series, last=last)))


def _contents(history: HistoryIndex) -> list[str]:
    lines = [printable(name, 500) for name in history.metrics()]
    lines += [f"{state:<10} {path}: {reason}" for path, state, reason in history.set_aside()]
    counts = ", ".join(f"{n} {state}" for state, n in history.counts().items())
    return [*lines, f"{history.path}: {counts or 'no runs yet; add some with: pytest-physics history add RUN…'}"]


def _several(history: HistoryIndex, names: Sequence[str]) -> list[str]:
    lines = []
    for name in names[:MOST_SERIES]:
        for series in history.series(name):
            usable = [point.value for point in series.points if point.usable]
            lines.append(f"{len(usable):>5}  {sparkline(usable):<24}  {printable(name, 500)}")
    more = len(names) - MOST_SERIES
    return [*lines, *([f"… and {plural(more, 'more metric')}"] if more > 0 else []), "name one of them to see its runs"]


def run_check(index: Path, request: CheckRequest, root: Path) -> Outcome:
    """Judge a run, or several repeats of it; exit code 0, 1 (REFUTED) or 10 (INVALID or INCONCLUSIVE)."""
    settings, correction = settings_of(root)
    changed = {"delta": request.delta, "last": request.last}
    settings = settings.model_copy(update={key: value for key, value in changed.items() if value is not None})
    if request.correction not in {"", "none", "holm"}:
        raise ConfigurationError(f"'--correction {request.correction}' is not known; it is none or holm.")
    paths = [path for place in request.runs for path in find_runs(place)]
    with HistoryIndex.open(index) as history:
        found = check(history, paths, settings, correction=request.correction or correction, since_ms=_since(history, request.since))
    notes = software_notes(read_entry(paths[0]).software, (point for item in found.judged for point in item.points))
    lines = [*check_lines(found), *([f"software since the latest of them: {'; '.join(notes)}"] if notes else [])]
    if request.junit is not None:
        _write(request.junit, junit(found))
        lines.append(f"junit:   {request.junit}")
    summary = request.summary or (Path(named) if (named := os.environ.get(SUMMARY_VARIABLE)) else None)
    if summary is not None:
        _write(summary, markdown(found), append=request.summary is None)
        lines.append(f"summary: {summary}")
    return Outcome(lines=tuple(lines), exit_code=found.exit_code)


def _since(history: HistoryIndex, text: str) -> int:
    """A run's start, or a day, in milliseconds of Unix time."""
    if not text:
        return 0
    known = history.start_of(text)
    if known is not None:
        return known
    try:
        day = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"'--since {text}' is neither a run of the index nor a day such as {utc_now()[:10]}.") from None
    return round((day if day.tzinfo else day.replace(tzinfo=UTC)).timestamp() * 1000)


def run_export(index: Path, output: Path, *, kind: str) -> Outcome:
    """Write the index in another format."""
    with HistoryIndex.open(index) as history:
        return Outcome(lines=tuple(map(str, export(history, output, kind=kind))))


def _write(path: Path, text: str, *, append: bool = False) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}; give another path.") from None
