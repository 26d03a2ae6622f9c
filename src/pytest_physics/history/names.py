"""Names of metrics, and which way each gets worse.

A metric is one reported quantity with its coordinates: ``joule curve: energy per token (net) [batch 8, instrument gpu, phase decode]``. A
quantity that one run reports more than once, such as the slope of two heat soaks, is told apart by its turn: ``… #2``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from pytest_physics.config import HistorySettings
from pytest_physics.errors import RecordError, nearest_name

COSTS = frozenset({"s", "ms", "J", "kWh", "W", "gCO2e"})
"""Less of them is better; more of anything per one of them is better."""


def metric_name(experiment: str, quantity: str, coordinates: Mapping[str, str | int | float]) -> str:
    """The name of a metric.

    >>> metric_name("joule curve", "time per token", {"phase": "decode", "batch": 8})
    'joule curve: time per token [batch 8, phase decode]'
    """
    where = ", ".join(f"{key} {coordinates[key]}" for key in sorted(coordinates))
    return f"{experiment}: {quantity}" + (f" [{where}]" if where else "")


def numbered(names: Iterable[str]) -> Iterator[str]:
    """Names of one run in its order, repeats told apart.

    >>> list(numbered(["a", "b", "a"]))
    ['a', 'b', 'a #2']
    """
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name} #{seen[name]}"


def matching(word: str, names: Sequence[str]) -> list[str]:
    """Names that ``word`` means: the name itself, else those that match it as a pattern or hold all of its words.

    Raises
    ------
    RecordError
        With the nearest name, where none does.
    """
    if word in names:
        return [word]
    parts = word.casefold().split()
    found = [name for name in names if fits(name, [word]) or (parts and all(part in name.casefold() for part in parts))]
    if found:
        return found
    if not names:
        raise RecordError("the index holds no metric yet; add runs with 'pytest-physics history add RUN…'.")
    near = nearest_name(word, names, cutoff=0.0)
    raise RecordError(f"no metric '{word}' in the index; the nearest of {len(names)} is '{near}'. Words of a name are enough: 'net batch'.")


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name matches one of the patterns; brackets mean themselves."""
    return any(fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in patterns)


def compared(name: str, settings: HistorySettings) -> bool:
    """Whether the settings ask for this metric."""
    return fits(name, settings.metrics) and not fits(name, settings.skip)


def lower_is_better(name: str, unit: str, settings: HistorySettings) -> bool | None:
    """Which way a metric gets worse: True where a rise is worse, False where a fall is, None where neither is known.

    >>> [lower_is_better("x", unit, HistorySettings()) for unit in ("J/token", "token/s", "°C")]
    [True, False, None]
    """
    if fits(name, settings.lower_is_better):
        return True
    if fits(name, settings.higher_is_better):
        return False
    above, _, below = unit.partition("/")
    if COSTS & set(_symbols(below)):
        return False
    return True if COSTS & set(_symbols(above)) else None


def _symbols(text: str) -> list[str]:
    return text.replace("·", "/").split("/")
