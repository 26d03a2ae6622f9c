"""What real cards, drivers and containers do that a healthy card on a desk does not: slow answers, hidden processes, odd neighbours."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace

import pynvml
import pytest
from fakenvml import A100, H100, RTX3090

from pytest_physics import doctor
from pytest_physics.devices.base import READ_OK
from pytest_physics.devices.discover import choose_devices, probe_nvml
from pytest_physics.devices.nvml import library, processes
from pytest_physics.devices.nvml.advice import advice
from pytest_physics.devices.nvml.device import READ_SHARE, _turns
from pytest_physics.devices.nvml.library import GPU_IS_LOST, NO_DATA
from pytest_physics.devices.nvml.quantities import CALLS, field_value
from pytest_physics.errors import DeviceUnavailableError

ENERGETIC = {"power_w", "power_average_w", "energy_j"}
SLOW = f"latency_us 1900\n{H100}"
"""A card in a sandbox: calls of about 2 ms, of which a read of everything makes nine or more, with 19.1 ms from sample to sample."""


ALL = ("nvmlDeviceGetFieldValues", *(call.functions[0] for call in CALLS))
"""What one read asks for; processes apart, which are listed once per second."""


def read(device):
    """Channel name to value and code."""
    values, codes = device.read()
    return {channel.name: (value, code) for channel, value, code in zip(device.channels, values, codes, strict=True)}


def asked(fake, calls):
    """How often each of the calls was made so far."""
    return {call: fake.calls(call) for call in calls}


# ---- slow answers ----


def test_a_slow_card_is_read_within_its_sampling_period(fake_nvml):
    """Half a period is what the sampler allows; a read of all channels would take more."""
    device = fake_nvml.open(SLOW)
    assert len(ALL) * 0.0019 > 0.5 * 0.0191
    for _ in range(2 * len(device._turns)):
        before = sum(asked(fake_nvml, ALL).values())
        device.read()
        assert 1 <= sum(asked(fake_nvml, ALL).values()) - before <= 0.5 * device.sampling_period_s / 0.0019


def test_a_slow_card_has_its_power_read_at_every_tick(fake_nvml):
    """Power and energy are never held; every other channel is fresh again after the time that its source states."""
    device = fake_nvml.open(SLOW.replace("at 0 power_w 123.456", "at 0 power_w 100\nat 1000 power_w 200"))
    for channel in device.channels:
        paced_apart = channel.name in ENERGETIC or channel.name.startswith("foreign_")
        assert ("in turn with others" in channel.source) is not paced_apart, channel
    read(device)
    calls = ("nvmlDeviceGetTemperature", "nvmlDeviceGetPerformanceState", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetEnforcedPowerLimit")
    before = asked(fake_nvml, calls)
    fake_nvml.advance(1001)
    assert read(device)["power_w"] == (pytest.approx(200), READ_OK)
    turns = round(float(device.channels[3].source.split("every ")[1].removesuffix(" s")) / device.sampling_period_s)
    for _ in range(turns - 1):
        assert all(code == READ_OK for _, code in read(device).values())
    assert {call: n - before[call] for call, n in asked(fake_nvml, calls).items()} == dict.fromkeys(calls, 1)


def test_a_channel_that_is_held_is_no_older_than_its_turn(fake_nvml):
    """What changes between two turns is seen with the next."""
    device = fake_nvml.open(SLOW + "at 1000 temperature_c 70\nat 1000 event_reasons 0x8\n")
    assert (read(device)["temperature_c"][0], read(device)["event_reasons"][0]) == (54, 0x44)
    fake_nvml.advance(1001)
    for _ in range(len(device._turns)):
        values = read(device)
    assert (values["temperature_c"][0], values["event_reasons"][0]) == (70, 0x8)


def test_a_quick_card_holds_nothing(fake_nvml):
    """Where everything fits, everything is read at every tick and no source speaks of turns."""
    device = fake_nvml.open(H100)
    assert not any("in turn" in channel.source for channel in device.channels)
    before = fake_nvml.calls("nvmlDeviceGetTemperature")
    for _ in range(5):
        read(device)
    assert fake_nvml.calls("nvmlDeviceGetTemperature") == before + 5


def test_where_power_itself_is_slow_the_period_is_longer(fake_nvml):
    """The sampler must not fill its period: a power field of 15 ms is sampled every 40 ms and not every 19."""
    device = fake_nvml.open(H100 + "slow field:186 15000\n")
    assert 0.015 / READ_SHARE <= device.sampling_period_s < 0.06
    assert read(device)["power_w"] == (pytest.approx(123.456), READ_OK)


def test_one_slow_field_slows_no_other(fake_nvml):
    """A memory temperature of 12 ms takes turns; power keeps its tick."""
    device = fake_nvml.open(H100 + "slow field:82 12000\n")
    assert device.sampling_period_s < 0.03
    assert "in turn" in next(channel.source for channel in device.channels if channel.name == "memory_temperature_c")
    assert "in turn" not in next(channel.source for channel in device.channels if channel.name == "power_w")


def test_a_slow_card_that_fails_in_its_turn_is_missing_until_the_next(fake_nvml):
    """No old value stands in for a read that failed."""
    device = fake_nvml.open(SLOW + "fault nvmlDeviceGetTemperature 999 between 1000 2000\n")
    fake_nvml.advance(1001)
    for _ in range(len(device._turns)):
        found = read(device)["temperature_c"]
    assert math.isnan(found[0])
    assert found[1] == 999
    fake_nvml.advance(1001)
    for _ in range(len(device._turns)):
        found = read(device)["temperature_c"]
    assert found == (54, READ_OK)


def test_a_slow_card_that_is_lost_holds_nothing(fake_nvml):
    """Held values of a dead card would be lies."""
    device = fake_nvml.open(SLOW + "lost 100\n")
    read(device)
    fake_nvml.advance(101)
    assert {code for _, code in read(device).values()} == {GPU_IS_LOST}
    assert all(math.isnan(value) for value, _ in read(device).values())


def test_turns_fill_the_budget_and_what_is_dearer_is_alone():
    """Boundary: exactly the budget still fits."""
    questions = [SimpleNamespace(places=(i,)) for i in range(5)]
    turns, quickest_s = _turns(list(zip(questions, (2.0, 3.0, 9.0, 1.0, 4.1), strict=True)), 5.0)
    assert [[q.places[0] for q in turn] for turn in turns] == [[0, 1], [2], [3], [4]]
    assert quickest_s == 1.0


def test_a_value_of_an_unknown_type_is_no_number():
    """A driver newer than the binding may have types of its own: no crash, and no zero."""
    answer = SimpleNamespace(valueType=len(("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")), value=SimpleNamespace())
    assert math.isnan(field_value(answer, 1.0))


def test_a_value_of_an_unknown_type_is_missing_with_a_code(fake_nvml, monkeypatch):
    """NO_DATA, as for NVML's other ways to say "unknown"."""
    device = fake_nvml.open(H100)
    monkeypatch.setattr("pytest_physics.devices.nvml.device.field_value", lambda _answer, _unit: math.nan)
    assert read(device)["power_w"][1] == NO_DATA


def test_a_driver_without_the_old_temperature_is_asked_by_the_new_name(fake_nvml):
    """The header announces that nvmlDeviceGetTemperature goes with CUDA 14: the same sensor has a versioned call."""
    device = fake_nvml.open(H100 + "fault nvmlDeviceGetTemperature 13\n")
    assert next(c.source for c in device.channels if c.name == "temperature_c") == "nvmlDeviceGetTemperatureV"
    assert read(device)["temperature_c"] == (54, READ_OK)


# ---- processes in containers ----


def test_in_a_container_nobody_claims_to_be_alone(fake_nvml, monkeypatch):
    """An empty list proves nothing where the driver hides or renames processes: the channel is absent, not zero."""
    monkeypatch.setattr(processes, "process_ids_are_apart", lambda: True)
    device = fake_nvml.open(H100 + "process 4194311 500\n")
    assert "--pid=host" in device.absent["foreign_processes"]
    assert not any(channel.name.startswith("foreign_") for channel in device.channels)


@pytest.mark.parametrize(("link", "apart"), [("pid:[4026531836]", False), ("pid:[4026532512]", True), (None, False)])
def test_the_systems_own_namespace_is_known_by_its_number(monkeypatch, tmp_path, link, apart):
    """Linux gives the initial PID namespace one number on every machine; without such links there are no namespaces."""
    path = tmp_path / "pid"
    if link:
        path.symlink_to(link)
    monkeypatch.undo()
    monkeypatch.setattr(processes, "Path", lambda _: path)
    assert processes.process_ids_are_apart() is apart


# ---- which card ----


def test_a_first_card_in_mig_mode_sends_auto_to_the_twin_with_the_reason(fake_nvml):
    """The workload would run on that card: measuring the other would be a mistake, and failing at the start no help."""
    fake_nvml.load(H100.replace("mig 0", "mig 1") + H100.replace("-5555", "-eeee"))
    choice = choose_devices("auto")
    assert choice.specs[0].kind == "twin"
    assert "is in MIG mode" in choice.banner
    assert "nvml:UUID" in choice.banner


def test_a_card_in_mig_mode_behind_the_first_disturbs_nobody(fake_nvml):
    """Only the card of the workload counts."""
    fake_nvml.load(H100 + H100.replace("mig 0", "mig 1").replace("-5555", "-eeee"))
    assert choose_devices("auto").specs[0].kind == "nvml"


def test_a_lost_first_card_keeps_its_number(fake_nvml):
    """The message counts as NVML does: the card that is left is number 1."""
    fake_nvml.load(H100 + "lost 0\n" + A100)
    probe = probe_nvml()
    assert (probe.available, probe.indices) == (False, (1,))
    assert "GPU is lost" in probe.reason
    assert "index 1: NVIDIA A100-PCIE-40GB" in probe.reason


def test_a_number_that_the_environment_brought_along_is_named(fake_nvml, monkeypatch):
    """A container has one card, number 0, and the host's CUDA_VISIBLE_DEVICES=3: the message names the variable."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    fake_nvml.load(H100)
    reason = probe_nvml().reason
    assert "No usable GPU with index 3 (the first of CUDA_VISIBLE_DEVICES, which is '3')" in reason
    assert "index 0: NVIDIA H100 PCIe" in reason


def test_a_card_without_uuid_is_refused_with_what_is_missing(fake_nvml):
    """As on boards whose NVML is a stub: the name answers, the UUID does not."""
    with pytest.raises(DeviceUnavailableError, match=r"does not tell its UUID: Not Supported \(NVML code 3\)"):
        fake_nvml.open(H100 + "fault nvmlDeviceGetUUID 3\n")


# ---- the binding ----


@pytest.mark.parametrize("lacking", ["NVML_FI_DEV_POWER_INSTANT"])
def test_an_old_package_that_hides_the_binding_is_named(monkeypatch, lacking):
    """The package 'pynvml' up to 11 is found before the module of nvidia-ml-py, and knows no scopes: no crash, but what to uninstall."""
    old = ModuleType("pynvml")
    old.__file__ = "/site-packages/pynvml/__init__.py"
    monkeypatch.setattr(library, "pynvml", old)
    assert not hasattr(old, lacking)
    with pytest.raises(DeviceUnavailableError, match=r"pynvml/__init__\.py.*pip uninstall -y pynvml"):
        library.initialise()


def test_the_installed_binding_is_new_enough(fake_nvml):
    """The name that is asked for is one that nvidia-ml-py has."""
    assert hasattr(pynvml, library._NEEDED_BINDING)
    fake_nvml.load(H100)
    library.initialise()
    library.shut_down()


def test_a_container_that_lost_its_card_is_told_to_restart(fake_nvml):
    """NVML's unknown error at the start is what such containers see."""
    fake_nvml.load("init_return 999\n" + H100)
    with pytest.raises(DeviceUnavailableError, match="restart the container"):
        library.initialise()


# ---- advice, and the doctor ----

GOOD = {
    "persistence_mode": "on", "compute_mode": "default", "power_limit_enforced": "700 W", "power_limit_default": "700 W",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("persistence_mode", "off", "nvidia-smi -pm 1"),
        ("compute_mode", "prohibited", "no load can run"),
        ("compute_mode", "exclusive process", "one process at a time"),
        ("power_limit_enforced", "500 W", "capped"),
    ],
)
def test_a_mode_that_harms_is_advised_against(name, value, words):
    """One sentence for the one mode; none for a card in good order or for a driver that does not tell."""
    assert list(advice(GOOD)) == []
    assert list(advice(dict.fromkeys(GOOD, "not available"))) == []
    (text,) = advice(GOOD | {name: value})
    assert words in text


def test_the_doctor_gives_one_reason_once(fake_nvml, monkeypatch):
    """Seven channels that a container hides are one paragraph, not seven."""
    monkeypatch.setattr(processes, "process_ids_are_apart", lambda: True)
    fake_nvml.load(H100)
    lines = [line for line in doctor.doctor_lines() if line.startswith("  no   foreign_")]
    assert len(lines) > 1
    assert ["--pid=host" in line for line in lines] == [True] + [False] * (len(lines) - 1)
    assert all(line.endswith("for the same reason") for line in lines[1:])


def test_the_doctor_says_what_a_first_day_needs(fake_nvml):
    """Per card: how long a read takes, what can load it, and which modes harm; a card that cannot be opened is named with its reason."""
    assert "torch" in sys.modules or pytest.importorskip("torch")
    fake_nvml.load(H100 + "persistence 0\n" + RTX3090.replace("mig 2", "mig 1"))
    lines = list(doctor.doctor_lines())
    text = "\n".join(lines)
    assert "  one read takes " in text
    assert any(line.startswith("  load        experiments that need one are NOT_TESTED: torch cannot use the GPU") for line in lines)
    assert any(line.startswith("  note        persistence mode is off") for line in lines)
    assert "nvml:1: cannot be opened: NVIDIA GeForce RTX 3090 (GPU-11111111-2222-3333-4444-bbbb55555555) is in MIG mode" in text
