"""Attached data: rows of CSV files and JSON record lists in one directory, read and nothing else.

Paths must stay inside the directory. A cell that is no number is missing (NaN). Times may be seconds or ISO 8601.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_physics.audit.statements import Rows
from pytest_physics.errors import ConfigurationError

Floats = NDArray[np.float64]
Record = Mapping[str, object]


class MissingDataError(Exception):
    """An attached file, or a column of it, is not there."""


class Attached:
    """The data directory of an audit; None where there is none."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        """Path of an attached file."""
        if self.directory is None:
            raise MissingDataError(f"the data directory with {name} (option --data)")
        found = (self.directory / name).resolve()
        if not found.is_relative_to(self.directory.resolve()):
            raise ConfigurationError(f"'{name}' leads out of the data directory {self.directory}; attach files inside it only.")
        if not found.is_file():
            raise MissingDataError(f"{name} in the data directory {self.directory}")
        return found

    def text(self, name: str) -> str:
        """A document."""
        return self.path(name).read_text(encoding="utf-8", errors="replace")

    def records(self, rows: Rows) -> Sequence[Record]:
        """Rows that fulfil the conditions."""
        every = _records(self.path(rows.file))
        return [row for row in every if all(str(row.get(key)) == value for key, value in rows.where.items())]

    def column(self, rows: Rows, name: str) -> Floats:
        """A column as numbers, NaN where there is none."""
        records = self.records(rows)
        if not records or all(name not in row for row in records):
            raise MissingDataError(f"column '{name}' in {rows.file}")
        return np.array([_number(row.get(name)) for row in records], dtype=np.float64)

    def times(self, rows: Rows) -> Floats:
        """The times of the rows in seconds; rows without a time are left out."""
        if rows.time is None:
            raise MissingDataError(f"the name of the time column of {rows.file}")
        name = rows.time
        values = np.array([_seconds(row.get(name)) for row in self.records(rows)], dtype=np.float64)
        kept: Floats = values[np.isfinite(values)]
        if kept.size < 2:
            raise MissingDataError(f"at least two times in column '{rows.time}' of {rows.file}")
        return kept

    def digest(self, name: str, columns: Sequence[str]) -> str:
        """Digest of some columns of a file, or of its bytes."""
        path = self.path(name)
        if not columns:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        values = [[str(row.get(column)) for column in columns] for row in _records(path)]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()


@cache
def _records(path: Path) -> Sequence[Record]:
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        if path.suffix == ".json":
            data = json.loads(text)
            return [row for row in data if isinstance(row, dict)] if isinstance(data, list) else [data]
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return list(csv.DictReader(text.splitlines()))
    except (ValueError, csv.Error) as error:
        raise ConfigurationError(f"{path} cannot be read as {path.suffix or 'CSV'} ({error}); correct it, or leave it out.") from None


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def _seconds(value: object) -> float:
    number = _number(value)
    if not math.isnan(number) or value is None:
        return number
    try:
        instant = datetime.fromisoformat(str(value).strip())
    except ValueError:
        return math.nan
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
