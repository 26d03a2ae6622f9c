"""Controls for instability rules: a device that idles, one under noisy load, one that is throttled, all with known truth.

A first-order thermal plant (R, τ) with a clock, power ∝ load × clock^2.4, a utilisation that is noise at idle and nearly full under load,
and a sensor with a step and a period. Throttling lowers the clock to 60 to 92 % for 20 to 120 s at a time, while utilisation stays full:
that is how a device behaves, and why utilisation shows nothing. The idle utilisation has the spread of the recordings (coefficient of
variation about 0.5).

Assumes nothing of any rule; deterministic for a seed. Reference: RLE study §2 (throttling simulation, null rates).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pytest_physics.metrology.autocorrelation import FloatArray
from pytest_physics.metrology.instability import RULES, RuleNumbers, Telemetry, characterise
from pytest_physics.metrology.throttle import EventReason

IDLE_CLOCK_HZ, BOOST_CLOCK_HZ = 0.3e9, 1.8e9
IDLE_W, LOAD_W = 25.0, 190.0
AMBIENT_C, R_C_PER_W, TAU_S = 25.0, 0.27, 90.0
CLOCK_EXPONENT = 2.4
EPISODES = 40
LOADED_NOISE = 0.02
"""Relative noise of clock and work rate under a steady load."""
FREE_S = 90.0
"""Mean unthrottled time between two episodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """Telemetry of the three conditions at one sampling period and temperature step."""

    period_s: float
    resolution_c: float
    idle: Telemetry
    noise: Telemetry
    throttled: Telemetry
    episodes_s: tuple[tuple[float, float], ...]
    """Start and end of every injected episode."""


def controls(*, period_s: float = 1.0, resolution_c: float = 1.0, duration_s: float = 3600.0, seed: int = 0) -> Controls:
    """Simulated controls for a sensor of this period and step."""
    rng = np.random.default_rng(seed)
    t = np.arange(0.0, duration_s, period_s)
    free = np.ones(t.size)
    idle = _device(t, np.clip(rng.gamma(4.0, 0.03, t.size), 0.0, 1.0), free, resolution_c, rng, loaded=False)
    noise = _device(t, np.clip(rng.normal(0.75, 0.15, t.size), 0.02, 1.0), free, resolution_c, rng, loaded=True)
    spans, clock = _episodes(rng)
    at = np.arange(0.0, spans[-1][1] + FREE_S, period_s)
    share = np.ones(at.size)
    for (start, end), level in zip(spans, clock.tolist(), strict=True):
        share[(at >= start) & (at < end)] = level
    throttled = _device(at, np.clip(rng.normal(0.985, 0.01, at.size), 0.0, 1.0), share, resolution_c, rng, loaded=True)
    return Controls(period_s=period_s, resolution_c=resolution_c, idle=idle, noise=noise, throttled=throttled, episodes_s=spans)


def _episodes(rng: np.random.Generator) -> tuple[tuple[tuple[float, float], ...], FloatArray]:
    """Spans of throttling after three minutes of free running, and the clock's share in each."""
    lengths = rng.uniform(20.0, 120.0, EPISODES)
    pauses = rng.uniform(0.5 * FREE_S, 1.5 * FREE_S, EPISODES)
    pauses[0] = 180.0
    ends = np.cumsum(lengths + pauses)
    return tuple(zip((ends - lengths).tolist(), ends.tolist(), strict=True)), rng.uniform(0.6, 0.92, EPISODES)


def _device(
    t_s: FloatArray, utilisation: FloatArray, share: FloatArray, resolution_c: float, rng: np.random.Generator, *, loaded: bool
) -> Telemetry:
    """Telemetry of a device whose clock runs at ``share`` of boost."""
    top = BOOST_CLOCK_HZ if loaded else IDLE_CLOCK_HZ
    clock = top * share * (1 + LOADED_NOISE * rng.standard_normal(t_s.size))
    dynamic = (LOAD_W - IDLE_W) * utilisation * share**CLOCK_EXPONENT if loaded else 10.0 * utilisation
    power = IDLE_W + dynamic + rng.normal(0.0, 1.0, t_s.size)
    work = utilisation * share * (1 + LOADED_NOISE * rng.standard_normal(t_s.size))
    reasons = np.where(share < 1, float(EventReason.SOFTWARE_THERMAL_SLOWDOWN), 0.0 if loaded else float(EventReason.GPU_IDLE))
    temperature = np.floor(_heated(t_s, power) / resolution_c) * resolution_c
    return Telemetry(
        t_s=t_s, utilisation_ratio=np.round(utilisation, 2), temperature_c=temperature, power_w=np.round(power, 2),
        clock_hz=np.round(clock / 15e6) * 15e6, work_rate=work, reasons=reasons,
    )  # fmt: skip


def _heated(t_s: FloatArray, power_w: FloatArray) -> FloatArray:
    """Temperature of a first-order plant that starts at the idle's equilibrium."""
    fade = float(np.exp(-(t_s[1] - t_s[0]) / TAU_S))
    temperature = np.empty(t_s.size)
    now = AMBIENT_C + R_C_PER_W * IDLE_W
    for index, watts in enumerate(power_w.tolist()):
        temperature[index] = now
        final = AMBIENT_C + R_C_PER_W * watts
        now = final + (now - final) * fade
    return temperature


def rule_numbers(*, period_s: float = 1.0, resolution_c: float = 1.0, seed: int = 0) -> Mapping[str, RuleNumbers]:
    """The three numbers of every rule on a sensor of this period and step, by the rule's id."""
    found = controls(period_s=period_s, resolution_c=resolution_c, seed=seed)
    return {
        name: characterise(rule, idle=found.idle, noise=found.noise, throttled=found.throttled, episodes_s=found.episodes_s)
        for name, rule in RULES.items()
    }
