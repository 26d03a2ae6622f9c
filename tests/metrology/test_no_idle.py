"""What stands in place of a baseline that was never seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytest_physics.metrology.baseline import MIN_UPDATES, assess_idle, no_idle


def test_too_few_updates_give_no_number_and_one_refusing_gate():
    """No mean, no uncertainty, nothing usable; the gate has the count and the limit."""
    found = no_idle(3, scope="gpu-b1")
    assert math.isnan(found.mean_w)
    assert math.isnan(found.u_w)
    assert not found.usable
    (gate,) = found.gates
    assert (gate.name, gate.scope, gate.measured, gate.limit) == ("idle updates", "gpu-b1", 3, MIN_UPDATES)
    assert "gave 3 updates" in gate.reason


def test_the_limit_is_that_of_the_assessment():
    """One update fewer than ``MIN_UPDATES`` cannot be assessed, and that many can."""
    t_s = np.arange(MIN_UPDATES) * 0.1
    power_w = 80 + 0.1 * np.cos(7 * t_s)
    assert assess_idle(t_s, power_w, correlation_time_s=0.1).n == MIN_UPDATES
    with pytest.raises(ValueError, match="at least 8 updates"):
        assess_idle(t_s[1:], power_w[1:], correlation_time_s=0.1)
