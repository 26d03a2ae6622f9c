"""What the modes of a card mean for a measurement, and what to do: for whoever looks at a machine for the first time.

From the lines of the fingerprint alone; a mode that the driver does not tell gives no advice.

Reference: NVML API reference, enumerations of persistence and compute modes; the driver's "Driver Persistence" document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def advice(details: Mapping[str, str]) -> Iterator[str]:
    """A sentence or two for each mode that harms measurements; nothing for a card in good order."""
    if details.get("persistence_mode") == "off":
        yield (
            "persistence mode is off: whenever nobody uses the card its driver unloads, the energy counter begins again, and the next "
            "start takes seconds. Switch it on: 'nvidia-smi -pm 1', as administrator."
        )
    if details.get("compute_mode") == "prohibited":
        yield "compute mode is 'prohibited': no load can run on this card. Set it to default: 'nvidia-smi -c 0', as administrator."
    if details.get("compute_mode", "").startswith("exclusive"):
        yield (
            f"compute mode is '{details['compute_mode']}': one process at a time can use the card. Memory probes run in a process of their "
            "own and find it busy once this run's has used it. Set it to default: 'nvidia-smi -c 0', as administrator."
        )
    enforced, default = details.get("power_limit_enforced", ""), details.get("power_limit_default", "")
    if enforced.endswith(" W") and default.endswith(" W") and enforced != default:
        yield f"the power limit is {enforced}, the card's default is {default}: loads are capped there, and energies belong to that limit."
