"""All checks, by name: what the documentation and the false-alarm study list.

Most are functions of numbers; the last three follow from what a report declares about its numbers and tests.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_physics.metrology.forensics import (
    agreement,
    alignment,
    allocation,
    classes,
    confounding,
    correlation,
    counts,
    detectors,
    dimensions,
    events,
    intervals,
    proportions,
    sample_count,
    sensor,
    series,
    spread,
    structure,
    tables,
    trend,
)
from pytest_physics.metrology.forensics.finding import Check

PROVENANCE = Check(
    name="provenance",
    needs="whether numbers were measured, assumed, illustrative or simulated",
    proves="that a claim about the world rests on numbers that were not measured",
)
OWN_OUTCOME = Check(
    name="own outcome",
    needs="what the report itself records of a test",
    proves="that the report's own test failed, or was not run",
)

PREREQUISITE = Check(
    name="prerequisite",
    needs="which claims a claim requires, and their verdicts",
    proves="that a claim stands on another that does not hold",
)

_FAMILIES = (
    sample_count, spread, detectors, intervals, counts, tables, classes, sensor, dimensions, proportions, correlation, confounding,
    allocation, agreement, events, structure, series, alignment, trend,
)  # fmt: skip

CATALOGUE: Mapping[str, Check] = {
    check.name: check
    for check in (
        *(value for family in _FAMILIES for value in vars(family).values() if isinstance(value, Check)),
        PROVENANCE,
        OWN_OUTCOME,
        PREREQUISITE,
    )
}
"""Every check by its name, in the order of the families."""
