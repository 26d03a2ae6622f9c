"""Work of other processes in a window: what refuses, what warns, what says nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.metrology.foreign import foreign_work_gate
from pytest_physics.metrology.foreign_channels import FOREIGN_WORK, packed_name, unpacked_name

T_NS = np.arange(0, 3_000_000_000, 100_000_000)
T0_NS, T1_NS = 1_000_000_000, 2_000_000_000


def gate(rows=(), *, held=(), blind=False):
    """Gate of a second; ``rows`` are (instant of the reading in s, share, process, age in s, name)."""
    columns = {name: np.full(len(T_NS), np.nan if blind else 0.0) for name in FOREIGN_WORK}
    for at_s, ratio, pid, age_s, name in rows:
        for column, value in zip(FOREIGN_WORK, (ratio, pid, age_s, *packed_name(name)), strict=True):
            columns[column][round(at_s * 10)] = value
    return foreign_work_gate(T_NS, columns, np.asarray(held, float), T0_NS, T1_NS, scope="w1")


def test_a_quiet_window_passes():
    """Nobody else worked, and their memory stands."""
    assert gate(held=[5e8, 5e8, np.nan]).passed


def test_the_worker_is_named():
    """Process, name, share and time stand in the message; the largest share leads."""
    found = gate([(1.5, 0.3, 77, 0.1, "miner"), (1.6, 0.1, 78, 0.1, "other")])
    assert found.refuses
    assert "process 77 (miner), which is not this run's, used 30% of the device 0.40 s after the window began" in found.reason
    assert "1 more worked too" in found.reason


@pytest.mark.parametrize(("at_s", "age_s", "fires"), [(2.5, 0.6, True), (2.5, 0.4, False), (1.5, 0.6, False), (1.5, 0.4, True)])
def test_the_drivers_timestamp_decides(at_s, age_s, fires):
    """A sample told late belongs to the window in which it was taken; one taken before or after does not."""
    assert gate([(at_s, 0.3, 77, age_s, "")]).refuses == fires


def test_memory_that_changes_is_work():
    """A foreign process that takes memory in the window works, whatever its utilisation."""
    found = gate(held=[5e8, 6e8])
    assert found.refuses
    assert "changed by 95.37 MiB" in found.reason


def test_nobody_could_look():
    """Without one reading the gate warns and refuses nothing."""
    found = gate(blind=True)
    assert found.warning
    assert not found.passed
    assert not found.refuses


@given(st.text(max_size=20))
def test_names_survive_in_numbers(name):
    """The first twelve bytes of any name come back, exactly representable as numbers."""
    first, second = packed_name(name)
    assert max(first, second) < 2**53
    shown = unpacked_name(first, second)
    if name.isprintable() and name.isascii():
        assert shown == name[:12].rstrip("\0")


@pytest.mark.parametrize("edited", [float("nan"), -1.0, 1e300, float("inf")])
def test_numbers_that_are_no_name_are_shown_as_none(edited):
    """An edited trace breaks no message."""
    assert unpacked_name(edited, edited) == ""
