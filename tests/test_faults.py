"""Planted faults end in the right verdict, with a message one would thank somebody for; nothing hangs, what was measured stays readable."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_physics.claims import ClaimStatement, Judge
from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.errors import ChannelUnavailableError, InconclusiveMeasurement, InvalidMeasurement, RecordError, RefutedClaim
from pytest_physics.metrology.decision import Verdict
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.verify import verify_run
from pytest_physics.record.writer import new_run_directory
from pytest_physics.report.build import build_report
from pytest_physics.session import Plan, Session
from pytest_physics.workloads.twin import TwinKernel

ROOT = Path(__file__).parents[1]
LIMITS = {"baseline": {"settle_s": 1.0, "duration_s": 15.0}}
WORK_AT_S = 40.0
"""The window of the tests below lasts from here for five seconds."""


def twin_session(tmp_path, *faults, preset="rtx4080-laptop", **overrides):
    """A run on a twin with faults."""
    parameters = {"preset": preset, "seed": 3, "faults": list(faults), **({"overrides": overrides} if overrides else {})}
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters=parameters)})
    return Session.start(load_settings(tmp_path, overrides=LIMITS), plan, directory=tmp_path)


def judged(session, comparison, name="claim"):
    """The record of one claim."""
    judge = Judge(book=session, claim=ClaimStatement(id=name, statement=name, test=name, source="x:1"))
    with contextlib.suppress(RefutedClaim, InvalidMeasurement, InconclusiveMeasurement):
        judge(comparison)
    return judge.records[-1]


def worked(tmp_path, *faults, claim=lambda window: window.energy.net <= 1e4, **options):
    """Baseline, five seconds of work from ``WORK_AT_S`` on, one claim about them; the claim, and the run read back and verified."""
    with twin_session(tmp_path, *faults, **options) as session:
        gpu = session.rig.gpu
        with contextlib.suppress(ChannelUnavailableError):
            gpu.baseline()
        gpu.clock.sleep_until_ns(round(WORK_AT_S * 1e9))
        with gpu.window("work", tokens=100) as window:
            TwinKernel(gpu.device).run_for(5.0)
        record = judged(session, claim(window))
    found = verify_run(session.path)
    assert found.passed, found.findings
    return record


def test_clean_data_are_validated(tmp_path):
    """The silent half of every gate below: the same run without a fault."""
    record = worked(tmp_path)
    assert record.verdict is Verdict.VALIDATED
    assert [gate.name for gate in record.gates if not gate.passed and not gate.warning] == []


DURING = {"start_s": WORK_AT_S + 1, "stop_s": WORK_AT_S + 4}
INVALID_BECAUSE = {
    "every read fails": ({"kind": "read_error", **DURING, "value": 1.0}, "sampling gaps", "gaps cover"),
    "the sensor is stale": ({"kind": "stale", "start_s": WORK_AT_S + 1, "stop_s": WORK_AT_S + 4}, "stale sensor", ""),
    "the gpu is lost": ({"kind": "lost", "start_s": WORK_AT_S + 2}, "sampler", "no valid samples on both sides of the window"),
    "the counter was reset": ({"kind": "counter_reset", "start_s": WORK_AT_S + 2}, "", ""),
    "the driver slows the clock": ({"kind": "thermal_slowdown", **DURING}, "thermal throttling", "slowed for thermal reasons"),
    "a foreign process in the idle": ({"kind": "foreign_process", "stop_s": 76.5}, "idle foreign processes", "foreign compute process"),
    "an idle that switches": ({"kind": "bimodal_idle", "stop_s": 30.0}, "idle bimodality", ""),
}


@pytest.mark.parametrize("case", [case for case in INVALID_BECAUSE if case != "the counter was reset"])
def test_a_fault_makes_the_claim_invalid_and_says_why(tmp_path, case):
    """INVALID, never REFUTED or a number: the failed gate is named, with measured value, limit and a remedy."""
    fault, gate_name, text = INVALID_BECAUSE[case]
    record = worked(tmp_path, fault)
    assert record.verdict is Verdict.INVALID
    failed = [gate for gate in record.gates if not gate.passed and not gate.warning]
    named = next(gate for gate in failed if gate.name == gate_name)
    assert text in named.reason
    assert named.remedy
    assert gate_name in record.reason


def test_a_reset_counter_is_no_negative_energy(tmp_path):
    """Zeus says −48 GJ: the counter refuses, and the power integral, which needs no counter, still speaks."""
    fault = {"kind": "counter_reset", "start_s": WORK_AT_S + 2}
    by_counter = worked(tmp_path, fault, claim=lambda w: w.instrument.energy(w, estimator="counter").net <= 1e4)
    assert by_counter.verdict is Verdict.INVALID
    assert "the energy counter went backwards inside the window" in by_counter.reason
    assert worked(tmp_path, fault, claim=lambda w: w.instrument.energy(w, estimator="power").net <= 1e4).verdict is Verdict.VALIDATED


def test_some_failed_reads_cost_little(tmp_path):
    """One read in five fails (perun loses 20 % of the energy): missing values are missing, not zero, and the interval holds the truth."""
    record = worked(tmp_path, {"kind": "read_error", "start_s": WORK_AT_S - 5, "stop_s": WORK_AT_S + 10, "value": 0.2})
    assert record.verdict is Verdict.VALIDATED
    assert abs(record.estimate.value - record.truth) <= record.estimate.expanded


def test_a_channel_that_is_absent_is_not_tested(tmp_path):
    """The reason is the device's own; the judge never sees a number."""
    with twin_session(tmp_path, {"kind": "channel_absent", "value": "energy_j"}) as session:
        with session.rig.gpu.window("work") as window:
            TwinKernel(session.rig.gpu.device).run_for(2.0)
        with pytest.raises(ChannelUnavailableError, match="cannot read 'energy_j': NVML_ERROR_NOT_SUPPORTED"):
            session.rig.gpu.energy(window, estimator="counter")
        with pytest.raises(ChannelUnavailableError, match="cannot read 'energy_j'"):
            session.rig.require("gpu.energy_j")


def test_a_device_lost_before_the_baseline_gives_no_idle_power(tmp_path):
    """A baseline without updates has no mean; its gate says how many there were, and net energy is INVALID."""
    with twin_session(tmp_path, {"kind": "lost", "start_s": 1.2}) as session:
        gpu = session.rig.gpu
        idle = gpu.baseline()
        assert idle.mean_w is None
        assert any(not gate.passed for gate in idle.gates)
        with gpu.window("work") as window:
            TwinKernel(gpu.device).run_for(2.0)
        assert judged(session, window.energy.net <= 1e4).verdict is Verdict.INVALID
    assert verify_run(session.path).passed


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_runs_that_is_a_file_is_refused(tmp_path):
    """The path, the reason, and what to do."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(
        RecordError,
        match=r"cannot create the run directory .*runs/.*: .*choose a writable place with --runs DIR, in pytest with --physics-runs DIR",
    ):
        new_run_directory(tmp_path / "runs")


AS_NOBODY = """
import os, sys
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
from pytest_physics.errors import RecordError
from pytest_physics.record.writer import new_run_directory
os.setuid(65534)
try:
    new_run_directory(Path(sys.argv[1]))
except RecordError as error:
    print(error)
"""


def test_a_read_only_runs_directory_is_refused(tmp_path):
    """Permission denied, where, and what to do; root may write anywhere, so it is asked as nobody."""
    runs = tmp_path / "runs"
    runs.mkdir(mode=0o555)
    script = AS_NOBODY if os.getuid() == 0 else AS_NOBODY.replace("os.setuid(65534)", "")
    done = subprocess.run([sys.executable, "-c", script, runs, ROOT / "src"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(f"cannot create the run directory {runs}/")
    assert "Permission denied; choose a writable place with --runs DIR, in pytest with --physics-runs DIR." in done.stdout


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = os.getuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("needs to mount a small file system (root)")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place, *, leave=0):
    """Take all the space that is left, but ``leave`` bytes."""
    with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    if leave:
        os.truncate(place / "filler", (place / "filler").stat().st_size - leave)


def use_up_the_last_block(gpu):
    """On a full disk too a file may grow to the end of its last block."""
    for _ in range(200):
        with gpu.window("after", labels={"text": "x" * 200}):
            pass


def test_a_disk_that_fills_up_ends_in_one_message_and_a_readable_run(small_disk):
    """The sampler fails, the window's line is refused whole; run.json stays the old one; everything written before can be read."""
    session = twin_session(small_disk)
    gpu = session.rig.gpu
    with gpu.window("before"):
        TwinKernel(gpu.device).run_for(0.5)
    fill(small_disk)
    gpu.sleep(30.0)
    assert not gpu.sampler.is_alive()
    assert "No space left on device" in gpu.sampler.status.error
    with pytest.raises(RecordError, match=r"cannot write .*windows.jsonl: No space left on device; what was written before stays readable"):
        use_up_the_last_block(gpu)
    with pytest.raises(RecordError, match=r"cannot write .*No space left on device"):
        session.finish()
    run = RecordedRun(session.path)
    assert run.reader.run.state == "running"
    assert run.reader.windows[0].name == "before"
    assert len(run.trace("gpu")) > 10
    assert verify_run(session.path).incomplete.startswith("it was killed, its disk was full, or it still runs. Readable: ")
    assert sorted(path.name for path in session.path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.filterwarnings("ignore:constrained_layout")  # a figure of three samples and a window half a minute later
def test_space_that_comes_back_is_used(small_disk):
    """A full disk ends neither the run nor its windows; they go on where there is room again. Its sampler does not: it said so."""
    session = twin_session(small_disk)
    gpu = session.rig.gpu
    fill(small_disk)
    gpu.sleep(30.0)
    with pytest.raises(RecordError, match="No space left"), gpu.phase("full"):
        pass
    (small_disk / "filler").unlink()
    with gpu.window("after"):
        TwinKernel(gpu.device).run_for(2.0)
    assert judged(session, session.rig.gpu.windows["gpu-w1"].duration <= 10.0).verdict is Verdict.VALIDATED
    session.finish(publish=build_report)
    record = RecordedRun(session.path).reader.run.instruments["gpu"]
    assert record.sampler_state == "failed"
    assert "No space left on device" in record.sampler_error
    assert "No space left on device" in (session.path / "report.html").read_text()
    assert verify_run(session.path).passed


# --- processes --------------------------------------------------------------------------------------------------------


def until(condition, timeout_s=20.0):
    """Wait for a condition; the test fails where it does not come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


KILLED = """
import sys, time
from pathlib import Path
from pytest_physics.config import load_settings
from pytest_physics.session import Session
directory = Path(sys.argv[1])
session = Session.start(load_settings(directory, overrides={"device": "cpu"}), directory=directory)
cpu = session.rig.cpu
with cpu.phase("work"):
    for _ in range(3):
        with cpu.window("step", tokens=1):
            time.sleep(0.1)
    cpu.wait_until_sampled(cpu.clock.now_ns())
    print(session.path, cpu.sampler.pid, flush=True)
    time.sleep(60)
"""


def alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_kill_9_of_the_run_leaves_it_readable_and_nothing_running(tmp_path):
    """run.json says running, the trace and the windows can be read, the sampler is gone too, and verify says what there is."""
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True) as run:
        path, _, sampler = run.stdout.readline().strip().rpartition(" ")
        assert alive(int(sampler))
        run.send_signal(signal.SIGKILL)
    until(lambda: not alive(int(sampler)))
    recorded = RecordedRun(Path(path))
    assert recorded.reader.run.state == "running"
    assert recorded.reader.run.phases[0].t1_ns is None
    assert [window.name for window in recorded.reader.windows] == ["step"] * 3
    assert len(recorded.trace("cpu")) >= 3
    program = Path(sys.executable).with_name("pytest-physics")
    done = subprocess.run([program, "verify", path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "is incomplete: it was killed, its disk was full, or it still runs." in " ".join(done.stdout.split())
    found = verify_run(Path(path))
    assert found.findings == ()
    assert found.incomplete.startswith("it was killed, its disk was full, or it still runs. Readable: ")
    assert "samples of 'cpu', 3 windows" in found.incomplete
    build_report(Path(path))
    assert "never finalised" in (Path(path) / "report.html").read_text()


@pytest.fixture
def cpu_session(tmp_path):
    """A run on the real CPU."""
    options = {"device": "cpu", "sampling": {"max_wait_s": 0.6}}
    session = Session.start(load_settings(tmp_path, overrides=options), directory=tmp_path)
    yield session
    with contextlib.suppress(RecordError):
        session.finish(publish=build_report)


def timed(session, name):
    """A window of 0.2 s."""
    with session.rig.cpu.window(name) as window:
        time.sleep(0.2)
    return window


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_sampler_that_dies_or_stops_makes_later_claims_invalid(cpu_session, how):
    """What was sampled before still speaks; what came after is INVALID with the reason; every wait is bounded; the report says so."""
    cpu = cpu_session.rig.cpu
    before = judged(cpu_session, timed(cpu_session, "before").duration <= 60.0, "before")
    os.kill(cpu.sampler.pid, how)
    until(lambda: not cpu.sampler.is_alive() or cpu.sampler.heartbeat_age_s() > 0.3)
    window = timed(cpu_session, "after")
    started_s = time.monotonic()
    judge = Judge(book=cpu_session, claim=ClaimStatement(id="after", statement="after", test="after", source="x:1"))
    with pytest.raises(InvalidMeasurement) as raised:
        judge(window.duration <= 60.0)
    assert time.monotonic() - started_s < 10
    if not judge.records:
        judge.invalid(str(raised.value))  # what the plugin does
    cpu_session.finish(publish=build_report)
    assert before.verdict in {Verdict.VALIDATED, Verdict.INVALID}  # on a busy machine its own gates may refuse it
    assert "sampler" in str(raised.value) or "host" in str(raised.value)
    record = json.loads((cpu_session.path / "run.json").read_text())["instruments"]["cpu"]
    if how is signal.SIGKILL:
        assert record["sampler_state"] == "failed"
        assert "killed by SIGKILL" in record["sampler_error"]
        assert "killed by SIGKILL" in (cpu_session.path / "report.html").read_text()
    found = verify_run(cpu_session.path)
    assert found.findings == ()
