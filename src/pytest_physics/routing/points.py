"""Points of a sweep, for a cluster: one file names them, each runs alone as a run of its own, one command merges the runs.

A point is a router, a λ and a gate seed. Gate and data follow from the seed alone, so points are paired however they were run, and merging
is putting rows together. What must not be merged is refused, with the place where runs differ: other costs, other seeds, other sizes, runs
that are incomplete or do not follow from their own artifacts, two different results of one point, gates that one λ has and another lacks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pytest_physics.config import Settings, load_settings
from pytest_physics.errors import ConfigurationError, RecordError
from pytest_physics.experiments.routing_sweep import RoutingSweep, record_points, run_routing_sweep
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.leaves.routing import Sweep
from pytest_physics.record.verify import verify_run
from pytest_physics.routing.files import FileModel, parsed, read_json
from pytest_physics.session import Plan, Session
from pytest_physics.workloads.routing_simulation import Point

POINTS, EXPERTS = "routing-points-1", "routing-experts-1"
"""Tables of a run that are merged."""
OF_THE_GATES = "stable_step"
"""Column of the experts that follows from the gates of a run: the smallest one holds for all."""
SHOWN = 3
"""Missing points that a message names."""


class PointEntry(FileModel):
    """One point."""

    router: str
    """Name of the router: "published", "penalised", "bias to Gibbs", …"""
    lambda_per_j: float = Field(ge=0)
    """λ in 1/J per slot; for the published router its own λ, which is no price."""
    gate: int = Field(ge=0)
    """Seed of the gate and of its data."""

    @property
    def text(self) -> str:
        """As settings name it."""
        return str(Point(router=self.router, per_joule=self.lambda_per_j, gate=self.gate))


class PointsFile(FileModel):
    """``points.json``: what all points share, and the points."""

    format: Literal[1] = 1
    field: str = "published"
    """Thermal field of the experts."""
    sequences: int = 8
    """Sequences of 64 tokens in a batch."""
    features: int = 768
    """Width of the gates' inputs."""
    batches: int = 100
    block: int = 5
    """Batches that share a row of the record."""
    seed: int = Field(default=0, ge=0)
    """Seed of all gates, together with each gate's own."""
    points: list[PointEntry] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> PointsFile:
        names = [point.text for point in self.points]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValueError(f"the point {twice} stands there twice; keep one")
        return self


def grid(routers: Sequence[str], lambdas_per_j: Sequence[float], gates: int) -> list[PointEntry]:
    """Every router at every λ on every gate, gates last: neighbours in an array share a control."""
    return [PointEntry(router=r, lambda_per_j=x, gate=g) for r in routers for x in lambdas_per_j for g in range(gates)]


def read_points(path: Path) -> PointsFile:
    """The file of points; raises :class:`ConfigurationError`, also for a router that does not exist."""
    found = parsed(PointsFile, path, read_json(path))
    for point in found.points:
        Point.parse(point.text)
    return found


def points_text(points: PointsFile) -> str:
    """As JSON, a line for each point."""
    shared = points.model_dump(exclude={"points"})
    lines = ",\n  ".join(json.dumps(point.model_dump()) for point in points.points)
    return json.dumps(shared, indent=1)[:-2] + f',\n "points": [\n  {lines}\n ]\n}}\n'


def run_point(path: Path, index: int, *, runs: Path, root: Path, command: Sequence[str] = ()) -> Path:
    """Run one point as a run of its own; returns its directory."""
    file = read_points(path)
    if not 0 <= index < len(file.points):
        raise ConfigurationError(
            f"{path} has {len(file.points)} points, numbered from 0 to {len(file.points) - 1}; there is no point {index}."
        )
    session = Session.start(_settings(file, index, runs, root), Plan.using({}), command=command, directory=root)
    reason = "the point did not finish"
    try:
        run_routing_sweep(session)
        reason = "finished"
    finally:
        session.finish(reason)
    return session.path


def _settings(file: PointsFile, index: int, runs: Path, root: Path) -> Settings:
    shared = {name: getattr(file, name) for name in ("field", "sequences", "features", "batches", "block")}
    overrides = {"runs": str(runs), "seed": file.seed, "routing": {**shared, "points": [file.points[index].text]}}
    return load_settings(root, overrides=overrides)


# --- merging ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """What one run brings."""

    path: Path
    points: NDArray[np.void]
    experts: NDArray[np.void]
    settings: Settings

    @property
    def names(self) -> list[str]:
        """Its points."""
        keys = {(str(r["router"]), float(r["per_joule"]), int(r["gate"])) for r in self.points[["router", "per_joule", "gate"]]}
        return sorted(str(Point(router=router, per_joule=x, gate=gate)) for router, x, gate in keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """A merged sweep as a run of its own."""

    path: Path
    report: Path | None
    lines: tuple[str, ...]


def merge(paths: Sequence[Path], *, runs: Path, root: Path, command: Sequence[str] = ()) -> Merged:
    """Merge runs of points into a new run with all points, their results and a report; :class:`RecordError` for what does not fit."""
    from pytest_physics.report.build import build_report  # noqa: PLC0415 -- matplotlib loads when the rows are together

    parts = [_part(path) for path in paths]
    if len(parts) < 2:
        raise ConfigurationError(f"merging needs at least two runs (got {len(parts)}); give every run of the array.")
    for other in parts[1:]:
        _same(parts[0], other)
    points, names = _together(parts)
    _whole_grid(names)
    settings = parts[0].settings.model_copy(
        update={"runs": str(runs), "routing": parts[0].settings.routing.model_copy(update={"points": tuple(map(str, names))})}
    )
    session = Session.start(settings, Plan.using({}), command=command, directory=root)
    reason, report = "the merge did not finish", None
    try:
        sweep = RoutingSweep(session=session, tables=_tabulated(session, points, parts))
        record_points(sweep, names)
        lines = sweep_lines(Sweep.of(session, sweep.tables["points"], sweep.tables["experts"]))
        reason = "finished"
    finally:
        report = session.finish(reason, publish=build_report)
    return Merged(path=session.path, report=report, lines=(f"{len(names)} points of {len(parts)} runs", *_left_out(names), *lines))


def _part(path: Path) -> Part:
    run = RecordedRun(path)
    if run.reader.run.state != "completed":
        raise RecordError(f"{path} is {run.reader.run.state} ({run.reader.run.end_reason}); run its point again, and merge then.")
    found = verify_run(path)
    if not found.passed:
        problem = f"{found.findings[0].where} {found.findings[0].problem}" if found.findings else found.incomplete
        raise RecordError(f"{path} does not follow from its own artifacts ({problem}); restore it from a copy, or run its point again.")
    if not {POINTS, EXPERTS} <= set(run.reader.tables):
        raise RecordError(f"{path} has no routing sweep in it (tables: {', '.join(run.reader.tables) or 'none'}); give runs of points.")
    return Part(path=path, points=run.table(POINTS), experts=run.table(EXPERTS), settings=run.settings)


def _same(first: Part, other: Part) -> None:
    """Refuse parts that differ in what all points must share."""
    a, b = first.experts, other.experts
    where = f"{first.path} and {other.path}"
    if a.dtype.names != b.dtype.names or first.points.dtype.names != other.points.dtype.names or len(a) != len(b):
        raise RecordError(f"{where} record different things ({len(a)} and {len(b)} experts); merge runs of one points file only.")
    for name in sorted(set(a.dtype.names or ()) - {OF_THE_GATES}):
        if not np.array_equal(a[name], b[name]):
            expert = int(np.flatnonzero(a[name] != b[name])[0])
            what = {"energy_j": "different costs", "seed": "different seeds"}.get(name, "different settings")
            values = f"'{name}' of expert {expert} is {a[name][expert]} and {b[name][expert]}"
            raise RecordError(f"{where} have {what}: {values}; merge runs of one points file only.")
    mine, theirs = (part.settings.routing.model_dump(exclude={"points"}) for part in (first, other))
    for name, value in mine.items():
        if value != theirs[name]:
            raise RecordError(
                f"{where} have different settings: 'routing.{name}' is {value} and {theirs[name]}; merge runs of one points file."
            )


def _together(parts: Sequence[Part]) -> tuple[NDArray[np.void], list[Point]]:
    """Rows of all points, each point once."""
    seen: dict[str, tuple[Part, NDArray[np.void]]] = {}
    for part in parts:
        for name in part.names:
            rows = _rows(part, name)
            known = seen.get(name)
            if known is not None and not _equal(known[1], rows):
                both = f"{known[0].path} and {part.path}"
                raise RecordError(f"{both} have different results of the point {name}; they were made by different versions: keep one.")
            seen.setdefault(name, (part, rows))
    names = sorted((Point.parse(name) for name in seen), key=lambda p: (p.router, p.per_joule, p.gate))
    return np.concatenate([seen[str(name)][1] for name in names]), names


def _rows(part: Part, name: str) -> NDArray[np.void]:
    point = Point.parse(name)
    table = part.points
    chosen = (table["router"] == point.router) & (table["per_joule"] == point.per_joule) & (table["gate"] == point.gate)
    rows: NDArray[np.void] = table[chosen]
    return rows


def _equal(a: NDArray[np.void], b: NDArray[np.void]) -> bool:
    """Whether two tables of one point say the same; in which turn it ran says nothing."""
    names = [name for name in a.dtype.names or () if name != "order"]
    return len(a) == len(b) and all(np.array_equal(a[name], b[name]) for name in names)


def _whole_grid(points: Sequence[Point]) -> None:
    """Every λ of a router has the same gates, λ = 0 among them: pairs need both."""
    arms: dict[str, dict[float, set[int]]] = {}
    for point in points:
        arms.setdefault(point.router, {}).setdefault(point.per_joule, set()).add(point.gate)
    all_gates = {point.gate for point in points}
    missing = [
        str(Point(router=router, per_joule=x, gate=gate))
        for router, strengths in arms.items()
        for x in sorted({0.0, *strengths})
        for gate in sorted(all_gates - strengths.get(x, set()))
    ]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise RecordError(
            f"the runs have different seeds: {', '.join(missing[:SHOWN])}{more} missing; every λ needs the gates of its control λ = 0. "
            "Run these points, and merge then."
        )


def _left_out(points: Sequence[Point]) -> Iterator[str]:
    """A sentence for each router without a λ that another has: as a sweep of its own it is whole, as a part of one it is not."""
    strengths = {point.per_joule for point in points}
    for router in dict.fromkeys(point.router for point in points):
        missing = sorted(strengths - {0.0} - {point.per_joule for point in points if point.router == router})
        if missing:
            shown = ", ".join(f"{x:g}" for x in missing)
            yield f"left out: '{router}' at λ = {shown} /J, which other routers have; run these points and merge again for a whole sweep"


def _tabulated(session: Session, points: NDArray[np.void], parts: Sequence[Part]) -> dict[str, str]:
    experts = {name: parts[0].experts[name] for name in parts[0].experts.dtype.names or ()}
    if OF_THE_GATES in experts:
        experts[OF_THE_GATES] = np.min([part.experts[OF_THE_GATES] for part in parts], axis=0)
    columns = {name: points[name] for name in points.dtype.names or ()}
    return {"points": session.tabulate("routing-points", columns), "experts": session.tabulate("routing-experts", experts)}


def sweep_lines(sweep: Sweep) -> list[str]:
    """One line for each router and λ: means over gates."""
    head = f"{'router':<20}{'λ':>8}{'gates':>7}{'J/slot':>10}{'nats':>9}{'gap':>9}{'regret':>9}"
    lines = [head]
    for router in sweep.routers:
        for per_joule in sweep.lambdas(router):
            usage = sweep.usage(router, per_joule)
            means = (usage.energy_per_slot, usage.entropy, usage.gap, usage.regret[:, usage.late].mean(axis=1))
            energy, diversity, gap, regret = (round(float(np.mean(values)), 6) + 0.0 for values in means)  # no "-0.0000"
            lines.append(f"{router:<20}{per_joule:>8g}{len(usage.gates):>7}{energy:>10.4f}{diversity:>9.4f}{gap:>9.4f}{regret:>9.4f}")
    return lines
