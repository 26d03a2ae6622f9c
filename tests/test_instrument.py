"""Instruments and windows: what is written, what is asked, and what is refused."""

from __future__ import annotations

import json
import math
import re
import time

import numpy as np
import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.instrument import LONGEST_NAME, Energy
from pytest_physics.metrology.decision import decide
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.uncertainty import Comparison, Estimate, Recipe
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.verify import verify_run
from pytest_physics.session import Plan, Session
from pytest_physics.workloads.twin import TwinKernel

BROKEN = "\ud800"
"""A lone surrogate: Python has it, UTF-8 does not."""
OPTIONS = {"device": "twin:rtx4080-laptop", "baseline": {"settle_s": 0.5, "duration_s": 11.0}}


@pytest.fixture
def session(tmp_path):
    """A short run on a twin."""
    with Session.start(load_settings(tmp_path, overrides=OPTIONS), directory=tmp_path) as session:
        yield session


@pytest.fixture
def gpu(session):
    return session.rig.gpu


def lines(session):
    """The windows as they stand in the file."""
    return [json.loads(line) for line in (session.path / "windows.jsonl").read_text().splitlines()]


# --- windows ----------------------------------------------------------------------------------------------------------


def test_a_window_is_one_line_as_soon_as_it_closes(session, gpu):
    """Nothing waits for a flush: a crash after the block loses nothing."""
    session.test = "test_x.py::test_y"
    with gpu.phase("outer"), gpu.phase("inner") as inner, gpu.window("decode", labels={"batch": 8}, tokens=512) as window:
        gpu.sleep(0.5)
        assert lines(session) == []
    (line,) = lines(session)
    assert window.t1_ns == window.t0_ns + 500_000_000
    assert line == {
        "id": "gpu-w1", "instrument": "gpu", "name": "decode", "phase": inner.id, "t0_ns": window.t0_ns, "t1_ns": window.t1_ns,
        "work": {"tokens": 512}, "labels": {"batch": 8}, "test": "test_x.py::test_y", "synchronised": False,
    }  # fmt: skip


def test_windows_may_nest_and_overlap(session, gpu):
    """Each is one event of its own; ids count in the order of closing."""
    outer, inner, other = (gpu.window(name) for name in ("outer", "inner", "other"))
    with outer:
        gpu.sleep(0.1)
        with inner:
            gpu.sleep(0.1)
        other.__enter__()
        gpu.sleep(0.1)
    gpu.sleep(0.1)
    other.__exit__(None, None, None)
    assert [(line["name"], line["id"]) for line in lines(session)] == [("inner", "gpu-w1"), ("outer", "gpu-w2"), ("other", "gpu-w3")]
    assert outer.t0_ns < inner.t0_ns < inner.t1_ns < outer.t1_ns < other.t1_ns


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_window_is_kept_and_labelled(session, gpu, error):
    """The measured part is data; the label says that the event did not finish, and the error goes on."""
    with pytest.raises(error), gpu.window("work", labels={"batch": 1}):
        raise error
    assert lines(session)[0]["labels"] == {"batch": 1, "interrupted": error.__name__}


def test_a_window_may_span_phases(session, gpu):
    """It belongs to the phase that was open when it closed; outside of any phase to none."""
    window = gpu.window("work")
    with gpu.phase("first"):
        window.__enter__()
        gpu.sleep(0.1)
    with gpu.phase("second") as second:
        gpu.sleep(0.1)
        window.__exit__(None, None, None)
        gpu.sleep(0.1)
    with gpu.window("outside"):
        gpu.sleep(0.1)
    assert [line["phase"] for line in lines(session)] == [second.id, ""]
    session.finish()
    assert verify_run(session.path).findings == ()


def test_a_window_of_no_length_has_no_energy_and_says_why(gpu):
    """NO_DATA, and its gate names the usual cause: a twin's clock that nobody moved."""
    gpu.baseline()
    with gpu.window("empty", tokens=1) as window:
        pass
    energy = window.energy
    assert math.isnan(energy.gross.value)
    assert energy.gross.quality is Quality.NO_DATA
    decision = decide(Comparison.of(window.duration, "<=", 1.0), ())
    assert decision.verdict == "INVALID"
    assert "lasts 0 s (must be > 0)" in decision.reason


def test_a_window_is_used_once(gpu):
    """Opening it again would overwrite the times of a window that is on record."""
    with gpu.window("work") as window:
        gpu.sleep(0.1)
    with pytest.raises(ValueError, match="window 'work' was opened before; a window is one event, open a new one"), window:
        pass


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (5, TypeError, "must be a text, such as 'decode' (got 5 of type int)"),
        (None, TypeError, "must be a text, such as 'decode' (got None of type NoneType)"),
        ([], TypeError, "must be a text, such as 'decode' (got [] of type list)"),
        ("", ValueError, "must not be empty (got '')"),
        (" \n", ValueError, r"must not be empty (got ' \n')"),
        ("x" * (LONGEST_NAME + 1), ValueError, "has at most 200 characters (got 201: 'xxxx"),
    ],
)  # fmt: skip
def test_a_name_that_says_nothing_is_refused(gpu, name, error, message):
    """Names stand in tables: neither empty, nor a page, nor something else than a text; nothing is recorded of a refused window."""
    for opening in (gpu.window, gpu.begin_window, gpu.end_window):
        with pytest.raises(error, match=re.escape(f"a window's name {message}")) as raised:
            opening(name)
        assert len(str(raised.value)) < 250
    assert gpu.window_starts_ns == []


@pytest.mark.parametrize(
    "arguments", [{"name": BROKEN}, {"name": "w", "labels": {BROKEN: 1}}, {"name": "w", "labels": {"k": BROKEN}}, {"name": "w", BROKEN: 1}]
)
def test_text_that_no_file_can_hold_is_refused(gpu, arguments):
    """One line that cannot be read makes all windows unreadable: neither name, label, its value nor counted work may be such a text."""
    with pytest.raises(ValueError, match="is not valid text; use characters that UTF-8 can write"):
        gpu.window(**arguments)


def test_the_longest_name_is_accepted(session, gpu):
    """The other side of the boundary."""
    with gpu.window("x" * LONGEST_NAME):
        pass
    assert len(session.instruments["gpu"].windows) == 1


@pytest.mark.parametrize("ask", [lambda w: w.energy, lambda w: w.duration, lambda w: w.per("token"), lambda w: w.count("token")])
def test_an_open_window_has_no_numbers(gpu, ask):
    """The message says when it has them."""
    with (
        gpu.window("work", tokens=1) as window,
        pytest.raises(ValueError, match="window 'work' is not closed yet: ask for its numbers after"),
    ):
        ask(window)


def test_labels_are_those_of_the_opening(session, gpu):
    """Somebody fills one dictionary in a loop; a recorded window does not change with it."""
    labels = {"batch": 1}
    with gpu.window("work", labels=labels) as window:
        gpu.sleep(0.1)
    labels["batch"] = 2
    assert window.record().labels == {"batch": 1} == lines(session)[0]["labels"]


def test_numbers_of_numpy_are_recorded_as_plain_numbers(session, gpu):
    """The record is JSON; a value JSON has no type for is kept as its text, never lost with its window."""
    with gpu.window("work", labels={"batch": np.int64(8), "share": np.float32(0.5), "shape": (2, 3)}, tokens=np.int64(4)) as window:
        gpu.sleep(0.1)
    assert lines(session)[0]["labels"] == {"batch": 8, "share": 0.5, "shape": "(2, 3)"}
    assert lines(session)[0]["work"] == {"tokens": 4}
    assert window.record().work == {"tokens": 4.0}


@pytest.mark.parametrize("amount", [-1, math.nan, math.inf])
def test_work_that_cannot_be_counted_is_refused_before_anything_runs(gpu, amount):
    """The measurement would be lost at the end otherwise."""
    with pytest.raises(ValueError, match="window 'work': 'tokens' must be a finite count >= 0"):
        gpu.window("work", tokens=amount)


def test_per_unit_divides_by_the_counted_work(gpu):
    """Singular or as it was given; units follow."""
    gpu.baseline()
    with gpu.window("work", tokens=100, bytes=50) as window:
        TwinKernel(gpu.device).run_for(2.0)
    gross = window.energy.gross
    assert window.per("token").gross.value == pytest.approx(gross.value / 100)
    assert window.per("tokens").gross.unit == "J/token"
    assert window.per("bytes").net.unit == "J/byte"


def test_per_unit_of_what_was_not_counted_is_refused(gpu):
    """The message says what was counted, and how to count it."""
    with gpu.window("work", tokens=0, calls=3) as window:
        gpu.sleep(0.1)
    for unit in ("token", "image"):
        expected = f"window 'work' counted tokens=0, calls=3; open it with {unit}s=<positive count> to get energy per {unit}."
        with pytest.raises(ValueError, match=expected):
            window.per(unit)
    with gpu.window("bare") as bare:
        gpu.sleep(0.1)
    with pytest.raises(ValueError, match="window 'bare' counted nothing"):
        bare.per("token")


def test_thousands_of_windows_cost_the_same_each(tmp_path):
    """Energy of N windows takes time in proportion to N: nothing looks at all windows for each of them."""
    options = {**OPTIONS, "sampling": {"period_s": 0.1}}

    def seconds_for_fifty(n_windows):
        with Session.start(load_settings(tmp_path, overrides=options), directory=tmp_path) as session:
            gpu = session.rig.gpu
            for _ in range(n_windows):
                with gpu.window("tick"):
                    gpu.sleep(0.05)
            gpu.sleep(2.0)
            names = [f"gpu-w{1 + k * n_windows // 50}" for k in range(50)]
            recipes = [
                Recipe(op="window.energy", parameters={"window": n, "baselines": [], "sensor": "gpu-s0", "kind": "gross"}) for n in names
            ]
            session.evaluate(recipes[0])
            start = time.process_time()
            for recipe in recipes:
                session.evaluate(recipe)
            return time.process_time() - start

    few, many = seconds_for_fifty(200), seconds_for_fifty(8000)
    assert many < 3 * few + 0.05


# --- phases -----------------------------------------------------------------------------------------------------------


def test_phases_are_on_record_while_they_run(session, gpu):
    """A crash leaves the phase with its beginning and no end."""
    with gpu.phase("work") as phase:
        running = json.loads((session.path / "run.json").read_text())["phases"]
        assert running == [{"id": phase.id, "instrument": "gpu", "name": "work", "t0_ns": 0, "t1_ns": None}]
        gpu.sleep(1.0)
    assert json.loads((session.path / "run.json").read_text())["phases"][0]["t1_ns"] == 1_000_000_000


def test_a_phase_ends_with_its_block_whatever_happens(gpu):
    """An error inside closes it, and the next window belongs to none."""
    with pytest.raises(ValueError, match="stop"), gpu.phase("work"):
        raise ValueError("stop")
    assert gpu.phases[0].t1_ns is not None
    with gpu.window("after") as window:
        gpu.sleep(0.1)
    assert window.phase == ""


# --- energy -----------------------------------------------------------------------------------------------------------


def test_gross_and_net_are_divided_together():
    """Always side by side, by a number or by an exact count."""
    pair = Energy(gross=Estimate.exact(10.0, "J"), net=Estimate.exact(4.0, "J"))
    halves = pair / 2.0
    per_token = pair / Estimate.exact(4.0, "token")
    assert (halves.gross.value, halves.net.value) == (5.0, 2.0)
    assert (per_token.gross.value, per_token.net.unit) == (2.5, "J/token")
    assert str(pair) == "10 J gross (BILLABLE), 4 J net (BILLABLE)"


def test_the_nearest_baselines_are_those_around_the_window(gpu):
    """The last one before and the first one after; the one between them that overlaps the window is not taken."""
    for _ in range(2):
        gpu.baseline()
    with gpu.window("work") as window:
        gpu.sleep(1.0)
    assert [b.id for b in gpu.nearest_baselines(window)] == ["gpu-b2"]
    for _ in range(2):
        gpu.baseline()
    assert [b.id for b in gpu.nearest_baselines(window)] == ["gpu-b2", "gpu-b3"]
    with gpu.window("around") as around:
        gpu.baseline()
    assert [b.id for b in gpu.nearest_baselines(around)] == ["gpu-b4"]


def test_without_a_baseline_one_is_measured_when_net_energy_is_asked_for(gpu):
    """And it is on record with all its gates."""
    with gpu.window("work") as window:
        TwinKernel(gpu.device).run_for(2.0)
    assert gpu.baselines == []
    energy = window.energy
    assert [b.id for b in gpu.baselines] == ["gpu-b1"]
    assert energy.net.recipe.parameters["baselines"] == ["gpu-b1"]
    assert energy.net.value < energy.gross.value


@pytest.mark.parametrize(("preset", "rest"), [("rtx4080-laptop", 8.0), ("a100", 0.0)])
def test_a_device_that_just_worked_comes_to_rest_before_the_baseline(tmp_path, preset, rest):
    """The card falls into its idle P-state 15 s after work, or never; the baseline begins after that, and its gates are silent about it."""
    options = {**OPTIONS, "device": f"twin:{preset}"}
    with Session.start(load_settings(tmp_path, overrides=options), directory=tmp_path) as session:
        gpu = session.rig.gpu
        gpu.sleep(20.0)
        TwinKernel(gpu.device).run_for(3.0)
        idle = gpu.baseline()
        states = gpu.trace.between(idle.t0_ns, idle.t1_ns).values("performance_state")
    assert set(states) == {rest}
    assert all(gate.passed for gate in idle.gates if gate.name in {"idle P-states", "idle clock states"})


def test_settling_is_bounded(tmp_path):
    """A device that never comes to rest is measured as it is after a minute, and the baseline's gates say what is wrong with it."""
    busy = {"kind": "foreign_process", "start_s": 0.0}
    slowed = [{"kind": "thermal_slowdown", "start_s": 2.0 * k, "stop_s": 2.0 * k + 1} for k in range(60)]
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters={"preset": "rtx4080-laptop", "faults": [busy, *slowed]})})
    with Session.start(load_settings(tmp_path, overrides=OPTIONS), plan, directory=tmp_path) as session:
        idle = session.rig.gpu.baseline()
    assert 60.0 <= idle.t0_ns / 1e9 <= 63.0
    assert {"idle foreign processes", "idle utilisation"} <= {gate.name for gate in idle.gates if not gate.passed}


def test_a_run_of_many_scenes_verifies(session, gpu):
    """Everything above in one run follows from its artifacts."""
    gpu.baseline()
    with gpu.phase("all"):
        with gpu.window("outer", labels={"batch": 1}, tokens=3) as outer, gpu.window("inner"):
            TwinKernel(gpu.device).run_for(1.5)
        session.result("x", "energy", outer.per("token").net, batch=1)
        with pytest.raises(ValueError, match="coordinate batch=2 of 'energy' contradicts its windows, which have batch=1"):
            session.result("x", "energy", outer.per("token").net, batch=2)
    session.finish()
    assert verify_run(session.path).passed
    assert RecordedRun(session.path).reader.results[0].coordinates == {"batch": 1}
