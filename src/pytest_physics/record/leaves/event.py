"""Recipes of instability events and of the component differential: rates, onset, event-free time, contrasts of two devices, rules' numbers.

A device's telemetry is read on a grid of ``tick_s`` seconds from the begin of a phase. Rules are named by id; all of them, legacy ones
too, are in :data:`~pytest_physics.metrology.instability.RULES`. Two devices are paired tick by tick: on one real clock by its instants;
simulated ones, each with a virtual clock of its own, by the time since the begin of their loads, which are equal by construction.

A tick that no reading stands behind lies in a gap and is left out. What refuses a contrast (no load, a constant channel, two clocks) is a
failed gate; of a rule that cannot fire on this sensor nothing is said. On a twin the truth is the same rule on its true clock,
power and temperature. References: RLE study §2, §7.1; :mod:`~pytest_physics.metrology.differential`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.devices.twin.truth import power_at
from pytest_physics.metrology.autocorrelation import FloatArray
from pytest_physics.metrology.differential import Component as Part
from pytest_physics.metrology.differential import (
    RateDifference,
    efficiency_difference,
    event_rate_difference,
    rate_difference,
    require_contrast,
)
from pytest_physics.metrology.instability import (
    LOAD_UTILISATION,
    RULES,
    BoolArray,
    EventRate,
    Outcome,
    Reach,
    RuleNumbers,
    Telemetry,
    event_rate,
    events,
    exposure_s,
    flag_share,
    reach,
)
from pytest_physics.metrology.instability_controls import controls, rule_numbers
from pytest_physics.metrology.quality import Provenance, Quality
from pytest_physics.metrology.refusal import RefusedError, refuse
from pytest_physics.metrology.rle import event_free_share, share_components
from pytest_physics.metrology.uncertainty import Component, Estimate, Gate, coverage_factor
from pytest_physics.record.data import RunData
from pytest_physics.record.joined import power_of
from pytest_physics.record.leaves.window import host_gates_of
from pytest_physics.record.registry import Parameters, exactly, leaf, provenance_of
from pytest_physics.record.sensor_checks import no_value, not_tested, part
from pytest_physics.record.window_energy import idle_of

VIRTUAL = "virtual"
"""Clocks of simulated devices begin with this word."""
COUNTERS = ("thermal_ns", "power_cap_ns", "power_brake_ns", "cgroup_throttled_ns")
MIN_TICKS = 10
MAX_TICKS_PER_SAMPLE = 100.0
"""Beyond, a reading would stand for what nobody saw."""
GAP_PERIODS = 1.5
"""A tick whose nearest reading before it is older, in ticks or in sampling periods, lies in a gap."""
REFERENCE_BLOCKS = 6
"""Blocks at the beginning, whose mean efficiency is 1."""
EFFICIENCY_BLOCK_TICKS = 5
"""Ticks whose work and energy make one relative efficiency: a reading reaches a little beyond its tick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One device over one phase, and what a rule says of it."""

    name: str
    telemetry: Telemetry
    outcome: Outcome

    @property
    def left_out(self) -> int:
        """Ticks in gaps."""
        return self.outcome.flags.size - self.outcome.judged.size

    @property
    def gaps(self) -> str:
        """What an estimator says of them."""
        return _left_out(self.left_out)

    @property
    def seen(self) -> BoolArray:
        """Ticks outside gaps."""
        return np.ones(self.outcome.flags.size, dtype=bool) if self.outcome.seen is None else self.outcome.seen


def _left_out(ticks: int) -> str:
    return f"; {ticks} ticks in gaps left out" if ticks else ""


def telemetry_of(data: RunData, phase_id: str, tick_s: float) -> Telemetry:
    """A device on a grid of ``tick_s`` seconds over a phase: the reading nearest before each tick, power as means."""
    phase = data.phase(phase_id)
    t0_ns, t1_ns = phase.t0_ns, int(phase.t1_ns or phase.t0_ns)
    trace = data.trace(phase.instrument).between(t0_ns - NS_PER_S, t1_ns)
    at_s = np.asarray((trace.t_ns - t0_ns) / NS_PER_S, dtype=np.float64)
    asked = (t1_ns - t0_ns) / NS_PER_S / tick_s
    if asked > MAX_TICKS_PER_SAMPLE * at_s.size:
        refuse(
            "samples", scope=phase_id, measured=at_s.size / asked, limit=1 / MAX_TICKS_PER_SAMPLE, unit="samples per tick",
            reason=f"{at_s.size} samples lie in {asked:.4g} ticks of {tick_s:g} s (needed: 1 in {MAX_TICKS_PER_SAMPLE:g}): nearly all gap",
            remedy="judge the stretches on either side of the gap apart",
        )  # fmt: skip
    ticks = np.arange(tick_s, (t1_ns - t0_ns) / NS_PER_S + 1e-9, tick_s)
    if ticks.size < MIN_TICKS or at_s.size < MIN_TICKS:
        refuse(
            "ticks", scope=phase_id, measured=float(min(ticks.size, at_s.size)), limit=float(MIN_TICKS), unit="ticks",
            reason=f"the phase holds {ticks.size} ticks of {tick_s:g} s and {at_s.size} samples (needed: {MIN_TICKS})",
            remedy="measure longer, or shorten the tick",
        )  # fmt: skip
    index = np.maximum(np.searchsorted(at_s, ticks, side="right") - 1, 0)
    seen = np.asarray(np.abs(ticks - at_s[index]) <= GAP_PERIODS * max(tick_s, float(np.median(np.diff(at_s)))), dtype=bool)
    if np.count_nonzero(seen) < MIN_TICKS:
        refuse(
            "ticks", scope=phase_id, measured=float(np.count_nonzero(seen)), limit=float(MIN_TICKS), unit="ticks",
            reason=f"{np.count_nonzero(seen)} of {ticks.size} ticks have a reading (needed: {MIN_TICKS}): nearly all gap",
            remedy="measure longer, or judge the stretches on either side of the gap apart",
        )  # fmt: skip

    def column(*names: str) -> FloatArray | None:
        return next((np.asarray(trace.values(name))[index] for name in names if trace.has(name)), None)

    power = power_of(trace)
    busy = column("utilisation_ratio", "utilisation_cpu_ratio")
    counters = {name: found for name in COUNTERS if (found := column(name)) is not None}
    return Telemetry(
        t_s=ticks, utilisation_ratio=np.full(ticks.size, np.nan) if busy is None else busy, temperature_c=column("temperature_c"),
        power_w=None if power is None else _tick_means(power[0] - t0_ns / NS_PER_S, power[1], ticks, tick_s),
        clock_hz=column("sm_clock_hz", "frequency_hz"), reasons=column("event_reasons"), throttled_ns=counters, seen=seen,
    )  # fmt: skip


def _tick_means(at_s: FloatArray, values: FloatArray, ticks: FloatArray, tick_s: float) -> FloatArray:
    """Mean over the time before each tick, from the integral of the readings."""
    known = np.isfinite(values)
    at, values = at_s[known], values[known]
    total = np.concatenate([[0.0], np.cumsum(np.diff(at) * (values[1:] + values[:-1]) / 2)])
    return np.asarray((np.interp(ticks, at, total) - np.interp(ticks - tick_s, at, total)) / tick_s, dtype=np.float64)


def true_telemetry_of(data: RunData, phase_id: str, tick_s: float) -> Telemetry | None:
    """The same as the twin went through it; None for a real device."""
    phase = data.phase(phase_id)
    table = data.truth_table(phase.instrument)
    if table is None:
        return None
    ticks = np.arange(tick_s, (int(phase.t1_ns or 0) - phase.t0_ns) / NS_PER_S + 1e-9, tick_s)
    at_ns = phase.t0_ns + np.round(ticks * NS_PER_S).astype(np.int64)
    segment = np.maximum(np.searchsorted(table["t_ns"], at_ns, side="right") - 1, 0)
    return Telemetry(
        t_s=ticks, utilisation_ratio=table["utilisation_ratio"][segment], temperature_c=np.interp(at_ns, table["t_ns"], table["node_0_c"]),
        power_w=power_at(table, at_ns), clock_hz=table["sm_clock_hz"][segment], reasons=table["event_reasons"][segment].astype(np.float64),
    )  # fmt: skip


def watched(parameters: Parameters, data: RunData, phase_key: str = "phase") -> Watched:
    """A device and the outcome of the rule, once per run."""
    phase, rule, tick_s = str(parameters[phase_key]), str(parameters["rule"]), float(parameters["tick_s"])
    key = f"watched|{phase}|{rule}|{tick_s}"
    if key not in data.memory:
        telemetry, name = telemetry_of(data, phase, tick_s), data.phase(phase).instrument
        outcome = RULES[rule](telemetry)
        if not (outcome.evidence or RULES[rule].legacy):
            refuse(
                "independent evidence", scope=phase, measured=0.0, limit=1.0, unit="channels",
                reason=f"{name} has neither reasons nor throttle counters of its driver: no event could be found, whatever happened",
                remedy="record a device that has them; this one can be judged by its clock and temperature only",
            )  # fmt: skip
        data.memory[key] = Watched(name=name, telemetry=telemetry, outcome=outcome)
    found: Watched = data.memory[key]
    return found


def _true(parameters: Parameters, data: RunData, phase_key: str = "phase") -> Watched | None:
    if RULES[str(parameters["rule"])].legacy:
        return None  # defined on rounded readings: of true temperatures they would say something else
    telemetry = true_telemetry_of(data, str(parameters[phase_key]), float(parameters["tick_s"]))
    if telemetry is None or len(telemetry.t_s) < MIN_TICKS:
        return None
    name = data.phase(str(parameters[phase_key])).instrument
    return Watched(name=name, telemetry=telemetry, outcome=RULES[str(parameters["rule"])](telemetry))


def _host(data: RunData, phase_id: str) -> tuple[Gate, ...]:
    phase = data.phase(phase_id)
    return host_gates_of(data, phase.t0_ns, int(phase.t1_ns or phase.t0_ns), phase.instrument, phase.id)


def _one(unit: str, number: Callable[[Watched, Parameters], Estimate]) -> Callable[[Parameters, RunData], Estimate]:
    """A number of one device, with its gates; a refusal as a failed gate."""

    def measured(parameters: Parameters, data: RunData) -> Estimate:
        phase = str(parameters["phase"])
        provenance = provenance_of(data, data.phase(phase).instrument)
        try:
            of = watched(parameters, data)
            unable = _cannot_fire(unit, data, parameters, of)
            found = number(of, parameters) if unable is None else unable
        except RefusedError as refusal:
            return replace(no_value(unit, refusal.gate, "refused"), provenance=provenance)
        return replace(found, provenance=provenance, gates=(*found.gates, *_host(data, phase)))

    return measured


def _bounded(  # noqa: PLR0917 -- value, interval, and what it is
    value: float, low: float, high: float, unit: str, source: str, label: str, estimator: str
) -> Estimate:
    """An estimate whose symmetric interval holds one that is not symmetric."""
    u = max(value - low, high - value) / coverage_factor(math.inf)
    component = Component(label=label, source=source, contribution=u, evaluation="A")
    return Estimate(value=value, unit=unit, components=(component,) if u else (), quality=Quality.GOOD, estimator=estimator)


def _counted(found: Watched) -> EventRate:
    return event_rate(len(events(found.telemetry, found.outcome)), exposure_s(found.telemetry, found.outcome))


def _cannot_fire(unit: str, data: RunData, parameters: Parameters, found: Watched, phase_key: str = "phase") -> Estimate | None:
    """What is said where the rule could not have flagged anything: the device never loaded, or this sensor too coarse; None elsewhere."""
    if found.outcome.flags.any():
        return None
    if not found.outcome.loaded.any():
        return _never_loaded(unit, parameters, found, phase_key)
    rule, phase = RULES[str(parameters["rule"])], str(parameters[phase_key])
    if rule.needed_rows == 1:
        return None  # it needs no rows in a row: neither step nor period can keep it from firing
    channels = data.instrument(found.name).channels
    step_c = next((c.resolution for c in channels if c.name == "temperature_c"), 0.0) or 1.0
    able = _reach(rule.id, float(parameters["tick_s"]), float(step_c))
    said = f"on simulated controls with a step of {step_c:g} °C {rule.id} {able.reason}"
    return None if able.reachable else not_tested("reach of the rule", phase, unit, said)


def _never_loaded(unit: str, parameters: Parameters, found: Watched, phase_key: str = "phase") -> Estimate:
    busy = found.telemetry.utilisation_ratio[found.seen]
    known = busy[np.isfinite(busy)]
    highest = f"its utilisation was at most {known.max():.0%}" if known.size else "it has no utilisation"
    rule = RULES[str(parameters["rule"])]
    gate = f"{rule.parameters.get('load_utilisation', LOAD_UTILISATION):.0%}"
    gate += f", {rule.parameters['warmup_s']:g} s after the begin" if "warmup_s" in rule.parameters else ""
    reason = f"{found.name} was never under load by {rule.id} ({highest}, needed: {gate}): no event was possible"
    return not_tested("events", str(parameters[phase_key]), unit, reason)


def _rate(found: Watched, parameters: Parameters) -> Estimate:
    rate = _counted(found)
    if rate.per_hour is None:
        return _never_loaded("event/h", parameters, found)
    source = f"rate|{parameters['phase']}|{parameters['rule']}"
    said = f"{rate.events} events in {rate.exposure_s:.4g} s under load{found.gaps}"
    return _bounded(rate.per_hour, rate.low, rate.high, "event/h", source, "few events", said)


def _free(found: Watched, parameters: Parameters) -> Estimate:
    if not found.outcome.loaded.any():
        return _never_loaded("1", parameters, found)
    judged = found.outcome.judged
    share = event_free_share(float(parameters["tick_s"]) * np.arange(judged.size), judged)
    components = share_components(share, source=f"free|{parameters['phase']}|{parameters['rule']}")
    said = f"{share.n_eff:.3g} effective readings{found.gaps}"
    return Estimate(value=share.value, unit="1", components=components, quality=Quality.GOOD, estimator=said)


def _flagged(found: Watched, parameters: Parameters) -> Estimate:
    share = flag_share(found.outcome.judged)
    source = f"flagged|{parameters['phase']}|{parameters['rule']}"
    return _bounded(share.value, share.low, share.high, "1", source, "runs of flags", f"{share.flagged} of {share.rows} ticks{found.gaps}")


def _onset(found: Watched, parameters: Parameters) -> Estimate:
    known = events(found.telemetry, found.outcome)
    tick_s = float(parameters["tick_s"])
    if not known:
        length = float(found.telemetry.t_s[-1])
        return not_tested("first event", str(parameters["phase"]), "s", f"{found.name} had no event in {length:.4g} s")
    return Estimate(
        value=known[0].start_s, unit="s", components=(part("tick", f"onset|{parameters['phase']}", tick_s / math.sqrt(3)),),
        quality=Quality.GOOD, estimator=f"first of {len(known)} events{found.gaps}",
    )  # fmt: skip


def _truth_of(unit: str, number: Callable[[Watched, Parameters], Estimate]) -> Callable[[Parameters, RunData], Estimate | None]:
    def truth(parameters: Parameters, data: RunData) -> Estimate | None:
        found = _true(parameters, data)
        if found is None:
            return None
        value = number(found, parameters).value
        return exactly(value if math.isfinite(value) else None, unit)

    return truth


for _op, _unit, _number in (
    ("events.rate", "event/h", _rate),
    ("events.free_share", "1", _free),
    ("events.flag_share", "1", _flagged),
    ("events.onset", "s", _onset),
):
    leaf(_op, truth=_truth_of(_unit, _number))(_one(_unit, _number))


# --- two devices ------------------------------------------------------------------------------------------------------


def contrast(parameters: Parameters, first: Watched, second: Watched) -> RateDifference:
    """Difference of the flagged shares of two devices over the ticks that both were seen in."""
    return rate_difference(*_parts(parameters, first, second))


STILL_S = 120.0
"""A thermometer of whole degrees may stand still for less."""


def _parts(parameters: Parameters, *found: Watched) -> list[Part]:
    """Both devices over their common ticks; under load is what the package's own gate says, for a legacy rule too."""
    ticks = min(w.telemetry.t_s.size for w in found)
    seen = np.all([w.seen[:ticks] for w in found], axis=0)
    long_enough = seen.sum() * float(parameters["tick_s"]) >= STILL_S
    parts = []
    for w in found:
        named = {"power": w.telemetry.power_w, "temperature": w.telemetry.temperature_c if long_enough else None}
        parts.append(
            Part(
                name=w.name, flags=w.outcome.flags[:ticks][seen], rule=str(parameters["rule"]),
                loaded=np.asarray(w.telemetry.utilisation_ratio[:ticks][seen] >= LOAD_UTILISATION, dtype=bool),
                channels={name: values[:ticks][seen] for name, values in named.items() if values is not None},
            )
        )  # fmt: skip
    return parts


def require_one_clock(data: RunData, phase_a: str, phase_b: str, tick_s: float) -> None:
    """Real devices share one clock and one span; simulated ones have equal loads, each in its own time."""
    phases = [data.phase(name) for name in (phase_a, phase_b)]
    clocks = [data.instrument(phase.instrument).clock for phase in phases]
    virtual = [clock.startswith(VIRTUAL) for clock in clocks]
    if all(virtual):
        return
    apart_s = abs(phases[0].t0_ns - phases[1].t0_ns) / NS_PER_S
    if any(virtual) or clocks[0] != clocks[1] or apart_s > tick_s:
        refuse(
            "one clock",
            scope=f"{phase_a} and {phase_b}",
            measured=None if any(virtual) or clocks[0] != clocks[1] else apart_s,
            limit=tick_s,
            unit="s",
            reason=f"the loads ran on the clocks '{clocks[0]}' and '{clocks[1]}', {apart_s:.3g} s apart (limit: a tick of {tick_s:g} s)",
            remedy="load both devices at the same time, on one clock",
        )


def _pair(
    unit: str, number: Callable[[Parameters, RunData], Estimate], *, of_flags: bool = True
) -> Callable[[Parameters, RunData], Estimate]:
    """A number of two devices with its gates; one ``of_flags`` needs a contrast and a rule that can fire."""

    def measured(parameters: Parameters, data: RunData) -> Estimate:
        names = [str(parameters[key]) for key in ("phase", "span")]
        provenance = Provenance.weakest(*(provenance_of(data, data.phase(name).instrument) for name in names))
        try:
            require_one_clock(data, names[0], names[1], float(parameters["tick_s"]))
            unable = _no_contrast(unit, parameters, data) if of_flags else None
            found = number(parameters, data) if unable is None else unable
        except RefusedError as refusal:
            return replace(no_value(unit, refusal.gate, "refused"), provenance=provenance)
        return replace(found, provenance=provenance, gates=(*found.gates, *(gate for name in names for gate in _host(data, name))))

    return measured


def _no_contrast(unit: str, parameters: Parameters, data: RunData) -> Estimate | None:
    """Refuse what is no contrast, of shares, rates and first events alike; not tested where the rule cannot fire on one of the sensors."""
    found = [watched(parameters, data, key) for key in ("phase", "span")]
    require_contrast(*_parts(parameters, *found))
    said = [_cannot_fire(unit, data, parameters, w, key) for w, key in zip(found, ("phase", "span"), strict=True)]
    return next((estimate for estimate in said if estimate is not None), None)


def _share_difference(parameters: Parameters, data: RunData) -> Estimate:
    pair = (watched(parameters, data), watched(parameters, data, "span"))
    found = contrast(parameters, *pair)
    gone = min(w.seen.size for w in pair) - found.n
    source = f"difference|{parameters['phase']}|{parameters['span']}|{parameters['rule']}"
    label = f"Newcombe, {found.n_eff:.3g} effective of {found.n} ticks"
    said = f"paired ticks, McNemar p = {found.p_ticks:.3g}, by effective ticks {found.p:.3g}{_left_out(gone)}"
    return _bounded(found.value, found.low, found.high, "1", source, label, said)


def _share_difference_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    pair = (_true(parameters, data), _true(parameters, data, "span"))
    if pair[0] is None or pair[1] is None:
        return None
    first, second = (float(found.outcome.flags.mean()) for found in pair if found is not None)
    return exactly(first - second, "1")


def _rate_difference(parameters: Parameters, data: RunData) -> Estimate:
    rates = [_counted(watched(parameters, data, key)) for key in ("phase", "span")]
    found = event_rate_difference(*rates)
    source = f"rates|{parameters['phase']}|{parameters['span']}|{parameters['rule']}"
    said = f"{rates[0].events} and {rates[1].events} events, exact conditional p = {found.p:.3g}"
    return _bounded(found.value, found.low, found.high, "event/h", source, "few events", said)


def _rate_difference_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    rates = [_counted(found).per_hour for key in ("phase", "span") if (found := _true(parameters, data, key)) is not None]
    known = [rate for rate in rates if rate is not None]
    return exactly(known[0] - known[1], "event/h") if len(known) == 2 else None


def _needed_ticks(parameters: Parameters, data: RunData) -> Estimate:
    found = contrast(parameters, watched(parameters, data), watched(parameters, data, "span"))
    if not math.isfinite(found.needed_ticks):
        return not_tested("ticks for 80 % power", f"{parameters['phase']} and {parameters['span']}", "1", "the shares do not differ")
    return Estimate(
        value=found.needed_ticks, unit="1", quality=Quality.GOOD, estimator=f"80 % power; {found.design_effect:.3g} ticks are one trial"
    )


def _onset_difference(parameters: Parameters, data: RunData) -> Estimate:
    """First event of a less first event of b; without a value where a device had none: it is only known to be later than the end."""
    found = [watched(parameters, data), watched(parameters, data, "span")]
    known = [events(w.telemetry, w.outcome) for w in found]
    if not any(known):
        return not_tested("first event", f"{parameters['phase']} and {parameters['span']}", "s", "neither device had an event")
    if not all(known):
        without, other = (0, 1) if known[1] else (1, 0)
        return not_tested(
            "first event", f"{parameters['phase']} and {parameters['span']}", "s",
            f"{found[without].name} had none: its first event is later than {found[without].telemetry.t_s[-1]:.4g} s, "
            f"that of {found[other].name} came at {known[other][0].start_s:.4g} s",
        )  # fmt: skip
    starts = [events_[0].start_s for events_ in known]
    said = ", ".join(f"{w.name} at {s:.4g} s" for w, s in zip(found, starts, strict=True))
    u = float(parameters["tick_s"]) / math.sqrt(3) * math.sqrt(2)
    component = part("ticks", f"onset|{parameters['phase']}|{parameters['span']}", u)
    return Estimate(value=starts[0] - starts[1], unit="s", components=(component,), quality=Quality.GOOD, estimator=said)


def _efficiency_difference(parameters: Parameters, data: RunData) -> Estimate:
    """Work per net joule of a less that of b, each relative to its own first blocks, paired block by block."""
    series = [_relative_efficiency(parameters, data, key) for key in ("phase", "span")]
    n = min(values.size for values, _ in series)
    found = efficiency_difference(series[0][0][:n], series[1][0][:n])
    source = f"efficiency|{parameters['phase']}|{parameters['span']}"
    paired = int(np.isfinite(series[0][0][:n] - series[1][0][:n]).sum())
    estimate = _bounded(
        found.value,
        found.low,
        found.high,
        "1",
        source,
        "scatter of effective blocks",
        f"{paired} paired blocks, p of their scatter {found.p:.3g}",
    )
    references = tuple(
        part("first blocks", f"reference|{parameters[key]}", u, dof=REFERENCE_BLOCKS - 1, evaluation="A")
        for key, (_, u) in zip(("phase", "span"), series, strict=True)
    )
    return replace(estimate, components=(*estimate.components, *references))


def _relative_efficiency(parameters: Parameters, data: RunData, key: str) -> tuple[FloatArray, float]:
    """Work per net joule in blocks of ticks, NaN where the device rested, over the mean of the first ones, and that mean's uncertainty."""
    phase = data.phase(str(parameters[key]))
    table = data.table(str(parameters[f"work_{key}"]))
    tick_s = float(parameters["tick_s"])
    power = power_of(data.trace(phase.instrument).between(phase.t0_ns, int(phase.t1_ns or phase.t0_ns)))
    if power is None:
        refuse(
            "metered device",
            scope=phase.id,
            measured=None,
            limit=None,
            unit="",
            reason=f"{phase.instrument} has neither power nor energy",
            remedy="compare event rates, or meter the device",
        )
    idle = idle_of([data.baseline(name) for name in parameters.get(f"baselines_{key}", ())])
    idle_w = 0.0 if idle is None else float(np.mean(idle.power_w))
    loaded = watched(parameters, data, key).outcome.loaded
    blocks = loaded.size // EFFICIENCY_BLOCK_TICKS
    edges: FloatArray = tick_s * EFFICIENCY_BLOCK_TICKS * np.arange(1, blocks + 1, dtype=np.float64)
    net_w = _tick_means(power[0] - phase.t0_ns / NS_PER_S, power[1], edges, tick_s * EFFICIENCY_BLOCK_TICKS) - idle_w
    done = np.interp(edges, (table["t_ns"] - phase.t0_ns) / NS_PER_S, np.cumsum(table["work"]))
    rate = np.diff(done, prepend=0.0) / (tick_s * EFFICIENCY_BLOCK_TICKS)
    whole = np.asarray(loaded[: blocks * EFFICIENCY_BLOCK_TICKS].reshape(blocks, EFFICIENCY_BLOCK_TICKS).all(axis=1), dtype=bool)
    whole[1:] &= whole[:-1].copy()  # the block in which the load begins is mixed
    with np.errstate(divide="ignore", invalid="ignore"):
        efficiency = np.where(whole & (net_w > 0), rate / net_w, np.nan)
    first = efficiency[np.isfinite(efficiency)][:REFERENCE_BLOCKS]
    if first.size < REFERENCE_BLOCKS:
        refuse(
            "blocks under load", scope=phase.id, measured=float(first.size), limit=float(REFERENCE_BLOCKS), unit="blocks",
            reason=f"{phase.instrument} has {first.size} blocks of {EFFICIENCY_BLOCK_TICKS} ticks under load (needed: {REFERENCE_BLOCKS})",
            remedy="load it longer",
        )  # fmt: skip
    reference = float(first.mean())
    u = float(first.std(ddof=1)) / math.sqrt(REFERENCE_BLOCKS) / reference
    return np.asarray(efficiency / reference, dtype=np.float64), u


leaf("differential.share", truth=_share_difference_truth)(_pair("1", _share_difference))
leaf("differential.rate", truth=_rate_difference_truth)(_pair("event/h", _rate_difference))
leaf("differential.needed_ticks")(_pair("1", _needed_ticks))
leaf("differential.onset")(_pair("s", _onset_difference))
leaf("differential.efficiency")(_pair("1", _efficiency_difference, of_flags=False))


# --- what a rule can and cannot do ------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _reach(rule: str, period_s: float, resolution_c: float) -> Reach:
    """Whether a rule can fire on a sensor of this period and step, on the simulated controls of ``rule.number``."""
    known = controls(period_s=period_s, resolution_c=resolution_c)
    judged = RULES[rule]
    return reach(judged, known.throttled, *(judged(telemetry) for telemetry in (known.throttled, known.noise, known.idle)))


@lru_cache(maxsize=8)
def _numbers(period_s: float, resolution_c: float) -> Any:  # noqa: ANN401 -- rule id to its numbers
    return rule_numbers(period_s=period_s, resolution_c=resolution_c)


@leaf("rule.number")
def rule_number(parameters: Parameters, data: RunData) -> Estimate:  # noqa: ARG001 -- the shape of every leaf
    """One of the numbers that a rule ships with, on simulated controls for a sensor of this period and step.

    ``quantity``: ``idle`` and ``noise`` are shares of rows with a false alarm, ``detection`` is the share of injected episodes found,
    ``reach`` is 1 where the rule can fire on such a sensor and 0 where it cannot.
    """
    found: RuleNumbers = _numbers(float(parameters["period_s"]), float(parameters["resolution_c"]))[str(parameters["rule"])]
    quantity = str(parameters["quantity"])
    source = f"rule|{found.rule}|{quantity}"
    if quantity == "reach":
        estimate = Estimate(value=float(found.reach.reachable), unit="1", quality=Quality.GOOD, estimator=found.reach.reason)
    elif quantity == "detection":
        d = found.throttling
        estimate = _bounded(d.rate, d.low, d.high, "1", source, "episodes", f"{d.found} of {d.episodes} injected episodes")
    else:
        share = {"idle": found.idle, "noise": found.noise}[quantity]
        estimate = _bounded(share.value, share.low, share.high, "1", source, "rows in runs", f"{share.flagged} of {share.rows} rows")
    return replace(estimate, provenance=Provenance.SIMULATED)
