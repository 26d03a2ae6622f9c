"""From what a user types to devices, with and without a (simulated) NVIDIA driver."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types

import pytest
from fakenvml import H100, RTX3090, environment
from hypothesis import given
from hypothesis import strategies as st

from pytest_physics.devices import discover
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.discover import DEFAULT_PRESET, KINDS, choose_devices, open_device, probe_nvml
from pytest_physics.devices.nvml import NvmlDevice, library
from pytest_physics.errors import ConfigurationError, DeviceUnavailableError


@pytest.fixture
def no_nvml(monkeypatch):
    """A machine without nvidia-ml-py, whatever this one has."""
    monkeypatch.setattr(library, "pynvml", None)


@pytest.fixture
def presets(monkeypatch):
    """Two presets of a twin, so that parsing is tested apart from the twin."""
    twin = types.ModuleType("pytest_physics.devices.twin")
    twin.PRESETS = {DEFAULT_PRESET: None, "h100-pcie": None}
    monkeypatch.setitem(sys.modules, "pytest_physics.devices.twin", twin)
    return twin


# ---- parsing ----


@pytest.mark.parametrize(
    ("text", "kind", "parameters"),
    [
        ("nvml", "nvml", {}),
        ("nvml:0", "nvml", {"index": 0}),
        ("nvml:12", "nvml", {"index": 12}),
        ("nvml:GPU-1234", "nvml", {"uuid": "GPU-1234"}),
        ("nvml:0000:65:00.0", "nvml", {"pci_bus_id": "0000:65:00.0"}),
        ("nvml:00000000:65:00.0", "nvml", {"pci_bus_id": "00000000:65:00.0"}),
        ("cpu", "cpu", {}),
        (" cpu ", "cpu", {}),
        ("twin", "twin", {"preset": DEFAULT_PRESET}),
        ("twin:h100-pcie", "twin", {"preset": "h100-pcie"}),
        ("replay:runs/a:b", "replay", {"path": "runs/a:b"}),
    ],
)
def test_a_device_is_named_by_kind_and_selector(presets, text, kind, parameters):
    """Each documented form gives one specification."""
    assert choose_devices(text).specs == (DeviceSpec(kind=kind, parameters=parameters),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nvm", "no device kind 'nvm' (did you mean 'nvml'"),
        ("cuda", "devices are auto, nvml"),
        ("", "no device kind ''"),
        ("tvin", "did you mean 'twin'"),
        ("repaly:x", "did you mean 'replay'"),
        ("nvml:-1", "'nvml:-1' names no GPU: after 'nvml:' comes an index"),
        ("nvml:first", "names no GPU"),
        ("nvml:", "no device after the colon"),
        ("nvml:²", "names no GPU"),
        ("twin:h100", "no twin preset 'h100' (did you mean 'h100-pcie'"),
        ("cpu:0", "'cpu' takes no selector"),
        ("auto:1", "'auto' takes no selector"),
        ("replay", "replay:PATH"),
        ("replay:", "no device after the colon"),
    ],
)
def test_what_cannot_be_meant_names_the_nearest_that_can(presets, text, message):
    """Typing errors end with a suggestion, not with another device."""
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        choose_devices(text)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=30))
def test_parsing_gives_a_specification_or_a_configuration_error(text):
    """No text leads to any other exception, nor to a kind that does not exist."""
    if text.strip().startswith(("auto", "twin")):
        return  # these look at the machine, or at the presets
    try:
        specs = choose_devices(text).specs
    except ConfigurationError:
        return
    assert [spec.kind in KINDS for spec in specs] == [True]


def test_a_twin_is_announced_as_simulated(presets):
    """Also where it was asked for; real devices need no banner."""
    assert "SIMULATED" in choose_devices("twin").banner
    assert choose_devices("cpu").banner == choose_devices("nvml:0").banner == ""


# ---- auto ----


def test_auto_takes_the_gpu_where_nvml_answers(fake_nvml):
    """GPU and CPU; nothing is simulated, so there is no banner."""
    fake_nvml.load(H100)
    choice = choose_devices("auto")
    assert [spec.kind for spec in choice.specs] == ["nvml", "cpu"]
    assert choice.banner == ""


def test_auto_without_gpu_takes_the_twin_and_says_why(no_nvml):
    """The banner says that numbers are simulated, and what to install."""
    choice = choose_devices("auto")
    assert [str(spec) for spec in choice.specs] == [f"twin:{DEFAULT_PRESET}", "cpu"]
    assert "SIMULATED" in choice.banner
    assert "pip install nvidia-ml-py" in choice.banner


def test_auto_does_not_measure_a_gpu_that_the_workload_cannot_use(fake_nvml, monkeypatch):
    """An empty CUDA_VISIBLE_DEVICES sends the workload to the CPU."""
    fake_nvml.load(H100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    choice = choose_devices("auto")
    assert choice.specs[0].kind == "twin"
    assert "CUDA_VISIBLE_DEVICES is ''" in choice.banner


# ---- the probe ----


def test_the_probe_names_the_gpus(fake_nvml):
    """Found: all names, and NVML is released again."""
    fake_nvml.load(H100 + RTX3090)
    probe = probe_nvml()
    assert probe.available
    assert probe.names == (
        "NVIDIA H100 PCIe (GPU-11111111-2222-3333-4444-555555555555)",
        "NVIDIA GeForce RTX 3090 (GPU-11111111-2222-3333-4444-bbbb55555555)",
    )
    assert "NVIDIA H100 PCIe" in probe.reason
    assert fake_nvml.calls("nvmlShutdown") == 1


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("init_return 9\n", "kernel driver is not loaded.*modprobe nvidia"),
        ("init_return 18\n", "different versions.*Reboot"),
        ("init_return 4\n", "lack of permission.*administrator"),
        ("init_return 999\n", r"NVML does not start: Unknown Error \(NVML code 999\).*nvidia-smi"),
        ("", "there is no GPU.*container"),
        (H100.replace("mig 0", "mig 1"), "every GPU is in MIG mode.*Switch MIG off"),
        (H100 + "lost 0\n", "none of its 1 GPUs can be opened.*dmesg"),
    ],
)
def test_the_probe_tells_failures_apart(fake_nvml, script, reason):
    """Each has its own sentence and its own next action."""
    import re

    fake_nvml.load(script)
    probe = probe_nvml()
    assert not probe.available
    assert probe.names == ()
    assert re.search(reason, probe.reason)


@pytest.mark.parametrize("code", [9, 18, 4, 999])
def test_opening_fails_with_the_same_reason(fake_nvml, code):
    """Whoever names the GPU gets the probe's sentence as an error."""
    fake_nvml.load(f"init_return {code}\n" + H100)
    with pytest.raises(DeviceUnavailableError) as raised:
        open_device(DeviceSpec(kind="nvml"))
    assert str(raised.value) == probe_nvml().reason


def test_one_partitioned_gpu_of_two_leaves_the_other(fake_nvml):
    """Only cards that can be measured are named."""
    fake_nvml.load(H100.replace("mig 0", "mig 1") + RTX3090)
    assert [name.split(" (")[0] for name in probe_nvml().names] == ["NVIDIA GeForce RTX 3090"]


def test_a_missing_binding_is_told_apart(no_nvml):
    """Without nvidia-ml-py there is no NVML to ask."""
    assert "nvidia-ml-py cannot be imported" in probe_nvml().reason


PROBE_IN_CHILD = "from pytest_physics.devices.discover import probe_nvml; print(probe_nvml())"


def child_says(env, before=""):
    return subprocess.run([sys.executable, "-c", before + PROBE_IN_CHILD], env=env, capture_output=True, text=True, check=True).stdout


def test_a_missing_library_is_told_apart(tmp_path):
    """In a process of its own, with a loader that cannot find libnvidia-ml.so.1."""
    blind = "import ctypes, pynvml\ndef CDLL(name):\n    raise OSError(name)\npynvml.CDLL = CDLL\n"
    assert "libnvidia-ml.so.1 was not found" in child_says(dict(os.environ), before=blind)


def test_an_unimportable_binding_is_told_apart():
    """In a process of its own, where 'import pynvml' fails."""
    blocked = "import sys; sys.modules['pynvml'] = None\n"
    assert "pip install nvidia-ml-py" in child_says(dict(os.environ), before=blocked)


def test_a_driver_that_is_not_loaded_is_told_apart_through_the_loader(fake_directory, tmp_path):
    """The real loading path: libnvidia-ml.so.1 is found, nvmlInit returns 9."""
    script = tmp_path / "script.txt"
    script.write_text("init_return 9\n")
    assert "kernel driver is not loaded" in child_says(environment(script))


def test_a_gpu_is_found_through_the_loader(fake_directory, tmp_path):
    """The real loading path: one card."""
    script = tmp_path / "script.txt"
    script.write_text(H100)
    env = environment(script)
    env.pop("CUDA_VISIBLE_DEVICES", None)
    assert "available=True" in child_says(env)


# ---- opening ----


def test_opening_dispatches_by_kind(fake_nvml, monkeypatch):
    """Each kind's module opens its own; a module is imported only when its device is opened."""
    opened = []
    for kind in ("cpu", "twin", "replay"):
        module = types.ModuleType(f"pytest_physics.devices.{kind}")
        module.open_device = opened.append
        monkeypatch.setitem(sys.modules, module.__name__, module)
        open_device(DeviceSpec(kind=kind))
    assert [spec.kind for spec in opened] == ["cpu", "twin", "replay"]
    fake_nvml.load(H100)
    device = open_device(DeviceSpec(kind="nvml"))
    assert isinstance(device, NvmlDevice)
    device.close()


def test_opening_an_unknown_kind_is_a_configuration_error():
    """A specification from a file may say anything, but imports nothing else."""
    with pytest.raises(ConfigurationError, match="no device kind 'os'"):
        open_device(DeviceSpec(kind="os"))
    assert set(discover.KINDS) == {"nvml", "cpu", "twin", "replay"}
