"""The thermal field: exact steps, heat conserved, limits that act, and temperatures that are shown only where they act."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, linalg

from pytest_physics.metrology.thermal_field import FIELDS, FieldOfPoints, ThermalField

UNIFORM = np.full(8, 32.0)


def two(**changes):
    """Two devices, the second dearer."""
    plain = {
        "energy_j": (0.5, 2.0), "coefficient_per_k": (0.005, 0.005), "capacity_j_per_k": (80.0, 60.0), "conductance_w_per_k": (5.0, 4.0),
        "coupling_w_per_k": ((0.0, 1.0), (1.0, 0.0)), "idle_w": (10.0, 15.0),
    }  # fmt: skip
    return ThermalField(**(plain | changes))


def by_expm(field, temperature, slots):
    """The same batch by one matrix exponential of temperatures, heat and a constant (Van Loan 1978)."""
    n, counts = len(field.energy_j), np.asarray(slots, float)
    duration = float(np.max(counts * field.slot_s))
    base = counts / duration * np.asarray(field.energy_j)
    a, c = np.asarray(field.coefficient_per_k), np.asarray(field.capacity_j_per_k)
    coupling = np.asarray(field.coupling_w_per_k)
    q, w = base * a, base * (1 + a * (field.ambient_c - field.reference_c))
    system = coupling - np.diag(np.asarray(field.conductance_w_per_k) + coupling.sum(axis=1)) + np.diag(q)
    flow = np.zeros((2 * n + 1, 2 * n + 1))
    flow[:n, :n], flow[:n, -1] = system / c[:, None], (w + np.asarray(field.idle_w)) / c
    flow[n : 2 * n, :n], flow[n : 2 * n, -1] = np.diag(q), w
    end = linalg.expm(flow * duration) @ np.concatenate([temperature - field.ambient_c, np.zeros(n), [1.0]])
    return end[:n] + field.ambient_c, end[n : 2 * n]


@pytest.mark.parametrize("name", list(FIELDS))
def test_a_step_is_the_matrix_exponential(name):
    """Temperatures and energies to rounding."""
    field = FIELDS[name]
    state = field.at_rest()
    slots = np.array([40.0, 10, 0, 60, 25, 31, 50, 7])
    after, outcome = field.step(state, slots)
    warm, heat = by_expm(field, state.temperature_c, slots)
    assert after.temperature_c == pytest.approx(warm, rel=1e-12)
    assert outcome.energy_j == pytest.approx(heat, rel=1e-10)


def test_a_step_solves_the_equation():
    """Against a general solver of differential equations."""
    field = two(slot_s=2.0)
    slots = np.array([30.0, 20.0])
    rate = slots / 60.0

    def slope(_t, y):
        warm = y - field.ambient_c
        power = rate * np.asarray(field.energy_j) * (1 + np.asarray(field.coefficient_per_k) * (y - field.reference_c))
        between = np.asarray(field.coupling_w_per_k) @ y - np.asarray(field.coupling_w_per_k).sum(axis=1) * y
        return (power + np.asarray(field.idle_w) - np.asarray(field.conductance_w_per_k) * warm + between) / np.asarray(
            field.capacity_j_per_k
        )

    start = field.at_rest()
    solved = integrate.solve_ivp(slope, (0, 60.0), start.temperature_c, rtol=1e-10, atol=1e-10)
    assert field.step(start, slots)[0].temperature_c == pytest.approx(solved.y[:, -1], rel=1e-7)


@given(parts=st.integers(2, 6))
def test_batches_add_up(parts):
    """One batch, or the same work in parts: equal temperature and energy."""
    field, slots = two(slot_s=0.1), np.array([60.0, 90.0])
    whole, outcome = field.step(field.at_rest(), slots)
    state, energy = field.at_rest(), 0.0
    for _ in range(parts):
        state, part = field.step(state, slots / parts)
        energy += part.energy_j.sum()
    assert state.temperature_c == pytest.approx(whole.temperature_c)
    assert energy == pytest.approx(outcome.energy_j.sum())


def test_heat_is_conserved():
    """Work and idle power either stay in the devices or have left to the ambient."""
    field = two(conductance_w_per_k=(1e-9, 1e-9), idle_w=(0.0, 0.0), slot_s=0.1)
    start = field.at_rest()
    after, outcome = field.step(start, [50.0, 80.0])
    stored = np.asarray(field.capacity_j_per_k) @ (after.temperature_c - start.temperature_c)
    assert stored == pytest.approx(outcome.energy_j.sum(), rel=1e-6)


def test_many_batches_lead_to_the_settled_temperatures():
    """And there a slot costs what its temperature says."""
    field = FIELDS["cooling"]
    field = replace(field, throttle_c=math.inf, resume_c=math.inf)
    state = field.at_rest()
    for _ in range(3000):
        state, outcome = field.step(state, UNIFORM)
    assert state.temperature_c == pytest.approx(field.settled_c(UNIFORM), abs=0.01)
    assert outcome.energy_j / UNIFORM == pytest.approx(field.slot_energy_j(state), rel=1e-3)


def test_neighbours_warm_one_another():
    """Only coupling can warm an idle device beyond its rest."""
    field = two(idle_w=(0.0, 0.0), slot_s=0.1)
    after, _ = field.step(field.at_rest(), [0.0, 200.0])
    alone, _ = replace(field, coupling_w_per_k=((0.0, 0.0), (0.0, 0.0))).step(field.at_rest(), [0.0, 200.0])
    assert after.temperature_c[0] > field.ambient_c + 0.1
    assert alone.temperature_c[0] == pytest.approx(field.ambient_c)


def test_throttling_has_hysteresis():
    """From the limit on until below the lower one; slower, dearer, and for the next batch."""
    field = two(throttle_c=60.0, resume_c=55.0, slot_s=0.008, throttle_speed=0.5, throttle_energy_factor=1.2)
    state, seen = field.at_rest(), []
    for _ in range(60):
        state, outcome = field.step(state, [100.0, 100.0])
        seen.append((bool(state.throttled[1]), float(state.temperature_c[1]), float(outcome.duration_s)))
        if state.throttled[1]:
            break
    assert seen[-1][1] >= 60.0
    full = field.slot_energy_j(replace(state, throttled=np.array([False, False])))
    assert field.slot_energy_j(state)[1] == pytest.approx(1.2 * full[1])
    state, slow = field.step(state, [100.0, 100.0])
    assert slow.duration_s == pytest.approx(2 * seen[-1][2])
    while state.throttled[1]:
        assert state.temperature_c[1] >= 55.0
        state, _ = field.step(state, [10.0, 0.0])
    assert state.temperature_c[1] < 55.0


def test_without_a_limit_nothing_throttles():
    """The published preset never does, however hot."""
    field = FIELDS["published"]
    state, _ = field.step(field.at_rest(), UNIFORM * 1000)
    assert not state.throttled.any()


def test_temperature_is_shown_only_where_it_acts():
    """In the published experiment it does not, so there is none to show."""
    assert not FIELDS["published"].acts
    assert FIELDS["published"].shown_temperature_c(FIELDS["published"].at_rest()) is None
    for name in ("published-warming", "graded", "cooling"):
        field = FIELDS[name]
        rest = field.at_rest()
        later, _ = field.step(rest, UNIFORM * 50)
        assert field.acts
        assert field.shown_temperature_c(rest) is not None
        assert (field.slot_energy_j(later) > field.slot_energy_j(rest)).all()


def test_the_published_costs_are_the_published_ones():
    """Six cold at 0.5 J and two hot at 2 J, whatever the temperature."""
    points = FieldOfPoints(FIELDS["published"], 2)
    billed = points.advance(np.stack([UNIFORM, 2 * UNIFORM]))
    assert billed[0] == pytest.approx([16.0] * 6 + [64.0] * 2)
    assert billed[1] == pytest.approx(2 * billed[0])
    assert points.energies_j() == pytest.approx(np.tile([0.5] * 6 + [2.0] * 2, (2, 1)))


def test_points_side_by_side_do_not_touch():
    """Each has the temperatures that it would have alone."""
    field = FIELDS["graded"]
    points = FieldOfPoints(field, 3)
    loads = np.random.default_rng(1).uniform(0, 80, (5, 3, 8))
    for batch in loads:
        points.advance(batch)
    for index in range(3):
        state = field.at_rest()
        for batch in loads[:, index]:
            state, _ = field.step(state, batch)
        assert points.temperatures_c()[index] == pytest.approx(state.temperature_c)


def test_in_the_cooling_field_temperature_alone_makes_the_difference():
    """Equal at rest apart from idle warmth, far apart under load, dearest where cooling is worst."""
    field = replace(FIELDS["cooling"], throttle_c=math.inf, resume_c=math.inf)
    state = field.at_rest()
    for _ in range(2000):
        state, _ = field.step(state, UNIFORM)
    costs = field.slot_energy_j(state)
    assert costs[-2:].min() > 1.4 * costs[:2].max()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"energy_j": (0.5, -2.0)}, "expert 1"),
        ({"idle_w": (1.0,)}, "'idle_w' must hold 2"),
        ({"capacity_j_per_k": (0.0, 1.0)}, "must be > 0"),
        ({"coupling_w_per_k": ((0.0, 1.0), (2.0, 0.0))}, "symmetric"),
        ({"coupling_w_per_k": ((1.0, 1.0), (1.0, 0.0))}, "zero diagonal"),
        ({"throttle_c": 60.0, "resume_c": 61.0}, "resume_c"),
        ({"throttle_speed": 0.0, "throttle_c": 60.0, "resume_c": 50.0}, "throttle_speed"),
        ({"coefficient_per_k": (0.05, 0.05), "reference_c": 60.0}, "more than nothing"),
        ({"coefficient_per_k": (math.nan, 0.0)}, "coefficient_per_k"),
    ],
)
def test_what_cannot_be_a_field_is_refused(changes, words):
    """With the name of the field."""
    with pytest.raises(ValueError, match=words):
        two(**changes)


@pytest.mark.parametrize("slots", [[1.0], [0.0, 0.0], [1.0, -1.0], [math.nan, 1.0]])
def test_what_cannot_be_a_batch_is_refused(slots):
    """Shape, sign, at least one slot."""
    with pytest.raises(ValueError, match="'slots' must hold 2"):
        two().step(two().at_rest(), slots)


def test_a_field_that_runs_away_has_no_settled_temperature():
    """Its steps are still exact; the end of all steps does not exist."""
    field = two(coefficient_per_k=(0.05, 0.05))
    with pytest.raises(ValueError, match="warms the field without end"):
        field.settled_c([100.0, 100.0])
    warmer, _ = field.step(field.at_rest(), [100.0, 100.0])
    assert np.isfinite(warmer.temperature_c).all()
