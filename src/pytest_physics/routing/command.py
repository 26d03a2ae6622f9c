"""The ``routing`` command: read, judge, write what was asked for, and say it in the terminal."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from pytest_physics.errors import ConfigurationError, RecordError, nearest
from pytest_physics.metrology.thermal_field import FIELDS
from pytest_physics.routing.files import read, read_lambda
from pytest_physics.routing.judge import judge
from pytest_physics.routing.terminal import as_json, lines

MAX_WIDTH = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command says."""

    lines: tuple[str, ...]
    exit_code: int


def run_judge(
    usage: Path, costs: Path, *, tokens: int | None = None, top_k: int | None = None, lambda_: str | None = None,
    json_file: Path | None = None,
) -> Outcome:  # fmt: skip
    """Judge a recorded usage; exit code 0, 1 (refuted) or 10 (invalid or inconclusive)."""
    judged = judge(read(usage, costs, tokens=tokens, top_k=top_k, lambda_=lambda_))
    said = lines(judged, width=min(MAX_WIDTH, shutil.get_terminal_size().columns))
    if json_file is not None:
        write(json_file, json.dumps(as_json(judged), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        said.append(f"{'json':<14}{json_file}")
    return Outcome(lines=tuple(said), exit_code=judged.exit_code)


def write(path: Path, text: str) -> None:
    """Write a file, with the directories that it needs; raises :class:`RecordError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}; give another path.") from None


def run_plan(path: Path, *, routers: str, lambdas: str, gates: int, batches: int, field: str) -> str:
    """Write a points file; returns the sentence about it."""
    from pytest_physics.routing.points import PointsFile, grid, points_text, read_points  # noqa: PLC0415 -- judging needs no experiment

    strengths = [read_lambda(text, (0.0, 0.0)) for text in _parts(lambdas)]
    if 0.0 not in strengths:
        raise ConfigurationError(f"'--lambdas {lambdas}' has no 0: every router needs its control with λ = 0; add it.")
    if len(set(strengths)) < len(strengths):
        raise ConfigurationError(f"'--lambdas {lambdas}' names a λ twice: each point runs once; take one out.")
    if field not in FIELDS:
        raise ConfigurationError(f"there is no thermal field '{field}'{nearest(field, FIELDS)}; fields are {', '.join(FIELDS)}.")
    if path.exists():
        raise ConfigurationError(f"{path} exists already, and runs may have been made from it: name another file, or remove it.")
    points = grid(_parts(routers), strengths, gates)
    write(path, points_text(PointsFile(field=field, batches=batches, block=max(1, batches // 20), points=points)))
    read_points(path)
    return f"{path}: {len(points)} points, numbered from 0 to {len(points) - 1}"


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
