"""A sensor simulated on a fine time grid: electrical rise, lag and box by brute force, then comb, noise, rounding and polls.

Slow and general where ``exact_sensor`` is exact and narrow; nothing here is shared with the code under test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import signal

STEP_S = 1e-4


@dataclass(frozen=True)
class Card:
    """What the simulation knows; times in seconds, power in watts."""

    period_s: float
    window_s: float = 0.0
    lag_s: float = 0.0
    delay_s: float = 0.005
    edge_s: float = 0.0
    noise_w: float = 0.5
    resolution_w: float = 0.01
    idle_w: float = 100.0
    swing_w: float = 150.0
    jitter_s: float = 0.0


def true_power(card, edge_s, level, until_s):
    """Power on the grid, cell by cell averaged, behind the card's electrical rise."""
    t = np.arange(round(until_s / STEP_S) + 1) * STEP_S
    knots = np.concatenate([[0.0], np.cumsum(np.diff(edge_s) * level[1:-1])])
    energy = np.interp(t, edge_s, knots) + level[0] * np.minimum(t - edge_s[0], 0) + level[-1] * np.maximum(t - edge_s[-1], 0)
    power = card.idle_w + card.swing_w * np.concatenate([[level[0]], np.diff(energy) / STEP_S])
    return t, _lagged(power, card.edge_s)


def _lagged(power, lag_s):
    if lag_s == 0:
        return power
    keep = np.exp(-STEP_S / lag_s)
    return signal.lfilter([1 - keep], [1, -keep], power - power[0]) + power[0]


def readings(card, t, power, rng):
    """Update instants and what the sensor reads there."""
    lagged = _lagged(power, card.lag_s)
    ticks = card.window_s + rng.uniform(0, card.period_s) + np.arange(int((t[-1] - card.window_s) / card.period_s)) * card.period_s
    ticks = ticks + card.jitter_s * rng.standard_normal(len(ticks))
    seen = ticks - card.delay_s
    if card.window_s:
        energy = np.concatenate([[0.0], np.cumsum(lagged) * STEP_S])
        edges = np.concatenate([[t[0]], t + STEP_S]) - STEP_S
        y = (np.interp(seen, edges, energy) - np.interp(seen - card.window_s, edges, energy)) / card.window_s
    else:
        y = np.interp(seen, t, lagged)
    y = y + card.noise_w * rng.standard_normal(len(y))
    return ticks, np.round(y / card.resolution_w) * card.resolution_w if card.resolution_w else y


def polled(ticks, y, rng, *, until_s, poll_s=0.01, spread_s=0.002, grid=False):
    """Poll instants (ns) and values, of a loop that takes ``poll_s ± spread_s`` per poll, or of an exact grid."""
    count = int(until_s / poll_s)
    t = rng.uniform(0, poll_s) + (
        np.arange(count) * poll_s if grid else np.cumsum(rng.uniform(poll_s - spread_s, poll_s + spread_s, count))
    )
    t = t[(t > ticks[0]) & (t < until_s)]
    return np.round(t * 1e9).astype(np.int64), y[np.searchsorted(ticks, t, side="right") - 1]
