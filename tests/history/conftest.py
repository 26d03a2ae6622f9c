"""Histories to ask."""

from __future__ import annotations

import pytest
from history.history_runs import STEADY, Nights


@pytest.fixture
def nights(tmp_path, monkeypatch):
    return Nights(tmp_path, monkeypatch)


@pytest.fixture
def steady(nights):
    """Twelve steady nights in the index."""
    nights.history(STEADY)
    return nights
