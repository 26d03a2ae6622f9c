"""The shortest run there is."""

from __future__ import annotations

import pytest


@pytest.mark.needs("gpu.power_w")
@pytest.mark.claim("A window that is closed at once lasts less than a minute")
def test_duration(rig, judge):
    with rig.gpu.window("moment") as window:
        rig.gpu.sleep(0.01)
    judge(window.duration <= 60)
