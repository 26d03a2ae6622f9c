"""Waiting for the accelerator: only where there is one, and never by importing torch."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from pytest_physics.workloads.synchronise import synchronise


class FakeCuda:
    def __init__(self, *, initialised: bool) -> None:
        self.initialised = initialised
        self.waits = 0

    def is_initialized(self) -> bool:
        return self.initialised

    def synchronize(self) -> None:
        self.waits += 1


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
    assert cuda.waits == int(initialised)


def test_a_half_imported_torch_is_no_error(monkeypatch):
    """While another thread imports torch, ``torch.cuda`` does not exist yet."""
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    assert synchronise() is False
