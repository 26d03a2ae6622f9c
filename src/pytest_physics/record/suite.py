"""Which test files a run consists of: digests by path, so that runs of many machines are merged only where they ran the same tests.

Paths are relative to the directory in which pytest was started. Two suites conflict where they share a path with different contents; a
sweep whose points select different files has none in common and does not conflict.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

DIGITS = 16
"""Hexadecimal digits of a digest that are kept."""


def suite_of(files: Iterable[Path], directory: Path) -> dict[str, str]:
    """Digest of each file by its path relative to ``directory``; files that cannot be read are left out."""
    found = {}
    for file in sorted(set(files)):
        try:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()[:DIGITS]
        except OSError:
            continue
        found[Path(os.path.relpath(file, directory)).as_posix()] = digest
    return found


def conflicts(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Paths that both suites have, with different contents, sorted."""
    return sorted(path for path in one.keys() & other.keys() if one[path] != other[path])
