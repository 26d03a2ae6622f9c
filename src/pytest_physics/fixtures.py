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
    from pytest_physics.experiments.instrument_response import InstrumentResponse
    from pytest_physics.record.schema import BaselineRecord
    from pytest_physics.session import Rig
    from pytest_physics.vram import VRAMMonitor


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
def idle_baseline(request: pytest.FixtureRequest, rig: Rig, sensor: InstrumentResponse) -> BaselineRecord:
    """A settled, checked idle baseline of the GPU, measured once per session; its gates apply to every claim that uses it."""
    return _active(request).idle_baseline()


@pytest.fixture(scope="module")
def heat_soaked(request: pytest.FixtureRequest, rig: Rig) -> HeatSoak:
    """The GPU after a heat soak, once per module: what other modules did has let it cool.

    Its gates apply to every claim of the tests that use it, directly or through a fixture.
    """
    return _active(request).heat_soak()


@pytest.fixture(scope="session")
def sensor(request: pytest.FixtureRequest, rig: Rig) -> InstrumentResponse:
    """The GPU's power channel, identified now or by an earlier run on the same card, driver and VBIOS.

    From then on every energy uses it. Where the identification is refused it is the device's prior, with its wide uncertainties.
    """
    return _active(request).sensor()


@pytest.fixture
def vram(request: pytest.FixtureRequest, rig: Rig) -> VRAMMonitor:
    """Memory of the device under test: ``with vram.watch() as m``, ``m.peak``, ``vram.assert_no_growth(fn)``, ``vram.will_fit(...)``."""
    return _active(request).vram()


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Judge:
    """Judges a comparison: ``judge(window.energy.net <= 5.0)``."""
    return _active(request).judge_of(request.node)
