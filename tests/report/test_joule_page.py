"""The Joule curve's part of the report: what stands in its figures and tables, with and without prices."""

from __future__ import annotations

import pytest

from pytest_physics.config import load_settings
from pytest_physics.experiments.joule_curve import Arm, run_joule_curve
from pytest_physics.record.data import RecordedRun
from pytest_physics.report.pages import joule as joule_page
from pytest_physics.report.sections import PAGES
from pytest_physics.session import Session
from pytest_physics.workloads.select import language_model_for

PRICES = {"electricity": {"per_kwh": 0.3, "currency": "EUR", "source": "a tariff", "date": "2026-01-15"}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short sweep of both phases on a twin, with a price of electricity and none of carbon, and a batch that does not fit."""
    directory = tmp_path_factory.mktemp("joule-page")
    options = {
        "device": "twin:a100", "baseline": {"settle_s": 20.0, "duration_s": 40.0}, "prices": PRICES,
        "experiment": {"batches": (1, 2, 4), "repetitions": 3},
    }  # fmt: skip
    with Session.start(load_settings(directory, overrides=options), directory=directory) as session:
        arms = [Arm(phase=phase, batch=b, context=32, new_tokens=n) for phase, n in (("prefill", 0), ("decode", 16)) for b in (1, 2, 4)]
        arms.append(Arm(phase="decode", batch=10**6, context=32, new_tokens=16))
        run_joule_curve(session.rig.gpu, session, language_model_for(session.rig.gpu.device), arms=arms, start="cold")
    return RecordedRun(session.path)


@pytest.fixture(scope="module")
def tables(run):
    return {table.caption: table for table in joule_page.tables(run, run.reader.results)}


def table_of(tables, words):
    return next(table for caption, table in tables.items() if words in caption)


def test_the_experiment_has_this_page():
    """The section finds it by the experiment's name."""
    assert PAGES["joule curve"] is joule_page


def test_curve_and_pareto_front_are_drawn_and_say_what_is_simulated(run):
    """Both phases in both figures; the same bytes every time."""
    drawings = joule_page.drawings(run, run.reader.results)
    assert [drawing.id for drawing in drawings] == ["fig-joule-curve", "fig-joule-pareto"]
    for drawing in drawings:
        assert "simulated" in drawing.svg
        assert "gpu: prefill, context 32" in drawing.svg
        assert "gpu: decode, context 32, new tokens 16" in drawing.svg
    assert "plateau ± U" in drawings[0].svg
    assert [d.svg for d in joule_page.drawings(run, run.reader.results)] == [d.svg for d in drawings]


def test_the_law_stands_with_its_verdict(tables):
    """One row a phase, with the best batch of decode."""
    table = table_of(tables, "The law of each series")
    decode = next(row for row in table.rows if "decode" in row[0])
    assert decode[4] == "one line fits"
    assert decode[5] == "4"
    assert "±" in decode[1]


def test_every_cell_says_where_its_number_comes_from(tables):
    """Simulated, derived, assumed; and NOT_TESTED with what to add where nothing is stated."""
    table = table_of(tables, "decode, context 32, new tokens 16: the same energies")
    assert "0.3 EUR/kWh (a tariff, 2026-01-15)" in table.caption
    assert "to add it: [tool.physics.prices.carbon]" in table.caption
    assert table.columns[5] == "EUR per million tokens"
    for row in table.rows:
        assert [cell.rpartition(" ")[2] for cell in row[1:]] == ["simulated", "derived", "derived", "derived", "assumed", "NOT_TESTED"]


def test_the_order_and_the_arms_left_out_are_listed(tables):
    """Block by block, and the reason of the one that did not run."""
    order = table_of(tables, "Order of arms")
    assert len(order.rows) == 3
    assert "declared cold" in order.caption
    assert order.rows[0][1].split(" → ") == order.rows[1][1].split(" → ")[::-1]
    left = table_of(tables, "not measured")
    assert left.rows == [("decode 1000000 (32+16)", left.rows[0][1])]
    assert "NOT_TESTED" in left.rows[0][1]


def test_times_alone_are_drawn_where_no_energy_is(run):
    """A CPU without a counter has its times."""
    times = [record for record in run.reader.results if record.quantity in {"time per token", "latency"}]
    drawings = joule_page.drawings(run, times)
    assert [drawing.id for drawing in drawings] == ["fig-joule-time"]
    assert not any("same energies" in table.caption for table in joule_page.tables(run, times))
