"""What is known of the energies of windows: values, budgets, tiers, whichever instrument they come from.

:func:`~pytest_physics.metrology.energy.window_energy` and :func:`~pytest_physics.metrology.counter.counter_energy` fill the same
:class:`WindowEnergies`, arrays over M windows; :func:`window_estimates` turns one of them into estimates with components whose
sources say which errors are shared: the gain and the zero by all windows of an instrument, the baseline by all that subtract it,
the rest by gross and net of one window only. A window that cannot be used comes with a gate that says why.

Reference: GUM (JCGM 100:2008), 4.3 and G.4 for evaluation and degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_physics.metrology.gaps import MAX_GAP_S
from pytest_physics.metrology.quality import Provenance, Quality, tier
from pytest_physics.metrology.uncertainty import Component, Distribution, Estimate, Evaluation, Gate, Recipe
from pytest_physics.metrology.updates import BoolArray, FloatArray, IntArray, seconds_since

TYPE_B_DOF = 50.0
"""Degrees of freedom of a standard uncertainty taken from elsewhere (GUM G.4.2: known to about 10 %)."""

Shared = Literal["window", "baseline", "gain", "offset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdlePower:
    """Idle power of the device in the state in which the windows were measured: one baseline, or several in order of time."""

    t_ns: tuple[int, ...]
    """Middle of each baseline."""
    power_w: tuple[float, ...]
    """Mean of each baseline; linear in between, constant outside."""
    u_w: float
    """Standard uncertainty of a baseline's mean."""
    dof: float = math.inf
    identity: str = "idle"
    """Which baseline(s): energies with the same identity share this error."""

    def __post_init__(self) -> None:
        """Refuse what is no baseline."""
        if not self.t_ns or len(self.t_ns) != len(self.power_w) or list(self.t_ns) != sorted(self.t_ns):
            raise ValueError(f"'t_ns' must be ascending and pair with 'power_w' (got {self.t_ns} and {self.power_w}).")
        if not (self.u_w >= 0 and self.dof > 0 and all(map(math.isfinite, self.power_w))):
            raise ValueError(f"'u_w' must be >= 0, 'dof' > 0 and 'power_w' finite (got {self.u_w}, {self.dof}, {self.power_w}).")

    @classmethod
    def constant(cls, power_w: float, *, u_w: float, dof: float = math.inf, identity: str = "idle") -> IdlePower:
        """One baseline."""
        return cls(t_ns=(0,), power_w=(power_w,), u_w=u_w, dof=dof, identity=identity)

    def at(self, t_ns: IntArray) -> FloatArray:
        """Idle power at ``t_ns``."""
        anchors_s = seconds_since(np.array(self.t_ns), self.t_ns[0])
        return np.interp(seconds_since(t_ns, self.t_ns[0]), anchors_s, self.power_w)

    @property
    def u_with_drift_w(self) -> float:
        """``u_w``, or the drift between baselines over √12 where that is larger."""
        return max(self.u_w, (max(self.power_w) - min(self.power_w)) / math.sqrt(12))


class Estimator(IntEnum):
    """How a window's energy was computed."""

    NONE = 0
    EXTENDED = 1
    SHIFTED = 2
    COUNTER_BRACKETED = 3
    COUNTER_INTERPOLATED = 4

    @property
    def title(self) -> str:
        """As it is shown beside the number."""
        return _TITLES[self]


_TITLES = {
    Estimator.NONE: "none",
    Estimator.EXTENDED: "extended window",
    Estimator.SHIFTED: "in-window, shifted",
    Estimator.COUNTER_BRACKETED: "counter, idle-bracketed",
    Estimator.COUNTER_INTERPOLATED: "counter, interpolated",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One line of the budget for M windows: signed contribution to gross and net energy, in joules."""

    gross_j: FloatArray
    net_j: FloatArray
    dof: float = math.inf
    """Degrees of freedom of the standard uncertainty."""

    def where(self, chosen: BoolArray, other: Term) -> Term:
        """The term itself where ``chosen``, ``other`` elsewhere."""
        return Term(
            gross_j=np.where(chosen, self.gross_j, other.gross_j),
            net_j=np.where(chosen, self.net_j, other.net_j),
            dof=min(self.dof, other.dof),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TermKind:
    """What is the same for a budget line in every window."""

    shared: Shared = "window"
    """Which other energies carry the same error."""
    evaluation: Evaluation = "B"
    distribution: Distribution = "normal"
    dof: float = math.inf
    common_scale: bool = False


TERM_KINDS: Mapping[str, TermKind] = {
    "gain": TermKind(shared="gain", dof=TYPE_B_DOF, common_scale=True),
    "offset": TermKind(shared="offset", dof=TYPE_B_DOF),
    "baseline": TermKind(shared="baseline", evaluation="A"),
    "idle beside the window": TermKind(evaluation="A"),
    "quantisation": TermKind(distribution="rectangular"),
    "edges": TermKind(),  # two of them at least: their sum is triangular, nearer to normal than to a rectangle
    "under-sampling": TermKind(),
    "noise": TermKind(evaluation="A"),
    "clock sync": TermKind(),
    "gaps": TermKind(distribution="rectangular"),
}
"""Every label a budget may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowEnergies:
    """Energies of M windows with their budgets; all arrays have shape (M,)."""

    t0_ns: IntArray
    t1_ns: IntArray
    gross_j: FloatArray
    """All energy of the device in the window; NaN where there is no data."""
    net_j: FloatArray
    """Gross less idle power times the window's length."""
    terms: Mapping[str, Term]
    """Budget by label; see :data:`TERM_KINDS`."""
    estimator: NDArray[np.int8]
    """:class:`Estimator` of each window."""
    n_updates: IntArray
    """Distinct sensor updates, or counter ticks, inside the window."""
    gap_fraction: FloatArray
    """Share of the window, or of the window with its tail where that is larger, that lies in gaps."""
    longest_gap_s: FloatArray
    bracketed: BoolArray
    """Whether valid samples lie on both sides of all that was integrated."""
    interrupted: BoolArray
    """Whether a counter was reset inside."""
    dispersion_w: FloatArray
    """Standard deviation of the readings over the window; NaN for a counter."""
    coverage: float
    """Share of the time the sensor looks; 1 for a counter."""
    idle: IdlePower

    def __len__(self) -> int:
        return len(self.t0_ns)

    @property
    def duration_s(self) -> FloatArray:
        """Length of each window."""
        return (self.t1_ns - self.t0_ns) / 1e9

    def take(self, index: IntArray) -> WindowEnergies:
        """Windows ``index``, in that order."""
        arrays: dict[str, Any] = {
            item.name: value[index] for item in fields(self) if isinstance(value := getattr(self, item.name), np.ndarray)
        }
        terms = {label: replace(term, gross_j=term.gross_j[index], net_j=term.net_j[index]) for label, term in self.terms.items()}
        return replace(self, terms=terms, **arrays)

    def u_net_j(self) -> FloatArray:
        """Standard uncertainty of net energy, common scale apart."""
        return root_sum_square(*(term.net_j for label, term in self.terms.items() if not TERM_KINDS[label].common_scale))

    def u_gross_j(self) -> FloatArray:
        """Standard uncertainty of gross energy, common scale apart."""
        return root_sum_square(*(term.gross_j for label, term in self.terms.items() if not TERM_KINDS[label].common_scale))


def root_sum_square(*parts: FloatArray | float) -> FloatArray:
    """Root of the sum of squares."""
    total: FloatArray = np.zeros(())
    for part in parts:
        total = total + np.square(part)
    root: FloatArray = np.sqrt(total)
    return root


def window_bounds(t0_ns: ArrayLike, t1_ns: ArrayLike) -> tuple[IntArray, IntArray]:
    """Windows as arrays of shape (M,); raises ``ValueError`` for an empty or reversed one."""
    t0, t1 = np.atleast_1d(np.asarray(t0_ns, np.int64)), np.atleast_1d(np.asarray(t1_ns, np.int64))
    if t0.ndim != 1 or t0.shape != t1.shape:
        raise ValueError(f"'t0_ns' and 't1_ns' must be one-dimensional and of equal length (got {t0.shape} and {t1.shape}).")
    if not np.all(t1 > t0):
        first = int(np.argmin(t1 > t0))
        raise ValueError(f"window {first} must end after it begins (got t0 = {t0[first]} ns, t1 = {t1[first]} ns).")
    return t0, t1


def limit_s(limit_ns: ArrayLike | None, origin_ns: int, count: int, otherwise: float) -> FloatArray:
    """A limit per window in seconds from the origin."""
    if limit_ns is None:
        return np.full(count, otherwise)
    return np.broadcast_to(seconds_since(np.asarray(limit_ns, np.int64), origin_ns), (count,))


def net_of_baseline(energies: WindowEnergies, baseline: IdlePower) -> WindowEnergies:
    """The same windows with net energy referred to ``baseline``.

    For energies computed with the idle level *beside* each window, which is in the P-state that the window's tail was in: a card
    that idles at 20 W for seconds after work and at 3 W later would otherwise have those 20 W counted as the event's. Gross
    energy does not change; net becomes gross less the baseline's power over the window's length.
    """
    idle_j = baseline.at((energies.t0_ns + energies.t1_ns) // 2) * energies.duration_s
    net = energies.gross_j - idle_j
    zero = np.zeros(len(energies))
    scale = np.where(energies.gross_j != 0, net / np.where(energies.gross_j != 0, energies.gross_j, 1.0), 0.0)
    terms = {label: replace(term, net_j=term.gross_j) for label, term in energies.terms.items()}
    beside = terms.pop("baseline", Term(gross_j=zero, net_j=zero))
    gain = terms.pop("gain")
    terms |= {
        "idle beside the window": beside,
        "baseline": Term(gross_j=zero, net_j=-baseline.u_with_drift_w * energies.duration_s, dof=baseline.dof),
        "gain": Term(gross_j=gain.gross_j, net_j=gain.gross_j * scale),
    }
    if "offset" in terms:
        terms["offset"] = Term(gross_j=terms["offset"].gross_j, net_j=zero)
    return replace(energies, net_j=net, terms=terms, idle=baseline)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyEstimates:
    """Gross and net energy of one window; each has its own tier."""

    gross: Estimate
    net: Estimate


def window_estimates(
    energies: WindowEnergies,
    index: int = 0,
    *,
    instrument: str,
    gain_source: str | None = None,
    offset_source: str | None = None,
    max_gap_s: float = MAX_GAP_S,
    provenance: Provenance = Provenance.MEASURED,
    recipes: tuple[Recipe, Recipe] | None = None,
    interrupted: bool = False,
) -> EnergyEstimates:
    """Estimates of window ``index``.

    Parameters
    ----------
    energies
        From :func:`window_energy` or :func:`~pytest_physics.metrology.counter.counter_energy`.
    index
        Which window.
    instrument
        Name of the instrument: errors of one instrument are shared by its windows.
    gain_source, offset_source
        Identity of the scale's and the zero's error; default ``gain|<instrument>`` and ``offset|<instrument>``. Counter and power
        of a card that share their analogue part are given the same one, and separate ones where they do not.
    max_gap_s
        A longer gap makes the window GAPPY.
    provenance
        Where the readings come from.
    recipes
        How to compute gross and net again; by default the recipe names window, instrument and estimator.
    interrupted
        The sampler was reported dead or stopped inside the window.
    """
    name = f"{instrument}|{int(energies.t0_ns[index])}|{int(energies.t1_ns[index])}"
    kind = "counter" if energies.estimator[index] >= Estimator.COUNTER_BRACKETED else "power"
    sources: dict[Shared, str] = {
        "gain": gain_source or f"gain|{instrument}",
        "offset": offset_source or f"offset|{instrument}",
        "baseline": f"baseline|{instrument}|{energies.idle.identity}",
        "window": f"{kind}|{name}",
    }
    stopped = interrupted or bool(energies.interrupted[index])
    made: list[Estimate] = []
    for position, side in enumerate(("gross", "net")):
        recipe = recipes[position] if recipes else _default_recipe(energies, index, instrument, side)
        bare = Estimate(
            value=float((energies.gross_j if side == "gross" else energies.net_j)[index]),
            unit="J",
            components=_components(energies, index, side, sources),
            provenance=provenance,
            estimator=Estimator(energies.estimator[index]).title,
            recipe=recipe,
        )
        made.append(_graded(bare, energies, index, max_gap_s=max_gap_s, interrupted=stopped))
    return EnergyEstimates(gross=made[0], net=made[1])


def _default_recipe(energies: WindowEnergies, index: int, instrument: str, side: str) -> Recipe:
    parameters = {
        "instrument": instrument,
        "t0_ns": int(energies.t0_ns[index]),
        "t1_ns": int(energies.t1_ns[index]),
        "kind": side,
        "estimator": Estimator(energies.estimator[index]).title,
    }
    return Recipe(op="energy", parameters=parameters)


def _components(energies: WindowEnergies, index: int, side: str, sources: Mapping[Shared, str]) -> tuple[Component, ...]:
    """Lines of the budget; a zero line is left out, a NaN one is kept."""
    lines = []
    for label, term in energies.terms.items():
        contribution = float((term.gross_j if side == "gross" else term.net_j)[index])
        kind = TERM_KINDS[label]
        if contribution == 0:
            continue
        source = sources[kind.shared] if kind.shared != "window" else f"{label}|{sources['window']}"
        lines.append(
            Component(
                label=label,
                source=source,
                contribution=contribution,
                dof=min(term.dof, kind.dof),
                evaluation=kind.evaluation,
                distribution=kind.distribution,
                common_scale=kind.common_scale,
            )
        )
    return tuple(lines)


def _graded(estimate: Estimate, energies: WindowEnergies, index: int, *, max_gap_s: float, interrupted: bool) -> Estimate:
    """The estimate with its tier, and with a gate that says why where the tier refuses."""
    duration_s = float(energies.duration_s[index])
    quality = tier(
        n_updates=int(energies.n_updates[index]),
        gap_fraction=float(energies.gap_fraction[index]),
        longest_gap_s=float(energies.longest_gap_s[index]),
        max_gap_s=max_gap_s,
        bracketed=bool(energies.bracketed[index]),
        duration_s=duration_s,
        relative_uncertainty=estimate.relative_without_scale,
        interrupted=interrupted,
    )
    if quality >= Quality.ESTIMATE:
        return replace(estimate, quality=quality)
    gate = _refusal(energies, index, max_gap_s=max_gap_s, interrupted=interrupted)
    return replace(estimate, quality=quality, gates=(*estimate.gates, gate))


def _refusal(energies: WindowEnergies, index: int, *, max_gap_s: float, interrupted: bool) -> Gate:
    """Why a window has no usable energy, first cause first."""
    n, gap_s = int(energies.n_updates[index]), float(energies.longest_gap_s[index])
    gap_percent = 100 * float(energies.gap_fraction[index])
    duration_s = float(energies.duration_s[index])
    if bool(energies.interrupted[index]):
        name, measured, limit, unit = "energy counter", 1.0, 0.0, "resets"
        reason = "the energy counter went backwards inside the window (a driver reload or an overflow)"
        remedy = "use the power integral, or measure the window again"
    elif interrupted or not energies.bracketed[index]:
        name, measured, limit, unit = "sampler", 0.0, 1.0, "bracketing samples"
        reason = "no valid samples on both sides of the window: the sampler was not running or every read failed"
        remedy = "see the sampler's statistics and read errors; keep it running until the window's tail has passed"
    elif n < 2:
        name, measured, limit, unit = "sensor updates", float(n), 2.0, "updates"
        reason = f"the sensor updated {n} times inside {duration_s:.3g} s (needed: at least 2)"
        remedy = "lengthen the window, or repeat the event in one window"
    else:
        name, measured, limit, unit = "sampling gaps", gap_s, max_gap_s, "s"
        reason = f"gaps cover {gap_percent:.1f} % of the window (limit 10 %), the longest {gap_s:.3g} s (limit {max_gap_s:g} s)"
        remedy = "find what stopped the reads (errors, suspended process, overloaded host) and measure again"
    scope = f"window {int(energies.t0_ns[index])} to {int(energies.t1_ns[index])} ns"
    return Gate(name=name, scope=scope, measured=measured, limit=limit, unit=unit, passed=False, reason=reason, remedy=remedy)


def mismatch(counter: Estimate, integral: Estimate) -> Estimate:
    """Relative difference of counter and power integral for one window; a scale that both share cancels."""
    return counter / integral - 1.0
