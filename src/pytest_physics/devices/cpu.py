"""The host's processors: what they do, who else uses them, and what they consume where the hardware says so.

On Linux everything comes from ``/proc`` and ``/sys``; elsewhere psutil gives utilisation and memory. What is absent says why.
There is no power channel: RAPL counts energy, and a power made from it would hide that.

The *metered process* is the run whose waiting, faults and foreign company are counted: parameter ``pid``, else the process
that started the sampler, else this one.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from pytest_physics.clock import RealClock
from pytest_physics.devices.base import (
    ERROR_OTHER,
    OS_ERROR_BASE,
    READ_OK,
    Channel,
    DeviceSpec,
    Fingerprint,
    ReadingKind,
    benchmark_pid,
)
from pytest_physics.devices.cpu_meters import LINUX_METERS, AbsentError, Meter, channel
from pytest_physics.errors import ConfigurationError
from pytest_physics.metrology.response import SensorModel

SAMPLING_PERIOD_S = 0.1
_PARAMETERS = {"pid", "root"}
_NO_POWER = "processors report energy, not power: use 'energy_j' (RAPL) where it is present."


class CpuDevice:
    """All processors of the host, as one device on the real clock."""

    def __init__(self, *, pid: int | None = None, root: Path = Path("/")) -> None:
        self.clock = RealClock()
        self.pid = benchmark_pid() if pid is None else pid
        self._root = Path(root)
        given = {"pid": pid, "root": None if str(root) == "/" else str(root)}
        self.spec = DeviceSpec(kind="cpu", parameters={name: value for name, value in given.items() if value is not None})
        self._meters: list[Meter] = []
        self._absent = {"power_w": _NO_POWER}
        if (self._root / "proc/stat").exists():
            self._open_linux_meters()
        else:
            self._open_portable_meter()
        self._channels = tuple(channel for meter in self._meters for channel in meter.channels)

    def _open_linux_meters(self) -> None:
        for names, open_meter in LINUX_METERS.items():
            try:
                self._meters.append(open_meter(self._root, self.pid))
            except AbsentError as reason:
                self._absent |= dict.fromkeys(names, str(reason))
            except (OSError, ValueError, IndexError) as error:
                self._absent |= dict.fromkeys(names, f"its source could not be read ({type(error).__name__}: {error}).")

    def _open_portable_meter(self) -> None:
        meter = _PsutilMeter()
        self._meters.append(meter)
        present = {channel.name for channel in meter.channels}
        for name in (name for names in LINUX_METERS for name in names if name not in present):
            self._absent[name] = f"needs Linux /proc or /sys, which {platform.system() or 'this system'} has not."

    @property
    def channels(self) -> Sequence[Channel]:
        """The channels this host has."""
        return self._channels

    @property
    def absent(self) -> Mapping[str, str]:
        """Channels this host has not, with the reason."""
        return self._absent

    @property
    def fingerprint(self) -> Fingerprint:
        """Processor and kernel; the identity is a salted hash of the machine's, so that no host secret leaves it."""
        return _fingerprint(self._root)

    @property
    def sensor(self) -> SensorModel | None:
        """None: there is no power channel."""
        return None

    @property
    def sampling_period_s(self) -> float:
        """Ten times a second: ten ticks of the kernel's accounting."""
        return SAMPLING_PERIOD_S

    def read(self) -> tuple[list[float], list[int]]:
        """Read all meters; one that fails is missing with its error code."""
        values: list[float] = []
        errors: list[int] = []
        for meter in self._meters:
            code = READ_OK
            try:
                read = meter.read()
            except (OSError, ValueError, LookupError) as error:
                code = OS_ERROR_BASE + error.errno if isinstance(error, OSError) and error.errno else ERROR_OTHER
                read = [math.nan] * len(meter.channels)
            values += read
            # a value that is not known yet, as utilisation before the first tick, is missing too
            errors += [code or (ERROR_OTHER if math.isnan(value) else READ_OK) for value in read]
        return values, errors

    def close(self) -> None:
        """Close all files."""
        for meter in self._meters:
            meter.close()


class _PsutilMeter:
    """Utilisation and memory where there is no ``/proc``."""

    def __init__(self) -> None:
        psutil.cpu_percent(None)  # the first call only starts the interval
        self.channels = (
            channel("utilisation_cpu_ratio", ReadingKind.AVERAGE, 0.001, "psutil.cpu_percent, since the previous reading"),
            channel("memory_used_bytes", ReadingKind.INSTANT, 1.0, "psutil.virtual_memory"),
        )

    def read(self) -> list[float]:
        memory = psutil.virtual_memory()
        return [psutil.cpu_percent(None) / 100.0, float(memory.total - memory.available)]

    def close(self) -> None:
        """Nothing is open."""


def open_device(spec: DeviceSpec) -> CpuDevice:
    """Open the device; parameters ``pid`` (metered process) and ``root`` (file system with ``/proc`` and ``/sys``)."""
    unknown = set(spec.parameters) - _PARAMETERS
    if unknown:
        raise ConfigurationError(f"the cpu device has no parameter {', '.join(sorted(unknown))}; it has {', '.join(sorted(_PARAMETERS))}.")
    return CpuDevice(pid=spec.parameters.get("pid"), root=Path(spec.parameters.get("root", "/")))


def _fingerprint(root: Path) -> Fingerprint:
    information = _text(root / "proc/cpuinfo")
    model = _field(information, "model name") or _field(information, "Model") or platform.processor() or platform.machine()
    details = {
        "architecture": platform.machine(),
        "logical_cpus": str(psutil.cpu_count() or "unknown"),
        "physical_cores": str(psutil.cpu_count(logical=False) or "unknown"),
        "memory_gib": str(round(psutil.virtual_memory().total / 2**30)),
        "kernel": f"{platform.system()} {platform.release()}",
        "hypervisor": "yes" if "hypervisor" in _field(information, "flags").split() else "none seen",
        "governor": _text(root / "sys/devices/system/cpu/cpufreq/policy0/scaling_governor") or "none",
        "container": _container(root),
    }
    return Fingerprint(kind="cpu", name=model, identity=_identity(root), details=details)


def _identity(root: Path) -> str:
    """Stable name of the machine that does not give away its machine-id."""
    secret = _text(root / "etc/machine-id") or platform.node()
    return hashlib.sha256(f"pytest-physics|{secret}".encode()).hexdigest()[:16]


def _container(root: Path) -> str:
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    marks = {".dockerenv": "docker", "run/.containerenv": "podman"}
    return next((name for mark, name in marks.items() if (root / mark).exists()), "none seen")


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip()
    return ""


def _field(information: str, name: str) -> str:
    """Value of the first ``name : value`` line."""
    for line in information.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
