"""Watch devices for a while, and leave a run behind: ``pytest-physics monitor``.

A run like any other: its directory and ``run.json`` are there before the first sample, samples are written as they come by a process of
their own, and the end writes energies, report and manifest. Ctrl-C and SIGTERM end it early and completely; after ``kill -9`` the run is
readable as incomplete.

A simulated device works at full load, in step with real time, or as fast as it can with ``fast``.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import cast

from rich.console import Console
from rich.live import Live

from pytest_physics.clock import NS_PER_S
from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.devices.discover import choose_devices, open_device, probe_nvml
from pytest_physics.devices.twin import TwinDevice, TwinLoad
from pytest_physics.errors import ConfigurationError, PhysicsError, SamplerError
from pytest_physics.instrument import Instrument, Window
from pytest_physics.live import view
from pytest_physics.live.metrics import LOCAL, serving
from pytest_physics.live.readings import Reading, reading_of
from pytest_physics.session import Plan, Session

EXPERIMENT = "monitor"
"""Under this name its numbers stand in the run's results."""
REFRESH_S = 0.5
"""How often a terminal is drawn."""
LINE_S = 5.0
"""How often a line is printed where there is no terminal."""
SLOWEST_HZ, FASTEST_HZ = 0.1, 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitoring:
    """What to watch, and how."""

    devices: str = ""
    """Comma-separated: ``cpu,gpu``, ``twin:PRESET``; empty: the CPU, and the GPU where there is one."""
    duration_s: float = math.inf
    hz: float = 10.0
    runs: Path | None = None
    prometheus: int | None = None
    """Port of the metrics; None serves none."""
    fast: bool = False
    """Simulated devices do not wait for real time."""

    def __post_init__(self) -> None:
        """Refuse what no monitor can do."""
        if not self.duration_s > 0:
            raise ConfigurationError(f"--duration must be > 0 s (got {self.duration_s:g}).")
        if not SLOWEST_HZ <= self.hz <= FASTEST_HZ:
            raise ConfigurationError(f"--hz must be between {SLOWEST_HZ:g} and {FASTEST_HZ:g} samples per second (got {self.hz:g}).")
        if self.prometheus is not None and not 0 < self.prometheus < 65536:
            raise ConfigurationError(f"--prometheus must be a port from 1 to 65535 (got {self.prometheus}).")

    def start(self, root: Path, command: Sequence[str]) -> Session:
        """Open the devices and start the samplers."""
        specs, banner = named_devices(self.devices)
        if self.fast and any(spec.kind != "twin" for spec in specs.values()):
            raise ConfigurationError("--fast is for simulated devices only, such as --devices twin:PRESET: real ones need their time.")
        for spec in specs.values():
            open_device(spec).close()  # what cannot be opened is said before there is a run directory
        overrides = {"runs": str(self.runs) if self.runs else None, "sampling": {"period_s": 1 / self.hz}}
        return Session.start(load_settings(root, overrides=overrides), Plan.using(specs, banner=banner), command=command, directory=root)


def named_devices(text: str) -> tuple[dict[str, DeviceSpec], str]:
    """Instrument name to device for a comma-separated choice, and why ``auto`` simulates one; ``gpu`` is the first real one.

    Raises ``ConfigurationError`` for what is no device, or is named twice.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else (["gpu", "cpu"] if probe_nvml().available else ["cpu"])
    choices = [choose_devices("nvml" if part == "gpu" else part) for part in parts]
    found: dict[str, DeviceSpec] = {}
    for spec in (spec for choice in choices for spec in choice.specs):
        if spec in found.values():
            raise ConfigurationError(f"'{spec}' is named twice in --devices {text}; name each device once.")
        kind = "cpu" if spec.kind == "cpu" else "gpu"
        found[kind if kind not in found else f"{kind}{len(found) + 1}"] = spec
    return found, " ".join(choice.banner for part, choice in zip(parts, choices, strict=True) if part == "auto")


class Stopped(KeyboardInterrupt):
    """The process was asked to end, by a signal that a terminal or a service manager sends."""


@contextmanager
def stopping_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_monitor(monitoring: Monitoring, console: Console, *, root: Path, command: Sequence[str]) -> Path:
    """Watch until the time is over or somebody stops it; returns the run directory.

    Raises
    ------
    SamplerError
        Where every sampler died; what was sampled before is in the run.
    """
    newest: list[Reading] = []
    with stopping_signals(), _served(monitoring, newest):
        session = monitoring.start(root, command)
        try:
            problem = watch(session, monitoring, console, newest)
            reason = f"SamplerError: {problem}" if problem else "finished"
        except KeyboardInterrupt as stop:
            problem, reason = "", f"stopped: {', '.join(map(str, stop.args)) or 'Ctrl-C'}"
        except SystemExit:  # how rich says that nobody reads the output any more: monitor | head
            problem, reason = "", "stopped: the output was closed"
        except BaseException as error:
            session.finish(f"{type(error).__name__}: {error}")
            raise
        finish(session, reason, console)
    if problem:
        raise SamplerError(f"{problem.rstrip('.')}; what was sampled before is in {session.path}.")
    return session.path


def finish(session: Session, reason: str, console: Console) -> None:
    """Complete the run with its report, and say where both are."""
    from pytest_physics.report.build import build_report  # noqa: PLC0415 -- matplotlib loads when the watching is over

    report = session.finish(reason, publish=build_report)
    console.print(f"run:    {session.path}", soft_wrap=True, highlight=False)
    console.print(f"report: {report}", soft_wrap=True, highlight=False)


def _served(monitoring: Monitoring, newest: Sequence[Reading]) -> AbstractContextManager[None]:
    """The metrics of ``newest``, where they were asked for; a port that cannot be had is said before anything is created."""
    return nullcontext() if monitoring.prometheus is None else serving(lambda: tuple(newest), monitoring.prometheus)


def watch(session: Session, monitoring: Monitoring, console: Console, newest: list[Reading]) -> str:
    """Show readings, and keep them in ``newest``, until the time is over; returns why it ended early, where every sampler has died."""
    for line in session.plan.banner:
        console.print(line, style="yellow", soft_wrap=True, highlight=False)
    for instrument in session.instruments.values():
        for line in absent_lines(instrument):
            console.print(line, style="dim", soft_wrap=True, highlight=False)
    if monitoring.prometheus is not None:
        console.print(f"metrics: http://{LOCAL}:{monitoring.prometheus}/metrics", soft_wrap=True, highlight=False)
    with _shown(console, monitoring.duration_s) as show, recorded(session):
        return _loop(session, monitoring, newest, show)


def absent_lines(instrument: Instrument) -> Iterator[str]:
    """A line for temperature and for power, where there is none and why; an energy counter gives power too."""
    for channel in ("temperature_c", *(() if instrument.metered else ("power_w",))):
        if not instrument.has(channel):
            absent = instrument.device.absent
            reason = absent.get("energy_j" if channel == "power_w" and "energy_j" in absent else channel, "the device has no such channel.")
            yield f"{instrument.name} has no {channel}: {reason}"


def _loop(session: Session, monitoring: Monitoring, newest: list[Reading], show: Callable[[Sequence[Reading], float], None]) -> str:
    for instrument in session.instruments.values():
        if not instrument.simulated:
            instrument.wait_until_sampled(instrument.sampler.origin_ns)
    pace = Pace(session, fast=monitoring.fast)
    while True:
        newest[:] = [reading_of(instrument, session.settings) for instrument in session.instruments.values()]
        show(newest, pace.elapsed_s)
        if all(reading.problem for reading in newest):
            return "; ".join(f"'{reading.instrument}': {reading.problem}" for reading in newest)
        if pace.elapsed_s >= monitoring.duration_s:
            return ""
        pace.wait(min(LINE_S if monitoring.fast else REFRESH_S, max(0.0, monitoring.duration_s - pace.elapsed_s)))


class Pace:
    """Time of a run: real, with simulated devices in step; or theirs alone."""

    def __init__(self, session: Session, *, fast: bool = False) -> None:
        self._clocks = [instrument.clock for instrument in session.instruments.values() if instrument.simulated]
        self._origins_ns = [clock.now_ns() for clock in self._clocks]
        self._started_s = time.monotonic()
        self._fast_s = 0.0 if fast else None
        for instrument in session.instruments.values():
            if instrument.simulated:
                cast("TwinDevice", instrument.device).set_load(TwinLoad())

    @property
    def elapsed_s(self) -> float:
        """Time since the beginning."""
        return time.monotonic() - self._started_s if self._fast_s is None else self._fast_s

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        if self._fast_s is None:
            time.sleep(seconds)
        else:
            self._fast_s += seconds
        for clock, origin_ns in zip(self._clocks, self._origins_ns, strict=True):
            clock.sleep_until_ns(origin_ns + round(self.elapsed_s * NS_PER_S))


@contextmanager
def recorded(session: Session, name: str = EXPERIMENT) -> Iterator[None]:
    """A phase on every instrument, and the energy of those that have one, whatever ends the block."""
    instruments = session.instruments.values()
    windows: Mapping[str, Window] = {i.name: i.window(name, synchronise=False) for i in instruments}
    try:
        with ExitStack() as stack:
            for instrument in instruments:
                stack.enter_context(instrument.phase(name))
                stack.enter_context(windows[instrument.name])
            yield
    finally:
        for instrument in instruments:
            if instrument.metered and windows[instrument.name].id:
                _record_energy(session, windows[instrument.name])


def _record_energy(session: Session, window: Window) -> None:
    """Gross energy and mean power of the whole; what cannot be known is left out, for the report shows the samples."""
    try:
        energy = window.instrument.energy(window, baselines=()).gross
        session.result(EXPERIMENT, "energy", energy, instrument=window.instrument.name)
        session.result(EXPERIMENT, "mean power", energy / window.duration, instrument=window.instrument.name)
    except (PhysicsError, ZeroDivisionError):
        return


@contextmanager
def _shown(console: Console, duration_s: float) -> Iterator[Callable[[Sequence[Reading], float], None]]:
    """A live table on a terminal; elsewhere a line now and then."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            yield lambda readings, elapsed_s: live.update(view.table(readings, elapsed_s=elapsed_s, duration_s=duration_s), refresh=True)
        return
    due_s = 0.0

    def lines(readings: Sequence[Reading], elapsed_s: float) -> None:
        nonlocal due_s
        if elapsed_s >= due_s or elapsed_s >= duration_s:
            due_s = elapsed_s + LINE_S
            for reading in readings:
                console.print(view.line(reading, elapsed_s=elapsed_s), soft_wrap=True, highlight=False, markup=False)

    yield lines
