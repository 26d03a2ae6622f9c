"""Copies and products as roofs: counted exactly, of known cost on a twin."""

from __future__ import annotations

import pytest

from pytest_physics.devices.cpu import CpuDevice
from pytest_physics.devices.twin import TwinDevice
from pytest_physics.errors import ConfigurationError
from pytest_physics.workloads.libraries import import_torch
from pytest_physics.workloads.roofs import CopyLoad, KernelCosts, roofs_of, twin_copy, twin_matmul
from pytest_physics.workloads.stress_models import stress_model_for, traffic_of


def test_a_copy_counts_what_it_reads_and_writes():
    """2·n bytes, and the bytes are really there afterwards."""
    load = CopyLoad(1 << 16, threads=1)
    load.run_iterations(2)
    assert load.bytes_per_iteration == 2 << 16
    assert load.flop_per_iteration == 0
    assert bool(import_torch().equal(load._source, load._target))
    assert load.describe()["bytes_per_iteration"] == str(2 << 16)


@pytest.mark.parametrize("bad", [0, -1])
def test_nothing_to_copy_is_an_error(bad):
    """Neither an empty array nor no iteration."""
    with pytest.raises(ConfigurationError, match="'size_bytes' must be >= 1"):
        CopyLoad(bad)
    with pytest.raises(ConfigurationError, match="'iterations' must be >= 1"):
        CopyLoad(8, threads=1).run_iterations(bad)
    with pytest.raises(ConfigurationError, match="'iterations' must be >= 1"):
        twin_copy(TwinDevice("ideal")).run_iterations(bad)


@pytest.mark.parametrize(
    ("make", "count", "rate"), [(twin_copy, "bytes_per_iteration", 0.92e12), (twin_matmul, "flop_per_iteration", 0.85e14)]
)
def test_a_twin_reaches_the_known_share_of_its_peak(make, count, rate):
    """Known answer on the ideal card: 92 % of 1 TB/s, 85 % of 100 Tflop/s."""
    device = TwinDevice("ideal")
    kernel = make(device, KernelCosts())
    start_ns = device.clock.now_ns()
    kernel.run_iterations(4)
    assert 4 * getattr(kernel, count) / ((device.clock.now_ns() - start_ns) / 1e9) == pytest.approx(rate, rel=1e-6)


def test_a_host_has_both_roofs():
    """The same interface on the CPU; products count no bytes, copies no operations."""
    roofs = roofs_of(CpuDevice())
    roofs.arithmetic.run_iterations(1)
    assert roofs.memory.bytes_per_iteration > 0 == roofs.memory.flop_per_iteration
    assert roofs.arithmetic.flop_per_iteration > 0 == roofs.arithmetic.bytes_per_iteration
    assert {roofs.memory.describe()["workload"], roofs.arithmetic.describe()["workload"]} == {"copy", "matmul"}


def test_the_hosts_model_holds_more_than_a_cache_and_its_work_is_known():
    """Weights that a cache of 32 MiB does not hold; at batch 1 half an operation per byte: two for each weight of four bytes."""
    model = stress_model_for(CpuDevice())
    decode = traffic_of(model, "decode", batch=1, context=1, tokens=1)
    assert decode.memory_bytes > 2 * 32 * 2**20
    assert decode.flop / decode.memory_bytes == pytest.approx(0.5, rel=0.01)
    model.close()
