"""Loading torch and transformers on demand, and what happens where they are missing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pytest_physics.errors import ConfigurationError, DeviceUnavailableError
from pytest_physics.workloads import libraries

REASON = "torch is not installed (extra 'bench')"


def _python(code: str, **environment: str) -> list[str]:
    kept = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=kept | environment, timeout=60)
    return done.stdout.split()


def test_importing_the_workloads_imports_neither_library():
    """Heavy libraries load when a workload is built, not when its module is imported."""
    code = (
        "import sys; import pytest_physics.workloads.language_model, pytest_physics.workloads.matmul; "
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    assert _python(code) == ["False", "False"]


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_a_missing_library_says_how_to_install_it(monkeypatch, name):
    """The error names the library and the command."""
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigurationError, match=rf"needs {name}.*pip install 'pytest-physics\[bench\]'"):
        getattr(libraries, f"import_{name}")()


@pytest.mark.parametrize(("environment", "expected"), [({}, "1"), ({"HF_HUB_OFFLINE": "0"}, "0")])
def test_the_hub_is_off_unless_the_user_said_otherwise(environment, expected):
    """Without a setting of the user's, no model lookup may reach the network."""
    code = (
        "import os, sys, types; sys.modules['transformers'] = types.ModuleType('transformers'); "
        "from pytest_physics.workloads.libraries import import_transformers; import_transformers(); "
        "print(os.environ['HF_HUB_OFFLINE'])"
    )
    assert _python(code, **environment) == [expected]


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (3, 2), (64, 63)])
def test_one_core_stays_free_where_there_is_more_than_one(monkeypatch, cores, expected):
    """As many threads as cores would wait for every preempted partner."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)), raising=False)
    assert libraries.default_threads() == expected


def test_threads_are_in_force_inside_and_put_back_after(monkeypatch):
    """The setting is the process's; a phase borrows it, also when it fails."""
    torch = pytest.importorskip("torch", reason=REASON)
    seen = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: seen[-1])
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    with pytest.raises(KeyError), libraries.torch_threads(1):
        raise KeyError
    assert seen == [2, 1, 2]


def test_an_equal_setting_is_not_touched(monkeypatch):
    """Nothing is set where nothing would change."""
    torch = pytest.importorskip("torch", reason=REASON)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: pytest.fail(f"set to {n}"))
    with libraries.torch_threads(3):
        pass


@pytest.mark.parametrize("name", ["cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(name):
    """A workload never falls back to another device."""
    pytest.importorskip("torch", reason=REASON)
    with pytest.raises(DeviceUnavailableError, match=f"cannot run on '{name}'"):
        libraries.torch_device(name)


def test_a_misspelt_device_is_a_configuration_error():
    """A name torch does not know says what a name looks like."""
    pytest.importorskip("torch", reason=REASON)
    with pytest.raises(ConfigurationError, match="'device' must be like 'cpu' or 'cuda:0'"):
        libraries.torch_device("gpu0")


@pytest.mark.parametrize("name", ["float33", "int64", "nn"])
def test_only_floating_point_types_are_dtypes(name):
    """Names of other things in torch are refused."""
    pytest.importorskip("torch", reason=REASON)
    with pytest.raises(ConfigurationError, match="'dtype' must be a floating-point type"):
        libraries.torch_dtype(name)


def test_threads_below_one_are_refused():
    """Boundary pair: 1 is allowed, 0 is not."""
    torch = pytest.importorskip("torch", reason=REASON)
    assert libraries.chosen_threads(1, torch.device("cpu")) == 1
    with pytest.raises(ConfigurationError, match=r"'threads' must be >= 1 \(got 0\)"):
        libraries.chosen_threads(0, torch.device("cpu"))


def test_only_cuda_is_waited_for(monkeypatch):
    """A phase on CUDA ends when the device has ended; a CPU has no queue."""
    torch = pytest.importorskip("torch", reason=REASON)
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    libraries.wait_for(torch.device("cpu"))
    libraries.wait_for(torch.device("cuda:0"))
    assert waited == [torch.device("cuda:0")]
