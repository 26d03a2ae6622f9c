"""What does a token cost, and what does batching save?"""

from __future__ import annotations

import pytest


@pytest.mark.claim("Decoding at batch 8 costs at most half the energy per token of batch 1")
def test_batching_halves_the_energy(joule_curve, judge):
    judge(joule_curve.per_token(8) / joule_curve.per_token(1) <= 0.5)


@pytest.mark.claim("Prefilling at batch 8 costs at least half the energy per token of batch 1: prefill is bound by arithmetic")
def test_batching_does_not_halve_the_energy_of_prefill(joule_curve, judge):
    judge(joule_curve.per_token(8, "prefill") / joule_curve.per_token(1, "prefill") >= 0.5)


@pytest.mark.claim("On the CPU, decoding at batch 8 takes at most half the time per token of batch 1")
def test_batching_halves_the_time_on_the_cpu(latency_curve, judge):
    judge(latency_curve.time_per_token(8) / latency_curve.time_per_token(1) <= 0.5)


@pytest.mark.claim("On the CPU, decoding at batch 8 costs at most half the energy per token of batch 1")
def test_batching_halves_the_energy_on_the_cpu(latency_curve, judge):
    judge(latency_curve.per_token(8) / latency_curve.per_token(1) <= 0.5)
