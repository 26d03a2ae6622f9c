"""What a power reading of an NVIDIA card probably is, before it was identified on the card itself.

A table by chip family of what ``nvmlDeviceGetPowerUsage`` and field 186 mean: update period T and averaging window W or lag τ.
It is a *prior*: cards of one family contradict each other (Turing boards with W = 20 and 100 ms, A100 boards with 18 and 25
ms), so the uncertainties are wide and nothing but planning (how fast to sample, how long to wait) should rest on it. Families
without a published identification (Blackwell and later, and whatever NVML will number next) get one generic row, wider still.

The same call changes its meaning with family and driver: on Ampere and Ada ``nvmlDeviceGetPowerUsage`` is a 1 s average, except
with the 530 drivers, where it is the 100 ms reading. An unknown family has no known meaning, and none is guessed.

Reference: Yang, Adamek, Armour, "Part-time Power Measurements" (arXiv 2312.02741), result matrix; ``nvml.h`` for what is
stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_physics.devices.base import SAMPLING_SHARE, ReadingKind
from pytest_physics.metrology.response import SensorModel

DELAY_S = 0.05
"""Prior of the delay from the end of the window to the reading, also its standard uncertainty."""

_FAMILIES: Mapping[int, str] = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada",
    9: "Hopper",
    10: "Blackwell",
    13: "Rubin",
}
"""NVML's architecture numbers."""

_INSTANT_USAGE = frozenset({"Kepler", "Maxwell", "Pascal", "Volta", "Turing", "GA100"})
_AVERAGE_USAGE = frozenset({"Ampere", "Ada", "Hopper", "Blackwell", "Rubin"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prior:
    """One row of the table; times in seconds, uncertainties relative."""

    period_s: float
    window_s: float = 0.0
    lag_s: float = 0.0
    u_period: float = 0.1
    u_shape: float = 0.5
    """Of the window or the lag."""

    @property
    def sampling_period_s(self) -> float:
        """A fifth of the period and no simple fraction of it; half of that where the period is hardly known."""
        return SAMPLING_SHARE * self.period_s * (1.0 if self.u_period < 0.3 else 0.5)


_QUARTER = _Prior(period_s=0.1, window_s=0.025)
_FULL = _Prior(period_s=0.1, window_s=0.1)
_FAST = _Prior(period_s=0.02, window_s=0.01)
_LAG = _Prior(period_s=0.1, lag_s=0.15, u_shape=1.0)
_GENERIC = _Prior(period_s=0.1, window_s=0.1, u_period=0.5, u_shape=1.0)
"""Nothing published, or (Kepler) boards that differ sixfold: T within a factor of two, from no window to a full one."""

_PRIORS: Mapping[str, _Prior] = {
    "Hopper": _QUARTER,
    "GA100": _QUARTER,
    "Ada": _FULL,
    "Ampere": _FULL,
    "Turing": _FULL,
    "Volta": _FAST,
    "Pascal": _FAST,
    "Maxwell": _LAG,
}


def chip_family(architecture: int, compute_capability: tuple[int, int]) -> str:
    """Family name; GA100 shares NVML's number 7 with the other Ampere chips and is told apart by compute capability 8.0."""
    if architecture == 7 and compute_capability == (8, 0):
        return "GA100"
    return _FAMILIES.get(architecture, f"architecture {architecture}")


def prior_sensor(family: str) -> SensorModel:
    """Prior of the instantaneous power channel of ``family``."""
    row = _PRIORS.get(family, _GENERIC)
    return SensorModel(
        update_period_s=row.period_s,
        u_update_period_s=row.u_period * row.period_s,
        window_s=row.window_s,
        u_window_s=row.u_shape * row.window_s,
        lag_s=row.lag_s,
        u_lag_s=row.u_shape * row.lag_s,
        delay_s=DELAY_S,
        u_delay_s=DELAY_S,
        origin="prior",
    )


def prior_sampling_period_s(family: str) -> float:
    """Period at which cards of ``family`` should be sampled: a quarter of the update period or less."""
    return _PRIORS.get(family, _GENERIC).sampling_period_s


def power_usage_kind(family: str, driver_branch: int) -> ReadingKind | None:
    """What ``nvmlDeviceGetPowerUsage`` returns on ``family`` with a driver of that branch (530 of "530.30.02"); None: unknown."""
    if family in _INSTANT_USAGE:
        return ReadingKind.INSTANT
    if family in {"Ampere", "Ada"} and driver_branch == 530:
        return ReadingKind.INSTANT
    return ReadingKind.AVERAGE if family in _AVERAGE_USAGE else None
