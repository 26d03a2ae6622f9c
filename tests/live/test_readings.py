"""What the monitor shows of an instrument, and how."""

from __future__ import annotations

import math
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from pytest_physics.clock import NS_PER_S
from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.twin import TwinLoad
from pytest_physics.live import view
from pytest_physics.live.readings import MIN_SLOPE_S, SHARE_S, _counted_power, headroom_of, reading_of, reason_names, temperature_limit
from pytest_physics.sampling.trace import Trace
from pytest_physics.session import Plan, Session


@pytest.fixture
def start(tmp_path):
    """Start a run on a twin with parameters of its own."""
    sessions = []

    def start(**parameters):
        spec = DeviceSpec(kind="twin", parameters={"preset": "rtx4080-laptop", **parameters})
        settings = load_settings(tmp_path, overrides={"sampling": {"period_s": 0.1}})
        sessions.append(Session.start(settings, Plan.using({"gpu": spec}), directory=tmp_path))
        return sessions[-1].rig.gpu, settings

    yield start
    for session in sessions:
        session.finish()


def loaded(gpu, seconds, load=TwinLoad()):  # noqa: B008 -- immutable
    gpu.device.set_load(load)
    gpu.sleep(seconds)
    return gpu


def test_a_card_that_heats_has_a_time_to_its_limit(start):
    """The interval holds the truth: the twin's own time until its slowdown temperature, were its slope to stay."""
    gpu, settings = start()
    gpu.sleep(5.0)
    reading = reading_of(loaded(gpu, 40.0), settings)
    room = reading.headroom
    assert reading.value("temperature_c") > 40
    assert room.slope.low > 0
    assert 0 < room.low_s < room.time_to_limit_s < room.high_s < math.inf
    now_ns = gpu.clock.now_ns()
    then, now = gpu.device.true_temperatures_c([now_ns - 45 * NS_PER_S, now_ns])[:, 0]
    assert room.low_s < (reading.limit_c - now) / ((now - then) / 45.0) < room.high_s
    assert room.headroom_c == reading.limit_c - reading.value("temperature_c")
    shown = dict(view.rows(reading))
    assert shown["headroom"].endswith("°C to 87 °C")
    assert shown["time to limit"].count(" s") + shown["time to limit"].count(" min") == 3


def test_the_time_lies_within_its_interval_while_the_slope_changes(start):
    """A heating curve bends: at every moment the time stays between its ends, and the ends in their order."""
    gpu, settings = start()
    gpu.sleep(20.0)
    gpu.device.set_load(TwinLoad())
    finite = 0
    for _ in range(60):
        gpu.sleep(5.0)
        room = reading_of(gpu, settings).headroom
        assert room.low_s <= room.time_to_limit_s <= room.high_s
        assert room.slope.low <= room.slope.value <= room.slope.high
        finite += math.isfinite(room.time_to_limit_s)
    assert finite > 10


def test_at_the_limit_no_time_is_left(start):
    """Zero, not a negative time, once the thermometer reads the limit."""
    gpu, _ = start()
    loaded(gpu, 40.0)
    reading = gpu.sampler.latest()["temperature_c"]
    now_ns = gpu.clock.now_ns()
    assert headroom_of(gpu.trace, now_ns, reading, 1.0).time_to_limit_s == 0.0
    assert headroom_of(gpu.trace, now_ns, reading + 1.0, 1.0).time_to_limit_s > 0.0


def test_a_settled_card_never_reaches_its_limit(start):
    """The slope's interval holds 0: the time is infinite, and so is the end of its interval."""
    gpu, settings = start()
    reading = reading_of(loaded(gpu, 7200.0), settings)
    assert reading.headroom.slope.low <= 0 <= reading.headroom.slope.high
    assert reading.headroom.time_to_limit_s == reading.headroom.high_s == math.inf
    assert dict(view.rows(reading))["time to limit"].startswith("∞ (")


def test_a_cooling_card_never_reaches_its_limit(start):
    """Nor does its interval."""
    gpu, settings = start()
    loaded(gpu, 600.0)
    gpu.device.idle()
    gpu.sleep(200.0)
    reading = reading_of(gpu, settings)
    assert reading.headroom.slope.high < 0
    assert reading.headroom.low_s == math.inf
    assert dict(view.rows(reading))["time to limit"] == "∞ (not rising)"


def test_too_early_for_a_slope(start):
    """Below the shortest span there is none; just above it there is."""
    gpu, settings = start()
    gpu.sleep(MIN_SLOPE_S - 0.2)
    early = reading_of(gpu, settings)
    assert early.headroom is None
    assert dict(view.rows(early))["slope"] == dict(view.rows(early))["time to limit"] == "too early"
    gpu.sleep(0.4)
    assert reading_of(gpu, settings).headroom is not None


def test_throttling_is_named_with_its_share_of_time(start):
    """Full load on this card runs into its power cap."""
    gpu, settings = start()
    reading = reading_of(loaded(gpu, 60.0), settings)
    assert reading.reasons == ("software power cap",)
    assert reading.shares["power cap"] == pytest.approx(1.0, abs=0.01)
    assert reading.shares["thermal"] == 0.0
    shown = dict(view.rows(reading))
    assert shown["throttle reasons"] == "software power cap"
    assert shown["shares of time"] == "power cap 100.0%"
    gpu.device.idle()
    gpu.sleep(30.0)
    idle = dict(view.rows(reading_of(gpu, settings)))
    assert (idle["throttle reasons"], idle["shares of time"]) == ("none", "none lost")


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        (0x0, ()),
        (0x1, ()),
        (0x4, ("software power cap",)),
        (0x21, ("software thermal slowdown",)),
        (0x1004, ("software power cap", "unknown 0x1000")),
        (math.nan, ()),
    ],
)
def test_reasons_by_name(mask, names):
    """Idleness is no reason to worry; unknown bits are shown as they are."""
    assert reason_names(mask) == names


def test_failed_reads_are_question_marks_and_absent_channels_dashes(start):
    """Neither is ever shown as a number."""
    gpu, settings = start()
    gpu.sleep(1.0)
    reading = reading_of(gpu, settings)
    broken = replace(reading, values={**reading.values, "temperature_c": math.nan}, power_w=None, reasons=None, shares={}, headroom=None)
    shown = dict(view.rows(broken))
    assert shown["temperature"] == "? °C"
    assert shown["power"] == shown["throttle reasons"] == shown["shares of time"] == view.ABSENT
    assert "nan" not in view.line(broken, elapsed_s=1.0)
    assert "power" not in view.line(broken, elapsed_s=1.0)


def test_old_samples_and_a_dead_sampler_are_said(start):
    """A view that repeats its last numbers must say how old they are, and why."""
    gpu, settings = start()
    gpu.sleep(1.0)
    gpu.sampler.stop()
    gpu.sleep(2.1)
    reading = reading_of(gpu, settings)
    assert reading.age_s == pytest.approx(2.1, abs=0.11)
    assert dict(view.rows(reading))["sampler"].startswith("FAILED: ")
    assert dict(view.rows(replace(reading, problem="")))["sampler"] == f"{reading.samples} samples, the last 2 s ago"
    assert dict(view.rows(replace(reading, problem="", age_s=1.9)))["sampler"] == f"{reading.samples} samples"
    assert dict(view.rows(replace(reading, problem="", age_s=math.inf)))["sampler"] == "no sample yet"


def test_power_comes_from_the_counter_where_there_is_no_channel(start):
    """A processor counts energy; its power is the counter's increase over the last seconds."""
    gpu, settings = start()
    loaded(gpu, 30.0)
    now_ns = gpu.clock.now_ns()
    recent = gpu.trace.between(now_ns - round(SHARE_S * NS_PER_S), now_ns)
    true_w = float(gpu.device.true_energy_j(now_ns - 10 * NS_PER_S, now_ns)) / 10.0
    assert _counted_power(recent) == pytest.approx(true_w, rel=0.1)
    assert reading_of(gpu, settings).power_w == reading_of(gpu, settings).value("power_w")


def test_the_limit_is_the_devices_own_where_it_states_one(start, monkeypatch):
    """NVML's slowdown threshold, the twin's, else the setting."""
    gpu, settings = start()
    assert temperature_limit(gpu, settings) == (87.0, "the preset's slowdown temperature")
    monkeypatch.setattr(type(gpu), "simulated", False)
    assert temperature_limit(gpu, settings) == (83.0, "the setting 'soak.trip_c'")
    fingerprint = gpu.device.fingerprint
    monkeypatch.setitem(fingerprint.details, "slowdown_threshold", "93 °C")
    monkeypatch.setattr(type(gpu.device), "fingerprint", fingerprint)
    assert temperature_limit(gpu, settings) == (93.0, "the device's slowdown threshold")


def test_a_trace_without_a_thermometer_has_no_headroom(start):
    """No number is made up for it."""
    gpu, _ = start(overrides={"power.noise_w": 0.0})
    gpu.sleep(20.0)
    trace = gpu.trace
    kept = [name for name in trace.rows.dtype.names if name != "temperature_c"]
    assert headroom_of(trace, gpu.clock.now_ns(), 87.0, 1.0) is not None
    assert headroom_of(Trace(instrument="gpu", rows=trace.rows[kept], period_ns=trace.period_ns), gpu.clock.now_ns(), 87.0, 1.0) is None


def test_the_table_has_a_column_for_each_instrument(start):
    """Simulated ones say so; a row that one of them lacks is a dash there."""
    gpu, settings = start()
    gpu.sleep(1.0)
    reading = reading_of(gpu, settings)
    bare = replace(reading, instrument="cpu", device="a processor", simulated=False, values={}, power_w=None, reasons=None, shares={})
    console = Console(width=160, file=StringIO())
    console.print(view.table([reading, bare], elapsed_s=12.0, duration_s=600.0))
    text = console.file.getvalue()
    assert "12 s of 10 min; Ctrl-C ends it" in text
    assert "gpu: rtx4080-laptop (SIMULATED)" in text
    assert "cpu: a processor" in text
    slope = next(line for line in text.splitlines() if "headroom" in line)
    assert slope.split()[-1] == view.ABSENT
