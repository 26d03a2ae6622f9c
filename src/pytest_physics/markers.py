"""What a test says about itself in its markers: its claim, the channels it needs, its energy budget.

Everything is read and checked at collection, so that a misspelt marker is a ``UsageError`` that names the test, and not a surprise in
the middle of a run.

Ids of claims are unique in a run. An ``id`` given to a parametrised test is completed by the case (``gain`` becomes ``gain-8``). Without
one, the id is made from the node id, and from nothing else, so that it is the same whatever else is collected; where two node ids differ
only in what an id leaves out, both get a digest.
"""

from __future__ import annotations

import hashlib
import math
import numbers
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from pytest_physics.claims import ClaimStatement, slug
from pytest_physics.devices.base import CHANNELS
from pytest_physics.errors import excerpt, nearest

INSTRUMENTS = ("gpu", "cpu")
"""Names that an instrument can have."""

_Parsed = TypeVar("_Parsed")
_CLAIM = pytest.StashKey[ClaimStatement]()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimArguments:
    """Arguments of a claim marker."""

    statement: str | None = None
    id: str | None = None
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyBudget:
    """Arguments of an ``energy_budget`` marker."""

    joules: float
    instrument: str
    net: bool
    per: str | None = None
    """Work of which the budget is for one, in the singular: "token"; None for the whole test."""

    @property
    def sentence(self) -> str:
        """What the budget claims, for a test that does not say it itself."""
        each = f" per {self.per}" if self.per else ""
        return f"takes at most {self.joules:g} J{each} ({'net' if self.net else 'gross'} energy of '{self.instrument}')"


@dataclass(frozen=True, slots=True, kw_only=True)
class VramBudget:
    """Arguments of a ``vram_budget`` marker."""

    gib: float
    instrument: str


# --- signatures: each has the name of its marker, which Python puts into its own messages -------------------------------


def claim(statement: str | None = None, *, id: str | None = None, requires: str | Sequence[str] = ()) -> ClaimArguments:  # noqa: A002 -- reads best in the marker
    """Signature of the claim marker."""
    if not isinstance(requires, Iterable):
        raise TypeError(f"'requires' must be the id of a claim, or several (got {excerpt(requires)})")
    names = (requires,) if isinstance(requires, str) else tuple(requires)
    texts: list[tuple[str, object]] = [("statement", statement), ("id", id), *(("requires", name) for name in names)]
    for what, text in texts:
        if text is None and what != "requires":
            continue
        if not isinstance(text, str) or not text.strip():
            raise TypeError(f"'{what}' must be a text (got {excerpt(text)})")
        _require_utf8(what, text)
    if id is not None and "#" in id:
        raise ValueError(f"'id' must not contain '#', which numbers the comparisons of one claim (got {id!r})")
    return ClaimArguments(statement=statement, id=id, requires=names)


def needs(*channels: str) -> tuple[str, ...]:
    """Signature of the needs marker."""
    known = [*INSTRUMENTS, *(f"{instrument}.{channel}" for instrument in INSTRUMENTS for channel in CHANNELS)]
    if not channels:
        raise TypeError("needs() names no channel")
    for name in channels:
        if name not in known:
            raise ValueError(f"there is no channel {name!r}{nearest(str(name), known)}")
    return channels


def energy_budget(joules: float, *, instrument: str = "gpu", net: bool = False, per: str | None = None) -> EnergyBudget:
    """Signature of the energy_budget marker."""
    if per is not None and not str(per).isidentifier():
        raise ValueError(f"'per' must name counted work, such as 'token' (got {per!r})")
    if not isinstance(net, bool):
        raise TypeError(f"'net' must be True or False (got {excerpt(net)})")
    _require_budget("joules", joules, instrument)
    return EnergyBudget(joules=float(joules), instrument=instrument, net=net, per=per)


def vram_budget(gib: float, *, instrument: str = "gpu") -> VramBudget:
    """Signature of the vram_budget marker."""
    _require_budget("gib", gib, instrument)
    return VramBudget(gib=float(gib), instrument=instrument)


def _require_budget(what: str, amount: object, instrument: object) -> None:
    if isinstance(amount, bool) or not isinstance(amount, numbers.Real):
        raise TypeError(f"'{what}' must be a number (got {excerpt(amount)})")
    if not (math.isfinite(amount) and float(amount) > 0):
        raise ValueError(f"'{what}' must be > 0 and finite (got {amount})")
    if instrument not in INSTRUMENTS:
        raise ValueError(
            f"there is no instrument {instrument!r}{nearest(str(instrument), INSTRUMENTS)}; choose one of {', '.join(INSTRUMENTS)}"
        )


def _require_utf8(what: str, text: str) -> None:
    """Records are files in UTF-8, and a lone surrogate cannot be written there."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"'{what}' is not valid text; use characters that UTF-8 can write (got {excerpt(text)})") from None


# --- reading ---------------------------------------------------------------------------------------------------------


def claim_arguments(item: pytest.Item) -> ClaimArguments:
    """Arguments of the claim marker of the case, or else of the nearest one; empty without one."""
    marker = _nearest_marker(item, "claim")
    return _read(marker, item, claim, "claim('statement', id='…', requires=['…'])") if marker else ClaimArguments()


def needed_channels(item: pytest.Item) -> list[str]:
    """Channels that all ``needs`` markers of a test name."""
    markers = list(item.iter_markers("needs"))
    return [name for marker in markers for name in _read(marker, item, needs, "needs('gpu.power_w')")]


def energy_budget_of(item: pytest.Item) -> EnergyBudget | None:
    """Budget of the case's ``energy_budget`` marker, or else of the nearest one."""
    marker = _nearest_marker(item, "energy_budget")
    return _read(marker, item, energy_budget, "energy_budget(joules=5.0)") if marker else None


def vram_budget_of(item: pytest.Item) -> VramBudget | None:
    """Budget of the case's ``vram_budget`` marker, or else of the nearest one."""
    marker = _nearest_marker(item, "vram_budget")
    return _read(marker, item, vram_budget, "vram_budget(gib=2.0)") if marker else None


def is_claim(item: pytest.Item) -> bool:
    """Whether a test must end in a verdict: it is marked as a claim, has a budget, or asks for the judge."""
    marked = any(item.get_closest_marker(name) for name in ("claim", "energy_budget", "vram_budget"))
    return marked or "judge" in getattr(item, "fixturenames", ())


def claim_of(item: pytest.Item) -> ClaimStatement:
    """What a collected test claims."""
    return item.stash[_CLAIM]


def read_markers(items: Sequence[pytest.Item]) -> None:
    """Check all markers and give every test its claim; raises ``UsageError`` that names the test."""
    given: dict[str, str] = {}
    for item in items:
        needed_channels(item)
        energy_budget_of(item)
        vram_budget_of(item)
        name = _given_id(item)
        if name and given.setdefault(name, item.nodeid) != item.nodeid:
            raise pytest.UsageError(
                f"claim id '{name}' of {item.nodeid} is already used by {given[name]}; give one of them another id=… in its claim marker"
            )
    shared = Counter([*given, *(slug(item.nodeid) for item in items if not _given_id(item))])
    for item in items:
        name = slug(item.nodeid)
        default = name if shared[name] == 1 else f"{name}-{hashlib.sha256(item.nodeid.encode()).hexdigest()[:8]}"
        item.stash[_CLAIM] = _statement(item, _given_id(item) or default)


def _given_id(item: pytest.Item) -> str | None:
    """The id in a claim marker; one that stands for all cases of a parametrised test is completed by the case."""
    name = claim_arguments(item).id
    case = getattr(item, "callspec", None)
    return name if name is None or case is None or _markers_of_case(item, "claim") else f"{name}-{slug(case.id)}"


def _nearest_marker(item: pytest.Item, name: str) -> pytest.Mark | pytest.MarkDecorator | None:
    """The marker of the case, or else of the nearest node; two of a kind in one place are a ``UsageError``: one would be passed over."""
    node = next((node for node, _ in item.iter_markers_with_node(name)), None)
    found = _markers_of_case(item, name) or (_markers_at(node, name) if node is not None else [])
    if len(found) > 1:
        place = "" if node is item else f" (at {node.nodeid})" if node is not None else ""
        raise pytest.UsageError(
            f"{item.nodeid}: {len(found)} markers '{name}' in one place{place}, of which a test can have one; keep one, and make a test of "
            "its own for each of the others"
        )
    return found[0] if found else None


def _markers_of_case(item: pytest.Item, name: str) -> list[pytest.Mark | pytest.MarkDecorator]:
    """Markers in ``pytest.param(…, marks=…)``, which pytest lists after the function's."""
    case = getattr(item, "callspec", None)
    return [mark for mark in case.marks if mark.name == name] if case else []


def _markers_at(node: Any, name: str) -> list[pytest.Mark | pytest.MarkDecorator]:  # noqa: ANN401 -- pytest's class is private
    """Markers of one node; of a class its own, before those of its bases, which pytest lists first."""
    for holder in node.obj.__mro__ if isinstance(node, pytest.Class) else ():
        own = vars(holder).get("pytestmark", ())
        found = [mark for mark in (own if isinstance(own, Sequence) else [own]) if mark.name == name]
        if found:
            return found
    return [mark for mark in node.own_markers if mark.name == name]


def _statement(item: pytest.Item, claim_id: str) -> ClaimStatement:
    arguments = claim_arguments(item)
    documentation = (getattr(getattr(item, "obj", None), "__doc__", None) or "").strip().partition("\n")[0]
    documentation = documentation.encode(errors="replace").decode()  # as _require_utf8, for a text that was not written for a record
    file, line, _ = item.location
    return ClaimStatement(
        id=claim_id,
        statement=arguments.statement or documentation or _default_statement(item),
        test=item.nodeid,
        source=f"{file}:{(line or 0) + 1}",
        requires=arguments.requires,
    )


def _default_statement(item: pytest.Item) -> str:
    """The test's name in words, and its budget where it has one."""
    name = item.name.removeprefix("test_").replace("_", " ")
    budget = energy_budget_of(item)
    return f"{name} {budget.sentence}" if budget else name


def _read(marker: pytest.Mark | pytest.MarkDecorator, item: pytest.Item, signature: Callable[..., _Parsed], example: str) -> _Parsed:
    try:
        return signature(*marker.args, **marker.kwargs)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}; write @pytest.mark.{example}") from None
