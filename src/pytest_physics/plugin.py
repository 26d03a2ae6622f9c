"""The pytest plugin: options, ini keys, markers, fixtures and hook specifications; nothing else until ``--physics`` is given.

Every ``pytest`` run in an environment with this package loads this module, so it imports only the standard library and pytest, defines no
per-test hook and starts no process. It is one module because pytest's import hook takes longer to load a second one than to run it. With
``--physics`` it registers :class:`pytest_physics.active.ActiveRun`, which does the work; without, each fixture skips its test and says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_physics.active import ActiveRun
    from pytest_physics.claims import Judge
    from pytest_physics.experiments.heat_soak import HeatSoak
    from pytest_physics.experiments.instrument_response import InstrumentResponse
    from pytest_physics.record.schema import BaselineRecord, ClaimRecord
    from pytest_physics.session import Rig
    from pytest_physics.vram import VRAMMonitor

MARKERS = (
    "claim(statement=None, *, id=None, requires=()): one claim, judged in this test; 'requires' names claims that must be VALIDATED",
    "needs(*channels): channels as 'gpu.power_w' that the test needs; without them its claim is NOT_TESTED",
    "vram_budget(gib, *, instrument='gpu'): the test's peak of device memory, above what it began with, must not exceed the budget",
    "energy_budget(joules, *, instrument='gpu', net=False, per=None): the test's energy, or that per counted 'token', must not exceed it",
)

OPTIONS: tuple[tuple[str, dict[str, object]], ...] = (
    ("--physics", {"action": "store_true", "help": "measure: open the devices, write a run directory and a report"}),
    (
        "--physics-device",
        {"metavar": "DEVICE", "help": "auto (default), nvml[:INDEX], cpu, twin[:PRESET] or replay:PATH"},
    ),
    ("--physics-profile", {"metavar": "PROFILE", "help": "quick (default), standard or publish: durations and repetitions"}),
    ("--physics-runs", {"metavar": "DIR", "help": "directory that receives the run directories (default: runs)"}),
    ("--physics-correction", {"metavar": "METHOD", "help": "none (default): each claim by itself; holm: all claims of the run together"}),
    ("--physics-compare", {"action": "store_true", "help": "claim of each metric that it is no worse than in earlier runs of the history"}),
    ("--physics-config", {"metavar": "FILE", "help": "configuration file (default: physics.toml, or [tool.physics])"}),
)

INI_KEYS = (
    ("physics_device", "default of --physics-device"),
    ("physics_profile", "default of --physics-profile"),
    ("physics_runs", "default of --physics-runs"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two switches, five options, three ini keys; everything else is in the configuration file."""
    group = parser.getgroup("physics", "energy, temperature and time: measurements that are valid, or say that they are not")
    for name, options in OPTIONS:
        group.addoption(name, **options)
    for name, text in INI_KEYS:
        parser.addini(name, text, default=None)


class HookSpecs:
    """Hooks that conftest files and other plugins may implement; they are called only in runs with ``--physics``.

    Example, in ``conftest.py``::

        def pytest_physics_claim_judged(config, claim):
            print(claim.id, claim.verdict)
    """

    @pytest.hookspec
    def pytest_physics_claim_judged(self, config: pytest.Config, claim: ClaimRecord) -> None:
        """A claim was judged and recorded; called once per attempt."""

    @pytest.hookspec
    def pytest_physics_run_finished(self, config: pytest.Config, run: Path, report: Path | None) -> None:
        """The run directory is complete; ``report`` is None where it could not be built."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Offer our own hooks."""
    pluginmanager.add_hookspecs(HookSpecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; with ``--physics``, the active run."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if config.getoption("physics"):
        from pytest_physics.active import ActiveRun

        config.pluginmanager.register(ActiveRun.from_config(config), "physics-active")


# --- fixtures: the parts of the active run ------------------------------------------------------------------------------------


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
