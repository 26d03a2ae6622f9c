"""Routed language models: they learn their text, are paired, and never beat its entropy."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_physics.errors import ConfigurationError
from pytest_physics.metrology.thermal_field import FIELDS, FieldOfPoints
from pytest_physics.workloads.moe_training import MarkovText, ModelSetting, train_models
from pytest_physics.workloads.routing_simulation import Point

pytest.importorskip("torch")


def trained(points, **options):
    """Columns of the models of some points."""
    return train_models(points, ModelSetting(**options), lambda count: FieldOfPoints(FIELDS["published-warming"], count))


def loss_of(columns, router, per_joule):
    """Mean validation loss of one model."""
    return columns["loss"][(columns["router"] == router) & (columns["per_joule"] == per_joule)].mean()


def test_the_text_has_the_entropy_that_it_says():
    """Log-likelihood of many tokens under the true chain, against the stated rate."""
    text = MarkovText(ModelSetting(sequences=400, length=64), seed=1)
    tokens = next(text.batches(np.random.default_rng(0))).numpy()
    chain = tokens[:, 0]
    likely = [text.chains[chain, tokens[:, t], tokens[:, t + 1]] for t in range(20, 64)]
    assert -np.log(likely).mean() == pytest.approx(text.entropy_rate_nats, abs=0.03)


def test_training_lowers_the_loss_towards_the_entropy():
    """60 steps take a quarter of a nat off, and stay above what no model can undercut."""
    point = Point(router="bias to Gibbs", per_joule=0.5, gate=0)
    early, late = (trained([point], steps=steps)["loss"].mean() for steps in (1, 60))
    assert late < early - 0.25
    assert late > MarkovText(ModelSetting(), 0).entropy_rate_nats


def test_training_while_serving_starts_from_the_model_without_control():
    """At λ = 0 it is that model, slot for slot; at λ = 1 its gate moves and the energy falls."""
    points = [
        Point(router=r, per_joule=x, gate=0) for r, x in (("penalised", 0.0), ("test-time training", 0.0), ("test-time training", 1.0))
    ]
    columns = trained(points, steps=10)
    assert loss_of(columns, "penalised", 0.0) == loss_of(columns, "test-time training", 0.0)
    moved = columns["parameter_change"][(columns["per_joule"] == 1.0)]
    assert moved[-1] > 0
    hot = [sum(columns[f"slots_{e}"][columns["per_joule"] == x][-3:].sum() for e in (6, 7)) for x in (0.0, 1.0)]
    assert hot[1] < hot[0] / 2


def test_a_router_that_sees_the_future_trains_no_language_model():
    """Expert choice looks at later tokens."""
    with pytest.raises(ConfigurationError, match="no language model is trained with"):
        trained([Point(router="expert choice", per_joule=0.0, gate=0)])
