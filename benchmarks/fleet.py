"""What a fleet costs: submit to merged on a toy Slurm, a page of 200 runs, and how often the outlier test is wrong.

Run ``python benchmarks/fleet.py [--quick] [--run RUN] [--output docs/fleet-study.md]``. Overhead is the time from the start of
``fleet submit`` to the page of the merge job, less the busiest node's own jobs (from the start to the end of its pytest processes). Of
it, what slurmctld waits before it starts a job that could start is the cluster's, by the controller's own log: from the array's
submission to its first task, between the tasks of the busiest node, and from the last task to the merge. The rest is ours. The
page of many runs is built from copies of one run (``--run``, a run of ``bench/`` without its traces, which the page does not read). The
outlier study is seeded. Exit code 1 where a figure misses its target; without Slurm its row says so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

import numpy as np
from study_page import Row, page, publish

from pytest_physics.clock import utc_now
from pytest_physics.fleet.collect import Collected, Outcome
from pytest_physics.fleet.collect import Row as TaskRow
from pytest_physics.fleet.folder import FleetFolder, Jobs
from pytest_physics.fleet.markers import COLLECTED
from pytest_physics.fleet.page import build_page
from pytest_physics.fleet.plan import FleetPlan, Point
from pytest_physics.metrology.between_hosts import host_deviations
from pytest_physics.record.writer import digests

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "fleet"))

from toy_cluster import ToyCluster, missing  # noqa: E402 -- the toy cluster belongs to the tests

TASKS, RUNS, CARDS = 10, 200, 4
MAX_OVERHEAD_S, MAX_PAGE_S, MAX_PAGE_BYTES = 3.0, 10.0, 3_000_000
MAX_FALSE_ALARMS = 0.05
MERGE_WAIT_S = 300.0
SUBMITTED = re.compile(r"\[(\S+)\] _slurm_rpc_submit_batch_job: JobId=(\d+) ")
STARTED = re.compile(r"\[(\S+)\] sched(?:: Allocate|/backfill: _start_job: Started) JobId=(\d+)(_\d+)?\S* .*?(?:NodeList=| on )(\S+)")
ENDED = re.compile(r"\[(\S+)\] _job_complete: JobId=(\d+)(_\d+)?\S* done")


# --- submit to merged ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Where the time of one fleet went, in seconds."""

    total_s: float
    jobs_s: float
    """Of the busiest node, from the start to the end of its pytest processes."""
    waited_s: float
    """For slurmctld to start what could start."""

    @property
    def overhead_s(self) -> float:
        """All but the jobs."""
        return self.total_s - self.jobs_s


def overhead_rows(repeats: int) -> list[Row]:
    """Ten tasks on a real Slurm of ten nodes and of three, in turn; medians."""
    sizes = (TASKS, 3)
    what = {n: f"submit to merged, {TASKS} tasks on {n} nodes ({-(-TASKS // n)} in a row), beyond the busiest node's jobs" for n in sizes}
    target = f"≤ {MAX_OVERHEAD_S:g} s"
    if absent := missing():
        return [
            Row(what=what[n], target=target, reached=f"no Slurm here ({', '.join(absent)})", met=False, verdict="not run") for n in sizes
        ]
    sweeps = [(nodes, _sweep(nodes)) for _ in range(repeats) for nodes in sizes]
    rows = []
    for nodes in sizes:
        mine = [sweep for size, sweep in sweeps if size == nodes]
        overhead_s = median(sweep.overhead_s for sweep in mine)
        reached = f"{overhead_s:.1f} s ({', '.join(f'{sweep.overhead_s:.1f}' for sweep in mine)})"
        rows.append(Row(what=what[nodes], target=target, reached=reached, met=overhead_s <= MAX_OVERHEAD_S))
        waited_s, jobs_s = median(sweep.waited_s for sweep in mine), median(sweep.jobs_s for sweep in mine)
        parts = f"{waited_s:.1f} s of Slurm's scheduler, {median(sweep.overhead_s - sweep.waited_s for sweep in mine):.1f} s of ours"
        rows.append(Row(what="of it", target="–", reached=f"{parts}; the jobs: {jobs_s:.1f} s", met=True, verdict="for information"))
    return rows


def _sweep(nodes: int) -> Sweep:
    toy = ToyCluster(nodes)
    with tempfile.TemporaryDirectory() as name:
        try:
            toy.up()
            total_s, node, jobs_s = _swept(toy, Path(name))
            return Sweep(total_s=total_s, jobs_s=jobs_s, waited_s=scheduler_wait_s((toy.path / "log" / "slurmctld.log").read_text(), node))
        finally:
            toy.down()


def scheduler_wait_s(log: str, node: str) -> float:
    """Seconds that jobs waited for slurmctld although they could start, on the way over ``node``, by its log."""
    clock_s = lambda text: datetime.fromisoformat(text).timestamp()  # noqa: E731
    submitted = SUBMITTED.search(log)
    if submitted is None:
        raise ValueError("the controller's log names no job")
    started = {(job, task): (clock_s(time), place) for time, job, task, place in STARTED.findall(log)}
    ended = {(job, task): clock_s(time) for time, job, task in ENDED.findall(log) if task}
    mine = [key for key, (_, place) in started.items() if key[1] and place == node]
    starts, ends = sorted(started[key][0] for key in mine), sorted(ended[key] for key in mine)
    (merge_s,) = (start_s for (_, task), (start_s, _) in started.items() if not task)
    free = [clock_s(submitted[1]), *ends[:-1]]
    return sum(start_s - free_s for start_s, free_s in zip(starts, free, strict=True)) + merge_s - max(ended.values())


def _swept(toy: ToyCluster, project: Path) -> tuple[float, str, float]:
    """Seconds from submit to page, the busiest node, and its seconds of jobs."""
    (project / "bench").mkdir()
    shutil.copy(ROOT / "tests" / "fleet" / "toybench.py", project / "bench" / "test_point.py")
    (project / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider -p pytest_physics.plugin -q\n")
    points = [{"name": f"p{i}", "args": ["--physics-device", "twin:rtx4080-laptop"]} for i in range(TASKS)]
    (project / "points.json").write_text(json.dumps(points))
    environment = {**toy.environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    started_s = time.time()
    command = [Path(sys.executable).with_name("pytest-physics"), "fleet", "submit", "bench/", "--array", "points.json", "--fleet", "f"]
    subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True)
    merged = project / "f" / "report.html"
    while not merged.is_file():
        if time.time() - started_s > MERGE_WAIT_S:
            raise RuntimeError(f"not merged within {MERGE_WAIT_S:g} s:\n{toy.logs()}")
        time.sleep(0.05)
    merged_s = merged.stat().st_mtime
    on_node: dict[str, float] = defaultdict(float)
    for marker in (project / "f").glob("runs/*/DONE.json"):
        done = json.loads(marker.read_text())
        on_node[done["node"]] += (datetime.fromisoformat(done["ended_utc"]) - datetime.fromisoformat(done["started_utc"])).total_seconds()
    node = max(on_node, key=lambda name: on_node[name])
    return merged_s - started_s, node, on_node[node]


# --- the page of many runs ----------------------------------------------------------------------------------------------------


def page_rows(run: Path) -> list[Row]:
    """Time and size of a page of copies of one run, under several names of cards."""
    with tempfile.TemporaryDirectory() as name:
        folder = _copies(run, Path(name))
        started_s = time.perf_counter()
        built = build_page(folder)
        took_s, size = time.perf_counter() - started_s, built.stat().st_size
    what = f"page of {RUNS} runs of `bench/`"
    return [
        Row(what=f"{what}: time", target=f"≤ {MAX_PAGE_S:g} s", reached=f"{took_s:.1f} s", met=took_s <= MAX_PAGE_S),
        Row(what="the same: size", target="≤ 3 MB", reached=f"{size / 1e6:.2f} MB", met=size <= MAX_PAGE_BYTES),
    ]


def _copies(run: Path, root: Path) -> FleetFolder:
    """A collected fleet of copies of ``run``."""
    points = [Point(name=f"p{i}") for i in range(RUNS)]
    plan = FleetPlan(
        id="copies", directory=str(root), pytest_args=["bench/"], points=points, python=sys.executable, submitted_utc=utc_now()
    )
    folder = FleetFolder.create(root / "fleet", plan)
    folder.write_jobs(Jobs(engine="local"))
    rows = [_copy(run, folder, task) for task in range(RUNS)]
    found = Collected(fleet=plan.id, engine="local", collected_utc=utc_now(), rows=rows)
    (folder.path / COLLECTED).write_text(found.model_dump_json())
    return folder


def _copy(run: Path, folder: FleetFolder, task: int) -> TaskRow:
    identity = f"1_{task}@n{task}"
    target = folder.runs / identity / run.name
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("trace-*", "truth-*", "table-*"))
    record = json.loads((target / "run.json").read_text())
    for instrument in record["instruments"].values():
        instrument["fingerprint"]["name"] += f"-{task % CARDS}"
    (target / "run.json").write_text(json.dumps(record))
    return TaskRow(
        task=task, point=f"p{task}", identity=identity, node=f"n{task}", outcome=Outcome.MERGED, digests=digests(target),
        run=str(target.relative_to(folder.path)),
    )  # fmt: skip


# --- outliers -----------------------------------------------------------------------------------------------------------------


def outlier_rows(fleets: int, seed: int) -> list[Row]:
    """False alarms on clean fleets, and how often one odd host is named."""
    rng = np.random.default_rng(seed)
    rows = []
    for hosts, ratio in ((4, 0.0), (4, 5.0), (8, 0.0), (8, 1.0), (8, 5.0), (32, 1.0), (100, 1.0)):
        alarms = np.mean([bool(_named(rng, hosts, ratio, 0.0)) for _ in range(fleets)])
        spread = 1.96 * float(np.sqrt(MAX_FALSE_ALARMS * (1 - MAX_FALSE_ALARMS) / fleets))
        what = f"clean fleets of {hosts} with an outlier named, spread of hosts {ratio:g} times the noise"
        reached = f"{100 * alarms:.1f} % (n = {fleets}, such a share scatters by ± {100 * spread:.1f} %)"
        rows.append(Row(what=what, target="≤ 5 %", reached=reached, met=bool(alarms <= MAX_FALSE_ALARMS + spread)))
    for hosts, off in ((8, 6.0), (8, 10.0), (32, 6.0)):
        found = np.mean([_named(rng, hosts, 1.0, off) == [0] for _ in range(fleets)])
        what = f"one host of {hosts} off by {off:g} standard deviations of hosts and noise together: named, alone"
        rows.append(Row(what=what, target="–", reached=f"{100 * found:.0f} %", met=True, verdict="for information"))
    return rows


def _named(rng: np.random.Generator, hosts: int, ratio: float, off: float) -> list[int]:
    spread = float(np.hypot(1.0, ratio))
    values = rng.normal(100.0, spread, hosts)
    values[0] += off * spread
    return [i for i, host in enumerate(host_deviations(values, np.ones(hosts))) if host.outlier]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 0 where all figures meet their targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the simulated fleets")
    parser.add_argument("--run", type=Path, default=ROOT / "reports" / "twin-rtx4080-laptop", help="run that the page's copies are made of")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the page here")
    chosen = parser.parse_args(arguments)
    rows = [*overhead_rows(1 if chosen.quick else 3), *page_rows(chosen.run), *outlier_rows(100 if chosen.quick else 1000, chosen.seed)]
    command = f"python benchmarks/fleet.py{' --quick' if chosen.quick else ''} --seed {chosen.seed}"
    load = os.getloadavg()[0]
    told = [
        f"On {os.cpu_count()} cores, which the toy cluster's nodes share; load of the machine {load:.0f}. slurmctld starts the first",
        "task at its next turn, up to a second after it was submitted, and the others when the epilog of the job before them has ended; a",
        "cluster without an epilog, or with longer turns (`SchedulerParameters`), waits longer. That part is by the log of slurmctld.",
    ]
    return publish(page("What a fleet costs", command, told, rows), chosen.output, rows)


if __name__ == "__main__":
    sys.exit(main())
