"""A copy of a fleet to show to others: its page, and of each run the report that the page leads to, without the raw traces.

What is left out is named by the digests in ``collected.json``, so that whoever has the traces can show that they are the same.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pytest_physics.errors import RecordError
from pytest_physics.fleet.collect import last_collected
from pytest_physics.fleet.folder import FleetFolder
from pytest_physics.fleet.markers import COLLECTED, PAGE
from pytest_physics.fleet.page import COMPARISONS, build_page
from pytest_physics.record.reader import REPORT


def publish_fleet(folder: FleetFolder, target: Path) -> Path:
    """Copy page and reports to ``target``, replacing what was published there before, and return the page."""
    rows = last_collected(folder).rows
    page = build_page(folder)
    if target.exists() and any(target.iterdir()) and not (target / COLLECTED).exists():
        raise RecordError(f"{target} holds other files than a published fleet; name an empty directory.")
    try:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in (COLLECTED, COMPARISONS):
            shutil.copy(folder.path / name, target)
        for row in rows:
            report = folder.path / row.run / REPORT
            if row.run and report.is_file():
                (target / row.run).mkdir(parents=True)
                shutil.copy(report, target / row.run)
        return Path(shutil.copy(page, target / PAGE))
    except OSError as error:
        raise RecordError(f"cannot write {target}: {error.strerror or error}; free space, and publish again.") from None
