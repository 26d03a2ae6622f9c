"""Units as products of symbols."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.errors import UnitError
from pytest_physics.units import Unit, quantity_text

SYMBOLS = ["J", "s", "token", "byte", "°C", "K", "iteration"]
units = st.dictionaries(st.sampled_from(SYMBOLS), st.integers(-3, 3), max_size=4).map(
    lambda powers: Unit(tuple(sorted((symbol, n) for symbol, n in powers.items() if n)))
)


@given(units)
def test_text_is_read_back(unit):
    """``parse`` undoes ``str`` for every unit."""
    assert Unit.parse(str(unit)) == unit


@given(units, units)
def test_multiplying_and_dividing_undo_each_other(a, b):
    """(a·b)/b is a, a·b is b·a, and a/a is dimensionless."""
    assert (a * b) / b == a
    assert a * b == b * a
    assert str(a / a) == "1"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("W", "W"), ("J/s", "W"), ("W·s", "J"), ("J/token", "J/token"), ("1", "1"), ("1/s", "1/s"), ("W/W", "1"), ("W^2", "J^2/s^2"),
     ("token/s", "token/s"), ("J / token", "J/token")],
)  # fmt: skip
def test_watts_are_joules_per_second(text, shown):
    """W is kept as J/s, so that power times time is energy."""
    assert str(Unit.parse(text)) == shown


def test_unequal_units_are_refused_with_both_names():
    """The message names both units and the operation."""
    with pytest.raises(UnitError, match="cannot add quantities in J and s"):
        Unit.parse("J").require_same(Unit.parse("s"), "add")
    Unit.parse("W").require_same(Unit.parse("J/s"), "add")


@pytest.mark.parametrize(
    ("value", "expanded", "unit", "text"),
    [
        (1250.0, 3.2, "J", "1250.0 ± 3.2 J"),
        (0.012341, 0.00012, "J/token", "0.01234 ± 0.00012 J/token"),
        (1234.5, 120.0, "J", "1234 ± 120 J"),
        (5.0, 0.0, "1", "5"),
        (float("nan"), 1.0, "J", "no value J"),
        (2.5e7, 3e5, "J", "2.5e+07 ± 3e+05 J"),
        (1.0, float("inf"), "W", "1 W"),
    ],
)
def test_quantities_show_two_digits_of_uncertainty(value, expanded, unit, text):
    """The uncertainty has two significant digits and the value ends where it does."""
    assert quantity_text(value, expanded, unit) == text
