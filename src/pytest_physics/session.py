"""One run's life: open the devices, sample, record, judge, finish.

The run directory is the truth: everything the session knows it reads from what it wrote, so that ``verify`` can do the same later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from pytest_physics.clock import NS_PER_S, VirtualClock, utc_now
from pytest_physics.config import Settings
from pytest_physics.devices.base import Device, DeviceSpec
from pytest_physics.devices.discover import choose_devices, open_device
from pytest_physics.devices.lock import DeviceLock
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.instrument import Instrument, Label
from pytest_physics.metrology.decision import Verdict, condensed
from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.uncertainty import Estimate, Gate, Recipe
from pytest_physics.record.environment import environment, git_state
from pytest_physics.record.reader import trace_name
from pytest_physics.record.recipes import baseline_record, evaluate, evidence, gates_of, latest_needed, true_value
from pytest_physics.record.schema import (
    AnchorRecord,
    BaselineRecord,
    ChannelRecord,
    ClaimRecord,
    EstimateRecord,
    FingerprintRecord,
    GateRecord,
    InstrumentRecord,
    PhaseRecord,
    ResultRecord,
    RunRecord,
    SensorRecord,
    WindowRecord,
    finite_or_none,
    numbers_or_none,
)
from pytest_physics.record.writer import RunWriter, new_run_directory
from pytest_physics.sampling.base import Sampler, SamplerState, ThermalSafety
from pytest_physics.sampling.inline import InlineSampler
from pytest_physics.sampling.process import ProcessSampler
from pytest_physics.sampling.statistics import sampler_statistics
from pytest_physics.sampling.trace import Trace

SETTLE_STEP_S = 1.0
"""How often a settling device is looked at."""
SETTLE_LIMIT = 20.0
"""A device may take this many times ``baseline.settle_s`` to come to rest before the baseline is measured as it is, for its gates to
judge."""


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
        shown = ", ".join(f"{name} = {spec}" for name, spec in instruments.items())
        simulated = any(spec.kind == "twin" for spec in choice.specs)
        banner = choice.banner if "SIMULATED" in choice.banner or not simulated else f"GPU numbers are SIMULATED: {choice.banner}"
        return cls(instruments=instruments, banner=(banner,) if simulated else (), header=shown)


def _instrument_name(spec: DeviceSpec) -> str:
    return "cpu" if spec.kind == "cpu" else "gpu"


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


class Session:
    """A run in progress. Made by :meth:`start`, ended by :meth:`finish`; also the live side of ``record.recipes.RunData``."""

    def __init__(self, *, settings: Settings, plan: Plan, path: Path, command: Sequence[str], directory: Path) -> None:
        self.settings = settings
        self.plan = plan
        self.path = path
        self.test = ""
        self.memory: dict[str, Any] = {}
        self.claims: list[ClaimRecord] = []
        self.results: list[ResultRecord] = []
        self.instruments: dict[str, Instrument] = {}
        self._records: dict[str, InstrumentRecord] = {}
        self._resources = ExitStack()
        self._writer = RunWriter(path)
        self._run = RunRecord(
            run_id=path.name, state="running", end_reason="running", started_utc=utc_now(), command=list(command),
            profile=settings.profile, config=settings.model_dump(mode="json"), config_sha256=settings.digest(),
            banner=list(plan.banner), git=git_state(directory), environment=environment(),
        )  # fmt: skip
        self.rig = Rig(self.instruments, self)

    # --- life --------------------------------------------------------------------------------------------------------

    @classmethod
    def start(cls, settings: Settings, plan: Plan | None = None, *, command: Sequence[str] = (), directory: Path | None = None) -> Session:
        """Create the run directory, open the devices and start the samplers."""
        directory = directory or Path.cwd()
        path = new_run_directory(directory / settings.runs)
        session = cls(settings=settings, plan=plan or Plan.of(settings), path=path, command=command, directory=directory)
        try:
            for name, spec in session.plan.instruments.items():
                session._add_instrument(name, spec)
        except BaseException as error:
            session._abandon(f"could not start: {error}")
            raise
        return session

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
        self._write_run()

    def use_sensor(self, instrument: Instrument, sensor: SensorModel, *, evidence: str) -> None:
        """From now on know ``instrument``'s power channel as ``sensor``; estimates made before keep the model they used."""
        record_id = f"{instrument.name}-s{len(instrument.sensors)}"
        instrument.sensors.append(
            SensorRecord.of(sensor, record_id=record_id, instrument=instrument.name, channel="power_w", evidence=evidence)
        )
        self._writer.sensors([s for i in self.instruments.values() for s in i.sensors])

    def _sampler(self, name: str, device: Device) -> Sampler:
        period_s = self.settings.sampling.period_s or device.sampling_period_s
        path = self.path / trace_name(name)
        safety = ThermalSafety(trip_c=self.settings.soak.trip_c, resume_c=self.settings.soak.resume_c)
        if isinstance(device.clock, VirtualClock):
            return InlineSampler(device, path, period_s, instrument=name, thermal=safety)  # type: ignore[arg-type]
        return ProcessSampler(device.spec, path, period_s, instrument=name, thermal=safety)

    def finish(self, end_reason: str = "finished", *, publish: Callable[[Path], Path] | None = None) -> Path | None:
        """Stop the samplers, complete the records and the manifest; ``publish`` builds the report in between and names it."""
        self._stop_samplers()
        ended = end_reason == "finished" or end_reason.startswith("stopped")
        self._run = self._run.model_copy(
            update={"state": "completed" if ended else "incomplete", "end_reason": end_reason, "ended_utc": utc_now()}
        )
        self._write_run()
        try:
            return publish(self.path) if publish else None
        finally:
            self._writer.manifest()
            self._writer.close()
            self._resources.close()

    def _stop_samplers(self) -> None:
        for name, instrument in self.instruments.items():
            status = instrument.sampler.stop()
            ended = AnchorRecord(utc=utc_now(), t_ns=instrument.clock.now_ns())
            statistics = sampler_statistics(self.trace(name), instrument.sampler.origin_ns)
            self._records[name] = self._records[name].model_copy(
                update={
                    "ended": ended, "sampler_state": status.state.value, "sampler_error": status.error,
                    "scheduling": status.scheduling, "thermal_trips": status.thermal_trips,
                    "statistics": numbers_or_none(asdict(statistics)),
                }
            )  # fmt: skip
            if instrument.simulated:
                self._writer.truth(name, cast("TruthDevice", instrument.device).truth_table())

    def _abandon(self, reason: str) -> None:
        for instrument in self.instruments.values():
            instrument.sampler.stop()
        self._run = self._run.model_copy(update={"state": "incomplete", "end_reason": reason, "ended_utc": utc_now()})
        self._write_run()
        self._writer.close()
        self._resources.close()

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
            self.instruments[name].wait_until_sampled(t_ns)
        return evaluate(recipe, self)

    def read_trace(self, instrument: str) -> Trace:
        """Samples so far."""
        return self.trace(instrument)

    def measure_baseline(self, instrument: Instrument) -> BaselineRecord:
        """Let the device come to rest, measure its idle power, check that it was idle, and record all of it."""
        with instrument.phase("settle"):
            self._settle(instrument)
        with instrument.phase("baseline") as phase:
            instrument.sleep(self.settings.baseline.duration_s)
        ended = next(p for p in instrument.phases if p.id == phase.id)
        instrument.wait_until_sampled(cast("int", ended.t1_ns))
        baseline_id = f"{instrument.name}-b{len(instrument.baselines) + 1}"
        record = baseline_record(self, ended, baseline_id=baseline_id, sensor_id=instrument.sensor_id)
        instrument.baselines.append(record)
        self._writer.baselines([b for i in self.instruments.values() for b in i.baselines])
        return record

    def _settle(self, instrument: Instrument) -> None:
        """Wait ``settle_s``, and on, until the device has not changed its P-state for that long."""
        settle_s = self.settings.baseline.settle_s
        instrument.sleep(settle_s)
        waited_s = settle_s
        while waited_s < SETTLE_LIMIT * settle_s and not self._at_rest(instrument, settle_s):
            instrument.sleep(SETTLE_STEP_S)
            waited_s += SETTLE_STEP_S

    def _at_rest(self, instrument: Instrument, span_s: float) -> bool:
        now_ns = instrument.clock.now_ns()
        trace = instrument.trace.between(now_ns - round(span_s * NS_PER_S), now_ns)
        states = [trace.values(name) for name in ("performance_state", "sm_clock_hz") if trace.has(name)]
        return all(len(np.unique(values[np.isfinite(values)])) <= 1 for values in states)

    # --- live run data (record.recipes.RunData) ----------------------------------------------------------------------

    def trace(self, instrument: str) -> Trace:
        """Samples so far."""
        return self.instruments[instrument].sampler.trace()

    def window(self, window_id: str) -> WindowRecord:
        """One closed window."""
        return self.instruments[window_id.partition("-")[0]].windows[window_id].record()

    def windows_of(self, instrument: str) -> Sequence[tuple[int, int]]:
        """Start and end of every closed window of an instrument, in nanoseconds."""
        return [(w.t0_ns, w.t1_ns) for w in self.instruments[instrument].windows.values()]

    def phase(self, phase_id: str) -> PhaseRecord:
        """One phase."""
        phases = self.instruments[phase_id.partition("-")[0]].phases
        return next(phase for phase in phases if phase.id == phase_id)

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
        return cast("TruthDevice", found.device).truth_table() if found.simulated else None

    # --- results and claims ------------------------------------------------------------------------------------------

    def result(self, experiment: str, quantity: str, estimate: Estimate, **coordinates: Label) -> Estimate:
        """Record an estimate that an experiment reports, and return it; it is computed anew from its recipe."""
        estimate = self.evaluate(estimate.recipe)
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


def _instrument_record(name: str, device: Device, sampler: Sampler, started: AnchorRecord) -> InstrumentRecord:
    return InstrumentRecord(
        name=name,
        spec=str(device.spec),
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


