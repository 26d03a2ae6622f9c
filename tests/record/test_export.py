"""Export: other tools' schemas, filled from the trace; what is missing stays empty."""

from __future__ import annotations

import csv
import json
import math
import re
import sys

import numpy as np
import pytest

from pytest_physics.config import load_settings
from pytest_physics.devices.base import DeviceSpec
from pytest_physics.errors import ConfigurationError, RecordError
from pytest_physics.record.data import RecordedRun
from pytest_physics.record.export import TR122_COLUMNS, export_run
from pytest_physics.session import Plan, Session
from pytest_physics.workloads.twin import TwinKernel


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """TR122's files of the finished run."""
    out = tmp_path_factory.mktemp("tr122")
    return {path.name: path for path in export_run(finished, out)}


def test_the_files_are_those_of_tr122(exported):
    """Per instrument with power: a trace and its events; and one file about the run."""
    assert sorted(exported) == ["generation_events-gpu.jsonl", "power_trace-gpu.csv", "run_metadata.json"]


def test_every_row_of_the_trace_is_there_with_its_values(finished, exported):
    """Column by column, in TR122's units: MHz, per cent and MiB."""
    trace = RecordedRun(finished).trace("gpu")
    with exported["power_trace-gpu.csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["t_ns", *TR122_COLUMNS, "read_ok", "dt_s"]
    assert len(rows) == len(trace)
    assert [int(row["t_ns"]) for row in rows] == trace.t_ns.tolist()
    for name, channel, factor in [
        ("power_w", "power_w", 1.0), ("temp_c", "temperature_c", 1.0), ("sm_clock_mhz", "sm_clock_hz", 1e-6),
        ("mem_clock_mhz", "memory_clock_hz", 1e-6), ("util_gpu", "utilisation_ratio", 100.0), ("vram_used_mb", "memory_used_bytes", 2**-20),
    ]:  # fmt: skip
        np.testing.assert_allclose([float(row[name]) for row in rows], trace.values(channel) * factor, rtol=1e-12)
    assert rows[0]["dt_s"] == ""
    assert float(rows[1]["dt_s"]) == pytest.approx(trace.period_ns / 1e9)
    assert {row["read_ok"] for row in rows} == {"True"}


def test_each_window_is_an_event(finished, exported):
    """Times, tokens by phase, and the energies that the run's own estimators give."""
    run = RecordedRun(finished)
    events = [json.loads(line) for line in exported["generation_events-gpu.jsonl"].read_text().splitlines()]
    assert [event["event_id"] for event in events] == [window.id for window in run.reader.windows]
    for event, window in zip(events, run.reader.windows, strict=True):
        assert (event["t_start_ns"], event["t_end_ns"], event["phase"]) == (window.t0_ns, window.t1_ns, window.name)
        tokens = window.work.get("tokens")
        assert event["output_tokens"] == (tokens if window.name == "decode" else None)
        assert event["input_tokens"] == (tokens if window.name == "prefill" else None)
        if tokens:
            assert event["tokens_per_second"] == pytest.approx(tokens / (window.t1_ns - window.t0_ns) * 1e9)
        if window.name == "cut short":  # the run ended before the sensor had spoken
            assert event["energy_quality"] == "no_data"
            continue
        assert event["energy_quality"] == "good"
        assert 0 < event["operational_joules"] < event["energy_joules"]


def test_the_metadata_name_run_device_and_checks(finished, exported):
    """Everything a reader of the CSV needs to trust it or not."""
    metadata = json.loads(exported["run_metadata.json"].read_text())
    record = RecordedRun(finished).reader.run
    assert metadata["run_id"] == record.run_id
    assert metadata["hardware"]["gpu"]["name"] == "rtx4080-laptop"
    assert metadata["config"] == record.config
    assert {check["claim"]: check["verdict"] for check in metadata["checks"]}["refuted"] == "REFUTED"
    assert [baseline["id"] for baseline in metadata["baseline"]] == ["gpu-b1", "gpu-b2"]


def test_missing_values_are_empty_and_never_zero(tmp_path):
    """A failed read is an empty cell and read_ok False; an absent channel is an empty column; an unmeasurable energy is null."""
    faults = [{"kind": "read_error", "value": 0.5}, {"kind": "channel_absent", "value": "temperature_c"}]
    plan = Plan.using({"gpu": DeviceSpec(kind="twin", parameters={"preset": "rtx4080-laptop", "faults": faults})})
    with Session.start(load_settings(tmp_path), plan, directory=tmp_path) as session:
        gpu = session.rig.gpu
        gpu.sleep(5.0)
        with gpu.window("decode"):
            TwinKernel(gpu.device).run_for(0.01)
        gpu.sleep(5.0)
    files = {path.name: path for path in export_run(session.path, tmp_path / "out")}
    power = RecordedRun(session.path).trace("gpu").values("power_w")
    with files["power_trace-gpu.csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["power_w"] == "" for row in rows] == np.isnan(power).tolist()
    assert [row["read_ok"] == "False" for row in rows] == np.isnan(power).tolist()
    assert {row["temp_c"] for row in rows} == {""}
    (event,) = [json.loads(line) for line in files["generation_events-gpu.jsonl"].read_text().splitlines()]
    assert event["energy_quality"] in {"no_data", "gappy"}
    assert event["operational_joules"] is None
    assert event["output_tokens"] is None
    assert event["tokens_per_second"] is None
    assert "NaN" not in files["generation_events-gpu.jsonl"].read_text()


def test_parquet_holds_the_trace_and_the_records(finished, tmp_path):
    """Exactly the trace's numbers, missing ones as missing, and one row per window, result and claim."""
    parquet = pytest.importorskip("pyarrow.parquet")
    files = {path.name: path for path in export_run(finished, tmp_path, formats=("parquet",))}
    assert sorted(files) == ["claims.parquet", "results.parquet", "trace-gpu.parquet", "windows.parquet"]
    run = RecordedRun(finished)
    table = parquet.read_table(files["trace-gpu.parquet"])
    trace = run.trace("gpu")
    for name in ("tick", "t_before_ns", "t_after_ns", *trace.channels):
        np.testing.assert_array_equal(table[name].to_numpy(), trace.rows[name])
    assert table["power_w_error"].to_numpy().sum() == 0
    assert parquet.read_table(files["windows.parquet"])["id"].to_pylist() == [window.id for window in run.reader.windows]
    claims = parquet.read_table(files["claims.parquet"])
    assert claims["verdict"].to_pylist() == [claim.verdict.value for claim in run.reader.claims]
    assert json.loads(claims["estimate"].to_pylist()[0])["value"] == run.reader.claims[0].estimate.value


def test_parquet_without_pyarrow_says_what_to_install(finished, tmp_path, monkeypatch):
    """It is an optional extra."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=re.escape("Parquet needs pyarrow: pip install 'pytest-physics[parquet]'.")):
        export_run(finished, tmp_path, formats=("parquet",))


@pytest.mark.parametrize(
    ("formats", "message"),
    [(("csv",), "unknown export format 'csv'"), (("parket",), "did you mean 'parquet'?"), ((), "formats are tr122, parquet")],
)
def test_unknown_formats_are_refused(finished, tmp_path, formats, message):
    """Before anything is written."""
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        export_run(finished, tmp_path / "out", formats=formats)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(finished, tmp_path):
    """Where, why, and what to do."""
    (tmp_path / "out").write_text("")
    with pytest.raises(RecordError, match=r"cannot write into .*out: .*; choose another directory with --output."):
        export_run(finished, tmp_path / "out")


def test_a_run_without_power_exports_what_it_has(tmp_path):
    """The CPU here has no power: no trace file pretends otherwise."""
    with Session.start(load_settings(tmp_path, overrides={"device": "cpu"}), directory=tmp_path) as session:
        session.rig.cpu.sleep(0.2)
    files = sorted(path.name for path in export_run(session.path, tmp_path / "out"))
    expected = {"run_metadata.json"} if not session.rig.cpu.has("power_w") else set(files)
    assert set(files) == expected
    assert math.isfinite(json.loads((tmp_path / "out" / "run_metadata.json").read_text())["poller"]["cpu"]["period_s"])
