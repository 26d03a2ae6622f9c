"""Who holds a card's memory: bytes by process, as NVML tells them.

NVML names compute and graphics processes with their memory; where a driver withholds the bytes (Windows, some containers) a process counts
with 0. Fails with :class:`~pytest_physics.errors.DeviceUnavailableError` where there is no such card.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import psutil

from pytest_physics.devices.base import READ_OK
from pytest_physics.devices.nvml import library

_LISTINGS = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
_VERSIONS = ("_v3", "_v2", "")
"""The newest that the driver has: 510 brought the third, 455 the second; the binding's own choice is the third, and an error before."""


def memory_by_process(selector: Mapping[str, Any]) -> dict[int, int]:
    """Bytes of device memory by process id, on the card that ``selector`` names."""
    library.initialise()
    try:
        handle = library.find_card(selector, os.environ)
        found: dict[int, int] = {}
        for listing in _LISTINGS:
            tried = (library.attempt(listing + version, handle) for version in _VERSIONS)
            for process in next((processes for processes, code in tried if code == READ_OK), ()):
                found[process.pid] = max(found.get(process.pid, 0), int(process.usedGpuMemory or 0))
        return found
    finally:
        library.shut_down()


def foreign_memory(selector: Mapping[str, Any], own: Collection[int]) -> dict[str, int]:
    """Bytes of processes that are neither in ``own`` nor descend from one of them, by "pid name"."""
    out = {}
    for pid, n_bytes in memory_by_process(selector).items():
        try:
            process = psutil.Process(pid)
            lineage = {pid, *(parent.pid for parent in process.parents())}
            name = process.name()
        except psutil.Error:
            lineage, name = {pid}, "(not visible from here)"
        if not lineage & set(own):
            out[f"{pid} {name}"] = n_bytes
    return out
