"""The twin as a device: a card's physics behind its sensors, on a virtual clock.

Readings and truth are functions of time: they do not depend on when or how often one reads, nor on the steps in which the
clock was moved. Two twins with equal spec and equal loads are equal to the last bit. Reading the future, or a closed device,
is an error.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_physics.clock import NS_PER_S, VirtualClock
from pytest_physics.devices.base import READ_OK, SAMPLING_SHARE, Channel, DeviceSpec, DriverSamples, Fingerprint, ReadingKind
from pytest_physics.devices.twin.draws import truncated_normal, uniform
from pytest_physics.devices.twin.faults import GPU_IS_LOST, Fault, latched, spoil, unknown
from pytest_physics.devices.twin.physics import IDLE, Physics, TwinLoad
from pytest_physics.devices.twin.presets import DEFAULT_PRESET, PRESETS, RING, SensorDesign, TwinPreset
from pytest_physics.devices.twin.sensor import (
    COUNTER_QUANTUM_J,
    UTILISATION_QUANTUM,
    Comb,
    EnergyCounter,
    PowerSensor,
    UtilisationMeter,
)
from pytest_physics.devices.twin.truth import THROTTLE_COUNTERS, energy_at, locate, power_at
from pytest_physics.errors import ConfigurationError, DeviceUnavailableError
from pytest_physics.metrology.foreign_channels import packed_name
from pytest_physics.metrology.quality import Provenance
from pytest_physics.metrology.response import SensorModel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

BUFFER_EPOCH_US = 1_700_000_000_000_000
"""The driver's timestamps are of the wall's clock: what the twin's begins at."""
FOREIGN_PID, FOREIGN_NAME, FOREIGN_BYTES = 4242, "stranger", 2**30
"""What a driver tells of a planted foreign process."""
LARGEST_START_J = 1e5
"""The energy counter has run since the driver was loaded: it starts below this value."""


@dataclass(frozen=True, slots=True)
class _Instants:
    """When to read, and where that is in the history: looked up once for all channels."""

    t_ns: IntArray
    segment: IntArray
    since_s: FloatArray
    """Time since the segment began."""


Reader = Callable[[_Instants], FloatArray]


class TwinDevice:
    """A simulated GPU on a virtual clock, which knows its true power.

    Parameters
    ----------
    preset
        One of :data:`~pytest_physics.devices.twin.presets.PRESETS`.
    seed
        Chooses the specimen (its sensor within the preset's tolerances) and all noise.
    faults
        What goes wrong, and when; times count from now.
    overrides
        Parameters of the preset to change, by dotted name: ``{"card.slowdown_c": 60.0, "power.noise_w": 0.0}``.
    clock
        Virtual clock to share with others; default: one of its own.
    """

    def __init__(
        self,
        preset: str = DEFAULT_PRESET,
        *,
        seed: int = 0,
        faults: Sequence[Fault] = (),
        overrides: Mapping[str, Any] | None = None,
        clock: VirtualClock | None = None,
    ) -> None:
        if preset not in PRESETS:
            raise unknown(preset, PRESETS, what="twin preset")
        self.preset = _overridden(PRESETS[preset], overrides or {})
        self.seed = seed
        self.faults = tuple(faults)
        self.spec = _spec(preset, seed, self.faults, overrides or {})
        self.clock: VirtualClock = clock or VirtualClock(name=f"virtual {self.spec}")
        self._origin_ns = self.clock.now_ns()
        self._physics = Physics(self.preset.card, start_ns=self._origin_ns, seed=seed, faults=self.faults)
        self._power, self._average, self._counter, self._utilisation = self._instruments()
        self._absent = self._absences()
        self._readers = {name: reader for name, reader in self._all_readers().items() if name not in self._absent}
        self._channels = tuple(_channel(name, self.preset) for name in self._readers)
        self._closed = False
        self.clock.subscribe(self._moved)

    # --- what it is --------------------------------------------------------------------------------------------------

    @property
    def channels(self) -> Sequence[Channel]:
        """The channels this card has."""
        return self._channels

    @property
    def absent(self) -> Mapping[str, str]:
        """Channels it has not: name to reason."""
        return self._absent

    @property
    def fingerprint(self) -> Fingerprint:
        """Preset, seed, faults and a digest of all parameters."""
        parameters = json.dumps(dataclasses.asdict(self.preset), sort_keys=True, default=str)
        digest = hashlib.sha256(parameters.encode()).hexdigest()[:12]
        details = {
            "simulated": "true",
            "seed": str(self.seed),
            "parameters": digest,
            "faults": json.dumps([fault.to_json() for fault in self.faults]),
            "power_limit_w": str(self.preset.card.power_limit_w),
            "memory_bytes": str(self.preset.card.memory_bytes),
            **{f"true_{name}": repr(value) for name, value in {**self.true_sensor, **self.true_counter}.items()},
        }
        return Fingerprint(kind="twin", name=self.preset.name, identity=f"TWIN-{self.preset.name}-{self.seed}-{digest}", details=details)

    @property
    def sensor(self) -> SensorModel | None:
        """The preset's nominal sensor; the specimen's own parameters lie within two standard uncertainties of it."""
        if "power_w" not in self._readers:
            return None
        design = self.preset.power
        return SensorModel(
            update_period_s=design.update_period_s, u_update_period_s=design.u_period * design.update_period_s,
            window_s=design.window_s, u_window_s=design.u_window * design.window_s,
            lag_s=design.lag_s, u_lag_s=design.u_window * design.lag_s,
            delay_s=design.delay_s, u_delay_s=design.u_delay_s, resolution_w=design.resolution_w,
            u_gain=self.preset.u_gain, u_offset_w=self.preset.u_offset_w, origin="preset",
        )  # fmt: skip

    @property
    def sampling_period_s(self) -> float:
        """A fifth of the update period."""
        return SAMPLING_SHARE * self.preset.power.update_period_s

    # --- load --------------------------------------------------------------------------------------------------------

    @property
    def load(self) -> TwinLoad:
        """The load in force."""
        return self._physics.load

    def set_load(self, load: TwinLoad) -> None:
        """Put ``load`` on the card from now on."""
        self._physics.set_load(self.clock.now_ns(), load)

    def set_polled(self, polled: bool) -> None:
        """Whether somebody reads the card from now on; only a card with the fault ``polling`` minds."""
        self._physics.set_polled(self.clock.now_ns(), polled=polled)

    def idle(self) -> None:
        """Take the load off."""
        self.set_load(IDLE)

    def execute(self, load: TwinLoad, seconds_at_reference_clock: float) -> float:
        """Do work and let the time it takes pass; then the load before is back. Returns the seconds it took.

        Longer than asked where the clock is below the reference (power cap, slowdown) or memory is spilled, shorter under boost.
        """
        if not (seconds_at_reference_clock >= 0 and math.isfinite(seconds_at_reference_clock)):
            raise ValueError(f"'seconds_at_reference_clock' must be >= 0 and finite (got {seconds_at_reference_clock}).")
        before, start_ns = self.load, self.clock.now_ns()
        self.set_load(load)
        try:
            self.clock.advance_to_ns(self._physics.end_of_work_ns(start_ns, seconds_at_reference_clock))
        finally:
            self.set_load(before)
        return (self.clock.now_ns() - start_ns) / NS_PER_S

    # --- memory ------------------------------------------------------------------------------------------------------

    @property
    def allocated_bytes(self) -> int:
        """Memory allocated by :meth:`allocate` and not freed."""
        return self._physics.allocated_bytes

    @property
    def spilled_bytes(self) -> int:
        """The part of it that lies in host memory, and slows :meth:`execute`."""
        return self._physics.spilled_bytes

    def allocate(self, n_bytes: int) -> None:
        """Take device memory; ``MemoryError`` where neither the card nor, if it spills, the host has that much left."""
        _require_count(n_bytes)
        card = self.preset.card
        free = card.memory_bytes + card.host_spill_bytes - card.memory_reserved_bytes - self.allocated_bytes
        if n_bytes > free:
            raise MemoryError(
                f"twin '{self.preset.name}' is out of memory: {n_bytes} bytes asked for, {free} free of {card.memory_bytes} on "
                f"the card and {card.host_spill_bytes} of host spill. Nothing was allocated; use a smaller batch or context."
            )
        self._physics.set_allocated(self.clock.now_ns(), self.allocated_bytes + n_bytes)

    def free(self, n_bytes: int) -> None:
        """Give device memory back."""
        _require_count(n_bytes)
        if n_bytes > self.allocated_bytes:
            raise ValueError(f"'n_bytes' must be <= the {self.allocated_bytes} bytes allocated (got {n_bytes}).")
        self._physics.set_allocated(self.clock.now_ns(), self.allocated_bytes - n_bytes)

    # --- readings ----------------------------------------------------------------------------------------------------

    def sample(self, t_ns: ArrayLike) -> tuple[FloatArray, NDArray[np.uint16]]:
        """Readings at ``t_ns``, shape (N,), none in the future: values (N, C), NaN where a read failed; error codes (N, C)."""
        t = np.atleast_1d(np.asarray(t_ns, dtype=np.int64))
        self._require_past(t)
        answered = latched(self.faults, t, self._origin_ns)
        values = np.empty((len(t), len(self._channels)))
        errors = np.zeros(values.shape, np.uint16)
        instants = _Instants(answered, *locate(self._physics.history, answered))
        for column, reader in enumerate(self._readers.values()):
            values[:, column] = reader(instants)
        names = tuple(self._readers)
        spoil(self.faults, t, values, errors, channels=names, origin_ns=self._origin_ns, seed=self.seed)
        return values, errors

    def driver_samples(self) -> Sequence[DriverSamples]:
        """The driver's ring of power samples; none for a preset without one. Its timestamps are of another clock, as real ones are."""
        every, now_ns = self.preset.buffer_updates, self.clock.now_ns()
        if every is None or "power_w" not in self._readers:
            return ()
        self._require_past(np.array([now_ns]))
        if any(fault.kind == "lost" and fault.covers(now_ns, self._origin_ns) for fault in self.faults):
            return (DriverSamples(channel="power_w", code=GPU_IS_LOST),)
        own = self._power.comb
        ring = own if every == 1 else dataclasses.replace(own, period_ns=every * own.period_ns, stream="buffer")
        (latest,), _ = ring.latest(np.array([now_ns]))
        t_ns = ring.time(np.arange(latest - RING + 1, latest + 1))
        t_ns = t_ns[t_ns >= self._origin_ns]
        values = self._power.read(np.ceil(t_ns).astype(np.int64))
        stamps = tuple(BUFFER_EPOCH_US + int(t) // 1000 for t in t_ns.tolist())
        return (DriverSamples(channel="power_w", code=READ_OK, timestamp_us=stamps, values=tuple(values.tolist())),)

    def read(self) -> tuple[list[float], list[int]]:
        """Readings now."""
        values, errors = self.sample(np.array([self.clock.now_ns()]))
        return values[0].tolist(), errors[0].tolist()

    def close(self) -> None:
        """Reading afterwards is an error; the truth remains."""
        self._closed = True

    # --- truth -------------------------------------------------------------------------------------------------------

    def true_power_w(self, t_ns: ArrayLike) -> FloatArray:
        """True power at each instant, none in the future, in watts."""
        self._require_known(t_ns)
        return power_at(self._physics.history, t_ns)

    def true_energy_j(self, t0_ns: ArrayLike, t1_ns: ArrayLike) -> FloatArray:
        """True energy of the windows [t0, t1], none in the future, in joules; elementwise."""
        self._require_known(t0_ns)
        self._require_known(t1_ns)
        return energy_at(self._physics.history, t1_ns) - energy_at(self._physics.history, t0_ns)

    def true_temperatures_c(self, t_ns: ArrayLike) -> FloatArray:
        """True temperature of each thermal node, die first, at each instant, shape (N, nodes), in °C."""
        self._require_known(t_ns)
        t = np.atleast_1d(np.asarray(t_ns))
        return np.column_stack(self._node_c(_Instants(t, *locate(self._physics.history, t))))

    def true_idle_power_w(self) -> float:
        """Settled power of the card without load, in its present idle state, in watts.

        In P8 that is deep idle. In P0, with or without load, it is active idle at the die's present temperature: what the card
        would draw if its load stopped now, before the hold time lets it fall into P8. Faults (a foreign process, a bimodal idle)
        are not in it.
        """
        return self._physics.idle_power_w

    @property
    def true_sensor(self) -> Mapping[str, float]:
        """What this specimen's power sensor really is: period, window, lag, delay and the card's rise in seconds, gain, offset in watts."""
        sensor = self._power
        return {
            "update_period_s": sensor.comb.period_ns * 1e-9,
            "window_s": sensor.window_s,
            "lag_s": sensor.lag_s,
            "delay_s": sensor.delay_s,
            "rise_s": self.preset.card.electrical_s,
            "gain": sensor.gain,
            "offset_w": sensor.offset_w,
        }

    @property
    def true_counter(self) -> Mapping[str, float]:
        """What this specimen's energy counter really is: tick in seconds, and gain; empty without one."""
        counter = self._counter
        return {} if counter is None else {"counter_tick_s": counter.comb.period_ns * 1e-9, "counter_gain": counter.gain}

    def truth_table(self) -> NDArray[np.void]:
        """Everything that happened until now, by segment; see :mod:`~pytest_physics.devices.twin.truth`."""
        return self._physics.history.table(self._physics.segment_at(self.clock.now_ns()))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _moved(self, before_ns: int, after_ns: int) -> None:  # noqa: ARG002 -- the clock tells both
        self._physics.advance(after_ns)

    def _require_known(self, t_ns: ArrayLike) -> None:
        now_ns, t = self.clock.now_ns(), np.asarray(t_ns)
        if t.size and (t.min() < self._origin_ns or t.max() > now_ns):
            raise ValueError(
                f"the twin knows {self._origin_ns} ns to {now_ns} ns (asked for {t.min()} to {t.max()}); advance its clock first."
            )

    def _require_past(self, t: IntArray) -> None:
        if self._closed:
            raise DeviceUnavailableError(f"twin '{self.preset.name}' is closed; open it again to read.")
        self._require_known(t)

    def _spans_ns(self, kind: str) -> tuple[tuple[int, int], ...]:
        return tuple(fault.span_ns(self._origin_ns) for fault in self.faults if fault.kind == kind)

    def _comb(self, stream: str, period_s: float) -> Comb:
        phase_ns = self._origin_ns + period_s * 1e9 * float(uniform(self.seed, f"{stream}|phase", 0)[0])
        return Comb(period_ns=period_s * 1e9, phase_ns=phase_ns, seed=self.seed, stream=stream)

    def _power_sensor(self, design: SensorDesign, stream: str) -> PowerSensor:
        gain, offset = (float(truncated_normal(self.seed, what, 0)[0]) for what in ("gain", "offset"))
        changed = [(fault.span_ns(self._origin_ns)[0], fault.number) for fault in self.faults if fault.kind == "averaging"]
        return PowerSensor(
            design, self._physics.history, seed=self.seed, stream=stream, origin_ns=self._origin_ns,
            gain=1 + self.preset.u_gain * gain, offset_w=self.preset.u_offset_w * offset, stalls=self._spans_ns("sensor_stall"),
            averaging=changed[0] if changed and stream == "power" else None,
        )  # fmt: skip

    def _instruments(self) -> tuple[PowerSensor, PowerSensor | None, EnergyCounter | None, UtilisationMeter]:
        preset, history = self.preset, self._physics.history
        counter = None
        if preset.counter_period_s is not None:
            counter = EnergyCounter(
                history,
                self._comb("counter", preset.counter_period_s),
                gain=1 + preset.u_counter_gain * float(truncated_normal(self.seed, "counter gain", 0)[0]),
                start_j=LARGEST_START_J * float(uniform(self.seed, "counter start", 0)[0]),
                half_rate=self._spans_ns("counter_half_rate"),
                resets_ns=tuple(start_ns for start_ns, _ in self._spans_ns("counter_reset")),
            )
        average = self._power_sensor(preset.average, "average") if preset.average else None
        utilisation = UtilisationMeter(history, self._comb("utilisation", preset.utilisation_period_s))
        return self._power_sensor(preset.power, "power"), average, counter, utilisation

    def _all_readers(self) -> dict[str, Reader]:
        meters: dict[str, Callable[[IntArray], FloatArray]] = {"power_w": self._power.read}
        if self._average:
            meters["power_average_w"] = self._average.read
        if self._counter:
            meters["energy_j"] = self._counter.read
        for name, busy in (("utilisation_ratio", "busy_s"), ("memory_utilisation_ratio", "memory_busy_s")):
            meters[name] = partial(self._utilisation.read, rate=name, integral=busy)
        states = ("sm_clock_hz", "memory_clock_hz", "performance_state", "memory_used_bytes", "event_reasons", "foreign_processes")
        readers: dict[str, Reader] = {name: partial(_metered, read) for name, read in meters.items()}
        readers["temperature_c"] = lambda instants: np.floor(self._node_c(instants)[0])
        readers |= {name: partial(self._state, name) for name in states}
        readers["power_limit_w"] = lambda instants: np.full(len(instants.t_ns), self.preset.card.power_limit_w)
        readers |= self._foreign_readers()
        return readers | {name: partial(self._throttle_counter, name, mask) for name, mask in THROTTLE_COUNTERS.items()}

    def _foreign_readers(self) -> dict[str, Reader]:
        """What a driver tells of a foreign process, on a twin that has one planted."""
        planted = [fault for fault in self.faults if fault.kind == "foreign_process"]
        if not planted:
            return {}

        def share(instants: _Instants) -> FloatArray:
            total: FloatArray = np.sum([fault.number * fault.covers(instants.t_ns, self._origin_ns) for fault in planted], axis=0)
            return np.minimum(1.0, total)

        def present(value: float) -> Reader:
            return lambda instants: np.where(share(instants) > 0, value, 0.0)

        first, second = packed_name(FOREIGN_NAME)
        return {
            "foreign_memory_bytes": present(FOREIGN_BYTES), "foreign_sm_ratio": share, "foreign_pid": present(FOREIGN_PID),
            "foreign_age_s": present(0.0), "foreign_name_1": present(first), "foreign_name_2": present(second),
        }  # fmt: skip

    def _node_c(self, instants: _Instants) -> list[FloatArray]:
        history, segment = self._physics.history, instants.segment
        base_w, excess_w, tau_s = (history[name][segment] for name in ("base_w", "excess_w", "tau_s"))
        start_c = [history[name][segment] for name in history.node_columns]
        ends = self.preset.card.thermal.after(start_c, base_w=base_w, excess_w=excess_w, tau_s=tau_s, dt_s=instants.since_s)
        return [np.asarray(end, dtype=np.float64) for end in ends]

    def _state(self, column: str, instants: _Instants) -> FloatArray:
        return self._physics.history[column][instants.segment].astype(np.float64)

    def _throttle_counter(self, name: str, mask: int, instants: _Instants) -> FloatArray:
        history, segment = self._physics.history, instants.segment
        running = (history["event_reasons"][segment] & mask) != 0
        counted: IntArray = history[name][segment] + running * (instants.t_ns - history["t_ns"][segment])
        return counted.astype(np.float64)

    def _absences(self) -> dict[str, str]:
        preset = self.preset
        reasons = {"memory_temperature_c": "the twin has no model of the memory's temperature"}
        if preset.average is None:
            reasons["power_average_w"] = f"field 185 (average power) is not supported on a {preset.name}; use power_w"
        if preset.counter_period_s is None:
            reasons["energy_j"] = f"a {preset.name} has no energy counter (Volta and newer have); integrate power_w"
        if not preset.throttle_counters:
            reasons |= dict.fromkeys(THROTTLE_COUNTERS, f"the driver of a {preset.name} has no cumulative counters; use event_reasons")
        absent = [fault.channel for fault in self.faults if fault.kind == "channel_absent"]
        return reasons | dict.fromkeys(absent, "NVML_ERROR_NOT_SUPPORTED, a fault that was asked for ('channel_absent')")


def open_device(spec: DeviceSpec, *, clock: VirtualClock | None = None) -> TwinDevice:
    """Open the twin that ``spec`` names: parameters ``preset``, ``seed``, ``faults``, ``overrides``, all optional."""
    known = ("preset", "seed", "faults", "overrides")
    for key in spec.parameters:
        if key not in known:
            raise unknown(key, known, what="parameter of a twin")
    faults = tuple(Fault.from_json(fault) for fault in spec.parameters.get("faults", ()))
    return TwinDevice(
        str(spec.parameters.get("preset", DEFAULT_PRESET)), seed=int(spec.parameters.get("seed", 0)), faults=faults,
        overrides=spec.parameters.get("overrides"), clock=clock,
    )  # fmt: skip


def _spec(preset: str, seed: int, faults: Sequence[Fault], overrides: Mapping[str, Any]) -> DeviceSpec:
    parameters: dict[str, Any] = {"preset": preset, "seed": seed, "faults": [fault.to_json() for fault in faults]}
    return DeviceSpec(kind="twin", parameters=parameters | ({"overrides": dict(overrides)} if overrides else {}))


def _overridden(preset: TwinPreset, overrides: Mapping[str, Any]) -> TwinPreset:
    for path, value in overrides.items():
        preset = _replaced(preset, path.split("."), value, path)
    return preset


def _replaced(part: Any, names: Sequence[str], value: Any, path: str) -> Any:  # noqa: ANN401 -- any dataclass of a preset
    known = [field.name for field in dataclasses.fields(part)] if dataclasses.is_dataclass(part) else []
    if names[0] not in known:
        raise unknown(names[0], known, what=f"twin parameter in '{path}':")
    if len(names) > 1:
        value = _replaced(getattr(part, names[0]), names[1:], value, path)
    try:
        return dataclasses.replace(part, **{names[0]: tuple(value) if isinstance(value, list) else value})
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"the twin cannot have '{path}' = {value!r}: {error}") from error


def _metered(read: Callable[[IntArray], FloatArray], instants: _Instants) -> FloatArray:
    return read(instants.t_ns)


def _require_count(n_bytes: int) -> None:
    if n_bytes < 0:
        raise ValueError(f"'n_bytes' must be >= 0 (got {n_bytes}).")


def _channel(name: str, preset: TwinPreset) -> Channel:
    resolutions = {
        "power_w": preset.power.resolution_w, "power_average_w": preset.average.resolution_w if preset.average else 0.0,
        "energy_j": COUNTER_QUANTUM_J, "sm_clock_hz": 0.0, "memory_clock_hz": 0.0, "power_limit_w": 0.0,
        "utilisation_ratio": UTILISATION_QUANTUM, "memory_utilisation_ratio": UTILISATION_QUANTUM,
    }  # fmt: skip
    kinds = {"power_w": ReadingKind.INSTANT, "temperature_c": ReadingKind.INSTANT, "energy_j": ReadingKind.COUNTER}
    kinds |= dict.fromkeys(("power_average_w", "utilisation_ratio", "memory_utilisation_ratio"), ReadingKind.AVERAGE)
    kinds |= dict.fromkeys(THROTTLE_COUNTERS, ReadingKind.COUNTER)
    return Channel(
        name=name, kind=kinds.get(name, ReadingKind.STATE), resolution=resolutions.get(name, 1.0),
        provenance=Provenance.SIMULATED, source="twin",
    )  # fmt: skip
