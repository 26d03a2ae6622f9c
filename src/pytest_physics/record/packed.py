"""A run with packed arrays: ``trace-gpu.npy.xz`` instead of ``trace-gpu.npy``, a fiftieth of the size.

``xz -d`` turns a packed file into the very bytes that the manifest names, so a packed run needs no tool of ours to be opened. Rows of a
trace differ little from one another: before compression each byte has the one a row earlier subtracted (the delta filter of xz, whose
distance is limited to 256 bytes).
"""

from __future__ import annotations

import lzma
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pytest_physics.errors import RecordError

SUFFIX = ".xz"
PRESET = 2
"""Higher ones are ten times slower and, behind the delta filter, hardly smaller."""
LARGEST_DISTANCE = 256
"""Of the delta filter, in bytes."""


def is_packed(path: Path) -> bool:
    """Whether ``path`` holds packed arrays."""
    return any(True for _ in path.glob(f"*.npy{SUFFIX}"))


def pack(array: Path, target: Path) -> None:
    """Write the ``.npy`` file ``array`` packed, as ``target/<name>.xz``."""
    row_bytes = np.load(array, mmap_mode="r", allow_pickle=False).dtype.itemsize
    filters: list[dict[str, int]] = [{"id": lzma.FILTER_LZMA2, "preset": PRESET}]
    if row_bytes <= LARGEST_DISTANCE:
        filters.insert(0, {"id": lzma.FILTER_DELTA, "dist": row_bytes})
    with array.open("rb") as source, lzma.open(target / f"{array.name}{SUFFIX}", "wb", filters=filters) as packed:
        shutil.copyfileobj(source, packed)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The run at ``path`` with its arrays as they were: ``path`` itself, or a directory of the same name that lasts as long as the block.

    Raises :class:`RecordError` for a packed file that is cut short or damaged.
    """
    if not is_packed(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="pytest-physics-") as aside:
        whole = Path(aside) / path.resolve().name
        whole.mkdir()
        for item in path.iterdir():
            plain = whole / item.name.removesuffix(SUFFIX)
            if item.suffix == SUFFIX and not (path / plain.name).exists():
                _unpack(item, plain)
            else:
                (whole / item.name).symlink_to(item.resolve())
        yield whole


def _unpack(packed: Path, plain: Path) -> None:
    try:
        with lzma.open(packed, "rb") as source, plain.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (lzma.LZMAError, EOFError) as error:
        raise RecordError(f"{packed} is damaged ({error}); restore it from a copy.") from None
    except OSError as error:
        raise RecordError(f"{packed} cannot be unpacked into {plain.parent}: {error.strerror}; free space there, or set TMPDIR.") from None
