"""The index: a SQLite file over run directories, made from them at any time and never the truth.

Several processes may add to it at once, on a local disk: write-ahead logging, one writer at a time, the others wait up to
:data:`BUSY_S`. An index of another format, a file of somebody else's, and a damaged one are refused with what to do. On a network file
system SQLite corrupts under several writers: there, nodes write run directories only, and one collector indexes them.

Layout: ``runs``; ``metrics`` (name, unit); ``parts`` (canonical JSON of devices, settings, suite, each once); ``conditions`` (three parts);
``series`` (metric, condition); ``points`` (one value, in its series, by time).
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pytest_physics.clock import utc_now
from pytest_physics.errors import RecordError
from pytest_physics.history.entries import REFUSED, USABLE, Conditions, Entry, Value, agree

FORMAT = 1
"""Of the tables below; an index of another one is made anew."""
APPLICATION = 0x70687973
"""``phys``: marks the file as ours."""
BUSY_S = 60.0
"""Longest wait for another writer."""
MOST_OTHERS = 50
"""Other conditions looked at to say what differs."""
REBUILD = "run 'pytest-physics history rebuild': it makes the index anew from the run directories, which hold everything"

TABLES = """
CREATE TABLE runs (
  pk INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, path TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, t_ms INTEGER NOT NULL,
  digest TEXT NOT NULL, host TEXT NOT NULL, software TEXT NOT NULL, verified INTEGER NOT NULL, added_utc TEXT NOT NULL);
CREATE INDEX runs_by_path ON runs (path);
CREATE TABLE metrics (pk INTEGER PRIMARY KEY, name TEXT NOT NULL, unit TEXT NOT NULL, UNIQUE (name, unit));
CREATE TABLE parts (pk INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE conditions (
  pk INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, machine INTEGER NOT NULL, settings INTEGER NOT NULL, suite INTEGER NOT NULL);
CREATE TABLE series (pk INTEGER PRIMARY KEY, metric INTEGER NOT NULL, condition INTEGER NOT NULL, UNIQUE (metric, condition));
CREATE TABLE points (
  series INTEGER NOT NULL, t_ms INTEGER NOT NULL, run INTEGER NOT NULL, value REAL, u REAL NOT NULL, dof REAL, reason TEXT NOT NULL,
  PRIMARY KEY (series, t_ms, run)) WITHOUT ROWID;
CREATE INDEX points_by_run ON points (run);
"""


class IndexUnusableError(RecordError):
    """The index is of another format, damaged, or not an index; the run directories are not affected."""


class IndexDamagedError(IndexUnusableError):
    """SQLite cannot read it: its directories still can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What became of one run directory."""

    entry: Entry
    outcome: str
    """``added``, ``known``, ``moved``, ``changed``, ``copy``, ``incomplete`` or ``refused``."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value of a series."""

    run_id: str
    path: str
    t_ms: int
    value: float | None
    u: float
    dof: float | None
    reason: str
    """Why it must not be compared; empty where it may."""
    software: str

    @property
    def usable(self) -> bool:
        """Whether it may be compared."""
        return not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric under equal conditions, in the order of time."""

    metric: str
    unit: str
    conditions: Conditions
    points: tuple[Point, ...] = field(repr=False)


def _address(path: Path, *, create: bool) -> str:
    """For SQLite: of an index that may only be read, such as one on a read-only mount, so that it is not asked to make its side files."""
    address = path.absolute().as_uri()
    if create or (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return address
    return f"{address}?mode=ro{'' if path.with_name(f'{path.name}-wal').exists() else '&immutable=1'}"


class HistoryIndex:
    """An open index; use it with ``with``."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if not path.exists() and not create:
            raise RecordError(f"there is no index {path}; make it with 'pytest-physics history add RUN…', or name another with --index.")
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(_address(path, create=create), timeout=BUSY_S, isolation_level=None, uri=True)
        except (OSError, sqlite3.Error) as error:
            raise RecordError(f"cannot open the index {path}: {error}; choose another place with --index.") from None
        self._known: dict[tuple[str, object], int] = {}

    @classmethod
    def open(cls, path: Path, *, create: bool = False) -> Self:
        """Open an index of this format; with ``create`` make one where there is none."""
        index = cls(path, create=create)
        try:
            with index._clear():
                index._db.execute("PRAGMA journal_mode=WAL")
                index._db.execute("PRAGMA synchronous=NORMAL")  # a power cut may cost the last runs of the index, never a run
                with index._writing() if create and index._empty() else contextlib.nullcontext():
                    if create and index._empty():  # looked at again, with the lock: another process may have made it meanwhile
                        index._make()
                index._require_ours()
        except BaseException:
            index.close()
            raise
        return index

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # --- format ------------------------------------------------------------------------------------------------------

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def _empty(self) -> bool:
        return not self._db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()

    def _make(self) -> None:
        self._db.execute(f"PRAGMA application_id={APPLICATION}")
        self._db.execute(f"PRAGMA user_version={FORMAT}")
        for statement in filter(str.strip, TABLES.split(";")):
            self._db.execute(statement)

    def _require_ours(self) -> None:
        if self._empty():
            raise IndexUnusableError(f"the index {self.path} is empty; {REBUILD}.")
        if self._pragma("application_id") != APPLICATION:
            raise IndexUnusableError(
                f"{self.path} is a database, and no index of this package: name another with --index; it is left as it is."
            )
        if (found := self._pragma("user_version")) != FORMAT:
            raise IndexUnusableError(f"the index {self.path} has format {found}, this version reads {FORMAT}; {REBUILD}.")

    @contextlib.contextmanager
    def _clear(self) -> Iterator[None]:
        """SQLite's errors in this package's words."""
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                raise RecordError(
                    f"the index {self.path} has been locked by another process for {BUSY_S:.0f} s; add the runs again when it is done."
                ) from None
            raise RecordError(f"the index {self.path} cannot be used: {text}; is its directory writable, and on a local disk?") from None
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, problem: str) -> IndexDamagedError:
        return IndexDamagedError(
            f"the index {self.path} is damaged, or no index ({problem}). If it is one, {REBUILD}; the file is set aside."
        )

    def require_sound(self) -> None:
        """Refuse a file in which any page is damaged."""
        with self._clear():
            found = str(self._db.execute("PRAGMA quick_check(1)").fetchone()[0])
        if found != "ok":
            raise self._damaged(found.splitlines()[-1])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction; the lock is taken at its start, so that two writers cannot both read and then both write."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._known.clear()
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # --- writing -----------------------------------------------------------------------------------------------------

    def add(self, entries: Iterable[Entry], *, verified: bool = False) -> list[Added]:
        """Add or bring up to date; one transaction for all of them."""
        with self._clear(), self._writing():
            return [self._add(entry, verified=verified) for entry in entries]

    def paths(self) -> list[Path]:
        """Every run directory that the index knows."""
        with self._clear():
            return [Path(path) for (path,) in self._db.execute("SELECT path FROM runs ORDER BY path")]

    def make_anew(self, batches: Iterable[Sequence[Entry]]) -> list[Added]:
        """Drop everything and add ``batches``, in one transaction: others see the old index or the new one, and wait meanwhile."""
        with self._clear():
            if not self._empty() and self._pragma("application_id") != APPLICATION:
                self._require_ours()
            with self._writing():
                tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
                for (name,) in self._db.execute(tables).fetchall():
                    self._db.execute(f'DROP TABLE "{name}"')
                self._known.clear()
                self._make()
                return [self._add(entry, verified=False) for batch in batches for entry in batch]

    def _add(self, entry: Entry, *, verified: bool) -> Added:
        row = self._db.execute("SELECT pk, path, state, digest FROM runs WHERE run_id = ?", (entry.run_id,)).fetchone()
        if row is None:
            self._insert(entry, verified)
            return Added(entry=entry, outcome="added" if entry.state == USABLE else entry.state, note=entry.reason)
        pk, path, state, digest = row
        same_place = path == entry.path
        elsewhere = not same_place and Path(path).exists()
        if entry.state == REFUSED and (elsewhere or (same_place and state == REFUSED)):
            return Added(entry=entry, outcome=REFUSED, note=entry.reason)
        if elsewhere and state != REFUSED:
            same = "the same run" if digest == entry.digest else "another content under the same id"
            return Added(entry=entry, outcome="copy", note=f"{same} is in the index as {path}, which is kept")
        if digest == entry.digest and state == entry.state:
            self._db.execute("UPDATE runs SET path = ?, verified = max(verified, ?) WHERE pk = ?", (entry.path, int(verified), pk))
            return Added(entry=entry, outcome="known" if same_place else "moved", note="" if same_place else f"it was at {path}")
        self._db.execute("DELETE FROM points WHERE run = ?", (pk,))
        self._db.execute("DELETE FROM runs WHERE pk = ?", (pk,))
        self._insert(entry, verified)
        return Added(entry=entry, outcome="changed" if entry.state == USABLE else entry.state, note=entry.reason)

    def _insert(self, entry: Entry, verified: bool) -> None:
        run = self._db.execute(
            "INSERT INTO runs (run_id, path, state, reason, t_ms, digest, host, software, verified, added_utc) "
            "VALUES (?,?,?,?,?,?,?,?,?,?)",
            (
                entry.run_id, entry.path, entry.state, entry.reason, entry.t_ms, entry.digest, entry.host, entry.software, int(verified),
                utc_now(),
            ),
        ).lastrowid  # fmt: skip
        conditions = {id(value.conditions): value.conditions for value in entry.values}  # a run has a few, each shared by many values
        numbers = {key: self._condition(found) for key, found in conditions.items()}
        self._db.executemany(
            "INSERT INTO points (series, t_ms, run, value, u, dof, reason) VALUES (?,?,?,?,?,?,?)",
            [(self._series(v, numbers[id(v.conditions)]), entry.t_ms, run, v.value, v.u, v.dof, v.reason) for v in entry.values],
        )

    def _series(self, value: Value, condition: int) -> int:
        metric = self._key("metrics", ("name", "unit"), (value.metric, value.unit))
        return self._key("series", ("metric", "condition"), (metric, condition))

    def _condition(self, conditions: Conditions) -> int:
        known = self._known.get(("conditions", conditions))
        if known is None:
            parts = (self._key("parts", ("text",), (text,)) for text in (conditions.machine, conditions.settings, conditions.suite))
            known = self._key("conditions", ("digest", "machine", "settings", "suite"), (conditions.digest, *parts))
            self._known["conditions", conditions] = known
        return known

    def _key(self, table: str, columns: tuple[str, ...], values: tuple[object, ...]) -> int:
        """Number of a row that is there once; made where it is not."""
        found = self._known.get((table, values))
        if found is None:
            where = " AND ".join(f"{column} = ?" for column in columns)
            row = self._db.execute(f"SELECT pk FROM {table} WHERE {where}", values).fetchone()  # noqa: S608 -- our own names
            if row is None:
                marks = ",".join("?" * len(values))
                insert = f"INSERT INTO {table} ({','.join(columns)}) VALUES ({marks})"  # noqa: S608 -- our own names
                row = (self._db.execute(insert, values).lastrowid,)
            found = self._known[table, values] = int(row[0] or 0)
        return found

    # --- reading -----------------------------------------------------------------------------------------------------

    def metrics(self) -> list[str]:
        """Names of all metrics, sorted."""
        with self._clear():
            return [name for (name,) in self._db.execute("SELECT DISTINCT name FROM metrics ORDER BY name")]

    def series(self, metric: str) -> list[Series]:
        """Every series of a metric, joined where conditions agree; the one with the latest run last."""
        with self._clear():
            keys = self._db.execute(
                "SELECT s.pk, m.unit, s.condition FROM series s JOIN metrics m ON m.pk = s.metric "
                "WHERE m.name = ? AND EXISTS (SELECT 1 FROM points WHERE series = s.pk)",
                (metric,),
            ).fetchall()
            groups: list[tuple[str, Conditions, list[int]]] = []
            for pk, unit, condition in keys:
                conditions = self._conditions(condition)
                group = next((g for g in groups if g[0] == unit and agree(g[1], conditions)), None)
                if group is None:
                    groups.append((unit, conditions, [pk]))
                else:
                    group[2].append(pk)
            found = [Series(metric=metric, unit=unit, conditions=c, points=self._points(pks)) for unit, c, pks in groups]
        return sorted(found, key=lambda s: (s.points[-1].t_ms, s.points[-1].run_id))

    def latest(
        self, metric: str, unit: str, conditions: Conditions, *, last: int, since_ms: int = 0, before_ms: int, without: Sequence[str] = ()
    ) -> list[Point]:
        """The ``last`` usable values under conditions that agree, of runs begun in ``[since_ms, before_ms)``, in the order of time."""
        with self._clear():
            pks = [
                pk
                for pk, settings in self._candidates(metric, unit, conditions)
                if agree(conditions, replace(conditions, settings=settings))
            ]
            where = "AND p.t_ms >= ? AND p.t_ms < ? AND p.reason = '' AND r.run_id NOT IN (SELECT value FROM json_each(?))"
            found = self._points(pks, where, since_ms, before_ms, json.dumps(list(without)), limit=last, newest_first=True)
        return list(reversed(found))

    def _candidates(self, metric: str, unit: str, conditions: Conditions) -> list[tuple[int, str]]:
        """Series on the same devices by the same test files, each with its settings."""
        return self._db.execute(
            "SELECT s.pk, (SELECT text FROM parts WHERE pk = c.settings) FROM series s JOIN metrics m ON m.pk = s.metric "
            "JOIN conditions c ON c.pk = s.condition WHERE m.name = ? AND m.unit = ? "
            "AND c.machine = (SELECT pk FROM parts WHERE text = ?) AND c.suite = (SELECT pk FROM parts WHERE text = ?)",
            (metric, unit, conditions.machine, conditions.suite),
        ).fetchall()

    def others(self, metric: str, conditions: Conditions) -> tuple[int, list[Conditions]]:
        """Usable values of a metric under conditions that do not agree, and the latest of those conditions."""
        with self._clear():
            rows = self._db.execute(
                "SELECT s.condition, count(*), max(p.t_ms) AS latest FROM series s JOIN metrics m ON m.pk = s.metric "
                "JOIN points p ON p.series = s.pk WHERE m.name = ? AND p.reason = '' GROUP BY s.condition ORDER BY latest DESC LIMIT ?",
                (metric, MOST_OTHERS),
            ).fetchall()
            found = [(self._conditions(condition), n) for condition, n, _ in rows]
        apart = [(other, n) for other, n in found if not agree(conditions, other)]
        return sum(n for _, n in apart), [other for other, _ in apart]

    def _points(
        self, series: Sequence[int], where: str = "", *values: object, limit: int = -1, newest_first: bool = False
    ) -> tuple[Point, ...]:
        order = "DESC" if newest_first else "ASC"
        marks = ",".join("?" * len(series))
        rows = self._db.execute(
            "SELECT r.run_id, r.path, p.t_ms, p.value, p.u, p.dof, p.reason, r.software FROM points p JOIN runs r ON r.pk = p.run "  # noqa: S608 -- our text
            f"WHERE p.series IN ({marks}) {where} ORDER BY p.t_ms {order}, p.run {order} LIMIT ?",
            (*series, *values, limit),
        )
        return tuple(
            Point(run_id=run_id, path=path, t_ms=t_ms, value=value, u=u, dof=dof, reason=reason, software=software)
            for run_id, path, t_ms, value, u, dof, reason, software in rows
        )

    def _conditions(self, pk: int) -> Conditions:
        machine, settings, suite = self._db.execute(
            "SELECT (SELECT text FROM parts WHERE pk = machine), (SELECT text FROM parts WHERE pk = settings), "
            "(SELECT text FROM parts WHERE pk = suite) FROM conditions WHERE pk = ?",
            (pk,),
        ).fetchone()
        return Conditions(machine=machine, settings=settings, suite=suite)

    def set_aside(self) -> list[tuple[str, str, str]]:
        """Runs whose numbers are not used: path, state and reason."""
        with self._clear():
            return list(self._db.execute("SELECT path, state, reason FROM runs WHERE state != ? ORDER BY path", (USABLE,)))

    def start_of(self, run_id: str) -> int | None:
        """When a run began, in milliseconds of Unix time; None for a run that is not in the index."""
        with self._clear():
            row = self._db.execute("SELECT t_ms FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        return None if row is None else int(row[0])

    def counts(self) -> dict[str, int]:
        """Runs by state."""
        with self._clear():
            return dict(self._db.execute("SELECT state, count(*) FROM runs GROUP BY state ORDER BY state"))

    def rows(self, table: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Column names and rows of one of the exported views, ``results`` (in the order of metric, series and time) or ``runs``."""
        with self._clear():
            cursor = self._db.execute(VIEWS[table])
        return [column[0] for column in cursor.description], self._each(cursor)

    def _each(self, cursor: sqlite3.Cursor) -> Iterator[tuple[Any, ...]]:
        with self._clear():
            yield from cursor


VIEWS = {
    "runs": (
        "SELECT run_id, path, state, reason, t_ms, strftime('%Y-%m', t_ms / 1000, 'unixepoch') AS month, host, software, digest, verified "
        "FROM runs ORDER BY t_ms, run_id"
    ),
    "results": (
        "SELECT m.name AS metric, m.unit AS unit, c.digest AS condition, r.run_id AS run_id, r.host AS host, p.t_ms AS t_ms, "
        "strftime('%Y-%m', p.t_ms / 1000, 'unixepoch') AS month, p.value AS value, p.u AS u, p.dof AS dof, p.reason AS reason "
        "FROM points p JOIN series s ON s.pk = p.series JOIN metrics m ON m.pk = s.metric JOIN conditions c ON c.pk = s.condition "
        "JOIN runs r ON r.pk = p.run ORDER BY m.name, m.unit, c.digest, p.t_ms, r.run_id"
    ),
    "conditions": (
        "SELECT c.digest AS condition, a.text AS machine, b.text AS settings, d.text AS suite FROM conditions c "
        "JOIN parts a ON a.pk = c.machine JOIN parts b ON b.pk = c.settings JOIN parts d ON d.pk = c.suite ORDER BY c.digest"
    ),
}
"""What is exported, by name."""
