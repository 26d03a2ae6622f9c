"""Publish real joint sessions of this machine: ``python examples/training/publish.py reports/joint-cpu``.

Trains a DistilGPT-2 shape, then LoRA adapters on a Llama shape, each under ``pytest-physics joint`` with the CPU sampled beside it,
verifies the runs, and copies them without the files that are larger than 1 MB (raw traces). Run it on a quiet machine: a busy host is
recorded as a failed gate.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SHAPES = ("distilgpt2", "llama-lora")
LARGEST_BYTES = 1_000_000
TRAIN = Path(__file__).with_name("train.py")


def main() -> int:
    """Run the sessions and copy what is published; the exit code of the first command that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder that receives a folder for each shape")
    parser.add_argument("--seconds", type=float, default=100.0, help="length aimed at of each training")
    parser.add_argument("--devices", default="cpu", help="what is sampled, as for pytest-physics joint")
    chosen = parser.parse_args()
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as runs:
            train = [sys.executable, str(TRAIN), "--shape", shape, "--seconds", f"{chosen.seconds:g}"]
            code = physics("joint", "--devices", chosen.devices, "--runs", runs, "--margin", "5", "--", *train)
            run = next(Path(runs).iterdir(), None)
            code = code or (physics("verify", str(run)) if run else 1)
            if code or run is None:
                return code
            published(run, chosen.output / shape)
    return 0


def physics(*arguments: str) -> int:
    """One command of this package."""
    code = "import sys; from pytest_physics.cli import main; sys.argv[0] = 'pytest-physics'; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], check=False).returncode


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
