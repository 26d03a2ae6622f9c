"""The study of work beside a window: what its table counts, and one specimen through all of it."""

from __future__ import annotations

import pytest
from benchmark_scripts import script

from pytest_physics.metrology.uncertainty import Gate

study = script("beside_study")


def case(*, refused, intensity=0.0, length_s=0.0, without=()):
    """One window."""
    gate = Gate(name="x", scope="w", measured=1.0, limit=0.0, unit="W", passed=not refused, reason="", remedy="")
    return study.Case(without=without, intensity=intensity, length_s=length_s, gates=(gate,))


@pytest.mark.parametrize(("alarms", "verdict"), [(1, "met"), (2, "**missed**")])
def test_false_alarms_are_judged_at_their_limit(alarms, verdict):
    """Boundary pair at 1 % of clean windows."""
    cases = [case(refused=number < alarms) for number in range(100)]
    assert str(study.rows(cases)[0]).endswith(f"{alarms} of 100 | {verdict} |")


@pytest.mark.parametrize(("seen", "verdict"), [(99, "met"), (98, "**missed**")])
def test_long_heavy_work_must_be_seen(seen, verdict):
    """Boundary pair at 99 %; what is short or light is stated only."""
    cases = [case(refused=number < seen, intensity=0.5, length_s=1.5) for number in range(100)]
    (row,) = [row for row in study.rows(cases) if row.what == "seen: 50% of the largest load for 1.5 s, utilisation present"]
    assert str(row).endswith(f"{seen} of 100 | {verdict} |")
    light = [row for row in study.rows(cases) if row.what.startswith("seen: 2%")]
    assert all(row.met and row.verdict == "stated" for row in light)


@pytest.mark.parametrize("preset", ["a100", "k40"])
def test_one_specimen_through_the_whole_study(preset):
    """A fixed seed: nothing quiet is refused, nothing long and heavy is missed, with and without utilisation."""
    for without in study.WITHOUT:
        found = study.specimen(preset, without, seed=3, windows=12)
        assert not any(one.refused for one in found if not one.intensity)
        assert all(one.refused for one in found if one.intensity >= study.LARGE and one.length_s >= study.LONG_S)
        assert any(one.intensity for one in found)
