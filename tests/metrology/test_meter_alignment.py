"""A reference meter's recording is placed on the load's clock by the load itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_physics.metrology.meter_alignment import align
from pytest_physics.metrology.refusal import RefusedError
from pytest_physics.metrology.sensor_fit import Load, telegraph

LOAD = telegraph(4, duration_s=12.0, update_period_s=0.1)


def recording(load, *, offset_s, step_s=0.01, noise_w=1.0, before_s=3.0, after_s=4.0, seed=0):
    t_s = np.arange(load.edge_s[0] - before_s, load.edge_s[-1] + after_s, step_s)
    power = 20 + 100 * load.level[np.searchsorted(load.edge_s, t_s, side="right")]
    return t_s + offset_s, power + np.random.default_rng(seed).normal(0, noise_w, len(t_s))


@given(offset_s=st.floats(-1e5, 1e5), step_s=st.sampled_from([0.002, 0.01, 0.05]), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_any_offset_is_found(offset_s, step_s, seed):
    """Whatever the meter's clock says and however fast it samples, the place is found to its sampling."""
    found = align(*recording(LOAD, offset_s=offset_s, step_s=step_s, seed=seed), LOAD)
    assert abs(found.offset_s - offset_s) <= step_s
    assert found.correlation > 0.6


def test_noise_as_large_as_the_swing_is_refused():
    """A load that drowns is not seen."""
    with pytest.raises(RefusedError, match="correlation"):
        align(*recording(LOAD, offset_s=1.0, noise_w=300.0), LOAD)


def test_short_recording_is_refused():
    """The recording must hold the load and a little idle time on both sides."""
    with pytest.raises(RefusedError, match="the recording lasts"):
        align(*recording(LOAD, offset_s=0.0, before_s=0.1, after_s=0.1), LOAD)
    assert align(*recording(LOAD, offset_s=0.0, before_s=0.25, after_s=0.25), LOAD).offset_s == pytest.approx(0.0, abs=0.01)


def test_periodic_load_fits_at_two_places():
    """A square wave that goes on outside of what is known of it is the same one period later: refused."""
    whole = Load(edge_s=np.arange(0, 60.0, 1.5), level=np.resize([0.0, 1.0], 41))
    inner = Load(edge_s=whole.edge_s[10:18], level=whole.level[10:19])
    with pytest.raises(RefusedError, match="two places"):
        align(*recording(whole, offset_s=0.0), inner)


def test_constant_recording_is_refused():
    """A meter on another machine shows nothing."""
    t_s, _ = recording(LOAD, offset_s=0.0)
    with pytest.raises(RefusedError, match="correlation"):
        align(t_s, np.full(len(t_s), 50.0), LOAD)
