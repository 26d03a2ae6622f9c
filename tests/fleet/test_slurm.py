"""Fleets on a real Slurm: three nodes, ten tasks, and everything that goes wrong on a cluster."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fleet.fleets import Project, until

POINTS = [
    {"name": "lost-node", "env": {"TOY": "wait"}},
    {"name": "cancelled", "env": {"TOY": "wait"}},
    {"name": "killed-job", "env": {"TOY": "kill the job"}},
    {"name": "killed-pytest", "env": {"TOY": "kill pytest"}},
    *({"name": f"good-{i}"} for i in range(6)),
]


@pytest.fixture(scope="module")
def slurm(cluster, tmp_path_factory):
    """A project on the cluster."""
    return Project(tmp_path_factory.mktemp("slurm"), cluster.environment)


@pytest.fixture(scope="module")
def swept(cluster, slurm):
    """An array of ten on three nodes: a node dies, a task is cancelled, a job and a pytest are killed; merged by the merge job."""
    slurm.run("submit", "bench/", "--array", slurm.points(*POINTS), "--gres", "gpu:2", "--fleet", "swept")
    started = slurm.path / "swept" / "started"
    until(lambda: (started / "0.json").is_file() and (started / "1.json").is_file())
    slurm.early = slurm.run("collect", "swept", code=1).stdout
    lost, cancelled = (json.loads((started / f"{task}.json").read_text()) for task in (0, 1))
    waiting = slurm.path / "swept" / "runs" / f".tmp-{cancelled['identity']}"
    until(lambda: list(waiting.glob("*/claims.jsonl")))
    slurm.run("cancel", "swept", "--tasks", "1")
    cluster.lose(lost["node"], lost["pid"])
    until(lambda: (slurm.path / "swept" / "logs" / "merge.log").is_file() and (slurm.path / "swept" / "report.html").is_file(), 80)
    until(lambda: "merge" not in _queue(cluster), 30)
    return slurm


def _queue(cluster):
    command = ["squeue", "-h", "-t", "R,PD,CG", "-o", "%j"]
    return subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=20, check=True).stdout


def test_an_incomplete_set_is_merged_as_it_is(swept):
    """While tasks run the page says so, and none that waits or runs is called lost."""
    good = [line for line in swept.early.splitlines() if " good-" in line]
    assert " cancelled            RUNNING " in swept.early
    assert len(good) == 6
    assert not any("LOST" in line for line in good)


def test_ten_tasks_on_three_nodes_end_as_they_should(swept):
    """Good ones are merged, whatever happened to the others; every other one has its own outcome."""
    outcomes = {point: row["outcome"] for point, row in swept.rows("swept").items()}
    assert outcomes == {
        "lost-node": "LOST", "cancelled": "INCOMPLETE", "killed-job": "LOST", "killed-pytest": "INCOMPLETE",
        **{f"good-{i}": "MERGED" for i in range(6)},
    }  # fmt: skip
    assert {row["node"] for row in swept.rows("swept").values()} == {"n1", "n2", "n3"}


def test_a_lost_task_says_what_is_left_of_it(swept):
    """What it wrote stays where it was, and the reason names it; the engine's word stands beside."""
    rows = swept.rows("swept")
    assert "NODE_FAIL" in rows["lost-node"]["reason"] or "is down" in rows["lost-node"]["reason"]
    for name in ("lost-node", "killed-job"):
        assert "without an end marker" in rows[name]["reason"]
        assert (swept.path / "swept" / rows[name]["run"] / "run.json").is_file()


def test_a_cancelled_run_is_finalised(swept):
    """SIGTERM ends pytest, and the run is readable: its state, its reason, and the claim it had judged."""
    row = swept.rows("swept")["cancelled"]
    run = swept.path / "swept" / row["run"]
    record = json.loads((run / "run.json").read_text())
    assert (record["state"], record["end_reason"]) == ("incomplete", "ended by SIGTERM")
    assert row["reason"] == "ended by SIGTERM"
    assert json.loads((run / "claims.jsonl").read_text().splitlines()[0])["verdict"] == "VALIDATED"
    assert (run / "MANIFEST.sha256").is_file()


def test_a_run_knows_its_place(swept):
    """Identity, job, node, exclusivity and visible devices stand in ``run.json``; an exclusive job sees both of the node's GPUs."""
    row = swept.rows("swept")["good-0"]
    job = json.loads((swept.path / "swept" / row["run"] / "run.json").read_text())["job"]
    assert re.fullmatch(r"\d+_4@n[123]", job["identity"])
    assert job["identity"] == row["identity"] == f"{job['array_job_id']}_{job['array_task_id']}@{job['node']}"
    assert (job["engine"], job["partition"], job["oversubscribe"], job["other_jobs"]) == ("slurm", "bench", "NO", [])
    assert (job["gres"], job["visible_devices"]) == ("gres:gpu:2", "0,1")
    assert (job["point"], job["task"], job["problem"]) == ("good-0", 4, "")


def test_the_page_uses_merged_runs_alone(swept):
    """Six hosts in the matrix, ten tasks in the list."""
    page = (swept.path / "swept" / "report.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert len(data["tasks"]) == 10
    assert sorted(host["name"].partition("@")[0] for host in data["hosts"]) == [f"good-{i}" for i in range(6)]
    assert "6 of 10 runs merged; 2 incomplete, 2 lost" in page


def test_dead_nodes_are_left_out_and_named(cluster, swept):
    """One task for each usable node, pinned to it; the node that died is left out, and said so."""
    done = swept.run("submit", "bench/", "--nodes", "all", "--physics-device", "twin:rtx4080-laptop", "--fleet", "nodes")
    dead = swept.rows("swept")["lost-node"]["node"]
    assert f"node {dead} is left out" in done.stderr
    swept.run("status", "nodes", "--wait", "50")
    swept.run("collect", "nodes")
    assert {point: row["node"] for point, row in swept.rows("nodes").items()} == {node: node for node in {"n1", "n2", "n3"} - {dead}}


def test_a_shared_allocation_is_refused(cluster, slurm):
    """A job that did not ask to be alone has every claim INVALID, with the engine's word as the reason."""
    command = f"exec {sys.executable} -m pytest bench/ --physics --physics-device twin:rtx4080-laptop --physics-runs shared"
    sbatch = ["sbatch", "--job-name=shared", "--partition=shared", "--ntasks=1", "--output=shared.log", f"--wrap={command}"]
    subprocess.run(sbatch, cwd=slurm.path, env=slurm.environment, timeout=60, check=True, capture_output=True)
    until(lambda: "shared" not in _queue(cluster))
    (run,) = (slurm.path / "shared").iterdir()
    claim = json.loads((run / "claims.jsonl").read_text())
    assert claim["verdict"] == "INVALID"
    assert "exclusive allocation" in claim["reason"]
    assert "OverSubscribe=OK" in claim["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--partition", "forced"), "forbids exclusive use (OverSubscribe=FORCE:4)"),
        (("--partition", "bnch"), "partition 'bnch' does not exist (did you mean 'bench'?)"),
        (("--nodes", "n9"), "there is no node 'n9'"),
        (("--gres", "gpu:5"), "'sbatch' refused"),
    ],
)
def test_what_the_cluster_cannot_give_is_one_message(slurm, arguments, message, tmp_path):
    """Exit code 2, the reason, and nothing is submitted or left that would stand in the way of the next attempt."""
    done = slurm.run("submit", "bench/", *arguments, "--fleet", tmp_path / "refused", code=2)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "refused").exists()


def test_a_dead_controller_costs_no_run(slurm, swept, tmp_path):
    """Finished tasks are collected all the same; the others are UNKNOWN, with the reason."""
    text = re.sub("SlurmctldPort=.*", "SlurmctldPort=9\nMessageTimeout=1", Path(slurm.environment["SLURM_CONF"]).read_text())
    (tmp_path / "slurm.conf").write_text(text)
    done = slurm.run("collect", "swept", code=1, SLURM_CONF=str(tmp_path / "slurm.conf"))
    outcomes = [row["outcome"] for row in slurm.rows("swept").values()]
    assert (outcomes.count("MERGED"), outcomes.count("UNKNOWN")) == (6, 2)
    assert "the Slurm controller" in done.stdout
    refused = slurm.run("submit", "bench/", "--fleet", tmp_path / "never", code=2, SLURM_CONF=str(tmp_path / "slurm.conf"))
    assert "controller" in refused.stderr
    assert not (tmp_path / "never").exists()
