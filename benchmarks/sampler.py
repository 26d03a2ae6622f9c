"""How well samplers keep their grid while the interpreter works: ``python benchmarks/sampler.py``.

Two designs read the same device, the host's CPU counters: this package's sampler process, and a naive thread that loops over
``read(); time.sleep(period)`` as most power monitors do. Both run at 10, 100 and 1000 Hz under four loads in the main thread: idle, a
pure Python loop, matrix products, and a C call that keeps the interpreter lock for 200 ms at a time. The two designs take turns within
each cell, in alternating order, so that whatever the machine does meanwhile meets both.

Columns: spacing of the reads (median, p95, p99, max), reads that are missing from the grid, spacings longer than 2.5 periods, CPU time
of the sampler as a share of one core, and bytes kept per sample (file for the process, Python objects for the thread).
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_physics.clock import NS_PER_S
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.cpu import CpuDevice
from pytest_physics.sampling.process import ProcessSampler

RATES_HZ = (10, 100, 1000)
GAP_PERIODS = 2.5
HOLD_US = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one design did under one load at one rate."""

    starts_ns: NDArray[np.int64]
    """Starts of the reads that lie within the measured time."""
    duration_ns: int
    cpu_ns: int
    bytes_per_sample: float


def idle(until_ns: int) -> None:
    """The main thread sleeps."""
    while (remaining_ns := until_ns - time.perf_counter_ns()) > 0:
        time.sleep(min(remaining_ns, NS_PER_S) / NS_PER_S)


def spin(until_ns: int) -> None:
    """The main thread runs Python without a pause."""
    while time.perf_counter_ns() < until_ns:
        sum(range(1000))


def matmul(until_ns: int) -> None:
    """Matrix products; the interpreter lock is free during each."""
    matrix = np.random.default_rng(0).standard_normal((512, 512))
    while time.perf_counter_ns() < until_ns:
        _ = matrix @ matrix


def hold_lock(until_ns: int) -> None:
    """A C call keeps the interpreter lock, as sorting, regular expressions or big integers do."""
    usleep = ctypes.PyDLL(None).usleep
    while time.perf_counter_ns() < until_ns:
        usleep(HOLD_US)


LOADS: dict[str, Callable[[int], None]] = {"idle": idle, "spin": spin, "matmul": matmul, "lock held 200 ms": hold_lock}


def measure_process(load: Callable[[int], None], period_s: float, seconds: float) -> Cell:
    """The sampler process of this package."""
    with tempfile.TemporaryDirectory() as folder:
        sampler = ProcessSampler(DeviceSpec(kind="cpu"), Path(folder) / "trace-cpu.npy", period_s, instrument="cpu")
        sampler.start()
        cpu_before_ns, began_ns = _process_cpu_ns(sampler), time.perf_counter_ns()
        load(began_ns + round(seconds * NS_PER_S))
        ended_ns, cpu_after_ns = time.perf_counter_ns(), _process_cpu_ns(sampler)
        sampler.stop()
        rows = np.array(sampler.trace().rows)
    return _cell(rows["t_before_ns"], began_ns, ended_ns, cpu_after_ns - cpu_before_ns, rows.itemsize)


def _process_cpu_ns(sampler: ProcessSampler) -> int:
    return int(Path(f"/proc/{sampler.pid}/schedstat").read_text().split()[0])


def measure_thread(load: Callable[[int], None], period_s: float, seconds: float) -> Cell:
    """A thread that reads, keeps a tuple, and sleeps for a period."""
    device, samples, stop = CpuDevice(), [], threading.Event()
    cpu_ns: list[int] = []

    def loop() -> None:
        while not stop.is_set():
            samples.append((time.perf_counter_ns(), *device.read()[0]))
            time.sleep(period_s)
        cpu_ns.append(time.thread_time_ns())

    thread = threading.Thread(target=loop)
    thread.start()
    began_ns = time.perf_counter_ns()
    load(began_ns + round(seconds * NS_PER_S))
    ended_ns = time.perf_counter_ns()
    stop.set()
    thread.join()
    device.close()
    kept = sum(sys.getsizeof(sample) + sum(map(sys.getsizeof, sample)) for sample in samples) / len(samples)
    return _cell(np.array([sample[0] for sample in samples]), began_ns, ended_ns, cpu_ns[0], kept)


def _cell(starts_ns: NDArray[np.int64], began_ns: int, ended_ns: int, cpu_ns: int, bytes_per_sample: float) -> Cell:
    inside = starts_ns[(starts_ns >= began_ns) & (starts_ns <= ended_ns)]
    return Cell(starts_ns=inside, duration_ns=ended_ns - began_ns, cpu_ns=cpu_ns, bytes_per_sample=bytes_per_sample)


DESIGNS: dict[str, Callable[[Callable[[int], None], float, float], Cell]] = {"process": measure_process, "thread": measure_thread}


def describe(cell: Cell, period_s: float) -> str:
    """One row of the table."""
    due = int(cell.duration_ns / NS_PER_S / period_s)
    missing = max(0, due - len(cell.starts_ns))
    dt_ms = np.diff(cell.starts_ns) / 1e6
    if not len(dt_ms):
        return f"{'fewer than two reads':>47}{missing:>7} of {due:<6}"
    median, p95, p99, top = np.quantile(dt_ms, [0.5, 0.95, 0.99, 1.0])
    gaps = int(np.count_nonzero(dt_ms > GAP_PERIODS * period_s * 1e3))
    return (
        f"{median:11.3f}{p95:11.3f}{p99:11.3f}{top:11.3f}{missing:>9} of {due:<6}{gaps:6}"
        f"{cell.cpu_ns / cell.duration_ns:9.2%}{cell.bytes_per_sample:9.0f}"
    )


def main() -> None:
    """Measure all cells and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured time per cell (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one second per cell")
    options = parser.parse_args()
    seconds = 1.0 if options.quick else options.seconds
    print(f"{seconds:g} s per cell; spacing in milliseconds")
    head = f"{'rate':>7}  {'load':<17}{'design':<9}"
    print(f"{head}{'median':>11}{'p95':>11}{'p99':>11}{'max':>11}{'missing':>9}    {'':<6}{'gaps':>6}{'CPU':>9}{'bytes':>9}")
    for row, (rate_hz, load) in enumerate((rate_hz, load) for rate_hz in RATES_HZ for load in LOADS):
        designs = list(DESIGNS)[:: -1 if row % 2 else 1]
        cells = {design: DESIGNS[design](LOADS[load], 1 / rate_hz, seconds) for design in designs}
        for design in DESIGNS:
            print(f"{rate_hz:>4} Hz  {load:<17}{design:<9}{describe(cells[design], 1 / rate_hz)}", flush=True)


if __name__ == "__main__":
    main()
