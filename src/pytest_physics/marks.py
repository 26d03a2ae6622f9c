"""Step marks: a training process says, on the run's own clock, when each step ended and what it was like.

``pytest-physics joint -- python train.py`` names a file in an environment variable; :func:`mark_step` appends one whole line to it for
each step. Without that variable nothing is written, so the same script runs anywhere. The clock is ``time.perf_counter_ns``, which all
processes of a machine share on Linux: no offset has to be guessed when the marks are laid over the samples.

Only the standard library is loaded here. A file that cannot be written is said once, in the log, and never ends a training. A crash can
tear at most the line that was being written, which the reader names and leaves out.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import SupportsFloat

VARIABLE = "PYTEST_PHYSICS_STEP_MARKS"
"""Environment variable that names the file."""

COLUMNS = ("t_ns", "step", "loss", "grad_norm", "learning_rate")
"""Fields of a line: end of the step in nanoseconds of ``perf_counter``, its index, and what the training said of it."""

_LOG = logging.getLogger(__name__)
_descriptors: dict[str, int] = {}
"""Open files by name; −1 where one cannot be written."""


def mark_step(
    step: int,
    *,
    loss: SupportsFloat | None = None,
    grad_norm: SupportsFloat | None = None,
    learning_rate: SupportsFloat | None = None,
    t_ns: int | None = None,
    lr: SupportsFloat | None = None,
) -> bool:
    """Mark the end of a training step; returns whether it was written.

    Parameters
    ----------
    step
        Index of the step, increasing.
    loss, grad_norm, learning_rate
        What is known of it; numbers, or tensors with one element (reading one from a GPU waits for the GPU).
    t_ns
        When it ended, by ``time.perf_counter_ns``; default: now.
    lr
        Short for ``learning_rate``, which wins where both are given.
    """
    now_ns = time.perf_counter_ns() if t_ns is None else t_ns
    path = os.environ.get(VARIABLE)
    if not path:
        return False
    values = (now_ns, int(step), _number(loss), _number(grad_norm), _number(lr if learning_rate is None else learning_rate))
    return _append(path, json.dumps(dict(zip(COLUMNS, values, strict=True))).encode() + b"\n")


def _number(value: SupportsFloat | None) -> float | None:
    return None if value is None else float(value)


def _append(path: str, line: bytes) -> bool:
    """Append a whole line in one write."""
    try:
        if path not in _descriptors:
            _descriptors[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        return _descriptors[path] >= 0 and os.write(_descriptors[path], line) == len(line)
    except OSError as error:
        _LOG.warning("step marks cannot be written to %s: %s. The training goes on without them.", path, error.strerror)
        _descriptors[path] = -1
        return False
