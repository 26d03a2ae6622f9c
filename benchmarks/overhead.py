"""What measuring costs the thing that is measured: ``python benchmarks/overhead.py [--pairs 300] [--doc]``.

The decode of a small GPT-2 on the CPU, at least 50 ms long, with the harness and without it. *With* is a window of a real run, its
counts and its line in the file, while the sampler reads the processor ten times a second in a process of its own. *Without* is the
same decode with the sampler's process suspended. Both halves of a pair stand side by side, in an order drawn by chance, so that
whatever else the machine does meets both; a third arm without the harness, in each group, is the A/A control.

``paired.py`` says how the ratios become a verdict: VALIDATED (exit code 0), REFUTED (1), INCONCLUSIVE (10) or INVALID (10). ``--doc``
writes ``docs/overhead.md``.

On a machine that others use, wall times scatter by more than the effect. Two quieter numbers stand beside them and bound it where the
sampler and the decode share one core: the ratio of CPU times of the decoding thread, and the share of one core that the sampler takes.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from paired import EXIT_CODES, Ratio, paired_ratio, verdict_on

from pytest_physics.config import load_settings
from pytest_physics.instrument import Instrument
from pytest_physics.sampling.process import ProcessSampler
from pytest_physics.session import Session
from pytest_physics.workloads.language_model import LanguageModel

LIMIT = 1.01
"""Largest ratio of the time of a decode with the harness and without."""
SHORTEST_S = 0.05
"""A decode is at least this long."""
SHARE_S = 5.0
CONTEXT = 16
"""Tokens in the cache when a decode begins."""
PAIRS, WARM_UP, SEED = 300, 5, 20240229
HARNESS, PLAIN, CONTROL = "with the harness", "without", "without, again"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "overhead.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the benchmark says."""

    verdict: str
    reason: str
    harness: Ratio
    control: Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Times of all groups, each arm once per group."""

    wall_s: Mapping[str, Sequence[float]]
    cpu_s: Mapping[str, Sequence[float]]
    """CPU time of the decoding thread."""
    sampler_share: float
    """Share of one core that the sampler took while it ran."""
    tokens: int
    """Of one decode."""


def judge(times_s: Mapping[str, Sequence[float]]) -> Result:
    """Verdict on the times of all groups, each of the three arms once per group."""
    harness = paired_ratio(times_s[HARNESS], times_s[PLAIN])
    control = paired_ratio(times_s[CONTROL], times_s[PLAIN])
    verdict, reason = verdict_on(harness, control, LIMIT, rounds="--pairs")
    return Result(verdict=verdict, reason=reason, harness=harness, control=control)


def decode_of_at_least(shortest_s: float) -> tuple[Callable[[], None], int]:
    """A decode step loop that takes at least ``shortest_s``, and its number of tokens."""
    model = LanguageModel("small", threads=1)
    model.prepare(batch=1, context=CONTEXT)
    tokens = 16
    while _fastest_s(model, tokens) < 1.3 * shortest_s:
        tokens = round(tokens * 1.5)
    return lambda: model.decode(1, tokens), tokens


def _fastest_s(model: LanguageModel, tokens: int) -> float:
    """CPU time of the fastest of five decodes: by wall time it would come out too short on a busy machine."""
    found = []
    for _ in range(5):
        t0 = time.thread_time()
        model.decode(1, tokens)
        found.append(time.thread_time() - t0)
    return min(found)


def timed_s(decode: Callable[[], None], instrument: Instrument, tokens: int, *, harness: bool) -> tuple[float, float]:
    """Wall time and CPU time of one decode, with its window and the sampler running, or with neither."""
    sampler = instrument.sampler
    assert isinstance(sampler, ProcessSampler)
    assert sampler.pid is not None
    os.kill(sampler.pid, signal.SIGCONT if harness else signal.SIGSTOP)
    time.sleep(0.005)  # the signal has arrived, and what the sampler missed is behind
    t0, cpu0 = time.perf_counter(), time.thread_time()
    with instrument.window("decode", labels={"batch": 1}, tokens=tokens) if harness else nullcontext():
        decode()
    return time.perf_counter() - t0, time.thread_time() - cpu0


def measure(pairs: int) -> Measured:
    """Decode in all arms, ``pairs`` times each."""
    order = random.Random(SEED)
    arms = [HARNESS, PLAIN, CONTROL]
    found: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        session = Session.start(load_settings(root, overrides={"device": "cpu"}), directory=root)
        cpu = session.rig.cpu
        sampler = cpu.sampler
        assert isinstance(sampler, ProcessSampler)
        try:
            share = _sampler_share(sampler)
            decode, tokens = decode_of_at_least(SHORTEST_S)
            for _ in range(WARM_UP + pairs):
                order.shuffle(arms)
                for arm in arms:
                    found[arm].append(timed_s(decode, cpu, tokens, harness=arm == HARNESS))
        finally:
            os.kill(int(sampler.pid or 0), signal.SIGCONT)
            session.finish()
    wall_s, cpu_s = ({arm: [pair[which] for pair in times[WARM_UP:]] for arm, times in found.items()} for which in (0, 1))
    return Measured(wall_s=wall_s, cpu_s=cpu_s, sampler_share=share, tokens=tokens)


def _sampler_share(sampler: ProcessSampler) -> float:
    """CPU time of the sampler's process per time, over some seconds."""
    process, t0 = psutil.Process(sampler.pid), time.perf_counter()
    before = process.cpu_times()
    time.sleep(SHARE_S)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / (time.perf_counter() - t0)


def page(found: Measured, result: Result) -> str:
    """The result as a page of the documentation."""
    lines = [
        "# What the harness costs",
        "",
        "Written by `python benchmarks/overhead.py --doc`; how it is measured stands at the head of that file.",
        "",
        (
            f"Decode of {found.tokens} tokens of a small GPT-2 on one thread, {len(found.wall_s[PLAIN])} groups, {os.cpu_count()} logical "
            f"CPUs, Python {platform.python_version()}."
        ),
        "",
        "| arm | median time | ratio to without [95 % interval] | ratio of CPU times |",
        "|---|---|---|---|",
    ]
    cpu = {arm: str(paired_ratio(found.cpu_s[arm], found.cpu_s[PLAIN])) for arm in (HARNESS, CONTROL)} | {PLAIN: "1"}
    ratios = {HARNESS: str(result.harness), PLAIN: "1", CONTROL: f"{result.control} (A/A control)"}
    lines += [f"| {arm} | {np.median(seconds) * 1e3:.2f} ms | {ratios[arm]} | {cpu[arm]} |" for arm, seconds in found.wall_s.items()]
    lines += ["", f"The sampler takes {found.sampler_share:.2%} of one core.", ""]
    return "\n".join([*lines, f"At most {LIMIT} is claimed: **{result.verdict}**; {result.reason}.", ""])


def main() -> int:
    """Print the verdict; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"groups of the three arms (default: {PAIRS})")
    parser.add_argument("--doc", action="store_true", help=f"write {PAGE.name}")
    arguments = parser.parse_args()
    found = measure(arguments.pairs)
    result = judge(found.wall_s)
    if arguments.doc:
        PAGE.write_text(page(found, result), encoding="utf-8")
    for arm, seconds in found.wall_s.items():
        print(f"{arm:<18} {np.median(seconds) * 1e3:8.2f} ms, CPU {paired_ratio(found.cpu_s[arm], found.cpu_s[PLAIN])}")
    print(f"sampler {found.sampler_share:.2%} of one core")
    print(f"ratio   {result.harness}\ncontrol {result.control}\n{result.verdict}: {result.reason}")
    return EXIT_CODES[result.verdict]


if __name__ == "__main__":
    sys.exit(main())
