"""Waiting for the accelerator: only where there is one, and never by importing torch."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from pytest_physics.workloads.synchronise import synchronise


class FakeCuda:
    def __init__(self, *, initialised: bool, devices: int = 1, current: int = 0) -> None:
        self.initialised = initialised
        self.devices = devices
        self.current = current
        self.waited: list[int] = []

    def is_initialized(self) -> bool:
        return self.initialised

    def device_count(self) -> int:
        return self.devices

    def current_device(self) -> int:
        return self.current

    def synchronize(self, device: int | None = None) -> None:
        self.waited.append(self.current if device is None else device)


def test_torch_is_never_imported():
    """A window over code without torch must not pay torch's import."""
    code = "import sys; from pytest_physics.workloads.synchronise import synchronise as s; print(s(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("initialised", [True, False])
def test_waits_exactly_where_cuda_is_in_use(monkeypatch, initialised):
    """With CUDA initialised it waits once and says so; without, it neither waits nor initialises."""
    cuda = FakeCuda(initialised=initialised)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert synchronise() is initialised
    assert cuda.waited == [0] * initialised


def test_waits_for_every_device_in_use_and_no_other(monkeypatch):
    """Work sent to ``cuda:2`` while ``cuda:1`` is current ends inside its window; a device without a context is left without one."""
    cuda = FakeCuda(initialised=True, devices=4, current=1)
    contexts = SimpleNamespace(_cuda_hasPrimaryContext=lambda index: index in {1, 2})
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, _C=contexts))
    assert synchronise() is True
    assert cuda.waited == [1, 2]


def test_a_torch_that_does_not_tell_contexts_waits_for_the_current_device(monkeypatch):
    """The question is none of torch's public functions."""
    cuda = FakeCuda(initialised=True, devices=4, current=1)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert synchronise() is True
    assert cuda.waited == [1]


def test_a_half_imported_torch_is_no_error(monkeypatch):
    """While another thread imports torch, ``torch.cuda`` does not exist yet."""
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    assert synchronise() is False
