"""The judge: from a comparison to a verdict on record."""

from __future__ import annotations

import contextlib

import pytest

from pytest_physics.claims import ClaimStatement, Judge, explain, prerequisite_gate
from pytest_physics.errors import InconclusiveMeasurement, InvalidMeasurement, RefutedClaim
from pytest_physics.metrology.decision import Verdict
from pytest_physics.metrology.uncertainty import Estimate, Gate, Recipe


class Book:
    """A claim book in memory; estimates are what their recipes say."""

    def __init__(self):
        self.records = []

    def record_claim(self, record):
        self.records.append(record)

    def attempts(self, claim_id):
        return sum(record.id == claim_id for record in self.records)

    def verdict_of(self, claim_id):
        return next((record.verdict for record in reversed(self.records) if record.id == claim_id), None)

    def truth(self, recipe):
        return None

    def evaluate(self, recipe):
        if recipe.op == "constant":
            return Estimate.exact(recipe.parameters["value"], recipe.parameters["unit"])
        given = {key: recipe.parameters[key] for key in ("u", "label", "source")}
        return Estimate.given(recipe.parameters["value"], recipe.parameters["unit"], **given)

    def gates_of(self, requirement):
        return [Gate(name="soak", scope="gpu", measured=1.0, limit=0.5, unit="x", passed=False, reason="still warming", remedy="wait")]

    def evidence(self, recipe):
        return ("trace-gpu.npy",)


@pytest.fixture
def book():
    return Book()


def judge_of(book, name="claim", **options):
    statement = ClaimStatement(
        id=name, statement=f"Claim {name}", test=f"t.py::{name}", source="t.py:1", requires=options.pop("requires", ())
    )
    return Judge(book=book, claim=statement, **options)


ENERGY = Estimate.given(10.0, "J", u=1.0, source="energy")


@pytest.mark.parametrize(
    ("comparison", "verdict", "error"),
    [
        (ENERGY <= 13.0, Verdict.VALIDATED, None), (ENERGY >= 7.0, Verdict.VALIDATED, None),
        (ENERGY <= 7.0, Verdict.REFUTED, RefutedClaim), (ENERGY <= 11.0, Verdict.INCONCLUSIVE, InconclusiveMeasurement),
        (ENERGY <= 9.0, Verdict.INCONCLUSIVE, InconclusiveMeasurement),
    ],
)  # fmt: skip
def test_the_verdict_ends_the_test_and_is_on_record(book, comparison, verdict, error):
    """Accepted only with the guard band; the record has everything to judge it again."""
    judge = judge_of(book)
    if error is None:
        assert judge(comparison).verdict is verdict
    else:
        with pytest.raises(error):
            judge(comparison)
    (record,) = book.records
    assert record.verdict is verdict
    assert (record.limit, record.operator) == (comparison.limit, comparison.operator)
    assert record.recipe == comparison.estimate.recipe.to_json()
    assert record.margin == pytest.approx((comparison.limit - 10) * (1 if comparison.operator == "<=" else -1))


def test_the_number_handed_in_is_not_trusted(book):
    """The judge computes the estimate from its recipe: a changed value is not what is judged."""
    forged = Estimate.given(10.0, "J", u=1.0)
    object.__setattr__(forged, "value", 1.0)
    with pytest.raises(RefutedClaim):
        judge_of(book)(forged <= 5.0)
    assert book.records[0].estimate.value == 10.0


def test_a_number_without_a_recipe_is_refused(book):
    """Nobody could compute it again; the message says how to bring one in."""
    with pytest.raises(TypeError, match=r"cannot be recomputed, so it cannot be judged: .*Estimate.given\(value, unit, u=…\)"):
        judge_of(book)(Estimate(value=1.0, unit="J", recipe=Recipe(op="unrecorded")) <= 2.0)
    assert book.records == []


@pytest.mark.parametrize("thing", [True, 3.0, ENERGY, None])
def test_only_comparisons_are_judged(book, thing):
    """A bool would hide the interval."""
    with pytest.raises(TypeError, match="takes a comparison of an estimate"):
        judge_of(book)(thing)


def test_a_failed_gate_makes_it_invalid_whatever_the_number_says(book):
    """With the gate's reason and remedy in the message."""
    with pytest.raises(InvalidMeasurement) as raised:
        judge_of(book, requirements=lambda: [Recipe(op="soak")])(ENERGY <= 100.0)
    assert "gate      soak (gpu): still warming" in str(raised.value)
    assert "→ wait" in str(raised.value)
    assert book.records[0].requirements == [{"op": "soak"}]


def test_a_gate_of_the_users_own_is_kept_apart(book):
    """It follows from no artifact, so verify takes it as it is."""
    own = Gate(name="mine", scope="x", measured=None, limit=None, unit="", passed=False, reason="no", warning=False)
    with pytest.raises(InvalidMeasurement, match="mine"):
        judge_of(book)(ENERGY <= 100.0, needs=[own])
    assert [gate.name for gate in book.records[0].own_gates] == ["mine"]


@pytest.mark.parametrize(("first", "passes"), [(13.0, True), (7.0, False), (11.0, False), (None, False)])
def test_a_prerequisite_must_be_validated(book, first, passes):
    """REFUTED, INCONCLUSIVE and not judged at all make the claim INVALID."""
    if first is not None:
        judge = judge_of(book, "first")
        with contextlib.suppress(RefutedClaim, InconclusiveMeasurement):
            judge(first >= ENERGY)
    judge = judge_of(book, "second", requires=("first",))
    if passes:
        assert judge(ENERGY <= 13.0).verdict is Verdict.VALIDATED
    else:
        with pytest.raises(InvalidMeasurement, match="prerequisite claim"):
            judge(ENERGY <= 13.0)
    assert prerequisite_gate("first", book.verdict_of("first")).passed is passes


def test_attempts_are_counted(book):
    """Every attempt stands on record."""
    for _ in range(3):
        judge_of(book)(ENERGY <= 13.0)
    assert [(record.id, record.attempt) for record in book.records] == [("claim", 1), ("claim", 2), ("claim", 3)]


def test_several_comparisons_of_a_test_are_numbered(book):
    """``claim`` and ``claim#2``."""
    judge = judge_of(book)
    judge(ENERGY <= 13.0)
    judge(ENERGY >= 7.0)
    assert [record.id for record in book.records] == ["claim", "claim#2"]


def test_the_explanation_has_estimate_limit_and_reason(book):
    """Three lines that a reader of a failed test needs."""
    with pytest.raises(RefutedClaim):
        judge_of(book)(ENERGY <= 7.0)
    text = explain(book.records[0])
    assert text.splitlines()[0] == "REFUTED: Claim claim"
    assert "estimate  10.0 ± 2.0 J  (quality BILLABLE, assumed)" in text
    assert "claimed   <= 7 J" in text
    assert "because   the interval lies outside the limit: margin -3 J, U 1.96 J" in text
