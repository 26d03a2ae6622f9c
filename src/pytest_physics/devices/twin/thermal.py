"""Heat: a ladder of heat capacities and thermal resistances from the die to the ambient, solved exactly.

Node 0 is the die and takes all electrical power; node i is joined to node i+1 by ``resistances_k_per_w[i]``, the last node to the
ambient. In mass-weighted coordinates the system matrix is symmetric, so it has real modes z with rates λ > 0 and
``dz/dt = −λ z + g P(t)``. For ``P(t) = base + excess·exp(−t/τ)`` each mode has a closed solution: no step, no integration error.

Assumes constant capacities and resistances (a fan at constant speed). Needs τ shorter than the fastest mode: see
:meth:`ThermalNetwork.check`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Scalars: TypeAlias = "float | FloatArray"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThermalNetwork:
    """A ladder of thermal nodes, die first."""

    capacities_j_per_k: tuple[float, ...]
    """Heat capacity of each node."""
    resistances_k_per_w: tuple[float, ...]
    """Thermal resistance from each node to the next, from the last to the ambient."""
    ambient_c: float
    """Temperature of what the last node gives its heat to."""

    def __post_init__(self) -> None:
        """Refuse what cannot be a network."""
        if not self.capacities_j_per_k or len(self.capacities_j_per_k) != len(self.resistances_k_per_w):
            raise ValueError(
                "'capacities_j_per_k' and 'resistances_k_per_w' must have one value per node "
                f"(got {len(self.capacities_j_per_k)} and {len(self.resistances_k_per_w)})."
            )
        if not min(*self.capacities_j_per_k, *self.resistances_k_per_w, 1.0) > 0:
            raise ValueError("capacities and resistances must be > 0.")

    def check(self, tau_s: float) -> None:
        """Refuse an electrical time constant that is not well below the fastest thermal one."""
        fastest_s = 1.0 / max(_modes(self).rates)
        if not 0 < tau_s < 0.5 * fastest_s:
            raise ValueError(f"electrical time constant {tau_s} s must be > 0 and below half the fastest thermal one ({fastest_s:.3g} s).")

    def settled_c(self, power_w: float) -> list[float]:
        """Temperatures of all nodes after an infinite time at ``power_w``, in °C."""
        to_ambient = np.cumsum(self.resistances_k_per_w[::-1])[::-1]
        return [self.ambient_c + power_w * float(resistance) for resistance in to_ambient]

    def after(self, node_c: Sequence[Scalars], *, base_w: Scalars, excess_w: Scalars, tau_s: Scalars, dt_s: Scalars) -> list[Scalars]:
        """Temperatures of all nodes ``dt_s`` after ``node_c``, under ``base_w + excess_w·exp(−t/tau_s)``; elementwise, in °C."""
        modes = _modes(self)
        electrical = np.exp(-dt_s / tau_s)
        ends: list[Scalars] = []
        for rate, gain, into in zip(modes.rates, modes.gains, modes.into, strict=True):
            kept = np.exp(-rate * dt_s)
            start = sum(weight * (node - self.ambient_c) for weight, node in zip(into, node_c, strict=True))
            driven = -base_w * np.expm1(-rate * dt_s) / rate + excess_w * (kept - electrical) / (1.0 / tau_s - rate)
            ends.append(start * kept + gain * driven)
        return [
            self.ambient_c + sum(weight * end for weight, end in zip(out_of, ends, strict=True))
            for out_of in modes.out_of
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Modes:
    rates: tuple[float, ...]
    """λ of each mode, 1/s."""
    gains: tuple[float, ...]
    """g of each mode: how die power drives it."""
    into: tuple[tuple[float, ...], ...]
    """Row per mode: weights of the node temperatures."""
    out_of: tuple[tuple[float, ...], ...]
    """Row per node: weights of the modes."""


@lru_cache(maxsize=64)
def _modes(network: ThermalNetwork) -> _Modes:
    conductances = 1.0 / np.asarray(network.resistances_k_per_w)
    exchange = np.diag(conductances)
    for node, conductance in enumerate(conductances[:-1]):
        exchange[node + 1, node + 1] += conductance
        exchange[node, node + 1] = exchange[node + 1, node] = -conductance
    root = np.sqrt(np.asarray(network.capacities_j_per_k))
    rates, vectors = np.linalg.eigh(exchange / np.outer(root, root))
    into = vectors.T * root
    return _Modes(
        rates=tuple(map(float, rates)),
        gains=tuple(map(float, vectors[0] / root[0])),
        into=tuple(tuple(map(float, row)) for row in into),
        out_of=tuple(tuple(map(float, row)) for row in vectors / root[:, None]),
    )
