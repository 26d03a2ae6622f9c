"""Which of torch's devices is the card, and what is said where there is none: on fakes of torch's documented attributes."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from pytest_physics.devices.base import DeviceSpec, Fingerprint
from pytest_physics.errors import ChannelUnavailableError
from pytest_physics.workloads import libraries
from pytest_physics.workloads.select import torch_name

UUID = "GPU-11111111-2222-3333-4444-555555555555"
OTHER = "99999999-2222-3333-4444-555555555555"
CARD = SimpleNamespace(
    spec=DeviceSpec(kind="nvml"),
    fingerprint=Fingerprint(kind="nvml", name="NVIDIA H200", identity=UUID, details={"driver": "580.159.04", "cuda_driver": "13.0"}),
)


@pytest.fixture
def fake_torch(monkeypatch):
    """``torch`` that sees cards of these identities."""

    def make(*identities, built="13.0", trouble=None, without_uuid=False):
        def properties(index):
            if trouble:
                raise trouble
            return SimpleNamespace() if without_uuid else SimpleNamespace(uuid=identities[index])

        cuda = SimpleNamespace(device_count=lambda: len(identities), get_device_properties=properties)
        fake = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda=built), __version__="2.13.0")
        monkeypatch.setattr(libraries, "import_torch", lambda: fake)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return make


def refusal():
    """What is said where the card cannot be used."""
    with pytest.raises(ChannelUnavailableError) as raised:
        torch_name(CARD)
    return str(raised.value)


@pytest.mark.parametrize("written", [UUID, UUID.removeprefix("GPU-"), UUID.removeprefix("GPU-").upper()])
def test_the_card_is_found_by_uuid_and_not_by_number(fake_torch, written):
    """CUDA may number cards otherwise than NVML; torch leaves out NVML's prefix."""
    fake_torch(OTHER, written)
    assert torch_name(CARD) == "cuda:1"


def test_a_build_without_cuda_is_named_with_the_cuda_that_fits(fake_torch):
    """The CPU build is what pip takes by default on many systems; the driver says up to which CUDA it goes."""
    fake_torch(built=None)
    said = refusal()
    assert "torch 2.13.0 is built without CUDA" in said
    assert "fits driver 580.159.04 (CUDA 13.0 or older" in said


def test_a_hidden_card_names_the_variable_that_hides_it(fake_torch, monkeypatch):
    """With several cards the mask may leave out the one that is measured."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    fake_torch(OTHER)
    said = refusal()
    assert "sees 1 CUDA devices" in said
    assert "CUDA_VISIBLE_DEVICES is '0'" in said


def test_an_old_torch_that_tells_no_uuid_is_no_crash(fake_torch):
    """Before 2.5 the properties have no such attribute."""
    fake_torch(OTHER, without_uuid=True)
    assert "install torch 2.5 or newer" in refusal()


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized", "nvidia-fabricmanager"),
        ("The NVIDIA driver on your system is too old (found version 11040).", "Update the driver"),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors might be …", "nvidia-smi -c 0"),
        ("Error 803: system has unsupported display driver / cuda driver combination", "older image"),
        ("something nobody has seen", "nvidia-smi"),
    ],
)
@pytest.mark.parametrize("kind", [RuntimeError, UserWarning])
def test_a_cuda_that_does_not_start_is_a_reason_and_not_a_failure(fake_torch, said, remedy, kind):
    """Whether torch raises or, under a strict suite, warns: the claim is NOT_TESTED, in one line, with what to do."""
    fake_torch(OTHER, trouble=kind(said))
    text = refusal()
    assert said.splitlines()[0].rstrip(".") in text
    assert remedy in text
    assert "\n" not in text


def test_a_card_without_kernels_is_told_before_any_experiment(monkeypatch):
    """A build that lacks the card's architecture fails at its first kernel, and not when the device is named."""
    torch = pytest.importorskip("torch")

    def refused(*_size, device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    fake = SimpleNamespace(zeros=refused, __version__="2.13.0")
    with pytest.raises(ChannelUnavailableError, match="no kernels for this card"):
        libraries._require_kernels(fake, torch.device("cuda:0"))


def test_a_full_card_is_out_of_memory_and_not_a_missing_channel():
    """Whoever allocates handles that."""
    torch = pytest.importorskip("torch")

    def full(*_size, device):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        libraries._require_kernels(SimpleNamespace(zeros=full), torch.device("cuda:0"))


def test_equal_bits_are_asked_for_on_cuda_only_and_put_back():
    """Deterministic kernels slow what does not need them: the user's setting comes back, also after an error."""
    torch = pytest.importorskip("torch")
    assert not torch.are_deterministic_algorithms_enabled()
    with libraries.same_bits(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
    with contextlib.suppress(KeyError), libraries.same_bits(torch.device("cuda:0")):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.backends.cuda.flash_sdp_enabled()
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
