"""Shared by the experiments: nothing but what several files need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_physics.experiments.joule_curve import JouleCurve, run_joule_curve
from pytest_physics.session import Rig
from pytest_physics.workloads.base import Workload
from pytest_physics.workloads.select import language_model_for


@pytest.fixture(scope="module")
def gpu_model(rig: Rig) -> Iterator[Workload]:
    """The language model on the GPU, built before the heat soak: building it would let the card cool. It gives its memory back."""
    model = language_model_for(rig.gpu.device, rig.settings.experiment.model)
    yield model
    model.close()


@pytest.fixture(scope="module")
def joule_curve(rig: Rig, gpu_model: Workload, idle_baseline, heat_soaked) -> JouleCurve:
    """Energy per token against batch size on the heat-soaked GPU."""
    return run_joule_curve(rig.gpu, rig.session, gpu_model)


@pytest.fixture(scope="module")
def latency_curve(rig: Rig) -> JouleCurve:
    """Time per token against batch size on the CPU; energy too, where the CPU has a counter for it."""
    model = language_model_for(rig.cpu.device, rig.settings.experiment.model)
    return run_joule_curve(rig.cpu, rig.session, model)
