"""Recipe of a stated price: what a kilowatt hour costs, in money or in carbon, from the run's own settings.

Exact as a number and ``assumed`` as to its provenance: the run did not measure it. Fails with ``ChannelUnavailableError`` where the
settings do not state it, with what to add: no price is ever assumed in silence, and a claim that needs one is NOT_TESTED.
"""

from __future__ import annotations

from dataclasses import replace

from pytest_physics.config import PriceSettings
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.metrology.quality import Provenance
from pytest_physics.metrology.uncertainty import Estimate
from pytest_physics.record.data import RunData
from pytest_physics.record.registry import Parameters, leaf

TO_ADD = {
    "electricity": (
        "no price of electricity is stated: add [tool.physics.prices.electricity] to pyproject.toml (or [prices.electricity] to "
        "physics.toml) with per_kwh, currency, source and date"
    ),
    "carbon": (
        "no carbon intensity is stated: add [tool.physics.prices.carbon] to pyproject.toml (or [prices.carbon] to physics.toml) with "
        "g_per_kwh, source and date"
    ),
}
"""What is missing, by kind of price, and what to do."""


def price(kind: str, prices: PriceSettings) -> Estimate:
    """Price of a kilowatt hour: ``electricity`` in its currency, ``carbon`` in gCO2e."""
    stated = _value_and_unit(kind, prices)
    if stated is None:
        raise ChannelUnavailableError(TO_ADD[kind], channel=f"prices.{kind}")
    return replace(Estimate.exact(*stated), provenance=Provenance.ASSUMED, estimator="stated")


def source_of(kind: str, prices: PriceSettings) -> str:
    """Number, source and date of a stated price, as a sentence's part; empty where none is stated."""
    stated, origin = _value_and_unit(kind, prices), prices.electricity if kind == "electricity" else prices.carbon
    return f"{stated[0]:g} {stated[1]} ({origin.source}, {origin.date})" if stated and origin else ""


def _value_and_unit(kind: str, prices: PriceSettings) -> tuple[float, str] | None:
    electricity, carbon = prices.electricity, prices.carbon
    if kind == "electricity":
        return (electricity.per_kwh, f"{electricity.currency}/kWh") if electricity else None
    return (carbon.g_per_kwh, "gCO2e/kWh") if carbon else None


def _stated(parameters: Parameters, data: RunData) -> Estimate:
    return price(str(parameters["kind"]), data.settings.prices)


@leaf("price", truth=_stated)
def stated_price(parameters: Parameters, data: RunData) -> Estimate:
    """Price of a kilowatt hour, as the settings state it."""
    return _stated(parameters, data)
