"""Points of a sweep: each a run of its own, merged by one command that refuses what does not belong together."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pytest_physics.errors import ConfigurationError, PhysicsError, RecordError
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.verify import verify_run
from pytest_physics.record.writer import renew_manifest
from pytest_physics.routing.command import run_plan
from pytest_physics.routing.points import PointsFile, _left_out, grid, merge, points_text, read_points, run_point
from pytest_physics.workloads.routing_simulation import Point

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "slurm" / "routing_sweep.sbatch"
ENTRY = '{"router": "penalised", "lambda_per_j": 0, "gate": 0}'
SMALL = {"sequences": 2, "features": 16, "batches": 12, "block": 1}


def points_file(folder, *, gates=2, lambdas=(0.0, 0.2), routers=("penalised",), **changes):
    path = folder / "points.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(points_text(PointsFile(points=grid(routers, lambdas, gates), **(SMALL | changes))), encoding="utf-8")
    return path


def run_all(folder, **changes):
    path = points_file(folder, **changes)
    return [run_point(path, index, runs=folder / "runs", root=folder) for index in range(len(read_points(path).points))]


def copied(run, folder):
    """The run elsewhere, under its own name."""
    return Path(shutil.copytree(run, folder / run.name))


def edit(run):
    """One slot more than there was."""
    table = np.load(run / "table-routing-points-1.npy")
    table["slots_0"] += 1
    np.save(run / "table-routing-points-1.npy", table)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Four points, run one by one."""
    return run_all(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def merged_in(tmp_path):
    return lambda paths: merge(paths, runs=tmp_path / "merged", root=tmp_path)


def test_each_point_is_a_run_that_can_be_verified(parts):
    """Complete, with one point in it, and every number follows."""
    for path in parts:
        assert verify_run(path).passed
    names = [str(RecordedRun(path).settings.routing.points[0]) for path in parts]
    assert names == ["penalised@0#0", "penalised@0#1", "penalised@0.2#0", "penalised@0.2#1"]


def test_merged_points_are_the_sweep_run_at_once(parts, merged_in, tmp_path):
    """Row for row, whatever the order of the runs; results of the merge can be verified too."""
    found = merged_in(parts[::-1])
    assert verify_run(found.path).passed
    assert found.report is not None
    assert found.report.is_file()
    from pytest_physics.config import load_settings
    from pytest_physics.experiments.routing_sweep import run_routing_sweep
    from pytest_physics.session import Plan, Session

    names = list(RecordedRun(found.path).settings.routing.points)
    settings = load_settings(tmp_path, overrides={"runs": "at-once", "routing": {"field": "published", **SMALL, "points": names}})
    session = Session.start(settings, Plan.using({}), directory=tmp_path)
    run_routing_sweep(session)
    session.finish()
    whole, joined = (RecordedRun(path).table("routing-points-1") for path in (session.path, found.path))
    for name in set(whole.dtype.names) - {"order"}:
        if whole[name].dtype.kind == "f":
            assert joined[name] == pytest.approx(whole[name], rel=1e-5)
        else:
            assert (joined[name] == whole[name]).all()
    results = {(r.quantity, r.coordinates["lambda_per_j"]) for r in RecordedRun(found.path).reader.results}
    assert {("energy per slot", 0.0), ("energy per slot", 0.2), ("saving", 0.2)} <= results


def test_a_point_that_ran_twice_is_taken_once(parts, merged_in, tmp_path):
    """A task that Slurm requeued leaves two equal runs."""
    assert merged_in([*parts, copied(parts[0], tmp_path)]).lines[0].startswith("4 points of 5 runs")


def test_other_seeds_are_refused(parts, merged_in, tmp_path):
    """Gates of another seed are other gates."""
    other = run_all(tmp_path / "other", seed=1)
    with pytest.raises(RecordError, match="different seeds: 'seed' of expert 0 is 0 and 1"):
        merged_in([*parts[:2], *other[2:]])


def test_a_gate_that_one_lambda_lacks_is_refused(parts, merged_in):
    """It is named, so that it can be run."""
    with pytest.raises(RecordError, match=r"different seeds: penalised@0\.2#1 missing"):
        merged_in(parts[:3])


def test_a_sweep_without_its_control_is_refused(parts, merged_in):
    """λ = 0 is every pair's other half."""
    with pytest.raises(RecordError, match="penalised@0#0, penalised@0#1 missing"):
        merged_in(parts[2:])


def test_other_costs_are_refused(parts, merged_in, tmp_path):
    """Named with expert and both values."""
    other = run_all(tmp_path / "other", field="graded")
    with pytest.raises(RecordError, match=r"(different costs: 'energy_j' of expert 1 is 0\.5 and 0\.71|'coefficient_per_k' of expert 0)"):
        merged_in([*parts[:2], *other[2:]])


def test_other_sizes_are_refused(parts, merged_in, tmp_path):
    """Batches are part of what is compared."""
    other = run_all(tmp_path / "other", batches=14)
    with pytest.raises(RecordError, match=r"'routing\.batches' is 12 and 14"):
        merged_in([*parts[:2], *other[2:]])


def test_an_edited_run_is_refused(parts, merged_in, tmp_path):
    """A run that does not follow from its artifacts brings nothing."""
    edited = copied(parts[3], tmp_path)
    edit(edited)
    with pytest.raises(RecordError, match="does not follow from its own artifacts"):
        merged_in([*parts[:3], edited])


def test_two_results_of_one_point_are_refused(parts, merged_in, tmp_path):
    """Equal settings, other rows: another version of something."""
    other = copied(parts[3], tmp_path)
    edit(other)
    renew_manifest(other, "table-routing-points-1.npy")
    with pytest.raises(RecordError, match=r"different results of the point penalised@0\.2#1"):
        merged_in([*parts, other])


def test_an_incomplete_run_is_refused(parts, merged_in, tmp_path):
    """What was stopped is not a point."""
    stopped = copied(parts[3], tmp_path)
    record = json.loads((stopped / "run.json").read_text(encoding="utf-8"))
    (stopped / "run.json").write_text(json.dumps(record | {"state": "running", "end_reason": "running"}), encoding="utf-8")
    with pytest.raises(RecordError, match="is running"):
        merged_in([*parts[:3], stopped])


def test_one_run_is_no_merge(parts, merged_in):
    """And a directory without a run is none."""
    with pytest.raises(ConfigurationError, match="at least two runs"):
        merged_in(parts[:1])
    with pytest.raises(RecordError, match="not a run directory"):
        merged_in([*parts, parts[0].parent])


# --- the points file -------------------------------------------------------------------------------------------------


def test_the_plan_is_the_published_grid(command, tmp_path):
    """λ 0, 0.01, 0.1, 0.5, 1.0 with 100 batches each, on twelve gates; as many points as the script's array has tasks."""
    path = tmp_path / "points.json"
    assert "120 points, numbered from 0 to 119" in command("plan", path).output
    file = read_points(path)
    assert (file.batches, file.sequences, file.features, file.field) == (100, 8, 768, "published")
    assert {point.lambda_per_j for point in file.points} == {0.0, 0.01, 0.1, 0.5, 1.0}
    assert f"--array=0-{len(file.points) - 1}\n" in SCRIPT.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"points": []}', "'points'"),
        ('{"points": [{"router": "penalized", "lambda_per_j": 0, "gate": 0}]}', "no router is named 'penalized'"),
        ('{"points": [{"router": "penalised", "lambda_per_j": -1, "gate": 0}]}', "greater than or equal to 0 (got -1)"),
        ('{"points": [{"router": "penalised", "lambda": 0, "gate": 0}]}', "is missing"),
        (
            '{"points": [{"router": "penalised", "lambda_per_j": 0, "gate": 0}, {"router": "penalised", "lambda_per_j": 0, "gate": 0}]}',
            "twice",
        ),
        ("[]", "must hold a JSON object"),
    ],
)
def test_a_points_file_that_cannot_be_used(tmp_path, text, words):
    """One line with the place."""
    path = tmp_path / "points.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        read_points(path)


def test_a_point_that_does_not_exist(tmp_path):
    """An array that is longer than the file."""
    with pytest.raises(ConfigurationError, match="numbered from 0 to 3; there is no point 4"):
        run_point(points_file(tmp_path), 4, runs=tmp_path / "runs", root=tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"field": "lava"}, "'routing.field'"),
        ({"batches": 13, "block": 2}, "multiple of 'block'"),
        ({"features": 0}, "routing.features"),
    ],
)
def test_what_no_sweep_can_have(tmp_path, changes, words):
    """The settings say which."""
    with pytest.raises(PhysicsError, match=re.escape(words)):
        run_point(points_file(tmp_path, **changes), 0, runs=tmp_path / "runs", root=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--lambdas", "0.1,0.5"], "has no 0"), (["--lambdas", "0,x"], "must be a number"), (["--routers", "x"], "no router")],
)
def test_a_plan_that_cannot_be(command, tmp_path, arguments, words):
    """Before anything runs."""
    found = command("plan", tmp_path / "points.json", *arguments).exception
    assert isinstance(found, PhysicsError)
    assert words in str(found)


# --- the batch script ------------------------------------------------------------------------------------------------


def test_the_script_runs_its_task(tmp_path):
    """As Slurm would: the task's number in the environment, and nothing else."""
    points_file(tmp_path)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "2", "ROUTING_POINTS": "points.json", "PATH": path}
    done = subprocess.run(["bash", str(SCRIPT)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs" / "routing-sweep").iterdir()
    assert RecordedRun(run).settings.routing.points == ("penalised@0.2#0",)


def test_the_script_is_one_that_sbatch_reads():
    """Directives stand before the first command, and the shell accepts it."""
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert lines[0] == "#!/bin/bash"
    assert max(directives) < first
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lambdas": "0,0"}, "names a λ twice"), ({"field": "publishd"}, r"no thermal field 'publishd' \(did you mean 'published'\?\)")],
)
def test_a_plan_that_no_point_could_run_is_not_written(tmp_path, options, message):
    """Better here than in every task of an array."""
    chosen = {"routers": "penalised", "lambdas": "0,0.5", "gates": 2, "batches": 20, "field": "published", **options}
    with pytest.raises(ConfigurationError, match=message):
        run_plan(tmp_path / "points.json", **chosen)
    assert not (tmp_path / "points.json").exists()


def test_a_plan_does_not_replace_another(tmp_path):
    """Runs may have been made from it."""
    path = tmp_path / "points.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="exists already"):
        run_plan(path, routers="penalised", lambdas="0,0.5", gates=2, batches=20, field="published")
    assert path.read_text(encoding="utf-8") == "{}"


def test_a_part_of_a_sweep_says_what_is_left_out():
    """A router without a λ that another has is named; a whole sweep says nothing."""
    whole = grid(["penalised", "published"], [0.0, 0.5], 2)
    points = [Point.parse(str(point)) for point in (Point(router=p.router, per_joule=p.lambda_per_j, gate=p.gate) for p in whole)]
    assert list(_left_out(points)) == []
    (said,) = _left_out([point for point in points if point.router == "penalised" or not point.per_joule])
    assert "'published' at λ = 0.5 /J" in said
