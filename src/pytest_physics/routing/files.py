"""The files that ``pytest-physics routing`` reads: a usage and its costs, as JSON. The format is described in ``docs/routing.md``.

Whatever cannot be is refused with one line that names file, place, value and limit: usages that do not sum to tokens × k, missing or
negative costs, more experts per token than there are, a λ in another unit.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pytest_physics.errors import ConfigurationError, nearest

Count = Annotated[int, Field(ge=0)]
Joules = Annotated[float, Field(gt=0)]

MAX_EXPONENT = 50.0
"""λ times the range of costs: a penalty of more than this many nats is no price but a wrong unit."""
LAMBDA_UNITS = {"": 1.0, "1/J": 1.0, "/J": 1.0}
"""How 1/J is written."""


class FileModel(BaseModel):
    """Base of what is read: unknown keys and numbers that are none are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SweepPoint(FileModel):
    """Usage of the same router and data at one λ."""

    lambda_per_j: float = Field(ge=0)
    """λ in 1/J."""
    usage: list[Count] | list[list[Count]]
    """Slots per expert, or batches of them."""


class Usage(FileModel):
    """A recorded usage, and what was reported about it."""

    format: Literal[1] = 1
    title: str = ""
    usage: list[Count] | list[list[Count]]
    """Slots per expert, or batches × experts."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens that were routed."""
    top_k: int | None = Field(default=None, ge=1)
    """Experts per token."""
    capacity_factor: float | None = Field(default=None, ge=1)
    """Largest load over the mean load that the router allowed in a batch."""
    lambda_per_j: float | str | None = None
    """λ in 1/J: a number, or text with its unit."""
    control: list[Count] | list[list[Count]] | None = None
    """Usage of the same gate on the same data with λ = 0."""
    sweep: list[SweepPoint] | None = None
    """The same router at several λ."""
    total_energy_j: float | None = Field(default=None, gt=0)
    """Reported energy of all slots."""
    baseline_j: float | None = Field(default=None, gt=0)
    """Energy from which a saving was counted."""
    saving_percent: float | None = None
    """Reported saving."""
    diversity_nats: float | None = Field(default=None, ge=0)
    """Reported pooled diversity."""

    @property
    def counts(self) -> NDArray[np.float64]:
        """Slots, shape (B, N)."""
        return table(self.usage)

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        n = len(rows(self.usage)[0])
        named = {"usage": self.usage, "control": self.control}
        named |= {f"sweep.{number}.usage": point.usage for number, point in enumerate(self.sweep or ())}
        for name, usage in named.items():
            for number, row in enumerate(rows(usage) if usage is not None else ()):
                if len(row) != n or n < 2:
                    raise ValueError(f"every usage needs the same number of experts, at least 2 (got {n} and {len(row)} in '{name}')")
                if not sum(row):
                    raise ValueError(f"batch {number} of '{name}' has no slot at all; leave it out")
        if self.sweep is not None and len({point.lambda_per_j for point in self.sweep}) < 2:
            raise ValueError("a sweep needs at least two different 'lambda_per_j'")
        totals = {round(sum(map(sum, rows(point.usage)))) for point in self.sweep or ()}
        if len(totals) > 1:
            raise ValueError(f"every usage of a sweep routes the same slots, tokens × k each (got totals of {sorted(totals)})")
        return self


class Costs(FileModel):
    """Energy of a slot in each expert."""

    format: Literal[1] = 1
    unit: Literal["J", "J/slot"] = "J"
    costs: list[Joules] = Field(min_length=2)
    """Joules per slot."""
    router_costs: list[float] | None = None
    """What the router subtracts, in any unit, where it is not the same."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.router_costs is not None and len(self.router_costs) != len(self.costs):
            raise ValueError(f"'router_costs' has {len(self.router_costs)} values and 'costs' {len(self.costs)}; give one for each expert")
        return self


class Recorded(FileModel):
    """Usage and costs together, checked against one another."""

    usage: Usage
    costs: Costs
    tokens: int
    top_k: int
    lambda_per_j: float | None


def read(
    usage_file: Path, costs_file: Path, *, tokens: int | None = None, top_k: int | None = None, lambda_: str | None = None,
) -> Recorded:  # fmt: skip
    """Both files, with what the command line says in place of what they say; raises :class:`ConfigurationError`."""
    usage = parsed(Usage, usage_file, read_json(usage_file))
    data = read_json(costs_file)
    costs = parsed(Costs, costs_file, {"costs": data} if isinstance(data, list) else data)
    _same_experts(usage, costs, usage_file, costs_file)
    k = _experts_per_token(usage, costs, usage_file, top_k)
    strength = lambda_ if lambda_ is not None else usage.lambda_per_j
    return Recorded(
        usage=usage, costs=costs, tokens=_tokens(usage, usage_file, tokens, k), top_k=k,
        lambda_per_j=None if strength is None else read_lambda(strength, costs.costs),
    )  # fmt: skip


def read_lambda(text: float | str, costs: Iterable[float]) -> float:
    """λ in 1/J from a number or from text such as ``"0.1/J"``; another unit, or a size that no price has, is an error."""
    match = re.fullmatch(r"\s*([-+0-9.eE]+)\s*(1?/\s*\S+|\S*)\s*", str(text))
    number, unit = (match.group(1), match.group(2).replace(" ", "")) if match else (str(text), "")
    try:
        value = float(number)
    except ValueError:
        raise ConfigurationError(f"λ must be a number in 1/J, such as 0.1 or '0.1/J' (got {text!r}).") from None
    if unit not in LAMBDA_UNITS:
        raise ConfigurationError(f"λ is given in '{unit}', and costs are in J per slot; convert it to 1/J (1/mJ is 1000/J).")
    if not (math.isfinite(value) and value >= 0):
        raise ConfigurationError(f"λ must be finite and ≥ 0 /J (got {text!r}).")
    spread = max(costs) - min(costs)
    if value * spread > MAX_EXPONENT:
        raise ConfigurationError(
            f"λ = {value:g} /J times the range of costs, {spread:g} J, is a penalty of {value * spread:.4g} nats (limit {MAX_EXPONENT:g}): "
            "λ or the costs are in another unit; give λ in 1/J and costs in J per slot."
        )
    return value


def rows(usage: list[int] | list[list[int]]) -> list[list[int]]:
    """Batches of a usage; one total is one batch."""
    batches = [row for row in usage if isinstance(row, list)]
    return batches or [[slot for slot in usage if isinstance(slot, int)]]


def table(usage: list[int] | list[list[int]]) -> NDArray[np.float64]:
    """Slots, shape (B, N)."""
    return np.asarray(rows(usage), float)


# --- inside ----------------------------------------------------------------------------------------------------------


ModelT = TypeVar("ModelT", bound=FileModel)


def read_json(path: Path) -> Any:  # noqa: ANN401 -- any JSON value
    """Value in a JSON file; raises :class:`ConfigurationError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}; give the path of a JSON file.") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{path}, line {error.lineno}: not JSON ({error.msg}); correct it there.") from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: {error}; every number must be finite.") from None


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def parsed(model: type[ModelT], path: Path, data: Any) -> ModelT:  # noqa: ANN401 -- any JSON value
    """``data`` as ``model``; raises :class:`ConfigurationError` with file and place."""
    if not isinstance(data, dict):
        raise ConfigurationError(f"{path} must hold a JSON object; see docs/routing.md.")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_words(error, model)}; see docs/routing.md.") from None


def _words(error: ValidationError, model: type[BaseModel]) -> str:
    problem = error.errors()[0]
    # of the two shapes of a usage pydantic reports both: the deepest place is where the file is wrong
    deepest = max(error.errors(), key=lambda found: len(found["loc"]))
    problem = deepest if problem["loc"] and problem["loc"][0] == deepest["loc"][0] else problem
    place = ".".join(str(part) for part in problem["loc"] if not str(part).startswith("list["))
    if problem["type"] == "extra_forbidden":
        return f"there is no key '{place}'{nearest(place, list(model.model_fields))}"
    if problem["type"] == "missing":
        return f"'{place}' is missing"
    value = f" (got {problem['input']!r})" if not isinstance(problem["input"], dict | list) else ""
    said = str(problem["msg"]).removeprefix("Value error, ")
    return f"'{place}': {said}{value}" if place else said


def _same_experts(usage: Usage, costs: Costs, usage_file: Path, costs_file: Path) -> None:
    experts = usage.counts.shape[1]
    if len(costs.costs) != experts:
        raise ConfigurationError(
            f"{costs_file} has costs of {len(costs.costs)} experts and {usage_file} a usage of {experts}; give one cost for each expert."
        )


def _experts_per_token(usage: Usage, costs: Costs, path: Path, given: int | None) -> int:
    k = given if given is not None else usage.top_k
    if k is None:
        raise ConfigurationError(f"{path} does not say how many experts a token goes to; add 'top_k', or give --top-k.")
    if not 1 <= k <= len(costs.costs):
        raise ConfigurationError(
            f"top-k = {k} needs as many distinct experts, and there are {len(costs.costs)}; correct --top-k or 'top_k'."
        )
    return k


def _tokens(usage: Usage, path: Path, given: int | None, k: int) -> int:
    tokens = given if given is not None else usage.tokens
    slots = int(usage.counts.sum())
    if tokens is None and slots % k == 0:
        return slots // k
    if tokens is None or tokens * k != slots:
        due = f"{tokens} tokens × {k} make {tokens * k}" if tokens is not None else f"that is no multiple of k = {k}"
        raise ConfigurationError(
            f"{path}: the usage sums to {slots} slots, and {due}; record every slot once, or correct 'tokens' or 'top_k'."
        )
    if usage.control is not None and (control := int(table(usage.control).sum())) != slots:
        raise ConfigurationError(f"{path}: 'control' sums to {control} slots and 'usage' to {slots}; they need the same data.")
    return tokens
