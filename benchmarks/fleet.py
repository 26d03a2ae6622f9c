"""What a fleet costs: submit to merged on a toy Slurm, a page of 200 runs, and how often the outlier test is wrong.

Run ``python benchmarks/fleet.py [--quick] [--run RUN] [--output docs/fleet-study.md]``. Overhead is the time from the start of
``fleet submit`` to the page of the merge job, less the busiest node's own jobs (from the start to the end of its pytest processes). The
page of many runs is built from copies of one run (``--run``, a run of ``bench/`` without its traces, which the page does not read). The
outlier study is seeded. Exit code 1 where a figure misses its target; without Slurm its row says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from study_page import Row, page, publish

from pytest_physics.clock import utc_now
from pytest_physics.fleet.collect import Collected, Outcome
from pytest_physics.fleet.collect import Row as TaskRow
from pytest_physics.fleet.folder import COLLECTED, FleetFolder, Jobs
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


# --- submit to merged ---------------------------------------------------------------------------------------------------------


def overhead_row(nodes: int) -> Row:
    """Ten tasks on a real Slurm of so many nodes."""
    rounds = -(-TASKS // nodes)
    what = f"submit to merged, {TASKS} tasks on {nodes} nodes ({rounds} in a row), beyond the busiest node's jobs"
    target = f"≤ {MAX_OVERHEAD_S:g} s"
    if absent := missing():
        return Row(what=what, target=target, reached=f"no Slurm here ({', '.join(absent)})", met=False, verdict="not run")
    toy = ToyCluster(nodes)
    with tempfile.TemporaryDirectory() as name:
        try:
            toy.up()
            total_s, busiest_s = _swept(toy, Path(name))
        finally:
            toy.down()
    reached = f"{total_s - busiest_s:.1f} s ({total_s:.1f} s, of which {busiest_s:.1f} s of jobs)"
    return Row(what=what, target=target, reached=reached, met=total_s - busiest_s <= MAX_OVERHEAD_S)


def _swept(toy: ToyCluster, project: Path) -> tuple[float, float]:
    """Seconds from submit to page, and of jobs on the busiest node."""
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
    return merged_s - started_s, max(on_node.values())


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
    rows = [overhead_row(TASKS), overhead_row(3), *page_rows(chosen.run), *outlier_rows(100 if chosen.quick else 1000, chosen.seed)]
    command = f"python benchmarks/fleet.py{' --quick' if chosen.quick else ''} --seed {chosen.seed}"
    load = os.getloadavg()[0]
    told = [
        f"On {os.cpu_count()} cores, which the toy cluster's nodes share; load of the machine {load:.0f}. Slurm itself looks for",
        "work once a second: each task in a row, and the merge, waits for that.",
    ]
    return publish(page("What a fleet costs", command, told, rows), chosen.output, rows)


if __name__ == "__main__":
    sys.exit(main())
