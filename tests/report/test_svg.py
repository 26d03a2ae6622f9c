"""Inline SVG is small, and draws what was drawn."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.report import svg

PLACES = st.integers(-99_999, 99_999).map(lambda n: n / 100)


def traced(line):
    """Points of path data in steps, in absolute places."""
    x = y = 0.0
    out = []
    for command, numbers in re.findall(r"([MlhvZz])([^MlhvZz]*)", line):
        found = [float(text) for text in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", numbers)]
        if command == "M":
            x, y = found
        elif command != "z":
            x, y = x + (found[0] if command in "lh" else 0.0), y + (found[-1] if command in "lv" else 0.0)
        if command != "z":
            out.append((x, y))
    return out


@given(st.lists(st.tuples(PLACES, PLACES), min_size=2, max_size=40))
def test_steps_lead_to_the_same_places(points):
    """Every point lies within a twentieth of a point of where it was, however long the line: errors do not add up."""
    line = "M " + " L ".join(f"{x:g} {y:g}" for x, y in points) + " "
    found = traced(svg._in_steps(line))
    assert len(found) <= len(points)
    kept = iter(found)
    place = next(kept)
    for x, y in points:
        while abs(place[0] - x) > 0.0501 or abs(place[1] - y) > 0.0501:
            place = next(kept)  # StopIteration: a point was lost


def test_a_line_of_no_length_stays_a_dot():
    """A round cap makes it one."""
    assert svg._in_steps("M 5 5 L 5 5 ") == "M5 5h0"


def test_style_of_a_marker_stands_once():
    """At its shape, where all uses agree; at each use, where they do not."""
    shape = '<path id="a" d="" style="stroke: red"/>'
    same = shape + 2 * '<use href="#a" x="1" style="fill: red; stroke: red"/>'
    assert svg._styled_once(same) == '<path id="a" d="" style="fill: red; stroke: red; stroke: red"/>' + 2 * '<use href="#a" x="1"/>'
    other = same + '<use href="#a" x="1" style="fill: blue"/>'
    assert svg._styled_once(other) == other
