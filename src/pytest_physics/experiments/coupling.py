"""Training coupling: whether what the optimiser does shows in what the device does, and how sure that is.

A training's steps (``training-steps-N``: end, index, loss, gradient norm, learning rate) and an instrument's samples are joined on their
one clock, over the steady zone. Every pair of :data:`PAIRS` that the rig has is analysed and recorded, with event rates by every rule,
headroom, and the samples of each step (``step-samples-…``), so that the step index stands on both sides.

* :func:`run_training` trains a small model on real hardware; repeated from one seed its log is equal to the last bit, and what telemetry
  makes of equal logs is the noise floor.
* :func:`run_simulated_training` puts a load on a twin that follows the gradient norm with a *planted* correlation and lag, or not at all;
  its steady zone is as long as the design guide asks for.
* :func:`analyse` is also the end of ``pytest-physics joint``.

Reference: RLE study §4, §7.2 (seed 001), §8.8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy import signal

from pytest_physics.clock import NS_PER_S
from pytest_physics.instrument import Instrument
from pytest_physics.metrology.autocorrelation import FloatArray
from pytest_physics.metrology.coupling import ALPHA, steady_zone_s
from pytest_physics.metrology.instability import RULES
from pytest_physics.metrology.quality import Quality
from pytest_physics.metrology.uncertainty import Estimate, Recipe
from pytest_physics.record.joined import EFFICIENCY, POWER, STEP_TIME, Steps, steps_of, telemetry_columns
from pytest_physics.record.leaves.coupling import SHOWN_AS
from pytest_physics.record.schema import BaselineRecord, PhaseRecord
from pytest_physics.session import Session
from pytest_physics.workloads.training import Training, TrainingSetting

if TYPE_CHECKING:
    from pytest_physics.devices.twin import TwinDevice

EXPERIMENT = "training coupling"
STEPS_TABLE = "training-steps"
SAMPLES_TABLE = "step-samples"
PHASE = "training"
PAIRS = (
    ("grad_norm", POWER),
    ("grad_norm", "temperature_c"),
    ("grad_norm", EFFICIENCY),
    ("loss", EFFICIENCY),
    ("grad_norm", "utilisation_ratio"),
    ("grad_norm", "utilisation_cpu_ratio"),
    ("grad_norm", STEP_TIME),
)
"""Pairs that are looked at, in the order of the report; a rig has some of them."""
LOADS = ("utilisation_ratio", "utilisation_cpu_ratio")
"""What may stand for the load, the first that moves."""
LAG_ROWS = 5
"""Lags searched either way, in rows of the slower recording, where the steady zone is long enough to pay for them."""
SPARE = 0.9
"""Share of the rows that are counted on: ends and gaps take some."""
EVENT_TICK_S = 1.0
HEADROOM_WINDOW_S = 180.0
GUIDE_R = (0.3, 0.5)
"""Couplings for which the results say how long the steady zone must be."""
PLANTED_LAG = 2
"""Steps by which the planted power follows the gradient norm."""
PERSISTENCE = 0.5
"""Lag-1 correlation of the simulated gradient norm and of the rest of the load."""
SIMULATED_STEP_S = 1.0
RAMP_STEPS = 30
MEAN_INTENSITY, INTENSITY_SPREAD = 0.35, 0.05
"""Load of the simulated training: below the power cap, where power follows it."""
WARM_UP_STEPS = 180
"""Before the reference: a cold card does more work per joule than any training can."""
REFERENCE_STEPS = 60
"""Steps of the reference whose work per joule is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCoupling:
    """One training beside one instrument; every number is an estimate with its recipe."""

    session: Session
    instrument: Instrument
    table: str
    phase: str
    baselines: tuple[BaselineRecord, ...] = ()
    planted: bool = False
    """Whether the table holds what was planted between gradient norm and power."""

    @property
    def steps(self) -> Steps:
        """The steps, and which of them are steady."""
        return steps_of(self.session.table(self.table))

    def number(self, quantity: str, a: str, b: str, **more: object) -> Estimate:
        """One number of the analysis of a pair; see :mod:`~pytest_physics.record.leaves.coupling`."""
        parameters: dict[str, Any] = {
            "table": self.table,
            "instrument": self.instrument.name,
            "a": a,
            "b": b,
            "max_lag_s": self._max_lag_s(b),
            "phase": self.phase,
            **more,
        }
        if b == EFFICIENCY and self.baselines:
            parameters["baselines"] = [baseline.id for baseline in self.baselines]
        if self.planted and (a, b) == ("grad_norm", POWER):
            parameters["planted"] = True
        return self.session.evaluate(Recipe(op=f"coupling.{quantity}", parameters=parameters))

    def _max_lag_s(self, b: str) -> float:
        """Lags searched either way, in seconds: rows of the slower recording, and step times have no recording but the steps."""
        step_s = float(np.median(self.steps.columns[STEP_TIME]))
        row_s = step_s if b == STEP_TIME else max(step_s, self.instrument.sampler.period_ns / NS_PER_S)
        return affordable_lags(self.zone_length_s / row_s) * row_s

    def word(self, a: str, b: str) -> Estimate:
        """Rank of the verdict: 0 not supported, 1 weak, 2 moderate, 3 strong."""
        return self.number("word", a, b)

    def lag(self, a: str, b: str) -> Estimate:
        """Lag of the largest |r| in rows; positive where the step's series leads."""
        return self.number("lag", a, b)

    def r(self, a: str, b: str) -> Estimate:
        """Pearson's r of the analysis that decides."""
        return self.number("r", a, b)

    def needed_zone(self, a: str, b: str, *, r: float) -> Estimate:
        """Length that the steady zone needs for a coupling ``r``, in seconds."""
        return self.number("needed_zone", a, b, r=r)

    @property
    def zone_length_s(self) -> float:
        """Length of the steady zone."""
        begin_ns, end_ns = self.steps.zone_ns
        return (end_ns - begin_ns) / NS_PER_S

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs that this instrument can show."""
        columns = {name: values[self.steps.usable] for name, values in self.steps.columns.items()}
        return [(a, b) for a, b in PAIRS if a in columns and _varies(columns[a]) and self._shows(b)]

    @property
    def load(self) -> str:
        """The utilisation that this instrument shows, for correlations with the load taken out; empty where none moves."""
        return next((name for name in LOADS if self._shows(name)), "")

    @property
    def first_telemetry(self) -> str:
        """The telemetry that a null is best tested on: power where there is, else the first that moves, else the step time."""
        return next((b for a, b in self.pairs if a == "grad_norm"), STEP_TIME)

    def _shows(self, name: str) -> bool:
        if name == STEP_TIME:
            return _varies(self.steps.columns[STEP_TIME][self.steps.usable])
        wanted = POWER if name == EFFICIENCY else name
        found = telemetry_columns(self.session, self.instrument.name, [wanted], self.steps.zone_ns).get(wanted)
        return found is not None and _varies(found[1])

    def events(self, quantity: str, rule: str) -> Estimate:
        """``rate`` of events, ``free_share`` of time, or ``flag_share`` by a rule over the training."""
        parameters = {"phase": self.phase, "rule": rule, "tick_s": EVENT_TICK_S}
        return self.session.evaluate(Recipe(op=f"events.{quantity}", parameters=parameters))

    def headroom(self, quantity: str, limit_c: float) -> Estimate:
        """``headroom`` in °C or ``time`` to the limit in seconds at the end of the training."""
        parameters = {"phase": self.phase, "limit_c": limit_c, "window_s": HEADROOM_WINDOW_S, "quantity": quantity}
        return self.session.evaluate(Recipe(op="thermal.headroom", parameters=parameters))


def affordable_lags(rows: float) -> int:
    """Lags either way that ``rows`` pairs can pay for: with more, no correlation could reach p ≤ 5 %. It rests on the length alone."""
    return max(0, min(LAG_ROWS, math.floor((ALPHA * SPARE * rows - 1) / 2)))


def _varies(values: FloatArray) -> bool:
    """Whether a series has two different values: a constant, or one that was never recorded, correlates with nothing."""
    known = values[np.isfinite(values)]
    return known.size > 1 and bool(np.ptp(known) > 0)


# --- analysis ---------------------------------------------------------------------------------------------------------


def analyse(
    session: Session,
    instrument: Instrument,
    table: str,
    phase: PhaseRecord,
    *,
    baselines: Sequence[BaselineRecord] = (),
    planted: bool = False,
    name: str = "",
) -> TrainingCoupling:
    """Record everything that a training and an instrument say together.

    Parameters
    ----------
    planted
        The table holds what was planted between gradient norm and power.
    name
        Tells trainings of one run apart.
    """
    found = TrainingCoupling(
        session=session, instrument=instrument, table=table, phase=phase.id, baselines=tuple(baselines), planted=planted
    )  # fmt: skip
    at: dict[str, Any] = {"instrument": instrument.name, "training": name or table}
    record_step_samples(session, instrument, table)
    for a, b in found.pairs:
        for quantity, shown in SHOWN_AS.items():
            session.result(EXPERIMENT, shown, found.number(quantity, a, b), series=f"{a} ~ {b}", **at)
        if found.load and b != found.load:
            partial = found.number("partial", a, b, given=[found.load])
            session.result(EXPERIMENT, "r given load", partial, series=f"{a} ~ {b}", load=found.load, **at)
    first = found.first_telemetry
    for r in GUIDE_R if found.pairs else ():
        needed = found.needed_zone("grad_norm", first, r=r)
        session.result(EXPERIMENT, "steady zone needed", needed, series=f"grad_norm ~ {first}", r=r, **at)
    _record_events(found, at)
    return found


def _record_events(found: TrainingCoupling, at: Mapping[str, Any]) -> None:
    """Rates by every rule, event-free time, headroom."""
    for rule in RULES:
        found.session.result(EXPERIMENT, "event rate", found.events("rate", rule), rule=rule, **at)
    found.session.result(
        EXPERIMENT, "share of time without events", found.events("free_share", next(iter(RULES))), rule=next(iter(RULES)), **at
    )
    if found.instrument.has("temperature_c"):
        limit_c = limit_of(found.instrument, found.session)
        for quantity, shown in (("headroom", "headroom"), ("time", "time to the limit")):
            found.session.result(EXPERIMENT, shown, found.headroom(quantity, limit_c), limit_c=limit_c, **at)


def limit_of(instrument: Instrument, session: Session) -> float:
    """Temperature at which the device slows itself down, where it says so; else the setting ``soak.trip_c``."""
    if instrument.simulated:
        return cast("TwinDevice", instrument.device).preset.card.slowdown_c
    stated = instrument.device.fingerprint.details.get("slowdown_threshold", "").partition(" ")[0]
    try:
        return float(stated)
    except ValueError:
        return session.settings.soak.trip_c


def record_step_samples(session: Session, instrument: Instrument, table: str) -> str:
    """The telemetry's side of the step index: first and last tick of every step, and how many samples lie in it."""
    steps = steps_of(session.table(table))
    trace = session.trace(instrument.name)
    first, stop = np.searchsorted(trace.t_ns, steps.begin_ns, side="right"), np.searchsorted(trace.t_ns, steps.end_ns, side="right")
    ticks = np.append(trace.tick, -1)
    return session.tabulate(
        f"{SAMPLES_TABLE}-{instrument.name}",
        {
            "step": steps.step, "samples": stop - first, "first_tick": np.where(stop > first, ticks[np.minimum(first, len(ticks) - 1)], -1),
            "last_tick": np.where(stop > first, ticks[np.maximum(stop - 1, 0)], -1), "steady": steps.usable,
        },
    )  # fmt: skip


# --- a training on real hardware --------------------------------------------------------------------------------------


def run_training(instrument: Instrument, session: Session, training: Training, *, name: str = "") -> TrainingCoupling:
    """Run one training beside ``instrument`` and analyse it."""
    table, phase = _recorded(instrument, session, training)
    return analyse(session, instrument, table, phase, baselines=instrument.baselines[-1:], name=name)


def _recorded(instrument: Instrument, session: Session, training: Training, *, share: float = 1.0) -> tuple[str, PhaseRecord]:
    """Run the first ``share`` of a training inside of a phase, and record its steps."""
    rows: list[tuple[int, int, float, float, float]] = []
    until = math.ceil(share * training.setting.steps)
    with instrument.phase(PHASE) as phase:
        training.run(lambda step, loss, norm, rate: rows.append((instrument.clock.now_ns(), step, loss, norm, rate)), until=until)
    instrument.wait_until_sampled(instrument.clock.now_ns(), timeout_s=session.settings.sampling.max_wait_s)
    names = ("t_ns", "step", "loss", "grad_norm", "learning_rate")
    table = session.tabulate(STEPS_TABLE, dict(zip(names, map(np.asarray, zip(*rows, strict=True)), strict=True)))
    return table, next(p for p in instrument.phases if p.id == phase.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicates:
    """One seeded training, repeated."""

    first: TrainingCoupling
    tables: tuple[str, ...]

    @property
    def identical(self) -> Estimate:
        """How many of the logs are equal to the first one to the last bit."""
        parameters = {"tables": list(self.tables), "instrument": self.first.instrument.name}
        return self.first.session.evaluate(Recipe(op="coupling.replicates", parameters=parameters))

    def noise_floor(self, a: str, b: str) -> Estimate:
        """Spread of r between a series of the steps and telemetry that the replicates do not share."""
        parameters = {"tables": list(self.tables), "instrument": self.first.instrument.name, "a": a, "b": b}
        return self.first.session.evaluate(Recipe(op="coupling.noise_floor", parameters=parameters))


def run_replicates(instrument: Instrument, session: Session, setting: TrainingSetting) -> Replicates:
    """Repeat one seeded training; the first is analysed, and all of them give the noise floor."""
    found: list[TrainingCoupling] = []
    tables: list[str] = []
    for number in range(session.settings.training.replicates):
        training = Training(setting)
        if number == 0:
            found.append(run_training(instrument, session, training, name="replicate 1"))
            tables.append(found[0].table)
        else:
            tables.append(_recorded(instrument, session, training, share=session.settings.training.replicate_share)[0])
    replicates = Replicates(first=found[0], tables=tuple(tables))
    at = {"instrument": instrument.name, "training": f"{len(tables)} replicates"}
    session.result(EXPERIMENT, "identical logs", replicates.identical, **at)
    if session.settings.training.replicate_share == 1.0:
        first = found[0].first_telemetry
        session.result(EXPERIMENT, "noise floor of r", replicates.noise_floor("grad_norm", first), series=f"grad_norm ~ {first}", **at)
    return replicates


# --- a simulated training ---------------------------------------------------------------------------------------------


def run_simulated_training(instrument: Instrument, session: Session, *, planted_r: float, seed: int) -> TrainingCoupling:
    """A training on a twin whose power follows the gradient norm :data:`PLANTED_LAG` steps later with correlation ``planted_r``.

    With 0 it follows nothing. Loss and gradient norm are those of no model: a decaying loss, and noise that remembers itself.
    """
    max_lag_s = LAG_ROWS * SIMULATED_STEP_S
    guide_s = steady_zone_s(
        session.settings.training.planted_r, period_s=SIMULATED_STEP_S, lag1=(PERSISTENCE, PERSISTENCE), max_lag_s=max_lag_s
    )
    steady = math.ceil(guide_s / SIMULATED_STEP_S)
    total = steady + 2 * RAMP_STEPS
    rng = np.random.default_rng([seed, 6])
    norm, rest = _persistent(rng, total + PLANTED_LAG), _persistent(rng, total)
    drive = planted_r * norm[:total] + math.sqrt(1 - planted_r**2) * rest  # norm[k + lag] is the gradient norm of step k
    share = np.minimum(1.0, np.minimum(np.arange(1, total + 1), np.arange(total, 0, -1)) / (RAMP_STEPS + 1))
    share[RAMP_STEPS : total - RAMP_STEPS] = 1.0
    intensity = np.clip(share * (MEAN_INTENSITY + INTENSITY_SPREAD * drive), 0.01, 1.0)
    baseline = instrument.baselines[-1] if instrument.baselines else instrument.baseline()
    _simulated_steps(instrument, np.full(WARM_UP_STEPS, MEAN_INTENSITY), "warm-up")
    reference = _simulated_steps(instrument, np.full(REFERENCE_STEPS, MEAN_INTENSITY), "reference")
    with instrument.phase(PHASE) as phase:
        window, ends_ns = _simulated_steps(instrument, intensity, "training steps")
    index = np.arange(total)
    table = session.tabulate(STEPS_TABLE, {
        "t_ns": ends_ns, "step": index + 1, "loss": 2.0 + 3.0 * np.exp(-index / (0.3 * total)) + 0.05 * rng.standard_normal(total),
        "grad_norm": np.exp(0.2 * norm[PLANTED_LAG:]), "learning_rate": 1e-3 * share,
        **({"planted_r": np.full(total, _planted_r(planted_r)), "planted_lag": np.full(total, PLANTED_LAG)} if planted_r else {}),
    })  # fmt: skip
    instrument.wait_until_sampled(instrument.clock.now_ns())
    ended = next(p for p in instrument.phases if p.id == phase.id)
    name = f"planted r = {planted_r:g}" if planted_r else "nothing planted"
    found = analyse(session, instrument, table, ended, baselines=(baseline,), planted=bool(planted_r), name=name)
    _record_efficiency(found, window, reference[0], name)
    return found


def _planted_r(r: float) -> float:
    """Population correlation of the exponential of one normal series with another that it is correlated ``r`` with."""
    spread = 0.2
    return r * spread / math.sqrt(math.expm1(spread**2))


def _persistent(rng: np.random.Generator, n: int) -> FloatArray:
    """AR(1) noise of unit variance."""
    drawn = signal.lfilter([1.0], [1.0, -PERSISTENCE], rng.standard_normal(n + 100))[100:]
    return np.asarray(drawn * math.sqrt(1 - PERSISTENCE**2), dtype=np.float64)


def _simulated_steps(instrument: Instrument, intensity: FloatArray, name: str) -> tuple[Any, np.ndarray[Any, np.dtype[np.int64]]]:
    """Steps of a second each at given loads, in one window; the window and the ends of the steps."""
    from pytest_physics.devices.twin import TwinDevice, TwinLoad  # noqa: PLC0415 -- only where a twin is the device
    from pytest_physics.workloads.twin import TwinKernel  # noqa: PLC0415

    assert isinstance(instrument.device, TwinDevice)  # noqa: S101 -- asked for on twins only
    ends: list[int] = []
    with instrument.window(name, steps=float(len(intensity))) as window:
        for level in intensity.tolist():
            TwinKernel(instrument.device, load=TwinLoad(intensity=level)).run_for(SIMULATED_STEP_S)
            ends.append(instrument.clock.now_ns())
    return window, np.asarray(ends, dtype=np.int64)


def _record_efficiency(found: TrainingCoupling, window: Any, reference: Any, name: str) -> None:  # noqa: ANN401 -- two windows
    """Work per net joule relative to the reference × share of time without events, with both factors."""
    at = {"instrument": found.instrument.name, "training": name}
    per_joule = [w.count("step") / found.instrument.energy(w, baselines=found.baselines).net for w in (window, reference)]
    relative = per_joule[0] / per_joule[1]
    free = found.events("free_share", next(iter(RULES)))
    result = found.session.result
    result(EXPERIMENT, "work per net joule over the reference", relative, **at)
    if free.quality > Quality.NO_DATA:
        result(EXPERIMENT, "efficiency: work per joule × time without events", relative * free, **at)
