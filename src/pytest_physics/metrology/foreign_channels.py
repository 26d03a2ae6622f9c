"""Channels of one sample of another process's work, and names as numbers; without numpy, because the sampler's process loads this."""

from __future__ import annotations

FOREIGN_WORK = ("foreign_sm_ratio", "foreign_pid", "foreign_age_s", "foreign_name_1", "foreign_name_2")
"""Channels of one sample of a foreign process's work."""
_NAME_BYTES = 6
"""Bytes of a name in one channel: what a float64 holds exactly."""


def packed_name(name: str) -> tuple[float, float]:
    """The first twelve bytes of a process's name as the channels ``foreign_name_1`` and ``foreign_name_2``; zeros for none."""
    raw = name.encode(errors="replace").ljust(2 * _NAME_BYTES, b"\0")
    return float(int.from_bytes(raw[:_NAME_BYTES])), float(int.from_bytes(raw[_NAME_BYTES : 2 * _NAME_BYTES]))


def unpacked_name(first: float, second: float) -> str:
    """Inverse of :func:`packed_name`; numbers that are no name, as in an edited trace, are shown as none."""
    parts = [int(part) if 0 <= part < 256**_NAME_BYTES else 0 for part in (first, second)]  # NaN compares false
    text = b"".join(part.to_bytes(_NAME_BYTES) for part in parts).rstrip(b"\0").decode(errors="replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
