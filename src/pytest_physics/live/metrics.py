"""The monitor's readings as Prometheus metrics, on this machine only unless told otherwise.

Uses ``prometheus_client`` (the extra ``monitor``). Each scrape shows the newest reading; a value that is absent or could not be read has no
line, because a metric that repeats an old value is a lie. Names follow Prometheus' conventions: base units in the name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_physics.errors import ConfigurationError
from pytest_physics.live.readings import Reading
from pytest_physics.metrology.rle import Headroom
from pytest_physics.metrology.throttle import EventReason

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

LOCAL = "127.0.0.1"
Value = Callable[[Reading], float | None]


def _of_headroom(part: Callable[[Headroom], float]) -> Value:
    return lambda reading: None if reading.headroom is None else part(reading.headroom)


GAUGES: tuple[tuple[str, str, Value], ...] = (
    ("temperature_celsius", "Die or package temperature", lambda r: r.value("temperature_c")),
    ("memory_temperature_celsius", "Temperature of the device's memory", lambda r: r.value("memory_temperature_c")),
    ("power_watts", "Power, by the power channel or the energy counter", lambda r: r.power_w),
    ("clock_hertz", "Clock of the compute units", lambda r: r.value("sm_clock_hz", "frequency_hz")),
    ("memory_clock_hertz", "Clock of the memory", lambda r: r.value("memory_clock_hz")),
    ("utilisation_ratio", "Share of time with work on the device", lambda r: r.value("utilisation_ratio", "utilisation_cpu_ratio")),
    ("memory_used_bytes", "Device memory in use", lambda r: r.value("memory_used_bytes")),
    ("headroom_celsius", "Temperature below the limit", _of_headroom(lambda room: room.headroom_c)),
    ("temperature_slope_celsius_per_minute", "Slope of the temperature", _of_headroom(lambda room: room.slope.value)),
    ("temperature_slope_low_celsius_per_minute", "Lower end of its 95 % interval", _of_headroom(lambda room: room.slope.low)),
    ("temperature_slope_high_celsius_per_minute", "Upper end of its 95 % interval", _of_headroom(lambda room: room.slope.high)),
    ("time_to_limit_seconds", "Time to the limit; +Inf where the slope may be 0", _of_headroom(lambda room: room.time_to_limit_s)),
    ("time_to_limit_low_seconds", "Lower end of its 95 % interval", _of_headroom(lambda room: room.low_s)),
    ("time_to_limit_high_seconds", "Upper end of its 95 % interval", _of_headroom(lambda room: room.high_s)),
    ("sample_age_seconds", "Age of the newest sample", lambda r: r.age_s),
    ("samples", "Samples in the run so far", lambda r: float(r.samples)),
    ("sampler_up", "1 while samples are taken", lambda r: float(not r.problem)),
)
"""Name after ``pytest_physics_``, help, and where the value is."""
LIMIT = "Temperature at which the device slows down, or the setting soak.trip_c where the device states none; 'source' says which"
LABELS = ("instrument", "device", "simulated")


class Collector:
    """Turns readings into metrics at every scrape."""

    def __init__(self, readings: Callable[[], Sequence[Reading]]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All metrics of the newest readings."""
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 -- an optional extra

        readings = self._readings()
        for name, text, of in GAUGES:
            family = GaugeMetricFamily(f"pytest_physics_{name}", text, labels=LABELS)
            for reading in readings:
                value = of(reading)
                if value is not None and not math.isnan(value):
                    family.add_metric(_labels(reading), value)
            yield family
        limit = GaugeMetricFamily("pytest_physics_temperature_limit_celsius", LIMIT, labels=(*LABELS, "source"))
        reasons = GaugeMetricFamily("pytest_physics_throttle_reason", "1 where the device names the reason", labels=(*LABELS, "reason"))
        lost = GaugeMetricFamily("pytest_physics_lost_time_ratio", "Share of the last seconds", labels=(*LABELS, "cause"))
        for reading in readings:
            limit.add_metric([*_labels(reading), reading.limit_source], reading.limit_c)
            for reason in _all_reasons(reading):
                reasons.add_metric([*_labels(reading), reason], float(reason in (reading.reasons or ())))
            for cause, share in reading.shares.items():
                if math.isfinite(share):
                    lost.add_metric([*_labels(reading), cause], share)
        yield from (limit, reasons, lost)


def _labels(reading: Reading) -> list[str]:
    return [reading.instrument, reading.device, "true" if reading.simulated else "false"]


def _all_reasons(reading: Reading) -> list[str]:
    """Every known reason, so that 0 and 1 alternate, and unknown ones while they stand; none where the device does not say."""
    if reading.reasons is None:
        return []
    known = [(reason.name or "").lower().replace("_", " ") for reason in EventReason if reason is not EventReason.GPU_IDLE]
    return [*known, *(reason for reason in reading.reasons if reason not in known)]


@contextmanager
def serving(readings: Callable[[], Sequence[Reading]], port: int, address: str = LOCAL) -> Iterator[None]:
    """Serve metrics while the block runs; raises ``ConfigurationError`` without the library, or where the port cannot be had."""
    try:
        from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415 -- an optional extra
    except ImportError as error:
        raise ConfigurationError(
            f"--prometheus needs prometheus_client, which cannot be imported ({error}). "
            "Install it with: pip install 'pytest-physics[monitor]'"
        ) from None
    registry = CollectorRegistry()
    registry.register(Collector(readings))
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"metrics cannot be served at {address}:{port}: {reason}; choose another port.") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
