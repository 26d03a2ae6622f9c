"""Every single value of a run's records, and ways to change it."""

from __future__ import annotations

import copy
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENUMERATIONS = [
    ("VALIDATED", "REFUTED", "INCONCLUSIVE", "INVALID", "NOT_TESTED"),
    ("<=", ">="),
    ("NO_DATA", "GAPPY", "ESTIMATE", "GOOD", "BILLABLE"),
    ("measured", "derived", "stale", "assumed", "simulated"),
    ("gross", "net"),
    ("counter", "power"),
    ("instant", "average", "counter", "state"),
    ("stopped", "running", "failed"),
    ("completed", "incomplete", "running"),
    ("prefill", "decode"),
    ("A", "B"),
    ("normal", "rectangular"),
    ("divide", "multiply", "subtract", "add"),
    ("quick", "standard"),
    ("finished", "interrupted"),
]
"""Words that stand for one another, so that an edited one is still readable."""


@dataclass(frozen=True)
class Leaf:
    """One value of one record file."""

    file: str
    path: tuple[str | int, ...]
    value: Any

    @property
    def shape(self) -> str:
        """Dotted path without list positions and without names of the run: equal for all of a kind."""
        return ".".join("*" if isinstance(part, int) else part for part in self.path)

    def edited(self, whole: Any, value: Any) -> Any:
        """``whole`` with this leaf changed."""
        out = copy.deepcopy(whole)
        place = out
        for part in self.path[:-1]:
            place = place[part]
        place[self.path[-1]] = value
        return out


def leaves(file: str, whole: Any, path: tuple[str | int, ...] = ()) -> Iterator[Leaf]:
    """All leaves of a JSON value."""
    items = whole.items() if isinstance(whole, dict) else enumerate(whole) if isinstance(whole, list) else None
    if items is None:
        yield Leaf(file, path, whole)
        return
    for key, value in items:
        yield from leaves(file, value, (*path, key))


def sampled(found: list[Leaf], per_shape: int) -> list[Leaf]:
    """First, last and evenly between, of each shape: ``per_shape`` at most."""
    groups = defaultdict(list)
    for leaf in found:
        groups[leaf.shape].append(leaf)
    out = []
    for group in groups.values():
        step = max(1, (len(group) - 1) / max(1, per_shape - 1))
        out += [group[i] for i in sorted({round(k * step) for k in range(per_shape) if round(k * step) < len(group)})]
    return out


def changes(value: Any) -> list[Any]:
    """Values a forger might put instead: near ones, and words that are still readable."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [value * (1 + 1e-6) + 1e-7, -value if value else 1.0]
    if value is None:
        return [0.5]
    if re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", value):
        return [value[:-2] + ("1" if value[-2] == "0" else "0") + "Z"]
    words = [group[(group.index(value) + 1) % len(group)] for group in ENUMERATIONS if value in group]
    return words or [f"{value}x"]


@dataclass(frozen=True)
class RecordFile:
    """How a record file is read and written."""

    name: str
    load: Callable[[str], Any]
    dump: Callable[[Any], str]

    def read(self, run: Path) -> Any:
        """Its JSON value."""
        return self.load((run / self.name).read_text(encoding="utf-8"))

    def write(self, run: Path, whole: Any) -> None:
        """Put an edited value."""
        (run / self.name).write_text(self.dump(whole), encoding="utf-8")


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def _as_lines(whole: list[Any]) -> str:
    return "".join(json.dumps(item) + "\n" for item in whole)


FILES = {
    name: RecordFile(name, _lines if name.endswith("l") else json.loads, _as_lines if name.endswith("l") else json.dumps)
    for name in ("run.json", "sensor.json", "baseline.json", "windows.jsonl", "results.jsonl", "claims.jsonl")
}
