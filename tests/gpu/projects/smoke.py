"""The shortest run there is."""

from __future__ import annotations

import pytest


@pytest.mark.claim("A window lasts less than a minute")
def test_duration(rig, judge):
    with rig.gpu.window("moment") as window:
        pass
    assert rig.gpu.simulated or window.t1_ns > window.t0_ns
    rig.require("gpu.power_w")
