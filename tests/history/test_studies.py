"""The studies of the history run at a fixed seed: false alarms, power, and what many runs cost."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from pytest_physics.history.entries import read_entry
from pytest_physics.metrology.decision import Verdict

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def script(name):
    """A script of ``benchmarks/`` as a module."""
    spec = importlib.util.spec_from_file_location(f"study_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def importable():
    """Scripts import the page beside them."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def regression():
    return script("regression_study")


@pytest.mark.parametrize("changes", [{}, {"own": 0.01, "between": 0.001}, {"new": 2}, {"earlier": 5}])
def test_unchanged_run_is_rarely_called_worse(regression, changes):
    """At most 2.5 %, within what 1,500 seeded histories can say."""
    found = regression.share(np.random.default_rng(11), regression.History(**changes), 1500)
    assert found <= 0.025 + 2.6 * math.sqrt(0.025 * 0.975 / 1500)


def test_two_new_runs_find_three_percent(regression):
    """Nine times in ten at ten earlier runs of 1 % spread; one new run cannot, by any test."""
    rng = np.random.default_rng(12)
    assert regression.share(rng, regression.History(new=2, change=0.03), 600) >= 0.90
    assert regression.share(rng, regression.History(new=1, change=0.03), 600) <= regression.best_power(10, 1) < 0.82


def test_change_beyond_the_claim_is_refuted(regression):
    """Ten per cent worse where five were allowed."""
    found = regression.share(np.random.default_rng(13), regression.History(earlier=12, change=0.10), 200, delta=0.05, of=Verdict.REFUTED)
    assert found >= 0.9


def test_generated_runs_are_runs(tmp_path):
    """What the scale study indexes is read like any other run, with as many values."""
    scale = script("history")
    template = scale.Template.of(scale.ROOT / "reports" / "twin-rtx4080-laptop", 12)
    first, second = (read_entry(path) for path in scale.generate(tmp_path, template, 2, seed=0))
    assert (first.state, len(first.values)) == ("usable", len(template.lines))
    assert second.t_ms - first.t_ms == 86_400_000
    assert first.values[0].conditions == second.values[0].conditions
    assert first.values[0].value != second.values[0].value


@pytest.mark.parametrize(("power", "year"), [(1.0, 36.5), (2.0, 36.5**2)])
def test_figures_are_carried_on_by_their_own_exponent(power, year):
    """A power law comes back."""
    scale = script("history")
    zero = dict.fromkeys(scale.Figures.__dataclass_fields__, 0.0)
    found = [scale.Figures(**{**zero, "runs": n, "build_s": (n / 10_000) ** power}) for n in (1000, 3000, 10_000)]
    assert scale.carried(found, "build_s") == (pytest.approx(power), pytest.approx(year))
