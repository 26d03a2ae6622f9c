"""Is a run worse than the earlier ones? One verdict for each metric.

The claim on each metric is "no worse than the earlier runs by more than δ". VALIDATED, REFUTED and INCONCLUSIVE follow from the interval of
the relative change (:mod:`pytest_physics.metrology.between_runs`) by the rule of every claim
(:func:`pytest_physics.metrology.decision.decide`); INVALID where the run does not verify or is incomplete, where its own gates refuse the
number, or where there are too few valid earlier runs under equal conditions. Several repeats of the new run may be judged together: one run
of 1 % scatter cannot show a change of 3 % nine times in ten, two can (docs/regression-study.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_physics.config import HistorySettings
from pytest_physics.errors import RecordError
from pytest_physics.history.entries import USABLE, Conditions, Entry, Value, agree, differences, read_entry
from pytest_physics.history.names import compared, lower_is_better
from pytest_physics.history.store import HistoryIndex, Point
from pytest_physics.metrology.between_runs import MOST_NEW_RUNS, relative_change, runs_to_decide
from pytest_physics.metrology.change_points import change_points
from pytest_physics.metrology.decision import MIN_DOF, Decision, Verdict, decide, error_probability, holm
from pytest_physics.metrology.uncertainty import Comparison, Estimate, Gate
from pytest_physics.record.leaves.history import prior_estimate
from pytest_physics.record.verify import verify_run

MAX_DIFFERENCES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One metric of the new run against the earlier ones."""

    metric: str
    unit: str
    decision: Decision
    change: Estimate
    """Relative change, positive is worse; NaN where it could not be computed."""
    value: float | None
    """Of the new run, or the mean of several; None where it does not exist."""
    prior: Estimate
    """What the earlier runs predict."""
    points: tuple[Point, ...]
    """The earlier runs that were compared with, in the order of time."""
    because: str = ""
    """Why it is not VALIDATED, in one sentence; of several gates that refuse, the first that explains the others. Of an INCONCLUSIVE one
    also how many more runs would settle it."""
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The verdict."""
        return self.decision.verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The outcome of a check."""

    runs: tuple[str, ...]
    delta: float
    judged: tuple[Judged, ...]
    left_out: int
    """Metrics that have no direction, or that the settings skip."""
    set_aside: int
    """Runs in the index that could not be used."""

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many metrics ended how."""
        return {verdict: sum(item.verdict is verdict for item in self.judged) for verdict in Verdict}

    @property
    def exit_code(self) -> int:
        """0; 1 where a metric is REFUTED; 10 where none is and one is INVALID or INCONCLUSIVE, or nothing could be judged."""
        counts = self.counts
        if counts[Verdict.REFUTED]:
            return 1
        return 10 if counts[Verdict.INVALID] or counts[Verdict.INCONCLUSIVE] or not self.judged else 0


def check(index: HistoryIndex, paths: Sequence[Path], settings: HistorySettings, *, correction: str = "none", since_ms: int = 0) -> Checked:
    """Judge the run at ``paths``, or several repeats of it together, against the earlier runs in the index.

    Parameters
    ----------
    paths
        Run directories; they need not be in the index, and are never compared with themselves.
    correction
        ``none``: each metric by itself; ``holm``: any of them called worse by chance in at most 2.5 % of checks.
    since_ms
        Leave runs out that began before: a change that was accepted.
    """
    entries = [read_entry(path) for path in paths]
    invalid = _not_valid(entries)
    ids = [entry.run_id for entry in entries]
    if len(set(ids)) < len(ids):
        raise RecordError("the same run was given twice; a repeat is a run of its own.")
    values = [{value.metric: value for value in entry.values} for entry in entries]
    chosen = [m for m in dict.fromkeys(metric for found in values for metric in found) if compared(m, settings)]
    first = min(entry.t_ms for entry in entries)
    judged = []
    for metric in chosen:
        new = [found[metric] for found in values if metric in found]
        lower = lower_is_better(metric, new[0].unit, settings)
        if lower is not None:
            against = Against(index=index, settings=settings, before_ms=first, since_ms=since_ms, without=tuple(ids))
            judged.append(_judged(metric, new, lower, against, [*invalid, *_in_all(metric, values)]))
    if not chosen and invalid:
        raise RecordError(f"{paths[0]} cannot be judged: {invalid[0].reason}.")
    return Checked(
        runs=tuple(ids), delta=settings.delta, judged=tuple(_together(judged) if correction == "holm" else judged),
        left_out=len({m for found in values for m in found}) - len(judged), set_aside=len(index.set_aside()),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """What a run is compared with."""

    index: HistoryIndex
    settings: HistorySettings
    before_ms: int
    since_ms: int = 0
    without: tuple[str, ...] = ()

    def points(self, metric: str, unit: str, conditions: Conditions) -> list[Point]:
        """The latest valid values under equal conditions."""
        return self.index.latest(
            metric, unit, conditions, last=self.settings.last, since_ms=self.since_ms, before_ms=self.before_ms, without=self.without
        )  # fmt: skip

    def why_few(self, metric: str, conditions: Conditions) -> str:
        """What is known of why there are too few: what differs from the nearest other conditions under which the metric was measured."""
        n, others = self.index.others(metric, conditions)
        if not others:
            return ""
        apart = min((differences(conditions, other) for other in others), key=len)
        more = f" and {len(apart) - MAX_DIFFERENCES} more" if len(apart) > MAX_DIFFERENCES else ""
        shown = "; ".join(apart[:MAX_DIFFERENCES]) or "the unit"
        return f"conditions differ from those of {n} other valid run{'' if n == 1 else 's'} ({shown}{more})"


def _judged(metric: str, new: Sequence[Value], lower: bool, against: Against, gates: Sequence[Gate]) -> Judged:
    conditions, unit = new[0].conditions, new[0].unit
    points = against.points(metric, unit, conditions)
    why = against.why_few(metric, conditions) if len(points) < against.settings.fewest else ""
    values = [value.value for value in new if value.value is not None]
    prior = prior_of(points, unit, against.settings, why, metric, new=values if len(values) == len(new) else ())
    own = [*gates, *(gate for value in new for gate in _usable(value, conditions))]
    change = relative_change(_together_as_one(new), prior, lower_is_better=lower)
    decision = decide(claimed(change, against.settings), own)
    refused = next((gate.reason for gate in (*own, *change.gates) if gate.refuses), "")
    return Judged(
        metric=metric, unit=unit, decision=decision, change=change, value=_mean(values), prior=prior, points=tuple(points),
        because=refused or "; ".join([decision.reason, *to_settle(decision, change, new, points, settings=against.settings)]),
        notes=tuple(notes_on(points)),
    )  # fmt: skip


def prior_of(
    points: Sequence[Point], unit: str, settings: HistorySettings, why: str, metric: str, *, new: Sequence[float] = ()
) -> Estimate:
    """What ``points`` predict."""
    known = [point for point in points if point.value is not None]
    return prior_estimate(
        [float(p.value or 0.0) for p in known], [p.u for p in known], unit=unit, fewest=settings.fewest, why=why, scope=metric, new=new
    )  # fmt: skip


def to_settle(
    decision: Decision, change: Estimate, new: Sequence[Value], points: Sequence[Point], *, settings: HistorySettings
) -> Iterator[str]:
    """What an INCONCLUSIVE comparison needs, planned from the scatter as if the change were what it looks like; nothing for the others."""
    if decision.verdict is not Verdict.INCONCLUSIVE:
        return
    earlier = [(float(p.value), p.u) for p in points if p.value is not None]
    level = abs(math.fsum(value for value, _ in earlier) / len(earlier))
    needed = runs_to_decide(
        *zip(*earlier, strict=True), own=math.sqrt(math.fsum(value.u**2 for value in new) / len(new)),
        gap=abs(change.value - settings.delta) * level, min_dof=MIN_DOF if change.value <= settings.delta else 1.0,
    )  # fmt: skip
    if needed is None:
        yield (
            f"the change lies so near the limit that even {MOST_NEW_RUNS} new runs would not settle it: "
            "allow more (delta), or measure longer so that runs scatter less"
        )
        return
    more = max(1, needed - len(new))
    yield (
        f"if the change is what it looks like, {more} more new run{'' if more == 1 else 's'} would settle it nine times in ten: "
        "judge all of them together, 'pytest-physics history check RUN RUN2 …', and let that verdict stand"
    )


def claimed(change: Estimate, settings: HistorySettings) -> Comparison:
    """No worse by more than δ."""
    return Comparison(estimate=change, operator="<=", limit=settings.delta)


def _together_as_one(new: Sequence[Value]) -> Estimate:
    """The mean of the new runs with its own error, as one line."""
    estimates = [value.estimate for value in new]
    k = len(new)
    lines = [replace(c, source=f"{c.source}|{i}").scaled(1 / k) for i, e in enumerate(estimates) for c in e.components]
    value = math.fsum(e.value for e in estimates) / k
    return Estimate(value=value, unit=new[0].unit, components=tuple(lines), estimator="this run")


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


# --- what forbids -------------------------------------------------------------------------------------------------------------


def _not_valid(entries: Sequence[Entry]) -> list[Gate]:
    """A failed gate for each run that is incomplete or does not verify; a run that cannot be read at all is an error."""
    gates = []
    for entry in entries:
        if entry.state != USABLE and not entry.t_ms:
            raise RecordError(f"{entry.path} cannot be judged: {entry.reason}.")
        found = "" if entry.state != USABLE else _finding(Path(entry.path))
        reason = f"the run is {entry.state}: {entry.reason}" if entry.state != USABLE else found
        if reason:
            gates.append(_refusal("valid run", entry.run_id, reason, "measure again"))
    return gates


def _finding(path: Path) -> str:
    findings = verify_run(path).findings
    return f"verify: {findings[0].where} {findings[0].problem}" if findings else ""


def _usable(value: Value, conditions: Conditions) -> Iterator[Gate]:
    if value.reason:
        yield _refusal("this run's own gates", value.metric, value.reason, "measure again")
    if not agree(value.conditions, conditions):
        apart = "; ".join(differences(value.conditions, conditions)[:MAX_DIFFERENCES])
        yield _refusal(
            "equal repeats", value.metric, f"the repeats ran under different conditions ({apart})", "repeat under equal conditions"
        )


def _in_all(metric: str, values: Sequence[Mapping[str, Value]]) -> list[Gate]:
    missing = sum(metric not in found for found in values)
    return [_refusal("equal repeats", metric, f"{missing} of {len(values)} repeats did not measure it", "repeat all")] if missing else []


def _refusal(name: str, scope: str, reason: str, remedy: str) -> Gate:
    return Gate(name=name, scope=scope, measured=None, limit=None, unit="", passed=False, reason=reason, remedy=remedy)


# --- notes --------------------------------------------------------------------------------------------------------------------


def notes_on(points: Sequence[Point]) -> Iterator[str]:
    """A level that moved within the earlier runs makes their scatter, and so the interval, wider."""
    values = [float(p.value) for p in points if p.value is not None]
    for found in change_points(values):
        share = f"{(found.after - found.before) / abs(found.before):+.1%}" if found.before else f"{found.after - found.before:+.3g}"
        point = points[found.index]
        yield f"the earlier runs moved by {share} at {point.run_id}; where that is accepted, compare with '--since {point.run_id}'"


def software_notes(software: str, points: Iterable[Point]) -> list[str]:
    """What of the software is other than in the latest earlier run: a history is kept to see what that does."""
    latest = max(points, key=lambda point: point.t_ms, default=None)
    if latest is None:
        return []
    here, there = json.loads(software), json.loads(latest.software)
    names = sorted(here.keys() | there.keys())
    return [f"{n}: {there.get(n, 'absent')} → {here.get(n, 'absent')}" for n in names if here.get(n) != there.get(n)]


# --- many metrics -------------------------------------------------------------------------------------------------------------


def _together(judged: Sequence[Judged]) -> list[Judged]:
    """REFUTED stands only where it does among all metrics (Holm); the others are as they were."""
    family = [item for item in judged if item.decision.conformance is not None]
    steps = holm([error_probability(item.decision.conformance or 0.0) if _worse(item) else 1.0 for item in family])
    fallen = {id(item) for item, step in zip(family, steps, strict=True) if not step.decided and item.verdict is Verdict.REFUTED}
    return [_inconclusive(item, len(family)) if id(item) in fallen else item for item in judged]


def _worse(item: Judged) -> bool:
    return item.decision.margin is not None and item.decision.margin < 0


def _inconclusive(item: Judged, m: int) -> Judged:
    reason = f"by itself REFUTED, but not among {m} metrics (Holm): {item.decision.reason}"
    return replace(item, decision=replace(item.decision, verdict=Verdict.INCONCLUSIVE, reason=reason), because=reason)
