"""Instruments: one device, its clock, its sampler, its phases and windows.

A window is what a user writes around their own code. Entering and leaving it costs two clock readings and one line in a file; all
arithmetic happens later, when a number is asked for, and then waits until the sensor has spoken. The arithmetic itself lives in
:mod:`pytest_physics.record.recipes`, because ``verify`` must do exactly the same.
"""

from __future__ import annotations

import itertools
import json
import numbers
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from pytest_physics.clock import NS_PER_S, Clock
from pytest_physics.devices.base import Device
from pytest_physics.errors import ChannelUnavailableError, excerpt, nearest_name
from pytest_physics.metrology.response import SensorModel
from pytest_physics.metrology.uncertainty import Estimate, Recipe
from pytest_physics.record.schema import PAUSE, BaselineRecord, PhaseRecord, SensorRecord, WindowRecord
from pytest_physics.record.window_energy import RULES, energy_reach_ns
from pytest_physics.sampling.base import Sampler
from pytest_physics.sampling.trace import Trace
from pytest_physics.workloads.synchronise import synchronise

if TYPE_CHECKING:
    from pytest_physics.short_events import Repetition

Label = str | int | float

LARGEST_COUNT = 1e300
"""Counts are recorded as floating-point numbers."""
LONGEST_NAME = 200
"""Characters of a window's name."""
WAIT_PERIODS = 3
"""Samples awaited beyond the last one an estimate needs, so that its bracketing sample is there."""


class Journal(Protocol):
    """What an instrument needs of the run that owns it."""

    test: str
    """Node id of the running test."""

    def window_line(self, line: bytes) -> None:
        """Persist one window."""

    def phase_changed(self, phase: PhaseRecord) -> None:
        """Persist the start or the end of a phase."""

    def measure_baseline(self, instrument: Instrument) -> BaselineRecord:
        """Measure, record and return an idle baseline."""

    def evaluate(self, recipe: Recipe) -> Estimate:
        """Compute an estimate from the artifacts so far."""

    def result(self, experiment: str, quantity: str, estimate: Estimate, **coordinates: Label) -> Estimate:
        """Record an estimate as a result, and return it."""

    def read_trace(self, instrument: str) -> Trace:
        """Samples so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Gross and net energy, always side by side."""

    gross: Estimate
    """All energy of the device in the window."""
    net: Estimate
    """Gross less what the device would have drawn idle."""

    def _ambiguous(self, _: object) -> bool:
        raise TypeError(f"an energy is gross or net: compare '.gross' or '.net' of {self}.")

    __lt__ = __le__ = __gt__ = __ge__ = _ambiguous

    def __bool__(self) -> bool:
        raise TypeError(f"an energy ({self}) has no truth value: compare '.gross' or '.net' with a limit.")

    def __truediv__(self, divisor: Estimate | float) -> Energy:
        return Energy(gross=self.gross / divisor, net=self.net / divisor)

    def __str__(self) -> str:
        return f"{self.gross} gross ({self.gross.quality.name}), {self.net} net ({self.net.quality.name})"


class Window:
    """One event: ``with instrument.window("decode", tokens=512) as w: ...``, then ``w.energy``, ``w.duration``, ``w.per("token")``."""

    __slots__ = (
        "_opened", "_synchronise", "calls_ns", "id", "instrument", "labels", "name", "phase", "synchronised", "t0_ns", "t1_ns", "test",
        "work",
    )  # fmt: skip

    def __init__(
        self, instrument: Instrument, name: str, work: Mapping[str, float], labels: Mapping[str, Label], *, synchronise: bool
    ) -> None:
        self.instrument = instrument
        self._synchronise = synchronise
        self._opened = False
        self.id = ""
        """Empty until the window is closed."""
        self.name = name
        self.work = work
        self.labels = labels
        self.phase = ""
        self.test = ""
        self.synchronised = False
        self.calls_ns: list[int] = []
        """Durations of single calls inside, where somebody timed them."""
        self.t0_ns = 0
        self.t1_ns = 0

    def __enter__(self) -> Self:
        if self._opened:
            raise ValueError(f"window '{self.name}' was opened before; a window is one event, open a new one for the next.")
        self._opened = True
        if self._synchronise:
            self.synchronised = synchronise()
        self.t0_ns = self.instrument.clock.now_ns()
        insort(self.instrument.window_starts_ns, self.t0_ns)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._synchronise and self.synchronised:
            synchronise()
        self.t1_ns = self.instrument.clock.now_ns()
        insort(self.instrument.window_ends_ns, self.t1_ns)
        if kind is not None:
            self.labels = {**self.labels, "interrupted": kind.__name__}
        self.instrument._closed(self)  # noqa: SLF001 -- a window is part of its instrument

    @property
    def closed_id(self) -> str:
        """Id of the closed window; raises ``ValueError`` while it is open."""
        if not self.id:
            raise ValueError(f"window '{self.name}' is not closed yet: ask for its numbers after its 'with' block.")
        return self.id

    @property
    def duration(self) -> Estimate:
        """Length of the window in seconds."""
        return self.instrument.evaluate(Recipe(op="window.duration", parameters={"window": self.closed_id}))

    @property
    def energy(self) -> Energy:
        """Energy of the device in the window, gross and net; waits until the sensor has reported all of it.

        Net energy subtracts the idle power of the instrument's baselines; where none was measured yet, one is measured now. Raises
        ``ChannelUnavailableError`` where the device has neither a power channel nor an energy counter.
        """
        return self.instrument.energy(self)

    def per(self, unit: str) -> Energy:
        """Energy per unit of counted work: ``per("token")`` for a window opened with ``tokens=…``."""
        return self.energy / self.count(unit)

    def count(self, unit: str) -> Estimate:
        """Counted work of this window; ``unit`` in the singular or as it was given."""
        key = unit if unit in self.work else f"{unit}s"
        if key not in self.work or not self.work[key] > 0:
            counted = ", ".join(f"{name}={amount:g}" for name, amount in self.work.items()) or "nothing"
            raise ValueError(f"window '{self.name}' counted {counted}; open it with {key}=<positive count> to get energy per {unit}.")
        return self.instrument.evaluate(Recipe(op="window.work", parameters={"window": self.closed_id, "work": key}))

    def record(self) -> WindowRecord:
        """The window as it stands in ``windows.jsonl``."""
        return WindowRecord(
            id=self.id,
            instrument=self.instrument.name,
            name=self.name,
            phase=self.phase,
            t0_ns=self.t0_ns,
            t1_ns=self.t1_ns,
            work=dict(self.work),
            labels=dict(self.labels),
            test=self.test,
            synchronised=self.synchronised,
            calls_ns=self.calls_ns,
        )


class Instrument:
    """A device under measurement. Made by :class:`pytest_physics.session.Session`."""

    def __init__(self, *, name: str, device: Device, sampler: Sampler, journal: Journal) -> None:
        self.name = name
        self.device = device
        self.sampler = sampler
        self.journal = journal
        self.clock: Clock = device.clock
        self.windows: dict[str, Window] = {}
        self.window_starts_ns: list[int] = []
        """Starts of all windows, open ones included, ascending: work that begins after a window ends its quiet surroundings."""
        self.window_ends_ns: list[int] = []
        self.baselines: list[BaselineRecord] = []
        self.sensors: list[SensorRecord] = []
        """What was known of the power channel, in the order in which it was learned."""
        self.phases: list[PhaseRecord] = []
        self.begun: dict[str, Window] = {}
        """Windows begun by :meth:`begin_window` and not ended yet, by name."""
        self._numbers = itertools.count(1)
        self._phase_stack: list[str] = []

    # --- what it is --------------------------------------------------------------------------------------------------

    @property
    def sensor(self) -> SensorModel | None:
        """What is known of the power channel now; None without one."""
        return self.sensors[-1].sensor if self.sensors else None

    @property
    def sensor_id(self) -> str:
        """Id of what is known now; empty without a power channel."""
        return self.sensors[-1].id if self.sensors else ""

    def has(self, channel: str) -> bool:
        """Whether the device has ``channel``."""
        return any(known.name == channel for known in self.device.channels)

    def require(self, *channels: str) -> None:
        """Raise ``ChannelUnavailableError`` with the device's own reason for the first missing channel."""
        for channel in channels:
            if not self.has(channel):
                reason = self.device.absent.get(channel, f"the device has no such channel ({self._known()})")
                raise ChannelUnavailableError(f"instrument '{self.name}' cannot read '{channel}': {reason}", channel=channel)

    @property
    def metered(self) -> bool:
        """Whether the device can measure energy: it has power readings, or a counter."""
        return self.has("power_w") or self.has("energy_j")

    def require_metered(self) -> None:
        """Raise ``ChannelUnavailableError`` with the device's own reason where energy cannot be measured."""
        if not self.metered:
            self.require("energy_j" if self.device.spec.kind == "cpu" else "power_w")

    def _known(self) -> str:
        return ", ".join(channel.name for channel in self.device.channels)

    @property
    def simulated(self) -> bool:
        """Whether the device is a twin: its clock is virtual and its claims are ``simulated``."""
        return self.device.spec.kind == "twin"

    # --- time --------------------------------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass on the instrument's clock."""
        self.clock.sleep_until_ns(self.clock.now_ns() + round(seconds * NS_PER_S))

    def wait_until_sampled(self, t_ns: int, *, timeout_s: float = 1.0) -> bool:
        """Wait until samples reach beyond ``t_ns``; False at once where the sampler is dead, else after ``timeout_s`` (or 10 periods)."""
        period_ns = self.sampler.period_ns
        target_ns = t_ns + WAIT_PERIODS * period_ns
        self.clock.sleep_until_ns(target_ns)
        return self.sampler.wait_until_sampled(t_ns + (WAIT_PERIODS - 1) * period_ns, timeout_s=max(timeout_s, 10 * period_ns / NS_PER_S))

    def sampled_now(self, t_ns: int) -> bool:
        """Whether :meth:`wait_until_sampled` would return True without waiting."""
        return self.sampler.wait_until_sampled(t_ns + WAIT_PERIODS * self.sampler.period_ns, timeout_s=0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[PhaseRecord]:
        """Mark a named span; yields its record, whose id names it in recipes. Phases nest; the sampler runs on."""
        record = PhaseRecord(id=f"{self.name}-p{len(self.phases) + 1}", instrument=self.name, name=name, t0_ns=self.clock.now_ns())
        position = len(self.phases)
        self.phases.append(record)
        self._phase_stack.append(record.id)
        try:
            self.journal.phase_changed(record)
            yield record
        finally:
            self._phase_stack.remove(record.id)
            ended = record.model_copy(update={"t1_ns": self.clock.now_ns()})
            self.phases[position] = ended
            self.journal.phase_changed(ended)

    @contextmanager
    def unsampled(self) -> Iterator[PhaseRecord]:
        """A phase in which the sampler reads nothing, to see what reading does to the device.

        Leave the device idle in it: nothing is measured, and nobody watches its temperature. Windows do not reach into it.
        """
        with self.phase(PAUSE) as phase:
            self.sampler.pause()
            try:
                yield phase
            finally:
                self.sampler.resume()

    # --- windows -----------------------------------------------------------------------------------------------------

    def window(self, name: str, *, labels: Mapping[str, Label] | None = None, synchronise: bool = True, **work: float) -> Window:
        """A window around the user's code.

        Parameters
        ----------
        name
            What happens inside: "prefill", "decode".
        labels
            Coordinates of the arm: ``{"batch": 8}``.
        synchronise
            Synchronise the device at both ends where torch runs on CUDA; without it asynchronous work leaks out of the window.
        work
            Counted work: ``tokens=512``.
        """
        _require_name(name)
        _require_text(name, *(str(text) for label in (labels or {}).items() for text in label))
        return Window(self, name, _counts(name, work), _plain(labels or {}), synchronise=synchronise and not self.simulated)

    def begin_window(self, name: str, *, labels: Mapping[str, Label] | None = None, synchronise: bool = True, **work: float) -> Window:
        """Begin a window that :meth:`end_window` ends, where both do not stand in one block of code.

        Windows may nest and overlap under different names. One that is never ended is not recorded, and the run says so.

        Raises
        ------
        ValueError
            Where a window of that name is open already.
        """
        _require_name(name)
        if name in self.begun:
            since_s = (self.clock.now_ns() - self.begun[name].t0_ns) / NS_PER_S
            raise ValueError(
                f"window '{name}' of '{self.name}' was begun {since_s:.3g} s ago and is still open: end it with end_window({name!r}) "
                "first, or give this one another name."
            )
        window = self.window(name, labels=labels, synchronise=synchronise, **work)
        self.begun[name] = window.__enter__()
        return window

    def end_window(self, name: str, **work: float) -> Window:
        """End the window begun under ``name``, and return it; work that is known only now may be counted here.

        Raises
        ------
        ValueError
            Where no window of that name is open, or work is counted at both ends; a window that is open stays open.
        """
        _require_name(name)
        if name not in self.begun:
            shown = ", ".join(f"'{known}'" for known in self.begun) or "none"
            near = nearest_name(name, self.begun, cutoff=0.4)
            hint = f" (did you mean '{near}'?)" if near else ""
            raise ValueError(
                f"no window '{name}' of '{self.name}' is open{hint}; open: {shown}. Begin it with begin_window({name!r}), and end it once."
            )
        window = self.begun[name]
        counted = _counts(name, work)
        twice = sorted(counted.keys() & window.work.keys())
        if twice:
            raise ValueError(f"window '{name}' counted '{twice[0]}' when it began and again when it ended; count it at one of them.")
        del self.begun[name]
        window.work = {**window.work, **counted}
        window.__exit__(None, None, None)
        return window

    def repeat(
        self,
        fn: Callable[[], object],
        *,
        work: Mapping[str, float] | None = None,
        target: float = 0.02,
        budget_s: float = 120.0,
        name: str = "",
        estimator: str | None = None,
    ) -> Repetition:
        """Energy and latency of an event too short to be measured once: repeat it until both are known well enough.

        Parameters
        ----------
        fn
            One event; called many times.
        work
            What one event does: ``{"tokens": 128}``.
        target
            Largest relative expanded uncertainty of net energy (gross, where there is no power channel), the instrument's common
            scale left apart.
        budget_s
            Time for all of it on the instrument's clock, idle baseline apart; at least four batches run whatever it is.
        name
            Name of the windows; default: that of ``fn``.
        estimator
            ``counter`` or ``power`` to insist on one; None takes the better one.
        """
        from pytest_physics.short_events import repeat  # noqa: PLC0415 -- it works on instruments, so it imports this module

        return repeat(self, fn, work=work or {}, target=target, budget_s=budget_s, name=name, estimator=estimator)

    def _closed(self, window: Window) -> None:
        window.id = f"{self.name}-w{next(self._numbers)}"
        window.phase = self._phase_stack[-1] if self._phase_stack else ""
        window.test = self.journal.test
        line = {
            "id": window.id,
            "instrument": self.name,
            "name": window.name,
            "phase": window.phase,
            "t0_ns": window.t0_ns,
            "t1_ns": window.t1_ns,
            "work": window.work,
            "labels": window.labels,
            "test": window.test,
            "synchronised": window.synchronised,
            **({"calls_ns": window.calls_ns} if window.calls_ns else {}),
        }
        self.journal.window_line(_encode(line).encode() + b"\n")
        self.windows[window.id] = window

    def evaluate(self, recipe: Recipe) -> Estimate:
        """Compute an estimate from the run's artifacts so far."""
        return self.journal.evaluate(recipe)

    @property
    def trace(self) -> Trace:
        """Samples so far."""
        return self.journal.read_trace(self.name)

    # --- energy ------------------------------------------------------------------------------------------------------

    def baseline(self) -> BaselineRecord:
        """Settle, then measure an idle baseline now."""
        return self.journal.measure_baseline(self)

    def energy(self, window: Window, *, baselines: tuple[BaselineRecord, ...] | None = None, estimator: str | None = None) -> Energy:
        """Gross and net energy of a closed window.

        Parameters
        ----------
        window
            A window of this instrument.
        baselines
            Idle baselines to subtract, in order of time; default: the nearest before and after, or one measured now.
        estimator
            ``counter`` or ``power`` to insist on one; None takes the better one.
        """
        self.require_metered()
        window_id = window.closed_id
        chosen = self.nearest_baselines(window) if baselines is None else baselines
        parameters: dict[str, Any] = {"window": window_id, "baselines": [b.id for b in chosen], "sensor": self.sensor_id, "rules": RULES}
        if estimator:
            parameters["estimator"] = estimator
        return Energy(
            gross=self.evaluate(Recipe(op="window.energy", parameters={**parameters, "kind": "gross"})),
            net=self.evaluate(Recipe(op="window.energy", parameters={**parameters, "kind": "net"})),
        )

    @property
    def tail_ns(self) -> int:
        """How long after an event its readings, and those that show the idle level after it, go on."""
        return energy_reach_ns(self.sensor)

    def nearest_baselines(self, window: Window) -> tuple[BaselineRecord, ...]:
        """The last baseline before the window and the first one after it, where there are; measures one where there is none."""
        if not self.baselines and self.has("power_w"):
            self.baseline()
        before = [b for b in self.baselines if b.t1_ns <= window.t0_ns]
        after = [b for b in self.baselines if b.t0_ns >= window.t1_ns]
        return tuple(before[-1:] + after[:1])


def outermost_work(windows: Iterable[Window]) -> dict[str, float]:
    """Work that ``windows`` counted, by kind; what a window counts inside of another that counts the same kind is in it already."""
    total: dict[str, float] = {}
    until_ns: dict[str, int] = {}
    for window in sorted(windows, key=lambda w: (w.t0_ns, -w.t1_ns)):
        for kind, amount in window.work.items():
            end_ns = until_ns.get(kind, window.t0_ns)
            if window.t0_ns < end_ns and window.t1_ns <= end_ns:
                continue
            total[kind] = total.get(kind, 0.0) + float(amount)
            until_ns[kind] = max(end_ns, window.t1_ns)
    return total


def _counts(name: str, work: Mapping[str, float]) -> dict[str, Any]:
    """Counted work of window ``name`` as plain numbers; raises ``ValueError`` for what is no count."""
    _require_text(*work)
    for counted, amount in work.items():
        if not is_count(amount):
            raise ValueError(f"window '{name}': '{counted}' must be a finite count >= 0 (got {amount!r}).")
    return _plain(work)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with numbers of numpy and torch as Python's own, and anything else as its text."""
    return {key: value if isinstance(value, str | int | float) else _text_or_number(value) for key, value in values.items()}


def _text_or_number(value: Any) -> object:  # noqa: ANN401 -- whatever a user labels an arm with
    return value.item() if getattr(value, "size", 0) == 1 and hasattr(value, "item") else str(value)


_encode: Callable[[object], str] = json.JSONEncoder(separators=(",", ":")).encode


def is_count(amount: object) -> bool:
    """Whether ``amount`` is a number that can be recorded as a count."""
    return isinstance(amount, numbers.Real) and 0 <= float(amount) < LARGEST_COUNT


def _require_name(name: object) -> None:
    """A window's name stands in tables and headlines."""
    if not isinstance(name, str):
        raise TypeError(f"a window's name must be a text, such as 'decode' (got {excerpt(name)} of type {type(name).__name__}).")
    if not name.strip():
        raise ValueError(f"a window's name must not be empty (got {excerpt(name)}); say what happens inside, such as 'decode'.")
    if len(name) > LONGEST_NAME:
        raise ValueError(
            f"a window's name has at most {LONGEST_NAME} characters (got {len(name)}: {excerpt(name)}); put details into labels={{…}}."
        )


def _require_text(*texts: str) -> None:
    """Names and labels stand in a file of UTF-8 lines, and one that cannot would make all of them unreadable."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"the name or label {text!r} is not valid text; use characters that UTF-8 can write.") from None
