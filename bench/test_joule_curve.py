"""What does a token cost, what does batching save, and which batch is best?"""

from __future__ import annotations

import pytest


@pytest.mark.claim("Decoding at batch 8 costs at most half the energy per token of batch 1")
def test_batching_halves_the_energy(joule_curve, judge):
    judge(joule_curve.per_token(8) / joule_curve.per_token(1) <= 0.5)


@pytest.mark.claim("In a very large batch a decoded token costs at most a tenth of what it costs alone")
def test_large_batches_pay_off(joule_curve, judge):
    judge(joule_curve.per_token_limit() / joule_curve.per_token(1) <= 0.1)


@pytest.mark.claim("Up to batch 8, a step of decoding spends more on the model's weights than on its tokens")
def test_weights_cost_more_than_tokens(joule_curve, judge):
    judge(joule_curve.break_even() >= 8)


@pytest.mark.claim("The best batch whose steps keep the latency limit costs at most a quarter of batch 1 per token")
def test_the_best_batch_under_the_latency_limit(joule_curve, judge):
    best = joule_curve.best_batch()  # 'experiment.max_latency_s'
    judge(best >= 4)
    judge(joule_curve.latency(int(best.value)) <= joule_curve.max_latency_s)
    judge(joule_curve.per_token(int(best.value)) / joule_curve.per_token(1) <= 0.25)


@pytest.mark.claim("At batch 8 a kilowatt hour decodes at least a million tokens")
def test_a_kilowatt_hour_goes_far(joule_curve, judge):
    judge(joule_curve.tokens_per_kwh(8) >= 1e6)


@pytest.mark.claim("At batch 8, a million decoded tokens cost less than one unit of currency in electricity")
def test_a_million_tokens_are_cheap(joule_curve, judge):
    judge(joule_curve.cost_per_million_tokens(8) <= 1.0)  # NOT_TESTED until [tool.physics.prices.electricity] states a price


@pytest.mark.claim("On the CPU, decoding at batch 8 takes at most half the time per token of batch 1")
def test_batching_halves_the_time_on_the_cpu(latency_curve, judge):
    judge(latency_curve.time_per_token(8) / latency_curve.time_per_token(1) <= 0.5)


@pytest.mark.claim("On the CPU, decoding at batch 8 costs at most half the energy per token of batch 1")
def test_batching_halves_the_energy_on_the_cpu(latency_curve, judge):
    judge(latency_curve.per_token(8) / latency_curve.per_token(1) <= 0.5)
