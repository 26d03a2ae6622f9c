"""Where device memory goes, where it ends, and how broken up it is: formulas, a fit, and definitions.

A forward pass of a decoder-only transformer over ``B`` sequences of ``T`` tokens holds, at its peak,

    ``bytes(B, T) = c + KV(B, T) + a·B·T + q·B·T²``

with the key-value cache exactly ``KV = 2·L·B·T·H_kv·D_h·b`` (confirmed in 30 of 30 cells of TR127), ``c`` for weights and workspace,
``a`` for activations and logits, and ``q`` for the score matrix of eager attention (0 for fused attention). Only ``c``, ``a`` and ``q``
are fitted; none can be negative. The *cliff* is where ``bytes`` meets the capacity.

Assumptions: the terms hold beyond the probes. A peak is the largest of several moments, so at small ``T`` another moment may be the peak
(a kink); probes near a fifth to a half of the capacity lie beyond it in all models tried. An extrapolation carries
:data:`EXTRAPOLATION` of the bytes it adds as an assumed uncertainty.
It fails with ``ValueError`` where the probes do not determine the terms: fewer probes than terms, or all at one size.

A cliff can also be one of *time*: some drivers page memory to the host without an error, and work runs 25 to 105 times slower (TR127).
:func:`classify` calls that SPILL.

Fragmentation has two definitions, both of bytes, both taken while the holes exist. ``inactive split``: bytes of free blocks that are a
part of a larger segment, over reserved bytes (PyTorch's ``inactive_split_bytes``; its ``inactive_split`` is a *count*, and TR122 printed
a count over bytes, 0.00 always). ``largest block``: 1 − largest free block ÷ free bytes inside the segments (Johnstone & Wilson 1998's
measure of what one request can still get). ``(reserved − allocated) / reserved`` is slack, not fragmentation: an empty cache has slack 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

FloatArray = NDArray[np.float64]

SPILL_FACTOR = 5.0
"""Time per token this many times the trend before the cliff is a spill (TR127 saw 25 to 105)."""
EXTRAPOLATION = 0.01
"""Assumed relative standard uncertainty of the bytes that an extrapolation adds to its largest probe."""
LARGEST_CONTEXT = 2**24
"""A predicted limit beyond this many tokens or sequences is no limit."""
MIN_TREND_POINTS = 3
UPPER_SHARE = 1 / 4
"""Probes smaller than this share of the largest are left out of a fit that has enough others."""
CURVED = 2.0
"""How many times less scatter a parabola must leave than a straight line, at the line's own points, to be believed."""
SPARE_POINTS = 2
"""How many more probes than terms are enough."""


class Outcome(StrEnum):
    """How a probe ended."""

    FITS = "FITS"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    """An allocation failed."""
    ARCHITECTURE_LIMIT = "ARCHITECTURE_LIMIT"
    """The model has no position for so many tokens, however much memory there is."""
    SPILL = "SPILL"
    """It ran, on memory that is not the device's, or far more slowly than the trend."""
    KILLED = "KILLED"
    """The process was ended from outside: by its time limit, or by the system for its memory."""


# --- the key-value cache, exact -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """What of a model's shape decides about its memory."""

    layers: int
    heads: int
    """Attention heads (queries)."""
    kv_heads: int
    """Heads that keys and values have; fewer than ``heads`` where they are grouped."""
    head_dim: int
    width: int
    vocabulary: int
    parameters: int
    bytes_per_number: int
    """Of weights and cache: 2 in half precision."""
    max_positions: int | None = None
    """Most tokens of one sequence; None where the architecture sets no limit."""

    def __post_init__(self) -> None:
        """Refuse sizes that no model has."""
        for name in ("layers", "heads", "kv_heads", "head_dim", "width", "vocabulary", "parameters", "bytes_per_number"):
            if getattr(self, name) < 1:
                raise ValueError(f"'{name}' must be >= 1 (got {getattr(self, name)}).")
        if self.heads % self.kv_heads:
            raise ValueError(f"'heads' must be a multiple of 'kv_heads' (got {self.heads} and {self.kv_heads}).")
        if self.max_positions is not None and self.max_positions < 1:
            raise ValueError(f"'max_positions' must be >= 1, or None (got {self.max_positions}).")

    @property
    def weight_bytes(self) -> int:
        """All weights."""
        return self.parameters * self.bytes_per_number

    @property
    def kv_bytes_per_token(self) -> int:
        """Key and value of one token of one sequence in all layers.

        >>> gpt2 = ModelSizes(layers=12, heads=12, kv_heads=12, head_dim=64, width=768, vocabulary=50257, parameters=124439808,
        ...                   bytes_per_number=2)
        >>> gpt2.kv_bytes_per_token // 1024
        36
        """
        return 2 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_number

    def kv_bytes(self, *, batch: int, context: int) -> int:
        """Key-value cache of ``batch`` sequences of ``context`` tokens: ``2·L·B·T·H_kv·D_h·b``."""
        return batch * context * self.kv_bytes_per_token


# --- bytes(context, batch) ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPoint:
    """One probe as the mathematics sees it."""

    batch: int
    context: int
    outcome: Outcome
    """As the probe ended; SPILL is found only by :func:`classify`."""
    peak_bytes: float | None = None
    """Largest use of device memory; None where nothing was seen of it."""
    seconds: float | None = None
    """Time of the pass."""

    @property
    def tokens(self) -> int:
        """``batch × context``."""
        return self.batch * self.context


@dataclass(frozen=True, slots=True, kw_only=True)
class BytesFit:
    """Peak bytes over batch and context."""

    kv_bytes_per_token: int
    constant_bytes: float
    """c: weights and workspace."""
    token_bytes: float
    """a: activations per token."""
    square_bytes: float
    """q: score matrix per sequence and squared token."""
    covariance: FloatArray
    """Of the fitted coefficients in the order of :attr:`terms`, shape (p, p), in byte²."""
    terms: tuple[str, ...]
    """Which of "constant", "token", "square" were fitted."""
    scatter_bytes: float
    """Standard deviation of one peak around the fit."""
    dof: float
    """Degrees of freedom of the scatter; infinite where the allocator's rounding, which is known, exceeds it."""
    largest_bytes: float
    """Peak of the largest probe."""

    def at(self, *, batch: float, context: float) -> float:
        """Peak bytes."""
        fitted = self.constant_bytes + self.token_bytes * batch * context + self.square_bytes * batch * context**2
        return fitted + self.kv_bytes_per_token * batch * context

    def u_scatter(self, *, batch: float, context: float) -> float:
        """Standard uncertainty of one new peak by scatter, rounding and the coefficients."""
        x = np.array([_TERMS[name](batch, context) for name in self.terms])
        return math.sqrt(float(x @ self.covariance @ x) + self.scatter_bytes**2)

    def u_extrapolation(self, *, batch: float, context: float) -> float:
        """Assumed standard uncertainty of what lies beyond the largest probe."""
        return EXTRAPOLATION * max(0.0, self.at(batch=batch, context=context) - self.largest_bytes)

    def limit(self, capacity_bytes: float, *, axis: str, other: int) -> float:
        """Context at batch ``other`` (or batch at context ``other``) where the capacity is reached: 0 if never below, infinite if never."""
        along = _along(self, axis, other)
        if along(0.0) >= capacity_bytes:
            return 0.0
        if along(LARGEST_CONTEXT) <= capacity_bytes:
            return math.inf
        return float(optimize.brentq(lambda x: along(x) - capacity_bytes, 0.0, LARGEST_CONTEXT, xtol=1e-6))

    def slope(self, x: float, *, axis: str, other: int) -> float:
        """Bytes per further token of context (or per further sequence) at ``x``."""
        along, step = _along(self, axis, other), max(1e-3, 1e-6 * x)
        return (along(x + step) - along(x - step)) / (2 * step)


_TERMS: dict[str, Callable[[float, float], float]] = {
    "constant": lambda _batch, _context: 1.0,
    "token": lambda batch, context: batch * context,
    "square": lambda batch, context: batch * context**2,
}


def place(x: float, *, axis: str, other: int) -> dict[str, float]:
    """``batch`` and ``context`` of a point ``x`` on an axis, "context" or "batch"."""
    if axis not in {"context", "batch"}:
        raise ValueError(f"'axis' must be 'context' or 'batch' (got {axis!r}).")
    return {"context": x, "batch": other} if axis == "context" else {"batch": x, "context": other}


def _along(fit: BytesFit, axis: str, other: int) -> Callable[[float], float]:
    return lambda x: fit.at(**place(x, axis=axis, other=other))


def fit_bytes(points: Sequence[MemoryPoint], *, kv_bytes_per_token: int, quadratic: bool, rounding_bytes: float) -> BytesFit:
    """Fit ``bytes(B, T)`` to probes that fit.

    Parameters
    ----------
    points
        Probes with a peak; others are left out.
    kv_bytes_per_token
        Of the exact cache, which is not fitted.
    quadratic
        Whether attention keeps its score matrix ("eager"). Where it says that it does not, the square is fitted all the same if a straight
        line leaves :data:`CURVED` times the scatter of a parabola, and more than one through all probes: masks of sliding windows and
        fallbacks of fused attention are squares.
    rounding_bytes
        Step in which the allocator hands memory out, all pieces of one pass together: two points cannot agree better.
    """
    fits = [p for p in points if p.outcome is Outcome.FITS and p.peak_bytes is not None]
    used = _beyond_kinks(fits, quadratic=quadratic)
    fit = _fitted(used, kv_bytes_per_token, rounding_bytes, quadratic=quadratic)
    if quadratic or math.isinf(fit.dof) or fit.dof < 2:
        return fit
    try:
        same = _fitted(used, kv_bytes_per_token, rounding_bytes, quadratic=True)
        curved = _fitted(_beyond_kinks(fits, quadratic=True), kv_bytes_per_token, rounding_bytes, quadratic=True)
    except ValueError:
        return fit
    believed = CURVED * same.scatter_bytes <= fit.scatter_bytes and curved.scatter_bytes < fit.scatter_bytes
    return curved if believed and "square" in curved.terms else fit


def _fitted(used: Sequence[MemoryPoint], kv_bytes_per_token: int, rounding_bytes: float, *, quadratic: bool) -> BytesFit:
    terms = _determined(used, ("constant", "token", "square") if quadratic else ("constant", "token"))
    design = np.array([[_TERMS[name](p.batch, p.context) for name in terms] for p in used], dtype=np.float64)
    target = np.array([float(p.peak_bytes or 0.0) - kv_bytes_per_token * p.tokens for p in used])
    terms, coefficients = _non_negative(design, target, terms)
    kept = np.array([[_TERMS[name](p.batch, p.context) for name in terms] for p in used], dtype=np.float64)
    residual = target - kept @ coefficients
    dof = len(used) - len(terms)
    scatter = math.sqrt(float(residual @ residual) / dof) if dof else 0.0
    known = rounding_bytes / math.sqrt(12)
    sigma, nu = (known, math.inf) if known >= scatter else (scatter, float(dof))
    scale = np.abs(kept).max(axis=0)  # squares of 10⁵ tokens beside a constant 1 would lose all digits
    inverse = np.linalg.pinv((kept / scale).T @ (kept / scale)) / np.outer(scale, scale)
    value = dict(zip(terms, coefficients.tolist(), strict=True))
    return BytesFit(
        kv_bytes_per_token=kv_bytes_per_token, constant_bytes=value.get("constant", 0.0), token_bytes=value.get("token", 0.0),
        square_bytes=value.get("square", 0.0), covariance=sigma**2 * inverse, terms=terms, scatter_bytes=sigma, dof=nu,
        largest_bytes=max(float(p.peak_bytes or 0.0) for p in used),
    )  # fmt: skip


def _beyond_kinks(points: Sequence[MemoryPoint], *, quadratic: bool) -> list[MemoryPoint]:
    """Leave small probes out, whose peak may be another moment, where enough larger ones determine the terms."""
    largest = max((p.tokens for p in points), default=0)
    upper = [p for p in points if p.tokens >= UPPER_SHARE * largest]
    return upper if len(upper) >= (3 if quadratic else 2) + SPARE_POINTS else list(points)


def _determined(points: Sequence[MemoryPoint], terms: tuple[str, ...]) -> tuple[str, ...]:
    """Terms that the probes tell apart: at one context, batch scales tokens and squares alike."""
    if len({p.context for p in points}) == 1:
        terms = tuple(name for name in terms if name != "square")
    sizes = len({(p.batch, p.context) for p in points})
    if sizes < len(terms):
        raise ValueError(
            f"{sizes} different probes that fit do not determine {len(terms)} terms of bytes(batch, context): probe more sizes "
            "well below the capacity."
        )
    return terms


def _non_negative(design: FloatArray, target: FloatArray, terms: tuple[str, ...]) -> tuple[tuple[str, ...], FloatArray]:
    """Least squares with coefficients >= 0; what would be negative is left out, the constant never."""
    scale = np.abs(design).max(axis=0)
    solution = optimize.nnls(design / scale, target)[0]
    keep = [i for i, name in enumerate(terms) if name == "constant" or solution[i] > 0]
    coefficients, *_ = np.linalg.lstsq(design[:, keep] / scale[keep], target, rcond=None)
    return tuple(terms[i] for i in keep), np.asarray(coefficients / scale[keep])


# --- time ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeTrend:
    """Time of a pass before the cliff: ``fixed + token·B·T + square·B·T²``, all >= 0."""

    fixed_s: float
    token_s: float
    square_s: float

    def at(self, *, batch: float, context: float) -> float:
        """Expected seconds."""
        return self.fixed_s + self.token_s * batch * context + self.square_s * batch * context**2


def time_trend(points: Sequence[MemoryPoint]) -> TimeTrend | None:
    """Trend of the probes given, each weighted by its own time; None of fewer than :data:`MIN_TREND_POINTS`."""
    used = [p for p in points if p.outcome is Outcome.FITS and p.seconds]
    if len(used) < MIN_TREND_POINTS:
        return None
    seconds = np.array([float(p.seconds or 0.0) for p in used])
    design = np.array([[1.0, p.tokens, p.tokens * p.context] for p in used])
    scale = np.abs(design).max(axis=0)
    solution = optimize.nnls(design / scale / seconds[:, None], np.ones(len(used)))[0] / scale
    return TimeTrend(fixed_s=float(solution[0]), token_s=float(solution[1]), square_s=float(solution[2]))


def slowdown(point: MemoryPoint, trend: TimeTrend | None) -> float:
    """Time of a probe over its trend; NaN where either is unknown."""
    expected = trend.at(batch=point.batch, context=point.context) if trend else 0.0
    return point.seconds / expected if point.seconds is not None and expected > 0 else math.nan


def classify(point: MemoryPoint, *, capacity_bytes: float, trend: TimeTrend | None) -> Outcome:
    """What a probe shows: its own outcome, or SPILL where it ran beyond the capacity or :data:`SPILL_FACTOR` times too slowly."""
    if point.outcome is not Outcome.FITS:
        return point.outcome
    beyond = point.peak_bytes is not None and point.peak_bytes > capacity_bytes
    return Outcome.SPILL if beyond or slowdown(point, trend) >= SPILL_FACTOR else Outcome.FITS


# --- the search ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """The last size that fits and the first that does not."""

    fits: int
    """0 where nothing fitted."""
    fails: int | None
    """None where nothing failed up to the ceiling."""
    reason: Outcome | None
    """Why the first that does not fit does not."""


def bracket(sizes: Sequence[tuple[int, Outcome]]) -> Bracket:
    """Bracket that a search found: its smallest failure, and the largest success below it."""
    failed = {size: outcome for size, outcome in sizes if outcome is not Outcome.FITS}
    first = min(failed, default=None)
    below = [size for size, outcome in sizes if outcome is Outcome.FITS and (first is None or size < first)]
    return Bracket(fits=max(below, default=0), fails=first, reason=failed[first] if first is not None else None)


def settled(sizes: Sequence[tuple[int, Outcome]]) -> list[tuple[int, Outcome]]:
    """One outcome for each size, in the order in which they were first tried: where a size was tried again, fitting once is fitting.

    Only what spilled by its time alone is tried again: a busy host can slow a pass, and cannot speed one up.
    """
    out: dict[int, Outcome] = {}
    for size, outcome in sizes:
        out[size] = outcome if out.get(size) is not Outcome.FITS else Outcome.FITS
    return list(out.items())


def contradictions(sizes: Sequence[tuple[int, Outcome]]) -> int:
    """Successes above the smallest failure: the limit moved while it was searched."""
    first = bracket(sizes).fails
    return sum(outcome is Outcome.FITS and first is not None and size > first for size, outcome in sizes)


def next_size(
    sizes: Sequence[tuple[int, Outcome]], *, start: int, floor: int, ceiling: int | None, resolution: float, downwards: bool
) -> int | None:
    """Next size to probe; None when the bracket is as narrow as asked.

    Doubles from ``start`` until something fails (or halves until something fits), then bisects until the bracket is at most
    ``resolution`` of its lower end, one at least. ``ceiling`` is the largest size worth trying: the first that the architecture
    refuses; it is tried right after the one below it fits.
    """
    found = bracket(sizes)
    if not sizes:
        return min(start, ceiling) if ceiling else start
    if found.fails is None:
        return _doubled(found.fits, ceiling)
    if found.fits == 0:
        return None if found.fails <= floor else max(floor, found.fails // 2)
    return _bisected(found, sizes, ceiling=ceiling, resolution=resolution, downwards=downwards)


def _doubled(fits: int, ceiling: int | None) -> int | None:
    if ceiling is None:
        return None if fits >= LARGEST_CONTEXT else 2 * fits
    return None if fits >= ceiling else ceiling if fits == ceiling - 1 else min(2 * fits, ceiling - 1)


def _bisected(
    found: Bracket, sizes: Sequence[tuple[int, Outcome]], *, ceiling: int | None, resolution: float, downwards: bool
) -> int | None:
    fails = int(found.fails or 0)
    if found.reason is Outcome.ARCHITECTURE_LIMIT and ceiling and found.fits < ceiling - 1 and not _tried(sizes, ceiling - 1):
        return ceiling - 1
    if fails - found.fits <= max(1, int(resolution * found.fits)):
        return None
    middle = (found.fits + fails) // 2
    return middle + (1 if downwards and middle + 1 < fails else 0)  # the way down looks between the steps of the way up


def _tried(sizes: Sequence[tuple[int, Outcome]], size: int) -> bool:
    return any(tried == size for tried, _ in sizes)


# --- fragmentation ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorState:
    """An allocator at one moment, in bytes."""

    allocated_bytes: int
    """Handed out to the program."""
    reserved_bytes: int
    """Taken from the device, in use or not."""
    active_bytes: int
    """Handed out, or freed and still waiting for work on another stream."""
    inactive_split_bytes: int | None
    """Free blocks that are a part of a larger segment, which cannot be returned while another part is in use; None where not told."""
    largest_free_bytes: int | None
    """Largest free block inside the segments; None where the allocator does not tell."""
    segments: int = 0
    """How many pieces the reserved memory has."""

    def __post_init__(self) -> None:
        """An allocator cannot hand out what it has not got."""
        split = self.inactive_split_bytes or 0
        if min(self.allocated_bytes, self.reserved_bytes, self.active_bytes, split) < 0:
            raise ValueError("bytes of an allocator must be >= 0.")
        if self.allocated_bytes > self.reserved_bytes or split > self.reserved_bytes:
            raise ValueError(
                f"allocated ({self.allocated_bytes}) and inactive split bytes ({split}) cannot exceed the reserved {self.reserved_bytes}."
            )

    @property
    def free_bytes(self) -> int:
        """Reserved and not in use."""
        return self.reserved_bytes - max(self.allocated_bytes, self.active_bytes)


def inactive_split_share(state: AllocatorState) -> float:
    """Bytes of split free blocks over reserved bytes, 0 to 1; 0 without reserved memory, NaN where the allocator does not tell them."""
    if state.inactive_split_bytes is None:
        return math.nan
    return state.inactive_split_bytes / state.reserved_bytes if state.reserved_bytes else 0.0


def largest_block_fragmentation(state: AllocatorState) -> float:
    """1 − largest free block ÷ free bytes, 0 to 1; 0 where nothing is free, NaN where the allocator does not tell its blocks."""
    if state.inactive_split_bytes is None and state.largest_free_bytes is None:
        return math.nan
    if state.free_bytes <= 0:
        return 0.0
    return math.nan if state.largest_free_bytes is None else max(0.0, 1.0 - state.largest_free_bytes / state.free_bytes)


def slack(state: AllocatorState) -> float:
    """Reserved and not allocated over reserved, 0 to 1: what an allocator keeps, in one piece or in many; NaN where it tells nothing."""
    if state.inactive_split_bytes is None:
        return math.nan
    return 1.0 - state.allocated_bytes / state.reserved_bytes if state.reserved_bytes else 0.0


FRAGMENTATIONS: dict[str, Callable[[AllocatorState], float]] = {
    "inactive split": inactive_split_share,
    "largest block": largest_block_fragmentation,
    "slack": slack,
}
"""Definitions by name."""


def growth_per_repeat(allocated_bytes: Sequence[float]) -> float:
    """What each repetition leaves behind in bytes, from the states after each.

    Mean rise, without the first state (its repetition fills caches) and without the largest single rise (one late cache is no leak).
    """
    rises = np.diff(np.asarray(allocated_bytes[1:], dtype=np.float64))
    if len(rises) < 2:
        raise ValueError(f"growth needs at least 4 states (got {len(allocated_bytes)}).")
    return float((rises.sum() - max(0.0, float(rises.max()))) / (len(rises) - 1))
