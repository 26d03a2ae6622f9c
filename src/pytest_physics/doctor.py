"""What this machine can measure, and why not the rest."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from pytest_physics.clock import RealClock
from pytest_physics.devices.base import CHANNELS, Device, DeviceSpec
from pytest_physics.devices.discover import open_device, probe_nvml
from pytest_physics.devices.nvml.advice import advice
from pytest_physics.errors import PhysicsError


def doctor_lines() -> Iterator[str]:
    """Lines for a terminal: clock, GPU, CPU, scheduling."""
    clock = RealClock()
    yield f"clock       {clock.name}, resolution {clock.resolution_ns} ns"
    yield f"scheduling  {_scheduling()}"
    probe = probe_nvml()
    yield f"GPU         {probe.reason}"
    specs = [DeviceSpec(kind="nvml", parameters={"index": index}) for index in probe.indices]
    if not probe.available:
        yield "            --physics-device auto measures a simulated GPU (twin) instead, and says so everywhere."
    for spec in [*specs, DeviceSpec(kind="cpu")]:
        yield ""
        yield from _device_lines(spec)


def _device_lines(spec: DeviceSpec) -> Iterator[str]:
    try:
        device = open_device(spec)
    except PhysicsError as error:
        yield f"{spec}: cannot be opened: {error}"
        return
    try:
        yield from _described(device)
    finally:
        device.close()


def _described(device: Device) -> Iterator[str]:
    fingerprint = device.fingerprint
    yield f"{device.spec}: {fingerprint.name} ({fingerprint.digest}), sampled every {device.sampling_period_s * 1e3:g} ms"
    device.read()  # shares of time need two readings
    time.sleep(0.1)
    started_ns = time.perf_counter_ns()
    values, codes = device.read()
    yield f"  one read takes {(time.perf_counter_ns() - started_ns) / 1e6:.2g} ms"
    for channel, value, code in zip(device.channels, values, codes, strict=True):
        shown = f"{value:.6g}" if code == 0 else f"failed with code {code}"
        yield f"  yes  {channel.name:<26} {shown:<16} {CHANNELS[channel.name]} ({channel.source})"
    told = ""
    for name, reason in device.absent.items():
        yield f"  no   {name:<26} {'for the same reason' if reason == told else reason}"
        told = reason
    sensor = device.sensor
    if sensor is not None:
        yield (
            f"  power sensor ({sensor.origin}): update period {sensor.update_period_s * 1e3:g} ± {sensor.u_update_period_s * 1e3:.2g} ms, "
            f"window {sensor.window_s * 1e3:g} ± {sensor.u_window_s * 1e3:.2g} ms, looks {sensor.coverage:.0%} of the time, "
            f"scale ± {sensor.u_gain:.1%}"
        )
    if device.spec.kind == "nvml":
        yield f"  load        {_load(device)}"
        for text in advice(fingerprint.details):
            yield f"  note        {text}"


def _load(device: Device) -> str:
    """What could load the card: torch, and by which name; or why nothing can."""
    from pytest_physics.workloads.select import torch_name  # noqa: PLC0415 -- torch takes seconds to load

    try:
        return f"torch uses this card as '{torch_name(device)}'"
    except PhysicsError as error:
        return f"experiments that need one are NOT_TESTED: {error}"


def _scheduling() -> str:
    if not hasattr(os, "sched_setscheduler"):
        return "real-time priority is not offered by this system; the sampler runs at default priority"
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return "real-time priority is not permitted (needs CAP_SYS_NICE or an rtprio limit); the sampler runs at default priority"
    os.sched_setscheduler(0, *before)
    return "real-time priority (SCHED_FIFO) is permitted; the sampler uses it"
