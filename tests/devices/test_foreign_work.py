"""What the driver tells of other processes' work, through the unmodified nvidia-ml-py and a simulated driver."""

from __future__ import annotations

import math
import os
import subprocess
import time

import pynvml
import pytest
from fakenvml import H100

from pytest_physics.clock import VirtualClock
from pytest_physics.devices.base import READ_OK
from pytest_physics.devices.nvml.foreign_work import CHANNELS, PERIOD_S, ForeignWork
from pytest_physics.devices.nvml.library import NO_DATA, NO_PERMISSION, NOT_FOUND
from pytest_physics.metrology.foreign_channels import unpacked_name

INVISIBLE_PID = 2**22 + 7  # above the largest process id of Linux


@pytest.fixture
def orphan():
    """Process id of a process that is nobody's child of ours: its parent has ended."""
    shell = subprocess.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True, check=True)
    yield int(shell.stdout)
    os.kill(int(shell.stdout), 9)


def looks(device, n=3):
    """The channels of foreign work in ``n`` readings, far enough apart that the driver is asked each time."""
    names = [channel.name for channel in device.channels]
    out = []
    for _ in range(n):
        device._work._due_ns = 0
        values, codes = device.read()
        row = dict(zip(names, values, strict=True))
        code = dict(zip(names, codes, strict=True))
        out.append(({name: row[name] for name in CHANNELS}, {code[name] for name in CHANNELS}))
    return out


def test_the_layout_is_that_of_the_binding(fake_nvml, orphan):
    """Process, timestamp in microseconds of the wall's clock, and SM percent arrive in their places."""
    device = fake_nvml.open(H100 + f"work {orphan} 1 37\n")
    fake_nvml.advance(2)
    (sample,) = pynvml.nvmlDeviceGetProcessUtilization(device._handle, 0)
    assert (sample.pid, sample.smUtil, sample.memUtil) == (orphan, 37, 0)
    assert time.time() * 1e6 - sample.timeStamp == pytest.approx(1e6, abs=3e5)


def test_work_of_another_process_is_told_once(fake_nvml, orphan):
    """Share, process, name and age of the driver's sample; the next reading has none."""
    device = fake_nvml.open(H100 + f"work {orphan} 1 37\n")
    device._work._since_us -= 10_000_000  # the driver's time is moved on below, the wall's is not
    fake_nvml.advance(1.5)
    (first, codes), (second, _), _ = looks(device)
    assert codes == {READ_OK}
    assert (first["foreign_sm_ratio"], first["foreign_pid"]) == (0.37, orphan)
    assert first["foreign_age_s"] == pytest.approx(0.5, abs=0.3)
    assert unpacked_name(first["foreign_name_1"], first["foreign_name_2"]) == "sleep"
    assert set(second.values()) == {0.0}


def test_each_sample_has_its_reading(fake_nvml, orphan):
    """Two samples of one look come in two readings, the older first: a later one does not hide it."""
    device = fake_nvml.open(H100 + f"work {orphan} 1 90\nwork {orphan} 1.2 20\n")
    device._work._since_us -= 10_000_000
    fake_nvml.advance(1.5)
    assert [row["foreign_sm_ratio"] for row, _ in looks(device)] == [0.9, 0.2, 0.0]


def test_own_work_is_not_foreign(fake_nvml):
    """The running process, the one that started it, and its children work for the run."""
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            device = fake_nvml.open(H100 + f"work self 1 90\nwork parent 1 90\nwork {child.pid} 1 90\n")
            device._work._since_us -= 10_000_000
            fake_nvml.advance(1.5)
            assert all(set(row.values()) == {0.0} and codes == {READ_OK} for row, codes in looks(device))
        finally:
            child.kill()


def test_an_idle_process_and_an_empty_slot_are_no_work(fake_nvml, orphan):
    """0 % is presence; more than 100 % and process 0 are slots that were never filled."""
    device = fake_nvml.open(H100 + f"work {orphan} 1 0\nwork 0 1 50\nwork {orphan} 1 4294967295\n")
    device._work._since_us -= 10_000_000
    fake_nvml.advance(1.5)
    assert all(set(row.values()) == {0.0} for row, _ in looks(device))


def test_an_invisible_worker_is_a_riddle(fake_nvml):
    """Own or foreign, nobody can say: no number, and NO_PERMISSION."""
    device = fake_nvml.open(H100 + f"work {INVISIBLE_PID} 1 50\n")
    device._work._since_us -= 10_000_000
    fake_nvml.advance(1.5)
    row, codes = looks(device, 1)[0]
    assert codes == {NO_PERMISSION}
    assert all(math.isnan(value) for value in row.values())


def test_the_driver_is_asked_a_few_times_per_second():
    """Between looks nothing is asked; nothing newer is no failure, and any other code is."""
    clock, asked, code = VirtualClock(), [], NOT_FOUND
    work = ForeignWork(lambda since_us: asked.append(since_us) or (None, code), owns=lambda _: False, clock=clock, wall_us=lambda: 5)
    for _ in range(10):
        assert work.read() == ((0.0,) * 5, READ_OK)
    assert asked == [5]
    code = NO_DATA
    clock.advance_to_ns(clock.now_ns() + round(PERIOD_S * 1e9))
    assert work.read()[1] == NO_DATA
    assert len(asked) == 2


def test_memory_of_foreign_processes_is_told(fake_nvml, orphan):
    """What the list of compute processes says of those that are not the run's."""
    device = fake_nvml.open(H100 + f"process self 300\nprocess {orphan} 500\n")
    names = [channel.name for channel in device.channels]
    assert dict(zip(names, device.read()[0], strict=True))["foreign_memory_bytes"] == 500 * 2**20
