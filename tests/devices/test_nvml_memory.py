"""Who holds a card's memory, from NVML's lists."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from pytest_physics.devices.base import READ_OK
from pytest_physics.devices.nvml import library
from pytest_physics.devices.nvml.memory import foreign_memory, memory_by_process

NOT_SUPPORTED = 3
NOBODY = 2**22 + 1
"""No process has an id beyond the kernel's largest."""


@pytest.fixture
def lists(monkeypatch):
    """NVML with two lists of processes; None stands for a list that it refuses."""
    found = {"nvmlDeviceGetComputeRunningProcesses": [], "nvmlDeviceGetGraphicsRunningProcesses": None, "versions": ("v3", "v2")}

    def attempt(name, *_arguments):
        base, _, version = name.partition("_")
        answer = found[base] if version in found["versions"] else None
        return (None, NOT_SUPPORTED) if answer is None else (answer, READ_OK)

    monkeypatch.setattr(library, "initialise", lambda: None)
    monkeypatch.setattr(library, "shut_down", lambda: None)
    monkeypatch.setattr(library, "find_card", lambda _selector, _environment: "card")
    monkeypatch.setattr(library, "attempt", attempt)
    return found


def entry(pid, n_bytes):
    return SimpleNamespace(pid=pid, usedGpuMemory=n_bytes)


def test_a_process_in_both_lists_counts_once(lists):
    """With the larger figure; one whose bytes are withheld counts with none."""
    lists["nvmlDeviceGetComputeRunningProcesses"] = [entry(7, 100), entry(8, None)]
    lists["nvmlDeviceGetGraphicsRunningProcesses"] = [entry(7, 60)]
    assert memory_by_process({"index": 0}) == {7: 100, 8: 0}


def test_own_processes_are_not_foreign(lists):
    """The run's are this process and its children; a stranger is named with its pid."""
    lists["nvmlDeviceGetComputeRunningProcesses"] = [entry(os.getpid(), 100), entry(NOBODY, 200)]
    found = foreign_memory({"index": 0}, {os.getpid()})
    assert list(found.values()) == [200]
    assert next(iter(found)).startswith(str(NOBODY))
    assert foreign_memory({"index": 0}, {os.getppid(), NOBODY}) == {}


@pytest.mark.parametrize("versions", [("v3", "v2"), ("v2",), ("",)])
def test_older_drivers_have_older_lists(lists, versions):
    """The newest version that the driver has is asked: one of 2021 has no third, and the binding's own choice would be an error."""
    lists["versions"] = versions
    lists["nvmlDeviceGetComputeRunningProcesses"] = [entry(7, 100)]
    assert memory_by_process({"index": 0}) == {7: 100}
