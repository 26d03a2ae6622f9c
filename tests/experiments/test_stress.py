"""The stress study on twins with a known answer: what is planted is found, what is clean stays silent, what does not fit is left out."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.twin import TwinLoad
from pytest_physics.errors import ChannelUnavailableError, ConfigurationError, InvalidMeasurement
from pytest_physics.experiments.roofline import run_roofline
from pytest_physics.experiments.stress import LEFT_OUT, Arm, run_stress_matrix, run_sustained, sustain
from pytest_physics.experiments.thermal_hysteresis import run_thermal_hysteresis
from pytest_physics.metrology.throttle import EventClass
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.verify import verify_run
from pytest_physics.report.pages.stress_answers import answers
from pytest_physics.session import Plan, Session
from pytest_physics.workloads.roofs import KernelCosts, roofs_of
from pytest_physics.workloads.select import steady_load_for
from pytest_physics.workloads.stress_models import stress_model_for, traffic_of
from pytest_physics.workloads.twin import ModelShape, RooflineCosts, TwinLanguageModel

SHORT = {"contexts": (128,), "batches": (1, 8), "sustain_s": 60.0, "ramp_s": 120.0, "ramp_cycles": 3, "repetitions": 3}


def twin(tmp_path, preset="rtx4080-laptop", *, seed=1, faults=(), overrides=None, **stress):
    """A session on one twin."""
    settings = load_settings(tmp_path, overrides={
        "seed": seed, "baseline": {"settle_s": 20.0, "duration_s": 40.0}, "stress": {**SHORT, **stress},
    })  # fmt: skip
    parameters = {"preset": preset, "seed": seed, "faults": list(faults), "overrides": overrides or {}}
    return Session.start(settings, Plan.using({"gpu": DeviceSpec(kind="twin", parameters=parameters)}), directory=tmp_path)


def calls_of(device, load, seconds=0.5):
    """A call that keeps a twin at a load."""
    return lambda: device.execute(load, seconds)


def refusing(estimate):
    """Names of the gates that refuse."""
    return {gate.name for gate in estimate.gates if gate.refuses}


# --- the whole study -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Matrix, both loads, ramps and roofs on one twin."""
    with twin(tmp_path_factory.mktemp("study")) as session:
        gpu = session.rig.gpu
        model = stress_model_for(gpu.device)
        matrix = run_stress_matrix(gpu, session, model, batches=(1, 8, 1000))
        loads = {phase: run_sustained(gpu, session, model, matrix, phase) for phase in ("prefill", "decode")}
        roofline = run_roofline(gpu, session, roofs_of(gpu.device), matrix)
        loop = run_thermal_hysteresis(gpu, session, steady_load_for(gpu.device))
        positions = {phase: roofline.position(phase, arm) for phase in ("prefill", "decode") for arm in matrix.arms[-1:]}
        shares = {what: getattr(roofline, what)("decode", matrix.arms[0]) for what in ("memory_share", "arithmetic_share")}
        shortest, caps = matrix.shortest_decode, {phase: load.power_at_cap for phase, load in loads.items() if phase == "prefill"}
        with pytest.raises(ChannelUnavailableError, match="no opportunity arose: in 3 cycles up to"):
            _ = loop.width
    return session, matrix, positions, shares, shortest, caps


def test_the_intervals_hold_the_truth_and_the_run_verifies(study):
    """Every result beside its truth; at most one of twenty may miss it, and everything follows from the artifacts."""
    session, *_ = study
    known = [(r.estimate, r.truth, r.quantity) for r in session.results if r.truth is not None]
    missed = [what for estimate, truth, what in known if abs(estimate.value - truth) > estimate.expanded + 1e-12 * abs(truth)]
    assert len(known) > 30
    assert len(missed) <= len(known) // 20, missed
    assert verify_run(session.path).findings == ()


def test_every_decode_lasts_and_what_does_not_fit_is_left_out(study):
    """A second at least; batch 1000 needs 39 GB of cache, so it is left out with the reason and the matrix goes on."""
    session, matrix, _, _, shortest, _ = study
    assert 1.0 <= shortest.value < 1.3
    assert matrix.arms == [Arm(context=128, batch=1), Arm(context=128, batch=8)]
    assert "out of memory" in matrix.left_out[Arm(context=128, batch=1000)]
    with pytest.raises(ConfigurationError, match=r"decode at context 128 and batch 1000 was not measured: .*out of memory"):
        matrix.windows("decode", Arm(context=128, batch=1000))
    (row,) = session.tables[f"{LEFT_OUT}-1"]
    assert (row["batch"], row["instrument"]) == (1000, "gpu")


def test_points_lie_where_the_known_costs_put_them(study):
    """Known answer: decode reaches 0.75 of the peak bandwidth, a copy 0.92; prefill is right of the ridge, decode left of it."""
    _, _, positions, shares, _, _ = study
    assert shares["memory_share"].value == pytest.approx(RooflineCosts().memory_efficiency / KernelCosts().copy_efficiency, rel=1e-6)
    assert shares["arithmetic_share"].value < 0.02
    assert positions["decode"].value < 0.2
    assert positions["prefill"].value > 3


def test_the_power_cap_is_named_and_its_power_is_near_the_limit(study):
    """Prefill on the laptop card meets its cap; the drawn power is the limit, within the scale of the sensor."""
    session, _, _, _, _, caps = study
    (share,) = [r for r in session.results if r.quantity == "throttle share: power" and r.coordinates["phase"] == "prefill"]
    assert share.estimate.value == pytest.approx(1.0, abs=0.01)
    low, high = caps["prefill"].interval
    assert low < 1.0 < high


def test_the_answers_name_each_part_and_rig(study):
    """One row for each of A, B, E and F, from the recorded run; E says why not."""
    session, *_ = study
    rows = {row[0][0]: row for row in answers(RecordedRun(session.path)).rows}
    assert set(rows) == {"A", "B", "E", "F"}
    assert [rows[part][2] for part in "ABEF"] == ["answered", "answered", "not tested", "answered"]
    assert "no opportunity arose" in rows["E"][3]
    assert "2 arms of context × batch" in rows["A"][3]
    assert "bound by memory" in rows["F"][3]


# --- planted faults --------------------------------------------------------------------------------------------------


def test_a_planted_slowdown_is_found_in_share_and_drift(tmp_path):
    """The driver slows the clock to 60 % from 160 s on: the share is that of the fault, and the last third is 5/3 times slower."""
    with twin(tmp_path, faults=[{"kind": "thermal_slowdown", "start_s": 160.0, "value": 0.6}]) as session:
        gpu = session.rig.gpu
        gpu.baseline()
        gpu.sleep(130.0 - gpu.clock.now_ns() / 1e9 + gpu.sampler.origin_ns / 1e9)
        load = TwinLoad(intensity=0.3, clock_sensitivity=1.0)
        found = sustain(gpu, session, calls_of(gpu.device, load), length_s=60.0, name="load")
        heat, drift = found.throttle_share(EventClass.THERMAL), found.latency_drift
        truth = session.truth(heat.recipe)
        external = found.throttle_share(EventClass.EXTERNAL)
    assert 0.3 < truth < 0.9
    assert heat.value == pytest.approx(truth, abs=heat.expanded + 1e-9)
    assert drift.value == pytest.approx(1 / 0.6 - 1, rel=0.1)
    assert drift.interval[0] > 0.3
    assert external.value == 0


def test_a_clean_load_is_silent(tmp_path):
    """No heat, no drift, no stall, no refusal."""
    with twin(tmp_path, "a100") as session:
        gpu = session.rig.gpu
        found = sustain(gpu, session, calls_of(gpu.device, TwinLoad(intensity=0.3, clock_sensitivity=0.0)), length_s=60.0, name="load")
        numbers = [found.throttle_share(c).value for c in (EventClass.THERMAL, EventClass.POWER)]
        assert numbers == [0.0, 0.0]
        assert found.latency_drift.value == pytest.approx(0.0, abs=1e-6)
        assert found.longest_stall.value < 1.0
        assert not refusing(found.latency_drift)
        assert found.ended_early == ""
        with pytest.raises(ChannelUnavailableError, match="power cap held the clock during 0 readings"):
            _ = found.power_at_cap


def test_a_stall_is_found_and_the_watchdog_ends_the_load(tmp_path):
    """A device that says busy at idle power: the load ends after the watchdog's time, not after an hour."""
    with twin(tmp_path, "a100") as session:
        gpu = session.rig.gpu
        hung = TwinLoad(utilisation_ratio=1.0, intensity=0.001)
        found = sustain(gpu, session, calls_of(gpu.device, hung), length_s=3600.0, name="load")
        assert found.longest_stall.value > 8.0
        assert "the metered device worked" in refusing(found.longest_stall)
    assert found.ended_early.startswith("stall watchdog: busy at idle power for 10 s")
    assert 10 <= (found.window.t1_ns - found.window.t0_ns) / 1e9 < 30
    assert found.window.labels["ended"] == found.ended_early
    assert verify_run(session.path).findings == ()


def test_work_on_another_device_is_refused(tmp_path):
    """Time passes and the metered card idles: every number of the window says so."""
    with twin(tmp_path, "a100") as session:
        gpu = session.rig.gpu
        found = sustain(gpu, session, lambda: gpu.sleep(0.5), length_s=30.0, name="load")
        gates = found.latency_drift.gates
    (gate,) = [gate for gate in gates if gate.name == "the metered device worked"]
    assert gate.refuses
    assert "another device did the work" in gate.reason


def test_calls_that_do_not_move_the_clock_end_the_load(tmp_path):
    """Real work measured on a virtual clock would run for ever."""
    with twin(tmp_path, "ideal") as session:
        with pytest.raises(InvalidMeasurement, match="'load' took no time on the clock of 'gpu': its calls do not run on that device"):
            sustain(session.rig.gpu, session, lambda: None, length_s=30.0, name="load")
        assert [w.labels["ended"] for w in session.rig.gpu.windows.values()] == ["the clock stands still"]


def test_too_few_calls_have_no_drift(tmp_path):
    """A call longer than a third of the load: refused with the number needed."""
    with twin(tmp_path, "a100") as session:
        gpu = session.rig.gpu
        found = sustain(gpu, session, calls_of(gpu.device, TwinLoad(intensity=0.5), 20.0), length_s=60.0, name="load")
        (gate,) = [gate for gate in found.latency_drift.gates if gate.name == "calls under load"]
    assert gate.refuses
    assert gate.measured < gate.limit == 12.0


# --- bad input -------------------------------------------------------------------------------------------------------


def test_a_decode_that_cannot_last_is_left_out_with_its_reason(tmp_path):
    """GPT-2 124M decodes its 1,024 positions in less than a second: the arm says that its model is too small."""
    with twin(tmp_path) as session:
        gpu = session.rig.gpu
        matrix = run_stress_matrix(gpu, session, TwinLanguageModel(gpu.device), batches=(1,))
        assert "do not fit into the model's 1024 positions" in matrix.left_out[Arm(context=128, batch=1)]
        with pytest.raises(InvalidMeasurement, match="no arm of the matrix was measured"):
            _ = matrix.shortest_decode
        with pytest.raises(InvalidMeasurement, match="nothing can be sustained"):
            run_sustained(gpu, session, TwinLanguageModel(gpu.device), matrix, "decode")
    assert verify_run(session.path).findings == ()


def test_memory_that_lies_in_the_host_is_not_the_device(tmp_path):
    """The laptop's driver spills without a word; the arm is left out all the same."""
    with twin(tmp_path) as session:
        matrix = run_stress_matrix(session.rig.gpu, session, stress_model_for(session.rig.gpu.device), contexts=(512,), batches=(64,))
    assert "lies in the host's memory" in matrix.left_out[Arm(context=512, batch=64)]


class Hasty:
    """A decode that returns before the device has done anything, so that more tokens do not take longer."""

    def __init__(self, clock):
        self.clock = clock

    def warm_up(self):
        """Nothing."""

    def prepare(self, batch, context):
        """Nothing."""

    def prefill(self, batch, tokens):
        """A millisecond."""
        self.clock.sleep_until_ns(self.clock.now_ns() + 1_000_000)

    def decode(self, batch, tokens):
        """A millisecond, whatever was asked for."""
        self.prefill(batch, tokens)


def test_a_decode_whose_time_does_not_grow_is_refused(tmp_path):
    """Three tries, and then it says what is wrong."""
    with twin(tmp_path, "ideal") as session:
        matrix = run_stress_matrix(session.rig.gpu, session, Hasty(session.rig.gpu.clock), batches=(1,))
    assert "decode too short: it lasted 0.001 s" in matrix.left_out[Arm(context=128, batch=1)]


def test_a_workload_of_unknown_size_has_no_place_under_the_roof(tmp_path):
    """Its operations are not known, and nobody guesses them."""
    with pytest.raises(ChannelUnavailableError, match="operations and bytes of a Hasty are not known"):
        traffic_of(Hasty(None), "decode", batch=1, context=8, tokens=8)


# --- ramps -----------------------------------------------------------------------------------------------------------


def test_a_card_that_slows_early_shows_the_drivers_loop(tmp_path):
    """Known answer: the twin's driver slows at 65 °C and recovers below 63 °C; the loop holds it, and its area is positive."""
    with twin(tmp_path, overrides={"card.slowdown_c": 65.0}) as session:
        loop = run_thermal_hysteresis(session.rig.gpu, session, steady_load_for(session.rig.gpu.device))
        width, height, area = loop.width, loop.height, loop.area
        truths = [session.truth(estimate.recipe) for estimate in (width, height, area)]
    assert truths[0] == pytest.approx(2.0, abs=0.4)
    assert abs(width.value - truths[0]) <= width.expanded
    assert height.interval[0] > 0
    assert area.value == pytest.approx(truths[2], rel=0.1)
    assert verify_run(session.path).findings == ()


class Switched:
    """A load without shares."""

    def __init__(self, device):
        self.kernel = steady_load_for(device)

    def warm_up(self):
        """As the kernel."""
        self.kernel.warm_up()

    def run_for(self, duration_s):
        """As the kernel."""
        return self.kernel.run_for(duration_s)


def test_a_load_without_shares_is_switched(tmp_path):
    """The same loop with a load that only knows on and off; its idle slices do not count."""
    with twin(tmp_path, overrides={"card.slowdown_c": 60.0}, ramp_cycles=2, ramp_s=80.0) as session:
        loop = run_thermal_hysteresis(session.rig.gpu, session, Switched(session.rig.gpu.device))
        assert loop.width.value == pytest.approx(2.0, abs=1.5)


def test_without_event_reasons_the_ramp_is_not_tested(tmp_path):
    """The reason is recorded for the table of answers, and nothing ran."""
    with twin(tmp_path, faults=[{"kind": "channel_absent", "value": "event_reasons"}]) as session:
        with pytest.raises(ChannelUnavailableError, match="cannot read 'event_reasons'"):
            run_thermal_hysteresis(session.rig.gpu, session, steady_load_for(session.rig.gpu.device))
        assert session.rig.gpu.windows == {}
    row = next(row for row in answers(RecordedRun(session.path)).rows if row[0].startswith("E"))
    assert row[2] == "not tested"
    assert "event_reasons" in row[3]


# --- a host ----------------------------------------------------------------------------------------------------------


def test_on_a_host_time_is_measured_and_sleep_is_not_work(tmp_path):
    """The same code on the real clock; a call that only sleeps kept no processor busy, and is refused for it."""
    settings = load_settings(tmp_path, overrides={"device": "cpu"})
    with Session.start(settings, directory=tmp_path) as session:
        cpu = session.rig.cpu
        found = sustain(cpu, session, lambda: cpu.sleep(0.02), length_s=0.6, name="load")
        with pytest.raises(ChannelUnavailableError, match="reports no event reasons"):
            found.throttle_share(EventClass.THERMAL)
        drift = found.latency_drift
    assert abs(drift.value) < 0.5
    assert drift.components
    assert "the metered device worked" in refusing(drift)
    assert verify_run(session.path).findings == ()


@pytest.mark.parametrize("length_s", [0.0, -1.0, float("nan")])
def test_a_load_of_no_length_is_an_error(tmp_path, length_s):
    """Said before anything runs."""
    with twin(tmp_path, "ideal") as session, pytest.raises(ConfigurationError, match="'length_s' must be > 0"):
        sustain(session.rig.gpu, session, lambda: None, length_s=length_s, name="load")


def test_traffic_is_that_of_the_twins_own_costs(tmp_path):
    """Two derivations of operations and bytes agree."""
    with twin(tmp_path) as session:
        model = TwinLanguageModel(session.rig.gpu.device, shape=ModelShape())
        for phase, cost in (("prefill", model.prefill_cost(4, 128)), ("decode", model.decode_cost(4, 32, context=128))):
            found = traffic_of(model, phase, batch=4, context=128, tokens=32)
            assert (found.flop, found.memory_bytes) == pytest.approx((cost.flop, cost.memory_bytes))
    assert np.isfinite(found.flop)
