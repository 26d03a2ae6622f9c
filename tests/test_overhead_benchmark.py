"""The overhead benchmark judges by interval, and refuses to judge on a restless machine."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark_scripts import script


@pytest.fixture(scope="module")
def overhead():
    pytest.importorskip("torch")
    return script("overhead")


def times(overhead, *, harness, control, noise=0.01):
    """300 groups with a common drift of ±30 %, which pairing must remove."""
    random = np.random.default_rng(3)
    drift = 0.06 * random.uniform(0.7, 1.3, 300)
    factors = {overhead.HARNESS: harness, overhead.PLAIN: 1.0, overhead.CONTROL: control}
    return {arm: list(drift * factor * random.normal(1, noise, 300)) for arm, factor in factors.items()}


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"harness": 1.003, "control": 1.0}, "VALIDATED"),
        ({"harness": 1.02, "control": 1.0}, "REFUTED"),
        ({"harness": 1.01, "control": 1.0}, "INCONCLUSIVE"),
        ({"harness": 1.0, "control": 1.02}, "INVALID"),
        ({"harness": 1.0, "control": 0.98}, "INVALID"),
    ],
)
def test_the_verdict_follows_the_intervals(overhead, options, verdict):
    """The limit is 1 %; a control that differs from itself decides nothing."""
    assert overhead.judge(times(overhead, **options)).verdict == verdict
    assert set(overhead.EXIT_CODES) == {"VALIDATED", "REFUTED", "INCONCLUSIVE", "INVALID"}


def test_a_few_real_groups_run_through(overhead):
    """Every arm once per group, decodes as long as claimed, the sampler alive again at the end; the page shows all of it."""
    found = overhead.measure(3)
    assert {arm: len(seconds) for arm, seconds in found.wall_s.items()} == dict.fromkeys(found.wall_s, 3)
    assert min(map(min, found.wall_s.values())) >= 0.8 * overhead.SHORTEST_S
    assert 0 <= found.sampler_share < 0.2
    text = overhead.page(found, overhead.judge(found.wall_s))
    assert all(f"| {arm} |" in text for arm in found.wall_s)


def test_the_published_page_is_of_this_benchmark(overhead):
    """Its verdict is one of the benchmark's words, with the limit it claims."""
    text = overhead.PAGE.read_text(encoding="utf-8")
    assert f"At most {overhead.LIMIT} is claimed: **" in text
    assert any(f"**{verdict}**" in text for verdict in overhead.EXIT_CODES)
