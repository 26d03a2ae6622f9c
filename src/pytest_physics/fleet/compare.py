"""Comparing hosts: differences with their intervals, or the reason why there is none.

Two numbers are compared only where a difference could be put down to the cards: no gate refuses either, both are measured or both
simulated, the workload and the settings are the same, and so is the software. Two cards of one model must also have run under the same
driver, VBIOS and limits. The interval holds the errors of both cards' scales; where more than one pair is looked at, all intervals of a
metric hold together with 95 % (Bonferroni).

Outliers are looked for among cards of one model under equal conditions (:mod:`pytest_physics.metrology.between_hosts`); there the errors
of the scales are left out of each card's own uncertainty, because they are part of how cards differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pytest_physics.fleet.evidence import METRICS, HostRun, Metric, arm_of, conditions, refused
from pytest_physics.metrology.between_hosts import FEWEST_HOSTS, BetweenHosts, HostDeviation, between_hosts, host_deviations
from pytest_physics.metrology.uncertainty import COVERAGE, coverage_factor
from pytest_physics.record.schema import EstimateRecord, ResultRecord

PLACES = ("runs", "device", "seed", "profile")
"""Settings that say where and on what a run ran; what a profile changes is compared by itself."""
SOFTWARE = ("python", "pytest-physics", "numpy", "scipy", "torch", "transformers")
MOST_PAIRS = 60
"""Pairs of hosts looked at for each metric, and lines shown; of more hosts, those of one model under equal conditions are compared as one:
their mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What is compared: one host, or the mean of a group of equal ones."""

    name: str
    value: float
    u: float
    dof: float
    unit: str
    host: HostRun
    """The host, or one of the group: conditions are the same."""
    result: ResultRecord
    n: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two sides and their difference, or why there is none."""

    first: str
    second: str
    difference: float | None
    expanded: float | None
    unit: str
    finding: str
    """``lower``, ``higher`` (the first than the second), ``not told apart`` or ``refused``."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """All pairs of one metric."""

    metric: Metric
    pairs: Sequence[Pair]
    left_out: Sequence[str]
    """Hosts whose number is refused or missing, each with its reason."""
    coverage: float
    """Of each interval, so that all hold together with 95 %."""
    grouped: bool
    """Whether the sides are groups of hosts."""
    apart: int = 0
    """Pairs of groups that were not even formed: they ran different things."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupModel:
    """A metric over hosts of one model under equal conditions."""

    metric: Metric
    model: str
    unit: str
    between: BetweenHosts
    expanded_mean: float
    members: Sequence[HostRun]
    hosts: Sequence[tuple[HostRun, HostDeviation]]
    """Empty below :data:`~pytest_physics.metrology.between_hosts.FEWEST_HOSTS` hosts."""

    @property
    def outliers(self) -> list[tuple[HostRun, HostDeviation]]:
        """Hosts that do not belong."""
        return [(host, found) for host, found in self.hosts if found.outlier]


# --- what forbids -------------------------------------------------------------------------------------------------------------


def forbidden(a: HostRun, b: HostRun, one: ResultRecord, other: ResultRecord) -> str:
    """Why two numbers must not be compared; empty where they may."""
    for host, result in ((a, one), (b, other)):
        if why := refused(result):
            return f"{host.name}: {why}"
    kinds = {one.estimate.provenance, other.estimate.provenance}
    if "simulated" in kinds and len(kinds) > 1:
        return "one is simulated and the other is not"
    return (
        _workload(one, other)
        or _difference("settings differ", _settings(a), _settings(b))
        or _difference("software differs", _software(a), _software(b))
        or _fingerprints(a, b)
    )


def _workload(one: ResultRecord, other: ResultRecord) -> str:
    return _difference("the workload differs", dict(arm_of(one)), dict(arm_of(other)))


def _settings(host: HostRun) -> dict[str, Any]:
    return {key: value for key, value in host.run.config.items() if key not in PLACES}


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _software(host: HostRun) -> dict[str, object]:
    return {name: host.run.environment.get(name, "not recorded") for name in SOFTWARE}


def _fingerprints(a: HostRun, b: HostRun) -> str:
    if a.device is None or b.device is None or a.model != b.model:
        return ""
    one, other = (dict(conditions(host.device.fingerprint.details)) for host in (a, b) if host.device)
    return _difference("fingerprints of one model differ", one, other)


def _difference(what: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    if one == other:
        return ""
    here, there = dict(_flat(one)), dict(_flat(other))
    for key in sorted(here.keys() | there.keys()):
        if here.get(key) != there.get(key):
            return f"{what}: {key} is {here.get(key, 'absent')} and {there.get(key, 'absent')}"
    return ""


# --- pairs --------------------------------------------------------------------------------------------------------------------


def comparisons(hosts: Sequence[HostRun]) -> list[Comparisons]:
    """Every metric that at least two hosts have."""
    found = [_compared(metric, hosts) for metric in METRICS]
    return [item for item in found if item.pairs or item.apart]


def _compared(metric: Metric, hosts: Sequence[HostRun]) -> Comparisons:
    having = [(host, host.numbers[metric.key]) for host in hosts if metric.key in host.numbers]
    left_out = [f"{host.name}: {why}" for host, result in having if (why := refused(result))]
    sides = [_side(host, result) for host, result in having if not refused(result)]
    grouped = math.comb(len(sides), 2) > MOST_PAIRS
    if grouped:
        sides = _group_sides(sides)
    classes: dict[str, list[Side]] = {}
    for side in sides:  # of a sweep of hundreds of points no two ran the same: nobody reads ten thousand reasons
        classes.setdefault(_ran(side.host, side.result) if grouped else "", []).append(side)
    formed = [pair for equal in classes.values() for pair in combinations(equal, 2)]
    whys = [(a, b, forbidden(a.host, b.host, a.result, b.result)) for a, b in formed]
    coverage = 1 - (1 - COVERAGE) / max(1, sum(not why for *_, why in whys))
    pairs = [_pair(a, b, coverage, why) for a, b, why in whys]
    apart = math.comb(len(sides), 2) - len(formed)
    return Comparisons(metric=metric, pairs=pairs, left_out=left_out, coverage=coverage, grouped=grouped, apart=apart)


def _side(host: HostRun, result: ResultRecord) -> Side:
    estimate = result.estimate
    return Side(
        name=host.name, value=estimate.value or 0.0, u=estimate.u or 0.0, dof=_dof(estimate), unit=estimate.unit, host=host, result=result
    )  # fmt: skip


def _group_sides(sides: Sequence[Side]) -> list[Side]:
    """One side for each group of equal hosts: the mean, with the hosts' differences in its uncertainty."""
    groups: dict[str, list[Side]] = {}
    for side in sides:
        groups.setdefault(equal_key(side.host, side.result), []).append(side)
    return [_group_side(group) for group in groups.values()]


def equal_key(host: HostRun, result: ResultRecord) -> str:
    """Equal for two numbers of cards of one model, where nothing forbids to compare them."""
    return f"{host.group} {_ran(host, result)}"


def _ran(host: HostRun, result: ResultRecord) -> str:
    return repr((arm_of(result), _settings(host), _software(host), result.estimate.provenance))


def _group_side(group: Sequence[Side]) -> Side:
    if len(group) == 1:
        return group[0]
    model = between_hosts([side.value for side in group], [side.u for side in group])
    first = group[0]
    return Side(
        name=f"{first.host.model} ({len(group)} hosts)", value=model.mean, u=model.u_mean, dof=model.dof, unit=first.unit, host=first.host,
        result=first.result, n=len(group),
    )  # fmt: skip


def _pair(a: Side, b: Side, coverage: float, why: str) -> Pair:
    if why:
        return Pair(first=a.name, second=b.name, difference=None, expanded=None, unit=a.unit, finding="refused", reason=why)
    difference, u = a.value - b.value, math.hypot(a.u, b.u)
    expanded = coverage_factor(_welch(a, b), coverage) * u if u else 0.0
    finding = "not told apart" if abs(difference) <= expanded else "lower" if difference < 0 else "higher"
    return Pair(first=a.name, second=b.name, difference=difference, expanded=expanded, unit=a.unit, finding=finding)


def _welch(a: Side, b: Side) -> float:
    """Effective degrees of freedom of a difference (Welch and Satterthwaite)."""
    below = sum(side.u**4 / side.dof for side in (a, b) if math.isfinite(side.dof) and side.dof > 0)
    return math.hypot(a.u, b.u) ** 4 / below if below else math.inf


def _dof(estimate: EstimateRecord) -> float:
    return math.inf if estimate.dof is None else estimate.dof


# --- outliers -----------------------------------------------------------------------------------------------------------------


def group_models(hosts: Sequence[HostRun]) -> list[GroupModel]:
    """Every metric over every group of two or more equal hosts."""
    return [model for metric in METRICS for model in _models(metric, hosts)]


def _models(metric: Metric, hosts: Sequence[HostRun]) -> Iterator[GroupModel]:
    groups: dict[str, list[HostRun]] = {}
    for host in hosts:
        result = host.numbers.get(metric.key)
        if result is not None and not refused(result):
            groups.setdefault(equal_key(host, result), []).append(host)
    for group in groups.values():
        if len(group) > 1:
            yield _model(metric, group)


def _model(metric: Metric, group: Sequence[HostRun]) -> GroupModel:
    estimates = [host.numbers[metric.key].estimate for host in group]
    values, u = [e.value or 0.0 for e in estimates], [own_uncertainty(e) for e in estimates]
    between = between_hosts(values, u)
    deviations = host_deviations(values, u) if len(group) >= FEWEST_HOSTS else ()
    return GroupModel(
        metric=metric, model=group[0].model, unit=estimates[0].unit, between=between,
        expanded_mean=coverage_factor(between.dof) * between.u_mean, members=group, hosts=list(zip(group, deviations, strict=False)),
    )  # fmt: skip


def own_uncertainty(estimate: EstimateRecord) -> float:
    """Standard uncertainty without the common scale of the device: that is how cards differ, not how one repeats."""
    return math.sqrt(sum((c.contribution or 0.0) ** 2 for c in estimate.budget if not c.common_scale))
