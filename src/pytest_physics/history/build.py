"""Bring run directories into the index: add some, or make it anew from all.

Reading is spread over the machine's processors where there are many runs; writing is one transaction per batch, so that a writer holds the
lock for a moment only. A run that cannot be read is remembered with its reason, and looked at again by the next ``rebuild``.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from pytest_physics.errors import PhysicsError, RecordError
from pytest_physics.history.entries import USABLE, Entry, find_runs, only_read, read_entries, refused_entry
from pytest_physics.history.store import Added, HistoryIndex, IndexUnusableError
from pytest_physics.record.verify import verify_run

BATCH = 100
"""Runs of one transaction."""
MANY = 3000
"""From so many runs on, starting more processes is worth it."""
MAX_PROCESSES = 8
AHEAD = 2
"""Batches that each process may be ahead of the writer."""


def add_runs(index: Path, places: Sequence[Path], *, verify: bool = False) -> list[Added]:
    """Add every run directory in or below ``places``, in any order and any number of times."""
    paths = [path for place in places for path in find_runs(place)]
    added: list[Added] = []
    with HistoryIndex.open(index, create=True) as history:
        for batch in batches(paths):
            entries = [verified(entry) for entry in batch] if verify else batch
            added += history.add(entries, verified=verify)
    return added


def verified(entry: Entry) -> Entry:
    """``entry``, refused where its numbers do not follow from its raw artifacts."""
    if entry.state != USABLE:
        return entry
    findings = verify_run(Path(entry.path)).findings
    return refused_entry(Path(entry.path), f"verify: {findings[0].where} {findings[0].problem}") if findings else entry


def rebuild(index: Path, places: Sequence[Path]) -> tuple[list[Added], list[Path]]:
    """Make the index anew from ``places`` and from the directories it knew; also returns those that are gone."""
    history = HistoryIndex(index, create=True)
    try:
        known = _known_paths(history)
        paths = dict.fromkeys([path for place in places if place.exists() for path in _runs_or_none(place)])
        paths |= dict.fromkeys(path for path in known if path.exists())
        found = sorted({path.resolve() for path in paths})
        if not found:
            raise RecordError("there is no run directory to make the index from; name the directories that hold them.")
        return history.make_anew(batches(found)), [path for path in known if not path.exists()]
    finally:
        history.close()


def _known_paths(history: HistoryIndex) -> list[Path]:
    """Directories an index of whatever format names; the column ``runs.path`` is kept in every format."""
    try:
        return history.paths()
    except IndexUnusableError:
        raise
    except PhysicsError:  # an empty file, or tables of a time before there were runs
        return []


def _runs_or_none(place: Path) -> list[Path]:
    try:
        return find_runs(place)
    except RecordError:
        return []


def batches(paths: Sequence[Path], *, processes: int | None = None) -> Iterator[list[Entry]]:
    """Entries of ``paths`` in their order, a batch at a time."""
    chunks = [paths[i : i + BATCH] for i in range(0, len(paths), BATCH)]
    workers = min(processes or os.cpu_count() or 1, MAX_PROCESSES, len(chunks))
    if len(paths) < MANY or workers < 2:
        yield from (read_entries(chunk) for chunk in chunks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=only_read) as pool:
        running: deque[Future[list[Entry]]] = deque()
        for chunk in chunks:  # a few ahead of the writer and no more: memory does not grow with the number of runs
            running.append(pool.submit(read_entries, chunk))
            if len(running) > AHEAD * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
