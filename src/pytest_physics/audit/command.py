"""The ``audit`` command: read, judge, write what was asked for, and say it in the terminal."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from pytest_physics.audit.judge import Audit, audit
from pytest_physics.audit.loader import load
from pytest_physics.audit.machine import as_json
from pytest_physics.audit.page import render
from pytest_physics.audit.runs import audit_run
from pytest_physics.audit.terminal import audit_lines
from pytest_physics.errors import ConfigurationError, RecordError
from pytest_physics.record.packed import unpacked

MAX_WIDTH = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the command says."""

    lines: tuple[str, ...]
    exit_code: int


def run_audit(
    statements: Path | None,
    *,
    run: Path | None = None,
    data: Path | None = None,
    json_file: Path | None = None,
    html_file: Path | None = None,
) -> Outcome:
    """Audit a statements file or a run directory."""
    found = _audited(statements, run, data)
    lines = audit_lines(found, width=min(MAX_WIDTH, shutil.get_terminal_size().columns))
    if json_file is not None:
        _write(json_file, json.dumps(as_json(found), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        lines.append(f"json:   {json_file}")
    if html_file is not None:
        _write(html_file, render(found))
        lines.append(f"report: {html_file}")
    return Outcome(lines=tuple(lines), exit_code=found.exit_code)


def _audited(statements: Path | None, run: Path | None, data: Path | None) -> Audit:
    if (statements is None) == (run is None):
        raise ConfigurationError("give either a statements file or --run with a run directory, and not both.")
    if run is not None:
        with unpacked(run) as whole:
            return audit_run(whole)
    if data is not None and not data.is_dir():
        raise ConfigurationError(f"--data {data} is not a directory; give the directory of the attached files.")
    if statements is None:
        raise ConfigurationError("give a statements file.")
    return audit(load(statements), data)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}; give another path.") from error
