"""Publish real joint sessions of this machine: ``python examples/training/publish.py reports/joint-cpu``.

Trains a DistilGPT-2 shape, then LoRA adapters on a Llama shape, each for more than three minutes on one thread under
``pytest-physics joint`` with the CPU sampled beside it, verifies the runs, and copies them without the files that are larger than 1 MB
(raw traces). Run it on a quiet machine: a busy host is recorded as a failed gate. Everything runs from the repository's root by relative
paths, so a published command is one that anybody can type there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pytest_physics.record.reader import RunReader

SHAPES = ("distilgpt2", "llama-lora")
LARGEST_BYTES = 1_000_000
ROOT = Path(__file__).resolve().parents[2]
TRAIN = Path(__file__).resolve().relative_to(ROOT).with_name("train.py")
SCRATCH = Path("runs/joint")
"""Where the runs are made, below the root; a folder for each shape, empty before and after."""
SHORTEST_S = 180.0
"""A training that lasts less is not published: ramp, steady zone and ramp down need minutes."""


def main() -> int:
    """Run the sessions and copy what is published; the exit code of the first command that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder that receives a folder for each shape")
    parser.add_argument("--seconds", type=float, default=1.2 * SHORTEST_S, help="length aimed at of each training")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="what is trained, as for train.py")
    parser.add_argument("--devices", default="cpu", help="what is sampled, as for pytest-physics joint")
    chosen = parser.parse_args()
    output = chosen.output.resolve()
    for shape in chosen.shapes:
        runs = SCRATCH / shape
        if (ROOT / runs).exists():
            print(f"error: {runs} is there already; remove it, for it may hold a run that was never published.", file=sys.stderr)
            return 2
        train = ["python", str(TRAIN), "--shape", shape, "--seconds", f"{chosen.seconds:g}", "--threads", "1"]
        code = physics("joint", "--devices", chosen.devices, "--runs", str(runs), "--margin", "5", "--", *train)
        run = next((ROOT / runs).iterdir(), None) if (ROOT / runs).exists() else None
        code = code or (physics("verify", str(run.relative_to(ROOT))) if run else 1)
        if code or run is None:
            return code
        lasted_s = training_s(run)
        if lasted_s < min(SHORTEST_S, chosen.seconds):
            print(f"error: '{shape}' trained for {lasted_s:.0f} s, not {SHORTEST_S:g} s: raise --seconds.", file=sys.stderr)
            return 1
        published(run, output / shape)
        shutil.rmtree(ROOT / runs)
    return 0


def physics(*arguments: str) -> int:
    """One command of this package, in the repository's root, with this interpreter as ``python``."""
    code = "import sys; from pytest_physics.cli import main; sys.argv[0] = 'pytest-physics'; main()"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return subprocess.run([sys.executable, "-c", code, *arguments], check=False, cwd=ROOT, env=os.environ | {"PATH": path}).returncode


def training_s(run: Path) -> float:
    """Seconds from the first to the last step mark."""
    t_ns = RunReader(run).table("training-steps-1")["t_ns"]
    return float(t_ns[-1] - t_ns[0]) / 1e9


def published(run: Path, folder: Path) -> None:
    """Copy a run without its large files; its manifest names them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in sorted(run.iterdir()):
        if path.stat().st_size <= LARGEST_BYTES:
            shutil.copy(path, folder)
    print(f"{folder}: {', '.join(path.name for path in sorted(folder.iterdir()))}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
