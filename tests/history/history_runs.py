"""Runs of a few numbers, made by the session itself, so that they verify; one night after the other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pytest_physics import session as sessions
from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.history.build import add_runs
from pytest_physics.metrology.uncertainty import Estimate
from pytest_physics.record import writer
from pytest_physics.session import Plan, Session

SUITE = {"bench/test_toy.py": "0123456789abcdef", "bench/conftest.py": "fedcba9876543210", "bench/test_other.py": "00"}
TEST = "bench/test_toy.py::test_energy"
START = datetime(2026, 3, 1, 2, tzinfo=UTC)


class Calendar:
    """A ``datetime`` that says it is one night."""

    def __init__(self, night: datetime) -> None:
        self.night = night

    def now(self, zone: object) -> datetime:
        return self.night


class Nights:
    """Makes runs under ``root``, each on its own night."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.monkeypatch = monkeypatch
        self.night = 0

    @property
    def index(self) -> Path:
        return self.root / "history.sqlite3"

    def run(self, value: float = 100.0, *, end="finished", suite=SUITE, device=None, overrides=None, record=None, **also) -> Path:
        """One run that reports ``value`` J as ``toy: energy``; ``record(session)`` reports instead where it is given."""
        self.night += 1
        began = (START + timedelta(days=self.night)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.monkeypatch.setattr(sessions, "utc_now", lambda: began)
        self.monkeypatch.setattr(writer, "datetime", Calendar(START + timedelta(days=self.night)))
        settings = load_settings(self.root, overrides={"runs": "runs", **(overrides or {})})
        plan = Plan.using({} if device is None else {"gpu": DeviceSpec(kind="twin", parameters=device)})
        session = Session.start(settings, plan, directory=self.root, suite=suite)
        session.test = TEST
        if record is not None:
            record(session)
        else:
            session.result("toy", "energy", Estimate.given(value, "J", u=also.pop("u", 0.0), dof=20), **also)
        session.finish(end)
        return session.path

    def history(self, values, **options) -> list[Path]:
        """Runs of ``values``, in the index."""
        paths = [self.run(value, **options) for value in values]
        add_runs(self.index, paths)
        return paths


STEADY = [100.3, 99.1, 100.9, 99.8, 101.2, 98.7, 100.1, 99.5, 100.6, 99.9, 101.0, 98.9]
"""Twelve runs of 1 % spread."""
