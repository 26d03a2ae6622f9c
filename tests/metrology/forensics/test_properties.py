"""What holds for all data: true statements about any readings are never contradicted, and edges lie where they should."""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_physics.metrology.forensics import classes, counts, proportions, sample_count, spread, structure, tables
from pytest_physics.metrology.forensics.finding import Effect, Printed, decimals_of, half_unit

whole_readings = st.lists(st.integers(0, 300_000), min_size=2, max_size=200)


@given(whole_readings, st.sampled_from([0, 1]), st.integers(2, 9))
def test_the_true_number_of_readings_is_always_possible(values, ddof, decimals):
    """GRIM and GRIMMER never exclude the number that made the summary, printed in full or rounded."""
    readings = np.array(values) * 0.001
    for mean, sd in [
        (float(readings.mean()), float(readings.std(ddof=ddof))),
        (Printed(round(readings.mean(), decimals), decimals), Printed(round(readings.std(ddof=ddof), decimals), decimals)),
    ]:
        summary = sample_count.Summary(mean=mean, step=0.001, sd=sd)
        with mock.patch.object(sample_count, "SEARCHED", 0):  # only the true number is asked for
            assert ddof in sample_count.possible_counts([summary], also=[len(values)])[len(values)]


@settings(max_examples=30, deadline=None)
@given(whole_readings, st.floats(0, 300), st.floats(0.01, 300))
def test_true_shares_are_always_possible(values, above, width):
    """The share of any interval lies within the bounds of the four numbers."""
    readings = np.array(values) * 0.001
    four = spread.FourNumbers(
        mean=float(readings.mean()),
        sd=float(readings.std()),
        minimum=float(readings.min()),
        maximum=float(readings.max()),
        n=len(values),
        ddof=0,
    )
    share = float(np.mean((readings >= above) & (readings < above + width)))
    assert spread.moment_feasibility(four).effect is Effect.CONSISTENT
    assert not spread.share_claim(four, above=above, below=above + width, at_least=share, at_most=share).effect.accuses


@pytest.mark.parametrize(
    ("text", "decimals"), [("20.71", 2), ("20.70", 2), ("48", 0), ("48.0", 0), ("1.5e-3", 4), ("2e3", -3), ("39.8259385665529", 13)]
)
def test_decimals_come_from_the_text(text, decimals):
    """Trailing zeros count where they are more than the ".0" of a whole float; exponents move the point."""
    assert decimals_of(text) == decimals


def test_half_a_unit_allows_for_what_double_precision_loses():
    """A mean printed to 14 decimals is not more exact than its sum; a number on the edge between two prints may go either way."""
    assert half_unit(Printed(20.71, 2)) == pytest.approx(0.005)
    assert half_unit(20.70964675767918) >= 16 * math.ulp(20.70964675767918)
    edge = [sample_count.Summary(mean=Printed(37.7425062, 7), step=0.001)]
    assert sample_count.sample_count(edge, stated=[320]).effect is Effect.CONSISTENT  # 12 077 602 / 320 = 37 742.50625


def test_sensor_steps_finer_than_the_print_tell_nothing():
    """With two decimals of the mean and steps of a milliwatt every larger number of readings is possible: nothing is contradicted."""
    finding = sample_count.sample_count([sample_count.Summary(mean=Printed(20.71, 2), step=0.001)], stated=[1200])
    assert finding.effect is Effect.CONSISTENT
    assert "allow" in finding.sentence


@given(st.integers(1, 10_000), st.sampled_from([0.02, 0.1, 1.0]))
def test_a_grid_fills_its_own_duration(n, period):
    """Counts times period confirms its own product, and contradicts twice of it once the slack of two ticks is small."""
    assert counts.duration({"ticks": n}, period, n * period).effect is Effect.CONFIRMS
    doubled = counts.duration({"ticks": n}, period, 2 * n * period)
    assert (doubled.effect is Effect.CONTRADICTS) == (n * period > 0.05 * 2 * n * period + 2 * period)


@given(st.integers(0, 300), st.integers(1, 300), st.integers(0, 3))
def test_a_percentage_rounded_once_is_confirmed(successes, trials, decimals):
    """A share printed with any number of decimals is its own."""
    share = proportions.Share(successes=min(successes, trials), trials=trials)
    assert proportions.percentage(share, Printed(round(100 * share.value, decimals), decimals)).effect is Effect.CONFIRMS


@given(st.floats(1, 50), st.floats(0.2, 20), st.integers(0, 2))
def test_exponential_heating_never_accelerates(rise, tau, decimals):
    """A first-order body, rounded to any place, obeys the law."""
    times = np.arange(12.0)
    rows = [Printed(round(40 + rise * (1 - math.exp(-t / tau)), decimals), decimals) for t in times]
    assert tables.heating_law(times, rows).effect is Effect.CONSISTENT


def test_a_rule_at_its_edge_belongs_to_one_class():
    """'≤ 0.10' and '> 0.10' leave no hole and no overlap; '≤ 0.10' and '≥ 0.10' overlap, '< 0.10' and '> 0.10' leave a hole."""

    def rules(first_high, second_low):
        return [
            classes.Rule(name="good", ranges={"gap": (0.0, first_high)}),
            classes.Rule(name="gappy", ranges={"gap": (second_low, math.inf)}),
        ]

    above, below = math.nextafter(0.1, 1), math.nextafter(0.1, 0)
    assert classes.class_rules(rules(0.1, above), whole=()).effect is Effect.CONFIRMS
    assert "two classes" in classes.class_rules(rules(0.1, 0.1), whole=()).sentence
    assert "no class" in classes.class_rules(rules(below, above), whole=()).sentence


def test_ordered_rules_may_overlap():
    """Where the first rule that holds counts, a later one need not exclude it."""
    rules = [classes.Rule(name="a", ranges={"samples": (0, 5)}), classes.Rule(name="b", ranges={"samples": (0, math.inf)})]
    assert classes.class_rules(rules).effect is Effect.CONTRADICTS
    assert classes.class_rules(rules, ordered=True).effect is Effect.CONFIRMS


def test_sections_are_read_from_markdown_without_code():
    """Headings count, numbers in code and in sentences do not."""
    text = "## 4.1 One\n\nSee Section 9.1.\n\n```\n## 4.7 Not a heading\n```\n\n4.2 Two\n\n4.2 Two again\n"
    assert structure.sections_of(text) == ["4.1", "4.2", "4.2"]
    assert structure.references_of(text) == ["9.1"]
