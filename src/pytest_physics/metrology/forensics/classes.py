"""Quality classes: each window must fall into exactly one, and the printed class must be the one that the rules give.

A rule is a box: ranges of sample count, gap fraction and duration. Rules that overlap give one window two classes, rules that leave holes
give it none. Both are found exactly, by trying one point in every cell that the rules' bounds cut out.

Assumes that the rules are meant to be read without an order; rules that are tried in order are declared ``ordered``, and may overlap.
False alarms: none by construction.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding

CLASS_RULES = Check(
    name="class rules",
    needs="the conditions of every quality class",
    proves="that some windows fall into no class, or into two",
)
CLASS_ROWS = Check(
    name="class of a row",
    needs="the conditions of every class, and rows with counts and their printed class",
    proves="that a printed class is not the one its own rules give",
)

Range = tuple[float, float]
"""Lowest and highest value that belongs, both included; "above 0.1" begins at the next number after 0.1."""
SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One class: every named quantity must lie in its range; a quantity without a range is free."""

    name: str
    ranges: Mapping[str, Range]

    def holds(self, point: Mapping[str, float]) -> bool:
        """Whether ``point`` belongs to this class."""
        return all(low <= point[key] <= high for key, (low, high) in self.ranges.items())


def classes_of(rules: Sequence[Rule], point: Mapping[str, float], *, ordered: bool = False) -> list[str]:
    """Names of the classes of ``point``; only the first where rules are tried in order."""
    found = list(dict.fromkeys(rule.name for rule in rules if rule.holds(point)))
    return found[:1] if ordered else found


def class_rules(rules: Sequence[Rule], *, whole: Sequence[str] = ("samples",), ordered: bool = False) -> Finding:
    """Try every cell; ``whole`` names quantities that are whole numbers."""
    axes = {key: _points(rules, key, whole=key in whole) for key in sorted({k for rule in rules for k in rule.ranges})}
    none: list[str] = []
    several: list[str] = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        found = classes_of(rules, point, ordered=ordered)
        text = ", ".join(f"{k} {v:.4g}" for k, v in point.items())
        if not found:
            none.append(f"{text}: no class")
        elif len(found) > 1:
            several.append(f"{text}: {' and '.join(found)}")
    steps = (*none[:SHOWN], *several[:SHOWN])
    cells = math.prod(map(len, axes.values()))
    if none or several:
        holes = f"{len(none)} of {cells} cases fall into no class" if none else ""
        doubles = f"{len(several)} of {cells} cases fall into two classes" if several else ""
        return CLASS_RULES.finding(Effect.CONTRADICTS, " and ".join(filter(None, [holes, doubles])), *steps)
    return CLASS_RULES.finding(Effect.CONFIRMS, f"each of {cells} cases falls into exactly one class")


def class_row(rules: Sequence[Rule], row: Mapping[str, Range], printed: str, *, label: str, ordered: bool = False) -> Finding:
    """Whether some window within the ranges of ``row`` can have its printed class; quantities not in the row are free."""
    keys = {k for rule in rules for k in rule.ranges}
    axes = {key: _within(_points(rules, key, whole=key == "samples"), row.get(key, (-math.inf, math.inf))) for key in sorted(keys)}
    found: dict[str, str] = {}
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        for name in classes_of(rules, point, ordered=ordered) or ["no class"]:
            found.setdefault(name, ", ".join(f"{k} {v:.4g}" for k, v in point.items()))
    steps = tuple(f"{text}: {name}" for name, text in found.items())
    where = ", ".join(f"{k} {low:g}–{high:g}" for k, (low, high) in row.items())
    if printed not in found:
        return CLASS_ROWS.finding(
            Effect.CONTRADICTS, f"{label} ({where}) is printed as {printed}; the rules give {' or '.join(found)}", *steps
        )
    if len(found) > 1:
        return CLASS_ROWS.finding(Effect.CONSISTENT, f"{label} ({where}) can be {' or '.join(found)}; printed {printed}", *steps)
    return CLASS_ROWS.finding(Effect.CONFIRMS, f"{label} ({where}) is {printed}, as printed", *steps)


def _points(rules: Sequence[Rule], key: str, *, whole: bool) -> list[float]:
    """One value on every bound of ``key`` and one between neighbouring bounds: together they meet every cell."""
    bounds = sorted({b for rule in rules if key in rule.ranges for b in rule.ranges[key] if math.isfinite(b)})
    if whole:
        return sorted({max(0.0, math.floor(b) + d) for b in bounds for d in (-1, 0, 1, 2)})
    between = [(a + b) / 2 for a, b in itertools.pairwise(bounds)]
    return sorted({*bounds, *between, bounds[-1] + 1} | ({bounds[0] / 2} if bounds[0] > 0 else set()))


def _within(points: list[float], limits: Range) -> list[float]:
    low, high = limits
    ends = [end for end in limits if math.isfinite(end)]
    return sorted({p for p in points if low <= p <= high} | set(ends)) or points
