"""pytest-physics: benchmark measurements that are valid, or say that they are not.

The names below are the public door; each loads its module on first use, so importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_physics.config import Settings as Settings
    from pytest_physics.config import load_settings as load_settings
    from pytest_physics.instrument import Energy as Energy
    from pytest_physics.instrument import Instrument as Instrument
    from pytest_physics.metrology.decision import Verdict as Verdict
    from pytest_physics.metrology.quality import Provenance as Provenance
    from pytest_physics.metrology.quality import Quality as Quality
    from pytest_physics.metrology.uncertainty import Estimate as Estimate
    from pytest_physics.metrology.uncertainty import Gate as Gate
    from pytest_physics.metrology.uncertainty import Recipe as Recipe
    from pytest_physics.metrology.uncertainty import mean as mean
    from pytest_physics.metrology.uncertainty import relative_uncertainty as relative_uncertainty
    from pytest_physics.session import Rig as Rig
    from pytest_physics.session import Session as Session
    from pytest_physics.trainer_callback import PhysicsTrainerCallback as PhysicsTrainerCallback
    from pytest_physics.vram import VRAMMonitor as VRAMMonitor
    from pytest_physics.workloads.trainer import StepMarksCallback as StepMarksCallback

_HOMES = {
    "Energy": "instrument",
    "Estimate": "metrology.uncertainty",
    "Gate": "metrology.uncertainty",
    "Instrument": "instrument",
    "PhysicsTrainerCallback": "trainer_callback",
    "Provenance": "metrology.quality",
    "Quality": "metrology.quality",
    "Recipe": "metrology.uncertainty",
    "Rig": "session",
    "Session": "session",
    "Settings": "config",
    "StepMarksCallback": "workloads.trainer",
    "VRAMMonitor": "vram",
    "Verdict": "metrology.decision",
    "load_settings": "config",
    "mean": "metrology.uncertainty",
    "relative_uncertainty": "metrology.uncertainty",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:  # noqa: ANN401 -- any of the public names
    if name not in _HOMES:
        raise AttributeError(f"module 'pytest_physics' has no attribute '{name}'; it has {', '.join(_HOMES)}.")
    import importlib

    return getattr(importlib.import_module(f"pytest_physics.{_HOMES[name]}"), name)
