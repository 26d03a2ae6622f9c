"""Write a run directory so that a crash at any instant leaves it readable.

The directory is created with ``O_EXCL`` semantics (two runs can never share one). ``run.json`` is written at the start as ``running``
and replaced atomically; lists grow by whole lines in one write each; the manifest comes last.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_physics.errors import RecordError
from pytest_physics.record import reader
from pytest_physics.record.schema import (
    AllocationRecord,
    BaselineRecord,
    ClaimRecord,
    CorrectionRecord,
    ProbeRecord,
    Record,
    ResultRecord,
    RunRecord,
    SensorRecord,
)


def new_run_directory(parent: Path) -> Path:
    """Create ``parent/<run id>``; the id is UTC time and six random hexadecimal digits, minted once."""
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    path = parent / run_id
    try:
        parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=False)
    except OSError as error:
        raise RecordError(
            f"cannot create the run directory {path}: {error.strerror}; choose a writable place with --runs DIR, in pytest with "
            "--physics-runs DIR."
        ) from None
    return path


class RunWriter:
    """Appends to one run directory. All methods raise :class:`RecordError` where the disk refuses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._windows_fd = self._open(reader.WINDOWS)

    def run(self, record: RunRecord) -> None:
        """Replace ``run.json``."""
        self._replace(reader.RUN, record.model_dump_json(indent=1))

    def window_line(self, line: bytes) -> None:
        """Append one prepared line to ``windows.jsonl``; the hot path."""
        try:
            _write_whole(self._windows_fd, line)
        except OSError as error:
            raise self._refused(reader.WINDOWS, error) from None

    def result(self, record: ResultRecord) -> None:
        """Append to ``results.jsonl``."""
        self._append(reader.RESULTS, record)

    def probe(self, record: ProbeRecord) -> None:
        """Append to ``probes.jsonl``."""
        self._append(reader.PROBES, record)

    def allocation(self, record: AllocationRecord) -> None:
        """Append to ``allocations.jsonl``."""
        self._append(reader.ALLOCATIONS, record)

    def claim(self, record: ClaimRecord) -> None:
        """Append to ``claims.jsonl``."""
        self._append(reader.CLAIMS, record)

    def correction(self, record: CorrectionRecord) -> None:
        """Write ``correction.json``."""
        self._replace(reader.CORRECTION, record.model_dump_json(indent=1))

    def baselines(self, records: Sequence[BaselineRecord]) -> None:
        """Replace ``baseline.json``."""
        self._replace_list(reader.BASELINES, records)

    def sensors(self, records: Sequence[SensorRecord]) -> None:
        """Replace ``sensor.json``."""
        self._replace_list(reader.SENSORS, records)

    def truth(self, instrument: str, table: NDArray[np.void]) -> None:
        """Write the twin's true power."""
        self._array(self.path / reader.truth_name(instrument), table)

    def table(self, table_id: str, table: NDArray[np.void]) -> None:
        """Write what an experiment recorded."""
        self._array(self.path / reader.table_name(table_id), table)

    def _array(self, path: Path, table: NDArray[np.void]) -> None:
        try:
            np.save(path, table, allow_pickle=False)
        except OSError as error:
            path.unlink(missing_ok=True)  # half a table reads as a whole one that ends early
            raise self._refused(path.name, error) from None

    def manifest(self) -> None:
        """Write ``MANIFEST.sha256`` over every other file, in the format of ``sha256sum``."""
        self._replace(reader.MANIFEST, manifest_text(digests(self.path)))

    def close(self) -> None:
        """Close the files; idempotent."""
        if self._windows_fd >= 0:
            os.close(self._windows_fd)
            self._windows_fd = -1

    def _open(self, name: str) -> int:
        try:
            return os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._refused(name, error) from None

    def _append(self, name: str, record: Record) -> None:
        descriptor = self._open(name)
        try:
            _write_whole(descriptor, record.model_dump_json().encode() + b"\n")
        except OSError as error:
            raise self._refused(name, error) from None
        finally:
            os.close(descriptor)

    def _replace_list(self, name: str, records: Sequence[Record]) -> None:
        self._replace(name, json.dumps([record.model_dump(mode="json") for record in records], indent=1))

    def _replace(self, name: str, text: str) -> None:
        replace_text(self.path / name, text)

    def _refused(self, name: str, error: OSError) -> RecordError:
        return refused(self.path / name, error)


def replace_text(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old one or the new one."""
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise refused(path, error) from None


def refused(path: Path, error: OSError) -> RecordError:
    """What to say where the disk refuses."""
    return RecordError(
        f"cannot write {path}: {error.strerror}; what was written before stays readable. "
        "Free space, or choose another place with --runs DIR, in pytest with --physics-runs DIR."
    )


def manifest_text(found: Mapping[str, str]) -> str:
    """Lines of ``sha256sum``."""
    return "".join(f"{digest}  {name}\n" for name, digest in found.items())


def manifest_digests(path: Path) -> dict[str, str]:
    """Digest by file name, from the manifest of a run directory; empty without one."""
    manifest = path / reader.MANIFEST
    if not manifest.is_file():
        return {}
    lines = (line.partition("  ") for line in manifest.read_text(encoding="utf-8", errors="replace").splitlines())
    return {name: digest for digest, _, name in lines}


def renew_manifest(path: Path, name: str) -> None:
    """Bring one line of a manifest up to date. The others stay: an artifact that was changed must still be found. Without one: nothing."""
    listed = manifest_digests(path)
    if listed:
        replace_text(path / reader.MANIFEST, manifest_text(dict(sorted({**listed, name: digests(path)[name]}.items()))))


def _write_whole(descriptor: int, line: bytes) -> None:
    """Append a whole line in one write; what a full disk cut short is taken back, so that no torn line stays in the file."""
    written = os.write(descriptor, line)
    if written != len(line):
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def digests(path: Path) -> dict[str, str]:
    """SHA-256 of every artifact in a run directory, by name, without the manifest and files written aside."""
    names = sorted(item.name for item in path.iterdir() if item.is_file() and not item.name.startswith("."))
    return {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in names if name != reader.MANIFEST}
