"""Instability events: a device that loses speed under load, and rules that say so, each with what it can and cannot see.

``instability/1`` compares a *level* (measured work rate where there is one, else the clock) with a decaying reference, only while the
device is loaded, and asks for evidence that does not come from the level itself: reasons the driver reports, its counters of throttled
time, or the clock beside a work rate. An event begins after the level stayed below the drop fraction, ends after it stayed above a
separate recovery fraction (or after evidence or load ended), and has a start, a duration and its evidence. The reference does not fade
while there is evidence, so a lasting slowdown does not become the new normal. Windows, holds and decay are seconds with the real sampling
times. Events count per loaded time; without any, the answer is "not testable", never 0.

The legacy rules are in by id: ``rle/collapse-v0.2``, ``rle/collapse-v0.3`` and ``rle/collapse-v2``, computed from the legacy indices as
their monitors did, in samples.

Every rule is characterised by three numbers, computed by :func:`characterise` on controls (``instability_controls``): false alarms on
idle and on noise, detection of injected throttling, and reachability on a sensor of given step and period.

Assumes one device, rows in the order of time. Fails (sees nothing) where neither work rate nor clock was read.

References: RLE study §2 and §8.4; Garwood, Biometrika 28 (1936) 437, for the interval of a rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, stats

from pytest_physics.metrology.autocorrelation import FloatArray, series_mean
from pytest_physics.metrology.forensics.proportions import Share, wilson
from pytest_physics.metrology.rle import EVENT_MEMORY_S, metric_v1, metric_v2, rle_v1, rle_v2
from pytest_physics.metrology.throttle import EventClass, classify

BoolArray = NDArray[np.bool_]
SECONDS_PER_HOUR = 3600.0
EVIDENCE_CLASSES = frozenset({EventClass.THERMAL, EventClass.POWER, EventClass.EXTERNAL})
"""What the driver may report as the cause of lost speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """One device's rows; arrays of shape (N,), NaN where a read failed, None where it has no such channel."""

    t_s: FloatArray
    utilisation_ratio: FloatArray
    temperature_c: FloatArray | None = None
    power_w: FloatArray | None = None
    clock_hz: FloatArray | None = None
    work_rate: FloatArray | None = None
    """Measured work per second: tokens, iterations, steps."""
    reasons: FloatArray | None = None
    """Bit mask of the driver's event reasons."""
    throttled_ns: Mapping[str, FloatArray] = field(default_factory=dict)
    """Cumulative counters of throttled time, by channel."""
    seen: BoolArray | None = None
    """Rows that a reading stands behind, None for all: a row in a gap is judged by no rule."""

    def column(self, name: str) -> FloatArray:
        """A channel, all NaN where there is none."""
        values: FloatArray | None = getattr(self, name)
        return np.full(self.t_s.size, np.nan) if values is None else values


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a rule says of each row."""

    flags: BoolArray
    """In an event, shape (N,)."""
    loaded: BoolArray
    """Rows in which the rule could have fired: its exposure."""
    qualifying: BoolArray
    """Rows that meet every condition but persistence."""
    evidence: Mapping[str, BoolArray] = field(default_factory=dict)
    """Which evidence stood in which row."""
    seen: BoolArray | None = None
    """Rows that were judged, None for all; no other is flagged, loaded or counted."""

    @property
    def judged(self) -> BoolArray:
        """Flags of the rows that were judged."""
        return self.flags if self.seen is None else self.flags[self.seen]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule by id, with its parameters."""

    id: str
    describes: str
    """The rule in one sentence."""
    parameters: Mapping[str, float]
    judge: Callable[[Telemetry, Mapping[str, float]], Outcome] = field(repr=False)
    needed_rows: int = 1
    """Qualifying rows in a row before it fires; 1 for rules in seconds."""
    legacy: bool = False

    def __call__(self, telemetry: Telemetry) -> Outcome:
        """Judge each row that was seen, as if those in gaps were not there."""
        seen = telemetry.seen
        if seen is None or seen.all():
            return self.judge(telemetry, self.parameters)
        rows: dict[str, Any] = {f.name: v[seen] for f in fields(telemetry) if isinstance(v := getattr(telemetry, f.name), np.ndarray)}
        counters = {name: values[seen] for name, values in telemetry.throttled_ns.items()}
        found = self.judge(Telemetry(**{**rows, "throttled_ns": counters, "seen": None}), self.parameters)

        def spread(of: BoolArray) -> BoolArray:
            full = np.zeros(seen.size, dtype=bool)
            full[seen] = of
            return full

        return Outcome(
            flags=spread(found.flags), loaded=spread(found.loaded), qualifying=spread(found.qualifying), seen=seen,
            evidence={name: spread(stood) for name, stood in found.evidence.items()},
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event, however many rows it spans."""

    start_s: float
    duration_s: float
    evidence: tuple[str, ...]
    rows: int


def events(telemetry: Telemetry, outcome: Outcome) -> tuple[Event, ...]:
    """Runs of flagged rows; a row stands until the next one, and what was flagged on both sides of a gap is one event."""
    labels, count = ndimage.label(outcome.judged)
    t = telemetry.t_s
    judged = np.arange(t.size) if outcome.seen is None else np.flatnonzero(outcome.seen)
    ends = np.append(t[1:], t[-1] if t.size else 0.0)
    found = []
    for number in range(1, count + 1):
        rows = judged[labels == number]
        evidence = tuple(name for name, stood in outcome.evidence.items() if stood[rows].any())
        start_s = float(t[rows[0]])
        found.append(Event(start_s=start_s, duration_s=float(ends[rows[-1]]) - start_s, evidence=evidence, rows=rows.size))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRate:
    """Events per hour of loaded time, with Garwood's exact 95 % interval."""

    events: int
    exposure_s: float
    """Time in which an event was possible."""
    per_hour: float | None
    """None where there was no exposure."""
    low: float
    high: float

    def __str__(self) -> str:
        if self.per_hour is None:
            return "not testable: the device was never loaded"
        return (
            f"{self.events} events in {self.exposure_s:.4g} s under load: {self.per_hour:.3g} per hour ({self.low:.3g} to {self.high:.3g})"
        )


def event_rate(count: int, exposure_s: float) -> EventRate:
    """Rate of ``count`` events in ``exposure_s`` seconds of opportunity."""
    if exposure_s <= 0:
        return EventRate(events=count, exposure_s=0.0, per_hour=None, low=0.0, high=math.inf)
    low = float(stats.chi2.ppf(0.025, 2 * count)) / 2 if count else 0.0
    high = float(stats.chi2.ppf(0.975, 2 * count + 2)) / 2
    scale = SECONDS_PER_HOUR / exposure_s
    return EventRate(events=count, exposure_s=exposure_s, per_hour=count * scale, low=low * scale, high=high * scale)


def exposure_s(telemetry: Telemetry, outcome: Outcome) -> float:
    """Loaded time: each loaded row stands until the next one."""
    return float(np.diff(telemetry.t_s)[outcome.loaded[:-1]].sum())


# --- the rule ---------------------------------------------------------------------------------------------------------

PARAMETERS: Mapping[str, float] = {
    "load_utilisation": 0.6,
    "drop_ratio": 0.92,
    "recovery_ratio": 0.96,
    "hold_s": 3.0,
    "window_s": 5.0,
    "reference_window_s": 30.0,
    "decay_s": 3600.0,
    "evidence_clock_ratio": 0.95,
}
"""``instability/1``: gate, level at which it falls, level at which it has recovered, how long either must hold, windows of the medians
behind level and reference (the highest of a noisy level would lie above it), time constant of the reference's decay, and the clock that
counts as evidence beside a work rate. Windows are centred: an event is known half a window later."""
LOAD_UTILISATION = PARAMETERS["load_utilisation"]
"""Utilisation from which on a device is under load in a contrast, whatever the gate of a legacy rule is."""


def _instability(telemetry: Telemetry, p: Mapping[str, float]) -> Outcome:
    loaded = telemetry.utilisation_ratio >= p["load_utilisation"]
    driver = _driver_evidence(telemetry)
    evidence = {**driver, **_clock_evidence(telemetry, loaded, _any(driver, loaded.size), p)}
    supported = _any(evidence, loaded.size)
    share = _share(telemetry, telemetry.column("work_rate" if telemetry.work_rate is not None else "clock_hz"), loaded, supported, p)
    with np.errstate(invalid="ignore"):
        qualifying = loaded & (share < p["drop_ratio"]) & supported
        over = ~loaded | (share > p["recovery_ratio"]) | ~supported
    return Outcome(
        flags=hysteresis(telemetry.t_s, qualifying, over, hold_s=p["hold_s"]), loaded=loaded, qualifying=qualifying, evidence=evidence
    )


def _share(telemetry: Telemetry, values: FloatArray, loaded: BoolArray, frozen: BoolArray, p: Mapping[str, float]) -> FloatArray:
    """Level over its decaying reference, both from loaded rows; the reference does not fade in ``frozen`` rows."""
    t, under_load = telemetry.t_s, np.where(loaded, values, np.nan)
    best = np.where(loaded, _smoothed(t, under_load, p["reference_window_s"]), np.nan)
    return _smoothed(t, under_load, p["window_s"]) / decaying_reference(t, best, p["decay_s"], frozen=frozen)


def _any(evidence: Mapping[str, BoolArray], n: int) -> BoolArray:
    return np.asarray(np.any([*evidence.values(), np.zeros(n, dtype=bool)], axis=0), dtype=bool)


def _driver_evidence(telemetry: Telemetry) -> dict[str, BoolArray]:
    """Reasons and counters of the driver."""
    found: dict[str, BoolArray] = {}
    if telemetry.reasons is not None:
        found["driver reports a slowdown"] = reported(telemetry.reasons)
    for name, counter in telemetry.throttled_ns.items():
        found[f"{name} grows"] = np.concatenate([[False], np.diff(counter) > 0])[: telemetry.t_s.size]
    return found


def _clock_evidence(telemetry: Telemetry, loaded: BoolArray, frozen: BoolArray, p: Mapping[str, float]) -> dict[str, BoolArray]:
    """The clock, where the level is a work rate; without a driver's word its reference fades, and a lasting slowdown with it."""
    if telemetry.work_rate is None or telemetry.clock_hz is None:
        return {}
    with np.errstate(invalid="ignore"):
        return {"clock fell": _share(telemetry, telemetry.clock_hz, loaded, frozen, p) < p["evidence_clock_ratio"]}


def reported(reasons: ArrayLike) -> BoolArray:
    """Rows in which the driver reports a thermal, power or external slowdown; a failed read reports nothing."""
    masks = np.asarray(reasons, dtype=np.float64)
    known = {mask: bool(classify(int(mask)) & EVIDENCE_CLASSES) for mask in np.unique(masks[np.isfinite(masks)]).tolist()}
    return np.array([known.get(mask, False) for mask in masks.tolist()], dtype=bool)


def decaying_reference(t_s: FloatArray, level: FloatArray, decay_s: float, *, frozen: BoolArray | None = None) -> FloatArray:
    """The highest level so far, forgotten with time constant ``decay_s`` but for ``frozen`` rows; NaN before the first."""
    reference = np.empty_like(level)
    kept = np.zeros(t_s.size, dtype=bool) if frozen is None else frozen
    held, last = math.nan, float(t_s[0]) if t_s.size else 0.0
    for index, (now, value) in enumerate(zip(t_s.tolist(), level.tolist(), strict=True)):
        faded = held if kept[index] else held * math.exp(-(now - last) / decay_s)
        held = max((v for v in (faded, value) if not math.isnan(v)), default=math.nan)
        reference[index], last = held, now
    return reference


def hysteresis(t_s: FloatArray, begins: BoolArray, ends: BoolArray, *, hold_s: float) -> BoolArray:
    """Rows inside events: begun once ``begins`` held for ``hold_s`` seconds, from its first row on; over once ``ends`` held so long."""
    flags = np.zeros(t_s.size, dtype=bool)
    inside, since, first = False, math.nan, 0
    for index, now in enumerate(t_s.tolist()):
        turning = bool(ends[index]) if inside else bool(begins[index])
        if not turning:
            since = math.nan
        elif math.isnan(since):
            since, first = now, index
        if turning and now - since >= hold_s:
            inside, since = not inside, math.nan
            flags[first : index + 1] = inside
        else:
            flags[index] = inside
    return flags


def _smoothed(t_s: FloatArray, values: FloatArray, window_s: float) -> FloatArray:
    """Median over a centred window of ``window_s`` seconds, as an odd number of the median period; failed reads are bridged."""
    if t_s.size < 3 or not np.isfinite(values).any():
        return values
    known = np.isfinite(values)
    bridged = np.interp(t_s, t_s[known], values[known])
    half = int(window_s / float(np.median(np.diff(t_s))) / 2)
    return np.asarray(ndimage.median_filter(bridged, size=2 * half + 1, mode="nearest"), dtype=np.float64)


# --- legacy rules -----------------------------------------------------------------------------------------------------


def _legacy_v1_index(telemetry: Telemetry) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Smoothed index, load ratio and seconds to the limit of the v1 monitor."""
    metric = metric_v1("gpu")
    util_pct = 100 * telemetry.utilisation_ratio
    power = telemetry.column("power_w")
    series = rle_v1(util_pct, telemetry.column("temperature_c"), power, metric=metric)
    return series.smoothed, np.where(np.isfinite(power), power / metric.parameters["rated_w"], util_pct / 100), series.sustain_s


def _collapse_v02(telemetry: Telemetry, p: Mapping[str, float]) -> Outcome:
    smoothed, load, _ = _legacy_v1_index(telemetry)
    warm = telemetry.t_s - telemetry.t_s[0] >= p["warmup_s"]
    peak = np.maximum.accumulate(np.where(warm, smoothed, 0.0))
    gate = warm & ((telemetry.utilisation_ratio > p["load_utilisation"]) | (load > p["load_ratio"]))
    drop = gate & (smoothed < p["drop_fraction"] * peak)
    flags = np.zeros(drop.size, dtype=bool)
    counter = 0
    for index, (open_gate, low) in enumerate(zip(gate.tolist(), drop.tolist(), strict=True)):
        counter = counter + low if open_gate else 0  # a row above the level does not reset it: so it was written
        flags[index] = open_gate and counter >= p["rows"]
    return Outcome(flags=flags, loaded=gate, qualifying=drop)


def _collapse_v03(telemetry: Telemetry, p: Mapping[str, float]) -> Outcome:
    smoothed, load, sustain = _legacy_v1_index(telemetry)
    temp = telemetry.column("temperature_c")
    warm = telemetry.t_s - telemetry.t_s[0] >= p["warmup_s"]
    peak = decaying_peak_after(smoothed, warm, p["peak_decay"])
    warming = np.concatenate([[False], np.diff(temp) > p["warming_c"]])[: temp.size]
    loaded = warm & ((telemetry.utilisation_ratio > p["load_utilisation"]) | (load > p["load_ratio"]))
    qualifying = loaded & warming & (smoothed < p["drop_fraction"] * peak)
    rows = _run_lengths(qualifying)
    evidence = (sustain < p["sustain_s"]) | (temp > p["limit_c"] - p["near_limit_c"]) | (load > p["overload_ratio"])
    return Outcome(flags=(rows >= p["rows"]) & evidence, loaded=loaded, qualifying=qualifying)


def decaying_peak_after(values: FloatArray, counts: BoolArray, decay: float) -> FloatArray:
    """``peak = max(value, decay × peak)`` over the rows that count; 0 before the first."""
    peaks = np.zeros_like(values)
    peak = 0.0
    for index in np.flatnonzero(counts).tolist():
        peak = max(float(values[index]), decay * peak)
        peaks[index] = peak
    return peaks


def _run_lengths(flags: BoolArray) -> NDArray[np.int64]:
    """Length so far of the run that each row ends; 0 where it is in none."""
    index = np.arange(1, flags.size + 1)
    return np.asarray(np.where(flags, index - np.maximum.accumulate(np.where(flags, 0, index)), 0), dtype=np.int64)


def _collapse_v2(telemetry: Telemetry, p: Mapping[str, float]) -> Outcome:
    temp = telemetry.column("temperature_c")
    metric = metric_v2("gpu", drop_fraction=p["drop_fraction"], peak_decay=p["peak_decay"])
    assumed = np.where(np.isfinite(temp), temp, p["assumed_temperature_c"])
    series = rle_v2(100 * telemetry.utilisation_ratio, assumed, metric=metric)
    flags = np.asarray(series.collapse, dtype=bool)
    return Outcome(flags=flags, loaded=np.ones(flags.size, dtype=bool), qualifying=flags)


INSTABILITY = Rule(
    id="instability/1",
    describes="work rate or clock below a decaying reference under load for seconds, with independent evidence; separate recovery level",
    parameters=PARAMETERS,
    judge=_instability,
)
COLLAPSE_V02 = Rule(
    id="rle/collapse-v0.2",
    describes="smoothed rle/v1 below 0.70 of its highest ever in 5 loaded rows since the load began",
    parameters={"warmup_s": 60.0, "load_utilisation": 0.5, "load_ratio": 0.6, "drop_fraction": 0.7, "rows": 5},
    judge=_collapse_v02,
    needed_rows=5,
    legacy=True,
)
COLLAPSE_V03 = Rule(
    id="rle/collapse-v0.3",
    describes="smoothed rle/v1 below 0.65 of its decaying peak in 7 rows in a row, each loaded and warmer than the one before",
    parameters={
        "warmup_s": 60.0, "load_utilisation": 0.6, "load_ratio": 0.75, "drop_fraction": 0.65, "rows": 7, "warming_c": 0.05,
        "peak_decay": 0.998, "sustain_s": 60.0, "limit_c": 83.0, "near_limit_c": 5.0, "overload_ratio": 0.95,
    },
    judge=_collapse_v03,
    needed_rows=7,
    legacy=True,
)  # fmt: skip
COLLAPSE_V2 = Rule(
    id="rle/collapse-v2",
    describes="rle/v2 below 0.65 × 0.998 of its highest of the last 5 rows, whatever the load",
    parameters={"drop_fraction": 0.65, "peak_decay": 0.998, "assumed_temperature_c": 50.0},
    judge=_collapse_v2,
    legacy=True,
)
RULES: Mapping[str, Rule] = {rule.id: rule for rule in (INSTABILITY, COLLAPSE_V02, COLLAPSE_V03, COLLAPSE_V2)}


# --- what a rule can and cannot do ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagShare:
    """Share of rows that a rule flags, with a 95 % interval that knows that flags come in runs."""

    flagged: int
    rows: int
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} of {self.rows} rows ({self.low:.1%} to {self.high:.1%})"


def flag_share(flags: ArrayLike, *, memory_rows: float = 1.0) -> FlagShare:
    """Share of flagged rows, shape (N,), N ≥ 2; Wilson's interval with the effective number of rows.

    Where no row differs the runs are unknown: then ``memory_rows`` rows count as one look.
    """
    found = np.asarray(flags, dtype=bool)
    counted = Share(successes=int(found.sum()), trials=found.size)
    varies = 0 < counted.successes < counted.trials
    n_eff = series_mean(found.astype(np.float64)).n_eff if varies else max(1.0, found.size / memory_rows)
    low, high = wilson(counted, design_effect=found.size / n_eff)
    return FlagShare(flagged=counted.successes, rows=counted.trials, value=counted.value, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """How many of the injected episodes of throttling were found."""

    found: int
    episodes: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """Share of episodes in which the rule fired."""
        return self.found / self.episodes

    def __str__(self) -> str:
        return f"{self.rate:.0%} of {self.episodes} episodes ({self.low:.0%} to {self.high:.0%})"


def detection(telemetry: Telemetry, outcome: Outcome, episodes_s: Sequence[tuple[float, float]]) -> Detection:
    """Episodes [start, end) in seconds during which the rule flagged any row."""
    t = telemetry.t_s
    hits = sum(bool(outcome.flags[(t >= start) & (t < end)].any()) for start, end in episodes_s)
    low, high = wilson(Share(successes=hits, trials=len(episodes_s)))
    return Detection(found=hits, episodes=len(episodes_s), low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Whether a rule can fire on a sensor of this step at this period."""

    reachable: bool
    longest_run: int
    """Most rows in a row that met every condition but persistence, in the injected episodes."""
    needed_rows: int
    reason: str


def reach(rule: Rule, telemetry: Telemetry, *outcomes: Outcome) -> Reach:
    """Whether the rule fired anywhere in these outcomes (of telemetry at one period), or what kept it from firing."""
    longest = max(int(_run_lengths(outcome.qualifying).max(initial=0)) for outcome in outcomes)
    period_s = float(np.median(np.diff(telemetry.t_s)))
    fired = any(bool(outcome.flags.any()) for outcome in outcomes)
    if fired:
        reason = f"fires at {period_s:.3g} s per row"
    elif not any(outcome.loaded.any() for outcome in outcomes):
        reason = "cannot be said: its load gate never opened"
    elif not longest:
        reason = f"never fired at {period_s:.3g} s per row: no row met its conditions"
    elif longest < rule.needed_rows:
        reason = f"cannot fire at {period_s:.3g} s per row: it needs {rule.needed_rows} rows in a row, the longest run was {longest}"
    else:
        reason = (
            f"never fired at {period_s:.3g} s per row although {longest} rows in a row qualified: its evidence was missing, or too short"
        )
    return Reach(reachable=fired, longest_run=longest, needed_rows=rule.needed_rows, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleNumbers:
    """The numbers that every rule ships with."""

    rule: str
    idle: FlagShare
    """False alarms while the device idles."""
    noise: FlagShare
    """False alarms under a load that is noisy and never throttled."""
    throttling: Detection
    reach: Reach


def characterise(
    rule: Rule, *, idle: Telemetry, noise: Telemetry, throttled: Telemetry, episodes_s: Sequence[tuple[float, float]]
) -> RuleNumbers:
    """Compute the three numbers of ``rule`` on given controls, such as those of ``instability_controls``."""
    outcome, quiet, noisy = rule(throttled), rule(idle), rule(noise)
    memory_rows = EVENT_MEMORY_S / float(np.median(np.diff(idle.t_s)))
    return RuleNumbers(
        rule=rule.id,
        idle=flag_share(quiet.flags, memory_rows=memory_rows),
        noise=flag_share(noisy.flags, memory_rows=memory_rows),
        throttling=detection(throttled, outcome, episodes_s),
        reach=reach(rule, throttled, outcome, noisy, quiet),
    )
