"""How often is work beside a window seen, and how often is quiet taken for work? A seeded study on the twin, through the path of any user.

Run ``python benchmarks/beside_study.py [--specimens N] [--seed S] [--output docs/beside-study.md]``. The table that it prints, and writes
with ``--output``, is generated: nobody types its numbers. Each specimen is one session of one preset: an idle baseline, then windows of
random length, load and rest, after random pauses; in every second one work is planted outside of it, on a random side, of a random length
and intensity. Exit code 1 where a figure misses its target.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from study_page import Row, page, publish

from pytest_physics import Session, load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.twin import TwinLoad
from pytest_physics.metrology.beside import NAME
from pytest_physics.metrology.uncertainty import Gate
from pytest_physics.session import Plan
from pytest_physics.workloads.twin import TwinKernel

PRESETS = ("rtx4080-laptop", "a100", "h100", "rtx3090", "v100", "k40")
WITHOUT: tuple[tuple[str, ...], ...] = ((), ("utilisation_ratio",))
"""Channels that the card lacks."""
WINDOWS = 40
SIZES = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Intensity of the planted work: its share of the largest dynamic power."""
LENGTHS_S = (0.1, 0.2, 0.5, 1.5)
LONG_S, LARGE = 0.5, 0.2
"""Planted work of at least this length and intensity must be seen."""
MAX_FALSE_ALARMS = 0.01
MIN_SEEN = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One window: what was planted, and what the gate said."""

    without: tuple[str, ...]
    intensity: float
    length_s: float
    gates: tuple[Gate, ...]

    @property
    def refused(self) -> bool:
        """Whether the window is INVALID for it."""
        return any(gate.refuses for gate in self.gates)

    @property
    def told(self) -> bool:
        """Whether the gate could look."""
        return any(gate.passed or gate.refuses for gate in self.gates)


def specimen(preset: str, without: tuple[str, ...], *, seed: int, windows: int = WINDOWS) -> list[Case]:
    """All windows of one session."""
    rng = np.random.default_rng([seed, PRESETS.index(preset), len(without)])
    faults = [{"kind": "channel_absent", "value": channel} for channel in without]
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters={"preset": preset, "seed": seed, "faults": faults})})
    found = []
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(Path(folder), overrides={"baseline": {"settle_s": 1.0, "duration_s": 15.0}})
        with Session.start(settings, plan, directory=Path(folder)) as session:
            gpu = session.rig.gpu
            gpu.baseline()

            def load(share: float, seconds: float) -> None:
                TwinKernel(gpu.device, load=TwinLoad(intensity=share, utilisation_ratio=max(0.2, share))).run_for(seconds)

            for number in range(windows):
                gpu.sleep(float(rng.choice([1.0, 2.0, 3.0, 20.0])))
                intensity, length_s = (float(rng.choice(SIZES)), float(rng.choice(LENGTHS_S))) if number % 2 else (0.0, 0.0)
                before = bool(rng.random() < 0.5)
                if intensity and before:
                    load(intensity, length_s)
                with gpu.window("event") as window:
                    load(float(rng.uniform(0.3, 1.0)), float(rng.uniform(0.2, 3.0)))
                if intensity and not before:
                    load(intensity, length_s)
                gpu.sleep(2.0)
                gates = tuple(gate for gate in window.energy.gross.gates if gate.name == NAME)
                found.append(Case(without=without, intensity=intensity, length_s=length_s, gates=gates))
    return found


def rows(cases: Sequence[Case]) -> list[Row]:
    """The table."""
    out = []
    for without in WITHOUT:
        which = "utilisation absent" if without else "utilisation present"
        here = [case for case in cases if case.without == without]
        clean = [case for case in here if not case.intensity]
        alarms = sum(case.refused for case in clean)
        out.append(
            Row(
                what=f"false alarms, {which}", target=f"≤ {MAX_FALSE_ALARMS:.0%}", reached=f"{alarms} of {len(clean)}",
                met=alarms <= MAX_FALSE_ALARMS * len(clean),
            )
        )  # fmt: skip
        told, what = sum(case.told for case in clean), f"clean windows that could be judged, {which}"
        out.append(Row(what=what, target="–", reached=f"{told} of {len(clean)}", met=True, verdict="stated"))
        for length_s in LENGTHS_S:
            for intensity in SIZES:
                group = [case for case in here if (case.intensity, case.length_s) == (intensity, length_s)]
                seen, due = sum(case.refused for case in group), length_s >= LONG_S and intensity >= LARGE
                out.append(
                    Row(
                        what=f"seen: {intensity:.0%} of the largest load for {length_s:g} s, {which}",
                        target=f"≥ {MIN_SEEN:.0%}" if due else "–", reached=f"{seen} of {len(group)}",
                        met=not due or seen >= MIN_SEEN * len(group), verdict="" if due else "stated",
                    )
                )  # fmt: skip
    return out


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--specimens", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    cases = [
        case
        for preset in PRESETS
        for without in WITHOUT
        for number in range(chosen.specimens)
        for case in specimen(preset, without, seed=chosen.seed + number)
    ]
    introduction = [
        f"{len(cases)} windows on {chosen.specimens} specimens of each of {', '.join(PRESETS)}; planted before or after with equal chance.",
        "The largest load is the card's at full intensity. Work that ended within the sensor's tail, 0.1 to 0.4 s, is not told from the",
        "window's own, and a sleeping card's first window has nothing to compare with unless it reads utilisation.",
    ]
    made = rows(cases)
    command = f"benchmarks/beside_study.py --specimens {chosen.specimens} --seed {chosen.seed}"
    return publish(page("Work beside a window", command, introduction, made), chosen.output, made)


if __name__ == "__main__":
    sys.exit(main())
