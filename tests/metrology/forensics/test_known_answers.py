"""Answers that are known from the published numbers of the five reports."""

from __future__ import annotations

import math

import pytest

from pytest_physics.metrology.forensics import allocation, correlation, intervals, proportions, sample_count, sensor, spread, tables
from pytest_physics.metrology.forensics.finding import Printed

MEAN_W, SD_W, MEAN_C = 20.70964675767918, 9.965016251128894, 39.8259385665529
BASELINE = [sample_count.Summary(mean=MEAN_W, step=0.001, sd=SD_W), sample_count.Summary(mean=MEAN_C, step=1.0)]
FOUR = spread.FourNumbers(mean=MEAN_W, sd=SD_W, minimum=1.2, maximum=26.424)
TIMES = [0, 1, 2, 3, 4, 5]
TEMPERATURES = [Printed(value, 1) for value in (42.0, 42.1, 44.5, 47.1, 47.9, 48.1)]
USAGE, COSTS = [268, 281, 261, 209, 400, 311, 402, 428], [0.5] * 6 + [2.0] * 2


def test_tr122_baseline_has_586_readings_and_ddof_one():
    """Mean, deviation and step leave one number of readings up to 3000."""
    assert sample_count.possible_counts(BASELINE) == {586: (1,)}


def test_without_the_deviation_multiples_of_586_remain():
    """GRIM alone leaves the multiples; GRIMMER leaves one."""
    means = [sample_count.Summary(mean=s.mean, step=s.step) for s in BASELINE]
    assert list(sample_count.possible_counts(means)) == [586, 1172, 1758, 2344, 2930]


@pytest.mark.parametrize(
    ("above", "below", "low", "high"),
    [
        (-math.inf, 5.0, 0.099, 0.249),
        (24.0, math.inf, 0.574, None),
        (25.0, math.inf, 0.435, None),
        (15.0, 25.0, None, 0.359),
        (19.7, 21.7, None, 0.126),
    ],
)
def test_tr122_shares(above, below, low, high):
    """Linear programme over all distributions with the four published numbers."""
    found = spread.share_claim(FOUR, above=above, below=below).steps[0]
    bounds = float(found.split(": ")[1].split(" ≤ ")[0]), float(found.rpartition(" ≤ ")[2])
    assert low is None or bounds[0] == pytest.approx(low, abs=0.001)
    assert high is None or bounds[1] == pytest.approx(high, abs=0.001)


def test_tr122_histogram_is_too_narrow():
    """The earlier text's shares allow a deviation of 8.82 W, 9.64 W with five points of slack; 9.965 W was published."""
    bins = [(1.2, 5.0, 0.15), (15.0, 25.0, 0.60), (25.0, 26.424, 0.25)]
    assert spread.widest_deviation(bins, MEAN_W) == pytest.approx(8.82, abs=0.005)
    assert spread.widest_deviation(bins, MEAN_W, slack=0.05) == pytest.approx(9.64, abs=0.005)


def test_tr122_table_slope():
    """Least squares through the printed rows: 1.44 K/min against the stated 0.494."""
    slope, slack = tables.slope_of(TIMES, TEMPERATURES)
    assert slope == pytest.approx(1.44, abs=0.005)
    assert slack < 0.05


def test_tr122_standard_error():
    """9.965 W over √586 is 0.41 W."""
    assert "0.412" in intervals.standard_error(9.965, 586, Printed(0.29)).sentence


def test_an_average_over_one_second_rises_in_0_8_s_and_shows_half_of_a_second():
    """The box's 10–90 % rise, and the energy that in-window readings carry."""
    assert "0.8 s" in sensor.rise_time(1.0, 0.3).sentence
    assert [sensor.recovered_share(t, 1.0) for t in (0.3, 0.6, 1.0, 2.0, 10.0)] == pytest.approx([0.15, 0.30, 0.50, 0.75, 0.95])


def test_routing_run():
    """2525 J, 12.7 % above uniform; cold share 67.6 % below 75 %; the baseline's null test scores −16.7 %."""
    assert allocation.total_cost(USAGE, COSTS) == 2525.0
    assert allocation.uniform_cost(USAGE, COSTS) == 2240.0
    finding = allocation.preference(USAGE, COSTS)
    assert "12.7%" in finding.sentence
    assert "67.6% instead of 75.0%" in finding.sentence
    assert "-16.7%" in allocation.null_test(USAGE, COSTS, 1920).sentence
    assert "-31.5104" in allocation.saving(2525.0, 1920.0, Printed(-31.51)).steps[0]


def test_rle_proportions():
    """Wilson, Newcombe, Fisher, and the trials that 80 % power would have taken."""
    cpu, gpu = proportions.Share(successes=29, trials=55), proportions.Share(successes=20, trials=55)
    assert proportions.wilson(cpu) == pytest.approx((0.398, 0.653), abs=0.001)
    assert proportions.wilson(gpu) == pytest.approx((0.249, 0.496), abs=0.001)
    assert proportions.newcombe(cpu, gpu) == pytest.approx((-0.02, 0.33), abs=0.005)
    assert "p = 0.124 (Fisher" in proportions.difference(cpu, gpu).steps[1]
    assert "p = 0.222" in proportions.difference(cpu, gpu, design_effect=2.0).steps[1]
    assert proportions.needed_trials(cpu.value, gpu.value) == pytest.approx(143, abs=1)


def test_rle_correlations():
    """Smallest |r| that 10, 20 and 40 pairs can show, at one lag and at seven; 44 pairs for r = 0.3."""
    assert [round(correlation.critical(n), 2) for n in (10, 20, 40)] == [0.63, 0.44, 0.31]
    assert [correlation.critical(n, lags=7) for n in (10, 20, 40)] == pytest.approx([0.79, 0.58, 0.42], abs=0.01)
    assert correlation.critical(43) > 0.3 >= correlation.critical(44)
