"""Tables: what an experiment records beside the samples, read back as it was written, and found where it was changed."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_physics.config import Settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.errors import RecordError
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.verify import verify_run
from pytest_physics.session import Plan, Session

TWIN = {"gpu": DeviceSpec(kind="twin", parameters={"preset": "ideal", "seed": 0})}
STEPS = {"t_ns": np.array([10, 20]), "loss": [2.5, np.nan], "router": ["top-k", "gibbs"], "valid": [True, False]}


@pytest.fixture
def session(tmp_path):
    with Session.start(Settings(), Plan.using(TWIN), directory=tmp_path) as session:
        yield session


def test_a_table_is_read_back_as_it_was_written(session):
    """Live and recorded tables are one: numbers, booleans, text and missing values."""
    table_id = session.tabulate("training-steps", STEPS)
    session.finish()
    recorded = RecordedRun(session.path).table(table_id)
    assert recorded.tobytes() == session.table(table_id).tobytes()
    assert (list(recorded["router"]), list(recorded["valid"]), recorded["t_ns"].dtype) == (["top-k", "gibbs"], [True, False], np.int64)


def test_equal_names_are_numbered(session):
    """Nothing already measured is overwritten."""
    assert [session.tabulate("steps", STEPS), session.tabulate("steps", STEPS), session.tabulate("other-steps", STEPS)] == [
        "steps-1",
        "steps-2",
        "other-steps-1",
    ]


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("Steps", STEPS, "lower-case"),
        ("../steps", STEPS, "lower-case"),
        ("steps", {}, "no columns"),
        ("steps", {"a": [1, 2], "b": [1]}, r"column 'b' of table 'steps' has the shape \(1,\)"),
        ("steps", {"a": 3}, r"shape \(\)"),
        ("steps", {"a": [object()]}, "numbers, booleans and text"),
    ],
)
def test_what_is_no_table_is_refused(session, name, columns, message):
    """The message names the column."""
    with pytest.raises(ValueError, match=message):
        session.tabulate(name, columns)


def test_verify_counts_tables_and_finds_a_broken_one(session):
    """A table that cannot be read is a finding, not a crash."""
    table_id = session.tabulate("steps", STEPS)
    session.finish()
    found = verify_run(session.path)
    assert (found.checked["tables"], found.findings) == (1, ())
    (session.path / f"table-{table_id}.npy").write_bytes(b"torn")
    assert any("table-steps-1.npy" in finding.problem for finding in verify_run(session.path).findings)


def test_a_missing_table_is_named(session):
    """A recipe that needs it says which file is gone."""
    with pytest.raises(RecordError, match=r"table-steps-1\.npy"):
        RecordedRun(session.path).table("steps-1")
