"""Train a small causal language model on seeded text, and mark its steps for ``pytest-physics joint``.

pytest-physics joint -- python examples/training/train.py --shape distilgpt2 --seconds 120

Shapes: tiny, distilgpt2 (DistilGPT-2's sizes), llama-lora (LoRA adapters on a Llama shape). Everything is made from configuration and a
seed: nothing is downloaded. Without ``pytest-physics joint`` it only trains.
"""

from __future__ import annotations

import argparse
import sys

from pytest_physics.errors import PhysicsError
from pytest_physics.marks import mark_step
from pytest_physics.workloads.training import SHAPES, Training, TrainingSetting


def main() -> int:
    """Train, and say what was trained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--steps", type=int, default=10_000, help="optimiser steps at most")
    parser.add_argument("--seconds", type=float, default=60.0, help="length aimed at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0")
    parser.add_argument("--threads", type=int, help="torch threads; without it all cores but one")
    chosen = parser.parse_args()
    try:
        setting = TrainingSetting(**vars(chosen))
        training = Training(setting)
    except PhysicsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(", ".join(f"{name}: {value}" for name, value in training.describe().items()), flush=True)
    steps = training.run(lambda step, loss, norm, rate: mark_step(step, loss=loss, grad_norm=norm, learning_rate=rate))
    print(f"{steps} steps", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
