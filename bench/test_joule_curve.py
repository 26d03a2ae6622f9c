"""What does a token cost, and what does batching save?"""

from __future__ import annotations

import pytest


@pytest.mark.claim("Decoding at batch 8 costs at most half the energy per token of batch 1")
def test_batching_halves_the_energy(joule_curve, judge):
    judge(joule_curve.per_token(8) / joule_curve.per_token(1) <= 0.5)


@pytest.mark.claim("In a very large batch a decoded token costs at most a tenth of what it costs alone")
def test_large_batches_pay_off(joule_curve, judge):
    judge(joule_curve.per_token_limit() / joule_curve.per_token(1) <= 0.1)


@pytest.mark.claim("On the CPU, decoding at batch 8 takes at most half the time per token of batch 1")
def test_batching_halves_the_time_on_the_cpu(latency_curve, judge):
    judge(latency_curve.time_per_token(8) / latency_curve.time_per_token(1) <= 0.5)


@pytest.mark.claim("On the CPU, decoding at batch 8 costs at most half the energy per token of batch 1")
def test_batching_halves_the_energy_on_the_cpu(latency_curve, judge):
    judge(latency_curve.per_token(8) / latency_curve.per_token(1) <= 0.5)
