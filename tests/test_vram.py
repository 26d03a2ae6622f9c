"""The memory monitor: watches, growth, forecasts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.twin import TwinDevice
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.experiments.vram_cliff import run_vram_cliff
from pytest_physics.metrology.memory import FRAGMENTATIONS
from pytest_physics.session import Plan, Session
from pytest_physics.vram import Fit, ProcessMemory, VRAMMonitor, monitor_for
from pytest_physics.workloads.allocator import MIB, TwinAllocator, alternate_frees, torture
from pytest_physics.workloads.probers import TwinProber, known_sizes


@pytest.fixture
def monitor():
    return VRAMMonitor(TwinAllocator(TwinDevice("a100")))


def test_watch_sees_the_peak(monitor):
    """Above what was there before, between the looks."""
    kept = monitor.allocator.allocate(100 * MIB)
    with monitor.watch() as m:
        block = monitor.allocator.allocate(40 * MIB)
        m.look()
        monitor.allocator.free(block)
    assert m.peak_bytes == 40 * MIB
    monitor.allocator.free(kept)


def test_a_peak_between_two_looks_is_seen(monitor):
    """What is allocated and freed inside a watch, with nobody looking, is its peak; nested watches keep their own."""
    with monitor.watch() as outer:
        monitor.allocator.free(monitor.allocator.allocate(300 * MIB))
        with monitor.watch() as inner:
            monitor.allocator.free(monitor.allocator.allocate(40 * MIB))
    assert (outer.peak_bytes, inner.peak_bytes) == (300 * MIB, 40 * MIB)


def test_a_peak_of_a_process_is_seen():
    """The kernel's mark of resident memory: a block that is gone before anybody looks counts, and the next watch begins anew."""
    monitor = VRAMMonitor(ProcessMemory())
    if monitor.allocator.source != "process":
        pytest.skip("this kernel does not let a process begin its mark anew")
    with monitor.watch() as large:
        bytearray(b"x") * (200 * MIB)
    with monitor.watch() as nothing:
        pass
    assert large.peak_bytes == pytest.approx(200 * MIB, rel=0.1)
    assert nothing.peak_bytes < 50 * MIB


def test_a_kernel_without_a_mark_is_named(monkeypatch):
    """Then a process is seen only where it was looked at, and its record's source says so."""

    def refused(*_arguments, **_options):
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refused)
    process = ProcessMemory()
    assert "only where it was looked at" in process.source
    assert process.peak_bytes() == 0


def test_code_that_never_touches_the_twin_is_not_without_leaks(monitor):
    """A leak check that cannot fail is refused: real tensors do not lie on a twin."""
    kept = []
    with pytest.raises(ChannelUnavailableError, match="nothing was allocated on the twin"):
        monitor.assert_no_growth(lambda: kept.append(bytearray(MIB)), 8)


def test_an_unknown_definition_names_the_known(monitor):
    """Before anything is computed."""
    with monitor.watch() as m:
        pass
    for arguments in ({"definition": "bogus"}, {"definition": "slack", "when": "later"}):
        with pytest.raises(ValueError, match="definitions: inactive split, largest block, slack; when: worst, end"):
            m.fragmentation_by(**arguments)


@pytest.mark.parametrize("arguments", [{"context": 0}, {"context": 5, "batch": -1}, {"context": 5, "capacity_bytes": -1}])
def test_a_forecast_of_nothing_is_refused(monitor, arguments):
    """No batch, no context, no negative memory."""
    with pytest.raises(ValueError, match="must be >= 1"):
        monitor.will_fit(known_sizes("gpt2"), **arguments)


def test_estimates_need_a_run(monitor):
    """Outside of a run there is no record that an estimate could follow from; the error says what to do."""
    with monitor.watch() as m:
        pass
    with pytest.raises(RuntimeError, match="leave its 'with' block first, inside a run"):
        _ = m.peak


def test_growth_is_found_and_absent(monitor):
    """A leak of 2 MiB per run is refused with its size; the same code that frees is not."""
    kept = []
    with pytest.raises(AssertionError, match=r"left 2097152 bytes behind \(limit 1024"):
        monitor.assert_no_growth(lambda: kept.append(monitor.allocator.allocate(2 * MIB)), 8)
    monitor.assert_no_growth(lambda: monitor.allocator.free(monitor.allocator.allocate(2 * MIB)), 8)
    once = iter([2 * MIB])
    monitor.assert_no_growth(lambda: monitor.allocator.allocate(next(once, 0) or 1) if next(once, None) else None, 8)
    with pytest.raises(ValueError, match="'repeats'"):
        monitor.assert_no_growth(lambda: None, 2)


def test_forecast_by_formula_is_a_lower_bound(monitor):
    """Weights and cache alone can say no, or nothing: never yes."""
    sizes = known_sizes("llama-3-8b")
    assert monitor.will_fit(sizes, context=8000, batch=64).answer is Fit.NO
    assert monitor.will_fit(sizes, context=8000).answer is Fit.UNCERTAIN
    beyond = monitor.will_fit(sizes, context=8193)
    assert beyond.answer is Fit.NO
    assert "8192 positions" in beyond.reason
    assert not beyond


def test_process_memory_is_an_account():
    """Without a device, the process's own resident bytes."""
    monitor = VRAMMonitor(ProcessMemory())
    assert monitor.state().allocated_bytes > MIB
    assert monitor.will_fit(known_sizes("gpt2"), context=10, capacity_bytes=MIB).answer is Fit.NO


def test_a_run_records_watches_and_forecasts(tmp_path):
    """Inside a run peaks and fragmentation are estimates; a searched cliff forecasts yes, no and uncertain."""
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters={"preset": "a100"})})
    with Session.start(load_settings(tmp_path), plan, directory=tmp_path) as session:
        gpu = session.rig.gpu
        monitor = monitor_for(gpu, session)
        watch = monitor.torture("planted", torture(monitor.allocator, alternate_frees()))
        assert watch.fragmentation.value > 0.2
        assert watch.fragmentation_by("largest block").value > 0.9
        assert watch.fragmentation.provenance == "simulated"
        assert watch.peak.value == 400 * MIB
        monitor.allocator.empty_cache()
        cliff = run_vram_cliff(gpu, session, TwinProber(gpu.device), repeats=1)
        predicted = cliff.predicted.value
        answers = [monitor.will_fit(cliff, context=int(share * predicted)).answer for share in (0.5, 1.0, 1.5)]
    assert answers == [Fit.YES, Fit.UNCERTAIN, Fit.NO]


def test_a_process_has_no_fragmentation_by_construction(tmp_path):
    """Resident bytes tell no holes: every definition is refused, where 0.00 would have been printed always."""
    plan = Plan.using({"cpu": DeviceSpec(kind="cpu")})
    with Session.start(load_settings(tmp_path), plan, directory=tmp_path) as session:
        monitor = monitor_for(session.rig.cpu, session)
        with monitor.watch() as watch:
            pass
        for definition in FRAGMENTATIONS:
            with pytest.raises(ChannelUnavailableError, match="no fragmentation by"):
                watch.fragmentation_by(definition)
        assert watch.peak.unit == "byte"
