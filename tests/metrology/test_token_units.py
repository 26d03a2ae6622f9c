"""Units of people: known answers, and that budgets come along."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.errors import UnitError
from pytest_physics.metrology import token_units as units
from pytest_physics.metrology.uncertainty import Estimate


def test_known_answers():
    """0.5 J/token is 2 token/J and 7.2 million token/kWh; TR123's prices of $0.20/kWh and 500 g/kWh on it."""
    energy = Estimate.exact(0.5, "J/token")
    shown = {
        "token/J": units.tokens_per_joule(energy), "token/kWh": units.tokens_per_kwh(energy),
        "kWh/Mtoken": units.kwh_per_million_tokens(energy),
        "USD/Mtoken": units.cost_per_million_tokens(energy, Estimate.exact(0.20, "USD/kWh")),
        "gCO2e/Mtoken": units.carbon_per_million_tokens(energy, Estimate.exact(500.0, "gCO2e/kWh")),
    }  # fmt: skip
    assert {unit: round(found.value, 9) for unit, found in shown.items()} == {
        "token/J": 2.0, "token/kWh": 7.2e6, "kWh/Mtoken": round(1 / 7.2, 9), "USD/Mtoken": round(0.2 / 7.2, 9),
        "gCO2e/Mtoken": round(500 / 7.2, 9),
    }  # fmt: skip
    assert all(found.unit == unit for unit, found in shown.items())


def test_a_request_is_its_prompt_and_its_new_tokens():
    """100 tokens of 0.01 J and 50 of 0.2 J are 11 J, and a thousand of them 3.06 Wh."""
    request = units.per_request(Estimate.exact(0.01, "J/token"), Estimate.exact(0.2, "J/token"), prompt_tokens=100, new_tokens=50)
    thousand = units.wh_per_thousand_requests(request)
    assert (request.value, request.unit) == (pytest.approx(11.0), "J/request")
    assert (thousand.value, thousand.unit) == (pytest.approx(11000 / 3600), "Wh/krequest")


@given(st.floats(1e-6, 1e3), st.floats(1e-4, 0.04))
def test_the_relative_uncertainty_comes_along(value, relative):
    """In whatever unit; the price is exact."""
    energy = Estimate.given(value, "J/token", u=relative * value)
    for found in (units.tokens_per_kwh(energy), units.cost_per_million_tokens(energy, Estimate.exact(0.3, "EUR/kWh"))):
        assert found.u / found.value == pytest.approx(relative, rel=1e-9)


def test_joules_are_not_joules_per_token():
    """A total cannot be read as a cost per token."""
    with pytest.raises(UnitError, match="cannot convert"):
        units.kwh_per_million_tokens(Estimate.exact(1.0, "J"))
