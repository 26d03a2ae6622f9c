"""The CUDA path without a card: torch's documented functions on a twin's allocator, and a probing process that only answers.

What stays unproven by it: that a real driver and allocator behave as documented.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import AbstractContextManager
from types import SimpleNamespace

import pytest
import torch
from fakenvml import H100, NoCompilerError, environment

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.twin import TwinDevice
from pytest_physics.devices.twin.memory import true_peak_bytes
from pytest_physics.errors import ChannelUnavailableError, ConfigurationError, DeviceUnavailableError, InvalidMeasurement
from pytest_physics.experiments.vram_cliff import run_vram_cliff
from pytest_physics.metrology.memory import Outcome, inactive_split_share, largest_block_fragmentation
from pytest_physics.session import Plan, Session
from pytest_physics.vram import VRAMMonitor
from pytest_physics.workloads import allocator, memory_probe
from pytest_physics.workloads.allocator import MIB, CudaAllocator, TwinAllocator, alternate_frees, stack_order, torture
from pytest_physics.workloads.memory_probe import ModelSpec
from pytest_physics.workloads.probers import BYTES, ENVIRONMENT, EXPANDABLE, ProcessProber, cuda_model, known_sizes, tortured

GIB = 2**30
MODEL = ModelSpec(name="llama-3.2-1b", model_type="llama", dtype="float16")


class FakeCuda:
    """``torch.cuda`` of one card, whose memory is a twin's."""

    OutOfMemoryError = torch.OutOfMemoryError

    def __init__(self, backend="native"):
        self.device = TwinDevice("rtx4080-laptop")
        self.memory = TwinAllocator(self.device)
        self.backend = backend
        self.initialised = False

    def init(self):
        self.initialised = True

    def get_allocator_backend(self):
        return self.backend

    def current_device(self):
        return 0

    def memory_stats(self, _device):
        assert self.initialised
        state = self.memory.state()
        bytes_of = {"allocated": state.allocated_bytes, "reserved": state.reserved_bytes, "active": state.active_bytes}
        return {f"{name}_bytes.all.current": n for name, n in bytes_of.items()} | {
            "inactive_split_bytes.all.current": state.inactive_split_bytes, "inactive_split.all.current": 3,
        }  # fmt: skip

    def memory_snapshot(self):
        words = {True: "inactive", False: "active_allocated"}
        segments = self.memory._segments.values()
        return [{"device": 0, "blocks": [{"size": b.size, "state": words[b.free]} for b in blocks]} for blocks in segments]

    def mem_get_info(self, _device):
        card = self.device.preset.card
        total = card.memory_bytes - card.memory_reserved_bytes
        return total - self.device.allocated_bytes, total

    def reset_peak_memory_stats(self, _device):
        assert self.initialised, "torch: Invalid device argument 0: did you call init?"
        self.memory.reset_peak()

    def max_memory_allocated(self, _device):
        return self.memory.peak_bytes()

    def memory_reserved(self, _device):
        return self.memory.state().reserved_bytes

    max_memory_reserved = memory_reserved

    def empty_cache(self):
        self.memory.empty_cache()


class FakeTorch:
    """``torch`` with that card."""

    uint8 = torch.uint8
    device = staticmethod(torch.device)

    def __init__(self, cuda):
        self.cuda = cuda

    def empty(self, n_bytes, *, dtype, device):
        assert (dtype, device) == (torch.uint8, "cuda:0")
        try:
            block = self.cuda.memory.allocate(n_bytes)
        except MemoryError:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {n_bytes} bytes") from None
        storage = SimpleNamespace(resize_=lambda _n: self.cuda.memory.free(block))
        return SimpleNamespace(untyped_storage=lambda: storage)


@pytest.fixture
def cuda(monkeypatch):
    """A card for :class:`CudaAllocator`."""
    found = FakeCuda()
    monkeypatch.setattr(allocator, "import_torch", lambda: FakeTorch(found))
    monkeypatch.setattr(allocator, "visible_device", torch.device)
    return found


# --- the allocator ----------------------------------------------------------------------------------------------------


def test_planted_and_clean_patterns_on_cuda(cuda):
    """Bytes and the largest block come from torch's statistics and snapshot; the cache is given back between two patterns."""
    card = CudaAllocator()
    planted = torture(card, alternate_frees())
    card.empty_cache()
    assert cuda.device.allocated_bytes == 0
    clean = torture(card, stack_order())
    assert inactive_split_share(planted.states[-1]) > 0.2
    assert largest_block_fragmentation(planted.states[-1]) > 0.9
    assert inactive_split_share(clean.states[-1]) < 0.02


def test_a_refusal_on_cuda_is_a_memory_error(cuda):
    """Torch's own error becomes the allocator's, and what was free at that moment is noted."""
    card = CudaAllocator()
    held = card.allocate(100 * MIB)
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        card.allocate(12 * GIB)
    card.free(held)
    assert card.available_bytes() == cuda.mem_get_info("cuda:0")[1]


def test_nested_watches_share_one_mark(cuda):
    """Torch has one high-water mark: an inner watch begins it anew, and the outer one keeps what it had seen before."""
    card = CudaAllocator()
    with VRAMMonitor(card).watch("outer") as outer:
        card.free(card.allocate(400 * MIB))
        with VRAMMonitor(card).watch("inner") as inner:
            card.free(card.allocate(100 * MIB))
    assert inner.peak_bytes == 100 * MIB
    assert outer.peak_bytes == 400 * MIB
    assert cuda.initialised


def test_a_driver_that_keeps_the_blocks_tells_none(cuda):
    """With ``cudaMallocAsync`` torch's statistics of blocks are always zero: no fragmentation is told, not one of 0."""
    cuda.backend = "cudaMallocAsync"
    state = CudaAllocator().state()
    assert state.inactive_split_bytes is None
    assert inactive_split_share(state) != inactive_split_share(state)


def test_no_such_card():
    """A device that is not there, or no CUDA device at all, is refused where it is named."""
    with pytest.raises(DeviceUnavailableError, match="cannot run on 'cuda:7' here"):
        CudaAllocator("cuda:7")
    with pytest.raises(ConfigurationError, match="must be a CUDA device"):
        CudaAllocator("cpu")


def test_the_default_monitor_takes_cuda_where_it_is_used(cuda, monkeypatch):
    """Only where this process has initialised CUDA already."""
    assert VRAMMonitor().allocator.source == "process"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert VRAMMonitor().allocator.source == CudaAllocator.source


# --- a probe ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def probing(cuda, monkeypatch):
    """``probe`` in this process, its passes replaced by what the test says; 8 MiB stay behind, as cuBLAS's workspace does."""
    fake = FakeTorch(cuda)
    fake.set_num_threads = lambda _n: None
    monkeypatch.setattr(memory_probe, "import_torch", lambda: fake)
    monkeypatch.setattr(ModelSpec, "config", lambda _self: None)
    cuda.init()
    monkeypatch.setattr(memory_probe, "_first_pass", lambda *_: cuda.memory.allocate(8 * MIB))

    def run(one_pass):
        monkeypatch.setattr(memory_probe, "_pass", one_pass)
        return memory_probe.probe({"model": MODEL.to_json(), "device": "cuda:0", "batch": 1, "context": 8, "capacity_bytes": 0})

    return run


def test_peak_and_capacity_count_the_same_bytes(cuda, probing):
    """What the first pass left is in torch's peak; it is in the capacity too, or a full card would seem to spill."""
    room = cuda.mem_get_info("cuda:0")[1]

    def filling(*_):
        cuda.memory.free(cuda.memory.allocate(room - 20 * MIB))
        return 0.5

    found = probing(filling)
    assert found["outcome"] == "FITS"
    assert found["capacity_bytes"] == room
    assert found["peak_bytes"] == room - 12 * MIB <= found["capacity_bytes"]
    assert found["reserved_bytes"] >= found["peak_bytes"]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")]
)
def test_cuda_and_its_libraries_run_out_of_memory(probing, error):
    """Either way of saying it is a finding; another error is none."""

    def failing(*_):
        raise error

    found = probing(failing)
    assert found["outcome"] == "OUT_OF_MEMORY"
    assert found["capacity_bytes"] > 0

    def broken(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        probing(broken)


def test_no_room_for_the_first_pass_is_out_of_memory(probing, monkeypatch):
    """A card that another process has filled: a finding, not a broken model."""

    def no_room(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(memory_probe, "_first_pass", no_room)
    assert probing(lambda *_: 0.0) == {"outcome": "OUT_OF_MEMORY", "message": "CUDA out of memory."}


def test_random_weights_are_drawn_on_the_card(monkeypatch):
    """Drawn on the host they would cost each of some fifty probes ten seconds of one core."""
    card = torch.device("meta")  # any device that is not the host

    class Card(AbstractContextManager):
        type = "cuda"

        def __enter__(self):
            card.__enter__()

        def __exit__(self, *error):
            card.__exit__(*error)

    spec = ModelSpec(
        name="small", model_type="gpt2",
        arguments={"n_layer": 1, "n_embd": 8, "n_head": 1, "vocab_size": 16, "bos_token_id": 0, "eos_token_id": 0},
    )  # fmt: skip
    model = memory_probe._build(spec, spec.config(), torch.float16, from_weights=False, on=Card())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    model = memory_probe._build(spec, spec.config(), torch.float16, from_weights=False, on=torch.device("cpu"))
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


@pytest.mark.parametrize("model", ["", "no such directory"])
def test_the_model_of_a_card_ends_by_memory_on_the_largest_card(model):
    """The least that a token of a whole pass takes, its cache and its logits, times all positions is far more than 288 GB."""
    spec = cuda_model(model)
    arguments = spec.arguments
    cache = 2 * arguments["num_hidden_layers"] * arguments["hidden_size"] * BYTES[spec.dtype]
    logits = arguments["vocab_size"] * BYTES[spec.dtype]
    assert (cache + logits) * arguments["max_position_embeddings"] > 4 * 288e9
    assert 140 * GIB / (cache + logits) < 300_000  # attention takes operations with the square of this


def test_a_card_on_which_nothing_runs_is_not_tested(monkeypatch):
    """A probe that finds CUDA broken says nothing about the model: the claim is NOT_TESTED, and no error of configuration."""

    class Broken:
        pid = 77

        def ask(self, _request, *, limit_s):
            assert limit_s > 0
            return memory_probe._ending({}, said, timed_out=False, status=0)

        def close(self):
            pass

    def refused(_request):
        raise ChannelUnavailableError("torch 2.13.0 cannot run on 'cuda:0': busy.")

    monkeypatch.setitem(memory_probe.ACTIONS, "describe", refused)
    answered = memory_probe.answer({"action": "describe", "limit_s": 20.0})
    assert answered["not_tested"]
    said = json.dumps(answered).encode()
    with pytest.raises(ChannelUnavailableError, match=r"'llama-3\.2-1b' cannot be probed: torch 2\.13\.0 cannot run on 'cuda:0': busy"):
        ProcessProber(MODEL, device="cuda:0", process=Broken())


# --- a search ---------------------------------------------------------------------------------------------------------


class FakeProcess:
    """A probing process with a card of 12 GiB and the twin's law of memory; ``taken`` bytes of it go away after ``after`` probes."""

    pid = 77

    def __init__(self, taken=0, after=10**9, total=12 * GIB):
        self.taken, self.after, self.total, self.asked = taken, after, total, []

    def ask(self, request, *, limit_s):
        self.asked.append(request)
        assert request["device"] == "cuda:0"
        assert limit_s > 0
        capacity = self.total - (self.taken if len(self.asked) > self.after else 0)
        if request["action"] == "describe":
            sizes = known_sizes("llama-3.2-1b")
            return {"sizes": {name: getattr(sizes, name) for name in sizes.__dataclass_fields__}, "capacity_bytes": capacity}
        sizes = known_sizes("llama-3.2-1b")
        peak = true_peak_bytes(sizes, batch=request["batch"], context=request["context"], eager=False)
        if peak > capacity:
            return {"outcome": "OUT_OF_MEMORY", "message": "CUDA out of memory.", "capacity_bytes": capacity}
        seconds = 1e-4 * request["batch"] * request["context"]
        return {"outcome": "FITS", "peak_bytes": peak, "reserved_bytes": peak + 40 * MIB, "seconds": seconds, "capacity_bytes": capacity}

    def close(self):
        pass


@pytest.fixture
def session(tmp_path):
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters={"preset": "a100"})})
    with Session.start(load_settings(tmp_path), plan, directory=tmp_path) as found:
        yield found


def search(session, process, **options):
    prober = ProcessProber(MODEL, device="cuda:0", process=process, **options)
    return run_vram_cliff(session.rig.gpu, session, prober)


def test_a_search_on_a_card(session):
    """Capacity is the card's word from the first request on; allocator slack and the card's limit are in the account."""
    cliff = search(session, FakeProcess())
    assert cliff.reason is Outcome.OUT_OF_MEMORY
    assert abs(cliff.prediction_error.value) <= 0.03
    assert cliff.held("allocator slack").value == 40 * MIB
    assert {probe.capacity_bytes for probe in session.probes(cliff.search)} == {12 * GIB}


def test_a_model_larger_than_the_card_names_the_cards_capacity(session):
    """Not the default of a CPU."""
    with pytest.raises(InvalidMeasurement, match=r"capacity is 1\.00 GiB \(the card\)"):
        search(session, FakeProcess(total=GIB))


def test_a_foreign_process_in_mid_search_is_named(session):
    """The card's process list changes between two probes by more than a pass's step: INVALID, with the pid."""
    process = FakeProcess(taken=GIB, after=8)

    def foreign(_pid):
        return {"4711 train.py": GIB} if len(process.asked) > 8 else {}

    with pytest.raises(InvalidMeasurement, match=r"pid 4711 train\.py with 1\.00 GiB"):
        search(session, process, foreign=foreign)
    assert session.probe_records, "what was measured stays"


@pytest.mark.parametrize(("taken", "ends"), [(0.005, False), (0.02, True)])
def test_memory_that_nobody_owns_up_to(session, taken, ends):
    """A process in another container shows in no list: what is free for a probe moves, and from 1 % on the search is ended."""
    process = FakeProcess(taken=int(taken * 12 * GIB), after=8)
    if not ends:
        assert search(session, process).reason is Outcome.OUT_OF_MEMORY
        return
    with pytest.raises(InvalidMeasurement, match="the memory free for a probe was between"):
        search(session, process)


def test_a_desktop_that_breathes_is_no_foreigner(session):
    """Another process's few MiB more or less are below the step in which a pass takes memory."""
    process = FakeProcess()
    cliff = search(session, process, foreign=lambda _pid: {"900 Xorg": 200 * MIB + MIB * (len(process.asked) % 3)})
    assert cliff.reason is Outcome.OUT_OF_MEMORY
    assert all(gate.passed for gate in cliff.found.gates)


def test_probing_processes_leave_the_driver_alone():
    """A library's question whether there is CUDA must not initialise the driver before the fork (PyTorch's poison-fork note)."""
    assert ENVIRONMENT["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"


def test_expandable_segments_are_set_before_torch_loads(monkeypatch):
    """In the environment of a fresh process, by the old name and by the new one; the pattern runs on the card there."""
    seen = {}

    class Process:
        def __init__(self, *, environment):
            seen["environment"] = dict(environment)

        def ask(self, request, *, limit_s):
            seen["request"] = (request["device"], limit_s > 0)
            return {"outcome": "FITS", "states": [], "refused": [], "peak_bytes": 5, "source": CudaAllocator.source}

        def close(self):
            seen["closed"] = True

    monkeypatch.setattr("pytest_physics.workloads.probers.ProbeProcess", Process)
    monkeypatch.setattr("pytest_physics.workloads.select.torch_name", lambda _device: "cuda:1")
    device = SimpleNamespace(spec=SimpleNamespace(kind="nvml"))
    assert tortured(device, alternate_frees(), expandable_segments=True).source == CudaAllocator.source
    assert seen["environment"] == {"PYTORCH_ALLOC_CONF": EXPANDABLE, "PYTORCH_CUDA_ALLOC_CONF": EXPANDABLE}
    assert seen["request"] == ("cuda:1", True)
    assert seen["closed"]
    assert tortured(device, alternate_frees()).peak_bytes == 5
    assert seen["environment"] == {}


# --- NVML -------------------------------------------------------------------------------------------------------------

ASK = """
import os
from pytest_physics.devices.nvml.memory import foreign_memory
print(foreign_memory({"index": 0}, {int(os.environ["OWN"])}))
"""


def test_foreign_memory_through_nvml(tmp_path):
    """Through the unmodified binding: the probing process's family is left out, everybody else has pid, name and bytes."""
    script = tmp_path / "script"
    try:
        found = environment(script)
    except NoCompilerError as error:
        pytest.skip(str(error))
    script.write_text(f"{H100}\nprocess {2**22 + 9} 300\nprocess 1 100\n", encoding="utf-8")
    out = subprocess.run([sys.executable, "-c", ASK], env={**found, "OWN": "999999"}, capture_output=True, text=True, check=True)
    assert f"'{2**22 + 9} (not visible from here)': {300 * MIB}" in out.stdout
    assert f": {100 * MIB}" in out.stdout
    family = subprocess.run([sys.executable, "-c", ASK], env={**found, "OWN": "1"}, capture_output=True, text=True, check=True)
    assert f": {100 * MIB}" not in family.stdout
