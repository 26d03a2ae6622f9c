"""Quality tiers: exhaustive, exclusive, and exact at every boundary."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.metrology.quality import Provenance, Quality, tier

BILLABLE = {
    "n_updates": 20, "gap_fraction": 0.0, "longest_gap_s": 0.0, "max_gap_s": 1.0, "bracketed": True, "duration_s": 5.0,
    "relative_uncertainty": 0.01,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "inside", "outside", "expected"),
    [
        ("n_updates", 2, 1, (Quality.ESTIMATE, Quality.NO_DATA)),
        ("n_updates", 3, 2, (Quality.GOOD, Quality.ESTIMATE)),
        ("n_updates", 9, 8, (Quality.BILLABLE, Quality.GOOD)),
        ("gap_fraction", 0.10, math.nextafter(0.10, 1), (Quality.GOOD, Quality.GAPPY)),
        ("gap_fraction", math.nextafter(0.05, 0), 0.05, (Quality.BILLABLE, Quality.GOOD)),
        ("longest_gap_s", 1.0, math.nextafter(1.0, 2), (Quality.BILLABLE, Quality.GAPPY)),
        ("bracketed", True, False, (Quality.BILLABLE, Quality.NO_DATA)),
        ("interrupted", False, True, (Quality.BILLABLE, Quality.NO_DATA)),
        ("duration_s", math.nextafter(1.0, 2), 1.0, (Quality.BILLABLE, Quality.GOOD)),
        ("relative_uncertainty", 0.05, math.nextafter(0.05, 1), (Quality.BILLABLE, Quality.GOOD)),
        ("relative_uncertainty", 0.10, math.nextafter(0.10, 1), (Quality.GOOD, Quality.ESTIMATE)),
    ],
)
def test_boundaries(change, inside, outside, expected):
    """Each limit holds on exactly the stated side."""
    base = BILLABLE
    assert (tier(**{**base, change: inside}), tier(**{**base, change: outside})) == expected


@pytest.mark.parametrize("name", ["gap_fraction", "longest_gap_s", "duration_s", "relative_uncertainty"])
def test_not_a_number_falls_to_the_worse_side(name):
    """A quantity that could not be computed never lifts a tier."""
    assert tier(**{**BILLABLE, name: math.nan}) < Quality.BILLABLE


def independent_tiers(*, n, gap, longest, limit, bracketed, duration, u, interrupted):
    """The definition of each tier, written as five separate conditions."""
    no_data = n < 2 or not bracketed or interrupted
    gappy = not no_data and (gap > 0.10 or longest > limit)
    usable = not no_data and not gappy
    billable = usable and duration > 1 and n > 8 and gap < 0.05 and u <= 0.05
    good = usable and not billable and n >= 3 and u <= 0.10
    estimate = usable and not billable and not good
    flags = (no_data, gappy, estimate, good, billable)
    return [quality for quality, holds in zip(Quality, flags, strict=True) if holds]


@given(
    n=st.integers(0, 30),
    gap=st.floats(0, 1) | st.sampled_from([0.05, 0.10]),
    longest=st.floats(0, 5),
    limit=st.floats(0.1, 5),
    bracketed=st.booleans(),
    duration=st.floats(0.001, 100) | st.just(1.0),
    u=st.floats(0, 2) | st.sampled_from([0.05, 0.10, math.inf]),
    interrupted=st.booleans(),
)
def test_every_window_has_exactly_one_tier(*, n, gap, longest, limit, bracketed, duration, u, interrupted):
    """The five conditions are exhaustive and exclusive, and ``tier`` gives the one that holds."""
    tiers = independent_tiers(
        n=n, gap=gap, longest=longest, limit=limit, bracketed=bracketed, duration=duration, u=u, interrupted=interrupted
    )
    found = tier(
        n_updates=n, gap_fraction=gap, longest_gap_s=longest, max_gap_s=limit, bracketed=bracketed, duration_s=duration,
        relative_uncertainty=u, interrupted=interrupted,
    )  # fmt: skip
    assert tiers == [found]


def test_tiers_are_ordered():
    """The worst of several inputs is their minimum."""
    assert sorted(Quality) == [Quality.NO_DATA, Quality.GAPPY, Quality.ESTIMATE, Quality.GOOD, Quality.BILLABLE]


@given(st.lists(st.sampled_from(list(Provenance)), max_size=6))
def test_weakest_provenance_is_order_free(parts):
    """A chain is as good as its weakest link, whichever way it is read."""
    weakest = Provenance.weakest(*parts)
    assert weakest == Provenance.weakest(*reversed(parts))
    assert weakest in parts or not parts
    assert Provenance.weakest(weakest, Provenance.SIMULATED) is Provenance.SIMULATED
    assert Provenance.weakest() is Provenance.MEASURED
