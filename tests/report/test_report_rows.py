"""Rules of the page's rows, of a run's summary, and of the terminal's table."""

from __future__ import annotations

import pytest
import synthetic

from pytest_physics.metrology.decision import Verdict
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.uncertainty import Estimate
from pytest_physics.record.reader import RunReader
from pytest_physics.record.schema import EstimateRecord, GateRecord
from pytest_physics.report import summary
from pytest_physics.report.figures import curves, interval_glyph, swept_coordinate
from pytest_physics.report.rows import (
    budget_rows,
    common_coordinates,
    gate_rows,
    in_order,
    limit_cell,
    recipe_text,
    result_rows,
    short_reason,
)
from pytest_physics.report.terminal import claim_lines


def gates(n, **more):
    return [GateRecord.of(synthetic.gate("sampler gaps", f"window {i}", 0.01 * i, 0.1, "1", **more)) for i in range(n)]


def not_tested(name, attempt=1, verdict=Verdict.NOT_TESTED):
    return synthetic.claim(name, f"Statement of {name}", None, attempt=attempt, verdict=verdict)


# --- rows ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "rows"), [(3, 3), (4, 1)])
def test_many_places_of_one_passed_gate_share_a_row(n, rows):
    """Three places are listed, four are counted with the range of what was measured."""
    found = gate_rows(gates(n))
    assert len(found) == rows
    if rows == 1:
        assert (found[0].scope, found[0].measured, found[0].limit) == ("4 places", "0 … 0.03", "0.1")


def test_refusals_are_never_grouped_and_come_first():
    """Each gate that failed keeps its row, its reason and its remedy, before warnings and before what passed."""
    failed = gates(5, passed=False, remedy="do this")
    warned = gates(2, passed=False, warning=True)
    found = gate_rows([*gates(9), *warned, *failed])
    assert [row.result for row in found] == ["failed"] * 5 + ["warning"] * 2 + ["passed"]
    assert found[0].remedy == "do this"


@pytest.mark.parametrize(("n", "rows"), [(3, 3), (4, 1)])
def test_many_warnings_of_one_kind_share_a_row_with_the_worst_of_them(n, rows):
    """A warning for each of many windows is one line that quotes the one furthest from its limit."""
    found = gate_rows(gates(n, passed=False, warning=True, remedy="look"))
    assert [row.result for row in found] == ["warning"] * rows
    if rows == 1:
        assert found[0].reason.startswith("the furthest from the limit, window 0:")
        assert found[0].remedy == "look"


def test_repeated_gates_are_shown_once():
    """The same gate of two claims is one check."""
    assert len(gate_rows([*gates(2), *gates(2)])) == 2


def test_a_tier_is_shown_by_its_name():
    """Quality is a word, not a number."""
    record = GateRecord.of(synthetic.gate("data quality", "estimate", float(Quality.GAPPY), float(Quality.ESTIMATE), "tier", passed=False))
    assert (gate_rows([record])[0].measured, gate_rows([record])[0].limit) == ("GAPPY", "ESTIMATE")


def test_an_error_common_to_both_sides_cancels_in_the_budget():
    """The gain of one card in a ratio is shown as cancelled, not as 10⁻¹⁸."""
    one, two = synthetic.energy(1.0, "J", key="a"), synthetic.energy(3.0, "J", key="b")
    rows = {row.source: row for row in budget_rows(EstimateRecord.of(one / two))}
    assert rows["gain|gpu"].contribution == "cancels"
    assert rows["noise|a"].contribution != "cancels"


def test_budget_shares_add_up():
    """Shares of the variance sum to 100 % within their rounding."""
    rows = budget_rows(EstimateRecord.of(synthetic.energy(1.0, "J")))
    assert sum(float(row.share.removesuffix(" %")) for row in rows) == pytest.approx(100, abs=1)
    assert [row.common_scale for row in rows] == [True, False, False, False]


def test_a_recipe_reads_as_nested_calls():
    """Constants are numbers with units; a short step stands on one line, a long one is broken."""
    recipe = synthetic.energy(1.0, "J", key="7").recipe.to_json()
    energy = "energy(window = decode-7, instrument = gpu, net = True, baselines = [b1, b2])"
    assert recipe_text(recipe) == f"divide({energy}, 512 token)"
    assert recipe_text({"op": "mean", "inputs": [recipe, recipe]}) == (
        "mean(\n" + f"  divide(\n    {energy},\n    512 token,\n  ),\n" * 2 + ")"
    )
    assert recipe_text({"op": "multiply", "inputs": [{"op": "constant", "parameters": {"value": 2.0, "unit": "1"}}]}) == "multiply(2)"
    assert recipe_text(None) == ""


def test_a_certain_claim_is_one_without_uncertainty():
    """A probability from an interval is never 100 %."""
    sure = synthetic.claim("a", "A", Estimate.exact(1.0) <= 2.0)
    nearly = synthetic.claim("b", "B", synthetic.energy(1.0, "J") <= 2.0)
    assert limit_cell(sure).conformance == "100 %"
    assert limit_cell(nearly).conformance == "> 99.9 %"


def test_a_short_reason_leaves_out_the_numbers_beside_it():
    """What the columns say is not said again; other reasons stay whole."""
    straddles = synthetic.claim("a", "A", synthetic.energy(1.0, "J") <= 1.001).reason
    assert short_reason(straddles) == "the interval straddles the limit"
    assert short_reason("idle drifted 4 W: let it settle") == "idle drifted 4 W: let it settle"


@pytest.mark.parametrize(("limit", "shown"), [(1.0, "≤ 1 W"), (0.02, "≤ 20 mW"), (25.0, "≤ 25 W"), (26.0, "≤ 26000 mW")])
def test_estimate_and_limit_share_the_prefix_of_the_larger(limit, shown):
    """Idle powers that differ by 8 ± 25 mW against 1 W read in watts; more than a thousandfold, the estimate keeps its own prefix."""
    record = synthetic.claim("a", "A", Estimate.given(-0.008, "W", u=0.025 / 1.95996398454) <= limit)
    assert limit_cell(record).limit.replace("\u202f", "") == shown


def test_results_read_in_order_without_what_they_share():
    """Quantities together, words before numbers ascending; a coordinate with one value for all stands apart."""
    arms = [(8, "prefill"), (2, "decode"), (16, "decode"), (1, "prefill")]
    results = [synthetic.result("e", "q", synthetic.energy(1.0, "J"), batch=b, phase=p, instrument="gpu") for b, p in arms]
    rows = result_rows(in_order(results))
    expected = ["batch 2, phase decode", "batch 16, phase decode", "batch 1, phase prefill", "batch 8, phase prefill"]
    assert [row.coordinates for row in rows] == expected
    assert common_coordinates(results) == {"instrument": "gpu"}
    assert common_coordinates(results[:1]) == {}


# --- figures ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("operator", "start"), [("<=", 'x="0.0"'), (">=", 'x="124.0"')])
def test_the_side_where_the_claim_holds_is_shaded(operator, start):
    """Left of the limit for ≤, right of it for ≥."""
    record = EstimateRecord.of(synthetic.energy(1.0, "J"))
    assert f'<rect class="holds" {start}' in interval_glyph(record, operator, 2.0, None)


def test_a_number_without_extent_has_no_picture():
    """An exact number at its limit leaves nothing to draw, and so does no number."""
    assert interval_glyph(EstimateRecord.of(Estimate.exact(1.0)), "<=", 1.0, None) == ""
    assert interval_glyph(EstimateRecord.of(Estimate(value=float("nan"), unit="J")), "<=", 1.0, None) == ""


@pytest.mark.parametrize(("largest", "logarithmic"), [(19.0, False), (21.0, True)])
def test_a_wide_span_is_drawn_on_a_logarithmic_axis_that_says_so(largest, logarithmic):
    """From a factor of 20 on; below, the axis starts at 0."""
    results = [synthetic.result("e", "cost", synthetic.energy(v, "J"), batch=b) for b, v in ((1, largest), (2, 1.0))]
    assert ("Cost in J, logarithmic" in curves("e", results).svg) is logarithmic


def test_an_interval_that_reaches_zero_has_no_logarithmic_axis():
    """A bar down to zero or below cannot be drawn there."""
    results = [synthetic.result("e", "cost", synthetic.energy(v, "J", scatter=0.8), batch=b) for b, v in ((1, 50.0), (2, 1.0))]
    assert "logarithmic" not in curves("e", results).svg


def test_repetitions_are_not_swept():
    """A curve is drawn over a numeric coordinate with two values or more that is not the repetition."""

    def results(**coordinates):
        return [
            synthetic.result("e", "q", synthetic.energy(1.0, "J"), **dict(zip(coordinates, v, strict=True)))
            for v in zip(*coordinates.values(), strict=True)
        ]

    assert swept_coordinate(results(repetition=(1, 2, 3))) is None
    assert swept_coordinate(results(repetition=(1, 2), batch=(1, 2))) == "batch"
    assert swept_coordinate(results(batch=(1, 1))) is None
    assert swept_coordinate(results(phase=("prefill", "decode"))) is None


# --- summary ------------------------------------------------------------------------------------------------------------------


def test_the_last_attempt_counts():
    """A claim is counted once, by its last attempt, whatever came before."""
    claims = [not_tested("a", 1, Verdict.INVALID), not_tested("a", 2, Verdict.VALIDATED), not_tested("b", 1, Verdict.REFUTED)]
    assert [(c.id, c.attempt) for c in summary.last_attempts(claims)] == [("b", 1), ("a", 2)]
    assert summary.overall(summary.last_attempts(claims)) is Verdict.REFUTED


@pytest.mark.parametrize(
    ("verdicts", "sentence"),
    [
        ([], "No claim was judged in this run."),
        (["VALIDATED"], "The only claim is validated."),
        (["VALIDATED"] * 3, "All 3 claims are validated."),
        (["NOT_TESTED", "VALIDATED"], "1 of 2 claims is validated; 1 not tested."),
        (["VALIDATED", "REFUTED", "REFUTED", "INVALID"], "2 of 4 claims are refuted; 1 invalid, 1 validated."),
    ],
)
def test_one_sentence_says_how_a_run_ended(verdicts, sentence):
    """The worst verdict leads; verdicts that did not occur are not mentioned."""
    claims = [not_tested(f"c{i}", verdict=Verdict(v)) for i, v in enumerate(verdicts)]
    assert summary.sentence(claims) == sentence


@pytest.mark.parametrize(("offset", "held"), [(0.999, True), (1.001, False), (-0.999, True), (-1.001, False)])
def test_an_interval_holds_the_truth_up_to_its_ends(offset, held):
    """Boundary pair on both sides."""
    record = EstimateRecord.of(synthetic.energy(1.0, "J"))
    assert summary.holds_truth(record, 1.0 + offset * record.expanded) is held


def test_without_truth_nothing_is_held():
    """Unknown is neither hit nor miss, and an empty count says nothing."""
    assert summary.holds_truth(EstimateRecord.of(synthetic.energy(1.0, "J")), None) is None
    assert summary.coverage([]).sentence == ""


# --- terminal -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 60, 80, 132])
def test_lines_fit_the_terminal_and_hold_every_claim(runs, width):
    """No line is wider than asked; every claim, its verdict and the counts are there."""
    reader = RunReader(runs["full"])
    lines = claim_lines(reader.claims, results=reader.results, width=width)
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for claim in summary.last_attempts(reader.claims):
        assert claim.statement in text
        assert f"[{claim.id}]" in text.replace(" ", "")  # a long id may be broken
    assert "1 of 9 claims is refuted; 1 invalid, 1 inconclusive, 4 validated, 2 not tested." in text
    assert "22 of 23 intervals hold the truth" in text


def test_a_claim_reads_in_two_lines(runs):
    """Verdict and statement; then estimate, limit, provenance and id."""
    lines = claim_lines(RunReader(runs["full"]).claims, width=100)
    at = next(i for i, line in enumerate(lines) if line.startswith("VALIDATED     The idle card"))
    assert lines[at + 1].strip() == "62.3 ± 4.6 W ≤ 70 W  sim  [idle_is_low]"


def test_measured_claims_are_not_flagged_as_simulated():
    """``sim`` marks simulated inputs only."""
    lines = claim_lines([synthetic.claim("a", "A", Estimate.exact(1.0, "J") <= 2.0)])
    assert lines == ["VALIDATED     A", "              1 J ≤ 2 J  [a]", "The only claim is validated."]


def test_comparisons_of_one_claim_are_numbered():
    """A statement that stands three times says which of three it is; one that stands once says nothing."""
    claims = [synthetic.claim(name, "Bounded", Estimate.exact(1.0, "J") <= 2.0) for name in ("b", "b#2", "b#3")]
    lines = claim_lines([*claims, synthetic.claim("c", "Single", Estimate.exact(1.0, "J") <= 2.0)])
    assert [line.split(maxsplit=1)[1] for line in lines if line.startswith("VALIDATED")] == [
        "Bounded (1 of 3)", "Bounded (2 of 3)", "Bounded (3 of 3)", "Single",
    ]  # fmt: skip


def test_names_cannot_drive_the_terminal():
    """Escape sequences in a statement are taken apart."""
    assert not any("\x1b" in line for line in claim_lines([not_tested("\x1b[31mred")]))


def test_no_claims_is_one_line():
    """An empty table still says so."""
    assert claim_lines([]) == ["No claim was judged in this run."]
