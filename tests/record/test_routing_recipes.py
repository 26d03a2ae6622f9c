"""A recorded sweep: its numbers follow from its tables, and each gate fires on its fault."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from pytest_physics.config import RoutingSettings, load_settings
from pytest_physics.errors import ChannelUnavailableError, ConfigurationError
from pytest_physics.experiments.routing_sweep import RoutingSweep, record_published, run_routing_sweep
from pytest_physics.metrology import routing
from pytest_physics.metrology.quality import Provenance
from pytest_physics.metrology.thermal_field import FIELDS
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.leaves.routing import Sweep
from pytest_physics.record.recipes import evaluate
from pytest_physics.record.verify import verify_run
from pytest_physics.report.pages import routing as routing_page
from pytest_physics.session import Plan, Session

pytest.importorskip("torch")
SMALL = {"lambdas_per_j": [0.0, 0.5], "sequences": 2, "features": 16, "batches": 24, "block": 2}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A small sweep of all routers on twelve gates, finished."""
    directory = tmp_path_factory.mktemp("routing")
    settings = load_settings(directory, overrides={"routing": SMALL})
    with Session.start(settings, Plan.using({}), directory=directory) as session:
        sweep = run_routing_sweep(session)
        published = record_published(session)
        session.result("routing sweep", "published energy", published.of("energy"))
    return session, sweep, published


@pytest.fixture
def edited(recorded):
    """The same sweep with an edit of its table of points; what was computed from the table is forgotten."""
    session, sweep, _ = recorded
    table = sweep.tables["points"]
    before, memory = session.tables[table].copy(), dict(session.memory)

    def edit(change):
        rows = before.copy()
        session.tables[table] = change(rows)
        session.memory = {key: value for key, value in session.memory.items() if not key.startswith("routing|")}
        return sweep

    yield edit
    session.tables[table], session.memory = before, memory


def refused(estimate):
    """Names of the gates that refuse."""
    return {gate.name for gate in estimate.gates if gate.refuses}


def test_a_recorded_sweep_verifies(recorded):
    """Every result follows from the tables alone."""
    session, _, _ = recorded
    assert verify_run(session.path).findings == ()


def test_an_edited_table_is_found(recorded, tmp_path):
    """A slot moved from one expert to another changes numbers that stand elsewhere."""
    import shutil

    session, sweep, _ = recorded
    copy = shutil.copytree(session.path, tmp_path / session.path.name)
    path = copy / f"table-{sweep.tables['points']}.npy"
    rows = np.load(path)
    rows["slots_0"][-3:] += 1
    np.save(path, rows)
    problems = [finding.where for finding in verify_run(copy).findings]
    assert any("results.jsonl" in where for where in problems)


def test_numbers_are_means_over_gates_of_the_raw_counts(recorded):
    """Energy, diversity and saving of one point, from the table by hand."""
    session, sweep, _ = recorded
    rows = session.tables[sweep.tables["points"]]

    def per_gate(per_joule):
        out = []
        for gate in range(12):
            own = rows[(rows["router"] == "penalised") & (rows["per_joule"] == per_joule) & (rows["gate"] == gate) & (rows["block"] >= 6)]
            slots = np.array([own[f"slots_{e}"].sum() for e in range(8)])
            out.append((sum(own[f"energy_j_{e}"].sum() for e in range(8)) / slots.sum(), routing.miller_madow(slots)))
        return np.array(out)

    priced, free = per_gate(0.5), per_gate(0.0)
    assert sweep.of("penalised", 0.5, "energy per slot").value == pytest.approx(priced[:, 0].mean())
    assert sweep.of("penalised", 0.5, "diversity").value == pytest.approx(priced[:, 1].mean())
    saving = sweep.of("penalised", 0.5, "saving")
    assert saving.value == pytest.approx((1 - priced[:, 0] / free[:, 0]).mean())
    assert saving.u == pytest.approx((1 - priced[:, 0] / free[:, 0]).std(ddof=1) / np.sqrt(12))
    assert saving.dof == 11
    assert saving.provenance is Provenance.SIMULATED


@pytest.mark.parametrize("router", ["penalised", "bias to Gibbs", "expert choice", "Sinkhorn", "test-time training"])
def test_clean_sweeps_pass_every_gate(recorded, router):
    """No gate fires on any saving of a sound router."""
    _, sweep, _ = recorded
    assert refused(sweep.of(router, 0.5, "saving")) == set()
    assert refused(sweep.of(router, 0.5, "saving against uniform")) == set()


def test_no_point_lies_below_the_bound(recorded):
    """The identity of recorded usage and realised costs, over all points."""
    _, sweep, _ = recorded
    assert sweep.lowest_gap().value >= -1e-9


def test_the_published_router_is_refused_a_saving(recorded):
    """Its usage rises where costs are high, its energy rises with λ, and its penalty grows with the batch."""
    _, sweep, _ = recorded
    assert {"sign of the response", "monotonicity in λ", "batch-size invariance"} <= refused(sweep.of("published", 0.5, "saving"))
    assert sweep.of("published", 0.5, "change of energy").value > 0


def test_lost_slots_are_refused(edited):
    """Conservation: tokens × k."""

    def lose(rows):
        rows["slots_1"][rows["router"] == "penalised"] -= 1
        return rows

    assert "conservation of slots" in refused(edited(lose).of("penalised", 0.5, "energy per slot"))


def test_energy_from_nowhere_is_refused(edited):
    """The parts must add up to what the field billed."""

    def spend(rows):
        rows["total_j"][rows["router"] == "penalised"] *= 1.01
        return rows

    assert "conservation of energy" in refused(edited(spend).of("penalised", 0.5, "energy per slot"))


def test_two_cost_vectors_are_refused(edited):
    """The router must be told what it pays."""

    def lie(rows):
        rows["told_j_6"] /= 4
        return rows

    assert "one cost vector" in refused(edited(lie).of("penalised", 0.5, "energy per slot"))


def test_too_few_gates_are_refused(edited):
    """Eleven gates have a control, twelve are needed."""
    sweep = edited(lambda rows: rows[rows["gate"] < 11])
    assert "paired control" in refused(sweep.of("penalised", 0.5, "energy per slot"))


def test_gates_without_a_control_cannot_be_compared(edited):
    """A gate that λ = 0 lacks has no pair."""
    sweep = edited(lambda rows: rows[(rows["gate"] < 11) | (rows["per_joule"] > 0)])
    with pytest.raises(ChannelUnavailableError, match="not paired"):
        sweep.of("penalised", 0.5, "saving")


def test_a_wrong_baseline_is_refused(edited):
    """Null test: uniform routing must cost what the baseline says."""

    def cheapen(rows):
        own = (rows["router"] == "uniform") & (rows["block"] >= 6)
        rows["slots_0"][own] += 40
        return rows

    assert "null test of the baseline" in refused(edited(cheapen).of("penalised", 0.5, "saving against uniform"))


def test_a_saving_out_of_reach_has_no_number(recorded):
    """Ninety per cent is beyond the ceiling: a gate says so, and there is no value."""
    _, sweep, _ = recorded
    found = sweep.at_saving("penalised", 0.9, "diversity given up")
    assert np.isnan(found.value)
    assert refused(found) == {"saving reached"}


def test_points_that_were_not_run_are_not_tested(recorded):
    """With the setting that left them out."""
    _, sweep, _ = recorded
    with pytest.raises(ChannelUnavailableError, match=r"no points of the router 'penalised' at λ = 0\.3 /J; see 'routing\.points'"):
        sweep.of("penalised", 0.3, "diversity")
    with pytest.raises(ConfigurationError, match="no quantity 'diversities'"):
        sweep.of("penalised", 0.5, "diversities")


def test_the_published_figures_are_recomputed(recorded):
    """2525 J, −31.51 % on its own baseline, −16.67 % for uniform routing on it; −12.72 % against uniform."""
    _, _, published = recorded
    assert published.of("energy").value == 2525
    assert published.of("saving on its own baseline").value == pytest.approx(-0.315104, abs=1e-6)
    assert published.of("saving of uniform routing on its own baseline").value == pytest.approx(-1 / 6)
    assert published.of("saving against uniform").value == pytest.approx(-0.1272, abs=1e-4)
    assert published.of("effective λ", study="sweep", per_joule=0.5).value == pytest.approx(-0.732, abs=1e-3)
    assert abs(published.spread().value) < 2


def test_one_named_point_is_recorded_without_results(tmp_path):
    """One job of an array: raw counts only, because one gate has no interval."""
    overrides = {"routing": {**SMALL, "points": ["bias to Gibbs@0.5#3"]}}
    with Session.start(load_settings(tmp_path, overrides=overrides), Plan.using({}), directory=tmp_path) as session:
        sweep = run_routing_sweep(session)
    assert session.results == []
    assert set(session.tables[sweep.tables["points"]]["gate"]) == {3}
    assert verify_run(session.path).findings == ()


def test_the_page_draws_every_figure_and_the_same_again(recorded):
    """Four figures and three tables from the run directory alone; a figure drawn twice is the same."""
    session, _, _ = recorded
    run = RecordedRun(session.path)
    drawn = routing_page.drawings(run, run.reader.results)
    assert len(drawn) == 4
    assert all(drawing.svg for drawing in drawn)
    again = routing_page.saving_figure(routing_page.sweep_of(RecordedRun(session.path), run.reader.results))
    assert again.svg == drawn[3].svg
    *_, published = tables = routing_page.tables(run, run.reader.results)
    assert len(tables) == 3
    assert {verdict for _, verdict, _ in published.rows} == {"REFUTED"}
    assert any("-12.72%" in reason for _, _, reason in published.rows)


def test_temperatures_that_do_not_act_are_not_drawn(recorded):
    """A field without coefficient and limit: the panel says so."""
    session, sweep, _ = recorded
    whole = Sweep.of(session, sweep.tables["whole"], sweep.tables["whole_experts"])
    assert not whole.acts
    assert "Temperature does not act in this field" in routing_page.use_figure(whole, 0.2).svg


def test_live_and_recorded_agree(recorded):
    """The same recipe on the run directory gives the same number."""
    session, sweep, _ = recorded
    assert isinstance(sweep, RoutingSweep)
    live = sweep.at_saving("bias to Gibbs", 0.1, "distance to the frontier")
    assert evaluate(live.recipe, RecordedRun(session.path)).value == live.value


def test_the_settings_know_every_field():
    """The names in the settings are those of the presets: a wrong one is refused before anything runs."""
    assert set(get_args(RoutingSettings.model_fields["field"].annotation)) == set(FIELDS)


@pytest.mark.parametrize("field", ["graded", "cooling"])
def test_other_fields_are_swept_too(field, tmp_path):
    """Costs in equal steps, and costs that temperature alone makes unequal: every result has its number, and a price saves."""
    settings = load_settings(tmp_path, overrides={"routing": {**SMALL, "field": field}})
    with Session.start(settings, Plan.using({}), directory=tmp_path) as session:
        sweep = run_routing_sweep(session)
    assert all(record.estimate.value is not None for record in session.results)
    assert sweep.of("penalised", 0.5, "saving").value > 0
    assert sweep.lowest_gap().value >= -1e-9
    drawn = routing_page.drawings(RecordedRun(session.path), session.results)
    assert all(drawing.svg or "cost the same" in drawing.caption for drawing in drawn)


def test_the_evidence_names_every_table(recorded):
    """A claim leads to the files that it rests on."""
    session, sweep, published = recorded
    named = session.evidence(sweep.of("penalised", 0.5, "saving").recipe)
    assert set(named) == {f"table-{table}.npy" for table in sweep.tables.values()}
    assert session.evidence(published.of("energy").recipe) == (f"table-{published.table}.npy",)
