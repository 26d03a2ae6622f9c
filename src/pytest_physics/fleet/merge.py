"""What runs when all tasks have ended: collect, and build the page, as ``fleet collect`` does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from pytest_physics.errors import PhysicsError

SELDOM = ("fft", "integrate", "interpolate", "linalg", "ndimage", "optimize", "signal", "special", "stats")
"""Parts of scipy that some recipes need. All of them take half of the time that an interpreter needs to be ready to merge."""


class _Deferred(ModuleType):
    """A module that loads when it is first used."""

    def __getattr__(self, name: str) -> object:
        return getattr(import_module(self.__name__), name)


def defer(package: str, names: Sequence[str]) -> None:
    """Let ``from package import name`` cost nothing until ``name`` is used; whoever imports the module itself still gets it."""
    parent = import_module(package)
    for name in names:
        if f"{package}.{name}" not in sys.modules:
            setattr(parent, name, _Deferred(f"{package}.{name}"))


def main(arguments: Sequence[str]) -> int:
    """Entry point of the merge job."""
    defer("scipy", SELDOM)
    from pytest_physics.fleet.collect import collect, refusals  # noqa: PLC0415 -- after what they import was deferred
    from pytest_physics.fleet.executor import executor_of  # noqa: PLC0415
    from pytest_physics.fleet.folder import FleetFolder  # noqa: PLC0415
    from pytest_physics.fleet.page import build_page  # noqa: PLC0415

    try:
        folder = FleetFolder(Path(arguments[0]))
        found = collect(folder, executor_of(folder))
        sys.stdout.write(f"{build_page(folder)}\n")
    except PhysicsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 1 if refusals(found) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
