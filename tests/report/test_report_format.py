"""Rules of the numbers people read."""

from __future__ import annotations

import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.report import format as fmt

finite = st.floats(min_value=-1e15, max_value=1e15, allow_nan=False)
positive = st.floats(min_value=1e-9, max_value=1e9, allow_nan=False)
PLAIN = fmt.Scale(factor=1.0, unit="")


def parsed(text: str) -> float:
    return float(text.replace(fmt.MINUS, "-").replace(fmt.THIN_SPACE, "").removeprefix("± "))


@pytest.mark.parametrize(
    ("value", "expanded", "unit", "expected"),
    [
        (0.000482, 0.000021, "J/token", "482 ± 21 µJ/token"),
        (0.0123456, 0.00021, "J/token", "12.35 ± 0.21 mJ/token"),
        (250.123, 3.4, "W", "250.1 ± 3.4 W"),
        (0.2825, 0.0093, "1", "0.2825 ± 0.0093"),
        (71.23, 0.996, "°C", "71.2 ± 1.0 °C"),
        (12345.0, 120.0, "1", "12\u202f340 ± 120"),
        (-0.0021, 0.0004, "s", "−2.10 ± 0.40 ms"),
        (0.001, 5.0, "J", "0.0 ± 5.0 J"),
        (3.0, 0.0, "J", "3 J"),
        (3.0, None, "token", "3 token"),
        (4e9, 2e8, "byte", "4.00 ± 0.20 GB"),
        (None, None, "J", "no value"),
        (math.nan, 1.0, "J", "no value"),
        (1.0, math.inf, "J", "1 J"),
    ],
)
def test_an_estimate_shows_two_digits_of_its_uncertainty(value, expanded, unit, expected):
    """U has two significant digits, the value ends at the same place, and the unit has the prefix that suits."""
    assert str(fmt.quantity(value, expanded, unit)) == expected


@given(value=finite, expanded=positive)
def test_rounding_moves_an_estimate_by_less_than_its_uncertainty(value, expanded):
    """Neither the value nor U moves by more than 5 % of U through rounding, up to where powers of ten take over."""
    shown = fmt.quantity(value, expanded, "1", PLAIN)
    if "×" in str(shown) or abs(value) >= 1e9:
        return
    assert abs(parsed(shown.value) - value) <= 0.0501 * expanded + 1e-9 * abs(value)
    assert abs(parsed(shown.expanded) - expanded) <= 0.0501 * expanded


@given(expanded=positive)
def test_an_uncertainty_has_two_significant_digits(expanded):
    """Leading zeros and padding of tens apart, exactly two digits of U are shown."""
    text = fmt.fixed(float(f"{expanded:.1e}"), fmt.decimals_for(expanded))
    if "×" in text or expanded >= 95:
        return
    assert len(text.replace(".", "").lstrip("0")) == 2


@given(magnitude=st.floats(min_value=1e-9, max_value=9e8), unit=st.sampled_from(["J", "W/K", "Hz", "J/token"]))
def test_a_prefix_leaves_one_to_three_digits(magnitude, unit):
    """Within the range of prefixes, 1 ≤ scaled magnitude < 1000."""
    head = unit.split("/")[0]
    low, high = {"J": (1e-9, 1e12), "W": (1e-6, 1e9), "Hz": (1, 1e12)}[head]
    if low <= magnitude < high:
        assert 1 <= magnitude * fmt.scale_for(magnitude, unit).factor * (1 + 1e-12) < 1000 * (1 + 1e-9)


@given(value=st.floats(allow_nan=True, allow_infinity=True))
def test_every_float_can_be_shown(value):
    """No number breaks the report, and what is not finite is a dash."""
    text = fmt.number(value)
    assert text
    assert (text == fmt.ABSENT) == (not math.isfinite(value))
    assert str(fmt.quantity(value, abs(value), "J"))
    assert fmt.percent(value)
    assert fmt.duration(abs(value))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (0.85, "850 ms"), (59.9, "59.9 s"), (60.0, "1 min 00 s"), (3599.4, "59 min 59 s"), (3725, "1 h 02 min"), (None, "–")],
)
def test_durations_use_the_units_of_clocks(seconds, text):
    """Below a minute a prefix, then minutes, then hours."""
    assert fmt.duration(seconds) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(0.037, "3.7 %"), (0.5, "50 %"), (1.0, "100 %"), (0.99995, "> 99.9 %"), (0.995, "99.5 %"), (1e-5, "< 0.1 %"), (0.0, "0.0 %")],
)
def test_a_probability_is_never_rounded_to_certainty(ratio, text):
    """0 and 100 % are shown only for exactly 0 and 1."""
    assert fmt.percent(ratio) == text


@pytest.mark.parametrize(("value", "text"), [(0.5, "+0.5"), (0.0, "0"), (-0.5, "−0.5"), (None, "–")])
def test_a_margin_has_its_sign(value, text):
    """Zero has none."""
    assert fmt.signed(value, PLAIN) == text


def test_limits_share_the_unit_of_their_estimate():
    """A limit is shown under the estimate's prefix."""
    assert fmt.limit("<=", 0.002, "J/token", fmt.scale_for(0.0039, "J/token")) == "≤ 2 mJ/token"
    assert fmt.limit(None, 1.0, "J") == fmt.ABSENT


@given(text=st.text(max_size=40))
def test_a_slug_is_a_safe_fragment(text):
    """Only ASCII letters, digits and dashes, never empty."""
    slug = fmt.slug(text)
    assert slug
    assert slug.isascii()
    assert slug.replace("-", "").isalnum()


def test_names_that_differ_in_punctuation_have_different_slugs():
    """Ids of a page are unique."""
    assert len({fmt.slug(name) for name in ("a<b", "a>b", "a b", "a-b")}) == 4


@given(text=st.text(max_size=100))
def test_printable_names_have_no_control_characters(text):
    """A name cannot move the cursor of a terminal or break a line."""
    assert fmt.printable(text, 30).isprintable()
    assert len(fmt.printable(text, 30)) <= 30


def test_examples_in_the_docstrings_hold():
    """Documentation that runs cannot rot."""
    assert doctest.testmod(fmt).failed == 0
