"""Calls of the engine's programs: each with a time-out, and one clear message where it fails."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from pytest_physics.errors import PhysicsError


class EngineError(PhysicsError):
    """The engine is not there, does not answer, or refuses."""


class EngineSilentError(EngineError):
    """The engine did not answer in time, or cannot be reached."""


UNREACHABLE = ("Unable to contact slurm controller", "Connection refused", "Socket timed out", "Zero Bytes were transmitted")
"""What Slurm's commands print where the controller is dead."""

UNCONFIGURED = ("Could not establish a configuration source", "fetch_config")
"""What they print on a machine that belongs to no cluster."""


def answer(command: Sequence[str], *, timeout_s: float) -> str:
    """Standard output of ``command``; raises :class:`EngineSilentError` or :class:`EngineError` with what the program said."""
    name = command[0]
    try:
        done = subprocess.run(  # noqa: S603 -- arguments, no shell
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout_s, check=False
        )  # fmt: skip
    except FileNotFoundError:
        raise EngineError(f"'{name}' is not installed here: run this where Slurm's commands are, or add --executor local.") from None
    except subprocess.TimeoutExpired:
        raise EngineSilentError(
            f"'{name}' did not answer within {timeout_s:g} s: the Slurm controller is dead or overloaded; ask 'scontrol ping', try again."
        ) from None
    if done.returncode == 0:
        return done.stdout
    said = " ".join((done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").split())
    if any(text in said for text in UNREACHABLE):
        raise EngineSilentError(f"the Slurm controller does not answer ('{name}': {said}); ask 'scontrol ping', and try again.")
    if any(text in said for text in UNCONFIGURED):
        raise EngineError(
            f"'{name}' is installed, and this machine belongs to no cluster (no slurm.conf): go to one, or add --executor local."
        )
    raise EngineError(f"'{name}' refused: {said}.")
