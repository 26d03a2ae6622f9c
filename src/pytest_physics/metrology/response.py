"""What a power reading is: a model of the sensor between true power and the number one polls.

Reading model: ``y_k = b + g · (h ∗ P)(t_k − d) + e_k`` at update instants ``t_k = phase + k·T``; ``h`` is a box of width W, an
exponential of time constant τ, or their convolution, with unit area. The share of time the sensor does not look is
``1 − W_eff / T`` with ``W_eff = (∫h)² / ∫h²`` (W for a box, 2τ for an exponential).

Where the sensor was not identified the model is a *prior*: wide uncertainties, and ``origin`` says so.
Reference: Yang, Adamek, Armour, "Part-time Power Measurements" (arXiv 2312.02741).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FULL_COVERAGE = 0.975
"""A sensor that looks at this share of the time or more counts as looking all the time: what is left can hide 2.5 % of a load in step with
it at most, and the budget's under-sampling term holds what is expected of it."""

SensorOrigin = Literal["identified", "preset", "prior"]

UNCALIBRATED_GAIN = 0.0369
"""Relative standard uncertainty of an uncalibrated card's gain: rms over the 19 cards of the study above."""
UNCALIBRATED_OFFSET_W = 5.8
"""Standard uncertainty of an uncalibrated card's offset in watts, from the same cards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorModel:
    """Timing, resolution and scale of one power channel, with standard uncertainties."""

    update_period_s: float
    """T: interval between updates."""
    u_update_period_s: float = 0.0
    window_s: float = 0.0
    """W: width of the averaging box; 0 for none."""
    u_window_s: float = 0.0
    lag_s: float = 0.0
    """τ: time constant of a first-order lag; 0 for none."""
    u_lag_s: float = 0.0
    delay_s: float = 0.0
    """d: from the end of the averaging window to the instant a new value can be read."""
    u_delay_s: float = 0.0
    resolution_w: float = 0.001
    """Step of the reading."""
    u_gain: float = UNCALIBRATED_GAIN
    """Relative standard uncertainty of the scale."""
    u_offset_w: float = UNCALIBRATED_OFFSET_W
    gain: float = 1.0
    """Of readings over true power, from a calibration with a reference meter; 1 without one."""
    offset_w: float = 0.0
    """Reading at no power, from the same calibration."""
    origin: SensorOrigin = "prior"

    def __post_init__(self) -> None:
        """Refuse what cannot be a sensor."""
        if not self.update_period_s > 0:
            raise ValueError(f"'update_period_s' must be > 0 (got {self.update_period_s}).")
        if not self.gain > 0:
            raise ValueError(f"'gain' must be > 0 (got {self.gain}).")
        for name in ("window_s", "lag_s", "delay_s", "resolution_w", "u_gain", "u_offset_w"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"'{name}' must be >= 0 (got {getattr(self, name)}).")

    @property
    def calibrated(self) -> bool:
        """Whether a reference meter told its scale, so that readings are corrected by it."""
        return self.gain != 1.0 or self.offset_w != 0.0

    @property
    def effective_window_s(self) -> float:
        """``(∫h)² / ∫h²``: W for a box, 2τ for an exponential; the larger where both act."""
        return max(self.window_s, 2 * self.lag_s)

    @property
    def coverage(self) -> float:
        """Share of the time the sensor looks, at most 1."""
        return min(1.0, self.effective_window_s / self.update_period_s)

    @property
    def looks_away(self) -> bool:
        """Whether it misses so much of the time that a load in step with it could hide."""
        return self.coverage < FULL_COVERAGE

    @property
    def tail_s(self) -> float:
        """How long after an event readings still carry it: W + 7τ + d + T (7τ leaves 0.1 %)."""
        return self.window_s + 7 * self.lag_s + self.delay_s + self.update_period_s
