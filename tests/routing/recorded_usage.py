"""A sound recorded usage, and drawn ones, for the tests of this folder."""

from __future__ import annotations

import numpy as np

from pytest_physics.metrology.routing import frontier

COSTS = [0.5] * 6 + [2.0] * 2


def batches(beta, *, count=40, slots=256, seed=0):
    """Slots per batch and expert around the Gibbs shares of ``beta``."""
    shares = frontier(COSTS, beta).shares
    return np.random.default_rng([seed, round(1000 * abs(beta)), beta < 0]).multinomial(slots, shares, count).tolist()


def sound():
    """A usage that saves, with everything that a file may report."""
    usage, control = batches(0.3), batches(0.0)
    total = np.sum(np.asarray(usage) @ COSTS)
    return {
        "title": "A sound usage", "tokens": 5120, "top_k": 2, "lambda_per_j": 0.3, "usage": usage, "control": control,
        "total_energy_j": float(total), "baseline_j": 5120 * 2 * 0.875, "saving_percent": round(100 * (1 - total / 8960), 2),
        "sweep": [{"lambda_per_j": b, "usage": batches(b)} for b in (0.0, 0.1, 0.5)],
    }  # fmt: skip
