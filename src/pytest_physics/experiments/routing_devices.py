"""Routing on several real devices: energies and temperatures come from instruments, not from a model of them.

Protocol: the experts are shared out among the devices in equal parts. An idle baseline of each; one window on each device with equal
slots, which tells the router what a slot costs there; then batches with λ = 0 and with λ, turn about (ABBA), on the same tokens: the router
is told what the last windows measured, every device runs the slots that its experts got, each inside a window of its instrument. A slot is
``SLOT_S`` seconds of the device's constant load. Energies are net of idle power, by the instrument's own estimator with its budget.

Needs at least two instruments with power or an energy counter; with fewer it raises ``ChannelUnavailableError``, so the claim is
NOT_TESTED. Two twins are two devices: their numbers are simulated, and say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.instrument import Instrument, Window
from pytest_physics.metrology.uncertainty import Estimate, mean
from pytest_physics.session import Session
from pytest_physics.workloads.base import Kernel
from pytest_physics.workloads.routing_simulation import Setting, priced_slots
from pytest_physics.workloads.select import expert_load_for

EXPERIMENT = "routing on devices"
SLOT_S = 0.005
"""Time of one slot on any device."""
SETTING = Setting(sequences=8, tokens=64, features=64, batches=1, block=1)
"""Tokens of one batch: 1024 slots, some seconds on each device."""
MIN_DEVICES = 2


@dataclass(slots=True, kw_only=True)
class DeviceRouting:
    """What the batches took."""

    session: Session
    per_joule: float
    """λ of the priced arm, in 1/J per slot."""
    batches: dict[float, list[Estimate]] = field(default_factory=dict)
    """λ to the net energy of each of its batches, all devices together."""
    costs: dict[str, list[Estimate]] = field(default_factory=dict)
    """Device to its net energy per slot, window after window."""
    shares: dict[float, list[list[int]]] = field(default_factory=dict)
    """λ to the slots of each device, batch after batch."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """What is tabulated: a row for each batch and device."""

    @property
    def saving(self) -> Estimate:
        """Share of the energy that λ saves against λ = 0, same tokens, same devices."""
        return 1 - mean(self.batches[self.per_joule]) / mean(self.batches[0.0])

    def cost(self, device: str) -> Estimate:
        """Net energy per slot on one device: mean of its windows."""
        return mean(self.costs[device])


def metered_devices(instruments: Mapping[str, Instrument]) -> list[Instrument]:
    """Instruments that can tell energy and temperature; raises ``ChannelUnavailableError`` for fewer than two."""
    found = [i for i in instruments.values() if i.metered and i.has("temperature_c")]
    if len(found) < MIN_DEVICES:
        have = ", ".join(f"'{i.name}'" for i in found) or "none"
        raise ChannelUnavailableError(
            f"routing between devices needs at least {MIN_DEVICES} instruments with power and temperature (this rig has {have}); run it "
            "where several devices exist, or give several twins."
        )
    return found


def run_routing_devices(session: Session, *, per_joule: float = 1.0, blocks: int = 6, gate: int = 0) -> DeviceRouting:
    """Route batches between the session's devices with λ = 0 and λ, ``blocks`` of each, and record them."""
    devices = metered_devices(
        {name: session.instruments[name] for name in session.plan.instruments}
    )  # not what other tests added as controls
    loads = {device.name: expert_load_for(device.device) for device in devices}
    routing = DeviceRouting(session=session, per_joule=per_joule, batches={0.0: [], per_joule: []}, shares={0.0: [], per_joule: []})
    for device in devices:
        loads[device.name].warm_up()
        device.baseline()
    slots = SETTING.tokens_per_batch * SETTING.k // len(devices)
    told = [_window(device, loads[device.name], slots, {"arm": "calibration"}, routing)[1] for device in devices]
    for block in range(blocks):
        for arm in (0.0, per_joule) if block % 2 == 0 else (per_joule, 0.0):
            told = _batch(devices, loads, routing, arm=arm, told=told, gate=gate, block=block)
    for device in devices:
        device.baseline()
    _record(routing, devices)
    return routing


def expert_devices(experts: int, devices: int) -> list[int]:
    """Device of each expert: equal parts, the first experts on the first device."""
    return [expert * devices // experts for expert in range(experts)]


def _batch(
    devices: Sequence[Instrument], loads: Mapping[str, Kernel], routing: DeviceRouting, *, arm: float, told: Sequence[Estimate], gate: int,
    block: int,
) -> list[Estimate]:  # fmt: skip
    """Route and run one batch; returns what a slot cost on each device, as the next batch is told."""
    homes = expert_devices(SETTING.experts, len(devices))
    per_expert = [max(0.0, told[home].value) for home in homes]
    used = priced_slots(SETTING, gate=gate, batch=block, per_joule=arm, energies_j=per_expert)
    counts = [int(sum(n for n, home in zip(used, homes, strict=True) if home == index)) for index in range(len(devices))]
    energies, costs = [], []
    for index, (device, slots) in enumerate(zip(devices, counts, strict=True)):
        if slots == 0:
            costs.append(told[index])
            continue
        labels = {"arm": f"λ = {arm:g} /J", "block": block}
        net, cost = _window(device, loads[device.name], slots, labels, routing)
        energies.append(net)
        costs.append(cost)
        routing.rows.append(
            {
                "per_joule": arm,
                "block": block,
                "device": device.name,
                "slots": slots,
                "told_j": told[index].value,
                "temperature_c": _now_c(device),
            }
        )
    total = energies[0]
    for energy in energies[1:]:
        total = total + energy
    routing.batches[arm].append(total)
    routing.shares[arm].append(counts)
    return costs


def _window(device: Instrument, load: Kernel, slots: int, labels: Mapping[str, Any], routing: DeviceRouting) -> tuple[Estimate, Estimate]:
    """Run ``slots`` slots; net energy, and net energy per slot."""
    with device.window("slots", labels=dict(labels), slots=slots) as window:
        load.run_for(slots * SLOT_S)
    device.sleep(device.tail_ns / NS_PER_S)
    net = _net(device, window)
    cost = net / Estimate.exact(float(slots), "slot")
    routing.costs.setdefault(device.name, []).append(cost)
    return net, cost


def _net(device: Instrument, window: Window) -> Estimate:
    return device.energy(window, baselines=tuple(device.baselines[:1])).net


def _now_c(device: Instrument) -> float:
    """The thermometer's last valid reading, in °C."""
    values = device.trace.values("temperature_c")
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else float("nan")


def _record(routing: DeviceRouting, devices: Sequence[Instrument]) -> None:
    session = routing.session
    session.tabulate("routing-devices", {name: [row[name] for row in routing.rows] for name in routing.rows[0]})
    for device in devices:
        session.result(EXPERIMENT, "energy per slot (net)", routing.cost(device.name), instrument=device.name)
    for arm, energies in routing.batches.items():
        session.result(EXPERIMENT, "energy of a batch (net)", mean(energies), lambda_per_j=arm)
    session.result(EXPERIMENT, "saving", routing.saving, lambda_per_j=routing.per_joule)
