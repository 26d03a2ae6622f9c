"""Estimates: a value with its uncertainty budget, and arithmetic that keeps both.

An estimate carries signed contributions (sensitivity × standard uncertainty), each with an identity, its *source*. Two contributions
with the same source are the same error, fully correlated; different sources are independent. So the gain of a card cancels in the
ratio of two energies measured with it, without anybody saying so. This is linear propagation (GUM, JCGM 100:2008, §5), with the
effective degrees of freedom of Welch–Satterthwaite (G.4.1) and the coverage factor ``t_{0.975}(ν)``.

Where one rectangular term makes up more than 0.7 of u_c, the error is no normal variable: 1.96·u would be wider than the rectangle
itself. There the distribution of the sum is used (JCGM 101), as the exact convolution of that rectangle with Student's t of all the
rest, which has a closed form: no draws, the same number every time. :func:`expanded_uncertainty`, :func:`probability_below`.

Every estimate also carries its *recipe*: how to compute it again from a run's raw artifacts. Arithmetic composes recipes.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from scipy import optimize, special

from pytest_physics.metrology.quality import Provenance, Quality, allowed
from pytest_physics.units import Unit, quantity_text

UNRECORDED = "unrecorded"
"""Operation of a recipe that does not exist: nobody can compute such an estimate again, and no claim accepts it."""
COVERAGE = 0.95
"""Coverage probability of every stated interval."""

DOMINATING_SHARE = 0.7
"""Share of u_c from which a rectangular term shapes the distribution of the sum."""
NORMAL_DOF = 1e6
"""More degrees of freedom are a normal distribution."""
FEWEST_DOF = 1.5
"""The convolution below needs a Student's t that has a mean; fewer degrees of freedom are taken as these."""

Evaluation = Literal["A", "B"]
Distribution = Literal["normal", "rectangular"]
Operator = Literal["<=", "<", ">=", ">"]


def coverage_factor(dof: float, coverage: float = COVERAGE) -> float:
    """Two-sided quantile, 95 % by default, of Student's t with ``dof`` > 0 degrees of freedom (infinite allowed)."""
    upper = 0.5 + coverage / 2
    return float(special.ndtri(upper) if math.isinf(dof) else special.stdtrit(dof, upper))


_GIVEN = itertools.count(1)
"""Numbers the estimates that were given, so that two of equal value are not taken for one error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One line of an uncertainty budget."""

    label: str
    """What it is, in words: "gain", "noise", "baseline"."""
    source: str
    """Identity of the error; equal sources are the same error."""
    contribution: float
    """Signed sensitivity × standard uncertainty, in the estimate's unit."""
    dof: float = math.inf
    """Degrees of freedom of the standard uncertainty."""
    evaluation: Evaluation = "B"
    """GUM evaluation: A by statistics, B by other knowledge."""
    distribution: Distribution = "normal"
    common_scale: bool = False
    """The instrument's gain: stated once per run and left apart in the quality tiers."""

    def scaled(self, factor: float) -> Component:
        """The same error seen through a sensitivity ``factor``."""
        return replace(self, contribution=self.contribution * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to compute an estimate again: an operation, its inputs, and its parameters (JSON values only)."""

    op: str
    inputs: tuple[Recipe, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As nested dictionaries."""
        out: dict[str, Any] = {"op": self.op}
        if self.inputs:
            out["inputs"] = [recipe.to_json() for recipe in self.inputs]
        if self.parameters:
            out["parameters"] = dict(self.parameters)
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """Inverse of :meth:`to_json`."""
        return cls(
            op=str(data["op"]),
            inputs=tuple(cls.from_json(part) for part in data.get("inputs", ())),
            parameters=dict(data.get("parameters", {})),
        )

    def leaves(self) -> tuple[Recipe, ...]:
        """The recipes without inputs, left to right."""
        if not self.inputs:
            return (self,)
        return tuple(leaf for recipe in self.inputs for leaf in recipe.leaves())


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A named precondition with its measured value, limit, result and reason."""

    name: str
    """What is checked: "idle baseline", "throttling", "sampler gaps"."""
    scope: str
    """Where: a window, a phase, an instrument."""
    measured: float | None
    """Measured value in ``unit``; None where nothing was measured."""
    limit: float | None
    """Limit in ``unit``; None where the condition has no number."""
    unit: str
    passed: bool
    reason: str
    """One sentence with value and limit, whatever the result."""
    remedy: str = ""
    """What to do about it, where it failed."""
    warning: bool = False
    """A failed warning is shown and does not make a claim INVALID."""

    @property
    def refuses(self) -> bool:
        """Whether this gate makes a claim INVALID."""
        return not self.passed and not self.warning


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with unit, uncertainty budget, quality, provenance, gates and recipe."""

    value: float
    unit: str
    components: tuple[Component, ...] = ()
    quality: Quality = Quality.BILLABLE
    """Worst tier among the inputs; an exact number has the best."""
    provenance: Provenance = Provenance.MEASURED
    estimator: str = ""
    """Name of the estimator behind the value, never silent: "counter", "extended window", …"""
    gates: tuple[Gate, ...] = ()
    recipe: Recipe = field(default_factory=lambda: Recipe(op=UNRECORDED))

    @classmethod
    def exact(cls, value: float, unit: str = "1") -> Estimate:
        """A number without uncertainty: a count, a definition."""
        recipe = Recipe(op="constant", parameters={"value": float(value), "unit": unit})
        return cls(value=float(value), unit=unit, estimator="exact", recipe=recipe)

    @classmethod
    def given(
        cls,
        value: float,
        unit: str,
        *,
        u: float,
        dof: float = math.inf,
        label: str = "stated",
        provenance: Provenance = Provenance.ASSUMED,
        source: str | None = None,
    ) -> Estimate:
        """A number from elsewhere, with standard uncertainty ``u``; a claim on it is at most as good as its provenance.

        Two numbers are independent unless they are given the same ``source``, the identity of their error.
        """
        if not (0 <= u < math.inf and dof > 0):
            raise ValueError(f"'u' must be finite and >= 0, and 'dof' > 0 (got u={u}, dof={dof}).")
        parameters = {
            "value": float(value), "unit": unit, "u": float(u), "dof": dof if math.isfinite(dof) else None,
            "label": label, "provenance": provenance.value, "source": source or f"given|{label}|{next(_GIVEN)}",
        }  # fmt: skip
        component = Component(label=label, source=str(parameters["source"]), contribution=float(u), dof=dof)
        return cls(
            value=float(value), unit=unit, components=(component,) if u else (), provenance=provenance,
            estimator="given", recipe=Recipe(op="given", parameters=parameters),
        )  # fmt: skip

    # --- uncertainty -------------------------------------------------------------------------------------------------

    @property
    def u(self) -> float:
        """Combined standard uncertainty, in ``unit``."""
        return math.hypot(*(c.contribution for c in _merged(self.components)))

    @property
    def dof(self) -> float:
        """Effective degrees of freedom (Welch–Satterthwaite)."""
        return _effective_dof(_merged(self.components))

    @property
    def expanded(self) -> float:
        """Expanded uncertainty U for 95 % coverage, in ``unit``."""
        return expanded_uncertainty(self.components)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval ``(value - U, value + U)``."""
        expanded = self.expanded
        return self.value - expanded, self.value + expanded

    @property
    def relative_without_scale(self) -> float:
        """Expanded uncertainty over value with the common scale left apart; infinite where the value is 0 or NaN."""
        if not self.value or math.isnan(self.value):
            return math.inf
        return expanded_uncertainty(c for c in self.components if not c.common_scale) / abs(self.value)

    def probability_below(self, margin: float) -> float:
        """Probability that the error, true value minus estimate, is at most ``margin`` (in ``unit``)."""
        return probability_below(self.components, margin)

    @property
    def budget(self) -> tuple[Component, ...]:
        """Components with equal sources merged, largest first."""
        return tuple(sorted(_merged(self.components), key=lambda c: -abs(c.contribution)))

    # --- arithmetic --------------------------------------------------------------------------------------------------

    def __add__(self, other: Estimate | float) -> Estimate:
        return _sum(self, _estimate(other, self.unit), 1.0)

    def __sub__(self, other: Estimate | float) -> Estimate:
        return _sum(self, _estimate(other, self.unit), -1.0)

    def __radd__(self, other: float) -> Estimate:
        return _estimate(other, self.unit) + self

    def __rsub__(self, other: float) -> Estimate:
        return _estimate(other, self.unit) - self

    def __mul__(self, other: Estimate | float) -> Estimate:
        b = _estimate(other, "1")
        unit = Unit.parse(self.unit) * Unit.parse(b.unit)
        return _combined("multiply", self.value * b.value, unit, [(self, b.value), (b, self.value)])

    def __truediv__(self, other: Estimate | float) -> Estimate:
        b = _estimate(other, "1")
        unit = Unit.parse(self.unit) / Unit.parse(b.unit)
        if b.value == 0:
            return _combined("divide", math.nan, unit, [(self, math.nan), (b, math.nan)])
        value = self.value / b.value
        quotient = _combined("divide", value, unit, [(self, 1 / b.value), (b, -value / b.value)])
        return replace(quotient, gates=(*quotient.gates, *_divisor_gates(b)))

    def __rmul__(self, other: float) -> Estimate:
        return _estimate(other, "1") * self

    def __rtruediv__(self, other: float) -> Estimate:
        return _estimate(other, "1") / self

    def __neg__(self) -> Estimate:
        return self * -1.0

    # --- comparison --------------------------------------------------------------------------------------------------

    def __le__(self, limit: Estimate | float) -> Comparison:
        return Comparison.of(self, "<=", limit)

    def __lt__(self, limit: Estimate | float) -> Comparison:
        return Comparison.of(self, "<", limit)

    def __ge__(self, limit: Estimate | float) -> Comparison:
        return Comparison.of(self, ">=", limit)

    def __gt__(self, limit: Estimate | float) -> Comparison:
        return Comparison.of(self, ">", limit)

    def __bool__(self) -> bool:
        __tracebackhide__ = True
        raise TypeError(f"an estimate ({self}) has no truth value: compare it with a limit, as in 'assert energy <= 5.0'.")

    def __str__(self) -> str:
        return quantity_text(self.value, self.expanded, self.unit)


truth_value_judge: ContextVar[Callable[[Comparison], bool] | None] = ContextVar("truth_value_judge", default=None)
"""Who judges a comparison that is asked for its truth value; set while a claim is tested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An estimate against a limit, not yet judged."""

    estimate: Estimate
    operator: Operator
    limit: float
    """In the estimate's unit."""

    @classmethod
    def of(cls, estimate: Estimate, operator: Operator, limit: Estimate | float) -> Comparison:
        """Compare with a number, or with another estimate (then the difference is compared with 0)."""
        if isinstance(limit, Estimate):
            return cls(estimate=estimate - limit, operator=operator, limit=0.0)
        if isinstance(limit, bool | str) or not math.isfinite(float(limit)):
            raise TypeError(f"a limit is a finite number or an estimate (got {limit!r}).")
        return cls(estimate=estimate, operator=operator, limit=float(limit))

    def __bool__(self) -> bool:
        __tracebackhide__ = True  # a test that fails here is shown at its own line
        judge = truth_value_judge.get()
        if judge is None:
            raise TypeError(
                f"'{self}' has no truth value here: it has an interval. Pass it to judge(...), or assert it in a test that uses "
                "the 'judge' fixture."
            )
        return judge(self)

    def __str__(self) -> str:
        unit = "" if self.estimate.unit == "1" else f" {self.estimate.unit}"
        return f"{self.estimate} {self.operator} {self.limit:g}{unit}"


def relative_uncertainty(estimate: Estimate) -> Estimate:
    """Expanded uncertainty over value, as a number that is itself exact: how well something is known can be claimed too."""
    value = estimate.expanded / abs(estimate.value) if estimate.value else math.inf
    known = _combined("relative_uncertainty", value, Unit(), [(estimate, 0.0)])
    return replace(known, components=())


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of R repetitions of one quantity, all in one unit.

    Errors common to the repetitions stay as they are. The independent part is the larger of what the budgets say and what the
    scatter between the repetitions shows (standard error, R − 1 degrees of freedom): an unknown effect must not be hidden by an
    optimistic budget.
    """
    if not estimates:
        raise ValueError("the mean of no estimates does not exist; measure at least one repetition.")
    n = len(estimates)
    total = estimates[0]
    for other in estimates[1:]:
        Unit.parse(total.unit).require_same(Unit.parse(other.unit), "average")
    value = math.fsum(e.value for e in estimates) / n
    combined = _combined("mean", value, Unit.parse(total.unit), [(e, 1 / n) for e in estimates])
    return replace(combined, components=_with_scatter(combined.components, estimates))


def _with_scatter(components: tuple[Component, ...], estimates: Sequence[Estimate]) -> tuple[Component, ...]:
    """Replace independent contributions by the between-repetition scatter where that is larger."""
    values = [e.value for e in estimates]
    n = len(values)
    if n < 2 or not all(map(math.isfinite, values)):
        return components
    shared = _shared_sources(estimates)
    own = [c for c in components if c.source not in shared]
    scatter = statistics.stdev(values) / math.sqrt(n)
    if scatter <= math.sqrt(sum(c.contribution**2 for c in own)):
        return components
    between = Component(
        label="between repetitions",
        source="scatter|" + "|".join(sorted({c.source for c in own})[:1] + [repr(value) for value in values]),
        contribution=scatter,
        dof=n - 1,
        evaluation="A",
    )
    return (*(c for c in components if c.source in shared), between)


def _shared_sources(estimates: Sequence[Estimate]) -> set[str]:
    seen: dict[str, int] = {}
    for estimate in estimates:
        for source in {c.source for c in estimate.components}:
            seen[source] = seen.get(source, 0) + 1
    return {source for source, count in seen.items() if count > 1}


def _merged(components: Iterable[Component]) -> tuple[Component, ...]:
    """Sum the signed contributions of each source."""
    by_source: dict[str, Component] = {}
    for component in components:
        known = by_source.get(component.source)
        if known is None:
            by_source[component.source] = component
        else:
            by_source[component.source] = replace(known, contribution=known.contribution + component.contribution)
    return tuple(by_source.values())


def expanded_uncertainty(components: Iterable[Component], coverage: float = COVERAGE) -> float:
    """U with 95 % coverage, or another, of the sum of independent errors; 0 for none."""
    merged = _merged(components)
    if not merged:
        return 0.0
    u = math.sqrt(sum(c.contribution**2 for c in merged))
    split = _dominated(merged, u)
    return coverage_factor(_effective_dof(merged), coverage) * u if split is None else _expanded_of_sum(*split, coverage)


def probability_below(components: Iterable[Component], margin: float) -> float:
    """Probability that the sum of independent errors is at most ``margin``; 0 or 1 without any error."""
    merged = _merged(components)
    u = math.sqrt(sum(c.contribution**2 for c in merged))
    if u == 0:
        return float(margin >= 0)
    split = _dominated(merged, u)
    if split is None:
        return _student(_effective_dof(merged), margin / u)
    half, rest_u, dof = split
    return (1 + math.copysign(_within(abs(margin), half, rest_u, dof), margin)) / 2


def _dominated(components: Sequence[Component], u: float) -> tuple[float, float, float] | None:
    """Half-width of the rectangle that shapes the sum, with standard uncertainty and degrees of freedom of the rest; or None."""
    largest = max(components, key=lambda c: abs(c.contribution))
    if largest.distribution != "rectangular" or not DOMINATING_SHARE * u < abs(largest.contribution) < math.inf:
        return None
    rest = [c for c in components if c is not largest]
    rest_u = math.sqrt(sum(c.contribution**2 for c in rest))
    return math.sqrt(3) * abs(largest.contribution), rest_u, max(FEWEST_DOF, _effective_dof(rest))


def _expanded_of_sum(half: float, rest_u: float, dof: float, coverage: float) -> float:
    """Half-width that holds ``coverage`` of a rectangle of half-width ``half`` convolved with ``rest_u``·t(dof)."""
    if rest_u < 1e-9 * half:
        return coverage * half
    upper = half + coverage_factor(dof, coverage) * rest_u
    return float(optimize.brentq(lambda x: _within(x, half, rest_u, dof) - coverage, 0.0, upper, xtol=1e-12 * upper))


def _within(x: float, half: float, rest_u: float, dof: float) -> float:
    """Probability that |rectangle + rest| ≤ x: the cumulative distribution of the rest, averaged over the rectangle."""
    if rest_u < 1e-9 * half:
        return min(1.0, x / half)
    high, low = (x + half) / rest_u, (x - half) / rest_u
    return rest_u / half * (_student_integral(dof, high) - _student_integral(dof, low)) - 1


def _student(dof: float, x: float) -> float:
    """Cumulative distribution of Student's t."""
    return float(special.ndtr(x) if math.isinf(dof) else special.stdtr(dof, x))


def _student_integral(dof: float, x: float) -> float:
    """Antiderivative of Student's cumulative distribution: x·F(x) + (ν + x²)/(ν − 1)·f(x); for the normal x·Φ(x) + φ(x)."""
    if dof > NORMAL_DOF:
        return x * _student(dof, x) + math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    log_scale = special.gammaln((dof + 1) / 2) - special.gammaln(dof / 2) - math.log(dof * math.pi) / 2
    density = math.exp(float(log_scale) - (dof + 1) / 2 * math.log1p(x * x / dof))
    return x * _student(dof, x) + (dof + x * x) / (dof - 1) * density


def _effective_dof(components: Sequence[Component]) -> float:
    largest = max((abs(c.contribution) for c in components), default=0.0)
    if not largest > 0:
        return math.inf
    # relative to the largest: fourth powers of picojoules would underflow, and one component keeps its ν to the last digit
    shares = [(c.contribution / largest, c.dof) for c in components]
    weighted = sum(share**4 / dof for share, dof in shares)
    return sum(share**2 for share, _ in shares) ** 2 / weighted if weighted > 0 else math.inf


MAX_DIVISOR_UNCERTAINTY = 0.05
"""Largest relative standard uncertainty of a divisor, common scale apart: 1/b is no straight line, and beyond this a limit that is true
would be accepted more often than stated."""


def _divisor_gates(divisor: Estimate) -> tuple[Gate, ...]:
    """Linear propagation through a quotient holds only for a divisor that is well known."""
    own = [c.contribution for c in _merged(divisor.components) if not c.common_scale]
    if not own or not math.isfinite(divisor.value):
        return ()
    share = math.hypot(*own) / abs(divisor.value)
    passed = share <= MAX_DIVISOR_UNCERTAINTY
    return (
        Gate(
            name="well-known divisor", scope="quotient", measured=share, limit=MAX_DIVISOR_UNCERTAINTY, unit="1", passed=passed,
            reason=f"the divisor is known to {share:.2%} standard uncertainty (limit {MAX_DIVISOR_UNCERTAINTY:.0%})"
            + ("" if passed else ": the interval of the quotient would not hold"),
            remedy="" if passed else "measure the divisor longer or more often, or compare a difference or a product instead",
        ),
    )  # fmt: skip


def _estimate(value: Estimate | float, unit: str) -> Estimate:
    return value if isinstance(value, Estimate) else Estimate.exact(value, unit)


def _sum(a: Estimate, b: Estimate, sign: float) -> Estimate:
    unit = Unit.parse(a.unit)
    unit.require_same(Unit.parse(b.unit), "add" if sign > 0 else "subtract")
    return _combined("add" if sign > 0 else "subtract", a.value + sign * b.value, unit, [(a, 1.0), (b, sign)])


def _combined(op: str, value: float, unit: Unit, parts: Sequence[tuple[Estimate, float]]) -> Estimate:
    """First-order propagation through ``parts`` (input, sensitivity)."""
    inputs = [estimate for estimate, _ in parts]
    provenance = Provenance.weakest(*(e.provenance for e in inputs))
    estimators = sorted({e.estimator for e in inputs if e.estimator not in {"", "exact"}})
    combination = Estimate(
        value=value,
        unit=str(unit),
        components=_merged(c.scaled(s) for e, s in parts for c in e.components),
        provenance=provenance,
        estimator=" / ".join(estimators) or "exact",
        gates=tuple(dict.fromkeys(gate for e in inputs for gate in e.gates)),
        recipe=Recipe(op=op, inputs=tuple(e.recipe for e in inputs)),
    )
    relative = combination.relative_without_scale if combination.components else 0.0
    return replace(combination, quality=min(allowed(relative), *(e.quality for e in inputs)))


ARITHMETIC: Mapping[str, Callable[[Sequence[Estimate]], Estimate]] = {
    "add": lambda inputs: inputs[0] + inputs[1],
    "subtract": lambda inputs: inputs[0] - inputs[1],
    "multiply": lambda inputs: inputs[0] * inputs[1],
    "divide": lambda inputs: inputs[0] / inputs[1],
    "mean": mean,
    "relative_uncertainty": lambda inputs: relative_uncertainty(inputs[0]),
}
"""Composite recipes: operation name to the arithmetic that runs it again."""
