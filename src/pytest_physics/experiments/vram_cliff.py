"""The VRAM cliff: predict it from a few cheap probes, find it by a search, say what it is and where the bytes are.

Protocol. First at most :data:`PREDICTING` probes at sizes that use up to :data:`TOP_SHARE` of the capacity; from them bytes(batch, context)
is fitted and the cliff predicted. Then the search, which knows nothing of the prediction: upwards by doubling and bisection, then downwards
from beyond, as often as asked. Every probe runs in a process of its own (on a twin: in an empty memory) and is recorded as it ended; what
it *shows* (fits, out of memory, spill, …) and every number follow from the records (:mod:`pytest_physics.record.leaves.memory`).

It ends with :class:`~pytest_physics.errors.InvalidMeasurement` where the model does not fit at the smallest size, and at once where
foreign memory changes between two probes: the search would find a limit that is nobody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pytest_physics.errors import InvalidMeasurement
from pytest_physics.instrument import Instrument
from pytest_physics.metrology.memory import BytesFit, MemoryPoint, ModelSizes, Outcome, bracket, classify, fit_bytes, next_size
from pytest_physics.metrology.uncertainty import Estimate, Recipe
from pytest_physics.record.leaves.memory import HELD, PARTS, Search, point_of
from pytest_physics.record.schema import ProbeRecord, SubjectRecord
from pytest_physics.session import Session
from pytest_physics.workloads.probers import Probe, Prober

EXPERIMENT = "VRAM cliff"
PREDICTING = 6
"""Probes for the prediction, at most."""
FIRST = {"context": 64, "batch": 1}
"""Smallest size that is probed on each axis."""
SHARES = (0.12, 0.3, 0.56, 0.53)
"""Shares of the capacity beyond what the smallest size takes, that the later probes aim at."""
TOP_SHARE = SHARES[2]
LARGEST_STEP = 16
"""A probe is at most this many times as large as the largest before it."""
TRIES = 3
"""How often a size is tried that is slow and takes no more than the capacity: the host may have been busy."""
RESOLUTION = 1 / 128
"""Width of the final bracket over its lower end: 17 doublings and 7 bisections are 25 probes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VramCliff:
    """What a search found; every number is an estimate with its recipe."""

    session: Session
    instrument: Instrument
    search: str
    """Id of its probes in ``probes.jsonl``."""
    axis: str

    def _of(self, op: str, **parameters: str | float) -> Estimate:
        return self.session.evaluate(Recipe(op=f"memory.{op}", parameters={"search": self.search, **parameters}))

    @property
    def found(self) -> Estimate:
        """Largest context (or batch) that fits."""
        return self._of("cliff")

    @property
    def predicted(self) -> Estimate:
        """The same from the probes well below; real-valued, and blind to limits of the architecture."""
        return self._of("predicted_cliff")

    @property
    def prediction_error(self) -> Estimate:
        """Bytes predicted at the found cliff over the capacity, minus 1; NOT_TESTED where the limit is not memory's."""
        return self._of("prediction_error")

    @property
    def prediction_distance(self) -> Estimate:
        """Found minus predicted cliff in units of the prediction's expanded uncertainty; at most 1 where the interval holds."""
        return self._of("prediction_distance")

    @property
    def cache_per_token(self) -> Estimate:
        """Key-value cache per token, by formula, in byte/token."""
        return self._of("cache_per_token")

    @property
    def probes(self) -> Estimate:
        """Probes of the longest pass."""
        return self._of("probes")

    @property
    def spread(self) -> Estimate:
        """Largest difference between the passes, in steps."""
        return self._of("spread")

    @property
    def slowdown(self) -> Estimate:
        """Time over trend where memory first spilled; NOT_TESTED where it never does."""
        return self._of("slowdown")

    @property
    def sizes(self) -> ModelSizes:
        """Of the model that was probed."""
        return Search.of(self.session, self.search).sizes

    @property
    def reason(self) -> Outcome | None:
        """Why it ends; None where the passes disagree."""
        return Search.of(self.session, self.search).reason

    def limited_by(self, reason: Outcome | str) -> Estimate:
        """1 where every pass ended for this reason, else 0."""
        return self._of("limited_by", reason=str(Outcome(reason)))

    def needed(self, *, batch: int, context: int, part: str = "all") -> Estimate:
        """Bytes that a batch and a context take: "all", or one of :data:`~pytest_physics.record.leaves.memory.PARTS`."""
        return self._of("bytes", part=part, batch=batch, context=context)

    def held(self, part: str) -> Estimate:
        """Bytes held beside the passes: "allocator slack" or "other processes"."""
        return self._of("held", part=part)


def run_vram_cliff(
    instrument: Instrument, session: Session, prober: Prober, *, axis: str = "context", other: int = 1, repeats: int = 2,
    resolution: float = RESOLUTION,
) -> VramCliff:  # fmt: skip
    """Predict and find one cliff, and record its results.

    Parameters
    ----------
    instrument, session
        Where the probes belong.
    prober
        Runs them; it stays open.
    axis
        ``"context"`` or ``"batch"``.
    other
        Batch while the context is searched, or the other way round.
    repeats
        Passes of the search: upwards and downwards in turn.
    resolution
        Width of the final bracket over its lower end.
    """
    if axis not in FIRST:
        raise ValueError(f"'axis' must be 'context' or 'batch' (got {axis!r}).")
    if repeats < 1 or other < 1:
        raise ValueError(f"'repeats' and 'other' must be >= 1 (got {repeats} and {other}).")
    if not 0 <= resolution < 1:
        raise ValueError(f"'resolution' must be at least 0 and below 1 (got {resolution}).")
    probing = _Probing(instrument, session, prober, axis, other)
    cliff = VramCliff(session=session, instrument=instrument, search=probing.search, axis=axis)
    with instrument.phase("VRAM cliff"):
        probing.predict()
        for repeat in range(1, repeats + 1):
            probing.look(repeat, resolution)
    record_results(cliff, prober)
    return cliff


class _Probing:
    """One search in progress."""

    def __init__(self, instrument: Instrument, session: Session, prober: Prober, axis: str, other: int) -> None:
        earlier = {probe.search for probe in session.probe_records if probe.instrument == instrument.name}
        self.search = f"{instrument.name}-c{len(earlier) + 1}"
        self.instrument, self.session, self.prober = instrument, session, prober
        self.axis, self.other = axis, other
        positions = prober.subject.sizes.max_positions
        self.ceiling = positions + 1 if positions is not None and axis == "context" else None
        """The first size that the architecture refuses."""
        self.upper: int | None = None
        """The first size that failed in the first pass."""

    # --- one probe ---------------------------------------------------------------------------------------------------

    def probe(self, size: int, part: str, repeat: int) -> MemoryPoint:
        """Run one probe and record it."""
        batch, context = (self.other, size) if self.axis == "context" else (size, self.other)
        t0_ns = self.instrument.clock.now_ns()
        answer = self.prober.probe(batch, context)
        t1_ns = self.instrument.clock.now_ns()
        record = self._record(answer, part, repeat, t0_ns, t1_ns)
        self.session.record_probe(record)
        self._require_alone()
        return point_of(record)

    def _record(self, answer: Probe, part: str, repeat: int, t0_ns: int, t1_ns: int) -> ProbeRecord:
        subject = self.prober.subject
        fields: dict[str, Any] = {
            "axis": self.axis, "part": part, "outcome": answer.outcome.value,
            "subject": SubjectRecord(name=subject.name, dtype=subject.dtype, attention=subject.attention, **asdict(subject.sizes)),
        }  # fmt: skip
        return ProbeRecord(
            id=f"{self.search}.{len(self.session.probes(self.search)) + 1}", search=self.search, instrument=self.instrument.name,
            repeat=repeat, batch=answer.batch, context=answer.context, message=answer.message, peak_bytes=answer.peak_bytes,
            seconds=answer.seconds, capacity_bytes=answer.capacity_bytes, limited_by=self.prober.limited_by,
            rounding_bytes=self.prober.rounding_bytes, foreign=dict(answer.foreign), reserved_bytes=answer.reserved_bytes,
            t0_ns=t0_ns, t1_ns=t1_ns, test=self.session.test, **fields,
        )  # fmt: skip

    def _require_alone(self) -> None:
        """Stop as soon as somebody else's memory has changed: what would follow could not be used."""
        gates = (gate for gate in Search.of(self.session, self.search).gates() if gate.name in {"foreign memory", "same capacity"})
        for gate in gates:
            if not gate.refuses:
                continue
            raise InvalidMeasurement(f"search '{self.search}' was ended: {gate.reason}. To do: {gate.remedy}.")

    # --- prediction --------------------------------------------------------------------------------------------------

    def predict(self) -> None:
        """Probes well below the limit."""
        points = [self._first()]
        for share in (None, *SHARES):
            size = self._next_below(points, share)
            if size is None or len(points) >= PREDICTING:
                continue
            points.append(self.probe(size, "prediction", 0))

    def _first(self) -> MemoryPoint:
        first = min(FIRST[self.axis], (self.ceiling or FIRST[self.axis] + 1) - 1)
        point = self.probe(first, "prediction", 0)
        if point.outcome is not Outcome.FITS and first > 1:
            point = self.probe(1, "prediction", 0)
        if point.outcome is not Outcome.FITS or (point.peak_bytes or 0) > self.prober.capacity_bytes:
            sizes = self.prober.subject.sizes
            message = self.session.probe_records[-1].message or "it spilled"
            where = f"model '{self.prober.subject.name}' does not fit at batch {point.batch}, context {point.context}"
            if point.outcome is Outcome.ARCHITECTURE_LIMIT:
                raise InvalidMeasurement(f"{where}: {message}. Choose a context of at most {sizes.max_positions}, or another model.")
            raise InvalidMeasurement(
                f"{where}: its weights are {sizes.weight_bytes / 2**30:.2f} GiB, the capacity is {self.prober.capacity_bytes / 2**30:.2f} "
                f"GiB ({self.prober.limited_by}); {message.rstrip('.')}. Choose a smaller model, a smaller number format, or a larger "
                "device."
            )
        return point

    def _next_below(self, points: list[MemoryPoint], share: float | None) -> int | None:
        """Size that should use ``share`` of the capacity beyond the first probe's; None where no new one is left."""
        known = sorted((self._size(p), float(p.peak_bytes or 0)) for p in points if p.outcome is Outcome.FITS)
        largest, first = known[-1][0], known[0]
        wanted = 4.0 * first[0] if share is None else self._aimed(points, known, share)
        highest = min(LARGEST_STEP * largest, (self.ceiling or LARGEST_STEP * largest + 1) - 1)
        failed = [self._size(p) for p in points if p.outcome is not Outcome.FITS]
        if failed:
            highest = min(highest, min(failed) // 2)
        size = max(1, min(round(min(wanted, highest)), highest))
        tried = {self._size(p) for p in points}
        if size not in tried:
            return size
        free = [s for s in (size - size // 4, size - size // 2, size + 1) if 1 <= s <= highest and s not in tried]
        return free[0] if free else None

    def _aimed(self, points: list[MemoryPoint], known: list[tuple[int, float]], share: float) -> float:
        """Where the fit so far has ``share`` of the room beyond the first probe; along the last secant while there is no fit."""
        (x0, y0), (x1, y1) = known[0], known[-1]
        target = y0 + share * (self.prober.capacity_bytes - y0)
        try:
            return self._fit(points).limit(target, axis=self.axis, other=self.other)
        except ValueError:
            power = 2 if self.prober.subject.quadratic and self.axis == "context" else 1
            rise = (y1 - y0) / max(1e-9, float(x1**power - x0**power))
            return float((x0**power + (target - y0) / rise) ** (1 / power)) if rise > 0 else float(LARGEST_STEP * x1)

    def _fit(self, points: list[MemoryPoint]) -> BytesFit:
        subject = self.prober.subject
        return fit_bytes(
            points, kv_bytes_per_token=subject.sizes.kv_bytes_per_token, quadratic=subject.quadratic,
            rounding_bytes=self.prober.rounding_bytes,
        )  # fmt: skip

    # --- search ------------------------------------------------------------------------------------------------------

    def look(self, repeat: int, resolution: float) -> None:
        """One pass: odd ones upwards, even ones downwards from twice the first failure."""
        downwards = repeat % 2 == 0 and self.upper is not None
        part, start = ("downwards", 2 * int(self.upper or 1)) if downwards else ("upwards", FIRST[self.axis])
        sizes: list[tuple[int, Outcome]] = []
        while True:
            size = next_size(
                sizes, start=start, floor=1, ceiling=self.ceiling, resolution=resolution, downwards=downwards
            )  # fmt: skip
            if size is None:
                break
            sizes.append((size, self._shown(size, part, repeat)))
        self.upper = bracket(sizes).fails if self.upper is None else self.upper

    def _shown(self, size: int, part: str, repeat: int) -> Outcome:
        """What a size shows; what was slow, and within the capacity, is tried again."""
        trend = Search.of(self.session, self.search).trend()
        shown = Outcome.SPILL
        for _ in range(TRIES):
            point = self.probe(size, part, repeat)
            shown = classify(point, capacity_bytes=self.prober.capacity_bytes, trend=trend)
            if shown is not Outcome.SPILL or (point.peak_bytes or 0) > self.prober.capacity_bytes:
                break
        return shown

    def _size(self, point: MemoryPoint) -> int:
        return point.context if self.axis == "context" else point.batch


# --- results ------------------------------------------------------------------------------------------------------------


def record_results(cliff: VramCliff, prober: Prober) -> None:
    """Everything that a reader of the run should see."""
    search = Search.of(cliff.session, cliff.search)
    subject = prober.subject
    at: dict[str, str | int] = {"model": subject.name, "dtype": subject.dtype, "attention": subject.attention, "search": cliff.search}
    at[{"context": "batch", "batch": "context"}[cliff.axis]] = search.other
    report = cliff.session.result
    report(EXPERIMENT, f"largest {cliff.axis}, found", cliff.found, **at)
    report(EXPERIMENT, f"largest {cliff.axis}, predicted", cliff.predicted, **at)
    if search.ends and search.reason not in {None, Outcome.ARCHITECTURE_LIMIT}:
        report(EXPERIMENT, "prediction error, in bytes over the capacity", cliff.prediction_error, **at)
    report(EXPERIMENT, "key-value cache per token", cliff.cache_per_token, **at)
    report(EXPERIMENT, "probes of the longest pass", cliff.probes, **at)
    report(EXPERIMENT, "difference between passes", cliff.spread, **at)
    if any(outcome is Outcome.SPILL for _, outcome in search.outcomes()):
        report(EXPERIMENT, "slowdown at the first spill", cliff.slowdown, **at)
    if search.ends:
        _record_parts(cliff, search, at)


def _record_parts(cliff: VramCliff, search: Search, at: Mapping[str, str | int]) -> None:
    """Where the bytes are at the largest size that fitted in every pass."""
    ends = search.ends
    assert ends is not None  # noqa: S101 -- the caller checked
    batch, context = (search.other, ends[0]) if cliff.axis == "context" else (ends[0], search.other)
    for part in HELD:
        if part == "other processes" or any(probe.reserved_bytes is not None for probe in search.probes):
            cliff.session.result(EXPERIMENT, f"bytes beside it: {part}", cliff.held(part), **at)
    for part in PARTS:
        estimate = cliff.needed(batch=batch, context=context, part=part)
        cliff.session.result(EXPERIMENT, f"bytes at the cliff: {part}", estimate, **{**at, "batch": batch, "context": context})
