"""Runs of the instrument-response experiment on twins, made once and read by several tests."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.experiments.sensor_characterisation import SensorCharacterisation, characterise_sensor
from pytest_physics.session import Plan, Session
from pytest_physics.workloads.select import steady_load_for


@dataclass(frozen=True)
class Characterised:
    """A finished run, what it found, and its records."""

    path: Path
    found: SensorCharacterisation
    results: list
    model: object

    def gates(self, name):
        """Failed gates of an estimate that refuse, by name."""
        return {gate.name: gate for gate in self.found.estimates[name].gates if gate.refuses}


class SilentLoad:
    """A load that passes the time and does nothing."""

    def __init__(self, device):
        self.device = device

    def warm_up(self):
        """Nothing to warm."""

    def run_for(self, duration_s):
        """Only time passes."""
        self.device.clock.advance_to_ns(self.device.clock.now_ns() + round(duration_s * 1e9))


class SwitchedOnly:
    """A load without shares, like a matrix product: levels must be switched."""

    def __init__(self, device):
        self.kernel = steady_load_for(device)

    def warm_up(self):
        """As the kernel."""
        self.kernel.warm_up()

    def run_for(self, duration_s):
        """As the kernel."""
        self.kernel.run_for(duration_s)


@pytest.fixture(scope="session")
def characterise(tmp_path_factory):
    """``characterise(preset, faults=…, overrides=…, load=…, settings=…)``: one run each, remembered."""

    @functools.cache
    def run(preset, faults, overrides, load, sensor, seed):  # noqa: PLR0917 -- the key of the cache
        directory = tmp_path_factory.mktemp("characterised")
        settings = load_settings(directory, overrides={"sensor": dict(sensor), "seed": seed})
        parameters = {"preset": preset, "seed": seed, "faults": [dict(f) for f in faults], "overrides": dict(overrides)}
        with Session.start(settings, Plan.using({"gpu": DeviceSpec(kind="twin", parameters=parameters)}), directory=directory) as session:
            gpu = session.rig.gpu
            found = characterise_sensor(gpu, session, load(gpu.device))
            results, model = list(session.results), gpu.sensor
        return Characterised(session.path, found, results, model)

    def call(preset="rtx4080-laptop", *, faults=(), overrides=None, load=steady_load_for, sensor=None, seed=3):
        frozen = tuple(tuple(sorted(fault.items())) for fault in faults)
        return run(preset, frozen, tuple((overrides or {}).items()), load, tuple((sensor or {}).items()), seed)

    return call


@pytest.fixture
def silent_load():
    """The load that never ran."""
    return SilentLoad


@pytest.fixture
def switched_only():
    """The load without shares."""
    return SwitchedOnly
