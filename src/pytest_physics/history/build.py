"""Bring run directories into the index: add some, or make it anew from all.

Reading is spread over the machine's processors where there are many runs; writing is one transaction per batch, so that a writer holds the
lock for a moment only. A run that cannot be read is remembered with its reason, and looked at again by the next ``rebuild``.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import count
from multiprocessing import get_context
from pathlib import Path

from pytest_physics.errors import PhysicsError, RecordError
from pytest_physics.history.entries import USABLE, Entry, find_runs, only_read, read_entries, refused_entry
from pytest_physics.history.store import APPLICATION, Added, HistoryIndex, IndexDamagedError, IndexUnusableError
from pytest_physics.record.verify import verify_run

BATCH = 100
"""Runs of one transaction."""
MANY = 3000
"""From so many runs on, starting more processes is worth it."""
MAX_PROCESSES = 8
HEADER = 100
"""Bytes of SQLite's header; the application's id is among them."""
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


def rebuild(index: Path, places: Sequence[Path], *, otherwise: Path | None = None) -> tuple[list[Added], list[Path], Path | None]:
    """Make the index anew from ``places`` and from the directories it knew; also returns what is gone, and where a damaged file went.

    ``otherwise`` is looked into where the index is damaged and tells no directory.
    """
    history = HistoryIndex(index, create=True)
    try:
        damaged, known = _damage(history), _known_paths(history)
        places = [*places, otherwise] if damaged and not known and otherwise is not None else places
        paths = dict.fromkeys([path for place in places if place.exists() for path in _runs_or_none(place)])
        paths |= dict.fromkeys(path for path in known if path.exists())
        found = sorted({path.resolve() for path in paths})
        if not found:
            nothing = "there is no run directory to make the index from; name the directories that hold them."
            raise RecordError(f"{index} is damaged, and {nothing}" if damaged else nothing)
        aside = None
        if damaged:
            history.close()
            aside = _set_aside(index)
            history = HistoryIndex(index, create=True)
        return history.make_anew(batches(found)), [path for path in known if not path.exists()], aside
    finally:
        history.close()


def _damage(history: HistoryIndex) -> bool:
    """Whether the file is damaged; a damaged database of others is refused like a sound one."""
    try:
        history.require_sound()
    except IndexDamagedError:
        with history.path.open("rb") as file:
            head = file.read(HEADER)
        if head.startswith(b"SQLite format 3\0") and len(head) == HEADER and int.from_bytes(head[68:72]) not in {0, APPLICATION}:
            raise
        return True
    return False


def _set_aside(index: Path) -> Path:
    """Rename a damaged file and what SQLite keeps beside it, which would else be read into the new one."""
    names = (f"{index.name}.damaged{number or ''}" for number in count())
    aside = next(path for name in names if not (path := index.with_name(name)).exists())
    try:
        for suffix in ("-wal", "-shm", ""):
            if (part := index.with_name(index.name + suffix)).exists():
                part.rename(aside.with_name(aside.name + suffix))
    except OSError as error:
        raise RecordError(
            f"cannot set the damaged index {index} aside: {error.strerror}; move it away, or choose another with --index."
        ) from None
    return aside


def _known_paths(history: HistoryIndex) -> list[Path]:
    """Directories an index of whatever format names; the column ``runs.path`` is kept in every format."""
    try:
        return history.paths()
    except IndexDamagedError:
        return []
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
