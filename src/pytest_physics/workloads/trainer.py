"""Step marks from ``transformers.Trainer``: the end of each optimizer step, with loss, gradient norm and learning rate where it logs them.

``Trainer`` logs every ``logging_steps`` steps: with ``logging_steps=1`` every mark is complete, else the steps between have times only.
It logs a step just after its end, so a mark is kept until then: a crash loses at most the last one.
"""

from __future__ import annotations

import time
from typing import Any

from pytest_physics.errors import ConfigurationError
from pytest_physics.marks import mark_step

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as reason:
    raise ConfigurationError(
        f"a callback for transformers.Trainer needs transformers, which cannot be imported ({reason}). "
        "Install it with: pip install 'pytest-physics[bench]'"
    ) from reason

__all__ = ["StepMarksCallback", "TrainerCallback", "TrainerControl", "TrainerState", "TrainingArguments"]


class StepMarksCallback(TrainerCallback):
    """Marks the steps of a training for ``pytest-physics joint``: ``Trainer(..., callbacks=[StepMarksCallback()])``.

    Does nothing without it.
    """

    def __init__(self) -> None:
        self._pending: tuple[int, int] | None = None
        """Step and time of a mark that is not written yet."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Note when the step ended."""
        self._flush()
        if state.is_world_process_zero:
            self._pending = (state.global_step, time.perf_counter_ns())

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, Any] | None = None,
        **_: Any,  # noqa: ANN401
    ) -> None:
        """Write the mark with what the training says of this step."""
        if self._pending and self._pending[0] == state.global_step and logs and "loss" in logs:
            self._flush(loss=logs["loss"], grad_norm=logs.get("grad_norm"), learning_rate=logs.get("learning_rate"))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Write what is left."""
        self._flush()

    def _flush(self, **values: float | None) -> None:
        if self._pending is not None:
            step, t_ns = self._pending
            self._pending = None
            mark_step(step, t_ns=t_ns, **values)
