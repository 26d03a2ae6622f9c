"""Roofline: whether a phase is bound by memory or by arithmetic, and how near it comes to what this device can do (TR122.F).

Two kernels give the roofs as the device reaches them: copies (bytes per second), matrix products (operations per second), in short
windows in turn. Each phase of each arm of the stress matrix is a point: its operations per byte are counted, its rates measured. At the
*ridge*, roof of arithmetic over roof of memory, both would take the same time; a point left of it waits for memory, right of it for
arithmetic. The position does not depend on how fast the point itself ran; the shares of both roofs do. A point far below both is bound by
neither: launches,
the host, or a batch too small to fill the device.

Reference: Williams, Waterman, Patterson, "Roofline" (CACM 52(4), 2009); TR122.F; the constants of TR127–TR133 for one card differ by
a factor of two (256 to 556 GB/s), which is why the roof is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.experiments.stress import Arm, StressMatrix, answering
from pytest_physics.instrument import Instrument, Label
from pytest_physics.metrology.uncertainty import Estimate, Recipe
from pytest_physics.session import Session
from pytest_physics.workloads.roofs import CountedKernel, Roofs

EXPERIMENT = "roofline"
MAX_ITERATIONS = 1_000_000
PHASES = ("prefill", "decode")


@dataclass(slots=True, kw_only=True)
class Roofline:
    """Roofs and points of one device."""

    session: Session
    instrument: Instrument
    matrix: StressMatrix
    phase: str = ""
    windows: dict[str, list[str]] = field(default_factory=lambda: {"copy": [], "matmul": []})

    def _roof_time(self, kernel: str) -> Estimate:
        """Seconds per byte copied, or per operation of the products."""
        work = {"copy": "bytes", "matmul": "flops"}[kernel]
        parameters: dict[str, Any] = {"windows": self.windows[kernel], "work": work, "span": self.phase}
        return self.session.evaluate(Recipe(op="windows.time_per_work", parameters=parameters))

    @property
    def bandwidth(self) -> Estimate:
        """Roof of memory: bytes per second of copies, read and written."""
        return 1.0 / self._roof_time("copy")

    @property
    def arithmetic_rate(self) -> Estimate:
        """Roof of arithmetic: operations per second of matrix products."""
        return 1.0 / self._roof_time("matmul")

    @property
    def ridge(self) -> Estimate:
        """Operations per byte at which both roofs meet."""
        return self._roof_time("copy") / self._roof_time("matmul")

    def intensity(self, phase: str, arm: Arm) -> Estimate:
        """Operations per byte of a phase; counted, so exact."""
        window = self.matrix.windows(phase, arm)[0]
        if "flops" not in window.work:
            raise ChannelUnavailableError(
                "the operations and bytes of this workload are not known, so it has no place on a roofline; use a GPT-2 shape."
            )
        return window.count("flop") / window.count("byte")

    def position(self, phase: str, arm: Arm) -> Estimate:
        """Intensity over ridge: below 1 memory bounds the phase, above 1 arithmetic does."""
        return self.intensity(phase, arm) * (self._roof_time("matmul") / self._roof_time("copy"))

    def memory_share(self, phase: str, arm: Arm) -> Estimate:
        """Bytes per second of a phase over the roof of memory."""
        return self._roof_time("copy") / self.matrix.time_per("byte", phase, arm)

    def arithmetic_share(self, phase: str, arm: Arm) -> Estimate:
        """Operations per second of a phase over the roof of arithmetic."""
        return self._roof_time("matmul") / self.matrix.time_per("flop", phase, arm)


def run_roofline(instrument: Instrument, session: Session, roofs: Roofs, matrix: StressMatrix) -> Roofline:
    """Measure both roofs, place every arm of the matrix, and record it."""
    settings = session.settings.stress
    length_s = session.settings.experiment.latency_s if instrument.device.spec.kind == "cpu" else settings.kernel_s
    found = Roofline(session=session, instrument=instrument, matrix=matrix)
    kernels = {"copy": roofs.memory, "matmul": roofs.arithmetic}
    for kernel in kernels.values():
        kernel.warm_up()
    with instrument.phase("roofs") as phase:
        found.phase = phase.id
        iterations = {name: _calibrated(instrument, kernel, length_s) for name, kernel in kernels.items()}
        for repetition in range(settings.kernel_repetitions):
            for name in kernels if repetition % 2 == 0 else reversed(kernels):
                _window(found, name, kernels[name], iterations[name], repetition)
    with answering(session, "F", instrument.name):
        _record(found)
    return found


def _calibrated(instrument: Instrument, kernel: CountedKernel, length_s: float) -> int:
    """Iterations of one window."""
    t0_ns = instrument.clock.now_ns()
    kernel.run_iterations(1)
    once_s = max(1e-9, (instrument.clock.now_ns() - t0_ns) / NS_PER_S)
    return min(MAX_ITERATIONS, max(1, round(length_s / once_s)))


def _window(found: Roofline, name: str, kernel: CountedKernel, iterations: int, repetition: int) -> None:
    one = {"bytes": kernel.bytes_per_iteration} if name == "copy" else {"flops": kernel.flop_per_iteration}
    work = {unit: float(iterations * amount) for unit, amount in one.items()}
    with found.instrument.window(name, labels={"repetition": repetition}, synchronise=True, **work) as window:
        kernel.run_iterations(iterations)
    found.windows[name].append(window.closed_id)


def _record(found: Roofline) -> None:
    result, device = found.session.result, found.instrument.name
    result(EXPERIMENT, "roof of memory", found.bandwidth, instrument=device)
    result(EXPERIMENT, "roof of arithmetic", found.arithmetic_rate, instrument=device)
    result(EXPERIMENT, "ridge", found.ridge, instrument=device)
    for phase in PHASES:
        for arm in found.matrix.arms:
            at: dict[str, Label] = {"phase": phase, "context": arm.context, "batch": arm.batch, "instrument": device}
            result(EXPERIMENT, "operations per byte", found.intensity(phase, arm), **at)
            result(EXPERIMENT, "operations per byte over the ridge", found.position(phase, arm), **at)
            result(EXPERIMENT, "share of the roof of memory", found.memory_share(phase, arm), **at)
            result(EXPERIMENT, "share of the roof of arithmetic", found.arithmetic_share(phase, arm), **at)
            result(EXPERIMENT, "operations per second", 1.0 / found.matrix.time_per("flop", phase, arm), **at)
            result(EXPERIMENT, "bytes per second", 1.0 / found.matrix.time_per("byte", phase, arm), **at)
