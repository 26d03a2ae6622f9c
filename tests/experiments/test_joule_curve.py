"""The sweep: what it records, that its intervals hold the truth, what it refuses, and that what does not fit is left out."""

from __future__ import annotations

from collections import Counter

import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.twin import IDLE
from pytest_physics.errors import ArmNotTestedError, ChannelUnavailableError, ConfigurationError
from pytest_physics.experiments.joule_curve import Arm, grid, run_joule_curve
from pytest_physics.metrology.quality import Provenance
from pytest_physics.metrology.uncertainty import Estimate
from pytest_physics.record.verify import verify_run
from pytest_physics.session import Plan, Session
from pytest_physics.workloads.select import language_model_for, steady_load_for
from pytest_physics.workloads.twin import ModelShape, RooflineCosts, TwinLanguageModel

PRESETS = ("rtx4080-laptop", "a100", "v100", "k40")
BATCHES = (1, 4, 16)
PRICES = {
    "electricity": {"per_kwh": 0.3, "currency": "EUR", "source": "a tariff", "date": "2026-01-15"},
    "carbon": {"g_per_kwh": 380.0, "source": "a grid", "date": "2025-12-31"},
}


def started(tmp_path, preset, seed=0, *, overrides=None, faults=(), soak=None, prices=None, **experiment):
    """A session on a twin with short baselines and windows."""
    options = {
        "seed": seed, "baseline": {"settle_s": 20.0, "duration_s": 40.0}, "soak": {"rhythm_s": 0.0, **(soak or {})},
        "experiment": {"batches": BATCHES, "repetitions": 3, "window_s": 1.2, **experiment}, "prices": prices or {},
    }  # fmt: skip
    parameters = {"preset": preset, "seed": seed, "overrides": overrides or {}, "faults": list(faults)}
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters=parameters)})
    return Session.start(load_settings(tmp_path, overrides=options), plan, directory=tmp_path)


def sweep(tmp_path, preset, seed=0, *, workload=None, run=None, **options):
    """One short sweep on a twin, its session finished."""
    with started(tmp_path, preset, seed, **options) as session:
        model = workload(session.rig.gpu.device) if workload else language_model_for(session.rig.gpu.device)
        curve = run_joule_curve(session.rig.gpu, session, model, **(run or {"start": "cold"}))
    return session, curve


def refusals(estimate):
    """Names of the gates that refuse."""
    return {gate.name for gate in estimate.gates if gate.refuses}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_intervals_hold_the_truth(tmp_path, preset):
    """Every result beside its truth, all scales included: at most one of twenty may miss it; and the run verifies."""
    session, _ = sweep(tmp_path, preset, seed=1)
    known = [(r.estimate, r.truth, (r.quantity, r.coordinates)) for r in session.results if r.truth is not None]
    missed = [what for estimate, truth, what in known if abs(estimate.value - truth) > estimate.expanded]
    without = {r.quantity for r in session.results if r.truth is None}
    assert len(known) == 6 * 4 + 2 * 3
    assert without == {"temperature at the start"}
    assert len(missed) <= len(known) // 20, missed
    assert verify_run(session.path).findings == ()


@pytest.fixture(scope="module")
def laptop(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("laptop"), "rtx4080-laptop", repetitions=4, prices=PRICES)


def test_every_arm_is_repeated_in_blocks_forwards_and_backwards(laptop):
    """ABBA, drawn anew for each pair: a drift linear in time falls on all arms alike; the order is a table of the run."""
    session, curve = laptop
    windows = list(session.rig.gpu.windows.values())
    order = [(w.labels["phase"], w.labels["batch"]) for w in windows]
    blocks = [order[i : i + 6] for i in range(0, 24, 6)]
    assert len(set(blocks[0])) == 6
    assert (blocks[1], blocks[3]) == (blocks[0][::-1], blocks[2][::-1])
    assert blocks[2] not in (blocks[0], blocks[1])
    assert set(Counter(order).values()) == {4}
    table = session.tables["joule-arms-1"]
    assert table["window"].tolist() == [w.id for w in windows]
    assert list(zip(table["phase"].tolist(), table["batch"].tolist(), strict=True)) == order
    assert set(table["start"].tolist()) == {"cold"}
    assert session.phase(curve.phase).name.endswith("declared cold")


def test_windows_reach_their_target_length(laptop):
    """The calls per window were chosen for it by one look; never shorter than asked."""
    session, _ = laptop
    for window in session.rig.gpu.windows.values():
        assert 1.15 <= (window.t1_ns - window.t0_ns) / 1e9 <= 1.6
        assert window.work["tokens"] == window.work["calls"] * window.labels["batch"] * (32 if window.name == "prefill" else 16)


def test_batching_pays_and_the_law_says_so(laptop):
    """Energy per token falls with the batch, towards what a token costs in a large one."""
    _, curve = laptop
    values = [curve.per_token(batch).value for batch in BATCHES]
    assert values == sorted(values, reverse=True)
    assert curve.per_token_limit().value < values[-1]
    assert curve.batches() == list(BATCHES)
    assert curve.per_token(4, kind="gross").value > curve.per_token(4).value
    law = curve.fixed() / Estimate.exact(4 * 16, "token") + curve.per_token_limit()
    assert law.value == pytest.approx(curve.per_token(4).value, rel=0.01)
    assert curve.break_even().value == pytest.approx(curve.fixed().value / curve.per_token_limit().value / 16)


def test_sound_arms_pass_their_gates(laptop):
    """The silent half: decode is one line at one clock, and nothing refuses it; prefill meets the power cap, and its law is refused."""
    _, curve = laptop
    ratio = curve.session.evaluate((curve.per_token(16) / curve.per_token(1)).recipe)
    names = {gate.name for gate in ratio.gates}
    assert {"clock parity", "temperature parity", "power rose with the work", "updates in a window"} <= names
    assert refusals(ratio) == refusals(curve.fixed()) == refusals(curve.break_even()) == set()
    assert {"lack of fit", "clock parity"} <= refusals(curve.fixed("prefill"))


def test_the_best_batch_keeps_the_latency_limit(laptop):
    """With room to spare the largest; below its latency a smaller one; below all none."""
    _, curve = laptop
    assert curve.best_batch().value == 16
    assert curve.best_batch(curve.latency(16).value - 1e-6).value == 4
    assert refusals(curve.best_batch(1e-6)) == {"latency limit"}
    assert curve.latency(1).unit == "s/step"
    assert curve.latency(1, "prefill").unit == "s/call"


def test_units_of_people_follow_with_the_stated_prices(laptop):
    """Derived exactly; with a price they are as good as the weakest input; and they recompute from the run."""
    session, curve = laptop
    joules = curve.per_token(4, kind="gross").value
    found = {
        "tokens": curve.tokens_per_kwh(4), "cost": curve.cost_per_million_tokens(4), "carbon": curve.carbon_per_million_tokens(4),
        "requests": curve.wh_per_thousand_requests(4), "inverse": curve.tokens_per_joule(4),
    }  # fmt: skip
    assert found["tokens"].value == pytest.approx(3.6e6 / joules)
    assert found["inverse"].value == pytest.approx(1 / joules)
    assert found["cost"].value == pytest.approx(joules * 1e6 / 3.6e6 * 0.3)
    assert found["carbon"].value == pytest.approx(joules * 1e6 / 3.6e6 * 380)
    request = 32 * curve.per_token(4, "prefill", kind="gross").value + 16 * joules
    assert found["requests"].value == pytest.approx(request * 1000 / 3600)
    assert (found["cost"].unit, found["carbon"].unit) == ("EUR/Mtoken", "gCO2e/Mtoken")
    assert found["cost"].provenance is Provenance.SIMULATED
    for estimate in found.values():
        assert session.evaluate(estimate.recipe).value == estimate.value


def test_without_a_stated_price_there_is_no_cost(tmp_path):
    """Never a default: the claim is NOT_TESTED and the message says what to add."""
    with started(tmp_path, "a100") as session:
        arms = [Arm(phase="decode", batch=1, context=32, new_tokens=16)]
        curve = run_joule_curve(session.rig.gpu, session, language_model_for(session.rig.gpu.device), arms=arms, start="cold")
        with pytest.raises(ChannelUnavailableError, match=r"no price of electricity is stated: add \[tool.physics.prices.electricity\]"):
            curve.cost_per_million_tokens(1)
        with pytest.raises(ChannelUnavailableError, match="with g_per_kwh, source and date"):
            curve.carbon_per_million_tokens(1)
        with pytest.raises(ChannelUnavailableError, match="a law needs at least 3 batches"):
            curve.fixed()
        with pytest.raises(ConfigurationError, match=r"prefill was not measured: the sweep has decode, context 32, new_tokens 16"):
            curve.per_request(1)


@pytest.mark.parametrize(
    ("prices", "match"),
    [
        ({"electricity": {"per_kwh": 0.3, "currency": "EUR", "source": "a tariff"}}, "'prices.electricity.date'"),
        ({"electricity": {**PRICES["electricity"], "currency": "Euro"}}, "'prices.electricity.currency'"),
        ({"carbon": {"g_per_kwh": 380.0}}, "'prices.carbon.source'"),
        ({"carbon": {**PRICES["carbon"], "g_per_kwh": -1.0}}, "'prices.carbon.g_per_kwh'"),
        ({"carbon": {**PRICES["carbon"], "per_kwh": 1.0}}, "unknown key 'prices.carbon.per_kwh'"),
    ],
)
def test_a_price_needs_its_source_and_date(tmp_path, prices, match):
    """A number without them is worth nothing."""
    with pytest.raises(ConfigurationError, match=match):
        load_settings(tmp_path, overrides={"prices": prices})


# --- bad input -------------------------------------------------------------------------------------------------------


def test_an_arm_that_was_not_swept_is_refused(laptop):
    """The message says which were."""
    _, curve = laptop
    with pytest.raises(ConfigurationError, match=r"decode at batch 3 was not measured: the sweep has batches \[1, 4, 16\]"):
        curve.per_token(3)
    with pytest.raises(ConfigurationError, match="decode, context 99 was not measured: the sweep has prefill, context 32; decode"):
        curve.per_token(1, context=99)
    with pytest.raises(ConfigurationError, match="an arm has 'context', 'new_tokens' and 'variant'"):
        curve.per_token(1, contexts=32)
    with pytest.raises(ConfigurationError, match="'kind' is 'net' or 'gross'"):
        curve.per_token(1, kind="total")


@pytest.mark.parametrize(
    ("arm", "match"),
    [
        ({"phase": "decode", "batch": 1, "context": 32, "new_tokens": 0}, "'new_tokens' of an arm must be >= 1"),
        ({"phase": "prefill", "batch": 1, "context": 0}, "'context' of an arm must be >= 1"),
        ({"phase": "prefill", "batch": 0, "context": 8}, "'batch' of an arm must be >= 1"),
        ({"phase": "train", "batch": 1, "context": 8}, "a phase is one of prefill, decode"),
    ],
)
def test_an_arm_needs_tokens(arm, match):
    """Zero tokens have no energy per token."""
    with pytest.raises(ConfigurationError, match=match):
        Arm(**arm)


def test_an_arm_of_an_unknown_variant_is_refused(tmp_path):
    """Before anything is measured."""
    arms = [Arm(phase="prefill", batch=1, context=8, variant="int8")]
    with started(tmp_path, "a100") as session:
        model = language_model_for(session.rig.gpu.device)
        with pytest.raises(ConfigurationError, match=r"no workload for \['int8'\]"):
            run_joule_curve(session.rig.gpu, session, model, arms=arms)


def test_an_arm_that_does_not_fit_is_left_out_and_the_sweep_goes_on(tmp_path):
    """Out of memory in one arm costs that arm, with the device's own reason; it stands in the table, and its claim is NOT_TESTED."""
    session, curve = sweep(tmp_path, "k40", batches=(1, 4, 200_000))
    assert {arm.batch for arm in curve.left_out} == {200_000}
    with pytest.raises(ArmNotTestedError, match=r"decode at batch 200000 was not measured: .*out of memory"):
        curve.per_token(200_000)
    assert curve.batches() == [1, 4]
    table = session.tables["joule-arms-1"]
    left = table[table["window"] == ""]
    assert left["batch"].tolist() == [200_000, 200_000]
    assert all("NOT_TESTED" in reason and "out of memory" in reason for reason in left["reason"])
    assert verify_run(session.path).findings == ()


def test_an_arm_that_spills_does_not_fit(tmp_path):
    """Work that silently pages to the host is 25 to 100 times slower: no point of the curve."""
    arms = [Arm(phase="decode", batch=batch, context=32, new_tokens=16) for batch in (1, 9000)]
    _, curve = sweep(tmp_path, "rtx4080-laptop", run={"arms": arms, "start": "cold"})
    assert curve.batches() == [1]
    assert "do not fit on the card" in curve.left_out[arms[1]]


def test_torchs_own_out_of_memory_is_known(tmp_path):
    """``torch.OutOfMemoryError`` is no ``MemoryError``; any other error ends the sweep, and the table of arms is still written."""

    class OutOfMemoryError(RuntimeError):
        pass

    class Full(TwinLanguageModel):
        error = OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

        def prefill(self, batch, tokens):
            if batch == 4:
                raise self.error
            super().prefill(batch, tokens)

    _, curve = sweep(tmp_path, "a100", workload=Full, batches=(1, 4))
    assert set(curve.left_out.values()) == {"CUDA out of memory. Tried to allocate 2 GiB."}

    class Broken(Full):
        error = RuntimeError("device-side assert triggered")

    with started(tmp_path, "a100", batches=(1, 4)) as session:
        broken = Broken(session.rig.gpu.device)
        with pytest.raises(RuntimeError, match="device-side assert"):
            run_joule_curve(session.rig.gpu, session, broken, start="cold")
        windows = {table for table in session.tables["joule-arms-1"]["window"] if table} if session.tables else set()
        assert windows == set(session.rig.gpu.windows)


def test_a_model_that_is_too_large_is_not_tested(tmp_path):
    """Clear, and no claim is refuted by it."""
    changes = {"card.memory_bytes": 600 * 2**20, "card.host_spill_bytes": 0}
    with started(tmp_path, "rtx4080-laptop", overrides=changes) as session:
        with pytest.raises(
            ArmNotTestedError, match=r"the model 'gpt2' does not fit on rtx4080-laptop: .*out of memory.*'experiment.model'"
        ):
            language_model_for(session.rig.gpu.device, "gpt2")
        with pytest.raises(MemoryError):
            TwinLanguageModel(session.rig.gpu.device, shape=ModelShape(parameters=10**12))


# --- planted faults --------------------------------------------------------------------------------------------------


class Elsewhere(TwinLanguageModel):
    """A model that another device runs: time passes here, and no work is done."""

    def _run(self, cost):
        self.device.execute(IDLE, cost.seconds * self._calls)


def test_work_on_another_device_is_refused(tmp_path):
    """TR123 booked the GPU's idle watts to work of the CPU: power did not rise."""
    _, curve = sweep(tmp_path, "rtx4080-laptop", workload=Elsewhere, batches=(1,))
    assert "power rose with the work" in refusals(curve.per_token(1))


def test_compared_arms_at_different_clocks_are_refused(tmp_path):
    """One variant meets the power cap; the other does not. Each by itself is sound."""
    arms = [Arm(phase="decode", batch=8, context=32, new_tokens=16, variant=name) for name in ("lean", "hungry")]

    def both(device):
        return {"lean": TwinLanguageModel(device), "hungry": TwinLanguageModel(device, costs=RooflineCosts(memory_intensity=1.4))}

    _, curve = sweep(tmp_path, "rtx4080-laptop", workload=both, run={"arms": arms, "start": "cold"})
    lean, hungry = (curve.per_token(8, variant=name) for name in ("lean", "hungry"))
    assert refusals(lean) == refusals(hungry) == set()
    assert refusals(curve.session.evaluate((hungry / lean).recipe)) == {"clock parity"}


def test_compared_windows_at_different_temperatures_are_refused(tmp_path):
    """The same work before and after minutes of load."""
    with started(tmp_path, "rtx4080-laptop") as session:
        gpu = session.rig.gpu
        model, load = language_model_for(gpu.device), steady_load_for(gpu.device)
        gpu.baseline()
        energies = []
        for heat_s in (1.0, 120.0):
            load.run_for(heat_s)
            gpu.sleep(4.0)
            with gpu.window("prefill", labels={"heat": heat_s}) as window:
                model.repeat("prefill", batch=1, tokens=32, calls=1500)
            energies.append(gpu.energy(window).gross)
        ratio = session.evaluate((energies[1] / energies[0]).recipe)
    gate = next(gate for gate in ratio.gates if gate.name == "temperature parity")
    assert gate.refuses
    assert gate.measured > 3.0


@pytest.mark.parametrize(("rhythm_s", "refused"), [(0.0, True), (600.0, False)])
def test_a_sweep_that_was_still_warming_is_refused_unless_it_came_to_rest(tmp_path, rhythm_s, refused):
    """A cold card warms by more than 5 °C over the sweep; after its rhythm it does not. Declared cold, nothing asks."""
    arms = [Arm(phase="prefill", batch=batch, context=32) for batch in (8, 16)]
    options = {"repetitions": 8, "soak": {"rhythm_s": rhythm_s}}
    session, curve = sweep(tmp_path, "rtx4080-laptop", run={"arms": arms}, **options)
    assert ("soaked in its rhythm" in refusals(curve.per_token(8, "prefill"))) is refused
    assert any(phase.name == "rhythm" for phase in session.rig.gpu.phases) is not refused


def test_a_power_window_has_enough_updates(tmp_path):
    """Windows are lengthened to six updates of the sensor, whatever the settings ask."""
    overrides = {"power.update_period_s": 0.4, "power.window_s": 0.4}
    arms = [Arm(phase="decode", batch=1, context=32, new_tokens=16)]
    faults = [{"kind": "channel_absent", "value": "energy_j"}]
    _, curve = sweep(tmp_path, "a100", overrides=overrides, faults=faults, run={"arms": arms, "start": "cold"}, window_s=0.3)
    assert curve.estimator == "power"
    gate = next(gate for gate in curve.per_token(1).gates if gate.name == "updates in a window")
    assert gate.passed
    assert gate.measured >= 5


def test_many_calls_at_once_are_the_same_work(tmp_path):
    """On a virtual clock: energy and time of n calls in one step are those of n calls."""
    with started(tmp_path, "v100") as session:
        gpu, found = session.rig.gpu, []
        model = language_model_for(gpu.device)
        for run in (lambda: [model.decode(2, 4) for _ in range(20)], lambda: model.repeat("decode", batch=2, tokens=4, calls=20)):
            model.prepare(2, 32)
            gpu.sleep(30.0)
            t0 = gpu.clock.now_ns()
            run()
            found.append((gpu.clock.now_ns() - t0, gpu.device.true_energy_j(t0, gpu.clock.now_ns())))
        with pytest.raises(ConfigurationError, match="'calls' must be >= 1"):
            model.repeat("decode", batch=2, tokens=4, calls=0)
    assert found[1][0] == pytest.approx(found[0][0], abs=40)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-4)


def test_the_grid_has_no_arm_twice():
    """Prefill does not depend on the new tokens."""
    arms = grid((1, 2), contexts=(8, 16), new_tokens=(4, 8), variants=("a", "b"))
    assert len(arms) == len(set(arms)) == 2 * (2 * 2 + 2 * 2 * 2)


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

    def close(self):
        pass


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
    assert {result.quantity for result in session.results} == {"time per token", "latency"}
    assert sum(window.name == "canary" for window in cpu.windows.values()) == 6
    assert verify_run(session.path).findings == ()
