"""Verdicts: guard bands, gates, and how often they are wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from pytest_physics.metrology import decision
from pytest_physics.metrology.decision import MIN_DOF, Verdict, all_gates, decide, error_probability, holm
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.uncertainty import Comparison, Component, Estimate, Gate, coverage_factor


def estimate(value, u=1.0, *, dof=math.inf, quality=Quality.GOOD, gates=()):
    parts = (Component(label="u", source="u", contribution=u, dof=dof),) if u else ()
    return Estimate(value=value, unit="J", components=parts, quality=quality, gates=gates)


def verdict(value, operator, limit, *gates, **kwargs):
    return decide(Comparison.of(estimate(value, **kwargs), operator, limit), gates).verdict


FAILED = Gate(name="idle baseline", scope="phase 'decode'", measured=4.1, limit=1.0, unit="W", passed=False, reason="drifted 4.1 W")
WARNING = Gate(name="load", scope="host", measured=6.0, limit=5.0, unit="%", passed=False, reason="busy", warning=True)


@pytest.mark.parametrize(("operator", "sign"), [("<=", 1), ("<", 1), (">=", -1), (">", -1)])
def test_the_guard_band_is_the_expanded_uncertainty(operator, sign):
    """With U = 1.96 J: just inside the band is VALIDATED, just outside REFUTED, in between INCONCLUSIVE."""
    limit, u = 100.0, coverage_factor(math.inf)
    assert verdict(limit - sign * (u + 1e-9), operator, limit) is Verdict.VALIDATED
    assert verdict(limit - sign * (u - 1e-9), operator, limit) is Verdict.INCONCLUSIVE
    assert verdict(limit, operator, limit) is Verdict.INCONCLUSIVE
    assert verdict(limit + sign * (u - 1e-9), operator, limit) is Verdict.INCONCLUSIVE
    assert verdict(limit + sign * (u + 1e-9), operator, limit) is Verdict.REFUTED


@pytest.mark.parametrize(
    ("operator", "expected"),
    [("<=", Verdict.VALIDATED), (">=", Verdict.VALIDATED), ("<", Verdict.REFUTED), (">", Verdict.REFUTED)],
)
def test_exact_numbers_at_the_limit(operator, expected):
    """Without uncertainty there is no band: equality fulfils ≤ and ≥ and fails < and >."""
    assert verdict(5.0, operator, 5.0, u=0.0) is expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_undefined_estimate_is_not_blamed_on_its_data(value):
    """0/0 is no question of tiers: a longer window would not help. Where there are no data, that is what is said."""
    decided = decide(Comparison.of(estimate(value), "<=", 1.0))
    assert decided.verdict is Verdict.INVALID
    assert decided.reason == "data quality (estimate): the estimate is not a finite number"
    (gate,) = all_gates(Comparison.of(estimate(value), "<=", 1.0))
    assert "divides by zero" in gate.remedy
    assert "NO_DATA" in decide(Comparison.of(estimate(value, quality=Quality.NO_DATA), "<=", 1.0)).reason


@pytest.mark.parametrize("quality", [Quality.NO_DATA, Quality.GAPPY])
def test_data_that_is_not_there_cannot_speak(quality):
    """A number without data or with gaps makes the claim INVALID however well it fulfils the limit."""
    assert verdict(0.0, "<=", 100.0, quality=quality) is Verdict.INVALID


def test_estimate_tier_is_enough():
    """The lowest usable tier is judged."""
    assert verdict(0.0, "<=", 100.0, quality=Quality.ESTIMATE) is Verdict.VALIDATED


def test_a_value_that_is_no_number_is_invalid():
    """NaN and infinity never fulfil and never fail a claim."""
    assert verdict(math.nan, "<=", 1.0) is Verdict.INVALID
    assert verdict(math.inf, ">=", 1.0) is Verdict.INVALID


def test_a_failed_gate_silences_the_measurement():
    """One failed gate: INVALID with its name, place and reason; a failed warning is shown and does not refuse."""
    result = decide(Comparison.of(estimate(0.0), "<=", 100.0), [FAILED])
    assert result.verdict is Verdict.INVALID
    assert "idle baseline (phase 'decode'): drifted 4.1 W" in result.reason
    assert verdict(0.0, "<=", 100.0, WARNING) is Verdict.VALIDATED
    assert verdict(0.0, "<=", 100.0, gates=(FAILED,)) is Verdict.INVALID


def test_gates_are_listed_once():
    """A gate that the estimate already carries is not repeated."""
    gates = all_gates(Comparison.of(estimate(0.0, gates=(FAILED,)), "<=", 1.0), [FAILED, WARNING])
    assert [g.name for g in gates] == ["idle baseline", "load", "data quality"]


def test_too_few_degrees_of_freedom_are_not_accepted():
    """Below ten degrees of freedom nothing is VALIDATED, but a clear failure is REFUTED."""
    assert verdict(0.0, "<=", 100.0, dof=MIN_DOF) is Verdict.VALIDATED
    assert verdict(0.0, "<=", 100.0, dof=MIN_DOF - 0.1) is Verdict.INCONCLUSIVE
    assert verdict(200.0, "<=", 100.0, dof=3.0) is Verdict.REFUTED


@pytest.mark.parametrize("n", [5, 11, 21])
def test_false_acceptance_at_the_limit_is_at_most_two_and_a_half_percent(n, monkeypatch):
    """Claims that are true exactly at their limit, u from n values: t accepts 2.5 % of them; z would accept 6.1 % at n = 5."""
    monkeypatch.setattr(decision, "MIN_DOF", 1.0)
    x = np.random.default_rng(n).normal(10.0, 1.0, (6000, n))
    u = x.std(axis=1, ddof=1) / math.sqrt(n)
    accepted = [verdict(m, "<=", 10.0, u=s, dof=n - 1) is Verdict.VALIDATED for m, s in zip(x.mean(axis=1), u, strict=True)]
    refuted = [verdict(m, "<=", 10.0, u=s, dof=n - 1) is Verdict.REFUTED for m, s in zip(x.mean(axis=1), u, strict=True)]
    assert 0.019 <= np.mean(accepted) <= 0.031  # 2.5 % within three standard errors of 6000 runs
    assert 0.019 <= np.mean(refuted) <= 0.031


def test_a_margin_of_3_6_u_is_accepted_19_times_of_20():
    """Durations are planned for this margin."""
    x = np.random.default_rng(1).normal(100.0 - 3.6, 1.0, 4000)
    assert 0.93 <= np.mean([verdict(value, "<=", 100.0) is Verdict.VALIDATED for value in x]) <= 0.965


@given(
    value=st.floats(-1e6, 1e6) | st.just(math.nan),
    u=st.floats(0, 1e5),
    dof=st.floats(1, 1000) | st.just(math.inf),
    operator=st.sampled_from(["<=", "<", ">=", ">"]),
    limit=st.floats(-1e6, 1e6),
    quality=st.sampled_from(list(Quality)),
    gate=st.sampled_from([(), (FAILED,), (WARNING,)]),
)
def test_verdicts_are_exhaustive(*, value, u, dof, operator, limit, quality, gate):
    """Every comparison ends in exactly one verdict, with a reason, and with numbers unless it is INVALID."""
    result = decide(Comparison.of(estimate(value, u, dof=dof, quality=quality), operator, limit), gate)
    assert result.verdict in set(Verdict) - {Verdict.NOT_TESTED}
    assert result.reason
    invalid = math.isnan(value) or quality < Quality.ESTIMATE or gate == (FAILED,)
    assert (result.verdict is Verdict.INVALID) == invalid
    assert (result.margin is None) == invalid
    if not invalid:
        assert 0 <= result.conformance <= 1


@given(value=st.floats(-1e3, 1e3), u=st.floats(0.001, 1e2), limit=st.floats(-1e3, 1e3), dof=st.floats(10, 100))
def test_opposite_claims_are_never_both_true(value, u, limit, dof):
    """≤ and > of the same numbers: at most one VALIDATED, and then the other is REFUTED."""
    below, above = verdict(value, "<=", limit, u=u, dof=dof), verdict(value, ">", limit, u=u, dof=dof)
    expected = {Verdict.VALIDATED: Verdict.REFUTED, Verdict.REFUTED: Verdict.VALIDATED}
    assert above is expected.get(below, Verdict.INCONCLUSIVE)


def test_conformance_is_the_probability_that_the_claim_holds():
    """One standard uncertainty inside the limit: 84 %; at the limit 50 %."""
    assert decide(Comparison.of(estimate(99.0), "<=", 100.0)).conformance == pytest.approx(0.8413, abs=1e-4)
    assert decide(Comparison.of(estimate(100.0), ">=", 100.0)).conformance == pytest.approx(0.5)


def test_holm_of_a_published_example():
    """The example of text books: 0.01, 0.04, 0.03, 0.005 give 0.03, 0.06, 0.06, 0.02."""
    steps = holm([0.01, 0.04, 0.03, 0.005])
    assert [step.p_adjusted for step in steps] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [step.decided for step in steps] == [True, False, False, True]
    assert [step.rank for step in steps] == [2, 4, 3, 1]


@pytest.mark.parametrize(("p", "decided"), [(0.05, True), (0.0500001, False)])
def test_holm_of_one_claim_is_that_claim(p, decided):
    """A family of one shares its 5 % with nobody."""
    (step,) = holm([p])
    assert (step.decided, step.p_adjusted) == (decided, p)
    assert step.level == pytest.approx(0.05)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_probability(bad):
    """A number outside of [0, 1] is an error, not a verdict."""
    with pytest.raises(ValueError, match="probability"):
        holm([0.5, bad])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_bonferroni_and_no_correction(p):
    """It decides whatever Bonferroni decides, nothing that a claim by itself would not, and agrees with its own corrected p."""
    for value, step in zip(p, holm(p), strict=True):
        assert step.decided or value > 0.05 / len(p) * (1 - 1e-12)
        assert value <= 0.05 * (1 + 1e-12) or not step.decided
        assert value <= step.p_adjusted <= 1
        assert 0.05 / len(p) <= step.level * (1 + 1e-12)
        if abs(step.p_adjusted - 0.05) > 1e-12:
            assert step.decided is (step.p_adjusted < 0.05)


def test_holm_keeps_the_chance_of_any_wrong_verdict():
    """Ten claims true exactly at their limits, 4000 runs: by themselves some verdict is given in 40 %, with Holm in at most 5 %."""
    p = error_probability_of(np.random.default_rng(0).normal(size=(4000, 10)))
    wrong = np.mean([any(step.decided for step in holm(row)) for row in p])
    assert np.mean((p <= 0.05).any(axis=1)) == pytest.approx(0.40, abs=0.03)
    assert wrong <= 0.05 + 1.96 * math.sqrt(0.05 * 0.95 / 4000)
    assert wrong >= 0.03


def error_probability_of(z):
    """Two-sided probabilities of error of normal margins, by the function that judges them."""
    return np.vectorize(lambda c: error_probability(float(c)))(special.ndtr(z))
