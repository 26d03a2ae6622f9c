"""Expanded uncertainty where one rectangular term dominates: exact convolution instead of Student's t."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pytest_physics.metrology.decision import Verdict, decide
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.uncertainty import (
    DOMINATING_SHARE,
    Comparison,
    Component,
    Estimate,
    coverage_factor,
    expanded_uncertainty,
    probability_below,
)


def rectangle(u, source="edges"):
    return Component(label="edges", source=source, contribution=u, distribution="rectangular")


def scatter(u, dof=math.inf):
    return Component(label="noise", source=f"noise|{u}", contribution=u, dof=dof, evaluation="A")


def test_a_rectangle_alone_reaches_its_95_percent():
    """A lone rectangle of half-width a holds 95 % within 0.95·a = 1.645·u, not 1.96·u, which lies outside of it."""
    assert expanded_uncertainty([rectangle(1.0)]) == pytest.approx(0.95 * math.sqrt(3))


@pytest.mark.parametrize("share", [0.71, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("dof", [3.0, 10.0, math.inf])
def test_interval_covers_95_percent_with_a_dominating_rectangle(share, dof):
    """Known distribution, drawn: a rectangle plus Student's t inside ±U in 95 % of 400,000 draws."""
    rng = np.random.default_rng(7)
    rest = math.sqrt(1 - share**2)
    t = rng.standard_normal(400_000) if math.isinf(dof) else rng.standard_t(dof, 400_000)
    errors = rng.uniform(-1, 1, 400_000) * math.sqrt(3) * share + rest * t
    expanded = expanded_uncertainty([rectangle(share), scatter(rest, dof)])
    assert np.mean(np.abs(errors) <= expanded) == pytest.approx(0.95, abs=0.0015)


def test_welch_satterthwaite_would_be_too_wide():
    """What this replaces: 1.96·u covers every value of a dominating rectangle."""
    share = 0.95
    components = [rectangle(share), scatter(math.sqrt(1 - share**2))]
    assert expanded_uncertainty(components) < 0.93 * coverage_factor(math.inf)


@pytest.mark.parametrize(("share", "normal"), [(DOMINATING_SHARE - 0.01, True), (DOMINATING_SHARE + 0.01, False)])
def test_convolution_begins_where_the_rectangle_dominates(share, normal):
    """Boundary pair at 0.7 u_c; on the far side Student's t, and hardly a step between the two."""
    expanded = expanded_uncertainty([rectangle(share), scatter(math.sqrt(1 - share**2))])
    assert (expanded == pytest.approx(coverage_factor(math.inf))) == normal
    assert expanded == pytest.approx(coverage_factor(math.inf), rel=0.03)


def test_a_dominating_normal_term_stays_normal():
    """The distribution matters, not the size."""
    assert expanded_uncertainty([scatter(1.0), rectangle(0.1)]) == pytest.approx(coverage_factor(math.inf) * math.hypot(1, 0.1))


def test_parts_of_one_rectangle_add_up_before_it_is_looked_at():
    """One source is one error, in however many lines it stands."""
    assert expanded_uncertainty([rectangle(0.5), rectangle(0.5)]) == pytest.approx(expanded_uncertainty([rectangle(1.0)]))
    assert expanded_uncertainty([rectangle(1.0), rectangle(-1.0)]) == 0.0


@given(share=st.floats(0.71, 1.0), dof=st.one_of(st.floats(2.0, 200.0), st.just(math.inf)), scale=st.floats(1e-9, 1e9))
def test_interval_and_probability_agree(share, dof, scale):
    """P(error ≤ U) is 97.5 %, on any scale, and P(error ≤ −U) the rest."""
    components = [rectangle(share * scale), scatter(math.sqrt(1 - share**2) * scale, dof)]
    expanded = expanded_uncertainty(components)
    assert probability_below(components, expanded) == pytest.approx(0.975, abs=1e-6)
    assert probability_below(components, -expanded) == pytest.approx(0.025, abs=1e-6)
    assert probability_below(components, 0.0) == pytest.approx(0.5)


@given(share=st.floats(0.0, 1.0), margin=st.floats(-5, 5))
def test_probability_grows_with_the_margin(share, margin):
    """A cumulative distribution."""
    components = [rectangle(share), scatter(math.sqrt(1 - share**2), 12.0)]
    low, high = probability_below(components, margin), probability_below(components, margin + 0.1)
    assert -1e-9 <= low <= high + 1e-9 <= 1 + 2e-9


def test_few_degrees_of_freedom_of_the_rest_keep_a_finite_interval():
    """One degree of freedom has no mean: taken as 1.5, and the interval stays wider than the rectangle's own."""
    expanded = expanded_uncertainty([rectangle(0.95), scatter(0.05, 1.0)])
    assert 0.95 * 0.95 * math.sqrt(3) < expanded < 2.5


def test_same_budget_same_number():
    """No draws: recomputation gives the last digit."""
    components = [rectangle(0.9), scatter(0.3, 7.0)]
    assert expanded_uncertainty(components) == expanded_uncertainty(list(components))


def test_at_most_two_and_a_half_percent_are_accepted_at_the_limit():
    """A true value exactly at the limit: guard band from the convolution, 20,000 measurements."""
    rng = np.random.default_rng(3)
    errors = rng.uniform(-1, 1, 20_000) * math.sqrt(3) * 0.9 + math.sqrt(1 - 0.81) * rng.standard_normal(20_000)
    parts = (rectangle(0.9), scatter(math.sqrt(1 - 0.81)))
    guard = expanded_uncertainty(parts)
    assert np.mean(errors > guard) == pytest.approx(0.025, abs=3 * math.sqrt(0.025 / 20_000))
    just_inside = Estimate(value=-guard * 1.0001, unit="J", components=parts, quality=Quality.GOOD)
    decision = decide(Comparison.of(just_inside, "<=", 0.0))
    assert decision.verdict is Verdict.VALIDATED
    assert decision.conformance == pytest.approx(0.975, abs=1e-4)
    just_outside = Estimate(value=-guard * 0.9999, unit="J", components=parts, quality=Quality.GOOD)
    assert decide(Comparison.of(just_outside, "<=", 0.0)).verdict is Verdict.INCONCLUSIVE


def test_normal_conformance_is_unchanged():
    """Without a rectangle: Student's t with the effective degrees of freedom."""
    assert probability_below([scatter(2.0, 9.0)], 3.0) == pytest.approx(stats.t.cdf(1.5, 9.0))
    assert probability_below([], 0.0) == 1.0
    assert probability_below([], -1.0) == 0.0
