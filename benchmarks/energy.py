"""Seconds for the energies of 10⁵ windows over 10⁷ samples: building the series once, and evaluating all windows.

Run ``python benchmarks/energy.py [--samples N] [--windows M] [--repeats R]``. Prints minimum, median and maximum over the repeats.
The samples are 10 ms polls of a 100 ms sensor with noise, one read of a thousand failed, and a gap now and then.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from pytest_physics.metrology.energy import IdlePower, PowerSeries, WindowEnergies, window_energy
from pytest_physics.metrology.response import SensorModel

SENSOR = SensorModel(update_period_s=0.1, window_s=0.1, resolution_w=0.001)
IDLE = IdlePower.constant(50.0, u_w=0.1)
POLL_NS = 10_000_000


def samples(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sample instants (ns) and readings (W)."""
    t = np.arange(count, dtype=np.int64) * POLL_NS + rng.integers(0, POLL_NS // 10, count)
    tick = t // 101_148_000
    updates = 50.0 + 200.0 * (np.arange(int(tick[-1]) + 1) % 40 < 20) + rng.normal(0, 0.5, int(tick[-1]) + 1)
    power = np.round(updates, 3)[tick]
    power[rng.integers(0, count, count // 1000)] = np.nan
    kept = rng.random(count) > 1e-6
    for gap in rng.integers(0, count, max(1, count // 10**6)):
        kept[gap : gap + 50] = False
    return t[kept], power[kept]


def windows(count: int, end_ns: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Windows of 0.1 s to 30 s anywhere in the trace, not in order."""
    t0 = rng.integers(10**9, end_ns - 40 * 10**9, count)
    return t0, t0 + rng.integers(10**8, 30 * 10**9, count)


def timed(run: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each repeat."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def report(name: str, seconds: list[float]) -> None:
    """One line: minimum, median, maximum."""
    print(f"{name:<10} min {min(seconds):.3f} s  median {statistics.median(seconds):.3f} s  max {max(seconds):.3f} s")


def main() -> None:
    """Time both steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=10**7)
    parser.add_argument("--windows", type=int, default=10**5)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rng = np.random.default_rng(1)
    t, power = samples(arguments.samples, rng)
    t0, t1 = windows(arguments.windows, int(t[-1]), rng)

    def build() -> PowerSeries:
        return PowerSeries.of(t, power, sensor=SENSOR)

    series = build()

    def evaluate() -> WindowEnergies:
        return window_energy(series, t0, t1, idle=IDLE, head_limit_ns=t0, tail_limit_ns=t1)

    built, evaluated = timed(build, arguments.repeats), timed(evaluate, arguments.repeats)
    print(f"{len(t):,} samples, {len(series.update_s):,} updates, {len(t0):,} windows, {arguments.repeats} repeats")
    report("build", built)
    report("evaluate", evaluated)
    report("total", [a + b for a, b in zip(built, evaluated, strict=True)])


if __name__ == "__main__":
    main()
