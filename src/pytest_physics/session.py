"""One run's life: open the devices, sample, record, judge, finish.

The run directory is the truth: everything the session knows it reads from what it wrote, so that ``verify`` can do the same later.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_physics.clock import NS_PER_S, VirtualClock, utc_now
from pytest_physics.config import Settings
from pytest_physics.devices.base import Device, DeviceSpec
from pytest_physics.devices.discover import choose_devices, open_device
from pytest_physics.devices.lock import DeviceLock
from pytest_physics.errors import ChannelUnavailableError, ConfigurationError, InvalidMeasurement, PhysicsError, RecordError
from pytest_physics.instrument import Instrument, Label, is_count
from pytest_physics.metrology.decision import Verdict, condensed
from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.uncertainty import Estimate, Gate, Recipe
from pytest_physics.record.correction import correction_of, final_claims
from pytest_physics.record.environment import environment, git_state
from pytest_physics.record.job import current_job
from pytest_physics.record.leaves.baseline import baseline_record
from pytest_physics.record.reader import trace_name
from pytest_physics.record.recipes import evaluate, evidence, gates_of, labels_behind, latest_needed, true_value
from pytest_physics.record.schema import (
    AllocationRecord,
    AnchorRecord,
    BaselineRecord,
    ChannelRecord,
    ClaimRecord,
    EstimateRecord,
    FingerprintRecord,
    GateRecord,
    InstrumentRecord,
    JobRecord,
    PhaseRecord,
    ProbeRecord,
    ResultRecord,
    RunRecord,
    SensorRecord,
    WindowRecord,
    finite_or_none,
    numbers_or_none,
    pauses_of,
    state_after,
)
from pytest_physics.record.sensor_cache import recall, recall_calibration
from pytest_physics.record.writer import RunWriter, new_run_directory
from pytest_physics.sampling.base import Sampler, SamplerState, ThermalSafety
from pytest_physics.sampling.inline import InlineSampler
from pytest_physics.sampling.process import ProcessSampler
from pytest_physics.sampling.statistics import sampler_statistics
from pytest_physics.sampling.trace import Trace

SETTLE_STEP_S = 1.0
"""How often a settling device is looked at."""
SETTLE_BUDGET_S, SETTLE_BUDGET_FACTOR = 60.0, 10.0
"""A device that is not at rest this long after ``baseline.settle_s``, or this many times it, is measured as it is: its gates judge."""
REST_CHANGE_C = 1.0
"""A warm card leaks: it is at rest when its temperature moves by no more than one step of the thermometer within ``baseline.settle_s``."""
IDLE_STATE = 5
"""P-states from this one on are idle states of NVIDIA cards (P5, P8, P12); P0 to P2 are for work."""
REST_S = 20.0
"""In a P-state for work a card counts as at rest only after this long without a change: it falls into its idle state up to 15 s after
work, or never where a context is open."""


class TruthDevice(Protocol):
    """A device that knows the true power at all times."""

    def truth_table(self) -> NDArray[np.void]:
        """Segments of true power."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which devices a run will use, decided before anything is opened."""

    instruments: Mapping[str, DeviceSpec]
    """Instrument name (``gpu``, ``cpu``) to device."""
    banner: tuple[str, ...]
    """What is simulated or missing, and why."""
    header: str

    @property
    def virtual_time(self) -> bool:
        """Whether the GPU is a twin, whose clock is virtual."""
        return any(spec.kind == "twin" for spec in self.instruments.values())

    @classmethod
    def of(cls, settings: Settings) -> Plan:
        """Resolve ``settings.device``; raises ``ConfigurationError`` with the next action."""
        choice = choose_devices(settings.device)
        instruments = {_instrument_name(spec): _seeded(spec, settings.seed) for spec in choice.specs}
        return cls.using(instruments, banner=choice.banner)

    @classmethod
    def using(cls, instruments: Mapping[str, DeviceSpec], *, banner: str = "") -> Plan:
        """A plan for devices that are chosen already, with any parameters: ``Plan.using({"gpu": DeviceSpec(kind="twin", …)})``."""
        for name in instruments:
            if not name.isidentifier():
                raise ConfigurationError(f"an instrument's name must be a Python identifier, such as 'gpu' (got {name!r}).")
        simulated = [f"'{spec}'" for spec in instruments.values() if spec.kind == "twin"]
        said = banner or f"GPU numbers are SIMULATED: {', '.join(simulated)} was asked for."
        shown = ", ".join(f"{name} = {spec}" for name, spec in instruments.items())
        return cls(instruments=dict(instruments), banner=(said,) if simulated else (), header=shown)


def _instrument_name(spec: DeviceSpec) -> str:
    """``gpu`` or ``cpu``; of several that one recording holds, the name that each had there."""
    recorded = spec.parameters.get("instrument") if spec.kind == "replay" else None
    return str(recorded) if recorded else "cpu" if spec.kind == "cpu" else "gpu"


def _seeded(spec: DeviceSpec, seed: int) -> DeviceSpec:
    return replace(spec, parameters={**spec.parameters, "seed": seed}) if spec.kind == "twin" else spec


class Rig:
    """Everything one run measures with: ``rig.gpu``, ``rig.cpu``, or ``rig["gpu"]``."""

    def __init__(self, instruments: Mapping[str, Instrument], session: Session) -> None:
        self._instruments = instruments
        self.session = session

    @property
    def settings(self) -> Settings:
        """The run's settings."""
        return self.session.settings

    def __getitem__(self, name: str) -> Instrument:
        if name not in self._instruments:
            have = ", ".join(self._instruments) or "nothing"
            raise ChannelUnavailableError(
                f"this rig has no '{name}' (it has {have}); choose one with --physics-device, for example 'auto'.", channel=name
            )
        return self._instruments[name]

    def __contains__(self, name: str) -> bool:
        return name in self._instruments

    def count(self, **work: float) -> None:
        """Count work of the running test for its ``energy_budget(…, per="token")``: ``rig.count(tokens=512)``; counts add up."""
        for kind, amount in work.items():
            if not is_count(amount):
                raise ValueError(f"'{kind}' must be a finite count >= 0 (got {amount!r}).")
            self.session.counted[kind] = self.session.counted.get(kind, 0.0) + float(amount)

    @property
    def gpu(self) -> Instrument:
        """The GPU, or its twin."""
        return self["gpu"]

    @property
    def cpu(self) -> Instrument:
        """The host's CPU."""
        return self["cpu"]

    def require(self, name: str) -> None:
        """Raise ``ChannelUnavailableError`` unless the rig has ``"gpu"`` or ``"gpu.power_w"``."""
        instrument, _, channel = name.partition(".")
        found = self[instrument]
        if channel:
            found.require(channel)


_OPEN: list[Session] = []
"""Runs in progress in this process, the latest last."""


def open_sessions() -> Sequence[Session]:
    """Runs in progress in this process, the latest last: what is called inside of one can find it."""
    return tuple(_OPEN)


class Session:
    """A run in progress. Made by :meth:`start`, ended by :meth:`finish`; also the live side of ``record.data.RunData``."""

    def __init__(
        self, *, settings: Settings, plan: Plan, path: Path, command: Sequence[str], directory: Path, suite: Mapping[str, str] | None = None
    ) -> None:
        self.settings = settings
        self.plan = plan
        self.path = path
        self.test = ""
        self.memory: dict[str, Any] = {}
        self.claims: list[ClaimRecord] = []
        self.results: list[ResultRecord] = []
        self.probe_records: list[ProbeRecord] = []
        self.allocations: list[AllocationRecord] = []
        self.tables: dict[str, NDArray[np.void]] = {}
        self.counted: dict[str, float] = {}
        """Work that the running test counted by :meth:`Rig.count`."""
        self.instruments: dict[str, Instrument] = {}
        self._records: dict[str, InstrumentRecord] = {}
        self._resources = ExitStack()
        self._writer = RunWriter(path)
        self._resources.callback(self._writer.close)
        self._run = RunRecord(
            run_id=path.name, state="running", end_reason="running", started_utc=utc_now(), command=list(command),
            profile=settings.profile, config=settings.model_dump(mode="json"), config_sha256=settings.digest(),
            banner=list(plan.banner), git=git_state(directory), environment=environment(),
            suite=dict(suite or {}), job=current_job(),
        )  # fmt: skip
        self.rig = Rig(self.instruments, self)

    # --- life --------------------------------------------------------------------------------------------------------

    @classmethod
    def start(
        cls, settings: Settings, plan: Plan | None = None, *, command: Sequence[str] = (), directory: Path | None = None,
        suite: Mapping[str, str] | None = None,
    ) -> Session:  # fmt: skip
        """Create the run directory, open the devices and start the samplers."""
        directory = directory or Path.cwd()
        path = new_run_directory(directory / settings.runs)
        session = cls(settings=settings, plan=plan or Plan.of(settings), path=path, command=command, directory=directory, suite=suite)
        try:
            for name, spec in session.plan.instruments.items():
                session._add_instrument(name, spec)
            session._look_ahead()
        except BaseException as error:
            session._abandon(f"could not start: {error}")
            raise
        _OPEN.append(session)
        session._resources.callback(_OPEN.remove, session)
        return session

    def add_instrument(self, name: str, spec: DeviceSpec) -> Instrument:
        """One more device in this run, sampled from now on: a second card, or a twin as a control with a known answer."""
        if not name.isidentifier() or name in self.instruments:
            raise ConfigurationError(
                f"an instrument's name must be a new Python identifier (got {name!r}; known: {', '.join(self.instruments)})."
            )
        self._add_instrument(name, spec)
        return self.instruments[name]

    def _look_ahead(self) -> None:
        """Let real devices be seen for a moment, so that the first window of a test has readings before it."""
        for instrument in self.instruments.values():
            if instrument.metered and not isinstance(instrument.clock, VirtualClock):
                instrument.wait_until_sampled(instrument.sampler.origin_ns + instrument.tail_ns)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.finish("finished" if error is None else f"{type(error).__name__}: {error}")

    def _add_instrument(self, name: str, spec: DeviceSpec) -> None:
        device = open_device(spec)
        self._resources.callback(device.close)
        if not isinstance(device.clock, VirtualClock) and spec.kind != "cpu":
            lock = DeviceLock(device.fingerprint.identity, run_id=self.path.name)
            lock.acquire()
            self._resources.callback(lock.release)
        sampler = self._sampler(name, device)
        started = AnchorRecord(utc=utc_now(), t_ns=device.clock.now_ns())
        sampler.start()
        self._resources.callback(sampler.stop)
        self.instruments[name] = Instrument(name=name, device=device, sampler=sampler, journal=self)
        self._records[name] = _instrument_record(name, device, sampler, started)
        if device.sensor is not None:
            self.use_sensor(self.instruments[name], device.sensor, evidence=f"the device's {device.sensor.origin}")
            self._use_remembered_sensor(self.instruments[name])
        self._write_run()

    def use_sensor(self, instrument: Instrument, sensor: SensorModel, *, evidence: str) -> None:
        """From now on know ``instrument``'s power channel as ``sensor``; estimates made before keep the model they used."""
        record_id = f"{instrument.name}-s{len(instrument.sensors)}"
        instrument.sensors.append(
            SensorRecord.of(sensor, record_id=record_id, instrument=instrument.name, channel="power_w", evidence=evidence)
        )
        self._writer.sensors([s for i in self.instruments.values() for s in i.sensors])

    def _use_remembered_sensor(self, instrument: Instrument) -> None:
        """Know from the start what an earlier run identified on this very card; simulated and replayed ones are identified by every run."""
        fingerprint, age = instrument.device.fingerprint, self.settings.sensor
        cached = recall(fingerprint, "power_w", max_age_days=age.max_age_days) if instrument.device.spec.kind == "nvml" else None
        if cached is not None:
            evidence = f"identified {cached.identified_utc} in run {cached.run_id}, {cached.record.evidence}"
            self.use_identified(instrument, cached.record.sensor, evidence=evidence)

    def use_identified(self, instrument: Instrument, sensor: SensorModel, *, evidence: str) -> None:
        """Use an identified ``sensor``, with the scale of a reference meter where one is known of this very device."""
        known = recall_calibration(
            instrument.device.fingerprint, "power_w", max_age_days=self.settings.sensor.max_calibration_age_days
        )  # fmt: skip
        if known is not None:
            sensor, evidence = known.calibration.calibrated(sensor), f"{evidence}; {known.evidence}"
        self.use_sensor(instrument, sensor, evidence=evidence)

    def _sampler(self, name: str, device: Device) -> Sampler:
        period_s = self.settings.sampling.period_s or device.sampling_period_s
        path = self.path / trace_name(name)
        safety = ThermalSafety(trip_c=self.settings.soak.trip_c, resume_c=self.settings.soak.resume_c)
        if isinstance(device.clock, VirtualClock):
            return InlineSampler(device, path, period_s, instrument=name, thermal=safety)  # type: ignore[arg-type]
        return ProcessSampler(device.spec, path, period_s, instrument=name, thermal=safety)

    def finish(self, end_reason: str = "finished", *, publish: Callable[[Path], Path] | None = None) -> Path | None:
        """Stop the samplers, complete the records and the manifest; ``publish`` builds the report in between and names it.

        Raises ``RecordError`` where the disk refuses, after everything was stopped and released; what was written stays readable.
        """
        with self._resources:
            problems = self._stop_samplers()
            self._judge_together()
            self._end(f"not all was recorded: {'; '.join(problems)}" if problems else end_reason)
            try:
                report = publish(self.path) if publish else None
            finally:
                self._writer.manifest()
            if problems:
                raise RecordError("; ".join(problems))
            return report

    def _judge_together(self) -> None:
        """Correct the verdicts for their number, where the settings ask for it; every claim must have been judged."""
        correction = correction_of(self.claims, self.settings)
        if correction is not None:
            self._writer.correction(correction)
            self.claims = final_claims(self.claims, correction)

    def _stop_samplers(self) -> list[str]:
        """Stop every sampler and complete its record; returns what could not be recorded."""
        problems = []
        for name, instrument in self.instruments.items():
            status = instrument.sampler.stop()
            ended = AnchorRecord(utc=utc_now(), t_ns=instrument.clock.now_ns())
            self._records[name] = self._records[name].model_copy(
                update={
                    "ended": ended, "sampler_state": status.state.value, "sampler_error": status.error,
                    "scheduling": status.scheduling, "thermal_trips": status.thermal_trips,
                }
            )  # fmt: skip
            try:
                self._record_samples(name, instrument)
            except RecordError as error:
                problems.append(str(error))
        return problems

    def _record_samples(self, name: str, instrument: Instrument) -> None:
        pauses_ns = pauses_of(instrument.phases, name)
        statistics = sampler_statistics(self.trace(name), instrument.sampler.origin_ns, pauses_ns=pauses_ns)
        self._records[name] = self._records[name].model_copy(update={"statistics": numbers_or_none(asdict(statistics))})
        if instrument.simulated:
            self._writer.truth(name, cast("TruthDevice", instrument.device).truth_table())

    def _end(self, reason: str) -> None:
        counts = {
            "windows": sum(len(instrument.windows) for instrument in self.instruments.values()),
            "results": len(self.results),
            "claims": len(self.claims),
        }
        self._run = self._run.model_copy(
            update={"state": state_after(reason), "end_reason": reason, "ended_utc": utc_now(), "counts": counts}
        )
        self._write_run()

    def _abandon(self, reason: str) -> None:
        """End a run that could not start; whatever else fails on the way must not hide why."""
        with self._resources, contextlib.suppress(PhysicsError):
            for instrument in self.instruments.values():
                instrument.sampler.stop()
            self._end(reason)

    def _write_run(self) -> None:
        phases = [phase for instrument in self.instruments.values() for phase in instrument.phases]
        self._run = self._run.model_copy(update={"instruments": dict(self._records), "phases": phases})
        self._writer.run(self._run)

    # --- journal of the instruments ----------------------------------------------------------------------------------

    def window_line(self, line: bytes) -> None:
        """Persist one window."""
        self._writer.window_line(line)

    def phase_changed(self, phase: PhaseRecord) -> None:  # noqa: ARG002 -- every change rewrites all of them
        """Persist the start or the end of a phase."""
        self._write_run()

    def evaluate(self, recipe: Recipe) -> Estimate:
        """Compute an estimate, once every sample it needs is there."""
        for name, t_ns in latest_needed(recipe, self).items():
            self._await_samples(self.instruments[name], t_ns)
        return evaluate(recipe, self)

    def _await_samples(self, instrument: Instrument, t_ns: int) -> None:
        """Wait for the samples up to ``t_ns``, unless none can come any more: what is computed from fewer would change with the next."""
        limit_s = self.settings.sampling.max_wait_s
        if instrument.wait_until_sampled(t_ns, timeout_s=limit_s) or not instrument.sampler.is_alive():
            return
        raise InvalidMeasurement(
            f"the sampler of '{instrument.name}' runs but has given no sample for {limit_s:g} s (limit 'sampling.max_wait_s'; last sign of "
            f"life {instrument.sampler.heartbeat_age_s():.1f} s ago): what it should have seen is not known. It is suspended, the host is "
            "overloaded, or the driver does not answer; find out which, and measure again."
        )

    def read_trace(self, instrument: str) -> Trace:
        """Samples so far."""
        return self.trace(instrument)

    def measure_baseline(self, instrument: Instrument) -> BaselineRecord:
        """Let the device come to rest, measure its idle power, check that it was idle, and record all of it."""
        with instrument.phase("settle"):
            self.settle(instrument)
        with instrument.phase("baseline") as phase:
            instrument.sleep(self.settings.baseline.duration_s)
        ended = next(p for p in instrument.phases if p.id == phase.id)
        self._await_samples(instrument, cast("int", ended.t1_ns))
        baseline_id = f"{instrument.name}-b{len(instrument.baselines) + 1}"
        record = baseline_record(self, ended, baseline_id=baseline_id, sensor_id=instrument.sensor_id)
        instrument.baselines.append(record)
        self._writer.baselines([b for i in self.instruments.values() for b in i.baselines])
        return record

    def settle(self, instrument: Instrument) -> None:
        """Wait ``settle_s``, and on, until the device has come to rest, within the budget."""
        settle_s = self.settings.baseline.settle_s
        instrument.sleep(settle_s)
        deadline_ns = instrument.clock.now_ns() + round(max(SETTLE_BUDGET_S, SETTLE_BUDGET_FACTOR * settle_s) * NS_PER_S)
        while instrument.clock.now_ns() < deadline_ns and not at_rest(instrument.trace, instrument.clock.now_ns(), settle_s):
            instrument.sleep(SETTLE_STEP_S)

    # --- live run data (record.data.RunData) ----------------------------------------------------------------------

    def trace(self, instrument: str) -> Trace:
        """Samples so far."""
        return self.instruments[instrument].sampler.trace()

    def window(self, window_id: str) -> WindowRecord:
        """One closed window."""
        return self.instruments[window_id.partition("-")[0]].windows[window_id].record()

    def window_edges(self, instrument: str) -> tuple[Sequence[int], Sequence[int]]:
        """Starts of all windows of an instrument, open ones included, and ends of the closed ones; each in ascending order."""
        found = self.instruments[instrument]
        return found.window_starts_ns, found.window_ends_ns

    def windows_in(self, phase_id: str) -> Sequence[WindowRecord]:
        """The closed windows of a phase, in order of time."""
        windows = self.instruments[phase_id.partition("-")[0]].windows.values()
        return [window.record() for window in windows if window.phase == phase_id]

    def phase(self, phase_id: str) -> PhaseRecord:
        """One phase."""
        phases = self.instruments[phase_id.partition("-")[0]].phases
        return next(phase for phase in phases if phase.id == phase_id)

    def phases_of(self, instrument: str) -> Sequence[PhaseRecord]:
        """All phases of an instrument, in the order in which they began."""
        return self.instruments[instrument].phases

    def baseline(self, baseline_id: str) -> BaselineRecord:
        """One baseline."""
        baselines = self.instruments[baseline_id.partition("-")[0]].baselines
        return next(baseline for baseline in baselines if baseline.id == baseline_id)

    def instrument(self, name: str) -> InstrumentRecord:
        """What an instrument is."""
        return self._records[name]

    def sensor(self, sensor_id: str) -> SensorModel | None:
        """Sensor model by id; None for the empty id of an instrument without a power channel."""
        known = self.instruments[sensor_id.partition("-")[0]].sensors if sensor_id else ()
        return next((record.sensor for record in known if record.id == sensor_id), None)

    def truth_table(self, instrument: str) -> NDArray[np.void] | None:
        """The twin's true power so far; None for a real device."""
        found = self.instruments[instrument]
        if not found.simulated:
            return None
        now_ns = found.clock.now_ns()
        known_ns, table = self.memory.get(f"truth|{instrument}", (None, None))
        if known_ns != now_ns:  # a table is a copy of the whole history: one per instant is enough
            table = cast("TruthDevice", found.device).truth_table()
            self.memory[f"truth|{instrument}"] = now_ns, table
        return cast("NDArray[np.void]", table)

    def probes(self, search_id: str) -> Sequence[ProbeRecord]:
        """Probes of one search of a memory limit."""
        return [probe for probe in self.probe_records if probe.search == search_id]

    def allocation(self, allocation_id: str) -> AllocationRecord:
        """One watched allocator."""
        return next(allocation for allocation in self.allocations if allocation.id == allocation_id)

    def table(self, table_id: str) -> NDArray[np.void]:
        """What an experiment recorded beside the samples."""
        return self.tables[table_id]

    @property
    def job(self) -> JobRecord | None:
        """Place of the run in a fleet; None outside of jobs."""
        return self._run.job

    def has_table(self, table_id: str) -> bool:
        """Whether there is such a table."""
        return table_id in self.tables

    def tabulate(self, name: str, columns: Mapping[str, ArrayLike]) -> str:
        """Persist what an experiment recorded beside the samples, such as training steps or counts of routed tokens.

        Parameters
        ----------
        name
            What it is, in lower-case letters, digits and hyphens; a number is appended.
        columns
            Column name to values (numbers, booleans or text); all of one length; ``..._ns`` columns are on the run's own clock.

        Returns
        -------
        str
            The id under which recipes find it: :meth:`table`.

        Raises
        ------
        ValueError
            For a name that is no file name, no columns, columns of different lengths, or values that are neither number nor text.
        """
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
            raise ValueError(f"a table's name has lower-case letters, digits and single hyphens (got {name!r}).")
        table = structured(name, columns)
        table_id = f"{name}-{sum(key.rpartition('-')[0] == name for key in self.tables) + 1}"
        self._writer.table(table_id, table)
        self.tables[table_id] = table
        return table_id

    def record_probe(self, record: ProbeRecord) -> None:
        """Persist one probe of a memory limit."""
        self.probe_records.append(record)
        self._writer.probe(record)

    def record_allocation(self, record: AllocationRecord) -> None:
        """Persist one watched allocator."""
        self.allocations.append(record)
        self._writer.allocation(record)

    # --- results and claims ------------------------------------------------------------------------------------------

    def result(self, experiment: str, quantity: str, estimate: Estimate, **coordinates: Label) -> Estimate:
        """Record an estimate that an experiment reports, and return it; it is computed anew from its recipe."""
        estimate = self.evaluate(estimate.recipe)
        labels = labels_behind(estimate.recipe, self)
        for key, value in coordinates.items():
            if labels.get(key, value) != value:
                raise ValueError(f"coordinate {key}={value!r} of '{quantity}' contradicts its windows, which have {key}={labels[key]!r}.")
        record = ResultRecord(
            id=f"r{len(self.results) + 1}", experiment=experiment, quantity=quantity, coordinates=coordinates,
            estimate=EstimateRecord.of(estimate), gates=[GateRecord.of(gate) for gate in condensed(estimate.gates)],
            recipe=estimate.recipe.to_json(), truth=finite_or_none(self.truth(estimate.recipe)), test=self.test,
        )  # fmt: skip
        self.results.append(record)
        self._writer.result(record)
        return estimate

    def record_claim(self, record: ClaimRecord) -> None:
        """Persist one claim."""
        self.claims.append(record)
        self._writer.claim(record)

    def attempts(self, claim_id: str) -> int:
        """How often this claim was judged before, in this run."""
        return sum(record.id == claim_id for record in self.claims)

    def verdict_of(self, claim_id: str) -> Verdict | None:
        """Latest verdict of a claim, or None."""
        return next((record.verdict for record in reversed(self.claims) if record.id == claim_id), None)

    def truth(self, recipe: Recipe) -> float | None:
        """The twin's true value of an estimate; None on real devices."""
        return true_value(recipe, self)

    def gates_of(self, requirement: Recipe) -> Sequence[Gate]:
        """Gates of a requirement, from the artifacts so far."""
        return gates_of(requirement, self)

    def evidence(self, recipe: Recipe) -> Sequence[str]:
        """Artifacts behind an estimate."""
        return evidence(recipe)


def structured(name: str, columns: Mapping[str, ArrayLike]) -> NDArray[np.void]:
    """Columns of one length as a structured array, a row a step; raises ``ValueError`` with the column that does not fit."""
    arrays = {key: np.asarray(values) for key, values in columns.items()}
    if not arrays:
        raise ValueError(f"table '{name}' has no columns.")
    rows = len(next(iter(arrays.values()))) if next(iter(arrays.values())).ndim else 0
    for key, values in arrays.items():
        if values.ndim != 1 or len(values) != rows:
            raise ValueError(
                f"column '{key}' of table '{name}' has the shape {values.shape}; every column needs one value for each of {rows} rows."
            )
        if values.dtype.kind not in "biufU":
            raise ValueError(f"column '{key}' of table '{name}' holds {values.dtype}; a table holds numbers, booleans and text.")
    table = np.empty(rows, dtype=[(key, values.dtype) for key, values in arrays.items()])
    for key, values in arrays.items():
        table[key] = values
    return table


def at_rest(trace: Trace, now_ns: int, span_s: float) -> bool:
    """Whether P-state, clock and temperature have been the same for ``span_s``, or for ``REST_S`` in a P-state for work.

    Where there are no samples there is nothing to wait for; where they begin later than that, it is not known yet.
    """
    since_ns = now_ns - round(span_s * NS_PER_S)
    recent = trace.between(since_ns, now_ns)
    if not len(recent):
        return True
    states = recent.values("performance_state") if recent.has("performance_state") else np.zeros(0)
    working = len(states) > 0 and states[-1] < IDLE_STATE
    if working and span_s < REST_S:
        return at_rest(trace, now_ns, REST_S)
    columns = [recent.values(name) for name in ("performance_state", "sm_clock_hz") if recent.has(name)]
    known = [values[np.isfinite(values)] for values in columns]
    warmth = recent.values("temperature_c") if recent.has("temperature_c") else np.zeros(1)
    cooled = not np.nanmax(warmth) - np.nanmin(warmth) > REST_CHANGE_C if np.isfinite(warmth).any() else True
    seen = int(trace.rows["t_before_ns"][0]) <= since_ns
    return seen and cooled and all(len(np.unique(values)) <= 1 for values in known)


def _instrument_record(name: str, device: Device, sampler: Sampler, started: AnchorRecord) -> InstrumentRecord:
    return InstrumentRecord(
        name=name,
        spec=str(device.spec),
        parameters=numbers_or_none(device.spec.parameters),
        fingerprint=FingerprintRecord.of(device.fingerprint),
        clock=device.clock.name,
        clock_resolution_ns=device.clock.resolution_ns,
        period_ns=sampler.period_ns,
        origin_ns=sampler.origin_ns,
        channels=[ChannelRecord.of(channel) for channel in device.channels],
        absent=dict(device.absent),
        scheduling=sampler.status.scheduling,
        started=started,
        sampler_state=SamplerState.RUNNING.value,
    )
