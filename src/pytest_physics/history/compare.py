"""A run in progress against earlier ones, at its end: ``--physics-compare``.

The earlier values are recorded in the run as a table, each change as a result and each verdict as a claim, so that the report shows them
and ``verify`` computes them again without the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pytest_physics.claims import ClaimStatement, Judge, slug
from pytest_physics.config import HistorySettings
from pytest_physics.errors import InconclusiveMeasurement, InvalidMeasurement, RefutedClaim
from pytest_physics.history.check import Against, claimed, to_settle
from pytest_physics.history.entries import ResultPart, Value, milliseconds, run_part, values_of
from pytest_physics.history.names import compared, lower_is_better
from pytest_physics.history.store import HistoryIndex, Point
from pytest_physics.metrology.decision import decide
from pytest_physics.metrology.uncertainty import Estimate, Gate, Recipe
from pytest_physics.record.job import requirement
from pytest_physics.record.leaves.history import CHANGE, EXPERIMENT, PRIOR, QUANTITY, TABLE
from pytest_physics.record.reader import RUN
from pytest_physics.record.schema import ClaimRecord
from pytest_physics.session import Session

NODE = "history"
"""First part of the ids under which pytest reports the verdicts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One metric of the run with the earlier values it is compared with."""

    value: Value
    recipe: Recipe
    lower_is_better: bool
    points: tuple[Point, ...]
    why: str
    """What is known of why they are too few; empty where they are not."""


def require_index(path: Path) -> str:
    """Refuse an index that cannot be used before anything is measured; a note where there is none yet."""
    if not path.exists():
        return f"there is no history in {path} yet: every comparison will be INVALID; 'pytest-physics history add RUN…' makes one"
    with HistoryIndex.open(path):
        return ""


def compare_run(session: Session, index: Path) -> list[ClaimRecord]:
    """Compare every metric of the session with earlier runs, record table, results and claims, and return the claims."""
    found = _compared(session, index)
    if not found:
        return []
    session.test = NODE
    table = session.tabulate(TABLE, _columns(found))
    return [_judged(session, item, table) for item in found]


def _compared(session: Session, index: Path) -> list[Compared]:
    settings = session.settings.history
    run = run_part((session.path / RUN).read_bytes(), session.path)
    parts = [ResultPart.model_validate_json(record.model_dump_json()) for record in session.results]
    recipes = {record.id: Recipe.from_json(record.recipe) for record in session.results}
    wanted = [(value, lower) for value in values_of(run, parts) if (lower := _direction(value, settings)) is not None]
    if not index.exists():
        return [Compared(value=v, recipe=recipes[v.result], lower_is_better=lower, points=(), why="") for v, lower in wanted]
    with HistoryIndex.open(index) as history:
        against = Against(index=history, settings=settings, before_ms=milliseconds(run.started_utc), without=(run.run_id,))
        return [_with_points(value, recipes[value.result], lower, against) for value, lower in wanted]


def _direction(value: Value, settings: HistorySettings) -> bool | None:
    return lower_is_better(value.metric, value.unit, settings) if compared(value.metric, settings) else None


def _with_points(value: Value, recipe: Recipe, lower: bool, against: Against) -> Compared:
    points = against.points(value.metric, value.unit, value.conditions)
    why = against.why_few(value.metric, value.conditions) if len(points) < against.settings.fewest else ""
    return Compared(value=value, recipe=recipe, lower_is_better=lower, points=tuple(points), why=why)


def _columns(found: Sequence[Compared]) -> dict[str, np.ndarray]:
    rows = [(item.value.metric, item.value.unit, point) for item in found for point in item.points]
    return {
        "metric": np.array([metric for metric, _, _ in rows], dtype=np.str_),
        "unit": np.array([unit for _, unit, _ in rows], dtype=np.str_),
        "run": np.array([point.run_id for *_, point in rows], dtype=np.str_),
        "started_unix_ms": np.array([point.t_ms for *_, point in rows], dtype=np.int64),
        "value": np.array([point.value for *_, point in rows], dtype=np.float64),
        "u": np.array([point.u for *_, point in rows], dtype=np.float64),
    }


def _judged(session: Session, item: Compared, table: str) -> ClaimRecord:
    settings, value = session.settings.history, item.value
    prior = Recipe(
        op=PRIOR,
        parameters={"table": table, "metric": value.metric, "unit": value.unit, "fewest": settings.fewest, "why": item.why},
    )
    recipe = Recipe(op=CHANGE, inputs=(item.recipe, prior), parameters={"lower_is_better": item.lower_is_better})
    change = session.result(EXPERIMENT, QUANTITY, session.evaluate(recipe), metric=value.metric)
    node = f"{NODE}::{value.metric}"
    statement = ClaimStatement(
        id=slug(node), statement=f"{value.metric}: no worse than earlier runs by more than {100 * settings.delta:g} %", test=node,
        source="--physics-compare",
    )  # fmt: skip
    judge = Judge(book=session, claim=statement, requirements=lambda: (requirement(),) if session.job is not None else ())
    with suppress(RefutedClaim, InvalidMeasurement, InconclusiveMeasurement):
        judge(claimed(change, settings), needs=_more_runs(item, change, settings))
    return judge.records[-1]


def _more_runs(item: Compared, change: Estimate, settings: HistorySettings) -> list[Gate]:
    """A warning beside an INCONCLUSIVE verdict: how many more runs would settle it. It refuses nothing."""
    advice = to_settle(decide(claimed(change, settings)), change, [item.value], item.points, settings=settings)
    return [
        Gate(
            name="more runs", scope=item.value.metric, measured=1.0, limit=None, unit="run", passed=False, warning=True,
            reason="one new run does not settle it", remedy=text,
        )
        for text in advice
    ]  # fmt: skip
