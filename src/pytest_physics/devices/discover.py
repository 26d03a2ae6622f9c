"""From what a user types to devices: ``auto``, ``nvml[:index|:UUID|:PCI]``, ``cpu``, ``twin[:preset]``, ``replay:PATH``.

``auto`` takes the GPU where NVML answers; otherwise the twin, with a banner that says that GPU numbers are simulated and why.
It always adds the CPU. A device's module is imported only when the device is named or opened; each has ``open_device(spec)``.

How it fails: :class:`~pytest_physics.errors.ConfigurationError` for what cannot be meant, naming the nearest thing that can;
what is well named but not there fails when it is opened, with :class:`~pytest_physics.errors.DeviceUnavailableError`.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pytest_physics.devices.base import READ_OK, Device, DeviceSpec
from pytest_physics.devices.nvml import library
from pytest_physics.errors import ConfigurationError, DeviceUnavailableError, nearest

AUTO = "auto"
KINDS = ("nvml", "cpu", "twin", "replay")
DEFAULT_PRESET = "rtx4080-laptop"
_FORMS = "auto, nvml, nvml:INDEX, nvml:UUID, nvml:PCI_BUS_ID, cpu, twin, twin:PRESET or replay:PATH"
_PCI_BUS_ID = re.compile(r"(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlProbe:
    """Whether a GPU can be measured here."""

    available: bool
    reason: str
    """One sentence or two: what was found, or what is missing and what to do."""
    names: tuple[str, ...] = ()
    """Usable cards, "NVIDIA H100 PCIe (GPU-…)", in NVML's order."""
    indices: tuple[int, ...] = ()
    """NVML's numbers of all cards that can be asked, usable or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChoice:
    """What a user's choice comes to on this machine."""

    specs: tuple[DeviceSpec, ...]
    """The devices; the first is the one under test."""
    banner: str = ""
    """What is simulated, and why; empty where everything is real."""


def probe_nvml() -> NvmlProbe:
    """Ask NVML which GPUs can be measured; it is released again before returning."""
    try:
        library.initialise()
    except DeviceUnavailableError as error:
        return NvmlProbe(available=False, reason=str(error))
    try:
        return _count_cards()
    finally:
        library.shut_down()


def _count_cards() -> NvmlProbe:
    count, code = library.attempt("nvmlDeviceGetCount")
    if code != READ_OK:
        return NvmlProbe(available=False, reason=f"NVML starts but does not count its GPUs: {library.describe_code(code)}.")
    handles = library.handles()
    usable = tuple(library.card_name(handle) for handle in handles.values() if not library.in_mig_mode(handle))
    if usable and (hidden := _hidden_from_workload()):
        return NvmlProbe(available=False, reason=hidden, names=usable, indices=tuple(handles))
    if usable:
        return NvmlProbe(available=True, reason=f"NVML found {', '.join(usable)}.", names=usable, indices=tuple(handles))
    if handles:
        found = "every GPU is in MIG mode, where no measurement can be attributed. Switch MIG off, or use another machine."
    elif count:
        found = f"none of its {count} GPUs can be opened. Check permissions, and 'dmesg' for lost GPUs."
    else:
        found = "there is no GPU. Check that the job or the container was given one."
    return NvmlProbe(available=False, reason=f"NVML works, but {found}", indices=tuple(handles))


def _hidden_from_workload() -> str:
    """Why the workload can use no GPU, or one that cannot be measured, although NVML sees a usable one; empty where it can."""
    try:
        chosen = library.find_card({}, os.environ)
    except DeviceUnavailableError as error:
        return str(error)
    except ConfigurationError:  # which card is meant must be said; whoever opens it is told
        return ""
    return library.mig_reason(library.card_name(chosen)) if library.in_mig_mode(chosen) else ""


def choose_devices(text: str) -> DeviceChoice:
    """Devices for ``text``, with the banner to print. See the module's docstring for the forms."""
    kind, colon, selector = text.strip().partition(":")
    if kind == AUTO and not colon:
        return _choose_automatically()
    if kind == AUTO:
        raise ConfigurationError(f"'auto' takes no selector (got '{text}'); name a device: {_FORMS}.")
    if kind not in KINDS:
        raise ConfigurationError(f"There is no device kind '{kind}'{nearest(kind, (AUTO, *KINDS))}; devices are {_FORMS}.")
    if colon and not selector:
        raise ConfigurationError(f"'{text}' names no device after the colon; devices are {_FORMS}.")
    spec = DeviceSpec(kind=kind, parameters=_PARSERS[kind](selector))
    if kind == "replay":
        return DeviceChoice(specs=importlib.import_module("pytest_physics.devices.replay").recorded_specs(spec))
    banner = f"GPU numbers are SIMULATED: '{spec}' was asked for." if kind == "twin" else ""
    return DeviceChoice(specs=(spec,), banner=banner)


def open_device(spec: DeviceSpec) -> Device:
    """Open any device, importing only its own module."""
    if spec.kind not in KINDS:
        raise ConfigurationError(f"There is no device kind '{spec.kind}'{nearest(spec.kind, KINDS)}; kinds are {', '.join(KINDS)}.")
    module = importlib.import_module(f"pytest_physics.devices.{spec.kind}")
    return cast("Device", module.open_device(spec))


def _choose_automatically() -> DeviceChoice:
    probe = probe_nvml()
    cpu = DeviceSpec(kind="cpu")
    if probe.available:
        return DeviceChoice(specs=(DeviceSpec(kind="nvml"), cpu))
    twin = DeviceSpec(kind="twin", parameters={"preset": DEFAULT_PRESET})
    banner = f"GPU numbers are SIMULATED ('{twin}'), because no GPU can be measured here. {probe.reason}"
    return DeviceChoice(specs=(twin, cpu), banner=banner)


def _nvml_parameters(selector: str) -> Mapping[str, Any]:
    if not selector:
        return {}
    if selector.isascii() and selector.isdecimal():
        return {"index": int(selector)}
    if selector.startswith(("GPU-", "MIG-")):
        return {"uuid": selector}
    if _PCI_BUS_ID.fullmatch(selector):
        return {"pci_bus_id": selector}
    raise ConfigurationError(
        f"'nvml:{selector}' names no GPU: after 'nvml:' comes an index (nvml:0), a UUID (nvml:GPU-…) or a PCI bus id "
        "(nvml:0000:65:00.0). 'nvidia-smi -L' lists them."
    )


def _cpu_parameters(selector: str) -> Mapping[str, Any]:
    if selector:
        raise ConfigurationError(f"'cpu' takes no selector (got 'cpu:{selector}'); write 'cpu'.")
    return {}


def _twin_parameters(selector: str) -> Mapping[str, Any]:
    preset = selector or DEFAULT_PRESET
    presets = tuple(importlib.import_module("pytest_physics.devices.twin").PRESETS)
    if preset not in presets:
        raise ConfigurationError(f"There is no twin preset '{preset}'{nearest(preset, presets)}; presets are {', '.join(presets)}.")
    return {"preset": preset}


def _replay_parameters(selector: str) -> Mapping[str, Any]:
    if not selector:
        raise ConfigurationError("'replay' needs the run directory or trace to replay: replay:PATH.")
    return {"path": selector}


_PARSERS: Mapping[str, Callable[[str], Mapping[str, Any]]] = {
    "nvml": _nvml_parameters,
    "cpu": _cpu_parameters,
    "twin": _twin_parameters,
    "replay": _replay_parameters,
}
