"""Repeating short events: which estimator, which phases, when it stops, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytest_physics import short_events
from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.twin import TwinLoad
from pytest_physics.errors import ChannelUnavailableError, ConfigurationError
from pytest_physics.metrology.uncertainty import Estimate, Recipe
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.recipes import evaluate
from pytest_physics.record.repetition_energy import REPETITIONS, latency_estimate
from pytest_physics.record.schema import EstimateRecord, WindowRecord
from pytest_physics.session import Plan, Session
from pytest_physics.workloads.twin import TwinKernel

SCALELESS = {"u_gain": 0.0, "u_counter_gain": 0.0, "offset_limit_w": 0.0}


@pytest.fixture
def started(tmp_path):
    """Start a run on a twin; ended with the test."""
    sessions = []

    def start(preset, *, faults=(), seed=1, **overrides):
        settings = load_settings(
            tmp_path, overrides={"device": f"twin:{preset}", "baseline": {"settle_s": 2.0, "duration_s": 20.0}}
        )  # fmt: skip
        parameters = {"preset": preset, "seed": seed, "overrides": {**SCALELESS, **overrides}, "faults": list(faults)}
        session = Session.start(settings, Plan.using({"gpu": DeviceSpec(kind="twin", parameters=parameters)}), directory=tmp_path)
        sessions.append(session)
        return session

    yield start
    for session in sessions:
        session.finish()


def event(session, event_s, *, busy=1.0, intensity=0.5):
    """A call that loads the card for a share of ``event_s``."""
    gpu = session.rig.gpu
    load = TwinKernel(gpu.device, load=TwinLoad(intensity=intensity))

    def call():
        load.run_for(busy * event_s)
        if busy < 1:
            gpu.sleep((1 - busy) * event_s)

    return call


def error_of(session, estimate):
    """Relative error against the twin's truth."""
    return abs(estimate.value / session.truth(estimate.recipe) - 1)


def gate_named(gates, name):
    """The worst gate of that name."""
    return min((gate for gate in gates if gate.name == name), key=lambda gate: gate.passed)


# --- which estimator -------------------------------------------------------------------------------------------------


def test_one_event_is_enough_for_a_sensor_that_looks_all_the_time(started):
    """A 100/100 sensor sees a single 0.6 s event whole."""
    session = started("rtx4080-laptop")
    found = session.rig.gpu.repeat(event(session, 0.6, intensity=0.9), target=0.02)
    assert (found.stopped, found.repetitions, found.batches) == ("one event", 1, 1)
    assert error_of(session, found.energy.net) < 0.01
    assert "target 2.00%" in found.reason


def test_power_readings_of_one_event_are_never_trusted_where_the_sensor_looks_away(started):
    """25/100: however good one event looks, batches are run."""
    session = started("a100")
    found = session.rig.gpu.repeat(event(session, 0.6), target=0.5, estimator="power")
    assert (found.stopped, found.method) == ("target", "phase average of batches")


@pytest.mark.parametrize("event_s", [0.006, 0.05, 0.8])
def test_phases_give_the_energy_where_the_sensor_looks_away(started, event_s):
    """A quarter of the time is seen, and the energy of an event is right to 0.3 % and inside its interval."""
    session = started("a100")
    found = session.rig.gpu.repeat(event(session, event_s, busy=0.7), target=0.01, estimator="power")
    for estimate in (found.energy.net, found.energy.gross):
        assert error_of(session, estimate) < 0.003
        assert abs(estimate.value - session.truth(estimate.recipe)) < 2 * estimate.expanded
    assert not [gate for gate in found.gates if gate.refuses]


@pytest.mark.parametrize("periods", [0.5, 2.0])
def test_an_event_in_step_with_the_sensor_is_named_and_still_right(started, periods):
    """Free running would see one phase for ever; batches at other phases do not."""
    session = started("h100")
    event_s = periods * float(session.rig.gpu.device.fingerprint.details["true_update_period_s"])
    found = session.rig.gpu.repeat(event(session, event_s, busy=0.5), target=0.01, estimator="power")
    in_step = gate_named(found.gates, "event in step with the sensor")
    assert in_step.warning
    assert not in_step.passed
    assert gate_named(found.gates, "commensurability").passed
    assert error_of(session, found.energy.net) < 0.005


def test_an_event_out_of_step_is_not_named(started):
    """Clean data: silent."""
    session = started("h100")
    found = session.rig.gpu.repeat(event(session, 0.0618, busy=0.5), target=0.01, estimator="power")
    assert gate_named(found.gates, "event in step with the sensor").passed


def test_batches_that_did_not_meet_the_phases_are_refused(started, monkeypatch):
    """Planted: the host starts every batch at one phase. The achieved phases tell, not the planned ones."""
    session = started("a100")
    period_ns = round(float(session.rig.gpu.device.fingerprint.details["true_update_period_s"]) * 1e9)
    monkeypatch.setattr(short_events, "_start_ns", lambda now_ns, origin_ns, plan, batch: -(-now_ns // period_ns) * period_ns)
    found = session.rig.gpu.repeat(event(session, 0.03), target=0.01, estimator="power")
    assert gate_named(found.gates, "commensurability").refuses


def test_the_counter_is_used_where_it_is_better(started):
    """A noisy power sensor loses against the counter, and the two are compared."""
    session = started("rtx4080-laptop", **{"power.noise_w": 10.0})
    found = session.rig.gpu.repeat(event(session, 0.05), target=0.05)
    assert found.method.startswith("counter")
    assert error_of(session, found.energy.net) < 0.02
    assert gate_named(found.gates, "counter and power agree").passed


def test_a_counter_that_disagrees_is_refused(started):
    """Planted: a counter that counts half of the energy."""
    session = started("a100", faults=[{"kind": "counter_half_rate", "start_s": 25.0}])
    found = session.rig.gpu.repeat(event(session, 0.05), target=0.01)
    gate = gate_named(found.gates, "counter and power agree")
    assert gate.refuses
    assert gate.measured > 0.3


def test_an_estimator_can_be_insisted_on(started):
    """``estimator`` is used as given, and nothing else is compared."""
    session = started("a100")
    found = session.rig.gpu.repeat(event(session, 0.05), target=0.05, estimator="counter")
    assert found.method.startswith("counter")
    assert not any(gate.name == "counter and power agree" for gate in found.gates)


def test_a_card_without_a_counter_is_measured_by_power(started):
    """k40: a first-order lag and no counter."""
    session = started("k40")
    found = session.rig.gpu.repeat(event(session, 0.02), target=0.01)
    assert found.method == "extended window"
    assert error_of(session, found.energy.net) < 0.005


def test_a_card_without_power_readings_is_measured_by_its_counter(started):
    """Gross energy from the counter; net has no baseline and says so."""
    session = started("a100", faults=[{"kind": "channel_absent", "value": "power_w"}])
    found = session.rig.gpu.repeat(event(session, 0.05), target=0.05)
    assert found.method.startswith("counter")
    assert error_of(session, found.energy.gross) < 0.02
    assert math.isnan(found.energy.net.value)
    assert gate_named(found.energy.net.gates, "idle baseline").refuses


# --- when it stops ---------------------------------------------------------------------------------------------------


def test_it_stops_at_a_look_when_the_target_is_reached(started):
    """32 batches or more are the first look of a 25/100 sensor."""
    session = started("a100")
    found = session.rig.gpu.repeat(event(session, 0.05), target=0.02, estimator="power", budget_s=300.0)
    assert found.stopped == "target"
    assert found.batches >= 32
    assert found.energy.net.relative_without_scale <= 0.02
    assert "look 1 of" in found.reason


def test_it_stops_when_the_budget_is_spent_and_says_so(started):
    """A target out of reach: the budget ends it, and the reason has both numbers."""
    session = started("a100", **{"power.noise_w": 30.0})
    gpu = session.rig.gpu
    gpu.baseline()
    start_ns = gpu.clock.now_ns()
    found = gpu.repeat(event(session, 0.05), target=0.0001, estimator="power", budget_s=60.0)
    assert found.stopped == "budget"
    assert (gpu.clock.now_ns() - start_ns) / 1e9 < 65.0
    assert "budget of 60 s" in found.reason
    assert "target 0.01%" in found.reason


def test_a_short_budget_runs_the_fewest_batches(started):
    """At least four batches, whatever the budget; too few phases are refused."""
    session = started("a100")
    found = session.rig.gpu.repeat(event(session, 0.3), target=0.001, estimator="power", budget_s=0.5)
    assert (found.batches, found.stopped) == (4, "budget")
    assert gate_named(found.gates, "commensurability").refuses


def test_looks_widen_the_interval(started):
    """A number that could have been looked at often has the 5 % shared by all looks."""
    session = started("a100")
    found = session.rig.gpu.repeat(event(session, 0.05), target=0.02, estimator="power", budget_s=1000.0)
    recipe = found.energy.gross.recipe
    once = session.evaluate(Recipe(op=recipe.op, parameters={**recipe.parameters, "looks": [found.batches]}))
    assert found.energy.gross.expanded > 1.1 * once.expanded


@pytest.mark.parametrize("wrong", [{"target": 0.0}, {"budget_s": -1.0}, {"estimator": "guess"}, {"work": {REPETITIONS: 2}}])
def test_impossible_requests_are_refused(started, wrong):
    """A message for each, before anything runs."""
    session = started("a100")
    calls = []
    with pytest.raises(ConfigurationError, match="'"):
        session.rig.gpu.repeat(lambda: calls.append(1), **wrong)
    assert not calls


def test_a_device_without_any_meter_cannot_repeat(started):
    """Neither power nor counter."""
    faults = [{"kind": "channel_absent", "value": name} for name in ("power_w", "energy_j")]
    session = started("a100", faults=faults)
    with pytest.raises(ChannelUnavailableError):
        session.rig.gpu.repeat(lambda: None)


# --- what is handed back ---------------------------------------------------------------------------------------------


def test_energy_per_unit_of_work(started):
    """``work`` is that of one event."""
    session = started("rtx4080-laptop")
    found = session.rig.gpu.repeat(event(session, 0.05), work={"tokens": 5}, target=0.05)
    assert found.per("token").net.value == pytest.approx(found.energy.net.value / 5)
    assert found.per("token").net.unit == "J/token"
    with pytest.raises(ValueError, match="counted tokens=5"):
        found.per("iteration")


def test_latency_comes_with_the_same_calls(started):
    """Calls of exactly 50 ms: all quantiles are 50 ms, and the harness costs nothing in virtual time."""
    session = started("rtx4080-laptop")
    found = session.rig.gpu.repeat(event(session, 0.05), target=0.02)
    for estimate in (found.latency.median, found.latency.p95, found.latency.p99):
        assert estimate.value == pytest.approx(0.05)
    assert not [gate for gate in found.latency.median.gates if gate.refuses]
    assert found.latency.overhead.value == 0.0
    assert found.latency.summary.median_s.n == found.repetitions


def test_a_slow_first_call_is_noticed(started):
    """Planted: the first call takes three times as long (a warning); the others are not affected."""
    session = started("rtx4080-laptop")
    calls = []
    quick, slow = event(session, 0.02), event(session, 0.06)

    def call():
        (quick if calls else slow)()
        calls.append(1)

    found = session.rig.gpu.repeat(call, target=0.02)
    gate = gate_named(found.latency.median.gates, "first repetition like the rest")
    assert not gate.passed
    assert gate.warning
    assert found.latency.p99.value == pytest.approx(0.02)
    steady = session.rig.gpu.repeat(quick, target=0.02)
    assert gate_named(steady.latency.median.gates, "first repetition like the rest").passed


def window_with(calls_ns, name="gpu-w1"):
    """A recorded window with timed calls."""
    return WindowRecord(id=name, instrument="gpu", name="x", phase="", t0_ns=0, t1_ns=10**9, calls_ns=list(calls_ns))


@pytest.mark.parametrize(("count", "refused"), [(360, True), (370, False)])
def test_too_few_calls_have_no_p99(count, refused):
    """Boundary pair: an upper 97.5 % bound of the 99 % quantile takes ln 0.025 / ln 0.99 = 368 calls."""
    rng = np.random.default_rng(1)
    window = window_with(rng.integers(10**6, 2 * 10**6, count))
    estimate = latency_estimate([window], 0.99, resolution_s=1e-9, first=None)
    gate = gate_named(estimate.gates, "calls enough for the quantile")
    assert gate.refuses is refused
    assert gate.limit == pytest.approx(368, abs=1)


def test_latency_interval_covers_the_quantile():
    """Skewed latencies, 300 sets of 500 calls: the stated interval holds the true median in 95 % or more."""
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(300):
        calls = np.rint(1e6 * np.exp(rng.standard_normal(500))).astype(int)
        estimate = latency_estimate([window_with(calls.tolist())], 0.5, resolution_s=1e-9, first=None)
        inside += abs(estimate.value - 1e-3) <= estimate.expanded
    assert inside / 300 >= 0.94


def test_everything_is_recomputed_from_the_run(started):
    """Results of energy and latency, with gates and truth: the recorded run gives the same numbers."""
    session = started("a100")
    session.rig.gpu.repeat(event(session, 0.05), target=0.02, work={"tokens": 3}, name="short")
    session.rig.gpu.repeat(event(session, 0.05), target=0.02, estimator="power", name="shorter")
    session.finish()
    run = RecordedRun(session.path)
    assert len(run.reader.results) == 12
    for record in run.reader.results:
        again = EstimateRecord.of(evaluate(Recipe.from_json(record.recipe), run))
        assert again == record.estimate
    assert {record.coordinates.get("event") for record in run.reader.results} == {"short", "shorter"}


def test_the_comparison_of_two_estimates_of_nothing_fails():
    """No energy at all cannot be compared: the gate does not pass."""
    nothing = Estimate(value=0.0, unit="J")
    from pytest_physics.record.repetition_energy import agreement_gate

    assert not agreement_gate(nothing, nothing).passed
