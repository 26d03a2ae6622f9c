"""Energy and latency per repetition, from the batches in which a short event was repeated.

Each batch is a window; its work ``repetitions`` says how often the event ran in it. Two ways to one number:

* :func:`batch_mean`, for estimates of batches whose errors are independent: an energy counter, or a sensor that looks all the time.
  The independent part of the uncertainty is the larger of what the budgets say and what the scatter of successive batches shows.
* :func:`phase_average`, for a sensor that looks W of every T. One batch says little: what it reads depends on where in the sensor's
  period it began. Its above-idle energy as a function of that phase has the true energy as its mean over one period, exactly, because
  Σ_k T·h(t − kT) has mean 1. So the batches are put in the order of their *achieved* phases (window starts on the comb found in the
  same samples) and integrated round the circle by the trapezoid rule: uneven phases do no harm, gaps in them do, and a gate measures
  those. The scatter about the line between neighbours in phase is the uncertainty: noise, jumps the phases did not resolve, and
  differences between the batches alike.

The idle level that fills the time before and after each batch is read there, between the batches. Assumes an idle device between
them. Fails as NaN without samples on both sides, and by its gates.

A number that was looked at several times before one stopped has the 5 % shared by all looks (``looks``): see
:class:`~pytest_physics.metrology.repetition.LookSchedule`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.metrology.energy import IdlePower, PowerSeries
from pytest_physics.metrology.latency import QuantileInterval, quantile_interval
from pytest_physics.metrology.quality import Quality, tier
from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.repetition import (
    MAX_DISCREPANCY,
    LookSchedule,
    PhaseMean,
    commensurability_gate,
    first_versus_rest,
    locked_within,
    phase_mean,
    scatter_of_mean,
)
from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.uncertainty import Component, Estimate, Gate, coverage_factor
from pytest_physics.metrology.uncertainty import mean as mean_of
from pytest_physics.metrology.update_period import fit_update_period
from pytest_physics.metrology.updates import FloatArray, seconds_since
from pytest_physics.metrology.window_energies import TYPE_B_DOF
from pytest_physics.record.data import RunData
from pytest_physics.record.scale import baseline_on_scale, on_true_scale
from pytest_physics.record.schema import BaselineRecord, WindowRecord
from pytest_physics.record.window_energy import RULES, energy_reach_ns, idle_of, no_baseline_gate, quiet_gates, state_gates
from pytest_physics.sampling.trace import Trace

REPETITIONS = "repetitions"
"""Name of the work that counts them in a batch's window."""
PHASE_AVERAGE = "phase average of batches"
BETWEEN = "between batches"
AGREEMENT_FACTOR = 3.0
"""Counter and power sensor may differ by this many standard uncertainties, their scales included."""


def repetitions_of(window: WindowRecord) -> float:
    """How often the event ran in a batch."""
    return window.work[REPETITIONS]


# --- batches with independent errors ---------------------------------------------------------------------------------


def batch_mean(batches: Sequence[Estimate], *, looks: Sequence[int]) -> Estimate:
    """Mean over batches, each in units per repetition; errors that the batches share stay as they are."""
    plain = mean_of(batches)
    if len(batches) < 2:
        return plain
    sources = [{c.source for c in batch.components} for batch in batches]
    shared = {source for source in set.union(*sources) if sum(source in own for own in sources) > 1}
    scatter = _scatter(batches, [c for c in plain.components if c.source not in shared], tuple(looks))
    values = np.array([batch.value for batch in batches])
    first = (first_versus_rest(values, scope="batches", unit=plain.unit),) if np.isfinite(values).all() else ()
    components = (*(c for c in plain.components if c.source in shared), *((scatter,) if scatter.contribution else ()))
    return replace(plain, components=components, gates=(*plain.gates, *first))


def _scatter(batches: Sequence[Estimate], own: Sequence[Component], looks: tuple[int, ...]) -> Component:
    """One line for all that is each batch's own: the larger of what budgets and scatter say."""
    values = np.array([batch.value for batch in batches])
    u, dof = math.sqrt(sum(c.contribution**2 for c in own)), math.inf
    seen_u, seen_dof = scatter_of_mean(values)
    if seen_u > u:
        u, dof = seen_u, seen_dof
    return _between(u, dof, looks, identity=repr(values.tolist()))


def _between(u: float, dof: float, looks: tuple[int, ...], *, identity: str) -> Component:
    """Scatter as a component, widened for the looks it was stopped by."""
    widening = LookSchedule(looks=looks).coverage_factor(dof) / coverage_factor(dof) if len(looks) > 1 else 1.0
    return Component(label=BETWEEN, source=f"batches|{identity}", contribution=u * widening, dof=dof, evaluation="A")


def cross_checked(inputs: Sequence[Estimate]) -> Estimate:
    """The first of two estimates of one energy, with a gate that says whether the second agrees."""
    chosen, other = inputs
    return replace(chosen, gates=(*chosen.gates, agreement_gate(chosen, other)))


def agreement_gate(chosen: Estimate, other: Estimate) -> Gate:
    """Whether energy counter and power readings tell the same energy, as far as their scales are known."""
    u = AGREEMENT_FACTOR * math.hypot(chosen.u, other.u) / abs(chosen.value) if chosen.value else math.nan
    difference = abs(other.value / chosen.value - 1) if chosen.value else math.nan
    passed = difference <= u
    return Gate(
        name="counter and power agree", scope="energy per repetition", measured=difference, limit=u, unit="1", passed=passed,
        reason=f"by {chosen.estimator} an event takes {chosen.value:.4g} {chosen.unit}, by {other.estimator} {other.value:.4g} "
        f"{other.unit}: {difference:.2%} apart (limit {u:.2%})",
        remedy="" if passed else "find out which of the two is wrong (bench/test_instrument_response.py), then insist on the other one",
    )  # fmt: skip


# --- batches at known phases of the sensor ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batches:
    """Batches in their trace; arrays of shape (M,), times in seconds from the series' origin."""

    windows: Sequence[WindowRecord]
    trace: Trace
    series: PowerSeries
    t0_s: FloatArray
    t1_s: FloatArray
    count: FloatArray
    """Repetitions in each."""
    quiet_from_s: FloatArray
    """Idle readings before each batch begin here; and after the last one, shape (M + 1,)."""
    quiet_to_s: FloatArray

    @property
    def per_event_s(self) -> FloatArray:
        """Length of a batch over its repetitions."""
        return (self.t1_s - self.t0_s) / self.count


def phase_average(
    data: RunData,
    windows: Sequence[WindowRecord],
    *,
    kind: str,
    baselines: Sequence[BaselineRecord],
    sensor: SensorModel,
    looks: Sequence[int],
    rules: int = RULES,
) -> Estimate:
    """Gross or net energy per repetition from power readings of batches at phases of the sensor's period.

    Parameters
    ----------
    windows
        The batches, in order of time.
    kind
        ``gross`` or ``net``.
    baselines
        Idle baselines in order of time; net energy subtracts their mean power.
    sensor
        What is known of the power channel.
    looks
        Numbers of batches at which the number was looked at, fixed in advance.
    rules
        Version of the rules, see :data:`~pytest_physics.record.window_energy.RULES`.
    """
    seen = _seen(data, windows, sensor)
    baselines = [baseline_on_scale(baseline, data.sensor(baseline.sensor), sensor) for baseline in baselines]
    batches, averaged, period_s = seen.batches, seen.averaged, seen.period_s
    length_s = float(np.mean(batches.per_event_s))
    baseline = idle_of([baseline_on_scale(record, data.sensor(record.sensor), sensor) for record in baselines])
    instrument = windows[0].instrument
    components = _components(averaged, length_s, kind, instrument=instrument, sensor=sensor, baseline=baseline, looks=tuple(looks))
    scope = f"{windows[0].id} to {windows[-1].id}"
    estimate = Estimate(
        value=_value(averaged.mean, length_s, kind, baseline, windows), unit="J", components=components, estimator=PHASE_AVERAGE,
        gates=(
            *seen.comb_gates,
            commensurability_gate(batches.t0_s, period_s, scope=scope),
            _in_step_gate(batches, period_s, scope),
            first_versus_rest(averaged.mean + averaged.residual, scope=scope),
            # an event may pause: utilisation without power, which says 'stalled' elsewhere, says nothing here, so no baseline is given
            *(gate for window in windows for gate in state_gates(data, window, sensor, None)),
            *(gate for window in windows if rules >= RULES for gate in quiet_gates(data, window, sensor, baselines)),
            *((no_baseline_gate(data, windows[0]),) if baseline is None and kind == "net" else ()),
        ),
    )  # fmt: skip
    return replace(estimate, quality=_quality(data, batches, estimate))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What gross and net energy have in common."""

    batches: _Batches
    averaged: PhaseMean
    """Gross energy per repetition."""
    period_s: float
    comb_gates: tuple[Gate, ...]


def _seen(data: RunData, windows: Sequence[WindowRecord], sensor: SensorModel) -> _Seen:
    """Computed once for one set of batches: its samples are complete when it is first asked for."""
    key = f"phase average|{[window.id for window in windows]}|{sensor}"
    if key not in data.memory:
        batches = _batches(data, windows, sensor)
        period_s, comb_gates = _comb(batches.trace, sensor, windows[0].instrument)
        averaged = phase_mean(_gross_j(batches, sensor), batches.t0_s / period_s)
        data.memory[key] = _Seen(batches=batches, averaged=averaged, period_s=period_s, comb_gates=comb_gates)
    found: _Seen = data.memory[key]
    return found


def _batches(data: RunData, windows: Sequence[WindowRecord], sensor: SensorModel) -> _Batches:
    instrument, reach_ns = windows[0].instrument, energy_reach_ns(sensor)
    tail_ns, first, last = round(sensor.tail_s * NS_PER_S), windows[0], windows[-1]
    starts, ends = data.window_edges(instrument)
    earlier = max((end for end in ends if end <= first.t0_ns), default=first.t0_ns - 2 * reach_ns)
    later = min((start for start in starts if start >= last.t1_ns), default=last.t1_ns + reach_ns)
    quiet_from = [max(earlier + tail_ns, first.t0_ns - reach_ns), *(w.t1_ns + tail_ns for w in windows)]
    quiet_to = [*(w.t0_ns for w in windows), min(later, last.t1_ns + reach_ns)]
    trace = on_true_scale(data.trace(instrument).between(first.t0_ns - 2 * reach_ns, last.t1_ns + reach_ns, margin=1), sensor)
    power = np.asarray(trace.values("power_w"))
    series = PowerSeries.of(trace.t_ns, power, sensor=sensor, gap_threshold_s=data.settings.sampling.gap_threshold_s)

    def seconds(t_ns: Sequence[int]) -> FloatArray:
        return seconds_since(np.asarray(t_ns, np.int64), series.origin_ns)

    return _Batches(
        windows=windows, trace=trace, series=series, t0_s=seconds([w.t0_ns for w in windows]), t1_s=seconds([w.t1_ns for w in windows]),
        count=np.array([repetitions_of(w) for w in windows]), quiet_from_s=seconds(quiet_from), quiet_to_s=seconds(quiet_to),
    )  # fmt: skip


def _comb(trace: Trace, sensor: SensorModel, scope: str) -> tuple[float, tuple[Gate, ...]]:
    """Update period in these very samples; where they do not show it, the model's, with a gate unless that was identified."""
    before, after = np.asarray(trace.rows["t_before_ns"]), np.asarray(trace.rows["t_after_ns"])
    try:
        return fit_update_period(before, after, np.asarray(trace.values("power_w")), scope=scope).period_s, ()
    except RefusedError as refusal:
        return sensor.update_period_s, (replace(refusal.gate, warning=sensor.origin == "identified"),)


def _gross_j(batches: _Batches, sensor: SensorModel) -> FloatArray:
    """Energy per repetition of each batch: above-idle energy from its start to the sensor's tail, and idle energy while it ran."""
    series, tail_s = batches.series, sensor.tail_s
    level, _ = series.moments(batches.quiet_from_s, batches.quiet_to_s)
    level = np.where(np.isfinite(level), level, np.nanmean(level) if np.isfinite(level).any() else np.nan)
    head_share = (sensor.delay_s + sensor.window_s / 2 + sensor.lag_s) / tail_s
    idle_w = head_share * level[:-1] + (1 - head_share) * level[1:]
    end_s = batches.t1_s + tail_s
    above = series.integral_j(end_s) - series.integral_j(batches.t0_s) - idle_w * (end_s - batches.t0_s)
    gross = (above + idle_w * (batches.t1_s - batches.t0_s)) / batches.count
    seen = (batches.t0_s >= series.first_s) & (end_s <= series.last_s)
    return np.where(seen, gross, np.nan)


def _in_step_gate(batches: _Batches, period_s: float, scope: str) -> Gate:
    """Whether the event comes in step with the sensor; a warning, because batches at all phases see it whole."""
    event_s = batches.per_event_s
    u_s = float(np.std(event_s)) / math.sqrt(len(event_s))
    discrepancy = locked_within(float(np.mean(event_s)), u_s, period_s, round(float(batches.count.sum())))
    passed = discrepancy <= MAX_DISCREPANCY
    return Gate(
        name="event in step with the sensor", scope=scope, measured=discrepancy, limit=MAX_DISCREPANCY, unit="1", passed=passed,
        warning=True,
        reason=f"events every {np.mean(event_s) * 1e3:.4g} ms, repeated without a break, would meet the phases of the sensor's "
        f"{period_s * 1e3:.4g} ms period with discrepancy {discrepancy:.3f} (limit {MAX_DISCREPANCY})",
        remedy="" if passed else "nothing: these batches began at other phases; a window around many such events would be wrong",
    )  # fmt: skip


def _value(gross_j: float, length_s: float, kind: str, baseline: IdlePower | None, windows: Sequence[WindowRecord]) -> float:
    if kind == "gross":
        return gross_j
    if baseline is None:
        return math.nan
    middle = np.array([(windows[0].t0_ns + windows[-1].t1_ns) // 2])
    return gross_j - float(baseline.at(middle)[0]) * length_s


def _components(
    averaged: PhaseMean, length_s: float, kind: str, *, instrument: str, sensor: SensorModel, baseline: IdlePower | None,
    looks: tuple[int, ...],
) -> tuple[Component, ...]:  # fmt: skip
    """Scatter, gain, and what the kind of energy adds: the zero for gross, the baseline for net energy."""
    idle_w = float(np.mean(baseline.power_w)) if baseline else 0.0
    value = averaged.mean - (idle_w * length_s if kind == "net" else 0.0)
    lines = [_between(averaged.u, averaged.dof, looks, identity=f"{instrument}|{averaged.mean!r}|{averaged.u!r}")]
    lines.append(
        Component(label="gain", source=f"gain|{instrument}", contribution=sensor.u_gain * value, dof=TYPE_B_DOF, common_scale=True)
    )
    if kind == "gross":
        lines.append(Component(label="offset", source=f"offset|{instrument}", contribution=sensor.u_offset_w * length_s, dof=TYPE_B_DOF))
    elif baseline is not None:
        source = f"baseline|{instrument}|{baseline.identity}"
        u_j = -baseline.u_with_drift_w * length_s
        lines.append(Component(label="baseline", source=source, contribution=u_j, dof=baseline.dof, evaluation="A"))
    return tuple(line for line in lines if line.contribution)


def _quality(data: RunData, batches: _Batches, estimate: Estimate) -> Quality:
    """Tier of all batches together."""
    series = batches.series
    end_s = batches.t1_s + series.sensor.tail_s
    updates = np.searchsorted(series.update_s, batches.t1_s, side="right") - np.searchsorted(series.update_s, batches.t0_s, side="left")
    gap_s = series.gaps.covered_s(batches.t0_s, end_s)
    return tier(
        n_updates=int(updates.sum()),
        gap_fraction=float(gap_s.sum() / (end_s - batches.t0_s).sum()),
        longest_gap_s=float(series.gaps.longest_in_s(batches.t0_s, end_s).max()),
        max_gap_s=data.settings.sampling.max_gap_s,
        bracketed=math.isfinite(estimate.value),
        duration_s=float((batches.t1_s - batches.t0_s).sum()),
        relative_uncertainty=estimate.relative_without_scale,
        interrupted=False,
    )


# --- latency ---------------------------------------------------------------------------------------------------------


def calls_s(windows: Sequence[WindowRecord]) -> FloatArray:
    """Durations of the calls that were timed one by one in these windows, in order."""
    return np.array([call for window in windows for call in window.calls_ns], dtype=np.float64) / NS_PER_S


def latency_estimate(windows: Sequence[WindowRecord], probability: float, *, resolution_s: float, first: WindowRecord | None) -> Estimate:
    """A quantile of the latency of single calls.

    Its interval is the larger side of the distribution-free one (order statistics), so that the stated one, symmetric, covers at least
    as often. Where calls are too few for a bound, a gate says how many it takes.

    Parameters
    ----------
    windows
        Windows that timed their calls.
    probability
        Which quantile: 0.5 for the median.
    resolution_s
        Of the clock; a constant latency is known no better.
    first
        Window of the very first call, compared with the others; None to leave that out.
    """
    calls = calls_s(windows)
    scope = f"{windows[0].id} to {windows[-1].id}"
    found = quantile_interval(calls, probability)
    bounded = math.isfinite(found.low) and math.isfinite(found.high)
    half = max(found.high - found.value, found.value - found.low) if bounded else 0.0
    lines = (
        Component(
            label="order statistics", source=f"latency|{scope}|{probability}", contribution=half / coverage_factor(math.inf), evaluation="A"
        ),
        Component(label="clock resolution", source=f"clock|{scope}", contribution=resolution_s / math.sqrt(6)),
    )
    return Estimate(
        value=found.value, unit="s", components=tuple(line for line in lines if line.contribution),
        quality=Quality.GOOD if bounded else Quality.NO_DATA, estimator="order statistics",
        gates=(_enough_calls(found, scope), *((_first_call(first, windows),) if first is not None else ())),
    )  # fmt: skip


def _enough_calls(found: QuantileInterval, scope: str) -> Gate:
    tail = 0.025
    # the rarer side decides: P(no call beyond the quantile) must be below the tail
    needed = math.ceil(math.log(tail) / math.log(max(found.probability, 1 - found.probability)))
    passed = math.isfinite(found.low) and math.isfinite(found.high)
    return Gate(
        name="calls enough for the quantile", scope=scope, measured=float(found.n), limit=float(needed), unit="calls", passed=passed,
        reason=f"{found.n} calls were timed (a 95 % interval of the {found.probability:.0%} quantile needs about {needed})",
        remedy="" if passed else "raise 'budget_s', or lower 'target', so that the event runs more often",
    )  # fmt: skip


def _first_call(first: WindowRecord, windows: Sequence[WindowRecord]) -> Gate:
    """Whole nanoseconds, so that equal latencies have no spread at all."""
    calls = [*first.calls_ns[:1], *(call for window in windows for call in window.calls_ns)]
    return first_versus_rest(np.array(calls, dtype=np.float64), scope=f"latency from {first.id}", unit="ns")
