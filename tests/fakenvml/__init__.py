"""A simulated ``libnvidia-ml.so.1`` for tests through the unmodified ``nvidia-ml-py``: how to build it and to write its script.

The grammar of the script is at the head of ``fakenvml.c``. :func:`build` compiles the library once per version of its source and
keeps it in the temporary directory; :func:`environment` gives what a subprocess needs so that ``CDLL("libnvidia-ml.so.1")`` finds
it; :class:`Live` moves the true power of a card while the test runs, with times on ``time.perf_counter_ns`` (on Linux the same
clock as the library's CLOCK_MONOTONIC).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path

LIBRARY = "libnvidia-ml.so.1"
SCRIPT_VARIABLE = "FAKENVML_SCRIPT"
SOURCE = Path(__file__).with_name("fakenvml.c")
_FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}")


class NoCompilerError(RuntimeError):
    """There is no C compiler, so that the simulated library cannot be built; tests skip."""


def build(*, old: bool = False) -> Path:
    """Directory that holds the library, compiled if this source was not compiled before; ``old`` leaves out newer symbols."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        raise NoCompilerError("no C compiler (cc, gcc, clang) was found: the simulated NVML library cannot be built.")
    flags = (*_FLAGS, "-DFAKENVML_OLD") if old else _FLAGS
    digest = hashlib.sha256(SOURCE.read_bytes() + repr((compiler, flags)).encode()).hexdigest()[:16]
    directory = Path(tempfile.gettempdir()) / f"fakenvml-{os.getuid()}-{digest}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if not (directory / LIBRARY).exists():
        # under a name of its own first: several test processes may build at once
        made = directory / f"{LIBRARY}.{os.getpid()}"
        subprocess.run([compiler, *flags, "-o", str(made), str(SOURCE), "-lm", "-lpthread"], check=True)
        made.replace(directory / LIBRARY)
    return directory


def environment(script: Path, *, old: bool = False) -> dict[str, str]:
    """Environment of the running process, so changed that a child finds the simulated library and its script."""
    path = os.pathsep.join(filter(None, (str(build(old=old)), os.environ.get("LD_LIBRARY_PATH"))))
    return {**os.environ, "LD_LIBRARY_PATH": path, SCRIPT_VARIABLE: str(script)}


H100 = """\
device
name NVIDIA H100 PCIe
uuid GPU-11111111-2222-3333-4444-555555555555
vbios 96.00.89.00.01
pci 00000000:65:00.0
architecture 9
compute_capability 9 0
memory_total_mib 81559
limits_w 200 350 350
thresholds_c 95 92 95 87
mig 0
sensor instant 0.1 0.025 0 0 0 0 0.001 1 0
sensor average 0.1 1 0 0 0 0 0.001 1 0
energy 0.1 1000 integrator 1
at 0 power_w 123.456
at 0 temperature_c 54.9
at 0 memory_temperature_c 61.5
at 0 sm_clock_mhz 1755
at 0 memory_clock_mhz 1593
at 0 performance_state 2
at 0 utilisation_percent 87
at 0 memory_utilisation_percent 34
at 0 memory_used_mib 2
at 0 event_reasons 0x44
at 0 power_limit_w 310
"""
"""A data-centre card with every channel."""

A100 = (
    H100.replace("NVIDIA H100 PCIe", "NVIDIA A100-PCIE-40GB")
    .replace("architecture 9", "architecture 7")
    .replace("capability 9 0", "capability 8 0")
    .replace("-5555", "-aaaa")
    + "fault field:185 3\n"
)
"""GA100: no average power."""

RTX3090 = (
    H100.replace("NVIDIA H100 PCIe", "NVIDIA GeForce RTX 3090")
    .replace("architecture 9", "architecture 7")
    .replace("capability 9 0", "capability 8 6")
    .replace("-5555", "-bbbb")
    .replace("mig 0", "mig 2")
    .replace("at 0 memory_temperature_c 61.5\n", "")
    .replace("instant 0.1 0.025", "instant 0.1 0.1")
)
"""GA10x: MIG and memory temperature are not supported."""

GH200 = (
    H100.replace("NVIDIA H100 PCIe", "NVIDIA GH200 480GB").replace("-5555", "-cccc")
    + "scopes 0 1\nfault field:186:0 3\nfault field:185:0 3\n"
)
"""A superchip whose power is measured for the whole module only."""


class Live:
    """True power of a card, appended to while the library runs: name its path in a ``live`` statement of the script."""

    def __init__(self, path: Path, *, room: int = 4096) -> None:
        self.path = path
        path.write_bytes(bytes(8 + 16 * room))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._count = 0

    def power_w(self, watt: float, *, t_ns: int | None = None) -> None:
        """From ``t_ns`` (now) on the card draws ``watt``."""
        t_ns = time.perf_counter_ns() if t_ns is None else t_ns
        struct.pack_into("<qd", self._memory, 8 + 16 * self._count, t_ns, watt)
        self._count += 1
        struct.pack_into("<Q", self._memory, 0, self._count)

    def close(self) -> None:
        """Unmap the file; the library keeps what it has seen."""
        self._memory.close()
