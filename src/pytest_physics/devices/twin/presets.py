"""The cards a twin can be: their physics, and how their sensors read it.

Sensor parameters (T update period, W box, τ lag; milliseconds), with the source of each row:

=============== ======= ====== ==== =========================================================================================
preset          T       W      τ    source
=============== ======= ====== ==== =========================================================================================
rtx4080-laptop  100     100    –    Yang et al., result matrix, Ada: instant is class 2 (100/100), average is class 3 (1 s)
a100            101.148 25.2   –    T: comb fit to the study's 200 s trace; W: A100 PCIe 40 GB, 25.2 ± 3.3; no average on GA100
h100            100     23.0   –    H100 PCIe, ten cards: T 99–101, W 21.2–24.9; average is class 3 (1 s)
v100            20      10.6   –    V100 SXM2, four cards: T 20, W 10.5–10.8; no average on Volta
rtx3090         99.970  99.9   –    T: comb fit to the study's trace; W: EVGA card, 99.9 ± 1.2; average: class 3, W ≈ 1060 fitted
k40             15      –      50   T: the study's sheet; τ: fit to its step trace (residual 0.15 W, box 0.50 W); no average
ideal           1       1      –    by definition: no noise, no jitter, no scale error
=============== ======= ====== ==== =========================================================================================

Reference: Yang, Adamek, Armour, "Part-time Power Measurements" (arXiv 2312.02741) and its repository. Noise is the fitted
residual for rtx3090 (0.29 W) and k40 (0.15 W); other noise, all delays and jitter, and the counter ticks ("20 to 100 ms" by
several sources) are assumed. The driver's ring of samples (``buffer_updates``): public logs of ``nvidia-smi -q -d POWER``
show 119 samples over 118 s on an Ada card (rtx4080-laptop), 90 s on a 350 W card (rtx3090), 2.38 s on a Pascal card (v100,
assumed alike). Idle powers of the laptop card are TR122's (deep idle 1.2–3.5 W, active idle 20–26 W); the rtx3090's are 20.8
W (public log) and about 120 W (the study's traces: 127–133 W warm). Everything else about the cards (clocks, limits, memory,
peak rates, heat capacities) is near the makers' data sheets and *assumed*: it makes plausible physics and is no statement
about a product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pytest_physics.devices.twin.thermal import ThermalNetwork
from pytest_physics.metrology.response import UNCALIBRATED_GAIN, UNCALIBRATED_OFFSET_W

GIB = 2**30
MHZ = 1e6
OFFSET_SHARE_OF_IDLE = 0.2
"""A card that idles at 2 W cannot have an offset of 5.8 W: u(offset) is at most this share of the lowest idle power, so that at
two standard deviations an idle reading is still positive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The physics of a card."""

    deep_idle_w: float | None
    """Power in P8 after a long pause; None for cards that stay in P0."""
    active_idle_w: float
    """Power in P0 without work, at ``leakage_reference_c``."""
    dynamic_w: float
    """What a load of intensity 1 adds at the reference clock; above the limit, so that the heaviest loads meet the power cap."""
    power_limit_w: float
    """Enforced limit: clocks are lowered so that the settled power stays below."""
    reference_clock_hz: float
    boost_clock_hz: float
    """Clock in P0 unless something limits it."""
    minimum_clock_hz: float
    """Lowest clock under load, whatever the limits."""
    idle_clock_hz: float
    """Clock in P8."""
    memory_clock_hz: float
    idle_memory_clock_hz: float
    thermal: ThermalNetwork
    slowdown_c: float
    """Die temperature at which the driver begins to lower clocks (SwThermalSlowdown)."""
    hardware_slowdown_c: float
    """Die temperature at which the hardware halves the clock (HwThermalSlowdown)."""
    memory_bytes: int
    peak_flop_per_s: float
    """Half-precision arithmetic at the reference clock."""
    memory_bytes_per_s: float
    """Bandwidth of the device memory."""
    memory_reserved_bytes: int = GIB // 2
    """Held by the driver from the start."""
    host_spill_bytes: int = 0
    """How much more than the card has can be allocated, silently, in host memory (Windows); 0 where allocation fails instead."""
    host_spill_slowdown: float = 25.0
    """How much slower work runs while memory is spilled; TR127 saw 25 to 105."""
    leakage_w_per_k: float = 0.1
    """Rise of power with die temperature in P0; in P8 the core is gated and does not leak."""
    leakage_reference_c: float = 40.0
    clock_exponent: float = 2.4
    """Dynamic power grows with clock to this power: voltage falls with the clock, but not to zero."""
    clock_step_hz: float = 15 * MHZ
    """Grid of clocks, and how far the thermal limit moves in one control period."""
    electrical_s: float = 0.002
    """Time constant of the power after a change of load."""
    control_period_s: float = 0.1
    """How often the driver looks at temperature and idle time; leakage is held between."""
    deep_idle_hold_s: float = 15.0
    """Pause after which a card in P0 goes to P8."""

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        self.thermal.check(self.electrical_s)
        for name in ("active_idle_w", "dynamic_w", "power_limit_w", "minimum_clock_hz", "control_period_s", "clock_step_hz"):
            if not getattr(self, name) > 0:
                raise ValueError(f"'{name}' must be > 0 (got {getattr(self, name)}).")
        if not self.minimum_clock_hz <= self.reference_clock_hz <= self.boost_clock_hz:
            raise ValueError("clocks must be ordered: minimum <= reference <= boost.")
        if not self.slowdown_c < self.hardware_slowdown_c:
            raise ValueError("'slowdown_c' must be below 'hardware_slowdown_c'.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorDesign:
    """Nominal parameters of a power channel, and how far one specimen may be from them."""

    update_period_s: float
    window_s: float = 0.0
    lag_s: float = 0.0
    delay_s: float = 0.010
    noise_w: float = 0.3
    """Standard deviation of one reading."""
    jitter_s: float = 0.0002
    """Standard deviation of update instants around their comb; cut at two of it."""
    resolution_w: float = 0.01
    u_period: float = 0.0005
    """Relative standard deviation of T over specimens; all draws are cut at two standard deviations."""
    u_window: float = 0.01
    """Relative, for W and τ."""
    u_delay_s: float = 0.001

    def __post_init__(self) -> None:
        """Updates must keep their order, and a delay its sign."""
        if not self.jitter_s <= 0.1 * self.update_period_s:
            raise ValueError(f"'jitter_s' must be <= a tenth of 'update_period_s' (got {self.jitter_s}, {self.update_period_s}).")
        if not self.delay_s >= 2 * self.u_delay_s:
            raise ValueError(f"'delay_s' must be >= 2 'u_delay_s' (got {self.delay_s}, {self.u_delay_s}).")


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinPreset:
    """A card with its sensors."""

    name: str
    card: Card
    power: SensorDesign
    """Behind ``power_w``."""
    average: SensorDesign | None = None
    """Behind ``power_average_w``; None where the generation has none."""
    counter_period_s: float | None = 0.1
    """Tick of ``energy_j``; None where the generation has no counter."""
    throttle_counters: bool = True
    """Whether the cumulative throttle counters exist (fields 74, 75, 269–271)."""
    buffer_updates: float | None = None
    """The driver keeps every this-many-th update of ``power_w`` in a ring of :data:`RING`, with its own timestamps; 1 keeps all of them.
    None where nothing is known of its ring: then it has none."""
    utilisation_period_s: float = 1 / 6
    """Window and period of the utilisation reading; the driver states 1/6 s to 1 s."""
    u_gain: float = UNCALIBRATED_GAIN
    """Relative standard deviation of the scale over specimens; both power channels of one card share it."""
    u_counter_gain: float = 0.005
    """The same for the energy counter, drawn apart."""
    offset_limit_w: float = UNCALIBRATED_OFFSET_W

    @property
    def u_offset_w(self) -> float:
        """Standard deviation of the offset over specimens, in watts: see :data:`OFFSET_SHARE_OF_IDLE`."""
        lowest_w = self.card.deep_idle_w if self.card.deep_idle_w is not None else self.card.active_idle_w
        return min(self.offset_limit_w, OFFSET_SHARE_OF_IDLE * lowest_w)


def _ladder(capacities: tuple[float, ...], resistances: tuple[float, ...], ambient_c: float) -> ThermalNetwork:
    return ThermalNetwork(capacities_j_per_k=capacities, resistances_k_per_w=resistances, ambient_c=ambient_c)


_RTX4080_LAPTOP = Card(
    deep_idle_w=2.2, active_idle_w=23.0, dynamic_w=140.0, power_limit_w=150.0,
    reference_clock_hz=1860 * MHZ, boost_clock_hz=2280 * MHZ, minimum_clock_hz=600 * MHZ, idle_clock_hz=210 * MHZ,
    memory_clock_hz=9001 * MHZ, idle_memory_clock_hz=405 * MHZ,
    thermal=_ladder((40.0, 60.0, 380.0), (0.06, 0.04, 0.18), 35.0), slowdown_c=87.0, hardware_slowdown_c=93.0,
    memory_bytes=12 * GIB, peak_flop_per_s=67e12, memory_bytes_per_s=432e9, host_spill_bytes=16 * GIB,
)  # fmt: skip

_A100 = Card(
    deep_idle_w=None, active_idle_w=45.0, dynamic_w=240.0, power_limit_w=250.0,
    reference_clock_hz=1095 * MHZ, boost_clock_hz=1410 * MHZ, minimum_clock_hz=210 * MHZ, idle_clock_hz=210 * MHZ,
    memory_clock_hz=1215 * MHZ, idle_memory_clock_hz=1215 * MHZ,
    thermal=_ladder((80.0, 700.0), (0.04, 0.09), 28.0), slowdown_c=85.0, hardware_slowdown_c=92.0,
    memory_bytes=40 * GIB, peak_flop_per_s=242e12, memory_bytes_per_s=1555e9,
)  # fmt: skip

_H100 = Card(
    deep_idle_w=None, active_idle_w=60.0, dynamic_w=340.0, power_limit_w=350.0,
    reference_clock_hz=1395 * MHZ, boost_clock_hz=1755 * MHZ, minimum_clock_hz=210 * MHZ, idle_clock_hz=345 * MHZ,
    memory_clock_hz=1593 * MHZ, idle_memory_clock_hz=1593 * MHZ,
    thermal=_ladder((90.0, 800.0), (0.03, 0.08), 28.0), slowdown_c=85.0, hardware_slowdown_c=92.0,
    memory_bytes=80 * GIB, peak_flop_per_s=600e12, memory_bytes_per_s=2039e9, leakage_w_per_k=0.2,
)  # fmt: skip

_V100 = Card(
    deep_idle_w=None, active_idle_w=42.0, dynamic_w=280.0, power_limit_w=300.0,
    reference_clock_hz=1290 * MHZ, boost_clock_hz=1530 * MHZ, minimum_clock_hz=135 * MHZ, idle_clock_hz=135 * MHZ,
    memory_clock_hz=877 * MHZ, idle_memory_clock_hz=877 * MHZ,
    thermal=_ladder((80.0, 650.0), (0.04, 0.08), 30.0), slowdown_c=83.0, hardware_slowdown_c=87.0,
    memory_bytes=16 * GIB, peak_flop_per_s=105e12, memory_bytes_per_s=900e9,
)  # fmt: skip

_RTX3090 = Card(
    deep_idle_w=20.8, active_idle_w=120.0, dynamic_w=270.0, power_limit_w=350.0,
    reference_clock_hz=1395 * MHZ, boost_clock_hz=1800 * MHZ, minimum_clock_hz=210 * MHZ, idle_clock_hz=210 * MHZ,
    memory_clock_hz=9751 * MHZ, idle_memory_clock_hz=405 * MHZ,
    thermal=_ladder((80.0, 600.0), (0.04, 0.09), 27.0), slowdown_c=83.0, hardware_slowdown_c=93.0,
    memory_bytes=24 * GIB, peak_flop_per_s=71e12, memory_bytes_per_s=936e9, leakage_w_per_k=0.2,
)  # fmt: skip

_K40 = Card(
    deep_idle_w=20.0, active_idle_w=62.0, dynamic_w=160.0, power_limit_w=235.0,
    reference_clock_hz=745 * MHZ, boost_clock_hz=875 * MHZ, minimum_clock_hz=324 * MHZ, idle_clock_hz=324 * MHZ,
    memory_clock_hz=3004 * MHZ, idle_memory_clock_hz=324 * MHZ,
    thermal=_ladder((60.0, 500.0), (0.05, 0.12), 30.0), slowdown_c=90.0, hardware_slowdown_c=95.0,
    memory_bytes=12 * GIB, peak_flop_per_s=4.3e12, memory_bytes_per_s=288e9, memory_reserved_bytes=GIB // 16,
)  # fmt: skip

_IDEAL = Card(
    deep_idle_w=None, active_idle_w=30.0, dynamic_w=150.0, power_limit_w=400.0,
    reference_clock_hz=1500 * MHZ, boost_clock_hz=1500 * MHZ, minimum_clock_hz=300 * MHZ, idle_clock_hz=300 * MHZ,
    memory_clock_hz=1500 * MHZ, idle_memory_clock_hz=1500 * MHZ,
    thermal=_ladder((60.0, 400.0), (0.05, 0.15), 25.0), slowdown_c=90.0, hardware_slowdown_c=95.0,
    memory_bytes=16 * GIB, peak_flop_per_s=100e12, memory_bytes_per_s=1000e9, memory_reserved_bytes=0, leakage_w_per_k=0.0,
)  # fmt: skip

_SECOND = 1.0
_PRESETS = (
    TwinPreset(
        name="rtx4080-laptop", card=_RTX4080_LAPTOP, buffer_updates=9.913,
        power=SensorDesign(update_period_s=0.100, window_s=0.100, resolution_w=0.001),
        average=SensorDesign(update_period_s=0.100, window_s=_SECOND, resolution_w=0.001, noise_w=0.1),
    ),
    TwinPreset(name="a100", card=_A100, power=SensorDesign(update_period_s=0.101148, window_s=0.0252, noise_w=0.5)),
    TwinPreset(
        name="h100", card=_H100,
        power=SensorDesign(update_period_s=0.100, window_s=0.023, noise_w=0.5),
        average=SensorDesign(update_period_s=0.100, window_s=_SECOND, noise_w=0.2),
    ),
    TwinPreset(
        name="v100", card=_V100, counter_period_s=0.020, buffer_updates=1.0,
        power=SensorDesign(update_period_s=0.020, window_s=0.0106, delay_s=0.004, noise_w=0.5, jitter_s=0.0001, resolution_w=0.1),
    ),
    TwinPreset(
        name="rtx3090", card=_RTX3090, buffer_updates=7.563,
        power=SensorDesign(update_period_s=0.099970, window_s=0.0999, noise_w=0.29),
        average=SensorDesign(update_period_s=0.099970, window_s=1.060, noise_w=0.1),
    ),
    TwinPreset(
        name="k40", card=_K40, counter_period_s=None, throttle_counters=False,
        power=SensorDesign(update_period_s=0.015, lag_s=0.050, delay_s=0.004, noise_w=0.15, jitter_s=0.0001),
    ),
    TwinPreset(
        name="ideal", card=_IDEAL, counter_period_s=0.001, buffer_updates=1.0, utilisation_period_s=0.01,
        u_gain=0.0, u_counter_gain=0.0, offset_limit_w=0.0,
        power=SensorDesign(
            update_period_s=0.001, window_s=0.001, delay_s=0.0, noise_w=0.0, jitter_s=0.0, resolution_w=0.001,
            u_period=0.0, u_window=0.0, u_delay_s=0.0,
        ),
    ),
)  # fmt: skip

PRESETS: Mapping[str, TwinPreset] = MappingProxyType({preset.name: preset for preset in _PRESETS})
"""Every card a twin can be, by name."""
RING = 119
"""Samples in a driver's ring: in every public log."""
DEFAULT_PRESET = "rtx4080-laptop"
"""TR122's machine."""
