"""The twin's language model and kernel: the roofline they claim."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_physics.devices.twin import TwinDevice, TwinLoad
from pytest_physics.errors import ConfigurationError
from pytest_physics.workloads.base import Kernel, Workload
from pytest_physics.workloads.twin import ModelShape, RooflineCosts, TwinKernel, TwinLanguageModel

S = 1_000_000_000


def model(**arguments) -> TwinLanguageModel:
    return TwinLanguageModel(TwinDevice("ideal"), **arguments)


def timed(device: TwinDevice, work) -> float:
    start_ns = device.clock.now_ns()
    work()
    return (device.clock.now_ns() - start_ns) / S


def test_protocols_are_met():
    """The twin's loads are what experiments ask for."""
    device = TwinDevice()
    assert isinstance(TwinLanguageModel(device), Workload)
    assert isinstance(TwinKernel(device), Kernel)


def test_prefill_is_bound_by_arithmetic():
    """Known answer: 2·N·B·n + 4·L·d·B·n(n+1)/2 operations at 45 % of the peak; and the time scales with the work."""
    lm = model()
    cost = lm.prefill_cost(4, 512)
    flop = 2 * 124_439_808 * 4 * 512 + 4 * 12 * 768 * 4 * 512 * 513 / 2
    assert cost.flop == flop
    assert timed(lm.device, lambda: lm.prefill(4, 512)) == pytest.approx(flop / (0.45 * 100e12), rel=1e-6)
    assert lm.prefill_cost(8, 512).seconds == pytest.approx(2 * cost.seconds)
    assert cost.load.clock_sensitivity == 1.0


def test_decode_is_bound_by_memory_and_nearly_flat_in_small_batch():
    """Known answer: weights and cache once per token at 75 % of the bandwidth; eight sequences take hardly longer than one."""
    lm = model()
    lm.prefill(1, 32)
    memory_bytes = 64 * 2 * 124_439_808 + (64 * 32 + 64 * 65 / 2) * 36_864
    seconds = timed(lm.device, lambda: lm.decode(1, 64))
    assert seconds == pytest.approx(memory_bytes / (0.75 * 1e12), rel=1e-6)
    assert lm.decode_cost(1, 64, context=32).load.clock_sensitivity == 0.0
    lm.prefill(8, 32)
    assert seconds < timed(lm.device, lambda: lm.decode(8, 64)) < 1.1 * seconds


def test_energy_per_token_falls_with_the_batch():
    """What a joule curve looks for, in the truth."""
    per_token_j = []
    for batch in (1, 8):
        lm = model()
        lm.prefill(batch, 32)
        start_ns = lm.device.clock.now_ns()
        lm.decode(batch, 64)
        per_token_j.append(float(lm.device.true_energy_j(start_ns, lm.device.clock.now_ns())) / (64 * batch))
    assert per_token_j[1] < 0.25 * per_token_j[0]


def test_decode_repeats_the_same_work_from_the_kept_context():
    """Every call starts from the context of the last prefill: equal times, equal memory afterwards."""
    lm = model()
    lm.prefill(2, 100)
    held = lm.device.allocated_bytes
    times = [timed(lm.device, lambda: lm.decode(2, 50)) for _ in range(3)]
    assert times[1:] == times[:-1]
    assert lm.device.allocated_bytes == held == 2 * 124_439_808 + 2 * 100 * 36_864


def test_prepare_keeps_a_context_that_fits():
    """No second prefill for the same context, one for another."""
    lm = model()
    assert timed(lm.device, lambda: lm.prepare(2, 100)) > 0
    assert timed(lm.device, lambda: lm.prepare(2, 100)) == 0
    assert timed(lm.device, lambda: lm.prepare(2, 101)) > 0


def test_decode_without_its_context_is_refused():
    """No hidden prefill inside a decode window: without context, or with another batch, nothing runs."""
    lm = model()
    with pytest.raises(ConfigurationError, match="none is kept"):
        lm.decode(1, 8)
    lm.prefill(2, 16)
    with pytest.raises(ConfigurationError, match="has batch 2"):
        lm.decode(1, 8)
    lm.warm_up()
    with pytest.raises(ConfigurationError, match="none is kept"):
        lm.decode(1, 4)


def test_context_limit_is_kept():
    """1024 positions: 1000 + 24 fit, 1000 + 25 do not; neither do 0 tokens."""
    lm = model()
    lm.prefill(1, 1000)
    lm.decode(1, 24)
    for work, message in ((lambda: lm.decode(1, 25), "do not fit"), (lambda: lm.prefill(1, 1025), "do not fit"),
                          (lambda: lm.prefill(0, 1), "must be >= 1")):  # fmt: skip
        with pytest.raises(ConfigurationError, match=message):
            work()


def test_memory_runs_out_and_is_given_back():
    """A cache that does not fit raises MemoryError and keeps no context; close returns every byte."""
    shape = ModelShape(context_limit=1_000_000)
    lm = model(shape=shape)
    lm.prefill(1, 1000)
    with pytest.raises(MemoryError):
        lm.prefill(1, 500_000)
    with pytest.raises(ConfigurationError, match="none is kept"):
        lm.decode(1, 1)
    lm.prefill(1, 1000)
    lm.close()
    assert lm.device.allocated_bytes == 0


def test_launching_bounds_small_steps():
    """With 5 ms of host time per pass, decode makes about the 198 tokens/s TR123 saw, at low utilisation and power."""
    device = TwinDevice()
    lm = TwinLanguageModel(device, costs=replace(RooflineCosts(), host_step_s=0.00505))
    lm.prefill(1, 16)
    start_ns = device.clock.now_ns()
    seconds = timed(device, lambda: lm.decode(1, 64))
    assert 64 / seconds == pytest.approx(198, rel=0.01)
    load = lm.decode_cost(1, 64, context=16).load
    assert load.utilisation_ratio < 0.2
    assert 25 < float(device.true_energy_j(start_ns, device.clock.now_ns())) / seconds < 40


def test_kernel_holds_its_load_for_the_time_asked():
    """Heat soak: the load for exactly that long, then the one before."""
    device = TwinDevice()
    kernel = TwinKernel(device, load=TwinLoad(intensity=0.4))
    kernel.warm_up()
    start_ns = device.clock.now_ns()
    assert kernel.run_for(60.0) == 60.0
    assert not device.load.busy
    power_w = float(device.true_energy_j(start_ns, device.clock.now_ns())) / 60
    assert 100 < power_w < 150
    with pytest.raises(ConfigurationError, match="duration_s"):
        kernel.run_for(0.0)


def test_descriptions_say_simulated():
    """What is recorded of a run cannot be mistaken for hardware."""
    for workload in (model(), TwinKernel(TwinDevice())):
        assert workload.describe()["simulated"] == "true"
