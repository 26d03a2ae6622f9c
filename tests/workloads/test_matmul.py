"""The constant load counts its products exactly and stops on time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pytest_physics.errors import ConfigurationError
from pytest_physics.workloads import matmul
from pytest_physics.workloads.base import Kernel
from pytest_physics.workloads.matmul import CHUNK_S, MatmulLoad

torch = pytest.importorskip("torch", reason="torch is not installed (extra 'bench')")


@pytest.fixture
def load() -> MatmulLoad:
    return MatmulLoad(32, threads=1)


@pytest.fixture
def products(monkeypatch) -> list[int]:
    """One entry for every product that really ran."""
    run: list[int] = []
    real = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *args, **kwargs: (run.append(1), real(*args, **kwargs))[1])
    return run


def test_it_is_a_kernel(load):
    """Soak and step response take it for any constant load."""
    assert isinstance(load, Kernel)


def test_a_product_of_n_is_two_n_cubed_operations(load):
    """n³ multiplications and n³ additions: 65 536 for n = 32."""
    assert load.flop_per_iteration == 65_536


@pytest.mark.parametrize("iterations", [1, 7])
def test_iterations_are_exact(load, products, iterations):
    """The count is what ran, not what was planned."""
    work = load.run_iterations(iterations)
    assert len(products) == work.iterations == iterations
    assert work.flop == iterations * 65_536
    assert work.flop_per_s == pytest.approx(work.flop / work.duration_s)


def test_a_timed_load_lasts_its_time_and_counts_what_ran(load, products):
    """At least the time asked for; every product counted, those that size the chunks included."""
    work = load.run_for(0.05)
    assert work.duration_s >= 0.05
    assert len(products) == work.iterations > 1


def test_the_product_is_the_product(load):
    """The kernel does the arithmetic that is counted."""
    load.run_iterations(1)
    np.testing.assert_allclose(load._product.numpy(), load._left.numpy() @ load._right.numpy(), atol=1e-5)


def test_operands_follow_the_seed_and_stay_the_same():
    """Power depends on data: the same seed draws the same power, and the load does not drift."""
    load, same, other = (MatmulLoad(8, seed=seed, threads=1) for seed in (1, 1, 2))
    before = load._left.clone()
    load.run_iterations(3)
    assert torch.equal(load._left, before)
    assert torch.equal(load._left, same._left)
    assert not torch.equal(load._left, other._left)
    assert not torch.equal(load._left, load._right)


def test_the_description_says_what_runs():
    """Everything that changes the load's power is stated."""
    told = MatmulLoad(16, dtype="bfloat16", seed=5, threads=1).describe()
    assert told["size"] == "16x16"
    assert (told["dtype"], told["device"], told["threads"], told["seed"]) == ("bfloat16", "cpu", "1", "5")
    assert told["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MatmulLoad(0), "'size' must be >= 1"),
        (lambda: MatmulLoad(4, threads=1).run_iterations(0), "'iterations' must be >= 1"),
        (lambda: MatmulLoad(4, threads=1).run_for(0.0), "'duration_s' must be > 0"),
        (lambda: MatmulLoad(4, threads=1).run_for(float("nan")), "'duration_s' must be > 0"),
    ],
)
def test_loads_of_nothing_are_refused(call, message):
    """Zero work has no rate."""
    with pytest.raises(ConfigurationError, match=message):
        call()


class FakeGpu:
    """A queue of products of 1 ms each; launching one takes the host 10 µs."""

    def __init__(self) -> None:
        self.host_ns = 0
        self.idle_at_ns = 0
        self.longest_queue_ns = 0
        self.starved_ns: list[int] = []
        self.launched = 0

    def now_ns(self) -> int:
        return self.host_ns

    def mm(self, *_operands, out) -> None:
        self.host_ns += 10_000
        self.launched += 1
        if self.host_ns > self.idle_at_ns:
            self.starved_ns.append(self.host_ns)
        self.idle_at_ns = max(self.idle_at_ns, self.host_ns) + 1_000_000
        self.longest_queue_ns = max(self.longest_queue_ns, self.idle_at_ns - self.host_ns)

    def wait_until(self, t_ns: int) -> None:
        self.host_ns = max(self.host_ns, t_ns)

    def event(self) -> SimpleNamespace:
        mark = SimpleNamespace(at_ns=0)
        mark.record = lambda _stream: setattr(mark, "at_ns", self.idle_at_ns)
        mark.synchronize = lambda: self.wait_until(mark.at_ns)
        return mark


def test_a_gpu_is_kept_busy_with_a_short_queue(monkeypatch, load):
    """Two chunks in flight: never starved after the chunks are sized, never far behind the clock, each product counted."""
    gpu = FakeGpu()
    load.device = torch.device("cuda:0")
    load._clock = gpu
    load._torch = SimpleNamespace(
        mm=gpu.mm,
        inference_mode=torch.inference_mode,
        cuda=SimpleNamespace(Event=gpu.event, current_stream=lambda _device: None),
    )
    monkeypatch.setattr(matmul, "wait_for", lambda _device: gpu.wait_until(gpu.idle_at_ns))
    work = load.run_for(2.0)
    assert work.iterations == gpu.launched
    assert work.duration_s == pytest.approx(gpu.launched * 1e-3, rel=0.01)
    assert 2.0 <= work.duration_s < 2.0 + 6 * CHUNK_S
    assert gpu.longest_queue_ns < 4 * CHUNK_S * 1e9
    assert max(gpu.starved_ns) < 0.1e9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_real_gpu_takes_the_time_asked_for():
    """The load ends within a few chunks of its deadline on hardware too."""
    load = MatmulLoad(1024, device="cuda:0")
    load.warm_up()
    assert 0.5 <= load.run_for(0.5).duration_s < 0.5 + 10 * CHUNK_S
