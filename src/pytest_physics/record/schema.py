"""The artifacts of a run as typed records, and their JSON form.

History of the format
    1   first version.

Rules of the JSON: SI units in the names; times are integer nanoseconds of the instrument's clock; an infinite or missing
number is ``null``. Unknown keys are errors, so that a misspelt or edited key cannot pass unnoticed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pytest_physics.devices.base import Channel, Fingerprint
from pytest_physics.metrology.decision import Decision, Verdict
from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.uncertainty import Estimate, Gate, Operator

SCHEMA_VERSION = 1

PAUSE = "sampler paused"
"""Name of the phases in which the sampler was told to read nothing."""

RunState = Literal["running", "completed", "incomplete"]


ENDED_UNSAID = "it was killed, its disk was full, or it still runs"
"""Why a run is incomplete whose record says that it runs: nobody could write how it ended."""


def state_after(end_reason: str) -> RunState:
    """State of a run that ended for ``end_reason``: completed where it finished, or was told to stop by pytest's options (``-x``)."""
    if end_reason == "running":
        return "running"
    return "completed" if end_reason == "finished" or end_reason.startswith("stopped: ") else "incomplete"


class Record(BaseModel):
    """Base of all records: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PhaseRecord(Record):
    """A named span of the run on one instrument; the sampler runs through all of them."""

    id: str
    instrument: str
    name: str
    t0_ns: int
    t1_ns: int | None = None
    """None while the phase runs, or where a crash cut it."""


def pauses_of(phases: Sequence[PhaseRecord], instrument: str) -> list[tuple[int, int]]:
    """Spans in which the sampler of ``instrument`` was told to pause, in nanoseconds of its clock; a pause that never ended has no end."""
    own = [phase for phase in phases if phase.instrument == instrument and phase.name == PAUSE]
    return [(phase.t0_ns, phase.t1_ns if phase.t1_ns is not None else 2**62) for phase in own]


class ChannelRecord(Record):
    """One channel of an instrument."""

    name: str
    kind: str
    resolution: float
    provenance: str
    source: str

    @classmethod
    def of(cls, channel: Channel) -> ChannelRecord:
        """Record of a device's channel."""
        return cls(
            name=channel.name,
            kind=channel.kind.value,
            resolution=channel.resolution,
            provenance=channel.provenance.value,
            source=channel.source,
        )


class FingerprintRecord(Record):
    """What a device is; equal digests may be compared."""

    kind: str
    name: str
    identity: str
    details: dict[str, str]
    digest: str

    @classmethod
    def of(cls, fingerprint: Fingerprint) -> FingerprintRecord:
        """Record of a device's fingerprint."""
        return cls(
            kind=fingerprint.kind,
            name=fingerprint.name,
            identity=fingerprint.identity,
            details=dict(fingerprint.details),
            digest=fingerprint.digest,
        )


class AnchorRecord(Record):
    """Wall time beside an instant of the instrument's clock: a label, never used in arithmetic."""

    utc: str
    t_ns: int


class InstrumentRecord(Record):
    """One device with its clock, sampler and trace."""

    name: str
    spec: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Parameters the device was opened with, faults and overrides of a twin included: a simulated device can be built again from them."""
    fingerprint: FingerprintRecord
    clock: str
    clock_resolution_ns: int
    period_ns: int
    origin_ns: int
    """Grid origin t_0 of the sampler."""
    channels: list[ChannelRecord]
    absent: dict[str, str]
    """Channels this device has not: name to the reason."""
    scheduling: str = ""
    """Scheduling class the sampler got: "SCHED_FIFO 1", "nice -5", "default", "virtual time"."""
    started: AnchorRecord
    ended: AnchorRecord | None = None
    sampler_state: str = "running"
    sampler_error: str = ""
    statistics: dict[str, Any] = Field(default_factory=dict)
    """Sampler statistics over the whole run; recomputed from the trace by ``verify``."""
    thermal_trips: int = 0


class JobRecord(Record):
    """The place in a fleet at which a run ran, and whether it had its machine alone; asked of the engine at the start of the run."""

    identity: str
    """``<array>_<task>@<node>``."""
    engine: Literal["slurm", "local"]
    fleet: str = ""
    """Id of the fleet that submitted it; empty for a job of the user's own."""
    task: int | None = None
    """Number of the task in that fleet."""
    point: str = ""
    """Name of the point of a sweep, or of the node of a fleet."""
    job_id: str = ""
    array_job_id: str = ""
    array_task_id: str = ""
    node: str
    partition: str = ""
    gres: str = ""
    """Generic resources that the job asked for, as the engine writes them: ``gres:gpu:1``."""
    oversubscribe: str = ""
    """The engine's word for sharing the node: Slurm's ``NO`` is exclusive; empty where it did not answer."""
    other_jobs: list[str] | None = None
    """Other jobs that ran on the node at the start; None where the engine did not answer."""
    visible_devices: str | None = None
    """``CUDA_VISIBLE_DEVICES`` of the job; None where it is not set. Indices are renumbered per job: the UUIDs say which card it is."""
    device_uuids: list[str] = Field(default_factory=list)
    """Cards that NVML showed inside the job, with their UUIDs."""
    engine_version: str = ""
    problem: str = ""
    """Why the engine could not say whether the node is shared; empty where it could."""


class RunRecord(Record):
    """``run.json``: what ran, on what, when, with which settings, and how it ended."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    state: RunState
    end_reason: str
    """"running", "finished", "interrupted", or what went wrong."""
    started_utc: str
    ended_utc: str | None = None
    command: list[str]
    profile: str
    config: dict[str, Any]
    config_sha256: str
    banner: list[str] = Field(default_factory=list)
    """What is simulated or absent, and why; shown wherever results are shown."""
    instruments: dict[str, InstrumentRecord] = Field(default_factory=dict)
    phases: list[PhaseRecord] = Field(default_factory=list)
    counts: dict[str, int] = Field(default_factory=dict)
    """How many windows, results and claims were recorded; at the end of the run, so that a dropped line is missed."""
    git: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    suite: dict[str, str] = Field(default_factory=dict)
    """SHA-256, shortened, of each test file and conftest of the run, by its path as pytest was started; of equal suites runs are merged."""
    job: JobRecord | None = None
    """Its place in a fleet; None outside of jobs."""


class WindowRecord(Record):
    """One line of ``windows.jsonl``: the raw input of an estimate, no result."""

    id: str
    instrument: str
    name: str
    phase: str
    t0_ns: int
    t1_ns: int
    work: dict[str, float] = Field(default_factory=dict)
    """Counted work: tokens, iterations, bytes."""
    labels: dict[str, str | int | float] = Field(default_factory=dict)
    """Coordinates of the arm: batch, phase, repetition."""
    test: str = ""
    """Node id of the test that measured it."""
    synchronised: bool = False
    """Whether the device was synchronised at both ends."""
    calls_ns: list[int] = Field(default_factory=list)
    """Durations of the calls inside that were timed one by one, in order, in nanoseconds."""


class GateRecord(Record):
    """A gate as it was judged."""

    name: str
    scope: str
    measured: float | None
    limit: float | None
    unit: str
    passed: bool
    reason: str
    remedy: str = ""
    warning: bool = False

    @classmethod
    def of(cls, gate: Gate) -> GateRecord:
        """Record of a gate."""
        return cls(
            name=gate.name,
            scope=gate.scope,
            measured=finite_or_none(gate.measured),
            limit=finite_or_none(gate.limit),
            unit=gate.unit,
            passed=gate.passed,
            reason=gate.reason,
            remedy=gate.remedy,
            warning=gate.warning,
        )


class ComponentRecord(Record):
    """One line of an uncertainty budget."""

    label: str
    source: str
    contribution: float | None
    dof: float | None
    evaluation: str
    distribution: str
    common_scale: bool


class EstimateRecord(Record):
    """An estimate with its budget; ``None`` stands for a number that does not exist (NaN) or is infinite."""

    value: float | None
    unit: str
    u: float | None
    dof: float | None
    expanded: float | None
    quality: str
    provenance: str
    estimator: str
    budget: list[ComponentRecord]

    @classmethod
    def of(cls, estimate: Estimate) -> EstimateRecord:
        """Record of an estimate."""
        budget = [
            ComponentRecord(
                label=c.label,
                source=c.source,
                contribution=finite_or_none(c.contribution),
                dof=finite_or_none(c.dof),
                evaluation=c.evaluation,
                distribution=c.distribution,
                common_scale=c.common_scale,
            )
            for c in estimate.budget
        ]
        return cls(
            value=finite_or_none(estimate.value),
            unit=estimate.unit,
            u=finite_or_none(estimate.u),
            dof=finite_or_none(estimate.dof),
            expanded=finite_or_none(estimate.expanded),
            quality=estimate.quality.name,
            provenance=estimate.provenance.value,
            estimator=estimate.estimator,
            budget=budget,
        )


class BaselineRecord(Record):
    """One idle baseline in ``baseline.json``, with the updates it was computed from."""

    id: str
    instrument: str
    phase: str
    sensor: str
    """Sensor model that told its updates apart; see ``sensor.json``."""
    t0_ns: int
    t1_ns: int
    mean_w: float | None
    u_w: float | None
    dof: float | None
    n: int
    n_eff: float | None
    ddof: int
    standard_deviation_w: float | None
    minimum_w: float | None
    maximum_w: float | None
    median_w: float | None
    gates: list[GateRecord]
    t_ns: list[int]
    """Instants of the distinct sensor updates."""
    power_w: list[float]
    """Readings at those instants."""
    truth_w: float | None = None
    """The twin's true mean power over the same span."""


class ResultRecord(Record):
    """One line of ``results.jsonl``: an estimate an experiment reports, with its coordinates."""

    id: str
    experiment: str
    quantity: str
    """What it is: "energy per token (net)", "latency", "plateau temperature"."""
    coordinates: dict[str, str | int | float] = Field(default_factory=dict)
    estimate: EstimateRecord
    gates: list[GateRecord] = Field(default_factory=list)
    recipe: dict[str, Any]
    truth: float | None = None
    """The twin's true value, where the device is a twin."""
    test: str = ""


class CorrectedClaimRecord(Record):
    """One claim in ``correction.json``: the verdict as it was judged, and the one that stands."""

    id: str
    attempt: int
    judged: Verdict
    """Verdict of the claim by itself, as in ``claims.jsonl``."""
    judged_reason: str
    verdict: Verdict
    """Verdict among all claims of the run."""
    reason: str
    p: float | None = None
    """Two-sided probability of error of a verdict on this claim by itself; None for claims that no interval decided."""
    p_adjusted: float | None = None
    """The same among all claims; a verdict stands where it is at most 5 %."""
    rank: int | None = None
    level: float | None = None
    """The share of 5 % at which this claim was judged."""
    guard_band: float | None = None
    """Expanded uncertainty for a coverage of 1 − ``level``, in the estimate's unit."""


class CorrectionRecord(Record):
    """``correction.json``: all claims of a run judged together, at its end."""

    method: Literal["holm"]
    family: int
    """Number of claims that an interval decided, or could have: what the 5 % are shared among."""
    claims: list[CorrectedClaimRecord]


class ClaimRecord(Record):
    """One line of ``claims.jsonl``: a claim, how it ended, and everything needed to judge it again."""

    id: str
    statement: str
    test: str
    source: str
    """File and line of the test."""
    attempt: int = 1
    verdict: Verdict
    reason: str
    operator: Operator | None = None
    limit: float | None = None
    margin: float | None = None
    guard_band: float | None = None
    conformance: float | None = None
    estimate: EstimateRecord | None = None
    gates: list[GateRecord] = Field(default_factory=list)
    recipe: dict[str, Any] | None = None
    own_gates: list[GateRecord] = Field(default_factory=list)
    """Gates that follow from no artifact: prerequisite claims, and gates the test itself passed in."""
    requirements: list[dict[str, Any]] = Field(default_factory=list)
    """Recipes of the gates that the test's fixtures required, such as a heat soak."""
    truth: float | None = None
    requires: list[str] = Field(default_factory=list)
    evidence: list[str] = Field(default_factory=list)
    """Paths, with fragments, inside the run directory."""
    correction: CorrectedClaimRecord | None = None
    """Where all claims of the run were judged together, what that made of this one; never in ``claims.jsonl``, which came before."""

    @property
    def simulated(self) -> bool:
        """Whether any input was simulated."""
        return self.estimate is not None and self.estimate.provenance == "simulated"


class SensorRecord(Record):
    """One entry of ``sensor.json``: what was known of a power channel from some moment of the run on."""

    id: str
    """``gpu-s1``; estimates name the one they used."""
    instrument: str
    channel: str
    model: dict[str, float | str]
    evidence: str
    """Where the model comes from: the device's preset or prior, a phase of this run, or an earlier run."""

    @classmethod
    def of(cls, sensor: SensorModel, *, record_id: str, instrument: str, channel: str, evidence: str) -> SensorRecord:
        """Record of a sensor model."""
        model = {name: getattr(sensor, name) for name in SensorModel.__dataclass_fields__}
        return cls(id=record_id, instrument=instrument, channel=channel, model=model, evidence=evidence)

    @property
    def sensor(self) -> SensorModel:
        """The model again."""
        return SensorModel(**self.model)  # type: ignore[arg-type]


class SubjectRecord(Record):
    """Which model a search of its memory ran, in which numbers."""

    name: str
    dtype: str
    attention: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    vocabulary: int
    parameters: int
    bytes_per_number: int
    max_positions: int | None
    """None where the architecture sets no limit."""


class ProbeRecord(Record):
    """One line of ``probes.jsonl``: one try whether a batch and a context fit, as it ended."""

    id: str
    """``gpu-c1.7``: the seventh probe of the search ``gpu-c1``."""
    search: str
    instrument: str
    axis: Literal["context", "batch"]
    """What the search varies."""
    part: Literal["prediction", "upwards", "downwards"]
    """Why it was made: to predict the cliff from sizes well below it, or in which pass of the search."""
    repeat: int
    """Number of the pass, from 1; 0 for predictions."""
    batch: int
    context: int
    outcome: Literal["FITS", "OUT_OF_MEMORY", "ARCHITECTURE_LIMIT", "KILLED"]
    """As it ended; whether one that fits spilled follows from all of them."""
    message: str
    peak_bytes: int | None
    seconds: float | None
    capacity_bytes: int
    limited_by: str
    rounding_bytes: int
    foreign: dict[str, int] = Field(default_factory=dict)
    """Device memory of others, by "pid name"."""
    reserved_bytes: int | None = None
    """Most that the caching allocator held from the device; None where nothing caches, or the probe did not end well."""
    subject: SubjectRecord
    t0_ns: int
    t1_ns: int
    test: str = ""


class StateRecord(Record):
    """An allocator at one moment, in bytes."""

    t_ns: int
    allocated_bytes: int
    reserved_bytes: int
    active_bytes: int
    inactive_split_bytes: int | None
    largest_free_bytes: int | None
    segments: int
    device_used_bytes: int | None = None
    """What the device says is in use, by everybody."""


class RefusedRequestRecord(Record):
    """An allocation that failed."""

    requested_bytes: int
    free_bytes: int
    """Reserved and free, plus what the device still had, at that moment."""


class AllocationRecord(Record):
    """One line of ``allocations.jsonl``: an allocator watched over some code."""

    id: str
    """``gpu-a1``."""
    instrument: str
    name: str
    source: str
    """Whose figures these are: "torch CUDA caching allocator", "twin's caching allocator", "glibc", "process"."""
    states: list[StateRecord]
    """Before, during where somebody looked, and after; in order."""
    peak_bytes: int
    """Largest allocation in between, by the allocator's own account."""
    refused: list[RefusedRequestRecord] = Field(default_factory=list)
    test: str = ""


def finite_or_none(value: float | None) -> float | None:
    """``None`` for what JSON has no number for; plain Python floats otherwise."""
    return float(value) if value is not None and math.isfinite(value) else None


def decision_fields(decision: Decision) -> Mapping[str, Any]:
    """The fields of a claim that follow from its decision."""
    return {
        "verdict": decision.verdict,
        "reason": decision.reason,
        "margin": finite_or_none(decision.margin),
        "guard_band": finite_or_none(decision.guard_band),
        "conformance": finite_or_none(decision.conformance),
    }


def numbers_or_none(value: object) -> Any:  # noqa: ANN401 -- any JSON value
    """JSON form of nested mappings, sequences and numbers; what JSON has no number for becomes ``None``."""
    if isinstance(value, Mapping):
        return {str(key): numbers_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [numbers_or_none(item) for item in value]
    if isinstance(value, float):
        return finite_or_none(value)
    return value
