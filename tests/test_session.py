"""A run's life: start, end, and everything that can come between."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.errors import ChannelUnavailableError, ConfigurationError, DeviceUnavailableError, RecordError
from pytest_physics.metrology.uncertainty import Recipe
from pytest_physics.record.reader import RunReader
from pytest_physics.record.verify import verify_run
from pytest_physics.session import Plan, Session

ROOT = Path(__file__).parents[1]
OPTIONS = {"device": "twin:ideal", "baseline": {"settle_s": 0.5, "duration_s": 11.0}}


def start(tmp_path, **overrides):
    return Session.start(load_settings(tmp_path, overrides={**OPTIONS, **overrides}), directory=tmp_path)


def state(session):
    record = json.loads((session.path / "run.json").read_text())
    return record["state"], record["end_reason"]


def test_a_run_says_how_it_ends(tmp_path):
    """Running until it has finished; then completed, with a manifest over everything."""
    session = start(tmp_path)
    assert state(session) == ("running", "running")
    session.finish()
    assert state(session) == ("completed", "finished")
    listed = {line.partition("  ")[2] for line in (session.path / "MANIFEST.sha256").read_text().splitlines()}
    assert listed == {path.name for path in session.path.iterdir()} - {"MANIFEST.sha256"}
    done = subprocess.run(["sha256sum", "--check", "--quiet", "MANIFEST.sha256"], cwd=session.path, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("finished", "completed"), ("stopped: -x", "completed"), ("interrupted", "incomplete"), ("ValueError: no", "incomplete")],
)
def test_the_state_follows_from_the_reason(tmp_path, reason, expected):
    """A run that somebody or something broke off is incomplete; verify agrees, and calls only the rest complete."""
    session = start(tmp_path)
    session.finish(reason)
    assert state(session) == (expected, reason)
    found = verify_run(session.path)
    assert found.findings == ()
    assert found.passed == (expected == "completed")


def test_an_error_in_the_block_ends_the_run(tmp_path):
    """The run keeps what it has and says what happened; the error goes on."""
    with pytest.raises(ZeroDivisionError), start(tmp_path) as session:
        _ = 1 / 0
    assert state(session) == ("incomplete", "ZeroDivisionError: division by zero")
    assert RunReader(session.path).run.instruments["gpu"].sampler_state == "stopped"


def test_a_report_that_fails_does_not_cost_the_manifest(tmp_path):
    """Everything is stopped and listed before the error goes on."""

    def publish(path):
        raise RuntimeError("no figures today")

    session = start(tmp_path)
    with pytest.raises(RuntimeError, match="no figures"):
        session.finish(publish=publish)
    assert (session.path / "MANIFEST.sha256").exists()
    assert not session.rig.gpu.sampler.is_alive()


def test_a_device_that_cannot_be_opened_leaves_an_incomplete_run(tmp_path):
    """The second of two devices fails: the first is stopped, the record says why, and the device's own message goes on."""
    plan = Plan.using(
        {"gpu": DeviceSpec(kind="twin", parameters={"preset": "ideal"}), "other": DeviceSpec(kind="replay", parameters={"path": "x"})}
    )
    with pytest.raises((DeviceUnavailableError, ConfigurationError, RecordError)) as raised:
        Session.start(load_settings(tmp_path, overrides=OPTIONS), plan, directory=tmp_path)
    (path,) = (tmp_path / "runs").iterdir()
    run = RunReader(path).run
    assert run.state == "incomplete"
    assert run.end_reason == f"could not start: {raised.value}"


def test_every_run_has_a_directory_of_its_own(tmp_path):
    """Also two of the same second."""
    paths = set()
    for _ in range(3):
        session = start(tmp_path)
        session.finish()
        paths.add(session.path)
    assert len(paths) == 3


def test_the_rig_names_what_it_has(tmp_path):
    """Instruments by name or attribute; what is missing says what there is and how to get it."""
    with start(tmp_path) as session:
        rig = session.rig
        assert rig["gpu"] is rig.gpu
        assert "gpu" in rig
        assert "cpu" not in rig
        rig.require("gpu.power_w")
        with pytest.raises(
            ChannelUnavailableError, match=r"this rig has no 'cpu' \(it has gpu\); choose one with --physics-device, for example 'auto'."
        ):
            _ = rig.cpu
        with pytest.raises(
            ChannelUnavailableError, match="cannot read 'memory_temperature_c': the twin has no model of the memory's temperature"
        ):
            rig.require("gpu.memory_temperature_c")


def test_a_plan_takes_devices_with_any_parameters(tmp_path):
    """Faults and overrides reach the twin and stand in the record, from which it can be built again."""
    faults = [{"kind": "read_error", "value": 0.5}]
    overrides = {"power.noise_w": 0.0}
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters={"preset": "ideal", "faults": faults, "overrides": overrides})})
    with Session.start(load_settings(tmp_path, overrides=OPTIONS), plan, directory=tmp_path) as session:
        session.rig.gpu.sleep(5.0)
    record = RunReader(session.path).run.instruments["gpu"]
    assert record.parameters == {"preset": "ideal", "seed": 0, "faults": faults, "overrides": overrides}
    assert record.statistics["read_errors"]["power_w"] > 0
    assert plan.banner == ("GPU numbers are SIMULATED: 'twin:ideal' was asked for.",)
    assert plan.header == "gpu = twin:ideal"
    assert verify_run(session.path).passed


@pytest.mark.parametrize("name", ["gpu-0", "", "a b"])
def test_an_instrument_needs_a_name_that_can_be_part_of_an_id(name):
    """Ids are 'name-w1'; a name with a dash would name another instrument."""
    with pytest.raises(ConfigurationError, match="an instrument's name must be a Python identifier"):
        Plan.using({name: DeviceSpec(kind="cpu")})


def test_real_and_simulated_are_not_confused(tmp_path):
    """Only a plan with a twin has a banner; naming a device is not choosing it by accident."""
    assert Plan.of(load_settings(tmp_path, overrides={"device": "cpu"})).banner == ()
    plan = Plan.of(load_settings(tmp_path, overrides={"device": "twin:a100", "seed": 7}))
    assert plan.banner == ("GPU numbers are SIMULATED: 'twin:a100' was asked for.",)
    assert plan.instruments["gpu"].parameters == {"preset": "a100", "seed": 7}
    assert plan.virtual_time


def test_equal_seeds_give_equal_runs(tmp_path):
    """A twin's run is deterministic to the last bit."""
    traces = []
    for _ in range(2):
        with start(tmp_path) as session:
            session.rig.gpu.baseline()
        traces.append((session.path / "trace-gpu.npy").read_bytes())
    assert traces[0] == traces[1]


def test_baselines_and_results_are_on_record_at_once(tmp_path):
    """A crash later loses none of them."""
    with start(tmp_path) as session:
        idle = session.rig.gpu.baseline()
        recipe = Recipe(op="baseline.power", parameters={"baseline": idle.id})
        session.result("idle", "idle power", session.evaluate(recipe), instrument="gpu")
        reader = RunReader(session.path)
        assert [b.id for b in reader.baselines] == ["gpu-b1"]
        assert [(r.id, r.quantity) for r in reader.results] == [("r1", "idle power")]


NOTHING_LEFT = """
import sys, threading
from pathlib import Path
import psutil
from pytest_physics.config import load_settings
from pytest_physics.session import Session
directory = Path(sys.argv[1])
before = threading.active_count(), psutil.Process().num_fds()
for _ in range(2):
    with Session.start(load_settings(directory, overrides={"device": "cpu"}), directory=directory) as session:
        session.rig.cpu.sleep(0.1)
    del session
print(len(psutil.Process().children(recursive=True)), threading.active_count() - before[0], psutil.Process().num_fds() - before[1])
"""


def test_nothing_is_left_running_or_open(tmp_path):
    """No child process, no thread, no file descriptor after a run on real hardware."""
    done = subprocess.run([sys.executable, "-c", NOTHING_LEFT, tmp_path], capture_output=True, text=True, timeout=60, check=True)
    children, threads, descriptors = map(int, done.stdout.split())
    assert (children, threads) == (0, 0)
    assert descriptors <= 1
