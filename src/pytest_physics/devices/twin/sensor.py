"""What is read of what happened: power sensors, the energy counter, the utilisation meter.

A power sensor follows the reading model of :mod:`pytest_physics.metrology.response`: at its update instants t_k it publishes
``offset + gain·(h ∗ P)(t_k − d) + noise``, rounded to its resolution; between updates the last value is read again. ``h`` is
a box of width W, a lag of time constant τ, or their convolution. All of it is computed from the true energy in closed form,
and every random number belongs to an update by its index, so that a reading depends on its instant alone, not on who read
before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_physics.devices.twin.draws import normal, truncated_normal, uniform
from pytest_physics.devices.twin.presets import SensorDesign
from pytest_physics.devices.twin.truth import History, energy_at, locate, power_at

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

COUNTER_QUANTUM_J = 0.001
UTILISATION_QUANTUM = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Comb:
    """Update instants ``phase + k·period + jitter_k``; times in nanoseconds of the device's clock."""

    period_ns: float
    phase_ns: float
    seed: int
    stream: str
    """Name of the random numbers that belong to these updates."""
    jitter_ns: float = 0.0
    """Standard deviation; cut at two of it, and at most a tenth of the period, so that updates keep their order."""
    stalls: tuple[tuple[int, int], ...] = ()
    """Spans [start, stop) in which updates do not happen."""

    def time(self, k: IntArray) -> FloatArray:
        """Instant of the k-th update."""
        regular = self.phase_ns + k.astype(np.float64) * self.period_ns
        if not self.jitter_ns:
            return regular
        return regular + self.jitter_ns * truncated_normal(self.seed, f"{self.stream}|jitter", k)

    def latest(self, t_ns: IntArray) -> tuple[IntArray, FloatArray]:
        """Index and instant of the last update at or before each instant."""
        k, t_k = self._latest_planned(t_ns)
        for start_ns, stop_ns in sorted(self.stalls, reverse=True):  # a stall may fall back into an earlier one
            before, _ = self._latest_planned(np.array([start_ns - 1]))
            k = np.where((t_k >= start_ns) & (t_k < stop_ns), before, k)
            t_k = self.time(k)
        return k, t_k

    def _latest_planned(self, t_ns: IntArray) -> tuple[IntArray, FloatArray]:
        k: IntArray = np.floor((t_ns - self.phase_ns) / self.period_ns).astype(np.int64)
        k = k + 1 if self.jitter_ns else k  # the next update may come early, this one late
        t_k = self.time(k)
        while np.any(late := t_k > t_ns):
            k = k - late
            t_k = self.time(k)
        return k, t_k


class Lag:
    """The true power behind a first-order lag: ``τ·dy/dt = P − y``, exact at every instant."""

    def __init__(self, history: History, lag_s: float) -> None:
        self._history = history
        self._lag_s = lag_s
        self._starts: list[float] = []
        self._array = np.zeros(0)

    def value(self, t_ns: FloatArray) -> FloatArray:
        """Lagged power at each instant, in watts."""
        self._follow()
        index, dt_s = locate(self._history, t_ns)
        kept, driven = self._response(index, np.maximum(dt_s, 0.0))
        out: FloatArray = kept * self._array[index] + driven
        return out

    def integral(self, t_ns: FloatArray) -> FloatArray:
        """Integral of the lagged power from the start of the record, in joules: ``E − τ·(y − y_0)``."""
        stored_j = self._lag_s * (self.value(t_ns) - self._starts[0])
        return energy_at(self._history, t_ns) - stored_j

    def _response(self, index: IntArray, dt_s: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What ``dt_s`` after the begin of a segment is left of the lagged power there, and what the segment's own power adds."""
        base, excess, tau = (self._history[name][index] for name in ("base_w", "excess_w", "tau_s"))
        kept = np.exp(-dt_s / self._lag_s)
        share = tau / (tau - self._lag_s)
        return kept, base * (1.0 - kept) + excess * share * (np.exp(-dt_s / tau) - kept)

    def _follow(self) -> None:
        """Carry the lagged power to the begin of segments that are new."""
        n, known = len(self._history), len(self._starts)
        if known == n:
            return
        if not known:
            self._starts.append(float(self._history["base_w"][0]))
            known = 1
        index = np.arange(known - 1, n - 1)
        t_ns = self._history["t_ns"]
        kept, driven = self._response(index, (t_ns[known:n] - t_ns[known - 1 : n - 1]) * 1e-9)
        for left, added in zip(kept.tolist(), driven.tolist(), strict=True):
            self._starts.append(left * self._starts[-1] + added)
        self._array = np.array(self._starts)


class PowerSensor:
    """One specimen of a :class:`SensorDesign` on one card."""

    def __init__(
        self, design: SensorDesign, history: History, *, seed: int, stream: str, origin_ns: int,
        gain: float, offset_w: float, stalls: tuple[tuple[int, int], ...] = (), averaging: tuple[int, float] | None = None,
    ) -> None:  # fmt: skip
        """``averaging``: from which instant on the window is another one, and how long, in seconds."""

        def drawn(what: str) -> float:
            return float(truncated_normal(seed, f"{stream}|{what}", 0)[0])

        period_ns = design.update_period_s * (1 + design.u_period * drawn("period")) * 1e9
        width = 1 + design.u_window * drawn("window")
        self.comb = Comb(
            period_ns=period_ns, phase_ns=origin_ns + period_ns * float(uniform(seed, f"{stream}|phase", 0)[0]),
            jitter_ns=design.jitter_s * 1e9, seed=seed, stream=stream, stalls=stalls,
        )  # fmt: skip
        self.window_s = design.window_s * width
        self.lag_s = design.lag_s * width
        self.delay_s = design.delay_s + design.u_delay_s * drawn("delay")
        self.gain, self.offset_w = gain, offset_w
        self._averaging = averaging
        if averaging is not None and averaging[0] <= origin_ns:
            self.window_s, self.lag_s = averaging[1], 0.0
        self._design = design
        self._history = history
        self._lag = Lag(history, self.lag_s) if self.lag_s else None

    def read(self, t_ns: IntArray) -> FloatArray:
        """Readings at each instant, in watts."""
        k, t_k = self.comb.latest(t_ns)
        power = self.offset_w + self.gain * self._published_w(t_k)
        power += self._design.noise_w * normal(self.comb.seed, f"{self.comb.stream}|noise", k)
        step = self._design.resolution_w
        return np.maximum(np.round(power / step), 0.0) * step  # the driver's number is unsigned

    def _published_w(self, t_ns: FloatArray) -> FloatArray:
        """The response, or from the fault's begin on a plain average over its window."""
        if self._averaging is None:
            return self.response_w(t_ns)
        since_ns, window_s = self._averaging
        end_ns = t_ns - self.delay_s * 1e9
        average = (energy_at(self._history, end_ns) - energy_at(self._history, end_ns - window_s * 1e9)) / window_s
        return np.where(t_ns >= since_ns, average, self.response_w(t_ns))

    def response_w(self, t_ns: FloatArray) -> FloatArray:
        """``(h ∗ P)(t − d)``: what a sensor without scale error or noise would publish at each instant, in watts."""
        end_ns = t_ns - self.delay_s * 1e9
        if not self.window_s:
            return self._lag.value(end_ns) if self._lag else power_at(self._history, end_ns)
        begin_ns = end_ns - self.window_s * 1e9
        if self._lag:
            return (self._lag.integral(end_ns) - self._lag.integral(begin_ns)) / self.window_s
        return (energy_at(self._history, end_ns) - energy_at(self._history, begin_ns)) / self.window_s


class EnergyCounter:
    """The cumulative energy counter: ticks, counts whole millijoules of the true energy, and has a scale of its own.

    Whether real counters look all the time, or share the blind time of their power sensor, is documented nowhere; this one looks.
    """

    def __init__(
        self, history: History, comb: Comb, *, gain: float, start_j: float,
        half_rate: tuple[tuple[int, int], ...] = (), resets_ns: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        self._history, self.comb, self.gain, self._start_j = history, comb, gain, start_j
        self._half_rate, self._resets_ns = half_rate, sorted(resets_ns)

    def read(self, t_ns: IntArray) -> FloatArray:
        """Counter at each instant, in joules since the driver was loaded."""
        _, tick_ns = self.comb.latest(t_ns)
        counted = self._counted(tick_ns) + self._start_j
        for reset_ns in self._resets_ns:
            counted = np.where(tick_ns >= reset_ns, self._counted(tick_ns) - self._counted(np.array([reset_ns])), counted)
        return np.floor(counted / COUNTER_QUANTUM_J) * COUNTER_QUANTUM_J

    def _counted(self, t_ns: NDArray[np.float64] | IntArray) -> FloatArray:
        energy = energy_at(self._history, t_ns)
        for start_ns, stop_ns in self._half_rate:
            inside = np.clip(t_ns, start_ns, stop_ns)
            energy = energy - 0.5 * (energy_at(self._history, inside) - energy_at(self._history, np.array([start_ns])))
        return self.gain * energy


class UtilisationMeter:
    """Share of busy time over the last period, in whole percent, renewed every period."""

    def __init__(self, history: History, comb: Comb) -> None:
        self._history, self.comb = history, comb

    def read(self, t_ns: IntArray, *, rate: str, integral: str) -> FloatArray:
        """Mean of column ``rate`` at each instant, from its cumulative column ``integral``."""
        _, end_ns = self.comb.latest(t_ns)
        busy_s = self._integral(end_ns, rate, integral) - self._integral(end_ns - self.comb.period_ns, rate, integral)
        return np.round(busy_s / (self.comb.period_ns * 1e-9) / UTILISATION_QUANTUM) * UTILISATION_QUANTUM

    def _integral(self, t_ns: FloatArray, rate: str, integral: str) -> FloatArray:
        index, dt_s = locate(self._history, t_ns)
        out: FloatArray = self._history[integral][index] + self._history[rate][index] * dt_s
        return out
