"""Channels that were not measured are found and named; measured ones pass."""

from __future__ import annotations

import numpy as np
import pytest
from rle_recordings import JOINT, columns, session_columns

from pytest_physics.metrology.channel_checks import check_channels, gap_gate
from pytest_physics.metrology.quality import Provenance


def checked(rows, *names, **options):
    return check_channels(rows["t_s"], {name: rows[name] for name in names}, nominal_s=1.0, **options)


def problem_names(found):
    return {(gate.name, gate.scope.rpartition(": ")[2]) for gate in found.problems}


def clean(seed=0, n=600):
    """Readings of a sensor: wander, noise, steps."""
    rng = np.random.default_rng(seed)
    t_s = np.arange(n) + rng.normal(0, 0.002, n)
    return t_s, {
        "power_w": np.round(100 + rng.normal(0, 3, n) + 5 * np.sin(t_s / 50), 2),
        "temperature_c": np.floor(60 + 3 * np.sin(t_s / 200) + rng.normal(0, 0.4, n)),
        "utilisation_ratio": np.round(rng.uniform(0.1, 0.9, n), 2),
    }


def test_measured_channels_pass():
    """No alarm on clean data, and the provenance stays measured."""
    t_s, channels = clean()
    found = check_channels(t_s, channels, nominal_s=1.0)
    assert not found.problems
    assert set(found.provenance.values()) == {Provenance.MEASURED}


@pytest.mark.parametrize("session", JOINT)
def test_the_constants_of_the_v2_monitor_are_named(session):
    """50 °C, 125 W, 2496 MHz and a load of 0.8 are literals, not readings."""
    found = checked(session_columns(session, "cpu"), "util_pct", "temp_c", "power_w", "cpu_freq_mhz", "a_load")
    assert problem_names(found) == {("constant channel", name) for name in ("temp_c", "power_w", "cpu_freq_mhz", "a_load")}
    assert found.provenance["temp_c"] is Provenance.ASSUMED
    assert "50 in all 180 rows" in next(g.reason for g in found.problems if g.scope.endswith("temp_c"))


@pytest.mark.parametrize("file", ["laptop_rle_20251030_19", "rle_20251028_08"])
def test_a_power_computed_from_utilisation_is_named(file):
    """CPU power = 1.25 × utilisation to the last digit, on two machines."""
    found = checked(columns(f"sessions/{file}.csv", "cpu"), "util_pct", "power_w")
    assert ("computed channel", "power_w") in problem_names(found)
    assert "1.25 × 'util_pct'" in next(g.reason for g in found.problems if g.name == "computed channel")
    assert found.provenance["power_w"] is Provenance.DERIVED


def test_the_gpu_of_the_same_file_is_measured():
    """Its power does not follow utilisation."""
    found = checked(columns("sessions/rle_20251028_08.csv", "gpu"), "util_pct", "power_w", "temp_c")
    assert problem_names(found) == {("gaps", "recording")}
    assert all(gate.warning for gate in found.problems)


def test_the_stale_half_and_the_gaps_are_named():
    """HWiNFO updates every two seconds and is read every second: 51 % repeats; gaps of 39.5, 119.7 and 650.8 s."""
    found = checked(columns("sessions/live_20251031_04_hwinfo_cpu.csv", "cpu"), "util_pct", "power_w", "temp_c")
    assert ("stale values", "power_w") in problem_names(found)
    assert found.provenance["power_w"] is Provenance.STALE
    gaps = next(gate for gate in found.problems if gate.name == "gaps")
    assert all(length in gaps.reason for length in ("650.8 s", "119.7 s", "39.54 s"))
    assert not gaps.warning
    assert "51%" in next(g.reason for g in found.problems if g.name == "stale values")


def test_the_synthetic_phone_is_named():
    """33 + 11 t/1000 + 0.5 sin(t/50) has neither noise nor steps."""
    found = checked(columns("synthetic/phone_rle_wildlife.csv", "mobile"), "temp_c")
    assert problem_names(found) == {("implausible smoothness", "temp_c")}


def test_a_coarse_sensor_is_not_stale():
    """Whole degrees repeat because the step is coarse: the value moves by single steps."""
    t_s = np.arange(400.0)
    temperature = np.floor(40 + 25 * (1 - np.exp(-t_s / 100)))
    assert not check_channels(t_s, {"temperature_c": temperature}).problems


def test_a_held_sensor_is_stale_unless_it_holds_by_nature():
    """Every value twice; a clock may do that."""
    rng = np.random.default_rng(4)
    t_s, values = np.arange(400.0), np.repeat(np.round(rng.normal(100, 10, 200), 2), 2)
    assert problem_names(check_channels(t_s, {"power_w": values})) == {("stale values", "power_w")}
    assert not check_channels(t_s, {"power_w": values}, holding={"power_w"}).problems


def test_two_writers_are_named():
    """Two processes append to one file: times run backwards."""
    t_s, channels = clean()
    mixed = t_s.copy()
    mixed[300:310] -= 0.9
    mixed[200] = mixed[190]
    assert ("two writers", "recording") in problem_names(check_channels(mixed, channels))


def test_a_missing_tenth_is_a_wrong_cadence():
    """1 Hz with a tick in ten left out; the same rows pass as what they are."""
    t_s = np.delete(np.arange(600.0), np.arange(0, 600, 10))
    values = {"power_w": np.random.default_rng(5).normal(100, 3, t_s.size)}
    assert ("cadence", "recording") in problem_names(check_channels(t_s, values, nominal_s=1.0))
    assert not check_channels(t_s, values).problems


@pytest.mark.parametrize(("longest_s", "passed"), [(2.9, True), (3.1, False)])
def test_a_gap_is_longer_than_three_periods(longest_s, passed):
    """Boundary pair."""
    t_s = np.concatenate([np.arange(50.0), 49 + longest_s + np.arange(50.0)])
    assert gap_gate(t_s).passed is passed
