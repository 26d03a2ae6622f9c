"""How good are coupling analysis and event rules? A seeded study on synthetic series and on the twin.

Run ``python benchmarks/coupling_study.py [--runs N] [--seed S] [--output docs/coupling-study.md]``. The page that it prints, and writes
with ``--output``, is generated: nobody types its numbers. Exit code 1 where a figure misses its target.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal
from study_page import Row, page, publish

from pytest_physics.clock import NS_PER_S
from pytest_physics.devices.twin import TwinDevice, TwinLoad
from pytest_physics.devices.twin.faults import Fault
from pytest_physics.metrology.coupling import (
    circular_shift_test,
    correlation,
    couple,
    lag_table,
    needed_pairs,
    steady_zone_s,
)
from pytest_physics.metrology.instability import INSTABILITY, RULES, Telemetry, detection, flag_share
from pytest_physics.metrology.instability_controls import rule_numbers
from pytest_physics.metrology.matching import Aligned, align

FloatArray = NDArray[np.float64]

RHO = 0.9
FALSE_POSITIVES = (0.03, 0.07)
POWER = 0.90
COVERAGE = 0.91
"""Intervals of series of ten effective pairs cover this much; longer ones 95 %."""
LAGS = (-3, -1, 0, 2, 5)
TWIN_STEPS = 240
SENSORS = ((1.0, 1.0), (0.1, 1.0), (1.0, 0.1))
"""Sampling period in seconds and temperature step in °C of the rules' table."""
GUIDE_R, GUIDE_RHO, GUIDE_LAGS_S = (0.2, 0.3, 0.5), (0.0, 0.5, 0.9), (0.0, 10.0)


def ar(rng: np.random.Generator, n: int, rho: float = RHO) -> FloatArray:
    """AR(1) noise of unit variance."""
    return np.asarray(signal.lfilter([1], [1, -rho], rng.standard_normal(n + 200))[200:] * math.sqrt(1 - rho**2))


def aligned(a: FloatArray, b: FloatArray) -> Aligned:
    """Two series at one second per row."""
    return Aligned(
        t_s=np.arange(a.size) * 1.0, columns={"a": a, "b": b}, rows=a.size, matched=a.size, distinct=a.size, tolerance_s=1.0, period_s=1.0
    )


def _share(hits: int, n: int) -> str:
    return f"{hits / n:.1%} (n = {n}; such a share scatters by ± {1.96 * math.sqrt(max(hits, 1) / n * (1 - hits / n + 1 / n) / n):.1%})"


def _within(hits: int, n: int, low: float, high: float) -> tuple[bool, str]:
    """Whether a share is inside its range, and in words where it is outside by no more than its own scatter."""
    share = hits / n
    scatter = 1.96 * math.sqrt(share * (1 - share) / n)
    if low <= share <= high:
        return True, ""
    return False, "within scatter" if low - scatter <= share <= high + scatter else ""


def false_positives(rng: np.random.Generator, runs: int) -> list[Row]:
    """How often independent AR(1) series are called coupled."""
    rows = []
    for n, max_lag, ranks in ((200, 0, False), (600, 0, False), (600, 5, False), (2000, 5, False), (600, 0, True)):
        hits = 0
        for _ in range(runs):
            a, b = ar(rng, n), ar(rng, n)
            if ranks:
                a, b = np.argsort(np.argsort(a)).astype(float), np.argsort(np.argsort(b)).astype(float)
            hits += circular_shift_test(a, b, max_lag=max_lag).p <= 0.05
        met, verdict = _within(hits, runs, *FALSE_POSITIVES)
        searched = f", {2 * max_lag + 1} lags searched" if max_lag else ""
        what = f"circular shifts, AR(1) ρ = {RHO:g}, {n} pairs{searched}{', ranks' if ranks else ''}: false positives at 5 %"
        rows.append(Row(what=what, target="3 to 7 %", reached=_share(hits, runs), met=met, verdict=verdict))
    naive = sum(abs(np.corrcoef(ar(rng, 600), ar(rng, 600))[0, 1]) > 1.96 / math.sqrt(600) for _ in range(runs))
    rows.append(
        Row(
            what="the same of Pearson's r with n = 600 taken as independent", target="–", reached=_share(naive, runs), met=True, verdict="–"
        )
    )
    called = sum(couple(aligned(ar(rng, 600), ar(rng, 600)), "a", "b", max_lag_s=5.0).supported for _ in range(runs))
    rows.append(
        Row(
            what="the whole analysis with 11 lags: pairs called coupled",
            target="≤ 7 %",
            reached=_share(called, runs),
            met=called <= 0.07 * runs,
        )
    )
    return rows


def coverage(rng: np.random.Generator, runs: int) -> list[Row]:
    """Intervals of r."""
    rows = []
    for n, r in ((100, 0.0), (300, 0.5), (1000, 0.5)):
        inside = 0
        for _ in range(runs):
            a = ar(rng, n)
            found = correlation(a, r * a + math.sqrt(1 - r * r) * ar(rng, n))
            inside += found.low <= r <= found.high
        what = f"95 % interval of r = {r:g}, AR(1) ρ = {RHO:g}, {n} pairs: coverage"
        rows.append(Row(what=what, target=f"≥ {COVERAGE:.0%}", reached=_share(inside, runs), met=inside >= COVERAGE * runs))
    return rows


def power(rng: np.random.Generator, runs: int) -> list[Row]:
    """Planted couplings at the length that the guide recommends."""
    rows = []
    for r, rho, max_lag in ((0.5, RHO, 0), (0.5, RHO, 5), (0.5, 0.5, 0), (0.3, RHO, 0), (0.3, 0.0, 0)):
        n = math.ceil(steady_zone_s(r, period_s=1.0, lag1=(rho, rho), max_lag_s=max_lag))
        found = 0
        for _ in range(runs):
            a = ar(rng, n, rho)
            b = r * a + math.sqrt(1 - r * r) * ar(rng, n, rho)
            found += couple(aligned(a, b), "a", "b", max_lag_s=max_lag).supported
        searched = f", {2 * max_lag + 1} lags searched" if max_lag else ""
        what = f"planted r = {r:g}, ρ = {rho:g}{searched}, at the recommended {n} rows: found"
        rows.append(Row(what=what, target=f"≥ {POWER:.0%}", reached=_share(found, runs), met=found >= POWER * runs))
    return rows


def twin_session(lag: int, seed: int, steps: int = TWIN_STEPS) -> tuple[Aligned, float]:
    """Training steps of a second each on the twin, whose work the power follows ``lag`` steps later (before, if negative)."""
    rng = np.random.default_rng(seed)
    device = TwinDevice(seed=seed)
    work = rng.uniform(0.3, 0.9, steps + 2 * abs(lag))
    origin = device.clock.now_ns()
    for step in range(steps):
        device.set_load(TwinLoad(utilisation_ratio=1.0, intensity=float(work[step + abs(lag)])))
        device.clock.advance_to_ns(origin + (step + 1) * NS_PER_S)
    t_ns = origin + np.arange(NS_PER_S // 2, steps * NS_PER_S, NS_PER_S // 10)
    values, _ = device.sample(t_ns)
    power_w = values[:, [channel.name for channel in device.channels].index("power_w")]
    marks = work[abs(lag) + lag + np.arange(steps)]
    t_s = (t_ns - origin) / NS_PER_S
    device.close()
    return align(np.arange(steps) + 0.5, {"work": marks}, t_s, {"power": power_w}), 1.0


def lag_rows(seed: int) -> list[Row]:
    """Known lags between step marks and the twin's power."""
    errors = []
    for lag in LAGS:
        for number in range(4):
            found, _ = twin_session(lag, 100 * seed + number)
            errors.append(abs(lag_table(found.columns["work"], found.columns["power"], max_lag=8).peak_lag - lag))
    planted = ", ".join(f"{lag:+d}" for lag in LAGS)
    what = f"planted lag of {planted} steps between step marks and the twin's power, with its sign: largest error"
    return [Row(what=what, target="≤ 1 sample", reached=f"{max(errors)} samples (n = {len(errors)})", met=max(errors) <= 1)]


def twin_telemetry(seed: int, duration_s: float = 900.0) -> tuple[Telemetry, tuple[tuple[float, float], ...]]:
    """The twin under steady load with injected slowdowns of 30 s."""
    rng = np.random.default_rng(seed)
    starts = 120.0 + 150.0 * np.arange(5) + rng.uniform(0, 40, 5)
    spans = tuple((float(start), float(start + 30.0)) for start in starts)
    shares = rng.uniform(0.6, 0.9, len(spans)).tolist()
    faults = [
        Fault(kind="thermal_slowdown", start_s=start, stop_s=stop, value=share) for (start, stop), share in zip(spans, shares, strict=True)
    ]
    device = TwinDevice(seed=seed, faults=faults)
    origin = device.clock.now_ns()
    device.set_load(TwinLoad(utilisation_ratio=1.0, intensity=0.6))
    device.clock.advance_to_ns(origin + round(duration_s * NS_PER_S))
    t_ns = origin + np.arange(NS_PER_S, round(duration_s * NS_PER_S), NS_PER_S)
    values, _ = device.sample(t_ns)
    column = {channel.name: values[:, k] for k, channel in enumerate(device.channels)}
    device.close()
    telemetry = Telemetry(
        t_s=(t_ns - origin) / NS_PER_S, utilisation_ratio=column["utilisation_ratio"], temperature_c=column["temperature_c"],
        power_w=column["power_w"], clock_hz=column["sm_clock_hz"], reasons=column["event_reasons"],
    )  # fmt: skip
    return telemetry, spans


def _clock_share(telemetry: Telemetry, span: tuple[float, float]) -> float:
    """Clock within a slowdown over the clock of the whole recording: the card runs below boost anyway."""
    clock_hz = telemetry.column("clock_hz")
    inside = (telemetry.t_s >= span[0] + 2) & (telemetry.t_s < span[1])
    return float(np.median(clock_hz[inside]) / np.median(clock_hz))


def twin_rules(seed: int) -> list[Row]:
    """The rule on the twin's own slowdowns, and where there are none."""
    found = episodes = flagged = rows = 0
    for number in range(4):
        telemetry, spans = twin_telemetry(100 * seed + number)
        outcome = INSTABILITY(telemetry)
        deep = [span for span in spans if _clock_share(telemetry, span) < INSTABILITY.parameters["drop_ratio"]]
        hit = detection(telemetry, outcome, deep)
        found, episodes = found + hit.found, episodes + hit.episodes
        free = ~np.any([(telemetry.t_s >= start - 1) & (telemetry.t_s < stop + 15) for start, stop in spans], axis=0)
        share = flag_share(outcome.flags[free])
        flagged, rows = flagged + share.flagged, rows + share.rows
    return [
        Row(
            what=f"event rule: slowdowns by more than {1 - INSTABILITY.parameters['drop_ratio']:.0%} injected into the twin, found",
            target="≥ 90 %",
            reached=_share(found, episodes),
            met=found >= 0.9 * episodes,
        ),
        Row(
            what="event rule: rows of the twin without a slowdown that it flags",
            target="≤ 1 %",
            reached=_share(flagged, rows),
            met=flagged <= 0.01 * rows,
        ),
    ]


def rules_table(seed: int) -> list[str]:
    """Three numbers of every rule, for several sensors."""
    lines = [
        "## What each event rule can and cannot do", "",
        "False alarms are shares of rows with 95 % intervals; detection counts injected episodes of throttling (clock at 60 to 92 % for 20",
        "to 120 s, utilisation full). Idle utilisation has a coefficient of variation of 0.5, as in the recordings.", "",
        "| rule | sensor | idle | noisy load | throttling found | reach |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for period_s, resolution_c in SENSORS:
        for name, numbers in rule_numbers(period_s=period_s, resolution_c=resolution_c, seed=seed).items():
            sensor = f"{period_s:g} s, {resolution_c:g} °C"
            lines.append(f"| {name} | {sensor} | {numbers.idle} | {numbers.noise} | {numbers.throttling} | {numbers.reach.reason} |")
    described = [f"- `{rule.id}`: {rule.describes}." for rule in RULES.values()]
    return [*lines, "", *described, ""]


def guide_table() -> list[str]:
    """How long the steady zone must be."""
    lines = [
        "## How long must the steady zone be?", "",
        f"Rows (steps, or telemetry rows: the slower of the two) for {POWER:.0%} power at 5 %, by the lag-1 correlation ρ of both series",
        "after detrending and by the lags that are searched, ten rows either way. Times the period this is the length in seconds:", "",
        "| coupling to be seen | independent pairs | ρ | one lag | 21 lags |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for r in GUIDE_R:
        for rho in GUIDE_RHO:
            rows = [math.ceil(steady_zone_s(r, period_s=1.0, lag1=(rho, rho), max_lag_s=lags)) for lags in GUIDE_LAGS_S]
            lines.append(f"| r = {r:g} | {math.ceil(needed_pairs(r))} | {rho:g} | {rows[0]} | {rows[1]} |")
    return [*lines, ""]


INTRODUCTION = (
    "Surrogates, intervals, power and lags of the coupling analysis (`metrology/coupling.py`), and the three numbers of every event rule",
    "(`metrology/instability.py`). A share outside of its range by no more than its own scatter (1.96 standard deviations) is 'within",
    "scatter'.",
)


def run(runs: int, seed: int) -> list[Row]:
    """All rows of the table."""
    rng = np.random.default_rng(seed)
    return [*false_positives(rng, 2 * runs), *coverage(rng, runs), *power(rng, runs), *lag_rows(seed), *twin_rules(seed)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; 0 where all figures meet their targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=1000, help="series per figure; twice as many for false positives")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the page here")
    chosen = parser.parse_args(arguments)
    rows = run(chosen.runs, chosen.seed)
    command = f"python benchmarks/coupling_study.py --runs {chosen.runs} --seed {chosen.seed}"
    text = page("How good are coupling analysis and event rules?", command, INTRODUCTION, rows)
    return publish("\n".join([text, *guide_table(), *rules_table(chosen.seed)]), chosen.output, rows)


if __name__ == "__main__":
    sys.exit(main())
