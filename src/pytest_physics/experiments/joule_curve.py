"""The Joule curve: energy and time per token against batch size, prefill and decode apart.

Protocol: warm up; one short look at every arm to choose how often the work is repeated in a window, so that the sensor sees enough
of it; then repetitions of all arms in blocks, forwards and backwards in turn (ABBA) from a seeded order, each window in idle
surroundings; the last idle baseline before the sweep, and one after it. An arm that does not fit is left out with its reason, and
the sweep goes on. On an instrument without power or counter only time is measured.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import ConfigurationError
from pytest_physics.instrument import Energy, Instrument, Label, Window
from pytest_physics.metrology.counter import MIN_TICKS
from pytest_physics.metrology.curves import law_fixed, law_per_work
from pytest_physics.metrology.uncertainty import Estimate, Recipe, mean
from pytest_physics.record.schema import BaselineRecord
from pytest_physics.session import Session
from pytest_physics.workloads.base import Workload
from pytest_physics.workloads.canary import canary_s

EXPERIMENT = "joule curve"
PHASES = ("prefill", "decode")
COUNTER_TICK_S = 0.1
"""Typical tick of an energy counter; windows of ``MIN_TICKS`` of them are measured by it."""
CANARIES = 3
MAX_CALLS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One cell of the sweep."""

    phase: str
    """``prefill`` or ``decode``."""
    batch: int


@dataclass(slots=True, kw_only=True)
class JouleCurve:
    """What the sweep measured."""

    session: Session
    instrument: Instrument
    windows: dict[Arm, list[Window]] = field(default_factory=dict)
    energies: dict[Arm, list[Energy]] = field(default_factory=dict)
    """Energy of each window; empty on an instrument without power."""
    left_out: dict[Arm, str] = field(default_factory=dict)
    """Arms that were not measured, and why."""
    phase: str = ""
    """Phase that holds all windows."""
    canaries: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Windows of the canary before and after; empty on a virtual clock."""

    def per_token(self, batch: int, phase: str = "decode", *, kind: str = "net") -> Estimate:
        """Energy per token in J/token: mean over the repetitions of one arm; ``kind`` is ``net`` or ``gross``."""
        arm = self._measured(Arm(phase=phase, batch=batch))
        if not self.energies.get(arm):
            self.instrument.require_metered()
        pairs = zip(self.windows[arm], self.energies[arm], strict=True)
        return mean([(energy.net if kind == "net" else energy.gross) / window.count("token") for window, energy in pairs])

    def time_per_token(self, batch: int, phase: str = "decode") -> Estimate:
        """Time per token in s/token: median over the repetitions of one arm."""
        arm = self._measured(Arm(phase=phase, batch=batch))
        parameters: dict[str, Any] = {"windows": [window.id for window in self.windows[arm]], "work": "tokens", "span": self.phase}
        if self.canaries[0]:
            parameters |= {"canaries_before": list(self.canaries[0]), "canaries_after": list(self.canaries[1])}
        return self.session.evaluate(Recipe(op="windows.time_per_work", parameters=parameters))

    def fixed(self, phase: str = "decode") -> Estimate:
        """E_fixed of E = E_fixed + E_token · tokens for one call of the phase, in joules."""
        energies, tokens = self._per_call(phase)
        return law_fixed(energies, work=tokens)

    def per_token_limit(self, phase: str = "decode") -> Estimate:
        """E_token of the same law: what a token costs in a very large batch, in J/token."""
        energies, tokens = self._per_call(phase)
        return law_per_work(energies, work=tokens)

    def batches(self, phase: str) -> list[int]:
        """Measured batch sizes, ascending."""
        return sorted(arm.batch for arm in self.windows if arm.phase == phase)

    def _measured(self, arm: Arm) -> Arm:
        if arm not in self.windows:
            reason = self.left_out.get(arm, f"the sweep has batches {self.batches(arm.phase)}")
            raise ConfigurationError(f"{arm.phase} at batch {arm.batch} was not measured: {reason}.")
        return arm

    def _per_call(self, phase: str) -> tuple[list[Estimate], list[float]]:
        """Net energy and tokens of one call, per batch."""
        energies, tokens = [], []
        for batch in self.batches(phase):
            arm = Arm(phase=phase, batch=batch)
            calls = self.windows[arm][0].work["calls"]
            per_call = self.windows[arm][0].work["tokens"] / calls
            energies.append(self.per_token(batch, phase) * Estimate.exact(per_call, "token"))
            tokens.append(per_call)
        return energies, tokens


def run_joule_curve(instrument: Instrument, session: Session, workload: Workload, *, batches: Sequence[int] | None = None) -> JouleCurve:
    """Measure the curve and record its results; ``batches`` defaults to the settings'."""
    settings = session.settings.experiment
    sweep = _Sweep(instrument, session, workload, tuple(batches or settings.batches))
    curve = JouleCurve(session=session, instrument=instrument)
    before = sweep.baseline_before()
    workload.warm_up()
    with instrument.phase("joule curve") as phase:
        curve.phase = phase.id
        canaries_before = sweep.canaries()
        for arm in sweep.order():
            sweep.measure(arm, curve)
        canaries_after = sweep.canaries()
    after = sweep.baseline()
    curve.canaries = (canaries_before, canaries_after)
    if instrument.metered:
        sweep.evaluate_energies(curve, (*before, *after))
    _record(curve)
    return curve


class _Sweep:
    """The sweep's protocol, step by step."""

    def __init__(self, instrument: Instrument, session: Session, workload: Workload, batches: tuple[int, ...]) -> None:
        self.instrument = instrument
        self.session = session
        self.workload = workload
        self.settings = session.settings.experiment
        self.arms = [Arm(phase=phase, batch=batch) for phase, batch in itertools.product(PHASES, batches)]
        self.calls: dict[Arm, int] = {}

    @property
    def window_s(self) -> float:
        """Target length of a window."""
        return self.settings.window_s if self.instrument.metered else self.settings.latency_s

    def order(self) -> Iterator[Arm]:
        """A seeded order, forwards and backwards in turn."""
        arms = list(self.arms)
        random.Random(self.session.settings.seed).shuffle(arms)  # noqa: S311 -- an order, not a secret
        for repetition in range(self.settings.repetitions):
            yield from arms if repetition % 2 == 0 else reversed(arms)

    def measure(self, arm: Arm, curve: JouleCurve) -> None:
        """One repetition of one arm, or the reason why there is none."""
        if arm in curve.left_out:
            return
        try:
            if arm.phase == "decode" or arm not in self.calls:
                self._rest()  # what is done outside of any window must not fall into the tail of the last one
            calls = self._calibrated(arm)
            self._rest()
        except (ConfigurationError, MemoryError) as error:
            curve.left_out[arm] = str(error)
            return
        per_call = arm.batch * (self.settings.prompt_tokens if arm.phase == "prefill" else self.settings.new_tokens)
        repetition = len(curve.windows.setdefault(arm, []))
        labels: dict[str, Label] = {"batch": arm.batch, "phase": arm.phase, "repetition": repetition}
        with self.instrument.window(arm.phase, labels=labels, tokens=calls * per_call, calls=calls) as window:
            for _ in range(calls):
                self._call(arm)
        curve.windows[arm].append(window)

    def _calibrated(self, arm: Arm) -> int:
        """Calls per window for this arm; prepares its context."""
        if arm.phase == "decode":
            self.workload.prepare(arm.batch, self.settings.prompt_tokens)
        if arm not in self.calls:
            self._call(arm)
            t0_ns = self.instrument.clock.now_ns()
            self._call(arm)
            once_s = max(1e-9, (self.instrument.clock.now_ns() - t0_ns) / NS_PER_S)
            self.calls[arm] = min(MAX_CALLS, max(1, round(self.window_s / once_s)))
        return self.calls[arm]

    def _call(self, arm: Arm) -> None:
        if arm.phase == "prefill":
            self.workload.prefill(arm.batch, self.settings.prompt_tokens)
        else:
            self.workload.decode(arm.batch, self.settings.new_tokens)

    def _rest(self) -> None:
        """Idle time between windows, so that readings of one do not reach into the next."""
        if self.instrument.metered:
            self.instrument.sleep(self.instrument.tail_ns / NS_PER_S)

    def baseline_before(self) -> tuple[BaselineRecord, ...]:
        """The last idle baseline, or one measured now: minutes of idle here would undo a heat soak."""
        return tuple(self.instrument.baselines[-1:]) or self.baseline()

    def baseline(self) -> tuple[BaselineRecord, ...]:
        """An idle baseline, where power can be measured."""
        return (self.instrument.baseline(),) if self.instrument.metered and self.instrument.has("power_w") else ()

    def canaries(self) -> tuple[str, ...]:
        """Windows around fixed native work, on a real clock; they bound what no sensor shows."""
        if self.instrument.simulated:
            return ()
        names = []
        for _ in range(CANARIES):
            with self.instrument.window("canary", synchronise=False) as window:
                canary_s(1)
            names.append(window.id)
        return tuple(names)

    def evaluate_energies(self, curve: JouleCurve, baselines: tuple[BaselineRecord, ...]) -> None:
        """Energies of all windows, all by one estimator: two would not share their errors."""
        counter = self.instrument.has("energy_j") and self.window_s >= MIN_TICKS * COUNTER_TICK_S
        estimator = "counter" if counter or not self.instrument.has("power_w") else "power"
        for arm, windows in curve.windows.items():
            curve.energies[arm] = [self.instrument.energy(w, baselines=baselines, estimator=estimator) for w in windows]


def _record(curve: JouleCurve) -> None:
    """Write the curve's points and its law into the run."""
    result = curve.session.result
    for arm in sorted(curve.windows, key=lambda arm: (arm.phase, arm.batch)):
        at: dict[str, Label] = {"batch": arm.batch, "phase": arm.phase, "instrument": curve.instrument.name}
        result(EXPERIMENT, "time per token", curve.time_per_token(arm.batch, arm.phase), **at)
        if curve.energies:
            result(EXPERIMENT, "energy per token (net)", curve.per_token(arm.batch, arm.phase), **at)
            result(EXPERIMENT, "energy per token (gross)", curve.per_token(arm.batch, arm.phase, kind="gross"), **at)
    for phase in PHASES:
        if curve.energies and len(curve.batches(phase)) >= 3:
            at = {"phase": phase, "instrument": curve.instrument.name}
            result(EXPERIMENT, "fixed energy per call", curve.fixed(phase), **at)
            result(EXPERIMENT, "energy per token in a large batch", curve.per_token_limit(phase), **at)
