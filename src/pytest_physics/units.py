"""Units as products of symbols with integer exponents, enough to refuse a sum of joules and seconds.

``W`` is kept as ``J/s``, so power × time is energy. Counted things (token, iteration, byte) are units like any other.

>>> str(Unit.parse("W") * Unit.parse("s"))
'J'
>>> str(Unit.parse("J") / Unit.parse("token"))
'J/token'
>>> Unit.parse("J/s") == Unit.parse("W")
True
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from pytest_physics.errors import UnitError


@dataclass(frozen=True, slots=True)
class Unit:
    """A product of symbols: ``(("J", 1), ("token", -1))``, sorted, without zero exponents."""

    powers: tuple[tuple[str, int], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Unit:
        """Read ``"J/token"``, ``"W"``, ``"1"``; symbols are joined by ``·`` and divided by ``/``."""
        exponents: Counter[str] = Counter()
        for position, part in enumerate(text.split("/")):
            for symbol in part.split("·"):
                _add_symbol(exponents, symbol.strip(), -1 if position else 1)
        return cls._of(exponents)

    @classmethod
    def _of(cls, exponents: Counter[str]) -> Unit:
        return cls(tuple(sorted((symbol, n) for symbol, n in exponents.items() if n)))

    def _combined(self, other: Unit, sign: int) -> Unit:
        exponents = Counter(dict(self.powers))
        for symbol, n in other.powers:
            exponents[symbol] += sign * n
        return Unit._of(exponents)

    def __mul__(self, other: Unit) -> Unit:
        return self._combined(other, 1)

    def __truediv__(self, other: Unit) -> Unit:
        return self._combined(other, -1)

    def require_same(self, other: Unit, action: str) -> None:
        """Raise :class:`UnitError` unless both units are equal."""
        if self != other:
            raise UnitError(f"cannot {action} quantities in {self} and {other}; convert one of them first.")

    def __str__(self) -> str:
        if self.powers == (("J", 1), ("s", -1)):
            return "W"
        over = [_power(symbol, n) for symbol, n in self.powers if n > 0]
        under = [_power(symbol, -n) for symbol, n in self.powers if n < 0]
        return "/".join(["·".join(over) or "1", *under])


def _add_symbol(exponents: Counter[str], symbol: str, sign: int) -> None:
    if symbol in {"", "1"}:
        return
    name, _, exponent = symbol.partition("^")
    n = sign * (int(exponent) if exponent else 1)
    if name == "W":
        exponents["J"] += n
        exponents["s"] -= n
    else:
        exponents[name] += n


def _power(symbol: str, exponent: int) -> str:
    return symbol if exponent == 1 else f"{symbol}^{exponent}"


def quantity_text(value: float | None, expanded: float | None, unit: str) -> str:
    """A quantity with its expanded uncertainty to two significant digits.

    >>> quantity_text(12.3456, 0.4321, "J")
    '12.35 ± 0.43 J'
    >>> quantity_text(None, None, "J")
    'no value J'
    """
    suffix = "" if unit == "1" else f" {unit}"
    if value is None or not math.isfinite(value):
        return f"no value{suffix}"
    if not expanded or not math.isfinite(expanded):
        return f"{value:.6g}{suffix}"
    digits = max(0, 1 - math.floor(math.log10(expanded)))
    if digits > 7 or abs(value) >= 1e6:
        return f"{value:.4g} ± {expanded:.2g}{suffix}"
    return f"{value:.{digits}f} ± {expanded:.{digits}f}{suffix}"
