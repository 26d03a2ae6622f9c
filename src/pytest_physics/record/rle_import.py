"""Import old RLE recordings as run directories, so that every analysis of this package runs on them.

One run per session CSV: an instrument per device, whose trace ``--physics-device replay:RUN`` replays; the columns that the monitor
computed as a table ``logged-<device>-1``; a training log that lies within the session as the table ``training-steps-1`` on the same clock.
Per channel one result: its mean, with every problem found in the recording as a gate; what every event rule says of each device, the GPU
against the CPU, and the coupling with the log. The clock is the recording's own UTC time, counted
from one second before its first row.

Assumes nothing about what was measured: provenance is *stale* at best, and worse where a channel is a constant, follows another one, or
repeats itself. A log that overlaps no session, or too little of one, is not attached, and the time-zone offset that would explain it is
named, never applied.

Reference: RLE study §3, §4, §8.9.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_physics.clock import NS_PER_S, utc_now
from pytest_physics.config import Settings
from pytest_physics.devices.base import CHANNELS, ERROR_OTHER, READ_OK, Channel, Fingerprint, ReadingKind
from pytest_physics.errors import ConfigurationError, RecordError, nearest
from pytest_physics.metrology.channel_checks import check_channels
from pytest_physics.metrology.coupling import identical
from pytest_physics.metrology.decision import condensed
from pytest_physics.metrology.forensics.alignment import MIN_MATCHED, clock_offset
from pytest_physics.metrology.instability import RULES
from pytest_physics.metrology.quality import Provenance
from pytest_physics.metrology.uncertainty import Recipe
from pytest_physics.record.consistency import thermal_trips
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.leaves.coupling import SHOWN_AS
from pytest_physics.record.leaves.imported import HOLDING, LOGGED, NOMINAL_S, seconds
from pytest_physics.record.reader import trace_name
from pytest_physics.record.recipes import evaluate
from pytest_physics.record.rle_files import DeviceRows, Note, SessionFile, TrainingLog, UnusableFile, read_recording
from pytest_physics.record.schema import (
    AnchorRecord,
    ChannelRecord,
    EstimateRecord,
    FingerprintRecord,
    GateRecord,
    InstrumentRecord,
    PhaseRecord,
    ResultRecord,
    RunRecord,
    numbers_or_none,
)
from pytest_physics.record.writer import RunWriter, new_run_directory
from pytest_physics.sampling.base import SamplerState, ThermalSafety
from pytest_physics.sampling.statistics import sampler_statistics
from pytest_physics.sampling.trace import Trace
from pytest_physics.sampling.writer import TraceWriter

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Wanted = tuple[str, dict[str, str | int | float], Recipe]
"""Quantity, coordinates and recipe of a result."""

EXPERIMENT = "imported recording"
COUPLING = "training coupling"
"""Experiment under which the coupling of an attached training log stands, as that of a session of ours does."""
DIFFERENTIAL = "component differential"
CONTRASTS = {
    "share": "difference: share of time in events", "onset": "difference: first event", "needed_ticks": "ticks for 80 % power",
}  # fmt: skip
COUPLED = (
    ("grad_norm", "logged_rle_smoothed"), ("loss", "logged_rle_smoothed"), ("grad_norm", "temperature_c"), ("grad_norm", "power_w"),
    ("grad_norm", "utilisation_ratio"), ("grad_norm", "utilisation_cpu_ratio"),
)  # fmt: skip
"""Pairs that were published, and those that physics would suggest."""
CLOCK = "UTC as recorded"
LEAD_NS = NS_PER_S
"""The clock begins this long before the first row."""
GIB = 2.0**30
FARTHEST_ZONE_H = 14
STEPS_TABLE = "training-steps-1"
SENSORS: Mapping[str, tuple[str, float]] = {
    "temp_c": ("temperature_c", 1.0),
    "power_w": ("power_w", 1.0),
    "vram_temp_c": ("memory_temperature_c", 1.0),
    "gpu_clock_mhz": ("sm_clock_hz", 1e6),
    "gpu_memory_used_gb": ("memory_used_bytes", GIB),
    "cpu_freq_ghz": ("frequency_hz", 1e9),
    "cpu_freq_mhz": ("frequency_hz", 1e6),
}
"""Columns that are readings: our channel, and what turns the column's unit into its unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """One run made of one session."""

    path: Path
    source: Path
    devices: tuple[str, ...]
    log: Path | None
    """The training log that was attached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What came of an import."""

    runs: tuple[Imported, ...]
    notes: tuple[Note, ...]
    """What was left out, assumed or refused, file by file."""


def import_rle(
    files: Sequence[Path],
    runs: Path,
    *,
    settings: Settings,
    utc_offset_h: float | Mapping[str, float] | None = None,
    command: Sequence[str] = (),
) -> ImportResult:
    """Write one run per session CSV among ``files`` into ``runs``; raises ``RecordError`` where none of them is usable.

    Parameters
    ----------
    utc_offset_h
        Offset of times without a zone from UTC, in hours, such as −5: of all files whose writer is not known to write UTC, or by the name
        of a file (the name ``""`` stands for all).
    """
    offsets = utc_offset_h if isinstance(utc_offset_h, Mapping) else {} if utc_offset_h is None else {"": utc_offset_h}
    for name, hours in offsets.items():
        if not abs(hours) <= FARTHEST_ZONE_H:
            raise ConfigurationError(f"--utc-offset is {hours:g} h (limit ±{FARTHEST_ZONE_H} h); give hours from UTC, such as -5.")
        if name and name not in {path.name for path in files}:
            raise ConfigurationError(f"--utc-offset names '{name}', which is none of the files{nearest(name, [p.name for p in files])}.")
    sessions, logs, notes = _read(files, offsets)
    if not sessions:
        alone = ["Give the session's CSV together with its training log."] if logs else []
        raise RecordError(" ".join(["nothing could be imported: no session CSV is usable.", *alone, *map(str, notes)]))
    notes += _replicates(logs)
    homes = [_home(log, sessions, notes) for log in logs]
    made = []
    for number, session in enumerate(sessions):
        attached = [log for log, home in zip(logs, homes, strict=True) if home == number]
        notes += [_second_log(log, session) for log in attached[1:]]
        about = {session.path.name, *(log.path.name for log in attached[:1])}
        own = [note for note in notes if note.file in about]
        made.append(_Run(session, attached[:1], settings, command, own).write(runs))
    return ImportResult(runs=tuple(made), notes=tuple(notes))


def offsets_of(texts: Sequence[str]) -> dict[str, float]:
    """What ``--utc-offset`` says: ``HOURS`` of all files, ``FILE=HOURS`` of one; raises :class:`ConfigurationError`."""
    found = {}
    for text in texts:
        name, _, hours = text.rpartition("=")
        try:
            found[name] = float(hours)
        except ValueError:
            raise ConfigurationError(f"--utc-offset '{text}' is neither HOURS nor FILE=HOURS; write -5, or log.json=-5.") from None
    return found


def _read(files: Sequence[Path], offsets: Mapping[str, float]) -> tuple[list[SessionFile], list[TrainingLog], list[Note]]:
    """Every file that can be read; what cannot becomes a note."""
    sessions: list[SessionFile] = []
    logs: list[TrainingLog] = []
    notes: list[Note] = []
    for path in files:
        try:
            found = read_recording(path, utc_offset_h=offsets.get(path.name), usual_offset_h=offsets.get(""))
        except UnusableFile as error:
            notes += error.notes
            continue
        notes += found.notes
        if isinstance(found, TrainingLog):
            logs.append(found)
        elif (known := next((session for session in sessions if _same_rows(session, found)), None)) is not None:
            same = f"has the same rows as {known.path.name}"
            notes.append(Note(file=path.name, lines=(), problem=same, remedy="one run was made of both; nothing to do"))
        else:
            sessions.append(found)
    return sessions, logs, notes


def _same_rows(one: SessionFile, other: SessionFile) -> bool:
    """Whether two files hold one recording."""
    return one.devices.keys() == other.devices.keys() and all(
        np.array_equal(rows.t_ns, other.devices[name].t_ns)
        and rows.columns.keys() == other.devices[name].columns.keys()
        and all(np.array_equal(values, other.devices[name].columns[column], equal_nan=True) for column, values in rows.columns.items())
        for name, rows in one.devices.items()
    )


def _replicates(logs: Sequence[TrainingLog]) -> list[Note]:
    """Logs whose steps are equal to the last bit, whatever they are called."""
    series = {f"{log.path.parent.name}/{log.path.name}": np.concatenate([log.step, *log.columns.values()]) for log in logs}
    return [
        Note(
            file=names[0], lines=(), problem=f"is identical to the last bit with {', '.join(names[1:])}: one seeded training, repeated",
            remedy="treat them as replicates of one workload, never as different workloads",
        )
        for names in identical(series)
    ]  # fmt: skip


def _home(log: TrainingLog, sessions: Sequence[SessionFile], notes: list[Note]) -> int | None:
    """Index of the session within whose time the log lies; None, with a note, where it lies in none."""
    within = [_within(log, session) for session in sessions]
    best = int(np.argmax([inside.mean() for inside in within]))
    share = float(within[best].mean())
    if share >= MIN_MATCHED:
        return best
    session = sessions[best]
    times = next(iter(session.devices.values())).t_ns / NS_PER_S
    found = clock_offset(log.t_ns / NS_PER_S, times, tolerance_s=NOMINAL_S)
    notes.append(
        Note(
            file=log.path.name, lines=tuple(log.lines[~within[best]].tolist()),
            problem=f"{share:.0%} of its steps lie within {session.path.name} (limit {MIN_MATCHED:.0%}), so it is not attached; "
            f"{found.sentence}",
            remedy=f"import it with its own session, and state the zone of its clock with --utc-offset {log.path.name}=HOURS; "
            "it is never shifted until it fits",
        )
    )  # fmt: skip
    return None


def _within(log: TrainingLog, session: SessionFile) -> NDArray[np.bool_]:
    """Which steps of a log lie within the time of a session."""
    slack = round(NOMINAL_S * NS_PER_S)
    first = min(int(rows.t_ns[0]) for rows in session.devices.values()) - slack
    last = max(int(rows.t_ns[-1]) for rows in session.devices.values()) + slack
    return (log.t_ns >= first) & (log.t_ns <= last)


def _second_log(log: TrainingLog, session: SessionFile) -> Note:
    return Note(
        file=log.path.name, lines=tuple(log.lines.tolist()), problem=f"another training log lies within {session.path.name} already",
        remedy="import each with its own session",
    )  # fmt: skip


# --- one run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Run:
    """Writes one run directory."""

    session: SessionFile
    logs: Sequence[TrainingLog]
    settings: Settings
    command: Sequence[str]
    notes: Sequence[Note]

    @property
    def _zero_ns(self) -> int:
        """Unix time at which the run's clock is 0."""
        return min(int(rows.t_ns[0]) for rows in self.session.devices.values()) - LEAD_NS

    def write(self, runs: Path) -> Imported:
        path = new_run_directory(runs)
        writer = RunWriter(path)
        instruments = {name: self._instrument(path, writer, name, rows) for name, rows in self.session.devices.items()}
        for log in self.logs:
            writer.table(STEPS_TABLE, table({"t_ns": log.t_ns - self._zero_ns, "step": log.step, **log.columns}))
        record = self._record(path, instruments)
        writer.run(record)
        results = self._results(RecordedRun(path))
        for result in results:
            writer.result(result)
        counts = {"windows": 0, "results": len(results), "claims": 0}
        writer.run(record.model_copy(update={"state": "completed", "end_reason": "finished", "ended_utc": utc_now(), "counts": counts}))
        writer.close()
        writer.manifest()
        return Imported(
            path=path, source=self.session.path, devices=tuple(instruments), log=self.logs[0].path if self.logs else None
        )  # fmt: skip

    def _instrument(self, path: Path, writer: RunWriter, name: str, rows: DeviceRows) -> InstrumentRecord:
        """Trace and table of one device, and what ``run.json`` says of it."""
        channels = _channels(name, rows)
        t_ns = rows.t_ns - self._zero_ns
        period_ns, origin_ns, ticks = grid(t_ns)
        _write_trace(path / trace_name(name), t_ns, ticks, channels)
        logged = {column: rows.columns[column] for column in LOGGED if column in rows.columns}
        if logged:
            writer.table(f"logged-{name}-1", table({"t_ns": t_ns, **logged}))
        trace = Trace.load(path / trace_name(name), instrument=name, period_ns=period_ns)
        soak = self.settings.soak
        return InstrumentRecord(
            name=name,
            spec=f"import:{self.session.path.name}",
            parameters={"monitor": self.session.monitor},
            fingerprint=FingerprintRecord.of(self._fingerprint(name)),
            clock=CLOCK,
            clock_resolution_ns=1000,
            period_ns=period_ns,
            origin_ns=origin_ns,
            channels=self._channel_records(name, trace),
            absent=_absent(name, channels),
            scheduling="not known",
            started=AnchorRecord(utc=_utc(self._zero_ns + origin_ns), t_ns=origin_ns),
            ended=AnchorRecord(utc=_utc(int(rows.t_ns[-1])), t_ns=int(t_ns[-1])),
            sampler_state=SamplerState.STOPPED.value,
            statistics=numbers_or_none(asdict(sampler_statistics(trace, origin_ns))),
            thermal_trips=thermal_trips(trace, ThermalSafety(trip_c=soak.trip_c, resume_c=soak.resume_c)),
        )

    def _fingerprint(self, name: str) -> Fingerprint:
        details = {"monitor": self.session.monitor, "file": self.session.path.name}
        return Fingerprint(kind="import", name=f"{name} of an RLE recording", identity=f"{self.session.path.stem}/{name}", details=details)

    def _channel_records(self, name: str, trace: Trace) -> list[ChannelRecord]:
        values = {channel: np.asarray(trace.values(channel)) for channel in trace.channels}
        checks = check_channels(seconds(trace), values, nominal_s=NOMINAL_S, holding=HOLDING, scope=name)
        return [
            ChannelRecord.of(
                Channel(
                    name=channel, kind=ReadingKind.AVERAGE if channel.endswith("_ratio") else ReadingKind.INSTANT,
                    resolution=_step(column), provenance=Provenance.weakest(Provenance.STALE, checks.provenance[channel]),
                    source=f"imported from {self.session.path.name}",
                )
            )
            for channel, column in values.items()
        ]  # fmt: skip

    def _record(self, path: Path, instruments: Mapping[str, InstrumentRecord]) -> RunRecord:
        banner = [
            f"IMPORTED from {self.session.path.name}, written by monitor {self.session.monitor}: nothing here was measured by this package."
        ]
        return RunRecord(
            run_id=path.name, state="running", end_reason="running", started_utc=utc_now(), command=list(self.command),
            profile=self.settings.profile, config=self.settings.model_dump(mode="json"), config_sha256=self.settings.digest(),
            banner=[*banner, *map(str, self.notes)], instruments=dict(instruments),
            phases=[_phase(name, instrument) for name, instrument in instruments.items()],
        )  # fmt: skip

    def _results(self, run: RecordedRun) -> list[ResultRecord]:
        wanted: list[tuple[str, Wanted]] = []
        for name, instrument in run.reader.run.instruments.items():
            for channel in instrument.channels:
                at: dict[str, str | int | float] = {"instrument": name, "channel": channel.name}
                recipe = Recipe(op="imported.channel_mean", parameters={**at, "phase": f"{name}-p1"})
                wanted.append((EXPERIMENT, ("mean", at, recipe)))
            own = _index_recipes(run, name, self.session.monitor) + _event_recipes(name)
            wanted += [(EXPERIMENT, item) for item in own]
            if self.logs:
                wanted += [(COUPLING, item) for item in _coupling_recipes(run, name, self.logs[0].path.name)]
        wanted += [(DIFFERENTIAL, item) for item in _differential_recipes(run.reader.run.instruments.keys())]
        found = []
        for number, (experiment, (quantity, coordinates, recipe)) in enumerate(wanted, start=1):
            estimate = evaluate(recipe, run)
            found.append(
                ResultRecord(
                    id=f"r{number}", experiment=experiment, quantity=quantity, coordinates=coordinates,
                    estimate=EstimateRecord.of(estimate), gates=[GateRecord.of(gate) for gate in condensed(estimate.gates)],
                    recipe=recipe.to_json(),
                )
            )  # fmt: skip
        return found


def _coupling_recipes(run: RecordedRun, name: str, log: str) -> list[Wanted]:
    """The training coupling of one device: every number of every pair."""
    found: list[Wanted] = []
    table_id = f"logged-{name}-1"
    logged = run.table(table_id).dtype.names or () if table_id in run.reader.tables else ()
    known = {*run.trace(name).channels, *(f"logged_{column}" for column in logged)}
    for a, b in (pair for pair in COUPLED if pair[1] in known):
        parameters = {"table": STEPS_TABLE, "instrument": name, "a": a, "b": b, "max_lag_s": NOMINAL_S, "phase": f"{name}-p1"}
        at: dict[str, str | int | float] = {"instrument": name, "training": log, "series": f"{a} ~ {b}"}
        found += [(shown, at, Recipe(op=f"coupling.{quantity}", parameters=parameters)) for quantity, shown in SHOWN_AS.items()]
    return found


def _event_recipes(name: str) -> list[Wanted]:
    """What every event rule says of one device."""
    recipes = {
        rule: Recipe(op="events.flag_share", parameters={"phase": f"{name}-p1", "rule": rule, "tick_s": NOMINAL_S}) for rule in RULES
    }
    return [("share of ticks flagged", {"instrument": name, "rule": rule}, recipe) for rule, recipe in recipes.items()]


def _differential_recipes(names: Collection[str]) -> list[Wanted]:
    """GPU less CPU, where both were recorded: who is in events more often, and first, by every rule."""
    if not {"gpu", "cpu"} <= set(names):
        return []
    at = {"phase": "gpu-p1", "span": "cpu-p1", "tick_s": NOMINAL_S}
    return [
        (shown, {"contrast": f"gpu − cpu, {rule}"}, Recipe(op=f"differential.{quantity}", parameters={**at, "rule": rule}))
        for rule in RULES
        for quantity, shown in CONTRASTS.items()
    ]


def _phase(name: str, instrument: InstrumentRecord) -> PhaseRecord:
    """The whole recording."""
    t1_ns = None if instrument.ended is None else instrument.ended.t_ns
    return PhaseRecord(id=f"{name}-p1", instrument=name, name="recording", t0_ns=instrument.started.t_ns, t1_ns=t1_ns)


def _index_recipes(run: RecordedRun, name: str, monitor: str) -> list[Wanted]:
    """The recomputation of the logged index, where there is one."""
    table_id = f"logged-{name}-1"
    names = run.table(table_id).dtype.names or () if table_id in run.reader.tables else ()
    readable = {"utilisation_ratio", "utilisation_cpu_ratio"} & set(run.trace(name).channels)
    if not readable or not set(names) >= (set(LOGGED) if monitor == "rle/v2" else {"rle_raw"}):
        return []
    quantity = "largest difference to the logged index" if monitor == "rle/v2" else "median relative difference to the logged index"
    recipe = Recipe(op="imported.index_difference", parameters={"instrument": name, "table": table_id, "metric": monitor})
    return [(quantity, {"instrument": name, "metric": monitor}, recipe)]


def _channels(name: str, rows: DeviceRows) -> dict[str, FloatArray]:
    """Our channels from the file's columns."""
    utilisation = "utilisation_cpu_ratio" if name == "cpu" else "utilisation_ratio"
    units = {"util_pct": (utilisation, 0.01), **SENSORS}
    return {channel: rows.columns[column] * factor for column, (channel, factor) in units.items() if column in rows.columns}


def _absent(name: str, channels: Mapping[str, FloatArray]) -> dict[str, str]:
    """What the monitor did not read of this device."""
    wanted = {"temperature_c", "power_w", "utilisation_cpu_ratio" if name == "cpu" else "utilisation_ratio"}
    return dict.fromkeys(sorted(wanted & CHANNELS.keys() - channels.keys()), "the recording has no value of it")


def _step(values: FloatArray) -> float:
    """Smallest step between two values, rounded off the arithmetic; 0 for a constant."""
    levels = np.unique(values[np.isfinite(values)])
    return float(f"{np.diff(levels).min():.6g}") if levels.size > 1 else 0.0


def grid(t_ns: IntArray) -> tuple[int, int, IntArray]:
    """Period, origin and increasing tick numbers of rows that came when they came: no row lies before its tick is due."""
    period_ns = max(1, round(float(np.median(np.diff(t_ns)))))
    nearest = np.round((t_ns - t_ns[0]) / period_ns).astype(np.int64)
    index = np.arange(t_ns.size)
    ticks = np.maximum.accumulate(nearest - index) + index  # at least one more than the tick before
    return period_ns, int((t_ns - ticks * period_ns).min()), ticks


def _write_trace(path: Path, t_ns: IntArray, ticks: IntArray, channels: Mapping[str, FloatArray]) -> None:
    writer = TraceWriter(path, tuple(channels))
    values = np.column_stack(list(channels.values()))
    errors = np.where(np.isfinite(values), READ_OK, ERROR_OTHER)
    for k in range(t_ns.size):
        writer.add(int(ticks[k]), int(t_ns[k]), int(t_ns[k]), values[k].tolist(), errors[k].tolist())
    writer.close()


def table(columns: Mapping[str, ArrayLike]) -> NDArray[np.void]:
    """Columns of one length as a structured array."""
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    made = np.empty(len(next(iter(arrays.values()))), dtype=[(name, values.dtype) for name, values in arrays.items()])
    for name, values in arrays.items():
        made[name] = values
    return made


def _utc(unix_ns: int) -> str:
    return datetime.fromtimestamp(unix_ns / NS_PER_S, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
