"""The real recordings of power sensors, where they are present; tests that need them skip, saying so, where not."""

from __future__ import annotations

import csv
import datetime as dt
import os
from pathlib import Path

import numpy as np
import pytest

from pytest_physics.metrology.sensor_fit import Load

VARIABLE = "PYTEST_PHYSICS_SENSOR_RECORDINGS"
BESIDE = Path(__file__).parents[2] / ".." / "shared" / "data" / "power-sensors"


def folder(name):
    root = Path(os.environ.get(VARIABLE, BESIDE))
    if not (root / name).is_dir():
        pytest.skip(f"no recording '{name}' in {root}; set {VARIABLE} to the folder of the power-sensor recordings")
    return root / name


def polls(name, column):
    """Poll instants (ns) and readings of one column."""
    with (folder(name) / "gpudata.csv").open() as lines:
        rows = list(csv.reader(lines, skipinitialspace=True))
    at = rows[0].index(column)
    stamps = [dt.datetime.strptime(row[0], "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=dt.UTC) for row in rows[1:]]
    t_ns = np.array([round(stamp.timestamp() * 1e6) * 1000 for stamp in stamps], dtype=np.int64)
    return t_ns, np.array([float(row[at]) for row in rows[1:]])


def load_edges_ns(name, t_ns):
    """Instants of the load's edges on the polls' clock: the local time of the machine was a whole number of hours from UTC."""
    edges = np.unique(np.loadtxt(folder(name) / "timestamps.csv", skiprows=1)) * 1e3
    hours = round((t_ns[0] - edges[0]) / 3600e9)
    return edges + hours * 3600e9, hours


def meter(name, t_ns, *, origin_ns, cell_s=0.001):
    """The external meter as a load in watts, averaged over cells, on the polls' clock from ``origin_ns``."""
    with np.load(folder(name) / "meter.npz") as data:
        t_s, power = data["t_unix_ms"] / 1e3, data["power_w"].astype(float)
    t_s = t_s + round((t_ns[0] / 1e9 - t_s[0]) / 3600) * 3600 - origin_ns / 1e9
    edges = np.arange(t_s[0], t_s[-1], cell_s)
    at = np.searchsorted(t_s, edges)
    energy = np.concatenate([[0.0], np.cumsum(power)])
    level = (energy[at[1:]] - energy[at[:-1]]) / np.diff(at)
    return Load(edge_s=edges, level=np.concatenate([level[:1], level, level[-1:]]))
