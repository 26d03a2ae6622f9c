"""What can go wrong, on order: each fault has a kind, a span of time and a value.

Some change what happens (a foreign process draws power, a slowdown lowers clocks), some what is read (a latched value, a failed
call). Only the second sort is implemented here, as functions of the time of reading; the first belongs to the physics. Spans are
in seconds since the device was opened. An unknown kind, and a span or a value that would be ignored, are configuration errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pytest_physics.devices.base import CHANNELS, ERROR_OTHER
from pytest_physics.devices.twin.draws import uniform
from pytest_physics.errors import ConfigurationError, nearest

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

GPU_IS_LOST = 15
"""``NVML_ERROR_GPU_IS_LOST``."""
POWER_CHANNELS = ("power_w", "power_average_w")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultKind:
    """What a kind of fault does, and what it needs."""

    effect: str
    when: Literal["span", "start", "always"] = "span"
    """A span [start, stop); from the start on; or the whole life of the device."""
    value: float | str | None = None
    """Default of the value; None where the kind takes none."""
    limits: tuple[float, float] = (-math.inf, math.inf)
    """Smallest and largest value."""


FAULT_KINDS: Mapping[str, FaultKind] = {
    "read_error": FaultKind(effect="this share of reads fails with NVML_ERROR_UNKNOWN", value=0.05, limits=(0.0, 1.0)),
    "channel_absent": FaultKind(effect="the card has no such channel", when="always", value="energy_j"),
    "stale": FaultKind(effect="every reading stays what it was at the start: the driver answers from a cache"),
    "sensor_stall": FaultKind(effect="the power sensors publish nothing new; all else goes on"),
    "averaging": FaultKind(
        effect="power_w averages over this many seconds, as after a driver update that gave the channel another meaning",
        when="start",
        value=1.0,
        limits=(1e-3, 10.0),
    ),
    "polling": FaultKind(effect="while the card is polled its idle power is higher by this many watts", value=1.0, limits=(0.0, 1000.0)),
    "counter_reset": FaultKind(effect="the energy counter begins at 0 again", when="start"),
    "counter_half_rate": FaultKind(effect="the energy counter counts half of the energy"),
    "spike": FaultKind(effect="power reads as this many watts", value=1.2, limits=(0.0, math.inf)),
    "bimodal_idle": FaultKind(effect="idle power jumps by this many watts, at the same P-state and clocks", value=20.0),
    "foreign_process": FaultKind(effect="another process adds this utilisation and share of dynamic power", value=0.3, limits=(0.0, 1.0)),
    "lost": FaultKind(effect="every read fails with NVML_ERROR_GPU_IS_LOST", when="start"),
    "thermal_slowdown": FaultKind(effect="the driver slows the clock to this share of boost", value=0.7, limits=(0.05, 1.0)),
}
"""Every kind of fault."""


def unknown(word: str, known: Iterable[str], *, what: str) -> ConfigurationError:
    """The error for an unknown ``word``, naming the nearest known one."""
    names = sorted(known)
    return ConfigurationError(f"unknown {what} '{word}'{nearest(word, names)}; known: {', '.join(names) or 'none'}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of a twin."""

    kind: str
    """One of :data:`FAULT_KINDS`."""
    start_s: float = 0.0
    """Begin, in seconds since the device was opened."""
    stop_s: float = math.inf
    """End."""
    value: float | str | None = None
    """Strength; its meaning and default depend on the kind."""

    def __post_init__(self) -> None:
        """Refuse what would be ignored."""
        if self.kind not in FAULT_KINDS:
            raise unknown(self.kind, FAULT_KINDS, what="kind of fault")
        kind = FAULT_KINDS[self.kind]
        if not 0 <= self.start_s < self.stop_s:
            raise ConfigurationError(f"fault '{self.kind}' must have 0 <= start_s < stop_s (got {self.start_s} and {self.stop_s}).")
        if kind.when != "span" and math.isfinite(self.stop_s):
            raise ConfigurationError(f"fault '{self.kind}' does not end: leave out 'stop_s' (got {self.stop_s}).")
        if kind.when == "always" and self.start_s > 0:
            raise ConfigurationError(f"fault '{self.kind}' holds from the beginning: leave out 'start_s' (got {self.start_s}).")
        self._check_value(kind)

    def _check_value(self, kind: FaultKind) -> None:
        if kind.value is None and self.value is not None:
            raise ConfigurationError(f"fault '{self.kind}' takes no value (got {self.value!r}).")
        if isinstance(kind.value, str):
            if self.channel not in CHANNELS:
                raise unknown(self.channel, CHANNELS, what="channel")
        elif kind.value is not None and (isinstance(self.value, str) or not kind.limits[0] <= self.number <= kind.limits[1]):
            raise ConfigurationError(f"'value' of fault '{self.kind}' must be a number within {kind.limits} (got {self.value!r}).")

    @property
    def channel(self) -> str:
        """The value, of a fault that names a channel."""
        return str(FAULT_KINDS[self.kind].value if self.value is None else self.value)

    @property
    def number(self) -> float:
        """The value, of a fault that has a strength."""
        value = FAULT_KINDS[self.kind].value if self.value is None else self.value
        return float(value if value is not None else math.nan)

    def span_ns(self, origin_ns: int) -> tuple[int, int]:
        """Begin and end on the device's clock."""
        stop_s = min(self.stop_s, 9e9)  # the end of int64 nanoseconds
        return origin_ns + round(self.start_s * 1e9), origin_ns + round(stop_s * 1e9)

    def covers(self, t_ns: IntArray | int, origin_ns: int) -> BoolArray:
        """Whether each instant lies in the span; a plain bool for a plain instant."""
        start_ns, stop_ns = self.span_ns(origin_ns)
        inside: BoolArray = (start_ns <= t_ns) & (t_ns < stop_ns)  # type: ignore[assignment]
        return inside

    def to_json(self) -> dict[str, Any]:
        """As a dictionary of JSON values, without what is not set."""
        out: dict[str, Any] = {"kind": self.kind}
        if self.start_s:
            out["start_s"] = self.start_s
        if math.isfinite(self.stop_s):
            out["stop_s"] = self.stop_s
        if self.value is not None:
            out["value"] = self.value
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fault:
        """Inverse of :meth:`to_json`."""
        for key in data:
            if key not in {"kind", "start_s", "stop_s", "value"}:
                raise unknown(key, ("kind", "start_s", "stop_s", "value"), what="key of a fault")
        if "kind" not in data:
            raise ConfigurationError(f"a fault needs a 'kind': one of {', '.join(FAULT_KINDS)} (got {dict(data)}).")
        return cls(**data)


def latched(faults: Sequence[Fault], t_ns: IntArray, origin_ns: int) -> IntArray:
    """The instant whose reading is answered at each instant: earlier where the cache is stale."""
    for fault in faults:
        if fault.kind == "stale":
            t_ns = np.where(fault.covers(t_ns, origin_ns), fault.span_ns(origin_ns)[0], t_ns)
    return t_ns


def spoil(
    faults: Sequence[Fault],
    t_ns: IntArray,
    values: FloatArray,
    errors: NDArray[np.uint16],
    *,
    channels: Sequence[str],
    origin_ns: int,
    seed: int,
) -> None:
    """Put wrong and failed readings into ``values`` and ``errors``, both of shape (N, C), in place."""
    for number, fault in enumerate(faults):
        hit = fault.covers(t_ns, origin_ns)[:, None] & np.ones(len(channels), bool)
        if fault.kind == "spike":
            values[hit & np.isin(channels, POWER_CHANNELS)] = fault.number
        elif fault.kind == "lost":
            errors[hit] = GPU_IS_LOST
        elif fault.kind == "read_error":
            draws = [uniform(seed, f"read_error|{number}|{name}", t_ns) for name in channels]
            failed = hit & (np.column_stack(draws) < fault.number) & (errors == 0)
            errors[failed] = ERROR_OTHER
    values[errors != 0] = np.nan
