"""The pytest plugin: options, ini keys, markers, and nothing else until ``--physics`` is given.

Every ``pytest`` run in an environment with this package loads this module, so it imports only the standard library and pytest, defines no
per-test hook and starts no process. With ``--physics`` it registers :class:`pytest_physics.active.ActiveRun`, which does the work.
"""

from __future__ import annotations

import pytest

MARKERS = (
    "claim(statement=None, *, id=None, requires=()): one claim, judged in this test; 'requires' names claims that must be VALIDATED",
    "needs(*channels): channels as 'gpu.power_w' that the test needs; without them its claim is NOT_TESTED",
    "vram_budget(gib, *, instrument='gpu'): the test's peak of device memory, above what it began with, must not exceed the budget",
    "energy_budget(joules, *, instrument='gpu', net=False): the test's energy must not exceed the budget",
)

OPTIONS: tuple[tuple[str, dict[str, object]], ...] = (
    ("--physics", {"action": "store_true", "help": "measure: open the devices, write a run directory and a report"}),
    (
        "--physics-device",
        {"metavar": "DEVICE", "help": "auto (default), nvml[:INDEX], cpu, twin[:PRESET] or replay:PATH"},
    ),
    ("--physics-profile", {"metavar": "PROFILE", "help": "quick (default), standard or publish: durations and repetitions"}),
    ("--physics-runs", {"metavar": "DIR", "help": "directory that receives the run directories (default: runs)"}),
    ("--physics-config", {"metavar": "FILE", "help": "configuration file (default: physics.toml, or [tool.physics])"}),
)

INI_KEYS = (
    ("physics_device", "default of --physics-device"),
    ("physics_profile", "default of --physics-profile"),
    ("physics_runs", "default of --physics-runs"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """One switch, four options, three ini keys; everything else is in the configuration file."""
    group = parser.getgroup("physics", "energy, temperature and time: measurements that are valid, or say that they are not")
    for name, options in OPTIONS:
        group.addoption(name, **options)
    for name, text in INI_KEYS:
        parser.addini(name, text, default=None)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Offer our own hooks."""
    from pytest_physics import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register markers and fixtures; with ``--physics``, the active run."""
    from pytest_physics import fixtures

    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    config.pluginmanager.register(fixtures, "physics-fixtures")
    if config.getoption("physics"):
        from pytest_physics.active import ActiveRun

        config.pluginmanager.register(ActiveRun.from_config(config), "physics-active")
