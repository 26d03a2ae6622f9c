"""Where does memory end, was it foreseen, what ends there, and how broken up is it on the way?"""

from __future__ import annotations

import pytest

from pytest_physics.experiments.vram_cliff import VramCliff, run_vram_cliff
from pytest_physics.metrology.memory import Outcome
from pytest_physics.metrology.uncertainty import Estimate
from pytest_physics.workloads.allocator import KIB, alternate_frees, mixed_sizes, sequence_lengths, stack_order
from pytest_physics.workloads.probers import TwinProber, prober_for, tortured

CPU_RESOLUTION = 1 / 64
"""A probe on a CPU is a process: two bisections fewer in each pass."""


def searched(instrument, session, prober, **options) -> VramCliff:
    """One search; its probing process ends with it."""
    try:
        return run_vram_cliff(instrument, session, prober, **options)
    finally:
        prober.close()


@pytest.fixture(scope="module")
def context_cliff(rig) -> VramCliff:
    """Context at batch 1 on the GPU."""
    return searched(rig.gpu, rig.session, prober_for(rig.gpu.device))


@pytest.fixture(scope="module")
def batch_cliff(rig) -> VramCliff:
    """Batch at a context of 128 tokens on the GPU: one sequence is about a hundredth of the memory."""
    return searched(rig.gpu, rig.session, prober_for(rig.gpu.device), axis="batch", other=128)


@pytest.fixture(scope="module")
def cpu_cliff(rig) -> VramCliff:
    """Context at batch 1 under an address-space limit on the CPU."""
    return searched(rig.cpu, rig.session, prober_for(rig.cpu.device), resolution=CPU_RESOLUTION)


@pytest.mark.claim("The largest context is predicted within 3 % of the memory from probes well below it")
def test_context_is_foreseen(context_cliff, judge):
    judge(context_cliff.prediction_error <= 0.03)
    judge(context_cliff.prediction_error >= -0.03)
    judge(context_cliff.prediction_distance <= 1.0)


@pytest.mark.claim("The largest batch is predicted within 3 % of the memory from probes well below it")
def test_batch_is_foreseen(batch_cliff, judge):
    judge(batch_cliff.prediction_error <= 0.03)
    judge(batch_cliff.prediction_error >= -0.03)


@pytest.mark.claim("Under an address-space limit on the CPU the largest context is predicted within 3 % of the memory")
def test_context_is_foreseen_on_the_cpu(cpu_cliff, judge):
    judge(cpu_cliff.prediction_error <= 0.03)
    judge(cpu_cliff.prediction_error >= -0.03)


@pytest.mark.claim("Searching the limit again, downwards, finds it where it was found upwards, to one step")
def test_cliff_has_no_hysteresis(context_cliff, judge):
    judge(context_cliff.spread <= 1.0)


@pytest.mark.claim("Under an address-space limit on the CPU the search downwards ends where the search upwards did, to one step")
def test_cliff_has_no_hysteresis_on_the_cpu(cpu_cliff, judge):
    judge(cpu_cliff.spread <= 1.0)


@pytest.mark.claim("Where the driver goes on in host memory without a word, the cliff is one of time: at least five times slower")
def test_spill_is_a_cliff_of_time(context_cliff, judge):
    judge(context_cliff.slowdown >= 5.0)


@pytest.mark.claim("GPT-2 XL ends at 1024 tokens by its architecture, not by memory")
def test_gpt2_xl_ends_by_architecture(rig, judge):
    if not rig.gpu.simulated:
        pytest.skip("GPT-2 XL is probed on the twin only: its 1.6 billion weights are not built for this")
    cliff = searched(rig.gpu, rig.session, TwinProber(rig.gpu.device, "gpt2-xl"))
    judge(cliff.found <= 1024)
    judge(cliff.found >= 1024)
    judge(cliff.limited_by(Outcome.ARCHITECTURE_LIMIT) >= 1)


@pytest.mark.claim("Freeing every other block leaves more than a fifth of the memory in holes, and reusing whole segments leaves none")
def test_fragmentation_is_seen(rig, vram, judge):
    if not hasattr(vram.allocator, "allocate"):
        pytest.skip("a process's resident memory has no allocator whose holes can be seen")
    planted = vram.torture("alternate frees", tortured(rig.gpu.device, alternate_frees()))
    clean = vram.torture("stack order", tortured(rig.gpu.device, stack_order()))
    for watch in (planted, clean):
        rig.session.result("VRAM fragmentation", "inactive split bytes over reserved, at the end", end_of(watch), pattern=watch.name)
    judge(end_of(planted) > 0.2)
    judge(end_of(clean) < 0.02)


@pytest.mark.parametrize("expandable", [False, True], ids=["fixed segments", "expandable segments"])
@pytest.mark.claim("Blocks of many sizes near capacity leave more than 2 % of the memory in holes, and the holes are seen while they exist")
def test_long_runs_near_capacity_fragment(rig, vram, judge, expandable):
    if not hasattr(vram.allocator, "allocate"):
        pytest.skip("a process's resident memory has no allocator whose holes can be seen")
    free = vram.allocator.available_bytes()
    patterns = {
        "mixed sizes": mixed_sizes(free, fill=0.95, rounds=200),
        "sequence lengths": sequence_lengths(free, bytes_per_token=32 * KIB, fill=0.95, rounds=200),
    }
    setting = "expandable segments" if expandable else "fixed segments"
    for name, steps in patterns.items():
        watch = vram.torture(f"{name}, {setting}", tortured(rig.gpu.device, steps, expandable_segments=expandable))
        at = {"pattern": name, "segments": setting}
        rig.session.result("VRAM fragmentation", "inactive split bytes over reserved, at its worst", watch.fragmentation, **at)
        rig.session.result("VRAM fragmentation", "requests refused though as many bytes were free", watch.refused, **at)
        judge(watch.peak / Estimate.exact(free, "byte") >= 0.8)
        judge(watch.fragmentation > 0.02)


def end_of(watch):
    """Fragmentation with the holes still open."""
    return watch.fragmentation_by("inactive split", when="end")
