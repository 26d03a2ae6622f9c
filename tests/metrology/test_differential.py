"""Component differential: paired, cluster-aware, with published numbers, and refused where it would be one of something else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rle_recordings import JOINT, session_columns

from pytest_physics.metrology.differential import (
    Component,
    efficiency_difference,
    event_rate_difference,
    mcnemar,
    newcombe_paired,
    paired_difference,
    paired_trials,
    rate_difference,
)
from pytest_physics.metrology.instability import event_rate
from pytest_physics.metrology.refusal import RefusedError


def flags_of(only_a, only_b, both, neither):
    a = np.repeat([True, False, True, False], [only_a, only_b, both, neither])
    b = np.repeat([False, True, True, False], [only_a, only_b, both, neither])
    return a, b


def component(name, flags, *, loaded=True, rule="instability/1", **channels):
    n = len(flags)
    default = {"power_w": np.random.default_rng(1).normal(100, 5, n)}
    return Component(name=name, flags=np.asarray(flags), loaded=np.full(n, loaded), channels=channels or default, rule=rule)


def test_newcombe_of_the_published_example():
    """Newcombe 1998 (Statist. Med. 17, 2635): 36 both, 12 and 2 discordant, 0 neither; method 10 gives 0.0569 to 0.3404."""
    a, b = flags_of(only_a=12, only_b=2, both=36, neither=0)
    low, high = newcombe_paired(a, b)
    assert (low, high) == (pytest.approx(0.0569, abs=2e-3), pytest.approx(0.3404, abs=2e-3))


@pytest.mark.parametrize(("only_a", "only_b", "p"), [(9, 0, 0.004), (29, 20, 0.25), (0, 0, 1.0)])
def test_mcnemar_of_the_seed_claim(only_a, only_b, p):
    """RLE study §7.1: 29/55 against 20/55, b − c = 9: p from 0.004 to 0.25 whatever the pairing was."""
    assert mcnemar(only_a, only_b) == pytest.approx(p, abs=0.005)


def test_runs_of_flags_are_no_trials():
    """The same share of discordant ticks, scattered or in runs: McNemar by ticks cannot tell, N_eff can."""
    rng = np.random.default_rng(2)
    scattered = paired_difference(rng.random(400) < 0.3, rng.random(400) < 0.2)
    clustered = paired_difference(np.repeat(rng.random(20) < 0.3, 20), np.repeat(rng.random(20) < 0.2, 20))
    assert scattered.design_effect < 2
    assert clustered.design_effect > 8
    assert clustered.high - clustered.low > 2 * (scattered.high - scattered.low)
    assert clustered.needed_ticks == pytest.approx(clustered.needed_trials * clustered.design_effect)


def test_clustered_flags_of_equal_rates_are_rarely_told_apart():
    """Coverage under runs of ten ticks: the interval contains 0 in nine of ten, McNemar by ticks in fewer than six of ten."""
    rng = np.random.default_rng(3)
    inside = by_ticks = 0
    for _ in range(200):
        found = paired_difference(np.repeat(rng.random(60) < 0.3, 10), np.repeat(rng.random(60) < 0.3, 10))
        inside += found.low <= 0 <= found.high
        by_ticks += found.p_ticks > 0.05
    assert inside >= 180
    assert by_ticks < 130


def test_a_real_difference_is_found():
    """One device flagged in 40 % of the ticks, the other in 5 %."""
    rng = np.random.default_rng(4)
    found = rate_difference(component("cpu", rng.random(400) < 0.4), component("gpu", rng.random(400) < 0.05))
    assert found.distinguishable
    assert found.p < 1e-6
    assert "cpu" in str(found)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(1, 40))
def test_the_interval_contains_the_difference(only_a, only_b, both, neither):
    """And stays within −1 and 1; swapping the devices mirrors it."""
    a, b = flags_of(only_a, only_b, both, neither)
    low, high = newcombe_paired(a, b)
    value = a.mean() - b.mean()
    assert -1 - 1e-9 <= low <= value + 1e-9
    assert value - 1e-9 <= high <= 1 + 1e-9
    assert newcombe_paired(b, a) == pytest.approx((-high, -low))


def test_needed_pairs_by_connor():
    """Discordant 0.2 and 0.1: about 234 independent pairs for 80 % power at 5 % (textbook formula)."""
    assert paired_trials(0.2, 0.1) == pytest.approx(234, abs=2)
    assert paired_trials(0.1, 0.1) == float("inf")


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_an_idle_device_is_refused():
    """The 200 W GPU of the seed claim drew 24.9 W: no contrast of thermal states."""
    flags = np.zeros(100, dtype=bool)
    with pytest.raises(RefusedError, match=r"gpu was under load in 0\.0%"):
        rate_difference(component("cpu", flags), component("gpu", flags, loaded=False))


def test_a_constant_channel_is_refused():
    """The CPU's 50 °C of every session."""
    logged = session_columns(JOINT[0], "cpu")
    flags = logged["collapse"] == 1
    with pytest.raises(RefusedError, match="'temp_c' of cpu is 50 in all 180 ticks"):
        rate_difference(component("cpu", flags, temp_c=logged["temp_c"]), component("gpu", flags))
    means = np.diff(np.cumsum(np.full(flags.size + 1, 0.1)))  # means over ticks of a constant: they differ by rounding
    assert np.ptp(means) > 0
    with pytest.raises(RefusedError, match=r"'power_w' of cpu is 0.1 in all 180 ticks"):
        rate_difference(component("cpu", flags, power_w=means), component("gpu", flags))


@pytest.mark.parametrize(("other", "message"), [
    ({"rule": "rle/collapse-v2"}, "the difference would be one of rules"),
    ({"flags": np.zeros(99, dtype=bool)}, "has 100 ticks, gpu has 99"),
])  # fmt: skip
def test_different_rules_and_different_ticks_are_refused(other, message):
    """A contrast needs one rule and one grid."""
    flags = np.zeros(100, dtype=bool)
    with pytest.raises(RefusedError, match=message):
        rate_difference(component("cpu", flags), component("gpu", **{"flags": flags, **other}))


@pytest.mark.parametrize(("n", "refused"), [(19, True), (20, False)])
def test_too_few_ticks_are_refused(n, refused):
    """Boundary pair."""
    flags = np.arange(n) % 3 == 0
    if refused:
        with pytest.raises(RefusedError, match="19 paired ticks"):
            rate_difference(component("cpu", flags), component("gpu", flags))
    else:
        assert rate_difference(component("cpu", flags), component("gpu", flags)).value == 0


# --- rates and efficiency ---------------------------------------------------------------------------------------------


def test_two_rates_of_events():
    """12 events against 2 in an hour each: told apart; 3 against 2: not."""
    assert event_rate_difference(event_rate(12, 3600), event_rate(2, 3600)).distinguishable
    close = event_rate_difference(event_rate(3, 3600), event_rate(2, 3600))
    assert not close.distinguishable
    assert close.p == pytest.approx(1.0)
    assert close.needed > 10


def test_a_rate_without_exposure_is_refused():
    """0 of 0 is no rate."""
    with pytest.raises(RefusedError, match="never under load"):
        event_rate_difference(event_rate(3, 3600), event_rate(0, 0.0))


def test_paired_efficiencies_cancel_what_both_share():
    """A common wander of 20 % hides a difference of 2 % only where the pairs are broken."""
    rng = np.random.default_rng(6)
    common = 1 + 0.2 * np.sin(np.arange(300) / 30)
    a, b = common + 0.02 + rng.normal(0, 0.02, 300), common + rng.normal(0, 0.02, 300)
    found = efficiency_difference(a, b)
    assert found.low > 0
    assert found.value == pytest.approx(0.02, abs=0.006)
    assert not efficiency_difference(rng.permutation(a), b - 0.02 + 0.02).low > 0
