"""Change points: found where planted, silent elsewhere, blind to outliers and to the scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_physics.metrology.change_points import SHORTEST, change_points, pettitt

SEEDS = st.integers(0, 10_000)

NILE = [
    1120, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994, 1020, 960, 1180, 799, 958, 1140, 1100, 1210, 1150,
    1250, 1260, 1220, 1030, 1100, 774, 840, 874, 694, 940, 833, 701, 916, 692, 1020, 1050, 969, 831, 726, 456, 824, 702, 1120, 1100,
    832, 764, 821, 768, 845, 864, 862, 698, 845, 744, 796, 1040, 759, 781, 865, 845, 944, 984, 897, 822, 1010, 771, 676, 649, 846,
    812, 742, 801, 1040, 860, 874, 848, 890, 744, 749, 838, 1050, 918, 986, 797, 923, 975, 815, 1020, 906, 901, 1170, 912, 746, 919,
    718, 714, 740,
]  # fmt: skip
"""Annual flow of the Nile at Aswan, 1871 to 1970, in 10⁸ m³ (Cobb, Biometrika 65 (1978) 243)."""


def test_nile_fell_in_1899():
    """The standard example: one change, the first year of the new level is 1899."""
    (found,) = change_points(NILE)
    assert 1871 + found.index == 1899
    assert found.before > 1050
    assert found.after < 900


def test_statistic_is_pettitts():
    """Against the double sum of signs."""
    rng = np.random.default_rng(3)
    y = rng.normal(size=20) + np.r_[np.zeros(9), np.full(11, 2.0)]
    place, p = pettitt(y)
    sums = [abs(sum(np.sign(y[j] - y[i]) for i in range(t) for j in range(t, 20))) for t in range(SHORTEST, 20 - SHORTEST + 1)]
    assert place == SHORTEST + int(np.argmax(sums))
    assert p == pytest.approx(min(1.0, 2 * math.exp(-6 * max(sums) ** 2 / (20**3 + 20**2))))


@given(SEEDS)
@settings(max_examples=40)
def test_planted_step_is_found(seed):
    """Four spreads, twenty runs on each side."""
    y = np.random.default_rng(seed).normal(size=40)
    y[20:] += 4
    found = change_points(y)
    assert any(abs(point.index - 20) <= 1 for point in found)


def test_steady_series_are_silent():
    """At most one in a hundred, over seeded series."""
    alarms = sum(bool(change_points(np.random.default_rng(seed).normal(size=50))) for seed in range(200))
    assert alarms <= 4


def test_two_steps_are_both_found():
    """Up, and back again."""
    y = np.random.default_rng(1).normal(size=90)
    y[30:60] += 5
    assert [point.index for point in change_points(y)] == [30, 60]


@pytest.mark.parametrize("at", [0, 15, 29])
def test_single_outlier_is_no_change(at):
    """Ranks do not care how far off one run is."""
    y = np.random.default_rng(2).normal(size=30)
    y[at] += 1000
    assert change_points(y) == ()


@given(SEEDS)
@settings(max_examples=30)
def test_any_rising_scale_gives_the_same_places(seed):
    """Logarithms change sizes, not places."""
    y = np.exp(np.random.default_rng(seed).normal(size=40))
    y[25:] *= 8
    assert [p.index for p in change_points(y)] == [p.index for p in change_points(np.log(y))]


@pytest.mark.parametrize("n", [0, 1, 2 * SHORTEST - 1])
def test_short_series_have_none(n):
    """Below ten runs nothing is said."""
    assert change_points(np.arange(n, dtype=float)) == ()


def test_what_is_not_finite_is_refused():
    """A missing run is left out by the caller."""
    with pytest.raises(ValueError, match="finite"):
        change_points([1.0, math.nan])
