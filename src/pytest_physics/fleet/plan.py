"""What a fleet runs: points, each one pytest process on one machine, and the limits under which they run.

A point of a fleet over nodes is a node; a point of a sweep is an entry of ``points.json``: a list of objects with ``name``, ``args`` (added
to pytest's), ``env`` and ``node``, all optional. Unknown keys are errors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pytest_physics.errors import ConfigurationError
from pytest_physics.fleet.markers import PLAN_VERSION
from pytest_physics.record.suite import suite_of

SHORTEST_S = 180
"""Shortest limit of a task: it is told to end a minute before, and Slurm may tell it another minute earlier."""
OWN_OPTIONS = ("--physics-runs", "--physics")
"""Options of pytest that a fleet sets itself."""

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d{1,2}){0,2})")


class Record(BaseModel):
    """Base of what a fleet writes: immutable, and unknown keys are errors. The runs' own base loads far more than a task needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Point(Record):
    """One task of a fleet."""

    name: Annotated[str, Field(pattern=r"^[\w.:+=-]+$", max_length=80)]
    """Shown beside the node; letters, digits and ``. : + = - _``."""
    args: list[str] = Field(default_factory=list)
    """Added to pytest's arguments."""
    env: dict[str, str] = Field(default_factory=dict)
    """Added to the environment of the run."""
    node: str = ""
    """Node that it is pinned to; empty for any."""


class FleetPlan(Record):
    """``fleet.json``: everything a node needs to know to run its task. Written once, before anything is submitted."""

    version: int = PLAN_VERSION
    id: str
    """Minted once; runs carry it."""
    directory: str
    """Where pytest is started, on every node."""
    pytest_args: list[str]
    points: Annotated[list[Point], Field(min_length=1)]
    python: str
    """Interpreter on the nodes."""
    partition: str = ""
    gres: str = ""
    time_s: Annotated[int | None, Field(ge=SHORTEST_S)] = None
    """Limit of one task in seconds; None for the partition's."""
    at_once: Annotated[int | None, Field(ge=1)] = None
    """Most tasks that run at the same time; None for as many as there are nodes."""
    suite: dict[str, str] = Field(default_factory=dict)
    """Digests of the test files when it was submitted."""
    submitted_utc: str


def load_points(path: Path) -> list[Point]:
    """Points of a sweep from ``points.json``; ``ConfigurationError`` says which entry cannot be used."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}; check the path and its permissions.") from None
    except ValueError as error:
        raise ConfigurationError(f"{path} is not valid JSON: {error}; correct it there.") from None
    if not isinstance(entries, list) or not entries:
        raise ConfigurationError(f'{path} must hold a list of points, such as [{{"name": "b8", "args": ["-k", "b8"]}}].')
    points = [_point(entry, number, path) for number, entry in enumerate(entries)]
    refuse_repeats([point.name for point in points], str(path))
    return points


def _point(entry: object, number: int, path: Path) -> Point:
    try:
        point = Point.model_validate({"name": f"point-{number}", **entry} if isinstance(entry, Mapping) else entry)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "entry"
        raise ConfigurationError(
            f"{path}, point {number}: '{place}': {first['msg']} (got {first['input']!r}); a point has 'name', 'args', 'env' and 'node'."
        ) from None
    refuse_own_options(point.args, f"{path}, point {number}")
    return point


def refuse_repeats(names: Sequence[str], where: str) -> None:
    """Names tell results apart."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigurationError(f"{where} names {', '.join(repeated)} more than once; give each point a name of its own.")


def refuse_own_options(arguments: Iterable[str], where: str) -> None:
    """A fleet says where runs go, and that they measure."""
    taken = [argument for argument in arguments if argument.partition("=")[0] in OWN_OPTIONS]
    if taken:
        raise ConfigurationError(f"{where}: {taken[0].partition('=')[0]} is set by the fleet itself; leave it out.")


def time_limit_s(text: str) -> int:
    """A limit as Slurm writes it, in seconds: minutes, ``minutes:seconds``, ``hours:minutes:seconds``, or with ``days-`` in front.

    >>> time_limit_s("90"), time_limit_s("5:30"), time_limit_s("2:00:00"), time_limit_s("1-12")
    (5400, 330, 7200, 129600)
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(f"'--time {text}' is no limit: write minutes (90), minutes:seconds, hours:minutes:seconds or days-hours.")
    parts = [int(part) for part in match["parts"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    else:
        hours, minutes, seconds = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    limit = ((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if limit < SHORTEST_S:
        raise ConfigurationError(
            f"'--time {text}' is {limit} s; a task needs at least {SHORTEST_S} s, because its run is told to end up to two minutes before."
        )
    return limit


def slurm_time(seconds: int) -> str:
    """A limit in Slurm's form, rounded up to whole minutes.

    >>> slurm_time(5400), slurm_time(61)
    ('90', '2')
    """
    return str(-(-seconds // 60))


def submitted_suite(arguments: Sequence[str], directory: Path) -> dict[str, str]:
    """Digests of every Python file below the paths among pytest's ``arguments``, and of the project's configuration."""
    paths = [directory / argument.partition("::")[0] for argument in arguments if not argument.startswith("-")]
    trees = [path for path in paths if path.exists()]
    files = [file for tree in trees for file in ([tree] if tree.is_file() else sorted(tree.rglob("*.py")))]
    parents = {parent for tree in trees for parent in tree.resolve().parents if parent.is_relative_to(directory.resolve())}
    files += [parent / "conftest.py" for parent in parents if (parent / "conftest.py").is_file()]
    return suite_of([file for file in files if file.suffix == ".py"], directory)
