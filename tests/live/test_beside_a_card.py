"""Monitor and joint on a card and the processor at once: a simulated NVML library through the unmodified nvidia-ml-py, a real processor."""

from __future__ import annotations

import re
import sys
import uuid
from pathlib import Path

import fakenvml
import pytest

from pytest_physics.devices.lock import LOCK_DIRECTORY
from pytest_physics.record.reader import RunReader

STEPS = 130
TRAINING = """
import sys, time
sys.path.insert(0, {tests!r})
from fakenvml import Live
from pathlib import Path
import numpy as np
from pytest_physics.marks import mark_step

power, rng = Live(Path({live!r})), np.random.default_rng(1)
norm = 1.0
for step in range(1, {steps} + 1):
    norm = 1 + 0.5 * (norm - 1) + 0.2 * rng.standard_normal()
    power.power_w(200 + 100 * (norm - 1))
    time.sleep(0.04)
    rate = 1e-3 * min(1, step / 10, ({steps} + 1 - step) / 10)
    mark_step(step, loss=5 / step + rng.random(), grad_norm=norm, learning_rate=rate)
"""


@pytest.fixture
def card(program, monkeypatch):
    """An H100 whose temperature climbs, and whose power the test moves through the file that is returned."""
    identity, live = f"GPU-{uuid.uuid4()}", program.path / "live.bin"
    warming = "".join(f"at {t} temperature_c {45 + 0.5 * t}\n" for t in range(60))
    text = re.sub(r"^uuid .*$", f"uuid {identity}", fakenvml.H100, flags=re.MULTILINE)
    text = re.sub(r"^at 0 (power_w|temperature_c) .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^sensor instant .*$", "sensor instant 0.02 0.02 0 0 0 0 0.001 1 0", text, flags=re.MULTILINE)
    fakenvml.Live(live).close()
    (program.path / "script.txt").write_text(f"{text}live {live}\nat 0 power_w 200\n{warming}")
    try:
        around = fakenvml.environment(program.path / "script.txt")
    except fakenvml.NoCompilerError as error:
        pytest.skip(str(error))
    for name in ("LD_LIBRARY_PATH", fakenvml.SCRIPT_VARIABLE):
        monkeypatch.setenv(name, around[name])
    yield live
    for lock in LOCK_DIRECTORY.glob(f"pytest-physics-{identity}-*.lock"):
        lock.unlink(missing_ok=True)


def overlap_s(reader):
    """Time that both traces cover."""
    spans = [reader.trace(name).t_ns[[0, -1]] for name in ("gpu", "cpu")]
    return (min(span[1] for span in spans) - max(span[0] for span in spans)) / 1e9


def test_both_are_watched_at_once(program, card):
    """A line for each, in the order asked for; samples of one time; the card's energy, and none for a processor without a counter."""
    code, out, error = program.run("monitor", "--devices", "cpu,gpu", "--duration", 2, "--hz", 20)
    assert (code, error) == (0, "")
    assert [line.split()[2] for line in out.splitlines() if re.match(r" +\d+\.\d s  ", line)] == ["cpu", "gpu"] * 2
    assert re.search(r" s  gpu  temperature \d+ °C; .*power 200 W; clock 1755 MHz; .*utilisation 87 %", out)
    reader = RunReader(program.verified())
    assert overlap_s(reader) > 1.9
    assert {phase.instrument for phase in reader.run.phases} == {"cpu", "gpu"}
    (energy,) = (r.estimate for r in reader.results if r.quantity == "energy" and r.coordinates["instrument"] == "gpu")
    assert energy.value == pytest.approx(200 * 2, rel=0.2)


def test_a_training_is_laid_over_both(program, card):
    """The coupling of power with the gradient norm, which the card follows, is found beside the processor's own; the page draws both."""
    train = program.path / "train.py"
    train.write_text(TRAINING.format(tests=str(Path(fakenvml.__file__).parents[1]), live=str(card), steps=STEPS))
    code, _, error = program.run("joint", "--devices", "cpu,gpu", "--hz", 50, "--margin", 0.5, "--", sys.executable, train)
    assert code == 0, error
    assert re.search(r"joint:   grad_norm ~ power_w: (strong|moderate), r = \+0\.[6-9]", error), error
    run = program.verified()
    reader = RunReader(run)
    assert {table for table in reader.tables if table.startswith("step-samples")} == {"step-samples-cpu-1", "step-samples-gpu-1"}
    series = {(r.coordinates.get("instrument"), r.coordinates.get("series")) for r in reader.results}
    assert {("gpu", "grad_norm ~ power_w"), ("gpu", "loss ~ steps_per_joule"), ("cpu", "grad_norm ~ step_time_s")} <= series
    page = (run / "report.html").read_text()
    for panels in (
        "Loss, Gradient norm, Steps per joule, Temperature in °C, Power in W",
        "Steps per joule over Gradient norm, Steps per joule over Loss, Gradient norm over Temperature in °C",
        "Steps per second over Gradient norm, Steps per second over Loss",
    ):
        assert panels in page, panels
