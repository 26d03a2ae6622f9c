"""Two levels are seen where there are two, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from pytest_physics.metrology.modality import fit_two_modes


def called(values, resolution=0.0):
    """The rule of the idle check, without its limits on materiality."""
    fit = fit_two_modes(values, resolution=resolution)
    return fit is not None and fit.delta_bic > 10 and min(fit.weights) >= 0.05 and fit.ashman_d > 2


def two_states(rng, stay, n, distance):
    """Switching between two levels with lag-1 correlation ``stay``, under unit white noise."""
    switches = rng.random(n) < (1 - stay) / 2
    return distance * (np.cumsum(switches) % 2) + rng.normal(size=n)


def share_called(make):
    rng = np.random.default_rng(77)
    return np.mean([called(make(rng)) for _ in range(60)])


@pytest.mark.parametrize("correlation", [0.0, 0.9, 0.95])
def test_one_level_is_not_split(correlation):
    """A slowly wandering series with one mode is not two; plain BIC calls 23 % of those with ρ = 0.95 bimodal."""
    assert share_called(lambda rng: lfilter([1.0], [1.0, -correlation], rng.normal(size=600))[300:]) <= 0.03


def test_a_skewed_level_is_not_split():
    """Bursts make a tail, not a second mode."""
    assert share_called(lambda rng: rng.exponential(size=300)) <= 0.03


@pytest.mark.parametrize(("stay", "distance"), [(0.0, 6.0), (0.9, 4.0), (0.9, 10.0)])
def test_two_levels_are_seen(stay, distance):
    """Fast or slow switching: the residuals within the levels are independent, so both count in full."""
    assert share_called(lambda rng: two_states(rng, stay, 300, distance)) >= 0.97


def test_the_fit_recovers_a_known_mixture():
    """Known answer: 20 % at 3 W, 80 % at 26 W."""
    rng = np.random.default_rng(9)
    upper = rng.random(2000) < 0.8
    fit = fit_two_modes(np.where(upper, 26.0, 3.0) + rng.normal(size=2000) * 0.5, resolution=0.001)
    assert fit.means == pytest.approx((3.0, 26.0), abs=0.1)
    assert fit.weights == pytest.approx((0.2, 0.8), abs=0.03)
    assert fit.deviations == pytest.approx((0.5, 0.5), abs=0.05)
    assert (np.array(fit.upper) == upper).all()


@pytest.mark.parametrize("values", [np.full(100, 5.0), np.arange(7.0)])
def test_nothing_to_split(values):
    """A constant, or a handful of readings."""
    assert fit_two_modes(values, resolution=0.1) is None
