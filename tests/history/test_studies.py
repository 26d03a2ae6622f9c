"""The studies of the history run at a fixed seed: false alarms, power, and what many runs cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmark_scripts import script

from pytest_physics.history.entries import read_entry
from pytest_physics.metrology.decision import Verdict

scale = script("history")
regression = script("regression_study")


@pytest.mark.parametrize("changes", [{}, {"own": 0.01, "between": 0.001}, {"new": 2}, {"earlier": 5}])
def test_unchanged_run_is_rarely_called_worse(changes):
    """At most 2.5 %, within what 1,500 seeded histories can say."""
    found = regression.share(np.random.default_rng(11), regression.History(**changes), 1500)
    assert found <= 0.025 + 2.6 * math.sqrt(0.025 * 0.975 / 1500)


def test_two_new_runs_find_three_percent():
    """Nine times in ten at ten earlier runs of 1 % spread; one new run cannot, by any test."""
    rng = np.random.default_rng(12)
    assert regression.share(rng, regression.History(new=2, change=0.03), 600) >= 0.90
    assert regression.share(rng, regression.History(new=1, change=0.03), 600) <= regression.best_power(10, 1) < 0.82


def test_a_second_look_is_no_second_chance_for_a_false_alarm():
    """A second run where the first was not VALIDATED, and both together stand: at most 2.5 % again, and 3 % is found nine times in ten."""
    rng = np.random.default_rng(14)
    unchanged = [regression.looked_at_twice(rng, regression.History()) for _ in range(1500)]
    assert regression.called_worse(unchanged) <= 0.025 + 2.6 * math.sqrt(0.025 * 0.975 / 1500)
    changed = [regression.looked_at_twice(rng, regression.History(change=0.03)) for _ in range(600)]
    assert regression.called_worse(changed) >= 0.90
    advised = [regression.as_advised(rng, regression.History()) for _ in range(1500)]
    assert np.mean([found is Verdict.REFUTED for found, _ in advised]) <= 0.025 + 2.6 * math.sqrt(0.025 * 0.975 / 1500)
    either = np.mean([Verdict.REFUTED in pair for pair in unchanged])
    assert either > regression.called_worse(unchanged)


def test_change_beyond_the_claim_is_refuted():
    """Ten per cent worse where five were allowed."""
    found = regression.share(np.random.default_rng(13), regression.History(earlier=12, change=0.10), 200, delta=0.05, of=Verdict.REFUTED)
    assert found >= 0.9


def test_generated_runs_are_runs(tmp_path):
    """What the scale study indexes is read like any other run, with as many values."""
    template = scale.Template.of(scale.ROOT / "reports" / "twin-rtx4080-laptop", 12)
    first, second = (read_entry(path) for path in scale.generate(tmp_path, template, 2, seed=0))
    assert (first.state, len(first.values)) == ("usable", len(template.lines))
    assert second.t_ms - first.t_ms == 86_400_000
    assert first.values[0].conditions == second.values[0].conditions
    assert first.values[0].value != second.values[0].value


@pytest.mark.parametrize(("power", "year"), [(1.0, 36.5), (2.0, 36.5**2)])
def test_figures_are_carried_on_by_their_own_exponent(power, year):
    """A power law comes back."""
    zero = dict.fromkeys(scale.Figures.__dataclass_fields__, 0.0)
    found = [scale.Figures(**{**zero, "runs": n, "build_s": (n / 10_000) ** power}) for n in (1000, 3000, 10_000)]
    assert scale.carried(found, "build_s") == (pytest.approx(power), pytest.approx(year))


def test_a_falling_figure_is_not_carried_on_downwards():
    """More runs cost no less: an exponent below 0 is noise, and the largest measured figure stands."""
    zero = dict.fromkeys(scale.Figures.__dataclass_fields__, 0.0)
    found = [scale.Figures(**{**zero, "runs": n, "check_s": 1 / n}) for n in (1000, 3000, 10_000)]
    assert scale.carried(found, "check_s") == (pytest.approx(-1.0), 1e-4)
    (row,) = [line for line in scale.fleet_table([(100, 2.0, 2_000_000), (200, 1.0, 1_000_000)]) if "carried on" in line]
    assert "1 s | 1.0 MB" in row
