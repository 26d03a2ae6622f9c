"""Every error a user can meet, in one place.

Messages follow one pattern: what was wrong (measured value, limit, unit), where, and what to do.
Verdict errors end a pytest item; the rest end an operation.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PhysicsError(Exception):
    """Base of all errors of this package."""


class ConfigurationError(PhysicsError):
    """An option, a configuration file or a marker cannot be used as written."""


class DeviceUnavailableError(PhysicsError):
    """The device asked for is not there, or its driver does not answer."""


class DeviceBusyError(PhysicsError):
    """Another run holds the device's lock."""


class ChannelUnavailableError(PhysicsError):
    """The rig has no such channel; a claim that needs it is NOT_TESTED."""

    def __init__(self, message: str, *, channel: str = "") -> None:
        super().__init__(message)
        self.channel = channel


class ArmNotTestedError(ChannelUnavailableError):
    """An arm of a sweep cannot run on this rig, such as a batch that does not fit; a claim that needs it is NOT_TESTED."""


class SamplerError(PhysicsError):
    """The sampler could not start, or does not answer."""


class RecordError(PhysicsError):
    """A run directory cannot be created, written, read or trusted."""


class UnitError(PhysicsError):
    """Quantities of different units were added or compared."""


class RefutedClaim(AssertionError):  # noqa: N818 -- it is a verdict, and pytest prints the class name
    """The gates are green and the claim fails with its guard band."""


class InvalidMeasurement(Exception):  # noqa: N818 -- it is a verdict; not an AssertionError, so that Allure says "broken"
    """A needed gate failed: the measurement cannot speak."""


class InconclusiveMeasurement(Exception):  # noqa: N818 -- it is a verdict
    """The gates are green and the interval straddles the limit."""


def excerpt(value: object, limit: int = 80) -> str:
    """``repr`` of somebody else's object in at most ``limit`` characters.

    >>> excerpt("x" * 100, limit=8)
    "'xxxxxx…"
    """
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def nearest(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for a close match, else nothing: a wild guess would be noise.

    >>> nearest("twim", ["twin", "nvml"])
    " (did you mean 'twin'?)"
    >>> nearest("abacus", ["twin", "nvml"])
    ''
    """
    match = nearest_name(word, known)
    return f" (did you mean {match!r}?)" if match else ""


def nearest_name(word: str, known: Iterable[str], *, cutoff: float = 0.4) -> str | None:
    """The known name that was probably meant: one that begins like ``word``, else the most similar; None below ``cutoff``.

    >>> nearest_name("rtx4080", ["rtx3090", "rtx4080-laptop"])
    'rtx4080-laptop'
    """
    names = sorted(known)
    begins = [name for name in names if len(word) > 1 and name.startswith(word)]
    matches = difflib.get_close_matches(word, begins or names, n=1, cutoff=0.0 if begins else cutoff)
    return matches[0] if matches else None
