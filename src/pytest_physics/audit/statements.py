"""The format of a statements file: what a report says, as exhibits with numbers, and the claims that rest on them.

History of the format
    1   first version.

An exhibit is one set of numbers (a sample of readings, a table, a pair of proportions). Its section says of what kind it is, and so which
checks are applied; nobody chooses checks. A claim names the exhibits that it ``asserts`` (it says just that) and those it ``rests_on``
(its evidence). Unknown keys are errors. Numbers keep the decimals with which they are written, because these say how they were rounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, field_validator, model_validator

from pytest_physics.errors import UnitError
from pytest_physics.metrology.forensics.counts import Relation
from pytest_physics.metrology.forensics.finding import Printed, decimals_of
from pytest_physics.units import Unit

FORMAT = 1
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def printed(value: object) -> Printed:
    """A number with its decimals, from a number or from its text."""
    if isinstance(value, Printed):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a number")  # noqa: TRY004 -- pydantic turns ValueError into a message with its place
    text = str(value).strip().replace("\N{MINUS SIGN}", "-")
    if not NUMBER.fullmatch(text):
        raise ValueError(
            f"'{value}' is not a number: write the digits alone, and the unit under 'unit'; for 'about 20' write 20, "
            "and give ranges where a key for the least and the most exists"
        )
    return Printed(float(text), decimals_of(text))


def unit_text(text: str) -> str:
    """A unit that can be read: symbols joined by · and divided by /."""
    try:
        Unit.parse(text)
    except (ValueError, UnitError) as error:
        raise ValueError(f"'{text}' is not a unit ({error}); write symbols joined by · and divided by /, such as J/token") from None
    return text


Number = Annotated[Printed, PlainValidator(printed), WithJsonSchema({"type": ["number", "string"]})]
"""A printed number. Write it as text ("20.70") where trailing zeros matter and your editor removes them."""


def printed_or_word(value: object) -> Printed | str:
    """A number stays a number, and what is written as text stays text: "3.12" of Python is no number."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else printed(value)


Said = Annotated[Printed | str, PlainValidator(printed_or_word), WithJsonSchema({"type": ["number", "string", "boolean"]})]
Count = Annotated[int, Field(ge=0)]
UnitText = Annotated[str, PlainValidator(unit_text), WithJsonSchema({"type": "string"})]
CONDITION = re.compile(r"(<=|>=|<|>)\s*(\S+)")


def bounds(value: object) -> tuple[float, float]:
    """A range from ``[low, high]`` (both included, null for no bound) or from a condition such as ``"> 0.10"``."""
    if isinstance(value, str):
        found = CONDITION.fullmatch(value.strip())
        if not found:
            raise ValueError(f"'{value}' is no condition: write one of <, <=, >, >= and a number, or [lowest, highest]")
        operator, limit = found.group(1), float(printed(found.group(2)))
        if operator in {"<", "<="}:
            return -math.inf, limit if operator == "<=" else math.nextafter(limit, -math.inf)
        return limit if operator == ">=" else math.nextafter(limit, math.inf), math.inf
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError('must be [lowest, highest] with null for no bound, or a condition such as "> 0.10"')
    low, high = value
    return -math.inf if low is None else float(printed(low)), math.inf if high is None else float(printed(high))


_END = {"type": ["number", "string", "null"]}
Range = Annotated[
    tuple[float, float],
    PlainValidator(bounds),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _END, "minItems": 2, "maxItems": 2}]}),
]
"""Lowest and highest value, both included, null for no bound; or a condition: ``"> 0.10"``."""
Provenance = Literal["measured", "derived", "simulated", "assumed", "illustrative"]


class Statement(BaseModel):
    """Base of every part of a statements file."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Exhibit(Statement):
    """One set of numbers of a report."""

    title: str = ""
    """What it is, in a few words."""
    where: str = ""
    """Section, table or file of the source."""
    labels: list[str] = []
    """Your own reference marks; shown beside the findings."""
    provenance: Provenance = "measured"
    """Where the numbers come from, by the report's own account. Assumed and illustrative numbers invalidate what rests on them."""
    note: str = ""
    """What a reader must know to follow."""


class Level(Statement):
    """What is said of the share of readings in an interval, at or above ``above`` and below ``below``."""

    above: Number | None = None
    below: Number | None = None
    at_least: float | None = Field(default=None, ge=0, le=1)
    at_most: float | None = Field(default=None, ge=0, le=1)


class Bin(Statement):
    """One interval of a published histogram."""

    low: float
    high: float
    share: float = Field(ge=0, le=1)


class Uncertainty(Statement):
    """A stated uncertainty of a mean."""

    stated: Number
    n: Count
    """Number of readings that it was computed from."""
    lag1: float | None = Field(default=None, gt=-1, lt=1)
    """Lag-1 correlation of the readings."""
    independence_denied: bool = False
    """Whether the report itself says that its readings are correlated."""


class Quantity(Statement):
    """Summary of one quantity over a sample of readings."""

    unit: UnitText
    mean: Number
    sd: Number | None = None
    min: Number | None = None
    max: Number | None = None
    step: float | None = Field(default=None, gt=0)
    """Step of the sensor: 1 for whole degrees, 0.001 for whole milliwatts."""
    levels: list[Level] = []
    histogram: list[Bin] = []
    histogram_slack: float = Field(default=0.005, ge=0)
    """How far each share may be off: 0.05 for shares "about"."""
    outlier_rule_k: float | None = Field(default=None, gt=0)
    """k of a detector that counts readings above mean + k·sd."""
    uncertainty: Uncertainty | None = None


class Sample(Exhibit):
    """Quantities that were read together, so that they share their number of readings."""

    quantities: dict[str, Quantity]
    n: list[Count] = []
    """Every number of readings that the report states for it."""
    n_known: Count | None = Field(default=None, gt=1)
    """The number of readings where it is beyond doubt."""
    ddof: Literal[0, 1] = 1


class EnergyRow(Statement):
    """A window's length and its stated energy uncertainty."""

    duration_s: Number
    stated_j: Number


class EnergyUncertainty(Exhibit):
    """A table of energy uncertainties that follow from idle noise."""

    sd_w: Number
    dt_s: float = Field(gt=0)
    """Interval of readings that the table assumes."""
    actual_dt_s: float | None = Field(default=None, gt=0)
    """Interval that really was, where it is known."""
    idle_s: float | None = Field(default=None, gt=0)
    """How long idle was measured; its mean has an error too."""
    rows: list[EnergyRow]


class Duration(Exhibit):
    """A stated duration and the counts that fill it."""

    counts: dict[str, Count]
    """Samples, dropped ticks, rows: whatever each took one period."""
    period_s: float = Field(gt=0)
    stated_s: Number
    relation: Relation = "equals"
    """Whether the counted time equals the stated one, or is stated to be at most or at least so long."""


class Total(Exhibit):
    """A total and its parts."""

    total: Number
    parts: dict[str, Number]
    unit: str = ""
    tolerance: float = Field(default=0.0, ge=0)


class Rate(Exhibit):
    """A stated rate with its count and time."""

    count: Number
    time_s: Number
    stated: Number
    unit: UnitText = "1/s"
    tolerance: float = Field(default=0.05, ge=0)


class Limit(Exhibit):
    """A value and what its declared hardware allows."""

    value: Number
    unit: UnitText
    most: float | None = None
    least: float | None = None
    why: str


class Column(Statement):
    """A column of a table; null where nothing is printed."""

    unit: UnitText
    values: list[Number | None]


class PrintedRates(Statement):
    """A column that is printed as the rate of change of another."""

    time: str
    base: str
    printed: str


class PrintedSlope(Statement):
    """A slope that is stated of two columns."""

    x: str
    y: str
    stated: Number


class Heating(Statement):
    """Columns of a warm-up at constant power."""

    time: str
    temperature: str


class StopRule(Statement):
    """A rule "|slope| below limit", and the time at which the run is said to have stopped by it."""

    time: str
    value: str
    limit: float
    stopped_at: float


class Maximum(Statement):
    """The stated maximum of a column."""

    column: str
    stated: Number


class Table(Exhibit):
    """A table with named columns, and what is said of them."""

    columns: dict[str, Column]
    rates: PrintedRates | None = None
    slope: PrintedSlope | None = None
    heating: Heating | None = None
    stop_rule: StopRule | None = None
    maximum: Maximum | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Columns of one length, and no name of a column that is not there."""
        lengths = {name: len(column.values) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"columns have different lengths ({', '.join(f'{k}: {v}' for k, v in lengths.items())}); use null for empty cells"
            )
        for part in (self.rates, self.slope, self.heating, self.stop_rule, self.maximum):
            for key, value in part or ():
                if isinstance(value, str) and value not in self.columns:
                    raise ValueError(f"'{key}' names column '{value}', which the table does not have (it has {', '.join(self.columns)})")
        return self


class Stop(Exhibit):
    """A value at which a run was stopped because it passed a limit."""

    value: Number
    limit: float = Field(gt=0)
    unit: UnitText
    first_crossing: bool | None = None
    """Whether the run stopped at once when the limit was passed; null where it is not known."""
    stricter: float | None = None
    """A stricter limit that the report itself asks for."""
    step: float | None = Field(default=None, gt=0)
    """Step of the readings, for a slope."""
    window: float | None = Field(default=None, gt=0)
    """Window of the slope, in the time unit of the slope."""


class ClassRule(Statement):
    """The conditions of one quality class; ranges include their ends."""

    name: str
    samples: Range | None = None
    gap: Range | None = None
    duration_s: Range | None = None


class ClassRow(Statement):
    """A printed class with the ranges that are known of its window."""

    label: str
    printed: str
    samples: Range | None = None
    gap: Range | None = None
    duration_s: Range | None = None


class Classes(Exhibit):
    """Quality classes, and rows that were given one."""

    rules: list[ClassRule]
    rows: list[ClassRow] = []
    ordered: bool = False
    """Whether the rules are tried in order, so that the first that holds counts."""


class Sensor(Exhibit):
    """What a reading averages over, and the events that it should have seen."""

    averages_s: float | None = Field(default=None, ge=0)
    """Width of its average; taken from ``family`` and ``driver`` where absent."""
    family: str | None = None
    """Chip family of an NVIDIA card (Ada, Ampere, GA100, Turing …) read through nvmlDeviceGetPowerUsage."""
    driver: int | None = None
    """Driver branch: 535 of 535.104."""
    update_period_s: float = Field(default=0.1, gt=0)
    rise_limit_s: float | None = Field(default=None, gt=0)
    events_s: dict[str, float] = {}
    """Length of each event whose energy was read."""
    corrected: bool = False
    """Whether the analysis allows for the averaging."""


class Formula(Exhibit):
    """A formula or a printed number by its units: every term must have the unit of the whole."""

    unit: UnitText
    terms: dict[str, UnitText]


class ShareOf(Statement):
    """Successes among trials, with the printed percentage."""

    successes: Count
    trials: Annotated[int, Field(gt=0)]
    percent: Number | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.successes > self.trials:
            raise ValueError(f"{self.successes} successes of {self.trials} trials: 'successes' must not be larger than 'trials'")
        return self


class Proportion(Exhibit):
    """One share, or two that are said to differ."""

    a: ShareOf
    b: ShareOf | None = None
    discordant: tuple[Count, Count] | None = None
    """Instants flagged only in a, and only in b, where both were flagged at the same instants."""
    design_effect: float = Field(default=1.0, ge=1)
    """How much flags that come in runs reduce the number of trials."""


class Correlation(Exhibit):
    """A published correlation; without ``r``, a planned one."""

    n: Count
    r: Number | None = None
    n_distinct: Count | None = None
    n_eff: float | None = Field(default=None, gt=0)
    lag1: tuple[float, float] | None = None
    """Lag-1 correlations of the two series."""
    lags_searched: int = Field(default=1, ge=1)
    at_least: float | None = Field(default=None, gt=0, lt=1)
    """Strength that is claimed; for a planned correlation the smallest that matters."""


class Comparison(Exhibit):
    """Arms of a comparison as rows of factors."""

    contrast: str
    arms: list[dict[str, str]]

    @field_validator("arms")
    @classmethod
    def _arms(cls, arms: list[dict[str, str]]) -> list[dict[str, str]]:
        if len(arms) < 2:
            raise ValueError(f"a comparison needs at least two arms (got {len(arms)})")
        return arms

    @model_validator(mode="after")
    def _contrasted(self) -> Self:
        if any(self.contrast not in arm for arm in self.arms):
            raise ValueError(f"every arm needs the contrasted factor '{self.contrast}'")
        return self


class Strength(Statement):
    """One point of a sweep."""

    strength: float
    counts: list[Count]


class Allocation(Exhibit):
    """Items allocated to places with costs."""

    counts: list[Count] = Field(min_length=1)
    costs: list[float] = Field(min_length=1)
    unit: UnitText = "J"
    total: Number | None = None
    baseline: float | None = Field(default=None, gt=0)
    saving_percent: Number | None = None
    prefers_cheap: bool = True
    """Whether the allocation is said to prefer what is cheap."""
    sweep: list[Strength] = []

    @model_validator(mode="after")
    def _same_places(self) -> Self:
        for name, counts in (("counts", self.counts), *((f"sweep at {point.strength:g}", point.counts) for point in self.sweep)):
            if len(counts) != len(self.costs):
                raise ValueError(f"'{name}' has {len(counts)} places, 'costs' has {len(self.costs)}")
        return self


class Fact(Exhibit):
    """What several places say of one thing."""

    values: dict[str, Said] = Field(min_length=2)
    unit: str = ""
    tolerance: float = Field(default=0.0, ge=0)
    """Relative difference that is allowed between numbers."""


class Spans(Exhibit):
    """Spans of time on one axis."""

    spans: dict[str, tuple[float, float]]
    unit: str = "s"
    apart: list[tuple[str, str]] = []
    """Pairs that must not overlap; the first is the measurement, the second what it must leave out."""
    inside: list[tuple[str, str]] = []
    """Pairs of which the first must lie inside the second."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in (name for pair in (*self.apart, *self.inside) for name in pair):
            if name not in self.spans:
                raise ValueError(f"'{name}' is not among the spans ({', '.join(self.spans)})")
        return self


class Detector(Exhibit):
    """A detector whose "no" is evidence."""

    constant_inputs: list[str] = []
    """Inputs that are constants in the code."""
    opportunities: Count | None = None
    """How often it could have fired."""
    needed_run: Count | None = None
    longest_run: Count | None = None


class Outline(Exhibit):
    """Section numbers of a document and references to them; or the document itself, in the data directory."""

    file: str | None = None
    sections: list[str] = []
    references: list[str] = []


class MeanRate(Exhibit):
    """A stated mean rate of change."""

    stated: Number
    min: Number
    max: Number
    duration_s: float = Field(gt=0)
    unit: str = "1/s"


class Rows(Statement):
    """Rows of an attached CSV file or JSON list of records, in the data directory."""

    file: str
    where: dict[str, str] = {}
    """Only rows with these values: ``device: gpu``."""
    time: str | None = None
    """Column of times: seconds, or ISO 8601; a time without zone counts as UTC, as the report's own code does."""


class Series(Exhibit):
    """Attached data."""

    rows: Rows
    period_s: float | None = Field(default=None, gt=0)
    """Stated period."""
    measured: list[str] = []
    """Columns that are shown as measured and should vary."""
    computed_pairs: list[tuple[str, str]] = []
    """Pairs of columns that should be independent readings."""
    fresh: list[str] = []
    """Columns of which every row should be a new reading."""
    natural: list[str] = []
    """Columns that should have the noise or steps of a sensor."""


class Alignment(Exhibit):
    """Two attached series that were matched by time, or a published lag table."""

    a: Rows | None = None
    b: Rows | None = None
    tolerance_s: float = Field(default=1.0, gt=0)
    lags: dict[float, Number] = {}


class Replicates(Exhibit):
    """Runs under different names, by digest or by columns of attached files."""

    digests: dict[str, str] = {}
    files: dict[str, str] = {}
    columns: list[str] = []
    """Columns whose values are compared; the whole file where none are named."""


class Claim(Statement):
    """A claim of the report, paraphrased."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    statement: str
    where: str = ""
    stated: str = ""
    """The report's own status: VALIDATED, PASS, proven."""
    asserts: list[str] = []
    """Exhibits that say just this: a contradiction refutes the claim, a confirmation validates it."""
    rests_on: list[str] = []
    """Exhibits that are its evidence: a contradiction makes it INVALID."""
    requires: list[str] = []
    """Claims that must hold first."""
    outcome: Literal["passed", "failed", "not run"] | None = None
    """What the report itself records of the test behind it."""
    needs: str = ""
    """The datum that would decide it, where the exhibits do not."""


class Source(Statement):
    """Which document was audited."""

    document: str
    date: str = ""
    reference: str = ""
    """Where to find it."""


class Statements(Statement):
    """A statements file."""

    format: Literal[1] = 1
    title: str
    about: str = ""
    source: Source
    samples: dict[str, Sample] = {}
    energy_uncertainties: dict[str, EnergyUncertainty] = {}
    durations: dict[str, Duration] = {}
    totals: dict[str, Total] = {}
    rates: dict[str, Rate] = {}
    limits: dict[str, Limit] = {}
    tables: dict[str, Table] = {}
    stops: dict[str, Stop] = {}
    classes: dict[str, Classes] = {}
    sensors: dict[str, Sensor] = {}
    formulas: dict[str, Formula] = {}
    proportions: dict[str, Proportion] = {}
    correlations: dict[str, Correlation] = {}
    comparisons: dict[str, Comparison] = {}
    allocations: dict[str, Allocation] = {}
    facts: dict[str, Fact] = {}
    spans: dict[str, Spans] = {}
    detectors: dict[str, Detector] = {}
    outlines: dict[str, Outline] = {}
    mean_rates: dict[str, MeanRate] = {}
    series: dict[str, Series] = {}
    alignments: dict[str, Alignment] = {}
    replicates: dict[str, Replicates] = {}
    claims: list[Claim] = []

    def exhibits(self) -> Iterator[tuple[str, str, Exhibit]]:
        """Section, id and exhibit, in the order of the format."""
        for section in type(self).model_fields:
            value = getattr(self, section)
            if isinstance(value, dict):
                for name, exhibit in value.items():
                    yield section, name, exhibit

    @model_validator(mode="after")
    def _names(self) -> Self:
        """Ids are unique, and whatever is named exists and comes first."""
        names = [name for _, name, _ in self.exhibits()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"exhibit ids must be unique in the whole file; used twice: {', '.join(twice)}")
        judged: set[str] = set()
        for claim in self.claims:
            _require_known(claim.id, [*claim.asserts, *claim.rests_on], set(names), "exhibit")
            _require_known(claim.id, claim.requires, judged, "claim above it")
            if claim.id in judged:
                raise ValueError(f"claim id '{claim.id}' is used twice")
            judged.add(claim.id)
        return self


def _require_known(claim: str, names: list[str], known: set[str], kind: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"claim '{claim}' names {', '.join(unknown)}, and there is no such {kind}")
