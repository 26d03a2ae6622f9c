"""What does a router give up for the energy that it saves, and how far from the limit does it stay?

Energy and temperature are simulated; choices, gradients, training and losses are real. Each router is its own paired control at λ = 0, on
the same gates and data. Claims about the published experiment say what its own counts show.
"""

from __future__ import annotations

import pytest

from pytest_physics.experiments.routing_devices import run_routing_devices
from pytest_physics.experiments.routing_sweep import (
    PublishedUsage,
    RoutingSweep,
    record_published,
    run_routing_models,
    run_routing_sweep,
)
from pytest_physics.metrology.routing_published import SWEEP_USAGE

STEERED = (
    "penalised", "auxiliary loss", "loss-free bias", "bias to Gibbs", "expert choice", "Sinkhorn", "test-time training",
)  # fmt: skip
WITH_TARGET = ("auxiliary loss", "loss-free bias", "bias to Gibbs", "expert choice", "Sinkhorn")
"""Routers that aim at Gibbs loads; the others answer to the price alone, and keep the imbalance of their gate."""


def each(routers, statement):
    """One claim for each router, with its name in the statement."""
    return pytest.mark.parametrize("router", [pytest.param(r, marks=pytest.mark.claim(f"{r}: {statement}")) for r in routers])


@pytest.fixture(scope="module")
def sweep(rig) -> RoutingSweep:
    """All routers over λ and gates."""
    return run_routing_sweep(rig.session)


@pytest.fixture(scope="module")
def models(rig) -> RoutingSweep:
    """Small language models under several routers."""
    return run_routing_models(rig.session)


@pytest.fixture(scope="module")
def published(rig) -> PublishedUsage:
    """The published counts, recomputed, and the published router simulated anew."""
    return record_published(rig.session)


# --- the sweep ----------------------------------------------------------------------------------------------------------------


@pytest.mark.claim("No point of the sweep lies below the energy–diversity bound")
def test_no_point_lies_below_the_bound(sweep, judge):
    judge(sweep.lowest_gap() >= -1e-9)


@each(STEERED, "10 % energy saved, paired, cost at most 0.02 nats of diversity and 0.1 nats of score regret per token")
def test_ten_percent_cost_little(sweep, judge, router):
    judge(sweep.at_saving(router, 0.10, "diversity given up") <= 0.02)
    judge(sweep.at_saving(router, 0.10, "score regret") <= 0.1)


@each(WITH_TARGET, "at 10 % energy saved it stays within 0.001 nats of the energy–diversity bound")
def test_targets_keep_to_the_frontier(sweep, judge, router):
    judge(sweep.at_saving(router, 0.10, "distance to the frontier") <= 0.001)


@pytest.mark.claim("A bias steered to Gibbs loads stays within 0.001 nats of the frontier at λ = 0.2, 0.5 and 1 /J")
def test_bias_to_gibbs_reaches_the_frontier(sweep, judge):
    for per_joule in (0.2, 0.5, 1.0):
        judge(sweep.of("bias to Gibbs", per_joule, "distance to the frontier") <= 1e-3)


@pytest.mark.claim("At λ = 0.5 /J a price on energy saves at least a fifth of the uniform routing's energy")
def test_a_price_saves_energy(sweep, judge):
    judge(sweep.of("penalised", 0.5, "saving against uniform") >= 0.2)


@pytest.mark.claim("At λ = 0.5 /J a price on energy leaves the warmest expert at least 10 °C cooler than uniform routing does")
def test_a_price_keeps_experts_cool(sweep, judge):
    judge(sweep.of("uniform", 0.0, "warmest expert") - sweep.of("penalised", 0.5, "warmest expert") >= 10.0)


@each(STEERED, "half the batch changes the energy per slot by less than 4 %, at the same λ on the same gates")
def test_the_price_does_not_depend_on_the_batch(sweep, judge, router):
    judge(sweep.batch_size(router) <= 0.04)
    judge(sweep.batch_size(router) >= -0.04)


@pytest.mark.claim("Test-time training changes the gate's parameters, with a step below the limit of stability")
def test_training_trains(sweep, judge):
    judge(sweep.of("test-time training", 0.5, "change of parameters") > 0.01)
    judge(sweep.step() < 1.0)


@pytest.mark.claim("Test-time training takes less energy late than early")
def test_training_learns_to_save(sweep, judge):
    judge(sweep.of("test-time training", 0.5, "late minus early") < 0)


# --- a language model ---------------------------------------------------------------------------------------------------------


@each(
    ["penalised", "bias to Gibbs", "auxiliary loss", "test-time training"],
    "in a language model, λ = 1 /J saves energy for at most 0.1 nats of loss",
)
def test_a_language_model_saves_at_little_loss(models, judge, router):
    judge(models.of(router, 1.0, "saving") > 0)
    judge(models.of(router, 1.0, "change of loss") <= 0.1)


@pytest.mark.claim("No language model lies below the energy–diversity bound")
def test_no_model_lies_below_the_bound(models, judge):
    judge(models.lowest_gap() >= -1e-9)


# --- the published experiment: what its own counts show -----------------------------------------------------------------------


@pytest.mark.claim("The published run is reproduced from its usage: 2525 J, −31.51 % on its own baseline, imbalance 0.352")
def test_published_run_is_reproduced(published, judge):
    judge(published.of("energy") <= 2525)
    judge(published.of("energy") >= 2525)
    judge(published.of("saving on its own baseline") <= -0.3151)
    judge(published.of("saving on its own baseline") >= -0.3152)
    judge(published.of("thermal imbalance") <= 0.3525)
    judge(published.of("thermal imbalance") >= 0.3515)


@pytest.mark.claim("Published as energy-aware, the run takes more energy than uniform routing and prefers the hot experts")
def test_published_run_seeks_energy(published, judge):
    judge(published.of("saving against uniform") < 0)
    judge(published.of("cold share") < 0.75)
    judge(published.of("effective λ") < 0)


@pytest.mark.claim("The published baseline fails its null test: uniform routing, which adapts to nothing, scores −16.7 %")
def test_published_baseline_is_no_null(published, judge):
    judge(published.of("saving of uniform routing on its own baseline") <= -0.16)


@pytest.mark.claim("Published as adaptation that grows with λ, the sweep's energy rises with λ, towards 1.25 J per slot")
def test_published_sweep_rises_with_lambda(published, judge):
    control = published.of("energy per slot", study="sweep", per_joule=0.0)
    for per_joule in list(SWEEP_USAGE)[1:]:
        judge(published.of("energy per slot", study="sweep", per_joule=per_joule) > control)
    judge(published.of("energy per slot", study="sweep", per_joule=1.0) <= 1.26)
    judge(published.of("energy per slot", study="sweep", per_joule=1.0) >= 1.23)


@pytest.mark.claim("The published hot share lies within two standard deviations of the published router simulated anew")
def test_published_run_lies_in_its_spread(published, judge):
    judge(published.spread() <= 2)
    judge(published.spread() >= -2)


@pytest.mark.claim("The published router, on our gates and field, takes more energy at λ = 0.5 than at 0, and more with larger batches")
def test_published_router_seeks_energy(sweep, judge):
    judge(sweep.of("published", 0.5, "change of energy") > 0)
    judge(sweep.batch_size("published") < 0)


@pytest.mark.claim("Published as trained at test time, the router changes no parameter")
def test_published_router_trains_nothing(sweep, judge):
    judge(sweep.of("published", 0.5, "change of parameters") <= 0)


# --- several devices: energies and temperatures from instruments --------------------------------------------------------------


@pytest.mark.claim("Between devices whose slots cost differently, a price of 1 /J on measured energy saves energy")
def test_routing_between_devices_saves_energy(rig, judge):
    judge(run_routing_devices(rig.session).saving > 0)
