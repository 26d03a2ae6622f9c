"""Whether anybody else was on the device in a window: counted, none, or not known."""

from __future__ import annotations

import math

import pytest

from pytest_physics.record.window_energy import _company_gates


class Inside:
    """A window's readings of the one channel."""

    def __init__(self, *counts):
        self.counts = counts

    def has(self, name):
        return name == "foreign_processes"

    def values(self, _name):
        return list(self.counts)


@pytest.mark.parametrize(
    ("counts", "passed", "words"),
    [
        ((0.0, math.nan, 0.0), True, "up to 0 foreign compute processes"),
        ((0.0, 2.0), False, "up to 2 foreign compute processes"),
        ((math.nan, math.nan), False, "could not be told"),
    ],
)
def test_not_knowing_is_not_being_alone(counts, passed, words):
    """A window in which no read succeeded has no count, and not a count of zero; the gate warns in either case."""
    (gate,) = _company_gates(Inside(*counts), "window")
    assert (gate.passed, gate.warning) == (passed, True)
    assert words in gate.reason
    assert bool(gate.remedy) is not passed


def test_a_window_without_readings_says_nothing():
    """What has no samples is judged by the gates of its gaps."""
    assert _company_gates(Inside(), "window") == ()
