"""One run directory as the index sees it: its place, its conditions, and one number for each metric.

Only ``run.json``, ``results.jsonl`` and the manifest are read, and only the fields below, so that ten thousand runs take seconds. Both
files must be those of the manifest. What that cannot show, whether the numbers follow from the raw artifacts, ``verify`` shows:
``history check`` verifies the run that it judges, ``history add --verify`` each run that it adds.

*Conditions.* Two values belong to one series where three things agree: the devices (kind, name, identity, driver, VBIOS, limits, all that
a fingerprint holds, of every device of the run), the settings (without those that say where a run ran or how it is judged; a setting that a
later version brought agrees with its default), and the test file in which the value was recorded, with every conftest. Software and commit
are not among them: they are what a history is kept for. They are remembered, and named where they changed.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pytest_physics.config import PROFILE_DEFAULTS, VIRTUAL_TIME_DEFAULTS, Settings
from pytest_physics.errors import PhysicsError, RecordError
from pytest_physics.history.names import metric_name, numbered
from pytest_physics.metrology.between_runs import own_error
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.uncertainty import Component, Estimate
from pytest_physics.record import reader
from pytest_physics.record.leaves.history import EXPERIMENT
from pytest_physics.record.schema import ENDED_UNSAID, SCHEMA_VERSION
from pytest_physics.record.writer import manifest_digests

NOT_CONDITIONS = ("runs", "device", "profile", "history", "claims")
"""Settings that say where a run ran, or how it is judged; what a profile changes is compared by itself."""
DIGITS = 16
USABLE, INCOMPLETE, REFUSED = "usable", "incomplete", "refused"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Fingerprint(_Part):
    kind: str
    name: str
    identity: str
    details: dict[str, str]


class _Instrument(_Part):
    fingerprint: _Fingerprint


class _Job(_Part):
    node: str


class RunPart(_Part):
    """What is read of ``run.json``."""

    schema_version: int
    run_id: str
    state: str
    end_reason: str
    started_utc: str
    config: dict[str, Any]
    instruments: dict[str, _Instrument] = Field(default_factory=dict)
    git: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    suite: dict[str, str] = Field(default_factory=dict)
    job: _Job | None = None


class _Line(_Part):
    source: str
    contribution: float | None
    dof: float | None
    common_scale: bool


class _Estimate(_Part):
    value: float | None
    unit: str
    quality: str
    provenance: str
    budget: list[_Line]


class _Gate(_Part):
    name: str
    passed: bool
    reason: str
    warning: bool = False


class ResultPart(_Part):
    """What is read of one line of ``results.jsonl``."""

    id: str
    experiment: str
    quantity: str
    coordinates: dict[str, str | int | float] = Field(default_factory=dict)
    estimate: _Estimate
    test: str = ""

    @property
    def failed(self) -> Sequence[_Gate]:
        """Gates that did not pass."""
        return ()


class JudgedPart(ResultPart):
    """The same with its gates: read only where one failed, for most of a line is gates that passed."""

    gates: list[_Gate]

    @property
    def failed(self) -> Sequence[_Gate]:
        """Gates that did not pass."""
        return [gate for gate in self.gates if not gate.passed]


FAILED = b'"passed":false'
"""As :class:`~pytest_physics.record.writer.RunWriter` writes a gate that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What must agree for two values to be compared; each part as canonical JSON."""

    machine: str
    settings: str
    suite: str

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits over all parts."""
        return _digest(f"{self.machine}\n{self.settings}\n{self.suite}")

    def flat(self) -> dict[str, str]:
        """Every part by its dotted name."""
        return dict(_flat(json.loads(self.machine), "")) | dict(_flat(json.loads(self.settings), "settings.")) | self._files()

    def _files(self) -> dict[str, str]:
        return {f"test file {name}": digest for name, digest in json.loads(self.suite).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One metric of one run."""

    metric: str
    unit: str
    value: float | None
    u: float
    """Standard uncertainty without the device's common scale, in ``unit``."""
    dof: float | None
    """None where infinite."""
    reason: str
    """Why it must not be compared; empty where it may."""
    result: str
    """Id of the result in its run."""
    conditions: Conditions

    def __reduce__(self) -> tuple[object, ...]:
        """As one tuple: processes that read hand over half a million of them."""
        return _value_again, (self.metric, self.unit, self.value, self.u, self.dof, self.reason, self.result, self.conditions)

    @property
    def estimate(self) -> Estimate:
        """As an estimate with its own error in one line, and no gate: whether it may be used is ``reason``'s to say."""
        own = Component(label="this run's own", source=f"own|{self.metric}", contribution=self.u, dof=self.dof or math.inf)
        return Estimate(value=math.nan if self.value is None else self.value, unit=self.unit, components=(own,) if self.u else ())


def _value_again(*parts: Any) -> Value:  # noqa: ANN401 -- the fields, in their order
    metric, unit, value, u, dof, reason, result, conditions = parts
    return Value(metric=metric, unit=unit, value=value, u=u, dof=dof, reason=reason, result=result, conditions=conditions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One run directory."""

    run_id: str
    path: str
    """Absolute."""
    state: str
    """``usable``, ``incomplete`` or ``refused`` (it cannot be read, or is not what its manifest says)."""
    reason: str
    t_ms: int
    """Start of the run by its host's wall clock, in milliseconds of Unix time: a label, used for the order of runs only."""
    digest: str
    """Over the contents of the files that were read; empty where they could not be."""
    host: str = ""
    software: str = "{}"
    """Versions and commit as canonical JSON."""
    values: tuple[Value, ...] = ()


# --- reading ------------------------------------------------------------------------------------------------------------------


def find_runs(place: Path) -> list[Path]:
    """``place`` itself where it is a run directory, else every run directory below it; raises ``RecordError`` where there is none."""
    if (place / reader.RUN).is_file():
        return [place]
    if not place.is_dir():
        raise RecordError(f"there is no {place}; give run directories, or a directory that holds some.")
    found = sorted(path.parent for path in place.rglob(reader.RUN))
    if not found:
        raise RecordError(f"{place} holds no run: no directory below it has a {reader.RUN}.")
    return found


def read_entry(path: Path) -> Entry:
    """The run at ``path``; one that cannot be read or trusted is an entry too, and says why."""
    try:
        return _read(path.resolve())
    except (PhysicsError, OSError, ValueError) as error:
        return refused_entry(path, str(error))


def read_entries(paths: Sequence[Path]) -> list[Entry]:
    """Entries of many run directories, in order."""
    return [read_entry(path) for path in paths]


def only_read() -> None:
    """Called in a process that only reads runs: nothing it makes is cyclic, and looking for cycles would take half of its time."""
    gc.freeze()
    gc.disable()


def refused_entry(path: Path, reason: str) -> Entry:
    """An entry for what cannot be used."""
    return Entry(run_id=path.resolve().name, path=str(path.resolve()), state=REFUSED, reason=reason, t_ms=0, digest="")


def _read(path: Path) -> Entry:
    raw, lines = _bytes(path / reader.RUN), _bytes(path / reader.RESULTS, needed=False)
    run = run_part(raw, path)
    complete = run.state == "completed"
    found = {name: hashlib.sha256(text).hexdigest() for name, text in ((reader.RUN, raw), (reader.RESULTS, lines)) if text}
    if complete:
        _as_in_manifest(path, found)
    return Entry(
        run_id=run.run_id, path=str(path), t_ms=milliseconds(run.started_utc), digest=_digest(_canonical(found)),
        state=USABLE if complete else INCOMPLETE, reason="" if complete else _why_incomplete(run),
        host=run.job.node if run.job else "", software=_software(run),
        values=tuple(values_of(run, result_parts(lines, path))) if complete else (),
    )  # fmt: skip


def _bytes(path: Path, *, needed: bool = True) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if needed:
            raise
        return b""


def run_part(raw: bytes, path: Path) -> RunPart:
    """The fields of ``run.json`` that the index needs."""
    try:
        run = RunPart.model_validate_json(raw)
    except ValidationError as error:
        raise RecordError(f"{path / reader.RUN}: {_first(error)}") from None
    if run.schema_version != SCHEMA_VERSION:
        raise RecordError(f"{path / reader.RUN} has schema version {run.schema_version}; this version reads {SCHEMA_VERSION}")
    return run


def result_parts(lines: bytes, path: Path) -> list[ResultPart]:
    """Every line of ``results.jsonl``."""
    out: list[ResultPart] = []
    for number, line in enumerate(lines.splitlines(), start=1):
        try:
            out.append(JudgedPart.model_validate_json(line) if FAILED in line else ResultPart.model_validate_json(without_gates(line)))
        except ValidationError as error:
            raise RecordError(f"{path / reader.RESULTS}, line {number}: {_first(error)}") from None
    return out


def without_gates(line: bytes) -> bytes:
    """A line of ``results.jsonl`` without its gates and its recipe, three quarters of it; the line itself where it is not as we write it.

    Inside of JSON's strings a quote has a backslash before it, so the first and the last of these marks are keys.
    """
    head, gates, rest = line.partition(b',"gates":[')
    _, test, tail = rest.rpartition(b',"test":')
    return head + test + tail if gates and test else line


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"]))
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])


def _as_in_manifest(path: Path, found: Mapping[str, str]) -> None:
    listed = manifest_digests(path)
    if not listed:
        raise RecordError(f"{path} completed, and has no {reader.MANIFEST}: restore it from a copy")
    if reader.RESULTS in listed and reader.RESULTS not in found:
        raise RecordError(f"{path / reader.RESULTS} is missing or empty; the manifest names it")
    for name, digest in found.items():
        if listed.get(name) != digest:
            raise RecordError(f"{path / name} is not what the manifest says: it was changed, or cut short")


def _why_incomplete(run: RunPart) -> str:
    return ENDED_UNSAID if run.state == "running" else run.end_reason


def _software(run: RunPart) -> str:
    commit = {"commit": run.git.get("commit", "none")[:12] + ("+" if run.git.get("dirty") == "true" else "")}
    return _canonical({key: value for key, value in run.environment.items() if key != "executable"} | commit)


def milliseconds(utc: str) -> int:
    """Unix time of a label such as ``2026-11-20T10:45:51.770Z``; whatever the zone and summer time of the machine that reads it."""
    moment = datetime.fromisoformat(utc)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


# --- values -------------------------------------------------------------------------------------------------------------------


def values_of(run: RunPart, results: Sequence[ResultPart]) -> Iterator[Value]:
    """One value for each result, with its conditions."""
    conditions = conditions_of(run)
    measured = [result for result in results if result.experiment != EXPERIMENT]
    names = numbered(metric_name(result.experiment, result.quantity, result.coordinates) for result in measured)
    for name, result in zip(names, measured, strict=True):
        yield _value(name, result, conditions(result.test.partition("::")[0]))


def conditions_of(run: RunPart) -> Callable[[str], Conditions]:
    """Conditions of a value by the test file that recorded it; what all values of a run share is written out once."""
    machine = _canonical({name: instrument.fingerprint.model_dump(mode="json") for name, instrument in run.instruments.items()})
    settings = _canonical({key: value for key, value in run.config.items() if key not in NOT_CONDITIONS})
    return cache(lambda file: Conditions(machine=machine, settings=settings, suite=_canonical(suite_part(run.suite, file))))


def suite_part(suite: Mapping[str, str], file: str) -> dict[str, str]:
    """Digests of the test file and of every conftest; of all files where it is not known which one it was."""
    own = [path for path in suite if file and (path == file or path.endswith(f"/{file}") or file.endswith(f"/{path}"))]
    if len(own) != 1:
        return dict(suite)
    return {path: digest for path, digest in suite.items() if path == own[0] or path.rpartition("/")[2] == "conftest.py"}


def _value(name: str, result: ResultPart, conditions: Conditions) -> Value:
    own = [line for line in result.estimate.budget if not line.common_scale]
    exists = all(line.contribution is not None for line in own)
    u, dof = own_error([(line.source, line.contribution or 0.0, line.dof or math.inf) for line in own])
    return Value(
        metric=name, unit=result.estimate.unit, value=result.estimate.value, u=u, dof=dof if math.isfinite(dof) else None,
        result=result.id, conditions=conditions, reason=_refusal(result) if exists else "its uncertainty does not exist",
    )  # fmt: skip


def _refusal(result: ResultPart) -> str:
    """Why a number must not be used; empty where it may."""
    gate = next((gate for gate in result.failed if not gate.warning), None)
    if gate is not None:
        return f"gate '{gate.name}' refuses: {gate.reason}"
    if result.estimate.value is None or Quality[result.estimate.quality] < Quality.ESTIMATE:
        return f"its data are {result.estimate.quality}"
    return ""


# --- text ---------------------------------------------------------------------------------------------------------------------


def agree(one: Conditions, other: Conditions) -> bool:
    """Whether values under these conditions may be compared."""
    if (one.machine, one.suite) != (other.machine, other.suite):
        return False
    return one.settings == other.settings or not _apart(_settings_of(one), _settings_of(other), defaults())


def differences(one: Conditions, other: Conditions) -> list[str]:
    """What differs, as ``gpu.fingerprint.details.driver: 550 here, 535 there``."""
    here, there = one.flat(), other.flat()
    return [f"{n}: {here.get(n, 'absent')} here, {there.get(n, 'absent')} there" for n in _apart(here, there, defaults())]


def _settings_of(conditions: Conditions) -> dict[str, str]:
    return dict(_flat(json.loads(conditions.settings), "settings."))


def _apart(here: Mapping[str, str], there: Mapping[str, str], known: Mapping[str, frozenset[str]]) -> list[str]:
    """Names that differ. A setting that one version has and the other does not changes nothing where it has its default."""
    alone = here.keys() ^ there.keys()
    either = {**here, **there}
    return sorted(n for n in either if (either[n] not in known.get(n, ()) if n in alone else here[n] != there[n]))


@cache
def defaults() -> Mapping[str, frozenset[str]]:
    """Values that each setting has where nobody sets it, in any profile."""
    known: dict[str, set[str]] = {}
    for data in (Settings().model_dump(mode="json"), *PROFILE_DEFAULTS.values(), VIRTUAL_TIME_DEFAULTS):
        for name, value in _flat(json.loads(json.dumps(data)), "settings."):
            known.setdefault(name, set()).add(value)
    return {name: frozenset(values) for name, values in known.items()}


def _canonical(data: Mapping[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def _digest(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:DIGITS]


def _flat(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
