"""What ``verify`` finds: one difference at a time, and how two JSON values are compared."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

RELATIVE_TOLERANCE = 1e-9
"""Numbers may differ by this much between machines and library versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One difference between what is recorded and what follows from the raw artifacts."""

    where: str
    """File and entry."""
    problem: str
    """Recorded and recomputed value, or what is missing."""


Items = Iterator[Finding | None]
"""What a check yields: a finding, or None for each item it has looked at."""


def differences(where: str, recorded: Any, computed: Any) -> Iterator[Finding]:  # noqa: ANN401 -- any JSON value
    """Where two JSON values differ, by path; numbers within the tolerance are equal."""
    if isinstance(recorded, dict) and isinstance(computed, dict):
        for key in sorted(recorded.keys() | computed.keys()):
            yield from differences(f"{where}.{key}", recorded.get(key), computed.get(key))
    elif isinstance(recorded, list) and isinstance(computed, list):
        if len(recorded) != len(computed):
            yield Finding(where=where, problem=f"has {len(recorded)} entries, recomputed {len(computed)}")
        for index, pair in enumerate(zip(recorded, computed, strict=False)):
            yield from differences(f"{where}[{index}]", *pair)
    elif not _same(recorded, computed):
        yield Finding(where=where, problem=f"is {recorded!r}, recomputed {computed!r}")


def _same(recorded: object, computed: object) -> bool:
    if isinstance(recorded, bool) or isinstance(computed, bool):
        return recorded is computed
    if isinstance(recorded, int) and isinstance(computed, int):
        return recorded == computed  # times in nanoseconds, counts
    if isinstance(recorded, int | float) and isinstance(computed, int | float):
        return math.isclose(recorded, computed, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-12)
    return recorded == computed
