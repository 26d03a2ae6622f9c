"""What is wrong, or only partial, with a power channel: dead time, staleness, caches, resolution, and what polling itself costs.

Each check takes what the instrument-response experiment recorded and returns a value with its uncertainty, or a gate:

* *phase lock*: under a load of period T at 8 start phases, the readings' means differ by as much of the swing as the kernel predicts;
* *staleness*: no change for more than 5 T while the load toggles (poll stalls apart);
* *caches*: call latencies with two modes, and a first read after a pause that repeats the value from before it;
* *quantisation*: the largest step q of which the gaps between levels are multiples; ``u = q/√12``, which averages down only if the noise
  exceeds q/2 (dithered);
* *polling perturbation*: idle power by the energy counter, with polling off and on.

Assumes readings as polled unless a parameter says distinct. Nothing here needs a reference meter. Reference: Yang, Adamek, Armour,
"Part-time Power Measurements" (arXiv 2312.02741); Widrow and Kollár, "Quantization Noise" (2008) for dither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pytest_physics.metrology.modality import fit_two_modes
from pytest_physics.metrology.refusal import refuse
from pytest_physics.metrology.uncertainty import Gate
from pytest_physics.metrology.updates import BoolArray, FloatArray, IntArray, run_starts, seconds_since

STALE_PERIODS = 5.0
"""A value that stands longer than this under a toggling load is stale."""
PAUSE_S = 1.0
"""A longer stretch without reads is a pause."""
CACHE_LATENCY_RATIO = 3.0
"""Two latency modes at least this far apart are a cached and an uncached read; closer ones are machine noise."""
MODE_BIC = 10.0
MIN_MODE_WEIGHT = 0.05
MIN_ASHMAN_D = 2.0
MIN_LATENCIES = 50
REPEAT_P = 0.01
"""Chance of as many repeated first reads below which they are called cached."""
MIN_READINGS_FOR_STEP = 200
MULTIPLE_SHARE = 0.95
"""Share of the gaps that must be multiples of the step."""
MULTIPLE_TOLERANCE = 0.1
"""How far from a whole number a gap may lie, in steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """Step of the readings, and what it does to a mean."""

    step_w: float
    """q."""
    u_w: float
    """q/√12: standard uncertainty of one reading."""
    noise_w: float
    """Standard deviation from reading to reading."""
    dithered: bool
    """Whether the noise is at least q/2, so that the mean of M readings has q/√(12 M)."""
    levels: int
    """Distinct values seen."""


def phase_lock_gate(
    phase_mean_w: FloatArray, *, swing_w: float, predicted_share: float, u_mean_w: float, scope: str = "power channel"
) -> Gate:
    """Whether a load of exactly the update period is misread by as much as the identified kernel predicts.

    Parameters
    ----------
    phase_mean_w
        Mean reading at each start phase, evenly spread, shape (K,), K ≥ 8.
    swing_w
        Load power minus idle power.
    predicted_share
        :func:`~pytest_physics.metrology.sensor_fit.modulation` at the update period: 0 for W = T, 1 for W ≤ T/2.
    u_mean_w
        Standard uncertainty of each mean.
    """
    if len(phase_mean_w) < 8 or not swing_w > 0:
        raise ValueError(f"phase lock needs at least 8 start phases and a swing > 0 (got {len(phase_mean_w)} and {swing_w} W).")
    share = float(np.ptp(phase_mean_w)) / swing_w
    # between two of K phases the extremes are missed by up to half a step each, and noise widens the range of K means
    limit = 2 / len(phase_mean_w) + 4 * u_mean_w / swing_w
    difference = abs(share - predicted_share)
    passed = difference <= limit
    return Gate(
        name="phase lock", scope=scope, measured=difference, limit=limit, unit="1", passed=passed,
        reason=f"a load in step with the sensor moves its reading by {share:.0%} of the swing, predicted {predicted_share:.0%} "
        f"(difference {difference:.2f}, limit {limit:.2f})",
        remedy="" if passed else "identify the sensor again; its window is not what was fitted",
    )  # fmt: skip


def staleness_gate(t_ns: IntArray, values: FloatArray, *, update_period_s: float, scope: str = "power channel") -> Gate:
    """Whether the value kept changing under a toggling load: polls, shape (N,), NaN where a read failed.

    The longest stretch of one value counts from its first to its last poll, less the longest gap between polls inside it.
    """
    valid = np.flatnonzero(np.isfinite(values))
    longest_s = _longest_hold(t_ns[valid], values[valid]) if len(valid) else math.inf
    limit_s = STALE_PERIODS * update_period_s
    passed = longest_s <= limit_s
    return Gate(
        name="staleness", scope=scope, measured=longest_s if math.isfinite(longest_s) else None, limit=limit_s, unit="s", passed=passed,
        reason=f"under a toggling load the value stood for up to {longest_s:.3g} s (limit {limit_s:.3g} s, 5 updates)"
        if len(valid) else "no read under the toggling load succeeded",
        remedy="" if passed else "check that the load runs, and that nothing else reads this device; then reload its driver",
    )  # fmt: skip


def _longest_hold(t_ns: IntArray, values: FloatArray) -> float:
    """Longest stretch of one value in seconds, less its longest poll gap."""
    t_s = seconds_since(t_ns, int(t_ns[0]))
    starts = run_starts(values)
    stops = np.append(starts[1:], len(values))
    gap_s = np.append(np.diff(t_s), 0.0)
    longest = 0.0
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        if stop - start > 1:
            longest = max(longest, float(t_s[stop - 1] - t_s[start] - gap_s[start : stop - 1].max()))
    return longest


def latency_modes_gate(latency_s: FloatArray, *, scope: str = "power channel") -> Gate:
    """Whether calls take one time, or two: a cached and an uncached read. A warning; two modes mean that some values are old."""
    name = "call latency"
    if len(latency_s) < MIN_LATENCIES or np.any(np.asarray(latency_s) <= 0):
        raise ValueError(f"call latencies must be at least {MIN_LATENCIES}, all > 0 (got {len(latency_s)}).")
    modes = fit_two_modes(np.log(latency_s), resolution=0.0)
    ratio = math.exp(modes.separation) if modes else 1.0
    two = (
        modes is not None
        and modes.delta_bic > MODE_BIC
        and modes.ashman_d > MIN_ASHMAN_D
        and min(modes.weights) >= MIN_MODE_WEIGHT
        and ratio >= CACHE_LATENCY_RATIO
    )
    measured = ratio if two else 1.0
    text = (
        f"calls take {math.exp(modes.means[0]) * 1e6:.3g} µs or {math.exp(modes.means[1]) * 1e6:.3g} µs"
        if two and modes
        else "calls take one time"
    )
    return Gate(
        name=name, scope=scope, measured=measured, limit=CACHE_LATENCY_RATIO, unit="1", passed=not two, warning=True,
        reason=f"{text} (ratio {measured:.2g}, limit {CACHE_LATENCY_RATIO:.0f})",
        remedy="the driver answers some reads from a cache: count distinct updates, never polls" if two else "",
    )  # fmt: skip


def first_after_pause(t_ns: IntArray, *, pause_s: float = PAUSE_S) -> BoolArray:
    """For each poll, shape (N,), whether it is the first after a pause."""
    first: BoolArray = np.zeros(len(t_ns), np.bool_)
    first[1:] = np.diff(t_ns) > pause_s * 1e9
    return first


def first_after_pause_gate(
    t_ns: IntArray, values: FloatArray, *, update_period_s: float, pause_s: float = PAUSE_S, scope: str = "power channel"
) -> Gate:
    """Whether the first read after a pause is fresh, or repeats the value from before more often than chance. A warning.

    Chance is taken from readings about one update apart outside pauses. Without two pauses nothing can be said, and the gate passes
    saying so.
    """
    valid = np.isfinite(values)
    t_ns, values = t_ns[valid], values[valid]
    first = np.flatnonzero(first_after_pause(t_ns, pause_s=pause_s))
    name = "first read after a pause"
    if len(first) < 2:
        return Gate(
            name=name, scope=scope, measured=None, limit=None, unit="1", passed=True, warning=True,
            reason=f"{len(first)} pauses are too few to compare first reads",
        )  # fmt: skip
    repeats = int(np.count_nonzero(values[first] == values[first - 1]))
    chance = _repeat_chance(t_ns, values, update_period_s)
    p = float(stats.binom.sf(repeats - 1, len(first), chance))
    passed = repeats < 2 or p > REPEAT_P
    return Gate(
        name=name, scope=scope, measured=repeats / len(first), limit=chance, unit="1", passed=passed, warning=True,
        reason=f"{repeats} of {len(first)} first reads after a pause repeat the value from before it (by chance: {chance:.0%})",
        remedy="" if passed else "discard the first update after each pause",
    )  # fmt: skip


def _repeat_chance(t_ns: IntArray, values: FloatArray, update_period_s: float) -> float:
    """How often readings at least 1.5 updates apart are equal, kept inside (0, 1)."""
    later = np.searchsorted(t_ns, t_ns + round(1.5e9 * update_period_s))
    pairs = np.flatnonzero(later < len(t_ns))
    pairs = pairs[t_ns[later[pairs]] - t_ns[pairs] < 3e9 * update_period_s]
    if not len(pairs):
        return 0.5
    equal = float(np.count_nonzero(values[later[pairs]] == values[pairs]))
    return (equal + 1) / (len(pairs) + 2)


def quantisation(readings: FloatArray, *, reported_step: float = 0.001, scope: str = "power channel") -> Quantisation:
    """Step of distinct readings, shape (N,), N ≥ 200; ``reported_step`` is the unit in which values are handed out (1 mW).

    The noise is taken from differences of neighbours (their 68 % point), so that a toggling load does not count as noise.
    """
    if len(readings) < MIN_READINGS_FOR_STEP:
        refuse(
            "quantisation: readings", scope=scope, measured=len(readings), limit=MIN_READINGS_FOR_STEP, unit="1",
            reason=f"{len(readings)} distinct readings do not show the sensor's step (needed: {MIN_READINGS_FOR_STEP})",
            remedy="Record longer, at several powers.",
        )  # fmt: skip
    levels = np.unique(np.round(np.asarray(readings) / reported_step).astype(np.int64)) * reported_step
    step = _common_step(np.diff(levels), reported_step)
    noise = float(np.percentile(np.abs(np.diff(readings)), 68.27)) / math.sqrt(2)
    return Quantisation(step_w=step, u_w=step / math.sqrt(12), noise_w=noise, dithered=noise >= step / 2, levels=len(levels))


def _common_step(gaps: FloatArray, reported_step: float) -> float:
    """The largest step of which nearly all gaps between neighbouring levels are multiples; ``reported_step`` where none is."""
    if not len(gaps):
        return reported_step
    small = np.sort(gaps)[: max(20, len(gaps) // 4)]
    candidates = np.unique((small[:, None] / np.arange(1, 11)).ravel())
    candidates = candidates[candidates >= 2 * reported_step]
    for candidate in candidates[::-1]:
        step = float(candidate)
        for _ in range(2):  # the gaps together know the step better than the one it came from
            multiple = np.rint(small / step)
            if not multiple.any():
                break
            step = float(multiple @ small / (multiple @ multiple))
        # a rounded gap errs by up to one reported step
        off = np.abs(small / step - np.rint(small / step)) * step
        fits = (off <= max(MULTIPLE_TOLERANCE * step, 0.0) + 0.5 * reported_step) & (np.rint(small / step) >= 1)
        if float(np.mean(fits)) >= MULTIPLE_SHARE and step > 4 * reported_step:
            return step
    return _integer_step(small, reported_step)


def _integer_step(gaps: FloatArray, reported_step: float) -> float:
    """The largest whole number of reported steps that divides nearly all gaps."""
    whole = np.rint(gaps / reported_step).astype(np.int64)
    for step in range(int(whole.min()), 1, -1):
        if float(np.mean(whole % step == 0)) >= MULTIPLE_SHARE:
            return step * reported_step
    return reported_step


def counter_mean_power(e0_j: float, e1_j: float, duration_s: float, *, tick_s: float, resolution_j: float = 0.001) -> tuple[float, float]:
    """Mean power between two reads of an energy counter, and its standard uncertainty ``P·T_E/√6`` and step, over the duration."""
    if not duration_s > tick_s:
        raise ValueError(f"two reads of a counter must lie further apart than its tick of {tick_s} s (got {duration_s} s).")
    power_w = (e1_j - e0_j) / duration_s
    return power_w, math.hypot(power_w * tick_s, resolution_j) / math.sqrt(6) / duration_s


def polling_gate(
    quiet_w: float, polled_w: float, *, u_quiet_w: float, u_polled_w: float, poll_rate_hz: float, scope: str = "power channel"
) -> Gate:
    """Whether polling changes idle power: means by :func:`counter_mean_power` with polling off and on, over 20 s or more each."""
    difference_w, limit_w = polled_w - quiet_w, 2 * math.hypot(u_quiet_w, u_polled_w)
    passed = abs(difference_w) <= limit_w
    return Gate(
        name="polling perturbation", scope=scope, measured=difference_w, limit=limit_w, unit="W", passed=passed,
        reason=f"polling at {poll_rate_hz:.4g} Hz changes idle power of {quiet_w:.4g} W by {difference_w:+.3g} W (limit ±{limit_w:.2g} W)",
        remedy="" if passed else "lower the polling rate, or refuse this baseline: polling holds the card out of its deep idle",
    )  # fmt: skip
