"""The scripts of ``benchmarks/`` as modules."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@cache
def script(name):
    """``benchmarks/<name>.py``; not simply imported, for two of them are called as folders of tests are."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.append(str(BENCHMARKS))  # scripts import what stands beside them
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module
