"""Routing between devices: energies from instruments, two twins standing for two cards."""

from __future__ import annotations

import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.experiments.routing_devices import expert_devices, run_routing_devices
from pytest_physics.record.verify import verify_run
from pytest_physics.session import Plan, Session

pytest.importorskip("torch")


def twin(preset, seed):
    """A twin to route to."""
    return DeviceSpec(kind="twin", parameters={"preset": preset, "seed": seed})


@pytest.fixture(scope="module")
def routed(tmp_path_factory):
    """A laptop card and an A100: a slot costs less on the first."""
    directory = tmp_path_factory.mktemp("devices")
    plan = Plan.using({"first": twin("rtx4080-laptop", 1), "second": twin("a100", 2)})
    with Session.start(load_settings(directory), plan, directory=directory) as session:
        found = run_routing_devices(session)
        truths = {"saving": session.truth(found.saving.recipe), **{n: session.truth(found.cost(n).recipe) for n in found.costs}}
        numbers = {"saving": found.saving, **{n: found.cost(n) for n in found.costs}}
    return session, found, numbers, truths


def test_energies_come_from_instruments_and_hold_the_truth(routed):
    """Costs of both devices and the saving, each within its interval of what the twins know."""
    _, _, numbers, truths = routed
    for name, estimate in numbers.items():
        low, high = estimate.interval
        assert low <= truths[name] <= high
    assert numbers["first"].value < numbers["second"].value


def test_the_price_moves_slots_to_the_cheaper_device(routed):
    """Same tokens, no slot lost, energy saved."""
    session, found, numbers, _ = routed
    assert all(sum(batch) == 1024 for batches in found.shares.values() for batch in batches)
    assert all(priced[0] > free[0] for free, priced in zip(found.shares[0.0], found.shares[1.0], strict=True))
    assert numbers["saving"].interval[0] > 0
    assert session.tables["routing-devices-1"]["temperature_c"].min() > 20


def test_the_run_verifies(routed):
    """Every number follows from both traces."""
    assert verify_run(routed[0].path).findings == ()


def test_one_device_is_not_enough(tmp_path):
    """The reason is what NOT_TESTED prints."""
    with (
        Session.start(load_settings(tmp_path), Plan.using({"gpu": twin("a100", 1)}), directory=tmp_path) as session,
        pytest.raises(ChannelUnavailableError, match=r"at least 2 instruments .* \(this rig has 'gpu'\)"),
    ):
        run_routing_devices(session)


def test_experts_are_shared_out_in_equal_parts():
    """The first experts on the first device."""
    assert expert_devices(8, 2) == [0] * 4 + [1] * 4
    assert expert_devices(8, 3) == [0, 0, 0, 1, 1, 1, 2, 2]
