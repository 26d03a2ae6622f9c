"""The start-up benchmark judges by interval and refuses to judge on a restless machine."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark_scripts import script
from hypothesis import given
from hypothesis import strategies as st

startup = script("startup")


def _times(*, plugin: float, control: float) -> dict[str, list[float]]:
    """15 rounds whose common drift, ±30 %, pairing must remove; 0.4 % of noise remains."""
    random = np.random.default_rng(1)
    drift = random.uniform(0.7, 1.3, 15)
    return {
        name: list(0.12 * drift * ratio * random.normal(1, 0.004, 15))
        for name, ratio in (("plain", 1.0), ("control", control), ("plugin", plugin))
    }


@pytest.mark.parametrize(
    ("plugin", "control", "verdict", "exit_code"),
    [
        (1.004, 1.0, "VALIDATED", 0),
        (1.06, 1.0, "REFUTED", 1),
        (1.03, 1.0, "INCONCLUSIVE", 10),
        (1.004, 1.03, "INVALID", 10),
        (1.06, 0.97, "INVALID", 10),
    ],
)
def test_each_verdict_has_its_case(plugin, control, verdict, exit_code):
    """Paired ratios see 0.4 % under a drift of ±30 %; a restless control silences every claim."""
    result = startup.judge(_times(plugin=plugin, control=control))
    assert (result.verdict, startup.EXIT_CODES[result.verdict]) == (verdict, exit_code), result


@pytest.mark.parametrize(("control", "valid"), [(0.99, True), (1.01, True), (0.9899, False), (1.0101, False)])
def test_the_control_may_reach_its_limits_and_not_pass_them(control, valid):
    """Boundary pairs on both sides of 0.99 to 1.01."""
    times_s = {"plain": [1.0] * 15, "control": [control] * 15, "plugin": [1.0] * 15}
    assert (startup.judge(times_s).verdict == "VALIDATED") is valid


@pytest.mark.parametrize(("ratio", "verdict"), [(1.03, "VALIDATED"), (1.0301, "REFUTED")])
def test_the_limit_may_be_reached_and_not_passed(ratio, verdict):
    """Boundary pair without noise."""
    times_s = {"plain": [1.0] * 15, "control": [1.0] * 15, "plugin": [ratio] * 15}
    assert startup.judge(times_s).verdict == verdict


def test_fifteen_rounds_bound_the_median_by_order_statistics():
    """Known answer: the 4th and 12th of 15 values cover the median with 96.5 % (binomial)."""
    values = np.random.default_rng(0).permutation(np.arange(1.0, 16.0))
    ratio = startup.paired_ratio(values, np.ones(15))
    assert (ratio.lower, ratio.median, ratio.upper) == (4.0, 8.0, 12.0)


@given(st.lists(st.floats(0.5, 2.0), min_size=9, max_size=40))
def test_the_interval_holds_the_median(ratios):
    """For any data, in order and finite from nine rounds on."""
    ratio = startup.paired_ratio(ratios, np.ones(len(ratios)))
    assert 0.5 <= ratio.lower <= ratio.median <= ratio.upper <= 2.0


def test_python_and_pytest_settings_do_not_reach_the_measured_process(monkeypatch):
    """A developer's PYTEST_ADDOPTS or PYTHONPATH would change what is measured."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p xdist")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    assert not {"PYTEST_ADDOPTS", "PYTHONPATH"} & set(startup._environment())


def test_what_is_not_judged_is_shown():
    """The wheel and the blocked plugin have their ratios, and no say in the verdict."""
    times_s = _times(plugin=1.004, control=1.0) | {"wheel": _times(plugin=1.2, control=1.0)["plugin"]}
    result = startup.judge(times_s)
    assert (result.verdict, list(result.others)) == ("VALIDATED", ["wheel"])
    assert result.others["wheel"].median > 1.1
