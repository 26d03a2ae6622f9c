"""What a recipe may look at: the artifacts of a run, live or read back.

Two implementations, one contract: :class:`pytest_physics.session.Session` while the run goes on, :class:`RecordedRun` afterwards. A recipe
that gives different numbers for the two is a bug, and ``verify`` finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pytest_physics.config import Settings
from pytest_physics.errors import RecordError
from pytest_physics.metrology.response import SensorModel
from pytest_physics.record.reader import RunReader
from pytest_physics.record.schema import (
    AllocationRecord,
    BaselineRecord,
    InstrumentRecord,
    JobRecord,
    PhaseRecord,
    ProbeRecord,
    WindowRecord,
)
from pytest_physics.sampling.trace import Trace


class RunData(Protocol):
    """The artifacts of a run."""

    memory: dict[str, Any]
    """What was computed already and cannot change any more, by a key that names it."""

    @property
    def settings(self) -> Settings:
        """Settings with which gates are judged."""

    def trace(self, instrument: str) -> Trace:
        """Samples of an instrument."""

    def window(self, window_id: str) -> WindowRecord:
        """One closed window."""

    def window_edges(self, instrument: str) -> tuple[Sequence[int], Sequence[int]]:
        """Starts and ends of all windows of an instrument, each in ascending order, in nanoseconds."""

    def windows_in(self, phase_id: str) -> Sequence[WindowRecord]:
        """The closed windows of a phase, in order of time."""

    def phase(self, phase_id: str) -> PhaseRecord:
        """One phase."""

    def phases_of(self, instrument: str) -> Sequence[PhaseRecord]:
        """All phases of an instrument, in the order in which they began."""

    def baseline(self, baseline_id: str) -> BaselineRecord:
        """One idle baseline."""

    def instrument(self, name: str) -> InstrumentRecord:
        """What an instrument is."""

    def sensor(self, sensor_id: str) -> SensorModel | None:
        """Sensor model by id; None for the empty id of an instrument without a power channel."""

    def truth_table(self, instrument: str) -> NDArray[np.void] | None:
        """The twin's true power; None for a real device."""

    def probes(self, search_id: str) -> Sequence[ProbeRecord]:
        """Probes of one search of a memory limit, in the order in which they ran."""

    def allocation(self, allocation_id: str) -> AllocationRecord:
        """One watched allocator."""

    def table(self, table_id: str) -> NDArray[np.void]:
        """What an experiment recorded beside the samples: a structured array."""

    def has_table(self, table_id: str) -> bool:
        """Whether there is such a table: what a device does not offer was not recorded."""

    @property
    def job(self) -> JobRecord | None:
        """Place of the run in a fleet; None outside of jobs."""


Named = TypeVar("Named", WindowRecord, PhaseRecord, BaselineRecord, AllocationRecord)


class RecordedRun:
    """A run directory as :class:`RunData`."""

    def __init__(self, path: Path) -> None:
        self.reader = RunReader(path)
        self.memory: dict[str, Any] = {}

    @cached_property
    def settings(self) -> Settings:
        """Settings of the run; ``RecordError`` where they are not valid."""
        try:
            return Settings.model_validate(self.reader.run.config)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise RecordError(f"{self.reader.path}/run.json: config.{place}: {problem['msg']}; restore it from a copy.") from None

    def trace(self, instrument: str) -> Trace:
        """Samples of an instrument."""
        key = f"trace|{instrument}"
        if key not in self.memory:
            self.instrument(instrument)
            self.memory[key] = self.reader.trace(instrument)
        found: Trace = self.memory[key]
        return found

    def window(self, window_id: str) -> WindowRecord:
        """One closed window."""
        return self._named(self._windows, window_id, "windows.jsonl")

    def window_edges(self, instrument: str) -> tuple[Sequence[int], Sequence[int]]:
        """Starts and ends of all windows of an instrument, each in ascending order."""
        key = f"edges|{instrument}"
        if key not in self.memory:
            spans = [(w.t0_ns, w.t1_ns) for w in self.reader.windows if w.instrument == instrument]
            self.memory[key] = sorted(t0 for t0, _ in spans), sorted(t1 for _, t1 in spans)
        found: tuple[list[int], list[int]] = self.memory[key]
        return found

    def windows_in(self, phase_id: str) -> Sequence[WindowRecord]:
        """The closed windows of a phase."""
        return [w for w in self.reader.windows if w.phase == phase_id]

    def phase(self, phase_id: str) -> PhaseRecord:
        """One phase."""
        return self._named(self._phases, phase_id, "run.json")

    def phases_of(self, instrument: str) -> Sequence[PhaseRecord]:
        """All phases of an instrument."""
        return [phase for phase in self.reader.run.phases if phase.instrument == instrument]

    def baseline(self, baseline_id: str) -> BaselineRecord:
        """One idle baseline."""
        return self._named(self._baselines, baseline_id, "baseline.json")

    def instrument(self, name: str) -> InstrumentRecord:
        """What an instrument is."""
        instruments = self.reader.run.instruments
        if name not in instruments:
            raise RecordError(f"{self.reader.path}/run.json names no instrument '{name}'; restore it from a copy.")
        return instruments[name]

    def sensor(self, sensor_id: str) -> SensorModel | None:
        """Sensor model by id; None for the empty id."""
        return self.reader.sensor(sensor_id)

    def truth_table(self, instrument: str) -> NDArray[np.void] | None:
        """The twin's true power; None for a real device."""
        key = f"truth|{instrument}"
        if key not in self.memory:
            self.memory[key] = self.reader.truth(instrument)
        found: NDArray[np.void] | None = self.memory[key]
        return found

    def probes(self, search_id: str) -> Sequence[ProbeRecord]:
        """Probes of one search."""
        found = [probe for probe in self.reader.probes if probe.search == search_id]
        if not found:
            raise RecordError(
                f"{self.reader.path / 'probes.jsonl'} has no search '{search_id}' that a recipe needs; restore it from a copy."
            )
        return found

    def allocation(self, allocation_id: str) -> AllocationRecord:
        """One watched allocator."""
        return self._named({a.id: a for a in self.reader.allocations}, allocation_id, "allocations.jsonl")

    def table(self, table_id: str) -> NDArray[np.void]:
        """What an experiment recorded beside the samples."""
        key = f"table|{table_id}"
        if key not in self.memory:
            self.memory[key] = self.reader.table(table_id)
        found: NDArray[np.void] = self.memory[key]
        return found

    @property
    def job(self) -> JobRecord | None:
        """Place of the run in a fleet."""
        return self.reader.run.job

    def has_table(self, table_id: str) -> bool:
        """Whether there is such a table."""
        return table_id in self.reader.tables

    @cached_property
    def _windows(self) -> dict[str, WindowRecord]:
        return {window.id: window for window in self.reader.windows}

    @cached_property
    def _phases(self) -> dict[str, PhaseRecord]:
        return {phase.id: phase for phase in self.reader.run.phases}

    @cached_property
    def _baselines(self) -> dict[str, BaselineRecord]:
        return {baseline.id: baseline for baseline in self.reader.baselines}

    def _named(self, records: dict[str, Named], name: str, file: str) -> Named:
        if name not in records:
            raise RecordError(f"{self.reader.path / file} has no entry '{name}' that a recipe needs; restore it from a copy.")
        return records[name]
