"""The real RLE recordings, where they are present; tests that need them skip, saying so, where not."""

from __future__ import annotations

import csv
import datetime as dt
import json
import os
from pathlib import Path

import numpy as np
import pytest

VARIABLE = "PYTEST_PHYSICS_RLE_RECORDINGS"
BESIDE = Path(__file__).parents[1] / ".." / "shared" / "data" / "rle"
JOINT = ("reproducibility_test_1", "reproducibility_test_2", "workload_independence_gpu_inference")


def file(pattern):
    """The one file below the recordings that matches."""
    root = Path(os.environ.get(VARIABLE, BESIDE))
    found = sorted(root.glob(pattern)) if root.is_dir() else []
    if not found:
        pytest.skip(f"no recording '{pattern}' in {root}; set {VARIABLE} to the folder of the RLE recordings")
    return found[0]


def columns(pattern, device):
    """Numeric columns of one device of a session CSV by name, NaN where empty; ``t_s`` is Unix time."""
    with file(pattern).open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["device"] == device]
    skipped = {"timestamp", "device", "alerts", "workload_state"}
    found = {
        name: np.array([float(row[name]) if row[name] else np.nan for row in rows]) for name in rows[0] if name not in skipped and name
    }
    return {**found, "t_s": np.array([unix_s(row["timestamp"]) for row in rows])}


def unix_s(text):
    """Unix seconds of an ISO time; without a zone it is UTC."""
    moment = dt.datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


def training(session):
    """Columns of a joint session's training log, NaN for null; ``t_s`` is Unix time, ``iso_s`` the naive local time read as UTC."""
    records = json.loads(file(f"joint_sessions/{session}/training_log_*.json").read_text())
    found = {
        name: np.array([np.nan if r[name] is None else r[name] for r in records], dtype=float)
        for name in ("step", "loss", "grad_norm", "timestamp_shared")
    }
    return {**found, "t_s": found["timestamp_shared"], "iso_s": np.array([unix_s(r["timestamp_iso"]) for r in records])}


def published(session):
    """The published analysis of a joint session."""
    return json.loads(file(f"joint_sessions/{session}/analysis_*.json").read_text())


def session_columns(session, device):
    """Telemetry of one device of a joint session."""
    return columns(f"joint_sessions/{session}/rle_data_*.csv", device)
