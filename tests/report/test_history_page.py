"""The band of the earlier runs holds what it says."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_physics.metrology.between_runs import relative_change
from pytest_physics.metrology.uncertainty import Estimate
from pytest_physics.record.leaves.history import prior_estimate
from pytest_physics.record.schema import EstimateRecord, ResultRecord
from pytest_physics.report.pages.history import Compared


def compared(values, u):
    """The last of ``values`` against the others."""
    prior = prior_estimate(list(values[:-1]), [u] * (len(values) - 1), unit="J", fewest=3, why="", scope="toy")
    now = Estimate.given(float(values[-1]), "J", u=u)
    change = relative_change(now, prior, lower_is_better=True)
    record = ResultRecord(
        id="r", experiment="history", quantity="change", estimate=EstimateRecord.of(change), gates=[], recipe=change.recipe.to_json()
    )
    rows = np.zeros(len(values) - 1, dtype=[("value", "f8")])
    return Compared(metric="toy", unit="J", rows=rows, now=now, prior=prior, result=record)


@pytest.mark.parametrize("between", [1.0, 0.6, 0.2])
def test_band_holds_95_of_100_new_runs(between):
    """However much of the scatter is the runs' own error (here 0.6 J); a little more where the errors explain more than was seen."""
    rng = np.random.default_rng(5)
    inside = []
    for _ in range(1500):
        item = compared(100.0 + rng.normal(0, np.hypot(between, 0.6), 13), 0.6)
        inside.append(abs(item.now.value - item.prior.value) <= item.band)
    assert 0.935 <= np.mean(inside) <= 0.98
