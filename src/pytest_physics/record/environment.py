"""The environment of a run, read from the machine and never typed: interpreter, platform, package versions, git commit."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

PACKAGES = ("pytest-physics", "pytest", "numpy", "scipy", "nvidia-ml-py", "psutil", "torch", "transformers")


def environment() -> dict[str, str]:
    """Interpreter, platform and the versions of the packages that take part in a measurement."""
    out = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "executable": Path(sys.executable).name,
        "platform": platform.platform(),
        "machine": platform.machine(),
    }
    for name in PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = "not installed"
    return out


def git_state(directory: Path) -> dict[str, str]:
    """Commit and cleanliness of the checkout that holds ``directory``; empty outside a checkout or without git."""
    commit = _git(directory, "rev-parse", "HEAD")
    if commit is None:
        return {}
    changes = _git(directory, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": "unknown" if changes is None else str(bool(changes)).lower()}


def _git(directory: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(  # noqa: S603 -- fixed arguments
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=False
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
