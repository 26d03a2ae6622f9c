"""Do the raw records of a run agree with one another? The part of ``verify`` that computes no estimate.

``run.json`` says much that another artifact says too: the channels are the trace's columns, a fingerprint carries its digest, the id of a
run its time, a phase or a window lies within its instrument's life, a simulated device can be built again from its parameters. Whatever is
said twice is compared here. What is said once cannot be: texts, names and labels, and what only the hardware knew. Those are protected by
the manifest, and by the digests that the report names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pytest_physics.devices.base import CHANNELS, Device, DeviceSpec, Fingerprint
from pytest_physics.devices.discover import open_device
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.finding import Finding, Items, differences
from pytest_physics.record.schema import (
    ChannelRecord,
    FingerprintRecord,
    InstrumentRecord,
    PhaseRecord,
    SensorRecord,
    WindowRecord,
    numbers_or_none,
    pauses_of,
    state_after,
)
from pytest_physics.sampling.base import SamplerState, ThermalSafety
from pytest_physics.sampling.statistics import sampler_statistics
from pytest_physics.sampling.trace import Trace

START_TOLERANCE_S = 60.0
"""The id of a run is minted this much before its start is recorded, at most."""

MINTED = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}$")
"""Names of run directories as they are made; a run that is published under another name keeps its id."""


def id_in_name(path: Path) -> str | None:
    """The run id that the directory's name carries, None under a name of its own."""
    name = path.resolve().name
    return name if MINTED.match(name) else None


def kind_of(record: InstrumentRecord) -> str:
    """Kind of device: ``nvml``, ``cpu``, ``twin`` or ``replay``."""
    return record.spec.partition(":")[0]


def header(run: RecordedRun) -> Items:
    """``run.json``: settings and their digest, state, times, banner."""
    record, where = run.reader.run, "run.json"
    simulated = any(kind_of(instrument) == "twin" for instrument in record.instruments.values())
    said = {
        "config_sha256": (record.config_sha256, run.settings.digest()),
        "run_id": (record.run_id, id_in_name(run.reader.path) or record.run_id),
        "profile": (record.profile, run.settings.profile),
        "state": (record.state, state_after(record.end_reason)),
        "ended_utc": (record.ended_utc is not None, record.state != "running"),
        "banner": (any("SIMULATED" in line for line in record.banner), simulated),
    }
    for name, (recorded, computed) in said.items():
        yield from differences(f"{where}: {name}", recorded, computed)
    yield from _minted(record.run_id, record.started_utc)
    yield from _counted(run)
    yield None


def _counted(run: RecordedRun) -> Iterator[Finding]:
    """As many windows, results and claims as the run says it recorded; a run that did not end says nothing."""
    record, held = run.reader.run, run.reader
    found = {"windows": len(held.windows), "results": len(held.results), "claims": len(held.claims)}
    if record.state == "completed" and record.counts != found:
        yield Finding(where="run.json: counts", problem=f"says {record.counts}, the files hold {found}")


def _minted(run_id: str, started_utc: str) -> Iterator[Finding]:
    try:
        minted = datetime.strptime(run_id.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        seconds = (datetime.fromisoformat(started_utc) - minted).total_seconds()
    except (ValueError, TypeError) as error:
        yield Finding(where="run.json: started_utc", problem=f"cannot be compared with the time in the run's id: {error}")
        return
    if not 0 <= seconds <= START_TOLERANCE_S:
        yield Finding(where="run.json: started_utc", problem=f"is {started_utc}, and the run's id says {minted:%Y-%m-%dT%H:%M:%SZ}")


def instruments(run: RecordedRun) -> Items:
    """Each instrument against its trace, its fingerprint's digest and, where it is simulated, the device built again."""
    for name, record in run.reader.run.instruments.items():
        where = f"run.json: instruments.{name}"
        trace = run.trace(name)
        digest = Fingerprint(**record.fingerprint.model_dump(exclude={"digest"})).digest
        yield from differences(f"{where}.name", record.name, name)
        if kind_of(record) != "replay":  # which shows the fingerprint of what it replays
            yield from differences(f"{where}.fingerprint.kind", record.fingerprint.kind, kind_of(record))
        yield from differences(f"{where}.fingerprint.digest", record.fingerprint.digest, digest)
        yield from differences(f"{where}.channels", [channel.name for channel in record.channels], list(trace.channels))
        yield from _sampler(run, where, record, trace)
        yield from _life(where, record, trace)
        for problem in _row_problems(trace, record.origin_ns):
            yield Finding(where=f"trace-{name}.npy", problem=problem)
        for channel in record.absent:
            if channel not in CHANNELS or trace.has(channel):
                yield Finding(where=f"{where}.absent", problem=f"names '{channel}', which is no channel or was sampled")
        yield from _simulated(run, where, record)
        yield None


def _sampler(run: RecordedRun, where: str, record: InstrumentRecord, trace: Trace) -> Iterator[Finding]:
    state = record.sampler_state
    if state not in set(SamplerState):
        yield Finding(where=f"{where}.sampler_state", problem=f"is '{state}', which is no state of a sampler")
    yield from differences(f"{where}.ended", record.ended is None, state == SamplerState.RUNNING)
    yield from differences(f"{where}.sampler_error", bool(record.sampler_error), state == SamplerState.FAILED)
    if record.ended is None:
        return
    pauses_ns = pauses_of(run.reader.run.phases, record.name)
    statistics = numbers_or_none(asdict(sampler_statistics(trace, record.origin_ns, pauses_ns=pauses_ns)))
    yield from differences(f"{where}.statistics", record.statistics, statistics)
    soak = run.settings.soak
    trips = thermal_trips(trace, ThermalSafety(trip_c=soak.trip_c, resume_c=soak.resume_c))
    yield from differences(f"{where}.thermal_trips", record.thermal_trips, trips)


def thermal_trips(trace: Trace, safety: ThermalSafety) -> int:
    """How often the temperature rose to the trip limit after it had been at or below the limit to resume."""
    if not trace.has("temperature_c"):
        return 0
    temperature_c = np.asarray(trace.values("temperature_c"))
    hot = temperature_c[(temperature_c >= safety.trip_c) | (temperature_c <= safety.resume_c)] >= safety.trip_c
    return int(np.count_nonzero(hot & ~np.concatenate([[False], hot[:-1]]))) if len(hot) else 0


def _life(where: str, record: InstrumentRecord, trace: Trace) -> Iterator[Finding]:
    """Origin, start, samples and end are in this order."""
    marks = [("origin_ns", record.origin_ns), ("started.t_ns", record.started.t_ns)]
    if len(trace):
        marks += [("first sample", int(trace.rows["t_before_ns"][0])), ("last sample", int(trace.rows["t_after_ns"][-1]))]
    if record.ended is not None:
        marks.append(("ended.t_ns", record.ended.t_ns))
    for (earlier, t_earlier), (later, t_later) in pairwise(marks):
        if t_earlier > t_later:
            yield Finding(where=where, problem=f"has {earlier} {t_earlier} ns after {later} {t_later} ns")


def _row_problems(trace: Trace, origin_ns: int) -> Iterator[str]:
    """What no sampler writes."""
    rows = trace.rows
    before, after, tick = rows["t_before_ns"], rows["t_after_ns"], rows["tick"]
    if np.any(np.diff(tick) <= 0) or np.any(np.diff(before) < 0):
        yield "has rows that are not in the order of time"
    if np.any(after < before) or np.any(before < origin_ns + tick * trace.period_ns):
        yield "has reads that end before they begin, or begin before their tick was due"
    for channel in trace.channels:
        if np.any(np.isnan(trace.values(channel)) != (trace.errors(channel) != 0)):
            yield f"has values of '{channel}' that are missing without an error code, or present with one"


# --- a simulated device can be built again ---------------------------------------------------------------------------


def _simulated(run: RecordedRun, where: str, record: InstrumentRecord) -> Iterator[Finding]:
    twin = kind_of(record) == "twin"
    if kind_of(record) != "replay":
        provenance = {channel.name: channel.provenance == "simulated" for channel in record.channels}
        yield from differences(f"{where}.channels (simulated)", provenance, dict.fromkeys(provenance, twin))
    table = run.truth_table(record.name)
    yield from differences(f"truth-{record.name}.npy", table is not None, twin and record.ended is not None)
    if not twin:
        return
    device = open_device(DeviceSpec(kind="twin", parameters=record.parameters))
    try:
        rebuilt = _rebuilt(run, record, device)
        yield from differences(where, record.model_dump(mode="json", include=set(rebuilt)), rebuilt)
        yield from _sensors_rebuilt(run, record, device)
    finally:
        device.close()
    if table is not None and record.ended is not None:
        yield from differences(f"truth-{record.name}.npy: end", int(table["t_ns"][-1]), record.ended.t_ns)
        yield from differences(f"truth-{record.name}.npy: begin", int(table["t_ns"][0]), record.started.t_ns)


def _rebuilt(run: RecordedRun, record: InstrumentRecord, device: Device) -> dict[str, Any]:
    """What ``run.json`` says of a device, from the device."""
    return {
        "spec": str(device.spec),
        "parameters": numbers_or_none(device.spec.parameters),
        "fingerprint": FingerprintRecord.of(device.fingerprint).model_dump(mode="json"),
        "clock": device.clock.name,
        "clock_resolution_ns": device.clock.resolution_ns,
        "period_ns": round((run.settings.sampling.period_s or device.sampling_period_s) * 1e9),
        "origin_ns": device.clock.now_ns(),
        "channels": [ChannelRecord.of(channel).model_dump(mode="json") for channel in device.channels],
        "absent": dict(device.absent),
        "scheduling": "virtual time",
        "started": {"utc": record.started.utc, "t_ns": device.clock.now_ns()},
    }


def _sensors_rebuilt(run: RecordedRun, record: InstrumentRecord, device: Device) -> Iterator[Finding]:
    first = next((sensor for sensor in run.reader.sensors if sensor.instrument == record.name), None)
    if device.sensor is not None and first is not None:
        found = SensorRecord.of(
            device.sensor, record_id=f"{record.name}-s0", instrument=record.name, channel="power_w", evidence=first.evidence
        )  # fmt: skip
        yield from differences(f"sensor.json: {first.id}", first.model_dump(mode="json"), found.model_dump(mode="json"))


# --- sensors, phases, windows ----------------------------------------------------------------------------------------


def sensors(run: RecordedRun) -> Items:
    """Ids in order, instruments that have a power channel, models that can be."""
    known: dict[str, int] = {}
    for record in run.reader.sensors:
        where = f"sensor.json: {record.id}"
        number = known.get(record.instrument, 0)
        known[record.instrument] = number + 1
        yield from differences(f"{where}.id", record.id, f"{record.instrument}-s{number}")
        yield from differences(f"{where}.channel", record.channel, "power_w")
        if record.instrument not in run.reader.run.instruments or not run.trace(record.instrument).has(record.channel):
            yield Finding(where=where, problem=f"is about '{record.instrument}', which has no such channel")
        _ = record.sensor  # building the model checks its numbers
        yield None


def tables(run: RecordedRun) -> Items:
    """Every table can be read, and has rows of named columns."""
    for table_id in run.reader.tables:
        if run.table(table_id).dtype.names is None:
            yield Finding(where=f"table-{table_id}.npy", problem="has no named columns")
        yield None


def phases(run: RecordedRun) -> Items:
    """Ids in the order of starting, spans within the instrument's life, all closed in a completed run."""
    started: dict[str, list[PhaseRecord]] = {}
    for phase in run.reader.run.phases:
        where = f"run.json: {phase.id}"
        before = started.setdefault(phase.instrument, [])
        yield from differences(f"{where}.id", phase.id, f"{phase.instrument}-p{len(before) + 1}")
        if before and phase.t0_ns < before[-1].t0_ns:
            yield Finding(where=where, problem="begins before the phase listed before it")
        if phase.t1_ns is None and run.reader.run.state == "completed":
            yield Finding(where=where, problem="never ended although the run completed")
        yield from _within_life(run, where, phase.instrument, phase.t0_ns, phase.t1_ns)
        before.append(phase)
        yield None


def windows(run: RecordedRun) -> Items:
    """Ids without gap or repeat, spans within the instrument's life, and the phase that was open when each window closed."""
    ids: dict[str, set[str]] = {}
    for window in run.reader.windows:
        where = f"windows.jsonl: {window.id}"
        own = ids.setdefault(window.instrument, set())
        if window.id in own:
            yield Finding(where=where, problem="is listed twice")
        own.add(window.id)
        yield from _within_life(run, where, window.instrument, window.t0_ns, window.t1_ns)
        phases_there = [phase for phase in run.reader.run.phases if phase.instrument == window.instrument]
        yield from _phase_of(where, window, phases_there)
        if window.synchronised and kind_of(run.instrument(window.instrument)) == "twin":
            yield Finding(where=where, problem="is said to be synchronised, which a simulated device never is")
        yield None
    for instrument, found in ids.items():
        expected = {f"{instrument}-w{number}" for number in range(1, len(found) + 1)}
        for missing in sorted(expected ^ found):
            yield Finding(where="windows.jsonl", problem=f"numbers its windows with a gap: '{missing}'")


def _within_life(run: RecordedRun, where: str, instrument: str, t0_ns: int, t1_ns: int | None) -> Iterator[Finding]:
    record = run.instrument(instrument)
    if t1_ns is not None and t1_ns < t0_ns:
        yield Finding(where=where, problem="ends before it begins")
    if t0_ns < record.started.t_ns or (record.ended is not None and max(t0_ns, t1_ns or t0_ns) > record.ended.t_ns):
        yield Finding(where=where, problem=f"lies outside of the time in which '{instrument}' was measured")


def _phase_of(where: str, window: WindowRecord, candidates: Sequence[PhaseRecord]) -> Iterator[Finding]:
    """The phase that began last among those open when the window closed; phases that touch that instant may be either."""
    t_ns = window.t1_ns
    inside = [phase.id for phase in candidates if phase.t0_ns < t_ns and (phase.t1_ns is None or t_ns < phase.t1_ns)]
    touching = [phase.id for phase in candidates if t_ns in {phase.t0_ns, phase.t1_ns}]
    allowed = {*(inside[-1:] or [""]), *touching}
    if window.phase not in allowed:
        yield Finding(where=where, problem=f"names phase '{window.phase}', and ended in {' or '.join(sorted(allowed)) or 'none'}")
