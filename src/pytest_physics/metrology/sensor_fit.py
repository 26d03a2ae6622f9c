"""What lies between true power and a reading: window, lag and delay of a sensor, fitted to readings under a known load.

Model: ``y_k = b + g · (h ∗ u)(t_k − d) + e_k`` at update instants t_k, with u the known piecewise-constant load, and h of unit area:
a box of width W, a first-order lag τ, or box ∗ lag. With the cumulative integral I(t) of u, the box gives ``[I(t) − I(t − W)] / W``;
the lag follows exactly from edge to edge, and its integral is ``I(t) − τ (l(t) − l_0)``. Gain and offset are linear and profiled out
with g > 0; the rest comes from a coarse grid, then least squares; covariance is the sandwich ``(JᵀJ)⁻¹ Jᵀ diag(r²) J (JᵀJ)⁻¹``, widened
by the systematic floor u = max(0.1 ms, 0.5 % of τ), because edges of a load are not infinitely steep.

The shape is chosen by BIC: box or lag, the better of the two if ΔBIC > 10 (else both are reported, ``ambiguous``), and box ∗ lag only if
it beats that by more than 10. A lag below 3 ms beside a box is the card's own electrical rise and does not change the shape's name.

Refuses (:class:`RefusedError`):

* a load that never ran or a sensor that does not answer: the fit explains less than half of the variance;
* load edges in step with updates (circular discrepancy of their phases);
* *data that fit two windows*: a periodic load with free gain fits W, W + P and (at 50 % duty) P − W equally, because
  ``m_{P−W}(t) = c + [W/(P−W)] · m_W(t − (P−W) + P/2)``. Found by comparing separate minima, whatever the load. Remedy: a random-telegraph
  load (:func:`telegraph`), or a gain known from plateaus (``gain``).

Reference: Yang, Adamek, Armour (arXiv 2312.02741) for the problem; White, Econometrica 48 (1980) for the covariance; Kass and Raftery,
J. Am. Stat. Assoc. 90 (1995) for ΔBIC > 10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from pytest_physics.metrology.refusal import refuse
from pytest_physics.metrology.repetition import circular_discrepancy
from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.uncertainty import Gate, coverage_factor
from pytest_physics.metrology.update_period import Readings, UpdatePeriod

FloatArray = NDArray[np.float64]

DECISIVE_BIC = 10.0
"""Difference in BIC from which one model is chosen over another."""
FLOOR_S = 1e-4
"""Systematic floor of every fitted time."""
FLOOR_LAG_SHARE = 0.005
EDGE_LAG_S = 0.003
"""A lag up to this beside a box belongs to the load's electrical rise; a box up to √12 of it beside a lag has the same spread."""
MIN_EXPLAINED = 0.5
"""Share of the readings' variance that the load must explain."""
MIN_READINGS = 20
MAX_PHASE_DISCREPANCY = 0.25
"""Largest circular discrepancy of load edges on the comb; 8 or more random edges stay below."""
MIN_EDGES_FOR_PHASE = 16
"""Fewer edges (a single step) are not tested for being in step with the sensor; the uncertainty tells."""
SAME_SHARE = 0.1
"""Minima closer than this share of their parameter are one minimum."""
GRID_RATIO = 1.15
"""Ratio of neighbouring windows on the coarse grid: wider than a minimum is narrow."""
HOPELESS = 10.0
"""Local minima of the grid with more than this many times the lowest sum of squares are not polished."""
POLISHED = 5
"""Local minima of the coarse grid that are polished."""
TELEGRAPH_SHORTEST_S = 0.003
"""Shorter kernels are not started and stopped reliably."""


class Shape(StrEnum):
    """Kernel of a sensor."""

    BOX = "box"
    LAG = "lag"
    BOX_LAG = "box * lag"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Load:
    """A known piecewise-constant load: ``level[i]`` before ``edge_s[i]``, the last level after the last edge."""

    edge_s: FloatArray
    """Instants of change, increasing, seconds from the readings' origin, shape (E,)."""
    level: FloatArray
    """Load between edges, any unit (0 off, 1 on; or watts), shape (E + 1,)."""

    def __post_init__(self) -> None:
        """Refuse what is no load."""
        if len(self.level) != len(self.edge_s) + 1 or len(self.edge_s) == 0:
            raise ValueError(f"'level' needs one value more than 'edge_s' (got {len(self.level)} and {len(self.edge_s)}).")
        if np.any(np.diff(self.edge_s) <= 0):
            raise ValueError("'edge_s' must increase; merge edges at the same instant.")

    def integral(self, t_s: FloatArray) -> FloatArray:
        """∫u from the first edge to ``t_s``, any shape; negative direction before it."""
        knots = np.concatenate([[0.0], np.cumsum(self.level[1:-1] * np.diff(self.edge_s))])
        before = np.minimum(t_s - self.edge_s[0], 0.0) * self.level[0]
        after = np.maximum(t_s - self.edge_s[-1], 0.0) * self.level[-1]
        total: FloatArray = np.interp(t_s, self.edge_s, knots) + before + after
        return total

    def lagged(self, t_s: FloatArray, lag_s: float) -> FloatArray:
        """First-order response to the load, settled on its first level before the first edge."""
        kept = np.exp(-np.diff(self.edge_s) / lag_s).tolist()
        state, states = float(self.level[0]), [float(self.level[0])]
        for share, level in zip(kept, self.level[1:-1].tolist(), strict=True):
            state = level + (state - level) * share
            states.append(state)
        index = np.searchsorted(self.edge_s, t_s, side="right") - 1
        inside = np.maximum(index, 0)
        driven = self.level[inside + 1]
        decay = np.exp(-np.maximum(t_s - self.edge_s[inside], 0.0) / lag_s)
        out: FloatArray = np.where(index < 0, self.level[0], driven + (np.array(states)[inside] - driven) * decay)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFit:
    """One kernel fitted to the readings."""

    shape: Shape
    window_s: float
    """W, 0 for a pure lag."""
    lag_s: float
    """τ, 0 for a box."""
    delay_s: float
    """From the end of the averaging window to the reading; carries any offset between the clocks of load and readings."""
    gain: float
    """Watts per unit of load."""
    offset_w: float
    u_window_s: float
    u_lag_s: float
    u_delay_s: float
    u_gain: float
    """In watts per unit of load."""
    residual_w: float
    """Root mean square of the residuals."""
    explained: float
    """R²: share of the variance that the model explains."""
    bic: float
    n_readings: int
    effective_readings: float
    """How many readings carry the timing: (Σh)²/Σh² with h the leverage on it."""

    @property
    def in_words(self) -> str:
        """Width, delay and gain for messages."""
        return f"of {self.width_s * 1e3:.4g} ms (delay {self.delay_s * 1e3:.4g} ms, gain {self.gain:.4g})"

    @property
    def width_s(self) -> float:
        """The parameter that names the kernel: τ for a lag, else W."""
        return self.lag_s if self.shape is Shape.LAG else self.window_s

    def same_as(self, other: ModelFit, delay_s: float) -> bool:
        """Whether both are one minimum: widths within 10 %, delays within ``delay_s`` (or 10 % of the width)."""
        wide_s = max(self.width_s, other.width_s)
        near = abs(self.width_s - other.width_s) <= SAME_SHARE * wide_s
        return near and abs(self.delay_s - other.delay_s) <= max(delay_s, SAME_SHARE * wide_s)

    @property
    def named_shape(self) -> Shape:
        """The kernel without the load's own electrical rise."""
        if self.shape is Shape.BOX_LAG and self.lag_s <= max(EDGE_LAG_S, 0.02 * self.window_s):
            return Shape.BOX
        if self.shape is Shape.BOX_LAG and self.window_s <= max(math.sqrt(12) * EDGE_LAG_S, 0.1 * self.lag_s):
            return Shape.LAG
        return self.shape


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorFit:
    """The chosen kernel, and every kernel tried."""

    best: ModelFit
    fits: tuple[ModelFit, ...]
    """All kernels tried, best BIC first."""
    ambiguous: bool
    """Whether another kernel is within ΔBIC ≤ 10, so that the data do not decide."""

    @property
    def delta_bic(self) -> float:
        """BIC of the best other simple kernel minus that of the chosen one."""
        return min(fit.bic for fit in self.fits if fit is not self.best) - self.best.bic

    def to_sensor_model(self, period: UpdatePeriod, *, resolution_w: float) -> SensorModel:
        """The identified sensor; scale and offset stay uncalibrated.

        A negative delay is an offset between clocks: it is set to zero, and its size is added to its uncertainty.
        """
        best = self.best
        return SensorModel(
            update_period_s=period.period_s,
            u_update_period_s=period.u_period_s,
            window_s=best.window_s,
            u_window_s=best.u_window_s,
            lag_s=best.lag_s,
            u_lag_s=best.u_lag_s,
            delay_s=max(0.0, best.delay_s),
            u_delay_s=math.hypot(best.u_delay_s, min(0.0, best.delay_s)),
            resolution_w=resolution_w,
            origin="identified",
        )


def telegraph(
    seed: int | np.random.Generator, *, duration_s: float, update_period_s: float, suspected_lag_s: float = 0.0, start_s: float = 0.0
) -> Load:
    """A random on/off load that identifies any kernel: dwells ~ U(0.15 T, 1.1 T), at least 3 ms and up to four times that.

    Parameters
    ----------
    seed
        Of the schedule; the same seed gives the same load.
    duration_s
        From the first edge to the last.
    update_period_s
        T.
    suspected_lag_s
        A lag or window longer than T to be found too: every tenth dwell is then ~ U(T, 3 times this).
    start_s
        First edge, where the load goes on.
    """
    rng = np.random.default_rng(seed)
    shortest_s = max(TELEGRAPH_SHORTEST_S, 0.15 * update_period_s)
    count = 2 + math.ceil(duration_s / shortest_s)
    # dwells of one length would be a square wave, which identifies nothing: a fast sensor gets longer ones
    dwell_s = rng.uniform(shortest_s, max(1.1 * update_period_s, 4 * shortest_s), count)
    if suspected_lag_s > update_period_s:
        long = rng.random(count) < 0.1
        dwell_s[long] = rng.uniform(update_period_s, 3 * suspected_lag_s, int(long.sum()))
    edge_s = start_s + np.concatenate([[0.0], np.cumsum(dwell_s)])
    edge_s = edge_s[edge_s <= start_s + duration_s]
    edge_s = edge_s[: len(edge_s) // 2 * 2]  # ends off
    return Load(edge_s=edge_s, level=np.resize([0.0, 1.0], len(edge_s) + 1))


def response(load: Load, t_s: FloatArray, *, window_s: float, lag_s: float) -> FloatArray:
    """``(h ∗ u)(t)`` at instants of any shape, exactly."""
    if window_s <= 0:
        return load.lagged(t_s, lag_s) if lag_s > 0 else load.level[np.searchsorted(load.edge_s, t_s, side="right")]
    back_s = t_s - window_s
    mean: FloatArray = (load.integral(t_s) - load.integral(back_s)) / window_s
    if lag_s > 0:
        mean = mean - lag_s / window_s * (load.lagged(t_s, lag_s) - load.lagged(back_s, lag_s))
    return mean


def fit_sensor(
    readings: Readings,
    load: Load,
    *,
    update_period_s: float,
    delay_bounds_s: tuple[float, float] | None = None,
    longest_s: float | None = None,
    gain: float | None = None,
    u_edge_s: float = 0.0,
    scope: str = "power channel",
) -> SensorFit:
    """Fit box, lag and box ∗ lag to readings under a known load, or raise :class:`~pytest_physics.metrology.refusal.RefusedError`.

    Parameters
    ----------
    readings
        Distinct readings at their update instants.
    load
        The load, on the readings' clock and origin.
    update_period_s
        T, the scale of the search.
    delay_bounds_s
        Delays searched; −0.5 T … 2 T by default. Widen for clocks with an unknown offset.
    longest_s
        Longest window or lag searched; default 2 s or 12 T, and at most a third of the readings' span.
    gain
        Watts per unit of load where it is known from plateaus; free otherwise.
    u_edge_s
        Standard uncertainty of the load's edges: measured rise/√12 and host synchronisation.
    """
    t_s, y = readings.t_s, readings.power_w
    if len(y) < MIN_READINGS:
        refuse(
            "sensor fit: readings", scope=scope, measured=len(y), limit=MIN_READINGS, unit="1",
            reason=f"{len(y)} distinct readings are too few to fit a sensor (needed: {MIN_READINGS})",
            remedy="Run the load for longer, and check that the sensor's value changes under it.",
        )  # fmt: skip
    _check_in_step(load, update_period_s, scope)
    span_s = float(t_s[-1] - t_s[0])
    longest_s = longest_s or min(max(2.0, 12 * update_period_s), span_s / 3)
    search = _Search(
        t_s=t_s,
        y=y,
        load=load,
        gain=gain,
        delays_s=_delay_grid(update_period_s, delay_bounds_s),
        widths_s=np.exp(np.arange(math.log(min(0.02 * update_period_s, 5e-4)), math.log(longest_s), math.log(GRID_RATIO))),
        u_common_s=math.hypot(readings.u_t_s, u_edge_s),
        u_edge_s=u_edge_s,
    )
    box, lag = search.simple(Shape.BOX), search.simple(Shape.LAG)
    _check_answer(box[0], lag[0], scope)
    both = search.combined(box[0], lag[0])
    winner = min((box, lag), key=lambda minima: minima[0].bic)
    best = both if both.bic < winner[0].bic - DECISIVE_BIC else winner[0]
    _check_unique(winner, scope)
    fits = tuple(sorted((box[0], lag[0], both), key=lambda fit: fit.bic))
    return SensorFit(best=best, fits=fits, ambiguous=best is not both and abs(box[0].bic - lag[0].bic) <= DECISIVE_BIC)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Search:
    """Readings, load and the ranges searched."""

    t_s: FloatArray
    y: FloatArray
    load: Load
    gain: float | None
    delays_s: FloatArray
    widths_s: FloatArray
    u_common_s: float
    u_edge_s: float

    def kernel(self, shape: Shape, parameters: Sequence[float] | FloatArray) -> tuple[float, float, float]:
        """Window, lag and delay behind the parameters of a shape."""
        if shape is Shape.BOX:
            return float(parameters[0]), 0.0, float(parameters[1])
        if shape is Shape.LAG:
            return 0.0, float(parameters[0]), float(parameters[1])
        return float(parameters[0]), float(parameters[1]), float(parameters[2])

    def modelled(self, shape: Shape, parameters: FloatArray) -> FloatArray:
        """The response at the readings."""
        window_s, lag_s, delay_s = self.kernel(shape, parameters)
        return response(self.load, self.t_s - delay_s, window_s=window_s, lag_s=lag_s)

    def linear(self, m: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gain (not negative) and offset that fit best for responses of shape (…, N); both of shape (…)."""
        centred = m - m.mean(axis=-1, keepdims=True)
        if self.gain is not None:
            gain = np.full(m.shape[:-1], self.gain)
        else:
            power = (centred**2).sum(axis=-1)
            gain = np.maximum(0.0, centred @ (self.y - self.y.mean()) / np.where(power > 0, power, np.inf))
        return gain, self.y.mean() - gain * m.mean(axis=-1)

    def residuals(self, shape: Shape, parameters: FloatArray) -> FloatArray:
        """Readings minus model with gain and offset profiled out."""
        m = self.modelled(shape, parameters)
        gain, offset = self.linear(m)
        out: FloatArray = self.y - offset - gain * m
        return out

    def simple(self, shape: Shape) -> list[ModelFit]:
        """Minima of a box or a lag, best first; separate minima only."""
        cost = np.empty((len(self.widths_s), len(self.delays_s)))
        shifted = self.t_s - self.delays_s[:, None]
        for row, width in enumerate(self.widths_s):
            window_s, lag_s, _ = self.kernel(shape, (float(width), 0.0))
            m = response(self.load, shifted, window_s=window_s, lag_s=lag_s)
            gain, offset = self.linear(m)
            cost[row] = ((self.y - offset[:, None] - gain[:, None] * m) ** 2).sum(axis=-1)
        rows = _local_minima(cost.min(axis=1))[:POLISHED]
        starts = [(row, column) for row in rows for column in _local_minima(cost[row])[: POLISHED if row == rows[0] else 1]]
        starts = [start for start in starts if cost[start] <= HOPELESS * cost.min()]
        fits = sorted((self.polished(shape, [self.widths_s[row], self.delays_s[column]]) for row, column in starts), key=lambda f: f.bic)
        same_delay_s = 2 * float(self.delays_s[1] - self.delays_s[0])
        separate: list[ModelFit] = []
        for fit in fits:
            if not any(fit.same_as(kept, same_delay_s) for kept in separate):
                separate.append(fit)
        return separate

    def combined(self, box: ModelFit, lag: ModelFit) -> ModelFit:
        """Box ∗ lag, started near both simple fits and between them."""
        tiny = float(self.widths_s[0])
        starts = (
            (box.window_s, max(tiny, 0.05 * box.window_s), box.delay_s),
            (max(tiny, 0.2 * lag.lag_s), lag.lag_s, lag.delay_s),
            (max(tiny, 0.5 * box.window_s), max(tiny, 0.3 * box.window_s), box.delay_s),
            (lag.lag_s, max(tiny, 0.5 * lag.lag_s), lag.delay_s),
        )
        return min((self.polished(Shape.BOX_LAG, start) for start in starts), key=lambda fit: fit.bic)

    def polished(self, shape: Shape, start: Sequence[float]) -> ModelFit:
        """Least squares from a start, with covariance."""
        widths = len(start) - 1
        low = [float(self.widths_s[0]) / 4] * widths + [float(self.delays_s[0])]
        high = [2 * float(self.widths_s[-1])] * widths + [float(self.delays_s[-1])]
        scale, steps = np.maximum(np.abs(start), 1e-3), np.full(len(start), 1e-5)
        solution = optimize.least_squares(
            partial(self.residuals, shape), np.clip(start, low, high), bounds=(low, high), x_scale=scale, diff_step=steps, max_nfev=60
        )
        return self.described(shape, np.asarray(solution.x))

    def described(self, shape: Shape, parameters: FloatArray) -> ModelFit:
        """The fit with its sandwich covariance."""
        m = self.modelled(shape, parameters)
        gain, offset = (float(x) for x in self.linear(m))
        residual = self.y - offset - gain * m
        n, k = len(self.y), len(parameters) + (2 if self.gain is None else 1)
        covariance, leverage = self.covariance(shape, parameters, m, gain, residual)
        window_s, lag_s, delay_s = self.kernel(shape, parameters)
        # few readings on the edges leave few degrees of freedom: the stated u is the one whose 1.96-fold covers 95 %
        widening = coverage_factor(max(1.0, leverage - len(parameters))) / coverage_factor(math.inf)
        u_times = widening * np.sqrt(np.maximum(np.diag(covariance)[: len(parameters)], 0.0))
        u_window, u_lag, u_delay = self.kernel(shape, u_times)
        floor_s = math.hypot(max(FLOOR_S, FLOOR_LAG_SHARE * lag_s), self.u_edge_s)
        variance = float(residual @ residual) / n
        return ModelFit(
            shape=shape,
            window_s=window_s,
            lag_s=lag_s,
            delay_s=delay_s,
            gain=gain,
            offset_w=offset,
            u_window_s=math.hypot(u_window, floor_s) if window_s else 0.0,
            u_lag_s=math.hypot(u_lag, floor_s) if lag_s else 0.0,
            u_delay_s=math.hypot(u_delay, floor_s, self.u_common_s),
            u_gain=math.sqrt(covariance[len(parameters), len(parameters)]) if self.gain is None else 0.0,
            residual_w=math.sqrt(variance),
            explained=1 - variance / max(float(self.y.var()), 1e-300),
            bic=n * math.log(max(variance, 1e-12)) + k * math.log(n),
            n_readings=n,
            effective_readings=leverage,
        )

    def covariance(
        self, shape: Shape, parameters: FloatArray, m: FloatArray, gain: float, residual: FloatArray
    ) -> tuple[FloatArray, float]:
        """Sandwich covariance of (times, gain, offset), and how many readings carry the times."""
        columns = []
        for i, value in enumerate(parameters):
            step = np.zeros(len(parameters))
            step[i] = max(1e-5, 1e-3 * abs(value))
            columns.append(gain * (self.modelled(shape, parameters + step) - self.modelled(shape, parameters - step)) / (2 * step[i]))
        timing = len(columns)
        jacobian = np.column_stack([*columns, *([m] if self.gain is None else []), np.ones(len(m))])
        norm = np.linalg.norm(jacobian, axis=0)
        scale = np.where(norm > 0, norm, 1.0)  # without gain the times have no effect, and no covariance
        bread = np.linalg.pinv((jacobian / scale).T @ (jacobian / scale))
        weighted = jacobian / scale * residual[:, None]
        n, k = jacobian.shape
        covariance: FloatArray = bread @ (weighted.T @ weighted) @ bread / np.outer(scale, scale) * n / max(1, n - k)
        scaled = jacobian[:, :timing] / scale[:timing]
        leverage = np.einsum("ni,ij,nj->n", scaled, bread[:timing, :timing], scaled)
        return covariance, float(leverage.sum() ** 2 / max(float(leverage @ leverage), 1e-300))


def _delay_grid(update_period_s: float, bounds_s: tuple[float, float] | None) -> FloatArray:
    low, high = bounds_s or (-0.5 * update_period_s, 2 * update_period_s)
    return np.linspace(low, high, 2 + math.ceil((high - low) / (0.1 * update_period_s)))


def _local_minima(cost: FloatArray) -> list[int]:
    """Rows of local minima, ends included, lowest first."""
    padded = np.concatenate([[np.inf], cost, [np.inf]])
    rows = np.flatnonzero((cost <= padded[:-2]) & (cost <= padded[2:]))
    return [int(row) for row in rows[np.argsort(cost[rows])]]


def _check_in_step(load: Load, update_period_s: float, scope: str) -> None:
    """Edges that always fall on the same phases of the comb show the same few points of the kernel again and again."""
    if len(load.edge_s) < MIN_EDGES_FOR_PHASE:
        return
    discrepancy = circular_discrepancy(load.edge_s / update_period_s % 1.0)
    if discrepancy > MAX_PHASE_DISCREPANCY:
        refuse(
            "sensor fit: load in step", scope=scope, measured=discrepancy, limit=MAX_PHASE_DISCREPANCY, unit="1",
            reason=f"the load's edges are in step with the updates of {update_period_s * 1e3:.4g} ms: discrepancy of their phases "
            f"{discrepancy:.2f} (limit {MAX_PHASE_DISCREPANCY})",
            remedy="Use a random-telegraph load, or a load period that is no simple multiple of the update period.",
        )  # fmt: skip


def _check_answer(box: ModelFit, lag: ModelFit, scope: str) -> None:
    explained = max(box.explained, lag.explained)
    if not explained >= MIN_EXPLAINED:
        refuse(
            "sensor fit: answer", scope=scope, measured=explained, limit=MIN_EXPLAINED, unit="1",
            reason=f"the load explains {explained:.0%} of the readings' variance (needed: {MIN_EXPLAINED:.0%}): "
            "the load never ran, or the sensor does not answer to it",
            remedy="Check that the load reaches this device and changes its power by far more than the noise, and that clocks agree.",
        )  # fmt: skip


def _check_unique(minima: list[ModelFit], scope: str) -> None:
    best = minima[0]
    for other in minima[1:]:
        gap = other.bic - best.bic
        if gap <= DECISIVE_BIC:
            refuse(
                "sensor fit: unique", scope=scope, measured=gap, limit=DECISIVE_BIC, unit="1",
                reason=f"a {best.shape} {best.in_words} and one {other.in_words} fit the same data: "
                f"ΔBIC {gap:.1f} (needed: {DECISIVE_BIC:.0f})",
                remedy="Use a random-telegraph load, several load periods, or state the gain from the load's plateaus.",
            )  # fmt: skip


def modulation(fit: ModelFit, load_period_s: float, *, duty: float = 0.5) -> float:
    """Predicted peak-to-peak of the readings under a periodic on/off load, as a share of the full swing; 0 at a box's notches P = W/k."""
    start = math.ceil(20 * max(fit.window_s, 7 * fit.lag_s, load_period_s) / load_period_s)
    rising = np.arange(start + 2) * load_period_s
    edge_s = np.column_stack([rising, rising + duty * load_period_s]).ravel()
    load = Load(edge_s=edge_s, level=np.resize([0.0, 1.0], len(edge_s) + 1))
    t_s = (start + np.linspace(0, 1, 2001)) * load_period_s
    return float(np.ptp(response(load, t_s, window_s=fit.window_s, lag_s=fit.lag_s)))


def notch_gate(fit: ModelFit, modulation_w: float, *, noise_w: float, load_period_s: float, scope: str = "power channel") -> Gate:
    """Whether a periodic load modulates the readings as the fit predicts: a check of the window that uses nothing of the fit's data.

    Parameters
    ----------
    modulation_w
        Measured peak-to-peak of the readings (noise removed), in watts.
    noise_w
        Standard uncertainty of ``modulation_w``.
    load_period_s
        P: W for the notch, 2 W for its opposite.
    """
    predicted_w = fit.gain * modulation(fit, load_period_s)
    nearby = [fit.gain * modulation(replace(fit, window_s=max(0.0, fit.window_s + s * fit.u_window_s)), load_period_s) for s in (-2, 2)]
    limit_w = math.hypot(3 * noise_w, max(abs(w - predicted_w) for w in nearby))
    difference_w = abs(modulation_w - predicted_w)
    return Gate(
        name="notch check", scope=scope, measured=difference_w, limit=limit_w, unit="W", passed=difference_w <= limit_w,
        reason=f"a load of period {load_period_s * 1e3:.4g} ms modulates the readings by {modulation_w:.3g} W, "
        f"predicted {predicted_w:.3g} W (difference {difference_w:.2g} W, limit {limit_w:.2g} W)",
        remedy="" if difference_w <= limit_w else "identify the sensor again with a random-telegraph load: its window is another",
    )  # fmt: skip
