"""Estimates about device memory, from ``probes.jsonl`` and ``allocations.jsonl``.

A *search* is one set of probes: a few well below the limit, from which the cliff is predicted, then passes upwards and downwards that find
it. Found and predicted cliff are kept apart to the end: the prediction never sees a probe of the search. The error of a prediction is that
of the bytes it expects at the found cliff, relative to the capacity; the found cliff lies in its bracket, rectangular.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from pytest_physics.devices.twin.memory import true_limit
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.metrology.memory import (
    FRAGMENTATIONS,
    AllocatorState,
    Bracket,
    BytesFit,
    MemoryPoint,
    ModelSizes,
    Outcome,
    TimeTrend,
    bracket,
    classify,
    contradictions,
    fit_bytes,
    growth_per_repeat,
    place,
    settled,
    slowdown,
    time_trend,
)
from pytest_physics.metrology.quality import Provenance, Quality
from pytest_physics.metrology.uncertainty import Component, Estimate, Gate
from pytest_physics.record.data import RunData
from pytest_physics.record.schema import AllocationRecord, ProbeRecord, StateRecord, SubjectRecord

Parameters = Mapping[str, Any]
Leaf = Callable[[Parameters, RunData], Estimate]
Truth = Callable[[Parameters, RunData], Estimate | None]

CAPACITY_TOLERANCE = 0.01
"""Share of the capacity by which it may move from probe to probe: a third of what a prediction may be wrong by."""
WELL_BELOW = 0.6
"""A prediction may use probes up to this share of the capacity beyond the weights: a large model leaves little of the whole."""
MEMORY_LIMITS = frozenset({Outcome.OUT_OF_MEMORY, Outcome.SPILL, Outcome.KILLED})
PARTS = ("weights", "cache", "activations", "workspace")
"""Where the bytes of a pass are: weights; key-value cache; activations, logits and scores; workspace and rounding."""
HELD = ("allocator slack", "other processes")
"""What is held beside a pass: by the allocator and not in use, and by others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """All that the probes of one search say."""

    id: str
    probes: Sequence[ProbeRecord]
    sizes: ModelSizes

    @classmethod
    def of(cls, data: RunData, search_id: str) -> Search:
        """Read one search."""
        probes = data.probes(search_id)
        return cls(id=search_id, probes=probes, sizes=sizes_of(probes[0].subject))

    @property
    def axis(self) -> str:
        """``context`` or ``batch``."""
        return self.probes[0].axis

    @property
    def other(self) -> int:
        """The size that the search does not vary."""
        return self.probes[0].batch if self.axis == "context" else self.probes[0].context

    @property
    def capacity_bytes(self) -> int:
        """The least that any probe had."""
        return min(probe.capacity_bytes for probe in self.probes)

    @property
    def well_below_bytes(self) -> float:
        """Largest peak that a prediction may use."""
        weights = min(self.sizes.weight_bytes, self.capacity_bytes)
        return weights + WELL_BELOW * (self.capacity_bytes - weights)

    @property
    def quadratic(self) -> bool:
        """Whether attention keeps its scores."""
        return self.probes[0].subject.attention == "eager"

    @property
    def predicting(self) -> list[MemoryPoint]:
        """Probes well below the limit."""
        return [point_of(probe) for probe in self.probes if probe.part == "prediction"]

    def trend(self) -> TimeTrend | None:
        """Time before the cliff."""
        return time_trend([p for p in self.predicting if (p.peak_bytes or 0) <= self.well_below_bytes])

    def fit(self) -> BytesFit:
        """Bytes over batch and context; ``ValueError`` where the probes do not determine it."""
        below = [p for p in self.predicting if (p.peak_bytes or math.inf) <= self.well_below_bytes]
        return fit_bytes(
            below, kv_bytes_per_token=self.sizes.kv_bytes_per_token, quadratic=self.quadratic, rounding_bytes=self.probes[0].rounding_bytes
        )

    def outcomes(self) -> list[tuple[ProbeRecord, Outcome]]:
        """What each probe shows."""
        trend = self.trend()
        return [(p, classify(point_of(p), capacity_bytes=p.capacity_bytes, trend=trend)) for p in self.probes]

    def passes(self) -> list[list[tuple[int, Outcome]]]:
        """Sizes and outcomes of each pass of the search, in order."""
        searched = [(p, outcome) for p, outcome in self.outcomes() if p.part != "prediction"]
        grouped = groupby(searched, key=lambda item: (item[0].part, item[0].repeat))
        return [settled([(size_of(probe), outcome) for probe, outcome in group]) for _, group in grouped]

    def brackets(self) -> list[Bracket]:
        """One per pass."""
        return [bracket(sizes) for sizes in self.passes()]

    @property
    def ends(self) -> tuple[int, int] | None:
        """Smallest and largest size that the passes allow as the last that fits; None where one found no end."""
        found = self.brackets()
        if not found or any(b.fails is None or not b.fits for b in found):
            return None
        return min(b.fits for b in found), max(int(b.fails or 0) - 1 for b in found)

    @property
    def reason(self) -> Outcome | None:
        """Why the sizes beyond the cliff do not fit; None where the passes disagree or found none."""
        reasons = {b.reason for b in self.brackets()}
        return reasons.pop() if len(reasons) == 1 else None

    def gates(self) -> tuple[Gate, ...]:
        """What every number of this search needs."""
        return (_nobody_else(self), _same_capacity(self), _one_limit(self))


def sizes_of(subject: SubjectRecord) -> ModelSizes:
    """Sizes of a recorded model."""
    return ModelSizes(**subject.model_dump(exclude={"name", "dtype", "attention"}))


def point_of(probe: ProbeRecord) -> MemoryPoint:
    """A probe as the mathematics sees it."""
    return MemoryPoint(
        batch=probe.batch, context=probe.context, outcome=Outcome(probe.outcome), peak_bytes=probe.peak_bytes, seconds=probe.seconds
    )


def size_of(probe: ProbeRecord) -> int:
    """Its place on the axis of its search."""
    return probe.context if probe.axis == "context" else probe.batch


# --- gates --------------------------------------------------------------------------------------------------------------


def _nobody_else(search: Search) -> Gate:
    """Foreign memory may come and go between two probes, and moves the cliff by as much."""
    most: dict[str, int] = {}
    for probe in search.probes:
        for name, n_bytes in probe.foreign.items():
            most[name] = max(most.get(name, 0), n_bytes)
    least = [sum(probe.foreign.values()) for probe in search.probes]
    moved, limit = max(least) - min(least), float(search.probes[0].rounding_bytes)
    names = ", ".join(f"pid {name} with {n_bytes / 2**30:.2f} GiB" for name, n_bytes in most.items()) or "nobody"
    return Gate(
        name="foreign memory", scope=search.id, measured=float(moved), limit=limit, unit="byte", passed=moved <= limit,
        reason=f"device memory of others changed by {moved} bytes during the search (limit {limit:.0f}, the step of a pass); seen: {names}",
        remedy="" if moved <= limit else "end these processes, or let them start before the search, and search again",
    )  # fmt: skip


def _same_capacity(search: Search) -> Gate:
    """What is free for a probe may not move, whoever took it: not every process shows in the driver's lists."""
    told = [probe.capacity_bytes for probe in search.probes]
    moved, limit = max(told) - min(told), CAPACITY_TOLERANCE * max(told)
    return Gate(
        name="same capacity", scope=search.id, measured=float(moved), limit=limit, unit="byte", passed=moved <= limit,
        reason=f"the memory free for a probe was between {min(told)} and {max(told)} bytes (limit {limit:.0f} apart)",
        remedy="" if moved <= limit else "look for who else uses this memory (another container, the desktop), end it, and search again",
    )  # fmt: skip


def _one_limit(search: Search) -> Gate:
    """What fits once must fit again, whatever was tried before."""
    contrary = sum(contradictions(sizes) for sizes in search.passes())
    return Gate(
        name="one limit", scope=search.id, measured=float(contrary), limit=0.0, unit="probe", passed=contrary == 0,
        reason=f"{contrary} probes fitted above one that did not (limit 0)",
        remedy="" if contrary == 0 else "the limit moved while it was searched: look for other users of the memory, and search again",
    )  # fmt: skip


def _found(search: Search) -> Gate:
    """There is an end, and a size below it."""
    ends = search.ends
    reason = f"between {ends[0]} and {ends[1] + 1}" if ends else "not bracketed: nothing fitted, or nothing failed up to the largest size"
    return Gate(
        name="cliff found", scope=search.id, measured=None, limit=None, unit="", passed=ends is not None,
        reason=f"the largest {search.axis} that fits is {reason}",
        remedy="" if ends else "choose a smaller model, a larger capacity, or a model with more positions",
    )  # fmt: skip


# --- a search -----------------------------------------------------------------------------------------------------------


def _searched(leaf: Callable[[Search, Parameters], Estimate]) -> Leaf:
    """A leaf of one search: with its gates and its provenance."""

    def evaluated(parameters: Parameters, data: RunData) -> Estimate:
        search = Search.of(data, parameters["search"])
        estimate = leaf(search, parameters)
        provenance = Provenance.weakest(estimate.provenance, provenance_of(data, search.probes[0].instrument))
        return replace(estimate, provenance=provenance, gates=(*search.gates(), *estimate.gates))

    return evaluated


def provenance_of(data: RunData, instrument: str) -> Provenance:
    """Simulated on a twin, measured elsewhere."""
    return Provenance.SIMULATED if is_twin(data, instrument) else Provenance.MEASURED


def is_twin(data: RunData, instrument: str) -> bool:
    """Whether an instrument is a twin."""
    return data.instrument(instrument).spec.partition(":")[0] == "twin"


def _axis_unit(search: Search) -> str:
    return "token" if search.axis == "context" else "sequence"


def _cliff(search: Search, _parameters: Parameters) -> Estimate:
    ends = search.ends
    unit = _axis_unit(search)
    if ends is None:
        return Estimate(value=math.nan, unit=unit, quality=Quality.NO_DATA, estimator="search", gates=(_found(search),))
    half = (ends[1] - ends[0]) / 2
    width = Component(label="bracket", source=f"bracket|{search.id}", contribution=half / math.sqrt(3), distribution="rectangular")
    return Estimate(
        value=sum(ends) / 2, unit=unit, components=(width,) if half else (), quality=Quality.GOOD,
        estimator=f"search, {len(search.passes())} passes: {search.reason or 'reasons differ'}", gates=(_found(search),),
    )  # fmt: skip


def _cliff_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    search = Search.of(data, parameters["search"])
    return _true(search, data, search.sizes)


def _predicted_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    """Where memory ends, whatever the architecture says."""
    search = Search.of(data, parameters["search"])
    return _true(search, data, replace(search.sizes, max_positions=None))


def _true(search: Search, data: RunData, sizes: ModelSizes) -> Estimate | None:
    if not is_twin(data, search.probes[0].instrument):
        return None
    limit = true_limit(sizes, search.capacity_bytes, axis=search.axis, other=search.other, eager=search.quadratic)
    return Estimate.exact(float(limit), _axis_unit(search))


def _predicted(search: Search, _parameters: Parameters) -> Estimate:
    unit = _axis_unit(search)
    try:
        fit = search.fit()
    except ValueError as error:
        return _refused(search, unit, "prediction", str(error))
    limit = fit.limit(search.capacity_bytes, axis=search.axis, other=search.other)
    if not 0 < limit < math.inf:
        return _refused(search, unit, "prediction", f"the fitted bytes meet the capacity at no {search.axis} above 0")
    at, slope = place(limit, axis=search.axis, other=search.other), fit.slope(limit, axis=search.axis, other=search.other)
    return Estimate(
        value=limit, unit=unit, components=_fit_components(search, fit, at, 1 / slope), quality=Quality.GOOD,
        provenance=Provenance.DERIVED, estimator=f"bytes fitted to {len(search.predicting)} probes",
    )  # fmt: skip


def _fit_components(search: Search, fit: BytesFit, at: Mapping[str, float], sensitivity: float) -> tuple[Component, ...]:
    rounded = math.isinf(fit.dof)
    return (
        Component(
            label="rounding of the allocator" if rounded else "scatter around the fit", source=f"fit|{search.id}",
            contribution=sensitivity * fit.u_scatter(**at), dof=fit.dof, evaluation="B" if rounded else "A",
        ),
        Component(
            label="extrapolation beyond the probes (assumed)", source=f"extrapolation|{search.id}",
            contribution=sensitivity * fit.u_extrapolation(**at),
        ),
    )  # fmt: skip


def _refused(search: Search, unit: str, what: str, why: str) -> Estimate:
    gate = Gate(
        name=what, scope=search.id, measured=None, limit=None, unit="", passed=False, reason=why,
        remedy="probe a smaller model, or give more memory, so that several sizes fit well below the limit",
    )  # fmt: skip
    return Estimate(value=math.nan, unit=unit, quality=Quality.NO_DATA, estimator="none", gates=(gate,))


def _prediction_error(search: Search, _parameters: Parameters) -> Estimate:
    ends = _memory_ends(search)
    try:
        fit = search.fit()
    except ValueError as error:
        return _refused(search, "1", "prediction", str(error))
    capacity = search.capacity_bytes
    low, high = (fit.at(**place(x, axis=search.axis, other=search.other)) / capacity - 1 for x in (ends[0], ends[1] + 1))
    width = Component(
        label="bracket", source=f"bracket|{search.id}", contribution=(high - low) / 2 / math.sqrt(3), distribution="rectangular"
    )
    return Estimate(
        value=(low + high) / 2, unit="1", components=(width,), quality=Quality.GOOD, provenance=Provenance.DERIVED,
        estimator="predicted bytes at the found cliff over the capacity",
    )  # fmt: skip


def _error_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    search = Search.of(data, parameters["search"])
    true = _true(search, data, search.sizes)
    if true is None:
        return None
    at = place(true.value + 0.5, axis=search.axis, other=search.other)
    try:
        return Estimate.exact(search.fit().at(**at) / search.capacity_bytes - 1)
    except ValueError:  # the estimate was refused for the same reason, and says so
        return None


def _memory_ends(search: Search) -> tuple[int, int]:
    """Ends of a cliff that memory sets; a prediction of memory says nothing about a limit of the architecture."""
    ends, reason = search.ends, search.reason
    if ends is None or reason not in MEMORY_LIMITS:
        raise ChannelUnavailableError(
            f"the limit of search '{search.id}' is {reason.value if reason else 'not known'}, not memory's: there is no cliff to compare a "
            "prediction with. Probe a model with more positions, or a larger batch."
        )
    return ends


def _prediction_distance(search: Search, _parameters: Parameters) -> Estimate:
    """How far the found cliff lies from the predicted one, in units of the prediction's own expanded uncertainty; exact."""
    ends, predicted = _memory_ends(search), _predicted(search, {})
    if not predicted.expanded:
        return _refused(search, "1", "prediction", "the prediction has no interval")
    distance = max(0.0, abs(sum(ends) / 2 - predicted.value) - (ends[1] - ends[0]) / 2) / predicted.expanded
    return Estimate(value=distance, unit="1", quality=Quality.GOOD, provenance=Provenance.DERIVED, estimator="found against interval")


def _cache_per_token(search: Search, _parameters: Parameters) -> Estimate:
    value = float(search.sizes.kv_bytes_per_token)
    return Estimate(value=value, unit="byte/token", provenance=Provenance.DERIVED, estimator="2·L·H_kv·D_h·b")


def _cache_truth(parameters: Parameters, data: RunData) -> Estimate | None:
    search = Search.of(data, parameters["search"])
    if not is_twin(data, search.probes[0].instrument):
        return None
    return Estimate.exact(float(search.sizes.kv_bytes_per_token), "byte/token")


def _part_bytes(search: Search, parameters: Parameters) -> Estimate:
    batch, context, part = int(parameters["batch"]), int(parameters["context"]), str(parameters["part"])
    sizes, at = search.sizes, {"batch": float(batch), "context": float(context)}
    if part in {"weights", "cache"}:
        exact = sizes.weight_bytes if part == "weights" else sizes.kv_bytes(batch=batch, context=context)
        return Estimate(value=float(exact), unit="byte", provenance=Provenance.DERIVED, estimator="formula, exact")
    try:
        fit = search.fit()
    except ValueError as error:
        return _refused(search, "byte", "prediction", str(error))
    constant = fit.constant_bytes - sizes.weight_bytes
    fitted = fit.at(**at) - sizes.kv_bytes(batch=batch, context=context) - fit.constant_bytes
    shown = {"activations": fitted, "workspace": constant, "all": fit.at(**at)}[part]
    return Estimate(
        value=shown, unit="byte", components=_fit_components(search, fit, at, 1.0), quality=Quality.GOOD,
        provenance=Provenance.DERIVED, estimator="fit of bytes(batch, context)",
    )  # fmt: skip


def _held_bytes(search: Search, parameters: Parameters) -> Estimate:
    """Bytes held beside the passes: allocator slack at the largest probe that told it, other processes at their most."""
    if parameters["part"] == "other processes":
        most = max(sum(probe.foreign.values()) for probe in search.probes)
        return Estimate(value=float(most), unit="byte", estimator="sum over processes, most of any probe")
    told = [
        (size_of(p), p.reserved_bytes - p.peak_bytes) for p in search.probes if p.reserved_bytes is not None and p.peak_bytes is not None
    ]
    if not told:
        raise ChannelUnavailableError(f"no caching allocator took part in search '{search.id}': nothing is held that is not in use.")
    return Estimate(value=float(max(told)[1]), unit="byte", estimator="reserved minus allocated, at their peaks")


def _limited_by(search: Search, parameters: Parameters) -> Estimate:
    """1 where every pass ended for this reason, else 0."""
    gate = _found(search)
    value = float(search.reason is Outcome(parameters["reason"]))
    found = search.reason.value if search.reason else "no single reason"
    return Estimate(value=value, unit="1", estimator=f"classification: {found}", gates=(gate,))


def _probe_count(search: Search, _parameters: Parameters) -> Estimate:
    """Probes of the longest pass."""
    return Estimate(value=float(max(map(len, search.passes()), default=0)), unit="probe", estimator="count")


def _spread(search: Search, _parameters: Parameters) -> Estimate:
    """Largest difference between passes, in steps of the widest bracket."""
    found = [b for b in search.brackets() if b.fails is not None]
    step = max((int(b.fails or 0) - b.fits for b in found), default=0)
    apart = max((b.fits for b in found), default=0) - min((b.fits for b in found), default=0)
    if not step:
        return Estimate(value=math.nan, unit="step", quality=Quality.NO_DATA, estimator="none", gates=(_found(search),))
    return Estimate(value=apart / step, unit="step", estimator=f"{len(found)} passes, steps of {step}", gates=(_found(search),))


def _spill_slowdown(search: Search, _parameters: Parameters) -> Estimate:
    """Time over trend at the first size that spilled."""
    trend = search.trend()
    spilled = sorted((size_of(p), slowdown(point_of(p), trend)) for p, outcome in search.outcomes() if outcome is Outcome.SPILL)
    known = [factor for _, factor in spilled if math.isfinite(factor)]
    if not known:
        raise ChannelUnavailableError(f"nothing spilled in search '{search.id}': this device refuses what it has not got.")
    used = [p for p in search.predicting if p.seconds]
    rest = [slowdown(p, trend) - 1 for p in used]
    dof = max(1, len(rest) - MIN_TREND_TERMS)
    u = math.sqrt(math.fsum(r * r for r in rest) / dof)
    scatter = Component(label="scatter around the trend", source=f"trend|{search.id}", contribution=known[0] * u, dof=dof, evaluation="A")
    form = Component(label="trend beyond its probes (assumed)", source=f"trend form|{search.id}", contribution=known[0] * U_TREND)
    return Estimate(value=known[0], unit="1", components=(scatter, form), quality=Quality.GOOD, estimator="time over trend")


TWIN_SOURCE = "twin's caching allocator"
"""As a watch names a twin's allocator."""
MIN_TREND_TERMS = 3
"""Terms of the trend of time."""
U_TREND = 0.1
"""Assumed relative standard uncertainty of a trend of time beyond the probes it was fitted to."""


# --- an allocator -------------------------------------------------------------------------------------------------------


def state_of(record: StateRecord) -> AllocatorState:
    """An allocator's moment as the mathematics sees it."""
    return AllocatorState(**record.model_dump(exclude={"t_ns", "device_used_bytes"}))


def _watched(leaf: Callable[[AllocationRecord, Parameters], Estimate]) -> Leaf:
    def evaluated(parameters: Parameters, data: RunData) -> Estimate:
        record = data.allocation(parameters["allocation"])
        estimate = leaf(record, parameters)
        return replace(estimate, provenance=Provenance.weakest(estimate.provenance, provenance_of(data, record.instrument)))

    return evaluated


def _fragmentation(record: AllocationRecord, parameters: Parameters) -> Estimate:
    """Fragmentation by a named definition, at its worst while the allocator was watched, or at the end."""
    definition = str(parameters["definition"])
    values = [FRAGMENTATIONS[definition](state_of(state)) for state in record.states]
    if parameters["when"] == "end":
        values = values[-1:]
    if not values or any(map(math.isnan, values)):
        raise ChannelUnavailableError(
            f"{record.source} does not tell its free blocks: there is no fragmentation by '{definition}' to be seen in it. Use another "
            "definition, or watch an allocator that tells them (torch's own on CUDA, a twin's)."
        )
    return Estimate(value=max(values), unit="1", estimator=f"{definition}, {parameters['when']} of {record.source}")


def _peak(record: AllocationRecord, _parameters: Parameters) -> Estimate:
    """Largest allocation above what was there at the start."""
    if record.source == TWIN_SOURCE and record.peak_bytes == record.states[0].allocated_bytes:
        raise ChannelUnavailableError(untouched(record.name))
    return Estimate(value=float(record.peak_bytes - record.states[0].allocated_bytes), unit="byte", estimator=f"peak of {record.source}")


def untouched(name: str) -> str:
    """Why a twin's memory says nothing about code that took none of it."""
    return (
        f"nothing was allocated on the twin during '{name}', so its memory says nothing about this code: only blocks of 'vram.allocator' "
        "and probes lie there, never real tensors. Run this on a GPU, or watch the CPU's memory with --physics-device cpu."
    )


def _growth(record: AllocationRecord, _parameters: Parameters) -> Estimate:
    """Bytes that each repetition leaves behind."""
    allocated = np.array([float(state.allocated_bytes) for state in record.states[1:]])
    slope = growth_per_repeat(allocated.tolist())
    later = allocated[1:]
    index = np.arange(len(later)) - (len(later) - 1) / 2
    residual = later - later.mean() - slope * index
    dof = max(1, len(later) - 2)
    u = math.sqrt(float(residual @ residual) / dof / float(index @ index))
    scatter = Component(label="scatter of the states", source=f"growth|{record.id}", contribution=u, dof=dof, evaluation="A")
    return Estimate(
        value=slope,
        unit="byte",
        components=(scatter,) if u else (),
        quality=Quality.GOOD,
        estimator=f"mean rise, {len(later)} states",
    )


def _refused_requests(record: AllocationRecord, _parameters: Parameters) -> Estimate:
    """Requests refused although as many bytes were free."""
    count = sum(refused.requested_bytes <= refused.free_bytes for refused in record.refused)
    return Estimate(value=float(count), unit="request", estimator="count of refusals")


MEMORY_LEAVES: dict[str, tuple[Leaf, Truth | None]] = {
    "memory.cliff": (_searched(_cliff), _cliff_truth),
    "memory.predicted_cliff": (_searched(_predicted), _predicted_truth),
    "memory.prediction_error": (_searched(_prediction_error), _error_truth),
    "memory.prediction_distance": (_searched(_prediction_distance), None),
    "memory.cache_per_token": (_searched(_cache_per_token), _cache_truth),
    "memory.bytes": (_searched(_part_bytes), None),
    "memory.held": (_searched(_held_bytes), None),
    "memory.limited_by": (_searched(_limited_by), None),
    "memory.probes": (_searched(_probe_count), None),
    "memory.spread": (_searched(_spread), None),
    "memory.slowdown": (_searched(_spill_slowdown), None),
    "memory.fragmentation": (_watched(_fragmentation), None),
    "memory.peak": (_watched(_peak), None),
    "memory.growth": (_watched(_growth), None),
    "memory.refused_requests": (_watched(_refused_requests), None),
}
"""Operation to its evaluation, and the way to its true value on a twin."""
