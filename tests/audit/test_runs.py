"""Our own medicine: a healthy run passes, and every planted inconsistency is found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pytest_physics.audit.runs import audit_run, expected_verdict, unit_of
from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.experiments.sensor_characterisation import paused_in_turns
from pytest_physics.metrology.decision import Verdict
from pytest_physics.record.reader import RunReader
from pytest_physics.session import Plan, Session

TEST = """
import pytest


@pytest.fixture(scope="module")
def window(rig, idle_baseline):
    with rig.gpu.window("request", tokens=512) as window:
        rig.gpu.sleep(3.0)
    return window


@pytest.mark.claim("A request costs at most 1000 J", id="request")
def test_request(window, judge):
    judge(window.energy.gross <= 1000.0)


@pytest.mark.claim("A token costs at most 10 J", id="token", requires=["request"])
def test_token(window, judge):
    judge(window.per("token").gross <= 10.0)
"""


@pytest.fixture(scope="session")
def healthy(tmp_path_factory) -> Path:
    """A run of the twin with a baseline, a window and two claims."""
    root = tmp_path_factory.mktemp("own")
    (root / "physics.toml").write_text("[baseline]\nsettle_s = 1.0\nduration_s = 12.0\n", encoding="utf-8")
    (root / "test_it.py").write_text(TEST, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "--physics", "--physics-device", "twin:rtx4080-laptop", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = root.glob("runs/*/run.json")
    return run.parent


@pytest.fixture
def copied(healthy, tmp_path) -> Path:
    """A copy to plant something in; it keeps the name, which is the run's id."""
    return Path(shutil.copytree(healthy, tmp_path / healthy.name))


def verdicts(path: Path) -> dict[str, str]:
    return {ruling.claim.id: ruling.verdict.value for ruling in audit_run(path).rulings}


def edit(path: Path, name: str, change) -> None:
    """Change the records of one file in place."""
    file = path / name
    if name.endswith("l"):
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        change(records)
        file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    else:
        data = json.loads(file.read_text(encoding="utf-8"))
        change(data)
        file.write_text(json.dumps(data), encoding="utf-8")


def test_a_healthy_run_passes(healthy):
    """Every family that has records is validated, and nothing is found."""
    found = audit_run(healthy)
    assert found.accusations == []
    assert found.exit_code == 0
    assert {r.claim.id for r in found.rulings if r.verdict is Verdict.VALIDATED} >= {
        "baselines", "durations", "budgets", "units", "verdicts", "identity", "traces",
    }  # fmt: skip


def scale(key, factor):
    def change(data):
        data[0][key] *= factor

    return change


def claim(**values):
    def change(records):
        records[0].update(values)

    return change


def estimate(**values):
    def change(records):
        records[0]["estimate"].update(values)

    return change


def dropped(data):
    data["instruments"]["gpu"]["statistics"]["dropped"] += 500


def other_id(data):
    data["run_id"] = "20251225T190043Z-000000"


PLANTED = [
    ("baseline.json", scale("mean_w", 1.0001), "baselines"),
    ("baseline.json", scale("standard_deviation_w", 1.001), "baselines"),
    ("baseline.json", scale("maximum_w", 0.9), "baselines"),
    ("run.json", dropped, "durations"),
    ("run.json", other_id, "identity"),
    ("claims.jsonl", claim(verdict="REFUTED"), "verdicts"),
    ("claims.jsonl", claim(limit=0.001), "verdicts"),
    ("claims.jsonl", estimate(unit="W"), "units"),
    ("claims.jsonl", estimate(u=1e-6), "budgets"),
]


@pytest.mark.parametrize(("name", "change", "family"), PLANTED, ids=[f"{family} {i}" for i, (_, _, family) in enumerate(PLANTED)])
def test_a_planted_inconsistency_is_found(copied, name, change, family):
    """One edited record, and its family is refuted."""
    edit(copied, name, change)
    assert verdicts(copied)[family] == "REFUTED"


def test_missing_rows_are_found(copied):
    """A trace that lost a tenth of its rows contradicts the counted samples and its own period."""
    path = copied / "trace-gpu.npy"
    rows = np.load(path)
    keep = np.ones(len(rows), dtype=bool)
    keep[len(rows) // 2 : len(rows) // 2 + len(rows) // 10] = False
    from pytest_physics.sampling.trace import HEADER_BYTES

    original = path.read_bytes()
    body = rows[keep].tobytes()
    head = original[:HEADER_BYTES].replace(f"({len(rows)},)".encode(), f"({int(keep.sum())},)".encode())
    path.write_bytes(head + b" " * 0 + body if len(head) == HEADER_BYTES else _padded(head, HEADER_BYTES) + body)
    found = verdicts(copied)
    assert (found["durations"], found["traces"]) == ("REFUTED", "REFUTED")


def _padded(head: bytes, length: int) -> bytes:
    return head.rstrip(b"\n ").ljust(length - 1) + b"\n"


def test_a_window_that_the_sensor_cannot_see_is_found(copied):
    """A reported energy whose window is shorter than two updates."""

    def shorten(records):
        for record in records:
            record["t1_ns"] = record["t0_ns"] + 1_000_000

    edit(copied, "windows.jsonl", shorten)
    assert verdicts(copied)["windows"] == "INVALID"


@pytest.mark.parametrize(
    ("recipe", "unit"),
    [
        ({"op": "window.energy"}, "J"),
        ({"op": "divide", "inputs": [{"op": "window.energy"}, {"op": "window.work", "parameters": {"work": "tokens"}}]}, "J/token"),
        ({"op": "multiply", "inputs": [{"op": "baseline.power"}, {"op": "window.duration"}]}, "J"),
        ({"op": "mean", "inputs": [{"op": "window.energy"}, {"op": "window.energy"}]}, "J"),
        ({"op": "mean", "inputs": [{"op": "window.energy"}, {"op": "window.duration"}]}, None),
        ({"op": "constant", "parameters": {"value": 3, "unit": "token"}}, "token"),
        ({"op": "soak.slope"}, None),
    ],
)
def test_the_unit_of_a_recipe(recipe, unit):
    """Units multiply and divide with their quantities; an operation whose unit is its own affair has none here."""
    found = unit_of(recipe)
    assert (None if found is None else str(found)) == unit


def test_verdicts_are_derived_without_the_code_that_made_them(healthy):
    """Every claim of a healthy run, from its record alone."""
    judged = {}
    for record in RunReader(healthy).claims:
        if record.estimate is not None:
            assert expected_verdict(record, judged) is record.verdict
        judged[record.id] = record.verdict


def test_pauses_of_the_sampler_are_no_missing_ticks(tmp_path):
    """A trace with pauses that the run's phases name keeps its period; with the phases renamed, the same trace does not."""
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters={"preset": "h100", "seed": 1})})
    with Session.start(load_settings(tmp_path), plan, directory=tmp_path) as session:
        paused_in_turns(session.rig.gpu, 3.0)
    verdicts = {ruling.claim.id: ruling.verdict.value for ruling in audit_run(session.path).rulings}
    assert verdicts["traces"] == "VALIDATED"
    assert verdicts["durations"] == "VALIDATED"
    record = session.path / "run.json"
    record.write_text(record.read_text().replace("sampler paused", "lunch"))
    verdicts = {ruling.claim.id: ruling.verdict.value for ruling in audit_run(session.path).rulings}
    assert verdicts["traces"] == "REFUTED"
