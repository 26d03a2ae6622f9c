"""One recipe, one number: while the run goes on, afterwards, in any order, whatever came later."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_physics.config import load_settings
from pytest_physics.instrument import WAIT_PERIODS
from pytest_physics.metrology.uncertainty import Recipe
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.recipes import evaluate, gates_of, latest_needed
from pytest_physics.record.registry import LEAVES
from pytest_physics.record.schema import EstimateRecord, GateRecord
from pytest_physics.sampling.trace import Trace
from pytest_physics.session import Session
from pytest_physics.workloads.twin import TwinKernel

BASELINES = ["gpu-b1", "gpu-b2"]
WINDOW = "gpu-w4"
ENERGY = {"window": WINDOW, "baselines": BASELINES, "sensor": "gpu-s0"}
SAMPLER = ("dropped", "drop_fraction", "longest_gap", "lateness_p95", "read_error_fraction")
FAMILIES = ("constant", "given", "window.", "windows.", "baseline.", "soak.", "sampler.")
"""Operations on what every run has; those that need phases or records of their own have tests of their own."""


def leaf_recipes(run: RecordedRun) -> list[Recipe]:
    """At least one recipe of every operation."""
    soak = next(phase.id for phase in run.reader.run.phases if phase.name == "soak")
    windows = {"windows": ["gpu-w1", "gpu-w2", "gpu-w3"], "work": "tokens"}
    out = [
        Recipe(op="constant", parameters={"value": 2.0, "unit": "J"}),
        Recipe(
            op="given", parameters={"value": 2.0, "unit": "J", "u": 0.1, "dof": None, "label": "x", "provenance": "assumed", "source": "x"}
        ),
        Recipe(op="window.duration", parameters={"window": WINDOW}),
        Recipe(op="window.work", parameters={"window": WINDOW, "work": "tokens"}),
        Recipe(op="windows.time_per_work", parameters=windows),
        Recipe(op="window.updates", parameters={"window": WINDOW, "sensor": "gpu-s0"}),
        Recipe(op="window.read_error_fraction", parameters={"window": WINDOW, "channel": "power_w"}),
        Recipe(op="baseline.power", parameters={"baseline": "gpu-b1"}),
        Recipe(op="soak.slope", parameters={"phase": soak}),
        Recipe(op="soak.plateau", parameters={"phase": soak}),
        *(Recipe(op=f"sampler.{name}", parameters={"phase": soak}) for name in SAMPLER),
    ]
    for kind in ("gross", "net"):
        out += [Recipe(op="window.energy", parameters={**ENERGY, "kind": kind, "estimator": name}) for name in ("counter", "power")]
        out += [
            Recipe(op="window.energy", parameters={**ENERGY, "kind": kind, "baselines": which}) for which in ([], BASELINES[:1], BASELINES)
        ]
    return out


def shown(estimate) -> tuple[str, list[str]]:
    """Everything about an estimate, to the last bit."""
    return EstimateRecord.of(estimate).model_dump_json(), [GateRecord.of(gate).model_dump_json() for gate in estimate.gates]


@pytest.fixture(scope="module")
def recorded(finished):
    return RecordedRun(finished)


def test_every_operation_is_tried_here(recorded):
    """A new recipe of these families must join the properties below."""
    assert {op for op in LEAVES if op.startswith(FAMILIES)} == {recipe.op for recipe in leaf_recipes(recorded)}


def test_the_record_is_what_was_computed_live(recorded):
    """Exactly equal, not nearly: the record was written live, and is computed again from the artifacts."""
    for result in recorded.reader.results:
        assert EstimateRecord.of(evaluate(Recipe.from_json(result.recipe), recorded)) == result.estimate
    for claim in recorded.reader.claims:
        if claim.recipe is not None:
            assert EstimateRecord.of(evaluate(Recipe.from_json(claim.recipe), recorded)) == claim.estimate


def test_order_and_repetition_do_not_matter(finished, recorded):
    """Forwards on one reading of the run, shuffled and twice on another."""
    recipes = leaf_recipes(recorded)
    forwards = {repr(recipe): shown(evaluate(recipe, recorded)) for recipe in recipes}
    again = RecordedRun(finished)
    for seed in range(2):
        for recipe in random.Random(seed).sample(recipes, len(recipes)):
            assert shown(evaluate(recipe, again)) == forwards[repr(recipe)]


class AsOf(RecordedRun):
    """The run as it was when a recipe could be computed for the first time: no later sample, no later window."""

    def __init__(self, path, rows, t_ns=None):
        super().__init__(path)
        self._rows, self._t_ns = rows, t_ns

    def trace(self, instrument):
        period_ns = self.instrument(instrument).period_ns
        rows = self._rows
        if self._t_ns is not None:  # Instrument.wait_until_sampled returns with the first sample from there on
            last = np.searchsorted(rows["t_before_ns"], self._t_ns + (WAIT_PERIODS - 1) * period_ns)
            rows = rows[: last + 1]
        return Trace(instrument=instrument, rows=rows, period_ns=period_ns)

    def window_edges(self, instrument):
        starts, ends = super().window_edges(instrument)
        if self._t_ns is None:
            return starts, ends
        return [t for t in starts if t <= self._t_ns], [t for t in ends if t <= self._t_ns]


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.sampled_from([0.0, 0.02, 0.3]), seed=st.integers(0, 2**20))
def test_later_samples_and_windows_change_nothing(finished, recorded, share, seed):
    """Each number is final when it is first computed, also where the sampler dropped ticks; otherwise verify would contradict the run."""
    rows = recorded.trace("gpu").rows
    rows = rows[np.random.default_rng(seed).random(len(rows)) >= share]
    whole = AsOf(finished, rows)
    for recipe in leaf_recipes(recorded):
        # a baseline was measured before anybody can name it
        baselines = [*recipe.parameters.get("baselines", ()), *filter(None, [recipe.parameters.get("baseline")])]
        needed = max([latest_needed(recipe, whole).get("gpu", 0), *(recorded.baseline(name).t1_ns for name in baselines)])
        assert shown(evaluate(recipe, AsOf(finished, rows, needed))) == shown(evaluate(recipe, whole)), recipe
    soak = Recipe(op="soak", parameters={"phase": next(phase.id for phase in recorded.reader.run.phases if phase.name == "soak")})
    end_ns = recorded.phase(soak.parameters["phase"]).t1_ns
    assert gates_of(soak, AsOf(finished, rows, end_ns)) == gates_of(soak, whole)


class Scene:
    """Two windows, asked for their numbers as soon as they close."""

    def __init__(self, session):
        self.gpu = session.rig.gpu
        self.load = TwinKernel(self.gpu.device)
        self.first, self.second = self.gpu.window("first"), self.gpu.window("second")
        self.live = {}

    def work(self, seconds=0.8, rest=0.3):
        self.load.run_for(seconds)
        self.gpu.sleep(rest)

    def ask(self, window):
        for estimate in (window.energy.gross, window.energy.net, window.duration):
            self.live[repr(estimate.recipe)] = estimate

    def isolated(self, seconds=0.8):
        for window in (self.first, self.second):
            self.gpu.sleep(1.0)
            with window:
                self.load.run_for(seconds)
            self.ask(window)

    def short(self):
        self.isolated(0.01)

    def nested(self):
        with self.first:
            self.work()
            with self.second:
                self.work()
            self.ask(self.second)
            self.work()
        self.ask(self.first)

    def overlapping(self):
        self.first.__enter__()
        self.work()
        self.second.__enter__()
        self.work()
        self.first.__exit__(None, None, None)
        self.ask(self.first)
        self.work()
        self.second.__exit__(None, None, None)
        self.ask(self.second)

    def next_one_open(self):
        with self.first:
            self.work()
        with self.second:
            self.ask(self.first)
            self.work()
        self.ask(self.second)

    def touching(self):
        for window in (self.first, self.second):
            with window:
                self.load.run_for(0.8)
        self.ask(self.first)
        self.ask(self.second)


@pytest.mark.parametrize("scene", [Scene.isolated, Scene.short, Scene.nested, Scene.overlapping, Scene.next_one_open, Scene.touching])
def test_energy_asked_for_at_once_is_what_the_record_says(tmp_path, scene):
    """Windows in every relation to one another, each asked for as soon as it has closed, the others perhaps still open."""
    options = {"device": "twin:rtx4080-laptop", "baseline": {"settle_s": 0.5, "duration_s": 11.0}}
    with Session.start(load_settings(tmp_path, overrides=options), directory=tmp_path) as session:
        session.rig.gpu.baseline()
        played = Scene(session)
        scene(played)
    run = RecordedRun(session.path)
    assert len(played.live) == 6
    for estimate in played.live.values():
        assert shown(evaluate(estimate.recipe, run)) == shown(estimate), estimate.recipe
