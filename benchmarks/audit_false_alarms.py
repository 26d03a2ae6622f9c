"""How often each check of the audit accuses a sound report: 10,000 simulated, consistent summaries per check.

Run ``python benchmarks/audit_false_alarms.py [--draws N] [--write docs/audit.md]``. A summary is drawn from simulated data or from a law,
is rounded as reports round, and is then examined. An alarm is a finding that contradicts or invalidates. For checks that ask whether an
effect is more than chance, "confirmed by chance" is counted on data without any effect. With ``--write`` the table between the markers in
that file is replaced.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
from pytest_physics.metrology.forensics.catalogue import CATALOGUE, OWN_OUTCOME, PREREQUISITE, PROVENANCE
from pytest_physics.metrology.forensics.finding import Effect, Finding, Printed

DECLARED = {PROVENANCE.name, OWN_OUTCOME.name, PREREQUISITE.name}
"""These repeat what a statements file declares; there is nothing to simulate."""
BEGIN, END = "<!-- false alarms: begin -->", "<!-- false alarms: end -->"

Generator = Callable[[np.random.Generator], Finding]


def rounded(value: float, decimals: int) -> Printed:
    """A number as a report prints it."""
    return Printed(round(float(value), decimals), decimals)


def significant(value: float, digits: int = 3) -> Printed:
    """A number with so many significant digits."""
    text = f"{value:.{digits - 1}e}"
    return rounded(float(text), digits - 1 - int(text.partition("e")[2]))


def readings(rng: np.random.Generator, n: int, step: float) -> np.ndarray:
    """Readings of one of four kinds, in whole steps."""
    kind = rng.integers(4)
    if kind == 0:
        values = rng.normal(rng.uniform(5, 300), rng.uniform(1, 20), n)
    elif kind == 1:
        values = rng.choice(rng.uniform(0, 100, 2), n) + rng.normal(0, 0.3, n)
    elif kind == 2:
        values = rng.uniform(0, rng.uniform(1, 50), n) + rng.uniform(0, 50)
    else:
        values = rng.exponential(rng.uniform(1, 30), n)
    return np.rint(values / step) * step


def four_numbers(rng: np.random.Generator) -> tuple[np.ndarray, spread.FourNumbers]:
    """Data and their published summary, with or without its n."""
    data = readings(rng, int(rng.integers(30, 1500)), 0.001)
    decimals, ddof = int(rng.integers(2, 7)), int(rng.integers(2))
    return data, spread.FourNumbers(
        mean=rounded(data.mean(), decimals), sd=rounded(data.std(ddof=ddof), decimals), minimum=rounded(data.min(), decimals),
        maximum=rounded(data.max(), decimals), n=data.size if rng.random() < 0.5 else None, ddof=ddof,
    )  # fmt: skip


def draw_sample_count(rng: np.random.Generator) -> Finding:
    """Power and temperature read together, printed in full or rounded."""
    n = int(rng.integers(2, 3000))
    power, temperature = readings(rng, n, 0.001), readings(rng, n, 1.0)
    ddof = int(rng.integers(2)) if n > 1 else 0
    mean, sd = power.mean(), power.std(ddof=ddof)
    if rng.random() < 0.5:
        decimals = int(rng.integers(2, 8))
        mean, sd = rounded(mean, decimals), rounded(sd, decimals)
    summaries = [
        sample_count.Summary(
            mean=mean if isinstance(mean, Printed) else float(mean), step=0.001, sd=sd if isinstance(sd, Printed) else float(sd)
        ),
        sample_count.Summary(mean=float(temperature.mean()), step=1.0),
    ]
    return sample_count.sample_count(summaries, stated=[n])


def draw_moments(rng: np.random.Generator) -> Finding:
    """The four numbers of real data."""
    return spread.moment_feasibility(four_numbers(rng)[1])


def draw_shares(rng: np.random.Generator) -> Finding:
    """The true share of an interval, claimed as at least and at most."""
    data, four = four_numbers(rng)
    low, high = np.sort(rng.uniform(data.min(), data.max(), 2))
    if high - low < 1e-3:
        high = low + 1.0
    share = float(np.mean((data >= low) & (data < high)))
    return spread.share_claim(four, above=float(low), below=float(high), at_least=share, at_most=share)


def draw_histogram(rng: np.random.Generator) -> Finding:
    """Shares of three to six intervals, in whole percent."""
    data, four = four_numbers(rng)
    edges = np.linspace(data.min(), data.max(), int(rng.integers(4, 8)))
    shares = np.histogram(data, edges)[0] / data.size
    bins = [(float(a), float(b), round(float(share), 2)) for a, b, share in zip(edges, edges[1:], shares, strict=False)]
    return spread.histogram_spread(bins, four)


def draw_masking(rng: np.random.Generator) -> Finding:
    """A mean + 2 s rule on noise of one level."""
    data = rng.normal(50, rng.uniform(0.1, 5), int(rng.integers(400, 2000)))
    return detectors.self_masking(rounded(data.mean(), 3), rounded(data.std(ddof=1), 3), rounded(data.max(), 3), 2.0)


def draw_reach(rng: np.random.Generator) -> Finding:
    """A detector that had opportunities."""
    needed = int(rng.integers(1, 10))
    return detectors.reach(needed_run=needed, longest_run=needed + int(rng.integers(0, 10)))


def draw_standard_error(rng: np.random.Generator) -> Finding:
    """Deviation over the root of N, with three significant digits."""
    sd, n = rounded(rng.uniform(0.5, 50), 2), int(rng.integers(5, 5000))
    lag1 = float(rng.uniform(0, 0.9)) if rng.random() < 0.5 else None
    n_eff = n if lag1 is None else intervals.effective_count(n, lag1)
    return intervals.standard_error(sd, n, significant(sd / np.sqrt(max(n_eff, 3.0)) if n_eff >= 3 else sd / np.sqrt(n_eff)), lag1=lag1)


def draw_energy_uncertainty(rng: np.random.Generator) -> Finding:
    """The formula with the idle mean's error."""
    sd, dt, duration, idle = rounded(rng.uniform(0.5, 20), 2), 0.1, float(rng.choice([0.1, 1.0])), 600.0
    return intervals.energy_uncertainty(sd, dt, duration, significant(sd * np.sqrt(duration * dt)), idle_s=idle)


def draw_duration(rng: np.random.Generator) -> Finding:
    """A grid that may lose a tick at each end."""
    period, taken, dropped = float(rng.choice([0.02, 0.1, 1.0])), int(rng.integers(20, 5000)), int(rng.integers(0, 10))
    return counts.duration({"taken": taken, "dropped": dropped}, period, significant((taken + dropped + rng.uniform(-1, 1)) * period))


def draw_conservation(rng: np.random.Generator) -> Finding:
    """Parts and total, each rounded for itself."""
    parts, decimals = rng.uniform(0, 1000, int(rng.integers(2, 8))), int(rng.integers(1, 4))
    return counts.conservation(rounded(parts.sum(), decimals), {str(i): rounded(p, decimals) for i, p in enumerate(parts)})


def draw_rate(rng: np.random.Generator) -> Finding:
    """Count over time, with three digits."""
    count, time = float(rng.integers(1, 10_000)), rng.uniform(0.1, 100)
    return counts.rate(count, significant(time), significant(count / time))


def draw_plausibility(rng: np.random.Generator) -> Finding:
    """A value below its limit."""
    most = rng.uniform(10, 1000)
    return counts.plausibility(rounded(most * rng.uniform(0, 1), 1), most=most, least=0.0)


def draw_derived(rng: np.random.Generator) -> Finding:
    """Rates of the exact curve beside its rounded values."""
    t = np.arange(8.0)
    exact = 40 + 10 * (1 - np.exp(-t / rng.uniform(1, 10)))
    rates = [None, *(rounded(r, 1) for r in np.diff(exact))]
    return tables.derived_rates(t, [rounded(v, 1) for v in exact], rates)


def draw_slope(rng: np.random.Generator) -> Finding:
    """Slope of the exact values beside the rounded ones."""
    t = np.sort(rng.uniform(0, 10, 8))
    exact = 40 + rng.normal(0, 1) * t + rng.normal(0, 0.5, 8)
    return tables.table_slope(t, [rounded(v, 1) for v in exact], rounded(tables.slope_of(t, exact)[0], 3))


def draw_heating(rng: np.random.Generator) -> Finding:
    """Two time constants at constant power, rounded."""
    t = np.arange(10.0)
    rise = sum(rng.uniform(1, 20) * (1 - np.exp(-t / rng.uniform(0.2, 10))) for _ in range(2))
    return tables.heating_law(t, [rounded(v, int(rng.integers(0, 3))) for v in 40 + rise])


def draw_resolution(rng: np.random.Generator) -> Finding:
    """A slope below its limit, through whole degrees."""
    window, slope, limit = float(rng.uniform(4, 20)), float(rng.uniform(0, 0.3)), 0.5
    t = np.linspace(0, window, 200)
    steps = np.round(50 + rng.uniform(0, 1) + slope * t)
    return tables.slope_resolution(rounded(np.polyfit(t, steps, 1)[0], 3), limit, step=1.0, window=window)


def draw_early_stop(rng: np.random.Generator) -> Finding:
    """First-order heating: the rule holds at the end and never before."""
    t = np.arange(12.0)
    exact = 40 + rng.uniform(5, 20) * (1 - np.exp(-t / rng.uniform(1, 3)))
    return tables.early_stop(t, [rounded(v, 1) for v in exact], limit=0.5, stopped_at=11.0)


def draw_stopping(rng: np.random.Generator) -> Finding:
    """A value that was confirmed after crossing."""
    return tables.optional_stopping(rounded(rng.uniform(0.05, 0.39), 3), 0.5, first_crossing=False, stricter=0.4)


def draw_extreme(rng: np.random.Generator) -> Finding:
    """The column's own maximum, with fewer digits."""
    column = [rounded(v, 2) for v in rng.normal(5, 2, 8)]
    return tables.column_maximum(column, rounded(max(column), int(rng.integers(1, 3))))


def _rules(rng: np.random.Generator) -> list[classes.Rule]:
    n, gap = int(rng.integers(2, 10)), float(rng.uniform(0.01, 0.5))
    over = float(np.nextafter(gap, 1))
    return [
        classes.Rule(name="none", ranges={"samples": (0, n - 1)}),
        classes.Rule(name="gappy", ranges={"samples": (n, np.inf), "gap": (over, 1.0)}),
        classes.Rule(name="good", ranges={"samples": (n, np.inf), "gap": (0.0, gap)}),
        classes.Rule(name="impossible", ranges={"samples": (n, np.inf), "gap": (float(np.nextafter(1.0, 2)), np.inf)}),
    ]


def draw_class_rules(rng: np.random.Generator) -> Finding:
    """Rules that cut the plane without hole or overlap."""
    return classes.class_rules(_rules(rng))


def draw_class_row(rng: np.random.Generator) -> Finding:
    """A row with the class that its rules give."""
    rules = _rules(rng)
    samples, gap = float(rng.integers(0, 20)), float(rng.uniform(0, 1))
    (name,) = classes.classes_of(rules, {"samples": samples, "gap": gap})
    return classes.class_row(rules, {"samples": (samples, samples), "gap": (gap, gap)}, name, label="row")


def draw_rise(rng: np.random.Generator) -> Finding:
    """A limit that the reading can meet."""
    window = rng.uniform(0.01, 1)
    return sensor.rise_time(window, 0.8 * window * rng.uniform(1.01, 5))


def draw_visibility(rng: np.random.Generator) -> Finding:
    """An event much longer than average and period."""
    window = rng.uniform(0.01, 1)
    return sensor.visibility(window * rng.uniform(10, 100), window * rng.uniform(0.1, 2), window)


def draw_dimension(rng: np.random.Generator) -> Finding:
    """One unit, written in two ways."""
    unit, same = [("J", "W·s"), ("J/token", "W·s/token"), ("W", "J/s")][rng.integers(3)]
    return dimensions.dimension(unit, {"a": same, "b": unit})


def draw_percentage(rng: np.random.Generator) -> Finding:
    """Successes over trials with none to two decimals."""
    trials = int(rng.integers(1, 500))
    share = proportions.Share(successes=int(rng.integers(0, trials + 1)), trials=trials)
    return proportions.percentage(share, rounded(100 * share.value, int(rng.integers(0, 3))))


def draw_difference(rng: np.random.Generator) -> Finding:
    """Two shares with one true rate."""
    rate, n = rng.uniform(0.1, 0.9), int(rng.integers(20, 200))
    shares = [proportions.Share(successes=int(rng.binomial(n, rate)), trials=n) for _ in range(2)]
    return proportions.difference(*shares)


def draw_correlation(rng: np.random.Generator) -> Finding:
    """The largest of seven lags of two independent white series."""
    n, lags = int(rng.integers(20, 200)), 7
    x, y = rng.normal(size=n + lags), rng.normal(size=n + lags)
    found = [float(np.corrcoef(x[k : k + n], y[:n])[0, 1]) for k in range(lags)]
    return correlation.correlation(rounded(max(found, key=abs), 3), n, lags=lags)


def draw_detectable(rng: np.random.Generator) -> Finding:
    """A design that is large enough."""
    smallest = float(rng.uniform(0.1, 0.8))
    n = 4
    while correlation.critical(n) > smallest:
        n = int(n * 1.3) + 1
    return correlation.detectable(n, smallest)


def draw_confounding(rng: np.random.Generator) -> Finding:
    """A full factorial, repeated, in random order."""
    arms = [{"a": str(i), "b": str(j), "c": str(k)} for i in range(2) for j in range(2) for k in range(2)] * 2
    return confounding.confounding([arms[i] for i in rng.permutation(len(arms))], "a")


def draw_replicates(rng: np.random.Generator) -> Finding:
    """Runs that differ."""
    return confounding.replicates({str(i): rng.bytes(16).hex() for i in range(4)})


def _allocated(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    costs = rng.choice([0.5, 1.0, 2.0], 8)
    costs[0], costs[1] = 0.5, 2.0
    weights = np.exp(-rng.uniform(0, 1) * costs)
    return rng.multinomial(int(rng.integers(1000, 100_000)), weights / weights.sum()), costs


def draw_allocation(rng: np.random.Generator) -> Finding:
    """The total of an allocation, printed with two decimals."""
    items, costs = _allocated(rng)
    return allocation.allocation_total(items, costs, rounded(allocation.total_cost(items, costs), 2))


def draw_saving(rng: np.random.Generator) -> Finding:
    """The saving from a uniform baseline, with two decimals."""
    items, costs = _allocated(rng)
    total, base = allocation.total_cost(items, costs), allocation.uniform_cost(items, costs)
    return allocation.saving(total, base, rounded(100 * (1 - total / base), 2))


def draw_null_test(rng: np.random.Generator) -> Finding:
    """A baseline that is uniform allocation, with three digits and more."""
    items, costs = _allocated(rng)
    return allocation.null_test(items, costs, significant(allocation.uniform_cost(items, costs), 4))


def draw_preference(rng: np.random.Generator) -> Finding:
    """Uniform or better."""
    return allocation.preference(*_allocated(rng))


def draw_sweep(rng: np.random.Generator) -> Finding:
    """Gibbs allocations of rising strength, and none at all in half of the draws."""
    costs, on = np.array([0.5] * 6 + [2.0] * 2), float(rng.integers(2))
    strengths = [0.0, 0.1, 0.5, 1.0]
    weights = [np.exp(-on * s * costs) for s in strengths]
    return allocation.sweep_direction(strengths, [rng.multinomial(20_000, w / w.sum()) for w in weights], costs)


def draw_agreement(rng: np.random.Generator) -> Finding:
    """One value, rounded differently."""
    value, fine = rng.uniform(0, 100), int(rng.integers(2, 6))
    return agreement.agreement({"here": rounded(value, fine), "there": rounded(round(value, fine), int(rng.integers(0, fine)))})


def draw_overlap(rng: np.random.Generator) -> Finding:
    """Spans that are apart."""
    a, b, c, d = np.sort(rng.uniform(0, 100, 4))
    return events.apart((c, d), (a, b), names=("average", "settling"))


def draw_structure(rng: np.random.Generator) -> Finding:
    """Chapters with sections and references to them."""
    sections = [f"{i}.{j}" for i in range(1, 5) for j in range(1, int(rng.integers(2, 9)))]
    text = "\n".join(f"## {name} Title\nText, see Section {sections[rng.integers(len(sections))]}.\n" for name in sections)
    return structure.structure(structure.sections_of(text), structure.references_of(text))


def draw_cadence(rng: np.random.Generator) -> Finding:
    """A grid with jitter, of which up to 1 % of the ticks are missing."""
    n, period = 1000, float(rng.choice([0.02, 0.1, 1.0]))
    kept = rng.random(n) > rng.uniform(0, 0.01)
    return series.cadence((np.arange(n) * period + rng.normal(0, 0.02 * period, n))[kept], period)


def draw_constant(rng: np.random.Generator) -> Finding:
    """A temperature in whole degrees that moves by a few."""
    return series.constant(np.round(50 + rng.normal(0, 1, 60)), name="temperature")


def draw_affine(rng: np.random.Generator) -> Finding:
    """Power that follows utilisation with 1 % of noise."""
    util = np.round(rng.uniform(0, 100, 300), 1)
    return series.affine(util, np.round(10 + 1.25 * util + rng.normal(0, 1.25, 300), 2), names=("utilisation", "power"))


def draw_stale(rng: np.random.Generator) -> Finding:
    """A new reading in every row."""
    return series.staleness(np.round(100 + rng.normal(0, 5, 300), 2), name="power")


def draw_writers(rng: np.random.Generator) -> Finding:
    """One writer with jitter."""
    return series.writers(np.arange(500) + rng.uniform(-0.4, 0.4, 500))


def draw_smooth(rng: np.random.Generator) -> Finding:
    """A warm-up with noise and steps."""
    t, step = np.arange(600.0), float(rng.choice([0.01, 0.1, 1.0]))
    exact = 40 + rng.uniform(5, 40) * (1 - np.exp(-t / rng.uniform(50, 300))) + rng.normal(0, 0.05, t.size)
    return series.smoothness(np.round(exact / step) * step, name="temperature")


def draw_offset(rng: np.random.Generator) -> Finding:
    """Two series on one clock."""
    a = np.sort(rng.uniform(10, 170, 200))
    return alignment.clock_offset(a, np.arange(180) + rng.uniform(0, 1), tolerance_s=1.0)


def draw_lags(rng: np.random.Generator) -> Finding:
    """Correlations of two noisy series at seven lags."""
    x, y = rng.normal(size=200), rng.normal(size=200)
    lags = np.arange(-3, 4)
    return alignment.lag_symmetry(lags, [float(np.corrcoef(x[3:-3], np.roll(y, k)[3:-3])[0, 1]) for k in lags])


def draw_mean_rate(rng: np.random.Generator) -> Finding:
    """The mean rate of a walk, with its range."""
    walk = np.cumsum(rng.normal(0, 1, 300))
    return trend.mean_rate(rounded((walk[-1] - walk[0]) / 300, 4), rounded(walk.min(), 2), rounded(walk.max(), 2), 300.0)


GENERATORS: Mapping[str, Generator] = {
    "sample count": draw_sample_count, "moment feasibility": draw_moments, "share bounds": draw_shares, "histogram spread": draw_histogram,
    "self-masking detector": draw_masking, "detector reach": draw_reach, "standard error": draw_standard_error,
    "energy uncertainty": draw_energy_uncertainty, "duration from counts": draw_duration, "conservation": draw_conservation,
    "rate": draw_rate, "plausibility": draw_plausibility, "derived column": draw_derived, "slope from a table": draw_slope,
    "first-order heating": draw_heating, "slope resolution": draw_resolution, "early stop": draw_early_stop,
    "optional stopping": draw_stopping, "extreme of a column": draw_extreme, "class rules": draw_class_rules,
    "class of a row": draw_class_row, "sensor rise time": draw_rise, "sensor feasibility": draw_visibility, "dimension": draw_dimension,
    "percentage": draw_percentage, "difference of proportions": draw_difference, "correlation": draw_correlation,
    "detectable correlation": draw_detectable, "confounding": draw_confounding, "replicates": draw_replicates,
    "allocation total": draw_allocation, "saving": draw_saving, "baseline null test": draw_null_test,
    "preference for the cheap": draw_preference, "sweep direction": draw_sweep, "agreement": draw_agreement,
    "overlap of spans": draw_overlap, "document structure": draw_structure, "cadence": draw_cadence, "constant channel": draw_constant,
    "computed channel": draw_affine, "stale values": draw_stale, "two writers": draw_writers, "implausible smoothness": draw_smooth,
    "clock offset": draw_offset, "symmetric lags": draw_lags, "mean rate": draw_mean_rate,
}  # fmt: skip
"""One consistent summary per draw, by check."""
NO_EFFECT = ("difference of proportions", "correlation")
"""Their generators have no effect in them: confirming one is an error too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What one check did on consistent summaries."""

    check: str
    draws: int
    alarms: int
    confirmed: int


def rates(draws: int, *, seed: int = 1) -> list[Rate]:
    """Every check on ``draws`` summaries."""
    out = []
    for index, (name, generate) in enumerate(GENERATORS.items()):
        rng = np.random.default_rng([seed, index])
        effects = [generate(rng).effect for _ in range(draws)]
        confirmed = sum(effect is Effect.CONFIRMS for effect in effects) if name in NO_EFFECT else 0
        out.append(Rate(check=name, draws=draws, alarms=sum(effect.accuses for effect in effects), confirmed=confirmed))
    return out


def table(found: list[Rate]) -> str:
    """Markdown: check, what it needs, what it proves, how often it accused a sound report."""
    lines = ["| check | needs | proves, where it finds something | false alarms |", "|---|---|---|---|"]
    known = {rate.check: rate for rate in found}
    for name, check in CATALOGUE.items():
        rate = known.get(name)
        if rate is None:
            text = "repeats a declaration"
        else:
            text = f"{rate.alarms} of {rate.draws:,}".replace(",", " ")
            if name in NO_EFFECT:
                text += f"; confirmed by chance {rate.confirmed / rate.draws:.1%}"
        lines.append(f"| {name} | {check.needs} | {check.proves} | {text} |")
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Put ``text`` between the markers of ``path``."""
    page = path.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        sys.exit(f"{path} has no markers {BEGIN} and {END}")
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    text = table(rates(arguments.draws))
    print(text)
    if arguments.write:
        write(arguments.write, text)


if __name__ == "__main__":
    main()
