"""A finding: what one check says about one statement, with its arithmetic step by step.

A check never judges a claim; it says how its result bears on one. A contradiction is deduced from the numbers themselves and needs no
trust in any instrument. An invalidation says that the measurement could not have shown what it is said to show. Whatever a check cannot
say without one more number, it asks for.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class Effect(StrEnum):
    """How a finding bears on a statement that says what was checked."""

    CONFIRMS = "confirms"
    """The statement follows from the other numbers."""
    CONSISTENT = "is consistent"
    """The numbers can be true together; that does not make them true."""
    LACKS = "lacks a number"
    """The check needs a number that was not given."""
    UNDECIDED = "leaves open"
    """The numbers allow the statement and its opposite."""
    INVALIDATES = "invalidates"
    """The measurement could not have shown this."""
    CONTRADICTS = "contradicts"
    """The numbers cannot be true together."""

    @property
    def accuses(self) -> bool:
        """Whether a sound report would be harmed by it: what counts as a false alarm."""
        return self in {Effect.INVALIDATES, Effect.CONTRADICTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Result of one check."""

    check: str
    """Name in the catalogue."""
    effect: Effect
    sentence: str
    """What was found, with the numbers, in one sentence."""
    steps: tuple[str, ...] = ()
    """The arithmetic, one line each; anyone can repeat it."""
    needs: str = ""
    """The datum that would decide, where this one does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One kind of check, as the catalogue describes it."""

    name: str
    needs: str
    """Which numbers it needs."""
    proves: str
    """What follows where it finds something."""

    def finding(self, effect: Effect, sentence: str, *steps: str, needs: str = "") -> Finding:
        """A finding of this check."""
        return Finding(check=self.name, effect=effect, sentence=_tidy(sentence), steps=tuple(_tidy(step) for step in steps), needs=needs)

    def lacks(self, needs: str) -> Finding:
        """The finding that a number is missing."""
        return self.finding(Effect.LACKS, f"not checked, because this is not given: {needs}", needs=needs)


def _tidy(text: str) -> str:
    """Without the spaces that an empty word or unit leaves."""
    return re.sub(r" +([,;:)]|$)", r"\1", re.sub(r" {2,}", " ", text))


class Printed(float):
    """A number as it was printed: its value and how many decimals stand behind the point, which say how it was rounded."""

    __slots__ = ("decimals",)
    decimals: int

    def __new__(cls, value: float, decimals: int | None = None) -> Self:
        """``decimals`` None: those of the shortest text that reads back as ``value``."""
        self = super().__new__(cls, value)
        self.decimals = decimals_of(repr(float(value))) if decimals is None else decimals
        return self

    @property
    def half(self) -> float:
        """Half a unit of the last printed place: how far the exact value may be away."""
        return half_unit(self)


def decimals_of(text: str) -> int:
    """Decimals of a number as written; negative where an exponent moves the point beyond the last digit.

    >>> decimals_of("20.70"), decimals_of("48"), decimals_of("1.5e-3")
    (2, 0, 4)
    """
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return 0 if text.endswith(".0") and not exponent else decimals


def half_unit(value: float) -> float:
    """Half a unit of the last place of ``value`` as printed, and what double precision loses in a sum."""
    decimals = value.decimals if isinstance(value, Printed) else decimals_of(repr(float(value)))
    return 0.5 * 10.0**-decimals + 16 * math.ulp(abs(value))
