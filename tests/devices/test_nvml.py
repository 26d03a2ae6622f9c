"""The NVML device on the simulated library: through unmodified nvidia-ml-py, in this process unless a test says otherwise."""

from __future__ import annotations

import gc
import itertools
import math
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pynvml
import pytest
from fakenvml import A100, GH200, H100, RTX3090, Live, environment

from pytest_physics.clock import VirtualClock
from pytest_physics.devices.base import CHANNELS, READ_OK, BufferedDevice, Device, DeviceSpec, ReadingKind
from pytest_physics.devices.nvml import NvmlDevice, open_device
from pytest_physics.devices.nvml.library import GPU_IS_LOST, NO_DATA, NO_PERMISSION, NOT_SUPPORTED
from pytest_physics.devices.nvml.priors import chip_family, power_usage_kind, prior_sampling_period_s, prior_sensor
from pytest_physics.devices.nvml.processes import process_ids_are_apart
from pytest_physics.devices.nvml.quantities import power_samples
from pytest_physics.errors import ConfigurationError, DeviceUnavailableError

NVML_CHANNELS = list(CHANNELS)[: list(CHANNELS).index("foreign_name_2") + 1]
FOREIGN = [name for name in CHANNELS if name.startswith("foreign_") and name in NVML_CHANNELS]
COUNTERS = ("power_cap_ns", "thermal_ns", "software_thermal_ns", "hardware_thermal_ns", "power_brake_ns")


def reading(device):
    """Channel name to value, after checking that every read succeeded."""
    values, codes = device.read()
    assert codes == [READ_OK] * len(codes)
    return dict(zip((channel.name for channel in device.channels), values, strict=True))


def failures(device):
    """Channel name to code, of the channels that were not read."""
    values, codes = device.read()
    assert [math.isnan(value) for value in values] == [code != READ_OK for code in codes]
    return {channel.name: code for channel, code in zip(device.channels, codes, strict=True) if code != READ_OK}


# ---- values ----


def test_every_channel_of_a_full_card_is_read_in_si_units(fake_nvml):
    """Units: mW → W, mJ → J, MHz → Hz, % → ratio, bytes; nothing is absent, and the order is that of CHANNELS."""
    device = fake_nvml.open(H100)
    assert isinstance(device, Device)
    assert [channel.name for channel in device.channels] == NVML_CHANNELS
    assert not device.absent
    values = reading(device)
    assert values.pop("energy_j") == pytest.approx(1000, abs=123.456 * 5)
    assert values == {
        "power_w": pytest.approx(123.456, abs=1e-9),
        "power_average_w": pytest.approx(123.456, abs=1e-9),
        "temperature_c": 54,  # the sensor gives whole degrees
        "memory_temperature_c": 61,
        "sm_clock_hz": 1755e6,
        "memory_clock_hz": 1593e6,
        "performance_state": 2,
        "utilisation_ratio": 0.87,
        "memory_utilisation_ratio": 0.34,
        "memory_used_bytes": 2 * 1024**2,
        "power_limit_w": pytest.approx(310),
        "event_reasons": 0x44,
        **dict.fromkeys(FOREIGN, 0),
        **dict.fromkeys(COUNTERS, 0),
    }


def test_every_channel_says_where_it_was_read(fake_nvml):
    """Kind and source are those of the NVML reference."""
    channels = {channel.name: channel for channel in fake_nvml.open(H100).channels}
    assert channels["power_w"].kind is ReadingKind.INSTANT
    assert "186" in channels["power_w"].source
    assert channels["power_average_w"].kind is ReadingKind.AVERAGE
    assert "185" in channels["power_average_w"].source
    assert channels["energy_j"].kind is ReadingKind.COUNTER
    assert channels["temperature_c"].resolution == 1
    assert channels["sm_clock_hz"].resolution == 1e6
    assert all(channel.source for channel in channels.values())


def test_one_read_makes_one_field_values_call(fake_nvml):
    """Power, energy, memory temperature and five counters together cost one call."""
    device = fake_nvml.open(H100)
    before = fake_nvml.calls("nvmlDeviceGetFieldValues")
    for _ in range(7):
        reading(device)
    assert fake_nvml.calls("nvmlDeviceGetFieldValues") - before == 7
    assert fake_nvml.calls("nvmlDeviceGetPowerUsage") == fake_nvml.calls("nvmlDeviceGetTotalEnergyConsumption") == 0


def test_the_power_is_that_of_the_moment(fake_nvml, tmp_path):
    """A step of the true power arrives in the instant channel after its window, in the average only partly."""
    live = Live(tmp_path / "live")
    script = H100.replace("average 0.1 1 ", "average 0.1 100 ")
    device = fake_nvml.open(script.replace("at 0 power_w 123.456\n", f"live {live.path}\n"))
    start_ns = time.perf_counter_ns()
    live.power_w(80, t_ns=start_ns - 5_000_000_000)
    assert reading(device)["power_w"] == 80
    live.power_w(300, t_ns=start_ns - 500_000_000)
    values = reading(device)
    assert values["power_w"] == 300
    assert 80 < values["power_average_w"] < 300
    live.close()


def test_instant_and_average_have_caches_of_their_own(fake_nvml):
    """Fields 185 and 186 differ where the sensors do: offset 7 W and gain 2."""
    script = H100.replace("average 0.1 1 0 0 0 0 0.001 1 0", "average 0.1 1 0 0 0 0 0.001 2 7")
    values = reading(fake_nvml.open(script))
    assert (values["power_w"], values["power_average_w"]) == (pytest.approx(123.456), pytest.approx(2 * 123.456 + 7))


def test_throttle_counters_accumulate(fake_nvml):
    """A card throttled since t = 0 for thermal reasons counts nanoseconds, the others stand still."""
    device = fake_nvml.open(H100 + "at 0 share_75 1\nat 0 share_270 0.5\n")
    first = reading(device)
    fake_nvml.advance(100)
    second = reading(device)
    elapsed_ns = second["thermal_ns"] - first["thermal_ns"]
    assert elapsed_ns == pytest.approx(100e9, abs=2e9)
    assert second["hardware_thermal_ns"] - first["hardware_thermal_ns"] == pytest.approx(elapsed_ns / 2, rel=0.01)
    assert second["power_brake_ns"] == second["power_cap_ns"] == 0


def test_a_counter_reset_is_passed_on_as_it_is(fake_nvml):
    """The device does not repair a counter that goes back: whoever integrates must see it."""
    device = fake_nvml.open(H100 + "counter_reset 1000\n")
    fake_nvml.advance(900)
    before = reading(device)["energy_j"]
    fake_nvml.advance(101)
    assert reading(device)["energy_j"] < 100_000 < before


def test_an_unknown_p_state_is_missing_not_32(fake_nvml):
    """NVML's number for "unknown" is not a P-state."""
    device = fake_nvml.open(H100.replace("performance_state 2", "performance_state 32"))
    assert failures(device) == {"performance_state": NO_DATA}


# ---- what is absent ----


@pytest.mark.parametrize(
    ("target", "channels"),
    [
        ("field:186", {"power_w"}),
        ("field:185", {"power_average_w"}),
        ("field:82", {"memory_temperature_c"}),
        ("field:74", {"power_cap_ns"}),
        ("field:75", {"thermal_ns"}),
        ("field:269", {"software_thermal_ns"}),
        ("field:270", {"hardware_thermal_ns"}),
        ("field:271", {"power_brake_ns"}),
        ("nvmlDeviceGetTemperature", {"temperature_c"}),
        ("nvmlDeviceGetClockInfo", {"sm_clock_hz", "memory_clock_hz"}),
        ("nvmlDeviceGetPerformanceState", {"performance_state"}),
        ("nvmlDeviceGetUtilizationRates", {"utilisation_ratio", "memory_utilisation_ratio"}),
        ("nvmlDeviceGetMemoryInfo", {"memory_used_bytes"}),
        ("nvmlDeviceGetEnforcedPowerLimit", {"power_limit_w"}),
        ("nvmlDeviceGetCurrentClocksEventReasons", {"event_reasons"}),
        ("nvmlDeviceGetComputeRunningProcesses_v3", set(FOREIGN)),
        ("nvmlDeviceGetProcessUtilization", set(FOREIGN) - {"foreign_processes", "foreign_memory_bytes"}),
    ],
)
def test_what_is_not_supported_is_absent_with_its_reason(fake_nvml, target, channels):
    """NOT_SUPPORTED takes away exactly its channels, and says what answered."""
    device = fake_nvml.open(H100 + f"fault {target} 3\n")
    assert set(device.absent) == channels
    assert [channel.name for channel in device.channels] == [name for name in NVML_CHANNELS if name not in channels]
    for reason in device.absent.values():
        assert "Not Supported (NVML code 3) on NVIDIA H100 PCIe with driver 550.54.15" in reason
    reading(device)


def test_ga100_has_instant_power_and_no_average(fake_nvml):
    """An A100 (compute capability 8.0) answers field 186 and not 185."""
    device = fake_nvml.open(A100)
    assert set(device.absent) == {"power_average_w"}
    assert "field 185" in device.absent["power_average_w"]
    assert device.fingerprint.details["family"] == "GA100"
    assert reading(device)["power_w"] == pytest.approx(123.456)


def test_missing_instant_power_is_not_replaced_by_the_average(fake_nvml):
    """Without field 186 there is no power_w, no sensor, and no call of nvmlDeviceGetPowerUsage."""
    device = fake_nvml.open(H100 + "fault field:186 3\n")
    assert "not put in its place" in device.absent["power_w"]
    assert device.sensor is None
    assert reading(device)["power_average_w"] == pytest.approx(123.456)
    assert fake_nvml.calls("nvmlDeviceGetPowerUsage") == 0


NO_POWER_FIELDS = "fault field:186 3\nfault field:185 3\n"


@pytest.mark.parametrize(
    ("script", "driver", "channel", "kind"),
    [
        (RTX3090, "470.82.01", "power_average_w", ReadingKind.AVERAGE),
        (RTX3090, "530.30.02", "power_w", ReadingKind.INSTANT),
        (RTX3090, "531.00", "power_average_w", ReadingKind.AVERAGE),
        (A100, "470.82.01", "power_w", ReadingKind.INSTANT),
        (H100, "525.105", "power_average_w", ReadingKind.AVERAGE),
    ],
)
def test_power_usage_is_exposed_as_what_it_is(fake_nvml, script, driver, channel, kind):
    """The same NVML call is an average or an instant, by family and driver; the other channel stays absent."""
    device = fake_nvml.open(f"driver_version {driver}\n" + script + NO_POWER_FIELDS)
    found = {known.name: known for known in device.channels}
    assert found[channel].kind is kind
    assert found[channel].source.startswith("nvmlDeviceGetPowerUsage")
    assert {"power_w", "power_average_w"} & set(device.absent) == {"power_w", "power_average_w"} - {channel}
    assert reading(device)[channel] == pytest.approx(123.456)


def test_power_usage_of_an_unknown_family_is_not_used(fake_nvml):
    """What a call means on a chip that nobody described is not guessed."""
    device = fake_nvml.open(H100.replace("architecture 9", "architecture 77") + NO_POWER_FIELDS)
    assert {"power_w", "power_average_w"} <= set(device.absent)
    assert "architecture 77 is not known" in device.absent["power_w"]


@pytest.mark.parametrize(
    ("faults", "source"),
    [
        ("", "NVML field 83"),
        ("fault field:83 3\n", "NVML field 191"),
        ("fault field:83 3\nfault field:191 3\n", "nvmlDeviceGetTotalEnergyConsumption"),
    ],
)
def test_energy_is_read_where_the_card_has_it(fake_nvml, faults, source):
    """Three names of one counter, all in mJ, in this order."""
    device = fake_nvml.open(H100 + faults)
    assert next(channel.source for channel in device.channels if channel.name == "energy_j").startswith(source)
    assert reading(device)["energy_j"] >= 1000


def test_a_card_without_any_energy_counter_says_so(fake_nvml):
    """Before Volta there is none."""
    device = fake_nvml.open(
        H100 + "fault field:83 3\nfault field:191 3\nfault nvmlDeviceGetTotalEnergyConsumption 3\n",
    )
    assert "nvmlDeviceGetTotalEnergyConsumption answers Not Supported" in device.absent["energy_j"]


def test_a_superchip_that_measures_its_module_is_refused(fake_nvml):
    """Module power includes the CPU: power and energy are absent, not warned about; the rest is measured."""
    device = fake_nvml.open(GH200)
    assert set(device.absent) == {"power_w", "power_average_w", "energy_j"}
    for reason in device.absent.values():
        assert "whole module" in reason
        assert "not put in its place" in reason
    assert reading(device)["temperature_c"] == 54


def test_a_superchip_whose_driver_does_know_gpu_power_keeps_it(fake_nvml):
    """With GPU scope, power is measured; the energy counter still belongs to the module."""
    device = fake_nvml.open(GH200.replace("fault field:186:0 3\nfault field:185:0 3\n", ""))
    assert set(device.absent) == {"energy_j"}


def test_module_scope_beside_gpu_scope_changes_nothing(fake_nvml):
    """A card that answers both scopes is read in GPU scope."""
    assert not fake_nvml.open(H100 + "scopes 0 1\n").absent


def test_older_drivers_are_read_through_older_names(old_nvml):
    """Event reasons and processes have names that 470 drivers know; 12.535 of nvidia-ml-py has none for processes, and says so."""
    device = old_nvml.open(H100)
    sources = {channel.name: channel.source for channel in device.channels}
    assert sources["event_reasons"] == "nvmlDeviceGetCurrentClocksThrottleReasons"
    if hasattr(pynvml, "nvmlDeviceGetComputeRunningProcesses_v2"):
        assert "_v2" in sources["foreign_processes"]
    else:
        assert "A newer driver or nvidia-ml-py may have it" in device.absent["foreign_processes"]
    assert reading(device)["event_reasons"] == 0x44


def test_a_driver_that_refuses_the_whole_list_is_asked_one_by_one(fake_nvml):
    """A list refused as INVALID_ARGUMENT at opening does not take away what single fields can answer."""
    device = fake_nvml.open(H100 + "fault nvmlDeviceGetFieldValues 2 first 1\nfault field:271 2\n")
    assert set(device.absent) == {"power_brake_ns"}
    assert "A newer driver may know it" in device.absent["power_brake_ns"]


# ---- the driver's own samples ----


def test_driver_samples_come_with_the_drivers_timestamps(fake_nvml):
    """119 samples in watts, in order, one ring period apart, with timestamps in microseconds; the device keeps the protocol."""
    device = fake_nvml.open(H100 + "ring 0.02\n")
    fake_nvml.advance(10)
    assert isinstance(device, BufferedDevice)
    (kept,) = device.driver_samples()
    assert (kept.channel, kept.code, len(kept.values)) == ("power_w", READ_OK, 119)
    assert kept.values == pytest.approx([123.456] * 119)
    steps_us = {b - a for a, b in itertools.pairwise(kept.timestamp_us)}
    assert steps_us <= {19_999, 20_000, 20_001}


@pytest.mark.parametrize("code", [NOT_SUPPORTED, 13])
def test_a_driver_without_samples_says_why(fake_nvml, code):
    """A refusal is kept with its code, so that a run can say what was not compared."""
    device = fake_nvml.open(H100 + f"fault nvmlDeviceGetSamples {code}\n")
    (kept,) = device.driver_samples()
    assert (kept.code, kept.values, kept.timestamp_us) == (code, (), ())


def test_a_card_without_power_has_no_driver_samples(fake_nvml):
    """On a superchip the ring would be the module's, which is not put in the GPU's place."""
    assert fake_nvml.open(GH200).driver_samples() == ()


def test_slots_that_were_never_filled_are_left_out():
    """A driver that was just loaded hands out zeros."""
    empty, full = (SimpleNamespace(timeStamp=t, sampleValue=SimpleNamespace(uiVal=80_000)) for t in (0, 5))
    assert power_samples(1, [full, empty]).timestamp_us == (5,)


def test_driver_samples_of_a_closed_card_are_an_error(fake_nvml):
    """As any other read."""
    device = fake_nvml.open(H100)
    device.close()
    with pytest.raises(DeviceUnavailableError, match="was closed"):
        device.driver_samples()


# ---- errors while measuring ----


def test_a_failed_field_is_missing_alone(fake_nvml):
    """An error of one field gives NaN and its code there, and nowhere else."""
    device = fake_nvml.open(H100 + "fault field:186 10 every 2\n")  # odd reads succeed: opening was the first
    assert failures(device) == {"power_w": 10}
    assert failures(device) == {}
    assert failures(device) == {"power_w": 10}


def test_a_failed_call_is_missing_alone(fake_nvml):
    """An error of one call takes the channels of that call, for that read."""
    device = fake_nvml.open(H100 + "fault nvmlDeviceGetUtilizationRates 999 every 2\n")
    assert failures(device) == {"utilisation_ratio": 999, "memory_utilisation_ratio": 999}
    assert failures(device) == {}


def test_a_failed_field_list_takes_the_fields_only(fake_nvml):
    """The calls that follow are still made."""
    device = fake_nvml.open(H100 + "fault nvmlDeviceGetFieldValues 10 every 2\n")
    assert failures(device) == dict.fromkeys(("power_w", "power_average_w", "energy_j", "memory_temperature_c", *COUNTERS), 10)
    assert failures(device) == {}


def test_a_channel_that_fails_while_opening_may_come_back(fake_nvml):
    """A timeout at opening is no property of the card: the channel exists and is missing until it answers."""
    device = fake_nvml.open(H100 + "fault field:82 10 between -1 100\n")
    assert failures(device) == {"memory_temperature_c": 10}
    fake_nvml.advance(101)
    assert failures(device) == {}


def test_a_lost_gpu_is_missing_everywhere_from_then_on(fake_nvml):
    """Every channel is NaN with code 15, and the dead card is left alone."""
    device = fake_nvml.open(H100 + "lost 100\n")
    reading(device)
    fake_nvml.advance(101)
    assert failures(device) == dict.fromkeys(NVML_CHANNELS, GPU_IS_LOST)
    asked = fake_nvml.calls("nvmlDeviceGetFieldValues")
    assert failures(device) == dict.fromkeys(NVML_CHANNELS, GPU_IS_LOST)
    assert fake_nvml.calls("nvmlDeviceGetFieldValues") == asked


def test_a_gpu_lost_before_opening_is_explained(fake_nvml):
    """Opening says that the card is lost."""
    with pytest.raises(DeviceUnavailableError, match=r"GPU is lost \(NVML code 15\)"):
        fake_nvml.open(H100 + "lost 0\n")


def test_stale_readings_repeat(fake_nvml, tmp_path):
    """A latched sensor repeats its value: the device passes it on, detecting it is the analysis' work."""
    live = Live(tmp_path / "live")
    device = fake_nvml.open(H100.replace("at 0 power_w 123.456\n", f"live {live.path}\n") + "stale 0 100\n")
    start_ns = time.perf_counter_ns()
    live.power_w(80, t_ns=start_ns - 5_000_000_000)
    live.power_w(300, t_ns=start_ns)
    time.sleep(0.25)
    assert reading(device)["power_w"] == 80
    live.close()


# ---- processes ----


@pytest.fixture
def orphan():
    """Process id of a process that is nobody's child of ours: its parent has ended."""
    shell = subprocess.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True, check=True)
    pid = int(shell.stdout)
    yield pid
    os.kill(pid, 9)


def test_own_processes_are_not_foreign(fake_nvml):
    """The running process, the one that started it, and its children belong to the run."""
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            device = fake_nvml.open(H100 + f"process self 100\nprocess parent 100\nprocess {child.pid} 100\n")
            assert reading(device)["foreign_processes"] == 0
        finally:
            child.kill()


def test_a_foreign_process_is_seen(fake_nvml, orphan):
    """A process that does not descend from the run is counted, beside own ones."""
    device = fake_nvml.open(H100 + f"process self 100\nprocess {orphan} 500\n")
    assert reading(device)["foreign_processes"] == 1


def test_a_process_declared_as_own_is_not_foreign(fake_nvml, orphan):
    """``own_pids`` adopts a server that the run did not start."""
    device = fake_nvml.open(H100 + f"process {orphan} 500\n", index=0, own_pids=[orphan])
    assert reading(device)["foreign_processes"] == 0


def test_a_sampler_knows_the_benchmark_that_started_it(fake_nvml, orphan, monkeypatch):
    """The benchmark's id arrives through the environment."""
    monkeypatch.setenv("PYTEST_PHYSICS_BENCHMARK_PID", str(orphan))
    assert reading(fake_nvml.open(H100 + f"process {orphan} 500\n"))["foreign_processes"] == 0


INVISIBLE_PID = 2**22 + 7  # above the largest process id of Linux


def test_an_invisible_process_is_a_riddle_not_a_zero(fake_nvml):
    """From inside a container NVML lists process ids of the host: own or foreign, nobody can say."""
    device = fake_nvml.open(H100 + f"process {INVISIBLE_PID} 500\n")
    assert failures(device) == dict.fromkeys(("foreign_processes", "foreign_memory_bytes"), NO_PERMISSION)


def test_a_visible_foreign_process_outweighs_the_riddle(fake_nvml, orphan):
    """One foreign process is enough to know."""
    device = fake_nvml.open(H100 + f"process {INVISIBLE_PID} 500\nprocess {orphan} 500\n")
    assert reading(device)["foreign_processes"] == 1


def test_a_process_that_ended_since_it_was_listed_is_no_riddle(fake_nvml):
    """NVML may still list what the system has forgotten: a second look decides."""
    device = fake_nvml.open(H100 + f"process {INVISIBLE_PID} 500\n", index=0, process_period_s=0)
    listings = iter(["with it", "without it"])
    processes = device._processes
    ask = processes._listing
    processes._listing = lambda: ask() if next(listings) == "with it" else ([], READ_OK)
    assert reading(device)["foreign_processes"] == 0


def test_processes_are_listed_once_per_period(fake_nvml, orphan):
    """Between listings the count is held; the next one sees who has come."""
    device = fake_nvml.open(H100 + f"process {orphan} 500 100 1000\n", index=0, process_period_s=5)
    device._processes._clock = clock = VirtualClock(start_ns=device.clock.now_ns())
    before = fake_nvml.calls("nvmlDeviceGetComputeRunningProcesses_v3")
    assert [reading(device)["foreign_processes"] for _ in range(20)] == [0] * 20
    assert fake_nvml.calls("nvmlDeviceGetComputeRunningProcesses_v3") == before + 1
    fake_nvml.advance(101)
    clock.advance_to_ns(clock.now_ns() + 4_999_999_999)
    assert reading(device)["foreign_processes"] == 0
    clock.advance_to_ns(clock.now_ns() + 1)
    assert reading(device)["foreign_processes"] == 1


# ---- description ----


def test_the_fingerprint_names_what_may_change_a_measurement(fake_nvml):
    """Driver, VBIOS, limits, modes and thresholds, with units."""
    fingerprint = fake_nvml.open(H100).fingerprint
    assert (fingerprint.kind, fingerprint.name) == ("nvml", "NVIDIA H100 PCIe")
    assert fingerprint.identity == "GPU-11111111-2222-3333-4444-555555555555"
    assert fingerprint.details == {
        "driver": "550.54.15",
        "family": "Hopper",
        "compute_capability": "9.0",
        "vbios": "96.00.89.00.01",
        "cuda_driver": "12.4",
        "pci": "00000000:65:00.0",
        "power_limit_enforced": "310 W",
        "power_limit_default": "350 W",
        "power_limit_range": "200 W to 350 W",
        "persistence_mode": "on",
        "compute_mode": "default",
        "mig_mode": "off",
        "ecc_mode": "on",
        "shutdown_threshold": "95 °C",
        "slowdown_threshold": "92 °C",
        "memory_threshold": "95 °C",
    }


@pytest.mark.parametrize("change", ["driver_version 560.1\n", "vbios", "power_limit"])
def test_the_fingerprint_changes_with_driver_vbios_and_power_limit(fake_nvml, change):
    """Whatever invalidates an identified sensor changes the digest."""
    first = fake_nvml.open(H100).fingerprint.digest
    fake_nvml.close()
    script = {
        "vbios": H100.replace("96.00.89.00.01", "96.00.89.00.02"),
        "power_limit": H100.replace("power_limit_w 310", "power_limit_w 300"),
    }.get(change, change + H100)
    assert fake_nvml.open(script).fingerprint.digest != first


def test_the_specification_names_the_card_by_uuid(fake_nvml):
    """Another process, which may number cards differently, opens the same one."""
    device = fake_nvml.open("device\n" + H100, index=1, process_period_s=2.0)
    assert device.spec == DeviceSpec(kind="nvml", parameters={"uuid": "GPU-11111111-2222-3333-4444-555555555555", "process_period_s": 2.0})
    assert open_device(device.spec).fingerprint == device.fingerprint
    pynvml.nvmlShutdown()  # of the second device


@pytest.mark.parametrize(
    ("script", "window_s", "period_s", "sampling_s"),
    [(H100, 0.025, 0.1, 0.0191), (A100, 0.025, 0.1, 0.0191), (RTX3090, 0.1, 0.1, 0.0191)],
)
def test_the_sensor_is_a_wide_prior_of_its_family(fake_nvml, script, window_s, period_s, sampling_s):
    """Values of the published matrix with uncertainties that its own contradictions need."""
    device = fake_nvml.open(script)
    sensor = device.sensor
    assert sensor is not None
    assert (sensor.origin, sensor.window_s, sensor.update_period_s) == ("prior", window_s, period_s)
    assert sensor.u_window_s == pytest.approx(window_s / 2)
    assert sensor.u_update_period_s == pytest.approx(period_s / 10)
    assert (sensor.delay_s, sensor.u_delay_s, sensor.resolution_w) == (0.05, 0.05, 0.001)
    assert device.sampling_period_s == pytest.approx(sampling_s)


@pytest.mark.parametrize(
    ("architecture", "capability", "family"),
    [(7, (8, 0), "GA100"), (7, (8, 6), "Ampere"), (7, (8, 7), "Ampere"), (9, (9, 0), "Hopper"), (42, (14, 0), "architecture 42")],
)
def test_families_are_told_apart(architecture, capability, family):
    """GA100 shares a number with GA10x; a number nobody knows keeps its number."""
    assert chip_family(architecture, capability) == family


@pytest.mark.parametrize("family", ["Blackwell", "Rubin", "architecture 42", "Kepler"])
def test_families_without_identification_get_the_widest_prior(family):
    """No window at all and a full one both lie within one standard uncertainty."""
    sensor = prior_sensor(family)
    assert sensor.u_window_s >= sensor.window_s
    assert sensor.u_update_period_s >= 0.5 * sensor.update_period_s


@pytest.mark.parametrize("family", ["Kepler", "Maxwell", "Pascal", "Volta", "Turing", "GA100", "Ampere", "Ada", "Hopper", "Blackwell", "?"])
def test_sampling_resolves_the_update_period(family):
    """At most a quarter of the prior's period, and still fit for identification (T/2.5) one standard uncertainty below it."""
    sensor, sampling_s = prior_sensor(family), prior_sampling_period_s(family)
    assert sampling_s <= sensor.update_period_s / 4
    assert sampling_s <= (sensor.update_period_s - sensor.u_update_period_s) / 2.5


@pytest.mark.parametrize(
    ("family", "branch", "kind"),
    [
        ("Ada", 529, ReadingKind.AVERAGE),
        ("Ada", 530, ReadingKind.INSTANT),
        ("Ada", 531, ReadingKind.AVERAGE),
        ("GA100", 470, ReadingKind.INSTANT),
        ("Volta", 550, ReadingKind.INSTANT),
        ("Hopper", 550, ReadingKind.AVERAGE),
        ("Blackwell", 580, ReadingKind.AVERAGE),
        ("architecture 42", 580, None),
    ],
)
def test_power_usage_means_what_the_published_matrix_says(family, branch, kind):
    """One column of the matrix per driver branch; only branch 530 differs, only on Ampere and Ada."""
    assert power_usage_kind(family, branch) is kind


# ---- which card ----

TWO = H100 + H100.replace("-5555", "-dddd").replace("65:00", "66:00").replace("123.456", "50")


@pytest.mark.parametrize(
    "parameters",
    [
        {"index": 1},
        {"uuid": "GPU-11111111-2222-3333-4444-dddd55555555"},
        {"uuid": "GPU-11111111-2222-3333-4444-d"},
        {"pci_bus_id": "00000000:66:00.0"},
        {"pci_bus_id": "0000:66:00.0"},
    ],
)
def test_a_card_is_found_by_index_uuid_and_pci_address(fake_nvml, parameters):
    """All names of the second card open the second card; a UUID may be abbreviated."""
    assert reading(fake_nvml.open(TWO, **parameters))["power_w"] == 50


@pytest.mark.parametrize(
    ("visible", "power_w"),
    [("1,0", 50), ("0", 123.456), ("GPU-11111111-2222-3333-4444-dddd55555555", 50)],
)
def test_without_a_name_the_card_is_the_one_the_workload_uses(fake_nvml, monkeypatch, visible, power_w):
    """CUDA's device 0 is the first of CUDA_VISIBLE_DEVICES."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    fake_nvml.load(TWO)
    device = open_device(DeviceSpec(kind="nvml"))
    assert reading(device)["power_w"] == pytest.approx(power_w)
    device.close()


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_hidden_gpus_are_not_measured(fake_nvml, monkeypatch, visible):
    """Where the workload can use no GPU, measuring one would be a mistake."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    fake_nvml.load(TWO)
    with pytest.raises(DeviceUnavailableError, match="the workload can use no GPU"):
        open_device(DeviceSpec(kind="nvml"))


def test_unlike_gpus_must_be_named(fake_nvml, monkeypatch):
    """CUDA numbers unlike cards by speed, NVML by slot: index 0 may be two cards, unless the order is fixed."""
    fake_nvml.load(H100 + RTX3090)
    with pytest.raises(ConfigurationError, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        open_device(DeviceSpec(kind="nvml"))
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    device = open_device(DeviceSpec(kind="nvml"))
    assert device.fingerprint.name == "NVIDIA H100 PCIe"
    device.close()


def test_a_card_that_is_not_there_is_named_with_those_that_are(fake_nvml):
    """The message lists what NVML sees."""
    with pytest.raises(DeviceUnavailableError, match=r"index 5: Invalid Argument.*index 0: NVIDIA H100 PCIe \(GPU-1111"):
        fake_nvml.open(H100, index=5)


def test_an_ambiguous_abbreviation_opens_nothing(fake_nvml):
    """Two cards begin alike."""
    with pytest.raises(DeviceUnavailableError, match="Not Found"):
        fake_nvml.open(TWO, uuid="GPU-1111")


@pytest.mark.parametrize("parameters", [{}, {"uuid": "MIG-0000"}])
def test_a_card_in_mig_mode_is_refused(fake_nvml, parameters):
    """Its sensors belong to all instances: nothing could be attributed."""
    with pytest.raises(DeviceUnavailableError, match=r"MIG mode.*nvidia-smi -i INDEX -mig 0"):
        fake_nvml.open(H100.replace("mig 0", "mig 1"), **parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"indx": 0}, "did you mean 'index'"),
        ({"index": 0, "uuid": "GPU-1"}, "one of index, uuid, pci_bus_id"),
        ({"index": -1}, "'index' must be >= 0"),
        ({"process_period_s": -1.0}, "'process_period_s' must be >= 0"),
        ({"process_period_s": math.nan}, "'process_period_s' must be >= 0"),
    ],
)
def test_parameters_that_cannot_be_meant_are_refused(parameters, message):
    """No option is parsed and ignored."""
    with pytest.raises(ConfigurationError, match=message):
        NvmlDevice(DeviceSpec(kind="nvml", parameters=parameters))


# ---- life ----


def test_two_devices_of_one_process_nest(fake_nvml):
    """Closing one leaves NVML to the other; closing twice does nothing."""
    first = fake_nvml.open(H100)
    second = fake_nvml.open_again()
    assert fake_nvml.initialised == 2
    first.close()
    first.close()
    assert fake_nvml.initialised == 1
    reading(second)
    second.close()
    assert fake_nvml.initialised == 0


def test_a_closed_device_refuses_to_read(fake_nvml):
    """Reading afterwards is an error, not a NaN."""
    device = fake_nvml.open(H100)
    device.close()
    with pytest.raises(DeviceUnavailableError, match="was closed"):
        device.read()


def test_a_failed_opening_releases_nvml(fake_nvml):
    """The fixture checks the balance, this test that there was one to lose."""
    with pytest.raises(DeviceUnavailableError):
        fake_nvml.open(H100, index=9)
    assert fake_nvml.calls("nvmlShutdown") == 1


def test_reading_leaves_no_growing_garbage(fake_nvml):
    """A sampler switches the collector off: what reads leave behind, failed ones too, must not grow with their number."""
    device = fake_nvml.open(H100 + "fault field:186 10 every 2\nfault nvmlDeviceGetTemperature 10 every 3\n")
    left = []
    gc.collect()
    gc.disable()
    try:
        for n_reads in (10, 300):
            for _ in range(n_reads):
                device.read()
            left.append(gc.collect())
    finally:
        gc.enable()
    assert left[1] <= left[0]  # one array type of ctypes, made anew after each collection


# ---- the real loading path ----

READ_IN_CHILD = """
import json
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.nvml import open_device
device = open_device(DeviceSpec(kind="nvml"))
values, codes = device.read()
print(json.dumps({"name": device.fingerprint.name, "codes": codes,
                  "values": dict(zip([channel.name for channel in device.channels], values))}))
device.close()
"""


def test_the_library_is_found_by_the_loader(fake_directory, tmp_path):
    """In a process of its own, nvidia-ml-py loads libnvidia-ml.so.1 as it does on a real machine."""
    import json

    script = tmp_path / "script.txt"
    script.write_text(H100)
    env = environment(script)
    env.pop("CUDA_VISIBLE_DEVICES", None)
    child = subprocess.run([sys.executable, "-c", READ_IN_CHILD], env=env, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    result = json.loads(child.stdout)
    assert result["name"] == "NVIDIA H100 PCIe"
    assert result["codes"] == [READ_OK] * (len(NVML_CHANNELS) - process_ids_are_apart())
    assert result["values"]["power_w"] == pytest.approx(123.456)


def test_not_supported_is_the_code_the_header_gives():
    """The codes written here are those of the installed nvidia-ml-py."""
    assert (NOT_SUPPORTED, NO_PERMISSION, GPU_IS_LOST, NO_DATA) == (
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_NO_DATA,
    )
