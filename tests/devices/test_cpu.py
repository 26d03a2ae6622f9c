"""The cpu device: on planted hosts, where every number is known, and on this one."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pytest_physics.devices import cpu_meters
from pytest_physics.devices.base import BENCHMARK_PID_VARIABLE, CHANNELS, ERROR_OTHER, OS_ERROR_BASE, Device, DeviceSpec, ReadingKind
from pytest_physics.devices.cpu import CpuDevice, open_device
from pytest_physics.devices.cpu_meters import TICK_NS, children
from pytest_physics.errors import ConfigurationError
from pytest_physics.workloads.canary import CANARY_BYTES, canary_s

PID = 4242
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the real /proc")


class Host:
    """A file system with a ``/proc`` and a ``/sys`` that the test writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.put("proc/stat", "cpu  100 10 50 1000 20 5 5 7 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
        self.put("proc/meminfo", "MemTotal:        1000 kB\nMemFree:          100 kB\nMemAvailable:     400 kB\nBuffers: 3 kB\n")
        self.put("proc/pressure/cpu", "some avg10=0.97 avg60=0.52 avg300=0.15 total=3450151\nfull avg10=0.00 total=9\n")
        self.put("proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=12\nfull total=0\n")
        self.put("etc/machine-id", "0123456789abcdef\n")
        self.put("proc/cpuinfo", "processor : 0\nmodel name : Test CPU 9000\nflags : fpu hypervisor sse\ncpu MHz : 2596.122\n")
        self.process(PID)
        self.thread(PID, PID, wait_ns=500)
        self.cgroups("0::/\n", "30 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")

    def put(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def process(self, pid: int, *, utime=0, stime=0, cutime=0, cstime=0, faults=0) -> None:
        fields = ["S", "1", "1", "1", "0", "-1", "0", "7", "8", str(faults), "9", str(utime), str(stime), str(cutime), str(cstime)]
        self.put(f"proc/{pid}/stat", f"{pid} (evil) name) {' '.join(fields)} 20 0\n")

    def thread(self, pid: int, tid: int, *, wait_ns=0, children_=()) -> None:
        self.put(f"proc/{pid}/task/{tid}/schedstat", f"123 {wait_ns} 5\n")
        self.put(f"proc/{pid}/task/{tid}/children", " ".join(map(str, children_)))

    def end_thread(self, pid: int, tid: int) -> None:
        for path in (self.root / f"proc/{pid}/task/{tid}").iterdir():
            path.unlink()
        (self.root / f"proc/{pid}/task/{tid}").rmdir()

    def cgroups(self, groups: str, mounts: str) -> None:
        self.put(f"proc/{PID}/cgroup", groups)
        self.put(f"proc/{PID}/mountinfo", mounts)

    def rapl(self, number: int, energy_uj: int, *, name: str | None = None, span_uj: int = 1_000_000, prefix="intel-rapl") -> None:
        domain = f"sys/class/powercap/{prefix}:{number}"
        self.put(f"{domain}/name", f"{name or f'package-{number}'}\n")
        self.put(f"{domain}/energy_uj", f"{energy_uj}\n")
        self.put(f"{domain}/max_energy_range_uj", f"{span_uj}\n")

    def device(self) -> CpuDevice:
        return CpuDevice(pid=PID, root=self.root)


@pytest.fixture
def host(tmp_path):
    """A quiet host with every source of a plain Linux machine without sensors."""
    return Host(tmp_path)


def reading(device: CpuDevice) -> dict[str, float]:
    values, errors = device.read()
    assert all((code == 0) == math.isfinite(value) for value, code in zip(values, errors, strict=True))
    return dict(zip((channel.name for channel in device.channels), values, strict=True))


# --- the device ---------------------------------------------------------------------------------------------------------


def test_it_is_a_device_with_known_channel_names(host):
    """The protocol holds; every name, present or absent, is one of the project's list; absent ones say why in a sentence."""
    device = host.device()
    assert isinstance(device, Device)
    names = {channel.name for channel in device.channels}
    assert not names & set(device.absent)
    assert names | set(device.absent) <= set(CHANNELS)
    assert all(reason.endswith((".", "energy_uj")) for reason in device.absent.values())
    assert device.sensor is None
    assert device.sampling_period_s == 0.1
    device.close()


def test_plain_counters_and_values(host):
    """Pressure in nanoseconds, memory that is not available, faults past a command name with a parenthesis, steal in ticks."""
    host.process(PID, faults=17)
    seen = reading(host.device())
    assert seen["pressure_cpu_ns"] == 3_450_151_000
    assert seen["pressure_memory_ns"] == 12_000
    assert seen["memory_used_bytes"] == 600 * 1024
    assert seen["major_faults"] == 17
    assert seen["steal_ns"] == 7 * TICK_NS


def test_utilisation_is_missing_until_the_first_tick_and_then_the_share_since(host):
    """No time has passed at first: missing, not zero. Between ticks the last value stands. Steal counts as time, not as busy."""
    device = host.device()
    assert math.isnan(reading(device)["utilisation_cpu_ratio"])
    host.put("proc/stat", "cpu  130 10 50 1060 20 5 5 17 0 0\n")
    assert reading(device)["utilisation_cpu_ratio"] == pytest.approx(0.3)
    assert reading(device)["utilisation_cpu_ratio"] == pytest.approx(0.3)


def test_idle_time_that_steps_back_does_no_harm(host):
    """The time in iowait is known to decrease; utilisation stays within 0 and 1."""
    device = host.device()
    host.put("proc/stat", "cpu  110 10 50 1000 10 5 5 7 0 0\n")
    assert reading(device)["utilisation_cpu_ratio"] == 1.0


def test_foreign_cpu_is_busy_time_minus_the_whole_process_tree(host):
    """Own, reaped and living descendants' time is not foreign."""
    host.thread(PID, PID, children_=[50])
    host.process(50)
    host.thread(50, 50, children_=[51])
    host.process(51)
    device = host.device()
    host.put("proc/stat", "cpu  200 10 50 1000 20 5 5 7 0 0\n")
    host.process(PID, utime=20, cutime=10)
    host.process(50, stime=30)
    host.process(51, utime=15)
    assert reading(device)["foreign_cpu_ns"] == 25 * TICK_NS


def test_foreign_cpu_never_decreases(host):
    """Own time seen before the host's (both are ticks) leaves the counter where it was."""
    device = host.device()
    host.put("proc/stat", "cpu  140 10 50 1000 20 5 5 7 0 0\n")
    assert reading(device)["foreign_cpu_ns"] == 40 * TICK_NS
    host.process(PID, utime=3)
    assert reading(device)["foreign_cpu_ns"] == 40 * TICK_NS
    host.put("proc/stat", "cpu  150 10 50 1000 20 5 5 7 0 0\n")
    assert reading(device)["foreign_cpu_ns"] == 47 * TICK_NS


def test_a_descendant_nobody_waited_for_does_not_turn_foreign(host):
    """A child that vanishes without its time going to its parent keeps what it had used."""
    host.thread(PID, PID, children_=[50])
    host.process(50)
    device = host.device()
    host.put("proc/stat", "cpu  200 10 50 1000 20 5 5 7 0 0\n")
    host.process(50, utime=100)
    assert reading(device)["foreign_cpu_ns"] == 0
    host.thread(PID, PID)
    assert reading(device)["foreign_cpu_ns"] == 0
    host.put("proc/stat", "cpu  210 10 50 1000 20 5 5 7 0 0\n")
    host.process(PID, utime=10)
    assert reading(device)["foreign_cpu_ns"] == 0


def test_run_queue_wait_sums_over_threads_and_never_decreases(host):
    """Threads that end keep their share; a reused thread id starts anew."""
    host.thread(PID, 9, wait_ns=1000)
    device = host.device()
    assert reading(device)["own_wait_ns"] == 1500
    host.end_thread(PID, 9)
    host.thread(PID, PID, wait_ns=600)
    assert reading(device)["own_wait_ns"] == 1600
    host.thread(PID, 9, wait_ns=30)
    assert reading(device)["own_wait_ns"] == 1630
    host.thread(PID, 9, wait_ns=10)
    assert reading(device)["own_wait_ns"] == 1640


def test_quota_throttling_of_all_groups_above_counts_in_version_2(host):
    """Each level can throttle: the group, its parent and the mount's top are summed; microseconds become nanoseconds."""
    host.cgroups("0::/a/b\n", "30 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    host.put("sys/fs/cgroup/a/b/cpu.stat", "usage_usec 5\nnr_throttled 1\nthrottled_usec 20\n")
    host.put("sys/fs/cgroup/a/cpu.stat", "usage_usec 5\nthrottled_usec 3\n")
    host.put("sys/fs/cgroup/cpu.stat", "usage_usec 5\n")
    assert reading(host.device())["cgroup_throttled_ns"] == 23_000


def test_quota_throttling_in_version_1_inside_a_container(host):
    """The group's path is the host's, the mount shows the container's own group: nanoseconds as they are."""
    host.cgroups("4:cpu,cpuacct:/docker/77\n0::/\n", "30 1 0:1 /docker/77 /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n")
    host.put("sys/fs/cgroup/cpu/cpu.stat", "nr_periods 1\nnr_throttled 1\nthrottled_time 555\n")
    assert reading(host.device())["cgroup_throttled_ns"] == 555


def test_a_host_without_quota_accounting_says_so(host):
    """No cpu.stat with throttled time: absent with the reason."""
    assert "CPU quota" in host.device().absent["cgroup_throttled_ns"]


# --- sensors ------------------------------------------------------------------------------------------------------------


def test_the_constant_clock_of_a_virtual_machine_is_no_evidence(host):
    """/proc/cpuinfo shows a number, min and max are 0: absent, never a stable frequency."""
    assert "no frequency evidence" in host.device().absent["frequency_hz"]
    host.put("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "2596122\n")
    host.put("sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "0\n")
    assert "no frequency evidence" in host.device().absent["frequency_hz"]


def test_a_governed_clock_is_the_mean_over_domains(host):
    """Kilohertz of each policy become their mean in hertz."""
    for policy, khz in ((0, 1_000_000), (1, 3_000_000)):
        host.put(f"sys/devices/system/cpu/cpufreq/policy{policy}/scaling_cur_freq", f"{khz}\n")
        host.put(f"sys/devices/system/cpu/cpufreq/policy{policy}/cpuinfo_max_freq", "4000000\n")
    assert reading(host.device())["frequency_hz"] == 2e9


def test_a_clock_that_is_slow_to_read_is_left_out(host, monkeypatch):
    """A meter that would stall the sampler is absent with the time it takes."""
    host.put("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1\n")
    host.put("sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "4\n")
    monkeypatch.setattr(cpu_meters, "SLOWEST_FREQUENCY_READ_S", 0.0)
    assert "reading the clock takes" in host.device().absent["frequency_hz"]


def test_the_hottest_package_is_the_temperature(host):
    """The package sensors of hwmon come first; other chips and zones do not count."""
    for number, (name, temp) in enumerate([("coretemp", 55_000), ("coretemp", 61_500), ("nvme", 90_000)]):
        host.put(f"sys/class/hwmon/hwmon{number}/name", f"{name}\n")
        host.put(f"sys/class/hwmon/hwmon{number}/temp1_input", f"{temp}\n")
    assert reading(host.device())["temperature_c"] == 61.5


def test_a_thermal_zone_stands_in_for_hwmon(host):
    """The package's zone is read; a battery's is not."""
    for number, (kind, temp) in enumerate([("battery", 30_000), ("x86_pkg_temp", 48_000)]):
        host.put(f"sys/class/thermal/thermal_zone{number}/type", f"{kind}\n")
        host.put(f"sys/class/thermal/thermal_zone{number}/temp", f"{temp}\n")
    assert reading(host.device())["temperature_c"] == 48.0


def test_energy_sums_packages_since_opening_and_survives_a_wrap(host):
    """Each package wraps at its own range; parts of packages, the platform and a second view of package 0 are not added."""
    host.rapl(0, 999_000)
    host.rapl(1, 100)
    host.rapl(2, 5, name="psys")
    host.rapl(0, 5, prefix="intel-rapl-mmio")
    host.put("sys/class/powercap/intel-rapl:0:0/name", "core\n")
    device = host.device()
    assert reading(device)["energy_j"] == 0
    host.rapl(0, 1_000)  # 2 000 further, over the wrap at 1 000 000
    host.rapl(1, 600)
    host.rapl(2, 500_000, name="psys")
    assert reading(device)["energy_j"] == pytest.approx(2_500e-6)
    assert next(c for c in device.channels if c.name == "energy_j").kind is ReadingKind.COUNTER


def test_energy_without_permission_says_what_to_do(host, monkeypatch):
    """Readable by root only: the reason names the cause and the command."""
    host.rapl(0, 5)
    real_open = os.open

    def guarded(path, *arguments):
        if str(path).endswith("energy_uj"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(path, *arguments)

    monkeypatch.setattr(cpu_meters.os, "open", guarded)
    reason = host.device().absent["energy_j"]
    assert "CVE-2020-8694" in reason
    assert "sudo chmod a+r" in reason


def test_a_host_without_rapl_or_sensors_says_so(host):
    """Every sensor channel of a virtual machine is absent with its reason."""
    absent = host.device().absent
    assert "no RAPL package domain" in absent["energy_j"]
    assert "no processor temperature sensor" in absent["temperature_c"]
    assert "RAPL" in absent["power_w"]


# --- faults -------------------------------------------------------------------------------------------------------------


def test_a_source_that_fails_is_missing_with_its_code_and_the_rest_is_read(host):
    """The metered process is gone: its channels carry the system's error, the host's are there."""
    device = host.device()
    host.end_thread(PID, PID)
    (host.root / f"proc/{PID}/task").rmdir()
    host.put("proc/pressure/cpu", "garbage\n")
    values, errors = device.read()
    codes = dict(zip((channel.name for channel in device.channels), errors, strict=True))
    assert codes["own_wait_ns"] == OS_ERROR_BASE + errno.ENOENT
    assert codes["pressure_cpu_ns"] == ERROR_OTHER
    assert codes["memory_used_bytes"] == 0
    assert all(math.isnan(value) for value, code in zip(values, errors, strict=True) if code)


def test_a_kernel_without_pressure_information_says_how_to_get_it(host):
    """Absent with the remedy."""
    (host.root / "proc/pressure/cpu").unlink()
    assert "psi=1" in host.device().absent["pressure_cpu_ns"]


def test_without_proc_psutil_gives_what_it_can(tmp_path):
    """Another operating system: utilisation and memory are there, everything else says why not."""
    device = CpuDevice(root=tmp_path)
    assert [channel.name for channel in device.channels] == ["utilisation_cpu_ratio", "memory_used_bytes"]
    values, errors = device.read()
    assert errors == [0, 0]
    assert 0 <= values[0] <= 1
    assert 0 < values[1] < psutil.virtual_memory().total
    assert "needs Linux" in device.absent["own_wait_ns"]
    assert set(device.absent) | {"utilisation_cpu_ratio", "memory_used_bytes"} <= set(CHANNELS)
    device.close()


# --- what it is ---------------------------------------------------------------------------------------------------------


def test_the_fingerprint_tells_the_machine_and_no_secret(host):
    """Model, hypervisor and governor are there; the machine-id is not."""
    host.put("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "performance\n")
    host.put(".dockerenv", "")
    fingerprint = host.device().fingerprint
    assert (fingerprint.kind, fingerprint.name) == ("cpu", "Test CPU 9000")
    assert fingerprint.details["hypervisor"] == "yes"
    assert fingerprint.details["governor"] == "performance"
    assert fingerprint.details["container"] in {"docker", "kubernetes"}
    assert "0123456789abcdef" not in str(fingerprint)
    assert fingerprint.identity == host.device().fingerprint.identity


def test_another_machine_has_another_identity(host):
    """The identity follows the machine-id."""
    identity = host.device().fingerprint.identity
    host.put("etc/machine-id", "fedcba9876543210\n")
    assert host.device().fingerprint.identity != identity


def test_the_specification_opens_it_again(host):
    """Both parameters travel; the plain device has no parameters."""
    device = open_device(DeviceSpec(kind="cpu", parameters={"pid": PID, "root": str(host.root)}))
    assert device.pid == PID
    assert open_device(device.spec).spec == device.spec
    assert CpuDevice().spec == DeviceSpec(kind="cpu")


def test_unknown_parameters_are_refused():
    """No parameter is parsed and ignored."""
    with pytest.raises(ConfigurationError, match="cpu device has no parameter cores; it has pid, root"):
        open_device(DeviceSpec(kind="cpu", parameters={"cores": 3}))


def test_the_metered_process_is_this_one_or_the_one_named_in_the_environment(monkeypatch):
    """In a sampler process the variable names the run."""
    assert CpuDevice().pid == os.getpid()
    monkeypatch.setenv(BENCHMARK_PID_VARIABLE, str(os.getppid()))
    assert CpuDevice().pid == os.getppid()


# --- the real host ------------------------------------------------------------------------------------------------------


@linux
def test_on_this_host_every_reading_is_sane_and_counters_do_not_decrease():
    """Two readings with work in between."""
    device = CpuDevice()
    reading(device)
    end = time.monotonic() + 0.15
    while time.monotonic() < end:
        pass
    before = reading(device)
    time.sleep(0.05)
    after = reading(device)
    assert 0 < before["utilisation_cpu_ratio"] <= 1
    for channel in device.channels:
        if channel.kind is ReadingKind.COUNTER:
            assert after[channel.name] >= before[channel.name] >= 0
    device.close()


@linux
def test_waiting_for_a_cpu_is_seen():
    """Two busy threads of one process on one CPU wait about half of the time each."""
    code = "import os, threading, hashlib\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "def work():\n    while True: hashlib.sha256(bytes(1 << 20)).digest()\n"
    code += "threads = [threading.Thread(target=work) for _ in range(2)]\n[t.start() for t in threads]\nprint(flush=True)\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            device = CpuDevice(pid=process.pid)
            before, started = reading(device)["own_wait_ns"], time.perf_counter_ns()
            time.sleep(0.4)
            waited = (reading(device)["own_wait_ns"] - before) / (time.perf_counter_ns() - started)
        finally:
            process.kill()
    assert waited > 0.5
    device.close()


@linux
def test_children_are_found_in_the_real_proc():
    """A living child is listed under the thread that started it."""
    with subprocess.Popen(["sleep", "10"]) as child:
        try:
            assert child.pid in children("/proc", os.getpid())
        finally:
            child.kill()
    assert children("/proc", child.pid) == []


@linux
def test_threads_that_come_and_go_do_not_disturb_the_counter():
    """Reading while threads start and end never fails and never goes back."""
    device = CpuDevice()
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            threads = [threading.Thread(target=lambda: time.sleep(0.001)) for _ in range(5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    churner = threading.Thread(target=churn)
    churner.start()
    try:
        series = [reading(device)["own_wait_ns"] for _ in range(100)]
    finally:
        stop.set()
        churner.join()
    assert series == sorted(series)
    device.close()


# --- canary -------------------------------------------------------------------------------------------------------------


def test_the_canary_takes_the_time_of_its_work():
    """8 MB of SHA-256 take milliseconds, not nothing and not seconds."""
    assert CANARY_BYTES == 8_000_000
    assert 0.001 < canary_s() < 1


def test_the_canary_needs_a_repeat():
    """Zero runs have no least."""
    with pytest.raises(ValueError, match="'repeats' must be >= 1"):
        canary_s(0)
