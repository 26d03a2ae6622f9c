"""The Joule curve: energy and time per token against batch size, prefill and decode apart.

Protocol: warm up; the sweep runs in its own rhythm until the card has come to rest in it (a card soaked under full load cools as soon as
work pauses), or is declared cold; then repetitions of all arms in blocks, each drawn order forwards and at once backwards (ABBA), so that
what drifts linearly falls on all arms alike. Each window lies between idle stretches as long as the sensor's tail, and longer after what
prepares it, so that no other work is taken for idle. The last idle baseline before the sweep, and one after it. Windows are made of as
many equal calls as the sensor needs. An arm that does not fit is left out with its reason, and the sweep goes on. On an instrument
without power or counter only time is measured.

An arm is a batch, a context, a number of new tokens, and a variant: a data type, or whatever else tells two workloads apart. Laws are
fitted over the batches of one series (equal in all else). The order of all windows is a table of the run, ``joule-arms``.

Fails with ``ConfigurationError`` for arms that cannot be meant (zero tokens). What it cannot see is refused by gates on every energy:
power that did not rise, too few updates, compared arms at different clocks or temperatures, a sweep that was still warming, a law that is
no line.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pytest_physics.clock import NS_PER_S
from pytest_physics.errors import ArmNotTestedError, ConfigurationError
from pytest_physics.instrument import Instrument, Label, Window
from pytest_physics.metrology import token_units
from pytest_physics.metrology.counter import MIN_TICKS
from pytest_physics.metrology.curves import best_under_limit, law_fixed, law_per_work
from pytest_physics.metrology.parity import MIN_UPDATES
from pytest_physics.metrology.uncertainty import Estimate, Recipe
from pytest_physics.record.leaves.arm import DECLARED_COLD
from pytest_physics.record.schema import BaselineRecord
from pytest_physics.record.window_energy import HEAD_UPDATES, RULES
from pytest_physics.session import Session
from pytest_physics.workloads.base import Repeating, Workload, is_out_of_memory
from pytest_physics.workloads.canary import canary_s

EXPERIMENT = "joule curve"
TABLE = "joule-arms"
"""Name of the table with the order of all windows, and of the arms left out."""
PHASES = ("prefill", "decode")
COUNTER_TICK_S = 0.1
"""Typical tick of an energy counter; windows of ``MIN_TICKS`` of them are measured by it."""
CANARIES = 3
MAX_CALLS = 100_000
AT_REST_C = 0.5
"""A sweep is at rest in its rhythm where two pairs of blocks in a row differ by less in their mean temperature."""

Start = Literal["rhythm", "cold"]
Model = Workload | Mapping[str, Workload]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One cell of the sweep."""

    phase: str
    """``prefill`` or ``decode``."""
    batch: int
    context: int
    """Tokens of each prompt."""
    new_tokens: int = 0
    """Tokens that decode generates in each sequence; 0 in prefill."""
    variant: str = ""
    """Which of several workloads; empty where there is one."""

    def __post_init__(self) -> None:
        """An arm without tokens has no energy per token."""
        if self.phase not in PHASES:
            raise ConfigurationError(f"a phase is one of {', '.join(PHASES)} (got {self.phase!r}).")
        counts = {"batch": self.batch, "context": self.context, **({"new_tokens": self.new_tokens} if self.phase == "decode" else {})}
        for name, count in counts.items():
            if count < 1:
                raise ConfigurationError(f"'{name}' of an arm must be >= 1 (got {count}): energy per token needs tokens.")

    @property
    def tokens(self) -> int:
        """Tokens of one call, all sequences together."""
        return self.batch * (self.context if self.phase == "prefill" else self.new_tokens)

    @property
    def series(self) -> tuple[str, int, int, str]:
        """What arms of one law have in common."""
        return self.phase, self.context, self.new_tokens, self.variant

    @property
    def labels(self) -> dict[str, Label]:
        """Coordinates of its windows and results."""
        labels: dict[str, Label] = {"batch": self.batch, "phase": self.phase, "context": self.context}
        return labels | ({"new_tokens": self.new_tokens} if self.new_tokens else {}) | ({"variant": self.variant} if self.variant else {})


def grid(batches: Sequence[int], *, contexts: Sequence[int], new_tokens: Sequence[int], variants: Sequence[str] = ("",)) -> tuple[Arm, ...]:
    """All arms of both phases; the first context, count and variant are those that results mean where nothing else is said."""
    arms: dict[Arm, None] = {}
    for variant in variants:
        for context in contexts:
            arms |= {Arm(phase="prefill", batch=b, context=context, variant=variant): None for b in batches}
            for count in new_tokens:
                arms |= {Arm(phase="decode", batch=b, context=context, new_tokens=count, variant=variant): None for b in batches}
    return tuple(arms)


@dataclass(slots=True, kw_only=True)
class JouleCurve:
    """What the sweep measured."""

    session: Session
    instrument: Instrument
    arms: tuple[Arm, ...] = ()
    """All arms that were planned, in the order of the plan."""
    start: Start = "rhythm"
    """Whether the sweep had come to rest in its own rhythm, or was declared cold."""
    windows: dict[Arm, list[Window]] = field(default_factory=dict)
    left_out: dict[Arm, str] = field(default_factory=dict)
    """Arms that were not measured, and why."""
    phase: str = ""
    """Phase that holds all windows."""
    baselines: tuple[str, ...] = ()
    """Ids of the idle baselines that net energies subtract."""
    sensor: str = ""
    """Id of what was known of the power channel."""
    estimator: str = "power"
    """One for all windows: two would not share their errors."""
    canaries: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Windows of the canary before and after; empty on a virtual clock."""

    # --- single arms -------------------------------------------------------------------------------------------------

    def per_token(self, batch: int, phase: str = "decode", *, kind: str = "net", **where: Label) -> Estimate:
        """Energy per token in J/token: mean over the windows of one arm.

        ``kind`` is ``net`` or ``gross``; ``where`` names ``context``, ``new_tokens`` or ``variant`` where the sweep has several.
        """
        return self.session.evaluate(self._energy_recipe(self._measured(self.arm(batch, phase, **where)), kind))

    def time_per_token(self, batch: int, phase: str = "decode", **where: Label) -> Estimate:
        """Time per token in s/token, all sequences together: median over the windows of one arm."""
        return self._time(self._measured(self.arm(batch, phase, **where)), "tokens")

    def latency(self, batch: int, phase: str = "decode", **where: Label) -> Estimate:
        """How long a user waits: for the first token in prefill (s/call), for each further one in decode (s/step)."""
        arm = self._measured(self.arm(batch, phase, **where))
        per_call = self._time(arm, "calls")
        return per_call if arm.phase == "prefill" else per_call / Estimate.exact(arm.new_tokens, "step/call")

    def start_temperature(self, batch: int, phase: str = "decode", **where: Label) -> Estimate:
        """Mean temperature that the arm found, in °C."""
        arm = self._measured(self.arm(batch, phase, **where))
        return self.session.evaluate(Recipe(op="arm.start_temperature", parameters={"windows": [w.id for w in self.windows[arm]]}))

    # --- laws over the batches ---------------------------------------------------------------------------------------

    def fixed(self, phase: str = "decode", **where: Label) -> Estimate:
        """E_fixed of E = E_fixed + E_token · tokens for one call of the phase, in joules."""
        energies, tokens = self._per_call(phase, where)
        return self.session.evaluate(law_fixed(energies, work=tokens).recipe)

    def per_token_limit(self, phase: str = "decode", **where: Label) -> Estimate:
        """E_token of the same law, the plateau: what a token costs in a very large batch, in J/token."""
        energies, tokens = self._per_call(phase, where)
        return self.session.evaluate(law_per_work(energies, work=tokens).recipe)

    def break_even(self, phase: str = "decode", **where: Label) -> Estimate:
        """Batch at which the fixed part of a call costs as much as its tokens, in sequences: E_fixed / E_token / tokens of a sequence."""
        arm = self.arm(self.batches(phase, **where)[0], phase, **where)
        ratio = self.fixed(phase, **where) / self.per_token_limit(phase, **where)
        return ratio / Estimate.exact(arm.tokens // arm.batch, "token/sequence")

    def best_batch(self, max_latency_s: float | None = None, phase: str = "decode", *, kind: str = "net", **where: Label) -> Estimate:
        """Batch with the lowest energy per token among those that surely keep the limit; default: ``experiment.max_latency_s``."""
        limit = self.max_latency_s if max_latency_s is None else max_latency_s
        batches = self.batches(phase, **where)
        inputs = [self.per_token(b, phase, kind=kind, **where) for b in batches] + [self.latency(b, phase, **where) for b in batches]
        return self.session.evaluate(best_under_limit(inputs, sizes=batches, limit=limit).recipe)

    @property
    def max_latency_s(self) -> float:
        """The settings' limit of a step of decoding, in seconds."""
        return self.session.settings.experiment.max_latency_s

    # --- units people use --------------------------------------------------------------------------------------------

    def tokens_per_joule(self, batch: int, phase: str = "decode", *, kind: str = "gross", **where: Label) -> Estimate:
        """Tokens for a joule."""
        return token_units.tokens_per_joule(self.per_token(batch, phase, kind=kind, **where))

    def tokens_per_kwh(self, batch: int, phase: str = "decode", *, kind: str = "gross", **where: Label) -> Estimate:
        """Tokens for a kilowatt hour."""
        return token_units.tokens_per_kwh(self.per_token(batch, phase, kind=kind, **where))

    def per_request(self, batch: int, *, kind: str = "gross", **where: Label) -> Estimate:
        """Energy of one request, its prompt and its new tokens, served in batches of ``batch``, in J/request."""
        decode = self._measured(self.arm(batch, "decode", **where))
        prompt: dict[str, Any] = {key: value for key, value in where.items() if key != "new_tokens"}
        energies = self.per_token(batch, "prefill", kind=kind, **prompt), self.per_token(batch, "decode", kind=kind, **where)
        return token_units.per_request(*energies, prompt_tokens=decode.context, new_tokens=decode.new_tokens)

    def wh_per_thousand_requests(self, batch: int, *, kind: str = "gross", **where: Label) -> Estimate:
        """Watt hours of a thousand requests."""
        return token_units.wh_per_thousand_requests(self.per_request(batch, kind=kind, **where))

    def cost_per_million_tokens(self, batch: int, phase: str = "decode", *, kind: str = "gross", **where: Label) -> Estimate:
        """Electricity of a million tokens at the stated price; raises ``ChannelUnavailableError`` (NOT_TESTED) where none is stated."""
        price = self.session.evaluate(Recipe(op="price", parameters={"kind": "electricity"}))
        return token_units.cost_per_million_tokens(self.per_token(batch, phase, kind=kind, **where), price)

    def carbon_per_million_tokens(self, batch: int, phase: str = "decode", *, kind: str = "gross", **where: Label) -> Estimate:
        """Carbon of a million tokens at the stated intensity, in gCO2e; raises ``ChannelUnavailableError`` where none is stated."""
        intensity = self.session.evaluate(Recipe(op="price", parameters={"kind": "carbon"}))
        return token_units.carbon_per_million_tokens(self.per_token(batch, phase, kind=kind, **where), intensity)

    # --- which arms there are ----------------------------------------------------------------------------------------

    def batches(self, phase: str = "decode", **where: Label) -> list[int]:
        """Measured batch sizes of one series, ascending; raises ``ConfigurationError`` where no such arm was planned."""
        series = self._fitting(phase, where)[0].series
        return sorted(arm.batch for arm in self.windows if arm.series == series)

    def arm(self, batch: int, phase: str = "decode", **where: Label) -> Arm:
        """The arm meant by ``batch``, ``phase`` and what ``where`` says of it; the first of the plan for what it does not say."""
        fitting = self._fitting(phase, where)
        found = next((arm for arm in fitting if arm.batch == batch), None)
        if found is None:
            have = sorted({arm.batch for arm in fitting})
            raise ConfigurationError(f"{phase} at batch {batch}{_said(where)} was not measured: the sweep has batches {have}.")
        return found

    def _fitting(self, phase: str, where: Mapping[str, Label]) -> list[Arm]:
        """Planned arms of ``phase`` that are as ``where`` says; at least one."""
        for name in where:
            if name not in {"context", "new_tokens", "variant"}:
                raise ConfigurationError(f"an arm has 'context', 'new_tokens' and 'variant' (got {name!r}).")
        found = [arm for arm in self.arms if arm.phase == phase and all(getattr(arm, name) == value for name, value in where.items())]
        if not found:
            planned = dict.fromkeys(
                f"{arm.phase}{_said({k: v for k, v in arm.labels.items() if k not in {'phase', 'batch'}})}" for arm in self.arms
            )
            raise ConfigurationError(f"{phase}{_said(where)} was not measured: the sweep has {'; '.join(planned)}.")
        return found

    def _measured(self, arm: Arm) -> Arm:
        if arm not in self.windows:
            reason = self.left_out.get(arm, "the sweep ended before it")
            raise ArmNotTestedError(f"{arm.phase} at batch {arm.batch} was not measured: {reason}", channel="arm")
        return arm

    # --- recipes -----------------------------------------------------------------------------------------------------

    def _energy_recipe(self, arm: Arm, kind: str) -> Recipe:
        self.instrument.require_metered()
        if kind not in {"net", "gross"}:
            raise ConfigurationError(f"'kind' is 'net' or 'gross' (got {kind!r}).")
        parameters = {
            "windows": [window.id for window in self.windows[arm]], "work": "tokens", "kind": kind, "baselines": list(self.baselines),
            "sensor": self.sensor, "estimator": self.estimator, "span": self.phase, "rules": RULES,
        }  # fmt: skip
        return Recipe(op="arm.energy_per_work", parameters=parameters)

    def _time(self, arm: Arm, work: str) -> Estimate:
        parameters: dict[str, Any] = {"windows": [window.id for window in self.windows[arm]], "work": work, "span": self.phase}
        if self.canaries[0]:
            parameters |= {"canaries_before": list(self.canaries[0]), "canaries_after": list(self.canaries[1])}
        return self.session.evaluate(Recipe(op="windows.time_per_work", parameters=parameters))

    def _per_call(self, phase: str, where: Mapping[str, Label]) -> tuple[list[Estimate], list[float]]:
        """Net energy and tokens of one call, per batch."""
        arms = [self.arm(batch, phase, **where) for batch in self.batches(phase, **where)]
        if len(arms) < 3:
            raise ArmNotTestedError(f"a law needs at least 3 batches of {phase} (measured: {[arm.batch for arm in arms]}).", channel="arm")
        energies = [self.session.evaluate(self._energy_recipe(arm, "net")) * Estimate.exact(arm.tokens, "token") for arm in arms]
        return energies, [float(arm.tokens) for arm in arms]


def _said(where: Mapping[str, Label]) -> str:
    return "".join(f", {name} {value}" for name, value in where.items())


def run_joule_curve(
    instrument: Instrument,
    session: Session,
    workload: Model,
    *,
    batches: Sequence[int] | None = None,
    contexts: Sequence[int] | None = None,
    new_tokens: Sequence[int] | None = None,
    arms: Sequence[Arm] | None = None,
    start: Start = "rhythm",
) -> JouleCurve:
    """Measure the curve and record its results.

    Parameters
    ----------
    workload
        The model, or several by name of the variant: ``{"float16": …, "int8": …}``; all must fit on the device together.
    batches, contexts, new_tokens
        Axes of the grid of arms; default: the settings'.
    arms
        The arms themselves, in place of a grid.
    start
        ``cold`` declares that the device need not have come to rest; it is recorded, and no gate asks for it.
    """
    settings = session.settings.experiment
    workloads = dict(workload) if isinstance(workload, Mapping) else {"": workload}
    planned = tuple(arms) if arms is not None else grid(
        batches or settings.batches, contexts=contexts or (settings.prompt_tokens,), new_tokens=new_tokens or (settings.new_tokens,),
        variants=tuple(workloads),
    )  # fmt: skip
    curve = JouleCurve(session=session, instrument=instrument, arms=planned, start=start)
    sweep = _Sweep(instrument, session, workloads, curve)
    sweep.run()
    _record(curve)
    return curve


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slot:
    """One place in the order of the sweep."""

    block: int
    position: int
    arm: Arm


class _Sweep:
    """The sweep's protocol, step by step."""

    def __init__(self, instrument: Instrument, session: Session, workloads: Mapping[str, Workload], curve: JouleCurve) -> None:
        self.instrument = instrument
        self.session = session
        self.workloads = workloads
        self.settings = session.settings.experiment
        self.curve = curve
        self.calls: dict[Arm, int] = {}
        self.done: list[tuple[_Slot, str]] = []
        """What was measured, in order, with the window's id; empty for an arm that was left out there."""
        unknown = sorted({arm.variant for arm in curve.arms} - set(workloads))
        if unknown or not curve.arms:
            raise ConfigurationError(f"the sweep has {len(curve.arms)} arms and no workload for {unknown}; it has {sorted(workloads)}.")

    def run(self) -> None:
        """Baseline, warm-up, rhythm, blocks, baseline; the table of arms is written whatever ends the blocks."""
        before = self.baseline_before()
        for workload in self.workloads.values():
            workload.warm_up()
        if self.curve.start == "rhythm":
            self.come_to_rest()
        with self.instrument.phase(EXPERIMENT if self.curve.start == "rhythm" else f"{EXPERIMENT}{DECLARED_COLD}") as phase:
            self.curve.phase = phase.id
            canaries_before = self.canaries()
            try:
                for slot in self.order():
                    self.measure(slot)
            finally:
                self.tabulate()
            self.curve.canaries = (canaries_before, self.canaries())
        after = self.baseline()
        self.curve.baselines = tuple(record.id for record in (*before, *after))
        self.curve.sensor = self.instrument.sensor_id
        counter = self.instrument.has("energy_j") and self.window_s >= MIN_TICKS * COUNTER_TICK_S
        self.curve.estimator = "counter" if counter or not self.instrument.has("power_w") else "power"

    @property
    def window_s(self) -> float:
        """Target length of a window: never less than the sensor needs."""
        if not self.instrument.metered:
            return self.settings.latency_s
        sensor = self.instrument.sensor
        return max(self.settings.window_s, (MIN_UPDATES + 1) * sensor.update_period_s if sensor else 0.0)

    def order(self) -> Iterator[_Slot]:
        """Blocks in pairs: a drawn order forwards, and at once backwards."""
        arms, draw = list(self.curve.arms), random.Random(self.session.settings.seed)  # noqa: S311 -- an order, not a secret
        for block in range(self.settings.repetitions):
            if block % 2 == 0:
                draw.shuffle(arms)
            ordered = arms if block % 2 == 0 else arms[::-1]
            yield from (_Slot(block=block, position=i, arm=arm) for i, arm in enumerate(ordered))

    # --- one arm -----------------------------------------------------------------------------------------------------

    def measure(self, slot: _Slot) -> None:
        """One repetition of one arm, or the reason why there is none."""
        arm = slot.arm
        if arm in self.curve.left_out:
            return
        calls = self.prepared(arm)
        if calls is None:
            self.done.append((slot, ""))
            return
        windows = self.curve.windows.setdefault(arm, [])
        labels = {**arm.labels, "repetition": len(windows)}
        with self.instrument.window(arm.phase, labels=labels, tokens=calls * arm.tokens, calls=calls) as window:
            self.work(arm, calls)
        windows.append(window)
        self.done.append((slot, window.id))

    def prepared(self, arm: Arm) -> int | None:
        """Have the arm's context ready, know its calls per window, and rest; None for an arm that does not fit.

        What is done here lies outside of windows, so the rest after it is longer: readings of it would be taken for the idle level.
        """
        self.rest()
        if arm.phase == "prefill" and arm in self.calls:
            return self.calls[arm]
        try:
            if arm.phase == "decode":
                self.workloads[arm.variant].prepare(arm.batch, arm.context)
            if arm not in self.calls:
                self.calls[arm] = self.calibrated(arm)
            self.require_on_the_card(arm)
        except Exception as error:
            if not (is_out_of_memory(error) or isinstance(error, ConfigurationError | ArmNotTestedError)):
                raise
            self.curve.left_out[arm] = (str(error).splitlines() or [type(error).__name__])[0]
            return None
        self.rest(beyond_updates=HEAD_UPDATES)
        return self.calls[arm]

    def calibrated(self, arm: Arm) -> int:
        """Calls per window, from one look."""
        self.work(arm, 1)
        self.require_on_the_card(arm)
        t0_ns = self.instrument.clock.now_ns()
        self.work(arm, 1)
        once_s = max(1e-9, (self.instrument.clock.now_ns() - t0_ns) / NS_PER_S)
        return min(MAX_CALLS, max(1, math.ceil(self.window_s / once_s)))

    def require_on_the_card(self, arm: Arm) -> None:
        """An arm that spills into the host's memory runs, 25 to 100 times slower: it does not fit."""
        spilled = int(getattr(self.workloads[arm.variant], "spilled_bytes", 0))
        if spilled:
            raise ArmNotTestedError(
                f"{spilled / 2**20:.0f} MiB do not fit on the card and lie in the host's memory; use a smaller batch or context."
            )

    def work(self, arm: Arm, calls: int) -> None:
        """Run the arm ``calls`` times."""
        workload, tokens = self.workloads[arm.variant], arm.context if arm.phase == "prefill" else arm.new_tokens
        if isinstance(workload, Repeating):
            workload.repeat(arm.phase, batch=arm.batch, tokens=tokens, calls=calls)
            return
        call = workload.prefill if arm.phase == "prefill" else workload.decode
        for _ in range(calls):
            call(arm.batch, tokens)

    def rest(self, *, beyond_updates: int = 0) -> None:
        """Idle time beside windows, so that readings of one do not reach into the next."""
        if self.instrument.metered:
            period_s = self.instrument.sensor.update_period_s if self.instrument.sensor else COUNTER_TICK_S
            self.instrument.sleep(self.instrument.tail_ns / NS_PER_S + beyond_updates * period_s)

    # --- around the blocks -------------------------------------------------------------------------------------------

    def come_to_rest(self) -> None:
        """Run in the sweep's own rhythm, unmeasured, until the temperature rests in it, for at most ``soak.rhythm_s``."""
        budget_s = self.session.settings.soak.rhythm_s
        if not (self.instrument.metered and self.instrument.has("temperature_c") and budget_s > 0):
            return
        deadline_ns = self.instrument.clock.now_ns() + round(budget_s * NS_PER_S)
        with self.instrument.phase("rhythm"):
            previous = math.inf
            while self.instrument.clock.now_ns() < deadline_ns:
                level = self.pair_of_blocks(deadline_ns)
                if abs(level - previous) < AT_REST_C:
                    return
                previous = level

    def pair_of_blocks(self, deadline_ns: int) -> float:
        """All arms forwards and backwards, unmeasured; their mean temperature."""
        t0_ns = self.instrument.clock.now_ns()
        for arm in (*self.curve.arms, *self.curve.arms[::-1]):
            if self.instrument.clock.now_ns() >= deadline_ns:
                break
            calls = None if arm in self.curve.left_out else self.prepared(arm)
            if calls is not None:
                self.work(arm, calls)
        seen = self.instrument.trace.between(t0_ns, self.instrument.clock.now_ns()).values("temperature_c")
        return float(np.nanmean(seen)) if np.isfinite(seen).any() else math.nan

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

    def tabulate(self) -> None:
        """The order of all windows, and the arms left out with their reasons."""
        left = [arm for arm in self.curve.left_out if arm not in {slot.arm for slot, window in self.done if not window}]
        rows = [*self.done, *((_Slot(block=-1, position=-1, arm=arm), "") for arm in left)]  # left out before the first block
        if not rows:
            return
        arms = [slot.arm for slot, _ in rows]
        self.session.tabulate(
            TABLE,
            {
                "instrument": [self.instrument.name for _ in rows],
                "span": [self.curve.phase for _ in rows],
                "start": [self.curve.start for _ in rows],
                "block": [slot.block for slot, _ in rows],
                "position": [slot.position for slot, _ in rows],
                **{name: [getattr(arm, name) for arm in arms] for name in ("phase", "batch", "context", "new_tokens", "variant")},
                "window": [window for _, window in rows],
                "reason": [
                    "" if window else f"NOT_TESTED: {self.curve.left_out[arm]}" for arm, (_, window) in zip(arms, rows, strict=True)
                ],
            },
        )


# --- results ---------------------------------------------------------------------------------------------------------


def _record(curve: JouleCurve) -> None:
    """Write the curve's points, its laws and what follows from them into the run."""
    for arm in sorted(curve.windows, key=lambda arm: (arm.series, arm.batch)):
        _record_arm(curve, arm)
    for series in dict.fromkeys(arm.series for arm in curve.arms):
        phase, context, new_tokens, variant = series
        where: dict[str, Any] = {"context": context, "variant": variant} | ({"new_tokens": new_tokens} if new_tokens else {})
        _record_series(curve, phase, where)


def _record_arm(curve: JouleCurve, arm: Arm) -> None:
    at: dict[str, Label] = {**arm.labels, "instrument": curve.instrument.name}
    where: dict[str, Any] = {key: value for key, value in at.items() if key in {"context", "new_tokens", "variant"}}
    result = curve.session.result
    result(EXPERIMENT, "time per token", curve.time_per_token(arm.batch, arm.phase, **where), **at)
    result(EXPERIMENT, "latency", curve.latency(arm.batch, arm.phase, **where), **at)
    if curve.instrument.metered:
        result(EXPERIMENT, "energy per token (net)", curve.per_token(arm.batch, arm.phase, **where), **at)
        result(EXPERIMENT, "energy per token (gross)", curve.per_token(arm.batch, arm.phase, kind="gross", **where), **at)
        if curve.instrument.has("temperature_c"):
            result(EXPERIMENT, "temperature at the start", curve.start_temperature(arm.batch, arm.phase, **where), **at)


def _record_series(curve: JouleCurve, phase: str, where: Mapping[str, Any]) -> None:
    batches = curve.batches(phase, **where)
    if not (curve.instrument.metered and len(batches) >= 3):
        return
    at: dict[str, Label] = {
        "phase": phase,
        "instrument": curve.instrument.name,
        **{key: value for key, value in where.items() if value != ""},
    }
    result = curve.session.result
    result(EXPERIMENT, "fixed energy per call", curve.fixed(phase, **where), **at)
    result(EXPERIMENT, "energy per token in a large batch", curve.per_token_limit(phase, **where), **at)
    result(EXPERIMENT, "break-even batch", curve.break_even(phase, **where), **at)
