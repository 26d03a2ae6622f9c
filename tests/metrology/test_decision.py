"""Verdicts: guard bands, gates, and how often they are wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.metrology import decision
from pytest_physics.metrology.decision import MIN_DOF, Verdict, all_gates, decide
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
