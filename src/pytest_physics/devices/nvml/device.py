"""One NVIDIA card as a device.

One :meth:`NvmlDevice.read` makes one ``nvmlDeviceGetFieldValues`` call for power, energy, memory temperature and the cumulative
throttle counters, and one call for each remaining quantity. Channels are probed when the device is opened: what the card does
not support is *absent*, with its reason; what fails later is NaN with NVML's return code, for that channel and that read only.

Assumptions. Instantaneous power is field 186 in GPU scope. Nothing is put in its place: a card that only has an average has no
``power_w``. Where neither field 186 nor 185 exists, ``nvmlDeviceGetPowerUsage`` is exposed as what it is on that family and
driver (see ``priors``). On a superchip that measures only the module (GPU and CPU together), power and energy are refused. A
card in MIG mode is refused as a whole: its sensors belong to all instances, of whoever. ``foreign_processes`` is refreshed once
per ``process_period_s`` and held in between (see ``processes``).

Where answers are slow (a virtual machine, a sandbox, a busy driver), asking for everything at every tick would fill the sampling period.
The calls are timed when the card is opened: power and energy are read at every tick, and where the rest does not fit into
:data:`READ_SHARE` of the period, it is read in turn, and held in between; each channel's source then says so. Where power and energy alone
do not fit, the sampling period is longer.

How it fails. :class:`~pytest_physics.errors.DeviceUnavailableError` when opening, with the next action. A GPU that is lost
while measuring gives NaN with code 15 for every channel from then on; it is not called any more, because calls to a dead GPU
may hang.

Reference: NVML API reference (``nvml.h``); field numbers in ``quantities``.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pytest_physics.clock import Clock, RealClock
from pytest_physics.devices.base import CHANNELS, READ_OK, Channel, DeviceSpec, DriverSamples, Fingerprint, ReadingKind, benchmark_pid
from pytest_physics.devices.nvml import foreign_work, processes
from pytest_physics.devices.nvml.library import (
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    NO_DATA,
    NO_PERMISSION,
    PERMANENT,
    SELECTORS,
    attempt,
    describe_code,
    find_card,
    in_mig_mode,
    initialise,
    mig_reason,
    shut_down,
)
from pytest_physics.devices.nvml.priors import chip_family, power_usage_kind, prior_sampling_period_s, prior_sensor
from pytest_physics.devices.nvml.quantities import (
    CALLS,
    DETAILS,
    ENERGY_CALL,
    FIELDS,
    MODULE_POWER_FIELD,
    POWER_FIELD,
    POWER_SAMPLES,
    PROCESS_FUNCTIONS,
    Call,
    Field,
    field_value,
    number,
    power_samples,
)
from pytest_physics.errors import ConfigurationError, DeviceUnavailableError, nearest
from pytest_physics.metrology.quality import Provenance
from pytest_physics.metrology.response import SensorModel

PROCESS_PERIOD_S = 1.0
"""How often processes are listed unless told otherwise."""
READ_SHARE = 0.4
"""Share of the sampling period that one read may take; the sampler refuses half."""
_TIMED = 2
"""How often each call is timed when a card is opened; the quickest counts, because the first may wake the card."""
_FOREIGN = ("foreign_processes", "foreign_memory_bytes", *foreign_work.CHANNELS)
_EVERY_TICK = frozenset({"power_w", "power_average_w", "energy_j"})
"""What energies are computed from: read at every tick, whatever it takes."""
_PARAMETERS = (*SELECTORS, "own_pids", "process_period_s")
_REMEDIES = {
    NO_PERMISSION: " Ask the administrator for permission.",
    INVALID_ARGUMENT: " A newer driver may know it.",
    FUNCTION_NOT_FOUND: " A newer driver or nvidia-ml-py may have it.",
}


@dataclass(frozen=True, slots=True)
class _Question:
    """A call and the places that its answer fills, of the values and codes it is given."""

    ask: Callable[[list[float], list[int]], None]
    places: tuple[int, ...]


class NvmlDevice:
    """One NVIDIA card.

    Parameters of the specification: one of ``index``, ``uuid``, ``pci_bus_id`` (none: the card the workload will use);
    ``own_pids``, process ids whose descendants belong to this run, besides this process and the benchmark that started it as its
    sampler; ``process_period_s``, how often processes are listed. :attr:`spec` names the card by UUID, so that another process
    opens the same.
    """

    def __init__(self, spec: DeviceSpec) -> None:
        parameters = _checked(spec)
        self.clock: Clock = RealClock()
        self._closed = False
        self._lost = False
        initialise()
        try:
            self._handle = find_card({key: parameters[key] for key in SELECTORS if key in parameters}, os.environ)
            self._identify()
            kept = {key: value for key, value in parameters.items() if key not in SELECTORS}
            self.spec = DeviceSpec(kind="nvml", parameters={"uuid": self._uuid, **kept})
            self._probe(parameters)
        except BaseException:
            self.close()
            raise

    def _identify(self) -> None:
        (self._name, code), (self._uuid, uuid_code) = (
            attempt("nvmlDeviceGetName", self._handle),
            attempt("nvmlDeviceGetUUID", self._handle),
        )
        if code or uuid_code:
            missing = f"name: {describe_code(code)}" if code else f"UUID: {describe_code(uuid_code)}"
            raise DeviceUnavailableError(
                f"The GPU does not tell its {missing}. See 'dmesg' for Xid errors; a lost GPU needs a reset or a reboot."
            )
        if in_mig_mode(self._handle):
            raise DeviceUnavailableError(mig_reason(f"{self._name} ({self._uuid})"))
        architecture, _ = attempt("nvmlDeviceGetArchitecture", self._handle)
        capability, _ = attempt("nvmlDeviceGetCudaComputeCapability", self._handle)
        self._capability: tuple[int, int] = tuple(capability or (0, 0))
        self._family = chip_family(architecture or 0, self._capability)
        self._driver = str(attempt("nvmlSystemGetDriverVersion")[0])

    # ---- probing ----

    def _probe(self, parameters: Mapping[str, Any]) -> None:
        self._absent: dict[str, str] = {}
        self._found: dict[str, Channel] = {}
        self._fields: list[tuple[Field, int]] = []
        self._calls: list[Call] = []
        self._processes: processes.ForeignProcesses | None = None
        self._work: foreign_work.ForeignWork | None = None
        self._probe_fields()
        for call in CALLS:
            self._probe_call(call)
        self._probe_processes(parameters)
        self._arrange()
        self._fingerprint = self._describe()

    def _probe_fields(self) -> None:
        wanted = [(field_id, 0) for field in FIELDS for field_id in field.ids]
        codes = dict(zip(wanted, _field_codes(self._handle, wanted), strict=True))
        for field in FIELDS:
            self._probe_field(field, {field_id: codes[field_id, 0] for field_id in field.ids})
        module_only = codes[POWER_FIELD] in PERMANENT and _field_codes(self._handle, [MODULE_POWER_FIELD]) == [READ_OK]
        if module_only or "GH200" in self._name:  # there the counter is the module's even where the power field is not
            self._refuse_module("energy_j")
        elif "energy_j" in self._absent:
            self._probe_call(ENERGY_CALL)
        if module_only:
            self._refuse_module("power_w")
            if "power_average_w" in self._absent:
                self._refuse_module("power_average_w")
        elif "power_w" in self._absent:
            self._explain_power()

    def _probe_field(self, field: Field, codes: Mapping[int, int]) -> None:
        """Take the first id that answers; one that may answer later (timeout, no data yet) is next best."""
        usable = sorted((code != READ_OK, field.ids.index(field_id)) for field_id, code in codes.items() if code not in PERMANENT)
        if not usable:
            self._absent[field.channel] = self._why(f"NVML field {field.ids[0]}", codes[field.ids[0]])
            return
        field_id = field.ids[usable[0][1]]
        self._fields.append((field, field_id))
        self._add(field.channel, field.kind, field.resolution, f"NVML field {field_id}, scope GPU")

    def _refuse_module(self, channel: str) -> None:
        self._fields = [(field, field_id) for field, field_id in self._fields if field.channel != channel]
        self._found.pop(channel, None)
        self._absent[channel] = (
            f"{self._name} measures the whole module, GPU and CPU together, and offers no such reading of the GPU alone; a "
            "module's reading is not put in its place. Measure on a GPU of its own, or with an external meter."
        )

    def _explain_power(self) -> None:
        """Field 186 is missing: say what there is besides, without putting it in its place."""
        reason = self._absent["power_w"]
        kind = power_usage_kind(self._family, _branch(self._driver))
        if "power_average_w" in self._found:
            self._absent["power_w"] = f"{reason} Its average, 'power_average_w', is another quantity and is not put in its place."
        elif kind is None:
            self._absent["power_w"] = f"{reason} What nvmlDeviceGetPowerUsage means on {self._family} is not known: it is not used."
        elif kind is ReadingKind.INSTANT:
            self._probe_power_usage("power_w", kind)
        else:
            self._probe_power_usage("power_average_w", kind)
            self._absent["power_w"] = f"{reason} nvmlDeviceGetPowerUsage is an average here, see 'power_average_w'."

    def _probe_power_usage(self, channel: str, kind: ReadingKind) -> None:
        note = f" ({kind} on {self._family} with driver {self._driver})"
        self._probe_call(number("nvmlDeviceGetPowerUsage", channel, kind, 1e-3), note)

    def _probe_call(self, call: Call, note: str = "") -> None:
        call, code = self._preferred(call)
        if code not in PERMANENT:
            self._calls.append(call)
        for quantity in call.quantities:
            if code in PERMANENT:
                self._absent[quantity.channel] = self._why(call.functions[0], code)
            else:
                self._absent.pop(quantity.channel, None)
                self._add(quantity.channel, quantity.kind, quantity.resolution, call.functions[0] + note)

    def _preferred(self, call: Call) -> tuple[Call, int]:
        """The same call by the first name that this driver and nvidia-ml-py know, and its code."""
        _, code = call.ask(self._handle)
        if code == FUNCTION_NOT_FOUND and len(call.functions) > 1:
            return self._preferred(replace(call, functions=call.functions[1:]))
        return call, code

    def _probe_processes(self, parameters: Mapping[str, Any]) -> None:
        call, code = self._preferred(Call(PROCESS_FUNCTIONS, ()))
        if code in PERMANENT:
            self._absent |= dict.fromkeys(_FOREIGN, self._why(call.functions[0], code))
            return
        if processes.process_ids_are_apart():
            self._absent |= dict.fromkeys(_FOREIGN, processes.APART)
            return
        period_s = float(parameters.get("process_period_s", PROCESS_PERIOD_S))
        self._processes = processes.ForeignProcesses(
            lambda: call.ask(self._handle),
            roots=(os.getpid(), benchmark_pid(), *parameters.get("own_pids", ())),
            period_s=period_s,
            clock=self.clock,
        )
        self._add("foreign_processes", ReadingKind.STATE, 1, f"{call.functions[0]}, every {period_s:g} s")
        self._add("foreign_memory_bytes", ReadingKind.STATE, 0, f"{call.functions[0]}, every {period_s:g} s")
        self._probe_foreign_work()

    def _probe_foreign_work(self) -> None:
        assert self._processes is not None  # noqa: S101 -- asked only where there is the channel
        _, code = attempt(foreign_work.FUNCTION, self._handle, 0)
        if code in PERMANENT:
            self._absent |= dict.fromkeys(foreign_work.CHANNELS, self._why(foreign_work.FUNCTION, code))
            return
        ask = partial(attempt, foreign_work.FUNCTION, self._handle)
        self._work = foreign_work.ForeignWork(ask, owns=self._processes.owns, clock=self.clock)
        for channel in foreign_work.CHANNELS:
            self._add(channel, ReadingKind.STATE, 0, f"{foreign_work.FUNCTION}, every {foreign_work.PERIOD_S:g} s")

    def _add(self, channel: str, kind: ReadingKind, resolution: float, source: str) -> None:
        self._found[channel] = Channel(name=channel, kind=kind, resolution=resolution, provenance=Provenance.MEASURED, source=source)

    def _why(self, what: str, code: int) -> str:
        return f"{what} answers {describe_code(code)} on {self._name} with driver {self._driver}.{_REMEDIES.get(code, '')}"

    def _arrange(self) -> None:
        """Fix the order of channels, and for every value its place in it."""
        self._channels = tuple(self._found[name] for name in CHANNELS if name in self._found)
        place = {channel.name: index for index, channel in enumerate(self._channels)}
        self._held: tuple[list[float], list[int]] = ([math.nan] * len(place), [NO_DATA] * len(place))
        self._tick = 0
        self._pace(place)
        if self._processes is not None:
            at = place["foreign_processes"], place["foreign_memory_bytes"]
            self._always.append(_Question(partial(self._read_processes, at), at))
        if self._work is not None:
            work_at = tuple(place[channel] for channel in foreign_work.CHANNELS)
            self._always.append(_Question(partial(self._read_work, work_at), work_at))

    def _pace(self, place: Mapping[str, int]) -> None:
        """Everything at every tick where it fits; else power and energy, and the others in turn."""
        budget_s = READ_SHARE * prior_sampling_period_s(self._family)
        fields, calls = self._field_question(self._fields, place), [self._call_question(call, place) for call in self._calls]
        costs_s = [self._cost_s(question) for question in (fields, *calls)]
        self._always, self._shortest_s = [fields, *calls], 0.0
        self._turns: list[list[_Question]] = [[]]
        if sum(costs_s) <= budget_s:
            return
        energetic = {at for channel, at in place.items() if channel in _EVERY_TICK}
        halves = [
            self._field_question([(field, i) for field, i in self._fields if (field.channel in _EVERY_TICK) is wanted], place)
            for wanted in (True, False)
        ]
        timed = [(question, self._cost_s(question)) for question in halves if question.places]
        timed += zip(calls, costs_s[1:], strict=True)
        essential_s = sum(cost_s for question, cost_s in timed if energetic.intersection(question.places))
        self._always = [question for question, _ in timed if energetic.intersection(question.places)]
        others = [(question, cost_s) for question, cost_s in timed if not energetic.intersection(question.places)]
        self._turns, quickest_s = _turns(others, budget_s - essential_s)
        self._shortest_s = essential_s + quickest_s
        self._tell_turns()

    def _cost_s(self, question: _Question) -> float:
        """Quickest of some calls, in seconds; what they answer is kept for channels that are held."""
        took_ns = []
        for _ in range(_TIMED):
            started_ns = time.perf_counter_ns()
            question.ask(*self._held)
            took_ns.append(time.perf_counter_ns() - started_ns)
        return min(took_ns) / 1e9

    def _tell_turns(self) -> None:
        every_s = len(self._turns) * self.sampling_period_s
        in_turn = {place for turn in self._turns for question in turn for place in question.places}
        self._channels = tuple(
            replace(channel, source=f"{channel.source}, in turn with others, every {every_s:.2g} s") if place in in_turn else channel
            for place, channel in enumerate(self._channels)
        )

    def _field_question(self, fields: Sequence[tuple[Field, int]], place: Mapping[str, int]) -> _Question:
        asked = [(field_id, 0) for _, field_id in fields]
        places = [(place[field.channel], field.unit) for field, _ in fields]
        return _Question(partial(self._read_fields, asked, places), tuple(at for at, _ in places))

    def _call_question(self, call: Call, place: Mapping[str, int]) -> _Question:
        places = [(place[quantity.channel], quantity.extract) for quantity in call.quantities]
        return _Question(partial(self._read_call, call, places), tuple(at for at, _ in places))

    def _describe(self) -> Fingerprint:
        known = {
            "driver": self._driver,
            "family": self._family,
            "compute_capability": f"{self._capability[0]}.{self._capability[1]}",
        }
        asked = {detail.name: detail.ask(self._handle) for detail in DETAILS}
        return Fingerprint(kind="nvml", name=self._name, identity=self._uuid, details=known | asked)

    # ---- describing ----

    @property
    def channels(self) -> Sequence[Channel]:
        """The channels this card answered for when it was opened, in the order of ``CHANNELS``."""
        return self._channels

    @property
    def absent(self) -> Mapping[str, str]:
        """Channels an NVIDIA card can have and this one has not, with the reason."""
        return self._absent

    @property
    def fingerprint(self) -> Fingerprint:
        """Name, UUID, driver, VBIOS, limits and modes as they were when the card was opened."""
        return self._fingerprint

    @property
    def sensor(self) -> SensorModel | None:
        """Prior of ``power_w`` for this family; None without that channel."""
        return prior_sensor(self._family) if "power_w" in self._found else None

    @property
    def sampling_period_s(self) -> float:
        """0.02 s where the sensor updates every 0.1 s, less for faster and for unknown families; more where the card answers slowly."""
        return max(prior_sampling_period_s(self._family), round(self._shortest_s / READ_SHARE, 4))

    # ---- reading ----

    def read(self) -> tuple[list[float], list[int]]:
        """Read all channels now: values (NaN where a read failed) and NVML's return codes."""
        if self._closed:
            raise DeviceUnavailableError(f"{self._name} was closed; open it again before reading.")
        # what is not asked for any more because the GPU is lost keeps these
        values, codes = [math.nan] * len(self._channels), [GPU_IS_LOST] * len(self._channels)
        for question in self._always:
            if not self._lost:
                question.ask(values, codes)
        self._ask_in_turn(values, codes)
        return values, codes

    def _ask_in_turn(self, values: list[float], codes: list[int]) -> None:
        """Ask those whose turn it is, and fill in what the others answered last."""
        for question in self._turns[self._tick % len(self._turns)]:
            if not self._lost:
                question.ask(*self._held)
        self._tick += 1
        if self._lost:
            return
        for turn in self._turns:
            for question in turn:
                for place in question.places:
                    values[place], codes[place] = self._held[0][place], self._held[1][place]

    def driver_samples(self) -> Sequence[DriverSamples]:
        """The driver's ring of power samples (``nvmlDeviceGetSamples``, typically 119 of them); none for a card without ``power_w``."""
        if self._closed:
            raise DeviceUnavailableError(f"{self._name} was closed; open it again before reading.")
        if "power_w" not in self._found:
            return ()
        answer, code = attempt("nvmlDeviceGetSamples", self._handle, POWER_SAMPLES, 0)
        if code != READ_OK:
            return (DriverSamples(channel="power_w", code=code),)
        return (power_samples(*answer),)

    def _read_fields(
        self, asked: Sequence[tuple[int, int]], places: Sequence[tuple[int, float]], values: list[float], codes: list[int]
    ) -> None:
        if not asked:
            return
        answers, code = attempt("nvmlDeviceGetFieldValues", self._handle, asked)
        self._lost = code == GPU_IS_LOST
        if code != READ_OK:
            for place, _ in places:
                values[place], codes[place] = math.nan, code
            return
        for answer, (place, unit) in zip(answers, places, strict=True):
            code = int(answer.nvmlReturn)
            self._lost = self._lost or code == GPU_IS_LOST
            values[place] = field_value(answer, unit) if code == READ_OK else math.nan
            # a value of a type that nobody knows is none
            codes[place] = NO_DATA if code == READ_OK and math.isnan(values[place]) else code

    def _read_call(self, call: Call, places: Sequence[tuple[int, Callable[[Any], float]]], values: list[float], codes: list[int]) -> None:
        answer, code = call.ask(self._handle)
        self._lost = code == GPU_IS_LOST
        for place, extract in places:
            values[place] = extract(answer) if code == READ_OK else math.nan
            # NVML says "unknown" with a number of its own, which is no error code
            codes[place] = NO_DATA if code == READ_OK and math.isnan(values[place]) else code

    def _read_processes(self, places: tuple[int, int], values: list[float], codes: list[int]) -> None:
        assert self._processes is not None  # noqa: S101 -- asked only where there is the channel
        count, code = self._processes.read()
        memory_bytes = self._processes.memory_bytes if code == READ_OK else math.nan
        for place, value in zip(places, (count, memory_bytes), strict=True):
            values[place], codes[place] = value, code

    def _read_work(self, places: tuple[int, ...], values: list[float], codes: list[int]) -> None:
        assert self._work is not None  # noqa: S101 -- asked only where there is the channel
        reading, code = self._work.read()
        for place, value in zip(places, reading, strict=True):
            values[place], codes[place] = value, code

    def close(self) -> None:
        """Release NVML; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            shut_down()


def _field_codes(handle: Any, fields: Sequence[tuple[int, int]]) -> list[int]:  # noqa: ANN401 -- ctypes pointer
    """Return code of each (field, scope); asked one by one where a driver refuses a list with fields it does not know."""
    answers, code = attempt("nvmlDeviceGetFieldValues", handle, list(fields))
    if code == READ_OK:
        return [int(answer.nvmlReturn) for answer in answers]
    if len(fields) == 1 or code == GPU_IS_LOST:
        return [code] * len(fields)
    return [_field_codes(handle, [field])[0] for field in fields]


def _turns(timed: Sequence[tuple[_Question, float]], budget_s: float) -> tuple[list[list[_Question]], float]:
    """Questions in groups that take at most ``budget_s`` each (what takes longer is alone in its group), and the quickest group's time."""
    turns: list[list[_Question]] = [[]]
    took_s = [0.0]
    for question, cost_s in timed:
        if turns[-1] and took_s[-1] + cost_s > budget_s:
            turns.append([])
            took_s.append(0.0)
        turns[-1].append(question)
        took_s[-1] += cost_s
    return turns, min(took_s)


def _branch(driver: str) -> int:
    """Driver branch: 530 of "530.30.02"; 0 where it cannot be told."""
    major = driver.split(".", maxsplit=1)[0]
    return int(major) if major.isascii() and major.isdecimal() else 0


def _checked(spec: DeviceSpec) -> Mapping[str, Any]:
    for key in spec.parameters:
        if key not in _PARAMETERS:
            raise ConfigurationError(
                f"An nvml device has no parameter '{key}'{nearest(key, _PARAMETERS)}; it has {', '.join(_PARAMETERS)}."
            )
    chosen = [key for key in SELECTORS if key in spec.parameters]
    if len(chosen) > 1:
        raise ConfigurationError(f"An nvml device is named by one of {', '.join(SELECTORS)} (got {' and '.join(chosen)}).")
    for key in ("index", "process_period_s"):
        if not spec.parameters.get(key, 0) >= 0:
            raise ConfigurationError(f"'{key}' must be >= 0 (got {spec.parameters[key]}).")
    return spec.parameters


def open_device(spec: DeviceSpec) -> NvmlDevice:
    """Open the card that ``spec`` names."""
    return NvmlDevice(spec)
