"""Judging a recorded usage: verdicts, exit codes, files, and one line for whatever cannot be."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_usage import COSTS, batches

from pytest_physics.errors import PhysicsError
from pytest_physics.metrology.decision import Verdict
from pytest_physics.metrology.routing_published import ROUTER_COSTS, RUN_FIGURES, RUN_USAGE, SWEEP_USAGE
from pytest_physics.metrology.thermal_field import PUBLISHED_COSTS_J
from pytest_physics.routing.files import read, read_lambda
from pytest_physics.routing.judge import judge
from pytest_physics.routing.terminal import as_json, lines

EXAMPLES = Path(__file__).parents[2] / "examples" / "routing"

SAVES = "The usage saves energy against uniform routing"
ENERGY = "The reported energy is the usage times the costs"
BASELINE = "Against the baseline, uniform routing saves nothing"
SAVING = "The reported saving is counted from uniform routing"
DIVERSITY = "The reported diversity is possible at this energy"
ONE_VECTOR = "Router and accountant use one cost vector"
CONTROL = "The usage takes less energy than its own control with λ = 0"
MONOTONE = "Energy does not rise with λ"
SIGN = "As λ rises, usage falls where costs are high"


def verdicts(judged):
    return {ruling.claim: ruling.verdict for ruling in judged.rulings}


def test_a_sound_usage_is_validated(files):
    """Every claim that the file makes."""
    judged = judge(read(*files()))
    assert set(verdicts(judged).values()) == {Verdict.VALIDATED}
    assert verdicts(judged).keys() == {SAVES, ENERGY, BASELINE, SAVING, CONTROL, MONOTONE, SIGN}
    assert judged.exit_code == 0
    assert all(gate.passed for gate in judged.gates)


@pytest.mark.parametrize(
    ("changes", "claim", "verdict"),
    [
        ({"usage": batches(-0.3), "total_energy_j": None, "saving_percent": None}, SAVES, Verdict.REFUTED),
        ({"usage": batches(0.0, seed=5), "control": None, "total_energy_j": None, "saving_percent": None}, SAVES, Verdict.INCONCLUSIVE),
        ({"total_energy_j": 9000.0}, ENERGY, Verdict.REFUTED),
        ({"baseline_j": 5120 * 1.5}, BASELINE, Verdict.REFUTED),
        ({"saving_percent": 20.0}, SAVING, Verdict.REFUTED),
        ({"diversity_nats": 2.075}, DIVERSITY, Verdict.REFUTED),
        ({"control": batches(0.6)}, CONTROL, Verdict.REFUTED),
        ({"sweep": [{"lambda_per_j": x, "usage": batches(-x)} for x in (0.0, 0.1, 0.5)]}, MONOTONE, Verdict.REFUTED),
        ({"sweep": [{"lambda_per_j": x, "usage": batches(-x)} for x in (0.0, 0.1, 0.5)]}, SIGN, Verdict.REFUTED),
        ({"capacity_factor": 1.0}, SAVES, Verdict.INVALID),
    ],
)
def test_a_planted_fault_changes_its_own_verdict(files, changes, claim, verdict):
    """Nothing else than the claim it concerns, where the rest of the file stays true."""
    judged = judge(read(*files(**changes)))
    assert verdicts(judged)[claim] is verdict
    assert judged.exit_code == (1 if verdict is Verdict.REFUTED else 10)


def test_other_costs_in_the_router_are_seen(files):
    """The published list against a scaled one."""
    assert verdicts(judge(read(*files(costs={"costs": COSTS, "router_costs": [3 * c for c in COSTS]}))))[ONE_VECTOR] is Verdict.VALIDATED
    assert verdicts(judge(read(*files(costs={"costs": COSTS, "router_costs": list(ROUTER_COSTS)}))))[ONE_VECTOR] is Verdict.REFUTED


def test_few_batches_do_not_validate(files):
    """Ten batches have nine degrees of freedom."""
    usage = batches(0.3, count=10)
    judged = judge(
        read(*files(usage=usage, tokens=1280, control=None, total_energy_j=None, saving_percent=None, baseline_j=None, sweep=None))
    )
    assert verdicts(judged)[SAVES] is Verdict.INCONCLUSIVE


def test_a_usage_that_drifts_is_noted(files, command):
    """A drift over phases is said and does not undo what was recorded."""
    drifting = [row for i in range(40) for row in batches(0.1 + 0.02 * i, count=1, seed=i)]
    usage, costs = files(usage=drifting, control=None, total_energy_j=None, saving_percent=None)
    assert "trend over phases" in command(usage, costs).output
    assert verdicts(judge(read(usage, costs)))[SAVES] is Verdict.VALIDATED


def test_equal_costs_cannot_save(files):
    """Whatever the usage."""
    judged = judge(read(*files(costs=[1.0] * 8, total_energy_j=None, baseline_j=None, saving_percent=None, control=None)))
    assert verdicts(judged) == {SAVES: Verdict.REFUTED}


# --- the published run -----------------------------------------------------------------------------------------------


def test_the_published_run_is_refuted_by_name(command):
    """Its arithmetic closes; everything that it is said to show does not hold."""
    judged = judge(read(EXAMPLES / "published-run.json", EXAMPLES / "published-costs.json"))
    refuted = {claim for claim, verdict in verdicts(judged).items() if verdict is Verdict.REFUTED}
    assert refuted == {SAVES, BASELINE, SAVING, ONE_VECTOR, MONOTONE, SIGN}
    assert verdicts(judged)[ENERGY] is verdicts(judged)[DIVERSITY] is Verdict.VALIDATED
    done = command(EXAMPLES / "published-run.json", EXAMPLES / "published-costs.json")
    assert done.exit_code == 1
    for words in ("2525 J in all", "-12.72%", "-0.2428 /J", "energy is sought", "-16.67%", "1870.26 J", "0.5 J: 0.90, 2 J: 1.30"):
        assert words in " ".join(done.output.split())


def test_the_example_is_the_published_run():
    """Numbers of the example are those that the library reproduces."""
    run = json.loads((EXAMPLES / "published-run.json").read_text(encoding="utf-8"))
    costs = json.loads((EXAMPLES / "published-costs.json").read_text(encoding="utf-8"))
    assert tuple(run["usage"]) == RUN_USAGE
    assert {point["lambda_per_j"]: tuple(point["usage"]) for point in run["sweep"]} == dict(SWEEP_USAGE)
    assert (run["total_energy_j"], run["diversity_nats"]) == (RUN_FIGURES["total_energy_j"], RUN_FIGURES["diversity_nats"])
    assert (tuple(costs["costs"]), tuple(map(float, costs["router_costs"]))) == (PUBLISHED_COSTS_J, ROUTER_COSTS)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "code"), [({}, 0), ({"baseline_j": 1.0}, 1), ({"capacity_factor": 1.0}, 10)])
def test_exit_codes(command, files, changes, code):
    """0, 1 and 10, as everywhere."""
    assert command(*files(**changes)).exit_code == code


def test_judge_may_be_named(command, files):
    """``routing judge A B`` is ``routing A B``."""
    usage, costs = files()
    assert command("judge", usage, costs).output == command(usage, costs).output


def test_json_has_what_the_terminal_says(command, files, tmp_path):
    """And only finite numbers."""
    usage, costs = files()
    out = tmp_path / "deep" / "out.json"
    done = command(usage, costs, "--json", out)
    data = json.loads(out.read_text(encoding="utf-8"))
    assert data["exit_code"] == done.exit_code == 0
    assert data["estimates"]["saving"]["value"] == pytest.approx(judge(read(usage, costs)).estimates.saving.value)
    assert len(data["claims"]) == 7
    assert data["estimates"]["saving"]["interval"][0] < data["estimates"]["saving"]["value"]


def test_a_usage_at_the_floor_is_written_as_json(command, files, tmp_path):
    """λ_eff is infinite there; JSON has no infinity."""
    usage, costs = files(
        usage=[[50] * 6 + [0] * 2] * 12, tokens=1800, control=None, total_energy_j=None, saving_percent=None, baseline_j=None
    )
    assert command(usage, costs, "--json", tmp_path / "out.json").exit_code == 0
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["estimates"]["effective_lambda_per_j"]["value"] is None


def test_the_command_line_fills_in_what_the_file_leaves_out(files):
    """Tokens, experts per token, λ."""
    usage, costs = files(tokens=None, top_k=None, lambda_per_j=None)
    found = read(usage, costs, top_k=2, lambda_="0.2/J")
    assert (found.tokens, found.top_k, found.lambda_per_j) == (5120, 2, 0.2)


NAN_ROW = [math.nan, *[32] * 7]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": 5119}, "sums to 10240 slots, and 5119 tokens × 2 make 10238"),
        ({"tokens": None, "top_k": 3}, "no multiple of k = 3"),
        ({"top_k": 9}, "top-k = 9 needs as many distinct experts, and there are 8"),
        ({"top_k": None}, "does not say how many experts a token goes to"),
        ({"capacity_factor": 0.99}, "'capacity_factor': Input should be greater than or equal to 1 (got 0.99)"),
        ({"lambda_per_j": "0.1/mJ"}, "λ is given in '/mJ'"),
        ({"lambda_per_j": "100 1/kJ"}, "convert it to 1/J"),
        ({"lambda_per_j": 100.0}, "is a penalty of 150 nats"),
        ({"lambda_per_j": -0.1}, "λ must be finite and ≥ 0"),
        ({"lambda_per_j": "a tenth"}, "λ must be a number"),
        ({"usage": [NAN_ROW]}, "NaN is no number"),
        ({"usage": [[-1, *[32] * 7]]}, "greater than or equal to 0 (got -1)"),
        ({"usage": [[0.5, *[32] * 7]]}, "valid integer"),
        ({"usage": [[32] * 8, [32] * 7]}, "same number of experts"),
        ({"usage": [[0] * 8], "tokens": None}, "batch 0 of 'usage' has no slot at all"),
        ({"control": [[32] * 8, [0] * 8]}, "batch 1 of 'control' has no slot at all"),
        ({"sweep": [{"lambda_per_j": x, "usage": [int(9 * x)] * 8} for x in (0.0, 0.5)]}, "batch 0 of 'sweep.0.usage'"),
        ({"usage": []}, "at least 2 (got 0 and 0"),
        ({"usage": "many"}, "'usage'"),
        ({"usage": None}, "'usage' is missing"),
        ({"control": batches(0.0, count=39)}, "'control' sums to 9984 slots"),
        ({"sweep": [{"lambda_per_j": 0.1, "usage": batches(0.1)}]}, "two different 'lambda_per_j'"),
        ({"usages": [1, 2]}, "no key 'usages' (did you mean 'usage'?)"),
        ({"costs": [0.5] * 7}, "costs of 7 experts"),
        ({"costs": [0.5] * 7 + [-2.0]}, "greater than 0 (got -2.0)"),
        ({"costs": [0.5] * 7 + [None]}, "costs.7"),
        ({"costs": [0.5] * 7 + [0]}, "greater than 0 (got 0)"),
        ({"costs": [0.5] * 7 + [math.inf]}, "Infinity is no number"),
        ({"costs": {"unit": "mJ", "costs": COSTS}}, "'unit'"),
        ({"costs": {"costs": COSTS, "router_costs": [1.0]}}, "'router_costs' has 1 values"),
        ({"costs": {"prices": COSTS}}, "see docs/routing.md"),
        ({"costs": 3}, "must hold a JSON object"),
    ],
)
def test_bad_input_is_one_clear_line(command, files, changes, words):
    """File, place, value; never a traceback, never a guess."""
    found = command(*files(**changes)).exception
    assert isinstance(found, PhysicsError), found
    assert words in str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    ("text", "words"), [(None, "cannot read"), ("{", "line 1: not JSON"), ("\xff", "not UTF-8"), ("[" * 100_000, "every number")]
)
def test_files_that_are_no_json(command, files, text, words):
    """Absent, cut off, not text, endless."""
    usage, costs = files()
    if text is None:
        usage.unlink()
    else:
        usage.write_bytes(text.encode("latin-1"))
    found = command(usage, costs).exception
    assert isinstance(found, PhysicsError)
    assert words in str(found)


@pytest.mark.parametrize("text", ["0.1", "0.1/J", "0.1 1/J", " 1e-1 /J"])
def test_lambda_in_the_right_unit(text):
    """1/J, however it is written."""
    assert read_lambda(text, COSTS) == 0.1


def test_a_penalty_is_judged_by_its_exponent():
    """The limit is on λ times the range of costs, on both sides of it."""
    assert read_lambda(50 / 1.5, COSTS) == pytest.approx(33.333, abs=1e-3)
    with pytest.raises(PhysicsError, match="another unit"):
        read_lambda(50.001 / 1.5, COSTS)


def test_batches_tell_more_than_their_total(files):
    """Slots of a batch resemble one another: the interval of batches is wider than that of the total."""
    rng = np.random.default_rng(3)
    clustered = [rng.multinomial(256, rng.dirichlet(np.full(8, 5.0))).tolist() for _ in range(40)]
    alone = {"control": None, "total_energy_j": None, "saving_percent": None, "sweep": None}
    split = judge(read(*files(usage=clustered, **alone))).estimates
    total = judge(read(*files(usage=np.sum(clustered, axis=0).tolist(), **alone))).estimates
    assert split.energy_j.u > 2 * total.energy_j.u
    assert split.energy_j.value == pytest.approx(total.energy_j.value)


@settings(max_examples=60, deadline=None)
@given(
    usage=st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any), min_size=1, max_size=14),
    costs=st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=3, max_size=3),
    control=st.booleans(),
)
def test_any_usage_is_judged(tmp_path_factory, usage, costs, control):
    """Empty experts, one batch, equal costs, all in one expert: a verdict and JSON, never a traceback."""
    folder = tmp_path_factory.mktemp("any")
    data = {"top_k": 1, "usage": usage, "sweep": [{"lambda_per_j": x, "usage": usage} for x in (0.0, 1.0)], "diversity_nats": 0.5}
    (folder / "usage.json").write_text(json.dumps(data | ({"control": usage} if control else {})), encoding="utf-8")
    (folder / "costs.json").write_text(json.dumps(costs), encoding="utf-8")
    judged = judge(read(folder / "usage.json", folder / "costs.json"))
    assert lines(judged)
    assert judged.exit_code in {0, 1, 10}
    json.dumps(as_json(judged), allow_nan=False)
