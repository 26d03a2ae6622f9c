"""Fixtures. Without ``--physics`` each of them skips its test and says so; with it they hand out the parts of the active run.

Only pytest is imported here, because every pytest run in the environment loads this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_physics.active import ActiveRun
    from pytest_physics.claims import Judge
    from pytest_physics.experiments.heat_soak import HeatSoak
    from pytest_physics.metrology.response import SensorModel
    from pytest_physics.record.schema import BaselineRecord
    from pytest_physics.session import Rig


def _active(request: pytest.FixtureRequest) -> ActiveRun:
    plugin = request.config.pluginmanager.get_plugin("physics-active")
    if plugin is None:
        pytest.skip("needs the rig: run pytest with --physics")
    return plugin  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def rig(request: pytest.FixtureRequest) -> Rig:
    """Everything this run measures with: ``rig.gpu``, ``rig.cpu``, and the run's settings."""
    return _active(request).session.rig


@pytest.fixture(scope="session")
def idle_baseline(request: pytest.FixtureRequest, rig: Rig) -> BaselineRecord:
    """A settled, checked idle baseline of the GPU, measured once per session; its gates apply to every claim that uses it."""
    return _active(request).idle_baseline()


@pytest.fixture(scope="session")
def heat_soaked(request: pytest.FixtureRequest, rig: Rig) -> HeatSoak:
    """The GPU after a heat soak; its gates apply to every claim of the tests that use it, directly or through a fixture."""
    return _active(request).heat_soak()


@pytest.fixture(scope="session")
def sensor(rig: Rig) -> SensorModel:
    """What is known of the GPU's power channel; NOT_TESTED where there is none."""
    rig.gpu.require("power_w")
    model = rig.gpu.sensor
    assert model is not None  # noqa: S101 -- a device with power_w declares its sensor
    return model


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Judge:
    """Judges a comparison: ``judge(window.energy.net <= 5.0)``."""
    return _active(request).judge_of(request.node)
