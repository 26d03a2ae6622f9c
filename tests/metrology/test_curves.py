"""The linear law: recovered with intervals that cover, refused where it is no line; the choice of a batch; the Pareto front."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.metrology.curves import MAX_MISFIT, best_under_limit, lack_of_fit, law_fixed, law_per_work, pareto_front
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.uncertainty import Component, Estimate

WORK = (16.0, 32.0, 64.0, 128.0, 256.0)
FIXED, PER_TOKEN = 1.2, 0.002


def energies(rng, *, u=0.001, gain=0.0, upturn=1.0, dof=11):
    """Energies on the law, each with its own relative error ``u`` and the common one ``gain``."""
    common = gain * rng.standard_normal()
    out = []
    for i, work in enumerate(WORK):
        true = (FIXED + PER_TOKEN * work) * (upturn if i == len(WORK) - 1 else 1.0)
        value = true * (1 + common + u * rng.standard_normal())
        own = Component(label="noise", source=f"noise|{i}", contribution=u * value, dof=dof, evaluation="A")
        shared = Component(label="gain", source="gain", contribution=gain * value, common_scale=True)
        out.append(Estimate(value=value, unit="J", components=(own, *([shared] if gain else []))))
    return out


@pytest.mark.parametrize("gain", [0.0, 0.05])
def test_the_intervals_cover(gain):
    """Of 600 laws with known errors 93 to 97 % (and their scatter of 1.7 %) hold E_fixed and E_token; also with a common gain."""
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(600):
        points = energies(rng, gain=gain)
        fixed, slope = law_fixed(points, work=WORK), law_per_work(points, work=WORK)
        hits.append((abs(fixed.value - FIXED) <= fixed.expanded, abs(slope.value - PER_TOKEN) <= slope.expanded))
    assert np.all(np.abs(np.mean(hits, axis=0) - 0.955) <= 0.025)


def test_the_common_gain_cancels_in_the_break_even_work():
    """E_fixed / E_token does not know the scale."""
    points = energies(np.random.default_rng(0), gain=0.05)
    fixed, slope = law_fixed(points, work=WORK), law_per_work(points, work=WORK)
    ratio = fixed / slope
    assert fixed.u / fixed.value > 0.04
    assert ratio.u / ratio.value < 0.005
    assert sum(c.contribution for c in ratio.components if c.source == "gain") == pytest.approx(0.0, abs=1e-9)


def test_a_line_is_seldom_refused_and_its_probability_is_uniform():
    """Under the law the probability of a larger misfit is uniform: a hundredth of the laws lies below a hundredth."""
    rng = np.random.default_rng(5)
    p = np.array([lack_of_fit(energies(rng, gain=0.03, dof=math.inf), WORK).probability for _ in range(800)])
    for level in (0.01, 0.05, 0.5):
        assert abs(np.mean(p < level) - level) <= 3 * math.sqrt(level * (1 - level) / 800)


@pytest.mark.parametrize(("upturn", "refused"), [(1.05, True), (0.95, True), (1.0, False)])
def test_an_upturn_at_the_largest_batch_is_found(upturn, refused):
    """Not averaged away: both coefficients carry the gate, with the batch and the side."""
    points = energies(np.random.default_rng(1), gain=0.05, upturn=upturn)
    for law in (law_fixed, law_per_work):
        gate = next(gate for gate in law(points, work=WORK).gates if gate.name == "lack of fit")
        assert gate.refuses is refused


def test_a_proven_misfit_below_the_limit_widens_the_interval_instead():
    """A hundredth is the limit: with tiny budgets any law of nature is proven wrong."""
    points = energies(np.random.default_rng(1), u=1e-5, upturn=1.003)
    found = lack_of_fit(points, WORK)
    assert found.probability < 1e-6
    assert abs(found.worst) < MAX_MISFIT
    law = law_per_work(points, work=WORK)
    assert not any(gate.refuses for gate in law.gates)
    assert "misfit of the line" in {c.label for c in law.components}


@given(st.floats(1e-3, 1e3), st.floats(1e-6, 1e1))
def test_exact_energies_give_the_law_exactly(fixed, slope):
    """Without uncertainty nothing is tested and nothing refused."""
    points = [Estimate.exact(fixed + slope * work, "J") for work in WORK]
    found = law_fixed(points, work=WORK)
    assert found.value == pytest.approx(fixed, rel=1e-6, abs=1e-9 * (fixed + slope * WORK[-1]))
    assert law_per_work(points, work=WORK).value == pytest.approx(slope, rel=1e-6, abs=1e-9 * fixed)
    assert not found.gates


@pytest.mark.parametrize("work", [(1.0, 2.0), (1.0, 1.0, 1.0)])
def test_too_few_points_are_no_line(work):
    """Three energies, and two different amounts of work."""
    with pytest.raises(ValueError, match="a line needs at least 3 energies"):
        law_fixed([Estimate.exact(1.0, "J") for _ in work], work=work)


def choice(energy, latency, limit, *, u=0.001):
    sizes = list(range(1, len(energy) + 1))
    inputs = [Estimate.given(e, "J/token", u=u) for e in energy] + [Estimate.given(t, "s/step", u=0.001) for t in latency]
    return best_under_limit(inputs, sizes=sizes, limit=limit)


@pytest.mark.parametrize(("limit", "best"), [(1.0, 3.0), (0.299, 2.0), (0.303, 3.0), (0.301, 2.0)])
def test_the_best_batch_surely_keeps_the_limit(limit, best):
    """Latency with its interval must lie below: 0.30 ± 0.002 keeps 0.303 and not 0.301."""
    found = choice([3.0, 2.0, 1.0], [0.1, 0.2, 0.3], limit)
    assert found.value == best
    assert not any(gate.refuses for gate in found.gates)


def test_no_batch_under_the_limit_is_refused():
    """No number, no data, and the quickest named."""
    found = choice([3.0, 2.0], [0.2, 0.3], 0.1)
    assert math.isnan(found.value)
    assert found.quality is Quality.NO_DATA
    assert [gate.name for gate in found.gates if gate.refuses] == ["latency limit"]


@pytest.mark.parametrize(("u", "clear"), [(0.001, True), (2.0, False)])
def test_a_close_race_is_said(u, clear):
    """A warning where the second best is not surely worse."""
    gate = next(gate for gate in choice([3.0, 2.0, 1.0], [0.1, 0.2, 0.3], 1.0, u=u).gates if gate.name == "clear winner")
    assert (gate.passed, gate.warning) == (clear, True)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_pareto_front_is_what_nothing_beats(points):
    """Never empty; nothing off it is unbeaten; nothing on it is beaten."""
    on = pareto_front(*zip(*points, strict=True))
    assert any(on)
    for (a, b), kept in zip(points, on, strict=True):
        assert kept is not any(x <= a and y <= b and (x < a or y < b) for x, y in points)
