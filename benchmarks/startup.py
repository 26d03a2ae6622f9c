"""What the installed but inactive plugin costs every ``pytest`` run: ``python benchmarks/startup.py``.

Fresh virtual environments with the same versions: pytest alone, a second copy of that (the A/A control), pytest with this package
installed as the README does (from a checkout), and pytest with its wheel. In each round all run ``python -m pytest --collect-only -q`` in
an empty directory, in shuffled order, so that whatever the machine does meanwhile meets all of them. A fifth run, the wheel's environment
with ``-p no:physics``, tells what its presence costs from what its code costs.

The README's way to install is judged; ``paired.py`` says how the ratios become a verdict: VALIDATED (exit code 0), REFUTED (1),
INCONCLUSIVE (10) or INVALID (10). Wall times are those of one machine; only the ratios are meant to be compared. Where valgrind is
installed, ``--instructions`` counts the instructions of one start-up in each environment instead: no machine disturbs them, but they know
nothing of the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from paired import EXIT_CODES, Ratio, paired_ratio, verdict_on

PROJECT = Path(__file__).resolve().parents[1]
COMMAND = ("-m", "pytest", "--collect-only", "-q")
NO_TESTS_COLLECTED = 5
PLAIN, CONTROL, PLUGIN, WHEEL, BLOCKED = "plain", "control", "plugin", "wheel", "wheel, blocked"

LIMIT = 1.03
"""Largest ratio of start-up times with and without the plugin."""
ROUNDS = 15
WARM_UP_ROUNDS = 2
SEED = 20240229


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the benchmark says."""

    verdict: str
    reason: str
    plugin: Ratio
    control: Ratio
    others: Mapping[str, Ratio]
    """Ratios of what is not judged."""


def judge(times_s: Mapping[str, Sequence[float]]) -> Result:
    """Verdict on the times of all rounds, each of the three environments once per round."""
    plugin = paired_ratio(times_s[PLUGIN], times_s[PLAIN])
    control = paired_ratio(times_s[CONTROL], times_s[PLAIN])
    verdict, reason = verdict_on(plugin, control, LIMIT, rounds="--rounds")
    others = {name: paired_ratio(times_s[name], times_s[PLAIN]) for name in (WHEEL, BLOCKED) if name in times_s}
    return Result(verdict=verdict, reason=reason, plugin=plugin, control=control, others=others)


def build_environments(home: Path) -> dict[str, tuple[str, ...]]:
    """Environments with equal versions; the command that starts pytest in each, by name."""
    interpreters = {name: _new_environment(home / name) for name in (PLUGIN, WHEEL, PLAIN, CONTROL)}
    _pip(interpreters[PLUGIN], "-c", str(PROJECT / "constraints.txt"), "-e", str(PROJECT))
    _pip(interpreters[WHEEL], "-c", str(PROJECT / "constraints.txt"), str(PROJECT))
    freeze = [str(interpreters[PLUGIN]), "-m", "pip", "freeze", "--exclude", "pytest-physics"]
    pins = home / "pins.txt"
    pins.write_text(subprocess.run(freeze, check=True, capture_output=True, text=True).stdout, encoding="utf-8")
    for name in (PLAIN, CONTROL):
        _pip(interpreters[name], "-c", str(pins), "pytest")
    for name, interpreter in interpreters.items():
        _require_plugin(interpreter, present=name in {PLUGIN, WHEEL})
    commands = {name: (str(interpreter), *COMMAND) for name, interpreter in interpreters.items()}
    return {**commands, BLOCKED: (*commands[WHEEL], "-p", "no:physics")}


def _new_environment(path: Path) -> Path:
    venv.create(path, with_pip=True)
    return path / "bin" / "python"


def _pip(interpreter: Path, *arguments: str) -> None:
    command = [str(interpreter), "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _require_plugin(interpreter: Path, *, present: bool) -> None:
    """A comparison of two environments without the plugin would be a very good result."""
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [interpreter, "-m", "pytest", "--markers"], check=True, capture_output=True, text=True, cwd=empty, env=_environment()
        )
    if ("energy_budget" in done.stdout) is not present:
        raise RuntimeError(f"the plugin should be {'loaded' if present else 'absent'} in {interpreter}, and is not.")


def _environment() -> dict[str, str]:
    """Variables of this process without those that change pytest or Python's path."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "PYTHON", "COV_"))}


def start_up_s(command: Sequence[str]) -> float:
    """Wall time of one start in an empty directory; seconds."""
    with tempfile.TemporaryDirectory() as empty:
        began_ns = time.perf_counter_ns()
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=empty, env=_environment())
        elapsed_ns = time.perf_counter_ns() - began_ns
    if done.returncode != NO_TESTS_COLLECTED:
        raise RuntimeError(f"pytest ended with {done.returncode}, expected {NO_TESTS_COLLECTED}:\n{done.stdout}{done.stderr}")
    return elapsed_ns / 1e9


def instructions(command: Sequence[str]) -> int:
    """Instructions of one start-up, counted by callgrind; a first start without it has compiled everything."""
    start_up_s(command)
    with tempfile.TemporaryDirectory() as empty:
        counted = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *command]
        done = subprocess.run(counted, check=False, capture_output=True, text=True, cwd=empty, env=_environment())
    found = re.search(r"refs:\s+([\d,]+)", done.stderr)
    if found is None:
        raise RuntimeError(f"valgrind ended with {done.returncode} and counted nothing:\n{done.stderr}")
    return int(found.group(1).replace(",", ""))


def count(commands: Mapping[str, Sequence[str]]) -> int:
    """Print the instructions of every environment, and their ratios; 1 where the limit is passed."""
    counts = {name: instructions(command) for name, command in commands.items()}
    for name, value in counts.items():
        print(f"{name:14} {value / 1e6:8.1f} million instructions, / plain {value / counts[PLAIN]:.4f}")
    return int(counts[PLUGIN] / counts[PLAIN] > LIMIT)


def measure(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[float]]:
    """Interleaved rounds, each in a new order; the first :data:`WARM_UP_ROUNDS` are not kept."""
    order, shuffle = list(commands), random.Random(SEED)
    times_s: dict[str, list[float]] = {name: [] for name in order}
    for number in range(WARM_UP_ROUNDS + rounds):
        shuffle.shuffle(order)
        for name in order:
            elapsed_s = start_up_s(commands[name])
            if number >= WARM_UP_ROUNDS:
                times_s[name].append(elapsed_s)
    return times_s


def main() -> int:
    """Build, measure, judge, print; the exit code is the verdict's."""
    parser = argparse.ArgumentParser(description="start-up cost of the inactive plugin", allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"interleaved rounds, at least 9 (default: {ROUNDS})")
    parser.add_argument("--instructions", action="store_true", help="count instructions with valgrind instead of timing rounds")
    parser.add_argument("--json", type=Path, help="also write times and result to this file")
    options = parser.parse_args()
    if options.rounds < 9:
        parser.error(f"--rounds must be >= 9 (got {options.rounds}): fewer cannot bound a median.")
    with tempfile.TemporaryDirectory(prefix="pytest-physics-startup-") as home:
        print("building four environments …", flush=True)
        commands = build_environments(Path(home))
        if options.instructions:
            return count(commands)
        print(f"{options.rounds} rounds of: python {' '.join(COMMAND)}", flush=True)
        times_s = measure(commands, options.rounds)
    result = judge(times_s)
    for name, values in times_s.items():
        print(f"{name:14} median {1e3 * float(np.median(values)):6.1f} ms, smallest {1e3 * min(values):6.1f} ms")
    for name, ratio in {CONTROL: result.control, **result.others, PLUGIN: result.plugin}.items():
        print(f"{name:14} / plain {ratio}")
    print(f"{result.verdict}: {result.reason}")
    if options.json:
        record = {"seed": SEED, "limit": LIMIT, "rounds": options.rounds, "times_s": times_s, **asdict(result)}
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return EXIT_CODES[result.verdict]


if __name__ == "__main__":
    sys.exit(main())
