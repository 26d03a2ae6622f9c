"""Jobs that squeue has forgotten, against a real accounting database: slurmdbd and MariaDB as processes of this user."""

from __future__ import annotations

import subprocess

import pytest
from fleet.fleets import new_fleet, until
from fleet.toy_cluster import ACCOUNTING_PROGRAMS, PROGRAMS, ToyCluster, missing

from pytest_physics.fleet.executor import TaskState
from pytest_physics.fleet.folder import Jobs
from pytest_physics.fleet.slurm import SlurmExecutor

ENDS = "case $SLURM_ARRAY_TASK_ID in 1) exit 3;; 2) sleep 60;; 3) kill -9 $$;; esac"


@pytest.fixture(scope="module")
def accounted():
    """A cluster that forgets after two seconds, and its database, which does not."""
    if absent := missing([*PROGRAMS, *ACCOUNTING_PROGRAMS]):
        pytest.skip(f"needs an accounting database (Debian: slurm-wlm, munge, slurmdbd, mariadb-server); missing: {', '.join(absent)}")
    toy = ToyCluster(accounting=True, settings={"MinJobAge": "2", "SlurmdTimeout": "4"})
    try:
        toy.up()
        yield toy
    finally:
        toy.down()


@pytest.fixture(scope="module")
def ended(accounted, tmp_path_factory):
    """A fleet whose jobs ended in every way, after squeue forgot them: what the engine says, by what happened."""

    def run(*command: str) -> str:
        done = subprocess.run(command, env=accounted.environment, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    def submitted(array: str, script: str, *options: str) -> str:
        fixed = ["--parsable", "--job-name=physics-toy", "--exclusive", "--no-requeue", "--output=/dev/null"]
        return run("sbatch", *fixed, f"--array={array}", f"--wrap={script}", *options)

    pid = accounted.path / "pid-of-a-job"
    lost, ends = submitted("0", f"echo $$ > {pid}; exec sleep 60", "--nodelist=n3"), submitted("0-3", ENDS, "--exclude=n3")
    whole, part = (submitted("0-4", "true", "--begin=now+1hour") for _ in range(2))
    queue = lambda: run("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%N")  # noqa: E731
    until(lambda: pid.exists() and pid.read_text() and f"{ends}_2|RUNNING" in queue())
    run("scancel", f"{ends}_2", whole)
    accounted.lose("n3", int(pid.read_text()))
    names = {
        "completed": f"{ends}_0", "failed": f"{ends}_1", "cancelled": f"{ends}_2", "killed": f"{ends}_3", "lost node": f"{lost}_0",
        "cancelled while it waited": f"{whole}_4", "one of several that waited": f"{part}_3", "waits": f"{part}_4",
    }  # fmt: skip
    folder, engine = new_fleet(tmp_path_factory.mktemp("accounted"), len(names)), SlurmExecutor()
    folder.write_jobs(Jobs(engine="slurm", jobs=dict(enumerate(names.values()))))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PATH", "SLURM_CONF"):
            patch.setenv(name, accounted.environment[name])
        engine.cancel(folder, [list(names).index("one of several that waited")])
        until(lambda: not any(f"{names[what]}|" in queue() for what in list(names)[:-1]), 60, 0.5)
        found = engine.poll(folder)
    return dict(zip(names, found.values(), strict=True))


def test_what_squeue_forgot_the_database_tells(ended):
    """State, node and the engine's own word of every task; what the database forgot the fleet has noted."""
    told = {what: (status.state, status.node, status.reason) for what, status in ended.items()}
    node = {what: status.node for what, status in ended.items()}
    assert told == {
        "completed": (TaskState.ENDED, node["completed"], "COMPLETED"),
        "failed": (TaskState.ENDED, node["failed"], "FAILED"),
        "killed": (TaskState.ENDED, node["killed"], "FAILED"),
        "cancelled": (TaskState.CANCELLED, node["cancelled"], "CANCELLED"),
        "lost node": (TaskState.ENDED, "n3", "NODE_FAIL"),
        "cancelled while it waited": (TaskState.CANCELLED, "", "CANCELLED"),
        "one of several that waited": (TaskState.CANCELLED, "", "'fleet cancel' ended it before it began"),
        "waits": (TaskState.WAITING, "", "PENDING: BeginTime"),
    }
    assert {node[what] for what in ("completed", "failed", "cancelled", "killed")} <= {"n1", "n2"}
