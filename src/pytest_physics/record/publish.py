"""A copy of a run to show to others: small enough for a repository or an attachment, and whole enough to verify.

Nothing is left out: arrays are packed (:mod:`pytest_physics.record.packed`), everything else is copied byte by byte. What does not follow
from its raw artifacts is not published.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pytest_physics.errors import RecordError
from pytest_physics.record.packed import pack
from pytest_physics.record.page import Render
from pytest_physics.record.reader import RunReader
from pytest_physics.record.verify import verify_run


def publish_run(run: Path, target: Path, *, render: Render) -> Path:
    """Write the copy to ``target``, which must be new or empty, and return it; the copy is verified before it gets its name.

    ``render`` builds a report page, for the comparison with the one that is published.
    """
    state = RunReader(run).run.state
    if state != "completed":
        raise RecordError(
            f"{run} is '{state}', not completed, and only whole runs are published; 'pytest-physics verify {run}' says what is readable."
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RecordError(f"{target} exists already; name a new or empty directory.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:
            aside = Path(name) / run.resolve().name
            aside.mkdir()
            for item in sorted(run.iterdir()):
                if item.suffix == ".npy":
                    pack(item, aside)
                elif item.is_file() and not item.name.startswith("."):
                    shutil.copy(item, aside)
            _refuse_what_does_not_follow(run, aside, render)
            return aside.rename(target)
    except OSError as error:
        raise RecordError(f"cannot publish to {target}: {error.strerror}; free space, or choose another place.") from None


def _refuse_what_does_not_follow(run: Path, copy: Path, render: Render) -> None:
    findings = verify_run(copy, render=render).findings
    if findings:
        raise RecordError(
            f"{run} is not published: it does not follow from its raw artifacts ({len(findings)} differences, the first: "
            f"{findings[0].where} {findings[0].problem}). 'pytest-physics verify {run}' lists them."
        )
