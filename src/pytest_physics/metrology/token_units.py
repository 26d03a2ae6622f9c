"""Units that people use for the energy of tokens, from joules per token: estimates in, estimates out.

Everything is exact arithmetic on the estimate, so the budget and the recipe come along. Prices and intensities are inputs of their own,
stated with source and date; nothing here has a default for them. Fails with ``UnitError`` where an input is in another unit.

>>> str(tokens_per_kwh(Estimate.exact(0.5, "J/token")))
'7.2e+06 token/kWh'
"""

from __future__ import annotations

from pytest_physics.metrology.uncertainty import Estimate
from pytest_physics.units import Unit

JOULES_PER_KWH = 3.6e6
PER_TOKEN = Unit.parse("J/token")


def tokens_per_joule(per_token: Estimate) -> Estimate:
    """Tokens for one joule, in token/J."""
    PER_TOKEN.require_same(Unit.parse(per_token.unit), "invert")
    return 1.0 / per_token


def tokens_per_kwh(per_token: Estimate) -> Estimate:
    """Tokens for one kilowatt hour, in token/kWh."""
    return tokens_per_joule(per_token) * Estimate.exact(JOULES_PER_KWH, "J/kWh")


def per_request(prefill: Estimate, decode: Estimate, *, prompt_tokens: int, new_tokens: int) -> Estimate:
    """Energy of one request of ``prompt_tokens`` in and ``new_tokens`` out, in J/request, from the two phases' energies per token."""
    return prefill * Estimate.exact(prompt_tokens, "token/request") + decode * Estimate.exact(new_tokens, "token/request")


def wh_per_thousand_requests(request: Estimate) -> Estimate:
    """Watt hours of a thousand requests, in Wh/krequest, from J/request."""
    return request * Estimate.exact(1000 / 3600, "Wh·request/J/krequest")


def kwh_per_million_tokens(per_token: Estimate) -> Estimate:
    """Kilowatt hours of a million tokens, in kWh/Mtoken."""
    PER_TOKEN.require_same(Unit.parse(per_token.unit), "convert")
    return per_token * Estimate.exact(1e6 / JOULES_PER_KWH, "kWh·token/J/Mtoken")


def cost_per_million_tokens(per_token: Estimate, price: Estimate) -> Estimate:
    """Electricity of a million tokens, in the price's currency per Mtoken; ``price`` is per kWh."""
    return kwh_per_million_tokens(per_token) * price


def carbon_per_million_tokens(per_token: Estimate, intensity: Estimate) -> Estimate:
    """Carbon dioxide equivalent of a million tokens, in gCO2e/Mtoken; ``intensity`` is in gCO2e/kWh."""
    return kwh_per_million_tokens(per_token) * intensity
