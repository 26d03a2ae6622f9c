"""Were these channels measured? Constants, computed channels, repeats, formulas, two writers, cadence, gaps, as gates.

The checks are those of ``forensics``; here they run over all channels of one recording, become gates that name the channel, and say what
a channel's provenance comes to: a constant is *assumed*, a channel that follows another one to the last digit is *derived*, one of which
a quarter repeats the value before is *stale*, one without noise or steps is *assumed*.

Repeats are no sign of staleness where a coarse step explains them (the value then moves by single steps), nor in channels that hold their
value by nature (clocks, memory, fans): the caller names those.

Assumes rows of one device in file order. Fails (says nothing) below ten values per channel.

Reference: RLE study §4, §6 and §8.1, where each of these was found in recordings shown as measurements.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pytest_physics.metrology.autocorrelation import FloatArray
from pytest_physics.metrology.forensics import series
from pytest_physics.metrology.forensics.finding import Effect, Finding
from pytest_physics.metrology.quality import Provenance
from pytest_physics.metrology.uncertainty import Gate

GAP_PERIODS = 3.0
"""A gap is an interval longer than this many median intervals."""
SINGLE_STEPS = 1.5
"""A median change below this many steps is one of single steps."""
MAX_GAP_SHARE = 0.10
"""More of the recording in gaps than this refuses."""
REMEDIES: Mapping[str, str] = {
    series.CONSTANT.name: "find out whether the sensor was read at all; treat the value as an assumption",
    series.AFFINE.name: "use the channel it was computed from; it carries no information of its own",
    series.STALE.name: "reduce to distinct updates before any average or slope",
    series.SMOOTH.name: "ask where the values come from: a sensor has steps or noise",
    series.WRITERS.name: "separate the writers, or leave the overlapping stretch out",
    series.CADENCE.name: "use the real times of the rows, never a nominal period",
}
DOWNGRADES: Mapping[str, Provenance] = {
    series.CONSTANT.name: Provenance.ASSUMED,
    series.AFFINE.name: Provenance.DERIVED,
    series.STALE.name: Provenance.STALE,
    series.SMOOTH.name: Provenance.ASSUMED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelChecks:
    """What the checks found in one recording."""

    gates: tuple[Gate, ...]
    """One per check and channel that could be checked."""
    provenance: Mapping[str, Provenance]
    """What each channel is, at best."""

    @property
    def problems(self) -> tuple[Gate, ...]:
        """The gates that failed."""
        return tuple(gate for gate in self.gates if not gate.passed)


def check_channels(
    t_s: ArrayLike, channels: Mapping[str, ArrayLike], *, nominal_s: float | None = None, holding: Collection[str] = (),
    scope: str = "recording",
) -> ChannelChecks:  # fmt: skip
    """All checks over ``channels``, shapes (N,) each with NaN where a read failed, at times ``t_s`` in file order.

    ``holding`` names channels that hold their value by nature.
    """
    t = np.asarray(t_s, dtype=np.float64)
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in channels.items()}
    gates = list(timing_gates(t, nominal_s=nominal_s, scope=scope))
    provenance = dict.fromkeys(columns, Provenance.MEASURED)
    for names, finding in _channel_findings(columns, holding):
        gate = _gate(finding, scope=f"{scope}: {names[-1]}")
        if gate is None:
            continue
        gates.append(gate)
        if not gate.passed:
            provenance[names[-1]] = Provenance.weakest(provenance[names[-1]], DOWNGRADES[finding.check])
    return ChannelChecks(gates=tuple(gates), provenance=provenance)


def _channel_findings(columns: Mapping[str, FloatArray], holding: Collection[str]) -> list[tuple[tuple[str, ...], Finding]]:
    """Findings with the channels they speak of; the last one is the channel in question."""
    found: list[tuple[tuple[str, ...], Finding]] = []
    for name, values in columns.items():
        found += [((name,), check(values, name=name)) for check in (series.constant, series.smoothness)]
        if name not in holding and not _explained_by_step(values):
            found.append(((name,), series.staleness(values, name=name)))
    found += [
        ((first, second), series.affine(columns[first], columns[second], names=(first, second)))
        for first, second in itertools.combinations(columns, 2)
    ]
    return found


def _explained_by_step(values: FloatArray) -> bool:
    """Whether repeats come from a coarse step (most changes are by the smallest one), or from a constant, which another check names."""
    known = values[np.isfinite(values)]
    changes = np.abs(np.diff(known))
    changes = changes[changes > 0]
    return not changes.size or float(np.median(changes)) < SINGLE_STEPS * float(np.diff(np.unique(known)).min())


def timing_gates(t_s: FloatArray, *, nominal_s: float | None = None, scope: str = "recording") -> tuple[Gate, ...]:
    """Two writers, cadence against nominal, and gaps."""
    if t_s.size < series.MIN_VALUES:
        return ()
    findings = [series.writers(t_s)]
    ordered = np.sort(t_s)
    if nominal_s is not None and ordered[-1] > ordered[0]:
        findings.append(series.cadence(ordered, nominal_s))
    return (*(gate for finding in findings if (gate := _gate(finding, scope=scope)) is not None), gap_gate(ordered, scope=scope))


def gap_gate(t_s: FloatArray, *, scope: str = "recording") -> Gate:
    """Intervals longer than three median intervals: how many, the longest, and their share of the recording."""
    intervals = np.diff(t_s)
    median = float(np.median(intervals))
    gaps = intervals[intervals > GAP_PERIODS * median] if median > 0 else intervals[:0]
    span = float(intervals.sum())
    share = float(gaps.sum()) / span if span > 0 else 0.0
    longest = ", ".join(f"{gap:.4g} s" for gap in sorted(gaps.tolist(), reverse=True)[:3])
    reason = f"no interval is longer than {GAP_PERIODS:g} × {median:.4g} s"
    if gaps.size:
        reason = f"{gaps.size} gaps ({longest}) make up {share:.1%} of {span:.4g} s"
    return Gate(
        name="gaps", scope=scope, measured=share, limit=0.0 if not gaps.size else MAX_GAP_SHARE, unit="1", passed=not gaps.size,
        warning=share <= MAX_GAP_SHARE, reason=reason, remedy="" if not gaps.size else "judge the stretches between gaps apart",
    )  # fmt: skip


def _gate(finding: Finding, *, scope: str) -> Gate | None:
    """A finding as a gate; None where it lacked data."""
    if finding.effect is Effect.LACKS:
        return None
    passed = finding.effect not in {Effect.INVALIDATES, Effect.CONTRADICTS}
    return Gate(
        name=finding.check, scope=scope, measured=None, limit=None, unit="", passed=passed, reason=finding.sentence,
        remedy="" if passed else REMEDIES[finding.check],
    )  # fmt: skip
