"""Linux meters of the host: one small class per source, each with its channels.

Files are opened once and read from their start each time (a tenth of the cost of psutil); only what comes and goes, threads
and children, is opened anew. A meter that finds no evidence raises :class:`AbsentError` with the reason and, where there is
one, the remedy. ``root`` is the file system that holds ``/proc`` and ``/sys``: ``/``, a host's mount inside a container, or a
test's folder.

What a meter cannot know is said at its class.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from pytest_physics.clock import NS_PER_S
from pytest_physics.devices.base import Channel, ReadingKind
from pytest_physics.metrology.quality import Provenance

TICK_NS = NS_PER_S // (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)
"""Step of the kernel's CPU time accounting."""
SLOWEST_FREQUENCY_READ_S = 0.002
"""Some kernels wait for the processor to answer; a meter that stalls its sampler is worse than none."""


class AbsentError(Exception):
    """Evidence that the host does not have; the message says why, and what to do."""


class Meter(Protocol):
    """One source of the host's channels."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """What it reads."""

    def read(self) -> list[float]:
        """Values of :attr:`channels`; raises ``OSError`` or ``ValueError`` where the source fails."""

    def close(self) -> None:
        """Close what is open."""


class SourceFile:
    """A file of ``/proc`` or ``/sys`` that stays open."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def text(self, n_bytes: int = 8192) -> str:
        """What it says now."""
        return os.pread(self._descriptor, n_bytes, 0).decode()

    def number(self) -> int:
        """The one integer it holds."""
        return int(self.text(64))

    def close(self) -> None:
        """Close it; twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def text_of(path: str, n_bytes: int = 8192) -> str:
    """What a file that comes and goes says now; a quarter of the cost of ``Path.read_text``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, n_bytes).decode(errors="replace")
    finally:
        os.close(descriptor)


def tasks_of(processes: str, pid: int) -> list[str]:
    """Thread ids of a process; raises ``OSError`` where it is gone."""
    return os.listdir(f"{processes}/{pid}/task")  # noqa: PTH208 -- names only, ten times a second: no Path for each


def channel(name: str, kind: ReadingKind, resolution: float, source: str) -> Channel:
    """A measured channel of the host."""
    return Channel(name=name, kind=kind, resolution=resolution, provenance=Provenance.MEASURED, source=source)


class CpuTimeMeter:
    """Utilisation, steal and foreign CPU time from the kernel's accounting, whose step is 10 ms per CPU.

    Foreign is all busy time minus that of the metered process and its descendants, since opening. Both sides are counted in
    ticks, so the difference jitters by a few of them; what is reported is its running maximum, a counter. A descendant that
    nobody waits for keeps what it was last seen to have used.
    """

    def __init__(self, root: Path, pid: int) -> None:
        self._stat = SourceFile(root / "proc/stat")
        self._processes = str(root / "proc")
        self._pid = pid
        self._own_ticks = self._lost_ticks = 0
        self._foreign_ticks = 0
        self._utilisation = float("nan")
        self._before = self._times()
        self._busy_at_opening = self._before[0]
        self._own_at_opening = self._own()
        per_read = TICK_NS * 10 / NS_PER_S / (os.cpu_count() or 1)
        self.channels = (
            channel("utilisation_cpu_ratio", ReadingKind.AVERAGE, per_read, "/proc/stat, since the previous reading"),
            channel("foreign_cpu_ns", ReadingKind.COUNTER, TICK_NS, "/proc/stat minus this run's process tree"),
            channel("steal_ns", ReadingKind.COUNTER, TICK_NS, "/proc/stat steal"),
        )

    def read(self) -> list[float]:
        """Values of the three channels."""
        busy, _, steal = now = self._times()
        passed = [max(0, after - before) for after, before in zip(now, self._before, strict=True)]  # idle may step back
        if sum(passed):  # between two ticks nothing is known anew, and the last value stands
            self._utilisation, self._before = passed[0] / sum(passed), now
        foreign = busy - self._busy_at_opening - (self._own() - self._own_at_opening)
        self._foreign_ticks = max(self._foreign_ticks, foreign)
        return [self._utilisation, float(self._foreign_ticks * TICK_NS), float(steal * TICK_NS)]

    def _times(self) -> tuple[int, int, int]:
        """Busy, idle and stolen ticks of all CPUs; guest time is inside user."""
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, self._stat.text(512).split(maxsplit=9)[1:9])
        return user + nice + system + irq + softirq, idle + iowait, steal

    def _own(self) -> int:
        """Ticks of the metered process, its reaped children and its living descendants; never decreases."""
        ticks = sum(_cpu_ticks(fields) for fields in self._tree())
        self._lost_ticks += max(0, self._own_ticks - ticks - self._lost_ticks)
        self._own_ticks = ticks + self._lost_ticks
        return self._own_ticks

    def _tree(self) -> Iterator[list[str]]:
        yield process_fields(self._processes, self._pid)  # raises where the metered process is gone
        waiting = children(self._processes, self._pid)
        while waiting:
            pid = waiting.pop()
            try:
                yield process_fields(self._processes, pid)
            except OSError:
                continue  # ended since it was listed
            waiting += children(self._processes, pid)

    def close(self) -> None:
        """Close ``/proc/stat``."""
        self._stat.close()


def process_fields(processes: str, pid: int) -> list[str]:
    """Fields of ``/proc/<pid>/stat`` from the state on: field n of proc(5) is at index n − 3."""
    # the command name may hold anything, so the fields are counted from its closing parenthesis
    return text_of(f"{processes}/{pid}/stat").rpartition(")")[2].split()


def _cpu_ticks(fields: Sequence[str]) -> int:
    return sum(int(ticks) for ticks in fields[11:15])  # utime, stime, cutime, cstime


def children(processes: str, pid: int) -> list[int]:
    """Direct children of a process; none where it is gone or the kernel does not list them."""
    found: list[int] = []
    with suppress(OSError):  # threads and processes end while they are listed
        for task in tasks_of(processes, pid):
            found += map(int, text_of(f"{processes}/{pid}/task/{task}/children", 65536).split())
    return found


class RunQueueMeter:
    """Time the threads of the metered process were runnable but not running: the direct measure of being disturbed.

    Sum over threads, so two threads that wait make 200 %. Threads come and go: the last known value of one that ended is kept,
    and what it waited after that reading is lost, so the counter is a lower bound that never decreases. Child processes are not
    included.
    """

    def __init__(self, root: Path, pid: int) -> None:
        self._processes, self._pid = str(root / "proc"), pid
        self._waited: dict[str, int] = {}
        self._ended_ns = 0
        self.channels = (channel("own_wait_ns", ReadingKind.COUNTER, 1.0, "/proc/<pid>/task/*/schedstat"),)
        try:
            self.read()
        except (OSError, IndexError, ValueError):
            raise AbsentError("the kernel does not account run-queue waits (CONFIG_SCHED_INFO).") from None

    def read(self) -> list[float]:
        """The one counter."""
        now = dict(self._now())
        for task, waited in self._waited.items():
            if now.get(task, -1) < waited:  # ended, or its number serves a new thread
                self._ended_ns += waited
        self._waited = now
        return [float(self._ended_ns + sum(now.values()))]

    def _now(self) -> Iterator[tuple[str, int]]:
        tasks = tasks_of(self._processes, self._pid)  # raises where the process is gone
        for task in tasks:
            try:
                yield task, int(text_of(f"{self._processes}/{self._pid}/task/{task}/schedstat").split()[1])
            except (FileNotFoundError, ProcessLookupError):
                if len(tasks) == 1:
                    raise
                continue  # ended since it was listed

    def close(self) -> None:
        """Nothing stays open."""


class PressureMeter:
    """Time in which some task of the host waited for a resource (pressure stall information)."""

    def __init__(self, root: Path, resource: str) -> None:
        path = root / "proc/pressure" / resource
        try:
            self._file = SourceFile(path)
            self._file.text()
        except OSError:
            raise AbsentError(
                f"/proc/pressure/{resource} is missing: the kernel was built without pressure stall information, or it is off. "
                "Boot with psi=1."
            ) from None
        self.channels = (channel(f"pressure_{resource}_ns", ReadingKind.COUNTER, 1000.0, f"/proc/pressure/{resource} some"),)

    def read(self) -> list[float]:
        """The one counter."""
        some = self._file.text(256).partition("\n")[0]
        return [float(some.rpartition("total=")[2]) * 1000.0]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ThrottleMeter:
    """Time throttled by CPU quotas: of the metered process's control group and of all groups above it, as each can throttle."""

    def __init__(self, root: Path, pid: int) -> None:
        self._files = [SourceFile(path) for path in _throttle_files(root, pid)]
        if not self._files:
            raise AbsentError("no control group of this process accounts a CPU quota (cpu.stat without throttled time).")
        self.channels = (channel("cgroup_throttled_ns", ReadingKind.COUNTER, 1.0, "cpu.stat of the control group and its parents"),)

    def read(self) -> list[float]:
        """The one counter."""
        return [float(sum(_throttled_ns(file.text()) or 0 for file in self._files))]

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def _throttled_ns(statistics: str) -> int | None:
    """Throttled time in ``cpu.stat``: version 2 counts microseconds, version 1 nanoseconds."""
    for line in statistics.splitlines():
        name, _, value = line.partition(" ")
        if name == "throttled_usec":
            return int(value) * 1000
        if name == "throttled_time":
            return int(value)
    return None


def _throttle_files(root: Path, pid: int) -> list[Path]:
    found: dict[Path, None] = {}
    for mount_point, mount_root, group in _cpu_groups(root, pid):
        top = root / mount_point.lstrip("/")
        # inside a container the group's path may be one of the host; the mount then shows the container's own group
        inside = os.path.relpath(group, mount_root) if group.startswith(mount_root) else "."
        folder = top / inside
        for candidate in (folder, *folder.parents):
            statistics = candidate / "cpu.stat"
            if statistics.is_file() and _throttled_ns(statistics.read_text(encoding="utf-8")) is not None:
                found[statistics] = None
            if candidate == top:
                break
    return list(found)


def _cpu_groups(root: Path, pid: int) -> Iterator[tuple[str, str, str]]:
    """Mount point, its root, and the process's group, for each hierarchy that can throttle CPU time."""
    process = root / "proc" / str(pid)
    lines = (process / "cgroup").read_text(encoding="utf-8").split("\n")
    groups = {names: path for _, names, path in (line.split(":", 2) for line in lines if line)}
    for line in (process / "mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        mount_root, mount_point = before.split()[3:5]
        kind, _, options = after.split(maxsplit=2)
        for names, group in groups.items():
            version_2 = kind == "cgroup2" and names == ""
            version_1 = kind == "cgroup" and "cpu" in names.split(",") and "cpu" in options.split(",")
            if version_2 or version_1:
                yield mount_point, mount_root, group


class FaultMeter:
    """Major page faults of the metered process: pages it had to wait for."""

    def __init__(self, root: Path, pid: int) -> None:
        self._file = SourceFile(root / "proc" / str(pid) / "stat")
        self.channels = (channel("major_faults", ReadingKind.COUNTER, 1.0, "/proc/<pid>/stat majflt"),)

    def read(self) -> list[float]:
        """The one counter."""
        return [float(self._file.text(1024).rpartition(")")[2].split()[9])]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class MemoryMeter:
    """Memory of the host that is not available to new work."""

    def __init__(self, root: Path) -> None:
        self._file = SourceFile(root / "proc/meminfo")
        self.channels = (channel("memory_used_bytes", ReadingKind.INSTANT, 1024.0, "/proc/meminfo MemTotal - MemAvailable"),)

    def read(self) -> list[float]:
        """The one value."""
        lines = dict(line.split(":", 1) for line in self._file.text(512).splitlines()[:3] if ":" in line)
        total, available = (int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
        return [float((total - available) * 1024)]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class FrequencyMeter:
    """Mean CPU clock over the frequency domains, at most eight of them.

    Only where the kernel governs the clock. The constant that a virtual machine shows in ``/proc/cpuinfo`` is no evidence.
    """

    def __init__(self, root: Path) -> None:
        policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"), key=lambda path: int(path.name[6:]))[:8]
        limits = [_optional_number(policy / "cpuinfo_max_freq") for policy in policies]
        if not any(limits):
            raise AbsentError(
                "no frequency evidence: the kernel does not govern the CPU clock here, as in most virtual machines. Bracket timed "
                "work with canary runs, which see clock changes as a change of speed."
            )
        self._files = [SourceFile(policy / "scaling_cur_freq") for policy in policies]
        started_s = time.perf_counter()
        self.read()
        took_s = time.perf_counter() - started_s
        if took_s > SLOWEST_FREQUENCY_READ_S:
            self.close()
            raise AbsentError(
                f"reading the clock takes {took_s * 1e3:.1f} ms here (limit {SLOWEST_FREQUENCY_READ_S * 1e3:g} ms), which would "
                "disturb the work."
            )
        source = f"cpufreq scaling_cur_freq, mean of {len(policies)} domains"
        self.channels = (channel("frequency_hz", ReadingKind.INSTANT, 1000.0, source),)

    def read(self) -> list[float]:
        """The one value."""
        return [1000.0 * sum(file.number() for file in self._files) / len(self._files)]

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def _optional_number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


_PACKAGE_SENSORS = {"coretemp", "k10temp", "zenpower", "cpu_thermal"}
_PACKAGE_ZONES = {"x86_pkg_temp", "cpu-thermal", "cpu_thermal", "soc_thermal", "soc-thermal"}


class TemperatureMeter:
    """Temperature of the hottest processor package."""

    def __init__(self, root: Path) -> None:
        paths = _labelled(root / "sys/class/hwmon", "hwmon*/name", _PACKAGE_SENSORS, "temp1_input")
        paths = paths or _labelled(root / "sys/class/thermal", "thermal_zone*/type", _PACKAGE_ZONES, "temp")
        if not paths:
            raise AbsentError("no processor temperature sensor in hwmon or the thermal zones, as in most virtual machines.")
        self._files = [SourceFile(path) for path in paths]
        source = ", ".join(str(path.relative_to(root)) for path in paths)
        self.channels = (channel("temperature_c", ReadingKind.INSTANT, 1.0, source),)

    def read(self) -> list[float]:
        """The one value."""
        return [max(file.number() for file in self._files) / 1000.0]

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def _labelled(folder: Path, pattern: str, labels: set[str], value: str) -> list[Path]:
    """Value files beside the label files that say one of ``labels``."""
    return [path.with_name(value) for path in sorted(folder.glob(pattern)) if path.read_text(encoding="utf-8").strip() in labels]


class RaplMeter:
    """Energy of all processor packages since opening, from RAPL through powercap.

    Each counter wraps at its own maximum; one wrap between two readings is undone, two (minutes without a sample) cannot be seen.
    Memory and platform domains are left out: they overlap with packages or exist on some machines only.
    """

    def __init__(self, root: Path) -> None:
        domains = [path for path in sorted((root / "sys/class/powercap").glob("intel-rapl:*")) if _is_package(path)]
        if not domains:
            raise AbsentError("no RAPL package domain under /sys/class/powercap: a virtual machine, or a kernel without the driver.")
        try:
            self._files = [SourceFile(domain / "energy_uj") for domain in domains]
        except PermissionError:
            raise AbsentError(
                "RAPL energy is readable by root only (CVE-2020-8694). Run as root, or let everyone read it: "
                "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
            ) from None
        self._ranges_uj = [int((domain / "max_energy_range_uj").read_text(encoding="utf-8")) for domain in domains]
        self._last_uj = [file.number() for file in self._files]
        self._total_uj = 0
        source = f"RAPL, {len(domains)} package{'s' if len(domains) > 1 else ''}"
        self.channels = (channel("energy_j", ReadingKind.COUNTER, 61e-6, source),)

    def read(self) -> list[float]:
        """The one counter."""
        now_uj = [file.number() for file in self._files]
        for now, last, span in zip(now_uj, self._last_uj, self._ranges_uj, strict=True):
            self._total_uj += now - last if now >= last else now - last + span
        self._last_uj = now_uj
        return [self._total_uj / 1e6]

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def _is_package(domain: Path) -> bool:
    # "intel-rapl:0" is a package, "intel-rapl:0:1" a part of it; "psys" covers the platform
    return bool(re.fullmatch(r"intel-rapl:\d+", domain.name)) and (domain / "name").read_text(encoding="utf-8").startswith("package")


LINUX_METERS: Mapping[tuple[str, ...], Callable[[Path, int], Meter]] = {
    ("utilisation_cpu_ratio", "foreign_cpu_ns", "steal_ns"): CpuTimeMeter,
    ("own_wait_ns",): RunQueueMeter,
    ("pressure_cpu_ns",): lambda root, _: PressureMeter(root, "cpu"),
    ("pressure_memory_ns",): lambda root, _: PressureMeter(root, "memory"),
    ("cgroup_throttled_ns",): ThrottleMeter,
    ("major_faults",): FaultMeter,
    ("memory_used_bytes",): lambda root, _: MemoryMeter(root),
    ("frequency_hz",): lambda root, _: FrequencyMeter(root),
    ("temperature_c",): lambda root, _: TemperatureMeter(root),
    ("energy_j",): lambda root, _: RaplMeter(root),
}
"""Channel names to the meter that reads them."""
