"""The sweep: what it records, that its intervals hold the truth, and that what does not fit is left out with its reason."""

from __future__ import annotations

from collections import Counter

import pytest

from pytest_physics.config import load_settings
from pytest_physics.errors import ChannelUnavailableError, ConfigurationError
from pytest_physics.experiments.joule_curve import Arm, run_joule_curve
from pytest_physics.record.verify import verify_run
from pytest_physics.session import Session
from pytest_physics.workloads.select import language_model_for

PRESETS = ("rtx4080-laptop", "a100", "v100", "k40")
BATCHES = (1, 4, 16)


def sweep(tmp_path, preset, seed=0, **experiment):
    """One short sweep on a twin, its session finished."""
    options = {
        "device": f"twin:{preset}", "seed": seed, "baseline": {"settle_s": 20.0, "duration_s": 40.0},
        "experiment": {"batches": BATCHES, "repetitions": 3, "window_s": 1.2, **experiment},
    }  # fmt: skip
    with Session.start(load_settings(tmp_path, overrides=options), directory=tmp_path) as session:
        curve = run_joule_curve(session.rig.gpu, session, language_model_for(session.rig.gpu.device))
    return session, curve


@pytest.mark.parametrize("preset", PRESETS)
def test_the_intervals_hold_the_truth(tmp_path, preset):
    """Every result beside its truth, all scales included: at most one of twenty may miss it; and the run verifies."""
    session, _ = sweep(tmp_path, preset, seed=1)
    known = [(r.estimate, r.truth, (r.quantity, r.coordinates)) for r in session.results if r.truth is not None]
    missed = [what for estimate, truth, what in known if abs(estimate.value - truth) > estimate.expanded]
    assert len(known) == len(session.results) == 6 * 3 + 2 * 2
    assert len(missed) <= len(known) // 20, missed
    assert verify_run(session.path).findings == ()


@pytest.fixture(scope="module")
def laptop(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("laptop"), "rtx4080-laptop")


def test_every_arm_is_repeated_in_blocks_forwards_and_backwards(laptop):
    """ABBA: a drift linear in time falls on all arms alike."""
    session, _ = laptop
    order = [(w.labels["phase"], w.labels["batch"]) for w in session.rig.gpu.windows.values()]
    first, second, third = order[:6], order[6:12], order[12:]
    assert len(set(first)) == 6
    assert second == first[::-1]
    assert third == first
    assert set(Counter(order).values()) == {3}


def test_windows_reach_their_target_length(laptop):
    """The calls per window were chosen for it by one look."""
    session, _ = laptop
    for window in session.rig.gpu.windows.values():
        assert 0.9 <= (window.t1_ns - window.t0_ns) / 1e9 <= 1.6
        assert window.work["tokens"] == window.work["calls"] * window.labels["batch"] * (32 if window.name == "prefill" else 16)


def test_batching_pays_and_the_law_says_so(laptop):
    """Energy per token falls with the batch, towards what a token costs in a large one."""
    _, curve = laptop
    values = [curve.per_token(batch).value for batch in BATCHES]
    assert values == sorted(values, reverse=True)
    assert curve.per_token_limit().value < values[-1]
    assert curve.batches("decode") == list(BATCHES)
    assert curve.per_token(4, kind="gross").value > curve.per_token(4).value


def test_a_batch_that_was_not_swept_is_refused(laptop):
    """The message says which were."""
    _, curve = laptop
    with pytest.raises(ConfigurationError, match=r"decode at batch 3 was not measured: the sweep has batches \[1, 4, 16\]"):
        curve.per_token(3)


def test_an_arm_that_does_not_fit_is_left_out_and_the_sweep_goes_on(tmp_path):
    """Out of memory in one arm costs that arm, with the device's own reason."""
    session, curve = sweep(tmp_path, "k40", batches=(1, 4, 200_000))
    assert {arm.batch for arm in curve.left_out} == {200_000}
    assert "out of memory" in curve.left_out[Arm(phase="decode", batch=200_000)]
    with pytest.raises(ConfigurationError, match=r"decode at batch 200000 was not measured: .*out of memory"):
        curve.per_token(200_000)
    assert curve.batches("decode") == [1, 4]
    assert verify_run(session.path).findings == ()


class SlowModel:
    """A language model in name only: it sleeps."""

    def __init__(self, clock):
        self.clock = clock

    def describe(self):
        return {"workload": "sleep"}

    def warm_up(self):
        pass

    def prepare(self, batch, context):
        pass

    def prefill(self, batch, tokens):
        self.clock.sleep_until_ns(self.clock.now_ns() + 2_000_000)

    decode = prefill


def test_without_power_only_time_is_measured(tmp_path):
    """On a CPU without an energy counter: time per token with its canaries, and energy NOT_TESTED with the device's reason."""
    options = {"device": "cpu", "experiment": {"batches": (1, 2), "repetitions": 3, "latency_s": 0.01}}
    with Session.start(load_settings(tmp_path, overrides=options), directory=tmp_path) as session:
        cpu = session.rig.cpu
        if cpu.metered:
            pytest.skip("this CPU has an energy counter")
        curve = run_joule_curve(cpu, session, SlowModel(cpu.clock))
        assert curve.time_per_token(2).value < curve.time_per_token(1).value
        with pytest.raises(ChannelUnavailableError, match="cannot read 'energy_j'"):
            curve.per_token(1)
        gates = {gate.name for gate in curve.time_per_token(1).gates}
    assert any("canary" in name for name in gates)
    assert {result.quantity for result in session.results} == {"time per token"}
    assert sum(window.name == "canary" for window in cpu.windows.values()) == 6
    assert verify_run(session.path).findings == ()
