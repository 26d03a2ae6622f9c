"""What a history costs: building the index, asking it, the fleet's page, Parquet; measured at 10³ to 10⁴ runs and carried on to 365,000.

Run ``python benchmarks/history.py [--quick] [--run RUN] [--results N] [--seed S] [--output docs/history-scale.md]``. Runs are made of one
real run directory: the same ``run.json`` and lines of ``results.jsonl``, in full, under other ids, times, hosts and values; traces are left
out, for the index does not read them. Each step is measured at three sizes; its exponent is the slope of log time over log runs between
the larger two (below 0 it is carried on as 0), and the figures for 1,000 hosts × 365 nights follow from it. Exit code 1 where a figure
misses its target.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from study_page import Row, page, publish

from pytest_physics.clock import utc_now
from pytest_physics.fleet.collect import Collected, Outcome
from pytest_physics.fleet.collect import Row as TaskRow
from pytest_physics.fleet.folder import FleetFolder, Jobs
from pytest_physics.fleet.markers import COLLECTED
from pytest_physics.fleet.page import build_page
from pytest_physics.fleet.plan import FleetPlan, Point
from pytest_physics.history.build import add_runs
from pytest_physics.history.entries import read_entry
from pytest_physics.history.export import export
from pytest_physics.history.store import HistoryIndex
from pytest_physics.record.writer import digests, manifest_text

ROOT = Path(__file__).resolve().parents[1]
YEAR = 365_000
"""1,000 hosts, each night of a year."""
NIGHTS_OF_YEAR, HOSTS_OF_YEAR = 365, 1_000
NIGHTS = 50
"""Of the generated runs."""
MAX_BUILD_S, MAX_SERIES_S = 15.0, 0.020
START = datetime(2026, 1, 1, 2, 0, tzinfo=UTC)
SPREAD = 0.01
"""Between generated runs."""
QUERIES = 200
BUILDS = 4
"""Builds of each index; the fastest counts, for others work on the machine too."""


# --- generated runs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A real run, cut where its copies differ."""

    run: dict[str, object]
    lines: tuple[tuple[bytes, float, bytes], ...]
    """Each result's line before its value, the value, and after it."""
    small: dict[str, bytes]
    """Other files that the fleet's page reads."""

    @classmethod
    def of(cls, path: Path, results: int) -> Template:
        """The run at ``path`` with ``results`` of its results, spread over all of them."""
        lines = (path / "results.jsonl").read_bytes().splitlines()
        kept = [lines[i] for i in np.unique(np.linspace(0, len(lines) - 1, results).astype(int))]
        cut = [parts for line in kept if (parts := _cut(line)) is not None]
        small = {name: (path / name).read_bytes() for name in ("claims.jsonl", "sensor.json", "baseline.json") if (path / name).exists()}
        return cls(run=json.loads((path / "run.json").read_text()), lines=tuple(cut), small=small)

    def write(self, path: Path, *, host: int, night: int, rng: np.random.Generator, whole: bool = False) -> None:
        """One copy; ``whole`` with the files of the fleet's page."""
        path.mkdir(parents=True)
        contents = {"run.json": self._run(path.name, host, night), "results.jsonl": self._results(rng)}
        contents |= self.small if whole else {}
        for name, content in contents.items():
            (path / name).write_bytes(content)
        found = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())}
        (path / "MANIFEST.sha256").write_text(manifest_text(found))

    def _run(self, run_id: str, host: int, night: int) -> bytes:
        began = START + timedelta(days=night, seconds=host)
        run = {**self.run, "run_id": run_id, "started_utc": began.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
        run["instruments"] = {
            name: {**record, "fingerprint": {**record["fingerprint"], "identity": f"{record['fingerprint']['identity']}-{host}"}}
            for name, record in self.run["instruments"].items()  # type: ignore[attr-defined]
        }
        return json.dumps(run, indent=1).encode()

    def _results(self, rng: np.random.Generator) -> bytes:
        factors = rng.normal(1.0, SPREAD, len(self.lines))
        lines = (
            before + repr(float(value * factor)).encode() + after
            for (before, value, after), factor in zip(self.lines, factors, strict=True)
        )
        return b"\n".join([*lines, b""])


def _cut(line: bytes) -> tuple[bytes, float, bytes] | None:
    """A line around its value; None for a result without one."""
    value = json.loads(line)["estimate"]["value"]
    before, mark, rest = line.partition(b'"estimate":{"value":')
    return (before + mark, float(value), rest[rest.index(b",") :]) if value is not None and mark else None


def generate(root: Path, template: Template, runs: int, seed: int) -> list[Path]:
    """``runs`` run directories of ``runs / NIGHTS`` hosts, host by host."""
    rng = np.random.default_rng(seed)
    paths = []
    for number in range(runs):
        host, night = divmod(number, NIGHTS)
        path = root / f"h{host:04}" / f"{START + timedelta(days=night):%Y%m%d}T020000Z-{number:06x}"
        template.write(path, host=host, night=night, rng=rng)
        paths.append(path)
    return paths


# --- measuring ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one number of runs took, in seconds and bytes."""

    runs: int
    build_s: float
    cpu_s: float
    """Processor time of the build, all processes together."""
    index_bytes: int
    check_s: float
    """The last 20 valid values of one metric on one host."""
    series_s: float
    """The whole series of one metric on one host."""
    fleet_s: float
    """The series of one metric on every host."""
    add_s: float
    """One more run, read and added."""
    export_s: float
    parquet_bytes: int
    parquet_series_s: float
    parquet_month_s: float
    """Mean of every metric on every host, one month."""
    index_month_s: float
    duckdb_month_s: float | None


def measured(root: Path, paths: Sequence[Path], spare: Sequence[Path]) -> Figures:
    """Build an index of ``paths`` and ask it."""
    index = root / f"{len(paths)}.sqlite3"
    build_s, used_s = min(_built(root / f"{len(paths)}-{turn}.sqlite3", paths) for turn in range(BUILDS))
    (root / f"{len(paths)}-0.sqlite3").rename(index)
    entry = read_entry(paths[len(paths) // 2])
    value, asked = entry.values[len(entry.values) // 2], entry.values
    with HistoryIndex.open(index) as history:
        later = entry.t_ms + 10**12

        def ask(last: int) -> Callable[[int], object]:
            return lambda i: history.latest(
                asked[i % len(asked)].metric, asked[i % len(asked)].unit, value.conditions, last=last, before_ms=later
            )  # fmt: skip

        check_s, series_s = _least(ask(20), QUERIES), _least(ask(-1), QUERIES)
        fleet_s = _least(lambda i: history.series(asked[i].metric), 3)
        began_s = time.perf_counter()
        export(history, root / f"{len(paths)}.parquet", kind="parquet")
        export_s = time.perf_counter() - began_s
        add_s = min(_least(lambda _, path=path: history.add([read_entry(path)]), 1) for path in spare)
    tables = root / f"{len(paths)}.parquet" / "results"
    parquet_series_s, parquet_month_s = _parquet(tables, value.metric, value.conditions.digest)
    return Figures(
        runs=len(paths), build_s=build_s, cpu_s=used_s, index_bytes=index.stat().st_size, check_s=check_s, series_s=series_s,
        fleet_s=fleet_s, add_s=add_s, export_s=export_s, parquet_bytes=sum(p.stat().st_size for p in tables.rglob("*.parquet")),
        parquet_series_s=parquet_series_s, parquet_month_s=parquet_month_s, index_month_s=_sqlite_month(index),
        duckdb_month_s=_duckdb(tables),
    )  # fmt: skip


def _built(index: Path, paths: Sequence[Path]) -> tuple[float, float]:
    """Time and processor time of an index made of ``paths``."""
    began_s, cpu = time.perf_counter(), os.times()
    add_runs(index, paths)
    ended = os.times()
    return time.perf_counter() - began_s, sum(ended[:4]) - sum(cpu[:4])


def _least(call: Callable[[int], object], times: int) -> float:
    """The fastest of some calls: others work on the machine too."""
    took = []
    for i in range(times):
        began_s = time.perf_counter()
        call(i)
        took.append(time.perf_counter() - began_s)
    return min(took)


def _sqlite_month(index: Path) -> float:
    low = round(START.timestamp() * 1000)
    query = (
        "SELECT m.name, c.machine, avg(p.value) FROM points p JOIN series s ON s.pk = p.series JOIN metrics m ON m.pk = s.metric "
        "JOIN conditions c ON c.pk = s.condition WHERE p.t_ms >= ? AND p.t_ms < ? AND p.reason = '' GROUP BY m.name, c.machine"
    )
    database = sqlite3.connect(index)
    try:
        return _least(lambda _: database.execute(query, (low, low + 31 * 86_400_000)).fetchall(), 3)
    finally:
        database.close()


def _parquet(tables: Path, metric: str, condition: str) -> tuple[float, float]:
    """One series over all months; the mean of everything in one month."""
    import pyarrow.compute as pc  # noqa: PLC0415
    import pyarrow.dataset as ds  # noqa: PLC0415

    def series(_: int) -> object:
        found = ds.dataset(tables, partitioning="hive")
        return found.to_table(columns=["t_ms", "value"], filter=(pc.field("metric") == metric) & (pc.field("condition") == condition))

    def month(_: int) -> object:
        found = ds.dataset(tables, partitioning="hive")
        rows = found.to_table(columns=["metric", "condition", "value"], filter=(pc.field("month") == f"{START:%Y-%m}"))
        return rows.group_by(["metric", "condition"]).aggregate([("value", "mean")])

    return _least(series, 5), _least(month, 3)


def _duckdb(tables: Path) -> float | None:
    """The same mean by DuckDB, where it is installed."""
    try:
        import duckdb  # noqa: PLC0415
    except ImportError:
        return None
    query = (
        f"SELECT metric, condition, avg(value) FROM read_parquet('{tables}/**/*.parquet', hive_partitioning = true) "
        f"WHERE month = '{START:%Y-%m}' AND reason = '' GROUP BY metric, condition"
    )
    with duckdb.connect() as database:
        return _least(lambda _: database.execute(query).fetchall(), 3)


def fleet_page(root: Path, template: Template, hosts: int, seed: int) -> tuple[float, int]:
    """Time and size of the fleet's page of one night."""
    rng = np.random.default_rng(seed)
    points = [Point(name=f"p{i}") for i in range(hosts)]
    plan = FleetPlan(id="night", directory=str(root), pytest_args=["bench/"], points=points, python=sys.executable, submitted_utc=utc_now())
    folder = FleetFolder.create(root / f"fleet-{hosts}", plan)
    folder.write_jobs(Jobs(engine="local"))
    rows = [_task(folder, template, host, rng) for host in range(hosts)]
    collected = Collected(fleet=plan.id, engine="local", collected_utc=utc_now(), rows=rows)
    (folder.path / COLLECTED).write_text(collected.model_dump_json())
    began_s = time.perf_counter()
    built = build_page(folder)
    return time.perf_counter() - began_s, built.stat().st_size


def _task(folder: FleetFolder, template: Template, host: int, rng: np.random.Generator) -> TaskRow:
    identity = f"1_{host}@n{host}"
    path = folder.runs / identity / f"20260101T020000Z-{host:06x}"
    template.write(path, host=host, night=0, rng=rng, whole=True)
    return TaskRow(
        task=host, point=f"p{host}", identity=identity, node=f"n{host}", outcome=Outcome.MERGED, digests=digests(path),
        run=str(path.relative_to(folder.path)),
    )  # fmt: skip


# --- the page -----------------------------------------------------------------------------------------------------------------


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of log value over log size between the two largest sizes: what starting costs is left behind there."""
    return float(np.polyfit(np.log(sizes[-2:]), np.log(np.maximum(values[-2:], 1e-9)), 1)[0])


GROWS_WITH = {"series_s": "nights", "parquet_month_s": "hosts", "duckdb_month_s": "hosts"}
"""What a figure grows with, where it is not the number of runs: a host's series is as long as its nights, a month holds every host."""


def carried(found: Sequence[Figures], name: str) -> tuple[float, float]:
    """Exponent of a figure, and what it makes of a year of the fleet; one below 0 is noise: 0 is carried on."""
    sizes, values = [f.runs for f in found], [float(getattr(f, name)) for f in found]
    factor = {"runs": YEAR / sizes[-1], "hosts": HOSTS_OF_YEAR / (sizes[-1] / NIGHTS), "nights": NIGHTS_OF_YEAR / NIGHTS}
    by = GROWS_WITH.get(name, "runs")
    slope = 1.0 if by == "nights" else exponent(sizes, values)
    return slope, values[-1] * factor[by] ** max(slope, 0.0)


def shown(seconds: float) -> str:
    """Seconds as people say them.

    >>> shown(0.0031), shown(75.0), shown(7500.0)
    ('3.1 ms', '75 s', '2.1 h')
    """
    if seconds >= 3600:
        return f"{seconds / 3600:.2g} h"
    if seconds >= 300:
        return f"{seconds / 60:.2g} min"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def target_rows(largest: Figures) -> list[Row]:
    """What the history promises."""
    n = f"{largest.runs:,}"
    free_s = largest.cpu_s / (os.cpu_count() or 1)
    reached = (
        f"{shown(largest.build_s)} beside the load above ({shown(largest.cpu_s)} of processor time: {shown(free_s)} on free processors)"
    )
    return [
        Row(what=f"index of {n} runs, built", target=f"≤ {MAX_BUILD_S:g} s", reached=reached, met=largest.build_s <= MAX_BUILD_S),
        Row(
            what=f"one metric's whole series on one host, of {n} runs", target=f"≤ {1e3 * MAX_SERIES_S:g} ms",
            reached=shown(largest.series_s), met=largest.series_s <= MAX_SERIES_S,
        ),
    ]  # fmt: skip


SCALED = {
    "build_s": "index built anew",
    "index_bytes": "index on disk",
    "add_s": "one more run read and added",
    "check_s": "last 20 valid values of a metric on a host: what a check asks, once a metric",
    "series_s": "whole series of a metric on a host",
    "fleet_s": "series of a metric on every host",
    "index_month_s": "mean of every metric on every host in one month, SQLite",
    "export_s": "export to Parquet by month",
    "parquet_bytes": "Parquet on disk",
    "parquet_series_s": "whole series of a metric on a host, Parquet by month",
    "parquet_month_s": "mean of every metric on every host in one month, Parquet",
    "duckdb_month_s": "the same by DuckDB over the Parquet files",
}
"""Figures that are carried on, with their words."""


def scale_table(found: Sequence[Figures]) -> list[str]:
    """Every figure at every size, its exponent, and the year."""
    sizes = " | ".join(f"{f.runs:,} runs" for f in found)
    lines = [f"| what | {sizes} | exponent | carried on to {YEAR:,} |", "|---|" + "---|" * (len(found) + 2)]
    for name, words in SCALED.items():
        values = [getattr(f, name) for f in found]
        if any(value is None for value in values):
            continue
        say = (lambda v: f"{v / 1e6:,.0f} MB") if name.endswith("bytes") else shown
        slope, year = carried(found, name)
        by = GROWS_WITH.get(name, "runs")
        lines.append(f"| {words} | {' | '.join(say(v) for v in values)} | {slope:.2f} in {by} | {say(year)} |")
    return lines


def fleet_table(pages: Sequence[tuple[int, float, int]]) -> list[str]:
    """The fleet's page by hosts."""
    sizes = [hosts for hosts, _, _ in pages]
    slope, growth = exponent(sizes, [s for _, s, _ in pages]), exponent(sizes, [b for *_, b in pages])
    last = pages[-1]
    ratio = HOSTS_OF_YEAR / last[0]
    lines = ["| fleet's page of one night | time | size |", "|---|---|---|"]
    lines += [f"| {hosts} hosts | {shown(s)} | {b / 1e6:.2f} MB |" for hosts, s, b in pages]
    year = f"| {HOSTS_OF_YEAR:,} hosts, carried on (exponents {slope:.2f}, {growth:.2f}) | {shown(last[1] * ratio ** max(slope, 0.0))} "
    return [*lines, f"{year}| {last[2] * ratio ** max(growth, 0.0) / 1e6:.1f} MB |"]


def bend(found: Sequence[Figures]) -> list[str]:
    """Where the index stops being the right tool, and what then."""
    _, build_s = carried(found, "build_s")
    _, size = carried(found, "index_bytes")
    _, month_s = carried(found, "index_month_s")
    _, parquet_month_s = carried(found, "parquet_month_s")
    _, series_s = carried(found, "series_s")
    text = f"""
## Where it bends

A check of one host never bends: it reads the end of one series by its key ({shown(found[-1].check_s)} at {found[-1].runs:,} runs).
Nightly work is {HOSTS_OF_YEAR:,} runs more, {shown(HOSTS_OF_YEAR * found[-1].add_s)} one after another. What bends is what touches
everything: making a year's index anew takes about {shown(build_s)}, so it is made for format changes and repairs, not nightly; the file
grows to about {size / 1e9:.1f} GB; and one month's means over the whole fleet take {shown(month_s)} from SQLite, which reads row by row,
against {shown(parquet_month_s)} from Parquet.

Beyond that: one index for each rack or quarter (`--index`), or Parquet by month on object storage (`history export`, a folder
`month=YYYY-MM` each; a finished month is written once and never again). The queries stay the same: DuckDB and pyarrow read
`read_parquet('s3://…/results/**/*.parquet', hive_partitioning = true)` with the same columns, and a question about some months opens no
others. For a single host's series SQLite stays better ({shown(series_s)} carried on), because Parquet has no index by series. The run
directories stay the truth; both are made from them.
"""
    return text.strip().splitlines()


def study(sizes: Sequence[int], hosts: Sequence[int], template: Template, seed: int) -> tuple[list[Figures], list[tuple[int, float, int]]]:
    """Measure everything in a directory that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="history-") as name:
        root = Path(name)
        paths = generate(root / "runs", template, max(sizes) + 5, seed)
        found = [measured(root, paths[:n], paths[-5:]) for n in sizes]
        pages = [(n, *fleet_page(root, template, n, seed)) for n in hosts]
    return found, pages


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 0 where all figures meet their targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs")
    parser.add_argument("--run", type=Path, default=ROOT / "reports" / "twin-rtx4080-laptop", help="run that the copies are made of")
    parser.add_argument("--results", type=int, default=50, help="results of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the page here")
    chosen = parser.parse_args(arguments)
    template = Template.of(chosen.run, chosen.results)
    sizes, hosts = ([100, 300, 1000], [10, 20, 40]) if chosen.quick else ([1000, 3000, 10_000], [50, 100, 200])
    found, pages = study(sizes, hosts, template, chosen.seed)
    rows = target_rows(found[-1])
    mean = statistics.mean(len(before) + len(after) for before, _, after in template.lines)
    told = [
        f"Each run has {len(template.lines)} results of {mean / 1e3:.1f} kB on average, as a real run writes them; {NIGHTS} nights a host.",
        f"{os.cpu_count()} processors, load of the machine {os.getloadavg()[0]:.0f} at the end (others work on it, so the fastest of some",
        "tries counts); files in the page cache.",
    ]
    command = f"python benchmarks/history.py{' --quick' if chosen.quick else ''} --results {chosen.results} --seed {chosen.seed}"
    text = page("What a history of many runs costs", command, told, rows)
    text += "\n".join(["", *scale_table(found), "", *fleet_table(pages), "", *bend(found)])
    return publish(text, chosen.output, rows)


if __name__ == "__main__":
    sys.exit(main())
