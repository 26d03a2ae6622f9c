"""Of two devices under one load, which loses speed first, and is that more than chance?"""

from __future__ import annotations

import pytest

from pytest_physics.experiments.component_differential import record_rules, rule_number, run_contrast, run_twin_contrast
from pytest_physics.metrology.instability import INSTABILITY


def against_control(rig, *, hot):
    """A twin against a control with a known answer."""
    if not rig.gpu.simulated:
        pytest.skip("only a simulated card has a control with a known answer")
    return run_twin_contrast(rig.gpu, rig.session, hot=hot)


@pytest.fixture(scope="module")
def hot(rig):
    """A card that slows down for heat early, against this card."""
    return against_control(rig, hot=True)


@pytest.fixture(scope="module")
def equal(rig):
    """An equal card of another seed, against this card."""
    return against_control(rig, hot=False)


@pytest.fixture(scope="module")
def rules(rig):
    """What every event rule can and cannot do, on record."""
    record_rules(rig.session)
    return rig.session


@pytest.fixture(scope="module")
def differential(rig):
    """The GPU against the CPU, loaded at the same time."""
    return run_contrast(rig.gpu, rig.cpu, rig.session)


@pytest.mark.claim("The card that slows down earlier is found: it loses speed for longer, and more often")
def test_hot_card_fails_first(hot, judge):
    judge(hot.share > 0.0)
    judge(hot.rate > 0.0)


@pytest.mark.claim("Between two equal cards no difference of more than 5 % of the time is found")
def test_equal_cards_do_not_differ(equal, judge):
    judge(equal.share <= 0.05)
    judge(equal.share >= -0.05)


@pytest.mark.claim("The event rule raises an alarm in at most 5 % of the time on idle, and finds at least 85 % of injected throttling")
def test_rule_can_do_what_it_says(rules, judge):
    judge(rule_number(rules, INSTABILITY.id, "idle") <= 0.05)
    judge(rule_number(rules, INSTABILITY.id, "detection") >= 0.85)


@pytest.mark.claim("Under their loads neither GPU nor CPU loses speed more often than the other, by 20 % of the time")
def test_components_fail_alike(differential, judge):
    judge(differential.share <= 0.2)
    judge(differential.share >= -0.2)
