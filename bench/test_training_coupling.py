"""Does what the optimiser does show in what the device does?"""

from __future__ import annotations

import pytest

from pytest_physics.experiments.coupling import PLANTED_LAG, Replicates, TrainingCoupling, run_replicates, run_simulated_training
from pytest_physics.metrology.coupling import STRONG
from pytest_physics.workloads.select import torch_name
from pytest_physics.workloads.training import TrainingSetting

PAIR = ("grad_norm", "power_w")


def simulated(rig, planted_r) -> TrainingCoupling:
    """A training on the twin with a coupling of known size, or with none."""
    if not rig.gpu.simulated:
        pytest.skip("a coupling can be planted in a simulated card only")
    return run_simulated_training(rig.gpu, rig.session, planted_r=planted_r, seed=rig.settings.seed)


@pytest.fixture(scope="module")
def planted(rig):
    """The load follows the gradient norm."""
    return simulated(rig, rig.settings.training.planted_r)


@pytest.fixture(scope="module")
def unplanted(rig):
    """The load follows nothing."""
    return simulated(rig, 0.0)


@pytest.fixture(scope="module", params=["gpu", "cpu"])
def replicates(rig, request) -> Replicates:
    """One seeded training of a small language model, repeated on real hardware."""
    instrument = rig[request.param]
    if instrument.simulated:
        pytest.skip("a twin has no optimiser: its trainings are the planted ones")
    settings = rig.settings.training
    setting = TrainingSetting(shape=settings.shape, steps=settings.steps, seed=rig.settings.seed, device=torch_device(instrument))
    return run_replicates(instrument, rig.session, setting)


def torch_device(instrument) -> str:
    """Where a training runs so that the instrument sees it."""
    return "cpu" if instrument.device.spec.kind == "cpu" else torch_name(instrument.device)


@pytest.mark.claim("A planted coupling of gradient norm and power is found in a steady zone as long as the guide says")
def test_planted_coupling_is_found(planted, judge):
    judge(planted.word(*PAIR) >= 1.0)


@pytest.mark.claim("The planted lag is found within one step, with its sign")
def test_planted_lag_is_found(planted, judge):
    judge(planted.lag(*PAIR) <= PLANTED_LAG + 1.0)
    judge(planted.lag(*PAIR) >= PLANTED_LAG - 1.0)


@pytest.mark.claim("Where nothing was planted, no coupling is claimed")
def test_nothing_is_found_where_nothing_is(unplanted, judge):
    judge(unplanted.word(*PAIR) <= 0.0)


@pytest.mark.claim("A seeded training is the same to the last bit each time")
def test_replicates_are_identical(replicates, judge):
    judge(replicates.identical >= float(len(replicates.tables)))


@pytest.mark.claim("The gradient norm of a real training is not strongly coupled with the device's telemetry")
def test_gradient_norm_does_not_drive_the_device(replicates, judge):
    r = replicates.first.r("grad_norm", replicates.first.first_telemetry)
    judge(r <= STRONG)
    judge(r >= -STRONG)
