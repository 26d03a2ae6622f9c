"""The device protocol: describe yourself, list your channels, read them all at once, close.

A device declares the channels it has and says why the others are absent. A failed read is a missing value with its error code,
never a zero. Devices that a sampler process must open again in another interpreter are named by a :class:`DeviceSpec`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from pytest_physics.clock import Clock
from pytest_physics.metrology.quality import Provenance
from pytest_physics.metrology.response import SensorModel

READ_OK = 0
"""Error code of a value that was read. NVML's return codes are used as they are; an ``OSError`` is 1000 + errno."""
ERROR_OTHER = 999
OS_ERROR_BASE = 1000
_ERROR_WORDS = {
    2: "an invalid argument",
    3: "not supported",
    4: "no permission",
    10: "a time-out",
    15: "the GPU is lost",
    16: "the GPU needs a reset",
    21: "no data",
    ERROR_OTHER: "an unknown error",
}
"""What the codes that are met while sampling mean."""
SAMPLING_SHARE = 0.191
"""Sampling period over a sensor's update period: about a fifth, and no simple fraction. Polls in step with the updates would see them
always at the same distance, and could tell neither their period nor their phase."""

BENCHMARK_PID_VARIABLE = "PYTEST_PHYSICS_BENCHMARK_PID"
"""Environment variable by which a sampler process learns whose waiting, faults and foreign company it meters."""


def describe_error(code: int) -> str:
    """The error code of a read in words: "the GPU is lost (code 15)"; the same on every machine, because it stands in records."""
    system = errno.errorcode.get(code - OS_ERROR_BASE, "an error of the system")
    return f"{system if code >= OS_ERROR_BASE else _ERROR_WORDS.get(code, 'an error')} (code {code})"


def benchmark_pid() -> int:
    """Process id of the run that is measured: this process, or the one that started this sampler."""
    return int(os.environ.get(BENCHMARK_PID_VARIABLE) or os.getpid())


class ReadingKind(StrEnum):
    """What one value of a channel means."""

    INSTANT = "instant"
    AVERAGE = "average"
    COUNTER = "counter"
    STATE = "state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One quantity of a device."""

    name: str
    """Quantity with its unit: ``power_w``, ``energy_j``, ``temperature_c``, ``sm_clock_hz``. One list for all devices: see
    :data:`CHANNELS`."""
    kind: ReadingKind
    resolution: float
    """Step of the reading in the channel's unit; 0 where unknown."""
    provenance: Provenance
    source: str
    """Where the value is read: "NVML field 186", "/proc/stat", "twin"."""


CHANNELS: Mapping[str, str] = {
    "power_w": "power, as nearly instantaneous as the device offers",
    "power_average_w": "power as the device averages it, typically over one second",
    "energy_j": "hardware energy counter",
    "temperature_c": "die or package temperature",
    "memory_temperature_c": "temperature of the device's memory",
    "sm_clock_hz": "clock of the compute units",
    "memory_clock_hz": "clock of the memory",
    "performance_state": "P-state, 0 fastest",
    "utilisation_ratio": "share of time with work on the device, 0 to 1",
    "memory_utilisation_ratio": "share of time the memory was read or written, 0 to 1",
    "memory_used_bytes": "device memory in use",
    "power_limit_w": "enforced power limit",
    "event_reasons": "bit mask of reasons why the clock is not higher",
    "power_cap_ns": "cumulative time below requested clocks because of the power cap",
    "thermal_ns": "cumulative time slowed for thermal reasons (any)",
    "software_thermal_ns": "cumulative time slowed by the driver for thermal reasons",
    "hardware_thermal_ns": "cumulative time slowed by the hardware for thermal reasons",
    "power_brake_ns": "cumulative time slowed by the external power brake",
    "foreign_processes": "compute processes on the device that are not this run's",
    "foreign_memory_bytes": "device memory that they hold",
    "foreign_sm_ratio": "compute utilisation, 0 to 1, by one process that is not this run's, in a sample that the driver took; 0 for none",
    "foreign_pid": "the id of that process",
    "foreign_age_s": "how long before the reading the driver took that sample",
    "foreign_name_1": "the first six bytes of that process's name, as a number",
    "foreign_name_2": "the next six bytes",
    "utilisation_cpu_ratio": "busy share of all CPUs, 0 to 1",
    "own_wait_ns": "cumulative time this run's threads were runnable but not running",
    "foreign_cpu_ns": "cumulative CPU time of everybody else",
    "pressure_cpu_ns": "cumulative time some task waited for a CPU (PSI)",
    "pressure_memory_ns": "cumulative time some task waited for memory (PSI)",
    "steal_ns": "cumulative time stolen by the hypervisor",
    "cgroup_throttled_ns": "cumulative time throttled by the CPU quota of the cgroup",
    "major_faults": "cumulative major page faults of this run's process",
    "frequency_hz": "CPU clock",
}
"""Every channel name any device uses, with its meaning; units are in the names (SI)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What a device is. Equal fingerprints may be compared."""

    kind: str
    """``nvml``, ``cpu``, ``twin``, ``replay``."""
    name: str
    """Marketing or preset name."""
    identity: str
    """UUID or host identity."""
    details: Mapping[str, str] = field(default_factory=dict)
    """Driver, VBIOS, limits, kernel, …: everything that may change a measurement."""

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits over all fields."""
        text = json.dumps([self.kind, self.name, self.identity, dict(self.details)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """Names a device so that another process can open it: kind, and JSON-able parameters."""

    kind: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = ":".join(str(value) for value in self.parameters.values() if isinstance(value, str | int))
        return f"{self.kind}:{shown}" if shown else self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverSamples:
    """What a driver kept of one channel in a buffer of its own, oldest first; empty where it refused."""

    channel: str
    code: int
    """Error code of asking for them; :data:`READ_OK` or why there are none."""
    timestamp_us: tuple[int, ...] = ()
    """The driver's own timestamps. Their clock is the wall's: only differences mean anything here."""
    values: tuple[float, ...] = ()
    """In the channel's unit."""


@runtime_checkable
class BufferedDevice(Protocol):
    """A device whose driver keeps samples, with its own timestamps: the most direct sight of how often its sensor updates."""

    def driver_samples(self) -> Sequence[DriverSamples]:
        """The buffers as they are now, one per channel that has one; reading them does not empty them."""


@runtime_checkable
class Device(Protocol):
    """What an instrument needs of a device."""

    clock: Clock
    spec: DeviceSpec

    @property
    def channels(self) -> Sequence[Channel]:
        """The channels this device has, in the order of :meth:`read`."""

    @property
    def absent(self) -> Mapping[str, str]:
        """Channels it could have but has not: name to the reason, a sentence with the remedy where there is one."""

    @property
    def fingerprint(self) -> Fingerprint:
        """What this device is."""

    @property
    def sensor(self) -> SensorModel | None:
        """What is known of ``power_w`` before identification; None without that channel."""

    @property
    def sampling_period_s(self) -> float:
        """Period at which this device should be sampled: at most a quarter of the update period where the sensor allows."""

    def read(self) -> tuple[list[float], list[int]]:
        """Read all channels now: values (NaN where a read failed) and error codes (:data:`READ_OK` or why)."""

    def close(self) -> None:
        """Release the device; reading afterwards is an error."""
