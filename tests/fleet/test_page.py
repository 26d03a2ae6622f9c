"""The fleet's page: its numbers are those of the runs, and it compares only what may be compared."""

from __future__ import annotations

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
    assert [host["verdicts"]["toy.energy"] for host in data["hosts"]] == ["VALIDATED"] * 5 + ["REFUTED"]
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
    result = hosts[2].numbers["token"]
    estimate = result.estimate.model_copy(update={"value": 2 * result.estimate.value})
    odd = replace(hosts[2], numbers={**hosts[2].numbers, "token": result.model_copy(update={"estimate": estimate})})
    (token,) = [group for group in group_models([*hosts[:2], odd, *hosts[3:]]) if group.metric.key == "token"]
    assert [host.name for host, _ in token.outliers] == ["p2@n2"]


def test_a_published_copy_leads_to_its_reports(fleet, page, tmp_path):
    """The same page; every address in it is a file beside it; no raw trace; published again it is replaced."""
    for _ in range(2):
        published = publish_fleet(fleet, tmp_path / "out")
    assert published.read_text(encoding="utf-8") == page
    links = {unquote(link.partition("#")[0]) for link in re.findall(r'href="(\./[^"]+)"', page)}
    assert len(links) == 1  # one run has a report
    assert all((tmp_path / "out" / link).is_file() for link in links)
    assert not list((tmp_path / "out").rglob("*.npy"))


def test_publishing_overwrites_nothing_of_others(fleet, tmp_path):
    """A directory with files of somebody else's is refused, and kept."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RecordError, match="other files"):
        publish_fleet(fleet, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
