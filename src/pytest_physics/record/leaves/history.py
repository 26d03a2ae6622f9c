"""Recipes of a comparison with earlier runs: what the history predicts, from the snapshot of it that the run carries.

The run that is compared records the earlier values it was compared with as a table (metric, run, time, value, own uncertainty), so that
``verify`` needs no index and no other run directory. Whether those rows are what the earlier runs say is their own records' to show: each
row names its run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_physics.metrology.between_runs import FEWEST_RUNS, Prediction, predict, relative_change
from pytest_physics.metrology.decision import EARLIER_RUNS
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.uncertainty import Component, Estimate, Gate
from pytest_physics.record.data import RunData
from pytest_physics.record.registry import Parameters, leaf

PRIOR = "history.prior"
CHANGE = "history.change"
TABLE = "history"
"""Name of the table of earlier values."""
EXPERIMENT, QUANTITY = "history", "change against earlier runs (positive is worse)"
"""Under which the changes are reported; they are no metrics themselves."""


@leaf(PRIOR)
def prior(parameters: Parameters, data: RunData) -> Estimate:
    """What the earlier runs in the table predict for one metric."""
    table = data.table(str(parameters["table"]))
    rows = rows_of(table, str(parameters["metric"]))
    return prior_estimate(
        rows["value"].tolist(), rows["u"].tolist(), unit=str(parameters["unit"]), fewest=int(parameters["fewest"]),
        why=str(parameters.get("why", "")), scope=str(parameters["metric"]),
    )  # fmt: skip


def rows_of(table: NDArray[np.void], metric: str) -> NDArray[np.void]:
    """Rows of one metric, in order of time."""
    rows: NDArray[np.void] = table[table["metric"] == metric]
    return rows


def prior_estimate(
    values: Sequence[float], u: Sequence[float], *, unit: str, fewest: int, why: str, scope: str, new: Sequence[float] = ()
) -> Estimate:
    """A prediction as an estimate; without enough earlier runs its gate refuses, and ``why`` says what is known of the reason."""
    gate = enough_runs(len(values), fewest, why, scope)
    if len(values) < FEWEST_RUNS:
        return Estimate(value=math.nan, unit=unit, quality=Quality.NO_DATA, estimator="earlier runs", gates=(gate,))
    return as_estimate(predict(values, u, new=new), unit, scope, gate)


def as_estimate(found: Prediction, unit: str, scope: str, gate: Gate) -> Estimate:
    """``found`` with one line of budget: the scatter between runs."""
    component = Component(label="between runs", source=f"between runs|{scope}", contribution=found.u, dof=found.dof, evaluation="A")
    return Estimate(
        value=found.mean, unit=unit, components=(component,) if found.u else (), quality=Quality.GOOD, estimator="earlier runs",
        gates=(gate,),
    )  # fmt: skip


def enough_runs(n: int, fewest: int, why: str, scope: str) -> Gate:
    """Gate on the number of earlier valid runs under equal conditions."""
    needed = max(fewest, FEWEST_RUNS)
    passed = n >= needed
    reason = f"{n} valid earlier run{'' if n == 1 else 's'} under equal conditions (needed: {needed})"
    return Gate(
        name=EARLIER_RUNS, scope=scope, measured=float(n), limit=float(needed), unit="run", passed=passed,
        reason=reason if passed or not why else f"{reason}; {why}",
        remedy="" if passed else "add runs made under these conditions: 'pytest-physics history add RUN…'",
    )  # fmt: skip


def history_change(inputs: Sequence[Estimate], **parameters: Any) -> Estimate:  # noqa: ANN401 -- JSON values of the recipe
    """Composite: this run's value against what the earlier ones predict; positive is worse."""
    return relative_change(inputs[0], inputs[1], lower_is_better=bool(parameters["lower_is_better"]))


COMPARISONS: Mapping[str, Any] = {CHANGE: history_change}
"""Composite recipes of this module."""
