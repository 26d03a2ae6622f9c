"""The training coupling's page on a device without a power meter: the work rate under its own name, and what is missing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pytest_physics.record.joined import steps_of
from pytest_physics.report.pages import coupling
from pytest_physics.sampling.trace import Trace

S = 1_000_000_000
STUDY = coupling.Studied(table="training-steps-1", instrument="cpu", name="training", phase="", baselines=())


def run_with(channels, *, cpus="2", absent=None, seconds=60, spec="cpu"):
    """A run of one instrument sampled ten times a second, whose channels are functions of the time in seconds."""
    t_s = np.arange(0, seconds, 0.1)
    names = ("tick", "t_before_ns", "t_after_ns", "errors")
    rows = np.zeros(t_s.size, dtype=[*((name, np.int64) for name in names), *((name, np.float64) for name in channels)])
    rows["t_before_ns"] = rows["t_after_ns"] = np.round(t_s * S)
    for name, of in channels.items():
        rows[name] = of(t_s)
    instrument = SimpleNamespace(
        spec=spec,
        fingerprint=SimpleNamespace(details={"logical_cpus": cpus} if cpus else {}),
        channels=[SimpleNamespace(name=name) for name in channels],
        absent=absent or {},
    )
    trace = Trace(instrument="cpu", rows=rows, period_ns=S // 10)
    return SimpleNamespace(trace=lambda _: trace, instrument=lambda _: instrument)


def steps_at(period_s, seconds=60):
    """Steps of equal length."""
    ends = np.round(np.arange(0.5, seconds, period_s) * S).astype(np.int64)
    table = np.zeros(ends.size, dtype=[("t_ns", np.int64), ("step", np.int64), ("loss", np.float64)])
    table["t_ns"], table["step"] = ends, np.arange(ends.size)
    return steps_of(table)


HOST = {
    "utilisation_cpu_ratio": lambda t: np.full(t.size, 0.75),
    "foreign_cpu_ns": lambda t: 0.5 * t * S,
    "pressure_cpu_ns": lambda t: 0.2 * t * S,
    "steal_ns": lambda t: 0.1 * t * S,
}
"""Of two processors three halves busy, one half with others' work."""


def test_the_work_rate_is_per_second_of_this_runs_own_processor_time():
    """4 steps a second on one processor of its own are 4 per CPU-second; waiting is per time, stolen time per processor."""
    _, found = coupling._host_rates(run_with(HOST), "cpu", steps_at(0.25))
    expected = {coupling.CPU_RATE: 4.0, coupling.WAITING: 0.2, coupling.STOLEN: 0.05}
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name][1:-1] == pytest.approx(value, rel=0.02), name


def test_what_the_device_has_not_counted_is_left_out():
    """Without processors' number or counters there is no rate, and a training of a few seconds has no blocks."""
    assert set(coupling._host_rates(run_with(HOST, cpus=""), "cpu", steps_at(0.25))[1]) == {coupling.WAITING}
    assert coupling._host_rates(run_with({"utilisation_cpu_ratio": HOST["utilisation_cpu_ratio"]}), "cpu", steps_at(0.25))[1] == {}
    assert coupling._host_rates(run_with(HOST, seconds=9), "cpu", steps_at(0.25, seconds=9))[1] == {}


def test_a_step_of_no_length_has_no_rate():
    """Logs of whole seconds have such steps."""
    np.testing.assert_array_equal(coupling._per_second(np.array([0.5, 0.0])), [2.0, np.nan])


def test_what_is_missing_is_one_sentence_with_its_reason_and_its_remedy():
    """Power and temperature, why, and what would be needed; the work rate is not called an efficiency."""
    absent = {"energy_j": "no RAPL domain.", "power_w": "see energy_j.", "temperature_c": "no sensor."}
    assert coupling._missing(run_with(HOST, absent=absent), STUDY) == (
        "cpu has no power, and so no efficiency (no RAPL domain), and no temperature (no sensor); it would need a processor with RAPL and "
        "a thermal sensor that the system shows. The rate of the work is drawn instead, and it is no efficiency."
    )


@pytest.mark.parametrize("power", ["power_w", "energy_j"])
def test_a_device_with_both_lacks_nothing(power):
    """A counter of energy gives power too."""
    assert coupling._missing(run_with({power: np.zeros_like, "temperature_c": np.zeros_like}), STUDY) == ""
