"""Laws fitted to energies: E(batch) = E_fixed + E_work · work, and so E/work = E_fixed/work + E_work.

Weighted least squares with weights 1/E² (a constant relative uncertainty, which energies of one method have). Both coefficients are
linear in the energies, so their uncertainty propagates exactly through the budgets: the card's common gain scales both, and does not
pretend to average away. What the line does not explain enters as a component of its own with n − 2 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pytest_physics.metrology.uncertainty import Component, Estimate, Recipe


def law_fixed(energies: Sequence[Estimate], *, work: Sequence[float], unit: str = "token") -> Estimate:  # noqa: ARG001
    """E_fixed in joules: what a batch costs before its first ``unit`` of work.

    Parameters
    ----------
    energies
        Energies of n ≥ 3 batches, in joules.
    work
        Counted work of each, n values, at least two of them different.
    unit
        Unit of the work.
    """
    return _coefficient(energies, work, 0, "law.fixed", "")


def law_per_work(energies: Sequence[Estimate], *, work: Sequence[float], unit: str = "token") -> Estimate:
    """E_work in joules per ``unit``: the cost that remains in a large batch."""
    return _coefficient(energies, work, 1, "law.per_work", f"/{unit}")


LINEAR_LAW: Mapping[str, Callable[..., Estimate]] = {"law.fixed": law_fixed, "law.per_work": law_per_work}
"""Composite recipes of this module."""


def _coefficient(energies: Sequence[Estimate], work: Sequence[float], which: int, op: str, per: str) -> Estimate:
    if len(energies) != len(work) or len(energies) < 3 or len(set(work)) < 2:
        raise ValueError(
            f"a line needs at least 3 energies, as many amounts of work, and two different ones (got {len(energies)} and {list(work)})."
        )
    values = np.array([e.value for e in energies])
    design = np.column_stack([np.ones(len(work)), np.asarray(work, float)])
    gains = _linear_weights(design, values)[which]
    total = energies[0] * float(gains[0])
    for energy, gain in zip(energies[1:], gains[1:], strict=True):
        total = total + energy * float(gain)
    residual = _residual(design, values, which)
    recipe = Recipe(op=op, inputs=tuple(e.recipe for e in energies), parameters={"work": list(work), "unit": per[1:] or "token"})
    return replace(total, unit=f"J{per}", components=(*total.components, *residual), estimator="weighted line", recipe=recipe)


def _linear_weights(design: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of coefficients g with fit = g · energies, shape (2, n)."""
    weights = 1 / np.maximum(np.abs(values), 1e-300) if np.isfinite(values).all() else np.ones(len(values))
    pseudo: NDArray[np.float64] = np.linalg.pinv(design * weights[:, None]) * weights
    return pseudo


def _residual(design: NDArray[np.float64], values: NDArray[np.float64], which: int) -> tuple[Component, ...]:
    dof = len(values) - 2
    gains = _linear_weights(design, values)
    misfit = values - design @ (gains @ values)
    relative = misfit / np.maximum(np.abs(values), 1e-300)
    u = math.sqrt(float(np.sum(relative**2)) / dof) * math.sqrt(float(np.sum((gains[which] * values) ** 2)))
    if not (math.isfinite(u) and u > 0):
        return ()
    return (Component(label="misfit of the line", source=f"misfit|{which}|{values.tolist()!r}", contribution=u, dof=dof, evaluation="A"),)
