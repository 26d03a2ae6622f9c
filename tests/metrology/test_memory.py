"""Formulas, fit, search and definitions of device memory."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_physics.metrology.memory import (
    SPILL_FACTOR,
    AllocatorState,
    MemoryPoint,
    ModelSizes,
    Outcome,
    bracket,
    classify,
    contradictions,
    fit_bytes,
    growth_per_repeat,
    inactive_split_share,
    largest_block_fragmentation,
    next_size,
    settled,
    slack,
    slowdown,
    time_trend,
)

GIB = 2**30
GPT2 = ModelSizes(
    layers=12,
    heads=12,
    kv_heads=12,
    head_dim=64,
    width=768,
    vocabulary=50257,
    parameters=124_439_808,
    bytes_per_number=2,
    max_positions=1024,
)
LLAMA_8B = ModelSizes(
    layers=32, heads=32, kv_heads=8, head_dim=128, width=4096, vocabulary=128256, parameters=8_030_261_248, bytes_per_number=2
)
QWEN = ModelSizes(
    layers=28, heads=12, kv_heads=2, head_dim=128, width=1536, vocabulary=151936, parameters=1_543_714_304, bytes_per_number=2
)


def fits(batch, context, peak, seconds=None):
    return MemoryPoint(batch=batch, context=context, outcome=Outcome.FITS, peak_bytes=peak, seconds=seconds)


# --- the cache --------------------------------------------------------------------------------------------------------


def test_cache_of_gpt2_is_36_kib_per_token():
    """Published: 36 KiB in half precision; so 3,000 tokens take 105 MiB, and 12 GB are not exhausted there, as one report said."""
    assert GPT2.kv_bytes_per_token == 36 * 1024
    assert GPT2.kv_bytes(batch=1, context=3000) / 2**20 == pytest.approx(105.5, abs=0.1)
    assert 12e9 / GPT2.kv_bytes_per_token > 300_000


@pytest.mark.parametrize(("sizes", "kib"), [(LLAMA_8B, 128), (QWEN, 28)])
def test_grouped_heads_shrink_the_cache(sizes, kib):
    """Keys and values have ``kv_heads``, not ``heads``: Llama-3-8B 128 KiB per token, Qwen2.5-1.5B 28 KiB."""
    assert sizes.kv_bytes_per_token == kib * 1024
    full = replace(sizes, kv_heads=sizes.heads)
    assert full.kv_bytes_per_token == sizes.kv_bytes_per_token * sizes.heads // sizes.kv_heads


def test_sizes_refuse_what_no_model_has():
    """Zero layers, heads that do not group, no position."""
    with pytest.raises(ValueError, match="'layers' must be >= 1"):
        replace(GPT2, layers=0)
    with pytest.raises(ValueError, match="multiple of 'kv_heads'"):
        replace(GPT2, kv_heads=5)
    with pytest.raises(ValueError, match="'max_positions'"):
        replace(GPT2, max_positions=0)


# --- the fit ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    constant=st.floats(1e6, 1e10), token=st.floats(1e3, 1e6), square=st.floats(0.1, 100), kv=st.integers(1, 300_000),
    batch=st.integers(1, 8),
)  # fmt: skip
def test_fit_finds_exact_bytes(constant, token, square, kv, batch):
    """Bytes that obey the law are found again, far beyond the probes too, whatever the batch."""
    true = lambda b, t: constant + (token + kv) * b * t + square * b * t**2  # noqa: E731
    points = [fits(batch, t, true(batch, t)) for t in (400, 700, 1000, 1300, 1600, 1900)]
    fit = fit_bytes(points, kv_bytes_per_token=kv, quadratic=True, rounding_bytes=1.0)
    assert fit.at(batch=batch, context=8000) == pytest.approx(true(batch, 8000), rel=1e-4)
    limit = fit.limit(true(batch, 5000), axis="context", other=batch)
    assert limit == pytest.approx(5000, rel=1e-3)


def test_coefficients_are_never_negative():
    """Fused attention keeps no scores: noise must not make their coefficient negative, and a falling law would have no cliff."""
    points = [fits(1, t, 1e9 + 1e5 * t - 3.0 * t**1.5) for t in (400, 700, 1000, 1300, 1600)]
    fit = fit_bytes(points, kv_bytes_per_token=0, quadratic=True, rounding_bytes=1.0)
    assert fit.square_bytes == 0.0
    assert fit.token_bytes > 0


def test_small_probes_with_another_peak_do_not_bend_the_fit():
    """Below a kink another moment is the peak: those probes are left out where the others are enough."""
    true = lambda t: max(9e6, 2e6 + 3e4 * t)  # noqa: E731
    points = [fits(1, t, true(t)) for t in (16, 64, 700, 1000, 1300, 1600)]
    fit = fit_bytes(points, kv_bytes_per_token=0, quadratic=False, rounding_bytes=1.0)
    assert fit.token_bytes == pytest.approx(3e4, rel=1e-6)


def test_too_few_probes_are_refused():
    """One size determines no slope."""
    with pytest.raises(ValueError, match="do not determine 2 terms"):
        fit_bytes([fits(1, 64, 1e9)] * 3, kv_bytes_per_token=0, quadratic=False, rounding_bytes=1.0)


def test_limit_outside_the_axis():
    """Nothing fits where the constant alone is too much; nothing ends where bytes do not grow."""
    fit = fit_bytes([fits(1, t, 1e9 + t * 1e4) for t in (100, 200, 300, 400)], kv_bytes_per_token=0, quadratic=False, rounding_bytes=1.0)
    assert fit.limit(0.5e9, axis="context", other=1) == 0.0
    flat = replace(fit, token_bytes=0.0)
    assert flat.limit(2e9, axis="context", other=1) == math.inf
    with pytest.raises(ValueError, match="'axis'"):
        fit.limit(2e9, axis="width", other=1)


def test_rounding_is_a_floor_of_the_uncertainty():
    """Where the residuals are smaller than the allocator's step, the step speaks, with infinite degrees of freedom; else the residuals."""
    points = [fits(1, t, 1e9 + 1e5 * t) for t in (400, 700, 1000, 1300)]
    rounded = fit_bytes(points, kv_bytes_per_token=0, quadratic=False, rounding_bytes=1e7)
    assert math.isinf(rounded.dof)
    assert rounded.scatter_bytes == pytest.approx(1e7 / math.sqrt(12))
    bent = [replace(p, peak_bytes=p.peak_bytes + (-1) ** i * 3e7) for i, p in enumerate(points)]
    scattered = fit_bytes(bent, kv_bytes_per_token=0, quadratic=False, rounding_bytes=1e7)
    assert scattered.dof == 2
    assert scattered.scatter_bytes > 1e7


def test_an_extrapolation_is_less_certain():
    """Nothing is added at the largest probe; a hundredth of the further bytes beyond it."""
    fit = fit_bytes(
        [fits(1, t, 1e9 + t * 1e5) for t in (1000, 2000, 3000, 4000)], kv_bytes_per_token=0, quadratic=False, rounding_bytes=1.0
    )
    assert fit.u_extrapolation(batch=1, context=4000) == pytest.approx(0.0, abs=1.0)
    assert fit.u_extrapolation(batch=1, context=14_000) == pytest.approx(0.01 * 1e9, rel=1e-6)


# --- time -------------------------------------------------------------------------------------------------------------


def trend_points():
    return [fits(1, t, 1e9, 0.01 + 1e-4 * t + 1e-9 * t * t) for t in (64, 256, 1000, 2000, 4000)]


@pytest.mark.parametrize(("factor", "shown"), [(SPILL_FACTOR * 0.99, Outcome.FITS), (SPILL_FACTOR * 1.01, Outcome.SPILL)])
def test_a_spill_is_five_times_the_trend(factor, shown):
    """Just below five times the trend fits; just above spills, with no error from anyone."""
    trend = time_trend(trend_points())
    point = fits(1, 8000, 1e9, factor * trend.at(batch=1, context=8000))
    assert slowdown(point, trend) == pytest.approx(factor)
    assert classify(point, capacity_bytes=2e9, trend=trend) is shown


@pytest.mark.parametrize(("peak", "shown"), [(2e9, Outcome.FITS), (2e9 + 1, Outcome.SPILL)])
def test_more_than_the_capacity_is_a_spill(peak, shown):
    """TR127's rule: the first context that allocates more than the device has."""
    assert classify(fits(1, 8000, peak), capacity_bytes=2e9, trend=None) is shown


def test_an_outcome_of_the_probe_stands():
    """What failed did not spill; and too few points make no trend."""
    point = MemoryPoint(batch=1, context=8, outcome=Outcome.OUT_OF_MEMORY, seconds=1e9)
    assert classify(point, capacity_bytes=1.0, trend=time_trend(trend_points())) is Outcome.OUT_OF_MEMORY
    assert time_trend(trend_points()[:2]) is None
    assert math.isnan(slowdown(point, None))


# --- the search -------------------------------------------------------------------------------------------------------


def search(limit, *, ceiling=None, start=1, downwards=False, resolution=1 / 128):
    sizes = []
    while (size := next_size(sizes, start=start, floor=1, ceiling=ceiling, resolution=resolution, downwards=downwards)) is not None:
        beyond = ceiling is not None and size >= ceiling
        outcome = Outcome.ARCHITECTURE_LIMIT if beyond else Outcome.FITS if size <= limit else Outcome.OUT_OF_MEMORY
        sizes.append((size, outcome))
        assert len(sizes) < 60
    return sizes


@settings(max_examples=200, deadline=None)
@given(limit=st.integers(1, 10**6), start=st.integers(1, 4096), downwards=st.booleans())
def test_any_limit_is_bracketed(limit, start, downwards):
    """Upwards and downwards, the limit lies inside the bracket, which is as narrow as asked."""
    found = bracket(search(limit, start=min(start, limit) if not downwards else 2 * limit, downwards=downwards))
    assert found.fits <= limit < found.fails
    assert found.fails - found.fits <= max(1, found.fits // 128)


@pytest.mark.parametrize("limit", [65536, 100_000, 131_071])
def test_seventeen_doublings_take_at_most_25_probes(limit):
    """From 1 to 131,072 and the bisection after it."""
    assert len(search(limit)) <= 25


@pytest.mark.parametrize("ceiling", [2, 65, 1025, 8193])
def test_architecture_is_found_exactly(ceiling):
    """Where memory is ample, the search ends at the last position, whatever the resolution, from both sides."""
    for downwards, start in ((False, 1), (True, 2 * ceiling)):
        found = bracket(search(10**9, ceiling=ceiling, start=start, downwards=downwards))
        assert (found.fits, found.fails, found.reason) == (ceiling - 1, ceiling, Outcome.ARCHITECTURE_LIMIT)


def test_nothing_fits():
    """A search downwards that finds nothing ends at the floor."""
    assert bracket(search(0, start=64)).fits == 0


def test_a_moving_limit_contradicts_itself():
    """A success above a failure is counted; a monotone search has none."""
    assert contradictions([(1, Outcome.FITS), (4, Outcome.OUT_OF_MEMORY), (8, Outcome.FITS)]) == 1
    assert contradictions(search(1000)) == 0


def test_fitting_once_is_fitting():
    """A size that was slow once, on a busy host, and fitted when tried again, fits; order does not matter."""
    sizes = [(4, Outcome.FITS), (8, Outcome.SPILL), (8, Outcome.FITS), (16, Outcome.SPILL)]
    assert settled(sizes) == [(4, Outcome.FITS), (8, Outcome.FITS), (16, Outcome.SPILL)]


# --- fragmentation ----------------------------------------------------------------------------------------------------


def state(allocated, reserved, split, largest):
    return AllocatorState(
        allocated_bytes=allocated, reserved_bytes=reserved, active_bytes=allocated, inactive_split_bytes=split, largest_free_bytes=largest
    )


def test_three_definitions_differ():
    """Holes of 4 in 100: half of the memory is split, the largest request is a 25th of what is free, and slack says only "half"."""
    holes = state(200, 400, 200, 8)
    assert inactive_split_share(holes) == 0.5
    assert largest_block_fragmentation(holes) == 0.96
    assert slack(holes) == 0.5
    cache = state(200, 400, 0, 200)
    assert inactive_split_share(cache) == largest_block_fragmentation(cache) == 0.0
    assert slack(cache) == 0.5


def test_unknown_blocks_are_no_zero():
    """An allocator that does not tell its blocks has no largest-block fragmentation, rather than none of it."""
    assert math.isnan(largest_block_fragmentation(state(1, 4, 2, None)))
    assert largest_block_fragmentation(state(4, 4, 0, None)) == 0.0
    assert inactive_split_share(state(0, 0, 0, 0)) == 0.0


def test_impossible_states_are_refused():
    """More allocated than reserved is a misread key."""
    with pytest.raises(ValueError, match="cannot exceed"):
        state(5, 4, 0, 0)
    with pytest.raises(ValueError, match="must be >= 0"):
        state(-1, 4, 0, 0)


def test_growth_is_what_each_repeat_leaves():
    """A constant leak is found; one late cache, and a first run that fills caches, are none."""
    assert growth_per_repeat([0, *np.arange(100, 900, 100)]) == 100.0
    assert growth_per_repeat([0, 500, 500, 500, 900, 900, 900, 900, 900]) == 0.0
    with pytest.raises(ValueError, match="at least 4"):
        growth_per_repeat([1, 2])


@pytest.mark.parametrize(("square", "found"), [(0.0, False), (2.0, True)])
def test_a_square_that_nobody_announced_is_found(square, found):
    """Masks of sliding windows and fallbacks of fused attention grow with the square: a straight line would foresee too much room."""
    contexts = (64, 256, 1200, 2400, 2300, 2250)
    peaks = [1e6 + 4000 * t + square * t * t + (300, -300)[i % 2] for i, t in enumerate(contexts)]
    points = [MemoryPoint(batch=1, context=t, outcome=Outcome.FITS, peak_bytes=p) for t, p in zip(contexts, peaks, strict=True)]
    fit = fit_bytes(points, kv_bytes_per_token=512, quadratic=False, rounding_bytes=16)
    assert ("square" in fit.terms) is found
    true = 1e6 + 4000 * 5000 + square * 5000**2
    assert fit.at(batch=1, context=5000) == pytest.approx(true, rel=0.01)
