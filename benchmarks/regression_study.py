"""How often is the regression check wrong, and what does it find? A seeded study on simulated histories.

Run ``python benchmarks/regression_study.py [--quick] [--seed S] [--output docs/regression-study.md]``. Each history is drawn run by run: a
level, a difference between runs, an error of each run's own, which the run knows. The check is the one of ``pytest-physics history check``
without its files: prediction from the earlier runs, relative change, decision. The table is generated. Exit code 1 where a figure misses
its target.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from study_page import Row, page, publish

from pytest_physics.metrology.between_runs import MOST_NEW_RUNS, relative_change, runs_to_decide
from pytest_physics.metrology.change_points import change_points
from pytest_physics.metrology.decision import Verdict, decide, error_probability, holm
from pytest_physics.metrology.uncertainty import Comparison, Component, Estimate
from pytest_physics.record.leaves.history import prior_estimate

FloatArray = NDArray[np.float64]

SPREAD = 0.01
CHANGE = 0.03
MAX_FALSE = 0.025
MIN_POWER = 0.90
DELTA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What one simulated history is drawn from; relative to its level."""

    earlier: int = 10
    new: int = 1
    between: float = SPREAD
    own: float = 0.0
    """Standard uncertainty of each run's own, known to the run."""
    change: float = 0.0
    """Of the new runs; positive is worse."""
    draw: Callable[[np.random.Generator, int], FloatArray] = lambda rng, n: rng.normal(size=n)
    """Differences between runs, with standard deviation 1, in the order of time."""


def verdict(rng: np.random.Generator, history: History, delta: float) -> tuple[Verdict, float]:
    """Verdict on one history, and its probability of error where it is worse."""
    n, k = history.earlier, history.new
    values = 100 * (1 + history.between * history.draw(rng, n + k) + history.own * rng.normal(size=n + k))
    values[n:] *= 1 + history.change
    own_u = 100 * history.own
    new = values[n:].tolist()
    prior = prior_estimate(values[:n].tolist(), [own_u] * n, unit="J", fewest=5, why="", scope="x", new=new)
    own = Component(label="own", source="own", contribution=own_u / math.sqrt(k))
    now = Estimate(value=float(np.mean(new)), unit="J", components=(own,) if own_u else ())
    change = relative_change(now, prior, lower_is_better=True)
    found = decide(Comparison(estimate=change, operator="<=", limit=delta))
    worse = found.margin is not None and found.margin < 0
    return found.verdict, error_probability(found.conformance or 0.0) if worse else 1.0


def share(rng: np.random.Generator, history: History, trials: int, *, delta: float = 0.0, of: Verdict = Verdict.REFUTED) -> float:
    """How often histories end so."""
    return float(np.mean([verdict(rng, history, delta)[0] is of for _ in range(trials)]))


# --- rows ---------------------------------------------------------------------------------------------------------------------


def false_alarm_rows(rng: np.random.Generator, trials: int) -> list[Row]:
    """A/A histories: nothing has changed, δ = 0, the hardest case."""
    cases = {
        "10 earlier runs, all scatter between runs": History(),
        "10 earlier runs, half of the variance the runs' own": History(between=SPREAD / math.sqrt(2), own=SPREAD / math.sqrt(2)),
        "10 earlier runs, almost all the runs' own": History(between=0.1 * SPREAD, own=SPREAD),
        "5 earlier runs": History(earlier=5),
        "20 earlier runs": History(earlier=20),
        "10 earlier runs, two new ones together": History(new=2),
    }
    rows = [_false_row(f"unchanged, {words}: called worse", share(rng, case, trials), trials) for words, case in cases.items()]
    rows.append(
        _false_row(f"the same, claimed no worse than {DELTA:.0%}: called worse", share(rng, History(), trials, delta=DELTA), trials)
    )
    family = float(np.mean([_any_of_many(rng, 30) for _ in range(trials // 10)]))
    rows.append(_false_row("30 unchanged metrics with --correction holm: any called worse", family, trials // 10))
    rows += _sequential_rows(rng, trials)
    rows.append(_advised_row("unchanged, 10 earlier runs", [as_advised(rng, History()) for _ in range(trials // 2)], "≤ 2.5 %"))
    rows.append(
        _told("unchanged, heavy tails (Student's t with 3 degrees of freedom): called worse", share(rng, History(draw=heavy), trials))
    )
    rows.append(
        _told("unchanged, but a history that wanders (neighbours correlate by 0.5): called worse", share(rng, History(draw=wander), trials))
    )
    return rows


def _false_row(what: str, reached: float, trials: int) -> Row:
    scatter = 1.96 * math.sqrt(MAX_FALSE * (1 - MAX_FALSE) / trials)
    text = f"{reached:.2%} (n = {trials:,}, such a share scatters by ± {scatter:.2%})"
    return Row(what=what, target="≤ 2.5 %", reached=text, met=reached <= MAX_FALSE + scatter)


def _told(what: str, reached: float) -> Row:
    return Row(what=what, target="–", reached=f"{reached:.1%}", met=True, verdict="for information")


def heavy(rng: np.random.Generator, n: int) -> FloatArray:
    """Student's t with 3 degrees of freedom, scaled to standard deviation 1."""
    return rng.standard_t(3, size=n) / math.sqrt(3)


def wander(rng: np.random.Generator, n: int) -> FloatArray:
    """An AR(1) series with coefficient 0.5 and standard deviation 1."""
    out = rng.normal(size=n)
    for i in range(1, n):
        out[i] = 0.5 * out[i - 1] + math.sqrt(0.75) * out[i]
    return out


def _any_of_many(rng: np.random.Generator, metrics: int) -> bool:
    return any(step.decided for step in holm([verdict(rng, History(), 0.0)[1] for _ in range(metrics)]))


def _sequential_rows(rng: np.random.Generator, trials: int) -> list[Row]:
    """A second run only where the first was not VALIDATED: which verdict counts decides how often an unchanged run is called worse."""
    unchanged = [looked_at_twice(rng, History()) for _ in range(trials)]
    at_limit = [looked_at_twice(rng, History(earlier=12, change=DELTA), DELTA) for _ in range(trials // 2)]
    accepted = float(
        np.mean([Verdict.VALIDATED in ((first, both) if first is not Verdict.VALIDATED else (first,)) for first, both in at_limit])
    )
    either = float(np.mean([Verdict.REFUTED in (first, both) and first is not Verdict.VALIDATED for first, both in unchanged]))
    return [
        _false_row(f"unchanged, δ = 0; {SECOND}, and the verdict of both together stands: called worse", called_worse(unchanged), trials),
        _false_row(
            f"worse by just δ = {DELTA:.0%}, 12 earlier runs; the same: called worse by more", called_worse(at_limit), len(at_limit)
        ),
        _told("the same: wrongly VALIDATED at the first look or at the second (2.5 % at each)", accepted),
        _told(f"unchanged, δ = 0; {SECOND}, and REFUTED at either look counts: called worse", either),
    ]


SECOND = "a second run where the first was not VALIDATED"


def looked_at_twice(rng: np.random.Generator, history: History, delta: float = 0.0) -> tuple[Verdict, Verdict]:
    """Verdict of the first new run alone, and of two together, on one history."""
    kept = history.draw(rng, history.earlier + 2)
    first, both = (verdict(rng, replace(history, new=k, draw=lambda _, n: kept[:n].copy()), delta)[0] for k in (1, 2))
    return first, both


def called_worse(found: Sequence[tuple[Verdict, Verdict]]) -> float:
    """How often, where a second run is made unless the first was VALIDATED, and the verdict of both together stands."""
    return float(np.mean([first is not Verdict.VALIDATED and both is Verdict.REFUTED for first, both in found]))


def as_advised(rng: np.random.Generator, history: History) -> tuple[Verdict, int]:
    """Verdict that stands, and new runs made, δ = 0: after one that was not VALIDATED so many as the message says, at least one more."""
    kept = history.draw(rng, history.earlier + MOST_NEW_RUNS)
    values = 1 + history.between * kept
    values[history.earlier :] *= 1 + history.change
    earlier, now = values[: history.earlier], values[history.earlier]
    needed = 1
    for _ in range(2):
        found = verdict(rng, replace(history, new=needed, draw=lambda _, n: kept[:n].copy()), 0.0)[0]
        if needed > 1 or found is Verdict.VALIDATED:
            break
        planned = runs_to_decide(earlier, np.zeros(len(earlier)), own=0.0, gap=abs(now - float(np.mean(earlier))))
        if planned is None and found is Verdict.INCONCLUSIVE:
            break
        needed = max(2, planned or 2)
    return found, needed


def _advised_row(what: str, found: Sequence[tuple[Verdict, int]], target: str) -> Row:
    worse = float(np.mean([which is Verdict.REFUTED for which, _ in found]))
    made = float(np.mean([n for _, n in found]))
    met = worse >= MIN_POWER if target.startswith("≥") else worse <= MAX_FALSE + 1.96 * math.sqrt(MAX_FALSE * (1 - MAX_FALSE) / len(found))
    return Row(what=f"{what}; as many more runs as the message says, all together: called worse (δ = 0)", target=target,
               reached=f"{worse:.2%} (n = {len(found):,}; {made:.1f} new runs on average)", met=met)  # fmt: skip


def power_rows(rng: np.random.Generator, trials: int) -> list[Row]:
    """A change of 3 % among runs that scatter by 1 %."""
    rows = []
    for earlier, new in ((10, 1), (20, 1), (10, 2), (10, 3)):
        found = share(rng, History(earlier=earlier, new=new, change=CHANGE), trials)
        bound = best_power(earlier, new)
        what = f"a change of 3 %, {earlier} earlier runs of 1 % spread, {new} new: called worse (δ = 0)"
        verdict_words = "" if bound >= MIN_POWER else "out of reach"
        reached = f"{found:.1%} (no test of these runs can do better than {bound:.1%})"
        rows.append(
            Row(
                what=what,
                target="≥ 90 %",
                reached=reached,
                met=found >= MIN_POWER,
                verdict=verdict_words,
            )
        )
    looks = called_worse([looked_at_twice(rng, History(change=CHANGE)) for _ in range(trials)])
    what = f"a change of 3 %, 10 earlier runs of 1 % spread; {SECOND}: both together call it worse (δ = 0)"
    rows.append(Row(what=what, target="≥ 90 %", reached=f"{looks:.1%}", met=looks >= MIN_POWER))
    advised = [as_advised(rng, History(change=CHANGE)) for _ in range(trials)]
    rows.append(_advised_row("a change of 3 %, 10 earlier runs of 1 % spread", advised, "≥ 90 %"))
    for change in (0.0, 0.03, 0.05, 0.10):
        parts = [share(rng, History(earlier=12, change=change), trials, delta=DELTA, of=v) for v in (Verdict.VALIDATED, Verdict.REFUTED)]
        what = f"12 earlier runs, claimed no worse than 5 %, truly worse by {change:.0%}: VALIDATED / REFUTED"
        rows.append(Row(what=what, target="–", reached=f"{parts[0]:.1%} / {parts[1]:.1%}", met=True, verdict="for information"))
    return rows


def best_power(earlier: int, new: int) -> float:
    """Of the most powerful test with 2.5 % false alarms that knew the spread exactly."""
    return float(stats.norm.sf(stats.norm.isf(MAX_FALSE) - CHANGE / (SPREAD * math.sqrt(1 / earlier + 1 / new))))


def change_point_rows(rng: np.random.Generator, trials: int) -> list[Row]:
    """Steps in a series of 60 runs."""
    false = float(np.mean([bool(change_points(rng.normal(size=60))) for _ in range(trials)]))
    tails = float(np.mean([bool(change_points(heavy(rng, 60))) for _ in range(trials)]))
    rows = [
        Row(what="60 unchanged runs: any change point", target="≤ 1 %", reached=f"{false:.2%}", met=false <= _within(0.01, trials)),
        Row(what="the same with heavy tails", target="≤ 1 %", reached=f"{tails:.2%}", met=tails <= _within(0.01, trials)),
    ]
    for at in (30, 50):
        found = float(np.mean([_found_near(rng, at) for _ in range(trials)]))
        what = f"60 runs, a step of 3 spreads at run {at}: one change point within ± 2 runs of it"
        rows.append(Row(what=what, target="≥ 90 %" if at == 30 else "–", reached=f"{found:.1%}", met=found >= MIN_POWER or at != 30,
                        verdict="" if at == 30 else "for information"))  # fmt: skip
    return rows


def _within(level: float, trials: int) -> float:
    return level + 1.96 * math.sqrt(level * (1 - level) / trials)


def _found_near(rng: np.random.Generator, at: int) -> bool:
    values = rng.normal(size=60)
    values[at:] += 3.0
    found = change_points(values)
    return len(found) == 1 and abs(found[0].index - at) <= 2


def study(seed: int, trials: int) -> list[Row]:
    """All rows."""
    rng = np.random.default_rng(seed)
    return [*false_alarm_rows(rng, trials), *power_rows(rng, trials // 4), *change_point_rows(rng, trials // 10)]


INTRODUCTION = (
    "Spreads are standard deviations relative to the level; unless a line says otherwise, runs are independent and normal, and δ is 0.",
    "With one new run a change of three spreads cannot be found nine times in ten by any test that calls an unchanged run worse in at",
    "most 2.5 % of cases: the best that exists, with the spread known exactly, is stated beside. Give two runs of the new state:",
    "`pytest-physics history check RUN1 RUN2`. Where the second run is made only if the first was not VALIDATED, also after REFUTED, and",
    "the verdict of both together stands, no more unchanged runs are called worse; where REFUTED counts at either look, more are.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 0 where all figures meet their targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the histories")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the page here")
    chosen = parser.parse_args(arguments)
    rows = study(chosen.seed, 1000 if chosen.quick else 20_000)
    command = f"python benchmarks/regression_study.py{' --quick' if chosen.quick else ''} --seed {chosen.seed}"
    return publish(page("What the regression check finds, and how often it is wrong", command, INTRODUCTION, rows), chosen.output, rows)


if __name__ == "__main__":
    sys.exit(main())
