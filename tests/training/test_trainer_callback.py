"""``PhysicsTrainerCallback``: energy of steps in a training's logs, known late and never waited for."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace

import pytest

from pytest_physics.config import load_settings
from pytest_physics.record.reader import RunReader
from pytest_physics.record.verify import verify_run
from pytest_physics.session import Session, open_sessions
from pytest_physics.workloads.twin import TwinKernel

pytest.importorskip("transformers")

from pytest_physics import PhysicsTrainerCallback

STEP_S = 0.5
EVERY = 4
"""Steps between logs: two seconds, and the twin's sensor speaks after less than one."""


@pytest.fixture
def session(tmp_path):
    """A run on a twin, without waiting."""
    settings = load_settings(tmp_path, overrides={"device": "twin:rtx4080-laptop", "baseline": {"settle_s": 0.5, "duration_s": 11.0}})
    with Session.start(settings, directory=tmp_path) as session:
        yield session


class Training:
    """The events of a ``Trainer``, in its order, on a twin."""

    def __init__(self, callback, gpu, *, primary=True):
        self.callback, self.gpu = callback, gpu
        self.kernel = TwinKernel(gpu.device)
        self.state = SimpleNamespace(global_step=0, log_history=[], is_world_process_zero=primary)
        self.control = SimpleNamespace(should_log=False, should_evaluate=False, should_save=False, should_training_stop=False)
        self.waited_ns = 0
        """Virtual time that passed inside of ``on_log``."""

    def call(self, event, **arguments):
        getattr(self.callback, event)(None, self.state, self.control, **arguments)

    def begin(self):
        self.call("on_train_begin", model=None)

    def step(self, *, evaluate=False):
        self.call("on_step_begin")
        self.kernel.run_for(STEP_S)
        self.state.global_step += 1
        self.control.should_log = self.state.global_step % EVERY == 0
        self.control.should_evaluate = evaluate
        self.call("on_step_end")
        logs = {}
        if self.control.should_log:
            logs = self.log({"loss": 1.0})
        if evaluate:
            self.gpu.sleep(30.0)
        return logs

    def log(self, logs):
        self.state.log_history.append({**logs, "step": self.state.global_step})
        before_ns = self.gpu.clock.now_ns()
        self.call("on_log", logs=logs)
        self.waited_ns += self.gpu.clock.now_ns() - before_ns
        return logs

    def end(self):
        logs = self.log({"train_runtime": 1.0})
        self.call("on_train_end")
        return logs


def trained(callback, gpu, *, logs=4, **options):
    training = Training(callback, gpu, **options)
    training.begin()
    lines = [training.step() for _ in range(logs * EVERY)]
    return training, [line for line in lines if line]


def test_no_step_waits_for_the_sensor(session):
    """The first log knows nothing yet; later ones carry the newest window that is known, and say which. No time passes in them."""
    training, logs = trained(PhysicsTrainerCallback(session.rig.gpu), session.rig.gpu)
    assert training.waited_ns == 0
    assert logs[0] == {"loss": 1.0}
    assert [line["energy_until_step"] for line in logs[1:]] == [4, 8, 12]
    assert set(logs[1]) == {
        "loss", "time_per_step_s", "energy_per_step_j", "energy_expanded_uncertainty_j", "power_w", "energy_quality", "energy_tier",
        "energy_until_step",
    }  # fmt: skip
    training.end()


def test_every_number_is_recomputed_and_true(session):
    """Energy per step covers the twin's truth; quality and tier agree; the run verifies, with all numbers in its results."""
    callback = PhysicsTrainerCallback(session.rig.gpu)
    training, _ = trained(callback, session.rig.gpu)
    training.end()
    assert [(found.until_step, found.steps) for found in callback.known] == [(4, 4), (8, 4), (12, 4), (16, 4)]
    for found in callback.known:
        gross = found.energy_per_step.gross
        truth = session.truth(gross.recipe)
        assert gross.value == pytest.approx(truth, abs=gross.expanded)
        assert found.log()["energy_tier"] == int(gross.quality) > 0
        assert found.log()["energy_quality"] == gross.quality.name
        assert found.power.value == pytest.approx(gross.value / found.time_per_step.value)
    session.finish()
    assert verify_run(session.path).findings == ()
    quantities = [result.quantity for result in RunReader(session.path).results]
    assert quantities.count("energy per step") == quantities.count("mean power") == quantities.count("time per step") == 4


def test_the_history_has_each_number_at_its_own_step(session):
    """Once known, it stands beside the loss of its step; the last log waits for what is missing and adds the whole."""
    training, _ = trained(PhysicsTrainerCallback(session.rig.gpu), session.rig.gpu)
    last = training.end()
    assert training.waited_ns > 0
    steps = [entry for entry in training.state.log_history if "loss" in entry]
    assert [entry["energy_until_step"] for entry in steps] == [entry["step"] for entry in steps] == [4, 8, 12, 16]
    assert last["train_energy_j"] == training.state.log_history[-1]["train_energy_j"]
    assert last["train_energy_j"] == pytest.approx(sum(4 * entry["energy_per_step_j"] for entry in steps), rel=0.05)
    assert last["train_energy_quality"] in {"GOOD", "BILLABLE"}


def test_net_energy_stands_there_where_the_idle_power_is_known(session):
    """With ``idle_baseline`` it is measured before the first step; without, there is no such entry."""
    training, logs = trained(PhysicsTrainerCallback(session.rig.gpu, idle_baseline=True), session.rig.gpu, logs=2)
    training.end()
    assert 0 < logs[1]["net_energy_per_step_j"] < logs[1]["energy_per_step_j"]
    assert session.rig.gpu.baselines[0].t1_ns <= next(iter(session.rig.gpu.windows.values())).t0_ns


def test_evaluation_is_not_in_the_energy_of_steps(session):
    """A window ends with its last step: 30 s of something else between two steps change nothing, where the log comes later too."""
    callback = PhysicsTrainerCallback(session.rig.gpu)
    training = Training(callback, session.rig.gpu)
    training.begin()
    for step in range(1, 9):
        training.step(evaluate=step == 2)
    training.end()
    assert [(found.until_step, found.steps) for found in callback.known] == [(2, 2), (4, 2), (8, 4)]
    for found in callback.known:
        assert found.time_per_step.value == pytest.approx(STEP_S, rel=0.1)


def test_only_the_first_process_measures(session):
    """Another rank opens nothing and adds nothing."""
    training, logs = trained(PhysicsTrainerCallback(session.rig.gpu), session.rig.gpu, logs=1, primary=False)
    assert logs == [{"loss": 1.0}]
    assert training.end() == {"train_runtime": 1.0}
    assert session.rig.gpu.windows == {}


def test_a_run_in_progress_is_found(session):
    """Without an instrument the callback uses the open run, and leaves it open."""
    callback = PhysicsTrainerCallback()
    training, _ = trained(callback, session.rig.gpu, logs=1)
    training.end()
    assert callback.run == session.path
    assert session in open_sessions()
    assert [phase.name for phase in session.rig.gpu.phases] == ["training"]


def test_finished_runs_are_not_found(tmp_path):
    """Neither one that ended nor one that could not start."""
    before = open_sessions()
    session = Session.start(load_settings(tmp_path, overrides={"device": "twin:ideal"}), directory=tmp_path)
    assert open_sessions() == (*before, session)
    session.finish()
    assert open_sessions() == before


def test_a_failed_measurement_does_not_end_the_training(session, monkeypatch, caplog):
    """It is said in the log, and training goes on."""
    from pytest_physics.errors import InvalidMeasurement

    def refuse(*_, **__):
        raise InvalidMeasurement("the sampler is suspended")

    callback = PhysicsTrainerCallback(session.rig.gpu)
    monkeypatch.setattr("pytest_physics.trainer_callback._energy", refuse)
    with caplog.at_level(logging.WARNING, "pytest_physics.trainer_callback"):
        training, logs = trained(callback, session.rig.gpu, logs=3)
        training.end()
    assert logs == [{"loss": 1.0}] * 3
    assert "the energy of steps could not be computed: the sampler is suspended" in caplog.text


def test_steps_too_short_for_the_sensor_have_no_number(session):
    """NO_DATA with tier 0, and no NaN that would look like a failed training."""
    gpu = session.rig.gpu
    callback = PhysicsTrainerCallback(gpu)
    training = Training(callback, gpu)
    training.begin()
    training.call("on_step_begin")
    training.kernel.run_for(0.02)
    training.state.global_step = 1
    training.control.should_log = True
    training.call("on_step_end")
    training.log({"loss": 1.0})
    training.end()
    entry = training.state.log_history[0]
    assert (entry["energy_quality"], entry["energy_tier"]) == ("NO_DATA", 0)
    assert all(math.isfinite(value) for value in entry.values() if isinstance(value, float))


def test_a_failed_gate_is_named(session):
    """A quality says nothing of a card that was throttled: its gate is in the log."""
    gpu = session.rig.gpu
    callback = PhysicsTrainerCallback(gpu)
    training, _ = trained(callback, gpu, logs=1)
    training.end()
    from dataclasses import replace

    from pytest_physics.metrology.uncertainty import Gate

    found = callback.known[0]
    gate = Gate(name="thermal throttling", scope="x", measured=1.0, limit=0.0, unit="1", passed=False, reason="hot", remedy="cool")
    assert "energy_gates_failed" not in found.log()
    gross = replace(found.energy_per_step.gross, gates=(gate,))
    worse = replace(found, energy_per_step=replace(found.energy_per_step, gross=gross))
    assert worse.log()["energy_gates_failed"] == "thermal throttling"


# --- a real Trainer -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny():
    """A model, its data, and a Trainer of 12 steps on the CPU."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64, bos_token_id=0, eos_token_id=0, loss_type="ForCausalLM")
    rows = [torch.randint(0, 64, (16,)) for _ in range(32)]

    def train(directory, *callbacks):
        arguments = TrainingArguments(
            output_dir=str(directory / "out"), max_steps=12, logging_steps=4, per_device_train_batch_size=2, report_to=[], use_cpu=True,
            disable_tqdm=True, save_strategy="no", dataloader_pin_memory=False,
        )  # fmt: skip
        data = [{"input_ids": row, "labels": row} for row in rows]
        trainer = Trainer(model=GPT2LMHeadModel(config), args=arguments, train_dataset=data, callbacks=list(callbacks))
        trainer.train()
        return trainer.state.log_history

    return train


def test_a_real_training_on_a_rig_without_power(tiny, tmp_path, caplog):
    """A run of its own with a report; time per step in every log, and why there is no energy."""
    callback = PhysicsTrainerCallback(device="cpu", directory=tmp_path)
    with caplog.at_level(logging.WARNING, "pytest_physics.trainer_callback"):
        history = tiny(tmp_path, callback)
    steps = [entry for entry in history if "loss" in entry]
    assert [entry["step"] for entry in steps] == [4, 8, 12]
    assert all(entry["time_per_step_s"] > 0 for entry in steps)
    if callback.why_no_energy:
        assert {(entry["energy_quality"], entry["energy_tier"]) for entry in steps} == {("NO_DATA", 0)}
        assert history[-1]["train_no_energy_because"].startswith("instrument 'cpu' cannot read 'energy_j': ")
        assert caplog.text.count("the training's logs have no energy: instrument 'cpu' cannot read 'energy_j'") == 1
    assert callback.run.parent == tmp_path / "runs"
    assert (callback.run / "report.html").exists()
    assert verify_run(callback.run).passed
    assert callback.run not in {session.path for session in open_sessions()}


def test_a_real_training_on_a_metered_rig(tiny, session, tmp_path):
    """The Trainer's own events in the Trainer's own order, while a twin is under load."""
    from transformers import TrainerCallback

    kernel = TwinKernel(session.rig.gpu.device)

    class Load(TrainerCallback):
        def on_step_begin(self, *_, **__):
            kernel.run_for(STEP_S)

    history = tiny(tmp_path, PhysicsTrainerCallback(session.rig.gpu), Load())
    steps = [entry for entry in history if "loss" in entry]
    assert [entry["energy_until_step"] for entry in steps] == [4, 8, 12]
    assert all(entry["time_per_step_s"] == pytest.approx(STEP_S, rel=0.1) for entry in steps)
    assert history[-1]["train_energy_j"] > 0


def test_a_training_that_crashed_leaves_a_readable_run(tiny, tmp_path):
    """What was closed is recorded; the next training of the same callback ends the earlier run first."""
    from transformers import TrainerCallback

    class Crash(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 6:
                raise RuntimeError("out of data")

    callback = PhysicsTrainerCallback(device="cpu", directory=tmp_path)
    with pytest.raises(RuntimeError, match="out of data"):
        tiny(tmp_path, callback, Crash())
    first = callback.run
    assert verify_run(first).incomplete
    tiny(tmp_path, callback)
    assert callback.run != first
    assert RunReader(first).run.end_reason == "a training before this one did not end"
    assert [window.work for window in RunReader(first).windows] == [{"steps": 4}]
