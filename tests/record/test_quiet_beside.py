"""Work outside of any window, beside one: planted on twins, it makes that window's energy INVALID; without it nothing is said."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from numpy.lib import recfunctions

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.twin import TwinLoad
from pytest_physics.errors import RecordError
from pytest_physics.metrology.beside import NAME
from pytest_physics.metrology.uncertainty import Recipe
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.recipes import evaluate
from pytest_physics.record.verify import verify_run
from pytest_physics.sampling.trace import Trace
from pytest_physics.session import Plan, Session
from pytest_physics.workloads.twin import TwinKernel

PLANTED = {
    "nothing": (0.0, 0.0), "before": (1.0, 0.0), "after": (0.0, 1.0), "both": (1.0, 1.0), "shortly before": (0.25, 0.0),
    "shortly after": (0.0, 0.4), "nothing again": (0.0, 0.0),
}  # fmt: skip
"""Seconds of load before and after each window."""
PRESETS = ("rtx4080-laptop", "a100", "rtx3090", "v100", "k40")
SHORT = {"baseline": {"settle_s": 1.0, "duration_s": 12.0}}


@contextlib.contextmanager
def twin(directory, preset, *, seed=5, faults=()):
    """A session on a twin."""
    parameters = {"preset": preset, "seed": seed, "faults": list(faults)}
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters=parameters)})
    session = Session.start(load_settings(directory, overrides=SHORT), plan, directory=directory)
    try:
        yield session
    finally:
        session.finish()


def work(gpu, seconds, share=0.3):
    """A load outside of any window."""
    if seconds:
        TwinKernel(gpu.device, load=TwinLoad(intensity=share, utilisation_ratio=2 * share)).run_for(seconds)


def event(gpu, before=0.0, after=0.0, *, share=0.3, length=0.8):
    """A window, with work planted around it."""
    gpu.sleep(2.0)
    work(gpu, before, share)
    with gpu.window("event") as window:
        TwinKernel(gpu.device, load=TwinLoad(intensity=0.6)).run_for(length)
    work(gpu, after, share)
    gpu.sleep(2.0)
    return window


@pytest.fixture(scope="module", params=PRESETS)
def planted(request, tmp_path_factory):
    """A finished run with one window for each way of planting, by name."""
    with twin(tmp_path_factory.mktemp(request.param), request.param) as session:
        gpu = session.rig.gpu
        gpu.baseline()
        event(gpu)  # shows the card awake and idle
        windows = {name: event(gpu, *around) for name, around in PLANTED.items()}
        for window in windows.values():
            session.result("x", "energy", window.energy.gross)
    return RecordedRun(session.path), {name: window.id for name, window in windows.items()}


class Changed(RecordedRun):
    """A run whose utilisation is something else."""

    def __init__(self, path, utilisation):
        super().__init__(path)
        self._utilisation = utilisation

    def trace(self, instrument):
        rows = np.array(super().trace(instrument).rows)
        if self._utilisation is None:
            rows = recfunctions.drop_fields(rows, "utilisation_ratio", usemask=False)
        else:
            rows["utilisation_ratio"] = self._utilisation
        return Trace(instrument=instrument, rows=rows, period_ns=self.instrument(instrument).period_ns)


def quiet(run, window, **parameters):
    """The gate of one window's gross energy."""
    sensor = run.reader.sensors[-1].id
    named = {"window": window, "baselines": ["gpu-b1"], "sensor": sensor, "kind": "gross", "rules": 2, **parameters}
    (gate,) = [gate for gate in evaluate(Recipe(op="window.energy", parameters=named), run).gates if gate.name == NAME]
    return gate


def estimators(run):
    """What the energy can be taken from."""
    return ["power", "counter"] if "energy_j" in run.trace("gpu").channels else ["power"]


@pytest.mark.parametrize("utilisation", ["read", None, 0.0, 1.0], ids=["read", "absent", "latched idle", "latched busy"])
def test_planted_work_is_seen_whatever_utilisation_tells(planted, utilisation):
    """Before, after, on both sides; by power and by the counter; with utilisation read, absent, and hung at either end."""
    run, windows = planted
    seen = run if utilisation == "read" else Changed(run.reader.path, utilisation)
    for estimator in estimators(run):
        for name, window in windows.items():
            gate = quiet(seen, window, estimator=estimator)
            assert gate.refuses == (not name.startswith("nothing")), (name, estimator, gate.reason)
            assert gate.passed == name.startswith("nothing")


def test_the_message_says_where_how_much_and_what_to_do(planted):
    """Side, measured power, limit, and synchronising as the remedy."""
    run, windows = planted
    gate = quiet(run, windows["after"])
    assert gate.reason.startswith("after the window the device drew ")
    assert f"(limit {gate.limit:.4g} W" in gate.reason
    assert "torch.cuda.synchronize" in gate.remedy


def test_the_run_verifies(planted):
    """Live and recorded gates are the same."""
    run, _ = planted
    assert verify_run(run.reader.path).findings == ()


def test_a_recipe_of_before_has_no_such_gate(planted):
    """Runs that were recorded under the first rules verify as they are."""
    run, windows = planted
    named = {"window": windows["after"], "baselines": ["gpu-b1"], "sensor": run.reader.sensors[-1].id, "kind": "gross"}
    assert not [gate for gate in evaluate(Recipe(op="window.energy", parameters=named), run).gates if gate.name == NAME]


@pytest.mark.parametrize("rules", [0, 3, 2.5, "2"])
def test_rules_that_nobody_knows_are_refused(planted, rules):
    """A recipe of a later version is not computed by today's rules."""
    run, windows = planted
    with pytest.raises(RecordError, match="unknown rules"):
        quiet(run, windows["after"], rules=rules)


@pytest.mark.parametrize("preset", ["rtx4080-laptop", "a100", "k40"])
def test_known_work_beside_is_no_alarm(tmp_path, preset):
    """Back to back windows, nested ones, a window inside a longer one, and rests of one tail say nothing."""
    with twin(tmp_path, preset, seed=8) as session:
        gpu = session.rig.gpu
        gpu.baseline()
        found = [event(gpu)]
        for _ in range(3):
            with gpu.window("back to back") as window:
                work(gpu, 0.5, 0.5)
            found.append(window)
        gpu.sleep(2.0)
        with gpu.window("outer") as outer:
            work(gpu, 1.0)
            with gpu.window("inner") as inner:
                work(gpu, 0.7, 0.5)
            work(gpu, 1.0)
        found += [outer, inner]
        for _ in range(5):
            gpu.sleep(gpu.tail_ns / 1e9)
            with gpu.window("in a rhythm") as window:
                work(gpu, 0.3, 0.5)
            found.append(window)
        gpu.sleep(2.0)
        gates = [gate for window in found for gate in window.energy.net.gates if gate.name == NAME]
    assert gates
    assert not [gate.reason for gate in gates if gate.refuses]


@pytest.mark.parametrize("preset", ["rtx3090", "a100"])
def test_a_hot_card_that_leaks_is_no_alarm(tmp_path, preset):
    """After minutes under load a card draws more idle power than when its baseline was measured, less and less of it."""
    with twin(tmp_path, preset, seed=9) as session:
        gpu = session.rig.gpu
        gpu.baseline()
        event(gpu)
        with gpu.window("soak"):
            work(gpu, 400.0, 0.5)
        gates = [gate for _ in range(6) for gate in event(gpu).energy.net.gates if gate.name == NAME]
    assert len(gates) == 6
    assert all(gate.passed for gate in gates), [gate.reason for gate in gates]


def test_a_state_in_which_nobody_saw_it_idle_is_said(tmp_path):
    """Woken from deep idle, without utilisation: nothing bounds the level after the window, and the gate warns."""
    fault = {"kind": "channel_absent", "value": "utilisation_ratio"}
    with twin(tmp_path, "rtx3090", faults=[fault]) as session:
        gpu = session.rig.gpu
        gpu.baseline()
        (gate,) = [gate for gate in event(gpu).energy.gross.gates if gate.name == NAME]
    assert gate.warning
    assert not gate.passed
    assert "not checked: after the window" in gate.reason


def test_a_foreign_process_that_works_makes_the_window_invalid(tmp_path):
    """The planted stranger is named with its share; windows without it pass; the run verifies."""
    fault = {"kind": "foreign_process", "start_s": 200.0, "stop_s": 220.0, "value": 0.3}
    with twin(tmp_path, "a100", faults=[fault]) as session:
        gpu = session.rig.gpu
        gpu.baseline()
        clean = event(gpu)
        gpu.clock.sleep_until_ns(gpu.device._origin_ns + 205_000_000_000)
        shared = event(gpu)
        gates = {w.id: [g for g in w.energy.gross.gates if g.name == "foreign work"] for w in (clean, shared)}
        session.result("x", "energy", shared.energy.gross)
    assert gates[clean.id][0].passed
    assert gates[shared.id][0].refuses
    assert "process 4242 (stranger), which is not this run's, used 30% of the device" in gates[shared.id][0].reason
    assert verify_run(session.path).findings == ()


@pytest.mark.parametrize(("share", "refused"), [(0.0, False), (0.3, True)])
def test_a_load_in_the_background_spoils_repetitions(tmp_path, share, refused):
    """Batches at phases of a sensor that looks away rest on the same idle beside them."""
    with twin(tmp_path, "a100", faults=[{"kind": "channel_absent", "value": "energy_j"}]) as session:
        gpu = session.rig.gpu
        gpu.baseline()
        gpu.sleep(1.0)
        background = TwinLoad(intensity=share, utilisation_ratio=share)
        if share:
            gpu.device.set_load(background)
        load = TwinLoad(intensity=0.8)
        energy = gpu.repeat(lambda: TwinKernel(gpu.device, load=load).run_for(0.02), target=0.05, budget_s=20.0).energy.gross
        gates = [gate for gate in energy.gates if gate.name == NAME]
    assert energy.recipe.op == "repetition.phase_average"
    assert gates
    assert any(gate.refuses for gate in gates) == refused, [gate.reason for gate in gates]
