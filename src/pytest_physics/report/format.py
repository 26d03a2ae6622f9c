"""Numbers as people read them: the only place of this package that rounds.

An estimate is shown with two significant digits of its expanded uncertainty U, and its value to the same decimal place (GUM, JCGM 100:2008,
7.2.6). Seconds, joules, watts, hertz and bytes take the SI prefix that leaves one to three digits before the point. A number that does not
exist is a dash, never a zero. Nothing here is read back: verdicts and figures use the unrounded numbers.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

ABSENT = "–"
"""Shown where a number does not exist."""
MINUS = "\N{MINUS SIGN}"
THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"

_PREFIXES = {-9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}
_EXPONENTS = {"J": (-9, 9), "W": (-6, 6), "s": (-9, 0), "Hz": (0, 9), "byte": (0, 12)}
"""Symbols that take a prefix, with the smallest and largest power of ten: nobody says kiloseconds or millibytes."""
_SHOWN_SYMBOLS = {"byte": "B", "C": "°C", "degC": "°C"}
_OPERATORS = {"<=": "≤", ">=": "≥", "<": "<", ">": ">"}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A unit with its prefix, and the factor that converts into it."""

    factor: float
    """Multiply a number in SI by this."""
    unit: str
    """What then stands behind it; empty for a ratio."""


def scale_for(magnitude: float | None, unit: str) -> Scale:
    """Unit with the prefix that suits ``magnitude`` (in ``unit``).

    >>> scale_for(0.000482, "J/token")
    Scale(factor=1000000.0, unit='µJ/token')
    """
    head, *under = unit.split("/")
    if magnitude is None or not math.isfinite(magnitude) or head not in _EXPONENTS:
        return Scale(factor=1.0, unit=shown_unit(unit))
    low, high = _EXPONENTS[head]
    exponent = min(max(3 * math.floor(_decade(magnitude) / 3), low), high) if magnitude else 0
    shown = _PREFIXES[exponent] + shown_unit(head)
    return Scale(factor=10.0**-exponent, unit="/".join([shown, *map(shown_unit, under)]))


def shown_unit(unit: str) -> str:
    """Unit as it is printed: ``"1"`` is nothing, degrees have their sign."""
    if unit in {"", "1"}:
        return ""
    return "/".join("·".join(_SHOWN_SYMBOLS.get(s, s) for s in part.split("·")) for part in unit.split("/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An estimate in three parts, rounded."""

    value: str
    expanded: str
    """``± U``; empty where the number is exact, or has no uncertainty."""
    unit: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.value, self.expanded, self.unit) if part)


def quantity(value: float | None, expanded: float | None, unit: str, scale: Scale | None = None) -> Shown:
    """``value`` ± ``expanded`` to two significant digits of the latter.

    >>> str(quantity(0.0123456, 0.00021, "J/token"))
    '12.35 ± 0.21 mJ/token'
    """
    if value is None or not math.isfinite(value):
        return Shown(value="no value", expanded="", unit="")
    used = scale or scale_for(max(abs(value), expanded or 0.0), unit)
    if expanded is None or not math.isfinite(expanded) or expanded <= 0:
        return Shown(value=number(value * used.factor, digits=6), expanded="", unit=used.unit)
    scaled, u = value * used.factor, expanded * used.factor
    decimals = decimals_for(u)
    return Shown(value=fixed(scaled, decimals), expanded=f"± {fixed(u, decimals)}", unit=used.unit)


def limit(operator: str | None, value: float | None, unit: str, scale: Scale | None = None) -> str:
    """``"≤ 0.5 J"``; a dash for no limit."""
    if operator is None or value is None:
        return ABSENT
    used = scale or scale_for(value, unit)
    return " ".join(part for part in (_OPERATORS.get(operator, operator), number(value * used.factor, digits=6), used.unit) if part)


def decimals_for(u: float) -> int:
    """Decimal places that show two significant digits of ``u`` > 0; negative for tens and hundreds."""
    return 1 - _decade(float(f"{u:.1e}"))


def fixed(value: float, decimals: int) -> str:
    """``value`` at ``decimals`` places, with a real minus sign and spaces between thousands."""
    if not math.isfinite(value):
        return ABSENT
    if abs(value) >= 1e9 or decimals > 9:
        return number(value)
    rounded = round(value, decimals) + 0.0  # + 0.0 turns −0.0 into 0.0
    return _grouped(f"{rounded:.{max(decimals, 0)}f}")


def number(value: float | None, *, digits: int = 4) -> str:
    """``value`` to ``digits`` significant digits, without trailing zeros; powers of ten where it is very large or small.

    >>> number(0.00000123)
    '1.23×10⁻⁶'
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    text = f"{value:.{digits}g}"
    if "e" not in text:
        return _grouped(text)
    mantissa, exponent = text.split("e")
    if int(exponent) in range(digits, 7):  # four digits of 123456 are 123500, not a power of ten
        return _grouped(f"{float(text):.0f}")
    return f"{mantissa}×10{str(int(exponent)).translate(_SUPERSCRIPTS)}".replace("-", MINUS)


def signed(value: float | None, scale: Scale, decimals: int | None = None) -> str:
    """A difference with its sign."""
    if value is None:
        return ABSENT
    scaled = value * scale.factor
    text = number(scaled) if decimals is None else fixed(scaled, decimals)
    return f"+{text}" if scaled > 0 and text != ABSENT else text


def count(n: int) -> str:
    """An integer with spaces between thousands."""
    return f"{n:,}".replace(",", THIN_SPACE)


def plural(n: int, singular: str, more: str | None = None) -> str:
    """``"1 claim"``, ``"2 claims"``."""
    return f"{count(n)} {singular if n == 1 else more or singular + 's'}"


def percent(ratio: float | None) -> str:
    """A ratio in percent to two significant digits; a probability that rounds to 0 or 1 is shown as a bound."""
    if ratio is None or not math.isfinite(ratio):
        return ABSENT
    if 0.999 < ratio < 1:
        return "> 99.9 %"
    if 0 < ratio < 0.001:
        return "< 0.1 %"
    value = 100 * ratio
    return f"{fixed(value, 1 if abs(value) < 10 or 99 < value < 100 else 0)} %"


def duration(seconds: float | None) -> str:
    """``"850 ms"``, ``"12.4 s"``, ``"6 min 12 s"``, ``"1 h 02 min"``."""
    if seconds is None or not math.isfinite(seconds):
        return ABSENT
    if seconds < 60:
        scale = scale_for(seconds, "s")
        return f"{number(seconds * scale.factor, digits=3)} {scale.unit}"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def size(n_bytes: int) -> str:
    """File size with a decimal prefix."""
    scale = scale_for(float(n_bytes), "byte")
    return f"{number(n_bytes * scale.factor, digits=3)} {scale.unit}"


def printable(text: str, limit: int = 60) -> str:
    """``text`` as one line without control characters, shortened to ``limit``: names come from files, and a name may hold anything."""
    line = "".join(c if c.isprintable() else " " for c in text).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def slug(text: str) -> str:
    """``text`` as a fragment identifier of ASCII letters, digits and dashes; names that would collide get digits of their hash.

    >>> slug("joule curve"), slug("decode-8")
    ('joule-curve-8111', 'decode-8')
    """
    kept = "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text).split())
    return kept if kept and kept == text else f"{kept or 'x'}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:4]}"


def _decade(value: float) -> int:
    """Exponent of the leading digit; from the printed form, because log10(1e-06) is a little less than −6."""
    return int(f"{value:.15e}".partition("e")[2])


def _grouped(text: str) -> str:
    whole, point, fraction = text.removeprefix("-").partition(".")
    if len(whole) > 4:
        whole = f"{int(whole):,}".replace(",", THIN_SPACE)
    return (MINUS if text.startswith("-") else "") + whole + point + fraction
