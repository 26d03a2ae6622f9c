"""An exact simulation: piecewise constant power, box or first-order response by integration, comb updates, polls.

Nothing here is shared with the code under test, so that neither can hide the other's mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_physics.metrology.response import SensorModel

RNG = np.random.Generator
NS = 1e9


@dataclass(frozen=True)
class Power:
    """True power: ``level[i]`` from ``edge[i]`` on; ``level`` has one entry more than ``edge`` has steps."""

    edge_s: np.ndarray
    level_w: np.ndarray

    def energy(self, t_s):
        """∫ P from the first edge; before it, the first level."""
        knots = np.concatenate([[0.0], np.cumsum(self.level_w[:-1] * np.diff(self.edge_s))])
        inside = np.interp(t_s, self.edge_s, knots)
        after = np.maximum(0.0, t_s - self.edge_s[-1]) * self.level_w[-1]
        before = np.minimum(0.0, t_s - self.edge_s[0]) * self.level_w[0]
        return inside + after + before

    def between(self, t0_s, t1_s):
        return self.energy(np.asarray(t1_s)) - self.energy(np.asarray(t0_s))


def events(starts_s, lengths_s, above_w, idle_w) -> Power:
    """Rectangular events on an idle device."""
    edges = np.column_stack([starts_s, np.add(starts_s, lengths_s)]).ravel()
    on = np.broadcast_to(np.add(idle_w, above_w), np.shape(starts_s))
    levels = np.column_stack([on, np.full(len(edges) // 2, idle_w)]).ravel()
    return Power(np.concatenate([[edges[0] - 1000.0], edges]), np.concatenate([[idle_w], levels]))


def responses(power: Power, t_s, *, window_s, lag_s):
    """Sensor response at instants ``t_s``: the mean over the window, or a first-order lag, exactly."""
    if lag_s == 0:
        return (power.energy(t_s) - power.energy(t_s - window_s)) / window_s
    state, out, edge = power.level_w[0], np.empty(len(t_s)), 0
    now = power.edge_s[0]
    for i, t in enumerate(t_s):
        while edge + 1 < len(power.edge_s) and power.edge_s[edge + 1] <= t:
            state = _relaxed(state, power.level_w[edge], power.edge_s[edge + 1] - now, lag_s)
            edge += 1
            now = power.edge_s[edge]
        state = _relaxed(state, power.level_w[edge], t - now, lag_s)
        now, out[i] = t, state
    return out


def _relaxed(state, target, seconds, lag_s):
    return target + (state - target) * np.exp(-seconds / lag_s)


def polled(power: Power, sensor: SensorModel, rng: RNG, *, until_s, poll_s=0.01, noise_w=0.5, jitter_s=0.0, true_period_s=None):
    """Sample instants (ns) and readings of a sensor that is exactly ``sensor``, polled on a grid with jitter."""
    period = true_period_s or sensor.update_period_s
    ticks = -3 * period + rng.uniform(0, period) + np.arange(int(until_s / period) + 5) * period
    y = responses(power, ticks - sensor.delay_s, window_s=sensor.window_s, lag_s=sensor.lag_s)
    y = y + noise_w * rng.standard_normal(len(y))
    if sensor.resolution_w:
        y = np.round(y / sensor.resolution_w) * sensor.resolution_w
    t = rng.uniform(0, poll_s) + np.arange(int(until_s / poll_s)) * poll_s
    t = np.sort(t + rng.uniform(-jitter_s, jitter_s, len(t)))
    t = t[t >= 0]
    return np.round(t * NS).astype(np.int64), y[np.searchsorted(ticks, t, side="right") - 1]


def counted(power: Power, rng: RNG, *, until_s, tick_s=0.1, poll_s=0.01, jitter_s=0.001, step_j=0.001):
    """Sample instants (ns) and values of an energy counter that advances every ``tick_s``."""
    ticks = -3 * tick_s + rng.uniform(0, tick_s) + np.arange(int(until_s / tick_s) + 6) * tick_s
    energy = 1e6 + np.floor(power.energy(ticks) / step_j) * step_j
    t = np.sort(rng.uniform(0, poll_s) + np.arange(int(until_s / poll_s)) * poll_s)
    t = np.sort(t + rng.uniform(-jitter_s, jitter_s, len(t)))
    t = t[t >= 0]
    return np.round(t * NS).astype(np.int64), energy[np.searchsorted(ticks, t, side="right") - 1]
