"""The simulated sweep: points are independent, paired, and reach the frontier where they aim at it."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_physics.errors import ConfigurationError
from pytest_physics.metrology import routing
from pytest_physics.metrology.routing_published import RUN, simulate_published
from pytest_physics.metrology.thermal_field import FIELDS, FieldOfPoints
from pytest_physics.workloads.moe import ROUTERS
from pytest_physics.workloads.routing_simulation import GateStream, Point, Setting, priced_slots, simulate, stable_steps

pytest.importorskip("torch")
SMALL = Setting(sequences=2, tokens=32, features=16, batches=8, block=2)


def swept(points, setting=SMALL, field="published-warming"):
    """Columns of a sweep."""
    return simulate(points, setting, lambda count: FieldOfPoints(FIELDS[field], count))


def rows_of(columns, point):
    """Columns of one point."""
    mask = (columns["router"] == point.router) & (columns["per_joule"] == point.per_joule) & (columns["gate"] == point.gate)
    return {name: values[mask] for name, values in columns.items() if name != "order"}


def slots_of(columns):
    """Slots by block and expert."""
    return np.stack([columns[f"slots_{e}"] for e in range(8)], axis=-1)


def test_a_point_alone_is_the_point_in_company():
    """Gate and data follow from the gate's seed alone: one job of an array gives what the whole sweep gives."""
    points = [Point(router=r.name, per_joule=x, gate=g) for r in ROUTERS for x in ((0.0, 0.5) if r.steered else (0.0,)) for g in (0, 3)]
    whole = swept(points)
    for point in points:
        alone, company = rows_of(swept([point]), point), rows_of(whole, point)
        for name, values in alone.items():
            assert values.tolist() == pytest.approx(company[name].tolist(), rel=1e-6, abs=1e-9) if name != "router" else True


@pytest.mark.parametrize("name", ["penalised", "test-time training", "published"])
def test_without_a_price_nothing_is_controlled(name):
    """λ = 0 of these routers is plain top-k, slot for slot: the paired control."""
    plain, priced = (
        rows_of(swept([p]), p) for p in (Point(router="no control", per_joule=0, gate=1), Point(router=name, per_joule=0, gate=1))
    )
    assert (slots_of(plain) == slots_of(priced)).all()


@pytest.mark.parametrize("per_joule", [0.2, 0.5, 1.0])
def test_bias_to_gibbs_reaches_the_frontier(per_joule):
    """Within 0.001 nats, at the study's size, where temperature does nothing; and at the frontier's own energy within 1 %."""
    setting = Setting(features=64, batches=60, block=5)
    slots = slots_of(swept([Point(router="bias to Gibbs", per_joule=per_joule, gate=g) for g in range(3)], setting, "published"))
    costs = FIELDS["published"].energy_j
    for usage in slots.reshape(3, 12, 8)[:, 6:].sum(axis=1):
        assert 0 <= routing.frontier_gap(usage, costs) < 1e-3
        assert routing.energy_per_slot(usage, costs) == pytest.approx(routing.frontier(costs, per_joule).energy_j, rel=0.01)


def test_the_published_router_agrees_with_its_other_form():
    """Torch with the original inputs against numpy with their law: hot shares of 24 gates each agree within 4 standard errors."""
    setting = Setting(sequences=4, tokens=32, features=256, batches=10, block=1)
    columns = swept([Point(router="published", per_joule=0.1, gate=g) for g in range(24)], setting, "published")
    usage = slots_of(columns).reshape(24, 10, 8).sum(axis=1)
    ours = usage[:, 6:].sum(axis=1) / usage.sum(axis=1)
    theirs = np.array([simulate_published(RUN, seed).hot_share for seed in range(24)])
    assert abs(ours.mean() - theirs.mean()) < 4 * np.hypot(ours.std(), theirs.std()) / np.sqrt(24)
    assert ours.mean() == pytest.approx(0.302, abs=0.024)


def test_temperature_acts():
    """A warm expert costs more, and what it costs is what the router is told."""
    rows = rows_of(swept([Point(router="uniform", per_joule=0, gate=0)]), Point(router="uniform", per_joule=0, gate=0))
    assert rows["temperature_c_6"][-1] > rows["temperature_c_6"][0] + 1
    assert rows["told_j_6"][-1] > rows["told_j_6"][0]
    paid = rows["energy_j_6"] / rows["slots_6"]
    assert paid == pytest.approx(rows["told_j_6"], rel=0.02)


def test_training_moves_the_gate_and_the_others_do_not():
    """The change of parameters is measured for every router."""
    for name, moved in (("test-time training", True), ("auxiliary loss", True), ("penalised", False), ("published", False)):
        point = Point(router=name, per_joule=0.5, gate=0)
        assert bool(rows_of(swept([point]), point)["parameter_change"][-1] > 0) is moved


def test_a_step_beyond_the_limit_diverges():
    """Test-time training: just below the stable step the objective falls in every step, at a hundred times it does not."""
    import torch

    from pytest_physics.workloads.moe import TestTimeTraining

    stream = GateStream(SMALL, 0)
    x = stream.next_batch()
    limit, router = float(stable_steps(SMALL, [0])[0]), TestTimeTraining(k=2, per_joule=1.0)
    costs = torch.tensor(FIELDS["published"].energy_j, dtype=torch.float32)

    def falls(step):
        weight, bias, losses = stream.weight.clone(), stream.bias.clone(), []
        reference = x @ stream.weight.T + stream.bias
        for _ in range(30):
            weight.requires_grad_()
            bias.requires_grad_()
            loss = router.loss(x @ weight.T + bias, None, costs, reference)
            gradients = torch.autograd.grad(loss, (weight, bias))
            weight, bias = ((p - step * g).detach() for p, g in zip((weight, bias), gradients, strict=True))
            losses.append(float(loss.detach()))
        return bool(np.all(np.diff(losses) < 1e-7))

    assert falls(0.9 * limit)
    assert not falls(100 * limit)


def test_slots_follow_the_price_on_measured_energy():
    """The device form: a dearer half of the experts gets fewer slots, all of them counted."""
    costs = [0.5] * 4 + [1.0] * 4
    free, priced = (priced_slots(SMALL, gate=2, batch=1, per_joule=x, energies_j=costs) for x in (0.0, 2.0))
    assert sum(free) == sum(priced) == 128
    assert sum(priced[4:]) < sum(free[4:])


def test_points_are_written_and_read():
    """``router@λ#gate``, there and back."""
    point = Point(router="bias to Gibbs", per_joule=0.25, gate=11)
    assert Point.parse(str(point)) == point


@pytest.mark.parametrize("text", ["bias to Gibbs", "bias to Gibbs@0.5", "bias to Gibbs@x#1", "@#", "nobody@0.5#1"])
def test_a_point_that_cannot_be_read_is_refused(text):
    """With the form, or with the routers there are."""
    with pytest.raises(ConfigurationError, match=r"written as|choose one of"):
        Point.parse(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: swept([]), "needs points"),
        (lambda: swept([Point(router="uniform", per_joule=0, gate=0)] * 2), "each once"),
        (lambda: Setting(batches=10, block=3), "multiple of 'block'"),
        (lambda: Setting(k=9), "k = 9 distinct experts"),
    ],
)
def test_an_impossible_sweep_is_refused(make, message):
    """Before anything runs."""
    with pytest.raises(ConfigurationError, match=message):
        make()
