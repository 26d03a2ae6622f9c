"""Training steps and telemetry of one run on one time base: what every coupling number and figure of a training is computed from.

The step table (``training-steps-1``) says when each step ended; a step lasts from the end of the one before, so the first is left out, and
so is one that took more than :data:`PAUSE_STEPS` times the median: the training paused in it. A step stands at its middle, and the faster
recording is averaged onto the slower one (:func:`~pytest_physics.metrology.matching.align`).

The *steady zone* is the longest stretch at the largest learning rate, without warm-up and decay; where a training has none (the rate
decays all the time, or was not recorded), it is all steps. Power is the power channel, else the rate of the energy counter.

Assumes that table and trace are on one clock, as the sampler and the step marks of one machine are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_physics.clock import NS_PER_S
from pytest_physics.metrology.autocorrelation import FloatArray
from pytest_physics.metrology.matching import Aligned, align
from pytest_physics.record.data import RunData
from pytest_physics.record.window_energy import idle_of
from pytest_physics.sampling.trace import Trace

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

PAUSE_STEPS = 3.0
"""A step longer than this many median steps holds a pause: evaluation, saving, a suspended process."""
TOP_RATE = 0.999
"""Share of the largest learning rate from which a step counts as steady."""
MIN_ZONE_STEPS = 20
MIN_ZONE_SHARE = 0.25
"""A stretch at the largest rate is a steady zone from this many steps, and from this share of the training, on."""
STEP_COLUMNS = ("loss", "grad_norm", "learning_rate")
STEP_TIME = "step_time_s"
POWER = "power_w"
EFFICIENCY = "steps_per_joule"
LOGGED = "logged_"
"""Prefix of a column that an imported monitor computed: ``logged_rle_smoothed``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The steps of a training; arrays of shape (N,), without the first step."""

    step: IntArray
    begin_ns: IntArray
    end_ns: IntArray
    columns: Mapping[str, FloatArray]
    """What the training said of each step, and its duration as ``step_time_s``."""
    paused: BoolArray
    """Steps that hold a pause."""
    steady: BoolArray
    """Steps in the steady zone."""
    has_zone: bool
    """Whether there is a zone, and not all steps stand in for it."""

    @property
    def usable(self) -> BoolArray:
        """Steady, and without a pause."""
        return self.steady & ~self.paused

    @property
    def zone_ns(self) -> tuple[int, int]:
        """From the begin of the first to the end of the last usable step; the whole training where there is none."""
        index = np.flatnonzero(self.usable)
        first, last = (int(index[0]), int(index[-1])) if index.size else (0, -1)
        return int(self.begin_ns[first]), int(self.end_ns[last])


def steps_of(table: NDArray[np.void]) -> Steps:
    """Steps of a table; raises ``ValueError`` for fewer than two marks."""
    t_ns = np.asarray(table["t_ns"], dtype=np.int64)
    if t_ns.size < 2:
        raise ValueError(f"{t_ns.size} step marks make no step: the duration of a step is from the mark before it.")
    lasted = np.diff(t_ns)
    columns = {name: np.asarray(table[name][1:], dtype=np.float64) for name in STEP_COLUMNS if name in (table.dtype.names or ())}
    steady = steady_zone(columns.get("learning_rate", np.full(lasted.size, np.nan)))
    return Steps(
        step=np.asarray(table["step"][1:], dtype=np.int64), begin_ns=t_ns[:-1], end_ns=t_ns[1:],
        columns={**columns, STEP_TIME: lasted / NS_PER_S}, paused=lasted > PAUSE_STEPS * float(np.median(lasted)),
        steady=np.ones(lasted.size, dtype=bool) if steady is None else steady, has_zone=steady is not None,
    )  # fmt: skip


def steady_zone(learning_rate: FloatArray) -> BoolArray | None:
    """The longest run of steps at the largest learning rate, shape (N,); None where there is none that is long enough."""
    if not np.isfinite(learning_rate).any():
        return None
    at_top = learning_rate >= TOP_RATE * float(np.nanmax(learning_rate))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], at_top.astype(np.int8), [0]])))
    starts, stops = edges[::2], edges[1::2]
    longest = int(np.argmax(stops - starts))
    length = int(stops[longest] - starts[longest])
    if length < MIN_ZONE_STEPS or length < MIN_ZONE_SHARE * learning_rate.size:
        return None
    zone = np.zeros(learning_rate.size, dtype=bool)
    zone[starts[longest] : stops[longest]] = True
    return zone


def power_of(trace: Trace) -> tuple[FloatArray, FloatArray] | None:
    """Times in seconds and watts of the power channel, else of the energy counter's rate between its ticks; None where there is neither."""
    t_s = np.asarray(trace.t_ns / NS_PER_S, dtype=np.float64)
    if trace.has(POWER) and np.isfinite(trace.values(POWER)).any():
        return t_s, np.asarray(trace.values(POWER))
    if not trace.has("energy_j"):
        return None
    energy = np.asarray(trace.values("energy_j"))
    moved = np.flatnonzero(np.isfinite(energy) & (np.diff(energy, prepend=np.nan) != 0))
    if moved.size < 3:
        return None
    at, counted = t_s[moved], energy[moved]
    return (at[:-1] + at[1:]) / 2, np.diff(counted) / np.diff(at)


def telemetry_columns(
    data: RunData, instrument: str, names: Sequence[str], span_ns: tuple[int, int]
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Times in seconds and values of channels, power and logged columns within a span; what the device has not is left out."""
    trace = data.trace(instrument).between(*span_ns)
    found: dict[str, tuple[FloatArray, FloatArray]] = {}
    for name in names:
        if name == POWER:
            power = power_of(trace)
            found |= {name: power} if power else {}
        elif name.startswith(LOGGED):
            found |= _logged(data, instrument, name, span_ns)
        elif trace.has(name) and np.isfinite(trace.values(name)).any():
            found[name] = np.asarray(trace.t_ns / NS_PER_S, dtype=np.float64), np.asarray(trace.values(name))
    return found


def _logged(data: RunData, instrument: str, name: str, span_ns: tuple[int, int]) -> dict[str, tuple[FloatArray, FloatArray]]:
    """A column that an imported monitor computed."""
    table_id, column = f"logged-{instrument}-1", name.removeprefix(LOGGED)
    if not data.has_table(table_id) or column not in (data.table(table_id).dtype.names or ()):
        return {}
    table = data.table(table_id)
    inside = (table["t_ns"] >= span_ns[0]) & (table["t_ns"] <= span_ns[1])
    return {name: (np.asarray(table["t_ns"][inside] / NS_PER_S), np.asarray(table[column][inside], dtype=np.float64))}


def joined(data: RunData, table_id: str, instrument: str, names: Sequence[str], *, baselines: Sequence[str] = ()) -> Aligned:
    """The usable steps of the steady zone with telemetry ``names`` of an instrument on one time base; refused below 90 % matched.

    ``steps_per_joule`` among ``names`` is one step over its duration times its power, idle power of the ``baselines`` taken off.
    """
    steps = steps_of(data.table(table_id))
    wanted = [name for name in names if name not in {EFFICIENCY, STEP_TIME, *steps.columns}]
    if EFFICIENCY in names and POWER not in wanted:
        wanted.append(POWER)
    kept = steps.usable
    middle_s = np.asarray((steps.begin_ns + steps.end_ns)[kept] / 2 / NS_PER_S, dtype=np.float64)
    telemetry = telemetry_columns(data, instrument, wanted, steps.zone_ns)
    times = next((t_s for t_s, _ in telemetry.values()), middle_s)
    columns = {
        name: values if t_s is times or np.array_equal(t_s, times) else np.interp(times, t_s, values)
        for name, (t_s, values) in telemetry.items()
    }
    aligned = align(
        middle_s, {name: values[kept] for name, values in steps.columns.items()}, times, columns, scope=f"{table_id} and {instrument}"
    )
    return aligned if EFFICIENCY not in names or POWER not in columns else _with_efficiency(data, aligned, baselines)


def _with_efficiency(data: RunData, aligned: Aligned, baselines: Sequence[str]) -> Aligned:
    """Steps per joule, net where idle baselines are known."""
    idle = idle_of([data.baseline(name) for name in baselines])
    idle_w = 0.0 if idle is None else float(np.mean(idle.power_w))
    energy_j = aligned.columns[STEP_TIME] * (aligned.columns[POWER] - idle_w)
    with np.errstate(divide="ignore", invalid="ignore"):
        efficiency = np.where(energy_j > 0, 1 / energy_j, np.nan)
    parts: dict[str, Any] = {name: getattr(aligned, name) for name in ("t_s", "rows", "matched", "distinct", "tolerance_s", "period_s")}
    return Aligned(columns={**aligned.columns, EFFICIENCY: efficiency}, **parts)
