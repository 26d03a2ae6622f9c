"""Estimates: budgets, correlation by source, degrees of freedom, recipes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.errors import UnitError
from pytest_physics.metrology.quality import Provenance, Quality
from pytest_physics.metrology.uncertainty import (
    ARITHMETIC,
    Comparison,
    Component,
    Estimate,
    Gate,
    Recipe,
    coverage_factor,
    mean,
    truth_value_judge,
)


def measured(value, *, unit="J", gain=0.04, noise=0.5, name="a", dof=math.inf, **kwargs):
    """A value with a gain that all share and a noise of its own."""
    return Estimate(
        value=value,
        unit=unit,
        components=(
            Component(label="gain", source="gain|gpu", contribution=gain * value, common_scale=True),
            Component(label="noise", source=f"noise|{name}", contribution=noise, dof=dof, evaluation="A"),
        ),
        **kwargs,
    )


def of(value, *contributions, unit="1", dof=None):
    """An estimate with independent components."""
    dofs = dof or [math.inf] * len(contributions)
    parts = [
        Component(label=f"c{i}", source=f"{value}|{i}", contribution=u, dof=nu)
        for i, (u, nu) in enumerate(zip(contributions, dofs, strict=True))
    ]
    return Estimate(value=value, unit=unit, components=tuple(parts))


# --- published examples ----------------------------------------------------------------------------------------------


def test_gum_h1_end_gauge():
    """GUM H.1: components 25, 9.7, 2.9 and 16.6 nm with 18, 25.6, 50 and 2 degrees of freedom give u_c = 32 nm, ν = 16.7."""
    length = of(50_000_838.0, 25.0, 9.7, 2.9, 16.6, unit="nm", dof=[18, 25.6, 50, 2])
    assert length.u == pytest.approx(31.7, abs=0.1)
    assert length.dof == pytest.approx(16.7, abs=0.1)


def simultaneous(*observations):
    """Means of simultaneous observations as combinations of independent sources: the Cholesky factor of their covariance."""
    factor = np.linalg.cholesky(np.cov(observations) / len(observations[0]))
    return [
        Estimate(
            value=float(np.mean(values)),
            unit="1",
            components=tuple(Component(label=f"s{j}", source=f"s{j}", contribution=float(u)) for j, u in enumerate(row)),
        )
        for values, row in zip(observations, factor, strict=True)
    ]


def test_gum_h2_impedance():
    """GUM H.2: five simultaneous readings of V, I and φ give Z = 254.26(24), R = 127.73(7), X = 219.85(30) Ω."""
    voltage, current, phase = simultaneous(
        [5.007, 4.994, 5.005, 4.990, 4.999],
        [19.663e-3, 19.639e-3, 19.640e-3, 19.685e-3, 19.678e-3],
        [1.0456, 1.0438, 1.0468, 1.0428, 1.0433],
    )
    scale = {"cos": -math.sin(phase.value), "sin": math.cos(phase.value)}
    cosine, sine = (
        replace(phase, value=f(phase.value), components=tuple(c.scaled(scale[f.__name__]) for c in phase.components))
        for f in (math.cos, math.sin)
    )
    impedance = voltage / current
    resistance, reactance = impedance * cosine, impedance * sine
    assert (impedance.value, impedance.u) == (pytest.approx(254.260, abs=0.001), pytest.approx(0.236, abs=0.0006))
    assert (resistance.value, resistance.u) == (pytest.approx(127.732, abs=0.001), pytest.approx(0.071, abs=0.0006))
    assert (reactance.value, reactance.u) == (pytest.approx(219.847, abs=0.001), pytest.approx(0.295, abs=0.0006))


@pytest.mark.parametrize(("dof", "k"), [(1, 12.706), (2, 4.303), (5, 2.571), (10, 2.228), (16, 2.120), (50, 2.009), (math.inf, 1.960)])
def test_coverage_factor_is_students_t(dof, k):
    """Table G.2 of the GUM at 95 %."""
    assert coverage_factor(dof) == pytest.approx(k, abs=0.0006)


# --- correlation -----------------------------------------------------------------------------------------------------


def test_the_gain_cancels_in_a_ratio():
    """Two energies of one card: 4 % of gain each, none in their ratio; with cards of their own it adds."""
    ratio = measured(100.0, name="a") / measured(200.0, name="b")
    assert ratio.u == pytest.approx(0.5 * math.hypot(0.5 / 100, 0.5 / 200))
    assert {c.label for c in ratio.budget if abs(c.contribution) > 1e-12} == {"noise"}
    other = replace(measured(200.0), components=(Component(label="gain", source="gain|other", contribution=8.0),))
    assert (measured(100.0, noise=0.0) / other).u == pytest.approx(0.5 * 0.04 * math.sqrt(2))


def test_a_difference_keeps_the_gain_of_what_is_left():
    """100 J − 90 J on one card: the gain is 4 % of 10 J, not of 134 J."""
    difference = measured(100.0, noise=0.0, name="a") - measured(90.0, noise=0.0, name="b")
    assert difference.u == pytest.approx(0.4)


def test_an_estimate_minus_itself_is_exactly_zero():
    """The same error twice is one error."""
    energy = measured(100.0)
    assert (energy - energy).u == 0
    assert (energy / energy).u == 0


finite = st.floats(-1e3, 1e3).filter(lambda x: abs(x) > 1e-3)
parts = st.lists(st.tuples(st.sampled_from("abcde"), st.floats(-10, 10)), min_size=1, max_size=5)


def built(value, pairs):
    merged: dict[str, float] = {}
    for source, u in pairs:
        merged[source] = merged.get(source, 0.0) + u
    return Estimate(value=value, unit="J", components=tuple(Component(label=s, source=s, contribution=u) for s, u in merged.items()))


@given(finite, parts, finite, parts)
def test_arithmetic_propagates_source_by_source(x, xs, y, ys):
    """Contributions of each source add with their sensitivities: +1, ±1, y, x, 1/y, −x/y²."""
    a, b = built(x, xs), built(y, ys)
    ca = {c.source: c.contribution for c in a.components}
    cb = {c.source: c.contribution for c in b.components}
    cases = [
        (a + b, x + y, 1, 1),
        (a - b, x - y, 1, -1),
        (a * b, x * y, y, x),
        (a / b, x / y, 1 / y, -x / y**2),
    ]
    for result, value, sa, sb in cases:
        expected = math.sqrt(math.fsum((sa * ca.get(s, 0) + sb * cb.get(s, 0)) ** 2 for s in ca | cb))
        assert result.value == pytest.approx(value)
        assert result.u == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_numbers_on_either_side():
    """A number takes the unit of a sum and is dimensionless in a product."""
    energy = measured(10.0)
    assert (energy + 1).value == (1 + energy).value == 11
    assert (energy - 1).value == 9
    assert (1 - energy).value == -9
    assert (2 * energy).u == pytest.approx((energy * 2).u) == pytest.approx(2 * energy.u)
    assert (100 / energy).value == pytest.approx(10)
    assert (100 / energy).unit == "1/J"
    assert (-energy).value == -10


def test_division_by_zero_is_no_value_and_no_verdict():
    """A ratio over zero is NaN, not an exception in the middle of a report."""
    ratio = measured(1.0) / Estimate.exact(0.0, "J")
    assert math.isnan(ratio.value)
    assert math.isinf(ratio.relative_without_scale)


def test_units_are_carried_and_checked():
    """J/s is W; joules and seconds do not add; energies compare with energies."""
    assert (measured(10.0) / Estimate.exact(2.0, "s")).unit == "W"
    assert (measured(10.0) / Estimate.exact(4.0, "token")).unit == "J/token"
    with pytest.raises(UnitError, match="cannot add"):
        measured(1.0) + Estimate.exact(1.0, "s")
    with pytest.raises(UnitError, match="cannot subtract"):
        measured(1.0) <= Estimate.exact(1.0, "s")  # noqa: B015 -- the comparison itself must refuse
    with pytest.raises(UnitError, match="average"):
        mean([measured(1.0), Estimate.exact(1.0, "s")])


# --- degrees of freedom and intervals --------------------------------------------------------------------------------


def test_type_b_has_infinite_degrees_of_freedom():
    """An exact number has no uncertainty; a bound has ν = ∞; one component keeps its own ν."""
    assert Estimate.exact(3.0).u == Estimate.exact(3.0).expanded == 0
    assert math.isinf(of(1.0, 0.1).dof)
    assert of(1.0, 0.1, dof=[7]).dof == pytest.approx(7)
    assert of(1.0, 0.1, dof=[7]).expanded == pytest.approx(0.1 * coverage_factor(7))


@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(1, 200)), min_size=1, max_size=6))
def test_effective_dof_lies_between_its_parts(components):
    """Welch–Satterthwaite: at least the smallest ν, at most the sum."""
    dof = of(1.0, *(u for u, _ in components), dof=[nu for _, nu in components]).dof
    assert min(nu for _, nu in components) * (1 - 1e-9) <= dof <= sum(nu for _, nu in components) * (1 + 1e-9)


def test_tiny_units_keep_their_degrees_of_freedom():
    """Joules per byte are 1e-12 and less: fourth powers must not underflow to ν = ∞, and ν = 10 is 10 exactly."""
    assert of(1.0, 3e-90, 4e-90, dof=[5, 5]).dof == pytest.approx(of(1.0, 3.0, 4.0, dof=[5, 5]).dof)
    assert of(1.0, 0.001, dof=[10]).dof == 10.0


def test_the_interval_covers_with_few_observations():
    """Means of five normal values with t (ν = 4): 95 % intervals hold the truth in 93.5 to 96.5 % of 4000 runs; z would in 88 %."""
    x = np.random.default_rng(1).normal(10, 2, (4000, 5))
    u = x.std(axis=1, ddof=1) / math.sqrt(5)
    inside = [abs(m - 10) <= of(m, s, dof=[4]).expanded for m, s in zip(x.mean(axis=1), u, strict=True)]
    assert 0.935 <= np.mean(inside) <= 0.965


def test_the_common_scale_is_left_apart_in_tiers():
    """Relative uncertainty for tiers has no gain; an exact number has none; zero has infinite."""
    energy = measured(100.0, gain=0.04, noise=1.0)
    assert energy.relative_without_scale == pytest.approx(0.0196, abs=1e-4)
    assert energy.expanded / 100 > 0.08
    assert Estimate.exact(1.0).relative_without_scale == 0
    assert math.isinf(measured(0.0).relative_without_scale)


def test_interval_and_budget_order():
    """The interval is symmetric about the value and the budget lists the largest line first."""
    energy = measured(100.0, gain=0.04, noise=1.0)
    low, high = energy.interval
    assert (low + high) / 2 == pytest.approx(100)
    assert [c.label for c in energy.budget] == ["gain", "noise"]


# --- mean ------------------------------------------------------------------------------------------------------------


def test_mean_keeps_common_errors_and_averages_the_rest():
    """Four equal repetitions: gain stays 4 %, noise 1.0 becomes 0.5."""
    average = mean([measured(100.0, noise=1.0, name=str(i)) for i in range(4)])
    by_label = {c.label: abs(c.contribution) for c in average.budget}
    assert by_label["gain"] == pytest.approx(4.0)
    assert math.sqrt(sum(c.contribution**2 for c in average.budget if c.label == "noise")) == pytest.approx(0.5)


def test_scatter_beats_an_optimistic_budget():
    """Repetitions that scatter more than their budgets say: the scatter stands, with R − 1 degrees of freedom."""
    values = [90.0, 110.0, 95.0, 105.0]
    average = mean([measured(v, gain=0.0, noise=0.1, name=str(i)) for i, v in enumerate(values)])
    assert average.value == 100
    assert average.u == pytest.approx(np.std(values, ddof=1) / 2)
    assert average.dof == pytest.approx(3)
    assert {c.label for c in average.budget if c.contribution} == {"between repetitions"}


def test_an_honest_budget_beats_lucky_scatter():
    """Repetitions that agree by luck keep the uncertainty their budgets state."""
    average = mean([measured(100.0, gain=0.0, noise=1.0, name=str(i)) for i in range(4)])
    assert average.u == pytest.approx(0.5)


def test_mean_of_one_and_of_none():
    """One repetition is itself; none is an error that says what to do."""
    assert mean([measured(5.0)]).u == pytest.approx(measured(5.0).u)
    with pytest.raises(ValueError, match="measure at least one"):
        mean([])


# --- what a combination inherits -------------------------------------------------------------------------------------


def test_a_combination_is_as_good_as_its_worst_input():
    """Quality, provenance and gates are inherited from every input."""
    gate = Gate(name="idle", scope="x", measured=1.0, limit=0.5, unit="W", passed=False, reason="drift")
    bad = measured(1.0, quality=Quality.GAPPY, provenance=Provenance.SIMULATED, gates=(gate,))
    result = measured(2.0) * bad
    assert result.quality is Quality.GAPPY
    assert result.provenance is Provenance.SIMULATED
    assert result.gates == (gate,)


def test_recipes_run_again():
    """Every composite recipe gives the same estimate when its operation runs on its inputs, after a trip through JSON."""
    inputs = [measured(6.0, name="a"), measured(3.0, name="b")]
    for op, run in ARITHMETIC.items():
        made = run(inputs)
        assert made.recipe.op == op
        assert Recipe.from_json(made.recipe.to_json()) == made.recipe
        assert run(inputs).value == made.value
    first, second = (Estimate.given(value, "J", u=0.1) for value in (6.0, 3.0))
    leaves = ((first + second) / first).recipe.leaves()
    assert [leaf.parameters["value"] for leaf in leaves] == [6.0, 3.0, 6.0]


def test_a_given_number_is_assumed():
    """A number from elsewhere says so, and its uncertainty must be possible."""
    price = Estimate.given(0.3, "1", u=0.01, label="price")
    assert price.provenance is Provenance.ASSUMED
    assert price.u == 0.01
    with pytest.raises(ValueError, match="must be finite and >= 0"):
        Estimate.given(1.0, "J", u=-1.0)
    with pytest.raises(ValueError, match="'dof' > 0"):
        Estimate.given(1.0, "J", u=1.0, dof=0.0)


# --- comparison ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compare", [lambda e: e <= 1, lambda e: e < 1, lambda e: e >= 1, lambda e: e > 1])
def test_a_comparison_has_no_truth_value_outside_a_claim(compare):
    """``assert energy <= 1`` outside a claim raises and says what to do, instead of ignoring the interval."""
    with pytest.raises(TypeError, match="judge"):
        bool(compare(measured(1.0)))


def test_inside_a_claim_the_judge_decides():
    """Where a judge is set, the truth value is its decision."""
    seen = []
    token = truth_value_judge.set(lambda comparison: not seen.append(comparison))
    try:
        assert measured(1.0) <= 2.0
    finally:
        truth_value_judge.reset(token)
    assert seen[0].operator == "<="
    assert seen[0].limit == 2.0


def test_two_estimates_compare_by_their_difference():
    """``a <= b`` is ``a − b <= 0``, so that their common gain counts once."""
    comparison = measured(100.0, noise=0.0, name="a") <= measured(110.0, noise=0.0, name="b")
    assert isinstance(comparison, Comparison)
    assert comparison.limit == 0
    assert comparison.estimate.u == pytest.approx(0.4)


# --- quotients and given numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("u", "passes"), [(0.04, True), (0.06, False)])
def test_a_quotient_needs_a_well_known_divisor(u, passes):
    """1/b is no straight line: beyond 5 % of uncertainty the interval of a quotient would not hold, and a gate refuses it."""
    (gate,) = (Estimate.exact(1.0, "J") / Estimate.given(1.0, "s", u=u)).gates
    assert (gate.name, gate.passed) == ("well-known divisor", passes)


def test_the_scale_of_a_divisor_does_not_count():
    """A gain that both sides share cancels, however large it is."""
    gain = Component(label="gain", source="gain", contribution=0.2, common_scale=True)
    energy = Estimate(value=1.0, unit="J", components=(gain,))
    assert (energy / energy).gates == ()


def test_given_numbers_of_equal_value_are_independent():
    """Only a named source makes two given numbers one error."""
    a, b = Estimate.given(5.0, "J", u=1.0), Estimate.given(5.0, "J", u=1.0)
    assert (a + b).u == pytest.approx(math.sqrt(2))
    assert (a - a).u == 0
    c, d = (Estimate.given(5.0, "J", u=1.0, source="meter") for _ in range(2))
    assert (c - d).u == 0


@pytest.mark.parametrize("limit", [math.nan, math.inf, "5", True])
def test_a_limit_is_a_finite_number(limit):
    """Anything else would be judged, and mean nothing."""
    with pytest.raises(TypeError, match="a limit is a finite number"):
        Estimate.exact(1.0) <= limit  # noqa: B015 -- the comparison is the test
