"""The simulated NVML library itself: its sensors and counters against closed formulas, its functions through nvidia-ml-py.

What the other tests conclude from the simulation is only as good as the simulation. Times: the script's ``epoch_ns`` puts t = 0 into
the past, so that nothing has to be waited for.
"""

from __future__ import annotations

import itertools
import math
import time

import pynvml
import pytest
from fakenvml import H100

STEP = H100.replace("at 0 power_w 123.456\n", "at -100 power_w 100\nat 0 power_w 300\n")
"""100 W before t = 0, 300 W after."""


def sensor(kind, *, period=0.1, window=0.0, lag=0.0, delay=0.0, phase=0.0, noise=0.0, lsb=0.001, gain=1.0, offset=0.0):
    """Statement that describes one power sensor."""
    return f"sensor {kind} {period} {window} {lag} {delay} {phase} {noise} {lsb} {gain} {offset}\n"


@pytest.fixture
def card(fake_nvml):
    """Function: handle of a card of the script's driver, ``age_s`` after its t = 0."""

    def start(script, age_s=0.0):
        fake_nvml.load(f"epoch_ns {time.monotonic_ns() - round(age_s * 1e9)}\n{script}")
        pynvml.nvmlInit()
        started.append(True)
        return pynvml.nvmlDeviceGetHandleByIndex(0)

    started = []
    yield start
    for _ in started[-1:]:
        pynvml.nvmlShutdown()


def power_w(handle, field=186):
    [answer] = pynvml.nvmlDeviceGetFieldValues(handle, [(field, 0)])
    assert answer.nvmlReturn == 0
    return answer.value.uiVal / 1e3


def energy_j(handle):
    return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3


def test_a_box_averages_over_its_window(card):
    """Update at t = 10 s: a window of 40 s has seen 10 s of 300 W and 30 s of 100 W."""
    assert power_w(card(STEP + sensor("instant", period=5, window=40), age_s=11)) == pytest.approx(150)


def test_a_lag_approaches_exponentially(card):
    """Update at t = 10 s with τ = 10 s: 100 + 200 (1 − 1/e) watts."""
    handle = card(STEP + sensor("instant", period=5, lag=10), age_s=11)
    assert power_w(handle) == pytest.approx(300 - 200 * math.exp(-1), abs=1e-3)


def test_box_and_lag_convolve(card):
    """The mean of the lagged step over the last 5 s, integrated by hand."""
    handle = card(STEP + sensor("instant", period=5, window=5, lag=10), age_s=11)
    expected = 300 - 200 * (math.exp(-0.5) - math.exp(-1.0)) * 10 / 5
    assert power_w(handle) == pytest.approx(expected, abs=1e-3)


def test_delay_and_phase_shift_the_update(card):
    """Updates at 2, 7, 12 s, each showing the power 9 s earlier: at 11 s still the old level, at 13 s the new one."""
    script = STEP + sensor("instant", period=5, phase=2, delay=9)
    assert power_w(card(script, age_s=11)) == 100
    assert power_w(card(script, age_s=13)) == 300


def test_gain_offset_and_resolution_shape_the_reading(card):
    """300 W · 1.1 + 2.3 W in steps of 0.5 W."""
    assert power_w(card(STEP + sensor("instant", gain=1.1, offset=2.3, lsb=0.5), age_s=1)) == pytest.approx(332.5)


def test_noise_belongs_to_the_reading_not_to_the_poll(card):
    """Polls of one update are equal; updates scatter with the stated deviation, the same in every process."""
    script = STEP + sensor("instant", period=1, noise=5)
    readings = []
    for age_s in range(1, 61):
        handle = card(script, age_s=age_s + 0.5)
        readings.append(power_w(handle))
        assert power_w(handle) == readings[-1]
        pynvml.nvmlShutdown()
    mean = sum(readings) / len(readings)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in readings) / (len(readings) - 1))
    assert mean == pytest.approx(300, abs=4 * 5 / math.sqrt(60))
    assert 3.5 < deviation < 6.5
    pynvml.nvmlInit()  # the fixture shuts down once


@pytest.mark.parametrize(("rate", "age_s", "joules"), [(1, 15, 3000), (0.5, 15, 1500), (1, 19.9, 3000), (1, 20.1, 6000)])
def test_the_counter_integrates_up_to_its_tick(card, rate, age_s, joules):
    """Tick 10 s at 300 W, from 1000 J on; a half-rate counter counts half."""
    handle = card(STEP + f"energy 10 1000 integrator {rate}\n", age_s=age_s)
    assert energy_j(handle) == pytest.approx(1000 + joules)


def test_a_counter_of_readings_inherits_the_sensor(card):
    """Sensor gain 2: the sum of readings is twice the energy, the integral is not."""
    assert energy_j(card(STEP + sensor("instant", gain=2) + "energy 10 0 readings 1\n", age_s=15)) == pytest.approx(6000)
    pynvml.nvmlShutdown()
    assert energy_j(card(STEP + sensor("instant", gain=2) + "energy 10 0 integrator 1\n", age_s=15)) == pytest.approx(3000)
    pynvml.nvmlShutdown()
    pynvml.nvmlInit()


def test_a_reset_counter_counts_from_zero(card):
    """Reset at 5 s, tick at 10 s: 5 s of 300 W."""
    assert energy_j(card(STEP + "energy 10 1000 integrator 1\ncounter_reset 5\n", age_s=15)) == pytest.approx(1500)


def test_a_latched_sensor_repeats_until_the_latch_ends(card):
    """Inside [1, 20) the reading of t = 1 s, a box of 10 s with 1 s of 300 W in it; afterwards all of it."""
    script = STEP + sensor("instant", window=10) + "stale 1 20\n"
    assert power_w(card(script, age_s=19)) == pytest.approx(120)
    assert power_w(card(script, age_s=21)) == pytest.approx(300)


def test_the_driver_keeps_119_samples(card):
    """Time stamps in microseconds, one ring period apart; asking again after the last one finds nothing newer."""
    handle = card(STEP + "ring 5\n", age_s=1000)
    value_type, samples = pynvml.nvmlDeviceGetSamples(handle, pynvml.NVML_TOTAL_POWER_SAMPLES, 0)
    stamps = [sample.timeStamp for sample in samples]
    assert value_type == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
    assert len(samples) == 119
    assert {round((b - a) / 1e6, 3) for a, b in itertools.pairwise(stamps)} == {5.0}
    assert samples[-1].sampleValue.uiVal == 300_000
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetSamples(handle, pynvml.NVML_TOTAL_POWER_SAMPLES, stamps[-1] + 1000)


def test_calls_take_the_stated_latency(card):
    """20 ms in the script are at least 20 ms on the clock."""
    handle = card("latency_us 20000\n" + STEP)
    start = time.perf_counter()
    pynvml.nvmlDeviceGetPowerUsage(handle)
    assert time.perf_counter() - start >= 0.02


def test_scopes_are_answered_as_stated(card):
    """Module scope only where the script says so; scope 9 does not exist."""
    handle = card(STEP + "scopes 0 2\n")
    answers = pynvml.nvmlDeviceGetFieldValues(handle, [(186, 0), (186, 1), (186, 2), (186, 9)])
    assert [answer.nvmlReturn for answer in answers] == [0, 3, 0, 2]


def test_an_unreadable_statement_stops_the_driver(fake_nvml, capfd):
    """A typing error in a script is an error of the test, and says where."""
    fake_nvml.load("device\nnmae Wrong\n")
    with pytest.raises(pynvml.NVMLError_Unknown):
        pynvml.nvmlInit()
    assert ":2 cannot be read: nmae Wrong" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        ("nvmlDeviceGetSerial", (), "0"),
        ("nvmlDeviceGetIndex", (), 0),
        ("nvmlDeviceGetMinorNumber", (), 0),
        ("nvmlDeviceGetPowerManagementLimit", (), 310_000),
        ("nvmlDeviceGetPowerManagementMode", (), 1),
        ("nvmlDeviceGetComputeMode", (), 0),
        ("nvmlDeviceGetTemperatureV", (0,), 54),
        ("nvmlDeviceGetMarginTemperature", (), 92 - 54),
        ("nvmlDeviceGetMaxClockInfo", (1,), 1755),
        ("nvmlDeviceGetClock", (2, 0), 1593),
        ("nvmlDeviceGetNumFans", (), 0),
        ("nvmlDeviceGetPcieThroughput", (0,), 0),
        ("nvmlDeviceGetSupportedClocksEventReasons", (), 0x1FF),
        ("nvmlDeviceGetSupportedClocksThrottleReasons", (), 0x1FF),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", (), 0x44),
        ("nvmlDeviceGetArchitecture", (), 9),
        ("nvmlDeviceGetCudaComputeCapability", (), (9, 0)),
    ],
)
def test_further_functions_answer_through_nvidia_ml_py(card, function, arguments, expected):
    """Layouts and constants agree with the binding's."""
    if not hasattr(pynvml, function):
        pytest.skip(f"this release of nvidia-ml-py has no {function}")
    assert getattr(pynvml, function)(card(H100), *arguments) == expected


def test_structures_answer_through_nvidia_ml_py(card):
    """Memory in both versions, violation time, PCI address, processes, and what a passive card says of its fan."""
    handle = card(H100 + "process 1 64\n")
    old, new = pynvml.nvmlDeviceGetMemoryInfo(handle), pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    assert old.used == new.used == 2 * 1024**2
    assert old.total == old.used + old.free == new.total
    assert pynvml.nvmlDeviceGetViolationStatus(handle, 0).violationTime == 0
    assert pynvml.nvmlDeviceGetPciInfo(handle).bus == 0x65
    [process] = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    assert (process.pid, process.usedGpuMemory) == (1, 64 * 1024**2)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetFanSpeed(handle)
    pynvml.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetPowerUsage(handle)
    pynvml.nvmlInit()
