"""A field of devices that carry experts: heat flows between them, and a slot costs more on a warm device.

Node i has the heat capacity C_i, a conductance to the ambient and one to each neighbour. A batch gives it n_i slots; it lasts as long as
the busiest device needs, and during it device i draws ``n_i·E_i(T_i)/duration`` and its idle power, with the energy of a slot

    ``E_i(T) = E_i0·(1 + a_i·(T_i − T0))``, times ``throttle_energy_factor`` while the device is throttled.

That is linear in T, and in mass-weighted coordinates the system is symmetric: its modes z obey ``dz/dt = λ·z + g``, whose end and integral
over the batch are closed (λ > 0 is a field that runs away). So temperatures and energies after a batch are exact: no time step, no
integration error. Throttling has hysteresis and is decided when a batch begins, so within a batch a device may pass its limit.

Arrays have the shape (..., N): many independent fields, such as the points of a sweep, are stepped at once.

Assumes constant conductances (fans at constant speed) and no transport of heat with the data. Where no device has a temperature
coefficient or a limit, temperature changes nothing and :meth:`ThermalField.shown_temperature_c` gives None: what does not act is not shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_physics.metrology.routing import FloatArray, checked_costs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FieldState:
    """What a field remembers from batch to batch."""

    temperature_c: FloatArray
    """Temperature of each device, shape (..., N)."""
    throttled: NDArray[np.bool_]
    """Whether each device is throttled in the next batch, shape (..., N)."""
    time_s: FloatArray
    """Time since the field was at rest, shape (...)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchOutcome:
    """What one batch did."""

    energy_j: FloatArray
    """Energy of the slots of each device, idle power left out, shape (..., N)."""
    duration_s: FloatArray
    """Time of the busiest device, shape (...)."""
    throttled: NDArray[np.bool_]
    """Devices that were throttled during the batch, shape (..., N)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThermalField:
    """Devices, one expert each."""

    energy_j: tuple[float, ...]
    """E_i0: energy of a slot at ``reference_c``, in joules."""
    coefficient_per_k: tuple[float, ...]
    """a_i: relative rise of the energy of a slot per kelvin."""
    capacity_j_per_k: tuple[float, ...]
    """Heat capacity of each device."""
    conductance_w_per_k: tuple[float, ...]
    """Conductance from each device to the ambient."""
    coupling_w_per_k: tuple[tuple[float, ...], ...]
    """Symmetric matrix of conductances between devices, zero on the diagonal."""
    idle_w: tuple[float, ...]
    """Power of each device without slots."""
    slot_s: float = 0.005
    """Time of one slot on a device that is not throttled."""
    ambient_c: float = 25.0
    reference_c: float = 25.0
    """T0."""
    throttle_c: float = math.inf
    """A device this warm is throttled …"""
    resume_c: float = math.inf
    """… until it is below this."""
    throttle_speed: float = 0.6
    """Speed of a throttled device over its full speed."""
    throttle_energy_factor: float = 1.15
    """Energy of a slot on a throttled device over that at full speed: leakage goes on for longer."""

    def __post_init__(self) -> None:
        """Refuse what cannot be a field."""
        checked_costs(self.energy_j)
        n = len(self.energy_j)
        lists = {
            "coefficient_per_k": self.coefficient_per_k, "capacity_j_per_k": self.capacity_j_per_k,
            "conductance_w_per_k": self.conductance_w_per_k, "idle_w": self.idle_w,
        }  # fmt: skip
        for name, values in lists.items():
            if len(values) != n or not all(math.isfinite(v) and v >= 0 for v in values):
                raise ValueError(f"'{name}' must hold {n} finite numbers ≥ 0 (got {list(values)}).")
        if not (min(self.capacity_j_per_k) > 0 and min(self.conductance_w_per_k) > 0 and self.slot_s > 0):
            raise ValueError("'capacity_j_per_k', 'conductance_w_per_k' and 'slot_s' must be > 0.")
        coupling = np.asarray(self.coupling_w_per_k, float)
        if coupling.shape != (n, n) or not np.array_equal(coupling, coupling.T) or (coupling < 0).any() or np.diag(coupling).any():
            raise ValueError(f"'coupling_w_per_k' must be a symmetric {n} × {n} matrix ≥ 0 with a zero diagonal.")
        if not self.resume_c <= self.throttle_c or not 0 < self.throttle_speed <= 1 or not self.throttle_energy_factor >= 1:
            raise ValueError("'resume_c' ≤ 'throttle_c', 0 < 'throttle_speed' ≤ 1 and 'throttle_energy_factor' ≥ 1 must hold.")
        if min(1 + a * (self.ambient_c - self.reference_c) for a in self.coefficient_per_k) <= 0:
            raise ValueError("a slot must cost more than nothing at the ambient temperature; lower 'coefficient_per_k' or 'reference_c'.")

    @property
    def acts(self) -> bool:
        """Whether temperature changes anything."""
        return max(self.coefficient_per_k) > 0 or math.isfinite(self.throttle_c)

    def at_rest(self, *shape: int) -> FieldState:
        """Fields after a long idle time, as many as ``shape`` says."""
        n = len(self.energy_j)
        settled = np.broadcast_to(self._settled(np.zeros(n)), (*shape, n))
        return self._state(settled, np.zeros((*shape, n), bool), np.zeros(shape))

    def slot_energy_j(self, state: FieldState) -> FloatArray:
        """Energy that a slot costs now on each device, in joules, shape (..., N): what an instrument would tell a router."""
        warm = state.temperature_c - self.reference_c
        return np.asarray(self.energy_j) * (1 + np.asarray(self.coefficient_per_k) * warm) * self._factor(state.throttled)

    def shown_temperature_c(self, state: FieldState) -> FloatArray | None:
        """Temperatures, where they act; None where showing them would suggest that they do."""
        return state.temperature_c if self.acts else None

    def step(self, state: FieldState, slots: ArrayLike) -> tuple[FieldState, BatchOutcome]:
        """Run one batch with ``slots`` per device, shape (..., N); exact."""
        counts = self._checked_slots(slots)
        speed = np.where(state.throttled, self.throttle_speed, 1.0)
        duration = np.max(counts * self.slot_s / speed, axis=-1)
        rate = counts / duration[..., None] * self._factor(state.throttled)
        warm, heat = self._advance(state.temperature_c, rate, duration)
        outcome = BatchOutcome(energy_j=heat, duration_s=duration, throttled=state.throttled)
        return self._state(warm, state.throttled, state.time_s + duration), outcome

    def settled_c(self, slots: ArrayLike) -> FloatArray:
        """Temperatures after endless equal batches, without throttling, in °C, shape (N,); ``ValueError`` for a field that runs away."""
        counts = self._checked_slots(slots)
        return self._settled(counts / np.max(counts * self.slot_s, axis=-1))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _checked_slots(self, slots: ArrayLike) -> FloatArray:
        counts = np.asarray(slots, float)
        n = len(self.energy_j)
        if (
            counts.ndim < 1
            or counts.shape[-1] != n
            or not np.isfinite(counts).all()
            or (counts < 0).any()
            or (counts.sum(axis=-1) <= 0).any()
        ):
            raise ValueError(f"'slots' must hold {n} finite numbers ≥ 0 per field, not all zero (got {counts.tolist()}).")
        return counts

    def _state(self, temperature: FloatArray, before: NDArray[np.bool_], time_s: FloatArray) -> FieldState:
        limit = np.where(before, self.resume_c, self.throttle_c)
        return FieldState(temperature_c=temperature, throttled=temperature >= limit, time_s=time_s)

    def _factor(self, throttled: NDArray[np.bool_]) -> FloatArray:
        return np.where(throttled, self.throttle_energy_factor, 1.0)

    def _system(self, rate: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """A and b of ``C·dθ/dt = A·θ + b`` with θ above ambient, and the slots' power ``q·θ + w``."""
        base = rate * np.asarray(self.energy_j)
        coefficient = np.asarray(self.coefficient_per_k)
        q = base * coefficient
        w = base * (1 + coefficient * (self.ambient_c - self.reference_c))
        coupling = np.asarray(self.coupling_w_per_k, float)
        passive = coupling - np.diag(np.asarray(self.conductance_w_per_k) + coupling.sum(axis=1))
        a: FloatArray = passive + q[..., None] * np.eye(len(coupling))
        return a, w + np.asarray(self.idle_w), q, w

    def _advance(self, temperature: FloatArray, rate: FloatArray, duration_s: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Temperatures after, and heat of the slots during, ``duration_s``."""
        a, b, q, w = self._system(rate)
        root = np.sqrt(np.asarray(self.capacity_j_per_k))
        rates, modes = np.linalg.eigh(a / np.outer(root, root))
        start, drive = (_into(modes, (temperature - self.ambient_c) * root), _into(modes, b / root))
        t = duration_s[..., None]
        first, second = _phi(rates * t)
        end = np.exp(rates * t) * start + t * first * drive
        integral = _out_of(modes, t * first * start + t * t * second * drive) / root
        return _out_of(modes, end) / root + self.ambient_c, q * integral + w * t

    def _settled(self, rate: FloatArray) -> FloatArray:
        a, b, _, _ = self._system(rate)
        if np.linalg.eigvalsh(a).max() >= 0:
            raise ValueError("this load warms the field without end: what it gains per kelvin exceeds what it gives away.")
        return np.asarray(self.ambient_c - np.linalg.solve(a, b), np.float64)


class FieldOfPoints:
    """Many equal fields side by side, each with a usage of its own; begins at rest."""

    def __init__(self, field: ThermalField, points: int) -> None:
        self.field = field
        self.state = field.at_rest(points)
        self.duration_s = np.zeros(points)
        """Duration of the last batch of each point."""

    def energies_j(self) -> FloatArray:
        """Present energy per slot, in joules, shape (points, N)."""
        return self.field.slot_energy_j(self.state)

    def temperatures_c(self) -> FloatArray:
        """Present temperatures, in °C, shape (points, N)."""
        return self.state.temperature_c

    def advance(self, slots: ArrayLike) -> FloatArray:
        """Serve one batch, shape (points, N); returns the energy that each expert took, in joules."""
        self.state, outcome = self.field.step(self.state, slots)
        self.duration_s = outcome.duration_s
        return outcome.energy_j


def _into(modes: FloatArray, nodes: FloatArray) -> FloatArray:
    """Nodes (..., N) in coordinates of the modes (..., N, N)."""
    return np.asarray(np.einsum("...ji,...j->...i", modes, nodes), np.float64)


def _out_of(modes: FloatArray, values: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("...ij,...j->...i", modes, values), np.float64)


def _phi(z: FloatArray) -> tuple[FloatArray, FloatArray]:
    """φ1 = (e^z − 1)/z and φ2 = (e^z − 1 − z)/z², with their series near 0."""
    near = np.abs(z) < 1e-3
    safe = np.where(near, 1.0, z)
    first = np.where(near, 1 + z / 2 + z**2 / 6 + z**3 / 24, np.expm1(safe) / safe)
    second = np.where(near, 0.5 + z / 6 + z**2 / 24 + z**3 / 120, (np.expm1(safe) - safe) / safe**2)
    return first, second


def _ring(n: int, conductance: float) -> tuple[tuple[float, ...], ...]:
    """Each device touches the next, the last one the first."""
    near = {(i, (i + 1) % n) for i in range(n)} | {((i + 1) % n, i) for i in range(n)}
    return tuple(tuple(conductance if (i, j) in near else 0.0 for j in range(n)) for i in range(n))


def _field(
    energy_j: tuple[float, ...], *, coefficient: float, conductance: tuple[float, ...], coupling: float, limited: bool
) -> ThermalField:
    n = len(energy_j)
    return ThermalField(
        energy_j=energy_j, coefficient_per_k=(coefficient,) * n, capacity_j_per_k=(80.0,) * n, conductance_w_per_k=conductance,
        coupling_w_per_k=_ring(n, coupling), idle_w=(15.0,) * n, throttle_c=83.0 if limited else math.inf,
        resume_c=80.0 if limited else math.inf,
    )  # fmt: skip


PUBLISHED_COSTS_J = (0.5,) * 6 + (2.0,) * 2
"""Energy per slot of the published experiment: six cold experts, two hot ones."""

FIELDS: Mapping[str, ThermalField] = {
    "published": _field(PUBLISHED_COSTS_J, coefficient=0.0, conductance=(5.0,) * 8, coupling=0.5, limited=False),
    "published-warming": _field(PUBLISHED_COSTS_J, coefficient=0.005, conductance=(5.0,) * 8, coupling=0.5, limited=True),
    "graded": _field(
        tuple(float(e) for e in np.linspace(0.5, 2.0, 8)), coefficient=0.005, conductance=(6.0,) * 8, coupling=0.5, limited=True
    ),
    "cooling": _field((0.8,) * 8, coefficient=0.01, conductance=(8.0, 8.0, 6.0, 6.0, 4.0, 4.0, 3.0, 3.0), coupling=0.5, limited=True),
}
"""Presets: the published costs, where temperature does nothing; the same costs with heat; costs in equal steps; equal costs at T0 and
unequal cooling, where temperature alone makes the difference."""
