"""Read a run directory: every artifact as typed records, also of a run that crashed.

Layout: ``run.json``, ``trace-<instrument>.npy``, ``truth-<instrument>.npy`` (twin only), ``windows.jsonl``, ``baseline.json``,
``sensor.json``, ``probes.jsonl``, ``allocations.jsonl``, ``table-<id>.npy`` (what an experiment recorded beside the samples),
``step-marks.jsonl`` (what a training wrote of its steps), ``results.jsonl``, ``claims.jsonl``, ``correction.json``, ``report.html``,
``MANIFEST.sha256``.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pytest_physics.errors import RecordError
from pytest_physics.metrology.response import SensorModel
from pytest_physics.record.correction import final_claims
from pytest_physics.record.schema import (
    SCHEMA_VERSION,
    AllocationRecord,
    BaselineRecord,
    ClaimRecord,
    CorrectionRecord,
    ProbeRecord,
    Record,
    ResultRecord,
    RunRecord,
    SensorRecord,
    WindowRecord,
)
from pytest_physics.sampling.trace import Trace

RecordT = TypeVar("RecordT", bound=Record)

RUN = "run.json"
WINDOWS = "windows.jsonl"
BASELINES = "baseline.json"
SENSORS = "sensor.json"
PROBES = "probes.jsonl"
ALLOCATIONS = "allocations.jsonl"
RESULTS = "results.jsonl"
CLAIMS = "claims.jsonl"
CORRECTION = "correction.json"
REPORT = "report.html"
MANIFEST = "MANIFEST.sha256"


def trace_name(instrument: str) -> str:
    """File name of an instrument's trace."""
    return f"trace-{instrument}.npy"


def truth_name(instrument: str) -> str:
    """File name of a twin's true power."""
    return f"truth-{instrument}.npy"


def table_name(table_id: str) -> str:
    """File name of a table."""
    return f"table-{table_id}.npy"


class RunReader:
    """A run directory, read on demand. Raises :class:`RecordError` with file, line and remedy for what cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / RUN).is_file():
            raise RecordError(f"{path} is not a run directory: it has no {RUN}. Give the directory that a report line names.")

    @cached_property
    def run(self) -> RunRecord:
        """``run.json``; a schema of another version is refused."""
        data = self._json(RUN)
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise RecordError(
                f"{self.path / RUN} has schema version {version!r}; this version reads {SCHEMA_VERSION}. "
                "Use the pytest-physics version that wrote it."
            )
        return _validated(RunRecord, data, f"{self.path / RUN}")

    @cached_property
    def windows(self) -> list[WindowRecord]:
        """All windows, in the order in which they closed."""
        if not (self.path / WINDOWS).exists():  # made before anything else; of the others, what was not measured has no file
            raise RecordError(f"{self.path / WINDOWS} is missing; restore it from a copy.")
        return self._lines(WINDOWS, WindowRecord)

    @cached_property
    def probes(self) -> list[ProbeRecord]:
        """All probes of memory limits, in the order in which they ran."""
        return self._lines(PROBES, ProbeRecord)

    @cached_property
    def allocations(self) -> list[AllocationRecord]:
        """All watched allocators."""
        return self._lines(ALLOCATIONS, AllocationRecord)

    @cached_property
    def results(self) -> list[ResultRecord]:
        """All reported estimates."""
        return self._lines(RESULTS, ResultRecord)

    @cached_property
    def claims(self) -> list[ClaimRecord]:
        """All claims, every attempt, in the order in which they were judged, with the verdicts that stand at the end of the run."""
        return final_claims(self.judged, self.correction)

    @cached_property
    def judged(self) -> list[ClaimRecord]:
        """All claims as each was judged by itself."""
        return self._lines(CLAIMS, ClaimRecord)

    @cached_property
    def correction(self) -> CorrectionRecord | None:
        """What judging all claims together made of them; None where that was not asked for, or the run did not end."""
        if not (self.path / CORRECTION).exists():
            return None
        return _validated(CorrectionRecord, self._json(CORRECTION), f"{self.path / CORRECTION}")

    @cached_property
    def baselines(self) -> list[BaselineRecord]:
        """All baselines."""
        return self._list(BASELINES, BaselineRecord)

    @cached_property
    def sensors(self) -> list[SensorRecord]:
        """What was known of the power channels."""
        return self._list(SENSORS, SensorRecord)

    def sensor(self, sensor_id: str) -> SensorModel | None:
        """Sensor model by id; None for the empty id of an instrument without a power channel."""
        if not sensor_id:
            return None
        found = next((record.sensor for record in self.sensors if record.id == sensor_id), None)
        if found is None:
            raise RecordError(f"{self.path / SENSORS} has no entry '{sensor_id}' that an estimate needs; restore it from a copy.")
        return found

    def trace(self, instrument: str) -> Trace:
        """Samples of one instrument."""
        record = self.run.instruments[instrument]
        return Trace.load(self.path / trace_name(instrument), instrument=instrument, period_ns=record.period_ns)

    def truth(self, instrument: str) -> NDArray[np.void] | None:
        """The twin's true power as a table of segments, or None for a real device."""
        path = self.path / truth_name(instrument)
        return self._array(path) if path.exists() else None

    def table(self, table_id: str) -> NDArray[np.void]:
        """What an experiment recorded under ``table_id``: a structured array, one row a step."""
        return self._array(self.path / table_name(table_id))

    @property
    def tables(self) -> list[str]:
        """Ids of all tables, sorted."""
        return sorted(path.stem.removeprefix("table-") for path in self.path.glob("table-*.npy"))

    def _array(self, path: Path) -> NDArray[np.void]:
        try:
            table: NDArray[np.void] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise RecordError(f"{path} is not readable ({error}); restore it from a copy.") from error
        return table

    def _json(self, name: str) -> Any:  # noqa: ANN401 -- any JSON value
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecordError(f"{path} is not readable JSON ({error}); restore it from a copy.") from error

    def _list(self, name: str, record: type[RecordT]) -> list[RecordT]:
        if not (self.path / name).exists():
            return []
        items = self._json(name)
        if not isinstance(items, list):
            raise RecordError(f"{self.path / name} must hold a list; restore it from a copy.")
        return [_validated(record, item, f"{self.path / name}, entry {i}") for i, item in enumerate(items)]

    def _lines(self, name: str, record: type[RecordT]) -> list[RecordT]:
        path = self.path / name
        if not path.exists():
            return []
        lines = path.read_bytes().split(b"\n")
        torn = lines.pop()  # empty after a complete last line
        if torn and self.run.state == "completed":
            raise RecordError(f"{path} ends in an incomplete line; it was cut short. Restore it from a copy.")
        out = []
        for number, line in enumerate(lines, start=1):
            try:
                out.append(record.model_validate_json(line))
            except ValidationError as error:
                raise RecordError(f"{path}, line {number}: {_first_problem(error)}; restore it from a copy.") from error
        return out


def _validated(record: type[RecordT], data: object, where: str) -> RecordT:
    try:
        return record.model_validate(data)
    except ValidationError as error:
        raise RecordError(f"{where}: {_first_problem(error)}; restore it from a copy.") from error


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place or 'record'}: {first['msg']}"
