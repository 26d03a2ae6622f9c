"""What is read from a card, as data: which NVML function or field fills which channel, in which unit.

Field values are asked for in one call; the other quantities have a call each. Where an older driver has the same quantity under
another name, both names are here, in the order in which they are tried.

Reference: NVML API reference (``nvml.h``): field ids, units, and the enumerations of clocks, sensors and thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pytest_physics.devices.base import READ_OK, DriverSamples, ReadingKind
from pytest_physics.devices.nvml.library import attempt

POWER_FIELD = (186, 0)
"""Instantaneous power of the GPU: field and scope."""
MODULE_POWER_FIELD = (186, 1)
"""The same of the module, GPU and CPU."""

POWER_SAMPLES = 0
"""Which of the driver's rings holds power: ``NVML_TOTAL_POWER_SAMPLES``."""

_DIE, _SM_CLOCK, _MEMORY_CLOCK = 0, 1, 2
_SHUTDOWN, _SLOWDOWN, _MEMORY_MAXIMUM = 0, 1, 2
_UNKNOWN_P_STATE = 32
_VALUE_TYPES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


@dataclass(frozen=True, slots=True)
class Field:
    """A channel behind ``nvmlDeviceGetFieldValues``."""

    channel: str
    kind: ReadingKind
    unit: float
    """NVML's unit in the channel's."""
    resolution: float
    """Step of the channel; 0 where unknown."""
    ids: tuple[int, ...]
    """Field ids in order of preference, all with the same meaning; scope 0, the GPU."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A channel behind a call of its own."""

    channel: str
    kind: ReadingKind
    resolution: float
    """Step of the channel; 0 where unknown."""
    extract: Callable[[Any], float]
    """From what the call returns to the channel's unit; NaN for "unknown"."""


@dataclass(frozen=True, slots=True)
class Call:
    """An NVML function and the channels it fills."""

    functions: tuple[str, ...]
    """Names in order of preference."""
    quantities: tuple[Quantity, ...]
    arguments: tuple[int, ...] = ()

    def ask(self, handle: Any) -> tuple[Any, int]:  # noqa: ANN401 -- ctypes pointer and result
        """Call the preferred function: its result, and a code."""
        return attempt(self.functions[0], handle, *self.arguments)


@dataclass(frozen=True, slots=True)
class Detail:
    """A line of the fingerprint."""

    name: str
    function: str
    shown: Callable[[Any], str]
    arguments: tuple[int, ...] = ()

    def ask(self, handle: Any) -> str:  # noqa: ANN401 -- ctypes pointer
        """The line's text."""
        about = () if self.function.startswith("nvmlSystem") else (handle,)
        answer, code = attempt(self.function, *about, *self.arguments)
        return self.shown(answer) if code == READ_OK else "not available"


def number(function: str, channel: str, kind: ReadingKind, unit: float, *arguments: int) -> Call:
    """A call that returns one number in multiples of ``unit``, which is then also its resolution."""
    return Call((function,), (Quantity(channel, kind, unit, lambda steps: steps * unit),), arguments)


def field_value(answer: Any, unit: float) -> float:  # noqa: ANN401 -- ctypes structure
    """Value of one successful field, in the channel's unit; NaN for a type of value that is not known here."""
    if not 0 <= answer.valueType < len(_VALUE_TYPES):
        return math.nan
    return float(getattr(answer.value, _VALUE_TYPES[answer.valueType], math.nan) * unit)


def power_samples(value_type: int, samples: Iterable[Any]) -> DriverSamples:
    """The driver's ring of power samples, oldest first; slots that were never filled (timestamp 0) are left out."""
    filled = sorted((int(s.timeStamp), getattr(s.sampleValue, _VALUE_TYPES[value_type]) * 1e-3) for s in samples if s.timeStamp)
    return DriverSamples(
        channel="power_w", code=READ_OK, timestamp_us=tuple(t for t, _ in filled), values=tuple(float(w) for _, w in filled)
    )  # fmt: skip


def _p_state(steps: int) -> float:
    return math.nan if steps == _UNKNOWN_P_STATE else float(steps)


def _watt(milliwatt: int) -> str:
    return f"{milliwatt / 1e3:g} W"


def _celsius(degrees: int) -> str:
    return f"{degrees} °C"


def _mode(enabled: int) -> str:
    return "on" if enabled else "off"


def _compute_mode(number: int) -> str:
    return {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}.get(number, f"mode {number}")


def _text(answer: Any) -> str:  # noqa: ANN401 -- text, or bytes from older releases of nvidia-ml-py
    return answer.decode() if isinstance(answer, bytes) else str(answer)


FIELDS = (
    Field("power_w", ReadingKind.INSTANT, 1e-3, 1e-3, (186,)),
    Field("power_average_w", ReadingKind.AVERAGE, 1e-3, 1e-3, (185,)),
    Field("energy_j", ReadingKind.COUNTER, 1e-3, 1e-3, (83, 191)),
    Field("memory_temperature_c", ReadingKind.INSTANT, 1, 1, (82,)),
    Field("power_cap_ns", ReadingKind.COUNTER, 1, 0, (74,)),
    Field("thermal_ns", ReadingKind.COUNTER, 1, 0, (75,)),
    Field("software_thermal_ns", ReadingKind.COUNTER, 1, 0, (269,)),
    Field("hardware_thermal_ns", ReadingKind.COUNTER, 1, 0, (270,)),
    Field("power_brake_ns", ReadingKind.COUNTER, 1, 0, (271,)),
)

CALLS = (
    Call(
        ("nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV"),  # the first is to go with CUDA 14
        (Quantity("temperature_c", ReadingKind.INSTANT, 1, float),),
        (_DIE,),
    ),
    number("nvmlDeviceGetClockInfo", "sm_clock_hz", ReadingKind.INSTANT, 1e6, _SM_CLOCK),
    number("nvmlDeviceGetClockInfo", "memory_clock_hz", ReadingKind.INSTANT, 1e6, _MEMORY_CLOCK),
    Call(("nvmlDeviceGetPerformanceState",), (Quantity("performance_state", ReadingKind.STATE, 1, _p_state),)),
    Call(
        ("nvmlDeviceGetUtilizationRates",),
        (
            Quantity("utilisation_ratio", ReadingKind.AVERAGE, 0.01, lambda rates: rates.gpu / 100),
            Quantity("memory_utilisation_ratio", ReadingKind.AVERAGE, 0.01, lambda rates: rates.memory / 100),
        ),
    ),
    Call(
        ("nvmlDeviceGetMemoryInfo",),
        (Quantity("memory_used_bytes", ReadingKind.INSTANT, 0, lambda memory: float(memory.used)),),
    ),
    number("nvmlDeviceGetEnforcedPowerLimit", "power_limit_w", ReadingKind.STATE, 1e-3),
    Call(
        ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
        (Quantity("event_reasons", ReadingKind.STATE, 1, float),),
    ),
)

ENERGY_CALL = number("nvmlDeviceGetTotalEnergyConsumption", "energy_j", ReadingKind.COUNTER, 1e-3)
"""Where neither energy field exists."""

PROCESS_FUNCTIONS = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")

DETAILS = (
    Detail("vbios", "nvmlDeviceGetVbiosVersion", _text),
    Detail("cuda_driver", "nvmlSystemGetCudaDriverVersion", lambda version: f"{version // 1000}.{version % 1000 // 10}"),
    Detail("pci", "nvmlDeviceGetPciInfo", lambda info: _text(info.busId)),
    Detail("power_limit_enforced", "nvmlDeviceGetEnforcedPowerLimit", _watt),
    Detail("power_limit_default", "nvmlDeviceGetPowerManagementDefaultLimit", _watt),
    Detail(
        "power_limit_range",
        "nvmlDeviceGetPowerManagementLimitConstraints",
        lambda limits: f"{_watt(limits[0])} to {_watt(limits[1])}",
    ),
    Detail("persistence_mode", "nvmlDeviceGetPersistenceMode", _mode),
    Detail("compute_mode", "nvmlDeviceGetComputeMode", _compute_mode),
    Detail("mig_mode", "nvmlDeviceGetMigMode", lambda modes: _mode(modes[0])),
    Detail("ecc_mode", "nvmlDeviceGetEccMode", lambda modes: _mode(modes[0])),
    Detail("shutdown_threshold", "nvmlDeviceGetTemperatureThreshold", _celsius, (_SHUTDOWN,)),
    Detail("slowdown_threshold", "nvmlDeviceGetTemperatureThreshold", _celsius, (_SLOWDOWN,)),
    Detail("memory_threshold", "nvmlDeviceGetTemperatureThreshold", _celsius, (_MEMORY_MAXIMUM,)),
)
