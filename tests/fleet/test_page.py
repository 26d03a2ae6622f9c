"""The fleet's page: its numbers are those of the runs, and it compares only what may be compared."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from urllib.parse import unquote

import pytest
from fleet.fleets import Engine, new_fleet, publish

from pytest_physics.errors import RecordError
from pytest_physics.fleet.collect import collect
from pytest_physics.fleet.compare import comparisons, forbidden, group_models
from pytest_physics.fleet.evidence import best_batch, read_hosts, refused
from pytest_physics.fleet.executor import TaskState, TaskStatus
from pytest_physics.fleet.figures import hardware_drawings
from pytest_physics.fleet.page import build_page
from pytest_physics.fleet.publish import publish_fleet
from pytest_physics.record.schema import GateRecord
from pytest_physics.report.build import build_report


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """Five specimens of one card and one of another; the last claim is refuted."""
    folder = new_fleet(tmp_path_factory.mktemp("page"), 7)
    for task in range(5):
        publish(folder, task, node=f"n{task}", seed=task)
    publish(folder, 5, node="n5", device="twin:a100", joules=0.001, report=build_report)
    collect(folder, Engine({task: TaskStatus(state=TaskState.ENDED) for task in range(7)}))
    return folder


@pytest.fixture(scope="module")
def hosts(fleet):
    from pytest_physics.fleet.collect import last_collected

    return read_hosts(fleet.path, last_collected(fleet).rows)[0]


@pytest.fixture(scope="module")
def page(fleet):
    return build_page(fleet).read_text(encoding="utf-8")


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page)[1])


def test_every_number_is_that_of_its_run(fleet, page):
    """Value and interval of each host are those of the result that the page names, in ``results.jsonl``."""
    data = data_of(page)
    rows = {row["identity"]: row for row in data["tasks"]}
    checked = 0
    for host in data["hosts"]:
        lines = (fleet.path / rows[host["identity"]]["run"] / "results.jsonl").read_text().splitlines()
        results = {record["id"]: record for record in map(json.loads, lines)}
        for number in host["numbers"].values():
            estimate = results[number["result"]]["estimate"]
            assert (number["value"], number["expanded"], number["unit"]) == (estimate["value"], estimate["expanded"], estimate["unit"])
            checked += 1
    assert checked == 12


def test_verdicts_and_outcomes_stand_in_the_matrix(page):
    """One refuted claim leads to its details; the task without a run is lost and in no row of hosts."""
    data = data_of(page)
    (column,) = [i for i, claim in enumerate(data["claims"]) if claim == "toy.energy"]
    assert [data["letters"][host["verdicts"][column]] for host in data["hosts"]] == ["VALIDATED"] * 5 + ["REFUTED"]
    cells = re.findall(r"</th>((?:<td.*)+)</tr>", page[page.index('class="matrix"') : page.index("<tfoot>")])
    assert [row.split("<td")[1 + column][:2] for row in cells] == [">✓"] * 5 + [" c"]
    assert re.search(r'href="\./runs/7_5%40n5/[^"]*/report\.html#claim-toy-energy[^"]*" aria-label="REFUTED"', page)
    assert "6 of 7 runs merged; 1 lost" in page
    assert "validated, of those that tested it" in page
    assert "5 of 6" in page


def test_the_page_stands_alone(page):
    """No address outside, no script, light and dark, and the rule that forbids anything else."""
    assert "default-src 'none'" in page
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert page.count("<script") == 1
    assert "prefers-color-scheme: dark" in page


def test_the_same_collection_gives_the_same_bytes(fleet, page):
    """Nothing in it depends on when it was built."""
    assert build_page(fleet).read_text(encoding="utf-8") == page


def test_names_from_files_cannot_inject(made_fleet):
    """A point's reason is text, whatever it holds."""
    folder = made_fleet()
    collect(folder, Engine({0: TaskStatus(state=TaskState.ENDED, node="<script>alert(1)</script>")}))
    assert "<script>alert" not in build_page(folder).read_text()


def test_the_best_batch_is_the_cheapest_that_may_be_used(hosts):
    """A refused one is left out, however cheap."""
    best = hosts[0].numbers["token"]
    assert best.coordinates["batch"] == 2
    bad = GateRecord(name="throttling", scope="x", measured=1.0, limit=0.0, unit="1", passed=False, reason="it was throttled")
    cheap = best.model_copy(update={"gates": [bad], "estimate": best.estimate.model_copy(update={"value": 1e-9})})
    assert best_batch([best, cheap]) is best
    assert "throttling" in refused(cheap)


def _pair(hosts, **changes):
    a, b = hosts[0], hosts[1]
    one, other = a.numbers["token"], b.numbers["token"]
    run = b.run.model_copy(update={key: value for key, value in changes.items() if key in {"config", "environment"}})
    device = b.device
    if "details" in changes:
        device = device.model_copy(update={"fingerprint": device.fingerprint.model_copy(update={"details": changes["details"]})})
    if "result" in changes:
        other = other.model_copy(update=changes["result"])
    return a, replace(b, run=run, device=device), one, other


def test_equal_conditions_are_compared(hosts):
    """Two specimens of one card differ in nothing that forbids it."""
    assert forbidden(*_pair(hosts)) == ""
    assert forbidden(hosts[0], hosts[5], hosts[0].numbers["token"], hosts[5].numbers["token"]) == ""


def test_what_forbids_a_comparison_is_named(hosts):
    """Gate, provenance, workload, settings, software, fingerprint: each planted alone."""
    b = hosts[1]
    gate = GateRecord(name="throttling", scope="x", measured=1.0, limit=0.0, unit="1", passed=False, reason="it was throttled")
    other = b.numbers["token"]
    planted = {
        "throttling": {"result": {"gates": [gate]}},
        "simulated": {"result": {"estimate": other.estimate.model_copy(update={"provenance": "measured"})}},
        "workload differs: phase": {"result": {"coordinates": {**other.coordinates, "phase": "prefill"}}},
        "settings differ: baseline.duration_s": {"config": {**b.run.config, "baseline": {**b.run.config["baseline"], "duration_s": 1.0}}},
        "software differs: torch": {"environment": {**b.run.environment, "torch": "0.0"}},
        "fingerprints of one model differ: power_limit_w": {"details": {**b.device.fingerprint.details, "power_limit_w": "100.0"}},
    }
    for message, changes in planted.items():
        assert message in forbidden(*_pair(hosts, **changes))


def test_pairs_hold_together(hosts):
    """Fifteen pairs share 5 %; a difference is told apart exactly where its interval does not hold zero."""
    (token,) = [item for item in comparisons(hosts) if item.metric.key == "token"]
    assert len(token.pairs) == 15
    assert token.coverage == pytest.approx(1 - 0.05 / 15)
    for pair in token.pairs:
        assert (abs(pair.difference) > pair.expanded) == (pair.finding in {"lower", "higher"})
    assert {pair.finding for pair in token.pairs if "p5" in pair.first + pair.second} == {"lower"}


def test_many_hosts_are_compared_by_groups(hosts):
    """Of more pairs than a page can show the groups' means are compared, with the hosts' spread in their uncertainty."""
    many = [replace(host, name=f"{host.name}-{i}") for i in range(3) for host in hosts]
    (token,) = [item for item in comparisons(many) if item.metric.key == "token"]
    assert token.grouped
    (pair,) = token.pairs
    assert pair.first == "rtx4080-laptop (15 hosts)"


def test_groups_are_of_equal_cards(hosts):
    """Five specimens make a group that is judged; the single other card makes none."""
    (token,) = [group for group in group_models(hosts) if group.metric.key == "token"]
    assert (token.model, token.between.n, len(token.hosts), token.outliers) == ("rtx4080-laptop", 5, 5, [])


def test_an_outlier_is_named(hosts):
    """One host twice as costly as its equals."""
    (token,) = [group for group in group_models(_odd(hosts)) if group.metric.key == "token"]
    assert [host.name for host, _ in token.outliers] == ["p2@n2"]


def _odd(hosts, name="p2@n2"):
    """The same hosts, one of them twice as costly as its equals."""
    return [_costing(host, 2.0) if host.name == name else host for host in hosts]


def _costing(host, factor, **changes):
    result = host.numbers["token"]
    estimate = result.estimate.model_copy(update={"value": factor * result.estimate.value, **changes})
    return replace(host, numbers={**host.numbers, "token": result.model_copy(update={"estimate": estimate})})


def _token_drawing(hosts):
    (found,) = [drawing for drawing in hardware_drawings(hosts, group_models(hosts)) if drawing.id == "fig-fleet-token"]
    return found


def test_cards_are_drawn_by_model_with_their_outliers(hosts):
    """A row for each model with the number of its hosts; a host that does not belong is named in drawing and caption."""
    drawing = _token_drawing(_odd(hosts))
    assert "rtx4080-laptop (5)" in drawing.svg
    assert "a100 (1)" in drawing.svg
    assert "✗ p2@n2" in drawing.svg
    assert "1 outlier (p2@n2)" in drawing.caption
    assert "✗" not in _token_drawing(hosts).svg
    assert _token_drawing(hosts).svg == _token_drawing(hosts).svg


def test_refused_numbers_are_not_drawn(hosts):
    """They are left out, and the caption names the hosts; without any other there is no drawing."""
    gate = GateRecord(name="throttling", scope="x", measured=1.0, limit=0.0, unit="1", passed=False, reason="it was throttled")
    bad = [replace(h, numbers={"token": h.numbers["token"].model_copy(update={"gates": [gate]})}) for h in hosts]
    drawing = _token_drawing([bad[0], *hosts[1:]])
    assert "rtx4080-laptop (4)" in drawing.svg
    assert drawing.caption.endswith("Left out, refused by their own gates: p0@n0.")
    assert _token_drawing(bad).svg == ""


@pytest.mark.parametrize(("n", "quantiles"), [(40, False), (41, True)])
def test_many_hosts_are_drawn_as_quantiles(hosts, n, quantiles):
    """More than forty of one model are a line each no more; the drawing does not grow with them."""
    many = [_costing(replace(hosts[0], name=f"h{i}"), 1 + 0.001 * i) for i in range(n)]
    drawing = _token_drawing(many)
    assert ("quantiles" in drawing.caption) == quantiles
    assert (len(re.findall("<use", drawing.svg)) > n) != quantiles


def test_hosts_that_ran_other_settings_are_no_group(hosts):
    """Of many hosts a mean is taken only of those that ran the same; pairs of others are counted, not compared."""
    run = hosts[0].run
    other = [replace(hosts[0], name=f"h{i}", run=run.model_copy(update={"config": {**run.config, "point": i}})) for i in range(12)]
    (token,) = [item for item in comparisons(other) if item.metric.key == "token"]
    assert (token.grouped, token.pairs, token.apart) == (True, [], 66)
    (same,) = [item for item in comparisons([*other[:1] * 6, *other[1:2] * 6]) if item.metric.key == "token"]
    assert (same.pairs, same.apart) == ([], 1)


def test_every_pair_stands_in_the_table_beside_the_page(fleet, hosts, page):
    """Unrounded, with the reason of each that was refused; the page says where."""
    rows = list(csv.DictReader((fleet.path / "comparisons.csv").read_text(encoding="utf-8").splitlines()))
    pairs = [pair for item in comparisons(hosts) for pair in item.pairs]
    assert [(row["first"], row["second"], row["finding"]) for row in rows] == [(pair.first, pair.second, pair.finding) for pair in pairs]
    assert [float(row["first_less_second"]) for row in rows] == [pair.difference for pair in pairs]
    assert 'href="./comparisons.csv"' in page


def test_a_published_copy_leads_to_its_reports(fleet, page, tmp_path):
    """The same page; every address in it is a file beside it; no raw trace; published again it is replaced."""
    for _ in range(2):
        published = publish_fleet(fleet, tmp_path / "out")
    assert published.read_text(encoding="utf-8") == page
    links = {unquote(link.partition("#")[0]) for link in re.findall(r'href="(\./[^"]+)"', page)}
    assert len(links) == 2  # one run has a report; and the comparisons
    assert all((tmp_path / "out" / link).is_file() for link in links)
    assert not list((tmp_path / "out").rglob("*.npy"))


def test_publishing_overwrites_nothing_of_others(fleet, tmp_path):
    """A directory with files of somebody else's is refused, and kept."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RecordError, match="other files"):
        publish_fleet(fleet, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
