"""Probes on a twin and in fresh processes: how each can end, and what they report."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from pytest_physics.devices.twin import Fault, TwinDevice
from pytest_physics.errors import ChannelUnavailableError, ConfigurationError
from pytest_physics.metrology.memory import MemoryPoint, Outcome, fit_bytes, inactive_split_share
from pytest_physics.workloads import probers
from pytest_physics.workloads.allocator import TwinAllocator, alternate_frees
from pytest_physics.workloads.memory_probe import ModelSpec
from pytest_physics.workloads.probers import (
    SMALL,
    Probe,
    ProbeProcess,
    ProcessProber,
    Subject,
    TwinProber,
    known_sizes,
    require_address_space_limit,
    tortured,
)

MIB = 2**20
GROUPED = ModelSpec(
    name="grouped", model_type="llama",
    arguments={
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2,
        "vocab_size": 16384, "max_position_embeddings": 65536, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    },
)  # fmt: skip
WIDE = ModelSpec(
    name="wide", model_type="gpt2",
    arguments={
        "n_layer": 1, "n_embd": 128, "n_head": 8, "vocab_size": 24576, "n_positions": 8192, "bos_token_id": 0, "eos_token_id": 0,
    },
)  # fmt: skip


# --- a twin -----------------------------------------------------------------------------------------------------------


def test_the_twin_refuses_or_spills():
    """The same size: a data-centre card refuses it, a laptop's driver pages it, 25 times slower."""
    assert TwinProber(TwinDevice("a100")).probe(1, 60_000).outcome is Outcome.OUT_OF_MEMORY
    laptop = TwinProber(TwinDevice("rtx4080-laptop"))
    fits, spilled = laptop.probe(1, 11_000), laptop.probe(1, 12_000)
    assert spilled.outcome is Outcome.FITS
    assert spilled.peak_bytes > laptop.capacity_bytes > fits.peak_bytes
    assert spilled.seconds > 20 * fits.seconds


def test_the_twin_ends_at_the_last_position():
    """GPT-2 XL has 1,024."""
    prober = TwinProber(TwinDevice("a100"), "gpt2-xl")
    assert prober.probe(1, 1024).outcome is Outcome.FITS
    beyond = prober.probe(1, 1025)
    assert beyond.outcome is Outcome.ARCHITECTURE_LIMIT
    assert "1024 positions" in beyond.message


def test_the_twin_has_a_time_limit():
    """A spilled pass that would take longer is killed at its limit, in virtual time; the memory is free again."""
    device = TwinDevice("rtx4080-laptop")
    found = TwinProber(device, limit_s=1.0).probe(1, 12_000)
    assert found.outcome is Outcome.KILLED
    assert "1 s" in found.message
    assert device.clock.now_ns() / 1e9 == pytest.approx(1.0, rel=0.1)  # the clock that decides the speed settles on the way
    assert device.allocated_bytes == 0


def test_the_twin_shows_foreign_memory():
    """A foreign process is named with its pid while it is there."""
    device = TwinDevice("a100", faults=(Fault(kind="foreign_process", start_s=0.0),))
    assert TwinProber(device).probe(1, 64).foreign == {probers.TWIN_FOREIGN: probers.TWIN_FOREIGN_BYTES}
    assert TwinProber(TwinDevice("a100")).probe(1, 64).foreign == {}


def test_the_twin_counts_what_this_run_holds():
    """What lies on the card outside of probes leaves less for them, and is in the account; nothing of it is freed by a probe."""
    device = TwinDevice("a100")
    device.allocate(10 * 2**30)
    prober = TwinProber(device)
    found = prober.probe(1, 64)
    assert found.foreign == {probers.TWIN_OWN: 10 * 2**30}
    assert found.capacity_bytes == prober.capacity_bytes - 10 * 2**30
    assert prober.probe(1, 40_000).outcome is Outcome.OUT_OF_MEMORY
    assert device.allocated_bytes == 10 * 2**30


def test_torture_runs_where_nothing_else_was():
    """On a twin in an allocator of its own, whose cache goes back; in a fresh process on a CPU, where segments cannot be expandable."""
    device = TwinDevice("rtx4080-laptop")
    for expandable in (False, True):
        found = tortured(device, alternate_frees(), expandable_segments=expandable)
        assert found.source == TwinAllocator.source
        assert inactive_split_share(found.states[-1]) > 0.2
        assert device.allocated_bytes == 0
    cpu = SimpleNamespace(spec=SimpleNamespace(kind="cpu"))
    assert tortured(cpu, alternate_frees(count=200, n_bytes=32 * 1024)).source == "glibc"
    with pytest.raises(ChannelUnavailableError, match="no expandable segments"):
        tortured(cpu, alternate_frees(), expandable_segments=True)


def test_unknown_models_name_the_nearest():
    """A misspelt model is a configuration error."""
    with pytest.raises(ConfigurationError, match="did you mean 'llama-3-8b'"):
        known_sizes("llama3-8b")
    with pytest.raises(ConfigurationError, match="'dtype' must be one of"):
        known_sizes("gpt2", "int3")


def test_number_format_scales_the_cache():
    """Single precision takes twice the bytes of half."""
    assert known_sizes("gpt2", "float32").kv_bytes_per_token == 2 * known_sizes("gpt2").kv_bytes_per_token


# --- fresh processes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def process():
    """One probing process for all tests of this file: it imports torch once."""
    found = ProbeProcess(SMALL.to_json())
    yield found
    found.close()


@pytest.fixture(scope="module")
def small(process):
    return ProcessProber(SMALL, process=process)


def test_a_failed_probe_poisons_nobody(small):
    """The same size takes the same memory before and after one that failed."""
    before = small.probe(1, 1024)
    failed = small.probe(1, 8000)
    after = small.probe(1, 1024)
    assert failed.outcome is Outcome.OUT_OF_MEMORY
    assert "allocate memory" in failed.message
    assert before.outcome is after.outcome is Outcome.FITS
    assert after.peak_bytes == pytest.approx(before.peak_bytes, rel=0.02)


def test_the_process_ends_at_the_last_position(small):
    """Found from the configuration, before anything is built."""
    assert small.probe(1, 8193).outcome is Outcome.ARCHITECTURE_LIMIT


def test_a_hanging_probe_is_killed_cleanly(process, small):
    """Its limit ends it; nothing of it is left, and the process answers the next request."""
    started = time.monotonic()
    answer = process.ask({"action": "hang"}, limit_s=0.5)
    assert answer["outcome"] == "KILLED"
    assert "time limit of 0.5 s" in answer["message"]
    assert time.monotonic() - started < 5.0
    assert psutil.Process(process.pid).children() == []
    assert small.probe(1, 64).outcome is Outcome.FITS


def test_a_cgroup_kills_without_a_word(process):
    """A cgroup's limit cannot be caught: the death is reported with its signal."""
    group = Path("/sys/fs/cgroup/memory") / f"pytest-physics-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(64 * MIB))
    except OSError:
        pytest.skip("no writable memory cgroup (v1) here")
    victim = ProbeProcess()
    try:
        victim.ask({"action": "fill", "fill_bytes": 1}, limit_s=10.0)
        pid = victim.pid
        (group / "cgroup.procs").write_text(str(pid))
        answer = victim.ask({"action": "fill", "fill_bytes": 512 * MIB}, limit_s=20.0)
    finally:
        victim.close()
        for _ in range(50):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.05)
    assert answer["outcome"] == "KILLED"
    assert answer.get("signal") == 9 or "no answer" in answer["message"]
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("spec", [SMALL, GROUPED, WIDE], ids=lambda spec: spec.name)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cliff_is_predicted_on_the_cpu(process, spec, dtype):
    """Four probes at up to 40 % of the memory foresee it to 3 %: a pass expected at 97 % fits, one expected at 103 % does not."""
    prober = ProcessProber(replace(spec, dtype=dtype), process=process)
    sizes = prober.subject.sizes
    scale = 2 if dtype == "bfloat16" else 1
    points = [point_of(prober.probe(1, scale * context)) for context in (500, 700, 900, 1000 if spec is WIDE else 1400)]
    fit = fit_bytes(points, kv_bytes_per_token=sizes.kv_bytes_per_token, quadratic=False, rounding_bytes=prober.rounding_bytes)
    assert max(point.peak_bytes for point in points) < 0.6 * prober.capacity_bytes
    below, above = (int(fit.limit(share * prober.capacity_bytes, axis="context", other=1)) for share in (0.97, 1.03))
    assert prober.probe(1, below).outcome is Outcome.FITS
    assert prober.probe(1, above).outcome is Outcome.OUT_OF_MEMORY


def point_of(probe: Probe):
    return MemoryPoint(batch=probe.batch, context=probe.context, outcome=probe.outcome, peak_bytes=probe.peak_bytes, seconds=probe.seconds)


def test_sizes_come_from_the_configuration(process):
    """Grouped heads, head size and parameters as transformers has them; nothing is built for it."""
    sizes = ProcessProber(GROUPED, process=process).subject.sizes
    assert (sizes.kv_heads, sizes.heads, sizes.head_dim, sizes.max_positions) == (2, 8, 8, 65536)
    assert sizes.kv_bytes_per_token == 2 * 2 * 2 * 8 * 4


def test_a_model_without_positions_has_no_architecture_limit(process):
    """ALiBi models have no largest position: only memory ends them."""
    spec = ModelSpec(
        name="alibi", model_type="bloom", arguments={"hidden_size": 64, "n_layer": 1, "n_head": 4, "vocab_size": 512}, attention="eager"
    )
    assert ProcessProber(spec, process=process).subject.sizes.max_positions is None


def test_a_model_that_cannot_be_built_is_no_finding(process):
    """A misspelt architecture is a configuration error with transformers' words."""
    with pytest.raises(ConfigurationError, match="no usable configuration"):
        ProcessProber(ModelSpec(name="x", model_type="gpt99"), process=process)
    with pytest.raises(ConfigurationError, match="there is no directory '/no/such/model'"):
        ProcessProber(ModelSpec(name="x", path="/no/such/model"), process=process)
    with pytest.raises(ConfigurationError, match="'model_type' or a 'path'"):
        ModelSpec(name="x")


def test_a_system_without_limits(monkeypatch):
    """Where the system enforces no address-space limit, nothing can be probed, and the reason is said."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ChannelUnavailableError, match="no memory limit can be set"):
        require_address_space_limit(MIB)


def test_a_lower_limit_is_there_already(monkeypatch):
    """A hard limit below the capacity leaves nothing to search; the same limit above it does not matter."""
    monkeypatch.setattr("resource.getrlimit", lambda _which: (MIB, MIB))
    with pytest.raises(ChannelUnavailableError, match="limited to 1048576 bytes already"):
        require_address_space_limit(MIB + 1)
    require_address_space_limit(MIB)


def test_a_process_that_ends_is_killed_and_started_again():
    """Whoever ends the probing process ends one probe, not the search."""
    process = ProbeProcess()
    try:
        process.ask({"action": "fill", "fill_bytes": 1}, limit_s=10.0)
        psutil.Process(process.pid).kill()
        assert process.ask({"action": "fill", "fill_bytes": 1}, limit_s=10.0)["outcome"] == "KILLED"
        assert process.pid is None
    finally:
        process.close()


def test_subject_says_whether_scores_are_kept():
    """Only eager attention keeps them."""
    subject = Subject(name="x", dtype="float16", attention="eager", sizes=known_sizes("gpt2"))
    assert subject.quadratic
    assert not replace(subject, attention="sdpa").quadratic


def test_a_model_from_a_directory(process, tmp_path):
    """What save_pretrained writes is probed with its own weights, in the number format and attention that are named."""
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    arguments = {**SMALL.arguments, "n_positions": 512, "vocab_size": 512, "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    (tmp_path / "config.json").write_text(json.dumps(arguments), encoding="utf-8")
    weights = {"transformer.wte.weight": np.zeros((512, 64), np.float32)}  # what is missing is made, as transformers does
    safetensors_numpy.save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    prober = ProcessProber(ModelSpec(name="saved", path=str(tmp_path), dtype="bfloat16", attention="eager"), process=process)
    assert (prober.subject.dtype, prober.subject.attention, prober.subject.quadratic) == ("bfloat16", "eager", True)
    assert prober.subject.sizes.bytes_per_number == 2
    assert prober.probe(2, 512).outcome is Outcome.FITS
    assert prober.probe(1, 513).outcome is Outcome.ARCHITECTURE_LIMIT
