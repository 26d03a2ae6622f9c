"""Every check has a positive control, which it must accuse, and a negative one, on which it must stay silent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

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
from pytest_physics.metrology.forensics.catalogue import CATALOGUE
from pytest_physics.metrology.forensics.finding import Effect, Finding, Printed

FOUR = spread.FourNumbers(mean=20.70964675767918, sd=9.965016251128894, minimum=1.2, maximum=26.424)
LEVEL = spread.FourNumbers(mean=20.0, sd=0.5, minimum=18.0, maximum=22.0)
WARM = [Printed(value, 1) for value in (42.0, 44.5, 46.0, 46.9, 47.4, 47.7)]
JUMP = [Printed(value, 1) for value in (42.0, 42.1, 44.5, 47.1, 47.9, 48.1)]
TIMES = list(range(6))
SHARE = proportions.Share
RULES = [
    classes.Rule(name="none", ranges={"samples": (0, 1)}),
    classes.Rule(name="good", ranges={"samples": (2, float("inf"))}),
]
HOLED = [RULES[0], classes.Rule(name="good", ranges={"samples": (3, float("inf"))})]
GRID = np.arange(200.0)
NOISE = np.random.default_rng(1).normal(0, 1, 200)
COSTS = [0.5, 0.5, 2.0]
UTIL = np.round(50 + 20 * NOISE, 1)


def crossed(*, tied: bool) -> list[dict[str, str]]:
    """Two workloads on two devices; each on its own, or all on both."""
    if tied:
        return [{"workload": "a", "device": "GPU"}, {"workload": "b", "device": "CPU"}]
    return [{"workload": w, "device": d} for w in "ab" for d in ("GPU", "CPU")]


CONTROLS: list[tuple[str, Callable[[], Finding], Callable[[], Finding]]] = [
    (
        "sample count",
        lambda: sample_count.sample_count([sample_count.Summary(mean=39.8259385665529, step=1.0)], stated=[1200]),
        lambda: sample_count.sample_count([sample_count.Summary(mean=39.8259385665529, step=1.0)], stated=[586]),
    ),
    (
        "moment feasibility",
        lambda: spread.moment_feasibility(spread.FourNumbers(mean=20.71, sd=15.97, minimum=1.2, maximum=26.42, n=586)),
        lambda: spread.moment_feasibility(FOUR),
    ),
    (
        "share bounds",
        lambda: spread.share_claim(FOUR, above=19.7, below=21.7, at_least=0.5),
        lambda: spread.share_claim(LEVEL, above=18.0, below=22.1, at_least=0.5),
    ),
    (
        "histogram spread",
        lambda: spread.histogram_spread([(1.2, 5, 0.15), (15, 25, 0.60), (25, 27, 0.25)], FOUR, slack=0.05),
        lambda: spread.histogram_spread([(18, 20, 0.5), (20, 22, 0.5)], LEVEL),
    ),
    (
        "self-masking detector",
        lambda: detectors.self_masking(20.71, 9.97, 26.42, 2.0),
        lambda: detectors.self_masking(20.71, 0.97, 26.42, 2.0),
    ),
    (
        "detector reach",
        lambda: detectors.reach(constant_inputs=["utilisation = 99"]),
        lambda: detectors.reach(needed_run=7, longest_run=12),
    ),
    (
        "standard error",
        lambda: intervals.standard_error(9.97, 586, Printed(0.29)),
        lambda: intervals.standard_error(9.97, 586, Printed(0.41)),
    ),
    (
        "energy uncertainty",
        lambda: intervals.energy_uncertainty(9.97, 0.1, 1.0, Printed(3.15), actual_dt_s=0.2048),
        lambda: intervals.energy_uncertainty(9.97, 0.1, 1.0, Printed(3.15)),
    ),
    (
        "duration from counts",
        lambda: counts.duration({"rows": 1955, "dropped": 11}, 0.1, 300.0, relation="at least"),
        lambda: counts.duration({"rows": 1955, "dropped": 11}, 0.1, 197.0),
    ),
    (
        "conservation",
        lambda: counts.conservation(Printed(1955, 0), {"ok": Printed(1955, 0), "failed": Printed(86, 0)}),
        lambda: counts.conservation(Printed(2041, 0), {"ok": Printed(1955, 0), "failed": Printed(86, 0)}),
    ),
    ("rate", lambda: counts.rate(64, 0.05, 198.0), lambda: counts.rate(64, 0.323, 198.0)),
    (
        "plausibility",
        lambda: counts.plausibility(Printed(180.0), most=175, why="power limit"),
        lambda: counts.plausibility(Printed(174.0), most=175, why="power limit"),
    ),
    (
        "derived column",
        lambda: tables.derived_rates(TIMES, JUMP, [None, 2.3, 2.4, 2.6, 0.4, 0.2]),
        lambda: tables.derived_rates(TIMES, JUMP, [None, 0.1, 2.4, 2.6, 0.8, 0.2]),
    ),
    ("slope from a table", lambda: tables.table_slope(TIMES, JUMP, 0.494), lambda: tables.table_slope(TIMES, JUMP, 1.44)),
    ("first-order heating", lambda: tables.heating_law(TIMES, JUMP), lambda: tables.heating_law(TIMES, WARM)),
    (
        "slope resolution",
        lambda: tables.slope_resolution(0.494, 0.5, step=1, window=1),
        lambda: tables.slope_resolution(0.1, 0.5, step=1, window=5),
    ),
    (
        "early stop",
        lambda: tables.early_stop(TIMES, JUMP, limit=0.5, stopped_at=5),
        lambda: tables.early_stop(TIMES, WARM, limit=0.5, stopped_at=5),
    ),
    (
        "optional stopping",
        lambda: tables.optional_stopping(0.494, 0.5, first_crossing=True),
        lambda: tables.optional_stopping(0.31, 0.5, first_crossing=False, stricter=0.4),
    ),
    (
        "extreme of a column",
        lambda: tables.column_maximum([Printed(2.3), Printed(2.6)], Printed(1.2)),
        lambda: tables.column_maximum([Printed(2.3), Printed(2.6)], Printed(2.6)),
    ),
    ("class rules", lambda: classes.class_rules(HOLED), lambda: classes.class_rules(RULES)),
    (
        "class of a row",
        lambda: classes.class_row(RULES, {"samples": (1, 1)}, "good", label="decode"),
        lambda: classes.class_row(RULES, {"samples": (5, 6)}, "good", label="decode"),
    ),
    ("sensor rise time", lambda: sensor.rise_time(1.0, 0.3), lambda: sensor.rise_time(0.1, 0.3)),
    ("sensor feasibility", lambda: sensor.visibility(0.05, 0.1, 0.1), lambda: sensor.visibility(30.0, 0.1, 1.0)),
    (
        "dimension",
        lambda: dimensions.dimension("J/token", {"fixed / batch": "J/sequence"}),
        lambda: dimensions.dimension("J/token", {"fixed / tokens": "W·s/token"}),
    ),
    (
        "percentage",
        lambda: proportions.percentage(SHARE(successes=29, trials=55), Printed(52.9)),
        lambda: proportions.percentage(SHARE(successes=29, trials=55), Printed(52.7)),
    ),
    (
        "detectable correlation",
        lambda: correlation.detectable(8, 0.3, lags=7),
        lambda: correlation.detectable(200, 0.3, lags=7),
    ),
    (
        "confounding",
        lambda: confounding.confounding(crossed(tied=True), "workload"),
        lambda: confounding.confounding(crossed(tied=False), "workload"),
    ),
    (
        "replicates",
        lambda: confounding.replicates({"training": "a1", "inference": "a1"}),
        lambda: confounding.replicates({"a": "a1", "b": "b2"}),
    ),
    (
        "allocation total",
        lambda: allocation.allocation_total([10, 10, 10], COSTS, Printed(31.0)),
        lambda: allocation.allocation_total([10, 10, 10], COSTS, Printed(30.0)),
    ),
    ("saving", lambda: allocation.saving(90.0, 100.0, Printed(12.0)), lambda: allocation.saving(90.0, 100.0, Printed(10.0))),
    (
        "baseline null test",
        lambda: allocation.null_test([100, 100, 100], COSTS, 250.0),
        lambda: allocation.null_test([150, 100, 50], COSTS, 300.0),
    ),
    (
        "preference for the cheap",
        lambda: allocation.preference([900, 900, 1200], COSTS),
        lambda: allocation.preference([140, 140, 20], COSTS),
    ),
    (
        "sweep direction",
        lambda: allocation.sweep_direction([0, 1], [[1000, 1000, 1000], [500, 500, 2000]], COSTS),
        lambda: allocation.sweep_direction([0, 1], [[1000, 1000, 1000], [1400, 1400, 200]], COSTS),
    ),
    (
        "agreement",
        lambda: agreement.agreement({"§1": 150.0, "§12": 175.0}),
        lambda: agreement.agreement({"§1": Printed(20.71), "§2": Printed(20.7)}),
    ),
    (
        "overlap of spans",
        lambda: events.apart((0, 120), (0, 30), names=("average", "settling")),
        lambda: events.apart((30, 150), (0, 30), names=("average", "settling")),
    ),
    (
        "document structure",
        lambda: structure.structure(["4.1", "4.2", "4.6", "4.6"], ["9.1"]),
        lambda: structure.structure(["4.1", "4.2"], ["4", "4.2"]),
    ),
    ("cadence", lambda: series.cadence(GRID * 10.9, 1.0), lambda: series.cadence(GRID + 0.01 * NOISE, 1.0)),
    ("constant channel", lambda: series.constant(np.full(50, 125.0), name="power"), lambda: series.constant(125 + NOISE, name="power")),
    (
        "computed channel",
        lambda: series.affine(UTIL, np.round(1.25 * UTIL, 2), names=("utilisation", "power")),
        lambda: series.affine(UTIL, np.round(1.25 * UTIL + NOISE[::-1], 2), names=("utilisation", "power")),
    ),
    ("stale values", lambda: series.staleness(np.repeat(NOISE, 2), name="power"), lambda: series.staleness(NOISE, name="power")),
    ("two writers", lambda: series.writers(np.concatenate([GRID, GRID[50:]])), lambda: series.writers(GRID)),
    (
        "implausible smoothness",
        lambda: series.smoothness(33 + 11 * GRID / 1000 + 0.5 * np.sin(GRID / 50), name="temperature"),
        lambda: series.smoothness(33 + 11 * GRID / 1000 + 0.01 * NOISE, name="temperature"),
    ),
    (
        "clock offset",
        lambda: alignment.clock_offset(GRID[20:180] - 5 * 3600, GRID, tolerance_s=1.0),
        lambda: alignment.clock_offset(GRID[20:180] + 0.3, GRID, tolerance_s=1.0),
    ),
    (
        "symmetric lags",
        lambda: alignment.lag_symmetry([-2, -1, 0, 1, 2], [0.1, 0.2, 0.3, 0.2, 0.1]),
        lambda: alignment.lag_symmetry([-2, -1, 0, 1, 2], [0.1, 0.2, 0.3, 0.25, 0.1]),
    ),
    ("mean rate", lambda: trend.mean_rate(0.004036, 0.045, 0.468, 600.0), lambda: trend.mean_rate(0.0006, 0.045, 0.468, 600.0)),
]  # fmt: skip

DECLARED = {"provenance", "own outcome", "prerequisite"}
"""Follow from declarations; their controls are in the tests of the verdicts."""
WITHOUT_NUMBERS = {"confounding", "dimension"}
DECIDING = {"difference of proportions", "correlation"}
"""Never accuse; their controls are below."""


@pytest.mark.parametrize(("check", "planted", "sound"), CONTROLS, ids=[name for name, _, _ in CONTROLS])
def test_a_check_accuses_what_is_planted_and_nothing_else(check, planted, sound):
    """Positive control: accused, with arithmetic or a sentence that names numbers. Negative control: not accused."""
    found, clean = planted(), sound()
    assert (found.check, clean.check) == (check, check)
    assert found.effect.accuses
    assert any(character.isdigit() for character in found.sentence + "".join(found.steps)) or check in WITHOUT_NUMBERS
    assert not clean.effect.accuses


def test_every_check_of_the_catalogue_has_controls():
    """A new check without controls does not pass."""
    assert {name for name, _, _ in CONTROLS} | DECLARED | DECIDING == set(CATALOGUE)
    assert len(CONTROLS) == len({name for name, _, _ in CONTROLS})


def test_a_difference_is_confirmed_only_where_chance_does_not_explain_it():
    """29/55 and 20/55 may be equal; 290/550 and 200/550 are not."""
    small = proportions.difference(SHARE(successes=29, trials=55), SHARE(successes=20, trials=55))
    large = proportions.difference(SHARE(successes=290, trials=550), SHARE(successes=200, trials=550))
    assert (small.effect, large.effect) == (Effect.UNDECIDED, Effect.CONFIRMS)


def test_discordant_pairs_decide_what_shares_alone_do_not():
    """McNemar's test: the same two shares, with nine or with nearly thirty discordant instants."""
    shares = SHARE(successes=29, trials=55), SHARE(successes=20, trials=55)
    assert proportions.difference(*shares, discordant=(9, 0)).effect is Effect.CONFIRMS
    assert proportions.difference(*shares, discordant=(29, 20)).effect is Effect.UNDECIDED


def test_a_correlation_is_confirmed_only_beyond_the_lags_searched():
    """A correlation of 0.5 from 20 pairs is more than chance at one lag, and not as the largest of seven."""
    assert correlation.correlation(0.5, 20).effect is Effect.CONFIRMS
    assert correlation.correlation(0.5, 20, lags=7).effect is Effect.UNDECIDED
    assert correlation.correlation(0.5, 20, at_least=0.4).effect is Effect.UNDECIDED


@pytest.mark.parametrize(
    "finding",
    [
        detectors.reach(),
        tables.optional_stopping(0.3, 0.5, first_crossing=None),
        series.constant([1.0, 1.0], name="x"),
        alignment.lag_symmetry([0, 1], [0.1, 0.2]),
        spread.share_claim(spread.FourNumbers(mean=5.0, sd=9.0, minimum=4.0, maximum=6.0), below=5.0),
    ],
    ids=lambda finding: finding.check,
)
def test_a_check_without_its_numbers_asks_for_them(finding):
    """What cannot be judged names the datum that would decide it."""
    assert finding.effect is Effect.LACKS
    assert finding.needs
