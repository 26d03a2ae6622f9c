"""Whether other processes worked on the device in a window: its energy is then not the window's alone, by an amount that nobody knows.

A process that is merely there (a desktop) is no work. Work is a driver's sample of utilisation by process with a timestamp in the window,
or a change of the memory that foreign compute processes hold. Fails (sees nothing) where the driver tells of a sample later than the
readings that an energy waits for, and where it cannot be asked; the gate then warns that nobody could look.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pytest_physics.metrology.foreign_channels import unpacked_name
from pytest_physics.metrology.uncertainty import Gate
from pytest_physics.metrology.updates import FloatArray, IntArray

NAME = "foreign work"
REMEDY = "stop other programs on the device, or measure on a device of your own: nobody can tell which part of the energy is theirs"


def foreign_work_gate(
    t_ns: IntArray, columns: Mapping[str, FloatArray], held_bytes: FloatArray, t0_ns: int, t1_ns: int, *, scope: str
) -> Gate:
    """Whether processes that are not the run's worked in [t0, t1].

    Parameters
    ----------
    t_ns
        Instants of the readings, shape (N,), from the window's begin to some while after its end: the driver tells late.
    columns
        The channels :data:`~pytest_physics.metrology.foreign_channels.FOREIGN_WORK`, shape (N,) each, NaN where nobody could look.
    held_bytes
        Memory of foreign compute processes in the window; NaN where it is not known.
    """
    ratio = columns["foreign_sm_ratio"]
    sampled_ns = t_ns - np.nan_to_num(columns["foreign_age_s"]) * 1e9
    worked = np.flatnonzero((ratio > 0) & (sampled_ns >= t0_ns) & (sampled_ns <= t1_ns))
    if len(worked):
        return _worked(ratio, columns, worked, sampled_ns - t0_ns, scope)
    known = held_bytes[np.isfinite(held_bytes)]
    if len(known) and known.max() > known.min():
        return _moved(float(known.max() - known.min()), scope)
    if not np.isfinite(ratio).any():
        return unseen_work("the driver gave no sample of it, or named processes that cannot be seen from here", scope=scope)
    return Gate(
        name=NAME, scope=scope, measured=0.0, limit=0.0, unit="1", passed=True,
        reason="no process but this run's worked on the device in the window, as far as the driver tells", remedy="",
    )  # fmt: skip


def _worked(ratio: FloatArray, columns: Mapping[str, FloatArray], worked: IntArray, since_ns: FloatArray, scope: str) -> Gate:
    most = int(worked[np.argmax(ratio[worked])])
    name = unpacked_name(float(columns["foreign_name_1"][most]), float(columns["foreign_name_2"][most]))
    who = f"process {columns['foreign_pid'][most]:.0f}" + (f" ({name})" if name else "")
    others = len(np.unique(columns["foreign_pid"][worked])) - 1
    return Gate(
        name=NAME, scope=scope, measured=float(ratio[most]), limit=0.0, unit="1", passed=False,
        reason=f"{who}, which is not this run's, used {ratio[most]:.0%} of the device {since_ns[most] * 1e-9:.2f} s after the window began "
        "(limit 0)" + (f", and {others} more worked too" if others else ""),
        remedy=REMEDY,
    )  # fmt: skip


def _moved(changed_bytes: float, scope: str) -> Gate:
    return Gate(
        name=NAME, scope=scope, measured=changed_bytes, limit=0.0, unit="byte", passed=False,
        reason=f"memory that foreign compute processes hold changed by {changed_bytes / 2**20:.4g} MiB in the window (limit 0): they work",
        remedy=REMEDY,
    )  # fmt: skip


def unseen_work(why: str, *, scope: str) -> Gate:
    """Nobody could look: a warning."""
    return Gate(
        name=NAME, scope=scope, measured=None, limit=None, unit="1", passed=False, warning=True,
        reason=f"not checked whether other processes worked in the window: {why.rstrip('.')}",
        remedy="make sure by other means that the device is this run's alone",
    )  # fmt: skip
