"""The simulated NVML library inside this process: ``pynvml.nvmlLib`` is set to it, nothing else of nvidia-ml-py is touched.

That the real loading path works too (``CDLL("libnvidia-ml.so.1")``) is tested through subprocesses.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import fakenvml
import pytest

from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.nvml import NvmlDevice, processes


class FakeNvml:
    """One test's simulated driver."""

    def __init__(self, library: ctypes.CDLL, script: Path) -> None:
        self._library = library
        self.script = script
        self._opened: list[NvmlDevice] = []

    def load(self, text: str) -> None:
        """Start the driver over with this script."""
        self.script.write_text(text)
        self._library.fakenvml_reload()

    def open(self, text: str, **parameters: object) -> NvmlDevice:
        """Start the driver over, and open a card of it."""
        self.load(text)
        return self.open_again(**parameters)

    def open_again(self, **parameters: object) -> NvmlDevice:
        """Open a card of the running driver."""
        device = NvmlDevice(DeviceSpec(kind="nvml", parameters=parameters or {"index": 0}))
        self._opened.append(device)
        return device

    def advance(self, seconds: float) -> None:
        """Move the driver's time on, without waiting."""
        self._library.fakenvml_advance(ctypes.c_double(seconds))

    def calls(self, function: str) -> int:
        """How often the C function was called since the driver started."""
        return int(self._library.fakenvml_calls(function.encode()))

    @property
    def initialised(self) -> int:
        """Initialisations that were not shut down."""
        return int(self._library.fakenvml_initialised())

    def close(self) -> None:
        for device in self._opened:
            device.close()


@pytest.fixture(scope="session")
def fake_directory() -> Path:
    """Folder of the compiled library."""
    try:
        return fakenvml.build()
    except fakenvml.NoCompilerError as error:
        pytest.skip(str(error))


def _loaded(directory: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(directory / fakenvml.LIBRARY))
    library.fakenvml_calls.restype = ctypes.c_long
    return library


@pytest.fixture
def fake_nvml(fake_directory, monkeypatch, tmp_path):
    """A simulated driver; every test must leave NVML as it found it."""
    yield from _simulated(_loaded(fake_directory), monkeypatch, tmp_path)


@pytest.fixture
def old_nvml(fake_directory, monkeypatch, tmp_path):
    """The same, without the functions that came after the 470 drivers."""
    yield from _simulated(_loaded(fakenvml.build(old=True)), monkeypatch, tmp_path)


def _simulated(library, monkeypatch, tmp_path):
    pynvml = pytest.importorskip("pynvml")
    monkeypatch.setattr(pynvml, "nvmlLib", library)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    # the simulated driver lives in this process, so its process ids are ours even in a container
    monkeypatch.setattr(processes, "process_ids_are_apart", lambda: False)
    for variable in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(variable, raising=False)
    script = tmp_path / "script.txt"
    monkeypatch.setenv(fakenvml.SCRIPT_VARIABLE, str(script))
    fake = FakeNvml(library, script)
    yield fake
    fake.close()
    assert fake.initialised == 0, "NVML was initialised more often than it was shut down"
