"""The index for analysts: Parquet in one folder per month, or one DuckDB file with the same tables.

``results`` (one row a value: metric, unit, condition, run, host, time, month, value, own standard uncertainty, degrees of freedom, why it
is not used), ``runs`` and ``conditions``. Folders by month are what grows well: a month is written once, lies on any object storage, and
a query for some months reads no others.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_physics.errors import ConfigurationError, RecordError, nearest
from pytest_physics.history.store import HistoryIndex

ROWS = 200_000
"""Rows written at a time."""
PARTITIONED = {"results": "month", "runs": "month"}
"""Tables in folders, by this column; the others are one file."""
LIBRARIES = {"pyarrow": "parquet", "duckdb": "history"}
"""Library to the extra that brings it."""


def export(index: HistoryIndex, output: Path, *, kind: str) -> list[Path]:
    """Write the index as ``kind`` (``parquet``: a new directory, ``duckdb``: a new file); what is there already is refused."""
    if kind not in KINDS:
        raise ConfigurationError(f"unknown export format '{kind}'{nearest(kind, KINDS)}; formats are {', '.join(KINDS)}.")
    for name in KINDS[kind][0]:
        library(name)
    if output.exists():
        raise RecordError(f"{output} exists already; remove it, or give another name: an export is made anew, never added to.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as aside:
            return KINDS[kind][1](index, output, Path(aside))
    except OSError as error:
        raise RecordError(f"cannot write {output}: {error.strerror}; choose another place.") from None


def library(name: str) -> ModuleType:
    """An optional library, or one line that says how to get it."""
    try:
        return import_module(name)
    except ImportError:
        raise ConfigurationError(
            f"this export needs '{name}', which is not installed: pip install 'pytest-physics[{LIBRARIES[name]}]'."
        ) from None


def _parquet(index: HistoryIndex, output: Path, aside: Path) -> list[Path]:
    folder = aside / "tables"
    for table in ("results", "runs", "conditions"):
        _write_table(index, table, folder / table)
    folder.rename(output)
    return sorted(output.rglob("*.parquet"))


def _write_table(index: HistoryIndex, table: str, folder: Path) -> None:
    pyarrow, parquet = library("pyarrow"), import_module("pyarrow.parquet")
    schema = _schema(pyarrow, table)
    folder.mkdir(parents=True)
    columns, rows = index.rows(table)
    writers: dict[str, Any] = {}
    try:
        for chunk in iter(lambda: list(islice(rows, ROWS)), []):
            for key, part in _parts(columns, chunk, PARTITIONED.get(table)):
                if key not in writers:
                    path = folder / key / "part-0.parquet" if key else folder / "part-0.parquet"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    writers[key] = parquet.ParquetWriter(path, schema, compression="zstd")
                values = zip(*part, strict=True)
                writers[key].write_table(
                    pyarrow.table({c: list(v) for c, v in zip(columns, values, strict=True) if c in schema.names}, schema=schema)
                )
    finally:
        for writer in writers.values():
            writer.close()


def _parts(columns: list[str], rows: list[tuple[Any, ...]], by: str | None) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """Rows by folder: ``month=2026-11``."""
    if by is None:
        yield "", rows
        return
    place = columns.index(by)
    folders: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        folders.setdefault(f"{by}={row[place]}", []).append(row)
    yield from folders.items()


def _schema(pyarrow: ModuleType, table: str) -> Any:  # noqa: ANN401 -- pyarrow has no types
    """Types of a table's columns; the month stands in the name of the folder."""
    text, integer, real = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    return pyarrow.schema(
        {
            "results": [
                ("metric", text), ("unit", text), ("condition", text), ("run_id", text), ("host", text),
                ("t_ms", integer), ("value", real), ("u", real), ("dof", real), ("reason", text),
            ],
            "runs": [
                ("run_id", text), ("path", text), ("state", text), ("reason", text), ("t_ms", integer), ("host", text),
                ("software", text), ("digest", text), ("verified", integer),
            ],
            "conditions": [("condition", text), ("machine", text), ("settings", text), ("suite", text)],
        }[table]
    )  # fmt: skip


def _duckdb(index: HistoryIndex, output: Path, aside: Path) -> list[Path]:
    tables = aside / "parquet"
    tables.mkdir()
    for table in ("results", "runs", "conditions"):
        _write_table(index, table, tables / table)
    built = aside / "history.duckdb"
    with library("duckdb").connect(str(built)) as database:
        for table in ("results", "runs", "conditions"):
            pattern = str(tables / table / "**" / "*.parquet").replace("'", "''")
            order = "ORDER BY metric, condition, t_ms" if table == "results" else ""
            query = f"CREATE TABLE {table} AS SELECT * FROM read_parquet('{pattern}', hive_partitioning = true) {order}"  # noqa: S608
            database.execute(query)
    shutil.move(built, output)
    return [output]


KINDS: Mapping[str, tuple[tuple[str, ...], Callable[[HistoryIndex, Path, Path], list[Path]]]] = {
    "parquet": (("pyarrow",), _parquet),
    "duckdb": (("pyarrow", "duckdb"), _duckdb),
}
"""Format to the libraries it needs, and what writes it."""
