"""Tables of an experiment in the report: what a figure cannot say in numbers, made of text that is formatted already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table; the first cell of each row is its heading."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    """Columns that are set flush right."""

    def __post_init__(self) -> None:
        """A row of another length would shift its numbers under other headings."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table '{self.caption}' has {len(self.columns)} columns and a row of {len(row)} cells: {list(row)}.")
