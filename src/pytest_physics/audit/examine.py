"""Which checks apply to which exhibit: every check whose numbers are there, and nothing else.

One function per kind of exhibit; each returns the findings of all its checks. An exhibit that carries too little for any check answers with
what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import singledispatch

from pytest_physics.audit import statements as said
from pytest_physics.audit.attached import Attached, MissingDataError
from pytest_physics.devices.base import ReadingKind
from pytest_physics.devices.nvml.priors import power_usage_kind, prior_sensor
from pytest_physics.metrology.forensics import (
    agreement,
    alignment,
    allocation,
    classes,
    confounding,
    correlation,
    counts,
    detectors,
    dimensions,
    events,
    intervals,
    proportions,
    sample_count,
    sensor,
    series,
    spread,
    structure,
    tables,
    trend,
)
from pytest_physics.metrology.forensics.catalogue import PROVENANCE
from pytest_physics.metrology.forensics.finding import Check, Effect, Finding, Printed

ATTACHED = Check(name="attached data", needs="the files that the exhibit names", proves="nothing; it says which datum is missing")
NVML_AVERAGE_S = 1.0
"""What nvmlDeviceGetPowerUsage averages over, where it averages (nvml.h)."""


def findings_of(exhibit: said.Exhibit, attached: Attached) -> list[Finding]:
    """Everything that the checks find in one exhibit; a missing file, column or cell is a finding that says what is missing."""
    found: list[Finding] = []
    try:
        found.extend(examine(exhibit, attached))
    except MissingDataError as missing:
        found.append(ATTACHED.lacks(str(missing)))
    if exhibit.provenance in {"assumed", "illustrative"}:
        found.append(PROVENANCE.finding(Effect.INVALIDATES, f"the numbers are {exhibit.provenance}, not measured"))
    return found


@singledispatch
def examine(exhibit: said.Exhibit, attached: Attached) -> Iterator[Finding]:
    """Findings of the checks for this kind of exhibit."""
    raise NotImplementedError(f"no checks for {type(exhibit).__name__}")


@examine.register
def _sample(exhibit: said.Sample, attached: Attached) -> Iterator[Finding]:
    del attached
    stepped = [q for q in exhibit.quantities.values() if q.step is not None]
    if stepped:
        summaries = [sample_count.Summary(mean=q.mean, step=q.step or 1.0, sd=q.sd) for q in stepped]
        known = [exhibit.n_known] if exhibit.n_known else []
        yield sample_count.sample_count(summaries, stated=[*exhibit.n, *known])
    elif exhibit.n:
        yield sample_count.SAMPLE_COUNT.lacks("the step of the readings ('step')")
    for name, quantity in exhibit.quantities.items():
        for finding in _quantity(quantity, exhibit):
            named = len(exhibit.quantities) > 1
            yield replace(finding, sentence=f"{name}: {finding.sentence}") if named else finding


def _quantity(quantity: said.Quantity, sample: said.Sample) -> Iterator[Finding]:
    if quantity.uncertainty is not None and quantity.sd is not None:
        stated = quantity.uncertainty
        yield intervals.standard_error(
            quantity.sd, stated.n, stated.stated, lag1=stated.lag1, independence_denied=stated.independence_denied, unit=quantity.unit
        )
    if quantity.outlier_rule_k is not None:
        if quantity.sd is None or quantity.max is None:
            yield detectors.SELF_MASKING.lacks("the standard deviation and the maximum")
        else:
            yield detectors.self_masking(quantity.mean, quantity.sd, quantity.max, quantity.outlier_rule_k)
    if quantity.sd is None or quantity.min is None or quantity.max is None:
        if quantity.levels or quantity.histogram:
            yield spread.SHARES.lacks("standard deviation, minimum and maximum")
        return
    four = spread.FourNumbers(
        mean=quantity.mean, sd=quantity.sd, minimum=quantity.min, maximum=quantity.max, n=sample.n_known, ddof=sample.ddof
    )
    yield spread.moment_feasibility(four)
    for level in quantity.levels:
        above, below = (-math.inf if level.above is None else level.above), (math.inf if level.below is None else level.below)
        yield spread.share_claim(four, above=above, below=below, at_least=level.at_least, at_most=level.at_most)
    if quantity.histogram:
        yield spread.histogram_spread([(b.low, b.high, b.share) for b in quantity.histogram], four, slack=quantity.histogram_slack)


@examine.register
def _energy_uncertainty(exhibit: said.EnergyUncertainty, attached: Attached) -> Iterator[Finding]:
    del attached
    for row in exhibit.rows:
        yield intervals.energy_uncertainty(
            exhibit.sd_w, exhibit.dt_s, row.duration_s, row.stated_j, idle_s=exhibit.idle_s, actual_dt_s=exhibit.actual_dt_s
        )


@examine.register
def _duration(exhibit: said.Duration, attached: Attached) -> Iterator[Finding]:
    del attached
    yield counts.duration(exhibit.counts, exhibit.period_s, exhibit.stated_s, relation=exhibit.relation)


@examine.register
def _total(exhibit: said.Total, attached: Attached) -> Iterator[Finding]:
    del attached
    yield counts.conservation(exhibit.total, exhibit.parts, tolerance=exhibit.tolerance, unit=exhibit.unit)


@examine.register
def _rate(exhibit: said.Rate, attached: Attached) -> Iterator[Finding]:
    del attached
    yield counts.rate(exhibit.count, exhibit.time_s, exhibit.stated, unit=_shown(exhibit.unit), tolerance=exhibit.tolerance)


@examine.register
def _limit(exhibit: said.Limit, attached: Attached) -> Iterator[Finding]:
    del attached
    yield counts.plausibility(exhibit.value, most=exhibit.most, least=exhibit.least, why=exhibit.why, unit=_shown(exhibit.unit))


def _shown(unit: str) -> str:
    """A ratio has no unit to print."""
    return "" if unit == "1" else unit


@examine.register
def _table(exhibit: said.Table, attached: Attached) -> Iterator[Finding]:
    del attached

    def column(name: str, check: Check) -> list[Printed]:
        values = exhibit.columns[name].values
        if any(v is None for v in values):
            raise MissingDataError(f"a number in every row of column '{name}' for the {check.name}")
        return [v for v in values if v is not None]

    def unit(y: str, x: str) -> str:
        return f"{exhibit.columns[y].unit}/{exhibit.columns[x].unit}"

    if exhibit.rates is not None:
        time, base = exhibit.rates.time, exhibit.rates.base
        printed: list[float | None] = list(exhibit.columns[exhibit.rates.printed].values)
        yield tables.derived_rates(column(time, tables.DERIVED), column(base, tables.DERIVED), printed, unit=unit(base, time))
    if exhibit.slope is not None:
        x, y = exhibit.slope.x, exhibit.slope.y
        yield tables.table_slope(column(x, tables.SLOPE), column(y, tables.SLOPE), exhibit.slope.stated, unit=unit(y, x))
    if exhibit.heating is not None:
        yield tables.heating_law(column(exhibit.heating.time, tables.HEATING), column(exhibit.heating.temperature, tables.HEATING))
    if exhibit.stop_rule is not None:
        rule = exhibit.stop_rule
        yield tables.early_stop(
            column(rule.time, tables.EARLY_STOP), column(rule.value, tables.EARLY_STOP), limit=rule.limit, stopped_at=rule.stopped_at
        )
    if exhibit.maximum is not None:
        values = [v for v in exhibit.columns[exhibit.maximum.column].values if v is not None]
        yield tables.column_maximum(values, exhibit.maximum.stated, unit=exhibit.columns[exhibit.maximum.column].unit)


@examine.register
def _stop(exhibit: said.Stop, attached: Attached) -> Iterator[Finding]:
    del attached
    yield tables.optional_stopping(exhibit.value, exhibit.limit, first_crossing=exhibit.first_crossing, stricter=exhibit.stricter)
    if exhibit.step is not None and exhibit.window is not None:
        yield tables.slope_resolution(exhibit.value, exhibit.limit, step=exhibit.step, window=exhibit.window, unit=exhibit.unit)


@examine.register
def _classes(exhibit: said.Classes, attached: Attached) -> Iterator[Finding]:
    del attached
    rules = [classes.Rule(name=rule.name, ranges=_ranges(rule)) for rule in exhibit.rules]
    yield classes.class_rules(rules, ordered=exhibit.ordered)
    for row in exhibit.rows:
        yield classes.class_row(rules, _ranges(row), row.printed, label=row.label, ordered=exhibit.ordered)


def _ranges(part: said.ClassRule | said.ClassRow) -> dict[str, tuple[float, float]]:
    named = {"samples": part.samples, "gap": part.gap, "duration_s": part.duration_s}
    return {name: found for name, found in named.items() if found is not None}


@examine.register
def _sensor(exhibit: said.Sensor, attached: Attached) -> Iterator[Finding]:
    del attached
    window_s = exhibit.averages_s if exhibit.averages_s is not None else _average(exhibit)
    if window_s is None:
        yield sensor.RISE.lacks("what the reading averages over ('averages_s', or 'family' and 'driver')")
        return
    if exhibit.rise_limit_s is not None:
        yield sensor.rise_time(window_s, exhibit.rise_limit_s)
    for duration_s in exhibit.events_s.values():
        yield sensor.visibility(duration_s, exhibit.update_period_s, window_s, corrected=exhibit.corrected)


def _average(exhibit: said.Sensor) -> float | None:
    """Averaging window of nvmlDeviceGetPowerUsage on a card of this family and driver."""
    if exhibit.family is None:
        return None
    kind = power_usage_kind(exhibit.family, exhibit.driver or 0)
    if kind is None:
        return None
    return NVML_AVERAGE_S if kind is ReadingKind.AVERAGE else prior_sensor(exhibit.family).effective_window_s


@examine.register
def _formula(exhibit: said.Formula, attached: Attached) -> Iterator[Finding]:
    del attached
    yield dimensions.dimension(exhibit.unit, exhibit.terms)


@examine.register
def _proportion(exhibit: said.Proportion, attached: Attached) -> Iterator[Finding]:
    del attached
    shares = [proportions.Share(successes=s.successes, trials=s.trials) for s in (exhibit.a, exhibit.b) if s is not None]
    for share, part in zip(shares, (exhibit.a, exhibit.b), strict=False):
        if part is not None and part.percent is not None:
            yield proportions.percentage(share, part.percent)
    if len(shares) == 2:
        yield proportions.difference(*shares, discordant=exhibit.discordant, design_effect=exhibit.design_effect)


@examine.register
def _correlation(exhibit: said.Correlation, attached: Attached) -> Iterator[Finding]:
    del attached
    if exhibit.r is None:
        if exhibit.at_least is None:
            yield correlation.DETECTABLE.lacks("the smallest correlation that matters ('at_least')")
        else:
            yield correlation.detectable(exhibit.n, exhibit.at_least, lags=exhibit.lags_searched)
        return
    yield correlation.correlation(
        exhibit.r, exhibit.n, n_distinct=exhibit.n_distinct, n_eff=exhibit.n_eff, lag1=exhibit.lag1,
        lags=exhibit.lags_searched, at_least=exhibit.at_least,
    )  # fmt: skip


@examine.register
def _comparison(exhibit: said.Comparison, attached: Attached) -> Iterator[Finding]:
    del attached
    yield confounding.confounding(exhibit.arms, exhibit.contrast)


@examine.register
def _allocation(exhibit: said.Allocation, attached: Attached) -> Iterator[Finding]:
    del attached
    items, costs = exhibit.counts, exhibit.costs
    if exhibit.total is not None:
        yield allocation.allocation_total(items, costs, exhibit.total, unit=exhibit.unit)
    if exhibit.baseline is not None:
        yield allocation.null_test(items, costs, exhibit.baseline, unit=exhibit.unit)
    if exhibit.baseline is not None and exhibit.saving_percent is not None:
        yield allocation.saving(allocation.total_cost(items, costs), exhibit.baseline, exhibit.saving_percent)
    if exhibit.prefers_cheap:
        yield allocation.preference(items, costs, unit=exhibit.unit)
    if len(exhibit.sweep) > 1:
        strengths = [point.strength for point in exhibit.sweep]
        yield allocation.sweep_direction(strengths, [point.counts for point in exhibit.sweep], costs, unit=exhibit.unit)


@examine.register
def _fact(exhibit: said.Fact, attached: Attached) -> Iterator[Finding]:
    del attached
    yield agreement.agreement(exhibit.values, tolerance=exhibit.tolerance, unit=exhibit.unit)


@examine.register
def _spans(exhibit: said.Spans, attached: Attached) -> Iterator[Finding]:
    del attached
    for a, b in exhibit.apart:
        yield events.apart(exhibit.spans[a], exhibit.spans[b], names=(a, b), unit=exhibit.unit)
    for a, b in exhibit.inside:
        yield events.inside(exhibit.spans[a], exhibit.spans[b], names=(a, b), unit=exhibit.unit)


@examine.register
def _detector(exhibit: said.Detector, attached: Attached) -> Iterator[Finding]:
    del attached
    yield detectors.reach(
        constant_inputs=exhibit.constant_inputs,
        opportunities=exhibit.opportunities,
        needed_run=exhibit.needed_run,
        longest_run=exhibit.longest_run,
    )


@examine.register
def _outline(exhibit: said.Outline, attached: Attached) -> Iterator[Finding]:
    if exhibit.file is not None:
        text = attached.text(exhibit.file)
        yield structure.structure(structure.sections_of(text), structure.references_of(text))
    if exhibit.sections:
        yield structure.structure(exhibit.sections, exhibit.references)


@examine.register
def _mean_rate(exhibit: said.MeanRate, attached: Attached) -> Iterator[Finding]:
    del attached
    yield trend.mean_rate(exhibit.stated, exhibit.min, exhibit.max, exhibit.duration_s, unit=exhibit.unit)


@examine.register
def _series(exhibit: said.Series, attached: Attached) -> Iterator[Finding]:
    rows = exhibit.rows
    if rows.time is not None:
        times = attached.times(rows)
        yield series.writers(times)
        if exhibit.period_s is not None:
            yield series.cadence(times, exhibit.period_s)
    for name in exhibit.measured:
        yield series.constant(attached.column(rows, name), name=name)
    for name in exhibit.fresh:
        yield series.staleness(attached.column(rows, name), name=name)
    for name in exhibit.natural:
        yield series.smoothness(attached.column(rows, name), name=name)
    for x, y in exhibit.computed_pairs:
        yield series.affine(attached.column(rows, x), attached.column(rows, y), names=(x, y))


@examine.register
def _alignment(exhibit: said.Alignment, attached: Attached) -> Iterator[Finding]:
    if exhibit.a is not None and exhibit.b is not None:
        yield alignment.clock_offset(attached.times(exhibit.a), attached.times(exhibit.b), tolerance_s=exhibit.tolerance_s)
    if exhibit.lags:
        yield alignment.lag_symmetry(list(exhibit.lags), list(exhibit.lags.values()))


@examine.register
def _replicates(exhibit: said.Replicates, attached: Attached) -> Iterator[Finding]:
    digests = {**exhibit.digests, **{name: attached.digest(file, exhibit.columns) for name, file in exhibit.files.items()}}
    yield confounding.replicates(digests)
