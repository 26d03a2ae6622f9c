"""A new run against earlier ones: textbook cases, scale, direction, and what one run's own error changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from pytest_physics.metrology.between_runs import own_error, predict, relative_change, runs_to_decide
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.uncertainty import Component, Estimate, coverage_factor

VALUES = st.lists(st.floats(1.0, 1e6), min_size=3, max_size=30)


def line(contribution: float, source: str = "own", dof: float = math.inf, *, scale: bool = False) -> Component:
    return Component(label=source, source=source, contribution=contribution, dof=dof, common_scale=scale)


def prior(mean: float, u: float, dof: float = 9.0) -> Estimate:
    return Estimate(value=mean, unit="J", components=(line(u, "between", dof),), quality=Quality.GOOD)


def test_without_own_errors_it_is_the_textbook_prediction_interval():
    """Hahn and Meeker: mean ± t·s·√(1 + 1/n)."""
    values = [51.4, 49.5, 48.7, 48.6, 51.2]
    found = predict(values, [0.0] * 5)
    assert found.mean == pytest.approx(49.88)
    assert coverage_factor(found.dof) * found.u == pytest.approx(stats.t.ppf(0.975, 4) * np.std(values, ddof=1) * math.sqrt(1.2))


def test_two_new_runs_are_the_two_sample_t_test():
    """With pooled variance, as scipy computes it."""
    earlier, new = [10.1, 9.8, 10.0, 10.3, 9.9], [10.6, 10.4]
    found = predict(earlier, [0.0] * 5, new=new)
    reference = stats.ttest_ind(new, earlier)
    assert (np.mean(new) - found.mean) / found.u == pytest.approx(reference.statistic)
    assert found.dof == reference.df


@given(VALUES, st.floats(1e-3, 1e3))
def test_unit_does_not_matter(values, factor):
    """In millijoules the same as in joules."""
    one, other = predict(values, [0.1] * len(values)), predict(np.array(values) * factor, [0.1 * factor] * len(values))
    assert other.mean == pytest.approx(one.mean * factor)
    assert other.u == pytest.approx(one.u * factor, rel=1e-6, abs=1e-9 * factor * max(values))


@given(VALUES, st.floats(0.0, 1e4))
def test_mean_is_never_known_better_than_the_scatter_or_the_budgets_say(values, u):
    """Neither hides the other."""
    found = predict(values, [u] * len(values))
    n = len(values)
    assert found.u >= 0.999999 * max(found.spread, u) / math.sqrt(n)


def test_own_errors_that_explain_the_scatter_leave_nothing_between_runs():
    """A new run then scatters by its own error only, which is not in the prediction."""
    found = predict([99.0, 101.0, 100.0, 100.5, 99.5], [1.0] * 5)
    assert found.u == pytest.approx(1.0 / math.sqrt(5))


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_what_cannot_be_predicted_from_is_refused(values):
    """Fewer than two, or numbers that do not exist."""
    with pytest.raises(ValueError, match=r"length >= 2|finite"):
        predict(values, [0.0] * len(values))


@given(st.floats(50.0, 150.0), st.booleans())
def test_change_is_positive_where_it_is_worse(value, lower):
    """More joules or fewer tokens."""
    change = relative_change(Estimate(value=value, unit="J"), prior(100.0, 1.0), lower_is_better=lower)
    assert change.value == pytest.approx((value / 100.0 - 1) * (1 if lower else -1))
    assert change.unit == "1"


def test_common_scale_of_the_device_is_no_difference_between_its_runs():
    """A card that reads 4 % high does so in every run."""
    now = Estimate(value=100.0, unit="J", components=(line(4.0, "gain", scale=True), line(0.6)))
    change = relative_change(now, prior(100.0, 0.8), lower_is_better=True)
    assert change.u == pytest.approx(0.01)


def test_degrees_of_freedom_are_never_more_than_of_the_earlier_runs():
    """The run's own error, known well, lends nothing to the scatter between runs."""
    now = Estimate(value=100.0, unit="J", components=(line(1.0),))
    assert relative_change(now, prior(100.0, 1.0, dof=9), lower_is_better=True).dof == 9
    poor = Estimate(value=100.0, unit="J", components=(line(10.0, dof=3.0),))
    assert relative_change(poor, prior(100.0, 0.1, dof=9), lower_is_better=True).dof == pytest.approx(3.0, rel=1e-3)


@pytest.mark.parametrize(("u", "passed"), [(24.9, True), (25.1, False)])
def test_mean_must_be_apart_from_zero(u, passed):
    """Boundary pair of the gate."""
    change = relative_change(Estimate(value=100.0, unit="J"), prior(100.0, u), lower_is_better=True)
    assert [gate.passed for gate in change.gates] == [passed]


def test_gate_says_what_one_new_run_scatters_by():
    """Its own error is part of that: the interval that is drawn and the number that is said are one."""
    change = relative_change(Estimate(value=100.0, unit="J", components=(line(4.0),)), prior(100.0, 3.0), lower_is_better=True)
    assert change.gates[0].reason.startswith("a new run scatters by 5.0%")


def test_mean_of_zero_has_no_relative_change():
    """Division by nothing is a refusal, not an error."""
    change = relative_change(Estimate(value=1.0, unit="J"), prior(0.0, 1.0), lower_is_better=True)
    assert math.isnan(change.value)
    assert [gate.passed for gate in change.gates] == [False]


LINES = st.lists(st.tuples(st.sampled_from("abcd"), st.floats(-1e3, 1e3), st.floats(1.0, 1e6) | st.just(math.inf)), max_size=6)


@given(LINES)
def test_own_error_is_that_of_an_estimate(lines):
    """The quick sum agrees with the budget's own arithmetic, merged sources included."""
    estimate = Estimate(value=0.0, unit="J", components=tuple(line(c, source, dof) for source, c, dof in lines))
    u, dof = own_error(lines)
    assume(estimate.u == 0 or estimate.u > 1e-6)
    assert u == pytest.approx(estimate.u)
    if estimate.u:
        assert dof == pytest.approx(estimate.dof, rel=1e-6)


def test_planned_runs_have_the_planned_power():
    """Fewest runs for nine times in ten: the noncentral t of that number, and not of one less, is above it; simulated, so it is."""
    earlier = [99.0, 101.0] * 5  # s = 1.054
    k = runs_to_decide(earlier, [0.0] * 10, own=0.0, gap=3.0)
    power = {}
    for n in (k - 1, k):
        spread = float(np.std(earlier, ddof=1)) * math.sqrt(1 / n + 1 / 10)
        dof = 10 + n - 2
        power[n] = float(stats.nct.sf(stats.t.ppf(0.975, dof), dof, 3.0 / spread))
    assert (k, power[k] >= 0.9, power[k - 1] < 0.9) == (2, True, True)


@pytest.mark.parametrize(("gap", "needed"), [(0.0, None), (100.0, 1)])
def test_at_the_limit_no_number_of_runs_decides(gap, needed):
    """And far from it one does; where a decision needs more degrees of freedom, so many that they are there."""
    earlier = [99.0, 101.0, 100.0, 100.5, 99.5]
    assert runs_to_decide(earlier, [0.0] * 5, own=0.0, gap=gap) == needed
    assert runs_to_decide(earlier, [0.0] * 5, own=0.0, gap=100.0, min_dof=10.0) == 7
