"""Energy of a training in its own logs: a callback for ``transformers.Trainer``.

The steps between two logs are one window, from the begin of the first to the end of the last; evaluation and saving lie outside. The
sensor speaks of a window only a while after its end, and no step waits for it: each log carries the newest window that is known by then
(``energy_until_step`` says which), and ``trainer.state.log_history`` gets every number at its own step once it is known. The last log
of the training waits for what is missing, and adds the energy of the whole, evaluations between the steps included.

Where the rig has no power, logs carry the time per step, and the last one says why there is no energy. With a run in progress, such as
``pytest --physics``, its instruments and its directory are used; otherwise the callback opens a run of its own and finishes it, with
report, at the end of the training. A training that crashes leaves that run incomplete and readable.

Assumes one process that trains: in a distributed training rank 0 measures its own device only. What cannot be measured is said in the
log of this module and never ends the training.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_physics.config import load_settings
from pytest_physics.errors import InvalidMeasurement, PhysicsError
from pytest_physics.instrument import Energy, Instrument, Window
from pytest_physics.metrology.uncertainty import Estimate
from pytest_physics.session import Session, open_sessions
from pytest_physics.workloads.trainer import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

EXPERIMENT = "training"
"""Under this name the numbers stand in the run's results."""

_LOG = logging.getLogger(__name__)

Log = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnergy:
    """What is known of the steps up to one log."""

    until_step: int
    steps: int
    time_per_step: Estimate
    energy_per_step: Energy | None
    """None where the rig cannot measure energy."""
    power: Estimate | None

    def log(self) -> Log:
        """Entries for the training's log: finite numbers and short words, for a NaN in a log is taken for a failed training."""
        return {key: value for key, value in self._entries().items() if not isinstance(value, float) or math.isfinite(value)}

    def _entries(self) -> Log:
        found: Log = {"time_per_step_s": self.time_per_step.value}
        if self.energy_per_step is None or self.power is None:
            return found | {"energy_quality": "NO_DATA", "energy_tier": 0}
        gross, net = self.energy_per_step.gross, self.energy_per_step.net
        found |= {"energy_per_step_j": gross.value, "energy_expanded_uncertainty_j": gross.expanded, "power_w": self.power.value}
        if net.quality:
            found["net_energy_per_step_j"] = net.value
        found |= {"energy_quality": gross.quality.name, "energy_tier": int(gross.quality), "energy_until_step": self.until_step}
        failed = sorted({gate.name for gate in gross.gates if gate.refuses})
        return found | ({"energy_gates_failed": ", ".join(failed)} if failed else {})


class PhysicsTrainerCallback(TrainerCallback):
    """Adds J/step, power, quality and tier to the logs of a training: ``Trainer(..., callbacks=[PhysicsTrainerCallback()])``.

    Parameters
    ----------
    instrument
        What to measure, such as ``rig.gpu``; default: the GPU where the model is on one, else the CPU, of the run in progress or of one
        that the callback opens.
    device
        Device of a run of its own: ``nvml:1``, ``cpu``; default: where the model is.
    idle_baseline
        Measure the idle power before the first step, which takes some seconds; without it, or one that the run has already, there is
        no net energy.
    directory
        Where a run of its own looks for its configuration and puts ``runs/``; default: the current directory.
    """

    def __init__(
        self,
        instrument: Instrument | None = None,
        *,
        device: str | None = None,
        idle_baseline: bool = False,
        directory: Path | None = None,
    ) -> None:
        self.known: list[StepEnergy] = []
        """Everything known so far, in the order of steps."""
        self.why_no_energy = ""
        """Why this rig cannot measure energy; empty where it can."""
        self.run: Path | None = None
        """Directory of the run that the numbers stand in."""
        self._given = instrument
        self._device = device
        self._idle_baseline = idle_baseline
        self._directory = directory
        self._instrument: Instrument | None = None
        self._own: Session | None = None
        self._phase = ExitStack()
        self._open: Window | None = None
        self._whole: Window | None = None
        self._steps = 0
        """Steps in the open window."""
        self._all_steps = 0
        self._waiting: deque[tuple[int, Window]] = deque()
        """Windows the sensor has not spoken of, with their last steps."""

    # --- events of the training --------------------------------------------------------------------------------------

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        model: Any = None,  # noqa: ANN401 -- any model
        **_: Any,  # noqa: ANN401
    ) -> None:
        """Open what measures, before the first step."""
        self._close("a training before this one did not end")
        if not state.is_world_process_zero:
            return
        instrument = self._given or self._find_instrument(model)
        self.run = getattr(instrument.journal, "path", None)
        self.known, self._all_steps = [], 0
        self.why_no_energy = _why_no_energy(instrument)
        if self.why_no_energy:
            _LOG.warning("the training's logs have no energy: %s", self.why_no_energy)
        elif self._idle_baseline and instrument.has("power_w"):
            instrument.baseline()
        self._phase.enter_context(instrument.phase(EXPERIMENT))
        self._instrument = instrument

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Open a window where none is."""
        if self._instrument is None or self._open is not None:
            return
        if self._whole is None:
            self._whole = self._instrument.window("training").__enter__()
        labels = {"first_step": state.global_step + 1}
        self._open = self._instrument.window("training steps", labels=labels).__enter__()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Close the window before anything but training comes next."""
        self._steps += self._open is not None
        if control.should_log or control.should_evaluate or control.should_save or control.should_training_stop:
            self._end_window(state.global_step)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401, ARG002
        """The same where an epoch ends in a log, an evaluation or a checkpoint."""
        if control.should_log or control.should_evaluate or control.should_save:
            self._end_window(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: Log | None = None,
        **_: Any,  # noqa: ANN401
    ) -> None:
        """Add what is known by now; the training's last log waits for the rest."""
        if self._instrument is None or logs is None:
            return
        last = "train_runtime" in logs
        with _said("the energy of steps could not be computed"):
            if last:
                self._end_window(state.global_step)
            fresh = list(self._newly_known(wait=last))
            for found in fresh:
                _amend_history(state, found)
            if fresh and not last:
                logs.update(fresh[-1].log())
            if last:
                summary = self._summary()
                logs.update(summary)
                state.log_history[-1].update(summary)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Finish a run of its own, with its report."""
        self._close("finished")

    # --- what measures -----------------------------------------------------------------------------------------------

    def _find_instrument(self, model: Any) -> Instrument:  # noqa: ANN401
        """The instrument of the run in progress that the model is on, or of a run of its own."""
        on_gpu = getattr(getattr(model, "device", None), "type", "cpu") == "cuda"
        wanted = "gpu" if on_gpu else "cpu"
        running = open_sessions()
        session = running[-1] if running and self._device is None else self._own_session(self._device or ("nvml" if on_gpu else "cpu"))
        if wanted in session.rig:
            return session.rig[wanted]
        return next(iter(session.instruments.values()))

    def _own_session(self, device: str) -> Session:
        root = self._directory or Path.cwd()
        self._own = Session.start(load_settings(root, overrides={"device": device}), command=["PhysicsTrainerCallback"], directory=root)
        return self._own

    def _close(self, reason: str) -> None:
        """End the phase, and a run of its own."""
        self._open = self._whole = self._instrument = None
        self._waiting.clear()
        with _said("the run of this training could not be completed"):
            self._phase.close()
            own, self._own = self._own, None
            if own is not None:
                own.finish(reason, publish=_report())
                _LOG.info("the training's measurements are in %s", own.path)

    # --- windows -----------------------------------------------------------------------------------------------------

    def _end_window(self, step: int) -> None:
        if self._open is None:
            return
        window, self._open = self._open, None
        window.work = {"steps": self._steps}
        window.labels = {**window.labels, "until_step": step}
        self._all_steps += self._steps
        self._steps = 0
        window.__exit__(None, None, None)
        self._waiting.append((step, window))

    def _newly_known(self, *, wait: bool) -> Iterator[StepEnergy]:
        """Windows of which the sensor has spoken by now, or all of them."""
        while self._waiting and (wait or self._spoken(self._waiting[0][1])):
            step, window = self._waiting.popleft()
            found = self._numbers(step, window)
            self.known.append(found)
            yield found

    def _spoken(self, window: Window) -> bool:
        """Whether all samples that the energy of ``window`` needs are there, or can never come."""
        instrument = window.instrument
        if self.why_no_energy or not instrument.sampler.is_alive():
            return True
        return instrument.sampled_now(window.t1_ns + instrument.tail_ns)

    def _numbers(self, step: int, window: Window) -> StepEnergy:
        """Numbers of one window, and their lines in the run."""
        instrument = window.instrument
        record = instrument.journal.result
        steps = window.count("step")
        time_per_step = record(EXPERIMENT, "time per step", window.duration / steps)
        energy = None if self.why_no_energy else _energy(window)
        if energy is None:
            return StepEnergy(until_step=step, steps=int(steps.value), time_per_step=time_per_step, energy_per_step=None, power=None)
        each = energy / steps
        record(EXPERIMENT, "energy per step", each.gross)
        if each.net.quality:
            record(EXPERIMENT, "net energy per step", each.net)
        power = record(EXPERIMENT, "mean power", energy.gross / window.duration)
        return StepEnergy(until_step=step, steps=int(steps.value), time_per_step=time_per_step, energy_per_step=each, power=power)

    def _summary(self) -> Log:
        """The whole training, from its first step to its last, with evaluations between."""
        if self._whole is None:
            return {}
        window, self._whole = self._whole, None
        window.work = {"steps": self._all_steps}
        window.__exit__(None, None, None)
        if self.why_no_energy:
            return {"train_energy_quality": "NO_DATA", "train_no_energy_because": self.why_no_energy}
        energy = _energy(window).gross
        window.instrument.journal.result(EXPERIMENT, "energy of the training", energy)
        return {
            "train_energy_j": energy.value, "train_energy_expanded_uncertainty_j": energy.expanded,
            "train_energy_quality": energy.quality.name, "train_energy_tier": int(energy.quality),
        }  # fmt: skip


def _energy(window: Window) -> Energy:
    """Energy with the baselines there are: measuring one now would hold the training up."""
    instrument = window.instrument
    return instrument.energy(window, baselines=instrument.nearest_baselines(window) if instrument.baselines else ())


def _why_no_energy(instrument: Instrument) -> str:
    try:
        instrument.require_metered()
    except PhysicsError as error:
        return str(error)
    return ""


def _amend_history(state: TrainerState, found: StepEnergy) -> None:
    """Put numbers beside the loss of their own step."""
    for entry in reversed(state.log_history):
        if entry.get("step") == found.until_step and "loss" in entry:
            entry.update(found.log())
            return


def _report() -> Callable[[Path], Path]:
    from pytest_physics.report.build import build_report  # noqa: PLC0415 -- matplotlib loads when the training is over

    return build_report


@contextmanager
def _said(what: str) -> Iterator[None]:
    """A measurement that fails is said, and the training goes on."""
    try:
        yield
    except (PhysicsError, InvalidMeasurement) as error:
        _LOG.warning("%s: %s", what, error)
