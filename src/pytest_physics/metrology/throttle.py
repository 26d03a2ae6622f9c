"""Throttling: for which share of a window the device ran below its clocks, why, and whether it did the work at all.

A polled mask of event reasons misses an episode of length l with probability 1 − l/p at period p, so the cumulative counters
speak where the device has them: their increase between the samples that bracket a window, over that time, is the exact fraction. The
mask is looked at as well; either may refuse. Unknown bits refuse: what is not understood is not benign.

Fails (sees nothing) where a device reports neither: the gate then warns "not checked".

References: NVML header, ``nvmlClocksEventReason*`` and fields 74–81, 269–271; TR122 §1.5 and its contradiction I-27 (no thermal bit was
decoded, the heuristic was fed constants).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntFlag, StrEnum

import numpy as np
from numpy.typing import NDArray

from pytest_physics.metrology.autocorrelation import FloatArray
from pytest_physics.metrology.uncertainty import Gate

IntArray = NDArray[np.int64]

HARDWARE_SLOWDOWN_DEBOUNCE = 2
"""Consecutive reads that make a hardware slowdown: the bit may blip when the P-state changes."""
CLOCK_PARITY_LIMIT = 0.02
"""Two of the 15 MHz steps of a boosting GPU at 1.5 GHz; a larger difference is one of speed that the arms did not earn."""
STALL_MIN_UTILISATION = 0.5
STALL_MIN_RISE = 0.10
"""A device that computes draws at least this share above idle."""
STALL_MAX_SHARE = 0.20
"""Utilisation is an average over up to a second and lags behind power at the edges of a window."""


class EventReason(IntFlag):
    """Reasons why a clock is not higher, by NVML's bits."""

    GPU_IDLE = 0x001
    APPLICATION_CLOCKS = 0x002
    SOFTWARE_POWER_CAP = 0x004
    HARDWARE_SLOWDOWN = 0x008
    SYNC_BOOST = 0x010
    SOFTWARE_THERMAL_SLOWDOWN = 0x020
    HARDWARE_THERMAL_SLOWDOWN = 0x040
    HARDWARE_POWER_BRAKE = 0x080
    DISPLAY_CLOCKS = 0x100
    BOARD_LIMIT = 0x200
    RELIABILITY = 0x400


class EventClass(StrEnum):
    """What a reason means for a measurement."""

    BENIGN = "benign"
    CONFIGURATION = "configuration"
    """Somebody set the clocks: allowed, and shown."""
    POWER = "power"
    """Limited by the power cap: allowed, and shown."""
    THERMAL = "thermal"
    EXTERNAL = "external"
    REFUSE_UNKNOWN = "refuse unknown"


EVENT_CLASSES: Mapping[EventReason, EventClass] = {
    EventReason.GPU_IDLE: EventClass.BENIGN,
    EventReason.APPLICATION_CLOCKS: EventClass.CONFIGURATION,
    EventReason.SOFTWARE_POWER_CAP: EventClass.POWER,
    EventReason.HARDWARE_SLOWDOWN: EventClass.THERMAL,
    EventReason.SYNC_BOOST: EventClass.CONFIGURATION,
    EventReason.SOFTWARE_THERMAL_SLOWDOWN: EventClass.THERMAL,
    EventReason.HARDWARE_THERMAL_SLOWDOWN: EventClass.THERMAL,
    EventReason.HARDWARE_POWER_BRAKE: EventClass.EXTERNAL,
    EventReason.DISPLAY_CLOCKS: EventClass.CONFIGURATION,
    EventReason.BOARD_LIMIT: EventClass.REFUSE_UNKNOWN,
    EventReason.RELIABILITY: EventClass.REFUSE_UNKNOWN,
}
"""Class of each bit; any other bit is :attr:`EventClass.REFUSE_UNKNOWN`."""

KNOWN_BITS = sum(int(reason) for reason in EVENT_CLASSES)


def classify(mask: int) -> frozenset[EventClass]:
    """Classes of the bits set in ``mask``; empty for 0."""
    classes = {event_class for reason, event_class in EVENT_CLASSES.items() if mask & reason}
    if mask & ~KNOWN_BITS:
        classes.add(EventClass.REFUSE_UNKNOWN)
    return frozenset(classes)


NOTHING_DECLARED = EventReason(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cause:
    """One gate: the bits and counters that speak of one cause."""

    name: str
    what: str
    """Completes "the device was …"."""
    bits: int
    remedy: str
    counters: tuple[str, ...] = ()
    warning: bool = False
    consecutive: int = 1
    """Reads in a row before the bits count."""


_BITS_REFUSED_UNKNOWN = ~KNOWN_BITS | int(EventReason.BOARD_LIMIT | EventReason.RELIABILITY)

CAUSES = (
    _Cause(
        name="thermal throttling",
        what="slowed for thermal reasons",
        bits=int(EventReason.SOFTWARE_THERMAL_SLOWDOWN | EventReason.HARDWARE_THERMAL_SLOWDOWN),
        counters=("thermal_ns", "software_thermal_ns", "hardware_thermal_ns"),
        remedy="improve cooling, lower the power limit, or let it cool between events; then measure again",
    ),
    _Cause(
        name="power brake",
        what="slowed by the external power brake",
        bits=int(EventReason.HARDWARE_POWER_BRAKE),
        counters=("power_brake_ns",),
        remedy="check the power supply and the rack's power management; then measure again",
    ),
    _Cause(
        name="hardware slowdown",
        what=f"slowed by its hardware (at least {HARDWARE_SLOWDOWN_DEBOUNCE} reads in a row)",
        bits=int(EventReason.HARDWARE_SLOWDOWN),
        consecutive=HARDWARE_SLOWDOWN_DEBOUNCE,
        remedy="check temperature, power supply and power connectors; then measure again",
    ),
    _Cause(
        name="power cap",
        what="held below its clocks by the power cap",
        bits=int(EventReason.SOFTWARE_POWER_CAP),
        counters=("power_cap_ns",),
        warning=True,
        remedy="say so beside the result: it belongs to this power limit; compare only arms under the same limit",
    ),
    _Cause(
        name="synchronised boost",
        what="held to the clocks of another device by sync boost",
        bits=int(EventReason.SYNC_BOOST),
        remedy="take the device out of its sync-boost group, or declare the reason",
    ),
    _Cause(
        name="clock setting",
        what="held to clocks that somebody set",
        bits=int(EventReason.APPLICATION_CLOCKS | EventReason.DISPLAY_CLOCKS),
        warning=True,
        remedy="say so beside the result, or reset the clocks",
    ),
    _Cause(
        name="unknown event reasons",
        what="held back for reasons that this version does not know, or that no measurement allows",
        bits=_BITS_REFUSED_UNKNOWN,
        remedy="look the bits up in the driver's documentation; update this package, or remove their cause",
    ),
)
"""Every cause that is looked for, one gate each."""


def throttle_gates(  # noqa: PLR0917 -- the order of a window: samples, then bounds, then name
    t_ns: IntArray,
    reasons: FloatArray | None,
    counters: Mapping[str, FloatArray],
    t0_ns: int,
    t1_ns: int,
    scope: str,
    *,
    declared: EventReason = NOTHING_DECLARED,
) -> tuple[Gate, ...]:
    """One gate per cause of throttling in the window [t0, t1].

    Parameters
    ----------
    t_ns
        Times of the samples, shape (N,), increasing; samples from outside the window are needed to bracket it.
    reasons
        Channel ``event_reasons``, shape (N,), NaN where a read failed; None where the rig has none.
    counters
        Those of the channels ``power_cap_ns``, ``thermal_ns``, ``software_thermal_ns``, ``hardware_thermal_ns`` and ``power_brake_ns`` that
        the rig has, shape (N,) each.
    declared
        Reasons that are part of the experiment; their bits and counters do not fail a gate.
    """
    if not t1_ns > t0_ns:
        raise ValueError(f"'t1_ns' must lie after 't0_ns' (got {t0_ns} and {t1_ns}).")
    window = _Window(t_ns=t_ns, t0_ns=t0_ns, t1_ns=t1_ns)
    return tuple(_cause_gate(cause, window=window, reasons=reasons, counters=counters, declared=declared, scope=scope) for cause in CAUSES)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    t_ns: IntArray
    t0_ns: int
    t1_ns: int

    def bracket(self, column: FloatArray) -> tuple[IntArray, FloatArray] | None:
        """Valid samples inside, with one on each side; None where a side has none."""
        valid = np.isfinite(column)
        t, values = self.t_ns[valid], column[valid]
        start = int(np.searchsorted(t, self.t0_ns, side="right")) - 1
        stop = int(np.searchsorted(t, self.t1_ns, side="left"))
        return (t[start : stop + 1], values[start : stop + 1]) if start >= 0 and stop < t.size else None

    def inside(self, column: FloatArray) -> FloatArray:
        """Valid samples inside; the bracketing ones where none is."""
        within = np.isfinite(column) & (self.t_ns >= self.t0_ns) & (self.t_ns <= self.t1_ns)
        if within.any():
            return column[within]
        bracket = self.bracket(column)
        return bracket[1] if bracket else column[:0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """What one source says of one cause."""

    share: float | None
    """Share of the time; None where the source cannot tell."""
    text: str
    exact: bool = False
    """From a cumulative counter."""


def _cause_gate(
    cause: _Cause,
    *,
    window: _Window,
    reasons: FloatArray | None,
    counters: Mapping[str, FloatArray],
    declared: EventReason,
    scope: str,
) -> Gate:
    findings = list(_findings(cause, window, reasons, counters, declared))
    unread = any(finding.share is None for finding in findings)
    measured = _measured(findings)
    allowed = not cause.bits & ~int(declared)
    passed = not unread and measured is not None and (measured == 0 or allowed)
    text = "; ".join(finding.text for finding in findings) or "not checked: this rig reports no reasons and no counter for it"
    if findings and cause.counters and not any(name in counters for name in cause.counters):
        text += "; without a counter, episodes between two reads are not seen"
    return Gate(
        name=cause.name,
        scope=scope,
        measured=measured,
        limit=0.0,
        unit="1",
        passed=passed,
        reason=f"{_sentence(cause, measured)} (limit 0 %{', declared' if allowed else ''}): {text}",
        remedy="" if passed else _remedy(cause, findings, unread=unread),
        warning=cause.warning or not findings,
    )


def _measured(findings: list[_Finding]) -> float | None:
    """Largest share by the counters; by the mask where no counter rose, because a counter may stand still for lack of support."""
    counted = max((f.share for f in findings if f.exact and f.share is not None), default=0.0)
    seen = max((f.share for f in findings if f.share is not None), default=None)
    return counted or seen


def _sentence(cause: _Cause, measured: float | None) -> str:
    if measured is None:
        return f"it is not known whether the device was {cause.what}"
    return f"the device was {cause.what} for {measured:.2%} of the time" if measured else f"the device was not {cause.what}"


def _remedy(cause: _Cause, findings: list[_Finding], *, unread: bool) -> str:
    if not findings:
        return "watch temperature and clocks by other means; a claim about throttling cannot be tested on this rig"
    if unread:
        return "keep the sampler running before and after the window, and see the read errors of the channel"
    return cause.remedy


def _findings(
    cause: _Cause, window: _Window, reasons: FloatArray | None, counters: Mapping[str, FloatArray], declared: EventReason
) -> Iterable[_Finding]:
    for name in cause.counters:
        if name in counters:
            yield _from_counter(name, window.bracket(counters[name]))
    if reasons is not None:
        undeclared = cause.bits & ~int(declared)
        yield _from_mask(undeclared or cause.bits, cause.consecutive, window.inside(reasons))


def _from_counter(name: str, bracket: tuple[IntArray, FloatArray] | None) -> _Finding:
    if bracket is None:
        return _Finding(share=None, text=f"counter '{name}' has no valid sample on each side of the window")
    t, values = bracket
    if (np.diff(values) < 0).any():
        return _Finding(share=None, text=f"counter '{name}' went back inside the window (driver reset)")
    increase_ns, span_ns = float(values[-1] - values[0]), float(t[-1] - t[0])
    text = f"counter '{name}' rose by {increase_ns / 1e6:.3f} ms in {span_ns / 1e9:.3f} s"
    return _Finding(share=increase_ns / span_ns, text=text, exact=True)


def _from_mask(cause_bits: int, consecutive: int, masks: FloatArray) -> _Finding:
    if not masks.size:
        return _Finding(share=None, text="no valid read of the event reasons in or around the window")
    bits = masks.astype(np.int64) & cause_bits
    found = _debounced(bits != 0, consecutive)
    if not found.any():
        return _Finding(share=0.0, text=f"no such bit in {masks.size} reads of the event reasons")
    names = _names(int(np.bitwise_or.reduce(bits[found])))
    return _Finding(share=float(found.mean()), text=f"{names} in {int(found.sum())} of {masks.size} reads of the event reasons")


def _debounced(flags: NDArray[np.bool_], consecutive: int) -> NDArray[np.bool_]:
    """``flags`` without runs shorter than ``consecutive``."""
    edges = np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))
    starts, stops = np.flatnonzero(edges > 0), np.flatnonzero(edges < 0)
    kept = np.zeros_like(flags)
    for start, stop in zip(starts, stops, strict=True):
        kept[start:stop] = stop - start >= consecutive
    return kept


def _names(mask: int) -> str:
    known = [reason.name or "" for reason in EVENT_CLASSES if mask & reason]
    unknown = mask & ~KNOWN_BITS
    return " and ".join([*known, *([f"unknown {unknown:#x}"] if unknown else [])])


def clock_parity(median_clock_hz: Mapping[str, float], relative_limit: float = CLOCK_PARITY_LIMIT, *, scope: str = "comparison") -> Gate:
    """Arms that are compared must have run at the same clock: (highest − lowest) / highest of their median clocks."""
    valid = {arm: clock for arm, clock in median_clock_hz.items() if math.isfinite(clock) and clock > 0}
    if len(valid) < max(2, len(median_clock_hz)):
        missing = ", ".join(sorted(median_clock_hz.keys() - valid.keys())) or "fewer than two arms given"
        return Gate(
            name="clock parity", scope=scope, measured=None, limit=relative_limit, unit="1", passed=False,
            reason=f"the clocks of the arms cannot be compared ({missing})",
            remedy="measure the SM clock in every arm; see the read errors of the channel",
        )  # fmt: skip
    slow, fast = min(valid, key=valid.__getitem__), max(valid, key=valid.__getitem__)
    spread = 1 - valid[slow] / valid[fast]
    passed = spread <= relative_limit
    return Gate(
        name="clock parity",
        scope=scope,
        measured=spread,
        limit=relative_limit,
        unit="1",
        passed=passed,
        reason=f"median clocks were {valid[slow] / 1e6:.0f} MHz in '{slow}' and {valid[fast] / 1e6:.0f} MHz in '{fast}', "
        f"{spread:.1%} apart "
        f"(limit {relative_limit:.1%})" + ("" if passed else ": their difference is one of clocks, not of the arms"),
        remedy="" if passed else "lock the clocks, or soak the device so that both arms run in the same state, and interleave the arms",
    )


def stall_gate(
    utilisation_ratio: FloatArray,
    power_w: FloatArray,
    idle_w: float,
    *,
    u_idle_w: float = 0.0,
    scope: str = "window",
    min_rise_ratio: float = STALL_MIN_RISE,
    limit: float = STALL_MAX_SHARE,
) -> Gate:
    """A device that says it is busy must draw more than idle: share of busy samples that do not.

    ``utilisation_ratio`` and ``power_w`` are of the same samples, shape (N,), NaN where a read failed. Busy is a utilisation of at least
    half; near idle is a rise of less than ``min_rise_ratio`` of idle, or than 3 u of the idle. Without busy samples there is nothing
    to doubt and the gate passes.
    """
    if utilisation_ratio.shape != power_w.shape:
        raise ValueError(f"utilisation and power must be of the same samples (got shapes {utilisation_ratio.shape} and {power_w.shape}).")
    busy = np.isfinite(power_w) & (utilisation_ratio >= STALL_MIN_UTILISATION)
    rise_w = max(min_rise_ratio * abs(idle_w), 3 * u_idle_w)
    n_busy = int(busy.sum())
    stalled = float((power_w[busy] < idle_w + rise_w).mean()) if n_busy else 0.0
    passed = stalled <= limit
    level = f", median {float(np.median(power_w[busy])):.4g} W against {idle_w:.4g} W idle" if n_busy else ""
    return Gate(
        name="stall",
        scope=scope,
        measured=stalled,
        limit=limit,
        unit="1",
        passed=passed,
        reason=f"in {stalled:.0%} of the {n_busy} samples with utilisation of at least {STALL_MIN_UTILISATION:.0%}, power was less "
        f"than {rise_w:.3g} W above idle (limit {limit:.0%}{level})" + ("" if passed else ": the metered device did not do the work"),
        remedy=""
        if passed
        else "check that the workload runs on the metered device, and that it does not wait for memory of the host (spill) or the CPU",
    )
