"""Do two series of one session move together? Correlation with honest numbers of pairs, lags, surrogates, and the design.

Both series stand on common rows already (:mod:`~pytest_physics.metrology.matching`).

Two autocorrelated series have ``n_eff = n / (1 + 2 Σ (1 − k/n) ρ_a(k) ρ_b(k))`` independent pairs (Bretherton, lags to n/4). Intervals are
Fisher's with n_eff (for ranks with the variance of Bonett and Wright). The probability of chance comes from *all* circular shifts of one
series against the other: the statistic is the largest |r| within the lags searched, so that searching is paid for. Every shift counts, the
near ones too: leaving them out would be wrong by the width of the peak. It needs no random numbers; its smallest possible value is
(2 L + 1) / n for L lags.

Sign: lag > 0 means that ``a`` leads, r(k) = corr(a(t), b(t + k)). A table that is symmetric to the last digit cannot tell, and is refused
as such.

Where both series drift, two trends correlate whatever they are; then the detrended series and the first differences are the primary
analyses, and both must show it, with one sign. A correlation that vanishes once the load is given belongs to the load. A word is earned
only where the interval excludes the band below: weak (not 0), moderate (|r| ≥ 0.3), strong (|r| ≥ 0.7).

Assumes even spacing of the slower series and stationarity after detrending. Fails softly (intervals cover 91 % instead of 95 %) below
about ten effective pairs; fails to decide where n < (2 L + 1) / 0.05, and says so.

References: Bretherton et al., J. Climate 12 (1999) 1990; Bonett and Wright, Psychometrika 65 (2000) 23; Theiler et al., Physica D 58
(1992) 77, for surrogates; RLE study §4 and §7.2 for what happens without. Measured: ``docs/coupling-study.md``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage, stats

from pytest_physics.metrology.autocorrelation import FloatArray, autocovariance, series_mean
from pytest_physics.metrology.forensics.alignment import lag_symmetry
from pytest_physics.metrology.forensics.correlation import effective_pairs, p_value
from pytest_physics.metrology.forensics.finding import Effect
from pytest_physics.metrology.matching import MIN_PAIRS, Aligned
from pytest_physics.metrology.refusal import refuse
from pytest_physics.metrology.uncertainty import Gate, coverage_factor

IntArray = NDArray[np.int64]
Method = Literal["Pearson", "Spearman"]

ALPHA = 0.05
MODERATE = 0.3
STRONG = 0.7
WORDS = ("not supported", "weak", "moderate", "strong")
DESIGN_MARGIN = 1.15
"""Interval and surrogates must both exclude chance, and the lag-1 correlations of a pilot run are estimates."""
DETREND_ORDER = 3
"""A cubic takes out a warming and a decaying loss alike."""
AnalysisName = Literal["as measured", "detrended", "first differences"]
RAW: AnalysisName = "as measured"
DETRENDED: AnalysisName = "detrended"
DIFFERENCES: AnalysisName = "first differences"


# --- correlation ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """A correlation coefficient with its effective number of pairs and interval."""

    method: Method
    r: float
    n: int
    """Distinct pairs."""
    n_eff: float
    """Effective number of independent pairs."""
    low: float
    """Lower end of the interval, 95 % over all ``comparisons`` together."""
    high: float
    p: float
    """Two-sided probability of so large an |r| by chance, from n_eff alone and one comparison; the surrogates decide."""
    comparisons: int = 1
    """Number of coefficients among which this one was looked up."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def effective_n(a: FloatArray, b: FloatArray) -> float:
    """Bretherton's effective number of pairs, shapes (N,), lags to N/4; between 1 and N."""
    n = a.size
    covariance_a, covariance_b = autocovariance(a / (np.ptp(a) or 1.0)), autocovariance(b / (np.ptp(b) or 1.0))
    if covariance_a[0] <= 0 or covariance_b[0] <= 0:
        return float(n)
    products = covariance_a * covariance_b / (covariance_a[0] * covariance_b[0]) * (1 - np.arange(n) / n)
    return float(np.clip(n / max(1.0, 1 + 2 * float(products[1 : n // 4].sum())), 1.0, n))


def correlation(a: ArrayLike, b: ArrayLike, *, method: Method = "Pearson", controls: int = 0, comparisons: int = 1) -> Correlation:
    """Correlation of two series of shape (N,); pairs with a missing value are left out.

    Parameters
    ----------
    controls
        Number of other series that were regressed out of both.
    comparisons
        Coefficients among which this one is looked up: lags, analyses. The interval is widened for all of them (Šidák).
    """
    x, y = _finite_pairs(a, b)
    if method == "Spearman":
        x, y = stats.rankdata(x), stats.rankdata(y)
    n_eff = effective_n(x, y)
    r = float(np.clip(_pearson(x, y), -1.0, 1.0))
    low, high = _interval(r, n_eff - controls, method=method, comparisons=comparisons)
    return Correlation(
        method=method, r=r, n=x.size, n_eff=n_eff, low=low, high=high,
        p=p_value(r, n_eff - controls) if n_eff - controls > 2 else 1.0, comparisons=comparisons,
    )  # fmt: skip


def _finite_pairs(a: ArrayLike, b: ArrayLike) -> tuple[FloatArray, FloatArray]:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    _require_pairs(x, y)
    return x, y


def _require_pairs(x: FloatArray, y: FloatArray) -> None:
    if x.size < MIN_PAIRS:
        refuse(
            "pairs", scope="correlation", measured=float(x.size), limit=float(MIN_PAIRS), unit="pairs",
            reason=f"there are {x.size} pairs (needed: at least {MIN_PAIRS})", remedy="record longer, or sample faster",
        )  # fmt: skip
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        refuse(
            "varying series", scope="correlation", measured=0.0, limit=None, unit="", reason="one of the series is a constant",
            remedy="a constant correlates with nothing: check whether the channel was measured at all",
        )  # fmt: skip


def _pearson(x: FloatArray, y: FloatArray) -> float:
    dx, dy = x - x.mean(), y - y.mean()
    spread = math.sqrt(float(dx @ dx) * float(dy @ dy))
    return float(dx @ dy) / spread if spread > 0 else 0.0


def _interval(r: float, n_eff: float, *, method: Method, comparisons: int) -> tuple[float, float]:
    """Fisher's interval; all of [−1, 1] where there are too few pairs for one."""
    if n_eff <= 3 or abs(r) >= 1:
        return (r, r) if abs(r) >= 1 and n_eff > 3 else (-1.0, 1.0)
    inflation = 1 + r * r / 2 if method == "Spearman" else 1.0
    reach = _quantile(comparisons) * math.sqrt(inflation / (n_eff - 3))
    return math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach)


def _quantile(comparisons: int) -> float:
    """Two-sided normal quantile for 5 % over independent ``comparisons`` together."""
    return float(stats.norm.isf((1 - (1 - ALPHA) ** (1 / comparisons)) / 2))


def strength(low: float, high: float) -> str:
    """The word that an interval of r has earned: strong, moderate, weak, or "not supported"."""
    surely = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return WORDS[sum(surely > limit for limit in (0.0, MODERATE, STRONG))]


# --- lags and surrogates ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LagTable:
    """Correlations at lags; lag > 0 means that ``a`` leads."""

    lags: IntArray
    """Lags in rows, −L … L."""
    r: FloatArray
    period_s: float

    @property
    def peak_lag(self) -> int:
        """Lag of the largest |r|, in rows."""
        return int(self.lags[np.argmax(np.abs(self.r))])

    @property
    def peak_lag_s(self) -> float:
        """The same in seconds."""
        return self.peak_lag * self.period_s


def lag_table(a: ArrayLike, b: ArrayLike, *, max_lag: int, period_s: float = 1.0) -> LagTable:
    """Pearson's r(k) = corr(a(t), b(t + k)) over the pairs that overlap, for |k| ≤ ``max_lag`` rows."""
    x, y = _finite_pairs(a, b)
    if x.size < max_lag + MIN_PAIRS:
        refuse(
            "lags", scope="lag table", measured=float(max_lag), limit=float(x.size - MIN_PAIRS), unit="rows",
            reason=f"{max_lag} lags of {x.size} pairs leave fewer than {MIN_PAIRS} to compare",
            remedy="search fewer lags, or record longer",
        )  # fmt: skip
    lags = np.arange(-max_lag, max_lag + 1)
    r = [_pearson(*_shifted(x, y, k)) for k in lags.tolist()]
    return LagTable(lags=lags, r=np.array(r), period_s=period_s)


def symmetry_gate(lags: ArrayLike, r: ArrayLike, *, scope: str = "lag table") -> Gate:
    """Alarm for a lag table that is symmetric to the last digit: computed with one direction on both sides, it cannot say who leads."""
    found = lag_symmetry(lags, r)
    passed = found.effect is not Effect.INVALIDATES
    return Gate(
        name="lag directions", scope=scope, measured=None, limit=None, unit="", passed=passed, reason=found.sentence,
        remedy="" if passed else "shift one series for negative lags and the other for positive ones",
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SurrogateTest:
    """Share of all circular shifts with as large a correlation within the lags searched."""

    statistic: float
    """Largest |r| within the lags, circular."""
    p: float
    smallest_p: float
    """What no correlation, however strong, could have gone below: (2 L + 1) / n."""
    n: int
    max_lag: int


def circular_shift_test(a: ArrayLike, b: ArrayLike, *, max_lag: int = 0) -> SurrogateTest:
    """Largest |r| over |lag| ≤ ``max_lag`` rows against the same of every circular shift of ``b``; O(n log n), no random numbers."""
    x, y = _finite_pairs(a, b)
    n = x.size
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    r = np.abs(fft.irfft(np.conj(fft.rfft(x)) * fft.rfft(y), n)) / n
    largest = ndimage.maximum_filter1d(r, 2 * max_lag + 1, mode="wrap")
    observed = float(largest[0])
    return SurrogateTest(
        statistic=observed, p=float(np.mean(largest >= observed - 1e-12)), smallest_p=min(1.0, (2 * max_lag + 1) / n), n=n, max_lag=max_lag
    )


# --- one question, answered -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """One way to look at the same two series."""

    name: AnalysisName
    pearson: Correlation
    """At lag 0."""
    spearman: Correlation
    """At lag 0."""
    peak: Correlation
    """Pearson's r at the lag of the largest |r|; its interval is widened for all lags."""
    lags: LagTable
    surrogates: SurrogateTest
    partial: Correlation | None
    """At the same lag, with the load (and its square) regressed out of both; None where no load was given."""

    @property
    def word(self) -> str:
        """Strength that the widened interval has earned."""
        return strength(self.peak.low, self.peak.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftAndNoise:
    """Two different things that a mean of |dx/dt| mixes up."""

    drift_per_s: float
    """Slope of the least-squares line, in the quantity's unit per second."""
    low_per_s: float
    high_per_s: float
    noise: float
    """Standard deviation about that line, in the quantity's unit; depends on the sensor's bandwidth, not on the sampling period."""
    window_s: float
    n: int

    @property
    def drifts(self) -> bool:
        """Whether the drift's 95 % interval excludes 0."""
        return self.low_per_s > 0 or self.high_per_s < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupling:
    """Whether two series are coupled, with everything that was looked at."""

    names: tuple[str, str]
    analyses: Mapping[AnalysisName, Analysis]
    primary: tuple[AnalysisName, ...]
    """Names of the analyses that decide: the raw series, or detrended and differences where both drift."""
    trends: tuple[DriftAndNoise, DriftAndNoise]
    p: float
    """Largest surrogate p of the primary analyses: all of them must show it."""
    supported: bool
    word: str
    """weak, moderate, strong, or "not supported"."""
    reason: str
    gates: tuple[Gate, ...]

    @property
    def decisive(self) -> Analysis:
        """The primary analysis with the largest p: the weakest link."""
        return max((self.analyses[name] for name in self.primary), key=lambda found: found.surrogates.p)


def couple(
    aligned: Aligned, a: str, b: str, *, max_lag_s: float = 0.0, given: Sequence[str] = (), scope: str = ""
) -> Coupling:  # fmt: skip
    """Judge whether columns ``a`` and ``b`` are coupled at any lag up to ``max_lag_s`` either way, ``given`` columns (load) regressed out.

    The range of lags must be declared before the data are looked at.
    """
    columns = [aligned.columns[name] for name in (a, b, *given)]
    known = np.isfinite(np.column_stack(columns)).all(axis=1)
    t_s = aligned.t_s[known]
    x, y, *controls = (column[known] for column in columns)
    _require_pairs(x, y)
    max_lag = round(max_lag_s / aligned.period_s)
    trends = (trend(t_s, x), trend(t_s, y))
    primary: tuple[AnalysisName, ...] = (DETRENDED, DIFFERENCES) if trends[0].drifts and trends[1].drifts else (RAW,)
    question = _Question(
        t_s=t_s, x=x, y=y, controls=tuple(controls), max_lag=max_lag, period_s=aligned.period_s,
        comparisons=2 * max_lag + 1,
    )  # fmt: skip
    analyses = {name: question.analysis(name) for name in (RAW, DETRENDED, DIFFERENCES)}
    return _judged((a, b), analyses, primary, trends, scope=scope or f"{a} and {b}", load=" and ".join(given))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """Two series, what is given, and how far is searched."""

    t_s: FloatArray
    x: FloatArray
    y: FloatArray
    controls: tuple[FloatArray, ...]
    max_lag: int
    period_s: float
    comparisons: int

    def analysis(self, name: AnalysisName) -> Analysis:
        """The question in one of its three forms."""
        u, v = self._prepared(name, self.x), self._prepared(name, self.y)
        lags = lag_table(u, v, max_lag=self.max_lag, period_s=self.period_s)
        return Analysis(
            name=name, pearson=correlation(u, v), spearman=correlation(u, v, method="Spearman"),
            peak=correlation(*_shifted(u, v, lags.peak_lag), comparisons=self.comparisons), lags=lags,
            surrogates=circular_shift_test(u, v, max_lag=self.max_lag), partial=self._partial(name, u, v, lags.peak_lag),
        )  # fmt: skip

    def _partial(self, name: AnalysisName, u: FloatArray, v: FloatArray, lag: int) -> Correlation | None:
        if not self.controls:
            return None
        load = [self._prepared(name, control) for control in self.controls]
        pair = _shifted(residuals(u, load), residuals(v, load), lag)
        return correlation(*pair, controls=2 * len(load), comparisons=self.comparisons)

    def _prepared(self, name: AnalysisName, values: FloatArray) -> FloatArray:
        if name == DIFFERENCES:
            return np.diff(values)
        return detrended(self.t_s, values) if name == DETRENDED else values


def _shifted(a: FloatArray, b: FloatArray, lag: int) -> tuple[FloatArray, FloatArray]:
    """The parts of both that overlap when ``b`` is read ``lag`` rows later."""
    n = a.size
    return a[max(0, -lag) : n - max(0, lag)], b[max(0, lag) : n - max(0, -lag)]


def detrended(t_s: FloatArray, values: FloatArray) -> FloatArray:
    """``values`` less their cubic in time."""
    return values - _cubic(t_s, values)[0]


def trend(t_s: FloatArray, values: FloatArray) -> DriftAndNoise:
    """Linear part of a cubic in time, with a 95 % interval from what is left of the values.

    A line alone would leave the bend of a decaying loss in its residuals, which then seem so correlated that no slope is beyond doubt.
    """
    fitted, coefficients = _cubic(t_s, values)
    left = values - fitted
    span_s = max(float(np.ptp(t_s)), 1e-12)
    scatter = series_mean(left) if np.ptp(left) > 0 else None
    u = math.sqrt(3.0) * scatter.u if scatter else 0.0  # the mean square of the linear part is 1/3
    reach = coverage_factor(max(1.0, (scatter.dof if scatter else math.inf) - DETREND_ORDER)) * u
    value = float(coefficients[1])
    return DriftAndNoise(
        drift_per_s=2 * value / span_s, low_per_s=2 * (value - reach) / span_s, high_per_s=2 * (value + reach) / span_s,
        noise=float(left.std()), window_s=span_s, n=values.size,
    )  # fmt: skip


def _cubic(t_s: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Fitted cubic and its Legendre coefficients over the span."""
    at = 2 * (t_s - t_s[0]) / max(float(np.ptp(t_s)), 1e-12) - 1
    basis = np.polynomial.legendre.legvander(at, DETREND_ORDER)
    coefficients = np.asarray(np.linalg.lstsq(basis, values)[0], dtype=np.float64)
    return np.asarray(basis @ coefficients, dtype=np.float64), coefficients


def residuals(values: FloatArray, controls: Sequence[FloatArray]) -> FloatArray:
    """``values``, shape (N,), less their least-squares fit on the controls and their squares."""
    basis = [np.ones(values.size)]
    for control in controls:
        scaled = (control - control.mean()) / (control.std() or 1.0)
        basis += [scaled, scaled**2]
    matrix = np.column_stack(basis)
    return np.asarray(values - matrix @ np.linalg.lstsq(matrix, values)[0], dtype=np.float64)


def _judged(
    names: tuple[str, str],
    analyses: Mapping[AnalysisName, Analysis],
    primary: tuple[AnalysisName, ...],
    trends: tuple[DriftAndNoise, DriftAndNoise],
    *,
    scope: str,
    load: str,
) -> Coupling:
    deciding = [analyses[name] for name in primary]
    weakest = max(deciding, key=lambda found: found.surrogates.p)
    p = weakest.surrogates.p
    one_sign = len({found.peak.r > 0 for found in deciding}) == 1
    shown = p <= ALPHA and one_sign and all(found.peak.excludes_zero for found in deciding)
    explained = any(found.partial is not None and not found.partial.excludes_zero for found in deciding)
    word = min((found.word for found in deciding), key=WORDS.index) if shown and not explained else WORDS[0]
    gates = (_resolution_gate(weakest, scope), symmetry_gate(weakest.lags.lags, weakest.lags.r, scope=scope))
    return Coupling(
        names=names, analyses=analyses, primary=primary, trends=trends, p=p, supported=word != WORDS[0], word=word,
        reason=_reason(weakest, p, word, load=load if explained else "", beside=_disagreement(deciding)), gates=gates,
    )  # fmt: skip


def _resolution_gate(best: Analysis, scope: str) -> Gate:
    floor = best.surrogates.smallest_p
    passed = floor <= ALPHA
    n, lags = best.surrogates.n, 2 * best.surrogates.max_lag + 1
    return Gate(
        name="room for surrogates", scope=scope, measured=floor, limit=ALPHA, unit="1", passed=passed,
        reason=f"{n} pairs and {lags} lags leave a smallest possible p of {floor:.3g} (limit {ALPHA:g})",
        remedy="" if passed else f"search fewer lags, or record at least {math.ceil(n * floor / ALPHA)} pairs",
    )  # fmt: skip


def _disagreement(deciding: Sequence[Analysis]) -> str:
    """What keeps a coupling from being shown although the weakest analysis alone shows one."""
    if len({found.peak.r > 0 for found in deciding}) > 1:
        return "the signs differ: " + ", ".join(f"{found.name} r = {found.peak.r:+.3f}" for found in deciding)
    holding = next((found for found in deciding if not found.peak.excludes_zero), None)
    return "" if holding is None else f"{holding.name} holds 0 ({holding.peak.low:+.2f} to {holding.peak.high:+.2f})"


def _reason(best: Analysis, p: float, word: str, *, load: str, beside: str) -> str:
    peak = best.peak
    numbers = (
        f"{best.name}: r = {peak.r:+.3f} ({peak.low:+.2f} to {peak.high:+.2f}) at lag {best.lags.peak_lag_s:+.3g} s, {peak.n} pairs, "
        f"{peak.n_eff:.3g} effective, p = {p:.3g} over circular shifts and lags"
    )
    if load and best.partial is not None:
        return f"not supported: given {load}, r = {best.partial.r:+.3f} ({best.partial.low:+.2f} to {best.partial.high:+.2f}); {numbers}"
    return f"{word}: {numbers}" + (f"; {beside}" if beside and word == WORDS[0] else "")


# --- replicates -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicateNull:
    """What correlations bit-identical replicates give without any coupling, and what they give together."""

    r: FloatArray
    """Of each replicate, shape (R,)."""
    mean: float
    low: float
    """95 % interval of the mean, from the spread between replicates (Student's t, R − 1, on Fisher's scale)."""
    high: float
    null_r: FloatArray
    """Of the driver with the difference of each pair of replicates, in which anything common to them is gone."""
    noise_floor: float
    """Standard deviation of ``null_r`` about 0: an |r| of one session below twice this is noise."""

    @property
    def supported(self) -> bool:
        """Whether the interval of the mean excludes 0 and the mean is above twice the noise floor of a mean of R."""
        return (self.low > 0 or self.high < 0) and abs(self.mean) > 2 * self.noise_floor / math.sqrt(self.r.size)


def identical(series: Mapping[str, ArrayLike]) -> tuple[tuple[str, ...], ...]:
    """Groups of names whose series are equal to the last bit: replicates of one run, whatever they are called."""
    groups: dict[bytes, list[str]] = {}
    for name, values in series.items():
        groups.setdefault(np.asarray(values, dtype=np.float64).tobytes(), []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def replicate_null(driver: ArrayLike, responses: Sequence[ArrayLike]) -> ReplicateNull:
    """Noise floor from R ≥ 3 ``responses``, shape (N,) each, to one and the same ``driver``, shape (N,), all on its steps."""
    x = np.asarray(driver, dtype=np.float64)
    y = [np.asarray(values, dtype=np.float64) for values in responses]
    if len(y) < 3 or any(values.shape != x.shape for values in y):
        refuse(
            "replicates", scope="noise floor", measured=float(len(y)), limit=3.0, unit="replicates",
            reason=f"there are {len(y)} replicates of lengths {sorted({v.size for v in y})}, the driver has {x.size} steps",
            remedy="repeat the seeded run at least three times, and align each on its steps",
        )  # fmt: skip
    r = np.array([_pearson(*_finite_pairs(x, values)) for values in y])
    standard = [(values - np.nanmean(values)) / np.nanstd(values) for values in y]
    null = np.array([_pearson(*_finite_pairs(x, first - second)) for first, second in itertools.combinations(standard, 2)])
    z = np.arctanh(r)
    reach = float(stats.t.isf(ALPHA / 2, r.size - 1)) * float(z.std(ddof=1)) / math.sqrt(r.size)
    centre = float(z.mean())
    return ReplicateNull(
        r=r, mean=math.tanh(centre), low=math.tanh(centre - reach), high=math.tanh(centre + reach), null_r=null,
        noise_floor=math.sqrt(float(np.mean(null**2))),
    )  # fmt: skip


# --- design -----------------------------------------------------------------------------------------------------------


def needed_pairs(r: float = MODERATE, *, lags: int = 1, power: float = 0.9) -> float:
    """Independent pairs from which a correlation ``r`` is found with probability ``power`` at 5 %, over ``lags`` lags (Fisher)."""
    if not 0 < abs(r) < 1:
        raise ValueError(f"'r' must be between 0 and 1 in size (got {r}).")
    return float(((_quantile(lags) + stats.norm.ppf(power)) / math.atanh(abs(r))) ** 2 + 3)


def steady_zone_s(
    r: float = MODERATE, *, period_s: float, lag1: tuple[float, float] = (0.0, 0.0), max_lag_s: float = 0.0, power: float = 0.9
) -> float:
    """How long the steady zone must be for a correlation ``r`` to be found with probability ``power``.

    Parameters
    ----------
    period_s
        Spacing of the slower series: one step, or one telemetry row.
    lag1
        Lag-1 correlations of both series at that spacing, from a pilot run (detrended).
    max_lag_s
        Lags that will be searched, either way.
    """
    lags = 2 * round(max_lag_s / period_s) + 1
    pairs = needed_pairs(r, lags=lags, power=power) / effective_pairs(1.0, *lag1)
    return DESIGN_MARGIN * max(pairs, lags / ALPHA) * period_s
