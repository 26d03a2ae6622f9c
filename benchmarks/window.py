"""What entering and leaving a window costs, with everything that happens in it: two clock readings and one whole line in a file.

    python benchmarks/window.py [--n 20000]

The window is one of a real run on the CPU (sampler running in its own process), with work counts and labels as an experiment gives
them; torch is not loaded, so there is nothing to synchronise. Target: p50 of at most 10 µs. An empty ``with`` block is timed beside
it, as what Python itself takes. Exit code 1 where the target is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pytest_physics.config import load_settings
from pytest_physics.session import Session

TARGET_US = 10.0


def timed_us(action: Callable[[], None], n: int) -> np.ndarray:
    """Time of each of ``n`` calls in microseconds."""
    out = np.empty(n)
    for index in range(n):
        t0 = time.perf_counter_ns()
        action()
        out[index] = time.perf_counter_ns() - t0
    return out / 1e3


def measure(n: int) -> dict[str, np.ndarray]:
    """Microseconds per window, by what was timed."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        with Session.start(load_settings(root, overrides={"device": "cpu"}), directory=root) as session:
            cpu = session.rig.cpu
            labels = {"batch": 8, "phase": "decode", "repetition": 3}

            def window() -> None:
                with cpu.window("decode", labels=labels, tokens=512, calls=3):
                    pass

            def empty() -> None:
                with contextlib.nullcontext():
                    pass

            timed_us(window, 500)  # caches, branch predictors, the file's first blocks
            out = {"window": timed_us(window, n), "empty with block": timed_us(empty, n)}
        lines = (session.path / "windows.jsonl").read_bytes().count(b"\n")
        assert lines == n + 500, f"{lines} lines for {n + 500} windows"
    return out


def main() -> int:
    """Print the table; 1 where the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20000, help="windows (default: 20000)")
    found = measure(parser.parse_args().n)
    print(f"{'':<18}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>11}   µs")
    for name, us in found.items():
        print(f"{name:<18}" + "".join(f"{np.quantile(us, q):>9.2f}" for q in (0.5, 0.95, 0.99)) + f"{us.max():>11.1f}")
    p50 = float(np.median(found["window"]))
    print(f"target: p50 ≤ {TARGET_US:g} µs: {'met' if p50 <= TARGET_US else 'MISSED'}")
    return int(p50 > TARGET_US)


if __name__ == "__main__":
    sys.exit(main())
