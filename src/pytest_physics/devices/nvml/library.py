"""NVML itself: starting it, calling it, and finding the card that is meant.

Every failure is explained with the next action. Initialisations nest: NVML and ``nvidia-ml-py`` count them.

How it fails: :class:`~pytest_physics.errors.DeviceUnavailableError` where there is no driver, library, permission or card;
:class:`~pytest_physics.errors.ConfigurationError` where nobody can know which card the workload will use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_physics.devices.base import READ_OK
from pytest_physics.errors import ConfigurationError, DeviceUnavailableError

try:
    import pynvml
except ImportError:  # the reason is given where somebody asks for a GPU
    pynvml = None

INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
VERSION_MISMATCH = 18
NO_DATA = 21
ARGUMENT_VERSION_MISMATCH = 25
DEPRECATED = 26
UNKNOWN = 999
PERMANENT = frozenset({INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH, DEPRECATED})
"""Codes that mean, when a card is opened: this will not work later either. Others (timeout, no data yet) may pass."""

SELECTORS = ("index", "uuid", "pci_bus_id")
"""Parameters that name a card; one at a time."""

_MISSING_BINDING = "The Python package nvidia-ml-py cannot be imported; install it with 'pip install nvidia-ml-py'."
_NEEDED_BINDING = "NVML_FI_DEV_POWER_INSTANT"
"""What every nvidia-ml-py since 12.535 has, and the package 'pynvml' up to 11, which takes its name, has not."""
_INITIALISATION = {
    LIBRARY_NOT_FOUND: (
        "NVML's library libnvidia-ml.so.1 was not found: this machine has no NVIDIA driver, or a container was started without "
        "it. Install the driver, or start the container with '--gpus all'."
    ),
    DRIVER_NOT_LOADED: (
        "NVML's library is here but the NVIDIA kernel driver is not loaded. Load it with 'modprobe nvidia', or run on a machine with a GPU."
    ),
    VERSION_MISMATCH: (
        "NVML's library and the loaded NVIDIA kernel driver have different versions, as after a driver update without a reboot. "
        "Reboot, or reload the kernel modules."
    ),
    NO_PERMISSION: (
        "NVML refuses for lack of permission. Check who may open /dev/nvidia*, or ask the administrator for access to the GPU."
    ),
    UNKNOWN: (
        "NVML does not start: Unknown Error (NVML code 999). See whether 'nvidia-smi' works. A container that worked before loses its GPUs "
        "like this when the host reloads its services: restart the container."
    ),
}


def describe_code(code: int) -> str:
    """NVML's words for a return code, with its number: "Not Supported (NVML code 3)"."""
    return f"{pynvml.NVMLError(code)} (NVML code {code})"


def initialise() -> None:
    """``nvmlInit``, explained where it fails; calls nest, each needs its own :func:`shut_down`."""
    if pynvml is None:
        raise DeviceUnavailableError(_MISSING_BINDING)
    if not hasattr(pynvml, _NEEDED_BINDING):
        raise DeviceUnavailableError(
            f"The Python module 'pynvml' ({getattr(pynvml, '__file__', 'built in')}) is not that of nvidia-ml-py 12.535 or newer: an old "
            "package 'pynvml' hides it, or it is older itself. Run 'pip uninstall -y pynvml' and "
            "'pip install --force-reinstall nvidia-ml-py'."
        )
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        unexplained = f"NVML does not start: {describe_code(error.value)}. See whether 'nvidia-smi' works."
        raise DeviceUnavailableError(_INITIALISATION.get(error.value, unexplained)) from error


def shut_down() -> None:
    """Undo one :func:`initialise`; a card that fell off the bus meanwhile is no reason to fail."""
    attempt("nvmlShutdown")


def attempt(function: str, *arguments: Any) -> tuple[Any, int]:  # noqa: ANN401 -- NVML's handles and results are ctypes values
    """Call ``pynvml.<function>``: its result and :data:`READ_OK`, or None and NVML's code."""
    try:
        return getattr(pynvml, function)(*arguments), READ_OK
    except pynvml.NVMLError as error:
        return None, int(error.value)
    except pynvml.NVMLLibraryMismatchError:  # the binding wants a newer version of the function than this driver has
        return None, FUNCTION_NOT_FOUND
    except AttributeError:  # this release of nvidia-ml-py is older than the function
        return None, FUNCTION_NOT_FOUND


def handles() -> dict[int, Any]:
    """Handles of all cards that give one, by NVML's index: a lost card has none, and keeps its number."""
    count, _ = attempt("nvmlDeviceGetCount")
    found = ((index, *attempt("nvmlDeviceGetHandleByIndex", index)) for index in range(count or 0))
    return {index: handle for index, handle, code in found if code == READ_OK}


def card_name(handle: Any) -> str:  # noqa: ANN401 -- ctypes pointer
    """Marketing name with the identifier: "NVIDIA H100 PCIe (GPU-…)"."""
    return f"{attempt('nvmlDeviceGetName', handle)[0]} ({attempt('nvmlDeviceGetUUID', handle)[0]})"


def in_mig_mode(handle: Any) -> bool:  # noqa: ANN401 -- ctypes pointer
    """Whether the card is partitioned; cards that cannot be say NOT_SUPPORTED."""
    modes, code = attempt("nvmlDeviceGetMigMode", handle)
    return code == READ_OK and modes[0] == 1


def mig_reason(card: str) -> str:
    """Why a card in MIG mode is not measured."""
    return (
        f"{card} is in MIG mode: its power, energy and temperature belong to all instances together, so nothing measured "
        "here could be attributed. Switch MIG off ('nvidia-smi -i INDEX -mig 0', as administrator), or choose another GPU "
        "('nvidia-smi -L' lists them; name it as 'nvml:UUID', and in CUDA_VISIBLE_DEVICES for the workload)."
    )


def find_card(selector: Mapping[str, Any], environment: Mapping[str, str]) -> Any:  # noqa: ANN401 -- ctypes pointer
    """Handle of the card that ``selector`` (one of :data:`SELECTORS`, or empty) means; NVML must be initialised."""
    meant_by = ""
    if not selector:
        selector = default_selector(environment)
        if "CUDA_VISIBLE_DEVICES" in environment:
            meant_by = f" (the first of CUDA_VISIBLE_DEVICES, which is '{environment['CUDA_VISIBLE_DEVICES']}')"
        if "index" in selector:
            _refuse_ambiguity(environment)
    if "pci_bus_id" in selector:
        handle, code = attempt("nvmlDeviceGetHandleByPciBusId", str(selector["pci_bus_id"]).encode())
    elif "uuid" in selector:
        handle, code = _handle_by_uuid(str(selector["uuid"]))
    else:
        handle, code = attempt("nvmlDeviceGetHandleByIndex", int(selector["index"]))
    if code == READ_OK:
        return handle
    wanted = ", ".join(f"{key} {value}" for key, value in selector.items())
    raise DeviceUnavailableError(f"No usable GPU with {wanted}{meant_by}: {describe_code(code)}. NVML sees {_inventory()}.")


def default_selector(environment: Mapping[str, str]) -> dict[str, Any]:
    """The card the workload will use when nobody named one: the first of ``CUDA_VISIBLE_DEVICES``, else index 0."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    first = "0" if visible is None else visible.split(",")[0].strip()
    if first.isascii() and first.isdecimal():
        return {"index": int(first)}
    if first.startswith(("GPU-", "MIG-")):
        return {"uuid": first}
    raise DeviceUnavailableError(
        f"CUDA_VISIBLE_DEVICES is '{visible}', so that the workload can use no GPU; unset it, or name the card as 'nvml:INDEX'."
    )


def _refuse_ambiguity(environment: Mapping[str, str]) -> None:
    """Without CUDA_DEVICE_ORDER=PCI_BUS_ID, CUDA numbers unlike cards by speed and NVML by slot: index 0 may be two cards."""
    if environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return
    names = [str(attempt("nvmlDeviceGetName", handle)[0]) for handle in handles().values()]
    if len(set(names)) > 1:
        raise ConfigurationError(
            f"This machine has unlike GPUs ({', '.join(names)}), which CUDA and NVML may number differently: the card measured "
            "might not be the one that works. Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the card as 'nvml:INDEX' or 'nvml:UUID'."
        )


def _handle_by_uuid(uuid: str) -> tuple[Any, int]:
    if uuid.startswith("MIG-"):
        raise DeviceUnavailableError(mig_reason(uuid))
    found = attempt("nvmlDeviceGetHandleByUUID", uuid.encode())
    if found[1] == READ_OK:
        return found
    # CUDA_VISIBLE_DEVICES may abbreviate an identifier as long as it is unique
    matches = [handle for handle in handles().values() if str(attempt("nvmlDeviceGetUUID", handle)[0]).startswith(uuid)]
    return (matches[0], READ_OK) if len(matches) == 1 else found


def _inventory() -> str:
    return "; ".join(f"index {index}: {card_name(handle)}" for index, handle in handles().items()) or "no GPU at all"
