"""Checks of the memory records: do probes and watched allocators agree with themselves, with their instrument, and on a twin with its law.

The part of ``verify`` for ``probes.jsonl`` and ``allocations.jsonl``. On a twin every peak and every outcome is computed again. On hardware
only contradictions can be found: ids, order, one subject and one capacity rule per search, sizes that fit their search, and bytes that an
allocator cannot have.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.discover import open_device
from pytest_physics.devices.twin import TwinDevice
from pytest_physics.devices.twin import memory as twin_memory
from pytest_physics.errors import RecordError
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.finding import Finding, Items, differences
from pytest_physics.record.leaves.memory import is_twin, sizes_of, state_of
from pytest_physics.record.schema import AllocationRecord, InstrumentRecord, ProbeRecord, Record

TIME_TOLERANCE_NS = 1000
"""A twin's clock counts whole nanoseconds, rounded once per segment."""


def memory(run: RecordedRun) -> Items:
    """Every probe and every watched allocator."""
    seen: dict[str, list[ProbeRecord]] = {}
    for probe in run.reader.probes:
        earlier = seen.setdefault(probe.search, [])
        yield from _probe(run, probe, earlier)
        earlier.append(probe)
        yield None
    counted: dict[str, int] = {}
    for record in run.reader.allocations:
        counted[record.instrument] = counted.get(record.instrument, 0) + 1
        yield from differences(f"allocations.jsonl: {record.id}.id", record.id, f"{record.instrument}-a{counted[record.instrument]}")
        yield from _allocation(run, record)
        yield None
    yield None


def _probe(run: RecordedRun, probe: ProbeRecord, earlier: list[ProbeRecord]) -> Iterator[Finding]:
    where = f"probes.jsonl: {probe.id}"
    yield from differences(f"{where}.id", probe.id, f"{probe.search}.{len(earlier) + 1}")
    yield from differences(f"{where}.instrument", probe.instrument, probe.search.partition("-")[0])
    yield from differences(f"{where}.repeat", probe.repeat == 0, probe.part == "prediction")
    if probe.part == "downwards" and probe.repeat % 2:
        yield Finding(where=f"{where}.part", problem="is 'downwards' in an odd pass; those go upwards")
    yield from _same_search(where, probe, earlier)
    positions = probe.subject.max_positions
    beyond = positions is not None and probe.context > positions
    yield from differences(f"{where}.outcome", probe.outcome == "ARCHITECTURE_LIMIT", beyond)
    yield from differences(f"{where}.message", bool(probe.message), probe.outcome != "FITS")
    yield from differences(f"{where}.peak_bytes", probe.peak_bytes is not None, probe.outcome == "FITS")
    if probe.reserved_bytes is not None and probe.reserved_bytes < (probe.peak_bytes or 0):
        yield Finding(where=f"{where}.reserved_bytes", problem=f"is {probe.reserved_bytes}, less than was allocated of it")
    instrument = run.instrument(probe.instrument)
    yield from _within_life(where, instrument, probe.t0_ns, probe.t1_ns)
    if is_twin(run, probe.instrument):
        yield from _twin_probe(where, instrument, probe)
    elif probe.seconds is not None and probe.seconds * 1e9 > probe.t1_ns - probe.t0_ns:
        yield Finding(where=f"{where}.seconds", problem=f"is {probe.seconds}, longer than the probe itself")


def _same_search(where: str, probe: ProbeRecord, earlier: list[ProbeRecord]) -> Iterator[Finding]:
    if not earlier:
        return
    first = earlier[0]
    fixed = "batch" if probe.axis == "context" else "context"
    for name in ("axis", "limited_by", "rounding_bytes", "subject", fixed):
        yield from differences(f"{where}.{name}", _plain(getattr(probe, name)), _plain(getattr(first, name)))
    if probe.t0_ns < earlier[-1].t1_ns:
        yield Finding(where=f"{where}.t0_ns", problem="lies before the end of the probe before it")


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, Record) else value


def _within_life(where: str, instrument: InstrumentRecord, t0_ns: int, t1_ns: int) -> Iterator[Finding]:
    ended = instrument.ended.t_ns if instrument.ended else t1_ns
    if not instrument.started.t_ns <= t0_ns <= t1_ns <= ended:
        yield Finding(where=where, problem=f"lasts from {t0_ns} to {t1_ns} ns, outside of its instrument's life or backwards")


def _twin_probe(where: str, instrument: InstrumentRecord, probe: ProbeRecord) -> Iterator[Finding]:
    card = _twin(instrument).preset.card
    sizes, eager = sizes_of(probe.subject), probe.subject.attention == "eager"
    wanted = twin_memory.true_peak_bytes(sizes, batch=probe.batch, context=probe.context, eager=eager)
    free_bytes = card.memory_bytes - card.memory_reserved_bytes - sum(probe.foreign.values())
    yield from differences(f"{where}.capacity_bytes", probe.capacity_bytes, free_bytes)
    yield from differences(f"{where}.rounding_bytes", probe.rounding_bytes, twin_memory.rounding_bytes(sizes))
    if probe.outcome == "FITS":
        yield from differences(f"{where}.peak_bytes", probe.peak_bytes, wanted)
        yield from differences(f"{where}.reserved_bytes", probe.reserved_bytes, None)
        lasted_ns, said_ns = probe.t1_ns - probe.t0_ns, (probe.seconds or 0.0) * 1e9
        if abs(lasted_ns - said_ns) > TIME_TOLERANCE_NS:
            yield Finding(where=f"{where}.seconds", problem=f"is {probe.seconds}, and the twin's clock moved by {lasted_ns} ns")
    if probe.outcome in {"FITS", "OUT_OF_MEMORY"}:
        room = probe.capacity_bytes + card.host_spill_bytes
        yield from differences(f"{where}.outcome", probe.outcome == "OUT_OF_MEMORY", wanted > room)


def _twin(instrument: InstrumentRecord) -> TwinDevice:
    device = open_device(DeviceSpec(kind="twin", parameters=instrument.parameters))
    if not isinstance(device, TwinDevice):
        raise RecordError(f"instrument '{instrument.name}' is recorded as a twin and cannot be built again; restore it from a copy.")
    return device


def _allocation(run: RecordedRun, record: AllocationRecord) -> Iterator[Finding]:
    where = f"allocations.jsonl: {record.id}"
    instrument = run.instrument(record.instrument)
    for state in record.states:
        try:
            state_of(state)
        except ValueError as error:
            yield Finding(where=where, problem=str(error))
        yield from _within_life(where, instrument, state.t_ns, state.t_ns)
    if record.peak_bytes < max(state.allocated_bytes for state in record.states):
        yield Finding(where=f"{where}.peak_bytes", problem=f"is {record.peak_bytes}, below what one of its states shows")
